"""How much memory each kind of process takes when the rows grow: the driver, the workers of a training, and Ray's tasks."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from bench.report import Comparison, Options, Section, note

COLUMNS = 12
SIZES = (1_000_000, 3_000_000)
FULL = 10_000_000
PARTS = {
    "data": ("fit", "split and fit", "write predictions", "evaluate"),
    "training": (
        "train xgboost",
        "train xgboost with a test set",
        "train lightgbm with a test set",
        "train torch with a test set",
        "cross-validate xgboost",
    ),
    "search": ("tune", "tune and what follows"),
}
"""The steps, in parts of some minutes each (`--only`)."""

KINDS = ("driver", "worker", "trial", "task")

MOST_MB = 10.0
"""How much a million rows may add to the driver's peak."""


def run(options: Options) -> list[Section]:
    """Run every step on each size, each in a fresh process with a Ray of its own."""
    sizes = [options.small(size) for size in (*SIZES, *([FULL] if options.full else []))]
    parts = options.only or tuple(PARTS)
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            _write(Path(folder), size)
        return [_section(part, folder, sizes) for part in PARTS if part in parts]


def _section(part: str, folder: str, sizes: Sequence[int]) -> Section:
    section = _empty(part, sizes)
    for step in PARTS[part]:
        peaks = {size: _peaks(step, f"{folder}/{size}") for size in sizes}
        note(f"scale: {step}: {peaks}")
        _add(section, step, peaks)
    return section


def _empty(part: str, sizes: Sequence[int]) -> Section:
    return Section(
        f"Memory at scale: {part}",
        f"Peak of the private memory (RssAnon, shared memory of the object store not counted) by kind of process, {COLUMNS} columns of floats in "
        f"Parquet, Ray with 2 CPUs, 2 workers. The first number is that of more rows, the second that of {sizes[0]:,}: a ratio of 1 is no growth.",
        packages=("ray", "xgboost-cpu", "lightgbm", "torch"),
    )


def _add(section: Section, step: str, peaks: Mapping[int, Mapping[str, float]]) -> None:
    """Add the lines of a step: its peaks by the number of rows, the smallest first."""
    first, *more = peaks
    for size in more:
        for kind in KINDS:
            if kind in peaks[first] and kind in peaks[size]:
                what = f"{step}: {kind}, {size:,} rows"
                section.add(Comparison(what, [peaks[size][kind]], f"{first:,} rows", [peaks[first][kind]], unit="MB"))
        grown = max(0.0, peaks[size]["driver"] - peaks[first]["driver"]) / (size - first) * 1e6
        what = f"{step}: driver, more for each million rows"
        section.add(Comparison(what, [grown], "at most", [MOST_MB], goal=1.0, unit="MB"))


def _write(folder: Path, size: int) -> None:
    """Write a directory of ten files."""
    random = np.random.default_rng(0)
    (folder / str(size)).mkdir()
    for part in range(10):
        values = random.normal(size=(size // 10, COLUMNS))
        table = pl.DataFrame(values, schema=[f"x{i}" for i in range(COLUMNS)]).with_columns(
            y=pl.col("x0") - pl.col("x1")
        )
        table.write_parquet(folder / str(size) / f"{part}.parquet")


def _peaks(step: str, path: str) -> dict[str, float]:
    note(f"scale: {step} of {Path(path).name} rows")
    made = subprocess.run(
        [sys.executable, "-m", "bench.scale_step", step, path], capture_output=True, text=True, check=True, timeout=1200
    )
    return dict(json.loads(made.stdout.strip().splitlines()[-1]))

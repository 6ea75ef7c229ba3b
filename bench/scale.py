"""How much memory each kind of process takes when the rows grow: the driver, the workers of a training, and Ray's tasks."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from bench.report import Comparison, Options, Section, note

COLUMNS = 12


class Part(NamedTuple):
    """Some steps that take minutes (`--only`), and the numbers of rows that each runs on; the last one only with `--full`."""

    steps: Sequence[str]
    sizes: Sequence[int] = (1_000_000, 3_000_000, 10_000_000)


PARTS = {
    "data": Part(("fit", "split and fit", "write predictions", "evaluate")),
    "training": Part(
        (
            "train xgboost",
            "train xgboost with a test set",
            "train lightgbm with a test set",
            "train torch",
            "train torch with a test set",
            "cross-validate xgboost",
        )
    ),
    "search": Part(("tune", "tune and what follows")),
    "search of 30 fits": Part(("tune 10 trials × 3 folds",), (1_000_000, 5_000_000, 20_000_000)),
}

KINDS = ("driver", "worker", "trial", "task", "all processes together")

MOST_MB = 10.0
"""How much a million rows may add to the driver's peak."""

DRIVER_MB = 1_000.0
"""The driver's peak in a search, at any number of rows."""

TABLE_ROWS, TABLE_ROUNDS = 5_000_000, 10

PIECE_ROWS = 250_000
"""Rows of a row group of the files."""

MOST_S = 7_200
"""No step takes longer, or there is something wrong with it."""


def run(options: Options) -> list[Section]:
    """Run every step on each size, each in a fresh process with a Ray of its own."""
    parts = options.only or (*PARTS, "table and Dataset")
    with tempfile.TemporaryDirectory() as folder:
        made = [_section(part, Path(folder), options) for part in PARTS if part in parts]
        if "table and Dataset" in parts:
            made.append(_against_a_table(Path(folder), options))
        return made


def _section(part: str, folder: Path, options: Options) -> Section:
    steps, (*sizes, largest) = PARTS[part]
    sizes = [options.small(size) for size in (*sizes, *([largest] if options.full else []))]
    section = _empty(part, sizes)
    for step in steps:
        peaks = {size: _peaks(step, _written(folder, size)) for size in sizes}
        note(f"scale: {step}: {peaks}")
        _add(section, step, peaks)
    return section


def _against_a_table(folder: Path, options: Options) -> Section:
    """The time of the same search over a Dataset and over the same rows in this process."""
    rows = options.small(TABLE_ROWS)
    path = _written(folder, rows)
    times = _step("table and Dataset", path, str(TABLE_ROUNDS), str(options.repeats))
    section = Section(
        "Search over a Dataset and over a table",
        f"10 trials × 3 folds, {rows:,} rows × {COLUMNS} columns of floats, impute and scale, XGBoost with {TABLE_ROUNDS} rounds and one thread "
        "a trial, 2 trials at a time. The rows are read from Parquet on both sides; the Ray of 2 CPUs runs already.",
        packages=("ray", "xgboost-cpu"),
    )
    section.add(
        Comparison("tune over a Dataset", times["dataset"], "the same table in process", times["table"], goal=1.3)
    )
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
        section.add(Comparison(f"{step}: time", [peaks[size]["seconds"]], f"{first:,} rows", [peaks[first]["seconds"]]))
    if step.startswith("tune"):
        largest = max(peaks)
        what = f"{step}: driver, {largest:,} rows"
        section.add(Comparison(what, [peaks[largest]["driver"]], "at most", [DRIVER_MB], goal=1.0, unit="MB"))


def _written(folder: Path, size: int) -> str:
    """Write a directory of ten files, each of which is generated in pieces, unless it is there. Return its path."""
    place = folder / str(size)
    if place.exists():
        return str(place)
    place.mkdir()
    random = np.random.default_rng(0)
    for part in range(10):
        with pq.ParquetWriter(place / f"{part}.parquet", _piece(random, 1).to_arrow().schema) as file:
            for start in range(0, size // 10, PIECE_ROWS):
                file.write_table(_piece(random, min(PIECE_ROWS, size // 10 - start)).to_arrow())
    return str(place)


def _piece(random: np.random.Generator, n_rows: int) -> pl.DataFrame:
    table = pl.DataFrame(random.normal(size=(n_rows, COLUMNS)), schema=[f"x{i}" for i in range(COLUMNS)])
    return table.with_columns(y=pl.col("x0") - pl.col("x1"))


def _peaks(step: str, path: str) -> dict[str, float]:
    note(f"scale: {step} of {Path(path).name} rows")
    return _step(step, path)


def _step(*arguments: str) -> dict[str, Any]:
    program = [sys.executable, "-m", "bench.scale_step", *arguments]
    made = subprocess.run(program, capture_output=True, text=True, check=True, timeout=MOST_S)
    return dict(json.loads(made.stdout.strip().splitlines()[-1]))

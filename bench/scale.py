"""How much memory each kind of process takes when the rows grow: the driver, the workers of a training, and Ray's tasks."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

from bench.report import Comparison, Options, Section, note

COLUMNS = 12
SIZES = (1_000_000, 3_000_000)
STEPS = (
    "fit",
    "split and fit",
    "train xgboost",
    "train xgboost with a test set",
    "train lightgbm",
    "train torch",
    "tune",
    "write predictions",
)
KINDS = ("driver", "worker", "trial", "task")


def run(options: Options) -> Section:
    """Run every step on both sizes, each in a fresh process with a Ray of its own."""
    sizes = [options.small(size) for size in SIZES]
    section = Section(
        "Memory at scale",
        f"Peak of the private memory (RssAnon, shared memory of the object store not counted) by kind of process, {COLUMNS} columns of floats in "
        f"Parquet, Ray with 2 CPUs, 2 workers. The first number is that of {sizes[1]:,} rows, the second that of {sizes[0]:,}: "
        "a ratio of 1 is no growth, 3 is linear.",
        packages=("ray", "xgboost-cpu", "lightgbm", "torch"),
    )
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            _write(Path(folder), size)
        for step in STEPS:
            small, large = (_peaks(step, f"{folder}/{size}") for size in sizes)
            for kind in KINDS:
                if kind in small and kind in large:
                    section.add(
                        Comparison(
                            f"{step}: {kind}", [large[kind]], f"{sizes[0]:,} rows", [small[kind]], unit="MB",
                            goal=1.3 if kind == "driver" else None,
                        )
                    )  # fmt: skip
    return section


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

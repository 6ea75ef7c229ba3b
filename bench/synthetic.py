"""The table that preprocessing is measured on: 8 columns of floats, 4 of them with 5 % missing, and 4 of strings."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

FLOATS = [f"f{i}" for i in range(8)]
WITH_MISSING = FLOATS[:4]
CATEGORIES = {"s10": 10, "s100": 100, "s1000": 1_000, "s100000": 100_000}
STRINGS = list(CATEGORIES)
ROWS_PER_FILE = 625_000


def table(rows: int, seed: int) -> pl.DataFrame:
    """That many rows, the same for the same seed."""
    random = np.random.default_rng(seed)
    columns = {name: random.normal(i, 1.0 + i, rows) for i, name in enumerate(FLOATS)}
    words = {name: np.char.add("v", np.arange(n).astype(str)) for name, n in CATEGORIES.items()}
    codes = {name: pl.Series(random.integers(0, n, rows)) for name, n in CATEGORIES.items()}
    missing = [pl.when(pl.Series(random.random(rows) >= 0.05)).then(pl.col(name)).alias(name) for name in WITH_MISSING]
    strings = [pl.Series(words[name]).gather(codes[name]).alias(name) for name in STRINGS]
    return pl.DataFrame(columns).with_columns(*missing, *strings)


def parquet(rows: int) -> Path:
    """A folder of Parquet files with that many rows, made once and kept for the next time."""
    cache = Path(os.environ.get("RAYLINE_BENCH_DIR", Path(tempfile.gettempdir()) / "rayline-bench"))
    folder = cache / f"table-{rows}"
    if not folder.exists():
        unfinished = cache / f"table-{rows}.{os.getpid()}"
        unfinished.mkdir(parents=True)
        for i, start in enumerate(range(0, rows, ROWS_PER_FILE)):
            table(min(ROWS_PER_FILE, rows - start), seed=i).write_parquet(unfinished / f"{i:04}.parquet")
        try:
            unfinished.rename(folder)
        except OSError:  # another run was faster
            shutil.rmtree(unfinished)
    return folder

"""Small tables, and one thread: the tests share their machine."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import rayline as rl
from rayline.inference.pipeline import InferencePipeline


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("RAYLINE_QUIET", "1")


@pytest.fixture(scope="session")
def table() -> pl.DataFrame:
    """600 rows: numbers (some missing), a category that matters, labels of several types."""
    random = np.random.default_rng(0)
    n = 600
    x, z = random.normal(size=n), random.normal(size=n)
    city = random.choice(["Oslo", "Rome", "Łódź"], n)
    score = x + (city == "Rome") + random.normal(size=n) * 0.3
    return pl.DataFrame(
        {
            "x": x,
            "z": z,
            "city": city,
            "late": np.where(score > 0.3, "yes", "no"),
            "is_late": score > 0.3,
            "size": np.digitize(score, [-0.5, 0.8]),
            "delay": score * 10,
            "weight": random.uniform(0.5, 2, n),
        }
    ).with_columns(z=pl.when(pl.col("z") > 1).then(None).otherwise("z"))


def saved_and_loaded(pipeline: InferencePipeline) -> InferencePipeline:
    """The pipeline after a trip through a file."""
    with tempfile.TemporaryDirectory() as folder:
        pipeline.save(Path(folder) / "x.rayline")
        return rl.load(Path(folder) / "x.rayline", **pipeline.model.adapter.load_options(pipeline.model.native))

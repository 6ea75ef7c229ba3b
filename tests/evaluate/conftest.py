"""Pipelines and rows with labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression

from rayline import train
from rayline.inference.pipeline import InferencePipeline
from rayline.stages import StandardScaler


def rows(n: int = 1_200, seed: int = 0) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    x, z = random.normal(size=(2, n))
    late = random.random(n) < 1 / (1 + np.exp(-2 * x + z))
    kind = np.where(x + random.normal(size=n) > 0.7, "bus", np.where(z > 0, "train", "car"))
    return pl.DataFrame(
        {
            "x": x, "z": z, "region": random.choice(["north", "south", "east"], n, p=[0.5, 0.3, 0.2]),
            "late": np.where(late, "yes", "no"), "kind": kind, "delay": 30 + 5 * x - z + random.normal(size=n),
            "w": random.uniform(0.2, 2, n),
        }
    )  # fmt: skip


def pipeline_of(target: str, trainer: train.SklearnTrainer, **options: Any) -> InferencePipeline:
    table = rows(600, seed=9).select("x", "z", target)
    stages = train.Preprocessor([("scale", StandardScaler())])
    return train.fit(trainer, stages, table, target_columns=[target], verbose=False, **options).inference_pipeline


@pytest.fixture(scope="session")
def table() -> pl.DataFrame:
    return rows()


@pytest.fixture(scope="session")
def binary() -> InferencePipeline:
    return pipeline_of("late", train.SklearnTrainer(LogisticRegression()))


@pytest.fixture(scope="session")
def multiclass() -> InferencePipeline:
    return pipeline_of("kind", train.SklearnTrainer(LogisticRegression()))


@pytest.fixture(scope="session")
def regression() -> InferencePipeline:
    return pipeline_of("delay", train.SklearnTrainer(LinearRegression()))

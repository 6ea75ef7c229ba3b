"""Pipelines of least squares for the tests of postprocessing: exact, instant and badly calibrated."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from sklearn.naive_bayes import GaussianNB

import rayline as rl
from rayline import train
from tests import toy

_ = toy.LeastSquares  # registers the framework

LABELS: dict[str, list[Any]] = {"strings": ["no", "yes"], "bools": [False, True], "ints": [3, 7]}


def table(n: int = 600, seed: int = 0, kind: str = "strings") -> pl.DataFrame:
    random = np.random.default_rng(seed)
    x, noise = random.normal(size=n), random.normal(size=n)
    late = (x + noise > 0.5).astype(int)
    group = random.integers(0, 3, n)
    return pl.DataFrame(
        {
            "x": x,
            "region": [[None, "north", "south"][g] for g in group],
            "late": [LABELS[kind][i] for i in late],
            "early": [LABELS["strings"][i] for i in 1 - late],
            "price": 10 * x + 5 * noise * (1 + group),
            "weight": random.integers(1, 4, n),
        }
    )


def fitted(*targets: str, kind: str = "strings", **options: Any) -> rl.InferencePipeline:
    rows = table(kind=kind).select("x", "region", *targets)
    preprocessor = train.Preprocessor([("drop", rl.stages.DropColumns(["region"]))], **options)
    trainer = train.SklearnTrainer(GaussianNB()) if kind == "ints" else train.Trainer("least-squares")
    return train.fit(trainer, preprocessor, rows, None, list(targets), verbose=False).inference_pipeline


def multiclass(n: int = 600, seed: int = 0) -> tuple[rl.InferencePipeline, pl.DataFrame]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 2))
    kind = np.select([x[:, 0] + random.normal(size=n) > 1, x[:, 1] + random.normal(size=n) > 0], ["a", "b"], "c")
    rows = pl.DataFrame({"x": x[:, 0], "again": x[:, 0] + 1e-3 * x[:, 1], "y": x[:, 1], "kind": kind})
    return train.fit(
        train.SklearnTrainer(GaussianNB()), None, rows, None, ["kind"], verbose=False
    ).inference_pipeline, rows

"""A small table with a signal, gaps and categories; and frameworks that fail in the ways in which frameworks fail."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from rayline import Preprocessor, register_framework
from rayline.stages import OneHotEncoder, SimpleImputer, StandardScaler
from rayline.tune.evaluate import Evaluation, Evaluator
from tests.toy import LeastSquares, Weights


@register_framework
class Faulty(LeastSquares):
    """Least squares that raises, or kills its process once or always, when it is told to."""

    name = "faulty"

    def train(self, job: Any, *, ridge: float = 1e-6, fail: bool = False, die: str = "", doomed: bool = False) -> Weights:
        if fail:
            raise ZeroDivisionError("the loss became infinite")
        if doomed:
            os.kill(os.getpid(), signal.SIGKILL)
        if die and not Path(die).exists():
            Path(die).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().train(job, ridge=ridge)


class Configured(Evaluator):
    """An evaluator that is asked by configuration."""

    def __call__(self, config: Any, fold: int) -> Evaluation:  # type: ignore[override]
        return super().__call__(self.problem.candidate(config), fold)


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("RAYLINE_QUIET", "1")


@pytest.fixture(scope="session")
def table() -> pl.DataFrame:
    random = np.random.default_rng(0)
    n = 300
    x, z = random.normal(size=n), random.normal(size=n)
    city = random.choice(["Oslo", "Rome", "Łódź"], n)
    score = x + (city == "Rome") + random.normal(size=n) * 0.5
    return pl.DataFrame(
        {
            "x": np.where(random.random(n) < 0.1, np.nan, x),
            "z": z,
            "city": city,
            "fold": random.integers(0, 4, n),
            "weight": random.uniform(0.5, 2.0, n),
            "late": np.where(score > 0.3, "yes", "no"),
        }
    )


@pytest.fixture
def preprocessor() -> Preprocessor:
    return Preprocessor(
        [
            ("impute", SimpleImputer(columns=["x"])),
            ("scale", StandardScaler(columns=["x", "z"])),
            ("onehot", OneHotEncoder(columns=["city"])),
        ]
    )

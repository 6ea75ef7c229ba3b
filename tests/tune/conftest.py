"""A small table with a signal, gaps and categories; and frameworks that fail in the ways in which frameworks fail."""

from __future__ import annotations

import math
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from rayline import Preprocessor, register_framework
from rayline.stages import OneHotEncoder, SimpleImputer, StandardScaler
from rayline.tune.evaluate import FoldEvaluation, FoldEvaluator
from rayline.tune.row_groups import CELL
from tests.toy import LeastSquares, Weights


@register_framework
class Faulty(LeastSquares):
    """Least squares that raises, or kills its process once or always, when it is told to."""

    name = "faulty"
    thread_safe_training = True

    def train(
        self, context: Any, *, ridge: float = 1e-6, fail: bool = False, die: str = "", doomed: bool = False
    ) -> Weights:
        if fail:
            raise ZeroDivisionError("the loss became infinite")
        if doomed:
            os.kill(os.getpid(), signal.SIGKILL)
        if die and not Path(die).exists():
            Path(die).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().train(context, ridge=ridge)


@register_framework
class Descent(LeastSquares):
    """Least squares step by step, which goes on from a checkpoint with another rate; it raises, or dies once, on demand."""

    name = "descent"
    thread_safe_training = True
    iterations = "steps"

    def train(  # type: ignore[override]
        self, context: Any, *, steps: int = 12, rate: float = 0.1, die: str = "", fail_above: float = math.inf
    ) -> Weights:
        x = np.nan_to_num(context.train.features.matrix(np.float64))
        y = context.train.target.astype(float)
        model, first = Weights(w=[0.0] * x.shape[1], b=float(y.mean()), steps=0), 0
        if context.resume is not None:
            model = self.load(context.resume)
            first = model["steps"]
        for step in range(first, steps):
            if rate > fail_above and step > 3:
                raise ZeroDivisionError("the loss became infinite")
            if die and step == 5 and not Path(die).exists():
                Path(die).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            off = x @ np.array(model["w"]) + model["b"] - y
            model |= {"w": (np.array(model["w"]) - rate * (x.T @ off) / len(y)).tolist(), "steps": step + 1}
            stop = context.report(step, {"train-loss": float((off**2).mean())})
            context.checkpoint(step, partial(self.save, model))
            if stop:
                break
        return model

    def resumable_iterations(self, *args: Any, **kwargs: Any) -> int:
        return int(self.argument("steps", args, kwargs))


class Configured(FoldEvaluator):
    """An evaluator that is asked by configuration."""

    def __call__(self, config: Any, fold: int) -> FoldEvaluation:  # type: ignore[override]
        return super().__call__(self.problem.candidate(config), fold)


def held_places(made: Any, fold: int) -> list[int]:
    """The positions of the rows that a fold holds out."""
    split, _, cells = made.problem.folds[fold]
    rows = pl.concat(made.groups.frames())
    return np.flatnonzero(rows[f"{CELL}{split}"].is_in(list(cells.test)).to_numpy()).tolist()  # type: ignore[no-any-return]


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

"""A framework of the tests' own: least squares in NumPy. It shows the contract, and it is exact and instant."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rayline import Framework, Preprocessor, register_framework
from rayline.core.features import Features
from rayline.core.framework import EnvironmentSpec, ModelInfo, TrainContext
from rayline.core.target import Target, Task
from rayline.inference.model import Model
from rayline.inference.pipeline import InferencePipeline
from rayline.stages import OneHotEncoder, SimpleImputer, StandardScaler


class Weights(dict[str, Any]):
    """The native model: plain numbers."""


@register_framework
class LeastSquares(Framework):
    """Linear scores by least squares."""

    name = "least-squares"

    def train(self, context: TrainContext, *, ridge: float = 1e-6) -> Weights:
        x = np.nan_to_num(context.train.features.matrix(np.float64))
        y = context.train.target.astype(float)
        w = np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ (y - y.mean()))
        return Weights(w=w.tolist(), b=float(y.mean()))

    def predict(self, model: Weights, features: Features) -> Any:
        # Row by row: the same bits for one row and for many.
        x = np.nan_to_num(features.matrix(np.float64))
        return np.array([sum(a * b for a, b in zip(row, model["w"], strict=True)) + model["b"] for row in x.tolist()])

    def save(self, model: Weights, directory: Path) -> None:
        (directory / "weights.json").write_text(json.dumps(model))

    def load(self, directory: Path) -> Weights:
        return Weights(json.loads((directory / "weights.json").read_text()))

    def owns(self, model: Any) -> bool:
        return isinstance(model, Weights)

    def inspect(self, model: Weights) -> ModelInfo:
        return ModelInfo(Task.REGRESSION)


class Policy(dict[str, Any]):
    """The native model of Guesser."""


@register_framework
class Guesser(Framework):
    """Generates its own data: numbers, of which it learns whether they are positive."""

    name = "guesser"
    fit_driver = "environment"
    iterations = "iterations"

    def train(self, context: TrainContext, *, iterations: int = 3, step: float = 0.5) -> Policy:
        random, policy = np.random.default_rng(context.seed), Policy(w=0.0)
        for iteration in range(iterations):
            x = random.normal(size=20)
            policy["w"] += step * float(np.abs(x).mean())
            context.checkpoint(iteration, lambda directory: self.save(policy, directory))
            if context.report(iteration, {"episode_return_mean": policy["w"], "loss": -policy["w"]}):
                break
        return policy

    def environment_spec(self, **options: Any) -> EnvironmentSpec:
        target = Target(("action",), Task.BINARY, (pl.Int64(),), ((0, 1),))
        return EnvironmentSpec(
            pl.Schema({"x": pl.Float64()}), target, pl.DataFrame({"x": [-1.0, 0.5, 2.0]}), "episode_return_mean"
        )

    def predict(self, model: Policy, features: Features) -> Any:
        return np.array([1 / (1 + math.exp(-model["w"] * x)) for (x,) in features.matrix(np.float64).tolist()])

    def save(self, model: Policy, directory: Path) -> None:
        (directory / "policy.json").write_text(json.dumps(model))

    def load(self, directory: Path) -> Policy:
        return Policy(json.loads((directory / "policy.json").read_text()))

    def owns(self, model: Any) -> bool:
        return isinstance(model, Policy)


def table() -> pl.DataFrame:
    """A small table with missing values, categories and odd numbers."""
    n = 40
    return pl.DataFrame(
        {
            "age": [None if i % 7 == 0 else float(i % 11) for i in range(n)],
            "size": [i % 5 for i in range(n)],
            "city": [None if i % 9 == 0 else ["Rome", "Oslo", "Łódź"][i % 3] for i in range(n)],
            "late": ["yes" if i % 3 == 0 else "no" for i in range(n)],
        }
    )


def pipeline() -> InferencePipeline:
    """A fitted pipeline over `table`."""
    data = table()
    preprocessor = Preprocessor([("impute", SimpleImputer()), ("scale", StandardScaler()), ("onehot", OneHotEncoder())])
    preprocessor.fit(data, target_columns=["late"])
    target = Target(("late",), Task.BINARY, (pl.String(),), (("no", "yes"),))
    weights = Weights(w=[0.1 * i for i in range(len(preprocessor.output_schema))], b=0.4)
    examples = data.head(5)
    return InferencePipeline(
        preprocessor, Model("least-squares", weights, preprocessor.output_schema, target, examples=examples)
    )

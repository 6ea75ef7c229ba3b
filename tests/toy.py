"""A framework of the tests' own: least squares in NumPy. It shows the contract, and it is exact and instant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rayline import Framework, Preprocessor, register_framework
from rayline.core.framework import Features, Job, Native
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

    def train(self, job: Job, *, ridge: float = 1e-6) -> Weights:
        x = np.nan_to_num(job.train.features.matrix(np.float64))
        y = job.train.target.astype(float)
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

    def inspect(self, model: Weights) -> Native:
        return Native(Task.REGRESSION)


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

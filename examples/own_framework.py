"""A framework of one's own in one class: it trains, is tuned, saved, loaded and predicts like every other.

The framework is a nearest-centroid classifier in NumPy. `rayline.testing.check_framework` would check it thoroughly.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import ray
from sklearn.datasets import load_iris

import rayline as rl
from rayline import train, tune
from rayline.core.features import Array, Features
from rayline.core.framework import TrainContext
from rayline.stages import StandardScaler


@rl.register_framework
class NearestCentroid(rl.Framework):
    """Probabilities fall with the squared distance from the mean of each class."""

    name = "nearest-centroid"

    def train(self, context: TrainContext, *, shrink: float = 0.0) -> dict[str, Any]:
        x, y = context.train.features.matrix(np.float64), context.train.target
        centroids = np.stack([x[y == code].mean(axis=0) for code in range(len(context.target.classes[0]))])
        return {"centroids": (centroids * (1 - shrink) + x.mean(axis=0) * shrink).tolist()}

    def predict(self, model: dict[str, Any], features: Features) -> Array:
        distances = ((features.matrix(np.float64)[:, None, :] - np.array(model["centroids"])) ** 2).sum(axis=2)
        weights = np.exp(-(distances - distances.min(axis=1, keepdims=True)) / 2)
        return weights / weights.sum(axis=1, keepdims=True)

    def save(self, model: dict[str, Any], directory: Path) -> None:
        (directory / "model.json").write_text(json.dumps(model))

    def load(self, directory: Path) -> dict[str, Any]:
        return json.loads((directory / "model.json").read_text())


def main() -> None:
    iris = load_iris()
    table = pl.DataFrame(iris.data, schema=["sepal_length", "sepal_width", "petal_length", "petal_width"])
    table = table.with_columns(species=pl.Series([str(iris.target_names[code]) for code in iris.target]))

    trainer = train.Trainer("nearest-centroid", shrink=0.1)
    pipeline = train.Preprocessor(stages=[("scale", StandardScaler())])
    analysis = tune.run(
        trainer,
        data_config=dict(train_pipeline=pipeline, train_dataset=table, cv=5, target_columns=["species"]),
        config={"shrink": tune.grid_search([0.0, 0.3, 0.9])},
        metric="accuracy",
        num_samples=1,
    )
    print(analysis)

    inference_pipeline = analysis.best_pipeline.chain(analysis.best_model)
    with tempfile.TemporaryDirectory() as folder:
        inference_pipeline.save(Path(folder) / "iris.rayline")
        print(rl.load(Path(folder) / "iris.rayline").predict(table[::40]))


if __name__ == "__main__":
    try:
        main()
    finally:
        ray.shutdown()

"""A driver that `test_resume` starts, kills, and starts again: `driver.py ADDRESS LOG`; without an address it searches in its process."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import ray

from rayline import register_framework, train, tune
from tests.toy import LeastSquares, Weights


@register_framework
class Logged(LeastSquares):
    """Least squares that take their time, and write down every training."""

    name = "logged"

    def train(self, context: Any, *, ridge: float = 1e-6, log: str = "") -> Weights:
        time.sleep(0.2)
        with Path(log).open("a") as file:
            file.write(f"{ridge}\n")
        return super().train(context, ridge=ridge)


def main(address: str, log: str) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(200, 2))
    table = pl.DataFrame({"x": x[:, 0], "z": x[:, 1], "y": x[:, 0] * 2 + random.normal(size=200)})
    if address:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    analysis = tune.run(
        train.Trainer("logged"),
        {"train_dataset": table, "target_columns": ["y"], "cv": 3},
        {"ridge": tune.loguniform(0.1, 100.0), "log": log},
        num_samples=8,
        name="killed",
        resume=True,
        run_on="ray" if address else "process",
        verbose=False,
    )
    held_out = analysis.oof["prediction"].sum()
    found = [
        analysis.fits["trained"],
        analysis.fits["reused"],
        analysis.best_config["ridge"],
        analysis.best_score,
        held_out,
    ]
    sys.stdout.write(" ".join(map(str, found)))


if __name__ == "__main__":
    main(*sys.argv[1:])

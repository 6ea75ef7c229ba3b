"""Evaluation with intervals and slices: on Ray against a bare scan of the same files, in process against scikit-learn's functions
with a bootstrap loop."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import rayline as rl
from bench import explaining
from bench.report import Comparison, Options, Section, alternate
from rayline import data
from rayline.core.framework import Framework, TrainContext
from rayline.core.target import Target, Task
from rayline.inference.model import Model
from rayline.inference.pipeline import InferencePipeline

METRICS = ["roc_auc", "average_precision", "log_loss", "brier", "accuracy", "f1"]
SLICES = 20
REPLICATES = 200
FILES = 8


class ScoreColumn(Framework):
    """A model that returns a column as it is, so that only the evaluation is measured."""

    name = "bench_score_column"

    def train(self, context: TrainContext) -> str:
        raise NotImplementedError

    def predict(self, model: str, features: Any) -> Any:
        return features.table["score"].to_numpy()

    def save(self, model: str, directory: Path) -> None:
        (directory / "column").write_text(model)

    def load(self, directory: Path) -> str:
        return (directory / "column").read_text()


def run(options: Options) -> Section:
    """All comparisons of this program."""
    rl.register_framework(ScoreColumn)
    n, small = options.small(10_000_000), options.small(1_000_000)
    section = Section(
        "Evaluation",
        f"Scored rows: a float32 score, a 0/1 label and one of {SLICES} regions. {', '.join(METRICS)}; {REPLICATES} bootstrap "
        f"replicates. On Ray: {n:,} rows in {FILES} Parquet files, 2 CPUs, every metric with its interval for all rows and for each region. In "
        f"process: {small:,} rows; scikit-learn's functions are called once and timed, times {REPLICATES + 1} for a loop.",
        packages=["ray", "scikit-learn", "xgboost-cpu", "lightgbm"],
    )
    section.add(*in_process(small, options))
    section.add(*on_ray(n, options))
    section.add(*explaining.comparisons(options))
    return section


def rows(n: int, seed: int) -> pl.DataFrame:
    """Scored rows; the areas of the regions differ."""
    random = np.random.default_rng(seed)
    label, region = random.integers(0, 2, n), random.integers(0, SLICES, n)
    margin = label * (1 + region / SLICES) - 0.75 + random.normal(size=n)
    return pl.DataFrame({"score": (1 / (1 + np.exp(-margin))).astype(np.float32), "label": label, "region": region})


def pipeline() -> InferencePipeline:
    """The pipeline around the score column."""
    target = Target(("label",), Task.BINARY, (pl.Int64(),), ((0, 1),))
    return InferencePipeline(None, Model("bench_score_column", "score", {"score": pl.Float32()}, target))


def in_process(n: int, options: Options) -> list[Comparison]:
    table, evaluated = rows(n, 0), pipeline()

    def ours(replicates: int = REPLICATES) -> Callable[[], object]:
        return lambda: evaluated.evaluate(table, metrics=METRICS, replicates=replicates)

    label, score = table["label"].to_numpy(), table["score"].to_numpy().astype(np.float64)
    random = np.random.default_rng(0)

    def theirs() -> None:
        """One pass of the loop: draw rows, and call every function."""
        import sklearn.metrics as sk

        own = random.integers(0, n, n)
        truth, chance = label[own], score[own]
        for function in (sk.roc_auc_score, sk.average_precision_score, sk.log_loss, sk.brier_score_loss):
            function(truth, chance)
        for function in (sk.accuracy_score, sk.f1_score):
            function(truth, chance > 0.5)

    mine, loop = alternate(ours(), theirs, repeats=options.repeats)
    both, alone = [], []
    for _ in range(options.repeats):  # in turn; processor time, which other programs on the machine do not stretch
        both.append(cpu_seconds(ours()))
        alone.append(cpu_seconds(ours(0)))
    return [
        Comparison(
            f"evaluate in process, {REPLICATES} replicates", mine, f"scikit-learn, {REPLICATES + 1} times",
            [one * (REPLICATES + 1) for one in loop], goal=0.2,
        ),
        Comparison(
            f"evaluate in process, {REPLICATES} replicates, CPU time", both, "the same without replicates", alone, goal=3.0
        ),
    ]  # fmt: skip


def cpu_seconds(work: Callable[[], object]) -> float:
    """How much processor time one call takes."""
    start = time.process_time()
    work()
    return time.process_time() - start


def on_ray(n: int, options: Options) -> list[Comparison]:
    import ray

    started = not ray.is_initialized()
    if started:
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        with tempfile.TemporaryDirectory() as folder:
            for i in range(FILES):
                rows(n // FILES, seed=i).write_parquet(Path(folder) / f"{i}.parquet")
            evaluated = pipeline()

            def scan() -> None:
                """Read every column of every row, and return nothing."""
                counted = data.read_parquet(folder).map_batches(
                    lambda block: {"n": np.array([len(block["score"])])}, batch_size=None
                )
                assert sum(row["n"] for row in counted.take_all()) == n // FILES * FILES

            def ours() -> None:
                found = evaluated.evaluate(
                    data.read_parquet(folder), metrics=METRICS, by=["region"], replicates=REPLICATES
                )
                assert found.slices.height == SLICES * len(METRICS)

            scan()
            ours()
            mine, bare = alternate(ours, scan, repeats=options.repeats)
    finally:
        if started:
            ray.shutdown()
    return [Comparison(f"evaluate on Ray, {SLICES} slices, {REPLICATES} replicates", mine, "bare scan", bare, goal=1.5)]

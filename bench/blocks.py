"""A Dataset in 2,000 small blocks against the same rows in 20: what each step costs for a block."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bench.preprocessing import seconds_of
from bench.report import Comparison, Options, Section, note
from rayline import data, train, tune
from rayline.stages import OneHotEncoder, SimpleImputer, StandardScaler

BLOCKS, FEW = 2_000, 20
ROWS_PER_BLOCK = 100
MOST_S = 0.005
"""Seconds that a block may cost a step."""


def run(options: Options) -> Section:
    """Measure each step on both datasets, the one of few blocks first."""
    many = max(2 * FEW, options.small(BLOCKS))
    runs = options.repeats if options.full else 1
    rows = table(ROWS_PER_BLOCK * many)
    section = Section(
        "Many blocks",
        f"{rows.height:,} rows of 6 floats, a string and a label in the object store, as {many:,} blocks and as {FEW}, on a Ray of 2 CPUs: impute, "
        "scale and one-hot; XGBoost, 5 rounds; a search of 2 trials and 2 folds. Bare scan: a `map_batches` that counts the rows of each block, a task of "
        "Ray Data for each; Rayline gives a task several small blocks. What a block more costs is compared with 5 ms.",
        packages=("ray", "xgboost-cpu"),
    )
    with _ray() as ray:
        few, more = (ray.data.from_arrow(pieces(rows, n)).materialize() for n in (FEW, many))
        for name, step in steps(few).items():
            if options.only and name not in options.only:
                continue
            step(few)  # the first call starts processes and imports
            times = {n: seconds_of(lambda s=step, d=d: s(d), runs) for n, d in ((FEW, few), (many, more))}  # type: ignore[misc]
            note(f"blocks: {name}: {times}")
            a_block = [max(0.0, b - a) / (many - FEW) for a, b in zip(times[FEW], times[many], strict=True)]
            goal = 1.0 if name != "bare scan" else None
            section.add(
                Comparison(f"{name}, {many:,} blocks", times[many], f"{FEW} blocks", times[FEW]),
                Comparison(f"{name}: a block more", a_block, "5 ms", [MOST_S], goal=goal),
            )
    return section


def steps(few: Any) -> dict[str, Callable[[Any], object]]:
    """What is measured, on a Dataset."""

    @functools.cache
    def pipeline() -> Any:
        result = train.fit(_trainer(), train_dataset=few, preprocessor=stages(), target_columns=["late"])
        return result.inference_pipeline

    return {
        "bare scan": count,
        "fit": lambda rows: stages().fit(rows, target_columns=["late"]),
        "transform": lambda rows: count(pipeline().preprocessor.transform(rows)),
        "split": lambda rows: [count(side) for side in data.train_test_split(rows)],
        "predict": lambda rows: count(pipeline().predict(rows)),
        "write predictions": lambda rows: write(pipeline(), rows),
        "evaluate": lambda rows: pipeline().evaluate(rows),
        "train": lambda rows: train.fit(_trainer(), train_dataset=rows, preprocessor=stages(), target_columns=["late"]),
        "train on 2 workers": lambda rows: train.fit(
            _trainer(num_workers=2), train_dataset=rows, preprocessor=stages(), target_columns=["late"]
        ),
        "search": lambda rows: tune.run(
            _trainer(), train_dataset=rows, preprocessor=stages(), target_columns=["late"], cv=2, num_samples=2,
            config={"max_depth": tune.randint(2, 6)}, metric="roc_auc", seed=0, verbose=False,
        ),
    }  # fmt: skip


def stages() -> train.Preprocessor:
    return train.Preprocessor(
        [("impute", SimpleImputer()), ("scale", StandardScaler()), ("onehot", OneHotEncoder(["s"]))]
    )


def write(pipeline: Any, rows: Any) -> int:
    """Return the number of files."""
    with tempfile.TemporaryDirectory() as directory:
        pipeline.write_predictions(rows, f"{directory}/predictions", rows_per_file=20_000)
        return len([*Path(directory).rglob("*.parquet")])


def _trainer(**options: Any) -> train.XGBoostTrainer:
    return train.XGBoostTrainer({"objective": "binary:logistic"}, num_boost_round=5, **options)


def table(n_rows: int) -> pl.DataFrame:
    random = np.random.default_rng(0)
    rows = pl.DataFrame(random.normal(size=(n_rows, 6)), schema=[f"x{i}" for i in range(6)])
    return rows.with_columns(s=pl.Series(random.choice(["a", "b", "c"], n_rows)), late=pl.col("x0") + pl.col("x1") > 0)


def pieces(rows: pl.DataFrame, n: int) -> list[Any]:
    """The rows in so many Arrow tables."""
    size = -(-rows.height // n)
    return [rows[start : start + size].to_arrow() for start in range(0, rows.height, size)]


def count(dataset: Any) -> int:
    """One bare scan, in which each block answers with its number of rows."""
    counts = dataset.map_batches(lambda batch: {"n": [batch.num_rows]}, batch_format="pyarrow", batch_size=None)
    return sum(row["n"] for row in counts.take_all())


@contextlib.contextmanager
def _ray() -> Iterator[Any]:
    import ray

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        yield ray
    finally:
        ray.shutdown()

"""Training XGBoost against the library called directly, and on two workers against Ray's own trainer."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import xgboost

from bench.report import Comparison, Options, Section, alternate, seconds
from bench.synthetic import FLOATS, table
from rayline import data, train

PARAMS = {"objective": "binary:logistic", "eval_metric": "logloss", "max_depth": 6, "eta": 0.1}
ROUNDS = 200
ROUNDS_ON_RAY = 50


def run(options: Options) -> Section:
    """All comparisons of this program."""
    n = options.small(500_000)
    rounds, on_ray = (ROUNDS, ROUNDS_ON_RAY) if n == 500_000 else (10, 5)
    section = Section(
        "Training",
        f"XGBoost (hist, depth 6) on {n:,} rows of 8 floats, 4 of them with 5 % missing, and a binary label; {rounds} rounds in process, "
        f"{on_ray} on 2 workers, each with the log loss of the training rows after every round. Times hold everything from the table "
        "(on Ray: from the Parquet files) to the trained Booster.",
        packages=["xgboost-cpu", "ray"],
    )
    rows = labelled(n)
    section.add(*in_process(rows, rounds, options), workers(rows, on_ray, options))
    return section


def labelled(n: int) -> pl.DataFrame:
    """Rows with a label that some of the columns tell something about."""
    rows = table(n, seed=0).select(FLOATS)
    noise = pl.Series(np.random.default_rng(1).normal(size=n))
    return rows.with_columns(y=(pl.col("f4") + pl.col("f5") * pl.col("f6") / 8 + 8 * noise > 13).cast(pl.Int8))


def in_process(rows: pl.DataFrame, rounds: int, options: Options) -> list[Comparison]:
    trainer = train.XGBoostTrainer(PARAMS, num_boost_round=rounds)

    def ours() -> None:
        train.fit(trainer, train_dataset=rows, target_columns=["y"], verbose=False)

    def plain(*, evaluate: bool) -> None:
        matrix = xgboost.DMatrix(rows.drop("y"), label=rows["y"])
        xgboost.train(PARAMS, matrix, rounds, evals=[(matrix, "train")] if evaluate else [], verbose_eval=False)

    mine, theirs = alternate(ours, lambda: plain(evaluate=True), repeats=options.repeats)
    silent = [seconds(lambda: plain(evaluate=False)) for _ in range(options.repeats)]
    return [
        Comparison("train.fit in process", mine, "xgboost.train, same evaluation", theirs, goal=1.1),
        Comparison("train.fit in process", mine, "xgboost.train, no evaluation", silent),
    ]


def workers(rows: pl.DataFrame, rounds: int, options: Options) -> Comparison:
    import ray

    started = not ray.is_initialized()
    if started:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        with tempfile.TemporaryDirectory() as folder:
            for i, part in enumerate(rows.iter_slices(max(1, rows.height // 8))):
                part.write_parquet(Path(folder) / f"{i}.parquet")
            dataset = data.read_parquet(folder)
            dataset.count()
            trainer = train.XGBoostTrainer(PARAMS, num_boost_round=rounds, num_workers=2)
            mine, theirs = alternate(
                lambda: train.fit(trainer, train_dataset=dataset, target_columns=["y"], verbose=False),
                lambda: rays_own(dataset, rounds, f"{folder}/runs"),
                repeats=options.repeats,
                other_repeats=options.repeats if options.full else 1,
            )
    finally:
        if started:
            ray.shutdown()
    return Comparison(
        "train.fit on 2 Ray workers",
        mine,
        "ray.train.xgboost.XGBoostTrainer, RayTrainReportCallback",
        theirs,
        goal=0.25,
    )


def rays_own(dataset: Any, rounds: int, storage: str) -> Any:
    """What Ray's documentation tells one to write: the loop of each worker, reporting every round."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.xgboost import RayTrainReportCallback, XGBoostTrainer

    def loop() -> None:
        import ray.train

        table = ray.train.get_dataset_shard("train").materialize().to_pandas()
        matrix = xgboost.DMatrix(table.drop(columns="y"), label=table["y"])
        callbacks = [RayTrainReportCallback()]
        xgboost.train(
            {**PARAMS, "nthread": 1}, matrix, rounds, evals=[(matrix, "train")], verbose_eval=False, callbacks=callbacks
        )

    # Half a CPU for each worker: when they hold all of them, nothing is left to read the data, and the training hangs.
    scaling = ScalingConfig(num_workers=2, resources_per_worker={"CPU": 0.5})
    result = XGBoostTrainer(
        loop, datasets={"train": dataset}, scaling_config=scaling, run_config=RunConfig(storage_path=storage)
    ).fit()
    return RayTrainReportCallback.get_model(result.checkpoint)

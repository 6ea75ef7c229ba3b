"""Training in process against each framework called directly on the same rows, and on Ray workers: how much of the time
is not the training itself, and XGBoost against Ray's own trainer."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
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
N_THREADS = len(os.sched_getaffinity(0))


def run(options: Options) -> Section:
    """All comparisons of this program."""
    n = options.small(500_000)
    whole = n == 500_000
    rounds, on_ray = (ROUNDS, ROUNDS_ON_RAY) if whole else (10, 5)
    section = Section(
        "Training",
        f"{n:,} rows of 8 floats, 4 of them with 5 % missing (0 for PyTorch), and a binary label. In process each framework is called "
        "directly with the same arguments on the same columns, so that the training takes more than 5 s, and evaluates its training rows "
        f"after every iteration where the history has them (XGBoost also without). XGBoost (hist, depth 6) has {rounds} rounds in process and "
        f"{on_ray} on 2 workers. Times hold everything from the table (on Ray: from the Parquet files) to the trained model; the loop on "
        "workers is from the first report to the last, and the first iteration estimated from the others.",
        packages=["xgboost-cpu", *(s.package for s in subjects(10) if s.is_installed), "ray"],
    )
    rows = labelled(n)
    section.add(*in_process(rows, rounds, options))
    for subject in subjects(100 if whole else 5):
        if subject.is_installed:
            section.add(directly(subject, rows, options))
    section.add(*on_workers(rows, on_ray, options))
    return section


# -- each framework ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Subject:
    """A framework: its trainer, and the same training by hand on a table of features and labels."""

    name: str
    package: str
    trainer: Callable[[], train.Trainer]
    by_hand: Callable[[pl.DataFrame, pl.Series], object]
    fills: bool = False  # whether missing values are filled first

    @property
    def is_installed(self) -> bool:
        try:
            metadata.version(self.package)
        except metadata.PackageNotFoundError:
            return False
        return True

    def rows(self, rows: pl.DataFrame) -> pl.DataFrame:
        return rows.fill_null(0.0) if self.fills else rows


def subjects(scale: int) -> list[Subject]:
    """All frameworks but XGBoost; `scale` is 100 for a measurement."""
    return [lightgbm_(3 * scale), catboost_(2 * scale), sklearn_(2 * scale), torch_(max(1, scale // 20))]


def lightgbm_(rounds: int) -> Subject:
    params = {
        "objective": "binary",
        "metric": "binary_logloss",
        "learning_rate": 0.1,
        "num_threads": N_THREADS,
        "verbosity": -1,
    }

    def by_hand(x: pl.DataFrame, y: pl.Series) -> object:
        import lightgbm

        rows = lightgbm.Dataset(x.to_arrow(), y.to_numpy())
        found: dict[str, Any] = {}
        return lightgbm.train(
            params,
            rows,
            rounds,
            valid_sets=[rows],
            valid_names=["train"],
            callbacks=[lightgbm.record_evaluation(found)],
        )

    return Subject("LightGBM", "lightgbm", lambda: train.LightGBMTrainer(params, num_boost_round=rounds), by_hand)


def catboost_(rounds: int) -> Subject:
    params = {"iterations": rounds, "learning_rate": 0.1, "depth": 6, "thread_count": N_THREADS}

    def by_hand(x: pl.DataFrame, y: pl.Series) -> object:
        import catboost

        more = {"loss_function": "Logloss", "allow_writing_files": False, "logging_level": "Silent"}
        return catboost.CatBoost({**params, **more}).fit(catboost.Pool(x.to_pandas(), y.to_numpy()))

    return Subject("CatBoost", "catboost", lambda: train.CatBoostTrainer(params), by_hand)


def sklearn_(rounds: int) -> Subject:
    from sklearn.ensemble import HistGradientBoostingClassifier

    made = HistGradientBoostingClassifier(max_iter=rounds, early_stopping=False, random_state=0)

    def by_hand(x: pl.DataFrame, y: pl.Series) -> object:
        from sklearn.base import clone

        return clone(made).fit(x.to_numpy(), y.to_numpy())

    return Subject("scikit-learn (histogram boosting)", "scikit-learn", lambda: train.SklearnTrainer(made), by_hand)


def torch_(epochs: int) -> Subject:
    options = {"lr": 1e-3, "batch_size": 512, "max_epochs": epochs}

    def by_hand(x: pl.DataFrame, y: pl.Series) -> object:
        import torch

        torch.manual_seed(0)
        inputs, labels = (
            torch.from_numpy(x.to_numpy().astype(np.float32)),
            torch.from_numpy(y.to_numpy().astype(np.float32)),
        )
        layer = torch.nn.Linear
        net = torch.nn.Sequential(layer(8, 64), torch.nn.ReLU(), layer(64, 64), torch.nn.ReLU(), layer(64, 1))
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
        for _ in range(epochs):
            lost = 0.0
            for batch in torch.randperm(len(inputs)).split(512):
                optimizer.zero_grad(set_to_none=True)
                loss = torch.nn.functional.binary_cross_entropy_with_logits(net(inputs[batch])[:, 0], labels[batch])
                loss.backward()
                optimizer.step()
                lost += loss.item() * len(batch)
        return net

    def trainer() -> train.Trainer:
        return train.TorchTrainer("MLP", {"hidden": [64, 64]}, seed=0, **options)

    return Subject("PyTorch (perceptron, batches of 512)", "torch", trainer, by_hand, fills=True)


def directly(subject: Subject, rows: pl.DataFrame, options: Options) -> Comparison:
    rows = subject.rows(rows).with_columns(y=pl.when(pl.col("y") == 1).then(pl.lit("yes")).otherwise(pl.lit("no")))
    features, labels = rows.drop("y"), (rows["y"] == "yes").cast(pl.Int8)
    trainer = subject.trainer()
    mine, theirs = alternate(
        lambda: train.fit(trainer, train_dataset=rows, target_columns=["y"], verbose=False),
        lambda: subject.by_hand(features, labels),
        repeats=options.repeats,
    )
    return Comparison(f"train.fit in process: {subject.name}", mine, "called directly", theirs, goal=1.1)


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


# -- on Ray ------------------------------------------------------------------------------------------------------------


class Clock(train.Callback):
    """When iterations were heard of."""

    def on_start(self, run: train.Run) -> None:
        self.heard: list[float] = []

    def on_iteration(self, run: train.Run, iteration: int, metrics: Mapping[str, float]) -> None:
        self.heard.append(time.perf_counter())

    @property
    def loop_s(self) -> float:
        n = len(self.heard)
        return (self.heard[-1] - self.heard[0]) * n / max(1, n - 1)


@contextmanager
def on_ray(rows: pl.DataFrame) -> Iterator[tuple[Any, str]]:
    """The rows as a Dataset of 8 files, and a folder."""
    import ray

    started = not ray.is_initialized()
    if started:
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        with tempfile.TemporaryDirectory() as folder:
            for i, part in enumerate(rows.iter_slices(max(1, rows.height // 8))):
                part.write_parquet(Path(folder) / f"{i}.parquet")
            dataset = data.read_parquet(folder)
            dataset.count()
            yield dataset, folder
    finally:
        if started:
            ray.shutdown()


def on_workers(rows: pl.DataFrame, rounds: int, options: Options) -> list[Comparison]:
    found = []
    with on_ray(rows) as (dataset, folder):
        trainer = train.XGBoostTrainer(PARAMS, num_boost_round=rounds, num_workers=2)
        mine, theirs = alternate(
            lambda: train.fit(trainer, train_dataset=dataset, target_columns=["y"], verbose=False),
            lambda: rays_own(dataset, rounds, f"{folder}/runs"),
            repeats=options.repeats,
            other_repeats=options.repeats if options.full else 1,
        )
        name = "ray.train.xgboost.XGBoostTrainer, RayTrainReportCallback"
        found.append(Comparison("train.fit on 2 Ray workers", mine, name, theirs, goal=0.25))
        found.append(outside("XGBoost", trainer, dataset, options))
    few = 20 if rounds == ROUNDS_ON_RAY else 3
    with on_ray(rows.fill_null(0.0)) as (dataset, _):
        for subject, n in ((lightgbm_(few), 2), (catboost_(few), 1), (torch_(3), 2)):
            if subject.is_installed:
                trainer = subject.trainer().scaled(train.Scaling(num_workers=n))
                found.append(outside(subject.name, trainer, dataset, options))
    return found


def outside(name: str, trainer: train.Trainer, dataset: Any, options: Options) -> Comparison:
    """Measure the time that a fit on workers takes outside the training loop."""
    clock, outside, loops = Clock(), [], []
    for _ in range(options.repeats):
        took = seconds(
            lambda: train.fit(trainer, train_dataset=dataset, target_columns=["y"], callbacks=[clock], verbose=False)
        )
        loops.append(clock.loop_s)
        outside.append(took - clock.loop_s)
    n = trainer.num_workers
    return Comparison(f"outside of the loop on {n} worker{'s' if n != 1 else ''}: {name}", outside, "the loop", loops)


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

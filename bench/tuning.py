"""Tuning against raw Ray Tune, a loop in this process, and scikit-learn's search: the same folds, rounds and configurations."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import ray
import xgboost
from ray import tune as ray_tune
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer
from sklearn.impute import SimpleImputer as SklearnImputer
from sklearn.metrics import log_loss
from sklearn.model_selection import ParameterSampler, RandomizedSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder as SklearnOneHot
from sklearn.preprocessing import StandardScaler as SklearnScaler

from bench.report import Comparison, Options, Section, alternate, seconds
from bench.synthetic import FLOATS, table
from rayline import Preprocessor, train, tune
from rayline.data import KFold
from rayline.stages import OneHotEncoder, SimpleImputer, StandardScaler

FOLDS = 5
ROUNDS = 20

Fold = tuple[Any, Any, Any, Any]
Search = Callable[[], object]


def run(options: Options) -> Section:
    """All comparisons of this program."""
    rows, rows_full = options.small(2_000), options.small(100_000)
    section = Section(
        "Tuning",
        f"{FOLDS}-fold cross validation, XGBoost with {ROUNDS} rounds and one thread a trial, Ray with 2 CPUs that is running "
        f"already. Synthetic: {rows:,} rows of 8 floats and a column of 10 strings; impute, scale, one-hot. Breast cancer: "
        "569 × 30, no stages.",
        packages=("ray", "xgboost-cpu", "scikit-learn"),
    )
    os.environ["RAYLINE_QUIET"] = "1"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        data = labelled(rows)
        ours, other = alternate(
            lambda: rayline(data, 20), lambda: function_trainable(data, 20), repeats=options.repeats
        )
        what = "20 trials, synthetic"
        section.add(
            Comparison(what, ours, "Ray Tune, function trainable, scikit-learn Pipeline a fold", other, goal=0.35)
        )
        section.add(*tiny(options))
        if options.full:
            section.add(*large(rows_full))
    finally:
        ray.shutdown()
    return section


def labelled(rows: int) -> pl.DataFrame:
    """Floats with gaps, a category, and a label that hangs on both."""
    random = np.random.default_rng(1)
    data = table(rows, seed=0).select(*FLOATS, "s10")
    score = data["f4"] / 5 - data["f5"] / 6 + (data["s10"] == "v3").cast(pl.Float64) * 2 + pl.Series(random.normal(size=rows))
    return data.with_columns(late=(score > score.median()).cast(pl.Int8))


SPACE: Mapping[str, tuple[Callable[..., Any], float, float]] = {
    "max_depth": (ray_tune.randint, 2, 7),
    "eta": (ray_tune.loguniform, 0.05, 0.5),
    "subsample": (ray_tune.uniform, 0.5, 1.0),
}


def space() -> dict[str, Any]:
    return {name: domain(low, high) for name, (domain, low, high) in SPACE.items()}


def stages() -> Preprocessor:
    return Preprocessor([("impute", SimpleImputer()), ("scale", StandardScaler()), ("onehot", OneHotEncoder())])


def rayline(data: pl.DataFrame, trials: int, *, raw: bool = False, target: str = "late") -> tune.Analysis:
    """What is measured."""
    trainer = train.XGBoostTrainer({"objective": "binary:logistic"}, num_boost_round=ROUNDS)
    given = {
        "train_dataset": data,
        "target_columns": [target],
        "cv": FOLDS,
        "train_pipeline": None if raw else stages(),
    }
    return tune.run(trainer, given, space(), metric="log_loss", num_samples=trials, verbose=False)


# -- raw Ray Tune ------------------------------------------------------------------------------------------------------


def sklearn_stages() -> ColumnTransformer:
    numbers = make_pipeline(SklearnImputer(), SklearnScaler())
    return ColumnTransformer([("n", numbers, FLOATS), ("c", SklearnOneHot(handle_unknown="ignore"), ["s10"])])


def folds_of(data: pl.DataFrame, target: str = "late") -> list[Fold]:
    """The folds as scikit-learn takes them, made before the clock starts for Ray Tune."""
    found = []
    for part, held in KFold(FOLDS).split(data):
        frames = [frame.drop(target).to_pandas() for frame in (part, held)]
        found.append((frames[0], part[target].to_numpy(), frames[1], held[target].to_numpy()))
    return found


def score(config: Mapping[str, Any], fold: Fold, stages: Callable[[], ColumnTransformer] | None) -> float:
    """One fold by hand."""
    x, y, x_test, y_test = fold
    if stages is not None:
        made = stages()
        x, x_test = made.fit_transform(x), made.transform(x_test)
    params = {"objective": "binary:logistic", "nthread": 1, **config}
    booster = xgboost.train(params, xgboost.DMatrix(x, y), ROUNDS)
    return float(log_loss(y_test, booster.predict(xgboost.DMatrix(x_test))))


def function_trainable(data: pl.DataFrame, trials: int) -> None:
    """As Ray's guides show it: a function, with the folds in the object store."""

    def objective(config: dict[str, Any], folds: list[Fold]) -> None:
        ray_tune.report({"score": float(np.mean([score(config, fold, sklearn_stages) for fold in folds]))})

    _fit(ray_tune.with_parameters(objective, folds=folds_of(data)), trials, reuse=False)


class Reused(ray_tune.Trainable):
    """As quick as Ray Tune gets: a class whose actors are used again."""

    def setup(self, config: dict[str, Any], folds: list[Fold] | None = None) -> None:
        assert folds is not None
        self.folds = folds

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.config = new_config
        return True

    def step(self) -> dict[str, Any]:
        return {"score": float(np.mean([score(self.config, fold, None) for fold in self.folds])), "done": True}


def reused_actors(data: pl.DataFrame, trials: int) -> None:
    _fit(ray_tune.with_parameters(Reused, folds=folds_of(data, "target")), trials, reuse=True)


def _fit(trainable: Any, trials: int, *, reuse: bool) -> None:
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        ray_tune.Tuner(
            ray_tune.with_resources(trainable, {"CPU": 1}),
            param_space=space(),
            tune_config=ray_tune.TuneConfig(num_samples=trials, reuse_actors=reuse, metric="score", mode="min"),
            run_config=ray_tune.RunConfig(verbose=0, storage_path=folder),
        ).fit()


# -- breast cancer -----------------------------------------------------------------------------------------------------


def tiny(options: Options) -> list[Comparison]:
    """Where overhead is everything."""
    x, y = load_breast_cancer(return_X_y=True)
    data = pl.DataFrame({f"x{i}": x[:, i] for i in range(x.shape[1])}).with_columns(target=pl.Series(y))
    ours, other = alternate(
        lambda: rayline(data, 20, raw=True, target="target"), lambda: reused_actors(data, 20), repeats=options.repeats
    )
    # What a trial costs once the actors are there: the difference between a long and a short run.
    long, short = 100, 20
    more = [
        _per_trial(lambda n: rayline(data, n, raw=True, target="target"), short, long) for _ in range(options.repeats)
    ]
    raw = [_per_trial(lambda n: loop(data, n), short, long) for _ in range(options.repeats)]
    return [
        Comparison("20 trials, breast cancer", ours, "Ray Tune, class trainable with reuse_actors", other, goal=1.0),
        Comparison(
            "one more trial, warm, 2 at a time", more, "the same folds in a loop in this process", raw, goal=1.5
        ),
    ]


def _per_trial(search: Callable[[int], object], short: int, long: int) -> float:
    return (seconds(partial(search, long)) - seconds(partial(search, short))) / (long - short)


def loop(data: pl.DataFrame, trials: int) -> float:
    """No Ray at all."""
    folds = folds_of(data, "target")
    drawn = ParameterSampler({"max_depth": range(2, 7), "eta": np.geomspace(0.05, 0.5, 50)}, trials, random_state=0)
    return min(float(np.mean([score(config, fold, None) for fold in folds])) for config in drawn)


# -- large -------------------------------------------------------------------------------------------------------------


def large(rows: int) -> list[Comparison]:
    """50 configurations; takes minutes, so once each."""
    data = labelled(rows)
    ours = [seconds(lambda: rayline(data, 50))]
    return [
        Comparison(
            f"50 trials, {rows:,} rows",
            ours,
            "scikit-learn RandomizedSearchCV(n_jobs=2)",
            [seconds(lambda: randomized(data, 50))],
            goal=1 / 3,
        ),
        Comparison(
            f"50 trials, {rows:,} rows",
            ours,
            "Ray Tune, function trainable",
            [seconds(lambda: function_trainable(data, 50))],
            goal=0.2,
        ),
    ]


def randomized(data: pl.DataFrame, trials: int) -> None:
    frame: pd.DataFrame = data.drop("late").to_pandas()
    model = xgboost.XGBClassifier(n_estimators=ROUNDS, n_jobs=1)
    grid = {
        "model__max_depth": list(range(2, 7)),
        "model__learning_rate": np.geomspace(0.05, 0.5, 50),
        "model__subsample": np.linspace(0.5, 1.0, 50),
    }
    pipeline = Pipeline([("stages", sklearn_stages()), ("model", model)])
    search = RandomizedSearchCV(
        pipeline, grid, n_iter=trials, cv=FOLDS, scoring="neg_log_loss", n_jobs=2, random_state=0, refit=False
    )
    search.fit(frame, data["late"].to_numpy())

"""The order of columns changes no result: where a row belongs is decided by the values and the names of its columns."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest

import rayline as rl
from rayline import Preprocessor, data, train, tune
from rayline.postprocess import Calibrate, Conformal
from rayline.stages import SMOTE, Downsample, KNNImputer, OneHotEncoder, TargetEncoder, Upsample
from tests.test_datasets import assert_same

N = 240
ROLES: dict[str, Any] = {"target_columns": ["late"], "sample_weight": "weight"}


def rows() -> pl.DataFrame:
    """Rows of every kind, some of them equal to others."""
    random = np.random.default_rng(0)
    x, z = random.normal(size=(2, N))
    table = pl.DataFrame(
        {
            "x": x, "city": random.choice(["Oslo", "Rome", "Lima", "Bonn"], N), "k": random.integers(0, 9, N), "z": z,
            "weight": random.uniform(0.5, 2, N), "late": np.where(x + random.normal(size=N) > 0.8, "yes", "no"),
            "group": random.integers(0, 30, N), "at": [dt.date(2024, 1, 1) + dt.timedelta(days=i % 90) for i in range(N)],
        }
    )  # fmt: skip
    some = pl.int_range(pl.len()) % 7
    return pl.concat([table.with_columns(z=pl.when(some > 0).then("z")), table.head(40)])


def stages() -> Preprocessor:
    return Preprocessor(
        [
            ("drop", rl.stages.DropColumns(["at", "group"])), ("impute", KNNImputer(["x", "z"], max_donors=50)),
            ("target", TargetEncoder(["city"])), ("onehot", OneHotEncoder(["k"])),
        ]
    )  # fmt: skip


def trainer(depth: int = 2) -> train.XGBoostTrainer:
    parameters = {"objective": "binary:logistic", "max_depth": depth, "nthread": 1}
    return train.XGBoostTrainer(parameters, num_boost_round=4, seed=1)


def by_name(value: Any) -> Any:
    """The same value, with the columns of tables in the order of their names."""
    if isinstance(value, pl.DataFrame):
        return value.select(sorted(value.columns))
    if isinstance(value, dict):
        return {name: by_name(value[name]) for name in sorted(value, key=str)}
    return [by_name(one) for one in value] if isinstance(value, (list, tuple)) else value


SPLITS: dict[str, Callable[[pl.DataFrame], Any]] = {
    "plain": lambda table: data.train_test_split(table, 0.3),
    "number": lambda table: data.train_test_split(table, test_size=31, seed=5),
    "strata": lambda table: data.train_test_split(table, 0.3, stratify="late"),
    "groups": lambda table: data.train_test_split(table, 0.3, groups="group"),
    "time": lambda table: data.train_test_split(table, 0.3, time="at"),
    **{
        type(splitter).__name__: lambda table, splitter=splitter: list(splitter.split(table, target_columns=["late"]))  # type: ignore[misc]
        for splitter in (
            data.KFold(3), data.StratifiedKFold(3, column="late"), data.GroupKFold(3, column="group"), data.Bootstrap(3),
            data.TimeSeriesSplit(3, column="at"), data.RepeatedKFold(2, 2), data.Holdout(0.4, seed=2),
        )
    },
}  # fmt: skip

RESAMPLED = {
    "Upsample": Upsample(ratio=0.7), "Downsample": Downsample(ratio=0.7),
    "SMOTE": SMOTE(ratio=0.9, max_donors=30),
}  # fmt: skip


def searched(table: pl.DataFrame) -> Any:
    analysis = tune.run(
        trainer(), train_dataset=table, preprocessor=stages(), cv=3, config={"max_depth": tune.grid_search([1, 3])}, num_samples=1,
        postprocess=[Calibrate("sigmoid")], run_on="process", verbose=False, **ROLES,
    )  # fmt: skip
    return (
        [(trial.config, trial.scores) for trial in analysis.trials],
        analysis.oof,
        analysis.ensemble(top=2).predict(rows()),
    )


def compared(table: pl.DataFrame) -> Any:
    board = tune.compare(
        {"flat": trainer(1), "deep": trainer(3)}, train_dataset=table, preprocessor=stages(), cv=3, run_on="process", verbose=False,
        **ROLES,
    ).leaderboard  # fmt: skip
    return board.drop("fit_s", "predict_s")


def cross_validated(table: pl.DataFrame) -> Any:
    found = train.cross_validate(trainer(), stages(), table, cv=3, verbose=False, **ROLES)
    return {name: tuple(score) for name, score in found.metrics.items()}, found.evaluate(replicates=20).to_dict()


def fitted(table: pl.DataFrame) -> rl.InferencePipeline:
    return train.fit(trainer(), stages(), table, verbose=False, **ROLES).inference_pipeline


FITS: dict[str, Callable[[pl.DataFrame], Any]] = {
    "fit": lambda table: fitted(table).predict_proba(rows()),
    "folds": lambda table: [p.transform(rows()) for p in stages().fit_folds(table, 3, target_columns=["late"])],
    "cross_validate": cross_validated,
    "tune.run": searched,
    "tune.compare": compared,
}

USES: dict[str, Callable[[rl.InferencePipeline, pl.DataFrame], Any]] = {
    "evaluate": lambda pipeline, table: pipeline.evaluate(
        table, by="city", sample_weight="weight", replicates=20
    ).to_dict(),
    "compare": lambda pipeline, table: rl.compare({"a": pipeline, "b": pipeline}, table, replicates=20).table,
    "calibrated": lambda pipeline, table: pipeline.calibrated([Calibrate("isotonic"), Conformal(0.8)], table).predict(
        rows()
    ),
    "explain": lambda pipeline, table: pipeline.explain(table.head(20), background=table),
    "shap": lambda pipeline, table: pipeline.importance("shap", rows=table),
    "permutation": lambda pipeline, table: pipeline.importance("permutation", rows=table, n_repeats=2),
    "partial_dependence": lambda pipeline, table: pipeline.partial_dependence(table, "x", grid=5),
}


def assert_order_does_not_matter(step: Callable[[pl.DataFrame], Any]) -> None:
    table = rows()
    expected = by_name(step(table))
    for names in (table.columns[::-1], sorted(table.columns, key=lambda name: name[::-1])):
        assert_same(expected, by_name(step(table.select(names))))


@pytest.mark.parametrize("name", SPLITS)
def test_parts_have_the_same_rows(name: str) -> None:
    assert_order_does_not_matter(SPLITS[name])


@pytest.mark.parametrize("name", RESAMPLED)
def test_the_same_rows_are_repeated_and_dropped(name: str) -> None:
    def training_rows(table: pl.DataFrame) -> pl.DataFrame:
        return Preprocessor([("rows", RESAMPLED[name])]).fit_transform(table.drop_nulls(), target_columns=["late"])

    assert_order_does_not_matter(training_rows)


@pytest.mark.parametrize("name", FITS)
def test_fits_are_the_same(name: str) -> None:
    assert_order_does_not_matter(FITS[name])


@pytest.mark.parametrize("name", USES)
def test_uses_of_a_pipeline_are_the_same(name: str, pipeline: rl.InferencePipeline) -> None:
    assert_order_does_not_matter(lambda table: USES[name](pipeline, table))


@pytest.fixture(scope="module")
def pipeline() -> rl.InferencePipeline:
    return fitted(rows())

"""Partial dependence and ICE against scikit-learn's."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
from sklearn.inspection import partial_dependence

import rayline as rl
from rayline import train
from rayline.evaluate.explain_dependence import ICE_ROWS
from rayline.stages import DropColumns
from tests.evaluate.test_explain import fitted, table

NUMBERS = ["a", "c"]
GRID = [-1.5, -0.5, 0.0, 0.75, 2.0]


@pytest.mark.parametrize(
    ("estimator", "target"),
    [
        (GradientBoostingRegressor(n_estimators=10), "y"),
        (GradientBoostingClassifier(n_estimators=10), "late"),
        (GradientBoostingClassifier(n_estimators=5), "kind"),
    ],
)
def test_it_is_scikit_learns(estimator: Any, target: str) -> None:
    rows = table().select(*NUMBERS, target)
    pipeline = train.fit(train.SklearnTrainer(estimator), None, rows, None, [target], verbose=False).inference_pipeline
    asked = table(80, seed=1)
    kind = {} if target == "y" else {"response_method": "predict_proba"}
    oracle = partial_dependence(
        pipeline.model.native,
        asked.select(NUMBERS).to_numpy(),
        [0],
        custom_values={0: np.array(GRID)},
        kind="both",
        method="brute",
        **kind,
    )
    mean, curves = (pipeline.partial_dependence(asked, "a", grid=GRID, ice=ice) for ice in (False, True))
    names = ["prediction"] if target == "y" else [f"probability_{c}" for c in pipeline.classes]
    assert mean.columns == ["a", *names]
    assert curves.columns == ["row", "a", *names]
    if target == "late":
        names = names[1:]  # scikit-learn gives the second of two classes only
    for k, name in enumerate(names):
        np.testing.assert_allclose(mean[name], oracle["average"][k], atol=1e-12)
        np.testing.assert_allclose(curves[name].to_numpy().reshape(80, -1), oracle["individual"][k], atol=1e-12)


def test_the_grid_follows_the_column() -> None:
    pipeline = fitted(train.XGBoostTrainer({"max_depth": 3, "nthread": 1}, num_boost_round=5), "late")
    rows = table(400, seed=1)
    numbers = pipeline.partial_dependence(rows, "a", grid=7)["a"]
    low, high = np.quantile(rows["a"], [0.05, 0.95])
    np.testing.assert_allclose(numbers, np.linspace(low, high, 7))
    assert (
        pipeline.partial_dependence(rows, "city")["city"].to_list()
        == rows["city"].value_counts(sort=True)["city"].to_list()
    )
    assert pipeline.partial_dependence(rows.head(3), "a")["a"].to_list() == sorted(rows["a"][:3])
    assert pipeline.partial_dependence(rows.lazy(), "a", grid=7)["a"].equals(numbers)


@pytest.mark.parametrize(
    "dtype", [pl.Date(), pl.Datetime("ns"), pl.Time(), pl.Duration("ms"), pl.Datetime("us", "Europe/Oslo")]
)
def test_times_have_a_grid(dtype: pl.DataType) -> None:
    days = pl.Series("when", range(100)) * (1 if dtype == pl.Date else 3_600_000_000)
    when = (days.cast(pl.Int32) if dtype == pl.Date else days).cast(dtype)
    rows = pl.DataFrame({"when": when, "x": np.arange(100.0), "y": np.arange(100.0)})
    stages = train.Preprocessor([("drop", DropColumns(columns=["when"]))])
    trainer = train.XGBoostTrainer({"max_depth": 2, "nthread": 1}, num_boost_round=2)
    pipeline = train.fit(trainer, stages, rows, None, ["y"], verbose=False).inference_pipeline
    found = pipeline.partial_dependence(rows, "when", grid=5)["when"]
    assert found.dtype == dtype
    low, high = np.quantile(when.to_physical().to_numpy(), [0.05, 0.95])
    np.testing.assert_allclose(found.to_physical().to_numpy(), np.linspace(low, high, 5), rtol=0.01, atol=0.6)
    assert pipeline.partial_dependence(rows.head(3), "when")["when"].to_list() == when.head(3).to_list()


def test_few_rows_have_curves() -> None:
    pipeline = fitted(train.XGBoostTrainer({"max_depth": 3, "nthread": 1}, num_boost_round=5), "y")
    curves = pipeline.partial_dependence(table(ICE_ROWS + 5, seed=1), "a", grid=2, ice=True)
    assert curves["row"].n_unique() == ICE_ROWS


@pytest.mark.parametrize(
    ("column", "options", "error"),
    [
        ("x", {}, rl.ParameterError),
        ("a", {"grid": 1}, rl.ParameterError),
        ("a", {"grid": True}, rl.ParameterError),
        ("a", {"grid": ["red"]}, rl.ParameterError),
        ("a", {"grid": []}, rl.DataError),
        (["a"], {}, rl.ParameterError),
        ("b", {"rows": table(5).with_columns(b=pl.lit(None, pl.Float64))}, rl.DataError),
        ("a", {"rows": table(5).drop("c")}, rl.SchemaError),
        ("a", {"rows": table(0)}, rl.DataError),
    ],
)
def test_wrong_use_is_refused(column: Any, options: dict[str, Any], error: type[Exception]) -> None:
    pipeline = fitted(train.XGBoostTrainer({"max_depth": 3, "nthread": 1}, num_boost_round=5), "y")
    with pytest.raises(error):
        pipeline.partial_dependence(options.pop("rows", table(5)), column, **options)

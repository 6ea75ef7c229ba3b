"""Imputation against scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from rayline.core.errors import DataError, ParameterError, SchemaError
from rayline.inference.pipeline import Preprocessor
from rayline.stages import GroupImputer, MissingIndicator, SimpleImputer, StandardScaler
from rayline.stages.impute import GroupStrategy


def fill(stage: Any, table: pl.DataFrame) -> pl.DataFrame:
    return Preprocessor([("stage", stage)]).fit_transform(table)


@pytest.mark.parametrize("dtype", [pl.String, pl.Categorical, pl.Enum(["a", "b"])])
def test_categories(dtype: Any) -> None:
    table = pl.DataFrame({"c": ["b", None, "a", "b"]}).cast(dtype)
    assert fill(SimpleImputer(strategy="most_frequent"), table)["c"].to_list() == ["b", "b", "a", "b"]
    assert fill(SimpleImputer(strategy="constant"), table)["c"].to_list() == ["b", "missing", "a", "b"]


def test_types_stay_where_they_can() -> None:
    table = pl.DataFrame({"i": [1, None, 3], "b": [True, None, True]})
    assert fill(SimpleImputer(strategy="most_frequent"), table).schema == table.schema
    assert fill(SimpleImputer(["i"]), table)["i"].to_list() == [1.0, 2.0, 3.0]
    assert fill(SimpleImputer(["i"], "constant", 7), table)["i"].to_list() == [1, 7, 3]


def test_impute_and_scale_share_a_scan() -> None:
    table = pl.DataFrame({"x": [1.0, None, 4.0, float("nan")]})
    p = Preprocessor([("a", SimpleImputer()), ("b", StandardScaler())]).fit(table)
    assert p.scans == 1
    filled = fill(SimpleImputer(), table)
    expected = fill(StandardScaler(), filled)
    np.testing.assert_allclose(p.transform(table).to_numpy(), expected.to_numpy(), rtol=1e-12)


def test_wrong_columns() -> None:
    with pytest.raises(ParameterError, match="'c'"):
        fill(SimpleImputer(["c"]), pl.DataFrame({"c": ["a"]}))
    with pytest.raises(DataError, match="no values"):
        fill(SimpleImputer(), pl.DataFrame({"x": [None]}, schema={"x": pl.Float64}))


def test_missing_indicator() -> None:
    table = pl.DataFrame({"x": [1.0, float("nan")], "y": [1, 2]})
    assert fill(MissingIndicator(), table).columns == ["x", "y", "x_missing"]
    assert fill(MissingIndicator(features="all"), table)["y_missing"].to_list() == [0, 0]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [("mean", [3.0, 5.0, 3.5]), ("median", [1.0, 5.0, 3.0]), ("most_frequent", [1.0, 5.0, 1.0])],
)
def test_group_imputer(strategy: GroupStrategy, expected: list[float]) -> None:
    table = pl.DataFrame({"g": ["a", "a", "a", "b", "b"], "x": [1.0, 1.0, 7.0, 5.0, None]})
    new = pl.DataFrame({"g": ["a", "b", "z"], "x": [None, None, None]}, schema=table.schema)
    assert Preprocessor([("fill", GroupImputer(by="g", strategy=strategy))]).fit(table).transform(new)[
        "x"
    ].to_list() == pytest.approx(expected)


def test_group_imputer_needs_its_groups() -> None:
    with pytest.raises(SchemaError, match="'h'"):
        fill(GroupImputer(by="h"), pl.DataFrame({"g": ["a"], "x": [1.0]}))

"""Scaling stages against scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import preprocessing as sk

from rayline.core.errors import DataError, ParameterError, SchemaError
from rayline.inference.pipeline import Preprocessor
from rayline.stages import MinMaxScaler, Ratio, StandardScaler

columns = st.lists(
    st.one_of(st.none(), st.floats(-1e6, 1e6), st.integers(-3, 3).map(float)), min_size=1, max_size=30
).filter(lambda v: any(x is not None for x in v))


def transform(stage: Any, table: pl.DataFrame, new: pl.DataFrame | None = None) -> np.ndarray[Any, Any]:
    fitted = Preprocessor([("stage", stage)]).fit(table)
    return fitted.transform(table if new is None else new).to_numpy()


def assert_close(ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any]) -> None:
    np.testing.assert_allclose(ours.astype(float), theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("how", [{}, {"with_mean": False}, {"with_std": False}])
@given(values=columns)
def test_standard_scaler(how: dict[str, Any], values: list[float | None]) -> None:
    table = pl.DataFrame({"x": values}, schema={"x": pl.Float64})
    assert_close(transform(StandardScaler(**how), table), sk.StandardScaler(**how).fit_transform(table.to_numpy()))


@pytest.mark.parametrize("dtype", [pl.Int8, pl.UInt64, pl.Float32, pl.Boolean])
def test_standard_scaler_takes_every_number(dtype: Any) -> None:
    table = pl.DataFrame({"x": [1, 0, 1, 1]}).cast(dtype)
    assert_close(
        transform(StandardScaler(["x"]), table), sk.StandardScaler().fit_transform(table.cast(pl.Float64).to_numpy())
    )


@pytest.mark.parametrize("how", [{}, {"feature_range": (-2, 3)}, {"clip": True}])
@given(values=columns, new=columns)
def test_min_max_scaler(how: dict[str, Any], values: list[float | None], new: list[float | None]) -> None:
    table, more = (pl.DataFrame({"x": v}, schema={"x": pl.Float64}) for v in (values, new))
    theirs = sk.MinMaxScaler(**how).fit(table.to_numpy())
    ours = transform(MinMaxScaler(**how), table, more)
    span = np.nanmax(table.to_numpy()) - np.nanmin(table.to_numpy())
    if span == 0 or span > 1e-3:  # below, their x * scale + min cancels
        np.testing.assert_allclose(
            ours, theirs.transform(more.to_numpy()), rtol=1e-9, atol=1e-9 * max(1.0, 1e6 / (span or 1.0))
        )


def test_infinite_and_missing_columns_are_refused() -> None:
    for stage in (StandardScaler(), MinMaxScaler()):
        for values in ([1.0, float("inf")], [None, None], [float("nan")]):
            with pytest.raises(DataError, match="column 'x'"):
                transform(stage, pl.DataFrame({"x": values}, schema={"x": pl.Float64}))


def test_wrong_parameters() -> None:
    with pytest.raises(ParameterError, match="feature_range"):
        MinMaxScaler(feature_range=(1, 1))
    with pytest.raises(ParameterError, match="did you mean"):
        StandardScaler(with_means=True)  # type: ignore[call-arg]


def test_a_selector_that_chooses_nothing_is_refused() -> None:
    table = pl.DataFrame({"x": [1.0], "y": [1]})
    with pytest.raises(SchemaError, match=r"chooses no column(.|\n)*'x \(Float64\)'\]"):
        Preprocessor([("s", StandardScaler(cs.matches("^price")))]).fit(table, target_columns=["y"])
    later = Preprocessor([("a", Ratio(["x"], per="y")), ("s", StandardScaler(cs.matches("_per_")))])
    assert later.fit_transform(table).columns == ["x", "y", "x_per_y"]
    with pytest.raises(ParameterError, match="the column to divide by"):
        Ratio(["x"])

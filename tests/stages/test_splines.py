"""B-splines against scikit-learn."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn import preprocessing as sk

from rayline.core.errors import DataError, ParameterError, SchemaError
from rayline.inference.pipeline import Preprocessor
from rayline.stages import SplineTransformer

numbers = st.one_of(st.floats(-100, 100), st.integers(-3, 3).map(float))
RNG = np.random.default_rng(2)
TABLE = pl.DataFrame({"a": RNG.normal(size=400), "b": RNG.integers(0, 9, 400).astype(float)})
NEW = pl.DataFrame({"a": RNG.normal(size=90) * 3, "b": RNG.uniform(-20, 30, 90)})


def both(how: dict[str, Any], table: pl.DataFrame, new: pl.DataFrame) -> tuple[Any, Any, list[str], list[str]]:
    ours = Preprocessor([("s", SplineTransformer(**how))]).fit(table)
    theirs = sk.SplineTransformer(**{**how, "handle_missing": "zeros"}).fit(table.to_numpy())
    made = ours.transform(new)
    return made.to_numpy(), theirs.transform(new.to_numpy()), made.columns, theirs.get_feature_names_out(table.columns)


@pytest.mark.parametrize("knots", ["uniform", "quantile"])
@pytest.mark.parametrize("extrapolation", ["constant", "linear", "continue", "periodic"])
@pytest.mark.parametrize(
    ("degree", "n_knots", "include_bias"), [(3, 5, True), (1, 2, True), (2, 7, False), (4, 6, True)]
)
def test_as_scikit_learn(knots: str, extrapolation: str, degree: int, n_knots: int, include_bias: bool) -> None:
    how = {
        "degree": degree,
        "n_knots": n_knots,
        "knots": knots,
        "extrapolation": extrapolation,
        "include_bias": include_bias,
    }
    if extrapolation == "periodic" and n_knots <= degree:
        pytest.skip("periodic splines need more knots")
    ours, theirs, our_names, their_names = both(how, TABLE, NEW)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)
    assert our_names == list(their_names)


@given(
    values=st.lists(numbers, min_size=2, max_size=30),
    new=st.lists(numbers, min_size=1, max_size=10),
    degree=st.integers(1, 4),
    n_knots=st.integers(2, 8),
    knots=st.sampled_from(["uniform", "quantile"]),
    extrapolation=st.sampled_from(["constant", "linear", "continue"]),
)
def test_as_scikit_learn_on_any_numbers(
    values: list[float], new: list[float], degree: int, n_knots: int, knots: str, extrapolation: str
) -> None:
    table, more = pl.DataFrame({"x": values}), pl.DataFrame({"x": new})
    widths = (
        np.diff(np.quantile(values, np.linspace(0, 1, n_knots))) if knots == "quantile" else np.array([np.ptp(values)])
    )
    assume(
        not ((widths != 0) & (widths < 1e-3)).any()
    )  # knots so near that the slopes beyond them say nothing but rounding
    how = {"degree": degree, "n_knots": n_knots, "knots": knots, "extrapolation": extrapolation}
    ours, theirs, *_ = both(how, table, more)
    np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-9 * max(1.0, float(np.abs(theirs).max())))


@pytest.mark.parametrize("n_knots", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("degree", [1, 3])
def test_quantiles_of_equal_values_are_those_of_scikit_learn(n_knots: int, degree: int) -> None:
    for size in (2, 3, 4, 6):
        for values in itertools.combinations_with_replacement([1.0, 2.0, 4.0], size):
            options: Any = {"n_knots": n_knots, "degree": degree, "knots": "quantile"}
            wanted = sk.SplineTransformer(**options).fit_transform(np.array(values)[:, None])
            steps = Preprocessor([("s", SplineTransformer(**options))])
            np.testing.assert_allclose(
                steps.fit_transform(pl.DataFrame({"x": values})).to_numpy(), wanted, atol=1e-12, err_msg=str(values)
            )


def test_given_knots_and_missing_values() -> None:
    new = pl.DataFrame({"a": [0.5, None, 2.5]})
    stage = SplineTransformer(["a"], knots={"a": [0, 1, 2, 3]}, degree=2)
    theirs = sk.SplineTransformer(degree=2, knots=[[0], [1], [2], [3]], handle_missing="zeros").fit(
        TABLE.select("a").to_numpy()
    )
    kept = Preprocessor([("s", stage)]).fit(TABLE.select("a")).transform(new)
    zeros = Preprocessor([("s", stage.replace(handle_missing="zeros"))]).fit(TABLE.select("a")).transform(new)
    assert kept.row(1) == (None,) * 5
    np.testing.assert_allclose(zeros.to_numpy(), theirs.transform(new.to_numpy()), rtol=1e-12)


def test_wrong_use() -> None:
    fitted = Preprocessor([("s", SplineTransformer(["a"], extrapolation="error"))]).fit(TABLE)
    with pytest.raises(DataError, match=r"stage 's'.*column 'a'"):
        fitted.transform(TABLE.with_columns(a=pl.lit(99.0)))
    with pytest.raises(ParameterError, match="less than the 3 knots"):
        Preprocessor([("s", SplineTransformer(n_knots=3, extrapolation="periodic"))]).fit(TABLE)
    with pytest.raises(ParameterError, match="knots"):
        SplineTransformer(knots=[3, 1])
    with pytest.raises(SchemaError, match="a_sp_0"):
        Preprocessor([("s", SplineTransformer(["a"]))]).fit(TABLE.rename({"b": "a_sp_0"}))

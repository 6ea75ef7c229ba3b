"""The power transform against scikit-learn, SciPy and arithmetic of many digits."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import preprocessing as sk

from rayline.data.preprocessor import Preprocessor
from rayline.stages import PowerTransformer
from tests.stages.numbers import NEW, TABLE


@pytest.mark.parametrize("method", ["yeo-johnson", "box-cox"])
@pytest.mark.parametrize("standardize", [True, False])
def test_power_transformer(method: str, standardize: bool) -> None:
    table, new = (t if method == "yeo-johnson" else t.select("b") for t in (TABLE, NEW))
    theirs = sk.PowerTransformer(method=method, standardize=standardize).fit(table.to_numpy())
    fitted = Preprocessor([("p", PowerTransformer(method=method, standardize=standardize))]).fit(table)
    found = [own["lambda"] for own in fitted["p"].learned["columns"].values()]
    np.testing.assert_allclose(found, theirs.lambdas_, rtol=0, atol=2e-7)  # as far as their search goes
    np.testing.assert_allclose(fitted.transform(new).to_numpy(), theirs.transform(new.to_numpy()), rtol=2e-6, atol=2e-6)
    # With our λ theirs gives the same to 1e-9; so all of the difference is that λ.
    likelihood = stats.yeojohnson_llf if method == "yeo-johnson" else stats.boxcox_llf
    transform_one = stats.yeojohnson if method == "yeo-johnson" else stats.boxcox
    for name, power, other in zip(table.columns, found, theirs.lambdas_, strict=True):
        x = table[name].to_numpy()
        assert likelihood(power, x) >= likelihood(other, x) - 1e-12 * abs(likelihood(other, x))
        known, made = transform_one(x, power), fitted.transform(table)[name].to_numpy()
        expected = (known - known.mean()) / known.std() if standardize else known
        np.testing.assert_allclose(made, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", ["yeo-johnson", "box-cox"])
@settings(max_examples=12)
@given(values=st.lists(st.floats(0.01, 100.0), min_size=3, max_size=20))
def test_the_power_is_a_zero_of_the_likelihoods_slope(method: str, values: list[float]) -> None:
    x = np.array(values if method == "box-cox" else [*values, -values[0]])
    if np.ptp(x) < 0.01 * np.abs(x).max():
        return
    fitted = Preprocessor([("p", PowerTransformer(method=method))]).fit(pl.DataFrame({"x": x}))
    power = fitted["p"].learned["columns"]["x"]["lambda"]

    def slope(at: float) -> Any:
        """In so many digits that nothing is rounded away where λ is large."""
        with mpmath.workdps(400):
            points = [mpmath.mpf(v) for v in x.tolist()]
            logs = [mpmath.log(v) if method == "box-cox" else mpmath.sign(v) * mpmath.log1p(abs(v)) for v in points]

            def loss(p: Any) -> Any:
                y = [
                    mpmath.expm1(p * u) / p if u >= 0 or method == "box-cox" else -mpmath.expm1((2 - p) * -u) / (2 - p)
                    for u in logs
                ]
                mean = sum(y) / len(y)
                return (p - 1) * sum(logs) - mpmath.log(sum((v - mean) ** 2 for v in y) / len(y)) * len(y) / 2

            return mpmath.diff(loss, mpmath.mpf(at))

    likely = stats.yeojohnson(x, power) if method == "yeo-johnson" else stats.boxcox(x, power)
    made = Preprocessor([("p", PowerTransformer(method=method, standardize=False))]).fit_transform(pl.DataFrame({"x": x}))
    np.testing.assert_allclose(made["x"].to_numpy(), likely, rtol=1e-9, atol=1e-12)
    step = 1e-9 * max(1.0, abs(power))
    assert slope(power - step) > 0 > slope(power + step)


@pytest.mark.parametrize("unit", [1e-12, 1e-3, 1e6])
def test_the_power_transform_of_small_and_large_units(unit: float) -> None:
    table = TABLE.select(pl.col("a") * unit)
    power = (fitted := Preprocessor([("p", PowerTransformer())]).fit(table))["p"].learned["columns"]["a"]["lambda"]
    known = stats.yeojohnson(table["a"].to_numpy(), power)
    expected = (known - known.mean()) / known.std()
    np.testing.assert_allclose(fitted.transform(table)["a"].to_numpy(), expected, rtol=1e-9, atol=1e-9)

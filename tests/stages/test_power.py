"""The power transform against scikit-learn, SciPy and arithmetic of many digits."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import preprocessing as sk

from rayline.core.errors import DataError
from rayline.inference.pipeline import Preprocessor
from rayline.stages import PowerTransformer
from rayline.stages.power import PowerMethod
from tests.stages.numbers import NEW, TABLE

from .one_stage import check_single_rows


@pytest.mark.parametrize("method", ["yeo-johnson", "box-cox"])
@pytest.mark.parametrize("standardize", [True, False])
def test_power_transformer(method: PowerMethod, standardize: bool) -> None:
    table, new = (t if method == "yeo-johnson" else t.select("b") for t in (TABLE, NEW))
    theirs = sk.PowerTransformer(method=method, standardize=standardize).fit(table.to_numpy())
    fitted = Preprocessor([("p", PowerTransformer(method=method, standardize=standardize))]).fit(table)
    found = [own["lambda"] for own in fitted["p"].learned["columns"].values()]  # type: ignore[index]
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
def test_the_power_is_a_zero_of_the_likelihoods_slope(method: PowerMethod, values: list[float]) -> None:
    x = np.array(values if method == "box-cox" else [*values, -values[0]])
    assume(np.ptp(x) >= 0.01 * np.abs(x).max())
    fitted = Preprocessor([("p", PowerTransformer(method=method))]).fit(pl.DataFrame({"x": x}))
    power = fitted["p"].learned["columns"]["x"]["lambda"]  # type: ignore[index]

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
    made = Preprocessor([("p", PowerTransformer(method=method, standardize=False))]).fit_transform(
        pl.DataFrame({"x": x})
    )
    np.testing.assert_allclose(made["x"].to_numpy(), likely, rtol=1e-9, atol=1e-12)
    step = 1e-9 * max(1.0, abs(power))
    assert slope(power - step) > 0 > slope(power + step)


@pytest.mark.parametrize("unit", [1e-12, 1e-3, 1e6])
def test_the_power_transform_of_small_and_large_units(unit: float) -> None:
    table = TABLE.select(pl.col("a") * unit)
    power = (fitted := Preprocessor([("p", PowerTransformer())]).fit(table))["p"].learned["columns"]["a"]["lambda"]  # type: ignore[index]
    known = stats.yeojohnson(table["a"].to_numpy(), power)
    expected = (known - known.mean()) / known.std()
    np.testing.assert_allclose(fitted.transform(table)["a"].to_numpy(), expected, rtol=1e-9, atol=1e-9)


FAR = [
    [1001.0, 1002.0, 1003.0, 1005.0, 1009.0],
    [2003.0, 1950.0, 1997.0, 2000.0, 2009.0],
    [1e6, 1e6 + 1, 1e6 + 2, 1e6 + 9],
    [1e9 + 1, 1e9 + 2, 1e9 + 7],
    [1e-9, 2e-9, 5e-9],
    [1e200, 2e200, 5e200],
]


@pytest.mark.parametrize("values", FAR, ids=str)
@pytest.mark.parametrize(("method", "sign"), [("yeo-johnson", 1.0), ("yeo-johnson", -1.0), ("box-cox", 1.0)])
def test_columns_far_from_zero(method: PowerMethod, sign: float, values: list[float]) -> None:
    """Against extended precision, in which the powers neither overflow nor vanish."""
    table = pl.DataFrame({"x": [sign * v for v in values]})
    p = Preprocessor([("p", PowerTransformer(method=method))]).fit(table)
    power = p["p"].state["columns"]["x"]["lambda"]  # type: ignore[union-attr]
    power = power if sign > 0 else 2.0 - power
    origin = 0.0 if method == "box-cox" else 1.0
    # ln((origin + x) / (origin + x0)): a power of this has the same λ, and the same results once they are standardized
    log = np.log1p((np.array(values, np.longdouble) - values[0]) / (np.longdouble(origin) + values[0]))

    def results(at: float) -> Any:
        return np.expm1(at * log) / at

    def likelihood(at: float) -> float:
        return float((at - 1) * log.sum() - len(log) / 2 * np.log(np.var(results(at))))

    y = results(power)
    wanted = sign * (y - y.mean()) / y.std()
    found = p.transform(table)["x"].to_numpy()
    np.testing.assert_allclose(found, wanted.astype(float), rtol=1e-6, atol=1e-6)
    assert likelihood(power) >= max(likelihood(power * (1 - 1e-3)), likelihood(power * (1 + 1e-3)))
    np.testing.assert_allclose(p.inverse_transform(p.transform(table))["x"], table["x"], rtol=1e-12, atol=1e-15)
    check_single_rows(p, table)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_other_side_of_a_column_on_one_side(sign: float) -> None:
    values = sign * np.random.default_rng(3).lognormal(1, 1, 100)
    new = np.array([-50.0, -3.0, -0.5, -1e-9, 0.0, 1e-9, 0.5, 3.0, 50.0])
    theirs = sk.PowerTransformer().fit(values[:, None]).transform(new[:, None])[:, 0]
    p = Preprocessor([("p", PowerTransformer())]).fit(pl.DataFrame({"x": values}))
    made = p.transform(pl.DataFrame({"x": new}))
    np.testing.assert_allclose(made["x"], theirs, rtol=1e-6)
    np.testing.assert_allclose(p.inverse_transform(made)["x"], new, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("values", [FAR[0], FAR[1], FAR[3]], ids=str)
def test_results_that_collapse_are_refused(values: list[float]) -> None:
    with pytest.raises(DataError, match=r"column 'x' are (all the same|too large)"):
        Preprocessor([("p", PowerTransformer(standardize=False))]).fit(pl.DataFrame({"x": values}))


def test_a_saved_power_without_a_center_gives_what_it_gave() -> None:
    values = [1.0, 2.0, 9.0, 30.0]
    theirs = sk.PowerTransformer().fit(np.reshape(values, (-1, 1)))
    y = np.reshape(sk.power_transform(np.reshape(values, (-1, 1)), standardize=False), -1)
    saved = Preprocessor([("p", PowerTransformer())]).fit(pl.DataFrame({"x": values})).to_json()
    saved["stages"][0][1]["learned"]["columns"]["x"] = {
        "lambda": float(theirs.lambdas_[0]),
        "mean": float(y.mean()),
        "scale": float(y.std()),
    }
    old = Preprocessor.from_json(saved)
    made = old.transform(pl.DataFrame({"x": values}))
    np.testing.assert_allclose(made["x"], theirs.transform(np.reshape(values, (-1, 1)))[:, 0], rtol=1e-12)
    np.testing.assert_allclose(old.inverse_transform(made)["x"], values, rtol=1e-12)

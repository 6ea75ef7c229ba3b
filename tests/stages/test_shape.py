"""Stages that change a distribution's shape, against scikit-learn and NumPy."""

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

from rayline.core.errors import DataError, ParameterError
from rayline.data.preprocessor import Preprocessor
from rayline.stages import (
    Binarizer,
    Clipper,
    KBinsDiscretizer,
    Log,
    MaxAbsScaler,
    Normalizer,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
)

RNG = np.random.default_rng(7)
TABLE = pl.DataFrame(
    {"a": RNG.normal(3, 2, 200), "b": RNG.lognormal(0, 1, 200), "c": RNG.integers(1, 6, 200).astype(float)}
)
NEW = pl.DataFrame({"a": RNG.normal(3, 4, 50), "b": RNG.lognormal(0, 2, 50), "c": RNG.integers(0, 9, 50).astype(float)})


def transform(stage: Any, table: pl.DataFrame = TABLE, new: pl.DataFrame = NEW) -> np.ndarray[Any, Any]:
    return Preprocessor([("stage", stage)]).fit(table).transform(new).to_numpy()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (MaxAbsScaler(), sk.MaxAbsScaler()),
        (RobustScaler(), sk.RobustScaler()),
        (
            RobustScaler(quantile_range=(10, 95), with_centering=False),
            sk.RobustScaler(quantile_range=(10, 95), with_centering=False),
        ),
        (MaxAbsScaler(clip=True), sk.MaxAbsScaler(clip=True)),
        (RobustScaler(unit_variance=True), sk.RobustScaler(unit_variance=True)),
        (Normalizer(), sk.Normalizer()),
        (Normalizer(norm="l1"), sk.Normalizer(norm="l1")),
        (Normalizer(norm="max"), sk.Normalizer(norm="max")),
        (Binarizer(threshold=2), sk.Binarizer(threshold=2)),
        (QuantileTransformer(n_quantiles=50), sk.QuantileTransformer(n_quantiles=50)),
        (QuantileTransformer(n_quantiles=200), sk.QuantileTransformer(n_quantiles=200)),
        (
            QuantileTransformer(n_quantiles=50, output_distribution="normal"),
            sk.QuantileTransformer(n_quantiles=50, output_distribution="normal"),
        ),
        (KBinsDiscretizer(strategy="uniform"), sk.KBinsDiscretizer(encode="ordinal", strategy="uniform")),
        (
            KBinsDiscretizer(n_bins=4, quantile_method="linear"),
            sk.KBinsDiscretizer(4, encode="ordinal", quantile_method="linear"),
        ),
        (KBinsDiscretizer(n_bins=3, encode="onehot"), sk.KBinsDiscretizer(3, encode="onehot-dense")),
        (KBinsDiscretizer(n_bins=7), sk.KBinsDiscretizer(7, encode="ordinal")),
        (KBinsDiscretizer(strategy="kmeans"), sk.KBinsDiscretizer(encode="ordinal", strategy="kmeans")),
        (
            KBinsDiscretizer(n_bins={"b": 9}, strategy="kmeans"),
            sk.KBinsDiscretizer([5, 9, 5], encode="ordinal", strategy="kmeans"),
        ),
    ],
    ids=lambda stage: repr(stage)[:60],
)
@pytest.mark.filterwarnings("ignore:Bins whose width are too small:UserWarning")
def test_as_scikit_learn(ours: Any, theirs: Any) -> None:
    expected = theirs.fit(TABLE.to_numpy()).transform(NEW.to_numpy())
    np.testing.assert_allclose(transform(ours), expected, rtol=1e-9, atol=1e-9)


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


def test_log_and_clip() -> None:
    np.testing.assert_allclose(transform(Log(["b"]))[:, 1], np.log(NEW["b"].to_numpy() + 1), rtol=1e-12)
    low, high = np.quantile(TABLE["a"].to_numpy(), [0.05, 0.9])
    clipped = transform(Clipper(["a"], lower_quantile=0.05, upper_quantile=0.9))[:, 0]
    np.testing.assert_allclose(clipped, NEW["a"].to_numpy().clip(low, high), rtol=1e-12)
    with pytest.raises(DataError, match="logarithm"):
        transform(Log(["x"], offset=0), pl.DataFrame({"x": [0.0, 1.0]}))
    with pytest.raises(ParameterError):
        Clipper(lower_quantile=2)


def test_given_edges() -> None:
    bins = transform(KBinsDiscretizer(["a"], edges=[0, 2, 4, 6]))[:, 0]
    np.testing.assert_array_equal(bins, np.digitize(NEW["a"].to_numpy(), [2, 4]))


def test_scalers_share_the_scan_with_an_imputer() -> None:
    from rayline.stages import SimpleImputer

    table = pl.DataFrame({"x": [1.0, None, 4.0, 9.0]})
    for scaler in (RobustScaler(), MaxAbsScaler()):
        p = Preprocessor([("a", SimpleImputer(strategy="median")), ("b", scaler)]).fit(table)
        assert p.scans == 1
        filled = Preprocessor([("a", SimpleImputer(strategy="median"))]).fit_transform(table)
        np.testing.assert_allclose(p.transform(table).to_numpy(), transform(scaler, filled, filled), rtol=1e-9)

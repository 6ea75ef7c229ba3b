"""Every stage that scikit-learn has too, against it, on random tables: fitted on one, asked about another.

What has a file of its own with the same kind of test is not repeated here: StandardScaler and MinMaxScaler (test_scale.py), the
encoders (test_encode.py, test_multi_hot.py, test_target_encoder.py), SplineTransformer (test_splines.py), KNNImputer
(test_neighbors.py), PowerTransformer's λ (test_power.py), the vectorizers (test_text.py).
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn import decomposition, feature_selection, impute
from sklearn import preprocessing as sk

from rayline import stages
from rayline.inference.pipeline import Preprocessor

NAMES = ("a", "b", "c")
numbers = st.one_of(st.integers(-40, 40).map(lambda i: i / 4), st.floats(-1000, 1000).map(lambda x: round(x, 6)))


def tables(*, missing: bool) -> st.SearchStrategy[pl.DataFrame]:
    cell = st.one_of(st.none(), numbers) if missing else numbers
    rows = st.lists(st.tuples(*[cell] * len(NAMES)), min_size=2, max_size=25)
    made = rows.map(lambda r: pl.DataFrame(r, schema=dict.fromkeys(NAMES, pl.Float64), orient="row"))
    return made.filter(lambda t: all(t[name].count() for name in NAMES))


def matrix(table: pl.DataFrame) -> Any:
    return table.fill_null(np.nan).to_numpy()


def compare(ours: Any, theirs: Any, table: pl.DataFrame, new: pl.DataFrame, tolerance: float = 1e-9) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs warn of constant columns, few rows and narrow bins
        expected = np.asarray(theirs.fit(matrix(table)).transform(matrix(new)), dtype=float)
    made = Preprocessor([("stage", ours)]).fit(table).transform(new)
    found = made.with_columns(pl.all().cast(pl.Float64)).fill_null(np.nan).to_numpy()
    size = np.nanmax(np.abs(expected), initial=1.0)
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=tolerance, atol=tolerance * size)


WITH_MISSING = [
    (stages.MaxAbsScaler(), sk.MaxAbsScaler()),
    (stages.MaxAbsScaler(clip=True), sk.MaxAbsScaler(clip=True)),
    (stages.RobustScaler(), sk.RobustScaler()),
    (
        stages.RobustScaler(quantile_range=(5, 60), unit_variance=True),
        sk.RobustScaler(quantile_range=(5, 60), unit_variance=True),
    ),
    (stages.SimpleImputer(), impute.SimpleImputer()),
    (stages.SimpleImputer(strategy="median"), impute.SimpleImputer(strategy="median")),
    (stages.SimpleImputer(strategy="most_frequent"), impute.SimpleImputer(strategy="most_frequent")),
    (
        stages.SimpleImputer(strategy="constant", fill_value=-7.5),
        impute.SimpleImputer(strategy="constant", fill_value=-7.5),
    ),
    (stages.QuantileTransformer(n_quantiles=4), sk.QuantileTransformer(n_quantiles=4)),
    (stages.QuantileTransformer(), sk.QuantileTransformer()),
]

WITHOUT_MISSING = [
    (stages.Normalizer(), sk.Normalizer()),
    (stages.Normalizer(norm="l1"), sk.Normalizer(norm="l1")),
    (stages.Normalizer(norm="max"), sk.Normalizer(norm="max")),
    (stages.Binarizer(threshold=0.5), sk.Binarizer(threshold=0.5)),
    (
        stages.KBinsDiscretizer(n_bins=3, strategy="uniform"),
        sk.KBinsDiscretizer(3, encode="ordinal", strategy="uniform"),
    ),
    (stages.KBinsDiscretizer(n_bins=4), sk.KBinsDiscretizer(4, encode="ordinal")),
    (stages.KBinsDiscretizer(n_bins=3, encode="onehot"), sk.KBinsDiscretizer(3, encode="onehot-dense")),
]


def named(pair: Any) -> str:
    return repr(pair[0])[:70]


@pytest.mark.parametrize("pair", WITH_MISSING, ids=named)
@settings(max_examples=15)
@given(table=tables(missing=True), new=tables(missing=True))
def test_with_missing_values(pair: Any, table: pl.DataFrame, new: pl.DataFrame) -> None:
    if isinstance(pair[0], stages.RobustScaler):
        quartiles = np.nanquantile(matrix(table), np.array(pair[0].quantile_range) / 100, axis=0)
        spread = quartiles[1] - quartiles[0]
        assume(((spread == 0) | (spread > 1e-3)).all())  # else their rounding is divided by nearly nothing
    if isinstance(pair[0], stages.QuantileTransformer):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            steps = np.diff(pair[1].fit(matrix(table)).quantiles_, axis=0)
        assume(((steps == 0) | (steps > 1e-9)).all())  # else theirs takes equal values apart by rounding
    compare(*pair, table, new)  # type: ignore[call-arg]


@pytest.mark.parametrize("pair", WITHOUT_MISSING, ids=named)
@settings(max_examples=15)
@given(table=tables(missing=False), new=tables(missing=False))
def test_without_missing_values(pair: Any, table: pl.DataFrame, new: pl.DataFrame) -> None:
    compare(*pair, table, new)  # type: ignore[call-arg]


@settings(max_examples=15)
@given(table=tables(missing=False), new=tables(missing=False), degree=st.integers(2, 4), interaction_only=st.booleans())
def test_polynomial_features(table: pl.DataFrame, new: pl.DataFrame, degree: int, interaction_only: bool) -> None:
    theirs = sk.PolynomialFeatures(degree, interaction_only=interaction_only, include_bias=False).fit(matrix(table))
    fitted = Preprocessor([("p", stages.PolynomialFeatures(degree=degree, interaction_only=interaction_only))]).fit(
        table
    )
    made = fitted.transform(new)
    assert made.columns == list(theirs.get_feature_names_out(NAMES))
    np.testing.assert_allclose(made.to_numpy(), theirs.transform(matrix(new)), rtol=1e-9)


@settings(max_examples=15)
@given(table=tables(missing=False), new=tables(missing=False), n=st.integers(1, 3), whiten=st.booleans())
def test_pca(table: pl.DataFrame, new: pl.DataFrame, n: int, whiten: bool) -> None:
    assume(table.height > 3)
    theirs = decomposition.PCA(n, svd_solver="full", whiten=whiten).fit(matrix(table))
    spectrum = decomposition.PCA(svd_solver="full").fit(matrix(table)).explained_variance_
    gaps = -np.diff(spectrum) / max(spectrum[0], 1e-300)
    assume(spectrum[0] > 0)
    assume((gaps > 1e-3).all())  # else any direction between two components is as good
    assume(spectrum[-1] > 1e-6 * spectrum[0])
    made = Preprocessor([("p", stages.PCA(n_components=n, whiten=whiten))]).fit(table).transform(new).to_numpy()
    expected = theirs.transform(matrix(new))
    signs = np.sign((made * expected).sum(axis=0))
    np.testing.assert_allclose(made * signs, expected, rtol=1e-9, atol=1e-9 * max(1.0, float(np.abs(expected).max())))


@settings(max_examples=15)
@given(table=tables(missing=True))
def test_missing_indicator(table: pl.DataFrame) -> None:
    for features in ("missing-only", "all"):
        expected = impute.MissingIndicator(features=features).fit_transform(matrix(table))
        made = Preprocessor([("m", stages.MissingIndicator(features=features))]).fit_transform(table)
        np.testing.assert_array_equal(made.to_numpy()[:, len(NAMES) :].astype(bool).reshape(expected.shape), expected)


@settings(max_examples=15)
@given(table=tables(missing=False), threshold=st.sampled_from([0.0, 1.0, 30.0]))
def test_variance_threshold(table: pl.DataFrame, threshold: float) -> None:
    variances = matrix(table).var(axis=0)
    assume((np.abs(variances - threshold) > 1e-9 * variances).all() or threshold == 0)
    assume((variances > threshold).any())
    theirs = feature_selection.VarianceThreshold(threshold).fit(matrix(table)).get_support()
    made = Preprocessor([("v", stages.VarianceThreshold(threshold=threshold))]).fit_transform(table)
    assert made.columns == [name for name, kept in zip(NAMES, theirs, strict=True) if kept]


@settings(max_examples=15)
@given(table=tables(missing=False), labels=st.lists(st.sampled_from(["x", "y", "z"]), min_size=25, max_size=25))
def test_select_k_best(table: pl.DataFrame, labels: list[str]) -> None:
    y = np.array(labels[: table.height])
    values = matrix(table)
    groups = [values[y == label] for label in set(y.tolist())]
    assume(len(groups) > 1)
    within = np.sum([((g - g.mean(axis=0)) ** 2).sum(axis=0) for g in groups], axis=0)
    total = ((values - values.mean(axis=0)) ** 2).sum(axis=0)
    assume(table.height > len(groups))
    assume((within > 1e-6 * total.max()).all())
    assume((total - within > 1e-4 * total).all())
    expected, _ = feature_selection.f_classif(values, y)
    fitted = Preprocessor([("s", stages.SelectKBest(k=2))]).fit(
        table.with_columns(y=pl.Series(y)), target_columns=["y"]
    )
    np.testing.assert_allclose(list(fitted["s"].learned["scores"].values()), expected, rtol=1e-9)  # type: ignore[index]

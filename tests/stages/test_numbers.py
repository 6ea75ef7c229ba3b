"""Stages of single numbers against scikit-learn and NumPy.

Covers `stages.clipping`, `stages.discretize` and `stages.quantile` too.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn import preprocessing as sk

from rayline.core.errors import DataError, ParameterError
from rayline.inference.pipeline import Preprocessor
from rayline.stages import (
    Clipper,
    KBinsDiscretizer,
    Log,
    MaxAbsScaler,
    QuantileTransformer,
    RobustScaler,
)
from tests.stages.numbers import NEW, TABLE, transform


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            RobustScaler(quantile_range=(10, 95), with_centering=False),
            sk.RobustScaler(quantile_range=(10, 95), with_centering=False),
        ),
        (RobustScaler(unit_variance=True), sk.RobustScaler(unit_variance=True)),
        (
            QuantileTransformer(n_quantiles=50, output_distribution="normal"),
            sk.QuantileTransformer(n_quantiles=50, output_distribution="normal"),
        ),
        (
            KBinsDiscretizer(n_bins=4, quantile_method="linear"),
            sk.KBinsDiscretizer(4, encode="ordinal", quantile_method="linear"),
        ),
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


def kmeans_edges(values: Any, n: int) -> tuple[Any, Any]:
    stage = KBinsDiscretizer(n_bins=n, strategy="kmeans")
    ours = Preprocessor([("b", stage)]).fit(pl.DataFrame({"x": values}))["b"].state["columns"]["x"]["edges"]  # type: ignore[union-attr]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer values than clusters
        theirs = (
            sk.KBinsDiscretizer(n, encode="ordinal", strategy="kmeans").fit(np.reshape(values, (-1, 1))).bin_edges_[0]
        )
    return ours, theirs


@pytest.mark.parametrize(
    ("values", "n"),
    [
        ([0.0, 0.5, 2.0, 3.0, 9.0, 10.0], 3),
        ([0.0, 0.0, 10.0, 10.0], 3),  # fewer values than bins
        *((np.random.default_rng(seed).exponential(size=40) ** 3, 3 + seed % 5) for seed in range(8)),
        *((1e6 + np.random.default_rng(seed).lognormal(0, 2, 40), 4 + seed % 6) for seed in range(3)),
    ],
)
def test_kmeans_leaves_no_cluster_empty(values: Any, n: int) -> None:
    ours, theirs = kmeans_edges(values, n)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_kmeans_with_a_bin_for_each_value() -> None:
    ours, _ = kmeans_edges([1.0, 2.0, 1.0, 5.0, 3.0, 1.0, 4.0, 6.0, 1.0, 0.0, 3.0, 1.0, 6.0], 11)
    assert ours == [0.0, 0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.0]

"""Stages that leave fewer columns, against scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn import decomposition, feature_selection

from rayline.core.errors import DataError, SchemaError
from rayline.data.preprocessor import Preprocessor
from rayline.stages import PCA, CorrelationFilter, SelectKBest, VarianceThreshold

RNG = np.random.default_rng(3)
BASE = RNG.normal(size=(300, 3))
TABLE = pl.DataFrame(
    {
        "a": BASE[:, 0] * 5,
        "b": BASE[:, 1] + BASE[:, 0],
        "c": BASE[:, 2] * 0.1 + 3,
        "d": BASE[:, 0] * 5 + BASE[:, 2] * 0.01,
    }
)
LABELS = pl.Series("y", np.where(BASE[:, 1] + 0.5 * BASE[:, 2] > 0, "late", "early"))


@pytest.mark.parametrize("how", [{}, {"n_components": 2}, {"n_components": 3, "whiten": True}])  # the last has no variance
def test_pca(how: dict[str, Any]) -> None:
    ours = Preprocessor([("p", PCA(**how))]).fit_transform(TABLE).to_numpy()
    theirs = decomposition.PCA(svd_solver="full", **how).fit_transform(TABLE.to_numpy())
    signs = np.sign((ours * theirs).sum(axis=0))
    np.testing.assert_allclose(ours, theirs * signs, rtol=1e-9, atol=1e-9)


def test_pca_of_incomplete_rows() -> None:
    table = TABLE.with_columns(pl.when(pl.int_range(pl.len()) < 5).then(None).otherwise("a").alias("a"))
    result = Preprocessor([("p", PCA(n_components=1))]).fit_transform(table)["pca0"]
    assert result.null_count() == 5
    with pytest.raises(DataError, match="impute first"):
        Preprocessor([("p", PCA())]).fit(table.head(5))


def test_variance_threshold() -> None:
    selector = feature_selection.VarianceThreshold(0.05).fit(TABLE.to_numpy())
    kept = [name for name, keep in zip(TABLE.columns, selector.get_support(), strict=True) if keep]
    assert (
        Preprocessor([("v", VarianceThreshold(threshold=0.05))]).fit_transform(TABLE).columns == kept == ["a", "b", "d"]
    )


def test_correlation_filter() -> None:
    assert Preprocessor([("c", CorrelationFilter())]).fit_transform(TABLE).columns == ["a", "b", "c"]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_select_k_best(k: int) -> None:
    table = TABLE.with_columns(LABELS)
    fitted = Preprocessor([("s", SelectKBest(k=k))]).fit(table, target_columns=["y"])
    selector = feature_selection.SelectKBest(feature_selection.f_classif, k=k).fit(TABLE.to_numpy(), LABELS.to_numpy())
    kept = {name for name, keep in zip(TABLE.columns, selector.get_support(), strict=True) if keep}
    assert set(fitted.output_schema) == kept
    scores = fitted["s"].learned["scores"]
    np.testing.assert_allclose(list(scores.values()), selector.scores_, rtol=1e-9)


def test_select_for_a_regression() -> None:
    table = TABLE.select("a", "c", y=pl.col("b"))
    fitted = Preprocessor([("s", SelectKBest(k=1))]).fit(table, target_columns=["y"])
    expected, _ = feature_selection.f_regression(table.select("a", "c").to_numpy(), table["y"].to_numpy())
    np.testing.assert_allclose(list(fitted["s"].learned["scores"].values()), expected, rtol=1e-9)
    with pytest.raises(SchemaError, match="no target"):
        Preprocessor([("s", SelectKBest(k=1))]).fit(table)


def test_wide_components_there_and_back() -> None:
    table = pl.DataFrame({f"x{i}": column for i, column in enumerate(np.random.default_rng(0).normal(size=(120, 300)))})
    fitted = Preprocessor([("pca", PCA())]).fit(table)
    found = fitted.transform(table)
    expected = decomposition.PCA(svd_solver="full").fit_transform(table.to_numpy())
    np.testing.assert_allclose(np.abs(found.to_numpy()), np.abs(expected), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(fitted.inverse_transform(found).to_numpy(), table.to_numpy(), rtol=1e-9, atol=1e-9)
    assert fitted.lineage["pca119"] == tuple(table.columns)

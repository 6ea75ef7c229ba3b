"""Stages that leave fewer columns, against scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn import decomposition, feature_selection

from rayline.core.errors import DataError, SchemaError
from rayline.inference.pipeline import Preprocessor
from rayline.stages import PCA, CorrelationFilter, DropColumns, SelectColumns, SelectKBest, VarianceThreshold

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


def test_pca_of_incomplete_rows() -> None:
    table = TABLE.with_columns(pl.when(pl.int_range(pl.len()) < 5).then(None).otherwise("a").alias("a"))
    result = Preprocessor([("p", PCA(n_components=1))]).fit_transform(table)["pca0"]
    assert result.null_count() == 5
    with pytest.raises(DataError, match=r"column .a. has no values"):
        Preprocessor([("p", PCA())]).fit(table.head(5))


def test_correlation_filter() -> None:
    assert Preprocessor([("c", CorrelationFilter())]).fit_transform(TABLE).columns == ["a", "b", "c"]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_select_k_best(k: int) -> None:
    table = TABLE.with_columns(LABELS)
    fitted = Preprocessor([("s", SelectKBest(k=k))]).fit(table, target_columns=["y"])
    selector = feature_selection.SelectKBest(feature_selection.f_classif, k=k).fit(TABLE.to_numpy(), LABELS.to_numpy())
    kept = {name for name, keep in zip(TABLE.columns, selector.get_support(), strict=True) if keep}
    assert set(fitted.output_schema) == kept
    scores = fitted["s"].learned["scores"]  # type: ignore[index]
    np.testing.assert_allclose(list(scores.values()), selector.scores_, rtol=1e-9)


def test_select_for_a_regression() -> None:
    table = TABLE.select("a", "c", y=pl.col("b"))
    fitted = Preprocessor([("s", SelectKBest(k=1))]).fit(table, target_columns=["y"])
    expected, _ = feature_selection.f_regression(table.select("a", "c").to_numpy(), table["y"].to_numpy())
    np.testing.assert_allclose(list(fitted["s"].learned["scores"].values()), expected, rtol=1e-9)  # type: ignore[index]
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


def rows_of(matrix: Any) -> pl.DataFrame:
    return pl.DataFrame(matrix, schema=[f"c{i}" for i in range(matrix.shape[1])], orient="row")


def test_pca_of_fewer_rows_than_columns() -> None:
    x = np.random.default_rng(0).normal(size=(4, 7))
    theirs = decomposition.PCA(svd_solver="full").fit_transform(x)
    np.testing.assert_allclose(Preprocessor([("p", PCA())]).fit_transform(rows_of(x)).to_numpy(), theirs, atol=1e-12)
    white = Preprocessor([("p", PCA(whiten=True))]).fit(rows_of(x))
    made = white.transform(rows_of(x))
    np.testing.assert_allclose(made.to_numpy()[:, :3], theirs[:, :3] / theirs[:, :3].std(axis=0, ddof=1), atol=1e-12)
    assert (made["pca3"] == 0).all()  # three directions are all that four rows have
    np.testing.assert_allclose(white.inverse_transform(made).to_numpy(), x, atol=1e-12)
    with pytest.raises(DataError, match="at least 5 rows"):
        Preprocessor([("p", PCA(n_components=5))]).fit(rows_of(x))


@pytest.mark.parametrize("whiten", [False, True])
def test_pca_of_columns_that_depend_on_each_other(whiten: bool) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(50, 2)) @ rng.normal(size=(2, 5)) + 1000
    made = Preprocessor([("p", PCA(whiten=whiten))]).fit_transform(rows_of(x)).to_numpy()
    assert made.shape == (50, 5)
    assert np.abs(made[:, 2:]).max() == 0
    np.testing.assert_allclose(made[:, :2], decomposition.PCA(2, whiten=whiten).fit_transform(x), atol=1e-9)


@pytest.mark.parametrize(("share", "n"), [(0.25, 2), (0.3, 2), (0.5, 3), (0.75, 4), (0.999, 4)])
def test_pca_takes_one_more_where_a_share_is_met(share: float, n: int) -> None:
    x = np.vstack([np.eye(4), -np.eye(4)]) @ np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    assert Preprocessor([("p", PCA(n_components=share))]).fit_transform(rows_of(x)).width == n


def test_pca_names_the_column_without_values() -> None:
    table = pl.DataFrame({"a": [1.0, 2.0, 3.0], "b": [None, None, float("nan")], "c": [1.0, None, 2.0]})
    with pytest.raises(DataError, match="column 'b' has no values"):
        Preprocessor([("p", PCA())]).fit(table)


@pytest.mark.parametrize(
    "stage", [VarianceThreshold(), DropColumns(["a", "b"]), SelectColumns([]), VarianceThreshold(threshold=5)], ids=repr
)
def test_a_selector_that_leaves_nothing_is_refused(stage: Any) -> None:
    """A table without columns has no rows: neither Arrow's blocks nor a dict of arrays could say how many predictions."""
    table = pl.DataFrame({"a": [1.0] * 4, "b": [2.0] * 4, "y": [0, 1, 0, 1]})
    with pytest.raises(DataError, match=f"stage 'all' \\({type(stage).__name__}\\): the stage removes every feature"):
        Preprocessor([("all", stage)]).fit(table, target_columns="y")
    with pytest.raises(DataError, match="removes every feature"):
        Preprocessor([("all", stage)]).fit_folds(table, 2, target_columns="y")

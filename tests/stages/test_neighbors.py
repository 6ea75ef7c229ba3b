"""Nearest rows: the imputer against scikit-learn, and what SMOTE promises."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.impute import KNNImputer as Theirs

from rayline.core.errors import DataError, ParameterError, SchemaError
from rayline.inference.pipeline import Preprocessor
from rayline.stages import SMOTE, KNNImputer
from rayline.stages.neighbors import NeighborWeights

RNG = np.random.default_rng(5)


def with_gaps(n: int, share: float = 0.2) -> pl.DataFrame:
    matrix = RNG.normal(size=(n, 4)) @ RNG.normal(size=(4, 4))
    matrix[RNG.random((n, 4)) < share] = np.nan
    return pl.DataFrame(matrix, schema=list("abcd")).fill_nan(None)


@pytest.mark.parametrize("weights", ["uniform", "distance"])
@pytest.mark.parametrize("n_neighbors", [1, 5, 400])
def test_as_scikit_learn(weights: NeighborWeights, n_neighbors: int) -> None:
    table, new = with_gaps(300), with_gaps(80, 0.4)
    ours = Preprocessor([("k", KNNImputer(n_neighbors=n_neighbors, weights=weights))]).fit(table)
    theirs = Theirs(n_neighbors=n_neighbors, weights=weights).fit(table.to_numpy())
    for rows in (table, new):
        np.testing.assert_allclose(
            ours.transform(rows).to_numpy(), theirs.transform(rows.to_numpy()), rtol=1e-9, atol=1e-9
        )


@given(
    values=st.lists(
        st.tuples(*[st.one_of(st.none(), st.floats(-100, 100)) for _ in range(3)]), min_size=2, max_size=12, unique=True
    )
)
def test_as_scikit_learn_on_any_rows(values: list[Any]) -> None:
    table = pl.DataFrame(values, schema=dict.fromkeys("abc", pl.Float64), orient="row")
    assume(all(table[name].null_count() < table.height for name in table.columns))
    # Of all neighbours, so that none are equally far from the edge; and near ones differ by more than rounding.
    ours = Preprocessor([("k", KNNImputer(n_neighbors=50))]).fit_transform(table).to_numpy()
    np.testing.assert_allclose(ours, Theirs(n_neighbors=50).fit_transform(table.to_numpy()), rtol=1e-9, atol=1e-9)


def test_rows_that_repeat_count_as_often() -> None:
    table = pl.DataFrame({"x": [0.0, 0.0, 0.0, 1.0, 0.1], "y": [1.0, 1.0, 1.0, 5.0, None]})
    expected = Theirs(n_neighbors=4).fit_transform(table.to_numpy())
    ours = Preprocessor([("k", KNNImputer(n_neighbors=4))]).fit_transform(table).to_numpy()
    np.testing.assert_allclose(ours, expected)


def test_the_sample_is_bounded_and_does_well() -> None:
    x = RNG.normal(size=20_000)
    table = pl.DataFrame({"x": x, "y": np.where(RNG.random(20_000) < 0.1, np.nan, x * 3)}).fill_nan(None)
    fitted = Preprocessor([("k", KNNImputer(max_donors=500))]).fit(table)
    assert len(fitted["k"].learned["copies"]) == 500  # type: ignore[index]
    wrong = fitted.transform(table)["y"].to_numpy() - x * 3
    assert np.sqrt(np.mean(wrong[table["y"].is_null().to_numpy()] ** 2)) < 0.15  # of a standard deviation of 3


def imbalanced(n: int = 400) -> pl.DataFrame:
    y = RNG.random(n) < 0.1
    return pl.DataFrame(
        {
            "a": RNG.normal(size=n) + 4 * y,
            "b": RNG.normal(size=n),
            "c": RNG.integers(0, 9, n),
            "y": np.where(y, "rare", "common"),
        }
    )


def test_synthetic_rows_lie_between_neighbours_of_their_class() -> None:
    table = imbalanced()
    fitted = Preprocessor([("s", SMOTE(["a", "b"], n_neighbors=3))]).fit(table, target_columns=["y"])
    result = fitted.transform_training(table)
    assert fitted.transform(table).equals(table)
    counts = dict(result["y"].value_counts().rows())
    common = table.filter(pl.col("y") == "common").height
    assert counts["common"] == common
    assert counts["rare"] == pytest.approx(common, rel=0.1)
    rare = table.filter(pl.col("y") == "rare").select("a", "b").to_numpy()
    distances = np.sqrt(((rare[:, None] - rare[None]) ** 2).sum(axis=2))
    np.fill_diagonal(distances, np.inf)
    near = np.argsort(distances, axis=1)[:, :3]
    made = result.filter(pl.col("y") == "rare").select("a", "b").to_numpy()
    new = [point for point in made if not (rare == point).all(axis=1).any()]
    assert len(new) == counts["rare"] - len(rare)
    for point in new:
        gaps = [
            abs(np.linalg.norm(point - rare[i]) + np.linalg.norm(rare[j] - point) - distances[i, j])
            for i in range(len(rare))
            for j in near[i]
        ]
        assert min(gaps) < 1e-9
    assert len(np.unique(np.array(new), axis=0)) == len(new)


def test_synthetic_rows_are_the_same_in_any_order_and_another_seed_gives_others() -> None:
    table = imbalanced()
    fitted = Preprocessor([("s", SMOTE())]).fit(table, target_columns=["y"])
    turned = Preprocessor([("s", SMOTE())]).fit(table.reverse(), target_columns=["y"])
    by = ["a", "b", "c", "y"]
    result = fitted.transform_training(table)
    assert result.sort(by).equals(turned.transform_training(table.reverse()).sort(by))
    assert result.schema == table.schema  # integers are integers
    other = Preprocessor([("s", SMOTE(seed=1))]).fit(table, target_columns=["y"]).transform_training(table)
    assert not other.sort(by).equals(result.sort(by))


def test_wrong_use() -> None:
    table = imbalanced()
    with pytest.raises(SchemaError, match="no class column"):
        Preprocessor([("s", SMOTE())]).fit(table)
    with pytest.raises(ParameterError, match="it is n_neighbors here"):
        SMOTE(k_neighbors=3)  # type: ignore[call-arg]
    with pytest.raises(DataError, match="no values"):
        Preprocessor([("k", KNNImputer())]).fit(
            pl.DataFrame({"x": [1.0], "y": [None]}, schema=dict.fromkeys("xy", pl.Float64))
        )


def test_batches_of_as_many_rows_as_columns() -> None:
    table = pl.DataFrame({"x": [1.0, 2.0, 8.0, 9.0, 8.5], "z": [-1.0, -2.0, -8.0, None, -8.4], "y": [*"aabbb"]})
    for stage in (KNNImputer(["x", "z"], n_neighbors=1), SMOTE(["x", "z"])):
        fitted = Preprocessor([("stage", stage)]).fit(table, target_columns=["y"])
        parts = [fitted.transform_training(part) for part in table.iter_slices(2)]
        assert pl.concat(parts).equals(fitted.transform_training(table))

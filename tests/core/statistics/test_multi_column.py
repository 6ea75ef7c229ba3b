"""Statistics of several columns, in parts and merged, against NumPy and pandas on all rows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
import polars as pl
import pytest

from rayline.core.statistics.base import Statistic
from rayline.core.statistics.multi_column import Covariance, GroupClasses, GroupMoments, PairCounts, row_hash


def random_table(n: int = 300) -> pl.DataFrame:
    random = np.random.default_rng(7)
    x, y = random.normal(3, 2, n), random.normal(size=n)
    return pl.DataFrame(
        {
            "x": [None if i % 17 == 0 else float(v) for i, v in enumerate(x)],
            "y": [float("nan") if i % 23 == 0 else float(v) for i, v in enumerate(2 * x + y)],
            "key": [None if i % 29 == 0 else "abc"[i % 3] for i in range(n)],
            "label": ["no" if i % 5 else "yes" for i in range(n)],
        }
    )


def state(statistic: type[Statistic], table: pl.DataFrame, columns: Sequence[str]) -> Statistic:
    query = statistic.query(table.lazy(), *map(pl.col, columns))
    assert query is not None
    return statistic.of(query.collect())


def merged(statistic: type[Statistic], table: pl.DataFrame, columns: Sequence[str], cuts: Sequence[int]) -> Statistic:
    ends = [0, *cuts, table.height]
    parts = [state(statistic, table[a:b], columns) for a, b in itertools.pairwise(ends)]
    return statistic.merge_all([parts[-1], statistic.empty(), *parts[:-1]])


@pytest.mark.parametrize("cuts", [(), (1,), (100, 200), (0, 150, 150)])
def test_covariance_is_that_of_the_complete_rows(cuts: Sequence[int]) -> None:
    table = random_table()
    found = merged(Covariance, table, ["x", "y"], cuts)
    assert isinstance(found, Covariance)
    known = table.select(pl.col("x", "y").fill_nan(None)).drop_nulls().to_numpy()
    assert (found.count, found.n_null) == (len(known), table.height - len(known))
    assert found.mean == pytest.approx(known.mean(axis=0), rel=1e-12)
    assert found.comoment / found.count == pytest.approx(np.cov(known.T, ddof=0), rel=1e-12)
    assert found.correlation == pytest.approx(np.corrcoef(known.T), rel=1e-12)
    assert found.n_known.tolist() == [table["x"].count(), table["y"].fill_nan(None).count()]


def test_a_constant_column_is_correlated_with_nothing() -> None:
    found = state(Covariance, pl.DataFrame({"x": [1.0, 2.0, 3.0], "c": [5.0] * 3}), ["x", "c"])
    assert isinstance(found, Covariance)
    assert found.correlation == pytest.approx(np.array([[1.0, 0.0], [0.0, 0.0]]))


@pytest.mark.parametrize("cuts", [(), (7, 250)])
def test_moments_by_group_are_those_of_pandas(cuts: Sequence[int]) -> None:
    table = random_table()
    found = merged(GroupMoments, table, ["x", "key"], cuts)
    assert isinstance(found, GroupMoments)
    groups = table.to_pandas().groupby("key", dropna=False)["x"]
    expected = pd.DataFrame({"n": groups.count(), "mean": groups.mean(), "m2": groups.var(ddof=0) * groups.count()})
    rows = found.by_key()
    assert rows["key"].to_list() == ["a", "b", "c", None]
    for name in ("n", "mean", "m2"):
        assert rows[name].to_list() == pytest.approx(expected[name].to_list(), rel=1e-12)
    assert rows["n_null"].sum() == table["x"].null_count()


def test_classes_by_group_are_a_contingency_table() -> None:
    table = random_table()
    found = merged(GroupClasses, table, ["label", "key"], (60, 61))
    assert isinstance(found, GroupClasses)
    assert found.classes == ["no", "yes"]
    shares = found.moments("yes").by_key()
    expected = table.to_pandas().groupby("key", dropna=False)["label"].apply(lambda of: (of == "yes").mean())
    assert shares["mean"].to_list() == pytest.approx(expected.to_list(), rel=1e-12)


def test_pairs_are_counted_with_missing_as_a_value() -> None:
    table = random_table()
    found = merged(PairCounts, table, ["key", "label"], (100,))
    assert isinstance(found, PairCounts)
    assert found.table is not None
    counts = {(first, second): n for first, second, n in found.table.select("first", "second", "n").rows()}
    expected = table.group_by("key", "label").len().rows()
    assert counts == {(key, label): n for key, label, n in expected}


def test_row_hashes_depend_on_the_values_alone() -> None:
    table = pl.DataFrame({"x": [1.0, 2.0, 1.0, None], "k": ["a", "b", "a", "a"]})
    hashes = table.select(h=row_hash([pl.col("x"), pl.col("k")], 3))["h"].to_list()
    assert hashes[0] == hashes[2]
    assert len({*hashes}) == 3
    nearly = table.with_columns(pl.col("x") * (1 + 1e-12)).select(h=row_hash([pl.col("x"), pl.col("k")], 3))["h"]
    assert nearly.to_list() == hashes
    assert table[::-1].select(h=row_hash([pl.col("x"), pl.col("k")], 3))["h"].to_list() == hashes[::-1]
    assert table.select(h=row_hash([pl.col("x"), pl.col("k")], 4))["h"].to_list() != hashes

"""The sample of rows by their hashes: the same whatever the parts and their order, bounded, each different row as likely as any."""

from __future__ import annotations

from collections import Counter

import numpy as np
import polars as pl
import pytest

from rayline.core.statistics.row_sample import RowSample

TABLE = pl.DataFrame({"g": ["a", "b"] * 500, "x": [float(i % 250) for i in range(1000)], "y": [0.0] * 1000})


def sample(table: pl.DataFrame, size: int, *, grouped: bool = False) -> RowSample:
    columns = ("g", "x", "y") if grouped else ("x", "y")
    query = RowSample.query(table.lazy(), *map(pl.col, columns), size=size, grouped=grouped)
    assert query is not None
    return RowSample.of(query.collect(), size=size)


@pytest.mark.parametrize("size", [1, 40, 250, 1000])
def test_parts_in_any_order_give_the_sample_of_all_rows(size: int) -> None:
    whole = sample(TABLE, size).rows()
    parts = [sample(TABLE[start : start + 130], size) for start in range(0, TABLE.height, 130)]
    assert RowSample.merge_all(parts[::-1], size=size).rows().equals(whole)
    assert parts[0].merge(RowSample.empty(size=size)).rows().equals(parts[0].rows())
    assert whole.height == min(size, 250)


def test_occurrences_are_counted_and_are_no_reason_to_be_chosen() -> None:
    rows = sample(TABLE, 40).rows()
    counts = Counter(TABLE["x"].to_list())
    assert all(n == counts[x] for x, n in rows.select("0", "n").rows())
    often = pl.concat([TABLE, *[TABLE.filter(pl.col("x") == 3.0)] * 50])
    assert sample(often, 40).rows()["0"].to_list() == rows["0"].to_list()


def test_the_sample_is_spread_over_the_values() -> None:
    chosen = sample(TABLE, 100).rows()["0"].to_numpy()
    assert abs(chosen.mean() - 124.5) < 4 * 72.2 / np.sqrt(100)  # four standard errors of a uniform sample


def test_each_group_has_a_sample_and_rows_without_one_do_not_count() -> None:
    table = TABLE.with_columns(pl.when(pl.col("x") < 10).then(None).otherwise(pl.col("g")).alias("g"))
    found = sample(table, 20, grouped=True)
    for group in ("a", "b"):
        values = found.rows(group)["0"].to_list()
        assert len(values) == 20
        assert {*values} <= {*table.filter(pl.col("g") == group)["x"].to_list()}
    assert found.table is not None
    assert found.table["group"].null_count() == 0


def test_no_rows() -> None:
    assert RowSample.empty(size=5).rows().height == 0

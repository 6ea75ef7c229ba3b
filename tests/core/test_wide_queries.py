"""Queries of a wide table in memory: each begins with its own columns, or all of them take the square of its columns."""

from __future__ import annotations

import polars as pl

from rayline.core.scan_results import TableQuery, statistics_of
from rayline.core.statistics.base import StatisticRequest
from rayline.core.statistics.counts import ValueCounts
from rayline.core.statistics.row_counts import RowCount


def test_a_query_of_rows_in_memory_reads_its_own_columns() -> None:
    rows = pl.DataFrame({f"c{i}": ["a", "b", None] for i in range(20)})
    requests = [*(StatisticRequest(ValueCounts, (name,)) for name in rows.columns), StatisticRequest(RowCount, ())]
    *counts, row_count = TableQuery(rows, requests).queries
    assert len(counts) == 20
    assert all("/1 COLUMNS" in query.explain(optimized=False) for query in counts)
    assert row_count.collect().item() == 3
    assert statistics_of(rows, requests) == statistics_of(rows.lazy(), requests)

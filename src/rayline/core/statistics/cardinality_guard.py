"""A limit on the number of distinct values that a streaming query groups by.

A query that counts the values of a column keeps all distinct ones in memory. For a column of identifiers that is the whole
column, and it would exhaust the memory before the query could be stopped.
"""

from __future__ import annotations

import threading

import polars as pl

SHARE = 1 << 9
"""One of `SHARE` distinct values is remembered, by its hash: enough to estimate their number to some 2 % near a million."""


class CardinalityGate:
    """Passes the values of a column until there are certainly more than `limit` distinct ones; from then on replaces every
    value by the first one of its batch, so that few new ones appear. Missing values stay missing."""

    def __init__(self, limit: int) -> None:
        self._limit, self._seen, self._is_open = limit * 1.25, set[int](), True
        self._lock = threading.Lock()

    def __call__(self, values: pl.Series) -> pl.Series:
        if self._is_open:
            hashes = values.hash()
            remembered = hashes.filter(hashes < (1 << 64) // SHARE).unique().to_list()
            with self._lock:
                self._seen.update(remembered)
                self._is_open = len(self._seen) * SHARE <= self._limit
            return values
        present = values.is_not_null()
        first = present.arg_max()
        return values if first is None else values.new_from_index(first, len(values)).zip_with(present, values)

    def of(self, column: pl.Expr) -> pl.Expr:
        """Return the column filtered by this gate."""
        return column.map_batches(self, return_dtype=pl.self_dtype(), is_elementwise=True)

"""A limit on the number of distinct values that a streaming query groups by.

A query that counts the values of a column keeps all distinct ones in memory. For a column of identifiers that is the whole
column, and it would exhaust the memory before the query could be stopped.
"""

from __future__ import annotations

import threading

import numpy as np
import polars as pl

from rayline.core.schema import map_values

SHARE = 1 << 8
"""One of `SHARE` distinct values is remembered, by its hash: enough to estimate their number to some 2 % near a million."""

SAMPLE = 1 << 3
"""The first of `SAMPLE` rows of a batch are looked at first; the others only when these have a value that is not remembered."""


class CardinalityGate:
    """Passes the values of a column until there are certainly more than `limit` distinct ones; from then on replaces every
    value by the first one of its batch, so that few new ones appear. Missing values stay missing.

    Where new values are rare, not all are hashed: a column in which one value of a hundred is new may pass a few times the limit.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._seen, self._is_open = limit * 1.25, set[int](), True
        self._lock = threading.Lock()

    def __call__(self, values: pl.Series) -> pl.Series:
        if self._is_open:
            if self._brings_new(values.head(len(values) // SAMPLE + 1)):
                self._brings_new(values)
            return values
        present = values.is_not_null()
        first = present.arg_max()
        return values if first is None else values.new_from_index(first, len(values)).zip_with(present, values)

    def _brings_new(self, values: pl.Series) -> bool:
        """Remember a share of the values; return whether one of these was not remembered before."""
        hashes = values.hash().to_numpy()
        remembered = np.unique(hashes[hashes < (1 << 64) // SHARE]).tolist()
        with self._lock:
            n_before = len(self._seen)
            self._seen.update(remembered)
            self._is_open = len(self._seen) * SHARE <= self._limit
            return len(self._seen) > n_before

    def of(self, column: pl.Expr) -> pl.Expr:
        """Return the column filtered by this gate."""
        return map_values(column, self, pl.self_dtype())

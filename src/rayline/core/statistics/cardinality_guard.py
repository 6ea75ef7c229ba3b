"""A bound on the different values that a streaming query may meet: a gate in front of its grouping.

A query that counts the values of a column holds all different ones. Of a column of identifiers that is the whole column, and
it would fill the memory before anybody could do something about it.
"""

from __future__ import annotations

import threading

import polars as pl

SHARE = 1 << 9
"""One in so many different values is remembered, by its hash: enough to know their number to some 2 % near a million."""


class CardinalityGate:
    """Lets the values of a column through until there are surely more than `most` different ones; from then on every value
    is the first one of its batch, so that hardly any new ones come. Missing values stay missing."""

    def __init__(self, most: int) -> None:
        self._most, self._seen, self._is_open = most * 1.25, set[int](), True
        self._lock = threading.Lock()

    def __call__(self, values: pl.Series) -> pl.Series:
        if self._is_open:
            hashes = values.hash()
            remembered = hashes.filter(hashes < (1 << 64) // SHARE).unique().to_list()
            with self._lock:
                self._seen.update(remembered)
                self._is_open = len(self._seen) * SHARE <= self._most
            return values
        known = values.is_not_null()
        first = known.arg_max()
        return values if first is None else values.new_from_index(first, len(values)).zip_with(known, values)

    def of(self, column: pl.Expr) -> pl.Expr:
        """The column behind this gate."""
        return column.map_batches(self, return_dtype=pl.self_dtype(), is_elementwise=True)

"""Statistics of texts: how often grams occur, and in how many texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.core.statistics.base import Statistic
from rayline.core.statistics.counts import MAX_CATEGORIES
from rayline.core.text_analysis import Analyzer, Grams

BLOCK_ROWS = 1 << 15
"""Texts that are taken apart at a time."""


def blocks_of(texts: pl.Series) -> list[pl.Series]:
    """Yield the texts in batches whose tokens stay small in memory."""
    return [texts.slice(start, BLOCK_ROWS) for start in range(0, len(texts), BLOCK_ROWS)]


def analyzer_of(options: Mapping[str, Any]) -> Analyzer:
    """Return how texts are taken apart, from the options of a request."""
    return Analyzer(
        options["lowercase"],
        options["token_pattern"],
        options["ngram_range"],
        options.get("stop_words", ()),
        options.get("group", False),
    )


@dataclass(frozen=True, eq=False)
class DocumentFrequency(Statistic):
    """In how many texts each hash bucket occurs; only those that do are kept."""

    n_rows: int = 0
    features: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))  # ascending
    rows_with: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @classmethod
    def query(cls, table: pl.LazyFrame, *columns: pl.Expr, **options: Any) -> pl.LazyFrame | None:
        return table.select(text=columns[0])

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        texts, parts = values[0]["text"], []
        for block in blocks_of(texts):
            _, buckets, _ = bucket_counts(analyzer_of(options).grams(block), options["n_features"])
            parts.append(cls(len(block), *np.unique(buckets, return_counts=True)))
        return cls.merge_all(parts)

    @classmethod
    def merge_all(cls, states: Iterable[Self], **options: Any) -> Self:
        states = [*states, cls()]
        features, place = np.unique(np.concatenate([state.features for state in states]), return_inverse=True)
        rows_with = np.zeros(len(features), dtype=np.int64)
        np.add.at(rows_with, place, np.concatenate([state.rows_with for state in states]))
        return cls(sum(state.n_rows for state in states), features, rows_with)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DocumentFrequency):
            return NotImplemented
        same = np.array_equal(self.features, other.features) and np.array_equal(self.rows_with, other.rows_with)
        return self.n_rows == other.n_rows and same

    __hash__ = None  # type: ignore[assignment]  # arrays have no hash


@dataclass(frozen=True, eq=False)
class GramCounts(Statistic):
    """The exact counts of each gram and of the texts that contain it, for up to MAX_CATEGORIES distinct grams.

    A gram is its key: a token may hold any character, so two grams may be spelled alike.
    """

    n_rows: int = 0
    table: pl.DataFrame = field(default_factory=lambda: _NO_GRAMS)
    overflow: bool = False

    @classmethod
    def query(cls, table: pl.LazyFrame, *columns: pl.Expr, **options: Any) -> pl.LazyFrame | None:
        return table.select(text=columns[0])

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        texts = values[0]["text"]
        return cls.merge_all([cls._of_block(block, analyzer_of(options)) for block in blocks_of(texts)])

    @classmethod
    def _of_block(cls, texts: pl.Series, analyzer: Analyzer) -> Self:
        grams = analyzer.grams(texts)
        keys, first, place, n = np.unique(grams.keys, return_index=True, return_inverse=True, return_counts=True)
        _, occurring, _ = counted_pairs(grams.rows, place, max(len(keys), 1))
        n_rows = np.bincount(occurring, minlength=len(keys))
        spelled = grams.spell(first)
        columns = {"key": keys, "gram": spelled, "n": n, "n_rows": n_rows}
        return cls(len(texts), pl.DataFrame(columns, schema=_NO_GRAMS.schema))

    @classmethod
    def merge_all(cls, states: Iterable[Self], **options: Any) -> Self:
        states = list(states)
        n_rows = sum(state.n_rows for state in states)
        tables = [state.table for state in states if state.table.height]
        if any(state.overflow for state in states):
            return cls(n_rows, _NO_GRAMS, overflow=True)
        sums = (pl.col("gram").first(), pl.col("n", "n_rows").sum())
        table = pl.concat(tables).group_by("key").agg(*sums) if tables else _NO_GRAMS
        return cls(n_rows, table) if table.height <= MAX_CATEGORIES else cls(n_rows, _NO_GRAMS, overflow=True)


_NO_GRAMS: pl.DataFrame = pl.DataFrame(schema={"key": pl.UInt64, "gram": pl.String, "n": pl.Int64, "n_rows": pl.Int64})


def bucket_counts(grams: Grams, n_features: int) -> tuple[Any, Any, Any]:
    """Rows, buckets and counts of what occurs, in the order of rows and buckets."""
    buckets = (grams.keys % np.uint64(n_features)).astype(np.int64)
    return counted_pairs(grams.rows, buckets, n_features)


def counted_pairs(rows: Any, features: Any, n_features: int) -> tuple[Any, Any, Any]:
    """Return the different pairs in their order, and how often each occurs."""
    pairs = rows * n_features + features
    pairs.sort()
    starts = np.flatnonzero(np.concatenate([[True], pairs[1:] != pairs[:-1]])) if len(pairs) else np.empty(0, np.int64)
    counts = np.diff(np.concatenate([starts, [len(pairs)]]))
    return pairs[starts] // n_features, pairs[starts] % n_features, counts

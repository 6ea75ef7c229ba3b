"""Exact order statistics of 64-bit keys, from one scan in bounded memory: the cut points of a split.

To cut n rows into parts of given sizes one needs the key at a few ranks. A state keeps all distinct keys with their counts
while there are few; when there are more it keeps a coarse count of keys (buckets of the key's leading bits) and, exactly,
the keys in a window around each wanted rank. Keys are hashes as a rule, so any batch is a random sample of all, and its
own ranks tell where the wanted keys lie to within a few standard deviations. When the keys are not like that (times, many
equal rows) a window may miss its rank; the coarse counts then say where to look, and one more scan looks there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.core.statistics.base import Statistic

Keys = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.int64]

MAX_DISTINCT = 1 << 14
"""Distinct keys of a stratum that are kept exactly; also the most buckets of the coarse counts."""

MAX_STRATA = 1 << 12
"""Values of a column that rows can be stratified by."""

MAX_BINS = 1 << 20
"""Buckets that are counted in an array of their own instead of being sorted."""

ALL = 1 << 64
"""A key above all keys."""

DEVIATIONS = 8.0
"""Half the width of a window, in standard deviations of a rank."""

KEY, STRATUM = "key", "stratum"


class CutPoint(NamedTuple):
    """A cut: `below` rows have a key under `key`."""

    key: int
    below: int


@dataclass(frozen=True, eq=False)
class KeyCounts:
    """Sorted distinct keys and how many rows have each."""

    keys: Keys = field(default_factory=lambda: np.empty(0, np.uint64))
    counts: Counts = field(default_factory=lambda: np.empty(0, np.int64))

    @classmethod
    def of(cls, keys: Keys) -> Self:
        """The tally of unsorted keys."""
        return cls._grouped(np.sort(keys), np.ones(len(keys), dtype=np.int64))

    @classmethod
    def merged(cls, parts: Iterable[KeyCounts]) -> Self:
        parts = list(parts)
        keys = np.concatenate([part.keys for part in parts])
        order = np.argsort(keys, kind="stable")
        return cls._grouped(keys[order], np.concatenate([part.counts for part in parts])[order])

    @classmethod
    def _grouped(cls, keys: Keys, counts: Counts) -> Self:
        if not len(keys):
            return cls()
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        return cls(keys[starts], np.add.reduceat(counts, starts))

    def coarser(self, levels: int) -> KeyCounts:
        return KeyCounts._grouped(self.keys >> np.uint64(levels), self.counts) if levels else self

    def within(self, low: int, high: int) -> KeyCounts:
        """The keys in [low, high)."""
        start = int(np.searchsorted(self.keys, np.uint64(low)))
        end = int(np.searchsorted(self.keys, np.uint64(high))) if high < ALL else len(self.keys)
        return KeyCounts(self.keys[start:end], self.counts[start:end])

    @cached_property
    def ends(self) -> Counts:
        """The number of rows up to each key, that key included."""
        return np.cumsum(self.counts)

    @property
    def n_rows(self) -> int:
        return int(self.counts.sum())

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True, eq=False)
class KeyWindow:
    """All rows with a key in [low, high), and how many rows are below."""

    low: int
    high: int
    below: int
    key_counts: KeyCounts

    @classmethod
    def of(cls, keys: Keys, low: int, high: int) -> KeyWindow:
        """Count unsorted keys."""
        reaches = keys >= np.uint64(low)
        inside = reaches & (keys < np.uint64(high)) if high < ALL else reaches
        return cls(low, high, len(keys) - int(np.count_nonzero(reaches)), KeyCounts.of(keys[inside]))

    def narrowed(self, low: int, high: int) -> KeyWindow:
        low, high = max(low, self.low), min(high, self.high)
        if low >= high:
            return KeyWindow(0, 0, 0, KeyCounts())
        return KeyWindow(
            low, high, self.below + self.key_counts.within(self.low, low).n_rows, self.key_counts.within(low, high)
        )

    def around(self, first: float, last: float) -> KeyWindow:
        """The part that has the ranks from first to last."""
        start = int(np.searchsorted(self.key_counts.ends, first - self.below, side="right"))
        end = int(np.searchsorted(self.key_counts.ends, last - self.below, side="left")) + 1
        low = int(self.key_counts.keys[start]) if 0 < start < len(self.key_counts) else self.low
        high = int(self.key_counts.keys[end]) if end < len(self.key_counts) else self.high
        return self.narrowed(low, high)

    def nearest(self, rank: int) -> CutPoint | None:
        """The cut nearest to a rank; None when that rank is not in this window."""
        ends = self.below + np.concatenate([[0], self.key_counts.ends])
        if not ends[0] <= rank <= ends[-1] or self.low == self.high:
            return None
        i = int(np.argmin(np.abs(ends - rank)))
        return CutPoint(int(self.key_counts.keys[i]) if i < len(self.key_counts) else self.high, int(ends[i]))


@dataclass(frozen=True, eq=False)
class KeyHistogram:
    """The keys of one stratum: `coarse` counts key >> level. At level 0 it has all keys, and there are no windows."""

    n_rows: int
    level: int
    coarse: KeyCounts
    windows: tuple[KeyWindow, ...] = ()

    @classmethod
    def of(cls, keys: Keys, shares: Sequence[float], ranges: Sequence[tuple[int, int]]) -> KeyHistogram:
        """Of the keys of a batch, with windows around the shares, or over the ranges where these are given."""
        level, coarse = _coarse(keys)
        histogram = cls(len(keys), level, coarse)
        if not level:
            return histogram
        if ranges:
            return replace(histogram, windows=tuple(KeyWindow.of(keys, low, high) for low, high in ranges))
        spans = [_span(len(keys), share) for share in shares]
        return replace(histogram, windows=tuple(KeyWindow.of(keys, *histogram._reach(*s)).around(*s) for s in spans))

    def _reach(self, first: float, last: float) -> tuple[int, int]:
        """A range of keys that holds the ranks from first to last."""
        low = self.bucket(math.floor(first))[0] if first > 0 else 0
        return low, self.bucket(math.ceil(last))[1] if last < self.n_rows else ALL

    @classmethod
    def merged(
        cls, parts: Sequence[KeyHistogram], shares: Sequence[float], ranges: Sequence[tuple[int, int]]
    ) -> KeyHistogram:
        """Merge the rows of all parts."""
        if len(parts) == 1:
            return parts[0]
        n_rows = sum(part.n_rows for part in parts)
        level = max(part.level for part in parts)
        level, coarse = _limited(level, KeyCounts.merged([part.coarse.coarser(level - part.level) for part in parts]))
        if not level:
            return cls(n_rows, 0, coarse)
        windows = []
        for i in range(len(ranges) or len(shares)):
            windows_of_parts = [part._window(i) for part in parts]
            low, high = max(w.low for w in windows_of_parts), min(w.high for w in windows_of_parts)
            narrow = [w.narrowed(low, high) for w in windows_of_parts]
            window = KeyWindow(
                max(low, 0),
                max(low, high),
                sum(w.below for w in narrow),
                KeyCounts.merged([w.key_counts for w in narrow]),
            )
            windows.append(window if ranges else window.around(*_span(n_rows, shares[i])))
        return cls(n_rows, level, coarse, tuple(windows))

    def _window(self, i: int) -> KeyWindow:
        return self.windows[i] if self.level else KeyWindow(0, ALL, 0, self.coarse)

    def nearest(self, rank: int) -> CutPoint | None:
        """The cut nearest to a rank: the lower of two. None when one must look again, in `bucket(rank)`."""
        if not self.level:
            return self._window(0).nearest(rank)
        return next((cut for window in self.windows if (cut := window.nearest(rank)) is not None), None)

    def repeats(self, rank: int) -> bool:
        """Whether several rows have one key: of all rows, or (where not all are known) of those around a rank."""
        if not self.level:
            return bool((self.coarse.counts > 1).any())
        first, last = _span(self.n_rows, rank / self.n_rows, DEVIATIONS / 2)
        for window in self.windows:
            ends = window.below + window.key_counts.ends
            if (window.key_counts.counts[(ends > first) & (ends < last)] > 1).any():
                return True
        return False

    def bucket(self, rank: int) -> tuple[int, int]:
        """The range of keys around a rank."""
        i = min(int(np.searchsorted(self.coarse.ends, rank, side="left")), len(self.coarse) - 1)
        return int(self.coarse.keys[i]) << self.level, (int(self.coarse.keys[i]) + 1) << self.level


@dataclass(frozen=True, eq=False)
class OrderStatistics(Statistic):
    """The ladder of each stratum.

    Of two columns, the keys and the strata. Options: `shares` (where cuts are wanted), and `ranges` (for a stratum, the
    ranges of keys in which to look; then the shares do not matter for it).
    """

    ladders: Mapping[int, KeyHistogram]
    n_null: int  # rows without a key
    overflow: bool  # more strata than MAX_STRATA
    shares: tuple[float, ...]
    ranges: Mapping[int, tuple[tuple[int, int], ...]]

    @classmethod
    def query(cls, table: pl.LazyFrame, *columns: pl.Expr, **options: Any) -> pl.LazyFrame | None:
        key, stratum = columns
        return table.select(key.alias(KEY), stratum.alias(STRATUM))

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        table: pl.DataFrame = values[0]
        empty = cls.empty(**options)
        n_null = table[KEY].null_count()
        table = table.drop_nulls(KEY) if n_null else table
        if table[STRATUM].min() == table[STRATUM].max():
            parts = {int(table[STRATUM][0]): table[KEY]} if table.height else {}
        else:
            parts = {int(key[0]): part[KEY] for key, part in table.partition_by(STRATUM, as_dict=True).items()}
        if len(parts) > MAX_STRATA:
            return replace(empty, n_null=n_null, overflow=True)
        ladders = {
            s: KeyHistogram.of(keys.to_numpy(), empty.shares, empty.ranges.get(s, ())) for s, keys in parts.items()
        }
        return replace(empty, ladders=ladders, n_null=n_null)

    @classmethod
    def empty(cls, **options: Any) -> Self:
        return cls({}, 0, False, options["shares"], dict(options.get("ranges", ())))

    def merge(self, other: Self) -> Self:
        return self._merged([self, other])

    @classmethod
    def merge_all(cls, states: Iterable[Self], **options: Any) -> Self:
        return cls.empty(**options)._merged(list(states))

    def _merged(self, states: Sequence[Self]) -> Self:
        n_null = sum(state.n_null for state in states)
        strata = sorted({stratum for state in states for stratum in state.ladders})
        if len(strata) > MAX_STRATA or any(state.overflow for state in states):
            return replace(self, ladders={}, n_null=n_null, overflow=True)
        ladders = {}
        for stratum in strata:
            parts = [state.ladders[stratum] for state in states if stratum in state.ladders]
            ladders[stratum] = KeyHistogram.merged(parts, self.shares, self.ranges.get(stratum, ()))
        return replace(self, ladders=ladders, n_null=n_null)


def _coarse(keys: Keys) -> tuple[int, KeyCounts]:
    """The level at which these keys have few enough buckets, and their tally at this level."""
    # What overflows in a part overflows in the whole: some keys show where to begin, and the others need no sorting.
    level, _ = _limited(0, KeyCounts.of(keys[: 4 * MAX_DISTINCT]))
    buckets = keys >> np.uint64(level) if level else keys
    low, high = (int(buckets.min()), int(buckets.max())) if len(buckets) else (0, 0)
    if high - low >= MAX_BINS:
        return _limited(level, KeyCounts.of(buckets))
    counts = np.bincount((buckets - np.uint64(low)).view(np.int64))  # small numbers: without a copy
    filled = np.flatnonzero(counts)
    return _limited(level, KeyCounts(filled.astype(np.uint64) + np.uint64(low), counts[filled]))


def _limited(level: int, key_counts: KeyCounts) -> tuple[int, KeyCounts]:
    """The tally at the lowest level, from this one on, that has few enough keys."""
    if len(key_counts) <= MAX_DISTINCT:
        return level, key_counts
    low, high = 0, 63  # low is too fine, high is coarse enough
    while high - low > 1:
        middle = (low + high) // 2
        keys = key_counts.keys >> np.uint64(middle)
        if np.count_nonzero(keys[1:] != keys[:-1]) + 1 > MAX_DISTINCT:
            low = middle
        else:
            high = middle
    return level + high, key_counts.coarser(high)


def _span(n_rows: int, share: float, deviations: float = DEVIATIONS) -> tuple[float, float]:
    """The ranks among which the wanted one is expected."""
    margin = deviations * math.sqrt(n_rows * share * (1.0 - share)) + 2.0
    return share * n_rows - margin, share * n_rows + margin

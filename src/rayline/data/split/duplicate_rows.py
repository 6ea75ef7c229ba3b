"""Distinguish equal rows by their number among the rows that are equal to them.

A table of a few categories has many equal rows, and they are observations like any other: some belong in the training
set and some in the test set. Which row gets which number depends on the order of the rows, but this makes no difference:
the rows are equal, and together they always have the numbers 0, 1, 2, … So the parts of a split contain the same rows for
any order and any blocks.

On Ray the count continues across blocks: the blocks are ordered by a fingerprint of their content, and each block knows
how many equal rows the blocks before it have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl

from rayline.core.engine import Scanner
from rayline.core.errors import DataError, place
from rayline.core.scan import Scan
from rayline.core.statistics.base import StatisticRequest
from rayline.core.statistics.counts import GroupTable
from rayline.data.split.row_hash import RowHash, Words, salted

MAX_PAIRS = 1 << 24
"""Pairs of a block and a different row in it that are counted; beyond, equal rows are numbered in each block by itself."""

BLOCK, ROW, N = "block", "row", "n"

Offsets = Mapping[int, tuple[Words, Words]]
"""For each block, by its fingerprint: rows, sorted, and how many equal ones the blocks before it have."""


@dataclass(frozen=True)
class RowOccurrenceKey:
    """The hash of a row and of its number among equal rows: a key that no two rows of a table share.

    Parameters
    ----------
    rows
        The hash of the rows.
    offsets
        Where numbers begin in each block; None for a table that is in one piece.
    made_at
        The public call that made it, which its errors name.
    """

    rows: RowHash
    offsets: Offsets | None = field(default=None, compare=False, repr=False)
    made_at: str = field(default_factory=place)
    is_local: ClassVar[bool] = False

    @classmethod
    def of(cls, engine: Scanner, data: Any, rows: RowHash) -> Self:
        """For this data: one scan, which counts the different rows of each block."""
        request = StatisticRequest(BlockHashCounts, (BLOCK, ROW))
        pairs = engine.scan(data, Scan([request], attach=_Blocked(rows)))[0][request]
        assert isinstance(pairs, BlockHashCounts)
        return cls(rows, pairs.offsets())

    @property
    def columns(self) -> tuple[str, ...]:
        return self.rows.columns

    def expression(self) -> pl.Expr:
        return self.rows.expression().map_batches(self._numbered, return_dtype=pl.UInt64)

    def _numbered(self, hashes: pl.Series) -> pl.Series:
        rows = hashes.to_numpy()
        numbers = _numbers(rows)
        if self.offsets is not None and len(rows):
            known = self.offsets.get(_fingerprint(rows))
            if known is None:
                raise DataError(
                    f"{self.made_at}: the blocks of the dataset are not those that the split was prepared on.",
                    "Expected the same blocks at every read, to distinguish equal rows.",
                    "materialize it first: ds = ds.materialize().",
                )
            numbers += _looked_up(rows, *known)
        return pl.Series(np.where(numbers > 0, salted(rows, numbers), rows))


@dataclass(frozen=True)
class SaltedKey:
    """Another key of the same rows, for another purpose: the order of the one says nothing about that of the other."""

    key: RowHash | RowOccurrenceKey
    salt: int

    @property
    def is_local(self) -> bool:
        return self.key.is_local

    @property
    def columns(self) -> tuple[str, ...]:
        return self.key.columns

    def expression(self) -> pl.Expr:
        return self.key.expression().map_batches(self._salted, return_dtype=pl.UInt64, is_elementwise=True)

    def _salted(self, keys: pl.Series) -> pl.Series:
        return pl.Series(salted(keys.to_numpy(), self.salt))


@dataclass(frozen=True)
class _Blocked:
    """The hash of each row of a block, and the block's fingerprint."""

    rows: RowHash
    is_local: ClassVar[bool] = False

    @property
    def columns(self) -> tuple[str, ...]:
        return self.rows.columns

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame:
        hashes = table.select(self.rows.expression().alias(ROW))
        return hashes.with_columns(pl.col(ROW).map_batches(_blocks, return_dtype=pl.UInt64).alias(BLOCK))


@dataclass(frozen=True, eq=False)
class BlockHashCounts(GroupTable):
    """The number of rows of each hash in each block; for more than `MAX_PAIRS` such pairs only that fact."""

    keys: ClassVar = (BLOCK, ROW)

    @classmethod
    def query(cls, table: pl.LazyFrame, *columns: pl.Expr, **options: Any) -> pl.LazyFrame | None:
        keys = [column.alias(name) for column, name in zip(columns, cls.keys, strict=True)]
        return table.group_by(keys).agg(pl.len().cast(pl.UInt64).alias(N))

    @classmethod
    def merge_all(cls, states: Iterable[Self], **options: Any) -> Self:
        states = list(states)
        return states[0] if len(states) == 1 else super().merge_all(states)

    @classmethod
    def limited(cls, table: pl.DataFrame) -> Self:
        return cls(table) if table.height <= MAX_PAIRS else cls(overflow=True)

    def offsets(self) -> Offsets | None:
        """Return the first number of equal rows in each block; None when no row has an equal one in another block."""
        if self.table is None:
            return None
        before = (pl.col(N).cum_sum() - pl.col(N)).over(ROW).alias(N)
        table = self.table.sort(ROW, BLOCK).with_columns(before)
        if not table[N].max():
            return None
        none = np.empty(0, np.uint64)
        offsets: dict[int, tuple[Words, Words]] = dict.fromkeys(table[BLOCK].unique().to_list(), (none, none))
        for key, part in table.filter(pl.col(N) > 0).partition_by(BLOCK, as_dict=True).items():
            offsets[int(key[0])] = (part[ROW].to_numpy(), part[N].to_numpy())
        return offsets


def _blocks(hashes: pl.Series) -> pl.Series:
    return pl.Series(np.full(len(hashes), _fingerprint(hashes.to_numpy()), dtype=np.uint64))


def _fingerprint(rows: Words) -> int:
    """Compute the statistic of the rows of a block, in any order."""
    return int(salted(rows, 1).sum(dtype=np.uint64))


def _numbers(rows: Words) -> Words:
    """The number of each row among the rows before it that are equal."""
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    is_first = np.ones(len(rows), dtype=bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    places = np.arange(len(rows))
    numbers = np.empty(len(rows), dtype=np.uint64)
    numbers[order] = places - np.maximum.accumulate(np.where(is_first, places, 0))
    return numbers


def _looked_up(rows: Words, known: Words, numbers: Words) -> Words:
    """The number that is known of each row; 0 where none is."""
    if not len(known):
        return np.zeros(len(rows), dtype=np.uint64)
    places = np.minimum(np.searchsorted(known, rows), len(known) - 1)
    result: Words = np.where(known[places] == rows, numbers[places], np.uint64(0))
    return result

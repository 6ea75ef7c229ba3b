"""The constants of a split: cut points of a key such that the parts have the requested sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, TypeAlias

import polars as pl

from rayline.core.engine import Scanner
from rayline.core.errors import DataError, counted
from rayline.core.scan import Scan
from rayline.core.schema import col, refuse_empty
from rayline.core.statistics.base import StatisticRequest
from rayline.data.split.cells_by_row import KeyedRows, RowCells, kept_names
from rayline.data.split.duplicate_rows import RowOccurrenceKey
from rayline.data.split.fold_assignment import FoldAssignment, KeyAssignment, RowKey, ThresholdAssignment
from rayline.data.split.order_statistics import KEY, MAX_STRATA, STRATUM, CutPoint, KeyHistogram, OrderStatistics
from rayline.data.split.row_hash import RowHash

Sizes: TypeAlias = Mapping[int, Sequence[int]]
"""For each stratum the rows of each cell."""

MAX_CELLS = 256
"""Cells that are kept for each row, in a byte."""

Ranges: TypeAlias = Mapping[int, tuple[tuple[int, int], ...]]


@dataclass(frozen=True)
class KeyDivision:
    """Rows to be divided by a key, in every stratum by itself.

    Attributes
    ----------
    key
        What to go by.
    rows
        A hash of all columns, to go by (and by the numbers of equal rows) where several rows have one key; None where
        rows of one key stay together.
    stratum
        The column whose values are the strata.
    unit
        What rows with one key are, where they stay together.
    is_ordered
        Whether the order of the keys means something, so that they can only be cut and not be packed.
    """

    engine: Scanner
    data: Any
    key: RowKey
    rows: RowHash | None = None
    stratum: str | None = None
    unit: str = ""
    is_ordered: bool = False

    def cut(
        self, wanted: Callable[[Mapping[int, int]], Sizes], shares: Sequence[float]
    ) -> tuple[FoldAssignment, tuple[int, ...]]:
        """The cells, and the sizes that they have: the wanted ones, or the nearest that can be had.

        Parameters
        ----------
        wanted
            From the rows of each stratum to the wanted sizes.
        shares
            About where the cuts will be, as shares of all rows.

        Raises
        ------
        DataError
            When there are no rows, when a cell stays empty, or when the sizes are far from what was asked.
        """
        key = self.key
        sizes, part_sizes, cuts, ladders, rows = self._by(key, wanted, shares)
        if self.rows is not None and (part_sizes != sizes or _repeat(ladders, cuts)):
            key = RowOccurrenceKey.of(self.engine, self.data, self.rows)
            sizes, part_sizes, cuts, ladders, rows = self._by(key, wanted, shares)
        thresholds = tuple((stratum, tuple(cut.key for cut in each)) for stratum, each in cuts.items())
        known = ThresholdAssignment(key, self._stratum, thresholds)
        if rows is not None and len(shares) < MAX_CELLS:
            known = replace(known, row_cells=RowCells(known.of_keys(rows.to_series(0).to_numpy()), rows))
        cells: FoldAssignment = known
        if (
            part_sizes != sizes
            and self.unit
            and not self.is_ordered
            and not any(ladder.level for ladder in ladders.values())
        ):
            members, part_sizes = _packed(ladders, sizes)
            cells = KeyAssignment(key, members)
        self._refuse(part_sizes, sizes, ladders)
        return cells, _totals(part_sizes)

    def unique_row_key(self) -> RowHash | RowOccurrenceKey:
        """The key where no two rows have the same one, otherwise the numbered rows."""
        assert self.rows is not None
        ladders, _ = self._scan(self.rows, [0.5])
        if any(ladder.repeats(ladder.n_rows // 2) for ladder in ladders.values()):
            return RowOccurrenceKey.of(self.engine, self.data, self.rows)
        return self.rows

    def _by(
        self, key: RowKey, wanted: Callable[[Mapping[int, int]], Sizes], shares: Sequence[float]
    ) -> tuple[Sizes, Sizes, dict[int, list[CutPoint]], dict[int, KeyHistogram], pl.DataFrame | None]:
        """The wanted sizes, those that cuts by this key give, the cuts, the ladders, and what is kept of all rows."""
        ladders, rows = self._scan(key, shares)
        n_rows = {stratum: ladder.n_rows for stratum, ladder in ladders.items()}
        sizes = {stratum: list(each) for stratum, each in wanted(n_rows).items()}
        ends = {stratum: list(accumulate(each[:-1])) for stratum, each in sizes.items()}
        cuts = self._cuts(key, ladders, ends, shares)
        return sizes, {s: _between([cut.below for cut in cuts[s]], n_rows[s]) for s in ladders}, cuts, ladders, rows

    @property
    def _stratum(self) -> RowHash | None:
        return None if self.stratum is None else RowHash((self.stratum,))

    def _scan(
        self, key: RowKey, shares: Sequence[float], ranges: Ranges | None = None
    ) -> tuple[dict[int, KeyHistogram], pl.DataFrame | None]:
        options = {"shares": tuple(shares), "ranges": tuple((ranges or {}).items())}
        request = StatisticRequest(OrderStatistics, (KEY, STRATUM), tuple(options.items()))
        in_order = (
            isinstance(key, RowHash) and self.stratum is None and not ranges and self.engine.keeps_order(self.data)
        )
        keyed = _Keyed(key, self._stratum, kept_names(key.columns) if in_order else {})
        kept = StatisticRequest(KeyedRows, (KEY, *keyed.kept.values()))
        scan = Scan([request, kept] if in_order else [request], attach=keyed)
        results = self.engine.scan(self.data, scan)[0]
        ranks, rows = results[request], results.get(kept)
        assert isinstance(ranks, OrderStatistics)
        if ranks.overflow:
            raise DataError.here(
                f"column {self.stratum!r} has more than {MAX_STRATA:,} different values.",
                "Expected classes to stratify by.",
                "name a column of classes, or bin this one first.",
            )
        if ranks.n_null:
            raise DataError.here(
                f"column {key.columns[0]!r} is missing in {counted(ranks.n_null, 'row')}.",
                "Expected a value in every row, to order the rows by.",
                "drop these rows, or fill them.",
            )
        refuse_empty(sum(ladder.n_rows for ladder in ranks.ladders.values()))
        return dict(sorted(ranks.ladders.items())), rows.rows if isinstance(rows, KeyedRows) else None

    def _cuts(
        self,
        key: RowKey,
        ladders: Mapping[int, KeyHistogram],
        ends: Mapping[int, Sequence[int]],
        shares: Sequence[float],
    ) -> dict[int, list[CutPoint]]:
        """The cut nearest to each of the ends; with one more scan for those that the first one has not met."""
        nearest = {s: [ladder.nearest(rank) for rank in ends[s]] for s, ladder in ladders.items()}
        missed = {s: tuple(ladders[s].bucket(rank) for rank in ends[s]) for s, cuts in nearest.items() if None in cuts}
        if missed:
            again, _ = self._scan(key, shares, missed)
            nearest |= {s: [again[s].nearest(rank) for rank in ends[s]] for s in missed}
        cuts = {s: [cut for cut in each if cut is not None] for s, each in nearest.items()}
        if any(len(cuts[s]) < len(ends[s]) for s in ends):
            raise DataError.here(
                "the data changed between two reads.",
                "Expected the same rows each time.",
                "materialize the dataset first: ds = ds.materialize().",
            )
        return cuts

    def _refuse(self, part_sizes: Sizes, sizes: Sizes, ladders: Mapping[int, KeyHistogram]) -> None:
        totals, requested = _totals(part_sizes), _totals(sizes)
        n_rows = sum(totals)
        if 0 in requested:
            raise DataError.here(
                f"there are too few rows to split this way: {n_rows:,}.",
                f"Expected rows in every part; got parts of {_shown(requested)}.",
                "use fewer or other parts, or provide more rows.",
            )
        # A part may be off by its own size, and by the largest group: that is in one part whatever is done.
        largest = max((int(ladder.coarse.counts.max()) for ladder in ladders.values() if not ladder.level), default=1)
        if self.unit and (
            0 in totals or any(abs(got - n) > max(1, n, largest) for got, n in zip(totals, requested, strict=True))
        ):
            n_keys = sum(len(ladder.coarse) for ladder in ladders.values())
            number = f"{n_keys:,} {self.unit}" if not any(ladder.level for ladder in ladders.values()) else self.unit
            raise DataError.here(
                f"the {n_rows:,} rows cannot be split this way: they are {number}, which stay together.",
                f"Expected parts of {_shown(requested)} rows; the nearest are {_shown(totals)}.",
                f"use fewer or other parts{'' if self.is_ordered else ', or try another seed'}.",
            )


@dataclass(frozen=True)
class _Keyed:
    """The key and the stratum of each row, and the columns that are kept under these names."""

    key: RowKey
    stratum: RowHash | None
    kept: Mapping[str, str]

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.key.columns, *(self.stratum.columns if self.stratum is not None else ()))

    @property
    def is_local(self) -> bool:
        return self.key.is_local

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame:
        key = self.key.expression().alias(KEY)
        if self.stratum is None:
            kept = [col(name).alias(kept) for name, kept in self.kept.items()]
            return table.select(key, *kept).with_columns(pl.lit(0, dtype=pl.UInt64).alias(STRATUM))
        return table.select(key, self.stratum.expression().alias(STRATUM))


def _repeat(ladders: Mapping[int, KeyHistogram], cuts: Mapping[int, Sequence[CutPoint]]) -> bool:
    """Whether rows share a key, as far as the ladders can tell."""
    return any(ladders[s].repeats(cut.below) for s in ladders for cut in cuts[s])


def _between(ends: Sequence[int], n_rows: int) -> list[int]:
    return [b - a for a, b in zip([0, *ends], [*ends, n_rows], strict=True)]


def _totals(sizes: Sizes) -> tuple[int, ...]:
    return tuple(sum(column) for column in zip(*sizes.values(), strict=True))


def _packed(ladders: Mapping[int, KeyHistogram], sizes: Sizes) -> tuple[tuple[tuple[int, int], ...], Sizes]:
    """Whole units into cells, the largest first.

    Each goes where it fits and where the greatest share is still wanting, so that every cell gets large ones and small ones;
    what fits nowhere goes where most rows are wanting.
    """
    members: list[tuple[int, int]] = []
    part_sizes: dict[int, list[int]] = {}
    for stratum, ladder in ladders.items():
        size, key_counts = sizes[stratum], ladder.coarse
        wanting = list(size)
        for n, key in sorted(zip((-key_counts.counts).tolist(), key_counts.keys.tolist(), strict=True)):
            fitting = [cell for cell, rows in enumerate(wanting) if rows + n >= 0]
            if fitting:
                cell = max(fitting, key=lambda cell: wanting[cell] / max(size[cell], 1))
            else:
                cell = max(range(len(wanting)), key=wanting.__getitem__)
            wanting[cell] += n
            members.append((key, cell))
        part_sizes[stratum] = [requested - left for requested, left in zip(size, wanting, strict=True)]
    return tuple(sorted(members)), part_sizes


def _shown(sizes: Sequence[int]) -> str:
    return ", ".join(f"{size:,}" for size in sizes[:8]) + (", …" if len(sizes) > 8 else "")

"""How the constants of a split are learned: where to cut the rows by a key so that the parts have the wanted sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any, TypeAlias

from rayline.core.engine import Scan, Scanner
from rayline.core.errors import DataError
from rayline.core.statistics import Request
from rayline.data.cells import Cells, Key, Members, Thresholds
from rayline.data.conform import refuse_empty
from rayline.data.ranks import MAX_STRATA, Cut, Ladder, Ranks
from rayline.data.rowhash import RowHash

Sizes: TypeAlias = Mapping[int, Sequence[int]]
"""For each stratum the rows of each cell."""

Ranges: TypeAlias = Mapping[int, tuple[tuple[int, int], ...]]

NEAR = 0.01
"""Where rows are divided, sizes that are off by less than this share, or by one row, need no packing."""

MOST_OFF = 0.1
"""Sizes that are off by more than this share, and by more than one row, are refused where rows were to be divided."""


@dataclass(frozen=True)
class Division:
    """Rows to be divided by a key, in every stratum by itself.

    Attributes
    ----------
    keys
        What to go by: the first of these that gives the exact sizes, otherwise the last.
    stratum
        The column whose values are the strata.
    unit
        What rows with one key are, where they are not just equal rows: these stay together whatever it costs.
    is_ordered
        Whether the order of the keys means something, so that they can only be cut and not be packed.
    """

    engine: Scanner
    data: Any
    where: str
    keys: Sequence[Key]
    stratum: str | None = None
    unit: str = ""
    is_ordered: bool = False

    def cut(
        self, wanted: Callable[[Mapping[int, int]], Sizes], shares: Sequence[float]
    ) -> tuple[Cells, tuple[int, ...]]:
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
        for key in self.keys:
            ladders = self._scan(key, shares)
            n_rows = {stratum: ladder.n_rows for stratum, ladder in ladders.items()}
            sizes = {stratum: list(each) for stratum, each in wanted(n_rows).items()}
            ends = {stratum: list(accumulate(each[:-1])) for stratum, each in sizes.items()}
            cuts = self._cuts(key, ladders, ends, shares)
            found: Sizes = {s: _between([cut.below for cut in cuts[s]], n_rows[s]) for s in ladders}
            if found == sizes:
                break
        cells: Cells = Thresholds(
            key, self._stratum, tuple((s, tuple(c.key for c in cuts[s])) for s in cuts), self.where
        )
        good = found == sizes if self.unit else _is_near(found, sizes, NEAR)
        if not (good or self.is_ordered or any(ladder.level for ladder in ladders.values())):
            members, found = _packed(ladders, sizes)
            cells = Members(key, members, self.where)
        self._refuse(found, sizes, ladders)
        return cells, _totals(found)

    @property
    def _stratum(self) -> RowHash | None:
        return None if self.stratum is None else RowHash((self.stratum,))

    def _scan(self, key: Key, shares: Sequence[float], ranges: Ranges | None = None) -> dict[int, Ladder]:
        stratum = self._stratum
        columns = dict.fromkeys((*key.columns, *(stratum.columns if stratum is not None else ())))
        options = {"key": key, "stratum": stratum, "shares": tuple(shares), "ranges": tuple((ranges or {}).items())}
        request = Request(Ranks, tuple(columns), tuple(options.items()))
        ranks = self.engine.scan(self.data, Scan([request]))[0][request]
        assert isinstance(ranks, Ranks)
        if ranks.overflow:
            raise DataError(
                f"{self.where}: column {self.stratum!r} has more than {MAX_STRATA:,} different values.",
                "Expected classes to stratify by.",
                "name a column of classes, or bin this one first.",
            )
        if ranks.n_null:
            raise DataError(
                f"{self.where}: column {key.columns[0]!r} is missing in {ranks.n_null:,} rows.",
                "Expected a value in every row, to order the rows by.",
                "drop these rows, or fill them.",
            )
        refuse_empty(sum(ladder.n_rows for ladder in ranks.ladders.values()), self.where)
        return dict(sorted(ranks.ladders.items()))

    def _cuts(
        self, key: Key, ladders: Mapping[int, Ladder], ends: Mapping[int, Sequence[int]], shares: Sequence[float]
    ) -> dict[int, list[Cut]]:
        """The cut nearest to each of the ends; with one more scan for those that the first one has not met."""
        found = {s: [ladder.nearest(rank) for rank in ends[s]] for s, ladder in ladders.items()}
        missed = {s: tuple(ladders[s].bucket(rank) for rank in ends[s]) for s, cuts in found.items() if None in cuts}
        if missed:
            again = self._scan(key, shares, missed)
            found |= {s: [again[s].nearest(rank) for rank in ends[s]] for s in missed}
        cuts = {s: [cut for cut in each if cut is not None] for s, each in found.items()}
        if any(len(cuts[s]) < len(ends[s]) for s in ends):
            raise DataError(
                f"{self.where}: the data changed between two reads.",
                "Expected the same rows each time.",
                "materialise the dataset first: ds = ds.materialize().",
            )
        return cuts

    def _refuse(self, found: Sizes, sizes: Sizes, ladders: Mapping[int, Ladder]) -> None:
        totals, asked = _totals(found), _totals(sizes)
        n_rows = sum(totals)
        if 0 in asked:
            raise DataError(
                f"{self.where}: there are too few rows to divide so: {n_rows:,}.",
                f"Expected rows in every part; got parts of {_shown(asked)}.",
                "divide into fewer or other parts, or bring more rows.",
            )
        most_off = 1.0 if self.unit else MOST_OFF
        if 0 in totals or not _is_near({0: totals}, {0: asked}, most_off):
            n_keys = sum(len(ladder.coarse) for ladder in ladders.values())
            units = self.unit or "different rows"
            number = f"{n_keys:,} {units}" if not any(ladder.level for ladder in ladders.values()) else units
            hint = "pass shuffle=False to divide by order, or add a column that tells the rows apart."
            if self.unit:
                hint = f"divide into fewer or other parts{'' if self.is_ordered else ', or try another seed'}."
            raise DataError(
                f"{self.where}: the {n_rows:,} rows cannot be divided so: they are {number}, which stay together.",
                f"Expected parts of {_shown(asked)} rows; the nearest are {_shown(totals)}.",
                hint,
            )


def _between(ends: Sequence[int], n_rows: int) -> list[int]:
    return [b - a for a, b in zip([0, *ends], [*ends, n_rows], strict=True)]


def _totals(sizes: Sizes) -> tuple[int, ...]:
    return tuple(sum(column) for column in zip(*sizes.values(), strict=True))


def _is_near(found: Sizes, sizes: Sizes, share: float) -> bool:
    pairs = zip(chain(*found.values()), chain(*sizes.values()), strict=True)
    return all(abs(got - asked) <= max(1.0, share * asked) for got, asked in pairs)


def _packed(ladders: Mapping[int, Ladder], sizes: Sizes) -> tuple[tuple[tuple[int, int], ...], Sizes]:
    """Whole units into cells, the largest first.

    Each goes where it fits and where the greatest share is still wanting, so that every cell gets large ones and small ones;
    what fits nowhere goes where most rows are wanting.
    """
    members: list[tuple[int, int]] = []
    found: dict[int, list[int]] = {}
    for stratum, ladder in ladders.items():
        size, tally = sizes[stratum], ladder.coarse
        wanting = list(size)
        for n, key in sorted(zip((-tally.counts).tolist(), tally.keys.tolist(), strict=True)):
            fitting = [cell for cell, rows in enumerate(wanting) if rows + n >= 0]
            if fitting:
                cell = max(fitting, key=lambda cell: wanting[cell] / max(size[cell], 1))
            else:
                cell = max(range(len(wanting)), key=wanting.__getitem__)
            wanting[cell] += n
            members.append((key, cell))
        found[stratum] = [asked - left for asked, left in zip(size, wanting, strict=True)]
    return tuple(sorted(members)), found


def _shown(sizes: Sequence[int]) -> str:
    return ", ".join(f"{size:,}" for size in sizes[:8]) + (", …" if len(sizes) > 8 else "")

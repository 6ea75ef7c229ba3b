"""The weight of the rows at each different score, by class: what measures of a ranking are computed from.

The table is exact up to 2^20 different scores (see `core.statistics.score_weights`).

For bootstrap intervals the weights are also kept for each bucket, in at most 128 bins of the scores. A replicate is computed
from these bins, and moved by the difference between the exact value and that of the bins.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from rayline.core.statistics.score_weights import MAX_SCORES, Pair, ScoreWeights, level_of, run_starts, smallest
from rayline.evaluate.score_rows import RowPiece, ScoreRows, bin_keys, wide_keys

Array = npt.NDArray[Any]
MAX_BINS = 128
"""Bins of the scores whose weights are kept for each bucket."""

SINGLE_BITS = 29
"""Trailing bits of a number of double precision that are 0 when it is of single precision."""


class SparseCells(NamedTuple):
    """An array of weights of which few are not 0: the flat places of these, and the weights."""

    shape: tuple[int, int, int]  # buckets, labels, bins
    places: Array
    weights: Array

    @classmethod
    def of(cls, shape: tuple[int, int, int], places: Array, weights: Array | None) -> SparseCells:
        """Return the sums of weights (ones when None) at places that may repeat."""
        return cls._filled(shape, np.bincount(places, weights, minlength=math.prod(shape)))

    @classmethod
    def of_sorted(cls, shape: tuple[int, int, int], bins: Array, groups: Array, weights: Array | None) -> SparseCells:
        """Return the sums of weights of rows in the order of their bins; a group is `bucket * labels + label`."""
        n_groups = shape[0] * shape[1]
        dense = np.bincount(bins * n_groups + groups, weights, minlength=math.prod(shape))
        return cls._filled(shape, np.ascontiguousarray(dense.reshape(shape[2], n_groups).T).reshape(-1))

    @classmethod
    def _filled(cls, shape: tuple[int, int, int], dense: Array) -> SparseCells:
        filled = np.flatnonzero(dense)
        return cls(shape, filled.astype(np.uint32), dense[filled].astype(np.float32))

    def dense(self) -> Array:
        """Return the whole array, float32."""
        dense = np.zeros(math.prod(self.shape), np.float32)
        dense[self.places] = self.weights
        return dense.reshape(self.shape)

    def totals(self, multiplicity: Array) -> Array:
        """Return the sums over the buckets, of which row r of `multiplicity` counts each so often: (replicates, labels, bins)."""
        n_buckets, n_labels, n_bins = self.shape
        counts = multiplicity.astype(np.float32)  # as precise as replicates need be
        if 8 * len(self.places) > math.prod(self.shape):
            sums = counts @ self.dense().reshape(n_buckets, n_labels * n_bins)
            return sums.astype(np.float64).reshape(-1, n_labels, n_bins)
        bucket, column = np.divmod(self.places.astype(np.int64), n_labels * n_bins)
        order = np.argsort(column, kind="stable")
        starts = np.flatnonzero(np.concatenate([[True], np.diff(column[order]) != 0]))
        totals = np.zeros((len(counts), n_labels * n_bins))
        if len(order):
            each = counts[:, bucket[order]] * self.weights[order]
            totals[:, column[order][starts]] = np.add.reduceat(each, starts, axis=1)
        return totals.reshape(-1, n_labels, n_bins)


@dataclass(frozen=True, eq=False)
class ScoreTable(ScoreWeights):
    """Weights by score and label (see the module).

    The option `of` says what is a row's score and its label: `("class", c)` the rank of class c and whether the row is of
    it, `("classes", c)` the same with all classes as labels, `("error",)` the absolute error and no label.
    """

    bins: Array | None = None  # uint64 keys of bins of scores, without `bin_level` bits; None without buckets
    cells: SparseCells | None = None  # weights, (buckets, labels, bins)
    bin_level: int = 0

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        (batch,) = values
        return cls.of_rows(ScoreRows.of(batch, options["of"]), MAX_SCORES)

    @classmethod
    def of_rows(cls, unsorted: ScoreRows, max_scores: int, *, with_buckets: bool = True) -> Self:
        """Return the table of rows, exact up to so many different scores; without buckets it has no bins."""
        rows = unsorted.sorted(with_buckets=with_buckets)
        if not len(rows.keys):
            return cls(max_scores=max_scores)
        more = 0 if rows.keys.dtype == np.uint64 else SINGLE_BITS  # trailing bits that are 0 in keys of 64 bits
        level = level_of(rows.keys, max_scores)
        starts = run_starts(rows.keys >> rows.keys.dtype.type(level) if level else rows.keys)
        weights = _label_weights(rows, starts, unsorted.n_labels)
        level += more if level else 0
        table = cls(wide_keys(rows.keys[starts]) >> np.uint64(level), weights, level, max_scores=max_scores)
        if not (unsorted.n_buckets and with_buckets):
            return table
        places = bin_keys(rows.keys, odds=unsorted.odds)
        level = level_of(places, MAX_BINS)
        starts = run_starts(places >> places.dtype.type(level))
        bin_level = level + more if level else 0
        bins = bin_keys(wide_keys(rows.keys[starts]), odds=unsorted.odds) >> np.uint64(bin_level)
        of_row = np.repeat(np.arange(len(bins)), np.diff(starts, append=len(rows.keys)))
        cells = SparseCells.of_sorted(
            (unsorted.n_buckets, unsorted.n_labels, len(bins)), of_row, rows.groups, rows.weight
        )
        return replace(table, bins=bins, cells=cells, bin_level=bin_level)

    @classmethod
    def merge_all(cls, states: Iterable[Self], **options: Any) -> Self:
        all_states = list(states)
        tables = [state for state in all_states if state.keys is not None]
        merged = super().merge_all(all_states)
        return merged._with_cells(tables) if len(tables) > 1 else merged

    def _with_cells(self, states: Sequence[Self]) -> Self:
        """Return this table with the bins of the rows of some tables; without bins where one has none."""
        if any(state.bins is None for state in states):
            return self
        low = max(state.bin_level for state in states)
        every = [s.bins >> np.uint64(low - s.bin_level) for s in states if s.bins is not None]
        united = np.unique(np.concatenate(every))
        raised = level_of(united, MAX_BINS)
        bins = np.unique(united >> np.uint64(raised))
        places, own_weights = [], []
        for state, state_cells in zip(states, every, strict=True):
            assert state.cells is not None
            n_buckets, n_labels, n_bins = state.cells.shape
            column, at = np.divmod(state.cells.places.astype(np.int64), n_bins)
            places.append(column * len(bins) + np.searchsorted(bins, state_cells >> np.uint64(raised))[at])
            own_weights.append(state.cells.weights)
        shape = (n_buckets, n_labels, len(bins))
        cells = SparseCells.of(shape, np.concatenate(places), np.concatenate(own_weights))
        return replace(self, bins=bins, cells=cells, bin_level=low + raised)

    def with_cells_of(self, slices: Iterable[Self]) -> Self:
        """Return the table of all rows with the bins of the slices that they consist of."""
        return self._with_cells([table for table in slices if table.keys is not None])

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        if self.cells is not None:
            state["cells"] = self.cells._replace(weights=smallest(self.cells.weights))
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self.cells is not None:
            self.__dict__["cells"] = self.cells._replace(weights=self.cells.weights.astype(np.float32))

    # -- what it says --------------------------------------------------------------------------------------------------

    def pair(self, positive: int, among: Sequence[int] | None = None) -> Pair:
        """Return the weights, at each score, of the rows that are not of a label and of those that are, shape (scores,).

        `among` leaves out the rows with other labels.
        """
        if self.weights is None:
            return np.empty(0), np.empty(0)
        return _pair(self.weights, positive, among)

    def replicates(self, multiplicity: Array) -> Array:
        """Return the weights in the bins for each replicate, shape (replicates, labels, bins).

        Several metrics ask for the same: the last answer is kept.
        """
        global _last
        assert self.cells is not None
        table, known, replicates = _last
        if table is not self or known is not multiplicity:
            replicates = self.cells.totals(multiplicity)
            _last = (self, multiplicity, replicates)
        return np.asarray(replicates)

    def replicate_pair(self, multiplicity: Array, positive: int, among: Sequence[int] | None = None) -> Pair:
        """Return what `pair` does, in the bins for each replicate, shape (replicates, bins)."""
        return _pair(self.replicates(multiplicity), positive, among)


_last: tuple[Any, Any, Any] = (None, None, None)


def _label_weights(rows: RowPiece, starts: Array, n_labels: int) -> Array:
    """Return the weight of the rows of each label in each run, shape (labels, runs)."""
    totals = np.diff(starts, append=len(rows.keys)) if rows.weight is None else np.add.reduceat(rows.weight, starts)
    if n_labels == 1:
        return totals[None].astype(np.float64)
    labels = rows.groups & 1 if n_labels == 2 else rows.groups % n_labels
    if n_labels == 2 and rows.weight is None:
        positive = np.add.reduceat(labels, starts, dtype=np.uint32)  # without a copy as int64
        return np.stack([totals - positive, positive]).astype(np.float64)
    each = [labels == label if rows.weight is None else rows.weight * (labels == label) for label in range(n_labels)]
    return np.stack([np.add.reduceat(weights, starts, dtype=np.float64) for weights in each])


def _pair(weights: Array, positive: int, among: Sequence[int] | None) -> Pair:
    """Split weights of shape (…, labels, scores) by whether their label is this one."""
    of = weights[..., positive, :]
    others = [a for a in (range(weights.shape[-2]) if among is None else among) if a != positive]
    return (weights[..., others[0], :] if len(others) == 1 else weights[..., others, :].sum(axis=-2)), of

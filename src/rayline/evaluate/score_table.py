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

from rayline.core.statistics.score_weights import MAX_SCORES, Pair, ScoreWeights, level_of, order_keys, order_values
from rayline.evaluate.batch import ScoredBatch

Array = npt.NDArray[Any]
MAX_BINS = 128
"""Bins of the scores whose weights are kept for each bucket."""


class SparseCells(NamedTuple):
    """An array of weights of which few are not 0: the flat places of these, and the weights."""

    shape: tuple[int, int, int]  # buckets, labels, bins
    places: Array
    weights: Array

    @classmethod
    def of(cls, shape: tuple[int, int, int], places: Array, weights: Array | None) -> SparseCells:
        """Return the sums of weights (ones when None) at places that may repeat."""
        found = np.bincount(places, weights, minlength=math.prod(shape))
        filled = np.flatnonzero(found)
        return cls(shape, filled.astype(np.uint32), found[filled].astype(np.float32))

    def dense(self) -> Array:
        """Return the whole array, float32."""
        found = np.zeros(math.prod(self.shape), np.float32)
        found[self.places] = self.weights
        return found.reshape(self.shape)

    def totals(self, multiplicity: Array) -> Array:
        """Return the sums over the buckets, of which row r of `multiplicity` counts each so often: (replicates, labels, bins)."""
        n_buckets, n_labels, n_bins = self.shape
        counts = multiplicity.astype(np.float32)  # as precise as replicates need be
        if 8 * len(self.places) > math.prod(self.shape):
            made = counts @ self.dense().reshape(n_buckets, n_labels * n_bins)
            return made.astype(np.float64).reshape(-1, n_labels, n_bins)
        bucket, column = np.divmod(self.places.astype(np.int64), n_labels * n_bins)
        order = np.argsort(column, kind="stable")
        starts = np.flatnonzero(np.concatenate([[True], np.diff(column[order]) != 0]))
        found = np.zeros((len(counts), n_labels * n_bins))
        if len(order):
            each = counts[:, bucket[order]] * self.weights[order]
            found[:, column[order][starts]] = np.add.reduceat(each, starts, axis=1)
        return found.reshape(-1, n_labels, n_bins)


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
        assert isinstance(batch, ScoredBatch)
        scores, labels, n_labels, odds = _scores_and_labels(batch, options["of"])
        if not len(scores):
            return cls(most=MAX_SCORES)
        rows = _sorted_rows(scores, labels, n_labels, batch)
        weights = [
            np.bincount(rows.runs[own], None if rows.weight is None else rows.weight[own], minlength=len(rows.keys))
            for own in ([slice(None)] if n_labels == 1 else [rows.labels == label for label in range(n_labels)])
        ]
        made = cls(rows.keys, np.stack(weights).astype(np.float64, copy=False), most=MAX_SCORES)
        if batch.bucket is None:
            return made.limited(MAX_SCORES)
        places = _bin_keys(rows.keys, odds=odds)
        level = level_of(places, MAX_BINS)
        places = places >> np.uint64(level)
        new = np.concatenate([[True], places[1:] != places[:-1]])
        bins = places[new]
        of_row = (np.cumsum(new) - 1)[rows.runs]
        shape = (batch.n_buckets, n_labels, len(bins))
        cells = SparseCells.of(shape, (rows.bucket * n_labels + rows.labels) * len(bins) + of_row, rows.weight)
        return replace(made, bins=bins, cells=cells, bin_level=level).limited(MAX_SCORES)

    @classmethod
    def merge_all(cls, states: Iterable[Self], **options: Any) -> Self:
        given = list(states)
        found = [state for state in given if state.keys is not None]
        made = super().merge_all(given)
        if len(found) > 1 and all(state.bins is not None for state in found):
            low = max(state.bin_level for state in found)
            every = [s.bins >> np.uint64(low - s.bin_level) for s in found if s.bins is not None]
            united = np.unique(np.concatenate(every))
            raised = level_of(united, MAX_BINS)
            bins = np.unique(united >> np.uint64(raised))
            places, own_weights = [], []
            for state, own in zip(found, every, strict=True):
                assert state.cells is not None
                n_buckets, n_labels, n_bins = state.cells.shape
                column, at = np.divmod(state.cells.places.astype(np.int64), n_bins)
                places.append(column * len(bins) + np.searchsorted(bins, own >> np.uint64(raised))[at])
                own_weights.append(state.cells.weights)
            shape = (n_buckets, n_labels, len(bins))
            cells = SparseCells.of(shape, np.concatenate(places), np.concatenate(own_weights))
            made = replace(made, bins=bins, cells=cells, bin_level=low + raised)
        return made

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
        table, known, found = _last
        if table is not self or known is not multiplicity:
            found = self.cells.totals(multiplicity)
            _last = (self, multiplicity, found)
        return np.asarray(found)

    def replicate_pair(self, multiplicity: Array, positive: int, among: Sequence[int] | None = None) -> Pair:
        """Return what `pair` does, in the bins for each replicate, shape (replicates, bins)."""
        return _pair(self.replicates(multiplicity), positive, among)


_last: tuple[Any, Any, Any] = (None, None, None)


class _Rows(NamedTuple):
    """Rows in the order of their scores: the different keys, the number of each row's key, and what belongs to the row."""

    keys: Array
    runs: Array
    labels: Array
    bucket: Array
    weight: Array | None


def _sorted_rows(scores: Array, labels: Array, n_labels: int, batch: ScoredBatch) -> _Rows:
    bucket = np.zeros(len(scores), np.int64) if batch.bucket is None else batch.bucket
    single = scores.astype(np.float32)
    if batch.weight is None and n_labels * batch.n_buckets < 1 << 32 and bool((single == scores).all()):
        # Scores of single precision leave room for label and bucket in one word, which sorts faster than places do.
        bits = (single + np.float32(0.0)).view(np.uint32).astype(np.uint64)
        high = np.where(bits >> np.uint64(31), bits ^ np.uint64(0xFFFFFFFF), bits | np.uint64(1 << 31))
        rest = bucket.astype(np.uint64) * np.uint64(n_labels) + labels.astype(np.uint64)
        words = np.sort((high << np.uint64(32)) | rest)
        high = (words >> np.uint64(32)).astype(np.uint32)
        new = np.concatenate([[True], high[1:] != high[:-1]])
        bits = np.where(high[new] >> np.uint32(31), high[new] ^ np.uint32(1 << 31), ~high[new])
        bucket, labels = np.divmod(words.astype(np.uint32).astype(np.int64), n_labels)
        return _Rows(order_keys(bits.view(np.float32)), np.cumsum(new) - 1, labels, bucket, None)
    keys = order_keys(scores)
    order = np.argsort(keys)
    keys = keys[order]
    new = np.concatenate([[True], keys[1:] != keys[:-1]])
    weight = None if batch.weight is None else batch.weight[order]
    return _Rows(keys[new], np.cumsum(new) - 1, labels[order], bucket[order].astype(np.int64), weight)


def _scores_and_labels(batch: ScoredBatch, of: tuple[Any, ...]) -> tuple[Array, Array, int, bool]:
    """Return scores, labels, the number of labels, and whether the scores are probabilities."""
    if of[0] == "error":
        return np.abs(batch.errors), np.zeros(len(batch), np.int64), 1, False
    names = batch.scores.dtype.names
    odds = names is None or "margin" not in names
    if of[0] == "classes":
        return batch.ranks(of[1]), batch.truth, len(batch.classes), odds
    return batch.ranks(of[1]), (batch.truth == of[1]).astype(np.int64), 2, odds


def _pair(weights: Array, positive: int, among: Sequence[int] | None) -> Pair:
    """Split weights of shape (…, labels, scores) by whether their label is this one."""
    of = weights[..., positive, :]
    others = [a for a in (range(weights.shape[-2]) if among is None else among) if a != positive]
    return (weights[..., others[0], :] if len(others) == 1 else weights[..., others, :].sum(axis=-2)), of


def _bin_keys(keys: Array, *, odds: bool) -> Array:
    """Return keys of the same order for bins: of a probability those of its odds, which are as fine near 1 as near 0."""
    if not odds:
        return keys >> np.uint64(32)
    chance = order_values(keys)
    with np.errstate(divide="ignore"):
        return order_keys(np.minimum(chance / (1.0 - chance), 1e300)) >> np.uint64(32)

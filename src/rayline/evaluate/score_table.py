"""The weight of the rows at each different score, by class: what measures of a ranking are computed from.

The table is exact up to 2^20 different scores. Beyond, scores that agree in their leading bits count as equal; as many
trailing bits are dropped as are needed, which depends on the rows alone and not on their order or blocks. `tied_share` then
says how far the area under the ROC curve can be off.

For bootstrap intervals the weights are also kept for each bucket, in at most 128 bins of the scores. A replicate is computed
from these bins, and moved by the difference between the exact value and that of the bins.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from rayline.core.statistics.base import Statistic
from rayline.evaluate.batch import ScoredBatch

Array = npt.NDArray[Any]

MAX_SCORES = 1 << 20
"""Different scores up to which a table is exact."""

MAX_BINS = 128
"""Bins of the scores whose weights are kept for each bucket."""

_SIGN = np.uint64(1 << 63)


class SparseCells(NamedTuple):
    """An array of weights of which few are not 0: the flat places of these, and the weights."""

    shape: tuple[int, int, int]
    places: Array
    weights: Array

    @classmethod
    def of(cls, shape: tuple[int, int, int], places: Array, weights: Array | None) -> SparseCells:
        """Return the sums of weights (ones when None) at places that may repeat."""
        found = np.bincount(places, weights, minlength=math.prod(shape))
        filled = np.flatnonzero(found)
        return cls(shape, filled.astype(np.uint32), found[filled].astype(np.float64, copy=False))

    def dense(self) -> Array:
        """Return the whole array."""
        found = np.zeros(math.prod(self.shape))
        found[self.places] = self.weights
        return found.reshape(self.shape)

    def totals(self, multiplicity: Array) -> Array:
        """Return the sums over the buckets, of which row r of `multiplicity` counts each so often: (replicates, bins, labels)."""
        n_bins, n_buckets, n_labels = self.shape
        counts = multiplicity.astype(np.float32)  # as precise as replicates need be
        if 8 * len(self.places) > math.prod(self.shape):
            flat = self.dense().transpose(1, 0, 2).reshape(n_buckets, n_bins * n_labels)
            return np.asarray(counts @ flat.astype(np.float32), dtype=np.float64).reshape(-1, n_bins, n_labels)
        place, label = np.divmod(self.places.astype(np.int64), n_labels)
        in_bin, bucket = np.divmod(place, n_buckets)
        column = in_bin * n_labels + label
        order = np.argsort(column, kind="stable")
        starts = np.flatnonzero(np.concatenate([[True], np.diff(column[order]) != 0]))
        found = np.zeros((len(counts), n_bins * n_labels))
        if len(order):
            each = counts[:, bucket[order]] * self.weights[order].astype(np.float32)
            found[:, column[order][starts]] = np.add.reduceat(each, starts, axis=1)
        return found.reshape(len(counts), n_bins, n_labels)


class Curve(NamedTuple):
    """Weights at each different score, from the lowest: the scores, and an array of shape (scores, labels)."""

    scores: Array
    weights: Array


@dataclass(frozen=True, eq=False)
class ScoreTable(Statistic):
    """Weights by score and label (see the module).

    The option `of` says what is a row's score and its label: `("class", c)` the rank of class c and whether the row is of
    it, `("classes", c)` the same with all classes as labels, `("error",)` the absolute error and no label.
    """

    keys: Array | None = None  # uint64 in the order of the scores, without the `level` trailing bits, ascending
    weights: Array | None = None  # (scores, labels)
    level: int = 0
    bins: Array | None = None  # uint64 keys of bins of scores, without `bin_level` bits; None without buckets
    cells: SparseCells | None = None  # weights, (bins, buckets, labels)
    bin_level: int = 0

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        (batch,) = values
        assert isinstance(batch, ScoredBatch)
        scores, labels, n_labels, odds = _scores_and_labels(batch, options["of"])
        if not len(scores):
            return cls()
        keys, runs, order = _sorted(order_keys(scores))
        labels = labels[order]
        weight = None if batch.weight is None else batch.weight[order]
        weights = np.bincount(runs * n_labels + labels, weight, minlength=len(keys) * n_labels)
        made = cls(keys, weights.reshape(len(keys), n_labels).astype(np.float64, copy=False))
        if batch.bucket is None:
            return made._limited()
        places = _bin_keys(keys, odds=odds)
        level = _level(places, MAX_BINS)
        places = places >> np.uint64(level)
        new = np.concatenate([[True], places[1:] != places[:-1]])
        of_row = (np.cumsum(new) - 1)[runs]
        bins = places[new]
        bucket = batch.bucket[order].astype(np.int64)
        places_of_rows = (of_row * batch.n_buckets + bucket) * n_labels + labels
        cells = SparseCells.of((len(bins), batch.n_buckets, n_labels), places_of_rows, weight)
        return cls(made.keys, made.weights, 0, bins, cells, level)._limited()

    @classmethod
    def empty(cls, **options: Any) -> Self:
        return cls()

    def merge(self, other: Self) -> Self:
        return self.merge_all([self, other])

    @classmethod
    def merge_all(cls, states: Iterable[Self], **options: Any) -> Self:
        found = [state for state in states if state.keys is not None]
        if len(found) < 2:
            return found[0] if found else cls()
        level = max(state.level for state in found)
        keys, weights = _united([(s.keys, s.weights, level - s.level) for s in found])
        made = cls(keys, weights, level)
        if all(state.bins is not None for state in found):
            low = max(state.bin_level for state in found)
            every = np.unique(
                np.concatenate([s.bins >> np.uint64(low - s.bin_level) for s in found if s.bins is not None])
            )
            raised = _level(every, MAX_BINS)
            bins = np.unique(every >> np.uint64(raised))
            places, own_weights = [], []
            for state in found:
                assert state.bins is not None
                assert state.cells is not None
                shape, own, weight = state.cells
                moved = np.searchsorted(bins, state.bins >> np.uint64(low + raised - state.bin_level))
                bin_of, rest = np.divmod(own.astype(np.int64), shape[1] * shape[2])
                places.append(moved[bin_of] * (shape[1] * shape[2]) + rest)
                own_weights.append(weight)
            cells = SparseCells.of((len(bins), *shape[1:]), np.concatenate(places), np.concatenate(own_weights))
            made = cls(keys, weights, level, bins, cells, low + raised)
        return made._limited()

    def _limited(self) -> Self:
        assert self.keys is not None
        assert self.weights is not None
        if len(self.keys) <= MAX_SCORES:
            return self
        raised = _level(self.keys, MAX_SCORES)
        keys, weights = _united([(self.keys, self.weights, raised)])
        return type(self)(keys, weights, self.level + raised, self.bins, self.cells, self.bin_level)

    # -- what it says --------------------------------------------------------------------------------------------------

    @property
    def is_exact(self) -> bool:
        """Whether no scores that differ count as equal."""
        return self.level == 0

    def curve(self, *, positive: int | None = None, among: Sequence[int] | None = None) -> Curve:
        """Return scores and weights; of two labels, negative and positive, when `positive` names a label.

        `among` leaves out the rows with other labels.
        """
        if self.keys is None or self.weights is None:
            return Curve(np.empty(0), np.zeros((0, 2 if positive is not None else 1)))
        return Curve(_values(self.keys << np.uint64(self.level)), _two(self.weights, positive, among))

    def replicates(
        self, multiplicity: Array, *, positive: int | None = None, among: Sequence[int] | None = None
    ) -> Array:
        """Return the weights in the bins for each replicate, shape (replicates, bins, labels)."""
        assert self.cells is not None
        return _two(self.cells.totals(multiplicity), positive, among)


def _scores_and_labels(batch: ScoredBatch, of: tuple[Any, ...]) -> tuple[Array, Array, int, bool]:
    """Return scores, labels, the number of labels, and whether the scores are probabilities."""
    if of[0] == "error":
        return np.abs(batch.errors), np.zeros(len(batch), np.int64), 1, False
    names = batch.scores.dtype.names
    odds = names is None or "margin" not in names
    if of[0] == "classes":
        return batch.ranks(of[1]), batch.truth, len(batch.classes), odds
    return batch.ranks(of[1]), (batch.truth == of[1]).astype(np.int64), 2, odds


def _two(weights: Array, positive: int | None, among: Sequence[int] | None) -> Array:
    """Weights of the rows that are not of a label, and that are; the last axis is that of the labels."""
    if positive is None:
        return weights
    of = weights[..., positive]
    rest = (
        weights.sum(axis=-1) - of if among is None else weights[..., [a for a in among if a != positive]].sum(axis=-1)
    )
    return np.stack([rest, of], axis=-1)


def order_keys(values: Array) -> Array:
    """Return unsigned integers in the order of the numbers.

    >>> bool((np.diff(order_keys(np.array([-1.0, 0.0, 0.5, 2.0])).astype(float)) > 0).all())
    True
    """
    bits = (np.asarray(values, dtype=np.float64) + 0.0).view(np.uint64)  # -0.0 is 0.0
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def _values(keys: Array) -> Array:
    """Return the numbers of order keys."""
    found: Array = np.where(keys & _SIGN, keys ^ _SIGN, ~keys).view(np.float64)
    return found


def _sorted(keys: Array) -> tuple[Array, Array, Array]:
    """Return the different keys in order, for each sorted row the number of its key, and the order of the rows."""
    order = np.argsort(keys)
    rows = keys[order]
    new = np.concatenate([[True], rows[1:] != rows[:-1]])
    return rows[new], np.cumsum(new) - 1, order


def _united(parts: Sequence[tuple[Any, Any, int]]) -> tuple[Array, Array]:
    """Return the different keys of several tables, without trailing bits, and the sums of their weights."""
    keys = np.concatenate([own >> np.uint64(drop) for own, _, drop in parts])
    weights = np.concatenate([own for _, own, _ in parts])
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return keys[starts], np.add.reduceat(weights[order], starts, axis=0)


def _level(keys: Array, most: int) -> int:
    """Return the number of trailing bits to drop so that at most so many different keys remain; keys ascend."""

    def different(level: int) -> int:
        short = keys >> np.uint64(level)
        return int(np.count_nonzero(short[1:] != short[:-1])) + 1

    if len(keys) <= most:
        return 0
    low, high = 0, 63  # `low` bits are too few, `high` enough: different keys decrease with the level
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if different(middle) <= most else (middle, high)
    return high


def _bin_keys(keys: Array, *, odds: bool) -> Array:
    """Return keys of the same order for bins: of a probability those of its odds, which are as fine near 1 as near 0."""
    if not odds:
        return keys >> np.uint64(32)
    chance = _values(keys)
    with np.errstate(divide="ignore"):
        return order_keys(np.minimum(chance / (1.0 - chance), 1e300)) >> np.uint64(32)


# -- measures of a ranking, for one table of weights (scores, 2) or one for each replicate (replicates, bins, 2) -----------


def area_under_roc(weights: Array) -> Array:
    """Return the probability that a positive row has a higher score than a negative one; half of it where they are equal.

    NaN without negative or without positive rows.
    """
    negative, positive = weights[..., 0], weights[..., 1]
    below = np.cumsum(negative, axis=-1) - negative / 2
    pairs = negative.sum(axis=-1) * positive.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(pairs > 0, (positive * below).sum(axis=-1) / pairs, np.nan)


def average_precision(weights: Array) -> Array:
    """Return the sum of the precision at each score times the recall gained there; NaN without positive rows."""
    down = np.cumsum(weights[..., ::-1, :], axis=-2)
    positive, rows = down[..., 1], down.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(rows > 0, positive / rows, 0.0)
        gained = weights[..., ::-1, 1]
        total = positive[..., -1] if positive.shape[-1] else positive.sum(axis=-1)
        return np.where(total > 0, (precision * gained).sum(axis=-1) / total, np.nan)


def tied_share(weights: Array) -> float:
    """Return by how much an area under the ROC curve can be off, when only the order within equal scores is unknown."""
    negative, positive = weights[:, 0], weights[:, 1]
    pairs = negative.sum() * positive.sum()
    return float((negative * positive).sum() / pairs / 2) if pairs > 0 else 0.0


def weighted_median(scores: Array, weights: Array) -> float:
    """Return the median of scores in ascending order: the mean of both where the halves have the same weight."""
    filled = weights > 0
    scores, total = scores[filled], np.cumsum(weights[filled])
    if not len(scores):
        return float("nan")
    half = total[-1] / 2
    place = int(np.searchsorted(total, half, side="left"))
    if total[place] == half and place + 1 < len(scores):
        return float((scores[place] + scores[place + 1]) / 2)
    return float(scores[place])

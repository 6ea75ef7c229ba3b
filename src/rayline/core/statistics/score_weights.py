"""The weight of rows at each different score: what measures of a ranking of two kinds of rows are computed from.

Exact up to 2^20 different scores. Beyond, scores that agree in their leading bits count as equal; as many trailing bits are
dropped as are needed, which depends on the rows alone and not on their order or blocks. `tied_share` then says how far the area
under the ROC curve can be off.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from rayline.core.statistics.base import Statistic

Array = npt.NDArray[Any]
Pair: TypeAlias = tuple[Array, Array]
"""Weights of negative and of positive rows."""

MAX_SCORES = 1 << 20
"""Different scores up to which weights are exact."""

_SIGN = np.uint64(1 << 63)

_PIECE = 1 << 16
"""Keys at a time, so that they stay in the cache."""


class Curve(NamedTuple):
    """Weights at each different score, from the lowest: the scores, and an array of shape (scores, labels)."""

    scores: Array
    weights: Array


@dataclass(frozen=True, eq=False)
class ScoreWeights(Statistic):
    """The weights of the labels at each different score. `of(scores, weights)` takes weights of shape (labels, rows).

    >>> made = ScoreWeights.of(np.array([0.5, 0.2, 0.5]), np.array([[1.0, 1, 0], [0, 0, 2]]))
    >>> made.curve().scores.tolist(), made.curve().weights.tolist()
    ([0.2, 0.5], [[1.0, 0.0], [1.0, 2.0]])
    """

    keys: Array | None = None  # uint64 in the order of the scores, without the `level` trailing bits, ascending
    weights: Array | None = None  # (labels, scores)
    level: int = 0
    max_scores: int = MAX_SCORES  # different scores up to which it is exact

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        scores, weights = values
        if not len(scores):
            return cls()
        keys = order_keys(scores)
        order = np.argsort(keys, kind="stable")
        return cls(*united([(keys[order], np.asarray(weights, np.float64)[:, order], 0)])).limited(MAX_SCORES)

    @classmethod
    def merge_all(cls, states: Iterable[Self], **options: Any) -> Self:
        all_states = list(states)
        filled = [state for state in all_states if state.keys is not None]
        if len(filled) < 2:
            return filled[0] if filled else cls(max_scores=min((s.max_scores for s in all_states), default=MAX_SCORES))
        level = max(state.level for state in filled)
        keys, weights = united([(s.keys, s.weights, level - s.level) for s in filled])
        max_scores = min(state.max_scores for state in filled)
        return cls(keys, weights, level, max_scores=max_scores).limited(max_scores)

    # Tables travel from workers in the smallest types that hold them.

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if self.keys is not None and self.weights is not None:
            zeros, low = _common_zeros(self.keys), self.keys.min()
            state["keys"] = zeros, low, smallest((self.keys - low) >> zeros)
            state["weights"] = smallest(self.weights)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["keys"] is not None:
            zeros, low, keys = state["keys"]
            state |= {"keys": (keys.astype(np.uint64) << zeros) + low, "weights": state["weights"].astype(np.float64)}
        self.__dict__.update(state)

    def limited(self, max_scores: int) -> Self:
        """Return the table with at most so many different scores, now and after every merge."""
        if self.keys is None or self.weights is None or len(self.keys) <= max_scores:
            return self if self.max_scores == max_scores else replace(self, max_scores=max_scores)
        raised = level_of(self.keys, max_scores)
        keys, weights = united([(self.keys, self.weights, raised)])
        return replace(self, keys=keys, weights=weights, level=self.level + raised, max_scores=max_scores)

    @property
    def is_exact(self) -> bool:
        """Whether no scores that differ count as equal."""
        return self.level == 0

    @property
    def order(self) -> Array:
        """The keys with all their bits, uint64."""
        return np.empty(0, np.uint64) if self.keys is None else self.keys << np.uint64(self.level)

    def curve(self) -> Curve:
        """Return the scores and the weights of each label."""
        if self.keys is None or self.weights is None:
            return Curve(np.empty(0), np.zeros((0, 1)))
        return Curve(order_values(self.order), self.weights.T)


def order_keys(values: Array) -> Array:
    """Return unsigned integers in the order of the numbers.

    >>> bool((np.diff(order_keys(np.array([-1.0, 0.0, 0.5, 2.0])).astype(float)) > 0).all())
    True
    """
    bits = (np.asarray(values, dtype=np.float64) + 0.0).view(np.uint64)  # -0.0 is 0.0
    is_negative = bits >= _SIGN
    if not is_negative.any():
        return bits | _SIGN
    return np.where(is_negative, ~bits, bits | _SIGN)


def order_values(keys: Array) -> Array:
    """Return the numbers of order keys: of 64 bits those of double, of 32 bits those of single precision."""
    sign, kind = (_SIGN, np.float64) if keys.dtype == np.uint64 else (np.uint32(1 << 31), np.float32)
    is_positive = keys >= sign
    order = keys ^ sign if is_positive.all() else np.where(is_positive, keys ^ sign, ~keys)
    return order.view(kind)


def united(parts: Sequence[tuple[Any, Any, int]]) -> tuple[Array, Array]:
    """Return the different keys of several tables, without trailing bits, and the sums of their weights."""
    keys = np.concatenate([array >> np.uint64(drop) if drop else array for array, _, drop in parts])
    weights = np.concatenate([array for _, array, _ in parts], axis=1)
    if len(parts) > 1:
        keys, weights = _in_order(keys, weights)
    starts = run_starts(keys)
    if len(starts) == len(keys):
        return keys, weights
    return keys[starts], np.add.reduceat(weights, starts, axis=1)


def _in_order(keys: Array, weights: Array) -> tuple[Array, Array]:
    """Sort keys with their weights: as single words where small whole weights leave room, as those of rows without weights."""
    low, n_labels = keys.min(), len(weights)
    zeros = _common_zeros(keys)
    size = int(weights.max()).bit_length() if np.isfinite(weights.max()) else 64
    n_bits = int((keys.max() - low) >> zeros).bit_length() + n_labels * size
    if n_bits <= 64 and (weights.astype(np.uint64) == weights).all():
        words = (keys - low) >> zeros
        for label_weights in weights:
            words <<= np.uint64(size)
            words |= label_weights.astype(np.uint64)
        words.sort()
        mask = np.uint64((1 << size) - 1)
        columns = np.stack([words >> np.uint64(size * i) & mask for i in reversed(range(n_labels))]).astype(np.float64)
        return ((words >> np.uint64(size * n_labels)) << zeros) + low, columns
    order = np.argsort(keys, kind="stable")  # merges runs that are sorted already
    return keys[order], weights[:, order]


def smallest(values: Array) -> Array:
    """Return numbers of at least 0 in the smallest unsigned type that holds them, or as they are."""
    largest = values.max(initial=0)
    kind = next((t for t in (np.uint8, np.uint16, np.uint32) if largest <= np.iinfo(t).max), None)
    if kind is None:
        return values
    small = values.astype(kind)
    return small if values.dtype.kind == "u" or (small == values).all() else values


def _common_zeros(keys: Array) -> np.uint64:
    """Return how many trailing bits are 0 in all keys: those of scores of single precision have 29."""
    any_set = int(np.bitwise_or.reduce(keys))
    return np.uint64((any_set & -any_set).bit_length() - 1 if any_set else 0)


def run_starts(values: Array) -> Array:
    """Return where runs of equal values begin; there is at least one value."""
    return np.concatenate([[0], np.flatnonzero(values[1:] != values[:-1]) + 1])


def level_of(keys: Array, max_scores: int) -> int:
    """Return the number of trailing bits to drop so that at most so many different keys remain; keys ascend.

    >>> level_of(np.array([0, 1, 2, 3], np.uint64), 2)
    1
    """
    if len(keys) <= max_scores:
        return 0
    n_bits = 8 * keys.dtype.itemsize
    kind, mantissa, bias = (np.float32, 23, 126) if n_bits == 32 else (np.float64, 52, 1022)
    steps = np.zeros(
        n_bits + 1, np.int64
    )  # neighbours by the highest bit in which they differ, counted from 1; 0 if equal
    for start in range(0, len(keys) - 1, _PIECE):
        piece = keys[start : start + _PIECE + 1]
        changed = piece[1:] ^ piece[:-1]
        changed &= ~(changed >> keys.dtype.type(1))  # so that no number is rounded up to the next power of two
        exponents = (changed.astype(kind).view(keys.dtype) >> keys.dtype.type(mantissa)).astype(np.int64)
        steps += np.bincount(np.maximum(exponents - bias, 0), minlength=n_bits + 1)
    different = 1 + np.append(np.cumsum(steps[:0:-1])[::-1], 0)  # keys that are different at each level
    return int(np.flatnonzero(different <= max_scores)[0])


# -- measures of a ranking, of the weights at ascending scores of negative and of positive rows, shape (…, scores) -------------


def area_under_roc(negative: Array, positive: Array) -> Array:
    """Return the probability that a positive row has a higher score than a negative one; half of it where they are equal.

    NaN without negative or without positive rows.
    """
    below = np.cumsum(negative, axis=-1)
    below -= negative / 2
    pairs = negative.sum(axis=-1) * positive.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(pairs > 0, (positive * below).sum(axis=-1) / pairs, np.nan)


def average_precision(negative: Array, positive: Array) -> Array:
    """Return the sum of the precision at each score times the recall gained there; NaN without positive rows."""
    gained = positive[..., ::-1]
    areas = np.cumsum(gained, axis=-1)
    rows = np.cumsum(negative[..., ::-1], axis=-1)
    rows += areas
    total = positive.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(rows > 0, areas / rows, 0.0)
        return np.where(total > 0, (precision * gained).sum(axis=-1) / total, np.nan)


def tied_share(negative: Array, positive: Array) -> float:
    """Return by how much an area under the ROC curve can be off, when only the order within equal scores is unknown."""
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

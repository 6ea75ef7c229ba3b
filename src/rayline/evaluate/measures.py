"""Measures of one group of a ranking, and of the order of survival times, on NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
OfGroup = Callable[[Array, Array, int | None], float]


# -- rankings -----------------------------------------------------------------------------------------------------------------


def of_groups(
    measure: OfGroup, relevance: Array, group: Array, scores: Array, weight: Array, k: int | None = None
) -> tuple[Array, Array, npt.NDArray[np.int64]]:
    """Return of each group the measure, the mean weight, and the index of one of its rows."""
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=np.nan) != 0)
    parts = np.split(order, starts[1:])
    values = [measure(relevance[part], scores[part], k) for part in parts]
    return np.array(values), np.array([weight[part].mean() for part in parts]), order[starts]


def ndcg_of_group(relevance: Array, scores: Array, k: int | None) -> float:
    """Return the NDCG of one group, its gain the relevance."""
    discount = 1.0 / np.log2(np.arange(len(scores)) + 2.0)
    discount[k:] = 0.0 if k is not None else discount[k:]
    ideal = float(np.sort(relevance)[::-1] @ discount)
    if ideal <= 0:
        return 0.0
    _, place, count = np.unique(-scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(count)
    shared = (np.cumsum(discount)[ends - 1] - np.concatenate([[0.0], np.cumsum(discount)[ends[:-1] - 1]])) / count
    return float(relevance @ shared[place]) / ideal


def ndcg_exp_of_group(relevance: Array, scores: Array, k: int | None) -> float:
    """Return the NDCG of one group, its gain 2 ** relevance − 1, as XGBoost and LightGBM define it."""
    return ndcg_of_group(np.exp2(relevance) - 1.0, scores, k)


def average_precision_of_group(relevance: Array, scores: Array, k: int | None) -> float:
    """Return the average precision of one group, of rows with a relevance above 0 against the others.

    Without `k` equal scores are one threshold, as in scikit-learn; with `k` the irrelevant of them come first.
    """
    hit = relevance > 0
    if not hit.any():
        return 0.0
    order = np.lexsort((hit, -scores))
    hits = np.cumsum(hit[order])
    precision = hits / np.arange(1, len(hits) + 1)
    if k is not None:
        return float(precision[:k][hit[order][:k]].sum()) / min(int(hits[-1]), k)
    ends = np.flatnonzero(np.diff(scores[order], append=np.nan) != 0)
    return float(np.diff(hits[ends], prepend=0) @ precision[ends]) / int(hits[-1])


def reciprocal_rank_of_group(relevance: Array, scores: Array, k: int | None) -> float:
    """Return 1 / the rank of the first row with a relevance above 0; of equal scores the irrelevant come first."""
    hit = relevance > 0
    if not hit.any():
        return 0.0
    rank = int((scores[~hit] >= scores[hit].max()).sum()) + 1
    return 0.0 if k is not None and rank > k else 1.0 / rank


# -- survival times -----------------------------------------------------------------------------------------------------------


def concordance(low: Array, high: Array, risk: Array, weight: Array) -> float:
    """Return Harrell's concordance index of times between two bounds: of the pairs whose order of events is known, the share in which
    the earlier one has the greater risk; equal risks count half. NaN when there are no such pairs.

    Harrell, Califf, Pryor, Lee and Rosati, "Evaluating the yield of medical tests" (1982). A pair is known when an event is
    over (the upper bound) before the other can have happened (the lower bound), or when one happens at the very time at which
    the other is censored. A pair counts the product of both weights.

    >>> import numpy as np
    >>> concordance(np.array([1.0, 2.0, 3.0]), np.array([1.0, np.inf, 3.0]), np.array([0.9, 0.1, 0.5]), np.ones(3))
    1.0
    """
    exact = low == high
    # Later rows in descending order of their lower bounds; at equal bounds those that are not exact come first.
    later = np.lexsort((exact, -low))
    first = np.flatnonzero(np.isfinite(high))
    # For each earlier row, how many of `later` are known to come after it.
    keys = -low[later]
    strictly = np.searchsorted(keys, -high[first], side="left")
    inexact = ~exact[later]
    upto = np.concatenate([[0], np.cumsum(inexact)])
    ends = np.searchsorted(keys, -high[first], side="right")
    tied = np.where(exact[first], upto[ends] - upto[strictly], 0)
    _, ranks = np.unique(risk, return_inverse=True)
    below, same, total = _below(ranks[later], weight[later], ranks[first], strictly + tied)
    pairs = float(weight[first] @ total)
    return float(weight[first] @ (below + same / 2)) / pairs if pairs > 0 else float("nan")


def _below(
    ranks: npt.NDArray[np.int64], weight: Array, rows: npt.NDArray[np.int64], upto: npt.NDArray[np.int64]
) -> tuple[Array, Array, Array]:
    """Return for each query the weight of the first `upto` rows whose rank is below the asked one, equal to it, and any.

    The rows are sorted within blocks of 1, 2, 4, … rows; the first `upto` rows are a block of each size whose bit is set.
    """
    n, base = len(ranks), int(max(ranks.max(initial=0), rows.max(initial=0))) + 1
    below, same, total = (np.zeros(len(rows)) for _ in range(3))
    for level in range(n.bit_length()):
        mine = np.flatnonzero((upto >> level) & 1)
        if not len(mine):
            continue
        block = (np.arange(n) >> level) * base
        order = np.argsort(block + ranks, kind="stable")
        keys, sums = (block + ranks)[order], np.concatenate([[0.0], np.cumsum(weight[order])])
        # The block of this size ends where the larger ones leave off.
        start = (upto[mine] >> (level + 1)) << 1
        wanted = start * base + rows[mine]
        left, right = (np.searchsorted(keys, wanted, side=side) for side in ("left", "right"))
        begin, end = start << level, (start + 1) << level
        below[mine] += sums[left] - sums[begin]
        same[mine] += sums[right] - sums[left]
        total[mine] += sums[end] - sums[begin]
    return below, same, total

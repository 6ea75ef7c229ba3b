"""Metrics of rankings (by group) and of survival times, whose labels consist of two numbers.

A group may be spread over batches, and any two times may form a pair: the scored rows themselves are collected, 32 bytes each,
up to `MAX_PAIRED_ROWS`. Bootstrap replicates of a ranking draw whole groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from rayline.core.statistics.base import Statistic
from rayline.core.target import Task
from rayline.evaluate import measures
from rayline.evaluate.batch import ScoredBatch
from rayline.evaluate.metric import Metric, Part, Parts

Array = npt.NDArray[Any]

MAX_PAIRED_ROWS = 1 << 23
"""Rows up to which these metrics are computed: 256 MB of scores."""

MAX_RESAMPLED = 20_000_000
"""Rows whose pairs are compared for an interval, in all; at least `MIN_REPLICATES` times all rows."""

MIN_REPLICATES = 30

RANKING, SURVIVAL = frozenset((Task.RANKING,)), frozenset((Task.SURVIVAL,))


@dataclass(frozen=True, eq=False)
class PairedScores(Statistic):
    """Score, the two numbers of the label, weight and bucket of each row, shape (n, 5); of more than `MAX_PAIRED_ROWS` only their number.

    Scores of survival times are risks: the greater, the earlier.
    """

    rows: Array | None = None
    n_rows: int = 0

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        (batch,) = values
        assert isinstance(batch, ScoredBatch)
        assert batch.pair is not None
        score, n = batch.values, len(batch)
        if batch.target.task is Task.SURVIVAL and not batch.target.predicts_risk:
            score = -score
        weight = np.ones(n) if batch.weight is None else batch.weight
        bucket = np.zeros(n) if batch.bucket is None else batch.bucket
        if batch.target.task is Task.RANKING:  # a group is drawn as a whole
            bucket = np.mod(batch.pair, batch.n_buckets)
        return cls(np.stack([score, batch.truth, batch.pair, weight, bucket], axis=1), n)._limited()

    def merge(self, other: Self) -> Self:
        if not self.n_rows or not other.n_rows:
            return self if self.n_rows else other
        n_rows = self.n_rows + other.n_rows
        if self.rows is None or other.rows is None or n_rows > MAX_PAIRED_ROWS:
            return type(self)(None, n_rows)
        return type(self)(np.concatenate([self.rows, other.rows]), n_rows)

    def _limited(self) -> Self:
        return replace(self, rows=None) if self.n_rows > MAX_PAIRED_ROWS else self


_PAIRED = Part(PairedScores)


@dataclass(frozen=True)
class PairedMetric(Metric):
    """A measure of rows with labels of two numbers."""

    alternative = "evaluate a sample, of whole groups where there are some."

    @property
    def max_rows(self) -> int | None:
        return MAX_PAIRED_ROWS

    def parts(self, n_classes: int) -> Sequence[Part]:
        return [_PAIRED]

    def value(self, parts: Parts, multiplicity: Array) -> Array:
        collected = parts[_PAIRED]
        self.refuse_rows(collected.n_rows)
        if not collected.n_rows or collected.rows is None:
            return np.full(len(multiplicity), np.nan)
        return self.measured(collected.rows, multiplicity)

    def measured(self, rows: Array, multiplicity: Array) -> Array:
        """Return the measure of each replicate, from the rows of a `PairedScores`."""
        raise NotImplementedError


@dataclass(frozen=True)
class GroupMetric(PairedMetric):
    """The mean over the groups of a measure of one group, each with the mean weight of its rows.

    Attributes
    ----------
    measure
        A function of relevance, scores and k.
    k
        The number of first ranks that count; None for all.
    """

    measure: Callable[[Array, Array, int | None], float] = measures.ndcg_of_group
    k: int | None = None

    def at(self, name: str, k: int) -> Self:
        """Return the same metric of the first k ranks."""
        return replace(self, name=name, k=k)

    def measured(self, rows: Array, multiplicity: Array) -> Array:
        score, relevance, group, weight, bucket = rows.T
        values, weights, first = measures.of_groups(self.measure, relevance, group, score, weight, self.k)
        counts = multiplicity[:, bucket[first].astype(np.int64)] * weights
        total = counts.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.where(total > 0, counts @ values / total, np.nan))

    def undefined(self, parts: Parts) -> str:
        return "no group has weight"


@dataclass(frozen=True)
class ConcordanceMetric(PairedMetric):
    """Harrell's concordance index."""

    def measured(self, rows: Array, multiplicity: Array) -> Array:
        risk, low, high, weight, bucket = rows.T
        places, values = bucket.astype(np.int64), np.full(len(multiplicity), np.nan)
        n_replicates = max(MIN_REPLICATES, MAX_RESAMPLED // len(rows))
        for i, counts in enumerate(multiplicity[: 1 + n_replicates]):
            values[i] = measures.concordance(low, high, risk, weight * counts[places])
        return values

    def undefined(self, parts: Parts) -> str:
        return "of no two rows is it known whose event came first"


METRICS: list[Metric] = [
    GroupMetric(
        "ndcg", "max", "groups", RANKING, "normalised discounted cumulative gain by group; the gain is the relevance"
    ),
    GroupMetric(
        "ndcg_exp", "max", "groups", RANKING, "as ndcg, with the gain 2^relevance − 1 of XGBoost and LightGBM",
        measures.ndcg_exp_of_group,
    ),
    GroupMetric(
        "map", "max", "groups", RANKING, "mean average precision by group", measures.average_precision_of_group
    ),
    GroupMetric(
        "mrr", "max", "groups", RANKING, "mean of 1 / the place of a group's first relevant row",
        measures.reciprocal_rank_of_group,
    ),
    ConcordanceMetric("concordance", "max", "times", SURVIVAL, "share of pairs in the right order (Harrell)"),
]  # fmt: skip

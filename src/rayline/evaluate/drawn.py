"""The statistics that plots are drawn from, besides those of the metrics: curves, confusion, calibration, a sample of rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from rayline.core.scores import has_probabilities
from rayline.core.statistics.base import Statistic
from rayline.core.statistics.score_weights import order_keys
from rayline.core.target import Target, Task
from rayline.evaluate.batch import ScoredBatch
from rayline.evaluate.metric import Part, sums
from rayline.evaluate.score_table import ScoreTable
from rayline.evaluate.sums import ArrayStatistic

Array = npt.NDArray[Any]

MAX_CURVES = 8
"""Classes whose curves are drawn."""

MAX_CONFUSED = 40
"""Classes of which a confusion matrix is drawn."""

SAMPLED = 2_000
"""Rows of a regression that are drawn as dots."""

CALIBRATION = sums("calibration@10")


@dataclass(frozen=True, eq=False)
class ConfusionCounts(ArrayStatistic):
    """The weight of the rows of each true class by predicted class, shape (true, predicted)."""

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        (batch,) = values
        assert isinstance(batch, ScoredBatch)
        return cls.of_slices(batch, np.zeros(1, np.int64), 1)[0]

    @classmethod
    def of_slices(cls, grouped: ScoredBatch, slices: Array, n_slices: int, **options: Any) -> list[Self]:
        n = len(grouped.classes)
        if n == 2:
            counts = grouped.confusion.reshape(n_slices, -1, 4).sum(axis=1)
        else:
            cells = slices * (n * n) + grouped.truth * n + grouped.codes
            counts = np.bincount(cells, grouped.weight, minlength=n_slices * n * n)
        return [cls(table) for table in counts.reshape(n_slices, n, n).astype(np.float64)]


@dataclass(frozen=True, eq=False)
class DrawnRowSample(Statistic):
    """Different pairs of true and predicted value, those with the smallest hashes: a sample that no order of the rows changes."""

    rows: Array  # (pairs, 2)
    hashes: Array  # ascending

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        (batch,) = values
        assert isinstance(batch, ScoredBatch)
        hashes = order_keys(batch.truth) * np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(32)
        hashes += order_keys(batch.values) * np.uint64(0xBF58476D1CE4E5B9)
        hashes ^= hashes >> np.uint64(29)
        hashes *= np.uint64(0x94D049BB133111EB)
        hashes ^= hashes >> np.uint64(32)
        kept = slice(None)
        if len(hashes) > 4 * SAMPLED:
            kept = hashes <= np.partition(hashes, 2 * SAMPLED)[2 * SAMPLED]
        return cls._smallest(hashes[kept], np.stack([batch.truth[kept], batch.values[kept]], axis=1))

    @classmethod
    def _smallest(cls, hashes: Array, rows: Array) -> Self:
        distinct, places = np.unique(hashes, return_index=True)
        return cls(rows[places[:SAMPLED]], distinct[:SAMPLED])

    @classmethod
    def empty(cls, **options: Any) -> Self:
        return cls(np.empty((0, 2)), np.empty(0, np.uint64))

    @classmethod
    def merge_all(cls, states: Iterable[Self], **options: Any) -> Self:
        samples = list(states) or [cls.empty()]
        return cls._smallest(np.concatenate([s.hashes for s in samples]), np.concatenate([s.rows for s in samples]))


CONFUSION, SAMPLE = Part(ConfusionCounts), Part(DrawnRowSample)


def curve_part(code: int) -> Part:
    """Return the part of the curves of a class."""
    return Part(ScoreTable, (("of", ("class", code)),))


def plot_statistics(target: Target) -> tuple[Part, ...]:
    """Return the statistics for the plots of a target."""
    if not target.task.is_classification:
        return (SAMPLE,) if target.task is Task.REGRESSION and len(target.quantiles) < 2 else ()
    n = len(target.classes[0])
    curves = [curve_part(code) for code in ([1] if n == 2 else range(min(n, MAX_CURVES)))]
    return (*curves, *([CONFUSION] if n <= MAX_CONFUSED else []), CALIBRATION)


def fits(part: Part, batch: ScoredBatch) -> bool:
    """Whether the model gives what a statistic for plots needs: no curves without ranks, no calibration without probabilities."""
    if part.statistic is ScoreTable:
        return batch.is_ranked
    return part != CALIBRATION or has_probabilities(batch.scores)

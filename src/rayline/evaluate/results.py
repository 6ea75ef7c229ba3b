"""From merged statistics to values: each metric of each slice with its bootstrap replicates, interval and remarks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.core.evaluation import Estimate
from rayline.core.target import Task
from rayline.evaluate.bootstrap import N_BUCKETS, estimate, multiplicities
from rayline.evaluate.evaluation_statistics import EvaluationPlan, EvaluationStatistics, SliceStatistics
from rayline.evaluate.metric import Metric

Array = npt.NDArray[Any]

SLICE_SCHEMA = pl.Schema(
    {
        "by": pl.String(), "slice": pl.String(), "n_rows": pl.Int64(), "metric": pl.String(), "value": pl.Float64(),
        "low": pl.Float64(), "high": pl.Float64(), "note": pl.String(),
    }
)  # fmt: skip


@dataclass(frozen=True)
class MetricReplicates:
    """A metric of some rows: its value and its bootstrap replicates, why it has none, and how far a sketch can be off."""

    values: Array
    note: str = ""
    bound: float = 0.0


@dataclass(frozen=True)
class EvaluationResults:
    """The values of an evaluation, for each pipeline by its name.

    Attributes
    ----------
    plan, confidence
        How the rows were evaluated, and the confidence of the intervals.
    overall
        The statistics of all rows.
    slices
        The statistics of each slice, by its columns and values, in the order of the values.
    multiplicity
        How often each bucket counts in each replicate.
    """

    plan: EvaluationPlan
    confidence: float
    overall: SliceStatistics
    slices: Mapping[tuple[str, str], SliceStatistics]
    multiplicity: Array
    _known: dict[Any, MetricReplicates] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(
        cls, statistics: EvaluationStatistics, plan: EvaluationPlan, replicates: int, seed: int, confidence: float
    ) -> Self:
        """Return the results of merged statistics."""
        statistics = statistics.with_tables()
        overall = statistics.overall
        assert overall is not None
        is_grouped = any(target.task is Task.RANKING for target in plan.targets.values())  # many rows, one observation
        copies = np.ones(N_BUCKETS) if is_grouped else statistics.copies.mean_copies()
        multiplicity = multiplicities(replicates, copies, seed)
        slices = {
            (" × ".join(plan.by[place]), value): slice_statistics
            for place, by_value in sorted(statistics.slices.items())
            if place >= 0
            for value, slice_statistics in sorted(by_value.items(), key=lambda item: _order(item[0]))
        }
        return cls(plan, confidence, overall, slices, multiplicity)

    def replicates(self, statistics: SliceStatistics, name: str, pipeline: str = "") -> MetricReplicates:
        """Return a metric of the rows of a slice, the mean over the targets, with its replicates."""
        key = (id(statistics), name, pipeline)
        if key not in self._known:
            self._known[key] = self._replicates(statistics, name, pipeline)
        return self._known[key]

    def _replicates(self, statistics: SliceStatistics, name: str, pipeline: str) -> MetricReplicates:
        metric: Metric = self.plan.metrics[name]
        targets = statistics.parts[pipeline]
        values = np.mean([metric.value(parts, self.multiplicity) for parts in targets], axis=0)
        note = "" if np.isfinite(values[0]) else metric.undefined(targets[0])
        bound = float(np.mean([metric.bound(parts) for parts in targets]))
        return MetricReplicates(values, note, bound)

    def estimates(self, pipeline: str = "") -> dict[str, Estimate]:
        """Return each metric of all rows with its interval."""
        return {
            name: estimate(self.replicates(self.overall, name, pipeline).values, self.confidence)
            for name in self.plan.metrics
        }

    def notes(self, pipeline: str = "") -> list[str]:
        """Return what a reader must know of the metrics of all rows: those without a value, sketches, and
        functions that are not weighted or were called seldom."""
        notes = []
        for name in self.plan.metrics:
            replicates = self.replicates(self.overall, name, pipeline)
            if replicates.note:
                notes.append(f"{name} is not defined: {replicates.note}.")
            if replicates.bound:
                notes.append(f"{name} is that of a sketch of the scores, and at most {replicates.bound:.1g} off.")
            parts = self.overall.parts[pipeline]
            notes += dict.fromkeys(
                r for part in parts for r in self.plan.metrics[name].remarks(part, self.multiplicity)
            )
        return notes

    def slice_table(self, pipeline: str = "") -> pl.DataFrame:
        """Return one row for each slice and metric: the slice, its number of rows, the value, its interval, a note."""
        rows = []
        for (by, value), statistics in self.slices.items():
            for name in self.plan.metrics:
                replicates = self.replicates(statistics, name, pipeline)
                interval = estimate(replicates.values, self.confidence)
                note = (
                    f"not defined: {replicates.note}"
                    if replicates.note
                    else f"at most {replicates.bound:.1g} off"
                    if replicates.bound
                    else None
                )
                rows.append((by, value, statistics.n_rows, name, *map(_number, interval), note))
        return pl.DataFrame(rows, schema=SLICE_SCHEMA, orient="row")


def _number(value: float) -> float | None:
    return value if value == value else None


def _order(value: str) -> tuple[int, float, str]:
    """Sort texts that are numbers by size, others by the alphabet behind them."""
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    return (1, 0.0, value) if math.isnan(number) else (0, number, value)

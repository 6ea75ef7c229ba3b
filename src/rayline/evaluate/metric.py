"""The contract of a metric: mergeable statistics of scored rows, and the value that follows from them.

A metric never sees all rows. It names the statistics that it needs (`parts`); these are computed from batches of rows, in any
number of processes, and merged. Metrics with equal parts share them. `value` then computes the metric once for each row of
`multiplicity`, which says how often the rows of each bootstrap bucket count: a row of ones gives the metric itself, the others
are bootstrap replicates. So one scan gives a metric, its interval, and both for every slice.

>>> import numpy as np, polars as pl
>>> from rayline.core.target import Target, Task
>>> from rayline.evaluate.batch import ScoredBatch
>>> from rayline.evaluate.metrics import get
>>> target = Target(("late",), Task.BINARY, (pl.String(),), (("no", "yes"),))
>>> metric = get("accuracy")
>>> halves = [ScoredBatch(target, 0, np.array([0.2, 0.9]), np.array([0, 1])), ScoredBatch(target, 0, np.array([0.8]), np.array([0]))]
>>> parts = {part: part.merged([part.of(batch) for batch in halves]) for part in metric.parts(2)}
>>> metric.value(parts, np.ones((1, 1))).round(3).tolist()
[0.667]
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from rayline.core.data_types import Mode
from rayline.core.errors import DataError
from rayline.core.statistics import score_weights
from rayline.core.statistics.base import Statistic
from rayline.core.target import Target, Task
from rayline.evaluate.batch import ScoredBatch
from rayline.evaluate.score_table import ScoreTable
from rayline.evaluate.sums import BucketMaximum, BucketMoments, BucketSums

Array = npt.NDArray[Any]
Needs: TypeAlias = Literal["labels", "ranks", "probabilities", "values", "quantiles", "interval", "groups", "times"]

CLASSIFICATION = frozenset((Task.BINARY, Task.MULTICLASS))
REGRESSION = frozenset((Task.REGRESSION,))

NO_WEIGHT = "the rows have no weight"


class Part(NamedTuple):
    """A statistic of scored rows that a metric is computed from: `Statistic.of(batch, **options)`."""

    statistic: type[Statistic]
    options: tuple[tuple[str, Any], ...] = ()

    def of(self, batch: ScoredBatch) -> Statistic:
        """Return the statistic of a batch."""
        return self.statistic.of(batch, **dict(self.options))

    def merged(self, states: Iterable[Statistic]) -> Statistic:
        """Return the statistic of all rows of some batches."""
        return self.statistic.merge_all(states, **dict(self.options))


Parts: TypeAlias = Mapping[Part, Any]
"""The merged statistics of all rows, or of a slice."""


@dataclass(frozen=True)
class Metric(ABC):
    """A measure of predictions of one target.

    Attributes
    ----------
    name
        What results call it.
    mode
        Whether smaller ("min") or larger ("max") is better; None for a function whose direction was not declared.
    needs
        What it is computed from: predicted classes ("labels"), probabilities of the classes, either these or margins that
        rank the rows ("ranks"), predicted values (a regression), quantiles or the interval between them, scores within groups (a ranking), survival times.
    tasks
        The tasks whose predictions it can measure.
    about
        What it measures, in a few words.
    """

    name: str
    mode: Mode | None
    needs: Needs
    tasks: frozenset[Task]
    about: str = ""

    def fits(self, task: Task) -> bool:
        """Whether it can measure predictions of this task."""
        return task in self.tasks

    def measures(self, target: Target) -> bool:
        """Whether it can measure predictions of this target: of several quantiles no measure of a single value can."""
        several = len(target.quantiles) > 1
        return self.fits(target.task) and not (
            (self.needs == "values" and several) or (self.needs == "interval" and not several)
        )

    @property
    def source(self) -> Any:
        """The user's own object that it was made of; itself for a metric of Rayline's."""
        return self

    @property
    def max_rows(self) -> int | None:
        """The maximum number of rows, if one process must hold the scores of all rows; None for no limit."""
        return None

    def limited(self, max_rows: int) -> Metric:
        """Return the same metric, which takes at most so many rows where one process has to hold the scores of all of them."""
        return self

    def warn_unweighted(self) -> None:
        """Warn when it leaves weights of rows out."""
        return

    alternative: ClassVar[str] = "evaluate a sample."
    """What to do with more rows than `max_rows`."""

    def refuse_rows(self, n_rows: int) -> None:
        """Raise DataError when there are more rows than it takes."""
        if self.max_rows is not None and n_rows > self.max_rows:
            raise DataError.here(
                f"metric {self.name!r}: it needs all rows at once, and there are {n_rows:,}.",
                f"Expected at most {self.max_rows:,} rows, whose scores one process holds.",
                self.alternative,
            )

    @abstractmethod
    def parts(self, n_classes: int) -> Sequence[Part]:
        """Return the statistics that it needs, for a target with so many classes (0 for a regression)."""

    @abstractmethod
    def value(self, parts: Parts, multiplicity: Array) -> Array:
        """Return the metric of each replicate, NaN where it is not defined.

        Parameters
        ----------
        parts
            The merged statistics, by the parts that `parts` names.
        multiplicity
            How often the rows of each bucket count, shape (replicates, buckets). The first row consists of ones.
        """

    def undefined(self, parts: Parts) -> str:
        """Return why the metric has no value, in a few words; asked for where `value` is NaN."""
        return "not defined for these rows"

    def bound(self, parts: Parts) -> float:
        """Return how far the value can be off because of a sketch; 0 where it is exact."""
        return 0.0

    def remarks(self, parts: Parts, multiplicity: Array) -> Sequence[str]:
        """Return what else a reader must know, as sentences."""
        return ()


def sums(name: str) -> Part:
    """Return the part of the sums of a quantity (see `rayline.evaluate.quantities`)."""
    return Part(BucketSums, (("name", name),))


@dataclass(frozen=True)
class SumMetric(Metric):
    """A function of sums over the rows: `total` gets the sums of each quantity, shape (replicates, width)."""

    quantities: tuple[str, ...] = ()
    total: Callable[..., Array] = field(default=lambda *sums: sums[0])
    reason: str = ""
    recenters: bool = (
        False  # whether replicates are biased, as sums of absolute values are, and are moved by their mean
    )

    def parts(self, n_classes: int) -> Sequence[Part]:
        return [sums(name) for name in self.quantities]

    def value(self, parts: Parts, multiplicity: Array) -> Array:
        totals = [parts[sums(name)].total(multiplicity) for name in self.quantities]
        with np.errstate(invalid="ignore", divide="ignore"):
            values = np.array(self.total(*totals), dtype=np.float64)
        if self.recenters and len(values) > 1 and np.isfinite(values).all():
            values[1:] = np.maximum(values[1:] + values[0] - values[1:].mean(), 0.0)
        return values

    def undefined(self, parts: Parts) -> str:
        return self.reason or NO_WEIGHT


@dataclass(frozen=True)
class RankMetric(Metric):
    """A measure of a ranking of two kinds of rows: of the second class, or the mean of measures of several classes.

    Attributes
    ----------
    measure
        A function of the weights of negative and positive rows, as `score_weights.area_under_roc`.
    average
        With more than two classes: "macro" or "weighted" (by the rows of each class) means of one class against the
        rest ("ovr"), or "ovo" of each pair of classes.
    """

    measure: Callable[[Array, Array], Array] = score_weights.area_under_roc
    average: Literal["macro", "weighted", "ovo"] = "macro"

    def parts(self, n_classes: int) -> Sequence[Part]:
        if n_classes == 2:
            return [_table("class", 1)]
        kind = "classes" if self.average == "ovo" else "class"
        return [_table(kind, c) for c in range(n_classes)]

    def value(self, parts: Parts, multiplicity: Array) -> Array:
        tables = [parts[part] for part in self._table_parts(parts)]
        if len(tables) == 1:
            return self._of(tables[0], multiplicity, 1)
        if self.average == "ovo":
            pairs = [(a, b) for a in range(len(tables)) for b in range(len(tables)) if a != b]
            measures = [self._of(tables[a], multiplicity, a, (a, b)) for a, b in pairs]
            return np.asarray(np.mean(measures, axis=0))
        measures = [self._of(table, multiplicity, 1) for table in tables]
        if self.average == "macro":
            return np.asarray(np.mean(measures, axis=0))
        shares = np.stack([_positive_weight(table, multiplicity) for table in tables])
        return np.asarray((np.array(measures) * shares).sum(axis=0) / shares.sum(axis=0))

    def _table_parts(self, parts: Parts) -> Sequence[Part]:
        """Return its parts among all, in the order of the classes."""
        tables = [dict(part.options)["of"] for part in parts if part.statistic is ScoreTable]
        kind = "classes" if self.average == "ovo" and any(of[0] == "classes" for of in tables) else "class"
        return [_table(kind, code) for code in sorted(of[1] for of in tables if of[0] == kind)]

    def _of(self, table: ScoreTable, multiplicity: Array, positive: int, among: tuple[int, int] | None = None) -> Array:
        exact = self.measure(*table.pair(positive, among))[None]
        if len(multiplicity) == 1:
            return np.asarray(exact)
        if table.cells is None:
            return np.full(len(multiplicity), exact[0])
        values = self.measure(*table.replicate_pair(multiplicity, positive, among))
        return np.asarray(np.clip(values + (exact[0] - values[0]), 0.0, 1.0))

    def undefined(self, parts: Parts) -> str:
        weights = [pair.sum() for part in self._table_parts(parts)[:1] for pair in parts[part].pair(1)]
        return "only one class occurs" if any(weights) else NO_WEIGHT

    def bound(self, parts: Parts) -> float:
        tables = [parts[part] for part in self._table_parts(parts)]
        inexact = [t for t in tables if not t.is_exact and self.average != "ovo"]
        return float(np.mean([score_weights.tied_share(*t.pair(1)) for t in inexact])) if inexact else 0.0


def _table(*of: Any) -> Part:
    return Part(ScoreTable, (("of", of),))


def _positive_weight(table: ScoreTable, multiplicity: Array) -> Array:
    if table.cells is None:
        return np.full(len(multiplicity), table.pair(1)[1].sum())
    return np.asarray(table.replicate_pair(multiplicity, 1)[1].sum(axis=1))


@dataclass(frozen=True)
class MedianMetric(Metric):
    """The median of the absolute errors."""

    def parts(self, n_classes: int) -> Sequence[Part]:
        return [_table("error")]

    def value(self, parts: Parts, multiplicity: Array) -> Array:
        table = parts[_table("error")]
        scores, weights = table.curve()
        middle = score_weights.weighted_median(scores, weights[:, 0])
        if len(multiplicity) == 1 or table.cells is None or not len(scores):
            return np.full(len(multiplicity), middle)
        # How far the share of rows below the median moves says which quantile of all rows a replicate's median is.
        share = np.cumsum(weights[:, 0]) / weights.sum()
        bin_of = np.searchsorted(table.bins, table.order >> np.uint64(table.bin_level))
        shares, below = self._shares(table, multiplicity)
        place = int(bin_of[min(np.searchsorted(scores, middle), len(scores) - 1)])
        inside = np.clip((0.5 - below[0, place]) / max(shares[0, place], 1e-300), 0.0, 1.0)
        moved = below[:, place] + inside * shares[:, place]
        at = np.clip(np.searchsorted(share, 1.0 - moved), 0, len(scores) - 1)
        medians = scores[at]
        medians[0] = middle
        return np.asarray(medians)

    @staticmethod
    def _shares(table: ScoreTable, multiplicity: Array) -> tuple[Array, Array]:
        """Return the share of the weight in each bin, and below it, for each replicate."""
        weights = table.replicates(multiplicity)[:, 0]
        with np.errstate(invalid="ignore"):
            shares = weights / weights.sum(axis=1, keepdims=True)
        return shares, np.cumsum(shares, axis=1) - shares


_MOMENTS, _MAXIMUM = Part(BucketMoments), Part(BucketMaximum)


@dataclass(frozen=True)
class VarianceMetric(Metric):
    """1 − error / variance of the true values: R² with squared errors, explained variance with the errors' variance."""

    centered: bool = False

    def parts(self, n_classes: int) -> Sequence[Part]:
        return [_MOMENTS]

    def value(self, parts: Parts, multiplicity: Array) -> Array:
        moments = parts[_MOMENTS]
        if moments.n_rows < 2:
            return np.full(len(multiplicity), np.nan)
        weight, mean, m2 = moments.total(multiplicity)
        error = m2[:, 1] if self.centered else m2[:, 1] + weight * mean[:, 1] ** 2
        with np.errstate(invalid="ignore", divide="ignore"):
            scores = 1.0 - error / m2[:, 0]
        # As in scikit-learn: equal true values are explained fully or not at all; of one row it is not defined.
        scale = np.abs(mean[:, 0]) ** 2 * weight * 1e-30
        constant = m2[:, 0] <= scale
        return np.where(constant, np.where(error <= scale, 1.0, 0.0), scores)

    def undefined(self, parts: Parts) -> str:
        moments = parts[_MOMENTS]
        no_weight = moments.weight is not None and not moments.weight.any()
        return NO_WEIGHT if no_weight else "it needs two rows"


@dataclass(frozen=True)
class MaximumMetric(Metric):
    """The largest absolute error."""

    def parts(self, n_classes: int) -> Sequence[Part]:
        return [_MAXIMUM]

    def value(self, parts: Parts, multiplicity: Array) -> Array:
        return np.asarray(parts[_MAXIMUM].total(multiplicity))

"""LightGBM's metrics over the rows of all workers: LightGBM itself computes them per worker."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import lightgbm
import numpy as np

from rayline.core import paired_labels
from rayline.core.errors import ParameterError
from rayline.core.features import Array
from rayline.core.framework import TrainContext
from rayline.core.score_gathering import MetricsOfRanks, ScoreGathering
from rayline.core.statistics.score_weights import area_under_roc, average_precision
from rayline.core.task import Task

MEANS = frozenset(
    ("l1", "l2", "rmse", "quantile", "huber", "fair", "poisson", "mape", "gamma", "gamma_deviance", "tweedie",
     "binary_logloss", "binary_error", "multi_logloss", "multi_error", "cross_entropy", "cross_entropy_lambda",
     "kullback_leibler")
)  # fmt: skip
"""Metrics that can be merged from their values on parts of the rows."""


OF_GROUPS = ("ndcg", "map")
"""Metrics that are means over the groups of a ranking."""

OF_ALL = ("auc", "average_precision", "r2")
"""Metrics that no mean of parts gives: the ranks merge statistics of their scores."""


class LightGBMMetrics(MetricsOfRanks):
    """Metrics over all ranks. Those that are means are merged, areas computed from the weights at each different score. For custom
    functions the predictions of all ranks are gathered.

    Parameters
    ----------
    context, sets
        See `MetricsOfRanks`.
    metrics
        The names of the requested LightGBM metrics.
    functions
        Custom metrics (`feval`).
    """

    def __init__(
        self, context: TrainContext, sets: Mapping[str, Any], metrics: Collection[str], functions: Any
    ) -> None:
        _refuse(metrics)
        self._job = context
        self._of_all = [name for name in OF_ALL if name in {*metrics}]
        self._values: dict[tuple[str, str], float] = {}
        super().__init__(context, sets, "feval", functions, needed=bool(self._of_all))

    def functions(self, predictions: Array, data: Any) -> list[Any]:
        """Compute the custom metrics over all ranks; called once per set and iteration on every rank."""
        everyone = self.everyone
        if everyone is None:
            return []
        name, scores, truth, weight = self.scored(predictions, data)
        if self.rows[name].task is Task.RANKING:
            truth = truth[:, 0]
        arrays = scores, truth.astype(np.float64), weight
        for metric in self._of_all:
            self._values[name, metric] = _r2(*arrays, everyone) if metric == "r2" else _area(metric, *arrays, everyone)
        return self.called(name, *everyone.rows(*arrays), lightgbm.Dataset) if self.own_functions else []

    def merge(self, results: list[Any]) -> None:
        """Replace the metrics of this rank's rows with those of all rows."""
        values = [(name, metric, float(value), *self._size(name)) for name, metric, value, *_ in results]
        everyone = self._job.gather(values)
        for place, (name, metric, *_) in enumerate(values):
            if metric in OF_ALL:
                results[place] = _with(results[place], self._values[name, metric])
            elif metric.partition("@")[0] in (*MEANS, *OF_GROUPS):
                results[place] = _with(results[place], _merged(metric, [part[place][2:] for part in everyone]))

    def _size(self, name: str) -> tuple[float, int]:
        rows = self.rows[name]
        if rows.task is Task.RANKING:
            sizes = rows.group_sizes
            if rows.weight is None or not len(sizes):
                return float(len(sizes)), rows.n_rows
            return float(paired_labels.group_weights(rows.weight, sizes).sum()), rows.n_rows
        return (float(rows.n_rows) if rows.weight is None else float(rows.weight.sum())), rows.n_rows


def _area(metric: str, scores: Array, truth: Array, weight: Array, everyone: ScoreGathering) -> float:
    """Compute the area under a curve of all rows; 1 where LightGBM says so, without rows of both kinds."""
    (table,) = everyone.tables([scores], [(truth > 0).astype(np.float64)], weight)
    negative, positive = np.zeros((2, 0)) if table.weights is None else table.weights
    measure = area_under_roc if metric == "auc" else average_precision
    area = float(measure(negative, positive))
    return 1.0 if math.isnan(area) else area


def _r2(scores: Array, truth: Array, weight: Array, everyone: ScoreGathering) -> float:
    """Compute the share of the variance of all rows that is explained."""
    total, first = everyone.sums(np.array([weight.sum(), weight @ truth]))
    error, spread = everyone.sums(np.array([weight @ (truth - scores) ** 2, weight @ (truth - first / total) ** 2]))
    return float(1.0 - error / spread) if spread > 0 else float(error <= 0)


def _refuse(metrics: Iterable[str]) -> None:
    """Raise ParameterError on metrics that cannot be computed over all rows."""
    strange = [name for name in metrics if name.partition("@")[0] in ("auc_mu",)]
    if strange:
        raise ParameterError(
            f"lightgbm trainer: the metric {strange[0]!r} cannot be computed over all rows on several workers.",
            f"Expected some of {sorted({*MEANS, *OF_ALL})}.",
            "choose another, or train in one process (num_workers=None).",
        )


def _merged(metric: str, parts: Sequence[tuple[float, float, int]]) -> float:
    """Return a metric of all rows from its value, the sum of weights and the number of rows on each rank."""
    parts = [part for part in parts if part[1] > 0 and part[2] > 0]
    if metric == "gamma_deviance":  # a sum
        return sum(value for value, _, _ in parts)
    sizes = [float(n) if metric == "cross_entropy_lambda" else weight for _, weight, n in parts]
    values = [value**2 if metric == "rmse" else value for value, _, _ in parts]
    mean = sum(v * s for v, s in zip(values, sizes, strict=True)) / sum(sizes) if sizes else math.nan
    return math.sqrt(mean) if metric == "rmse" else mean


def _with(result: Any, value: float) -> Any:
    replaced = (*result[:2], value, *result[3:])
    return replaced if type(result) is tuple else type(result)(*replaced)

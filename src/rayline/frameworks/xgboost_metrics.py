"""Metrics over the rows of all workers that XGBoost does not compute itself: it averages areas under curves and custom
metrics over the workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xgboost

from rayline.core.errors import ParameterError
from rayline.core.features import Array
from rayline.core.framework import TrainContext
from rayline.core.score_gathering import MetricsOfRanks, ScoreGathering

AREAS = ("auc", "aucpr")


class XGBoostMetrics(MetricsOfRanks):
    """Metrics that need the predictions of all ranks.

    Parameters
    ----------
    context, sets
        See `MetricsOfRanks`.
    params
        XGBoost's parameters.
    function
        A custom metric, or None.
    """

    def __init__(
        self,
        context: TrainContext,
        sets: Mapping[str, Any],
        params: Mapping[str, Any],
        function: Callable[..., Any] | None,
    ) -> None:
        metric_names = params.get("eval_metric") or ()
        metric_names = [metric_names] if isinstance(metric_names, str) else list(metric_names)
        if not metric_names and params.get("objective") == "binary:logitraw":
            metric_names = ["auc"]
        if context.target.task.is_paired:
            metric_names = []  # XGBoost merges the areas of groups itself
            if function is not None:
                raise ParameterError(
                    f"xgboost trainer: custom_metric does not support {context.target.task} on several workers.",
                    "Expected metrics of XGBoost's own, or one worker.",
                    "leave num_workers out, or pass the function as metrics=[…].",
                )
        self._areas = [name for name in metric_names if name in AREAS]
        self._values: dict[str, dict[str, float]] = {}
        super().__init__(context, sets, "custom_metric", function, needed=bool(self._areas))

    @property
    def function(self) -> Callable[[Array, Any], list[Any]] | None:
        """The custom metric that XGBoost is to call; None where there is nothing to compute."""
        return None if self.everyone is None else self._measure

    def _measure(self, predictions: Array, data: Any) -> list[Any]:
        """Compute the custom metric over all ranks; called once per set and iteration on every rank."""
        everyone = self.everyone
        assert everyone is not None
        name, scores, truth, weights = self.scored(predictions, data)
        if not self.own_functions and not everyone.is_small(name):
            self._values[name] = _areas_of_many(self._areas, scores, truth, weights, everyone)
            return []
        scores, truth, weights = everyone.rows(scores, truth, weights)
        if self._areas:
            self._values[name] = _areas(self._areas, scores, truth, weights)
        return self.called(name, scores, truth, weights, xgboost.DMatrix) if self.own_functions else []

    def correct(self, history: Mapping[str, Mapping[str, list[Any]]]) -> None:
        """Replace the last areas in XGBoost's history with those of all rows."""
        for name, values in self._values.items():
            for metric, value in values.items():
                if metric in history.get(name, {}):
                    history[name][metric][-1] = value


def _areas_of_many(
    metrics: list[str], scores: Array, truth: Array, weight: Array, everyone: ScoreGathering
) -> dict[str, float]:
    """Compute the areas of many rows from their weights at each different score: of several classes the mean of the areas of each
    against the rest, that of "auc" by the weight of their rows, as XGBoost does."""
    columns = scores.reshape(len(scores), -1).T
    hits = [truth] if len(columns) == 1 else [truth == code for code in range(len(columns))]
    areas, shares = [], []
    for table in everyone.tables([*columns], hits, weight):
        n, (negative, positive) = len(table.order), (np.zeros((2, 0)) if table.weights is None else table.weights)
        places = np.tile(np.arange(n, dtype=np.float32), 2)  # only their order counts
        areas.append(_areas(metrics, places, np.repeat([0, 1], n), np.concatenate([negative, positive])))
        shares.append(positive.sum())
    return {
        name: float(np.average([by_metric[name] for by_metric in areas], weights=shares if name == "auc" else None))
        for name in metrics
    }


def _areas(metrics: list[str], scores: Array, truth: Array, weight: Array) -> dict[str, float]:
    """Compute XGBoost's metrics of these rows; all ranks compute the same."""
    several = scores.ndim == 2 and scores.shape[1] > 1
    # Of one score a row XGBoost is to order the rows by it as it is, and so gets it as the prediction of a regression.
    params: dict[str, Any] = {"objective": "reg:squarederror", "eval_metric": metrics, "base_score": 0.5, "nthread": 1}
    margins = scores.astype(np.float32)
    if several:
        params |= {"objective": "multi:softprob", "num_class": scores.shape[1]}
        if margins.min() >= 0 and np.allclose(margins.sum(axis=1), 1, atol=1e-3):
            margins = np.log(np.maximum(margins, np.finfo(np.float32).tiny))
    rows = np.zeros((len(truth), 1), np.float32)
    matrix = xgboost.DMatrix(rows, truth, weight=weight, base_margin=margins, nthread=1)
    text = xgboost.Booster(params, [matrix]).eval(matrix, "all")
    return {part.rpartition(":")[0].removeprefix("all-"): float(part.rpartition(":")[2]) for part in text.split()[1:]}

"""XGBoost's metrics over the rows of all workers, where it does not measure these itself: areas under curves are means of
those of the workers to it, and so are metrics of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xgboost

from rayline.core.features import Array
from rayline.core.framework import Rows, TrainContext

AREAS = ("auc", "aucpr")


class XGBoostMetrics:
    """The metrics that need the predictions of all ranks. Every rank knows them, so that all stop together.

    Parameters
    ----------
    context
        This rank.
    rows
        The rows of each set.
    params
        XGBoost's parameters.
    function
        The user's own metric, or None.
    """

    def __init__(
        self,
        context: TrainContext,
        rows: Mapping[str, Rows],
        params: Mapping[str, Any],
        function: Callable[..., Any] | None,
    ) -> None:
        asked = params.get("eval_metric") or ()
        asked = [asked] if isinstance(asked, str) else list(asked)
        if not asked and params.get("objective") == "binary:logitraw":
            asked = ["auc"]
        self._job, self._rows, self._function = context, rows, function
        self._areas = [name for name in asked if name in AREAS]
        self._found: dict[str, dict[str, float]] = {}
        self._sets: dict[int, str] = {}

    @property
    def needed(self) -> bool:
        """Whether there are such metrics."""
        return bool(self._areas) or self._function is not None

    def of(self, sets: Mapping[str, Any]) -> None:
        """Tell which matrix is which."""
        self._sets = {id(data): name for name, data in sets.items()}

    def function(self, predictions: Array, data: Any) -> list[tuple[str, float]]:
        """In place of the user's metric, once for each set and iteration on every rank."""
        name = self._sets[id(data)]
        rows = self._rows[name]
        weight = np.ones(rows.n_rows) if rows.weight is None else rows.weight
        parts = self._job.gather((predictions[: rows.n_rows], rows.target, weight))
        scores, truth, weights = (np.concatenate(own) for own in zip(*parts, strict=True))
        if self._areas:
            self._found[name] = _areas(self._areas, scores, truth, weights)
        if self._function is None:
            return []
        given = None if rows.weight is None else weights
        found = self._function(scores, xgboost.DMatrix(np.zeros((len(truth), 1), np.float32), truth, weight=given))
        return found if isinstance(found, list) else [found]

    def correct(self, history: Mapping[str, Mapping[str, list[Any]]]) -> None:
        """Put the areas of all rows in the place of XGBoost's own in the last entries of its history."""
        for name, values in self._found.items():
            for metric, value in values.items():
                if metric in history.get(name, {}):
                    history[name][metric][-1] = value


def _areas(metrics: list[str], scores: Array, truth: Array, weight: Array) -> dict[str, float]:
    """What XGBoost says of these rows; all ranks ask it the same."""
    several = scores.ndim == 2 and scores.shape[1] > 1
    params: dict[str, Any] = {"objective": "binary:logistic", "eval_metric": metrics, "base_score": 0.5, "nthread": 1}
    margins = scores.astype(np.float32)
    if several:
        params |= {"objective": "multi:softprob", "num_class": scores.shape[1]}
        if margins.min() >= 0 and np.allclose(margins.sum(axis=1), 1, atol=1e-3):
            margins = np.log(np.maximum(margins, np.finfo(np.float32).tiny))
    rows = np.zeros((len(truth), 1), np.float32)
    matrix = xgboost.DMatrix(rows, truth, weight=weight, base_margin=margins, nthread=1)
    told = xgboost.Booster(params, [matrix]).eval(matrix, "all")
    return {part.rpartition(":")[0].removeprefix("all-"): float(part.rpartition(":")[2]) for part in told.split()[1:]}

"""Evaluation: how good a model is on new rows, where it is weak, and whether it is better than another."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rayline.core.evaluation import Estimate
from rayline.evaluate.batch import ScoredBatch
from rayline.evaluate.custom_metrics import metric
from rayline.evaluate.metric_statistic import MetricStatistic
from rayline.evaluate.metrics import register_metric

if TYPE_CHECKING:
    from rayline.evaluate.explain_plots import plot_contributions, plot_dependence
    from rayline.evaluate.report import EvaluationReport

_LATE = {
    "EvaluationReport": "rayline.evaluate.report",
    "plot_contributions": "rayline.evaluate.explain_plots",
    "plot_dependence": "rayline.evaluate.explain_plots",
}

__all__ = [
    "Estimate",
    "EvaluationReport",
    "MetricStatistic",
    "ScoredBatch",
    "metric",
    "plot_contributions",
    "plot_dependence",
    "register_metric",
]

if not TYPE_CHECKING:  # otherwise every misspelt name would be accepted

    def __getattr__(name: str) -> Any:
        if name in _LATE:
            return getattr(importlib.import_module(_LATE[name]), name)
        raise AttributeError(f"module 'rayline.evaluate' has no attribute {name!r}")

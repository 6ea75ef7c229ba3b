"""Evaluation: how good a model is on new rows, where it is weak, and whether it is better than another."""

from __future__ import annotations

from rayline.evaluate.batch import ScoredBatch
from rayline.evaluate.custom_metrics import MetricStatistic, metric
from rayline.evaluate.metrics import register_metric

__all__ = ["MetricStatistic", "ScoredBatch", "metric", "register_metric"]

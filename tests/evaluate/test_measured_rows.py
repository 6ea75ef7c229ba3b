"""Metrics of merged parts of the rows are those of all rows at once, with scikit-learn as the oracle."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import polars as pl
import pytest
import sklearn.metrics as sk
from hypothesis import given
from hypothesis import strategies as st

import rayline as rl
from rayline.core.target import Target, Task
from rayline.evaluate import metrics
from rayline.evaluate.custom_metrics import CustomMetric
from rayline.evaluate.measured_rows import MeasuredRows

BINARY = Target(("late",), Task.BINARY, (pl.String(),), (("no", "yes"),))
VALUES = Target(("delay", "cost"), Task.REGRESSION, (pl.Float64(), pl.Float64()))
N = 500


def worst(y_true: Any, y_pred: Any) -> float:
    return float(np.abs(y_true - y_pred).max())


@given(cuts=st.lists(st.integers(0, N), max_size=40), weighs=st.booleans())
def test_any_parts_in_any_order_give_the_metrics_of_all_rows(cuts: list[int], *, weighs: bool) -> None:
    random = np.random.default_rng(len(cuts))
    scores, truth = random.random(N).round(2), random.integers(0, 2, N)
    weight = random.uniform(0.5, 2.0, N) if weighs else None
    chosen = metrics.chosen(["roc_auc", "log_loss", "accuracy", "average_precision"])
    edges = [0, *sorted(cuts), N]
    parts = [
        MeasuredRows.of(BINARY, scores[a:b], truth[a:b], None if weight is None else weight[a:b], metrics=chosen)
        for a, b in itertools.pairwise(edges)
    ]
    random.shuffle(parts)  # type: ignore[arg-type]
    found = MeasuredRows.gathered(iter(parts)).values(chosen)
    assert found == pytest.approx(
        {
            "roc_auc": sk.roc_auc_score(truth, scores, sample_weight=weight),
            "log_loss": sk.log_loss(truth, scores, sample_weight=weight),
            "accuracy": sk.accuracy_score(truth, scores > 0.5, sample_weight=weight),
            "average_precision": sk.average_precision_score(truth, scores, sample_weight=weight),
        },
        rel=1e-9,
    )


def test_several_targets_with_a_function_of_all_rows() -> None:
    random = np.random.default_rng(0)
    truth = random.normal(size=(N, 2))
    scores = truth + random.normal(size=(N, 2))
    chosen = metrics.chosen(["worst", "median_ae"], {"worst": CustomMetric.of("worst", worst)}, limit=N)
    parts = [MeasuredRows.of(VALUES, scores[i::7], truth[i::7], None, metrics=chosen) for i in range(7)]
    errors = np.abs(scores - truth)
    assert MeasuredRows.merge_all(parts).values(chosen) == pytest.approx(
        {"worst": errors.max(axis=0).mean(), "median_ae": np.median(errors, axis=0).mean()}
    )
    less = metrics.chosen(["worst"], {"worst": CustomMetric.of("worst", worst)}, limit=N - 1)
    parts = [MeasuredRows.of(VALUES, scores[i::7], truth[i::7], None, metrics=less) for i in range(7)]
    with pytest.raises(rl.DataError, match="needs all rows at once, and there are 500"):
        MeasuredRows.merge_all(parts).values(less)


def test_of_no_rows_nothing_is_known() -> None:
    chosen = metrics.chosen(["roc_auc"])
    nothing = MeasuredRows.of(BINARY, np.empty(0), np.empty(0, int), None, metrics=chosen)
    assert np.isnan(nothing.values(chosen)["roc_auc"])
    some = MeasuredRows.of(BINARY, np.array([0.2, 0.7]), np.array([0, 1]), np.zeros(2), metrics=chosen)
    assert np.isnan(MeasuredRows.merge_all([nothing, some]).values(chosen)["roc_auc"])

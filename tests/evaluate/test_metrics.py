"""Metrics by name, with scikit-learn (and XGBoost's own definitions) as the oracle."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import sklearn.metrics as sk

import rayline as rl
from rayline.core.target import Target, Task
from rayline.evaluate import metrics

RANDOM = np.random.default_rng(0)
N = 200
WEIGHT = RANDOM.uniform(0.1, 3, N)
BINARY = Target(("y",), Task.BINARY, (pl.String(),), (("no", "yes"),))
THREE = Target(("y",), Task.MULTICLASS, (pl.String(),), (("a", "b", "c"),))
NUMBER = Target(("y",), Task.REGRESSION, (pl.Float64(),))
TRUTH = RANDOM.integers(0, 2, N)
SCORES = np.clip(TRUTH * 0.3 + RANDOM.uniform(size=N) * 0.7, 0, 1)
TRUTH_3 = RANDOM.integers(0, 3, N)
SCORES_3 = RANDOM.dirichlet([1, 1, 1], N) * 0.6 + np.eye(3)[TRUTH_3] * 0.4
VALUES = RANDOM.normal(size=N) ** 2
PREDICTED = VALUES + RANDOM.uniform(size=N)


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_binary(weight: np.ndarray | None) -> None:
    labels = SCORES > 0.5
    expected = {
        "log_loss": sk.log_loss(TRUTH, SCORES, sample_weight=weight),
        "brier": sk.brier_score_loss(TRUTH, SCORES, sample_weight=weight),
        "auc": sk.roc_auc_score(TRUTH, SCORES, sample_weight=weight),
        "aucpr": sk.average_precision_score(TRUTH, SCORES, sample_weight=weight),
        "accuracy": sk.accuracy_score(TRUTH, labels, sample_weight=weight),
        "error": 1 - sk.accuracy_score(TRUTH, labels, sample_weight=weight),
        "f1": sk.f1_score(TRUTH, labels, sample_weight=weight),
        "precision": sk.precision_score(TRUTH, labels, sample_weight=weight),
        "recall": sk.recall_score(TRUTH, labels, sample_weight=weight),
        "mcc": sk.matthews_corrcoef(TRUTH, labels, sample_weight=weight),
        "balanced_accuracy": sk.balanced_accuracy_score(TRUTH, labels, sample_weight=weight),
    }
    assert metrics.evaluate(expected, BINARY, SCORES, TRUTH, weight) == pytest.approx(expected)
    both = np.stack([1 - SCORES, SCORES], axis=1)
    assert metrics.evaluate(expected, BINARY, both, TRUTH, weight) == pytest.approx(expected)


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_multiclass(weight: np.ndarray | None) -> None:
    labels = SCORES_3.argmax(axis=1)
    expected = {
        "mlogloss": sk.log_loss(TRUTH_3, SCORES_3, sample_weight=weight),
        "roc_auc": sk.roc_auc_score(TRUTH_3, SCORES_3, multi_class="ovr")
        if weight is None
        else np.mean([sk.roc_auc_score(i == TRUTH_3, SCORES_3[:, i], sample_weight=weight) for i in range(3)]),
        "merror": 1 - sk.accuracy_score(TRUTH_3, labels, sample_weight=weight),
        "f1": sk.f1_score(TRUTH_3, labels, average="macro", sample_weight=weight),
    }
    assert metrics.evaluate(expected, THREE, SCORES_3, TRUTH_3, weight) == pytest.approx(expected)


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_regression(weight: np.ndarray | None) -> None:
    expected = {
        "rmse": sk.root_mean_squared_error(VALUES, PREDICTED, sample_weight=weight),
        "mse": sk.mean_squared_error(VALUES, PREDICTED, sample_weight=weight),
        "l1": sk.mean_absolute_error(VALUES, PREDICTED, sample_weight=weight),
        "mape": sk.mean_absolute_percentage_error(VALUES, PREDICTED, sample_weight=weight),
        "rmsle": sk.root_mean_squared_log_error(VALUES, PREDICTED, sample_weight=weight),
        "r2": sk.r2_score(VALUES, PREDICTED, sample_weight=weight),
    }
    assert metrics.evaluate(expected, NUMBER, PREDICTED, VALUES, weight) == pytest.approx(expected)


def test_several_targets_are_averaged() -> None:
    target = Target(("y", "z"), Task.REGRESSION, (pl.Float64(), pl.Float64()))
    truth, scores = np.stack([VALUES, PREDICTED], axis=1), np.stack([PREDICTED, PREDICTED], axis=1)
    found = metrics.evaluate(["rmse"], target, scores, truth)
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(VALUES, PREDICTED) / 2)
    target = Target(("y", "z"), Task.BINARY, (pl.String(), pl.Boolean()), (("no", "yes"), (False, True)))
    truth, scores = np.stack([TRUTH, 1 - TRUTH], axis=1), np.stack([SCORES, 1 - SCORES], axis=1)
    found = metrics.evaluate(["auc", "accuracy"], target, scores, truth)
    assert found["auc"] == pytest.approx(sk.roc_auc_score(TRUTH, SCORES))
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(TRUTH, SCORES > 0.5))


def test_what_is_not_defined_is_nan() -> None:
    ones = np.ones(3, dtype=int)
    found = metrics.evaluate(["auc", "accuracy", "log_loss"], BINARY, np.array([0.4, 0.6, 0.7]), ones)
    assert np.isnan(found["auc"])
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["log_loss"] == pytest.approx(-np.log([0.4, 0.6, 0.7]).mean())
    assert np.isnan(metrics.evaluate(["auc"], BINARY, np.empty(0), np.empty(0, int))["auc"])
    assert np.isnan(metrics.evaluate(["r2"], NUMBER, np.ones(1), np.ones(1))["r2"])


def test_wrong_names() -> None:
    with pytest.raises(rl.ParameterError, match="'rocauc'"):
        metrics.get("rocauc")
    with pytest.raises(rl.ParameterError, match="not for a regression target"):
        metrics.evaluate(["auc"], NUMBER, PREDICTED, VALUES)
    with pytest.raises(rl.ParameterError, match="no probabilities"):
        metrics.evaluate(["auc"], BINARY, TRUTH, TRUTH)
    assert metrics.evaluate(["accuracy"], BINARY, TRUTH, TRUTH) == {"accuracy": 1.0}


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("test-logloss", "min"),
        ("auc", "max"),
        ("train-ndcg@5", "max"),
        ("test-gamma-nloglik", "min"),
        ("mystery", None),
    ],
)
def test_modes(name: str, mode: str | None) -> None:
    assert metrics.mode(name) == mode


@pytest.mark.parametrize("name", metrics.names())
def test_better_predictions_are_better(name: str) -> None:
    metric = metrics.get(name)
    target, truth, good, bad = (
        (NUMBER, VALUES, VALUES + 0.01, PREDICTED + 1)
        if metric.needs == "values"
        else (THREE, TRUTH_3, SCORES_3, SCORES_3[:, ::-1])
        if name == "top_k"
        else (BINARY, TRUTH, SCORES, 1 - SCORES)
    )
    better, worse = (metrics.evaluate([name], target, scores, truth)[name] for scores in (good, bad))
    assert better > worse if metric.mode == "max" else better < worse


def test_resolve() -> None:
    have = ["train-logloss", "test-logloss", "test-roc_auc", "train-only", "loss"]
    assert metrics.resolve("logloss", have) == "test-logloss"
    assert metrics.resolve("log_loss", have) == "test-logloss"
    assert metrics.resolve("train-logloss", have) == "train-logloss"
    assert metrics.resolve("only", have) == "train-only"
    assert metrics.resolve("loss", have) == "loss"
    assert metrics.resolve("test-only", have) is None

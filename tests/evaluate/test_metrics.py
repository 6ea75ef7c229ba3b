"""Metrics by name, with scikit-learn (and XGBoost's own definitions) as the oracle.

Covers `evaluate.measures` and `evaluate.paired` too.
"""

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


@pytest.mark.parametrize(
    ("alias", "name"),
    [("auc", "roc_auc"), ("aucpr", "average_precision"), ("mlogloss", "log_loss"), ("merror", "error"), ("l1", "mae")],
)
def test_names_of_frameworks(alias: str, name: str) -> None:
    assert metrics.get(alias) is metrics.get(name)


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


@pytest.mark.parametrize("name", [name for name in metrics.names() if name != "interval_width"])
def test_better_predictions_are_better(name: str) -> None:
    metric = metrics.get(name)
    target, truth, good, bad = (
        (NUMBER, VALUES, VALUES + 0.01, PREDICTED + 1)
        if metric.needs == "values"
        else (THREE, TRUTH_3, SCORES_3, SCORES_3[:, ::-1])
        if name == "top_k"
        else OTHERS.get(metric.needs, (BINARY, TRUTH, SCORES, 1 - SCORES))
    )
    better, worse = (metrics.evaluate([name], target, scores, truth)[name] for scores in (good, bad))
    assert better > worse if metric.mode == "max" else better < worse


GROUP = np.repeat(np.arange(20.0), 10)
RELEVANCE = RANDOM.integers(0, 4, N).astype(float)
RANKED = RELEVANCE + RANDOM.normal(size=N)
RANKING = Target(("y", "query"), Task.RANKING, (pl.Float64(), pl.Int64()))
TIMES = np.stack([VALUES, np.where(TRUTH == 1, VALUES, np.inf)], axis=1)
SURVIVAL = Target(("y", "died"), Task.SURVIVAL, (pl.Float64(), pl.Boolean()), event=True)
QUANTILES = Target(("y",), Task.REGRESSION, (pl.Float64(),), quantiles=(0.1, 0.9))
BOUNDS = np.stack([VALUES - 1, VALUES + 1], axis=1)
OTHERS = {
    "groups": (RANKING, np.stack([RELEVANCE, GROUP], axis=1), RANKED, -RANKED),
    "times": (SURVIVAL, TIMES, VALUES + RANDOM.normal(size=N) * 0.1, -VALUES),
    "quantiles": (QUANTILES, VALUES, BOUNDS, BOUNDS + 3),
    "interval": (QUANTILES, VALUES, BOUNDS, BOUNDS + 3),
}
"""Of metrics of other tasks: the target, the truth, good and bad scores."""


@pytest.mark.parametrize("weight", [None, np.repeat(RANDOM.uniform(0.1, 3, 20), 10)])
def test_ranking_by_group(weight: np.ndarray | None) -> None:
    scores = np.round(RANKED, 0)  # with ties
    groups = [g == GROUP for g in range(20)]
    of_groups = None if weight is None else weight[::10]

    def mean(measure: object) -> float:
        return float(np.average([measure(RELEVANCE[g], scores[g]) for g in groups], weights=of_groups))  # type: ignore[operator]

    expected = {
        "ndcg": mean(lambda y, s: sk.ndcg_score([y], [s])),
        "ndcg@3": mean(lambda y, s: sk.ndcg_score([y], [s], k=3)),
        "ndcg_exp": mean(lambda y, s: sk.ndcg_score([2**y - 1], [s])),
        "map": mean(lambda y, s: sk.average_precision_score(y > 0, s)),
        "mrr": mean(lambda y, s: 1 / (1 + (s[y == 0] >= s[y > 0].max()).sum())),
    }
    shuffled = RANDOM.permutation(N)
    truth = np.stack([RELEVANCE, GROUP], axis=1)[shuffled]
    own = None if weight is None else weight[shuffled]
    assert metrics.evaluate(expected, RANKING, scores[shuffled], truth, own) == pytest.approx(expected)


def test_precision_of_the_first_places() -> None:
    truth = np.array([[1, 0], [0, 0], [1, 0], [0, 0], [0, 1], [0, 1]], float)
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.3, 0.4])
    found = metrics.evaluate(["map@1", "map@3", "mrr@1", "mrr"], RANKING, scores, truth)
    assert found == pytest.approx({"map@1": 0.5, "map@3": (1 + 2 / 3) / 4, "mrr@1": 0.5, "mrr": 0.5})
    with pytest.raises(rl.ParameterError, match="ndcg@x has a wrong value"):
        metrics.evaluate(["ndcg@x"], RANKING, scores, truth)


@pytest.mark.parametrize("seed", range(20))
def test_concordance_is_that_of_all_pairs(seed: int) -> None:
    random = np.random.default_rng(seed)
    n = int(random.integers(2, 40))
    low, kind = random.integers(1, 8, n).astype(float), random.integers(0, 3, n)
    high = np.where(kind == 0, low, np.where(kind == 1, np.inf, low + random.integers(0, 4, n)))
    weight, risk = random.random(n), random.integers(0, 6, n).astype(float)
    right = pairs = 0.0
    for i in range(n):
        for j in range(n):
            is_earlier = high[i] < low[j] or (low[i] == high[i] == low[j] and high[j] > low[j])
            if i != j and is_earlier:
                pairs += weight[i] * weight[j]
                right += weight[i] * weight[j] * (1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0)
    target = Target(("y", "died"), Task.SURVIVAL, (pl.Float64(), pl.Boolean()), event=True, predicts_risk=True)
    truth = np.stack([low, high], axis=1)
    found = metrics.evaluate(["c_index"], target, risk, truth, weight)["c_index"]
    assert found == pytest.approx(right / pairs) if pairs else np.isnan(found)
    times = metrics.evaluate(["concordance"], SURVIVAL, -risk, truth, weight)["concordance"]
    assert times == pytest.approx(found, nan_ok=True)


def test_quantile_metrics() -> None:
    found = metrics.evaluate(["pinball", "coverage"], QUANTILES, BOUNDS, VALUES, WEIGHT)
    losses = [
        sk.mean_pinball_loss(VALUES, BOUNDS[:, i], alpha=q, sample_weight=WEIGHT) for i, q in enumerate((0.1, 0.9))
    ]
    assert found == pytest.approx({"pinball": np.mean(losses), "coverage": 1.0})
    with pytest.raises(rl.ParameterError, match="not for a target of several quantiles"):
        metrics.evaluate(["rmse"], QUANTILES, BOUNDS, VALUES)


def test_resolve() -> None:
    have = ["train-logloss", "test-logloss", "test-roc_auc", "train-only", "loss"]
    assert metrics.resolve_name("logloss", have) == "test-logloss"
    assert metrics.resolve_name("log_loss", have) == "test-logloss"
    assert metrics.resolve_name("train-logloss", have) == "train-logloss"
    assert metrics.resolve_name("only", have) == "train-only"
    assert metrics.resolve_name("loss", have) == "loss"
    assert metrics.resolve_name("test-only", have) is None

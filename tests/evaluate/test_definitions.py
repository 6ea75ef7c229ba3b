"""Every metric against scikit-learn: with weights, ties, text labels, in one batch and in merged parts.

Covers `evaluate.batch`, `evaluate.classification`, `evaluate.metric`, `evaluate.quantities`, `evaluate.regression` and
`evaluate.sums` too.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import polars as pl
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st

import rayline as rl
from rayline.core.scores import decisions
from rayline.core.target import Target, Task
from rayline.evaluate import metrics, score_table
from rayline.evaluate.batch import ScoredBatch
from rayline.evaluate.score_table import ScoreTable

RANDOM = np.random.default_rng(1)
N = 400
WEIGHT = RANDOM.uniform(0.1, 3, N)
BINARY = Target(("y",), Task.BINARY, (pl.String(),), (("no", "yes"),))
FOUR = Target(("y",), Task.MULTICLASS, (pl.String(),), (("a", "b", "c", "d"),))
NUMBER = Target(("y",), Task.REGRESSION, (pl.Float64(),))
TRUTH = RANDOM.integers(0, 2, N)
SCORES = np.round(np.clip(TRUTH * 0.3 + RANDOM.uniform(size=N) * 0.7, 0, 1), 2)  # rounded: many ties
TRUTH_4 = RANDOM.integers(0, 3, N)  # of the last class there are no rows
SCORES_4 = np.round(RANDOM.dirichlet([1, 1, 1, 0.2], N) * 0.6 + np.eye(4)[TRUTH_4] * 0.4, 3)
SCORES_4[:, 0] += 1 - SCORES_4.sum(axis=1)
VALUES = RANDOM.gamma(2.0, 50.0, N) + 1e6
PREDICTED = VALUES + np.round(RANDOM.normal(size=N) * 20)

Found = dict[str, float]


def in_parts(names: list[str], target: Target, scores: Any, truth: Any, weight: Any, n: int = 7) -> Found:
    """The same from parts that are merged in another order, with bootstrap buckets."""
    batch = ScoredBatch(target, 0, scores, truth, weight, RANDOM.integers(0, 16, len(truth)), 16)
    order = RANDOM.permutation(len(truth))
    parts = [batch.take(rows) for rows in np.array_split(order, n)]
    found = {}
    for name in names:
        metric = metrics.get(name)
        merged = {}
        for part in metric.parts(len(batch.classes)):
            states = [part.of(one) for one in parts]
            one_by_one = part.statistic.empty(**dict(part.options))
            for state in states:
                one_by_one = one_by_one.merge(state)
            merged[part] = one_by_one
            assert type(part.merged(states)) is type(one_by_one)
        found[name] = float(metric.value(merged, np.ones((3, 16)))[0])
    return found


def check(expected: Found, target: Target, scores: Any, truth: Any, weight: Any) -> None:
    exact = pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert metrics.evaluate(expected, target, scores, truth, weight) == exact
    assert in_parts(list(expected), target, scores, truth, weight) == exact


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_binary(weight: Any) -> None:
    labels = (SCORES > 0.5).astype(int)
    w = {"sample_weight": weight}
    bins = np.minimum((SCORES * 15).astype(int), 14)
    of = np.ones(N) if weight is None else weight
    expected = {
        "log_loss": sk.log_loss(TRUTH, SCORES, **w),
        "brier_score_loss": sk.brier_score_loss(TRUTH, SCORES, **w),
        "roc_auc_score": sk.roc_auc_score(TRUTH, SCORES, **w),
        "roc_auc_ovo": sk.roc_auc_score(TRUTH, SCORES, **w),
        "average_precision": sk.average_precision_score(TRUTH, SCORES, **w),
        "accuracy": sk.accuracy_score(TRUTH, labels, **w),
        "error": 1 - sk.accuracy_score(TRUTH, labels, **w),
        "balanced_accuracy": sk.balanced_accuracy_score(TRUTH, labels, **w),
        "mcc": sk.matthews_corrcoef(TRUTH, labels, **w),
        "cohen_kappa": sk.cohen_kappa_score(TRUTH, labels, **w),
        "top_k@1": sk.accuracy_score(TRUTH, labels, **w),
        "ece": sum(abs((of * (TRUTH - SCORES))[bins == b].sum()) for b in range(15)) / of.sum(),
        **{
            f"{name}{f'_{average}' if average != 'binary' else ''}": getattr(sk, f"{name}_score")(
                TRUTH, labels, average=average, **w
            )
            for name in ("f1", "precision", "recall")
            for average in ("binary", "macro", "micro", "weighted")
        },
    }
    check(expected, BINARY, SCORES, TRUTH, weight)
    check(expected, BINARY, np.stack([1 - SCORES, SCORES], axis=1), TRUTH, weight)


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_four_classes_of_which_one_does_not_occur(weight: Any) -> None:
    labels = SCORES_4.argmax(axis=1)
    w = {"sample_weight": weight}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn says that a class does not occur
        expected = {
            "log_loss": sk.log_loss(TRUTH_4, SCORES_4, labels=range(4), **w),
            "brier": sk.brier_score_loss(TRUTH_4, SCORES_4, labels=range(4), **w),
            "accuracy": sk.accuracy_score(TRUTH_4, labels, **w),
            "balanced_accuracy": sk.balanced_accuracy_score(TRUTH_4, labels, **w),
            "matthews_corrcoef": sk.matthews_corrcoef(TRUTH_4, labels, **w),
            "cohen_kappa": sk.cohen_kappa_score(TRUTH_4, labels, **w),
            "top_k": sk.top_k_accuracy_score(TRUTH_4, SCORES_4, k=2, labels=range(4), **w),
            "top_k@3": sk.top_k_accuracy_score(TRUTH_4, SCORES_4, k=3, labels=range(4), **w),
            **{
                f"{name}_{average}": getattr(sk, f"{name}_score")(
                    TRUTH_4, labels, average=average, zero_division=0, **w
                )
                for name in ("f1", "precision", "recall")
                for average in ("macro", "micro", "weighted")
            },
        }
    check(expected, FOUR, SCORES_4, TRUTH_4, weight)
    assert np.isnan(metrics.evaluate(["roc_auc"], FOUR, SCORES_4, TRUTH_4, weight)["roc_auc"])


def test_areas_of_several_classes() -> None:
    truth = np.concatenate([TRUTH_4, np.full(40, 3)])
    scores = np.concatenate([SCORES_4, np.round(RANDOM.dirichlet([1, 1, 1, 3], 40), 2)])
    scores[:, 0] += 1 - scores.sum(axis=1)
    expected = {
        "roc_auc": sk.roc_auc_score(truth, scores, multi_class="ovr"),
        "roc_auc_ovr_weighted": sk.roc_auc_score(truth, scores, multi_class="ovr", average="weighted"),
        "roc_auc_ovo": sk.roc_auc_score(truth, scores, multi_class="ovo"),
        "average_precision": sk.average_precision_score(np.eye(4)[truth], scores, average="macro"),
    }
    check(expected, FOUR, scores, truth, None)


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_regression(weight: Any) -> None:
    w = {"sample_weight": weight}
    smape = np.average(2 * np.abs(PREDICTED - VALUES) / (np.abs(VALUES) + np.abs(PREDICTED)), weights=weight)
    expected = {
        "rmse": sk.root_mean_squared_error(VALUES, PREDICTED, **w),
        "mse": sk.mean_squared_error(VALUES, PREDICTED, **w),
        "mae": sk.mean_absolute_error(VALUES, PREDICTED, **w),
        "median_absolute_error": sk.median_absolute_error(VALUES, PREDICTED, **w),
        "mape": sk.mean_absolute_percentage_error(VALUES, PREDICTED, **w),
        "smape": smape,
        "rmsle": sk.root_mean_squared_log_error(VALUES, PREDICTED, **w),
        "r2": sk.r2_score(VALUES, PREDICTED, **w),
        "explained_variance": sk.explained_variance_score(VALUES, PREDICTED, **w),
        "max_error": sk.max_error(VALUES, PREDICTED),
        "poisson_deviance": sk.mean_poisson_deviance(VALUES, PREDICTED, **w),
        "gamma_deviance": sk.mean_gamma_deviance(VALUES, PREDICTED, **w),
        "tweedie_deviance": sk.mean_tweedie_deviance(VALUES, PREDICTED, power=1.5, **w),
        "tweedie_deviance@3": sk.mean_tweedie_deviance(VALUES, PREDICTED, power=3, **w),
        "tweedie_deviance@0": sk.mean_squared_error(VALUES, PREDICTED, **w),
        "pinball": sk.mean_pinball_loss(VALUES, PREDICTED, **w),
        "pinball@0.9": sk.mean_pinball_loss(VALUES, PREDICTED, alpha=0.9, **w),
    }
    loose = ("poisson_deviance", "gamma_deviance", "tweedie_deviance", "tweedie_deviance@3")  # cancel 12 digits here
    check({n: v for n, v in expected.items() if n not in loose}, NUMBER, PREDICTED, VALUES, weight)
    small, near = VALUES - 1e6 + 1, PREDICTED - 1e6 + 80
    check(
        {
            "poisson_deviance": sk.mean_poisson_deviance(small, near, **w),
            "gamma_deviance": sk.mean_gamma_deviance(small, near, **w),
            "tweedie_deviance": sk.mean_tweedie_deviance(small, near, power=1.5, **w),
            "tweedie_deviance@3": sk.mean_tweedie_deviance(small, near, power=3, **w),
        },
        NUMBER, near, small, weight,
    )  # fmt: skip
    counts = RANDOM.poisson(1.0, N).astype(float)
    check(
        {"poisson_deviance": sk.mean_poisson_deviance(counts, counts + 0.5, **w)}, NUMBER, counts + 0.5, counts, weight
    )


def test_margins_rank_as_they_are() -> None:
    margins = RANDOM.normal(size=N).round(1)
    found = metrics.evaluate(
        ["roc_auc", "average_precision"], BINARY, decisions((margins > 0).astype(int), margins=margins), TRUTH
    )
    assert found["roc_auc"] == pytest.approx(sk.roc_auc_score(TRUTH, margins), rel=1e-9)
    assert found["average_precision"] == pytest.approx(sk.average_precision_score(TRUTH, margins), rel=1e-9)


def test_what_is_not_defined_is_nan() -> None:
    negative = metrics.evaluate(
        ["poisson_deviance", "gamma_deviance", "rmsle"], NUMBER, np.array([-2.0, 1]), np.array([1.0, 0])
    )
    assert all(np.isnan(value) for value in negative.values())
    assert metrics.evaluate(["r2"], NUMBER, np.array([1.0, 1]), np.array([1.0, 1]))["r2"] == 1.0
    assert metrics.evaluate(["r2"], NUMBER, np.array([1.0, 2]), np.array([1.0, 1]))["r2"] == 0.0


@pytest.mark.parametrize(
    "name", ["top_k@0", "top_k@x", "pinball@2", "tweedie_deviance@0.5", "neg_log_loss", "brier@2.5x"]
)
def test_wrong_arguments(name: str) -> None:
    if name.startswith("brier"):
        assert metrics.is_known(name) is False
    else:
        with pytest.raises(rl.ParameterError, match=name.partition("@")[0]):
            metrics.get(name)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 1), st.floats(0.0, 3.0)), max_size=60), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_any_split_gives_the_same_table(rows: list[tuple[int, int, float]], n: int) -> None:
    scores, truth, weight = (
        (np.array(list(column)) for column in zip(*rows, strict=True)) if rows else (np.empty(0),) * 3
    )
    batch = ScoredBatch(BINARY, 0, scores / 20.0, truth.astype(int), weight.astype(float), truth.astype(int) % 4, 4)
    whole = ScoreTable.of(batch, of=("class", 1))
    parts = ScoreTable.merge_all(
        [ScoreTable.of(batch.take(p), of=("class", 1)) for p in np.array_split(np.arange(len(rows)), n)]
    )
    assert parts.curve().scores.tolist() == whole.curve().scores.tolist()
    assert parts.curve().weights == pytest.approx(whole.curve().weights)
    if rows:
        assert parts.cells is not None
        assert whole.cells is not None
        assert parts.cells.dense() == pytest.approx(whole.cells.dense(), rel=1e-6)


def test_a_sketch_is_within_its_bound_and_independent_of_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_table, "MAX_SCORES", 64)
    n = 5_000
    truth = RANDOM.integers(0, 2, n)
    scores = np.clip(0.4 + truth * 0.1 + RANDOM.normal(size=n) * 0.1, 0, 1)
    batch = ScoredBatch(BINARY, 0, scores, truth)
    whole = ScoreTable.of(batch, of=("class", 1))
    cut = ScoreTable.merge_all(
        [ScoreTable.of(batch.take(p), of=("class", 1)) for p in np.array_split(RANDOM.permutation(n), 9)]
    )
    assert whole.keys is not None
    assert cut.keys is not None
    assert whole.level == cut.level > 0
    assert whole.keys.tolist() == cut.keys.tolist()
    assert 32 < len(whole.keys) <= 64
    metric = metrics.get("roc_auc")
    (part,) = metric.parts(2)
    off = abs(metric.value({part: cut}, np.ones((1, 1)))[0] - sk.roc_auc_score(truth, scores))
    assert 0 < off <= metric.bound({part: cut}) < 0.03

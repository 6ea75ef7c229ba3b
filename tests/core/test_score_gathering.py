"""Metrics of the rows of several ranks, from merged statistics, against scikit-learn and XGBoost called with all rows.

Covers `core.statistics.score_weights` too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import polars as pl
import pytest
import sklearn.metrics as sk

import rayline as rl
from rayline.core import score_gathering
from rayline.core.framework import Rows, TrainContext
from rayline.core.score_gathering import ScoreGathering
from rayline.core.statistics.score_weights import ScoreWeights, area_under_roc
from rayline.core.target import Target, Task

RANKS, N = 3, 900
RANDOM = np.random.default_rng(5)
SCORES, TRUTH = RANDOM.random(N).astype(np.float32).round(3), RANDOM.integers(0, 2, N)
WEIGHT = RANDOM.uniform(0.5, 2.0, N)


def on_ranks(work: Callable[[TrainContext, Any], Any]) -> list[Any]:
    """Run a function on each rank, with its context and the places of its rows, in threads that gather."""
    given: list[Any] = [None] * RANKS
    barrier = threading.Barrier(RANKS)

    def run(rank: int) -> Any:
        def gather(value: Any) -> list[Any]:
            given[rank] = value
            barrier.wait(10)
            found = list(given)
            barrier.wait(10)
            return found

        places = slice(rank * N // RANKS, (rank + 1) * N // RANKS)
        target = Target(("y",), Task.REGRESSION, (pl.Float64(),))
        table = pl.DataFrame({"x": SCORES[places], "y": TRUTH[places].astype(float)})
        rows = Rows.of(table, pl.Schema({"x": pl.Float32()}), target)
        return work(TrainContext(rows, None, target, rank=rank, world_size=RANKS, gather=gather), places)

    with ThreadPoolExecutor(RANKS) as pool:
        return list(pool.map(run, range(RANKS)))


def test_every_rank_gets_the_table_of_all_rows() -> None:
    def area(context: TrainContext, places: slice) -> float:
        everyone = ScoreGathering(context, {"train": context.train})
        assert everyone.n_rows == {"train": N}
        (table,) = everyone.tables([SCORES[places]], [TRUTH[places]], WEIGHT[places])
        assert table.weights is not None
        return float(area_under_roc(*table.weights))

    expected = sk.roc_auc_score(TRUTH, SCORES, sample_weight=WEIGHT)
    assert on_ranks(area) == [pytest.approx(expected, rel=1e-12)] * RANKS


@pytest.mark.parametrize("metric", ["auc", "average_precision", "r2"])
def test_lightgbm_of_all_rows(metric: str) -> None:
    pytest.importorskip("lightgbm")
    from rayline.frameworks import lightgbm_metrics as own

    def measured(context: TrainContext, places: slice) -> float:
        everyone = ScoreGathering(context, {"train": context.train})
        rows = SCORES[places], TRUTH[places], WEIGHT[places]
        return own._r2(*rows, everyone) if metric == "r2" else own._area(metric, *rows, everyone)

    oracle = {"auc": sk.roc_auc_score, "average_precision": sk.average_precision_score, "r2": sk.r2_score}[metric]
    assert on_ranks(measured) == [pytest.approx(oracle(TRUTH, SCORES, sample_weight=WEIGHT), rel=1e-9)] * RANKS


@pytest.mark.parametrize("n_classes", [2, 4])
def test_xgboost_of_many_rows_as_of_few(n_classes: int) -> None:
    pytest.importorskip("xgboost")
    from rayline.frameworks import xgboost_metrics as own

    truth = RANDOM.integers(0, n_classes, N)
    chance = RANDOM.dirichlet(np.ones(n_classes), N) + np.eye(n_classes)[truth] * 0.3
    scores = (chance / chance.sum(axis=1, keepdims=True)).astype(np.float32)
    scores = scores[:, 1] if n_classes == 2 else scores

    def measured(context: TrainContext, places: slice) -> dict[str, float]:
        everyone = ScoreGathering(context, {"train": context.train})
        return own._areas_of_many([*own.AREAS], scores[places], truth[places], WEIGHT[places], everyone)

    expected = own._areas([*own.AREAS], scores, truth, WEIGHT)
    if n_classes == 2:
        assert expected["auc"] == pytest.approx(sk.roc_auc_score(truth, scores, sample_weight=WEIGHT), abs=1e-5)
    assert on_ranks(measured) == [pytest.approx(expected, abs=2e-5)] * RANKS


def test_small_probabilities_keep_their_order() -> None:
    pytest.importorskip("xgboost")
    from rayline.frameworks import xgboost_metrics as own

    scores = (SCORES * 1e-6).astype(np.float32)
    found = own._areas(["auc"], scores, TRUTH, WEIGHT)["auc"]
    assert found == pytest.approx(sk.roc_auc_score(TRUTH, scores, sample_weight=WEIGHT), abs=1e-5)


def test_functions_of_too_many_rows_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_gathering, "MAX_GATHERED", N - 1)

    def refused(context: TrainContext, places: slice) -> str:
        with pytest.raises(rl.ParameterError, match="feval needs the scores of all rows") as raised:
            ScoreGathering(context, {"train": context.train}).refuse_function("feval")
        return str(raised.value)

    assert len({*on_ranks(refused)}) == 1


def test_more_scores_than_are_kept_make_a_sketch_that_does_not_depend_on_parts() -> None:
    weights = np.stack([1.0 - TRUTH, TRUTH])
    scores = RANDOM.random(N)
    parts = [ScoreWeights.of(scores[i::7], weights[:, i::7]) for i in range(7)]
    merged = ScoreWeights.merge_all(part.limited(64) for part in parts).curve()
    whole = ScoreWeights.of(scores, weights).limited(64).curve()
    assert len(whole.scores) <= 64
    np.testing.assert_array_equal(merged.scores, whole.scores)
    np.testing.assert_array_equal(merged.weights, whole.weights)

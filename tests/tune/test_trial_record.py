"""Trials and their table."""

from __future__ import annotations

import math

import pytest

from rayline.tune import trial_record
from rayline.tune.trial_record import FoldScore, Status, Trial, pareto, trial_table


def trial(number: int, *scores: float, n_folds: int = 3, error: str = "", **config: object) -> Trial:
    folds = [FoldScore(i, score, 10, 0.5, 0.25) for i, score in enumerate(scores)]
    return Trial(number, dict(config), n_folds, folds, error, 1.0)


def test_scores() -> None:
    one = trial(0, 1.0, 2.0, 3.0)
    assert (one.score, one.status) == (2.0, Status.FINISHED)
    assert one.standard_error == pytest.approx(1.0 / math.sqrt(3))
    assert math.isnan(trial(0, 1.0, n_folds=1).standard_error)
    assert trial(0, 1.0).status is Status.STOPPED
    assert trial(0, 1.0, error="no").status is Status.FAILED
    assert math.isnan(trial(0).score)


def test_the_best_ran_all_its_folds_and_is_the_earliest() -> None:
    trials = [trial(0, 9.0), trial(1, 1.0, 2.0, 3.0), trial(2, 2.0, 2.0, 2.0), trial(3, 5.0, 5.0, 5.0, error="no")]
    for mode in ("min", "max"):
        found = trial_record.best(trials, mode)
        assert found is trials[1]
    assert trial_record.best(trials[:1], "max") is None


def test_the_table() -> None:
    trials = [
        trial(0, 1.0, 2.0, 3.0, depth=3, kind="a", mixed=1, preprocessor={"impute": {"strategy": "mean"}}),
        trial(1, 1.0, depth=4, kind=None, mixed="x", preprocessor={"impute": {"strategy": "median"}}),
        trial(2, error="no", depth=0.5, kind="b", mixed=[1]),
    ]
    trial_table = trial_record.trial_table(trials)
    assert trial_table.columns == [
        "trial", "status", "score", "standard_error", "fold_0", "fold_1", "fold_2", "seconds", "fit_s", "predict_s",
        "error", "config/depth", "config/kind", "config/mixed", "config/preprocessor/impute/strategy",
    ]  # fmt: skip
    assert trial_table["status"].to_list() == ["finished", "stopped early", "failed"]
    assert trial_table["score"].to_list() == [2.0, 1.0, None]
    assert trial_table["fold_1"].to_list() == [2.0, None, None]
    assert trial_table["config/depth"].to_list() == [3.0, 4.0, 0.5]
    assert trial_table["config/mixed"].to_list() == ["1", "x", "[1]"]
    assert trial_table["error"].to_list() == [None, None, "no"]
    assert trial_record.trial_table([]).height == 0


def test_json() -> None:
    score = FoldScore(1, 0.25, 10, 0.5, 0.25, iterations=7, key="k")
    assert FoldScore.from_json(score.to_json()) == score


def test_pareto() -> None:
    points = [(1.0, 5.0), (2.0, 6.0), (3.0, 4.0), (1.0, 5.0), (0.5, 1.0)]
    trials = [Trial(i, {}, 1, [FoldScore(0, a, 9, others=(b,))]) for i, (a, b) in enumerate(points)]
    assert [t.number for t in pareto(trials, ["min", "max"])] == [4, 0, 3, 1]
    assert [t.number for t in pareto(trials, ["max", "max"])] == [2, 1]
    assert [t.number for t in pareto(trials, ["min", "min"])] == [4]
    assert pareto([Trial(0, {}, 2, [FoldScore(0, 1.0, 9)])], ["min"]) == []  # not all of its folds
    assert trial_table(trials, ["other"])["score/other"].to_list() == [b for _, b in points]
    score = trials[0].folds[0]
    assert FoldScore.from_json(score.to_json()) == score

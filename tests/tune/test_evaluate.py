"""The evaluation of folds, without Ray: against training by hand, and that held-out rows reach nothing.

Covers `tune.dry_run` and `tune.row_groups` too.
"""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import accuracy_score, make_scorer

from rayline import Preprocessor, train
from rayline.core.errors import DataError, ParameterError
from rayline.data import GroupKFold, KFold, RepeatedKFold
from rayline.engine.worker_group import WorkerGroup
from rayline.evaluate import metrics
from rayline.train.training_phases import Phase
from rayline.tune.drivers import prepare
from rayline.tune.evaluate import FoldEvaluator, TrainingPart
from rayline.tune.options import SearchOptions, SearchRequest
from rayline.tune.row_groups import CELL
from rayline.tune.search_driver import PreparedSearch
from rayline.tune.tune_data import search_data

SPACE: dict[str, Any] = {}
from tests.tune.conftest import Configured, held_places


def prepared(data: pl.DataFrame, preprocessor: Preprocessor | None, **more: Any) -> PreparedSearch:
    given = {"train_dataset": data, "train_pipeline": preprocessor, "target_columns": ["late"], "cv": 4} | more
    metric = given.pop("metric", "log_loss")
    trainer = given.pop("trainer", train.XGBoostTrainer({"max_depth": 3}, num_boost_round=5))
    space, mode, pos_label = given.pop("space", SPACE), given.pop("mode", None), given.pop("pos_label", None)
    return prepare(
        SearchRequest(
            trainer,
            search_data(given),
            space,
            SearchOptions(metric=metric, mode=mode, num_samples=1, pos_label=pos_label),
        )
    )


def evaluator(made: PreparedSearch, **changes: Any) -> Configured:
    return Configured(replace(made.problem, **changes), made.groups)


@pytest.mark.parametrize("metric", ["log_loss", "roc_auc", "accuracy"])
@pytest.mark.parametrize("weight", [None, "weight"])
def test_a_fold_is_what_training_by_hand_gives(
    table: pl.DataFrame, preprocessor: Preprocessor, metric: str, weight: str | None
) -> None:
    data = table if weight else table.drop("weight")
    made = prepared(data, preprocessor, metric=metric, sample_weight=weight)
    evaluate = evaluator(made)
    trainer = train.XGBoostTrainer({"max_depth": 3}, num_boost_round=5)
    for fold, (part, held) in enumerate(KFold(4).split(data)):
        result = train.fit(trainer, preprocessor.clone(), part, held, ["late"], sample_weight=weight, metrics=[metric])
        assert evaluate({}, fold).score.score == pytest.approx(result.metrics[f"test-{metric}"], abs=1e-9)


def missed(y_true: Any, y_pred: Any) -> float:
    return float(np.mean((y_true == "yes") & (y_pred == "no")))


@pytest.mark.parametrize(
    ("metric", "mode"),
    [
        (missed, "min"),
        ({"cost": missed}, "min"),
        ([missed, "f1"], ["min", None]),
        (make_scorer(accuracy_score), None),
        ("f1", None),
    ],
)
def test_own_functions_and_the_positive_class(table: pl.DataFrame, metric: Any, mode: Any) -> None:
    data = table.select("x", "z", "late")
    made = prepared(data, None, metric=metric, mode=mode, pos_label="no")
    assert made.problem.target.classes == (("yes", "no"),)
    part, held = next(KFold(4).split(data))
    trainer = train.XGBoostTrainer({"max_depth": 3}, num_boost_round=5, pos_label="no")
    result = train.fit(trainer, None, part, held, ["late"], metrics=metric)
    score = evaluator(made)({}, 0).score
    expected = [value for name, value in result.metrics.items() if name not in result.history.columns]
    assert [score.score, *score.others] == pytest.approx(expected)


def test_the_direction_of_a_function_is_asked_for(table: pl.DataFrame) -> None:
    with pytest.raises(ParameterError, match="the direction of the function 'missed' is unknown"):
        prepared(table, None, metric=missed)
    with pytest.raises(ParameterError, match="would search for the worst"):
        prepared(table.select("x", "late"), None, metric=make_scorer(accuracy_score), mode="min")


def test_parameters_of_stages_and_trainer(table: pl.DataFrame, preprocessor: Preprocessor) -> None:
    config = {"max_depth": 2, "num_boost_round": 3, "preprocessor": {"impute": {"strategy": "median"}}}
    space = {"preprocessor": {"impute": {"strategy": "mean"}}}
    made = prepared(table, preprocessor, space=space)
    trainer = train.XGBoostTrainer({"max_depth": 2}, num_boost_round=3)
    part, held = next(KFold(4).split(table))
    own = preprocessor.replace({"impute": {"strategy": "median"}})
    result = train.fit(trainer, own, part, held, ["late"], metrics=["log_loss"])
    assert evaluator(made)(config, 0).score.score == pytest.approx(result.metrics["test-log_loss"], abs=1e-9)


def test_a_test_set(table: pl.DataFrame, preprocessor: Preprocessor) -> None:
    part, held = table[:200], table[200:].drop("weight")
    made = prepared(part, preprocessor, cv=None, test_dataset=held, sample_weight="weight")
    trainer = train.XGBoostTrainer({"max_depth": 3}, num_boost_round=5)
    result = train.fit(trainer, preprocessor, part, held, ["late"], sample_weight="weight", metrics=["log_loss"])
    found = evaluator(made)({}, 0)
    assert found.score.score == pytest.approx(result.metrics["test-log_loss"], abs=1e-9)
    assert (found.score.n_rows, len(found.scores)) == (100, 100)


def test_repeated_splits(table: pl.DataFrame, preprocessor: Preprocessor) -> None:
    made = prepared(table, preprocessor, cv=RepeatedKFold(2, n_repeats=2))
    evaluate = evaluator(made)
    scores = [evaluate({}, fold).score.score for fold in range(4)]
    assert len(set(scores)) == 4
    by_hand = []
    for part, held in RepeatedKFold(2, n_repeats=2).split(table):
        trainer = train.XGBoostTrainer({"max_depth": 3}, num_boost_round=5)
        result = train.fit(trainer, preprocessor.clone(), part, held, ["late"], metrics=["log_loss"])
        by_hand.append(result.metrics["test-log_loss"])
    assert scores == pytest.approx(by_hand, abs=1e-9)


def test_held_out_rows_do_not_reach_the_model(table: pl.DataFrame, preprocessor: Preprocessor) -> None:
    """The prepared training rows of a fold do not change by a bit when its held-out rows become absurd."""
    cv = GroupKFold(4, column="fold")
    clean = prepared(table, preprocessor, cv=cv)
    for fold in range(4):
        places = set(held_places(clean, fold))
        held = pl.int_range(pl.len()).is_in(list(places))
        absurd = table.with_columns(
            pl.when(held).then(1e30).otherwise(pl.col("x", "z")).name.keep(),
            city=pl.when(held).then(pl.lit("only held out")).otherwise("city"),
        )
        other = prepared(absurd, preprocessor, cv=cv)
        assert set(held_places(other, fold)) == places
        before, after = (evaluator(p)._prepared(p.problem.candidate({}), fold) for p in (clean, other))
        assert before[0].equals(after[0])
        assert before[2] == after[2]


def test_what_did_not_change_is_not_computed_again(table: pl.DataFrame, preprocessor: Preprocessor) -> None:
    space = {"preprocessor": {"scale": {"with_mean": True}}}
    from ray import tune

    made = prepared(table, preprocessor, space={"preprocessor": {"scale": {"with_mean": tune.choice([True, False])}}})
    assert made.problem.tuned == ("scale",)
    evaluate = evaluator(made)
    for depth in (2, 3, 4):
        for fold in range(4):
            evaluate({"max_depth": depth, **space}, fold)
    assert evaluate.fitters[0].scans == 1
    assert evaluate._tables.misses == 4 * 2 * 2  # for each fold and side: behind "impute", and all of it
    evaluate({"preprocessor": {"scale": {"with_mean": False}}}, 0)
    assert evaluate.fitters[0].scans == 1
    assert evaluate._tables.misses == 4 * 2 * 2 + 2  # only what comes after "impute"


def test_early_stopping_sees_the_held_out_rows_only_when_it_was_asked_for(table: pl.DataFrame) -> None:
    plain = evaluator(prepared(table.drop("city"), None), log_train_metrics=True)({}, 0)
    assert {name for row in plain.history for name in row} == {"iteration", "train-logloss"}
    trainer = train.XGBoostTrainer({"eta": 1.0}, num_boost_round=50, early_stopping_rounds=2)
    stopped = evaluator(prepared(table.drop("city"), None, trainer=trainer))({}, 0)
    assert "test-logloss" in stopped.history[0]
    assert stopped.score.iterations is not None
    assert stopped.score.iterations < 50
    by_hand = min(row["test-logloss"] for row in stopped.history)
    assert stopped.score.score == pytest.approx(by_hand, abs=1e-6)


def test_rows_are_evaluated_after_every_iteration_only_where_someone_asks(table: pl.DataFrame) -> None:
    made = prepared(table.drop("city"), None)
    found = evaluator(made)({}, 0)
    assert found.history == []
    assert found.score.iterations == evaluator(made, log_train_metrics=True)({}, 0).score.iterations
    curve = evaluator(made).history(made.problem.candidate({}), 0)
    assert {"train-logloss", "test-logloss"} <= {*curve[0]}


def test_a_metric_of_the_framework(table: pl.DataFrame) -> None:
    trainer = train.XGBoostTrainer({"eval_metric": "pre@10"}, num_boost_round=4)
    made = prepare(
        SearchRequest(
            trainer,
            search_data({"train_dataset": table.drop("city"), "target_columns": "late", "cv": 3}),
            {},
            SearchOptions(metric="pre@10", num_samples=1),
        )
    )
    assert made.mode == "max"
    found = evaluator(made)({}, 0)
    assert found.score.score == found.history[-1]["test-pre@10"]


def test_parts_of_a_training_are_scored_by_their_own_last_iteration(table: pl.DataFrame, tmp_path: Path) -> None:
    """Also by a metric that only LightGBM computes, which is in the history of the second part."""
    trainer = train.LightGBMTrainer({"objective": "regression", "metric": "fair"}, num_boost_round=6, seed=0)
    numbers = table.select("x", "z", late=pl.col("weight"))
    made = prepared(numbers, None, trainer=trainer, metric="fair")
    evaluate, candidate = FoldEvaluator(made.problem, made.groups), made.problem.candidate({})
    whole = evaluate(candidate, 0)

    def keep(save: Any) -> None:
        save(tmp_path)

    first = evaluate(candidate, 0, TrainingPart(Phase(0, 4, trainer.args, trainer.kwargs), None, keep))
    second = evaluate(
        candidate, 0, TrainingPart(Phase(1, 6, trainer.args, trainer.kwargs), tmp_path, lambda save: None)
    )
    assert first.history + second.history == whole.history
    assert first.score.score == whole.history[3]["test-fair"]
    assert second.score.score == whole.score.score == whole.history[5]["test-fair"]
    assert np.array_equal(second.scores, whole.scores)


def test_a_trainer_with_a_schedule_is_evaluated_by_it(table: pl.DataFrame, preprocessor: Preprocessor) -> None:
    trainer = train.XGBoostTrainer({}, num_boost_round=6, seed=0).scheduled([(2, {"eta": 0.9}), (6, {"eta": 0.1})])
    made = prepared(table, preprocessor, trainer=trainer)
    part, held = next(KFold(4).split(table))
    result = train.fit(trainer, preprocessor.clone(), part, held, ["late"], metrics=["log_loss"])
    assert evaluator(made)({}, 0).score.score == result.metrics["test-log_loss"]
    assert made.problem.candidate({}).key(0) != prepared(table, preprocessor).problem.candidate({}).key(0)
    with pytest.raises(ParameterError, match="config searches 'eta'"):
        prepared(table, preprocessor, trainer=trainer, space={"eta": 0.3})


def test_an_undefined_score_is_an_error(table: pl.DataFrame) -> None:
    data = table.with_columns(fold=(pl.col("late") == "yes").cast(pl.Int64)).with_columns(
        fold=pl.when(pl.int_range(pl.len()) < 20).then(2).otherwise("fold")
    )
    made = prepared(data.drop("city"), None, cv=GroupKFold(3, column="fold"), metric="roc_auc")
    evaluate = evaluator(made)
    with pytest.raises(DataError, match=r"one class only|roc_auc of fold"):
        [evaluate({}, fold) for fold in range(3)]


def test_cells_are_no_feature(table: pl.DataFrame) -> None:
    made = prepared(table.drop("city"), None)
    train_rows, _, learned, _ = evaluator(made)._prepared(made.problem.candidate({}), 0)
    assert not [n for n in (*train_rows.columns, *learned.features) if n.startswith(CELL)]
    assert metrics.get("log_loss").mode == made.mode


@pytest.mark.ray
@pytest.mark.slow
def test_workers_that_train_again_give_what_new_ones_give(
    table: pl.DataFrame, monkeypatch: Any, ray_session: Any
) -> None:
    trainer = train.XGBoostTrainer({}, num_boost_round=3, num_workers=2, seed=1)
    made = prepared(table.select("z", "weight", "late"), None, trainer=trainer, cv=2)
    started: list[int] = []
    begin = WorkerGroup.__init__

    def count(self: Any, *given: Any) -> None:
        started.append(1)
        begin(self, *given)

    monkeypatch.setattr(WorkerGroup, "__init__", count)
    scores = []
    for reuses in (True, False):
        monkeypatch.setattr(type(trainer.adapter), "reuses_workers", reuses)
        evaluate = evaluator(made)
        scores.append([evaluate({}, fold).scores.tolist() for fold in (0, 1, 0)])
    assert scores[0] == scores[1]
    assert scores[0][0] == scores[0][2]
    assert len(started) == 1 + 3


def test_statistics_that_were_computed_ahead_are_not_computed_again(
    table: pl.DataFrame, preprocessor: Preprocessor
) -> None:
    made = prepared(table, preprocessor, cv=RepeatedKFold(2, n_repeats=2))
    first = evaluator(made)
    known = pickle.loads(pickle.dumps(first.scan_ahead(made.problem.candidate({}))))
    second = Configured(made.problem, made.groups, known=known)
    for fold in range(4):
        assert second({}, fold).score.score == first({}, fold).score.score  # type: ignore[arg-type]
    assert [fitter.scans for fitter in second.fitters] == [0, 0]
    other = {"preprocessor": {"impute": {"strategy": "median"}}}
    assert second(other, 0).score.score == evaluator(made)(other, 0).score.score  # type: ignore[arg-type]
    assert second.fitters[0].scans == 1

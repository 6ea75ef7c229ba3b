"""Tuning on Ray: the scores are those of a loop by hand, whatever runs at a time, dies or fails on the way.

Covers `tune.analysis`, `tune.importance` and `tune.trial` too.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from ray.tune import schedulers
from sklearn.metrics import f1_score

import rayline as rl
from rayline import Preprocessor, train, tune
from rayline.core.errors import ParameterError, ResourceError, TrainingError
from rayline.data import KFold, StratifiedKFold
from rayline.tune.search import SchedulerName
from rayline.tune.trial_record import Status
from tests.tune import conftest

pytestmark = pytest.mark.ray


class Started(train.Callback):
    """Writes down that a search began."""

    def __init__(self, seen: list[str]) -> None:
        self.seen = seen

    def on_start(self, run: Any) -> None:
        self.seen.append("started")


SPACE = {
    "max_depth": tune.randint(1, 5),
    "eta": tune.loguniform(0.05, 0.5),
    "preprocessor": {"impute": {"strategy": tune.choice(["mean", "median"])}},
}


@pytest.fixture(autouse=True)
def on_ray(ray_session: Any) -> None:
    """Every test here needs it."""


def booster() -> train.Trainer:
    return train.XGBoostTrainer({"objective": "binary:logistic", "subsample": 0.8}, num_boost_round=5)


def scores(analysis: tune.Analysis) -> list[Any]:
    return [(t.config, t.scores, t.status) for t in analysis.trials]


def test_scores_are_those_of_a_loop_by_hand(table: pl.DataFrame, preprocessor: Preprocessor, capfd: Any) -> None:
    table = table.drop("fold")
    data = {"train_dataset": table, "train_pipeline": preprocessor, "cv": 3, "target_columns": ["late"]}
    data |= {"sample_weight": "weight"}
    analysis = tune.run(booster(), data, SPACE, metric="roc_auc", num_samples=4, seed=7)
    assert capfd.readouterr() == ("", "")
    assert len(analysis.trials) == 4
    for trial in analysis.trials[:2]:
        for fold, (part, held) in enumerate(KFold(3).split(table)):
            own = preprocessor.replace(trial.config["preprocessor"])
            trainer = booster().replace({k: v for k, v in trial.config.items() if k != "preprocessor"})
            trainer.seed = 7
            result = train.fit(trainer, own, part, held, ["late"], sample_weight="weight", metrics=["roc_auc"])
            assert trial.scores[fold] == pytest.approx(result.metrics["test-roc_auc"], abs=1e-9)
    assert analysis.best_score == max(t.score for t in analysis.trials)
    # the best model is refitted on all rows
    assert analysis.best_pipeline.is_fitted
    own = preprocessor.replace(analysis.best_config["preprocessor"]).fit(table.drop("weight"), target_columns=["late"])
    assert analysis.best_pipeline["impute"] == own["impute"]
    assert set(analysis.best_inference_pipeline.predict(table)["prediction"]) == {"yes", "no"}
    # and the held-out predictions give the score again
    oof = analysis.oof
    assert oof.height == table.height
    assert oof.columns == [*table.columns, "prediction", "probability_no", "probability_yes", "fold"]
    from sklearn.metrics import roc_auc_score

    parts = [
        roc_auc_score(p["late"] == "yes", p["probability_yes"], sample_weight=p["weight"])
        for p in oof.partition_by("fold", maintain_order=True)
    ]
    assert np.mean(parts) == pytest.approx(analysis.best_score, abs=1e-9)
    assert preprocessor.is_fitted is False


def hyperopt() -> Any:
    pytest.importorskip("hyperopt")
    from ray.tune.search.hyperopt import HyperOptSearch

    return HyperOptSearch(random_state_seed=3)


# Optuna: tests/tune/test_process.py, where Ray gives the bits of this process.
@pytest.mark.parametrize("search", [None, pytest.param(hyperopt, marks=pytest.mark.slow)])
def test_the_number_of_trials_at_a_time_does_not_matter(
    table: pl.DataFrame, preprocessor: Preprocessor, search: Any
) -> None:
    data = {"train_dataset": table, "train_pipeline": preprocessor, "cv": 3, "target_columns": ["late"]}
    one, two = (
        tune.run(
            booster(),
            data,
            SPACE,
            num_samples=6,
            seed=3,
            max_concurrent=n,
            search=search and search(),
        )
        for n in (1, 2)
    )
    assert scores(one) == scores(two)
    assert (one.best_config, one.best_score) == (two.best_config, two.best_score)


def test_a_killed_trial_is_run_again(table: pl.DataFrame, tmp_path: Path) -> None:
    data = {"train_dataset": table.drop("city"), "cv": 3, "target_columns": ["late"]}
    trainer = train.Trainer("faulty")
    space = {"ridge": tune.grid_search([0.1, 1.0, 10.0, 100.0])}
    calm = tune.run(trainer, data, space, num_samples=1)
    deadly = {**space, "die": str(tmp_path / "died")}
    killed = tune.run(trainer, data, deadly, num_samples=1)
    assert (tmp_path / "died").exists()
    assert [t.status for t in killed.trials] == [Status.FINISHED] * 4
    assert [t.scores for t in killed.trials] == [t.scores for t in calm.trials]
    assert killed.best_config["ridge"] == calm.best_config["ridge"]


@pytest.mark.slow
def test_a_trial_whose_process_always_dies_does_not_sink_the_run(table: pl.DataFrame) -> None:
    data = {"train_dataset": table.drop("city"), "cv": 2, "target_columns": ["late"]}
    found = tune.run(train.Trainer("faulty"), data, {"doomed": tune.grid_search([True, False])}, num_samples=1)
    assert [trial.status for trial in found.trials] == [Status.FAILED, Status.FINISHED]
    assert "the process of the trial died 4 times" in found.trials[0].error
    assert found.best_config == {"doomed": False}


def test_a_trial_that_raises_does_not_sink_the_run(table: pl.DataFrame) -> None:
    data = {"train_dataset": table.drop("city"), "cv": 3, "target_columns": ["late"]}
    space = {"ridge": tune.grid_search([0.1, 1.0]), "fail": tune.grid_search([False, True])}
    analysis = tune.run(train.Trainer("faulty"), data, space, num_samples=1)
    failed = [t for t in analysis.trials if t.status is Status.FAILED]
    assert len(failed) == 2
    assert all(t.config["fail"] and "ZeroDivisionError: the loss became infinite" in t.error for t in failed)
    assert analysis.results.filter(pl.col("error").is_not_null()).height == 2
    assert analysis.best_config["fail"] is False
    with pytest.raises(TrainingError, match=r"all 2 trials failed.*'fail': True.*the loss became infinite"):
        tune.run(train.Trainer("faulty"), data, {"ridge": tune.grid_search([0.1, 1.0]), "fail": True}, num_samples=1)


def test_resume_repeats_nothing(
    table: pl.DataFrame, preprocessor: Preprocessor, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("RAYLINE_CACHE", str(tmp_path))
    data = {"train_dataset": table, "train_pipeline": preprocessor, "cv": 3, "target_columns": ["late"]}
    first = tune.run(booster(), data, SPACE, num_samples=2, name="a run")
    again = tune.run(booster(), data, SPACE, num_samples=4, name="a run", resume=True)
    assert first.fits == {"trained": 6, "stopped": 0, "reused": 0}
    assert again.fits == {"trained": 6, "stopped": 0, "reused": 6}
    assert scores(again)[:2] == scores(first)
    assert again.oof.height == table.height
    other = tune.run(booster(), data | {"train_dataset": table[1:]}, SPACE, num_samples=2, name="a run", resume=True)
    assert other.fits["reused"] == 0
    assert {p.suffix for p in (tmp_path / "tune" / "a run").iterdir()} == {".json", ".npy"}


# Median: tests/tune/test_dataset.py, with the bits of the table.
@pytest.mark.parametrize("scheduler", ["asha", pytest.param("hyperband", marks=pytest.mark.slow)])
def test_racing_stops_bad_trials_early(table: pl.DataFrame, scheduler: SchedulerName) -> None:
    data = {"train_dataset": table.drop("city"), "cv": StratifiedKFold(5), "target_columns": ["late"]}
    space = {"eta": tune.grid_search([0.5, 0.3, 0.1, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10])}
    raced = tune.run(booster(), data, space, num_samples=1, scheduler=scheduler, max_concurrent=1)
    assert raced.fits["stopped"] > 0
    assert raced.fits["trained"] + raced.fits["stopped"] == 40
    assert raced.best_config["eta"] in (0.5, 0.3)
    assert len(raced.best_trial.scores) == 5
    assert "fold fits stopped early" in raced.summary
    together = tune.run(booster(), data, space, num_samples=1, scheduler=scheduler, max_concurrent=2)
    assert scores(together) == scores(raced)


@pytest.mark.slow
def test_schedulers_of_rays_own(table: pl.DataFrame) -> None:
    """They may stop other trials than ours do, and other ones each time; what they let finish is scored as ever."""
    data = {"train_dataset": table.drop("city"), "cv": 4, "target_columns": ["late"]}
    space = {"max_depth": tune.grid_search([1, 2, 3, 4, 5, 6])}
    whole = tune.run(booster(), data, space, num_samples=1)
    for scheduler in (
        schedulers.ASHAScheduler(max_t=4, grace_period=1, reduction_factor=2),
        schedulers.HyperBandScheduler(max_t=4, reduction_factor=2),
        schedulers.MedianStoppingRule(grace_period=1, min_samples_required=2, time_attr="training_iteration"),
    ):
        raced = tune.run(booster(), data, space, num_samples=1, scheduler=scheduler)
        assert all(trial.status in (Status.FINISHED, Status.STOPPED) for trial in raced.trials)
        for one, other in zip(raced.trials, whole.trials, strict=True):
            assert one.scores == other.scores[: len(one.scores)]
        assert raced.fits["trained"] + raced.fits["stopped"] == whole.fits["trained"]


def test_a_test_set_and_a_ray_dataset(table: pl.DataFrame, preprocessor: Preprocessor) -> None:
    import ray

    part, held = rl.data.train_test_split(table, 0.3)
    frames = [ray.data.from_arrow(f.to_arrow(compat_level=pl.CompatLevel.oldest())) for f in (part, held)]
    data = {"train_pipeline": preprocessor, "target_columns": ["late"]}
    on_ray = tune.run(booster(), data | {"train_dataset": frames[0], "test_dataset": frames[1]}, SPACE, num_samples=2)
    here = tune.run(booster(), data | {"train_dataset": part, "test_dataset": held}, SPACE, num_samples=2)
    assert scores(on_ray) == scores(here)
    assert isinstance(on_ray.oof, ray.data.Dataset)
    assert on_ray.oof.count() == held.height
    assert "test-log_loss" in here.best_result.metrics
    assert here.best_result.metrics["test-log_loss"] == pytest.approx(here.best_score, abs=1e-9)


def test_held_out_predictions_come_as_the_data_came(table: pl.DataFrame) -> None:
    import pandas as pd

    config = {"ridge": tune.grid_search([0.1])}
    options: dict[str, Any] = {"num_samples": 1}
    plain = table.drop("city", "fold", "weight").with_columns(pl.col("x").fill_nan(0.0))
    data = {"cv": 2, "target_columns": ["late"]}
    whole = tune.run(train.Trainer("faulty"), data | {"train_dataset": plain}, config, **options).oof
    framed = tune.run(train.Trainer("faulty"), data | {"train_dataset": plain.to_pandas()}, config, **options).oof
    assert isinstance(framed, pd.DataFrame)
    assert pl.from_pandas(framed).equals(whole)
    x, y = plain.select("x", "z"), plain["late"]
    arrays = {"X": x.to_numpy(), "y": y.to_numpy(), "cv": 2}
    assert isinstance(tune.run(train.Trainer("faulty"), arrays, config, **options).oof, pl.DataFrame)
    columns = {"X": x.to_dict(as_series=False), "y": y, "cv": 2}
    assert isinstance(tune.run(train.Trainer("faulty"), columns, config, **options).oof, dict)


def test_a_function_of_the_users_and_a_positive_class(table: pl.DataFrame) -> None:
    def missed(y_true: Any, y_pred: Any) -> float:
        return float(((y_true == "no") & (y_pred == "yes")).mean())

    data = {"train_dataset": table.select("x", "z", "late"), "target_columns": ["late"], "cv": 2}
    config = {"max_depth": tune.grid_search([1, 3])}
    found = tune.run(booster(), data, config, metric=[missed, "f1"], mode=["min", None], pos_label="no")
    assert found.metric == "missed"
    assert found.best_score == min(trial.score for trial in found.trials)
    assert found.best_model.classes == ["yes", "no"]
    assert "missed" in repr(found)
    by_f1 = tune.run(booster(), data, config, metric="f1", pos_label="no")
    assert "f1 of 'no'" in repr(by_f1)
    for fold, score in enumerate(by_f1.best_trial.scores):
        rows = by_f1.oof.filter(pl.col("fold") == fold)
        assert score == pytest.approx(f1_score(rows["late"], rows["prediction"], pos_label="no"))


def test_a_small_space_is_trained_once(table: pl.DataFrame) -> None:
    data = {"train_dataset": table.drop("city"), "cv": 2, "target_columns": ["late"]}
    drawn = tune.run(booster(), data, {"max_depth": tune.choice([1, 2])}, max_concurrent=1)
    assert len(drawn.trials) == 10
    assert drawn.fits == {"trained": 4, "stopped": 0, "reused": 16}
    grid = tune.run(booster(), data, {"max_depth": tune.grid_search([1, 2])})
    assert [trial.config["max_depth"] for trial in grid.trials] == [1, 2]  # a grid alone is run once
    expected = {trial.config["max_depth"]: trial.scores for trial in grid.trials}
    assert all(trial.scores == expected[trial.config["max_depth"]] for trial in drawn.trials)
    assert drawn.scores(9)[0].tolist() == grid.scores(drawn.trials[9].config["max_depth"] - 1)[0].tolist()


def test_early_stopping_is_refitted_without_a_test_set(table: pl.DataFrame, preprocessor: Preprocessor) -> None:
    trainer = train.XGBoostTrainer({"eta": 0.5}, num_boost_round=60, early_stopping_rounds=3)
    data = {"train_dataset": table, "train_pipeline": preprocessor, "cv": 3, "target_columns": ["late"]}
    analysis = tune.run(trainer, data, {"max_depth": tune.grid_search([2, 3])}, num_samples=1)
    counted = [fold.iterations for fold in analysis.best_trial.folds]
    assert analysis.best_model.native.num_boosted_rounds() == round(sum(counted) / 3)  # type: ignore[arg-type]
    assert "test-logloss" in analysis.learning_curves().columns


def test_learning_curves_are_those_of_the_trial(table: pl.DataFrame, preprocessor: Preprocessor) -> None:
    """A search does not evaluate all rows after every iteration; who wants to see that has the folds trained again."""
    data = {"train_dataset": table, "train_pipeline": preprocessor, "cv": 3, "target_columns": ["late"]}
    analysis = tune.run(
        train.XGBoostTrainer({}, num_boost_round=5), data, {"max_depth": tune.grid_search([2, 3])}, num_samples=1
    )
    assert analysis.best_trial.histories == {0: [], 1: [], 2: []}
    curves = analysis.learning_curves()
    assert curves.height == 3 * 5
    ends = curves.filter(pl.col("iteration") == 4).sort("fold")["test-logloss"]
    assert ends.to_list() == pytest.approx(analysis.best_trial.scores, abs=1e-6)
    assert len(analysis.plot("learning").get_lines()) == 2 * 4  # both sets: three folds and their mean


def test_several_metrics(table: pl.DataFrame, preprocessor: Preprocessor, tmp_path: Path) -> None:
    """Optuna searches the trade-off; each metric is that of the held-out predictions."""
    from sklearn.metrics import precision_score, recall_score

    data = {"train_dataset": table, "train_pipeline": preprocessor, "cv": 3, "target_columns": ["late"]}
    space = {"scale_pos_weight": tune.loguniform(0.05, 20.0), "max_depth": tune.randint(1, 5)}
    found = tune.run(
        booster(), data, space, metric=["recall", "precision"], search="optuna", num_samples=10, max_concurrent=2
    )
    assert found.metric == "recall"
    for trial in found.trials[:2]:
        parts = found.predictions(trial.number).partition_by("fold", maintain_order=True)
        truth = [(p["late"] == "yes", p["prediction"] == "yes") for p in parts]
        assert trial.means == pytest.approx(
            (np.mean([recall_score(*t) for t in truth]), np.mean([precision_score(*t) for t in truth])), abs=1e-9
        )
    assert found.pareto[0] is found.best_trial or found.pareto[0].score == found.best_score
    recalls, precisions = zip(*(trial.means for trial in found.pareto), strict=True)
    assert list(recalls) == sorted(recalls, reverse=True)
    assert list(precisions) == sorted(precisions)
    assert found.results["score/precision"].to_list() == [t.means[1] for t in found.trials]
    for trial in found.trials[:3]:
        values = [score.others[0] for score in trial.folds]
        error = found.results.filter(trial=trial.number)["standard_error/precision"].item()
        assert error == pytest.approx(np.std(values, ddof=1) / np.sqrt(3))
    means = dict(zip(found.metrics, found.best_trial.means, strict=True))
    for metrics in (found.best_result.metrics, found.best_inference_pipeline.model.metrics):
        assert {name: metrics[f"cv-{name}"] for name in means} == means
        assert metrics["cv_standard_error-recall"] == found.best_standard_error
    assert found.best_result.metric("precision") == means["precision"]
    assert all(name in found.summary for name in means)
    found.best_inference_pipeline.save(tmp_path / "best.rayline")
    assert rl.load(tmp_path / "best.rayline").model.metrics == found.best_inference_pipeline.model.metrics
    card = rl.model_card(found.best_inference_pipeline)
    assert "cross validation" in str(card)
    alone = tune.run(
        booster(), data, space, metric=["recall", "precision"], search="optuna", num_samples=10, max_concurrent=1
    )
    assert scores(alone) == scores(found)


@pytest.mark.slow
def test_a_budget_of_time_ends_the_search(table: pl.DataFrame) -> None:
    data = {"train_dataset": table.drop("city"), "cv": 3, "target_columns": ["late"]}
    space = {"ridge": tune.uniform(0.1, 1.0)}
    found = tune.run(train.Trainer("faulty"), data, space, num_samples=100_000, time_budget_s=8)
    assert 1 <= len(found.trials) < 10_000
    assert len(found.best_trial.scores) == 3


@pytest.mark.slow
def test_trials_with_workers_do_not_wait_for_each_other(table: pl.DataFrame, preprocessor: Preprocessor) -> None:
    """Two trials that need both CPUs each: one after the other, with the scores that one worker gives."""
    data = {"train_dataset": table, "train_pipeline": preprocessor, "cv": 2, "target_columns": ["late"]}
    space = {"max_depth": tune.grid_search([2, 3])}
    trainer = train.XGBoostTrainer({}, num_boost_round=3, num_workers=2, resources_per_worker={"CPU": 1})
    spread = tune.run(trainer, data, space, num_samples=1)
    alone = tune.run(train.XGBoostTrainer({}, num_boost_round=3), data, space, num_samples=1)
    assert [t.status for t in spread.trials] == [Status.FINISHED] * 2
    for one, other in zip(spread.trials, alone.trials, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=0.05)  # cuts differ with the workers


def served_without_tuning(saved: Path, table: pl.DataFrame, expected: list[str]) -> None:
    """A process that only serves an ensemble loads neither Ray nor what trained and tuned it."""
    script = """
import json, sys
from fastapi.testclient import TestClient
from rayline import serve
with TestClient(serve.create_app(sys.argv[1])) as client:
    answer = client.post("/predict", content=sys.stdin.read(), headers={"content-type": "application/json"})
print(json.dumps(answer.json()["predictions"]))
loaded = [m for m in sys.modules if m == "ray" or m.startswith(("rayline.tune", "rayline.train"))]
assert not loaded, loaded
"""
    rows = json.dumps(table.head(5).fill_nan(None).to_dicts())
    done = subprocess.run(
        [sys.executable, "-c", script, str(saved)], input=rows, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected[:5]


def test_compare_ensemble_and_pictures(table: pl.DataFrame, preprocessor: Preprocessor, tmp_path: Path) -> None:
    data = {"train_dataset": table, "train_pipeline": preprocessor, "cv": 3, "target_columns": ["late"]}
    candidates = {
        "trees": (booster(), SPACE),
        "linear": train.Trainer("least-squares"),
        "broken": (train.Trainer("faulty"), {"fail": True, "ridge": tune.uniform(0.1, 1.0)}),
    }
    found = tune.compare(candidates, data, metric=["roc_auc", "accuracy"], num_samples=8)  # type: ignore[arg-type]
    board = found.leaderboard
    best = found.best_analysis.best_trial
    assert board["score/accuracy"][0] == best.means[1]
    assert board["standard_error/accuracy"][0] == best.standard_errors[1]
    assert set(board["candidate"]) == {"trees", "linear", "broken"}
    assert board["candidate"][0] == found.best
    assert board["score"][0] == found.best_analysis.best_score
    assert "the loss became infinite" in board.filter(candidate="broken")["error"].item()
    assert found.one_standard_error in ("trees", "linear")
    assert "leaderboard" not in repr(found)
    assert "trees" in found._repr_html_()
    analysis = found["trees"]
    whole = analysis.ensemble(top=4)
    assert whole.model.metrics["oof-roc_auc"] >= analysis.best_score
    whole.save(tmp_path / "whole.rayline")
    assert rl.load(tmp_path / "whole.rayline").predict_proba(table).equals(whole.predict_proba(table))
    served_without_tuning(tmp_path / "whole.rayline", table, whole.predict(table)["prediction"].to_list())
    shares = analysis.importance()
    assert sum(shares.values()) == pytest.approx(1.0)
    for kind in ("history", "parallel", "importance"):
        assert analysis.plot(kind).get_children()
    assert len(analysis.plot("slices")) == 3
    assert "best config" in repr(analysis)
    assert "<table" in analysis._repr_html_()
    with pytest.raises(ParameterError, match="did you mean"):
        analysis.plot("slice")  # type: ignore[arg-type]


def test_what_cannot_be_is_refused(table: pl.DataFrame) -> None:
    data = {"train_dataset": table.drop("city"), "cv": 3, "target_columns": ["late"]}
    trainer = train.XGBoostTrainer({}, num_boost_round=2, num_workers=64)
    with pytest.raises(ResourceError, match="64 × 1 = 64 CPU, and the cluster has 2"):
        tune.run(trainer, data, {"eta": tune.uniform(0.1, 0.2)})
    candidates = {
        "good": (booster(), {"eta": tune.uniform(0.1, 0.2)}),
        "bad": (booster(), {"ata": tune.uniform(0.1, 0.2)}),
    }
    started: list[str] = []
    with pytest.raises(ParameterError, match=r"tune\.compare: candidate 'bad': tune\.run: config\['ata'\]"):
        tune.compare(candidates, data, callbacks=[Started(started)])
    assert started == []  # all candidates are checked before the first trial
    with pytest.raises(ParameterError, match=r"(?s)unknown argument 'metrik'.*did you mean \['metric'\]"):
        tune.compare(candidates, data, metrik="auc")  # type: ignore[call-arg]
    with pytest.raises(ParameterError, match="there is nothing to train on"):
        tune.compare(candidates, None)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="resume=True goes by the name"):
        tune.run(booster(), data, {"eta": 0.1}, num_samples=1, resume=True)


def test_nothing_is_left_behind(table: pl.DataFrame, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    data = {"train_dataset": table.drop("city"), "cv": 3, "target_columns": ["late"]}
    analysis = tune.run(train.Trainer("faulty"), data, {"ridge": tune.uniform(0.1, 1.0)}, num_samples=2)
    assert conftest.Faulty.name == "faulty"
    del analysis
    gc.collect()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("rayline")] == []

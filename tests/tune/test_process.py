"""Searches in this process: no Ray is started, and the scores are those of a loop by hand and those of Ray, to the bit.

Covers `tune.executor`, `tune.process_executor`, `tune.trial_pool`, `tune.trial_search` and `tune.trial_log` too.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from rayline import Preprocessor, register_framework, train, tune
from rayline.core.errors import ParameterError, ResourceError, TrainingError
from rayline.data import KFold
from rayline.tune.drivers import prepare
from rayline.tune.executor import on_ray
from rayline.tune.options import SearchOptions, SearchRequest
from rayline.tune.trial_record import Status, Trial
from rayline.tune.tune_data import search_data
from tests.toy import LeastSquares, Weights

SPACE = {
    "max_depth": tune.randint(1, 5),
    "eta": tune.loguniform(0.05, 0.5),
    "preprocessor": {"impute": {"strategy": tune.choice(["mean", "median"])}},
}

seen: list[tuple[float, float, int]] = []
ended: list[int] = []  # the steps of each training that was not broken off


class Slow(LeastSquares):
    """Least squares that takes its time, and writes down when it ran."""

    name = "slow"
    thread_safe_training = True

    def train(self, context: Any, *, ridge: float = 1e-6, steps: int = 1) -> Weights:
        begun = time.monotonic()
        for step in range(steps):
            time.sleep(0.02)
            if context.report(step, {"train-loss": 1.0}):
                break
        else:
            ended.append(steps)
        seen.append((begun, time.monotonic(), context.n_threads))
        return super().train(context, ridge=ridge)


class Single(Slow):
    """The same, which may not run twice at a time."""

    name = "single"
    thread_safe_training = False


register_framework(Slow)
register_framework(Single)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a process that is connected to no Ray, and has two CPUs."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("rayline.tune.capacity.available_cpus", lambda: 2)
    seen.clear()


def booster(**options: Any) -> train.Trainer:
    return train.XGBoostTrainer({"objective": "binary:logistic", "subsample": 0.8}, num_boost_round=5, **options)


def run(table: pl.DataFrame, preprocessor: Preprocessor | None = None, **options: Any) -> tune.Analysis:
    given: dict[str, Any] = {
        "trainer": booster(), "train_dataset": table.drop("fold"), "preprocessor": preprocessor, "cv": 3,
        "target_columns": ["late"], "config": SPACE, "metric": "log_loss", "num_samples": 6, "seed": 3, "run_on": "process",
        **options,
    }  # fmt: skip
    return tune.run(**given)


def found(analysis: tune.Analysis) -> list[Any]:
    return [(t.config, t.scores, [f.others for f in t.folds], t.status) for t in analysis.trials]


def test_no_ray_is_started_or_imported(tmp_path: Path) -> None:
    code = """
import sys, threading
import numpy as np, polars as pl
from rayline import train, tune
random = np.random.default_rng(0)
table = pl.DataFrame({"x": random.normal(size=90), "y": random.integers(0, 2, 90)})
found = tune.run(train.XGBoostTrainer({"objective": "binary:logistic"}, num_boost_round=2), train_dataset=table, target_columns=["y"],
                 cv=3, config={"eta": tune.uniform(0.1, 0.5)}, num_samples=3, scheduler="asha", verbose=False)
assert len(found.trials) == 3
print([m for m in ("ray", "ray.tune") if m in sys.modules], [t.name for t in threading.enumerate() if "rayline" in t.name])
"""
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.strip() == "[] []", done.stderr


@pytest.mark.parametrize("kind", ["polars", "lazy", "pandas", "arrow", "dict"])
def test_scores_are_those_of_a_loop_by_hand(table: pl.DataFrame, kind: str) -> None:
    import xgboost

    table = table.select("x", "z", "late")
    forms: dict[str, Any] = {
        "polars": table, "lazy": table.lazy(), "pandas": table.to_pandas(), "arrow": table.to_arrow(),
        "dict": table.to_dict(as_series=False),
    }  # fmt: skip
    config = {"max_depth": tune.randint(1, 5), "eta": tune.loguniform(0.05, 0.5)}
    analysis = run(table.with_columns(fold=0), None, train_dataset=forms[kind], config=config, num_samples=3)
    for trial in analysis.trials:
        for fold, (part, held) in enumerate(KFold(3).split(table)):
            rows, others = (xgboost.DMatrix(p.select("x", "z").to_numpy(), p["late"] == "yes") for p in (part, held))
            params = {"objective": "binary:logistic", "subsample": 0.8, "seed": 3, "nthread": 1, **trial.config}
            scores = xgboost.train(params, rows, 5).predict(others)
            assert trial.scores[fold] == pytest.approx(log_loss(held["late"] == "yes", scores.astype(float)), abs=1e-6)
    assert isinstance(analysis.oof, type(forms[kind]))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scheduler": "asha", "num_samples": 12},
        {"search": "optuna", "num_samples": 8},
        {"metric": ["log_loss", "roc_auc"], "scheduler": "median", "num_samples": 12},
    ],
)
def test_how_many_run_at_a_time_does_not_matter(
    table: pl.DataFrame, preprocessor: Preprocessor, options: dict[str, Any]
) -> None:
    one, two = (run(table, preprocessor, max_concurrent=n, **options) for n in (1, 2))
    assert found(one) == found(two)
    assert one.oof.equals(two.oof)


def test_trainings_run_at_the_same_time_and_share_the_cpus(table: pl.DataFrame) -> None:
    at: dict[str, Any] = {
        "trainer": train.Trainer("slow"),
        "config": {"ridge": tune.uniform(0.1, 1.0)},
        "num_samples": 4,
    }
    run(table.drop("city"), **at)
    both = [(a, b) for a in seen for b in seen if a is not b and a[0] < b[1] and b[0] < a[1]]
    assert both
    assert {n for _, _, n in seen} == {1}
    seen.clear()
    run(table.drop("city"), **{**at, "trainer": train.Trainer("single")})
    ordered = sorted(seen)
    assert len(ordered) == 12
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(ordered))
    seen.clear()
    run(table.drop("city"), **{**at, "trainer": train.Trainer("slow", resources_per_worker={"CPU": 2})})
    assert {n for _, _, n in seen} == {2}
    with pytest.raises(ResourceError, match="3 CPU"):
        run(table.drop("city"), **{**at, "trainer": train.Trainer("slow", resources_per_worker={"CPU": 3})})


def test_failures_of_a_trial(table: pl.DataFrame) -> None:
    at: dict[str, Any] = {"trainer": train.Trainer("faulty"), "num_samples": 1}
    analysis = run(table.drop("city"), config={"fail": tune.grid_search([True, False])}, **at)
    assert [t.status for t in analysis.trials] == [Status.FAILED, Status.FINISHED]
    assert "the loss became infinite" in analysis.trials[0].error
    with pytest.raises(TrainingError, match="all 1 trial failed"):
        run(table.drop("city"), config={"fail": True}, **at)


class Heard(train.Callback):
    """Writes down what it is called with."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def on_start(self, run: Any) -> None:
        self.calls.append("start")

    def on_trial(self, run: Any, trial: Trial) -> None:
        assert threading.current_thread() is threading.main_thread()
        self.calls.append(trial.number)

    def on_end(self, run: Any) -> None:
        self.calls.append("end")


def test_callbacks_and_resume(
    table: pl.DataFrame, preprocessor: Preprocessor, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("RAYLINE_CACHE", str(tmp_path))
    heard = Heard()
    first = run(table, preprocessor, callbacks=[heard], name="search")
    assert heard.calls[0] == "start"
    assert heard.calls[-1] == "end"
    assert sorted(heard.calls[1:-1]) == [*range(6)]
    assert first.trials[0].histories[0]
    again = run(table, preprocessor, name="search", resume=True)
    assert again.fits == {"trained": 0, "stopped": 0, "reused": 18}
    assert [t.scores for t in again.trials] == [t.scores for t in first.trials]


class Interrupting(train.Callback):
    """Presses Ctrl-C, or ends the process, after the first trial."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def on_trial(self, run: Any, trial: Trial) -> None:
        signal.raise_signal(self.number)


def test_ctrl_c_ends_the_trainings_under_way(table: pl.DataFrame, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("RAYLINE_CACHE", str(tmp_path))
    before = [signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)]
    slow: dict[str, Any] = {
        "trainer": train.Trainer("slow"),
        "config": {"steps": tune.grid_search([1, 500])},
        "cv": 2,
        "num_samples": 2,
    }
    options: dict[str, Any] = {**slow, "callbacks": [Interrupting(signal.SIGINT)], "name": "interrupted"}
    ended.clear()
    with pytest.raises(KeyboardInterrupt, match=r"interrupted when 1 of \d trials were finished.*resume=True"):
        run(table.drop("city"), **options)
    found = run(table.drop("city"), on_interrupt="return", **options)
    assert {*ended} == {1}  # no long training went to its end
    assert found.interrupted
    assert [t.number for t in found.trials if t.is_eligible] == [0]
    with pytest.raises(SystemExit) as caught:
        run(table.drop("city"), **{**slow, "callbacks": [Interrupting(signal.SIGTERM)]})
    assert caught.value.code == 128 + signal.SIGTERM
    assert [signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)] == before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rayline-trial")]


def test_the_time_is_over(table: pl.DataFrame) -> None:
    slow: dict[str, Any] = {"trainer": train.Trainer("slow", steps=5), "config": {"ridge": tune.uniform(0.1, 1.0)}}
    analysis = run(table.drop("city"), num_samples=1000, time_budget_s=1.5, **slow)
    assert 1 <= len([t for t in analysis.trials if t.is_eligible]) < 1000
    assert all(len(t.scores) == 3 for t in analysis.trials if t.is_eligible)


def test_populations(table: pl.DataFrame, preprocessor: Preprocessor) -> None:
    options: dict[str, Any] = {
        "config": {"eta": tune.loguniform(0.05, 0.8)}, "scheduler": tune.Population(interval=2), "num_samples": 4
    }  # fmt: skip
    one, two = (run(table, preprocessor, max_concurrent=n, **options) for n in (1, 2))
    assert found(one) == found(two)
    assert [t.parts for t in one.trials] == [t.parts for t in two.trials]
    assert one.oof.equals(two.oof)


def test_schedulers_and_searchers_of_rays_own(table: pl.DataFrame, preprocessor: Preprocessor) -> None:
    import ray
    from ray.tune import schedulers
    from ray.tune.search.optuna import OptunaSearch

    before = ray.is_initialized()
    for scheduler in (
        schedulers.ASHAScheduler(max_t=3, grace_period=1, reduction_factor=2),
        schedulers.HyperBandScheduler(max_t=3),
        schedulers.MedianStoppingRule(grace_period=0, time_attr="training_iteration", min_samples_required=2),
    ):
        analysis = run(table, preprocessor, num_samples=9, scheduler=scheduler)
        assert len(analysis.trials) == 9
        stopped = sum(t.status is Status.STOPPED for t in analysis.trials)
        assert stopped < 9
        assert stopped or isinstance(scheduler, schedulers.HyperBandScheduler)  # its brackets are not full
    named, given = (run(table, preprocessor, search=s) for s in ("optuna", OptunaSearch(seed=3)))
    assert found(named) == found(given)
    assert ray.is_initialized() == before


def test_a_search_of_scikit_learn_uses_one_thread_a_trial(table: pl.DataFrame) -> None:
    from threadpoolctl import threadpool_info

    before = [pool["num_threads"] for pool in threadpool_info()]
    analysis = run(
        table.drop("city"), trainer=train.SklearnTrainer(LogisticRegression()), config={"C": tune.loguniform(0.1, 10.0)},
        preprocessor=Preprocessor([("impute", _imputer())]),
    )  # fmt: skip
    assert len(analysis.trials) == 6
    assert [pool["num_threads"] for pool in threadpool_info()] == before


def _imputer() -> Any:
    from rayline.stages import SimpleImputer

    return SimpleImputer(columns=["x"])


def where(trainer: train.Trainer, rows: Any, **options: Any) -> bool:
    prepared = prepare(
        SearchRequest(
            trainer,
            search_data({"train_dataset": rows, "cv": 2, "target_columns": ["late"]}),
            {"eta": tune.uniform(0, 1)},
            SearchOptions(num_samples=1),
        )
    )
    return on_ray(prepared, SearchOptions(**options))


def test_where_a_search_runs(table: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = table.select("x", "z", "late")
    monkeypatch.setattr("rayline.tune.executor._is_connected", lambda: False)
    assert not where(booster(), rows)
    assert where(booster(), rows, run_on="ray")
    assert where(booster(num_workers=1), rows)
    assert where(booster(resources_per_worker={"CPU": 1, "big": 1}), rows)
    monkeypatch.setattr("rayline.tune.executor._is_connected", lambda: True)
    assert where(booster(), rows)
    assert not where(booster(), rows, run_on="process")
    with pytest.raises(ParameterError, match='run_on="process", and the trainer has num_workers=1'):
        where(booster(num_workers=1), rows, run_on="process")
    with pytest.raises(ParameterError, match="one of 'process', 'ray', None"):
        run(table, run_on="cluster")


@pytest.mark.ray
@pytest.mark.parametrize(
    "options",
    [
        {"metric": ["log_loss", "roc_auc"]},
        pytest.param({"scheduler": "asha", "num_samples": 12}, marks=pytest.mark.slow),
        pytest.param({"search": "optuna", "num_samples": 8}, marks=pytest.mark.slow),
        pytest.param(
            {"scheduler": tune.Population(interval=2), "config": {"eta": tune.loguniform(0.05, 0.8)}, "num_samples": 4},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_on_ray_the_bits_are_the_same(
    table: pl.DataFrame, preprocessor: Preprocessor, ray_session: Any, options: dict[str, Any]
) -> None:
    here, there = (run(table, preprocessor, run_on=place, **options) for place in ("process", "ray"))
    assert found(here) == found(there)
    assert here.oof.equals(there.oof)
    assert np.array_equal(here.best_score, there.best_score)

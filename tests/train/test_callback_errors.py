"""Errors of callbacks: each names the callback and the place, whatever framework it follows and wherever it runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import rayline as rl
from rayline import train, tune

TABLE = pl.DataFrame({"x": [*range(40)], "y": [0, 1] * 20})
METHODS = ["on_start", "on_iteration", "on_checkpoint", "on_end"]


class Failing(train.Callback):
    """Fails in one of its methods."""

    checkpoint_every = 1

    def __init__(self, method: str) -> None:
        self.method = method

    def _fail(self, method: str) -> None:
        if method == self.method:
            raise KeyError("mine")

    def on_start(self, run: train.Run) -> None:
        self._fail("on_start")

    def on_iteration(self, run: train.Run, iteration: int, metrics: Mapping[str, float]) -> None:
        self._fail("on_iteration")

    def on_checkpoint(self, run: train.Run, iteration: int, directory: Path) -> None:
        self._fail("on_checkpoint")

    def on_trial(self, run: train.Run, trial: Any) -> None:
        self._fail("on_trial")

    def on_end(self, run: train.Run) -> None:
        self._fail("on_end")


class Ended(train.Callback):
    """Counts the ends."""

    n = 0

    def on_end(self, run: train.Run) -> None:
        self.n += 1


def booster(**options: Any) -> train.Trainer:
    return train.XGBoostTrainer({"max_depth": 2}, num_boost_round=3, **options)


def lightgbm() -> train.Trainer:
    pytest.importorskip("lightgbm")
    return train.LightGBMTrainer({"verbose": -1}, num_boost_round=3)


def catboost() -> train.Trainer:
    pytest.importorskip("catboost")
    return train.CatBoostTrainer({"iterations": 3})


def says(name: str, method: str, where: str = "train.fit") -> str:
    place = rf" in {method}" if method else ""
    first = rf"^{where}: the callback {name} failed{place} \(test_callback_errors\.py, line \d+\): KeyError: 'mine'\n"
    return first + r"  Expected a callback that returns; got KeyError\.\n  Hint: correct the callback"


def fit(trainer: train.Trainer, *callbacks: Any, rows: Any = TABLE) -> train.Result:
    return train.fit(trainer, train_dataset=rows, target_columns=["y"], callbacks=callbacks, verbose=False)


@pytest.mark.parametrize(
    ("trainer", "method"),
    [*((booster, m) for m in METHODS), *((f, m) for f in (lightgbm, catboost) for m in ("on_iteration", "on_end"))],
)
def test_a_callback_of_rayline_is_named_and_every_callback_ends(trainer: Any, method: str) -> None:
    last = Ended()
    with pytest.raises(rl.TrainingError, match=says("Failing", method)) as caught:
        fit(trainer(), Failing(method), last)
    assert isinstance(caught.value.__cause__, KeyError)
    assert last.n == 1


def native_of(name: str) -> tuple[train.Trainer, Any, str, str]:
    if name == "xgboost":
        import xgboost

        class OfXGBoost(xgboost.callback.TrainingCallback):  # type: ignore[misc]
            def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
                raise KeyError("mine")

        return booster(), OfXGBoost(), r"\S*OfXGBoost", "after_iteration"
    if name == "catboost":

        class OfCatBoost:
            def after_iteration(self, info: Any) -> bool:
                raise KeyError("mine")

        return catboost(), OfCatBoost(), r"\S*OfCatBoost", "after_iteration"

    pytest.importorskip("lightgbm")

    def of_lightgbm(env: Any) -> None:
        raise KeyError("mine")

    trainer = train.LightGBMTrainer({"verbose": -1}, num_boost_round=3, callbacks=[of_lightgbm])
    return trainer, None, r"\S*of_lightgbm", ""


@pytest.mark.parametrize("name", ["xgboost", "catboost", "lightgbm"])
def test_a_callback_of_the_framework_is_named(name: str) -> None:
    trainer, callback, called, method = native_of(name)
    with pytest.raises(rl.TrainingError, match=says(called, method)):
        fit(trainer, *([] if callback is None else [callback]))


def test_an_error_of_the_framework_is_still_its_own() -> None:
    def objective(margin: Any, data: Any) -> Any:
        raise KeyError("mine")

    with pytest.raises(rl.TrainingError, match=r"^train\.fit: xgboost failed: KeyError: 'mine'"):
        fit(train.XGBoostTrainer({}, obj=objective, num_boost_round=2), Ended())


def test_the_error_of_a_training_stays_and_has_a_note() -> None:
    with pytest.raises(rl.TrainingError, match=says("Failing", "on_iteration")) as caught:
        fit(booster(), Failing("on_iteration"), Failing("on_end"))
    (note,) = caught.value.__notes__
    assert re.match(says("Failing", "on_end"), note)


@pytest.mark.parametrize("method", ["on_start", "on_trial", "on_end"])
def test_a_callback_of_a_search_is_named(method: str) -> None:
    data = {"train_dataset": TABLE, "target_columns": ["y"], "cv": 2}
    with pytest.raises(rl.TrainingError, match=says("Failing", method, r"tune\.run")):
        tune.run(
            booster(),
            data,
            {"max_depth": tune.randint(1, 3)},
            num_samples=1,
            callbacks=[Failing(method)],
            verbose=False,
        )


@pytest.mark.ray
def test_callbacks_of_workers_are_named(ray_session: Any) -> None:
    rows = ray_session.data.from_arrow(TABLE.to_arrow())
    last = Ended()
    with pytest.raises(rl.TrainingError, match=says("Failing", "on_iteration")):
        fit(booster(num_workers=1), Failing("on_iteration"), last, rows=rows)
    assert last.n == 1
    _, callback, called, method = native_of("xgboost")
    with pytest.raises(rl.TrainingError, match=says(called, method)):
        fit(booster(num_workers=1), callback, rows=rows)

"""A training in parts with other parameters each: what it is without a break, and what it refuses."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import rayline as rl
from rayline import train
from rayline.core.errors import ParameterError
from rayline.testing import training_table

TRAINERS = {
    "xgboost": (train.XGBoostTrainer({"max_depth": 3}, num_boost_round=10, seed=1), "eta"),
    "lightgbm": (train.LightGBMTrainer({"num_leaves": 7, "n_estimators": 10}, seed=1), "learning_rate"),
}
if find_spec("torch"):
    TRAINERS |= {
        "torch": (train.TorchTrainer("MLP", lr=0.02, max_epochs=8, seed=1), "lr"),
        "torch with a scheduler": (
            train.TorchTrainer("MLP", optimizer="SGD", lr=0.02, scheduler="CosineAnnealingLR", max_epochs=8, seed=1),
            "lr",
        ),
        "torch on a plateau": (
            train.TorchTrainer("MLP", optimizer="SGD", lr=0.02, scheduler="ReduceLROnPlateau", max_epochs=8, seed=1),
            "lr",
        ),
    }


@pytest.fixture(scope="module")
def table() -> pl.DataFrame:
    return training_table(200).select("wind", "hour", "noise", "late").with_columns(pl.col("noise").fill_null(0.0))


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def losses(trainer: Any, table: pl.DataFrame, **options: Any) -> list[float]:
    history = trainer.fit(None, table, None, ["late"], verbose=False, **options).history
    return list(history.select(pl.exclude("iteration")).to_series(0))


@pytest.mark.parametrize("name", TRAINERS)
def test_parts_are_one_training(table: pl.DataFrame, name: str) -> None:
    trainer, rate = TRAINERS[name]
    n = trainer.adapter.resumable_iterations(*trainer.args, **trainer.kwargs)
    straight = losses(trainer, table)
    assert len(straight) == n
    assert losses(trainer.scheduled([(3, {}), (5, {}), (n, {})]), table) == straight
    slow = losses(trainer.scheduled([(4, {}), (n, {rate: 1e-12})]), table)
    assert slow[:4] == straight[:4]
    assert np.ptp(slow[5:]) < 1e-6 < 1e-3 < np.ptp(straight[5:])  # the second part barely changes
    assert len(losses(trainer.scheduled([(2, {}), (6, {})]), table)) == 6


def test_a_callback_stops_all_parts(table: pl.DataFrame) -> None:
    class Third(train.Callback):
        def on_iteration(self, run: Any, iteration: int, metrics: Any) -> bool:
            return iteration == 2

    trainer = TRAINERS["xgboost"][0].scheduled([(3, {}), (10, {})])  # stopped right where a part ends, too
    assert len(losses(trainer, table, callbacks=[Third()])) == 3


def test_parts_are_kept_and_told(table: pl.DataFrame, tmp_path: Path) -> None:
    trainer = TRAINERS["xgboost"][0].scheduled([(3, {"eta": 0.5}), (10, {"eta": 0.1})])
    assert repr(trainer).endswith(".scheduled(<2 parts, 10 iterations>)")
    pipeline = trainer.fit(None, table, None, ["late"], verbose=False).inference_pipeline
    pipeline.save(tmp_path / "parts.rayline")
    assert rl.load(tmp_path / "parts.rayline").predict(table).equals(pipeline.predict(table))
    assert trainer.replace({"eta": 0.2}).phases == ()


@pytest.mark.parametrize(
    ("trainer", "schedule", "message"),
    [
        (train.XGBoostTrainer({}, num_boost_round=10), [(5, {"ata": 1})], "unknown parameter 'ata'"),
        (train.XGBoostTrainer({}, num_boost_round=10), [(5, {}), (5, {})], "rising numbers of iterations"),
        (train.XGBoostTrainer({}, num_boost_round=10), [(5, {}), (11, {})], "of which there are 10"),
        (train.XGBoostTrainer({}, num_boost_round=10), [], "at least one pair"),
        (train.XGBoostTrainer({}, num_boost_round=10, num_workers=2), [(5, {})], "num_workers=2"),
        (
            train.XGBoostTrainer({}, num_boost_round=10, early_stopping_rounds=2),
            [(5, {})],
            "early_stopping_rounds would",
        ),
        (train.CatBoostTrainer({"iterations": 5}), [(5, {})], "catboost cannot resume from a checkpoint"),
    ],
)
def test_what_cannot_be_is_refused(trainer: Any, schedule: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        trainer.scheduled(schedule)

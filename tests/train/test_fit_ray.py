"""The fit on Ray: rows from Datasets, training on workers, callbacks and history on the driver."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import xgboost

import rayline as rl
from rayline import train
from rayline.stages import OneHotEncoder, SimpleImputer, StandardScaler
from tests.train.test_fit import HeardRun, only

pytestmark = pytest.mark.ray


def stages() -> train.Preprocessor:
    return train.Preprocessor([("impute", SimpleImputer()), ("scale", StandardScaler()), ("onehot", OneHotEncoder())])


def dataset(ray: Any, table: pl.DataFrame, blocks: int = 3) -> Any:
    size = max(1, -(-table.height // blocks))
    parts = list(table.iter_slices(size)) or [table]
    return ray.data.from_arrow([part.to_arrow(compat_level=pl.CompatLevel.oldest()) for part in parts])


def test_a_dataset_trains_in_process_as_its_table(ray_session: Any, table: pl.DataFrame) -> None:
    data = only(table, "late")
    trainer = train.XGBoostTrainer({}, num_boost_round=5, seed=1)
    expected = trainer.fit(stages(), data[:400], data[400:], "late")
    found = trainer.fit(stages(), dataset(ray_session, data[:400]), dataset(ray_session, data[400:]), "late")
    assert found.metrics == pytest.approx(expected.metrics, rel=1e-6)
    assert found.preprocessor.scans == 1


@pytest.mark.parametrize("source", ["dataset", "table"])
def test_two_workers(ray_session: Any, table: pl.DataFrame, source: str, tmp_path: Path) -> None:
    data = only(table, "late", "weight")
    trainset, testset = data[:400], data[400:]
    alone = train.XGBoostTrainer({"eta": 0.5}, num_boost_round=8, seed=1)
    expected = alone.fit(stages(), trainset, testset, "late", sample_weight="weight")
    given = [dataset(ray_session, t) if source == "dataset" else t for t in (trainset, testset)]
    trainer = train.XGBoostTrainer({"eta": 0.5}, num_boost_round=8, seed=1, num_workers=2)
    listener = train.EarlyStopping("logloss", patience=8)
    result = trainer.fit(stages(), *given, "late", sample_weight="weight", callbacks=[listener])  # type: ignore[arg-type, call-arg]
    assert result.history["iteration"].to_list() == list(range(8))
    assert listener.best == min(result.history["test-logloss"])
    assert result.metrics["test-logloss"] == pytest.approx(result.metrics["test-log_loss"], rel=1e-5)
    assert result.metrics["test-roc_auc"] == pytest.approx(expected.metrics["test-roc_auc"], abs=0.02)
    assert trainer.fitted_model.num_boosted_rounds() == 8
    predicted = result.inference_pipeline.predict(testset)["prediction"]
    accuracy = np.average((predicted == testset["late"]).to_numpy(), weights=testset["weight"])
    assert result.metrics["test-accuracy"] == pytest.approx(accuracy)
    result.inference_pipeline.save(tmp_path / "two.rayline")
    assert rl.load(tmp_path / "two.rayline").predict(testset)["prediction"].equals(predicted)


def test_categories_and_three_classes_on_two_workers(ray_session: Any, table: pl.DataFrame) -> None:
    data = only(table, "size").with_columns(size=pl.col("size").cast(pl.String))
    trainer = train.XGBoostTrainer({}, num_boost_round=5, num_workers=2, class_weight="balanced")
    result = trainer.fit(None, dataset(ray_session, data), dataset(ray_session, data), "size")
    assert result.model.schema["city"] == pl.Enum(["Oslo", "Rome", "Łódź"])
    assert result.metrics["test-accuracy"] > 0.8


def test_lightgbm_on_two_workers(ray_session: Any, table: pl.DataFrame) -> None:
    data = only(table, "late")
    trainer = train.LightGBMTrainer({"min_data_in_leaf": 5}, num_boost_round=8, num_workers=2)
    result = trainer.fit(stages(), dataset(ray_session, data), data, "late")
    assert result.history.height == 8
    root = trainer.fitted_model.dump_model()["tree_info"][0]["tree_structure"]
    assert root["internal_count"] == data.height
    assert result.metrics["test-accuracy"] > 0.85


def test_one_worker_and_a_framework_of_ones_own(ray_session: Any, table: pl.DataFrame) -> None:
    data = only(table, "delay")
    listener = HeardRun()
    trainer = train.Trainer("mean", rounds=10, num_workers=1)
    result = trainer.fit(stages(), dataset(ray_session, data), None, "delay", callbacks=[listener])
    assert trainer.fitted_model["mean"] == pytest.approx(data["delay"].mean())
    assert listener.heard[0] == "start"
    assert listener.heard[-1] == "end"
    assert result.history["iteration"].to_list()[:5] == [0, 1, 2, 3, 4]
    assert ["model.json"] in listener.heard


def test_a_worker_fails_with_rank_and_cause(ray_session: Any, table: pl.DataFrame) -> None:
    data = only(table, "delay")
    with pytest.raises(rl.TrainingError, match="ZeroDivisionError: no mean today"):
        train.Trainer("mean", fail=True, num_workers=1).fit(stages(), dataset(ray_session, data), None, "delay")


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda t: t.filter(pl.col("x") > 100), rl.DataError, "no rows"),
        (lambda t: t.with_columns(late=pl.lit("no")), rl.DataError, "one class only"),
        (
            lambda t: t.with_columns(late=pl.when(pl.col("x") > 1).then(None).otherwise("late")),
            rl.DataError,
            "missing values",
        ),
        (lambda t: t.drop("late"), rl.SchemaError, "'late' is missing"),
    ],
)
def test_bad_datasets_are_refused_before_workers_start(
    ray_session: Any, table: pl.DataFrame, spoil: Any, error: Any, words: str
) -> None:
    data = dataset(ray_session, spoil(only(table, "late")), 2)
    preprocessor = stages()
    with pytest.raises(error, match=words):
        train.XGBoostTrainer({}, num_workers=2).fit(preprocessor, data, target_columns="late")
    assert not preprocessor.is_fitted


def test_impossible_demands_are_refused(ray_session: Any, table: pl.DataFrame) -> None:
    data = only(table, "late")
    with pytest.raises(rl.ResourceError, match="GPU"):
        train.XGBoostTrainer({}, num_workers=2, use_gpu=True).fit(stages(), data, target_columns="late")
    trainer = train.XGBoostTrainer({}, num_workers=2, resources_per_worker={"CPU": 50})
    with pytest.raises(rl.ResourceError, match="do not fit"):
        trainer.fit(stages(), data, target_columns="late")


class Killer(xgboost.callback.TrainingCallback):
    """Kills its worker once, in the middle of the training."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        if model.num_boosted_rounds() == 6 and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return False


@pytest.mark.slow
@pytest.mark.parametrize("storage", [False, True])
def test_a_killed_worker_costs_a_checkpoint_interval(
    ray_session: Any, table: pl.DataFrame, tmp_path: Path, storage: bool
) -> None:
    data = only(table, "late")
    path = str(tmp_path / "storage") if storage else None
    trainer = train.XGBoostTrainer(
        {}, num_boost_round=10, num_workers=2, seed=1, max_failures=1, checkpoint_every=2, storage_path=path
    )
    expected = trainer.fit(stages(), data, data, "late")
    killer = Killer(tmp_path / "killed")
    result = trainer.fit(stages(), data, data, "late", callbacks=[killer])
    assert killer.marker.exists()
    assert result.history["iteration"].to_list() == list(range(10))
    assert result.metrics == pytest.approx(expected.metrics, rel=1e-4)
    assert result.fitted_model.num_boosted_rounds() == 10

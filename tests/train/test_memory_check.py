"""A training that does not fit is refused with the arithmetic before it starts."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from sklearn.linear_model import LinearRegression, SGDRegressor

import rayline as rl
from rayline import train, tune
from rayline.core import memory, row_stream

TABLE = pl.DataFrame({"a": [1.0, 2.0] * 20, "b": [0.5, 0.25] * 20, "y": [1.0, 3.0] * 20})

DATA: Any = {"target_columns": ["y"], "verbose": False}


def trainers(**options: Any) -> dict[str, train.Trainer]:
    """The trainers that hold all rows, each with the bytes that two features of a row need."""
    return {
        "34 MB": train.LightGBMTrainer({"verbose": -1}, num_boost_round=2, **options),
        "44 MB": train.XGBoostTrainer({"tree_method": "exact"}, num_boost_round=2, **options),
        "42 MB": train.CatBoostTrainer({"iterations": 2}, **options),
        "32 MB": train.SklearnTrainer(LinearRegression(), **options),
    }


@pytest.mark.parametrize("need", trainers())
def test_a_process_without_room(monkeypatch: pytest.MonkeyPatch, need: str) -> None:
    trainer = trainers()[need]
    monkeypatch.setattr(memory, "available_bytes", lambda: 500)
    train.fit(trainer, None, TABLE, **DATA)  # so few rows fit anywhere: the system is not asked
    monkeypatch.setattr(row_stream, "HELD_BYTES", 0)
    with pytest.raises(rl.ResourceError) as caught:
        train.fit(trainer, None, TABLE, **DATA)
    text = str(caught.value)
    assert f"{trainer.framework} needs about 0 MB in this process" in text
    assert "40 rows × 2 features" in text
    assert f"{need} per million rows" in text
    with pytest.raises(rl.ResourceError, match=f"{need} per million rows"):
        train.cross_validate(trainer, None, TABLE, cv=2, **DATA)
    with pytest.raises(rl.TrainingError, match=f"{need} per million rows"):  # a trial with other parameters may fit
        tune.run(trainer, train_dataset=TABLE, cv=2, config={}, num_samples=1, **DATA)
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    train.fit(trainer, None, TABLE, **DATA)


def test_a_tensor_is_as_many_features_as_it_has_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 500)
    monkeypatch.setattr(row_stream, "HELD_BYTES", 0)
    images = pl.Series([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]] * 40, dtype=pl.Array(pl.Float64, (2, 3)))
    with pytest.raises(rl.ResourceError, match="40 rows × 7 features"):
        train.fit(train.SklearnTrainer(LinearRegression()), None, TABLE.drop("a").with_columns(images=images), **DATA)


def test_a_stream_has_no_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 500)
    train.fit(train.SklearnTrainer(SGDRegressor(), epochs=1), None, TABLE, **DATA)


@pytest.mark.ray
def test_workers_and_trials_without_room(ray_session: Any) -> None:
    dataset = ray_session.data.from_arrow(TABLE.to_arrow())
    resources = {"CPU": 0.5, "memory": 100}
    trainer = train.LightGBMTrainer({}, num_workers=2, resources_per_worker=resources)
    with pytest.raises(rl.ResourceError, match="in each of 2 workers"):
        train.fit(trainer, None, dataset, **DATA)
    search: Any = {"train_dataset": dataset, "cv": 2, "config": {"max_depth": tune.randint(2, 4)}, "num_samples": 2}
    for n in (None, 2):
        with pytest.raises(rl.ResourceError, match=f"in each of {n or 1} worker"):
            tune.run(train.LightGBMTrainer({}, num_workers=n, resources_per_worker=resources), **search, **DATA)


@pytest.mark.ray
def test_rows_of_a_dataset_that_this_process_cannot_collect(ray_session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = ray_session.data.from_arrow(TABLE.to_arrow())
    trainer = train.XGBoostTrainer({}, num_boost_round=2)
    fitted = train.Preprocessor([]).fit(dataset, target_columns=["y"])
    monkeypatch.setattr(memory, "available_bytes", lambda: 1400)
    monkeypatch.setattr(row_stream, "HELD_BYTES", 0)
    train.fit(trainer, None, TABLE, **DATA)
    with pytest.raises(rl.ResourceError, match="are the rows of the Dataset"):
        train.fit(trainer, None, dataset, **DATA)
    monkeypatch.setattr(memory, "available_bytes", lambda: 100)
    with pytest.raises(
        rl.ResourceError, match="the first 40 rows of a Dataset take"
    ):  # they are read to ask about labels
        train.fit(trainer, fitted, dataset, **DATA)

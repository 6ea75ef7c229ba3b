"""Wrong arguments of public functions: an error that names the argument, never a bare one of Python, Polars or YAML."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import rayline as rl
from rayline import data, evaluate, serve, train
from rayline.stages import StandardScaler

TABLE = pl.DataFrame({"x": [0.0, 1.0, 2.0, 3.0] * 5, "c": ["a", "b"] * 10})


def stages() -> train.Preprocessor:
    return train.Preprocessor([("scale", StandardScaler())])


@functools.cache
def result() -> train.Result:
    trainer = train.XGBoostTrainer({"max_depth": 2, "nthread": 1}, num_boost_round=1)
    return train.fit(trainer, None, TABLE, TABLE, "c", verbose=False)


CASES: dict[str, Callable[[Any], Any]] = {
    "train_test_split stratify": lambda wrong: data.train_test_split(TABLE, stratify=wrong),
    "train_test_split groups": lambda wrong: data.train_test_split(TABLE, groups=wrong),
    "StratifiedKFold column": lambda wrong: list(data.StratifiedKFold(2, column=wrong).split(TABLE)),
    "KFold targets": lambda wrong: list(data.KFold(2).split(TABLE, target_columns=wrong)),
    "fit targets": lambda wrong: stages().fit(TABLE, target_columns=wrong),
    "fit_folds targets": lambda wrong: stages().fit_folds(TABLE, 2, target_columns=wrong),
    "replace": lambda wrong: stages().replace(wrong),
    "replace a stage": lambda wrong: stages().replace({"scale": wrong}),
    "save": lambda wrong: stages().fit(TABLE).save(wrong),
    "load": train.Preprocessor.load,
    "hosts": lambda wrong: serve.ServerOptions(allowed_hosts=wrong),
    "autoscaling": lambda wrong: serve.deploy_config("late.rayline", autoscaling=wrong),
    "actor options": lambda wrong: serve.deploy_config("late.rayline", ray_actor_options=wrong),
    "host": lambda wrong: serve.deploy_config("late.rayline", host=wrong),
    "to": lambda wrong: serve.deploy_config("late.rayline", wrong),
    "save a pipeline": lambda wrong: result().inference_pipeline.save(wrong, directory=False),
    "write predictions": lambda wrong: result().inference_pipeline.write_predictions(TABLE, wrong, proba=True),
    "load a pipeline": rl.load,
    "card": rl.model_card,
    "path of a card": lambda wrong: rl.model_card(result().inference_pipeline, wrong),
    "history of a card": lambda wrong: rl.model_card(result().inference_pipeline, history=wrong),
    "preprocessor of a pipeline": lambda wrong: rl.InferencePipeline(wrong, result().model),
    "model of a pipeline": lambda wrong: rl.InferencePipeline(None, wrong),
    "stages of a pipeline": lambda wrong: rl.InferencePipeline(None, result().model, wrong),
    "a metric of a result": lambda wrong: result().metric(wrong),
    "metrics of a plot": lambda wrong: result().plot(wrong),
    "a table to plot": evaluate.plot_dependence,
    "cross_validate": lambda wrong: train.cross_validate(train.XGBoostTrainer({}), wrong, TABLE, "c"),
    "args": lambda wrong: train.XGBoostTrainer(args={5: wrong}),  # type: ignore[arg-type]
    "kwargs": lambda wrong: train.XGBoostTrainer(kwargs=wrong),
    "early stopping": lambda wrong: train.EarlyStopping("rmse", min_delta=[wrong]),  # type: ignore[arg-type]
    "a metric to stop by": train.EarlyStopping,
    "checkpoints": train.ModelCheckpoint,
}


@pytest.mark.parametrize("wrong", [5, 0.5, [1]], ids=repr)
@pytest.mark.parametrize("call", CASES.values(), ids=CASES)
def test_wrong_types_are_refused(call: Callable[[Any], Any], wrong: Any) -> None:
    with pytest.raises(rl.RaylineError, match="Expected"):
        call(wrong)


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    text = serve.deploy_config("late.rayline", tmp_path / "serve.yaml", request_timeout_s=np.float64(2.5))
    assert "request_timeout_s: 2.5" in text
    assert type(serve.ServerOptions(request_timeout_s=np.float64(2.5)).request_timeout_s) is float
    assert train.Progress(every=np.int64(5)).every == 5  # type: ignore[arg-type]


@pytest.mark.parametrize("call", [serve.create_app, serve.run])
def test_misspelt_options_of_a_server_are_named(call: Callable[..., Any]) -> None:
    with pytest.raises(
        rl.ParameterError, match=r"(?s)unknown option 'max_body'.*did you mean|unknown option 'max_body'"
    ):
        call(object(), max_body=5)

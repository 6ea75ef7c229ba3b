"""Misspelt arguments of what is public: a RaylineError that names the right one."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

import rayline as rl
from rayline import data, serve, train, tune
from rayline.inference.pipeline import InferencePipeline, Preprocessor

XGBOOST = train.XGBoostTrainer


@pytest.mark.parametrize(
    ("call", "wrong", "right"),
    [
        (train.fit, "target_column", "target_columns"),
        (XGBOOST({}).fit, "target_column", "target_columns"),
        (XGBOOST({}).fit, "metric", "metrics"),
        (tune.run, "num_sample", "num_samples"),
        (partial(tune.compare, {"a": XGBOOST({})}, {}), "time_budget", "time_budget_s"),
        (XGBOOST, "num_worker", "num_workers"),
        (XGBOOST, "num_boost_rounds", "num_boost_round"),
        (train.SklearnTrainer, "class_weights", "class_weight"),
        (Preprocessor, "target_stage", "target_stages"),
        (Preprocessor().fit, "target_column", "target_columns"),
        (Preprocessor().save, "paht", "path"),
        (InferencePipeline.predict, "keep_column", None),
        (InferencePipeline.transform, "keep_column", "keep_columns"),
        (InferencePipeline.save, "sign_wiht", "sign_with"),
        (partial(rl.load, "any"), "trusted_key", "trusted_keys"),
        (rl.model_card, "nmae", "name"),
        (serve.to_deployment, "nmae", "name"),
        (serve.ServerOptions, "nmae", "name"),
        (partial(data.train_test_split, {"x": [1.0, 2.0]}), "stratfy", "stratify"),
        (data.KFold, "n_split", "n_splits"),
        (train.EarlyStopping, "patince", "patience"),
        (tune.Population, "quantil", "quantile"),
    ],
)
def test_a_misspelt_argument_is_refused_with_the_right_one(
    call: Callable[..., Any], wrong: str, right: str | None
) -> None:
    with pytest.raises(rl.ParameterError, match=f"unknown (argument|parameter) '{wrong}'") as caught:
        call(**{wrong: 1})
    if right is not None:
        assert f"did you mean ['{right}']?" in str(caught.value)


def test_nothing_else_changes() -> None:
    assert list(inspect.signature(train.fit).parameters)[:3] == ["trainer", "preprocessor", "train_dataset"]
    assert (train.fit.__name__, train.fit.__module__) == ("fit", "rayline.train.fit")
    assert "Parameters" in (Preprocessor.fit.__doc__ or "")
    assert pickle.loads(pickle.dumps(train.fit)) is train.fit
    with pytest.raises(TypeError, match="missing"):  # what is no name is Python's own
        data.train_test_split()  # type: ignore[call-arg]

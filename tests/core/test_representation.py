"""What objects of settings print: what differs from the defaults, and a call that makes the same again."""

from __future__ import annotations

import datetime
from typing import Any

import polars as pl
import pytest

from rayline import data, stages, train, tune
from rayline.serve.options import ServerOptions
from tests.testing.test_stages import CASES


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (stages.StandardScaler(), "StandardScaler()"),
        (stages.StandardScaler(["x"], with_mean=False), "StandardScaler(columns=['x'], with_mean=False)"),
        (stages.SimpleImputer(strategy="constant", fill_value=0), "SimpleImputer(strategy='constant', fill_value=0)"),
        (data.KFold(3), "KFold(n_splits=3)"),
        (data.KFold(), "KFold()"),
        (tune.Population(quantile=0.5), "Population(quantile=0.5)"),
        (ServerOptions(token="secret", max_batch_size=8), "ServerOptions(max_batch_size=8)"),
        (train.EarlyStopping("auc"), "EarlyStopping(metric='auc')"),
        (train.ModelCheckpoint("models", every=5), "ModelCheckpoint(directory=PosixPath('models'), every=5)"),
        (train.XGBoostTrainer({"eta": 0.1}, num_boost_round=3), "XGBoostTrainer({'eta': 0.1}, num_boost_round=3)"),
    ],
)
def test_only_what_differs_is_shown(settings: Any, text: str) -> None:
    assert repr(settings) == text
    assert "secret" not in repr(settings)


@pytest.mark.parametrize("stage", [stage for stage, _ in CASES.values()], ids=CASES)
def test_every_stage_shows_a_call_that_makes_it(stage: Any) -> None:
    names = {type(stage).__name__: type(stage), "datetime": datetime, "inf": float("inf")}
    text = repr(stage)
    if any(isinstance(value, pl.Expr) or callable(value) for value in stage.parameters().values()):
        assert text.startswith(f"{type(stage).__name__}(")
    else:
        assert repr(eval(text, names)) == text  # our own text

"""Trainers: their arguments, copies and text.

Covers `train.base_trainer` too.
"""

from __future__ import annotations

import pickle
from typing import Any

import pytest

import rayline as rl
from rayline import train
from tests import toy


def test_both_forms_say_the_same() -> None:
    one = train.XGBoostTrainer(args=[{"max_depth": 3}], kwargs={"num_boost_round": 7}, num_workers=2)
    two = train.XGBoostTrainer({"max_depth": 3}, num_boost_round=7, num_workers=2)
    assert (one.args, one.kwargs, one.num_workers) == (two.args, two.kwargs, two.num_workers)
    assert repr(one) == repr(two) == "XGBoostTrainer({'max_depth': 3}, num_boost_round=7, num_workers=2)"
    assert repr(train.Trainer("least-squares", ridge=1.0, seed=0)) == "Trainer('least-squares', ridge=1.0, seed=0)"


def test_pickle() -> None:
    for trainer in (train.XGBoostTrainer({"eta": 0.5}, seed=3), train.Trainer(toy.LeastSquares, ridge=2.0)):
        copy = pickle.loads(pickle.dumps(trainer))
        assert type(copy) is type(trainer)
        assert repr(copy) == repr(trainer)


def test_replace_leaves_the_original_alone() -> None:
    trainer = train.XGBoostTrainer({"eta": 0.5, "max_depth": 2}, num_boost_round=3, seed=1)
    other = trainer.replace({"eta": 0.1, "num_boost_round": 9, "subsample": 0.5})
    assert other.args == ({"eta": 0.1, "max_depth": 2, "subsample": 0.5},)
    assert (other.kwargs, other.seed) == ({"num_boost_round": 9}, 1)
    assert trainer.args == ({"eta": 0.5, "max_depth": 2},)
    with pytest.raises(rl.ParameterError, match="'etta'"):
        trainer.replace({"etta": 0.1})
    with pytest.raises(rl.ParameterError, match="'rigde'"):
        train.Trainer("least-squares").replace({"rigde": 1})


def test_fitted_model_before_and_after() -> None:
    trainer = train.Trainer("least-squares")
    with pytest.raises(rl.NotFittedError, match="not fitted yet"):
        _ = trainer.fitted_model
    result = trainer.fit(toy.pipeline().preprocessor.clone(), toy.table(), target_columns="late", verbose=False)  # type: ignore[union-attr]
    assert trainer.fitted_model is result.fitted_model
    with pytest.raises(rl.NotFittedError):
        _ = trainer.replace({"ridge": 1.0}).fitted_model
    with pytest.raises(rl.NotFittedError):
        _ = pickle.loads(pickle.dumps(trainer)).fitted_model


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_workers": 0}, "num_workers has a wrong value"),
        ({"num_workers": 2}, "trains on one worker only"),
        ({"seed": -1}, "seed has a wrong value"),
        ({"seed": True}, "seed has a wrong value"),
        ({"max_failures": 0.5}, "max_failures"),
        ({"checkpoint_every": 0}, "checkpoint_every"),
        ({"metrics": ["aucc"]}, "'aucc'"),
        ({"class_weight": "even"}, "class_weight"),
        ({"nonsense": 1}, "unknown parameter 'nonsense'"),
        ({"kwargs": {"ridge": 1}, "ridge": 2}, "'ridge' is given twice"),
        ({"args": [1.0]}, "least-squares trainer"),
    ],
)
def test_wrong_options_are_refused_by_the_constructor(options: dict[str, Any], words: str) -> None:
    with pytest.raises(rl.ParameterError, match=words):
        train.Trainer("least-squares", **options)


def test_unknown_frameworks() -> None:
    with pytest.raises(rl.ParameterError, match="'xgbost'"):
        train.Trainer("xgbost")

"""The scaling of a training as one value: what it holds, and that flat keywords build the same one."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest

import rayline as rl
from rayline import train, tune


@pytest.mark.parametrize(
    "flat",
    [
        {},
        {"num_workers": 2},
        {
            "num_workers": 2,
            "use_gpu": True,
            "resources_per_worker": {"CPU": 1.5},
            "max_failures": 3,
            "storage_path": "s3://x",
        },
    ],
)
def test_flat_keywords_build_the_value(flat: dict[str, Any]) -> None:
    scaling = train.Scaling(**flat)
    one, two = train.XGBoostTrainer({}, **flat), train.XGBoostTrainer({}, scaling=scaling)
    assert one.scaling == two.scaling == scaling
    assert repr(one) == repr(two)
    assert {name: getattr(two, name) for name in flat} == flat
    assert pickle.loads(pickle.dumps(two)).scaling == scaling


def test_it_is_frozen_and_keeps_no_object_of_the_caller() -> None:
    resources = {"CPU": 1.0}
    scaling = train.Scaling(num_workers=2, resources_per_worker=resources)
    resources["CPU"] = 9.0
    assert scaling.resources_per_worker == {"CPU": 1.0}
    with pytest.raises(dataclasses.FrozenInstanceError):
        scaling.num_workers = 3  # type: ignore[misc]
    trainer = train.XGBoostTrainer({"max_depth": 2}, seed=1, scaling=scaling)
    here = trainer.scaled(train.Scaling())
    assert (here.num_workers, trainer.num_workers, here.args, here.seed) == (None, 2, trainer.args, 1)


def test_placement_is_shown_and_kept() -> None:
    trainer = train.XGBoostTrainer({}, scaling=train.Scaling(num_workers=2, placement="spread"))
    assert repr(trainer) == "XGBoostTrainer({}, scaling=Scaling(num_workers=2, placement='spread'))"
    assert trainer.with_resources(None, {"CPU": 1}).scaling.placement == "spread"


def test_the_time_to_wait_is_shown_and_kept() -> None:
    trainer = train.XGBoostTrainer({}, scaling=train.Scaling(num_workers=2, timeout_s=30))
    assert repr(trainer) == "XGBoostTrainer({}, scaling=Scaling(num_workers=2, timeout_s=30))"
    assert trainer.with_resources(None, {"CPU": 1}).scaling.timeout_s == 30


def test_a_range_of_workers_implies_ray_train() -> None:
    scaling = train.Scaling(num_workers=(1, 4))
    assert (scaling.min_workers, scaling.max_workers, scaling.is_elastic, scaling.backend) == (1, 4, True, "ray_train")
    assert repr(scaling) == "Scaling(num_workers=(1, 4), backend='ray_train')"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"scaling": 2}, r"scaling has a wrong value"),
        ({"scaling": train.Scaling(num_workers=2), "num_workers": 2}, "num_workers is given twice"),
        ({"scaling": train.Scaling(), "use_gpu": True}, "use_gpu is given twice"),
        ({"use_gpu": "auto"}, "Expected True or False"),
        ({"use_gpu": 0.5}, "shares of a GPU are resources_per_worker"),
        ({"num_workers": 0}, "XGBoostTrainer: num_workers has a wrong value"),
        ({"num_workers": True}, "num_workers has a wrong value"),
        ({"num_workers": (3, 2)}, "num_workers has a wrong value"),
        ({"num_workers": (0, 2)}, "num_workers has a wrong value"),
        ({"num_workers": (1, 2, 3)}, "num_workers has a wrong value"),
        ({"max_failures": -1}, "max_failures has a wrong value"),
        ({"resources_per_worker": {"CPU": -1}}, "resources_per_worker has a wrong value"),
        ({"scalling": train.Scaling()}, r"unknown argument 'scalling'[\s\S]*did you mean \['scaling'\]"),
    ],
)
def test_wrong_values_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(rl.ParameterError, match=says):
        train.XGBoostTrainer({}, **options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num_workers": 0}, "Scaling: num_workers has a wrong value"),
        ({"num_workers": "two"}, "Scaling: num_workers"),
        ({"num_workers": (2, 1)}, "Scaling: num_workers"),
        ({"use_gpu": "no"}, "Expected True or False"),
        ({"resources_per_worker": 5}, "resources_per_worker has a wrong value"),
        ({"resources_per_worker": {"CPU": float("nan")}}, "resources_per_worker has a wrong value"),
        ({"resources_per_worker": {"CPU": float("inf")}}, "resources_per_worker has a wrong value"),
        ({"resources_per_worker": {1: 2}}, "resources_per_worker has a wrong value"),
        ({"resources_per_worker": {"": 2}}, "resources_per_worker has a wrong value"),
        ({"max_failures": "many"}, "max_failures has a wrong value"),
        ({"storage_path": ""}, "Scaling: storage_path has a wrong value"),
        ({"storage_path": "a\0b"}, "Scaling: storage_path has a wrong value"),
        ({"storage_path": 5}, "storage_path has a wrong value"),
        ({"backend": "actor"}, "backend has a wrong value"),
        ({"placement": "strict"}, "placement has a wrong value"),
        ({"timeout_s": 0}, r"Scaling: timeout_s has a wrong value[\s\S]*seconds, more than 0 or None; got 0"),
        ({"timeout_s": "1 h"}, "timeout_s has a wrong value"),
    ],
)
def test_the_value_itself_refuses_wrong_ones(options: dict[str, Any], says: str) -> None:
    with pytest.raises(rl.ParameterError, match=says):
        train.Scaling(**options)


WITHOUT_EFFECT = [
    {"max_failures": 2},
    {"storage_path": "s3://bucket/checkpoints"},
    {"backend": "ray_train"},
    {"placement": "spread"},
    {"timeout_s": 60.0},
]


@pytest.mark.parametrize("option", WITHOUT_EFFECT)
def test_an_option_of_workers_needs_workers(option: dict[str, Any]) -> None:
    (name,) = option
    text = rf"{name}=\S+ needs workers, and num_workers is not set\.\n  Expected num_workers.*\n  Hint: .* leave {name} out"
    with pytest.raises(rl.ParameterError, match=f"Scaling: {text}"):
        train.Scaling(**option)
    assert train.Scaling(num_workers=1, **option)
    if name in ("max_failures", "storage_path"):
        with pytest.raises(rl.ParameterError, match=f"XGBoostTrainer: {text}"):
            train.XGBoostTrainer({}, **option)


@pytest.mark.parametrize(
    "option", [{"backend": "ray_train"}, {"placement": "spread"}, {"timeout_s": 60.0}, {"storage_path": "x"}]
)
@pytest.mark.parametrize("door", [train.fit, lambda trainer: tune.run(trainer, config={})])
def test_a_framework_that_starts_its_own_workers_refuses_options_of_ours(option: dict[str, Any], door: Any) -> None:
    pytest.importorskip("ray.rllib")
    (name,) = option
    trainer = train.RLlibTrainer("PPO", "CartPole-v1", scaling=train.Scaling(num_workers=1, **option))
    with pytest.raises(rl.ParameterError, match=rf"rllib starts its own workers, and {name}="):
        door(trainer)


@pytest.mark.parametrize("wrong", [5, "GPU", {1: 2.0}])
def test_resources_of_trials_are_named(wrong: Any) -> None:
    with pytest.raises(rl.ParameterError, match="resources_per_trial has a wrong value"):
        tune.run(train.XGBoostTrainer({}), config={}, resources_per_trial=wrong)


def test_a_misspelt_parameter_is_named() -> None:
    with pytest.raises(
        rl.ParameterError, match=r"Scaling: unknown argument 'num_worker'[\s\S]*did you mean \['num_workers'"
    ):
        train.Scaling(num_worker=2)  # type: ignore[call-arg]

"""The contract of a framework, over the whole registry, and on adapters that break it.

Covers `testing.contract_case`, `train.target_inference` and `train.worker` too.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import is_classifier
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier, SGDRegressor
from sklearn.svm import LinearSVC

from rayline import register_framework, tune
from rayline.core import registry
from rayline.core.errors import TrainingError
from rayline.evaluate.measured_rows import MeasuredRows
from rayline.testing import check_framework
from rayline.train import worker
from rayline.train.target_inference import TargetProfiler
from tests import toy


def xgboost_predicts(booster: Any, matrix: Any) -> Any:
    import xgboost

    found = booster.predict(xgboost.DMatrix(matrix, feature_names=booster.feature_names))
    objective = json.loads(booster.save_config())["learner"]["objective"]["name"]
    return found > 0.5 if objective == "binary:logistic" else found.argmax(axis=1) if found.ndim == 2 else found


def lightgbm_predicts(booster: Any, matrix: Any) -> Any:
    found = booster.predict(matrix)
    return (
        found.argmax(axis=1) if found.ndim == 2 else found > 0.5 if booster.params["objective"] == "binary" else found
    )


CASES: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "xgboost": (({"subsample": 0.9, "nthread": 1},), {"num_boost_round": 15, "native_predict": xgboost_predicts}),
    "lightgbm": (
        ({"min_data_in_leaf": 5, "bagging_fraction": 0.9, "bagging_freq": 1, "num_threads": 1},),
        {"num_boost_round": 30, "native_predict": lightgbm_predicts},
    ),
    "guesser": ((), {}),
    "least-squares": ((), {"tasks": ["regression"], "weights": False, "exact": True}),
}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.parametrize("name", CASES)
def test_contract(name: str) -> None:
    args, options = CASES[name]
    check_framework(name, *args, **options)


ESTIMATORS = [
    RandomForestClassifier(10),
    LogisticRegression(),
    LinearSVC(),
    RandomForestRegressor(10),
    Ridge(),
]


@pytest.mark.parametrize(
    ("estimator", "epochs"),
    [*((e, None) for e in ESTIMATORS), (SGDClassifier(), 20), (SGDRegressor(), 20)],
    ids=lambda value: type(value).__name__ if hasattr(value, "fit") else f"epochs={value}",
)
def test_contract_of_estimators(estimator: Any, epochs: int | None) -> None:
    tasks = ["binary", "multiclass"] if is_classifier(estimator) else ["regression"]
    # A product of matrices sums in another order for one row than for many; a forest does not.
    exact = "Forest" in type(estimator).__name__
    more: dict[str, Any] = {"epochs": epochs} if epochs else {}
    check_framework(
        "sklearn", estimator, tasks=tasks, exact=exact, native_predict=lambda model, x: model.predict(x), **more
    )


ON_RAY: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "xgboost": (
        "xgboost",
        CASES["xgboost"][0],
        {**CASES["xgboost"][1], "tuned": {"eta": tune.grid_search([0.2, 0.4])}},
    ),
    "lightgbm": (
        "lightgbm",
        CASES["lightgbm"][0],
        {**CASES["lightgbm"][1], "tuned": {"learning_rate": tune.grid_search([0.1, 0.2])}},
    ),
    "least-squares": ("least-squares", *CASES["least-squares"]),
    "an estimator": (
        "sklearn",
        (LogisticRegression(),),
        {"exact": False, "tuned": {"C": tune.grid_search([0.1, 1.0])}},
    ),
    "an estimator, streamed": ("sklearn", (SGDClassifier(),), {"exact": False, "epochs": 20, "resumes": False}),
}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("name", ON_RAY)
def test_contract_on_ray(ray_session: Any, name: str) -> None:
    framework, args, options = ON_RAY[name]
    check_framework(framework, *args, **{"tasks": ["binary"], **options}, ray=True, serve=True, in_process=False)


@pytest.mark.ray
@pytest.mark.slow
def test_contract_under_ray_train(ray_session: Any) -> None:
    args, options = CASES["xgboost"]
    check_framework("xgboost", *args, **options, tasks=["binary"], ray_train=True, in_process=False)


def test_every_framework_of_ours_has_a_case() -> None:
    elsewhere = "".join(p.read_text() for p in (Path(__file__).parents[1]).rglob("test_*.py"))
    ours = set(registry.own_frameworks()) - {"rllib", "ensemble", "stack"}  # it learns in environments, without a table
    calls = re.findall(r'check_framework\(\s*"(\w+)"((?:(?!check_framework|\ndef ).)*)', elsewhere, re.DOTALL)
    in_process = {name for name, rest in calls if "in_process=False" not in rest} | {*CASES}
    on_ray = {name for name, rest in calls if " ray=True" in rest} | {framework for framework, _, _ in ON_RAY.values()}
    assert ours <= in_process
    assert ours <= on_ray


@register_framework
class Careless(toy.LeastSquares):
    """An adapter with one fault at a time."""

    name = "careless"

    def train(self, context: Any, *, fault: str = "") -> Any:  # type: ignore[override]
        model = super().train(context)
        model["fault"] = fault
        if fault == "forgets the seed":
            model["b"] += float(np.random.default_rng().normal())
        if fault == "learns nothing":
            model["w"] = [0.0] * len(model["w"])
        return model

    def predict(self, model: Any, features: Any) -> Any:
        scores = super().predict(model, features)
        return scores - scores.mean() if model["fault"] == "looks at other rows" else scores

    def owns(self, model: Any) -> bool:
        return False

    def load(self, directory: Any) -> Any:
        model = super().load(directory)
        model["b"] += 1.0 if model["fault"] == "loads something else" else 0.0
        return model


@pytest.mark.parametrize(
    ("fault", "law"),
    [
        ("forgets the seed", "repeats_itself"),
        ("learns nothing", "learns_something"),
        ("looks at other rows", "single_rows_are_the_table"),
        ("loads something else", "is_saved_and_loaded"),
    ],
)
def test_faults_are_found(fault: str, law: str) -> None:
    check_framework("careless", tasks=["regression"], weights=False)
    with pytest.raises(AssertionError, match=law):
        check_framework("careless", tasks=["regression"], weights=False, fault=fault)


@register_framework
class Forgetful(type(registry.framework("xgboost"))):  # type: ignore[misc]
    """XGBoost, with a fault in what is common to all frameworks."""

    name = "forgetful"

    def train(self, context: Any, params: Any = None, num_boost_round: int = 15, *, fault: str = "") -> Any:
        if fault == "forgets weights":
            context.train._weight = None
        return super().train(context, params, num_boost_round)

    def owns(self, model: Any) -> bool:
        return False


def test_forgotten_weights_are_found() -> None:
    with pytest.raises(AssertionError, match="breaks 'weighs'"):
        check_framework("forgetful", tasks=["binary"], fault="forgets weights")


def test_other_weights_of_classes_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = TargetProfiler._class_weights

    def mixed(*args: Any) -> Any:
        found = right(*args)
        return found and dict(zip(found, reversed(found.values()), strict=True))

    monkeypatch.setattr(TargetProfiler, "_class_weights", mixed)
    with pytest.raises(AssertionError, match="weighs_classes"):
        check_framework("xgboost", tasks=["binary"], num_boost_round=15)


def test_a_wrong_metric_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = MeasuredRows.values
    monkeypatch.setattr(MeasuredRows, "values", lambda *a: {n: v * 0.99 for n, v in right(*a).items()})
    with pytest.raises(AssertionError, match="measures_by_name"):
        check_framework("xgboost", tasks=["binary"], num_boost_round=15)


def test_an_error_that_loses_its_cause_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def train_on(*args: Any) -> Any:
        try:
            return right(*args)
        except TrainingError as error:
            raise TrainingError(str(error)) from None

    right = worker.train_on
    monkeypatch.setattr("rayline.train.table_training.train_on", train_on)
    with pytest.raises(AssertionError, match="tells_what_failed"):
        check_framework("least-squares", tasks=["regression"], weights=False)


def test_a_gpu_that_is_not_there_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["rayline.train.fit"], "_check_resources", lambda *given: None)
    with pytest.raises(AssertionError, match="refuses_a_gpu_that_is_not_there"):
        check_framework("least-squares", tasks=["regression"], weights=False)

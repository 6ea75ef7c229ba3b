"""The laws of tasks, with every framework that can: counts, amounts, quantiles, rankings, survival times."""

from __future__ import annotations

from typing import Any

import pytest

from rayline.core import registry
from rayline.core.errors import MissingExtraError
from rayline.testing import check_task


def _quantile_regressor() -> Any:
    from sklearn.linear_model import QuantileRegressor

    return QuantileRegressor(alpha=0.0)


def _poisson() -> Any:
    from sklearn.linear_model import PoissonRegressor

    return PoissonRegressor(alpha=0.0)


def _gamma() -> Any:
    from sklearn.linear_model import GammaRegressor

    return GammaRegressor(alpha=0.0)


QUANTILE = {"objective": "reg:quantileerror", "quantile_alpha": [0.1, 0.5, 0.9]}
TORCH: dict[str, Any] = {"module": "Linear", "lr": 0.05, "max_epochs": 30, "exact": False}

CASES: dict[str, tuple[str, str, Any, dict[str, Any]]] = {
    "xgboost counts": ("counts", "xgboost", {"objective": "count:poisson"}, {"num_boost_round": 20}),
    "xgboost amounts": ("amounts", "xgboost", {"objective": "reg:gamma"}, {"num_boost_round": 20}),
    "xgboost quantiles": ("quantiles", "xgboost", QUANTILE, {"num_boost_round": 20}),
    "xgboost ranking": ("ranking", "xgboost", {"objective": "rank:ndcg"}, {"num_boost_round": 10}),
    "xgboost aft": ("survival", "xgboost", {"objective": "survival:aft"}, {"num_boost_round": 20}),
    "xgboost cox": ("survival", "xgboost", {"objective": "survival:cox"}, {"num_boost_round": 10}),
    "lightgbm counts": ("counts", "lightgbm", {"objective": "poisson"}, {"num_boost_round": 40}),
    "lightgbm amounts": ("amounts", "lightgbm", {"objective": "gamma"}, {"num_boost_round": 40}),
    "lightgbm ranking": ("ranking", "lightgbm", {"objective": "lambdarank"}, {"num_boost_round": 10}),
    "catboost counts": ("counts", "catboost", {"loss_function": "Poisson", "iterations": 60}, {}),
    "catboost quantiles": (
        "quantiles", "catboost", {"loss_function": "MultiQuantile:alpha=0.1,0.5,0.9", "iterations": 60}, {}
    ),
    "catboost ranking": ("ranking", "catboost", {"loss_function": "YetiRank", "iterations": 20}, {}),
    "catboost aft": ("survival", "catboost", {"loss_function": "SurvivalAft", "iterations": 30}, {}),
    "torch counts": ("counts", "torch", None, {**TORCH, "loss": "poisson"}),
    "torch amounts": ("amounts", "torch", None, {**TORCH, "loss": "gamma"}),
    "torch quantiles": ("quantiles", "torch", None, {**TORCH, "quantile_alpha": [0.1, 0.5, 0.9], "lr": 0.5}),
    "sklearn counts": ("counts", "sklearn", _poisson, {"exact": False}),
    "sklearn amounts": ("amounts", "sklearn", _gamma, {"exact": False}),
    "sklearn quantiles": (
        "quantiles", "sklearn", _quantile_regressor, {"quantile_alpha": [0.1, 0.5, 0.9], "exact": False}
    ),
}  # fmt: skip
ON_RAY = (
    "xgboost ranking",
    "lightgbm ranking",
    "xgboost quantiles",
    "xgboost aft",
    "torch quantiles",
    "catboost counts",
)


def _check(name: str, **laws: bool) -> None:
    task, framework, argument, options = CASES[name]
    try:
        registry.framework(framework)
    except MissingExtraError as error:
        pytest.skip(str(error))
    args = () if argument is None else (argument() if callable(argument) else argument,)
    check_task(task, framework, *args, **options, **laws)


@pytest.mark.parametrize("name", CASES)
def test_the_laws_of_tasks(name: str) -> None:
    _check(name)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("name", ON_RAY)
def test_the_laws_of_tasks_on_ray(name: str, ray_session: Any) -> None:
    _check(name, ray=True, serve=True)


def test_a_framework_that_breaks_a_law_is_named() -> None:
    pytest.importorskip("xgboost")
    with pytest.raises(AssertionError, match=r"'xgboost' breaks 'learns_and_predicts' \(amounts\): test-r2"):
        check_task("amounts", "xgboost", {"objective": "reg:gamma", "eta": 0.0}, num_boost_round=1)

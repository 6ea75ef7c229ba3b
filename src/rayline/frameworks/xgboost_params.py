"""Check XGBoost's parameters with XGBoost itself before any data is moved."""

from __future__ import annotations

import functools
import inspect
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xgboost

from rayline.core.adapters import trying
from rayline.core.errors import ParameterError, at
from rayline.core.framework import TrainContext
from rayline.core.objective import ANY, NON_NEGATIVE, POSITIVE, LabelRange, Objective, quantiles_of
from rayline.core.task import Task

TASKS = {"binary": Task.BINARY, "multi": Task.MULTICLASS, "rank": Task.RANKING, "survival": Task.SURVIVAL}
"""Tasks of objectives by the part before the colon; all others are regressions."""

QUANTILES, COX = "reg:quantileerror", "survival:cox"

LABELS = {
    "count:poisson": NON_NEGATIVE,
    "reg:tweedie": NON_NEGATIVE,
    "reg:gamma": POSITIVE,
    "reg:logistic": LabelRange(0.0, 1.0),
    "reg:squaredlogerror": LabelRange(-1.0, excludes_low=True),
    "rank:map": LabelRange(0.0, 1.0),
}
"""Labels that an objective can learn, where it cannot learn every number."""

MAX_RELEVANCE = 31.0
"""The largest relevance whose gain of 2^relevance XGBoost computes; with `ndcg_exp_gain=False` there is no limit."""

NOT_TRIED = ("device", "monotone_constraints", "interaction_constraints", "verbosity")
"""Parameters left out of the check: they depend on the machine, or on columns that the two test rows lack."""

SHORT = (
    "eta",
    "alpha",
    "lambda",
    "gamma",
    "nthread",
    "seed",
    "num_class",
    "tweedie_variance_power",
    "quantile_alpha",
    "aft_loss_distribution",
    "aft_loss_distribution_scale",
)
"""Names in addition to those of the scikit-learn wrapper and of the configuration."""

REAL = ("reg:", "count:")
"""Prefixes of regression objectives: some accept only positive targets, some none above 1."""

BOOSTERS = ("gbtree", "dart", "gblinear")


@at("xgboost trainer")
def check(params: Any) -> None:
    """Check parameters by training one round on two rows."""
    if not isinstance(params, Mapping) or not all(isinstance(name, str) for name in params):
        raise ParameterError.value("params", "a dict of XGBoost's parameters", params)
    tested_params = {name: value for name, value in params.items() if name not in NOT_TRIED}
    if str(params.get("objective", "")).startswith("multi:"):
        tested_params.setdefault("num_class", 2)
    _check_quantiles(params)
    data = _rows_for(str(params.get("objective", "")))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with trying("XGBoost", params, xgboost.core.XGBoostError, TypeError, ValueError, text=error_message):
            booster = xgboost.Booster({**tested_params, "nthread": 1, "validate_parameters": True}, [data])
            booster.update(data, 0)
            booster.eval(data)
    unused = {
        name
        for w in caught
        for names in re.findall(r"Parameters: \{(.*?)\}", str(w.message))
        for name in re.findall(r'"(.*?)"', names)
    }
    unknown = unused - known_parameters()
    if unknown:
        raise ParameterError.unknown(unknown, known_parameters())


def _check_quantiles(params: Mapping[str, Any]) -> None:
    """Raise ParameterError on wrong quantiles, and on several expectiles: each would be a separate prediction."""
    quantiles_of(params.get("quantile_alpha"))
    value = params.get("expectile_alpha")
    if value is not None and np.size(np.array(value, dtype=object)) > 1:
        raise ParameterError.value("expectile_alpha", "one number", value)


@at("xgboost trainer")
def objective(params: Mapping[str, Any]) -> Objective:
    """Return what the parameters say about the target."""
    name = params.get("objective")
    if name is None:
        return Objective()
    name = str(name)
    task = TASKS.get(name.partition(":")[0], Task.REGRESSION)
    labels = LABELS.get(name, NON_NEGATIVE if task.is_paired else ANY)
    if labels is NON_NEGATIVE and task is Task.RANKING and params.get("ndcg_exp_gain", True):
        labels = LabelRange(0.0, MAX_RELEVANCE)
    quantiles = quantiles_of(params.get("quantile_alpha")) if name == QUANTILES else ()
    return Objective(task, labels, quantiles, predicts_risk=name == COX, name=name)


def of_features(params: dict[str, Any], context: TrainContext) -> None:
    """Replace names of features by column numbers, in parameters that are set per feature."""
    constraints, groups = params.get("monotone_constraints"), params.get("interaction_constraints")
    if isinstance(constraints, Mapping):
        with at("xgboost trainer: monotone_constraints"):
            values = context.by_column(constraints)
        params["monotone_constraints"] = tuple(int(values.get(place, 0)) for place in range(context.n_columns))
    if groups is not None and not isinstance(groups, str):
        with at("xgboost trainer: interaction_constraints"):
            params["interaction_constraints"] = json.dumps(context.groups(groups))


def _rows_for(objective: str) -> Any:
    """Return two rows with labels that the objective can learn."""
    if objective.startswith("rank:"):
        return xgboost.DMatrix(
            np.zeros((2, 1), np.float32), label=np.array((0.0, 1.0)), qid=np.zeros(2, int), nthread=1
        )
    if objective.startswith("survival:") and objective != COX:
        times = np.ones(2)
        return xgboost.DMatrix(
            np.zeros((2, 1), np.float32), label_lower_bound=times, label_upper_bound=times, nthread=1
        )
    return _two_rows((0.5, 1.0) if objective.startswith((*REAL, COX)) else (0.0, 1.0))


def _two_rows(labels: Sequence[float] = (0.0, 1.0)) -> Any:
    return xgboost.DMatrix(np.zeros((2, 1), np.float32), label=np.array(labels), nthread=1)


@functools.cache
def known_parameters() -> frozenset[str]:
    """Return the names that XGBoost accepts for some booster or objective, from its scikit-learn wrapper and its configuration."""
    names = {*inspect.signature(xgboost.XGBModel.__init__).parameters} - {"self", "kwargs"}
    names |= {*SHORT}
    data = _two_rows()
    for booster in BOOSTERS:
        todo = [json.loads(xgboost.Booster({"booster": booster, "nthread": 1}, [data]).save_config())["learner"]]
        while todo:
            for key, value in todo.pop().items():
                if isinstance(value, dict):
                    todo.append(value)
                elif isinstance(value, str):
                    names.add(key)
    return frozenset(names)


def error_message(error: Exception) -> str:
    """Return XGBoost's error message without its time stamp and stack."""
    text = re.sub(r"^\[\d\d:\d\d:\d\d\] \S+?:\d+: ", "", str(error).strip()).split("Stack trace:")[0]
    return " ".join(text.split())[:300]

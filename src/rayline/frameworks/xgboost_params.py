"""XGBoost's parameters, judged by XGBoost itself before any data moves."""

from __future__ import annotations

import functools
import inspect
import json
import re
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import xgboost

from rayline.core.errors import ParameterError

OTHER_TASKS = ("rank", "survival")
"""Objectives by what stands before the colon that are neither a classification nor a regression."""

NOT_TRIED = ("device", "monotone_constraints", "interaction_constraints", "verbosity")
"""Parameters that say something about this machine, or about columns that two rows of nothing do not have."""

SHORT = ("eta", "alpha", "lambda", "gamma", "nthread", "seed", "num_class", "tweedie_variance_power", "quantile_alpha")
"""Names beside those of its scikit-learn wrapper and of its own configuration."""

BOOSTERS = ("gbtree", "dart", "gblinear")


def check(params: Any) -> None:
    """Let XGBoost itself judge parameters, in one round on two rows."""
    if not isinstance(params, Mapping) or not all(isinstance(name, str) for name in params):
        raise ParameterError.value("xgboost trainer", "params", "a dict of XGBoost's parameters", params)
    if str(params.get("objective", "")).partition(":")[0] in OTHER_TASKS:
        raise ParameterError.value(
            "xgboost trainer", "objective", "one of a classification or regression", params["objective"]
        )
    asked = {name: value for name, value in params.items() if name not in NOT_TRIED}
    if str(params.get("objective", "")).startswith("multi:"):
        asked.setdefault("num_class", 2)
    data = _two_rows()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            booster = xgboost.Booster({**asked, "nthread": 1, "validate_parameters": True}, [data])
            booster.update(data, 0)
            booster.eval(data)
        except (xgboost.core.XGBoostError, TypeError, ValueError) as error:
            raise ParameterError(
                f"xgboost trainer: XGBoost refuses the parameters: {reason(error)}",
                f"Got {dict(params)!r}.",
                "see its documentation.",
            ) from error
    unused = {
        name
        for w in told
        for found in re.findall(r"Parameters: \{(.*?)\}", str(w.message))
        for name in re.findall(r'"(.*?)"', found)
    }
    unknown = unused - known()
    if unknown:
        raise ParameterError.unknown("xgboost trainer", unknown, known())


def _two_rows() -> Any:
    return xgboost.DMatrix(np.zeros((2, 1), np.float32), label=np.array([0.0, 1.0]), nthread=1)


@functools.cache
def known() -> frozenset[str]:
    """Names that XGBoost knows for some booster or objective, from its scikit-learn wrapper and its own configuration."""
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


def reason(error: Exception) -> str:
    """What XGBoost says, without its time stamp and its stack."""
    text = re.sub(r"^\[\d\d:\d\d:\d\d\] \S+?:\d+: ", "", str(error).strip()).split("Stack trace:")[0]
    return " ".join(text.split())[:300]

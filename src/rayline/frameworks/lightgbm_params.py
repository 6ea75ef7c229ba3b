"""LightGBM's parameters: what they say about the target, and their check by LightGBM itself before any data is moved."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import lightgbm
import numpy as np

from rayline.compat.boosting import lightgbm_aliases, lightgbm_parameters
from rayline.core.adapters import trying
from rayline.core.errors import ParameterError, at
from rayline.core.framework import TrainContext
from rayline.core.objective import ANY, NON_NEGATIVE, POSITIVE, LabelRange, Objective, quantiles_of
from rayline.core.target import Task

CLASSES = {
    "binary": Task.BINARY,
    "multiclass": Task.MULTICLASS,
    "multiclassova": Task.MULTICLASS,
    "cross_entropy": Task.BINARY,
    "lambdarank": Task.RANKING,
    "rank_xendcg": Task.RANKING,
}
"""Objectives of classification and ranking; all others are regressions."""


ALIASES = {
    "softmax": "multiclass",
    "multiclass_ova": "multiclassova",
    "ova": "multiclassova",
    "ovr": "multiclassova",
    "xentropy": "cross_entropy",
    **dict.fromkeys(("xendcg", "xe_ndcg", "xe_ndcg_mart", "xendcg_mart"), "rank_xendcg"),
}
"""Other names of objectives."""


LABELS = {
    "poisson": NON_NEGATIVE,
    "tweedie": NON_NEGATIVE,
    "gamma": POSITIVE,
    "cross_entropy_lambda": LabelRange(0.0, 1.0),
}
"""Labels that an objective can learn, where it cannot learn every number."""


GAINS = 31
"""The number of relevances, from 0, whose gains LightGBM knows when `label_gain` is not given."""


OF_FILES = ("ignore_column", "label_column", "weight_column", "group_column", "data", "valid", "header", "two_round")
"""Parameters for reading data files, which Rayline does not use."""


TRAINING = (
    "objective", "metric", "num_class", "num_iterations", "learning_rate", "num_leaves", "max_depth", "boosting",
    "lambda_l1", "lambda_l2", "min_gain_to_split", "min_sum_hessian_in_leaf", "path_smooth", "extra_trees",
    "feature_fraction", "feature_fraction_bynode", "feature_fraction_seed", "bagging_fraction", "bagging_freq",
    "bagging_seed", "pos_bagging_fraction", "neg_bagging_fraction", "scale_pos_weight", "is_unbalance",
    "early_stopping_round", "first_metric_only", "verbosity", "max_delta_step", "drop_rate", "max_drop", "skip_drop",
    "top_rate", "other_rate", "alpha", "tweedie_variance_power", "poisson_max_delta_step", "lambdarank_truncation_level",
    "lambdarank_norm", "label_gain", "eval_at",
)  # fmt: skip
"""Parameters that do not affect the bins: trainings that differ only in these can share a Dataset."""


@functools.cache
def names_of_trainings() -> frozenset[str]:
    """Return the names in `TRAINING`, with their aliases."""
    return frozenset(alias for name in TRAINING for alias in lightgbm_aliases(name))


def value(params: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """Return the value of a parameter under any of its names."""
    return next((params[alias] for alias in lightgbm_aliases(name) if params.get(alias) is not None), default)


def metrics(params: Mapping[str, Any]) -> set[str]:
    """Return the names of the requested LightGBM metrics."""
    names: set[str] = set()
    for name in lightgbm_aliases("metric"):
        value = params.get(name) or ()
        names |= {*value.split(",")} if isinstance(value, str) else {str(one) for one in value if one is not None}
    return {METRICS.get(name.strip(), name.strip()) for name in names}


WHERE = "lightgbm trainer"


METRICS = {"mean_average_precision": "map", "lambdarank": "ndcg", "rank_xendcg": "ndcg"}


BY_FEATURE = {"monotone_constraints": 0, "feature_contri": 1.0, "max_bin_by_feature": 255,
              "cegb_penalty_feature_lazy": 0.0, "cegb_penalty_feature_coupled": 0.0}  # fmt: skip
"""Parameters with a value per feature, and the default for features that are not named."""


def of_features(params: dict[str, Any], context: TrainContext) -> None:
    """Replace names of features by column numbers, in parameters that are set per feature."""
    for main, rest in BY_FEATURE.items():
        for name in lightgbm_aliases(main):
            if isinstance(params.get(name), Mapping):
                with at(f"lightgbm trainer: {name}"):
                    values = context.by_column(params[name])
                params[name] = [values.get(number, rest) for number in range(context.n_columns)]
    for name in lightgbm_aliases("interaction_constraints"):
        if params.get(name) is not None and not isinstance(params[name], str):
            with at(f"lightgbm trainer: {name}"):
                params[name] = context.groups(params[name])
    for name in lightgbm_aliases("categorical_feature"):
        if name in params:
            with at(f"lightgbm trainer: {name}"):
                params[CATEGORIES] = sorted(_places(params.pop(name), context))


CATEGORIES = "categorical_feature"


def _places(named: Any, context: TrainContext) -> set[int]:
    """Return the column numbers given as names or numbers, in a list or in LightGBM's notation ("0,1", "name:age,city")."""
    if isinstance(named, str):
        by_name = named.startswith("name:")
        parts = [part for part in named.removeprefix("name:").split(",") if part]
        named = parts if by_name or not all(part.isdigit() for part in parts) else [int(part) for part in parts]
    elif isinstance(named, int):
        named = [named]
    return {number for name in named for number in context.columns(name)}


@at(WHERE)
def objective(params: Mapping[str, Any]) -> Objective:
    """Return what the parameters say about the target."""
    name = value(params, "objective")
    if not isinstance(name, str):
        return Objective()
    name = ALIASES.get(name, name)
    task, labels = CLASSES.get(name, Task.REGRESSION), LABELS.get(name, ANY)
    if task is Task.RANKING:
        gains = value(params, "label_gain")
        n = GAINS if gains is None else len(gains.split(",") if isinstance(gains, str) else gains)
        labels = LabelRange(0.0, n - 1.0)
    quantiles = quantiles_of(value(params, "alpha", 0.9), name="alpha") if name == "quantile" else ()
    return Objective(task, labels, quantiles, name=name)


@at(WHERE)
def check(params: Any) -> None:
    """Raise ParameterError on parameters that LightGBM or Rayline refuses, tried on two rows."""
    if not isinstance(params, Mapping):
        raise ParameterError.value("params", "a dict of LightGBM's parameters", params)
    if (parameters := lightgbm_parameters()) is not None:
        known = {alias for main, aliases in parameters.items() for alias in (main, *aliases)}
        if unknown := {*params} - known:
            raise ParameterError.unknown(unknown, known)
    for name in lightgbm_aliases("objective"):
        if not (params.get(name) is None or isinstance(params[name], str) or callable(params[name])):
            raise ParameterError.value(name, "the name of an objective, or a function", params[name])
    refused = [name for main in OF_FILES for name in lightgbm_aliases(main) if name in params]
    if refused:
        raise ParameterError.here(
            f"{refused[0]} is for tables that LightGBM reads from a file itself.",
            f"Expected none of {sorted(alias for main in OF_FILES for alias in lightgbm_aliases(main))}.",
            "name the target and the weights in fit, and leave columns out with DropColumns.",
        )
    of_columns = {
        alias for main in (*BY_FEATURE, "interaction_constraints", CATEGORIES) for alias in lightgbm_aliases(main)
    }
    about = objective(params)
    if len(about.quantiles) > 1:
        raise ParameterError.here(
            "LightGBM learns one quantile per model.",
            f"Expected one number as alpha; got {value(params, 'alpha')!r}.",
            "train one model for each, or several quantiles at once with XGBoost (reg:quantileerror), CatBoost (MultiQuantile), "
            "PyTorch (quantile_alpha) or scikit-learn (quantile_alpha).",
        )
    untried = of_columns | {*lightgbm_aliases("device_type")}  # the GPU is a worker's
    tried = {k: v for k, v in params.items() if not callable(v) and k not in untried}
    more = (
        {"num_class": 2} if about.task is Task.MULTICLASS and not {*lightgbm_aliases("num_class")} & {*params} else {}
    )
    ranks = about.task is Task.RANKING
    whole = ranks or about.task in (Task.BINARY, Task.MULTICLASS)
    labels = [0.0, 1.0] if whole else [0.5, 1.0]  # some refuse 0, some refuse values above 1
    group = [2] if ranks else None
    data = lightgbm.Dataset(np.zeros((2, 1)), np.array(labels), group=group, params={"verbosity": -1})
    with trying("LightGBM", params, lightgbm.basic.LightGBMError, TypeError, ValueError):
        lightgbm.Booster({**tried, **more, "verbosity": -1, "num_threads": 1}, data)

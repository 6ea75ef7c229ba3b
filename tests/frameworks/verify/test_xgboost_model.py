"""Every part of a model that XGBoost believes, changed: refused before XGBoost sees it (it would end this process)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
import xgboost

from rayline.core.errors import ArtifactError
from rayline.frameworks.verify import ubjson, xgboost_model

RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 4))
TABLE = pl.DataFrame(X, schema=list("abcd")).with_columns(
    c=pl.Series([str(i % 5) for i in range(300)]).cast(pl.Enum([str(i) for i in range(5)]))
)
SEVERAL = np.stack([X[:, 0], X[:, 1] * X[:, 2]], axis=1)


def trained(params: dict[str, Any], data: Any = X, label: Any = X[:, 0], rounds: int = 3) -> Any:
    matrix = xgboost.DMatrix(data, label, enable_categorical=True)
    return xgboost.train({"nthread": 1, **params}, matrix, rounds)


@pytest.mark.parametrize("rounds", [0, 3])
@pytest.mark.parametrize(
    ("params", "data", "label"),
    [
        ({}, X, X[:, 0]),
        ({"tree_method": "exact", "gamma": 1, "max_depth": 8}, X, X[:, 0]),  # pruned: nodes are deleted
        ({"multi_strategy": "multi_output_tree"}, X, SEVERAL),
        ({"multi_strategy": "one_output_per_tree"}, X, SEVERAL),
        ({"objective": "multi:softprob", "num_class": 3, "max_cat_to_onehot": 1}, TABLE, np.arange(300) % 3),
        ({"objective": "multi:softmax", "num_class": 3, "max_cat_to_onehot": 9}, TABLE, np.arange(300) % 3),
        ({"booster": "dart", "rate_drop": 0.5}, X, X[:, 0]),
        ({"booster": "gblinear", "objective": "multi:softprob", "num_class": 3}, X, np.arange(300) % 3),
        ({"num_parallel_tree": 3, "grow_policy": "lossguide", "max_leaves": 9}, X, X[:, 0]),
        ({"objective": "reg:quantileerror", "quantile_alpha": [0.1, 0.9]}, X, X[:, 0]),
        ({}, X * 0, X[:, 0]),
    ],
)
def test_what_xgboost_saves_is_accepted(params: dict[str, Any], data: Any, label: Any, rounds: int) -> None:
    xgboost_model.check(bytes(trained(params, data, label, rounds).save_raw("ubj")))


def _set(name: str, place: int, value: Any) -> Callable[[Any], None]:
    def change(learner: Any) -> None:
        learner["gradient_booster"]["model"]["trees"][1][name][place] = value

    return change


def _tree(**changes: Any) -> Callable[[Any], None]:
    return lambda learner: learner["gradient_booster"]["model"]["trees"][1]["tree_param"].update(changes)


def _model(name: str, value: Any) -> Callable[[Any], None]:
    return lambda learner: learner["gradient_booster"]["model"].update({name: value})


def _shape(**changes: str) -> Callable[[Any], None]:
    return lambda learner: learner["learner_model_param"].update(changes)


CHANGES: dict[str, Callable[[Any], None]] = {
    "child outside": _set("left_children", 0, 1000),
    "child is its own parent": _set("left_children", 0, 0),
    "two ways": _set("right_children", 0, 1),
    "odd leaf": _set("left_children", -1, -7),
    "feature outside": _set("split_indices", 0, 4),
    "feature negative": _set("split_indices", 0, -3),
    "other parent": _set("parents", 1, 2),
    "split of no kind": _set("split_type", 0, 2),
    "categories of no split": lambda learner: learner["gradient_booster"]["model"]["trees"][1].update(
        split_type=[0] * len(learner["gradient_booster"]["model"]["trees"][1]["split_type"])
    ),
    "category outside": _set("categories", 0, 2**20),
    "segment outside": _set("categories_segments", 0, 99),
    "size too large": _set("categories_sizes", 0, 99),
    "node of categories": _set("categories_nodes", 0, 77),
    "more nodes": _tree(num_nodes="99"),
    "no nodes": _tree(num_nodes="0"),
    "a number of nodes that is none": _tree(num_nodes="-1"),
    "other features": _tree(num_feature="3"),
    "wide leaves": _tree(size_leaf_vector="9"),
    "output outside": _model("tree_info", [0, 1, 9] * 3),
    "rounds outside": _model("iteration_indptr", [0, 3, 6, 99]),
    "fewer trees": lambda learner: learner["gradient_booster"]["model"]["trees"].pop(),
    "no booster": lambda learner: learner["gradient_booster"].update(name="gbforest"),
    "many classes": _shape(num_class="2000000000"),
    "many targets": _shape(num_target="5"),
    "no features": _shape(num_feature="0"),
    "no score": _shape(base_score="[x,0,0]"),
    "other scores": _shape(base_score="[0,0]"),
    "no classes in the objective": lambda learner: learner["objective"]["softmax_multiclass_param"].update(num_class="0"),
    "no objective": lambda learner: learner.pop("objective"),
    "best iteration": lambda learner: learner["attributes"].update(best_iteration="7"),
    "strange type": lambda learner: learner["feature_types"].__setitem__(0, "z"),
    "categories of features": lambda learner: learner["gradient_booster"]["model"]["cats"]["feature_segments"].__setitem__(2, 3),
    "order of categories": lambda learner: learner["gradient_booster"]["model"]["cats"]["sorted_idx"].__setitem__(0, 4),
}  # fmt: skip


@pytest.fixture(scope="module")
def learner() -> str:
    params = {"objective": "multi:softprob", "num_class": 3, "max_cat_to_onehot": 1}
    text = bytes(trained(params, TABLE, np.arange(300) % 5 % 3).save_raw("json")).decode()
    assert json.loads(text)["learner"]["gradient_booster"]["model"]["trees"][1]["categories_nodes"]
    return text


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_does_not_fit_together_is_refused(
    learner: str, change: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = json.loads(learner)
    monkeypatch.setattr(ubjson, "loads", lambda data, what: made)  # the same values, without a writer of UBJSON
    xgboost_model.check(b"")
    change(made["learner"])
    with pytest.raises(ArtifactError, match="saved XGBoost model is damaged"):
        xgboost_model.check(b"")

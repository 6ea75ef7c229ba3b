"""Every part of a model text that LightGBM believes, changed: refused before LightGBM sees it."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest

lightgbm = pytest.importorskip("lightgbm", reason="LightGBM is not installed (pip install 'rayline[lightgbm]')")

from rayline.core.errors import ArtifactError
from rayline.frameworks.verify import lightgbm_model

RNG = np.random.default_rng(0)
X = RNG.normal(size=(600, 3))
TABLE = pd.DataFrame(X, columns=["a", "b", "c"]).assign(
    d=pd.Categorical([f"ü{i % 7}" for i in range(600)]), e=pd.Categorical([i % 3 for i in range(600)])
)


def trained(params: dict[str, Any], data: Any = X, label: Any = X[:, 0], rounds: int = 3) -> str:
    few = {"verbosity": -1, "num_threads": 1, "min_data_per_group": 5, "cat_smooth": 0, "max_cat_to_onehot": 1}
    text: str = lightgbm.train({**few, **params}, lightgbm.Dataset(data, label), rounds).model_to_string()
    return text


@pytest.mark.parametrize(
    ("params", "data", "label"),
    [
        ({}, X, X[:, 0]),
        ({"objective": "binary"}, X, X[:, 0] > 0),
        ({"objective": "binary"}, X, np.zeros(600)),  # trees of one leaf
        ({"objective": "multiclass", "num_class": 3}, TABLE, np.arange(600) % 3),
        ({"objective": "multiclassova", "num_class": 3}, TABLE, np.arange(600) % 3),
        ({"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}, X, X[:, 0]),
        ({"boosting": "dart"}, X, X[:, 0]),
        ({"linear_tree": True}, X, X[:, 0] * X[:, 1]),
        ({"monotone_constraints": [1, 0, -1]}, X, X[:, 0]),
        ({"interaction_constraints": [[0, 1], [2]]}, X, X[:, 0]),
        ({"saved_feature_importance_type": 1}, X, X[:, 0]),
        ({"objective": "quantile", "alpha": 0.3}, X, X[:, 0]),
    ],
)
def test_what_lightgbm_saves_is_accepted(params: dict[str, Any], data: Any, label: Any) -> None:
    text = trained(params, data, label)
    assert lightgbm_model.check(text.encode()) == text


CATEGORIES = trained({"objective": "multiclass", "num_class": 3}, TABLE, np.arange(600) % 3)
LINEAR = trained({"linear_tree": True}, X, X[:, 0] * X[:, 1])

CHANGES = {
    "child outside": (r"left_child=-?\d+", "left_child=99"),
    "leaf outside": (r"right_child=-?\d+", "right_child=-99"),
    "two ways": (r"right_child=-?\d+ (-?\d+)", r"right_child=\1 \1"),
    "fewer children": (r"left_child=-?\d+ ", "left_child="),
    "more leaves": (r"num_leaves=\d+", "num_leaves=99"),
    "no leaves": (r"num_leaves=\d+", "num_leaves=0"),
    "leaves without end": (r"num_leaves=\d+", "num_leaves=999999999"),
    "feature outside": (r"split_feature=\d+", "split_feature=5"),
    "kind outside": (r"decision_type=\d+", "decision_type=16"),
    "other categories": (r"num_cat=[1-9]\d*", "num_cat=40"),
    "no categories": (r"num_cat=[1-9]\d*", "num_cat=0"),
    "categories outside": (r"cat_boundaries=0 \d+", "cat_boundaries=0 77"),
    "threshold of categories": (r"threshold=0 ", "threshold=88 "),
    "word that is none": (r"leaf_value=", "leaf_value=x"),
    "half a number": (r"leaf_value=(\S+) ", r"leaf_value=\g<1>e "),
    "fewer classes": (r"num_class=3", "num_class=2"),
    "more trees an iteration": (r"num_tree_per_iteration=3", "num_tree_per_iteration=9"),
    "other classes in the objective": (r"num_class:3", "num_class:2000000"),
    "fewer features": (r"max_feature_idx=4", "max_feature_idx=3"),
    "many features": (r"max_feature_idx=4", "max_feature_idx=99999999"),
    "length of a tree": (r"tree_sizes=\d", "tree_sizes="),
    "a tree less": (r"tree_sizes=\d+ ", "tree_sizes="),
    "a file to read": (r"\[forcedsplits_filename: \]", "[forcedsplits_filename: /etc/passwd]"),
    "no end": (r"end of trees", "end of treez"),
    "twice": (r"num_cat=", "num_cat=0\nnum_cat="),
    "unheard of": (r"num_cat=", "num_dog=0\nnum_cat="),
}


@pytest.mark.parametrize(("pattern", "replacement"), CHANGES.values(), ids=CHANGES.keys())
def test_what_does_not_fit_together_is_refused(pattern: str, replacement: str) -> None:
    text, n = re.subn(pattern, replacement, CATEGORIES, count=1)
    assert n == 1
    # The length of the tree is made right too: what is refused is what was changed.
    blocks = [len(block.encode()) for block in re.findall(r"Tree=\d+\n.*?\n\n\n", text, flags=re.DOTALL)]
    if "tree_sizes" not in pattern:
        text = re.sub(r"tree_sizes=.*", f"tree_sizes={' '.join(map(str, blocks))}", text)
    with pytest.raises(ArtifactError, match="saved LightGBM model is damaged"):
        lightgbm_model.check(text.encode())


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [(r"num_features=0", "num_features=7"), (r"leaf_features=( *)\d", r"leaf_features=\g<1>9")],
)
def test_leaves_of_linear_trees_are_looked_at_too(pattern: str, replacement: str) -> None:
    text, n = re.subn(pattern, replacement, LINEAR, count=1)
    assert n == 1
    with pytest.raises(ArtifactError, match="saved LightGBM model is damaged"):
        lightgbm_model.check(text.encode())

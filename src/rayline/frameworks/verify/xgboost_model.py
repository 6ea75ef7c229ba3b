"""Verify an untrusted XGBoost model before XGBoost reads it: its parser trusts sizes, children and features, and crashes the
process when they are wrong.

The layout is that of `xgboost/doc/model.schema` and of what XGBoost 3 writes; integers may be of any width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from rayline.core.errors import ArtifactError, first_line
from rayline.frameworks.verify import tree_validation, ubjson

_NODES = (
    "left_children", "right_children", "parents", "split_indices", "split_conditions", "split_type", "default_left",
    "loss_changes", "sum_hessian",
)  # fmt: skip
_TYPES = {"float", "int", "i", "q", "c"}
_FLOAT = re.compile(r"-?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|-?inf|-?nan")
_DELETED = 0x7FFF_FFFF
_ROOT = 0x7FFF_FFFF
"""The parent of a root node, as an alternative to -1."""


def check(data: bytes) -> None:
    """Raise ArtifactError unless the bytes are a model that is safe for XGBoost to load: anything but UBJSON, and inconsistent
    parts, are refused. Values (thresholds, leaves) are not restricted."""
    what = "The saved XGBoost model"
    try:
        _learner(ubjson.loads(data, what)["learner"])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(
            f"{what} is damaged: {type(error).__name__}: {first_line(error)}.", "", "save it again."
        ) from error


def _fail(reason: str) -> NoReturn:
    raise ArtifactError(f"The saved XGBoost model is damaged: {reason}.", "", "save it again.")


def _learner(learner: Mapping[str, Any]) -> None:
    shape = {name: _count(learner["learner_model_param"], name) for name in ("num_feature", "num_class", "num_target")}
    n_features, n_groups = shape["num_feature"], max(shape["num_class"], shape["num_target"], 1)
    if min(shape["num_class"], shape["num_target"]) > 1:
        _fail("it has classes and several targets at once")
    scores = learner["learner_model_param"]["base_score"].strip("[]").split(",")
    if not all(_FLOAT.fullmatch(score) for score in scores) or len(scores) not in (1, n_groups):
        _fail("its base score is none")
    for name in ("feature_names", "feature_types"):
        texts = learner.get(name, [])
        if not all(isinstance(value, str) for value in texts) or len(texts) not in (0, n_features):
            _fail(f"the number of {name} does not match the features")
    if not {*learner.get("feature_types", [])} <= _TYPES or "" in learner.get("feature_names", []):
        _fail("a feature has no name or no type")
    for name, value in learner.get("attributes", {}).items():
        if not isinstance(value, str):
            _fail(f"the attribute {name[:40]!r} is not text")
    best = learner.get("attributes", {}).get("best_iteration", "0")
    if not re.fullmatch(r"\d{1,9}", best):
        _fail("its best iteration is not a number")
    _objective(learner["objective"], shape["num_class"])
    booster = learner["gradient_booster"]
    n_trees = None if booster["name"] == "gblinear" else len(_trees_of(booster)["trees"])
    if n_groups > max(1, len(scores), n_trees or 0):
        _fail("it has more outputs than trees")
    if n_trees is None:
        _linear(booster["model"], n_features, n_groups)
    else:
        n_rounds = _forest(_trees_of(booster), n_features, n_groups)
        if int(best) >= max(n_rounds, 1):
            _fail("its best iteration does not exist")
        if booster["name"] == "dart" and len(_array(booster["weight_drop"], float)) != n_trees:
            _fail("the number of weights does not match the trees")


def _trees_of(booster: Mapping[str, Any]) -> Mapping[str, Any]:
    if booster["name"] not in ("gbtree", "dart"):
        _fail(f"there is no booster {booster['name']!r:.40}")
    model: Mapping[str, Any] = (booster["gbtree"] if booster["name"] == "dart" else booster)["model"]
    return model


def _objective(objective: Mapping[str, Any], n_classes: int) -> None:
    if not isinstance(objective["name"], str):
        _fail("its objective has no name")
    multiclass = objective.get("softmax_multiclass_param")
    if objective["name"].startswith("multi:") and (
        multiclass is None or n_classes < 1 or _count(multiclass, "num_class") != n_classes
    ):
        _fail("the number of classes of its objective does not match its trees")  # it would divide by zero


def _linear(model: Mapping[str, Any], n_features: int, n_groups: int) -> None:
    if len(_array(model["weights"], float)) not in (0, (n_features + 1) * n_groups):  # none before the first round
        _fail("the number of weights does not match the features")


def _forest(model: Mapping[str, Any], n_features: int, n_groups: int) -> int:
    """Check the trees and return the number of rounds."""
    trees: Sequence[Mapping[str, Any]] = model["trees"]
    about = model["gbtree_model_param"]
    groups, ends = _array(model["tree_info"]), _array(model["iteration_indptr"])
    if len(groups) != len(trees) or _count(about, "num_trees") != len(trees):
        _fail("the number of its trees is inconsistent")
    if len(groups) and (groups.min() < 0 or groups.max() >= n_groups):
        _fail("a tree belongs to an output that does not exist")
    if not len(ends) or ends[0] != 0 or ends[-1] != len(trees) or (np.diff(ends) < 0).any():
        _fail("its rounds do not match its trees")
    if trees:
        _nodes(trees, n_features, n_groups)
        n_categories = _categories(model["cats"], n_features) if "cats" in model else None
        for tree in trees:
            _splits(tree, n_categories)
    return len(ends) - 1


def _nodes(trees: Sequence[Mapping[str, Any]], n_features: int, n_groups: int) -> None:
    sizes = np.array([_count(tree["tree_param"], "num_nodes") for tree in trees])
    for place, (tree, size) in enumerate(zip(trees, sizes, strict=True)):
        about, width = tree["tree_param"], max(_count(tree["tree_param"], "size_leaf_vector"), 1)
        lengths: dict[str, float] = {name: len(_array(tree[name], None)) for name in _NODES}
        lengths["base_weights"] = len(_array(tree["base_weights"], float)) / width
        if tree["id"] != place or _count(about, "num_feature") != n_features or {*lengths.values()} != {size}:
            _fail(f"the parts of tree {place} are inconsistent")
        if width > 1:
            leaves = _array(tree["right_children"])[_array(tree["left_children"]) < 0]
            n_leaves = len(_array(tree["leaf_weights"], float)) // width
            if width != n_groups or sorted(leaves) != [*range(n_leaves)]:
                _fail(f"the leaves of tree {place} are inconsistent")
    left, right, parents, split_features = (
        np.concatenate([_array(tree[name]) for tree in trees])
        for name in ("left_children", "right_children", "parents", "split_indices")
    )
    wide = np.repeat([_count(tree["tree_param"], "size_leaf_vector") > 1 for tree in trees], sizes)
    right = np.where(wide & (left < 0), -1, right)  # the index of a leaf
    deleted = split_features & _DELETED == _DELETED  # by pruning; no node may refer to it
    start = np.repeat(np.cumsum(sizes) - sizes, sizes)
    wrong = tree_validation.tree_fault(np.where(deleted, -1, left), np.where(deleted, -1, right), sizes)
    if wrong:
        _fail(wrong)
    inner = (left >= 0) & ~deleted
    if (~inner & ~deleted & ((left != -1) | (right != -1))).any():
        _fail("a leaf has children")
    if (split_features[inner] < 0).any() or (split_features[inner] >= n_features).any():
        _fail("a tree refers to a feature that does not exist")
    expected = np.where(deleted, parents, -1)
    place = np.arange(len(left)) - start
    for children in (left, right):
        below = (children + start)[inner]
        expected[below] = place[inner]
        if deleted[below].any():
            _fail("a tree leads to a node that was deleted")
    roots = np.cumsum(sizes) - sizes
    if deleted[roots].any() or (np.where(parents == _ROOT, -1, parents) != expected).any():
        _fail("a node has the wrong parent")


def _splits(tree: Mapping[str, Any], n_categories: Any) -> None:
    """Check the sets of categories of one tree."""
    kind = _array(tree["split_type"])
    nodes, starts, sizes, values = (_array(tree[f"categories{name}"]) for name in ("_nodes", "_segments", "_sizes", ""))
    if ((kind != 0) & (kind != 1)).any() or not len(nodes) == len(starts) == len(sizes):
        _fail("the categories of a tree are inconsistent")
    if not np.array_equal(np.cumsum(sizes) - sizes, starts) or (sizes < 0).any() or sizes.sum() != len(values):
        _fail("the categories of a tree are inconsistent")
    if not np.array_equal(nodes, np.flatnonzero(kind == 1)):
        _fail("a node of a tree has no categories")
    limit = (1 << 24) if n_categories is None else int(n_categories.max(initial=0)) or (1 << 24)
    if len(values) and (values.min() < 0 or values.max() >= limit):
        _fail("a tree refers to a category that does not exist")


def _categories(cats: Mapping[str, Any], n_features: int) -> Any:
    """Check the names of categories and return the number of categories of each feature."""
    ends, order, names = _array(cats["feature_segments"]), _array(cats["sorted_idx"]), cats["enc"]
    if not len(ends) and not len(order) and not len(names):
        return np.zeros(0, np.int64)
    numbers = np.diff(ends)
    if len(ends) != n_features + 1 or len(names) != n_features or ends[0] != 0 or (numbers < 0).any():
        _fail("the categories of its features are inconsistent")
    if ends[-1] != len(order):
        _fail("the categories of its features are inconsistent")
    for feature, of_one in enumerate(names):
        n, values = int(numbers[feature]), _array(of_one["values"], None)
        if "offsets" in of_one:
            places = _array(of_one["offsets"])
            if n == 0 and not len(places) and not len(values):
                continue
            if len(places) != n + 1 or places[0] != 0 or (np.diff(places) < 0).any() or places[-1] != len(values):
                _fail("the names of categories are inconsistent")
        elif len(values) != n:
            _fail("the values of categories are inconsistent")
        if sorted(order[ends[feature] : ends[feature + 1]]) != [*range(n)]:
            _fail("the order of categories is invalid")
    return numbers


def _array(value: Any, kind: type | None = int) -> Any:
    """Return a list of numbers as an array; any dtype kind if `kind` is None."""
    array = value if isinstance(value, np.ndarray) else np.array(value, None if value else np.int64)
    if array.ndim != 1 or (kind is not None and array.dtype.kind not in ("iu" if kind is int else "f") and len(array)):
        _fail("numbers have the wrong type")
    return array.astype(np.int64) if kind is int else array


def _count(about: Mapping[str, Any], name: str) -> int:
    """Return an integer that XGBoost writes as text."""
    text = about[name]
    if not isinstance(text, str) or not re.fullmatch(r"\d{1,10}", text) or int(text) > 2**31 - 1:
        _fail(f"{name} is no number")
    return int(text)

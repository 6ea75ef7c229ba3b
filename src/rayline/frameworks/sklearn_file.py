"""What compiled code of scikit-learn follows without looking, looked at when an estimator was loaded: trees, sparse
matrices, support vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.ensemble._hist_gradient_boosting.common import PREDICTOR_RECORD_DTYPE
from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
from sklearn.svm._base import BaseLibSVM
from sklearn.tree._tree import Tree

from rayline.core import forest

CHECKED = (
    "sklearn.tree._tree.Tree",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
)
"""Types that skops leaves to the caller, and that may be loaded because they are looked at here."""


def check(model: Any) -> None:
    """Raise ValueError when a part of an estimator points outside of itself, or does not fit its estimator."""
    todo, seen = [(model, model)], set[int]()
    while todo:
        found, owner = todo.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        if isinstance(found, Tree):
            _tree(found, owner)
        elif isinstance(found, TreePredictor):
            _histogram_tree(found, owner)
        elif sparse.issparse(found):
            if hasattr(found, "check_format"):
                found.check_format(full_check=True)
        elif isinstance(found, np.ndarray):
            todo += [(value, owner) for value in found.ravel().tolist()] if found.dtype == object else []
        elif isinstance(found, dict):
            todo += [(value, owner) for value in found.values()]
        elif isinstance(found, (list, tuple, set)):
            todo += [(value, owner) for value in found]
        elif isinstance(found, BaseEstimator):
            if isinstance(found, BaseLibSVM):
                _support_vectors(found)
            todo += [(value, found) for value in vars(found).values()]


def _tree(tree: Any, owner: Any) -> None:
    left, right, n = tree.children_left, tree.children_right, tree.node_count
    wrong = forest.problem(left, right, [n])
    if wrong:
        raise ValueError(wrong)
    inner = left >= 0
    if (left[~inner] != -1).any() or (right[~inner] != -1).any():
        raise ValueError("a leaf of a tree has children")  # any other number is followed
    if (tree.feature[inner] < 0).any() or (tree.feature[inner] >= tree.n_features).any():
        raise ValueError("a tree asks for a feature that it does not have")
    if tree.n_features != getattr(owner, "n_features_in_", tree.n_features):
        raise ValueError("a tree has other features than its model")


def _histogram_tree(tree: Any, owner: Any) -> None:
    nodes, sets = tree.nodes, tree.raw_left_cat_bitsets
    if nodes.dtype != PREDICTOR_RECORD_DTYPE or nodes.ndim != 1:
        raise ValueError("the nodes of a tree are of another type")
    inner = nodes["is_leaf"] == 0
    left, right = (np.where(inner, nodes[name].astype(np.int64), -1) for name in ("left", "right"))
    wrong = forest.problem(left, right, [len(nodes)])
    if wrong:
        raise ValueError(wrong)
    features, by_set = nodes["feature_idx"][inner], inner & (nodes["is_categorical"] != 0)
    if (features < 0).any() or (features >= owner.n_features_in_).any():
        raise ValueError("a tree asks for a feature that its model does not have")
    if by_set.any():
        kinds = getattr(owner, "is_categorical_", None)
        if kinds is None or not np.asarray(kinds, bool)[nodes["feature_idx"][by_set]].all():
            raise ValueError("a tree asks for the categories of a number")
        if (
            sets.dtype != np.uint32
            or sets.ndim != 2
            or sets.shape[1] != 8
            or nodes["bitset_idx"][by_set].max() >= len(sets)
        ):
            raise ValueError("a tree asks for categories that it does not have")


def _support_vectors(model: Any) -> None:
    if not hasattr(model, "support_vectors_"):
        return
    n, counts = len(model.support_), np.asarray(model._n_support)
    several = model._impl in ("c_svc", "nu_svc")
    n_classes = len(counts) if several else 2
    n_pairs = n_classes * (n_classes - 1) // 2
    shapes = {
        "support_vectors_": (n, model.n_features_in_),
        "_dual_coef_": (n_classes - 1, n),
        "_intercept_": (n_pairs if several else 1,),
    }
    for name, shape in shapes.items():
        if np.shape(getattr(model, name)) != shape:
            raise ValueError(f"{name} has another shape than its model")
    if (counts < 0).any() or (several and (counts.sum() != n or len(model.classes_) != n_classes)):
        raise ValueError("there are other support vectors than their number says")
    for name in ("_probA", "_probB"):
        if len(getattr(model, name)) not in (0, n_pairs):
            raise ValueError(f"{name} has another shape than its model")

"""Verify an untrusted scikit-learn estimator: its types must be reviewed ones, and where compiled code uses numbers unchecked
(trees, sparse matrices, support vectors, neighbours) the numbers are checked too."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.metrics import get_scorer, get_scorer_names
from sklearn.neighbors import BallTree, KDTree

from rayline.compat.sklearn import (
    PRIVATE_TYPES,
    has_other_labels_than_rows,
    scorer_function,
    sklearn_types,
    support_vectors,
    validate_for_distance,
)
from rayline.frameworks.verify import tree_validation

TYPES = sklearn_types()

BinaryTree = (KDTree, BallTree)

METRICS = ("Euclidean", "SEuclidean", "Manhattan", "Chebyshev", "Minkowski", "Mahalanobis", "Hamming", "Canberra")
"""Distances that hold no function from the file (unlike PyFuncDistance)."""

REVIEWED = {
    "sklearn.tree._tree": ("Tree",),
    "sklearn.ensemble._hist_gradient_boosting.predictor": ("TreePredictor",),
    "sklearn.neighbors._kd_tree": ("KDTree",),
    "sklearn.neighbors._ball_tree": ("BallTree",),
    "sklearn.metrics._dist_metrics": tuple(f"{name}Distance64" for name in METRICS),
    "sklearn._loss.loss": ("HalfTweedieLoss", "HalfTweedieLossIdentity"),
    "sklearn.gaussian_process.kernels": (
        *("CompoundKernel", "ConstantKernel", "DotProduct", "ExpSineSquared", "Exponentiation", "Matern", "Product"),
        *("RBF", "RationalQuadratic", "Sum", "WhiteKernel"),
    ),
    "sklearn.neural_network._stochastic_optimizers": ("AdamOptimizer", "SGDOptimizer"),
    "sklearn.impute._iterative": ("IterativeImputer",),
    "sklearn.model_selection._search_successive_halving": ("HalvingGridSearchCV", "HalvingRandomSearchCV"),
    "sklearn.model_selection._split": (
        *("GroupKFold", "KFold", "LeaveOneOut", "RepeatedKFold", "RepeatedStratifiedKFold", "ShuffleSplit"),
        *("StratifiedGroupKFold", "StratifiedKFold", "StratifiedShuffleSplit", "TimeSeriesSplit"),
    ),
    "sklearn.utils._bunch": ("Bunch",),
    "sklearn.utils._metadata_requests": ("MetadataRequest", "MethodMetadataRequest"),
    "sklearn.feature_selection._univariate_selection": ("chi2", "f_classif", "f_regression", "r_regression"),
    "numpy": ("dtype",),
}
"""Types that skops does not trust by default and a file may hold: plain Python objects of numbers and of other such objects,
functions from arrays to numbers, and compiled objects that `check` verifies. None of them executes content of the file.
Distributions of SciPy are not included: they generate code from their state."""


@cache
def safe() -> frozenset[str]:
    """Return the names of the reviewed types and of the functions behind scikit-learn's scorers."""
    scorers = [get_scorer(name) for name in get_scorer_names()]
    functions = {f"{f.__module__}.{f.__name__}" for f in map(scorer_function, scorers) if hasattr(f, "__name__")}
    reviewed = {f"{module}.{name}" for module, names in REVIEWED.items() for name in names}
    return frozenset(reviewed | functions | {path.replace(":", ".") for path in PRIVATE_TYPES})


def check(model: Any) -> None:
    """Raise ValueError when a part of an estimator has an index out of range, or is inconsistent with its estimator."""
    todo, seen = [(model, model)], set[int]()
    while todo:
        obj, owner = todo.pop()
        if id(obj) in seen:
            continue
        seen.add(id(obj))
        if isinstance(obj, TYPES.tree):
            _tree(obj, owner)
        elif isinstance(obj, TYPES.histogram_tree):
            _histogram_tree(obj, owner)
        elif sparse.issparse(obj):
            if hasattr(obj, "check_format"):
                obj.check_format(full_check=True)
        elif isinstance(obj, BinaryTree):
            _neighbours(obj)
        elif isinstance(obj, np.ndarray):
            obj = np.asarray(obj)  # for a masked array, include the masked values
            todo += [(value, owner) for value in obj.ravel().tolist()] if obj.dtype == object else []
        elif isinstance(obj, dict):
            todo += [(value, owner) for value in obj.values()]
        elif isinstance(obj, (list, tuple, set)):
            todo += [(value, owner) for value in obj]
        elif isinstance(obj, BaseEstimator):
            if isinstance(obj, TYPES.support_vectors):
                _support_vectors(obj)
            if has_other_labels_than_rows(obj):
                raise ValueError("the number of labels does not match the neighbors")
            todo += [(value, obj) for value in vars(obj).values()]
        elif type(obj).__module__.startswith("sklearn.") and hasattr(obj, "__dict__"):
            todo += [(value, owner) for value in vars(obj).values()]


def _neighbours(tree: Any) -> None:
    data, places, nodes, bounds, leaf_size, n_levels, n_nodes, *_, metric, weight = tree.__getstate__()
    n, width = data.shape
    if places.shape != (n,) or (places < 0).any() or (places >= n).any():
        raise ValueError("a tree of neighbors refers to rows that it does not have")
    n_bounds = 2 if isinstance(tree, KDTree) else 1
    if (
        n_nodes != 2**n_levels - 1
        or nodes.shape != (n_nodes,)
        or bounds.shape != (n_bounds, n_nodes, width)
        or leaf_size < 1
    ):
        raise ValueError("the number of nodes of a tree of neighbors is inconsistent")
    start, end = nodes["idx_start"], nodes["idx_end"]
    if (start < 0).any() or (end < start).any() or (end > n).any():
        raise ValueError("a tree of neighbors refers to rows that it does not have")
    if (2 * np.flatnonzero(nodes["is_leaf"] == 0) + 2 >= n_nodes).any():
        raise ValueError("a tree of neighbors refers to nodes that it does not have")
    if weight is not None and np.shape(weight) != (n,):
        raise ValueError("the number of weights of a tree of neighbors does not match the rows")
    _, vector, matrix = metric.__getstate__()
    validate_for_distance(metric, data)
    kind = type(metric).__name__
    if (kind.startswith("SE") and len(vector) != width) or (kind.startswith("Maha") and matrix.shape != (width, width)):
        raise ValueError("the width of a distance does not match its rows")


def _tree(tree: Any, owner: Any) -> None:
    left, right, n = tree.children_left, tree.children_right, tree.node_count
    wrong = tree_validation.tree_fault(left, right, [n])
    if wrong:
        raise ValueError(wrong)
    inner = left >= 0
    if (left[~inner] != -1).any() or (right[~inner] != -1).any():
        raise ValueError("a leaf of a tree has children")  # every other number is used as an index
    if (tree.feature[inner] < 0).any() or (tree.feature[inner] >= tree.n_features).any():
        raise ValueError("a tree refers to a feature that it does not have")
    if tree.n_features != getattr(owner, "n_features_in_", tree.n_features):
        raise ValueError("the features of a tree do not match its model")


def _histogram_tree(tree: Any, owner: Any) -> None:
    nodes, sets = tree.nodes, tree.raw_left_cat_bitsets
    if nodes.dtype != TYPES.histogram_record or nodes.ndim != 1:
        raise ValueError("the nodes of a tree have the wrong type")
    inner = nodes["is_leaf"] == 0
    left, right = (np.where(inner, nodes[name].astype(np.int64), -1) for name in ("left", "right"))
    wrong = tree_validation.tree_fault(left, right, [len(nodes)])
    if wrong:
        raise ValueError(wrong)
    features, by_set = nodes["feature_idx"][inner], inner & (nodes["is_categorical"] != 0)
    if (features < 0).any() or (features >= owner.n_features_in_).any():
        raise ValueError("a tree refers to a feature that its model does not have")
    if by_set.any():
        kinds = getattr(owner, "is_categorical_", None)
        if kinds is None or not np.asarray(kinds, bool)[nodes["feature_idx"][by_set]].all():
            raise ValueError("a tree refers to the categories of a number")
        if (
            sets.dtype != np.uint32
            or sets.ndim != 2
            or sets.shape[1] != 8
            or nodes["bitset_idx"][by_set].max() >= len(sets)
        ):
            raise ValueError("a tree refers to categories that it does not have")


def _support_vectors(model: Any) -> None:
    if not hasattr(model, "support_vectors_"):
        return
    vectors = support_vectors(model)
    n, counts, several = len(model.support_), np.asarray(vectors.counts), vectors.is_classifier
    n_classes = len(counts) if several else 2
    n_pairs = n_classes * (n_classes - 1) // 2
    shapes = [
        ("support_vectors_", model.support_vectors_, (n, model.n_features_in_)),
        ("dual_coef_", vectors.dual_coef, (n_classes - 1, n)),
        ("intercept_", vectors.intercept, (n_pairs if several else 1,)),
    ]
    for name, array, shape in shapes:
        if np.shape(array) != shape:
            raise ValueError(f"the shape of {name} does not match the model")
    if (counts < 0).any() or (several and (counts.sum() != n or len(model.classes_) != n_classes)):
        raise ValueError("the number of support vectors is inconsistent")
    if any(len(array) not in (0, n_pairs) for array in vectors.probabilities):
        raise ValueError("the shape of the probabilities does not match the model")

"""Verify the text of an untrusted LightGBM model before LightGBM reads it: its parser trusts numbers of leaves, children and
features, and crashes the process when they are wrong.

The grammar is that of `GBDT::SaveModelToString` and `Tree::ToString`, version 4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from rayline.core import strict_json
from rayline.core.errors import ArtifactError, first_line
from rayline.frameworks.verify import tree_validation

_NUMBER = r"-?(?:\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|inf|nan)"
_INTEGERS = re.compile(r"(?:-?\d+(?: -?\d+)*)?", re.ASCII)
_NUMBERS = re.compile(f"(?:{_NUMBER}(?: {_NUMBER})*)?", re.ASCII)
_WORDS = re.compile(r"[\w.:+ -]*", re.ASCII)
_HEAD = {"version", "num_class", "num_tree_per_iteration", "label_index", "max_feature_idx", "objective", "feature_names",
         "feature_infos", "tree_sizes", "monotone_constraints"}  # fmt: skip
_OF_NODES = ("split_gain", "threshold", "internal_value", "internal_weight")
_OF_LEAVES = ("leaf_value", "leaf_weight")
_TREE = {"num_leaves", "num_cat", "split_feature", "decision_type", "left_child", "right_child", "leaf_count",
         "internal_count", "cat_boundaries", "cat_threshold", "is_linear", "leaf_const", "num_features", "leaf_features",
         "leaf_coeff", "shrinkage", *_OF_NODES, *_OF_LEAVES}  # fmt: skip
_TAIL = re.compile(
    r"end of trees\n\nfeature_importances:\n(?:[^\n=]+=[-+.\w]+\n)*\n"
    r"(?:parameters:\n(?:\[\w+: [\w.,:+ \[\]-]*\]\n)*\nend of parameters\n\n?)?(?:pandas_categorical:([^\n]*)\n)?",
    re.ASCII,
)


def check(data: bytes) -> str:
    """Return the text of a model that is safe for LightGBM to load. Raises ArtifactError when it is truncated or inconsistent.
    Values (thresholds, leaves) are not restricted."""
    try:
        text = data.decode("utf-8")
        _model(data)
    except (KeyError, ValueError, IndexError, OverflowError) as error:
        if isinstance(error, ArtifactError):
            raise
        _fail(f"{type(error).__name__}: {first_line(error)}")
    return text


def _fail(reason: str) -> NoReturn:
    raise ArtifactError(f"The saved LightGBM model is damaged: {reason}.", "", "save it again.")


def _model(data: bytes) -> None:
    start = data.find(b"\n\n") + 2
    first, *lines = data[: start - 2].decode("utf-8").split("\n")
    if first != "tree" or start < 2:
        _fail("it is no model text")
    head = _pairs([line for line in lines if line != "average_output"], _HEAD)
    n_features, n_outputs = _count(head["max_feature_idx"]) + 1, _count(head["num_class"])
    for name in ("feature_names", "feature_infos"):
        if len(head[name].split(" ")) != n_features:
            _fail(f"the number of {name} does not match the features")
    sizes = [_count(size) for size in head["tree_sizes"].split(" ") if size]
    objective = head.get("objective", "")
    if not _WORDS.fullmatch(objective):
        _fail("its objective is none")
    declared = re.findall(r"\bnum_class:(\S*)", objective) or [str(n_outputs) if objective.startswith("multi") else "1"]
    if objective and declared != [str(n_outputs)]:
        _fail("the number of classes of its objective does not match its trees")
    if not 1 <= n_outputs <= max(1, len(sizes)) or _count(head["num_tree_per_iteration"]) != n_outputs:
        _fail("it has more outputs than trees")
    if len(sizes) % n_outputs:
        _fail("trees are missing")
    trees = []
    for number, size in enumerate(sizes):
        block = data[start : start + size].decode("utf-8")
        if not block.startswith(f"Tree={number}\n") or not block.endswith("\n\n\n"):
            _fail("trees are missing or have another length")
        trees.append(_tree(block.rstrip("\n").split("\n")[1:], n_features))
        start += size
    tail = _TAIL.fullmatch(data[start:].decode("utf-8"))
    if tail is None:
        _fail("its end is none")
    if tail[1] not in (None, "null"):
        strict_json.loads(tail[1].encode(), "pandas_categorical")
    if trees:
        left, right, numbers = zip(*trees, strict=True)
        wrong = tree_validation.tree_fault(np.concatenate(left), np.concatenate(right), np.array(numbers))
        if wrong:
            _fail(wrong)
        if any((np.bincount(np.concatenate([a, b])[np.concatenate([a, b]) >= 0], minlength=n)[1:] != 1).any()
               for a, b, n in trees):  # fmt: skip
            _fail("a node of a tree cannot be reached")


def _tree(lines: list[str], n_features: int) -> tuple[Any, Any, int]:
    """Check one tree and return the children of its nodes and leaves, numbered inner nodes first."""
    about = _pairs(lines, _TREE)
    n_leaves, n_sets = _count(about["num_leaves"]), _count(about["num_cat"])
    n = n_leaves - 1
    if n_leaves < 1 or n_leaves > len("".join(lines)):
        _fail("a tree has no leaves")
    if n:
        for name in (*_OF_NODES, *_OF_LEAVES):
            _numbers(about[name], n if name in _OF_NODES else n_leaves)
        _integers(about["internal_count"], n)
        _integers(about["leaf_count"], n_leaves)
        features, kinds = _integers(about["split_feature"], n), _integers(about["decision_type"], n)
        if features.min() < 0 or features.max() >= n_features or kinds.min() < 0 or kinds.max() > 15:
            _fail("a tree refers to a feature that does not exist")
        left, right = _integers(about["left_child"], n), _integers(about["right_child"], n)
    else:
        _numbers(about["leaf_value"], 1)
        kinds = left = right = np.zeros(0, np.int64)
    if n_sets:
        ends = _integers(about["cat_boundaries"], n_sets + 1)
        words = _integers(about["cat_threshold"], int(ends[-1]))
        category_sets = np.array(about["threshold"].split(" "), np.float64)[kinds & 1 == 1]
        if ends[0] != 0 or (np.diff(ends) < 1).any() or (words < 0).any() or (words > 0xFFFF_FFFF).any():
            _fail("the categories of a tree are inconsistent")
        if not ((category_sets >= 0) & (category_sets < n_sets) & (category_sets == np.floor(category_sets))).all():
            _fail("a tree refers to categories that do not exist")
    elif (kinds & 1).any():
        _fail("a tree refers to categories that do not exist")
    if _count(about.get("is_linear", "0")):
        _linear(about, n_leaves, n_features)
    _numbers(about["shrinkage"], 1)
    if min(left.min(initial=0), right.min(initial=0)) < -n_leaves or max(
        left.max(initial=0), right.max(initial=0)
    ) >= max(n, 1):
        _fail("a tree contains an index outside of the tree")
    none = np.full(n_leaves, -1)  # a leaf is ~its number: inner nodes first, then the leaves
    left, right = (np.concatenate([np.where(c < 0, n + ~c, c), none]) for c in (left, right))
    return left, right, n + n_leaves


def _linear(about: Mapping[str, str], n_leaves: int, n_features: int) -> None:
    _numbers(about["leaf_const"], n_leaves)
    sizes = _integers(about["num_features"], n_leaves)
    features = _integers(" ".join(about["leaf_features"].split()), int(sizes.sum()))
    _numbers(" ".join(about["leaf_coeff"].split()), int(sizes.sum()))
    if (sizes < 0).any() or (features < 0).any() or (features >= n_features).any():
        _fail("a leaf refers to a feature that does not exist")


def _pairs(lines: list[str], known: set[str]) -> dict[str, str]:
    pairs = dict(line.split("=", 1) for line in lines)
    if len(pairs) != len(lines) or not {*pairs} <= known:
        _fail("a line occurs twice, or was not written by LightGBM")
    return pairs


def _integers(text: str, n: int) -> Any:
    if not _INTEGERS.fullmatch(text):
        _fail("numbers are none")
    numbers = np.array(text.split(" ") if text else [], np.int64)
    if len(numbers) != n:
        _fail("the number of values of a tree is inconsistent")
    return numbers


def _numbers(text: str, n: int) -> None:
    if not _NUMBERS.fullmatch(text) or (text.count(" ") + 1 if text else 0) != n:
        _fail("the number of values of a tree is inconsistent")


def _count(text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        _fail("a number is none")
    return int(text)

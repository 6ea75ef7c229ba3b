"""Verify the decision trees of an untrusted model before compiled code traverses them unchecked."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

MAX_DEPTH = 4096
"""Maximum depth of a tree: libraries traverse trees recursively, and a deeper one overflows their stack."""

Integers = npt.NDArray[np.int64]


def tree_fault(left: Any, right: Any, sizes: Any) -> str | None:
    """Return what is wrong with the trees of a forest; None when every path through every tree ends.

    Parameters
    ----------
    left, right
        The children of each node, counted from the start of its own tree, of all trees one after the other; negative
        at a leaf. A tree starts at its node 0.
    sizes
        The number of nodes of each tree.

    Returns
    -------
    str or None
        A clause for an error: a child outside of its tree, a node with half its children, a node that is reached
        twice, or a tree deeper than `MAX_DEPTH`. Unreachable nodes are harmless.
    """
    left, right, sizes = (np.asarray(values, np.int64) for values in (left, right, sizes))
    if len(left) != len(right) or len(left) != sizes.sum() or (sizes < 1).any():
        return "the sizes of its trees are inconsistent"
    own_size, start = np.repeat(sizes, sizes), np.repeat(np.cumsum(sizes) - sizes, sizes)
    inner = left >= 0
    if (inner != (right >= 0)).any():
        return "a node has one child only"
    if ((left >= own_size) | (right >= own_size)).any():
        return "a tree contains an index outside of the tree"
    children = np.concatenate([(left + start)[inner], (right + start)[inner]])
    reached = np.bincount(children, minlength=len(left))
    if len(children) and (reached.max() > 1 or reached[(np.cumsum(sizes) - sizes)].any()):
        return "a node of a tree has two parents"
    level, depth = np.cumsum(sizes) - sizes, 0
    while len(level := level[inner[level]]):
        level, depth = np.concatenate([(left + start)[level], (right + start)[level]]), depth + 1
        if depth > MAX_DEPTH:
            return f"a tree is deeper than {MAX_DEPTH}"
    return None

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.tree import DecisionTreeRegressor

from rayline.frameworks.verify.tree_validation import MAX_DEPTH, tree_fault


def test_trees_are_trees() -> None:
    x = np.random.default_rng(0).normal(size=(200, 3))
    trees = [DecisionTreeRegressor(max_depth=d, random_state=0).fit(x, x[:, 0]).tree_ for d in (1, 4, None)]
    left, right = (np.concatenate([getattr(t, name) for t in trees]) for name in ("children_left", "children_right"))
    assert tree_fault(left, right, [t.node_count for t in trees]) is None
    assert tree_fault([], [], []) is None


@pytest.mark.parametrize(
    ("left", "right", "sizes", "reason"),
    [
        ([1, -1, -1], [3, -1, -1], [3], "outside"),
        ([1, -1, -1], [1, -1, -1], [3], "has two parents"),
        ([1, 0, -1], [2, 2, -1], [3], "has two parents"),
        ([1, -1, -1], [-1, -1, -1], [3], "one child"),
        ([1, -1, -1], [2, -1, -1], [2], "the sizes of its trees"),
        ([1, -1, -1], [2, -1, -1], [1, 2], "outside"),
    ],
)
def test_what_is_no_tree_is_named(left: list[int], right: list[int], sizes: list[int], reason: str) -> None:
    found = tree_fault(left, right, sizes)
    assert found is not None
    assert reason in found


def test_a_tree_that_would_overflow_a_stack_is_too_deep() -> None:
    n = MAX_DEPTH + 2
    left, right = [-1] * (2 * n + 1), [-1] * (2 * n + 1)
    for i in range(n):
        left[2 * i], right[2 * i] = 2 * i + 1, 2 * i + 2
    found = tree_fault(left, right, [2 * n + 1])
    assert found is not None
    assert "deeper" in found


@given(st.lists(st.tuples(st.integers(-2, 8), st.integers(-2, 8)), min_size=1, max_size=8))
def test_every_way_through_what_is_accepted_ends(nodes: list[tuple[int, int]]) -> None:
    left, right = [a for a, _ in nodes], [b for _, b in nodes]
    if tree_fault(left, right, [len(nodes)]) is None:
        todo, seen = [0], 0
        while todo:
            node, seen = todo.pop(), seen + 1
            assert seen <= len(nodes)
            if left[node] >= 0:
                todo += [left[node], right[node]]

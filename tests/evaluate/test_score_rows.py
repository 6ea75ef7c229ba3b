"""Rows on their way to tables of scores: keys of single and of double precision make the same tables.

Covers `evaluate.score_table` too.
"""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rayline.core.statistics.score_weights import level_of, order_keys
from rayline.core.target import Target, Task
from rayline.evaluate import score_table
from rayline.evaluate.batch import ScoredBatch
from rayline.evaluate.score_rows import ScoreRows, bin_keys
from rayline.evaluate.score_table import ScoreTable

BINARY = Target(("y",), Task.BINARY, (pl.Int64(),), ((0, 1),))
NUMBER = Target(("y",), Task.REGRESSION, (pl.Float64(),))
singles = st.floats(0.0, 1.0, width=32, allow_subnormal=False)


def batch(scores: list[float], *, is_weighted: bool = False) -> ScoredBatch:
    """Rows with these probabilities; equal weights, which change nothing, take the way of double precision."""
    n = len(scores)
    random = np.random.default_rng(n)
    truth, bucket = random.integers(0, 2, n), random.integers(0, 8, n)
    return ScoredBatch(BINARY, 0, np.array(scores, float), truth, np.ones(n) if is_weighted else None, bucket, 8)


def same(one: ScoreTable, other: ScoreTable) -> None:
    for name in ("keys", "weights", "level", "bins", "bin_level"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert (one.cells is None) == (other.cells is None)
    if one.cells is not None and other.cells is not None:
        assert np.array_equal(one.cells.dense(), other.cells.dense())


@given(st.lists(singles, min_size=1, max_size=80), st.sampled_from([4, 64, 1000]), st.sampled_from([4, 128]))
@settings(max_examples=150, deadline=None)
def test_single_precision_makes_the_same_table(scores: list[float], max_scores: int, bins: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score_table, "MAX_BINS", bins)
        one = ScoreTable.of_rows(ScoreRows.of(batch(scores), ("class", 1)), max_scores)
        other = ScoreTable.of_rows(ScoreRows.of(batch(scores, is_weighted=True), ("class", 1)), max_scores)
        same(one, other)


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False), min_size=1, max_size=60))
@settings(max_examples=80, deadline=None)
def test_errors_of_any_size(values: list[float]) -> None:
    n = len(values)
    rows = [
        ScoredBatch(NUMBER, 0, np.array(values, float), np.zeros(n), weight, np.arange(n) % 4, 4)
        for weight in (None, np.ones(n))
    ]
    same(*(ScoreTable.of_rows(ScoreRows.of(own, ("error",)), 16) for own in rows))


@given(
    st.lists(
        st.lists(st.one_of(singles, st.floats(0.0, 1.0, allow_subnormal=False)), max_size=30), min_size=1, max_size=5
    )
)
@settings(max_examples=100, deadline=None)
def test_rows_in_parts_of_either_precision(parts: list[list[float]]) -> None:
    """Rows that wait together, tables that are merged, and all rows at once."""
    whole = [value for part in parts for value in part]
    assume(whole)
    every = batch(whole)
    ends = np.cumsum([len(part) for part in parts])[:-1]
    cut = [every.take(rows) for rows in np.split(np.arange(len(whole)), ends)]
    expected = ScoreTable.of_rows(ScoreRows.of(every, ("class", 1)), 16)
    rows = ScoreRows.joined([ScoreRows.of(part, ("class", 1)) for part in cut])
    same(ScoreTable.of_rows(rows, 16), expected)
    tables = [ScoreTable.of_rows(ScoreRows.of(part, ("class", 1)), 16) for part in cut]
    same(ScoreTable.merge_all(tables), expected)


@given(st.lists(st.integers(0, 2**64 - 1), max_size=50), st.integers(1, 20), st.sampled_from([np.uint32, np.uint64]))
@settings(max_examples=150, deadline=None)
def test_the_level_is_the_lowest_that_suffices(values: list[int], max_scores: int, kind: Any) -> None:
    keys = np.sort(np.array([value >> (64 - 8 * kind().itemsize) for value in values], kind))
    found = level_of(keys, max_scores)
    distinct = [len({int(key) >> level for key in keys}) for level in (found - 1, found) if level >= 0]
    assert distinct[-1] <= max_scores
    assert found == 0 or distinct[0] > max_scores


@given(st.lists(st.floats(0.0, 1.0, allow_subnormal=False), min_size=2, max_size=50, unique=True))
@settings(max_examples=80, deadline=None)
def test_bins_keep_the_order(scores: list[float]) -> None:
    keys = bin_keys(order_keys(np.sort(np.array(scores))), odds=True)
    assert (keys[1:] >= keys[:-1]).all()


def test_tables_travel_in_small_types_and_arrive_whole() -> None:
    random = np.random.default_rng(0)
    for scores in (
        random.random(5_000),
        random.random(5_000).astype(np.float32).astype(float),
        np.round(random.random(5_000), 1),
    ):
        table = ScoreTable.of(batch(scores.tolist()), of=("class", 1))
        packed = pickle.dumps(table)
        same(pickle.loads(packed), table)
        assert len(packed) < 16 * len(scores)
    weighted = ScoreTable.of(
        ScoredBatch(
            BINARY, 0, random.random(100), random.integers(0, 2, 100), random.random(100), np.zeros(100, int), 1
        ),
        of=("class", 1),
    )
    same(pickle.loads(pickle.dumps(weighted)), weighted)

"""Cuts by rank: exact, from any batches in any order, in bounded memory, with at most one more look."""

from __future__ import annotations

import random
from itertools import accumulate, pairwise

import hypothesis.strategies as st
import numpy as np
import polars as pl
import pytest
from hypothesis import given

from rayline.data.split import order_statistics
from rayline.data.split.fold_assignment import TimeKey
from rayline.data.split.order_statistics import KEY, STRATUM, KeyHistogram, Keys, OrderStatistics

OPTIONS = {"key": TimeKey("x"), "stratum": None, "shares": (0.25, 0.5)}


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_statistics, "MAX_DISTINCT", 16)  # so that small tables need buckets and windows


def state(keys: Keys, strata: int = 1, **options: object) -> OrderStatistics:
    table = pl.DataFrame({KEY: keys, STRATUM: (keys % np.uint64(strata)).astype(np.uint64)})
    return OrderStatistics.of(table, **{**OPTIONS, **({"stratum": object()} if strata > 1 else {}), **options})


def uniform(n: int, seed: int = 0) -> Keys:
    return np.random.default_rng(seed).integers(0, 1 << 63, n, dtype=np.uint64)


def batches(keys: Keys, n: int, seed: int) -> list[Keys]:
    ends = sorted(random.Random(seed).sample(range(len(keys) + 1), n - 1))
    found = [keys[a:b] for a, b in pairwise([0, *ends, len(keys)])]
    random.Random(seed).shuffle(found)
    return found


def merged(parts: list[OrderStatistics], **options: object) -> KeyHistogram:
    return OrderStatistics.merge_all(parts, **{**OPTIONS, **options}).ladders[0]


@given(st.integers(1, 400), st.integers(1, 6), st.integers(0, 9))
def test_cuts_are_exact_whatever_the_batches(n_rows: int, n_batches: int, seed: int) -> None:
    keys = uniform(n_rows, seed)
    ladder = merged([state(part) for part in batches(keys, min(n_batches, n_rows + 1), seed) if len(part)])
    assert ladder.n_rows == n_rows
    for rank in (round(n_rows * 0.25), round(n_rows * 0.5)):
        cut = ladder.nearest(rank)
        if cut is None:  # a window may miss its rank where a batch has few rows: then the buckets say where to look
            low, high = ladder.bucket(rank)
            again = merged([state(keys, ranges=((0, ((low, high),)),))], ranges=((0, ((low, high),)),))
            cut = again.nearest(rank)
        assert cut is not None
        assert cut.below == rank == np.count_nonzero(keys < np.uint64(cut.key))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(0, 60))
def test_equal_keys_are_not_divided(values: list[int], rank: int) -> None:
    rank = min(rank, len(values))
    cut = state(np.array(values, dtype=np.uint64)).ladders[0].nearest(rank)
    ends = [0, *accumulate(values.count(v) for v in sorted(set(values)))]
    assert cut is not None
    assert cut.below == min(ends, key=lambda end: (abs(end - rank), end))
    assert cut.below == sum(v < cut.key for v in values)


def test_memory_is_bounded() -> None:
    ladder = merged([state(uniform(5_000, seed)) for seed in range(8)])
    assert ladder.n_rows == 40_000
    assert ladder.level
    assert len(ladder.coarse) <= 16
    assert all(0 < len(window.key_counts) < 2_500 for window in ladder.windows)
    cut = ladder.nearest(10_000)
    assert cut is not None
    assert cut.below == 10_000


@given(st.permutations(range(5)))
def test_merging_is_associative_and_commutative_in_what_it_says(order: list[int]) -> None:
    parts = [state(uniform(300, seed), strata=2) for seed in range(5)]
    expected = OrderStatistics.merge_all(parts, **OPTIONS)
    turned = OrderStatistics.empty(**OPTIONS)
    for i in order:
        turned = parts[i].merge(turned)
    for stratum, ladder in expected.ladders.items():
        n = ladder.n_rows
        assert ladder.nearest(n // 4) == turned.ladders[stratum].nearest(n // 4)
        assert ladder.coarse.keys.tolist() == turned.ladders[stratum].coarse.keys.tolist()
        assert ladder.level == turned.ladders[stratum].level


def test_sorted_batches_need_a_second_look_which_is_exact() -> None:
    keys = np.sort(uniform(4_000))
    parts = [state(part) for part in np.array_split(keys, 4)]
    ladder = merged(parts)
    low, high = ladder.bucket(2_000)
    ranges = ((0, ((low, high),)),)
    cut = merged([state(part, ranges=ranges) for part in np.array_split(keys, 4)], ranges=ranges).nearest(2_000)
    assert cut is not None
    assert cut.below == 2_000 == np.count_nonzero(keys < np.uint64(cut.key))


def test_too_many_strata_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_statistics, "MAX_STRATA", 3)
    assert state(uniform(100), strata=4).overflow
    three = [state(np.array([i, i + 3], dtype=np.uint64), strata=7) for i in range(3)]
    assert OrderStatistics.merge_all(three, **OPTIONS).overflow


def test_no_rows() -> None:
    empty = state(uniform(0))
    assert empty.ladders == {}
    assert OrderStatistics.merge_all([empty, state(uniform(7))], **OPTIONS).ladders[0].n_rows == 7
    assert OrderStatistics.merge_all([], **OPTIONS).ladders == {}

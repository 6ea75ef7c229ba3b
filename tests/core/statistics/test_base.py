"""The laws of statistics (base, moments, row_counts): identity, associativity, commutativity, any split of the rows; and what push-through gives.

Covers `core.statistics.counts`, `core.statistics.moments`, `core.statistics.quantiles` and `core.statistics.row_counts`
too.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayline.core.operations.base import Affine, Fill
from rayline.core.scan_results import statistics_of
from rayline.core.statistics import counts, quantiles
from rayline.core.statistics.base import Statistic, StatisticRequest
from rayline.core.statistics.counts import ValueCounts
from rayline.core.statistics.moments import MinMax, Moments
from rayline.core.statistics.quantiles import Quantiles
from rayline.core.statistics.row_counts import CountBelow, MissingCount, RowCount, WordCount

numbers = st.one_of(st.none(), st.just(math.nan), st.floats(-1e6, 1e6), st.integers(-5, 5).map(float))
texts = st.one_of(st.none(), st.sampled_from(["a", "b", "a b", "one two three four", "é", ""]))
tables = st.lists(st.tuples(numbers, texts), max_size=40).map(
    lambda rows: pl.DataFrame(
        {"x": [r[0] for r in rows], "s": [r[1] for r in rows]}, schema={"x": pl.Float64, "s": pl.String}
    )
)

REQUESTS = [
    StatisticRequest(Moments, ("x",)),
    StatisticRequest(MinMax, ("x",)),
    StatisticRequest(Quantiles, ("x",)),
    StatisticRequest(RowCount, ()),
    StatisticRequest(ValueCounts, ("x",)),
    StatisticRequest(ValueCounts, ("s",)),
    StatisticRequest(WordCount, ("s",)),
]


def ask(table: pl.DataFrame, request: StatisticRequest) -> Any:
    return statistics_of(table.lazy(), [request])[request]


def same(a: Statistic, b: Statistic, scale: float = 1e6) -> bool:
    """Equal; floats up to rounding relative to the size of the values that they summarise."""
    if isinstance(a, Moments) and isinstance(b, Moments):
        return (
            (a.count, a.n_null) == (b.count, b.n_null)
            and math.isclose(a.mean, b.mean, rel_tol=1e-12, abs_tol=1e-12 * scale)
            and (math.isclose(a.m2, b.m2, rel_tol=1e-9, abs_tol=1e-12 * scale * scale))
        )
    return a == b


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda r: f"{r.statistic.__name__}-{'-'.join(r.columns)}")
@given(table=tables, cuts=st.lists(st.integers(0, 40), max_size=5), order=st.randoms(use_true_random=False))
def test_merge_is_a_commutative_monoid(
    request_: StatisticRequest, table: pl.DataFrame, cuts: list[int], order: Any
) -> None:
    kind = request_.statistic
    edges = [0, *sorted(min(c, table.height) for c in cuts), table.height]
    parts = [ask(table.slice(a, b - a), request_) for a, b in itertools.pairwise(edges)]
    whole = ask(table, request_)
    assert same(whole.merge(kind.empty()), whole)
    assert same(kind.empty().merge(whole), whole)
    assert same(kind.merge_all(parts), whole)
    order.shuffle(parts)
    assert same(kind.merge_all(parts), whole)
    while len(parts) > 1:  # any tree
        i = order.randrange(len(parts) - 1)
        parts[i : i + 2] = [parts[i].merge(parts[i + 1])]
    assert same(parts[0], whole)


@pytest.mark.parametrize("kind", [Moments, MinMax, Quantiles, ValueCounts], ids=lambda k: k.__name__)
@given(table=tables, value=st.integers(-5, 5).map(float))
def test_filled_is_the_statistic_of_the_filled_column(kind: type[Statistic], table: pl.DataFrame, value: float) -> None:
    request, fill = StatisticRequest(kind, ("x",)), Fill("x", value, pl.Float64())
    assert same(fill.push(ask(table, request)), ask(fill.apply(table.lazy()).collect(), request))


@pytest.mark.parametrize("kind", [Moments, MinMax, Quantiles], ids=lambda k: k.__name__)
@given(table=tables, shift=st.floats(-10, 10), scale=st.floats(0.1, 10), offset=st.floats(-10, 10))
def test_affine_is_the_statistic_of_the_scaled_column(
    kind: type[Statistic], table: pl.DataFrame, shift: float, scale: float, offset: float
) -> None:
    request, affine = StatisticRequest(kind, ("x",)), Affine("x", shift, scale, offset)
    assert same(affine.push(ask(table, request)), ask(affine.apply(table.lazy()).collect(), request), scale=1e7)


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=60), st.floats(0, 1))
def test_quantiles_are_exact_while_they_fit(values: list[float], q: float) -> None:
    state = ask(pl.DataFrame({"x": values}), StatisticRequest(Quantiles, ("x",)))
    assert state.quantile(q) == pytest.approx(np.quantile(values, q), rel=1e-12, abs=1e-9)


def test_quantiles_beyond_the_buckets_keep_the_stated_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantiles, "MAX_BUCKETS", 1 << 9)
    values = np.random.default_rng(0).lognormal(3.0, 1.0, 20_000)
    state = ask(pl.DataFrame({"x": values}), StatisticRequest(Quantiles, ("x",)))
    assert 0 < state.level < 52
    for q in (0.01, 0.25, 0.5, 0.75, 0.99):
        assert state.quantile(q) == pytest.approx(
            np.quantile(values, q, method="nearest"), rel=2.0 ** (state.level - 52)
        )


def test_moments_do_not_cancel() -> None:
    values = np.random.default_rng(0).normal(1e9, 1.0, 10_000)
    parts = [ask(pl.DataFrame({"x": part}), StatisticRequest(Moments, ("x",))) for part in np.array_split(values, 37)]
    merged = Moments.merge_all(parts)
    assert merged.variance == pytest.approx(values.var(), rel=1e-6)
    assert merged.mean == pytest.approx(values.mean(), rel=1e-12)


def test_too_many_values_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "MAX_CATEGORIES", 10)
    state = ask(pl.DataFrame({"x": range(11)}), StatisticRequest(ValueCounts, ("x",)))
    assert state.sketch is not None
    with pytest.raises(Exception, match="too many distinct values"):
        _ = state.table


@pytest.mark.parametrize("name", ["value", "n", "key", "count", "*", "^x.*$", "", "a b", "é", "\x00"])
def test_any_column_name_will_do(name: str) -> None:
    table = pl.DataFrame({name: [1.0, 2.0, None], "xx": [9.0, 9.0, 9.0]})
    for kind in (Moments, MinMax, Quantiles, ValueCounts):
        assert ask(table, StatisticRequest(kind, (name,))).count == 2


def test_what_a_statistic_needs_not_define() -> None:
    @dataclass(frozen=True)
    class Longest(Statistic):
        length: int = 0

        def merge(self, other: Longest) -> Longest:
            return Longest(max(self.length, other.length))

    assert Longest.empty() == Longest(0)
    assert Longest.merge_all([Longest.of(3), Longest.of(5)]) == Longest(5)


def test_a_statistic_that_cannot_be_merged_says_so() -> None:
    class Lonely(Statistic):
        pass

    with pytest.raises(NotImplementedError, match="Lonely defines neither merge nor merge_all"):
        Lonely().merge(Lonely())


def test_counts_are_added_field_by_field() -> None:
    assert MissingCount(1, 2).merge(MissingCount(10, 20)) == MissingCount(11, 22)
    assert CountBelow(1, 2, 0.5).merge(CountBelow(3, 4, 0.5)) == CountBelow(4, 6, 0.5)

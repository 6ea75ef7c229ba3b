"""One pass over a table of any size: the same answers, to the bit, however the table comes, and in bounded memory.

Covers `core.scan_results` and `core.statistics.cardinality_guard` too.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayline.core import scan
from rayline.core.errors import DataError
from rayline.core.operations.base import Affine
from rayline.core.scan import Scan
from rayline.core.scan_results import merge_folds, merge_results, statistics_of, statistics_of_rows
from rayline.core.statistics import counts
from rayline.core.statistics.base import StatisticRequest
from rayline.core.statistics.cardinality_guard import SHARE, CardinalityGate
from rayline.core.statistics.counts import ValueCounts
from rayline.core.statistics.moments import MinMax, Moments
from rayline.core.statistics.multi_column import GroupMoments, PairCounts
from rayline.core.statistics.quantiles import Quantiles
from rayline.core.statistics.row_counts import MissingCount, RowCount, WordCount
from rayline.core.statistics.sketches import FrequentValues

N = 2_000
RNG = np.random.default_rng(0)
TABLE = pl.DataFrame(
    {
        "x": np.where(RNG.random(N) < 0.1, np.nan, RNG.normal(3.0, 2.0, N)),
        "n": RNG.integers(0, 9, N),
        "city": RNG.choice(["Oslo", "Rome", "New York City"], N),
        "tags": [["a", "b", "c"][: i % 4] for i in range(N)],
        "cell": RNG.integers(0, 4, N),
    }
).with_columns(city=pl.when(pl.col("n") == 0).then(None).otherwise("city"))
EXACT = [
    StatisticRequest(RowCount, ()),
    StatisticRequest(MissingCount, ("city",)),
    StatisticRequest(WordCount, ("city",)),
    StatisticRequest(ValueCounts, ("city",)),
    StatisticRequest(ValueCounts, ("tags",), (("elements", True),)),
    StatisticRequest(ValueCounts, ("n",)),
    StatisticRequest(MinMax, ("n",)),
    StatisticRequest(Quantiles, ("x",)),
    StatisticRequest(PairCounts, ("city", "n")),
]
REQUESTS = [*EXACT, StatisticRequest(Moments, ("x",)), StatisticRequest(GroupMoments, ("x", "city"))]
BEHIND = StatisticRequest(Moments, ("x",), (), "scaled")
PREFIXES = {"scaled": [Affine("x", 3.0, 2.0)]}


class ByColumn:
    is_local = True

    def __call__(self, names: Sequence[str]) -> pl.Expr:
        return pl.col("cell")


by_cell = ByColumn()


def plain(results: Any) -> str:
    """What can be compared to the last bit."""
    shown = []
    for request, state in results.items():
        fields = {f: getattr(state, f) for f in state.__dataclass_fields__ if f != "by_cell"}
        for name, value in fields.items():
            if isinstance(value, pl.DataFrame):
                fields[name] = sorted(map(str, value.select(sorted(value.columns)).rows()))
        shown.append(f"{request}: {fields}")
    return "\n".join(sorted(shown))


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "CHUNK_ROWS", 300)
    monkeypatch.setattr(scan, "TABLE_ROWS", 300)


@pytest.mark.parametrize("cells", [None, by_cell])
@pytest.mark.parametrize("few", [0, 16])
def test_a_file_a_query_and_a_table_have_the_same_answers(
    cells: Any, few: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "FEW_CELLS", few)
    TABLE.write_parquet(tmp_path / "t.parquet", row_group_size=170)
    file = pl.scan_parquet(tmp_path / "t.parquet")
    asked = Scan([*REQUESTS, BEHIND], PREFIXES, cells=cells)
    found = [
        asked.of(TABLE.lazy(), TABLE.height),
        asked.of(TABLE.lazy()),
        asked.of(file),
        asked.of(file, is_reread=True),
        asked.of(TABLE.lazy().filter(pl.lit(True))),  # a value
    ]
    for other in found[1:]:
        assert list(other) == list(found[0])
        for cell in other:
            assert plain(other[cell]) == plain(found[0][cell])


def test_cells_are_as_their_rows_alone() -> None:
    found = Scan(REQUESTS, cells=by_cell).of(TABLE.lazy())
    assert list(found) == [0, 1, 2, 3]
    for cell, results in found.items():
        alone = statistics_of(TABLE.lazy().filter(pl.col("cell") == cell), REQUESTS)
        for request in EXACT:
            assert plain({request: results[request]}) == plain({request: alone[request]})
        mine, other = results[REQUESTS[-2]], alone[REQUESTS[-2]]
        assert isinstance(mine, Moments)
        assert isinstance(other, Moments)
        assert (mine.count, mine.n_null) == (other.count, other.n_null)
        assert np.allclose([mine.mean, mine.m2], [other.mean, other.m2], rtol=1e-12)


@given(st.lists(st.lists(st.integers(0, 3), max_size=6), min_size=1, max_size=4))
def test_folds_are_the_merged_cells(folds: list[list[int]]) -> None:
    cells = Scan(REQUESTS, cells=by_cell).of(TABLE.lazy(), 0)  # 0: not cut into chunks
    for fold, results in zip(folds, merge_folds(cells, folds), strict=True):
        if fold:
            assert plain(results) == plain(merge_results([cells[cell] for cell in sorted(fold)]))
        else:
            assert results[EXACT[0]] == RowCount(0)


def test_folds_of_one_query_need_no_merge_of_tables() -> None:
    cells = Scan(EXACT, cells=by_cell).of(TABLE.lazy())
    request = StatisticRequest(ValueCounts, ("city",))
    states = {cell: results[request] for cell, results in cells.items()}
    assert all(isinstance(state, ValueCounts) and state.by_cell is not None for state in states.values())
    sent = {cell: pickle.loads(pickle.dumps(results)) for cell, results in cells.items()}
    assert not any(results[request].by_cell is not None for results in sent.values())
    folds = [[0, 1, 2], [3], [], [1, 1, 2]]
    for here, there in zip(merge_folds(cells, folds), merge_folds(sent, folds), strict=True):
        assert plain(here) == plain(there)


def test_no_rows_have_answers_but_no_cells() -> None:
    assert plain(Scan(REQUESTS).of(TABLE.clear().lazy())[0]) == plain(Scan(REQUESTS).of(TABLE.clear().lazy(), 0)[0])
    assert Scan(REQUESTS, cells=by_cell).of(TABLE.clear().lazy()) == {}


class _Marked:
    """An attachment that must see the whole table."""

    is_local = False
    columns: ClassVar[tuple[str, ...]] = ("x",)
    calls = 0

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame:
        return table.with_columns(pl.col("x").map_batches(self._number, return_dtype=pl.Int64).alias("number"))

    def _number(self, values: pl.Series) -> pl.Series:
        self.calls += 1
        return pl.Series(range(len(values)))


def test_what_sees_the_whole_table_is_made_once() -> None:
    marked = _Marked()
    asked = [StatisticRequest(ValueCounts, ("number",)), StatisticRequest(RowCount, ())]
    results = Scan(asked, attach=marked).of(TABLE.lazy())[0]
    counts = results[asked[0]]
    assert isinstance(counts, ValueCounts)
    assert counts.table["value"].to_list() == list(range(N))
    assert marked.calls == 1


def test_errors_in_chunks_are_raised_as_they_are() -> None:
    def refuse(_: Any) -> pl.Series:
        raise DataError("refused")

    bad = TABLE.lazy().with_columns(x=pl.col("x").map_batches(refuse, return_dtype=pl.Float64, is_elementwise=True))
    with pytest.raises(DataError, match="refused"):
        Scan(REQUESTS).of(bad)


ODD = {
    "plain": [0.1, -2.5, 1e300, None, 7.0],
    "with NaN": [0.1, float("nan"), None, 3.0, 5.0],
    "infinite": [float("inf"), float("-inf"), 1.0, None, 2.0],
    "missing": [None, None, None, None, None],
    "^odd*$": [1.0, 2.0, 3.0, 4.0, 5.0],
}


def test_moments_of_rows_in_memory_are_those_of_the_query() -> None:
    table = pl.DataFrame(ODD, schema_overrides=dict.fromkeys(ODD, pl.Float64)).with_columns(whole=pl.lit(3), yes=True)
    requests = [StatisticRequest(kind, (name,)) for name in table.columns for kind in (Moments, MinMax)]
    found = statistics_of_rows(table, requests)
    assert list(found) == requests
    assert repr(found) == repr(statistics_of(table.lazy(), requests))  # NaN too
    many = pl.DataFrame(
        {"x": pl.select(pl.when(pl.Series(RNG.random(N) < 0.9)).then(pl.Series(RNG.normal(size=N)))).to_series()}
    )
    assert statistics_of_rows(many, [requests[0]._replace(columns=("x",))]) == statistics_of(
        many.lazy(), [requests[0]._replace(columns=("x",))]
    )


def test_nan_stays_where_every_statistic_takes_it_for_missing() -> None:
    requests = [
        StatisticRequest(Moments, ("x",)),
        StatisticRequest(MinMax, ("n",)),
        StatisticRequest(MissingCount, ("n",)),
    ]
    assert Scan(requests).nan_columns == {"x"}
    assert Scan([*requests, BEHIND], PREFIXES).nan_columns == frozenset()


# -- the gate --------------------------------------------------------------------------------------------------------------


def test_a_gate_lets_no_more_through_than_it_must() -> None:
    values = pl.Series([None, *(f"identifier {i}" for i in range(400_000))])
    gate = CardinalityGate(50_000)
    parts = [gate(part) for part in (values[i : i + 10_000] for i in range(0, len(values), 10_000))]
    passed = pl.concat(parts)
    assert len(passed) == len(values)
    assert passed.null_count() == 1
    assert 50_000 < passed.n_unique() < 100_000
    assert CardinalityGate(1)(pl.Series([None, None], dtype=pl.String)).to_list() == [None, None]


def test_a_gate_stays_open_for_few_values() -> None:
    gate = CardinalityGate(20 * SHARE)
    for i in range(20):
        values = pl.Series(np.random.default_rng(i).integers(0, 20 * SHARE, 50_000))
        assert gate(values) is values


def test_a_gate_looks_at_few_of_the_values_that_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    brings_new = CardinalityGate._brings_new
    monkeypatch.setattr(CardinalityGate, "_brings_new", lambda gate, v: looked.append(len(v)) or brings_new(gate, v))
    gate, values = CardinalityGate(1_000_000), pl.Series(range(80_000))
    for _ in range(3):
        assert gate(values) is values
    assert looked == [10_001, 80_000, 10_001, 10_001]


@pytest.mark.parametrize("cells", [None, by_cell])
def test_what_a_gate_holds_back_is_counted_in_chunks(cells: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "MAX_CATEGORIES", 20_000)
    monkeypatch.setattr(scan, "TABLE_ROWS", 10_000)
    requests = [StatisticRequest(ValueCounts, ("id",)), StatisticRequest(RowCount, ())]
    table = pl.DataFrame({"id": [None, *range(100_000)], "cell": [i % 2 for i in range(100_001)]})
    sketched: list[int] = []
    of = FrequentValues.of
    monkeypatch.setattr(FrequentValues, "of", lambda values, n: sketched.append(len(values)) or of(values, n))
    results = Scan(requests, cells=cells).of(table.lazy())
    assert sum(sketched) <= 100_000  # no sketch of the query whose results are not used
    for cell, found in results.items():
        rows = table if cells is None else table.filter(pl.col("cell") == cell)
        assert found[requests[0]] == statistics_of(rows.lazy(), requests)[requests[0]]
        assert found[requests[0]].is_beyond

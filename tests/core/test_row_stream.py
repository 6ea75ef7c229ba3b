"""Streams of rows: every row once, the order decided by the seed, and memory that does not grow with the rows.

Covers `core.framework` too.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Iterator

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayline.core import row_stream
from rayline.core.framework import Rows
from rayline.core.target import Target, Task

TARGET = Target(("y",), Task.REGRESSION, (pl.Float64(),))


def rows_of(heights: list[int], weight: bool = False) -> Rows:
    numbers = np.arange(sum(heights), dtype=np.float64)
    table = pl.DataFrame({"x": numbers, "y": -numbers} | ({"w": numbers + 1.0} if weight else {}))
    ends = np.cumsum([0, *heights])
    blocks = [lambda a=a, b=b: table[int(a) : int(b)] for a, b in itertools.pairwise(ends)]
    return Rows(blocks, {"x": pl.Float64()}, TARGET, "w" if weight else None)  # type: ignore[arg-type]


def seen(batches: Iterator[Rows]) -> list[float]:
    found = []
    for batch in batches:
        x = batch.features.matrix(np.float64)[:, 0]
        assert (x == -batch.target).all(), "a label moved to another row"
        found += x.tolist()
    return found


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_stream, "CHUNK_BYTES", 5 * 8)
    monkeypatch.setattr(row_stream, "WINDOW_BYTES", 23 * 8)
    monkeypatch.setattr(row_stream, "HELD_BYTES", 64)


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=9).filter(any),
    st.one_of(st.none(), st.integers(1, 40)),
    st.one_of(st.none(), st.integers(0, 2**31)),
)
def test_every_row_once_whatever_the_blocks(heights: list[int], n_rows: int | None, seed: int | None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_stream, "CHUNK_BYTES", 5 * 8)
        patch.setattr(row_stream, "WINDOW_BYTES", 23 * 8)
        rows = rows_of(heights)
        batches = list(rows.batches(n_rows, seed=seed))
        found = seen(iter(batches))
        assert sorted(found) == list(range(sum(heights)))
        assert seed is not None or found == sorted(found)
        if n_rows is not None:
            sizes = [batch.n_rows for batch in batches]
            assert all(size == n_rows for size in sizes[:-1])
            assert 0 < sizes[-1] <= n_rows


@pytest.mark.usefixtures("small_windows")
def test_the_seed_decides_the_order() -> None:
    orders = [seen(rows_of([40, 70, 10, 90]).batches(16, seed=seed)) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    gaps = np.abs(np.diff(orders[0]))
    assert (gaps == 1).mean() < 0.3, "neighbours stayed together"
    assert np.mean(np.array(orders[0][:105])) == pytest.approx(105, abs=45), "the first half is one part of the rows"


def test_counts_and_weights_without_holding_the_rows() -> None:
    rows = rows_of([10, 0, 30], weight=True)
    assert rows.n_rows == 40
    assert rows.total_weight == sum(range(1, 41))
    assert rows.size_bytes == 40 * 8
    assert "_table" not in rows.__dict__


def test_large_blocks_come_in_pieces() -> None:
    assert [part.n_rows for part in rows_of([10, 3]).pieces(4)] == [4, 4, 2, 3]
    assert seen(rows_of([10, 3]).pieces(4)) == list(range(13))


def test_prefetch_passes_errors_on_and_ends_its_thread() -> None:
    def values() -> Iterator[int]:
        yield 1
        raise KeyError("here")

    stream = row_stream.prefetched(values())
    assert next(stream) == 1
    with pytest.raises(KeyError, match="here"):
        next(stream)
    endless = row_stream.prefetched(iter(int, 1))
    next(endless)
    endless.close()  # type: ignore[attr-defined]
    assert not Counter(thread.name for thread in threading.enumerate())["rayline-prefetch"]


def test_few_and_small_pieces_of_wide_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first rows and the pieces of tensors are as large as those of numbers, not as many rows."""
    tensors = pl.Series(np.zeros((50, 4, 25)), dtype=pl.Array(pl.Float64, (4, 25)))
    table = pl.DataFrame({"x": tensors, "y": np.zeros(50)})
    rows = Rows.of(table, {"x": table.schema["x"]}, TARGET)
    assert rows.head.n_rows == 50
    assert [piece.n_rows for piece in rows.pieces()] == [50]
    monkeypatch.setattr(row_stream, "CHUNK_BYTES", 10 * 808)
    monkeypatch.setattr(row_stream, "MAX_BATCH_BYTES", 20 * 800)
    rows = Rows.of(table, {"x": table.schema["x"]}, TARGET)
    assert rows.head.n_rows == 10
    assert [piece.n_rows for piece in rows.pieces()] == [20, 20, 10]

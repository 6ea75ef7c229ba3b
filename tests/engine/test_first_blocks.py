"""Rows that are read more than once: the first blocks are part of the one reading, whether all rows are kept or not. No Ray is started."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")

from rayline.engine.kept_rows import KeptRows


class Budget:
    def __init__(self, left: float) -> None:
        self.left = left

    def take(self, size_bytes: int) -> bool:
        self.left -= size_bytes
        return self.left >= 0


def kept(heights: Sequence[int], room: float = 1e9) -> tuple[KeptRows, list[int]]:
    """Blocks of so many rows, a byte each, and a list that grows by one at each reading."""
    readings: list[int] = []

    def read() -> Iterator[Any]:
        readings.append(1)
        for number, height in enumerate(heights):
            metadata = SimpleNamespace(num_rows=height, size_bytes=height)
            yield SimpleNamespace(blocks=[SimpleNamespace(ref=number, metadata=metadata)], slices=None)

    return KeptRows(read, Budget(room)), readings  # type: ignore[arg-type]


def refs(bundles: Iterator[Any]) -> list[int]:
    return [entry.ref for bundle in bundles for entry in bundle.blocks]


@pytest.mark.parametrize("room", [1e9, 5])
def test_the_first_blocks_belong_to_the_reading(room: float) -> None:
    rows, readings = kept([0, 10, 0, 10, 10], room)
    assert [rows.first_blocks(), rows.first_blocks(3), rows.first_blocks(11)] == [[1], [1], [1, 3]]
    assert rows.first_blocks(1) == [1]
    assert refs(rows.bundles()) == [0, 1, 2, 3, 4]
    assert len(readings) == 1
    assert rows.is_complete == (room > 5)
    assert rows.first_blocks(10) == [1]  # it stays in any case
    assert rows.first_blocks(15) == ([1, 3] if room > 5 else None)
    assert refs(rows.bundles()) == [0, 1, 2, 3, 4]
    assert len(readings) == (1 if room > 5 else 2)


def test_all_blocks_may_be_the_first_ones() -> None:
    rows, readings = kept([10, 10])
    assert rows.first_blocks(1000) == [0, 1]
    assert refs(rows.bundles(last=True)) == [0, 1]
    assert (len(readings), rows.is_complete, rows._first, rows._held) == (1, False, [], None)
    assert refs(rows.bundles()) == [0, 1]
    assert len(readings) == 2


def test_there_may_be_no_rows() -> None:
    rows, _ = kept([])
    assert rows.first_blocks() == []
    assert refs(rows.bundles()) == []
    empty, readings = kept([0, 0])
    assert empty.first_blocks(5) == [0]
    assert refs(empty.bundles()) == [0, 1]
    assert len(readings) == 1


@pytest.mark.parametrize(("room", "n_readings"), [(30, 1), (15, 2), (5, 1)])
def test_no_row_is_lost_where_not_all_fit(room: float, n_readings: int) -> None:
    rows, readings = kept([10, 10, 10], room)
    rows.first_blocks()
    rows.complete()
    assert rows.is_complete == (room == 30)
    assert refs(rows.bundles()) == [0, 1, 2]
    assert len(readings) == n_readings

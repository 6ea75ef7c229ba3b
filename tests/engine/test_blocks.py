"""Blocks become tables and tables blocks; rows are cut and shared without a loss. No Ray runs here.

Covers `engine.object_refs` too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import UserCodeException

from rayline.core.errors import SchemaError
from rayline.engine.blocks import MappedBlock, RaylineActor, SerializedFunction, to_block, to_frame
from rayline.engine.object_refs import BlockSlice, from_arrow, shared
from rayline.engine.reading import regrouped

VECTORS = pl.DataFrame({"v": [[1.0, 2.0], [3.0, 4.0]]}, schema={"v": pl.Array(pl.Float32, 2)})


@pytest.mark.parametrize("tensors", [True, False])
def test_vectors_go_there_and_back(tensors: bool) -> None:
    block = to_block(VECTORS, tensors=tensors)
    assert isinstance(block.schema.field("v").type, pa.BaseExtensionType) is tensors
    assert to_frame(block).equals(VECTORS)
    assert to_frame(block.slice(1)).equals(VECTORS.slice(1))
    assert to_frame(pa.concat_tables([block, block])).equals(pl.concat([VECTORS, VECTORS]))


@pytest.mark.parametrize(
    "frame",
    [
        pl.DataFrame({"v": [[1.0, 2.0], None]}, schema={"v": pl.Array(pl.Float64, 2)}),
        pl.DataFrame({"v": [[1.0, None]]}, schema={"v": pl.Array(pl.Float64, 2)}),
        pl.DataFrame({"v": [[True, False]]}, schema={"v": pl.Array(pl.Boolean, 2)}),
        pl.DataFrame({"v": []}, schema={"v": pl.Array(pl.Float64, 3)}),
        pl.DataFrame({"e": ["b", None]}, schema={"e": pl.Enum(["a", "b"])}),
        pl.DataFrame({"l": [[1], []], "s": ["ü", None]}),
    ],
)
def test_what_is_no_dense_vector_stays_what_it_is(frame: pl.DataFrame) -> None:
    assert to_frame(to_block(frame)).equals(frame)
    assert to_frame(to_block(frame)).schema == frame.schema


def test_dictionaries_are_strings_and_native_tensors_vectors() -> None:
    values = np.arange(12, dtype=np.int32).reshape(2, 2, 3)
    table = pa.table(
        {"d": pa.array(["a", None]).dictionary_encode(), "t": pa.FixedShapeTensorArray.from_numpy_ndarray(values)}
    )
    frame = from_arrow(table)
    assert frame.schema == pl.Schema({"d": pl.String, "t": pl.Array(pl.Int32, 6)})  # type: ignore[arg-type]
    assert frame["t"].to_numpy().tolist() == values.reshape(2, 6).tolist()


def _double(table: pl.LazyFrame) -> pl.LazyFrame:
    return table.with_columns(pl.all() * 2)


def test_a_function_of_blocks() -> None:
    work = RaylineActor(MappedBlock(SerializedFunction.of(_double)))
    assert work(pa.table({"x": [1, 2]})).to_pydict() == {"x": [2, 4]}
    assert work(pa.table({"x": pa.array([], pa.int64())})).schema.field("x").type == pa.int64()
    assert work(pa.table({})).num_columns == 0


def test_a_shipped_function_is_unpacked_once_and_works_in_batches() -> None:
    shipped = SerializedFunction.of(_Counted())
    frame = pl.DataFrame({"x": range(10)})
    before = len(_Counted.made)
    assert shipped(frame, batch_size=3).equals(frame)
    assert shipped(frame).equals(frame)
    assert len(_Counted.made) == before + 1


class _Counted:
    """A function of tables that counts how often it is unpacked."""

    made: list[int] = []  # noqa: RUF012  # shared on purpose

    def __reduce__(self) -> Any:
        return _unpack, ()

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame:
        return table


def _unpack() -> _Counted:
    _Counted.made.append(1)
    return _Counted()


def _fail(table: pl.LazyFrame) -> pl.LazyFrame:
    raise SchemaError("what", "expected", "hint")


def test_an_error_of_ours_is_the_users_to_see() -> None:
    with pytest.raises(SchemaError, match="what") as caught:
        RaylineActor(MappedBlock(SerializedFunction.of(_fail)))(pa.table({"x": [1]}))
    assert isinstance(caught.value, UserCodeException)
    assert type(caught.value.original) is SchemaError  # type: ignore[attr-defined]


Sizes = st.lists(st.integers(1, 9), min_size=1, max_size=8)


def rows(pieces: list[BlockSlice]) -> list[tuple[Any, int]]:
    return [(piece.block, row) for piece in pieces for row in range(piece.start, piece.stop)]


@given(Sizes, st.integers(1, 12))
def test_shares_are_equal_and_in_order(sizes: list[int], n: int) -> None:
    pieces: list[Any] = [BlockSlice(i, 0, size) for i, size in enumerate(sizes)]  # type: ignore[arg-type]
    shares = shared(pieces, n)
    assert len(shares) == n
    assert all(shares)  # also a rank without rows knows their types
    assert [row for share in shares for row in rows(share)] == rows(pieces)
    counts = [len(rows(share)) for share in shares]
    assert max(counts) - min(counts) <= 1


@given(Sizes, st.integers(1, 12))
def test_files_are_full_but_for_the_last(sizes: list[int], n_rows: int) -> None:
    pieces: list[Any] = [BlockSlice(i, 0, size) for i, size in enumerate(sizes)]  # type: ignore[arg-type]
    files = list(regrouped(iter(pieces), n_rows))
    assert [row for file in files for row in rows(file)] == rows(pieces)
    assert all(len(rows(file)) == n_rows for file in files[:-1])

"""Convert blocks of a Ray Dataset to Polars tables and back; define the functions of blocks that run in Ray's tasks."""

from __future__ import annotations

import functools
import hashlib
import pickle
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import polars as pl
import pyarrow as pa
import ray
from ray import cloudpickle
from ray.data.block import BlockAccessor
from ray.data.extensions import ArrowTensorArray
from ray.exceptions import UserCodeException

from rayline.core.arrow_tables import to_arrow
from rayline.core.errors import RaylineError
from rayline.core.parquet_parts import PartFiles
from rayline.core.scan import Scan, TableFunction, passed_through
from rayline.core.scan_results import ScanResults, merge_results
from rayline.core.schema import stacked
from rayline.engine.object_refs import from_arrow
from rayline.engine.small_blocks import concatenated, is_local

Spans: TypeAlias = Sequence[tuple[int, int]]
"""Of each block the first row and the number of rows."""


def to_frame(block: Any) -> pl.DataFrame:
    """Return a block of a dataset as a Polars table, without a copy where the types allow it."""
    return from_arrow(BlockAccessor.for_block(block).to_arrow())


def to_block(frame: pl.DataFrame, *, tensors: bool = True) -> pa.Table:
    """Return a Polars table as a block. With `tensors`, vector columns become tensor columns, so that NumPy batches of it are matrices."""
    table = to_arrow(frame)
    for i, (name, dtype) in enumerate(frame.schema.items()):
        if tensors and isinstance(dtype, pl.Array) and _is_dense(frame[name]):
            table = table.set_column(i, name, ArrowTensorArray.from_numpy(frame[name].to_numpy()))
    return table


def _is_dense(vectors: pl.Series) -> bool:
    values = vectors.reshape((-1,)) if len(vectors) else vectors
    return values.dtype.is_numeric() and not values.null_count() and not vectors.null_count()


@dataclass(frozen=True)
class SerializedFunction:
    """A serialized function of tables, which each worker process deserializes once and not once per block; `is_local` as in `small_blocks`."""

    packed: bytes = field(compare=False, repr=False)
    digest: bytes
    is_local: bool = True

    @classmethod
    def of(cls, function: Any) -> SerializedFunction:
        packed = cloudpickle.dumps(function)
        return cls(packed, hashlib.blake2b(packed, digest_size=16).digest(), is_local(function))

    def __call__(self, frame: pl.DataFrame, batch_size: int | None = None) -> pl.DataFrame:
        function: TableFunction = _unpacked(self)
        if batch_size is None or frame.height <= batch_size:
            return function(frame.lazy()).collect()
        return pl.concat(function(part.lazy()).collect() for part in frame.iter_slices(batch_size))

    def load(self) -> None:
        """Deserialize the function now."""
        _unpacked(self)

    def passed_through(self, names: Sequence[str]) -> list[str]:
        """Pass the block through, as `scan.passed_through`."""
        return passed_through(_unpacked(self), names)


@functools.lru_cache(maxsize=4)
def _unpacked(shipped: SerializedFunction) -> Any:
    return pickle.loads(shipped.packed)  # noqa: S301  # packed by our own driver


@dataclass(frozen=True)
class PartialScan:
    """Scan one block and return the results as one row. The scan is deserialized once in each process."""

    scan: SerializedFunction

    @classmethod
    def of(cls, scan: Scan) -> PartialScan:
        return cls(SerializedFunction.of(scan))

    @property
    def is_local(self) -> bool:
        return self.scan.is_local

    def __call__(self, block: pa.Table) -> pa.Table:
        frame = to_frame(block)
        return _packed_results(_unpacked(self.scan).of(frame.lazy(), frame.height))


def _packed_results(results: dict[int, ScanResults]) -> pa.Table:
    return pa.table({"results": pa.array([cloudpickle.dumps(results)], pa.large_binary())})


def merged_results(tables: Iterable[pa.Table]) -> dict[int, ScanResults]:
    """Merge the results of `PartialScan` for several blocks, in their order; empty where there are none."""
    parts: dict[int, list[ScanResults]] = {}
    for table in tables:
        for packed in table.column("results").to_pylist() if table.num_columns else ():
            for cell, results in pickle.loads(packed).items():  # noqa: S301  # packed by our own tasks
                parts.setdefault(cell, []).append(results)
    return {cell: merge_results(partial) for cell, partial in sorted(parts.items())}


@ray.remote
def merge_partial(*tables: pa.Table) -> pa.Table:
    """Merge the results of `PartialScan` for several blocks into one of the same form."""
    return _packed_results(merged_results(tables))


@dataclass(frozen=True)
class BlockTask:
    """A function of blocks after another, on some columns of a block. Blocks of one task are put together where that changes nothing."""

    function: Callable[[pa.Table], pa.Table]
    columns: tuple[str, ...] | None = None
    before: Callable[[pa.Table], pa.Table] | None = None

    def __call__(self, *blocks: Any) -> pa.Table:
        tables = [BlockAccessor.for_block(block).to_arrow() for block in blocks]
        tables = [table for table in tables if table.num_rows] or tables[:1]
        if is_local(self.function) and is_local(self.before):
            tables = [concatenated(tables)]
        return concatenated([self._result(table) for table in tables])

    def _result(self, table: pa.Table) -> pa.Table:
        if not table.num_columns:
            return table
        if self.before is not None:
            table = self.before(table)
        return self.function(table if self.columns is None else table.select(list(self.columns)))


@ray.remote
def run_on_blocks(task: BlockTask, *blocks: Any) -> tuple[pa.Table, tuple[int, int]]:
    """Apply a function to blocks. Returns the result, its number of rows and its size in bytes."""
    result = task(*blocks)
    return result, (result.num_rows, result.nbytes)


@dataclass(frozen=True)
class MappedBlock:
    """Apply a function of tables to one block; `tensors` as in `to_block`."""

    function: SerializedFunction
    tensors: bool = True

    @property
    def is_local(self) -> bool:
        return self.function.is_local

    def __call__(self, block: pa.Table) -> pa.Table:
        if not block.num_columns:
            return block
        mapped = to_block(self.function(to_frame(block)), tensors=self.tensors)
        for name in self.function.passed_through(block.column_names):
            if name in mapped.column_names:
                mapped = mapped.set_column(
                    mapped.column_names.index(name), block.schema.field(name), block.column(name)
                )
        return mapped


@dataclass(frozen=True)
class RaylineTask:
    """A function of blocks, under the name that Ray shows for it.

    Ray Data passes its errors on to the user unchanged, and does not report them as errors of Ray.
    """

    function: Callable[[pa.Table], pa.Table]

    def __call__(self, block: pa.Table) -> pa.Table:
        try:
            return self.function(block)
        except RaylineError as error:
            kind = type(type(error).__name__, (type(error), UserCodeException), {"__module__": type(error).__module__})
            shown = kind(str(error))
            shown.original = error
            raise shown from None


class RaylineActor(RaylineTask):
    """The same for an actor: constructed once in each, with its function loaded."""

    def __init__(self, function: MappedBlock) -> None:
        super().__init__(function)
        function.function.load()  # before two calls at a time do


def _write_part(
    number: int, spans: Spans, function: SerializedFunction, files: PartFiles, batch_size: int | None, *blocks: Any
) -> int:
    """Write one file of a directory of files: some rows of blocks after a function."""
    frames = [to_frame(block).slice(*span) for block, span in zip(blocks, spans, strict=True)]
    return files.write(number, function(stacked(frames), batch_size))


write_part = ray.remote(_write_part)
"""`_write_part` as a task."""


@ray.remote(max_restarts=0)
class PartWriter:
    """`_write_part` in an actor: a task with a GPU would end its process, and with it what it has put there."""

    def write(self, *args: Any) -> int:
        return _write_part(*args)


@ray.remote
def join_blocks(spans: Spans, *blocks: Any) -> tuple[pa.Table, int]:
    """Return some rows of blocks as one table in one piece, and its size in bytes."""
    table = concatenated([block.slice(*span) for block, span in zip(blocks, spans, strict=True)]).combine_chunks()
    return table, table.nbytes

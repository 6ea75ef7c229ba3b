"""The rows of a training: prepared where they are, and divided among the workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl
import ray
from ray.data import Dataset

from rayline.core import registry
from rayline.core.engine import StoredBlocks
from rayline.core.errors import DataError, ParameterError, counted
from rayline.core.scan import TableFunction
from rayline.engine.blocks import BlockTask, MappedBlock, SerializedFunction, to_block
from rayline.engine.group import DataShards
from rayline.engine.kept_rows import kept_rows
from rayline.engine.object_refs import BlockSlice, kept_together, shared
from rayline.engine.placement import WHERE
from rayline.engine.reading import executing, of_small_blocks, slices_of
from rayline.engine.tasks import TaskResult

PART_BYTES = 128 << 20
"""Maximum size of the parts of a table in this process that go to workers: that of Ray's own blocks."""


def rows_for_training(
    train: Any,
    test: Any,
    prepare: TableFunction | None,
    prepare_test: TableFunction | None,
    max_workers: int,
    min_workers: int,
) -> tuple[list[BlockSlice], list[BlockSlice] | None]:
    """Prepare the rows for at most `max_workers` workers, with at least one row for each of `min_workers`. Raises DataError when there are too few."""
    rows, others = _placed(train, prepare, max_workers), _placed(test, prepare_test, max_workers)
    if train is not None:
        _refuse_too_few(rows, min_workers)
    if test is not None:
        _refuse_too_few(others, 1, " (test data)")
    return rows, None if test is None else others


def shards_of(
    rows: list[BlockSlice], others: list[BlockSlice] | None, n: int, together: str | None, *, stay: bool
) -> DataShards:
    """Divide the rows among n workers. `stay` says whether the same references come again in the next training of the same rows."""

    def divided(pieces: list[BlockSlice]) -> list[list[BlockSlice]]:
        return shared(pieces, n) if together is None else kept_together(pieces, n, together)

    shards = divided(rows) if rows else [[]] * n
    if rows and together is not None:
        _refuse_empty_shards(shards, together)
    return DataShards(shards, None if others is None else divided(others), stay=stay and together is None)


def refuse_groups(together: str | None) -> None:
    if together is not None:
        raise ParameterError(
            f"{WHERE}: Ray Train divides the rows itself, and the groups of {together!r} must stay whole.",
            "Expected backend='actors' for a ranking.",
            "leave backend out, and pass a number of workers.",
        )


def _placed(data: Any, prepare: TableFunction | None, num_workers: int) -> list[BlockSlice]:
    """Prepare the rows and return references to them in the object store."""
    if data is None:
        return []
    if isinstance(data, StoredBlocks):
        return [BlockSlice(ref, 0, n) for ref, n in zip(data.references, data.heights, strict=True)]
    if isinstance(data, Dataset):
        work, kept = _work(prepare or _as_it_is), kept_rows(data)
        with executing("preparation for training"):
            if kept is not None and kept.can_continue:
                return list(_of_results(kept.results(BlockTask(work), last=True)))
            return list(_read(data, work))
    engine = registry.engine_for(data)
    frame: pl.DataFrame = engine.collect(data if prepare is None else engine.map(data, prepare))
    size = max(1, min(-(-frame.height // num_workers), int(PART_BYTES / max(frame.estimated_size(), 1) * frame.height)))
    with executing("preparation for training"):
        return [BlockSlice(ray.put(to_block(part, tensors=False)), 0, part.height) for part in frame.iter_slices(size)]


def prepared_slices(data: Dataset, function: TableFunction) -> Iterator[BlockSlice]:
    """Iterate over the rows of a Dataset after a function, once and in order; rows that are kept stay so no longer."""
    work, kept = _work(function), kept_rows(data)
    if kept is None or not kept.can_continue:
        return _read(data, work)
    return _of_results(kept.results(BlockTask(work), last=True))


def _work(function: TableFunction) -> MappedBlock:
    return MappedBlock(SerializedFunction.of(function), tensors=False)


def _read(data: Dataset, work: MappedBlock) -> Iterator[BlockSlice]:
    return slices_of(of_small_blocks(data, work))


def _of_results(results: Iterator[TaskResult]) -> Iterator[BlockSlice]:
    return (BlockSlice(ref, 0, n_rows) for ref, n_rows, _ in results if n_rows)


def _as_it_is(table: pl.LazyFrame) -> pl.LazyFrame:
    return table


def _refuse_too_few(rows: Sequence[BlockSlice], needed: int, which: str = "") -> None:
    n_rows = sum(piece.stop - piece.start for piece in rows)
    if n_rows < needed:
        count = f"{counted(n_rows, 'row')} for {counted(needed, 'worker')}" if n_rows else "no rows"
        raise DataError(
            f"{WHERE}{which}: there are {count}.",
            f"Expected at least {needed}.",
            "check the filter or the path that they come from, or train with fewer workers.",
        )


def _refuse_empty_shards(shards: Sequence[Sequence[BlockSlice]], column: str) -> None:
    filled = sum(any(piece.n_rows for piece in shard) for shard in shards)
    if filled < len(shards):
        raise DataError(
            f"{WHERE}: the groups of {column!r} fill {counted(filled, 'worker')} of {len(shards)}.",
            "Expected at least one group for each worker: groups are never divided.",
            "train with fewer workers.",
        )

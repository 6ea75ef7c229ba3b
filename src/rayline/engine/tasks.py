"""Many tasks, of which some are under way at a time: on each block of a Dataset, and to merge what they return."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar

import polars as pl
import pyarrow as pa
import ray

from rayline.core.scan import Scan
from rayline.core.scan_results import ScanResults
from rayline.engine.blocks import BlockTask, merge_partial, merged_results, run_on_blocks
from rayline.engine.small_blocks import task_groups

T = TypeVar("T")
TaskResult: TypeAlias = tuple[ray.ObjectRef[pa.Table], int, int]
"""What a task has made of blocks: a reference to it, its rows and its bytes."""

PARTIAL_BYTES = 2 << 20
"""Size of partial results of a scan up to which the driver merges them; more are merged in tasks. They take several times as much when
they are unpacked."""

MERGED_TOGETHER = 4
"""Merged results that a task merges into one."""


def in_order(
    submit: Callable[..., Any], arguments: Iterable[tuple[Any, ...]], max_tasks: int, get: Callable[[Any], T]
) -> Generator[T]:
    """Submit tasks, at most some at a time, and yield their results in the order of the arguments.

    Parameters
    ----------
    submit
        Submits a task with some arguments, and returns its reference, or its references.
    arguments
        Of each task. They are taken one after another, as results are yielded.
    max_tasks
        How many tasks wait, run, or have results that are not yielded yet.
    get
        Waits for a task by what `submit` has returned, and returns its result. On an error the other tasks are cancelled.
    """
    under_way: deque[Any] = deque()
    try:
        for given in arguments:
            if len(under_way) >= max_tasks:
                yield get(under_way.popleft())
            under_way.append(submit(*given))
        while under_way:
            yield get(under_way.popleft())
    except BaseException:
        for refs in under_way:
            ray.cancel(refs[0] if isinstance(refs, list) else refs)
        raise


def on_blocks(bundles: Iterator[Any], work: BlockTask) -> Iterator[TaskResult]:
    """Run a function on all blocks in tasks, at most two per CPU at a time, and yield what they made, in order."""
    task, shipped = run_on_blocks.options(num_returns=2), ray.put(work)
    max_tasks = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    tasks = ((shipped, *(ref for bundle in some for ref in bundle.block_refs)) for some in task_groups(bundles))
    return in_order(task.remote, tasks, max_tasks, lambda refs: (refs[0], *ray.get(refs[1])))


def merged_in_tasks(
    partial: Iterator[tuple[ray.ObjectRef[pa.Table], int]], scan: Scan, schema: pl.Schema, columns: Sequence[str]
) -> dict[int, ScanResults]:
    """Merge the partial results of all blocks, in their order; beside each is its size in bytes. Large ones are merged in tasks, so that
    the driver gets the results of all rows only: tables of scores are as large as their blocks, and merged ones are bounded."""
    few: list[ray.ObjectRef[pa.Table]] = []
    merged: list[ray.ObjectRef[pa.Table]] = []
    held_bytes = 0
    for ref, size_bytes in partial:
        few.append(ref)
        held_bytes += size_bytes
        if held_bytes > PARTIAL_BYTES and len(few) > 1:
            merged.append(merge_partial.remote(*few))
            few, held_bytes = [], 0
    left = [*merged, *few]
    while merged and len(left) > 1:
        together = [left[i : i + MERGED_TOGETHER] for i in range(0, len(left), MERGED_TOGETHER)]
        left = [refs[0] if len(refs) == 1 else merge_partial.remote(*refs) for refs in together]
    results = merged_results(map(ray.get, left))
    return results or scan.of(pl.LazyFrame(schema={name: schema[name] for name in columns}), 0)

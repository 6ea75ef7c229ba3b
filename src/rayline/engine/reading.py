"""Datasets as they are read: their blocks in order, with our settings, and errors of Ray told as ours."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import polars as pl
import pyarrow as pa
import ray
from ray.data import Dataset
from ray.data.dataset import MaterializedDataset
from ray.exceptions import RayError, RayTaskError

from rayline.compat.ray import BundleGroups, dataset_for_reading, has_grouped_blocks, ref_bundles, single_blocks
from rayline.core.errors import DataError, RaylineError, ResourceError, SchemaError, first_line, shorten
from rayline.core.schema import stacked
from rayline.core.waiting import patience
from rayline.engine.blocks import RaylineTask, to_frame
from rayline.engine.kept_rows import kept_rows, runs_functions
from rayline.engine.nodes import add_nodes, held_here
from rayline.engine.object_refs import BlockSlice
from rayline.engine.placement import busy
from rayline.engine.session import quietly
from rayline.engine.small_blocks import for_few_tasks, is_local, task_groups

SAMPLE_ROWS = 1000
"""Rows inspected to find the types of pandas columns that hold Python objects."""

FIRST = "the first rows of a Dataset take long; rows that fit into a quarter of the object store are kept for this step"

COSTLY = (
    "the first rows of a Dataset take long, and are computed again each time it is read: materialize() it first (docs/path.md says how "
    "often each step reads it)"
)


def refuse_other_tables(data: Any) -> None:
    if not isinstance(data, Dataset):
        raise SchemaError(
            f"A {type(data).__name__} is not a table.",
            "Expected a ray.data.Dataset, or a table in this process.",
            "pass the Dataset that it comes from, or collect it first.",
        )


def schema_of_dataset(data: Dataset) -> pl.Schema:
    known = data.schema(fetch_if_missing=False)
    kept = kept_rows(data)
    if known is None and kept is not None:
        with patience(lambda: busy("no rows of a Dataset are there yet") or FIRST):
            blocks = kept.first_blocks()
        return to_frame(ray.get(blocks[0])).schema if blocks else pl.Schema()
    if known is None:
        with patience(lambda: busy("no rows of a Dataset are there yet") or COSTLY):
            known = with_own_settings(data, single_blocks).schema()
    if known is None:
        return pl.Schema()
    twice = sorted({name for name in known.names if known.names.count(name) > 1})
    if twice:
        raise SchemaError(
            f"A dataset has the column {twice[0]!r} more than once.",
            f"Expected each column once; got {shorten(known.names)}.",
            "rename or drop one of them.",
        )
    base = known.base_schema
    if isinstance(base, pa.Schema):
        return to_frame(base.empty_table().select(known.names)).schema
    # Blocks of pandas: only its values show the type of an object column.
    frames = [to_frame(block) for block in each_block(with_own_settings(data, single_blocks).limit(SAMPLE_ROWS))]
    frames = [frame for frame in frames if frame.width]
    return stacked(frames).schema if frames else pl.Schema()


def with_own_settings(data: Dataset, group: BundleGroups | None = None) -> Dataset:
    """Return the same dataset with Rayline's settings: no progress bar, blocks in order, errors as they were raised.

    `group` divides its blocks among tasks, if they are in the object store: `for_few_tasks`, or `single_blocks` where the first ones
    are needed only.
    """
    _refuse_no_cpu_left(data)
    copied: Dataset = dataset_for_reading(data, group)
    copied.context.enable_progress_bars = False
    copied.context.execution_options.preserve_order = True
    copied.context.raise_original_map_exception = True
    return copied


def bundles_of(data: Dataset) -> Iterator[Any]:
    """Iterate over the blocks as references, as they become ready; when the first takes long, report the likely reason."""
    _refuse_no_cpu_left(data)
    with patience(lambda: busy("no rows of a Dataset are there yet")) as is_over:
        for bundle in ref_bundles(data):
            is_over()
            yield bundle


def _refuse_no_cpu_left(data: Dataset) -> None:
    """Raise ResourceError in a task that leaves no CPU for the tasks that compute these rows: they would wait for it to end."""
    held = held_here("CPU")
    if not held or isinstance(data, MaterializedDataset):
        return
    there = ray.cluster_resources().get("CPU", 0.0)
    if there - held < 1.0 and not add_nodes([{"CPU": 1.0}]):
        raise ResourceError(
            f"A Dataset cannot be read inside a task that holds {held:g} of {there:g} CPU of this Ray.",
            f"Expected at least 1 CPU for the tasks that read it; {there - held:g} are left.",
            "give the task less (num_cpus=0 where it only waits), or read the Dataset on the driver.",
        )


def slices_of(data: Dataset) -> Iterator[BlockSlice]:
    """Iterate over the blocks in row order, as references to the object store."""
    for bundle in bundles_of(data):
        for entry in bundle.blocks:
            rows = entry.metadata.num_rows
            if rows:
                yield BlockSlice(entry.ref, 0, rows)


def each_block(data: Dataset) -> Iterator[Any]:
    """Iterate over the blocks as they become ready."""
    for some in task_groups(bundles_of(data)):
        yield from ray.get([ref for bundle in some for ref in bundle.block_refs])


def regrouped(pieces: Iterator[BlockSlice], n_rows: int) -> Iterator[list[BlockSlice]]:
    """Iterate over the same rows in batches of a fixed size."""
    part: list[BlockSlice] = []
    room = n_rows
    for piece in pieces:
        start = piece.start
        while start < piece.stop:
            stop = min(piece.stop, start + room)
            part.append(BlockSlice(piece.block, start, stop))
            room -= stop - start
            start = stop
            if not room:
                yield part
                part, room = [], n_rows
    if part:
        yield part


def of_small_blocks(
    data: Dataset, work: Callable[[pa.Table], pa.Table], columns: Sequence[str] | None = None
) -> Dataset:
    """Return what a function makes of the blocks of a dataset, or of some columns. A task is given several small blocks, unless functions
    of the user come first: how these are divided among tasks is the user's choice."""
    needed = with_own_settings(data, None if runs_functions(data) else for_few_tasks)
    if columns is not None:
        needed = needed.select_columns(list(columns))
    return needed.map_batches(RaylineTask(work), batch_format="pyarrow", batch_size=task_batch(needed, work))


def task_batch(data: Dataset, work: Callable[[pa.Table], pa.Table]) -> Literal["auto"] | None:
    """Return the size of batches for `map_batches`: whole blocks, or what Ray Data chooses where a task has several small ones."""
    return "auto" if is_local(work) and has_grouped_blocks(data) else None


_LACKING = re.compile(r'Field \\?"(.+?)\\?" does not exist')


def _disagreement(what: str) -> SchemaError:
    return SchemaError(
        f"The blocks of the dataset disagree: {what}.",
        "Expected every column in every block, in one type and one time zone.",
        "give them one type where they are read (schema=… of data.read_csv), or cast in ds.map_batches.",
    )


@contextlib.contextmanager
def executing(what: str) -> Iterator[None]:
    """Execute quietly, and raise errors of Rayline as they were raised."""
    try:
        with quietly():
            yield
    except (pa.ArrowException, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise _disagreement(first_line(error)) from error
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, RaylineError):
            raise getattr(cause, "original", cause) from None
        if isinstance(cause, KeyError) and (lacking := _LACKING.search(str(cause))):
            raise _disagreement(f"one lacks the column {lacking.group(1)!r}") from error
        if "CSV conversion error" in str(cause):
            raise DataError(
                f"A CSV file could not be read: {first_line(cause)}.",
                "Expected the types at the beginning of the files.",
                "specify the column's type, data.read_csv(…, schema={'x': pl.Float64}), or the strings of missing values, null_values=['NA'].",
            ) from error
        raise DataError(
            f"The dataset could not be read: {type(cause).__name__}: {first_line(cause)}.",
            f"Expected its tasks to finish; one failed during a {what}.",
            "the error above says where; ds.take(5) runs the same tasks.",
        ) from error
    except RayError as error:
        raise ResourceError(
            f"Ray could not finish a {what}: {type(error).__name__}: {first_line(error)}.",
            "Expected enough memory and disk, and no loss of nodes.",
            "the error above says what is missing.",
        ) from error

"""The engine for Ray Datasets: scan, map, collect and train, with Polars inside Ray's tasks."""

from __future__ import annotations

import contextlib
import itertools
import re
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset, TaskPoolStrategy
from ray.data.dataset import MaterializedDataset
from ray.exceptions import RayError, RayTaskError

from rayline.compat.ray import dataset_for_reading, ref_bundles
from rayline.core import registry
from rayline.core.engine import Engine, Placement, StoredBlocks
from rayline.core.errors import (
    DataError,
    ParameterError,
    RaylineError,
    ResourceError,
    SchemaError,
    at,
    counted,
    first_line,
    shorten,
)
from rayline.core.parquet_parts import PartFiles
from rayline.core.scan import Scan, TableFunction
from rayline.core.scan_results import ScanResults
from rayline.core.schema import col
from rayline.core.waiting import patience
from rayline.engine.blocks import (
    BlockTask,
    MappedBlock,
    PartialScan,
    PartWriter,
    RaylineActor,
    RaylineTask,
    SerializedFunction,
    join_blocks,
    merge_partial,
    merged_results,
    run_on_block,
    to_block,
    to_frame,
    write_part,
)
from rayline.engine.checkpoints import CheckpointStore
from rayline.engine.group import DataShards, DistributedRun, TrainingCall, packed_function
from rayline.engine.holders import holders
from rayline.engine.kept_groups import KEPT, GroupKey
from rayline.engine.kept_rows import KeptRows, keeping, kept_rows, materialized
from rayline.engine.nodes import add_nodes, can_grow, coming, nodes_for
from rayline.engine.object_refs import BlockSlice, kept_together, shared
from rayline.engine.placement import WHERE, PlacementPlan, busy, held_here, max_workers, refuse_no_room
from rayline.engine.session import ensure_ray, quietly
from rayline.engine.tasks import in_order

SAMPLE_ROWS = 1000
"""Rows inspected to find the types of pandas columns that hold Python objects."""

BLOCK_ROWS = 1 << 16
"""Minimum rows per task when a materialised dataset has many small blocks."""

PART_BYTES = 128 << 20
"""Maximum size of the parts of a table in this process that go to workers: that of Ray's own blocks."""

PARTIAL_BYTES = 2 << 20
"""Size of partial results of a scan up to which the driver merges them; more are merged in tasks. They take several times as much when
they are unpacked."""

MERGED_TOGETHER = 4
"""Merged results that a task merges into one."""

GPU_ROWS = 4096
"""Default batch size of a worker with a GPU, in rows."""

FIRST = "the first rows of a Dataset take long; rows that fit into a quarter of the object store are kept for this step"

COSTLY = (
    "the first rows of a Dataset take long, and are computed again each time it is read: materialize() it first (docs/path.md says how "
    "often each step reads it)"
)

_schemas: weakref.WeakKeyDictionary[Dataset, pl.Schema] = weakref.WeakKeyDictionary()
_mapped: weakref.WeakKeyDictionary[Dataset, tuple[Dataset, MappedBlock]] = weakref.WeakKeyDictionary()
"""Datasets of kept rows after a function: the rows that are kept, and the function."""


__all__ = ["RayEngine", "ensure_ray"]


class RayEngine(Engine):
    """`ray.data.Dataset`s, of any size: rows stay in Ray's tasks and object store."""

    has_positions = False

    def connect(self) -> None:
        ensure_ray()

    def keeping(self, *data: Any) -> AbstractContextManager[None]:
        return keeping(data, lambda one: _bundles(_own_copy(one)))

    def kept(self, data: Any) -> Any:
        rows = kept_rows(data)
        if rows is not None and not rows.stays:
            with _answering("reading"):
                rows.complete()
        return materialized(data)

    def head(self, data: Any, n_rows: int, columns: Sequence[str]) -> pl.DataFrame:
        kept = kept_rows(data)
        with _answering("head"):
            block = None if kept is None else kept.first_block()
            frame = None if block is None else to_frame(ray.get(block))
        enough = frame is not None and frame.height >= n_rows
        return frame.select(map(col, columns)).head(n_rows) if enough else super().head(data, n_rows, columns)  # type: ignore[union-attr]

    def schema(self, data: Any) -> pl.Schema:
        _refuse_other(data)
        schema = _schemas.get(data)
        if schema is None:
            with _answering("schema"):
                schema = _schemas[data] = _schema_of(data)
        return schema

    def scan(self, data: Any, scan: Scan) -> dict[int, ScanResults]:
        schema = self.schema(data)
        columns = scan.columns(schema)
        source, before = _mapped.get(data, (data, None))
        kept = kept_rows(source)
        if kept is not None and kept.can_continue:
            with _answering("scan"):
                work = BlockTask(PartialScan.of(scan), columns, before)
                partial = ((ref, size_bytes) for ref, _, size_bytes in _tasks(kept.bundles(), work))
                return _merged(partial, scan, schema, columns)
        with _answering("scan"):
            needed = _own_copy(data)
            if columns != list(schema):
                needed = needed.select_columns(columns)
            size = _batch_size(data) if scan.is_local else None  # else whole blocks
            block_results = needed.map_batches(
                RaylineTask(PartialScan.of(scan)), batch_format="pyarrow", batch_size=size
            )
            entries = (entry for bundle in _bundles(block_results) for entry in bundle.blocks)
            partial = ((entry.ref, getattr(entry.metadata, "size_bytes", None) or 0) for entry in entries)
            return _merged(partial, scan, schema, columns)

    def map(self, data: Any, function: TableFunction, placement: Placement | None = None) -> Any:
        _refuse_other(data)
        placement = _possible(placement)
        work = MappedBlock(SerializedFunction.of(function))
        options: dict[str, Any] = {"batch_format": "pyarrow", "batch_size": placement.batch_size}
        source = materialized(data)
        mapped: Dataset = dataset_for_reading(source)
        # A RaylineError keeps its type until it reaches the consumer of the dataset.
        mapped.context.raise_original_map_exception = True
        if placement.num_gpus:
            options["batch_size"] = placement.batch_size or GPU_ROWS
            options["compute"], num_cpus = _gpu_pool(placement)
            options["fn_constructor_args"] = (work,)
            return mapped.map_batches(RaylineActor, num_cpus=num_cpus, num_gpus=placement.num_gpus, **options)
        if placement.concurrency:
            options["compute"] = TaskPoolStrategy(size=placement.concurrency)
        result = mapped.map_batches(RaylineTask(work), num_cpus=placement.num_cpus, **options)
        if kept_rows(data) is not None:
            _mapped[result] = data, work
            _schemas[result] = function(pl.LazyFrame(schema=self.schema(data))).collect_schema()
        return result

    def write(
        self, data: Any, function: TableFunction, files: PartFiles, done: set[int], placement: Placement | None
    ) -> int:
        _refuse_other(data)
        placement = _possible(placement)
        shipped = ray.put(SerializedFunction.of(function))
        written = 0

        def left() -> Iterator[tuple[Any, ...]]:
            nonlocal written
            for number, pieces in enumerate(_cut(_rows(_own(data)), files.rows_per_file)):
                if number in done:
                    written += files.n_rows(number)
                else:
                    yield number, pieces, shipped, files, placement.batch_size

        with _answering("write"), _part_writers(placement) as (most, submit):
            for n_rows in in_order(submit, left(), most, ray.get):
                written += n_rows
        return written

    def collect(self, data: Any, columns: Sequence[str] | None = None) -> pl.DataFrame:
        schema = self.schema(data)
        names = list(schema) if columns is None else list(columns)
        missing = [name for name in names if name not in schema]
        if missing:
            raise SchemaError.missing(missing, schema, where="collect")
        source, before = _mapped.get(data, (data, None))
        kept = kept_rows(source)
        with _answering("collect"):
            if kept is not None and kept.can_continue:
                work = BlockTask(_unchanged, names, before)
                return _joined((ray.get(ref) for ref, *_ in _tasks(kept.bundles(), work)), names, schema)
            needed = _own(data)
            if names != list(schema):
                needed = needed.select_columns(names)
            return _joined(_blocks(needed), names, schema)

    def groups(self, data: Any, function: TableFunction, n_rows: int) -> list[tuple[Any, int, int]]:
        """Read a Dataset once and keep its rows after a function, in their order, in tables of `n_rows` rows (the last may have
        fewer) in the object store. Returns for each a reference to an Arrow table, its rows and its size in bytes."""
        _refuse_other(data)
        work = MappedBlock(SerializedFunction.of(function), tensors=False)
        with _answering("preparation of a search"):
            prepared = _own_copy(data).map_batches(RaylineTask(work), batch_format="pyarrow")
            groups = [
                (join_blocks.options(num_returns=2).remote(pieces), sum(piece.stop - piece.start for piece in pieces))
                for pieces in _cut(_rows(prepared), n_rows)
            ]
            with patience(lambda: busy("the rows of a Dataset are prepared")):
                return [(table, n, ray.get(size)) for (table, size), n in groups]

    def train(
        self,
        function: Callable[[Any], Any],
        *,
        train: Any,
        test: Any = None,
        prepare: TableFunction | None = None,
        prepare_test: TableFunction | None = None,
        backend: str = "actors",
        together: str | None = None,
        storage_path: str | Path | None = None,
        **options: Any,
    ) -> list[Any]:
        """Run a function on a group of workers, each with its share of the rows, and return its result on each rank.

        The rows are prepared where they are stored and stay in the object store; the ranks get equal numbers of rows, in
        order.

        Parameters
        ----------
        function, options
            See `group.TrainingCall`.
        train, test
            A ray.data.Dataset, a table in this process or `StoredBlocks`, which are prepared; None for a training without data.
        prepare, prepare_test
            Functions of tables for the rows of `train` and of `test`.
        backend
            "actors", or "ray_train" (see `train_backend`), which keeps no workers.
        together
            A column of the prepared rows whose equal values stay on one rank; the ranks' shares are then only nearly equal.
        storage_path
            A directory or a URI for checkpoints that every node can reach; without it the driver keeps the last checkpoint.

        Raises
        ------
        ResourceError
            Before anything starts, when the cluster has no room or nothing can be written to `storage_path`.
        DataError
            When there are fewer rows than workers.
        TrainingError
            When a rank fails; its cause is the worker's error. A RaylineError of the function is raised unchanged.
        """
        call = TrainingCall(function=function, **options)
        ensure_ray()
        call.plan()  # refuse what the cluster has no room for before writing anything
        if storage_path is not None:
            call = replace(call, storage=_storage(storage_path))

        def rows() -> tuple[list[BlockSlice], list[BlockSlice] | None]:
            return _all_rows(train, test, prepare, prepare_test, call.max_workers, call.min_workers)

        if backend == "ray_train":
            from rayline.engine.train_backend import RayTrainRun  # Ray Train takes a second to import

            _refuse_together(together)
            return RayTrainRun(call).run(*rows())
        kept = kept_rows(train)
        return DistributedRun(call).run(
            lambda: _shards(
                *(shards := rows()), call.max_workers, together, stay=kept is not None and kept.has_prepared(shards[0])
            )
        )

    def starting(
        self,
        load: Callable[[], object],
        *,
        reuse: str,
        num_workers: int,
        resources_per_worker: Mapping[str, float] | None = None,
        use_gpu: bool = False,
    ) -> AbstractContextManager[None]:
        """Start the workers of a `train` with the same arguments that comes within a context; they call `load` meanwhile.

        Raises ResourceError when the cluster, even empty, has no room for them.
        """
        ensure_ray()
        plan = PlacementPlan.of(num_workers, resources_per_worker, use_gpu=use_gpu)
        return KEPT.starting(GroupKey.of(reuse, plan), packed_function(load))

    def in_order(
        self, submit: Callable[..., Any], arguments: Iterable[tuple[Any, ...]], most: int, get: Callable[[Any], Any]
    ) -> Iterator[Any]:
        """Submit tasks, at most some at a time, and yield their results in order: see `tasks.in_order`."""
        return in_order(submit, arguments, most, get)

    def require(self, needs: Mapping[str, float]) -> None:
        """Raise ResourceError when no node of the running Ray, even an empty one, has these resources."""
        ensure_ray()
        refuse_no_room(needs)

    def nodes(self, n: int, needs: Mapping[str, float]) -> list[Mapping[str, float]]:
        """Return the resources of each node of the cluster; where they have no room for so many workers, an autoscaler adds some first,
        if it can."""
        ensure_ray()
        return list(nodes_for(n, needs).values())

    def can_grow(self) -> bool:
        """Return whether an autoscaler adds nodes to the cluster."""
        return can_grow()

    def coming(self) -> str:
        """Return what an autoscaler does, as the last part of a line about a wait; empty where there is none."""
        return coming()

    def holders(self, used: Mapping[str, float]) -> str:
        """Return who holds these amounts of resources, by name."""
        return ", ".join(filter(None, (holders(name, amount) for name, amount in used.items())))

    def n_gpus(self) -> float:
        """Return the GPUs of the cluster, free or not."""
        ensure_ray()
        return float(ray.cluster_resources().get("GPU", 0.0))

    def worker_memory(
        self, num_workers: int, resources_per_worker: Mapping[str, float] | None, *, use_gpu: bool = False
    ) -> int | None:
        """Return the bytes of memory that each worker may use: as requested, or its part of its node's memory outside the object
        store; None where Ray does not say."""
        ensure_ray()
        return PlacementPlan.of(num_workers, resources_per_worker, use_gpu=use_gpu).memory_bytes

    def share(self, num_workers: int, resources: Mapping[str, float]) -> float:
        """Return the CPUs that each worker gets when a framework starts the workers itself: as requested, or an equal share.

        Raises ResourceError when the cluster, even empty, has no room for them.
        """
        return PlacementPlan.of(num_workers, resources, use_gpu=False).cpus


def _gpu_pool(placement: Placement) -> tuple[ActorPoolStrategy, float | None]:
    """Return actors for `map`, as many as asked for, otherwise as many as the cluster's GPUs hold, at least one; and the CPUs of each.

    Two calls run in an actor at a time: while one computes on the GPU, the other reads and preprocesses its rows.
    """
    n, num_cpus = _n_actors(placement), placement.num_cpus
    if num_cpus is None and max_workers({"CPU": 1.0, "GPU": placement.num_gpus or 0.0}, spare_cpus=1.0) < n:
        num_cpus = 0  # Ray 2.60 gives each 1 CPU, and the tasks that read the rows would have none left: all would wait
    sizes = {"size": n} if placement.concurrency else {"min_size": 1, "max_size": n}
    return ActorPoolStrategy(**sizes, max_concurrent_calls_per_actor=2, enable_true_multi_threading=True), num_cpus


def _n_actors(placement: Placement) -> int:
    """Return the number of actors with GPUs. Raises ResourceError when there is no room for them."""
    actors = {"CPU": placement.num_cpus or 0.0, "GPU": placement.num_gpus or 0.0}
    with at("transform"):
        refuse_no_room(actors, placement.concurrency or 1, spare_cpus=1.0)
    return placement.concurrency or max_workers(actors, spare_cpus=1.0)


@contextlib.contextmanager
def _part_writers(placement: Placement) -> Iterator[tuple[int, Callable[[], Any]]]:
    """Yield the most parts to write at a time, and a function that submits the writing of one: as a task, or in turn to
    actors that keep a model on their GPUs."""
    if not placement.num_gpus:
        task = write_part.options(num_cpus=placement.num_cpus or 1)
        yield placement.concurrency or max(2, int(ray.cluster_resources().get("CPU", 1))), task.remote
        return
    free_of = int(ray.available_resources().get("GPU", 0.0) / placement.num_gpus)
    n = placement.concurrency or max(1, min(_n_actors(placement), free_of))
    make = PartWriter.options(num_cpus=placement.num_cpus or 0, num_gpus=placement.num_gpus)  # type: ignore[attr-defined]
    actors = [make.remote() for _ in range(n)]
    turn = itertools.cycle(actors)

    def submit(*given: Any) -> Any:
        return next(turn).write.remote(*given)

    try:
        yield 2 * n, submit
    finally:
        for actor in actors:
            ray.kill(actor)


def _all_rows(
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


def _shards(
    rows: list[BlockSlice], others: list[BlockSlice] | None, n: int, together: str | None, *, stay: bool
) -> DataShards:
    """Divide the rows among n workers. `stay` says whether the same references come again in the next training of the same rows."""

    def divided(pieces: list[BlockSlice]) -> list[list[BlockSlice]]:
        return shared(pieces, n) if together is None else kept_together(pieces, n, together)

    shards = divided(rows) if rows else [[]] * n
    if rows and together is not None:
        _refuse_empty_shards(shards, together)
    return DataShards(shards, None if others is None else divided(others), stay=stay and together is None)


def _refuse_together(together: str | None) -> None:
    if together is not None:
        raise ParameterError(
            f"{WHERE}: Ray Train divides the rows itself, and the groups of {together!r} must stay whole.",
            "Expected backend='actors' for a ranking.",
            "leave backend out, and pass a number of workers.",
        )


def _joined(blocks: Iterator[Any], names: Sequence[str], schema: pl.Schema) -> pl.DataFrame:
    frames = [frame for frame in map(to_frame, blocks) if frame.width]
    if not frames:
        return pl.DataFrame(schema={name: schema[name] for name in names})
    return pl.concat(frames, how="vertical_relaxed", rechunk=False) if len(frames) > 1 else frames[0]


def _unchanged(block: pa.Table) -> pa.Table:
    return block


def _merged(
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


def _tasks(bundles: Iterator[Any], work: BlockTask) -> Iterator[tuple[ray.ObjectRef[pa.Table], int, int]]:
    """Run a function on each block in a task of its own, at most two per CPU at a time, and yield references to what it made, in
    order, and the numbers of their rows and bytes."""
    task, shipped = run_on_block.options(num_returns=2), ray.put(work)
    most = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    blocks = ((shipped, ref) for bundle in bundles for ref in bundle.block_refs)
    return in_order(task.remote, blocks, most, lambda made: (made[0], *ray.get(made[1])))


def _placed(data: Any, prepare: TableFunction | None, num_workers: int) -> list[BlockSlice]:
    """Prepare the rows and return references to them in the object store."""
    if data is None:
        return []
    if isinstance(data, StoredBlocks):
        return [BlockSlice(ref, 0, n) for ref, n in zip(data.references, data.heights, strict=True)]
    if isinstance(data, Dataset):
        work = MappedBlock(SerializedFunction.of(prepare or _as_it_is), tensors=False)
        kept = kept_rows(data)
        with _answering("preparation for training"):
            if kept is not None and kept.can_continue:
                return _prepared(kept, work)
            return list(_rows(_own_copy(data).map_batches(RaylineTask(work), batch_format="pyarrow")))
    engine = registry.engine_for(data)
    frame: pl.DataFrame = engine.collect(data if prepare is None else engine.map(data, prepare))
    size = max(1, min(-(-frame.height // num_workers), int(PART_BYTES / max(frame.estimated_size(), 1) * frame.height)))
    with _answering("preparation for training"):
        return [BlockSlice(ray.put(to_block(part, tensors=False)), 0, part.height) for part in frame.iter_slices(size)]


def _prepared(kept: KeptRows, work: MappedBlock) -> list[BlockSlice]:
    """Return kept rows after a function; those of a small Dataset stay for the next training with the same function."""
    rows = kept.prepared(work.function.digest)
    if rows is None:
        made = [*_tasks(kept.bundles(last=True), BlockTask(work))]
        rows = [BlockSlice(ref, 0, n_rows) for ref, n_rows, _ in made if n_rows]
        kept.keep_prepared(work.function.digest, rows, sum(size for *_, size in made))
    return rows


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


def _storage(path: str | Path) -> CheckpointStore:
    try:
        return CheckpointStore.begin(path)
    except (OSError, ValueError, ImportError) as error:
        raise ResourceError(
            f"{WHERE}: storage_path {str(path)!r} cannot be written: {first_line(error)}.",
            "Expected a directory or a URL that Arrow or fsspec can write to (s3://…, gs://…, hdfs://…).",
            "check the path and the rights.",
        ) from error


def _refuse_other(data: Any) -> None:
    if not isinstance(data, Dataset):
        raise SchemaError(
            f"A {type(data).__name__} is not a table.",
            "Expected a ray.data.Dataset, or a table in this process.",
            "pass the Dataset that it comes from, or collect it first.",
        )


def _possible(placement: Placement | None) -> Placement:
    """Return the placement if some node has its resources. Raises ResourceError otherwise."""
    placement = placement or Placement()
    needs = {"CPU": placement.num_cpus or 0.0, "GPU": placement.num_gpus or 0.0}
    if any(needs.values()):
        with at("transform"):
            refuse_no_room({name: amount for name, amount in needs.items() if amount})
    return placement


def _own_copy(data: Dataset) -> Dataset:
    """Return the same dataset with Rayline's settings: no progress bar, blocks in order, errors as they were raised."""
    _refuse_no_cpu_left(data)
    own: Dataset = dataset_for_reading(data)
    own.context.enable_progress_bars = False
    own.context.execution_options.preserve_order = True
    own.context.raise_original_map_exception = True
    return own


def _batch_size(data: Dataset) -> int | None:
    """Return the minimum rows per task; None for one block per task, which Ray Data can fuse with reading."""
    many = isinstance(data, MaterializedDataset) and data.num_blocks() > 1
    return BLOCK_ROWS if many and data.count() < data.num_blocks() * BLOCK_ROWS else None


def _rows(data: Dataset) -> Iterator[BlockSlice]:
    """Iterate over the blocks in row order, as references to the object store."""
    for bundle in _bundles(data):
        for entry in bundle.blocks:
            rows = entry.metadata.num_rows
            if rows:
                yield BlockSlice(entry.ref, 0, rows)


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


def _bundles(data: Dataset) -> Iterator[Any]:
    """Iterate over the blocks as references, as they become ready; when the first takes long, report the likely reason."""
    _refuse_no_cpu_left(data)
    with patience(lambda: busy("no rows of a Dataset are there yet")) as is_over:
        for bundle in ref_bundles(data):
            is_over()
            yield bundle


def _cut(pieces: Iterator[BlockSlice], n_rows: int) -> Iterator[list[BlockSlice]]:
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


def _blocks(data: Dataset) -> Iterator[Any]:
    """Iterate over the blocks as they become ready."""
    for bundle in _bundles(data):
        yield from ray.get(list(bundle.block_refs))


_LACKING = re.compile(r'Field \\?"(.+?)\\?" does not exist')


def _disagreement(what: str) -> SchemaError:
    return SchemaError(
        f"The blocks of the dataset disagree: {what}.",
        "Expected every column in every block, in one type and one time zone.",
        "give them one type where they are read (schema=… of data.read_csv), or cast in ds.map_batches.",
    )


@contextlib.contextmanager
def _answering(what: str) -> Iterator[None]:
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


# -- types -----------------------------------------------------------------------------------------------------------------


def _schema_of(data: Dataset) -> pl.Schema:
    known = data.schema(fetch_if_missing=False)
    kept = kept_rows(data)
    if known is None and kept is not None:
        with patience(lambda: busy("no rows of a Dataset are there yet") or FIRST):
            block = kept.first_block()
        return pl.Schema() if block is None else to_frame(ray.get(block)).schema
    if known is None:
        with patience(lambda: busy("no rows of a Dataset are there yet") or COSTLY):
            known = _own_copy(data).schema()
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
    frames = [to_frame(block) for block in _blocks(_own_copy(data).limit(SAMPLE_ROWS))]
    frames = [frame for frame in frames if frame.width]
    return pl.concat(frames, how="vertical_relaxed").schema if frames else pl.Schema()

"""The engine for Ray Datasets: scan, map, collect and train, with Polars inside Ray's tasks."""

from __future__ import annotations

import contextlib
import itertools
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

from rayline.compat.ray import dataset_for_reading, single_blocks
from rayline.core import memory
from rayline.core.engine import Engine, Placement
from rayline.core.errors import (
    ResourceError,
    SchemaError,
    at,
    counted,
    first_line,
)
from rayline.core.memory import readable_size
from rayline.core.parquet_parts import PartFiles
from rayline.core.scan import Scan, TableFunction
from rayline.core.scan_results import ScanResults
from rayline.core.schema import col, stacked
from rayline.core.waiting import patience
from rayline.engine.actor_pool import ActorPool
from rayline.engine.blocks import (
    BlockTask,
    MappedBlock,
    PartialScan,
    PartWriter,
    RaylineActor,
    RaylineTask,
    SerializedFunction,
    Spans,
    join_blocks,
    to_frame,
    write_part,
)
from rayline.engine.checkpoints import CheckpointStore
from rayline.engine.group import DataShards, DistributedRun, TrainingCall, packed_function
from rayline.engine.holders import holders
from rayline.engine.kept_groups import KEPT, GroupKey
from rayline.engine.kept_rows import keeping, kept_rows, materialized, runs_functions
from rayline.engine.nodes import can_grow, coming, nodes_for
from rayline.engine.object_refs import BlockSlice
from rayline.engine.placement import WHERE, PlacementPlan, busy, max_workers, refuse_no_room
from rayline.engine.reading import (
    bundles_of,
    each_block,
    executing,
    of_small_blocks,
    refuse_other_tables,
    regrouped,
    schema_of_dataset,
    slices_of,
    task_batch,
    with_own_settings,
)
from rayline.engine.session import ensure_ray
from rayline.engine.small_blocks import for_many_cpus, known_rows
from rayline.engine.tasks import in_order, merged_in_tasks
from rayline.engine.training_rows import prepared_slices, refuse_groups, rows_for_training, shards_of

GPU_ROWS = 4096
"""Default batch size of a worker with a GPU, in rows."""


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
        return keeping(data, lambda one: bundles_of(with_own_settings(one)))

    def kept(self, data: Any) -> Any:
        rows = kept_rows(data)
        if rows is not None and not rows.stays:
            with executing("reading"):
                rows.complete()
        return materialized(data)

    def head(self, data: Any, n_rows: int, columns: Sequence[str] | None = None) -> pl.DataFrame:
        kept, names = kept_rows(data), list(self.schema(data)) if columns is None else columns
        with executing("head"):
            blocks = None if kept is None else kept.first_blocks(n_rows)
            if blocks is not None:
                return _joined(iter(ray.get(blocks)), names, self.schema(data)).select(map(col, names)).head(n_rows)
        return super().head(dataset_for_reading(data, single_blocks), n_rows, names)

    def count(self, data: Any) -> int:
        refuse_other_tables(data)
        kept = kept_rows(data)
        with executing("count"):
            if kept is not None and not kept.stays and kept.can_continue:
                return sum(known_rows(bundle.blocks) for bundle in kept.bundles())
            return int(data.count())

    def schema(self, data: Any) -> pl.Schema:
        refuse_other_tables(data)
        schema = _schemas.get(data)
        if schema is None:
            with executing("schema"):
                schema = _schemas[data] = schema_of_dataset(data)
        return schema

    def scan(self, data: Any, scan: Scan) -> dict[int, ScanResults]:
        schema = self.schema(data)
        columns = scan.columns(schema)
        source, before = _mapped.get(data, (data, None))
        kept = kept_rows(source)
        if kept is not None and kept.can_continue:
            with executing("scan"):
                work = BlockTask(PartialScan.of(scan), tuple(columns), before)
                partial = ((ref, size_bytes) for ref, _, size_bytes in kept.results(work))
                return merged_in_tasks(partial, scan, schema, columns)
        with executing("scan"):
            block_results = of_small_blocks(data, PartialScan.of(scan), None if columns == list(schema) else columns)
            entries = (entry for bundle in bundles_of(block_results) for entry in bundle.blocks)
            partial = ((entry.ref, getattr(entry.metadata, "size_bytes", None) or 0) for entry in entries)
            return merged_in_tasks(partial, scan, schema, columns)

    def map(self, data: Any, function: TableFunction, placement: Placement | None = None) -> Any:
        refuse_other_tables(data)
        placement = _possible(placement)
        work = MappedBlock(SerializedFunction.of(function))
        source = materialized(data)
        mapped: Dataset = dataset_for_reading(source, None if runs_functions(source) else for_many_cpus)
        options: dict[str, Any] = {
            "batch_format": "pyarrow",
            "batch_size": placement.batch_size or task_batch(mapped, work),
        }
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
        refuse_other_tables(data)
        placement = _possible(placement)
        shipped = ray.put(SerializedFunction.of(function))
        written = 0

        def left() -> Iterator[tuple[Any, ...]]:
            nonlocal written
            for number, pieces in enumerate(regrouped(slices_of(with_own_settings(data)), files.rows_per_file)):
                if number in done:
                    written += files.n_rows(number)
                else:
                    spans, blocks = _as_arguments(pieces)
                    yield number, spans, shipped, files, placement.batch_size, *blocks

        with executing("write"), _part_writers(placement) as (max_tasks, submit):
            for n_rows in in_order(submit, left(), max_tasks, ray.get):
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
        with executing("collect"):
            if kept is not None and kept.can_continue:
                work = BlockTask(_unchanged, tuple(names), before)
                return _joined((ray.get(ref) for ref, *_ in kept.results(work)), names, schema)
            needed = with_own_settings(data)
            if names != list(schema):
                needed = needed.select_columns(names)
            return _joined(each_block(needed), names, schema)

    def groups(self, data: Any, function: TableFunction, n_rows: int) -> list[tuple[Any, int, int]]:
        """Read a Dataset once and keep its rows after a function, in their order, in tables of `n_rows` rows (the last may have
        fewer) in the object store. Returns for each a reference to an Arrow table, its rows and its size in bytes."""
        refuse_other_tables(data)
        with executing("preparation of a search"):
            groups = [
                (join_blocks.options(num_returns=2).remote(spans, *blocks), sum(n for _, n in spans))
                for spans, blocks in map(_as_arguments, regrouped(prepared_slices(data, function), n_rows))
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
            return rows_for_training(train, test, prepare, prepare_test, call.max_workers, call.min_workers)

        if backend == "ray_train":
            from rayline.engine.train_backend import RayTrainRun  # Ray Train takes a second to import

            refuse_groups(together)
            return RayTrainRun(call).run(*rows())
        kept = kept_rows(train)

        def shares() -> DataShards:
            prepared, others = rows()
            stay = kept is not None and bool(prepared) and kept.has_result(prepared[0].block)
            return shards_of(prepared, others, call.max_workers, together, stay=stay)

        return DistributedRun(call).run(shares)

    def starting(
        self,
        load: Callable[[], object],
        *,
        reuse: str,
        num_workers: int,
        resources_per_worker: Mapping[str, float] | None = None,
        use_gpu: bool = False,
        spread: bool = False,
        timeout_s: float | None = None,
    ) -> AbstractContextManager[None]:
        """Start the workers of a `train` with the same arguments that comes within a context; they call `load` meanwhile.

        Raises ResourceError when the cluster, even empty, has no room for them.
        """
        ensure_ray()
        plan = PlacementPlan.of(num_workers, resources_per_worker, use_gpu=use_gpu, spread=spread, timeout_s=timeout_s)
        return KEPT.starting(GroupKey.of(reuse, plan), packed_function(load))

    def pool(self, n: int, bundles: Sequence[Mapping[str, float]], work: Any, **options: Any) -> ActorPool:
        """Start actors that run calls, each with these resources: see `actor_pool.ActorPool`."""
        ensure_ray()
        return ActorPool(n, bundles, work, **options)

    def in_order(
        self,
        submit: Callable[..., Any],
        arguments: Iterable[tuple[Any, ...]],
        max_tasks: int,
        get: Callable[[Any], Any],
    ) -> Iterator[Any]:
        """Submit tasks, at most some at a time, and yield their results in order: see `tasks.in_order`."""
        return in_order(submit, arguments, max_tasks, get)

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
        self,
        num_workers: int,
        resources_per_worker: Mapping[str, float] | None,
        *,
        use_gpu: bool = False,
        timeout_s: float | None = None,
    ) -> int | None:
        """Return the bytes of memory that each worker may use: as requested, or its part of its node's memory outside the object
        store; None where Ray does not say."""
        ensure_ray()
        return PlacementPlan.of(num_workers, resources_per_worker, use_gpu=use_gpu, timeout_s=timeout_s).memory_bytes

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
    KEPT.release(actors)
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
    n = placement.concurrency or _n_actors(placement)
    if not placement.concurrency:
        n = max(1, min(n, int(ray.available_resources().get("GPU", 0.0) / placement.num_gpus)))
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


def _joined(blocks: Iterator[Any], names: Sequence[str], schema: pl.Schema) -> pl.DataFrame:
    frames = [frame for frame in _while_they_fit(map(to_frame, blocks)) if frame.width]
    return stacked(frames) if frames else pl.DataFrame(schema={name: schema[name] for name in names})


def _while_they_fit(frames: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Yield tables that this process is to hold together. Raises ResourceError when not even one more like the last has room."""
    n_rows, held = 0, 0.0
    for frame in frames:
        size = frame.estimated_size()
        n_rows, held, free = n_rows + frame.height, held + size, memory.available_bytes()
        if free is not None and size > free:
            raise ResourceError.here(
                f"the first {counted(n_rows, 'row')} of a Dataset take {readable_size(held)}, and this process has {readable_size(free)} left.",
                "Expected room for all rows, as num_workers=None asks for them in one process.",
                "train on workers (num_workers=1 or more), or on fewer rows.",
            )
        yield frame


def _as_arguments(pieces: Sequence[BlockSlice]) -> tuple[Spans, list[Any]]:
    """Return block slices as arguments of a task: Ray fetches blocks that are arguments themselves at once."""
    return [(piece.start, piece.n_rows) for piece in pieces], [piece.block for piece in pieces]


def _unchanged(block: pa.Table) -> pa.Table:
    return block


def _storage(path: str | Path) -> CheckpointStore:
    try:
        return CheckpointStore.begin(path)
    except (OSError, ValueError, ImportError) as error:
        raise ResourceError(
            f"{WHERE}: storage_path {str(path)!r} cannot be written: {first_line(error)}.",
            "Expected a directory or a URL that Arrow or fsspec can write to (s3://…, gs://…, hdfs://…).",
            "check the path and the rights.",
        ) from error


def _possible(placement: Placement | None) -> Placement:
    """Return the placement if some node has its resources. Raises ResourceError otherwise."""
    placement = placement or Placement()
    needs = {"CPU": placement.num_cpus or 0.0, "GPU": placement.num_gpus or 0.0}
    if any(needs.values()):
        with at("transform"):
            refuse_no_room({name: amount for name, amount in needs.items() if amount})
    return placement

"""Private names of Ray."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeAlias

from rayline.compat.private_name import register

RAY = "ray 2.60.0"

BundleGroups: TypeAlias = Callable[[Sequence[Any]], Iterator[list[Any]]]
"""Divides bundles of blocks among tasks, in their order."""

_INTERNAL_KV = register(
    "ray.experimental.internal_kv:_internal_kv_put",
    RAY,
    use="Pass the error of an RLlib environment on a worker to the driver.",
    fallback="The error names RLlib's own cause only.",
)
_INTERNAL_KV_GET = register(
    "ray.experimental.internal_kv:_internal_kv_get", RAY, use=_INTERNAL_KV.use, fallback=_INTERNAL_KV.fallback
)
_INTERNAL_KV_DELETE = register(
    "ray.experimental.internal_kv:_internal_kv_del", RAY, use=_INTERNAL_KV.use, fallback=_INTERNAL_KV.fallback
)
_REF_BUNDLES = register(
    "ray.data:Dataset.iter_internal_ref_bundles",
    RAY,
    use="Iterate over the blocks of a Dataset as references, as they are computed, with their numbers of rows.",
    fallback="Dataset.to_arrow_refs: all blocks are computed first, and one task a block counts its rows.",
)


_LOGICAL_PLAN = register(
    "ray.data._internal.logical.interfaces:LogicalPlan.dag",
    RAY,
    use="See whether reading a Dataset runs the user's functions: only then are rows that are read twice kept in the object store.",
    fallback="Every Dataset counts as one that runs functions.",
)
_INPUT_DATA = register(
    "ray.data._internal.logical.operators.input_data_operator:InputData",
    RAY,
    use="Make a Dataset of blocks that are in the object store already, with their metadata.",
    fallback="ray.data.from_arrow_refs, which runs a task for each block.",
)

_MERGE_BUNDLES = register(
    "ray.data._internal.execution.interfaces:RefBundle.merge_ref_bundles",
    RAY,
    use="Give a task of Ray Data several small blocks.",
    fallback="Each block is a task of its own.",
)
_AUTO_BATCHES = register(
    "ray.data._internal.execution.operators.map_transformer:_compute_auto_batch_size",
    RAY,
    use="Put the small blocks of a task together into batches of 16 MiB.",
    fallback=_MERGE_BUNDLES.fallback,
)

_CLUSTER_STATE = register(
    "ray._raylet:InnerGcsClient.get_cluster_resource_state",
    RAY,
    use="See whether tasks, actors or placement groups wait for resources, also on a Ray without dashboard.",
    fallback="Idle workers that were kept for the next training end after their time only.",
)
_CLUSTER_STATE_REPLY = register(
    "ray.core.generated.autoscaler_pb2:GetClusterResourceStateReply",
    RAY,
    use="Read the answer to that question.",
    fallback=_CLUSTER_STATE.fallback,
)
_STATE_ACCESSOR = register(
    "ray._private.state:GlobalState._connect_and_get_accessor",
    RAY,
    use="Name the actors that hold a resource that is waited for, and the programs that they belong to.",
    fallback="The line about a wait names placement groups only.",
)
_STATE_MESSAGES = register(
    "ray.core.generated.gcs_pb2:ActorTableData",
    RAY,
    use="Read the actors and the programs that Ray's head node knows.",
    fallback=_STATE_ACCESSOR.fallback,
)
_FILE_SYSTEM = register(
    "ray.data.datasource.file_based_datasource:FileBasedDatasource",
    RAY,
    "_filesystem",
    use="Compare sizes and times of the files of a small Dataset: its rows are kept from one fit to the next while they are the same.",
    fallback="Such a Dataset is read again by each fit.",
)
_FOOTER_INDEXER = register(
    "ray.data._internal.datasource_v2.formats.parquet.footer_file_indexer:FooterFileIndexer",
    RAY,
    "_iter_file_infos_for_list",
    "_coalesce_bytes",
    use="Read the footers of up to 64 Parquet files in the task that lists them.",
    fallback="Ray Data starts 32 actors for them, which takes about a second each time that a Dataset is read.",
    since="2.60",
)
_FOOTER_MANIFEST = register(
    "ray.data._internal.datasource_v2.formats.parquet.footer_file_indexer:_file_chunks_to_manifest",
    RAY,
    use="Tell the tasks that read what the footers say.",
    fallback=_FOOTER_INDEXER.fallback,
    since="2.60",
)
_FOOTER_READER = register(
    "ray.data._internal.datasource_v2.formats.parquet.footer_reader:FooterReader",
    RAY,
    use="Read a footer as Ray Data does.",
    fallback=_FOOTER_INDEXER.fallback,
    since="2.60",
)
_BIN_PACKER = register(
    "ray.data._internal.datasource_v2.common.online_bin_packer:OnlineBinPacker",
    RAY,
    "_cap",
    "_shared",
    "_split_coalesced",
    "_output",
    "_bin_to_manifest",
    use="Divide what is read of Parquet files evenly among tasks.",
    fallback="Parts of 128 MiB: of few, some CPUs read more than others.",
    since="2.60",
)
_BIN_POOL = register(
    "ray.data._internal.datasource_v2.common.online_bin_packer:_SharedBinPool",
    RAY,
    "_max_open_bins",
    use=_BIN_PACKER.use,
    fallback=_BIN_PACKER.fallback,
    since="2.60",
)
_BIN_PIECES = register(
    "ray.data._internal.datasource_v2.common.online_bin_packer:_slice_bin_item",
    RAY,
    use="Cut such a part between its row groups.",
    fallback=_BIN_PACKER.fallback,
    since="2.60",
)
_SERIALIZER = register(
    "ray.util.serialization:StandaloneSerializationContext._register_cloudpickle_serializer",
    RAY,
    use="Pickle Polars tables without holding the GIL, also before there is a Ray.",
    fallback="Polars pickles them itself and holds the GIL: it never ends where its threads release blocks of Ray's object store then.",
)
_APPLY_TRANSFORM = register(
    "ray.data._internal.logical.interfaces:LogicalOperator._apply_transform",
    RAY,
    use="Replace the operator that lists files.",
    fallback=_FOOTER_INDEXER.fallback,
)
_DEEP_COPY = register(
    "ray.data:Dataset.copy",
    RAY,
    "_deep_copy",
    use="Give a Dataset settings of its own, so that the caller's keeps its.",
    fallback="copy.deepcopy of the Dataset.",
)
_TEMP_DIR = register(
    "ray:init",
    RAY,
    "_temp_dir",
    use="Start Ray in a directory of a short path, where the usual one is too long for its sockets.",
    fallback="Ray starts in its usual directory and says that the path is too long.",
)


def put_cluster_value(key: str, value: str) -> None:
    """Store a text in Ray's head node, where the driver can read it."""
    put = _INTERNAL_KV.find()
    if put is not None:
        put(key, value)


def get_cluster_value(key: str) -> str | None:
    """Return the text stored under a key, or None."""
    get = _INTERNAL_KV_GET.find()
    value = None if get is None else get(key)
    return value.decode() if value else None


def delete_cluster_value(key: str) -> None:
    """Delete what is stored under a key."""
    delete = _INTERNAL_KV_DELETE.find()
    if delete is not None:
        delete(key)


def pickle_tables() -> None:
    """Let Ray pickle Polars tables without holding the GIL: threads of Polars that release a block of the object store need it, and
    pickling waits for these threads. What is pickled is read by Polars alone."""
    register_serializer = _SERIALIZER.find()
    if register_serializer is not None:
        import polars as pl

        def pickled(table: pl.DataFrame) -> bytes:
            return table.write_ipc(None, compat_level=pl.CompatLevel.newest()).getvalue()

        register_serializer(None, pl.DataFrame, pickled, pl.read_ipc)


def ref_bundles(data: Any) -> Iterator[Any]:
    """Iterate over the blocks of a Dataset as Ray's `RefBundle`s: `blocks` (each with `ref` and `metadata.num_rows`), `block_refs`."""
    plan = getattr(data, "_logical_plan", None)
    stored = None if plan is None or _LOGICAL_PLAN.find() is None else _stored(plan.dag)
    if stored is not None:  # nothing to execute
        yield from stored
        return
    if _REF_BUNDLES.find() is not None:
        yield from data.iter_internal_ref_bundles()
        return
    import ray

    count = ray.remote(_n_rows)
    for ref in data.to_arrow_refs():
        n_rows = ray.get(count.remote(ref))
        yield SimpleNamespace(
            blocks=[SimpleNamespace(ref=ref, metadata=SimpleNamespace(num_rows=n_rows))], block_refs=[ref]
        )


SOURCES = frozenset(
    {
        "Read", "ListFiles", "ReadFiles", "InputData", "FromArrow", "FromBlocks", "FromItems", "FromNumpy", "FromPandas",
        "AbstractFrom", "Project", "Limit", "Union",
    }
)  # fmt: skip
"""Kinds of operators of Ray Data that only read or select."""


def operator_names(data: Any) -> list[tuple[str, str]]:
    """Return the kind and the name of each operator that a Dataset runs when it is read."""
    plan = getattr(data, "_logical_plan", None)
    if plan is None or _LOGICAL_PLAN.find() is None:
        return [("", "")]
    return [(type(operator).__name__, operator.name) for operator in plan.dag.post_order_iter()]


def has_unmet_demand() -> bool:
    """Return whether something in this process' cluster waits for resources."""
    import ray

    reply = _CLUSTER_STATE_REPLY.find()
    if reply is None or _CLUSTER_STATE.find() is None or not ray.is_initialized():  # a question would start a Ray
        return False
    try:
        parsed = reply.FromString(gcs_client(ray.get_runtime_context().gcs_address).get_cluster_resource_state())
    except Exception:  # the head node does not answer: no other work waits for these workers
        return False
    state = parsed.cluster_resource_state
    return bool(state.pending_resource_requests or state.pending_gang_resource_requests)


class LiveActor(NamedTuple):
    """An actor that runs: its class, its name, what it holds beside a placement group, its job and the command of that."""

    class_name: str
    name: str
    resources: Mapping[str, float]
    job: str
    program: str


def live_actors() -> list[LiveActor]:
    """Return the actors that run in this process' cluster; none where Ray does not say."""
    import ray

    message = _STATE_MESSAGES.find()
    if message is None or _STATE_ACCESSOR.find() is None or not ray.is_initialized():
        return []
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import JobTableData

    try:
        accessor = state._connect_and_get_accessor()
        jobs = accessor.get_job_table(skip_submission_job_info_field=True, skip_is_running_tasks_field=True)
        programs = {job.job_id: job.entrypoint for job in map(JobTableData.FromString, jobs)}
        actors = [message.FromString(packed) for packed in accessor.get_actor_table(None, None)]
    except Exception:  # only a hint is lost
        return []
    return [
        LiveActor(
            actor.class_name,
            actor.name,
            dict(actor.required_resources),
            actor.job_id.hex(),
            programs.get(actor.job_id, ""),
        )
        for actor in actors
        if actor.state == message.ALIVE
    ]


@functools.cache
def gcs_client(address: str) -> Any:
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    return GcsClient(address=address)


def input_files(data: Any, max_files: int) -> list[tuple[str, int, int]] | None:
    """Return path, size in bytes and time of change (ns) of each file that a Dataset reads; None when it reads anything else, more
    than `max_files` files, or what Ray does not say."""
    plan = getattr(data, "_logical_plan", None)
    if plan is None or _LOGICAL_PLAN.find() is None:
        return None
    files: list[tuple[str, int, int]] = []
    for operator in plan.dag.post_order_iter():
        if operator.input_dependencies:
            continue
        source = getattr(operator, "datasource", None)
        paths = getattr(operator, "source_paths", None) or operator.infer_metadata().input_files
        system = getattr(operator, "filesystem", None) or getattr(source, "_filesystem", None)
        if not paths or system is None:
            return None
        listed = _listed(system, list(paths), max_files)
        if listed is None:
            return None
        files += listed
    return files if len(files) <= max_files else None


def _listed(system: Any, paths: list[str], max_files: int) -> list[tuple[str, int, int]] | None:
    from pyarrow import fs

    if len(paths) > max_files:
        return None
    try:
        infos = system.get_file_info(paths)
        for folder in [info.path for info in infos if info.type == fs.FileType.Directory]:
            infos += system.get_file_info(fs.FileSelector(folder, recursive=True))
    except Exception:  # a storage that does not answer now: the reading will say what is wrong
        return None
    files = [info for info in infos if info.type == fs.FileType.File]
    if len(files) > max_files or any(info.mtime_ns is None for info in files):
        return None
    return [(info.path, info.size, info.mtime_ns) for info in files]


def dataset_of_bundles(data: Any, bundles: list[Any]) -> Any:
    """Return a materialised Dataset of blocks that another one has yielded."""
    import ray

    if _INPUT_DATA.find() is None:
        return ray.data.from_arrow_refs([ref for bundle in bundles for ref in bundle.block_refs])
    from ray.data._internal.execution.interfaces import RefBundle
    from ray.data._internal.logical.interfaces import LogicalPlan
    from ray.data._internal.logical.operators.input_data_operator import InputData
    from ray.data._internal.stats import DatasetStats
    from ray.data.dataset import MaterializedDataset

    inputs = [RefBundle(blocks=bundle.blocks, owns_blocks=False, schema=bundle.schema) for bundle in bundles]
    plan = LogicalPlan(InputData(input_data=inputs), data.context)
    return MaterializedDataset(plan, data.context, DatasetStats(metadata={}, parent=None))


def _n_rows(table: Any) -> int:
    return int(table.num_rows)


def dataset_for_reading(data: Any, group: BundleGroups | None = None) -> Any:
    """Return the same Dataset with its own copy of the settings; few Parquet files are listed without the actors that Ray Data starts.

    `group` divides the bundles of blocks that are in the object store among tasks: each list that it yields becomes one bundle.
    """
    if "_deep_copy" not in inspect.signature(type(data).copy).parameters:
        return copy.deepcopy(data)
    copied = type(data).copy(data, _deep_copy=True)
    if _LOGICAL_PLAN.find() is None or _APPLY_TRANSFORM.find() is None:
        return copied
    files = (_FOOTER_INDEXER, _FOOTER_MANIFEST, _FOOTER_READER, _BIN_PACKER, _BIN_POOL, _BIN_PIECES)
    blocks = (_INPUT_DATA, _MERGE_BUNDLES, _AUTO_BATCHES)
    if all(name.find() is not None for name in files):
        _transform(copied, _listed_in_place)
    if group is not None and all(name.find() is not None for name in blocks):
        _transform(copied, functools.partial(_grouped, group=group))
    return copied


def _transform(data: Any, change: Callable[[Any], Any]) -> None:
    """Replace operators in the plan of a Dataset."""
    from ray.data._internal.logical.interfaces import LogicalPlan

    plan = data._logical_plan
    dag = plan.dag._apply_transform(change)
    if dag is not plan.dag:
        data._logical_plan = LogicalPlan(dag, plan.context)


def has_grouped_blocks(data: Any) -> bool:
    """Return whether a task of a Dataset is given several blocks, because `dataset_for_reading` or Ray has put them together."""
    plan = getattr(data, "_logical_plan", None)
    if plan is None or any(name.find() is None for name in (_LOGICAL_PLAN, _MERGE_BUNDLES, _AUTO_BATCHES)):
        return False
    sources = (_stored(operator) or () for operator in plan.dag.post_order_iter())
    return any(len(bundle.blocks) > 1 for bundles in sources for bundle in bundles)


def single_blocks(bundles: Sequence[Any]) -> Iterator[list[Any]]:
    """Yield each block in a bundle of its own."""
    from ray.data._internal.execution.interfaces import RefBundle

    for bundle in bundles:
        if len(bundle.blocks) == 1 or any(bundle.slices or ()):
            yield [bundle]
        else:
            yield from ([RefBundle((entry,), schema=bundle.schema, owns_blocks=False)] for entry in bundle.blocks)


def _stored(operator: Any) -> list[Any] | None:
    """Return the bundles of blocks that an operator has in the object store; None for one that computes them."""
    output = getattr(operator, "output_data", None)
    bundles = None if output is None or operator.input_dependencies else output()
    return None if bundles is None else list(bundles)


def _grouped(operator: Any, group: BundleGroups) -> Any:
    bundles = _stored(operator)
    if bundles is None or len(groups := [*group(bundles)]) == len(bundles):
        return operator
    from ray.data._internal.execution.interfaces import RefBundle
    from ray.data._internal.logical.operators.input_data_operator import InputData

    return InputData(input_data=[some[0] if len(some) == 1 else RefBundle.merge_ref_bundles(some) for some in groups])


def _listed_in_place(operator: Any) -> Any:
    """Return an operator of Ray Data with a better indexer of files and even parts, if it lists Parquet files."""
    from rayline.compat.ray_footers import with_even_parts, with_footers_in_place

    indexer, partitioner = getattr(operator, "file_indexer", None), getattr(operator, "file_partitioner", None)
    better, even = with_footers_in_place(indexer), with_even_parts(partitioner)
    if better is indexer and even is partitioner:
        return operator
    return dataclasses.replace(operator, file_indexer=better, file_partitioner=even)


def session_directory(path: str) -> dict[str, Any]:
    """Return the option of `ray.init` that makes this the directory of its files and sockets."""
    import ray

    return {"_temp_dir": path} if "_temp_dir" in inspect.getsource(ray.init) else {}

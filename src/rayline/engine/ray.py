"""Ray Datasets: scanned, mapped and collected with Polars inside Ray Data's tasks; and Ray itself, started when needed."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import secrets
import socket
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, TaskPoolStrategy
from ray.data.dataset import MaterializedDataset
from ray.exceptions import RayTaskError

from rayline.core.engine import Answers, Engine, Placement, Scan, TableFunction
from rayline.core.errors import DataError, RaylineError, ResourceError, SchemaError, shorten
from rayline.core.parts import PartFiles
from rayline.core.statistics import merge_answers
from rayline.engine.blocks import InActor, InTask, Mapped, Partial, Piece, Shipped, to_frame, write_part

KNOCK_S = 5.0
"""Seconds in which a Ray at RAY_ADDRESS has to answer."""

SAMPLE_ROWS = 1000
"""Rows that are looked at to find the types of pandas columns that hold Python objects."""

BLOCK_ROWS = 1 << 16
"""Rows that a task takes at least when a materialised dataset has many small blocks."""

GPU_ROWS = 4096
"""Rows that a worker with a GPU works on at a time when nobody says otherwise."""

_schemas: weakref.WeakKeyDictionary[Dataset, pl.Schema] = weakref.WeakKeyDictionary()


# -- Ray itself ------------------------------------------------------------------------------------------------------------


def ensure_ray() -> None:
    """Connect to the Ray of RAY_ADDRESS, or start a quiet one on this machine, unless this process already has one.

    A Ray that was started here ends with this process. Nothing is printed and nothing is written into the home directory:
    the token that keeps strangers out lives in the environment of this process and its children.

    Raises
    ------
    ResourceError
        When Ray cannot be reached or started.
    """
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        _keep_token_private()
        options["include_dashboard"] = False
    try:
        _knock(address)
        ray.init(address, **options)
    except Exception as error:
        raise ResourceError(
            f"Ray could not be {'started' if address == 'local' else f'reached at RAY_ADDRESS={address}'}: {error}.",
            "Expected a Ray that answers, or to start one on this machine.",
            "check RAY_ADDRESS, or call ray.init() yourself to see what stops it.",
        ) from error
    for handler in _consoles():
        handler.setLevel(logging.ERROR)
    DataContext.get_current().enable_progress_bars = False


def _knock(address: str) -> None:
    """Raise OSError when nobody listens at host:port: Ray itself would wait for minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()


def _keep_token_private() -> None:
    # A Ray that starts locally asks for a token, and writes one into the home directory when it finds none.
    if not any(name in os.environ for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Ray Data says nothing on the console meanwhile; its log file has everything."""
    consoles, silent = _consoles(), logging.Filter("nobody")
    for handler in consoles:
        handler.addFilter(silent)
    try:
        yield
    finally:
        for handler in consoles:
            handler.removeFilter(silent)


def _consoles() -> list[logging.Handler]:
    return [handler for handler in logging.getLogger("ray.data").handlers if handler.name == "console"]


# -- the engine ------------------------------------------------------------------------------------------------------------


class RayEngine(Engine):
    """`ray.data.Dataset`s, of any size: rows stay in Ray's tasks and object store."""

    def schema(self, data: Any) -> pl.Schema:
        _refuse_other(data)
        schema = _schemas.get(data)
        if schema is None:
            with _answering("schema"):
                schema = _schemas[data] = _schema_of(data)
        return schema

    def scan(self, data: Any, scan: Scan) -> dict[int, Answers]:
        schema = self.schema(data)
        parts: dict[int, list[Answers]] = {}
        with _answering("scan"):
            needed = _own(data)
            columns = scan.columns(schema)
            if columns != list(schema):
                needed = needed.select_columns(columns)
            partial = needed.map_batches(InTask(Partial(scan)), batch_format="pyarrow", batch_size=_batch_size(data))
            for table in _blocks(partial):
                for packed in table.column("answers").to_pylist() if table.num_columns else ():
                    for cell, answers in pickle.loads(packed).items():  # noqa: S301  # packed by our own tasks
                        parts.setdefault(cell, []).append(answers)
        if not parts:
            return scan.of(pl.LazyFrame(schema={name: schema[name] for name in columns}))
        return {cell: merge_answers(answers) for cell, answers in sorted(parts.items())}

    def map(self, data: Any, function: TableFunction, placement: Placement | None = None) -> Any:
        _refuse_other(data)
        placement = placement or Placement()
        work = Mapped(Shipped.of(function))
        options: dict[str, Any] = {"batch_format": "pyarrow", "batch_size": placement.batch_size}
        mapped: Dataset = Dataset.copy(data, _deep_copy=True)
        # An error of ours keeps its type on the way to whoever consumes the dataset.
        mapped.context.raise_original_map_exception = True
        if placement.num_gpus:
            options["batch_size"] = placement.batch_size or GPU_ROWS
            options["compute"] = ActorPoolStrategy(size=placement.concurrency or 1)
            options["fn_constructor_args"] = (work,)
            return mapped.map_batches(InActor, num_cpus=placement.num_cpus, num_gpus=placement.num_gpus, **options)
        if placement.concurrency:
            options["compute"] = TaskPoolStrategy(size=placement.concurrency)
        return mapped.map_batches(InTask(work), num_cpus=placement.num_cpus, **options)

    def write(
        self, data: Any, function: TableFunction, files: PartFiles, done: set[int], placement: Placement | None
    ) -> int:
        _refuse_other(data)
        placement = placement or Placement()
        task = write_part.options(num_cpus=placement.num_cpus or 1, num_gpus=placement.num_gpus or 0)
        shipped = ray.put(Shipped.of(function))
        most = placement.concurrency or max(2, int(ray.cluster_resources().get("CPU", 1)))
        under_way: deque[ray.ObjectRef[int]] = deque()
        written: int = 0
        with _answering("write"):
            for number, pieces in enumerate(_cut(_rows(_own(data)), files.rows_per_file)):
                if number in done:
                    written += files.n_rows(number)
                    continue
                if len(under_way) >= most:
                    written += ray.get(under_way.popleft())
                under_way.append(task.remote(number, pieces, shipped, files, placement.batch_size))
            written += sum(ray.get(list(under_way)))
        return written

    def collect(self, data: Any, columns: Sequence[str] | None = None) -> pl.DataFrame:
        schema = self.schema(data)
        names = list(schema) if columns is None else list(columns)
        missing = [name for name in names if name not in schema]
        if missing:
            raise SchemaError.missing("collect", missing, schema)
        with _answering("collect"):
            needed = _own(data)
            if names != list(schema):
                needed = needed.select_columns(names)
            frames = [to_frame(block) for block in _blocks(needed)]
        frames = [frame for frame in frames if frame.width]
        if not frames:
            return pl.DataFrame(schema={name: schema[name] for name in names})
        return pl.concat(frames, how="vertical_relaxed", rechunk=False) if len(frames) > 1 else frames[0]


def _refuse_other(data: Any) -> None:
    if not isinstance(data, Dataset):
        raise SchemaError(
            f"A {type(data).__name__} is not a table.",
            "Expected a ray.data.Dataset, or a table in this process.",
            "pass the Dataset that it comes from, or collect it first.",
        )


def _own(data: Dataset) -> Dataset:
    """The same dataset with settings of our own: no progress bar, blocks in their order, errors as they were raised."""
    own: Dataset = Dataset.copy(data, _deep_copy=True)
    own.context.enable_progress_bars = False
    own.context.execution_options.preserve_order = True
    own.context.raise_original_map_exception = True
    return own


def _batch_size(data: Dataset) -> int | None:
    """Rows that a task takes at least; None for one block a task, which Ray Data can join with the reading."""
    many = isinstance(data, MaterializedDataset) and data.num_blocks() > 1
    return BLOCK_ROWS if many and data.count() < data.num_blocks() * BLOCK_ROWS else None


def _rows(data: Dataset) -> Iterator[Piece]:
    """The blocks in the order of the rows, as places in the object store."""
    for bundle in data.iter_internal_ref_bundles():
        for entry in bundle.blocks:
            rows = entry.metadata.num_rows
            if rows:
                yield Piece(entry.ref, 0, rows)


def _cut(pieces: Iterator[Piece], n_rows: int) -> Iterator[list[Piece]]:
    """The same rows, so many at a time."""
    part: list[Piece] = []
    room = n_rows
    for piece in pieces:
        start = piece.start
        while start < piece.stop:
            stop = min(piece.stop, start + room)
            part.append(Piece(piece.block, start, stop))
            room -= stop - start
            start = stop
            if not room:
                yield part
                part, room = [], n_rows
    if part:
        yield part


def _blocks(data: Dataset) -> Iterator[Any]:
    """The blocks, one after the other as they are ready."""
    for bundle in data.iter_internal_ref_bundles():
        yield from ray.get(list(bundle.block_refs))


@contextlib.contextmanager
def _answering(what: str) -> Iterator[None]:
    """Around an execution of our own: quiet, and with our own errors as they were raised."""
    try:
        with quietly():
            yield
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, RaylineError):
            raise getattr(cause, "original", cause) from None
        raise DataError(
            f"The dataset could not be read: {type(cause).__name__}: {_first_line(str(cause))}.",
            f"Expected its tasks to finish; one failed during a {what}.",
            "the error above says where; ds.take(5) runs the same tasks.",
        ) from error


def _first_line(text: str, most: int = 300) -> str:
    """The first line of a text, or as much of it as fits."""
    line = text.strip().split("\n", 1)[0]
    return line if len(line) <= most else line[: most - 1] + "…"


# -- types -----------------------------------------------------------------------------------------------------------------


def _schema_of(data: Dataset) -> pl.Schema:
    known = data.schema(fetch_if_missing=False) or _own(data).schema()
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
    # Blocks of pandas: what an object column holds shows only in its values.
    frames = [to_frame(block) for block in _blocks(_own(data).limit(SAMPLE_ROWS))]
    frames = [frame for frame in frames if frame.width]
    return pl.concat(frames, how="vertical_relaxed").schema if frames else pl.Schema()

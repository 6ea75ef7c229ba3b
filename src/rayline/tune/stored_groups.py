"""The rows of a search in Ray's object store. The driver holds references and summaries; tasks and trials read the groups from the store."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import polars as pl
import pyarrow as pa
import ray
from ray.exceptions import RayError, RayTaskError

from rayline.compat.ray import pickle_tables
from rayline.core import registry
from rayline.core.arrow_tables import to_arrow
from rayline.core.engine import StoredBlocks
from rayline.core.errors import RaylineError, ResourceError, first_line
from rayline.core.scan import Scan, TableFunction
from rayline.data.split.fold_assignment import FoldAssignment
from rayline.tune import row_groups
from rayline.tune.row_groups import (
    CELL,
    CellResults,
    ConformedRows,
    GroupEngine,
    GroupSummary,
    MappedGroups,
    RowGroups,
    TableGroups,
    attached,
    merge_cells,
    merged,
    scan_group,
)
from rayline.tune.stored_scores import StoredScores

if TYPE_CHECKING:
    import ray.data

pickle_tables()

UNPLACED: dict[str, Any] = {"num_cpus": 0, "scheduling_strategy": "SPREAD"}
"""Options of the tasks of a trial: they need no CPU, and run outside of the trial's placement group."""

UNDER_WAY = 4
"""The number of submitted tasks for each CPU of the cluster: the others are submitted as these finish."""


@dataclass(frozen=True)
class StoredGroup:
    """References to the rows of a group and to their cells; in lists, so that Ray passes the references."""

    rows: list[Any]
    cells: list[Any]

    def frame(self) -> pl.DataFrame:
        """Read the rows with their cells from the object store."""
        frames = [_read(ref) for ref in (*self.rows, *self.cells)]
        return frames[0] if len(frames) == 1 else pl.concat(frames, how="horizontal")


class StoredGroups(RowGroups):
    """Rows in the object store.

    Parameters
    ----------
    groups
        References.
    summaries
        The summary of each group.
    schema
        The schema of the rows with their cells.
    size_bytes
        The size of all rows.
    """

    def __init__(
        self, groups: Sequence[StoredGroup], summaries: Sequence[GroupSummary], schema: pl.Schema, size_bytes: int
    ) -> None:
        self.groups, self.summaries, self._schema, self._size = list(groups), list(summaries), schema, size_bytes

    @property
    def schema(self) -> pl.Schema:
        return self._schema

    def frames(self) -> Iterator[pl.DataFrame]:
        for group in self.groups:
            yield group.frame()

    def first(self, n_groups: int) -> Self:
        return type(self)(self.groups[:n_groups], self.summaries[:n_groups], self._schema, self._size)

    @property
    def size_bytes(self) -> int:
        return self._size

    @property
    def is_here(self) -> bool:
        return False

    @property
    def engine(self) -> TaskGroupEngine:
        return TaskGroupEngine()

    def sample(self, n_rows: int) -> pl.DataFrame:
        (rows,) = results([_sample.remote(self.groups[0], n_rows)])
        return _polars(rows)

    def after(self, function: TableFunction) -> ray.data.Dataset:
        import ray.data  # half a second that the process of a trial over a table does not need

        return ray.data.from_arrow_refs(_applied(MappedGroups(self, (function,))))

    def with_cells(self, cells: Sequence[FoldAssignment]) -> Self:
        function = ray.put(list(cells))
        refs = [_cells.remote(group, [function]) for group in self.groups]
        summaries = [*results([summary for _, summary in refs])]
        groups = [StoredGroup(group.rows, [ref]) for group, (ref, _) in zip(self.groups, refs, strict=True)]
        schema = pl.Schema({**self._schema, **{f"{CELL}{i}": pl.Int64() for i in range(len(cells))}})
        return type(self)(groups, summaries, schema, self._size)

    def summarised(self) -> Self:
        return self

    def joined(self, other: Self) -> Self:
        return type(self)(
            [*self.groups, *other.groups], [*self.summaries, *other.summaries], self._schema, self._size + other._size
        )

    @classmethod
    def of(cls, data: Any, conform: ConformedRows) -> Self:
        if not registry.is_dataset(data):
            return cls.of_table(TableGroups.of(data, conform))
        stored = registry.engine("ray").groups(data, conform, row_groups.GROUP_ROWS)
        if not stored:
            return cls.of_table(TableGroups([conform.output.to_frame()]))
        groups = [StoredGroup([ref], []) for ref, _, _ in stored]
        return cls(groups, [GroupSummary(n) for _, n, _ in stored], conform.output, sum(size for _, _, size in stored))

    @classmethod
    def of_table(cls, groups: RowGroups) -> Self:
        """Put the rows of a table into the object store; rows that are there stay. Raises ResourceError when they do not fit."""
        if isinstance(groups, cls):
            return groups
        stored = [StoredGroup([_put(stored_table(frame))], []) for frame in groups.frames()]
        return cls(stored, groups.summaries, groups.schema, groups.size_bytes)


class TaskGroupEngine(GroupEngine):
    """An engine that scans the groups in Ray's tasks, for a process that must not read rows.

    Parameters
    ----------
    n_tasks
        The number of concurrent tasks of a trial; they hold no CPU, as the trial's workers hold its CPUs later. All CPUs of the
        cluster when omitted.
    """

    has_positions = False

    def __init__(self, n_tasks: int | None = None) -> None:
        self._n_tasks = n_tasks

    def scan(self, data: Any, scan: Scan) -> CellResults:
        groups = data if isinstance(data, MappedGroups) else MappedGroups(data, ())
        assert isinstance(groups.groups, StoredGroups)
        work = ray.put((groups.functions, scan))
        options = {} if self._n_tasks is None else UNPLACED
        calls = _in_order(_scan.options(**options), [(group, [work]) for group in groups.groups.groups], self._n_tasks)
        parts = (reference for reference, _ in calls)
        merge = _merge_cells.options(**options)
        (result,) = results([merged(parts, lambda references: merge.remote(*references))])
        return result  # type: ignore[no-any-return]

    def collect(self, data: Any, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Collect the rows after the functions in this process; only for a few columns or small results."""
        groups = data if isinstance(data, MappedGroups) else MappedGroups(data, ())
        frames = [_polars(table) for table in results(_applied(groups))]
        table = pl.concat(frames, rechunk=False)
        return table if columns is None else table.select(columns)


def _applied(groups: MappedGroups) -> list[Any]:
    """Return references to the groups after functions of tables."""
    assert isinstance(groups.groups, StoredGroups)
    work = ray.put(groups.functions)
    refs = [_map.remote(group, [work]) for group in groups.groups.groups]
    ray.wait(refs, num_returns=len(refs), fetch_local=False)
    return refs


def prepared_blocks(groups: StoredGroups, function: TableFunction, n_tasks: int) -> StoredBlocks:
    """Apply a function to each group in a limited number of concurrent tasks, and keep the results in the object store.

    The objects live as long as the process that calls this.
    """
    work = ray.put(function)
    blocks = _in_order(_prepared, [(group, [work]) for group in groups.groups], n_tasks)
    filled = [(ref, n_rows, size) for ref, (n_rows, size) in blocks if n_rows]
    return StoredBlocks([ref for ref, _, _ in filled], [n for _, n, _ in filled], sum(size for _, _, size in filled))


def scored_blocks(
    blocks: StoredBlocks, function: Callable[[pl.DataFrame], tuple[Any, Any]], n_tasks: int
) -> tuple[StoredScores, list[Any]]:
    """Call a function with each block in a limited number of concurrent tasks. The first results (scores) stay in the object
    store, the second ones are returned."""
    work = ray.put(function)
    scored = [*_in_order(_scored, [([ref], [work]) for ref in blocks.references], n_tasks)]
    size = sum(n_bytes for _, (n_bytes, _) in scored)
    return StoredScores(blocks.height, size, [ref for ref, _ in scored]), [parts for _, (_, parts) in scored]


# -- tasks ------------------------------------------------------------------------------------------------------------------


@ray.remote(num_returns=2)
def _scan(group: StoredGroup, work: list[Any]) -> tuple[CellResults, None]:
    functions, scan = ray.get(work[0])
    return scan_group(MappedGroups(TableGroups([]), functions), group.frame(), scan), None


@ray.remote
def _merge_cells(*parts: CellResults) -> CellResults:
    return merge_cells(parts)


@ray.remote(num_returns=2)
def _cells(group: StoredGroup, work: list[Any]) -> tuple[pa.Table, GroupSummary]:
    frame = attached(group.frame(), ray.get(work[0]))
    summary = GroupSummary.of(frame)
    return stored_table(frame.select(name for name in frame.columns if name.startswith(CELL))), summary


@ray.remote
def _map(group: StoredGroup, work: list[Any]) -> pa.Table:
    return stored_table(MappedGroups(TableGroups([]), ray.get(work[0])).applied(group.frame()))


@ray.remote(num_returns=2, **UNPLACED)
def _prepared(group: StoredGroup, work: list[Any]) -> tuple[pa.Table, tuple[int, int]]:
    table = stored_table(ray.get(work[0])(group.frame().lazy()).collect())
    return table, (table.num_rows, table.nbytes)


@ray.remote(num_returns=2, **UNPLACED)
def _scored(rows: list[Any], work: list[Any]) -> tuple[Any, tuple[int, Any]]:
    scores, parts = ray.get(work[0])(_read(rows[0]))
    return scores, (scores.nbytes, parts)


@ray.remote
def _sample(group: StoredGroup, n_rows: int) -> pa.Table:
    frame = group.frame()
    return stored_table(frame.sample(min(n_rows, frame.height), seed=0))


def _in_order(task: Any, arguments: Sequence[tuple[Any, ...]], n_running: int | None) -> Iterator[tuple[Any, Any]]:
    """Yield, for each call of a task with two results, a reference to the first and the value of the second, in order and with a
    limited number of concurrent calls. Raises the error of a task."""
    n_running = n_running or UNDER_WAY * max(1, int(ray.cluster_resources().get("CPU", 1)))
    calls: Iterator[tuple[Any, Any]] = registry.engine("ray").in_order(
        task.remote, arguments, n_running, lambda refs: (refs[0], _result(refs[1]))
    )
    return calls


def results(references: Sequence[Any]) -> Iterator[Any]:
    """Yield the results of tasks in order. Raises a RaylineError of a task unchanged."""
    return map(_result, references)


def _result(reference: Any) -> Any:
    with _answering():
        return ray.get(reference)


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, RaylineError):
            raise error.cause from None
        raise ResourceError(
            f"tune.run: a task on the rows failed: {type(error.cause).__name__}: {first_line(error.cause)}",
            "Expected enough memory for a group of rows on every node.",
            "the error above says where.",
        ) from error
    except RayError as error:
        raise ResourceError(
            f"tune.run: Ray could not work on the rows: {type(error).__name__}: {first_line(error)}",
            "Expected enough memory and disk, and no loss of nodes.",
            "the error above says what is missing.",
        ) from error


def _put(table: pa.Table) -> Any:
    try:
        return ray.put(table)
    except RayError as error:
        raise ResourceError(
            f"tune.run: {table.nbytes >> 20} MB of rows do not fit into Ray's object store: {type(error).__name__}.",
            "Expected room for one copy on this machine, in memory or on the disk that Ray spills to.",
            "start Ray with a larger object_store_memory, free the disk, or tune on fewer rows.",
        ) from error


def stored_table(frame: pl.DataFrame) -> pa.Table:
    """Return a table in the form in which it is stored."""
    return to_arrow(frame.rechunk())


def _read(reference: Any) -> pl.DataFrame:
    return _polars(ray.get(reference))


def _polars(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame

"""Rows of a Dataset that are read more than once: kept in the object store as they are read the first time, if they fit.

A Dataset runs the user's functions again each time it is read, and reading a small one costs little beside starting Ray Data. Within
`keeping`, the first reading keeps the blocks, and later ones take them from the object store.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeAlias

import ray
from ray.data import Dataset
from ray.data.dataset import MaterializedDataset

from rayline.compat.ray import SOURCES, dataset_of_bundles, input_files, operator_names
from rayline.engine.blocks import BlockTask, RaylineTask
from rayline.engine.idle_worker import keep_s
from rayline.engine.session import connection
from rayline.engine.small_blocks import known_rows
from rayline.engine.tasks import TaskResult, on_blocks

KEPT_SHARE = 0.25
"""Share of the cluster's object store that kept rows may take, all Datasets of a step together."""

RESULTS_BYTES, MAX_RESULTS = 128 << 20, 16
"""The most that stays of what tasks have made of the rows of a small Dataset: its size (the same again for what workers make of prepared
rows), and the number of tasks."""


class _Budget:
    """The bytes that the Datasets of a step may still keep."""

    def __init__(self) -> None:
        self.left = _room()

    def take(self, size_bytes: int) -> bool:
        self.left -= size_bytes
        return bool(self.left >= 0)


class KeptRows:
    """The blocks of one Dataset: read once, and kept as long as they fit.

    Attributes
    ----------
    stays
        Whether the rows are kept beyond their last use in a step.
    """

    def __init__(self, read: Callable[[], Iterator[Any]], budget: _Budget, *, stays: bool = False) -> None:
        self._read, self._budget, self.stays = read, budget, stays
        self._first: list[Any] = []  # read to see what the rows look like, and not passed on yet
        self._left: Iterator[Any] | None = None
        self._sample: list[Any] = []
        self._held: list[Any] | None = []
        self._held_bytes = 0
        self._results: OrderedDict[BlockTask, list[TaskResult]] = OrderedDict()
        self._lock = threading.Lock()
        self.is_complete = False

    @property
    def size_bytes(self) -> int:
        """The size of what is kept, results of tasks included."""
        with self._lock:
            return self._held_bytes + self._results_bytes()

    def results(self, task: BlockTask, *, last: bool = False) -> Iterator[TaskResult]:
        """Run a task on all blocks: see `on_blocks`, and `bundles` for `last`. Of rows that stay, the results stay too, and the same task
        is not run again: an idle cluster has to start processes for it, which may take longer than the task."""
        if not self.stays:
            return on_blocks(self.bundles(last=last), task)
        results = self._results.get(task)
        if results is None:
            results = list(on_blocks(self.bundles(), task))
        with self._lock:
            self._results[task] = results
            self._results.move_to_end(task)
            while len(self._results) > MAX_RESULTS or self._results_bytes() > RESULTS_BYTES:
                self._results.popitem(last=False)
        return iter(results)

    def has_result(self, block: ray.ObjectRef[Any]) -> bool:
        """Return whether a block is the result of a task that stays for the next step."""
        with self._lock:
            return any(block == ref for results in self._results.values() for ref, *_ in results)

    def _results_bytes(self) -> int:
        return sum(size_bytes for results in self._results.values() for *_, size_bytes in results)

    def first_blocks(self, n_rows: int = 1) -> list[Any] | None:
        """Return references to the first blocks, as many as have so many rows, or all; to one without rows when none has any. None where
        they would have to be read again. The reading goes on from there, and the first block that has rows stays as long as this object."""
        if self.can_continue:
            entries = [entry for bundle in self._first_bundles(n_rows) for entry in bundle.blocks]
            self._sample = self._sample or _filled(entries, 1) or entries[:1]
            blocks = _filled(entries, n_rows) or self._sample
        elif known_rows(self._sample) < n_rows:
            return None
        else:
            blocks = self._sample
        return [entry.ref for entry in blocks]

    def _first_bundles(self, n_rows: int) -> Sequence[Any]:
        if self.is_complete:
            return self._held or ()
        if self._left is None:
            self._left = self._read_within_budget()
        lacking = n_rows - sum(known_rows(bundle.blocks) for bundle in self._first)
        while lacking > 0 and (bundle := next(self._left, None)) is not None:
            self._first.append(bundle)
            lacking -= known_rows(bundle.blocks)
        return self._first

    @property
    def can_continue(self) -> bool:
        """Whether `bundles` needs no second reading."""
        return self.is_complete or self._left is None or bool(self._first)

    def complete(self) -> None:
        """Read and keep what has not been read yet, as long as it fits."""
        if not self.is_complete and self._held is not None and self.can_continue:
            next((bundle for bundle in self.bundles() if self._held is None), None)  # up to one that does not fit

    def bundles(self, *, last: bool = False) -> Iterator[Any]:
        """Yield all blocks: those that are kept, or read now. After the `last` use of a block it is not kept any longer, unless it stays
        for the next step."""
        last = last and not self.stays
        if self.is_complete:
            self._first.clear()
            waiting = deque(self._held or ())
            if last:
                self._held, self.is_complete = None, False
            while waiting:
                yield waiting.popleft()
            return
        if not self.can_continue:
            yield from self._read()
            return
        self.first_blocks()
        if last:
            self._drop()
        while self._first:
            yield self._first.pop(0)
        assert self._left is not None
        yield from self._left

    def _read_within_budget(self) -> Iterator[Any]:
        for bundle in self._read():
            if self._held is not None:
                size = sum(entry.metadata.size_bytes or 0 for entry in bundle.blocks)
                self._held.append(bundle)
                self._held_bytes += size
                if not self._budget.take(size) or any(bundle.slices or ()):
                    self._drop()
            yield bundle
        self.is_complete = self._held is not None

    def _drop(self) -> None:
        self._held, self._budget.left = None, self._budget.left + self._held_bytes
        self._held_bytes = 0


def _filled(entries: Iterable[Any], n_rows: int) -> list[Any]:
    """Return the blocks that have rows, until there are so many."""
    filled: list[Any] = []
    for entry in entries:
        if entry.metadata.num_rows and n_rows > 0:
            filled.append(entry)
            n_rows -= entry.metadata.num_rows
    return filled


_kept: ContextVar[dict[int, KeptRows] | None] = ContextVar("kept_rows", default=None)


@contextlib.contextmanager
def keeping(datasets: Sequence[Any], read: Callable[[Dataset], Iterator[Any]]) -> Iterator[None]:
    """Keep the rows of Datasets for the duration of the block: of those that run functions of the user, and of small ones, whose
    rows stay for the next step, too, if that comes soon."""
    before = _kept.get() or {}
    by_id = {id(data): data for data in datasets if isinstance(data, Dataset) and id(data) not in before}
    stamps = {key: stamp for key, data in by_id.items() if (stamp := unchanged_stamp(data)) is not None}
    budget, kept = _Budget(), {}
    for key, data in by_id.items():
        known = None if key not in stamps else RECENT.find(data, stamps[key])
        if known is not None:
            kept[key] = known
        elif key in stamps or runs_functions(data):
            kept[key] = KeptRows(functools.partial(read, data), budget, stays=key in stamps)
    token = _kept.set({**before, **kept})
    try:
        yield
    except BaseException:
        RECENT.clear()  # what was kept may be what was wrong
        raise
    finally:
        _kept.reset(token)
    if by_id:
        RECENT.keep({key: (by_id[key], stamps[key], kept[key]) for key in stamps})


def kept_rows(data: Any) -> KeptRows | None:
    """Return the kept rows of a Dataset, if it is one of those that are kept now."""
    return (_kept.get() or {}).get(id(data))


def materialized(data: Dataset) -> Dataset:
    """Return the kept rows as a Dataset of their own, if all of them are kept and costly to compute; otherwise the same Dataset."""
    kept = kept_rows(data)
    if kept is None or kept.stays or not kept.is_complete:
        return data
    return dataset_of_bundles(data, list(kept.bundles()))


def _room() -> float:
    return float(KEPT_SHARE * ray.cluster_resources().get("object_store_memory", 0.0))


def runs_functions(data: Dataset) -> bool:
    """Return whether reading the Dataset runs functions other than Rayline's own: reading large files again costs as much as
    keeping."""
    if isinstance(data, MaterializedDataset):
        return False
    return any(kind not in SOURCES and not name.startswith(_PREPARATION) for kind, name in operator_names(data))


_PREPARATION = f"MapBatches({RaylineTask.__name__}"


# -- small Datasets --------------------------------------------------------------------------------------------------------

SMALL_BYTES, FEW_FILES, FEW_BLOCKS = 64 << 20, 64, 1 << 14
"""The size, of files as they are stored, and the number of files, or of blocks in the object store, up to which a Dataset is small:
starting Ray Data to read it again costs more than the reading."""

RECENT_BYTES = 512 << 20
"""Maximum size of the rows of all small Datasets that stay after a step, unless `KEPT_SHARE` of the object store is less."""

Stamp: TypeAlias = tuple[tuple[str, int, int], ...]


def unchanged_stamp(data: Dataset) -> Stamp | None:
    """Return what identifies the rows of a small Dataset beside the object itself: name, size and time of change of its files, and
    nothing where its rows are in the object store. None for any other Dataset."""
    if isinstance(data, MaterializedDataset):
        is_small = data.num_blocks() <= FEW_BLOCKS and data.size_bytes() <= SMALL_BYTES
        return () if is_small else None
    if runs_functions(data):
        return None
    files = input_files(data, FEW_FILES)
    return tuple(files) if files and sum(size for _, size, _ in files) <= SMALL_BYTES else None


class _Recent(NamedTuple):
    data: weakref.ref[Dataset]
    stamp: tuple[Stamp, str]
    rows: KeptRows
    until: float


class _RecentRows:
    """The rows of small Datasets that were used last, for as long as workers are kept (see `idle_worker.keep_s`)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: OrderedDict[int, _Recent] = OrderedDict()  # in the order of their last use
        self._timer: threading.Timer | None = None

    def find(self, data: Dataset, stamp: Stamp) -> KeptRows | None:
        """Return the rows of this Dataset, if they are kept and its files are the same."""
        with self._lock:
            entry = self._rows.get(id(data))
            if entry is None or entry.data() is not data or entry.stamp != (stamp, connection()):
                return None
            return entry.rows if time.monotonic() < entry.until else None

    def keep(self, used: Mapping[int, tuple[Dataset, Stamp, KeptRows]]) -> None:
        """Keep the rows of a step, and release those that have expired; if there are too many, also the least recently used."""
        seconds = keep_s()
        now, max_bytes = time.monotonic(), min(RECENT_BYTES, _room())
        with self._lock:
            for key, (data, stamp, rows) in used.items():
                self._rows.pop(key, None)
                if rows.is_complete and seconds:
                    self._rows[key] = _Recent(weakref.ref(data), (stamp, connection()), rows, now + seconds)
            for key in [key for key, kept in self._rows.items() if kept.until <= now or kept.data() is None]:
                del self._rows[key]
            while sum(kept.rows.size_bytes for kept in self._rows.values()) > max_bytes:
                self._rows.popitem(last=False)
            if self._timer is not None:
                self._timer.cancel()
            if self._rows:
                self._timer = threading.Timer(seconds, self.clear)
                self._timer.daemon = True
                self._timer.start()

    def clear(self) -> None:
        """Release all rows."""
        with self._lock:
            self._rows.clear()


RECENT = _RecentRows()

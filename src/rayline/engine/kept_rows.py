"""Rows of a lazy Dataset that are read more than once: kept in the object store as they are read the first time, if they fit.

A Dataset runs the user's functions again each time it is read. Within `keeping`, the first reading keeps the blocks, and
later ones take them from the object store.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import ray
from ray.data import Dataset
from ray.data.dataset import MaterializedDataset

from rayline.compat.ray import SOURCES, dataset_of_bundles, operator_names
from rayline.engine.blocks import RaylineTask

KEPT_SHARE = 0.25
"""Share of the cluster's object store that kept rows may take, all Datasets of a step together."""


class _Budget:
    """The bytes that the Datasets of a step may still keep."""

    def __init__(self) -> None:
        self.left = KEPT_SHARE * ray.cluster_resources().get("object_store_memory", 0.0)

    def take(self, size_bytes: int) -> bool:
        self.left -= size_bytes
        return bool(self.left >= 0)


class KeptRows:
    """The blocks of one Dataset: read once, and kept as long as they fit."""

    def __init__(self, read: Callable[[], Iterator[Any]], budget: _Budget) -> None:
        self._read, self._budget = read, budget
        self._first: list[Any] = []  # read to see what the rows look like, and not passed on yet
        self._left: Iterator[Any] | None = None
        self._sample: Any = None
        self._held: list[Any] | None = []
        self._held_bytes = 0
        self.is_complete = False

    def first_block(self) -> Any:
        """Return a reference to the first block that has rows, or to one without; None when there is none. The reading goes on from
        there. The block stays as long as this object."""
        if self._left is None:
            self._left = self._watched()
            for bundle in self._left:
                self._first.append(bundle)
                if any(entry.metadata.num_rows for entry in bundle.blocks):
                    break
            entries = [entry for bundle in self._first for entry in bundle.blocks]
            filled = [entry.ref for entry in entries if entry.metadata.num_rows]
            self._sample = next(iter([*filled, *(entry.ref for entry in entries)]), None)
        return self._sample

    @property
    def can_continue(self) -> bool:
        """Whether `bundles` needs no second reading."""
        return self.is_complete or self._left is None or bool(self._first)

    def complete(self) -> None:
        """Read and keep what has not been read yet, as long as it fits."""
        if self.is_complete or self._held is None or not self.can_continue:
            return
        self.first_block()
        assert self._left is not None
        bundle: Any = ...
        while bundle is not None:
            bundle = next(self._left, None) if self._held is not None else None

    def bundles(self, *, last: bool = False) -> Iterator[Any]:
        """Yield all blocks: those that are kept, or read now. After the `last` use of a block it is not kept any longer."""
        if self.is_complete:
            held = self._held if last else list(self._held or ())
            waiting = deque(held or ())
            if last:
                self._held, self.is_complete = None, False
            while waiting:
                yield waiting.popleft()
            return
        if not self.can_continue:
            yield from self._read()
            return
        self.first_block()
        if last:
            self._drop()
        while self._first:
            yield self._first.pop(0)
        assert self._left is not None
        yield from self._left

    def _watched(self) -> Iterator[Any]:
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


_kept: ContextVar[dict[int, KeptRows] | None] = ContextVar("kept_rows", default=None)


@contextlib.contextmanager
def keeping(datasets: Sequence[Any], read: Callable[[Dataset], Iterator[Any]]) -> Iterator[None]:
    """Keep the rows of Datasets that run functions of the user, for the duration of the block."""
    before = _kept.get() or {}
    found = [
        data for data in datasets if isinstance(data, Dataset) and id(data) not in before and _runs_functions(data)
    ]
    if not found:
        yield
        return
    budget = _Budget()

    def reading(data: Dataset) -> Callable[[], Iterator[Any]]:
        return lambda: read(data)

    token = _kept.set({**before, **{id(data): KeptRows(reading(data), budget) for data in found}})
    try:
        yield
    finally:
        _kept.reset(token)


def kept_rows(data: Any) -> KeptRows | None:
    """Return the kept rows of a Dataset, if it is one of those that are kept now."""
    return (_kept.get() or {}).get(id(data))


def materialized(data: Dataset) -> Dataset:
    """Return the kept rows as a Dataset of their own, if all of them are kept; otherwise the same Dataset."""
    kept = kept_rows(data)
    if kept is None or not kept.is_complete:
        return data
    return dataset_of_bundles(data, list(kept.bundles()))


def _runs_functions(data: Dataset) -> bool:
    """Return whether reading the Dataset runs functions other than Rayline's own: reading files again costs as much as keeping."""
    if isinstance(data, MaterializedDataset):
        return False
    names = operator_names(data)
    own = f"MapBatches({RaylineTask.__name__}"
    return any(kind not in SOURCES and not name.startswith(own) for kind, name in names)

"""Groups of workers that this process keeps from one training to the next: starting processes often takes longer than training.

Fits in a row, folds and trials of a search take their workers from here and return them. A kept group holds no CPUs and no rows; GPUs
and other resources that its workers have had from their start they have until they end: Ray gives an actor its GPUs when it starts, and
a process that has used one keeps some of its memory. A group ends by itself when it is not used for a while, or when others wait for
resources (see `idle_worker`).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import ray

from rayline.engine.idle_worker import keep_s
from rayline.engine.placement import PlacementPlan
from rayline.engine.session import connection
from rayline.engine.worker_group import WorkerGroup

FREE_S = 2.0
"""Seconds within which the cluster should know that a group has ended."""


@dataclass(frozen=True)
class GroupKey:
    """The properties that two trainings must share to use the same workers.

    Attributes
    ----------
    framework
        The framework whose library the workers have imported: two in one process may disturb one another.
    plan
        The nodes and the resources.
    session
        The connection to Ray.
    """

    framework: str
    plan: PlacementPlan
    session: str

    @classmethod
    def of(cls, framework: str, plan: PlacementPlan) -> GroupKey:
        return cls(framework, plan, connection())


class KeptGroups:
    """The group that is kept now; at most one in a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: tuple[GroupKey, WorkerGroup] | None = None

    def take(self, key: GroupKey) -> WorkerGroup | None:
        """Return the kept group if it has this key and all its workers are alive; otherwise end it."""
        kept = self._swap(None)
        if kept is None or kept[0].session != key.session:  # it has ended with its Ray
            return None
        if kept[0] == key and kept[1].wake():
            return kept[1]
        kept[1].end()
        return None

    def keep(self, key: GroupKey, group: WorkerGroup) -> None:
        """Keep the workers of a training that has succeeded, or end them where they cannot be kept."""
        seconds = keep_s()
        if seconds and group.rest(seconds):
            self._put(key, group)
        else:
            group.end()

    @contextlib.contextmanager
    def starting(self, key: GroupKey, packed: bytes) -> Iterator[None]:
        """Start a group, or wake the kept one, for a training within this context: workers then start while its rows are looked at.
        `packed` is a function that imports what they will need."""
        if not keep_s():
            yield
            return
        group = self.take(key)
        if group is None:
            group = WorkerGroup(key.plan).start()
            group.load(packed)
        self._put(key, group)
        try:
            yield
        except BaseException:
            if self._drop(group):
                group.end()
            raise
        if self._drop(group):
            self.keep(key, group)

    def release(self, needs: Mapping[str, float]) -> None:
        """End the kept group when it holds some of these resources, which this process needs now for something else."""
        with self._lock:
            kept = self._kept
            if kept is None or not any(needs.get(name) for name in kept[0].plan.held):
                return
            self._kept = None
        if ray.is_initialized() and kept[0].session == connection():
            kept[1].end()
            _until_free(kept[0].plan)

    def _put(self, key: GroupKey, group: WorkerGroup) -> None:
        before = self._swap((key, group))
        if before is not None and before[0].session == key.session:
            before[1].end()

    def _drop(self, group: WorkerGroup) -> bool:
        """Return whether the group was kept; it is not any longer."""
        with self._lock:
            is_kept = self._kept is not None and self._kept[1] is group
            if is_kept:
                self._kept = None
            return is_kept

    def _swap(self, kept: tuple[GroupKey, WorkerGroup] | None) -> tuple[GroupKey, WorkerGroup] | None:
        with self._lock:
            before, self._kept = self._kept, kept
            return before


def _until_free(plan: PlacementPlan) -> None:
    """Wait for a moment until the cluster knows that what a group has held is free: the next step may count what is free."""
    until = time.monotonic() + FREE_S
    while time.monotonic() < until:
        free = ray.available_resources()
        if all(free.get(name, 0.0) >= amount * len(plan.nodes) for name, amount in plan.held.items()):
            return
        time.sleep(0.05)


KEPT = KeptGroups()

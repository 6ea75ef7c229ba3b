"""Groups of workers that this process keeps from one training to the next: starting processes often takes longer than training.

Fits in a row, folds and trials of a search take their workers from here and return them. A kept group holds no resources and no
rows; it ends by itself when it is not used for a while, or when others wait for resources (see `idle_worker`).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import ray

from rayline.engine.idle_worker import keep_s
from rayline.engine.placement import PlacementPlan
from rayline.engine.worker_group import WorkerGroup


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
        context = ray.get_runtime_context()
        return cls(framework, plan, f"{context.get_job_id()} {context.get_node_id()}")


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
        """Keep the workers of a training that has succeeded, or end them where they cannot be kept. One that holds more than CPUs
        is not kept: CPUs are reserved during a training only, other resources as long as a worker is there."""
        seconds = keep_s()
        if seconds and not key.plan.held and group.rest(seconds):
            self._put(key, group)
        else:
            group.end()

    @contextlib.contextmanager
    def starting(self, key: GroupKey, packed: bytes) -> Iterator[None]:
        """Start a group, or wake the kept one, for a training within this context: workers then start while its rows are looked at.
        `packed` is a function that imports what they will need."""
        if not keep_s() or key.plan.held:
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


KEPT = KeptGroups()

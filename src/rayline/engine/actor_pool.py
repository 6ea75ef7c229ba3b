"""A pool of actors on the driver: each holds its resources in a placement group, runs one call after another, and is replaced when
its process dies.

Processes that hold nothing but CPUs are kept for the next pool, without their CPUs: a process and its imports take longer to start than
many a search takes.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import ray
from ray.exceptions import (
    ActorPlacementGroupRemoved,
    ActorUnschedulableError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
)
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from rayline.core.errors import RaylineError, TrainingError, counted, first_line
from rayline.engine.idle_worker import keep_s
from rayline.engine.pool_actor import PoolActor, PoolWork
from rayline.engine.reservation import reserve
from rayline.engine.session import connection

DEATHS = 3
"""The number of restarts of a call after the death of its process."""

LOST = (RayActorError, ActorUnschedulableError, ActorPlacementGroupRemoved, NodeDiedError, OutOfMemoryError)
"""The errors of Ray when a process has died, or its node is gone."""


class KeptKey(NamedTuple):
    """What two pools must share to use the same process: the library that it has imported, its node, its threads, and the connection
    to Ray."""

    reuse: str
    node: str
    n_threads: int
    session: str


class KeptActor(NamedTuple):
    """An idle process: how often it was woken, and when it ends by itself."""

    key: KeptKey
    actor: Any
    n_woken: int
    until: float


class KeptActors:
    """The idle processes of this driver's pools."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: list[KeptActor] = []

    def take(self, key: KeptKey) -> KeptActor | None:
        """Return a process of this key; it may have ended by now."""
        with self._lock:
            self._forget(key.session)
            for number, kept in enumerate(self._kept):
                if kept.key == key:
                    return self._kept.pop(number)
        return None

    def keep(self, key: KeptKey, actor: Any, n_woken: int, seconds: float) -> None:
        """Let a process wait for the next pool."""
        actor.rest.remote(n_woken, seconds)
        with self._lock:
            self._forget(key.session)
            self._kept.append(KeptActor(key, actor, n_woken, time.monotonic() + seconds))

    def _forget(self, session: str) -> None:
        """Forget the processes that have ended, by themselves or with their Ray."""
        now = time.monotonic()
        self._kept = [kept for kept in self._kept if kept.until > now and kept.key.session == session]


KEPT_ACTORS = KeptActors()


class PoolCall(NamedTuple):
    """A call: what the caller knows it by, the name of the function, and its arguments."""

    key: Hashable
    name: str
    arguments: tuple[Any, ...]


@dataclass(eq=False)
class PoolSlot:
    """An actor of a pool and its resources.

    Attributes
    ----------
    group
        The placement group that holds the resources.
    pending
        What the slot waits for: the group, the start of the actor, or the report of its call. None when it is idle.
    actor, node
        None until the resources are there.
    n_woken
        How often the actor has begun the work of a pool.
    was_kept
        Whether the actor comes from an earlier pool.
    has_begun
        Whether the actor has opened the work.
    call, state
        The call that runs, and the reference to what stays in the object store.
    """

    group: PlacementGroup
    pending: Any
    actor: Any = None
    node: str = ""
    n_woken: int = 0
    was_kept: bool = False
    has_begun: bool = False
    call: PoolCall | None = None
    state: Any = None


@dataclass(eq=False)
class ActorPool:
    """Actors that run calls.

    Attributes
    ----------
    n
        How many.
    bundles
        The resources of each, as the bundles of a placement group. The actor is in the first; the others are for actors that it starts.
    work
        What they run, put into the object store once.
    name
        What messages call the holder of the resources.
    n_threads
        The threads of each.
    reuse
        The name under which processes are kept for the next pool; None ends them.
    waiting
        Called again and again until the first actor has started.
    idle
        The numbers of the actors that have no call.
    """

    n: int
    bundles: Sequence[Mapping[str, float]]
    work: PoolWork
    name: str
    n_threads: int = 1
    reuse: str | None = None
    waiting: Callable[[], None] = lambda: None
    idle: list[int] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._work = [ray.put(self.work)]
        self._deaths: Counter[Hashable] = Counter()
        self._has_started = False
        # GPUs, memory and resources of the user's own belong to an actor until it ends, so that such actors are not kept.
        self._keeps_s = keep_s() if self.reuse is not None and [*map(set, self.bundles)] == [{"CPU"}] else 0.0
        self._slots: list[PoolSlot] = []
        try:
            for _ in range(self.n):
                self._slots.append(self._reserved())
        except BaseException:
            self.close(keep=False)
            raise

    @property
    def n_busy(self) -> int:
        return sum(slot.call is not None for slot in self._slots)

    @property
    def is_starting(self) -> bool:
        """Whether an actor has no call because it has not started yet."""
        return any(slot.call is None and slot.pending is not None for slot in self._slots)

    def submit(self, number: int, key: Hashable, name: str, *arguments: Any) -> None:
        """Call a function of the work in an idle actor. Arguments that are references are passed as their values."""
        self.idle.remove(number)
        slot = self._slots[number]
        slot.call = PoolCall(key, name, arguments)
        self._call(slot)

    def wait(self, timeout_s: float) -> tuple[int, Any, Any, Any] | None:
        """Return a finished call: the number of its actor, its key, its report (an exception if it failed), and the reference to its
        state; None after this time, or when an actor has started.

        Raises
        ------
        RaylineError
            When an actor cannot open the work.
        """
        pending = {slot.pending: number for number, slot in enumerate(self._slots) if slot.pending is not None}
        ready, _ = ray.wait([*pending], timeout=timeout_s)
        if not self._has_started:
            self.waiting()
        if not ready:
            return None
        number = pending[ready[0]]
        slot = self._slots[number]
        if slot.actor is None:
            self._start(slot)
            return None
        try:
            result = ray.get(ready[0])
        except LOST as error:
            return self._lost(number, error)
        except RayError as error:
            result = error.cause if isinstance(error, RayTaskError) and isinstance(error.cause, Exception) else error
        if not slot.has_begun:
            self._begun(number, result)
            return None
        return self._finished(number, result)

    def fetch(self, state: Any) -> Any:
        """Return a state that stayed in the object store."""
        return ray.get(state)

    def close(self, *, keep: bool) -> None:
        """End the actors, or keep those that are idle, and release the resources."""
        for slot in self._slots:
            if keep and self._keeps_s and slot.has_begun and slot.call is None:
                KEPT_ACTORS.keep(self._key(slot), slot.actor, slot.n_woken, self._keeps_s)
                remove_placement_group(slot.group)
            else:
                _end(slot)
        self._slots, self.idle, self._work = [], [], []

    def _reserved(self) -> PoolSlot:
        group = reserve(self.bundles, self.name)
        return PoolSlot(group, group.ready())

    def _start(self, slot: PoolSlot, *, afresh: bool = False) -> None:
        """Start an actor where its resources are, or wake a kept one."""
        slot.node = placement_group_table(slot.group)["bundles_to_node_id"][0]
        kept = None if afresh or not self._keeps_s else KEPT_ACTORS.take(self._key(slot))
        if kept is not None:
            slot.actor, slot.n_woken, slot.was_kept = kept.actor, kept.n_woken + 1, True
        else:
            slot.actor, slot.n_woken, slot.was_kept = self._new(slot), 0, False
        slot.pending = slot.actor.begin.remote(slot.n_woken, self._work)

    def _new(self, slot: PoolSlot) -> Any:
        if self._keeps_s:  # outside of the group, which ends when the actor is kept
            strategy: Any = NodeAffinitySchedulingStrategy(node_id=slot.node, soft=False)
            return PoolActor.options(scheduling_strategy=strategy).remote(self.n_threads)  # type: ignore[attr-defined]
        strategy = PlacementGroupSchedulingStrategy(
            slot.group, placement_group_bundle_index=0, placement_group_capture_child_tasks=len(self.bundles) > 1
        )
        n_gpus = self.bundles[0].get("GPU", 0)
        return PoolActor.options(scheduling_strategy=strategy, num_gpus=n_gpus).remote(self.n_threads)  # type: ignore[attr-defined]

    def _key(self, slot: PoolSlot) -> KeptKey:
        return KeptKey(self.reuse or "", slot.node, self.n_threads, connection())

    def _begun(self, number: int, result: Any) -> None:
        """Note that an actor has opened the work, and repeat the call that was lost with the one before it."""
        slot = self._slots[number]
        if isinstance(result, RaylineError):
            raise result
        if isinstance(result, Exception):
            raise TrainingError.here(
                f"a process for trials failed to start: {type(result).__name__}: {first_line(result)}",
                "Expected every process to load the search.",
                "check that modules of your own can be imported on every node.",
            ) from result
        if not result:
            ray.kill(slot.actor)
            self._start(slot, afresh=True)
            return
        slot.has_begun = self._has_started = True
        if slot.call is not None:
            self._call(slot)
        else:
            self._rest(number)

    def _call(self, slot: PoolSlot) -> None:
        assert slot.call is not None
        slot.pending, slot.state = slot.actor.call.remote(slot.call.name, *slot.call.arguments)

    def _rest(self, number: int) -> None:
        self._slots[number].pending = None
        self.idle = sorted([*self.idle, number])

    def _finished(self, number: int, result: Any) -> tuple[int, Any, Any, Any]:
        slot = self._slots[number]
        assert slot.call is not None
        key, state, slot.call, slot.state = slot.call.key, slot.state, None, None
        self._rest(number)
        return number, key, result, state

    def _lost(self, number: int, error: RayError) -> tuple[int, Any, Any, Any] | None:
        """Replace an actor that has died; its call is repeated. Return the call when it has been lost too often."""
        slot = self._slots[number]
        if slot.was_kept and not slot.has_begun:  # it has ended since it was kept
            self._start(slot, afresh=True)
            return None
        call = slot.call
        key = None if call is None else call.key
        self._deaths[key] += 1
        reason = TrainingError.here(
            f"the process of {'the trial' if call else 'a trial'} died {counted(DEATHS + 1, 'time')}: {first_line(error)}",
            "Expected it to finish its folds.",
            "check for a lack of memory or a crash in native code.",
        )
        is_over = self._deaths[key] > DEATHS
        if is_over and call is None:
            raise reason from error
        _end(slot)
        self._slots[number] = self._reserved()
        if is_over:
            return number, key, reason, None
        self._slots[number].call = call
        return None


def _end(slot: PoolSlot) -> None:
    if slot.actor is not None:
        ray.kill(slot.actor)
    remove_placement_group(slot.group)

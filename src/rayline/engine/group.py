"""The driver's side of distributed training: it starts the workers, receives their messages, keeps the last checkpoint,
and restarts from it when a worker is lost.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import ray
from ray import cloudpickle
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayline.core import scratch
from rayline.core.errors import ParameterError, RaylineError, ResourceError, TrainingError, counted
from rayline.core.waiting import patience
from rayline.engine.checkpoints import CheckpointStore, unpack
from rayline.engine.object_refs import BlockSlice, first_line
from rayline.engine.placement import WHERE, PlacementPlan, busy, free, gone
from rayline.engine.workers import WorkerActor, WorkerMessage, WorkerStart

Coordinate: TypeAlias = Callable[[int, str], AbstractContextManager[Mapping[str, Any]]]

START_S = 120.0
"""Seconds within which the workers of a group have to start."""

PLACE_S = 60.0
"""Seconds within which the CPUs that the user requested have to be free."""

SHARE_S = 1.0
"""Seconds to wait for free CPUs that the user did not request; after that the group runs without reserving them."""

DETECTION_TIMEOUT_S = 1.0
"""Seconds within which a lost worker has to be detected when another one has failed because of it."""

STATE_TIMEOUT_S = 60.0
"""Seconds within which Ray has to report the state of a worker that does not answer: Ray notices a lost machine late."""

RETRY_INTERVAL_S = 0.5
"""Seconds between two calls of a worker that cannot be reached."""

CHECKPOINT_EVERY = 10
"""Iterations between checkpoints when max_failures is set and checkpoint_every is not."""


@dataclass(frozen=True)
class DataShards:
    """The prepared rows of each rank, as references to slices of blocks in the object store."""

    train: Sequence[Sequence[BlockSlice]]
    test: Sequence[Sequence[BlockSlice]] | None


@dataclass
class DistributedRun:
    """A distributed training run, including its restarts.

    Attributes
    ----------
    function
        The function that every rank runs; its argument is a `RayWorker`.
    plan
        The placement of the ranks; made anew for each attempt, because a node may be lost.
    coordinate
        A context manager of (world size, the driver's host) that yields what the workers need to connect to one another.
    on_report, on_checkpoint
        Called with the metrics of each iteration, once (True stops the training), and with each checkpoint as a directory.
    max_failures
        How many times a lost group is replaced.
    storage, checkpoint_every
        Where checkpoints are kept (by default in the driver), and the number of iterations between them.
    pool
        The pool that workers are taken from and returned to; without one they end with the training.
    """

    function: Callable[[Any], Any]
    plan: Callable[[], PlacementPlan]
    coordinate: Coordinate
    on_report: Callable[[int, Mapping[str, float]], bool]
    on_checkpoint: Callable[[int, Path], None] | None
    max_failures: int
    storage: CheckpointStore | None
    checkpoint_every: int | None
    pool: Pool | None = None

    _last: WorkerMessage | None = field(default=None, init=False)  # the last checkpoint
    _heard: int = field(default=-1, init=False)  # the last iteration that was heard,
    _again: int = field(default=-1, init=False)  # and the one up to which they are made once more after a failure

    def run(self, share: Callable[[], DataShards]) -> list[Any]:
        """Run the function and return its result on each rank. The rows are distributed while the workers start.

        Raises
        ------
        TrainingError
            When the function fails on a rank, or a worker is lost, more than `max_failures` times.
        ResourceError
            When the workers do not get the resources of the plan.
        RaylineError
            Raised by the function itself.
        """
        packed = packed_function(self.function)
        shares: DataShards | None = None
        before: TrainingError | None = None
        for attempt in range(self.max_failures + 1):
            plan = self._planned(before)
            with self._group(plan, packed) as group:
                try:
                    shares = shares or share()
                    group.join()
                    with self.coordinate(len(plan.nodes), ray.util.get_node_ip_address()) as rendezvous:
                        return self._attempt(group, rendezvous, shares)
                except WorkerLostError as lost:
                    error = lost.as_error(plan, attempt, self.max_failures)
                    if attempt == self.max_failures or not isinstance(error, TrainingError):
                        raise error from lost.error
                    self._again, before = self._heard, error
        raise AssertionError

    def _group(self, plan: PlacementPlan, packed: bytes) -> _WorkerGroup:
        idle = None if self.pool is None else self.pool.take(plan)
        if idle is None:
            return _WorkerGroup(plan, packed)
        idle.prepare(packed)
        return idle

    def _planned(self, before: TrainingError | None) -> PlacementPlan:
        """Return the placement of the next group. After a loss, wait for a replaced node."""
        until = time.monotonic() + PLACE_S
        while True:
            try:
                return self.plan()
            except ResourceError as error:
                if before is None:
                    raise
                if time.monotonic() > until:
                    raise ResourceError(
                        f"{WHERE}: the workers that were lost cannot start again on the nodes that are left.",
                        f"Expected room for them within {PLACE_S:.0f} s; {error.within(WHERE)}",
                        "add a node, or ask for fewer workers or for less for each.",
                    ) from before
                time.sleep(RETRY_INTERVAL_S)

    def _attempt(self, group: _WorkerGroup, rendezvous: Mapping[str, Any], shares: DataShards) -> list[Any]:
        resume = None if self._last is None else self._last.checkpoint
        every = self.checkpoint_every
        if every is None and (self.max_failures or self.storage):
            every = CHECKPOINT_EVERY
        try:
            results = group.run(
                [
                    WorkerStart(
                        worker_addresses=group.worker_addresses,
                        others=group.actors[1:] if rank == 0 else group.actors[:1],
                        rendezvous=rendezvous,
                        train=shares.train[rank],
                        test=None if shares.test is None else shares.test[rank],
                        checkpoint_every=every,
                        storage=self.storage,
                    )
                    for rank in range(len(group.actors))
                ],
                resume if resume is None or isinstance(resume, str) else ray.put(resume),
                self._hear,
            )
            if self.pool is None or not self.pool.keep(group):
                group.end()
            return results
        except BaseException:
            group.end()  # before the coordinator goes, which may wait for the workers
            raise

    def _hear(self, heard: WorkerMessage) -> bool:
        if heard.metrics is not None:
            if heard.iteration <= self._again:
                return False
            self._heard = heard.iteration
            return bool(self.on_report(heard.iteration, heard.metrics))
        self._last = heard
        if self.storage is not None:
            self.storage.forget(heard.checkpoint)
        if self.on_checkpoint is not None:
            content = self.storage.read(heard.checkpoint) if self.storage else heard.checkpoint
            with scratch.folder("checkpoint") as folder:
                self.on_checkpoint(heard.iteration, unpack(content, folder))
        return False


class Pool:
    """Keeps the workers of a training run for the next one: starting processes often takes longer than the training.

    Only workers that hold no resource other than CPUs are kept: CPUs are reserved during a training run only.
    """

    def __init__(self) -> None:
        self._idle: _WorkerGroup | None = None

    def take(self, plan: PlacementPlan) -> _WorkerGroup | None:
        """Return the kept workers if they match this plan, else None."""
        group, self._idle = self._idle, None
        if group is None or (group.plan == plan and group.is_there()):
            return group
        group.end()
        return None

    def keep(self, group: _WorkerGroup) -> bool:
        """Keep the workers of a training run that succeeded. Return False when they cannot be kept."""
        if group.plan.held or group.was_stopped:
            return False
        self.close()
        group.release()
        self._idle = group
        return True

    def close(self) -> None:
        """Stop the kept workers."""
        if self._idle is not None:
            self._idle.end()
            self._idle = None


class _WorkerGroup:
    """The actors of one attempt. They start when the context is entered and end when it is left, unless a pool keeps them."""

    def __init__(self, plan: PlacementPlan, packed: bytes) -> None:
        self.plan, self._packed = plan, packed
        self.was_stopped = False
        self._is_kept = False
        self.actors: list[Any] = []
        self.worker_addresses: list[str] = []
        self._reserved: PlacementGroup | None = None
        self._runs: list[Any] = []

    def prepare(self, packed: bytes) -> None:
        """Give the existing actors another function."""
        self._packed, self._is_kept, self.worker_addresses = packed, False, []

    def is_there(self) -> bool:
        """Return whether all actors still answer."""
        try:
            ray.get([actor.is_there.remote() for actor in self.actors], timeout=START_S)
        except RayError:
            return False
        return True

    def release(self) -> None:
        """Release the CPUs, but keep the actors."""
        self._is_kept = True
        self._unreserve()

    def __enter__(self) -> _WorkerGroup:
        if self.actors:
            self._joining = [actor.join.remote(self._packed) for actor in self.actors]
            return self
        held = dict(self.plan.held)
        options = {"num_gpus": held.pop("GPU", 0), "memory": held.pop("memory", None), "resources": held or None}
        try:
            for rank, node in enumerate(self.plan.nodes):
                where = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
                actor = WorkerActor.options(scheduling_strategy=where, **options).remote(  # type: ignore[attr-defined]
                    rank, len(self.plan.nodes), self.plan.n_threads
                )
                self.actors.append(actor)
            self._joining = [actor.join.remote(self._packed) for actor in self.actors]
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if not self._is_kept:
            self.end()

    def end(self) -> None:
        """Stop the actors and remove the reservation."""
        for actor in self.actors:
            ray.kill(actor)
        for run in self._runs:  # Ray prints errors that were never retrieved
            with contextlib.suppress(RayError):
                ray.get(run, timeout=DETECTION_TIMEOUT_S)
        self.actors, self._runs = [], []
        self._unreserve()

    def _unreserve(self) -> None:
        if self._reserved is not None:
            remove_placement_group(self._reserved)
            self._reserved = None

    def join(self) -> None:
        """Wait until all workers have started, and reserve their CPUs."""
        n, held = len(self.actors), dict(self.plan.held)
        for rank, joining in enumerate(self._joining):
            try:
                with patience(lambda: busy(f"waiting for {n} workers with {held}", *held) if held else ""):
                    self.worker_addresses.append(ray.get(joining, timeout=START_S))
            except GetTimeoutError as error:
                raise ResourceError(
                    f"{WHERE}: rank {rank} of {len(self.actors)} did not start within {START_S:.0f} s.",
                    f"Expected a worker with {dict(self.plan.held) or 'no resources'}; free are {free()}.",
                    "end what holds these resources, or ask for fewer workers.",
                ) from error
            except RayError as error:
                raise WorkerLostError(rank, error) from error
        if not self.plan.cpus:
            return
        bundles = [{"CPU": self.plan.cpus}] * len(self.actors)
        places = [{"ray.io/node-id": node} for node in self.plan.nodes]
        self._reserved = placement_group(bundles, strategy="PACK", bundle_label_selector=places)
        with patience(lambda: busy(f"waiting for {n} × {self.plan.cpus:g} CPU for the workers")):
            is_there = self._reserved.wait(PLACE_S if self.plan.strict else SHARE_S)
        if not is_there and self.plan.strict:
            raise ResourceError(
                f"{WHERE}: the CPUs of {counted(n, 'worker')} were not free within {PLACE_S:.0f} s.",
                f"Expected {n} × {self.plan.cpus:g} = {n * self.plan.cpus:g} CPU; free are {free()}.",
                "end what holds them, or ask for less (resources_per_worker).",
            )

    def run(self, starts: Sequence[WorkerStart], resume: Any, on_message: Callable[[WorkerMessage], bool]) -> list[Any]:
        """Return the result of each rank. Raises WorkerLostError when one is missing."""
        runs = {actor.run.remote(starts[rank], resume): rank for rank, actor in enumerate(self.actors)}
        results: dict[int, Any] = {}
        self._runs = list(runs)
        first, is_stopping = self.actors[0], False
        listening: Any = first.listen.remote()
        while runs or listening is not None:
            (ready,), _ = ray.wait([*runs, *([] if listening is None else [listening])], num_returns=1)
            try:
                value = ray.get(ready)
            except RayError as error:
                raise self._first_cause(runs, WorkerLostError(runs.get(ready, 0), error)) from error
            if ready != listening:
                results[runs.pop(ready)] = value
                self._runs.remove(ready)
                continue
            for message in value:
                if message is not None and on_message(message) and not is_stopping:
                    first.stop.remote()
                    is_stopping = self.was_stopped = True
            listening = None if None in value else first.listen.remote()
        return [results[rank] for rank in sorted(results)]

    def _first_cause(self, runs: Mapping[Any, int], found: WorkerLostError) -> WorkerLostError:
        """Return the loss that caused the others: when one rank dies, communication fails on the rest."""
        if not found.is_cause:
            rest = [run for run in runs if runs[run] != found.rank]
            done, unknown = ray.wait(rest, num_returns=len(rest), timeout=DETECTION_TIMEOUT_S) if rest else ([], [])
            failed = (WorkerLostError(runs[run], error) for run in done if (error := _error_of(run)) is not None)
            silent = (self._lost(runs[run]) for run in unknown)
            found = next((lost for lost in (*failed, *silent) if lost is not None and lost.is_cause), found)
        if isinstance(found.error, ActorUnavailableError):  # until Ray notices, a new plan would include the lost node
            found = self._lost(found.rank) or found
        return found

    def _lost(self, rank: int) -> WorkerLostError | None:
        """Return the loss of a rank whose process has ended, or None: call it until it answers or Ray reports its state."""
        until, error = time.monotonic() + STATE_TIMEOUT_S, None
        while (left := until - time.monotonic()) > 0:
            try:
                ray.get(self.actors[rank].is_there.remote(), timeout=left)
                return None
            except ActorUnavailableError as unreachable:
                error = unreachable
                time.sleep(RETRY_INTERVAL_S)
            except RayError as gone:
                error = gone
                break
        return None if error is None else WorkerLostError(rank, error)


class WorkerLostError(Exception):
    """Raised when a rank did not finish."""

    def __init__(self, rank: int, error: RayError) -> None:
        super().__init__(rank, error)
        self.rank, self.error = rank, error

    @property
    def is_cause(self) -> bool:
        """Return whether this loss cannot be a consequence of another: the process has ended, or the input was wrong."""
        if not isinstance(self.error, RayTaskError):
            return True
        return isinstance(self.error.cause, RaylineError) and not isinstance(self.error.cause, TrainingError)

    def as_error(self, plan: PlacementPlan, attempt: int, max_failures: int) -> RaylineError:
        """Return the error to raise to the user."""
        n = len(plan.nodes)
        if isinstance(self.error, RayTaskError):
            cause = self.error.cause
            if isinstance(cause, RaylineError):
                return cause
            return TrainingError(
                f"{WHERE}: rank {self.rank} of {n} failed: {type(cause).__name__}: {first_line(str(cause))}",
                "Expected every rank to finish.",
                "the error of the worker stands above this one.",
            )
        node = gone(plan.nodes[self.rank])
        failed = f"{attempt + 1} group{'s' * (attempt > 0)} of workers failed, and max_failures is {max_failures}"
        more = "" if max_failures else "; max_failures=1 resumes from the last checkpoint"
        if node is not None:
            return TrainingError(
                f"{WHERE}: rank {self.rank} of {n} was lost with its node {node}, which has left the cluster.",
                f"Expected every node to stay; {failed}.",
                f"see why the node ended (preempted, out of memory, unreachable){more}.",
            )
        return TrainingError(
            f"{WHERE}: rank {self.rank} of {n} was lost: its process ended before its work did.",
            f"Expected every rank to finish; {failed}.",
            f"look for a lack of memory or a crash in native code{more}.",
        )


def _error_of(run: Any) -> RayError | None:
    try:
        ray.get(run)
    except RayError as error:
        return error
    return None


def packed_function(function: Callable[[Any], Any]) -> bytes:
    """Return a function as bytes. Raises ParameterError when it cannot be sent."""
    try:
        packed: bytes = cloudpickle.dumps(function)
    except Exception as error:
        raise ParameterError(
            f"{WHERE}: what is to run on the workers cannot be sent to them: {error}.",
            "Expected arguments and callbacks that can be pickled.",
            "take out open files, locks and connections.",
        ) from error
    return packed

"""The driver's side of distributed training: it takes workers, receives their messages, keeps the last checkpoint, and starts
again from it when a worker is lost.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import ray
from ray import cloudpickle

from rayline.core import scratch
from rayline.core.errors import ParameterError, ResourceError, TrainingError, first_line
from rayline.engine.checkpoints import CheckpointStore, unpack
from rayline.engine.kept_groups import KEPT, GroupKey
from rayline.engine.object_refs import BlockSlice
from rayline.engine.placement import WHERE, PlacementPlan
from rayline.engine.worker_group import RETRY_INTERVAL_S, NodeLeavesError, WorkerGroup, WorkerLostError
from rayline.engine.workers import WorkerMessage, WorkerStart

Coordinate: TypeAlias = Callable[[int, str], AbstractContextManager[Mapping[str, Any]]]

REPLACE_S = 60.0
"""Seconds within which the cluster has to have room for a group that replaces a lost one, unless the user says otherwise."""

CHECKPOINT_EVERY = 10
"""Iterations between checkpoints when max_failures is set and checkpoint_every is not."""


@dataclass(frozen=True)
class DataShards:
    """The prepared rows of each rank, as references to slices of blocks in the object store.

    Attributes
    ----------
    stay
        Whether the references to the training rows stay valid for the next training: what workers make of them may be kept, too.
    """

    train: Sequence[Sequence[BlockSlice]]
    test: Sequence[Sequence[BlockSlice]] | None
    stay: bool = False

    @cached_property
    def key(self) -> str | None:
        """The key of the training rows of all ranks, if they stay."""
        if not self.stay:
            return None
        slices = [[(piece.block.hex(), piece.start, piece.stop) for piece in of_rank] for of_rank in self.train]
        return hashlib.sha256(repr(slices).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class TrainingCall:
    """A training on workers, whichever backend starts them.

    Attributes
    ----------
    function
        The function that every rank runs, in its own process; its argument is a `workers.RayWorker`.
    num_workers, resources_per_worker, use_gpu
        The number of ranks, or a range under Ray Train, and the resources of each. By default the ranks share the
        cluster's CPUs.
    spread
        Whether the ranks are spread over the nodes; otherwise they are on as few as possible.
    timeout_s
        The most seconds to wait for resources that others hold, or that an autoscaler adds.
    coordinate
        A context manager of (world size, the driver's host) that yields what the workers need to connect to one another.
    on_report, on_checkpoint
        Called with the metrics of each iteration, once (True stops the training), and with each checkpoint as a directory.
    max_failures
        How many times a lost group is replaced.
    storage, checkpoint_every
        Where checkpoints are kept (by default in the driver), and the number of iterations between them.
    reuse
        The name under which the workers are kept for the next training (see `kept_groups`); None starts and ends them.
    """

    function: Callable[[Any], Any]
    num_workers: int | tuple[int, int]
    resources_per_worker: Mapping[str, float] | None = None
    use_gpu: bool = False
    spread: bool = False
    timeout_s: float | None = None
    coordinate: Coordinate = lambda world_size, host: contextlib.nullcontext({})
    on_report: Callable[[int, Mapping[str, float]], bool] = lambda iteration, metrics: False
    on_checkpoint: Callable[[int, Path], None] | None = None
    max_failures: int = 0
    storage: CheckpointStore | None = None
    checkpoint_every: int | None = None
    reuse: str | None = None

    def __post_init__(self) -> None:
        if self.max_failures < 0:
            raise ParameterError.value("max_failures", "an integer of at least 0", self.max_failures, where=WHERE)

    @property
    def min_workers(self) -> int:
        return self.num_workers[0] if isinstance(self.num_workers, tuple) else self.num_workers

    @property
    def max_workers(self) -> int:
        return self.num_workers[1] if isinstance(self.num_workers, tuple) else self.num_workers

    def plan(self) -> PlacementPlan:
        """Plan the smallest group. Raises ResourceError when the cluster, even empty, has no room for it."""
        return PlacementPlan.of_group(
            self.num_workers,
            self.resources_per_worker,
            use_gpu=self.use_gpu,
            spread=self.spread,
            timeout_s=self.timeout_s,
        )

    def packed(self) -> bytes:
        """Return the function as bytes. Raises ParameterError when it cannot be sent."""
        return packed_function(self.function)

    def checkpoints_every(self, *, needed: bool) -> int | None:
        """Return the number of iterations between checkpoints; where `needed`, a default."""
        return self.checkpoint_every or (CHECKPOINT_EVERY if needed else None)


@dataclass
class Listener:
    """Passes what the workers say to the call's listeners, each iteration once, however often it is made."""

    call: TrainingCall
    _heard: int = field(default=-1, init=False)  # the last iteration that was heard,
    _again: int = field(default=-1, init=False)  # and the one up to which they are made once more after a failure

    def begin_again(self) -> None:
        """Expect iterations once more: the training resumes from a checkpoint."""
        self._again = self._heard

    def hear(self, message: WorkerMessage, packed: Any = None) -> bool:
        """Return whether the training should stop. `packed` is the checkpoint of the message."""
        if message.metrics is not None:
            if message.iteration <= self._again:
                return False
            self._heard = message.iteration
            return bool(self.call.on_report(message.iteration, message.metrics))
        if self.call.on_checkpoint is not None:
            with scratch.folder("checkpoint") as folder:
                self.call.on_checkpoint(message.iteration, unpack(packed, folder))
        return False


class DistributedRun:
    """A training on plain actors, including its restarts."""

    def __init__(self, call: TrainingCall) -> None:
        self._call, self._listener = call, Listener(call)
        self._last: WorkerMessage | None = None  # the last checkpoint
        call.plan()  # refuse what the cluster has no room for before anything starts

    def run(self, share: Callable[[], DataShards]) -> list[Any]:
        """Run the function and return its result on each rank. The rows are distributed while the workers start.

        Raises
        ------
        TrainingError
            When the function fails on a rank, or a worker is lost, more than `max_failures` times. A group that moves away from a node
            before that leaves the cluster has not failed.
        ResourceError
            When the workers do not get the resources of the plan.
        RaylineError
            Raised by the function itself.
        """
        packed, max_failures = self._call.packed(), self._call.max_failures
        shares: DataShards | None = None
        before: TrainingError | None = None
        n_failed = 0
        while True:
            plan = self._planned(before)
            try:
                with self._workers(plan) as group:
                    group.send(packed)
                    shares = shares or share()
                    group.join(self._call.timeout_s)
                    with self._call.coordinate(len(plan.nodes), ray.util.get_node_ip_address()) as rendezvous:
                        results = self._attempt(group, rendezvous, shares)
                return results
            except WorkerLostError as lost:
                error = lost.as_error(plan, n_failed, max_failures)
                if n_failed == max_failures or not isinstance(error, TrainingError):
                    raise error from lost.error
                n_failed, before = n_failed + 1, error
            except NodeLeavesError:
                before = None
            self._listener.begin_again()

    @contextlib.contextmanager
    def _workers(self, plan: PlacementPlan) -> Iterator[WorkerGroup]:
        """Yield the group that was kept for such a training, or a new one; keep it, or end it."""
        key = None if self._call.reuse is None else GroupKey.of(self._call.reuse, plan)
        group = (None if key is None else KEPT.take(key)) or WorkerGroup(plan).start()
        try:
            yield group
        except BaseException:
            group.end()
            raise
        if key is None:
            group.end()
        else:
            KEPT.keep(key, group)

    def _planned(self, before: TrainingError | None) -> PlacementPlan:
        """Return the placement of the next group. After a loss, wait for a replaced node."""
        timeout_s = self._call.timeout_s or REPLACE_S
        until = time.monotonic() + timeout_s
        while True:
            try:
                return self._call.plan()
            except ResourceError as error:
                if before is None:
                    raise
                if time.monotonic() > until:
                    raise ResourceError(
                        f"{WHERE}: the lost workers cannot be restarted on the remaining nodes.",
                        f"Expected room for them within {timeout_s:g} s; {error.within(WHERE)}",
                        "add a node, or request fewer workers or fewer resources for each.",
                    ) from before
                time.sleep(RETRY_INTERVAL_S)

    def _attempt(self, group: WorkerGroup, rendezvous: Mapping[str, Any], shares: DataShards) -> list[Any]:
        call, resume = self._call, None if self._last is None else self._last.checkpoint
        every = call.checkpoints_every(needed=bool(call.max_failures or call.storage))
        starts = [
            WorkerStart(
                worker_addresses=group.worker_addresses,
                others=group.actors[1:] if rank == 0 else group.actors[:1],
                rendezvous=rendezvous,
                train=shares.train[rank],
                test=None if shares.test is None else shares.test[rank],
                checkpoint_every=every,
                storage=call.storage,
                rows_key=shares.key,
            )
            for rank in range(len(group.actors))
        ]
        try:
            return group.run(
                starts, resume if resume is None or isinstance(resume, str) else ray.put(resume), self._hear
            )
        except BaseException:
            group.end()  # before the coordinator goes, which may wait for the workers
            raise

    def _hear(self, message: WorkerMessage) -> bool:
        content, storage = message.checkpoint, self._call.storage
        if message.metrics is None:
            self._last = message
            if storage is not None:
                storage.forget(content)
                content = None if self._call.on_checkpoint is None else storage.read(content)
        return self._listener.hear(message, content)


def packed_function(function: Callable[..., Any]) -> bytes:
    """Return a function as bytes. Raises ParameterError when it cannot be sent."""
    try:
        packed: bytes = cloudpickle.dumps(function)
    except Exception as error:
        raise ParameterError(
            f"{WHERE}: the training function cannot be sent to the workers: {first_line(error)}.",
            "Expected arguments and callbacks that can be pickled.",
            "remove open files, locks and connections.",
        ) from error
    return packed

"""A group of worker actors, on the driver: start them, reserve their CPUs, run a function on all, end or keep them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from rayline.core.errors import RaylineError, ResourceError, TrainingError, first_line
from rayline.core.waiting import patience, say
from rayline.engine.nodes import LOOK_S, LeavingNodes, described, is_leaving, lost_node
from rayline.engine.placement import WHERE, PlacementPlan, busy, free
from rayline.engine.reservation import reserve, start_cleaner
from rayline.engine.workers import WorkerActor, WorkerMessage, WorkerStart

START_S = 120.0
"""Seconds within which the processes of a group have to start on resources that are free."""

SHARE_S = 1.0
"""Seconds to wait for free CPUs that the user did not request; after that the group runs without reserving them."""

DETECTION_TIMEOUT_S = 1.0
"""Seconds within which a lost worker has to be detected when another one has failed because of it."""

STATE_TIMEOUT_S = 60.0
"""Seconds within which Ray has to report the state of a worker that does not answer: Ray notices a lost machine late."""

RETRY_INTERVAL_S = 0.5
"""Seconds between two calls of a worker that cannot be reached."""


class WorkerGroup:
    """The actors of one attempt, or of several (see `kept_groups`).

    Attributes
    ----------
    plan
        Their placement.
    actors, worker_addresses
        One for each rank; addresses after `join`.
    """

    def __init__(self, plan: PlacementPlan) -> None:
        self.plan = plan
        self.actors: list[Any] = []
        self.worker_addresses: list[str] = []
        self._joining: list[Any] = []
        # What all workers hold, at once: two groups with a part each would wait for one another.
        self._held: PlacementGroup | None = None
        self._reserved: PlacementGroup | None = None
        self._runs: list[Any] = []
        self._stopping: Any = None
        self._n_woken = 0

    def start(self) -> WorkerGroup:
        """Start the actors; return before they have started."""
        held = dict(self.plan.held)
        start_cleaner()
        try:
            self._held = self._placed(held) if held else None
            options = {"num_gpus": held.pop("GPU", 0), "memory": held.pop("memory", None), "resources": held or None}
            for rank, node in enumerate(self.plan.nodes):
                where = (
                    NodeAffinitySchedulingStrategy(node_id=node, soft=False)
                    if self._held is None
                    else PlacementGroupSchedulingStrategy(self._held, placement_group_bundle_index=rank)
                )
                actor = WorkerActor.options(scheduling_strategy=where, **options).remote(  # type: ignore[attr-defined]
                    rank, len(self.plan.nodes), self.plan.n_threads
                )
                self.actors.append(actor)
        except BaseException:
            self.end()
            raise
        return self

    def load(self, packed: bytes) -> None:
        """Let the actors import what a later function will need; return before they have."""
        for actor in self.actors:
            actor.load.remote(packed)

    def send(self, packed: bytes) -> None:
        """Send the actors the function of the next run; return before they have it."""
        self.worker_addresses = []
        self._joining = [actor.join.remote(packed) for actor in self.actors]

    def end(self) -> None:
        """Stop the actors and free what they have reserved."""
        for actor in self.actors:
            ray.kill(actor)
        for run in self._runs:  # Ray prints errors that were never retrieved
            with contextlib.suppress(RayError):
                ray.get(run, timeout=DETECTION_TIMEOUT_S)
        self.actors, self._runs = [], []
        self._unreserve()
        if self._held is not None:
            remove_placement_group(self._held)
            self._held = None

    # -- between two runs ----------------------------------------------------------------------------------------------

    def rest(self, seconds: float) -> bool:
        """Release the CPUs and the rows, but keep the actors: unless they are used again, they end after this
        time, or when others wait for resources. Return whether they are kept."""
        self._unreserve()
        self._joining = []
        try:
            if self._stopping is not None:
                ray.get(self._stopping, timeout=START_S)  # no order to stop may be on its way to the next run
            others = self.actors[1:]
            for rank, actor in enumerate(self.actors):
                actor.rest.remote(self._n_woken, seconds, others if rank == 0 else [], self._held)
        except RayError:
            return False
        self._stopping = None
        return True

    def wake(self) -> bool:
        """Return whether all actors are still there, or wait for resources, and can be used for another run."""
        if self._held is not None and placement_group_table(self._held)["state"] == "PENDING":
            return True  # `join` goes on with the wait
        self._n_woken += 1
        try:
            return all(ray.get([actor.wake.remote(self._n_woken) for actor in self.actors], timeout=START_S))
        except RayError:
            return False

    def _unreserve(self) -> None:
        if self._reserved is not None:
            remove_placement_group(self._reserved)
            self._reserved = None

    # -- a run ---------------------------------------------------------------------------------------------------------

    def join(self, timeout_s: float | None = None) -> None:
        """Wait until all workers have started, and reserve their CPUs.

        Raises
        ------
        ResourceError
            When the resources of the workers are not free within `timeout_s`, or they do not start on them.
        WorkerLostError
            When a worker ends.
        NodeLeavesError
            When a node leaves before the resources of all are free.
        """
        if self._held is not None:
            self._await(self._held, timeout_s)
        n = len(self.actors)
        for rank, joining in enumerate(self._joining):
            try:
                self.worker_addresses.append(ray.get(joining, timeout=START_S))
            except GetTimeoutError as error:
                raise not_started(f"rank {rank} of {n}") from error
            except RayError as error:
                if is_leaving(self.plan.nodes[rank]):  # nothing is lost yet
                    raise NodeLeavesError from error
                raise WorkerLostError(rank, error) from error
        if self.plan.cpus:
            self._reserved = self._placed({"CPU": self.plan.cpus})
            if self.plan.strict:
                self._await(self._reserved, timeout_s)
            else:
                self._reserved.wait(SHARE_S)

    def _placed(self, needs: Mapping[str, float]) -> PlacementGroup:
        """Ask for these resources for each worker, where it is planned."""
        places = [{"ray.io/node-id": node} for node in self.plan.nodes]
        return reserve([needs] * len(places), f"{WHERE} workers", bundle_label_selector=places)

    def _await(self, group: PlacementGroup, timeout_s: float | None) -> None:
        """Wait until resources that were asked for are there."""
        needs, until = group.bundle_specs, None if timeout_s is None else time.monotonic() + timeout_s
        with patience(lambda: busy(f"waiting for {described(needs)} for the workers", *needs[0])):
            while not group.wait(LOOK_S):
                if any(map(is_leaving, self.plan.nodes)):
                    raise NodeLeavesError
                if timeout_s is not None and until is not None and time.monotonic() > until:
                    raise not_free(f"{described(needs)} for the workers", timeout_s, needs[0])

    def run(self, starts: Sequence[WorkerStart], resume: Any, on_message: Callable[[WorkerMessage], bool]) -> list[Any]:
        """Return the result of each rank.

        Raises WorkerLostError when one is missing. Raises NodeLeavesError when a node is about to leave, others have room for the
        group, and a checkpoint has come since.
        """
        runs = {actor.run.remote(starts[rank], resume): rank for rank, actor in enumerate(self.actors)}
        results: dict[int, Any] = {}
        self._runs = list(runs)
        first, leaving = self.actors[0], LeavingNodes(self.plan.nodes)
        listening: Any = first.listen.remote()
        while runs or listening is not None:
            awaited = [*runs, *([] if listening is None else [listening])]
            ready_now, _ = ray.wait(awaited, num_returns=1, timeout=LOOK_S)
            if leaving.look():
                say(f"workers run on {leaving.first}: they move after the next iteration, if others have room for them")
                first.checkpoint_soon.remote()
            if not ready_now:
                continue
            (ready,) = ready_now
            try:
                value = ray.get(ready)
            except RayError as error:
                raise self._first_cause(runs, WorkerLostError(runs.get(ready, 0), error)) from error
            if ready != listening:
                results[runs.pop(ready)] = value
                self._runs.remove(ready)
                continue
            for message in value:
                if message is not None and on_message(message) and self._stopping is None:
                    self._stopping = first.stop.remote()
                is_stored = message is not None and message.metrics is None  # a checkpoint
                if leaving.first and is_stored and self._stopping is None and self.plan.has_other_nodes():
                    raise NodeLeavesError
            listening = None if None in value else first.listen.remote()
        return [results[rank] for rank in sorted(results)]

    def _first_cause(self, runs: Mapping[Any, int], first: WorkerLostError) -> WorkerLostError:
        """Return the loss that caused the others: when one rank dies, communication fails on the rest."""
        if not first.is_cause:
            rest = [run for run in runs if runs[run] != first.rank]
            done, unknown = ray.wait(rest, num_returns=len(rest), timeout=DETECTION_TIMEOUT_S) if rest else ([], [])
            failed = (WorkerLostError(runs[run], error) for run in done if (error := _error_of(run)) is not None)
            silent = (self._lost(runs[run]) for run in unknown)
            first = next((lost for lost in (*failed, *silent) if lost is not None and lost.is_cause), first)
        if isinstance(first.error, ActorUnavailableError):  # until Ray notices, a new plan would include the lost node
            first = self._lost(first.rank) or first
        return first

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
            except RayError as failure:
                error = failure
                break
        return None if error is None else WorkerLostError(rank, error)


def not_free(what: str, timeout_s: float, names: Iterable[str]) -> ResourceError:
    """Return the error of a wait for resources that others hold."""
    return ResourceError(
        f"{WHERE}: {what} were not free within timeout_s={timeout_s:g}.",
        f"Expected them to be given back; {busy('now', *names) or f'free are {free()}'}.",
        "allow more time (Scaling(timeout_s=…)), stop the jobs that hold them, or request less (resources_per_worker).",
    )


def not_started(who: str) -> ResourceError:
    """Return the error of workers that do not start, though what they need is free."""
    return ResourceError(
        f"{WHERE}: {who} did not start within {START_S:.0f} s.",
        "Expected a new process, which imports the framework.",
        "see in Ray's log why processes do not start, or how busy the machine is.",
    )


class NodeLeavesError(Exception):
    """Raised when a group must restart because one of its nodes leaves, without any loss."""


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
                f"{WHERE}: rank {self.rank} of {n} failed: {type(cause).__name__}: {first_line(cause)}",
                "Expected every rank to finish.",
                "the error of the worker is shown above this one.",
            )
        node = lost_node(plan.nodes[self.rank])
        failed = f"{attempt + 1} group{'s' * (attempt > 0)} of workers failed, and max_failures is {max_failures}"
        more = "" if max_failures else "; max_failures=1 resumes from the last checkpoint"
        if node is not None:
            return TrainingError(
                f"{WHERE}: rank {self.rank} of {n} was lost with its node {node}, which has left the cluster.",
                f"Expected no node to leave the cluster; {failed}.",
                f"see why the node ended (preempted, out of memory, unreachable){more}.",
            )
        return TrainingError(
            f"{WHERE}: rank {self.rank} of {n} was lost: its process ended before its work did.",
            f"Expected every rank to finish; {failed}.",
            f"check for a lack of memory or a crash in native code{more}.",
        )


def _error_of(run: Any) -> RayError | None:
    try:
        ray.get(run)
    except RayError as error:
        return error
    return None

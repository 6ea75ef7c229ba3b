"""Ray Train as what starts and watches the workers of a training: elastic groups, its storage, its failure handling.

Ray Train's controller runs under an actor of ours, the supervisor. The supervisor is also the channel between driver and workers:
metrics are heard at once (through `ray.train.report` each would wait for the controller's next poll), ranks gather through it, and
ending it ends everything that Ray Train has started. Checkpoints go through `ray.train.report` into Ray Train's storage.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import train as ray_train
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayline.compat.ray_tune import without_placement_group_cleaner
from rayline.core import scratch
from rayline.core.errors import RaylineError, ResourceError, TrainingError, first_line
from rayline.core.waiting import patience, say
from rayline.engine.checkpoints import CheckpointStore
from rayline.engine.group import Listener, TrainingCall
from rayline.engine.group_cleaner import groups_of, remove_groups
from rayline.engine.nodes import LOOK_S, LeavingNodes, lost_node
from rayline.engine.object_refs import BlockSlice
from rayline.engine.placement import WHERE, busy, free
from rayline.engine.reservation import end_with_process
from rayline.engine.train_supervisor import GroupBegun, GroupLost, RankFailed, TrainJob, TrainSupervisor
from rayline.engine.train_worker import run_worker
from rayline.engine.worker_group import START_S, not_free, not_started

SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # of Ray Train's polls; 2 seconds by default
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "31536000",  # for resources to be free: the driver waits, and says so
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
"""Settings of Ray Train, unless the driver's environment has them."""

ELASTIC_SETTINGS = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10"}
"""Those of an elastic group: Ray Train counts on a node that has just left, waits for it (60 seconds by default), and begins with fewer."""

KEEP = 2
"""The number of checkpoints of a run that stay in storage."""

SMALLEST_CPU = 0.01
"""The CPUs of a worker where there are more workers than CPUs."""


class LossReporter(ray_train.UserCallback):
    """Tells the driver, from Ray Train's controller, that workers have failed."""

    def __init__(self, supervisor: Any) -> None:
        self._supervisor = supervisor

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
        failures = {rank: first_line(f"{type(e).__name__}: {e}") for rank, e in worker_exceptions.items()}
        self._supervisor.tell.remote([GroupLost(failures)])


@dataclass(frozen=True)
class TrainOptions:
    """The configuration of Ray Train for one training."""

    num_workers: int | tuple[int, int]
    resources: Mapping[str, float]
    max_failures: int
    filesystem: Any
    folder: str
    run: str
    environment: Mapping[str, str]
    spread: bool = False

    def fit(self, job: TrainJob) -> None:
        """Run Ray Train with this configuration, in the supervisor's process."""
        settings = {**SETTINGS, **ELASTIC_SETTINGS} if isinstance(self.num_workers, tuple) else SETTINGS
        for name, value in {**settings, **self.environment}.items():
            os.environ[name] = value
        logging.getLogger("ray.train").setLevel(logging.ERROR)

        def loop() -> None:
            run_worker(job)

        trainer = DataParallelTrainer(
            loop,
            scaling_config=ray_train.ScalingConfig(
                num_workers=self.num_workers,
                resources_per_worker=dict(self.resources),
                use_gpu=self.resources.get("GPU", 0) > 0,
                placement_strategy="SPREAD" if self.spread else "PACK",
            ),
            run_config=ray_train.RunConfig(
                name=self.run,
                storage_path=self.folder,
                storage_filesystem=self.filesystem,
                failure_config=ray_train.FailureConfig(
                    # A group that cannot start is tried again where another one fits, as its node may have just left.
                    max_failures=self.max_failures,
                    controller_failure_limit=-1 if isinstance(self.num_workers, tuple) else 0,
                ),
                checkpoint_config=ray_train.CheckpointConfig(num_to_keep=KEEP),
                callbacks=[LossReporter(job.supervisor)],
            ),
        )
        without_placement_group_cleaner(trainer).fit()


class RayTrainRun:
    """A training under Ray Train, including its restarts."""

    def __init__(self, call: TrainingCall) -> None:
        self._call, self._listener, self._storage = call, Listener(call), call.storage
        self._plan = call.plan()  # of the smallest group: its resources are those of each worker
        self._group: GroupBegun | None = None
        self._failures = 0  # groups that were lost, and not with their node
        self._lost: Mapping[int, str] = {}  # of the current group
        self._raised: dict[int, Exception] = {}
        self._memory = 0.0  # of each worker: by this amount the placement groups of this training are found again
        self._waits_since: float | None = None  # for a group to begin,
        self._placed_since: float | None = None  # and for its processes to start, on resources that are there
        self._leaving = LeavingNodes(())  # of the current group

    @property
    def _is_elastic(self) -> bool:
        return isinstance(self._call.num_workers, tuple)

    def run(self, train: Sequence[BlockSlice], test: Sequence[BlockSlice] | None) -> list[Any]:
        """Run the function and return its result on each rank.

        Raises
        ------
        TrainingError
            When the function fails on a rank, or a worker is lost, more than `max_failures` times. A worker that was lost
            with its node does not count where the group is elastic.
        ResourceError
            When no group of workers can begin.
        RaylineError
            Raised by the function itself.
        """
        call, plan = self._call, self._plan
        packed = call.packed()
        every = call.checkpoints_every(needed=bool(call.max_failures or self._is_elastic or call.storage is not None))
        with contextlib.ExitStack() as stack:
            if self._storage is None:
                _refuse_several_machines()
                self._storage = CheckpointStore.begin(stack.enter_context(scratch.folder("train")))
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            supervisor = TrainSupervisor.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
            job = TrainJob(packed, supervisor, train, test, plan.n_threads, every, call.on_checkpoint is not None)
            options = self._options()
            end_with_process(self._memory)
            stack.callback(remove_groups, self._memory)
            return self._follow(supervisor, supervisor.run.remote(options.fit, job))

    def _options(self) -> TrainOptions:
        assert self._storage is not None
        filesystem, root = self._storage.opened()
        extra = 1 + secrets.randbelow(1 << 20)  # bytes, by which this training is told from others
        self._memory = self._plan.held.get("memory", 0.0) + extra
        resources = {**self._plan.held, "CPU": max(self._plan.cpus, SMALLEST_CPU), "memory": self._memory}
        failures = -1 if self._is_elastic else self._call.max_failures  # of an elastic group they are counted here
        environment = {name: value for name, value in os.environ.items() if name.startswith("RAY_TRAIN_")}
        return TrainOptions(
            self._call.num_workers, resources, failures, filesystem, root.rpartition("/")[0], self._storage.run, environment,
            self._call.spread,
        )  # fmt: skip

    def _follow(self, supervisor: Any, running: Any) -> list[Any]:
        """Listen until Ray Train has ended."""
        listening, is_stopping = supervisor.listen.remote(), False
        self._waits_since = time.monotonic()
        with contextlib.ExitStack() as coordination, _ended(supervisor), patience(self._waiting) as is_over:
            while True:
                ready, _ = ray.wait([listening, running], num_returns=1, timeout=LOOK_S)
                if self._leaving.look():
                    say(f"workers run on {self._leaving.first}")
                if not ready:
                    self._check_wait()
                elif listening in ready:
                    for message in ray.get(listening):
                        if isinstance(message, GroupBegun):
                            is_over()
                            self._begin(message, supervisor, coordination)
                        elif self._hear(message) and not is_stopping:
                            supervisor.stop.remote()
                            is_stopping = True
                    listening = supervisor.listen.remote()
                else:
                    self._raise_failure(running)
                    assert self._group is not None
                    results: list[Any] = ray.get(supervisor.results.remote(self._group.attempt))
                    return results

    def _waiting(self) -> str:
        return busy(
            f"waiting for {self._call.num_workers} workers with {dict(self._plan.held)} and {self._plan.cpus:g} CPU each"
        )

    def _check_wait(self) -> None:
        """Raise ResourceError when a group has waited too long for its resources, or for its processes on them."""
        if self._waits_since is None:
            return
        now, who = time.monotonic(), f"a group of {self._call.num_workers} workers"
        timeout_s = self._call.timeout_s or (None if self._group is None else START_S)
        if not any(entry["state"] == "CREATED" for entry in groups_of(self._memory).values()):
            self._placed_since = None
            if timeout_s is not None and now - self._waits_since > timeout_s:
                raise not_free(f"the resources of {who}", timeout_s, [*self._plan.held, "CPU"])
        elif self._placed_since is None:
            self._placed_since = now
        elif now - self._placed_since > START_S:
            raise not_started(who)

    def _begin(self, begun: GroupBegun, supervisor: Any, coordination: contextlib.ExitStack) -> None:
        """Connect the workers of a group. Raises when the one before it was one too many."""
        if self._group is not None:
            self._count_failure(self._group)
            # As an error leaves it: a coordinator waits for workers that end by themselves, and these are gone.
            lost = TrainingError(f"{WHERE}: a group of workers was lost.")
            coordination.__exit__(TrainingError, lost, None)
            self._listener.begin_again()
        self._group, self._lost, self._raised = begun, {}, {}
        self._waits_since = self._placed_since = None
        self._leaving = LeavingNodes(begun.nodes)
        host = ray.util.get_node_ip_address()
        rendezvous = coordination.enter_context(self._call.coordinate(len(begun.nodes), host))
        ray.get(supervisor.connect.remote(begun.attempt, rendezvous))

    def _count_failure(self, group: GroupBegun) -> None:
        if not self._lost or (self._is_elastic and any(lost_node(node) for node in group.nodes)):
            return  # the group was resized, or a node has left
        self._failures += 1
        if self._failures > self._call.max_failures:
            raise self._error(group)

    def _hear(self, message: Any) -> bool:
        """Return whether the training should stop."""
        if isinstance(message, GroupLost):
            self._lost, self._waits_since = message.failures, time.monotonic()
        elif isinstance(message, RankFailed):
            self._raised[message.rank] = message.error
            if isinstance(message.error, RaylineError) and not isinstance(message.error, TrainingError):
                raise message.error  # wrong input stays wrong in the next group
        else:
            return self._listener.hear(message, message.checkpoint)
        return False

    def _raise_failure(self, running: Any) -> None:
        """Raise what Ray Train ended with, if it did not succeed."""
        try:
            ray.get(running)
        except RayTaskError as error:
            if self._group is not None and (self._lost or self._raised):
                raised = self._error(self._group)
                raise raised from (raised.__cause__ or getattr(raised, "cause", error))
            cause = error.cause
            raise ResourceError(
                f"{WHERE}: Ray Train could not run {self._call.num_workers} workers: {first_line(cause)}",
                f"Expected {dict(self._plan.held)} and {self._plan.cpus:g} CPU for each; free are {free()}.",
                "stop the jobs that hold these resources, or request fewer workers.",
            ) from error
        except RayActorError as error:
            raise TrainingError(
                f"{WHERE}: the process that runs Ray Train has ended.",
                "Expected it to stay until the training ends.",
                "check for a lack of memory on the driver's node.",
            ) from error

    def _error(self, group: GroupBegun) -> RaylineError:
        """Return the error of a lost group: of a rank that died, where one did, because the others fail of it."""
        n, dead = len(group.nodes), [rank for rank in self._lost if rank not in self._raised]
        if not dead:
            rank, error = next(iter(self._raised.items()))
            if isinstance(error, RaylineError):
                return error
            training_error = TrainingError(
                f"{WHERE}: rank {rank} of {n} failed: {type(error).__name__}: {first_line(error)}",
                "Expected every rank to finish.",
                "the error of the worker is shown above this one.",
            )
            training_error.__cause__ = error
            return training_error
        rank = dead[0]
        node = lost_node(group.nodes[rank]) if rank < n else None
        how = (
            f"was lost with its node {node}, which has left the cluster"
            if node
            else "was lost: its process ended before its work did"
        )
        return TrainingError(
            f"{WHERE}: rank {rank} of {n} {how}.",
            f"Expected every rank to finish; {self._failures or 1} groups of workers failed, and max_failures is {self._call.max_failures}.",
            "check for a lack of memory or a crash in native code; max_failures=1 resumes from the last checkpoint.",
        )


def _refuse_several_machines() -> None:
    addresses = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    if len(addresses) > 1:
        raise ResourceError(
            f"{WHERE}: Ray Train keeps checkpoints in a storage that all {len(addresses)} machines of this cluster can access.",
            "Expected storage_path, a shared directory or a URL (s3://…, gs://…).",
            "pass storage_path, or leave backend='ray_train' and the range of workers out.",
        )


@contextlib.contextmanager
def _ended(supervisor: Any) -> Iterator[None]:
    """End the supervisor, and with it Ray Train's controller and its workers: before the coordinator goes, which may wait for
    the workers."""
    try:
        yield
    finally:
        with contextlib.suppress(RayError):
            ray.kill(supervisor)

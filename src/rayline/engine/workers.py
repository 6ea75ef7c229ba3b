"""A worker of distributed training: a Ray actor that runs a function, reports, and can be stopped."""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import ray
from ray.util.placement_group import PlacementGroup, remove_placement_group

from rayline.core import scratch
from rayline.core.errors import RaylineError
from rayline.engine.checkpoints import CheckpointStore, pack, unpack
from rayline.engine.idle_worker import IdleWorker, release_run_memory
from rayline.engine.object_refs import BlockSlice


@dataclass
class RayWorker:
    """The context of a training function on each rank. See `core.framework.TrainContext` for its attributes.

    `remembered` is what the function may keep of its training rows until it runs on the same rows again; None where it would be in vain.
    """

    rank: int
    world_size: int
    worker_addresses: Sequence[str]
    rendezvous: Mapping[str, Any]
    n_threads: int
    train: Sequence[Callable[[], pl.DataFrame]]
    test: Sequence[Callable[[], pl.DataFrame]] | None
    report: Callable[[int, Mapping[str, float]], bool]
    checkpoint: Callable[[int, Callable[[Path], None]], None]
    gather: Callable[[Any], list[Any]]
    resume: Path | None = None
    remembered: dict[Any, Any] | None = None


@dataclass(frozen=True)
class WorkerStart:
    """The data that the driver sends to a worker to start it. `rows_key` identifies the training rows of all ranks: all of them find
    what they have remembered, or none does."""

    worker_addresses: Sequence[str]
    others: Sequence[Any]  # of rank 0 all others, of the others rank 0
    rendezvous: Mapping[str, Any]
    train: Sequence[BlockSlice]
    test: Sequence[BlockSlice] | None
    checkpoint_every: int | None
    storage: CheckpointStore | None
    rows_key: str | None = None


@dataclass(frozen=True)
class WorkerMessage:
    """A message of rank 0: the metrics of an iteration, or a checkpoint (bytes, or its name in storage)."""

    iteration: int
    metrics: Mapping[str, float] | None = None
    checkpoint: Any = None


class Reporter:
    """The reports of a rank, and the rule by which all ranks stop after the same iteration.

    Parameters
    ----------
    rank, world_size
        Of this worker.
    send
        Sends a message to the driver.
    announce
        Tells all other ranks the last iteration, and returns when they know it.
    """

    def __init__(
        self, rank: int, world_size: int, send: Callable[[WorkerMessage], None], announce: Callable[[int], None]
    ) -> None:
        self._rank, self._world_size, self._send, self._announce = rank, world_size, send, announce
        self.last: int | None = None  # no iteration after this one
        self.stop = False  # set on rank 0, when the driver wants the training to stop

    def __call__(self, iteration: int, metrics: Mapping[str, float]) -> bool:
        """Report an iteration. Return whether this rank has to stop."""
        if self.last is not None:
            return iteration > self.last
        if self._rank:
            return False
        self._send(WorkerMessage(iteration, {name: float(value) for name, value in metrics.items()}))
        if not self.stop:
            return False
        # All ranks must stop after the same iteration. No other rank can have finished the next iteration, which needs
        # this rank: so they are told to stop after that, and know it before this rank continues.
        self.last = iteration
        self._announce(iteration)
        return self._world_size == 1


@ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0, concurrency_groups={"listen": 1, "tell": 1})
class WorkerActor:
    """One worker. While `run` runs the function, `listen` waits for its messages and `stop_after` tells it to stop."""

    def __init__(self, rank: int, world_size: int, n_threads: int) -> None:
        os.environ["OMP_NUM_THREADS"] = str(n_threads)
        self._rank, self._world_size, self._n_threads = rank, world_size, n_threads
        self._function: Any = None
        self._start: WorkerStart | None = None
        self._remembered: tuple[str | None, dict[Any, Any]] = (None, {})
        self._idle, self._others = IdleWorker(self._leave, release_run_memory), list[Any]()
        self._held: PlacementGroup | None = None

    def load(self, packed: bytes) -> None:
        """Call a function that imports what a run will need; the run says what is wrong."""
        with contextlib.suppress(Exception):
            pickle.loads(packed)()  # noqa: S301  # packed by our own driver

    def join(self, packed: bytes) -> str:
        """Load the function (and with it the libraries that it needs), and return this worker's address. Called once per
        training run."""
        self._outbox: queue.SimpleQueue[WorkerMessage | None] = queue.SimpleQueue()
        self._reporter = Reporter(self._rank, self._world_size, self._outbox.put, self._announce)
        self._is_due = False  # a checkpoint, out of turn
        self._given: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()  # of the other ranks, on rank 0
        self._gathered: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()
        self._function = pickle.loads(packed)  # noqa: S301  # packed by our own driver
        getattr(self._function, "load", lambda: None)()
        self._place = socket.socket()
        self._place.bind(("", 0))  # held until the function runs, so that no two workers get the same port
        return f"{ray.util.get_node_ip_address()}:{self._place.getsockname()[1]}"

    def run(self, start: WorkerStart, resume: Any) -> Any:
        """Run the function on this rank."""
        self._start = start
        self._place.close()
        with contextlib.ExitStack() as stack:
            stack.callback(self._outbox.put, None)
            directory = None
            if resume is not None:
                folder = stack.enter_context(scratch.folder("checkpoint"))
                content = start.storage.read(resume) if start.storage and isinstance(resume, str) else resume
                directory = unpack(content, folder)
            worker = RayWorker(
                rank=self._rank,
                world_size=self._world_size,
                worker_addresses=start.worker_addresses,
                rendezvous=start.rendezvous,
                n_threads=self._n_threads,
                train=start.train,
                test=start.test,
                report=self._reporter,
                checkpoint=self._checkpoint,
                gather=self._gather,
                resume=directory,
                remembered=self._memo(start.rows_key),
            )
            try:
                return self._function(worker)
            except RaylineError as error:
                keep_cause(error)
                raise

    @ray.method(concurrency_group="listen")
    def listen(self) -> list[WorkerMessage | None]:
        """Wait for the next message and return it; None at the end."""
        messages = [self._outbox.get()]
        with contextlib.suppress(queue.Empty):
            while messages[-1] is not None:
                messages.append(self._outbox.get_nowait())
        return messages

    @ray.method(concurrency_group="tell")
    def is_there(self) -> None:
        """Answer as long as this process is alive, even while it runs the function."""

    @ray.method(concurrency_group="tell")
    def stop(self) -> None:
        """Tell rank 0 that training has to stop."""
        self._reporter.stop = True

    @ray.method(concurrency_group="tell")
    def checkpoint_soon(self) -> None:
        """Tell rank 0 to store a checkpoint after this iteration, whether or not one is due."""
        self._is_due = True

    @ray.method(concurrency_group="tell")
    def stop_after(self, iteration: int) -> None:
        """Tell the other ranks to stop after this iteration."""
        self._reporter.last = iteration

    @ray.method(concurrency_group="tell")
    def give(self, rank: int, value: Any) -> None:
        """Give rank 0 the value that another rank gathers."""
        self._given.put((rank, value))

    @ray.method(concurrency_group="tell")
    def take(self, values: list[Any]) -> None:
        """Return to another rank the gathered values of all."""
        self._gathered.put(values)

    # -- between two runs ----------------------------------------------------------------------------------------------

    @ray.method(concurrency_group="tell")
    def rest(self, n_woken: int, seconds: float, others: list[Any], held: PlacementGroup | None) -> None:
        """Release the last run, and end after this time unless this worker is used again (see `IdleWorker`). `others` are
        the other ranks, on rank 0; `held` what all ranks hold together."""
        self._start = self._function = None
        self._others, self._held = others, held
        self._idle.rest(n_woken, seconds, looks=self._rank == 0)

    @ray.method(concurrency_group="tell")
    def wake(self, n_woken: int) -> bool:
        """Return whether this worker can be used for another run."""
        return self._idle.wake(n_woken)

    def leave(self) -> None:
        """End this process."""
        ray.actor.exit_actor()

    def _leave(self) -> None:
        if self._held is not None:
            remove_placement_group(self._held)  # and all workers with it
        for actor in (*self._others, ray.get_runtime_context().current_actor):
            actor.leave.remote()

    def _memo(self, rows_key: str | None) -> dict[Any, Any] | None:
        """Return what was remembered of these rows, and forget what was of others."""
        if rows_key is None or rows_key != self._remembered[0]:
            self._remembered = rows_key, {}
        return None if rows_key is None else self._remembered[1]

    # -- within the function -------------------------------------------------------------------------------------------

    def _gather(self, value: Any) -> list[Any]:
        assert self._start is not None
        if self._rank:
            self._start.others[0].give.remote(self._rank, value)
            return self._gathered.get()
        by_rank = {0: value}
        while len(by_rank) < self._world_size:  # no rank gives the next value before it has taken this one
            rank, value_of_rank = self._given.get()
            by_rank[rank] = value_of_rank
        values = [value_of_rank for _, value_of_rank in sorted(by_rank.items())]
        shared = ray.put(values) if self._world_size > 1 else None
        for other in self._start.others:
            other.take.remote(shared)
        return values

    def _announce(self, iteration: int) -> None:
        assert self._start is not None
        ray.get([other.stop_after.remote(iteration) for other in self._start.others])

    def _checkpoint(self, iteration: int, save: Callable[[Path], None]) -> None:
        assert self._start is not None
        every = self._start.checkpoint_every
        if self._rank or not (self._is_due or (every and (iteration + 1) % every == 0)):
            return
        self._is_due = False
        packed = pack(save)
        storage = self._start.storage
        kept = np.frombuffer(packed, np.uint8) if storage is None else storage.write(iteration, packed)
        self._outbox.put(WorkerMessage(iteration, checkpoint=kept))


def keep_cause(error: Exception) -> None:
    """Keep the cause of an error, which pickling leaves out, if it can be pickled."""
    with contextlib.suppress(Exception):
        pickle.loads(ray.cloudpickle.dumps(error.__cause__))  # noqa: S301  # our own bytes
        error.__dict__["cause"] = error.__cause__

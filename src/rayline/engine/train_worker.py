"""A worker of Ray Train: its rows, and what it says to the other ranks and to the driver."""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import secrets
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray import train as ray_train
from ray.exceptions import RayError
from ray.train import collective

from rayline.core import scratch
from rayline.core.errors import TrainingError, first_line
from rayline.engine.checkpoints import pack, unpack
from rayline.engine.object_refs import shared
from rayline.engine.placement import WHERE
from rayline.engine.train_supervisor import RankFailed, TrainJob
from rayline.engine.workers import RayWorker, Reporter, WorkerMessage, keep_cause


def run_worker(job: TrainJob) -> None:
    """Run the function on a worker of Ray Train, with the contract of the other backend."""
    os.environ["OMP_NUM_THREADS"] = str(job.n_threads)
    context = ray_train.get_context()
    rank, n = context.get_world_rank(), context.get_world_size()
    attempt = collective.broadcast_from_rank_zero(secrets.token_hex(8) if rank == 0 else None)
    supervisor = job.supervisor
    with contextlib.ExitStack() as stack:
        try:
            with socket.socket() as place:
                place.bind(("", 0))  # held until all ranks have met, so that no two workers get the same port
                function = pickle.loads(job.packed)  # noqa: S301  # packed by our own driver
                address = f"{ray.util.get_node_ip_address()}:{place.getsockname()[1]}"
                node = ray.get_runtime_context().get_node_id()
                addresses, rendezvous = ray.get(supervisor.meet.remote(attempt, rank, n, address, node))
            link = TrainLink(job, attempt, rank, n)
            checkpoint = ray_train.get_checkpoint()
            resume = None if checkpoint is None else Path(stack.enter_context(checkpoint.as_directory()))
            worker = RayWorker(
                rank=rank,
                world_size=n,
                worker_addresses=addresses,
                rendezvous=rendezvous,
                n_threads=job.n_threads,
                train=shared(job.train, n)[rank] if job.train else [],
                test=None if job.test is None else shared(job.test, n)[rank],
                report=link.report,
                checkpoint=link.checkpoint,
                gather=link.gather,
                resume=resume,
            )
            result = function(worker)
            link.flush()
        except Exception as error:
            keep_cause(error)
            _tell_failure(supervisor, rank, error)
            raise
        ray.get(supervisor.finish.remote(attempt, rank, result))


def _tell_failure(supervisor: Any, rank: int, error: Exception) -> None:
    try:
        ray.get(supervisor.tell.remote([RankFailed(rank, error)]))
    except Exception:  # an error of a library that cannot be pickled
        what = TrainingError(f"{WHERE}: rank {rank} failed: {type(error).__name__}: {first_line(error)}")
        ray.get(supervisor.tell.remote([RankFailed(rank, what)]))


class TrainLink:
    """The connection of a rank to the other ranks and the driver, through the supervisor: reports, gathered values and checkpoints."""

    def __init__(self, job: TrainJob, attempt: str, rank: int, n: int) -> None:
        self._job, self._supervisor, self._attempt, self._rank, self._n = job, job.supervisor, attempt, rank, n
        self._n_exchanges = 0
        self._outbox: queue.SimpleQueue[WorkerMessage | None] = queue.SimpleQueue()
        self.report = Reporter(rank, n, self._outbox.put, self._announce)
        self._sender = threading.Thread(target=self._send, daemon=True)
        self._sender.start()
        threading.Thread(target=self._wait_for_stop if rank == 0 else self._wait_for_last, daemon=True).start()

    def _send(self) -> None:
        """Send messages in their order, those that have come meanwhile together."""
        is_open = True
        while is_open:
            messages = [self._outbox.get()]
            while not self._outbox.empty():
                messages.append(self._outbox.get())
            is_open = None not in messages
            ray.get(self._supervisor.tell.remote([message for message in messages if message is not None]))

    def flush(self) -> None:
        """Send what is left, and end."""
        self._outbox.put(None)
        self._sender.join()

    def _wait_for_stop(self) -> None:
        with contextlib.suppress(RayError):
            ray.get(self._supervisor.wait_for_stop.remote())
            self.report.stop = True

    def _wait_for_last(self) -> None:
        with contextlib.suppress(RayError):
            self.report.last = ray.get(self._supervisor.wait_for_last.remote(self._attempt))
            self._supervisor.know_last.remote(self._attempt)

    def _announce(self, iteration: int) -> None:
        ray.get(self._supervisor.stop_after.remote(self._attempt, iteration, self._n))

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks."""
        self._n_exchanges += 1
        call = self._supervisor.exchange.remote(self._attempt, self._rank, self._n, self._n_exchanges, value)
        values: list[Any] = ray.get(call)
        return values

    def checkpoint(self, iteration: int, save: Callable[[Path], None]) -> None:
        """Store a checkpoint through Ray Train, which needs a report of every rank."""
        every = self._job.checkpoint_every
        if not every or (iteration + 1) % every:
            return
        if self._rank:
            ray_train.report({"iteration": iteration})
            return
        with scratch.folder("checkpoint") as folder:
            packed = pack(save)
            unpack(packed, folder)
            ray_train.report({"iteration": iteration}, checkpoint=ray_train.Checkpoint.from_directory(folder))
        if self._job.sends_checkpoints:
            self._outbox.put(WorkerMessage(iteration, checkpoint=packed))

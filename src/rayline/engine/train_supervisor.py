"""The actor under which Ray Train runs: the channel between the driver and the workers, and what goes through it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from rayline.engine.object_refs import BlockSlice


@dataclass(frozen=True)
class TrainJob:
    """The input of a worker under Ray Train: the packed function, the supervisor, and all rows, of which it takes its share."""

    packed: bytes
    supervisor: Any
    train: Sequence[BlockSlice]
    test: Sequence[BlockSlice] | None
    n_threads: int
    checkpoint_every: int | None
    sends_checkpoints: bool


@dataclass(frozen=True)
class GroupBegun:
    """A message: all workers of a group have met."""

    attempt: str
    nodes: Sequence[str]


@dataclass(frozen=True)
class GroupLost:
    """A message of Ray Train's controller: workers of the group have failed, by rank."""

    failures: Mapping[int, str]


@dataclass(frozen=True)
class RankFailed:
    """A message: the function has raised on a rank."""

    rank: int
    error: Exception


@dataclass
class _Attempt:
    """One group of workers, as the supervisor knows it."""

    addresses: dict[int, str] = field(default_factory=dict)
    nodes: dict[int, str] = field(default_factory=dict)
    rendezvous: asyncio.Future[Mapping[str, Any]] = field(default_factory=asyncio.Future)
    values: dict[int, dict[int, Any]] = field(default_factory=dict)
    exchanged: dict[int, asyncio.Future[list[Any]]] = field(default_factory=dict)
    last: asyncio.Future[int] = field(default_factory=asyncio.Future)
    n_received: int = 0
    received: asyncio.Event = field(default_factory=asyncio.Event)
    results: dict[int, Any] = field(default_factory=dict)


@ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0)
class TrainSupervisor:
    """Runs Ray Train, and passes messages between its workers and the driver."""

    def __init__(self) -> None:
        self._attempts: dict[str, _Attempt] = {}
        self._outbox: asyncio.Queue[Any] = asyncio.Queue()
        self._stop = asyncio.Event()

    # -- called by the driver ----------------------------------------------------------------------------------------

    async def run(self, fit: Callable[[TrainJob], None], job: TrainJob) -> None:
        """Run Ray Train to its end with a function. Raises ray.train.TrainingFailedError."""
        await asyncio.to_thread(fit, job)

    async def listen(self) -> list[Any]:
        """Wait for messages and return them."""
        messages = [await self._outbox.get()]
        while not self._outbox.empty():
            messages.append(self._outbox.get_nowait())
        return messages

    async def connect(self, attempt: str, rendezvous: Mapping[str, Any]) -> None:
        """Let the workers of a group begin."""
        self._of(attempt).rendezvous.set_result(rendezvous)

    async def stop(self) -> None:
        """Tell rank 0 that the training has to stop."""
        self._stop.set()

    async def results(self, attempt: str) -> list[Any]:
        """Return the result of each rank."""
        return [result for _, result in sorted(self._of(attempt).results.items())]

    # -- called by workers -------------------------------------------------------------------------------------------

    async def tell(self, messages: Sequence[Any]) -> None:
        """Pass messages to the driver. Calls may overtake one another: who cares for an order waits for each."""
        for message in messages:
            self._outbox.put_nowait(message)

    async def meet(self, attempt: str, rank: int, n: int, address: str, node: str) -> tuple[list[str], Any]:
        """Wait for all ranks and the driver; return their addresses and what the driver's `coordinate` yields."""
        of = self._of(attempt)
        of.addresses[rank], of.nodes[rank] = address, node
        if len(of.addresses) == n:
            self._outbox.put_nowait(GroupBegun(attempt, [of.nodes[rank] for rank in range(n)]))
        rendezvous = await of.rendezvous
        return [of.addresses[rank] for rank in range(n)], rendezvous

    async def exchange(self, attempt: str, rank: int, n: int, number: int, value: Any) -> list[Any]:
        """Return the values of all ranks, when the last has given its own."""
        of = self._of(attempt)
        values, done = of.values.setdefault(number, {}), of.exchanged.setdefault(number, asyncio.Future())
        values[rank] = value
        if len(values) == n:
            done.set_result([values[rank] for rank in range(n)])
            of.values.pop(number), of.exchanged.pop(number)
        return await done

    async def wait_for_stop(self) -> None:
        """Return when the driver wants the training to stop."""
        await self._stop.wait()

    async def wait_for_last(self, attempt: str) -> int:
        """Return the iteration after which all ranks stop, when rank 0 has set it."""
        return await self._of(attempt).last

    async def stop_after(self, attempt: str, iteration: int, n: int) -> None:
        """Set the last iteration, and return when all other ranks know it."""
        of = self._of(attempt)
        of.last.set_result(iteration)
        while of.n_received < n - 1:
            of.received.clear()
            await of.received.wait()

    async def know_last(self, attempt: str) -> None:
        """Confirm that a rank knows the last iteration."""
        of = self._of(attempt)
        of.n_received += 1
        of.received.set()

    async def finish(self, attempt: str, rank: int, result: Any) -> None:
        """Keep the result of a rank."""
        self._of(attempt).results[rank] = result

    def _of(self, attempt: str) -> _Attempt:
        return self._attempts.setdefault(attempt, _Attempt())

"""Where the workers of a training run, and with what: decided from what the cluster has, before anything starts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import ray

from rayline.core.errors import ParameterError, ResourceError

WHERE = "train.fit"


@dataclass(frozen=True)
class PlacementPlan:
    """Where each worker runs, and with what.

    Attributes
    ----------
    nodes
        The node of each rank.
    held
        GPUs and other resources that each worker has from its start.
    cpus
        What is reserved for each when all rows are prepared: preparing them has the whole cluster.
    strict
        Whether the user asked for so many CPUs; the group then waits until they are free.
    n_threads
        How many threads each may use.
    """

    nodes: Sequence[str]
    held: Mapping[str, float]
    cpus: float
    strict: bool
    n_threads: int

    @classmethod
    def of(cls, num_workers: int, resources: Mapping[str, float] | None, *, use_gpu: bool) -> Self:
        """The plan for so many workers; without a wish for CPUs each gets its share of the cluster.

        Raises
        ------
        ParameterError
            When the numbers make no sense.
        ResourceError
            When the cluster, even empty, has not what is asked for.
        """
        if num_workers < 1:
            raise ParameterError.value(WHERE, "num_workers", "an integer of at least 1", num_workers)
        asked = {name: float(amount) for name, amount in (resources or {}).items() if amount}
        if any(amount < 0 for amount in asked.values()):
            raise ParameterError.value(WHERE, "resources_per_worker", "amounts of at least 0", dict(resources or {}))
        if use_gpu:
            asked.setdefault("GPU", 1.0)
        there = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
        strict = "CPU" in asked
        whole = asked["CPU"] if strict else _share(there, num_workers, asked)
        share = whole or _hundredths(_cpus(there) / num_workers)
        needs = {**asked, "CPU": whole}
        room = {node: _fits(has, needs) for node, has in there.items()}
        if sum(room.values()) < num_workers:
            raise _too_much(WHERE, f"{num_workers} workers do", there, num_workers, asked)
        if not whole:  # CPUs are divided: as many workers on a node as its part of them
            total = max(_cpus(there), 1.0)
            fair = {n: min(room[n], math.ceil(num_workers * there[n].get("CPU", 0.0) / total)) for n in room}
            room = fair if sum(fair.values()) >= num_workers else room
        fullest = sorted(room, key=lambda node: -room[node])
        nodes = [node for node in fullest for _ in range(min(room[node], num_workers))][:num_workers]
        held = {name: amount for name, amount in asked.items() if name != "CPU"}
        # A callback may itself use Ray: what nobody asked for is not taken to the last CPU.
        cpus = share if strict else max(0.0, min(share, _hundredths((_cpus(there) - 1) / num_workers)))
        return cls(nodes, held, cpus, strict, max(1, int(share)))


def refuse_no_room(where: str, needs: Mapping[str, float], n: int = 1, *, spare_cpus: float = 0.0) -> None:
    """Raise ResourceError when the nodes could never run so many workers that need this at a time, or when these would leave
    fewer CPUs than that to the tasks that they take their rows from: Ray would wait without an end."""
    there = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    asked = {name: amount for name, amount in needs.items() if amount}
    if sum(_fits(has, asked) for has in there.values()) < n:
        raise _too_much(where, "one worker does" if n == 1 else f"{n} workers do", there, n, asked)
    left = _cpus(there) - n * asked.get("CPU", 0.0)
    if asked.get("CPU") and left < spare_cpus:
        raise ResourceError(
            f"{where}: {n} × {asked['CPU']:g} CPU for the workers leave {left:g} of {_cpus(there):g} to read the data.",
            f"Expected at least {spare_cpus:g}.",
            "ask for fewer workers (concurrency), or for fewer CPUs for each (num_cpus).",
        )


def gone(node_id: str) -> str | None:
    """The address of a node that is no longer there; None of one that is."""
    node = next((node for node in ray.nodes() if node["NodeID"] == node_id), None)
    return None if node is None or node["Alive"] else str(node["NodeManagerAddress"])


def held_here(name: str) -> float:
    """How much of a resource the task or actor holds that this runs in; nothing on the driver."""
    context = ray.get_runtime_context()
    if context.worker.mode != ray.WORKER_MODE:
        return 0.0
    return float(context.get_assigned_resources().get(name, 0.0))


def free() -> str:
    """What is free in the cluster now."""
    found = ray.available_resources()
    return ", ".join(f"{found[name]:g} {name}" for name in ("CPU", "GPU") if name in found) or "no CPU"


def busy(what: str, *names: str) -> str:
    """A sentence on a wait when the cluster has nothing free of one of these resources (CPUs when omitted), else nothing."""
    found, there = ray.available_resources(), ray.cluster_resources()
    state = {name: (found.get(name, 0.0), there.get(name, 0.0)) for name in names or ("CPU",)}
    if all(now >= 1.0 for now, _ in state.values()):
        return ""
    free_of = ", ".join(f"{now:g} of {whole:g} {name}" for name, (now, whole) in state.items())
    held = {name: held_here(name) for name in state}
    by = ", ".join(f"{amount:g} {name}" for name, amount in held.items() if amount)
    return f"{what}: {free_of} free; the rest is held by tasks and actors of this Ray{f', {by} by this task itself' if by else ''}"


def _share(there: Mapping[str, Mapping[str, float]], num_workers: int, asked: Mapping[str, float]) -> float:
    """The most whole CPUs that every worker can have; 0 when there are fewer CPUs than workers."""
    most = int(max((has.get("CPU", 0.0) for has in there.values()), default=0.0))
    for cpus in range(most, 0, -1):
        if sum(_fits(has, {**asked, "CPU": cpus}) for has in there.values()) >= num_workers:
            return float(cpus)
    return 0.0


def _cpus(there: Mapping[str, Mapping[str, float]]) -> float:
    return sum(has.get("CPU", 0.0) for has in there.values())


def _hundredths(amount: float) -> float:
    return int(100 * amount) / 100


def _fits(has: Mapping[str, float], asked: Mapping[str, float]) -> int:
    """How many workers a node has room for."""
    rooms = [int((has.get(name, 0.0) + 1e-6) / amount) for name, amount in asked.items() if amount]
    return min(rooms, default=1 << 20)


def _too_much(
    where: str, who: str, there: Mapping[str, Mapping[str, float]], n: int, asked: Mapping[str, float]
) -> ResourceError:
    needs = ", ".join(f"{n} × {amount:g} = {n * amount:g} {name}" for name, amount in asked.items())
    has = "; ".join(", ".join(f"{node.get(name, 0):g} {name}" for name in asked) for node in there.values())
    no_gpu = asked.get("GPU") and not any(node.get("GPU") for node in there.values())
    return ResourceError(
        f"{where}: {who} not fit into this Ray.",
        f"Expected {needs}; got {len(there)} node{'s' if len(there) > 1 else ''} with {has}.",
        "do without GPUs: this Ray has none." if no_gpu else "ask for fewer workers, or for less for each.",
    )

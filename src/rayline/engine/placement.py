"""Placement of the workers of a training run: nodes and resources, planned from the cluster's resources before anything starts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import ray

from rayline.core.engine import room
from rayline.core.errors import ParameterError, ResourceError, counted
from rayline.engine.holders import holders
from rayline.engine.nodes import add_nodes, can_grow, coming, has_room, held_here, nodes_for, usable_nodes

WHERE = "train.fit"


@dataclass(frozen=True)
class PlacementPlan:
    """The node and the resources of each worker.

    Attributes
    ----------
    nodes
        The node of each rank.
    held
        GPUs and other resources that each worker holds from its start.
    cpus
        CPUs reserved for each worker after all rows are prepared: preparation uses the whole cluster.
    strict
        Whether the user requested this number of CPUs; the group then waits until they are free.
    n_threads
        Number of threads that each worker may use.
    memory_bytes
        Memory outside the object store that each worker may use; None where Ray does not say.
    """

    nodes: Sequence[str]
    held: Mapping[str, float]
    cpus: float
    strict: bool
    n_threads: int
    memory_bytes: int | None = None

    @classmethod
    def of(
        cls,
        num_workers: int,
        resources: Mapping[str, float] | None,
        *,
        use_gpu: bool,
        spread: bool = False,
        timeout_s: float | None = None,
    ) -> Self:
        """Plan this number of workers, on as few nodes as possible or spread over them; unless CPUs are requested, each gets its
        share of the cluster. `timeout_s` limits the wait for nodes that an autoscaler adds.

        Raises ParameterError when a number is invalid. Raises ResourceError when the cluster, even empty, lacks the requested
        resources.
        """
        if num_workers < 1:
            raise ParameterError.value("num_workers", "an integer of at least 1", num_workers, where=WHERE)
        requested = {name: float(amount) for name, amount in (resources or {}).items() if amount}
        if any(amount < 0 for amount in requested.values()):
            raise ParameterError.value(
                "resources_per_worker", "amounts of at least 0", dict(resources or {}), where=WHERE
            )
        if use_gpu:
            requested.setdefault("GPU", 1.0)
        strict = "CPU" in requested
        cluster = nodes_for(num_workers, requested if strict else {**requested, "CPU": 1.0}, timeout_s)
        if (
            not strict and not _cpus(cluster) and add_nodes([{"CPU": 1.0}], timeout_s)
        ):  # not one for each worker, but some to share
            cluster = usable_nodes()
        whole = requested["CPU"] if strict else _share(cluster, num_workers, requested)
        needs = {**requested, "CPU": whole}
        fitting = {node: room(has, needs) for node, has in cluster.items()}
        if sum(fitting.values()) < num_workers:
            raise _too_much(f"{num_workers} workers do", cluster, num_workers, requested)
        if not whole:  # CPUs are divided: as many workers on a node as its part of them
            total = max(_cpus(cluster), 1.0)
            fair = {n: min(fitting[n], math.ceil(num_workers * cluster[n].get("CPU", 0.0) / total)) for n in fitting}
            fitting = fair if sum(fair.values()) >= num_workers else fitting
        nodes = _chosen(fitting, num_workers, spread=spread)
        held = {name: amount for name, amount in requested.items() if name != "CPU"}
        share = whole or _hundredths(min(cluster[node].get("CPU", 0.0) / nodes.count(node) for node in nodes))
        # A callback may itself use Ray: unless CPUs are requested, one stays free.
        cpus = share if strict else max(0.0, min(share, _hundredths((_cpus(cluster) - 1) / num_workers)))
        shares = [cluster[node]["memory"] / nodes.count(node) for node in nodes if "memory" in cluster[node]]
        memory = requested.get("memory") or min(shares, default=0.0)
        return cls(nodes, held, cpus, strict, max(1, int(share)), int(memory) or None)

    @classmethod
    def of_group(
        cls,
        num_workers: int | tuple[int, int],
        resources: Mapping[str, float] | None,
        *,
        use_gpu: bool,
        spread: bool = False,
        timeout_s: float | None = None,
    ) -> Self:
        """Plan the smallest group of a range of workers, each of which takes one CPU unless others are requested.

        Raises as `of`.
        """
        if isinstance(num_workers, tuple):
            num_workers, resources = num_workers[0], {"CPU": 1.0, **(resources or {})}
        return cls.of(num_workers, resources, use_gpu=use_gpu, spread=spread, timeout_s=timeout_s)

    def has_other_nodes(self) -> bool:
        """Return whether there is room, or will be, for the same workers on nodes that stay in the cluster."""
        needs = {**self.held, "CPU": self.cpus} if self.strict else self.held
        return has_room(usable_nodes(), len(self.nodes), needs) or can_grow()


def _chosen(fitting: Mapping[str, int], num_workers: int, *, spread: bool) -> list[str]:
    """Return the node of each worker, of nodes on which so many fit. Workers of one node follow one another."""
    fullest = sorted(fitting, key=lambda node: -fitting[node])
    places = [
        (turn if spread else 0, rank, node)
        for rank, node in enumerate(fullest)
        for turn in range(min(fitting[node], num_workers))
    ]
    taken = sorted(places, key=lambda place: place[:2])[:num_workers]
    return [node for _, _, node in sorted(taken, key=lambda place: place[1])]


def refuse_no_room(needs: Mapping[str, float], n: int = 1, *, spare_cpus: float = 0.0) -> None:
    """Raise ResourceError when the nodes could never run this number of workers at a time, or when the workers would leave
    fewer than `spare_cpus` CPUs to the tasks that compute their rows: Ray would wait forever. Wait for nodes that an autoscaler adds."""
    requested = {name: amount for name, amount in needs.items() if amount}
    spare = spare_cpus if requested.get("CPU") else 0.0
    cluster = nodes_for(n, requested)
    if not has_room(cluster, n, requested):
        raise _too_much("one worker does" if n == 1 else f"{n} workers do", cluster, n, requested)
    left = _cpus(cluster) - n * requested.get("CPU", 0.0)
    if left < spare and not add_nodes([requested] * n + [{"CPU": spare}]):
        raise ResourceError.here(
            f"{n} × {requested['CPU']:g} CPU for the workers leave {left:g} of {_cpus(cluster):g} to read the data.",
            f"Expected at least {spare:g}.",
            "request fewer workers (concurrency), or fewer CPUs for each (num_cpus).",
        )


def max_workers(needs: Mapping[str, float], *, spare_cpus: float = 0.0) -> int:
    """Return how many workers of this size the nodes hold at a time when they are empty and `spare_cpus` stay free, at least 1."""
    cluster = usable_nodes()
    requested = {name: amount for name, amount in needs.items() if amount}
    n = sum(room(has, requested) for has in cluster.values())
    if requested.get("CPU"):
        n = min(n, int((_cpus(cluster) - spare_cpus) / requested["CPU"]))
    return max(1, n)


def free() -> str:
    """Return the resources that are free in the cluster now."""
    available = ray.available_resources()
    return ", ".join(f"{available[name]:g} {name}" for name in ("CPU", "GPU") if name in available) or "no CPU"


def busy(what: str, *names: str) -> str:
    """Return a sentence that explains a wait when the cluster has none of one of these resources free (CPUs by default), else an empty string."""
    available, cluster = ray.available_resources(), ray.cluster_resources()
    state = {name: (available.get(name, 0.0), cluster.get(name, 0.0)) for name in names or ("CPU",)}
    if all(now >= 1.0 for now, _ in state.values()):
        return ""
    free_of = ", ".join(f"{now:g} of {whole:g} {name}" for name, (now, whole) in state.items())
    by = ", ".join(f"{amount:g} {name} by this task itself" for name in state if (amount := held_here(name)))
    held = [holders(name, whole - now) for name, (now, whole) in state.items()]
    return (
        f"{what}: {free_of} free; held by {', '.join(part for part in (*held, by) if part) or 'no known job'}{coming()}"
    )


def _share(cluster: Mapping[str, Mapping[str, float]], num_workers: int, requested: Mapping[str, float]) -> float:
    """Return the largest whole number of CPUs that every worker can have; 0 when there are fewer CPUs than workers."""
    max_cpus = int(max((has.get("CPU", 0.0) for has in cluster.values()), default=0.0))
    for cpus in range(max_cpus, 0, -1):
        if has_room(cluster, num_workers, {**requested, "CPU": cpus}):
            return float(cpus)
    return 0.0


def _cpus(cluster: Mapping[str, Mapping[str, float]]) -> float:
    return sum(has.get("CPU", 0.0) for has in cluster.values())


def _hundredths(amount: float) -> float:
    return int(100 * amount) / 100


def _too_much(
    who: str, cluster: Mapping[str, Mapping[str, float]], n: int, requested: Mapping[str, float]
) -> ResourceError:
    needs = ", ".join(f"{n} × {amount:g} = {n * amount:g} {name}" for name, amount in requested.items())
    has = "; ".join(", ".join(f"{node.get(name, 0):g} {name}" for name in requested) for node in cluster.values())
    no_gpu = requested.get("GPU") and not any(node.get("GPU") for node in cluster.values())
    rest = " beside what this task holds itself" if any(map(held_here, requested)) else ""
    more = ", and an autoscaler that adds none with room for it" if can_grow() else ""
    return ResourceError.here(
        f"{who} not fit into this Ray.",
        f"Expected {needs}; got {counted(len(cluster), 'node')} with {has}{rest}{more}.",
        "do without GPUs: this Ray has none." if no_gpu else "request fewer workers, or fewer resources for each.",
    )

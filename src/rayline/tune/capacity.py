"""The resources of a trial and the number of concurrent trials. A search that cannot fit is refused before it starts."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rayline import device
from rayline.core.engine import room
from rayline.core.errors import ResourceError, counted
from rayline.train.trainer import Trainer
from rayline.train.training_run import available_cpus
from rayline.tune.drivers import search_driver

SHARE = 8
"""All trial actors together keep prepared tables in 1/N of a machine's memory. The frameworks' own copies take about twice
as much in addition."""


class Capacity(NamedTuple):
    """The resources of a trial (a list of bundles if a trial has workers), the number of concurrent trials, the threads of a
    training, and the memory for prepared tables of each concurrent trial."""

    resources: Any
    concurrency: int
    n_threads: int
    max_bytes: int


def demand(trainer: Trainer) -> tuple[int, dict[str, float]]:
    """Return the number of workers of a trial, of a range the smallest, and what each needs.

    A trial that trains in its own process holds one CPU, or its `resources_per_worker`. A trial with
    `num_workers=N` needs N times that, for its workers; the trial itself only waits for them.
    """
    worker = {"CPU": 1.0, **(trainer.resources_per_worker or {})}
    if trainer.wants_gpu:
        worker.setdefault("GPU", 1.0)
    return trainer.scaling.min_workers or 1, {name: float(amount) for name, amount in worker.items() if amount}


def plan(
    trainer: Trainer, max_concurrent: int | None, nodes: Sequence[Mapping[str, float]], *, can_grow: bool = False
) -> Capacity:
    """Compute how the trials fit into the cluster. Raises ResourceError when not even one trial fits.

    Parameters
    ----------
    trainer
        What is tuned.
    max_concurrent
        The user's limit.
    nodes
        The resources of each node: a worker is on one of them, so their sum alone says little.
    can_grow
        Whether an autoscaler adds nodes for trials that wait: then as many as `max_concurrent` run at a time, whatever fits now.
    """
    n_workers, worker = demand(trainer)
    there_is = sum(room(node, worker) for node in nodes)
    # Of a range: whole groups, or one smaller one.
    fitting = there_is // (trainer.num_workers or 1) or int(there_is >= n_workers)
    if not fitting:
        raise _too_much(worker, n_workers, nodes, ", and its autoscaler adds no node for it" if can_grow else "")
    waits = can_grow and trainer.num_workers is None  # for its node, which a group of workers must not: see below
    concurrency = max_concurrent if waits and max_concurrent else int(min(fitting, max_concurrent or math.inf))
    # A trial with workers holds one byte of memory, because Ray does not place empty bundles. Each group of workers takes
    # its own resources, and there are never more trials than groups that fit, so no trial waits for resources of another.
    # Workers that a framework starts itself use the trial's own placement group, whose first bundle belongs to the trial.
    own_workers = search_driver(trainer).own_workers(trainer, worker, n_workers)
    resources = worker if trainer.num_workers is None else [{"memory": 1}, *own_workers]
    return Capacity(resources, concurrency, max(1, int(worker.get("CPU", 1))), _memory() // (SHARE * concurrency))


def here() -> list[dict[str, float]]:
    """Return this machine as the only node of a search in this process."""
    return [{"CPU": float(available_cpus()), "GPU": float(n_gpus()), "memory": float(_memory())}]


def n_gpus() -> int:
    """The number of GPUs of this machine."""
    return len(device.visible())


def _too_much(
    worker: Mapping[str, float], n_workers: int, nodes: Sequence[Mapping[str, float]], more: str
) -> ResourceError:
    sums = {name: math.fsum(node.get(name, 0.0) for node in nodes) for name in worker}
    name = next((name for name, each in worker.items() if sums[name] < n_workers * each), None)
    hint = "use fewer workers or smaller resources_per_worker, or connect to a larger cluster."
    if name is not None:
        need = n_workers * worker[name]
        return ResourceError(
            f"tune.run: a trial needs {n_workers} × {worker[name]:g} = {need:g} {name}, and the cluster has {sums[name]:g}{more}.",
            f"Expected at least {need:g} {name} for one trial at a time.",
            hint,
        )
    each = ", ".join(f"{amount:g} {name}" for name, amount in worker.items())
    has = "; ".join(", ".join(f"{node.get(name, 0):g} {name}" for name in worker) for node in nodes)
    return ResourceError(
        f"tune.run: a trial needs {n_workers} × ({each}), each of them on one node.",
        f"Expected room for that; got {counted(len(nodes), 'node')} with {has}{more}.",
        hint,
    )


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

"""What a trial needs of the cluster, and how many run at a time; the impossible is refused before anything starts."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from ray.tune import PlacementGroupFactory

from rayline.core.errors import ResourceError
from rayline.train.trainer import Trainer

SHARE = 8
"""All trial actors together keep prepared tables in one part of so many of a machine's memory; what frameworks make of
them takes about as much again, twice."""


class Capacity(NamedTuple):
    """The resources of a trial as Ray Tune takes them, the trials at a time, and the threads of a training."""

    resources: Any
    concurrency: int
    n_threads: int
    most_bytes: int


def plan(trainer: Trainer, max_concurrent: int | None, cluster: Mapping[str, float]) -> Capacity:
    """How the trials fit into the cluster.

    A trial that trains in its own process holds one CPU, or what `resources_per_worker` says. One with
    `num_workers=N` needs N times that, for its workers; the trial itself only waits for them.

    Parameters
    ----------
    trainer
        What is tuned.
    max_concurrent
        The user's limit.
    cluster
        The resources of the whole cluster.

    Raises
    ------
    ResourceError
        When not even one trial fits.
    """
    worker = {"CPU": 1.0, **(trainer.resources_per_worker or {})}
    if trainer.use_gpu:
        worker.setdefault("GPU", 1.0)
    worker = {name: float(amount) for name, amount in worker.items() if amount}
    n_workers = trainer.num_workers or 1
    fitting = math.inf
    for name, each in worker.items():
        there = cluster.get(name, 0.0)
        fitting = min(fitting, there // (n_workers * each))
        if not there // (n_workers * each):
            raise ResourceError(
                f"tune.run: a trial needs {n_workers} × {each:g} = {n_workers * each:g} {name}, and the cluster has {there:g}.",
                f"Expected at least {n_workers * each:g} {name} for one trial at a time.",
                "use fewer workers or smaller resources_per_worker, or connect to a larger cluster.",
            )
    concurrency = int(min(fitting, max_concurrent or math.inf))
    # A trial with workers holds nothing but a byte, as Ray places nothing that needs nothing: each group of workers takes
    # its own resources, and there are never more trials than groups that fit, so none waits for what another holds.
    # Workers that a framework starts itself come into the trial's own placement, whose first bundle is the trial's.
    own = [worker] * n_workers if trainer.adapter.acts else []
    resources = worker if trainer.num_workers is None else PlacementGroupFactory([{"memory": 1}, *own])
    return Capacity(resources, concurrency, max(1, int(worker.get("CPU", 1))), _memory() // (SHARE * concurrency))


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

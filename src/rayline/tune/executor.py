"""The contract of what runs the trials of a search, and the choice between its two implementations.

`process_executor` runs them in threads of this process, `ray_executor` in actors of Ray. The same seed gives the same
trials with the same scores, to the bit, in both.
"""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from rayline.core import registry
from rayline.core.errors import ParameterError
from rayline.train.trainer import Trainer
from rayline.tune import capacity
from rayline.tune.capacity import Capacity
from rayline.tune.drivers import search_driver
from rayline.tune.options import SearchOptions
from rayline.tune.result_store import ResultStore
from rayline.tune.search_driver import PreparedSearch
from rayline.tune.suggestions import Suggester
from rayline.tune.trial_log import TrialLog

HERE = ("CPU", "GPU", "memory")
"""The resources that a single machine provides."""


@dataclass(frozen=True)
class Search:
    """A checked search, ready to run.

    Attributes
    ----------
    prepared, options
        The problem, the rows and the search space, and all other options.
    suggester, scheduler
        The source of configurations, and the scheduler that stops trials early or changes them (None for no early stopping).
    store
        Where the scores are kept.
    is_on_ray
        Whether the trials run on Ray.
    """

    prepared: PreparedSearch
    options: SearchOptions
    suggester: Suggester
    scheduler: Any
    store: ResultStore
    is_on_ray: bool

    @property
    def known(self) -> Mapping[str, Any]:
        """The scores of an earlier run, by key."""
        return self.store.known() if self.options.resume else {}


class PopulationPool(Protocol):
    """Trains parts of folds for a population."""

    def __call__(self, work: Mapping[Any, tuple[Any, ...]]) -> Iterator[tuple[Any, Any, Any]]:
        """Call `PopulationWorker.train` with each tuple of arguments. Yields results and checkpoints in the order of completion."""

    def fetch(self, checkpoint: Any) -> dict[str, bytes]:
        """Return the files of a checkpoint."""


class TrialExecutor(ABC):
    """Runs the trials of a search. Raises ResourceError when a trial does not fit, or Ray cannot be reached or started.

    Parameters
    ----------
    prepared
        The search.
    max_concurrent
        The user's limit.

    Attributes
    ----------
    capacity
        The resources of a trial, and the number of concurrent trials.
    """

    def __init__(self, prepared: PreparedSearch, max_concurrent: int | None) -> None:
        self.capacity = self.plan(prepared.problem.trainer, max_concurrent)

    @abstractmethod
    def plan(self, trainer: Trainer, max_concurrent: int | None) -> Capacity:
        """Compute how the trials fit into the machine or the cluster."""

    @abstractmethod
    def run(self, search: Search, log: TrialLog) -> None:
        """Run all trials and report them to the log. Raises TrainingError and ResourceError as `tune.run`. A signal that the log's
        interruption received ends the run without an error."""

    @abstractmethod
    def population(self, prepared: PreparedSearch) -> AbstractContextManager[PopulationPool]:
        """Start the pool that trains the members of a population."""


def on_ray(prepared: PreparedSearch, suggester: Suggester, options: SearchOptions) -> bool:
    """Return whether a search runs on Ray: when `run_on` requests it, when it cannot run in this process, or when Ray is connected.

    Raises ParameterError when `run_on="process"` is requested for a search that cannot run in this process.
    """
    reason = _needs_ray(prepared, suggester)
    if options.run_on == "process" and reason:
        raise ParameterError.here(
            f'run_on="process", and {reason}.',
            "Expected a table in this process, a trainer without num_workers and a searcher that needs no Ray.",
            'leave run_on out, or pass run_on="ray".',
        )
    return options.run_on == "ray" or bool(reason) or (options.run_on is None and _is_connected())


def _needs_ray(prepared: PreparedSearch, suggester: Suggester) -> str:
    trainer, inputs = prepared.problem.trainer, prepared.inputs
    if any(map(registry.is_dataset, (inputs.train, inputs.test))):
        return "the rows are a ray.data.Dataset, which is never collected in this process"
    if trainer.num_workers is not None:
        return f"the trainer has num_workers={trainer.num_workers}"
    if reason := search_driver(trainer).needs_ray(trainer):
        return reason
    others = sorted({*(trainer.resources_per_worker or {})} - {*HERE})
    if others:
        return f"a trial needs {others[0]!r}, which is a resource of a Ray cluster"
    if trainer.wants_gpu and capacity.n_gpus() > 1:
        return "the trials share several GPUs"
    return suggester.needs_ray


def _is_connected() -> bool:
    """Whether this process is connected to Ray, or an address of Ray is configured."""
    ray = sys.modules.get("ray")
    return bool(os.environ.get("RAY_ADDRESS")) or (ray is not None and bool(ray.is_initialized()))

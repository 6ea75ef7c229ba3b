"""The contract of what runs the trials of a search, and the choice between its two implementations.

`process_executor` runs them in threads of this process, `ray_executor` in actors of Ray. The same seed gives the same
trials with the same scores, to the bit, in both.
"""

from __future__ import annotations

import contextlib
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from rayline.core import registry
from rayline.core.errors import ParameterError
from rayline.train.trainer import Trainer
from rayline.tune import capacity
from rayline.tune.capacity import Capacity
from rayline.tune.drivers import search_driver
from rayline.tune.fold_racing import SCORE
from rayline.tune.options import SearchOptions
from rayline.tune.pbt.part_training import PopulationPool, PopulationWorker
from rayline.tune.search_driver import PreparedSearch
from rayline.tune.search_problem import SearchProblem
from rayline.tune.trial import FoldRunner
from rayline.tune.trial_log import StopSearch, TrialLog
from rayline.tune.trial_pool import TrialPool
from rayline.tune.trial_search import Search, TrialSearch

HERE = ("CPU", "GPU", "memory")
"""The resources that a single machine provides."""


def trial_functions(
    problem: SearchProblem, evaluate: Any, known: Mapping[str, Any]
) -> Mapping[str, Callable[..., tuple[Any, Any]]]:
    """Return the functions that a pool runs, each with its report and a state: one evaluates a fold, the other trains a part of it."""
    return {"fold": FoldRunner(problem, evaluate, known), "part": PopulationWorker(problem, evaluate).train}


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
    def pool(
        self, prepared: PreparedSearch, n: int, known: Mapping[str, Any], log: TrialLog | None = None
    ) -> AbstractContextManager[TrialPool]:
        """Start a pool of `n` slots that run the folds; `known` are the scores of an earlier run. It ends with the context."""

    def run(self, search: Search, log: TrialLog) -> None:
        """Run all trials and report them to the log. Raises TrainingError and ResourceError as `tune.run`. A signal that the log's
        interruption received ends the run without an error."""
        prepared, suggester, scheduler = search.prepared, search.suggester, search.scheduler
        n = self.capacity.concurrency
        suggester.begin(n, prepared.mode)
        if scheduler is not None:
            scheduler.set_search_properties(SCORE, prepared.mode)
        if suggester.total is not None:
            n = min(n, suggester.total * (1 if scheduler is not None else len(prepared.problem.folds)))
        stopped = contextlib.suppress(StopSearch)  # the interruption says why
        with log.interruption.heard(), stopped, self.pool(prepared, n, search.known, log) as pool:
            TrialSearch(search, log, pool, n).run()

    @contextlib.contextmanager
    def population(self, prepared: PreparedSearch) -> Iterator[PopulationPool]:
        """Start the pool that trains the members of a population."""
        with self.pool(prepared, self.capacity.concurrency, {}) as pool:
            yield PopulationPool(pool)


def on_ray(prepared: PreparedSearch, options: SearchOptions) -> bool:
    """Return whether a search runs on Ray: when `run_on` requests it, when it cannot run in this process, or when Ray is connected.

    Raises ParameterError when `run_on="process"` is requested for a search that cannot run in this process.
    """
    reason = _needs_ray(prepared)
    if options.run_on == "process" and reason:
        raise ParameterError.here(
            f'run_on="process", and {reason}.',
            "Expected a table in this process and a trainer without num_workers.",
            'leave run_on out, or pass run_on="ray".',
        )
    return options.run_on == "ray" or bool(reason) or (options.run_on is None and _is_connected())


def _needs_ray(prepared: PreparedSearch) -> str:
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
    return ""


def _is_connected() -> bool:
    """Whether this process is connected to Ray, or an address of Ray is configured."""
    ray = sys.modules.get("ray")
    return bool(os.environ.get("RAY_ADDRESS")) or (ray is not None and bool(ray.is_initialized()))

"""Trials on Ray: actors run folds, and the driver schedules them."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray

from rayline.core import registry
from rayline.core.errors import RaylineError, ResourceError
from rayline.preprocessing.cross_fit import KnownStatistics
from rayline.train.trainer import Trainer
from rayline.tune import capacity, shared_cache, space
from rayline.tune.capacity import Capacity
from rayline.tune.drivers import search_driver
from rayline.tune.evaluate import FoldEvaluator
from rayline.tune.executor import TrialExecutor, trial_functions
from rayline.tune.pbt.part_training import FoldResult
from rayline.tune.search_driver import PreparedSearch
from rayline.tune.search_problem import SearchProblem
from rayline.tune.shared_cache import SharedCache
from rayline.tune.stored_groups import StoredGroups, TaskGroupEngine
from rayline.tune.stored_scores import StoredScores
from rayline.tune.trial_log import TrialLog
from rayline.tune.trial_pool import TrialPool


@dataclass(frozen=True)
class SearchData:
    """The work of the actors of a search.

    Attributes
    ----------
    problem
        What is tuned.
    groups
        The rows.
    known
        Scores of an earlier run, by key.
    max_bytes
        Memory for prepared tables in each actor.
    cache_actor
        The actor of the shared cache.
    known_statistics
        The statistics of all folds that were computed in advance.
    in_pieces
        Whether the rows come from a Dataset: scores of held-out rows stay in the object store, and workers stream rows from there.
    """

    problem: SearchProblem
    groups: StoredGroups
    known: Mapping[str, Any]
    max_bytes: int
    cache_actor: Any
    known_statistics: Sequence[KnownStatistics] | None = None
    in_pieces: bool = False

    @contextlib.contextmanager
    def opened(self) -> Iterator[Mapping[str, Callable[..., tuple[Any, Any]]]]:
        """Yield the functions that an actor runs."""
        problem = self.problem
        evaluate = search_driver(problem.trainer).evaluator(
            problem, self.groups, max_bytes=self.max_bytes, known=self.known_statistics, in_pieces=self.in_pieces,
            shared=None if self.cache_actor is None else SharedCache(self.cache_actor),
        )  # fmt: skip
        functions = trial_functions(problem, evaluate, self.known)
        with problem.trainer.adapter.limited_threads(problem.n_threads):
            yield {name: _InPieces(function) for name, function in functions.items()} if self.in_pieces else functions


@dataclass(frozen=True)
class _InPieces:
    """A function of a trial whose scores of held-out rows go into the object store, piece by piece."""

    function: Callable[..., tuple[Any, Any]]

    def __call__(self, *arguments: Any) -> tuple[Any, Any]:
        report, state = self.function(*arguments)
        if isinstance(report, FoldResult):
            if report.scores is not None:
                report = replace(report, scores=StoredScores.of(report.scores))
        elif "scores" in report:
            report["scores"] = StoredScores.of(report["scores"])
        return report, state


class RayExecutor(TrialExecutor):
    """An executor with actors of Ray."""

    def plan(self, trainer: Trainer, max_concurrent: int | None) -> Capacity:
        engine = registry.engine("ray")
        engine.connect()
        (n_workers, worker), can_grow = capacity.demand(trainer), engine.can_grow()
        nodes = engine.nodes(n_workers, worker)
        if can_grow and max_concurrent and trainer.num_workers is not None:
            nodes = engine.nodes(n_workers * max_concurrent, worker)
        return capacity.plan(trainer, max_concurrent, nodes, can_grow=can_grow)

    @contextlib.contextmanager
    def pool(
        self, prepared: PreparedSearch, n: int, known: Mapping[str, Any], log: TrialLog | None = None
    ) -> Iterator[TrialPool]:
        trainer = prepared.problem.trainer
        with _cache_actor(prepared, n) as cache_actor:
            work = SearchData(
                prepared.problem, StoredGroups.of_table(prepared.groups), dict(known), self.capacity.max_bytes, cache_actor,
                _scanned_ahead(prepared), in_pieces=not prepared.groups.is_here,
            )  # fmt: skip
            pool = registry.engine("ray").pool(
                n, _bundles(self.capacity), work, name="tune.run trial", n_threads=self.capacity.n_threads,
                reuse=trainer.framework if trainer.adapter.reuses_workers else None,
                waiting=(lambda: None) if log is None else lambda: self._wait(log),
            )  # fmt: skip
            is_complete = False
            try:
                yield pool
                is_complete = log is None or log.interruption.signal is None
            finally:
                pool.close(keep=is_complete)

    def _wait(self, log: TrialLog) -> None:
        """Say what the search waits for while none of its trials has started. Raises ResourceError after the user's timeout."""
        timeout_s = log.timeout_s
        is_over = timeout_s is not None and log.waited_s > timeout_s
        if not (is_over or log.is_waiting):
            return
        text = _waiting(self.capacity)
        if is_over:
            raise ResourceError.here(
                f"no trial could start within timeout_s={timeout_s:g}: {text}.",
                "Expected free CPUs on this Ray.",
                "wait until they are free, allow more time, or stop the jobs that hold them.",
            )
        log.line.wait(text)


def _waiting(capacity: Capacity) -> str:
    """Return the resources that a search waits for when none of its trials can start."""
    needs = Counter[str]()
    for bundle in _bundles(capacity):
        needs.update(bundle)
    free, there = ray.available_resources(), ray.cluster_resources()
    names = [name for name in needs if name != "memory"] or ["CPU"]
    needed = ", ".join(f"{needs.get(name, 0):g} {name}" for name in names)
    state = ", ".join(f"{free.get(name, 0):g} of {there.get(name, 0):g} {name}" for name in names)
    engine = registry.engine("ray")
    held = engine.holders({name: there.get(name, 0) - free.get(name, 0) for name in names})
    return f"waiting for {needed} for a trial: {state} free; held by {held or 'no known job'}{engine.coming()}"


def _bundles(capacity: Capacity) -> list[Mapping[str, float]]:
    """Return the resources of a trial as the bundles of a placement group."""
    resources = capacity.resources
    return [resources] if isinstance(resources, Mapping) else [*resources]


@contextlib.contextmanager
def _cache_actor(prepared: PreparedSearch, n_actors: int) -> Iterator[Any]:
    """Start the shared cache of trials, for a Dataset, or for a large table with several trial actors; otherwise
    yield None."""
    stages, groups = prepared.problem.preprocessor, prepared.groups
    worth = stages is not None and bool(stages.leaves) and n_actors > 1
    is_large = groups.size_bytes >= shared_cache.MIN_BYTES
    cache_actor = shared_cache.start_cache() if is_large and (worth or not groups.is_here) else None
    try:
        yield cache_actor
    finally:
        if cache_actor is not None:
            ray.kill(cache_actor)


def _scanned_ahead(prepared: PreparedSearch) -> list[KnownStatistics] | None:
    """Compute the statistics of all folds of a Dataset that a typical configuration needs, in one scan with as many tasks as
    fit; None for a table, which the first trial scans as quickly. Raises ResourceError when the rows of a fold fit on no node."""
    groups, problem = prepared.groups, prepared.problem
    if groups.is_here:
        return None
    evaluator = FoldEvaluator(problem, groups, engine=TaskGroupEngine())
    try:
        candidate = problem.candidate(space.typical(prepared.space))
        known = evaluator.scan_ahead(candidate)
    except RaylineError:
        return None  # the trials report the error, with the configurations that cause it
    evaluator.refuse_too_large(candidate)
    return known

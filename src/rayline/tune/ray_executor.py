"""Trials on Ray: Ray Tune runs them in actors that are reused from trial to trial."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayActorError
from ray.tune import PlacementGroupFactory
from ray.tune.schedulers import FIFOScheduler

from rayline.core import registry, scratch
from rayline.core.errors import RaylineError, ResourceError, TrainingError
from rayline.preprocessing.cross_fit import KnownStatistics
from rayline.train.trainer import Trainer
from rayline.tune import capacity, ray_search, shared_cache, space
from rayline.tune.capacity import Capacity
from rayline.tune.domains import to_ray
from rayline.tune.evaluate import FoldEvaluator
from rayline.tune.executor import PopulationPool, Search, TrialExecutor
from rayline.tune.fold_racing import SCORE
from rayline.tune.pbt.runner import FoldResult, PopulationWorker
from rayline.tune.quiet import quiet
from rayline.tune.ray_trials import SEARCH, FoldTrial, RayTrialLog, SearchData, SearchRef
from rayline.tune.search_driver import PreparedSearch
from rayline.tune.search_problem import SearchProblem
from rayline.tune.shared_cache import SharedCache
from rayline.tune.stored_groups import StoredGroups, TaskGroupEngine
from rayline.tune.stored_scores import StoredScores
from rayline.tune.suggestions import DrawnSuggester
from rayline.tune.trial import error_text
from rayline.tune.trial_log import DEATHS, StopSearch, TrialLog

TOGETHER_S = 0.3
"""Folds that finish within this many seconds are reported together, unless a scheduler needs each one."""


class NoRoom(Exception):  # noqa: N818  # ends a search from within Ray Tune
    """No trial could start for as long as the user allows."""


class RayExecutor(TrialExecutor):
    """An executor with Ray actors, run by Ray Tune."""

    def plan(self, trainer: Trainer, max_concurrent: int | None) -> Capacity:
        engine = registry.engine("ray")
        engine.connect()
        (n_workers, worker), can_grow = capacity.demand(trainer), engine.can_grow()
        nodes = engine.nodes(n_workers, worker)
        if can_grow and max_concurrent and trainer.num_workers is not None:
            nodes = engine.nodes(n_workers * max_concurrent, worker)
        return capacity.plan(trainer, max_concurrent, nodes, can_grow=can_grow)

    def run(self, search: Search, log: TrialLog) -> None:
        prepared, options = search.prepared, search.options
        scheduler = ray_search.ray_scheduler(search.scheduler)
        with (
            _cache_actor(prepared, self.capacity.concurrency) as cache_actor,
            quiet(),
            scratch.folder("tune") as folder,
            log.interruption.heard(),
        ):
            report_interval_s = TOGETHER_S if isinstance(scheduler, FIFOScheduler) else 0.0
            data = SearchRef.of(ray.put(self._data(search, cache_actor, report_interval_s)))
            waiting = _Waiting(self.capacity, log, options.timeout_s)
            tuner = self._tuner(search, data, scheduler, str(folder), RayTrialLog(log, waiting))
            try:
                tuner.fit()
            except (StopSearch, NoRoom, tune.TuneError) as error:
                if log.interruption.signal is not None:
                    return
                if waiting.gave_up:
                    raise ResourceError.here(
                        f"no trial could start within timeout_s={options.timeout_s:g}: {waiting.gave_up}.",
                        "Expected free CPUs on this Ray.",
                        "wait until they are free, allow more time, or stop the jobs that hold them.",
                    ) from None
                raise TrainingError.here(
                    f"Ray Tune failed: {str(error).strip().splitlines()[-1]}",
                    "Expected it to run the trials.",
                    "a searcher or scheduler of your own may not fit this space; Ray's error is shown above this one.",
                ) from error

    def _data(self, search: Search, cache_actor: Any, report_interval_s: float) -> SearchData:
        """Return the data of the search that every actor gets."""
        prepared = search.prepared
        return SearchData(
            problem=prepared.problem,
            groups=StoredGroups.of_table(prepared.groups),
            known=dict(search.known),
            modes=prepared.modes,
            max_bytes=self.capacity.max_bytes,
            report_interval_s=report_interval_s,
            cache_actor=cache_actor,
            n_actors=self.capacity.concurrency,
            known_statistics=_scanned_ahead(prepared),
            in_pieces=not prepared.groups.is_here,
        )

    def _tuner(self, search: Search, data: SearchRef, scheduler: Any, folder: str, log: RayTrialLog) -> Any:
        """Return the Tuner of Ray Tune. Only a searcher of Ray gets the search space; other configurations are drawn here."""
        prepared, concurrency, suggester = search.prepared, self.capacity.concurrency, search.suggester
        space: dict[str, Any] = {SEARCH: data}
        if isinstance(suggester, DrawnSuggester):
            suggester.begin(concurrency, prepared.mode)
            n_trials = suggester.max_trials
            searcher = ray_search.limited(ray_search.DrawnSearcher(suggester), concurrency, rounds=False)
        else:
            assert isinstance(suggester, ray_search.RaySuggester)
            n_trials, searcher = prepared.num_samples, ray_search.limited(suggester.searcher, concurrency)
            space = {**to_ray(dict(prepared.space)), **space}
        return tune.Tuner(
            tune.with_resources(FoldTrial, _placement(self.capacity)),
            param_space=space,
            tune_config=tune.TuneConfig(
                metric=SCORE,
                mode=prepared.mode,
                num_samples=n_trials,
                search_alg=searcher,
                scheduler=scheduler,
                time_budget_s=search.options.time_budget_s,
                reuse_actors=True,
                trial_name_creator=lambda trial: f"trial_{trial.trial_id}",
                trial_dirname_creator=lambda trial: f"trial_{trial.trial_id}",
            ),
            run_config=tune.RunConfig(
                name="run",
                storage_path=folder,
                verbose=0,
                callbacks=[log],
                failure_config=tune.FailureConfig(max_failures=DEATHS),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )

    @contextlib.contextmanager
    def population(self, prepared: PreparedSearch) -> Iterator[PopulationPool]:
        with (
            _cache_actor(prepared, self.capacity.concurrency) as cache_actor,
            contextlib.closing(RayPopulation(prepared, self.capacity, cache_actor)) as workers,
        ):
            yield workers


class _Waiting:
    """The wait for the first trial: says what is waited for, and ends the search after the user's timeout."""

    def __init__(self, capacity: Capacity, log: TrialLog, timeout_s: float | None) -> None:
        self._capacity, self._log, self._timeout_s = capacity, log, timeout_s
        self.gave_up = ""

    def __call__(self) -> str:
        text = _waiting(self._capacity)
        if self._timeout_s is not None and self._log.waited_s > self._timeout_s:
            self.gave_up = text
            raise NoRoom(text)
        return text

    @property
    def is_due(self) -> bool:
        return self._log.is_waiting or (self._timeout_s is not None and self._log.waited_s > self._timeout_s)


def _waiting(capacity: Capacity) -> str:
    """Return the resources that a search waits for when none of its trials can start."""
    resources = capacity.resources
    needs = dict(resources if isinstance(resources, Mapping) else _placement(capacity).required_resources)
    free, there = ray.available_resources(), ray.cluster_resources()
    names = [name for name in needs if name != "memory"] or ["CPU"]
    needed = ", ".join(f"{needs.get(name, 0):g} {name}" for name in names)
    state = ", ".join(f"{free.get(name, 0):g} of {there.get(name, 0):g} {name}" for name in names)
    engine = registry.engine("ray")
    held = engine.holders({name: there.get(name, 0) - free.get(name, 0) for name in names})
    return f"waiting for {needed} for a trial: {state} free; held by {held or 'no known job'}{engine.coming()}"


def _placement(capacity: Capacity) -> Any:
    """The resources of a trial as Ray Tune takes them."""
    resources = capacity.resources
    return resources if isinstance(resources, Mapping) else PlacementGroupFactory([dict(each) for each in resources])


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
            ray.kill(cache_actor)  # Ray Tune keeps the arguments of trials, and with them the actor


def _scanned_ahead(prepared: PreparedSearch) -> list[KnownStatistics] | None:
    """Compute the statistics of all folds of a Dataset that a typical configuration needs, in one scan with as many tasks as
    fit; None for a table, which the first trial scans as quickly."""
    groups, problem = prepared.groups, prepared.problem
    if groups.is_here:
        return None
    try:
        candidate = problem.candidate(space.typical(prepared.space))
        return FoldEvaluator(problem, groups, engine=TaskGroupEngine()).scan_ahead(candidate)
    except RaylineError:
        return None  # the trials report the error, with the configurations that cause it


# -- populations -----------------------------------------------------------------------------------------------------------


class PopulationActor:
    """A worker of a population as an actor, with the rows in the object store."""

    def __init__(
        self,
        problem: SearchProblem,
        rows: Sequence[ray.ObjectRef[Any]],
        max_bytes: int,
        cache_actor: Any,
        *,
        in_pieces: bool,
    ) -> None:
        self._in_pieces = in_pieces
        shared = None if cache_actor is None else SharedCache(cache_actor)
        evaluate = FoldEvaluator(problem, ray.get(rows[0]), max_bytes=max_bytes, shared=shared)
        self._worker = PopulationWorker(problem, evaluate)

    def train(self, *arguments: Any) -> Any:
        """Train as `PopulationWorker.train`; scores of the rows of a Dataset stay in the object store."""
        done, files = self._worker.train(*arguments)
        if self._in_pieces and done.scores is not None:
            done = replace(done, scores=StoredScores.of(done.scores))
        return done, files


class RayPopulation:
    """A fixed number of actors. An actor that dies is replaced, and its task is run again."""

    def __init__(self, prepared: PreparedSearch, capacity: Capacity, cache_actor: Any) -> None:
        wanted = dict(capacity.resources)
        known = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
        options = {option: wanted.pop(name) for option, name in known.items() if name in wanted} | {"resources": wanted}
        self._kind: Any = ray.remote(**options)(PopulationActor)
        self._given = (
            prepared.problem,
            [ray.put(StoredGroups.of_table(prepared.groups))],
            capacity.max_bytes,
            cache_actor,
        )
        self._in_pieces = not prepared.groups.is_here
        self._actors = [self._start() for _ in range(capacity.concurrency)]

    def _start(self) -> Any:
        return self._kind.remote(*self._given, in_pieces=self._in_pieces)

    def __call__(self, work: Mapping[Any, tuple[Any, ...]]) -> Iterator[tuple[Any, Any, Any]]:
        idle, waiting, running = [*self._actors], [*work], dict[Any, tuple[Any, Any, Any]]()
        deaths: Counter[Any] = Counter()
        while waiting or running:
            while idle and waiting:
                key, actor = waiting.pop(0), idle.pop(0)
                done, checkpoint = actor.train.options(num_returns=2).remote(*work[key])
                running[done] = key, checkpoint, actor
            ready, _ = ray.wait([*running], num_returns=1)
            key, checkpoint, actor = running.pop(ready[0])
            try:
                yield key, ray.get(ready[0]), checkpoint
            except RayActorError as error:
                self._actors.remove(actor)
                actor = self._start()
                self._actors.append(actor)
                deaths[key] += 1
                if deaths[key] > DEATHS:
                    reason = f"the process of the trial died {DEATHS + 1} times: {error_text(error)}"
                    yield key, FoldResult(error=reason), None
                else:
                    waiting.insert(0, key)
            idle.append(actor)

    def fetch(self, checkpoint: Any) -> dict[str, bytes]:
        return dict(ray.get(checkpoint))

    def close(self) -> None:
        for actor in self._actors:
            ray.kill(actor)

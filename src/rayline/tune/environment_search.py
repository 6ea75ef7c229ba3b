"""Searches of frameworks that generate their own data: a fold is one training with its own seed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rayline.core.errors import DataError, ParameterError, at
from rayline.data.split.fold_cells import FoldCells
from rayline.evaluate import metrics
from rayline.train.environment_training import refuse_data
from rayline.train.fit import fit
from rayline.train.fit_inputs import ColumnRoles, FitInputs
from rayline.train.fit_request import FitRequest, TrainingSpec
from rayline.train.result import Result
from rayline.train.trainer import Trainer
from rayline.train.worker import LocalWorker, train_on
from rayline.tune import space
from rayline.tune.evaluate import FoldEvaluation, History, reported
from rayline.tune.options import SearchRequest
from rayline.tune.row_groups import TableGroups
from rayline.tune.search_driver import PreparedSearch, SearchDriver
from rayline.tune.search_problem import WHERE, SearchProblem, TrialCandidate
from rayline.tune.trial_record import FoldScore
from rayline.tune.tune_data import TuneData


class EnvironmentSearch(SearchDriver):
    """A search of a framework that generates its own data."""

    has_rows = False

    def prepare(self, request: SearchRequest) -> PreparedSearch:
        trainer, config = request.trainer, request.config
        if request.options.postprocess is not None:
            raise ParameterError.here(
                f"{trainer.framework} generates its own data, and postprocessing stages learn from rows with labels.",
                "Expected postprocess=None.",
                "leave postprocess out.",
            )
        space.check(config, None, trainer.replace)
        problem, direction = environment_problem(request)
        groups = TableGroups([pl.DataFrame(schema=problem.schema)])
        rows = TuneData(None, FitInputs(None, None, problem.roles), groups, (), 0, by_test_set=False)
        n_samples = request.options.num_samples or space.usual_samples(config)
        return PreparedSearch(problem, rows, config, n_samples, (direction,))

    def evaluator(self, problem: SearchProblem, groups: Any, **options: Any) -> Any:
        return EnvironmentEvaluator(problem)

    def own_workers(self, trainer: Trainer, worker: Mapping[str, float], n_workers: int) -> list[dict[str, float]]:
        # Only the learner, which is one more worker, uses a GPU.
        sampler = {name: amount for name, amount in worker.items() if name != "GPU" or not trainer.wants_gpu}
        return [sampler] * n_workers + ([{"CPU": 1.0, "GPU": worker["GPU"]}] if trainer.wants_gpu else [])

    def needs_ray(self, trainer: Trainer) -> str:
        return f"{trainer.framework} runs on Ray itself"

    def refit(self, trainer: Trainer, fit_rows: Callable[[], Result], *, verbose: bool | None) -> Result:
        return fit(trainer, verbose=verbose)


def environment_problem(request: SearchRequest) -> tuple[SearchProblem, str]:
    """Return the settings that all trials share, and the direction of the metric.

    Raises ParameterError when data are given, or a metric that is computed on rows.
    """
    trainer, data, metric, mode = request.trainer, request.data, request.options.metric, request.options.mode
    repeats = 1 if data.cv is None else data.cv
    if not isinstance(repeats, int) or isinstance(repeats, bool) or repeats < 1:
        raise ParameterError.value("cv", "how often a configuration is trained, each time with another seed", repeats)
    refuse_data(trainer, **vars(replace(data, cv=None)))
    if not isinstance(metric, (str, type(None))) or mode not in (None, "min", "max"):
        raise ParameterError.value("metric and mode", "one metric, and 'min', 'max' or None", (metric, mode))
    spaces = trainer.adapter.environment_spec(*trainer.args, **trainer.kwargs)
    metric = spaces.metric if metric is None else metric
    if metrics.is_known(metric):
        raise ParameterError.here(
            f"{metric!r} is computed on rows, and {trainer.framework} has none.",
            f"Expected a metric of its history, such as {spaces.metric!r}.",
            "leave metric out, or name one of the history.",
        )
    known = mode or metrics.mode(metric)
    if known is None:
        raise ParameterError.here(
            f"the direction of {metric!r} is unknown.",
            "Expected mode.",
            "pass mode='min' or 'max'.",
        )
    folds = tuple(FoldCells((), (number,)) for number in range(repeats))
    roles = ColumnRoles(spaces.features, spaces.target.columns)
    return SearchProblem(trainer, None, roles, spaces.target, (folds,), metric, request.options.seed), known


class EnvironmentEvaluator:
    """Score configurations by training them; called like `FoldEvaluator`.

    Parameters
    ----------
    problem
        The trainer and the metric.
    """

    def __init__(self, problem: SearchProblem) -> None:
        self.problem = problem

    @at(WHERE)
    def __call__(self, candidate: TrialCandidate, fold: int) -> FoldEvaluation:
        """Train with the seed of this fold. Raises RaylineError when the framework fails, or the metric has no final value."""
        problem = self.problem
        history: History = []
        trainer = candidate.trainer
        seed = trainer.seed if trainer.seed is not None else problem.seed
        begun = time.perf_counter()

        def report(iteration: int, metrics: Mapping[str, float]) -> bool:
            history.append({"iteration": float(iteration), **metrics})
            return False

        resources = {"CPU": 1.0, **(trainer.resources_per_worker or {})}
        request = FitRequest.of(
            trainer,
            TrainingSpec(problem.target, problem.schema, has_rows=False),
            seed=None if seed is None else seed + fold,
            scaling=replace(trainer.scaling, resources_per_worker=resources),
        )
        nothing = pl.DataFrame(schema=problem.schema)
        train_on(request, LocalWorker([lambda: nothing], None, report, _not_kept, problem.n_threads))
        value = reported(problem.metric, history)
        if not math.isfinite(value):
            raise DataError.here(
                f"{problem.metric} is {value} after the last iteration.",
                "Expected a number; there is none before the end of the first episode.",
                "train for more iterations, or with a larger batch.",
            )
        score = FoldScore(
            fold, value, len(history), time.perf_counter() - begun, iterations=len(history) or None,
            key=candidate.key(fold) if problem.digest else "",
        )  # fmt: skip
        return FoldEvaluation(score, np.empty(0), history)


def _not_kept(iteration: int, save: Callable[[Path], None]) -> None:
    """Store no checkpoint: a training is repeated, not resumed."""

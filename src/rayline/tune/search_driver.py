"""The steps of a search that depend on where the rows of its trainings come from, by the id that an adapter names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rayline.core.errors import ParameterError
from rayline.train.fit import fit
from rayline.train.result import Result
from rayline.train.trainer import Trainer
from rayline.tune.environment_evaluation import EnvironmentEvaluator
from rayline.tune.evaluate import FoldEvaluator
from rayline.tune.search_problem import SearchProblem


class SearchDriver:
    """A search over rows.

    Attributes
    ----------
    repeats_folds
        Whether a fold can be trained again for its history.
    """

    repeats_folds = True

    def evaluator(self, problem: SearchProblem, groups: Any, *, in_pieces: bool = False, **options: Any) -> Any:
        """Return the evaluator that scores a configuration on a fold; `options` are those of `FoldEvaluator`. With `in_pieces` no
        process holds all rows of a fold whose trainer has workers."""
        if in_pieces and problem.trainer.num_workers is not None:
            from rayline.tune.stored_folds import StoredFoldEvaluator  # it imports Ray

            return StoredFoldEvaluator(problem, groups, **options)
        return FoldEvaluator(problem, groups, **options)

    def own_workers(self, trainer: Trainer, worker: Mapping[str, float], n_workers: int) -> list[dict[str, float]]:
        """Return the resources of the workers that the framework starts itself."""
        return []

    def needs_ray(self, trainer: Trainer) -> str:
        """Return the reason why a search must run on Ray; empty when there is none."""
        return ""

    def refit(self, trainer: Trainer, fit_rows: Callable[[], Result], *, verbose: bool | None) -> Result:
        """Return a fit with the parameters of a trial; `fit_rows` fits the rows of the search."""
        return fit_rows()

    def check_predictions(self, trainer: Trainer) -> None:
        """Raise ParameterError when there are no predictions of held-out rows."""


class EnvironmentSearch(SearchDriver):
    """A search of a framework that generates its own data: a fold is one training with its own seed."""

    repeats_folds = False

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

    def check_predictions(self, trainer: Trainer) -> None:
        raise ParameterError(
            "Analysis: there are no predictions of held-out rows.",
            f"Expected a tuning run on data; {trainer.framework} generates its own data.",
            "see results and learning_curves.",
        )


SEARCH_DRIVERS: dict[str, SearchDriver] = {"table": SearchDriver(), "environment": EnvironmentSearch()}


def search_driver(trainer: Trainer) -> SearchDriver:
    """Return the driver of the searches of a trainer."""
    return SEARCH_DRIVERS[trainer.adapter.fit_driver]

"""The searcher and the scheduler of a search, by name or as an object of Ray Tune.

Ray Tune is imported only for its own searchers and schedulers.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypeAlias, get_args

from rayline.core.errors import ParameterError
from rayline.tune import fold_racing, space
from rayline.tune.fold_racing import FoldRacingScheduler
from rayline.tune.pbt.population import Population
from rayline.tune.suggestions import DrawnSuggester, Suggester


class RaySearcher(Protocol):
    """A searcher of Ray Tune, described by a member: importing Ray Tune takes longer than many searches."""

    @property
    def on_trial_complete(self) -> Any: ...


class RayScheduler(Protocol):
    """A scheduler of Ray Tune."""

    @property
    def choose_trial_to_run(self) -> Any: ...


SearcherName: TypeAlias = Literal["random", "optuna"]

SearchLike: TypeAlias = SearcherName | RaySearcher
"""A searcher by its name, or one of Ray Tune."""

SchedulerName: TypeAlias = Literal["fifo", "asha", "hyperband", "median", "pbt"]

SchedulerLike: TypeAlias = SchedulerName | Population | RayScheduler
"""A scheduler by its name, a population, or a scheduler of Ray Tune."""

SEARCHERS, SCHEDULERS = get_args(SearcherName), get_args(SchedulerName)
RACES = {"asha": fold_racing.asha, "hyperband": fold_racing.hyperband, "median": fold_racing.median}


def suggester(
    search: Any, config: space.Config, *, num_samples: int, seed: int | None, modes: Sequence[str]
) -> Suggester:
    """Return the suggester of configurations. Raises ParameterError when there is no searcher of that name, or it cannot search this space.

    Parameters
    ----------
    search
        None or "random" (grids are expanded), "optuna", or a searcher of Ray's own.
    modes
        The direction of each objective.
    """
    if search is None or (isinstance(search, str) and search == "random"):
        return DrawnSuggester(config, num_samples, seed)
    if isinstance(search, str) and search not in SEARCHERS:
        raise ParameterError.unknown([search], SEARCHERS, "searcher", where="tune.run")
    if not isinstance(search, str) and "ray.tune" not in sys.modules:
        raise _no_searcher(search)
    from rayline.tune import ray_search  # it imports Ray Tune: 1.3 s, and only these need it

    points = ray_search.drawn(search)
    if points is not None:
        return DrawnSuggester(config, num_samples, points.seed, points=points.points, constant=points.constant)
    if not ray_search.is_searcher(search):
        raise _no_searcher(search)
    return ray_search.RaySuggester(search, config, num_samples=num_samples, seed=seed, modes=modes)


def _no_searcher(search: Any) -> ParameterError:
    return ParameterError.value(
        "search", f"None, one of {list(SEARCHERS)}, or a searcher of ray.tune", search, where="tune.run"
    )


def scheduler(name: Any, *, n_folds: int) -> Any:
    """Return the scheduler that stops trials early. A fold is an iteration, and trials are compared by the mean over the folds so far.

    Raises ParameterError when there is no scheduler of that name, or it is one of Ray's that change parameters during a trial.

    Parameters
    ----------
    name
        None or "fifo" (every trial runs all its folds), "asha", "hyperband", "median" (see `rayline.tune.fold_racing`), "pbt" or a
        `Population`, or a scheduler of Ray's own.

    Returns
    -------
    FoldRacingScheduler, Population, a scheduler of Ray's own, or None
        None where every trial runs all its folds.
    """
    if name is None or isinstance(name, Population):
        return name
    if not isinstance(name, str):
        if "ray.tune" not in sys.modules:
            raise ParameterError.value(
                "scheduler", f"None, one of {list(SCHEDULERS)}, or a scheduler of ray.tune", name, where="tune.run"
            )
        from rayline.tune import ray_search

        return ray_search.scheduler(name, SCHEDULERS)
    if name not in SCHEDULERS:
        raise ParameterError.unknown([name], SCHEDULERS, "scheduler", where="tune.run")
    if name in ("fifo", "pbt"):
        return Population() if name == "pbt" else None
    if n_folds < 2:
        raise ParameterError(
            f"tune.run: scheduler={name!r} needs more than one fold to stop a trial early.",
            "Expected cv of at least 2; a trial on a test set is one training.",
            "use cv=…, or leave the scheduler out.",
        )
    return FoldRacingScheduler(RACES[name](n_folds))

"""Who suggests the next parameters, and who stops a trial early: Ray Tune's classes, by name or as they are."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ray.tune.schedulers import (
    FIFOScheduler,
    PopulationBasedTraining,
    PopulationBasedTrainingReplay,
    TrialScheduler,
)
from ray.tune.search import ConcurrencyLimiter, SearchAlgorithm, Searcher
from ray.tune.search.basic_variant import BasicVariantGenerator

from rayline.core.errors import ParameterError
from rayline.tune import fold_racing, space
from rayline.tune.fold_racing import SCORE, FoldRacingScheduler
from rayline.tune.pbt.population import Population

ROUND = 4
"""Suggestions that a searcher makes before it hears of their results (see `BatchedSearcher`)."""

SEARCHERS = ("random", "optuna")
RACES = {"asha": fold_racing.asha, "hyperband": fold_racing.hyperband, "median": fold_racing.median}
SCHEDULERS = ("fifo", *RACES, "pbt")


class BatchedSearcher(Searcher):
    """A searcher that learns in rounds, so that its suggestions do not depend on which trial ends first.

    It suggests `size` configurations, waits for all of their results, and hears of them in the order of the
    suggestions: the same seed then gives the same trials however many of them run at a time.

    Parameters
    ----------
    inner
        The searcher that makes the suggestions.
    size
        Suggestions in a round.
    """

    def __init__(self, inner: Searcher, size: int = ROUND) -> None:
        super().__init__(metric=inner.metric, mode=inner.mode)
        self._inner, self._size = inner, size
        self._asked: list[str] = []
        self._last: dict[str, dict[str, Any]] = {}
        self._heard: dict[str, tuple[dict[str, Any] | None, bool]] = {}

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        self._metric, self._mode = metric, mode
        if isinstance(self._inner.metric, list):  # it was made for several: Ray knows of one
            metric = mode = None
        return bool(self._inner.set_search_properties(metric, mode, config, **spec))

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        if len(self._asked) >= self._size:
            return None
        found: Any = self._inner.suggest(trial_id)
        if isinstance(found, Mapping):
            self._asked.append(trial_id)
        return found  # type: ignore[no-any-return]

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Intermediate results are not passed on, as they come in no order; the last one is that of a trial which is
        stopped while it waits."""
        self._last[trial_id] = result

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        last = self._last.pop(trial_id, None)
        result = last if result is None and not error else result
        self._heard[trial_id] = (result, error or result is None or not math.isfinite(result.get(SCORE, math.nan)))
        if all(asked in self._heard for asked in self._asked) and len(self._asked) >= self._size:
            for asked in self._asked:
                own, failed = self._heard.pop(asked)
                self._inner.on_trial_complete(asked, result=None if failed else own, error=failed)
            self._asked.clear()

    def save(self, checkpoint_path: str) -> None:
        self._inner.save(checkpoint_path)

    def restore(self, checkpoint_path: str) -> None:
        self._inner.restore(checkpoint_path)


def searcher(search: Any, config: space.Config, *, seed: int | None, modes: Sequence[str]) -> Any:
    """The search algorithm for Ray Tune, of which `limited` makes one for so many trials at a time.

    Parameters
    ----------
    search
        None or "random" (grids are expanded), "optuna", or a searcher of Ray's own.
    modes
        Of each objective.

    Raises
    ------
    ParameterError
        When there is no searcher of that name, or it cannot search this space.
    """
    if search is None or search == "random":
        return BasicVariantGenerator(random_state=seed)
    if isinstance(search, str) and search not in SEARCHERS:
        raise ParameterError.unknown("tune.run", [search], SEARCHERS, "searcher")
    if isinstance(search, BasicVariantGenerator):
        return search
    if not isinstance(search, (str, SearchAlgorithm, Searcher)):
        raise ParameterError.value(
            "tune.run", "search", f"None, one of {list(SEARCHERS)}, or a searcher of ray.tune", search
        )
    grids = [name for name, value in space.flatten(config).items() if space.is_grid(value)]
    if grids:
        raise ParameterError(
            f"tune.run: {search if isinstance(search, str) else type(search).__name__} cannot search the grid of {grids[0]!r}.",
            "Expected domains such as tune.choice and tune.uniform.",
            "use tune.choice there, or search=None, which expands grids.",
        )
    if search == "optuna":
        search = _optuna(seed, modes)
        _check_domains(search, config)
        return search
    search = _copied(search)
    if isinstance(search, ConcurrencyLimiter):
        search = search.searcher
    if isinstance(search, BatchedSearcher) or not isinstance(search, Searcher):
        return search
    _check_domains(search, config)
    if search.metric not in (None, SCORE) or search.mode not in (None, modes[0]):
        raise _has_its_own(search, {"metric": search.metric, "mode": search.mode})
    if getattr(search, "_space", None):
        raise ParameterError(
            f"tune.run: {type(search).__name__} has a search space of its own.",
            f"Expected config to hold the space, here {space.tuned(config)}.",
            "leave space= out of the searcher.",
        )
    if len(modes) > 1:
        raise ParameterError(
            f"tune.run: {type(search).__name__} searches by one metric.",
            f"Expected search='optuna', 'random' or None for {len(modes)} metrics.",
            "use one of these.",
        )
    return search


def _check_domains(search: Searcher, config: space.Config) -> None:
    """Raise ParameterError when a searcher has no form for a domain of the space."""
    convert = getattr(type(search), "convert_search_space", None)
    if convert is None:
        return
    try:
        convert(dict(config))
    except Exception as error:  # each wraps a library of its own
        raise ParameterError(
            f"tune.run: {type(search).__name__} cannot search this space: {str(error).strip()}.",
            f"Expected domains that it knows, such as tune.uniform and tune.choice; got {space.tuned(config)}.",
            "change the domain, or use search=None.",
        ) from error


def limited(search: Any, max_concurrent: int) -> Any:
    """The search algorithm, suggesting at most so many trials at a time; one that learns does it in rounds."""
    if isinstance(search, BasicVariantGenerator):
        bounded = copy.copy(search)
        bounded.max_concurrent = min(search.max_concurrent or max_concurrent, max_concurrent)
        return bounded
    if isinstance(search, BatchedSearcher) or not isinstance(search, Searcher):
        return search
    return ConcurrencyLimiter(BatchedSearcher(search, max(ROUND, max_concurrent)), max_concurrent)


def _optuna(seed: int | None, modes: Sequence[str]) -> Searcher:
    import optuna  # 0.5 s, and not everyone asks for it
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if len(modes) > 1:
        return OptunaSearch(seed=seed, metric=objectives(len(modes)), mode=list(modes))
    return OptunaSearch(seed=seed)


def objectives(n: int) -> list[str]:
    """The names under which a trial reports the means of so many metrics to Ray."""
    return [SCORE, *(f"{SCORE}_{i}" for i in range(1, n))]


def scheduler(name: Any, *, n_folds: int) -> TrialScheduler | Population:
    """The scheduler for Ray Tune. A fold is an iteration, and what is compared is the mean over the folds so far.

    Parameters
    ----------
    name
        None or "fifo" (every trial runs all its folds), "asha", "hyperband", "median" (see `rayline.tune.fold_racing`), "pbt" or a
        `Population`, or a scheduler of Ray's own.

    Raises
    ------
    ParameterError
        When there is no scheduler of that name, or it is one of Ray's that change parameters during a trial.
    """
    if name is None or name == "fifo":
        return FIFOScheduler()
    if isinstance(name, Population) or name == "pbt":
        return Population() if name == "pbt" else name
    if isinstance(name, str):
        if name not in SCHEDULERS:
            raise ParameterError.unknown("tune.run", [name], SCHEDULERS, "scheduler")
        if n_folds < 2:
            raise ParameterError(
                f"tune.run: scheduler={name!r} needs more than one fold to stop a trial early.",
                "Expected cv of at least 2; a trial on a test set is one training.",
                "use cv=…, or leave the scheduler out.",
            )
        return FoldRacingScheduler(RACES[name](n_folds))
    if isinstance(name, (PopulationBasedTraining, PopulationBasedTrainingReplay)):
        raise ParameterError(
            f"tune.run: {type(name).__name__} of Ray changes parameters after as much as each trial happens to have done.",
            "Expected 'pbt' or a tune.Population(interval=…): generations that train all folds equally long.",
            "use one of these.",
        )
    if not isinstance(name, TrialScheduler):
        raise ParameterError.value(
            "tune.run", "scheduler", f"None, one of {list(SCHEDULERS)}, or a scheduler of ray.tune", name
        )
    own = {"metric": getattr(name, "_metric", None), "mode": getattr(name, "_mode", None)}
    if any(value is not None for value in own.values()):
        raise _has_its_own(name, own)
    return _copied(name)


def _copied(given: Any) -> Any:
    """A searcher or scheduler for this search alone: Ray's remember the trials that they have seen. One that cannot be copied
    (it holds a connection to a database) is used as it is."""
    try:
        return copy.deepcopy(given)
    except Exception:  # an untrusted object may raise anything
        return given


def _has_its_own(given: Any, own: Mapping[str, Any]) -> ParameterError:
    return ParameterError(
        f"tune.run: {type(given).__name__} has a metric or a mode of its own.",
        f"Expected neither; got {', '.join(f'{name}={value!r}' for name, value in own.items())}.",
        "leave them out: tune.run sets them.",
    )

"""Adapters for searchers and schedulers of Ray Tune, which the search drives as Ray Tune would."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ray.tune.schedulers import (
    PopulationBasedTraining,
    PopulationBasedTrainingReplay,
    TrialScheduler,
)
from ray.tune.search import ConcurrencyLimiter, SearchAlgorithm, Searcher, SearchGenerator
from ray.tune.search.basic_variant import BasicVariantGenerator

from rayline.compat.ray_tune import basic_variants, own_objective, own_space
from rayline.core.errors import ParameterError, first_line
from rayline.tune import space
from rayline.tune.domains import to_ray
from rayline.tune.fold_racing import SCORE
from rayline.tune.suggestions import Suggester
from rayline.tune.trial import objectives
from rayline.tune.variants import is_grid

ROUND = 4
"""The number of suggestions before a searcher gets their results (see `BatchedSearcher`)."""


class BatchedSearcher(Searcher):
    """A searcher that learns in rounds, so that its suggestions do not depend on which trial ends first.

    It suggests `size` configurations, waits for all their results, and gets them in the order of the
    suggestions: the same seed then gives the same trials for any number of concurrent trials.

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
        self._requested: list[str] = []
        self._last: dict[str, dict[str, Any]] = {}
        self._heard: dict[str, tuple[dict[str, Any] | None, bool]] = {}

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        self._metric, self._mode = metric, mode
        if isinstance(self._inner.metric, list):  # it has several metrics, Ray passes only one
            metric = mode = None
        return bool(self._inner.set_search_properties(metric, mode, config, **spec))

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        if len(self._requested) >= self._size:
            return None
        suggestion: Any = self._inner.suggest(trial_id)
        if isinstance(suggestion, Mapping):
            self._requested.append(trial_id)
        return suggestion  # type: ignore[no-any-return]

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Store the last result only: intermediate results arrive in no fixed order, and the last one counts for a trial that is
        stopped while it is paused."""
        self._last[trial_id] = result

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        last = self._last.pop(trial_id, None)
        result = last if result is None and not error else result
        self._heard[trial_id] = (result, error or result is None or not math.isfinite(result.get(SCORE, math.nan)))
        if all(other in self._heard for other in self._requested) and len(self._requested) >= self._size:
            for other in self._requested:
                reported, failed = self._heard.pop(other)
                self._inner.on_trial_complete(other, result=None if failed else reported, error=failed)
            self._requested.clear()

    def save(self, checkpoint_path: str) -> None:
        self._inner.save(checkpoint_path)

    def restore(self, checkpoint_path: str) -> None:
        self._inner.restore(checkpoint_path)


class DrawnPoints(NamedTuple):
    """The arguments that a `BasicVariantGenerator` of Ray Tune was created with."""

    points: Sequence[Mapping[str, Any]]
    constant: bool
    seed: Any


def drawn(search: Any) -> DrawnPoints | None:
    """Return the arguments of Ray Tune's own random search; None for any other searcher."""
    return DrawnPoints(*basic_variants(search)) if isinstance(search, BasicVariantGenerator) else None


def is_searcher(search: Any) -> bool:
    """Whether this is the name of a searcher, or one of Ray Tune's."""
    return isinstance(search, (str, SearchAlgorithm, Searcher))


class RaySuggester(Suggester):
    """A searcher of Ray Tune.

    Attributes
    ----------
    searcher
        A copy of it for this search alone.
    """

    def __init__(
        self, search: Any, config: space.Config, *, num_samples: int, seed: int | None, modes: Sequence[str]
    ) -> None:
        self.searcher = searcher(search, config, seed=seed, modes=modes)
        self._config, self._n, self._requested = to_ray(config), num_samples, 0
        self.total = num_samples if isinstance(search, str) else None

    def begin(self, max_concurrent: int, mode: str) -> None:
        self._limited = limited(self.searcher, max_concurrent)
        self._limited.set_search_properties(SCORE, mode, self._config)
        self._is_over = False

    def suggest(self, trial_id: str) -> Mapping[str, Any] | None:
        suggestion = self._limited.suggest(trial_id)
        if suggestion == Searcher.FINISHED:
            self._is_over = True
            return None
        if suggestion is None:
            return None
        self._requested += 1
        return _merged(self._config, suggestion)

    @property
    def is_finished(self) -> bool:
        return self._is_over or self._requested >= self._n

    def result(self, trial_id: str, reported: dict[str, Any]) -> None:
        self._limited.on_trial_result(trial_id, reported)

    def complete(self, trial_id: str, reported: dict[str, Any] | None, *, error: bool) -> None:
        self._limited.on_trial_complete(trial_id, result=reported, error=error)


def _merged(config: Mapping[str, Any], drawn: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the constants of the space with the suggested values."""
    merged = dict(config)
    for key, value in drawn.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def searcher(search: Any, config: space.Config, *, seed: int | None, modes: Sequence[str]) -> Any:
    """Return a searcher for this search; its `limited` returns one for a number of concurrent trials.

    Raises ParameterError when it cannot search this space.

    Parameters
    ----------
    search
        "optuna", or a searcher of Ray's own.
    config
        The search space.
    modes
        The direction of each objective.
    """
    grids = [name for name, value in space.flatten(config).items() if is_grid(value)]
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
    if isinstance(search, (ConcurrencyLimiter, SearchGenerator)):
        search = search.searcher
    if isinstance(search, BatchedSearcher):
        return search
    if not isinstance(search, Searcher):
        raise ParameterError(
            f"tune.run: {type(search).__name__} makes trials of Ray Tune itself.",
            "Expected a ray.tune.search.Searcher, which suggests configurations.",
            "derive it from Searcher.",
        )
    _check_domains(search, config)
    if search.metric not in (None, SCORE) or search.mode not in (None, modes[0]):
        raise _has_its_own(search, {"metric": search.metric, "mode": search.mode})
    if own_space(search) is not None:
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
    """Raise ParameterError when a searcher does not support a domain of the space."""
    convert = getattr(type(search), "convert_search_space", None)
    if convert is None:
        return
    try:
        convert(to_ray(dict(config)))
    except Exception as error:  # each wraps a library of its own
        raise ParameterError(
            f"tune.run: {type(search).__name__} cannot search this space: {first_line(error)}.",
            f"Expected domains that it knows, such as tune.uniform and tune.choice; got {space.tuned(config)}.",
            "change the domain, or use search=None.",
        ) from error


def limited(search: Searcher, max_concurrent: int) -> Searcher:
    """Return the searcher with a limit of concurrent trials; it suggests in rounds."""
    if isinstance(search, BatchedSearcher):
        return search
    return ConcurrencyLimiter(BatchedSearcher(search, max(ROUND, max_concurrent)), max_concurrent)


def _optuna(seed: int | None, modes: Sequence[str]) -> Searcher:
    import optuna  # 0.5 s, and rarely needed
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if len(modes) > 1:
        return OptunaSearch(seed=seed, metric=objectives(len(modes)), mode=list(modes))
    return OptunaSearch(seed=seed)


def scheduler(name: Any, known: Sequence[str]) -> TrialScheduler:
    """Return a scheduler of Ray for this search. Raises ParameterError when it is not a scheduler, or changes parameters during a trial."""
    if isinstance(name, (PopulationBasedTraining, PopulationBasedTrainingReplay)):
        raise ParameterError(
            f"tune.run: {type(name).__name__} of Ray changes parameters depending on how far each trial has come.",
            "Expected 'pbt' or a tune.Population(interval=…): which trains all folds for the same number of iterations.",
            "use one of these.",
        )
    if not isinstance(name, TrialScheduler):
        raise ParameterError.value(
            "scheduler", f"None, one of {list(known)}, or a scheduler of ray.tune", name, where="tune.run"
        )
    objective = own_objective(name)
    if any(value is not None for value in objective.values()):
        raise _has_its_own(name, objective)
    return _copied(name)


def _copied(searcher: Any) -> Any:
    """Copy a searcher or scheduler of Ray, which stores the trials that it has seen. One that cannot be copied
    (for example, it holds a database connection) is used directly."""
    try:
        return copy.deepcopy(searcher)
    except Exception:  # an untrusted object may raise anything
        return searcher


def _has_its_own(searcher: Any, objective: Mapping[str, Any]) -> ParameterError:
    return ParameterError(
        f"tune.run: {type(searcher).__name__} has a metric or a mode of its own.",
        f"Expected neither; got {', '.join(f'{name}={value!r}' for name, value in objective.items())}.",
        "leave them out: tune.run sets them.",
    )

"""The contract of a suggester of configurations, and random search."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from rayline.tune import space
from rayline.tune.variants import variants


class Suggester(ABC):
    """Suggests the configurations of a search, one after another.

    Attributes
    ----------
    total
        The total number of configurations; None if unknown.
    """

    total: int | None

    @abstractmethod
    def begin(self, max_concurrent: int, mode: str) -> None:
        """Prepare for this number of concurrent trials and this direction of the score."""

    @abstractmethod
    def suggest(self, trial_id: str) -> Mapping[str, Any] | None:
        """Return the next configuration; None when there is none until a trial ends, or at all."""

    @property
    @abstractmethod
    def is_finished(self) -> bool:
        """Whether there will be no more configurations."""

    @abstractmethod
    def result(self, trial_id: str, reported: dict[str, Any]) -> None:
        """Record the report of a trial after a fold."""

    @abstractmethod
    def complete(self, trial_id: str, reported: dict[str, Any] | None, *, error: bool) -> None:
        """Record the end of a trial."""


class DrawnSuggester(Suggester):
    """Random search with expanded grids: the suggestions depend only on the seed.

    Parameters
    ----------
    config
        The search space.
    num_samples
        The number of draws; each is combined with every combination of the grids.
    seed
        The seed of the configurations; a generator is copied.
    points, constant
        As in `variants`.

    Attributes
    ----------
    most
        The maximum number of configurations.
    """

    def __init__(
        self,
        config: space.Config,
        num_samples: int,
        seed: Any,
        *,
        points: Sequence[Mapping[str, Any]] = (),
        constant: bool = False,
    ) -> None:
        self._given = dict(config), num_samples, seed
        self._more: dict[str, Any] = {"points": points, "constant": constant}
        self.max_trials = space.n_trials(config, max(num_samples, len(points)))
        self.total = None if points else self.max_trials  # a point may fix the value of a grid
        self.begin(1, "min")

    def begin(self, max_concurrent: int, mode: str) -> None:
        config, num_samples, seed = self._given
        self._left: Iterator[dict[str, Any]] = variants(
            config, num_samples, np.random.default_rng(_seed(seed)), **self._more
        )
        self._next: dict[str, Any] | None = next(self._left, None)

    def suggest(self, trial_id: str) -> Mapping[str, Any] | None:
        suggestion, self._next = self._next, next(self._left, None)
        return suggestion

    @property
    def is_finished(self) -> bool:
        return self._next is None

    def result(self, trial_id: str, reported: dict[str, Any]) -> None:
        """Ignore the report: random search does not learn."""

    def complete(self, trial_id: str, reported: dict[str, Any] | None, *, error: bool) -> None:
        """Ignore the end of a trial, as `result`."""


def _seed(seed: Any) -> Any:
    """Copy the seed, so that the user's generator is not changed."""
    state = getattr(seed, "get_state", None)
    if state is not None:  # a RandomState of NumPy's older interface
        return np.random.default_rng(int(state()[1][0]))
    return np.random.Generator(type(seed.bit_generator)(seed.bit_generator.seed_seq)) if hasattr(seed, "bit_generator") else seed  # fmt: skip

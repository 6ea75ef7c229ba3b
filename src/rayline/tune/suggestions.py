"""The contract of what suggests the configurations of a search, and a search at random."""

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
        How many there will be; None when that is not known.
    needs_ray
        Why only Ray Tune itself can run this search; empty when it need not.
    """

    total: int | None
    needs_ray: str = ""

    @abstractmethod
    def begin(self, max_concurrent: int, mode: str) -> None:
        """Prepare for so many trials at a time, of which the score is to be small or large."""

    @abstractmethod
    def suggest(self, trial_id: str) -> Mapping[str, Any] | None:
        """Return the next configuration; None when there is none now, before some trial ends, or at all."""

    @property
    @abstractmethod
    def is_finished(self) -> bool:
        """Whether there will be no more."""

    @abstractmethod
    def result(self, trial_id: str, reported: dict[str, Any]) -> None:
        """Hear what a trial reports after a fold."""

    @abstractmethod
    def complete(self, trial_id: str, reported: dict[str, Any] | None, *, error: bool) -> None:
        """Hear that a trial is over."""


class DrawnSuggester(Suggester):
    """A search at random, with grids expanded: what it suggests depends on the seed alone.

    Parameters
    ----------
    config
        The search space.
    num_samples
        Draws; each of them once with every combination of the grids.
    seed
        The same seed, the same configurations; a generator is copied.
    points, constant
        As in `variants`.

    Attributes
    ----------
    most
        There will be no more configurations than these.
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
        self.most = space.n_trials(config, max(num_samples, len(points)))
        self.total = None if points else self.most  # a point may say what a grid would
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
        """Nothing is learned."""

    def complete(self, trial_id: str, reported: dict[str, Any] | None, *, error: bool) -> None:
        """As `result`."""


def _seed(seed: Any) -> Any:
    """A seed for this search alone: the user's generator stays as it is."""
    state = getattr(seed, "get_state", None)
    if state is not None:  # a RandomState of NumPy's older interface
        return np.random.default_rng(int(state()[1][0]))
    return np.random.Generator(type(seed.bit_generator)(seed.bit_generator.seed_seq)) if hasattr(seed, "bit_generator") else seed  # fmt: skip

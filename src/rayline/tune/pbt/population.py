"""Population based training: parameters change while the models are trained, towards those of the best.

A generation trains every member of the population for `interval` more iterations, on every fold. Then the worst members
copy the models of the best ones, and their parameters are perturbed or drawn again. The result is a schedule: the
parameters up to each iteration. A fit on all rows can repeat it.

Jaderberg and others, "Population based training of neural networks" (2017). There, and in Ray's scheduler, a member is
compared with the current state of the others; here all members wait for the end of a generation, so the same seed
gives the same schedule for any number of concurrent members.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rayline.core.arguments import integer, known_arguments
from rayline.core.errors import ParameterError, at
from rayline.core.representation import representation
from rayline.tune import space
from rayline.tune.domains import ChoiceDomain, Domain, NumberDomain
from rayline.tune.search_problem import WHERE, SearchProblem
from rayline.tune.variants import is_grid, variants

GENERATIONS = 10
"""The default number of generations."""

Random = np.random.Generator


@known_arguments
@dataclass(frozen=True, repr=False)
class Population:
    """Population based training (Jaderberg et al., 2017), as `scheduler=` of `tune.run`; "pbt" uses these defaults.

    The size of the population is `num_samples`. Parameters of the trainer change; those of stages are drawn once and are
    copied with the model.

    Parameters
    ----------
    interval
        Iterations of a generation; a tenth of the training when omitted.
    quantile
        The share of the population that copies the models of the best members, at most one half.
    resample
        The probability that a parameter is drawn again instead of perturbed, when a model is copied.
    factors
        The two factors of which one multiplies a number when it is perturbed. A choice moves to a neighboring value.

    Raises
    ------
    ParameterError
        On invalid values.

    Examples
    --------
    >>> from rayline import tune
    >>> tune.Population(interval=5)
    Population(interval=5)
    """

    __repr__ = representation

    interval: int | None = None
    quantile: float = 0.25
    resample: float = 0.25
    factors: tuple[float, float] = (0.8, 1.2)

    def __post_init__(self) -> None:
        with at("Population"):
            integer("interval", self.interval, optional=True)
        for name, low, high in (("quantile", 0.0, 0.5), ("resample", 0.0, 1.0)):
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and low <= value <= high):
                raise ParameterError.value(name, f"a share from {low:g} to {high:g}", value, where="Population")
        both = isinstance(self.factors, tuple) and len(self.factors) == 2
        if not both or not all(isinstance(f, (int, float)) and 0 < f < math.inf for f in self.factors):
            raise ParameterError.value("factors", "a pair of numbers above 0", self.factors, where="Population")

    def ends(self, n_iterations: int) -> list[int]:
        """Return the iterations after which the generations end.

        Parameters
        ----------
        n_iterations
            The iterations of a whole training.

        Returns
        -------
        list of int
            Rising; the last one is `n_iterations`.
        """
        interval = self.interval or max(1, math.ceil(n_iterations / GENERATIONS))
        return [*range(interval, n_iterations, interval), n_iterations]

    def begin(self, config: space.Config, num_samples: int, seed: int | None) -> list[dict[str, Any]]:
        """Return the initial parameters of every member, drawn as in a random search, with grids expanded.

        Parameters
        ----------
        config
            The search space.
        num_samples
            The number of draws; a grid is repeated so many times.
        seed
            The same seed draws the same members; None draws others each time.

        Returns
        -------
        list of dict
            The parameters of each member.
        """
        random = np.random.default_rng(seed)
        return [space.to_plain(variant) for variant in variants(config, num_samples, random)]

    def successors(self, losses: Mapping[int, float], random: Random) -> dict[int, int]:
        """Return which members copy which models: each of the worst members copies one of the best, chosen at random.

        Parameters
        ----------
        losses
            The loss of each member by its number; lower is better, and the first of equal ones wins.
        random
            A `numpy.random.Generator`.

        Returns
        -------
        dict
            By the number of a member behind that of a member in front.
        """
        order = sorted(losses, key=lambda number: (losses[number], number))
        n = min(math.ceil(len(order) * self.quantile), len(order) // 2)
        return {number: int(random.choice(order[:n])) for number in sorted(order[len(order) - n :])} if n else {}

    def changed(self, config: space.Config, searched: space.Config, random: Random) -> dict[str, Any]:
        """Return the parameters of a copied model: those of the trainer are perturbed or drawn again.

        Parameters
        ----------
        config
            The parameters of the member in front, which do not change.
        searched
            The search space.
        random
            A `numpy.random.Generator`.

        Returns
        -------
        dict
            As nested as `config`; parameters of stages stay.
        """
        changed = dict(config)
        for name in space.split_space(searched).trainer:
            domain = searched[name]
            if is_grid(domain):
                domain = ChoiceDomain(list(domain["grid_search"]))
            if isinstance(domain, Domain):
                is_resampled = random.random() < self.resample
                changed[name] = domain.sample(random) if is_resampled else self._near(domain, changed[name], random)
        return dict(space.to_plain(changed))

    def _near(self, domain: Domain, value: Any, random: Random) -> Any:
        step = int(random.integers(2))
        if isinstance(domain, ChoiceDomain):
            places = [place for place, category in enumerate(domain.categories) if category == value]
            place = places[0] + (1, -1)[step]
            return domain.categories[min(max(place, 0), len(domain.categories) - 1)]
        moved = value * self.factors[step]
        grain: Any = getattr(domain, "q", None) or (1 if getattr(domain, "is_integer", False) else None)
        if grain is not None:
            moved = round(moved / grain) * grain
            if moved == value:
                moved = value + (grain if self.factors[step] > 1 else -grain)
        if not isinstance(domain, NumberDomain):  # a normal distribution has no ends
            return moved
        excluded = domain.is_integer and domain.q is None  # the upper end of a randint
        return min(max(moved, domain.lower), domain.upper - excluded)


def check(problem: SearchProblem, searched: space.Config, *, search: Any) -> None:
    """Raise ParameterError when a search cannot use population based training."""
    try:
        problem.trainer.refuse_phases()
    except ParameterError as error:
        raise error.within(WHERE) from None
    if not any(isinstance(value, Domain) or is_grid(value) for value in space.split_space(searched).trainer.values()):
        raise ParameterError.here(
            "population based training changes parameters of the trainer, and config searches none.",
            f"Expected one such as {{'eta': tune.uniform(0.01, 0.3)}}; got {space.tuned(searched)}.",
            "add one, or use another scheduler.",
        )
    functions = [
        name for name, value in space.flatten(searched).items() if isinstance(value, Domain) and value.is_function
    ]
    if functions:
        raise ParameterError.here(
            f"{functions[0]!r} is a function of other parameters, which population based training changes.",
            "Expected domains such as tune.uniform and tune.choice.",
            "use such a domain, or another scheduler.",
        )
    if search not in (None, "random"):
        raise ParameterError.here(
            "population based training cannot be combined with a searcher.",
            f"Expected search=None; got {search!r}.",
            "leave search out: parameters are drawn once and change with the generations.",
        )
    counts = {name: n_iterations(problem, {**space.typical(searched), **one}) for name, one in _one_by_one(searched)}
    if len({*counts.values()}) > 1:
        raise ParameterError.here(
            "the members of a population train for the same number of iterations, and config searches it.",
            f"Expected one number; got {sorted({*counts.values()})}.",
            "take it out of config.",
        )


def n_iterations(problem: SearchProblem, config: space.Config) -> int:
    """Return the number of iterations of a training with this configuration."""
    trainer = problem.trainer_of(config)
    return trainer.adapter.resumable_iterations(*trainer.args, **trainer.kwargs)


def _one_by_one(searched: space.Config) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield changes of a single parameter of the trainer."""
    yield "", {}
    random = np.random.default_rng(0)
    for name, value in space.split_space(searched).trainer.items():
        values = searched[name]
        if is_grid(values):
            yield from ((f"{name} {i}", {name: one}) for i, one in enumerate(value["grid_search"]))
        elif isinstance(values, Domain):
            yield from ((f"{name} {i}", {name: space.to_plain(values.sample(random))}) for i in range(4))

"""Population based training: parameters change while the models are trained, towards those of the best.

A generation trains every member of the population for `interval` more iterations, on every fold. Then the members that are
behind take over the models of those in front, with their parameters changed a little or drawn anew. What comes out is
a schedule: which parameters until which iteration. A fit on all rows repeats it.

Jaderberg and others, "Population based training of neural networks" (2017). There, and in Ray's scheduler, a member is
compared with what the others happen to have reached; here all of them wait for the end of a generation, so the same seed
gives the same schedule however many run at a time.
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
from rayline.tune.evaluate import WHERE, SearchProblem
from rayline.tune.variants import is_grid, variants

GENERATIONS = 10
"""How many there are when nobody says how long one is."""

Random = np.random.Generator


@known_arguments
@dataclass(frozen=True, repr=False)
class Population:
    """Population based training, as `scheduler=` of `tune.run`; "pbt" is one with these defaults.

    The size of the population is `num_samples`. Parameters of the trainer change; those of stages are drawn once, and
    are taken over with the model.

    Parameters
    ----------
    interval
        Iterations of a generation; a tenth of the training when omitted.
    quantile
        The share of the population that takes over models from as many in front, at most a half.
    resample
        How likely a parameter is drawn anew rather than changed a little, when a model is taken over.
    factors
        What a number is multiplied with, one or the other, when it changes a little. Of choices the next one is taken.

    Raises
    ------
    ParameterError
        On values that make no sense.

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
        """The iterations after which generations end."""
        interval = self.interval or max(1, math.ceil(n_iterations / GENERATIONS))
        return [*range(interval, n_iterations, interval), n_iterations]

    def begin(self, config: space.Config, num_samples: int, seed: int | None) -> list[dict[str, Any]]:
        """The first parameters of every member: drawn, with grids expanded as in a search at random."""
        random = np.random.default_rng(seed)
        return [space.to_plain(variant) for variant in variants(config, num_samples, random)]

    def successors(self, losses: Mapping[int, float], random: Random) -> dict[int, int]:
        """Which members take over the model of which: those behind at random from as many in front.

        Parameters
        ----------
        losses
            Of each member by its number; lower is better, of equal ones the first.
        """
        order = sorted(losses, key=lambda number: (losses[number], number))
        n = min(math.ceil(len(order) * self.quantile), len(order) // 2)
        return {number: int(random.choice(order[:n])) for number in sorted(order[len(order) - n :])} if n else {}

    def changed(self, config: space.Config, searched: space.Config, random: Random) -> dict[str, Any]:
        """The parameters of a model that was taken over: those of the trainer a little changed, or drawn anew."""
        changed = dict(config)
        for name in space.split_space(searched).trainer:
            domain = searched[name]
            if is_grid(domain):
                domain = ChoiceDomain(list(domain["grid_search"]))
            if isinstance(domain, Domain):
                anew = random.random() < self.resample
                changed[name] = domain.sample(random) if anew else self._near(domain, changed[name], random)
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
    """Raise ParameterError when a search cannot be one of population based training."""
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
            "population based training is a search of its own.",
            f"Expected search=None; got {search!r}.",
            "leave search out: parameters are drawn once, and change with the generations.",
        )
    counts = {name: n_iterations(problem, {**space.typical(searched), **one}) for name, one in _one_by_one(searched)}
    if len({*counts.values()}) > 1:
        raise ParameterError.here(
            "the members of a population train for the same number of iterations, and config searches it.",
            f"Expected one number; got {sorted({*counts.values()})}.",
            "take it out of config.",
        )


def n_iterations(problem: SearchProblem, config: space.Config) -> int:
    """How many iterations a training with this configuration makes."""
    trainer = problem.trainer_of(config)
    return trainer.adapter.resumable_iterations(*trainer.args, **trainer.kwargs)


def _one_by_one(searched: space.Config) -> Iterator[tuple[str, dict[str, Any]]]:
    """Changes of one parameter of the trainer each."""
    yield "", {}
    random = np.random.default_rng(0)
    for name, value in space.split_space(searched).trainer.items():
        values = searched[name]
        if is_grid(values):
            yield from ((f"{name} {i}", {name: one}) for i, one in enumerate(value["grid_search"]))
        elif isinstance(values, Domain):
            yield from ((f"{name} {i}", {name: space.to_plain(values.sample(random))}) for i in range(4))

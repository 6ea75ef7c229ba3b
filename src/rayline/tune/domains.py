"""Domains of parameters: `uniform`, `choice` and the others, with the same meaning as in Ray Tune.

They do not need Ray: a search over a table in this process starts without importing Ray Tune, which takes longer than many
searches of a small table. Ray Tune's own domains are accepted everywhere, and ours are translated for its searchers.
"""

from __future__ import annotations

import inspect
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np

from rayline.core.errors import ParameterError, at


class Domain(ABC):
    """The distribution of a parameter."""

    @abstractmethod
    def sample(self, random: np.random.Generator, config: Any = None) -> Any:
        """Draw a value; `config` holds the parameters drawn so far."""

    @property
    def is_function(self) -> bool:
        """Whether a value is computed from the other parameters."""
        return False

    @abstractmethod
    def to_ray(self) -> Any:
        """Return the same domain of Ray Tune."""


@dataclass(frozen=True)
class NumberDomain(Domain):
    """Numbers from `lower` to `upper`, distributed uniformly or log-uniformly, rounded to multiples of `q`.

    The upper end of integers is excluded, unless they are rounded.
    """

    lower: float
    upper: float
    is_integer: bool = False
    is_log: bool = False
    q: float | None = None

    def __post_init__(self) -> None:
        with at(f"tune.{self._name}"):
            self._check_ends()
        if self.is_log and not self.lower > 0:
            raise ParameterError(
                f"{self._name}: the lower end is {self.lower!r}.",
                "Expected a number above 0, of which there is a logarithm.",
                "give the value itself, not its logarithm.",
            )

    def _check_ends(self) -> None:
        kind, noun = (Integral, "an integer") if self.is_integer else (Real, "a finite number")
        ends: dict[str, Any] = {"lower": self.lower, "upper": self.upper}
        for name, value in ends.items():
            if not _is_finite(value, kind):
                raise ParameterError.value(name, noun, value)
        step: Any = 1 if self.q is None else self.q
        if not _is_finite(step) or step <= 0:
            raise ParameterError.value("q", "a number above 0", step)
        if self.q is None and (self.lower > self.upper or (self.is_integer and self.lower == self.upper)):
            raise ParameterError.value("upper", f"a number above lower={self.lower!r}", self.upper)
        low, high = (self.lower, self.upper) if self.q is None else self._steps
        if low > high:
            raise ParameterError.here(
                f"no multiple of {self.q} lies between {self.lower} and {self.upper}.",
                "Expected at least one.",
                "change q, or the ends.",
            )

    @property
    def _steps(self) -> tuple[float, float]:
        """The smallest and the largest multiple of q, counted in steps of q."""
        assert self.q is not None
        return _on_grid(self.lower, self.q, math.ceil), _on_grid(self.upper, self.q, math.floor)

    def sample(self, random: np.random.Generator, config: Any = None) -> Any:
        if self.q is None:
            return self._drawn(random, self.lower, self.upper)
        low, high = self._steps
        if self.is_integer:
            return int(self._drawn(random, low, high + (self.q != 1)) * self.q)
        return float(round(self._drawn(random, low * self.q, high * self.q) / self.q) * self.q)

    def _drawn(self, random: np.random.Generator, low: float, high: float) -> Any:
        if self.is_log:
            value = np.exp(random.uniform(np.log(low), np.log(high)))
            return int(np.floor(value)) if self.is_integer else float(value)
        return int(random.integers(int(low), int(high))) if self.is_integer else float(random.uniform(low, high))

    @property
    def _name(self) -> str:
        kind = "randint" if self.is_integer else "uniform"
        name = ("lograndint" if self.is_integer else "loguniform") if self.is_log else kind
        return name if self.q is None else f"q{name}"

    def to_ray(self) -> Any:
        from ray import tune  # as below: it takes more than a second

        make = getattr(tune, self._name)
        return make(self.lower, self.upper) if self.q is None else make(self.lower, self.upper, self.q)

    def __repr__(self) -> str:
        return f"{self._name}({self.lower!r}, {self.upper!r}{'' if self.q is None else f', {self.q!r}'})"


@dataclass(frozen=True)
class NormalDomain(Domain):
    """Normally distributed numbers, rounded to multiples of `q`."""

    mean: float = 0.0
    sd: float = 1.0
    q: float | None = None

    def __post_init__(self) -> None:
        numbers: dict[str, Any] = {"mean": self.mean, "sd": self.sd, "q": 1.0 if self.q is None else self.q}
        for name, value in numbers.items():
            if not _is_finite(value):
                raise ParameterError.value(name, "a finite number", value, where="tune.randn")
        if not self.sd > 0:
            raise ParameterError.value("sd", "a number above 0", self.sd, where="tune.randn")

    def sample(self, random: np.random.Generator, config: Any = None) -> Any:
        value = float(random.normal(self.mean, self.sd))
        return value if self.q is None else float(round(value / self.q) * self.q)

    def to_ray(self) -> Any:
        from ray import tune

        return tune.randn(self.mean, self.sd) if self.q is None else tune.qrandn(self.mean, self.sd, self.q)

    def __repr__(self) -> str:
        return f"{'' if self.q is None else 'q'}randn({self.mean!r}, {self.sd!r}{'' if self.q is None else f', {self.q!r}'})"


@dataclass(frozen=True)
class ChoiceDomain(Domain):
    """One of some values, all equally likely."""

    categories: Sequence[Any]

    def sample(self, random: np.random.Generator, config: Any = None) -> Any:
        return self.categories[int(random.choice(np.arange(len(self.categories))))]

    def to_ray(self) -> Any:
        from ray import tune

        return tune.choice(list(self.categories))

    def __repr__(self) -> str:
        return f"choice({list(self.categories)!r})"


@dataclass(frozen=True)
class FunctionDomain(Domain):
    """The value of a function without arguments, or of the parameters drawn so far."""

    function: Callable[..., Any]

    @property
    def is_function(self) -> bool:
        return True

    def sample(self, random: np.random.Generator, config: Any = None) -> Any:
        try:
            inspect.signature(self.function).bind(config)
        except TypeError:
            return self.function()
        except ValueError:  # a function written in C has no signature
            pass
        return self.function(config)

    def to_ray(self) -> Any:
        from ray import tune

        return tune.sample_from(self.function)


@dataclass(frozen=True)
class OtherDomain(Domain):
    """A domain of Ray Tune that Rayline has no class for."""

    domain: Any

    def sample(self, random: np.random.Generator, config: Any = None) -> Any:
        return self.domain.sample(config, random_state=random)

    def to_ray(self) -> Any:
        return self.domain


def _on_grid(bound: float, q: float, rounded: Callable[[float], float]) -> float:
    """Return a bound in steps of q, rounded inwards to a multiple of q."""
    steps = bound / q
    return round(steps) if math.isclose(steps, round(steps)) else rounded(steps)


def _is_finite(value: Any, kind: type = Real) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)  # type: ignore[arg-type]


def _values(function: str, name: str, given: Any) -> list[Any]:
    values = list(given) if isinstance(given, Iterable) and not isinstance(given, (str, bytes)) else []
    if not values:
        raise ParameterError.value(name, "a list of at least one value", given, where=f"tune.{function}")
    return values


# -- as a user writes them ---------------------------------------------------------------------------------------------


def uniform(lower: float, upper: float) -> Domain:
    """Draw a number from a uniform distribution.

    Parameters
    ----------
    lower, upper
        The ends, both included.

    Returns
    -------
    Domain
        A float for each trial.

    Raises
    ------
    ParameterError
        When an end is no finite number, or `lower` is above `upper`.

    Examples
    --------
    >>> from rayline import tune
    >>> tune.uniform(0.5, 1.0)
    uniform(0.5, 1.0)
    """
    return NumberDomain(lower, upper)


def quniform(lower: float, upper: float, q: float) -> Domain:
    """Draw a multiple of `q` from a uniform distribution.

    Parameters
    ----------
    lower, upper
        The ends, both included.
    q
        The step; values are its multiples.

    Returns
    -------
    Domain
        A float for each trial, the nearest multiple of `q`.

    Raises
    ------
    ParameterError
        When an end is no finite number, `q` is not above 0, or no multiple of it lies between them.

    Examples
    --------
    >>> from rayline import tune
    >>> tune.quniform(0.0, 1.0, 0.25)
    quniform(0.0, 1.0, 0.25)
    """
    return NumberDomain(lower, upper, q=q)


def loguniform(lower: float, upper: float) -> Domain:
    """Draw a number from a log-uniform distribution.

    Parameters
    ----------
    lower, upper
        The ends, both included.

    Returns
    -------
    Domain
        A float for each trial: 0.001 to 0.01 is as likely as 0.01 to 0.1.

    Raises
    ------
    ParameterError
        Unless `lower` is above 0.

    Examples
    --------
    >>> from rayline import tune
    >>> tune.loguniform(0.01, 0.3)
    loguniform(0.01, 0.3)
    """
    return NumberDomain(lower, upper, is_log=True)


def qloguniform(lower: float, upper: float, q: float) -> Domain:
    """Draw a multiple of `q` from a log-uniform distribution.

    Parameters
    ----------
    lower, upper
        The ends, both included.
    q
        The step; values are its multiples.

    Returns
    -------
    Domain
        A float for each trial.

    Raises
    ------
    ParameterError
        Unless `lower` is above 0.

    Examples
    --------
    >>> from rayline import tune
    >>> tune.qloguniform(0.5, 8.0, 0.5)
    qloguniform(0.5, 8.0, 0.5)
    """
    return NumberDomain(lower, upper, is_log=True, q=q)


def randint(lower: int, upper: int) -> Domain:
    """Draw an integer from a uniform distribution.

    Parameters
    ----------
    lower, upper
        The ends; `upper` is excluded.

    Returns
    -------
    Domain
        An int for each trial.

    Raises
    ------
    ParameterError
        Unless the ends are integers and `lower` is below `upper`.

    Examples
    --------
    >>> from rayline import tune
    >>> tune.randint(3, 10)
    randint(3, 10)
    """
    return NumberDomain(lower, upper, is_integer=True)


def qrandint(lower: int, upper: int, q: int = 1) -> Domain:
    """Draw a multiple of `q` from a uniform distribution.

    Parameters
    ----------
    lower, upper
        The ends, both included; with `q=1` `upper` is excluded, as in Ray Tune.
    q
        The step; values are its multiples.

    Returns
    -------
    Domain
        An int for each trial.

    Raises
    ------
    ParameterError
        Unless the ends are integers, `q` is above 0, and a multiple of it lies between them.

    Examples
    --------
    >>> from rayline import tune
    >>> tune.qrandint(16, 128, 16)
    qrandint(16, 128, 16)
    """
    return NumberDomain(lower, upper, is_integer=True, q=q)


def lograndint(lower: int, upper: int) -> Domain:
    """Draw an integer from a log-uniform distribution.

    Parameters
    ----------
    lower, upper
        The ends; `upper` is excluded.

    Returns
    -------
    Domain
        An int for each trial: 1 to 9 is as likely as 10 to 99.

    Raises
    ------
    ParameterError
        Unless `lower` is above 0.

    Examples
    --------
    >>> from rayline import tune
    >>> tune.lograndint(1, 1000)
    lograndint(1, 1000)
    """
    return NumberDomain(lower, upper, is_integer=True, is_log=True)


def qlograndint(lower: int, upper: int, q: int) -> Domain:
    """Draw a multiple of `q` from a log-uniform distribution.

    Parameters
    ----------
    lower, upper
        The ends, both included.
    q
        The step; values are its multiples.

    Returns
    -------
    Domain
        An int for each trial.

    Raises
    ------
    ParameterError
        Unless `lower` is above 0.

    Examples
    --------
    >>> from rayline import tune
    >>> tune.qlograndint(8, 512, 8)
    qlograndint(8, 512, 8)
    """
    return NumberDomain(lower, upper, is_integer=True, is_log=True, q=q)


def randn(mean: float = 0.0, sd: float = 1.0) -> Domain:
    """Draw a normally distributed number.

    Parameters
    ----------
    mean, sd
        The mean and the standard deviation.

    Returns
    -------
    Domain
        A float for each trial, without ends.

    Raises
    ------
    ParameterError
        Unless `sd` is above 0.

    Examples
    --------
    >>> from rayline import tune
    >>> tune.randn(0.0, 2.0)
    randn(0.0, 2.0)
    """
    return NormalDomain(mean, sd)


def qrandn(mean: float, sd: float, q: float) -> Domain:
    """Draw a normally distributed number and round it to a multiple of `q`.

    Parameters
    ----------
    mean, sd
        The mean and the standard deviation.
    q
        The step; values are its multiples.

    Returns
    -------
    Domain
        A float for each trial, without ends.

    Raises
    ------
    ParameterError
        Unless `sd` is above 0.

    Examples
    --------
    >>> from rayline import tune
    >>> tune.qrandn(0.0, 2.0, 0.5)
    qrandn(0.0, 2.0, 0.5)
    """
    return NormalDomain(mean, sd, q)


def choice(categories: Iterable[Any]) -> Domain:
    """Draw one of some values, all equally likely.

    Parameters
    ----------
    categories
        The values, of any type.

    Returns
    -------
    Domain
        One of the values for each trial, the object itself.

    Raises
    ------
    ParameterError
        When there are no values.

    Examples
    --------
    >>> from rayline import tune
    >>> tune.choice(["mean", "median"])
    choice(['mean', 'median'])
    """
    return ChoiceDomain(_values("choice", "categories", categories))


def sample_from(func: Callable[..., Any]) -> Domain:
    """Compute a value by a function.

    Parameters
    ----------
    func
        A function without arguments, or of a mapping with the parameters drawn so far.

    Returns
    -------
    Domain
        Computed for each trial, after the parameters that it reads.

    Raises
    ------
    ParameterError
        When `func` cannot be called.

    Examples
    --------
    >>> from rayline import tune
    >>> space = {"eta": tune.uniform(0.0, 1.0), "half": tune.sample_from(lambda config: config["eta"] / 2)}
    >>> space["half"].is_function
    True
    """
    if not callable(func):
        raise ParameterError.value("func", "a function", func, where="tune.sample_from")
    return FunctionDomain(func)


def grid_search(values: Iterable[Any]) -> dict[str, list[Any]]:
    """Try every value, with every value of the other grids.

    Parameters
    ----------
    values
        The values, of any type.

    Returns
    -------
    dict
        With the key "grid_search", as Ray Tune writes it.

    Raises
    ------
    ParameterError
        When there are no values.

    Examples
    --------
    >>> from rayline import tune
    >>> tune.grid_search([1, 2])
    {'grid_search': [1, 2]}
    """
    return {"grid_search": _values("grid_search", "values", values)}


# -- from and to Ray Tune ----------------------------------------------------------------------------------------------


def from_ray(space: Any) -> Any:
    """Return a search space in which Ray Tune's domains are replaced by ours. Imports nothing: a space that
    contains them was built with Ray Tune."""
    sample = sys.modules.get("ray.tune.search.sample")
    return space if sample is None else _replaced(space, lambda value: _ours(value, sample))


def to_ray(space: Any) -> Any:
    """Return a search space in which our domains are replaced by Ray Tune's."""
    return _replaced(space, lambda value: value.to_ray() if isinstance(value, Domain) else value)


def _replaced(value: Any, replace: Callable[[Any], Any]) -> Any:
    if isinstance(value, Mapping) and type(value) is dict:
        return {key: _replaced(inner, replace) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_replaced(inner, replace) for inner in value)
    return replace(value)


def _ours(value: Any, sample: Any) -> Any:
    if not isinstance(value, sample.Domain):
        return value
    if isinstance(value, sample.Function):
        return FunctionDomain(value.func)
    if isinstance(value, sample.Categorical):
        return {"grid_search": value.categories} if value.is_grid() else ChoiceDomain(value.categories)
    sampler, q = value.get_sampler(), None
    if isinstance(sampler, sample.Quantized):
        sampler, q = sampler.sampler, sampler.q
    if isinstance(sampler, sample.Normal):
        return NormalDomain(sampler.mean, sampler.sd, q)
    is_log = isinstance(sampler, sample.LogUniform)
    if isinstance(value, (sample.Float, sample.Integer)) and (is_log or isinstance(sampler, sample.Uniform)):
        return NumberDomain(value.lower, value.upper, isinstance(value, sample.Integer), is_log, q)
    return OtherDomain(value)

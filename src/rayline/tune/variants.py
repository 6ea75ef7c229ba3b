"""The configurations of a random or grid search, in a fixed order: the same seed gives the same configurations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from rayline.core.errors import ParameterError, first_line
from rayline.tune.domains import Domain

Path = tuple[Any, ...]

PASSES = 20
"""The maximum number of passes over functions of other parameters, which may themselves be functions."""


class _NotDrawn(Exception):  # noqa: N818  # not an error: it is drawn later
    """A function reads a parameter that is not drawn yet."""


class DrawnConfig(Mapping[str, Any]):
    """The parameters drawn so far, as functions of them read them: `config["x"]`, `config.x`, and `spec.config.x`
    in Ray's older functions."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config

    def __getitem__(self, name: str) -> Any:
        if name == "config" and name not in self._config:
            return self
        value = self._config[name]
        if isinstance(value, Domain) or is_grid(value):
            raise _NotDrawn(name)
        return DrawnConfig(value) if type(value) is dict else value

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._config)

    def __len__(self) -> int:
        return len(self._config)


def is_grid(value: Any) -> bool:
    """Return whether this is a `tune.grid_search([…])`."""
    return isinstance(value, Mapping) and set(value) == {"grid_search"}


def variants(
    space: Mapping[str, Any],
    num_samples: int,
    random: np.random.Generator,
    *,
    points: Sequence[Mapping[str, Any]] = (),
    constant: bool = False,
) -> Iterator[dict[str, Any]]:
    """Yield configurations: `num_samples` times a draw of every domain, each time with every combination of the grids.

    Parameters
    ----------
    points
        Fixed values of the first samples, in place of drawn ones.
    constant
        Whether all combinations of the grids have the same draw, rather than one each.
    """
    for number in range(max(num_samples, len(points))):
        begun = _set(space, _values(points[number])) if number < len(points) else space
        yield from _expanded(begun, random, constant=constant)


def _expanded(space: Any, random: np.random.Generator, *, constant: bool) -> Iterator[dict[str, Any]]:
    config = dict(_unresolved(space))
    grids = sorted((path for path, value in config.items() if is_grid(value)), key=repr)
    if not config:
        yield space
        return
    if constant:
        space = _drawn(space, [path for path in config if path not in grids], random, lenient=True)
    for values in product(
        *(list(config[path]["grid_search"]) for path in reversed(grids))
    ):  # the first one varies fastest
        one = _set(space, dict(zip(reversed(grids), values, strict=True)))
        one = _drawn(one, [path for path in config if path not in grids], random)
        yield from _expanded(one, random, constant=constant)  # a value of a grid may itself be a domain


def _drawn(space: Any, paths: Sequence[Path], random: np.random.Generator, *, lenient: bool = False) -> Any:
    """Draw values in place of these domains; functions of other parameters are evaluated after them."""
    left = [path for path in paths if isinstance(_at(space, path), Domain)]
    for _ in range(PASSES):
        waiting = []
        for path in left:
            try:
                value = _at(space, path).sample(random, DrawnConfig(space))
            except _NotDrawn:
                waiting.append(path)
            except Exception as error:  # the function is the user's
                name = "/".join(map(str, path))
                raise ParameterError(
                    f"tune.run: no value of {name!r} can be drawn: {type(error).__name__}: {first_line(error)}.",
                    f"Expected a domain with values, or a function of other parameters; got {_at(space, path)!r}.",
                    "correct it; a function gets a dict of the parameters drawn so far.",
                ) from error
            else:
                space = _set(space, {path: value})
        if not waiting or lenient:
            return space
        left = waiting
    raise ParameterError(
        f"tune.run: {['/'.join(map(str, path)) for path in left]} are functions of one another.",
        "Expected functions of parameters that are drawn.",
        "change one of them so that it does not read the others.",
    )


def _unresolved(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Return domains and grids by their path, also in lists and in dicts that are parameters."""
    if isinstance(value, Domain) or is_grid(value):
        yield path, value
    elif type(value) is dict:
        for key, inner in value.items():
            yield from _unresolved(inner, (*path, key))
    elif type(value) in (list, tuple):
        for place, inner in enumerate(value):
            yield from _unresolved(inner, (*path, place))


def _values(point: Mapping[str, Any], path: Path = ()) -> dict[Path, Any]:
    values: dict[Path, Any] = {}
    for key, value in point.items():
        nested = isinstance(value, Mapping) and not path and key == "preprocessor"
        nested |= isinstance(value, Mapping) and bool(path)
        values |= _values(value, (*path, key)) if nested else {(*path, key): value}
    return values


def _at(space: Any, path: Path) -> Any:
    for key in path:
        space = space[key]
    return space


def _set(space: Any, values: Mapping[Path, Any]) -> Any:
    """Return a copy with these values; containers are copied only along their paths."""
    here: dict[Any, dict[Path, Any]] = {}
    for path, value in values.items():
        if not path:
            return value
        here.setdefault(path[0], {})[path[1:]] = value
    if not here:
        return space
    if isinstance(space, (list, tuple)):
        return type(space)(_set(inner, here[i]) if i in here else inner for i, inner in enumerate(space))
    copied = dict(space) if isinstance(space, Mapping) else {}
    return copied | {key: _set(copied.get(key, {}), inner) for key, inner in here.items()}

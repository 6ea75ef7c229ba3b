"""Checks of keyword arguments: a misspelt argument of a public function or class raises an error with a suggestion."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, TypeVar, cast

from rayline.core.errors import ParameterError

T = TypeVar("T")


def integer(name: str, value: Any, *, minimum: int = 1, maximum: int | None = None, optional: bool = False) -> Any:
    """Return an argument that must be an integer from `minimum` to `maximum`, or None where it is optional. One of NumPy's becomes
    an int.

    Raises ParameterError.

    >>> from rayline.core.errors import at
    >>> integer("n_splits", 5, minimum=2)
    5
    >>> with at("KFold"):
    ...     integer("n_splits", True)
    Traceback (most recent call last):
    rayline.core.errors.ParameterError: KFold: n_splits has a wrong value.
      Expected an integer of at least 1; got True.
      Hint: change n_splits.
    """
    if value is None and optional:
        return None
    number = None if isinstance(value, bool) or not isinstance(value, Integral) else int(value)
    if number is None or number < minimum or (maximum is not None and number > maximum):
        wanted = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise ParameterError.value(name, f"an integer {wanted}{', or None' * optional}", value)
    return number


def positive_seconds(name: str, value: Any) -> None:
    """Raise ParameterError unless an argument is a number of seconds above 0, or None."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if value is not None and not (is_number and value > 0):
        raise ParameterError.value(name, "seconds, more than 0", value)


def column_names(argument: str, columns: Any) -> tuple[str, ...]:
    """Return an argument that names columns as a tuple: a name, several names, or None for none. Raises ParameterError.

    >>> column_names("keep_columns", "late"), column_names("keep_columns", None)
    (('late',), ())
    """
    names = () if columns is None else (columns,) if isinstance(columns, str) else columns
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise ParameterError.value(argument, "names of columns", columns)
    return tuple(names)


def known_arguments(public: T) -> T:
    """Decorate a function, or every public method of a class: unknown keyword arguments raise ParameterError.

    Without it Python raises a TypeError, which is not a RaylineError and suggests no name.

    Examples
    --------
    >>> @known_arguments
    ... def fit(data, target_columns=None): ...
    >>> fit([], target_column="late")
    Traceback (most recent call last):
    rayline.core.errors.ParameterError: core.fit: unknown argument 'target_column'.
      Expected some of ['data', 'target_columns'].
      Hint: did you mean ['target_columns']?
    """
    if not isinstance(public, type):
        return cast(T, _checked(cast(types.FunctionType, public), ""))
    for name, member in list(vars(public).items()):
        if name.startswith("_") and name != "__init__":
            continue
        if isinstance(member, types.FunctionType):
            setattr(public, name, _checked(member, public.__name__))
        elif isinstance(member, (classmethod, staticmethod)):
            setattr(public, name, type(member)(_checked(cast(types.FunctionType, member.__func__), public.__name__)))
    return public


def _checked(function: types.FunctionType, owner: str) -> Any:
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return function
    known = frozenset(p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY and p.kind is not p.VAR_POSITIONAL)
    method = "" if function.__name__ == "__init__" else f".{function.__name__}"
    owner = owner or (function.__module__.split(".")[1] if "." in function.__module__ else "core")
    refuse = functools.partial(_refuse, owner, method, known)

    def call(*args: Any, **kwargs: Any) -> Any:
        if not known.issuperset(kwargs):
            refuse(args, kwargs)
        return function(*args, **kwargs)

    # With the globals of the wrapped function: doctest collects only objects that belong to the module it reads.
    wrapper = types.FunctionType(call.__code__, function.__globals__, function.__name__, None, call.__closure__)
    return functools.update_wrapper(wrapper, function)


def _class_name(args: tuple[Any, ...], owner: str) -> str:
    """Return the name of the class that a method is called on: a subclass of `owner`, or `owner` itself."""
    cls = args[0] if args and isinstance(args[0], type) else type(args[0]) if args else object
    return cls.__name__ if any(base.__name__ == owner for base in cls.__mro__) else owner


def _refuse(owner: str, method: str, known: frozenset[str], args: tuple[Any, ...], given: dict[str, Any]) -> None:
    raise ParameterError.unknown(
        [name for name in given if name not in known],
        known - {"self", "cls"},
        "argument",
        where=f"{_class_name(args, owner)}{method}",
    )

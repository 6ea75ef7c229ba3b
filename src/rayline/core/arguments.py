"""Checks of the arguments of what is public: an unknown name raises an error with a suggestion, a value that its annotation does not
allow one that names the argument. The annotations are the only list of what is allowed, for type checkers and at run time."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import os
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar, Union, Unpack, cast, get_args, get_origin, get_type_hints

from rayline.core.errors import ParameterError, RaylineError, at, nearest

T = TypeVar("T")
Test = Callable[[Any], bool]


class ParameterCheck:
    """The values that a parameter accepts: a test, and its description for the error message."""

    def __init__(self, expected: str, test: Test, *, words: Sequence[str] = (), hint: str = "") -> None:
        self.expected, self._test, self._words, self._hint = expected, test, words, hint

    def accepts(self, value: Any) -> bool:
        """Whether a parameter may have this value. One that cannot even be compared, as a table with a word, is refused."""
        try:
            return bool(self._test(value))
        except Exception:  # whatever a foreign object raises in a comparison
            return False

    def error(self, name: str, value: Any) -> ParameterError:
        """Return the error about a value that is not accepted; its hint names a word that is spelt nearly the same."""
        near = nearest(value, self._words) if isinstance(value, str) else []
        hint = f"did you mean {near[0]!r}?" if near else self._hint
        return ParameterError.value(name, self.expected, value, hint=hint)


def check_of(annotation: Any) -> ParameterCheck | None:
    """Return the check of a parameter with this annotation; None when the annotation says nothing that can be checked. A type may
    come with a check of its own: `Annotated[float, ParameterCheck(…)]`.

    >>> check = check_of(Literal["mean", "median"] | None)
    >>> check.expected, check.accepts("median"), check.accepts("mode")
    ("one of 'mean', 'median', None", True, False)
    >>> check_of(str | Path).expected, check_of(Any)
    ('a string or a path', None)
    """
    if get_origin(annotation) is Annotated:
        return next(check for check in get_args(annotation) if isinstance(check, ParameterCheck))
    tests = _tests(annotation)
    if tests is None:
        return None
    words = [text[1:-1] for text in tests if text[0] in "\"'"]
    if len(words) + ("None" in tests) == len(tests) > 1:
        return ParameterCheck(f"one of {', '.join(tests)}", _any(tests), words=words)
    *first, last = tests
    return ParameterCheck(f"{', '.join(first)} or {last}" if first else last, _any(tests), words=words)


def _checks(kinds: Mapping[str, Any]) -> dict[str, ParameterCheck]:
    checks = ((name, check_of(annotation)) for name, annotation in kinds.items())
    return {name: check for name, check in checks if check is not None}


def _is_plain(annotation: Any) -> bool:
    """Whether all that an annotation allows are words, numbers, booleans, paths, and what comes with a check of its own. What
    is wrong with a name of a column, a list or an object, the function that reads it can say better."""
    members = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    others = [member for member in members if member not in _PLAIN and get_origin(member) not in (Literal, Annotated)]
    return all(member is str or (get_origin(member) or member) in _PATHS for member in others) and [*others] != [str]


def _any(tests: Mapping[str, Test]) -> Test:
    alternatives = [tests[text] for text in sorted(tests, key=lambda text: text != "None")]  # the usual value first
    if len(alternatives) == 1:
        return alternatives[0]

    def passes_one(value: Any) -> bool:
        for test in alternatives:  # noqa: SIM110  # a generator takes longer, and this is on the way of a single row
            if test(value):
                return True
        return False

    return passes_one


def _tests(annotation: Any) -> dict[str, Test] | None:
    """Return tests of which a value must pass one, each under its description; None when every value may be right."""
    origin, arguments = get_origin(annotation) or annotation, get_args(annotation)
    if origin is Annotated:
        check = check_of(annotation)
        return None if check is None else {check.expected: check.accepts}
    if origin is Literal:
        return {repr(value): functools.partial(_is_value, value) for value in arguments}
    if origin in (Union, types.UnionType):
        members = [_tests(member) for member in arguments if not (member is int and float in arguments)]
        return (
            None if None in members else {text: test for member in members if member for text, test in member.items()}
        )
    if origin in _SEQUENCES:
        element = check_of(arguments[0]) if arguments else None
        expected = (
            "a list" if element is None else f"a list of {_PLURAL.get(element.expected, f'({element.expected})')}"
        )
        return {expected: functools.partial(_is_sequence, element)}
    if not isinstance(origin, type) or origin in _TESTS:
        return _TESTS.get(origin)
    library = origin.__module__.partition(".")[0]
    if library in _OPEN or Protocol in origin.__bases__:
        return None
    return {f"a {library}.{origin.__name__}": lambda value: isinstance(value, origin)}


def _is_value(expected: Any, value: Any) -> bool:
    return isinstance(value, type(expected)) and bool(value == expected)


def _is_sequence(element: ParameterCheck | None, value: Any) -> bool:
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        # For a type checker a string is a sequence of strings.
        return isinstance(value, str) and element is not None and element.expected == "a string"
    return element is None or all(map(element.accepts, value))


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and bool(value == value)  # NaN is no number


def _is_bool(expected: bool, value: Any) -> bool:
    return (isinstance(value, bool) or type(value).__name__ in ("bool_", "bool")) and bool(value) is expected


_MAPPING: dict[str, Test] = {"a dict": lambda value: isinstance(value, Mapping)}

_TESTS: dict[type, dict[str, Test]] = {
    bool: {"True": functools.partial(_is_bool, True), "False": functools.partial(_is_bool, False)},
    int: {"an integer": _is_integer},
    float: {"a number": _is_number},
    str: {"a string": lambda value: isinstance(value, str)},
    Path: {"a path": lambda value: isinstance(value, os.PathLike)},
    os.PathLike: {"a path": lambda value: isinstance(value, os.PathLike)},
    type(None): {"None": lambda value: value is None},
    dict: _MAPPING,
    collections.abc.Mapping: _MAPPING,
    collections.abc.Callable: {"a function": callable},  # type: ignore[dict-item]  # a class at run time
}
"""What each type of an annotation accepts, at run time as for a type checker: NumPy's numbers count as numbers."""

_PATHS = (Path, os.PathLike)

_PLAIN = (bool, int, float, type(None))

_OPEN = ("builtins", "collections", "typing", "rayline")
"""The modules of classes that are not checked here: what is wrong with an object of ours, its function can say better."""

_SEQUENCES = (list, collections.abc.Sequence)

_PLURAL = {"a string": "strings", "an integer": "integers", "a number": "numbers", "a dict": "dicts"}


def _resolved(annotation: Any, namespace: Mapping[str, Any]) -> Any:
    """Return the type behind an annotation that stands as text; Any when one of its names exists for type checkers only."""
    try:
        return get_type_hints(
            types.SimpleNamespace(__annotations__={"it": annotation}), dict(namespace), include_extras=True
        )["it"]
    except Exception:  # whatever the expression raises: unknown names, `|` between texts, a ClassVar
        return Any


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
    """Decorate a function, or every public method of a class: unknown keyword arguments and values that the annotation of their
    parameter does not allow raise ParameterError. The keywords of `**options: Unpack[…]` are those of the TypedDict.

    Words, numbers, booleans and paths are checked before the function runs. Of other values the function's own errors say
    more; their annotations are read when it ends in an error that is not a RaylineError.

    Examples
    --------
    >>> @known_arguments
    ... def fit(data, target_columns=None, *, shuffle: bool = True): ...
    >>> fit([], target_column="late")
    Traceback (most recent call last):
    rayline.core.errors.ParameterError: core.fit: unknown argument 'target_column'.
      Expected some of ['data', 'shuffle', 'target_columns'].
      Hint: did you mean ['target_columns']?
    >>> fit([], shuffle="no")
    Traceback (most recent call last):
    rayline.core.errors.ParameterError: core.fit: shuffle has a wrong value.
      Expected True or False; got 'no'.
      Hint: change shuffle.
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
    arguments = Arguments(function, owner)
    verify, explain = arguments.verify, arguments.explain

    def call(*args: Any, **kwargs: Any) -> Any:
        verify(args, kwargs)
        try:
            return function(*args, **kwargs)
        except Exception as error:
            explain(error, args, kwargs)
            raise

    # With the globals of the wrapped function: doctest collects only objects that belong to the module it reads.
    wrapper = types.FunctionType(call.__code__, function.__globals__, function.__name__, None, call.__closure__)
    return functools.update_wrapper(wrapper, function)


class Arguments:
    """The names and the checks of the parameters of a public function, read when it is first called."""

    def __init__(self, function: types.FunctionType, owner: str) -> None:
        self.function, self.owner = function, owner
        self.checks: dict[str, ParameterCheck] | None = None
        self.plain: dict[str, ParameterCheck] = {}
        self.positional: tuple[str, ...] = ()
        self.known: frozenset[str] | None = None

    def verify(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise ParameterError for an unknown name, and for a word, a number, a boolean or a path that is not allowed. Other
        values are left to the function, which can say more about them."""
        if self.checks is None:
            self._read()
        if self.known is not None and not self.known.issuperset(kwargs):
            unknown = [name for name in kwargs if name not in self.known]
            raise ParameterError.unknown(unknown, self.known - {"self", "cls"}, "argument", where=self._where(args))
        if self.plain and (wrong := self._wrong(self.plain, args, kwargs)):
            with at(self._where(args)):
                raise wrong[0].error(*wrong[1:])

    def verify_all(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise ParameterError for any value that its annotation does not allow; unknown names are skipped."""
        if wrong := self._wrong(self._read() if self.checks is None else self.checks, args, kwargs):
            raise wrong[0].error(*wrong[1:])

    def explain(self, error: Exception, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise ParameterError for an error of another library when the annotation of an argument does not allow its value."""
        if not isinstance(error, RaylineError) and (wrong := self._wrong(self.checks or {}, args, kwargs)):
            with at(self._where(args)):
                raise wrong[0].error(*wrong[1:]) from error

    def _wrong(
        self, checks: Mapping[str, ParameterCheck], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[ParameterCheck, str, Any] | None:
        for name, value in (*zip(self.positional, args, strict=False), *kwargs.items()):
            check = checks.get(name)
            if check is not None and not check.accepts(value):
                return check, name, value
        return None

    def _read(self) -> dict[str, ParameterCheck]:
        parameters = inspect.signature(self.function).parameters.values()
        namespace = inspect.unwrap(self.function).__globals__
        named = {p.name: p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
        kinds = {name: _resolved(p.annotation, namespace) for name, p in named.items() if p.annotation is not p.empty}
        known: set[str] | None = {name for name, p in named.items() if p.kind is not p.POSITIONAL_ONLY}
        options = next((p.annotation for p in parameters if p.kind is p.VAR_KEYWORD), None)
        if options is not None:
            options = _resolved(options, namespace)
            keywords = _attribute_types(get_args(options)[0]) if get_origin(options) is Unpack else None
            known = None if keywords is None else {*named, *keywords}
            kinds |= keywords or {}
        self.known = None if known is None else frozenset(known)
        self.positional = tuple(name for name, p in named.items() if p.kind is not p.KEYWORD_ONLY)
        checks = _checks(kinds)
        self.plain = {name: check for name, check in checks.items() if _is_plain(kinds[name])}
        self.checks = checks
        return checks

    def _where(self, args: Sequence[Any]) -> str:
        """Return how a message names the function: a method with the class that it is called on."""
        method = "" if self.function.__name__ == "__init__" else f".{self.function.__name__}"
        if not self.owner:
            module = self.function.__module__
            return f"{module.split('.')[1] if '.' in module else 'core'}{method}"
        cls = args[0] if args and isinstance(args[0], type) else type(args[0]) if args else object
        return f"{cls.__name__ if any(base.__name__ == self.owner for base in cls.__mro__) else self.owner}{method}"


@functools.cache
def arguments_of(function: Any) -> Arguments:
    """Return the checks of a function that is not decorated."""
    return Arguments(function, "")


@functools.cache
def class_checks(cls: type) -> dict[str, ParameterCheck]:
    """Return the checks of the annotated attributes of a class, those of its bases included."""
    return _checks(_attribute_types(cls))


def _attribute_types(cls: type) -> dict[str, Any]:
    kinds: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        module = sys.modules.get(base.__module__)  # a class that came to a worker by value has none there
        namespace = {} if module is None else vars(module)
        annotations = inspect.get_annotations(base)
        kinds |= {name: _resolved(annotation, namespace) for name, annotation in annotations.items()}
    return kinds

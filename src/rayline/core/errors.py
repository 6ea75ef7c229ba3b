"""The error classes of Rayline. Each message has three sentences: what happened and where, expected and got, what to do."""

from __future__ import annotations

import contextlib
import difflib
import functools
import itertools
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, ParamSpec, Self, TypeVar

LONGEST = 300
"""The number of characters of a wrong value that a message shows."""

POLARS_CONTEXT = ("\n\nThis error occurred", "\n\nResolved plan")
"""How the query begins that Polars writes behind the message of an error that is raised in one of its user functions."""

P = ParamSpec("P")
R = TypeVar("R")

_PLACE: ContextVar[str] = ContextVar("place", default="")


def at(where: str) -> _Place:
    """Name the public call, or the part of one, that the errors raised in this block begin with.

    Every public function that raises sets its place once, as a block or as a decorator; the functions below it do not pass it on.
    An inner block replaces the place, and the place before it returns at its end. A generator must not yield within the block.

    Examples
    --------
    >>> from rayline.core.errors import ParameterError, at, place
    >>> @at("train.fit")
    ... def fit(rounds):
    ...     if rounds < 1:
    ...         raise ParameterError.value("rounds", "at least 1", rounds)
    ...     with at(f"{place()}: fold 2 of 5"):
    ...         raise ParameterError.here("no rows to train on.")
    >>> try:
    ...     fit(0)
    ... except ParameterError as error:
    ...     print(str(error).splitlines()[0])
    train.fit: rounds has a wrong value.
    >>> try:
    ...     fit(1)
    ... except ParameterError as error:
    ...     print(error)
    train.fit: fold 2 of 5: no rows to train on.
    """
    return _Place(where)


class _Place:
    """A block, or the calls of a decorated function. Written out: `contextmanager` takes a microsecond more a call."""

    __slots__ = ("_token", "_where")

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None:
        self._token = _PLACE.set(self._where)

    def __exit__(self, *error: object) -> None:
        _PLACE.reset(self._token)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def located(*args: P.args, **kwargs: P.kwargs) -> R:
            with _Place(self._where):
                return function(*args, **kwargs)

        return located


def place() -> str:
    """Return the place that `at` names for this code; empty outside every public call."""
    return _PLACE.get()


def carried(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function that runs at the present place, wherever it is called: in a thread, in a Ray task, or later."""
    return functools.partial(_run_at, place(), function)


def _located(what: str, where: str = "") -> str:
    where = where or place()
    return f"{where}: {what}" if where else what


def _run_at(where: str, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    with at(where):
        return function(*args, **kwargs)


class RaylineError(Exception):
    """The root of all errors that Rayline raises on purpose.

    Parameters
    ----------
    what
        What happened, and where.
    expected
        What was expected, and what was received.
    hint
        What the user can do about it.
    """

    def __init__(self, what: str, expected: str = "", hint: str = "") -> None:
        for query in POLARS_CONTEXT:  # Polars builds the error again with its longer message
            what = what.partition(query)[0]
        lines = [what]
        if expected:
            lines.append(f"  {expected}")
        if hint:
            lines.append(f"  Hint: {hint}")
        super().__init__("\n".join(lines))

    @classmethod
    def here(cls, what: str, expected: str = "", hint: str = "") -> Self:
        """Return the error with the place (see `at`) before what happened."""
        return cls(_located(what), expected, hint)

    def within(self, where: str) -> Self:
        """Return the same error with a prefix that says where it happened."""
        error = type(self).__new__(type(self))
        what = str(self)
        if what.startswith(("The ", "A ", "An ")):
            what = what[0].lower() + what[1:]
        Exception.__init__(error, f"{where}: {what}")
        return error


class SchemaError(RaylineError, ValueError):
    """A table does not have the expected columns or types."""

    @classmethod
    def missing(cls, missing: Sequence[str], present: Iterable[str], *, stage: str = "", where: str = "") -> Self:
        """Return the error for a table without columns that the public call (or one of its stages) needs."""
        present = list(present)
        needs = f"stage {stage!r} needs" if stage else "it needs"
        near = _nearest(missing, present)
        return cls(
            _located(f"{needs} {_columns(missing)}, which {'is' if len(missing) == 1 else 'are'} missing.", where),
            f"Expected every column seen in fit; got {shorten(present)}.",
            _other_form(missing, present)
            or (f"did you mean {shorten(near)}?" if near else "rename the column, or refit without it."),
        )

    @classmethod
    def absent(cls, missing: Sequence[str], present: Iterable[str], *, where: str = "") -> Self:
        """Return the error for an argument that names columns which the table does not have."""
        present = list(present)
        near = _nearest(missing, present)
        return cls(
            _located(f"{_columns(missing)} {'is' if len(missing) == 1 else 'are'} missing.", where),
            f"Expected columns of the table, which has {shorten(present)}.",
            _other_form(missing, present)
            or (f"did you mean {shorten(near)}?" if near else "check the names, and where the table comes from."),
        )

    @classmethod
    def dtype(cls, column: str, expected: Any, got: Any, *, where: str = "") -> Self:
        """Return the error for a column whose type the public call cannot use."""
        return cls(
            _located(f"column {column!r} has the wrong type.", where),
            f"Expected {expected}; got {got}.",
            f"cast {column!r} before this call, or refit on data of the new type.",
        )


class ParameterError(RaylineError, ValueError):
    """An argument has a name or a value that is not allowed."""

    @classmethod
    def unknown(cls, names: Iterable[Any], allowed: Iterable[str], noun: str = "parameter", *, where: str = "") -> Self:
        """Return the error for a parameter (or another name) that does not exist, or is not a name."""
        names, allowed = sorted(names, key=str), sorted(allowed)
        near = [m for name in names if isinstance(name, str) for m in nearest(name, allowed)]
        return cls(
            _located(f"unknown {noun}{'' if len(names) == 1 else 's'} {', '.join(map(repr, names))}.", where),
            f"Expected some of {shorten(allowed, 20)}.",
            f"did you mean {shorten(near)}?" if near else "check the spelling against the documentation.",
        )

    @classmethod
    def value(cls, name: str, expected: str, got: Any, *, where: str = "", hint: str = "") -> Self:
        """Return the error for a parameter with a value that it does not accept."""
        shown = repr(got)
        if len(shown) > LONGEST:
            shown = f"{shown[:LONGEST]}… ({type(got).__name__})"
        return cls(
            _located(f"{name} has a wrong value.", where),
            f"Expected {expected}; got {shown}.",
            hint or f"change {name}.",
        )


class NotBetterError(RaylineError, AssertionError):
    """A model is not better than another by as much as was asserted."""


class NotFittedError(RaylineError, ValueError):
    """An object was used before it was fitted."""


class DataError(RaylineError, ValueError):
    """The values of a table cannot be used: no rows, no labels, only one class, or a null where none is allowed."""


class TrainingError(RaylineError, RuntimeError):
    """Training failed in the framework or on a worker."""


class PredictionError(RaylineError, RuntimeError):
    """A framework's library failed on valid rows."""


class ResourceError(RaylineError, RuntimeError):
    """The machine or the cluster does not have the required resources."""


class ArtifactError(RaylineError, ValueError):
    """A saved file is damaged, was modified, was written by a newer version, or is not a file of Rayline."""


class ServeError(RaylineError, RuntimeError):
    """A deployment could not be created, reached or changed."""


class MissingExtraError(RaylineError, ImportError):
    """An optional library is not installed, or is installed but cannot be imported."""

    @classmethod
    def of(cls, what: str, package: str, extra: str, hint: str = "") -> Self:
        """Return the error about a package. Called while its ImportError is handled, it distinguishes a missing package from
        an installed one whose own imports fail."""
        error = sys.exc_info()[1]
        if isinstance(error, ImportError) and _is_broken(error):
            return cls(
                f"{what} needs the package {package!r}, which is installed but cannot be imported.",
                f"Expected `import` to work; got {type(error).__name__}: {' '.join(str(error).split())[:LONGEST]}",
                f"repair the installation of {package!r} and of what it needs (pip check).",
            )
        return cls(
            f"{what} needs the package {package!r}, which is not installed.",
            "",
            hint or f"pip install 'rayline[{extra}]'",
        )


@contextlib.contextmanager
def needing(what: str, package: str, extra: str, hint: str = "") -> Iterator[None]:
    """Raise MissingExtraError for an import that fails in this block; `what` is what needs the package."""
    try:
        yield
    except ImportError as error:
        raise MissingExtraError.of(what, package, extra, hint) from error


def _is_broken(error: ImportError) -> bool:
    """Whether the import failed inside the imported package, and not in Rayline's own import statement."""
    if not isinstance(error, ModuleNotFoundError):
        return True  # a module lacks a name that it should have, or a shared library does not load
    if "." in (error.name or "") and sys.modules.get(str(error.name).partition(".")[0]) is not None:
        return True  # a submodule of the package is missing
    trace = error.__traceback__
    while trace is not None:
        place = trace.tb_frame.f_globals.get("__name__", "")
        if place.partition(".")[0] not in ("rayline", "importlib", "tests", "__main__"):
            return True
        trace = trace.tb_next
    return False


def _nearest(missing: Iterable[str], present: Sequence[str]) -> list[str]:
    texts = [name for name in missing if isinstance(name, str)]  # an untyped caller may name a column by a number
    matches = (difflib.get_close_matches(name, present, n=1, cutoff=0.6) for name in texts)
    return list(dict.fromkeys(itertools.chain.from_iterable(matches)))


def nearest(name: str, allowed: Sequence[str]) -> list[str]:
    """Return the allowed name that was probably meant: the same words in another order, or nearly the same letters."""
    words = sorted(name.lower().split("_"))
    same = [other for other in allowed if sorted(other.lower().split("_")) == words]
    return same[:1] or difflib.get_close_matches(name, allowed, n=1, cutoff=0.6)


def _other_form(missing: Iterable[str], present: Iterable[str]) -> str:
    """Return a hint about a name that exists in another Unicode form, and so looks the same; empty when none does."""
    forms = {unicodedata.normalize("NFC", name): name for name in present}
    for name in (text for text in missing if isinstance(text, str)):
        other = forms.get(unicodedata.normalize("NFC", name))
        if other is not None and other != name:
            form = "NFC" if unicodedata.is_normalized("NFC", name) else "NFD"
            return f'{other!a} is the same text in another Unicode form: unicodedata.normalize("{form}", name) gives {name!a}.'
    return ""


def shorten(names: Iterable[Any], limit: int = 8) -> str:
    """Format names for a message and cut long lists: `['a', 'b', … 12 more]`."""
    names = list(names)
    shown = ", ".join(repr(name) for name in names[:limit])
    return f"[{shown}]" if len(names) <= limit else f"[{shown}, … {len(names) - limit} more]"


def first_line(error: BaseException | str, limit: int = LONGEST) -> str:
    """Return the first line of another library's error, which often goes on with its internals; cut to `limit` characters.

    >>> first_line(ValueError("no such column: x\\n\\nResolved plan until failure: ..."))
    'no such column: x'
    """
    line = str(error).strip().partition("\n")[0]
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def counted(n: int, noun: str) -> str:
    """Format a number with its noun, in the plural unless the number is one.

    >>> counted(1, "column"), counted(12000, "row"), counted(2, "class"), counted(0, "category")
    ('1 column', '12,000 rows', '2 classes', '0 categories')
    """
    if n != 1:
        if noun.endswith(("s", "x", "ch", "sh")):
            noun += "es"
        else:
            noun = f"{noun[:-1]}ies" if noun.endswith("y") and noun[-2:-1] not in "aeiou" else f"{noun}s"
    return f"{n:,} {noun}"


def _columns(names: Sequence[str]) -> str:
    return f"column {names[0]!r}" if len(names) == 1 else f"columns {shorten(names)}"

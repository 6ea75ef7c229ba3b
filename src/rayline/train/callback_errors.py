"""Errors of callbacks: name the callback that failed and where, whether it is one of Rayline or of the framework."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rayline.core.errors import RaylineError, TrainingError, first_line
from rayline.train.callbacks import Callback, Run


def failed_callback(error: BaseException, callbacks: Iterable[Any], rank: str = "") -> TrainingError | None:
    """Return the error for one that was raised in one of these callbacks; None where it was raised elsewhere.

    Parameters
    ----------
    error
        The error that a training has raised.
    callbacks
        Objects with methods, or functions.
    rank
        The rank on which it ran, as " on rank 1"; empty for the only one.
    """
    callbacks = list(callbacks)
    for frame, line in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        first = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount and code.co_filename != __file__ else None
        for callback in callbacks:
            if callback is first or getattr(callback, "__code__", None) is code:
                method = f" in {code.co_name}" if callback is first else ""
                return _error(callback, error, f"{rank}{method} ({Path(code.co_filename).name}, line {line})")
    return None


@contextlib.contextmanager
def named_errors(callback: Any) -> Iterator[None]:
    """Raise TrainingError, which names the callback, for an error that it raises in this block."""
    try:
        yield
    except RaylineError:
        raise
    except Exception as error:
        raise failed_callback(error, [callback]) or _error(callback, error, "") from error


@contextlib.contextmanager
def ended_callbacks(callbacks: Sequence[Callback], run: Run) -> Iterator[None]:
    """Call `on_end` of all callbacks after this block, also when it or one of them fails. An error of a callback is a note of the
    block's own error, if there is one."""
    try:
        yield
    except BaseException as error:
        for failure in _end(callbacks, run):
            error.add_note(str(failure))
        raise
    for failure in _end(callbacks, run):
        raise failure


def _end(callbacks: Sequence[Callback], run: Run) -> list[Exception]:
    errors: list[Exception] = []
    for callback in callbacks:
        try:
            with named_errors(callback):
                callback.on_end(run)
        except Exception as error:  # a callback may raise anything
            errors.append(error)
    return errors


def _error(callback: Any, error: BaseException, frame: str) -> TrainingError:
    name, kind = getattr(callback, "__qualname__", type(callback).__qualname__), type(error).__name__
    return TrainingError.here(
        f"the callback {name} failed{frame}: {kind}: {first_line(error)}",
        f"Expected a callback that returns; got {kind}.",
        "correct the callback, or leave it out; its own error is shown above this one.",
    )

"""Saying what a call waits for when it waits: nothing here hangs without a word."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

PATIENCE_S = 5.0
"""Seconds after which a call says what it waits for."""


def is_verbose() -> bool:
    """Whether the environment variable RAYLINE_QUIET allows lines of progress."""
    return os.environ.get("RAYLINE_QUIET", "") in ("", "0")


def _say(text: str) -> None:
    if is_verbose():
        sys.stderr.write(f"rayline  {text}\n")


_listener: ContextVar[Callable[[str], None]] = ContextVar("rayline_listener", default=_say)


@contextmanager
def told_to(listener: Callable[[str], None]) -> Iterator[None]:
    """Tell this listener, rather than the terminal, what is waited for within this context."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def patience(describe: Callable[[], str]) -> Iterator[Callable[[], None]]:
    """Say what is waited for when this context lasts longer than `PATIENCE_S`.

    Parameters
    ----------
    describe
        Called at that time, in another thread; an empty text is not said.

    Yields
    ------
    Callable
        Ends the waiting before the context ends.
    """
    listener = _listener.get()

    def say() -> None:
        text = describe()
        if text:
            listener(text)

    timer = threading.Timer(PATIENCE_S, say)
    timer.daemon = True
    timer.start()
    try:
        yield timer.cancel
    finally:
        timer.cancel()

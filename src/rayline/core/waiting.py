"""Progress messages of blocking calls: a call that waits says what it is waiting for."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

MESSAGE_DELAY_S = 5.0
"""Seconds after which a blocked call reports what it is waiting for."""


def is_verbose() -> bool:
    """Whether progress lines are printed: the environment variable RAYLINE_QUIET is unset, empty or 0."""
    return os.environ.get("RAYLINE_QUIET", "") in ("", "0")


def _say(text: str) -> None:
    if is_verbose():
        sys.stderr.write(f"rayline  {text}\n")


_listener: ContextVar[Callable[[str], None]] = ContextVar("rayline_listener", default=_say)


def say(text: str) -> None:
    """Report a message to the progress line of this step, or to the terminal unless RAYLINE_QUIET is set."""
    _listener.get()(text)


@contextmanager
def told_to(listener: Callable[[str], None]) -> Iterator[None]:
    """Send messages about waiting to this listener instead of the terminal, within this context."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def patience(describe: Callable[[], str]) -> Iterator[Callable[[], None]]:
    """Report what is being waited for when this context lasts longer than `MESSAGE_DELAY_S`.

    Parameters
    ----------
    describe
        Called at that time, in another thread, and returns the message; an empty one is not reported.

    Yields
    ------
    Callable
        Cancels the message before the context ends.
    """
    listener = _listener.get()

    def say() -> None:
        text = describe()
        if text:
            listener(text)

    timer = threading.Timer(MESSAGE_DELAY_S, say)
    timer.daemon = True
    timer.start()
    try:
        yield timer.cancel
    finally:
        timer.cancel()

"""A change of the whole process that several threads may want at the same time: environment variables, levels of loggers."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager


def shared_change(make: Callable[[], AbstractContextManager[None]]) -> Callable[[], AbstractContextManager[None]]:
    """Let many threads use a context manager that changes the process: the first makes the change, the last undoes it.

    When each saved and restored on its own, the one that came second would save what the first had changed, and leave
    that behind.

    Examples
    --------
    >>> from contextlib import contextmanager
    >>> @shared_change
    ... @contextmanager
    ... def loud():
    ...     print("on")
    ...     yield
    ...     print("off")
    >>> with loud():
    ...     with loud():
    ...         pass
    on
    off
    """
    lock, stack, users = threading.Lock(), ExitStack(), 0

    @functools.wraps(make)
    @contextmanager
    def change() -> Iterator[None]:
        nonlocal users
        with lock:
            if not users:
                stack.enter_context(make())
            users += 1
        try:
            yield
        finally:
            with lock:
                users -= 1
                if not users:
                    stack.close()

    return change

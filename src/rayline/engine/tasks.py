"""Many tasks, of which some are under way at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import ray

T = TypeVar("T")


def in_order(
    submit: Callable[..., Any], arguments: Iterable[tuple[Any, ...]], most: int, get: Callable[[Any], T]
) -> Iterator[T]:
    """Submit tasks, at most some at a time, and yield their results in the order of the arguments.

    Parameters
    ----------
    submit
        Submits a task with some arguments, and returns its reference, or its references.
    arguments
        Of each task. They are taken one after another, when there is room for the task.
    most
        How many tasks wait, run, or have results that are not yielded yet.
    get
        Waits for a task by what `submit` has returned, and returns its result. On an error the other tasks are cancelled.
    """
    under_way: deque[Any] = deque()
    try:
        for given in arguments:
            if len(under_way) >= most:
                yield get(under_way.popleft())
            under_way.append(submit(*given))
        while under_way:
            yield get(under_way.popleft())
    except BaseException:
        for made in under_way:
            ray.cancel(made[0] if isinstance(made, list) else made)
        raise

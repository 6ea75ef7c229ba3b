"""One quiet line a step, on stderr: a living one in a terminal, a plain one elsewhere, none when not wanted."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

EVERY_S = 0.1


class Line:
    """A line of progress. `part` adds what is done, `now` shows what goes on; parts stay, the rest is replaced."""

    def __init__(self, title: str, status: Any = None) -> None:
        self._title, self._status, self._parts, self._shown = title, status, list[str](), 0.0

    def part(self, text: str) -> None:
        """Add something that is done."""
        self._parts.append(text)
        self._show("")

    def now(self, text: str, below: Callable[[], Any] | None = None) -> None:
        """Show what is going on, in a terminal with something of Rich's below it; at most ten times a second."""
        if self.is_due:
            self._show(text, below)

    @property
    def is_due(self) -> bool:
        """Whether something new would be shown now."""
        return self._status is not None and time.monotonic() - self._shown > EVERY_S

    def _show(self, text: str, below: Callable[[], Any] | None = None) -> None:
        self._shown = time.monotonic()
        if self._status is not None:
            line = f"{self._title}  {' · '.join([*self._parts, *([text] if text else [])])}"
            self._status.update(line if below is None else _stacked(line, below()))

    def __str__(self) -> str:
        return f"{self._title}  {' · '.join(self._parts)}"


@contextmanager
def line(title: str, verbose: bool | None = None) -> Iterator[Line]:
    """A line of progress for one step; written when the step is done.

    Parameters
    ----------
    title
        The step's name.
    verbose
        False for none; None leaves it to the environment variable RAYLINE_QUIET.
    """
    if verbose is None:
        verbose = os.environ.get("RAYLINE_QUIET", "") in ("", "0")
    if not verbose:
        yield Line(title)
    elif sys.stderr.isatty():
        from rich.console import Console

        console = Console(stderr=True)
        with console.status(title) as status:
            made = Line(title, status)
            yield made
        console.print(str(made), highlight=False, markup=False)
    else:
        made = Line(title)
        yield made
        print(made, file=sys.stderr, flush=True)  # noqa: T201  # this is the one place that prints


def seconds(value: float) -> str:
    """A duration for people.

    >>> seconds(0.0042), seconds(0.73), seconds(83.4)
    ('4 ms', '0.7 s', '83 s')
    >>> seconds(4000.0)
    '67 min'
    """
    if value >= 600:
        return f"{value / 60:.0f} min"
    return f"{value * 1000:.0f} ms" if value < 0.1 else f"{value:.1f} s" if value < 10 else f"{value:.0f} s"


def _stacked(line: str, below: Any) -> Any:
    from rich.console import Group
    from rich.text import Text

    return Group(Text(line), below)

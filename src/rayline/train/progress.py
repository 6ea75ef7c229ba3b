"""One quiet line a step, on stderr: a living one in a terminal, a plain one elsewhere, none when not wanted."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rayline.core import waiting

EVERY_S = 0.1


class ProgressLine:
    """A line of progress. `part` adds what is done, `now` shows what goes on; parts stay, the rest is replaced."""

    def __init__(self, title: str, live: Any = None, *, plain: bool = False) -> None:
        self._title, self._live, self._parts, self._shown = title, live, list[str](), 0.0
        self._plain = plain  # no terminal, but somebody reads it
        self._waits_for = ""  # the last thing that was written about it
        self._spinner: Any = None

    def part(self, text: str) -> None:
        """Add something that is done."""
        self._parts.append(text)
        self._show("")

    def now(self, text: str, below: Callable[[], Any] | None = None) -> None:
        """Show what is going on, in a terminal with something of Rich's below it; at most ten times a second."""
        if self.is_due:
            self._show(text, below)

    def wait(self, text: str) -> None:
        """Say what is waited for: in a terminal in the line, elsewhere in a line of its own, when it is news."""
        self._show(text)
        if self._plain and text != self._waits_for:
            self._waits_for = text
            print(f"{self._title}  {text}", file=sys.stderr, flush=True)  # noqa: T201  # as in `line`

    @property
    def is_due(self) -> bool:
        """Whether something new would be shown now."""
        return self._live is not None and time.monotonic() - self._shown > EVERY_S

    def _show(self, text: str, below: Callable[[], Any] | None = None) -> None:
        self._shown = time.monotonic()
        if self._live is not None:
            line = f"{self._title}  {' · '.join([*self._parts, *([text] if text else [])])}"
            self._live.update(self._rendered(line, below))

    def _rendered(self, text: str, below: Callable[[], Any] | None) -> Any:
        """Return a line that is cut where the terminal ends, behind something that turns, and what is below it."""
        from rich.console import Group
        from rich.spinner import Spinner
        from rich.table import Table
        from rich.text import Text

        self._spinner = self._spinner or Spinner("dots")
        line = Table.grid(padding=(0, 1))
        line.add_column(no_wrap=True, min_width=1)
        line.add_column(no_wrap=True, overflow="ellipsis")
        line.add_row(self._spinner, Text(text))
        return line if below is None else Group(line, below())

    def __str__(self) -> str:
        return f"{self._title}  {' · '.join(self._parts)}"


@contextmanager
def line(title: str, verbose: bool | None = None) -> Iterator[ProgressLine]:
    """Return a line of progress for one step; written when the step is done.

    Parameters
    ----------
    title
        The step's name.
    verbose
        False for none; None leaves it to the environment variable RAYLINE_QUIET.
    """
    if not (waiting.is_verbose() if verbose is None else verbose):
        with waiting.told_to(lambda text: None):
            yield ProgressLine(title)
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True)
        with Live(console=console, transient=True, refresh_per_second=10) as live, _logs_above():
            progress = ProgressLine(title, live)
            progress.now("")
            with waiting.told_to(progress.wait):
                yield progress
        console.print(str(progress), highlight=False, markup=False)
    else:
        progress = ProgressLine(title, plain=True)
        with waiting.told_to(progress.wait):
            yield progress
        print(progress, file=sys.stderr, flush=True)  # noqa: T201  # this is the one place that prints


@contextmanager
def hushed(verbose: bool | None) -> Iterator[None]:
    """Before the line of a step begins: what is waited for is not said when `verbose` is False."""
    with contextlib.nullcontext() if verbose is not False else waiting.told_to(lambda text: None):
        yield


def seconds(value: float) -> str:
    """Return a duration for people.

    >>> seconds(0.0042), seconds(0.73), seconds(83.4)
    ('4 ms', '0.7 s', '83 s')
    >>> seconds(4000.0)
    '67 min'
    """
    if value >= 600:
        return f"{value / 60:.0f} min"
    return f"{value * 1000:.0f} ms" if value < 0.1 else f"{value:.1f} s" if value < 10 else f"{value:.0f} s"


def left(done: int, total: int | None, since: int, elapsed_s: float) -> str:
    """Return how far something is, and how long it still takes, when it is so long since fewer were done.

    >>> left(20, 100, 10, 5.0), left(20, None, 10, 5.0), left(100, 100, 10, 5.0)
    ('20/100, about 40 s left', '20', '100/100')
    """
    if not total or done > total:
        return f"{done}"
    if done == total or done <= since:
        return f"{done}/{total}"
    return f"{done}/{total}, about {seconds(elapsed_s / (done - since) * (total - done))} left"


@contextlib.contextmanager
def _logs_above() -> Iterator[None]:
    """Handlers of `logging` that were made before hold the terminal itself; while a line lives they write above it."""
    loggers = [
        logging.getLogger(),
        *(entry for entry in logging.root.manager.loggerDict.values() if isinstance(entry, logging.Logger)),
    ]
    handlers = {handler for logger in loggers for handler in logger.handlers if type(handler) is logging.StreamHandler}
    proxies = {getattr(proxy, "rich_proxied_file", proxy): proxy for proxy in (sys.stderr, sys.stdout)}
    redirected = [(handler, handler.stream) for handler in handlers if handler.stream in proxies]
    for handler, stream in redirected:
        handler.setStream(proxies[stream])
    try:
        yield
    finally:
        for handler, stream in redirected:
            handler.setStream(stream)

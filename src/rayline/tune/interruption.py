"""Ctrl-C and SIGTERM during a search: heard, kept until the trials are put away, and raised again."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Interruption:
    """Whether the user wants the search to end (Ctrl-C), or the machine does (SIGTERM).

    The first such signal is kept until the search has put its trials away; a second one ends it at once. Signals come in
    the main thread only: elsewhere nothing is changed.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Hear signals meanwhile, and leave the process's own handlers as they were."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        names = [signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else [])]
        before = {name: signal.getsignal(name) for name in names}

        def stop(number: int, _: object) -> None:
            self.signal = number
            signal.signal(number, before[signal.Signals(number)] or signal.SIG_DFL)

        try:
            for name in (signal.SIGINT, signal.SIGTERM):
                signal.signal(name, stop)
            yield
        finally:
            for name, handler in before.items():  # Ray Tune has put its own there for SIGUSR1
                if handler is not None:
                    signal.signal(name, handler)

    def raise_again(self, message: str) -> None:
        """Raise what the signal stands for: KeyboardInterrupt, or SystemExit."""
        if self.signal == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt(message)

"""Handling of Ctrl-C and SIGTERM during a search: the signal is stored, the trials are shut down, then it is raised again."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Interruption:
    """A stored signal: Ctrl-C of the user, or SIGTERM.

    The first signal is stored until the search has shut down its trials; a second one ends it at once. Signals are only
    delivered to the main thread: in other threads no handler is installed.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Store signals inside the block, and restore the process's own handlers afterwards."""
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
            for name, handler in before.items():  # Ray Tune installs its own handler for SIGUSR1
                if handler is not None:
                    signal.signal(name, handler)

    def raise_again(self, message: str) -> None:
        """Raise the exception of the signal: KeyboardInterrupt or SystemExit."""
        if self.signal == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt(message)

"""Ray Tune kept quiet while a search runs, and the process as it was afterwards."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rayline import compat
from rayline.core.shared_change import shared_change

VARIABLES = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # it would end the search as if it were complete (see `interruption`)
}

LOGGERS = {
    "ray.tune": logging.CRITICAL,
    "ray.train": logging.CRITICAL,
    "ray.air": logging.CRITICAL,
    "optuna": logging.WARNING,
}


@shared_change
@contextmanager
def quiet() -> Iterator[None]:
    """Ray Tune writes neither tables nor logs nor result files meanwhile, and does not import every tracker that is
    installed (wandb and MLflow take more than a second) only to count whose callbacks these are."""
    before = {name: os.environ.get(name) for name in VARIABLES}
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    os.environ.update(VARIABLES)
    for name, level in LOGGERS.items():
        logging.getLogger(name).setLevel(level)
    try:
        with compat.without_tracker_imports():
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


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

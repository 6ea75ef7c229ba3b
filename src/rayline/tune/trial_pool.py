"""The contract of what runs the folds of trials: threads of this process, or actors of Ray."""

from __future__ import annotations

from typing import Any, Protocol

TICK_S = 0.1
"""The interval at which the caller's thread checks for a signal or the end of the time budget."""


class TrialPool(Protocol):
    """Slots that run the functions of `executor.trial_functions`, each one call after another.

    Attributes
    ----------
    idle
        The numbers of the slots without a call, ascending.
    n_busy
        The number of slots with a call.
    is_starting
        Whether some slot is neither idle nor busy.
    """

    idle: list[int]

    @property
    def n_busy(self) -> int: ...
    @property
    def is_starting(self) -> bool: ...

    def submit(self, number: int, key: Any, name: str, /, *arguments: Any) -> None:
        """Call a function in an idle slot."""

    def wait(self, timeout_s: float, /) -> tuple[int, Any, Any, Any] | None:
        """Return a finished call: the number of its slot, its key, its report (an exception if it failed) and its state; None after
        this time at the latest."""

    def fetch(self, state: Any, /) -> Any:
        """Return a state as a value of this process."""

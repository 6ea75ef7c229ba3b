"""A server that is asked for more than it can do: it refuses the rest, does nearly as much as before, and recovers."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from bench.load import Load, measure
from bench.report import Comparison, Section

CONNECTIONS = 1024
CLIENTS = 64
"""Connections that ask again at once, to find out what a server can do."""


@dataclass(frozen=True)
class Overload:
    """What happened at 0.7 times the capacity, at twice the capacity, and 5 to 10 seconds after that."""

    capacity: float
    usual: Load
    twice: Load
    after: Load

    @property
    def problems(self) -> list[str]:
        """What a client would call broken."""
        found = []
        if self.usual.failed or self.usual.unsent:
            found.append(f"at 0.7 × capacity: {self.usual.statuses}, {self.usual.unsent} unsent")
        if not set(self.twice.statuses) <= {"200", "503"}:
            found.append(f"at 2 × capacity: {self.twice.statuses}")
        if self.twice.retry_after < self.twice.statuses.get("503", 0):
            found.append("a 503 without Retry-After")
        if self.after.failed:
            found.append(f"afterwards: {self.after.statuses}")
        return found


def overload(port: int, request: bytes, *, seconds: float, capacity_seconds: float = 5.0) -> Overload:
    """Put a server under each load for so many seconds."""
    measure(port, request, clients=CLIENTS, seconds=1)
    capacity = statistics.median(
        measure(port, request, clients=CLIENTS, seconds=capacity_seconds).rate for _ in range(3)
    )
    usual = measure(port, request, clients=CONNECTIONS, seconds=seconds, rate=0.7 * capacity)
    twice = measure(port, request, clients=CONNECTIONS, seconds=seconds, rate=2.0 * capacity)
    time.sleep(5)
    after = measure(port, request, clients=CONNECTIONS, seconds=5, rate=0.7 * capacity)
    return Overload(capacity, usual, twice, after)


def add_overload(section: Section, where: str, run: Callable[[], Overload]) -> Overload:
    """The lines of one server on the page."""
    found = run()
    usual, twice, after = found.usual, found.twice, found.after
    refused = twice.statuses.get("503", 0) / max(sum(twice.statuses.values()), 1)
    broken = twice.failed - twice.statuses.get("503", 0)
    section.add(
        Comparison(f"{where}, 0.7 × capacity: answered with 200 ({usual.failed} failed)", [usual.rate], "asked", [usual.asked], 1.0, "1/s", more_is_better=True),
        Comparison(f"{where}, 2 × capacity: answered with 200 ({refused:.0%} refused with 503, {broken} broken)", [twice.rate], "capacity", [found.capacity], 0.8, "1/s", more_is_better=True),
        Comparison(f"{where}, 2 × capacity: asked", [twice.asked], "capacity", [found.capacity], None, "1/s", more_is_better=True),
        Comparison(f"{where}, 5–10 s later: p99", [after.p99_s], "p99 before", [usual.p99_s], 1.5),
    )  # fmt: skip
    return found

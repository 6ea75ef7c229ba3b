"""What a measurement is, how it is taken, and how it is shown: a table here and a page in docs/."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import platform
import re
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from rich.console import Console
from rich.table import Table

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"

INTRODUCTION = """# Benchmarks

Written by `make bench`, exactly as measured, the losing lines too. The two sides of a line were measured in one run,
in turn, on the same data; each number is the median of the runs, and the ratio is the first divided by the second.

A ratio is less noisy than a time, and not free of noise. The same programs measured, on another machine of the same size, 2.26 instead of 2.57 for
the fit of five folds, 1.45 instead of 1.81 for the fit from files, 1.56 instead of 1.68 for the transform on Ray, and 7.4 µs instead of 12.7 µs for one row.
"""


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    rows: int = 5_000_000
    repeats: int = 3
    full: bool = False  # repeat what takes minutes, and measure what needs much memory or disk
    only: Sequence[str] = ()  # some parts of a program; all when empty

    def small(self, rows: int) -> int:
        """`rows` of another measurement, shrunk in the same proportion as the main table."""
        return max(200, min(rows, rows * self.rows // 5_000_000)) if self.rows < 5_000_000 else rows


@dataclass(frozen=True)
class Comparison:
    """One line: Rayline against something else."""

    what: str
    ours: Sequence[float]
    other_name: str
    other: Sequence[float]
    goal: float | None = None
    """What the ratio is to stay below (above, when more is better)."""
    unit: str = "s"
    more_is_better: bool = False

    @property
    def ratio(self) -> float:
        return statistics.median(self.ours) / statistics.median(self.other)

    @property
    def verdict(self) -> str:
        if self.goal is None:
            return ""
        reached = self.ratio >= self.goal if self.more_is_better else self.ratio <= self.goal
        return f"{'≥' if self.more_is_better else '≤'} {self.goal:g} {'reached' if reached else 'MISSED'}"

    def cells(self) -> list[str]:
        """The line as it is shown: what, Rayline, the other one, its value, ratio, goal, number of runs."""
        runs = f"{len(self.ours)}" if len(self.ours) == len(self.other) else f"{len(self.ours)}, {len(self.other)}"
        return [
            self.what,
            _number(statistics.median(self.ours), self.unit),
            self.other_name,
            _number(statistics.median(self.other), self.unit),
            f"{self.ratio:.3g}",
            self.verdict,
            runs,
        ]


HEADINGS = ["what", "Rayline", "compared with", "", "ratio", "goal", "runs"]


@dataclass
class Section:
    """The comparisons of one program, with a sentence on the data."""

    title: str
    about: str
    packages: Sequence[str] = ()
    comparisons: list[Comparison] = field(default_factory=list)

    def add(self, *comparisons: Comparison) -> None:
        self.comparisons += comparisons

    def show(self, console: Console) -> None:
        """Print it as a table."""
        table = Table(title=self.title, caption=self.about, title_justify="left", caption_justify="left")
        for i, heading in enumerate(HEADINGS):
            table.add_column(heading, justify="right" if i in (1, 3, 4, 6) else "left", overflow="fold")
        for comparison in self.comparisons:
            table.add_row(*comparison.cells())
        console.print(table)

    def markdown(self) -> str:
        """The same for the page, with when and where."""
        versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("rayline", "polars", *self.packages))
        lines = [
            f"## {self.title}",
            "",
            self.about,
            "",
            f"Measured {dt.datetime.now(dt.UTC):%Y-%m-%d} on {machine()}; {versions}.",
            "",
            "| " + " | ".join(HEADINGS) + " |",
            "|---|---:|---|---:|---:|---|---:|",
            *("| " + " | ".join(comparison.cells()) + " |" for comparison in self.comparisons),
        ]
        return "\n".join(lines) + "\n"


def alternate(
    ours: Callable[[], object], other: Callable[[], object], *, repeats: int, other_repeats: int | None = None
) -> tuple[list[float], list[float]]:
    """Seconds of both, run in turn so that a busy machine slows both alike; the other one maybe fewer times."""
    mine, theirs = [], []
    for i in range(repeats):
        mine.append(seconds(ours))
        if i < (repeats if other_repeats is None else other_repeats):
            theirs.append(seconds(other))
    return mine, theirs


def seconds(work: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def note(text: str) -> None:
    """Print the progress to stderr, separate from the tables."""
    print(f"{dt.datetime.now(dt.UTC):%H:%M:%S} {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def deadline(timeout_s: float) -> Iterator[None]:
    """End a longer block with a TimeoutError, so that no measurement waits forever for the processes of another one."""

    def late(*_: object) -> None:
        raise TimeoutError(f"It took more than {timeout_s:g} s.")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def write(sections: Sequence[Section], page: Path = PAGE) -> None:
    """Put the sections on the page in place of their former selves; other sections stay."""
    old = page.read_text(encoding="utf-8") if page.exists() else ""
    kept = {part.partition("\n")[0]: part for part in re.split(r"^## ", old, flags=re.MULTILINE)[1:]}
    kept |= {section.title: section.markdown().removeprefix("## ") for section in sections}
    parts = [INTRODUCTION, *(f"## {kept[title].strip()}\n" for title in sorted(kept))]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(parts), encoding="utf-8")


def machine() -> str:
    """Processor count, memory, system and Python."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, {memory_gib:.0f} GiB, {platform.system()} {platform.machine()}, Python {platform.python_version()}"


def _number(value: float, unit: str) -> str:
    if unit == "s" and value < 0.01:
        return f"{value * 1e6:.3g} µs" if value < 1e-3 else f"{value * 1e3:.3g} ms"
    return f"{value:,.0f} {unit}" if value >= 1000 else f"{value:.3g} {unit}"

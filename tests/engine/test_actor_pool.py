"""Actors that run calls: replaced when they die, kept for the next pool, and without anything left behind.

Covers `engine.pool_actor` too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from rayline.core import registry
from rayline.core.errors import DataError, TrainingError
from rayline.engine.actor_pool import DEATHS, KEPT_ACTORS

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


class Doubling:
    """Doubles numbers, and says in which process."""

    def __init__(self, opens: str = "") -> None:
        self.opens = opens

    @contextlib.contextmanager
    def opened(self) -> Iterator[Mapping[str, Callable[..., tuple[Any, Any]]]]:
        if self.opens:
            raise DataError(self.opens)
        yield {"double": self.double, "die": self.die, "fail": self.fail}

    def double(self, x: int) -> tuple[tuple[int, int], list[int]]:
        return (2 * x, os.getpid()), [x]

    def die(self, once: str) -> tuple[str, None]:
        if once and Path(once).exists():
            return "alive", None
        Path(once or os.devnull).touch()
        os.kill(os.getpid(), signal.SIGKILL)
        return "dead", None

    def fail(self) -> tuple[str, None]:
        raise ZeroDivisionError("by zero")


@contextlib.contextmanager
def pool(n: int = 2, work: Any = None, *, keep: bool = True, **options: Any) -> Iterator[Any]:
    """A pool of small actors, without those that an earlier test has kept."""
    made = registry.engine("ray").pool(n, [{"CPU": 1.0}], work or Doubling(), name="a test", **options)
    try:
        yield made
    finally:
        made.close(keep=keep)


def results(made: Any, calls: list[tuple[Any, ...]]) -> dict[Any, Any]:
    """The report and the state of each call, which is a key, a name and arguments."""
    found: dict[Any, Any] = {}
    waiting, until = [*calls], time.monotonic() + 100
    while len(found) < len(calls):
        assert time.monotonic() < until
        while made.idle and waiting:
            made.submit(made.idle[0], *waiting.pop(0))
        done = made.wait(0.1)
        if done is not None:
            _, key, report, state = done
            found[key] = report, state
    return found


def all_free(ray: Any) -> bool:
    until = time.monotonic() + 20
    while ray.available_resources().get("CPU") != 2.0 and time.monotonic() < until:
        time.sleep(0.1)
    groups = ray.util.placement_group_table().values()
    return bool(ray.available_resources().get("CPU") == 2.0) and all(g["state"] == "REMOVED" for g in groups)


def test_calls_run_and_processes_are_kept(ray_session: Any) -> None:
    processes: list[set[int]] = []
    for reuse in ("one", "one", "other", None):
        with pool(reuse=reuse) as made:
            assert made.is_starting
            found = results(made, [(x, "double", x) for x in range(6)])
            assert [found[x][0][0] for x in range(6)] == [0, 2, 4, 6, 8, 10]
            assert made.fetch(found[3][1]) == [3]
            assert made.n_busy == 0
            processes.append({report[1] for report, _ in found.values()})
        assert all_free(ray_session)  # kept processes hold nothing
    assert processes[0] & processes[1]  # one of two may have done all the work
    assert not processes[0] & processes[2]
    assert not processes[2] & processes[3]


def test_nothing_is_kept_where_the_user_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYLINE_KEEP_WORKERS_S", "0")
    with pool(1, reuse="nothing") as made:
        first = results(made, [(0, "double", 0)])
    with pool(1, reuse="nothing") as made:
        assert results(made, [(0, "double", 0)])[0][0] != first[0][0]


def test_a_kept_process_that_has_died_is_replaced() -> None:
    with pool(1, reuse="mortal") as made:
        (_, process), _ = results(made, [(0, "double", 0)])[0]
    os.kill(process, signal.SIGKILL)
    with pool(1, reuse="mortal") as made:
        (value, other), _ = results(made, [(0, "double", 4)])[0]
    assert value == 8
    assert other != process


def test_a_call_is_repeated_after_the_death_of_its_process(tmp_path: Path, ray_session: Any) -> None:
    with pool(1, reuse="mortal", keep=False) as made:
        found = results(made, [("once", "die", str(tmp_path / "died")), ("always", "die", ""), ("after", "double", 5)])
    assert found["once"][0] == "alive"
    assert isinstance(found["always"][0], TrainingError)
    assert f"the process of the trial died {DEATHS + 1} times" in str(found["always"][0])
    assert found["after"][0][0] == 10
    assert all_free(ray_session)


def test_errors_of_calls_and_of_the_work(ray_session: Any) -> None:
    with pool(1) as made:
        assert isinstance(results(made, [(0, "fail")])[0][0], ZeroDivisionError)
    with pytest.raises(DataError, match="no such rows"), pool(1, Doubling("no such rows")) as made:
        results(made, [(0, "double", 0)])
    assert all_free(ray_session)


def test_processes_of_another_ray_are_forgotten(ray_session: Any) -> None:
    with pool(1, reuse="forgotten") as made:
        results(made, [(0, "double", 0)])
    (kept,) = (kept for kept in KEPT_ACTORS._kept if kept.key.reuse == "forgotten")
    KEPT_ACTORS.take(kept.key._replace(session="another"))
    assert KEPT_ACTORS.take(kept.key) is None
    ray_session.kill(kept.actor)

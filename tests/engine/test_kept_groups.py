"""Workers are kept for the next training unless other work needs resources: the same processes, without resources or leftovers.

Covers `engine.idle_worker` too.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import rayline as rl
from rayline.core import registry
from rayline.core.errors import ParameterError, TrainingError
from rayline.engine import idle_worker
from rayline.engine.idle_worker import KEEP_S, SETTING, IdleWorker, keep_s, modules_changed
from rayline.engine.kept_groups import KEPT
from tests.engine.test_workers import TABLE, encode, gone, script, seen

ray_only = pytest.mark.ray


# -- an idle worker --------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle_worker, "LOOK_S", 0.01)


def test_an_idle_worker_leaves_after_its_time(quick: None) -> None:
    left = threading.Event()
    worker = IdleWorker(left.set)
    worker.rest(0, 0.05, looks=False)
    assert left.wait(5)
    assert not worker.wake(1)  # too late


def test_an_idle_worker_that_is_woken_stays(quick: None) -> None:
    left = threading.Event()
    worker = IdleWorker(left.set)
    worker.rest(0, 0.2, looks=False)
    assert worker.wake(1)
    worker.rest(0, 0.01, looks=False)  # overtaken by the call that woke it
    assert not left.wait(0.4)
    worker.rest(1, 0.01, looks=False)
    assert left.wait(5)


@pytest.mark.parametrize(("looks", "wanted"), [(True, True), (True, False), (False, True)])
def test_only_the_rank_that_looks_leaves_when_others_wait(
    quick: None, monkeypatch: pytest.MonkeyPatch, looks: bool, wanted: bool
) -> None:
    monkeypatch.setattr(idle_worker, "has_unmet_demand", lambda: wanted)
    left = threading.Event()
    worker = IdleWorker(left.set)
    worker.rest(0, 600.0, looks=looks)
    assert left.wait(5.0 if looks and wanted else 0.5) == (looks and wanted)
    assert worker.wake(1) != (looks and wanted)


def test_an_idle_worker_tidies_once_and_not_between_two_runs(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    tidied: list[float] = []
    monkeypatch.setattr(idle_worker, "TIDY_S", 0.1)
    monkeypatch.setattr(idle_worker, "LOOK_S", 0.5)
    worker = IdleWorker(lambda: None, lambda: tidied.append(time.monotonic()))
    worker.rest(0, 60.0, looks=False)
    assert worker.wake(1)
    time.sleep(0.3)
    assert not tidied
    begun = time.monotonic()
    worker.rest(1, 60.0, looks=False)
    time.sleep(1.0)
    assert worker.wake(2)
    assert len(tidied) == 1
    assert tidied[0] - begun < 0.4


def test_a_moment_of_demand_is_no_wait(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = iter([True, False] * 1000)
    monkeypatch.setattr(idle_worker, "has_unmet_demand", lambda: next(asked))
    left = threading.Event()
    worker = IdleWorker(left.set)
    worker.rest(0, 600.0, looks=True)
    assert not left.wait(0.5)
    assert worker.wake(1)


def test_a_module_that_was_edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "edited.py"
    path.touch()
    module = types.ModuleType("edited")
    module.__file__ = str(path)
    monkeypatch.setitem(sys.modules, "edited", module)
    os.utime(path, (1.0, 1.0))
    assert not modules_changed(time.time() + 1)
    os.utime(path, (time.time() + 9, time.time() + 9))
    assert modules_changed(time.time() + 1)
    path.unlink()
    assert not modules_changed(time.time() + 1)


def test_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SETTING, raising=False)
    assert keep_s() == KEEP_S
    for text, seconds in (("0", 0.0), ("2.5", 2.5), ("", KEEP_S)):
        monkeypatch.setenv(SETTING, text)
        assert keep_s() == seconds
    for text in ("no", "-1", "inf", "nan"):
        monkeypatch.setenv(SETTING, text)
        with pytest.raises(ParameterError, match=SETTING):
            keep_s()


# -- groups ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def engine(ray_session: Any) -> Iterator[Any]:
    yield registry.engine("ray")
    kept = KEPT._swap(None)
    if kept is not None:
        kept[1].end()


def pids(made: Any) -> list[int]:
    return [one["pid"] for one in made]


@ray_only
def test_the_next_training_has_the_same_workers(engine: Any, ray_session: Any) -> None:
    train = functools.partial(engine.train, seen, prepare=encode, reuse="a")
    first, again = (train(num_workers=2, train=TABLE[i:]) for i in (0, 1))
    assert pids(first) == pids(again)
    assert [s["train"].height for s in again] == [50, 50]
    assert first[0]["peers"] != again[0]["peers"]  # ports of their own
    deadline = time.monotonic() + 20
    while ray_session.available_resources().get("CPU") != 2:  # nothing is held meanwhile
        assert time.monotonic() < deadline
        time.sleep(0.1)
    one = train(num_workers=1, train=TABLE)
    assert all(map(gone, pids(first)))  # another plan, other workers
    other = engine.train(seen, num_workers=1, train=TABLE, reuse="b")
    assert all(map(gone, pids(one)))  # another framework
    own = engine.train(seen, num_workers=1, train=TABLE)
    assert all(map(gone, pids(own)))  # not kept,
    assert pids(engine.train(seen, num_workers=1, train=TABLE, reuse="b")) == pids(
        other
    )  # and nothing to those that are


@ray_only
def test_workers_of_a_training_that_failed_are_not_kept(engine: Any) -> None:
    train = functools.partial(engine.train, num_workers=1, train=TABLE, reuse="a")
    first = pids(train(seen))
    with pytest.raises(TrainingError, match="ZeroDivisionError"):
        train(_fails)
    assert gone(first[0])
    first = pids(train(seen))
    with pytest.raises(TrainingError, match="was lost"):
        train(_dies)
    first = pids(train(seen))
    os.kill(first[0], signal.SIGKILL)
    assert gone(first[0])
    again = pids(train(seen))  # others come for those that died meanwhile
    with pytest.raises(KeyboardInterrupt):
        train(_counts, on_report=_interrupt)
    assert gone(again[0])


def _fails(worker: Any) -> None:
    raise ZeroDivisionError


def _dies(worker: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _counts(worker: Any) -> tuple[int, int]:
    return next((i for i in range(1000) if worker.report(i, {}) or time.sleep(0.02)), 1000), os.getpid()


def _interrupt(iteration: int, metrics: Any) -> bool:
    raise KeyboardInterrupt


@ray_only
def test_an_order_to_stop_does_not_reach_the_next_training(engine: Any) -> None:
    def count(stop: bool) -> Any:
        heard: list[int] = []
        return engine.train(
            _counts, num_workers=1, train=TABLE, on_report=lambda i, m: bool(heard.append(i)) or (stop and i == 2), reuse="a"
        )[0]  # fmt: skip

    n, pid = count(stop=True)
    assert n < 999
    assert _n_of(engine, pid) == (10, pid)


def _n_of(engine: Any, pid: int) -> Any:
    return engine.train(_ten, num_workers=1, train=TABLE, reuse="a")[0]


def _ten(worker: Any) -> tuple[int, int]:
    stopped = [i for i in range(10) if worker.report(i, {})]
    return 10 - len(stopped), os.getpid()


@ray_only
def test_kept_workers_leave_after_their_time(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING, "1")
    first = engine.train(seen, num_workers=2, train=TABLE, reuse="a")
    assert all(map(gone, pids(first)))
    assert len(engine.train(seen, num_workers=2, train=TABLE, reuse="a")) == 2
    monkeypatch.setenv(SETTING, "0")
    none = engine.train(seen, num_workers=2, train=TABLE, reuse="a")
    assert all(map(gone, pids(none)))


@ray_only
def test_kept_workers_leave_when_others_wait(engine: Any, ray_session: Any) -> None:
    first = engine.train(seen, num_workers=2, train=TABLE, reuse="a")
    waits = ray_session.util.placement_group([{"CPU": 1.0}] * 3)  # more than there are
    try:
        assert all(map(gone, pids(first)))
    finally:
        ray_session.util.remove_placement_group(waits)


@ray_only
def test_workers_keep_what_they_hold_until_it_is_needed(engine: Any, ray_session: Any) -> None:
    train = functools.partial(engine.train, seen, num_workers=1, train=TABLE, reuse="a")
    first = train(resources_per_worker={"memory": 1e9})
    assert pids(train(resources_per_worker={"memory": 1e9})) == pids(first)
    KEPT.release({"CPU": 1.0, "memory": 0.0})
    assert pids(train(resources_per_worker={"memory": 1e9})) == pids(first)
    KEPT.release({"memory": 1.0})
    assert all(map(gone, pids(first)))
    second = train(resources_per_worker={"memory": 1e9})
    waits = ray_session.util.placement_group([{"memory": ray_session.cluster_resources()["memory"] - 1e8}])
    try:
        assert waits.wait(20)
        assert all(map(gone, pids(second)))
    finally:
        ray_session.util.remove_placement_group(waits)


GPUS = """
import os
import ray
from rayline.core import registry
from rayline.engine.kept_groups import KEPT
from tests.engine.test_workers import TABLE

ray.init("local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
engine = registry.engine("ray")


def where(worker):
    return os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"]


def train(n):
    return sorted(engine.train(where, num_workers=n, train=TABLE, use_gpu=True, reuse="a"))


two = train(2)
assert sorted(gpu for _, gpu in two) == ["0", "1"], two
assert train(2) == two, "other workers, or other GPUs"
assert [process for process, _ in train(1)] not in [[process] for process, _ in two]  # one of another size: the two have ended
two = train(2)


@ray.remote(num_gpus=2)
def waits():
    return os.getpid()


assert ray.get(waits.remote(), timeout=60)  # the two have ended
placed = train(2)
KEPT.release({"GPU": 1.0})
assert ray.get(waits.remote(), timeout=10)
ray.shutdown()
"""


@ray_only
@pytest.mark.slow
def test_workers_with_gpus_are_kept_until_others_wait(tmp_path: Path) -> None:
    script(GPUS, tmp_path)


@ray_only
def test_workers_start_while_the_rows_are_looked_at(engine: Any) -> None:
    train = functools.partial(engine.train, seen, num_workers=1, train=TABLE, reuse="a")
    start = functools.partial(engine.starting, functools.partial(os.getpid), num_workers=1, reuse="a")
    with start():
        first = train()
        with start():
            pass  # a training that was not needed
    assert pids(train()) == pids(first)
    with pytest.raises(ZeroDivisionError), start():
        raise ZeroDivisionError
    assert all(map(gone, pids(first)))
    with start(), contextlib.suppress(RuntimeError), start():  # of another thread
        raise RuntimeError
    assert len(train()) == 1


@ray_only
def test_kept_workers_hold_no_rows(engine: Any) -> None:
    rows = pl.DataFrame({f"x{i}": np.random.default_rng(i).normal(size=1_000_000) for i in range(8)})
    before, pid = engine.train(_private_mb, num_workers=1, train=rows.head(10), reuse="a")[0]
    engine.train(_private_mb, num_workers=1, train=rows, reuse="a")
    time.sleep(0.5)
    after, same = engine.train(_private_mb, num_workers=1, train=rows.head(10), reuse="a")[0]
    assert same == pid
    assert after - before < 32  # the rows are 64 MB


def _private_mb(worker: Any) -> tuple[float, int]:
    """The private memory of this process at the beginning; then it makes an array of the rows, and keeps none."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            found = int(line.split()[1]) / 1000
    worker.held = [np.ascontiguousarray(block().to_numpy()) + 1.0 for block in worker.train]
    return found, os.getpid()


@ray_only
@pytest.mark.slow
def test_nothing_is_left_of_a_driver_that_ends_and_another_ray_has_other_workers(tmp_path: Path) -> None:
    code = (
        "import ray; from rayline.core import registry; from tests.engine.test_workers import TABLE, seen\n"
        "def go():\n"
        "    return [s['pid'] for s in registry.engine('ray').train(seen, num_workers=1, train=TABLE, reuse='a')]\n"
        "def up(): ray.init('local', num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level='ERROR')\n"
        "up(); first = go(); assert go() == first\n"
        "ray.shutdown(); up(); second = go(); assert go() == second != first\n"
        "print(*first, *second)\n"
    )
    root = Path(rl.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert all(gone(int(pid)) for pid in done.stdout.split())

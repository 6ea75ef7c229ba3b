"""Drivers on a cluster that is there already: several at once, in threads, in tasks and actors, on a node without CPUs, interrupted and killed.
Whatever happens to one, nothing of it is left, and the others go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_cluster import run

pytestmark = [pytest.mark.ray, pytest.mark.slow]

BEGIN = """
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from tests import driver_steps
from tests.driver_steps import *

folder = Path(sys.argv[1])
os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
ray.cloudpickle.register_pickle_by_value(driver_steps)
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
cluster.add_node(num_cpus=2)
try:
    ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
"""

END = """
    until_in_use([])
finally:
    ray.shutdown()
    cluster.shutdown()
"""

PATH = """
    path(folder)
"""

AT_ONCE = """
    history = fit()
    other = driver(cluster.address, "print(fit(), search())")
    histories = []
    threads = [threading.Thread(target=lambda: histories.append(fit())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(histories) == 2 and all(one.equals(history) for one in histories), histories
    error = other.communicate(timeout=600)[1]
    assert other.returncode == 0, error
"""

INSIDE = """
    history, score = fit(), search()

    @ray.remote(num_cpus=0)
    def both():
        assert fit(resources_per_worker={"memory": 1e6}).equals(history)
        return fit(), search()

    @ray.remote(num_cpus=0)
    class Inside:
        def both(self):
            assert fit(resources_per_worker={"memory": 1e6}).equals(history)
            return fit(), search()

    actor = Inside.remote()
    for one, other in ray.get([both.remote(), actor.both.remote()]):
        assert one.equals(history) and other == score, (one, other, score)
    ray.kill(actor)
"""

ENDED = """
    name = sys.argv[2]
    for code in ("fit('actors', 1000, callbacks=[Begun()])", "fit('ray_train', 1000, callbacks=[Begun()])", "search(1000, callbacks=[Begun()])"):
        begun = folder / code.partition(",")[0]
        other = driver(cluster.address, code, **{BEGUN: str(begun)})
        until_begun(other, begun)
        other.send_signal(getattr(signal, name))
        error = other.communicate(timeout=90)[1]
        assert other.returncode and ("KeyboardInterrupt" in error) == (name == "SIGINT"), (other.returncode, error)
        until_in_use([])
    assert fit().height == 3
    assert temporary_files() == []
"""


@pytest.mark.parametrize("steps", [PATH, AT_ONCE, INSIDE], ids=["path", "at once", "inside"])
def test_drivers_on_a_head_without_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: str) -> None:
    monkeypatch.setenv("RAYLINE_KEEP_WORKERS_S", "2")
    run(BEGIN + steps + END, str(tmp_path))


KILLED = """
    both_cpus = {"resources_per_worker": {"CPU": 1.0}}
    steps = {
        "fit": lambda **options: fit("actors", 5, **both_cpus, **options).height,
        "fit under Ray Train": lambda **options: fit("ray_train", 5, **both_cpus, **options).height,
        "search": lambda **options: search(2, num_workers=2, **both_cpus, **options),
    }

    @ray.remote(num_cpus=0, max_retries=1)
    def again(name):
        died = folder / name
        if not died.exists():
            died.touch()
            steps[name](callbacks=[Dies()])
        return steps[name]()

    @ray.remote(num_cpus=0)
    class Once:
        def run(self, name):
            steps[name](callbacks=[Dies()])

    for name in steps:
        assert ray.get(again.remote(name)) > 0.5
    try:
        ray.get(Once.remote().run.remote("fit"))
    except ray.exceptions.RayActorError:
        until_in_use([])
    else:
        raise AssertionError("the actor is still there")
"""


def test_nothing_is_left_of_a_task_or_an_actor_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that is tried again would wait for what its first process has reserved."""
    monkeypatch.setenv("RAYLINE_KEEP_WORKERS_S", "2")
    run(BEGIN + KILLED + END, str(tmp_path))


@pytest.mark.parametrize("name", ["SIGINT", "SIGKILL"])
def test_nothing_is_left_of_a_driver_that_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("RAYLINE_KEEP_WORKERS_S", "2")
    run(BEGIN + ENDED + END, str(tmp_path), name)

"""Drivers on a cluster that is there already: several at once, in threads, in tasks and actors, as a job, on a node without CPUs, with errors,
interrupted and killed.
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


THEIRS = """
    import urllib.request
    from ray import serve
    from rayline.serve import ingress

    @serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 0})
    class Theirs:
        def __init__(self):
            self.me = ray.get_runtime_context().get_actor_id()

        async def __call__(self, request):
            return self.me

    serve.start(http_options={"port": free_port()})
    serve.run(Theirs.bind(), name="theirs")

    url = f"{ingress.address()}/"
    assert ingress.responds(url, steadily=True)

    def answering():
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return {opener.open(url, timeout=60).read() for _ in range(40)}

    replicas, before = answering(), in_use()
    assert len(replicas) == 2 and "ServeController" in before, (replicas, before)
    steps = ("fail()", "fit('actors', 1000, callbacks=[Begun()])", "search(1000, callbacks=[Begun()])")
    for number, code in enumerate(steps):
        begun = folder / f"begun-{number}"
        other = driver(cluster.address, code, **{BEGUN: str(begun)})
        if number:
            until_begun(other, begun)
            other.send_signal(signal.SIGINT)
        error = other.communicate(timeout=600)[1]
        assert ("KeyboardInterrupt" in error) if number else other.returncode == 0, (other.returncode, error)
        until_in_use(before)
        assert answering() == replicas
    assert fit().height == 3
    until_in_use(before)
    assert answering() == replicas and serve.status().applications["theirs"].status == "RUNNING"
    serve.shutdown()
"""


def test_errors_of_a_driver_leave_an_application_of_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYLINE_KEEP_WORKERS_S", "2")
    run(BEGIN + THEIRS + END, str(tmp_path))


JOB = """
import shlex
import sys
import time

import ray
from ray.cluster_utils import Cluster
from ray.job_submission import JobSubmissionClient

from tests.driver_steps import *

# The port of the agent, to which jobs go, is otherwise the same for all Rays of a machine, and only the first has it.
ports = {"dashboard_port": free_port(), "dashboard_agent_listen_port": free_port()}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": True, **ports})
try:
    client = JobSubmissionClient(f"http://{cluster.head_node.webui_url}")
    code = "from tests.driver_steps import fit, search; import ray; assert not ray.is_initialized(); print(fit().height, search() > 0.5)"
    job = client.submit_job(entrypoint=f"{sys.executable} -c {shlex.quote(code)}")
    until(lambda: client.get_job_status(job).is_terminal(), lambda: client.get_job_logs(job), 600.0)
    logs = client.get_job_logs(job)
    assert client.get_job_status(job) == "SUCCEEDED" and logs.strip().endswith("3 True"), logs
    ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    until_in_use([])
finally:
    ray.shutdown()
    cluster.shutdown()
"""


def test_a_job_fits_and_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job joins the cluster that it was submitted to, and nothing of it is left there."""
    pytest.importorskip("aiohttp_cors", reason="ray[default] brings the agent that starts jobs")
    monkeypatch.setenv("RAYLINE_KEEP_WORKERS_S", "2")
    run(JOB)

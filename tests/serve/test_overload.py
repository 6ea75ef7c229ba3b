"""Twice as many requests as a server can answer: it refuses the rest, does its work all the same, and recovers.

`make bench` measures it for longer, and with a goal for what is answered; here the machine may be busy with other things.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rayline.inference.pipeline import InferencePipeline
from rayline.serve import to_deployment

from .test_app import rows

psutil = pytest.importorskip("psutil")

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # bench/ is no installed package

from bench.load import Load, free_port, measure, post, wait
from bench.overload import CLIENTS, CONNECTIONS


def check(port: int, cpu_s: Callable[[], float]) -> None:
    """Put a server under load; `cpu_s` is the processor time that it has used."""
    request = post("/predict", rows(1))

    def ask(**load: Any) -> tuple[Load, float]:
        start = cpu_s()
        got = measure(port, request, **load)
        return got, got.statuses.get("200", 0) / (cpu_s() - start)  # CPU time of other processes does not count

    measure(port, request, clients=CLIENTS, seconds=1)  # warms up, as bench/overload.py does
    before, efficiency = ask(clients=CLIENTS, seconds=3)
    assert not before.failed
    twice, then = ask(clients=CONNECTIONS, seconds=10, rate=2 * before.rate)
    assert set(twice.statuses) <= {"200", "503"}
    assert twice.retry_after == twice.statuses.get("503", 0)
    assert then > 0.5 * efficiency
    after, _ = ask(clients=CLIENTS, seconds=3)
    assert not after.failed
    assert after.p99_s < max(2, 5 * before.p99_s)  # it recovers, on a busy machine too


def processor_s(*processes: Any) -> float:
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # the load comes from `python -m bench.load`


@pytest.mark.slow
def test_in_one_process(pipeline: InferencePipeline, tmp_path: Path) -> None:
    pipeline.save(tmp_path / "flights.rayline")
    port = free_port()
    command = [
        sys.executable,
        "-c",
        "from rayline.cli import app; app()",
        "serve",
        str(tmp_path / "flights.rayline"),
        "--port",
        str(port),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            wait(port, server)
            process = psutil.Process(server.pid)
            check(port, lambda: processor_s(process))
        finally:
            server.terminate()


@pytest.mark.ray
@pytest.mark.slow
def test_on_ray_serve(ray_session: Any, pipeline: InferencePipeline) -> None:
    deployment = to_deployment(pipeline, name="busy", ray_actor_options={"num_cpus": 0.5}).deploy()
    try:
        processes = psutil.Process().children(recursive=True)
        replicas = [p for p in processes if "ServeReplica:busy" in " ".join(p.cmdline())]
        assert replicas
        check(int(deployment.url.rpartition(":")[2]), lambda: processor_s(*replicas))
    finally:
        deployment.delete()

"""Twice as many requests as a server can answer: it refuses the rest, does its work all the same, and recovers.

`make bench` measures it for longer, and with a goal for what is answered; here the machine may be busy with other things.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rayline.inference.pipeline import InferencePipeline
from rayline.serve import to_deployment

from .test_app import rows

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # bench/ is no installed package

from bench.load import free_port, measure, post, wait
from bench.overload import CLIENTS, CONNECTIONS


def check(port: int) -> None:
    request = post("/predict", rows(1))
    capacity = measure(port, request, clients=CLIENTS, seconds=3).rate
    usual = measure(port, request, clients=CONNECTIONS, seconds=5, rate=0.5 * capacity)
    assert not usual.failed
    assert not usual.unsent
    twice = measure(port, request, clients=CONNECTIONS, seconds=10, rate=2 * capacity)
    assert set(twice.statuses) <= {"200", "503"}
    assert twice.retry_after == twice.statuses.get("503", 0)
    assert twice.rate > 0.5 * capacity
    after = measure(port, request, clients=CONNECTIONS, seconds=5, rate=0.5 * capacity)
    assert not after.failed
    assert after.p99_s < max(5 * usual.p99_s, 0.5)


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # the load comes from `python -m bench.load`


@pytest.mark.slow
def test_in_one_process(pipeline: InferencePipeline, tmp_path: Path) -> None:
    pipeline.save(tmp_path / "flights.rayline")
    port = free_port()
    command = [sys.executable, "-c", "from rayline.cli import app; app()", "serve", str(tmp_path / "flights.rayline"), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            wait(port, server)
            check(port)
        finally:
            server.terminate()


@pytest.mark.ray
@pytest.mark.slow
def test_on_ray_serve(ray_session: Any, pipeline: InferencePipeline) -> None:
    deployment = to_deployment(pipeline, name="busy", ray_actor_options={"num_cpus": 0.5}).deploy()
    try:
        check(int(deployment.url.rpartition(":")[2]))
    finally:
        deployment.delete()

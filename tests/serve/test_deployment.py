"""Deployments on Ray Serve: starting, updating, limits and deleting.

Covers `serve.model_store` and `serve.replica` too.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.server
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pyarrow as pa
import pytest
import yaml

from rayline import device, train
from rayline.core.errors import ParameterError, ResourceError, ServeError
from rayline.core.target import Target, Task
from rayline.inference.model import Model
from rayline.inference.pipeline import InferencePipeline
from rayline.serve import deploy_config, ingress, to_deployment
from rayline.serve.model_store import differences, interface
from rayline.stages import OneHotEncoder, SimpleImputer

from .conftest import table
from .test_app import ARROW, odd, rows, stream, tensors
from .test_server import heard, post, say, statuses


@pytest.mark.ray
def test_a_deployment_from_start_to_end(ray_session: Any, pipeline: InferencePipeline) -> None:
    import ray
    from ray import serve

    deployment = to_deployment(pipeline, name="flights", ray_actor_options={"num_cpus": 0.5})
    assert deployment.status() == "NOT_STARTED"
    with pytest.raises(ServeError):
        deployment.url  # noqa: B018
    try:
        assert deployment.deploy() is deployment
        assert deployment.status() == "RUNNING"
        url = deployment.url
        with httpx.Client() as client:
            for n in (1, 7, 500):
                asked = rows(n)
                answer = client.post(f"{url}/predict?proba", json=asked).json()
                assert answer["predictions"] == pipeline.predict(pl.DataFrame(asked))["prediction"].to_list()
                proba = pipeline.predict_proba(pl.DataFrame(asked)).rows()
                assert [tuple(p.values()) for p in answer["probabilities"]] == proba
            assert client.get(f"{url}/health").status_code == 200
            assert client.post(f"{url}/predict", json=[{"hour": "noon"}]).status_code == 422

        # Another model in the running replicas, while clients ask.
        codes: list[int] = []
        stop = threading.Event()

        def ask() -> None:
            with httpx.Client() as client:
                while not stop.is_set():
                    codes.append(client.get(f"{url}/v2/models/flights").status_code)

        asking = threading.Thread(target=ask)
        asking.start()
        with pytest.raises(ServeError, match=r"(?s)the column 'x' is new.*allow_schema_change=True"):
            deployment.update(odd())
        assert deployment.pipeline is pipeline
        deployment.update(odd(), allow_schema_change=True)
        stop.set()
        asking.join()
        assert set(codes) == {200}

        beside = to_deployment(pipeline, name="beside", ray_actor_options={"num_cpus": 0.5}).deploy()
        assert beside.url == f"{url}/beside"
        assert httpx.post(f"{beside.url}/predict", json=rows(1), timeout=60).status_code == 200
        assert 'name="hour"' in httpx.get(f"{beside.url}/").text
        beside.delete()

        def one(x: int) -> Any:
            return httpx.post(f"{url}/predict", json=[{"x": x}], timeout=60).json()

        with concurrent.futures.ThreadPoolExecutor(64) as pool:
            assert list(pool.map(one, range(64))) == [{"predictions": [float(x)]} for x in range(64)]
    finally:
        deployment.delete()
    assert deployment.status() == "NOT_STARTED"
    assert not serve.status().applications
    assert ray.is_initialized()


@pytest.mark.ray
def test_applications_of_others_are_left_alone(ray_session: Any, pipeline: InferencePipeline) -> None:
    from ray import serve

    @serve.deployment(ray_actor_options={"num_cpus": 0.1})
    class Theirs:
        async def __call__(self, request: Any) -> str:
            return "theirs"

    mine = to_deployment(pipeline, name="mine", ray_actor_options={"num_cpus": 0.5})
    try:
        with ingress.quiet():
            ingress.start_serve("127.0.0.1", None)
            serve.run(Theirs.bind(), name="mine", route_prefix="/mine")  # type: ignore[attr-defined]
        for refused in (mine.deploy, mine.delete, lambda: mine.update(pipeline)):
            with pytest.raises(ServeError, match="Rayline did not create"):
                refused()
        assert httpx.get(f"{ingress.address()}/mine", timeout=60).text == "theirs"
    finally:
        with ingress.quiet():
            serve.delete("mine")
            ingress.stop()
    with pytest.raises(ServeError, match="is not running"):
        mine.url  # noqa: B018


def test_what_clients_notice_of_another_pipeline() -> None:
    old = {"columns": {"a": "integer", "b": "string", "c": "number"}, "targets": {"y": "string"}}
    assert differences(old, old) == []
    assert differences({"columns": {"a": "number", "b": "string"}, "targets": {"y": "string"}}, old) == []
    found = differences({"columns": {"a": "string", "c": "integer", "d": "number"}, "targets": {"z": "string"}}, old)
    assert found == [
        "the column 'a' was integer and is string", "the column 'c' was number and is integer", "the column 'd' is new",
        "the target 'z' is new", "the target 'y' was removed",
    ]  # fmt: skip
    assert interface(odd()) == {"columns": {"x": "number"}, "targets": {"y": "number"}}


def test_a_new_route_is_there_when_all_connections_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a new HAProxy takes over from one that does not know the application, each of them gets a part of the connections."""
    monkeypatch.setattr(ingress, "STABLE_S", 0.3)
    statuses = iter([404, 200, 404, 200, 404, 200, 404])
    missed: list[float] = []

    class TwoProxies(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status = next(statuses, 200)
            if status == 404:
                missed.append(time.monotonic())
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), TwoProxies) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/health"
        assert ingress.responds(url, steadily=False)
        assert len(missed) == 1
        assert ingress.responds(url, steadily=True)
        assert len(missed) == 4
        assert time.monotonic() - missed[-1] >= 0.3
        server.shutdown()


def test_the_url_of_a_deployment_that_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    deployment = to_deployment(odd(), name="going")
    monkeypatch.setattr(type(deployment), "status", lambda self: "DELETING")
    monkeypatch.setattr(ingress, "routes", dict)
    with pytest.raises(ServeError, match="being deleted"):
        deployment.url  # noqa: B018


def _opposite() -> InferencePipeline:
    """A model for the same rows that has learned the opposite."""
    data = table(900, 7).with_columns(
        late=pl.when(pl.col("late") == "late").then(pl.lit("on time")).otherwise(pl.lit("late"))
    )
    stages = [("impute", SimpleImputer(["distance"])), ("onehot", OneHotEncoder())]
    trainer = train.XGBoostTrainer({"objective": "binary:logistic", "seed": 1}, num_boost_round=40)
    result = train.fit(trainer, train.Preprocessor(stages), train_dataset=data, target_columns=["late"], verbose=False)
    return result.inference_pipeline


class _Asking:
    """Clients that ask all the time, each on a connection of its own, and what they were answered."""

    def __init__(self, url: str, body: Any, clients: int) -> None:
        self.url, self.body, self.stop = url, body, threading.Event()
        self.answers: list[Any] = []
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def _ask(self) -> None:
        with httpx.Client(timeout=60) as client:
            while not self.stop.is_set():
                try:
                    answer = client.post(f"{self.url}/predict", json=self.body)
                    self.answers.append(
                        answer.json() if answer.status_code == 200 else (answer.status_code, answer.text)
                    )
                except (httpx.TransportError, ValueError) as error:
                    self.answers.append(error)

    def __enter__(self) -> _Asking:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def failures(self) -> list[Any]:
        return [answer for answer in self.answers if not isinstance(answer, dict)]


class _Unloadable(float):
    """A model that can be stored, and that no replica can load."""

    def __str__(self) -> str:  # what is saved
        return "no number"


def _unloadable() -> InferencePipeline:
    target = Target(("y",), Task.REGRESSION, (pl.Float64(),))
    return InferencePipeline(None, Model("serve-odd", _Unloadable(), {"x": pl.Float64()}, target))


@pytest.mark.ray
@pytest.mark.slow
def test_no_client_notices_updates_and_what_happens_beside(ray_session: Any) -> None:
    """The replica is never taken out, so no request depends on how fast Ray Serve informs its proxies."""
    actor, codes = {"num_cpus": 0.5}, list[Any]()
    deployment = to_deployment(odd(), name="main", ray_actor_options=actor).deploy()
    url, stop = deployment.url, threading.Event()

    def ask(method: str, path: str, body: Any) -> None:
        with httpx.Client(timeout=60) as client:
            while not stop.is_set():
                try:
                    codes.append(client.request(method, url + path, json=body).status_code)
                except httpx.TransportError as error:
                    codes.append(error)

    asked = [("POST", "/predict", [{"x": 1}]), ("GET", "/v2/models/main", None)] * 2
    clients = [threading.Thread(target=ask, args=request) for request in asked]
    try:
        for client in clients:
            client.start()
        replicas, config = ingress.replicas("main"), ingress.user_config("main")
        for _ in range(4):
            deployment.update(odd())
        with pytest.raises(
            ServeError, match=r"(?s)cannot use the new model: ValueError.*the old one continues to answer"
        ):
            deployment.update(_unloadable())
        assert httpx.post(f"{url}/predict", json=[{"x": 1}]).json() == {"predictions": [1.0]}
        deployment.update(odd())
        assert (ingress.replicas("main"), ingress.user_config("main")) == (replicas, config)

        beside = to_deployment(odd(), name="beside", ray_actor_options=actor).deploy()
        for _ in range(30):  # each on a connection of its own
            assert httpx.get(f"{beside.url}/v2/models/beside", timeout=60).status_code == 200
        beside.delete()

        # Other options need other replicas; until these run, requests wait.
        to_deployment(odd(), name="main", max_batch_size=7, ray_actor_options=actor).deploy()
        assert not replicas & ingress.replicas("main")
        stop.set()
        for client in clients:
            client.join()
        assert set(codes) == {200}
        to_deployment(odd(), name="main", token="s3cret", ray_actor_options=actor).deploy()
        assert httpx.post(f"{url}/predict", json=[{"x": 1}], timeout=60).status_code == 401
    finally:
        stop.set()
        deployment.delete()


@pytest.mark.ray
@pytest.mark.slow
def test_update_costs_no_request(ray_session: Any, pipeline: InferencePipeline) -> None:
    other, asked = _opposite(), rows(20)
    old, new = (p.predict(pl.DataFrame(asked))["prediction"].to_list() for p in (pipeline, other))
    assert old != new
    deployment = to_deployment(pipeline, name="rolling", num_replicas=2, ray_actor_options={"num_cpus": 0.5}).deploy()
    try:
        with _Asking(deployment.url, asked, 4) as asking:
            time.sleep(1)
            deployment.update(other)
            time.sleep(1)
            after = len(asking.answers)
            time.sleep(1)
        assert not asking.failures
        assert {tuple(a["predictions"]) for a in asking.answers} == {tuple(old), tuple(new)}
        assert {tuple(a["predictions"]) for a in asking.answers[after:]} == {tuple(new)}
    finally:
        deployment.delete()


@pytest.mark.ray
@pytest.mark.slow
def test_a_replica_killed_in_a_request_costs_its_caller_nothing(ray_session: Any) -> None:
    psutil = pytest.importorskip("psutil")
    if not os.path.isdir("/proc"):
        pytest.skip("finds replicas by their process names")
    deployment = to_deployment(odd(0.05), name="slow", num_replicas=2, ray_actor_options={"num_cpus": 0.5}).deploy()

    def replicas() -> list[Any]:
        found = []
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile, or is a zombie
                if "ServeReplica:slow" in " ".join(process.cmdline()):
                    found.append(process)
        return found

    try:
        with _Asking(deployment.url, [{"x": 1}], 6) as asking:
            for _ in range(3):
                time.sleep(1)
                replicas()[0].send_signal(signal.SIGKILL)
                until = time.monotonic() + 60
                time.sleep(1)
                while len(replicas()) < 2 or deployment.status() != "RUNNING":
                    assert time.monotonic() < until, "the replica did not come back"
                    time.sleep(0.2)
        assert len(asking.answers) > 100
        assert not asking.failures
    finally:
        deployment.delete()


@pytest.mark.ray
def test_protocols_and_strange_clients(ray_session: Any, pipeline: InferencePipeline) -> None:
    options: dict[str, Any] = {"token": "s3cret", "max_body_bytes": 20_000, "ray_actor_options": {"num_cpus": 0.5}}
    deployment = to_deployment(
        pipeline, name="flights", autoscaling={"min_replicas": 1, "max_replicas": 2}, route_prefix="/air", **options
    ).deploy()
    try:
        url, asked = deployment.url, rows(3)
        assert url.endswith("/air")
        frame = pl.DataFrame(asked)
        expected = pipeline.predict(frame)["prediction"].to_list()
        with httpx.Client(headers={"authorization": "Bearer s3cret"}, timeout=60) as client:
            assert client.post(f"{url}/predict", json=asked).json() == {"predictions": expected}
            assert client.post(f"{url}/v1/models/flights:predict", json={"instances": asked}).json() == {
                "predictions": expected
            }
            answer = client.post(f"{url}/v2/models/flights/infer", json={"inputs": tensors(frame)}).json()
            assert answer["outputs"][0]["data"] == expected
            answer = client.post(f"{url}/predict", content=stream(frame), headers=ARROW)
            assert pa.ipc.open_stream(answer.content).read_all()["prediction"].to_pylist() == expected
            for path in ("/", "/docs", "/openapi.json", "/v2/models/flights"):
                assert client.get(f"{url}{path}").status_code == 200
            assert 'code="200"' in client.get(f"{url}/metrics").text
            assert client.post(f"{url}/predict", content=b"{").status_code == 400
            assert client.post(f"{url}/predict", content=b" " * 20_001).status_code == 413
            assert client.post(f"{url}/predict", json=[{}]).status_code == 422
            slow = {"x-request-timeout-seconds": "0"}
            assert client.post(f"{url}/predict", json=asked, headers=slow).json() == {"predictions": expected}
        assert httpx.post(f"{url}/predict", json=asked).status_code == 401
        port, dice = int(url.rpartition(":")[2].partition("/")[0]), random.Random(0)
        token = "authorization: Bearer s3cret"
        smuggled = b"GET /air/metrics HTTP/1.1\r\nhost: localhost\r\n\r\n"
        offers = ["connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAEA", token]
        own, foreign = b"host: localhost", b"host: evil.example.com"
        for body, host, status in ((json.dumps(asked).encode(), own, 200), (smuggled, own, 400), (b"[]", foreign, 421)):
            request = post("/air/predict", body, *offers).replace(b"host: here", host)
            with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
                connection.sendall(request)
                assert statuses(heard(connection, b"}")) == [status]
        assert httpx.post(f"{url}/predict", json=asked, headers={"origin": "https://evil.example.com"}).status_code in (
            401,
            403,
        )
        whole = post("/air/predict", json.dumps(asked).encode(), "authorization: Bearer s3cret")
        for _ in range(40):
            noise, at = dice.randbytes(dice.choice([1, 300, 5000])), dice.randrange(len(whole))
            for sent in (noise, whole[:at] + noise, whole[:at] + noise[:1] + whole[at + 1 :], whole[at:] + whole):
                assert not {500, 501, 502, 504} & {*statuses(say(port, sent))}, sent
        assert httpx.get(f"{url}/health").status_code == 200
    finally:
        deployment.delete()


@pytest.mark.ray
@pytest.mark.slow
def test_it_is_part_of_a_larger_application(ray_session: Any, pipeline: InferencePipeline) -> None:
    from ray import serve

    @serve.deployment(ray_actor_options={"num_cpus": 0.1})
    class Front:
        def __init__(self, model: Any) -> None:
            self.model = model

        async def __call__(self, request: Any) -> Any:
            return await self.model.predict.remote(await request.json())

    application = to_deployment(pipeline, name="flights", ray_actor_options={"num_cpus": 0.5}).app
    try:
        with ingress.quiet():
            ingress.start_serve("127.0.0.1", None)
            serve.run(Front.bind(application), name="larger", route_prefix="/larger")  # type: ignore[attr-defined]
            url = f"{ingress.address()}/larger"
            answer = httpx.post(url, json=rows(3), timeout=60)
            assert answer.json() == pipeline.predict(rows(3))
    finally:
        with ingress.quiet():
            serve.delete("larger")
            ingress.stop()


@pytest.mark.ray
@pytest.mark.slow
def test_the_configuration_can_be_deployed(tmp_path: Path, pipeline: InferencePipeline) -> None:
    pipeline.save(tmp_path / "flights.rayline")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    deploy_config(
        tmp_path / "flights.rayline",
        tmp_path / "serve.yaml",
        name="flights",
        port=port,
        ray_actor_options={"num_cpus": 0.5},
    )
    environment = {**os.environ, "RAY_ADDRESS": "local", "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-m", "ray.serve.scripts", "run", str(tmp_path / "serve.yaml")]
    with (
        open(tmp_path / "log", "wb") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process,
    ):
        try:
            until = time.monotonic() + 120
            while True:
                try:
                    answer = httpx.post(f"http://127.0.0.1:{port}/predict", json=rows(3), timeout=30)
                    if answer.status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                said = (tmp_path / "log").read_text(errors="replace")[-3000:]
                assert process.poll() is None, said
                assert time.monotonic() < until, said
                time.sleep(0.5)
            assert answer.json()["predictions"] == pipeline.predict(pl.DataFrame(rows(3)))["prediction"].to_list()
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_replicas": 0},
        {"num_replicas": 1, "autoscaling": {}},
        {"route_prefix": "late"},
        {"port": 0},
        {"name": "a b"},
    ],
)
def test_arguments_are_checked_before_anything_starts(wrong: dict[str, Any]) -> None:
    with pytest.raises(ParameterError):
        to_deployment(odd(), **wrong)


def test_a_gpu_that_would_stand_idle_is_refused(pipeline: InferencePipeline, tmp_path: Path) -> None:
    pipeline.save(tmp_path / "late.rayline")
    refused: list[tuple[type[Exception], str, Any]] = [
        (ParameterError, "predict on the CPU only", lambda: to_deployment(odd(), use_gpu=True)),
        (ParameterError, "predict on the CPU only", lambda: to_deployment(odd(), ray_actor_options={"num_gpus": 1})),
        (ResourceError, "no CUDA", lambda: to_deployment(pipeline, ray_actor_options={"num_gpus": 1})),
        (ResourceError, "no CUDA", lambda: deploy_config(tmp_path / "late.rayline", use_gpu=True)),
        (ParameterError, "num_gpus=1, and use_gpu=False", lambda: to_deployment(
            pipeline, use_gpu=False, ray_actor_options={"num_gpus": 1}
        )),
        (ParameterError, "use_gpu has a wrong value", lambda: to_deployment(pipeline, use_gpu="cuda")),  # type: ignore[arg-type]
    ]  # fmt: skip
    for kind, said, call in refused:
        with pytest.raises(kind, match=said):
            call()
    to_deployment(pipeline, ray_actor_options={"num_gpus": 0})


def test_replicas_hold_gpus_or_parts_of_them(pipeline: InferencePipeline) -> None:
    def actor(**given: Any) -> Any:
        with device.pretend("cpu"):
            return to_deployment(pipeline, **given)._plan.placement["ray_actor_options"]

    assert actor() == {"num_cpus": 1}
    assert actor(use_gpu=True) == {"num_cpus": 1, "num_gpus": 1}
    assert actor(use_gpu=True, ray_actor_options={"num_gpus": 0.25}) == {"num_cpus": 1, "num_gpus": 0.25}
    deployed = yaml.safe_load(deploy_config("/models/late.rayline", use_gpu=True))["applications"][0]["args"]
    assert deployed["use_gpu"] is True


def test_deploy_config(tmp_path: Path) -> None:
    from ray.serve.schema import ServeDeploySchema

    text = deploy_config("/models/late.rayline", tmp_path / "serve.yaml", name="late", num_replicas=2, host="0.0.0.0")
    assert (tmp_path / "serve.yaml").read_text(encoding="utf-8") == text
    config = ServeDeploySchema.model_validate(yaml.safe_load(text))
    assert config.applications[0].import_path == "rayline.serve.deployment:build"
    assert config.applications[0].args == {"path": "/models/late.rayline", "name": "late", "num_replicas": 2}
    local = yaml.safe_load(deploy_config("x", allowed_hosts=["late.example.com"]))["applications"][0]["args"]
    assert local["allowed_hosts"] == ["localhost", "127.0.0.1", "::1", "late.example.com"]
    with pytest.raises(ParameterError, match="token"):
        deploy_config("x", token="s")
    with pytest.raises(ParameterError, match="num_replicas"):
        deploy_config("x", replicas=2)

from __future__ import annotations

import concurrent.futures
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
import yaml

from rayline.core.errors import ParameterError, ServeError
from rayline.inference.pipeline import InferencePipeline
from rayline.serve import deploy_config, to_deployment

from .test_app import odd, rows


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
        deployment.update(odd())
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
@pytest.mark.slow
def test_a_replica_killed_in_a_request_costs_its_caller_nothing(ray_session: Any) -> None:
    psutil = pytest.importorskip("psutil")
    if not os.path.isdir("/proc"):
        pytest.skip("finds replicas by their process names")
    deployment = to_deployment(odd(0.05), name="slow", num_replicas=2, ray_actor_options={"num_cpus": 0.5}).deploy()
    codes: list[int] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            codes.append(httpx.post(f"{deployment.url}/predict", json=[{"x": 1}], timeout=60).status_code)

    try:
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            asking = [pool.submit(ask) for _ in range(6)]
            time.sleep(1)
            processes = psutil.Process().children(recursive=True)
            replica = next(p for p in processes if "ServeReplica:slow" in " ".join(p.cmdline()))
            replica.send_signal(signal.SIGKILL)
            time.sleep(5)
            stop.set()
            for asked in asking:
                asked.result()
    finally:
        stop.set()
        deployment.delete()
    assert len(codes) > 20
    assert set(codes) == {200}


@pytest.mark.parametrize(
    "wrong",
    [{"num_replicas": 0}, {"num_replicas": 1, "autoscaling": {}}, {"route_prefix": "late"}, {"port": 0}, {"name": "a b"}],
)
def test_arguments_are_checked_before_anything_starts(wrong: dict[str, Any]) -> None:
    with pytest.raises(ParameterError):
        to_deployment(odd(), **wrong)


def test_deploy_config(tmp_path: Path) -> None:
    from ray.serve.schema import ServeDeploySchema

    text = deploy_config("/models/late.rayline", tmp_path / "serve.yaml", name="late", num_replicas=2, host="0.0.0.0")
    assert (tmp_path / "serve.yaml").read_text(encoding="utf-8") == text
    config = ServeDeploySchema.model_validate(yaml.safe_load(text))
    assert config.applications[0].import_path == "rayline.serve.deployment:build"
    assert config.applications[0].args == {"path": "/models/late.rayline", "name": "late", "num_replicas": 2}
    with pytest.raises(ParameterError, match="token"):
        deploy_config("x", token="s")
    with pytest.raises(ParameterError, match="num_replicas"):
        deploy_config("x", replicas=2)

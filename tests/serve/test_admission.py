"""Who may ask: the names and pages that a server answers to. And the same values are answered alike, however they come.

Covers `serve.options` too.
"""

from __future__ import annotations

import gzip
import json
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from rayline.core.errors import ParameterError
from rayline.core.target import Target, Task
from rayline.inference.model import Model
from rayline.inference.pipeline import InferencePipeline
from rayline.serve import ServerOptions
from rayline.serve.app import host_name
from rayline.serve.options import is_loopback

from .conftest import Client
from .test_app import ARROW, odd, rows, stream


def test_a_server_of_this_machine_is_asked_as_localhost(make_client: Any, pipeline: InferencePipeline) -> None:
    options = ServerOptions("flights", allowed_hosts=("Late.example.com",)).at("127.0.0.1")
    client = make_client(pipeline, **{name: getattr(options, name) for name in ("name", "allowed_hosts")})
    own = (
        "localhost",
        "localhost:8080",
        "127.0.0.1:1",
        "[::1]",
        "[::1]:80",
        "LOCALHOST.",
        "late.example.com",
        "late.example.com:443",
    )
    foreign = (
        "evil.example.com",
        "127.0.0.1.evil.com:8080",
        "localhost.evil.com",
        "evil.com:localhost",
        "",
        "[::2]",
        "late.example.com.evil.com",
    )
    for host in (*own, *foreign):
        expected = 200 if host in own else 421
        for method, path, more in (
            ("POST", "/predict", {"json": rows(1)}),
            ("GET", "/", {}),
            ("GET", "/openapi.json", {}),
            ("GET", "/metrics", {}),
        ):
            assert client.ask(method, path, headers={"host": host}, **more).status_code == expected, host
        assert client.get("/health", headers={"host": host}).status_code == 200  # says nothing
    twice = [("host", "localhost"), ("host", "evil.example.com")]
    assert client.get("/", headers=twice).status_code == 421
    assert ServerOptions().at("0.0.0.0").allowed_hosts is None
    assert all(map(is_loopback, ("127.0.0.1", "::1", "localhost", "127.9.9.9")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "late.example.com", "")))
    for wrong in ("http://a", "a b", ("a/b",), (1,)):
        with pytest.raises(ParameterError):
            ServerOptions(allowed_hosts=wrong)  # type: ignore[arg-type]
    assert host_name(b"[::1]:8080") == host_name(b"[::1]") == "::1"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://here"}, 200),
        ({"origin": "https://evil.example.com"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://here:81"}, 403),
        ({"sec-fetch-site": "same-origin", "origin": "https://before.the.proxy"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site", "origin": "http://here"}, 403),
    ],
)
def test_pages_of_other_sites_may_not_post(
    make_client: Any, pipeline: InferencePipeline, headers: dict[str, str], status: int
) -> None:
    client = make_client(pipeline)
    assert client.post("/predict", json=rows(1), headers=headers).status_code == status
    assert client.ask("PUT", "/extra", headers=headers).status_code == (403 if status == 403 else 404)


def test_pages_of_allowed_hosts_may_post(make_client: Any, pipeline: InferencePipeline) -> None:
    client = make_client(pipeline, allowed_hosts=("here", "app.example.com"))
    for headers in (
        {"sec-fetch-site": "cross-site", "origin": "https://app.example.com"},
        {"origin": "https://app.example.com:444"},
    ):
        assert client.post("/predict", json=rows(1), headers=headers).status_code == 200
    assert (
        client.post("/predict", json=rows(1), headers={"origin": "https://app.example.com.evil.com"}).status_code == 403
    )


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "text/plain;charset=UTF-8", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"],
)
def test_what_any_page_may_post_is_refused(client: Client, kind: str) -> None:
    body = json.dumps(rows(1))
    for path in ("/predict", "/v1/models/flights:predict", "/v2/models/flights/infer"):
        assert client.post(path, content=body, headers={"content-type": kind}).status_code == 415
    assert client.post("/predict", content=body).status_code == 200


@pytest.mark.parametrize("path", ["/openapi.json/", "/health/", "/predict/", "//evil.example.com/openapi.json/"])
def test_no_answer_sends_a_client_elsewhere(client: Client, path: str) -> None:
    answer = client.get(path, headers={"host": "evil.example.com"})
    assert answer.status_code == 404
    assert "location" not in answer.headers


# -- the same values -----------------------------------------------------------------------------------------------


def of_type(dtype: pl.DataType) -> InferencePipeline:
    return InferencePipeline(
        None, Model("serve-odd", 0.0, {"x": dtype}, Target(("y",), Task.REGRESSION, (pl.Float64(),)))
    )


def test_infinity_is_refused_however_it_comes(make_client: Any) -> None:
    client = make_client(odd())
    arrow = stream(pa.table({"x": [1.0, float("inf"), float("-inf"), None, float("nan")]}))
    answer = client.post("/predict", content=arrow, headers=ARROW)
    assert answer.status_code == 422
    assert [(p["row"], p["column"]) for p in answer.json()["problems"]] == [(1, "x"), (2, "x")]
    assert client.post("/predict", content=b'[{"x": 1e400}]').status_code == 422
    blob = np.array([np.inf]).tobytes()
    head = json.dumps(
        {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "parameters": {"binary_data_size": 8}}]}
    ).encode()
    length = {"inference-header-content-length": str(len(head))}
    assert client.post("/v2/models/model/infer", content=head + blob, headers=length).status_code == 422
    json_tensor = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [0]}]}
    content = json.dumps(json_tensor).replace("[0]", "[1e400]").encode()
    assert client.post("/v2/models/model/infer", content=content).status_code == 400


@pytest.mark.parametrize(
    ("kind", "wrong", "right"),
    [
        ("INT8", [0.5, 128, -129, True, "1"], [127, 0, 3.0, None]),
        ("UINT8", [-1, 256, 1.5], [0, 255]),
        ("INT64", [2**63, 1e19], [2**63 - 1]),
        ("UINT64", [2**64, -1], [2**62]),
        ("FP16", [1e5, True, "1"], [65504, None]),
        ("FP32", [1e300, -1e39], [3e38, 1]),
        ("FP64", [10**400, False], [1e300, 2**53]),
        ("BOOL", [0, 1.0, "true"], [True, None]),
    ],
)
def test_tensors_hold_what_their_type_holds(make_client: Any, kind: str, wrong: list[Any], right: list[Any]) -> None:
    client = make_client(
        of_type(pl.Boolean() if kind == "BOOL" else pl.Float64() if kind.startswith("FP") else pl.Int64())
    )
    for value, expected in [(v, 400) for v in wrong] + [(v, 200) for v in right]:
        for n in (1, 100):  # as rows, and as a table
            body = {"inputs": [{"name": "x", "datatype": kind, "shape": [n], "data": [value] * n}]}
            answer = client.post("/v2/models/model/infer", json=body)
            assert answer.status_code == expected, (value, answer.text)


def test_a_number_in_json_has_the_precision_of_its_tensor(make_client: Any) -> None:
    client = make_client(odd())
    as_json = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [0.1]}]}
    got = client.post("/v2/models/model/infer", json=as_json).json()["outputs"][0]["data"]
    assert got == [float(np.float32(0.1))]


def test_nothing_that_is_sent_is_dropped(make_client: Any, client: Client) -> None:
    odd_client = make_client(odd())
    for body in (b'[{"x": 1, "x": 2}]', b'{"rows": [{"x": 1}], "rows": []}', b'[{"x": 1, "other": {"a": 1, "a": 1}}]'):
        answer = odd_client.post("/predict", content=body)
        assert answer.status_code == 400
        assert "occurs twice" in answer.json()["error"]
    arrow, zipped = stream(pa.table({"x": [1.0]})), gzip.compress(b'[{"x": 1}]')
    packed = {"content-encoding": "gzip"}
    assert odd_client.post("/predict", content=arrow, headers=ARROW).status_code == 200
    assert odd_client.post("/predict", content=zipped, headers=packed).status_code == 200
    for content, headers in (
        (arrow + arrow, ARROW),
        (arrow + b"x", ARROW),
        (zipped + zipped, packed),
        (zipped + b"x", packed),
    ):
        answer = odd_client.post("/predict", content=content, headers=headers)
        assert answer.status_code == 400
        assert "follow" in answer.json()["error"]
    twice = pa.table([pa.array([1.0]), pa.array([2.0])], names=["x", "x"])
    assert odd_client.post("/predict", content=stream(twice), headers=ARROW).status_code == 400

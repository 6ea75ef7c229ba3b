"""The HTTP app in process: routes, answers, errors, limits.

Covers `serve.batching`, `serve.docs_page`, `serve.metrics`, `serve.openapi`, `serve.openinference` and
`serve.predictions` too.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from typing import Any

import httpx
import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from rayline import Framework, register_framework
from rayline.core.errors import ParameterError
from rayline.core.target import Target, Task
from rayline.inference.model import Model
from rayline.inference.pipeline import InferencePipeline
from rayline.serve import ServerOptions
from rayline.serve import app as app_module

from .conftest import Client, table

ARROW = {"content-type": "application/vnd.apache.arrow.stream"}


@register_framework
class Odd(Framework):
    """Takes its time, fails on a negative x, and answers NaN to a large one."""

    name = "serve-odd"

    def train(self, context: Any) -> Any:
        raise NotImplementedError

    def predict(self, model: Any, features: Any) -> Any:
        x = features.matrix(np.float64)[:, 0]
        if (x < 0).any():
            raise OSError("/secret/path")
        time.sleep(model)
        return np.where(x > 1e6, np.nan, x)

    def save(self, model: Any, directory: Any) -> None:
        (directory / "seconds").write_text(str(model))

    def load(self, directory: Any) -> Any:
        return float((directory / "seconds").read_text())


def odd(seconds: float = 0.0) -> InferencePipeline:
    target = Target(("y",), Task.REGRESSION, (pl.Float64(),))
    return InferencePipeline(None, Model("serve-odd", seconds, {"x": pl.Float64()}, target))


def rows(n: int, seed: int = 1) -> list[dict[str, Any]]:
    return table(max(n, 1), seed).drop("late").head(n).to_dicts()


def stream(rows: pl.DataFrame | pa.Table, compression: str | None = None) -> bytes:
    """A table as an Arrow stream."""
    arrow = rows.to_arrow(compat_level=pl.CompatLevel.oldest()) if isinstance(rows, pl.DataFrame) else rows
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, arrow.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(arrow)
    return bytes(sink.getvalue())


# -- the same answer everywhere ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 7, 500])
def test_answers_are_those_of_the_pipeline(client: Client, pipeline: InferencePipeline, n: int) -> None:
    asked = rows(n)
    frame = pl.DataFrame(asked)
    expected = pipeline.predict(frame)["prediction"].to_list()
    proba = pipeline.predict_proba(frame).rows()
    body = client.post("/predict?proba=true", json=asked).json()
    assert body["predictions"] == expected
    assert [tuple(p.values()) for p in body["probabilities"]] == proba  # the same bits
    columns = {"columns": frame.to_dict(as_series=False), "proba": True}
    assert client.post("/predict", json=columns).json() == body
    assert client.post("/predict", json={"rows": asked}).json() == {"predictions": expected}
    assert client.post("/v1/models/flights:predict", json={"instances": asked}).json() == {"predictions": expected}
    lists = [list(row.values()) for row in asked]
    assert client.post("/v1/models/flights:predict", json={"instances": lists}).json() == {"predictions": expected}


def test_arrow(client: Client, pipeline: InferencePipeline) -> None:
    frame = table(100, 3)
    body = stream(frame)
    answer = client.post("/predict?proba", content=body, headers=ARROW)
    got = pl.from_arrow(pa.ipc.open_stream(answer.content).read_all())
    assert isinstance(got, pl.DataFrame)
    assert got.equals(pl.concat([pipeline.predict(frame), pipeline.predict_proba(frame)], how="horizontal"))
    for cut in range(0, len(body) - 16, 97):  # a stream may end without its end mark
        assert client.post("/predict", content=body[:cut], headers=ARROW).status_code in (400, 422)
    refused = client.post("/predict", content=stream(frame, compression="zstd"), headers=ARROW)
    assert refused.status_code == 400
    assert "compressed" in refused.json()["error"]


def test_concurrent_requests_get_their_own_answers(make_client: Any) -> None:
    client = make_client(odd(0.001), max_batch_size=16)
    requests = [("POST", "/predict", {"json": [{"x": float(i)}, {"x": i + 0.5}]}) for i in range(64)]
    for i, answer in enumerate(client.all(requests)):
        assert answer.json() == {"predictions": [float(i), i + 0.5]}
    assert 8 <= client.app._batcher.n_calls <= 64


def test_one_bad_request_does_not_hurt_those_that_share_its_call(make_client: Any) -> None:
    client = make_client(odd(), batch_wait_timeout_s=0.02)
    answers = client.all([("POST", "/predict", {"json": [{"x": x}]}) for x in (1.0, -1.0, 2.0)])
    assert [a.status_code for a in answers] == [200, 500, 200]
    assert "secret" not in answers[1].text


def test_swap(make_client: Any, pipeline: InferencePipeline) -> None:
    client = make_client(odd())
    assert client.post("/predict", json=[{"x": 1}]).json() == {"predictions": [1.0]}
    client.app.swap(pipeline)
    assert client.post("/predict", json=rows(1)).status_code == 200
    assert "carrier" in client.get("/openapi.json").text


# -- the Open Inference Protocol -----------------------------------------------------------------------------------


def tensors(frame: pl.DataFrame) -> list[dict[str, Any]]:
    kinds = {"distance": "FP64", "hour": "INT64", "carrier": "BYTES", "weekend": "BOOL"}
    return [
        {"name": c, "datatype": kinds[c], "shape": [frame.height, 1], "data": frame[c].to_list()} for c in frame.columns
    ]


@pytest.mark.parametrize("n", [1, 7, 500])
def test_v2_json(client: Client, pipeline: InferencePipeline, n: int) -> None:
    frame = pl.DataFrame(rows(n))
    body = {"id": "7", "inputs": tensors(frame), "outputs": [{"name": "probabilities"}, {"name": "prediction"}]}
    answer = client.post("/v2/models/flights/versions/1/infer", json=body).json()
    assert answer["id"] == "7"
    proba, labels = answer["outputs"]
    assert proba["shape"] == [n, 2]
    assert proba["data"] == [p for row in pipeline.predict_proba(frame).rows() for p in row]
    assert labels["data"] == pipeline.predict(frame)["prediction"].to_list()


def test_v2_bytes(client: Client, pipeline: InferencePipeline) -> None:
    frame = pl.DataFrame(rows(3))
    inputs, blobs = [], []
    for tensor in tensors(frame):
        data = tensor.pop("data")
        if tensor["datatype"] == "BYTES":
            blob = b"".join(len(s).to_bytes(4, "little") + s.encode() for s in data)
        else:
            dtype = {"FP64": "<f8", "INT64": "<i8", "BOOL": "?"}[tensor["datatype"]]
            blob = np.array([np.nan if v is None else v for v in data], dtype=dtype).tobytes()
        blobs.append(blob)
        inputs.append({**tensor, "parameters": {"binary_data_size": len(blob)}})
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    answer = client.post("/v2/models/flights/infer", content=head + b"".join(blobs), headers=headers)
    length = int(answer.headers["inference-header-content-length"])
    outputs = json.loads(answer.content[:length])["outputs"]
    assert [o["name"] for o in outputs] == ["prediction", "probabilities"]
    proba = np.frombuffer(answer.content[length + outputs[0]["parameters"]["binary_data_size"] :], dtype="<f8")
    assert proba.tolist() == [p for row in pipeline.predict_proba(frame).rows() for p in row]
    for size in (0, len(head) + 1_000_000):
        bad = client.post(
            "/v2/models/flights/infer", content=head, headers={"inference-header-content-length": str(size)}
        )
        assert bad.status_code == 400


def test_v2_metadata_and_health(client: Client) -> None:
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    for path in (
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/flights/ready",
        "/v2/models/flights/versions/1/ready",
    ):
        assert client.get(path).status_code == 200
    about = client.get("/v2/models/flights").json()
    assert {i["name"]: i["datatype"] for i in about["inputs"]} == {
        "distance": "FP64", "hour": "INT64", "carrier": "BYTES", "weekend": "BOOL",
    }  # fmt: skip
    assert [o["name"] for o in about["outputs"]] == ["prediction", "probabilities"]
    assert client.get("/v2/models/other").status_code == 404


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [2, 1]}, {"shape": [-1]}, {"shape": "1"}, {"datatype": "FP65"}, {"data": None}, {"data": [[[[1]]]]}, {"name": 3},
        {"parameters": {"binary_data_size": 8}},
    ],
)  # fmt: skip
def test_v2_refuses_what_is_no_tensor(client: Client, change: dict[str, Any]) -> None:
    inputs = tensors(pl.DataFrame(rows(1)))
    inputs[0] |= change
    answer = client.post("/v2/models/flights/infer", json={"inputs": inputs})
    assert answer.status_code == 400
    assert isinstance(answer.json()["error"], str)


# -- refusals ------------------------------------------------------------------------------------------------------


def test_bad_rows_are_told_row_by_row(client: Client) -> None:
    asked = rows(3)
    asked[1]["hour"] = "noon"
    del asked[2]["carrier"]
    answer = client.post("/predict", json=asked)
    assert answer.status_code == 422
    assert answer.json()["problems"] == [
        {
            "row": 1,
            "column": "hour",
            "problem": f'expected a whole number from {-(2**63)} to {2**63 - 1} or null; got "noon"',
        },
        {"row": 2, "column": "carrier", "problem": "missing"},
    ]


@pytest.mark.parametrize(
    "body",
    [[], {}, "x", 1, None, {"rows": {}}, {"columns": []}, {"columns": {"hour": [1]}}, {"rows": [], "columns": {}}],
)
def test_no_rows(client: Client, body: Any) -> None:
    assert client.post("/predict", content=json.dumps(body)).status_code == 422


def test_malformed_and_large_bodies(make_client: Any, pipeline: InferencePipeline) -> None:
    client = make_client(pipeline, max_body_bytes=1000)
    assert client.post("/predict", content=b"{").status_code == 400
    assert client.post("/predict", content=b" " * 1001).status_code == 413

    async def parts() -> Any:
        for _ in range(100):
            yield b" " * 100

    assert client.post("/predict", content=parts()).status_code == 413
    packed = {"content-encoding": "gzip"}
    assert (
        client.post("/predict", content=gzip.compress(json.dumps(rows(1)).encode()), headers=packed).status_code == 200
    )
    assert client.post("/predict", content=gzip.compress(b" " * 100_000), headers=packed).status_code == 413
    assert client.post("/predict", content=b"[]", headers=packed).status_code == 400
    assert client.post("/predict", content=b"[]", headers={"content-encoding": "br"}).status_code == 415


def test_unknown_paths_and_methods(client: Client) -> None:
    assert client.get("/predict").status_code == 405
    assert client.get("/predict").headers["allow"] == "POST"
    assert client.get("/nothing").status_code == 404
    assert client.get("/v1/models/nothing").json()["error"].startswith("There is no such path")


def test_nan_is_null(make_client: Any) -> None:
    client = make_client(odd())
    assert client.post("/predict", json=[{"x": 1e9}]).text == '{"predictions":[null]}'
    assert client.post("/predict", json=[{"x": 1e9}] * 100).json() == {"predictions": [None] * 100}


def test_overload_is_refused_and_passes(make_client: Any) -> None:
    client = make_client(odd(0.02), max_queued_requests=4, max_batch_size=1)
    client.post("/predict", json=[{"x": 1}])
    answers = client.all([("POST", "/predict", {"json": [{"x": i}]}) for i in range(40)])
    codes = [a.status_code for a in answers]
    assert set(codes) == {200, 503}
    refused = answers[codes.index(503)]
    assert refused.headers["retry-after"] == "1"
    assert client.post("/predict", json=[{"x": 1}]).status_code == 200


def test_time_limit_holds_whatever_the_client_says(make_client: Any) -> None:
    client = make_client(odd(0.3), request_timeout_s=0.1)
    client.app._batcher.expect(1.0)  # known to be slow: runs in a thread
    answer = client.post("/predict", json=[{"x": 1}], headers={"x-request-timeout-seconds": "0"})
    assert answer.status_code == 504


def test_token(make_client: Any, pipeline: InferencePipeline) -> None:
    client = make_client(pipeline, token="s3cret")
    for path in ("/metrics", "/", "/docs", "/openapi.json", "/v2/models/model"):
        assert client.get(path).status_code == 401
    assert client.post("/predict", json=rows(1), headers={"authorization": "Bearer s3cre"}).status_code == 401
    assert client.post("/predict", json=rows(1), headers={"authorization": "Bearer s3cret"}).status_code == 200
    assert client.get("/health").status_code == 200
    assert client.get("/v2/health/ready").status_code == 200


def test_without_probabilities(make_client: Any) -> None:
    assert make_client(odd()).post("/predict?proba", json=[{"x": 1}]).status_code == 422


def test_errors_of_the_server_tell_nothing(make_client: Any) -> None:
    answer = make_client(odd()).post("/predict", json=[{"x": -1}] * 50)
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text


# -- what it says about itself -------------------------------------------------------------------------------------


def test_openapi(client: Client) -> None:
    document = client.get("/openapi.json").json()
    row = document["components"]["schemas"]["Row"]
    assert row["required"] == ["distance", "hour", "carrier", "weekend"]
    assert row["properties"]["hour"] == {"type": ["integer", "null"]}
    example = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert client.post("/predict", json=example).status_code == 200
    for path in document["paths"]:  # every example that the document gives is answered
        for method, operation in document["paths"][path].items():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            assert client.ask(method.upper(), path, json=content.get("example")).status_code == 200
    docs = client.get("/docs")
    assert docs.headers["content-security-policy"].startswith("default-src 'none'")
    for words in (*document["paths"], *row["required"], "whole number"):
        assert words in docs.text
    assert "http://" not in docs.text + client.get("/").text  # nothing from elsewhere
    assert "https://" not in docs.text + client.get("/").text


def test_metrics(client: Client) -> None:
    client.post("/predict", json=[{"distance": None, "hour": 3, "carrier": "ZZ", "weekend": True}])
    client.post("/predict", json=[{"distance": 1e6, "hour": 3, "carrier": "AA", "weekend": None}] * 100)
    client.post("/predict", json=[])
    lines = client.get("/metrics").text.splitlines()
    for line in (
        'rayline_requests_total{model="flights",protocol="predict",code="200"} 2',
        'rayline_requests_total{model="flights",protocol="predict",code="422"} 1',
        'rayline_rows_total{model="flights"} 101',
        'rayline_column_missing_total{model="flights",column="distance"} 1',
        'rayline_column_missing_total{model="flights",column="weekend"} 100',
        'rayline_column_unknown_total{model="flights",column="carrier"} 1',
        'rayline_column_out_of_range_total{model="flights",column="distance"} 100',
    ):
        assert line in lines


def test_page_names_every_column_and_nothing_from_elsewhere(client: Client) -> None:
    page = client.get("/")
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    for name in ("distance", "hour", "carrier", "weekend"):
        assert f'name="{name}"' in page.text
    assert "http://" not in page.text
    assert "https://" not in page.text


def test_names_in_the_page_are_escaped(make_client: Any) -> None:
    target = Target(("y",), Task.REGRESSION, (pl.Float64(),))
    model = Model("serve-odd", 0.0, {'"><script>alert(1)</script>': pl.Float64()}, target)
    assert "<script>alert" not in make_client(InferencePipeline(None, model)).get("/").text


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "a/b"},
        {"name": ""},
        {"max_batch_size": 0},
        {"max_queued_requests": True},
        {"request_timeout_s": 0},
        {"token": "a\nb"},
    ],
)
def test_options_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ParameterError):
        ServerOptions(**wrong)


def test_it_is_a_fastapi_app_that_can_be_extended(pipeline: InferencePipeline) -> None:
    app = app_module.create_app(pipeline)

    @app.get("/extra")
    def extra() -> dict[str, int]:
        return {"extra": 1}

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://here") as client:
            return await client.get("/extra")

    assert asyncio.run(ask()).json() == {"extra": 1}
    app.close()

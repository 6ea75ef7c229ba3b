"""Clients that are not ours work unchanged: Triton's for the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl
import pytest

from rayline.inference.pipeline import InferencePipeline
from rayline.serve.app import create_app

from .conftest import served
from .test_app import rows

triton = pytest.importorskip(
    "tritonclient.http",
    reason="pip install 'tritonclient[http]'",
    exc_type=(ImportError, RuntimeError),  # type: ignore[arg-type]
)

KINDS = {
    "distance": ("FP64", np.float64),
    "hour": ("INT64", np.int64),
    "carrier": ("BYTES", np.object_),
    "weekend": ("BOOL", np.bool_),
}


@pytest.fixture
def client(pipeline: InferencePipeline) -> Iterator[triton.InferenceServerClient]:
    with served(create_app(pipeline, name="flights")) as port:
        made = triton.InferenceServerClient(f"127.0.0.1:{port}")
        try:
            yield made
        finally:
            made.close()


def inputs(frame: pl.DataFrame, binary: bool) -> list[triton.InferInput]:
    made = []
    for name, (kind, dtype) in KINDS.items():
        tensor = triton.InferInput(name, [frame.height], kind)
        tensor.set_data_from_numpy(np.array(frame[name].to_list(), dtype=dtype), binary_data=binary)
        made.append(tensor)
    return made


@pytest.mark.parametrize("binary_input", [False, True])
@pytest.mark.parametrize("binary_output", [False, True])
@pytest.mark.parametrize("n", [1, 500])
def test_triton_predicts(
    client: triton.InferenceServerClient, pipeline: InferencePipeline, n: int, binary_input: bool, binary_output: bool
) -> None:
    frame = pl.DataFrame(rows(n)).with_columns(
        pl.col("distance").fill_null(1000.0)
    )  # JSON from NumPy would hold a bare NaN
    outputs = [triton.InferRequestedOutput(name, binary_data=binary_output) for name in ("prediction", "probabilities")]
    answer = client.infer("flights", inputs(frame, binary_input), outputs=outputs, request_id="7", model_version="1")
    labels = [v.decode() if isinstance(v, bytes) else v for v in answer.as_numpy("prediction").tolist()]
    assert labels == pipeline.predict(frame)["prediction"].to_list()
    assert answer.as_numpy("probabilities").tolist() == [list(row) for row in pipeline.predict_proba(frame).rows()]
    assert answer.get_response()["id"] == "7"


def test_triton_sends_what_is_missing_and_compresses(
    client: triton.InferenceServerClient, pipeline: InferencePipeline
) -> None:
    frame = pl.DataFrame(rows(50))
    assert frame["distance"].null_count()
    asked = inputs(frame, True)
    for algorithm in (None, "gzip", "deflate"):
        answer = client.infer(
            "flights", asked, request_compression_algorithm=algorithm, response_compression_algorithm=algorithm
        )
        assert answer.as_numpy("probabilities").tolist() == [list(row) for row in pipeline.predict_proba(frame).rows()]


def test_triton_asks_about_the_server(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("flights")
    assert client.is_model_ready("flights", "1")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata()["name"] == "rayline"
    about = client.get_model_metadata("flights")
    assert {tensor["name"]: tensor["datatype"] for tensor in about["inputs"]} == {
        name: kind for name, (kind, _) in KINDS.items()
    }
    with pytest.raises(triton.InferenceServerException, match="do not match the columns"):
        client.infer("flights", inputs(pl.DataFrame(rows(1)), True)[:2])

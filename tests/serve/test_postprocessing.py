"""Served answers carry what the stages after the model make of them, the same as in process."""

from __future__ import annotations

from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from rayline.postprocess import Calibrate, Clip, Conformal, Threshold
from tests.postprocess import tables

from .test_app import ARROW, stream

ROWS = tables.table(200, seed=3)
STAGES: dict[str, list[Any]] = {
    "late": [Calibrate("beta"), Threshold("f1", pos_label="yes"), Conformal(0.9)],
    "price": [Conformal(0.8, by="region"), Clip(low=-15)],
}


@pytest.mark.parametrize("target", STAGES)
@pytest.mark.parametrize("n", [1, 20, 200])
def test_every_door_answers_as_predict_does(target: str, n: int, make_client: Any) -> None:
    pipeline = tables.fitted(target).calibrated(STAGES[target], tables.table(seed=1))
    client = make_client(pipeline, name="m")
    rows = ROWS.select("x", "region").head(n)
    expected = pipeline.predict(rows, interval=True)
    said = client.post("/predict", json=rows.to_dicts()).json()
    v1 = client.post("/v1/models/m:predict", json={"instances": rows.to_dicts()}).json()
    assert said == v1
    assert said["predictions"] == expected["prediction"].to_list()
    if target == "late":
        assert said["sets"] == expected["set"].to_list()
    else:
        assert said["intervals"] == expected.select("lower", "upper").to_dicts()
    streamed = client.post("/predict", content=stream(rows), headers=ARROW).content
    assert pl.from_arrow(pa.ipc.open_stream(streamed).read_all()).equals(expected)  # type: ignore[union-attr, arg-type]
    inputs = [
        {"name": "x", "shape": [n], "datatype": "FP64", "data": rows["x"].to_list()},
        {"name": "region", "shape": [n], "datatype": "BYTES", "data": rows["region"].to_list()},
    ]
    outputs = {o["name"]: o for o in client.post("/v2/models/m/infer", json={"inputs": inputs}).json()["outputs"]}
    assert outputs["prediction"]["data"] == expected["prediction"].to_list()
    about = client.get("/v2/models/m").json()["outputs"]
    assert {o["name"]: o["datatype"] for o in about} == {name: o["datatype"] for name, o in outputs.items()}
    if target == "late":
        assert outputs["set"]["shape"] == [n, 2]
        assert outputs["set"]["data"] == [label in own for own in expected["set"].to_list() for label in ("no", "yes")]
    else:
        assert outputs["lower"]["data"] == expected["lower"].to_list()
        assert outputs["upper"]["data"] == expected["upper"].to_list()


@pytest.mark.parametrize("target", STAGES)
def test_the_document_and_the_page_know_them(target: str, make_client: Any) -> None:
    pipeline = tables.fitted(target).calibrated(STAGES[target], tables.table(seed=1))
    client = make_client(pipeline, name="m")
    path = client.get("/openapi.json").json()["paths"]["/predict"]["post"]["responses"]["200"]
    answer = path["content"]["application/json"]["schema"]["properties"]
    assert ("sets" if target == "late" else "intervals") in answer
    assert "said.intervals || said.sets" in client.get("/").text

"""Bodies that no client should send, to every path: an answer of the 2xx or 4xx kind comes, and it is strict JSON."""

from __future__ import annotations

import json
import random
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .conftest import Client, table
from .test_app import rows, stream, tensors

POSTS = ["/predict", "/predict?proba=true", "/v1/models/flights:predict", "/v2/models/flights/infer"]
ARROW = "application/vnd.apache.arrow.stream"

row = json.dumps(rows(1)[0])
BODIES = [
    b"", b"null", b"0", b'""', b"[[]]", b"{}", b"[{}]", b"[null]", b"\xef\xbb\xbf[]", b"\xff\xfe[\x00", b"[" * 100_000, b'{"a":' * 5_000,
    b"[" * 900 + b"]" * 900, b"1" * 100_000, b"[" + b"1," * 30_000 + b"1]", b'"\\ud800"', b"[1e400]", b"[-Infinity]", b'{"rows": NaN}',
    row.replace("20", "1e400").encode(), f'[{row.replace("false", "NaN").replace("true", "NaN")}]'.encode(), b'{"rows": [[[[1]]]]}',
    b'[{"distance": 1e400, "hour": 1, "carrier": "AA", "weekend": true}]',
    b'[{"distance": 1, "hour": ' + b"9" * 4000 + b', "carrier": "AA", "weekend": true}]',
    b'[{"distance": ' + b"9" * 4000 + b', "hour": 1, "carrier": "AA", "weekend": true}]',
    b'[{"distance": 1, "hour": 9223372036854775808, "carrier": "AA", "weekend": true}]',
    b'[{"distance": 1, "hour": 1e308, "carrier": "AA", "weekend": true}]',
    b'[{"distance": 1, "hour": 1, "carrier": "\\ud800", "weekend": true}]',
    b'[{"distance": 1, "hour": 1, "carrier": "A\\u0000", "weekend": true}]',
    b'{"columns": {"distance": [1, "x"], "hour": [1], "carrier": [], "weekend": [[]]}}',
    b'{"columns": {"distance": 1, "hour": 1, "carrier": 1, "weekend": 1}}', b'{"instances": [1, [1, 2, 3, 4], {}]}', b'{"instances": {}}',
    b'{"inputs": [{"name": "distance", "shape": [1e400], "datatype": "FP64", "data": [1]}]}',
    b'{"inputs": [{"name": "distance", "shape": [9223372036854775807, 2], "datatype": "FP64", "data": [1]}]}',
    b'{"inputs": [{"name": "distance", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": -1}}]}',
    b'{"inputs": [{"name": null, "shape": [], "datatype": [], "data": {}}], "outputs": [{"name": 1}], "id": {}}',
]  # fmt: skip
TYPES = [
    None,
    "application/json",
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
    ARROW,
    "\xff",
    "",
]


def fine(answer: Any) -> None:
    assert 200 <= answer.status_code < 500, answer.text
    assert "Traceback" not in answer.text
    assert "/rayline/" not in answer.text
    if answer.content and answer.headers.get("content-type", "").startswith("application/json"):
        json.loads(answer.content, parse_constant=pytest.fail)


@pytest.mark.parametrize("path", POSTS)
def test_bodies(client: Client, path: str) -> None:
    for body in BODIES:
        for kind in TYPES:
            headers = {} if kind is None else {"content-type": kind.encode("latin-1")}
            fine(client.post(path, content=body, headers=headers))


def test_every_path_and_method(client: Client) -> None:
    paths = [
        *sorted(client.app._paths),
        "/docs",
        "/openapi.json",
        "/nothing",
        "/v2/models/other/infer",
        "/v1/",
        "//",
        "/%00",
        "/predict/",
    ]
    requests = [
        (m, p, {"content": b"[NaN]"})
        for p in paths
        for m in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW")
    ]
    for answer in client.all(requests):
        fine(answer)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers()
    | st.text(st.characters(codec="utf-8"))
    | st.sampled_from(["AA", "B6"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(["distance", "hour", "carrier", "weekend"])
columns = st.dictionaries(names, values, max_size=4)
tensor = st.fixed_dictionaries(
    {},
    optional={
        "name": names | values, "shape": st.lists(st.integers(-1, 3), max_size=3) | values, "data": st.lists(values, max_size=3) | values,
        "datatype": st.sampled_from(["FP64", "INT64", "BYTES", "BOOL", "FP16", "FP8"]) | values,
        "parameters": st.dictionaries(st.sampled_from(["binary_data_size", "x"]), values, max_size=2),
    },
)  # fmt: skip
asked = st.one_of(
    st.lists(columns, max_size=40),
    st.fixed_dictionaries({"rows": st.lists(columns | values, max_size=3)}, optional={"proba": values}),
    st.fixed_dictionaries({"columns": st.dictionaries(names, st.lists(values, max_size=2), max_size=4) | values}),
    st.fixed_dictionaries({"instances": st.lists(columns | st.lists(values, max_size=4), max_size=3) | values}),
    st.fixed_dictionaries(
        {"inputs": st.lists(tensor, max_size=4)}, optional={"outputs": st.lists(tensor) | values, "id": values}
    ),
)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=asked)
def test_bodies_of_the_right_shape(client: Client, body: Any) -> None:
    for answer in client.all([("POST", path, {"content": json.dumps(body)}) for path in POSTS]):
        fine(answer)


def test_damaged_binary_bodies(client: Client) -> None:
    dice = random.Random(0)
    frame = pl.DataFrame(rows(3))
    whole = stream(table(50, 3))
    inputs = tensors(frame)
    blob = b"".join(len(s).to_bytes(4, "little") + s.encode() for s in inputs[2].pop("data"))
    inputs[2]["parameters"] = {"binary_data_size": len(blob)}
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    length = {"inference-header-content-length": str(len(head))}
    assert client.post(POSTS[3], content=head + blob, headers=length).status_code == 200
    for _ in range(150):
        for path, body, headers in ((POSTS[0], whole, {"content-type": ARROW}), (POSTS[3], head + blob, length)):
            damaged = bytearray(body)
            for _ in range(dice.choice([1, 3, 30])):
                damaged[dice.randrange(len(damaged))] = dice.randrange(256)
            answer = client.post(
                path, content=bytes(damaged[: dice.choice([len(body), dice.randrange(len(body))])]), headers=headers
            )
            assert 200 <= answer.status_code < 500, bytes(damaged)

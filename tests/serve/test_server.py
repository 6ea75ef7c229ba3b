"""The server itself, over sockets: whatever comes, it answers or closes, says nothing of itself, and goes on.

Covers `core.sockets` too.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import random
import re
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from rayline.inference.pipeline import InferencePipeline
from rayline.serve import server
from rayline.serve.app import App, create_app

from .conftest import served
from .test_app import odd, rows


@pytest.fixture
def app(pipeline: InferencePipeline) -> App:
    return create_app(pipeline, name="flights", max_body_bytes=20_000, request_timeout_s=2)


@pytest.fixture
def port(app: App) -> Iterator[int]:
    with served(app) as port:
        yield port


def say(port: int, *parts: bytes, pause_s: float = 0.0, close: bool = True) -> bytes:
    """Send parts, and give all that comes back until the server closes (or, with `close`, has nothing more to say)."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        with contextlib.suppress(ConnectionError):
            for part in parts:
                connection.sendall(part)
                time.sleep(pause_s)
            if close:
                connection.shutdown(socket.SHUT_WR)
        return heard(connection)


def heard(connection: socket.socket, until: bytes = b"") -> bytes:
    got = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            got += part
            if until and until in got:
                break
    return got


def statuses(answer: bytes) -> list[int]:
    return [int(s) for s in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


def post(path: str, body: bytes, *headers: str) -> bytes:
    head = [f"POST {path} HTTP/1.1", "host: here", f"content-length: {len(body)}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def is_well(port: int) -> None:
    assert httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200


NOT_OURS = {500, 501, 502}


@pytest.mark.parametrize("seed", range(8))
def test_noise(port: int, seed: int) -> None:
    dice = random.Random(seed)
    whole = post("/predict", json.dumps(rows(2)).encode(), "content-type: application/json")
    for _ in range(25):
        noise = dice.randbytes(dice.choice([1, 10, 300, 5000]))
        at = dice.randrange(len(whole))
        for sent in (
            noise,
            whole[:at] + noise,
            whole[:at] + noise[:1] + whole[at + 1 :],
            whole[at:] + whole,
            whole[:at],
        ):
            assert not NOT_OURS & {*statuses(say(port, sent))}, sent
    is_well(port)


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET / HTTP/1.1", b"OPTIONS * HTTP/1.1", b"CONNECT here:80 HTTP/1.1", b"TRACE / HTTP/1.1", b"PUT /predict HTTP/1.1",
        b"GET http://elsewhere/health HTTP/1.1", b"GET /%00%ff%zz HTTP/1.1", b"GET /\xff\xfe HTTP/1.1", b"GET //predict HTTP/1.1",
        b"GET /../../etc/passwd HTTP/1.1", b"GET /v2/models/../ HTTP/1.1", b"GET / HTTP/0.9", b"GET / HTTP/2.0", b"PRI * HTTP/2.0",
        b"HEAD /health HTTP/1.1", b"GET /" + b"a" * 60_000 + b" HTTP/1.1", b"GET /predict?" + b"proba&" * 9_000 + b" HTTP/1.1",
        b"POST /predict HTTP/1.1\r\nupgrade: websocket\r\nconnection: upgrade", b"GET / HTTP/1.1\r\nupgrade: h2c\r\nconnection: upgrade",
        b"POST /predict HTTP/1.1\r\ncontent-length: -1", b"POST /predict HTTP/1.1\r\ncontent-length: " + b"9" * 5000,
        b"POST /predict HTTP/1.1\r\ncontent-length: 3\r\ncontent-length: 4", b"POST /predict HTTP/1.1\r\ntransfer-encoding: nonsense",
        b"POST /predict HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked", b"POST /predict HTTP/1.1\r\ncontent-encoding: gzip",
        b"POST /v2/models/flights/infer HTTP/1.1\r\ncontent-length: 0\r\ninference-header-content-length: " + b"9" * 5000,
        b"POST /predict HTTP/1.1\r\nauthorization: Bearer \xff\xff", b"POST /predict HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 3",
    ],
)  # fmt: skip
def test_strange_heads(port: int, request_line: bytes) -> None:
    answer = say(port, request_line + b"\r\nhost: here\r\n\r\n")
    assert not NOT_OURS & {*statuses(answer)}
    assert b"Traceback" not in answer
    is_well(port)


def test_a_head_without_end_is_cut_off(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for line in (b"x: " + b"a" * 1000 + b"\r\n", b"x" * 1000):
        assert statuses(say(port, b"GET /health HTTP/1.1\r\n", *[line] * 1000, close=False)) == [431]
    monkeypatch.setattr(server, "HEAD_S", 0.3)
    monkeypatch.setattr(server, "KEEP_ALIVE_S", 0.3)
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        slow = [pool.submit(say, port, b"GET /hea", close=False) for _ in range(10)]
        silent = [pool.submit(say, port, *lines, close=False) for lines in 5 * ((), (b"\r\n", b"\r\n"))]
        is_well(port)
        assert {statuses(s.result())[0] for s in slow} == {408}
        assert {s.result() for s in silent} == {b""}  # browsers open connections in advance
    with socket.create_connection(
        ("127.0.0.1", port), timeout=20
    ) as connection:  # a second head is waited for as short
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: here\r\n\r\n")
        assert statuses(heard(connection, b'"ready"}')) == [200]
        time.sleep(0.5)
        connection.sendall(b"GET /health HT")
        assert statuses(heard(connection)) == [408]


def test_bodies_without_end(port: int) -> None:
    chunked = b"POST /predict HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n"
    chunk = b"400\r\n" + b" " * 0x400 + b"\r\n"
    assert statuses(say(port, chunked, *[chunk] * 100, close=False)) == [413]
    started = time.monotonic()
    assert statuses(say(port, chunked, chunk, close=False)) == [504]
    assert time.monotonic() - started > 1.5
    assert statuses(say(port, post("/predict", b"[]")[:-1], close=False)) == [504]
    assert statuses(say(port, post("/predict", b" " * 20_001), close=False))[0] == 413
    is_well(port)


def test_a_body_that_is_not_read_is_not_waited_for(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_S", 0.3)
    unread = b"PUT /predict HTTP/1.1\r\nhost: here\r\ncontent-length: 100\r\n\r\n"
    assert statuses(say(port, unread, *[b"a"] * 10, pause_s=0.1, close=False)) == [405]  # of a body of 100 bytes


def test_many_connections_wait_for_each_other(port: int) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            connection.sendall(b"POST /predict HTTP/1.1\r\nhost: here\r\ncontent-length: 10\r\n\r\n[")
        is_well(port)
        assert httpx.post(f"http://127.0.0.1:{port}/predict", json=rows(1), timeout=5).status_code == 200


def test_too_many_requests_are_refused_at_once(pipeline: InferencePipeline) -> None:
    app = create_app(odd(0.3), max_queued_requests=4)
    app._batcher.expect(1.0)  # known to be slow: runs in a thread, so that the event loop is free to refuse
    with served(app) as port, concurrent.futures.ThreadPoolExecutor(30) as pool:

        def ask(i: int) -> tuple[int, float, Any]:
            started = time.monotonic()
            answer = httpx.post(f"http://127.0.0.1:{port}/predict", json=[{"x": i}], timeout=20)
            return answer.status_code, time.monotonic() - started, answer

        answers = list(pool.map(ask, range(30)))
        refused = [answer for status, _, answer in answers if status == 503]
        assert {status for status, _, _ in answers} == {200, 503}
        assert len(refused) >= 10
        assert {answer.headers["retry-after"] for answer in refused} == {"1"}
        assert all("error" in answer.json() for answer in refused)
        is_well(port)
        counted = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        codes = re.findall(r'rayline_requests_total\{model="model",protocol="\w+",code="503"\} (\d+)', counted)
        assert sum(map(int, codes)) == len(refused)
        with httpx.Client() as client:  # a refused connection can be used again
            assert [client.post(f"http://127.0.0.1:{port}/predict", json=[{"x": i}]).status_code for i in range(3)] == [
                200
            ] * 3


def test_only_whole_plain_posts_are_refused_unread() -> None:
    whole = post("/predict", b"[]")
    assert server._is_complete_post(whole)
    assert server._is_complete_post(post("/predict", b"[]", "Connection: Keep-Alive"))
    for other in (
        whole[:-1], whole + b"x", whole.replace(b"POST", b"GET"), whole.replace(b"HTTP/1.1", b"HTTP/1.0"),
        post("/predict", b"[]", "connection: close"), post("/predict", b"[]", "transfer-encoding: chunked"),
        whole.replace(b"content-length: 2\r\n", b""), b"", b"POST ", b"POST / HTTP/1.1\r\ncontent-length: +2\r\n\r\n[]",
    ):  # fmt: skip
        assert not server._is_complete_post(other)

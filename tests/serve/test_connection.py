"""Connections: where a request ends and the next begins, and that an answer arrives before the connection ends.

Covers `serve.http_connection` too.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator

import pytest

from rayline.inference.pipeline import InferencePipeline
from rayline.serve.app import create_app

from .conftest import served
from .test_app import rows
from .test_server import is_well, post, say, statuses


@pytest.fixture(scope="module")
def port(pipeline: InferencePipeline) -> Iterator[int]:
    with served(create_app(pipeline, name="flights", max_body_bytes=2_000_000, request_timeout_s=2)) as port:
        yield port


BODY = json.dumps(rows(2)).encode()
OFFERS = {
    "java": [
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
    ],
    "websocket": [
        "connection: keep-alive, Upgrade",
        "upgrade: websocket",
        "sec-websocket-version: 13",
        "sec-websocket-key: x3JJHMbDL1EzLkh9GBhXDw==",
    ],
    "twice": ["connection: upgrade", "connection: keep-alive", "upgrade: h2c", "upgrade: websocket"],
    "anything": ["connection: upgrade", "upgrade: TLS/1.0"],
}


def ask(port: int, *parts: bytes, n: int = 1) -> list[tuple[int, bytes]]:
    """Send parts, and give status and body of the first n answers."""
    got = b""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        for i, part in enumerate(parts):
            time.sleep(0.05 if i else 0)
            connection.sendall(part)
        answers: list[tuple[int, bytes]] = []
        while len(answers) < n and (more := connection.recv(65536)):
            got += more
            while (end := got.find(b"\r\n\r\n")) >= 0:
                length = int(re.findall(rb"content-length: (\d+)", got[:end])[0])
                if len(got) < end + 4 + length:
                    break
                answers.append((int(got[9:12]), got[end + 4 : end + 4 + length]))
                got = got[end + 4 + length :]
    assert not got
    return answers


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("body", [BODY, b"GET /health HTTP/1.1\r\nhost: here\r\n\r\n", b""])
def test_a_request_that_offers_another_protocol_keeps_its_body(port: int, offer: str, body: bytes) -> None:
    sent = post("/predict", body, *OFFERS[offer])
    expected = ask(port, post("/predict", body))
    at = sent.index(b"\r\n\r\n") + 4
    for parts in (
        [sent],
        [sent[:at], sent[at:]],
        [sent[:at] + sent[at : at + 1], sent[at + 1 :]],
        [sent[:30], sent[30:]],
    ):
        assert ask(port, *parts) == expected
    head = "\r\n".join(["POST /predict HTTP/1.1", "host: here", "transfer-encoding: chunked", *OFFERS[offer]]).encode()
    chunk = b"%x\r\n%s\r\n" % (len(body), body) if body else b""
    assert ask(port, head + b"\r\n\r\n" + chunk + b"0\r\n\r\n") == expected
    assert ask(port, sent + post("/predict", BODY), n=2) == [*expected, *ask(port, post("/predict", BODY))]
    is_well(port)


def test_a_proxy_is_what_it_is_not(port: int) -> None:
    assert statuses(
        say(port, b"CONNECT here:80 HTTP/1.1\r\nhost: here\r\n\r\n", b"GET /health HTTP/1.1\r\nhost: here\r\n\r\n")
    ) == [400]


@pytest.mark.parametrize(
    "lines",
    [
        b"transfer-encoding: chunked, identity", b"transfer-encoding: xchunked", b"transfer-encoding : chunked", b"transfer-encoding:\x0bchunked",
        b"transfer-encoding: chunked\r\ntransfer-encoding: identity", b"transfer-encoding: chunked\r\ncontent-length: 5", b"content-length: 5\r\ncontent-length: 6",
        b"content-length: 5, 5", b"content-length: +5", b"content-length: 0x5", b"x: a\r\n b: c", b"x: a\nb: c", b"x: a\rb: c", b"content-length:\x005",
    ],
)  # fmt: skip
def test_heads_that_two_servers_may_read_differently_are_refused(port: int, lines: bytes) -> None:
    smuggled = b"0\r\n\r\nGET /health HTTP/1.1\r\nhost: here\r\n\r\n"
    answer = say(port, b"POST /predict HTTP/1.1\r\nhost: here\r\n" + lines + b"\r\n\r\n" + smuggled)
    assert statuses(answer) in ([400], [400, 400])
    assert b"ready" not in answer


def test_a_refused_body_that_waits_for_leave_ends_the_connection(port: int) -> None:
    """`Expect: 100-continue`: after a refusal the body may come or not, so the next bytes are ambiguous."""
    head = b"POST /nothing HTTP/1.1\r\nhost: here\r\nexpect: 100-continue\r\ncontent-length: 40\r\n\r\n"
    follows = b"GET /health HTTP/1.1\r\nhost: here\r\n\r\n"
    assert statuses(say(port, head, follows + b"x" * 40 + follows, pause_s=0.1, close=False)) == [404]
    asked = post("/predict", BODY, "expect: 100-continue")
    at = asked.index(b"\r\n\r\n") + 4
    assert statuses(say(port, asked[:at], asked[at:], b"GET / HTTP/9\r\n\r\n", pause_s=0.3, close=False)) == [
        100,
        200,
        400,
    ]


@pytest.mark.parametrize("size", [2_000_001, 30_000_000])
def test_a_body_that_is_too_long_is_answered(port: int, size: int) -> None:
    for headers in ([], ["connection: close"]):
        answer = say(port, post("/predict", b" " * size, *headers), close=False)
        assert statuses(answer) == [413]
        assert answer.endswith(b'"}')
    chunked = b"POST /predict HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n" % size
    assert statuses(say(port, chunked, b" " * size, close=False)) == [413]
    is_well(port)


def test_a_body_without_an_end_is_heard_for_a_while(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayline.serve.http_connection.LINGER_S", 1.0)

    def send(connection: socket.socket) -> None:
        connection.sendall(b"POST /predict HTTP/1.1\r\nhost: here\r\ncontent-length: 999999999999\r\n\r\n")
        until = time.monotonic() + 20
        while time.monotonic() < until:
            connection.sendall(b" " * 1000)
            time.sleep(0.02)

    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection, pytest.raises(ConnectionError):
        send(connection)
    is_well(port)


def test_a_long_head_in_one_packet_is_refused(port: int) -> None:
    for n in (70_000, 200_000):
        for line in (b"x: " + b"a" * n, b"\r\n".join(b"x%d: a" % i for i in range(n // 10))):
            for body in (b"", b"x" * 10):
                answer = say(
                    port,
                    b"POST /predict HTTP/1.1\r\nhost: here\r\n"
                    + line
                    + b"\r\ncontent-length: %d\r\n\r\n" % len(body)
                    + body,
                    close=False,
                )
                assert statuses(answer) == [431]
    assert ask(port, b"GET /health HTTP/1.1\r\nhost: here\r\nx: " + b"a" * 60_000 + b"\r\n\r\n")[0][0] == 200

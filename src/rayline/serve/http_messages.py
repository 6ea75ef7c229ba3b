"""One request and its answer in the form of ASGI, independent of models."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import parse_qs

from rayline.serve.protocol import HTTPError, dumps

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

JSON = b"application/json"

SHORT_BODY = 64 << 10
"""Longer bodies are parsed and predicted in a thread."""


@dataclass(frozen=True)
class HTTPResponse:
    """An answer to the client."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: Sequence[tuple[bytes, bytes]] = ()


class ClientDisconnected(Exception):  # noqa: N818  # not an error
    """The client has disconnected."""


class HTTPRequest:
    """One request: headers, query, and the body once it has been read."""

    __slots__ = ("body", "headers", "is_read", "query", "receive", "scope", "size")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope, self.receive = scope, receive
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.query: bytes = scope.get("query_string", b"")
        self.body, self.is_read = b"", False
        self.size = 0  # bytes of the body that are held in memory

    @property
    def content_type(self) -> bytes:
        return self.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()

    def flag(self, name: str) -> bool:
        """Return whether a query parameter is set (`?proba`, `?proba=true`, `?proba=1`)."""
        if not self.query:
            return False
        values = parse_qs(self.query.decode("latin-1"), keep_blank_values=True).get(name)
        return values is not None and values[-1].lower() in ("", "1", "true", "yes")

    async def read(self, max_bytes: int, memory: BodyBudget, threads: ThreadPoolExecutor) -> None:
        """Read and decompress the body. Raises HTTPError when it is longer than `max_bytes`, or `memory` is full, and ClientDisconnected when the client disconnects."""
        declared = self.headers.get(b"content-length", b"")
        if declared.isdigit() and (len(declared) > 18 or int(declared) > max_bytes):
            raise _too_large(max_bytes)
        parts: list[bytes] = []
        is_open = True
        while is_open:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnected
            part = message.get("body", b"")
            self._take(len(part), memory)
            if self.size > max_bytes:
                raise _too_large(max_bytes)
            parts.append(part)
            is_open = message.get("more_body", False)
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        self.is_read = True
        if b"content-encoding" in self.headers:
            unpack = partial(_unpacked, body, self.headers[b"content-encoding"], max_bytes)
            body = await asyncio.get_running_loop().run_in_executor(threads, unpack)
            self._take(len(body), memory)
        self.body = body

    async def disconnected(self) -> None:
        """Wait until the client disconnects."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    def _take(self, n: int, memory: BodyBudget) -> None:
        memory.take(self.size, n)
        self.size += n


class BodyBudget:
    """The memory budget for bodies in progress.

    The first `SHORT_BODY` bytes of each body have a budget of their own, so a few clients that send long bodies slowly do not block
    others.
    """

    def __init__(self, max_bytes: int, max_short_bytes: int) -> None:
        self._room = {False: max_bytes, True: max_short_bytes}

    def take(self, held: int, n: int) -> None:
        """Reserve `n` more bytes for a body that already holds `held` bytes. Raises HTTPError (503) when the budget is exhausted."""
        short, long = _split(held + n, held)
        if short > self._room[True] or long > self._room[False]:
            raise overloaded()
        self._room[True] -= short
        self._room[False] -= long

    def release(self, n: int) -> None:
        """Release the `n` bytes of a body."""
        short, long = _split(n, 0)
        self._room[True] += short
        self._room[False] += long


def _split(n: int, since: int) -> tuple[int, int]:
    """Return how many of the bytes from `since` to `n` of a body are among its first `SHORT_BODY` bytes, and how many are not."""
    short = min(n, SHORT_BODY) - min(since, SHORT_BODY)
    return short, n - since - short


def overloaded() -> HTTPError:
    """Return the error for a request when too many are waiting."""
    return HTTPError(503, "Too many requests are waiting. Try again in a second.", headers=[(b"retry-after", b"1")])


def refused(refusal: HTTPError) -> HTTPResponse:
    """Return the answer for an error."""
    return HTTPResponse(refusal.status, dumps(refusal.body()), JSON, refusal.headers)


async def send_answer(send: Send, answer: HTTPResponse) -> None:
    """Send an answer through the server."""
    headers = [(b"content-type", answer.content_type), (b"content-length", b"%d" % len(answer.body)), *answer.headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


def _too_large(max_bytes: int) -> HTTPError:
    return HTTPError(413, f"The body is longer than {max_bytes} bytes.", headers=[(b"connection", b"close")])


def _unpacked(body: bytes, encoding: bytes, max_bytes: int) -> bytes:
    bits = {b"gzip": 31, b"deflate": 15, b"identity": 0}.get(encoding.strip().lower())
    if bits is None:
        raise HTTPError(415, "Expected a Content-Encoding of gzip, deflate or identity.")
    if not bits:
        return body
    try:
        unpacker = zlib.decompressobj(bits)
        data = unpacker.decompress(body, max_bytes + 1)
    except zlib.error:
        raise HTTPError(400, "The body is not compressed as its Content-Encoding says.") from None
    if len(data) > max_bytes:
        raise _too_large(max_bytes)
    if not unpacker.eof:
        raise HTTPError(400, "The compressed body was cut off.")
    if unpacker.unused_data:
        raise HTTPError(400, f"{len(unpacker.unused_data)} bytes follow the compressed body. Send one gzip member.")
    return data

"""The server in this process: uvicorn, with connections that refuse excess requests early and limit all waiting times.

An overloaded server must spend little time on the requests that it refuses, or none is left for the others. A prediction takes about as
long as uvicorn's own work on a request, so a request is refused before that work.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any, Unpack

import uvicorn

from rayline.core.arguments import known_arguments
from rayline.inference.pipeline import ModelLike
from rayline.serve.app import App, create_app
from rayline.serve.http_connection import CoalescingConnection, relax_gc
from rayline.serve.options import ServerKeywords, ServerOptions, changed

HEAD_S = 10.0
"""Seconds that a client may take for the head of a request, or for a body that is not read. Bodies that are read are
limited by the request's own timeout."""

MAX_HEAD_BYTES = 64 << 10

KEEP_ALIVE_S = 75
"""Seconds that a connection may stay open without a request; longer than the timeout of common proxies."""


@known_arguments
def run(
    model: ModelLike,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    options: ServerOptions | None = None,
    **changes: Unpack[ServerKeywords],
) -> None:
    """Serve a model in this process until interrupted.

    By default only this machine can reach the server, and only by the names of this machine and those of
    `allowed_hosts`. `host="0.0.0.0"` serves other machines too.

    Parameters
    ----------
    model
        An InferencePipeline, a Model, a framework's own model, or the path of a saved pipeline.
    host, port
        The address to listen on.
    options, changes
        As in `create_app`.

    Raises
    ------
    ParameterError, ArtifactError
        As `create_app`.

    Examples
    --------
    >>> from rayline import serve
    >>> serve.run("late.rayline", port=8080)  # doctest: +SKIP
    """
    app = create_app(model, changed(options, changes).at(host))
    before = gc.get_threshold()
    gc.freeze()  # existing objects live until the end
    relax_gc()
    try:
        uvicorn.Server(config(app, host, port)).run()
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
        app.close()


def config(app: App, host: str = "127.0.0.1", port: int = 8080) -> uvicorn.Config:
    """Return the uvicorn configuration for the app."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=BoundedConnection,
        ws="none",
        lifespan="on",
        timeout_keep_alive=KEEP_ALIVE_S,
        log_level="error",
        access_log=False,
        server_header=False,
    )


class BoundedConnection(CoalescingConnection):
    """A connection of one client with limits.

    While the maximum number of requests is running, predictions are answered 503 after a look at the first bytes, without parsing.
    A head that is too long or incomplete ends its connection. An idle connection is closed without an answer: browsers and
    connection pools open some in advance.
    """

    def __init__(self, config: uvicorn.Config, *rest: Any, **more: Any) -> None:
        super().__init__(config, *rest, **more)
        app = config.app
        assert isinstance(app, App)
        self._overloaded, self._max_queued = app.overloaded, app.settings.max_queued_requests
        self._head_bytes = 0
        self._timer: asyncio.TimerHandle | None = (
            None  # runs until the head, or the rest of an unread body, has arrived
        )
        self._refused_s = 0.0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._idle(KEEP_ALIVE_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if (
            len(self.tasks) >= self._max_queued
            and self._is_between_requests
            and not self._is_answering()
            and _is_complete_post(data)
        ):
            self._refuse()
            return
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._is_between_requests and self.timeout_keep_alive_task is None and not self._is_answering():
            self._idle(KEEP_ALIVE_S)  # empty lines are not a request
        if self._head_bytes < 0 or self._is_between_requests:  # the head is complete
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._too_long()
        elif self._timer is None:
            self._start_timer(self._too_slow)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        self._head_bytes = -1
        self._cancel_timer()
        if (
            len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > MAX_HEAD_BYTES
        ):  # in one packet
            self._too_long()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._cancel_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._is_between_requests and not self.transport.is_closing():  # the rest of a body that is not read
            self._start_timer(self.transport.close)

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self) -> None:
        self.transport.write_whole(self._overloaded())  # type: ignore[attr-defined]
        self._refused_s = self.loop.time()  # a timer for each refusal would cost more than the refusal

    def timeout_keep_alive_handler(self) -> None:
        left_s = self._refused_s + KEEP_ALIVE_S - self.loop.time()
        if left_s > 0:
            self._idle(left_s)
        else:
            super().timeout_keep_alive_handler()

    def _idle(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def _start_timer(self, otherwise: Callable[[], None]) -> None:
        self._cancel_timer()
        self._timer = self.loop.call_later(HEAD_S, otherwise)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_long(self) -> None:
        self._close(b"431 Request Header Fields Too Large")

    def _too_slow(self) -> None:
        self._close(b"408 Request Timeout")

    def _close(self, status: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            self.transport.close()


def _is_complete_post(data: bytes) -> bool:
    """Return whether these bytes are exactly one POST with a Content-Length; only such requests are refused without parsing."""
    if not data.startswith(b"POST "):
        return False
    head, _, body = data.partition(b"\r\n\r\n")
    head = head.lower()
    if b" http/1.1\r\n" not in head or b"\r\ntransfer-encoding:" in head:
        return False
    length = _value(head, b"content-length")
    return (
        head.count(b"content-length") == 1
        and length.isdigit()
        and len(length) < 18
        and int(length) == len(body)
        and _value(head, b"connection") in (b"", b"keep-alive")
    )


def _value(head: bytes, name: bytes) -> bytes:
    return head.partition(b"\r\n" + name + b":")[2].partition(b"\r\n")[0].strip()

"""Connections and garbage collection of a serving process, for both servers: uvicorn connections that send each answer in one
piece, and rare garbage collections."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from rayline.compat.uvicorn import set_default_http_protocol

GC_THRESHOLD_OBJECTS = 500_000
"""More objects than all requests that may wait consist of (100 objects each). Otherwise a growing queue triggers garbage collections,
20 to 40 ms each, during which it grows further."""

LINGER_S = 10.0
"""Seconds for which the data of a client that is still sending is read after its connection has ended."""

_UPGRADE_HEADERS = (b"upgrade", b"http2-settings")


def relax_gc() -> None:
    """Make garbage collections rare. A request leaves no reference cycles; searching for them among the requests in progress costs a
    fifth of the time, and half of it with a thousand connections."""
    gc.set_threshold(GC_THRESHOLD_OBJECTS, 20, 50)


class CoalescingTransport:
    """A transport that sends all data written in one step of the event loop as one piece, and closes without
    losing data already written.

    uvicorn writes head and body of an answer separately. If the process dies between the two, the proxy in front
    has already begun the answer and cannot retry the request on another replica.

    A connection that is closed while its client is still sending is reset, and the answer is lost. Therefore the writing side is closed
    first, and incoming data is read and discarded for `LINGER_S` seconds.
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop, is_sending: Callable[[], bool]) -> None:
        self._transport, self._loop, self._is_sending = transport, loop, is_sending
        self._held: list[bytes] = []
        self._is_ending = False

    def write(self, data: bytes) -> None:
        """Send the data together with everything else written in this step of the event loop."""
        if self._is_ending:
            return
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)

    def write_whole(self, data: bytes) -> None:
        """Send an answer that is already one piece."""
        self._flush()
        self._transport.write(data)

    def close(self) -> None:
        """Send the buffered data, then close."""
        self._flush()
        if self._is_ending:
            return
        if self._is_sending() and not self._transport.is_closing() and self._transport.can_write_eof():
            self._is_ending = True
            self._transport.write_eof()
            self._transport.resume_reading()
            self._loop.call_later(LINGER_S, self._transport.close)
        else:
            self._transport.close()

    def is_closing(self) -> bool:
        """Return whether the connection is closing: nothing is written or read any more."""
        return self._is_ending or bool(self._transport.is_closing())

    def _flush(self) -> None:
        if self._held:
            data = b"".join(self._held)
            self._held.clear()
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class CoalescingConnection(HttpToolsProtocol):
    """A uvicorn connection that sends each answer in one piece, and uses HTTP/1.1 even if a client offers an upgrade.

    A client may offer another protocol in its request (`Connection: Upgrade`; Java's client does). The parser then treats the end of the head
    as the end of the request, and the body as the next request. Here such a head is parsed again without the offer.
    """

    def __init__(self, config: uvicorn.Config, *rest: Any, **more: Any) -> None:
        super().__init__(config, *rest, **more)
        self._is_between_requests = True  # no request is partly read

    def connection_made(self, transport: Any) -> None:
        super().connection_made(CoalescingTransport(transport, self.loop, lambda: not self._is_between_requests))  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._parse_again(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._is_between_requests = False  # the following bytes are unknown
            self.send_400_response("Invalid HTTP request received.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_between_requests = False

    def on_headers_complete(self) -> None:
        if not self._is_abandoned():
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._is_abandoned():
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._is_abandoned():
            self._is_between_requests = True
            super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.expect_100_continue and not self._is_between_requests:
            self.transport.close()  # the body may follow or not, so the next bytes are ambiguous

    def _is_abandoned(self) -> bool:
        """Return whether this request is not answered, because it is parsed again or the connection is closing."""
        return bool(self.parser.should_upgrade()) or self.transport.is_closing()

    def _parse_again(self, rest: bytes) -> None:
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            self.send_400_response("This server is not a proxy.")
            return
        lines = [b"%s %s HTTP/%s" % (method, self.url, version)]
        lines += [
            name + b": " + value for name, value in self.headers if name not in (*_UPGRADE_HEADERS, b"connection")
        ]
        words = [word.strip() for name, value in self.headers if name == b"connection" for word in value.split(b",")]
        if kept := [word for word in words if word.lower() not in _UPGRADE_HEADERS]:
            lines.append(b"connection: " + b", ".join(kept))
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn
        self.data_received(b"\r\n".join(lines) + b"\r\n\r\n" + rest)


def use_for_ray_serve() -> None:
    """Make CoalescingConnection uvicorn's default in this process; Ray Serve does not set a protocol class."""
    set_default_http_protocol(f"{__name__}:{CoalescingConnection.__name__}")

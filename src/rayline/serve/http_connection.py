"""What a process that answers requests needs whoever runs its server: connections of uvicorn that send an answer in one
piece, and a search for cycles that stays out of the way."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from rayline import compat

YOUNG_OBJECTS = 500_000
"""More than all requests that may wait are made of (100 objects each). Otherwise a growing queue sets off the search for cycles,
20 to 40 ms in which it grows further."""

LINGER_S = 10.0
"""So long a client is heard that still sends when its connection ends."""

_OFFERS = (b"upgrade", b"http2-settings")


def relax_gc() -> None:
    """A request leaves no cycles: looking for some among the requests that are under way costs a fifth of the time, and half
    of it with a thousand connections."""
    gc.set_threshold(YOUNG_OBJECTS, 20, 50)


class CoalescingTransport:
    """A transport that hands on everything that is written in one step of the event loop as one piece, and closes without
    cutting off what it has written.

    uvicorn writes head and body of an answer one after the other. When its process dies between the two, a proxy in front
    has begun to answer, and cannot ask another replica any more.

    A connection that is closed while its client sends is reset, and the answer is lost with it. So the end is told first, and what
    still comes is read for `LINGER_S` seconds, and forgotten.
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop, is_sending: Callable[[], bool]) -> None:
        self._transport, self._loop, self._is_sending = transport, loop, is_sending
        self._held: list[bytes] = []
        self._is_ending = False

    def write(self, data: bytes) -> None:
        """Send, together with what else is written before the loop goes on."""
        if self._is_ending:
            return
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)

    def write_whole(self, data: bytes) -> None:
        """Send an answer that is one piece already."""
        self._flush()
        self._transport.write(data)

    def close(self) -> None:
        """Send what is held, and close."""
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
        """Whether nothing is to be written or read any more."""
        return self._is_ending or bool(self._transport.is_closing())

    def _flush(self) -> None:
        if self._held:
            data = b"".join(self._held)
            self._held.clear()
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class CoalescingConnection(HttpToolsProtocol):
    """A connection of uvicorn whose answers go out in one piece, and that speaks HTTP/1.1 whatever else a client offers.

    A client may ask for another protocol beside its request (`Connection: Upgrade`; Java's does). The parser then takes the head
    for the end of the request, and its body for the next one. Here such a head is read again without the offer.
    """

    def __init__(self, config: uvicorn.Config, *rest: Any, **more: Any) -> None:
        super().__init__(config, *rest, **more)
        self._between = True  # no request is half read

    def connection_made(self, transport: Any) -> None:
        super().connection_made(CoalescingTransport(transport, self.loop, lambda: not self._between))  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._read_again(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._between = False  # whatever it is that comes
            self.send_400_response("Invalid HTTP request received.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._between = False

    def on_headers_complete(self) -> None:
        if not self._is_left():
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._is_left():
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._is_left():
            self._between = True
            super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.expect_100_continue and not self._between:
            self.transport.close()  # the body may come or not: nobody can tell what the next bytes are

    def _is_left(self) -> bool:
        """Whether this request is not answered: it is read again, or the connection ends."""
        return bool(self.parser.should_upgrade()) or self.transport.is_closing()

    def _read_again(self, rest: bytes) -> None:
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            self.send_400_response("This is no proxy.")
            return
        lines = [b"%s %s HTTP/%s" % (method, self.url, version)]
        lines += [name + b": " + value for name, value in self.headers if name not in (*_OFFERS, b"connection")]
        words = [word.strip() for name, value in self.headers if name == b"connection" for word in value.split(b",")]
        if kept := [word for word in words if word.lower() not in _OFFERS]:
            lines.append(b"connection: " + b", ".join(kept))
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn
        self.data_received(b"\r\n".join(lines) + b"\r\n\r\n" + rest)


def use_for_ray_serve() -> None:
    """Make it the one that uvicorn takes in this process when it is not told which: Ray Serve does not tell."""
    compat.set_default_http_protocol(f"{__name__}:{CoalescingConnection.__name__}")

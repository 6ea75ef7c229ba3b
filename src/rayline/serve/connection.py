"""What a process that answers requests needs whoever runs its server: connections of uvicorn that send an answer in one
piece, and a search for cycles that stays out of the way."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

YOUNG_OBJECTS = 500_000
"""More than all requests that may wait are made of (100 objects each). Otherwise a growing queue sets off the search for cycles,
20 to 40 ms in which it grows further."""


def seldom_search_for_cycles() -> None:
    """A request leaves no cycles: looking for some among the requests that are under way costs a fifth of the time, and half
    of it with a thousand connections."""
    gc.set_threshold(YOUNG_OBJECTS, 20, 50)


class OnePiece:
    """A transport that hands on everything that is written in one step of the event loop as one piece.

    uvicorn writes head and body of an answer one after the other. When its process dies between the two, a proxy in front
    has begun to answer, and cannot ask another replica any more.
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._held: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Send, together with what else is written before the loop goes on."""
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
        self._transport.close()

    def _flush(self) -> None:
        if self._held:
            data = b"".join(self._held)
            self._held.clear()
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class OnePieceConnection(HttpToolsProtocol):
    """A connection of uvicorn whose answers go out in one piece."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(OnePiece(transport, self.loop))  # type: ignore[arg-type]


def use_for_ray_serve() -> None:
    """Make it the one that uvicorn takes in this process when it is not told which: Ray Serve does not tell."""
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{OnePieceConnection.__name__}"

"""Sockets: directories with paths that are short enough for Unix sockets, and whether a server at an address answers."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

from rayline.core.errors import ResourceError

MAX_SOCKET_PATH = 103
"""Bytes of a socket's path that every system takes (107 on Linux, 103 on macOS)."""

ANSWER_TIMEOUT_S = 5.0
"""Seconds within which a server has to accept a connection, and then to answer."""

SETTINGS_FRAME = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""The head of the frame that both sides of HTTP/2, and so of gRPC, send first: 3 bytes of length, then the kind."""

HTTP2_START = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SETTINGS_FRAME
"""The first bytes of a client of HTTP/2 (RFC 9113, section 3.4)."""


def short_directory(n_more: int) -> str:
    """Return a directory for temporary files below which a socket's path may be `n_more` bytes longer, with the slash.

    The usual one when it is short enough (`TMPDIR`), otherwise one that the system has. Raises ResourceError when there is none.
    """
    for place in (tempfile.gettempdir(), "/tmp", os.environ.get("XDG_RUNTIME_DIR", ""), "/var/tmp", "/dev/shm"):  # noqa: S108
        if (
            place
            and len(os.fsencode(place)) + n_more <= MAX_SOCKET_PATH
            and Path(place).is_dir()
            and os.access(place, os.W_OK | os.X_OK)
        ):
            return place
    raise ResourceError(
        f"No directory for temporary files has a path of at most {MAX_SOCKET_PATH - n_more} bytes, as Unix sockets need.",
        f"Expected a writable TMPDIR or /tmp; got {tempfile.gettempdir()!r}.",
        "set TMPDIR to a short path.",
    )


def check_grpc_server(host: str, port: int) -> None:
    """Raise OSError when no gRPC server, as every Ray is one, accepts a connection and answers within `ANSWER_TIMEOUT_S` each."""
    with socket.create_connection((host, port), timeout=ANSWER_TIMEOUT_S) as connection:
        if os.environ.get("RAY_USE_TLS", "0") != "0":
            return  # such a server speaks after a handshake only
        connection.sendall(HTTP2_START)
        try:
            answer = connection.recv(len(SETTINGS_FRAME))
        except TimeoutError:
            answer = b""
        if answer[3:4] != SETTINGS_FRAME[3:4]:
            raise OSError(f"what listens there has not answered as Ray does within {ANSWER_TIMEOUT_S:.0f} s")

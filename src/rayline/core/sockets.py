"""Directories for Unix sockets, whose paths must be short: the directory for temporary files may be too long."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from rayline.core.errors import ResourceError

MAX_SOCKET_PATH = 103
"""Bytes of a socket's path that every system takes (107 on Linux, 103 on macOS)."""


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

"""The Ray session: start Ray quietly when a call needs it and none is running, and silence it during work."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import threading
from collections.abc import Iterator
from typing import Any

import ray
from ray.data import DataContext

from rayline.compat.ray import session_directory
from rayline.core.errors import ResourceError, first_line
from rayline.core.sockets import MAX_SOCKET_PATH, check_grpc_server, short_directory

SESSION_BYTES = len("/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store")
"""Length in bytes of the path of a Ray socket, below the directory for temporary files."""


def ensure_ray() -> None:
    """Connect to the Ray of RAY_ADDRESS, or start a quiet one on this machine, unless this process already has one.

    A Ray that was started here ends with this process. Nothing is printed and nothing is written into the home directory:
    the authentication token is kept in the environment of this process and its children.

    Raises ResourceError when Ray cannot be reached or started.
    """
    with _starting:  # the second of two threads uses what the first has started
        if not ray.is_initialized():
            _start()


_starting = threading.Lock()


def _start() -> None:
    address = os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        _keep_token_private()
        options["include_dashboard"] = False
        options |= _short_session()
    try:
        _check_reachable(address)
        ray.init(address, **options)
    except Exception as error:
        raise ResourceError.here(
            f"Ray could not be {'started' if address == 'local' else f'reached at RAY_ADDRESS={address}'}: {first_line(error)}.",
            "Expected a running Ray, or to start one on this machine.",
            "check RAY_ADDRESS, or call ray.init() yourself to see the reason.",
        ) from error
    for handler in _consoles():
        handler.setLevel(logging.ERROR)
    DataContext.get_current().enable_progress_bars = False


def _check_reachable(address: str) -> None:
    """Raise OSError when no Ray answers at host:port: Ray itself would wait for minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdigit():
        check_grpc_server(host.strip("[]"), int(port))


def _short_session() -> dict[str, Any]:
    """Return the option for a shorter directory of sockets, when the path of the usual one is too long: `TMPDIR/ray/session_…/sockets/…`."""
    usual = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR", "/tmp")  # noqa: S108  # as Ray
    if len(os.fsencode(usual)) + SESSION_BYTES <= MAX_SOCKET_PATH:
        return {}
    return session_directory(f"{short_directory(SESSION_BYTES)}/ray")


def _keep_token_private() -> None:
    # A local Ray requires a token, and writes one into the home directory when it finds none.
    if not any(name in os.environ for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def connection() -> str:
    """Return what identifies this process' connection to Ray."""
    context = ray.get_runtime_context()
    return f"{context.get_job_id()} {context.get_node_id()}"


def in_worker() -> bool:
    """Return whether this is the process of a task or an actor, and not of a driver."""
    return bool(ray.get_runtime_context().worker.mode == ray.WORKER_MODE)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Silence Ray Data on the console; its log file stays complete."""
    consoles, silent = _consoles(), logging.Filter("nothing")
    for handler in consoles:
        handler.addFilter(silent)
    try:
        yield
    finally:
        for handler in consoles:
            handler.removeFilter(silent)


def _consoles() -> list[logging.Handler]:
    return [handler for handler in logging.getLogger("ray.data").handlers if handler.name == "console"]

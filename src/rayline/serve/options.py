"""Options of a server: limits, batching, token. They are the same for uvicorn and for Ray Serve."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

from rayline.core.arguments import integer, known_arguments
from rayline.core.errors import ParameterError, at
from rayline.core.representation import representation

LOOPBACK = ("localhost", "127.0.0.1", "::1")

HOST = re.compile(r"[A-Za-z0-9_.:-]{1,255}")

CPU_BATCH_ROWS, GPU_BATCH_ROWS = 64, 1024
"""Defaults of `max_batch_size`."""

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


class ServerKeywords(TypedDict, total=False):
    """The fields of `ServerOptions` as keywords."""

    name: str
    max_batch_size: int | None
    batch_wait_timeout_s: float
    max_queued_requests: int
    max_body_bytes: int
    request_timeout_s: float
    token: str | None
    allowed_hosts: tuple[str, ...] | None


@known_arguments
@dataclass(frozen=True, repr=False)
class ServerOptions:
    """Limits and behaviour of a server.

    Parameters
    ----------
    name
        The name of the model in URLs: letters, digits, `_`, `-`, `.`.
    max_batch_size
        The maximum number of rows of waiting requests that are predicted in one call of the model; by default 64 on a CPU and
        1,024 on a GPU, which takes as long for many rows as for one. A server with a GPU calls the model with this many rows before it
        answers requests, and halves the number until they fit into the GPU's memory.
    batch_wait_timeout_s
        How many seconds a request may wait for others to share a call with. With 0, requests share a call only when they are
        waiting anyway, and a single request does not wait.
    max_queued_requests
        The maximum number of waiting requests; further ones are answered 503 with Retry-After.
    max_body_bytes
        The maximum size of a body in bytes; a longer one is answered 413.
    request_timeout_s
        The maximum time for a request in seconds; a slower one is answered 504. Clients cannot change it.
    token
        When given, requests other than health checks need `Authorization: Bearer <token>`.
    allowed_hosts
        Host names that requests other than health checks may use (their Host header, without the port), and whose pages may
        post; others are answered 421 and 403. None allows every name. Exception: a server that listens on this machine only accepts only
        localhost, because other names come from web pages that a browser on this machine has opened.

    Raises
    ------
    ParameterError
        When a value is invalid.

    Examples
    --------
    >>> from rayline import serve
    >>> serve.ServerOptions(name="late", request_timeout_s=5.0).max_queued_requests
    512
    """

    name: str = "model"
    max_batch_size: int | None = None
    batch_wait_timeout_s: float = 0.0
    max_queued_requests: int = 512
    max_body_bytes: int = 16 << 20
    request_timeout_s: float = 30.0
    token: str | None = field(default=None, repr=False)
    allowed_hosts: tuple[str, ...] | None = None

    __repr__ = representation

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise ParameterError.value("name", "up to 100 letters, digits, '_', '-' and '.'", self.name, where="serve")
        for name in ("max_batch_size", "max_queued_requests", "max_body_bytes"):
            with at("serve"):
                integer(name, getattr(self, name), optional=name == "max_batch_size")
        for name, low_s, high_s in (("batch_wait_timeout_s", 0.0, 60.0), ("request_timeout_s", 0.001, 86_400.0)):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not low_s <= value <= high_s:
                raise ParameterError.value(name, f"seconds from {low_s:g} to {high_s:g}", value, where="serve")
            object.__setattr__(self, name, float(value))  # NumPy's number, too
        if self.token is not None and (
            not isinstance(self.token, str) or not self.token or not self.token.isprintable()
        ):
            raise ParameterError("serve: token has a wrong value.", "Expected printable characters.", "change token.")
        if self.allowed_hosts is not None:
            names: Any = self.allowed_hosts
            if not isinstance(names, (list, tuple, set)) or not all(
                isinstance(name, str) and HOST.fullmatch(name) for name in names
            ):
                raise ParameterError.value(
                    "allowed_hosts",
                    "names of hosts without a port, such as 'late.example.com'",
                    self.allowed_hosts,
                    where="serve",
                )
            object.__setattr__(self, "allowed_hosts", tuple(name.lower() for name in names))

    def batch_rows(self, *, on_gpu: bool) -> int:
        """Return how many rows of waiting requests share a call of the model.

        Parameters
        ----------
        on_gpu
            Whether the model computes on a GPU.

        Returns
        -------
        int
            `max_batch_size`, or its default on this kind of device: 64 rows on a CPU, 1,024 on a GPU.
        """
        if self.max_batch_size is not None:
            return self.max_batch_size
        return GPU_BATCH_ROWS if on_gpu else CPU_BATCH_ROWS

    def at(self, host: str) -> ServerOptions:
        """Return the options for a server at this address.

        Parameters
        ----------
        host
            The address to listen on.

        Returns
        -------
        ServerOptions
            At an address that only this machine can reach, one that accepts only the names of this machine and `allowed_hosts`;
            otherwise this object.
        """
        if not is_loopback(host):
            return self
        return replace(self, allowed_hosts=tuple(dict.fromkeys([*LOOPBACK, host.lower(), *(self.allowed_hosts or ())])))


def changed(options: ServerOptions | None, changes: ServerKeywords) -> ServerOptions:
    """Return the options with these changes. Raises ParameterError on an unknown name or a wrong value."""
    if not isinstance(options, (ServerOptions, type(None))):
        raise ParameterError.value("options", "a ServerOptions, or None", options, where="serve")
    return replace(options or ServerOptions(), **changes)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a server at this address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"

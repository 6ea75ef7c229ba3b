"""Private names of uvicorn."""

from __future__ import annotations

from rayline.compat.private_name import register

_HTTP_PROTOCOLS = register(
    "uvicorn.config:HTTP_PROTOCOLS",
    "uvicorn 0.54.0",
    use="Make Ray Serve's replicas use Rayline's connection class; Ray Serve has no setting for it.",
    fallback="uvicorn's own class: head and body of a response are two writes.",
)
_HTTPTOOLS_PROTOCOL = register(
    "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol._unset_keepalive_if_required",
    "uvicorn 0.54.0",
    use="The base class of Rayline's connections (serve/http_connection.py).",
    fallback="None: the connection class needs it.",
)


def set_default_http_protocol(path: str) -> None:
    """Make this class (`module:name`) the one that uvicorn uses in this process unless it is told another."""
    protocols = _HTTP_PROTOCOLS.find()
    if protocols is not None:
        protocols["auto"] = path

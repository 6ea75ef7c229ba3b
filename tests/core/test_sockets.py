"""Whether a server answers as Ray's do; directories for Unix sockets are tested with what uses them."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from rayline import doctor
from rayline.core import sockets
from rayline.core.sockets import SETTINGS_FRAME, check_grpc_server
from rayline.doctor import State


@contextlib.contextmanager
def server(answer: bytes | None) -> Iterator[int]:
    """A server that answers each connection with these bytes, or accepts it and is silent; yields its port."""
    connections: list[socket.socket] = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                connections.append(connection)
                if answer is not None:
                    connection.recv(64)
                    connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)  # ends accept()
    for connection in connections:
        connection.close()


@pytest.mark.parametrize("answer", [None, b"HTTP/1.0 505 HTTP Version Not Supported\r\n\r\n", b""])
def test_a_server_that_is_no_ray_is_noticed(answer: bytes | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "ANSWER_TIMEOUT_S", 0.3)
    with server(answer) as port, pytest.raises(OSError, match="has not answered as Ray does within"):
        check_grpc_server("127.0.0.1", port)
    with pytest.raises(OSError):
        check_grpc_server("127.0.0.1", port)  # nothing listens there now


def test_a_server_that_answers_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(SETTINGS_FRAME) as port:
        check_grpc_server("127.0.0.1", port)
    monkeypatch.setattr(sockets, "ANSWER_TIMEOUT_S", 0.3)
    monkeypatch.setenv("RAY_USE_TLS", "1")
    with server(None) as port:
        check_grpc_server("127.0.0.1", port)  # it would speak after a handshake only


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "ray://127.0.0.1:{port}", "nonsense"])
def test_the_doctor_asks_the_address(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with server(SETTINGS_FRAME) as port:
        monkeypatch.setenv("RAY_ADDRESS", address.format(port=port))
        (found,) = doctor._ray(True)
        assert found.state is (State.PROBLEM if address == "nonsense" else State.OK)
    (found,) = doctor._ray(True)
    assert found.state is State.PROBLEM
    assert "RAY_ADDRESS" in found.hint


@pytest.mark.ray
def test_a_ray_answers(ray_session: object) -> None:
    import ray

    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    check_grpc_server(host, int(port))

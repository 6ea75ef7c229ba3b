"""A load of HTTP requests from a process of its own: `python -m bench.load '{"port": 8080, …}' < request`.

Each connection has one request under way at a time. Without a rate, each asks again as soon as it is answered; with one,
requests are due at fixed times whatever the server does, and a request that finds no free connection waits for one: its
time counts from when it was due. Prints a `Load` as JSON. The requests are written and the answers read without any HTTP
library, so that one core sends several times what the servers here answer (`bench.serving` measures that, too).
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass, field
from typing import Any

DRAIN_S = 35.0
"""How long the last answers are waited for; requests that are still open then count as failed."""


def post(path: str, body: Any) -> bytes:
    """A request as it goes over the wire."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


@dataclass
class Load:
    """What came back.

    Attributes
    ----------
    statuses
        Answers by HTTP status; 0 for a connection that broke and for an answer that did not come.
    rate
        Answers of status 200 a second.
    p50_s, p99_s
        Of the times that answers of status 200 took.
    asked
        Requests that were sent, a second.
    unsent
        Requests that were due and had found no free connection a second later, at the end.
    retry_after
        Answers of status 503 that say when to try again.
    """

    statuses: dict[str, int]
    rate: float
    p50_s: float
    p99_s: float
    asked: float
    unsent: int = 0
    retry_after: int = 0

    @property
    def failed(self) -> int:
        """Requests that were not answered with 200."""
        return sum(n for status, n in self.statuses.items() if status != "200")


def measure(port: int, request: bytes, *, clients: int, seconds: float, rate: float | None = None) -> Load:
    """Ask a server on this machine for some seconds."""
    arguments = json.dumps({"port": port, "clients": clients, "seconds": seconds, "rate": rate})
    done = subprocess.run(
        [sys.executable, "-m", "bench.load", arguments], input=request, stdout=subprocess.PIPE, check=True
    )
    return Load(**json.loads(done.stdout))


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server listens."""
    for _ in range(900):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            raise RuntimeError("a server did not start")
        time.sleep(0.1)
    raise RuntimeError("a server does not listen")


@dataclass
class _Run:
    """The state that all connections share."""

    port: int
    request: bytes
    until: float
    asks_again: bool
    times: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    free: dict[_Connection, None] = field(default_factory=dict)
    due: deque[float] = field(default_factory=deque)
    connecting: list[asyncio.Future[None]] = field(default_factory=list)
    asked: int = 0
    open: int = 0
    retry_after: int = 0

    def on_free(self, connection: _Connection) -> None:
        """Give a connection its next request, if there is one."""
        now = time.perf_counter()
        if self.asks_again and now < self.until:
            connection.ask(now)
        elif self.due:
            connection.ask(self.due.popleft())
        else:
            self.free[connection] = None

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self.port)
        except OSError:
            self.statuses[0] += 1


class _Connection(asyncio.Protocol):
    def __init__(self, run: _Run) -> None:
        self.run = run
        self.busy, self.start, self.status, self.buffer, self.length = False, 0.0, 0, b"", -1

    def connection_made(self, transport: Any) -> None:  # uvloop's is of no class of asyncio
        self.transport = transport
        self.run.on_free(self)

    def ask(self, start: float) -> None:
        self.busy, self.start = True, start
        self.run.asked += 1
        self.run.open += 1
        self.transport.write(self.run.request)

    def data_received(self, data: bytes) -> None:
        data = self.buffer + data
        if self.length < 0:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self.buffer = data
                return
            head = data[: end + 2].lower()
            at = head.find(b"content-length:")
            if at < 0:  # in chunks: it ends with an empty one
                if not data.endswith(b"\r\n0\r\n\r\n"):
                    self.buffer = data
                    return
                self.length = len(data)
            else:
                self.length = end + 4 + int(head[at + 15 : head.index(b"\r\n", at)])
            self.status = int(data[9:12])
            self.run.retry_after += self.status == 503 and b"\r\nretry-after:" in head
        if len(data) < self.length:
            self.buffer = data
            return
        self.buffer, self.length = b"", -1
        if self.status == 200:
            self.run.times.append(time.perf_counter() - self.start)
        self._end(self.status)
        if not self.transport.is_closing():
            self.run.on_free(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.run.free.pop(self, None)
        if self.busy:
            self._end(0)
        if time.perf_counter() < self.run.until:
            self.run.connecting.append(asyncio.ensure_future(self.run.connect()))

    def _end(self, status: int) -> None:
        self.busy = False
        self.run.open -= 1
        self.run.statuses[status] += 1


async def _load(port: int, request: bytes, clients: int, seconds: float, rate: float | None) -> Load:
    begin = time.perf_counter()
    run = _Run(port, request, begin + seconds, asks_again=rate is None)
    await asyncio.gather(*(run.connect() for _ in range(clients)))
    if rate is not None:
        await asyncio.sleep(0.5)  # the server has still to take up the connections that the kernel has made
    begin = time.perf_counter()
    run.until = begin + seconds
    sent = 0
    while rate is not None and (now := time.perf_counter()) < run.until:
        while sent < (now - begin) * rate:
            due = begin + sent / rate
            sent += 1
            if run.free and not run.due:
                run.free.popitem()[0].ask(due)
            else:
                run.due.append(due)
        await asyncio.sleep(0.001)  # uvloop counts in milliseconds: with less the generator would take a whole core
    if rate is None:
        await asyncio.sleep(seconds)
    elapsed_s = time.perf_counter() - begin
    unsent = sum(due < run.until - 1.0 for due in run.due)
    run.due.clear()
    while run.open and time.perf_counter() < run.until + DRAIN_S:
        await asyncio.sleep(0.01)
    run.statuses[0] += run.open
    times = sorted(run.times) or [float("nan")]
    p50_s, p99_s = times[len(times) // 2], times[int(len(times) * 0.99)]
    statuses = {str(status): n for status, n in run.statuses.items() if n}
    return Load(statuses, len(run.times) / elapsed_s, p50_s, p99_s, run.asked / elapsed_s, unsent, run.retry_after)


if __name__ == "__main__":
    import uvloop

    arguments = json.loads(sys.argv[1])
    print(json.dumps(asdict(uvloop.run(_load(request=sys.stdin.buffer.read(), **arguments)))))

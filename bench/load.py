"""A load of HTTP requests from a process of its own: `python -m bench.load PORT CLIENTS SECONDS < request`.

Each client keeps one connection and sends the next request when it has the answer. Prints JSON: statuses, requests a
second, and percentiles of the time that an answer took.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from typing import Any


def post(path: str, body: Any) -> bytes:
    """A request as it goes over the wire."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


def measure(port: int, request: bytes, *, clients: int, seconds: float) -> dict[str, Any]:
    """Ask a server on this machine for some seconds."""
    command = [sys.executable, "-m", "bench.load", str(port), str(clients), str(seconds)]
    done = subprocess.run(command, input=request, stdout=subprocess.PIPE, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


async def _client(port: int, request: bytes, until: float, times: list[float], statuses: Counter[int]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while (start := time.perf_counter()) < until:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line[:15].lower() == b"content-length:")
        await reader.readexactly(length)
        times.append(time.perf_counter() - start)
        statuses[int(head[9:12])] += 1
    writer.close()


async def _load(port: int, request: bytes, clients: int, seconds: float) -> dict[str, Any]:
    times: list[float] = []
    statuses: Counter[int] = Counter()
    start = time.perf_counter()
    await asyncio.gather(*(_client(port, request, start + seconds, times, statuses) for _ in range(clients)))
    elapsed_s = time.perf_counter() - start
    times.sort()
    p50_s, p99_s = times[len(times) // 2], times[int(len(times) * 0.99)]
    return {"rate": len(times) / elapsed_s, "p50_s": p50_s, "p99_s": p99_s, "statuses": dict(statuses)}


if __name__ == "__main__":
    import uvloop

    port, clients, seconds = sys.argv[1:]
    print(json.dumps(uvloop.run(_load(int(port), sys.stdin.buffer.read(), int(clients), float(seconds)))))

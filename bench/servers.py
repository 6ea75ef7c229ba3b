"""The embedded server against plain variants of it: `python -m bench.servers` prints the figures of docs/decisions/0014.

Every variant has the row function, the checks and the batching of `rayline.serve`; they differ in what reads HTTP and finds
the way to the handler. Granian is no dependency: give a directory that holds it (`pip install --no-deps --target DIR granian click`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import typer

from bench.load import Load, free_port, measure, post, wait
from bench.serving import CATEGORIES, _fit
from bench.synthetic import FLOATS, table
from rayline.inference import artifact
from rayline.serve.batching import Batcher
from rayline.serve.options import ServerOptions
from rayline.serve.predictions import ServedModel
from rayline.serve.protocol import HTTPError, dumps, loads

PIPELINE = "RAYLINE_BENCH_PIPELINE"
MAX_BODY_BYTES = 16 << 20

WITHOUT = {
    "without refusals of unparsed requests": "from rayline.serve import server; server._is_complete_post = lambda data: False",
    "with Python's thresholds of garbage collection": "import gc; gc.set_threshold = lambda *thresholds: None",
    "without writing an answer in one piece": (
        "from rayline.serve import connection as c; from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as P; "
        "c.OnePieceConnection.connection_made = lambda self, transport: P.connection_made(self, transport); "
        "from rayline.serve import server; server._is_complete_post = lambda data: False"
    ),
}
"""Our server without one of its parts each, as statements that run before it starts."""


class Predictor:
    """The handler that the plain variants share."""

    def __init__(self) -> None:
        self.served = ServedModel(artifact.load(os.environ[PIPELINE]), "model")
        self.batcher = Batcher(ServerOptions(), ThreadPoolExecutor(2))

    async def answer(self, body: bytes) -> tuple[int, bytes]:
        """The status and the body of an answer to /predict."""
        try:
            rows, pipeline = self.served.reader.rows(loads(body)), self.served.pipeline
            scores = await self.batcher.scores(pipeline.model, [pipeline.prepare(row) for row in rows])
            return 200, self.served.predictions(scores).body
        except HTTPError as refusal:
            return refusal.status, dumps(refusal.body())


def fastapi_app() -> Any:
    """FastAPI's routing and a limit of the body."""
    from fastapi import FastAPI, Request, Response

    app, predictor = FastAPI(docs_url=None, redoc_url=None, openapi_url=None), Predictor()

    async def predict(request: Request) -> Response:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY_BYTES:
                return Response(status_code=413)
        status, content = await predictor.answer(bytes(body))
        retry = {"retry-after": "1"} if status == 503 else {}
        return Response(content, status, retry, "application/json")

    app.add_route("/predict", predict, methods=["POST"])
    return app


def granian_app() -> Any:
    """Granian's own interface, RSGI."""
    predictor = Predictor()

    async def app(scope: Any, protocol: Any) -> None:
        if scope.path != "/predict" or scope.method != "POST":
            protocol.response_empty(404, [])
            return
        if int(scope.headers.get("content-length") or MAX_BODY_BYTES) > MAX_BODY_BYTES:
            protocol.response_empty(413, [])
            return
        status, content = await predictor.answer(await protocol())
        retry = [("retry-after", "1")] if status == 503 else []
        protocol.response_bytes(status, [("content-type", "application/json"), *retry], content)

    return app


def our_app() -> Any:
    """Our app, to run under uvicorn as it is."""
    from rayline.serve.app import create_app

    return create_app(os.environ[PIPELINE])


def commands(granian: Path | None) -> dict[str, list[str]]:
    """The variants, each as a command that takes a port at its end."""
    uvicorn = [
        sys.executable,
        "-m",
        "uvicorn",
        "--factory",
        "--log-level",
        "error",
        "--no-access-log",
        "--http",
        "httptools",
        "--loop",
        "uvloop",
    ]
    serve = ["serve", os.environ[PIPELINE], "--port"]
    found = {
        "rayline serve": [sys.executable, "-c", "from rayline.cli import app; app()", *serve],
        **{
            f"rayline serve, {name}": [sys.executable, "-c", f"{script}; from rayline.cli import app; app()", *serve]
            for name, script in WITHOUT.items()
        },
        "our app, uvicorn as it is": [*uvicorn, "bench.servers:our_app", "--port"],
        "FastAPI, uvicorn as it is": [*uvicorn, "bench.servers:fastapi_app", "--port"],
    }
    if granian is not None:
        run = [
            sys.executable,
            "-m",
            "granian",
            "--interface",
            "rsgi",
            "--factory",
            "--http",
            "1",
            "--no-ws",
            "--log-level",
            "error",
        ]
        found["Granian, RSGI"] = [*run, "--loop", "uvloop", "bench.servers:granian_app", "--port"]
        run[run.index("rsgi")] = "asginl"
        found["our app, Granian, ASGI"] = [*run, "--loop", "uvloop", "bench.servers:our_app", "--port"]
    return found


@contextlib.contextmanager
def _running(command: list[str], granian: Path | None) -> Iterator[int]:
    port = free_port()
    paths = [str(granian)] if granian is not None and "granian" in command else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, *sys.path])}
    process = subprocess.Popen(
        [*command, str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )
    try:
        wait(port, process)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def main(
    granian: Annotated[Path | None, typer.Option(help="A directory with Granian; left out when omitted.")] = None,
    repeats: int = 5,
    seconds: float = 3.0,
) -> None:
    """Measure the variants in turn; each line is a median."""
    data = (
        table(20_000, seed=0).select([*FLOATS, *CATEGORIES]).with_columns((pl.col("f4") + pl.col("f5") > 9).alias("y"))
    )
    request = post("/predict", data.drop("y").head(1).to_dicts())
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        os.environ[PIPELINE] = f"{folder}/bench.rayline"
        _fit(data).save(os.environ[PIPELINE])
        ports = {name: stack.enter_context(_running(command, granian)) for name, command in commands(granian).items()}
        for clients in (1, 8):
            found: dict[str, list[Load]] = {name: [] for name in ports}
            for port in ports.values():
                measure(port, request, clients=clients, seconds=1)
            for _ in range(repeats):
                for name, port in ports.items():
                    found[name].append(measure(port, request, clients=clients, seconds=seconds))
            for name, loads_ in found.items():
                rate, p99 = (statistics.median(getattr(one, of) for one in loads_) for of in ("rate", "p99_s"))
                print(
                    f"{clients} clients, {name}: {rate:.0f}/s, p99 {1000 * p99:.2f} ms, failed {sum(one.failed for one in loads_)}",
                    flush=True,
                )
        overloads: dict[str, list[tuple[Load, Load, Load]]] = {name: [] for name in ports}
        for _ in range(max(1, repeats // 2)):
            for name, port in ports.items():
                capacity = measure(port, request, clients=64, seconds=seconds)
                twice = measure(port, request, clients=1024, seconds=2 * seconds, rate=2 * capacity.rate)
                time.sleep(2)
                overloads[name].append((capacity, twice, measure(port, request, clients=64, seconds=seconds)))
        for name, runs in overloads.items():
            capacity_rate, rate, p99, after = (
                statistics.median(value)
                for value in zip(*((c.rate, t.rate, t.p99_s, a.rate) for c, t, a in runs), strict=True)
            )
            broken = sum(n for _, t, _ in runs for status, n in t.statuses.items() if status not in ("200", "503"))
            print(
                f"overload, {name}: capacity {capacity_rate:.0f}/s, asked for twice that {rate:.0f}/s answered "
                f"({rate / capacity_rate:.2f}), p99 {1000 * p99:.0f} ms, {broken} broken, afterwards {after:.0f}/s",
                flush=True,
            )


if __name__ == "__main__":
    typer.run(main)

"""A small trained pipeline, and a client that asks an app without a network."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
import uvicorn

from rayline import train
from rayline.inference.pipeline import InferencePipeline
from rayline.serve.app import App, create_app
from rayline.serve.server import config
from rayline.stages import MinMaxScaler, OneHotEncoder, SimpleImputer


def table(rows: int = 600, seed: int = 0) -> pl.DataFrame:
    """Rows of every common type, some values missing, with a target that depends on them."""
    random = np.random.default_rng(seed)
    made = pl.DataFrame(
        {
            "distance": random.uniform(50, 3000, rows),
            "hour": random.integers(0, 24, rows),
            "carrier": random.choice(["AA", "B6", "UA"], rows),
            "weekend": random.random(rows) < 0.3,
        }
    )
    late = (made["hour"] > 15) ^ (made["carrier"] == "B6")
    return made.with_columns(
        pl.when(pl.col("distance") > 200).then(pl.col("distance")).alias("distance"),
        pl.when(late).then(pl.lit("late")).otherwise(pl.lit("on time")).alias("late"),
    )


@pytest.fixture(scope="session")
def pipeline() -> InferencePipeline:
    stages = [
        ("impute", SimpleImputer(["distance"])),
        ("scale", MinMaxScaler(["distance"])),
        ("onehot", OneHotEncoder()),
    ]
    trainer = train.XGBoostTrainer({"objective": "binary:logistic", "seed": 0}, num_boost_round=5)
    result = train.fit(
        trainer, train.Preprocessor(stages), train_dataset=table(), target_columns=["late"], verbose=False
    )
    return result.inference_pipeline


class Client:
    """Asks an app in this process; one event loop for all requests."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self._runner = asyncio.Runner()

    def ask(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        return self.all([(method, path, arguments)])[0]

    def get(self, path: str, **arguments: Any) -> httpx.Response:
        return self.ask("GET", path, **arguments)

    def post(self, path: str, **arguments: Any) -> httpx.Response:
        return self.ask("POST", path, **arguments)

    def all(self, requests: list[tuple[str, str, dict[str, Any]]]) -> list[httpx.Response]:
        """Ask all at the same time."""

        async def run() -> list[httpx.Response]:
            transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
                return list(await asyncio.gather(*(client.request(m, p, **a) for m, p, a in requests)))

        return self._runner.run(run())

    def close(self) -> None:
        self._runner.close()
        self.app.close()


@pytest.fixture
def make_client() -> Iterator[Any]:
    clients: list[Client] = []

    def make(pipeline: InferencePipeline, **options: Any) -> Client:
        clients.append(Client(create_app(pipeline, **options)))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(make_client: Any, pipeline: InferencePipeline) -> Client:
    made: Client = make_client(pipeline, name="flights")
    return made


@contextlib.contextmanager
def served(app: App) -> Iterator[int]:
    """The app on a port of this machine, as `serve.run` runs it."""
    server = uvicorn.Server(config(app))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(1024)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield int(listening.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join()
            app.close()

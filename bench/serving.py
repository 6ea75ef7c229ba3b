"""Serving: one process against a handler written by hand, Ray Serve against its plain FastAPI ingress, and one row in process."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bench.incumbents import INCUMBENTS
from bench.load import Load, free_port, measure, post, wait
from bench.overload import add_overload, overload
from bench.report import Comparison, Options, Section
from bench.synthetic import FLOATS, table
from rayline import serve, train
from rayline.inference.pipeline import InferencePipeline
from rayline.stages import OneHotEncoder, SimpleImputer, StandardScaler

TREES = 50
CATEGORIES = ["s10", "s100"]

HANDLER = """
import sys, numpy as np, uvicorn, xgboost
from fastapi import FastAPI
booster = xgboost.Booster(model_file=sys.argv[1])
if sys.argv[3]: booster.set_param("nthread", int(sys.argv[3]))
app = FastAPI()

@app.post("/predict")
async def predict(rows: list[list[float]]):
    return {"predictions": booster.inplace_predict(np.array(rows, dtype=np.float32)).tolist()}

uvicorn.run(app, port=int(sys.argv[2]), log_level="warning", access_log=False)
"""

TRIVIAL = """
import asyncio, sys, uvloop

class Answer(asyncio.Protocol):
    def connection_made(self, transport): self.transport = transport
    def data_received(self, data): self.transport.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\nok")

async def main():
    server = await asyncio.get_running_loop().create_server(Answer, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()

uvloop.run(main())
"""
"""The quickest server that Python can be, to see what the load generator itself can do."""

OVERLOAD_S = 60.0


def run(options: Options) -> Section:
    """All comparisons."""
    section = Section(
        "Serving",
        f"Loopback, one row a request, {TREES} trees. The pipeline imputes, scales and encodes 8 numbers and 2 categories (10 and 100 values) into "
        "118 features; the handlers written by hand take the finished features (no preprocessing, no checks). "
        "Clients ask again as soon as they are answered, from a process of their own on the same cores; under overload, requests "
        "are due at fixed times, on 1,024 connections.",
        ["xgboost-cpu", "ray", "fastapi", "uvicorn", "scikit-learn"],
    )
    seconds = 5.0 if options.full else 3.0
    data = table(20_000, seed=0).select([*FLOATS, *CATEGORIES])
    data = data.with_columns((pl.col("f4") + pl.col("f5") > 9).alias("y"))
    pipeline = _fit(data)
    rows = data.drop("y").head(1).to_dicts()
    features = pipeline.preprocessor.transform(data.head(1).drop("y")).select(pipeline.model.feature_names)  # type: ignore[union-attr]
    ours = post("/predict", rows)
    by_hand = post("/predict", features.to_numpy().astype(float).tolist())
    with tempfile.TemporaryDirectory() as folder:
        if options.full:
            for incumbent in INCUMBENTS:
                incumbent.prepare(data, CATEGORIES, TREES)
        incumbents = _embedded(section, pipeline, Path(folder), ours, by_hand, rows, seconds, options)
    _ray(section, pipeline, ours, by_hand, seconds, incumbents, options)
    _in_process(section, pipeline, data)
    return section


def _fit(data: pl.DataFrame) -> InferencePipeline:
    stages = [("impute", SimpleImputer()), ("scale", StandardScaler()), ("onehot", OneHotEncoder())]
    trainer = train.XGBoostTrainer({"objective": "binary:logistic", "seed": 0}, num_boost_round=TREES)
    result = train.fit(trainer, train.Preprocessor(stages), train_dataset=data, target_columns=["y"], verbose=False)
    return result.inference_pipeline


def _compare(
    section: Section, where: str, ours: list[Load], name: str, other: list[Load], clients: int, goal: float
) -> None:
    _require_answers(where, [*ours, *other])
    label = f"{where}, {clients} client{'s' if clients > 1 else ''}"
    section.add(_rates(label, ours, name, other, goal))
    for p, limit in (("p50_s", None), ("p99_s", 1.0 if clients == 8 else None)):
        section.add(
            Comparison(f"{label}: {p[:3]}", [getattr(r, p) for r in ours], name, [getattr(r, p) for r in other], limit)
        )


def _rates(label: str, ours: list[Load], name: str, other: list[Load], goal: float) -> Comparison:
    return Comparison(
        f"{label}: requests", [r.rate for r in ours], name, [r.rate for r in other], goal, "1/s", more_is_better=True
    )


def _require_answers(where: str, loads: list[Load]) -> None:
    for load in loads:
        if load.failed:
            raise RuntimeError(f"{where}: not every request was answered: {load.statuses}")


def _embedded(
    section: Section,
    pipeline: InferencePipeline,
    folder: Path,
    ours: bytes,
    by_hand: bytes,
    rows: list[dict[str, Any]],
    seconds: float,
    options: Options,
) -> dict[str, list[Load]]:
    pipeline.save(folder / "bench.rayline")
    pipeline.model.native.save_model(folder / "model.ubj")
    (folder / "handler.py").write_text(HANDLER)
    cli = [sys.executable, "-c", "from rayline.cli import app; app()", "serve", str(folder / "bench.rayline"), "--port"]
    hand = [sys.executable, str(folder / "handler.py"), str(folder / "model.ubj")]
    with (
        _server(lambda port: [*cli, str(port)]) as mine,
        _server(lambda port: [*hand, str(port), ""]) as plain,
        _server(lambda port: [*hand, str(port), "1"]) as tuned,
        _server(lambda port: [sys.executable, "-c", TRIVIAL, str(port)]) as trivial,
    ):
        for clients in (1, 8):
            results: dict[int, list[Load]] = {mine: [], plain: [], tuned: [], trivial: []}
            for _ in range(options.repeats):
                for port, request in ((mine, ours), (plain, by_hand), (tuned, by_hand), (trivial, ours)):
                    results[port].append(measure(port, request, clients=clients, seconds=seconds))
            _compare(section, "one process", results[mine], "FastAPI + XGBoost by hand", results[plain], clients, 0.8)
            _compare(section, "one process", results[mine], "the same, nthread=1", results[tuned], clients, 0.8)
        section.add(_rates("the load generator alone, 8 clients", results[trivial], "one process", results[mine], 2.0))
        incumbents: dict[str, list[Load]] = {}
        for incumbent in INCUMBENTS if options.full else []:
            port = free_port()
            with incumbent.process(port) as process:
                wait(port, process)
                request, mine_now, other = incumbent.request(rows), [], []
                measure(port, request, clients=8, seconds=2)
                for _ in range(options.repeats):
                    mine_now.append(measure(mine, ours, clients=8, seconds=seconds))
                    other.append(measure(port, request, clients=8, seconds=seconds))
            _require_answers(incumbent.name, [*mine_now, *other])
            section.add(
                _rates("one process, 8 clients", mine_now, f"scikit-learn's Pipeline, {incumbent.name}", other, 15.0)
            )
            incumbents[incumbent.name] = other
        if options.full:
            add_overload(section, "one process", lambda: overload(mine, ours, seconds=OVERLOAD_S))
    return incumbents


@contextlib.contextmanager
def _server(command: Callable[[int], list[str]]) -> Iterator[int]:
    port = free_port()
    process = subprocess.Popen(command(port), stdout=subprocess.DEVNULL)
    try:
        wait(port, process)
        yield port
    finally:
        process.terminate()
        process.wait()


def _ray(
    section: Section,
    pipeline: InferencePipeline,
    ours: bytes,
    by_hand: bytes,
    seconds: float,
    incumbents: dict[str, list[Load]],
    options: Options,
) -> None:
    import ray
    from fastapi import FastAPI
    from ray import serve as ray_serve

    booster = pipeline.model.native.save_raw()
    app = FastAPI()

    @ray_serve.deployment
    @ray_serve.ingress(app)
    class Plain:
        def __init__(self, raw: bytearray) -> None:
            import xgboost

            self.booster = xgboost.Booster(model_file=raw)

        @app.post("/predict")
        async def predict(self, rows: list[list[float]]) -> dict[str, Any]:
            return {"predictions": self.booster.inplace_predict(np.array(rows, dtype=np.float32)).tolist()}

    started = not ray.is_initialized()
    if started:
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    results: dict[tuple[str, int], list[Load]] = {}

    def ask(name: str, port: int, request: bytes) -> None:
        measure(port, request, clients=8, seconds=1)
        for clients in (1, 8):
            results.setdefault((name, clients), []).append(measure(port, request, clients=clients, seconds=seconds))

    try:
        for _ in range(2):
            ray_serve.start(http_options={"port": 8765}, logging_config={"log_level": "ERROR"})
            ray_serve.run(Plain.bind(booster), name="plain")
            ask("plain", 8765, by_hand)
            ray_serve.shutdown()
            deployment = serve.to_deployment(pipeline, name="bench").deploy()
            ask("ours", int(deployment.url.rpartition(":")[2]), ours)
            deployment.delete()
        for clients in (1, 8):
            _compare(
                section,
                "Ray Serve",
                results["ours", clients],
                "FastAPI ingress, defaults",
                results["plain", clients],
                clients,
                2.0,
            )
        for name, other in incumbents.items():
            section.add(
                _rates("Ray Serve, 8 clients", results["ours", 8], f"scikit-learn's Pipeline, {name}", other, 4.0)
            )
        if options.full:
            deployment.deploy()
            port = int(deployment.url.rpartition(":")[2])
            add_overload(section, "Ray Serve", lambda: overload(port, ours, seconds=OVERLOAD_S))
            deployment.delete()
    finally:
        if started:
            ray.shutdown()


def _in_process(section: Section, pipeline: InferencePipeline, data: pl.DataFrame) -> None:
    import xgboost
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer as Impute
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OneHotEncoder as OneHot
    from sklearn.preprocessing import StandardScaler as Scale

    frame = data.drop("y").to_pandas()
    numbers = Pipeline([("impute", Impute()), ("scale", Scale())])
    prepare = ColumnTransformer([("n", numbers, FLOATS), ("c", OneHot(handle_unknown="ignore"), CATEGORIES)])
    other = Pipeline([("prepare", prepare), ("model", xgboost.XGBClassifier(n_estimators=TREES))]).fit(
        frame, data["y"].to_numpy()
    )
    row, one = data.drop("y").head(1).to_dicts(), frame.head(1)
    mine, theirs = _median_s(lambda: pipeline.predict(row)), _median_s(lambda: other.predict(one), 200)
    section.add(Comparison("one row in process: p50", [mine], "scikit-learn Pipeline", [theirs]))
    section.add(Comparison("one row in process: p50", [mine], "0.3 ms", [0.0003], 1.0))


def _median_s(work: Callable[[], object], times: int = 2000) -> float:
    work()
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)

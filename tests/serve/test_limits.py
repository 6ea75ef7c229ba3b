"""What a request may cost: memory, time and a thread, whatever it says, and nothing once it is answered.

Covers `serve.arrow` and `serve.http_messages` too.
"""

from __future__ import annotations

import asyncio
import gc
import gzip
import itertools
import json
import logging
import threading
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from rayline import Framework, register_framework
from rayline.core.target import Target, Task
from rayline.inference.model import Model
from rayline.inference.pipeline import InferencePipeline
from rayline.serve.app import App, create_app
from rayline.serve.http_messages import SHORT_BODY, BodyBudget, ClientDisconnected
from rayline.serve.predictions import Work
from rayline.serve.protocol import HTTPError, RowReader, loads

from .conftest import Client, table
from .test_app import ARROW, odd, rows, stream, tensors


@register_framework
class Raises(Framework):
    """Raises what it is."""

    name = "serve-raises"

    def train(self, context: Any) -> Any:
        raise NotImplementedError

    def predict(self, model: Any, features: Any) -> Any:
        raise type(model)(*model.args)

    def save(self, model: Any, directory: Any) -> None:
        raise NotImplementedError

    def load(self, directory: Any) -> Any:
        raise NotImplementedError


def raises(error: BaseException) -> InferencePipeline:
    target = Target(("y",), Task.REGRESSION, (pl.Float64(),))
    return InferencePipeline(None, Model("serve-raises", error, {"x": pl.Float64()}, target))


# -- memory --------------------------------------------------------------------------------------------------------


def exchange(app: App, path: str, body: bytes, headers: dict[str, str]) -> int:
    """The status of one answer; without a client, whose own garbage would be measured too."""
    statuses = []

    async def run() -> None:
        messages = iter([{"type": "http.request", "body": body}])

        async def receive() -> Any:
            return next(messages, None) or await asyncio.sleep(60)

        async def send(message: Any) -> None:
            statuses.append(message.get("status"))

        named = [(name.encode(), value.encode()) for name, value in headers.items()]
        await app({"type": "http", "path": path, "method": "POST", "headers": named}, receive, send)

    asyncio.run(run())
    return int(statuses[0])


def grown_bytes(work: Callable[[], None]) -> int:
    """What is held after it that was not before it, when no collector runs: the server seldom lets it."""
    work()
    gc.collect()
    gc.disable()
    try:
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        work()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
        gc.enable()


def refused_requests() -> list[tuple[str, bytes, dict[str, str]]]:
    """A request of each kind that is refused; most of them from a thread."""

    def as_json(value: Any) -> tuple[bytes, dict[str, str]]:
        return json.dumps(value).encode(), {}

    bad = [{"distance": "far", "hour": 1, "carrier": "AA", "weekend": True}] * 2000
    columns = {name: [[]] * 4000 for name in ("distance", "hour", "carrier", "weekend")}  # type: ignore[var-annotated]
    arrow = pa.table(
        {"distance": ["far"] * 3000, "hour": [1] * 3000, "carrier": ["AA"] * 3000, "weekend": [True] * 3000}
    )
    tensor = [{**t, "datatype": "FP65"} for t in tensors(table(3, 3).drop("late"))]
    zipped = {"content-encoding": "gzip"}
    return [
        ("/predict", *as_json(bad)),
        ("/predict", *as_json(bad[:3])),
        ("/predict", *as_json({"columns": columns})),
        ("/predict", *as_json([{"x": 1}] * 5000)),
        ("/predict", gzip.compress(b"[" + b"1," * 60_000 + b"1]"), zipped),
        ("/predict", gzip.compress(b" " * 100_000)[:-9], zipped),
        ("/predict", b"[" * 70_000, {}),
        ("/predict", stream(arrow), ARROW),
        ("/predict", stream(arrow)[:70_000], ARROW),
        ("/v1/models/flights:predict", *as_json({"instances": [1] * 40_000})),
        ("/v2/models/flights/infer", *as_json({"inputs": tensor, "x": "y" * 70_000})),
    ]


def test_a_refused_request_is_freed(pipeline: InferencePipeline) -> None:
    app = create_app(pipeline, name="flights")
    kinds = refused_requests()

    def ask() -> None:
        for request in itertools.islice(itertools.cycle(kinds), 5 * len(kinds)):
            assert 400 <= exchange(app, *request) < 500

    assert grown_bytes(ask) < 500_000  # the bodies alone are 5 MB
    assert app._memory._room == {False: 4 << 24, True: SHORT_BODY * 1024}
    app.close()


@pytest.mark.parametrize("n", [1, 50])
def test_a_request_that_fails_is_freed(n: int) -> None:
    app = create_app(raises(OSError("no")))
    body = json.dumps([{"x": 1, "more": "x" * 50_000}] * n).encode()

    def ask() -> None:
        for _ in range(20):
            assert exchange(app, "/predict", body, {}) == 500

    logging.disable()  # pytest keeps what is logged
    try:
        assert grown_bytes(ask) < 300_000
    finally:
        logging.disable(logging.NOTSET)
    app.close()


def test_a_few_slow_bodies_block_no_other_client() -> None:
    memory = BodyBudget(4 << 20, 2 * SHORT_BODY)
    memory.take(0, 4 << 20)
    memory.take(4 << 20, SHORT_BODY)  # all of the room for long bodies
    with pytest.raises(HTTPError):
        memory.take(SHORT_BODY, 1)
    memory.take(0, 34)
    memory.release(34)
    memory.release((4 << 20) + SHORT_BODY)
    assert memory._room == {False: 4 << 20, True: 2 * SHORT_BODY}


# -- rows and problems ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [{}, 1, {"x": "a"}, {"x": [], "y": 0}, None])
def test_the_search_for_problems_is_bounded(row: Any) -> None:
    class CountedRows(list[Any]):
        n_seen = 0

        def __iter__(self) -> Any:
            for value in super().__iter__():
                self.n_seen += 1
                yield value

    read = CountedRows([row] * 100_000)
    refusal = RowReader({"x": pl.Int64(), "y": pl.String()})._row_errors(read)
    assert read.n_seen <= 101
    assert len(refusal.body()["problems"]) == 100
    assert refusal.body()["more_problems"] is True
    assert "more than 100 problems" in refusal.message


def test_large_values_are_not_written_out_to_be_shown() -> None:
    values: list[Any] = ["x" * 5_000_000, [1] * 1_000_000, {"a": ["y" * 5_000_000]}, 10**4000, [[[]] * 100_000]]
    tracemalloc.start()
    try:
        for value in values:
            with pytest.raises(HTTPError) as error:
                RowReader({"x": pl.Boolean()}).rows([{"x": value}] * 100)
            assert len(json.dumps(error.value.body())) < 30_000
        assert tracemalloc.get_traced_memory()[1] < 2_000_000  # written out, the first is 5 MB
    finally:
        tracemalloc.stop()


def test_work_stops_when_the_client_has_gone(make_client: Any) -> None:
    client = make_client(odd(0.2), request_timeout_s=0.1)
    served, seen = client.app._served, []
    scores = served.pipeline.scores
    served.pipeline.__dict__["scores"] = lambda rows: seen.append(1) or scores(rows)
    codes = [a.status_code for a in client.all([("POST", "/predict", {"json": [{"x": i}] * 100}) for i in range(12)])]
    assert set(codes) == {504}
    time.sleep(0.6)
    assert len(seen) <= 4  # two threads, and what they may have begun as the time was over
    assert client.app._n_threaded == 0 or client.get("/health").status_code == 200
    work = Work(lambda _: None)
    work.is_wanted = False
    with pytest.raises(ClientDisconnected):
        served.rows([{"x": 1}], False, work)


def test_a_client_that_goes_takes_its_work_along() -> None:
    app = create_app(odd(0.05))
    served, seen = app._served, []
    scores = served.pipeline.scores
    served.pipeline.__dict__["scores"] = lambda rows: seen.append(1) or scores(rows)

    async def ask() -> None:
        messages = iter(
            [{"type": "http.request", "body": json.dumps([{"x": 1}] * 100).encode()}, {"type": "http.disconnect"}]
        )

        async def receive() -> Any:
            return next(messages)

        async def send(message: Any) -> None:
            raise AssertionError("the client has gone")

        await app({"type": "http", "path": "/predict", "method": "POST", "headers": []}, receive, send)

    async def all_of_them() -> None:
        await asyncio.gather(*(ask() for _ in range(10)))

    asyncio.run(all_of_them())
    app.close()
    time.sleep(0.2)
    assert len(seen) <= 2


# -- Arrow ---------------------------------------------------------------------------------------------------------


BOMBS = {
    "null": lambda n: pa.table({"x": pa.nulls(n)}),
    "an unknown column": lambda n: pa.table({"y": pa.nulls(n)}),
    "boolean": lambda n: pa.table({"x": pa.array(np.zeros(n, dtype=bool))}),
    "a list of nulls": lambda n: pa.table({"x": pa.ListArray.from_arrays([0, n], pa.nulls(n))}),
    "a fixed list of nulls": lambda n: pa.table({"x": pa.FixedSizeListArray.from_arrays(pa.nulls(n), n)}),
    "fixed size 0": lambda n: pa.table(
        {
            "x": pa.FixedSizeListArray.from_buffers(
                pa.list_(pa.float64(), 0), n, [None], children=[pa.array([], pa.float64())]
            )
        }
    ),
    "a struct": lambda n: pa.table({"x": pa.StructArray.from_buffers(pa.struct([]), n, [None])}),
    "runs": lambda n: pa.table({"x": pa.RunEndEncodedArray.from_arrays(pa.array([n], pa.int32()), pa.array([1.0]))}),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_an_arrow_stream_has_no_more_values_than_bytes(make_client: Any, kind: str) -> None:
    client = make_client(odd())
    body = stream(BOMBS[kind](100_000_000))
    answer = client.post("/predict", content=body, headers=ARROW)
    assert answer.status_code == 413, answer.text


def test_texts_that_an_arrow_stream_refers_to_are_bounded(make_client: Any) -> None:
    client = make_client(odd())
    codes = pa.array(np.zeros(200_000, dtype=np.int8))
    categories = pa.DictionaryArray.from_arrays(codes, pa.array(["x" * 100_000]))
    views = pl.Series(["x" * 100_000]).new_from_index(0, 20_000).to_arrow(compat_level=pl.CompatLevel.newest())
    nested = pa.ListArray.from_arrays(pa.array(np.arange(len(categories) + 1, dtype=np.int32)), categories)
    for column, status in ((categories, 413), (views, 413), (nested, 400)):
        assert client.post("/predict", content=stream(pa.table({"x": column})), headers=ARROW).status_code == status


def test_ordinary_arrow_streams_are_read(make_client: Any, client: Client, pipeline: InferencePipeline) -> None:
    frame = table(20_000, 3).drop("late")
    arrow = frame.to_arrow()
    expected = pipeline.predict(frame)["prediction"].to_list()
    for sent in (
        arrow,
        frame.to_arrow(compat_level=pl.CompatLevel.oldest()),
        arrow.set_column(2, "carrier", arrow["carrier"].cast(pa.string()).dictionary_encode()),
        arrow.append_column(
            "other", pa.array([None] * 20_000, pa.decimal256(50, 2))
        ),  # Polars cannot read it, and is not called
        arrow.append_column("other", pa.nulls(20_000)),
    ):
        answer = client.post("/predict", content=stream(sent), headers=ARROW)
        assert answer.status_code == 200, answer.text
        assert pa.ipc.open_stream(answer.content).read_all()["prediction"].to_pylist() == expected
    flags = pa.table({"x": pa.array(np.zeros(100_000, dtype=bool))})
    assert make_client(odd()).post("/predict", content=stream(flags), headers=ARROW).status_code == 200


# -- whatever is raised --------------------------------------------------------------------------------------------

PANIC = pl.exceptions.PanicException("attempt to panic")


@pytest.mark.parametrize(
    "error", [PANIC, SystemExit(3), MemoryError("too much"), RecursionError("too deep"), GeneratorExit()], ids=repr
)
@pytest.mark.parametrize("n", [1, 100])
def test_whatever_is_raised_is_answered_and_counted(make_client: Any, error: BaseException, n: int) -> None:
    client = make_client(raises(error))
    answer = client.post("/predict", json=[{"x": 1}] * n)
    assert answer.status_code == 500
    assert answer.json() == {"error": "The server failed on this request; its log has the details."}
    assert 'code="500"} 1' in client.get("/metrics").text


@pytest.mark.parametrize(
    "kind",
    [
        pa.decimal256(50, 2),
        pa.list_(pa.float64(), 0),
        pa.run_end_encoded(pa.int32(), pa.float64()),
        pa.binary(0),
        pa.uint64(),
    ],
    ids=str,
)
def test_columns_that_cannot_be_read_are_refused(make_client: Any, kind: pa.DataType) -> None:
    client = make_client(odd())
    value = 2**64 - 1 if kind == pa.uint64() else None
    answer = client.post("/predict", content=stream(pa.table({"x": pa.array([value], kind)})), headers=ARROW)
    assert answer.status_code in (200, 400, 422)
    assert 'protocol="predict"' in client.get("/metrics").text


# -- the event loop ------------------------------------------------------------------------------------------------


def test_the_first_call_of_a_slow_model_blocks_no_other_request(make_client: Any) -> None:
    client = make_client(odd(0.5))

    async def health_checks_meanwhile() -> int:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=client.app), base_url="http://here") as http:
            task, n = asyncio.ensure_future(http.post("/predict", json=[{"x": 1}])), 0
            while not task.done():
                assert (await http.get("/health")).status_code == 200
                n += 1
                await asyncio.sleep(0.005)
            assert task.result().status_code == 200
            return n

    assert client._runner.run(health_checks_meanwhile()) > 3  # of a hundred; on the event loop at most one


def test_golden_rows_tell_how_long_a_call_takes(make_client: Any, pipeline: InferencePipeline) -> None:
    assert make_client(pipeline).app._batcher._usual_s > 0
    assert make_client(odd()).app._batcher._usual_s is None


def test_long_bodies_are_parsed_in_a_thread(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []

    def heard(body: bytes) -> Any:
        threads.append(threading.current_thread())
        return loads(body)

    for module in ("app", "predictions"):
        monkeypatch.setattr(f"rayline.serve.{module}.loads", heard)
    for n, in_loop in ((1, True), (SHORT_BODY // 10, False)):
        asked = rows(100)[:1] * n
        for path, body in (("/v1/models/flights:predict", {"instances": asked}), ("/predict", asked)):
            assert client.post(path, content=json.dumps(body).encode()).status_code == 200
            assert [thread is threading.main_thread() for thread in threads] == [in_loop]
            threads.clear()

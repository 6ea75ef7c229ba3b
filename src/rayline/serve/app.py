"""The HTTP app of an inference pipeline. No Ray: uvicorn and Ray Serve run the same app.

It is a FastAPI app (documentation, further routes and lifespan are FastAPI's) whose own routes are answered before
FastAPI sees them: a prediction takes a fraction of a millisecond, and a framework's layers would take as long again.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import polars as pl
from fastapi import FastAPI

import rayline
from rayline.core.errors import DataError, SchemaError
from rayline.core.operations import Row
from rayline.inference import artifact
from rayline.inference.pipeline import InferencePipeline, as_pipeline
from rayline.serve import arrow, openapi, openinference, page
from rayline.serve.batching import Batcher, overloaded
from rayline.serve.metrics import Counts, Metrics, Skew
from rayline.serve.options import Options
from rayline.serve.protocol import Reader, Refusal, Writer, dumps, loads

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

FEW_ROWS = 32
"""So many rows go one by one through the compiled row functions into one call of the model; more are a table."""

LONG_BODY = 64 << 10
"""Bodies of more bytes are read and predicted in a thread."""

_JSON = b"application/json"
_log = logging.getLogger("rayline.serve")


@dataclass(frozen=True)
class Answer:
    """What goes back to the client."""

    status: int
    body: bytes
    content_type: bytes = _JSON
    headers: Sequence[tuple[bytes, bytes]] = ()


class _Request:
    """One request: the parts of it that a handler may need, and its body."""

    __slots__ = ("body", "headers", "query", "scope", "served")

    def __init__(self, scope: Scope, served: _Served) -> None:
        self.scope, self.served = scope, served
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.query: bytes = scope.get("query_string", b"")
        self.body = b""

    @property
    def content_type(self) -> bytes:
        return self.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()

    def flag(self, name: str) -> bool:
        """Whether a query parameter is set (`?proba`, `?proba=true`, `?proba=1`)."""
        if not self.query:
            return False
        values = parse_qs(self.query.decode("latin-1"), keep_blank_values=True).get(name)
        return values is not None and values[-1].lower() in ("", "1", "true", "yes")


class _Served:
    """A pipeline with what serving needs of it."""

    def __init__(self, pipeline: InferencePipeline) -> None:
        self.pipeline = pipeline
        self.reader, self.writer = Reader(pipeline.input_schema), Writer(pipeline.target)
        self.skew = Skew(pipeline)
        self.has_probabilities = self._has_probabilities()

    def _has_probabilities(self) -> bool:
        if not self.pipeline.target.task.is_classification:
            return False
        rows = self.pipeline.examples.head(1)
        return not rows.height or not np.issubdtype(self.pipeline.scores(rows.lazy()).dtype, np.integer)


Handler = Callable[[_Request], Awaitable[Answer]]
Count = Callable[[Counts], Any]


class App(FastAPI):
    """The app. `create_app` makes it; `swap` puts another pipeline in while it runs."""

    def __init__(self, pipeline: InferencePipeline, options: Options) -> None:
        super().__init__(title=options.name, version="1", redoc_url=None, separate_input_output_schemas=False)
        self.settings = options
        self.metrics = Metrics(options.name)
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="rayline-serve")
        self._batcher = Batcher(options, self._threads)
        self._n_threaded = self._bytes = 0
        self._handlers = self._make_handlers()
        self._paths = {path for _, path in self._handlers}
        self._token = None if options.token is None else b"Bearer " + options.token.encode()
        self.swap(pipeline)

    @property
    def pipeline(self) -> InferencePipeline:
        """What answers now."""
        return self._served.pipeline

    def swap(self, pipeline: InferencePipeline) -> None:
        """Answer with another pipeline from the next request on; those that have begun end with the old one."""
        self._served = _Served(pipeline)
        self._document = openapi.document(self.settings, pipeline, self._served.has_probabilities)

    def close(self) -> None:
        """Let its threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, made from the schema."""
        return self._document

    # -- the way of a request --------------------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        path: str = scope["path"]
        root: str = scope.get("root_path", "")
        if root and path.startswith(root):
            path = path[len(root) :] or "/"
        method: str = scope["method"]
        found = self._handlers.get((method, path))
        if found is None and not path.startswith(("/v1/", "/v2/")) and path not in self._paths:
            if self._token is None or self._is_allowed(dict(scope["headers"])):
                await super().__call__(scope, receive, send)
            else:
                await _send(send, _refused(self._unauthorised()))
            return
        protocol, handler, is_open = found or ("other", None, False)
        start = time.perf_counter()
        request = _Request(scope, self._served)
        try:
            if self._token is not None and not is_open and not self._is_allowed(request.headers):
                raise self._unauthorised()
            if handler is None:
                raise self._unknown(path)
            async with asyncio.timeout(self.settings.request_timeout_s):
                if method == "POST":
                    request.body = await self._body(request, receive)
                answer = await handler(request)
        except _Gone:
            return
        except Refusal as refusal:
            answer = _refused(refusal)
        except (SchemaError, DataError) as error:
            answer = _refused(Refusal(422, str(error)))
        except TimeoutError:
            answer = _refused(Refusal(504, f"The request took longer than {self.settings.request_timeout_s:g} s."))
        except Exception:
            _log.exception("A request to %s failed.", path)
            answer = _refused(Refusal(500, "The server failed on this request; its log tells why."))
        finally:
            self._bytes -= len(request.body)
        await _send(send, answer)
        self.metrics.request(protocol, answer.status, time.perf_counter() - start)

    async def _body(self, request: _Request, receive: Receive) -> bytes:
        most = self.settings.max_body_bytes
        declared = request.headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > most:
            raise self._too_large()
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        body: bytes = message.get("body", b"")
        if message.get("more_body"):
            parts, size = [body], len(body)
            while message.get("more_body"):
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _Gone
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > most:
                    raise self._too_large()
            body = b"".join(parts)
        if len(body) > most:
            raise self._too_large()
        if b"content-encoding" in request.headers:
            body = _unpacked(body, request.headers[b"content-encoding"], most)
        if self._bytes + len(body) > 4 * most:
            raise overloaded()
        self._bytes += len(body)
        return body

    def _is_allowed(self, headers: Mapping[bytes, bytes]) -> bool:
        return self._token is None or hmac.compare_digest(headers.get(b"authorization", b""), self._token)

    def _unauthorised(self) -> Refusal:
        return Refusal(401, "This server needs a bearer token.", headers=[(b"www-authenticate", b"Bearer")])

    def _too_large(self) -> Refusal:
        return Refusal(
            413, f"The body is longer than {self.settings.max_body_bytes} bytes.", headers=[(b"connection", b"close")]
        )

    def _unknown(self, path: str) -> Refusal:
        methods = sorted(method for method, own in self._handlers if own == path)
        if methods:
            return Refusal(405, f"{path} takes {' and '.join(methods)}.", headers=[(b"allow", ", ".join(methods).encode())])
        return Refusal(404, f"Nothing is here. The model is called {self.settings.name!r}, its version '1'.")

    # -- what there is ---------------------------------------------------------------------------------------------

    def _make_handlers(self) -> dict[tuple[str, str], tuple[str, Handler | None, bool]]:
        name = self.settings.name
        ready = _constant(dumps({"status": "ready"}))
        handlers: dict[tuple[str, str], tuple[str, Handler | None, bool]] = {
            ("POST", "/predict"): ("predict", self._predict, False),
            ("POST", f"/v1/models/{name}:predict"): ("v1", self._v1_predict, False),
            ("GET", "/v1/models"): ("v1", _constant(dumps({"models": [name]})), False),
            ("GET", f"/v1/models/{name}"): ("v1", _constant(dumps({"name": name, "ready": True})), False),
            ("GET", "/v2"): ("v2", _constant(dumps(_SERVER)), False),
            ("GET", "/v2/health/live"): ("v2", _constant(dumps({"live": True})), True),
            ("GET", "/v2/health/ready"): ("v2", _constant(dumps({"ready": True})), True),
            ("GET", "/health"): ("health", ready, True),
            ("GET", "/metrics"): ("metrics", self._metrics, False),
            ("GET", "/"): ("page", self._page, False),
        }
        for place in (f"/v2/models/{name}", f"/v2/models/{name}/versions/1"):
            handlers["GET", place] = ("v2", self._v2_metadata, False)
            handlers["GET", f"{place}/ready"] = ("v2", _constant(dumps({"name": name, "ready": True})), True)
            handlers["POST", f"{place}/infer"] = ("v2", self._v2_infer, False)
        return handlers

    async def _predict(self, request: _Request) -> Answer:
        served, proba = request.served, bool(request.query) and request.flag("proba")
        if request.content_type == arrow.TYPE:
            return await self._threaded(partial(self._arrow, served, request.body, proba))
        if len(request.body) > LONG_BODY:
            return await self._threaded(partial(self._json_table, served, request.body, proba))
        rows, proba = _rows_asked(loads(request.body), proba)
        if isinstance(rows, list) and len(rows) <= FEW_ROWS and served.pipeline.takes_rows:
            scores = await self._few(served, served.reader.rows(rows))
            return Answer(200, _predictions(served, scores, proba))
        return await self._threaded(partial(self._json_rows, served, rows, proba))

    async def _v1_predict(self, request: _Request) -> Answer:
        served, asked = request.served, loads(request.body)
        instances = asked.get("instances") if isinstance(asked, dict) else None
        if not isinstance(instances, list):
            raise Refusal(400, 'Expected {"instances": [...]}: rows as objects, or as lists in the order of the columns.')
        names = list(served.reader.columns)
        rows = [dict(zip(names, i, strict=True)) if isinstance(i, list) and len(i) == len(names) else i for i in instances]
        if len(rows) <= FEW_ROWS and served.pipeline.takes_rows:
            return Answer(200, _predictions(served, await self._few(served, served.reader.rows(rows)), False))
        return await self._threaded(partial(self._json_rows, served, rows, False))

    async def _v2_infer(self, request: _Request) -> Answer:
        served, header = request.served, request.headers.get(openinference.HEADER)
        if header is not None and not header.isdigit():
            raise Refusal(400, "Inference-Header-Content-Length is not a length within the body.")
        n = None if header is None else int(header)
        if len(request.body) > LONG_BODY:
            return await self._threaded(partial(self._v2_table, served, request.body, n))
        schema = served.pipeline.input_schema
        asked = openinference.decode(request.body, n, schema)
        if asked.n_rows <= FEW_ROWS and served.pipeline.takes_rows and all(name in asked.columns for name in schema):
            rows = served.reader.transposed(asked.columns, asked.n_rows)
            return self._v2_answer(served, asked, await self._few(served, served.reader.rows(rows)))
        return await self._threaded(partial(self._v2_table, served, request.body, n))

    async def _v2_metadata(self, request: _Request) -> Answer:
        pipeline, named = request.served.pipeline, self.settings.name
        platform = f"rayline_{pipeline.model.framework}"
        schema, probabilities = pipeline.input_schema, request.served.has_probabilities
        return Answer(200, dumps(openinference.metadata(named, platform, schema, pipeline.target, probabilities)))

    async def _metrics(self, request: _Request) -> Answer:
        text = self.metrics.text(queued_requests=self._batcher.n_waiting, model_calls=self._batcher.n_calls)
        return Answer(200, text.encode(), b"text/plain; version=0.0.4; charset=utf-8")

    async def _page(self, request: _Request) -> Answer:
        html, headers = page.html(
            self.settings.name,
            request.served.pipeline,
            request.served.skew.categories,
            has_probabilities=request.served.has_probabilities,
        )
        return Answer(200, html, b"text/html; charset=utf-8", headers)

    # -- predictions -----------------------------------------------------------------------------------------------

    async def _few(self, served: _Served, rows: Sequence[Row]) -> Any:
        prepare = served.pipeline.prepare
        scores = self._batcher.scores(served.pipeline.model, [prepare(row) for row in rows])
        for row in rows:
            served.skew.row(row, self.metrics.counts)
        return await scores

    def _many(self, served: _Served, table: pl.DataFrame, count: Count) -> Any:
        scores = served.pipeline.scores(table.lazy())
        count(served.skew.table(table))
        return scores

    async def _threaded(self, work: Callable[[Count], Answer]) -> Answer:
        """Run what takes long beside the event loop; so many at once as requests may wait."""
        if self._n_threaded >= self.settings.max_queued_requests:
            raise overloaded()
        loop = asyncio.get_running_loop()
        self._n_threaded += 1
        running = self._threads.submit(work, lambda counts: loop.call_soon_threadsafe(self.metrics.counts.add, counts))
        running.add_done_callback(lambda _: loop.call_soon_threadsafe(self._one_less))  # also long after a timeout
        return await asyncio.wrap_future(running)

    def _one_less(self) -> None:
        self._n_threaded -= 1

    def _json_table(self, served: _Served, body: bytes, proba: bool, count: Count) -> Answer:
        return self._json_rows(served, *_rows_asked(loads(body), proba), count)

    def _json_rows(self, served: _Served, rows: Any, proba: bool, count: Count) -> Answer:
        reader = served.reader
        table = reader.table_of_columns(rows) if isinstance(rows, dict) else reader.table(rows)
        return Answer(200, _predictions(served, self._many(served, table, count), proba))

    def _arrow(self, served: _Served, body: bytes, proba: bool, count: Count) -> Answer:
        table = arrow.decode(body)
        if not table.height:
            raise Refusal(422, "Expected at least one row; got none.")
        missing = [{"column": name, "problem": "missing"} for name in served.reader.columns if name not in table.columns]
        if missing:
            raise Refusal(422, f"The table lacks {len(missing)} columns.", missing)
        scores = self._many(served, table.select(list(served.reader.columns)), count)
        answer = served.pipeline.target.predictions(scores)
        if proba:
            answer = answer.hstack(_probabilities(served, scores))
        return Answer(200, arrow.encode(answer), arrow.TYPE)

    def _v2_table(self, served: _Served, body: bytes, header: int | None, count: Count) -> Answer:
        asked = openinference.decode(body, header, served.pipeline.input_schema)
        return self._v2_answer(served, asked, self._many(served, served.reader.table_of_columns(asked.columns), count))

    def _v2_answer(self, served: _Served, asked: openinference.Asked, scores: Any) -> Answer:
        target = served.pipeline.target
        probabilities = None
        if served.has_probabilities and openinference.wants_probabilities(asked, target):
            probabilities = target.probabilities(scores)
        body, length = openinference.encode(self.settings.name, asked, target, target.predictions(scores), probabilities)
        if length is None:
            return Answer(200, body)
        return Answer(200, body, b"application/octet-stream", [(openinference.HEADER, str(length).encode())])


def create_app(model: Any, options: Options | None = None, **changes: Any) -> App:
    """An ASGI app that answers with a model.

    Parameters
    ----------
    model
        An InferencePipeline, a Model, a framework's own model, or the path of a saved pipeline.
    options
        How it behaves; single options may be given by name (`name=`, `token=`, …: see `Options`).

    Returns
    -------
    App
        A FastAPI app; run it with uvicorn, or mount it into a larger one.
    """
    if isinstance(model, (str, Path)):
        model = artifact.load(model)
    return App(as_pipeline(model), replace(options or Options(), **changes))


def run(model: Any, *, host: str = "127.0.0.1", port: int = 8080, options: Options | None = None, **changes: Any) -> None:
    """Serve a model in this process until it is interrupted. Takes what `create_app` takes.

    Only this machine can reach it unless `host` says otherwise (`"0.0.0.0"`).
    """
    import uvicorn

    uvicorn.run(
        create_app(model, options, **changes), host=host, port=port, log_level="warning", access_log=False, server_header=False
    )


# -- small parts ---------------------------------------------------------------------------------------------------

_SERVER = {"name": "rayline", "version": rayline.__version__, "extensions": ["binary_tensor_data"]}


class _Gone(Exception):  # noqa: N818  # it is no error
    """The client is not there any more."""


def _constant(body: bytes) -> Handler:
    answer = Answer(200, body)

    async def handle(_: _Request) -> Answer:
        return answer

    return handle


def _refused(refusal: Refusal) -> Answer:
    return Answer(refusal.status, dumps(refusal.body()), _JSON, refusal.headers)


async def _send(send: Send, answer: Answer) -> None:
    headers = [(b"content-type", answer.content_type), (b"content-length", b"%d" % len(answer.body)), *answer.headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


def _rows_asked(asked: Any, proba: bool) -> tuple[Any, bool]:
    """The rows (a list) or the columns (a dict) of a body of /predict."""
    if not isinstance(asked, dict):
        return asked, proba
    if not ("rows" in asked) ^ ("columns" in asked):
        raise Refusal(422, 'Expected a list of rows, or {"rows": [...]}, or {"columns": {...}}.')
    proba = proba or asked.get("proba") is True
    if "rows" in asked:
        return asked["rows"], proba
    if not isinstance(asked["columns"], dict):
        raise Refusal(422, 'The columns must be an object of lists: {"column": [value, ...], ...}.')
    return asked["columns"], proba


def _predictions(served: _Served, scores: Any, proba: bool) -> bytes:
    answer: dict[str, Any] = {"predictions": served.writer.predictions(scores)}
    if proba:
        _refuse_without_probabilities(served)
        answer["probabilities"] = served.writer.probabilities(scores)
    return dumps(answer)


def _probabilities(served: _Served, scores: Any) -> pl.DataFrame:
    _refuse_without_probabilities(served)
    return served.pipeline.target.probabilities(scores)


def _refuse_without_probabilities(served: _Served) -> None:
    if not served.has_probabilities:
        raise Refusal(422, "This model gives no probabilities. Leave proba out.")


def _unpacked(body: bytes, encoding: bytes, most: int) -> bytes:
    bits = {b"gzip": 31, b"deflate": 15, b"identity": 0}.get(encoding.strip().lower())
    if bits is None:
        raise Refusal(415, "Expected a Content-Encoding of gzip, deflate or identity.")
    if not bits:
        return body
    try:
        unpacker = zlib.decompressobj(bits)
        data = unpacker.decompress(body, most + 1)
    except zlib.error:
        raise Refusal(400, "The body is not compressed as its Content-Encoding says.") from None
    if len(data) > most:
        raise Refusal(413, f"The body is longer than {most} bytes.", headers=[(b"connection", b"close")])
    if not unpacker.eof:
        raise Refusal(400, "The compressed body was cut off.")
    return data

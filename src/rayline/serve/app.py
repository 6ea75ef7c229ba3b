"""The HTTP app of an inference pipeline. No Ray: uvicorn and Ray Serve run the same app.

It is a FastAPI app (FastAPI handles additional routes and the lifespan), but its own routes are handled before
FastAPI: a prediction takes a fraction of a millisecond, and FastAPI's layers would double that.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from fastapi import FastAPI

from rayline.core.arguments import known_arguments
from rayline.core.errors import DataError, SchemaError
from rayline.core.operations.base import Row
from rayline.core.version import VERSION
from rayline.inference import artifact
from rayline.inference.pipeline import InferencePipeline, ModelLike, as_pipeline
from rayline.serve import arrow, docs_page, form_page, openapi, openinference
from rayline.serve.batching import Batcher, as_exceptions
from rayline.serve.http_messages import (
    SHORT_BODY,
    BodyBudget,
    ClientDisconnected,
    HTTPRequest,
    HTTPResponse,
    Receive,
    Scope,
    Send,
    overloaded,
    refused,
    send_answer,
)
from rayline.serve.metrics import Metrics
from rayline.serve.options import LOOPBACK, ServerKeywords, ServerOptions, changed
from rayline.serve.predictions import ServedModel, ServedScores, Work, requested_instances, requested_rows
from rayline.serve.protocol import HTTPError, dumps, loads

FEW_ROWS = 32
"""Up to this number, rows are preprocessed one by one with the compiled row functions; more rows are processed as a table."""

_log = logging.getLogger("rayline.serve")

Handler = Callable[[HTTPRequest, ServedModel], Awaitable[HTTPResponse]]


class App(FastAPI):
    """The ASGI app made by `create_app`; `swap` replaces its pipeline while it runs."""

    def __init__(self, pipeline: InferencePipeline, options: ServerOptions) -> None:
        super().__init__(
            title=options.name,
            version="1",
            docs_url=None,
            redoc_url=None,
            separate_input_output_schemas=False,
            redirect_slashes=False,
        )
        self.settings = options
        self.metrics = Metrics(options.name)
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="rayline-serve")
        self._batcher = Batcher(options, self._threads)
        self._memory = BodyBudget(4 * options.max_body_bytes, SHORT_BODY * max(1024, 2 * options.max_queued_requests))
        self._n_threaded = 0
        self._handlers = self._make_handlers()
        self._paths = {path for _, path in self._handlers}
        self._token = None if options.token is None else b"Bearer " + options.token.encode()
        self.swap(pipeline)

    @property
    def pipeline(self) -> InferencePipeline:
        """The pipeline that currently answers requests."""
        return self._served.pipeline

    def swap(self, pipeline: InferencePipeline) -> None:
        """Use another pipeline from the next request on; requests in progress finish with the old one."""
        self.activate(self.served(pipeline))

    def served(self, pipeline: InferencePipeline) -> ServedModel:
        """Prepare a pipeline for `activate`. This calls the model, which may be slow: use a thread in a running server."""
        return ServedModel(pipeline, self.settings.name, self.settings.batch_rows(on_gpu=True))

    def activate(self, served: ServedModel) -> None:
        """Use a prepared pipeline from now on: the second, fast half of `swap`."""
        self._document = openapi.document(self.settings, served.pipeline, served.has_probabilities)
        self._served = served
        self._batcher.expect(served.call_s, on_gpu=served.is_on_gpu)

    def close(self) -> None:
        """Stop the threads of the app."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document, generated from the schema."""
        return self._document

    # -- handling of a request -------------------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        path: str = scope["path"]
        root: str = scope.get("root_path", "")
        if root and path.startswith(root):
            path = path[len(root) :] or "/"
        method: str = "GET" if scope["method"] == "HEAD" else scope["method"]  # the server omits the body
        route_handler = self._handlers.get((method, path))
        protocol, handler, is_open = route_handler or ("other", None, False)
        start = time.perf_counter()
        request = HTTPRequest(scope, receive)
        if route_handler is None and not path.startswith(("/v1/", "/v2/")) and path not in self._paths:
            try:
                self._admit(request, method)
            except HTTPError as refusal:
                await send_answer(send, refused(refusal))
                return
            await super().__call__(scope, receive, send)
            return
        try:
            if not is_open:
                self._admit(request, method)
            if handler is None:
                raise self._unknown(path)
            answer = await (
                self._answer_to_body(handler, request) if method == "POST" else handler(request, self._served)
            )
        except (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # libraries in Rust raise panics, which are no Exception
            failed = self._failed(error, path, request)
            _release_frames(error)
            if failed is None:
                return
            answer = failed
        finally:
            self._memory.release(request.size)
        await send_answer(send, answer)
        self.metrics.request(protocol, answer.status, time.perf_counter() - start)

    async def _answer_to_body(self, handler: Handler, request: HTTPRequest) -> HTTPResponse:
        """Read the body and return the handler's answer, unless too many requests wait, or any web page could have sent it."""
        if max(self._batcher.n_waiting, self._n_threaded) >= self.settings.max_queued_requests:
            raise overloaded()  # before any work for the request
        if request.content_type in _FORMS:
            raise HTTPError(415, "Expected the Content-Type application/json, not one that any web page can send.")
        async with asyncio.timeout(self.settings.request_timeout_s):
            await request.read(self.settings.max_body_bytes, self._memory, self._threads)
            return await handler(request, self._served)

    def _failed(self, error: BaseException, path: str, request: HTTPRequest) -> HTTPResponse | None:
        """Return the answer to an error; None when the client has disconnected."""
        if isinstance(error, ClientDisconnected):
            return None
        if isinstance(error, HTTPError):
            return refused(error)
        if isinstance(error, (SchemaError, DataError)):
            return refused(HTTPError(422, str(error)))
        if isinstance(error, TimeoutError):
            leave = [] if request.is_read else [(b"connection", b"close")]
            return refused(
                HTTPError(504, f"The request took longer than {self.settings.request_timeout_s:g} s.", headers=leave)
            )
        _log.error("A request to %s failed.", path, exc_info=error)
        return refused(HTTPError(500, "The server failed on this request; its log has the details."))

    def overloaded(self) -> bytes:
        """Return the raw HTTP answer 503 and count it, for a server that refuses a request without calling the app."""
        self.metrics.request("refused", 503, 0.0)
        return _OVERLOADED

    def _admit(self, request: HTTPRequest, method: str) -> None:
        """Raise HTTPError when the request is not allowed because of its token, its Host header, or the web page that sent it."""
        headers, hosts = request.headers, self.settings.allowed_hosts
        if self._token is not None and not hmac.compare_digest(headers.get(b"authorization", b""), self._token):
            raise _unauthorised()
        if hosts is not None and not all(host_name(v) in hosts for k, v in request.scope["headers"] if k == b"host"):
            raise HTTPError(
                421, "This server does not accept that Host. Use localhost, or start the server with allowed_hosts=."
            )
        if method != "GET" and not _is_own_page(headers, hosts or ()):
            raise HTTPError(
                403,
                "A page of another site may not send requests to this server. Start the server with allowed_hosts= to allow the site.",
            )

    def _unknown(self, path: str) -> HTTPError:
        methods = sorted(method for method, known_path in self._handlers if known_path == path)
        if methods:
            return HTTPError(
                405, f"{path} accepts {' and '.join(methods)}.", headers=[(b"allow", ", ".join(methods).encode())]
            )
        return HTTPError(404, f"There is no such path. The model is called {self.settings.name!r}, its version is '1'.")

    # -- routes ----------------------------------------------------------------------------------------------------

    def _make_handlers(self) -> dict[tuple[str, str], tuple[str, Handler | None, bool]]:
        name = self.settings.name
        ready = _constant(dumps({"status": "ready"}))
        handlers: dict[tuple[str, str], tuple[str, Handler | None, bool]] = {
            ("POST", "/predict"): ("predict", self._predict, False),
            ("POST", "/explain"): ("explain", self._explain, False),
            ("POST", f"/v1/models/{name}:predict"): ("v1", self._v1_predict, False),
            ("GET", "/v1/models"): ("v1", _constant(dumps({"models": [name]})), False),
            ("GET", f"/v1/models/{name}"): ("v1", _constant(dumps({"name": name, "ready": True})), False),
            ("GET", "/v2"): ("v2", _constant(dumps(_SERVER)), False),
            ("GET", "/v2/health/live"): ("v2", _constant(dumps({"live": True})), True),
            ("GET", "/v2/health/ready"): ("v2", _constant(dumps({"ready": True})), True),
            ("GET", "/health"): ("health", ready, True),
            ("GET", "/metrics"): ("metrics", self._metrics, False),
            ("GET", "/"): ("page", self._page, False),
            ("GET", "/docs"): ("page", self._docs, False),
        }
        for place in (f"/v2/models/{name}", f"/v2/models/{name}/versions/1"):
            handlers["GET", place] = ("v2", self._v2_metadata, False)
            handlers["GET", f"{place}/ready"] = ("v2", _constant(dumps({"name": name, "ready": True})), True)
            handlers["POST", f"{place}/infer"] = ("v2", self._v2_infer, False)
        return handlers

    async def _predict(self, request: HTTPRequest, served: ServedModel) -> HTTPResponse:
        proba = bool(request.query) and request.flag("proba")
        if request.content_type == arrow.TYPE:
            return await self._threaded(request, partial(served.arrow, request.body, proba))
        if len(request.body) > SHORT_BODY:
            return await self._threaded(request, partial(served.json, request.body, proba))
        rows, proba = requested_rows(loads(request.body), proba)
        return await self._rows(request, served, rows, proba)

    async def _explain(self, request: HTTPRequest, served: ServedModel) -> HTTPResponse:
        return await self._threaded(request, partial(served.explain, request.body))

    async def _v1_predict(self, request: HTTPRequest, served: ServedModel) -> HTTPResponse:
        if len(request.body) > SHORT_BODY:
            return await self._threaded(request, partial(served.instances, request.body))
        return await self._rows(
            request, served, requested_instances(loads(request.body), list(served.reader.columns)), False
        )

    async def _v2_infer(self, request: HTTPRequest, served: ServedModel) -> HTTPResponse:
        header, n = request.headers.get(openinference.HEADER), None
        if header is not None:
            if not header.isdigit() or len(header) > 18:
                raise HTTPError(400, "Inference-Header-Content-Length is not a length within the body.")
            n = int(header)
        if len(request.body) > SHORT_BODY:
            return await self._threaded(request, partial(served.tensors, request.body, n))
        schema = served.pipeline.input_schema
        decoded = openinference.decode(request.body, n, schema)
        if (
            decoded.n_rows <= FEW_ROWS
            and served.pipeline.takes_rows
            and all(name in decoded.columns for name in schema)
        ):
            rows = served.reader.rows(served.reader.transposed(decoded.columns, decoded.n_rows))
            return served.tensor_predictions(decoded, await self._few(served, rows))
        return await self._threaded(request, partial(served.tensors, request.body, n))

    async def _v2_metadata(self, request: HTTPRequest, served: ServedModel) -> HTTPResponse:
        pipeline = served.pipeline
        platform = f"rayline_{pipeline.model.framework}"
        about = openinference.metadata(self.settings.name, platform, pipeline, probabilities=served.has_probabilities)
        return HTTPResponse(200, dumps(about))

    async def _metrics(self, request: HTTPRequest, served: ServedModel) -> HTTPResponse:
        text = self.metrics.text(queued_requests=self._batcher.n_waiting, model_calls=self._batcher.n_calls)
        return HTTPResponse(200, text.encode(), b"text/plain; version=0.0.4; charset=utf-8")

    async def _page(self, request: HTTPRequest, served: ServedModel) -> HTTPResponse:
        name, seen = self.settings.name, served.skew.categories
        return await self._html(
            lambda: form_page.html(
                name, served.pipeline, seen, has_probabilities=served.has_probabilities, explains=_explains(served)
            )
        )

    async def _docs(self, request: HTTPRequest, served: ServedModel) -> HTTPResponse:
        document = self._document
        return await self._html(lambda: docs_page.html(self.settings.name, served.pipeline, document))

    async def _html(self, make: Callable[[], tuple[bytes, Sequence[tuple[bytes, bytes]]]]) -> HTTPResponse:
        """Write a page in a thread: for a thousand columns it takes longer than a prediction."""
        html, headers = await asyncio.get_running_loop().run_in_executor(self._threads, make)
        return HTTPResponse(200, html, b"text/html; charset=utf-8", headers)

    # -- predictions -----------------------------------------------------------------------------------------------

    async def _rows(self, request: HTTPRequest, served: ServedModel, rows: Any, proba: bool) -> HTTPResponse:
        if isinstance(rows, list) and len(rows) <= FEW_ROWS and served.pipeline.takes_rows:
            return served.predictions(await self._few(served, served.reader.rows(rows)), proba)
        return await self._threaded(request, partial(served.rows, rows, proba))

    async def _few(self, served: ServedModel, rows: Sequence[Row]) -> ServedScores:
        prepare = served.pipeline.prepare
        scores = self._batcher.scores(served.pipeline.model, [prepare(row) for row in rows])
        for row in rows:
            served.skew.row(row, self.metrics.counts)
        return served.served_scores(rows, await scores)

    async def _threaded(self, request: HTTPRequest, run: Callable[[Work], HTTPResponse]) -> HTTPResponse:
        """Run slow work in a thread, so that it does not block the event loop. At most `max_queued_requests` run at a time;
        the work stops when the client disconnects or the request times out."""
        if self._n_threaded >= self.settings.max_queued_requests:
            raise overloaded()
        loop = asyncio.get_running_loop()
        work = Work(lambda counts: loop.call_soon_threadsafe(self.metrics.counts.add, counts))
        held, request.size = request.size, 0  # held until the thread has finished, which may be long after a timeout
        self._n_threaded += 1
        running = self._threads.submit(as_exceptions, partial(run, work))
        running.add_done_callback(lambda _: loop.call_soon_threadsafe(self._thread_finished, held))
        answer, disconnected = asyncio.wrap_future(running), loop.create_task(request.disconnected())
        try:
            await asyncio.wait((answer, disconnected), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise ClientDisconnected
            return answer.result()
        finally:
            work.is_wanted = False
            answer.cancel()
            disconnected.cancel()

    def _thread_finished(self, held: int) -> None:
        self._n_threaded -= 1
        self._memory.release(held)


@known_arguments
def create_app(model: ModelLike, options: ServerOptions | None = None, **changes: Unpack[ServerKeywords]) -> App:
    """Return an ASGI app that answers with the predictions of a model.

    Parameters
    ----------
    model
        An InferencePipeline, a Model, a framework's own model, or the path of a saved pipeline.
    options
        The server's options; single options can be given by name (`name=`, `token=`, …: see `ServerOptions`).

    Returns
    -------
    App
        A FastAPI app; run it with uvicorn, or mount it into a larger one.

    Raises
    ------
    ParameterError
        On an option that does not exist or has a wrong value, and on an object that is no model.
    ArtifactError
        When a path is given and no artifact is there.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline import train
    >>> table = pl.DataFrame({"x": [0.0, 1.0, 2.0, 3.0] * 25, "late": ["no", "no", "yes", "yes"] * 25})
    >>> trainer = train.XGBoostTrainer({"max_depth": 2}, num_boost_round=3, seed=1)
    >>> result = train.fit(trainer, train_dataset=table, target_columns=["late"], verbose=False)
    >>> from rayline import serve
    >>> app = serve.create_app(result.inference_pipeline, name="late")
    >>> type(app).__name__
    'App'
    """
    options = changed(options, changes)
    if isinstance(model, (str, Path)):
        model = artifact.load(model)
    return App(as_pipeline(model), options)


# -- helpers -------------------------------------------------------------------------------------------------------

_FORMS = (b"text/plain", b"application/x-www-form-urlencoded", b"multipart/form-data")
"""Content types that a browser posts to any server on behalf of any page, without asking the server first."""

_SERVER = {"name": "rayline", "version": VERSION, "extensions": ["binary_tensor_data"]}


def _explains(served: ServedModel) -> str:
    """Return how the page explains predictions: at once, when asked because it takes long, or not at all."""
    explainer = served.explainer
    try:
        return "auto" if explainer.is_exact else "ask" if explainer.is_possible else ""
    except Exception:  # whatever a library raises about contributions: the page works without them
        _log.exception("The contributions of this model cannot be computed.")
        return ""


def _constant(body: bytes) -> Handler:
    answer = HTTPResponse(200, body)

    async def handle(*_: object) -> HTTPResponse:
        return answer

    return handle


def host_name(host: bytes) -> str:
    """Return the name in a Host header or an origin, without port and brackets."""
    name, _, port = host.decode("latin-1").strip().lower().rpartition(":")
    if not name or not (port.isdigit() or not port):
        name = name + ":" + port if name else port
    return name.removeprefix("[").removesuffix("]").removesuffix(".")


def _is_own_page(headers: Mapping[bytes, bytes], hosts: Collection[str]) -> bool:
    """Return False when a page of another site sent the request. Browsers say so in one of two headers; other clients send neither."""
    site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin", b"")
    if site in (b"same-origin", b"none") or (site is None and not origin):
        return True
    scheme, _, asking = origin.partition(b"://")
    if host_name(asking) in hosts and host_name(asking) not in LOOPBACK:
        return True  # allowed by name
    return site is None and scheme in (b"http", b"https") and asking.lower() == headers.get(b"host", b"").lower()


def _release_frames(error: BaseException | None) -> None:
    """Clear the local variables in the frames of an error: rows, bodies, and futures that refer to the error. Otherwise these stay in
    memory until the garbage collector finds the cycle, which it seldom does here."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _unauthorised() -> HTTPError:
    return HTTPError(401, "This server needs a bearer token.", headers=[(b"www-authenticate", b"Bearer")])


def _on_the_wire(answer: HTTPResponse) -> bytes:
    headers = [(b"content-type", answer.content_type), (b"content-length", b"%d" % len(answer.body)), *answer.headers]
    lines = [b"HTTP/1.1 503 Service Unavailable", *(name + b": " + value for name, value in headers)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + answer.body


_OVERLOADED = _on_the_wire(refused(overloaded()))

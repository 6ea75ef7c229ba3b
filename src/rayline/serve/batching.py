"""Batching: requests that wait at the same time share one call of the model. By default no request waits for others."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from rayline.core.operations.base import Row
from rayline.inference.model import Model
from rayline.serve.http_messages import overloaded
from rayline.serve.options import ServerOptions

SLOW_S = 0.01
"""Calls of a model that usually take longer than this run in a thread, so that they do not block the event loop."""

Result = TypeVar("Result")

_log = logging.getLogger("rayline.serve")


@dataclass(slots=True)
class _QueuedRequest:
    model: Model
    rows: Sequence[Row]
    scores: asyncio.Future[Any]


class Batcher:
    """The queue of requests with few rows, bounded by `max_queued_requests`.

    All requests waiting at a step of the event loop go into one call, up to `max_batch_size` rows: the busier
    the server, the larger the calls. Belongs to one event loop.
    """

    def __init__(self, options: ServerOptions, threads: ThreadPoolExecutor) -> None:
        self._options, self._threads = options, threads
        self._batch_rows = options.batch_rows(on_gpu=False)
        self._waiting: deque[_QueuedRequest] = deque()
        self._n_rows = 0
        self._due: asyncio.Handle | None = None
        self._running = False
        self._usual_s: float | None = None  # unknown yet: such a call runs in a thread too
        self.n_calls = 0

    @property
    def n_waiting(self) -> int:
        """The number of requests in the queue."""
        return len(self._waiting)

    def expect(self, call_s: float | None, *, on_gpu: bool = False) -> None:
        """Set the usual duration of a call, None when it is unknown, and whether the model computes on a GPU."""
        self._usual_s, self._batch_rows = call_s, self._options.batch_rows(on_gpu=on_gpu)

    def scores(self, model: Model, rows: Sequence[Row]) -> asyncio.Future[Any]:
        """Return a future of the scores of preprocessed rows. Raises HTTPError (503) when the queue is full."""
        if len(self._waiting) >= self._options.max_queued_requests:
            raise overloaded()
        loop = asyncio.get_running_loop()
        request = _QueuedRequest(model, rows, loop.create_future())
        self._waiting.append(request)
        self._n_rows += len(rows)
        if not self._running:
            self._schedule(loop)
        return request.scores

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        wait_s, full = self._options.batch_wait_timeout_s, self._n_rows >= self._batch_rows
        if self._due is not None:
            if not (full and wait_s):
                return
            self._due.cancel()
        self._due = loop.call_soon(self._next) if full or not wait_s else loop.call_later(wait_s, self._next)

    def _take(self) -> list[_QueuedRequest]:
        """Return the requests of the next call: for one model, in order, without those whose client no longer waits."""
        batch: list[_QueuedRequest] = []
        n = 0
        while self._waiting:
            request = self._waiting[0]
            if batch and (request.model is not batch[0].model or n + len(request.rows) > self._batch_rows):
                break
            self._waiting.popleft()
            self._n_rows -= len(request.rows)
            if not request.scores.done():
                batch.append(request)
                n += len(request.rows)
        return batch

    def _next(self) -> None:
        self._due = None
        loop = asyncio.get_running_loop()
        batch = self._take()
        if batch:
            if self._usual_s is None or self._usual_s > SLOW_S:
                self._running = True
                loop.run_in_executor(self._threads, self._call, batch).add_done_callback(self._finished)
                return
            _deliver(self._call(batch))
        if self._waiting:
            self._schedule(loop)

    def _finished(self, call: asyncio.Future[list[tuple[_QueuedRequest, Any]]]) -> None:
        self._running = False
        _deliver(call.result())
        if self._waiting:
            self._schedule(asyncio.get_running_loop())

    def _call(self, batch: list[_QueuedRequest]) -> list[tuple[_QueuedRequest, Any]]:
        start = time.perf_counter()
        model = batch[0].model
        try:
            if len(batch) == 1:
                return [(batch[0], as_exceptions(partial(model.row_scores, *batch[0].rows)))]
            scores = as_exceptions(partial(model.row_scores, *[row for request in batch for row in request.rows]))
            done, at = [], 0
            for request in batch:
                done.append((request, scores[at : at + len(request.rows)]))
                at += len(request.rows)
            return done
        except Exception as error:
            if len(batch) == 1:
                return [(batch[0], error)]
            _log.warning("A call of the model with %d requests failed; they are tried one by one.", len(batch))
            return [pair for request in batch for pair in self._call([request])]
        finally:
            self.n_calls += 1
            call_s = time.perf_counter() - start
            self._usual_s = call_s if self._usual_s is None else self._usual_s + 0.2 * (call_s - self._usual_s)


def as_exceptions(call: Callable[[], Result]) -> Result:
    """Call foreign code and return its result. Turns a panic of a Rust library, or a SystemExit that would end the server, into a
    RuntimeError."""
    try:
        return call()
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise RuntimeError(f"{type(error).__name__}: {error}") from error


def _deliver(done: list[tuple[_QueuedRequest, Any]]) -> None:
    for request, scores in done:
        if not request.scores.done():
            if isinstance(scores, Exception):
                request.scores.set_exception(scores)
            else:
                request.scores.set_result(scores)

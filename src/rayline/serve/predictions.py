"""A pipeline prepared for serving: reading its input, and writing its predictions in the form of each protocol."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from rayline.core.errors import at
from rayline.core.operations.base import Row
from rayline.core.schema import col
from rayline.core.scores import has_probabilities
from rayline.inference.pipeline import InferencePipeline
from rayline.serve import arrow, openinference
from rayline.serve.explanations import RowExplainer
from rayline.serve.http_messages import ClientDisconnected, HTTPResponse
from rayline.serve.metrics import SkewCounts, TrainingSkew
from rayline.serve.protocol import MAX_PROBLEMS, HTTPError, PredictionWriter, RowReader, dumps, loads


class Work:
    """Work in a thread: collects its counts, and stops when the client no longer waits for the answer."""

    def __init__(self, count: Callable[[SkewCounts], Any]) -> None:
        self.count = count
        self.is_wanted = True

    def check(self) -> None:
        """Raise ClientDisconnected when the client no longer waits. Called between steps that may be slow."""
        if not self.is_wanted:
            raise ClientDisconnected


class ServedScores(NamedTuple):
    """The scores of some rows, with intervals if the pipeline gives them.

    Attributes
    ----------
    scores
        The scores after postprocessing.
    intervals
        The intervals or sets of each row (see `InferencePipeline.predict`), as rows or as a table; None where there are none.
    """

    scores: Any
    intervals: Sequence[Row] | pl.DataFrame | None = None

    def interval_rows(self) -> Sequence[Row]:
        return self.intervals.to_dicts() if isinstance(self.intervals, pl.DataFrame) else self.intervals or ()

    def interval_table(self, pipeline: InferencePipeline) -> pl.DataFrame:
        if isinstance(self.intervals, pl.DataFrame):
            return self.intervals
        if self.intervals is None:
            return pl.DataFrame()
        dtypes = iter(pipeline.target.dtypes)
        types = {n: pl.List(next(dtypes)) if n.startswith("set") else pl.Float64() for n in pipeline.interval_names}
        return pl.DataFrame(self.intervals, schema=types)


class ServedModel:
    """A pipeline with its readers and writers for serving.

    Methods that return an `HTTPResponse` process the client's data as a table; they run in threads.
    """

    def __init__(self, pipeline: InferencePipeline, name: str, gpu_rows: int = 1) -> None:
        self.pipeline, self.name = pipeline, name
        with at("serve"):
            pipeline.model.place()  # now: a GPU that is not there is an error of the start, not of a request
        self.is_on_gpu = pipeline.model.is_on_gpu
        self.reader, self.writer = RowReader(pipeline.input_schema), PredictionWriter(pipeline.target)
        self.explainer = RowExplainer(pipeline)
        self.skew = TrainingSkew(pipeline)
        self.has_probabilities = self._has_probabilities()
        if self.is_on_gpu:
            self._warm_up(gpu_rows)
        self.call_s = self._call_s()

    def _has_probabilities(self) -> bool:
        if not self.pipeline.target.task.is_classification:
            return False
        rows = self.pipeline.examples.head(1)
        return not rows.height or has_probabilities(self.pipeline.scores(rows.lazy()))

    def _warm_up(self, n_rows: int) -> None:
        """Call the model with as many rows as a call may have: it loads what it computes with, and finds the size that fits."""
        rows = self.pipeline.examples.head(1).to_dicts()
        if rows and self.pipeline.takes_rows:
            self.pipeline.model.row_scores(*(self.pipeline.prepare(rows[0]) for _ in range(n_rows)))

    def _call_s(self) -> float | None:
        """Return the duration of a second call of the model with one row (the first may load something). None without example rows."""
        rows = self.pipeline.examples.head(1).to_dicts()
        if not rows or not self.pipeline.takes_rows:
            return None
        self.pipeline.row_scores(rows[0])
        start = time.perf_counter()
        self.pipeline.row_scores(rows[0])
        return time.perf_counter() - start

    # -- many rows -------------------------------------------------------------------------------------------------

    def json(self, body: bytes, proba: bool, work: Work) -> HTTPResponse:
        """Answer the body of a /predict request."""
        return self.rows(*requested_rows(loads(body), proba), work)

    def instances(self, body: bytes, work: Work) -> HTTPResponse:
        """Answer a body of KServe's V1 protocol."""
        return self.rows(requested_instances(loads(body), list(self.reader.columns)), False, work)

    def rows(self, rows: Any, proba: bool, work: Work) -> HTTPResponse:
        """Answer rows (a list) or columns (a dict) from JSON."""
        work.check()
        table = self.reader.table_of_columns(rows) if isinstance(rows, dict) else self.reader.table(rows)
        return self.predictions(self._scores(table, work), proba)

    def explain(self, body: bytes, work: Work) -> HTTPResponse:
        """Answer the body of an /explain request."""
        request = loads(body)
        of = request.get("of") if isinstance(request, dict) else None
        rows, _ = requested_rows(request, False)
        table = self.reader.table_of_columns(rows) if isinstance(rows, dict) else self.reader.table(rows)
        self.explainer.check(table.height)
        work.check()
        return HTTPResponse(200, dumps({"explanations": self.explainer.explanations(table, of)}))

    def arrow(self, body: bytes, proba: bool, work: Work) -> HTTPResponse:
        """Answer an Arrow IPC stream with another one."""
        table = arrow.decode(body, self.reader.columns)
        work.check()
        missing = [{"column": name, "problem": "missing"} for name in self.reader.columns if name not in table.columns]
        if missing:
            raise HTTPError.of_rows(missing)
        if not table.height:
            raise HTTPError(422, "Expected at least one row; got none.")
        table = table.select(map(col, self.reader.columns))
        self._refuse_infinity(table)
        scores = self._scores(table, work)
        answer = self.pipeline.target.predictions(scores.scores).hstack(scores.interval_table(self.pipeline))
        if proba:
            self._refuse_without_probabilities()
            answer = answer.hstack(self.pipeline.target.probabilities(scores.scores))
        return HTTPResponse(200, arrow.encode(answer), arrow.TYPE)

    def tensors(self, body: bytes, header_bytes: int | None, work: Work) -> HTTPResponse:
        """Answer a request of the Open Inference Protocol."""
        request = openinference.decode(body, header_bytes, self.pipeline.input_schema)
        work.check()
        return self.tensor_predictions(request, self._scores(self.reader.table_of_columns(request.columns), work))

    def _scores(self, table: pl.DataFrame, work: Work) -> ServedScores:
        work.check()
        if self.pipeline.has_intervals:
            outcome = self.pipeline.outcome(table)
            served_scores = ServedScores(outcome.scores, outcome.intervals())
        else:
            served_scores = ServedScores(self.pipeline.scores(table.lazy()))
        work.check()
        work.count(self.skew.table(table))
        return served_scores

    def served_scores(self, rows: Sequence[Row], scores: Any) -> ServedScores:
        """Return the answers for a few raw rows from the scores of the model."""
        pipeline = self.pipeline
        if not pipeline.has_intervals:
            return ServedScores(pipeline.postprocessed(scores))
        outcomes = [pipeline.row_outcome(row, scores[i : i + 1]) for i, row in enumerate(rows)]
        return ServedScores(
            np.concatenate([outcome.scores for outcome in outcomes]), [outcome.intervals() for outcome in outcomes]
        )

    def _refuse_infinity(self, table: pl.DataFrame) -> None:
        """Raise HTTPError on infinite numbers, which JSON does not have either."""
        infinite = {column.name: column.is_infinite() for column in table if column.dtype.is_float()}
        if any(mask.any() for mask in infinite.values()):
            raise HTTPError.of_rows(
                {
                    "row": row,
                    "column": name,
                    "problem": f"expected {self.reader.columns[name].words} or null; got {table[name][row]}",
                }
                for name, mask in infinite.items()
                for row in mask.arg_true()[: MAX_PROBLEMS + 1]
            )

    # -- from scores to answers ------------------------------------------------------------------------------------

    def predictions(self, served_scores: ServedScores, proba: bool = False) -> HTTPResponse:
        """Return predictions in the form of /predict and KServe V1."""
        answer: dict[str, Any] = {"predictions": self.writer.predictions(served_scores.scores)}
        if served_scores.intervals is not None:
            name = "sets" if self.pipeline.target.task.is_classification else "intervals"
            answer[name] = self.writer.intervals(served_scores.interval_rows())
        if proba:
            self._refuse_without_probabilities()
            answer["probabilities"] = self.writer.probabilities(served_scores.scores)
        return HTTPResponse(200, dumps(answer))

    def tensor_predictions(self, request: openinference.InferenceRequest, served_scores: ServedScores) -> HTTPResponse:
        """Return predictions in the form of the Open Inference Protocol."""
        target, scores = self.pipeline.target, served_scores.scores
        probabilities = None
        if self.has_probabilities and openinference.wants_probabilities(request, target):
            probabilities = target.probabilities(scores)
        body, length = openinference.encode(
            self.name,
            request,
            target,
            target.predictions(scores),
            probabilities,
            served_scores.interval_table(self.pipeline),
        )
        if length is None:
            return HTTPResponse(200, body)
        return HTTPResponse(200, body, b"application/octet-stream", [(openinference.HEADER, str(length).encode())])

    def _refuse_without_probabilities(self) -> None:
        if not self.has_probabilities:
            raise HTTPError(422, "This model has no probabilities. Leave proba out.")


def requested_rows(request: Any, proba: bool) -> tuple[Any, bool]:
    """Return the rows (a list) or columns (a dict) of a body of /predict, and whether probabilities are requested."""
    if not isinstance(request, dict):
        return request, proba
    if not ("rows" in request) ^ ("columns" in request):
        raise HTTPError(422, 'Expected a list of rows, or {"rows": [...]}, or {"columns": {...}}.')
    proba = proba or request.get("proba") is True
    if "rows" in request:
        return request["rows"], proba
    if not isinstance(request["columns"], dict):
        raise HTTPError(422, 'The columns must be an object of lists: {"column": [value, ...], ...}.')
    return request["columns"], proba


def requested_instances(request: Any, columns: Sequence[str]) -> list[Any]:
    """Return the rows of a body of KServe's V1 protocol; a list of values is a row in the order of the columns."""
    instances = request.get("instances") if isinstance(request, dict) else None
    if not isinstance(instances, list):
        raise HTTPError(400, 'Expected {"instances": [...]}: rows as objects, or as lists in the order of the columns.')
    n = len(columns)
    return [dict(zip(columns, i, strict=True)) if isinstance(i, list) and len(i) == n else i for i in instances]

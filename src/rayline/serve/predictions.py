"""A pipeline as it is served: what it reads, and its predictions in the form that each protocol has for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl

from rayline.core.schema import col
from rayline.core.target import has_probabilities
from rayline.inference.pipeline import InferencePipeline
from rayline.serve import arrow, openinference
from rayline.serve.exchange import Answer
from rayline.serve.metrics import Counts, Skew
from rayline.serve.protocol import Reader, Refusal, Writer, dumps, loads

Count = Callable[[Counts], Any]
"""Takes what one request has counted."""


class Served:
    """A pipeline with what serving needs of it.

    The methods that give an `Answer` take what the client has sent and work through it as a table; they run in threads.
    """

    def __init__(self, pipeline: InferencePipeline, name: str) -> None:
        self.pipeline, self.name = pipeline, name
        self.reader, self.writer = Reader(pipeline.input_schema), Writer(pipeline.target)
        self.skew = Skew(pipeline)
        self.has_probabilities = self._has_probabilities()

    def _has_probabilities(self) -> bool:
        if not self.pipeline.target.task.is_classification:
            return False
        rows = self.pipeline.examples.head(1)
        return not rows.height or has_probabilities(self.pipeline.scores(rows.lazy()))

    # -- many rows -------------------------------------------------------------------------------------------------

    def json(self, body: bytes, proba: bool, count: Count) -> Answer:
        """The body of a /predict."""
        return self.rows(*rows_asked(loads(body), proba), count)

    def rows(self, rows: Any, proba: bool, count: Count) -> Answer:
        """Rows (a list) or columns (a dict) as JSON has them."""
        table = self.reader.table_of_columns(rows) if isinstance(rows, dict) else self.reader.table(rows)
        return self.predictions(self._scores(table, count), proba)

    def arrow(self, body: bytes, proba: bool, count: Count) -> Answer:
        """An Arrow IPC stream, answered with one."""
        table = arrow.decode(body)
        if not table.height:
            raise Refusal(422, "Expected at least one row; got none.")
        missing = [{"column": name, "problem": "missing"} for name in self.reader.columns if name not in table.columns]
        if missing:
            raise Refusal(422, f"The table lacks {len(missing)} columns.", missing)
        scores = self._scores(table.select(map(col, self.reader.columns)), count)
        answer = self.pipeline.target.predictions(scores)
        if proba:
            self._refuse_without_probabilities()
            answer = answer.hstack(self.pipeline.target.probabilities(scores))
        return Answer(200, arrow.encode(answer), arrow.TYPE)

    def tensors(self, body: bytes, header_bytes: int | None, count: Count) -> Answer:
        """A request of the Open Inference Protocol."""
        asked = openinference.decode(body, header_bytes, self.pipeline.input_schema)
        return self.tensor_predictions(asked, self._scores(self.reader.table_of_columns(asked.columns), count))

    def _scores(self, table: pl.DataFrame, count: Count) -> Any:
        scores = self.pipeline.scores(table.lazy())
        count(self.skew.table(table))
        return scores

    # -- from scores to answers ------------------------------------------------------------------------------------

    def predictions(self, scores: Any, proba: bool = False) -> Answer:
        """As /predict and KServe V1 have them."""
        answer: dict[str, Any] = {"predictions": self.writer.predictions(scores)}
        if proba:
            self._refuse_without_probabilities()
            answer["probabilities"] = self.writer.probabilities(scores)
        return Answer(200, dumps(answer))

    def tensor_predictions(self, asked: openinference.Asked, scores: Any) -> Answer:
        """As the Open Inference Protocol has them."""
        target = self.pipeline.target
        probabilities = None
        if self.has_probabilities and openinference.wants_probabilities(asked, target):
            probabilities = target.probabilities(scores)
        body, length = openinference.encode(self.name, asked, target, target.predictions(scores), probabilities)
        if length is None:
            return Answer(200, body)
        return Answer(200, body, b"application/octet-stream", [(openinference.HEADER, str(length).encode())])

    def _refuse_without_probabilities(self) -> None:
        if not self.has_probabilities:
            raise Refusal(422, "This model gives no probabilities. Leave proba out.")


def rows_asked(asked: Any, proba: bool) -> tuple[Any, bool]:
    """The rows (a list) or the columns (a dict) of a body of /predict, and whether probabilities are asked for, too."""
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

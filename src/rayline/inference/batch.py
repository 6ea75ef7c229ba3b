"""Batch inference: the function that is applied to each block of rows, and predictions written as files.

The same function runs in process and on Ray, so a prediction does not depend on where it is computed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import polars as pl

from rayline.core import registry
from rayline.core.arguments import ParameterCheck, integer
from rayline.core.column_choice import refuse_existing_columns
from rayline.core.engine import Placement
from rayline.core.errors import ParameterError, RaylineError, SchemaError, at, first_line
from rayline.core.json_values import schema_to_json
from rayline.core.parquet_parts import PartFiles
from rayline.core.schema import col
from rayline.core.scores import numbers
from rayline.inference.scorer import Scorer
from rayline.postprocess import chain

ERROR = "prediction_error"
"""The column that `on_error="collect"` adds: the error message of the row, null for a row that was predicted."""

WHERE = "InferencePipeline.transform"

WithInterval: TypeAlias = Annotated[
    bool,
    ParameterCheck(
        "True or False",
        lambda value: value is None or isinstance(value, (bool, np.bool_)),
        hint="the coverage is learned: pipeline.calibrated([Conformal(coverage=0.9)], rows).",
    ),
]
"""Whether predictions come with intervals or sets."""

OnError: TypeAlias = Literal["raise", "null", "collect"]
"""How a row that cannot be predicted is handled."""


class BatchPredictor:
    """The function that adds predictions to a block of rows and keeps the selected columns.

    Parameters
    ----------
    pipeline
        The scorer or inference pipeline that predicts.
    labels, proba
        Whether to add predictions, and whether to add probabilities.
    interval
        Whether to add intervals or sets; the pipeline must have a stage that gives them.
    keep
        The columns to keep; None keeps all.
    on_error
        How to handle a row that cannot be predicted: "raise" an error, return "null" predictions, or "collect": return null
        predictions and the error message in the column `prediction_error`.
    """

    def __init__(
        self,
        pipeline: Scorer[Any],
        *,
        labels: bool = True,
        proba: bool = False,
        interval: WithInterval = False,
        keep: tuple[str, ...] | None = (),
        on_error: OnError = "raise",
    ) -> None:
        if interval and not pipeline.has_intervals:
            raise no_intervals(pipeline)
        self.pipeline, self.labels, self.proba, self.keep, self.on_error = pipeline, labels, proba, keep, on_error
        self.interval = interval
        with at(f"{WHERE} (keep_columns)"):
            refuse_existing_columns(self._adds, keep or ())

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame:
        frame = table.collect()
        kept = frame if self.keep is None else self._kept(frame)
        with at(f"{WHERE} (keep_columns)"):
            refuse_existing_columns(self._adds, kept.columns)
        predictions = self._predictions(frame)
        return (pl.concat([kept, predictions], how="horizontal") if kept.width else predictions).lazy()

    def passes(self, names: Sequence[str]) -> list[str]:
        """Return the input columns that are kept."""
        return [name for name in names if self.keep is None or name in self.keep]

    @property
    def _adds(self) -> list[str]:
        """The names of the columns that are added."""
        target = self.pipeline.target
        names = [*target.prediction_names] if self.labels else []
        if self.interval:
            names += self.pipeline.interval_names
        if self.proba and target.task.is_classification:
            names += target.probability_names
        return [*names, ERROR] if self.on_error == "collect" else names

    def _predictions(self, frame: pl.DataFrame) -> pl.DataFrame:
        if self.on_error == "raise":
            return self._predict(frame)
        nothing = self._predict(frame.head(0))  # an error of the table, not of a row, is raised here
        problems = pl.Series(ERROR, [None] * frame.height, dtype=pl.String)
        predictions: pl.DataFrame = pl.concat(list(self._predictions_halving(frame, 0, problems, nothing)) or [nothing])
        return predictions.with_columns(problems) if self.on_error == "collect" else predictions

    def _predictions_halving(
        self, frame: pl.DataFrame, start: int, problems: pl.Series, nothing: pl.DataFrame
    ) -> Iterator[pl.DataFrame]:
        """Yield the predictions in pieces: a block that fails is halved until the bad row is alone."""
        if not frame.height:
            return
        try:
            yield self._predict(frame)
        except RaylineError as error:
            if frame.height == 1:
                problems[start] = first_line(error)
                yield pl.DataFrame({name: [None] for name in nothing.columns}, schema=nothing.schema)
                return
            half = frame.height // 2
            yield from self._predictions_halving(frame.head(half), start, problems, nothing)
            yield from self._predictions_halving(frame.slice(half), start + half, problems, nothing)

    def _predict(self, frame: pl.DataFrame) -> pl.DataFrame:
        target = self.pipeline.target
        outcome = self.pipeline.outcome(frame) if self.interval else None
        scores = self.pipeline.scores(frame.lazy()) if outcome is None else outcome.scores
        parts = [target.predictions(scores)] if self.labels else []
        if outcome is not None:
            parts.append(outcome.intervals())
        if self.proba:
            parts.append(target.probabilities(scores))
        return pl.concat(parts, how="horizontal")

    def _kept(self, frame: pl.DataFrame) -> pl.DataFrame:
        assert self.keep is not None
        missing = [name for name in self.keep if name not in frame.columns]
        if missing:
            raise SchemaError.missing(missing, frame.columns, where=f"{WHERE} (keep_columns)")
        return frame.select(map(col, self.keep))


def no_intervals(pipeline: Scorer[Any]) -> ParameterError:
    """Return the error for a pipeline without intervals that is asked for them."""
    return ParameterError(
        "InferencePipeline.predict: interval=True, and no stage of the pipeline gives intervals.",
        f"Expected the stage Conformal; got {[type(stage).__name__ for stage in pipeline.postprocessing]}.",
        "learn them from held-back rows: pipeline.calibrated([Conformal(coverage=0.9)], rows).",
    )


def write_predictions(
    pipeline: Scorer[Any],
    data: Any,
    path: str,
    *,
    rows_per_file: int = 1_000_000,
    resume: bool = False,
    placement: Placement | None = None,
    **how: Any,
) -> int:
    """Write the rows and their predictions as Parquet files, each row exactly once.

    The rows are numbered in the order of the data; file k holds the rows from k × `rows_per_file` on and appears whole
    or not at all. An interrupted run is continued with `resume=True`: existing files are not written again.

    Parameters
    ----------
    pipeline, data
        The pipeline, and the raw rows: a table or a ray.data.Dataset (then Ray predicts and writes; the order of its rows
        must be the same in every run, as it is for files).
    path
        A directory, or the URI of one (s3://…, gs://…).
    rows_per_file
        The number of rows in each file; it must not change between a run and its resumption.
    resume
        Whether to continue an interrupted run. Otherwise the directory must contain no files of an earlier run.
    how
        As for `InferencePipeline.transform`: keep_columns, proba, interval, on_error.

    Returns
    -------
    int
        The number of rows in all the files.

    Raises
    ------
    DataError
        When the directory contains files and `resume` is False, or when they were written with another `rows_per_file`, pipeline or
        options.
    """
    with at("write_predictions"):
        integer("rows_per_file", rows_per_file)
    predict = BatchPredictor(pipeline, **how)
    files = PartFiles(path, rows_per_file, _digest_of(pipeline, how))
    with at("write_predictions"):
        done = files.begin(resume=resume)
    written: int = registry.engine_for(data).write(data, predict, files, done, placement)
    files.finish()
    return written


def _digest_of(pipeline: Scorer[Any], how: dict[str, Any]) -> str:
    """Return a digest of the pipeline's schemas, target and options, and of its scores on its example rows if it has any."""
    rows = pipeline.examples
    pipeline = pipeline.on_gpu(False)  # on Ray the workers have the GPUs
    scores = numbers(pipeline.scores(rows.lazy())).astype(np.float64) if rows.height else np.empty(0)
    about = [
        schema_to_json(pipeline.input_schema),
        schema_to_json(pipeline.model.schema),
        pipeline.target.to_json(),
        [f"{value:.5g}" for value in np.ravel(scores)],  # rounded: the last bits can differ between processors
        sorted((name, str(value)) for name, value in how.items()),
        *([chain.to_json(pipeline.postprocessing)] if pipeline.postprocessing else []),
    ]
    return hashlib.sha256(json.dumps(about, default=str).encode()).hexdigest()[:32]

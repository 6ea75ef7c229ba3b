"""Partial dependence and individual conditional expectation: how predictions change with one raw column.

Friedman, "Greedy function approximation: a gradient boosting machine" (2001); Goldstein and others, "Peeking inside the black
box" (2015).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.core import registry
from rayline.core.errors import DataError, ParameterError, SchemaError, at
from rayline.core.evaluation import PipelineMethod
from rayline.core.scan import Scan
from rayline.core.schema import Kind, col, kind_of, refuse_empty
from rayline.core.statistics.base import Statistic, StatisticRequest
from rayline.core.statistics.counts import ValueCounts
from rayline.core.statistics.moments import Moments
from rayline.core.statistics.quantiles import Quantiles
from rayline.inference.pipeline import InferencePipeline

Array = npt.NDArray[Any]

WHERE = "InferencePipeline.partial_dependence"

MAX_CATEGORIES = 20
"""Categories of a grid: the most frequent ones."""

ICE_ROWS = 1_000
"""Rows with a curve of their own: the first ones."""

SHARES = (0.05, 0.95)
"""The quantiles of a number between which a grid lies, as in scikit-learn."""


class PartialDependence(PipelineMethod):
    """`InferencePipeline.partial_dependence`, see there."""

    def __call__(self, pipeline: Any, *args: Any, **options: Any) -> Any:
        with registry.engine_for(args[0]).keeping(args[0]):
            return partial_dependence(pipeline, *args, **options)


@dataclass(frozen=True)
class GridPredictor:
    """Predicts raw rows with each value of a grid instead of their own (a `RowMapper`).

    Its columns are named by the number of the value and that of the output, as "3_0".
    """

    pipeline: InferencePipeline
    column: str
    grid: pl.Series
    is_local = True

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.pipeline.input_schema)

    @property
    def adds(self) -> list[str]:
        return [f"{i}_{k}" for i in range(len(self.grid)) for k in range(len(output_names(self.pipeline)))]

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame:
        schema = pl.Schema(dict.fromkeys(self.adds, pl.Float64()))
        return table.map_batches(self.of, schema=schema, streamable=True)

    def of(self, frame: pl.DataFrame) -> pl.DataFrame:
        columns = []
        for i in range(len(self.grid)):
            value = self.grid.gather(pl.repeat(i, len(frame), eager=True, dtype=pl.Int64)).alias(self.column)
            predictions = _predictions(self.pipeline, frame.with_columns(value))
            columns += [series.cast(pl.Float64).alias(f"{i}_{k}") for k, series in enumerate(predictions)]
        return pl.DataFrame(columns)


def partial_dependence(
    pipeline: InferencePipeline, rows: Any, column: str, *, grid: int | Sequence[Any], ice: bool
) -> pl.DataFrame:
    """Return the mean prediction for each value of a column; see `InferencePipeline.partial_dependence`."""
    if not isinstance(column, str) or column not in pipeline.input_schema:
        raise ParameterError.unknown([column], pipeline.input_schema, "column", where=WHERE)
    engine = registry.engine_for(rows)
    present = engine.schema(rows)
    if missing := [name for name in pipeline.input_schema if name not in present]:
        raise SchemaError.missing(missing, present, where=WHERE)
    values = _grid(engine, rows, column, pipeline.input_schema[column], grid)
    predictor = GridPredictor(pipeline, column, values)
    names = output_names(pipeline)
    if ice:
        frame = engine.head(rows, ICE_ROWS, list(pipeline.input_schema))
        with at(WHERE):
            refuse_empty(frame.height)
        return _curves(predictor, frame, names)
    requests = [StatisticRequest(Moments, (name,)) for name in predictor.adds]
    results = engine.scan(rows, Scan(requests, attach=predictor))
    means = np.array([results[0][request].mean for request in requests] if results else []).reshape(len(values), -1)
    with at(WHERE):
        refuse_empty(results[0][requests[0]].count if results else 0)
    return pl.DataFrame([values, *(pl.Series(name, means[:, k]) for k, name in enumerate(names))])


def _curves(predictor: GridPredictor, frame: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    curves, values = predictor.of(frame), predictor.grid
    parts = [
        pl.DataFrame(
            [
                pl.Series("row", np.arange(len(frame))),
                values.gather(pl.repeat(i, len(frame), eager=True, dtype=pl.Int64)),
                *(curves[f"{i}_{k}"].alias(name) for k, name in enumerate(names)),
            ]
        )
        for i in range(len(values))
    ]
    return pl.concat(parts).sort("row", maintain_order=True)


def output_names(pipeline: InferencePipeline) -> list[str]:
    """Return the columns of predictions: a probability of each class, or a value of each target."""
    target = pipeline.target
    return target.probability_names if target.task.is_classification else target.prediction_names


def _predictions(pipeline: InferencePipeline, frame: pl.DataFrame) -> pl.DataFrame:
    scores, target = pipeline.scores(frame.lazy()), pipeline.target
    return target.probabilities(scores) if target.task.is_classification else target.predictions(scores)


def _grid(engine: Any, rows: Any, column: str, dtype: pl.DataType, grid: int | Sequence[Any]) -> pl.Series:
    """Return the values of a grid, in ascending order; of categories the most frequent ones, the most frequent first."""
    if not isinstance(grid, int):
        try:
            values = pl.Series(column, list(grid), dtype=dtype)
        except (TypeError, pl.exceptions.PolarsError) as error:
            raise ParameterError.value(
                "grid", f"a number of values, or values of {dtype}", grid, where=WHERE
            ) from error
        with at(f"{WHERE} (grid)"):
            refuse_empty(len(values))
        return values
    if grid < 2:  # also True, which counts as 1
        raise ParameterError.value("grid", "an integer of at least 2", grid, where=WHERE)
    kind = kind_of(dtype)
    if kind not in (Kind.NUMERIC, Kind.CATEGORY, Kind.TEXT, Kind.BOOLEAN) and not dtype.is_temporal():
        raise ParameterError(
            f"{WHERE}: column {column!r} holds {dtype}, which has no grid of its own.",
            "Expected numbers, strings, booleans, or times.",
            "pass the values as grid=[…].",
        )
    is_number = kind is Kind.NUMERIC or dtype.is_temporal()
    statistic: type[Statistic] = Quantiles if is_number else ValueCounts
    request = StatisticRequest(statistic, (column,))
    attach = Ticks(column, dtype) if dtype.is_temporal() else None
    results = engine.scan(rows, Scan([request], attach=attach))
    state = results[0][request] if results else statistic.empty()
    values = _spaced(state, column, dtype, grid) if isinstance(state, Quantiles) else _frequent(state, column)
    if not len(values):
        raise DataError(
            f"{WHERE}: column {column!r} has no values in these rows.",
            "Expected at least one that is not missing.",
            "use other rows, or pass the values as grid=[…].",
        )
    return values


@dataclass(frozen=True)
class Ticks:
    """Maps a column of times to their whole numbers of days or ticks (a `RowMapper`)."""

    column: str
    dtype: pl.DataType
    is_local = True

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame:
        return table.select(col(self.column).cast(self.dtype).to_physical().cast(pl.Float64))


def _spaced(state: Quantiles, column: str, dtype: pl.DataType, grid: int) -> pl.Series:
    """Return all values of a number or time where there are few, otherwise evenly spaced ones."""
    if not state.count:
        return pl.Series(column, [], dtype=dtype)
    points, _ = state.points()
    low, high = state.quantiles(SHARES)
    values = np.asarray(points) if len(points) <= grid else np.linspace(low, high, grid)
    if dtype.is_integer() or dtype.is_temporal():
        values = np.unique(np.rint(values).astype(np.int64))
    series = pl.Series(column, values)
    return series.cast(pl.Int32).cast(dtype) if dtype == pl.Date else series.cast(dtype)


def _frequent(state: Any, column: str) -> pl.Series:
    """Return the most frequent values of a category."""
    counts = state.counts.sort("n", "value", descending=[True, False]).head(MAX_CATEGORIES)
    values: pl.Series = counts["value"].alias(column)
    return values

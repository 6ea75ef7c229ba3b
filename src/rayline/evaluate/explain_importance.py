"""The importance of each column: from the model itself (gain), by contributions (SHAP), or by permutation."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.core import registry
from rayline.core.arguments import integer
from rayline.core.errors import ParameterError, SchemaError, at
from rayline.core.evaluation import ImportanceKind, ImportanceUnit, PipelineMethod
from rayline.core.row_weights import check_weight_column, row_weights
from rayline.core.scan import Scan
from rayline.core.schema import col, refuse_empty
from rayline.core.statistics.base import StatisticRequest
from rayline.core.statistics.moments import Moments
from rayline.evaluate import metrics
from rayline.evaluate.explain import Explainer, background_rows
from rayline.inference.pipeline import InferencePipeline

Array = npt.NDArray[Any]

WHERE = "InferencePipeline.importance"

MAX_PERMUTED_ROWS = 100_000
"""Rows of a permutation importance: the first ones."""

PREDICTED_ROWS = 1 << 16
"""Shuffled rows that are predicted at a time, at most, unless there are more rows,"""

PREDICTED_BYTES = 128 << 20
"""and their size."""


class Importance(PipelineMethod):
    """`InferencePipeline.importance`, see there."""

    def __call__(self, pipeline: Any, *args: Any, **options: Any) -> Any:
        return importance(pipeline, *args, **options)


@at(WHERE)
def importance(
    pipeline: InferencePipeline,
    kind: ImportanceKind,
    *,
    by: ImportanceUnit,
    rows: Any,
    metric: Any,
    n_repeats: int,
    sample_weight: str | None,
    background: Any,
    seed: int,
) -> dict[str, float] | None:
    """Return the importance of each column; see `InferencePipeline.importance`."""
    if kind == "gain":
        return pipeline.gain_importance() if by == "raw" else pipeline.model.importance()
    if by == "feature":
        raise ParameterError(
            f"{WHERE}: by='feature' with kind={kind!r}.",
            "Expected by='raw': these importances are those of the raw columns.",
            "leave by= out, or use kind='gain'.",
        )
    if kind == "shap":
        return _by_contributions(pipeline, pipeline.examples if rows is None else rows, background, seed)
    return _by_permutation(pipeline, rows, metric, n_repeats, sample_weight, seed)


# -- contributions -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Magnitudes:
    """Adds the mean size of the contributions over all outputs to raw rows (a `RowMapper`)."""

    explainer: Explainer
    is_local = True

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.explainer.columns)

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame:
        names = [str(i) for i in range(len(self.columns))]
        return table.map_batches(self._of, schema=pl.Schema(dict.fromkeys(names, pl.Float64())), streamable=True)

    def _of(self, frame: pl.DataFrame) -> pl.DataFrame:
        sizes = np.abs(self.explainer.contributions(frame).values).mean(axis=1)
        return pl.DataFrame([pl.Series(str(i), sizes[:, i], dtype=pl.Float64) for i in range(sizes.shape[1])])


def _by_contributions(pipeline: InferencePipeline, rows: Any, background: Any, seed: int) -> dict[str, float]:
    """Return the mean size of the contributions of each raw column, from one scan."""
    background_table = background_rows(pipeline, background)
    explainer = Explainer(pipeline, background=background_table, seed=seed, prefix="\x1f")
    magnitudes = _Magnitudes(explainer)
    engine = registry.engine_for(rows)
    requests = [StatisticRequest(Moments, (str(i),)) for i in range(len(explainer.columns))]
    with engine.keeping(rows):
        present = engine.schema(rows)
        if missing := [name for name in explainer.columns if name not in present]:
            raise SchemaError.missing(missing, present, where=WHERE)
        results = engine.scan(rows, Scan(requests, attach=magnitudes))
    moments = [results[0][request] for request in requests] if results else []
    with at(f"{WHERE} (rows)"):
        refuse_empty(moments[0].count if moments else 0)
    return {name: float(moment.mean) for name, moment in zip(explainer.columns, moments, strict=True)}


# -- permutations ------------------------------------------------------------------------------------------------------


def _by_permutation(
    pipeline: InferencePipeline, rows: Any, metric: Any, n_repeats: int, weight: str | None, seed: int
) -> dict[str, float]:
    """Return how much worse a metric is on average when a raw column is permuted (Breiman, 2001), with the permutations that
    scikit-learn's permutation_importance draws with this random_state."""
    if rows is None:
        raise ParameterError(
            f"{WHERE}: kind='permutation' needs rows with labels.",
            "Expected a table or a Dataset, preferably one that the model was not trained on.",
            "pass rows=test_rows.",
        )
    integer("n_repeats", n_repeats)
    integer("seed", seed, minimum=0, maximum=2**32 - 1)
    target = pipeline.target
    chosen, custom = _metric(pipeline, metric)
    mode = metrics.mode(chosen, custom)
    if mode is None:
        raise ParameterError.here(
            f"the direction of {chosen!r} is unknown.",
            "Expected a metric with a direction.",
            "declare it: rayline.evaluate.metric(function, mode='min').",
        )
    sign = 1.0 if mode == "max" else -1.0
    with registry.engine_for(rows).keeping(rows):
        check_weight_column(weight, registry.engine_for(rows).schema(rows))
        table = _collected(pipeline, rows, [*target.columns, *([] if weight is None else [weight])])
    truth = target.truth_of(table)
    weights = None if weight is None else row_weights(table[weight]).to_numpy()

    def worth(frames: Sequence[pl.DataFrame]) -> list[float]:
        parts = np.split(pipeline.scores(pl.concat(frames).lazy()), len(frames))
        return [sign * metrics.evaluate([chosen], target, part, truth, weights, custom)[chosen] for part in parts]

    raw = table.select(map(col, pipeline.input_schema))
    (usual,) = worth([raw])
    draw = int(np.random.RandomState(seed).randint(np.iinfo(np.int32).max + 1, dtype=np.int64))
    shuffled = ((name, raw.with_columns(c)) for name in raw.columns for c in _permuted(raw[name], draw, n_repeats))
    # Many copies of few rows are predicted at a time: with many columns a prediction costs more than its rows.
    n_copies = max(1, min(PREDICTED_ROWS // raw.height, PREDICTED_BYTES // max(1, int(raw.estimated_size()))))
    lost: dict[str, list[float]] = {name: [] for name in raw.columns}
    while copies := [*itertools.islice(shuffled, n_copies)]:
        for (name, _), value in zip(copies, worth([frame for _, frame in copies]), strict=True):
            lost[name].append(usual - value)
    return {name: float(np.mean(values)) for name, values in lost.items()}


def _permuted(column: pl.Series, seed: int, n_repeats: int) -> list[pl.Series]:
    """Return a column after 1, 2, … shuffles of its rows, each of the one before."""
    random, places = np.random.RandomState(seed), np.arange(len(column))
    columns, current = [], column
    for _ in range(n_repeats):
        random.shuffle(places)
        current = current.gather(places)
        columns.append(current)
    return columns


def _collected(pipeline: InferencePipeline, rows: Any, more: list[str]) -> pl.DataFrame:
    names = list(dict.fromkeys([*pipeline.input_schema, *more]))
    engine = registry.engine_for(rows)
    present = engine.schema(rows)
    if missing := [name for name in names if name not in present]:
        raise SchemaError.missing(missing, present, where=WHERE)
    table = engine.head(rows, MAX_PERMUTED_ROWS, names)
    with at(f"{WHERE} (rows)"):
        refuse_empty(table.height)
    assert isinstance(table, pl.DataFrame)
    return table


def _metric(pipeline: InferencePipeline, metric: Any) -> tuple[str, Mapping[str, Any]]:
    """Return the name of the metric and the user's own metrics."""
    wanted = metrics.defaults_of(pipeline.target)[0] if metric is None else metric
    names, custom = metrics.given(wanted if isinstance(wanted, Mapping) else [wanted])
    if len(names) != 1:
        raise ParameterError.value("metric", "one metric", metric)
    metrics.check(names, pipeline.target, custom)
    return names[0], custom

"""The scan of an evaluation: raw rows are scored where they are, and their statistics merged, for all rows and for slices."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.core.errors import DataError, ParameterError, SchemaError, counted
from rayline.core.schema import col
from rayline.core.statistics.base import Statistic
from rayline.core.target import Target, decisions, has_probabilities
from rayline.evaluate.batch import ScoredBatch, batches
from rayline.evaluate.bootstrap import N_BUCKETS, RowCopies, buckets, row_hashes
from rayline.evaluate.drawn import fits
from rayline.evaluate.metric import Metric, Part
from rayline.evaluate.score_table import ScoreTable
from rayline.inference.scorer import Scorer
from rayline.postprocess.base import Outcome

Array = npt.NDArray[Any]
MAX_SLICES = 1_000
"""Slices of one column, or of columns together, that an evaluation takes."""

SLICE_SCORES = 1 << 16
"""Different scores up to which the ranking of a slice is exact."""

WHERE = "evaluate"
TRUTH, WEIGHT, HASH, SCORES, BY = (f"rayline:{name}" for name in ("truth", "weight", "hash", "scores", "by"))
COVERED, WIDTH = "rayline:covered", "rayline:width"
MISSING = "(missing)"

_SCORING = threading.Lock()
"""Polars calls the functions of a query in several threads, and not every framework predicts in more than one."""


@dataclass(frozen=True)
class EvaluationPlan:
    """What an evaluation computes. It travels to every block and back, so it holds no model.

    Attributes
    ----------
    key
        A digest of the rest: plans with equal keys are equal.
    targets
        The target of each pipeline, by the pipeline's name.
    metrics
        The metrics, by name.
    by
        The columns of the slices; several together are a slice for each of their combinations.
    drawn
        Further statistics of all rows and slices, for plots.
    """

    key: str
    targets: Mapping[str, Target] = field(compare=False)
    metrics: Mapping[str, Metric] = field(compare=False)
    by: tuple[tuple[str, ...], ...] = field(compare=False, default=())
    drawn: tuple[Part, ...] = field(compare=False, default=())
    weighted: bool = field(compare=False, default=False)

    def parts(self, batch: ScoredBatch) -> list[Part]:
        """Return the statistics of a batch."""
        found = [part for metric in self.metrics.values() for part in metric.parts(len(batch.classes))]
        drawn = [part for part in self.drawn if fits(part, batch)]
        return list(dict.fromkeys([*found, *drawn]))


@dataclass(frozen=True)
class EvaluatedRows:
    """Map a table of raw rows to labels, scores, weights, row hashes and slices (see `core.scan.RowMapper`)."""

    scorers: Mapping[str, Scorer[Any]]
    target_columns: tuple[str, ...]  # where the table has the labels
    hashed: tuple[str, ...]
    by: tuple[tuple[str, ...], ...] = ()
    weight: str | None = None
    intervals: bool = False  # whether those of the stages after the models are asked for
    is_local: ClassVar[bool] = True

    @property
    def columns(self) -> tuple[str, ...]:
        inputs = [name for scorer in self.scorers.values() for name in scorer.input_schema]
        by = [name for names in self.by for name in names]
        return tuple(
            dict.fromkeys([*inputs, *self.target_columns, *self.hashed, *by, *([self.weight] if self.weight else [])])
        )

    @property
    def schema(self) -> pl.Schema:
        """Names and types of the result."""
        found: dict[str, pl.DataType] = {}
        for name, scorer in self.scorers.items():
            target = scorer.target
            kind = pl.Int64() if target.task.is_classification else pl.Float64()
            found |= {f"{TRUTH}{place}": kind for place in range(_truth_width(target))}
            found |= {f"{SCORES}{name}:{column}": dtype for column, dtype in packed_schema(target).items()}
            for place in range(len(target.columns)) if self._has_intervals(scorer) else ():
                found |= {f"{COVERED}{name}:{place}": pl.Float64(), f"{WIDTH}{name}:{place}": pl.Float64()}
        if self.weight is not None:
            found[WEIGHT] = pl.Float64()
        found[HASH] = pl.UInt64()
        found |= {f"{BY}{place}": pl.String() for place in range(len(self.by))}
        return pl.Schema(found)

    def _has_intervals(self, scorer: Scorer[Any]) -> bool:
        return self.intervals and scorer.has_intervals

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame:
        return table.map_batches(self._scored, schema=self.schema, streamable=True, predicate_pushdown=False)

    def _scored(self, table: pl.DataFrame) -> pl.DataFrame:
        made: dict[str, pl.Series] = {}
        for name, scorer in self.scorers.items():
            target = scorer.target
            if not made:
                pairs = zip(self.target_columns, target.columns, strict=True)
                truth = _truth(target, table.select(col(given).alias(own) for given, own in pairs))
                for place, labels in enumerate(truth.reshape(len(truth), _truth_width(target)).T):
                    made[f"{TRUTH}{place}"] = pl.Series(labels)
            with _SCORING:
                given = scorer.model_scores(table.lazy())
                outcome = scorer.outcome(table, given) if self._has_intervals(scorer) else None
            scores = scorer.postprocessed(given)
            made |= {f"{SCORES}{name}:{column}": values for column, values in score_columns(scores, target).items()}
            if outcome is not None:
                made |= {f"{kind}{name}:{place}": own for kind, place, own in _intervals(outcome, truth)}
        if self.weight is not None:
            made[WEIGHT] = _weights(table[self.weight])
        made[HASH] = pl.Series(row_hashes(table, self.hashed))
        for place, names in enumerate(self.by):
            texts = [col(name).cast(pl.String).fill_null(MISSING) for name in names]
            made[f"{BY}{place}"] = table.select(pl.concat_str(texts, separator=", ").alias("by")).to_series()
        return pl.DataFrame([column.alias(name) for name, column in made.items()])


def _intervals(outcome: Outcome, truth: Array) -> Iterable[tuple[str, int, pl.Series]]:
    """Return whether the interval or set of each row holds its label, and how wide it is, for each target."""
    target = outcome.target
    labels = truth.reshape(len(truth), len(target.columns))
    start = 0
    for place in range(len(target.columns)):
        if outcome.sets is not None:
            own = outcome.sets[:, start : (start := start + len(target.classes[place]))]
            held, width = np.take_along_axis(own, labels[:, [place]], axis=1)[:, 0], own.sum(axis=1)
        else:
            assert outcome.lower is not None
            assert outcome.upper is not None
            low, high = outcome.lower[:, place], outcome.upper[:, place]
            held, width = (low <= labels[:, place]) & (labels[:, place] <= high), high - low
        yield COVERED, place, pl.Series(held.astype(np.float64))
        yield WIDTH, place, pl.Series(np.asarray(width, dtype=np.float64))


def _truth_width(target: Target) -> int:
    """Return how many numbers the labels of a row are."""
    return 2 if target.task.is_paired else len(target.columns)


def _truth(target: Target, labels: pl.DataFrame) -> Array:
    """Return the labels as numbers. Raises DataError on missing and unseen ones."""
    try:
        return target.truth(labels)
    except DataError as error:
        raise error.within(WHERE) from error.__cause__
    except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
        expected = ", ".join(f"{name}: {dtype}" for name, dtype in zip(target.columns, target.dtypes, strict=True))
        raise SchemaError(
            f"{WHERE}: the labels {dict(labels.schema)} cannot be compared with what the model predicts.",
            f"Expected {expected}; got {type(error).__name__}: {str(error)[:200]}.",
            "convert the labels to the type that they had in training.",
        ) from error


def _weights(column: pl.Series) -> pl.Series:
    weights = column.cast(pl.Float64)
    wrong = int(
        (weights.is_null() | ~weights.is_finite().fill_null(value=False) | (weights < 0).fill_null(value=False)).sum()
    )
    if wrong:
        raise DataError(
            f"{WHERE}: the weight {column.name!r} has {counted(wrong, 'value')} that {'is' if wrong == 1 else 'are'} missing, "
            "negative or infinite.",
            "Expected a finite number of at least 0 in every row.",
            "drop or correct these rows first.",
        )
    return weights


# Scores as columns whose names and types follow from the target alone: of a classifier the predicted codes, the probabilities or
# margins, and which of these there are.

_CODES, _PROBABILITIES_TOO, _MARGINS_TOO, _PROBABILITIES = range(4)


def packed_schema(target: Target) -> dict[str, pl.DataType]:
    """Return the columns that `packed` gives."""
    if not target.task.is_classification:
        return {f"value {i}": pl.Float64() for i in range(target.n_outputs)}
    codes: dict[str, pl.DataType] = {f"code {i}": pl.Int64() for i in range(len(target.columns))}
    return codes | {f"value {i}": pl.Float64() for i in range(target.n_outputs)} | {"kind": pl.UInt8()}


def score_columns(scores: Array, target: Target) -> dict[str, pl.Series]:
    """Return a model's scores as columns."""
    n, n_targets = len(scores), len(target.columns)
    if not target.task.is_classification:
        values = target.values(scores).reshape(n, target.n_outputs).astype(np.float64, copy=False)
        return {f"value {i}": pl.Series(np.ascontiguousarray(values[:, i])) for i in range(target.n_outputs)}
    names, kind = scores.dtype.names, _CODES
    codes, values = np.zeros((n, n_targets), np.int64), np.full((n, target.n_outputs), np.nan)
    if names is not None:
        kind = _PROBABILITIES_TOO if "probability" in names else _MARGINS_TOO
        codes = scores["code"].reshape(n, n_targets)
        values = _outputs(scores["probability" if "probability" in names else "margin"], target)
    elif has_probabilities(scores):
        kind, values = _PROBABILITIES, _outputs(scores, target)
    else:
        codes = scores.reshape(n, n_targets).astype(np.int64, copy=False)
    made = {f"code {i}": pl.Series(np.ascontiguousarray(codes[:, i])) for i in range(n_targets)}
    made |= {f"value {i}": pl.Series(np.ascontiguousarray(values[:, i])) for i in range(target.n_outputs)}
    return made | {"kind": pl.Series(np.full(n, kind, np.uint8))}


def _outputs(values: Array, target: Target) -> Array:
    """Return numbers of the classes, of two only the second, shape (n, outputs)."""
    flat = values.reshape(len(values), math.prod(values.shape[1:]))
    both = flat.shape[1] == 2 and target.n_outputs == 1
    return np.asarray(flat[:, 1:] if both else flat, dtype=np.float64)


def unpacked(frame: pl.DataFrame, prefix: str, target: Target) -> Array:
    """Return the scores of columns that `packed` gave, with this prefix to their names."""
    values = [frame[f"{prefix}{name}"].to_numpy() for name in packed_schema(target) if name.startswith("value")]
    joined = np.stack(values, axis=1) if len(values) > 1 else values[0]
    if not target.task.is_classification:
        return joined
    kind = frame[f"{prefix}kind"][0] if frame.height else _PROBABILITIES
    if kind == _PROBABILITIES:
        return joined
    own = [frame[f"{prefix}code {i}"].to_numpy() for i in range(len(target.columns))]
    codes = np.stack(own, axis=1) if len(own) > 1 else own[0]
    if kind == _CODES:
        return codes
    return decisions(codes, **{"probabilities" if kind == _PROBABILITIES_TOO else "margins": joined})


@dataclass(frozen=True, eq=False)
class SliceStatistics:
    """The statistics of the rows of a slice: for each pipeline a list with those of each target column."""

    n_rows: int
    parts: Mapping[str, Sequence[Mapping[Part, Statistic]]]

    @classmethod
    def of(
        cls, scored: Mapping[str, Sequence[ScoredBatch]], plan: EvaluationPlan, *, tables_only: bool = False
    ) -> Self:
        """Return the statistics of batches of the same rows; `tables_only` those of the order of their scores."""
        made = {
            name: [
                {part: part.of(batch) for part in plan.parts(batch) if not tables_only or part.statistic is ScoreTable}
                for batch in own
            ]
            for name, own in scored.items()
        }
        return cls(len(next(iter(scored.values()))[0]), made)

    def limited(self) -> Self:
        """Return the statistics with tables of scores that are exact up to fewer different scores."""
        made = {
            name: [
                {p: s.limited(SLICE_SCORES) if isinstance(s, ScoreTable) else s for p, s in own.items()}
                for own in targets
            ]
            for name, targets in self.parts.items()
        }
        return type(self)(self.n_rows, made)

    @classmethod
    def merged(cls, states: Sequence[Self], leave_out: type[Statistic] | None = None) -> Self:
        """Return the statistics of the rows of all, without those of a class."""
        if len(states) == 1 and leave_out is None:
            return states[0]
        first = states[0].parts
        made = {
            name: [
                {
                    part: part.merged([state.parts[name][place][part] for state in states])
                    for part in own
                    if part.statistic is not leave_out
                }
                for place, own in enumerate(targets)
            ]
            for name, targets in first.items()
        }
        return cls(sum(state.n_rows for state in states), made)


@dataclass(frozen=True, eq=False)
class EvaluationStatistics(Statistic):
    """The statistics of scored rows, in all and for each slice, and how often rows repeat."""

    slices: Mapping[int, Mapping[str, SliceStatistics]]  # by the place in `by` (−1 for all rows), then by their values
    copies: RowCopies = field(default_factory=RowCopies)

    @classmethod
    def query(cls, table: pl.LazyFrame, *columns: pl.Expr, **options: Any) -> pl.LazyFrame | None:
        return table

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        (frame,) = values
        plan: EvaluationPlan = options["plan"]
        if not frame.height:
            return cls({})
        hashes = frame[HASH].to_numpy()
        weight = frame[WEIGHT].to_numpy() if WEIGHT in frame.columns else None
        truths = [frame[name].to_numpy() for name in frame.columns if name.startswith(TRUTH)]
        truth = np.stack(truths, axis=1) if len(truths) > 1 else truths[0]
        scored = {}
        for name, target in plan.targets.items():
            scores = unpacked(frame, f"{SCORES}{name}:", target)
            made = batches(target, scores, truth, weight, buckets(hashes), N_BUCKETS)
            if f"{COVERED}{name}:0" in frame.columns:
                made = [
                    replace(b, covered=_array(frame, COVERED, name, b.place), width=_array(frame, WIDTH, name, b.place))
                    for b in made
                ]
            scored[name] = made
        # Of all rows only the tables of scores are computed where there are slices: the rest are sums of the slices'.
        slices = {-1: {"": SliceStatistics.of(scored, plan, tables_only=bool(plan.by))}}
        for place in range(len(plan.by)):
            slices[place] = {
                value: SliceStatistics.of({n: [b.take(rows) for b in own] for n, own in scored.items()}, plan).limited()
                for value, rows in _rows_of_slices(frame[f"{BY}{place}"], plan.by[place])
            }
        return cls(slices, RowCopies.of(hashes))

    @classmethod
    def empty(cls, **options: Any) -> Self:
        return cls({})

    @classmethod
    def merge_all(cls, states: Iterable[Self], **options: Any) -> Self:
        found = [state for state in states if state.slices]
        if len(found) < 2:
            return found[0] if found else cls({})
        slices: dict[int, dict[str, SliceStatistics]] = {}
        for place in found[0].slices:
            by_value: dict[str, list[SliceStatistics]] = {}
            for state in found:
                for value, own in state.slices[place].items():
                    by_value.setdefault(value, []).append(own)
            if len(by_value) > MAX_SLICES:
                raise too_many_slices(len(by_value))
            slices[place] = {value: SliceStatistics.merged(own) for value, own in by_value.items()}
        copies = found[0].copies
        for state in found[1:]:
            copies = copies.merge(state.copies)
        return cls(slices, copies)

    @property
    def overall(self) -> SliceStatistics | None:
        """The statistics of all rows; None without rows."""
        if not self.slices:
            return None
        tables = self.slices[-1][""]
        if 0 not in self.slices:
            return tables
        merged = SliceStatistics.merged(list(self.slices[0].values()), leave_out=ScoreTable)
        parts = {
            name: [dict(own) | dict(more) for own, more in zip(merged.parts[name], targets, strict=True)]
            for name, targets in tables.parts.items()
        }
        return SliceStatistics(merged.n_rows, parts)


def _array(frame: pl.DataFrame, kind: str, name: str, place: int) -> Array:
    return frame[f"{kind}{name}:{place}"].to_numpy()


def _rows_of_slices(values: pl.Series, names: Sequence[str]) -> Iterable[tuple[str, Array]]:
    """Return the values of a column of slices, each with the places of its rows."""
    rows = pl.DataFrame({"by": values, "row": np.arange(len(values), dtype=np.uint32)})
    found = rows.group_by("by").agg("row")
    if found.height > MAX_SLICES:
        raise too_many_slices(found.height, names)
    for value, places in zip(found["by"].to_list(), found["row"], strict=True):
        yield value, places.to_numpy()


def too_many_slices(n: int, names: Sequence[str] = ()) -> ParameterError:
    """Return the error for columns with too many values."""
    of = f" of {', '.join(map(repr, names))}" if names else ""
    return ParameterError(
        f"{WHERE}: by={list(names) or '…'} makes more than {MAX_SLICES:,} slices{of}; {n:,} were met so far.",
        f"Expected at most {MAX_SLICES:,} different values.",
        "choose a column of fewer values, or put numbers into bins first.",
    )

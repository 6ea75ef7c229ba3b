"""The scan of an evaluation: raw rows are scored where they are, and their statistics merged, for all rows and for slices."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.core.errors import DataError, ParameterError, SchemaError, counted
from rayline.core.schema import col
from rayline.core.statistics.base import Statistic
from rayline.core.statistics.score_weights import MAX_SCORES
from rayline.core.target import Target, decisions, has_probabilities
from rayline.evaluate.batch import ScoredBatch, batches
from rayline.evaluate.bootstrap import N_BUCKETS, RowCopies, buckets, row_hashes
from rayline.evaluate.drawn import fits
from rayline.evaluate.metric import Metric, Part
from rayline.evaluate.score_rows import ScoreRows
from rayline.evaluate.score_table import ScoreTable
from rayline.evaluate.sums import ArrayStatistic
from rayline.inference.scorer import Scorer
from rayline.postprocess.base import Outcome

Array = npt.NDArray[Any]
MAX_SLICES = 1_000
"""Slices of one column, or of columns together, that an evaluation takes."""

MAX_WEIGHT = 1e30
"""The largest weight of a row: sums of more of them would overflow."""

SLICE_SCORES = 1 << 16
"""Different scores up to which the ranking of a slice is exact."""

CHUNK_ROWS = 1 << 18
"""Rows whose statistics are computed at once, at most."""

CHUNK_BYTES = 1 << 28
"""Bytes of the scored rows whose statistics are computed at once, at most."""

UNSORTED_BYTES = 1 << 28
"""Bytes of rows that wait to be sorted together, at most."""

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
    def names(self) -> tuple[str, ...]:
        """The columns of the result."""
        by = dict.fromkeys(name for names in self.by for name in names)
        return tuple(self.schema(dict.fromkeys(by, pl.Null())))

    @property
    def chunk_rows(self) -> int:
        """How many rows are looked at together."""
        return max(1 << 12, min(CHUNK_ROWS, CHUNK_BYTES // (8 * len(self.names))))

    def schema(self, given: Mapping[str, pl.DataType]) -> pl.Schema:
        """Return names and types of the result for raw rows of these types."""
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
        found |= {f"{BY}{name}": given[name] for names in self.by for name in names}
        return pl.Schema(found)

    def _has_intervals(self, scorer: Scorer[Any]) -> bool:
        return self.intervals and scorer.has_intervals

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame:
        schema = self.schema(table.collect_schema())
        return table.map_batches(self._scored, schema=schema, streamable=True, predicate_pushdown=False)

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
        made |= {f"{BY}{name}": table[name] for names in self.by for name in names}
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
    wrong = len(weights) - int(weights.is_between(0, MAX_WEIGHT).fill_null(value=False).sum())
    if wrong:
        raise DataError(
            f"{WHERE}: the weight {column.name!r} has {counted(wrong, 'value')} that {'is' if wrong == 1 else 'are'} missing, "
            "negative or infinite.",
            f"Expected a number from 0 to {MAX_WEIGHT:g} in every row.",
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
    parts: Mapping[str, Sequence[Mapping[Part, Any]]]

    @classmethod
    def of(cls, scored: Mapping[str, Sequence[ScoredBatch]], plan: EvaluationPlan) -> Self:
        """Return the statistics of batches of the same rows; the rows of tables of scores are not sorted yet."""
        made = {
            name: [
                {
                    part: ScoreRows.of(batch, **dict(part.options)) if part.statistic is ScoreTable else part.of(batch)
                    for part in plan.parts(batch)
                }
                for batch in own
            ]
            for name, own in scored.items()
        }
        return cls(len(next(iter(scored.values()))[0]), made)

    @classmethod
    def of_slices(
        cls, scored: Mapping[str, Sequence[ScoredBatch]], plan: EvaluationPlan, slices: Slices
    ) -> dict[str, Self]:
        """Return the statistics of each slice, by its value."""
        made: list[dict[str, list[Mapping[Part, Any]]]] = [{name: [] for name in scored} for _ in slices.values]
        for name, own in scored.items():
            for batch in own:
                parts = plan.parts(batch)
                by_part = list(zip(*_of_slices(parts, batch, slices), strict=True))
                for i, found in enumerate(made):
                    found[name].append(dict(zip(parts, by_part[i] if by_part else (), strict=True)))
        n_rows = np.bincount(slices.codes, minlength=len(slices.values)).tolist()
        return {value: cls(n, parts) for value, n, parts in zip(slices.values, n_rows, made, strict=True)}

    @classmethod
    def merged(cls, states: Sequence[Self]) -> Self:
        """Return the statistics of the rows of all."""
        if len(states) == 1:
            return states[0]
        made = states[0]._each(
            lambda part, name, place: _merged(part, [state.parts[name][place][part] for state in states])
        )
        return cls(sum(state.n_rows for state in states), made)

    def _each(self, function: Callable[[Part, str, int], Any]) -> dict[str, list[dict[Part, Any]]]:
        """Return what a function makes of each part, in the form of `parts`."""
        return {
            name: [{part: function(part, name, place) for part in own} for place, own in enumerate(targets)]
            for name, targets in self.parts.items()
        }

    def with_tables(self, most: int) -> Self:
        """Return the statistics with sorted tables, exact up to so many different scores, in place of rows."""

        def table(part: Part, name: str, place: int) -> Any:
            own = self.parts[name][place][part]
            return ScoreTable.of_rows(own, most) if isinstance(own, ScoreRows) else own

        return type(self)(self.n_rows, self._each(table))

    @property
    def unsorted_bytes(self) -> int:
        """How much memory the rows take that are not sorted yet."""
        every = [own for targets in self.parts.values() for parts in targets for own in parts.values()]
        return sum(own.n_bytes for own in every if isinstance(own, ScoreRows))


def _merged(part: Part, states: Sequence[Any]) -> Any:
    """Merge the statistics of a part; those that are rows stay rows."""
    if isinstance(states[0], ScoreRows):
        return ScoreRows.joined(states)
    return part.merged(states)


def _of_all(slices: Sequence[SliceStatistics]) -> SliceStatistics:
    """Return the statistics of all rows from those of the slices that they consist of, whose rows are not sorted yet: tables of
    scores only, since all others can be merged later, without bins, which follow from those of the slices."""
    first = slices[0]

    def table(part: Part, name: str, place: int) -> Any:
        rows = ScoreRows.joined([own.parts[name][place][part] for own in slices])
        return ScoreTable.of_rows(rows, MAX_SCORES, with_buckets=False)

    made = {
        name: [
            {part: table(part, name, place) for part, own in parts.items() if isinstance(own, ScoreRows)}
            for place, parts in enumerate(targets)
        ]
        for name, targets in first.parts.items()
    }
    return SliceStatistics(0, made)


@dataclass(frozen=True, eq=False)
class EvaluationStatistics(Statistic):
    """The statistics of scored rows, in all and for each slice, and how often rows repeat."""

    slices: Mapping[int, Mapping[str, SliceStatistics]]  # by the place in `by` (−1 for all rows), then by their values
    copies: RowCopies = field(default_factory=RowCopies)
    unsorted_bytes: int | None = None  # of rows that are not sorted yet; None with tables of scores

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
        scored, own_buckets = {}, buckets(hashes)
        for name, target in plan.targets.items():
            scores = unpacked(frame, f"{SCORES}{name}:", target)
            made = batches(target, scores, truth, weight, own_buckets, N_BUCKETS)
            if f"{COVERED}{name}:0" in frame.columns:
                made = [
                    replace(b, covered=_array(frame, COVERED, name, b.place), width=_array(frame, WIDTH, name, b.place))
                    for b in made
                ]
            scored[name] = made
        slices = {}
        if not plan.by:
            slices[-1] = {"": SliceStatistics.of(scored, plan)}
        for place, names in enumerate(plan.by):
            slices[place] = SliceStatistics.of_slices(scored, plan, Slices.of(frame, names))
        waiting = sum(own.unsorted_bytes for by_value in slices.values() for own in by_value.values())
        return cls(slices, RowCopies.of(hashes), waiting)

    @classmethod
    def empty(cls, **options: Any) -> Self:
        return cls({})

    @classmethod
    def merge_all(cls, states: Iterable[Self], **options: Any) -> Self:
        found = [state for state in states if state.slices]
        waiting = [state for state in found if state.unsorted_bytes is not None]
        if len(waiting) == len(found) and sum(state.unsorted_bytes or 0 for state in found) <= UNSORTED_BYTES:
            return cls._merged(found)
        tables = [state for state in found if state.unsorted_bytes is None]
        return cls._merged([*tables, cls._merged(waiting).with_tables()] if waiting else tables)

    @classmethod
    def _merged(cls, states: Sequence[Self]) -> Self:
        """Merge statistics all of which are tables, or none."""
        if len(states) < 2:
            return states[0] if states else cls({})
        slices: dict[int, dict[str, SliceStatistics]] = {}
        for place in states[0].slices:
            by_value: dict[str, list[SliceStatistics]] = {}
            for state in states:
                for value, own in state.slices[place].items():
                    by_value.setdefault(value, []).append(own)
            if len(by_value) > MAX_SLICES:
                raise too_many_slices(len(by_value))
            slices[place] = {value: SliceStatistics.merged(own) for value, own in by_value.items()}
        copies = functools.reduce(lambda a, b: a.merge(b), (state.copies for state in states))
        waiting = None if states[0].unsorted_bytes is None else sum(state.unsorted_bytes or 0 for state in states)
        return cls(slices, copies, waiting)

    def with_tables(self) -> Self:
        """Return the statistics with sorted tables of scores in place of rows."""
        if self.unsorted_bytes is None:
            return self
        if 0 not in self.slices:
            return type(self)({-1: {"": self.slices[-1][""].with_tables(MAX_SCORES)}}, self.copies)
        made = {
            place: {value: own.with_tables(SLICE_SCORES) for value, own in by_value.items()}
            for place, by_value in self.slices.items()
        }
        return type(self)({-1: {"": _of_all(list(self.slices[0].values()))}, **made}, self.copies)

    def __getstate__(self) -> dict[str, Any]:
        return self.with_tables().__dict__

    @property
    def overall(self) -> SliceStatistics | None:
        """The statistics of all rows; None without rows. Asked of statistics with tables."""
        if not self.slices:
            return None
        of_all = self.slices[-1][""]
        if 0 not in self.slices:
            return of_all
        slices = list(self.slices[0].values())

        def whole(part: Part, name: str, place: int) -> Any:
            states = [own.parts[name][place][part] for own in slices]
            table = of_all.parts[name][place].get(part)
            return table.with_cells_of(states) if isinstance(table, ScoreTable) else part.merged(states)

        return SliceStatistics(sum(own.n_rows for own in slices), slices[0]._each(whole))


def _array(frame: pl.DataFrame, kind: str, name: str, place: int) -> Array:
    return frame[f"{kind}{name}:{place}"].to_numpy()


def _of_slices(parts: Sequence[Part], batch: ScoredBatch, slices: Slices) -> Iterable[Sequence[Any]]:
    """Return each part of each slice: from one look at all rows where the statistic can, else slice by slice."""
    n, buckets = len(slices.values), batch.bucket
    assert buckets is not None
    grouped = replace(batch, bucket=slices.codes * batch.n_buckets + buckets, n_buckets=n * batch.n_buckets)
    own: list[ScoredBatch] = []
    for part in parts:
        if part.statistic is ScoreTable:
            yield ScoreRows.of(batch, **dict(part.options)).split(slices.order, slices.ends)
        elif issubclass(part.statistic, ArrayStatistic):
            yield part.statistic.of_slices(grouped, slices.codes, n, **dict(part.options))
        else:
            own = own or [batch.take(rows) for rows in np.split(slices.order, slices.ends[:-1])]
            yield [part.of(piece) for piece in own]


@dataclass(frozen=True, eq=False)
class Slices:
    """The slices of a table by some of its columns: the values of each, and the number of each row's slice."""

    values: Sequence[str]
    codes: Array  # int64

    @classmethod
    def of(cls, frame: pl.DataFrame, names: Sequence[str]) -> Self:
        """Return the slices of the combinations of values that occur. Raises ParameterError on more than `MAX_SLICES`."""
        texts, codes = list[str](), np.zeros(frame.height, np.int64)
        for place, name in enumerate(names):
            own_texts, own = _value_codes(frame[f"{BY}{name}"], names)
            texts = [f"{text}, {more}" for text in texts for more in own_texts] if place else own_texts
            codes = codes * len(own_texts) + own
        counts = np.bincount(codes, minlength=len(texts))
        found = list(dict.fromkeys(texts[i] for i in np.flatnonzero(counts)))
        if len(found) > MAX_SLICES:
            raise too_many_slices(len(found), names)
        places = {text: i for i, text in enumerate(found)}
        new = np.array([places.get(text, 0) for text in texts], dtype=np.int64)
        return cls(found, codes if np.array_equal(new, np.arange(len(texts))) else new[codes])

    @cached_property
    def order(self) -> Array:
        """The places of the rows, slice by slice."""
        return np.argsort(self.codes.astype(np.uint16), kind="stable")  # in linear time

    @cached_property
    def ends(self) -> list[int]:
        """Where the rows of each slice end in `order`."""
        return np.cumsum(np.bincount(self.codes, minlength=len(self.values))).tolist()  # type: ignore[no-any-return]


def _value_codes(values: pl.Series, names: Sequence[str]) -> tuple[list[str], Array]:
    """Return the different values of a column as texts, and the number of each row's."""
    values = _missing_once(values.alias("value"))
    if values.dtype.is_integer() and not values.null_count():
        low, high = (
            int(end)
            for end in values.to_frame().select(pl.min("value").alias("low"), pl.max("value").alias("high")).row(0)
        )
        if high - low < MAX_SLICES:
            return [str(value) for value in range(low, high + 1)], (values - low).cast(pl.Int64).to_numpy()
    found = values.to_frame().with_row_index("row").group_by("value").agg("row")
    if found.height > MAX_SLICES:
        raise too_many_slices(found.height, names)
    codes = np.empty(len(values), np.int64)
    for code, rows in enumerate(found["row"]):
        codes[rows.to_numpy()] = code
    return _texts(found["value"], is_alone=len(names) == 1), codes


def _missing_once(values: pl.Series) -> pl.Series:
    """Return floats with one form of a missing value and of 0: NaN is null, −0 is 0."""
    if not values.dtype.is_float():
        return values
    value = pl.col("value")
    return (
        values.to_frame().select(pl.when(value != 0).then(value.fill_nan(None)).when(value == 0).then(0.0)).to_series()
    )


def _texts(values: pl.Series, *, is_alone: bool) -> list[str]:
    """Return different values as different texts: those that read like others, or like two together, in quotes."""
    texts = values.dt.to_string("polars") if values.dtype == pl.Duration else values.cast(pl.String)

    def text(own: str | None) -> str:
        if own is None:
            return MISSING
        return f"'{own}'" if own == MISSING or (not is_alone and ", " in own) else own

    return [text(own) for own in texts]


def too_many_slices(n: int, names: Sequence[str] = ()) -> ParameterError:
    """Return the error for columns with too many values."""
    of = f" of {', '.join(map(repr, names))}" if names else ""
    return ParameterError(
        f"{WHERE}: by={list(names) or '…'} makes more than {MAX_SLICES:,} slices{of}; {n:,} were met so far.",
        f"Expected at most {MAX_SLICES:,} different values.",
        "choose a column of fewer values, or put numbers into bins first.",
    )

"""The plan of an evaluation, and the statistics of scored rows: of all rows and of each slice."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import polars as pl

from rayline.core.statistics.base import Statistic
from rayline.core.statistics.score_weights import MAX_SCORES
from rayline.core.target import Target
from rayline.evaluate.batch import ScoredBatch, batches
from rayline.evaluate.bootstrap import N_BUCKETS, RowCopies, buckets
from rayline.evaluate.drawn import fits
from rayline.evaluate.metric import Metric, Part
from rayline.evaluate.score_rows import ScoreRows
from rayline.evaluate.score_table import ScoreTable
from rayline.evaluate.scored_columns import COVERED, HASH, SCORES, TRUTH, WEIGHT, WIDTH, Array, unpacked
from rayline.evaluate.slices import Slices, refuse_many
from rayline.evaluate.sums import ArrayStatistic

SLICE_SCORES = 1 << 16
"""Different scores up to which the ranking of a slice is exact."""


UNSORTED_BYTES = 1 << 28
"""Bytes of rows that wait to be sorted together, at most."""


@dataclass(frozen=True)
class EvaluationPlan:
    """The plan of an evaluation. It is sent to every block and back, so it holds no model.

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
        parts = [part for metric in self.metrics.values() for part in metric.parts(len(batch.classes))]
        drawn = [part for part in self.drawn if fits(part, batch)]
        return list(dict.fromkeys([*parts, *drawn]))


@dataclass(frozen=True, eq=False)
class SliceStatistics:
    """The statistics of the rows of a slice: for each pipeline a list with those of each target column."""

    n_rows: int
    parts: Mapping[str, Sequence[Mapping[Part, Any]]]

    @classmethod
    def of(cls, scored: Mapping[str, Sequence[ScoredBatch]], plan: EvaluationPlan) -> Self:
        """Return the statistics of batches of the same rows; the rows of tables of scores are not sorted yet."""
        parts = {
            name: [
                {
                    part: ScoreRows.of(batch, **dict(part.options)) if part.statistic is ScoreTable else part.of(batch)
                    for part in plan.parts(batch)
                }
                for batch in target_batches
            ]
            for name, target_batches in scored.items()
        }
        return cls(len(next(iter(scored.values()))[0]), parts)

    @classmethod
    def of_slices(
        cls, scored: Mapping[str, Sequence[ScoredBatch]], plan: EvaluationPlan, slices: Slices
    ) -> dict[str, Self]:
        """Return the statistics of each slice, by its value."""
        by_slice: list[dict[str, list[Mapping[Part, Any]]]] = [{name: [] for name in scored} for _ in slices.values]
        for name, target_batches in scored.items():
            for batch in target_batches:
                parts = plan.parts(batch)
                by_part = list(zip(*_of_slices(parts, batch, slices), strict=True))
                for i, statistics in enumerate(by_slice):
                    statistics[name].append(dict(zip(parts, by_part[i] if by_part else (), strict=True)))
        n_rows = np.bincount(slices.codes, minlength=len(slices.values)).tolist()
        return {value: cls(n, parts) for value, n, parts in zip(slices.values, n_rows, by_slice, strict=True)}

    @classmethod
    def merged(cls, states: Sequence[Self]) -> Self:
        """Return the statistics of the rows of all."""
        if len(states) == 1:
            return states[0]
        merged = states[0]._each(
            lambda part, name, place: _merged(part, [state.parts[name][place][part] for state in states])
        )
        return cls(sum(state.n_rows for state in states), merged)

    def _each(self, function: Callable[[Part, str, int], Any]) -> dict[str, list[dict[Part, Any]]]:
        """Apply a function to each part. Returns the results in the form of `parts`."""
        return {
            name: [{part: function(part, name, place) for part in parts} for place, parts in enumerate(targets)]
            for name, targets in self.parts.items()
        }

    def with_tables(self, max_scores: int) -> Self:
        """Return the statistics with sorted tables, exact up to so many different scores, in place of rows."""

        def table(part: Part, name: str, place: int) -> Any:
            statistic = self.parts[name][place][part]
            return ScoreTable.of_rows(statistic, max_scores) if isinstance(statistic, ScoreRows) else statistic

        return type(self)(self.n_rows, self._each(table))

    @property
    def unsorted_bytes(self) -> int:
        """The memory of the rows that are not sorted yet, in bytes."""
        every = [statistic for targets in self.parts.values() for parts in targets for statistic in parts.values()]
        return sum(statistic.n_bytes for statistic in every if isinstance(statistic, ScoreRows))


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
        rows = ScoreRows.joined([statistic.parts[name][place][part] for statistic in slices])
        return ScoreTable.of_rows(rows, MAX_SCORES, with_buckets=False)

    statistics = {
        name: [
            {part: table(part, name, place) for part, statistic in parts.items() if isinstance(statistic, ScoreRows)}
            for place, parts in enumerate(targets)
        ]
        for name, targets in first.parts.items()
    }
    return SliceStatistics(0, statistics)


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
            target_batches = batches(target, scores, truth, weight, own_buckets, N_BUCKETS)
            if f"{COVERED}{name}:0" in frame.columns:
                target_batches = [
                    replace(
                        b,
                        covered=_array(frame, COVERED, name, b.target_index),
                        width=_array(frame, WIDTH, name, b.target_index),
                    )
                    for b in target_batches
                ]
            scored[name] = target_batches
        slices = {}
        if not plan.by:
            slices[-1] = {"": SliceStatistics.of(scored, plan)}
        for place, names in enumerate(plan.by):
            slices[place] = SliceStatistics.of_slices(scored, plan, Slices.of(frame, names))
        waiting = sum(statistics.unsorted_bytes for by_value in slices.values() for statistics in by_value.values())
        return cls(slices, RowCopies.of(hashes), waiting)

    @classmethod
    def empty(cls, **options: Any) -> Self:
        return cls({})

    @classmethod
    def merge_all(cls, states: Iterable[Self], **options: Any) -> Self:
        filled = [state for state in states if state.slices]
        waiting = [state for state in filled if state.unsorted_bytes is not None]
        if len(waiting) == len(filled) and sum(state.unsorted_bytes or 0 for state in filled) <= UNSORTED_BYTES:
            return cls._merged(filled)
        tables = [state for state in filled if state.unsorted_bytes is None]
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
                for value, statistics in state.slices[place].items():
                    by_value.setdefault(value, []).append(statistics)
            refuse_many(len(by_value))
            slices[place] = {value: SliceStatistics.merged(statistics) for value, statistics in by_value.items()}
        copies = functools.reduce(lambda a, b: a.merge(b), (state.copies for state in states))
        waiting = None if states[0].unsorted_bytes is None else sum(state.unsorted_bytes or 0 for state in states)
        return cls(slices, copies, waiting)

    def with_tables(self) -> Self:
        """Return the statistics with sorted tables of scores in place of rows."""
        if self.unsorted_bytes is None:
            return self
        if 0 not in self.slices:
            return type(self)({-1: {"": self.slices[-1][""].with_tables(MAX_SCORES)}}, self.copies)
        slices = {
            place: {value: statistics.with_tables(SLICE_SCORES) for value, statistics in by_value.items()}
            for place, by_value in self.slices.items()
        }
        return type(self)({-1: {"": _of_all(list(self.slices[0].values()))}, **slices}, self.copies)

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
            states = [statistics.parts[name][place][part] for statistics in slices]
            table = of_all.parts[name][place].get(part)
            return table.with_cells_of(states) if isinstance(table, ScoreTable) else part.merged(states)

        return SliceStatistics(sum(statistics.n_rows for statistics in slices), slices[0]._each(whole))


def _array(frame: pl.DataFrame, kind: str, name: str, place: int) -> Array:
    return frame[f"{kind}{name}:{place}"].to_numpy()


def _of_slices(parts: Sequence[Part], batch: ScoredBatch, slices: Slices) -> Iterable[Sequence[Any]]:
    """Return each part of each slice: from one look at all rows where the statistic can, else slice by slice."""
    n, buckets = len(slices.values), batch.bucket
    assert buckets is not None
    grouped = replace(batch, bucket=slices.codes * batch.n_buckets + buckets, n_buckets=n * batch.n_buckets)
    batches: list[ScoredBatch] = []
    for part in parts:
        if part.statistic is ScoreTable:
            yield ScoreRows.of(batch, **dict(part.options)).split(slices.order, slices.ends)
        elif issubclass(part.statistic, ArrayStatistic):
            yield part.statistic.of_slices(grouped, slices.codes, n, **dict(part.options))
        else:
            batches = batches or [batch.take(rows) for rows in np.split(slices.order, slices.ends[:-1])]
            yield [part.of(piece) for piece in batches]

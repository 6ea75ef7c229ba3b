"""The scan of an evaluation: raw rows are scored where they are, and their statistics merged, for all rows and for slices."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import polars as pl

from rayline.core.errors import at
from rayline.core.row_weights import row_weights
from rayline.core.schema import col
from rayline.core.target import Target
from rayline.evaluate.bootstrap import row_hashes
from rayline.evaluate.class_order import codes_in_order, scores_in_order
from rayline.evaluate.scored_columns import (
    BY,
    COVERED,
    HASH,
    SCORES,
    TRUTH,
    WEIGHT,
    WHERE,
    WIDTH,
    Array,
    packed_schema,
    score_columns,
)
from rayline.inference.scorer import Scorer
from rayline.postprocess.base import Outcome

CHUNK_ROWS = 1 << 18
"""Rows whose statistics are computed at once, at most."""

CHUNK_BYTES = 1 << 28
"""Bytes of the scored rows whose statistics are computed at once, at most."""

_SCORING = threading.Lock()
"""Polars calls the functions of a query in several threads, and not every framework predicts in more than one."""


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
        """The number of rows of a chunk."""
        return max(1 << 12, min(CHUNK_ROWS, CHUNK_BYTES // (8 * len(self.names))))

    def schema(self, schema: Mapping[str, pl.DataType]) -> pl.Schema:
        """Return names and types of the result for raw rows of these types."""
        dtypes: dict[str, pl.DataType] = {}
        for name, scorer in self.scorers.items():
            target = scorer.target
            kind = pl.Int64() if target.task.is_classification else pl.Float64()
            dtypes |= {f"{TRUTH}{place}": kind for place in range(_truth_width(target))}
            dtypes |= {f"{SCORES}{name}:{column}": dtype for column, dtype in packed_schema(target).items()}
            for place in range(len(target.columns)) if self._has_intervals(scorer) else ():
                dtypes |= {f"{COVERED}{name}:{place}": pl.Float64(), f"{WIDTH}{name}:{place}": pl.Float64()}
        if self.weight is not None:
            dtypes[WEIGHT] = pl.Float64()
        dtypes[HASH] = pl.UInt64()
        dtypes |= {f"{BY}{name}": schema[name] for names in self.by for name in names}
        return pl.Schema(dtypes)

    def _has_intervals(self, scorer: Scorer[Any]) -> bool:
        return self.intervals and scorer.has_intervals

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame:
        schema = self.schema(table.collect_schema())
        return table.map_batches(self._placed, schema=schema, streamable=True, predicate_pushdown=False)

    def _placed(self, table: pl.DataFrame) -> pl.DataFrame:
        with at(WHERE):
            return self._scored(table)

    def _scored(self, table: pl.DataFrame) -> pl.DataFrame:
        columns_by_name: dict[str, pl.Series] = {}
        first = next(iter(self.scorers.values())).target
        for name, scorer in self.scorers.items():
            target = scorer.target
            if not columns_by_name:
                pairs = zip(self.target_columns, target.columns, strict=True)
                truth = target.truth_of(table.select(col(given).alias(target_column) for given, target_column in pairs))
                for place, labels in enumerate(truth.reshape(len(truth), _truth_width(target)).T):
                    columns_by_name[f"{TRUTH}{place}"] = pl.Series(labels)
            with _SCORING:
                given = scorer.model_scores(table.lazy())
                outcome = scorer.outcome(table, given) if self._has_intervals(scorer) else None
            scores = scores_in_order(scorer.postprocessed(given), target, first)
            columns = score_columns(scores, replace(target, classes=first.classes))
            columns_by_name |= {f"{SCORES}{name}:{column}": values for column, values in columns.items()}
            if outcome is not None:
                own_truth = codes_in_order(truth, first, target)
                columns_by_name |= {
                    f"{kind}{name}:{place}": target_column
                    for kind, place, target_column in _intervals(outcome, own_truth)
                }
        if self.weight is not None:
            columns_by_name[WEIGHT] = row_weights(table[self.weight])
        columns_by_name[HASH] = pl.Series(row_hashes(table, self.hashed))
        columns_by_name |= {f"{BY}{name}": table[name] for names in self.by for name in names}
        return pl.DataFrame([column.alias(name) for name, column in columns_by_name.items()])


def _intervals(outcome: Outcome, truth: Array) -> Iterable[tuple[str, int, pl.Series]]:
    """Return whether the interval or set of each row holds its label, and how wide it is, for each target."""
    target = outcome.target
    labels = truth.reshape(len(truth), len(target.columns))
    start = 0
    for place in range(len(target.columns)):
        if outcome.sets is not None:
            members = outcome.sets[:, start : (start := start + len(target.classes[place]))]
            held, width = np.take_along_axis(members, labels[:, [place]], axis=1)[:, 0], members.sum(axis=1)
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

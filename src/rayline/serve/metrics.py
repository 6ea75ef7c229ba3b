"""Counters of a server in Prometheus' text format, and comparison of its rows with the training rows."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from rayline.core.operations.base import Fill, Row
from rayline.inference.pipeline import InferencePipeline, Preprocessor

BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass
class SkewCounts:
    """Rows, and values of columns that are missing, unknown, or out of range."""

    rows: int = 0
    missing: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    outside: Counter[str] = field(default_factory=Counter)

    def add(self, other: SkewCounts) -> None:
        """Add the counts of another object."""
        self.rows += other.rows
        self.missing.update(other.missing)
        self.unknown.update(other.unknown)
        self.outside.update(other.outside)

    def named(self) -> Iterator[tuple[str, str, Counter[str]]]:
        """Yield the counts of columns, with a name and a description."""
        yield "missing", "Missing values.", self.missing
        yield "unknown", "Values that are not among the known categories.", self.unknown
        yield "out_of_range", "Values outside of the range of the training rows.", self.outside


class Metrics:
    """Counters of one server process; only its event loop changes them."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._requests: Counter[tuple[str, int]] = Counter()
        self._buckets = [0] * (len(BUCKETS_S) + 1)
        self._seconds = 0.0
        self.counts = SkewCounts()

    def request(self, protocol: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self._requests[protocol, status] += 1
        self._buckets[bisect_left(BUCKETS_S, seconds)] += 1
        self._seconds += seconds

    def text(self, **gauges: float) -> str:
        """Return the metrics as text, `gauges` included."""
        model, requests = _label("model", self._model), sorted(self._requests.items())
        answered = [(f'{_label("protocol", protocol)},code="{code}"', n) for (protocol, code), n in requests]
        errors = sum(n for (_, code), n in requests if code >= 400)
        families: list[tuple[str, str, str, Iterable[tuple[str, float]]]] = [
            ("requests_total", "counter", "Answered requests by protocol and status.", answered),
            ("errors_total", "counter", "Requests answered with a status of 400 or more.", [("", errors)]),
            ("rows_total", "counter", "Predicted rows.", [("", self.counts.rows)]),
        ]
        columns = [
            (f"column_{name}_total", "counter", words, [(_label("column", c), n) for c, n in sorted(counts.items())])
            for name, words, counts in self.counts.named()
        ]
        others = [
            (name, "gauge", f"{name.replace('_', ' ').capitalize()}.", [("", value)]) for name, value in gauges.items()
        ]
        lines = [*_text(model, families), *self._seconds_text(model), *_text(model, [*columns, *others])]
        return "\n".join(lines) + "\n"

    def _seconds_text(self, model: str) -> Iterator[str]:
        name, total = "rayline_request_seconds", 0
        yield f"# HELP {name} Time from the first byte of a request to its answer."
        yield f"# TYPE {name} histogram"
        for limit, n in zip((*BUCKETS_S, "+Inf"), self._buckets, strict=True):
            total += n
            yield f'{name}_bucket{{{model},le="{limit}"}} {total}'
        yield f"{name}_sum{{{model}}} {self._seconds}"
        yield f"{name}_count{{{model}}} {total}"


def _text(model: str, families: Iterable[tuple[str, str, str, Iterable[tuple[str, float]]]]) -> Iterator[str]:
    """Yield the lines of metrics: name, kind, description, and each value after its labels."""
    for name, kind, words, samples in families:
        yield f"# HELP rayline_{name} {words}"
        yield f"# TYPE rayline_{name} {kind}"
        for labels, value in samples:
            yield f"rayline_{name}{{{model}{',' if labels else ''}{labels}}} {value}"


class TrainingSkew:
    """Counts values that are missing, of unknown categories, or outside the range of the training rows.

    Categories and ranges of a raw column come from the fitted stages. A StandardScaler learns no
    range, so a column that only such a stage was fitted on has none.
    """

    def __init__(self, pipeline: InferencePipeline) -> None:
        self.columns = list(pipeline.input_schema)
        self.categories, self.ranges = _known(pipeline)

    def row(self, row: Row, counts: SkewCounts) -> None:
        """Count one row."""
        counts.rows += 1
        for name in self.columns:
            if row[name] is None:
                counts.missing[name] += 1
        for name, known in self.categories.items():
            if (value := row[name]) is not None and value not in known:
                counts.unknown[name] += 1
        for name, (low, high) in self.ranges.items():
            if (value := row[name]) is not None and not low <= value <= high:
                counts.outside[name] += 1

    def table(self, table: pl.DataFrame) -> SkewCounts:
        """Return the counts of all rows of a table."""
        counts = SkewCounts(table.height)
        for name, known in self.categories.items():
            values = table[name].drop_nulls().value_counts()
            counts.unknown[name] = sum(n for value, n in values.iter_rows() if value not in known)
        for name, (low, high) in self.ranges.items():
            counts.outside[name] = int(((table[name] < low) | (table[name] > high)).sum())
        for name in self.columns:
            column = table[name]
            counts.missing[name] = column.null_count() + (int(column.is_nan().sum()) if column.dtype.is_float() else 0)
        return counts


def _known(pipeline: InferencePipeline) -> tuple[dict[str, frozenset[Any]], dict[str, tuple[float, float]]]:
    categories: dict[str, frozenset[Any]] = {}
    ranges: dict[str, tuple[float, float]] = {}
    raw = set(pipeline.input_schema)  # columns that no stage has changed yet, except by imputation
    preprocessor = pipeline.preprocessor
    for _, stage in preprocessor.leaves if isinstance(preprocessor, Preprocessor) else []:
        learned = stage.learned.get("columns") if stage.learned is not None else None
        if not isinstance(learned, Mapping):
            continue
        for name in raw & set(learned):
            column_values = learned[name]
            if isinstance(column_values, Mapping) and isinstance(column_values.get("categories"), list):
                categories.setdefault(name, frozenset(c for c in column_values["categories"] if c is not None))
            if isinstance(column_values, Mapping) and {"low", "high"} <= set(column_values):
                ranges.setdefault(name, (column_values["low"], column_values["high"]))
        if stage.column_operation is not Fill:
            raw -= set(learned)
    for name in raw:
        dtype = pipeline.model.schema.get(name)
        if isinstance(dtype, pl.Enum):
            categories[name] = frozenset(dtype.categories.to_list())
    return categories, ranges


def _label(name: str, value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{name}="{escaped}"'

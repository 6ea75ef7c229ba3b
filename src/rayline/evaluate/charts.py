"""The contents of the plots of an evaluation, independent of drawing: `plots` draws them with Matplotlib, `svg` for a page.

>>> from rayline.evaluate.charts import KINDS
>>> KINDS[:3]
('roc', 'precision_recall', 'calibration')
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from rayline.core.errors import ParameterError
from rayline.core.statistics.score_weights import area_under_roc, average_precision
from rayline.core.target import Target
from rayline.evaluate import drawn
from rayline.evaluate.bootstrap import estimate
from rayline.evaluate.evaluation_statistics import SliceStatistics
from rayline.evaluate.results import EvaluationResults
from rayline.inference import svg_plots
from rayline.inference.svg_plots import SVGPlot

Array = npt.NDArray[Any]
Points: TypeAlias = list[tuple[float, float]]
Form: TypeAlias = Literal["lines", "dots", "table", "intervals", "bars"]

MAX_POINTS = 200
MAX_CHART_ROWS = 30
"""Rows of a plot of slices or importances."""

MAX_PANELS = 12
"""Slices that have a panel each."""


@dataclass(frozen=True)
class Chart:
    """A plot: what it shows, its axes, and how to read it.

    Attributes
    ----------
    form
        "lines" or "dots" through `series`, a "table" of `cells`, or rows with "intervals" or "bars".
    series
        The points of each line, by name.
    spans
        Vertical intervals, each at an x from one y to another.
    unit, diagonal
        Whether both axes go from 0 to 1, and whether to draw where x equals y.
    level
        Where to draw a dashed line: across of lines and dots, down of intervals.
    rows
        Names, values, and the ends of their intervals.
    """

    name: str
    title: str
    caption: str
    form: Form
    x: str
    y: str = ""
    series: Mapping[str, Points] = field(default_factory=dict)
    spans: Sequence[tuple[float, float, float]] = ()
    unit: bool = False
    diagonal: bool = False
    level: float | None = None
    rows: Sequence[tuple[str, float, float, float]] = ()
    labels: Sequence[str] = ()
    cells: Sequence[Sequence[int]] = ()

    def svg(self) -> SVGPlot:
        """Return the plot as SVG, readable on light and dark pages."""
        if self.form == "table":
            plot = svg_plots.confusion_table(self.labels, self.cells, x=self.x, y=self.y)
        elif self.form in ("intervals", "bars"):
            plot = svg_plots.intervals(self.rows, x=self.x, middle=self.level)
        else:
            plot = svg_plots.lines(
                dict(self.series), x=self.x, y=self.y, diagonal=self.diagonal, unit=self.unit, dots=self.form == "dots",
                spans=self.spans, level=self.level, named=self.unit and not self.spans,
            )  # fmt: skip
        return SVGPlot(self.name, self.title, self.caption, plot)


@dataclass(frozen=True)
class ChartMaker:
    """Charts of the results of one pipeline: of all rows, or overlaid for the slices of a column."""

    results: EvaluationResults
    target: Target
    importance: Callable[[], Mapping[str, float] | None] = dict
    pipeline: str = ""

    def kinds(self) -> list[str]:
        """Return the kinds of plots that there are for this target and these rows."""
        parts = self.results.overall.parts[self.pipeline][0]
        if not self.target.task.is_classification:
            kinds = ["residuals", "prediction_error"] if drawn.SAMPLE in parts else []
        else:
            curves = [kind for kind in CURVES if any(drawn.curve_part(code) in parts for code in self._codes)]
            calibration = ["calibration"] if drawn.CALIBRATION in parts else []
            kinds = [*curves[:2], *calibration, *(["confusion"] if drawn.CONFUSION in parts else []), *curves[2:]]
        return [*kinds, "importance", *(["slices"] if self.results.slices else [])]

    def make(self, kind: str, by: str | None = None) -> list[Chart]:
        """Return the charts of a kind: one for each target, for "slices" one for each metric and column.

        Raises ParameterError on an unknown kind, or one that does not fit the task.
        """
        if not isinstance(kind, str):
            raise ParameterError.value("kind", f"one of {[*KINDS]}", kind, where="report.plot")
        kind = {"by_slice": "slices", "pr": "precision_recall", "errors": "residuals"}.get(kind, kind)
        if kind not in KINDS:
            raise ParameterError.unknown([kind], KINDS, "kind", where="report.plot")
        if kind == "importance":
            return self._importance()
        if kind == "slices":
            return self._slices(by)
        if kind not in self.kinds():
            raise ParameterError(
                f"report.plot: {kind!r} cannot be drawn for this evaluation of a {self.target.task} target.",
                f"Expected one of {self.kinds()}.",
                "choose one of these."
                if kind != "calibration"
                else "choose one of these; calibration needs a classifier with probabilities.",
            )
        places = range(len(self.target.columns))
        if kind in CURVES:
            return [self._curve(kind, place, by) for place in places]
        return [chart for place in places for chart in self._panels(kind, place, by)]

    def _panels(self, kind: str, place: int, by: str | None) -> list[Chart]:
        """Return a chart of all rows, or one for each of the largest slices of a column."""
        make = {
            "calibration": self._calibration, "confusion": self._confusion, "residuals": self._residuals,
            "prediction_error": self._prediction_error,
        }[kind]  # fmt: skip
        groups = self._groups(by)
        if by is None:
            return [make(place, groups[""])]
        largest = sorted(groups, key=lambda value: -groups[value].n_rows)[:MAX_PANELS]
        some = f" The {len(largest)} largest of {len(groups)} slices are shown." if len(groups) > len(largest) else ""
        charts = [(value, make(place, statistics)) for value, statistics in groups.items() if value in largest]
        return [
            replace(
                statistics,
                name=f"{statistics.name}-{by}-{value}",
                title=f"{statistics.title}\n{by} = {value}",
                caption=statistics.caption + some,
            )
            for value, statistics in charts
        ]

    # -- curves --------------------------------------------------------------------------------------------------------

    @property
    def _codes(self) -> list[int]:
        n = len(self.target.classes[0])
        return [1] if n == 2 else list(range(min(n, drawn.MAX_CURVES)))

    def _curve(self, kind: str, place: int, by: str | None) -> Chart:
        function, words = CURVES[kind]
        column, classes = self.target.columns[place], self.target.classes[place]
        groups = self._groups(by)
        codes = self._codes if len(groups) == 1 else self._codes[-1:]
        series: dict[str, Points] = {}
        for name, statistics in groups.items():
            for code in codes:
                table = statistics.parts[self.pipeline][place].get(drawn.curve_part(code))
                weights = np.empty((0, 2)) if table is None else np.stack(table.pair(1), axis=1)
                if len(weights) and (weights.sum(axis=0) > 0).all():
                    points, measure = function(weights)
                    series[f"{name or str(classes[code])}, {words['measure']} {measure:.3f}"] = _thinned(points)
        of = f"{column} = {classes[codes[0]]}" if len(codes) == 1 else column
        shown = dict(list(series.items())[: drawn.MAX_CURVES])
        some = f" The first {len(shown)} of {len(series)} slices are shown." if len(series) > len(shown) else ""
        lacking = "" if series else " There are no rows of both classes."
        return Chart(
            f"{kind}{f'-{place}' if place else ''}", f"{words['title']} of {of}", words["caption"] + some + lacking, "lines",
            words["x"], words["y"], shown, unit=True, diagonal=kind != "precision_recall",
        )  # fmt: skip

    def _groups(self, by: str | None) -> Mapping[str, SliceStatistics]:
        if by is None:
            return {"": self.results.overall}
        groups = {value: statistics for (column, value), statistics in self.results.slices.items() if column == by}
        if not groups:
            columns = sorted({column for column, _ in self.results.slices})
            raise ParameterError.value("by", f"one of the columns of slices {columns}", by, where="report.plot")
        return groups

    def _calibration(self, place: int, rows: SliceStatistics) -> Chart:
        sums = rows.parts[self.pipeline][place][drawn.CALIBRATION]
        total = sums.total(self.results.multiplicity)
        weight, chance, hit = np.split(total, 3, axis=1)
        points, spans = [], []
        for i in range(weight.shape[1]):
            if weight[0, i] > 0:
                with np.errstate(invalid="ignore"):
                    share = estimate(hit[:, i] / weight[:, i], self.results.confidence)
                at = float(chance[0, i] / weight[0, i])
                points.append((at, share.value))
                spans += [(at, share.low, share.high)] if math.isfinite(share.low) else []
        classes = self.target.classes[place]
        what = str(classes[1]) if len(classes) == 2 else "the predicted class"
        caption = (
            f"Rows in bins of the predicted probability, with {self.results.confidence:.0%} intervals. On the dashed line "
            "probabilities are what they say."
        )
        return Chart(
            f"calibration{f'-{place}' if place else ''}", f"Calibration of {self.target.columns[place]}", caption, "lines",
            f"mean predicted probability of {what}", f"share of rows that are {what}", {what: points}, spans, unit=True,
            diagonal=True,
        )  # fmt: skip

    def _confusion(self, place: int, rows: SliceStatistics) -> Chart:
        counts = rows.parts[self.pipeline][place][drawn.CONFUSION].values
        labels = [str(label) for label in self.target.classes[place]]
        counted = "Weight of the rows" if self.results.plan.weighted else "Rows"
        return Chart(
            f"confusion{f'-{place}' if place else ''}", f"Confusion of {self.target.columns[place]}",
            f"{counted} of each true class (down) by predicted class (across), shaded by their share of the true class.",
            "table", "predicted", "true", labels=labels, cells=np.rint(counts).astype(int).tolist(),
        )  # fmt: skip

    # -- regression ----------------------------------------------------------------------------------------------------

    def _sample(self, place: int, rows: SliceStatistics) -> tuple[str, Array, str]:
        pairs = rows.parts[self.pipeline][place][drawn.SAMPLE].rows
        some = f" {len(pairs):,} of {rows.n_rows:,} rows are shown." if len(pairs) < rows.n_rows else ""
        return self.target.columns[place], pairs, some

    def _residuals(self, place: int, rows: SliceStatistics) -> Chart:
        name, pairs, some = self._sample(place, rows)
        points = [(predicted, predicted - true) for true, predicted in pairs.tolist()]
        return Chart(
            f"residuals{f'-{place}' if place else ''}", f"Residuals of {name}",
            f"Above the dashed line predictions are too high.{some}", "dots", f"predicted {name}",
            f"predicted − true {name}", {name: points}, level=0.0,
        )  # fmt: skip

    def _prediction_error(self, place: int, rows: SliceStatistics) -> Chart:
        name, pairs, some = self._sample(place, rows)
        return Chart(
            f"prediction_error{f'-{place}' if place else ''}", f"Predicted and true {name}",
            f"On the dashed line the prediction is the truth.{some}", "dots", f"true {name}", f"predicted {name}",
            {name: [(true, predicted) for true, predicted in pairs.tolist()]}, diagonal=True,
        )  # fmt: skip

    # -- rows of names -------------------------------------------------------------------------------------------------

    def _importance(self) -> list[Chart]:
        shares = self.importance()
        if not shares:
            raise ParameterError(
                "report.plot: the model gives no importance of its columns.",
                "Expected a framework that does, such as XGBoost, LightGBM or CatBoost.",
                "choose another kind.",
            )
        total = sum(map(abs, shares.values())) or 1.0
        ranked = sorted(((name, abs(value) / total) for name, value in shares.items()), key=lambda item: -item[1])
        nan = float("nan")
        rest = f" The first {MAX_CHART_ROWS} of {len(ranked)} are shown." if len(ranked) > MAX_CHART_ROWS else ""
        return [
            Chart(
                "importance", "Importance of the columns", f"Shares that add up to 1; a column's features are summed.{rest}",
                "bars", "share of the importance", rows=[(name, share, nan, nan) for name, share in ranked[:MAX_CHART_ROWS]],
            )
        ]  # fmt: skip

    def _slices(self, by: str | None) -> list[Chart]:
        groups = {
            column: self._groups(column)
            for column in dict.fromkeys(c for c, _ in self.results.slices)
            if by in (None, column)
        }
        if by is not None and not groups:
            self._groups(by)
        if not groups:
            raise ParameterError(
                "report.plot: there are no slices.", "Expected an evaluation with by=[…].", "name columns to slice by."
            )
        charts: list[Chart] = []
        for column, group in groups.items():
            largest = dict(sorted(group.items(), key=lambda item: -item[1].n_rows)[:MAX_CHART_ROWS])
            shown = [(value, statistics) for value, statistics in group.items() if value in largest]
            charts += [self._slice_chart(column, metric, shown, len(group)) for metric in self.results.plan.metrics]
        return charts

    def _slice_chart(self, column: str, metric: str, shown: Sequence[tuple[str, SliceStatistics]], n: int) -> Chart:
        results, rows = self.results, []
        for value, statistics in shown:
            interval = estimate(results.replicates(statistics, metric, self.pipeline).values, results.confidence)
            rows.append((f"{value} ({statistics.n_rows:,})", interval.value, interval.low, interval.high))
        overall = float(results.replicates(results.overall, metric, self.pipeline).values[0])
        some = f" The {len(shown)} largest of {n} are shown." if n > len(shown) else ""
        better = {"min": "Smaller is better", "max": "Larger is better"}.get(str(results.plan.metrics[metric].mode), "")
        caption = (
            f"{results.confidence:.0%} intervals; in brackets the rows. The dashed line is the value of all rows.{some}"
        )
        return Chart(
            f"slices-{column}-{metric}", f"{metric} by {column}", f"{better}. {caption}" if better else caption, "intervals",
            metric, column, rows=rows, level=overall,
        )  # fmt: skip


def _thinned(points: Array) -> Points:
    """Return at most `MAX_POINTS` of the points of a curve, evenly spread along it."""
    if len(points) <= MAX_POINTS:
        return [(float(a), float(b)) for a, b in points]
    way = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(points, axis=0)).sum(axis=1))])
    places = np.unique(np.searchsorted(way, np.linspace(0, way[-1], MAX_POINTS)).clip(0, len(points) - 1))
    return [(float(a), float(b)) for a, b in points[places]]


def _roc(weights: Array) -> tuple[Array, float]:
    down = np.concatenate([[[0.0, 0.0]], np.cumsum(weights[::-1], axis=0)])
    return down / down[-1], float(area_under_roc(*weights.T))


def _precision_recall(weights: Array) -> tuple[Array, float]:
    down = np.cumsum(weights[::-1], axis=0)
    rows = down.sum(axis=1)
    kept = rows > 0
    points = np.stack([down[kept, 1] / down[-1, 1], down[kept, 1] / rows[kept]], axis=1)
    return np.concatenate([[[0.0, points[0, 1]]], points]), float(average_precision(*weights.T))


def _lift(weights: Array) -> tuple[Array, float]:
    down = np.concatenate([[[0.0, 0.0]], np.cumsum(weights[::-1], axis=0)])
    rows = down.sum(axis=1)
    points = np.stack([rows / rows[-1], down[:, 1] / down[-1, 1]], axis=1)
    at = float(np.interp(0.1, points[:, 0], points[:, 1]))
    return points, at / 0.1


CURVES: dict[str, tuple[Callable[[Array], tuple[Array, float]], dict[str, str]]] = {
    "roc": (
        _roc,
        {
            "title": "ROC", "measure": "area", "x": "false positive rate",
            "y": "true positive rate",
            "caption": "Behind each name the area under its curve. The dashed line is chance.",
        },
    ),
    "precision_recall": (
        _precision_recall,
        {
            "title": "Precision and recall", "measure": "average", "x": "recall",
            "y": "precision",
            "caption": "Behind each name the average precision.",
        },
    ),
    "lift": (
        _lift,
        {
            "title": "Lift", "measure": "lift", "x": "share of all rows, the highest scores first", "y": "share of the positives that are found",
            "caption": "Behind each name how many times as many are found in the first tenth of the rows as by chance, the dashed line.",
        },
    ),
}  # fmt: skip

KINDS = (
    "roc", "precision_recall", "calibration", "confusion", "lift", "residuals", "prediction_error", "importance", "slices",
)  # fmt: skip

"""The sections of a model card for rows with labels: summaries of columns, and plots of the model's performance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.core.design import COLORS
from rayline.core.schema import Kind, col, kind_of
from rayline.core.scores import has_probabilities
from rayline.core.target import Target, Task
from rayline.inference import svg_plots
from rayline.inference.svg_plots import SVGPlot, number

Array = npt.NDArray[Any]

MAX_POINTS = 200
MAX_DOTS = 800
MAX_CLASSES = 12
BINS = 10


def columns(table: pl.DataFrame, names: Sequence[str]) -> list[list[str]]:
    """Name, type, share of missing values, and a summary of each column."""
    lines = []
    for name in names:
        values, kind = table[name], kind_of(table.schema[name])
        if values.dtype.is_float():
            values = values.fill_nan(None)
        missing = f"{values.null_count() / max(1, len(values)):.1%}" if values.null_count() else "none"
        present = values.drop_nulls()
        summary = ""
        if kind is Kind.NUMERIC and len(present):
            low, mean, high = (float(v) for v in (present.min(), present.mean(), present.max()))  # type: ignore[arg-type]
            summary = f"{number(low)} to {number(high)}, mean {number(mean)}"
        elif kind in (Kind.CATEGORY, Kind.BOOLEAN) and len(present):
            top = present.value_counts(sort=True, name="n").row(0)
            summary = f"{present.n_unique():,} different, most often {str(top[0])[:24]!r} ({top[1] / len(present):.0%})"
        elif kind is Kind.DATETIME and len(present):
            summary = f"{present.min()!s} to {present.max()!s}"
        lines.append([name, str(table.schema[name].base_type()), missing, summary])
    return lines


def learning(history: pl.DataFrame, target: Target) -> list[SVGPlot]:
    """A curve for each metric of the history, of the training and the test rows together."""
    names = [name for name in history.columns if name != "iteration" and history[name].dtype.is_numeric()]
    names.sort(key=lambda name: name.startswith("train-"))  # the test rows first, as in every picture
    metrics = dict.fromkeys(name.partition("-")[2] or name for name in names)
    plots = []
    for metric in list(metrics)[:3] if history.height > 1 else []:
        series = {
            name.removesuffix(metric).rstrip("-") or name: list(
                zip(history["iteration"].to_list(), history[name].cast(pl.Float64).to_list(), strict=True)
            )
            for name in names
            if (name.partition("-")[2] or name) == metric
        }
        series = {name: [(a, b) for a, b in points if b is not None] for name, points in series.items()}
        svg = svg_plots.lines(series, x="iteration", y=metric)
        caption = "After each iteration of the training."
        if target.stages:
            stages = ", ".join(name for name, _ in target.stages)
            caption += f" On the scale that the model learns, after the target stages {stages}: not that of the labels."
        plots.append(SVGPlot(f"history-{metric}", f"Learning: {metric}{target.of_class(metric)}", caption, svg))
    return plots


def performance(target: Target, scores: Array, table: pl.DataFrame) -> list[SVGPlot]:
    """Plots of a model's scores for rows whose labels are in the table."""
    if target.task.is_paired:
        return []
    if target.task is Task.REGRESSION:
        return _regression(target, scores, table)
    if not has_probabilities(scores) or len(target.columns) > 1:
        return []
    truth = target.encode(table.select(col(target.columns[0])))
    chances = target.probabilities(scores).to_numpy()
    classes = [str(c) for c in target.classes[0]]
    plots = [_roc(classes, chances, truth)]
    if len(classes) == 2:
        plots.append(_calibration(classes[1], chances[:, 1], truth))
    if len(classes) <= MAX_CLASSES:
        counts = np.zeros((len(classes), len(classes)), np.int64)
        np.add.at(counts, (truth, target.codes(scores)[0].astype(np.int64)), 1)
        svg = svg_plots.confusion_table(classes, counts.tolist(), x="predicted", y="true")
        plots.append(
            SVGPlot("confusion", "Confusion", "Rows of each true class (down) by predicted class (across).", svg)
        )
    return plots


def _roc(classes: Sequence[str], chances: Array, truth: Array) -> SVGPlot:
    series, areas = {}, []
    for code in [1] if len(classes) == 2 else range(min(len(classes), len(COLORS))):
        positive = truth == code
        if positive.any() and not positive.all():
            order = np.argsort(-chances[:, code], kind="stable")
            ends = np.flatnonzero(np.diff(chances[order, code], append=-1.0))  # equal scores are one step
            hits, misses = np.cumsum(positive[order])[ends], np.cumsum(~positive[order])[ends]
            x, y = np.concatenate([[0], misses / misses[-1]]), np.concatenate([[0], hits / hits[-1]])
            area = f"{classes[code]} {float(np.trapezoid(y, x)):.3f}"
            areas.append(area)
            some = np.unique(np.linspace(0, len(x) - 1, MAX_POINTS).astype(int))
            series[area] = list(zip(x[some].tolist(), y[some].tolist(), strict=True))
    svg = svg_plots.lines(series, x="false positive rate", y="true positive rate", diagonal=True, unit=True)
    some_of = f"The first {len(COLORS)} of {len(classes)} classes. " if len(classes) > len(COLORS) else ""
    return SVGPlot("roc", "ROC", f"{some_of}Area under the curve: {', '.join(areas)}. The dashed line is chance.", svg)


def _calibration(name: str, chance: Array, truth: Array) -> SVGPlot:
    order = np.argsort(chance, kind="stable")
    parts = [part for part in np.array_split(order, BINS) if len(part)]
    points = [(float(chance[part].mean()), float((truth[part] == 1).mean())) for part in parts]
    svg = svg_plots.lines(
        {name: points}, x=f"predicted probability of {name}", y=f"share that is {name}", diagonal=True, unit=True
    )
    words = f"Rows in {len(parts)} groups of equal size; on the dashed line probabilities are what they say."
    return SVGPlot("calibration", "Calibration", words, svg)


def _regression(target: Target, scores: Array, table: pl.DataFrame) -> list[SVGPlot]:
    predicted, plots = target.predictions(scores), []
    truths = [target.columns[0]] * len(predicted.columns) if len(target.quantiles) > 1 else target.columns
    for truth, name, column in zip(truths, target.value_names, predicted.columns, strict=True):
        both = pl.DataFrame(
            {"true": table[truth].cast(pl.Float64), "got": predicted[column].cast(pl.Float64)}
        ).drop_nulls()
        error = (both["got"] - both["true"]).to_numpy()
        every = max(1, both.height // MAX_DOTS)
        dots = both.gather_every(every).rows()
        caption = f"One row in {every} is shown. " * (every > 1) + "On the dashed line the prediction is the truth."
        svg = svg_plots.lines({name: dots}, x=f"true {truth}", y="predicted", diagonal=True, dots=True)
        plots.append(SVGPlot(f"predicted-{name}", f"Predicted and true {name}", caption, svg))
        if len(error):
            counts, edges = np.histogram(error, bins=min(40, max(5, int(np.sqrt(len(error))))))
            svg = svg_plots.bars(edges.tolist(), counts.tolist(), x="predicted − true", y="rows")
            low, middle, high = (number(v) for v in np.quantile(error, [0.25, 0.5, 0.75]))
            words = f"Median {middle}; half of the rows lie between {low} and {high}."
            plots.append(SVGPlot(f"errors-{name}", f"Errors of {name}", words, svg))
    return plots

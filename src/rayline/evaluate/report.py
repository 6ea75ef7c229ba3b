"""The report of an evaluation: metrics with intervals, slices, plots, and one page for people."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl

from rayline.core import design, storage
from rayline.core.arguments import known_arguments
from rayline.core.data_types import Axes
from rayline.core.errors import ParameterError, counted
from rayline.core.evaluation import Estimate, Report
from rayline.core.files import replace_content
from rayline.evaluate import plots
from rayline.evaluate.charts import Chart, ChartMaker
from rayline.evaluate.results import EvaluationResults
from rayline.inference.pipeline import InferencePipeline
from rayline.inference.svg_plots import number

MAX_SHOWN = 200
"""Rows of a table on a page; all are in `slices`."""

_SUFFIXES = (".html", ".htm", ".md", ".markdown")


@known_arguments
class EvaluationReport(Report):
    """The report of `InferencePipeline.evaluate`.

    Attributes
    ----------
    metrics
        Each metric of all rows by name: an `Estimate` (value, low, high), NaN where it is not defined.
    slices
        A Polars table with one row for each slice and metric: `by` (the column), `slice` (its value), `n_rows`, `metric`,
        `value`, `low`, `high` (null where the metric is not defined), and `note`, which says why.
    n_rows
        The number of rows.
    notes
        What a reader must know: metrics that are not defined, and values of sketches with their bounds.

    Raises
    ------
    ParameterError
        When an argument has another type.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline import train
    >>> table = pl.DataFrame({"x": [0.0, 1.0, 2.0, 3.0] * 25, "late": ["no", "no", "yes", "yes"] * 25})
    >>> trainer = train.XGBoostTrainer({"max_depth": 2}, num_boost_round=3, seed=1)
    >>> result = train.fit(trainer, train_dataset=table, target_columns=["late"], verbose=False)
    >>> report = result.inference_pipeline.evaluate(table, metrics=["accuracy"], by=["x"])
    >>> report.metrics["accuracy"]
    Estimate(value=1.0, low=1.0, high=1.0)
    >>> report.slices.select("slice", "n_rows", "value").rows()[0]
    ('0.0', 25, 1.0)
    """

    def __init__(self, results: EvaluationResults, pipeline: InferencePipeline, name: str = "") -> None:
        self._results, self._name = results, name
        self._importance = pipeline.importance
        columns = pipeline.target.columns[:1] if pipeline.target.task.is_paired else pipeline.target.columns
        self._title = f"Evaluation of {', '.join(columns)}"
        self._framework, self.target = pipeline.model.framework, pipeline.target
        self._more: list[Chart] = []
        self.metrics = results.estimates(name)
        self.slices = results.slice_table(name)
        self.n_rows, self.confidence = results.overall.n_rows, results.confidence
        self.notes = results.notes(name)

    # -- plots ---------------------------------------------------------------------------------------------------------

    @property
    def charts(self) -> ChartMaker:
        """The contents of the plots, independent of drawing."""
        return ChartMaker(self._results, self.target, self._importance, self._name)

    def add_charts(self, charts: Sequence[Chart]) -> None:
        """Add charts of your own to the page and to `plot`, where their names are their kinds.

        Parameters
        ----------
        charts
            Drawn after the report's own, in this order.
        """
        self._more += charts

    def plot(self, kind: str, ax: Axes | None = None, *, by: str | None = None) -> Any:
        """Draw a plot with Matplotlib.

        Parameters
        ----------
        kind
            "roc", "precision_recall", "calibration", "confusion" or "lift" of a classifier, "residuals" or "prediction_error" of
            a regression, "importance" of the raw columns, or "slices": each metric of each slice with its interval.
        ax
            The axis to draw on; a new figure when omitted (`ax.figure.savefig(…)` writes it).
        by
            A column of the slices: one curve for each of its values; for "calibration", "confusion", "residuals" and
            "prediction_error" one panel for each of its 12 largest; for "slices" only its slices.

        Returns
        -------
        matplotlib.axes.Axes
            The axis; a list of them where there are several panels.

        Raises
        ------
        ParameterError
            On an unknown kind, or one that this evaluation has not.
        MissingExtraError
            Without Matplotlib.
        """
        extra = [chart for chart in self._more if chart.name == kind]
        return plots.draw(extra or self.charts.make(kind, by), ax)

    def _all_charts(self) -> list[Chart]:
        charts: list[Chart] = []
        for kind in self.charts.kinds():
            if kind != "importance" or self._importance():
                charts += self.charts.make(kind)
        return [*charts, *self._more]

    # -- as text and page ----------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON: NaN is None."""
        return {
            "target": list(self.target.columns),
            "task": str(self.target.task),
            "n_rows": self.n_rows,
            "confidence": self.confidence,
            "metrics": {
                name: {key: _plain(value) for key, value in estimate._asdict().items()}
                for name, estimate in self.metrics.items()
            },
            "slices": self.slices.to_dicts(),
            "notes": list(self.notes),
        }

    def to_markdown(self) -> str:
        """Return metrics, slices and remarks as Markdown."""
        lines = [f"# {self._title}", "", self._about, ""]
        lines += _markdown_table(["metric", "value", self._interval], self._metric_rows)
        for by in self._by:
            lines += ["", f"## By {by}", "", *_markdown_table(self._slice_head(by), self._slice_rows(by))]
        if self.notes:
            lines += ["", "## Notes", "", *(f"- {note}" for note in self.notes)]
        return "\n".join(lines) + "\n"

    def to_html(self) -> str:
        """Return the report as one page, which loads nothing and follows the reader's light or dark setting."""
        body = [f'<h1>{html.escape(self._title)}</h1><p class="sub">{html.escape(self._about)}</p>', "<h2>Metrics</h2>"]
        body.append(design.html_table(["metric", "value", self._interval], self._metric_rows, numbers=[1, 2]))
        body += [f"<p>{html.escape(note)}</p>" for note in self.notes]
        charts = self._all_charts()
        body += [_figures("Plots", [c for c in charts if not c.name.startswith("slices-")])]
        for by in self._by:
            rows = self._slice_rows(by)
            body.append(f"<h2>By {html.escape(by)}</h2>")
            body.append(
                design.html_table(self._slice_head(by), rows[:MAX_SHOWN], numbers=range(1, len(self.metrics) + 2))
            )
            if len(rows) > MAX_SHOWN:
                body.append(f"<p>The first {MAX_SHOWN} of {len(rows)} slices; all are in report.slices.</p>")
            body.append(_figures("", [c for c in charts if c.name.startswith(f"slices-{by}-")]))
        return design.page(self._title, "".join(body))

    def save(self, path: str | Path) -> None:
        """Write the report as one HTML page (".html"), or as Markdown with its plots beside it (".md").

        Parameters
        ----------
        path
            The file; what was there is replaced only when the new one is whole.

        Raises
        ------
        ParameterError
            When the suffix is another.
        ArtifactError
            When the disk refuses.
        """
        plain = storage.plain_path(path)
        suffix = plain.suffix.lower()
        if suffix not in _SUFFIXES:
            raise ParameterError(
                f"report.save: {str(path)!r} is not a supported file type.",
                f"Expected one of {[*_SUFFIXES]}.",
                "change the suffix.",
            )
        if suffix in (".html", ".htm"):
            replace_content(path, self.to_html())
            return
        text = self.to_markdown()
        for chart in self._all_charts():
            name = "".join(c if c.isalnum() and c.isascii() else "-" for c in chart.name)
            file = f"{plain.stem}-{name}.svg"
            replace_content(storage.sibling(path, file), chart.svg().svg)
            text += f"\n![{chart.title}]({quote(file)})\n\n{chart.title}. {chart.caption}\n"
        replace_content(path, text)

    @property
    def _about(self) -> str:
        task = f"{self.target.task} classification" if self.target.task.is_classification else str(self.target.task)
        return f"{task} · {self._framework} · {counted(self.n_rows, 'row')}"

    @property
    def _interval(self) -> str:
        return f"{self.confidence:.0%} interval"

    @property
    def _metric_rows(self) -> list[list[str]]:
        return [[f"{name}{self.target.of_class(name)}", *words(estimate)] for name, estimate in self.metrics.items()]

    @property
    def _by(self) -> list[str]:
        return self.slices["by"].unique(maintain_order=True).to_list()

    def _slice_head(self, by: str) -> list[str]:
        return [by, "rows", *self.metrics]

    def _slice_rows(self, by: str) -> list[list[str]]:
        table = []
        for (value,), rows in self.slices.filter(pl.col("by") == by).group_by("slice", maintain_order=True):
            pairs = [words(_estimate(row)) for row in rows.to_dicts()]
            cells = [f"{value} ({interval.replace(' to ', '–')})" if interval else value for value, interval in pairs]
            table.append([str(value), f"{rows['n_rows'][0]:,}", *cells])
        return table

    def __repr__(self) -> str:
        width = max(map(len, (row[0] for row in self._metric_rows)), default=0)
        lines = [f"{self._title}  {self._about}"]
        lines += [f"  {name.ljust(width)}  {value}  {interval}".rstrip() for name, value, interval in self._metric_rows]
        lines += [f"  {note}" for note in self.notes]
        if self._results.slices:
            lines.append(f"  {counted(len(self._results.slices), 'slice')} by {', '.join(self._by)}: see report.slices")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        table = design.html_table(["metric", "value", self._interval], self._metric_rows, numbers=[1, 2])
        slices = "".join(
            design.html_table(self._slice_head(by), self._slice_rows(by)[:20], numbers=range(1, len(self.metrics) + 2))
            for by in self._by
        )
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        return f"<p><b>{html.escape(self._title)}</b> {html.escape(self._about)}</p>{table}{notes}{slices}"


def words(estimate: Estimate) -> list[str]:
    """Return a value and its interval as text, with as many digits as the interval leaves certain."""
    if not estimate.is_defined:
        return ["not defined", ""]
    digits = 4
    spread = estimate.high - estimate.low
    if math.isfinite(spread) and spread > 0 and estimate.value:
        digits = min(8, max(3, math.ceil(math.log10(abs(estimate.value) / spread)) + 2))
    interval = (
        "" if not math.isfinite(estimate.low) else f"{number(estimate.low, digits)} to {number(estimate.high, digits)}"
    )
    return [number(estimate.value, digits), interval]


def _estimate(row: dict[str, Any]) -> Estimate:
    return Estimate(*(float("nan") if row[key] is None else row[key] for key in ("value", "low", "high")))


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _figures(title: str, charts: Sequence[Chart]) -> str:
    if not charts:
        return ""
    plots = [chart.svg() for chart in charts]
    figures = (
        f"<figure><b>{html.escape(p.title)}</b>{p.svg}<figcaption>{html.escape(p.caption)}</figcaption></figure>"
        for p in plots
    )
    return f'{f"<h2>{title}</h2>" if title else ""}<div class="plots">{"".join(figures)}</div>'


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    return [line(head), f"|{'---|' * len(head)}", *map(line, rows)]

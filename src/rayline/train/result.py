"""The result of a fit."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

import polars as pl

from rayline.core.arguments import column_names, known_arguments
from rayline.core.data_types import Axes, Data
from rayline.core.errors import ParameterError, at, counted
from rayline.core.evaluation import EvaluationKeywords, Report
from rayline.evaluate import metrics as named_metrics
from rayline.evaluate.axes import panels
from rayline.inference.model import Model
from rayline.inference.pipeline import InferencePipeline, Preprocessor
from rayline.inference.svg_plots import number
from rayline.train import plots, progress
from rayline.train.base_trainer import BaseTrainer


@known_arguments
@dataclass(frozen=True)
class Result:
    """The result of `train.fit`.

    Attributes
    ----------
    metrics
        The framework's metrics at the iteration that predictions use, and the requested metrics, each named after its
        table: `{"train-logloss": 0.31, "test-logloss": 0.35, "test-roc_auc": 0.84}`. With target stages, only the metrics
        that Rayline computes on the scale of the labels; the framework's own, on the transformed target, are in `history`.
    history
        One row for each iteration: `iteration` (counted from 0) and the framework's metrics.
    model
        The trained model; `model.native` is the framework's own object.
    inference_pipeline
        The fitted preprocessor and the model: raw rows in, decoded predictions out.
    trainer
        The trainer.
    seconds
        The seconds of each step: "preprocessor", "training", "metrics", and "total".

    Examples
    --------
    >>> import polars as pl
    >>> from rayline import train
    >>> table = pl.DataFrame({"x": [0.0, 1.0, 2.0, 3.0] * 25, "late": ["no", "no", "yes", "yes"] * 25})
    >>> trainer = train.XGBoostTrainer({"max_depth": 2}, num_boost_round=3, seed=1)
    >>> result = train.fit(trainer, train_dataset=table, target_columns=["late"], verbose=False)
    >>> result.history.height, sorted(result.metrics)
    (3, ['train-logloss'])
    >>> result.inference_pipeline.predict([{"x": 0.0}])
    [{'prediction': 'no'}]
    """

    metrics: dict[str, float]
    history: pl.DataFrame
    model: Model
    inference_pipeline: InferencePipeline
    trainer: BaseTrainer
    seconds: dict[str, float] = field(default_factory=dict)
    _test: Any = field(default=None, repr=False, compare=False)  # the test set and its weights

    @property
    def preprocessor(self) -> Preprocessor:
        """The fitted preprocessor. Raises ParameterError for a framework that generates its own data."""
        preprocessor = self.inference_pipeline.preprocessor
        if preprocessor is None:
            raise ParameterError(
                f"Result.preprocessor: {self.trainer.framework} was trained without one.",
                "Expected a fit on data.",
                "use inference_pipeline, which takes observations unchanged.",
            )
        return preprocessor

    @property
    def fitted_model(self) -> Any:
        """The framework's own object."""
        return self.model.native

    def metric(self, name: str) -> float:
        """Return a metric by any of its names, on the test set if there is one: `result.metric("auc")`.

        Parameters
        ----------
        name
            Rayline's name, that of a framework, or one with its table ("train-auc").

        Returns
        -------
        float
            NaN where the metric is not defined for these rows.

        Raises
        ------
        ParameterError
            When it was not computed.
        """
        resolved = named_metrics.resolve_name(name, list(self.metrics))
        if resolved is None:
            raise ParameterError.unknown([name], self.metrics, where="Result.metric")
        return self.metrics[resolved]

    def evaluate(self, data: Data | None = None, **options: Unpack[EvaluationKeywords]) -> Report:
        """Measure the pipeline on rows with labels (see `InferencePipeline.evaluate`).

        Parameters
        ----------
        data
            A table or a Dataset, in which no label may be null; the test set of the fit when omitted.
        options
            Those of `InferencePipeline.evaluate`: metrics, by, sample_weight, confidence, ….

        Returns
        -------
        Report
            As `InferencePipeline.evaluate` returns it; a test set is weighted as in the fit.

        Raises
        ------
        ParameterError
            Without rows: the fit had no test set.
        """
        if data is None and self._test is None:
            raise ParameterError(
                "Result.evaluate: the fit had no test set.",
                "Expected rows with labels that the model was not trained on.",
                "pass them as data=…, or fit with test_dataset=….",
            )
        if data is None:
            data, weight = self._test
            options.setdefault("sample_weight", weight)
        return self.inference_pipeline.evaluate(data, **options)

    def save_report(
        self, path: str | Path = "report.html", data: Data | None = None, **options: Unpack[EvaluationKeywords]
    ) -> Report:
        """Evaluate the pipeline and write the report as one file, which loads nothing.

        Parameters
        ----------
        path
            Where to write it: ".html" for a page, ".md" for Markdown with its plots beside it.
        data, options
            As in `evaluate`, nulls too.

        Returns
        -------
        Report
            The report that was written.

        Raises
        ------
        ParameterError
            Without rows, and on a path with another suffix.
        """
        report = self.evaluate(data, **options)
        report.save(path)
        return report

    @at("Result.plot")
    def plot(self, metrics: str | Sequence[str] | None = None, ax: Axes | None = None) -> Any:
        """Draw the history as curves with Matplotlib, each metric on an axis of its own.

        Parameters
        ----------
        metrics
            A column of the history ("test-logloss"), a metric on all its rows ("logloss"), or a list of these; all of them
            when omitted.
        ax
            The axis to draw on, which takes one metric; a new figure when omitted.

        Returns
        -------
        matplotlib.axes.Axes
            The axis; a list of them when several metrics are drawn.

        Raises
        ------
        ParameterError
            On a metric that is not in the history, on several metrics for one `ax`, and when the framework reports no
            iterations.
        MissingExtraError
            Without Matplotlib.
        """
        present = plots.by_metric([name for name in self.history.columns if name != "iteration"])
        if not present:
            raise ParameterError(
                f"Result.plot: {self.trainer.framework} reports no metrics of its iterations.",
                "Expected a framework that trains in iterations, such as XGBoost, LightGBM, CatBoost or PyTorch.",
                "see result.metrics, or rayline.model_card(pipeline, data=…) for plots of predictions.",
            )
        wanted = list(column_names("metrics", metrics) or present)
        every = [name for columns in present.values() for name in columns]
        if unknown := [name for name in wanted if name not in present and name not in every]:
            raise ParameterError.unknown(unknown, [*present, *every], "metric")
        shown = plots.by_metric([n for name in wanted for n in present.get(name, [name])])
        axes = panels(len(shown), ax)
        for axis, (metric, names) in zip(axes, shown.items(), strict=True):
            frame = {name: self.history.select("iteration", name).drop_nulls().rows() for name in dict.fromkeys(names)}
            plots.curves(axis, metric, {name: rows for name, rows in frame.items() if rows})
        return axes[0] if len(axes) == 1 else axes

    def __repr__(self) -> str:
        spent = ", ".join(f"{name} {progress.seconds(s)}" for name, s in self.seconds.items())
        lines = [f"Result of {self.trainer!r}", f"  {self._about}", *self._metric_lines, f"  time: {spent}"]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head, *rows = self._metric_table
        style = "text-align:left;padding:2px 12px 2px 0"
        body = "".join(f"<tr>{''.join(f'<td style={style!r}>{html.escape(c)}</td>' for c in row)}</tr>" for row in rows)
        top = "".join(f"<th style={style!r}>{html.escape(c)}</th>" for c in head)
        table = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>" if rows else ""
        return f"<p><b>Result</b> {html.escape(self._about)}</p><p><code>{html.escape(repr(self.trainer))}</code></p>{table}"

    @property
    def _about(self) -> str:
        target, iterations = self.model.target, self.history.height
        after = f", after {counted(iterations, 'iteration')}" if iterations else ""
        task = f"{target.task} classification" if target.task.is_classification else str(target.task)
        return f"{task} of {', '.join(target.columns)} from {counted(len(self.model.schema), 'feature')}{after}"

    @property
    def _metric_table(self) -> list[list[str]]:
        """The metrics with a column for each table: first those that Rayline computes, then the framework's own."""
        rows: dict[tuple[bool, str], dict[str, float]] = {}
        for name, value in self.metrics.items():
            table = next((t for t in ("train", "test") if name.startswith(f"{t}-")), "value")
            plain = name.removeprefix(f"{table}-")
            rows.setdefault((name in self.history.columns, plain), {})[table] = value
        tables = [t for t in ("value", "train", "test") if any(t in row for row in rows.values())]
        lines = [["metric", *tables, "computed by"]]
        for (computed_by, name), values in sorted(rows.items(), key=lambda row: row[0][0]):
            cells = [number(values[t], 5) if t in values else "" for t in tables]
            lines.append(
                [
                    f"{name}{self.model.target.of_class(name)}",
                    *cells,
                    self.trainer.framework if computed_by else "rayline",
                ]
            )
        return lines

    @property
    def _metric_lines(self) -> list[str]:
        table = self._metric_table
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        return [
            "  "
            + "  ".join(
                [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:-1], widths[1:-1], strict=True)), row[-1]]
            )
            for row in (table if len(table) > 1 else [])
        ]

"""`rl.compare`: several pipelines on the same rows, with paired intervals of their differences."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from numbers import Real
from typing import Any

import numpy as np
import polars as pl

from rayline.core import design
from rayline.core.arguments import known_arguments
from rayline.core.data_types import Axes, Data, Metrics, SliceColumns
from rayline.core.errors import NotBetterError, ParameterError, at
from rayline.core.evaluation import Confidence, Estimate
from rayline.evaluate import class_order, plots
from rayline.evaluate.bootstrap import REPLICATES, estimate
from rayline.evaluate.charts import Chart
from rayline.evaluate.evaluation import measured
from rayline.evaluate.report import EvaluationReport, words
from rayline.evaluate.results import EvaluationResults
from rayline.inference.pipeline import InferencePipeline, ModelLike, as_pipeline

WHERE = "compare"


@known_arguments
class PipelineComparison:
    """The outcome of `rl.compare`.

    Every bootstrap replicate counts the same rows for all pipelines, so what they have in common cancels: the interval of a
    difference is narrower than those of the two values suggest.

    Attributes
    ----------
    reports
        The report of each pipeline, by name.
    baseline
        The name of the first pipeline, which the others are compared with.
    table
        One row for each pipeline and metric: `pipeline`, `metric`, `value`, `low`, `high`; and what it has more than the
        baseline, `difference`, `difference_low`, `difference_high` (null for the baseline itself).

    Examples
    --------
    >>> comparison = rl.compare({"old": old_pipeline, "new": pipeline}, testset)  # doctest: +SKIP
    >>> comparison.difference("roc_auc")  # doctest: +SKIP
    Estimate(value=0.0113, low=0.0071, high=0.0152)
    """

    def __init__(self, results: EvaluationResults, pipelines: Mapping[str, InferencePipeline]) -> None:
        self._results = results
        self.reports = {name: EvaluationReport(results, pipeline, name) for name, pipeline in pipelines.items()}
        self.baseline = next(iter(pipelines))

    def difference(self, metric: str, name: str | None = None) -> Estimate:
        """Return what a pipeline has more of a metric than the baseline, with the paired interval.

        Parameters
        ----------
        metric
            The metric, by the name that it was asked for with.
        name
            The pipeline; the last one when omitted.

        Raises
        ------
        ParameterError
            On a metric or a name that is not in the comparison.
        """
        if not isinstance(metric, str) or metric not in self._results.plan.metrics:
            raise ParameterError.unknown([metric], self._results.plan.metrics, "metric", where=WHERE)
        name = list(self.reports)[-1] if name is None else name
        if not isinstance(name, str) or name not in self.reports:
            raise ParameterError.unknown([name], self.reports, "pipeline", where=WHERE)
        old, new = (self._results.replicates(self._results.overall, metric, n).values for n in (self.baseline, name))
        return estimate(new - old, self._results.confidence)

    def assert_better(self, metric: str, by: float = 0.0, name: str | None = None) -> None:
        """Raise unless a pipeline is better than the baseline by at least so much, by the whole interval: for CI.

        Parameters
        ----------
        metric
            The metric. Its direction decides what better means.
        by
            By how much, at least 0, in the metric's own unit.
        name
            The pipeline; the last one when omitted.

        Raises
        ------
        NotBetterError
            (an AssertionError) When the paired interval of the improvement does not lie at or above `by`.
        ParameterError
            On a metric that is not in the comparison or has no direction.
        """
        name = list(self.reports)[-1] if name is None else name
        difference = self.difference(metric, name)
        mode = self._results.plan.metrics[metric].mode
        if mode is None:
            raise ParameterError(
                f"assert_better: the direction of {metric!r} is unknown.",
                "Expected a metric with a direction.",
                "declare it: rayline.evaluate.metric(function, mode='min').",
            )
        if not 0 <= _real(by) < math.inf:
            raise ParameterError.value("by", "a number of at least 0", by, where="assert_better")
        self._check_interval(metric, difference)
        low, high = (difference.low, difference.high) if mode == "max" else (-difference.high, -difference.low)
        value = difference.value if mode == "max" else -difference.value
        if not (low >= by and (low > 0 or by > 0)):
            old, new = (self.reports[n].metrics[metric].value for n in (self.baseline, name))
            raise NotBetterError(
                f"assert_better: {name!r} is not better than {self.baseline!r} in {metric} by {by:g}: {new:.6g} against {old:.6g}.",
                f"Expected an improvement of at least {by:g} with {self._results.confidence:.0%} confidence; got {value:.3g}, "
                f"between {low:.3g} and {high:.3g}.",
                "evaluate more rows for a narrower interval, or lower by=.",
            )

    def _check_interval(self, metric: str, difference: Estimate) -> None:
        """Raise NotBetterError where nothing can be said about a difference, with the reason."""
        if math.isfinite(difference.low):
            return
        note = "".join(note for note in self.reports[self.baseline].notes if note.startswith(f"{metric} "))
        no_replicates = len(self._results.multiplicity) < 2
        raise NotBetterError(
            f"assert_better: the difference in {metric} has no interval.",
            f"Expected one to judge by; got a difference of {difference.value:.3g}{f': {note}' if note else '.'}",
            "compare with replicates, as the default 500." if no_replicates else "compare on more rows.",
        )

    @cached_property
    def table(self) -> pl.DataFrame:
        """See the attributes."""
        rows = []
        for name, report in self.reports.items():
            for metric, interval in report.metrics.items():
                more = (None,) * 3 if name == self.baseline else tuple(map(_number, self.difference(metric, name)))
                rows.append((name, metric, *map(_number, interval), *more))
        columns = ["value", "low", "high", "difference", "difference_low", "difference_high"]
        schema = pl.Schema({"pipeline": pl.String(), "metric": pl.String(), **dict.fromkeys(columns, pl.Float64())})
        return pl.DataFrame(rows, schema=schema, orient="row")

    def plot(self, metric: str | None = None, ax: Axes | None = None) -> Any:
        """Draw the differences to the baseline with their paired intervals, one panel for each metric.

        Raises MissingExtraError without Matplotlib.
        """
        chosen = list(self._results.plan.metrics) if metric is None else [metric]
        charts = []
        for one in chosen:
            differences = {name: self.difference(one, name) for name in list(self.reports)[1:]}
            charts.append(
                Chart(
                    f"difference-{one}", f"{one}: difference to {self.baseline}", "", "intervals", f"difference in {one}",
                    rows=[(name, *estimate) for name, estimate in differences.items()], level=0.0,
                )
            )  # fmt: skip
        return plots.draw(charts, ax)

    def to_markdown(self) -> str:
        """Return the table as Markdown."""
        head, rows = self._shown
        lines = [head, ["---"] * len(head), *rows]
        return (
            "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines) + "\n"
        )

    @property
    def _shown(self) -> tuple[list[str], list[list[str]]]:
        interval = f"{self._results.confidence:.0%} interval"
        rows = []
        for row in self.table.to_dicts():
            formatted = words(Estimate(*(_float(row[key]) for key in ("value", "low", "high"))))
            more = ["", ""]
            if row["difference"] is not None:
                more = words(Estimate(*(_float(row[f"difference{key}"]) for key in ("", "_low", "_high"))))
            rows.append([row["pipeline"], row["metric"], *formatted, *more])
        return ["pipeline", "metric", "value", interval, f"more than {self.baseline}", "paired interval"], rows

    def __repr__(self) -> str:
        head, rows = self._shown
        widths = [max(len(line[i]) for line in [head, *rows]) for i in range(len(head))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in [head, *rows]
        ]
        n_rows = self._results.overall.n_rows
        return f"Comparison of {len(self.reports)} pipelines on {n_rows:,} rows\n  " + "\n  ".join(lines)

    def _repr_html_(self) -> str:
        head, rows = self._shown
        title = html.escape(f"Comparison of {len(self.reports)} pipelines on {self._results.overall.n_rows:,} rows")
        return f"<p><b>{title}</b></p>{design.html_table(head, rows, numbers=[2, 3, 4, 5])}"


@known_arguments
@at(WHERE)
def compare(
    pipelines: Mapping[str, ModelLike],
    data: Data,
    *,
    metrics: Metrics | None = None,
    by: SliceColumns | None = None,
    sample_weight: str | None = None,
    confidence: Confidence = 0.95,
    replicates: int = REPLICATES,
    seed: int = 0,
    target_columns: Mapping[str, str] | Sequence[str] | str | None = None,
) -> PipelineComparison:
    """Measure several pipelines on the same rows, in one scan, with paired intervals of their differences.

    Parameters
    ----------
    pipelines
        Inference pipelines (or models) of the same target, by name. The first is the baseline.
    data, metrics, by, sample_weight, confidence, replicates, seed, target_columns
        As in `InferencePipeline.evaluate`, which refuses labels that are null.

    Returns
    -------
    PipelineComparison
        With `table`, `difference`, `assert_better` and the `reports`.

    Raises
    ------
    ParameterError
        When there are fewer than two pipelines, or they predict different targets or classes. The same classes in another order
        are put into that of the first pipeline: its positive class counts for all.
    SchemaError, DataError
        As `InferencePipeline.evaluate`.

    Examples
    --------
    >>> import polars as pl
    >>> import rayline as rl
    >>> from rayline import train
    >>> table = pl.DataFrame({"x": [0.0, 1.0, 2.0, 3.0] * 25, "late": ["no", "no", "yes", "yes"] * 25})
    >>> def trained(rounds):
    ...     trainer = train.XGBoostTrainer({"max_depth": 2, "eta": 0.1}, num_boost_round=rounds, seed=1)
    ...     return train.fit(trainer, train_dataset=table, target_columns=["late"], verbose=False).inference_pipeline
    >>> comparison = rl.compare({"old": trained(2), "new": trained(20)}, table, metrics=["log_loss"])
    >>> comparison.assert_better("log_loss", by=0.2)
    """
    if not isinstance(pipelines, Mapping) or len(pipelines) < 2 or not all(isinstance(name, str) for name in pipelines):
        raise ParameterError.value("pipelines", "a dict with two pipelines or more, by name", pipelines)
    as_pipelines = {name: as_pipeline(pipeline_or_result) for name, pipeline_or_result in pipelines.items()}
    first = next(iter(as_pipelines.values())).target
    for name, pipeline in as_pipelines.items():
        target = pipeline.target
        if (target.columns, target.task) != (first.columns, first.task) or not class_order.is_same_but_order(
            target, first
        ):
            raise ParameterError.here(
                f"{name!r} predicts another target than {next(iter(as_pipelines))!r}.",
                f"Expected {first.task} of {list(first.columns)} with the classes {first.classes}; "
                f"got {target.task} of {list(target.columns)} with {target.classes}.",
                "compare pipelines of one target; pos_label of the training sets the order of two classes.",
            )
    statistics, plan, checked = measured(
        as_pipelines, data, metrics=metrics, by=by, sample_weight=sample_weight, confidence=confidence, replicates=replicates,
        seed=seed, target_columns=target_columns,
    )  # fmt: skip
    return PipelineComparison(
        EvaluationResults.of(statistics, plan, replicates, seed, checked.confidence), as_pipelines
    )


def _real(value: Any) -> float:
    """Return a number of Python's or NumPy's; NaN for anything else."""
    return float(value) if isinstance(value, Real) else math.nan


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _float(value: float | None) -> float:
    return float("nan") if value is None else value

"""Plots of a tuning run, drawn with Matplotlib on request."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Literal, NamedTuple, TypeAlias

from rayline.core.data_types import Axes
from rayline.core.design import COLORS, QUIET
from rayline.core.errors import ParameterError, at
from rayline.evaluate import metrics
from rayline.evaluate.axes import checked, new_figure, one_axis, open_frame, panels
from rayline.inference.svg_plots import number
from rayline.train import plots as style
from rayline.tune import space, trial_record
from rayline.tune.importance import importance
from rayline.tune.trial_record import Trial

PlotKind: TypeAlias = Literal["history", "slices", "parallel", "importance", "learning"]
"""The plots of an analysis; `Analysis.plot` describes each."""

DOT, BEST = COLORS[:2]
"""The colours of trials, and of the best one."""

WIDE = 10.0
"""Positive numbers are drawn on a logarithmic axis when the ratio of the largest to the smallest exceeds this."""


@at("Analysis.plot")
def plot(kind: PlotKind, trials: Sequence[Trial], *, metric: str, mode: str, ax: Axes | None = None) -> Any:
    """Draw a plot of these trials (see `Analysis.plot`)."""
    scored = [trial for trial in trials if math.isfinite(trial.score) and not trial.error]
    if kind == "slices":
        return _slices(scored, metric, mode, ax)
    if kind == "learning":
        return _learning(trial_record.best(trials, mode), metric, ax)
    shares = importance(trials) if kind == "importance" else {}
    height = 1.2 + 0.5 * len(shares) if shares else 4.0
    ax = one_axis(ax, 7, height)
    if kind == "history":
        _history(scored, metric, mode, ax)
    elif kind == "parallel":
        _parallel(scored, metric, mode, ax)
    else:
        _importance(shares, metric, ax)
    return ax


def _importance(shares: Mapping[str, float], metric: str, ax: Any) -> None:
    drawn = ax.barh([_label(name) for name in shares][::-1], list(shares.values())[::-1], height=0.6, color=DOT)
    ax.bar_label(drawn, labels=[f"{share:.0%}" for share in list(shares.values())[::-1]], padding=4)
    ax.set_xlim(0, 1)
    ax.set_ylim(-0.6, max(len(shares), 1) - 0.4)
    ax.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    ax.set_xlabel(f"share of the explained differences in {metric}")
    open_frame(ax)


def _history(trials: Sequence[Trial], metric: str, mode: str, ax: Any) -> None:
    full = [t for t in trials if t.is_eligible]
    errors = [0.0 if math.isnan(t.standard_error) else t.standard_error for t in full]
    numbers, scores = [t.number for t in full], [t.score for t in full]
    line = {"fmt": "o", "markersize": 4, "elinewidth": 0.7, "color": DOT, "ecolor": QUIET}
    ax.errorbar(numbers, scores, yerr=errors, label="mean of all folds ± standard error", **line)
    short = [t for t in trials if not t.is_eligible]
    if short:
        ax.plot(
            [t.number for t in short],
            [t.score for t in short],
            "o",
            **HOLLOW,
            label="stopped early: mean of the folds that it ran",
        )
    if full:
        best = list(accumulate(scores, max if mode == "max" else min))
        end = max(t.number for t in trials)
        ax.step([*numbers, end], [*best, best[-1]], where="post", color=BEST, linewidth=1.5, label="best so far")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_xlabel("trial")
    ax.set_ylabel(metric)
    if trials:
        above = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2, "ncols": 3, "columnspacing": 1.0}
        ax.legend(frameon=False, fontsize="x-small", handletextpad=0.3, **above)
    open_frame(ax)


HOLLOW = {"markersize": 4, "markerfacecolor": "none", "markeredgecolor": QUIET}


def _slices(trials: Sequence[Trial], metric: str, mode: str, ax: Any) -> Any:
    columns = _varied(trials)
    n = max(len(columns), 1)
    if checked(ax) is None:
        axes = new_figure(3.0 * n, 3.2).subplots(1, n, sharey=True, squeeze=False)[0]
    elif n == 1:
        axes = [ax]
    else:
        raise ParameterError.value("ax", f"None: this plot has {n} panels", type(ax))
    best = trial_record.best(trials, mode)
    for ax, (name, values) in zip(axes, columns.items(), strict=False):
        axis = _Axis.of(values)
        for trial, value in zip(trials, values, strict=True):
            at = value if axis.categories is None else axis.categories.index(str(value))
            look = {"color": DOT, "markersize": 4} if trial.is_eligible else HOLLOW
            ax.plot(at, trial.score, "o", **({"color": BEST, "markersize": 7} if trial is best else look))
        if axis.categories is not None:
            ax.set_xticks(range(len(axis.categories)), axis.categories)
            ax.margins(x=0.3)
        elif axis.is_log:
            ax.set_xscale("log")
        ax.set_xlabel(_label(name))
        open_frame(ax)
    axes[0].set_ylabel(metric)
    return axes


def _parallel(trials: Sequence[Trial], metric: str, mode: str, ax: Any) -> None:
    trials = [t for t in trials if t.is_eligible]  # scores of fewer folds are not comparable
    columns = {**_varied(trials), metric: [t.score for t in trials]}
    axes = {name: _Axis.of(values) for name, values in columns.items()}
    heights = {name: [axes[name].height(value) for value in values] for name, values in columns.items()}
    quality = heights[metric] if mode == "max" else [1.0 - h for h in heights[metric]]
    order = sorted(range(len(trials)), key=lambda i: quality[i])  # the best on top
    for i in order:
        best = i == order[-1]
        look = {"color": BEST, "linewidth": 2.2} if best else {"color": DOT, "alpha": 0.1 + 0.7 * quality[i] ** 3}
        ax.plot(range(len(columns)), [heights[name][i] for name in columns], **look)
    for place, axis in enumerate(axes.values()):
        ax.axvline(place, color=QUIET, linewidth=0.8, zorder=0)
        for height, text in axis.marks():
            ax.annotate(text, (place, height), xytext=(4, 0), textcoords="offset points", fontsize=8, va="center")
    ax.set_xticks(range(len(columns)), [_label(name) for name in columns])
    ax.set_yticks([])
    ax.margins(x=0.08)
    for side in ("top", "left", "right", "bottom"):
        ax.spines[side].set_visible(False)


def _learning(trial: Trial | None, metric: str, ax: Any) -> Any:
    """Draw the metrics that the framework reported for each fold and their mean over the folds, each metric on its own axis.
    With a given axis, only the tuned metric (or the first one) is drawn."""
    histories = [history for history in (trial.histories if trial is not None else {}).values() if history]
    names = list(dict.fromkeys(name for history in histories for row in history for name in row if name != "iteration"))
    shown = style.by_metric(names)
    if not shown:
        raise ParameterError(
            "Analysis.plot: there are no metrics of iterations to draw.",
            "Expected a framework that reports its iterations, such as XGBoost, LightGBM, CatBoost or PyTorch.",
            'choose another kind, as plot("history").',
        )
    if ax is not None:
        tuned = metrics.resolve_name(metric, names)
        one = next((m for m, metric_names in shown.items() if tuned in metric_names), next(iter(shown)))
        shown = {one: shown[one]}
    axes = panels(len(shown), ax)
    for axis, (one, metric_names) in zip(axes, shown.items(), strict=True):
        folds = {
            name: [_points(history, name) for history in histories if any(name in row for row in history)]
            for name in metric_names
        }
        style.curves(axis, one, {name: _means(lines) for name, lines in folds.items()}, folds)
        axis.set_title("mean over the folds, and each of them", fontsize="small")
    return axes[0] if len(axes) == 1 else axes


def _points(history: Sequence[Mapping[str, float]], name: str) -> list[tuple[float, float]]:
    return [(row["iteration"], row[name]) for row in history if name in row]


def _means(lines: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    scores_by_value: dict[float, list[float]] = {}
    for line in lines:
        for iteration, value in line:
            scores_by_value.setdefault(iteration, []).append(value)
    max_values = max(
        map(len, scores_by_value.values())
    )  # after that some folds have ended, and the mean would cover only the remaining ones
    return [
        (iteration, trial_record.mean(values))
        for iteration, values in sorted(scores_by_value.items())
        if len(values) == max_values
    ]


class _Axis(NamedTuple):
    """The scale of a parameter: linear or logarithmic for numbers, one position per value otherwise."""

    low: float
    high: float
    is_log: bool
    categories: list[str] | None

    @classmethod
    def of(cls, values: Sequence[Any]) -> _Axis:
        if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
            names = sorted({str(v) for v in values})
            return cls(0.0, len(names) - 1.0, False, names)
        low, high = min(values, default=0.0), max(values, default=0.0)
        return cls(low, high, low > 0 and high / low > WIDE, None)

    def height(self, value: Any) -> float:
        """Return the position of a value, between 0 and 1."""
        if self.categories is not None:
            value = float(self.categories.index(str(value)))
        low, high = self.low, self.high
        if self.is_log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return 0.5 if high == low else (value - low) / (high - low)

    def marks(self) -> list[tuple[float, str]]:
        """The tick labels: both ends, or all categories."""
        if self.categories is not None:
            return [(self.height(name), name) for name in self.categories]
        return [(self.height(value), number(value)) for value in dict.fromkeys((self.low, self.high))]


def _varied(trials: Sequence[Trial]) -> dict[str, list[Any]]:
    flat = [space.flatten(trial.config) for trial in trials]
    names = list(dict.fromkeys(name for config in flat for name in config))
    columns = {name: [space.cell(config.get(name)) for config in flat] for name in names}
    return {name: values for name, values in columns.items() if len(set(values)) > 1}


def _label(name: str) -> str:
    """Return the displayed name of a parameter; parameters of the preprocessor take several lines."""
    return name.removeprefix(f"{space.STAGES}/").replace("/", "\n")

"""Pictures of a tuning run, drawn with Matplotlib when they are asked for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from rayline.core.errors import MissingExtraError, ParameterError
from rayline.tune import record, space
from rayline.tune.importance import importance
from rayline.tune.record import Trial

KINDS = ("history", "slices", "parallel", "importance", "learning")

DOT, BEST, QUIET = "#1f5fa8", "#d9541e", "#b8c4d4"
"""The colours of trials, of the best one, and of what stays behind."""

OTHERS = ("#2c8a5b", "#8a5bb0", "#a8791d")
"""Further ones, to tell curves apart."""

WIDE = 10.0
"""Positive numbers whose largest is so many times the smallest are drawn by their order of magnitude."""


def plot(kind: str, trials: Sequence[Trial], *, metric: str, mode: str, ax: Any = None) -> Any:
    """A picture of these trials (see `Analysis.plot`)."""
    if kind not in KINDS:
        raise ParameterError.unknown("Analysis.plot: kind", [kind], KINDS)
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError.of("Analysis.plot", "matplotlib", "plot") from error
    scored = [trial for trial in trials if math.isfinite(trial.score) and not trial.error]
    if kind == "slices":
        return _slices(scored, metric, mode, Figure)
    ax = Figure(figsize=(7, 4), layout="constrained").subplots() if ax is None else ax
    if kind == "history":
        _history(scored, metric, mode, ax)
    elif kind == "parallel":
        _parallel(scored, metric, mode, ax)
    elif kind == "learning":
        _learning(record.best(trials, mode), ax)
    else:
        shares = importance(trials)
        ax.barh([_label(name) for name in shares][::-1], list(shares.values())[::-1], color=DOT)
        ax.set_xlabel(f"share of the explained differences in {metric}")
        _open(ax)
    return ax


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
        found = list(accumulate(scores, max if mode == "max" else min))
        end = max(t.number for t in trials)
        ax.step([*numbers, end], [*found, found[-1]], where="post", color=BEST, linewidth=1.5, label="best so far")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_xlabel("trial")
    ax.set_ylabel(metric)
    if trials:
        ax.legend(frameon=False, fontsize="small")
    _open(ax)


HOLLOW = {"markersize": 4, "markerfacecolor": "none", "markeredgecolor": QUIET}


def _slices(trials: Sequence[Trial], metric: str, mode: str, figure: Any) -> Any:
    columns = _varied(trials)
    axes = figure(figsize=(3.0 * max(len(columns), 1), 3.2), layout="constrained").subplots(
        1, max(len(columns), 1), sharey=True, squeeze=False
    )[0]
    best = record.best(trials, mode)
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
        _open(ax)
    axes[0].set_ylabel(metric)
    return axes


def _parallel(trials: Sequence[Trial], metric: str, mode: str, ax: Any) -> None:
    trials = [t for t in trials if t.is_eligible]  # the score of fewer folds is none to compare with
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


def _learning(trial: Trial | None, ax: Any) -> None:
    """What the framework reported of each fold, and the mean over the folds."""
    rows = [row for history in (trial.histories if trial is not None else {}).values() for row in history]
    names = sorted(
        {name for row in rows for name in row} - {"iteration"}, key=lambda name: (name.startswith("train-"), name)
    )
    for name, color in zip(names, itertools.cycle((BEST, DOT, *OTHERS)), strict=False):
        found: dict[float, list[float]] = {}
        for history in trial.histories.values() if trial is not None else ():
            line = [(row["iteration"], row[name]) for row in history if name in row]
            ax.plot(*zip(*line, strict=True), color=color, alpha=0.25, linewidth=0.8)
            for iteration, value in line:
                found.setdefault(iteration, []).append(value)
        most = max(map(len, found.values()))  # beyond, where some folds have ended, the mean would be that of the others
        means = [(iteration, record.mean(values)) for iteration, values in sorted(found.items()) if len(values) == most]
        ax.plot(*zip(*means, strict=True), color=color, linewidth=2.0, label=name)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_xlabel("iteration")
    ax.set_ylabel("mean over the folds, and each of them")
    if names:
        ax.legend(frameon=False, fontsize="small")
    _open(ax)


class _Axis(NamedTuple):
    """How the values of a parameter are laid out: numbers by size or order of magnitude, others by name."""

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
        """Where a value stands, between 0 and 1."""
        if self.categories is not None:
            value = float(self.categories.index(str(value)))
        low, high = self.low, self.high
        if self.is_log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return 0.5 if high == low else (value - low) / (high - low)

    def marks(self) -> list[tuple[float, str]]:
        """What is written beside it: the ends, or all categories."""
        if self.categories is not None:
            return [(self.height(name), name) for name in self.categories]
        return [(self.height(value), f"{value:.4g}") for value in dict.fromkeys((self.low, self.high))]


def _varied(trials: Sequence[Trial]) -> dict[str, list[Any]]:
    flat = [space.flatten(trial.config) for trial in trials]
    names = list(dict.fromkeys(name for config in flat for name in config))
    columns = {name: [space.cell(config.get(name)) for config in flat] for name in names}
    return {name: values for name, values in columns.items() if len(set(values)) > 1}


def _label(name: str) -> str:
    """A parameter as people read it; what stands in the preprocessor on lines of its own."""
    return name.removeprefix(f"{space.STAGES}/").replace("/", "\n")


def _open(ax: Any) -> None:
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)

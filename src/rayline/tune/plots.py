"""Pictures of a tuning run, drawn with Matplotlib when they are asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from rayline.core.errors import MissingExtraError, ParameterError
from rayline.tune import space
from rayline.tune.importance import importance
from rayline.tune.record import Trial

KINDS = ("history", "slices", "parallel", "importance")


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
        return _slices(scored, metric, Figure)
    ax = Figure(figsize=(7, 4)).subplots() if ax is None else ax
    if kind == "history":
        _history(scored, metric, mode, ax)
    elif kind == "parallel":
        _parallel(scored, metric, mode, ax)
    else:
        shares = importance(trials)
        ax.barh(list(shares)[::-1], list(shares.values())[::-1])
        ax.set_xlabel("share of the explained differences")
    return ax


def _history(trials: Sequence[Trial], metric: str, mode: str, ax: Any) -> None:
    numbers, scores = [t.number for t in trials], [t.score for t in trials]
    errors = [0.0 if math.isnan(t.standard_error) else t.standard_error for t in trials]
    ax.errorbar(numbers, scores, yerr=errors, fmt="o", markersize=4, elinewidth=0.7, label="trial ± standard error")
    full = [t for t in trials if t.is_eligible]
    ax.step(
        [t.number for t in full],
        list(accumulate((t.score for t in full), max if mode == "max" else min)),
        where="post",
        label="best so far",
    )
    ax.set_xlabel("trial")
    ax.set_ylabel(metric)
    ax.legend()


def _varied(trials: Sequence[Trial]) -> dict[str, list[Any]]:
    flat = [space.flatten(trial.config) for trial in trials]
    names = list(dict.fromkeys(name for config in flat for name in config))
    columns = {name: [space.cell(config.get(name)) for config in flat] for name in names}
    return {name: values for name, values in columns.items() if len(set(values)) > 1}


def _slices(trials: Sequence[Trial], metric: str, figure: Any) -> Any:
    columns = _varied(trials)
    axes = figure(figsize=(3.2 * max(len(columns), 1), 3.2), layout="constrained").subplots(
        1, max(len(columns), 1), sharey=True, squeeze=False
    )[0]
    for ax, (name, values) in zip(axes, columns.items(), strict=False):
        numeric = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
        ax.plot(values if numeric else [str(v) for v in values], [t.score for t in trials], "o", markersize=4)
        if numeric and min(values) > 0 and max(values) / min(values) > 100:
            ax.set_xscale("log")
        ax.set_xlabel(name)
    axes[0].set_ylabel(metric)
    return axes


def _parallel(trials: Sequence[Trial], metric: str, mode: str, ax: Any) -> None:
    columns = {**_varied(trials), metric: [t.score for t in trials]}
    heights = {name: _heights(values) for name, values in columns.items()}
    quality = heights[metric] if mode == "max" else [1.0 - h for h in heights[metric]]
    order = sorted(range(len(trials)), key=lambda i: quality[i])  # the best on top
    for i in order:
        ax.plot(
            range(len(columns)),
            [heights[name][i] for name in columns],
            color=(0.1, 0.3, 0.7, 0.1 + 0.9 * quality[i] ** 3),
        )
    ax.set_xticks(range(len(columns)), list(columns), rotation=20, ha="right")
    ax.set_yticks([])


def _heights(values: Sequence[Any]) -> list[float]:
    """Values between 0 and 1: numbers by size (by order of magnitude when they span many), others by their order."""
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
        places = {v: i for i, v in enumerate(sorted(set(values), key=str))}
        values = [places[v] for v in values]
    elif values and min(values) > 0 and max(values) / min(values) > 100:
        values = [math.log(v) for v in values]
    low, high = min(values, default=0.0), max(values, default=0.0)
    return [0.5 if high == low else (v - low) / (high - low) for v in values]

"""The look that all pictures of Matplotlib share, and the curves of a training."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rayline.core.design import COLORS, DASHES
from rayline.core.errors import MissingExtraError, ParameterError

Curve = Sequence[tuple[float, float]]


def panels(n: int, where: str, ax: Any = None) -> list[Any]:
    """So many axes side by side on a figure of their own; or the one that was given.

    Raises
    ------
    MissingExtraError
        Without Matplotlib.
    ParameterError
        When one axis was given for several.
    """
    if ax is not None:
        if n > 1:
            raise ParameterError(
                f"{where}: {n} metrics of different scales do not fit on one axis.",
                "Expected one metric with ax=…; there is an axis for each without it.",
                'name a metric, as plot("logloss", ax=ax).',
            )
        return [ax]
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError.of(where, "matplotlib", "plot") from error
    return list(Figure(figsize=(max(7.0, 4.6 * n), 4), layout="constrained").subplots(1, n, squeeze=False)[0])


def by_metric(names: Sequence[str]) -> dict[str, list[str]]:
    """Columns of a history by the metric that they are, those of the test rows first.

    >>> by_metric(["train-logloss", "train-auc", "test-logloss"])
    {'logloss': ['test-logloss', 'train-logloss'], 'auc': ['train-auc']}
    """
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(name.removeprefix("train-").removeprefix("test-"), []).append(name)
    return {metric: sorted(own, key=lambda name: (name.startswith("train-"), name)) for metric, own in found.items()}


def curves(
    ax: Any, metric: str, series: Mapping[str, Curve], faint: Mapping[str, Sequence[Curve]] | None = None
) -> None:
    """Curves of one metric over the iterations, each named where it ends; `faint` ones behind them by the same names."""
    ends = []
    for (name, points), color, dash in zip(series.items(), itertools.cycle(COLORS), itertools.cycle(DASHES)):
        for line in (faint or {}).get(name, ()):
            ax.plot(*zip(*line, strict=True), color=color, alpha=0.25, linewidth=0.8)
        style = (0, tuple(float(part) / 2 for part in dash.split())) if dash else "-"
        ax.plot(*zip(*points, strict=True), color=color, linewidth=1.8, label=name, linestyle=style,
                marker="o" if len(points) == 1 else "")  # fmt: skip
        short = name.removesuffix(metric).rstrip("-") if name != metric else ""
        if short and math.isfinite(points[-1][1]):
            ends.append((points[-1], short, color))
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_xlabel("iteration")
    ax.set_ylabel(metric)
    open_frame(ax)
    low, high = ax.get_ylim()
    last = -math.inf
    for (x, y), text, color in sorted(ends, key=lambda end: end[0][1]):  # none over another
        last = max(y, last + 0.06 * (high - low))
        ax.annotate(
            text, (x, last), xytext=(6, 0), textcoords="offset points", color=color, va="center", annotation_clip=False
        )


def open_frame(ax: Any) -> None:
    """Without the lines at the top and on the right; large values are written as 20k and 3M, not as 2e4 and 3e6."""
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    if max(map(abs, ax.get_ylim())) >= 10_000:
        from matplotlib.ticker import EngFormatter

        ax.yaxis.set_major_formatter(EngFormatter(sep=""))

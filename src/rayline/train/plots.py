"""The curves of a training, drawn with Matplotlib."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rayline.core.design import COLORS, DASHES
from rayline.evaluate.axes import dashes, open_frame

Curve = Sequence[tuple[float, float]]


def by_metric(names: Sequence[str]) -> dict[str, list[str]]:
    """Columns of a history by the metric that they are, those of the test rows first.

    >>> by_metric(["train-logloss", "train-auc", "test-logloss"])
    {'logloss': ['test-logloss', 'train-logloss'], 'auc': ['train-auc']}
    """
    grouped: dict[str, list[str]] = {}
    for name in names:
        grouped.setdefault(name.removeprefix("train-").removeprefix("test-"), []).append(name)
    return {
        metric: sorted(columns, key=lambda name: (name.startswith("train-"), name))
        for metric, columns in grouped.items()
    }


def curves(
    ax: Any, metric: str, series: Mapping[str, Curve], faint: Mapping[str, Sequence[Curve]] | None = None
) -> None:
    """Curves of one metric over the iterations, each named where it ends; `faint` ones behind them by the same names."""
    ends = []
    for (name, points), color, dash in zip(series.items(), itertools.cycle(COLORS), itertools.cycle(DASHES)):
        for line in (faint or {}).get(name, ()):
            ax.plot(*zip(*line, strict=True), color=color, alpha=0.25, linewidth=0.8)
        ax.plot(*zip(*points, strict=True), color=color, linewidth=1.8, label=name, linestyle=dashes(dash),
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

"""Charts drawn with Matplotlib: colours that also differ in grey, dashes, and names at the lines instead of a legend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rayline.core.data_types import Axes
from rayline.core.design import COLORS, DASHES, QUIET, TEXT, shade
from rayline.core.errors import ParameterError, at
from rayline.evaluate import axes as look
from rayline.evaluate.charts import Chart
from rayline.inference.svg_plots import number

WHERE = "report.plot"

MAX_ACROSS = 3
"""Panels beside one another."""


@at(WHERE)
def draw(charts: Sequence[Chart], ax: Axes | None = None) -> Any:
    """Draw charts side by side, and return their axis, or a list of several.

    Raises MissingExtraError without Matplotlib. Raises ParameterError when one axis is given for several charts, or something
    that is no axis.
    """
    if look.checked(ax) is not None and len(charts) > 1:
        raise ParameterError.value("ax", f"None: this plot has {len(charts)} panels", type(ax))
    if ax is None:
        across = min(MAX_ACROSS, len(charts))
        down = -(-len(charts) // across)
        width, height = (max(side) for side in zip(*map(_size, charts), strict=True))
        grid = look.new_figure(across * width, down * height).subplots(down, across, squeeze=False).flat
        every = list(grid)[: len(charts)]
        for unused in list(grid)[len(charts) :]:
            unused.set_axis_off()
    else:
        every = [ax]
    for axis, chart in zip(every, charts, strict=True):
        _DRAWN[chart.form](axis, chart)
        axis.set_title(chart.title, fontsize="medium", loc="left")
        axis.set_xlabel(chart.x)
    return every[0] if len(every) == 1 else every


def _size(chart: Chart) -> tuple[float, float]:
    """Return width and height in inches."""
    if chart.form in ("intervals", "bars"):
        return 6.4, 1.3 + 0.27 * max(len(chart.rows), 2)
    if chart.form == "table":
        side = 1.9 + 0.55 * max(len(chart.labels), 3)
        return min(side + 0.6, 12.0), min(side, 11.0)
    return (5.2, 4.6) if chart.unit or chart.diagonal else (6.4, 4.2)


def _lines(ax: Any, chart: Chart) -> None:
    if chart.diagonal:
        ax.axline((0, 0), slope=1, color=QUIET, linewidth=1, linestyle=(0, (4, 4)), zorder=0)
    for moment, low, high in chart.spans:
        ax.plot([moment, moment], [low, high], color=COLORS[0], linewidth=1.2, solid_capstyle="butt")
    for (name, points), color, pattern in zip(chart.series.items(), COLORS, DASHES, strict=False):
        x, y = zip(*points, strict=True) if points else ((), ())
        ax.plot(x, y, color=color, linewidth=1.8, linestyle=look.dashes(pattern), label=name,
                marker="o" if chart.spans else "", markersize=4)  # fmt: skip
    if chart.unit:
        ax.set_xlim(-0.01, 1.01)
        ax.set_ylim(-0.01, 1.02)
        ax.set_aspect("equal")
    if chart.series and not chart.spans:
        ax.legend(loc="lower left" if chart.name.startswith("precision") else "lower right", frameon=False, fontsize="small",
                  handlelength=2.4)  # fmt: skip
    if not chart.series:
        ax.text(0.5, 0.5, "not defined", ha="center", color=QUIET, transform=ax.transAxes)
    ax.set_ylabel(chart.y)
    look.open_frame(ax)


def _dots(ax: Any, chart: Chart) -> None:
    for (_, points), color in zip(chart.series.items(), COLORS, strict=False):
        x, y = zip(*points, strict=True) if points else ((), ())
        ax.plot(x, y, "o", markersize=3, color=color, alpha=0.35, markeredgewidth=0)
        if chart.diagonal and points:
            low, high = min(*x, *y), max(*x, *y)
            ax.plot([low, high], [low, high], color=QUIET, linewidth=1.2, linestyle=(0, (4, 4)))
    if chart.level is not None:
        ax.axhline(chart.level, color=QUIET, linewidth=1.2, linestyle=(0, (4, 4)))
    ax.set_ylabel(chart.y)
    look.open_frame(ax)


def _table(ax: Any, chart: Chart) -> None:
    n = len(chart.labels)
    from matplotlib.colors import to_rgba

    fills = [[to_rgba(COLORS[0], shade(count / max(1, sum(row)))) for count in row] for row in chart.cells]
    ax.imshow(fills, aspect="equal")
    for i, row in enumerate(chart.cells):
        for j, count in enumerate(row):
            size = "small" if n < 8 else "xx-small"
            ax.text(j, i, f"{count:,}", ha="center", va="center", color=TEXT, fontsize=size)
    turned = n > 4 or max(map(len, chart.labels)) > 8
    ax.set_xticks(range(n), chart.labels, rotation=90 if turned else 0)
    ax.set_yticks(range(n), chart.labels)
    ax.tick_params(length=0)
    ax.set_ylabel(chart.y)
    for side in ax.spines.values():
        side.set_visible(False)


def _rows(ax: Any, chart: Chart) -> None:
    names = [name if len(name) < 34 else f"{name[:32]}…" for name, *_ in chart.rows]
    places = range(len(chart.rows))[::-1]
    for y, (_, value, low, high) in zip(places, chart.rows, strict=True):
        if chart.form == "bars":
            ax.barh(y, value, height=0.6, color=COLORS[0])
            ax.annotate(
                number(value, 3), (value, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize="small"
            )
        elif math.isfinite(value):
            if math.isfinite(low) and math.isfinite(high):
                ax.plot([low, high], [y, y], color=COLORS[0], linewidth=1.8, solid_capstyle="butt")
            ax.plot(value, y, "o", color=COLORS[0], markersize=5)
        else:
            ax.annotate(
                "not defined", (0.02, y), xycoords=("axes fraction", "data"), va="center", color=QUIET, fontsize="small"
            )
    if chart.level is not None and math.isfinite(chart.level):
        ax.axvline(chart.level, color=QUIET, linewidth=1.2, linestyle=(0, (4, 4)), zorder=0)
    ax.set_yticks(list(places), names)
    ax.set_ylim(-0.7, len(names) - 0.3)
    ax.tick_params(axis="y", length=0)
    if chart.form == "bars":
        ax.set_xlim(left=0)
        ax.margins(x=0.15)
    look.open_frame(ax)
    ax.spines["left"].set_visible(chart.form == "bars")


_DRAWN = {"lines": _lines, "dots": _dots, "table": _table, "intervals": _rows, "bars": _rows}

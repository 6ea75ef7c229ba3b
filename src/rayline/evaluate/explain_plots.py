"""Pictures of explanations: the contributions of one row, and how predictions change with a column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from rayline.core import registry
from rayline.core.arguments import known_arguments
from rayline.core.data_types import Axes, Table
from rayline.core.design import COLORS, QUIET
from rayline.core.errors import ParameterError, SchemaError, at, counted
from rayline.evaluate import axes as look
from rayline.inference.svg_plots import number

MAX_BARS = 12
"""Columns of a picture of contributions; the others are one bar."""

MAX_CURVES = 200
"""Curves of single rows in a picture."""


@known_arguments
@at("plot_contributions")
def plot_contributions(explanation: Table, ax: Axes | None = None, *, prefix: str = "") -> Axes:
    """Draw what each column contributes to the score of one row: from the base value to the score, the largest first.

    Parameters
    ----------
    explanation
        One row of `pipeline.explain`: a table with one row, or a dict.
    ax
        The Matplotlib axis to draw on; a new figure when omitted.
    prefix
        The `prefix` that `explain` was called with.

    Returns
    -------
    matplotlib.axes.Axes
        The axis.

    Raises
    ------
    MissingExtraError
        Without Matplotlib.
    ParameterError
        When there is not exactly one row.
    SchemaError
        When it is no explanation.

    Examples
    --------
    >>> from rayline.evaluate import plot_contributions
    >>> plot_contributions(pipeline.explain([row])[0])  # doctest: +SKIP
    """
    row = _one_row(explanation)
    (base, score), shown = _contributions(row, prefix)
    ax = look.one_axis(ax, 6.4, 1.6 + 0.32 * len(shown))
    start = base
    for y, (_, value) in enumerate(reversed(shown)):
        color = COLORS[0] if value >= 0 else COLORS[1]
        ax.barh(
            y,
            value,
            left=start,
            height=0.6,
            color=color,
            hatch="" if value >= 0 else "////",
            edgecolor="white",
            linewidth=0,
        )
        end = start + value
        ax.annotate(
            f"{'+' if value >= 0 else '−'}{number(abs(value), 3)}", (max(start, end), y), xytext=(4, 0),
            textcoords="offset points", va="center", fontsize="small",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        )  # fmt: skip
        start = end
    for x, word, place in ((base, "base value", -0.9), (score, "score", len(shown) - 0.2)):
        ax.axvline(x, color=QUIET, linewidth=1.2, linestyle=(0, (4, 4)), zorder=0)
        ax.annotate(f"{word} {number(x, 3)}", (x, place), xytext=(4, 0), textcoords="offset points", fontsize="small")
    ax.set_yticks(range(len(shown)), [name if len(name) < 34 else f"{name[:32]}…" for name, _ in reversed(shown)])
    ax.set_ylim(-1.2, len(shown) + 0.3)
    ax.tick_params(axis="y", length=0)
    ends = np.cumsum([base, *(value for _, value in reversed(shown))])
    room = 0.14 * (float(np.ptp(ends)) or 1.0)
    ax.set_xlim(float(ends.min()) - room, float(ends.max()) + 2 * room)
    ax.set_xlabel("score" if row.get(f"{prefix}class") is None else f"score of {row[f'{prefix}class']}")
    look.open_frame(ax)
    ax.spines["left"].set_visible(False)
    return ax


def _contributions(row: Mapping[str, Any], prefix: str) -> tuple[tuple[float, float], list[tuple[str, float]]]:
    """Return the base value and the score, and the contributions of columns, the largest first; those of the smallest ones as one."""
    names = [f"{prefix}base_value", f"{prefix}score"]
    if missing := [name for name in names if name not in row]:
        raise SchemaError.missing(missing, row)
    parts = [
        (name.removeprefix(prefix), float(value))
        for name, value in row.items()
        if name.startswith(prefix) and name not in (*names, f"{prefix}class") and isinstance(value, float)
    ]
    parts.sort(key=lambda part: -abs(part[1]))
    rest = parts[MAX_BARS:]
    others = [(f"{len(rest)} other columns", sum(value for _, value in rest))] if rest else []
    return (float(row[names[0]]), float(row[names[1]])), parts[:MAX_BARS] + others


@known_arguments
@at("plot_dependence")
def plot_dependence(
    table: pl.DataFrame, ax: Axes | None = None, *, ice: pl.DataFrame | None = None, of: str | None = None
) -> Axes:
    """Draw how the mean prediction changes with a column, and the curves of single rows behind it.

    Parameters
    ----------
    table
        What `pipeline.partial_dependence(rows, column)` returned: rows without nulls.
    ax
        The Matplotlib axis to draw on; a new figure when omitted.
    ice
        What it returned with ice=True, of the same column; the first 200 curves are drawn.
    of
        The prediction to draw, as `probability_yes`; the last one when omitted.

    Returns
    -------
    matplotlib.axes.Axes
        The axis.

    Raises
    ------
    MissingExtraError
        Without Matplotlib.
    ParameterError
        When `of` is no prediction of the table.

    Examples
    --------
    >>> from rayline.evaluate import plot_dependence
    >>> plot_dependence(pipeline.partial_dependence(rows, "hour"))  # doctest: +SKIP
    """
    for name, value in (("table", table), ("ice", pl.DataFrame({"row": []}) if ice is None else ice)):
        if not isinstance(value, pl.DataFrame) or (name == "ice" and "row" not in value.columns):
            raise ParameterError.value(name, "a table of InferencePipeline.partial_dependence", value)
    column, *predictions = table.columns
    if not predictions or (of is not None and of not in predictions):
        raise ParameterError.value("of", f"one of {predictions}", of)
    shown = of or predictions[-1]
    ax = look.one_axis(ax, 6.4, 4.2)
    values, means = table[column], table[shown].to_numpy()
    if not (values.dtype.is_numeric() or values.dtype in (pl.Date, pl.Datetime)):
        places = np.arange(len(values))[::-1]
        ax.plot(means, places, "o", color=COLORS[0])
        ax.set_yticks(places, ["missing" if v is None else str(v) for v in values])
        ax.set_xlabel(shown)
        ax.set_ylabel(column)
        look.open_frame(ax)
        return ax
    if ice is not None:
        for row in ice["row"].unique(maintain_order=True).head(MAX_CURVES):
            curve = ice.filter(pl.col("row") == row)
            ax.plot(curve[column].to_numpy(), curve[shown], color=QUIET, linewidth=0.6, alpha=0.18, zorder=1)
    ax.plot(values.to_numpy(), means, color=COLORS[0], linewidth=2.2, zorder=2)
    ax.annotate(
        "mean", (values[-1], means[-1]), xytext=(5, 0), textcoords="offset points", va="center", fontsize="small"
    )
    if values.dtype.is_integer():
        locator: Any = ax.xaxis.get_major_locator()
        locator.set_params(integer=True)
    ax.set_xlabel(column)
    ax.set_ylabel(shown)
    look.open_frame(ax)
    return ax


def _one_row(explanation: Any) -> Mapping[str, Any]:
    is_row = isinstance(explanation, Mapping) and not any(hasattr(v, "__len__") for v in explanation.values())
    rows = [dict(explanation)] if is_row else explanation
    dicts = registry.engine_for(rows).collect(rows).to_dicts()
    if len(dicts) != 1:
        raise ParameterError.here(
            f"the explanation has {counted(len(dicts), 'row')}.",
            "Expected one row of pipeline.explain.",
            "choose one, as explanation[:1].",
        )
    row: Mapping[str, Any] = dicts[0]
    return row

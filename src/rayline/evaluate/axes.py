"""The look that all pictures of Matplotlib share. Matplotlib is imported when one is drawn."""

from __future__ import annotations

import sys
from typing import Any

from rayline.core.errors import ParameterError, needing, place


def panels(n: int, ax: Any = None) -> list[Any]:
    """Return so many axes side by side on a figure of their own; or the one that was given.

    Raises MissingExtraError without Matplotlib. Raises ParameterError when one axis was given for several, or something that is
    no axis.
    """
    if checked(ax) is not None:
        if n > 1:
            raise ParameterError.here(
                f"{n} metrics of different scales do not fit on one axis.",
                "Expected one metric with ax=…; there is an axis for each without it.",
                'name a metric, as plot("logloss", ax=ax).',
            )
        return [ax]
    return list(new_figure(max(7.0, 4.6 * n), 4.0).subplots(1, n, squeeze=False)[0])


def checked(ax: Any) -> Any:
    """Return the axis that was given, or None. Raises ParameterError when it is something else."""
    if ax is None or all(hasattr(ax, name) for name in ("barh", "annotate", "set_xlabel")):
        return ax
    raise ParameterError.value("ax", "an axis of Matplotlib (matplotlib.axes.Axes), or None for a new figure", ax)


def one_axis(ax: Any, width: float, height: float) -> Any:
    """Return the axis that was given, or one on a new figure of this size, in inches. Raises as `checked` and `new_figure`."""
    return new_figure(width, height).subplots() if checked(ax) is None else ax


def new_figure(width: float, height: float) -> Any:
    """Return a new figure of this size, in inches. Raises MissingExtraError without Matplotlib."""
    with needing(place(), "matplotlib", "plot"):
        from matplotlib.figure import Figure
    make: Any = Figure
    if "ipykernel" in sys.modules:  # a notebook shows the figures of pyplot below their cell, and no others
        from matplotlib import pyplot

        make = pyplot.figure
    return make(figsize=(width, height), layout="constrained")


def open_frame(ax: Any) -> None:
    """Draw without the lines at the top and on the right; large values are written as 20k and 3M, not as 2e4 and 3e6."""
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for axis, limits in ((ax.yaxis, ax.get_ylim()), (ax.xaxis, ax.get_xlim())):
        if max(map(abs, limits)) >= 10_000:
            from matplotlib.ticker import EngFormatter

            axis.set_major_formatter(EngFormatter(sep=""))


def dashes(pattern: str) -> Any:
    """Return Matplotlib's line style of a dash pattern of `core.design`."""
    return (0, tuple(float(part) / 2 for part in pattern.split())) if pattern else "-"

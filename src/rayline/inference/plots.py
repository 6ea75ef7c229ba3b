"""Small plots as SVG text, for model cards: no library, nothing loaded from elsewhere, readable in light and dark."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 420, 280
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 14, 44
COLORS = ("#2f6db3", "#d1652a", "#3a8f5a", "#8a56a8", "#b3883a", "#4aa3a3", "#a34a6a", "#777777")

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Plot:
    """A plot: what it shows, how to read it, and the SVG."""

    name: str
    title: str
    caption: str
    svg: str


def lines(
    series: Mapping[str, Points],
    *,
    x: str,
    y: str,
    diagonal: bool = False,
    unit: bool = False,
    dots: bool = False,
) -> str:
    """Series of points over common axes, joined by lines or (`dots`) not.

    Parameters
    ----------
    series
        The points of each, by name.
    x, y
        What the axes are.
    diagonal
        Whether to draw where x equals y.
    unit
        Whether both axes go from 0 to 1.
    """
    points = [p for found in series.values() for p in found]
    across = (0.0, 1.0) if unit else _range([a for a, _ in points])
    up = (0.0, 1.0) if unit else _range([b for _, b in points])
    if diagonal and not unit:
        across = up = (min(across[0], up[0]), max(across[1], up[1]))
    shown = list(series)[: len(COLORS)]
    out = [*_axes(across, up, x, y)]
    if diagonal:
        out.append(_line([_at(v, v, across, up) for v in across], "#999", dashed=True))
    for name, color in zip(shown, COLORS, strict=False):
        places = [_at(a, b, across, up) for a, b in series[name]]
        if dots:
            out += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2" fill="{color}" fill-opacity=".45"/>' for a, b in places]
        else:
            out.append(_line(places, color))
    if len(shown) > 1:
        for place, name in enumerate(shown):  # two beside each other, under the plot
            left, top = LEFT + (place % 2) * 170, HEIGHT + 14 * (place // 2) + 6
            out.append(f'<rect x="{left}" y="{top - 4}" width="12" height="4" rx="1" fill="{COLORS[place]}"/>')
            out.append(_text(left + 18, top + 1, name[:24], anchor="start"))
    return _svg(out, WIDTH, HEIGHT + (14 * ((len(shown) + 1) // 2) + 4 if len(shown) > 1 else 0))


def table(labels: Sequence[str], counts: Sequence[Sequence[int]], *, x: str, y: str) -> str:
    """A square table of counts, each row shaded by its own shares."""
    n = len(labels)
    side, left, top = min(64, 320 // n), 110, 40
    out = [_text(left + n * side / 2, 14, x), _text(12, top + n * side / 2, y, turned=True)]
    for i, row in enumerate(counts):
        out.append(_text(left - 8, top + (i + 0.5) * side + 4, labels[i][:12], anchor="end"))
        out.append(_text(left + (i + 0.5) * side, top - 8, labels[i][: max(3, side // 8)]))
        for j, count in enumerate(row):
            share = count / max(1, sum(row))
            place = f'x="{left + j * side}" y="{top + i * side}" width="{side - 2}" height="{side - 2}"'
            out.append(f'<rect {place} fill="{COLORS[0]}" fill-opacity="{0.06 + 0.9 * share:.3f}"/>')
            color = "#fff" if share > 0.5 else "currentColor"
            out.append(_text(left + (j + 0.5) * side - 1, top + (i + 0.5) * side + 4, f"{count:,}", color=color))
    return _svg(out, left + n * side + 12, top + n * side + 12)


def _range(values: Sequence[float]) -> tuple[float, float]:
    finite = [v for v in values if math.isfinite(v)] or [0.0]
    low, high = min(finite), max(finite)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _at(a: float, b: float, across: tuple[float, float], up: tuple[float, float]) -> tuple[float, float]:
    x = LEFT + (a - across[0]) / (across[1] - across[0]) * (WIDTH - LEFT - RIGHT)
    y = HEIGHT - BOTTOM - (b - up[0]) / (up[1] - up[0]) * (HEIGHT - TOP - BOTTOM)
    return x, y


def _ticks(low: float, high: float) -> list[float]:
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step = next((step * k for k in (1, 2, 2.5, 5, 10) if (high - low) / (step * k) <= 5), step * 10)
    return [step * k for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _axes(across: tuple[float, float], up: tuple[float, float], x: str, y: str) -> list[str]:
    out = []
    for value in _ticks(*across):
        a, b = _at(value, up[0], across, up)
        out.append(f'<line x1="{a:.1f}" x2="{a:.1f}" y1="{TOP}" y2="{b:.1f}" stroke="#8883"/>')
        out.append(_text(a, b + 16, f"{value:.4g}"))
    for value in _ticks(*up):
        a, b = _at(across[0], value, across, up)
        out.append(f'<line x1="{a:.1f}" x2="{WIDTH - RIGHT}" y1="{b:.1f}" y2="{b:.1f}" stroke="#8883"/>')
        out.append(_text(a - 6, b + 4, f"{value:.4g}", anchor="end"))
    out.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x))
    out.append(_text(12, (TOP + HEIGHT - BOTTOM) / 2, y, turned=True))
    return out


def _line(places: Points, color: str, *, dashed: bool = False) -> str:
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places if math.isfinite(b))
    dash = ' stroke-dasharray="4 4"' if dashed else ""
    return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.8"{dash}/>'


def _text(
    x: float, y: float, text: str, *, anchor: str = "middle", turned: bool = False, color: str = "currentColor"
) -> str:
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}"{turn}>{html.escape(text)}</text>'


def _svg(parts: Sequence[str], width: float, height: float) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" font-family="system-ui,sans-serif" font-size="11" role="img">{"".join(parts)}</svg>'
    )

"""Small plots as SVG text, for model cards: no library, nothing loaded from elsewhere, readable in light, dark and grey.

>>> number(24491.3), number(0.91994), number(-0.0000123)
('24,490', '0.9199', '-1.23e-05')
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rayline.core.design import COLORS, DASHES, QUIET, shade

WIDTH, HEIGHT = 420, 280
LEFT, RIGHT, TOP, BOTTOM = 60, 14, 14, 44
CHARACTER = 6.2
"""The usual width of a character, in pixels."""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class SVGPlot:
    """A plot: what it shows, how to read it, and the SVG."""

    name: str
    title: str
    caption: str
    svg: str


def number(value: float, figures: int = 4) -> str:
    """A number for people: four significant figures, thousands apart, an exponent only where nothing else fits.

    >>> number(3), number(313614.0625), number(1.5), number(float("nan")), number(104409.8, figures=5)
    ('3', '313,600', '1.5', 'nan', '104,410')
    """
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    if not 1e-4 <= abs(value) < 1e15:
        return f"{value:.{figures}g}"
    digits = figures - 1 - math.floor(math.log10(abs(value)))
    text = f"{round(value, digits):,.{max(digits, 0)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Places for the marks of an axis with what is written there, all in one unit.

    >>> ticks(0.0, 100_000.0)[1:3]
    [(20000, '20k'), (40000, '40k')]
    """
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step = next((step * k for k in (1, 2, 2.5, 5, 10) if (high - low) / (step * k) <= 5), step * 10)
    places = [step * k for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    limit = max(map(abs, places), default=0.0)
    size, unit = next(
        ((s, u) for s, u in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")) if limit >= s * 10), (1, "")
    )
    if limit >= 1e16 or 0 < limit < 1e-3:
        return [(place, f"{place:.2g}") for place in places]
    digits = max(
        0,
        -math.floor(math.log10(step / size) + 1e-9)
        + (step / size * 10 ** -math.floor(math.log10(step / size)) % 1 > 0.1),
    )
    return [(place, f"{place / size:,.{digits}f}{unit if place else ''}".replace("-", "−")) for place in places]


def lines(
    series: Mapping[str, Points],
    *,
    x: str,
    y: str,
    diagonal: bool = False,
    unit: bool = False,
    dots: bool = False,
    spans: Sequence[tuple[float, float, float]] = (),
    level: float | None = None,
    named: bool = False,
) -> str:
    """Series of points over common axes, joined by lines or (`dots`) not; each named where it ends.

    Parameters
    ----------
    series
        The points of each, by name.
    x, y
        What the axes are.
    diagonal
        Whether to draw where x equals y.
    unit
        Whether both axes go from 0 to 1. The names are then in the lower right.
    spans
        Vertical lines, each at an x from one y to another: intervals of points.
    level
        Where to draw a dashed line across.
    named
        Whether a single series is named too.
    """
    shown = {name: series[name] for name in list(series)[: len(COLORS)]}
    right = RIGHT
    if len(shown) > 1 and not unit:
        right = min(150, 12 + round(CHARACTER * max(map(len, shown))))
    points = [p for line in shown.values() for p in line]
    across = (0.0, 1.0) if unit else _range([a for a, _ in points], 0.0 if not dots else 0.03)
    up = (0.0, 1.0) if unit else _range([b for _, b in points], 0.04)
    if diagonal and not unit:
        across = up = (min(across[0], up[0]), max(across[1], up[1]))
    axes = _Axes(across, up, right)
    out = axes.draw(x, y)
    if diagonal:
        out.append(_line([axes.at(v, v) for v in across], QUIET, dash="4 4"))
    if level is not None:
        out.append(_line([axes.at(v, level) for v in across], QUIET, dash="4 4"))
    out += [_line([axes.at(a, low), axes.at(a, high)], COLORS[0], dash="") for a, low, high in spans]
    ends = {}
    for (name, line), color, dash in zip(shown.items(), COLORS, DASHES, strict=False):
        places = [axes.at(a, b) for a, b in line]
        if dots:
            out += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2" fill="{color}" fill-opacity=".45"/>' for a, b in places]
        else:
            out.append(_line(places, color, dash=dash))
        ends[name] = next((p for p in reversed(places) if math.isfinite(p[1])), (LEFT, TOP))
    if len(shown) > 1 or (named and shown):
        out += _key(list(shown), right) if unit else _named_ends(ends, right)
    return _svg(out, WIDTH, HEIGHT)


def bars(edges: Sequence[float], counts: Sequence[int], *, x: str, y: str) -> str:
    """A histogram: how many values lie between each two edges."""
    axes = _Axes(_range(edges, 0.0), (0.0, max(counts, default=1) * 1.04 or 1.0), RIGHT)
    out = axes.draw(x, y)
    for (low, high), count in zip(pairwise(edges), counts, strict=True):
        (left, top), (right, bottom) = axes.at(low, count), axes.at(high, 0.0)
        place = (
            f'x="{left + 0.5:.1f}" y="{top:.1f}" width="{max(right - left - 1, 0.5):.1f}" height="{bottom - top:.1f}"'
        )
        out.append(f'<rect {place} fill="{COLORS[0]}"/>')
    if axes.across[0] < 0 < axes.across[1]:
        out.append(_line([axes.at(0.0, 0.0), axes.at(0.0, axes.up[1])], QUIET, dash="4 4"))
    return _svg(out, WIDTH, HEIGHT)


def confusion_table(labels: Sequence[str], counts: Sequence[Sequence[int]], *, x: str, y: str) -> str:
    """A square table of counts, each row shaded by its own shares."""
    n = len(labels)
    side = max(30, min(84, 336 // n))
    turned = side < 60  # no room for the names beside one another
    left = 30 + min(150, round(CHARACTER * max(map(len, labels), default=1)))
    top = 32 + (min(110, round(CHARACTER * max(map(len, labels)))) if turned else 24)
    out = [_text(left + n * side / 2, 14, x), _text(12, top + n * side / 2, y, turned=True)]
    for i, row in enumerate(counts):
        middle = left + (i + 0.5) * side
        out.append(_text(left - 8, top + (i + 0.5) * side + 4, _cut(labels[i], 24), anchor="end"))
        if turned:
            out.append(_text(middle + 4, top - 6, _cut(labels[i], 17), anchor="start", turned=True))
        else:
            words = _wrapped(labels[i], int(side / CHARACTER))
            out += [_text(middle, top - 6 - 13 * (len(words) - 1 - k), word) for k, word in enumerate(words)]
        for j, count in enumerate(row):
            share = count / max(1, sum(row))
            place = f'x="{left + j * side}" y="{top + i * side}" width="{side - 2}" height="{side - 2}"'
            out.append(f'<rect {place} fill="{COLORS[0]}" fill-opacity="{shade(share):.3f}"/>')
            size = 11 if len(f"{count:,}") * CHARACTER < side else 8
            out.append(_text(left + (j + 0.5) * side - 1, top + (i + 0.5) * side + 4, f"{count:,}", size=size))
    return _svg(out, left + n * side + 12, top + n * side + 12)


def intervals(rows: Sequence[tuple[str, float, float, float]], *, x: str, middle: float | None = None) -> str:
    """Rows of a name, a value and the ends of its interval: a dot on a line each; `middle` is a dashed line behind them.

    A row whose value is not a number is drawn as "not defined". Without an interval (its ends are NaN)
    there is a bar from 0.
    """
    left = 16 + min(190, round(CHARACTER * max((len(_cut(name, 30)) for name, *_ in rows), default=1)))
    bottom, line = TOP + 18 * len(rows), 18
    finite = [v for _, *values in rows for v in values if math.isfinite(v)] + ([] if middle is None else [middle])
    is_bar = all(not math.isfinite(low) for _, _, low, _ in rows)
    low, high = _range([*finite, *([0.0] if is_bar else [])], 0.04)
    right = 58 if is_bar else RIGHT

    def at(value: float) -> float:
        return left + (value - low) / (high - low) * (WIDTH - left - right)

    out = []
    for value, text in [] if is_bar else ticks(low, high):
        out.append(f'<line x1="{at(value):.1f}" x2="{at(value):.1f}" y1="{TOP - 6}" y2="{bottom}" stroke="{QUIET}" '
                   'stroke-opacity=".3"/>')  # fmt: skip
        out.append(_text(at(value), bottom + 16, text))
    if middle is not None and math.isfinite(middle):
        out.append(_line([(at(middle), TOP - 6), (at(middle), bottom)], QUIET, dash="4 4"))
    for place, (name, value, start, end) in enumerate(rows):
        y = TOP + line * place + line / 2 - 2
        out.append(_text(left - 8, y + 4, _cut(name, 30), anchor="end"))
        if not math.isfinite(value):
            out.append(_text(left + 4, y + 4, "not defined", anchor="start", color=QUIET))
        elif is_bar:
            a, b = sorted((at(0.0), at(value)))
            out.append(
                f'<rect x="{a:.1f}" y="{y - 5:.1f}" width="{max(b - a, 0.5):.1f}" height="10" fill="{COLORS[0]}"/>'
            )
            out.append(_text(b + 5, y + 4, number(value, 3), anchor="start"))
        else:
            if math.isfinite(start) and math.isfinite(end):
                out.append(_line([(at(start), y), (at(end), y)], COLORS[0]))
            out.append(f'<circle cx="{at(value):.1f}" cy="{y:.1f}" r="3.5" fill="{COLORS[0]}"/>')
    out.append(_text((left + WIDTH - right) / 2, bottom + (12 if is_bar else 34), x))
    return _svg(out, WIDTH, bottom + (20 if is_bar else 44))


@dataclass(frozen=True)
class _Axes:
    """From values to places on the plot."""

    across: tuple[float, float]
    up: tuple[float, float]
    right: float

    def at(self, a: float, b: float) -> tuple[float, float]:
        x = LEFT + (a - self.across[0]) / (self.across[1] - self.across[0]) * (WIDTH - LEFT - self.right)
        return x, HEIGHT - BOTTOM - (b - self.up[0]) / (self.up[1] - self.up[0]) * (HEIGHT - TOP - BOTTOM)

    def draw(self, x: str, y: str) -> list[str]:
        """Both axes with their marks, and what they are."""
        out = []
        for value, text in ticks(*self.across):
            a, b = self.at(value, self.up[0])
            out.append(f'<line x1="{a:.1f}" x2="{a:.1f}" y1="{TOP}" y2="{b:.1f}" stroke="#8883"/>')
            out.append(_text(a, b + 16, text))
        for value, text in ticks(*self.up):
            a, b = self.at(self.across[0], value)
            out.append(f'<line x1="{a:.1f}" x2="{WIDTH - self.right}" y1="{b:.1f}" y2="{b:.1f}" stroke="#8883"/>')
            out.append(_text(a - 6, b + 4, text, anchor="end"))
        out.append(_text((LEFT + WIDTH - self.right) / 2, HEIGHT - 8, x))
        out.append(_text(12, (TOP + HEIGHT - BOTTOM) / 2, y, turned=True))
        return out


def _named_ends(ends: Mapping[str, tuple[float, float]], right: float) -> list[str]:
    """Each name beside the end of its line, none over another."""
    out, last = [], -math.inf
    colors = dict(zip(ends, COLORS, strict=False))
    for name, (_, end) in sorted(ends.items(), key=lambda item: item[1][1]):
        last = max(end + 4, last + 13)
        out.append(_text(WIDTH - right + 6, last, _cut(name, 22), anchor="start", color=colors[name]))
    return out


def _key(names: Sequence[str], right: float) -> list[str]:
    """The names with their lines in the lower right, where curves over the diagonal leave room."""
    width = 30 + CHARACTER * max(len(_cut(name, 26)) for name in names)
    out = []
    for place, (name, color, dash) in enumerate(zip(names, COLORS, DASHES, strict=False)):
        left, top = WIDTH - right - width, HEIGHT - BOTTOM - 14 * (len(names) - place) + 4
        out.append(_line([(left, top - 4), (left + 22, top - 4)], color, dash=dash))
        out.append(_text(left + 28, top, _cut(name, 26), anchor="start"))
    return out


def _range(values: Sequence[float], pad: float) -> tuple[float, float]:
    finite = [v for v in values if math.isfinite(v)] or [0.0]
    low, high = min(finite), max(finite)
    if high <= low:
        return low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2
    return low - pad * (high - low), high + pad * (high - low)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _wrapped(text: str, limit: int) -> list[str]:
    """A name on one or two lines of so many characters."""
    if len(text) <= limit:
        return [text]
    space = text.rfind(" ", 0, limit + 1)
    first, rest = (text[:space], text[space + 1 :]) if space > 0 else (text[: limit - 1] + "-", text[limit - 1 :])
    return [first, _cut(rest, limit)]


def _line(places: Points, color: str, *, dash: str = "") -> str:
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places if math.isfinite(b))
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.8"{dashes}/>'


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "middle",
    turned: bool = False,
    color: str = "currentColor",
    size: int = 11,
) -> str:
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    small = f' font-size="{size}"' if size != 11 else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}"{small}{turn}>{html.escape(text)}</text>'
    )


def _svg(parts: Sequence[str], width: float, height: float) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" font-family="system-ui,sans-serif" font-size="11" role="img">{"".join(parts)}</svg>'
    )

"""The look that every page of Rayline shares: model card, report, profile, served pages, notebooks. One type scale, one spacing, one palette.

Pages are one file each: they load nothing, follow the reader's light or dark setting, and fit a phone. `CSS` is the style of all of
them; a page adds only what it alone has. Plots use `COLORS` and `DASHES` in this order.

>>> text = page("late flights", "<p>Hello.</p>")
>>> text.startswith("<!doctype html>"), "http" in text
(True, False)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

COLORS = ("#2963c0", "#f44f00", "#00a688", "#a97fe2", "#9e8451", "#1177eb", "#b24942", "#777777")
"""Series in this order. Each has a contrast of 3:1 or more on the light and on the dark page; the first four stay apart by
0.12 in OKLab, all eight by 0.06, also for readers without red, green or blue cones (`tests/core/test_design.py`)."""

DASHES = ("", "7 3", "2 3", "9 3 2 3", "12 4", "4 2 1 2", "1 3", "6 6")
"""Series differ in their dashes too, for readers and printers without colours."""

QUIET = "#8a94a0"
"""What stays behind: grids, bands, other trials."""

TEXT = "#1d2733"
"""Writing on a light ground."""

DEEPEST = 0.68
"""The opacity of the first colour, up to which text in the page's own colour has a contrast of 4.5:1 on it, light or dark."""


def shade(share: float) -> float:
    """Return the opacity of the first colour behind a number that is this share of a whole.

    >>> shade(0.0), round(shade(1.0), 2)
    (0.06, 0.68)
    """
    return 0.06 + (DEEPEST - 0.06) * share


CSS = """
:root { color-scheme: light dark;
  --text: light-dark(#1d2733, #dfe5ec); --muted: light-dark(#566370, #9aa7b4); --surface: light-dark(#fff, #14181d);
  --soft: light-dark(#f3f5f8, #1c2229); --line: light-dark(#d9dfe6, #313a44); --accent: light-dark(#2158b0, #82b1ff);
  --on-accent: light-dark(#fff, #0b1220); --good: light-dark(#00755f, #35c9a8); --bad: light-dark(#b8321f, #ff8a75);
  --small: .8125rem; --large: 1.25rem; --title: 1.75rem;
  --s1: .25rem; --s2: .5rem; --s3: 1rem; --s4: 1.5rem; --s5: 2.5rem; --round: .4rem; --measure: 60rem; }
* { box-sizing: border-box; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: var(--measure); margin: 0 auto; padding: var(--s4) var(--s3) var(--s5);
  color: var(--text); background: var(--surface); overflow-wrap: break-word; }
h1 { font-size: var(--title); line-height: 1.2; margin: 0 0 var(--s1); overflow-wrap: anywhere; }
h2 { font-size: var(--large); line-height: 1.3; margin: var(--s5) 0 var(--s2); }
h3 { font-size: 1rem; margin: var(--s4) 0 var(--s1); }
p { margin: var(--s2) 0; } a { color: var(--accent); } .sub, figcaption, small { color: var(--muted); } .sub { margin: 0 0 var(--s4); }
small, figcaption { font-size: var(--small); }
.wide { overflow-x: auto; } table { border-collapse: collapse; margin: var(--s2) 0; font-size: .9375rem; }
td, th { padding: var(--s1) var(--s3) var(--s1) 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--muted); } td { font-variant-numeric: tabular-nums; } .number { text-align: right; }
code, pre { font-family: ui-monospace, monospace; font-size: .875em; }
pre { overflow-x: auto; padding: var(--s2) var(--s3); border-radius: var(--round); background: var(--soft); margin: var(--s2) 0; }
.bar { display: inline-block; height: .75rem; width: calc(var(--share) * min(18rem, 35vw)); margin-right: var(--s2); vertical-align: middle;
  border-radius: 2px; background: #2963c0; }
.plots { display: flex; flex-wrap: wrap; gap: var(--s3) var(--s4); } figure { margin: var(--s2) 0; max-width: 26.5rem; }
figure b { display: block; margin-bottom: var(--s1); } svg { max-width: 100%; height: auto; }
@media print { body { margin: 0; max-width: none; } h2 { break-after: avoid; } figure, tr { break-inside: avoid; } }
"""
"""The style of every page: variables for colours, sizes and spacing, and the elements that pages have in common."""


def page(title: str, body: str, *, style: str = "") -> str:
    """Return a whole page: the shared style, then `style` of this page, then the title as it is and the body, which is HTML."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{CSS}{style}</style></head>'
        f"<body>{body}</body></html>\n"
    )


Cell = str | tuple[float, str]
"""A text, which is escaped, or a share between 0 and 1 with its text, which is drawn as a bar."""


def html_table(head: Sequence[str], rows: Iterable[Sequence[Cell]], *, numbers: Iterable[int] = ()) -> str:
    """Return a table as HTML; the columns `numbers` stand to the right.

    >>> html_table(["name", "rows"], [["a<b", "3"]], numbers=[1]).count("number"), "a&lt;b" in html_table(["name"], [["a<b"]])
    (2, True)
    >>> 'class="bar" style="--share:0.250"' in html_table(["importance"], [[(0.25, "25 %")]])
    True
    """
    right = {*numbers}
    top = "".join(_cell("th", text, place in right) for place, text in enumerate(head))
    lines = "".join(
        f"<tr>{''.join(_cell('td', cell, place in right) for place, cell in enumerate(row))}</tr>" for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'


def _cell(element: str, cell: Cell, is_number: bool) -> str:
    bar, text = "", cell
    if not isinstance(cell, str):
        share, text = cell
        bar = f'<span class="bar" style="--share:{min(max(share, 0.0), 1.0):.3f}"></span>'
    kind = ' class="number"' if is_number else ""
    return f"<{element}{kind}>{bar}{escape(str(text))}</{element}>"


def boxes(rows: Iterable[tuple[str, str, str]]) -> str:
    """Return boxes below each other, joined by a line: a name, what it is, and a note. For notebooks: styles are inline.

    >>> boxes([("scale", "StandardScaler()", "age")]).count("<div")
    2
    """
    line = "1px solid color-mix(in srgb, currentColor 30%, transparent)"
    parts = []
    for name, what, note in rows:
        code = f" <code>{escape(what)}</code>" if what else ""
        small = f'<br><span style="opacity:.75;font-size:.9em">{escape(note)}</span>' if note else ""
        parts.append(
            f'<div style="border:{line};border-radius:.4rem;padding:.3rem .7rem;max-width:44rem;overflow-wrap:anywhere">'
            f"<b>{escape(name)}</b>{code}{small}</div>"
        )
    link = f'<span style="display:block;height:.6rem;margin-left:1.2rem;border-left:{line}"></span>'
    return f'<div style="line-height:1.45">{link.join(parts)}</div>'

"""Display of small tables (the best trials, a leaderboard) in a notebook and in a terminal."""

from __future__ import annotations

import html
import shutil
from typing import Any

import polars as pl

from rayline.inference.svg_plots import number
from rayline.tune import space

LONGEST = 60
"""The number of characters of a value that a notebook shows."""


def plain_names(frame: pl.DataFrame) -> pl.DataFrame:
    """Shorten the columns `config/preprocessor/impute/strategy` and `config/eta` to `impute/strategy` and `eta`, unless another
    column has that name."""
    names = {name: name.removeprefix("config/").removeprefix(f"{space.STAGES}/") for name in frame.columns}
    return frame.rename(names) if len({*names.values()}) == len(names) else frame


def table_as_text(frame: pl.DataFrame) -> str:
    """Format a table for a terminal. Columns without values are omitted."""
    options: dict[str, Any] = {"tbl_hide_dataframe_shape": True, "tbl_hide_column_data_types": True, "tbl_cols": 12}
    width = shutil.get_terminal_size((120, 24)).columns
    with pl.Config(**options, fmt_str_lengths=LONGEST, tbl_width_chars=width):
        return str(_filled(frame))


def as_html(frame: pl.DataFrame, best: int | None = 0) -> str:
    """Format a table for a notebook, with the row `best` in bold. Columns without values are omitted."""
    frame = _filled(frame)
    number = {name: dtype.is_numeric() for name, dtype in frame.schema.items()}
    head = "".join(f"<th style='{_style(number[name])}'>{html.escape(name)}</th>" for name in frame.columns)
    rows = []
    for place, row in enumerate(frame.iter_rows()):
        weight = "font-weight:bold;" if place == best else ""
        cells = zip(frame.columns, row, strict=True)
        body = "".join(f"<td style='{_style(number[name])}{weight}'>{_cell(value)}</td>" for name, value in cells)
        rows.append(f"<tr>{body}</tr>")
    return (
        f"<table style='border-collapse:collapse'><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _filled(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select(name for name in frame.columns if frame[name].null_count() < frame.height)


def _style(number: bool) -> str:
    return f"text-align:{'right' if number else 'left'};padding:2px 12px 2px 0;"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    text = number(value, 5) if isinstance(value, float) else str(value)
    return html.escape(text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…")

"""Tables for people."""

from __future__ import annotations

import polars as pl

from rayline.tune import tables


def test_names_are_short_where_they_stay_different() -> None:
    frame = pl.DataFrame({"trial": [1], "config/eta": [0.1], "config/preprocessor/impute/strategy": ["mean"]})
    assert tables.plain_names(frame).columns == ["trial", "eta", "impute/strategy"]
    same = pl.DataFrame({"score": [1], "config/score": [0.1]})
    assert tables.plain_names(same).columns == ["score", "config/score"]


def test_notebooks_get_few_digits_and_no_code() -> None:
    frame = pl.DataFrame({"name": ["<b>", "x" * 200], "score": [0.123456789, None], "error": [None, None]})
    made = tables.as_html(frame)
    assert "&lt;b&gt;" in made
    assert "<b>" not in made
    assert ">0.12346<" in made
    assert ">–<" in made
    assert "error" not in made  # nothing failed
    assert "x" * 61 not in made
    assert made.count("font-weight:bold") == 2  # the two cells of the best row


def test_terminals_get_no_types() -> None:
    assert "f64" not in tables.table_as_text(pl.DataFrame({"score": [0.5]}))

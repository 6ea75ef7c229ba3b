"""Pictures of explanations: what is drawn, and where.

Covers `evaluate.axes` too.
"""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

import rayline as rl
from rayline.evaluate import plot_contributions, plot_dependence

pytest.importorskip("matplotlib")

ROW = {"a": 2.0, "b": -0.5, "base_value": 1.0, "score": 2.5}


@pytest.mark.parametrize(
    "given", [ROW, [ROW], pl.DataFrame([ROW]), pl.DataFrame([ROW]).to_pandas(), pl.DataFrame([ROW]).to_arrow()]
)
def test_bars_lead_from_the_base_value_to_the_score(given: Any) -> None:
    axis: Any = plot_contributions(given)  # Matplotlib types the members of an axis loosely
    bars = [(round(p.get_x(), 9), round(p.get_x() + p.get_width(), 9)) for p in axis.patches]
    assert bars == [(1.0, 0.5), (0.5, 2.5)]
    assert [t.get_text() for t in axis.get_yticklabels()] == ["b", "a"]
    said = [t.get_text() for t in axis.texts]
    assert "base value 1" in said
    assert "score 2.5" in said


def test_small_contributions_are_one_bar() -> None:
    row = {f"c{i}": float(20 - i) for i in range(20)}
    axis = plot_contributions({**row, "base_value": 0.0, "score": sum(row.values())})
    assert axis.get_yticklabels()[0].get_text() == "8 other columns"


def test_dependence_is_a_line_and_categories_are_dots() -> None:
    numbers = pl.DataFrame({"x": [1, 2, 3], "probability_no": [0.9, 0.8, 0.5], "probability_yes": [0.1, 0.2, 0.5]})
    curves = pl.concat([numbers.with_columns(row=pl.lit(i)) for i in range(2)])
    axis: Any = plot_dependence(numbers, ice=curves)
    assert [list(line.get_ydata()) for line in axis.lines] == [[0.1, 0.2, 0.5]] * 3
    days = numbers.with_columns(x=pl.date_range(pl.date(2024, 1, 1), pl.date(2024, 1, 3)))
    assert len(plot_dependence(days).lines) == 1
    assert plot_dependence(numbers, of="probability_no").get_ylabel() == "probability_no"
    words = plot_dependence(pl.DataFrame({"city": ["Oslo", None], "prediction": [1.0, 2.0]}))
    assert [t.get_text() for t in words.get_yticklabels()] == ["Oslo", "missing"]


def test_wrong_use_is_refused() -> None:
    with pytest.raises(rl.ParameterError, match="2 rows"):
        plot_contributions([ROW, ROW])
    with pytest.raises(rl.SchemaError, match="base_value"):
        plot_contributions({"a": 1.0})
    with pytest.raises(rl.ParameterError, match="of"):
        plot_dependence(pl.DataFrame({"x": [1.0], "prediction": [1.0]}), of="probability_yes")


def test_only_an_axis_is_drawn_on() -> None:
    numbers = pl.DataFrame({"x": [1.0, 2.0], "prediction": [1.0, 2.0]})
    for draw in (lambda ax: plot_contributions(ROW, ax), lambda ax: plot_dependence(numbers, ax)):
        with pytest.raises(rl.ParameterError, match="ax has a wrong value"):
            draw(5)

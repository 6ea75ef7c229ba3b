"""Plots of the card: marks, names and bars.

Covers `inference.svg_plots` too.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from rayline.inference.svg_plots import bars, confusion_table, lines, number, ticks


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (12.0, "12"), (24491.3, "24,490"), (0.91994, "0.9199"), (-17321.0, "-17,320"), (1e-7, "1e-07"),
     (1e20, "1e+20"), (99999.9, "100,000"), (5.0, "5"), (float("inf"), "inf"), (1234567, "1,235,000")],
)  # fmt: skip
def test_number(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize("high", [1e-6, 0.003, 0.7, 1.0, 25.0, 180.0, 9_000.0, 25_000.0, 123_456.0, 8e6, 3e9])
@pytest.mark.parametrize("low", [0.0, -1.0])
def test_marks_differ_and_are_short(low: float, high: float) -> None:
    found = ticks(low * high, high)
    texts = [text for _, text in found]
    assert 2 <= len(found) <= 11
    assert len({*texts}) == len(texts)
    assert max(map(len, texts)) <= 8
    assert high < 1e-3 or not any("e" in text for text in texts)


def test_each_line_is_named_at_its_end() -> None:
    svg = lines({"train": [(0, 3), (1, 1)], "test": [(0, 3), (1, 1.001)]}, x="iteration", y="rmse")
    ElementTree.fromstring(svg)
    places = {text: float(y) for y, text in re.findall(r'y="([0-9.]+)"[^>]*>(train|test)<', svg)}
    assert abs(places["train"] - places["test"]) >= 12  # neither stands over the other
    assert svg.count("stroke-dasharray") == 1  # distinguished in grey


def test_a_histogram_has_bars() -> None:
    svg = bars([0.0, 1.0, 2.0, 3.0], [4, 0, 2], x="error", y="rows")
    assert svg.count("<rect") == 3
    assert "polyline" not in svg


@pytest.mark.parametrize("n", [2, 12])
def test_long_names_of_classes_can_be_read(n: int) -> None:
    labels = [f"the class of number {i}" for i in range(n)]
    svg = confusion_table(labels, [[i + j for j in range(n)] for i in range(n)], x="predicted", y="true")
    texts = re.findall(r">([^<]+)</text>", svg)
    assert sum(label in texts for label in labels) == n

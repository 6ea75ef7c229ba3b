"""The palette and the style that all pages share, measured: contrast, colour blindness, one place for colours."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from rayline.core import design

SOURCE = Path(__file__).parents[2] / "src" / "rayline"

CONES = {
    "all": np.eye(3),
    # Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear(color: str) -> np.ndarray:
    color = color.lstrip("#")
    color = "".join(2 * c for c in color) if len(color) == 3 else color
    values = np.array([int(color[i : i + 2], 16) for i in (0, 2, 4)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """Of WCAG 2: between 1 and 21."""
    low, high = sorted(float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (one, other))
    return (high + 0.05) / (low + 0.05)


def oklab(values: np.ndarray) -> np.ndarray:
    """Ottosson (2020)."""
    lms = np.array([[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
                    [0.0883024619, 0.2817188376, 0.6299787005]]) @ values  # fmt: skip
    return np.array([[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
                     [0.0259040371, 0.7827717662, -0.8086757660]]) @ np.cbrt(lms)  # fmt: skip


def variables() -> dict[str, tuple[str, str]]:
    found = re.findall(r"--([\w-]+): light-dark\((#\w+), (#\w+)\)", design.CSS)
    return {name: (light, dark) for name, light, dark in found}


@pytest.mark.parametrize("cones", CONES)
def test_series_stay_apart_for_every_reader(cones: str) -> None:
    seen = [oklab(np.clip(np.array(CONES[cones]) @ linear(c), 0, 1)) for c in design.COLORS]

    def closest(places: list[np.ndarray]) -> float:
        return min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(places, 2))

    assert closest(seen[:4]) >= 0.12
    assert closest(seen) >= 0.06


def test_colors_stand_out_from_both_pages() -> None:
    names = variables()
    for page in names["surface"]:
        assert min(contrast(color, page) for color in design.COLORS) >= 3  # WCAG's for graphics
    for mode in (0, 1):
        for text in ("text", "muted", "accent", "good", "bad"):
            assert contrast(names[text][mode], names["surface"][mode]) >= 4.5, text  # WCAG's for text
            assert contrast(names[text][mode], names["soft"][mode]) >= 4.5, text
        assert contrast(names["on-accent"][mode], names["accent"][mode]) >= 4.5


def test_a_number_can_be_read_on_every_shade() -> None:
    names = variables()
    for text, page in zip(names["text"], names["surface"], strict=True):
        for share in np.linspace(0, 1, 11):
            opacity = design.shade(share)
            values = [opacity * int(design.COLORS[0][i : i + 2], 16) for i in (1, 3, 5)]
            below = [
                int("".join(2 * c for c in page[1:])[i : i + 2] if len(page) == 4 else page[i + 1 : i + 3], 16)
                for i in (0, 2, 4)
            ]
            mixed = [round(v + (1 - opacity) * b) for v, b in zip(values, below, strict=True)]
            assert contrast(text, "#" + "".join(f"{v:02x}" for v in mixed)) >= 4.5


def test_the_bar_has_the_first_color() -> None:
    assert f"background: {design.COLORS[0]}" in design.CSS


def test_every_color_and_size_of_type_stands_in_one_file() -> None:
    allowed = {"#fff", "#222", "#eee"}  # a browser's own list of options
    for path in SOURCE.rglob("*.py"):
        if path.name != "design.py":
            found = {*re.findall(r"#(?:[0-9a-f]{3}|[0-9a-f]{6})(?![0-9a-fA-F\w])", path.read_text(encoding="utf-8"))}
            assert found <= allowed, f"{path.name}: {sorted(found)} belong into core/design.py"
    used = {name for path in SOURCE.rglob("*.py") for name in re.findall(r"var\(--(\w[\w-]*)", path.read_text("utf-8"))}
    assert used <= {*re.findall(r"--([\w-]+):", design.CSS), "share"}

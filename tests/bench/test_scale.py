"""The driver's memory does not grow with the rows of a Dataset that is tuned on."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.scale import _peaks, _written

MOST_MB = 10.0
"""Growth of the driver's peak per million rows of 12 columns; collecting them would take 96 MB, and took 325."""


@pytest.mark.ray
@pytest.mark.slow
def test_the_driver_does_not_grow_with_rows(tmp_path: Path) -> None:
    sizes = 300_000, 1_500_000
    small, large = (_peaks("tune", _written(tmp_path, size))["driver"] for size in sizes)
    assert (large - small) / 1.2 < MOST_MB, f"{small:.0f} MB, then {large:.0f} MB"

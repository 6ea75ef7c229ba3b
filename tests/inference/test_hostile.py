"""Models that someone changed, with hashes made right: a typed error or predictions, never the end of the process."""

from __future__ import annotations

import importlib.util

import pytest

from tests.inference import hostile


@pytest.mark.slow
@pytest.mark.parametrize("kind", hostile.KINDS)
def test_a_changed_model_cannot_end_the_process(kind: str) -> None:
    needed = {"ensemble": "lightgbm"}.get(kind, kind.partition("-")[0])
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    assert hostile.run(kind, seed=7, truncations=100, flips=1000, values=300).startswith("done")

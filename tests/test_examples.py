"""The scripts in examples/ run as they are."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.ray
@pytest.mark.slow
def test_the_script_of_the_proposal(ray_session: Any, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "proposal.py"))["main"]()
    assert "deployed: http" in capsys.readouterr().out

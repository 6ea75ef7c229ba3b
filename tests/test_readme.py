"""The path in README.md runs as it is written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

README = Path(__file__).parents[1] / "README.md"


def test_what_it_names_exists() -> None:
    text = README.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (README.parent / target).exists(), target
    makefile = (README.parent / "Makefile").read_text(encoding="utf-8")
    for line in re.findall(r"(?:^|`)make ([a-z -]+)(?=[`\s#])", text, re.MULTILINE):
        for target in line.split():
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"


@pytest.mark.ray
@pytest.mark.slow
def test_the_path_runs(ray_session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    n = 2_000
    hour, distance = rng.integers(5, 23, n), rng.normal(1000, 300, n)
    late = rng.random(n) < 1 / (1 + np.exp(-(hour - 18) / 3))
    table = pl.DataFrame(
        {"hour": hour, "distance": distance, "carrier": rng.choice(["AA", "UA", "B6"], n), "late": late}
    )
    table.with_columns(pl.when(pl.col("distance") < 1500).then("distance")).write_parquet(tmp_path / "flights.parquet")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, str(README), "exec"), names)
    predictions = names["predictions"]
    assert predictions.count() == 400
    assert "prediction" in predictions.columns()
    assert (tmp_path / "late.rayline").exists()

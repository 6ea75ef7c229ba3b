"""Free memory: the smaller of the machine's and of the container's."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayline.core import memory


def test_the_smallest_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {name: tmp_path / name for name in ("meminfo", "max", "current", "old")}
    files["meminfo"].write_text("MemTotal: 100 kB\nMemAvailable:   80 kB\n")
    files["max"].write_text("51200\n")
    files["current"].write_text("1200\n")
    files["old"].write_text("max\n")
    monkeypatch.setattr(memory, "MEMINFO", files["meminfo"])
    monkeypatch.setattr(memory, "LIMITS", ((files["old"], files["current"]),))
    assert memory.available_bytes() == 80 << 10
    monkeypatch.setattr(memory, "LIMITS", ((files["max"], files["current"]),))
    assert memory.available_bytes() == 50_000
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "none")
    monkeypatch.setattr(memory, "LIMITS", ())
    assert memory.available_bytes() is None

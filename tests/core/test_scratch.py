"""Folders for a while, also of a process that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rayline.core import scratch


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: Any) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(scratch, "_swept", {})
    return tmp_path


def test_a_folder_goes_with_its_context(place: Path) -> None:
    with scratch.folder("part") as folder:
        (folder / "a").write_text("a")
        assert list(folder.iterdir()) == [folder / "a"]  # the lock is no content
    assert list(place.iterdir()) == []


def test_the_folders_of_a_killed_process_go_and_those_of_others_stay(place: Path, monkeypatch: Any) -> None:
    code = (
        "import sys, time; from rayline.core import scratch\n"
        "made = scratch.Scratch('killed'); print(made.path, flush=True); time.sleep(600)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(place)}, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    killed = Path(process.stdout.readline().strip())
    (place / "rayline-of-somebody-else").mkdir()
    with scratch.folder("mine"):
        assert killed.exists()  # its process lives
    process.send_signal(signal.SIGKILL)
    process.communicate()
    monkeypatch.setattr(scratch, "_swept", {})
    with scratch.folder("mine"), scratch.folder("also mine") as other:
        assert not killed.parent.exists()
        assert other.exists()
    assert [path.name for path in place.iterdir()] == ["rayline-of-somebody-else"]

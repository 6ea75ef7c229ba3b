"""A driver that is killed and started again repeats no finished fold."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
FITS = 8 * 3


def start(ray_session: Any, cache: Path, log: Path) -> subprocess.Popen[str]:
    address = ray_session.get_runtime_context().gcs_address
    return subprocess.Popen(
        [sys.executable, "-m", "tests.tune.driver", address, str(log)],
        cwd=ROOT,
        env={**os.environ, "RAYLINE_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines(log: Path) -> int:
    return len(log.read_text().splitlines()) if log.exists() else 0


def finish(process: subprocess.Popen[str]) -> tuple[int, int, str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    trained, reused, *best = out.split()
    return int(trained), int(reused), " ".join(best)


def test_a_killed_driver_is_resumed(ray_session: Any, tmp_path: Path) -> None:
    log, folder = tmp_path / "log", tmp_path / "cache" / "tune" / "killed"
    driver = start(ray_session, tmp_path / "cache", log)
    deadline = time.monotonic() + 120
    while not folder.exists() or len(list(folder.glob("*.json"))) < 5:
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() < deadline, "no fold was finished"
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    kept = len(list(folder.glob("*.json")))
    assert kept < FITS
    time.sleep(2)  # its actors die with it
    before = lines(log)
    trained, reused, best = finish(start(ray_session, tmp_path / "cache", log))
    assert (reused, trained) == (kept, FITS - kept)
    assert lines(log) - before == trained  # the framework was called so often
    # and the outcome is that of an uninterrupted run
    calm = finish(start(ray_session, tmp_path / "other", log))
    assert calm == (FITS, 0, best)

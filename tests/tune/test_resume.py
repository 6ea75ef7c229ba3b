"""A driver that is killed and started again repeats no finished fold."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rayline.core import storage
from tests.s3 import local_s3

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
FITS = 8 * 3


def start(address: str, cache: Path | str, log: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.tune.driver", address, str(log)],
        cwd=ROOT,
        env={**os.environ, "RAYLINE_CACHE": str(cache), **environment},
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


def killed(driver: subprocess.Popen[str], finished: Callable[[], int]) -> int:
    """Kill a driver that has finished some folds, and return how many."""
    deadline = time.monotonic() + 120
    while finished() < 5:
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() < deadline, "no fold was finished"
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    assert finished() < FITS
    return finished()


@pytest.mark.ray
def test_a_killed_driver_is_resumed(ray_session: Any, tmp_path: Path) -> None:
    log, folder = tmp_path / "log", tmp_path / "cache" / "tune" / "killed"
    address = ray_session.get_runtime_context().gcs_address
    kept = killed(start(address, tmp_path / "cache", log), lambda: len(list(folder.glob("*.json"))))
    time.sleep(2)  # its actors die with it
    before = lines(log)
    trained, reused, best = finish(start(address, tmp_path / "cache", log))
    assert (reused, trained) == (kept, FITS - kept)
    assert lines(log) - before == trained  # the framework was called so often
    # and the outcome is that of an uninterrupted run
    calm = finish(start(address, tmp_path / "other", log))
    assert calm == (FITS, 0, best)


def test_a_killed_search_goes_on_from_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Ray; the second driver shares nothing but the URL with the first, not even the directory of temporary files."""
    with local_s3(monkeypatch) as url:
        log, place = tmp_path / "log", f"{url}/cache"

        def finished() -> int:
            return sum(name.endswith(".json") for name in storage.list_names(f"{place}/tune/killed"))

        kept = killed(start("", place, log), finished)
        (tmp_path / "another").mkdir()
        before = lines(log)
        trained, reused, best = finish(start("", place, log, TMPDIR=str(tmp_path / "another")))
        assert (reused, trained) == (kept, FITS - kept)
        assert lines(log) - before == trained
        assert not [*(tmp_path / "another").glob("rayline-*")], "a temporary directory stayed"
        assert finish(start("", place, log)) == (0, FITS, best)
        assert finish(start("", tmp_path / "other", log)) == (FITS, 0, best)

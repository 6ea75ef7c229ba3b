"""What all tests share: one Ray a session, and which doctests need it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

from rayline.core.sockets import short_directory

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.pop("RAY_ADDRESS", None)  # no test joins a Ray that somebody else has started
os.environ.setdefault("RAY_TMPDIR", short_directory(70))  # Ray's sockets do not fit below a long TMPDIR

# Other examples at every run here, the same ones in CI: what it says of a change must be the change's doing.
hypothesis.settings.register_profile("rayline", deadline=None, max_examples=25, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.load_profile("rayline")


@pytest.fixture(scope="session")
def ray_session() -> Iterator[Any]:
    """A quiet local Ray of 2 CPUs, started by the first test that asks for it."""
    import ray

    assert not ray.is_initialized(), "a test started Ray without asking for ray_session"
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield ray
    ray.shutdown()

"""Who holds what others wait for is named: actors, placement groups, and the rest as tasks.

Covers `engine.placement` too.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rayline.compat.ray import LiveActor
from rayline.engine import holders as module
from rayline.engine.holders import holders
from rayline.engine.placement import busy

ACTORS = [
    LiveActor("Server", "late", {"CPU": 1.0}, "01", "python mine.py"),
    LiveActor("Trial", "", {"CPU": 2.0}, "02", "python search.py"),
    LiveActor("Trial", "", {"CPU": 2.0}, "02", "python search.py"),
    LiveActor("Waiter", "", {"CPU_group_1": 4.0}, "02", "python search.py"),
]
GROUPS = {
    "a": {"name": "train.fit workers", "state": "CREATED", "bundles": {0: {"CPU": 1.5}, 1: {"CPU": 1.5}}},
    "b": {"name": "", "state": "PENDING", "bundles": {0: {"CPU": 9.0}}},
}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "live_actors", lambda: ACTORS)
    monkeypatch.setattr(module, "placement_group_table", lambda: GROUPS)
    monkeypatch.setattr("ray.get_runtime_context", lambda: SimpleNamespace(get_job_id=lambda: "01"))


def test_the_largest_first_and_the_rest_are_tasks(cluster: None) -> None:
    assert holders("CPU", 9.5) == (
        "2 actors Trial of `python search.py` (4 CPU), placement group 'train.fit workers' (3 CPU), "
        "actor Server 'late' (1 CPU), tasks (1.5 CPU)"
    )
    assert holders("CPU", 8.0).endswith("actor Server 'late' (1 CPU)")
    assert holders("GPU", 1.0) == "tasks (1 GPU)"
    assert holders("GPU", 0.0) == ""


def test_no_more_than_a_line(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [LiveActor(f"Kind{i}", "", {"CPU": 1.0 + i}, "02", "x" * 300) for i in range(500)]
    monkeypatch.setattr(module, "live_actors", lambda: many)
    said = holders("CPU", 1e6)
    assert said.startswith("actor Kind499")
    assert "tasks and other actors (" in said
    assert len(said) < 600


@pytest.mark.ray
def test_a_wait_names_who_holds_the_cpus(ray_session: Any) -> None:
    kind = ray_session.remote(num_cpus=2)(_Occupant)
    holder = kind.options(name="mine").remote()
    try:
        ray_session.get(holder.is_there.remote())
        said = busy("waiting for 2 CPU")
        assert said == "waiting for 2 CPU: 0 of 2 CPU free; held by actor _Occupant 'mine' (2 CPU)"
    finally:
        ray_session.kill(holder)


class _Occupant:
    def is_there(self) -> None:
        pass

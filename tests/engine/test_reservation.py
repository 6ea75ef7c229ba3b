"""Placement groups end with the process that has asked for them.

Covers `engine.group_cleaner` too.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from rayline.engine.group_cleaner import groups_of, remove_groups
from rayline.engine.reservation import end_with_process, reserve

ODD_BYTES = 1_234_567.0
"""An amount of memory by which groups are found that have no name of ours."""


class Reserves:
    def reserve(self) -> None:
        from ray.util.placement_group import placement_group

        reserve([{"memory": 1.0}, {"memory": 2.0}], "test of a holder")
        end_with_process(ODD_BYTES)
        placement_group([{"memory": ODD_BYTES}] * 2)


@pytest.mark.ray
def test_groups_of_an_actor_end_with_its_process(ray_session: Any) -> None:
    holder = ray_session.remote(num_cpus=0)(Reserves).remote()
    ray_session.get(holder.reserve.remote())
    mine = reserve([{"memory": 1.0}], "test of a driver")
    try:
        assert [len(groups_of(mark)) for mark in ("test of a holder #", ODD_BYTES)] == [1, 1]
        ray_session.kill(holder)
        deadline = time.monotonic() + 60
        while groups_of("test of a holder #") or groups_of(ODD_BYTES):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert [*groups_of("test of a driver #")] == [mine.id.hex()]
    finally:
        remove_groups("test of a driver #")
    assert not groups_of("test of a driver #")

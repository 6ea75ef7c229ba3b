"""The actor that removes the placement groups of tasks and actors whose process has ended.

Ray removes a placement group with the job, or with the detached actor, that has made it. One of a task or of another actor whose process is
killed would stay until the job ends: its resources are lost, also to the same task when Ray tries it again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, TypeAlias

import ray
from ray import PlacementGroupID
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

Mark: TypeAlias = str | float
"""What placement groups are found by: a part of their name, or the memory of their bundles, where their names are not ours."""

QUIET_LOOKS = 2
"""How many looks in a row have to find no placement group of those that have ended."""

LOOK_S = 0.5
"""Seconds between two looks."""

REST_S = 2.0
"""Seconds without a process to watch after which the actor ends."""


def groups_of(mark: Mark) -> dict[str, Mapping[str, Any]]:
    """Return the placement groups with this mark that are not removed, by id."""
    return {
        group: entry
        for group, entry in placement_group_table().items()
        if entry["state"] != "REMOVED" and _has(entry, mark)
    }


def remove_groups(mark: Mark) -> None:
    """Remove the placement groups with this mark. Look again until none has come since: what makes them may end a moment later."""
    quiet = 0
    while quiet < QUIET_LOOKS:
        groups = groups_of(mark)
        for group in groups:
            remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group))))
        quiet = 0 if groups else quiet + 1
        time.sleep(LOOK_S if quiet < QUIET_LOOKS else 0)


def _has(entry: Mapping[str, Any], mark: Mark) -> bool:
    if isinstance(mark, str):
        return mark in entry["name"]
    return all(bundle.get("memory") == mark for bundle in entry["bundles"].values())


@ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0, max_concurrency=10_000)
class GroupCleaner:
    """Waits for the end of processes. It is detached, as it outlives those whose groups it removes, and ends after the last of them."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_over = asyncio.Event()

    async def run(self) -> None:
        """Return when this actor ends: the process that calls this owns a result that can be awaited for as long as both live."""
        await self._is_over.wait()

    async def watch(self, mark: Mark, result: list[Any]) -> None:
        """Remove the groups of this mark when the process that owns a result has ended."""
        self._tasks.add(asyncio.create_task(self._clean(mark, result[0])))

    async def leave(self) -> None:
        """End this process, unless it has something to watch again."""
        if not self._tasks:
            self._is_over.set()
            ray.actor.exit_actor()

    async def _clean(self, mark: Mark, result: Any) -> None:
        try:
            await result
        except RayError:
            await asyncio.to_thread(remove_groups, mark)
        await asyncio.sleep(REST_S)
        self._tasks -= {asyncio.current_task()}
        if not self._tasks:
            ray.get_runtime_context().current_actor.leave.remote()

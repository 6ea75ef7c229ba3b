"""Placement groups that end with the process that asks for them, be it a driver, a task or an actor."""

from __future__ import annotations

import contextlib
import functools
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.util.placement_group import PlacementGroup, placement_group

from rayline.engine.group_cleaner import GroupCleaner, Mark
from rayline.engine.holders import NUMBER
from rayline.engine.session import connection, in_worker

HEAD = {"node:__internal_head__": 0.001}
"""Ray's own resource of the head node: with this node the whole cluster ends."""

START_S = 120.0
"""Seconds within which the process of the cleaner has to start."""

_PROCESS = f"{NUMBER}{secrets.token_hex(8)}"


def reserve(bundles: Sequence[Mapping[str, float]], what: str, **options: Any) -> PlacementGroup:
    """Ask for a placement group, packed on few nodes. Its name begins with `what` and is unique: Ray refuses a second one of the same name."""
    end_with_process(_PROCESS)
    name = f"{what}{_PROCESS}-{secrets.token_hex(8)}"
    return placement_group([dict(bundle) for bundle in bundles], strategy="PACK", name=name, **options)


def start_cleaner() -> None:
    """Start what a later `reserve` waits for."""
    if in_worker():
        _cleaning(_PROCESS, connection())


def end_with_process(mark: Mark) -> None:
    """Have the placement groups of this mark removed when this process ends, where Ray does not do that: in a task or an actor."""
    if not in_worker():
        return
    with contextlib.suppress(GetTimeoutError):  # then Ray removes them with the job
        try:
            ray.get(_cleaning(mark, connection())[1], timeout=START_S)
        except RayActorError:  # it was about to end
            _cleaning.cache_clear()
            ray.get(_cleaning(mark, connection())[1], timeout=START_S)


@functools.lru_cache(maxsize=64)
def _cleaning(mark: Mark, session: str) -> tuple[Any, Any]:  # noqa: ARG001  # part of the key
    """Have a mark watched, once in a connection. Return the result of this process that is awaited, and one that is there as soon as it is."""
    cleaner = GroupCleaner.options(  # type: ignore[attr-defined]
        name=f"rayline placement groups {ray.get_runtime_context().get_job_id()}",
        namespace="rayline",
        lifetime="detached",
        get_if_exists=True,
        resources=HEAD,
    ).remote()
    result = cleaner.run.remote()
    return result, cleaner.watch.remote(mark, [result])

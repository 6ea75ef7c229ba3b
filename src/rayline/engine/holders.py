"""The holders of a resource of the cluster: a message about a wait names actors and placement groups."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import ray
from ray.util.placement_group import placement_group_table

from rayline.compat.ray import live_actors
from rayline.core.errors import counted

MAX_HOLDERS = 4
"""The most holders that a line names."""

NUMBER = " #"
"""The beginning of what makes the name of a placement group unique: not shown."""

PROGRAM = 60
"""The longest command of another program that a line shows."""


class _Holder(NamedTuple):
    kind: str
    class_name: str
    name: str
    program: str

    def described(self, n: int) -> str:
        kind = self.kind if n == 1 else counted(n, self.kind)
        name, of = repr(self.name) if self.name else "", f"of `{self.program}`" if self.program else ""
        return " ".join(part for part in (kind, self.class_name, name, of) if part)


def holders(resource: str, used: float) -> str:
    """Return what holds a resource of which `used` is not free, the largest amount first; what is not known by name are tasks."""
    actors = _holders(resource)
    named = [(amount, n, holder) for holder, (amount, n) in actors.items()]
    named.sort(key=lambda entry: -entry[0])
    parts = [f"{holder.described(n)} ({amount:g} {resource})" for amount, n, holder in named[:MAX_HOLDERS]]
    rest = used - sum(amount for amount, _, _ in named[:MAX_HOLDERS])
    if rest > 0.005:
        parts.append(f"{'tasks and other actors' if len(named) > MAX_HOLDERS else 'tasks'} ({rest:g} {resource})")
    return ", ".join(parts)


def _holders(resource: str) -> dict[_Holder, tuple[float, int]]:
    here = ray.get_runtime_context().get_job_id()
    sums: dict[_Holder, tuple[float, int]] = defaultdict(lambda: (0.0, 0))

    def add(holder: _Holder, amount: float) -> None:
        if amount:
            before, n = sums[holder]
            sums[holder] = before + amount, n + 1

    for actor in live_actors():  # of an actor in a placement group, the group holds the resource
        program = "" if actor.job == here else actor.program[-PROGRAM:]
        add(_Holder("actor", actor.class_name, actor.name, program), actor.resources.get(resource, 0.0))
    for group in placement_group_table().values():
        if group["state"] == "CREATED":
            amount = sum(bundle.get(resource, 0.0) for bundle in group["bundles"].values())
            add(_Holder("placement group", "", group["name"].partition(NUMBER)[0], ""), amount)
    return sums

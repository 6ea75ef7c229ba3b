"""The nodes of the cluster that new work can go to, and those that an autoscaler adds for it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import ray
from ray.util.placement_group import PlacementGroup, remove_placement_group

from rayline.compat.ray_autoscaler import AutoscalerState, autoscaler_state, draining_nodes
from rayline.core.engine import room
from rayline.core.errors import ResourceError, counted
from rayline.core.waiting import MESSAGE_DELAY_S, say
from rayline.engine.reservation import reserve
from rayline.engine.session import in_worker

LOOK_S = 1.0
"""Seconds between two looks at what an autoscaler does."""

REFUSED_LOOKS = 3
"""Looks in a row that have to find a demand refused: a node that leaves may make room for another type."""

SILENT_S = 30.0
"""Seconds after which a demand counts as refused when no node is starting; for an autoscaler that does not say what it refuses."""

ADD_S = 3600.0
"""Seconds within which an autoscaler has to add nodes."""


def usable_nodes() -> dict[str, Mapping[str, float]]:
    """Return the resources of each node that stays in the cluster, by id."""
    leaving = draining_nodes()
    return {
        node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving
    }


def lost_node(node_id: str) -> str | None:
    """Return the address of a node that has left the cluster, and why, if Ray says so; None for a node that is alive."""
    node = next((node for node in ray.nodes() if node["NodeID"] == node_id), None)
    if node is None or node["Alive"]:
        return None
    reason = str(node.get("DeathReasonMessage") or "")
    return f"{node['NodeManagerAddress']}{f' ({reason})' if reason else ''}"


def is_leaving(node_id: str) -> bool:
    """Return whether a node has left the cluster, or is about to."""
    return node_id not in usable_nodes()


class LeavingNodes:
    """Notices that one of some nodes is about to leave the cluster: preempted, drained, or not used for long.

    Attributes
    ----------
    first
        The address of the first that leaves, and when; empty where all stay.
    """

    def __init__(self, node_ids: Sequence[str]) -> None:
        self._node_ids, self._next, self.first = {*node_ids}, time.monotonic() + LOOK_S, ""

    def look(self) -> bool:
        """Look, no more often than once in `LOOK_S`. Return True when the first one is found."""
        if self.first or time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + LOOK_S
        for node_id, until in draining_nodes().items():
            if node_id in self._node_ids:
                address = next((n["NodeManagerAddress"] for n in ray.nodes() if n["NodeID"] == node_id), node_id)
                left_s = until - time.time()
                self.first = (
                    f"{address}, which leaves the cluster{f' in {max(left_s, 0):.0f} s' if left_s < ADD_S else ''}"
                )
                return True
        return False


def has_room(nodes: Mapping[str, Mapping[str, float]], n: int, needs: Mapping[str, float]) -> bool:
    """Return whether so many workers fit on these nodes when nothing else is there."""
    return sum(room(has, needs) for has in nodes.values()) >= n


def nodes_for(n: int, needs: Mapping[str, float], timeout_s: float | None = None) -> dict[str, Mapping[str, float]]:
    """Return the resources of each node, without what this task or actor itself holds of those that are needed. Where they have no room
    for so many workers, an autoscaler adds nodes first, if it can; `timeout_s` as of `add_nodes`."""
    nodes = _without_own(needs)
    if not has_room(nodes, n, needs) and add_nodes([needs] * n, timeout_s):
        return _without_own(needs)
    return nodes


def held_here(name: str) -> float:
    """Return how much of a resource the current task or actor holds; 0 on the driver."""
    if not (ray.is_initialized() and in_worker()):
        return 0.0
    return float(ray.get_runtime_context().get_assigned_resources().get(name, 0.0))


def _without_own(names: Iterable[str]) -> dict[str, Mapping[str, float]]:
    nodes, held = usable_nodes(), {name: amount for name in names if (amount := held_here(name))}
    if held and (here := ray.get_runtime_context().get_node_id()) in nodes:
        nodes[here] = {name: amount - held.get(name, 0.0) for name, amount in nodes[here].items()}
    return nodes


def can_grow() -> bool:
    """Return whether an autoscaler adds nodes to this cluster."""
    return autoscaler_state() is not None


def coming() -> str:
    """Return what an autoscaler does, as part of a line about a wait; empty where there is none."""
    state = autoscaler_state()
    return "" if state is None else f"; the autoscaler {_described(state)}"


def add_nodes(bundles: Sequence[Mapping[str, float]], timeout_s: float | None = None) -> bool:
    """Have an autoscaler add nodes with room for all of these bundles, and wait until they are there.

    Returns
    -------
    bool
        False when there is no autoscaler, or it has no nodes for them.

    Raises
    ------
    ResourceError
        When the nodes are not there within `timeout_s`, by default `ADD_S`.
    """
    if autoscaler_state() is None:
        return False
    group = reserve(bundles, "nodes to add")
    try:
        return _Wait(group, bundles, ADD_S if timeout_s is None else timeout_s).until_there()
    finally:
        remove_placement_group(group)


@dataclass
class _Wait:
    """The wait for a placement group that needs new nodes."""

    group: PlacementGroup
    bundles: Sequence[Mapping[str, float]]
    timeout_s: float
    n_refused: int = 0
    last_line: str = ""
    began: float = field(default_factory=time.monotonic)

    def until_there(self) -> bool:
        active = self.began
        while not self.group.wait(LOOK_S):
            state, now = autoscaler_state(), time.monotonic()
            if state is None:
                return False
            if state.refused is None:
                active = now if state.starting else active
                if now - active > SILENT_S:
                    return False
            elif self.group.id.hex() in state.refused:
                self.n_refused += 1
                if self.n_refused >= REFUSED_LOOKS:
                    return False
            else:
                self.n_refused = 0
            self._say(state, now)
        return True

    def _say(self, state: AutoscalerState, now: float) -> None:
        waits_for, does = f"waiting for nodes with room for {described(self.bundles)}", _described(state)
        if now - self.began > self.timeout_s:
            raise ResourceError.here(
                f"{waits_for} took more than {self.timeout_s:g} s.",
                f"Expected the autoscaler to add them; it {does}.",
                "look at `ray status`, ask for less, or for resources that the nodes have.",
            )
        if now - self.began > MESSAGE_DELAY_S and does != self.last_line:
            self.last_line = does
            say(f"{waits_for}: the autoscaler {does}")


def described(bundles: Sequence[Mapping[str, float]]) -> str:
    """Return these bundles as text: 2 × (1 CPU, 1 GPU)."""
    each = Counter(", ".join(f"{amount:g} {name}" for name, amount in bundle.items()) for bundle in bundles)
    return " and ".join(f"{n} × ({text})" for text, n in each.items())


def _described(state: AutoscalerState) -> str:
    starting = ", ".join(f"{counted(n, 'node')} of type {name!r}" for name, n in state.starting.items() if n)
    does = f"is starting {starting}" if starting else "has been asked"
    failed = (
        f"; {counted(len(state.failures), 'start')} failed, the last: {state.failures[-1]}" if state.failures else ""
    )
    return does + failed

"""What Ray's head node knows of nodes that come and go: private names of Ray."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from rayline.compat.private_name import register
from rayline.compat.ray import RAY, gcs_client, get_cluster_value

_CLUSTER_STATUS = register(
    "ray._raylet:InnerGcsClient.get_cluster_status",
    RAY,
    use="See whether an autoscaler adds nodes, which ones are starting, and which demand it has refused.",
    fallback="A demand that the nodes have no room for now is refused, though an autoscaler could add one.",
)
_CLUSTER_STATUS_REPLY = register(
    "ray.core.generated.autoscaler_pb2:GetClusterStatusReply",
    RAY,
    use="Read the answer to that question.",
    fallback=_CLUSTER_STATUS.fallback,
)
_DRAINING_NODES = register(
    "ray._private.state:GlobalState.get_draining_nodes",
    RAY,
    use="Start nothing on a node that is about to leave, and move a training away from it.",
    fallback="A training goes on until the node has left, and resumes from its last checkpoint.",
)

_STATUS_KEY = "__autoscaling_status"
"""Where the first version of the autoscaler reports; the second reports with the cluster's status."""

_OF_NO_AUTOSCALER = "node_"
"""How names of node types begin that Ray gives to nodes which no autoscaler has started."""


class AutoscalerState(NamedTuple):
    """What an autoscaler does.

    Attributes
    ----------
    starting
        Nodes that are being started, by type.
    failures
        Why nodes could not be started.
    refused
        Placement groups, by id in hexadecimal, that no nodes which it can add have room for; None where it does not say.
    """

    starting: Mapping[str, int]
    failures: tuple[str, ...]
    refused: frozenset[str] | None


def autoscaler_state() -> AutoscalerState | None:
    """Return what the autoscaler of this process' cluster does; None where there is none, or Ray does not say."""
    import ray

    reply = _CLUSTER_STATUS_REPLY.find()
    if reply is None or _CLUSTER_STATUS.find() is None or not ray.is_initialized():
        return None
    try:
        client = gcs_client(ray.get_runtime_context().gcs_address)
        status = reply.FromString(client.get_cluster_status())
        report = json.loads(get_cluster_value(_STATUS_KEY) or "{}")
    except Exception:  # the head node does not answer
        return None
    nodes = status.cluster_resource_state.node_states
    if status.autoscaling_state.autoscaler_state_version and any(n.instance_id or n.ray_node_type_name for n in nodes):
        return _of_second_version(status.autoscaling_state)
    return _of_first_version(report.get("autoscaler_report"))


def _of_second_version(state: Any) -> AutoscalerState:
    starting = Counter({request.ray_node_type_name: request.count for request in state.pending_instance_requests})
    starting.update(node.ray_node_type_name for node in state.pending_instances)
    failures = tuple(f"{failed.ray_node_type_name}: {failed.reason}" for failed in state.failed_instance_requests)
    gangs = state.infeasible_gang_resource_requests
    return AutoscalerState(starting, failures, frozenset(gang.details.partition(":")[0] for gang in gangs))


def _of_first_version(report: Mapping[str, Any] | None) -> AutoscalerState | None:
    if not report or any(name.startswith(_OF_NO_AUTOSCALER) for name in report.get("active_nodes") or {}):
        return None
    starting = Counter(report.get("pending_launches") or {})
    starting.update(node_type for _, node_type, _ in report.get("pending_nodes") or ())
    failures = tuple(f"{node_type} at {address}" for address, node_type in report.get("failed_nodes") or ())
    return AutoscalerState(starting, failures, None)


def draining_nodes() -> dict[str, float]:
    """Return the nodes that are about to leave this process' cluster, by id, each with the time (seconds since the epoch) until which it
    stays; infinity where it has none."""
    if _DRAINING_NODES.find() is None:
        return {}
    from ray._private.state import state

    with contextlib.suppress(Exception):
        deadlines = state.get_draining_nodes().items()
        return {node: deadline_ms / 1000 if deadline_ms else float("inf") for node, deadline_ms in deadlines}
    return {}

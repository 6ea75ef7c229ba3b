"""A cluster whose nodes an autoscaler adds and removes: Ray's provider of pretended machines, each a raylet on this one."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

HEAD_ID = "f" * 51 + "00000"
"""The id that Ray's provider of pretended nodes expects of the head."""

IDLE_MINUTES = 0.2
"""How long a node without work stays."""


@contextlib.contextmanager
def autoscaling(types: Mapping[str, Mapping[str, Any]], *, second: bool = True) -> Iterator[Any]:
    """Yield a cluster with a head of no CPUs and nodes of these types on demand (`resources` and `max_workers` of each), by the second
    version of Ray's autoscaler or the first. Call it in a process of its own: it changes the environment. Ray's own `AutoscalingCluster`
    ends every Ray of the machine first, and needs a file that is not in the wheel.
    """
    os.environ |= {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
    of_head = {"RAY_CLOUD_INSTANCE_ID": HEAD_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID} if second else {}
    os.environ |= {"RAY_enable_autoscaler_v2": "1" if second else "0", **of_head}
    import ray
    from ray.cluster_utils import Cluster

    with socket.socket() as place, tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        place.bind(("", 0))
        port = place.getsockname()[1]
        json.dump(_config(f"{ray.util.get_node_ip_address()}:{port}", types, second=second), file)
        file.flush()
        place.close()
        head = {"num_cpus": 0, "include_dashboard": False, "gcs_server_port": port, "autoscaling_config": file.name}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        for name in of_head:
            del os.environ[name]
        try:
            ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


def _config(address: str, types: Mapping[str, Mapping[str, Any]], *, second: bool) -> dict[str, Any]:
    head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    provider = {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "gcs_address": address,
    } | ({"launch_multiple": True, "head_node_id": HEAD_ID} if second else {})
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return {
        "cluster_name": "pretended",
        "max_workers": 8,
        "provider": provider,
        "available_node_types": {
            "ray.head.default": head,
            **{name: {"node_config": {}, "min_workers": 0, **of_type} for name, of_type in types.items()},
        },
        "head_node_type": "ray.head.default",
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": IDLE_MINUTES,
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        **{f"{command}_commands": [] for command in commands},
    }

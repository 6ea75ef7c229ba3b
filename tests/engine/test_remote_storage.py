"""Checkpoints on an S3 that two nodes with directories of their own share, by both backends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import rayline as rl

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SCRIPT = """
import os, sys
from pathlib import Path

import polars as pl
import pytest
import ray
from ray.cluster_utils import Cluster

from rayline.core import registry, storage
from tests.engine.test_train_backend import counted
from tests.s3 import local_s3

folder, backend = Path(sys.argv[1]), sys.argv[2]
table = pl.DataFrame({"x": [float(i) for i in range(101)]})


def work(worker):
    begun, n, rows = counted(worker)
    return begun, n, rows, os.environ["TMPDIR"]


def node(cluster, name):
    (folder / name).mkdir()
    return cluster.add_node(num_cpus=1, env_vars={"TMPDIR": str(folder / name)})


patch = pytest.MonkeyPatch()
with local_s3(patch) as url:  # before the nodes start: they inherit the environment
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes = [node(cluster, "one"), node(cluster, "two")]
        ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
        heard = []

        def on_report(iteration, metrics):
            heard.append(iteration)
            if iteration == 7 and len(nodes) == 2:
                cluster.remove_node(nodes.pop())
                nodes.append(node(cluster, "three"))  # a fresh disk
                nodes.append(None)
            return False

        found = registry.engine("ray").train(
            work, num_workers=2, resources_per_worker={"CPU": 1}, train=table, on_report=on_report, checkpoint_every=2, max_failures=2, storage_path=f"{url}/runs",
            backend=backend,
        )
        assert heard[-1] == 19 and sorted({*heard}) == list(range(20)), heard
        assert all(begun > 0 and n == 2 for begun, n, _, _ in found), found  # it went on from the checkpoint
        assert sum(rows for _, _, rows, _ in found) == 101
        assert {Path(temporary).name for _, _, _, temporary in found} == {"one", "three"}, found
        assert storage.list_names(f"{url}/runs"), "nothing was stored"
    finally:
        ray.shutdown()
        cluster.shutdown()
"""


@pytest.mark.parametrize("backend", ["actors", "ray_train"])
def test_two_nodes_that_share_an_s3_alone(tmp_path: Path, backend: str) -> None:
    pytest.importorskip("moto")
    root = Path(rl.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), backend],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]

"""Ray Train as a backend: what it adds to the contract of a worker, which `test_workers` tests for both backends."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from rayline import train
from rayline.core import registry
from rayline.core.errors import DataError, ResourceError
from tests.engine.test_workers import script

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def counted(worker: Any) -> tuple[int, int, int]:
    """Twenty iterations with a checkpoint after each second; returns where it began, on how many ranks, and its rows."""
    begun = 0 if worker.resume is None else int((worker.resume / "state").read_text()) + 1
    for i in range(begun, 20):
        time.sleep(0.1)
        worker.report(i, {"n": worker.world_size})
        worker.checkpoint(i, lambda directory, i=i: (directory / "state").write_text(str(i)) and None)
    return begun, worker.world_size, sum(block().height for block in worker.train)


def test_the_training_goes_on_with_fewer_workers_when_a_node_is_removed(tmp_path: Path) -> None:
    script(
        "from ray.cluster_utils import Cluster\n"
        "from tests.engine.test_train_backend import counted\n"
        "cluster = Cluster(initialize_head=True, head_node_args={'num_cpus': 0, 'include_dashboard': False})\n"
        "nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]\n"
        "ray.init(cluster.address, log_to_driver=False, logging_level='ERROR')\n"
        "heard = []\n"
        "def on_report(iteration, metrics):\n"
        "    heard.append((iteration, metrics['n']))\n"
        "    if iteration == 7: cluster.remove_node(nodes.pop())\n"
        "    return False\n"
        "out = engine.train(counted, num_workers=(1, 2), train=TABLE, on_report=on_report, checkpoint_every=2, backend='ray_train')\n"
        "(begun, n, rows), = out\n"
        "assert n == 1 and rows == 101 and 5 < begun <= 10, out\n"
        "assert [i for i, _ in heard] == list(range(20)), heard\n"
        "assert heard[0][1] == 2 and heard[-1][1] == 1, heard\n"
        "ray.shutdown(); cluster.shutdown()\n",
        tmp_path,
    )


def test_nothing_is_left_of_it(ray_session: Any) -> None:
    table = pl.DataFrame({"x": [0.0, 1.0] * 50, "y": ["no", "yes"] * 50})
    scaling = train.Scaling(num_workers=2, backend="ray_train")
    before = ray_session.util.placement_group_table()
    with pytest.raises(DataError, match="wrong"):
        registry.engine("ray").train(_wrong, num_workers=2, train=table, backend="ray_train")
    result = train.XGBoostTrainer({"max_depth": 1}, num_boost_round=3, seed=1, scaling=scaling).fit(
        None, table, None, ["y"], verbose=False
    )
    assert result.history.height == 3
    until = time.monotonic() + 30
    while time.monotonic() < until:
        groups = ray_session.util.placement_group_table()
        left = [name for name, group in groups.items() if name not in before and group["state"] != "REMOVED"]
        free = ray_session.available_resources().get("CPU")
        if not left and free == 2:
            break
        time.sleep(0.2)
    assert (left, free) == ([], 2)


def _wrong(worker: Any) -> None:
    raise DataError("wrong")


def test_a_group_that_has_no_room_is_refused_before_it_starts(ray_session: Any) -> None:
    before = ray_session.util.placement_group_table()
    with pytest.raises(ResourceError, match="3 workers do not fit"):
        registry.engine("ray").train(_wrong, num_workers=(3, 4), train=None, backend="ray_train")
    assert ray_session.util.placement_group_table() == before


def test_both_backends_train_the_same_model(ray_session: Any) -> None:
    table = pl.DataFrame({"x": [float(i % 7) for i in range(200)], "y": [float(i % 7 > 3) for i in range(200)]})
    made = [
        train.XGBoostTrainer(
            {"max_depth": 2}, num_boost_round=4, seed=1, scaling=train.Scaling(num_workers=2, backend=backend)
        ).fit(None, table, table, ["y"], verbose=False)
        for backend in ("actors", "ray_train")
    ]
    one, two = (result.inference_pipeline.predict(table) for result in made)
    assert one.equals(two)
    assert made[0].history.equals(made[1].history)

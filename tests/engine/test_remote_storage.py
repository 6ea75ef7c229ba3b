"""Checkpoints, results of a search and predictions on an S3 that two nodes with directories of their own share."""

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


SEARCH = """
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import ray
from ray.cluster_utils import Cluster

from rayline import data, train, tune
from rayline.core import storage
from tests.s3 import local_s3

folder = Path(sys.argv[1])
random = np.random.default_rng(0)
x = random.normal(size=(400, 2))
table = pl.DataFrame({"x": x[:, 0], "z": x[:, 1], "late": np.where(x[:, 0] > random.normal(size=400), "yes", "no")})


def search(rows, url, place):
    trainer = train.XGBoostTrainer({"objective": "binary:logistic", "nthread": 1}, num_boost_round=2, seed=1)
    return tune.run(
        trainer, train_dataset=rows, target_columns=["late"], cv=2, config={"max_depth": tune.grid_search([1, 3])}, num_samples=1,
        metric="log_loss", seed=0, name="shared", resume=True, storage_path=url, run_on=place, verbose=False,
    )


patch = pytest.MonkeyPatch()
with local_s3(patch) as url:  # before the nodes start: they inherit the environment
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for name in ("one", "two"):
            (folder / name).mkdir()
            cluster.add_node(num_cpus=1, env_vars={"TMPDIR": str(folder / name)})
        ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
        rows = data.from_polars(list(table.iter_slices(100)))
        found, expected = search(rows, f"{url}/runs", "ray"), search(table, str(folder / "here"), "process")
        assert [t.scores for t in found.trials] == [t.scores for t in expected.trials]
        assert found.oof.count() == 400
        assert found.ensemble(top=2).model.native.weights == expected.ensemble(top=2).model.native.weights
        names = storage.list_names(f"{url}/runs/shared")
        assert [sum(name.endswith(end) for name in names) for end in (".json", ".npy")] == [4, 4], names
        again = search(rows, f"{url}/runs", "ray")
        assert (again.fits["trained"], again.fits["reused"]) == (0, 4), again.fits
        pipeline = expected.best_inference_pipeline
        assert pipeline.write_predictions(rows, f"{url}/predicted", rows_per_file=150) == 400
        written = data.read_parquet(f"{url}/predicted")
        assert written.count() == 400
        places = [file["prediction"] for file in written.select_columns(["prediction"]).take_all()]
        assert sorted(places) == sorted(pipeline.predict(table)["prediction"].to_list())
    finally:
        ray.shutdown()
        cluster.shutdown()
"""


@pytest.mark.parametrize("backend", ["actors", "ray_train"])
def test_two_nodes_that_share_an_s3_alone(tmp_path: Path, backend: str) -> None:
    pytest.importorskip("moto")
    run(SCRIPT, str(tmp_path), backend)


def test_a_search_and_predictions_of_two_nodes_that_share_an_s3_alone(tmp_path: Path) -> None:
    pytest.importorskip("moto")
    run(SEARCH, str(tmp_path))


def run(script: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=Path(rl.__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]

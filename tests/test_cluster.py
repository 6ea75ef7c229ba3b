"""More than one machine, simulated: each node is a raylet of its own. In a process of its own, beside the session's Ray."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import rayline as rl

TIMEOUT_S = 900
"""Several times what a machine with other work needs: whatever hangs is found."""

PATH = '''
import sys
from pathlib import Path

import polars as pl
import ray
import xgboost
from ray.cluster_utils import Cluster

import rayline as rl
from rayline import data, train, tune
from rayline.core import registry
from rayline.testing import training_table

folder = Path(sys.argv[1])


class Where(xgboost.callback.TrainingCallback):
    """Says on which node it trains."""

    def after_iteration(self, model, epoch, evals_log):
        (folder / f"node-{ray.get_runtime_context().get_node_id()}").touch()
        return False


class Keep(train.Callback):
    """What the driver is given of each checkpoint."""

    checkpoint_every = 2
    kept = []

    def on_checkpoint(self, run, iteration, directory):
        self.kept.append((iteration, sorted(path.name for path in directory.iterdir())))


if __name__ == "__main__":
    training_table(1200).select("wind", "hour", "night", "city", "noise", "late").write_parquet(folder / "t.parquet")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
        rows = data.read_parquet(folder / "t.parquet")
        trainset, testset = data.train_test_split(rows, percentage=0.25)
        stages = [(n, registry.stage(s)()) for n, s in {"impute": "SimpleImputer", "onehot": "OneHotEncoder"}.items()]
        keep = Keep()
        trainer = train.XGBoostTrainer(
            {"eta": 0.5}, num_boost_round=8, num_workers=2, seed=1, storage_path=f"{sys.argv[2]}{folder / 'store'}"
        )
        result = trainer.fit(
            train.Preprocessor(stages), trainset, testset, ["late"], callbacks=[Where(), keep], verbose=False
        )
        assert result.metrics["test-accuracy"] > 0.85, result.metrics
        nodes = {node["NodeID"] for node in ray.nodes()}
        assert {path.name.removeprefix("node-") for path in folder.glob("node-*")} == nodes, "one node did nothing"
        assert [iteration for iteration, _ in keep.kept] == [1, 3, 5, 7], keep.kept
        (run,) = (folder / "store").iterdir()
        assert [path.name for path in sorted(run.iterdir())] == ["checkpoint-00000005.tar", "checkpoint-00000007.tar"]

        predicted = result.inference_pipeline.transform(testset)
        table = registry.engine_for(predicted).collect(predicted)
        assert table["prediction"].equals(result.inference_pipeline.predict(table.drop("prediction"))["prediction"])

        analysis = tune.run(
            train.XGBoostTrainer({"eta": 0.5}, num_boost_round=5, seed=1),
            {"train_pipeline": train.Preprocessor(stages), "train_dataset": trainset, "cv": 2, "target_columns": ["late"]},
            {"max_depth": tune.grid_search([2, 4])},
            num_samples=1,
            verbose=False,
        )
        assert analysis.best_pipeline.chain(analysis.best_model).predict(table).height == table.height

        try:
            trainer = train.XGBoostTrainer({}, num_workers=2, resources_per_worker={"CPU": 2})
            trainer.fit(train.Preprocessor(stages), trainset, None, ["late"])
        except rl.ResourceError as error:
            assert "2 × 2 = 4 CPU; got 2 nodes with 1 CPU; 1 CPU" in str(error), error
        else:
            raise AssertionError("not refused")
    finally:
        ray.shutdown()
        cluster.shutdown()
'''


def run(script: str, *arguments: str) -> None:
    """A script with a Ray of its own, whose sockets and files are beside those of the session's."""
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            cwd=Path(rl.__file__).parents[2],
            env={**os.environ, "RAY_TMPDIR": folder},
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.ray
@pytest.mark.slow
def test_the_path_on_two_nodes(tmp_path: Path) -> None:
    run(PATH, str(tmp_path), "local://")  # fsspec's URL; the others: tests/engine/test_workers.py


NEVER_HANGS = """
import ray
from rayline import data, train
from rayline.testing import training_table

ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
rows = data.from_polars(list(training_table(1200).select("wind", "hour", "late").iter_slices(100)))
for resources in (None, {"CPU": 1}):
    trainer = train.XGBoostTrainer({}, num_boost_round=3, num_workers=2, resources_per_worker=resources)
    assert trainer.fit(None, rows, rows, ["late"], verbose=False).history.height == 3
ray.shutdown()
"""


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_on_two_cpus_never_hang() -> None:
    run(NEVER_HANGS)


UNLIKE_NODES = """
import os

import ray
from ray.cluster_utils import Cluster

import rayline as rl
from rayline.core import registry
from rayline.testing import training_table


def where(worker):
    return ray.get_runtime_context().get_node_id(), os.environ.get("CUDA_VISIBLE_DEVICES"), worker.n_threads


def nodes(n, **resources):
    return registry.engine("ray").train(where, num_workers=n, train=rows, resources_per_worker=resources)


rows = training_table(100)
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
try:
    gpu = cluster.add_node(num_cpus=1, num_gpus=1).node_id  # Ray does not look whether it is there
    licence = cluster.add_node(num_cpus=4, resources={"licence": 1}).node_id
    ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    assert nodes(2, GPU=0.5) == [(gpu, "0", 1)] * 2
    assert {node for node, _, _ in nodes(2, licence=0.5)} == {licence}
    assert [(node, n) for node, _, n in nodes(2, CPU=2)] == [(licence, 2)] * 2
    refused = {
        "2 × 1 = 2 GPU": (2, {"GPU": 1}),
        "3 × 0.5 = 1.5 licence": (3, {"licence": 0.5}),
        "1 × 1 = 1 GPU, 1 × 1 = 1 licence": (1, {"GPU": 1, "licence": 1}),
    }
    for says, (n, resources) in refused.items():
        try:
            nodes(n, **resources)
        except rl.ResourceError as error:
            assert says in str(error), error
        else:
            raise AssertionError(f"not refused: {says}")
finally:
    ray.shutdown()
    cluster.shutdown()
"""


@pytest.mark.ray
@pytest.mark.slow
def test_workers_go_to_the_nodes_that_have_what_they_need() -> None:
    run(UNLIKE_NODES)


SLOW = '''
class Slow(xgboost.callback.TrainingCallback):
    """Says where it is, and stays in an iteration on a node that will be lost until it is gone."""

    def after_iteration(self, model, epoch, evals_log):
        node = ray.get_runtime_context().get_node_id()
        (folder / f"{node}-{epoch}").touch()
        time.sleep(PAUSE_S)
        while epoch == LAST and (folder / f"lost-{node}").exists():
            time.sleep(0.05)
        return False


def watched_cluster():
    """Start a cluster of one CPU that soon notices a node that no longer answers."""
    quick = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000, "health_check_failure_threshold": 4}
    return Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "_system_config": quick}
    )
'''
"""The part that the scripts of nodes which leave share."""


LOST_NODE = (
    """
import sys
import threading
import time
from pathlib import Path

import ray
import xgboost
from ray.cluster_utils import Cluster

import rayline as rl
from rayline import data, train
from rayline.testing import training_table

folder = Path(sys.argv[1])
PAUSE_S, LAST = 0.0, 12
"""
    + SLOW
    + '''
def lose(node):
    """Let a node go in the middle of a training, with all its processes."""
    while not (folder / f"{node.node_id}-{LAST}").exists():
        time.sleep(0.05)
    cluster.remove_node(node, allow_graceful=False)


def fit(max_failures):
    node = cluster.add_node(num_cpus=1)
    (folder / f"lost-{node.node_id}").touch()
    cluster.wait_for_nodes()
    threading.Thread(target=lose, args=[node], daemon=True).start()
    trainer = train.XGBoostTrainer(
        {"eta": 0.3}, num_boost_round=16, num_workers=2, max_failures=max_failures, checkpoint_every=5, seed=1
    )
    return node, trainer.fit(None, rows, None, ["late"], callbacks=[Slow()], verbose=False)


if __name__ == "__main__":
    cluster = watched_cluster()
    try:
        ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
        training_table(1200).select("wind", "hour", "late").write_parquet(folder / "t.parquet")
        rows = data.read_parquet(folder / "t.parquet").repartition(4)
        node, result = fit(max_failures=1)
        assert (folder / f"{node.node_id}-{LAST}").exists() and not (folder / f"{node.node_id}-{LAST + 1}").exists()
        assert result.history["iteration"].to_list() == list(range(16)), result.history
        try:
            fit(max_failures=0)
        except rl.TrainingError as error:
            assert "was lost with its node" in str(error) and "max_failures=1" in str(error), error
        else:
            raise AssertionError("the loss of the node was not noticed")
    finally:
        ray.shutdown()
        cluster.shutdown()
'''
)


@pytest.mark.ray
@pytest.mark.slow
def test_a_lost_node_is_survived_and_named(tmp_path: Path) -> None:
    run(LOST_NODE, str(tmp_path))


DRAINED_NODE = (
    """
import io
import contextlib
import sys
import threading
import time
from pathlib import Path

import ray
import xgboost
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

from rayline import data, train
from rayline.testing import training_table

folder, elastic = Path(sys.argv[1]), sys.argv[2] == "elastic"
ROUNDS = 60
PAUSE_S, LAST = 0.3, None
"""
    + SLOW
    + '''
def drain(node):
    """Announce the end of a node in the middle of a training, and end it, as clouds do with those that they want back."""
    while not (folder / f"{node.node_id}-6").exists():
        time.sleep(0.05)
    until_ms = int((time.time() + 10) * 1000)
    client = ray._raylet.GcsClient(address=cluster.address)
    accepted, why = client.drain_node(node.node_id, DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"), "spot", until_ms)
    assert accepted, why
    time.sleep(10)
    cluster.remove_node(node, allow_graceful=False)


if __name__ == "__main__":
    cluster = watched_cluster()
    try:
        ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
        training_table(1200).select("wind", "hour", "late").write_parquet(folder / "t.parquet")
        rows = data.read_parquet(folder / "t.parquet").repartition(4)
        node = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        draining = threading.Thread(target=drain, args=[node], daemon=True)
        draining.start()
        options = {"num_workers": (1, 2), "checkpoint_every": 5} if elastic else {"num_workers": 2}
        trainer = train.XGBoostTrainer({"eta": 0.3}, num_boost_round=ROUNDS, seed=1, storage_path=str(folder / "s"), **options)
        lines = io.StringIO()
        with contextlib.redirect_stderr(lines):
            result = trainer.fit(None, rows, None, ["late"], callbacks=[Slow()], verbose=True)
        draining.join()
        assert result.history["iteration"].to_list() == list(range(ROUNDS)), result.history
        assert "which leaves the cluster in" in lines.getvalue(), lines.getvalue()
        last = max(int(path.name.rpartition("-")[2]) for path in folder.glob(f"{node.node_id}-*"))
        assert last < ROUNDS - 1, "the node has not left"
        assert elastic or last < 20, f"the workers moved after iteration {last} only"
    finally:
        ray.shutdown()
        cluster.shutdown()
'''
)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["actors", "elastic"])
def test_a_node_that_says_when_it_leaves_costs_no_failure(tmp_path: Path, kind: str) -> None:
    run(DRAINED_NODE, str(tmp_path), kind)

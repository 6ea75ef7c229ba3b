"""What Ray is asked for: a Ray of its own, with GPUs that it does not look for and that are the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import rayline as rl
from rayline import device

BEGIN = """
import numpy as np, os, polars as pl, ray, tempfile, time
import rayline as rl
from rayline import data, device, serve, train, tune
from rayline.core.errors import ResourceError
from rayline.testing import device_laws
from rayline.testing.contract_case import FrameworkCase
from rayline.testing.ray_laws import dataset
ray.init("local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
ray.data.DataContext.get_current().enable_progress_bars = False

def case(name, *args, **kwargs):
    return FrameworkCase(name, args, kwargs, "binary", True, True, True, True, True, None)

def rows(made):
    return pl.concat([pl.DataFrame(block) for block in made.iter_batches(batch_format="pyarrow")])
"""


def script(code: str) -> None:
    environment = {**os.environ, device.PRETENDED: "cpu,cpu", "RAYLINE_QUIET": "1", "OMP_NUM_THREADS": "1"}
    root = Path(rl.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + code],
        cwd=root, env=environment, capture_output=True, text=True, check=False, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]


PARTS = """
def laws(name, *args, **kwargs):
    c = case(name, *args, **kwargs)
    c.exact = name != "torch"
    ds = dataset(c.table)
    for law in device_laws.RAY_LAWS:
        law(c, ds)

def what_ray_is_asked_for():
    here = lambda batch: {"gpu": np.array([",".join(map(str, ray.get_gpu_ids()))]), "pid": np.array([os.getpid()]),
                          "is_gpu": np.array([device.select_device(None).is_gpu])}
    ds = ray.data.range(400, override_num_blocks=40)
    whole = rows(data.map_batches(ds, here, use_gpu=True, batch_size=10))
    assert whole.height == 40, whole
    assert set(whole["gpu"]) <= {"0", "1"}, whole
    assert whole["pid"].n_unique() == whole["gpu"].n_unique(), "more than one actor on a GPU"
    assert whole["is_gpu"].all()
    parts = rows(data.map_batches(ds, here, num_gpus=0.5, concurrency=4, batch_size=10))
    assert set(parts["gpu"]) <= {"0", "1"}, parts
    none = rows(data.map_batches(ds, here, batch_size=10))
    assert set(none["gpu"]) == {""} and not none["is_gpu"].any(), none
    assert rows(data.map_batches(ds, here, use_gpu="auto", batch_size=100))["is_gpu"].all()
    for wrong in (dict(use_gpu=True, num_gpus=3), dict(use_gpu=True, concurrency=3)):
        try: data.map_batches(ds, here, **wrong)
        except ResourceError as error: assert "GPU" in str(error), error
        else: raise AssertionError(wrong)

def a_model_in_a_function_is_placed_once_in_each_actor():
    c = case("xgboost", {"nthread": 1}, num_boost_round=5)
    pipeline, ds = c.result.inference_pipeline, dataset(c.table).repartition(20)

    def watched(batch):
        with device.recorded() as moves:
            pipeline.predict(batch)
        kinds = [move.what for move in moves]
        return {"pid": np.array([os.getpid()]), "models": np.array([kinds.count("model")]), "batches": np.array([kinds.count("batch")])}

    found = rows(data.map_batches(ds, watched, use_gpu=True, batch_size=20))
    assert (found["batches"] == 1).all(), found
    by_actor = found.group_by("pid").agg(pl.col("models").sum())
    assert (by_actor["models"] == 1).all(), by_actor

def predictions_are_written_by_actors_that_keep_the_model():
    with tempfile.TemporaryDirectory() as folder:
        c = case("xgboost", {"nthread": 1}, num_boost_round=5)
        pipeline, ds = c.result.inference_pipeline, dataset(c.table)
        with device.recorded() as moves:
            assert pipeline.write_predictions(ds, folder, rows_per_file=50, use_gpu=True) == c.table.height
        assert not moves, "the driver puts a model on a GPU of its own"
        found = pl.read_parquet(folder + "/*.parquet")
        assert found["prediction"].equals(pipeline.predict(c.table)["prediction"])
        deadline = time.monotonic() + 30  # Ray ends actors in the background
        while ray.available_resources().get("GPU", 0.0) < 2:
            assert time.monotonic() < deadline, "an actor still holds a GPU"
            time.sleep(0.2)

def trials_hold_parts_of_gpus():
    c = case("xgboost", {"nthread": 1}, num_boost_round=5)
    given = dict(train_dataset=dataset(c.table), target_columns=[c.target], cv=2, preprocessor=c.preprocessor(), verbose=False)
    space = {"max_depth": tune.grid_search([2, 3])}
    seen = []
    class Watch(train.Callback):
        def on_trial(self, run, trial):
            seen.append(ray.available_resources().get("GPU", 0.0))
    whole = tune.run(c.trainer(), config=space, use_gpu=True, resources_per_trial={"GPU": 0.5}, callbacks=[Watch()], **given)
    alone = tune.run(c.trainer(), config=space, **given)
    assert abs(whole.best_score - alone.best_score) < 1e-6
    try: tune.run(c.trainer(), config=space, resources_per_trial={"GPU": 3}, **given)
    except ResourceError as error: assert "3 GPU" in str(error), error
    else: raise AssertionError

def replicas_compute_on_gpus():
    import json, urllib.request
    c = case("xgboost", {"nthread": 1}, num_boost_round=5)
    pipeline = c.result.inference_pipeline
    def answers(deployment):
        asked = json.dumps(c.rows.head(3).to_dicts()).encode()
        request = urllib.request.Request(deployment.url + "/predict", asked, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)["predictions"]
    expected = pipeline.predict(c.rows.head(3))["prediction"].to_list()
    try: serve.to_deployment(pipeline, use_gpu=True, ray_actor_options={"num_gpus": 3}).deploy()
    except ResourceError as error: assert "3 GPU" in str(error), error
    else: raise AssertionError
    deployment = serve.to_deployment(pipeline, use_gpu=True, num_replicas=2, ray_actor_options={"num_cpus": 0.2, "num_gpus": 0.5}).deploy()
    try:
        assert answers(deployment) == expected
        assert ray.available_resources().get("GPU", 0.0) == 1.0, ray.available_resources()
    finally:
        deployment.delete()

"""
"""A Ray takes long to start, so that a test runs several. The second is the proposal's own line, but for whose function it is:
`data.map_batches(ds, lambda batch: model.predict(batch), use_gpu=True)`."""


@pytest.mark.slow
@pytest.mark.ray
def test_laws_of_devices_on_ray() -> None:
    pytest.importorskip("torch")
    script(
        PARTS + 'laws("torch", lr=0.02, max_epochs=5, batch_size=32)\n'
        'laws("xgboost", {"nthread": 1}, num_boost_round=15)\n'
        'laws("catboost", {"iterations": 15})\n'
        'laws("lightgbm", {"min_data_in_leaf": 5}, num_boost_round=15)\n'
    )


@pytest.mark.slow
@pytest.mark.ray
def test_batches_trials_and_replicas_on_gpus() -> None:
    script(
        PARTS + "what_ray_is_asked_for()\na_model_in_a_function_is_placed_once_in_each_actor()\n"
        "predictions_are_written_by_actors_that_keep_the_model()\ntrials_hold_parts_of_gpus()\nreplicas_compute_on_gpus()\n"
    )

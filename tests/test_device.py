"""Which device a process computes on, and what happens when a GPU has no memory left. No test needs a GPU.

Covers `data.batches` too.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import rayline as rl
from rayline import data, device, train
from rayline.core import registry
from rayline.core.errors import ParameterError, ResourceError, at
from rayline.data.batches import BatchFormat
from rayline.device import CPU, Device
from tests import toy

GPU = Device("cpu", is_gpu=True)


# -- the choice ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine with these device files and variables, outside of Ray."""

    def made(*files: str, **environment: str) -> None:
        monkeypatch.delenv(device.PRETENDED, raising=False)
        for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        there = [file for file in files if file.startswith("/dev/nvidia")]
        monkeypatch.setattr(device.glob, "glob", lambda pattern: there)  # type: ignore[attr-defined]
        monkeypatch.setattr(device.os.path, "exists", lambda path: path in files)  # type: ignore[attr-defined]
        monkeypatch.setattr(device, "_assigned", lambda: None)

    return made


@pytest.mark.parametrize(
    ("files", "environment", "expected"),
    [
        ((), {}, []),
        (("/dev/nvidia0", "/dev/nvidia1"), {}, ["cuda:0", "cuda:1"]),
        (("/dev/nvidia3",), {}, ["cuda:0"]),  # a container with the fourth of the machine
        (("/dev/kfd",), {}, ["cuda:0"]),  # AMD
        (("/dev/dxg",), {}, ["cuda:0"]),  # Windows' Linux
        (("/dev/nvidia0", "/dev/nvidia1"), {"CUDA_VISIBLE_DEVICES": "1"}, ["cuda:0"]),
        (("/dev/nvidia0", "/dev/nvidia1"), {"CUDA_VISIBLE_DEVICES": ""}, []),
        (("/dev/nvidia0", "/dev/nvidia1"), {"CUDA_VISIBLE_DEVICES": "-1"}, []),
        (("/dev/nvidia0", "/dev/nvidia1"), {"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, []),
        ((), {"CUDA_VISIBLE_DEVICES": "0"}, []),
        (("/dev/kfd",), {"HIP_VISIBLE_DEVICES": ""}, []),
    ],
)
def test_what_a_process_sees(machine: Any, files: Any, environment: dict[str, str], expected: list[str]) -> None:
    machine(*files, **environment)
    assert [found.name for found in device.visible()] == expected
    assert all(found.is_gpu and found.is_cuda for found in device.visible())


def test_what_use_gpu_means(machine: Any) -> None:
    machine()
    assert device.select_device(None) == device.select_device(False) == device.select_device("auto") == CPU
    with at("f"), pytest.raises(ResourceError, match="f: use_gpu=True, and this machine has no GPU") as error:
        device.select_device(True)
    assert "CUDA_VISIBLE_DEVICES is 'not set'" in str(error.value)
    machine("/dev/nvidia0")
    assert device.select_device(None) == device.select_device(False) == CPU  # without a request
    assert device.select_device(True) == device.select_device("auto") == Device("cuda:0", is_gpu=True)
    for wrong in ("cuda", 1, 0.5):
        with pytest.raises(ParameterError, match="use_gpu has a wrong value"):
            device.select_device(wrong)  # type: ignore[arg-type]


def test_a_worker_uses_what_ray_assigned_to_it(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine("/dev/nvidia0", "/dev/nvidia1", "/dev/nvidia2", CUDA_VISIBLE_DEVICES="2")
    monkeypatch.setattr(device, "_assigned", lambda: ["2"])
    assert device.select_device(None).name == device.select_device(True).name == "cuda:0"  # Ray shows it that one only
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")  # Ray Train shows those of all workers of a node
    assert device.select_device(None).name == "cuda:1"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")  # Ray was told to set none
    assert device.select_device(None).name == "cuda:2"
    monkeypatch.setattr(device, "_assigned", list)
    assert device.visible() == []  # of Ray 2.60 such a worker sees all of the machine's
    assert device.select_device(None) == CPU
    with pytest.raises(ResourceError, match="Ray assigned no GPU to this worker"):
        device.select_device(True)


def test_a_pretended_gpu() -> None:
    with device.pretend("meta", "cpu"):
        assert device.visible() == [Device("meta", is_gpu=True), GPU]
        assert not device.select_device(True).is_cuda
        with device.pretend():
            assert device.visible() == []
        assert device.is_pretended()
    assert not device.is_pretended()


# -- who can use a GPU --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trainer", "kind", "said"),
    [
        (lambda: train.Trainer("least-squares", use_gpu=True), ResourceError, "least-squares computes on the CPU"),
        (lambda: train.XGBoostTrainer({"booster": "gblinear"}, use_gpu=True), ParameterError, "booster='gblinear' on the CPU"),
        (lambda: train.XGBoostTrainer({"tree_method": "exact"}, use_gpu=True), ParameterError, "tree_method='exact' on the CPU"),
        (lambda: train.XGBoostTrainer({"device": "cpu"}, use_gpu=True), ParameterError, "device='cpu' on the CPU"),
        (lambda: train.LightGBMTrainer({"device": "cpu"}, use_gpu=True), ParameterError, "device='cpu' is the CPU"),
        (lambda: train.CatBoostTrainer({"task_type": "CPU"}, use_gpu=True), ParameterError, "task_type='CPU' is the CPU"),
    ],
)  # fmt: skip
def test_a_training_that_would_compute_on_the_cpu_is_refused(trainer: Any, kind: Any, said: str) -> None:
    with device.pretend("cpu"), pytest.raises(kind) as error:
        trainer().fit(None, toy.table().select("age", "late"), target_columns="late", verbose=False)
    assert said in str(error.value)
    assert "use_gpu=True" in str(error.value)


@pytest.mark.parametrize(
    ("trainer", "own"),
    [
        (lambda: train.XGBoostTrainer({"device": "cuda"}), "device='cuda'"),
        (lambda: train.LightGBMTrainer({"device_type": "gpu"}), "device_type='gpu'"),
        (lambda: train.CatBoostTrainer({"task_type": "GPU"}), "task_type='GPU'"),
    ],
)
def test_a_library_s_own_word_for_a_gpu_is_use_gpu(trainer: Any, own: str) -> None:
    """XGBoost without CUDA would train on the CPU and log a warning."""
    made = trainer()
    assert made.wants_gpu
    assert made.adapter.gpu_arguments(*made.args) == own
    with device.pretend(), pytest.raises(ResourceError, match="GPU"):
        made.fit(None, toy.table().select("age", "late"), target_columns="late", verbose=False)


def test_a_build_of_pytorch_without_gpus_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "CPUs" in registry.framework("torch").without_gpu()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert registry.framework("torch").without_gpu() == ""


def test_builds_without_gpus_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import lightgbm
    import xgboost

    from rayline.frameworks import lightgbm as adapter

    monkeypatch.setattr(xgboost, "build_info", lambda: {"USE_CUDA": False})
    assert "pip uninstall xgboost-cpu, then pip install xgboost" in registry.framework("xgboost").without_gpu()
    monkeypatch.setattr(adapter, "_is_built_for", lambda what: False)
    assert "-DUSE_CUDA=1" in registry.framework("lightgbm").without_gpu()
    monkeypatch.undo()
    assert adapter._is_built_for("GPU") == (b"GPU Tree Learner was not" not in _library(lightgbm))


def _library(lightgbm: Any) -> bytes:
    (file,) = Path(lightgbm.__file__).parent.glob("lib/*lib_lightgbm.*")
    return file.read_bytes().replace(b"CUDA Tree Learner", b"")


# -- memory -------------------------------------------------------------------------------------------------------------------


class OutOfMemoryError(RuntimeError):
    """As PyTorch's error is called."""


class Sized:
    """What has a size."""


@pytest.mark.parametrize(("n", "most"), [(100, 7), (1000, 1), (5, 5), (64, 33)])
def test_a_batch_that_does_not_fit_is_halved(
    n: int, most: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYLINE_QUIET", "0")
    model, seen = Sized(), []

    def compute(rows: slice) -> list[int]:
        seen.append(rows.stop - rows.start)
        if seen[-1] > most:
            raise OutOfMemoryError("CUDA out of memory")
        return list(range(rows.start, rows.stop))

    def run() -> list[int]:
        parts = device.in_batches(n, 64, compute, device=GPU, model=model, model_bytes=lambda: 5e6)
        return [row for part in parts for row in part]

    assert run() == list(range(n))
    said = capsys.readouterr().err
    if most < min(n, 64):
        assert f"out of memory with batches of {min(n, 64):,} rows (model 5 MB); now {(min(n, 64) + 1) // 2:,}" in said
    seen.clear()
    assert run() == list(range(n))
    assert max(seen) <= most  # the size that fits is remembered
    assert capsys.readouterr().err == ""


def test_a_model_that_does_not_fit_at_all() -> None:
    def compute(rows: slice) -> None:
        raise OutOfMemoryError("CUDA out of memory")

    with pytest.raises(
        ResourceError, match="predict: the GPU is out of memory with a batch of 1 row and a model of 12 MB"
    ):
        device.in_batches(10, 4, compute, device=GPU, model=Sized(), model_bytes=lambda: 12e6)
    with pytest.raises(OutOfMemoryError):  # on a CPU it is another error
        device.in_batches(10, 4, compute, device=CPU, model=Sized(), model_bytes=lambda: 12e6)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OutOfMemoryError(), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (type("XGBoostError", (ValueError,), {})("Check failed: cudaErrorMemoryAllocation: out of memory"), True),
        (type("CatBoostError", (Exception,), {})("CUDA error 2: out of memory"), True),
        (RuntimeError("device-side assert"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_of_memory(error: Exception, expected: bool) -> None:
    assert device.is_out_of_memory(error) is expected


# -- CuPy ---------------------------------------------------------------------------------------------------------------------


def test_xgboost_gets_arrays_of_the_gpu_where_cupy_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy under the name of CuPy: what XGBoost is given, and that its answers are those of a DMatrix."""
    import numpy as np

    sent: list[Any] = []

    def asarray(array: Any) -> Any:
        sent.append(array.shape)
        return np.asarray(array)

    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(asarray=asarray, asnumpy=np.asarray))
    table = toy.table().select("age", "size", "late")
    trainer = train.XGBoostTrainer({"tree_method": "hist"}, num_boost_round=4, seed=1)
    stages = train.Preprocessor([("impute", rl.stages.SimpleImputer())])
    expected = trainer.fit(stages.clone(), table, target_columns="late", verbose=False).inference_pipeline
    monkeypatch.setattr(Device, "is_cuda", property(lambda self: self.is_gpu))
    with device.pretend("cpu"):
        found = train.XGBoostTrainer({"tree_method": "hist"}, num_boost_round=4, seed=1, use_gpu=True)
        result = found.fit(stages.clone(), table, target_columns="late", verbose=False)
        assert sent[0] == (table.height, 2)  # the training rows
        assert result.model.native.feature_names == ["age", "size"]
        sent.clear()
        predicted = result.inference_pipeline.predict_proba(table, use_gpu=True)
        assert sent == [(table.height, 2)]
    assert np.allclose(predicted.to_numpy(), expected.predict_proba(table).to_numpy(), atol=1e-6)


# -- models that travel -------------------------------------------------------------------------------------------------------


def test_a_preference_stays_in_the_process() -> None:
    """A pipeline that was loaded onto the driver's GPU is evaluated by tasks that hold none."""
    import pickle

    table = toy.table().select("age", "late")
    fitted = train.XGBoostTrainer({}, num_boost_round=2).fit(None, table, target_columns="late", verbose=False)
    with device.pretend("cpu"):
        pipeline = fitted.inference_pipeline.on_gpu(True)
        pipeline.predict(table)
        assert pipeline.model.is_on_gpu
        other = pickle.loads(pickle.dumps(pipeline))
        assert other.model.use_gpu is None
        other.predict(table)
        assert not other.model.is_on_gpu
        sent = pipeline.model._with(use_gpu=True, holds_gpu=True)
        assert pickle.loads(pickle.dumps(sent)).use_gpu is True


# -- data.map_batches ---------------------------------------------------------------------------------------------------------


def test_map_batches_of_a_table() -> None:
    pipeline, table = toy.pipeline(), toy.table()
    assert data.map_batches(table, pipeline.predict, batch_size=7).equals(pipeline.predict(table))
    assert data.map_batches(table, pipeline.transform).equals(pipeline.transform(table))
    assert data.map_batches(table, lambda batch: pipeline.predict({**batch})).equals(pipeline.predict(table))
    formats: dict[BatchFormat, str] = {
        "pandas": "DataFrame",
        "pyarrow": "Table",
        "polars": "DataFrame",
        "numpy": "dict",
    }
    for name, kind in formats.items():
        seen: list[Any] = []

        def keep(batch: Any, seen: list[str] = seen) -> Any:
            seen.append(type(batch).__name__)
            return batch

        assert (
            data.map_batches(table.select("age"), keep, batch_format=name)["age"].null_count()
            == table["age"].null_count()
            or name == "numpy"
        )
        assert seen == [kind]


def test_map_batches_refuses() -> None:
    pipeline, table = toy.pipeline(), toy.table()
    with pytest.raises(ParameterError, match="least-squares predict on the CPU only"):
        data.map_batches(table, pipeline.predict, use_gpu=True)
    with pytest.raises(ParameterError, match="a Preprocessor computes on the CPU"):
        data.map_batches(table, pipeline.preprocessor.transform, use_gpu=True)  # type: ignore[union-attr]
    with device.pretend(), pytest.raises(ResourceError, match="no GPU"):
        data.map_batches(table, lambda batch: batch, use_gpu=True)
    with pytest.raises(ParameterError, match="a function"):
        data.map_batches(table, "predict")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="batch_format"):
        data.map_batches(table, pipeline.predict, batch_format="arrow")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="use_gpu has a wrong value"):
        data.map_batches(table, pipeline.predict, use_gpu="yes")  # type: ignore[arg-type]
    with pytest.raises(rl.RaylineError):
        data.map_batches(table, lambda batch: 3)


def test_map_batches_of_a_lazy_frame_stays_lazy() -> None:
    made = data.map_batches(pl.LazyFrame({"x": [1, 2]}), lambda batch: {"y": batch["x"] * 2})
    assert made.lazy().collect()["y"].to_list() == [2, 4]


# -- serving --------------------------------------------------------------------------------------------------------------------


def test_a_server_is_warm_before_it_answers() -> None:
    from rayline.serve import create_app

    table = toy.table().select("age", "late")
    trainer = train.XGBoostTrainer({"nthread": 1}, num_boost_round=2)
    pipeline = trainer.fit(None, table, target_columns="late", verbose=False).inference_pipeline
    with device.pretend("cpu"):
        with device.recorded() as moves:
            app = create_app(pipeline.on_gpu(True))
        sizes = [len(move.value) for move in moves if move.what == "batch"]
        assert [move.what for move in moves].count("model") == 1
        assert max(sizes) == app._batcher._batch_rows == 1024
        assert create_app(pipeline.on_gpu(True), max_batch_size=7)._batcher._batch_rows == 7
        assert create_app(pipeline)._batcher._batch_rows == 64
    with device.pretend():
        with pytest.raises(ResourceError, match="serve: use_gpu=True, and this machine has no GPU"):
            create_app(pipeline.on_gpu(True))
        assert create_app(pipeline.on_gpu("auto"))._batcher._batch_rows == 64  # asked for: the CPU will do

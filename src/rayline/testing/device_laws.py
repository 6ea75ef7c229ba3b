"""The laws of devices, on a machine that calls its CPU a GPU: where the model is placed, that batches go there and results come back."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rayline import device
from rayline.core import registry
from rayline.core.errors import RaylineError, ResourceError
from rayline.data.batches import map_batches
from rayline.device import Move
from rayline.inference.artifact import load
from rayline.testing.contract_case import EnvironmentCase, FrameworkCase, error_of
from rayline.train.result import Result

FAKE = "cpu"
"""PyTorch's name of the device that counts as a GPU."""


REAL = "RAYLINE_TEST_REAL_GPU"
"""The environment variable with which the laws of this process run on the machine's own GPU."""


def _machine() -> contextlib.AbstractContextManager[None]:
    """The machine with a GPU on which the laws are tried."""
    return contextlib.nullcontext() if _is_real() else device.pretend(FAKE)


def _is_real() -> bool:
    return bool(os.environ.get(REAL))


def _to_gpu(moves: Sequence[Move], what: str) -> int:
    return sum(move.what == what and move.device.is_gpu for move in moves)


def trains_on_a_gpu_or_refuses_it(case: FrameworkCase) -> None:
    with _machine():
        if not case.adapter.trains_on_gpu:
            message = error_of(lambda: case.fit(case.trainer(use_gpu=True)), ResourceError)
            assert "never on a GPU" in message, "it has trains_on_gpu = False, and use_gpu=True is not refused"
            return
        with device.recorded() as moves:
            result = case.shared("on a GPU", lambda: case.fit(case.trainer(use_gpu=True)))
    placed = _to_gpu(moves, "model")
    assert placed <= 1, f"a training puts the model on the GPU {placed} times"
    if case.adapter.predicts_on_gpu and not isinstance(case, EnvironmentCase):
        assert placed == 1, "a training with use_gpu=True does not put the model on the GPU"
        assert _to_gpu(moves, "batch"), "the test rows do not go to the GPU, where the metrics are to be computed"
        assert _to_gpu(moves, "result"), "the scores of the test rows do not come back from the GPU"
    with device.recorded() as moves:
        scores = result.inference_pipeline.scores(case.rows.lazy())
    assert not moves, "the trained model predicts on the GPU without use_gpu"
    assert isinstance(scores, np.ndarray), "scores are not on the host"
    if case.seeded and not _is_real() and not isinstance(case, EnvironmentCase):
        expected = case.result.inference_pipeline.scores(case.rows.lazy())
        case.same(scores, expected, bits=False, why="on a GPU that is the CPU another model is trained")


def predicts_on_a_gpu_or_refuses_it(case: FrameworkCase) -> None:
    pipeline, rows = case.result.inference_pipeline, case.rows
    with _machine():
        reason = pipeline.model.without_gpu()
        if reason:
            message = error_of(lambda: pipeline.predict(rows, use_gpu=True), RaylineError)
            assert reason in message, "predictions with use_gpu=True are not refused, or without the reason"
            assert error_of(pipeline.on_gpu, RaylineError), "it is put on a GPU that it cannot use"
            pipeline.predict(rows, use_gpu="auto")
            return
        expected = pipeline.predict(rows)
        with device.recorded() as moves:
            predictions = [pipeline.predict(rows, use_gpu=True) for _ in range(2)]
            predictions.append(map_batches(rows, pipeline.predict, use_gpu=True, batch_size=max(1, rows.height // 3)))
        assert _to_gpu(moves, "model") == 1, f"three calls put the model on the GPU {_to_gpu(moves, 'model')} times"
        assert _to_gpu(moves, "batch") >= 5, "not every batch goes to the GPU"
        assert _to_gpu(moves, "result") >= 5, "not every result comes back from the GPU"
        for table in predictions:
            assert isinstance(table, pl.DataFrame), f"predictions are a {type(table).__name__}"
            assert table.equals(expected) or not case.exact or _is_real(), "predictions on the GPU are others"
        with device.recorded() as moves:
            pipeline.predict(rows)
            pipeline.predict(rows, use_gpu=False)
        assert not moves, "a call without use_gpu computes on the GPU"
    with device.pretend():
        message = error_of(lambda: pipeline.predict(rows, use_gpu=True), ResourceError)
        assert "GPU" in message, "use_gpu=True without a GPU is not refused"


def is_loaded_onto_a_gpu(case: FrameworkCase) -> None:
    pipeline, rows = case.result.inference_pipeline, case.rows
    options = pipeline.model.adapter.load_options(pipeline.model.native)
    with _machine(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.rayline"
        pipeline.save(path)
        if pipeline.model.without_gpu():
            assert error_of(lambda: load(path, use_gpu=True, **options), RaylineError), (
                "load(use_gpu=True) is not refused"
            )
            return
        with device.recorded() as moves:
            loaded = load(path, use_gpu=True, **options)
        assert [move.what for move in moves] == ["model"], (
            "load(use_gpu=True) does not put the model on the GPU, or predicts there"
        )
        with device.recorded() as moves:
            table, one = loaded.predict(rows), loaded.predict(rows.head(1).to_dicts())
        assert not _to_gpu(moves, "model"), "a loaded model is put on the GPU again"
        assert _to_gpu(moves, "batch"), "a loaded model does not predict on the GPU"
    expected = pipeline.predict(rows)
    if case.exact and not _is_real():
        assert table.equals(expected), "a model that is loaded onto the GPU predicts otherwise"
        assert one == expected.head(1).to_dicts(), "a row is predicted otherwise on the GPU"


# -- on a Ray with GPUs that it does not look for -------------------------------------------------------------------------------


def predicts_datasets_on_gpus(case: FrameworkCase, data: Any) -> None:
    """`data` is the table of the case as a ray.data.Dataset. Runs on a Ray with GPUs, real ones or pretended."""
    pipeline = case.result.inference_pipeline
    if pipeline.model.without_gpu():
        assert error_of(lambda: pipeline.transform(data, use_gpu=True), RaylineError), "a Dataset is not refused"
        return
    with device.recorded() as moves:
        transformed = pipeline.transform(data, use_gpu=True, keep_columns=[case.target], batch_size=100)
        predictions = registry.engine_for(transformed).collect(transformed)
    assert not moves, "the driver puts a model on a GPU of its own"
    expected = pipeline.transform(case.table, keep_columns=[case.target])
    assert predictions.height == expected.height, f"{predictions.height} rows come out of {expected.height}"
    if case.exact:
        assert predictions.equals(expected), "predictions of a Dataset on GPUs are others"


def trains_on_workers_with_gpus(case: FrameworkCase, data: Any) -> Result:
    """The same for a training on two workers, or on one."""
    n = 2 if case.adapter.distributed else 1
    with device.recorded() as moves:
        result = case.fit(case.trainer(use_gpu=True, num_workers=n), table=data, test_dataset=data)
    assert not moves, "the driver puts a model on a GPU of its own"
    case.has_learned(result.metrics)
    return result


LAWS = (trains_on_a_gpu_or_refuses_it, predicts_on_a_gpu_or_refuses_it, is_loaded_onto_a_gpu)

RAY_LAWS = (predicts_datasets_on_gpus, trains_on_workers_with_gpus)

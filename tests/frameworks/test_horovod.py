"""Horovod: the PyTorch path with another ring; skipped where it is not built."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import rayline as rl
from rayline import train
from rayline.testing import check_framework

try:
    import horovod.torch as hvd
except ImportError:
    hvd = None

built = pytest.mark.skipif(hvd is None, reason="Horovod is not built here (make horovod)")


def test_without_it_the_error_tells_how_to_build_it() -> None:
    code = (
        "import sys; sys.modules['horovod'] = None\n"
        "from rayline import train\n"
        "try: train.HorovodTrainer()\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    pytest.importorskip("torch", reason="PyTorch is not installed (make test-all)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("MissingExtraError")
    assert "make horovod" in done.stdout
    assert "HOROVOD_WITH_GLOO=1" in done.stdout


def table() -> pl.DataFrame:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 101))
    return pl.DataFrame({"a": a, "b": b, "y": 2 * a - b + 0.5})


@built
def test_alone_it_is_pytorch() -> None:
    options: dict[str, Any] = {"max_epochs": 3, "seed": 1}
    one = train.HorovodTrainer(**options).fit(None, table(), None, ["y"])
    other = train.TorchTrainer(**options).fit(None, table(), None, ["y"])
    assert one.history.equals(other.history)


@built
@pytest.mark.ray
def test_two_workers_make_the_same_steps_as_one(ray_session: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {"batch_size": 1000, "max_epochs": 4, "lr": 0.05, "seed": 1}
    one = train.TorchTrainer(**options).fit(None, table(), table(), ["y"])
    two = train.HorovodTrainer(**options, num_workers=2).fit(None, table(), table(), ["y"])
    assert np.allclose(one.history["test-loss"], two.history["test-loss"], atol=1e-4)
    two.inference_pipeline.save(tmp_path / "net.rayline")
    loaded = rl.load(tmp_path / "net.rayline")
    assert loaded.model.framework == "torch"  # loading it needs no Horovod
    assert loaded.predict(table()).equals(two.inference_pipeline.predict(table()))


@built
@pytest.mark.ray
@pytest.mark.slow
def test_contract_on_ray(ray_session: Any) -> None:
    options: dict[str, Any] = {"lr": 0.02, "max_epochs": 8, "batch_size": 32, "exact": False, "tasks": ["binary"]}
    check_framework("horovod", **options, ray=True, serve=True)


@built
def test_what_it_cannot_is_refused() -> None:
    with pytest.raises(rl.ParameterError, match="TorchTrainer"):
        train.HorovodTrainer(lightning_module=object)

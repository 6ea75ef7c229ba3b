"""The laws of devices, and what only a real GPU shows. `make test-gpu`; skipped where there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from rayline import device, train
from rayline.core import registry
from rayline.core.errors import MissingExtraError
from rayline.testing import device_laws
from rayline.testing.contract_case import FrameworkCase

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not device.visible(), reason="this machine has no GPU: no law of devices is tried on one"),
]


def usable(name: str) -> Any:
    """The adapter; skips the test where its library is missing or was built for CPUs."""
    try:
        adapter = registry.framework(name)
    except MissingExtraError as error:
        pytest.skip(str(error).partition("\n")[0])
    if reason := adapter.without_gpu():
        pytest.skip(f"{name}: {reason}")
    return adapter


@pytest.mark.parametrize("task", ["binary", "regression"])
@pytest.mark.parametrize(
    ("name", "args", "kwargs"),
    [
        ("torch", (), {"lr": 0.02, "max_epochs": 5, "batch_size": 32}),
        ("xgboost", ({},), {"num_boost_round": 15}),
        ("catboost", ({"iterations": 15},), {}),
        ("lightgbm", ({"min_data_in_leaf": 5},), {"num_boost_round": 15}),
    ],
)
def test_laws_of_devices(name: str, args: Any, kwargs: Any, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    usable(name)
    monkeypatch.setenv(device_laws.REAL, "1")
    case = FrameworkCase(name, args, kwargs, task, True, name != "torch", True, True, True, None)
    for law in device_laws.LAWS:
        law(case)


def rows(n: int) -> pl.DataFrame:
    random = np.random.default_rng(0)
    x = random.normal(size=(n, 8))
    return pl.DataFrame(x, schema=[f"f{i}" for i in range(8)]).with_columns(y=pl.Series(x[:, 0] - x[:, 1] ** 2))


@pytest.mark.parametrize("name", ["torch", "xgboost", "catboost"])
def test_many_batches_give_the_numbers_of_the_cpu(name: str) -> None:
    """Batches are copied beside the computing: one that was computed before it had arrived would have other numbers."""
    usable(name)
    table = rows(200_000)
    arguments = {"torch": (), "xgboost": ({},), "catboost": ({"iterations": 20},)}[name]
    fitted = train.Trainer(name, *arguments, seed=1).fit(None, table.head(5_000), target_columns="y", verbose=False)
    expected = fitted.inference_pipeline.predict(table)["prediction"].to_numpy()
    found = fitted.inference_pipeline.predict(table, use_gpu=True)["prediction"].to_numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"mixed_precision": True}, {"compile": True}])
def test_a_training_on_the_gpu_learns(options: dict[str, Any]) -> None:
    usable("torch")
    table = rows(20_000)
    trainer = train.TorchTrainer("MLP", lr=1e-2, max_epochs=10, batch_size=512, seed=1, use_gpu=True, **options)
    assert trainer.fit(None, table, table, "y", verbose=False).metrics["test-r2"] > 0.9


def test_held_and_streamed_rows_train_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    usable("torch")
    table = rows(20_000)

    def fit() -> float:
        trainer = train.TorchTrainer("MLP", lr=1e-2, max_epochs=10, batch_size=512, seed=1, use_gpu=True)
        return trainer.fit(None, table, table, "y", verbose=False).metrics["test-r2"]

    held = fit()
    monkeypatch.setattr("rayline.core.row_stream.HELD_BYTES", 0)
    assert abs(held - fit()) < 0.05


def test_a_batch_that_exceeds_the_memory_is_halved(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usable("torch")
    import torch

    from rayline.frameworks import torch_modules

    class Wide(torch.nn.Module):
        """A quarter of the GPU's memory for each 1,000 rows."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(8, 1)

        def forward(self, x: Any) -> Any:
            whole = torch.cuda.get_device_properties(0).total_memory // 4
            held = torch.empty(len(x) * (whole // 1000), dtype=torch.uint8, device=x.device)
            return self.layer(x) + held[:1].float() * 0

    monkeypatch.setenv("RAYLINE_QUIET", "0")
    model = torch_modules.described(Wide().eval(), torch_modules.ModuleSpec(None))
    table = rows(16_384).drop("y")
    from rayline import InferencePipeline, Model
    from rayline.core.target import Target, Task

    pipeline = InferencePipeline(
        None, Model("torch", model, table.schema, Target(("y",), Task.REGRESSION, (pl.Float64(),)))
    )
    assert pipeline.predict(table, use_gpu=True).height == table.height
    assert "out of memory with batches of 16,384 rows" in capsys.readouterr().err

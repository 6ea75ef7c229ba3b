"""PyTorch on devices that are not there: `meta`, whose tensors have no numbers but refuse those of another device."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

torch = pytest.importorskip("torch")

import rayline as rl
from rayline import device, train
from rayline.core.features import Features
from rayline.core.framework import Rows, TrainContext
from rayline.core.target import Target, Task
from rayline.device import CPU, Device
from rayline.frameworks import torch_device
from rayline.frameworks import torch_modules as modules
from rayline.frameworks.torch_loop import LoopSettings, SingleProcess, TrainingLoop, backend
from rayline.frameworks.torch_rows import StreamedTensors, TensorTable

META, GPU = Device("meta", is_gpu=True), Device("cpu", is_gpu=True)

TABLE = pl.DataFrame({"a": np.arange(20.0), "b": np.arange(20.0)[::-1], "w": np.ones(20), "y": np.arange(20.0) / 20})
SCHEMA = TABLE.select("a", "b").schema
TARGET = Target(("y",), Task.REGRESSION, (pl.Float64(),))


def rows(weight: str | None = None) -> Rows:
    return Rows.of(TABLE, SCHEMA, TARGET, weight)


class Tied(torch.nn.Module):
    """Two layers with one weight, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        self.two.weight = self.one.weight
        self.norm = torch.nn.BatchNorm1d(2)

    def forward(self, x: Any) -> Any:
        return self.norm(self.two(self.one(x))).sum(dim=1)


# -- modules ----------------------------------------------------------------------------------------------------------------


def test_a_module_is_placed_as_a_whole_and_stays_where_it_is() -> None:
    module = Tied()
    there = torch_device.placed(module, META)
    assert {t.device.type for t in (*there.parameters(), *there.buffers())} == {"meta"}
    assert there.one.weight is there.two.weight
    assert {t.device.type for t in (*module.parameters(), *module.buffers())} == {"cpu"}
    assert torch_device.of(there) == META
    assert torch_device.of(module) == CPU
    assert torch_device.placed(there, META) is there


def test_a_placed_module_has_numbers_of_its_own() -> None:
    module = Tied().eval()
    there = torch_device.placed(module, GPU)
    with torch.no_grad():
        there.one.weight.fill_(0.0)
    assert module.one.weight.abs().sum() > 0
    back = torch_device.placed(there, CPU)
    assert back is there
    assert torch_device.of(back) == CPU
    assert torch_device.of(pickle.loads(pickle.dumps(torch_device.placed(module, GPU)))) == GPU


def test_the_user_moves_a_module() -> None:
    module = torch_device.placed(Tied(), GPU)
    module.to("meta")
    assert torch_device.of(module) == META


def test_batches_go_to_the_device_in_any_form() -> None:
    feed = torch_device.Feed(META)
    x = torch.ones(3, 2)
    assert feed(x).device.type == "meta"
    assert {t.device.type for t in feed({"a": x, "b": x}).values()} == {"meta"}
    found = feed((x, x, None))
    assert found[1].device.type == "meta"
    assert found[2] is None
    assert torch_device.Feed(CPU)(x) is x
    module = torch_device.placed(Tied().eval(), META)
    assert module(feed(x)).device.type == "meta"
    with pytest.raises(RuntimeError, match="meta"):
        module(x)  # what `meta` is for: a batch that was forgotten is an error


@pytest.mark.parametrize("inputs", ["matrix", "columns"])
def test_scores_come_from_the_device(inputs: str) -> None:
    class Sum(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.ones(1))

        def forward(self, x: Any = None, **columns: Any) -> Any:
            return (x.sum(dim=1) if x is not None else columns["a"] + columns["b"]) * self.w

    made = modules.described(Sum().eval(), modules.ModuleSpec(None, inputs=inputs))
    features = Features(TABLE.select("a", "b"), schema=SCHEMA)
    fetched = []

    def fetch(self: Any, output: Any) -> Any:
        fetched.append(output.device.type)
        return torch.zeros(output.shape, dtype=output.dtype)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_device.Feed, "fetch", fetch)
        assert modules.scores(torch_device.placed(made, META), features).shape == (20,)
    assert fetched == ["meta"]  # once, at the end
    assert modules.scores(torch_device.placed(made, GPU), features).tolist() == [19.0] * 20


def test_a_gpu_without_memory_halves_the_batch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[int] = []
    monkeypatch.setenv("RAYLINE_QUIET", "0")

    class Large(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

        def forward(self, x: Any) -> Any:
            seen.append(len(x))
            if len(x) > 6:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return self.layer(x)

    pipeline = rl.InferencePipeline(None, rl.Model("torch", Large().eval(), SCHEMA, TARGET))
    table = TABLE.select("a", "b")
    with device.pretend("cpu"):
        found = pipeline.predict(table, use_gpu=True)
        assert capsys.readouterr().err.count("out of memory") == 2  # 20, 10 and then 5 rows
        first = [*seen]
        assert found.height == 20
        pipeline.predict(table, use_gpu=True)
    assert max(first) == 20
    assert seen[len(first) :] == [5, 5, 5, 5]
    with pytest.raises(rl.PredictionError, match="out of memory"):  # on a CPU nothing is retried
        pipeline.predict(table)


def test_a_training_without_memory_names_batch_and_module() -> None:
    class Huge(torch.nn.Module):
        def __init__(self, in_features: int) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(in_features, 1000)

        def forward(self, x: Any) -> Any:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    trainer = train.TorchTrainer(Huge, batch_size=128, use_gpu=True)
    with device.pretend("cpu"), pytest.raises(rl.ResourceError) as error:
        trainer.fit(None, TABLE.drop("w"), target_columns="y", verbose=False)
    assert "out of memory with batch_size=128 and a model of 0.012 MB" in str(error.value)
    assert isinstance(error.value.__cause__, torch.cuda.OutOfMemoryError)


# -- training ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("weight", [None, "w"])
def test_every_batch_of_a_training_goes_to_the_device(stream: bool, weight: str | None) -> None:
    """On `meta` an epoch ends where its loss is to be a number; a tensor that was left on the host would have failed before."""
    context = TrainContext(rows(weight), rows(), TARGET, seed=1)
    module = torch_device.moved(modules.described(Tied(), modules.ModuleSpec(None)), META)
    loop = TrainingLoop(context, module, LoopSettings(batch_size=8, max_epochs=1), SingleProcess())
    loop.device = torch.device("meta")
    loop.train = (StreamedTensors if stream else TensorTable)(context.train, "matrix", *([] if stream else [loop.feed]))
    with device.recorded() as moves, pytest.raises(RuntimeError, match="meta"):
        loop.run()
    assert len([move for move in moves if move.what == "batch"]) == (3 if stream else 0)  # held rows are there already
    assert all(p.grad is not None and p.grad.device.type == "meta" for p in module.parameters())


def test_held_rows_are_put_on_a_gpu_once(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = train.TorchTrainer("MLP", max_epochs=5, batch_size=4, seed=1, use_gpu=True)
    with device.pretend("cpu"), device.recorded() as moves:
        result = trainer.fit(None, TABLE.drop("w"), TABLE.drop("w"), "y", verbose=False)
    batches = [move.value for move in moves if move.what == "batch"]
    assert [type(batch) for batch in batches] == [
        tuple,
        tuple,
        torch.Tensor,
    ]  # training, test, and the scores at the end
    monkeypatch.setattr("rayline.core.row_stream.HELD_BYTES", 0)
    with device.pretend("cpu"), device.recorded() as moves:
        streamed = train.TorchTrainer("MLP", max_epochs=5, batch_size=4, seed=1, use_gpu=True)
        streamed.fit(None, TABLE.drop("w"), TABLE.drop("w"), "y", verbose=False)
    assert len([move for move in moves if move.what == "batch"]) == 5 * (5 + 1) + 1
    assert torch_device.of(result.fitted_model) == CPU


def test_a_gpu_that_is_the_cpu_trains_the_same_bits() -> None:
    def fit(**options: Any) -> Any:
        return train.TorchTrainer("MLP", max_epochs=3, seed=1, **options).fit(
            None, TABLE.drop("w"), target_columns="y", verbose=False
        )

    with device.pretend("cpu"):
        there = fit(use_gpu=True)
    for name, value in fit().fitted_model.state_dict().items():
        assert torch.equal(value, there.fitted_model.state_dict()[name])


def test_workers_talk_through_nccl_on_gpus_only() -> None:
    context = TrainContext(rows(), None, TARGET)
    assert backend(context) == "gloo"
    context.use_gpu = True
    with device.pretend("cuda:0"):
        assert backend(context) == "nccl"
    with device.pretend("cpu"):
        assert backend(context) == "gloo"


def test_bfloat16_is_refused_where_the_gpu_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda name: "Tesla V100")
    with pytest.raises(rl.ResourceError, match="Tesla V100 does not compute in bfloat16"):
        torch_device.check_bfloat16(Device("cuda:0", is_gpu=True))
    torch_device.check_bfloat16(CPU)


# -- torch.compile ------------------------------------------------------------------------------------------------------------


def test_a_module_is_compiled_when_asked() -> None:
    compiled: list[Any] = []

    def seen(graph: Any, inputs: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    def fit(**options: Any) -> Any:
        return train.TorchTrainer("MLP", max_epochs=2, seed=1, **options).fit(
            None, TABLE.drop("w"), target_columns="y", verbose=False
        )

    result = fit(compile={"backend": seen})
    assert compiled
    plain = fit().fitted_model.state_dict()
    assert all(torch.allclose(v, plain[name], atol=1e-6) for name, v in result.fitted_model.state_dict().items())
    n = len(compiled)
    result.inference_pipeline.predict(TABLE.head(3))
    assert len(compiled) == n  # for the training only


@pytest.mark.parametrize("wrong", [{"mode_": "x"}, "max-autotune"])
def test_wrong_arguments_of_compile(wrong: Any) -> None:
    with pytest.raises(rl.ParameterError, match="compile"):
        train.TorchTrainer("MLP", compile=wrong)


def test_lightning_on_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning")
    given: dict[str, Any] = {}
    right = lightning.Trainer

    def trainer(**options: Any) -> Any:
        given.update(options)
        return right(**{**options, "accelerator": "cpu", "devices": 1})

    class Regression(lightning.LightningModule):
        def __init__(self, in_features: int) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(in_features, 1)

        def forward(self, x: Any) -> Any:
            return self.layer(x)

        def training_step(self, batch: Any, index: int) -> Any:
            return torch.nn.functional.mse_loss(self(batch[0])[:, 0], batch[1].float())

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=1e-3)

    monkeypatch.setattr(lightning, "Trainer", trainer)
    made = train.TorchTrainer(lightning_module=Regression, max_epochs=1, use_gpu=True, mixed_precision=True)
    with device.pretend("cpu"), device.recorded() as moves:
        result = made.fit(None, TABLE.drop("w"), TABLE.drop("w"), "y", verbose=False)
    assert given["precision"] == "bf16-mixed"
    assert given["accelerator"] == "cpu"  # of a pretended GPU
    assert [move.what for move in moves] == ["model", "batch", "result", "model"]
    assert torch_device.of(result.fitted_model) == CPU

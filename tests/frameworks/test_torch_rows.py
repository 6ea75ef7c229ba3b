"""Rows as tensors: held and streamed rows train the same way, and a streamed shard does not grow the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed (make test-all)")

from rayline.core import registry, row_stream
from rayline.core.framework import Rows, TrainContext
from rayline.core.schema import SPARSE
from rayline.core.target import Target, Task
from rayline.frameworks import torch_modules as modules
from rayline.frameworks import torch_rows

ADAPTER = registry.framework("torch")
TARGET = Target(("y",), Task.REGRESSION, (pl.Float64(),))


def table(n: int = 300) -> pl.DataFrame:
    a, b = np.random.default_rng(0).normal(size=(2, n))
    return pl.DataFrame({"a": a, "b": b, "y": 2 * a - b + 0.5, "w": np.arange(n) % 3 + 1.0})


def rows_of(frame: pl.DataFrame, weight: str | None = None, n_blocks: int = 3) -> Rows:
    size = -(-frame.height // n_blocks)
    blocks = [lambda i=i: frame.slice(i * size, size) for i in range(n_blocks)]
    return Rows(blocks, {"a": pl.Float64(), "b": pl.Float64()}, TARGET, weight)  # type: ignore[arg-type]


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_stream, "HELD_BYTES", 100)
    monkeypatch.setattr(row_stream, "CHUNK_BYTES", 7 * 20)
    monkeypatch.setattr(row_stream, "WINDOW_BYTES", 40 * 20)


def trained(weight: str | None, test: bool = False, **options: Any) -> tuple[Any, list[dict[str, float]]]:
    told: list[dict[str, float]] = []
    context = TrainContext(
        rows_of(table(), weight),
        rows_of(table(200), weight) if test else None,
        TARGET,
        seed=3,
        report=lambda i, metrics: bool(told.append(dict(metrics))),  # type: ignore[func-returns-value]
    )
    start = torch.nn.Linear(2, 1)
    torch.nn.init.zeros_(start.weight), torch.nn.init.zeros_(start.bias)
    made = ADAPTER.train(context, start, optimizer="SGD", lr=0.1, **options)
    return [*made.weight.detach().numpy()[0].tolist(), made.bias.item()], told


@pytest.mark.parametrize("weight", [None, "w"])
def test_full_batches_of_streamed_rows_are_those_of_held_rows(
    weight: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = trained(weight, True, batch_size=1000, max_epochs=4)
    monkeypatch.setattr(row_stream, "HELD_BYTES", 100)
    monkeypatch.setattr(row_stream, "CHUNK_BYTES", 7 * 20)
    monkeypatch.setattr(row_stream, "WINDOW_BYTES", 40 * 20)
    streamed = trained(weight, True, batch_size=1000, max_epochs=4)
    assert streamed[0] == pytest.approx(held[0], abs=1e-5)
    for one, other in zip(streamed[1], held[1], strict=True):
        assert one == pytest.approx(other, rel=1e-4)


@pytest.mark.usefixtures("streamed")
@pytest.mark.parametrize("weight", [None, "w"])
def test_the_seed_decides_the_order_of_streamed_rows(weight: str | None) -> None:
    one, other = (trained(weight, batch_size=16, max_epochs=3) for _ in range(2))
    assert one == other
    assert one[1][-1]["train-loss"] < 0.1


@pytest.mark.usefixtures("streamed")
def test_a_resumed_training_takes_streamed_rows_in_the_order_of_the_uninterrupted_one(tmp_path: Path) -> None:
    def training(**options: Any) -> list[float]:
        context = TrainContext(rows_of(table(), "w"), None, TARGET, seed=3, **options)
        made = ADAPTER.train(context, "Linear", optimizer="Adam", lr=0.1, batch_size=16, max_epochs=4)
        return [*made.weight.detach().numpy()[0].tolist(), made.bias.item()]

    whole = training(checkpoint=lambda epoch, save: save(tmp_path) if epoch == 1 else None)
    assert training(resume=tmp_path) == whole


@pytest.mark.usefixtures("streamed")
def test_an_epoch_of_streamed_rows_has_every_row_once() -> None:
    rows = torch_rows.tensors(rows_of(table()), "matrix", stream=True)
    torch.manual_seed(1)
    weights, batches = rows.epoch(19)
    parts = list(batches)
    assert weights is not None
    assert weights.tolist() == [part.n_rows for part in parts]
    x = torch.cat([part.x for part in parts]).numpy()
    expected = table().select("a", "b").to_numpy().astype(np.float32)
    assert np.array_equal(x[np.lexsort(x.T)], expected[np.lexsort(expected.T)])
    assert not np.array_equal(x, expected)
    ordered = torch.cat([part.x for part in rows.in_order(13)]).numpy()
    assert np.array_equal(ordered, expected)
    assert [part.n_rows for part in rows.split(7)] == [
        part.n_rows for part in torch_rows.TensorTable(rows_of(table()), "matrix").split(7)
    ]


@pytest.mark.usefixtures("streamed")
def test_columns_stream_too() -> None:
    rows = torch_rows.tensors(rows_of(table(), "w"), "columns", stream=True)
    parts = list(rows.in_order(50))
    assert torch.cat([part.x["b"] for part in parts]).tolist() == pytest.approx(table()["b"].to_list(), abs=1e-6)
    assert torch.cat([part.weight for part in parts]).tolist() == table()["w"].to_list()


def test_sparse_rows_are_as_large_as_what_they_hold() -> None:
    """600 rows of 100,000 features, three of which are not 0, are held; a batch of them, which is dense, has few rows."""
    n, width = 600, 100_000
    values = pl.Series(
        [{"size": width, "indices": [1, i, width - 1], "values": [1.0, 2.0, 3.0]} for i in range(2, n + 2)]
    )
    table = pl.DataFrame({"t": values.cast(SPARSE), "y": np.zeros(n)})
    rows = Rows.of(table, {"t": SPARSE}, TARGET)
    assert torch_rows.row_bytes(rows, "matrix") < 100
    assert not torch_rows.is_large(rows, "matrix")
    assert modules.batch_rows(modules.ModuleInputs(rows.head, "matrix").row_bytes) == 41


class BatchSizes(torch.nn.Module):
    """Counts the rows of the batches that it is called with outside of training."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(1))
        self.sizes: list[int] = []

    def forward(self, x: Any) -> Any:
        if not self.training:
            self.sizes.append(len(x))
        return x.flatten(1).mean(dim=1) + self.bias


@pytest.mark.parametrize(("side", "sizes"), [(8, [500]), (64, [341, 159])])
def test_a_batch_of_images_has_as_many_rows_as_fit(side: int, sizes: list[int]) -> None:
    """In the measurement of the test set after an epoch, and in predictions: 64 × 64 pixels in three colours take 48 KiB."""
    pixels = np.random.default_rng(0).integers(0, 255, (500, 3, side, side)).astype(np.uint8)
    table = pl.DataFrame({"x": pl.Series(pixels, dtype=pl.Array(pl.UInt8, (3, side, side))), "y": np.zeros(500)})
    rows = Rows.of(table, {"x": table.schema["x"]}, TARGET)
    context = TrainContext(rows, rows, TARGET, seed=1)
    made = ADAPTER.train(context, BatchSizes, batch_size=50, max_epochs=1)
    assert made.sizes == sizes
    made.sizes.clear()
    assert ADAPTER.predict(made, rows.features) == pytest.approx(
        pixels.reshape(500, -1).mean(axis=1) + made.bias.item(), rel=1e-5
    )
    assert made.sizes == sizes


MEMORY = """
import sys
import numpy as np, polars as pl, torch
from rayline.core import registry
from rayline.core.framework import Rows, TrainContext
from rayline.core.target import Target, Task

n_blocks, how = int(sys.argv[1]), sys.argv[2]
names = [f"x{i}" for i in range(12)]

class Block:
    n_rows = 100_000
    def __init__(self, seed): self.seed = seed
    def __call__(self):
        values = np.random.default_rng(self.seed).normal(size=(12, self.n_rows))
        return pl.DataFrame({**dict(zip(names, values)), "y": values[0]})

target = Target(("y",), Task.REGRESSION, (pl.Float64(),))
def rows(n): return Rows([Block(i) for i in range(n)], {name: pl.Float64() for name in names}, target, None)

def loop(module, context):
    for batch in context.train.batches(4096, seed=1):
        batch.features.matrix(), batch.target

def peak():
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status["VmHWM"].split()[0]) / 1024

options = {"train_loop": loop} if how == "loop" else {"max_epochs": 1, "batch_size": 8192}
adapter = registry.framework("torch")
def train(n): adapter.train(TrainContext(rows(n), rows(n), target, seed=1), "Linear", **options)
train(32)  # streamed already
before = peak()
train(n_blocks)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["standard", "loop"])
def test_the_process_does_not_grow_with_the_rows(how: str) -> None:
    """Three times the rows (460 MB as float32, 920 MB as float64) take at most 40 MB more."""
    made = subprocess.run(
        [sys.executable, "-c", MEMORY, "96", how], capture_output=True, text=True, check=True, timeout=300
    )
    assert float(made.stdout.split()[-1]) < 40.0

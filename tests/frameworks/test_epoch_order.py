"""Two workers read their rows in an order that follows from seed, epoch and rank: held or streamed, and after a restart."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed (make test-all)")

from rayline import data, train
from rayline.core import registry, row_stream
from rayline.core.framework import TrainContext
from rayline.testing.common_laws import standing_in

EPOCHS, KILLED_IN = 4, 2


def numbers(n: int = 400) -> pl.DataFrame:
    a, b = np.random.default_rng(0).normal(size=(2, n))
    return pl.DataFrame({"a": a, "b": b, "label": np.where(a > b, "up", "down")})


def of_torch(folder: Path) -> tuple[str, pl.DataFrame, str, dict[str, Any]]:
    module = {"module": "MLP", "module_kwargs": {"dropout": 0.2}}
    return "torch", numbers(), "label", {**module, "batch_size": 16, "max_epochs": EPOCHS}


def in_batches(module: Any, context: TrainContext, lr: float, max_epochs: int) -> None:
    """A loop of the user's own, which streams its rows and resumes from its own checkpoints."""
    optimizer, first = torch.optim.SGD(module.parameters(), lr, momentum=0.9), 0
    if context.resume is not None:
        state = torch.load(context.resume / "state.pt")
        module.load_state_dict(state["module"]), optimizer.load_state_dict(state["optimizer"])
        first = state["epoch"] + 1
    for epoch in range(first, max_epochs):
        for batch in context.train.batches(8, seed=epoch):
            output = module(torch.from_numpy(batch.features.matrix()))[:, 0]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(output, torch.from_numpy(batch.target).float())
            optimizer.zero_grad(), loss.backward(), optimizer.step()
        context.report(epoch, {"train-loss": loss.item()})
        state = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}

        def save(directory: Path, state: Any = state) -> None:
            torch.save(state, directory / "state.pt")

        context.checkpoint(epoch, save)


def of_a_loop(folder: Path) -> tuple[str, pl.DataFrame, str, dict[str, Any]]:
    return "torch", numbers(), "label", {"module": "MLP", "train_loop": in_batches, "lr": 0.05, "max_epochs": EPOCHS}


def of_lightning(folder: Path) -> tuple[str, pl.DataFrame, str, dict[str, Any]]:
    pytest.importorskip("lightning", reason="Lightning is not installed (make test-all)")
    from tests.frameworks.test_torch_lightning import Net

    return "torch", numbers(), "label", {"lightning_module": Net, "batch_size": 16, "max_epochs": EPOCHS}


def of_huggingface(folder: Path) -> tuple[str, pl.DataFrame, str, dict[str, Any]]:
    pytest.importorskip("transformers", reason="transformers is not installed (make test-all)")
    from tests.frameworks.test_huggingface import ARGS, texts, untrained

    table = texts(96).select("text", "topic")
    return (
        "huggingface",
        table,
        "topic",
        {"model": untrained(folder), "training_args": {**ARGS, "num_train_epochs": EPOCHS}},
    )


def trained(name: str, table: pl.DataFrame, target: str, arguments: dict[str, Any]) -> tuple[pl.DataFrame, list[float]]:
    """The history and the scores of a model of two workers."""
    rows = data.from_polars(list(table.iter_slices(table.height // 3)))
    scaling = train.Scaling(num_workers=2, max_failures=1)
    trainer = train.Trainer(name, **arguments, scaling=scaling, checkpoint_every=1, seed=3)
    result = trainer.fit(None, rows, None, [target], verbose=False)
    return result.history.drop("seconds", strict=False), np.ravel(
        result.inference_pipeline.scores(table.lazy())
    ).tolist()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "held_bytes"),
    [(of_torch, 1 << 20), (of_torch, 100), (of_a_loop, 100), (of_lightning, 100), (of_huggingface, 100)],
)
def test_a_training_that_loses_a_worker_is_the_uninterrupted_one(
    ray_session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Callable[[Path], Any], held_bytes: int
) -> None:
    monkeypatch.setenv("RAYLINE_KEEP_WORKERS_S", "0")  # the next test's rows are held otherwise
    name, table, target, arguments = case(tmp_path / "model")
    kind, killed = type(registry.framework(name)), tmp_path / "killed"

    def run(self: Any, context: TrainContext, *args: Any, **kwargs: Any) -> Any:
        row_stream.HELD_BYTES, row_stream.WINDOW_BYTES, row_stream.CHUNK_BYTES = held_bytes, 2_000, 300

        def report(epoch: int, metrics: Mapping[str, float]) -> bool:
            if context.rank == 1 and killed.exists():
                with (tmp_path / "epochs").open("a") as file:
                    file.write(f"{epoch} ")
            if context.rank == 1 and (tmp_path / "mortal").exists() and epoch == KILLED_IN and not killed.exists():
                killed.touch()
                time.sleep(0.5)  # the driver has heard of the last checkpoint
                os.kill(os.getpid(), signal.SIGKILL)
            return context.report(epoch, metrics)

        return kind.train(self, replace(context, report=report), *args, **kwargs)

    with standing_in(SimpleNamespace(adapter=registry.framework(name)), "of-this-test", run) as other:  # type: ignore[arg-type]
        history, scores = trained(other, table, target, arguments)
        (tmp_path / "mortal").touch()
        again, other_scores = trained(other, table, target, arguments)
    assert (tmp_path / "epochs").read_text().split() in (["2", "3"], ["3"])  # the first worker may be ahead
    assert again.equals(history)
    assert other_scores == scores

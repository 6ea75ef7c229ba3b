"""`TorchTrainer(lightning_module=…)`: the user's LightningModule with Lightning's own Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

lightning = pytest.importorskip("lightning", reason="Lightning is not installed (make test-all)")
torch = pytest.importorskip("torch", reason="PyTorch is not installed (make test-all)")

import rayline as rl
from rayline import train, tune
from rayline.core import registry, row_stream
from rayline.core.framework import Rows, TrainContext
from rayline.core.target import Target, Task
from rayline.testing import check_framework


class Net(lightning.LightningModule):
    """A module of the user's own."""

    def __init__(self, in_features: int, out_features: int, lr: float = 0.05) -> None:
        super().__init__()
        self.out, self.lr = torch.nn.Linear(in_features, out_features), lr

    def forward(self, x: Any) -> Any:
        return self.out(x)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self._loss(batch, "train_loss")

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self._loss(batch, "val_loss")

    def _loss(self, batch: Any, name: str) -> Any:
        x, y, *weight = batch
        losses = torch.nn.functional.binary_cross_entropy_with_logits(self(x)[:, 0], y, reduction="none")
        loss = (losses * weight[0]).sum() / weight[0].sum() if weight else losses.mean()
        self.log(name, loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(y))
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def table(n: int = 101) -> pl.DataFrame:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, n))
    return pl.DataFrame({"a": a, "b": b, "label": np.where(a > b, "up", "down")})


def fit(**options: Any) -> Any:
    trainer = train.TorchTrainer(lightning_module=Net, **{"max_epochs": 6, "batch_size": 16, "seed": 1, **options})
    return trainer.fit(None, table(), table(), ["label"])


def test_the_whole_path(tmp_path: Path) -> None:
    result = fit()
    assert isinstance(result.fitted_model, Net)
    assert result.metrics["test-accuracy"] > 0.9
    assert set(result.history.columns) == {"iteration", "train-loss", "test-loss"}
    assert result.history.height == 6
    assert fit().history.equals(result.history)
    pipeline = result.inference_pipeline
    pipeline.save(tmp_path / "net.rayline")
    loaded = rl.load(tmp_path / "net.rayline", module=Net)
    assert loaded.predict_proba(table()).equals(pipeline.predict_proba(table()))
    with pytest.raises(rl.ArtifactError, match="module=Net"):
        rl.load(tmp_path / "net.rayline")


def test_callbacks_of_both_kinds() -> None:
    class Stop(train.Callback):
        def on_iteration(self, run: Any, iteration: int, metrics: Any) -> bool:
            return iteration == 1

    class Count(lightning.Callback):
        def on_train_epoch_start(self, *args: Any) -> None:
            epochs.append(1)

    epochs: list[int] = []
    count = Count()
    trainer = train.TorchTrainer(lightning_module=Net, max_epochs=50)
    assert trainer.fit(None, table(), None, ["label"], callbacks=[Stop(), count]).history.height == 2
    assert len(epochs) == 2


@pytest.mark.parametrize(("batch_size", "held_bytes"), [(1000, 1 << 20), (16, 1 << 20), (16, 100)])
def test_a_resumed_training_is_the_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int, held_bytes: int
) -> None:
    """With the same batches in the same order, held in memory or streamed."""
    monkeypatch.setattr(row_stream, "HELD_BYTES", held_bytes)
    monkeypatch.setattr(row_stream, "WINDOW_BYTES", 1000)
    target = Target(("label",), Task.BINARY, (pl.String(),), (("down", "up"),))
    rows = Rows.of(table(), {"a": pl.Float64(), "b": pl.Float64()}, target)
    adapter, heard = registry.framework("torch"), []

    def keep(iteration: int, save: Any) -> None:
        if iteration == 2:
            save(tmp_path)

    options: dict[str, Any] = {"max_epochs": 5, "batch_size": batch_size}
    whole = adapter.train(TrainContext(rows, None, target, seed=1, checkpoint=keep), lightning_module=Net, **options)
    again = TrainContext(rows, None, target, seed=1, resume=tmp_path, report=lambda i, metrics: bool(heard.append(i)))
    resumed = adapter.train(again, lightning_module=Net, **options)
    assert heard == [3, 4]
    assert torch.allclose(whole.out.weight, resumed.out.weight, atol=1e-6)


def test_rows_that_are_streamed_train_as_held_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"batch_size": 1000, "max_epochs": 3}
    held = fit(**options)
    monkeypatch.setattr(row_stream, "HELD_BYTES", 100)
    monkeypatch.setattr(row_stream, "WINDOW_BYTES", 1000)
    streamed = fit(**options)
    assert streamed.history["train-loss"].to_list() == pytest.approx(held.history["train-loss"].to_list(), rel=1e-4)
    assert streamed.history["test-loss"].to_list() == pytest.approx(held.history["test-loss"].to_list(), rel=1e-4)
    small = {"batch_size": 16, "max_epochs": 2}
    assert fit(**small).history.equals(fit(**small).history)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trainer_args": {"strategy": "ddp"}}, "strategy"),
        ({"trainer_args": {"gradient_clip": 1}}, "gradient_clip_val"),
        ({"module_kwargs": {"rate": 1}}, "rate"),
        ({"lr": 0.1, "patience": 3}, "lr, patience would have no effect with lightning_module"),
        ({"module": torch.nn.Linear}, "module would have no effect"),
        ({"train_loop": print}, "train_loop would have no effect"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_wrong_arguments_are_refused_at_once(options: dict[str, Any], words: str) -> None:
    with pytest.raises(rl.ParameterError, match=words):
        train.TorchTrainer(lightning_module=Net, **options)


def test_what_is_lightnings_needs_a_lightning_module() -> None:
    with pytest.raises(rl.ParameterError, match="LightningModule"):
        train.TorchTrainer(lightning_module=torch.nn.Linear).fit(None, table(), None, ["label"])
    with pytest.raises(rl.ParameterError, match="trainer_args would have no effect with module"):
        train.TorchTrainer(trainer_args={"precision": 32})
    with pytest.raises(rl.ParameterError, match="callbacks"):
        train.TorchTrainer().fit(None, table(), None, ["label"], callbacks=[lightning.Callback()])


@pytest.mark.ray
def test_two_workers_make_the_same_steps_as_one(ray_session: Any) -> None:
    one, two = fit(batch_size=1000), fit(batch_size=1000, num_workers=2)
    assert isinstance(two.fitted_model, Net)
    assert np.allclose(one.history["test-loss"], two.history["test-loss"], atol=0.02)  # the mean of two means
    assert torch.allclose(one.fitted_model.out.weight, two.fitted_model.out.weight, atol=0.02)


class AnyTask(Net):
    """For the contract, whose tasks differ in what y is."""

    def _loss(self, batch: Any, name: str) -> Any:
        x, y, *weight = batch
        out, losses = self(x), torch.nn.functional
        if y.dtype == torch.int64:
            found = losses.cross_entropy(out, y, reduction="none")
        elif set(y.unique().tolist()) <= {0.0, 1.0}:
            found = losses.binary_cross_entropy_with_logits(out[:, 0], y, reduction="none")
        else:
            found = losses.mse_loss(out[:, 0], y, reduction="none")
        loss = (found * weight[0]).sum() / weight[0].sum() if weight else found.mean()
        self.log(name, loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(y))
        return loss


OPTIONS: dict[str, Any] = {"lightning_module": AnyTask, "batch_size": 32, "max_epochs": 8, "exact": False}


@pytest.mark.slow
def test_contract() -> None:
    more = {"regression": {"module_kwargs": {"lr": 0.5}}}
    check_framework("torch", **OPTIONS, by_task=more)


@pytest.mark.ray
@pytest.mark.slow
def test_contract_on_ray(ray_session: Any) -> None:
    tuned = {"batch_size": tune.grid_search([16, 32])}
    check_framework("torch", **OPTIONS, tasks=["multiclass"], tuned=tuned, ray=True, serve=True, in_process=False)


class Local(Net):
    """Logs what its own worker sees, and stops by it."""

    def _loss(self, batch: Any, name: str) -> Any:
        x, y = batch
        loss = torch.nn.functional.binary_cross_entropy_with_logits(self(x)[:, 0], y)
        self.log(name, loss, on_step=False, on_epoch=True)
        return loss

    def configure_callbacks(self) -> Any:
        return [lightning.pytorch.callbacks.EarlyStopping("val_loss", patience=2)]


@pytest.mark.ray
def test_metrics_of_two_workers_are_those_of_all_rows(ray_session: Any) -> None:
    rows = table().sort("a")  # the workers' rows differ much
    options: dict[str, Any] = {
        "lightning_module": Local,
        "module_kwargs": {"lr": 0.0},
        "max_epochs": 9,
        "batch_size": 16,
        "seed": 1,
    }
    result = train.TorchTrainer(**options, num_workers=2).fit(None, rows, rows, ["label"])
    assert result.history.height == 3  # stopped together
    p = result.inference_pipeline.predict_proba(rows)["probability_up"].to_numpy()
    expected = -np.log(np.where(rows["label"] == "up", p, 1 - p)).mean()  # of a model that has not changed
    for name in ("train-loss", "test-loss"):
        assert np.allclose(result.history[name], expected, rtol=1e-4)

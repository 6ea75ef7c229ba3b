"""PyTorch: modules of every origin, the standard loop against one written by hand, files without code.

Covers `frameworks.torch_file`, `frameworks.torch_loop` and `frameworks.torch_modules` too.
"""

from __future__ import annotations

import asyncio
import json
import pickle
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed (make test-all)")

import rayline as rl
from rayline import train, tune
from rayline.core import registry
from rayline.core.features import Features
from rayline.core.framework import Rows, TrainContext
from rayline.core.schema import SPARSE
from rayline.core.target import Target, Task
from rayline.frameworks import torch_modules as modules
from rayline.serve.app import create_app
from rayline.stages import OrdinalEncoder, StandardScaler
from rayline.testing import check_framework

ADAPTER = registry.framework("torch")


class Net(torch.nn.Module):
    """A module of the user's own."""

    def __init__(self, in_features: int, out_features: int, width: int = 8) -> None:
        super().__init__()
        self.one, self.two = torch.nn.Linear(in_features, width), torch.nn.Linear(width, out_features)

    def forward(self, x: Any) -> Any:
        return self.two(torch.relu(self.one(x)))


class Normed(torch.nn.Module):
    """With buffers, which workers see differently."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.norm, self.out = torch.nn.BatchNorm1d(in_features), torch.nn.Linear(in_features, out_features)

    def forward(self, x: Any) -> Any:
        return self.out(self.norm(x))


def numbers(n: int = 120, seed: int = 0) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    a, b = random.normal(size=(2, n))
    return pl.DataFrame({"a": a, "b": b, "y": 2 * a - b + 0.5, "label": np.where(a > b, "up", "down")})


def context(table: pl.DataFrame, target: str = "y", test: pl.DataFrame | None = None, **options: Any) -> TrainContext:
    weight = "w" if "w" in table.columns else None
    schema = {name: dtype for name, dtype in table.schema.items() if name not in ("y", "label", "w")}
    if target == "y":
        aim = Target(("y",), Task.REGRESSION, (pl.Float64(),))
    else:
        aim = Target((target,), Task.BINARY, (pl.String(),), (("down", "up"),))
    tests = None if test is None else Rows.of(test, schema, aim)
    return TrainContext(Rows.of(table, schema, aim, weight), tests, aim, **{"seed": 3, **options})


def fit(table: pl.DataFrame, target: str = "y", *, test: Any = None, **options: Any) -> Any:
    keep = [c for c in table.columns if c not in ("y", "label") or c == target]
    test = None if test is None else test.select(keep)
    trainer = train.TorchTrainer(**{"seed": 1, "max_epochs": 3, **options})
    return trainer.fit(train.Preprocessor(), table.select(keep), test, [target])


@pytest.mark.slow
def test_contract() -> None:
    more = {"regression": {"lr": 0.05, "max_epochs": 12}}
    check_framework("torch", lr=0.02, max_epochs=8, batch_size=32, exact=False, by_task=more)


# -- the loop ----------------------------------------------------------------------------------------------------------


def test_full_batches_are_plain_gradient_descent() -> None:
    table = numbers().with_columns(w=pl.int_range(pl.len()) % 3 + 1.0)
    start = torch.nn.Linear(2, 1)
    x = table.select("a", "b").to_numpy()
    y, w = table["y"].to_numpy(), table["w"].to_numpy()
    weight, bias = start.weight.detach().double().numpy()[0].copy(), start.bias.item()
    for _ in range(5):
        error = x @ weight + bias - y
        weight -= 0.1 * 2 * (w * error) @ x / w.sum()
        bias -= 0.1 * 2 * (w * error).sum() / w.sum()
    module = ADAPTER.train(context(table), start, optimizer="SGD", lr=0.1, batch_size=1000, max_epochs=5)
    assert np.allclose(module.weight.detach().numpy()[0], weight, atol=1e-5)
    assert module.bias.item() == pytest.approx(bias, abs=1e-5)
    assert not np.allclose(start.weight.detach().numpy()[0], weight, atol=1e-2), "the caller's module was trained"


def test_losses_of_each_task_are_the_usual_ones() -> None:
    outputs = {
        "y": (1, torch.nn.functional.mse_loss),
        "label": (1, torch.nn.functional.binary_cross_entropy_with_logits),
    }
    for target, (width, loss) in outputs.items():
        given, heard = context(numbers(), target), []  # type: ignore[var-annotated]
        given.report = lambda iteration, metrics, heard=heard: bool(heard.append(metrics["train-loss"]))  # type: ignore[misc]
        start = torch.nn.Linear(2, width)
        ADAPTER.train(given, start, batch_size=1000, max_epochs=1)
        x = torch.tensor(numbers().select("a", "b").to_numpy(), dtype=torch.float32)
        assert heard == [pytest.approx(loss(start(x)[:, 0], torch.tensor(given.train.target).float()).item(), rel=1e-5)]


@pytest.mark.parametrize("loss", ["cross_entropy", torch.nn.CrossEntropyLoss(), torch.nn.functional.cross_entropy])
def test_two_logits_are_two_classes(loss: Any) -> None:
    result = fit(
        numbers().with_columns(label=(pl.col("a") > pl.col("b")).cast(pl.Int64)),
        "label",
        loss=loss,
        lr=0.1,
        max_epochs=8,
    )
    assert result.model.target.task == Task.BINARY
    assert result.fitted_model.layers[-1].out_features == 2
    assert set(result.inference_pipeline.predict_proba(numbers()).columns) == {"probability_0", "probability_1"}


def test_a_loss_of_ones_own() -> None:
    def absolute(output: Any, target: Any) -> Any:
        return (output - target).abs().mean()

    table = numbers()
    result = fit(table, loss=absolute, module="Linear", lr=0.1, max_epochs=30, batch_size=20)
    assert result.history["train-loss"][-1] < 0.2
    with pytest.raises(rl.ParameterError, match="reduction='none'"):
        ADAPTER.train(context(table.with_columns(w=1.0)), loss=absolute)


def test_a_resumed_training_is_the_uninterrupted_one(tmp_path: Path) -> None:
    table, options = (
        numbers(),
        {"optimizer": "Adam", "scheduler": "CosineAnnealingLR", "module_kwargs": {"dropout": 0.2}, "max_epochs": 6},
    )
    whole = ADAPTER.train(context(table, test=table), patience=3, **options)

    def keep(iteration: int, save: Any) -> None:
        if iteration == 2:
            save(tmp_path)

    ADAPTER.train(
        context(table, test=table, checkpoint=keep, report=lambda iteration, metrics: iteration == 2),
        patience=3,
        **options,
    )
    heard: list[int] = []
    again = context(table, test=table, resume=tmp_path, report=lambda iteration, metrics: bool(heard.append(iteration)))
    resumed = ADAPTER.train(again, patience=3, **options)
    assert heard[0] == 3
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_patience_keeps_the_best_epoch() -> None:
    table = numbers()
    result = fit(table, test=table.with_columns(y=-pl.col("y")), patience=2, max_epochs=20, lr=0.05)
    losses = result.history["test-loss"]
    assert result.history.height == losses.arg_min() + 3 < 20
    assert result.metrics["test-loss"] == losses.min()
    assert result.model.adapter.best_iteration(result.fitted_model) == losses.arg_min()
    with pytest.raises(rl.ParameterError, match="patience needs a test set"):
        fit(table, patience=2)


def test_the_process_is_left_as_it_was() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    threads = torch.get_num_threads()
    torch.manual_seed(7)
    fit(numbers(), module_kwargs={"dropout": 0.5})
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_options_of_the_loop() -> None:
    table = numbers()
    clipped = fit(table, module="Linear", optimizer="SGD", lr=1.0, gradient_clip=1e-6, max_epochs=1)
    plain = fit(table, module="Linear", optimizer="SGD", lr=0.0, max_epochs=1)
    assert torch.allclose(clipped.fitted_model.weight, plain.fitted_model.weight, atol=1e-5)
    assert fit(table, mixed_precision=True, lr=0.05, max_epochs=20).history["train-loss"][-1] < 1
    decayed = fit(table, "label", module="Linear", weight_decay=100.0, lr=0.01, max_epochs=20)
    assert decayed.fitted_model.weight.abs().max() < 0.2
    schedule = fit(table, scheduler=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.0))
    assert schedule.history["train-loss"].n_unique() > 1  # the batches still differ


def test_a_loop_of_ones_own() -> None:
    def loop(model: Any, context: TrainContext) -> None:
        x, y = (
            torch.from_numpy(context.train.features.matrix(np.float64)).float(),
            torch.from_numpy(context.train.target).float(),
        )
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=50)

        def closure() -> Any:
            optimizer.zero_grad()
            loss = ((model(x)[:, 0] - y) ** 2).mean()
            loss.backward()
            return loss

        context.report(0, {"train-mse": float(optimizer.step(closure).detach())})

    table = numbers().select("a", "b", "y")
    result = train.TorchTrainer("Linear", train_loop=loop, seed=1).fit(None, table, None, ["y"])
    assert np.allclose(result.fitted_model.weight.detach().numpy(), [[2, -1]], atol=1e-3)
    assert result.inference_pipeline.predict([{"a": 1.0, "b": 1.0}])[0]["prediction"] == pytest.approx(1.5, abs=1e-2)
    assert result.history.columns == ["iteration", "train-mse"]


def descend(model: Any, context: TrainContext, lr: float, max_epochs: int) -> None:
    """Gradient descent on the shard of this worker; DDP shares the gradients."""
    x = torch.from_numpy(context.train.features.matrix(np.float64)).float()
    y = torch.from_numpy(context.train.target).float()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for epoch in range(max_epochs):
        optimizer.zero_grad()
        loss = ((model(x)[:, 0] - y) ** 2).mean()
        loss.backward()
        optimizer.step()
        if context.report(epoch, {"train-mse": float(loss.detach()), "n_rows": context.train.n_rows}):
            break


def test_a_loop_of_ones_own_has_the_arguments_that_it_names() -> None:
    table = numbers().select("a", "b", "y")
    trainer = train.TorchTrainer("Linear", train_loop=descend, lr=0.2, max_epochs=40, seed=1)
    assert trainer.fit(None, table, None, ["y"]).history["train-mse"][-1] < 1e-3
    assert trainer.replace({"lr": 0.0}).fit(None, table, None, ["y"]).history["train-mse"].n_unique() == 1
    with pytest.raises(rl.ParameterError, match="patience would have no effect with train_loop"):
        train.TorchTrainer(train_loop=descend, patience=3)
    with pytest.raises(rl.ParameterError, match="train_loop has a wrong value"):
        train.TorchTrainer(train_loop="descend")  # type: ignore[arg-type]


# -- what goes in ------------------------------------------------------------------------------------------------------


def test_a_vector_column_keeps_its_shape() -> None:
    class Images(torch.nn.Module):
        def __init__(self, out_features: int) -> None:
            super().__init__()
            self.convolve, self.out = torch.nn.Conv2d(1, 4, 3), torch.nn.Linear(4 * 4, out_features)

        def forward(self, x: Any) -> Any:
            assert x.shape[1:] == (4, 4)
            return self.out(torch.relu(self.convolve(x[:, None])).flatten(1))

    random = np.random.default_rng(0)
    images = random.normal(size=(60, 4, 4)).astype(np.float32)
    table = pl.DataFrame(
        {"image": pl.Series(images, dtype=pl.Array(pl.Float32, (4, 4))), "bright": images.mean((1, 2)) > 0}
    )
    result = train.TorchTrainer(Images, lr=0.02, max_epochs=30, seed=1).fit(None, table, table, ["bright"])
    assert result.metrics["test-accuracy"] > 0.9
    assert result.inference_pipeline.predict(table.head(3))["prediction"].dtype == pl.Boolean


def test_columns_by_name_feed_embeddings() -> None:
    class Embedded(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.city, self.out = torch.nn.Embedding(5, 3), torch.nn.Linear(4, 1)

        def forward(self, city: Any, size: Any) -> Any:
            return self.out(torch.cat([self.city(city), size[:, None]], dim=1))

    random = np.random.default_rng(0)
    city, size = random.integers(0, 5, 200), random.normal(size=200)
    table = pl.DataFrame({"city": city, "size": size, "y": (city == 3) * 2.0 + size})
    result = train.TorchTrainer(Embedded, inputs="columns", lr=0.05, max_epochs=40, seed=1).fit(
        None, table, table, ["y"]
    )
    assert result.metrics["test-r2"] > 0.9
    assert result.inference_pipeline.predict([{"city": 3, "size": 0.0}])[0]["prediction"] == pytest.approx(2, abs=0.7)


def test_sparse_columns_are_dense_one_batch_at_a_time() -> None:
    rows = [{"size": 50, "indices": [i % 7, 20 + i % 3], "values": [1.0, 2.0]} for i in range(90)]
    table = pl.DataFrame(
        {"text": pl.Series(rows, dtype=SPARSE), "label": ["up" if i % 3 == 0 else "down" for i in range(90)]}
    )
    result = train.TorchTrainer("Linear", lr=0.1, max_epochs=20, seed=1).fit(None, table, table, ["label"])
    assert result.metrics["test-accuracy"] == 1
    assert result.fitted_model.in_features == 50


def test_missing_features_are_named() -> None:
    table = numbers().with_columns(a=pl.when(pl.col("b") > 1).then(None).otherwise("a"))
    with pytest.raises(rl.DataError, match=r"\['a'\] have missing values"):
        fit(table)
    module = ADAPTER.train(context(numbers()), max_epochs=1)
    schema = {"a": pl.Float64(), "b": pl.Float64()}
    with pytest.raises(rl.DataError, match=r"\['b'\] have missing values"):
        ADAPTER.predict(module, Features(row={"a": 1.0, "b": None}, schema=schema))
    vectors = pl.Series([[[1, 2], [3, None]], [[5, 6], [7, 8]]] * 20, dtype=pl.Array(pl.Int64, (2, 2)))
    with pytest.raises(rl.DataError, match=r"\['v'\] have missing values"):
        fit(pl.DataFrame({"v": vectors, "y": [0.5, 1.5] * 20}))


# -- where modules come from, and where they go ------------------------------------------------------------------------


def make_net(width: int, out_features: int) -> Any:
    return torch.nn.Sequential(torch.nn.Linear(2, width), torch.nn.Tanh(), torch.nn.Linear(width, out_features))


@pytest.mark.parametrize(
    ("module", "kwargs"),
    [(Net, {"width": 4}), (make_net, {"width": 3}), (make_net(5, 1), {})],
    ids=["class", "function", "object"],
)
def test_files_hold_no_class(module: Any, kwargs: dict[str, Any], tmp_path: Path) -> None:
    result = fit(numbers(), module=module, module_kwargs=kwargs)
    pipeline = result.inference_pipeline
    pipeline.save(tmp_path / "net.rayline")
    with pytest.raises(rl.ArtifactError, match="module=Net"):
        rl.load(tmp_path / "net.rayline")
    loaded = rl.load(tmp_path / "net.rayline", module=module)
    assert loaded.predict(numbers()).equals(pipeline.predict(numbers()))
    travelled = pickle.loads(pickle.dumps(pipeline))
    assert travelled.predict(numbers()).equals(pipeline.predict(numbers()))
    with pytest.raises(rl.ParameterError, match="no_such"):
        rl.load(tmp_path / "net.rayline", no_such=1)
    with pytest.raises(rl.ArtifactError, match="does not fit"):
        rl.load(tmp_path / "net.rayline", module=Normed)


def test_a_registered_class_needs_no_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules, "_REGISTERED", {})
    assert modules.register_module(Net) is Net
    result = fit(numbers(), module="Net")
    result.inference_pipeline.save(tmp_path / "net.rayline")
    assert isinstance(rl.load(tmp_path / "net.rayline").model.native, Net)
    with pytest.raises(rl.ParameterError, match="none of Rayline's own"):
        modules.register_module(modules.MLP)


def test_chained_by_hand() -> None:
    table = numbers().select("a", "b", "label")
    preprocessor = train.Preprocessor([("scale", StandardScaler())])
    result = train.TorchTrainer(seed=1, max_epochs=2).fit(preprocessor, table, None, ["label"])
    assert preprocessor.chain(result.fitted_model).predict(table).equals(result.inference_pipeline.predict(table))
    bare = preprocessor.chain(torch.nn.Linear(2, 1))  # an unknown module: its outputs are numbers
    assert bare.predict(table).schema == {"prediction": pl.Float64}


@pytest.mark.parametrize(
    "change",
    [
        {"kwargs": {"in_features": 1 << 40, "out_features": 1}},
        {"kwargs": {"in_features": 2, "out_features": 1, "hidden": [1 << 30]}},
        {"kwargs": {"in_features": 2, "out_features": 1, "hidden": [1] * 5000}},
        {"kwargs": {"in_features": 2, "out_features": 1, "activation": "__class__"}},
        {"kwargs": {"in_features": "x"}},
        {"kwargs": 5},
        {"module": "os.system"},
        {"module": ["MLP"]},
        {"task": "divination"},
        {"inputs": None},
    ],
    ids=str,
)
def test_a_hostile_file_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    ADAPTER.save(ADAPTER.train(context(numbers()), max_epochs=1), tmp_path)
    file = tmp_path / "module.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(rl.ArtifactError):
        ADAPTER.load(tmp_path)


def test_damaged_numbers_are_refused(tmp_path: Path) -> None:
    ADAPTER.save(ADAPTER.train(context(numbers()), max_epochs=1), tmp_path)
    file = tmp_path / "module.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(rl.ArtifactError):
        ADAPTER.load(tmp_path)
    file.unlink()
    with pytest.raises(rl.ArtifactError, match="incomplete"):
        ADAPTER.load(tmp_path)


class Switch(torch.nn.Module):
    """Does what depends on the values, which no graph can say."""

    def forward(self, x: Any) -> Any:
        return x.sum(dim=1) if x.sum() > 0 else x[:, 0]


class Counted(torch.nn.Module):
    """Looks at how many rows there are."""

    def forward(self, x: Any) -> Any:
        return x.sum(dim=1) * len(x.tolist()) if not torch.compiler.is_compiling() else x.sum(dim=1) * 2


@pytest.mark.parametrize("target", ["label", "many", "y"])
def test_as_onnx_it_needs_no_code(target: str) -> None:
    for needed in ("onnxscript", "onnxruntime"):
        pytest.importorskip(needed, reason=f"{needed} is not installed (pip install 'rayline[onnx]' onnxruntime)")
    import onnxruntime

    from rayline.onnx import to_onnx

    table = numbers().with_columns(many=pl.Series(np.digitize(numbers()["a"], [-0.5, 0.5]).astype(str)))
    kept = table.select("a", "b", target)
    preprocessor = train.Preprocessor([("scale", StandardScaler())])
    result = train.TorchTrainer(Normed, seed=1, max_epochs=2).fit(preprocessor, kept, None, [target])
    session = onnxruntime.InferenceSession(to_onnx(result.inference_pipeline).SerializeToString())
    feed = {name: table[name].to_numpy().reshape(-1, 1) for name in ("a", "b")}
    found = session.run(["scores"], feed)[0]
    if target == "y":
        expected = result.inference_pipeline.predict(table).to_numpy()
    else:
        expected = result.inference_pipeline.predict_proba(table).to_numpy()
    assert np.allclose(found, expected, atol=1e-5)
    bare = train.Preprocessor().fit(table.select("a", "b"))
    with pytest.raises(rl.ParameterError, match="cannot export Switch"):
        to_onnx(bare.chain(Switch()))
    with pytest.raises(rl.ParameterError, match="gives other results than the model"):
        to_onnx(bare.chain(Counted()))


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"module": 5}, "module"),
        ({"module": "Nonsense"}, "MLP"),
        ({"module_kwargs": {"hiden": [3]}}, "hidden"),
        ({"module": Net, "module_kwargs": {"width": Net}}, "value that is not plain"),
        ({"optimizer": "Adm"}, "Adam"),
        ({"optimizer_kwargs": {"momentum_": 1}}, "momentum_"),
        ({"scheduler": "StepLR"}, "step_size"),
        ({"scheduler": "Step"}, "StepLR"),
        ({"loss": "mse_los"}, "mse_loss"),
        ({"batch_size": 0}, "batch_size"),
        ({"max_epochs": 1.5}, "max_epochs"),
        ({"gradient_clip": -1}, "gradient_clip"),
        ({"inputs": "rows"}, "matrix"),
        ({"epochs": 3}, "max_epochs"),
    ],
)
def test_wrong_arguments_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(rl.ParameterError, match=message):
        train.TorchTrainer(**options)


def test_outputs_of_a_wrong_shape_are_refused() -> None:
    with pytest.raises(rl.ParameterError, match=r"one output for each row"):
        fit(numbers(), module=torch.nn.Linear(2, 3))


# -- on workers --------------------------------------------------------------------------------------------------------


@pytest.mark.ray
def test_two_workers_make_the_same_steps_as_one(ray_session: Any) -> None:
    table = numbers(101)
    options: dict[str, Any] = {"module": Net, "batch_size": 1000, "max_epochs": 4, "lr": 0.05}
    one = fit(table, test=table, **options)
    two = fit(table, test=table, num_workers=2, **options)
    assert isinstance(two.fitted_model, Net)
    for a, b in zip(one.fitted_model.parameters(), two.fitted_model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-4)
    assert np.allclose(one.history["test-loss"], two.history["test-loss"], atol=1e-4)
    dataset = ray_session.data.from_arrow(table.to_arrow())
    predicted = pl.from_arrow(ray_session.get(two.inference_pipeline.transform(dataset).to_arrow_refs()[0]))
    assert np.allclose(predicted["prediction"], two.inference_pipeline.predict(table)["prediction"], atol=1e-5)  # type: ignore[index]


@pytest.mark.ray
def test_buffers_agree_and_a_callback_stops_all_workers(ray_session: Any) -> None:
    class Stop(train.Callback):
        def on_iteration(self, run: Any, iteration: int, metrics: Any) -> bool:
            return iteration == 1

    keep = numbers(33).select("a", "b", "label")
    trainer = train.TorchTrainer(Normed, batch_size=8, max_epochs=500, num_workers=2, seed=1)
    result = trainer.fit(None, keep, keep, ["label"], callbacks=[Stop()])
    assert 2 <= result.history.height < 10
    assert int(result.fitted_model.norm.num_batches_tracked) > 0


@pytest.mark.ray
def test_a_loop_of_ones_own_on_two_workers(ray_session: Any) -> None:
    table = numbers(100).select("a", "b", "y")
    options: dict[str, Any] = {"train_loop": descend, "lr": 0.2, "max_epochs": 20, "seed": 1}
    one = train.TorchTrainer("Linear", **options).fit(None, table, None, ["y"])
    two = train.TorchTrainer("Linear", **options, num_workers=2).fit(None, table, None, ["y"])
    assert set(two.history["n_rows"]) == {50}
    assert torch.allclose(one.fitted_model.weight, two.fitted_model.weight, atol=1e-4)


def tell(model: Any, context: TrainContext) -> None:
    """Reports the means of this worker's rows alone."""
    assert context.test is not None
    for epoch in range(9):
        told = {"train-mean": float(context.train.target.mean()), "test-mean": float(np.mean(context.test.target))}
        if context.report(epoch, told):
            break


class StopByMean(train.Callback):
    def on_iteration(self, run: Any, iteration: int, metrics: Any) -> bool:
        return iteration == 2


@pytest.mark.ray
def test_what_a_loop_of_ones_own_tells_is_of_all_rows(ray_session: Any) -> None:
    table = numbers(101).select("a", "b", "y").sort("y")
    test = table.head(31)
    trainer = train.TorchTrainer("Linear", train_loop=tell, seed=1, num_workers=2)
    history = trainer.fit(None, table, test, ["y"], callbacks=[StopByMean()]).history
    assert 3 <= history.height < 9
    assert np.allclose(history["train-mean"], table["y"].mean())  # type: ignore[arg-type]
    assert np.allclose(history["test-mean"], test["y"].mean())  # type: ignore[arg-type]


@pytest.mark.ray
@pytest.mark.slow
def test_contract_on_ray(ray_session: Any) -> None:
    options: dict[str, Any] = {"lr": 0.02, "max_epochs": 8, "batch_size": 32, "exact": False, "tasks": ["binary"]}
    check_framework(
        "torch", **options, tuned={"lr": tune.grid_search([0.01, 0.02])}, ray=True, serve=True, in_process=False
    )


@pytest.mark.ray
@pytest.mark.slow
def test_contract_under_ray_train(ray_session: Any) -> None:
    check_framework(
        "torch", lr=0.02, max_epochs=8, batch_size=32, exact=False, tasks=["binary"], ray_train=True, in_process=False
    )


class CityEmbedding(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.city, self.out = (
            torch.nn.Embedding(5, 3),
            torch.nn.Linear(4, 1),
        )  # three cities, an unknown and a missing one

    def forward(self, city: Any, size: Any) -> Any:
        return self.out(torch.cat([self.city(city), size[:, None]], dim=1))


def cities() -> tuple[pl.DataFrame, pl.DataFrame, train.Preprocessor]:
    random = np.random.default_rng(0)
    city, size = random.choice(["Oslo", "Rome", "Lima", None], 120), random.normal(size=120)  # type: ignore[arg-type]
    table = pl.DataFrame({"city": pl.Series(city.tolist(), dtype=pl.String), "size": size})
    table = table.with_columns(y=pl.col("size") + 2.0 * (pl.col("city").fill_null("Rome") == "Rome"))
    new = pl.DataFrame({"city": ["Rome", None, "Bern", "Oslo"], "size": [0.5, 0.5, 0.5, 0.5]})
    codes = OrdinalEncoder(dtype="int64", unknown_value="next", encoded_missing_value="next")
    return table, new, train.Preprocessor([("codes", codes)])


def test_codes_of_categories_feed_embeddings(tmp_path: Path) -> None:
    table, new, preprocessor = cities()
    trainer = train.TorchTrainer(CityEmbedding, inputs="columns", lr=0.05, max_epochs=30, seed=1)
    result = trainer.fit(preprocessor, table, table, ["y"])
    assert result.metrics["test-r2"] > 0.8
    pipeline = result.inference_pipeline
    wanted = pipeline.predict(new)["prediction"].to_list()
    singly = [pipeline.predict([row])[0]["prediction"] for row in new.to_dicts()]
    assert singly == pytest.approx(wanted, rel=1e-5)
    pipeline.save(tmp_path / "p.rayline")
    loaded = rl.load(tmp_path / "p.rayline", module=CityEmbedding)
    assert loaded.predict(new)["prediction"].to_list() == wanted

    async def served() -> Any:
        transport = httpx.ASGITransport(app=create_app(loaded))
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return (await client.post("/predict", json=new.to_dicts())).json()["predictions"]

    assert asyncio.run(served()) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.ray
def test_codes_of_categories_feed_embeddings_on_ray(ray_session: Any) -> None:
    import ray

    table, new, preprocessor = cities()
    trainer = train.TorchTrainer(CityEmbedding, inputs="columns", lr=0.05, max_epochs=3, seed=1)
    pipeline = trainer.fit(preprocessor, table, table, ["y"]).inference_pipeline
    batches = pipeline.predict(ray.data.from_arrow(new.to_arrow())).to_pandas()["prediction"]
    assert batches.tolist() == pytest.approx(pipeline.predict(new)["prediction"].to_list(), rel=1e-5)

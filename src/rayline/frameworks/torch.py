"""PyTorch: `train.TorchTrainer` takes a module and how to train it, or your own loop."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from rayline.core.errors import ParameterError
from rayline.core.features import Array, Features
from rayline.core.framework import Framework, ModelInfo, TrainContext
from rayline.core.objective import Objective, quantiles_of
from rayline.core.target import Target, Task
from rayline.device import select_device
from rayline.frameworks import torch_device, torch_file, torch_losses
from rayline.frameworks import torch_modules as modules
from rayline.frameworks.torch_loop import (
    LoopSettings,
    ProcessGroup,
    SingleProcess,
    TrainingLoop,
    device,
    per_class,
    reports_of_all,
    seeded,
    two_class,
)
from rayline.frameworks.torch_modules import MLP, register_module

__all__ = ["MLP", "Torch", "register_module"]


class Torch(Framework):
    """Neural networks: `TorchTrainer(module=Net, module_kwargs={"depth": 2}, lr=1e-3, max_epochs=20)`.

    All features go into the module side by side, as one float32 tensor of shape (rows, width); a vector column that
    stands alone keeps its shape. Outputs are logits in a classification, of shape (rows,), (rows, 1) or (rows, classes),
    and values in a regression. Predictions of one row and of the same row in a table agree within 1e-5, not bit for bit.

    Parameters
    ----------
    module
        A class of `torch.nn.Module`, a function that builds one, a module (which is copied), or a name: "MLP", "Linear",
        or that of a registered class (`rayline.frameworks.torch.register_module`). Where it takes `in_features` and
        `out_features`, they are filled in.
    module_kwargs
        Its arguments: plain values, as they are saved as JSON.
    loss
        The name of a loss of `torch.nn.functional`, or a callable of outputs and targets that gives a number, or one
        for each row (as weights need it). By the task when omitted: binary or categorical cross entropy, squared error.
        For counts and amounts "poisson", "tweedie" and "gamma" (`rayline.frameworks.torch_losses`): the module's outputs are
        logarithms, predictions are not.
    quantile_alpha
        Quantiles to predict, as [0.1, 0.5, 0.9], by the pinball loss: one output and one column of predictions for each.
    optimizer, lr, weight_decay, optimizer_kwargs
        The name of a class of `torch.optim` or a callable of the parameters, and its arguments.
    scheduler, scheduler_kwargs
        The name of a class of `torch.optim.lr_scheduler` or a callable of the optimizer; stepped once an epoch.
    batch_size
        Rows in a step, those of all workers together.
    max_epochs
        Number of passes over the rows.
    gradient_clip
        The largest norm of the gradients.
    mixed_precision
        Whether to compute in bfloat16 where PyTorch thinks fit; of Lightning, precision="bf16-mixed".
    compile
        Whether to compile the module with `torch.compile` for the training, or its arguments as a dict: {"mode": "max-autotune"}. The
        first steps then take long.
    patience
        Epochs to wait for a smaller loss on the test set; the module is then that of the best epoch.
    inputs
        "columns" gives each feature to the module under its name, whole numbers as int64 (for embeddings).
    train_loop
        Your own loop instead of the standard one, called with the module, wrapped for the workers, and the TrainContext (rows,
        rank, report, checkpoint, resume). With several workers, each calls `context.report` after an iteration with metrics of its
        own rows; the mean over all rows is kept. It also gets those of the arguments above that it names as parameters, such as `lr`. It may
        return another module.
    lightning_module
        A LightningModule, or a class or function that builds one, instead of `module`: Lightning's own Trainer trains
        it. `training_step` gets batches (x, y), or (x, y, weight) with sample weights: x as `forward` gets it, y class
        numbers (float32 in a binary task) or values. Test rows go to `validation_step`. Logged metrics become the
        history: "train_loss" as "train-loss", "val_loss" as "test-loss".
    trainer_args
        Further arguments of `lightning.Trainer`, by name.
    callbacks
        Objects of `lightning.Callback`.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline import train
    >>> table = pl.DataFrame({"x": [0.0, 1.0, 2.0, 3.0] * 9, "y": [1.0, 3.0, 5.0, 7.0] * 9})
    >>> trainer = train.TorchTrainer("Linear", optimizer="SGD", lr=0.1, max_epochs=30, seed=1)
    >>> result = trainer.fit(None, table, table, ["y"], verbose=False)
    >>> result.metrics["test-r2"] > 0.99
    True
    """

    name = "torch"
    package = "torch"
    distributed = True
    reuses_workers = True
    trains_on_gpu = True
    predicts_on_gpu = True
    iterations = "max_epochs"

    def train(
        self,
        context: TrainContext,
        module: Any = "MLP",
        module_kwargs: Mapping[str, Any] | None = None,
        *,
        loss: str | Callable[..., Any] | None = None,
        optimizer: str | Callable[..., Any] = "AdamW",
        lr: float = 1e-3,
        weight_decay: float | None = None,
        optimizer_kwargs: Mapping[str, Any] | None = None,
        scheduler: str | Callable[..., Any] | None = None,
        scheduler_kwargs: Mapping[str, Any] | None = None,
        batch_size: int = 64,
        max_epochs: int = 10,
        gradient_clip: float | None = None,
        mixed_precision: bool = False,
        compile: bool | Mapping[str, Any] = False,  # PyTorch's name
        patience: int | None = None,
        inputs: str = "matrix",
        train_loop: Callable[..., Any] | None = None,
        lightning_module: Any = None,
        trainer_args: Mapping[str, Any] | None = None,
        callbacks: Sequence[Any] | None = None,
        quantile_alpha: Sequence[float] | float | None = None,
    ) -> Any:
        if quantile_alpha is not None:
            loss = torch_losses.PinballLoss(quantile_alpha)
        if lightning_module is not None:
            return _lightning().fit(
                context,
                lightning_module,
                module_kwargs or {},
                max_epochs=max_epochs,
                batch_size=batch_size,
                inputs=inputs,
                trainer_args={**({"precision": "bf16-mixed"} if mixed_precision else {}), **(trainer_args or {})},
                compile=compile,
                callbacks=callbacks or (),
            )
        if callbacks:
            raise ParameterError.value(
                "callbacks", "rayline.train.Callback's beside module", callbacks[0], where="train.fit"
            )
        settings = LoopSettings(
            loss=loss,
            optimizer=optimizer,
            lr=lr,
            weight_decay=weight_decay,
            optimizer_kwargs=optimizer_kwargs,
            scheduler=scheduler,
            scheduler_kwargs=scheduler_kwargs,
            batch_size=batch_size,
            max_epochs=max_epochs,
            gradient_clip=gradient_clip,
            mixed_precision=mixed_precision,
            compile=compile,
            patience=patience,
            inputs=inputs,
        )
        with seeded(context), self.communication(context) as among, contextlib.ExitStack() as stack:
            link = "log" if torch_losses.has_log_link(loss) else "identity"
            n = 2 if per_class(loss) else 1
            made = modules.built(context, module, module_kwargs or {}, inputs, n, link)
            stack.enter_context(torch_device.naming_memory(made, f"batch_size={batch_size}"))
            made = torch_device.moved(made, select_device(context.use_gpu))
            if train_loop is None:
                made = TrainingLoop(context, made, settings, among).run()
            else:
                about = modules.recipe(made)
                loop_arguments = {name: getattr(settings, name) for name in _named_by(train_loop)}
                loop_context = dataclasses.replace(context, report=reports_of_all(context, among))
                answer = train_loop(among.wrap(made, device(context)), loop_context, **loop_arguments)
                made = modules.described(
                    getattr(answer, "module", answer) if isinstance(answer, torch.nn.Module) else made, about
                )
                among.sync_buffers(made)
        return made.eval()

    def communication(self, context: TrainContext) -> contextlib.AbstractContextManager[SingleProcess]:
        """Return the communicator of the workers during training."""
        return ProcessGroup.of(context) if context.world_size > 1 else contextlib.nullcontext(SingleProcess())

    def predict(self, model: Any, features: Features) -> Array:
        return modules.scores(model, features)

    def place(self, model: Any, device: Any) -> Any:
        return torch_device.placed(model, device)

    def save(self, model: Any, directory: Path) -> None:
        torch_file.save(model, directory)

    def load(self, directory: Path, *, module: Any = None) -> Any:
        return torch_file.load(directory, module)

    def load_options(self, model: Any) -> dict[str, Any]:
        make = modules.recipe(model).make
        return {"module": model if make is None else make}

    def owns(self, model: Any) -> bool:
        return isinstance(model, torch.nn.Module)

    def inspect(self, model: Any) -> ModelInfo:
        about = modules.recipe(model)
        target = Target.unnamed_of(Objective(about.task, quantiles=about.quantiles)) if about.quantiles else None
        n_targets = max(about.n_targets, len(about.quantiles))
        return ModelInfo(about.task, about.n_classes, n_targets, about.features or None, target=target)

    def best_iteration(self, model: Any) -> int | None:
        return modules.recipe(model).best_iteration

    def task(self, *args: Any, **kwargs: Any) -> Task | Literal["classification"] | None:
        loss = kwargs.get("loss")
        if kwargs.get("quantile_alpha") is not None or torch_losses.quantiles(loss) or torch_losses.has_log_link(loss):
            return Task.REGRESSION
        return "classification" if per_class(loss) else Task.BINARY if two_class(loss) else None

    def objective(self, *args: Any, **kwargs: Any) -> Objective:
        loss = kwargs.get("loss")
        quantiles = quantiles_of(kwargs.get("quantile_alpha"), "torch trainer") or torch_losses.quantiles(loss)
        name = loss if isinstance(loss, str) else type(loss).__name__
        return Objective(self.task(*args, **kwargs), torch_losses.labels(loss), quantiles, name=name)

    def validation_argument(self, *args: Any, **kwargs: Any) -> str:
        return "patience" if kwargs.get("patience") is not None else ""

    def resumable_iterations(self, *args: Any, **kwargs: Any) -> int:
        # A custom loop, and Lightning, resume with the arguments stored in their checkpoints.
        is_ours = kwargs.get("train_loop") is None and kwargs.get("lightning_module") is None
        return int(self.argument("max_epochs", args, kwargs)) if is_ours else 0

    def to_onnx(self, model: Any, width: int) -> Any:
        from rayline.frameworks import torch_onnx  # optional

        return torch_onnx.to_onnx(model, width)

    def without_gpu(self) -> str:
        return torch_device.without_gpu()

    def owns_callback(self, callback: Any) -> bool:
        return "lightning" in sys.modules and bool(_lightning().is_callback(callback))

    def check(self, *args: Any, **kwargs: Any) -> None:
        super().check(*args, **kwargs)
        given = {**dict(zip(("module", "module_kwargs"), args, strict=False)), **kwargs}
        loop, lightning = given.get("train_loop"), given.get("lightning_module")
        if quantiles_of(given.get("quantile_alpha"), "torch trainer"):
            _refuse(given, {"loss"}, "quantile_alpha", "it is the pinball loss of these quantiles")
        if lightning is not None:
            _refuse(
                given, {*given} - BESIDE_LIGHTNING, "lightning_module", "the LightningModule or trainer_args say it"
            )
            _lightning().check(given.get("trainer_args") or {})
        else:
            _refuse(given, {"trainer_args", "callbacks"}, "module", "they are for lightning_module=…")
        if loop is not None:
            if not callable(loop):
                raise ParameterError.value(
                    "train_loop", "a function of the module and the TrainContext", loop, where="torch trainer"
                )
            _refuse(given, LOOP - {*_named_by(loop)}, "train_loop", "let it have a parameter of that name")
        made = given.get("module", "MLP") if lightning is None else lightning
        modules.check(made, given.get("module_kwargs") or {})
        LoopSettings(**{name: value for name, value in given.items() if name in SETTINGS}).check()


SETTINGS = frozenset(field.name for field in dataclasses.fields(LoopSettings))

LOOP = SETTINGS - {"inputs"}
"""Arguments that configure the training loop."""

BESIDE_LIGHTNING = frozenset(
    {
        "lightning_module",
        "module_kwargs",
        "max_epochs",
        "batch_size",
        "inputs",
        "trainer_args",
        "callbacks",
        "mixed_precision",
        "compile",
    }
)


def _named_by(loop: Callable[..., Any]) -> list[str]:
    """Return the names of the trainer's arguments that a custom loop has as parameters."""
    return [name for name in inspect.signature(loop).parameters if name in LOOP]


def _refuse(given: Mapping[str, Any], names: Collection[str], other: str, hint: str) -> None:
    """Raise ParameterError for arguments that would have no effect."""
    idle = sorted(name for name in names if given.get(name) is not None)
    if idle:
        raise ParameterError(
            f"torch trainer: {', '.join(idle)} would have no effect with {other}.",
            "Expected only arguments that have an effect.",
            hint + ".",
        )


def _lightning() -> Any:
    from rayline.frameworks import torch_lightning  # optional: it imports Lightning

    return torch_lightning

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

from rayline.core.errors import ParameterError, at
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
    """The adapter of `train.TorchTrainer`, which describes the arguments."""

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
        inputs: Literal["columns", "matrix"] = "matrix",
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
        return self._trained(context, module, module_kwargs or {}, settings, train_loop)

    def _trained(
        self,
        context: TrainContext,
        module: Any,
        module_kwargs: Mapping[str, Any],
        settings: LoopSettings,
        train_loop: Callable[..., Any] | None,
    ) -> Any:
        """Return the module, trained by the usual loop or by the user's."""
        with seeded(context), self.communication(context) as among, contextlib.ExitStack() as stack:
            link = "log" if torch_losses.has_log_link(settings.loss) else "identity"
            n = 2 if per_class(settings.loss) else 1
            trained = modules.built(context, module, module_kwargs, settings.inputs, n, link)
            stack.enter_context(torch_device.naming_memory(trained, f"batch_size={settings.batch_size}"))
            trained = torch_device.moved(trained, select_device(context.use_gpu))
            if train_loop is None:
                trained = TrainingLoop(context, trained, settings, among).run()
            else:
                about = modules.recipe(trained)
                loop_arguments = {name: getattr(settings, name) for name in _named_by(train_loop)}
                loop_context = dataclasses.replace(context, report=reports_of_all(context, among))
                answer = train_loop(among.wrap(trained, device(context)), loop_context, **loop_arguments)
                trained = modules.described(
                    getattr(answer, "module", answer) if isinstance(answer, torch.nn.Module) else trained, about
                )
                among.sync_buffers(trained)
        return trained.eval()

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

    @at("torch trainer")
    def objective(self, *args: Any, **kwargs: Any) -> Objective:
        loss = kwargs.get("loss")
        quantiles = quantiles_of(kwargs.get("quantile_alpha")) or torch_losses.quantiles(loss)
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

    @at("torch trainer")
    def check(self, *args: Any, **kwargs: Any) -> None:
        super().check(*args, **kwargs)
        arguments = {**dict(zip(("module", "module_kwargs"), args, strict=False)), **kwargs}
        loop, lightning = arguments.get("train_loop"), arguments.get("lightning_module")
        if quantiles_of(arguments.get("quantile_alpha")):
            _refuse(arguments, {"loss"}, "quantile_alpha", "it is the pinball loss of these quantiles")
        if lightning is not None:
            _refuse(
                arguments,
                {*arguments} - BESIDE_LIGHTNING,
                "lightning_module",
                "the LightningModule or trainer_args define it",
            )
            _lightning().check(arguments.get("trainer_args") or {})
        else:
            _refuse(arguments, {"trainer_args", "callbacks"}, "module", "they are for lightning_module=…")
        if loop is not None:
            if not callable(loop):
                raise ParameterError.value(
                    "train_loop", "a function of the module and the TrainContext", loop, where="torch trainer"
                )
            _refuse(arguments, LOOP - {*_named_by(loop)}, "train_loop", "give it a parameter of that name")
        wanted = arguments.get("module", "MLP") if lightning is None else lightning
        modules.check(wanted, arguments.get("module_kwargs") or {})
        LoopSettings(**{name: value for name, value in arguments.items() if name in SETTINGS}).check()


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


def _refuse(arguments: Mapping[str, Any], names: Collection[str], other: str, hint: str) -> None:
    """Raise ParameterError for arguments that would have no effect."""
    idle = sorted(name for name in names if arguments.get(name) is not None)
    if idle:
        raise ParameterError(
            f"torch trainer: {', '.join(idle)} would have no effect with {other}.",
            "Expected only arguments that have an effect.",
            hint + ".",
        )


def _lightning() -> Any:
    from rayline.frameworks import torch_lightning  # optional: it imports Lightning

    return torch_lightning

"""PyTorch: `train.TorchTrainer` takes a module and how to train it, or your own loop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from rayline.core.errors import MissingExtraError
from rayline.core.framework import Array, Features, Framework, Job, Native
from rayline.core.target import Task
from rayline.frameworks import torch_modules as modules
from rayline.frameworks.torch_loop import Alone, Gloo, Loop, Settings, device, per_class, two_class
from rayline.frameworks.torch_modules import MLP, register_module

try:
    import torch
except ImportError as error:
    raise MissingExtraError.of("TorchTrainer", "torch", "torch") from error

__all__ = ["MLP", "Torch", "register_module"]


class Torch(Framework):
    """Neural networks: `TorchTrainer(module=Net, module_kwargs={"depth": 2}, lr=1e-3, max_epochs=20)`.

    All features go into the module side by side, as one float32 tensor of shape (rows, width); a vector column that
    stands alone keeps its shape. Outputs are logits in a classification, of shape (rows,), (rows, 1) or (rows, classes),
    and values in a regression. Predictions of one row and of the same row in a table agree within 1e-5, not bit for bit.

    Parameters
    ----------
    module
        A class of `torch.nn.Module`, a function that makes one, a module (which is copied), or a name: "MLP", "Linear",
        or that of a registered class (`rayline.frameworks.torch.register_module`). Where it takes `in_features` and
        `out_features`, they are filled in.
    module_kwargs
        Its arguments: plain values, as they are saved as JSON.
    loss
        The name of a loss of `torch.nn.functional`, or a callable of outputs and targets that gives a number, or one
        for each row (as weights need it). By the task when omitted: binary or categorical cross entropy, squared error.
    optimizer, lr, weight_decay, optimizer_kwargs
        The name of a class of `torch.optim` or a callable of the parameters, and its arguments.
    scheduler, scheduler_kwargs
        The name of a class of `torch.optim.lr_scheduler` or a callable of the optimizer; stepped once an epoch.
    batch_size
        Rows in a step, those of all workers together.
    max_epochs
        How often each row is seen.
    gradient_clip
        The largest norm of the gradients.
    mixed_precision
        Whether to compute in bfloat16 where PyTorch thinks fit.
    patience
        Epochs to wait for a smaller loss on the test set; the module is then that of the best epoch.
    inputs
        "columns" gives each feature to the module under its name, whole numbers as int64 (for embeddings).
    train_loop
        Your own loop in place of the standard one: called with the module, wrapped for the workers, and the Job (rows,
        rank, report, checkpoint, resume). It may return another module.
    """

    name = "torch"
    package = "torch"
    distributed = True
    iterations = "max_epochs"

    def train(
        self,
        job: Job,
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
        patience: int | None = None,
        inputs: str = "matrix",
        train_loop: Callable[..., Any] | None = None,
    ) -> Any:
        settings = Settings(
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
            patience=patience,
            inputs=inputs,
        )
        with seeded(job), self.communication(job) as among:
            made = built(job, module, module_kwargs or {}, inputs, 2 if per_class(loss) else 1).to(device(job))
            if train_loop is None:
                made = Loop(job, made, settings, among).run()
            else:
                about = modules.recipe(made)
                answer = train_loop(among.wrap(made, device(job)), job)
                made = modules.described(
                    getattr(answer, "module", answer) if isinstance(answer, torch.nn.Module) else made, about
                )
                among.agree(made)
        return made.cpu().eval()

    def communication(self, job: Job) -> contextlib.AbstractContextManager[Alone]:
        """How the workers talk while they train."""
        return Gloo.of(job) if job.world_size > 1 else contextlib.nullcontext(Alone())

    def predict(self, model: Any, features: Features) -> Array:
        return modules.scores(model, features)

    def save(self, model: Any, directory: Path) -> None:
        modules.save(model, directory)

    def load(self, directory: Path, *, module: Any = None) -> Any:
        return modules.load(directory, module)

    def load_options(self, model: Any) -> dict[str, Any]:
        make = modules.recipe(model).make
        return {"module": model if make is None else make}

    def owns(self, model: Any) -> bool:
        return isinstance(model, torch.nn.Module)

    def inspect(self, model: Any) -> Native:
        about = modules.recipe(model)
        return Native(about.task, about.n_classes, about.n_targets, about.features or None)

    def best_iteration(self, model: Any) -> int | None:
        return modules.recipe(model).best_iteration

    def task(self, *args: Any, **kwargs: Any) -> Task | Literal["classification"] | None:
        loss = kwargs.get("loss")
        return "classification" if per_class(loss) else Task.BINARY if two_class(loss) else None

    def needs_test(self, *args: Any, **kwargs: Any) -> str:
        return "patience" if kwargs.get("patience") is not None else ""

    def check(self, *args: Any, **kwargs: Any) -> None:
        super().check(*args, **kwargs)
        given = {
            "module": "MLP",
            "module_kwargs": None,
            **dict(zip(("module", "module_kwargs"), args, strict=False)),
            **kwargs,
        }
        modules.check(given["module"], given["module_kwargs"] or {})
        Settings(
            **{name: value for name, value in given.items() if name not in ("module", "module_kwargs", "train_loop")}
        ).check()


@contextlib.contextmanager
def seeded(job: Job) -> Iterator[None]:
    """The job's seed and threads for a while; afterwards the process is as it was."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(enabled=True):
        torch.set_num_threads(job.n_threads)
        if job.seed is not None:
            torch.manual_seed(job.seed)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def built(job: Job, module: Any, kwargs: Mapping[str, Any], inputs: str = "matrix", least: int = 1) -> Any:
    """A new module for the job's features and target, of at least so many outputs, which remembers how it was made."""
    make, features = modules.resolve(module), job.train.features
    shapes = {"in_features": modules.Inputs(features, inputs).width, "out_features": max(job.target.n_outputs, least)}
    made, full = modules.build(make, kwargs, shapes)
    about = modules.Recipe(
        make=None if isinstance(make, torch.nn.Module) else make,
        kwargs=full,
        task=job.target.task,
        n_classes=max((len(c) for c in job.target.classes), default=2),
        n_targets=len(job.target.columns),
        inputs=inputs,
        features=list(job.train.schema),
    )
    return modules.described(made, about)

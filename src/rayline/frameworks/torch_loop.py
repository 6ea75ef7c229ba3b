"""The standard training loop of PyTorch modules: epochs of shuffled batches, in one process or on several.

All workers take the same number of steps, even with different numbers of rows, and a step uses the mean over the rows of
all workers: the size of a worker's share has no effect, and no worker waits for one that has finished.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  # as everyone calls it

from rayline.core import row_stream
from rayline.core.arguments import integer
from rayline.core.errors import DataError, ParameterError, at, first_line
from rayline.core.features import Array
from rayline.core.framework import TrainContext
from rayline.core.target import Target, Task
from rayline.device import select_device
from rayline.frameworks import torch_device, torch_file, torch_losses, torch_rows
from rayline.frameworks import torch_modules as modules
from rayline.frameworks.torch_rows import EpochRows, TensorBatch

TIMEOUT = dt.timedelta(minutes=10)
"""Maximum time that a worker waits for the others in one step."""


# -- between workers ---------------------------------------------------------------------------------------------------


class SingleProcess:
    """Communication between workers, for a single one: none. Subclasses override what they need."""

    def wrap(self, module: Any, device: Any) -> Any:
        """Return the module that the loop calls, with the same parameters on every worker."""
        return module

    def share_gradients(self, module: Any) -> None:
        """Average the gradients over workers; called after `backward`."""

    def total(self, values: Array, device: Any) -> Array:
        """Return the sums over workers."""
        return values

    def gather(self, value: Any) -> list[Any]:
        """Return the value of every worker, by rank."""
        return [value]

    def sync_buffers(self, module: Any) -> None:
        """Copy the buffers of rank 0 to all ranks; called at the end."""


def reports_of_all(context: TrainContext, among: SingleProcess) -> Callable[[int, Mapping[str, float]], bool]:
    """Return a `context.report` for a custom loop, which each worker calls with metrics of its own rows: the mean over the rows of
    all workers is reported, and all workers get the same answer about stopping."""
    if context.world_size == 1:
        return context.report

    train, test = context.train.total_weight, None if context.test is None else context.test.total_weight

    def report(iteration: int, metrics: Mapping[str, float]) -> bool:
        metrics_of_rank = {
            name: (float(value), train if test is None or name.startswith("train") else test)
            for name, value in metrics.items()
        }
        values_by_name: dict[str, list[tuple[float, float]]] = {}
        for part in among.gather(metrics_of_rank):
            for name, (value, weight) in part.items():
                if weight and not math.isnan(value):  # a worker may have no test rows
                    values_by_name.setdefault(name, []).append((value, weight))
        means = {
            name: float(np.average([v for v, _ in parts], weights=[w for _, w in parts]))
            for name, parts in values_by_name.items()
        }
        return any(among.gather(context.report(iteration, means)))

    return report


class ProcessGroup(SingleProcess):
    """PyTorch's process group: gloo, or nccl on GPUs."""

    def wrap(self, module: Any, device: Any) -> Any:
        if not any(p.requires_grad for p in module.parameters()):
            return module
        return torch.nn.parallel.DistributedDataParallel(module, device_ids=[device] if device.type == "cuda" else None)

    def total(self, values: Array, device: Any) -> Array:
        sums = torch.from_numpy(np.asarray(values, np.float64)).to(device)
        torch.distributed.all_reduce(sums)
        return np.asarray(sums.cpu().numpy())

    def gather(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(values, value)
        return values

    def sync_buffers(self, module: Any) -> None:
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, 0)

    @classmethod
    @contextlib.contextmanager
    def of(cls, context: TrainContext) -> Iterator[ProcessGroup]:
        """Open the communication for the time of a training run."""
        torch.distributed.init_process_group(
            backend(context),
            init_method=f"tcp://{context.worker_addresses[0]}",
            rank=context.rank,
            world_size=context.world_size,
            timeout=TIMEOUT,
        )
        try:
            yield cls()
        finally:
            torch.distributed.destroy_process_group()


# -- the trainer's arguments -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LoopSettings:
    """The arguments of `TorchTrainer` for the loop; documented there."""

    loss: str | Callable[..., Any] | None = None
    optimizer: str | Callable[..., Any] = "AdamW"
    lr: float = 1e-3
    weight_decay: float | None = None
    optimizer_kwargs: Mapping[str, Any] | None = None
    scheduler: str | Callable[..., Any] | None = None
    scheduler_kwargs: Mapping[str, Any] | None = None
    batch_size: int = 64
    max_epochs: int = 10
    gradient_clip: float | None = None
    mixed_precision: bool = False
    compile: bool | Mapping[str, Any] = False
    patience: int | None = None
    inputs: str = "matrix"

    @at("torch trainer")
    def check(self) -> None:
        """Raise ParameterError on names and values that do not exist."""
        for name in ("batch_size", "max_epochs", "patience"):
            integer(name, getattr(self, name), optional=name == "patience")
        if self.gradient_clip is not None and not self.gradient_clip > 0:
            raise ParameterError.value("gradient_clip", "a number above 0, or None", self.gradient_clip)
        if self.inputs not in modules.INPUTS:
            raise ParameterError.value("inputs", f"one of {list(modules.INPUTS)}", self.inputs)
        torch_device.check_compile(self.compile)
        if self.loss is not None:
            _named(self.loss, losses(), "loss")
        _named(self.optimizer, optimizers(), "optimizer")
        if self.scheduler is not None:
            _named(self.scheduler, schedulers(), "scheduler")
        parameters = [torch.nn.Parameter(torch.zeros(1))]
        try:
            self.scheduled(self.optimized(parameters))
        except (TypeError, ValueError) as error:
            raise ParameterError.here(
                f"the optimizer or the scheduler refuses its arguments: {first_line(error)}.",
                "Expected those that PyTorch documents.",
            ) from error

    def optimized(self, parameters: Any) -> Any:
        """Return a new optimizer."""
        decay = {} if self.weight_decay is None else {"weight_decay": self.weight_decay}
        kwargs = {"lr": self.lr, **decay, **(self.optimizer_kwargs or {})}
        return _named(self.optimizer, optimizers(), "optimizer")(parameters, **kwargs)

    def scheduled(self, optimizer: Any) -> Any:
        """Return a new scheduler, stepped once per epoch. A schedule is as long as the training."""
        if self.scheduler is None:
            return None
        make = _named(self.scheduler, schedulers(), "scheduler")
        kwargs = dict(self.scheduler_kwargs or {})
        for name in ("T_max", "total_iters"):
            if name in inspect.signature(make).parameters:
                kwargs.setdefault(name, self.max_epochs)
        return make(optimizer, **kwargs)


def losses() -> dict[str, Any]:
    """Return the losses of `torch.nn.functional` of an output and a target, by name with and without "_loss"."""
    functions = {}
    for name, function in vars(F).items():
        if (
            not name.startswith("_")
            and callable(function)
            and ("loss" in name or "entropy" in name or name == "kl_div")
        ):
            takes = list(inspect.signature(function).parameters)
            if "reduction" in takes and takes[:2] == ["input", "target"]:
                functions[name] = functions[name.removesuffix("_loss")] = function
    return {**functions, **torch_losses.NAMED}


def optimizers() -> dict[str, Any]:
    """Return the optimizers of `torch.optim`, by the name of their class."""
    return {
        n: c
        for n, c in vars(torch.optim).items()
        if isinstance(c, type) and issubclass(c, torch.optim.Optimizer) and n not in ("Optimizer", "LBFGS")
    }


def schedulers() -> dict[str, Any]:
    """Return the schedulers of `torch.optim.lr_scheduler`, by the name of their class."""
    module = torch.optim.lr_scheduler
    return {
        n: c
        for n, c in vars(module).items()
        if isinstance(c, type) and issubclass(c, module.LRScheduler) and n.lstrip("_") != "LRScheduler"
    }


def _named(argument: Any, table: Mapping[str, Any], name: str) -> Any:
    """Look up a name, ignoring case; a class or a function is returned unchanged."""
    if not isinstance(argument, str):
        if not callable(argument):
            raise ParameterError.value(name, "a name or a callable", argument, where="torch trainer")
        return argument
    lower = {key.lower(): value for key, value in table.items()}
    if argument.lower() not in lower:
        raise ParameterError.unknown([argument], table, where=f"torch trainer: {name}")
    return lower[argument.lower()]


# -- the loop ----------------------------------------------------------------------------------------------------------


RATES = ("lr", "initial_lr", "max_lr", "min_lr")
SCHEDULED = (*RATES, "momentum", "betas")
"""Settings of an optimizer's groups that schedulers change: learning rates, and momenta that some vary inversely."""


class TrainingLoop:
    """One training run of one module on one worker."""

    def __init__(self, context: TrainContext, module: Any, settings: LoopSettings, among: SingleProcess) -> None:
        self.context, self.module, self.settings, self.among = context, module, settings, among
        self.device = device(context)
        large = any(torch_rows.is_large(rows, settings.inputs) for rows in (context.train, context.test))
        stream = bool(among.total(np.array([float(large)]), self.device)[0])  # all workers or none
        self.feed = torch_device.Feed(torch_device.of(module))
        if settings.mixed_precision:
            torch_device.check_bfloat16(self.feed.device)
        self.train = torch_rows.tensors(context.train, settings.inputs, stream=stream, feed=self.feed)
        self.test = None
        if context.test is not None:
            self.test = torch_rows.tensors(context.test, settings.inputs, stream=stream, feed=self.feed)
        self.optimizer = settings.optimized(module.parameters())
        self.scheduler = settings.scheduled(self.optimizer)
        self.loss = WeightedLoss(settings.loss, context.target)
        self.seed = int(np.random.SeedSequence(context.seed).generate_state(1)[0])
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.epoch, self.best, self.best_epoch = 0, math.inf, -1
        self.best_state: dict[str, Any] | None = None

    def run(self) -> Any:
        """Train, and return the module."""
        if self.context.resume is not None:
            self._resume(self.context.resume)
        wrapped = torch_device.compiled(self.among.wrap(self.module, self.device), self.settings.compile)
        steps = self._steps()
        for epoch in range(self.epoch, self.settings.max_epochs):
            torch.manual_seed(row_stream.epoch_seed(self.seed, epoch, self.context.rank))
            self.epoch = epoch
            metrics = {"train-loss": self._one_epoch(wrapped, steps)}
            if self.test is not None:
                metrics["test-loss"] = self._evaluate(self.test)
            if self._ends(metrics):
                break
        if self.best_state is not None:
            self.module.load_state_dict(self.best_state)
            modules.with_best_iteration(self.module, self.best_epoch)
        self.among.sync_buffers(self.module)
        return self.module

    def _steps(self) -> int:
        """Return the number of steps in an epoch."""
        rows = np.zeros(self.context.world_size)
        rows[self.context.rank] = self.train.n_rows
        rows = self.among.total(rows, self.device)
        if not rows.all():
            raise DataError(
                f"train.fit: worker {int(rows.argmin())} has no rows to train on.",
                "Expected some on each.",
                "use fewer workers.",
            )
        return min(math.ceil(float(rows.sum()) / self.settings.batch_size), int(rows.min()))

    def _one_epoch(self, wrapped: Any, steps: int) -> float:
        """Train on every row once. Return the mean loss over the rows of all workers, each measured at its step."""
        wrapped.train()
        weights, batches = self.train.epoch(steps)
        totals = None if weights is None else self.among.total(weights, self.device)
        lost, seen = torch.zeros((), dtype=torch.float64, device=self.device), 0.0
        for step, batch in enumerate(batches):
            count = self._weight_of_all(batch) if totals is None else float(totals[step])
            self.optimizer.zero_grad(set_to_none=True)
            loss = self._loss(wrapped, self.train.there(batch, self.feed))
            (loss * (self.context.world_size / max(count, 1e-12))).backward()
            self.among.share_gradients(self.module)
            if self.settings.gradient_clip is not None:
                torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.settings.gradient_clip)
            self.optimizer.step()
            lost += loss.detach()
            seen += count
        seen = seen if totals is None else float(totals.sum())
        mean = float(self.among.total(np.array([lost.item()]), self.device)[0] / seen)
        if not math.isfinite(mean):
            raise modules.unusable(*(part.features for part in self.context.train.pieces()))
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step(mean)
        elif self.scheduler is not None:
            self.scheduler.step()
        return mean

    def _weight_of_all(self, batch: TensorBatch) -> float:
        """Return the weight of a batch of the host over all workers."""
        return float(self.among.total(np.array([batch.total_weight]), self.device)[0])

    def _loss(self, module: Any, batch: TensorBatch) -> Any:
        """Return the sum of the loss over some rows."""
        mixed = (
            self.settings.mixed_precision
        )  # skip the context when it is off: entering it costs as much as a small layer
        with torch.autocast(self.device.type, torch.bfloat16) if mixed else contextlib.nullcontext():
            output = modules.called(module, batch.x)
        return self.loss(output.float(), batch.target, batch.weight)

    def _evaluate(self, table: EpochRows) -> float:
        self.module.eval()
        totals = np.zeros(2)
        with torch.inference_mode():
            size = modules.batch_rows(modules.ModuleInputs(self.context.train.head, self.settings.inputs).row_bytes)
            for batch in table.in_order(size):
                totals += (self._loss(self.module, table.there(batch, self.feed)).item(), batch.total_weight)
        lost, count = self.among.total(totals, self.device)
        return float(lost / count) if count else math.nan

    def _ends(self, metrics: Mapping[str, float]) -> bool:
        """Report the epoch and return whether it was the last one."""
        patience, stop = self.settings.patience, False
        if patience is not None:
            if metrics["test-loss"] < self.best:
                self.best, self.best_epoch = metrics["test-loss"], self.epoch
                self.best_state = {name: value.detach().clone() for name, value in self.module.state_dict().items()}
            stop = self.epoch - self.best_epoch >= patience
        stop |= self.context.report(self.epoch, metrics)
        self.context.checkpoint(self.epoch, self._save)
        return bool(self.among.total(np.array([float(stop)]), self.device)[0])

    def _take_arguments(self, fresh: Sequence[Mapping[str, Any]], before: Sequence[float]) -> None:
        """Resume with the optimizer's arguments of this training, which may differ from those of the checkpoint. A rate that a
        scheduler has already changed is scaled in proportion."""
        for number, (group, arguments) in enumerate(zip(self.optimizer.param_groups, fresh, strict=True)):
            ratio = self.rates[number] / before[number] if before[number] else 1.0
            scheduled = {name: group[name] * ratio for name in RATES if name in group}
            kept = () if self.scheduler is None else SCHEDULED
            group.update({name: value for name, value in arguments.items() if name not in ("params", *kept)})
            if self.scheduler is not None:
                group.update(scheduled)
                if hasattr(self.scheduler, "base_lrs"):
                    self.scheduler.base_lrs[number] *= ratio

    # -- checkpoints -----------------------------------------------------------------------------------------------

    def _save(self, directory: Path) -> None:
        """Write the model's files, and in addition the state that only resuming needs."""
        torch_file.save(self.module, directory)
        state = {
            "epoch": self.epoch,
            "seed": self.seed,
            "rates": self.rates,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "best_state": self.best_state,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler and self.scheduler.state_dict(),
        }
        torch.save(state, directory / "training.pt")

    def _resume(self, directory: Path) -> None:
        torch_file.read_numbers(self.module, directory)
        state = torch.load(directory / "training.pt", map_location=self.device, weights_only=True)
        fresh = [dict(group, params=None) for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self._take_arguments(fresh, state["rates"])
        self.epoch, self.seed = state["epoch"] + 1, state["seed"]
        self.best, self.best_epoch, self.best_state = state["best"], state["best_epoch"], state["best_state"]


def per_class(loss: Any) -> bool:
    """Return whether a loss takes one logit per class, also for two classes, and class numbers as targets."""
    if isinstance(loss, str):
        loss = losses().get(loss.lower())
    return loss in (F.cross_entropy, F.nll_loss, F.multi_margin_loss) or isinstance(
        loss, (torch.nn.CrossEntropyLoss, torch.nn.NLLLoss, torch.nn.MultiMarginLoss)
    )


def two_class(loss: Any) -> bool:
    """Return whether a loss is for two classes with one logit."""
    name = F.binary_cross_entropy_with_logits.__name__
    return loss in (name, F.binary_cross_entropy_with_logits) or isinstance(loss, torch.nn.BCEWithLogitsLoss)


class WeightedLoss:
    """A loss, by name or custom, summed over rows with their weights."""

    def __init__(self, loss: Any, target: Target) -> None:
        self._name = loss if isinstance(loss, str) else ""
        self._function = None if loss is None else _named(loss, losses(), "loss")
        if self._name.lower() in torch_losses.NAMED:
            self._name = ""  # it gives one number for each row, as a function of the user's
        self._quantiles = torch_losses.quantiles(self._function)
        self._target = target

    def __call__(self, output: Any, target: Any, weight: Any) -> Any:
        output = modules.squeezed(output)
        classes = output.ndim == 2 and target.ndim == 1  # one logit per class
        fits = output.shape == target.shape or (classes and self._target.task is not Task.REGRESSION)
        if self._quantiles:
            fits, classes = output.numel() == len(target) * len(self._quantiles), False
        if not fits or (classes and output.shape[1] != max(len(c) for c in self._target.classes)):
            raise ParameterError(
                f"torch trainer: the module gives outputs of shape {tuple(output.shape)} for targets of shape {tuple(target.shape)}.",
                f"Expected {self._expected()}.",
                "let the module's class take out_features, which is set automatically, or change its last layer.",
            )
        target = target if classes else target.float()
        if self._function is None:
            function = (
                F.cross_entropy
                if classes
                else F.binary_cross_entropy_with_logits
                if self._target.classes
                else F.mse_loss
            )
            row_losses = function(output, target, reduction="none")
        else:
            row_losses = self._function(output, target, **({"reduction": "none"} if self._name else {}))
        if row_losses.ndim == 0:
            if weight is not None:
                raise ParameterError(
                    "torch trainer: the loss gives one number for a batch, and rows have weights.",
                    "Expected one for each row.",
                    "create the loss with reduction='none', or leave the weights out.",
                )
            return row_losses * len(output)
        row_losses = row_losses if row_losses.ndim == 1 else row_losses.flatten(1).mean(dim=1)
        return (row_losses if weight is None else row_losses * weight).sum()

    def _expected(self) -> str:
        n, task = len(self._target.columns), self._target.task
        if len(self._quantiles) > 1:
            return f"one output for each quantile: (rows, {len(self._quantiles)})"
        if task is Task.MULTICLASS:
            return f"one logit for each class: (rows, {len(self._target.classes[0])})"
        if n > 1:
            return f"one output for each target: (rows, {n})"
        return "one output for each row: (rows,) or (rows, 1)" + (
            ", or two logits: (rows, 2)" if self._target.classes else ""
        )


def device(context: TrainContext) -> Any:
    """Return the device of a worker."""
    return torch.device(select_device(context.use_gpu).name)


def backend(context: TrainContext) -> str:
    """Return the library of PyTorch's process groups for these workers, each of which has a GPU of its own or none."""
    return "nccl" if select_device(context.use_gpu).is_cuda else "gloo"


@contextlib.contextmanager
def seeded(context: TrainContext) -> Iterator[None]:
    """Set the context's seed and number of threads, and restore the process afterwards."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(enabled=True):
        torch.set_num_threads(context.n_threads)
        if context.seed is not None:
            torch.manual_seed(context.seed)
        try:
            yield
        finally:
            torch.set_num_threads(threads)

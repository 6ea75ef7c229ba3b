"""`TorchTrainer(lightning_module=…)`: the user's LightningModule, trained by Lightning's own Trainer."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rayline.compat.deep_learning import save_lightning_checkpoint
from rayline.core import row_stream, scratch
from rayline.core.errors import DataError, ParameterError, needing
from rayline.core.framework import Rows, TrainContext
from rayline.core.target import Task
from rayline.device import select_device
from rayline.frameworks import torch_device, torch_file
from rayline.frameworks import torch_modules as modules
from rayline.frameworks.torch_loop import TIMEOUT, ProcessGroup, backend, device, seeded
from rayline.frameworks.torch_rows import EpochRows, is_large, tensors

with needing("TorchTrainer(lightning_module=…)", "lightning", "lightning"):
    import lightning
    import torch
    from lightning.fabric.plugins.environments import ClusterEnvironment
    from lightning.pytorch.strategies import DDPStrategy

OURS = {"max_epochs", "accelerator", "devices", "num_nodes", "strategy", "callbacks", "use_distributed_sampler"}
"""Arguments of `lightning.Trainer` that Rayline sets."""

QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 1,
}
"""Defaults, which the user may change."""


def fit(
    context: TrainContext,
    module: Any,
    module_kwargs: Mapping[str, Any],
    *,
    max_epochs: int,
    batch_size: int,
    inputs: str,
    trainer_args: Mapping[str, Any],
    compile: bool | Mapping[str, Any],  # PyTorch's name
    callbacks: Sequence[Any],
) -> Any:
    """Train the module with Lightning's Trainer on this worker's rows, together with the other workers, and return it."""
    with seeded(context), scratch.folder("lightning") as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")  # advice about loaders and loggers that does not apply
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        built = modules.built(context, module, module_kwargs, inputs)
        if not isinstance(built, lightning.LightningModule):
            raise ParameterError.value(
                "lightning_module", "a class or function that creates a LightningModule", built, where="torch trainer"
            )
        listener, gpu = _LightningReporter(context), select_device(context.use_gpu)
        trainer = lightning.Trainer(
            **{**QUIET, "default_root_dir": folder, **trainer_args},
            max_epochs=max_epochs,
            accelerator="gpu" if gpu.is_cuda else "cpu",
            devices=[int(gpu.name.partition(":")[2] or 0)] if gpu.is_cuda else 1,
            num_nodes=context.world_size,
            strategy=_strategy(context) if context.world_size > 1 else "auto",
            use_distributed_sampler=False,  # each worker already has its own rows
            callbacks=[*callbacks, listener],
        )
        if context.world_size > 1:
            _log_for_all(built, listener, context.world_size)
        resume = None if context.resume is None else str(context.resume / "training.pt")
        module_of_steps, rows = torch_device.compiled(built, compile), _RowsDataModule(context, batch_size, inputs)
        with torch_device.naming_memory(built, f"batch_size={batch_size}"):
            trainer.fit(module_of_steps, datamodule=rows, ckpt_path=resume, weights_only=True)
        if context.world_size > 1:
            ProcessGroup().sync_buffers(built)
            torch.distributed.destroy_process_group()
        built.trainer = None
        built.__dict__.pop("log", None)
        return torch_device.moved(built, gpu).eval()  # Lightning leaves it on the CPU; the metrics are computed there


def _log_for_all(module: Any, listener: _LightningReporter, world_size: int) -> None:
    """Make `module.log` average over the rows of all workers, for metrics and for callbacks that use them.

    Lightning divides the integer numbers of rows by the number of workers: multiples of it stay exact.
    """
    log = module.log

    def log_for_all(*args: Any, **kwargs: Any) -> None:
        n_rows = kwargs.get("batch_size") or listener.n_rows
        synced = not kwargs.get("rank_zero_only", False)
        log(*args, **{**kwargs, "sync_dist": synced, "batch_size": n_rows * world_size})

    module.log = log_for_all


def is_callback(callback: Any) -> bool:
    """Return whether this is one of Lightning's callbacks."""
    return isinstance(callback, lightning.Callback)


def check(trainer_args: Mapping[str, Any]) -> None:
    """Raise ParameterError on arguments of `lightning.Trainer` that Rayline sets or that do not exist."""
    ours = sorted(OURS & {*trainer_args})
    if ours:
        raise ParameterError(
            f"torch trainer: trainer_args set {ours[0]!r}.",
            "Expected further arguments of lightning.Trainer.",
            "it is derived from the trainer's own arguments.",
        )
    known = {*inspect.signature(lightning.Trainer.__init__).parameters} - {"self"} - OURS
    unknown = [name for name in trainer_args if name not in known]
    if unknown:
        raise ParameterError.unknown(unknown, known, where="torch trainer: trainer_args")


class _RowsDataModule(lightning.LightningDataModule):
    """A worker's rows in batches; every worker has the same number of batches."""

    def __init__(self, context: TrainContext, batch_size: int, inputs: str) -> None:
        super().__init__()
        self._job, self._size, self._inputs = context, batch_size, inputs

    def train_dataloader(self) -> Any:
        return self._loader(self._job.train, shuffle=True)

    def val_dataloader(self) -> Any:
        return [] if self._job.test is None else self._loader(self._job.test, shuffle=False)

    def _loader(self, rows: Rows, *, shuffle: bool) -> Any:
        counts, context = np.zeros((2, self._job.world_size)), self._job
        counts[:, context.rank] = rows.n_rows, float(is_large(rows, self._inputs))
        if context.world_size > 1:
            counts = ProcessGroup().total(counts, device(context))
        n_rows, large = counts
        if not n_rows.all():
            if not shuffle:
                return []  # when one worker has no test rows, no worker validates
            raise DataError(
                f"train.fit: worker {int(n_rows.argmin())} has no rows to train on.", "", "use fewer workers."
            )
        steps = min(int(np.ceil(n_rows.sum() / self._size)), int(n_rows.min()))
        table = tensors(rows, self._inputs, stream=bool(large.any()))
        seed = self._epoch_seed if shuffle and context.seed is not None else None
        batches = _EpochBatches(table, steps, shuffle=shuffle, binary=context.target.task is Task.BINARY, seed=seed)
        return torch.utils.data.DataLoader(batches, batch_size=None)

    def _epoch_seed(self) -> int:
        return row_stream.epoch_seed(self._job.seed or 0, self.trainer.current_epoch, self._job.rank)


class _EpochBatches(torch.utils.data.IterableDataset[Any]):
    """All rows in a fixed number of batches per epoch, which sets PyTorch's seed where it begins."""

    def __init__(
        self, table: EpochRows, steps: int, *, shuffle: bool, binary: bool, seed: Callable[[], int] | None
    ) -> None:
        self._table, self._steps, self._shuffle, self._is_binary, self._seed = table, steps, shuffle, binary, seed

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[Any]:
        if self._seed is not None:
            torch.manual_seed(self._seed())
        for batch in self._table.epoch(self._steps)[1] if self._shuffle else self._table.split(self._steps):
            whole = not self._is_binary and not batch.target.is_floating_point()
            weight = () if batch.weight is None else (batch.weight,)
            yield (batch.x, batch.target if whole else batch.target.float(), *weight)


class _LightningReporter(lightning.Callback):
    """Reports every epoch to the context, and stops the training on all workers when the context says so."""

    def __init__(self, context: TrainContext) -> None:
        self._job = context
        self.n_rows = 1
        """Number of rows of the current batch."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.n_rows = len(batch[1])

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.n_rows = len(batch[1])

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        metrics = {_word(name): float(value) for name, value in trainer.callback_metrics.items()}
        trainer.should_stop |= self._job.report(trainer.current_epoch, metrics)
        self._job.checkpoint(trainer.current_epoch, lambda directory: _keep(trainer, pl_module, directory))


def _word(name: str) -> str:
    """Return the name of a metric in the history: train_loss as train-loss, val_loss as test-loss."""
    table, _, metric = name.partition("_")
    known = {"train": "train", "val": "test", "test": "test"}
    return f"{known[table]}-{metric}" if table in known and metric else name


def _keep(trainer: Any, module: Any, directory: Path) -> None:
    """Write Rayline's files and Lightning's checkpoint, on rank 0 alone: Lightning's `save_checkpoint` waits for all ranks."""
    torch_file.save(module, directory)
    save_lightning_checkpoint(trainer, directory / "training.pt")


def _strategy(context: TrainContext) -> Any:
    return DDPStrategy(
        process_group_backend=backend(context),
        cluster_environment=_RaylineCluster(context),
        timeout=TIMEOUT,
    )


class _RaylineCluster(ClusterEnvironment):
    """Rayline's workers as a Lightning cluster: each is a node with one process."""

    def __init__(self, context: TrainContext) -> None:
        super().__init__()
        self._job = context
        host, _, port = context.worker_addresses[0].rpartition(":")
        self._host, self._port = host, int(port)

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return self._host

    @property
    def main_port(self) -> int:
        return self._port

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self._job.world_size

    def set_world_size(self, size: int) -> None:
        """Do nothing: it is fixed."""

    def global_rank(self) -> int:
        return self._job.rank

    def set_global_rank(self, rank: int) -> None:
        """Do nothing: it is fixed."""

    def local_rank(self) -> int:
        return 0

    def node_rank(self) -> int:
        return self._job.rank

"""Lightning: `train.LightningTrainer` trains your LightningModule with Lightning's own Trainer."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rayline.core.errors import DataError, MissingExtraError, ParameterError
from rayline.core.framework import Job
from rayline.core.target import Task
from rayline.frameworks import torch_modules as modules
from rayline.frameworks.torch import Torch, built, seeded
from rayline.frameworks.torch_loop import TIMEOUT, Gloo, Table, device

try:
    import lightning
    import torch
    from lightning.fabric.plugins.environments import ClusterEnvironment
    from lightning.pytorch.strategies import DDPStrategy
except ImportError as error:
    raise MissingExtraError.of("LightningTrainer", "lightning", "lightning") from error

OURS = {"max_epochs", "accelerator", "devices", "num_nodes", "strategy", "callbacks", "use_distributed_sampler"}
"""Arguments of `lightning.Trainer` that are ours to say."""


class Lightning(Torch):
    """Your LightningModule: `LightningTrainer(Net, {"width": 8}, max_epochs=20)`.

    `training_step` gets batches (x, y), or (x, y, weight) with sample weights: x as `TorchTrainer` gives it to
    `forward`, y class numbers (float32 in a binary task) or values. Test rows go to `validation_step`. What is logged
    becomes the history, "train_loss" as "train-loss" and "val_loss" as "test-loss". `forward` gives logits, or values.

    Parameters
    ----------
    module, module_kwargs
        As for `TorchTrainer`; a class or function that makes a LightningModule, or one.
    max_epochs, batch_size, inputs
        As for `TorchTrainer`.
    trainer_args
        Further arguments of `lightning.Trainer`, by name.
    callbacks
        Objects of `lightning.Callback`.
    """

    name = "lightning"
    package = "lightning"
    models = "torch"

    def train(  # type: ignore[override]  # the loop is Lightning's, and its arguments are
        self,
        job: Job,
        module: Any,
        module_kwargs: Mapping[str, Any] | None = None,
        *,
        max_epochs: int = 10,
        batch_size: int = 64,
        inputs: str = "matrix",
        trainer_args: Mapping[str, Any] | None = None,
        callbacks: Sequence[Any] | None = None,
    ) -> Any:
        with seeded(job), tempfile.TemporaryDirectory(prefix="rayline-") as folder, warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")  # advice about loaders and loggers that are not ours
            logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
            made = built(job, module, module_kwargs or {}, inputs)
            if not isinstance(made, lightning.LightningModule):
                raise ParameterError.value(
                    "lightning trainer", "module", "something that makes a LightningModule", made
                )
            trainer = lightning.Trainer(
                **{
                    "default_root_dir": folder,
                    "logger": False,
                    "enable_checkpointing": False,
                    "enable_progress_bar": False,
                    "enable_model_summary": False,
                    "num_sanity_val_steps": 0,
                    "log_every_n_steps": 1,
                    **(trainer_args or {}),
                },
                max_epochs=max_epochs,
                accelerator="gpu" if job.use_gpu else "cpu",
                devices=1,
                num_nodes=job.world_size,
                strategy=_strategy(job) if job.world_size > 1 else "auto",
                use_distributed_sampler=False,  # each worker has its own rows
                callbacks=[*(callbacks or ()), _Listener(job)],
            )
            resume = None if job.resume is None else str(job.resume / "training.pt")
            trainer.fit(made, datamodule=_Data(job, batch_size, inputs), ckpt_path=resume, weights_only=True)
            if job.world_size > 1:
                Gloo().agree(made)
                torch.distributed.destroy_process_group()
            made.trainer = None
            return made.cpu().eval()

    def owns(self, model: Any) -> bool:
        return False  # they are PyTorch's

    def owns_callback(self, callback: Any) -> bool:
        return isinstance(callback, lightning.Callback)

    def task(self, *args: Any, **kwargs: Any) -> Any:
        return None

    def needs_test(self, *args: Any, **kwargs: Any) -> str:
        return ""

    def check(self, *args: Any, **kwargs: Any) -> None:
        super(Torch, self).check(*args, **kwargs)
        given = {"module_kwargs": None, **dict(zip(("module", "module_kwargs"), args, strict=False)), **kwargs}
        modules.check(given["module"], given["module_kwargs"] or {})
        ours = sorted(OURS & {*(kwargs.get("trainer_args") or {})})
        if ours:
            raise ParameterError(
                f"lightning trainer: trainer_args set {ours[0]!r}.", "", "it follows from the trainer's own arguments."
            )


class _Data(lightning.LightningDataModule):
    """A worker's rows in batches, equally many on each worker."""

    def __init__(self, job: Job, batch_size: int, inputs: str) -> None:
        super().__init__()
        self._job, self._size, self._inputs = job, batch_size, inputs

    def train_dataloader(self) -> Any:
        return self._loader(self._job.train, shuffle=True)

    def val_dataloader(self) -> Any:
        return [] if self._job.test is None else self._loader(self._job.test, shuffle=False)

    def _loader(self, rows: Any, *, shuffle: bool) -> Any:
        table, counts = Table(rows, self._inputs), np.zeros(self._job.world_size)
        counts[self._job.rank] = table.n_rows
        if self._job.world_size > 1:
            counts = Gloo().total(counts, device(self._job))
        if not counts.all():
            if not shuffle:
                return []  # a worker without test rows: none is validated on any
            raise DataError(
                f"train.fit: worker {int(counts.argmin())} has no rows to train on.", "", "use fewer workers."
            )
        steps = min(int(np.ceil(counts.sum() / self._size)), int(counts.min()))
        batches = _Batches(table.n_rows, steps, shuffle)
        examples = _Examples(table, binary=self._job.target.task is Task.BINARY)
        return torch.utils.data.DataLoader(examples, sampler=batches, batch_size=None)


class _Batches(torch.utils.data.Sampler[Any]):
    """Row numbers, so many batches an epoch."""

    def __init__(self, n_rows: int, steps: int, shuffle: bool) -> None:
        self._n_rows, self._steps, self._shuffle = n_rows, steps, shuffle

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Any:
        rows = torch.randperm(self._n_rows) if self._shuffle else torch.arange(self._n_rows)
        return iter(rows.tensor_split(self._steps))


class _Examples(torch.utils.data.Dataset[Any]):
    """Batches by row numbers."""

    def __init__(self, table: Table, *, binary: bool) -> None:
        self._table = table
        whole = not binary and not table.target.is_floating_point()
        self._target = table.target if whole else table.target.float()

    def __getitem__(self, rows: Any) -> Any:
        weight = () if self._table.weight is None else (self._table.weight[rows],)
        return (self._table.inputs.at(rows), self._target[rows], *weight)


class _Listener(lightning.Callback):
    """Tells the job of every epoch, and ends the training on all workers when it is told to."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        metrics = {_word(name): float(value) for name, value in trainer.callback_metrics.items()}
        trainer.should_stop |= self._job.report(trainer.current_epoch, metrics)
        self._job.checkpoint(trainer.current_epoch, lambda directory: _keep(trainer, pl_module, directory))


def _word(name: str) -> str:
    """train_loss as train-loss, val_loss as test-loss."""
    table, _, metric = name.partition("_")
    known = {"train": "train", "val": "test", "test": "test"}
    return f"{known[table]}-{metric}" if table in known and metric else name


def _keep(trainer: Any, module: Any, directory: Path) -> None:
    """Our files, and what Lightning goes on from; on rank 0 alone, where its `save_checkpoint` waits for all."""
    modules.save(module, directory)
    torch.save(trainer._checkpoint_connector.dump_checkpoint(weights_only=False), directory / "training.pt")


def _strategy(job: Job) -> Any:
    return DDPStrategy(
        process_group_backend="nccl" if job.use_gpu else "gloo", cluster_environment=_Workers(job), timeout=TIMEOUT
    )


class _Workers(ClusterEnvironment):
    """Our workers, as Lightning asks for them: each is a node with one process."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self._job = job
        host, _, port = job.peers[0].rpartition(":")
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
        """It is what it is."""

    def global_rank(self) -> int:
        return self._job.rank

    def set_global_rank(self, rank: int) -> None:
        """It is what it is."""

    def local_rank(self) -> int:
        return 0

    def node_rank(self) -> int:
        return self._job.rank

"""The training of a transformer: `transformers.Trainer` on a worker's own rows, and together with the other workers."""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rayline.core import scratch
from rayline.core.errors import MissingExtraError
from rayline.core.framework import Job, Rows
from rayline.core.target import Target

try:
    import torch
    import transformers
    from torch.nn import functional
except ImportError as error:
    raise MissingExtraError.of("HuggingFaceTrainer", "transformers", "huggingface") from error

Encode = Callable[[Any], Mapping[str, Any]]
"""From a table to token numbers, one list for each row."""


def fit(
    job: Job,
    model: Any,
    encode: Encode,
    tokenizer: Any,
    *,
    training_args: Mapping[str, Any],
    callbacks: Sequence[Any],
    save: Callable[[Path], None],
) -> None:
    """Train the model in place; `save` writes its files, for checkpoints."""
    with scratch.folder("trainer") as folder:
        # Its arguments begin the conversation of the workers.
        args = transformers.TrainingArguments(**_arguments(job, str(folder), training_args))
        trainer = _Trainer(
            model=model,
            args=args,
            train_dataset=_examples(job.train, encode, job.target),
            eval_dataset=None if job.test is None else _examples(job.test, encode, job.target),
            data_collator=transformers.DataCollatorWithPadding(tokenizer),
            callbacks=list(callbacks),
        )
        trainer.model_accepts_loss_kwargs = False  # our loss is the mean of a batch, to be divided by accumulated steps
        trainer.remove_callback(transformers.PrinterCallback)  # it prints what the job is told
        trainer.add_callback(_Listener(job, trainer, save))
        trainer.train(resume_from_checkpoint=None if job.resume is None else str(job.resume))


class _Trainer(transformers.Trainer):
    """transformers' own, where each worker has its own rows already, and rows may have weights."""

    def get_train_dataloader(self) -> Any:
        # Not "prepared" by Accelerate, which would give each worker a part of its part.
        rows, size = self.train_dataset, self.args.per_device_train_batch_size
        most, least = _total(len(rows), "MAX"), _total(len(rows), "MIN")
        batches = _Batches(len(rows), int(min(-(-most // size), least)))
        return torch.utils.data.DataLoader(rows, batch_sampler=batches, collate_fn=self.data_collator)

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **more: Any) -> Any:
        losses, weight, outputs = self._losses(model, dict(inputs))
        loss = losses.mean() if weight is None else (losses * weight).mean()
        return (loss, outputs) if return_outputs else loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The mean loss over the test rows of all workers, of which one may have none."""
        self.model.eval()
        found = np.zeros(2)
        size = self.args.per_device_eval_batch_size
        with torch.inference_mode():
            for start in range(0, len(self.eval_dataset), size):
                batch = self._prepare_inputs(self.data_collator(self.eval_dataset[start : start + size]))
                losses, weight, _ = self._losses(self.model, dict(batch))
                weight = torch.ones_like(losses) if weight is None else weight
                found += (float((losses * weight).sum()), float(weight.sum()))
        metrics = {"eval_loss": _total(found[0]) / _total(found[1])}
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def store_flos(self) -> None:
        """Nothing: it gathers from all workers, and a checkpoint is written by the first alone."""

    def _losses(self, model: Any, inputs: dict[str, Any]) -> tuple[Any, Any, Any]:
        """One loss for each row, with its weight if it has one."""
        weight, labels = inputs.pop("weight", None), inputs.pop("labels")
        outputs, kind = model(**inputs), self.model.config.problem_type
        logits = outputs.logits.float()
        if kind == "single_label_classification":
            return functional.cross_entropy(logits, labels, reduction="none"), weight, outputs
        measure = functional.mse_loss if kind == "regression" else functional.binary_cross_entropy_with_logits
        losses = measure(logits.reshape(labels.shape), labels, reduction="none")
        return losses.reshape(len(labels), -1).mean(dim=1), weight, outputs


class _Batches(torch.utils.data.Sampler[Any]):
    """The numbers of all rows in a new order each epoch, in so many batches."""

    def __init__(self, n_rows: int, steps: int) -> None:
        self._n_rows, self._steps = n_rows, steps

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[list[int]]:
        for batch in torch.randperm(self._n_rows).tensor_split(self._steps):
            yield batch.tolist()


class _Listener(transformers.TrainerCallback):
    """Tells the job of every epoch, after its evaluation where there is one."""

    def __init__(self, job: Job, trainer: Any, save: Callable[[Path], None]) -> None:
        self._job, self._trainer, self._save = job, trainer, save
        self._metrics: dict[str, float] = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in (logs or {}):
            self._metrics["train-loss"] = float(logs["loss"])
            if self._trainer.eval_dataset is None:
                self._epoch(state, control)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        self._metrics["test-loss"] = float(metrics["eval_loss"])
        self._epoch(state, control)

    def _epoch(self, state: Any, control: Any) -> None:
        iteration = round(state.epoch) - 1
        stop = self._job.report(iteration, self._metrics)
        control.should_training_stop |= bool(_total(stop, "MAX"))
        self._job.checkpoint(iteration, self._keep)

    def _keep(self, directory: Path) -> None:
        """transformers' own checkpoint, which it goes on from, and our files beside it."""
        self._trainer._save_checkpoint(self._trainer.model, trial=None)
        kept = Path(self._trainer.args.output_dir, f"checkpoint-{self._trainer.state.global_step}")
        shutil.copytree(kept, directory, dirs_exist_ok=True)
        shutil.rmtree(kept)
        self._save(directory)


def _arguments(job: Job, folder: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Quiet, without files of its own, an evaluation after each epoch; what is given comes last."""
    own = {
        "output_dir": folder,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "epoch",
        "eval_strategy": "no" if job.test is None else "epoch",
        "disable_tqdm": True,
        "use_cpu": not job.use_gpu,
        "dataloader_pin_memory": job.use_gpu,
        "remove_unused_columns": False,
        "average_tokens_across_devices": False,  # otherwise the loss of several workers is multiplied by their number
        "seed": 42 if job.seed is None else job.seed,
    }
    backend = {"ddp_backend": "nccl" if job.use_gpu else "gloo"} if job.world_size > 1 else {}
    return {**own, **backend, **copy.deepcopy(dict(given))}


def _examples(rows: Rows, encode: Encode, target: Target) -> list[dict[str, Any]]:
    encoded, labels = encode(rows.features.table), rows.target
    if not target.task.is_classification or labels.ndim == 2:
        labels = labels.astype(np.float32)
    examples = [
        {**{name: values[i] for name, values in encoded.items()}, "labels": labels[i]} for i in range(rows.n_rows)
    ]
    if rows.weight is not None:
        mean = _total(float(rows.weight.sum())) / max(_total(rows.n_rows), 1)
        for example, weight in zip(examples, (rows.weight / mean).tolist(), strict=True):
            example["weight"] = weight
    return examples


def _total(value: float, how: str = "SUM") -> float:
    """The sum over the workers, or the largest or the smallest."""
    if not torch.distributed.is_initialized():
        return float(value)
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    found = torch.tensor(float(value), dtype=torch.float64, device=device)
    torch.distributed.all_reduce(found, getattr(torch.distributed.ReduceOp, how))
    return float(found)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without progress bars and remarks of transformers."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


@contextlib.contextmanager
def process(job: Job) -> Iterator[None]:
    """This process as one of many, as transformers finds it in the environment; afterwards as it was."""
    host, _, port = (job.peers[0] if job.peers else ":").rpartition(":")
    told: dict[str, Any] = {"RANK": job.rank, "WORLD_SIZE": job.world_size, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
    told |= {"MASTER_ADDR": host, "MASTER_PORT": port}
    before, threads = dict(os.environ), torch.get_num_threads()
    if job.world_size > 1:
        os.environ.update({name: str(value) for name, value in told.items()})
    torch.set_num_threads(job.n_threads)
    try:
        with torch.random.fork_rng(), quiet():
            yield
    finally:
        torch.set_num_threads(threads)
        if torch.distributed.is_initialized() and job.world_size > 1:
            torch.distributed.destroy_process_group()
        for name in told:
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]

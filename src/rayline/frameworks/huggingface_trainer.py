"""The training of a transformer: `transformers.Trainer` on a worker's own rows, and together with the other workers."""

from __future__ import annotations

import contextlib
import copy
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch.nn import functional

from rayline.compat.deep_learning import on_its_device, save_transformers_checkpoint, use_one_gpu
from rayline.core import row_stream, scratch
from rayline.core.errors import ParameterError
from rayline.core.framework import Rows, TrainContext
from rayline.core.row_stream import bytes_per_row, prefetched
from rayline.core.target import Target
from rayline.device import select_device
from rayline.frameworks import torch_device

Encode = Callable[[Any], Mapping[str, Any]]
"""A function from a table to token numbers, one list per row."""


OWN_BATCHES = "each worker draws its own batches of its rows"
BY_EPOCH = "an iteration is an epoch, with one line of the history"
OWN_LOSS = "the loss of the test set is computed by the trainer itself"
WHOLE = "a model is trained whole on each worker"

UNUSED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    **{
        name: ((None, default), OWN_BATCHES)
        for name, default in {
            "data_seed": None, "dataloader_drop_last": False, "dataloader_num_workers": 0, "dataloader_in_order": True,
            "dataloader_persistent_workers": False, "dataloader_prefetch_factor": None, "accelerator_config": None,
            "dataloader_multiprocessing_context": None, "train_sampling_strategy": "random", "group_by_length": False,
            "length_column_name": "length", "label_names": None, "remove_unused_columns": False,
            "auto_find_batch_size": False,
        }.items()
    },
    "logging_strategy": (("epoch",), BY_EPOCH),
    "logging_steps": ((), BY_EPOCH),
    "logging_first_step": ((None, False), BY_EPOCH),
    "eval_strategy": (("epoch",), BY_EPOCH),
    "eval_steps": ((None,), BY_EPOCH),
    "eval_delay": ((None, 0), BY_EPOCH),
    "eval_on_start": ((None, False), BY_EPOCH),
    **{
        name: ((None, default), OWN_LOSS)
        for name, default in {
            "prediction_loss_only": False, "eval_do_concat_batches": True, "eval_use_gather_object": False,
            "eval_accumulation_steps": None, "include_for_metrics": None, "batch_eval_metrics": False,
            "bf16_full_eval": False, "fp16_full_eval": False, "average_tokens_across_devices": False,
            "do_predict": False, "do_train": False, "do_eval": False,
        }.items()
    },
    "fsdp": ((None, "", False), WHOLE),
    "fsdp_config": ((None,), WHOLE),
    "deepspeed": ((None,), WHOLE),
    "parallelism_config": ((None,), WHOLE),
    "local_rank": ((None, -1), "the trainer's num_workers= starts the workers"),
    "resume_from_checkpoint": ((None,), "a training resumes from the trainer's own checkpoints"),
    "metric_for_best_model": ((None, "loss", "eval_loss"), "the loss of the test set is the only metric there is"),
    "greater_is_better": ((None, False), "the loss of the test set is the only metric there is"),
}  # fmt: skip
"""Arguments of TrainingArguments that would have no effect here: the accepted values, and the reason."""


def refuse_unused(arguments: Mapping[str, Any]) -> None:
    """Raise ParameterError on arguments of `transformers` that would have no effect."""
    for name, value in arguments.items():
        allowed, why = UNUSED.get(name, ((value,), ""))
        if value not in allowed and not (isinstance(value, (list, dict)) and not value):
            raise ParameterError(
                f"huggingface trainer: training_args: {name}={value!r} would have no effect: {why}.",
                f"Expected one of {list(allowed)!r}." if allowed else "Expected no such argument.",
                f"leave {name} out.",
            )


def fit(
    context: TrainContext,
    model: Any,
    encode: Encode,
    tokenizer: Any,
    *,
    training_args: Mapping[str, Any],
    callbacks: Sequence[Any],
    save: Callable[[Path], None],
) -> int | None:
    """Train the model in place; `save` writes its files, for checkpoints. Return the epoch of the model, counted
    from 0, if `load_best_model_at_end` has chosen one."""
    with scratch.folder("trainer") as folder:
        # Constructing the arguments starts the communication of the workers.
        args = transformers.TrainingArguments(**_arguments(context, str(folder), training_args))
        trainer = _Trainer(
            model=model,
            args=args,
            train_dataset=_Examples(context.train, encode, context.target),
            eval_dataset=None if context.test is None else _Examples(context.test, encode, context.target),
            data_collator=transformers.DataCollatorWithPadding(tokenizer),
            callbacks=list(callbacks),
        )
        use_one_gpu(args)  # not all that a machine has, through DataParallel
        trainer.model_accepts_loss_kwargs = (
            False  # the loss is the mean over a batch, to be divided by the accumulated steps
        )
        trainer.remove_callback(transformers.PrinterCallback)  # it prints what is reported to the context
        trainer.add_callback(_HuggingFaceReporter(context, trainer, save))
        if trainer.args.label_smoothing_factor and model.config.problem_type != "single_label_classification":
            raise ParameterError(
                "huggingface trainer: training_args: label_smoothing_factor is for one target with classes.",
                f"Expected such a target; got a {model.config.problem_type}.",
                "leave label_smoothing_factor out.",
            )
        with torch_device.naming_memory(model, f"per_device_train_batch_size={args.per_device_train_batch_size}"):
            trainer.train(resume_from_checkpoint=None if context.resume is None else str(context.resume))
        step = trainer.state.best_global_step if trainer.args.load_best_model_at_end else None
        if not step:
            return None
        return next(
            (round(log["epoch"]) - 1 for log in trainer.state.log_history if log["step"] == step and "epoch" in log),
            None,
        )


class _Trainer(transformers.Trainer):
    """transformers' Trainer, for workers that already have their own rows, and for rows with weights."""

    def get_train_dataloader(self) -> Any:
        # Not "prepared" by Accelerate, which would give each worker only a part of its rows.
        rows, size = self.train_dataset, self.args.per_device_train_batch_size
        n_most, n_least = _total(len(rows), "MAX"), _total(len(rows), "MIN")
        batches = _ExampleBatches(rows, int(min(-(-n_most // size), n_least)), self.data_collator, self._epoch_seed)
        return torch.utils.data.DataLoader(batches, batch_size=None)

    def _epoch_seed(self) -> int:
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        return row_stream.epoch_seed(self.args.seed, round(self.state.epoch or 0), rank)

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **more: Any) -> Any:
        losses, weight, outputs = self._losses(model, dict(inputs), self.args.label_smoothing_factor)
        loss = losses.mean() if weight is None else (losses * weight).mean()
        return (loss, outputs) if return_outputs else loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Return the mean loss over the test rows of all workers; a worker may have none."""
        self.model.eval()
        totals = np.zeros(2)
        size = self.args.per_device_eval_batch_size
        with torch.inference_mode():
            for examples in self.eval_dataset.in_order(size):
                batch = on_its_device(self, self.data_collator(examples))
                losses, weight, _ = self._losses(self.model, dict(batch))
                weight = torch.ones_like(losses) if weight is None else weight
                totals += (float((losses * weight).sum()), float(weight.sum()))
        metrics = {"eval_loss": _total(totals[0]) / _total(totals[1])}
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def store_flos(self) -> None:
        """Do nothing: the original gathers from all workers, and only the first writes a checkpoint."""

    def _losses(self, model: Any, inputs: dict[str, Any], smoothing: float = 0.0) -> tuple[Any, Any, Any]:
        """Return one loss per row, weighted if there are weights. Labels are smoothed in training only."""
        weight, labels = inputs.pop("weight", None), inputs.pop("labels")
        outputs, kind = model(**inputs), self.model.config.problem_type
        logits = outputs.logits.float()
        if kind == "single_label_classification":
            return (
                functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing),
                weight,
                outputs,
            )
        measure = functional.mse_loss if kind == "regression" else functional.binary_cross_entropy_with_logits
        losses = measure(logits.reshape(labels.shape), labels, reduction="none")
        return losses.reshape(len(labels), -1).mean(dim=1), weight, outputs


class _HuggingFaceReporter(transformers.TrainerCallback):
    """Reports every epoch to the context, after its evaluation if there is one."""

    def __init__(self, context: TrainContext, trainer: Any, save: Callable[[Path], None]) -> None:
        self._job, self._trainer, self._save = context, trainer, save
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
        """Write transformers' checkpoint, from which it resumes, and Rayline's files next to it."""
        save_transformers_checkpoint(self._trainer, directory)
        self._save(directory)


def _arguments(context: TrainContext, folder: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the training arguments: quiet, no files, an evaluation after each epoch; the user's arguments override them."""
    gpu = select_device(context.use_gpu)
    settings = {
        "output_dir": folder,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "epoch",
        "eval_strategy": "no" if context.test is None else "epoch",
        "disable_tqdm": True,
        "use_cpu": not gpu.is_cuda,
        "dataloader_pin_memory": gpu.is_cuda,
        "remove_unused_columns": False,
        "average_tokens_across_devices": False,  # otherwise the loss is multiplied by the number of workers
        "seed": 42 if context.seed is None else context.seed,
    }
    if arguments.get("load_best_model_at_end"):
        settings |= {
            "save_strategy": "epoch",
            "save_on_each_node": True,
        }  # each worker loads the best epoch from its own files
    backend = {"ddp_backend": "nccl" if gpu.is_cuda else "gloo"} if context.world_size > 1 else {}
    return {**settings, **backend, **copy.deepcopy(dict(arguments))}


Example = dict[str, Any]

TOKENS_PER_BYTE = 6
"""Bytes that the lists of token numbers take per byte of text, and"""

LISTS_PER_ROW = 600
"""per row."""


class _Examples(torch.utils.data.Dataset[Any]):
    """The examples of a worker: token numbers and labels of each row. They are held, or tokenized again in every epoch if they would
    take more than `HELD_BYTES`."""

    def __init__(self, rows: Rows, encode: Encode, target: Target) -> None:
        self._rows, self._encode, self._target = rows, encode, target
        self._n_rows = rows.n_rows
        self._row_bytes = TOKENS_PER_BYTE * bytes_per_row(rows.head.table) + LISTS_PER_ROW
        total = _total(rows.total_weight) if rows.has_weights else 0.0
        self._mean = total / max(_total(self._n_rows), 1) if rows.has_weights else None
        self._held = None if self._n_rows * self._row_bytes > row_stream.HELD_BYTES else self._of(rows)

    def __len__(self) -> int:
        return self._n_rows

    def _of(self, rows: Rows) -> list[Example]:
        encoded, labels = self._encode(rows.features.table), rows.target
        if not self._target.task.is_classification or labels.ndim == 2:
            labels = labels.astype(np.float32)
        examples = [
            {**{name: values[i] for name, values in encoded.items()}, "labels": labels[i]} for i in range(rows.n_rows)
        ]
        if rows.weight is not None:
            for example, weight in zip(examples, (rows.weight / self._mean).tolist(), strict=True):
                example["weight"] = weight
        return examples

    def shuffled(self, steps: int, seed: int) -> Iterator[list[Example]]:
        """Yield all examples in the order of a seed, in a fixed number of batches."""
        if self._held is not None:
            for batch in np.array_split(np.random.default_rng(seed).permutation(self._n_rows), steps):
                yield [self._held[place] for place in batch.tolist()]
            return
        sizes = [self._n_rows // steps + (place < self._n_rows % steps) for place in range(steps)]
        yield from _in_lists(self._windows(seed), sizes)

    def in_order(self, size: int) -> Iterator[list[Example]]:
        """Yield all examples in batches of this size."""
        whole, rest = divmod(self._n_rows, size)
        windows = self._windows(None) if self._held is None else iter([self._held])
        return _in_lists(windows, [size] * whole + [rest] * bool(rest))

    def _windows(self, seed: int | None) -> Iterator[list[Example]]:
        random = None if seed is None else np.random.default_rng((seed, 1))
        for examples in prefetched(self._of(rows) for rows in self._rows.windows(seed, row_bytes=self._row_bytes)):
            yield examples if random is None else [examples[i] for i in random.permutation(len(examples)).tolist()]


def _in_lists(windows: Iterator[list[Example]], sizes: Sequence[int]) -> Iterator[list[Example]]:
    """Yield the same examples in lists of these sizes."""
    examples = itertools.chain.from_iterable(windows)
    for size in sizes:
        yield list(itertools.islice(examples, size))


class _ExampleBatches(torch.utils.data.IterableDataset[Any]):
    """All examples in a fixed number of batches per epoch, which sets PyTorch's seed where it begins."""

    def __init__(
        self, examples: _Examples, steps: int, collate: Callable[[list[Example]], Any], seed: Callable[[], int]
    ) -> None:
        self._examples, self._steps, self._collate, self._seed = examples, steps, collate, seed

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[Any]:
        seed = self._seed()
        torch.manual_seed(seed)  # for dropout: a checkpoint has the state of the first worker's generator alone
        for examples in self._examples.shuffled(self._steps, seed):
            yield self._collate(examples)


def _total(value: float, how: str = "SUM") -> float:
    """Return the sum, maximum or minimum over the workers."""
    if not torch.distributed.is_initialized():
        return float(value)
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    total = torch.tensor(float(value), dtype=torch.float64, device=device)
    torch.distributed.all_reduce(total, getattr(torch.distributed.ReduceOp, how))
    return float(total)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence progress bars and messages of transformers."""
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
def process(context: TrainContext) -> Iterator[None]:
    """Set the environment variables by which transformers recognises one of several processes; restore them afterwards."""
    host, _, port = (context.worker_addresses[0] if context.worker_addresses else ":").rpartition(":")
    variables: dict[str, Any] = {
        "RANK": context.rank,
        "WORLD_SIZE": context.world_size,
        "LOCAL_RANK": 0,
        "LOCAL_WORLD_SIZE": 1,
    }
    variables |= {"MASTER_ADDR": host, "MASTER_PORT": port}
    before, threads = dict(os.environ), torch.get_num_threads()
    if context.world_size > 1:
        os.environ.update({name: str(value) for name, value in variables.items()})
    variables |= dict.fromkeys(("ACCELERATE_DYNAMO_BACKEND", "ACCELERATE_DYNAMO_MODE"))  # set for torch_compile
    torch.set_num_threads(context.n_threads)
    try:
        with torch.random.fork_rng(), quiet():
            yield
    finally:
        torch.set_num_threads(threads)
        if torch.distributed.is_initialized() and context.world_size > 1:
            torch.distributed.destroy_process_group()
        for name in variables:
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]

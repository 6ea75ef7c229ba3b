"""Hugging Face: `train.HuggingFaceTrainer` fine-tunes a transformer on text, through `transformers.Trainer`."""

from __future__ import annotations

import copy
import dataclasses
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl
import torch
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rayline.core.errors import ParameterError, SchemaError
from rayline.core.features import Array, Features
from rayline.core.framework import Framework, ModelInfo, TrainContext
from rayline.core.schema import is_category
from rayline.core.target import Target, Task
from rayline.device import in_batches, select_device
from rayline.frameworks import huggingface_file as files
from rayline.frameworks import huggingface_trainer as training
from rayline.frameworks import torch_device
from rayline.frameworks.huggingface_trainer import quiet

_TOKENIZING = threading.Lock()
"""Held while texts are encoded: a tokenizer of `tokenizers` refuses a second thread."""

BATCH_ROWS = 64
"""Texts per batch of prediction."""

TASKS: Mapping[str, Task | Literal["classification"]] = {
    "text-classification": "classification",
    "text-regression": Task.REGRESSION,
}


@dataclass(frozen=True)
class TextSettings:
    """Facts that a model does not store: its tokenizer, its text columns, and how many tokens it reads."""

    tokenizer: Any
    columns: Sequence[str]
    max_length: int | None
    best_iteration: int | None = None

    def encode(self, table: pl.DataFrame) -> Any:
        """Return token numbers, one list per row. A missing text counts as an empty one."""
        texts = [table[name].fill_null("").to_list() for name in self.columns]
        if not table.height:  # no tokenizer accepts a null
            return {"input_ids": []}
        with _TOKENIZING:
            return self.tokenizer(*texts, truncation=True, max_length=self.max_length)


class HuggingFace(Framework):
    """The adapter of `train.HuggingFaceTrainer`, which describes the arguments."""

    name = "huggingface"
    package = "transformers"
    string_features = "text"
    distributed = True
    reuses_workers = True
    trains_on_gpu = True
    predicts_on_gpu = True

    def train(
        self,
        context: TrainContext,
        model: Any,
        tokenizer: Any = None,
        *,
        task: Literal["text-classification", "text-regression"] | None = None,
        training_args: Mapping[str, Any] | None = None,
        max_length: int | None = None,
        mixed_precision: bool = False,
        compile: bool = False,  # PyTorch's name
        callbacks: Sequence[Any] | None = None,
    ) -> Any:
        columns = _columns(context.train.schema)
        with training.process(context):
            transformers.set_seed(0 if context.seed is None else context.seed)
            prepared = _prepared(model, context.target)
            text = TextSettings(
                _tokenizer(model if tokenizer is None else tokenizer), columns, _length(max_length, prepared)
            )
            torch_device.moved(prepared, select_device(context.use_gpu))
            best = training.fit(
                context,
                _with_text(prepared, text),
                text.encode,
                text.tokenizer,
                training_args={**_device_arguments(mixed_precision, compile), **(training_args or {})},
                callbacks=callbacks or (),
                save=lambda directory: self.save(prepared, directory),
            )
            prepared.rayline_text = dataclasses.replace(text, best_iteration=best)
            return prepared.eval()

    def predict(self, model: Any, features: Features) -> Array:
        text = _text(model)
        encoded = text.encode(features.table)
        lengths = [len(tokens) for tokens in encoded["input_ids"]]
        order = sorted(range(len(lengths)), key=lengths.__getitem__)  # sort texts by length: less padding
        device = torch_device.of(model)
        feed = torch_device.Feed(device)

        def compute(part: slice) -> Any:
            batch = {name: [values[i] for i in order[part]] for name, values in encoded.items()}
            with _TOKENIZING:
                padded = dict(text.tokenizer.pad(batch, return_tensors="pt"))
            return model(**feed(padded)).logits.double()

        with torch.inference_mode():
            parts = in_batches(
                len(order), BATCH_ROWS, compute,
                device=device, model=model, model_bytes=lambda: torch_device.size_bytes(model),
            )  # fmt: skip
        logits = torch.empty((len(order), model.config.num_labels), dtype=torch.float64)
        if parts:
            logits[order] = feed.fetch(torch.cat(parts))
        kind = model.config.problem_type
        if kind == "single_label_classification":
            logits = logits.softmax(dim=1)
        elif kind == "multi_label_classification":
            logits = logits.sigmoid()
        scores: Array = logits.numpy()
        return scores[:, 0] if kind != "single_label_classification" and scores.shape[1] == 1 else scores

    def save(self, model: Any, directory: Path) -> None:
        text = _text(model)
        with quiet():
            about = {name: getattr(text, name) for name in ("max_length", "best_iteration")}
            files.save(model, text.tokenizer, directory, {"columns": list(text.columns), **about})

    def load(self, directory: Path) -> Any:
        with quiet():
            model, tokenizer, about = files.load(directory)
        return _with_text(model.eval(), TextSettings(tokenizer, **about))

    def owns(self, model: Any) -> bool:
        return isinstance(model, transformers.PreTrainedModel)

    def inspect(self, model: Any) -> ModelInfo:
        text, n, kind = getattr(model, "rayline_text", None), model.config.num_labels, model.config.problem_type
        names = None if text is None else list(text.columns)
        if kind == "single_label_classification":
            return ModelInfo(Task.BINARY if n == 2 else Task.MULTICLASS, n, 1, names)
        return ModelInfo(Task.BINARY if kind == "multi_label_classification" else Task.REGRESSION, 2, n, names)

    def task(self, *args: Any, **kwargs: Any) -> Task | Literal["classification"] | None:
        return TASKS.get(str(kwargs.get("task")))

    def best_iteration(self, model: Any) -> int | None:
        return _text(model).best_iteration

    def without_gpu(self) -> str:
        return torch_device.without_gpu()

    def place(self, model: Any, device: Any) -> Any:
        return torch_device.placed(model, device)

    def owns_callback(self, callback: Any) -> bool:
        return isinstance(callback, transformers.TrainerCallback)

    def check(self, *args: Any, **kwargs: Any) -> None:
        super().check(*args, **kwargs)
        where = "huggingface trainer"
        arguments = dict(zip(("model", "tokenizer"), args, strict=False)) | kwargs
        model, tokenizer = arguments["model"], arguments.get("tokenizer")
        if kwargs.get("task") not in (None, *TASKS):
            raise ParameterError.value("task", f"one of {list(TASKS)}", kwargs["task"], where=where)
        if not isinstance(model, (str, Path, transformers.PreTrainedModel)):
            raise ParameterError.value("model", "a directory, a name, or a PreTrainedModel", model, where=where)
        if isinstance(model, transformers.PreTrainedModel) and tokenizer is None:
            raise ParameterError(f"{where}: a model object needs its tokenizer.", "Expected tokenizer=….", "pass it.")
        known = {f.name for f in dataclasses.fields(transformers.TrainingArguments) if f.init}
        unknown = [name for name in kwargs.get("training_args") or {} if name not in known]
        if unknown:
            raise ParameterError.unknown(unknown, known, where=f"{where}: training_args")
        training.refuse_unused(kwargs.get("training_args") or {})

    def configure(self, args: Sequence[Any], kwargs: Mapping[str, Any], changes: Mapping[str, Any]) -> Any:
        """Apply tuned values; those that are not arguments of the trainer are training arguments."""
        names = {"model", "tokenizer", "task", "training_args", "max_length", "mixed_precision", "compile"}
        training_args = {**(kwargs.get("training_args") or {}), **{k: v for k, v in changes.items() if k not in names}}
        return super().configure(
            args, {**kwargs, "training_args": training_args}, {k: v for k, v in changes.items() if k in names}
        )


def _device_arguments(mixed_precision: bool, compiles: bool) -> dict[str, Any]:
    return {**({"bf16": True} if mixed_precision else {}), **({"torch_compile": True} if compiles else {})}


# -- what is trained ---------------------------------------------------------------------------------------------------


def _columns(schema: pl.Schema) -> list[str]:
    columns = list(schema)
    if len(columns) > 2 or not all(d == pl.String or is_category(d) for d in schema.values()):
        raise SchemaError(
            f"huggingface trainer: the features are {dict(schema)!r}.",
            "Expected one column of text, or two that are read as a pair.",
            "select them with SelectColumns in the preprocessor.",
        )
    return columns


def _prepared(model: Any, target: Target) -> Any:
    """Return a new model with one output per class or target."""
    classes, n = target.classes, len(target.columns)
    if target.task is Task.REGRESSION:
        about: dict[str, Any] = {"problem_type": "regression", "num_labels": n}
    elif n > 1:
        about = {"problem_type": "multi_label_classification", "num_labels": n}
    else:
        labels = [str(label) for label in classes[0]]
        about = {
            "problem_type": "single_label_classification",
            "id2label": dict(enumerate(labels)),
            "label2id": {label: i for i, label in enumerate(labels)},
        }
    if isinstance(model, transformers.PreTrainedModel):
        copied = copy.deepcopy(model)
        for name, value in about.items():
            setattr(copied.config, name, value)
        wanted = len(classes[0]) if classes and n == 1 else n
        if getattr(copied, "num_labels", wanted) != wanted:
            raise ParameterError.value(
                "model",
                f"one of {wanted} outputs (num_labels)",
                f"{copied.num_labels} outputs",
                where="huggingface trainer",
            )
        return copied
    with quiet():
        return AutoModelForSequenceClassification.from_pretrained(model, trust_remote_code=False, **about)


def _tokenizer(tokenizer: Any) -> Any:
    if not isinstance(tokenizer, (str, Path)):
        return copy.deepcopy(tokenizer)
    with quiet():
        return AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=False)


def _length(max_length: int | None, model: Any) -> int | None:
    return getattr(model.config, "max_position_embeddings", None) if max_length is None else max_length


# -- what is around it -------------------------------------------------------------------------------------------------


def _with_text(model: Any, text: TextSettings) -> Any:
    model.rayline_text = text
    return model


def _text(model: Any) -> TextSettings:
    text = getattr(model, "rayline_text", None)
    if not isinstance(text, TextSettings):
        raise ParameterError(
            f"This {type(model).__name__} has no tokenizer: it was not trained by HuggingFaceTrainer.",
            "Expected a fitted model.",
            "train it, for 0 steps if need be (training_args={'max_steps': 0}).",
        )
    return text

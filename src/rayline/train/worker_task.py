"""The task of one worker of a training, in this process or on Ray: train on prepared rows, return the model and its scores."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.core import registry
from rayline.core.errors import RaylineError, TrainingError
from rayline.core.features import Features
from rayline.core.framework import Framework, Rows, TrainContext
from rayline.core.operations.base import Operation
from rayline.core.scan import TableFunction
from rayline.core.schema import col
from rayline.core.target import Target, numbers
from rayline.data.fingerprint import Fingerprint
from rayline.inference.model import pack
from rayline.preprocessing.lineage import origins
from rayline.preprocessing.schema_check import SchemaCheck
from rayline.train import training_phases
from rayline.train.base_trainer import BaseTrainer
from rayline.train.fit_inputs import WHERE
from rayline.train.target_inference import TrainingSpec
from rayline.train.training_phases import Phase

Array = npt.NDArray[Any]

WEIGHT = "rayline:weight"
"""The column of weights in prepared rows."""


class WorkerContext(Protocol):
    """The rank of a worker, its rows and its connections, made by an engine. `core.framework.TrainContext` explains the names."""

    @property
    def rank(self) -> int: ...
    @property
    def world_size(self) -> int: ...
    @property
    def worker_addresses(self) -> Sequence[str]: ...
    @property
    def rendezvous(self) -> Mapping[str, Any]: ...
    @property
    def n_threads(self) -> int: ...
    @property
    def train(self) -> Sequence[Callable[[], pl.DataFrame]]: ...
    @property
    def test(self) -> Sequence[Callable[[], pl.DataFrame]] | None: ...
    @property
    def resume(self) -> Path | None: ...
    def report(self, iteration: int, metrics: Mapping[str, float], /) -> bool: ...
    def gather(self, value: Any, /) -> list[Any]: ...
    def checkpoint(self, iteration: int, save: Callable[[Path], None], /) -> None: ...


@dataclass
class LocalWorker:
    """The one worker of a training in this process."""

    train: Sequence[Callable[[], pl.DataFrame]]
    test: Sequence[Callable[[], pl.DataFrame]] | None
    report: Callable[[int, Mapping[str, float]], bool]
    checkpoint: Callable[[int, Callable[[Path], None]], None]
    n_threads: int
    rank: int = 0
    world_size: int = 1
    worker_addresses: Sequence[str] = ()
    rendezvous: Mapping[str, Any] = field(default_factory=dict)
    resume: Path | None = None

    def gather(self, value: Any) -> list[Any]:
        return [value]


@dataclass(frozen=True)
class RowPreparation:
    """Turn raw rows into training rows: apply the preprocessor, then keep features, targets and weights only."""

    transform: TableFunction | None
    features: pl.Schema
    targets: Sequence[str]
    weight: str | None
    class_weights: Mapping[Any, float] | None = None

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame:
        if self.transform is not None:
            table = self.transform(table)
        given = table.collect_schema()
        others = {name: dtype for name, dtype in self.features.items() if given.get(name, dtype) != dtype}
        table = SchemaCheck(others, "train.fit")(table)
        columns = map(col, (*self.features, *self.targets))
        return table.select(*columns, *self._weights())

    @property
    def weighs(self) -> bool:
        return self.weight is not None or self.class_weights is not None

    def _weights(self) -> list[pl.Expr]:
        weight = pl.lit(1.0) if self.weight is None else pl.col(self.weight).cast(pl.Float64)
        if self.class_weights is not None:
            labels, values = list(self.class_weights), list(self.class_weights.values())
            weight = weight * pl.col(self.targets[0]).replace_strict(labels, values, return_dtype=pl.Float64)
        return [weight.alias(WEIGHT)] if self.weighs else []


@dataclass(frozen=True)
class ScoredRows:
    """A model's scores for some rows, with their labels and weights."""

    scores: Array
    truth: Array
    weight: Array | None

    @classmethod
    def merge(cls, parts: Sequence[ScoredRows]) -> ScoredRows:
        """The rows of all workers."""
        parts = [part for part in parts if len(part.truth)] or list(parts[:1])
        weights = [part.weight for part in parts if part.weight is not None]
        return cls(
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.truth for part in parts]),
            np.concatenate(weights) if weights else None,
        )


@dataclass(frozen=True)
class WorkerOutcome:
    """The result of a worker. From another process the model comes as the framework's files (of rank 0 only), and every rank
    sends the digest of its own files."""

    native: Any
    scored: dict[str, ScoredRows]
    files: dict[str, bytes] | None = None
    load_options: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""
    data: Fingerprint = field(default_factory=Fingerprint)


@dataclass(frozen=True)
class WorkerTask:
    """A training, as each worker carries it out."""

    framework: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    features: pl.Schema
    target: Target
    weighs: bool
    weighs_test: bool
    seed: int | None
    use_gpu: bool
    score: Sequence[str] = ()  # "train", "test": the rows whose scores are wanted
    adapter_class: type | None = field(default=None)
    num_workers: int = 0  # these three for a framework that generates its own data (see `core.framework.TrainContext`)
    resources_per_worker: Mapping[str, float] = field(default_factory=dict)
    max_failures: int = 0
    where: str = WHERE
    log_train_metrics: bool = True  # see `core.framework.TrainContext`
    lineage: Callable[[], Mapping[str, Sequence[str]]] = dict  # see `core.framework.TrainContext`
    legs: Sequence[Phase] = ()  # in place of `args` and `kwargs`, where these change during the training

    @classmethod
    def of(cls, trainer: BaseTrainer, spec: TrainingSpec, **options: Any) -> Self:
        """Return the task of training `trainer` on rows of which `spec` is known: for a fit, a fold and a run in an
        environment alike. `options` are further fields, or stand in place of what the trainer says."""
        fields: dict[str, Any] = {
            "framework": trainer.framework,
            "args": trainer.args,
            "kwargs": trainer.kwargs,
            "features": spec.features,
            "target": spec.target,
            "lineage": spec.lineage,
            "weighs": False,
            "weighs_test": False,
            "seed": trainer.seed,
            "use_gpu": trainer.use_gpu,
            "adapter_class": registry.runtime_class(trainer.framework),
            "num_workers": trainer.num_workers or 0,
            "max_failures": trainer.max_failures,
            "legs": trainer.legs,
        }
        return cls(**{**fields, **options})

    @property
    def adapter(self) -> Framework:
        if self.adapter_class is not None and registry.runtime_class(self.framework) is not self.adapter_class:
            registry.register_framework(self.adapter_class)
        adapter = registry.framework(self.framework)
        assert isinstance(adapter, Framework)
        return adapter

    def __call__(self, worker: WorkerContext) -> WorkerOutcome:
        """Run in a worker's process, and return what can be sent to the driver."""
        outcome = self.run(worker)
        files = pack(self.adapter, outcome.native)
        digest = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()
        if worker.rank:
            return WorkerOutcome(None, outcome.scored, digest=digest, data=outcome.data)
        return WorkerOutcome(
            None, outcome.scored, files, self.adapter.load_options(outcome.native), digest, outcome.data
        )

    def on_ray(self, trainer: BaseTrainer, **options: Any) -> list[WorkerOutcome]:
        """Run on the Ray workers that the trainer asks for; `options` are the rows and what listens (see the engine's `train`)."""
        outcomes: list[WorkerOutcome] = registry.engine("ray").train(
            self,
            num_workers=trainer.num_workers,
            resources_per_worker=trainer.resources_per_worker,
            use_gpu=trainer.use_gpu,
            coordinate=trainer.adapter.coordinate,
            max_failures=trainer.max_failures,
            storage_path=trainer.storage_path,
            **options,
        )
        return outcomes

    def run(self, worker: WorkerContext, memo: dict[Any, Any] | None = None) -> WorkerOutcome:
        """Train and score. `memo` keeps what the framework makes of the training rows (see `Rows.remember`).

        Raises
        ------
        DataError
            When labels of the test rows are missing or were not there in training.
        TrainingError
            When the framework fails, from its own error.
        """
        adapter = self.adapter
        rows = {"train": Rows(worker.train, self.features, self.target, WEIGHT if self.weighs else None, memo=memo)}
        if worker.test is not None:
            rows["test"] = Rows(worker.test, self.features, self.target, WEIGHT if self.weighs_test else None)
            rows["test"].check_labels()  # wrong labels are an error before the training, not after it
        context = TrainContext(
            train=rows["train"],
            test=rows.get("test"),
            target=self.target,
            seed=self.seed,
            n_threads=worker.n_threads,
            use_gpu=self.use_gpu,
            rank=worker.rank,
            world_size=worker.world_size,
            worker_addresses=worker.worker_addresses,
            rendezvous=worker.rendezvous,
            report=worker.report,
            log_train_metrics=self.log_train_metrics,
            gather=worker.gather,
            checkpoint=worker.checkpoint,
            resume=worker.resume,
            num_workers=self.num_workers,
            resources_per_worker=self.resources_per_worker,
            max_failures=self.max_failures,
            lineage=self.lineage,
        )
        try:
            if self.legs:
                native = training_phases.train(
                    adapter,
                    context,
                    [replace(leg, **_copied_arguments(adapter, leg.args, leg.kwargs)) for leg in self.legs],
                )
            else:
                arguments = _copied_arguments(adapter, self.args, self.kwargs)
                native = adapter.train(context, *arguments["args"], **arguments["kwargs"])
            scored = {name: self._scored(native, rows[name]) for name in self.score if name in rows}
            data = Fingerprint()
            if not adapter.generates_own_data:
                data = rows["train"].remember(Fingerprint, lambda: Fingerprint.of_training(rows["train"]))
            return WorkerOutcome(native, scored, data=data)
        except RaylineError:
            raise
        except Exception as error:
            reason = str(error).strip().split("\n")[0][:300]
            raise TrainingError(
                f"{self.where}: {self.framework} failed{f' on rank {worker.rank}' if worker.world_size > 1 else ''}: "
                f"{type(error).__name__}: {reason}",
                "Expected a trained model.",
                "the framework's own error stands above this one.",
            ) from error

    def _scored(self, native: Any, rows: Rows) -> ScoredRows:
        if rows.is_small:
            return self._scores(native, rows)
        return ScoredRows.merge([self._scores(native, part) for part in rows.pieces()])

    def _scores(self, native: Any, rows: Rows) -> ScoredRows:
        features = rows.features
        if not features.n_rows:
            shape = (0, self.target.n_outputs) if self.target.n_outputs > 1 else (0,)
            return ScoredRows(np.empty(shape), rows.truth, rows.weight)
        scores = self._predict(native, features)
        if np.isnan(numbers(scores)).any():
            raise TrainingError(
                f"{self.where}: the trained {self.framework} model predicts NaN.",
                f"Expected a number for each of {features.n_rows:,} rows.",
                "check the parameters, such as the learning rate, and how large the features are.",
            )
        return ScoredRows(scores, rows.truth, rows.weight)

    def _predict(self, native: Any, features: Features) -> Array:
        return self.adapter.scores(native, features, self.target)


def _copied_arguments(adapter: Framework, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return copies of the framework's arguments, so that the user's objects do not change and callbacks carry no state from
    one training to the next. What cannot be copied is passed unchanged."""
    memo = {id(callback): callback for callback in kwargs.get("callbacks") or () if adapter.records(callback)}

    def copied(value: Any) -> Any:
        if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
            return type(value)(map(copied, value))
        if type(value) is dict:
            return {key: copied(inner) for key, inner in value.items()}
        try:
            return copy.deepcopy(value, memo)
        except Exception:  # the user's object may raise anything
            return value

    return {"args": copied(tuple(args)), "kwargs": copied(dict(kwargs))}


@dataclass(frozen=True)
class FeaturesFrom:
    """Compute for each raw column the features that the operations derive from it."""

    operations: Sequence[Operation]
    schema: Mapping[str, pl.DataType]

    def __call__(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for feature, sources in origins(self.operations, self.schema).columns.items():
            for source in sources:
                found.setdefault(source, []).append(feature)
        return found

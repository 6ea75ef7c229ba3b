"""The worker of a training, in this process or on Ray: train on prepared rows, return the model and its scores."""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import pickle
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline import device
from rayline.core import registry
from rayline.core.errors import RaylineError, TrainingError, at, place
from rayline.core.framework import Framework, Rows, TrainContext
from rayline.core.scores import numbers
from rayline.core.target import Task
from rayline.data.fingerprint import Fingerprint
from rayline.evaluate import metrics as named_metrics
from rayline.evaluate.measured_rows import MeasuredRows
from rayline.inference.model import pack, unpack
from rayline.train import training_phases
from rayline.train.base_trainer import BaseTrainer
from rayline.train.callback_errors import failed_callback
from rayline.train.fit_request import WEIGHT, FitRequest

Array = npt.NDArray[Any]


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
    @property
    def remembered(self) -> dict[Any, Any] | None: ...
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
    remembered: dict[Any, Any] | None = None

    def gather(self, value: Any) -> list[Any]:
        return [value]


@dataclass(frozen=True)
class WorkerOutcome:
    """The result of a worker. From another process the model comes as the framework's files (of rank 0 only), and every rank
    sends the digest of its own files. `metrics` are those of the rows of all ranks, on rank 0 only."""

    native: Any
    metrics: dict[str, float]
    files: dict[str, bytes] | None = None
    load_options: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""
    data: Fingerprint = field(default_factory=Fingerprint)


def train_on(request: FitRequest, worker: WorkerContext, memo: dict[Any, Any] | None = None) -> WorkerOutcome:
    """Train and measure as one worker. `memo` keeps the framework's form of the training rows (see `Rows.remember`).

    Raises DataError when labels of the test rows are missing or were not there in training, and when there are more rows than a metric
    takes, and TrainingError when the framework fails, from its own error.
    """
    with at(request.made_at):
        rows = _rows(request, worker, memo)
        _refuse_too_many(request, worker, rows)
        calls = _arguments(request)
        try:
            native = _trained(request, _context(request, worker, rows["train"], rows.get("test")), calls)
            metrics: dict[str, float] = {}
            for table in sorted(request.score):
                metrics |= _measured(request, worker, native, table, rows[table])
            if request.scaling.use_gpu:  # it was scored where it was trained
                native = request.adapter.place(native, device.CPU)
            data = Fingerprint()
            if request.spec.has_rows and request.fingerprint:
                data = rows["train"].remember(Fingerprint, lambda: Fingerprint.of_training(rows["train"]))
            return WorkerOutcome(native, metrics, data=data)
        except RaylineError:
            raise
        except Exception as error:
            raise _failure(request, worker, rows["train"].n_rows, error, calls) from error


def _rows(request: FitRequest, worker: WorkerContext, memo: dict[Any, Any] | None) -> dict[str, Rows]:
    """Return the training rows and the test rows. Wrong labels are an error here, before the training."""
    spec = request.spec
    rows = {"train": Rows(worker.train, spec.features, spec.target, WEIGHT if spec.weighs else None, memo=memo)}
    if worker.test is not None:
        rows["test"] = Rows(worker.test, spec.features, spec.target, WEIGHT if spec.weighs_test else None)
        objective = request.adapter.objective(*request.args, **request.kwargs)
        with at(f"{place()} (test data)"):
            rows["test"].check_labels(objective)
    if spec.target.task.is_paired:
        _ = rows["train"].target  # the two columns of a label are compared here only
    return rows


def _failure(
    request: FitRequest, worker: WorkerContext, n_rows: int, error: Exception, calls: Sequence[Mapping[str, Any]]
) -> RaylineError:
    """Return the error for one of the framework's, or of a callback among its arguments."""
    if request.scaling.use_gpu and device.is_out_of_memory(error):
        rows_and_columns = f"{n_rows:,} rows of {len(request.spec.features)} features"
        hint = "use more workers, or fewer rows or features at a time; 8-bit bins take less (max_bin=255)."
        return device.out_of_memory(rows_and_columns, None, hint)
    rank = f" on rank {worker.rank}" if worker.world_size > 1 else ""
    callbacks = (callback for call in calls for callback in call["kwargs"].get("callbacks") or ())
    failure = failed_callback(error, callbacks, rank)
    if failure is not None:
        return failure
    reason = str(error).strip().split("\n")[0][:300]
    return TrainingError.here(
        f"{request.framework} failed{rank}: {type(error).__name__}: {reason}",
        "Expected a trained model.",
        "the framework's own error is shown above this one.",
    )


REMEMBERED = 5
"""How much a worker remembers of its rows, at most: matrices for different arguments, their size and their fingerprint."""

ROWS_LIKE = "rows_like"
"""The key under which it remembers what the columns of these rows were for."""


def train_remotely(request: FitRequest, worker: WorkerContext, rows_like: str = "") -> WorkerOutcome:
    """Train in a worker's process, and return what can be sent to the driver. `rows_like` identifies features, labels and weights among
    the columns: what the framework has made of the same rows for the training before is used again where they are the same, too."""
    memo = worker.remembered
    if memo is not None and (memo.get(ROWS_LIKE) != rows_like or len(memo) > REMEMBERED):
        memo.clear()
        memo[ROWS_LIKE] = rows_like
    outcome = train_on(request, worker, memo)
    files = pack(request.adapter, outcome.native)
    digest = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()
    if worker.rank:
        return WorkerOutcome(None, {}, digest=digest, data=outcome.data)
    load_options = request.adapter.load_options(outcome.native)
    return WorkerOutcome(None, outcome.metrics, files, load_options, digest, outcome.data)


@dataclass(frozen=True)
class RemoteTraining:
    """The input of a worker's process. `load` imports the framework while the rows are still being prepared."""

    request: FitRequest
    rows_like: str

    @classmethod
    def of(cls, request: FitRequest) -> Self:
        try:
            columns = pickle.dumps((request.spec.features, request.spec.target, request.spec.weighs))
        except Exception:  # a stage of the user's own: nothing is remembered
            columns = secrets.token_bytes()
        return cls(request, hashlib.sha256(columns).hexdigest())

    def load(self) -> None:
        load_framework(self.request.framework, self.request.adapter_class)

    def __call__(self, worker: WorkerContext) -> WorkerOutcome:
        return train_remotely(self.request, worker, self.rows_like)


def load_framework(name: str, adapter_class: type | None) -> None:
    """Import a framework. `adapter_class` is its adapter where that was registered at run time."""
    if adapter_class is None:
        registry.framework(name)


def train_on_ray(request: FitRequest, **options: Any) -> WorkerOutcome:
    """Train on the Ray workers of the request; `options` are the rows and what listens (see the engine's `train`).

    Raises TrainingError also when the ranks finished with different models.
    """
    scaling, target = request.scaling, request.spec.target
    outcomes: list[WorkerOutcome] = registry.engine("ray").train(
        RemoteTraining.of(request),
        num_workers=scaling.num_workers,
        resources_per_worker=scaling.resources_per_worker,
        use_gpu=scaling.use_gpu,
        max_failures=scaling.max_failures,
        storage_path=scaling.storage_path,
        backend=scaling.backend,
        spread=scaling.placement == "spread",
        timeout_s=scaling.timeout_s,
        reuse=request.framework if request.adapter.reuses_workers else None,
        coordinate=request.adapter.coordinate,
        together=target.columns[1] if target.task is Task.RANKING else None,
        **options,
    )
    if len({outcome.digest for outcome in outcomes}) > 1:
        raise TrainingError.here(
            f"the workers of {request.framework} finished with different models.",
            "Expected the same model on every rank; each rank has learned from its own part of the rows only.",
            "this is a defect of the framework's adapter: report it.",
        )
    first, *others = outcomes
    native = unpack(request.adapter, first.files or {}, first.load_options)
    return WorkerOutcome(native, first.metrics, data=first.data.merge(*(other.data for other in others)))


def starting_workers(trainer: BaseTrainer) -> AbstractContextManager[None]:
    """Start the workers of a trainer for a `train_on_ray` that comes within this context; they import the framework meanwhile. Does
    nothing for a trainer whose workers are not kept. Raises ResourceError when the cluster, even empty, has no room for them."""
    scaling, adapter = trainer.scaling, trainer.adapter
    if scaling.num_workers is None or scaling.backend != "actors" or not adapter.reuses_workers:
        return contextlib.nullcontext()
    context: AbstractContextManager[None] = registry.engine("ray").starting(
        functools.partial(load_framework, trainer.framework, registry.runtime_class(trainer.framework)),
        reuse=trainer.framework,
        num_workers=scaling.num_workers,
        resources_per_worker=scaling.resources_per_worker,
        use_gpu=trainer.wants_gpu,
        spread=scaling.placement == "spread",
        timeout_s=scaling.timeout_s,
    )
    return context


def _context(request: FitRequest, worker: WorkerContext, train: Rows, test: Rows | None) -> TrainContext:
    return TrainContext(
        train=train,
        test=test,
        target=request.spec.target,
        seed=request.seed,
        n_threads=worker.n_threads,
        use_gpu=request.scaling.use_gpu,
        rank=worker.rank,
        world_size=worker.world_size,
        worker_addresses=worker.worker_addresses,
        rendezvous=worker.rendezvous,
        report=worker.report,
        log_train_metrics=request.log_train_metrics,
        gather=worker.gather,
        checkpoint=worker.checkpoint,
        resume=worker.resume,
        num_workers=request.scaling.max_workers or 0,
        resources_per_worker=request.scaling.resources_per_worker or {},
        max_failures=request.scaling.max_failures,
        lineage=request.spec.lineage,
    )


def _arguments(request: FitRequest) -> list[dict[str, Any]]:
    """Return the framework's arguments, of each phase where there are phases, as copies."""
    calls: Sequence[training_phases.Phase | FitRequest] = request.phases or [request]
    return [_copied_arguments(request.adapter, call.args, call.kwargs) for call in calls]


def _trained(request: FitRequest, context: TrainContext, calls: Sequence[Mapping[str, Any]]) -> Any:
    if request.phases:
        phases = [replace(phase, **call) for phase, call in zip(request.phases, calls, strict=True)]
        return training_phases.train(request.adapter, context, phases)
    (call,) = calls
    return request.adapter.train(context, *call["args"], **call["kwargs"])


def _refuse_too_many(request: FitRequest, worker: WorkerContext, rows: Mapping[str, Rows]) -> None:
    """Raise DataError before a training whose metrics need more rows at once than one process collects."""
    for table in sorted(request.score):
        metrics = (request.metrics_of(table) or {}).values()
        if any(metric.max_rows is not None for metric in metrics):
            n_rows = sum(worker.gather(rows[table].n_rows))
            for metric in metrics:
                metric.refuse_rows(n_rows)


def _measured(request: FitRequest, worker: WorkerContext, native: Any, table: str, rows: Rows) -> dict[str, float]:
    """Return the metrics of the rows of all ranks, on rank 0: the ranks merge statistics, and no rank sends its scores."""
    metrics = request.metrics_of(table)
    target = request.spec.target

    def states() -> Iterator[MeasuredRows]:
        nonlocal metrics
        for part in [rows] if rows.is_small else rows.pieces():
            if part.n_rows:
                scores = _scores(request, native, part)
                if metrics is None:
                    metrics = named_metrics.chosen(named_metrics.defaults_of(target, scores))
                yield MeasuredRows.of(target, scores, part.truth, part.weight, metrics=metrics)

    measured = MeasuredRows.gathered(states())
    names = None if metrics is None else [*metrics]  # of a rank without rows they may be unknown
    everyone = worker.gather((names, measured))
    if worker.rank:
        return {}
    chosen = next(own_metrics for own_metrics, _ in everyone if own_metrics is not None)
    if metrics is None:
        metrics = named_metrics.chosen(chosen)
    values = MeasuredRows.gathered(state for _, state in everyone).values(metrics)
    return {f"{table}-{name.removeprefix('train-').removeprefix('test-')}": value for name, value in values.items()}


def _scores(request: FitRequest, native: Any, rows: Rows) -> Array:
    scores = request.adapter.scores(native, rows.features, request.spec.target)
    if np.isnan(numbers(scores)).any():
        raise TrainingError.here(
            f"the trained {request.framework} model predicts NaN.",
            f"Expected a number for each of {rows.n_rows:,} rows.",
            "check the parameters, such as the learning rate, and how large the features are.",
        )
    return scores


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

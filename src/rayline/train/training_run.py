"""One training: run it in this process or on workers, and pass its reports to callbacks and progress."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from rayline.core import registry, scratch
from rayline.core.errors import TrainingError
from rayline.core.schema import refuse_empty
from rayline.inference.model import unpack
from rayline.inference.pipeline import Preprocessor
from rayline.inference.svg_plots import number
from rayline.train import progress
from rayline.train.base_trainer import BaseTrainer
from rayline.train.callbacks import Callback, Run
from rayline.train.environment_training import worker_resources
from rayline.train.fit_inputs import WHERE, FitInputs
from rayline.train.target_inference import TrainingSpec
from rayline.train.worker_task import LocalWorker, RowPreparation, ScoredRows, WorkerOutcome, WorkerTask


@dataclass
class TrainingRun:
    """One training: the trainer, its data, and the callbacks that follow it."""

    trainer: BaseTrainer
    inputs: FitInputs
    preprocessor: Preprocessor | None
    learned: TrainingSpec
    native_callbacks: Sequence[Any]
    callbacks: Sequence[Callback]
    run: Run
    line: progress.ProgressLine
    score: Sequence[str]
    _first: tuple[int, float] | None = None

    def _place(self, iteration: int) -> str:
        """Return how far the training is, estimated from the pace since the first reported iteration."""
        first, at = self._first or (iteration + 1, time.perf_counter())
        return progress.left(iteration + 1, self._total, first, time.perf_counter() - at)

    @cached_property
    def _total(self) -> int | None:
        """The maximum number of iterations, where the arguments name one."""
        trainer, adapter = self.trainer, self.trainer.adapter
        count: Any = adapter.resumable_iterations(*trainer.args, **trainer.kwargs)
        if not count and adapter.iterations:
            count = adapter.argument(adapter.iterations, trainer.args, trainer.kwargs)
        return count if isinstance(count, int) and count > 0 else None

    @property
    def work(self) -> WorkerTask:
        legs = [replace(leg, kwargs=self._called_back(leg.kwargs)) for leg in self.trainer.legs]
        return WorkerTask.of(
            self.trainer,
            self.learned,
            kwargs=self._called_back(self.trainer.kwargs),
            weighs=self.prepare(test=False).weighs,
            weighs_test=self.inputs.test_weight is not None,
            score=self.score,
            resources_per_worker=worker_resources(self.trainer) if self.trainer.adapter.generates_own_data else {},
            legs=legs,
        )

    def _called_back(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The framework's arguments with its own callbacks among them."""
        if not self.native_callbacks:
            return dict(kwargs)
        return {**kwargs, "callbacks": [*(kwargs.get("callbacks") or []), *self.native_callbacks]}

    def prepare(self, *, test: bool, transformed: bool = False) -> RowPreparation:
        """Return the function from raw (or transformed) rows to training rows."""
        return RowPreparation(
            None if transformed or self.preprocessor is None else self.preprocessor.table_function(training=not test),
            self.learned.features,
            self.inputs.targets,
            self.inputs.test_weight if test else self.inputs.weight,
            None if test else self.learned.class_weights,
        )

    def in_process(self, transformed: pl.DataFrame | None) -> WorkerOutcome:
        """Train in this process. All rows are collected here, wherever they come from."""
        if transformed is None:
            train = _rows(self.inputs.train, self.prepare(test=False))
        else:
            train = self.prepare(test=False, transformed=True)(transformed.lazy()).collect()
        test = None if self.inputs.test is None else _rows(self.inputs.test, self.prepare(test=True))
        if test is not None:
            refuse_empty(test.height, f"{WHERE} (test data)")
        worker = LocalWorker(
            [lambda: train], None if test is None else [lambda: test], self.report, self.keep, n_threads=_threads()
        )
        return self.work.run(worker)

    def in_environment(self) -> WorkerOutcome:
        """Train a framework that generates its own data: in this process, with the framework's own workers."""
        nothing = pl.DataFrame(schema=self.learned.features)
        return self.work.run(LocalWorker([lambda: nothing], None, self.report, self.keep, n_threads=_threads()))

    def on_workers(self) -> WorkerOutcome:
        """Train on Ray workers. The rows stay there; the model returns as the framework's files, scores as arrays."""
        adapter = self.trainer.adapter
        outcomes = self.work.on_ray(
            self.trainer,
            train=self.inputs.train,
            test=self.inputs.test,
            prepare=self.prepare(test=False),
            prepare_test=self.prepare(test=True),
            on_report=self.report,
            on_checkpoint=self.kept,
            checkpoint_every=self.checkpoint_every,
        )
        if len({outcome.digest for outcome in outcomes}) > 1:
            raise TrainingError(
                f"{WHERE}: the workers of {self.trainer.framework} ended with different models.",
                "Expected the same model on every rank; each rank has learned from its own part of the rows only.",
                "this is a defect of the framework's adapter: report it.",
            )
        scored = {name: ScoredRows.merge([o.scored[name] for o in outcomes]) for name in outcomes[0].scored}
        native = unpack(adapter, outcomes[0].files or {}, outcomes[0].load_options)
        return WorkerOutcome(native, scored, data=outcomes[0].data.merge(*(o.data for o in outcomes[1:])))

    # -- reports of the framework -----------------------------------------------------------------------------------

    def report(self, iteration: int, metrics: Mapping[str, float]) -> bool:
        """Record an iteration and call the callbacks. Return True when the training should stop."""
        values = {name: float(value) for name, value in metrics.items()}
        while self.run.history and self.run.history[-1]["iteration"] >= iteration:
            self.run.history.pop()  # the training resumes from a checkpoint: these iterations are repeated
        self.run.history.append({"iteration": iteration, **values})
        for callback in self.callbacks:
            if callback.on_iteration(self.run, iteration, values):
                self.run.stop(type(callback).__name__)
        self._first = self._first or (iteration + 1, time.perf_counter())
        if self.line.is_due:
            ordered = sorted(values.items(), key=lambda item: item[0].startswith("train-"))
            shown = "  ".join(f"{name.replace('-', ' ', 1)} {number(value)}" for name, value in ordered)
            self.line.now(f"{self.trainer.framework} iteration {self._place(iteration)}  {shown}")
        return bool(self.run.stopped_by)

    def keep(self, iteration: int, save: Callable[[Path], None]) -> None:
        """Write a checkpoint for the callbacks after an iteration in this process, when one is due."""
        every = self.checkpoint_every
        if every is not None and (iteration + 1) % every == 0:
            with scratch.folder("checkpoint") as folder:
                save(folder)
                self.kept(iteration, folder)

    def kept(self, iteration: int, directory: Path) -> None:
        """Call the callbacks after a checkpoint."""
        for callback in self.callbacks:
            callback.on_checkpoint(self.run, iteration, directory)

    @property
    def checkpoint_every(self) -> int | None:
        wishes = [c.checkpoint_every for c in self.callbacks if c.checkpoint_every is not None]
        return self.trainer.checkpoint_every or min(wishes, default=None)


def _rows(data: Any, prepare: RowPreparation) -> pl.DataFrame:
    engine = registry.engine_for(data)
    frame = engine.collect(engine.map(data, prepare))
    assert isinstance(frame, pl.DataFrame)
    return frame


def available_cpus() -> int:
    """Return the number of CPUs that this process may use; all of the machine's where the system does not say (macOS, Windows)."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _threads() -> int:
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return int(limit) if limit.isdigit() and int(limit) else available_cpus()

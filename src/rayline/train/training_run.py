"""A training as its reports arrive: keep the history, call the callbacks, show the progress."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rayline.core import scratch
from rayline.inference.svg_plots import number
from rayline.train import progress
from rayline.train.callback_errors import named_errors
from rayline.train.callbacks import Callback, Run


@dataclass
class TrainingRun:
    """The driver's side of one training: what follows it, wherever it runs."""

    run: Run
    callbacks: Sequence[Callback]
    line: progress.ProgressLine
    _first: tuple[int, float] | None = None

    def report(self, iteration: int, metrics: Mapping[str, float]) -> bool:
        """Record an iteration and call the callbacks. Return True when the training should stop."""
        values = {name: float(value) for name, value in metrics.items()}
        while self.run.history and self.run.history[-1]["iteration"] >= iteration:
            self.run.history.pop()  # the training resumes from a checkpoint: these iterations are repeated
        self.run.history.append({"iteration": iteration, **values})
        for callback in self.callbacks:
            with named_errors(callback):
                if callback.on_iteration(self.run, iteration, values):
                    self.run.stop(type(callback).__name__)
        self._first = self._first or (iteration + 1, time.perf_counter())
        if self.line.is_due:
            ordered = sorted(values.items(), key=lambda item: item[0].startswith("train-"))
            shown = "  ".join(f"{name.replace('-', ' ', 1)} {number(value)}" for name, value in ordered)
            self.line.now(f"{self.run.trainer.framework} iteration {self._place(iteration)}  {shown}")
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
            with named_errors(callback):
                callback.on_checkpoint(self.run, iteration, directory)

    @property
    def checkpoint_every(self) -> int | None:
        """The number of iterations between two checkpoints, as the trainer or a callback wants it."""
        wishes = [c.checkpoint_every for c in self.callbacks if c.checkpoint_every is not None]
        return self.run.trainer.checkpoint_every or min(wishes, default=None)

    def _place(self, iteration: int) -> str:
        """Return how far the training is, estimated from the pace since the first reported iteration."""
        first, at = self._first or (iteration + 1, time.perf_counter())
        return progress.left(iteration + 1, self._total, first, time.perf_counter() - at)

    @cached_property
    def _total(self) -> int | None:
        """The maximum number of iterations, where the arguments name one."""
        trainer, adapter = self.run.trainer, self.run.trainer.adapter
        count: Any = adapter.resumable_iterations(*trainer.args, **trainer.kwargs)
        if not count and adapter.iterations:
            count = adapter.argument(adapter.iterations, trainer.args, trainer.kwargs)
        return count if isinstance(count, int) and count > 0 else None


def available_cpus() -> int:
    """Return the number of CPUs that this process may use; all of the machine's where the system does not say (macOS, Windows)."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def n_threads() -> int:
    """Return the number of threads of a training in this process."""
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return int(limit) if limit.isdigit() and int(limit) else available_cpus()

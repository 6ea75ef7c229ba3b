"""Callbacks: they follow a training on the driver, wherever it runs, and can stop it."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from rayline.core import storage
from rayline.core.arguments import integer, known_arguments
from rayline.core.data_types import Mode, NativeCallback
from rayline.core.errors import ParameterError, at
from rayline.core.files import checked_path, writing
from rayline.core.representation import representation
from rayline.core.target import Target
from rayline.evaluate import metrics as named_metrics
from rayline.inference.svg_plots import number
from rayline.train.base_trainer import BaseTrainer
from rayline.train.result import Result


@dataclass
class Run:
    """The state of a training, passed to callbacks.

    Attributes
    ----------
    trainer, target
        The trainer, and the target that it predicts.
    history
        The metrics of the iterations so far, each with its `iteration` (counted from 0).
    stopped_by
        What stopped the training early; empty when nothing did.
    result
        In `on_end`: the result, or None when the training failed.
    analysis
        In `on_end` of a tuning run: its Analysis, or None when it failed.

    Examples
    --------
    >>> from rayline import train
    >>> class Last(train.Callback):
    ...     def on_end(self, run: train.Run) -> None:
    ...         print(run.history[-1])
    """

    trainer: BaseTrainer
    target: Target | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    stopped_by: str = ""
    result: Result | None = None
    analysis: Any = None

    def stop(self, who: str = "stop()") -> None:
        """End the training after this iteration.

        Parameters
        ----------
        who
            What `stopped_by` says afterwards; the first one counts.
        """
        self.stopped_by = self.stopped_by or who


class Callback:
    """Base class of callbacks. Override the methods you need; one object can be used in several trainings, one after another.

    Examples
    --------
    >>> class Stop(Callback):
    ...     def on_iteration(self, run, iteration, metrics):
    ...         return metrics["train-rmse"] < 0.1
    """

    checkpoint_every: int | None = None
    """Iterations between checkpoints that this callback needs, where the trainer sets none."""

    __repr__ = representation

    def on_start(self, run: Run) -> None:
        """Called before the first iteration.

        Parameters
        ----------
        run
            The training, with an empty history.
        """

    def on_iteration(self, run: Run, iteration: int, metrics: Mapping[str, float]) -> bool | None:
        """Called after an iteration.

        Parameters
        ----------
        run
            The training; its history has this iteration already.
        iteration
            Counted from 0.
        metrics
            The framework's metrics of this iteration by name, as "test-logloss".

        Returns
        -------
        bool or None
            True stops the training, as `run.stop()` does.
        """

    def on_checkpoint(self, run: Run, iteration: int, directory: Path) -> None:
        """Called after a checkpoint.

        Parameters
        ----------
        run
            The training.
        iteration
            The last iteration in the checkpoint, counted from 0.
        directory
            The framework's files, which are there until this method returns.
        """

    def on_trial(self, run: Run, trial: Any) -> None:
        """Called after a trial of a tuning run. `on_iteration` is not called for trials: they run in other processes, several at
        a time.

        Parameters
        ----------
        run
            The tuning run.
        trial
            A `rayline.tune.trial_record.Trial`: its number, config, folds, histories, error.
        """

    def on_end(self, run: Run) -> None:
        """Called after the training, also when it failed.

        Parameters
        ----------
        run
            The training, with its `result` (None when it failed), or for a tuning run its `analysis`.
        """


Callbacks: TypeAlias = Sequence[Callback | NativeCallback]
"""Callbacks of ours and of the framework."""


@known_arguments
class Progress(Callback):
    """Write the metrics of every n-th iteration to stderr.

    Parameters
    ----------
    every
        Iterations between two lines.

    Raises
    ------
    ParameterError
        When `every` is below 1.

    Examples
    --------
    >>> from rayline import train
    >>> train.fit(trainer, train_dataset=ds, target_columns=["late"], callbacks=[train.Progress(every=25)])  # doctest: +SKIP
    """

    @at("Progress")
    def __init__(self, every: int = 10) -> None:
        self.every = integer("every", every)

    def on_iteration(self, run: Run, iteration: int, metrics: Mapping[str, float]) -> None:
        if (iteration + 1) % self.every == 0:
            values = "  ".join(f"{name} {number(value, 5)}" for name, value in metrics.items())
            print(f"{iteration + 1:>6}  {values}", file=sys.stderr, flush=True)  # noqa: T201  # what it is for


@known_arguments
class EarlyStopping(Callback):
    """Stop when a metric has not improved for a number of iterations.

    The model is that of the last iteration. A framework's own early stopping (`early_stopping_rounds=` of XGBoost)
    also makes predictions use the best one.

    Parameters
    ----------
    metric
        A metric of the history: "test-logloss", or "logloss" for its value on the test set, without one on the
        training set.
    patience
        Iterations without improvement before the training stops.
    mode
        "min" or "max"; needed only for a metric whose direction is unknown.
    min_delta
        The smallest change that counts as an improvement.

    Raises
    ------
    ParameterError
        On the first iteration, when the history has no such metric or its direction is not known.

    Examples
    --------
    >>> from rayline import train
    >>> stop = train.EarlyStopping("test-logloss", patience=20)
    >>> train.fit(trainer, pipeline, train_dataset=ds, test_dataset=test, target_columns=["late"], callbacks=[stop])  # doctest: +SKIP
    """

    @at("EarlyStopping")
    def __init__(self, metric: str, patience: int = 10, mode: Mode | None = None, min_delta: float = 0.0) -> None:
        if not math.isfinite(min_delta):
            raise ParameterError.value("min_delta", "a finite number", min_delta)
        self.metric, self.mode, self.min_delta = metric, mode, min_delta
        self.patience: int = integer("patience", patience)
        self.best: float | None = None
        self.best_iteration: int | None = None

    def on_start(self, run: Run) -> None:
        self.best = self.best_iteration = None

    def on_iteration(self, run: Run, iteration: int, metrics: Mapping[str, float]) -> bool:
        name = named_metrics.resolve_name(self.metric, list(metrics))
        if name is None:
            raise ParameterError.unknown([self.metric], metrics, where="EarlyStopping: metric")
        mode = self.mode or named_metrics.mode(name)
        if mode is None:
            raise ParameterError(
                f"EarlyStopping: the direction of {name!r} is unknown.",
                "Expected mode.",
                "pass mode='min' or 'max'.",
            )
        gain = metrics[name] if mode == "max" else -metrics[name]
        best = None if self.best is None else self.best if mode == "max" else -self.best
        if not math.isnan(gain) and (best is None or gain > best + self.min_delta):
            self.best, self.best_iteration = metrics[name], iteration
        elif self.best_iteration is None:
            self.best_iteration = iteration  # no value yet, as before the first episode ends: patience counts from here
        return iteration - self.best_iteration >= self.patience


@known_arguments
class ModelCheckpoint(Callback):
    """Keep copies of the model while it is trained, in the framework's own format.

    Parameters
    ----------
    directory
        Where `iteration-000009/` and so on are written: a directory or a URL (s3://…).
    every
        Iterations between two copies.
    keep
        How many copies to keep; the oldest are deleted. None keeps all.

    Raises
    ------
    ParameterError
        When `every` or `keep` is below 1.

    Examples
    --------
    >>> from rayline import train
    >>> keep = train.ModelCheckpoint("checkpoints", every=50, keep=2)
    >>> train.fit(trainer, pipeline, train_dataset=ds, target_columns=["late"], callbacks=[keep])  # doctest: +SKIP
    """

    @at("ModelCheckpoint")
    def __init__(self, directory: str | Path, every: int = 10, keep: int | None = 1) -> None:
        checked_path(directory, "directory")
        self.directory: str | Path = str(directory) if storage.is_url(directory) else Path(directory)
        self.every = self.checkpoint_every = integer("every", every)
        self.keep: int | None = integer("keep", keep, optional=True)

    def on_checkpoint(self, run: Run, iteration: int, directory: Path) -> None:
        if isinstance(self.directory, str):
            self._upload(self.directory, iteration, directory)
            return
        with writing(self.directory):
            self._copy(self.directory, iteration, directory)

    def _copy(self, target: Path, iteration: int, directory: Path) -> None:
        final = target / f"iteration-{iteration:06d}"
        part = target / f".{final.name}.part"
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(directory, part)
        shutil.rmtree(final, ignore_errors=True)
        part.rename(final)
        kept = sorted(target.glob("iteration-*"))
        for old in kept[: len(kept) - self.keep] if self.keep is not None else []:
            shutil.rmtree(old)

    def _upload(self, url: str, iteration: int, directory: Path) -> None:
        storage.upload(directory, storage.join(url, f"iteration-{iteration:06d}"))
        kept = [name for name in storage.list_names(url) if name.startswith("iteration-")]
        for old in kept[: len(kept) - self.keep] if self.keep is not None else []:
            storage.delete(storage.join(url, old))

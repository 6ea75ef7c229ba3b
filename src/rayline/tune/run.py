"""The tuning run: what the user gives is checked here, on the driver; then Ray Tune runs the trials."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler

from rayline.core import registry
from rayline.core.errors import ParameterError, TrainingError
from rayline.train import progress
from rayline.train.callbacks import Callback, Run
from rayline.train.trainer import Trainer
from rayline.tune import capacity as planning
from rayline.tune import live, shelf, space
from rayline.tune import search as searching
from rayline.tune.analysis import Analysis
from rayline.tune.evaluate import WHERE
from rayline.tune.journal import Journal
from rayline.tune.prepare import Prepared, prepare, whole
from rayline.tune.race import SCORE
from rayline.tune.record import FoldScore, Status, Trial
from rayline.tune.trial import BOX, FoldTrial, told

DEATHS = 3
"""How often a trial starts again after its process has died."""

TOGETHER_S = 0.3
"""Folds that are done within so many seconds are reported together, when no scheduler wants to know of each."""


def run(
    trainer: Trainer,
    data_config: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    metric: str | Sequence[str] | None = None,
    mode: str | Sequence[str] | None = None,
    num_samples: int = 10,
    *,
    seed: int | None = 0,
    max_concurrent: int | None = None,
    time_budget_s: float | None = None,
    search: Any = None,
    scheduler: Any = None,
    name: str | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    verbose: bool | None = None,
) -> Analysis:
    """Search parameters of a trainer and of the stages before it, by cross validation or on a test set.

    Every trial fits the stages on the training slice of each fold, trains, and scores the rows that are held out; those
    rows reach no fit. One exception is the user's own: with the framework's early stopping (`early_stopping_rounds=`)
    a fold is stopped by its held-out rows, and the score is a little too good for it.

    Parameters
    ----------
    trainer
        The framework and its arguments; what is tuned is changed in it.
    data_config
        `train_dataset` and `target_columns`, or `X` and `y`, as in `train.fit`; `train_pipeline`, a Preprocessor
        (fitted or not, it is refitted on every training slice); `cv`, a number of folds or a splitter, or
        `test_dataset` to hold out; `sample_weight`, a column of weights, honoured in fit and metric. With `cv` a
        number, `groups`, `stratify` or `time` name the column that the folds go by. With both `cv` and a test
        set, the folds choose and the test set only measures the final model. None for a framework that makes its
        experience itself (RLlib); `{"cv": n}` then trains each configuration n times, with different seeds.
    config
        The search space: names of the trainer's parameters, and under "preprocessor" the stages and their parameters,
        to `tune.uniform(…)` and the like, `tune.grid_search([…])`, or constants.
    metric
        A name of `rayline.train.metrics`, or one that the framework reports. Log loss or RMSE when omitted. Of several,
        "optuna" searches the trade-off between all (`Analysis.pareto`), and the first decides what is best.
    mode
        "min" or "max", for each metric; known by itself for every usual one.
    num_samples
        The number of configurations; a grid is run so many times.
    seed
        The same seed gives the same configurations and scores, and stops the same trials, however many run at a time.
        Two exceptions: a scheduler of Ray's own compares those that run at the same time, and a searcher that learns
        makes as many suggestions from what it knows as run at a time, when these are more than 4. None for another
        search each time.
    max_concurrent
        Trials at a time; as many as the cluster has CPUs for when omitted.
    time_budget_s
        After so many seconds the trials are stopped; those that ran all their folds count.
    search
        None for random and grid search, "optuna", or a searcher of `ray.tune.search`.
    scheduler
        None to run every fold of every trial; "asha", "hyperband" or "median" to stop bad trials after a fold or two
        (see `rayline.tune.race`); or a scheduler of `ray.tune.schedulers`.
    name
        Keeps the score of every fold under this name in the user's cache directory (RAYLINE_CACHE).
    resume
        Take from there what was computed before, on the same rows, split, stages, parameters and versions.
    callbacks
        `rayline.train.Callback`s, of which `on_start`, `on_trial` and `on_end` are called, here on the driver: trackers
        (`train.MLflow`, …) write the run, and below it each trial.
    verbose
        False for no line of progress; None leaves it to the environment variable RAYLINE_QUIET.

    Returns
    -------
    Analysis
        The best configuration and its score, the refitted best model, and the table of all trials.

    Raises
    ------
    ParameterError
        On an unknown stage, stage parameter, trainer parameter, metric, searcher or scheduler.
    DataError
        When the rows cannot be divided as asked, or labels are missing.
    ResourceError
        When not even one trial fits into the cluster.
    TrainingError
        When all trials fail.
    """
    started = time.perf_counter()
    with progress.line("tune", verbose) as line:
        prepared = prepare(
            trainer,
            {} if data_config is None else data_config,
            {} if config is None else config,
            metric,
            mode,
            whole("num_samples", num_samples),
            seed,
        )
        strange = [callback for callback in callbacks if not isinstance(callback, Callback)]
        if strange:
            raise ParameterError.value(WHERE, "callbacks", "objects of rayline.train.Callback", strange[0])
        n_folds = len(prepared.problem.folds)
        scheduling = searching.scheduler(scheduler, n_folds=n_folds)
        if resume and name is None:
            raise ParameterError(
                f"{WHERE}: resume=True goes by the name of a run.", "Expected name=….", 'pass name="…" in both runs.'
            )
        if time_budget_s is not None and not (isinstance(time_budget_s, (int, float)) and time_budget_s > 0):
            raise ParameterError.value(WHERE, "time_budget_s", "seconds, more than 0", time_budget_s)
        if max_concurrent is not None:
            whole("max_concurrent", max_concurrent)
        searcher = searching.searcher(search, prepared.space, seed=seed, modes=prepared.modes)
        journal = Journal() if name is None else Journal.named(name)
        problem = replace(prepared.problem, digest=prepared.digest() if name is not None else secrets.token_hex(16))
        line.now("starting")
        registry.late("ensure_ray")()
        capacity = planning.plan(trainer, max_concurrent, ray.cluster_resources())
        problem = replace(problem, n_threads=capacity.n_threads)
        prepared = replace(prepared, problem=problem)
        watched = Run(trainer, problem.target)
        book = _Book(
            journal, line, prepared, _total(search, prepared.space, num_samples), time_budget_s,
            callbacks, watched,
        )  # fmt: skip
        try:
            for callback in callbacks:
                callback.on_start(watched)
            _run_trials(
                prepared,
                capacity,
                searching.limited(searcher, capacity.concurrency),
                scheduling,
                book,
                num_samples,
                time_budget_s,
                journal.known() if resume else {},
            )
            trials = book.trials()
            refuse_failures(trials)
            analysis = Analysis(trials, prepared, journal, seconds=time.perf_counter() - started, verbose=verbose)
            watched.analysis = analysis
        finally:
            for callback in callbacks:
                callback.on_end(watched)
        line.part(analysis.summary)
        return analysis


# -- the trials -----------------------------------------------------------------------------------------------------------


def _run_trials(
    prepared: Prepared,
    capacity: planning.Capacity,
    searcher: Any,
    scheduler: Any,
    book: _Book,
    num_samples: int,
    time_budget_s: float | None,
    known: Mapping[str, Any],
) -> None:
    table, keeper = ray.put(prepared.arrow()), _keeper(prepared, capacity.concurrency)
    trainable = tune.with_parameters(
        FoldTrial,
        problem=prepared.problem,
        table=[table],
        known=dict(known),
        modes=prepared.modes,
        most_bytes=capacity.most_bytes,
        most_s=TOGETHER_S if isinstance(scheduler, FIFOScheduler) else 0.0,
        keeper=keeper,
        n_actors=capacity.concurrency,
    )
    with _quiet(), tempfile.TemporaryDirectory(prefix="rayline-tune-", ignore_cleanup_errors=True) as folder:
        tuner = tune.Tuner(
            tune.with_resources(trainable, capacity.resources),
            param_space=dict(prepared.space),
            tune_config=tune.TuneConfig(
                metric=SCORE,
                mode=prepared.mode,
                num_samples=num_samples,
                search_alg=searcher,
                scheduler=scheduler,
                time_budget_s=time_budget_s,
                reuse_actors=True,
                trial_name_creator=lambda trial: f"trial_{trial.trial_id}",
                trial_dirname_creator=lambda trial: f"trial_{trial.trial_id}",
            ),
            run_config=tune.RunConfig(
                name="run",
                storage_path=folder,
                verbose=0,
                callbacks=[book],
                failure_config=tune.FailureConfig(max_failures=DEATHS),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        try:
            tuner.fit()
        except tune.TuneError as error:
            raise TrainingError(
                f"{WHERE}: Ray Tune failed: {str(error).strip().splitlines()[-1]}",
                "Expected it to run the trials.",
                "a searcher or scheduler of your own may not fit this space; Ray's error stands above this one.",
            ) from error
        finally:
            if keeper is not None:
                ray.kill(keeper)  # Ray Tune keeps what trials were given, and the actor with it


def _keeper(prepared: Prepared, n_actors: int) -> Any:
    """The keeper of what trials share, where there is enough of it and there are several to share it."""
    stages = prepared.problem.preprocessor
    worth = stages is not None and bool(stages.leaves) and prepared.table.estimated_size() >= shelf.LEAST_BYTES
    return shelf.start() if worth and n_actors > 1 else None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Ray Tune writes neither tables nor logs nor result files meanwhile."""
    ours = {
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    }
    before = {key: os.environ.get(key) for key in ours}
    loggers = [logging.getLogger(name) for name in ("ray.tune", "ray.train", "ray.air")]
    levels = [logger.level for logger in loggers]
    os.environ.update(ours)
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


@dataclass
class _Entry:
    trial: Trial
    started: float
    folds: dict[int, FoldScore] = field(default_factory=dict)
    over: bool = False


class _Book(tune.Callback):
    """Writes down what the trials report, keeps their scores, and shows how far it is."""

    def __init__(
        self,
        journal: Journal,
        line: progress.Line,
        prepared: Prepared,
        total: int | None,
        budget_s: float | None,
        callbacks: Sequence[Callback],
        watched: Run,
    ) -> None:
        self._callbacks, self._watched = callbacks, watched
        self._journal, self._line, self._n_folds = journal, line, len(prepared.problem.folds)
        self._metric, self._mode, self._total, self._budget_s = prepared.problem.metric, prepared.mode, total, budget_s
        self._entries: dict[str, _Entry] = {}
        self._order: dict[str, int] = {}
        self._started = time.monotonic()

    def __reduce__(self) -> Any:
        """Ray pickles callbacks to go on after a crash of the driver; for that we have the journal, and a line in a
        terminal cannot be pickled."""
        return tune.Callback, ()

    def trials(self) -> list[Trial]:
        """The trials in the order of their suggestion."""
        for entry in self._entries.values():
            entry.trial.folds = [entry.folds[fold] for fold in sorted(entry.folds)]
        return sorted((entry.trial for entry in self._entries.values()), key=lambda trial: trial.number)

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._number(trials)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._number(trials)

    def _number(self, trials: Sequence[Any]) -> None:
        """Ray appends new trials to its list, but moves one that it starts again to the end."""
        for trial in trials:
            self._order.setdefault(trial.trial_id, len(self._order))

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if not self._entries:
            self._started = time.monotonic()  # what Ray took to start is no measure of what is to come
        self._entry(trials, trial)
        self._show()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        entry = self._entry(trials, trial)
        for box in result.get(BOX, []):
            if "error" in box:
                entry.trial.error = box["error"]
            else:
                score = FoldScore.from_json(box["fold"])
                entry.folds[score.fold] = score
                if "scores" in box:
                    self._journal.write(score, box["scores"])
                entry.trial.histories[score.fold] = box.get("history", [])
        result.get(BOX, []).clear()  # Ray keeps the result, and writes it down again and again
        entry.trial.seconds = time.monotonic() - entry.started
        self._show()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(self._entry(trials, trial))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        entry = self._entry(trials, trial)
        error = trial.get_error()
        entry.trial.error = entry.trial.error or (
            f"the process of the trial died {DEATHS + 1} times: {told(error) if error is not None else 'unknown reason'}"
        )
        self._end(entry)

    def _end(self, entry: _Entry) -> None:
        if not entry.over:
            entry.over = True
            self.trials()  # puts its folds in their order
            for callback in self._callbacks:
                callback.on_trial(self._watched, entry.trial)
        self._show()

    def _entry(self, trials: Sequence[Any], trial: Any) -> _Entry:
        if trial.trial_id not in self._entries:
            self._number(trials)
            made = Trial(self._order[trial.trial_id], space.to_plain(trial.config), self._n_folds)
            self._entries[trial.trial_id] = _Entry(made, time.monotonic())
        return self._entries[trial.trial_id]

    def _show(self) -> None:
        if not self._line.is_due:
            return
        moment = live.Progress(
            self.trials(),
            frozenset(entry.trial.number for entry in self._entries.values() if not entry.over),
            self._total,
            self._mode,
            self._metric,
            time.monotonic() - self._started,
            self._budget_s,
        )
        self._line.now(moment.line, lambda: live.table(moment))


def _total(search: Any, config: Mapping[str, Any], num_samples: int) -> int | None:
    return space.n_trials(config, num_samples) if search is None or isinstance(search, str) else None


def refuse_failures(trials: Sequence[Trial]) -> None:
    """Raise when no trial can be the best."""
    if any(trial.is_eligible for trial in trials):
        return
    failed = [trial for trial in trials if trial.status is Status.FAILED]
    if failed:
        reasons = list(dict.fromkeys(trial.error for trial in failed))
        raise TrainingError(
            f"{WHERE}: {'all' if len(failed) == len(trials) else 'all finished'} {len(failed)} trials failed; the first with "
            f"{failed[0].config}: {reasons[0]}",
            f"Expected at least one trial to run all its folds; there were {len(reasons)} different reasons.",
            "correct the search space or the data; the error above is that of the trial.",
        )
    raise TrainingError(
        f"{WHERE}: no trial ran all its folds.",
        f"Expected at least one; {len(trials) or 'none'} had begun when the time was over.",
        "allow more time.",
    )

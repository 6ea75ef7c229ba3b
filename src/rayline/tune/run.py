"""`tune.run`: check the arguments on the driver, then let an executor run the trials."""

from __future__ import annotations

import secrets
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

from rayline.core.arguments import known_arguments
from rayline.core.data_types import Column, Data, Features, Labels, MetricLike, Mode, PosLabel, Seconds
from rayline.core.errors import TrainingError, at, counted
from rayline.data.split.splitters import FoldsLike
from rayline.inference.pipeline import Preprocessor
from rayline.postprocess.base import PostprocessingStage
from rayline.train import progress
from rayline.train.callback_errors import ended_callbacks, named_errors
from rayline.train.callbacks import Callback, Run
from rayline.train.trainer import Trainer
from rayline.tune import search as searching
from rayline.tune.analysis import Analysis
from rayline.tune.drivers import prepare
from rayline.tune.executor import TrialExecutor, on_ray
from rayline.tune.interruption import Interruption
from rayline.tune.options import OnInterrupt, RunOn, SearchOptions, SearchRequest
from rayline.tune.pbt import population as populations
from rayline.tune.pbt.population import Population
from rayline.tune.process_executor import ProcessExecutor
from rayline.tune.result_store import ResultStore
from rayline.tune.search import SchedulerLike, SearchLike
from rayline.tune.search_problem import WHERE
from rayline.tune.trial_log import TrialLog
from rayline.tune.trial_record import Status, Trial
from rayline.tune.trial_search import Search
from rayline.tune.tune_data import SearchDataArguments


@known_arguments
@at(WHERE)
def run(
    trainer: Trainer,
    data_config: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    metric: MetricLike | Sequence[MetricLike] | None = None,
    mode: Mode | Sequence[Mode | None] | None = None,
    num_samples: int | None = None,
    *,
    preprocessor: Preprocessor | None = None,
    train_dataset: Data | None = None,
    test_dataset: Data | None = None,
    target_columns: Sequence[str] | str | None = None,
    X: Features | None = None,  # noqa: N803  # the field's name for it
    y: Labels | None = None,
    X_test: Features | None = None,  # noqa: N803
    y_test: Labels | None = None,
    sample_weight: Column | None = None,
    group: Column | None = None,
    event: Column | None = None,
    cv: FoldsLike | None = None,
    groups: str | None = None,
    stratify: str | bool | None = None,
    time: str | None = None,
    pos_label: PosLabel | None = None,
    seed: int | None = 0,
    max_concurrent: int | None = None,
    use_gpu: bool | None = None,
    resources_per_trial: Mapping[str, float] | None = None,
    time_budget_s: Seconds | None = None,
    search: SearchLike | None = None,
    scheduler: SchedulerLike | None = None,
    name: str | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    verbose: bool | None = None,
    on_interrupt: OnInterrupt = "raise",
    run_on: RunOn | None = None,
    timeout_s: Seconds | None = None,
    storage_path: str | Path | None = None,
    postprocess: Sequence[PostprocessingStage] | None = None,
) -> Analysis:
    """Search parameters of a trainer and of the stages before it, by cross validation or on a test set.

    Every trial fits the stages on the training slice of each fold, trains, and scores the held-out rows, which influence
    no fit. One exception: with the framework's early stopping (`early_stopping_rounds=`) the held-out rows of a
    fold decide when its training stops, and the score is slightly optimistic.

    Parameters
    ----------
    trainer
        The framework and its arguments; the tuned parameters are replaced in copies of it.
    data_config
        The arguments from `preprocessor` to `time` as one dict, in place of keywords (the key `train_pipeline` is another
        name of `preprocessor`); useful where several searches share them. No argument may be given both ways.
    config
        The search space: names of the trainer's parameters, under "preprocessor" the stages and their parameters, and under
        "postprocess" those of the stages after the model by their classes (`{"Calibrate": {"method": tune.choice([…])}}`),
        to `tune.uniform(…)` and the like, `tune.grid_search([…])`, or constants.
    metric
        A name of `rayline.evaluate.metrics`, one that the framework reports, a function `(y_true, y_pred)` or a scorer of
        scikit-learn. Log loss or RMSE when omitted. With several metrics, "optuna" searches the trade-off between all
        (`Analysis.pareto`), and the first one defines the best trial.
    mode
        "min" or "max", for each metric; not needed for metrics known by name and for scorers.
    num_samples
        The number of configurations, 10 when omitted. A grid is repeated this many times; a space of grids only runs once
        when omitted.
    preprocessor
        A Preprocessor, fitted or not: it is refitted on the training slice of every fold. None for no stages.
    train_dataset, test_dataset, target_columns
        As in `train.fit`. Without `cv`, the test set is held out; with both, the folds choose the configuration and the test
        set only measures the final model. Leave them out for a framework that generates its own data (RLlib).
    X, y, X_test, y_test
        As in `train.fit`, in place of the datasets.
    sample_weight
        The column with the weights of the rows (with X and y also an array), used in fit and metric.
    group, event
        The column of groups of a ranking, and the column of observed events of survival times, as in `train.fit`. Folds keep the
        groups of a ranking whole.
    cv
        The number of folds, or a splitter of `rayline.data`. For a framework that generates its own data: how often each
        configuration is trained, each time with another seed.
    groups, stratify, time
        With `cv` a number: the column that the folds are made by (`stratify=True` for the target). At most one of them.
    pos_label
        The positive class, as the trainer's, for this search.
    seed
        The same seed gives the same configurations and scores, and stops the same trials, for any number of concurrent trials.
        Two exceptions: a scheduler of Ray compares trials that run at the same time, and a searcher that learns
        suggests as many configurations at once as there are concurrent trials, if these are more than 4. None for
        another search each time.
    max_concurrent
        The number of concurrent trials; when omitted, as many as the CPUs of the machine or the cluster allow. A framework whose training is not
        thread-safe runs one at a time in this process.
    use_gpu, resources_per_trial
        In place of the trainer's `use_gpu` and `resources_per_worker`, for this search. `resources_per_trial={"GPU": 0.25}` runs four
        trials on a GPU at a time; they share its memory.
    time_budget_s
        The trials are stopped after this many seconds; those that ran all their folds count.
    search
        None for random and grid search, "optuna", or a searcher of `ray.tune.search`.
    scheduler
        None to run every fold of every trial; "asha", "hyperband" or "median" to stop bad trials after a fold or two
        (see `rayline.tune.fold_racing`); "pbt" or a `tune.Population` to change parameters while models are trained (see
        `rayline.tune.pbt.population`); or a scheduler of `ray.tune.schedulers`.
    name
        Keeps the score of every fold under this name in the user's cache directory (RAYLINE_CACHE).
    resume
        Reuse the stored scores of the same rows, split, stages, parameters and versions.
    callbacks
        `rayline.train.Callback`s, of which `on_start`, `on_trial` and `on_end` are called, here on the driver: trackers
        (`train.MLflow`, …) write the run, and below it each trial.
    verbose
        False for no progress line; None lets the environment variable RAYLINE_QUIET decide.
    on_interrupt
        What Ctrl-C does: "raise" KeyboardInterrupt, or "return" the analysis of the finished trials, with `interrupted` set.
        In both cases no trial keeps running, and with `name=` every finished fold is stored for `resume=True`.
    run_on
        Where the trials run: "process" for threads of this process, "ray" for actors of Ray. When omitted, a search over a
        table runs in this process, and one over a Dataset, with `num_workers`, on several GPUs or where a Ray is connected
        runs on Ray. The scores are the same, to the bit.
    timeout_s
        On Ray: the time to wait for the first trial to start; unlimited when omitted. After 5 seconds a message says what the
        search is waiting for.
    storage_path
        A directory, or a URL that Arrow or fsspec opens (`s3://…`), under which a search with a name keeps its scores, in place of
        the cache directory.
    postprocess
        Stages of `rayline.postprocess` after the model. The score is that of the predictions after them: the rows that a fold
        holds out are divided into five parts, and the stages for each part are learned from the other parts. The pipelines of
        the analysis carry them, learned from all held-out predictions.

    Returns
    -------
    Analysis
        The best configuration and its score, the refitted best model, and the table of all trials.

    Raises
    ------
    ParameterError
        On an unknown stage, stage parameter, trainer parameter, metric, searcher or scheduler, and on an argument that is
        given both by keyword and in `data_config`.
    DataError
        When the rows cannot be split as required, or labels are missing.
    ResourceError
        When not even one trial fits into the machine or the cluster, or none starts within `timeout_s`.
    TrainingError
        When all trials fail.
    KeyboardInterrupt
        On Ctrl-C, unless `on_interrupt="return"` and a trial is finished.

    Examples
    --------
    >>> from rayline import train, tune
    >>> analysis = tune.run(  # doctest: +SKIP
    ...     train.XGBoostTrainer({"objective": "binary:logistic"}, num_boost_round=100),
    ...     preprocessor=preprocessor,
    ...     train_dataset=ds,
    ...     target_columns=["late"],
    ...     cv=5,
    ...     config={"max_depth": tune.randint(3, 10), "preprocessor": {"impute": {"strategy": tune.choice(["mean", "median"])}}},
    ...     metric="roc_auc",
    ...     num_samples=20,
    ... )
    >>> analysis.best_config, analysis.best_inference_pipeline  # doctest: +SKIP
    """
    options = SearchOptions(
        metric, mode, num_samples, seed=seed, max_concurrent=max_concurrent, time_budget_s=time_budget_s, search=search,
        scheduler=scheduler, name=name, resume=resume, callbacks=callbacks, verbose=verbose, pos_label=pos_label,
        on_interrupt=on_interrupt, run_on=run_on, timeout_s=timeout_s, storage_path=storage_path, postprocess=postprocess,
    )  # fmt: skip
    if isinstance(trainer, Trainer):
        trainer = trainer.with_resources(use_gpu, resources_per_trial)
    started = perf_counter()
    with progress.line("tune", verbose) as line:
        checked_search = checked(SearchRequest(trainer, SearchDataArguments(
            train_dataset, test_dataset, target_columns, X, y, X_test, y_test, sample_weight, group, event,
            preprocessor=preprocessor, cv=cv, groups=groups, stratify=stratify, time=time,
        ), {} if config is None else config, options, data_config=data_config))  # fmt: skip
        return run_search(checked_search, line, started)


@at(WHERE)
def checked(request: SearchRequest) -> Search:
    """Check everything that can be checked without a cluster, and return the search. Raises as `run`."""
    prepared, options = prepare(request), request.options
    scheduler = searching.scheduler(options.scheduler, n_folds=len(prepared.problem.folds))
    if isinstance(scheduler, Population):
        populations.check(prepared.problem, prepared.space, search=options.search)
    suggester = searching.suggester(
        options.search, prepared.space, num_samples=prepared.num_samples, seed=options.seed, modes=prepared.modes
    )
    return Search(
        prepared,
        options,
        suggester,
        scheduler,
        ResultStore() if options.name is None else ResultStore.named(options.name, options.storage_path),
        on_ray(prepared, options),
    )


@at(WHERE)
def run_search(search: Search, line: progress.ProgressLine, started: float) -> Analysis:
    """Run the trials, and show the progress on this line. Raises ResourceError and TrainingError as `run`."""
    options, problem = search.options, search.prepared.problem
    digest = search.prepared.digest() if options.name is not None else secrets.token_hex(16)
    line.now("starting")
    executor = _executor(search)
    # Trackers read histories, and an incomplete analysis is not computed again.
    is_read = bool(options.callbacks) or isinstance(search.scheduler, Population)
    problem = replace(problem, digest=digest, n_threads=executor.capacity.n_threads, log_train_metrics=is_read)
    search = replace(search, prepared=replace(search.prepared, problem=problem))
    training_run = Run(problem.trainer, problem.target)
    with ended_callbacks(options.callbacks, training_run):
        for callback in options.callbacks:
            with named_errors(callback):
                callback.on_start(training_run)
        trials, interruption = _trials(search, executor, line, training_run)
        _raise_interruption(interruption, trials, options)
        refuse_failures(trials)
        analysis = Analysis(
            trials, search.prepared, search.store, seconds=perf_counter() - started, verbose=options.verbose,
            interrupted=interruption.signal is not None,
        )  # fmt: skip
        training_run.analysis = analysis
    line.part(analysis.summary)
    return analysis


def _executor(search: Search) -> TrialExecutor:
    if not search.is_on_ray:
        return ProcessExecutor(search.prepared, search.options.max_concurrent)
    from rayline.tune.ray_executor import RayExecutor  # it imports Ray

    return RayExecutor(search.prepared, search.options.max_concurrent)


def _trials(
    search: Search, executor: TrialExecutor, line: progress.ProgressLine, training_run: Run
) -> tuple[list[Trial], Interruption]:
    """Run the trials, and return them and what interrupted them."""
    if isinstance(search.scheduler, Population):
        from rayline.tune.pbt.runner import PopulationRun  # other searches do not wait for it

        with executor.population(search.prepared) as workers:
            generations = PopulationRun(search, search.scheduler, line, training_run)
            return generations.run(workers), generations.interruption
    log = TrialLog(search.store, line, search.prepared, search.suggester.total, search.options, training_run)
    executor.run(search, log)
    return log.trials(), log.interruption


def _raise_interruption(interruption: Interruption, trials: Sequence[Trial], options: SearchOptions) -> None:
    """Raise the interruption again, unless the finished trials are to be returned."""
    returns = options.on_interrupt == "return" and interruption.signal == signal.SIGINT
    if interruption.signal is not None and not (returns and any(trial.is_eligible for trial in trials)):
        interruption.raise_again(_interrupted(trials, options))


def _interrupted(trials: Sequence[Trial], options: SearchOptions) -> str:
    finished = sum(trial.is_eligible for trial in trials)
    if options.name is None:
        kept = 'what they found is lost: name="…" would keep it, on_interrupt="return" would return it.'
    else:
        kept = f"every finished fold is kept: name={options.name!r}, resume=True continues from there."
    return f"{WHERE}: interrupted when {finished} of {len(trials)} trials were finished; {kept}"


def refuse_failures(trials: Sequence[Trial]) -> None:
    """Raise when no trial can be the best."""
    if any(trial.is_eligible for trial in trials):
        return
    failed = [trial for trial in trials if trial.status is Status.FAILED]
    if failed:
        reasons = list(dict.fromkeys(trial.error for trial in failed))
        raise TrainingError.here(
            f"{'all' if len(failed) == len(trials) else 'all finished'} {counted(len(failed), 'trial')} failed; the first with "
            f"{failed[0].config}: {reasons[0]}",
            f"Expected at least one trial to run all its folds; there {'were' if len(reasons) > 1 else 'was'} "
            f"{counted(len(reasons), 'reason')}.",
            "correct the search space or the data; the error above is that of the trial.",
        )
    raise TrainingError.here(
        "no trial ran all its folds.",
        f"Expected at least one; {len(trials) or 'none'} had begun when the time was over.",
        "allow more time.",
    )

"""The result of a tuning run: the table of trials, the best configuration, and the model and pipeline trained with it."""

from __future__ import annotations

import copy
import html
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np
import polars as pl

from rayline import device
from rayline.core import registry
from rayline.core.arguments import integer, known_arguments
from rayline.core.data_types import Axes
from rayline.core.errors import ParameterError, at, counted
from rayline.data.split.holdout import Holdout
from rayline.inference import calibration
from rayline.inference.ensemble import combine
from rayline.inference.model import Model
from rayline.inference.pipeline import InferencePipeline, Preprocessor
from rayline.inference.svg_plots import number
from rayline.postprocess import chain
from rayline.postprocess.base import PostprocessingStage
from rayline.postprocess.chain import Stages
from rayline.train import progress
from rayline.train.fit import fit
from rayline.train.result import Result
from rayline.train.trainer import Trainer
from rayline.tune import ensemble as ensembles
from rayline.tune import plots, space, tables, trial_record
from rayline.tune.drivers import search_driver
from rayline.tune.evaluate import History
from rayline.tune.held_out import HeldOutFolds, TableHeldOut
from rayline.tune.importance import importance
from rayline.tune.plots import PlotKind
from rayline.tune.result_store import Array, ResultStore
from rayline.tune.row_groups import RowGroups
from rayline.tune.search_driver import PreparedSearch
from rayline.tune.search_problem import SearchProblem
from rayline.tune.trial_record import Status, Trial

SHOWN = 5
"""The number of trials shown in the repr."""


def _histories(rows: RowGroups, problem: SearchProblem, config: Any, folds: Sequence[int]) -> dict[int, History]:
    evaluator = search_driver(problem.trainer).evaluator(problem, rows, in_pieces=not rows.is_here)
    candidate = problem.candidate(config)
    return {fold: evaluator.history(candidate, fold) for fold in folds}


@known_arguments
class Analysis:
    """The outcome of `tune.run`.

    The best model is trained on the whole training set when it is first accessed, and kept.

    Attributes
    ----------
    trials
        All trials in the order of their suggestion (see `rayline.tune.trial_record.Trial`).
    metric, mode
        The metric that was optimised, and whether it was minimised ("min") or maximised ("max").
    seconds
        How many seconds the run took.
    interrupted
        Whether the user interrupted the run before all trials were finished.

    Examples
    --------
    >>> analysis = tune.run(trainer, data_config=data_config, config=config)  # doctest: +SKIP
    >>> analysis.best_score, analysis.best_config  # doctest: +SKIP
    >>> analysis.best_inference_pipeline.save("late.rayline")  # doctest: +SKIP
    """

    def __init__(
        self,
        trials: Sequence[Trial],
        prepared: PreparedSearch,
        store: ResultStore,
        *,
        seconds: float,
        verbose: bool | None = None,
        interrupted: bool = False,
    ) -> None:
        self.trials, self._prepared, self._store = list(trials), prepared, store
        self.seconds, self._verbose, self.interrupted = seconds, verbose, interrupted
        self.metric, self.mode = prepared.problem.metric, prepared.mode

    # -- scores ----------------------------------------------------------------------------------------------------

    @cached_property
    def results(self) -> pl.DataFrame:
        """One row for each trial: `trial`, `status`, `score` (the mean over the folds), `standard_error`, one
        `score/<metric>` and one `standard_error/<metric>` for each further metric, one `fold_<i>` each, `seconds`, `fit_s`, `predict_s`, `error`, and
        one `config/<parameter>` each."""
        return trial_record.trial_table(self.trials, self._prepared.problem.others)

    @cached_property
    def best_trial(self) -> Trial:
        """The trial with the best mean among those that ran all their folds; the earliest of several."""
        trial = trial_record.best(self.trials, self.mode)
        assert trial is not None  # a search without such a trial raises
        return trial

    @property
    def best_config(self) -> dict[str, Any]:
        """The parameters of the best trial, as nested as the search space."""
        return self.best_trial.config

    @property
    def best_score(self) -> float:
        """The best mean over the folds. It is slightly optimistic, as the maximum of many scores: measure the final model on a test set."""
        return self.best_trial.score

    @property
    def best_standard_error(self) -> float:
        """The standard error of `best_score`; NaN with one fold."""
        return self.best_trial.standard_error

    @property
    def pareto(self) -> list[Trial]:
        """The Pareto-optimal trials of several metrics: no other trial is better in all of them. The best score comes first."""
        return trial_record.pareto(self.trials, self._prepared.modes)

    @property
    def fits(self) -> dict[str, int]:
        """The number of trainings, and the number of trainings avoided by early stopping and by reusing scores of an
        earlier run or an earlier trial with the same parameters."""
        every = [fold for trial in self.trials for fold in trial.folds]
        reused = sum(fold.reused for fold in every)
        stopped = sum(t.n_folds - len(t.folds) for t in self.trials if t.status is Status.STOPPED)
        return {"trained": len(every) - reused, "stopped": stopped, "reused": reused}

    def importance(self) -> dict[str, float]:
        """Return the share of the differences between trials that each tuned parameter explains; the shares add up to 1.

        Returns
        -------
        dict
            A share by parameter, the largest first; they add up to 1.

        Raises
        ------
        DataError
            When fewer than 8 trials have a score.
        """
        return importance(self.trials)

    def learning_curves(self, trial: int | None = None) -> pl.DataFrame:
        """Return the metrics that the framework reports in each iteration of each fold of a trial (default: the best trial).

        A search skips these evaluations, which take a fifth of its time, unless it has callbacks or
        early stopping, or optimizes a metric that only the framework computes. When they were skipped, the folds are trained again here.

        Parameters
        ----------
        trial
            The number of the trial; the best one when omitted.

        Returns
        -------
        polars.DataFrame
            One row for each fold and iteration: `fold`, `iteration` (counted from 0) and the framework's metrics, of the
            training rows ("train-…") and the held-out ones ("test-…"). Empty for a framework without iterations.

        Raises
        ------
        ParameterError
            When there is no such trial.
        """
        chosen = self._trial(trial)
        unseen = [fold.fold for fold in chosen.folds if not chosen.histories.get(fold.fold)]
        if unseen and not chosen.parts and search_driver(self._prepared.problem.trainer).has_rows:
            problem = replace(self._prepared.problem, log_train_metrics=True)
            chosen.histories |= self._folds.call(_histories, problem, chosen.config, unseen)
        rows = [{"fold": fold, **row} for fold, rows in sorted(chosen.histories.items()) for row in rows]
        schema = {"fold": pl.Int64, "iteration": pl.Int64}
        return (
            pl.DataFrame(rows, schema_overrides=schema, infer_schema_length=None)
            if rows
            else pl.DataFrame(schema=schema)
        )

    def plot(self, kind: PlotKind = "history", ax: Axes | None = None) -> Any:
        """Draw a plot on a Matplotlib axis, and return the axis.

        Parameters
        ----------
        kind
            "history" (scores in the order of the trials, and the best so far), "slices" (score against each tuned
            parameter), "parallel" (parallel coordinates), "importance", or "learning" (the `learning_curves` of the best
            trial).
        ax
            The axis to draw on; a new one when omitted. "slices" draws on a figure of its own and returns its axes.

        Returns
        -------
        matplotlib.axes.Axes
            The axis; of "slices" an array of them.

        Raises
        ------
        MissingExtraError
            Without Matplotlib.
        """
        if kind == "learning":
            self.learning_curves()
        return plots.plot(kind, self.trials, metric=self.metric, mode=self.mode, ax=ax)

    # -- the best model --------------------------------------------------------------------------------------------

    @cached_property
    def best_result(self) -> Result:
        """The result of `train.fit` with the best configuration on the whole training set.

        With early stopping and no test set, it trains for the mean number of iterations of the folds where the framework
        has such a parameter, and holds out a tenth of the rows otherwise.
        """
        return self.refit(self.best_trial)

    @property
    def best_model(self) -> Model:
        """The model of `best_result`."""
        return self.best_result.model

    @property
    def best_pipeline(self) -> Preprocessor:
        """The fitted preprocessor of `best_result`."""
        return self.best_result.preprocessor

    @property
    def best_inference_pipeline(self) -> InferencePipeline:
        """Preprocessor and model of `best_result`: raw rows in, decoded predictions out."""
        return self.best_result.inference_pipeline

    @property
    def best_trainer(self) -> Trainer:
        """The trainer with the best configuration, or with the best schedule of configurations."""
        return self._trainer(self.best_trial)

    def _trainer(self, trial: Trial) -> Trainer:
        problem = self._prepared.problem
        trainer = copy.copy(problem.trainer_of(trial.config))
        trainer.seed = trainer.seed if trainer.seed is not None else problem.seed
        if not trial.parts:
            return trainer
        return trainer.scheduled([(part.until, space.split_space(part.config).trainer) for part in trial.parts])

    def schedule(self, trial: int | None = None) -> pl.DataFrame:
        """Return the parameters of a trial over its iterations.

        Parameters
        ----------
        trial
            The number of the trial; the best one when omitted.

        Returns
        -------
        polars.DataFrame
            One row for each part of the training: `until` (the iterations after it, in all; null where parameters stay the same
            to the end), `trial` (which one trained it), and one `config/<parameter>` each.

        Raises
        ------
        ParameterError
            When there is no such trial.
        """
        chosen = self._trial(trial)
        return trial_record.schedule(chosen)

    def refit(self, trial: Trial | int) -> Result:
        """Train with the configuration of a trial on the whole training set.

        Parameters
        ----------
        trial
            A trial or its number.

        Returns
        -------
        Result
            Its metrics and those of its model have the trial's cross-validated scores too: `cv-<metric>`, the mean over the
            folds, and `cv_standard_error-<metric>`. As those of the best of many they are slightly optimistic.

        Raises
        ------
        ParameterError
            When there is no such trial.
        TrainingError, ResourceError
            As `train.fit`.
        """
        chosen = self._trial(trial)
        result = self._refitted(chosen)
        if not self._prepared.material.by_test_set:  # there the score is that on the test set, which the fit measures
            by_metric = zip(self.metrics, chosen.means, chosen.standard_errors, strict=True)
            for name, mean, error in by_metric:
                scores = {f"cv-{name}": mean, f"cv_standard_error-{name}": error}
                known = {key: value for key, value in scores.items() if value == value}
                result.metrics.update(known)
                result.model.metrics.update(known)
        if not self._prepared.problem.postprocess:
            return result
        stages = self._prepared.problem.postprocess_of(chosen.config)
        return replace(result, inference_pipeline=self._with_stages(chosen, stages, lambda: result.inference_pipeline))

    def _result(self, trial: Trial) -> Result:
        """Return the result of a trial on the whole training set; that of the best trial is kept."""
        return self.best_result if trial is self.best_trial else self.refit(trial)

    def _refitted(self, chosen: Trial) -> Result:
        trainer = self._trainer(chosen)
        driver = search_driver(trainer)
        return driver.refit(trainer, lambda: self._refitted_on_rows(chosen, trainer), verbose=self._verbose)

    def _refitted_on_rows(self, chosen: Trial, trainer: Trainer) -> Result:
        inputs = self._prepared.inputs
        trainer = self._placed(trainer)
        train, test = inputs.train, inputs.test
        if test is None and (lacking := trainer.adapter.validation_argument(*trainer.args, **trainer.kwargs)):
            counted = [fold.iterations for fold in chosen.folds if fold.iterations]
            name = trainer.adapter.iterations
            if name and counted:
                trainer = trainer.replace({lacking: None, name: max(1, round(sum(counted) / len(counted)))})
            else:
                held = Holdout(0.1, group=inputs.roles.paired("group"))
                train, test = next(held.split(inputs.train))
        return self._fit(trainer, chosen, train, test, metrics=self._metrics, verbose=self._verbose)

    def _placed(self, trainer: Trainer) -> Trainer:
        """Return a trainer that trains on a worker if the rows or the GPU are not on this machine: the rows of a Dataset do not pass through this
        process, and the GPU may belong to another node."""
        needs_workers = not self._prepared.groups.is_here or (trainer.wants_gpu and not device.visible())
        if not needs_workers or trainer.num_workers is not None:
            return trainer
        return trainer.scaled(replace(trainer.scaling, num_workers=1))

    def _fit(self, trainer: Trainer, trial: Trial, train: Any, test: Any, **options: Any) -> Result:
        """Train with the trial's preprocessor on rows with the same column roles as those of the search."""
        problem, inputs = self._prepared.problem, self._prepared.inputs
        return fit(
            trainer,
            problem.preprocessor_of(trial.config),
            train,
            test,
            list(inputs.roles.labels),
            sample_weight=inputs.roles.weight,
            group=inputs.roles.paired("group"),
            event=inputs.roles.paired("event"),
            **options,
        )

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of all metrics; the first one is the score."""
        return self._prepared.problem.metrics

    @property
    def _metrics(self) -> Sequence[str] | None:
        """The metrics of a refit: the trainer's and those of the search."""
        problem = self._prepared.problem
        wanted, computed = problem.trainer.metrics, tuple(name for name in self.metrics if problem.computes(name))
        if wanted is None:
            return computed or None
        return (*wanted, *(name for name in computed if name not in wanted))

    def ensemble(self, top: int = 10) -> InferencePipeline:
        """Return a weighted ensemble of the best trials as one inference pipeline, which predicts, saves and deploys like any other.

        Greedy selection with replacement (Caruana and others, 2004) on the held-out predictions decides which of the
        best trials take part and with what weight; these are then trained on the whole training set. The model's
        metric `oof-<metric>` is measured on the held-out predictions that the weights were chosen by, so it is slightly
        optimistic.

        Parameters
        ----------
        top
            How many of the best trials are candidates.

        Returns
        -------
        InferencePipeline
            Its model is the weighted mean of the chosen ones.

        Raises
        ------
        ParameterError
            When the metric is one that only the framework computes, or a model gives no probabilities.
        """
        problem = self._prepared.problem
        ensembles.check(self.metric, problem.custom)
        with at("Analysis"):
            top = integer("top", top)
        able = trial_record.ranked(self.trials, self.mode)[:top]
        chosen = ensembles.select(self._folds.mixtures([self._scores(t, mapped=True) for t in able]), self.mode)
        members = [self._result(able[i]) for i in chosen.counts]
        weights = list(chosen.counts.values())
        metrics = {f"oof-{self.metric}": chosen.score}
        return combine([_without_stages(m) for m in members], weights, metrics=metrics)

    def bagged_pipeline(self, trial: Trial | int | None = None) -> InferencePipeline:
        """Return the models of all folds as one inference pipeline, which averages their scores.

        Each model was trained on all folds but one. They are trained again here, because a search does not store models. The metric
        `cv-<metric>` is that of the single models on their held-out rows; the averaged model is usually slightly better.

        Parameters
        ----------
        trial
            The trial to take; the best one when omitted.

        Returns
        -------
        InferencePipeline
            Each model comes with the stages that were fitted on its fold's training rows.

        Raises
        ------
        ParameterError
            When a model gives no probabilities, and when the folds' training rows do not have the same classes.

        Examples
        --------
        >>> pipeline = analysis.bagged_pipeline()  # doctest: +SKIP
        >>> pipeline.save("bagged.rayline")  # doctest: +SKIP
        """
        chosen = self._trial(trial)
        self._scores(chosen, mapped=True)  # raises for a trial without all folds, and for a framework without rows
        members = self._fold_pipelines(chosen)
        return combine(members, [1.0] * len(members), metrics={f"cv-{self.metric}": chosen.score})

    def stacked_pipeline(self, trainer: Trainer | None = None, *, top: int = 5) -> InferencePipeline:
        """Return a stack as one inference pipeline: a final model that is trained on the held-out predictions of the best trials.

        Stacked generalization (Wolpert, 1992): the features of the model on top are the scores of the best trials for rows
        that they have not seen; these trials are then trained on the whole training set. The model's metric `oof-<metric>` is that
        of the model on top on each fold, trained on the other folds.

        Parameters
        ----------
        trainer
            The trainer of the model on top; a linear one when omitted: logistic regression, or least squares with weights of
            at least 0.
        top
            How many of the best trials take part.

        Returns
        -------
        InferencePipeline
            Raw rows go through all chosen pipelines, their scores through the model on top.

        Raises
        ------
        ParameterError
            When a trial gives no probabilities, and when the trainer on top makes another task of the labels.

        Examples
        --------
        >>> from sklearn.linear_model import RidgeCV
        >>> pipeline = analysis.stacked_pipeline(train.SklearnTrainer(RidgeCV()), top=3)  # doctest: +SKIP
        """
        from rayline.inference.stack import stack
        from rayline.tune import stacking  # a search does not wait for what few ask of it

        with at("Analysis"):
            top = integer("top", top)
        chosen = trial_record.ranked(self.trials, self.mode)[:top]
        problem = self._prepared.problem
        columns, scores = problem.roles.measured_by, [self._scores(trial, mapped=True) for trial in chosen]
        rows = self._folds.of_each(scores, stacking.FinalRows(problem.target, columns), columns)
        final = stacking.FinalModel.of(trainer, problem.target, problem.roles)
        score = stacking.honest_score(final, rows, self.metric, problem.custom)
        members = [self._result(trial) for trial in chosen]
        on_top = final.fit(rows).inference_pipeline
        return stack([_without_stages(m) for m in members], on_top, metrics=score)

    def calibrated(
        self, stages: Sequence[PostprocessingStage] | None = None, *, trial: Trial | int | None = None
    ) -> InferencePipeline:
        """Return the best inference pipeline with stages after the model, learned from the existing held-out predictions.

        No model is trained for the stages: each row is predicted by the fold model that did not see it. The pipeline's own
        model is `best_result`, which is trained once when it is first accessed. An exception is Conformal(method="cv+"), which
        needs the models of all folds: they are trained again, and the pipeline predicts with their mean.

        Parameters
        ----------
        stages
            Stages of `rayline.postprocess`, in the order in which they are applied, in place of those of the search; these when
            omitted.
        trial
            The trial to take; the best one when omitted.

        Returns
        -------
        InferencePipeline
            A new one; the pipeline of `best_result` does not change.

        Raises
        ------
        ParameterError
            When a stage does not fit the target, the stages' order is wrong, or the trial did not run all its folds.
        DataError
            When the held-out rows have one class only, or there are too few of them.

        Examples
        --------
        >>> from rayline.postprocess import Calibrate, Threshold
        >>> pipeline = analysis.calibrated([Calibrate("isotonic"), Threshold("f1", pos_label="yes")])  # doctest: +SKIP
        """
        chosen = self._trial(trial)
        problem = self._prepared.problem
        if stages is None and not problem.postprocess:
            raise ParameterError(
                "Analysis.calibrated: the search had no postprocessing stages.",
                "Expected stages, such as [Calibrate()], or a search with postprocess=[…].",
                "pass them.",
            )
        if stages is None:
            return self._result(chosen).inference_pipeline
        with at("Analysis.calibrated"):
            new = chain.checked(stages, problem.target, problem.schema)
        return self._with_stages(chosen, new, lambda: self._result(chosen).inference_pipeline)

    def _with_stages(self, chosen: Trial, new: Stages, best: Callable[[], InferencePipeline]) -> InferencePipeline:
        """Return the best pipeline with only the stages that are learned from the held-out predictions of a trial."""
        problem, scores = self._prepared.problem, self._scores(chosen, mapped=True)
        groups = list(dict.fromkeys(name for stage in new for name in stage.group_columns))
        weight, framework = problem.roles.test_weight, problem.trainer.framework
        sample = calibration.HeldOutSample(problem.target.plain, weight, groups, framework)
        rows = self._folds.calibration_rows(scores, sample)
        learned = chain.learn(new, rows)
        if any(stage.needs_members for stage in learned):
            pipeline = combine(self._fold_pipelines(chosen), [1.0] * len(scores))
        else:
            pipeline = best()
        return InferencePipeline(pipeline.preprocessor, pipeline.model, learned)

    def _fold_pipelines(self, trial: Trial) -> list[InferencePipeline]:
        """Train the models of all folds of a trial again; a search does not store them."""
        problem, trainer = self._prepared.problem, self._placed(self._trainer(trial))
        has_validation_argument = bool(trainer.adapter.validation_argument(*trainer.args, **trainer.kwargs))
        pipelines = []
        for fold in range(len(problem.folds)):
            train = self._folds.training(fold)
            test = self._folds.tested(fold) if has_validation_argument else None
            pipelines.append(self._fit(trainer, trial, train, test, verbose=False).inference_pipeline)
        return pipelines

    @cached_property
    def _folds(self) -> HeldOutFolds:
        """The folds, whose rows are in this process or in the object store."""
        groups, problem = self._prepared.groups, self._prepared.problem
        if groups.is_here:
            return TableHeldOut(groups, problem)
        from rayline.tune.stored_held_out import StoredHeldOut  # it imports Ray

        return StoredHeldOut(groups, problem)

    # -- predictions of held-out rows ------------------------------------------------------------------------------

    @cached_property
    def oof(self) -> Any:
        """The held-out rows with the predictions of the best trial's fold models, in the type of the training data.

        No row was seen by the model that predicts it. Columns: those of the data, the predictions, the probabilities
        if there are any, and `fold`. The rows are ordered by fold, and within a fold as in the data; a row that is held out several
        times occurs several times. For an array `X` the result is a Polars table.
        """
        return self.predictions(self.best_trial)

    def predictions(self, trial: Trial | int) -> Any:
        """Return the same table as `oof` for any trial that ran all its folds.

        Parameters
        ----------
        trial
            A trial or its number.

        Returns
        -------
        table or Dataset
            The type of the training data, one row for each row that a fold held out.

        Raises
        ------
        ParameterError
            When there is no such trial, or it did not run all its folds.
        """
        chosen = self._trial(trial)
        return self._like(self._folds.predictions(self._scores(chosen, mapped=True)))

    def scores(self, trial: Trial | int) -> list[Array]:
        """Return the raw scores (see `Framework.predict`) of the held-out rows of each fold.

        Parameters
        ----------
        trial
            A trial or its number.

        Returns
        -------
        list of ndarray
            For each fold an array of shape (n,) or (n, outputs), in the order of its held-out rows.

        Raises
        ------
        ParameterError
            When there is no such trial, or it did not run all its folds.
        """
        return self._scores(self._trial(trial))

    def _scores(self, chosen: Trial, *, mapped: bool = False) -> list[Array]:
        trainer = self._prepared.problem.trainer
        if not search_driver(trainer).has_rows:
            raise ParameterError(
                "Analysis: there are no predictions of held-out rows.",
                f"Expected a tuning run on data; {trainer.framework} generates its own data.",
                "see results and learning_curves.",
            )
        by_fold = [self._store.scores(fold.key, mapped=mapped) for fold in chosen.folds]
        if chosen.status is not Status.FINISHED or any(scores is None for scores in by_fold):
            raise ParameterError(
                f"Analysis: trial {chosen.number} has no predictions of all held-out rows.",
                f"Expected a trial that ran all {chosen.n_folds} folds; this one is {chosen.status}.",
                "choose a finished trial.",
            )
        return [scores for scores in by_fold if scores is not None]

    def _like(self, table: Any) -> Any:
        """Return a table in the type of the training data; a Dataset as it is, and for an array a Polars table."""
        data = self._prepared.material.given
        if registry.is_dataset(table) or isinstance(data, np.ndarray):
            return table
        return registry.engine("local").map(data, lambda _: table.lazy())

    def _trial(self, trial: Any) -> Trial:
        """Return a trial by itself or by its number; the best one for None."""
        if trial is None:
            return self.best_trial
        if isinstance(trial, Trial):
            return trial
        for other in self.trials:
            if isinstance(trial, Integral) and other.number == trial:
                return other
        raise ParameterError.value("trial", f"a number from 0 to {len(self.trials) - 1}", trial, where="Analysis")

    # -- for people ------------------------------------------------------------------------------------------------

    @property
    def summary(self) -> str:
        """A summary in one line."""
        fits, best, target = self.fits, self.best_trial, self._prepared.problem.target
        scores = [
            f"{name}{target.of_class(name)} {number(mean, 5)}" + (f" ± {number(error, 2)}" if error == error else "")
            for name, mean, error in zip(self.metrics, best.means, best.standard_errors, strict=True)
        ]
        parts = [
            f"{counted(len(self.trials), 'trial')} {progress.seconds(self.seconds)}",
            f"{', '.join(scores)} (trial {best.number})",
        ]
        failed = sum(trial.status is Status.FAILED for trial in self.trials)
        saved = [
            f"{counted(n, 'fold fit')} {word}"
            for word, n in (("stopped early", fits["stopped"]), ("taken over", fits["reused"]))
            if n
        ]
        ends = [*([f"{failed} failed"] if failed else []), *(["interrupted"] if self.interrupted else [])]
        return " · ".join([*parts, *saved, *ends])

    @property
    def of_class(self) -> str:
        """Return the class that the metric measures, as a suffix of its name; empty when it does not measure a single class."""
        return self._prepared.problem.target.of_class(self.metric)

    def _top(self) -> pl.DataFrame:
        names = [
            n
            for n in self.results.columns
            if n in ("trial", "status", "score", "standard_error")
            or n.startswith(("score/", "standard_error/", "config/"))
        ]
        # A trial that was stopped early has scores of fewer folds: it is sorted after the complete ones.
        partial = pl.col("status") != str(Status.FINISHED)
        order = [partial, pl.col("score")]
        table = (
            self.results.sort(order, descending=[False, self.mode == "max"], nulls_last=True).select(names).head(SHOWN)
        )
        return tables.plain_names(table)

    @property
    def _best_config(self) -> str:
        parts = len(self.best_trial.parts)
        return f"{self.best_config}{f', the last of {parts} (see schedule)' if parts > 1 else ''}"

    def __repr__(self) -> str:
        return f"Analysis  {self.summary}\n  best config: {self._best_config}\n{tables.table_as_text(self._top())}"

    def _repr_html_(self) -> str:
        config = html.escape(self._best_config)
        return f"<p><b>Analysis</b> {html.escape(self.summary)}</p><p>best config: <code>{config}</code></p>{tables.as_html(self._top())}"


def _without_stages(result: Result) -> InferencePipeline:
    """Return a result's pipeline as a member of an ensemble: its scores, before stages after the model."""
    pipeline = result.inference_pipeline
    return InferencePipeline(pipeline.preprocessor, pipeline.model) if pipeline.postprocessing else pipeline

"""`train.cross_validate`: train on each fold's rows, and measure and predict the rows that it holds out."""

from __future__ import annotations

import copy
import html
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Unpack

import numpy as np
import polars as pl

from rayline.core import design, registry
from rayline.core.arguments import known_arguments
from rayline.core.data_types import Column, Data, Features, Labels, Metrics, PosLabel
from rayline.core.errors import ParameterError, RaylineError, at, counted
from rayline.core.evaluation import EvaluationKeywords, Report
from rayline.core.schema import Kind, kind_of
from rayline.core.scores import has_probabilities
from rayline.core.target import Target
from rayline.data.split import fold_rows
from rayline.data.split.base import Splitter
from rayline.data.split.splitters import FoldsLike, StratifiedKFold, chosen_splitter
from rayline.inference.model import Model
from rayline.inference.pipeline import InferencePipeline, Preprocessor
from rayline.inference.svg_plots import number
from rayline.preprocessing.cross_fit import FoldFitter
from rayline.preprocessing.fit_planner import FitOutcome
from rayline.train import fit_inputs, progress
from rayline.train.base_trainer import BaseTrainer
from rayline.train.callbacks import Callbacks
from rayline.train.drivers import driver_of
from rayline.train.fit import check_preprocessor, fit_rows, read_once
from rayline.train.fit_driver import FitStages
from rayline.train.fit_inputs import ColumnRoles, DataArguments, FitInputs
from rayline.train.result import Result
from rayline.train.target_inference import TargetProfiler

WHERE = "train.cross_validate"


class MeanScore(NamedTuple):
    """The mean of a metric over the folds, and the standard error of this mean (NaN of one fold)."""

    mean: float
    standard_error: float

    def __str__(self) -> str:
        return f"{number(self.mean, 5)} ± {number(self.standard_error, 2)}"


@known_arguments
@dataclass(frozen=True)
class CrossValidation:
    """The outcome of `train.cross_validate`.

    Attributes
    ----------
    results
        The result of each fold's fit (see `train.Result`); `result.metrics["test-…"]` is that of the held-out rows.

    Examples
    --------
    >>> scores = train.cross_validate(trainer, preprocessor, train_dataset=ds, target_columns=["late"], cv=5)  # doctest: +SKIP
    >>> scores.metrics["roc_auc"].mean, scores.metrics["roc_auc"].standard_error  # doctest: +SKIP
    >>> scores.folds, scores.predictions, scores.models  # doctest: +SKIP
    """

    results: Sequence[Result]
    _held: Sequence[Any]
    _inputs: FitInputs
    _given: Any

    @property
    def models(self) -> list[Model]:
        """The model of each fold."""
        return [result.model for result in self.results]

    @property
    def pipelines(self) -> list[InferencePipeline]:
        """The inference pipeline of each fold."""
        return [result.inference_pipeline for result in self.results]

    @cached_property
    def folds(self) -> pl.DataFrame:
        """One row for each fold: `fold`, each metric of the held-out rows under its name, and `fit_s`, the time of the fit."""
        rows = []
        for fold, result in enumerate(self.results):
            scores = {name.removeprefix("test-"): v for name, v in result.metrics.items() if name.startswith("test-")}
            rows.append({"fold": fold, **scores, "fit_s": result.seconds["total"]})
        return pl.DataFrame(rows, infer_schema_length=None)

    @cached_property
    def metrics(self) -> dict[str, MeanScore]:
        """Each metric of the held-out rows: the mean over the folds with its standard error, Rayline's metrics first."""
        columns = set(self.results[0].history.columns)
        names = [name for name in self.folds.columns if name not in ("fold", "fit_s")]
        names.sort(key=lambda name: f"test-{name}" in columns)
        return {name: _mean(self.folds[name].to_list()) for name in names}

    @property
    def mean(self) -> dict[str, float]:
        """The mean of each metric over the folds."""
        return {name: score.mean for name, score in self.metrics.items()}

    @property
    def standard_error(self) -> dict[str, float]:
        """The standard error of each mean."""
        return {name: score.standard_error for name, score in self.metrics.items()}

    @cached_property
    def predictions(self) -> Any:
        """The held-out rows with the predictions of the model that did not see them, in the type of the training data.

        Columns: those of the data, the predictions, the probabilities where there are some, and `fold`. The rows come fold
        after fold; a Dataset stays lazy, and the blocks of its folds alternate. Of an array `X` it is a Polars table.
        """
        parts = []
        for fold, (pipeline, rows) in enumerate(zip(self.pipelines, self._held, strict=True)):
            parts.append(registry.engine_for(rows).map(rows, HeldOutPredictions(pipeline, fold)))
        if isinstance(parts[0], pl.DataFrame):
            joined = pl.concat(parts)
            data = self._given
            is_array = data is None or not hasattr(data, "columns")
            return joined if is_array else registry.engine("local").map(data, lambda _: joined.lazy())
        return pl.concat(parts) if isinstance(parts[0], pl.LazyFrame) else parts[0].union(*parts[1:])

    def evaluate(self, **options: Unpack[EvaluationKeywords]) -> Report:
        """Return one report of all held-out rows, each predicted by the model that did not see it.

        Parameters
        ----------
        options
            Those of `InferencePipeline.evaluate`: metrics, by, sample_weight, confidence, replicates, seed.

        Returns
        -------
        Report
            Its rows are those of all folds together, which is not the mean over the folds that `metrics` has.

        Raises
        ------
        ParameterError, SchemaError, DataError
            As `InferencePipeline.evaluate`; also when a fold's training rows lack a class, so that the folds differ in their target.
        """
        options.setdefault("sample_weight", self._inputs.roles.weight)
        from rayline.evaluate.evaluation import evaluate_parts  # a dozen modules, which no other function needs

        return evaluate_parts(list(zip(self.pipelines, self._held, strict=True)), **options)

    @property
    def _about(self) -> str:
        return f"{counted(len(self.results), 'fold')} of {self.results[0].trainer!r}"

    @property
    def _rows(self) -> list[list[str]]:
        target = self.results[0].model.target
        return [
            [f"{name}{target.of_class(name)}", number(score.mean, 5), number(score.standard_error, 2)]
            for name, score in self.metrics.items()
        ]

    def __repr__(self) -> str:
        width = max((len(row[0]) for row in self._rows), default=0)
        return "\n".join(
            [f"CrossValidation  {self._about}", *(f"  {n.ljust(width)}  {m} ± {e}" for n, m, e in self._rows)]
        )

    def _repr_html_(self) -> str:
        table = design.html_table(["metric", "mean", "standard error"], self._rows, numbers=[1, 2])
        return f"<p><b>Cross validation</b> {html.escape(self._about)}</p>{table}"


@dataclass(frozen=True)
class HeldOutPredictions:
    """Add predictions, probabilities where there are some, and the number of the fold to raw rows."""

    pipeline: InferencePipeline
    fold: int

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame:
        frame = table.collect()
        return predicted(frame, self.pipeline.scores(frame.lazy()), self.pipeline.target, self.fold).lazy()


def predicted(rows: pl.DataFrame, scores: Any, target: Target, fold: int) -> pl.DataFrame:
    """Return held-out rows with their predictions, probabilities where there are some, and the number of the fold."""
    columns = [target.predictions(scores)]
    if target.task.is_classification and has_probabilities(scores):
        columns.append(target.probabilities(scores))
    added = pl.concat(columns, how="horizontal").with_columns(fold=pl.lit(fold, dtype=pl.Int64))
    return pl.concat([rows.drop(set(rows.columns) & set(added.columns)), added], how="horizontal")


@known_arguments
@at(WHERE)
def cross_validate(
    trainer: BaseTrainer,
    preprocessor: Preprocessor | None = None,
    train_dataset: Data | None = None,
    target_columns: Sequence[str] | str | None = None,
    *,
    X: Features | None = None,  # noqa: N803  # the field's name for it
    y: Labels | None = None,
    sample_weight: Column | None = None,
    group: Column | None = None,
    event: Column | None = None,
    cv: FoldsLike = 5,
    groups: str | None = None,
    stratify: str | bool | None = None,
    time: str | None = None,
    metrics: Metrics | None = None,
    pos_label: PosLabel | None = None,
    callbacks: Callbacks = (),
    verbose: bool | None = None,
) -> CrossValidation:
    """Train on each fold's rows and measure those that it holds out, without tuning.

    Each fold is a `train.fit` of its own: the stages learn from its training rows alone, those of all folds in one scan. With the framework's early
    stopping the held-out rows decide when a training stops, and the scores are slightly optimistic.

    Parameters
    ----------
    trainer
        The framework and its arguments. It does not change.
    preprocessor
        A Preprocessor, fitted or not; it does not change. None for no stages.
    train_dataset, target_columns, X, y, sample_weight, group, event, pos_label, callbacks
        As in `train.fit`. Weights also weight the metrics.
    cv
        The number of folds, or a splitter of `rayline.data`. For a table also a splitter of scikit-learn, which gives the folds that it
        gives there, or pairs of indices.
    groups, stratify, time
        With `cv` a number: the column that the folds are made by (`stratify=True` for the target). At most one of them. A splitter
        of scikit-learn gets `groups` too. A single
        target of text, booleans or categories is stratified when all are omitted; `stratify=False` turns it off.
    metrics
        As in `train.fit`.
    verbose
        False for no progress line; None lets the environment variable RAYLINE_QUIET decide.

    Returns
    -------
    CrossValidation
        `metrics` (mean ± standard error), `folds`, `predictions` of the held-out rows, `models`, and `evaluate` for a report.

    Raises
    ------
    DataError
        When the rows cannot be split as required; and the errors of `train.fit`, with the number of the fold.
    ParameterError
        For a framework that generates its own data, and on arguments that exclude each other.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline import train
    >>> table = pl.DataFrame({"x": [0.0, 1.0, 2.0, 3.0] * 25, "late": ["no", "no", "yes", "yes"] * 25})
    >>> trainer = train.XGBoostTrainer({"max_depth": 2}, num_boost_round=3, seed=1)
    >>> scores = train.cross_validate(trainer, train_dataset=table, target_columns=["late"], cv=4, metrics=["accuracy"], verbose=False)
    >>> scores.metrics["accuracy"]
    MeanScore(mean=1.0, standard_error=0.0)
    """
    if not isinstance(trainer, BaseTrainer):
        raise ParameterError.value("trainer", "a trainer, such as train.XGBoostTrainer({…})", trainer)
    check_preprocessor(preprocessor)
    if not driver_of(trainer).takes_rows:
        raise ParameterError.here(
            f"{trainer.framework} generates its own data.",
            "Expected a framework that learns from rows.",
            "call tune.run with cv=… for trainings with different seeds.",
        )
    arguments = DataArguments(
        train_dataset, target_columns=target_columns, X=X, y=y, sample_weight=sample_weight, group=group, event=event
    )
    with read_once(arguments), progress.line("cross_validate", verbose) as line:
        inputs = fit_inputs.normalise(arguments)
        results, held = [], []
        for fold, (rows, fit_stages) in enumerate(_folds(_splitter(cv, inputs, groups, stratify, time), inputs)):
            line.now(f"fold {fold + 1}")
            cloned = None if preprocessor is None else preprocessor.clone()
            try:
                with at("train.fit"):
                    result = fit_rows(
                        copy.copy(trainer), cloned, rows, callbacks=callbacks, metrics=metrics, pos_label=pos_label, verbose=False,
                        fit_stages=fit_stages,
                    )  # fmt: skip
                results.append(result)
            except RaylineError as error:
                raise error.within(f"{WHERE}: fold {fold + 1}") from error.__cause__
            held.append(rows.test_dataset)
        outcome = CrossValidation(results, held, inputs, train_dataset if train_dataset is not None else X)
        first = next(iter(outcome.metrics), None)
        line.part(counted(len(results), "fold"))
        if first is not None:
            line.part(f"{first}{results[0].model.target.of_class(first)} {outcome.metrics[first]}")
    return outcome


def _splitter(cv: FoldsLike, inputs: FitInputs, groups: Any, stratify: Any, time: Any) -> Splitter:
    """Return what divides the rows; one target of classes is stratified by unless something else is said."""
    roles = inputs.roles
    column = roles.labels[0]
    if stratify is None and groups is None and time is None and isinstance(cv, (int, np.integer)) and not roles.pair:
        is_class = kind_of(roles.schema[column]) in (Kind.CATEGORY, Kind.BOOLEAN)
        stratify = True if len(roles.labels) == 1 and is_class else None
    by = {"groups": groups, "stratify": None if stratify is False else stratify, "time": time}
    splitter = chosen_splitter(cv, ranked=roles.paired("group"), **by)
    if isinstance(splitter, StratifiedKFold) and splitter.column is None:
        splitter = StratifiedKFold(splitter.n_splits, column=column, seed=splitter.seed)
    return splitter


def _folds(splitter: Splitter, inputs: FitInputs) -> Iterator[tuple[DataArguments, FitStages]]:
    """Yield the arguments of each fold's fit, and what fits its stages: all folds' come out of one scan."""
    engine, roles = registry.engine_for(inputs.train), inputs.roles
    pair = {roles.pair: roles.targets[-1]} if roles.pair else {}
    with engine.keeping(inputs.train):
        prepared = splitter.prepare(engine, inputs.train, target_columns=roles.labels)
        data = engine.kept(inputs.train)
    for folds in prepared:
        if (group := roles.paired("group")) is not None:
            fold_rows.refuse_divided(engine, data, folds.cells, group)
        fitter = FoldFitter(
            engine,
            data,
            roles.schema,
            folds.cells,
            folds.folds,
            targets=roles.targets,
            excluded_columns=roles.excluded_columns,
            row_cells=folds.cells.row_cells,
        )
        wanted = [cells for fold in folds.folds for cells in (fold.train, fold.test)]
        rows = fold_rows.parts(engine, data, folds.cells, wanted)
        for place in range(len(folds.folds)):
            train, test = rows[2 * place : 2 * place + 2]
            fold = DataArguments(train, test, list(roles.labels), sample_weight=roles.weight, **pair)
            yield fold, _StagesOfFold(fitter, place, roles)


@dataclass(frozen=True)
class _StagesOfFold:
    """Fits a preprocessor on the training rows of a fold, from statistics that were computed for all folds."""

    fitter: FoldFitter
    place: int
    roles: ColumnRoles

    def __call__(self, fitted: Preprocessor, profiler: TargetProfiler) -> FitOutcome:
        roles = self.roles
        outcome = self.fitter.fit(
            self.place, fitted.leaves, extra_requests=profiler, target_leaves=fitted.target_stages
        )
        fitted.store_fit(outcome, roles.schema, roles.targets, roles.excluded_columns)
        return outcome


def _mean(scores: Sequence[float | None]) -> MeanScore:
    values = [math.nan if score is None else score for score in scores]
    is_spread = len(values) > 1 and all(map(math.isfinite, values))
    error = statistics.stdev(values) / math.sqrt(len(values)) if is_spread else math.nan
    return MeanScore(math.fsum(values) / len(values), error)

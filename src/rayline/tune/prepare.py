"""Check and normalize the arguments of a tuning run on the driver."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from rayline.core import registry
from rayline.core.arguments import integer
from rayline.core.errors import DataError, ParameterError, at, place
from rayline.core.framework import Rows
from rayline.core.scan import Scan
from rayline.core.schema import col
from rayline.core.target import Target
from rayline.data.split.fold_cells import CellSlice
from rayline.evaluate import metrics
from rayline.evaluate.custom_metrics import Custom
from rayline.evaluate.metric import Metric
from rayline.inference.pipeline import Preprocessor
from rayline.postprocess.chain import Stages
from rayline.preprocessing import fit_planner, schema_check
from rayline.train.fit_inputs import FitInputs
from rayline.train.fit_request import resolve
from rayline.train.trainer import Trainer
from rayline.tune import dry_run, environment_evaluation, space
from rayline.tune import result_store as journals
from rayline.tune.domains import from_ray
from rayline.tune.options import SearchRequest
from rayline.tune.postprocessing import check_stages, with_parameters
from rayline.tune.row_groups import CELL, CellColumn, RowGroups, TableGroups
from rayline.tune.search_problem import WHERE, SearchProblem
from rayline.tune.tune_data import TuneData, read


@dataclass(frozen=True)
class PreparedSearch:
    """A tuning run with checked input: the shared settings of all trials, the rows, the search space, the number of samples,
    and the direction of each metric."""

    problem: SearchProblem
    material: TuneData
    space: Mapping[str, Any]
    num_samples: int
    modes: tuple[str, ...]

    @property
    def inputs(self) -> FitInputs:
        return self.material.inputs

    @property
    def groups(self) -> RowGroups:
        """The rows and their cells."""
        return self.material.groups

    @property
    def mode(self) -> str:
        """The direction of the score."""
        return self.modes[0]

    def digest(self) -> str:
        """Return the digest of everything that scores depend on, except the configuration."""
        problem = self.problem
        adapter = problem.trainer.adapter
        groups = self.groups.summarised() if isinstance(self.groups, TableGroups) else self.groups
        digests = [summary.digest for summary in groups.summaries]
        return journals.digest(digests, problem.schema, problem.splits, problem.target.columns, problem.weight, adapter)

    def held_out(self, fold: int, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Return the held-out rows of a fold, or some of their columns, in this process."""
        engine = self.groups.engine
        return engine.collect(engine.map(self.groups, self._side(fold, columns, training=False)))

    def training(self, fold: int) -> Any:
        """Return the training rows of a fold: a table, or a Dataset if they are in the object store."""
        return self.groups.after(self._side(fold, training=True))

    def tested(self, fold: int) -> Any:
        """Return the held-out rows of a fold, in the form of `training`."""
        return self.groups.after(self._side(fold, training=False))

    def _side(self, fold: int, columns: Sequence[str] | None = None, *, training: bool) -> _Side:
        split, _, cells = self.problem.folds[fold]
        chosen = list(self.problem.schema) if columns is None else list(columns)
        return _Side(split, cells.train if training else cells.test, chosen)


@dataclass(frozen=True)
class _Side:
    """A function that selects some columns of the rows of some cells."""

    split: int
    cells: tuple[int, ...]
    columns: Sequence[str]

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame:
        return CellSlice(CellColumn(f"{CELL}{self.split}"), self.cells)(table).select(map(col, self.columns))


@at(WHERE)
def prepare(request: SearchRequest) -> PreparedSearch:
    """Check all arguments and read the rows, unless the request already has them. Raises as `run`."""
    trainer, options, config = request.trainer, request.options, from_ray(request.config)
    if not isinstance(trainer, Trainer):
        raise ParameterError.value("trainer", "a trainer such as train.XGBoostTrainer(…)", trainer)
    integer("seed", options.seed, minimum=0, optional=True)
    metric, custom = _own_functions(options.metric, trainer.custom_metrics)
    trainer = trainer.measured(pos_label=options.pos_label)
    if custom:
        trainer = copy.copy(trainer)
        trainer.custom_metrics = {**trainer.custom_metrics, **custom}
    trainer.check_gpu()
    space.refuse_elsewhere([trainer.args, trainer.kwargs])
    if trainer.phases and isinstance(config, Mapping) and (trainer_space := space.split_space(config).trainer):
        raise ParameterError.here(
            f"the trainer's parameters change during the training, and config searches {sorted(trainer_space)[0]!r}.",
            "Expected a config of stages' parameters, or a trainer without a schedule.",
            "take one of them away.",
        )
    prepare_over = _PREPARATIONS[trainer.adapter.fit_driver]
    return prepare_over(replace(request, trainer=trainer, config=config, options=replace(options, metric=metric)))


def _over_environment(request: SearchRequest) -> PreparedSearch:
    """Prepare a search of a framework that generates its own data."""
    trainer, config = request.trainer, request.config
    if request.options.postprocess is not None:
        raise ParameterError.here(
            f"{trainer.framework} generates its own data, and postprocessing stages learn from rows with labels.",
            "Expected postprocess=None.",
            "leave postprocess out.",
        )
    space.check(config, None, trainer.replace)
    problem, direction = environment_evaluation.environment_problem(request)
    groups = TableGroups([pl.DataFrame(schema=problem.schema)])
    rows = TuneData(None, FitInputs(None, None, problem.roles), groups, (), 0, weighs_test=False, by_test_set=False)
    n_samples = request.options.num_samples or space.usual_samples(config)
    return PreparedSearch(problem, rows, config, n_samples, (direction,))


def _over_rows(request: SearchRequest) -> PreparedSearch:
    """Prepare a search over rows."""
    trainer, config, options = request.trainer, request.config, request.options
    num_samples, postprocess = options.num_samples, options.postprocess
    preprocessor = request.data.preprocessor
    if preprocessor is not None:
        if not isinstance(preprocessor, Preprocessor):
            raise ParameterError.value("preprocessor", "a Preprocessor or None", preprocessor)
        preprocessor = preprocessor.clone()
    after: Stages = (
        () if postprocess is None else tuple(postprocess) if isinstance(postprocess, (list, tuple)) else (postprocess,)
    )
    space.check(
        config, preprocessor, trainer.replace, (lambda changes: with_parameters(after, changes)) if after else None
    )
    if num_samples is None:
        num_samples = space.usual_samples(config)
    if not space.tuned(config) and num_samples > 1:
        raise ParameterError.value("config", "a search space with at least one parameter, or num_samples=1", config)
    rows = read(request.data) if request.material is None else request.material
    inputs = rows.inputs
    excluded_columns = () if inputs.weight is None else (inputs.weight,)
    if preprocessor is not None:
        preprocessor.refuse_targets([*inputs.targets, *excluded_columns])
        fit_planner.FitPlan(preprocessor.leaves, inputs.schema, inputs.targets, {}, excluded_columns).run(None)
    target = _target(trainer, rows, Preprocessor() if preprocessor is None else preprocessor)
    _check_test_labels(rows, target, trainer)
    names, modes = _metrics(options.metric, options.mode, target, trainer.custom_metrics)
    stages = check_stages(postprocess, target.plain, inputs.schema)
    _refuse_foreign([name for name in names if not metrics.is_known(name, trainer.custom_metrics)], target, stages)
    problem = SearchProblem(
        trainer, preprocessor, inputs.schema, target.plain, inputs.weight, rows.weighs_test, rows.splits, names[0], options.seed,
        tuned=tuple(space.tuned_stages(config)), endless=tuple(space.endless_stages(config)), others=names[1:],
        postprocess=stages,
    )  # fmt: skip
    dry_run.check(problem, rows.groups.sample, space.typical(config))
    return PreparedSearch(problem, rows, config, num_samples, modes)


def _refuse_foreign(foreign: Sequence[str], target: Target, stages: Stages) -> None:
    """Raise ParameterError for a metric of the framework that does not measure the final predictions."""
    if target.stages and foreign:
        raise ParameterError.here(
            f"{foreign[0]!r} is measured by the framework, on the transformed target.",
            f"Expected a metric that Rayline computes on the labels' own scale, one of {metrics.names()}.",
            "choose one of these.",
        )
    if stages and foreign:
        raise ParameterError.here(
            f"{foreign[0]!r} is measured by the framework, before the postprocessing stages.",
            f"Expected a metric that Rayline computes of the final predictions, one of {metrics.names()}.",
            "choose one of these, or leave postprocess out.",
        )


_PREPARATIONS = {"table": _over_rows, "environment": _over_environment}
"""The functions that prepare a search, by the driver that the adapter names."""


def _target(trainer: Trainer, rows: TuneData, preprocessor: Preprocessor) -> Target:
    """Infer the target from all labels, after the same checks of labels and weights as in a fit."""
    inputs, groups = rows.inputs, rows.groups.first(rows.n_train)
    named = preprocessor.target_stages
    # Without stages the framework gets the features unchanged, so they can be checked here.
    columns = [*inputs.targets, *inputs.roles.excluded_columns] if preprocessor.leaves else list(inputs.schema)
    schema = pl.Schema({name: inputs.schema[name] for name in columns})
    spec, _ = resolve(
        trainer,
        inputs.roles,
        (),
        named,
        lambda requests: fit_planner.fit(
            rows.groups.engine, groups, (), schema, targets=inputs.targets, extra_requests=requests, target_leaves=named
        ),
    )
    return spec.target


def _check_test_labels(rows: TuneData, target: Target, trainer: Trainer) -> None:
    """Raise DataError when labels of the test set are missing, do not occur in training, or cannot be learned."""
    if rows.inputs.test is None:
        return
    objective = trainer.adapter.objective(*trainer.args, **trainer.kwargs)
    check = _CheckedLabels(target, {name: rows.inputs.schema[name] for name in rows.inputs.targets}, objective)
    engine: Any = rows.groups.engine
    data: Any = rows.groups
    if not rows.by_test_set:
        data = rows.inputs.test
        engine = registry.engine_for(data)
    try:
        engine.scan(engine.map(data, check), Scan([fit_planner.ROWS]))
    except DataError as error:
        raise error.within(f"{WHERE} (test data)") from error.__cause__


@dataclass(frozen=True)
class _CheckedLabels:
    """Raises DataError on labels that are missing, do not occur in training, or cannot be learned."""

    target: Target
    schema: Mapping[str, pl.DataType]
    objective: Any
    made_at: str = field(default_factory=place)

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame:
        labels = schema_check.SchemaCheck(self.schema, self.made_at)(table).select(map(col, self.schema)).collect()
        with at(f"{self.made_at} (test data)"):
            Rows.of(labels, {}, self.target).check_labels(self.objective)
        return labels.lazy()


def _own_functions(metric: Any, custom: Custom) -> tuple[Any, dict[str, Metric]]:
    """Return the names of the metrics, and the custom functions among them by name."""
    several = isinstance(metric, Mapping) or (_is_list(metric) and not isinstance(metric, str))
    callables = [m for m in metric if callable(m)] if several and not isinstance(metric, Mapping) else metric
    if not callable(metric) and not isinstance(metric, Mapping) and not (several and callables):
        return metric, {}
    names, functions = metrics.given(callables, custom)
    if several and not isinstance(metric, Mapping):
        rest = iter(names)
        return [next(rest) if callable(m) else m for m in metric], functions
    return list(names) if several else names[0], functions


def _metrics(metric: Any, mode: Any, target: Target, custom: Custom) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the metrics and their directions."""
    names = [metric] if metric is None or isinstance(metric, str) else list(metric) if _is_list(metric) else []
    modes = [mode] * len(names) if mode is None or isinstance(mode, str) else list(mode) if _is_list(mode) else []
    if not names or len(set(names)) < len(names) or not all(isinstance(n, (str, type(None))) for n in names):
        raise ParameterError.value("metric", "a name or a list of different names", metric)
    if len(modes) != len(names) or not all(m in (None, "min", "max") for m in modes):
        raise ParameterError.value("mode", "'min', 'max' or None, for each metric", mode)
    if isinstance(mode, str) and len(names) > 1:
        raise ParameterError.value("mode", f"a list of {len(names)}, one for each metric, or None", mode)
    resolved = [_metric(name, direction, target, custom) for name, direction in zip(names, modes, strict=True)]
    return tuple(name for name, _ in resolved), tuple(direction for _, direction in resolved)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence)


def _metric(metric: str | None, mode: str | None, target: Target, custom: Custom) -> tuple[str, str]:
    """Return the name of a metric and its direction."""
    if metric is None:
        metric = metrics.defaults_of(target)[0]
    if metric.startswith("train-"):
        raise ParameterError.here(
            f"{metric!r} is measured on the training rows.",
            "Expected a metric of the held-out rows.",
            f"use metric={metric.removeprefix('train-')!r}.",
        )
    if metrics.is_known(metric, custom):
        metrics.check([metric], target, custom)
    known = metrics.mode(metric, custom)
    if mode is None and known is None and metric in custom:
        raise ParameterError.here(
            f"the direction of the function {metric!r} is unknown.",
            "Expected mode.",
            "pass mode='min' or 'max'.",
        )
    if mode is None and known is None:
        raise ParameterError.unknown([metric], metrics.names(), "metric")
    if mode is not None and known is not None and mode != known:
        raise ParameterError.here(
            f"mode={mode!r} would search for the worst {metric}.",
            f"Expected {known!r}.",
            "leave mode out, or correct it.",
        )
    return metric, str(mode or known)

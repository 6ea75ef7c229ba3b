"""Searches over rows: check the arguments on the driver, read the rows, and infer the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from rayline.core import registry
from rayline.core.errors import DataError, ParameterError, at, place
from rayline.core.framework import Rows
from rayline.core.scan import Scan
from rayline.core.schema import col
from rayline.core.target import Target
from rayline.evaluate import metrics
from rayline.inference.pipeline import Preprocessor
from rayline.postprocess.chain import Stages
from rayline.preprocessing import fit_planner, schema_check
from rayline.train.fit_request import resolve
from rayline.train.trainer import Trainer
from rayline.tune import dry_run, space
from rayline.tune.evaluate import FoldEvaluator
from rayline.tune.options import SearchRequest
from rayline.tune.postprocessing import check_stages, with_parameters
from rayline.tune.search_driver import PreparedSearch, SearchDriver
from rayline.tune.search_metrics import names_and_modes
from rayline.tune.search_problem import WHERE, SearchProblem
from rayline.tune.tune_data import TuneData, read


class TableSearch(SearchDriver):
    """A search over rows."""

    def prepare(self, request: SearchRequest) -> PreparedSearch:
        trainer, config, options = request.trainer, request.config, request.options
        preprocessor = request.data.preprocessor
        if preprocessor is not None:
            if not isinstance(preprocessor, Preprocessor):
                raise ParameterError.value("preprocessor", "a Preprocessor or None", preprocessor)
            preprocessor = preprocessor.clone()
        num_samples = _checked_samples(request, preprocessor)
        rows = read(request.data) if request.material is None else request.material
        roles = rows.inputs.roles
        if preprocessor is not None:
            preprocessor.refuse_targets([*roles.targets, *roles.excluded_columns])
            fit_planner.FitPlan(preprocessor.leaves, roles.schema, roles.targets, {}, roles.excluded_columns).run(None)
        target = _target(trainer, rows, Preprocessor() if preprocessor is None else preprocessor)
        _check_test_labels(rows, target, trainer)
        names, modes = names_and_modes(options.metric, options.mode, target, trainer.custom_metrics)
        stages = check_stages(options.postprocess, target.plain, roles.schema)
        _refuse_foreign([name for name in names if not metrics.is_known(name, trainer.custom_metrics)], target, stages)
        problem = SearchProblem(
            trainer, preprocessor, roles, target.plain, rows.splits, names[0], options.seed,
            tuned=tuple(space.tuned_stages(config)), endless=tuple(space.endless_stages(config)), others=names[1:],
            postprocess=stages,
        )  # fmt: skip
        dry_run.check(problem, rows.groups.sample, space.typical(config))
        return PreparedSearch(problem, rows, config, num_samples, modes)

    def evaluator(self, problem: SearchProblem, groups: Any, *, in_pieces: bool = False, **options: Any) -> Any:
        if in_pieces and problem.trainer.num_workers is not None:
            from rayline.tune.stored_folds import StoredFoldEvaluator  # it imports Ray

            return StoredFoldEvaluator(problem, groups, **options)
        return FoldEvaluator(problem, groups, **options)


def _checked_samples(request: SearchRequest, preprocessor: Preprocessor | None) -> int:
    """Return the number of configurations, after a check of the search space."""
    config, num_samples, postprocess = request.config, request.options.num_samples, request.options.postprocess
    after: Stages = (
        () if postprocess is None else tuple(postprocess) if isinstance(postprocess, (list, tuple)) else (postprocess,)
    )
    changed = (lambda changes: with_parameters(after, changes)) if after else None
    space.check(config, preprocessor, request.trainer.replace, changed)
    if num_samples is None:
        num_samples = space.usual_samples(config)
    if not space.tuned(config) and num_samples > 1:
        raise ParameterError.value("config", "a search space with at least one parameter, or num_samples=1", config)
    return num_samples


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


def _target(trainer: Trainer, rows: TuneData, preprocessor: Preprocessor) -> Target:
    """Infer the target from all labels, after the same checks of labels and weights as in a fit."""
    roles, groups, named = rows.inputs.roles, rows.groups.first(rows.n_train), preprocessor.target_stages
    # Without stages the framework gets the features unchanged, so they can be checked here.
    columns = [*roles.targets, *roles.excluded_columns] if preprocessor.leaves else list(roles.schema)
    schema = pl.Schema({name: roles.schema[name] for name in columns})
    spec, _ = resolve(
        trainer,
        roles,
        (),
        named,
        lambda requests: fit_planner.fit(
            rows.groups.engine, groups, (), schema, targets=roles.targets, extra_requests=requests, target_leaves=named
        ),
    )
    return spec.target


def _check_test_labels(rows: TuneData, target: Target, trainer: Trainer) -> None:
    """Raise DataError when labels of the test set are missing, do not occur in training, or cannot be learned."""
    if rows.inputs.test is None:
        return
    objective = trainer.adapter.objective(*trainer.args, **trainer.kwargs)
    roles = rows.inputs.roles
    check = _CheckedLabels(target, {name: roles.schema[name] for name in roles.targets}, objective)
    data: Any = rows.groups if rows.by_test_set else rows.inputs.test
    engine: Any = rows.groups.engine if rows.by_test_set else registry.engine_for(data)
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

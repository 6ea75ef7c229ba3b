"""The request of a fit: everything that a worker must know to train, resolved once, before any worker starts.

A fit, a fold of a search, a dry run and a run in an environment build it with the same function, and hand it to the same worker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import polars as pl

from rayline.core import registry
from rayline.core.errors import at, place
from rayline.core.framework import Framework
from rayline.core.operations.base import Operation
from rayline.core.scan import TableFunction
from rayline.core.schema import col
from rayline.core.stage import Stage, operations_of
from rayline.core.target import Target
from rayline.evaluate.metric import Metric
from rayline.preprocessing.fit_planner import FitOutcome
from rayline.preprocessing.lineage import origins
from rayline.preprocessing.schema_check import SchemaCheck
from rayline.train.base_trainer import BaseTrainer
from rayline.train.fit_inputs import WHERE, ColumnRoles
from rayline.train.scaling import Scaling
from rayline.train.target_inference import TargetProfiler
from rayline.train.training_phases import Phase

WEIGHT = "rayline:weight"
"""The column of weights in prepared rows."""

Leaves = Sequence[tuple[str, Stage]]


@dataclass(frozen=True)
class TrainingSpec:
    """The facts about its data that a training needs, independent of the trainer's arguments; computed in the scan that fits the stages.

    Attributes
    ----------
    target, features, class_weights
        What is predicted, from which columns, and the weight of each class (None for all alike).
    weight, test_weight
        The columns of sample weights in the training and in the test rows.
    lineage
        Returns for each raw column the features that are derived from it.
    has_rows
        Whether there are rows: False for a framework that generates its own data.
    """

    target: Target
    features: pl.Schema
    weight: str | None = None
    test_weight: str | None = None
    class_weights: Mapping[Any, float] | None = None
    lineage: Callable[[], Mapping[str, Sequence[str]]] = dict
    has_rows: bool = True

    @property
    def weighs(self) -> bool:
        """Whether prepared training rows have a column of weights."""
        return self.weight is not None or self.class_weights is not None

    @property
    def weighs_test(self) -> bool:
        """Whether prepared test rows have a column of weights."""
        return self.test_weight is not None

    def prepare(self, transform: TableFunction | None, *, test: bool = False) -> RowPreparation:
        """Return the function that makes training rows, or test rows, of the rows that `transform` takes."""
        weight, class_weights = (self.test_weight, None) if test else (self.weight, self.class_weights)
        return RowPreparation(transform, self.features, self.target.columns, weight, class_weights)


@dataclass(frozen=True)
class FitRequest:
    """A training with everything resolved: what a worker is handed.

    Attributes
    ----------
    framework, args, kwargs, phases, seed, scaling
        The trainer's. `phases` replace `args` and `kwargs` if these change during the training.
    spec
        What was learned of the data.
    score, metrics
        "train", "test": the rows that are measured, and the metrics by their names, those of the training rows beginning with
        "train-"; None for the default ones.
    log_train_metrics
        See `core.framework.TrainContext`.
    fingerprint
        Whether the result identifies the training rows (see `data.fingerprint`): a model does, a fold's is not kept.
    adapter_class
        The adapter, where it was registered at run time: a worker's process does not know it.
    made_at
        The public call that made it, which the errors of a worker name.
    """

    framework: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    phases: Sequence[Phase]
    seed: int | None
    scaling: Scaling
    spec: TrainingSpec
    score: Sequence[str] = ()
    metrics: Mapping[str, Metric] | None = None
    log_train_metrics: bool = True
    fingerprint: bool = True
    adapter_class: type | None = None
    made_at: str = field(default_factory=place)

    @classmethod
    def of(cls, trainer: BaseTrainer, spec: TrainingSpec, **options: Any) -> Self:
        """Return the request to train `trainer` on rows of which `spec` is known, for a fit, a fold, a dry run and a run in an
        environment alike. `options` are further fields, or replace those of the trainer."""
        fields: dict[str, Any] = {
            "framework": trainer.framework,
            "args": trainer.args,
            "kwargs": trainer.kwargs,
            "phases": trainer.phases,
            "seed": trainer.seed,
            "scaling": replace(trainer.scaling, use_gpu=trainer.wants_gpu),
            "spec": spec,
            "adapter_class": registry.runtime_class(trainer.framework),
        }
        return cls(**{**fields, **options})

    @property
    def adapter(self) -> Framework:
        if self.adapter_class is not None and registry.runtime_class(self.framework) is not self.adapter_class:
            registry.register_framework(self.adapter_class)
        adapter = registry.framework(self.framework)
        assert isinstance(adapter, Framework)
        return adapter

    def metrics_of(self, table: str) -> dict[str, Metric] | None:
        """Return the metrics of "train" or "test" rows; None for the default ones."""
        if self.metrics is None:
            return None
        of_train = table == "train"
        return {name: metric for name, metric in self.metrics.items() if of_train is name.startswith("train-")}

    def with_callbacks(self, callbacks: Sequence[Any]) -> Self:
        """Return the same request with further callbacks of the framework among its arguments."""
        if not callbacks:
            return self

        def added(kwargs: Mapping[str, Any]) -> dict[str, Any]:
            return {**kwargs, "callbacks": [*(kwargs.get("callbacks") or []), *callbacks]}

        return replace(
            self,
            kwargs=added(self.kwargs),
            phases=[replace(phase, kwargs=added(phase.kwargs)) for phase in self.phases],
        )


def resolve(
    trainer: BaseTrainer,
    roles: ColumnRoles,
    leaves: Leaves,
    target_stages: Leaves,
    fit: Callable[[TargetProfiler], FitOutcome],
    *,
    target: Target | None = None,
) -> tuple[TrainingSpec, FitOutcome]:
    """Fit the stages together with the questions of a training, and return what it must know and the fitted stages.

    Raises DataError, SchemaError, ParameterError as `TargetProfiler`.

    Parameters
    ----------
    trainer
        The framework and its arguments.
    roles
        The columns of the raw rows.
    leaves, target_stages
        The stages of the features and of the targets, by name, fitted or not.
    fit
        Fits them in a scan that also answers the profiler's questions. It decides where the rows are: all rows of a fit,
        the training slice of a fold, or the labels alone.
    target
        A target that is known from more rows than these: its classes stay, only its stages are those of this fit.
    """
    profiler = TargetProfiler.of(trainer, roles, target_stages)
    if target is not None:
        profiler = replace(profiler, pos_label=None)
    outcome = fit(profiler)
    fitted = [(name, stage) for (name, _), stage in zip(target_stages, outcome.target_leaves, strict=True)]
    learned = profiler.target(outcome.final, fitted)
    operations = [
        operation
        for (path, _), leaf in zip(leaves, outcome.leaves, strict=True)
        if not leaf.resamples
        for operation in operations_of(path, leaf)
    ]
    spec = TrainingSpec(
        learned if target is None else replace(target, stages=learned.stages),
        profiler.learned_features(outcome.output, outcome.final),
        weight=roles.weight,
        test_weight=roles.test_weight,
        class_weights=profiler.class_weights(learned, outcome.final),
        lineage=FeaturesFrom(operations, profiler.features(roles.schema)),
    )
    return spec, outcome


@dataclass(frozen=True)
class RowPreparation:
    """Turn raw rows into training rows: apply the preprocessor, then keep features, targets and weights only."""

    transform: TableFunction | None
    features: pl.Schema
    targets: Sequence[str]
    weight: str | None
    class_weights: Mapping[Any, float] | None = None

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame:
        if self.transform is not None:
            table = self.transform(table)
        schema = table.collect_schema()
        others = {name: dtype for name, dtype in self.features.items() if schema.get(name, dtype) != dtype}
        with at(WHERE):
            table = SchemaCheck(others)(table)
        columns = map(col, (*self.features, *self.targets))
        return table.select(*columns, *self._weights())

    @property
    def weighs(self) -> bool:
        return self.weight is not None or self.class_weights is not None

    def _weights(self) -> list[pl.Expr]:
        weight = pl.lit(1.0) if self.weight is None else pl.col(self.weight).cast(pl.Float64)
        if self.class_weights is not None:
            labels, values = list(self.class_weights), list(self.class_weights.values())
            weight = weight * pl.col(self.targets[0]).replace_strict(labels, values, return_dtype=pl.Float64)
        return [weight.alias(WEIGHT)] if self.weighs else []


@dataclass(frozen=True)
class FeaturesFrom:
    """Compute for each raw column the features that the operations derive from it."""

    operations: Sequence[Operation]
    schema: Mapping[str, pl.DataType]

    def __call__(self) -> dict[str, list[str]]:
        features: dict[str, list[str]] = {}
        for feature, sources in origins(self.operations, self.schema).columns.items():
            for source in sources:
                features.setdefault(source, []).append(feature)
        return features

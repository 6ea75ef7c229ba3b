"""The facts about its data that a training needs before it starts, computed in the scan that fits the preprocessor.

The classes of the target, whether labels or weights are missing or infinite, which features have no values, and the
categories of string features for frameworks that take them as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import polars as pl

from rayline.core.data_types import ClassWeight
from rayline.core.errors import DataError, ParameterError, SchemaError, counted, place
from rayline.core.labels import labels_of
from rayline.core.objective import Objective
from rayline.core.schema import Kind, kind_of, usual_numbers
from rayline.core.stage import FitContext, Stage
from rayline.core.statistics.base import StatisticRequest
from rayline.core.statistics.counts import ValueCounts, counting
from rayline.core.statistics.moments import MinMax
from rayline.core.statistics.row_counts import MissingCount
from rayline.core.target import Target, Task
from rayline.train.base_trainer import BaseTrainer
from rayline.train.fit_inputs import ColumnRoles

SMALLEST, PRECISION = 1e-36, 2.0**-22
"""The smallest labels that single precision holds, and how close to one another they may be, in parts of their size."""

_ENCODERS = {
    Kind.CATEGORY: "OneHotEncoder, OrdinalEncoder, Vectorizer",
    Kind.DATETIME: "DatetimeEncoder",
    Kind.LIST: "MultiHotEncoder",
}


_NO_STAGE = {
    pl.Time: "convert it to a number first (polars: .dt.hour())",
    pl.Duration: "convert it to a number first (polars: .dt.total_seconds())",
    pl.Struct: "convert its fields to columns first (polars: .struct.unnest())",
}
"""Types that no stage takes, and what makes numbers of them."""


def _hint(dtype: pl.DataType) -> str:
    """Return the hint for a feature that a framework does not accept."""
    kind, inner = kind_of(dtype), getattr(dtype, "inner", pl.String())
    if kind in _ENCODERS and (kind is not Kind.LIST or inner in (pl.String, pl.Boolean) or inner.is_integer()):
        return f"add a stage that encodes it ({_ENCODERS[kind]}), or drop it (DropColumns)."
    return f"{_NO_STAGE.get(dtype.base_type(), 'convert it to numbers or strings first')}, or drop it (DropColumns)."


@dataclass(frozen=True)
class TargetProfiler:
    """Request statistics of targets, weights and features, and derive from them what a training must know.

    Attributes
    ----------
    roles
        The columns of the raw rows.
    task
        The task that the framework's arguments imply; None lets the labels decide.
    string_features, max_label
        How the framework treats strings, and the largest label that it can learn (see `core.framework.Framework`).
    class_weight, pos_label
        The trainer's.
    target_stages
        The stages of the targets, not fitted.
    objective
        What the framework's arguments say about the target besides the task.
    """

    roles: ColumnRoles
    task: Task | Literal["classification"] | None
    string_features: str
    max_label: float = math.inf
    class_weight: ClassWeight | None = None
    pos_label: Any = None
    target_stages: Sequence[tuple[str, Stage]] = ()
    objective: Objective = field(default_factory=Objective)

    @classmethod
    def of(cls, trainer: BaseTrainer, roles: ColumnRoles, target_stages: Sequence[tuple[str, Stage]]) -> Self:
        """Return the profiler for a trainer: in a fit, in a fold, and where the target of a search is learned.

        Raises ParameterError when the objective is of another kind than the target, or takes no target stages.
        """
        adapter = trainer.adapter
        objective = adapter.objective(*trainer.args, **trainer.kwargs)
        profiler = cls(
            roles, objective.task, adapter.string_features, adapter.max_label, trainer.class_weight, trainer.pos_label, target_stages,
            objective,
        )  # fmt: skip
        profiler._check_pair()
        return profiler

    @property
    def pair(self) -> str:
        return self.roles.pair

    def _check_pair(self) -> None:
        task, named = self.task, self.objective.name or "that labels decide"
        if (task is Task.RANKING) is not (self.pair == "group"):
            if self.pair == "group":
                raise ParameterError.here(
                    f"group={self.targets[-1]!r} is for a ranking, and the objective is {named!r}.",
                    "Expected an objective that ranks the rows of a group, such as rank:ndcg, lambdarank or YetiRank.",
                    "choose one, or leave group out (folds by group: groups=… of tune.run).",
                )
            raise ParameterError.here(
                f"the objective {named!r} ranks the rows of a group, and there are no groups.",
                "Expected group=…, the column that says which rows are ranked together (the query).",
                'pass group="query_id".',
            )
        if self.pair == "event" and task is not Task.SURVIVAL:
            raise ParameterError.here(
                f"event={self.targets[-1]!r} is for survival times, and the objective is {named!r}.",
                "Expected an objective of survival analysis, such as survival:aft, survival:cox or SurvivalAft.",
                "choose one, or leave event out.",
            )
        if task is Task.SURVIVAL and not self.pair and len(self.targets) > (1 if self.objective.predicts_risk else 2):
            raise ParameterError.here(
                f"the objective {named!r} cannot learn {len(self.targets)} target columns.",
                f"Expected a time with event=…{'' if self.objective.predicts_risk else ', or its lower and upper bound'}; got {list(self.targets)}.",
                'pass target_columns=["days"], event="died".',
            )
        if len(self.objective.quantiles) > 1 and len(self.targets) > 1:
            raise ParameterError.here(
                f"quantiles of {len(self.targets)} targets.",
                f"Expected one target; got {list(self.targets)}.",
                "train one model for each.",
            )
        if task in (Task.RANKING, Task.SURVIVAL) and self.target_stages:
            raise ParameterError.here(
                f"target stages do not apply to a {task} target.",
                f"Expected none; got {[name for name, _ in self.target_stages]}.",
                "leave target_stages out.",
            )

    @property
    def _is_paired(self) -> bool:
        return self.task in (Task.RANKING, Task.SURVIVAL)

    @property
    def targets(self) -> tuple[str, ...]:
        return self.roles.targets

    @property
    def schema(self) -> pl.Schema:
        return self.roles.schema

    @property
    def weight(self) -> str | None:
        return self.roles.weight

    @property
    def _classifies(self) -> bool:
        if self.task is not None:
            return self.task == "classification" or Task(self.task).is_classification
        labels = any(stage.labels for _, stage in self.target_stages)
        return labels or not all(self.schema[t].is_numeric() for t in self.targets)

    def features(self, output: Mapping[str, pl.DataType]) -> pl.Schema:
        """Return the features among the output columns of the preprocessor."""
        return pl.Schema({n: d for n, d in output.items() if n not in self.targets and n != self.weight})

    def __call__(self, context: FitContext) -> list[StatisticRequest]:
        """Return the statistics that are required of the preprocessed table."""
        requests = [StatisticRequest(self._of_target(t), (t,)) for t in self.targets if self._of_target(t) is not None]
        if self.weight is not None:
            requests.append(StatisticRequest(MinMax, (self.weight,)))
        for name, dtype in self.features(context.schema).items():
            if kind_of(dtype) is Kind.CATEGORY and self.string_features == "categories":
                requests.append(StatisticRequest(ValueCounts, (name,)))
            elif name in context.untouched:
                requests.append(StatisticRequest(MissingCount, (name,)))
        return requests

    def _of_target(self, target: str) -> Any:
        if self.pair == "group" and target == self.targets[-1]:
            return MissingCount
        if self._classifies:
            return ValueCounts
        return MinMax if self.schema[target].is_numeric() or self.schema[target] == pl.Boolean else None

    def target(self, results: Mapping[StatisticRequest, Any], stages: Sequence[tuple[str, Stage]] = ()) -> Target:
        """Return the target, after the checks of labels and weights; `stages` are the fitted target stages.

        Raises DataError when labels are missing, of one class only or infinite, or weights missing or negative.
        """
        self._check_labels(results)
        if self._is_paired:
            target = self._paired(results)
        else:
            counts = self._counts(results)
            task = self._task(counts)
            target = Target.learn(self.targets, self.schema, counts, task, stages, self.pos_label)
            target = replace(target, quantiles=self.objective.quantiles)
        if self.weight is not None:
            self._check_numbers(self.weight, results[StatisticRequest(MinMax, (self.weight,))], "the weight", low=0.0)
        return target

    def _check_labels(self, results: Mapping[StatisticRequest, Any]) -> None:
        """Raise DataError on labels that are missing, infinite, or that the objective or the framework cannot learn."""
        is_interval = self.task is Task.SURVIVAL and not self.pair
        for i, name in enumerate(self.targets):
            extremes = results.get(StatisticRequest(MinMax, (name,)))
            if not (is_interval and i):  # a time may have no upper bound
                self._check_numbers(name, extremes, "the target", low=None)
            if self.target_stages or (self._is_paired and i):
                continue
            self._check_size(name, extremes)
            if extremes is not None and extremes.low is not None:
                self.objective.check_labels(name, extremes.low, extremes.high)

    def _paired(self, results: Mapping[StatisticRequest, Any]) -> Target:
        """Return the target of a ranking or of survival times."""
        self._check_paired(results)
        columns, task = tuple(self.targets), Task.RANKING if self.task is Task.RANKING else Task.SURVIVAL
        dtypes = tuple(self.schema[name] for name in columns)
        return Target(columns, task, dtypes, event=self.pair == "event", predicts_risk=self.objective.predicts_risk)

    def _check_paired(self, results: Mapping[StatisticRequest, Any]) -> None:
        """Raise DataError on a ranking's missing groups, SchemaError on labels that are no numbers."""
        for name in self.targets[: 1 if self.pair == "group" else None]:
            if not (self.schema[name].is_numeric() or (self.schema[name] == pl.Boolean and name != self.targets[0])):
                raise SchemaError.dtype(name, "numbers (an event may be True or False)", self.schema[name])
        if self.pair == "event":
            extremes = results[StatisticRequest(MinMax, (self.targets[1],))]
            if extremes.low is not None and not {float(extremes.low), float(extremes.high)} <= {0.0, 1.0}:
                raise DataError.here(
                    f"the event {self.targets[1]!r} has values from {extremes.low:g} to {extremes.high:g}.",
                    "Expected True or 1 where the event was observed, False or 0 where the time is censored.",
                    f"convert it first: pl.col({self.targets[1]!r}) == ….",
                )
        if self.pair == "group":
            missing = results[StatisticRequest(MissingCount, (self.targets[1],))]
            if missing.n_null:
                raise DataError.here(
                    f"the group {self.targets[1]!r} has {counted(missing.n_null, 'missing value')}.",
                    "Expected a group in every row.",
                    "drop these rows first.",
                )

    def learned_features(self, output: Mapping[str, pl.DataType], results: Mapping[StatisticRequest, Any]) -> pl.Schema:
        """Return the features as the framework takes them: string features with their categories.

        Raises DataError when a feature has no values, and SchemaError when a feature has a type that the framework cannot use.
        """
        features: dict[str, pl.DataType] = {}
        for name, dtype in self.features(output).items():
            present = results.get(StatisticRequest(MissingCount, (name,)))
            count = results.get(StatisticRequest(ValueCounts, (name,)))
            with counting(f"{place()}: feature {name!r}"):
                n_values = None if count is None else count.table.height
            if (present is not None and not present.count) or n_values == 0:
                raise DataError.here(
                    f"feature {name!r} has no values, only missing ones.",
                    "Expected at least one value in every feature.",
                    f"drop {name!r} (DropColumns), or impute it with a constant.",
                )
            features[name] = self._feature(name, dtype, count)
        return pl.Schema(features)

    def class_weights(self, target: Target, results: Mapping[StatisticRequest, Any]) -> dict[Any, float] | None:
        """Return the weight of each class; None for all alike."""
        return self._class_weights(target, self._counts(results))

    def _counts(self, results: Mapping[StatisticRequest, Any]) -> list[ValueCounts | None]:
        return [results.get(StatisticRequest(ValueCounts, (t,))) for t in self.targets]

    def _task(self, counts: Sequence[ValueCounts | None]) -> Task | None:
        if self.task != "classification":
            return None if self.task is None else Task(self.task)
        max_classes = max(count.counts.height for count in counts if count is not None)
        return Task.MULTICLASS if max_classes > 2 else Task.BINARY

    def _feature(self, name: str, dtype: pl.DataType, count: ValueCounts | None) -> pl.DataType:
        kind = kind_of(dtype)
        if kind in (Kind.NUMERIC, Kind.BOOLEAN, Kind.VECTOR) or self.string_features == "text":
            return usual_numbers(dtype)
        if kind is Kind.CATEGORY and count is not None:
            return pl.Enum(count.table["value"].cast(pl.String))
        raise SchemaError.here(
            f"feature {name!r} holds {dtype}, which this framework does not take.",
            f"Expected numbers, booleans{', categories' if self.string_features == 'categories' else ''} or vectors after preprocessing.",
            _hint(dtype),
        )

    def _check_numbers(self, name: str, extremes: MinMax | None, noun: str, low: float | None) -> None:
        if extremes is None:
            return
        problem = ""
        if extremes.n_null:
            problem = f"has {counted(extremes.n_null, 'missing value')}"
        elif extremes.low is not None and not (math.isfinite(extremes.low) and math.isfinite(extremes.high)):
            problem = "has infinite values"
        elif low is not None and extremes.low is not None and (extremes.low < low or extremes.high <= low):
            problem = "has negative values" if extremes.low < low else "is 0 in every row"
        if problem:
            raise DataError.here(
                f"{noun} {name!r} {problem}.",
                f"Expected a finite number{' of at least 0' if low is not None else ''} in every row.",
                "drop or correct these rows first.",
            )

    def _check_size(self, name: str, extremes: MinMax | None) -> None:
        """Raise DataError on labels that single precision cannot represent or distinguish."""
        if extremes is None or extremes.low is None or math.isinf(self.max_label):
            return
        largest, spread, problem = max(abs(extremes.low), abs(extremes.high)), extremes.high - extremes.low, ""
        if largest > self.max_label:
            problem = f"numbers of up to {self.max_label:g}"
        elif 0 < largest < SMALLEST:
            problem = f"numbers of more than {SMALLEST:g}"
        elif 0 < spread < largest * PRECISION:
            problem = f"numbers that differ by more than {PRECISION:.1g} of their size"
        if problem:
            raise DataError.here(
                f"the target {name!r} holds numbers that this framework, which learns them in single precision, "
                f"cannot take.",
                f"Expected {problem}; got {extremes.low:g} to {extremes.high:g}.",
                "let a target stage scale them: Preprocessor(…, target_stages=[('scale', StandardScaler())]).",
            )

    def _class_weights(self, target: Target, counts: Sequence[ValueCounts | None]) -> dict[Any, float] | None:
        if self.class_weight is None:
            return None
        if not target.classes or len(target.columns) > 1 or counts[0] is None:
            raise ParameterError.here(
                "class_weight is for one classification target.",
                f"Got a {target.task} of {list(target.columns)}.",
                "leave it out.",
            )
        labels = labels_of(counts[0].table["value"], self.schema[self.targets[0]]).to_list()
        n = counts[0].table["n"].to_list()
        if self.class_weight == "balanced":
            return {label: sum(n) / (len(n) * k) for label, k in zip(labels, n, strict=True)}
        assert isinstance(self.class_weight, Mapping)
        strange = [label for label in self.class_weight if label not in labels]
        if strange:
            raise ParameterError.value("class_weight", f"labels among {labels[:8]!r}", strange[0])
        return {label: float(self.class_weight.get(label, 1.0)) for label in labels}

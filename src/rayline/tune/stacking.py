"""The final model of a stack: trained on held-out scores, and measured on folds that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.core.errors import ParameterError
from rayline.core.schema import col
from rayline.core.target import Target, Task
from rayline.evaluate import metrics
from rayline.evaluate.custom_metrics import Custom
from rayline.inference.stack import member_scores
from rayline.train.fit import fit
from rayline.train.fit_inputs import ColumnRoles
from rayline.train.result import Result
from rayline.train.trainer import Trainer
from rayline.train.trainers import SklearnTrainer
from rayline.tune.trial_record import mean

WHERE = "Analysis.stacked_pipeline"

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class FinalModel:
    """The trainer of the final model of a stack, its target, and the roles of the columns of its rows."""

    trainer: Trainer
    target: Target
    roles: ColumnRoles

    @classmethod
    def of(cls, trainer: Trainer | None, target: Target, roles: ColumnRoles) -> Self:
        """Return the final model; a linear one for None. Raises ParameterError when there is no linear model for the task."""
        if trainer is not None and not isinstance(trainer, Trainer):
            raise ParameterError.value("trainer", "a trainer, or None for a linear one", trainer, where=WHERE)
        return cls(_linear(target) if trainer is None else trainer, target, roles)

    def fit(self, parts: Sequence[Any]) -> Result:
        """Train on the held-out scores and labels of some folds, for Datasets on a worker. Raises ParameterError when the trainer
        infers another task from the labels."""
        target, trainer, roles = self.target, self.trainer, self.roles
        is_here = isinstance(parts[0], pl.DataFrame)
        rows = pl.concat(parts) if is_here else parts[0].union(*parts[1:]) if len(parts) > 1 else parts[0]
        if not is_here and trainer.num_workers is None:
            trainer = trainer.scaled(replace(trainer.scaling, num_workers=1))
        positive = {
            c: classes[1] for c, classes in zip(target.columns, target.classes, strict=False) if len(classes) == 2
        }
        result = fit(
            trainer,
            None,
            rows,
            target_columns=list(roles.labels),
            sample_weight=roles.test_weight,
            group=roles.paired("group"),
            event=roles.paired("event"),
            pos_label=positive or None,
            verbose=False,
        )
        fitted_target = result.model.target
        if (fitted_target.task, fitted_target.classes, fitted_target.quantiles) != (
            target.task,
            target.classes,
            target.quantiles,
        ):
            raise ParameterError(
                f"{WHERE}: the trainer on top learns another target than the trials.",
                f"Expected {target.task} of {list(target.columns)}; got {fitted_target.task}.",
                "choose an objective of the same task.",
            )
        return result


@dataclass(frozen=True)
class FinalRows:
    """Builds the rows of the final model: labels and weights of held-out rows, and the scores of each trial for them."""

    target: Target
    columns: Sequence[str]

    def __call__(self, rows: pl.DataFrame, scores: Sequence[Array], fold: int) -> pl.DataFrame:
        parts = [member_scores(member, self.target, number) for number, member in enumerate(scores)]
        return pl.concat([rows.select(map(col, self.columns)), *parts], how="horizontal")


def honest_score(final: FinalModel, folds: Sequence[Any], metric: str, custom: Custom) -> dict[str, float]:
    """Return the mean of the metric over the folds, each with a final model trained on the other folds; empty for a single fold
    and for a metric that only a framework computes."""
    if len(folds) < 2 or not metrics.is_known(metric, custom):
        return {}
    values = []
    for i, rows in enumerate(folds):
        model = final.fit([fold_rows for j, fold_rows in enumerate(folds) if j != i]).inference_pipeline
        if not isinstance(rows, pl.DataFrame):
            wanted = {metric: custom[metric].source} if metric in custom else [metric]
            report = model.evaluate(rows, metrics=wanted, sample_weight=final.roles.test_weight, replicates=0)
            values.append(report.metrics[metric].value)
            continue
        weight = None if final.roles.test_weight is None else rows[final.roles.test_weight].cast(pl.Float64).to_numpy()
        scores = model.scores(rows.lazy())
        values.append(
            metrics.evaluate([metric], model.target, scores, final.target.truth(rows), weight, custom)[metric]
        )
    return {f"oof-{metric}": mean(values)} if np.isfinite(values).all() else {}


def _linear(target: Target) -> Trainer:
    if target.task.is_paired or target.quantiles or len(target.columns) > 1:
        what = (
            "several quantiles" if target.quantiles else "several targets" if not target.task.is_paired else target.task
        )
        raise ParameterError(
            f"{WHERE}: there is no linear model on top for {what}.",
            "Expected trainer=… with an objective of the same task.",
            "pass one, such as the trainer of the search.",
        )
    from sklearn.linear_model import LinearRegression, LogisticRegression  # optional

    return SklearnTrainer(
        LinearRegression(positive=True) if target.task is Task.REGRESSION else LogisticRegression(max_iter=1000)
    )

"""Conformal prediction: intervals and sets that contain the truth with a chosen probability, whatever the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
import polars as pl

from rayline.core.errors import DataError, ParameterError, counted
from rayline.core.stage import ParameterCheck, param
from rayline.core.target import Target, Task
from rayline.postprocess.base import (
    MISSING_GROUP,
    Array,
    CalibrationRows,
    Outcome,
    PostprocessingStage,
    RowOutcome,
)
from rayline.postprocess.cross_validation_intervals import FoldResiduals

MAX_GROUPS = 1000

_BY = ParameterCheck(
    "None, a column, or a list of columns",
    lambda v: v is None or isinstance(v, str) or (isinstance(v, (list, tuple)) and bool(v) and all(isinstance(c, str) for c in v)),
)  # fmt: skip
_COVERAGE = ParameterCheck(
    "a share between 0 and 1, such as 0.9", lambda v: isinstance(v, float) and not isinstance(v, bool) and 0.0 < v < 1.0
)

ConformalMethod: TypeAlias = Literal["split", "cv+"]
"""The method that intervals are computed by."""


@dataclass(frozen=True)
class Conformal(PostprocessingStage):
    """Intervals of a regression and sets of classes that contain the truth of a share `coverage` of new rows.

    The guarantee needs no assumption about the model, only that new rows come from where the rows of the calibration set
    come from (split conformal prediction; Vovk, Gammerman and Shafer, 2005; Lei and others, 2018). An interval is the
    prediction ± the ⌈(n + 1) coverage⌉-th smallest absolute error of n rows. A set contains the classes whose probability is at
    least 1 - q, where q is the same order statistic of 1 - the probability of the true class (Sadinle, Lei and Wasserman,
    2019), and always the predicted class. Of several targets each has the coverage by itself.

    Parameters
    ----------
    coverage
        The share of rows whose truth is in the interval or set.
    by
        A raw column (or several) of strings, integers or booleans: each of its values has the coverage (Mondrian conformal
        prediction); missing is a value too. A value that was not seen gets the interval of all rows together.
    method
        "split"; or "cv+" (Barber, Candès, Ramdas and Tibshirani, 2021) for a regression: intervals around the answers of the
        models of all folds, by their errors on the rows that each did not see. `analysis.calibrated` only; it predicts with
        the fold models.

    Raises
    ------
    ParameterError
        For a `by` that is no such column, and for method="cv+" where there are no fold models, or classes.
    DataError
        When there are too few rows for the coverage, in all or in a group; 90 % needs at least 9 of them. When `by` has more
        than 1,000 values.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline import train
    >>> from rayline.postprocess import Conformal
    >>> table = pl.DataFrame({"x": [0.0, 1.0, 2.0, 3.0] * 25, "price": [0.0, 1.0, 2.0, 3.0] * 25})
    >>> trainer = train.XGBoostTrainer({"max_depth": 2}, num_boost_round=50, seed=1)
    >>> pipeline = train.fit(trainer, None, table, None, ["price"], verbose=False).inference_pipeline
    >>> kept_aside = table.with_columns(pl.col("price") + pl.Series([-1.0, 1.0] * 50))
    >>> calibrated = pipeline.calibrated([Conformal(coverage=0.9)], kept_aside)
    >>> row = calibrated.predict([{"x": 3.0}], interval=True)[0]
    >>> {name: round(value, 1) for name, value in row.items()}
    {'prediction': 3.0, 'lower': 2.0, 'upper': 4.0}
    """

    has_intervals = True

    coverage: float = param(0.9, _COVERAGE)
    by: str | Sequence[str] | None = param(None, _BY)
    method: ConformalMethod = "split"

    @property
    def group_columns(self) -> tuple[str, ...]:
        return () if self.by is None else (self.by,) if isinstance(self.by, str) else tuple(self.by)

    @property
    def needs_members(self) -> bool:
        return self.method == "cv+"

    def check(self, target: Target) -> None:
        if target.task.is_paired or len(target.quantiles) > 1:
            raise self.refuse_task(target, "classes, or a number for each target", "leave Conformal out")
        if self.method == "cv+" and target.task.is_classification:
            raise self.refuse_task(
                target, "a regression for method='cv+'", "use method='split', which gives sets of classes"
            )
        if self.method == "cv+" and self.by is not None:
            raise ParameterError("Conformal: method='cv+' with by=.", "Expected one of both.", "use method='split'.")

    def learn(self, rows: CalibrationRows) -> dict[str, Any]:
        errors = self._errors(rows)
        if self.method == "cv+":
            if rows.folds is None:
                raise ParameterError(
                    "Conformal: method='cv+' needs the errors of fold models on rows that they did not see.",
                    "Expected analysis.calibrated([…]); got held-back rows.",
                    "use method='split' for these rows.",
                )
            self._radius(errors[:, 0], rows.weight, rows.n_rows, "")
            return FoldResiduals.of(errors, rows.folds, self.coverage).to_json()
        learned: dict[str, Any] = {
            "radius": [self._radius(column, rows.weight, rows.n_rows, "") for column in errors.T],
            "n_rows": rows.n_rows,
        }
        if self.by is not None:
            learned["groups"] = self._by_group(errors, rows)
        return learned

    def _by_group(self, errors: Array, rows: CalibrationRows) -> list[list[Any]]:
        assert rows.outcome.groups is not None
        texts = rows.outcome.groups.to_numpy()
        names, place = np.unique(texts.astype(str), return_inverse=True)
        if len(names) > MAX_GROUPS:
            raise DataError(
                f"Conformal: by={self.by!r} has {len(names)} values.",
                f"Expected at most {MAX_GROUPS} groups, each with enough rows for its coverage.",
                "use a column with fewer values, or leave by= out.",
            )
        limits = []
        for i, name in enumerate(names):
            in_group = place == i
            n = round(float(rows.counts[in_group].sum()))
            limits.append(
                [str(name), [self._radius(c[in_group], rows.weight[in_group], n, str(name)) for c in errors.T]]
            )
        return limits

    def _errors(self, rows: CalibrationRows) -> Array:
        """Return how far each row is from its prediction, shape (n, targets)."""
        outcome = rows.outcome
        if not outcome.target.task.is_classification:
            errors: Array = np.abs(rows.truth - outcome.values)
            return errors
        codes, n = rows.truth.astype(np.int64), outcome.n_rows
        if outcome.target.task is Task.MULTICLASS:
            errors = 1.0 - outcome.values[np.arange(n), codes[:, 0]][:, None]
        else:
            errors = np.where(codes == 1, 1.0 - outcome.values, outcome.values)
        return errors

    def _radius(self, errors: Array, weight: Array, n_rows: int, group: str) -> float:
        order = np.argsort(errors, kind="stable")
        total = np.cumsum(weight[order])
        # One more row of average weight, whose error is unknown: of n rows with weight 1 the ⌈(n + 1) coverage⌉-th.
        wanted = self.coverage * (total[-1] + total[-1] / n_rows) if n_rows else math.inf
        place = int(np.searchsorted(total, wanted * (1.0 - 1e-12))) if n_rows else 0
        if place >= len(errors):
            min_rows = math.ceil(self.coverage / (1.0 - self.coverage) - 1e-9)
            shown = ", ".join("missing" if part == MISSING_GROUP else repr(part) for part in group.split("\x1f"))
            where = f" in the group {shown} of {list(self.group_columns)}" if group else ""
            raise DataError(
                f"Conformal: {counted(n_rows, 'row')}{where} are too few for a coverage of {self.coverage:g}.",
                f"Expected at least {min_rows}.",
                "use more rows or a smaller coverage" + (", or merge rare groups first." if group else "."),
            )
        return float(errors[order[place]])

    def apply(self, outcome: Outcome) -> Outcome:
        if self.method == "cv+":
            assert outcome.members is not None
            lower, upper = self._residuals.intervals(outcome.members)
            return outcome.with_(lower=lower, upper=upper)
        radius = self._radii_of(outcome)
        if not outcome.target.task.is_classification:
            return outcome.with_(lower=outcome.values - radius, upper=outcome.values + radius)
        widths = [len(classes) for classes in outcome.target.classes]
        return outcome.with_(sets=1.0 - outcome.probabilities <= np.repeat(radius, widths, axis=1))

    def _radii_of(self, outcome: Outcome) -> Array:
        pooled = np.array([self.state["radius"]])
        if not self._by_text or outcome.groups is None:
            same: Array = np.repeat(pooled, outcome.n_rows, axis=0)
            return same
        names = list(self._by_text)
        places = outcome.groups.replace_strict(names, range(len(names)), default=len(names), return_dtype=pl.Int64)
        every: Array = np.concatenate([np.array([self._by_text[name] for name in names]), pooled])
        radii: Array = every[places.to_numpy()]
        return radii

    def row_function(self) -> Callable[[RowOutcome], None]:
        if self.method == "cv+":
            return self._cv_plus_row
        pooled, groups = [float(r) for r in self.state["radius"]], self._by_text

        def bound(row: RowOutcome) -> None:
            radius = groups.get(row.group, pooled) if groups and row.group is not None else pooled
            if not row.target.task.is_classification:
                row.lower = [v - r for v, r in zip(row.values, radius, strict=True)]
                row.upper = [v + r for v, r in zip(row.values, radius, strict=True)]
            elif row.target.task is Task.MULTICLASS:
                row.sets = [1.0 - p <= radius[0] for p in row.values]
            else:
                pairs = zip(row.values, radius, strict=True)
                row.sets = [member for p, r in pairs for member in (1.0 - (1.0 - p) <= r, 1.0 - p <= r)]

        return bound

    def _cv_plus_row(self, row: RowOutcome) -> None:
        assert row.members is not None
        lower, upper = self._residuals.intervals(np.array([row.members]))
        row.lower, row.upper = lower[0].tolist(), upper[0].tolist()

    def summary(self, target: Target) -> str:
        if self.method == "cv+":
            return f"from the errors of {sum(self._residuals.n_rows)} rows in {len(self._residuals.n_rows)} folds"
        limit = "probability at least " if target.task.is_classification else "± "
        values = [1.0 - r if target.task.is_classification else r for r in self.state["radius"]]
        radii = "; ".join(f"{c}: {limit}{v:.4g}" for c, v in zip(target.columns, values, strict=True))
        groups = f", in all of {len(self._by_text)} groups" if self._by_text else ""
        return f"{radii}{groups} (from {counted(self.state['n_rows'], 'row')})"

    @cached_property
    def _by_text(self) -> dict[str, list[float]]:
        return {str(name): [float(r) for r in radius] for name, radius in self.state.get("groups", ())}

    @cached_property
    def _residuals(self) -> FoldResiduals:
        return FoldResiduals.from_json(self.state)

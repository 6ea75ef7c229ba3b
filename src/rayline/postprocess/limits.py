"""Predicted numbers within limits, and rounded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rayline.core.errors import ParameterError
from rayline.core.stage import an_int, param
from rayline.core.target import Target
from rayline.postprocess.base import Array, Outcome, PostprocessingStage, RowOutcome


class _NumberStage(PostprocessingStage):
    """A stage that changes every predicted number, and the ends of its interval, in the same way."""

    @property
    def needs_rows(self) -> bool:
        return False

    def check(self, target: Target) -> None:
        if target.task.is_classification:
            name = type(self).__name__
            raise self.refuse_task(
                target, "a regression", f"leave {name} out; Threshold changes the labels of a classifier"
            )

    def _of(self, values: Array) -> Array:
        raise NotImplementedError

    def _one(self, value: float) -> float:
        raise NotImplementedError

    def apply(self, outcome: Outcome) -> Outcome:
        if outcome.lower is None or outcome.upper is None:
            return outcome.with_(values=self._of(outcome.values))
        return outcome.with_(
            values=self._of(outcome.values), lower=self._of(outcome.lower), upper=self._of(outcome.upper)
        )

    def row_function(self) -> Callable[[RowOutcome], None]:
        one = self._one

        def change(row: RowOutcome) -> None:
            row.values = [one(value) for value in row.values]
            if row.lower is not None and row.upper is not None:
                row.lower, row.upper = [one(v) for v in row.lower], [one(v) for v in row.upper]

        return change


@dataclass(frozen=True)
class Clip(_NumberStage):
    """Predictions of a regression within limits, such as prices that are not negative. Intervals are limited too.

    Parameters
    ----------
    low, high
        The limits; None for no such limit, at least one is given. A prediction that is NaN stays NaN.

    Raises
    ------
    ParameterError
        For a classification, without limits, and when they cross.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline import train
    >>> from rayline.postprocess import Clip
    >>> table = pl.DataFrame({"x": [0.0, 1.0, 2.0, 3.0] * 25, "price": [0.0, 1.0, 2.0, 9.0] * 25})
    >>> trainer = train.XGBoostTrainer({"max_depth": 2}, num_boost_round=50, seed=1)
    >>> pipeline = train.fit(trainer, None, table, None, ["price"], verbose=False).inference_pipeline
    >>> pipeline.calibrated([Clip(low=0, high=5)]).predict([{"x": 3.0}])
    [{'prediction': 5.0}]
    """

    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low is None and self.high is None:
            raise ParameterError("Clip: there is no limit.", "Expected low, high or both.", "pass low=0, for example.")
        if self.low is not None and self.high is not None and not self.low <= self.high:
            raise ParameterError.value("low", f"at most high={self.high}", self.low, where="Clip")

    def _of(self, values: Array) -> Array:
        if self.low is not None:
            values = np.where(values < self.low, float(self.low), values)
        return values if self.high is None else np.where(values > self.high, float(self.high), values)

    def _one(self, value: float) -> float:
        if self.low is not None and value < self.low:
            value = float(self.low)
        return float(self.high) if self.high is not None and value > self.high else value


@dataclass(frozen=True)
class Round(_NumberStage):
    """Rounded predictions of a regression; a number halfway between two goes to the even one, as in NumPy. Intervals are
    rounded too, and NaN stays NaN.

    Parameters
    ----------
    decimals
        The number of decimals, from -15 to 15; negative for tens, hundreds, ….

    Raises
    ------
    ParameterError
        For a classification.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline import train
    >>> from rayline.postprocess import Round
    >>> table = pl.DataFrame({"x": [0.0, 1.0, 2.0, 3.0] * 25, "price": [0.0, 1.0, 2.0, 9.0] * 25})
    >>> trainer = train.XGBoostTrainer({"max_depth": 2}, num_boost_round=3, seed=1)
    >>> pipeline = train.fit(trainer, None, table, None, ["price"], verbose=False).inference_pipeline
    >>> pipeline.calibrated([Round(-1)]).predict([{"x": 3.0}])
    [{'prediction': 10.0}]
    """

    decimals: int = param(0, an_int(-15, 15))

    def _of(self, values: Array) -> Array:
        factor = 10.0 ** abs(self.decimals)
        rounded: Array = np.rint(values * factor) / factor if self.decimals >= 0 else np.rint(values / factor) * factor
        return rounded

    def _one(self, value: float) -> float:
        return float(self._of(np.float64(value)))  # type: ignore[arg-type]

"""Calibrated probabilities: of the rows that get the probability 0.8, four in five belong to the class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np

from rayline.core.errors import DataError, counted
from rayline.core.scores import normalized
from rayline.core.target import Target, Task
from rayline.postprocess.base import Array, CalibrationRows, Outcome, PostprocessingStage, RowOutcome
from rayline.postprocess.calibration_maps import (
    EPSILON,
    CalibrationMap,
    IsotonicMap,
    beta,
    inverse_temperature,
    isotonic,
    map_from_json,
    sigmoid,
    temperature,
)

FITS: dict[CalibrationMethod, Callable[[Array, Array, Array], CalibrationMap]] = {
    "isotonic": isotonic,
    "sigmoid": sigmoid,
    "beta": beta,
    "temperature": temperature,
}

CalibrationMethod: TypeAlias = Literal["isotonic", "sigmoid", "beta", "temperature"]
"""The kind of the map from scores to probabilities."""


@dataclass(frozen=True)
class Calibrate(PostprocessingStage):
    """Calibrated probabilities of a classifier.

    The map of each target is learned from scored rows with labels. With more than two classes each class has a map of its
    own (one versus rest) and the results are scaled to sum to 1, as in scikit-learn's CalibratedClassifierCV; "temperature" has
    one parameter for all classes. Labels follow from the calibrated probabilities. The margins of a model without
    probabilities are calibrated too: their logistic function is the probability that the map starts from.

    Parameters
    ----------
    method
        "isotonic": any non-decreasing function (needs about 1,000 rows); "sigmoid": Platt's two parameters on the log-odds; "beta":
        three parameters (Kull, Silva Filho and Flach, 2017); "temperature": one parameter (Guo and others, 2017).

    Raises
    ------
    ParameterError
        For a regression, and for a model that answers with classes only.
    DataError
        When the rows to learn from have labels of one class only, or a label is null.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline import train
    >>> from rayline.postprocess import Calibrate
    >>> table = pl.DataFrame({"x": [0.0, 1.0, 2.0, 3.0] * 25, "late": ["no", "yes", "no", "yes"] * 25})
    >>> trainer = train.XGBoostTrainer({"max_depth": 1}, num_boost_round=3, seed=1)
    >>> pipeline = train.fit(trainer, None, table, None, ["late"], verbose=False).inference_pipeline
    >>> calibrated = pipeline.calibrated([Calibrate("isotonic")], table)
    >>> calibrated.predict_proba([{"x": 3.0}])[0]["probability_yes"]
    1.0
    """

    method: CalibrationMethod = "isotonic"

    def check(self, target: Target) -> None:
        if not target.task.is_classification:
            raise self.refuse_task(
                target, "a classification", "leave Calibrate out; Conformal gives a regression intervals"
            )

    def learn(self, rows: CalibrationRows) -> dict[str, Any]:
        target, values = rows.outcome.target, rows.outcome.values
        if self._is_joint(target):
            self._refuse_one_class(target, rows.truth[:, 0], 0)
            logits = np.log(np.maximum(values, EPSILON))
            return {"inverse_temperature": inverse_temperature(logits, rows.truth[:, 0].astype(np.int64), rows.weight)}
        maps = []
        for i in range(values.shape[1]):
            multiclass = target.task is Task.MULTICLASS
            codes = rows.truth[:, 0 if multiclass else i]
            labels = (codes == i).astype(np.float64) if multiclass else codes.astype(np.float64)
            self._refuse_one_class(target, labels, i)
            maps.append(FITS[self.method](values[:, i], labels, rows.weight).to_json())
        return {"maps": maps}

    def apply(self, outcome: Outcome) -> Outcome:
        if self._is_joint(outcome.target):
            return outcome.with_(values=self._softmax(outcome.values), codes=None)
        probabilities = np.stack(
            [calibration_map.of(outcome.values[:, i]) for i, calibration_map in enumerate(self.maps)], axis=1
        )
        return outcome.with_(
            values=_shares(probabilities) if outcome.target.task is Task.MULTICLASS else probabilities, codes=None
        )

    def row_function(self) -> Callable[[RowOutcome], None]:
        if "inverse_temperature" in self.state:

            def scale(row: RowOutcome) -> None:
                row.values, row.codes = self._softmax(np.array([row.values]))[0].tolist(), None

            return scale
        maps = [calibration_map.one for calibration_map in self.maps]

        def calibrate(row: RowOutcome) -> None:
            values = [calibration_map(value) for calibration_map, value in zip(maps, row.values, strict=True)]
            if row.target.task is Task.MULTICLASS:
                total = 0.0
                for value in values:
                    total += value
                values = [value / total if total > 0.0 else 1.0 / len(values) for value in values]
            row.values, row.codes = values, None

        return calibrate

    def _is_joint(self, target: Target) -> bool:
        return self.method == "temperature" and target.task is Task.MULTICLASS

    def _softmax(self, values: Array) -> Array:
        powers = np.exp(self.state["inverse_temperature"] * np.log(np.maximum(values, EPSILON)))
        return _shares(powers)

    def summary(self, target: Target) -> str:
        if self._is_joint(target):
            return f"temperature {1.0 / self.state['inverse_temperature']:.4g}"
        shown = []
        for calibration_map in self.maps:
            if isinstance(calibration_map, IsotonicMap):
                shown.append(counted(len(calibration_map.x), "point"))
            else:
                shown.append(f"a {calibration_map.a:.4g}, b {calibration_map.b:.4g}, c {calibration_map.c:.4g}")
        return "; ".join(shown)

    @cached_property
    def maps(self) -> list[CalibrationMap]:
        """The fitted map of each target, or of each class."""
        return [map_from_json(saved) for saved in self.state["maps"]]

    def _refuse_one_class(self, target: Target, labels: Array, place: int) -> None:
        present = np.unique(labels)
        if len(present) > 1:
            return
        column = target.columns[0 if target.task is Task.MULTICLASS else place]
        classes = target.classes[0 if target.task is Task.MULTICLASS else place]
        if target.task is Task.MULTICLASS and self.method != "temperature":
            what = f"{'every row' if present[0] else 'no row'} of the class {classes[place]!r}"
        else:
            what = f"rows of one class only, {classes[int(present[0])]!r}"
        raise DataError(
            f"Calibrate: the rows to learn from have {what} of the target {column!r}.",
            "Expected rows of every class.",
            "use more rows, stratified by the target.",
        )


def _shares(values: Array) -> Array:
    """Scale the rows to sum to 1; added up from left to right, as for one row."""
    total = np.zeros(len(values))
    for column in values.T:
        total = total + column
    if (total > 0.0).all():
        shares: Array = values / total[:, None]
        return shares
    return normalized(values)

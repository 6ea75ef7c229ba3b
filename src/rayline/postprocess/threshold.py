"""The threshold of a classifier with two classes: how probable the positive class must be to be predicted."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from rayline.core.errors import DataError, ParameterError
from rayline.core.stage import ParameterCheck, anything, param
from rayline.core.target import Target, Task
from rayline.postprocess.base import Array, CalibrationRows, Outcome, PostprocessingStage, RowOutcome

COSTS = ("fp", "fn", "tp", "tn")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


_RULE = ParameterCheck(
    "'f1', 'cost' or a probability from 0 to 1",
    lambda v: v in ("f1", "cost") if isinstance(v, str) else _is_number(v) and 0.0 <= v <= 1.0,
)
_COST = ParameterCheck(
    f"None, or finite numbers by {', '.join(map(repr, COSTS))}, such as {{'fp': 1, 'fn': 5}}",
    lambda v: (
        v is None or (isinstance(v, Mapping) and bool(v) and all(k in COSTS and _is_number(c) for k, c in v.items()))
    ),
)


@dataclass(frozen=True)
class Threshold(PostprocessingStage):
    """The labels of a classifier with two classes by a threshold: the positive class is predicted where its probability is at
    least the threshold. Probabilities do not change. Each of several targets has a threshold of its own.

    A learned threshold lies halfway between two neighbouring probabilities of the rows; of several equally good ones it is
    the one nearest to 0.5.

    Parameters
    ----------
    rule
        "f1" (the largest F1 of the positive class), "cost" (the smallest total cost), or the threshold itself.
    pos_label
        The positive class, or a mapping from target to class; the second class of each target when omitted.
    cost
        With rule="cost": what a row of each outcome costs, by "fp" (a negative row that is predicted positive), "fn", "tp" and
        "tn"; those left out cost 0.

    Raises
    ------
    ParameterError
        For a regression, for more than two classes, for a pos_label that is no class, and where rule and cost do not fit.
    DataError
        When the rows to learn "f1" or "cost" from have one class only.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline import train
    >>> from rayline.postprocess import Threshold
    >>> table = pl.DataFrame({"x": [0.0, 1.0, 2.0, 3.0] * 25, "late": ["no", "no", "no", "yes"] * 25})
    >>> trainer = train.XGBoostTrainer({"max_depth": 2}, num_boost_round=1, seed=1)
    >>> pipeline = train.fit(trainer, None, table, None, ["late"], verbose=False).inference_pipeline
    >>> pipeline.calibrated([Threshold(0.9)]).predict([{"x": 3.0}])
    [{'prediction': 'no'}]
    >>> pipeline.calibrated([Threshold("cost", pos_label="yes", cost={"fp": 1, "fn": 10})], table).predict([{"x": 3.0}])
    [{'prediction': 'yes'}]
    """

    rule: str | float = param(0.5, _RULE)
    pos_label: Any = param(None, anything())
    cost: Mapping[str, float] | None = param(None, _COST)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.rule == "cost") is (self.cost is None):
            raise ParameterError(
                f"Threshold: rule={self.rule!r} with cost={self.cost!r}.",
                "Expected a cost for rule='cost', and for no other rule.",
                "say what mistakes cost: Threshold('cost', cost={'fp': 1, 'fn': 5}).",
            )

    @property
    def needs_rows(self) -> bool:
        return isinstance(self.rule, str)

    def check(self, target: Target) -> None:
        if target.task is not Task.BINARY:
            hint = (
                "leave Threshold out" if target.task.is_classification else "leave Threshold out; Clip limits numbers"
            )
            raise self.refuse_task(target, "a classification with two classes", hint)
        self._positive(target)

    def _positive(self, target: Target) -> list[int]:
        """Return the code of the positive class of each target."""
        given = self.pos_label if isinstance(self.pos_label, Mapping) else dict.fromkeys(target.columns, self.pos_label)
        if strange := [name for name in given if name not in target.columns]:
            raise ParameterError.unknown(strange, target.columns, "target", where="Threshold: pos_label")
        found = []
        for column, classes in zip(target.columns, target.classes, strict=True):
            label = given.get(column)
            codes = [i for i, c in enumerate(classes) if c == label and isinstance(c, bool) == isinstance(label, bool)]
            if label is not None and not codes:
                expected = f"one of the classes {list(classes)!r} of {column!r}"
                raise ParameterError.value("pos_label", expected, label, where="Threshold")
            found.append(codes[0] if codes else 1)
        return found

    def learn(self, rows: CalibrationRows) -> dict[str, Any]:
        target = rows.outcome.target
        codes = self._positive(target)
        if not isinstance(self.rule, str):
            return {"thresholds": [float(self.rule)] * len(codes), "positive": codes}
        thresholds = []
        for i, code in enumerate(codes):
            truth = rows.truth[:, i] == code
            if truth.all() or not truth.any():
                raise DataError(
                    f"Threshold: the rows to learn from have one class only of the target {target.columns[i]!r}.",
                    "Expected rows of both classes.",
                    "take more rows, stratified by the target.",
                )
            p = rows.outcome.values[:, i] if code else 1.0 - rows.outcome.values[:, i]
            thresholds.append(self._best(p, truth, rows.weight))
        return {"thresholds": thresholds, "positive": codes}

    def _best(self, p: Array, truth: Array, weight: Array) -> float:
        values, place = np.unique(-p, return_inverse=True)  # in descending order of the probability
        tp = np.cumsum(np.bincount(place, weights=weight * truth))
        fp = np.cumsum(np.bincount(place, weights=weight * ~truth))
        values, fn, tn = -values, tp[-1] - tp, fp[-1] - fp
        lower = np.append(values[1:], values[-1])
        thresholds = lower + (values - lower) / 2  # the row with the smallest probability itself is the last threshold
        if self.rule == "f1":
            worth = 2.0 * tp / (2.0 * tp + fp + fn)
        else:
            cost = {name: float((self.cost or {}).get(name, 0.0)) for name in COSTS}
            worth = -(cost["fp"] * fp + cost["fn"] * fn + cost["tp"] * tp + cost["tn"] * tn)
            none = -(cost["fn"] * tp[-1] + cost["tn"] * fp[-1])
            above = (values[0] + 1.0) / 2 if values[0] < 1.0 else math.nextafter(values[0], math.inf)
            thresholds = np.append(thresholds, above)
            worth = np.append(worth, none)
        best = np.flatnonzero(worth >= worth.max() - 1e-12 * max(1.0, abs(worth.max())))
        return float(thresholds[best[np.argmin(np.abs(thresholds[best] - 0.5))]])

    def apply(self, outcome: Outcome) -> Outcome:
        codes = np.empty(outcome.values.shape, dtype=np.int64)
        for i, (threshold, code) in enumerate(self._rules):
            values = outcome.values[:, i]
            codes[:, i] = values >= threshold if code else (1.0 - values < threshold)
        return outcome.with_(codes=codes)

    def row_function(self) -> Callable[[RowOutcome], None]:
        rules = self._rules

        def decide(row: RowOutcome) -> None:
            row.codes = [
                int(value >= threshold if code else 1.0 - value < threshold)
                for value, (threshold, code) in zip(row.values, rules, strict=True)
            ]

        return decide

    def summary(self, target: Target) -> str:
        rules = zip(target.columns, target.classes, self._rules, strict=True)
        return "; ".join(f"{column}: {classes[code]!r} from {t:.4g} on" for column, classes, (t, code) in rules)

    @cached_property
    def _rules(self) -> list[tuple[float, int]]:
        state = self.state
        return [(float(t), int(code)) for t, code in zip(state["thresholds"], state["positive"], strict=True)]

"""The labels of a classifier: from which probability on the positive class is predicted, or what costs least of several classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from rayline.core.data_types import PosLabel
from rayline.core.errors import DataError, ParameterError
from rayline.core.stage import ParameterCheck, param
from rayline.core.target import Target, Task
from rayline.postprocess.base import Array, CalibrationRows, Outcome, PostprocessingStage, RowOutcome

COSTS = ("fp", "fn", "tp", "tn")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


_RULE = ParameterCheck(
    "'f1', 'cost' or a probability from 0 to 1",
    lambda v: v in ("f1", "cost") if isinstance(v, str) else _is_number(v) and 0.0 <= v <= 1.0,
)


def _is_matrix(value: Any) -> bool:
    is_list = isinstance(value, (list, tuple)) and len(value) > 0
    return is_list and all(
        isinstance(row, (list, tuple)) and len(row) == len(value) and all(map(_is_number, row)) for row in value
    )


_COST = ParameterCheck(
    f"None, or finite numbers by {', '.join(map(repr, COSTS))}, such as {{'fp': 1, 'fn': 5}}, or a square matrix of them",
    lambda v: (
        v is None
        or _is_matrix(v)
        or (isinstance(v, Mapping) and bool(v) and all(k in COSTS and _is_number(c) for k, c in v.items()))
    ),
)


@dataclass(frozen=True)
class Threshold(PostprocessingStage):
    """The labels of a classifier by a threshold: the positive class of two is predicted where its probability is at least the
    threshold. Probabilities do not change. Each of several targets has a threshold of its own.

    With more than two classes the class is predicted whose expected cost is the smallest: the costs of predicting it, weighted
    by the probabilities of the true classes (Elkan, "The foundations of cost-sensitive learning", 2001). Nothing is learned then,
    and the probabilities must be right: put a `Calibrate` before it.

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
        "tn"; those left out cost 0. With more than two classes a matrix: a row for each true class and in it a number for each
        predicted class, in the order of `model.classes`.

    Raises
    ------
    ParameterError
        For a regression, for a pos_label that is no class, and where rule, cost and the number of classes do not fit.
    DataError
        When the rows to learn "f1" or "cost" from have one class only, or a label is null.

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

    rule: Literal["f1", "cost"] | float = param(0.5, _RULE)
    pos_label: PosLabel | None = None
    cost: Mapping[str, float] | Sequence[Sequence[float]] | None = param(None, _COST)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.rule == "cost") is (self.cost is None):
            raise ParameterError(
                f"Threshold: rule={self.rule!r} with cost={self.cost!r}.",
                "Expected a cost for rule='cost', and for no other rule.",
                "specify the costs of errors: Threshold('cost', cost={'fp': 1, 'fn': 5}).",
            )

    @property
    def needs_rows(self) -> bool:
        return isinstance(self.rule, str) and not _is_matrix(self.cost)

    def check(self, target: Target) -> None:
        if not target.task.is_classification:
            raise self.refuse_task(target, "a classification", "leave Threshold out; Clip limits numbers")
        if target.task is Task.MULTICLASS:
            self._check_matrix(target)
        elif _is_matrix(self.cost):
            raise self.refuse_task(
                target, "more than two classes for a matrix of costs", "pass cost={'fp': 1, 'fn': 5} for two classes"
            )
        else:
            self._positive(target)

    def _check_matrix(self, target: Target) -> None:
        n = len(target.classes[0])
        if not _is_matrix(self.cost) or self.pos_label is not None:
            hint = f"pass Threshold('cost', cost=…) with a row of {n} numbers for each of the classes, or leave Threshold out"
            raise self.refuse_task(target, "two classes, or a matrix of costs without pos_label", hint)
        assert self.cost is not None
        if len(self.cost) != n:
            raise ParameterError.value(
                "cost",
                f"{n} rows and columns, for the classes {list(target.classes[0])}",
                f"{len(self.cost)} of each",
                where="Threshold",
            )

    @cached_property
    def costs(self) -> list[list[float]]:
        """The cost of each predicted class (inner) by the true class (outer), for more than two classes."""
        assert not isinstance(self.cost, Mapping)
        return [[float(cost) for cost in row] for row in self.cost or ()]

    def _positive(self, target: Target) -> list[int]:
        """Return the code of the positive class of each target."""
        labels = (
            self.pos_label if isinstance(self.pos_label, Mapping) else dict.fromkeys(target.columns, self.pos_label)
        )
        if strange := [name for name in labels if name not in target.columns]:
            raise ParameterError.unknown(strange, target.columns, "target", where="Threshold: pos_label")
        positive = []
        for column, classes in zip(target.columns, target.classes, strict=True):
            label = labels.get(column)
            codes = [i for i, c in enumerate(classes) if c == label and isinstance(c, bool) == isinstance(label, bool)]
            if label is not None and not codes:
                expected = f"one of the classes {list(classes)!r} of {column!r}"
                raise ParameterError.value("pos_label", expected, label, where="Threshold")
            positive.append(codes[0] if codes else 1)
        return positive

    def learn(self, rows: CalibrationRows) -> dict[str, Any]:
        target = rows.outcome.target
        if target.task is Task.MULTICLASS:
            return {}
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
                    "use more rows, stratified by the target.",
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
            assert isinstance(self.cost, Mapping)
            cost = {name: float(self.cost.get(name, 0.0)) for name in COSTS}
            worth = -(cost["fp"] * fp + cost["fn"] * fn + cost["tp"] * tp + cost["tn"] * tn)
            none = -(cost["fn"] * tp[-1] + cost["tn"] * fp[-1])
            above = (values[0] + 1.0) / 2 if values[0] < 1.0 else math.nextafter(values[0], math.inf)
            thresholds = np.append(thresholds, above)
            worth = np.append(worth, none)
        best = np.flatnonzero(worth >= worth.max() - 1e-12 * max(1.0, abs(worth.max())))
        return float(thresholds[best[np.argmin(np.abs(thresholds[best] - 0.5))]])

    def apply(self, outcome: Outcome) -> Outcome:
        if outcome.target.task is Task.MULTICLASS:
            expected = np.zeros(outcome.values.shape)
            for chance, costs in zip(outcome.values.T, self.costs, strict=True):  # added up in order, as for one row
                expected += chance[:, None] * np.array(costs)
            return outcome.with_(codes=expected.argmin(axis=1)[:, None].astype(np.int64))
        codes = np.empty(outcome.values.shape, dtype=np.int64)
        for i, (threshold, code) in enumerate(self.rules):
            values = outcome.values[:, i]
            codes[:, i] = values >= threshold if code else (1.0 - values < threshold)
        return outcome.with_(codes=codes)

    def row_function(self) -> Callable[[RowOutcome], None]:
        if _is_matrix(self.cost):
            return self._cheapest
        rules = self.rules

        def decide(row: RowOutcome) -> None:
            row.codes = [
                int(value >= threshold if code else 1.0 - value < threshold)
                for value, (threshold, code) in zip(row.values, rules, strict=True)
            ]

        return decide

    def _cheapest(self, row: RowOutcome) -> None:
        expected = [0.0] * len(row.values)
        for chance, costs in zip(row.values, self.costs, strict=True):
            expected = [total + chance * cost for total, cost in zip(expected, costs, strict=True)]
        row.codes = [expected.index(min(expected))]

    def summary(self, target: Target) -> str:
        if target.task is Task.MULTICLASS:
            return "the class of the smallest expected cost"
        rules = zip(target.columns, target.classes, self.rules, strict=True)
        return "; ".join(f"{column}: {classes[code]!r} from {t:.4g} on" for column, classes, (t, code) in rules)

    @cached_property
    def rules(self) -> list[tuple[float, int]]:
        """The threshold of each target and the code of its positive class."""
        state = self.state
        return [(float(t), int(code)) for t, code in zip(state["thresholds"], state["positive"], strict=True)]

"""Postprocessing stages as nodes of an ONNX graph: the steps of each stage's `apply`, in double precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
from onnx import TensorProto

from rayline.core.errors import ParameterError
from rayline.core.target import Target, Task
from rayline.postprocess.base import PostprocessingStage, interval_names
from rayline.postprocess.calibration import Calibrate
from rayline.postprocess.calibration_maps import EPSILON, MAX_EXPONENT, CalibrationMap, IsotonicMap
from rayline.postprocess.conformal import Conformal
from rayline.postprocess.limits import Clip, Round
from rayline.postprocess.threshold import Threshold

ROUNDING = 1e-6
"""What single precision may change in a probability. A radius is the error of a row, and rows like it must stay in their sets."""

T = TypeVar("T")


class Graph(Protocol):
    """The graph that nodes are added to."""

    def node(self, kind: str, inputs: Sequence[str], *, domain: str = "", **attributes: Any) -> str:
        """Add a node and return its output."""

    def constant(self, value: Any, dtype: Any = np.float64) -> str:
        """Add a constant and return its name."""


@dataclass(frozen=True)
class OutcomeTensors:
    """The tensors of an `Outcome`: values (rows, outputs) as float64, codes (rows, targets) as int64, bounds and sets."""

    graph: Graph
    target: Target
    values: str
    codes: str | None = None
    lower: str | None = None
    upper: str | None = None
    sets: str | None = None

    def column(self, tensor: str, *places: int) -> str:
        """Return some columns of a tensor."""
        return self.graph.node("Gather", [tensor, self.graph.constant(list(places), np.int64)], axis=1)

    def each(self, tensors: Sequence[str]) -> str:
        """Return tensors side by side."""
        return tensors[0] if len(tensors) == 1 else self.graph.node("Concat", list(tensors), axis=1)

    def with_number(self, kind: str, tensor: str, value: Any) -> str:
        """Add a node for a tensor and a number (or a number for each column), and return its output."""
        return self.graph.node(kind, [tensor, self.graph.constant(value)])

    def one_minus(self, tensor: str) -> str:
        """Return 1 minus a tensor."""
        return self.graph.node("Sub", [self.graph.constant(1.0), tensor])

    @property
    def probabilities(self) -> str:
        """The probability of every class of every target."""
        if self.target.task is Task.MULTICLASS:
            return self.values
        n = len(self.target.columns)
        both = self.each([self.one_minus(self.values), self.values])
        return both if n == 1 else self.column(both, *(i + n * k for i in range(n) for k in (0, 1)))

    @property
    def predicted(self) -> str:
        """The predicted codes, (rows, targets)."""
        if self.codes is not None:
            return self.codes
        if self.target.task is Task.MULTICLASS:
            return self.graph.node("ArgMax", [self.values], axis=1, keepdims=1)
        return self.graph.node("Cast", [self.with_number("Greater", self.values, 0.5)], to=TensorProto.INT64)

    @property
    def memberships(self) -> str:
        """Which classes are in the set of each row; the predicted class always is."""
        assert self.sets is not None
        codes, columns, start = self.predicted, [], 0
        for i, classes in enumerate(self.target.classes):
            column = self.column(self.sets, *range(start, start + len(classes)))
            is_it = self.graph.node(
                "Equal", [self.column(codes, i), self.graph.constant([list(range(len(classes)))], np.int64)]
            )
            columns.append(self.graph.node("Or", [column, is_it]))
            start += len(classes)
        return self.each(columns)


@dataclass(frozen=True)
class GraphOutput:
    """An output of the graph: its tensor and its type."""

    tensor: str
    kind: int


def convert(
    graph: Graph, scores: str, width: int, target: Target, stages: Sequence[PostprocessingStage]
) -> dict[str, GraphOutput]:
    """Add the nodes of fitted stages after a model's scores of so many columns, and return the outputs by name, `scores` first.

    Raises ParameterError for a stage without a form in ONNX.
    """
    values = graph.node("Cast", [scores], to=TensorProto.DOUBLE)
    tensors = OutcomeTensors(graph, target, values)
    if target.task is Task.BINARY and width == 2 * len(target.columns):
        tensors = replace(tensors, values=tensors.column(values, *range(1, width, 2)))
    for stage in stages:
        hint = "serve the pipeline with rayline, or export the one that it was calibrated from."
        tensors = form_of(FORMS, stage, "postprocessing stage", hint)(tensors, stage)
    return _outputs(tensors, any(isinstance(stage, Threshold) for stage in stages))


def form_of(forms: Mapping[type, T], step: object, noun: str, hint: str) -> T:
    """Return the form of a step of a pipeline in ONNX. Raises ParameterError when it has none."""
    form = forms.get(type(step))
    if form is None:
        raise ParameterError(
            f"to_onnx: the {noun} {type(step).__name__} cannot be exported to ONNX.",
            f"Expected some of {sorted(kind.__name__ for kind in forms)}.",
            hint,
        )
    return form


def _outputs(tensors: OutcomeTensors, decides: bool) -> dict[str, GraphOutput]:
    graph, target = tensors.graph, tensors.target
    last = tensors.probabilities if target.task.is_classification else tensors.values
    outputs = {"scores": GraphOutput(graph.node("Cast", [last], to=TensorProto.FLOAT), TensorProto.FLOAT)}
    if decides:
        for i, (name, classes) in enumerate(zip(target.prediction_names, target.classes, strict=True)):
            outputs[name] = _labels(tensors, i, classes)
    if tensors.sets is not None:
        outputs["set"] = GraphOutput(tensors.memberships, TensorProto.BOOL)
    if tensors.lower is not None and tensors.upper is not None:
        bounds = {"lower": tensors.lower, "upper": tensors.upper}
        for i, name in enumerate(interval_names(target)):
            bound = tensors.column(bounds[name.partition("_")[0]], i // 2)
            outputs[name] = GraphOutput(graph.node("Cast", [bound], to=TensorProto.FLOAT), TensorProto.FLOAT)
    return outputs


def _labels(tensors: OutcomeTensors, place: int, classes: Sequence[Any]) -> GraphOutput:
    """Return the predicted labels of a target: strings, booleans or numbers as in the data, of other types their codes."""
    codes = tensors.column(tensors.predicted, place)
    if all(isinstance(label, str) for label in classes):
        keys = {"keys_int64s": list(range(len(classes))), "values_strings": list(classes)}
        return GraphOutput(tensors.graph.node("LabelEncoder", [codes], domain="ai.onnx.ml", **keys), TensorProto.STRING)
    for type_, kind, dtype in (
        (bool, TensorProto.BOOL, np.bool_), (int, TensorProto.INT64, np.int64), (float, TensorProto.DOUBLE, np.float64)
    ):  # fmt: skip
        if all(type(label) is type_ for label in classes):
            labels = tensors.graph.constant(list(classes), dtype)
            return GraphOutput(tensors.graph.node("Gather", [labels, codes], axis=0), kind)
    return GraphOutput(codes, TensorProto.INT64)


def _calibrate(tensors: OutcomeTensors, stage: Calibrate) -> OutcomeTensors:
    if "inverse_temperature" in stage.state:
        logits = tensors.graph.node("Log", [tensors.with_number("Max", tensors.values, EPSILON)])
        powers = tensors.graph.node("Exp", [tensors.with_number("Mul", logits, stage.state["inverse_temperature"])])
        return replace(tensors, values=_shares(tensors, powers), codes=None)
    calibrated = tensors.each(
        [
            _mapped(tensors, tensors.column(tensors.values, i), calibration_map)
            for i, calibration_map in enumerate(stage.maps)
        ]
    )
    is_multiclass = tensors.target.task is Task.MULTICLASS
    return replace(tensors, values=_shares(tensors, calibrated) if is_multiclass else calibrated, codes=None)


def _mapped(tensors: OutcomeTensors, p: str, calibration_map: CalibrationMap) -> str:
    graph, number = tensors.graph, tensors.with_number
    if isinstance(calibration_map, IsotonicMap):
        if len(calibration_map.x) == 1:
            return number("Add", number("Mul", p, 0.0), calibration_map.y[0])
        x, y = np.array(calibration_map.x), np.array(calibration_map.y)
        # Within each piece as far as p reaches into it, times its slope.
        reach = number("Min", number("Max", number("Sub", p, [x[:-1].tolist()]), 0.0), [np.diff(x).tolist()])
        rise = graph.node("MatMul", [reach, graph.constant((np.diff(y) / np.diff(x))[:, None])])
        return number("Add", rise, calibration_map.y[0])
    p = number("Min", number("Max", p, EPSILON), 1.0 - EPSILON)
    gain = number("Mul", graph.node("Log", [p]), calibration_map.a)
    loss = number("Mul", graph.node("Log", [tensors.one_minus(p)]), calibration_map.b)
    z = number("Add", graph.node("Sub", [gain, loss]), calibration_map.c)
    z = number("Min", number("Max", z, -MAX_EXPONENT), MAX_EXPONENT)
    under = number("Add", graph.node("Exp", [graph.node("Neg", [z])]), 1.0)
    return graph.node("Div", [graph.constant(1.0), under])


def _shares(tensors: OutcomeTensors, values: str) -> str:
    """Scale the rows to sum to 1; rows of zeros become equal shares."""
    graph, n = tensors.graph, len(tensors.target.classes[0])
    total = graph.node("ReduceSum", [values, graph.constant([1], np.int64)], keepdims=1)
    is_zero = tensors.with_number("LessOrEqual", total, 0.0)
    safe = graph.node("Where", [is_zero, graph.constant(1.0), total])
    return graph.node("Where", [is_zero, graph.constant([[1.0 / n] * n]), graph.node("Div", [values, safe])])


def _threshold(tensors: OutcomeTensors, stage: Threshold) -> OutcomeTensors:
    if tensors.target.task is Task.MULTICLASS:
        costs = tensors.graph.node("MatMul", [tensors.values, tensors.graph.constant(stage.costs)])
        return replace(tensors, codes=tensors.graph.node("ArgMin", [costs], axis=1, keepdims=1))
    labels = []
    for i, (threshold, code) in enumerate(stage.rules):
        values = tensors.column(tensors.values, i)
        if code:
            is_second = tensors.with_number("GreaterOrEqual", values, threshold)
        else:
            is_second = tensors.with_number("Less", tensors.one_minus(values), threshold)
        labels.append(tensors.graph.node("Cast", [is_second], to=TensorProto.INT64))
    return replace(tensors, codes=tensors.each(labels))


def _conformal(tensors: OutcomeTensors, stage: Conformal) -> OutcomeTensors:
    if stage.by is not None or stage.method == "cv+":
        what = f"by={stage.by!r}" if stage.by is not None else f"method={stage.method!r}"
        raise ParameterError(
            f"to_onnx: Conformal with {what} cannot be exported to ONNX.",
            "Expected method='split' without by=.",
            "serve the pipeline with rayline, or calibrate it with Conformal(coverage=…).",
        )
    radius = [float(r) for r in stage.state["radius"]]
    if not tensors.target.task.is_classification:
        lower, upper = (tensors.with_number(kind, tensors.values, [radius]) for kind in ("Sub", "Add"))
        return replace(tensors, lower=lower, upper=upper)
    widths = [len(classes) for classes in tensors.target.classes]
    limits = [(np.repeat(radius, widths) + ROUNDING).tolist()]
    return replace(tensors, sets=tensors.with_number("LessOrEqual", tensors.one_minus(tensors.probabilities), limits))


def _numbers(tensors: OutcomeTensors, change: Callable[[str], str]) -> OutcomeTensors:
    """Change the values, and the bounds where there are some."""
    if tensors.lower is None or tensors.upper is None:
        return replace(tensors, values=change(tensors.values))
    return replace(tensors, values=change(tensors.values), lower=change(tensors.lower), upper=change(tensors.upper))


def _clip(tensors: OutcomeTensors, stage: Clip) -> OutcomeTensors:
    def limited(tensor: str) -> str:
        for kind, bound in (("Max", stage.low), ("Min", stage.high)):
            tensor = tensor if bound is None else tensors.with_number(kind, tensor, float(bound))
        return tensor

    return _numbers(tensors, limited)


def _round(tensors: OutcomeTensors, stage: Round) -> OutcomeTensors:
    before, after = ("Mul", "Div") if stage.decimals >= 0 else ("Div", "Mul")
    factor = 10.0 ** abs(stage.decimals)

    def rounded(tensor: str) -> str:
        whole = tensors.graph.node("Round", [tensors.with_number(before, tensor, factor)])
        return tensors.with_number(after, whole, factor)

    return _numbers(tensors, rounded)


FORMS: Mapping[type[PostprocessingStage], Callable[[OutcomeTensors, Any], OutcomeTensors]] = {
    Calibrate: _calibrate, Threshold: _threshold, Conformal: _conformal, Clip: _clip, Round: _round,
}  # fmt: skip
"""The stages that have a form in ONNX."""

"""ONNX export: a pipeline, preprocessing included, as one graph that runs without Rayline or Python.

The graph walks the same operations as every other executor. Each input column is a tensor of shape (rows, 1): numbers
as float64 (missing is NaN), strings as strings (missing is ""), booleans as booleans. The output `scores` holds
probabilities of the classes in the order of `pipeline.classes`, or values on the scale of the labels. Stages after the model add
outputs: `prediction` the labels of a `Threshold`, `lower` and `upper` the interval of a `Conformal`, `set` which classes are in its set.

Operations and frameworks without a form in ONNX are refused by name. Results agree with the pipeline's to float32
rounding, not to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rayline.core.arguments import known_arguments
from rayline.core.errors import ParameterError, RaylineError, first_line, needing
from rayline.core.files import replace_content
from rayline.core.operations.base import Affine, ClipColumn, Drop, Fill, Operation
from rayline.core.operations.categorical import CategoryCodes, MapCodes, OneHot
from rayline.core.operations.expression import Assign
from rayline.core.operations.linear import Linear
from rayline.core.schema import Kind, kind_of
from rayline.core.target import Target, Task
from rayline.inference import onnx_check
from rayline.inference.pipeline import InferencePipeline, ModelLike, as_pipeline

with needing("rayline.onnx", "onnx", "onnx"):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

from rayline import onnx_postprocessing
from rayline.onnx_postprocessing import GraphOutput


@known_arguments
def to_onnx(model: ModelLike, path: str | Path | None = None) -> onnx.ModelProto:
    """Return a pipeline (or a model, or a framework's own object) as an ONNX model, and write it to `path` if given.

    Raises
    ------
    ParameterError
        When a stage or the framework cannot be exported to ONNX, a column has a type that ONNX does not know, the model has no
        probabilities or predicts other labels than the likeliest classes, or the graph answers otherwise than the
        pipeline: both are asked before it is returned.

    Parameters
    ----------
    model
        An InferencePipeline, a Model, or a framework's own model.
    path
        The file to write; nothing is written when omitted.

    Returns
    -------
    onnx.ModelProto
        One input for each raw column; the output `scores` (see the module), and those of stages after the model.

    Examples
    --------
    >>> from rayline.onnx import to_onnx
    >>> graph = to_onnx(result.inference_pipeline, "late.onnx")  # doctest: +SKIP
    """
    pipeline = as_pipeline(model)
    graph = _Graph()
    columns = {name: graph.column(name, dtype) for name, dtype in pipeline.input_schema.items()}
    for operation in [] if pipeline.preprocessor is None else pipeline.preprocessor.operations:
        _convert(graph, columns, operation)
    features = [graph.number(columns[name], name) for name in pipeline.model.feature_names]
    matrix = graph.node("Cast", [graph.node("Concat", features, axis=1)], to=TensorProto.FLOAT)
    rows = onnx_check.sample_rows(pipeline)
    onnx_check.expected(pipeline.model, rows)
    model = _native(pipeline, len(features))
    width = onnx_check.compare(pipeline.model, model, rows)
    if pipeline.postprocessing:
        onnx_check.compare_stages(pipeline, _stages_alone(pipeline, width), width)
    exported = graph.finish(matrix, model, pipeline, width)
    onnx_check.compare_pipeline(pipeline, exported)
    if path is not None:
        replace_content(path, exported.SerializeToString())
    return exported


def _stages_alone(pipeline: InferencePipeline, width: int) -> Any:
    """Return the stages after the model as a graph of their own, whose input is the model's scores."""
    graph = _Graph()
    graph.inputs.append(helper.make_tensor_value_info("given", TensorProto.FLOAT, [None, width]))
    outputs = onnx_postprocessing.convert(graph, "given", width, pipeline.target, pipeline.postprocessing)
    return graph.model(graph.nodes, graph.constants, outputs, {"": 13, "ai.onnx.ml": 3})


def _native(pipeline: InferencePipeline, width: int) -> Any:
    """Return the framework's own object as an ONNX model."""
    try:
        return pipeline.model.adapter.to_onnx(pipeline.model.native, width)
    except RaylineError:
        raise
    except Exception as error:  # a converter may raise anything about a model that it does not support
        raise ParameterError(
            f"to_onnx: {type(pipeline.model.native).__name__} cannot be exported to ONNX: {first_line(error)}.",
            "Expected a model that the framework's converter supports.",
            "choose another model, or serve the pipeline with rayline.",
        ) from error


@dataclass(frozen=True)
class _Column:
    """A column at some point of the graph: its tensor, whether it contains strings, and the replacement of a missing
    string from here on."""

    tensor: str
    is_text: bool = False
    missing: Any = None


@dataclass
class _Graph:
    inputs: list[Any] = field(default_factory=list)
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)

    def column(self, name: str, dtype: pl.DataType) -> _Column:
        kind = kind_of(dtype)
        kinds = {
            Kind.CATEGORY: TensorProto.STRING,
            Kind.BOOLEAN: TensorProto.BOOL,
            Kind.NUMERIC: TensorProto.DOUBLE,
        }
        if kind not in kinds:
            raise ParameterError(
                f"to_onnx: column {name!r} holds {dtype}, which cannot be exported to ONNX.",
                "Expected numbers, strings and booleans.",
                "convert it to numbers before the pipeline, or drop it (DropColumns).",
            )
        self.inputs.append(helper.make_tensor_value_info(name, kinds[kind], [None, 1]))
        if kind is Kind.BOOLEAN:
            return _Column(self.node("Cast", [name], to=TensorProto.DOUBLE))
        return _Column(name, kind is Kind.CATEGORY)

    def node(self, kind: str, inputs: Sequence[str], *, domain: str = "", **attributes: Any) -> str:
        output = f"rayline_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], domain=domain, **attributes))
        return output

    def constant(self, value: Any, dtype: Any = np.float64) -> str:
        name = f"rayline_constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def number(self, column: _Column, name: str) -> str:
        if column.is_text:
            raise ParameterError(
                f"to_onnx: the model uses the strings of {name!r} as its own categories.",
                "Expected numbers after preprocessing.",
                "encode the column with a stage (OneHotEncoder, OrdinalEncoder).",
            )
        return column.tensor

    def restored(self, scores: str, target: Target) -> str:
        """Return a regression's scores on the scale of the labels."""
        if not target.stages:
            return scores
        if target.quantiles:
            raise ParameterError(
                "to_onnx: quantiles behind target stages cannot be exported to ONNX.",
                f"Expected none; got the stages {[name for name, _ in target.stages]}.",
                "train without target_stages, or serve the pipeline with rayline.",
            )
        n = len(target.columns)
        flat = self.node("Reshape", [scores, self.constant([-1, n], np.int64)])
        double = self.node("Cast", [flat], to=TensorProto.DOUBLE)
        columns = {
            name: _Column(self.node("Gather", [double, self.constant([i], np.int64)], axis=1))
            for i, name in enumerate(target.columns)
        }
        for operation in target.back:
            _convert(self, columns, operation)
        whole = self.node("Concat", [columns[name].tensor for name in target.columns], axis=1)
        return self.node("Cast", [whole], to=TensorProto.FLOAT)

    def finish(self, matrix: str, model: Any, pipeline: InferencePipeline, width: int) -> Any:
        """Join this graph and the framework's, whose only input is the matrix and whose last output has the scores, `width` columns."""
        part, before = model.graph, len(self.nodes)
        renamed = {value.name: f"model_{value.name}" for value in [*part.initializer, *part.output]}
        renamed |= {name: f"model_{name}" for node in part.node for name in node.output}
        renamed |= {part.input[0].name: matrix, "": ""}
        nodes: list[Any] = []
        for node in part.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            del copy.input[:], copy.output[:]
            copy.input.extend(renamed[name] for name in node.input)
            copy.output.extend(renamed[name] for name in node.output)
            copy.name = f"model_{len(nodes)}"
            nodes.append(copy)
        constants = []
        for tensor in part.initializer:
            model_proto = onnx.TensorProto()
            model_proto.CopyFrom(tensor)
            model_proto.name = renamed[tensor.name]
            constants.append(model_proto)
        last = self.restored(renamed[part.output[-1].name], pipeline.model.target)
        outputs = {"scores": GraphOutput(last, TensorProto.FLOAT)}
        if pipeline.postprocessing:
            outputs = onnx_postprocessing.convert(self, last, width, pipeline.target, pipeline.postprocessing)
        versions = {entry.domain: entry.version for entry in model.opset_import} | {"ai.onnx.ml": 3}
        versions[""] = max(versions.get("", 13), 13)
        joined = [*self.nodes[:before], *nodes, *self.nodes[before:]]
        exported = self.model(joined, [*self.constants, *constants], outputs, versions)
        classes = pipeline.classes if pipeline.target.task in (Task.BINARY, Task.MULTICLASS) else []
        about = {"target": ",".join(pipeline.target.columns), "classes": repr(classes)}
        helper.set_model_props(exported, about)
        onnx.checker.check_model(exported)
        return exported

    def model(
        self,
        nodes: Sequence[Any],
        constants: Sequence[Any],
        outputs: Mapping[str, GraphOutput],
        versions: Mapping[str, int],
    ) -> Any:
        """Return nodes and constants as a model with the inputs of this graph and some outputs."""
        ends = [helper.make_node("Identity", [output.tensor], [name]) for name, output in outputs.items()]
        infos = [helper.make_tensor_value_info(name, output.kind, [None, None]) for name, output in outputs.items()]
        graph = helper.make_graph([*nodes, *ends], "rayline", self.inputs, infos, list(constants))
        exported = helper.make_model(
            graph, opset_imports=[helper.make_opsetid(d, v) for d, v in versions.items()], producer_name="rayline"
        )
        exported.ir_version = 8
        return exported


def _formula(graph: _Graph, columns: Mapping[str, _Column], formula: Any) -> str:
    """Convert a formula to nodes; missing is NaN, which every function except a comparison propagates."""
    if isinstance(formula, str):
        raise ParameterError(
            f"to_onnx: a formula uses the text {formula!r}.",
            "Expected numbers.",
            "encode the column with a stage.",
        )
    if not isinstance(formula, (list, tuple)):
        return graph.constant(np.nan if formula is None else float(formula))
    name, *arguments = formula
    if name == "col":
        return graph.number(columns[arguments[0]], arguments[0])
    inputs = [_formula(graph, columns, argument) for argument in arguments]
    if name == "number":
        return inputs[0]
    if name == "fill":
        return graph.node("Where", [graph.node("IsNaN", inputs[:1]), inputs[1], inputs[0]])
    if name == "log1p":
        return graph.node("Log", [graph.node("Add", [inputs[0], graph.constant(1.0)])])
    kind = _NODES.get(name)
    if kind is None:
        raise ParameterError(
            f"to_onnx: the function {name!r} of a formula cannot be exported to ONNX.",
            f"Expected some of {sorted(_NODES)}.",
        )
    return graph.node(kind, inputs)


_NODES: Mapping[str, str] = {
    "+": "Add", "-": "Sub", "*": "Mul", "/": "Div", "**": "Pow", "max": "Max", "abs": "Abs", "sqrt": "Sqrt", "exp": "Exp",
    "log": "Log", "sin": "Sin", "cos": "Cos", "floor": "Floor", ">": "Greater", ">=": "GreaterOrEqual", "<": "Less",
    "<=": "LessOrEqual", "==": "Equal", "if": "Where", "is_null": "IsNaN",
}  # fmt: skip
"""Functions of formulas that correspond to one ONNX node. A condition on a missing number is false in both."""


def _assign(graph: _Graph, columns: dict[str, _Column], operation: Any) -> None:
    outputs = {name: _Column(_formula(graph, columns, formula)) for name, formula in operation.formulas.items()}
    columns.update(outputs)


def _fill(graph: _Graph, columns: dict[str, _Column], operation: Any) -> None:
    column = columns[operation.column]
    if column.is_text:  # stored until an encoder needs the replacement of a missing string
        columns[operation.column] = _Column(column.tensor, True, operation.value)
        return
    missing = graph.node("IsNaN", [column.tensor])
    value = graph.constant(float(operation.value))
    columns[operation.column] = _Column(graph.node("Where", [missing, value, column.tensor]))


def _affine(graph: _Graph, columns: dict[str, _Column], operation: Any) -> None:
    tensor = graph.node("Sub", [columns[operation.column].tensor, graph.constant(operation.shift)])
    tensor = graph.node("Mul", [tensor, graph.constant(1.0 / operation.scale)])
    columns[operation.column] = _Column(graph.node("Add", [tensor, graph.constant(operation.offset)]))


def _clip(graph: _Graph, columns: dict[str, _Column], operation: Any) -> None:
    tensor = columns[operation.column].tensor
    for kind, bound in (("Max", operation.low), ("Min", operation.high)):
        if bound is not None:
            tensor = graph.node(kind, [tensor, graph.constant(bound)])
    columns[operation.column] = _Column(tensor)


def _one_hot(graph: _Graph, columns: dict[str, _Column], operation: Any) -> None:
    codes = _codes(graph, columns[operation.codes.column], operation.codes)
    del columns[operation.codes.column]
    for code, name in enumerate(operation.outputs):
        if name is not None:
            same = graph.node("Equal", [codes, graph.constant(code, np.int64)])
            columns[name] = _Column(graph.node("Cast", [same], to=TensorProto.DOUBLE))


def _map_codes(graph: _Graph, columns: dict[str, _Column], operation: Any) -> None:
    codes = _codes(graph, columns[operation.codes.column], operation.codes)
    output = operation.output or operation.codes.column
    if operation.values is None:
        columns[output] = _Column(graph.node("Cast", [codes], to=TensorProto.DOUBLE))
        return
    values = [np.nan if value is None else float(value) for value in operation.values]
    tensor = graph.node(
        "LabelEncoder",
        [codes],
        domain="ai.onnx.ml",
        keys_int64s=list(range(len(values))),
        values_floats=values,
        default_float=np.nan,
    )
    columns[output] = _Column(graph.node("Cast", [tensor], to=TensorProto.DOUBLE))


def _codes(graph: _Graph, column: _Column, codes: CategoryCodes) -> str:
    places = codes.places()
    missing = places.pop(None, codes.missing)
    if codes.unknown is None or missing is None:
        raise ParameterError(
            f"to_onnx: stage {codes.stage!r} refuses values, which an ONNX graph cannot do.",
            "Expected handle_unknown='ignore' and a treatment of missing values.",
            "change the stage's parameters.",
        )
    if column.is_text:
        filled = missing if column.missing is None else places.get(column.missing, codes.unknown)
        keys, values = [*places, ""], [*places.values(), filled]
        if "" in places:
            keys, values = list(places), list(places.values())
        return graph.node(
            "LabelEncoder",
            [column.tensor],
            domain="ai.onnx.ml",
            keys_strings=[str(key) for key in keys],
            values_int64s=values,
            default_int64=codes.unknown,
        )
    tensor = graph.constant(codes.unknown, np.int64)
    for value, code in places.items():
        same = graph.node("Equal", [column.tensor, graph.constant(float(value))])
        tensor = graph.node("Where", [same, graph.constant(code, np.int64), tensor])
    absent = graph.node("IsNaN", [column.tensor])
    return graph.node("Where", [absent, graph.constant(missing, np.int64), tensor])


def _linear(graph: _Graph, columns: dict[str, _Column], operation: Any) -> None:
    matrix = graph.node("Concat", [graph.number(columns[name], name) for name in operation.columns], axis=1)
    centred = graph.node("Sub", [matrix, graph.constant([list(operation.shift)])])
    product = graph.node("MatMul", [centred, graph.constant(np.array(operation.weights, dtype=np.float64).T)])
    total = graph.node("Add", [product, graph.constant([list(operation.offset)])])
    for i, name in enumerate(operation.outputs):
        columns[name] = _Column(graph.node("Gather", [total, graph.constant([i], np.int64)], axis=1))


def _drop(_: _Graph, columns: dict[str, _Column], operation: Any) -> None:
    for name in operation.columns:
        columns.pop(name, None)  # the graph needs no node for unused columns


_FORMS: Mapping[type[Operation], Callable[[_Graph, dict[str, _Column], Any], None]] = {
    Fill: _fill,
    Affine: _affine,
    ClipColumn: _clip,
    OneHot: _one_hot,
    MapCodes: _map_codes,
    Drop: _drop,
    Assign: _assign,
    Linear: _linear,
}


def _convert(graph: _Graph, columns: dict[str, _Column], operation: Operation) -> None:
    hint = "leave its stage out, or serve the pipeline with rayline."
    onnx_postprocessing.form_of(_FORMS, operation, "operation", hint)(graph, columns, operation)

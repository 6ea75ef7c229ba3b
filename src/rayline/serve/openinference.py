"""The Open Inference Protocol (KServe V2, REST): one tensor per column, in JSON or as bytes after the JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from rayline.core.target import Target
from rayline.inference.pipeline import InferencePipeline
from rayline.serve.protocol import HTTPError, dumps, json_value, loads

_NUMPY = {
    "BOOL": "|b1", "UINT8": "|u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8",
    "INT8": "|i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip

HEADER = b"inference-header-content-length"


def datatype(dtype: pl.DataType) -> str:
    """Return the tensor type of a column; BYTES for text and for types that are written as text."""
    if dtype == pl.Boolean:
        return "BOOL"
    if dtype.is_float():
        return "FP32" if dtype == pl.Float32 else "FP64"
    name = str(dtype).upper()
    return name if dtype.is_integer() and name in _NUMPY else "BYTES"


class InferenceRequest(NamedTuple):
    """A decoded request: values by column, and what is to be answered how."""

    columns: dict[str, list[Any]]
    n_rows: int
    id: str | None
    outputs: dict[str, bool] | None  # name → as bytes; None: all
    binary: bool


def metadata(name: str, platform: str, pipeline: InferencePipeline, *, probabilities: bool) -> dict[str, Any]:
    """The answer to `GET /v2/models/{name}`."""
    schema, target = pipeline.input_schema, pipeline.target
    inputs = [{"name": column, "datatype": datatype(dtype), "shape": [-1]} for column, dtype in schema.items()]
    outputs: list[dict[str, Any]] = []
    for output, dtype in target.predictions(_none(target)).schema.items():
        outputs.append({"name": output, "datatype": datatype(dtype), "shape": [-1]})
    for output, interval_classes in zip(
        pipeline.interval_names, _interval_classes(pipeline.interval_names, target), strict=True
    ):
        kind = (
            {"datatype": "FP64", "shape": [-1]}
            if interval_classes is None
            else {"datatype": "BOOL", "shape": [-1, len(interval_classes)]}
        )
        outputs.append({"name": output, **kind})
    if probabilities:
        for output, classes in _probability_outputs(target).items():
            outputs.append({"name": output, "datatype": "FP64", "shape": [-1, classes]})
    return {"name": name, "versions": ["1"], "platform": platform, "inputs": inputs, "outputs": outputs}


def decode(body: bytes, header_bytes: int | None, schema: Mapping[str, pl.DataType]) -> InferenceRequest:
    """Decode a request's tensors into columns. Raises HTTPError (400) when they violate the protocol."""
    if header_bytes is not None and not 0 < header_bytes <= len(body):
        raise HTTPError(400, "Inference-Header-Content-Length is not a length within the body.")
    head, blob = (body, b"") if header_bytes is None else (body[:header_bytes], body[header_bytes:])
    request = loads(head)
    inputs = request.get("inputs") if isinstance(request, dict) else None
    if not isinstance(inputs, list) or not inputs or not all(isinstance(i, dict) for i in inputs):
        raise HTTPError(400, 'Expected "inputs": a list of tensors.')
    tensors: dict[str, tuple[list[int], list[Any]]] = {}
    at = 0
    for tensor in inputs:
        name, shape, kind, data, at = _tensor(tensor, blob, at)
        if name in tensors:
            raise HTTPError(400, f"The tensor {name!r} occurs twice.")
        tensors[name] = (shape, _values(kind, data, shape, name))
    if at != len(blob):
        raise HTTPError(400, f"{len(blob) - at} bytes follow the last tensor.")
    columns, n_rows = _columns(tensors, list(schema))
    parameters, wanted_outputs = request.get("parameters"), request.get("outputs")
    binary = isinstance(parameters, dict) and parameters.get("binary_data_output") is True
    outputs = None
    if wanted_outputs is not None:
        if not isinstance(wanted_outputs, list) or not all(
            isinstance(o, dict) and isinstance(o.get("name"), str) for o in wanted_outputs
        ):
            raise HTTPError(400, 'Expected "outputs": a list of objects with a name.')
        outputs = {}
        for output in wanted_outputs:
            output_parameters = output.get("parameters")
            outputs[output["name"]] = (
                binary
                if not isinstance(output_parameters, dict)
                else output_parameters.get("binary_data", binary) is True
            )
    identity = request.get("id")
    return InferenceRequest(columns, n_rows, identity if isinstance(identity, str) else None, outputs, binary)


def wants_probabilities(request: InferenceRequest, target: Target) -> bool:
    """Return whether a request wants probabilities, by name or because it names no outputs."""
    return request.outputs is None or any(name in _probability_outputs(target) for name in request.outputs)


def encode(
    name: str,
    request: InferenceRequest,
    target: Target,
    predictions: pl.DataFrame,
    probabilities: pl.DataFrame | None,
    intervals: pl.DataFrame,
) -> tuple[bytes, int | None]:
    """Return the answer's body, and the length of its JSON when bytes follow. Raises HTTPError (400) on unknown outputs.

    A set of classes is a row of booleans, one for each class in the order of the probabilities.
    """
    tensors: dict[str, tuple[str, Sequence[int], list[Any]]] = {}
    for column in predictions:
        tensors[column.name] = (datatype(column.dtype), [len(column)], [json_value(v) for v in column.to_list()])
    for column, members in zip(intervals, _interval_classes(intervals.columns, target), strict=True):
        if members is None:
            tensors[column.name] = ("FP64", [len(column)], column.to_list())
        else:
            flags = [label in labels for labels in column.to_list() for label in members]
            tensors[column.name] = ("BOOL", [len(column), len(members)], flags)
    if probabilities is not None:
        first = 0
        for output, classes in _probability_outputs(target).items():
            part = probabilities[:, first : first + classes]
            tensors[output] = ("FP64", [part.height, classes], part.to_numpy().ravel().tolist())
            first += classes
    wanted = dict.fromkeys(tensors, request.binary) if request.outputs is None else request.outputs
    unknown = [output for output in wanted if output not in tensors]
    if unknown:
        raise HTTPError(400, f"There is no output {unknown[0]!r}. The outputs are {sorted(tensors)}.")
    outputs, blobs = [], []
    for output, binary in wanted.items():
        kind, shape, values = tensors[output]
        tensor: dict[str, Any] = {"name": output, "datatype": kind, "shape": list(shape)}
        if binary:
            blob = _bytes(kind, values)
            tensor["parameters"] = {"binary_data_size": len(blob)}
            blobs.append(blob)
        else:
            tensor["data"] = values
        outputs.append(tensor)
    answer: dict[str, Any] = {"model_name": name, "model_version": "1", "outputs": outputs}
    if request.id is not None:
        answer["id"] = request.id
    head = dumps(answer)
    return head + b"".join(blobs), len(head) if blobs else None


# -- tensors -------------------------------------------------------------------------------------------------------


def _tensor(tensor: Mapping[str, Any], blob: bytes, at: int) -> tuple[str, list[int], str, Any, int]:
    name, shape, kind = tensor.get("name"), tensor.get("shape"), tensor.get("datatype")
    if not isinstance(name, str) or not isinstance(kind, str) or (kind != "BYTES" and kind not in _NUMPY):
        raise HTTPError(400, f"A tensor needs a name and a datatype out of {[*_NUMPY, 'BYTES']}.")
    if not isinstance(shape, list) or not 1 <= len(shape) <= 2 or not all(type(s) is int and s >= 0 for s in shape):
        raise HTTPError(400, f"The tensor {name!r} needs a shape of one or two lengths, [rows] or [rows, width].")
    parameters = tensor.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is None:
        return name, shape, kind, tensor.get("data"), at
    if type(size) is not int or not 0 <= size <= len(blob) - at:
        raise HTTPError(400, f"binary_data_size of the tensor {name!r} goes beyond the body.")
    return name, shape, kind, blob[at : at + size], at + size


def _values(kind: str, data: Any, shape: Sequence[int], name: str) -> list[Any]:
    """Return the elements as JSON values, row by row; NaN becomes None."""
    n = math.prod(shape)
    if isinstance(data, bytes):
        values = _strings(data, name) if kind == "BYTES" else _numbers(kind, data, name)
    elif isinstance(data, list):
        values = _declared(kind, _flat(data, 0), name)
    else:
        raise HTTPError(400, f"The tensor {name!r} has no data.")
    if len(values) != n:
        raise HTTPError(400, f"The tensor {name!r} has {len(values)} elements; its shape {list(shape)} needs {n}.")
    return values


def _flat(data: list[Any], depth: int) -> list[Any]:
    if depth > 2:
        raise HTTPError(400, "The data of a tensor is nested too deeply.")
    if not any(isinstance(v, list) for v in data):
        return data
    return [x for v in data for x in (_flat(v, depth + 1) if isinstance(v, list) else [v])]


def _declared(kind: str, values: list[Any], name: str) -> list[Any]:
    """Convert JSON values to the precision of the datatype, and refuse values that it cannot represent. BYTES are left for the
    column to check."""
    if kind == "BYTES":
        return values
    try:
        if not set(map(type, values)) <= ({bool, type(None)} if kind == "BOOL" else {int, float, type(None)}):
            raise ValueError
        if kind.startswith("FP"):
            with np.errstate(over="ignore"):
                numbers = np.array([0 if v is None else v for v in values], dtype=np.float64).astype(_NUMPY[kind])
            if not np.isfinite(numbers).all():
                raise ValueError
            return [None if v is None else x for v, x in zip(values, numbers.astype(np.float64).tolist(), strict=True)]
        if kind != "BOOL":
            low, high = np.iinfo(_NUMPY[kind]).min, np.iinfo(_NUMPY[kind]).max
            if any(v is not None and not (v == int(v) and low <= v <= high) for v in values):
                raise ValueError
    except (ValueError, OverflowError):
        raise HTTPError(400, f"The tensor {name!r} has values that are not {kind}.") from None
    return values


def _numbers(kind: str, data: bytes, name: str) -> list[Any]:
    dtype = np.dtype(_NUMPY[kind])
    if len(data) % dtype.itemsize:
        raise HTTPError(400, f"The length of the tensor {name!r} is not a multiple of the size of {kind}.")
    array = np.frombuffer(data, dtype=dtype)
    values: list[Any] = array.astype(np.float64).tolist() if kind == "FP16" else array.tolist()
    return [None if v != v else v for v in values] if kind.startswith("FP") else values


def _strings(data: bytes, name: str) -> list[str]:
    values, at = [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "little")
        at += 4
        if at + length > len(data):
            raise HTTPError(400, f"A string of the tensor {name!r} goes beyond its bytes.")
        try:
            values.append(data[at : at + length].decode("utf-8"))
        except UnicodeDecodeError:
            raise HTTPError(400, f"A string of the tensor {name!r} is not UTF-8.") from None
        at += length
    return values


def _bytes(kind: str, values: Sequence[Any]) -> bytes:
    if kind != "BYTES":
        return np.array(values, dtype=_NUMPY[kind]).tobytes()
    texts = [(v if isinstance(v, str) else str(v)).encode() for v in values]
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


def _columns(
    tensors: Mapping[str, tuple[list[int], list[Any]]], names: Sequence[str]
) -> tuple[dict[str, list[Any]], int]:
    if len(tensors) == 1 and len(names) > 1:
        ((shape, values),) = tensors.values()
        width = len(names)
        if len(shape) == 2 and shape[1] == width:  # all columns side by side
            return {name: values[i::width] for i, name in enumerate(names)}, shape[0]
    columns = {}
    for name, (shape, values) in tensors.items():
        if len(shape) == 2 and shape[1] != 1:
            raise HTTPError(400, f"The tensor {name!r} has the shape {shape}; a column has [rows] or [rows, 1].")
        columns[name] = values
    lengths = {shape[0] for shape, _ in tensors.values()}
    if len(lengths) > 1:
        raise HTTPError(400, f"The tensors have different numbers of rows: {sorted(lengths)}.")
    return columns, lengths.pop()


def _interval_classes(names: Sequence[str], target: Target) -> list[Sequence[Any] | None]:
    """Return for each column of intervals the classes of its target, None for the end of an interval."""
    return list(target.classes) if names and target.task.is_classification else [None for _ in names]


def _probability_outputs(target: Target) -> dict[str, int]:
    """Return the names of the probability tensors and their widths."""
    if len(target.columns) == 1:
        return {"probabilities": len(target.classes[0])} if target.classes else {}
    return {f"probabilities_{c}": len(classes) for c, classes in zip(target.columns, target.classes, strict=False)}


def _none(target: Target) -> Any:
    return np.empty((0, target.n_outputs) if target.n_outputs > 1 else 0)

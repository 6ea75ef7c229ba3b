"""The OpenAPI document of a served pipeline, generated from its schema and its example rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from rayline.inference.pipeline import InferencePipeline
from rayline.serve.openinference import datatype
from rayline.serve.options import ServerOptions
from rayline.serve.protocol import finite, json_value


def document(options: ServerOptions, pipeline: InferencePipeline, has_probabilities: bool) -> dict[str, Any]:
    """Return the OpenAPI document."""
    target = pipeline.target
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": options.name,
            "version": "1",
            "description": f"{str(target.task).capitalize()} of {', '.join(target.columns)}.",
        },
        "paths": _paths(options.name, pipeline, has_probabilities),
        "components": {"schemas": {"Row": _row(pipeline), "Error": _ERROR}},
    }
    if options.token is not None:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
    return document


def _paths(name: str, pipeline: InferencePipeline, has_probabilities: bool) -> dict[str, Any]:
    examples = example_rows(pipeline)
    instances = {"type": "object", "properties": {"instances": _ROWS}, "required": ["instances"]}
    answer = {"type": "object", "properties": _answer(pipeline, has_probabilities)}
    first = {"instances": examples[:1]} if examples else None
    tensors = (
        "Predict tensors (Open Inference Protocol V2)",
        {"type": "object"},
        {"type": "object"},
        _tensors(pipeline),
    )
    return {
        "/predict": {"post": _predict(pipeline, answer, examples, has_probabilities)},
        "/explain": {"post": _explain(examples)},
        f"/v1/models/{name}:predict": {"post": _post("Predict rows (KServe V1)", instances, answer, first)},
        f"/v2/models/{name}": {"get": _get("Names and types of the tensors (Open Inference Protocol V2)")},
        f"/v2/models/{name}/infer": {"post": _post(*tensors)},
        **{path: {"get": _get(summary)} for path, summary in _PAGES.items()},
    }


def _predict(
    pipeline: InferencePipeline, answer: Mapping[str, Any], examples: Any, has_probabilities: bool
) -> dict[str, Any]:
    """Return the description of /predict."""
    arrays = {name: {"type": "array", "items": column(dtype)} for name, dtype in pipeline.input_schema.items()}
    by_column = {"type": "object", "properties": arrays}
    forms = [_ROWS, *({"type": "object", "properties": form} for form in ({"rows": _ROWS}, {"columns": by_column}))]
    predict = _post("Predict rows", {"oneOf": forms}, {**answer, "required": ["predictions"]}, examples)
    predict["parameters"] = [_PROBA] if has_probabilities else []
    predict["requestBody"]["content"]["application/vnd.apache.arrow.stream"] = _ARROW
    return predict


def _row(pipeline: InferencePipeline) -> dict[str, Any]:
    """Return the schema of a row, with examples where there are some."""
    columns = {name: column(dtype) for name, dtype in pipeline.input_schema.items()}
    row = {"type": "object", "properties": columns, "required": list(columns)}
    examples = example_rows(pipeline)
    return {**row, "examples": examples} if examples else row


def _answer(pipeline: InferencePipeline, has_probabilities: bool) -> dict[str, Any]:
    """Return the schemas of what an answer holds."""
    target = pipeline.target
    value = {
        c: _label(d, target.classes[i] if target.classes else ())
        for i, (c, d) in enumerate(zip(target.value_names, target.value_dtypes, strict=True))
    }
    one = next(iter(value.values())) if len(value) == 1 else {"type": "object", "properties": value}
    return {
        "predictions": {"type": "array", "items": one},
        **(_interval(pipeline) if pipeline.has_intervals else {}),
        **({"probabilities": _PROBABILITIES} if has_probabilities else {}),
    }


def example_rows(pipeline: InferencePipeline) -> list[dict[str, Any]]:
    """Return a few rows of the training data as JSON values."""
    return [{name: finite(json_value(value)) for name, value in row.items()} for row in pipeline.examples.to_dicts()]


def _interval(pipeline: InferencePipeline) -> dict[str, Any]:
    """Return the schema of the intervals or sets in an answer."""
    target = pipeline.target
    if target.task.is_classification:
        bounds: list[dict[str, Any]] = [
            {"type": "array", "items": {"enum": [json_value(c) for c in cs]}} for cs in target.classes
        ]
    else:
        ends = {"lower": {"type": "number"}, "upper": {"type": "number"}}
        bounds = [{"type": "object", "properties": ends} for _ in target.columns]
    one = (
        bounds[0]
        if len(bounds) == 1
        else {"type": "object", "properties": dict(zip(target.columns, bounds, strict=True))}
    )
    return {"sets" if target.task.is_classification else "intervals": {"type": "array", "items": one}}


def _explain(examples: Any) -> dict[str, Any]:
    """Return the description of /explain."""
    numbers = {"type": "object", "additionalProperties": {"type": "number"}}
    one = {
        "type": "object",
        "properties": {"contributions": numbers, "base_value": {"type": "number"}, "score": {"type": "number"}},
        "description": "The base value and the contributions add up to the score. With several targets an object of these.",
    }
    request = {
        "oneOf": [
            _ROWS,
            {"type": "object", "properties": {"rows": _ROWS, "of": {"description": "a class or a target"}}},
        ]
    }
    answer = {
        "type": "object",
        "properties": {"explanations": {"type": "array", "items": one}},
        "required": ["explanations"],
    }
    return _post("Explain predictions: what each column contributes to the score", request, answer, examples[:1])


def _tensors(pipeline: InferencePipeline) -> dict[str, Any] | None:
    rows = example_rows(pipeline)[:1]
    if not rows:
        return None
    inputs = [
        {"name": name, "datatype": datatype(dtype), "shape": [1], "data": [rows[0][name]]}
        for name, dtype in pipeline.input_schema.items()
    ]
    return {"inputs": inputs}


def column(dtype: pl.DataType) -> dict[str, Any]:
    """Return the JSON schema of a column's values; null is a missing value."""
    kind: dict[str, Any]
    if dtype.is_integer():
        kind = {"type": ["integer", "null"]}
    elif dtype.is_numeric() or isinstance(dtype, pl.Duration):
        kind = {"type": ["number", "null"]}
    elif dtype == pl.Boolean:
        kind = {"type": ["boolean", "null"]}
    elif dtype in (pl.Date, pl.Time) or isinstance(dtype, pl.Datetime):
        form = "date" if dtype == pl.Date else "time" if dtype == pl.Time else "date-time"
        kind = {"type": ["string", "null"], "format": form}
    elif isinstance(dtype, (pl.List, pl.Array)):
        kind = {"type": ["array", "null"]}
    elif isinstance(dtype, pl.Struct):
        kind = {"type": ["object", "null"]}
    else:
        kind = {"type": ["string", "null"]}
    return kind


def _label(dtype: pl.DataType, classes: Any) -> dict[str, Any]:
    return {"enum": [json_value(c) for c in classes]} if classes else {"type": column(dtype)["type"][0]}


_ROWS = {"type": "array", "items": {"$ref": "#/components/schemas/Row"}, "minItems": 1}

_ARROW = {"schema": {"type": "string", "format": "binary"}}

_PROBA = {
    "name": "proba", "in": "query", "schema": {"type": "boolean"}, "description": "Whether to add probabilities.",
}  # fmt: skip

_PROBABILITIES = {
    "type": "array", "items": {"type": "object"}, "description": "One number per class; only if requested.",
}  # fmt: skip

_PAGES = {
    "/health": "Whether the server is ready",
    "/v2/health/live": "Whether the server is alive",
    "/v2/health/ready": "Whether the server is ready",
    "/metrics": "Counters for Prometheus",
}
"""The pages that take nothing, and what they answer."""

_ERROR = {
    "type": "object",
    "properties": {
        "error": {"type": "string"},
        "problems": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"row": {"type": "integer"}, "column": {"type": "string"}, "problem": {"type": "string"}},
            },
        },
    },
    "required": ["error"],
}

_REFUSALS = {
    400: "The body is malformed.",
    413: "The body is too large.",
    422: "Rows do not match the schema; the problems are listed.",
    503: "Too many requests are waiting; see Retry-After.",
    504: "The request took too long.",
}


def _post(summary: str, body: Mapping[str, Any], answer: Mapping[str, Any], example: Any) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": body}
    if example:
        content["example"] = example
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": content}},
        "responses": {
            "200": {"description": "Predictions, one per row.", "content": {"application/json": {"schema": answer}}},
            **{str(code): {"description": words, "content": error} for code, words in _REFUSALS.items()},
        },
    }


def _get(summary: str) -> dict[str, Any]:
    return {"summary": summary, "responses": {"200": {"description": summary}}}

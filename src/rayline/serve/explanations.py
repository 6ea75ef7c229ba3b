"""Explanations of served predictions: what each column contributes to the score of a row (see `InferencePipeline.explain`)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import polars as pl

from rayline.core import registry
from rayline.core.errors import ParameterError
from rayline.inference.pipeline import InferencePipeline
from rayline.postprocess.base import suffixes
from rayline.serve.protocol import HTTPError, json_value

MAX_EXACT_ROWS = 100
"""Rows of a request whose contributions the framework computes."""

MAX_ESTIMATED_ROWS = 10
"""Rows of a request whose contributions are estimated from predictions: each of them takes hundreds."""

_PREFIX = "\x1f"  # begins the internal names of contributions, so that no raw column is in the way


class RowExplainer:
    """Explains rows of requests with the model's examples as their background."""

    def __init__(self, pipeline: InferencePipeline) -> None:
        self._pipeline = pipeline

    @cached_property
    def _explainer(self) -> Any:
        return self._of(None)

    def _of(self, of: Any) -> Any:
        return registry.pipeline_method("explain").explainer(self._pipeline, of=of, prefix=_PREFIX)

    @property
    def is_possible(self) -> bool:
        """Whether rows can be explained: an estimate needs example rows to compare with."""
        return self.is_exact or bool(self._pipeline.examples.height)

    @property
    def is_exact(self) -> bool:
        """Whether the framework computes the contributions."""
        return bool(self._explainer.is_exact)

    def check(self, n_rows: int) -> None:
        """Raise HTTPError when a request has too many rows, or they cannot be explained."""
        if not self.is_possible:
            raise HTTPError(422, "This model cannot be explained: it has no example rows to compare with.")
        max_rows = MAX_EXACT_ROWS if self.is_exact else MAX_ESTIMATED_ROWS
        if n_rows > max_rows:
            raise HTTPError(
                422, f"{n_rows} rows are too many to explain in one request. Send at most {max_rows} rows at a time."
            )

    def explanations(self, table: pl.DataFrame, of: Any) -> list[Any]:
        """Return `{"contributions": {…}, "base_value": …, "score": …}` for each row, with `class` where several classes were
        possible; of several targets an object of these. Raises HTTPError when `of` is no class or target."""
        try:
            explainer = self._explainer if of is None else self._of(of)
        except ParameterError as error:
            raise HTTPError(422, str(error)) from None
        target, columns = self._pipeline.model.target, list(self._pipeline.input_schema)
        every = suffixes(target) if of is None and len(target.quantiles) < 2 else [""]  # else one score is explained
        rows = explainer.table(table).to_dicts()
        explanations = [[_explanation(row, columns, suffix) for suffix in every] for row in rows]
        if len(every) == 1:
            return [by_target[0] for by_target in explanations]
        return [dict(zip(target.columns, by_target, strict=True)) for by_target in explanations]


def _explanation(row: Mapping[str, Any], columns: list[str], suffix: str) -> dict[str, Any]:
    explanation: dict[str, Any] = {
        "contributions": {name: row[f"{_PREFIX}{name}{suffix}"] for name in columns},
        "base_value": row[f"{_PREFIX}base_value{suffix}"],
        "score": row[f"{_PREFIX}score{suffix}"],
    }
    if f"{_PREFIX}class" in row:
        explanation["class"] = json_value(row[f"{_PREFIX}class"])
    return explanation

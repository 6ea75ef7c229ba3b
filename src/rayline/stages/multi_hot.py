"""Encoding of lists of categories as 0/1 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import polars as pl

from rayline.core.errors import SchemaError
from rayline.core.operations.base import Changes, Drop, Operation, Row, RowFunction, Step
from rayline.core.schema import Kind, col
from rayline.core.stage import ColumnStage, FitContext, an_int, param
from rayline.core.statistics.base import StatisticRequest
from rayline.core.statistics.counts import ValueCounts
from rayline.core.text_analysis import named_by


def _is_plain(dtype: pl.DataType) -> bool:
    """Whether a list type has elements that can be categories."""
    inner = getattr(dtype, "inner", None)
    return inner is not None and (inner in (pl.String, pl.Boolean) or inner.is_integer())


@dataclass(frozen=True)
class MultiHotEncoder(ColumnStage):
    """Replace each list column by one 0/1 column (UInt8) per element that fit saw, named `column_element`:
    scikit-learn's MultiLabelBinarizer for features.

    Missing and empty lists become zeros; elements that fit did not see are ignored.

    Parameters
    ----------
    columns
        List columns; when omitted, all whose elements are strings, integers or booleans.
    max_categories
        The maximum number of elements per column; the most frequent ones are kept.

    Raises
    ------
    SchemaError
        In fit, when a column does not hold lists of strings, integers or booleans, or a new name exists already.
    ParameterError
        When `max_categories` is below 1.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import MultiHotEncoder
    >>> Preprocessor([("tags", MultiHotEncoder())]).fit_transform(pl.DataFrame({"t": [["a", "b"], ["b"]]})).to_dict(as_series=False)
    {'t_a': [1, 0], 't_b': [1, 1]}
    """

    kinds: ClassVar = (Kind.LIST,)
    accepts: ClassVar = (Kind.LIST,)

    lossy_reason: ClassVar = "order, repetition, missing lists and elements without a column"

    max_categories: int | None = param(None, an_int(1, none=True))

    def select(self, schema: Mapping[str, pl.DataType], **how: Any) -> list[str]:
        chosen = super().select(schema, **how)
        return chosen if self.columns is not None else [column for column in chosen if _is_plain(schema[column])]

    def column_requests(self, column: str, context: FitContext) -> list[StatisticRequest]:
        return [context.request(ValueCounts, column, elements=True)]

    def learn(self, context: FitContext, results: Mapping[StatisticRequest, Any]) -> dict[str, Any]:
        learned = super().learn(context, results)
        outputs = [name for encoding in learned["columns"].values() for name in encoding["outputs"]]
        self.refuse_existing_columns(outputs, context, removed=context.columns)
        return learned

    def learn_column(self, column: str, dtype: pl.DataType, *statistics: Any) -> dict[str, Any]:
        if not _is_plain(dtype):
            raise SchemaError.dtype(column, "lists of strings, integers or booleans", dtype, where="MultiHotEncoder")
        table = statistics[0].table
        if self.max_categories is not None:
            table = table.sort("n", descending=True, maintain_order=True).head(self.max_categories).sort("value")
        elements = table["value"].to_list()
        return {"elements": elements, "outputs": [named_by(column, element) for element in elements]}

    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        return [MultiHot(column, learned["elements"], learned["outputs"])]


@dataclass(frozen=True)
class MultiHot(Operation):
    """Adds 0/1 columns that mark the elements of a list; the list column is dropped."""

    column: str
    elements_seen: Sequence[Any]
    outputs: Sequence[str]

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        x = col(self.column)
        pairs = zip(self.elements_seen, self.outputs, strict=True)
        return [x.list.contains(element).fill_null(False).cast(pl.UInt8).alias(name) for element, name in pairs]

    def steps(self, schema: Mapping[str, pl.DataType]) -> list[Step]:
        return [Step(self.expressions(schema), [self.column])]

    def changes(self, schema: Mapping[str, pl.DataType]) -> Changes:
        return Changes({name: pl.UInt8() for name in self.outputs}, [self.column])

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        column, pairs = self.column, list(zip(self.elements_seen, self.outputs, strict=True))

        def multi_hot(row: Row) -> None:
            present = row.pop(column) or ()
            row.update({name: int(element in present) for element, name in pairs})

        return multi_hot

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return dict.fromkeys(self.outputs, (self.column,))

    def inverse(self, schema: Mapping[str, pl.DataType]) -> list[Operation] | None:
        return [GatherList(self.column, list(self.outputs), list(self.elements_seen), schema[self.column])]


@dataclass(frozen=True)
class GatherList(Operation):
    """Replaces 0/1 columns by the list of the values whose columns are not 0."""

    output: str
    columns: Sequence[str]
    values: Sequence[Any]
    dtype: pl.DataType

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        inner = getattr(self.dtype, "inner", None)
        present = [
            pl.when(col(name) != 0).then(pl.lit(value, dtype=inner))
            for name, value in zip(self.columns, self.values, strict=True)
        ]
        gathered = pl.concat_list(present).list.drop_nulls() if present else pl.lit([], dtype=self.dtype)
        return [gathered.cast(self.dtype).alias("\x00gathered")]

    def apply(self, table: pl.LazyFrame) -> pl.LazyFrame:
        return Drop(list(self.columns)).apply(super().apply(table)).rename({"\x00gathered": self.output})

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {self.output: tuple(self.columns)}

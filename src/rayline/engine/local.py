"""Tables in this process, with Polars: the one door through which every table type comes in and goes out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from rayline.core.answers import Answers
from rayline.core.engine import Engine, Placement
from rayline.core.errors import ParameterError, SchemaError, shorten
from rayline.core.parts import PartFiles
from rayline.core.scan import Scan, TableFunction
from rayline.core.schema import col


class LocalEngine(Engine):
    """pandas, Polars and Arrow tables, LazyFrames, dicts of arrays and lists of rows."""

    def schema(self, data: Any) -> pl.Schema:
        return to_lazy(data).collect_schema()

    def scan(self, data: Any, scan: Scan) -> dict[int, Answers]:
        table = data if isinstance(data, pl.LazyFrame) else to_polars(data)
        needed = table.lazy().select(map(col, scan.columns(table.collect_schema())))
        if isinstance(table, pl.DataFrame):
            return scan.of(needed, table.height)
        return scan.of(needed, is_reread=table.explain(optimized=False).startswith(_COLUMNAR))

    def map(self, data: Any, function: TableFunction, placement: Placement | None = None) -> Any:
        size = _batch_size(placement)
        if size is None:
            return restore(data, function(to_lazy(data)))
        whole = to_polars(data)
        pieces = [whole.slice(start, size) for start in range(0, whole.height, size)] or [whole]
        return restore(data, pl.concat([function(piece.lazy()).collect() for piece in pieces]).lazy())

    def write(
        self, data: Any, function: TableFunction, files: PartFiles, done: set[int], placement: Placement | None
    ) -> int:
        written = 0
        for number, piece in enumerate(_pieces(to_lazy(data), files.rows_per_file)):
            if number in done:
                written += files.n_rows(number)
            else:
                written += files.write(number, self.map(piece, function, placement))
        return written

    def collect(self, data: Any, columns: Sequence[str] | None = None) -> pl.DataFrame:
        lazy = to_lazy(data)
        return (lazy if columns is None else lazy.select(map(col, columns))).collect()


_COLUMNAR = ("DF [", "Parquet SCAN", "IPC SCAN")
"""How the plans begin of which Polars can read one column alone."""


def _pieces(lazy: pl.LazyFrame, n_rows: int) -> Iterator[pl.DataFrame]:
    """The rows in order, so many at a time, without holding more than two pieces."""
    rest: list[pl.DataFrame] = []
    for batch in lazy.collect_batches(chunk_size=n_rows, maintain_order=True):
        rest.append(batch)
        while sum(frame.height for frame in rest) >= n_rows:
            whole = pl.concat(rest)
            yield whole.head(n_rows)
            rest = [whole.slice(n_rows)]
    if sum(frame.height for frame in rest):
        yield pl.concat(rest)


def _batch_size(placement: Placement | None) -> int | None:
    if placement is None:
        return None
    if placement.num_gpus or placement.num_cpus or placement.concurrency:
        raise ParameterError(
            "InferencePipeline.transform: num_cpus, num_gpus and concurrency are for a ray.data.Dataset.",
            "Expected batch_size alone for a table in this process.",
            "convert the table with rayline.data.from_polars, or leave them out.",
        )
    return placement.batch_size


def to_lazy(data: Any) -> pl.LazyFrame:
    """Any in-process table as a LazyFrame, without a copy where the type allows it.

    Raises
    ------
    SchemaError
        When it is not a table, when its columns differ in length, or when two columns have one name.
    """
    if isinstance(data, pl.LazyFrame):
        return data
    return to_polars(data).lazy()


def to_polars(data: Any) -> pl.DataFrame:
    """Any in-process table as a Polars DataFrame. Raises as `to_lazy`."""
    if isinstance(data, pl.DataFrame):
        return data
    if isinstance(data, pl.LazyFrame):
        return data.collect()
    if isinstance(data, pa.RecordBatch):
        data = pa.table(data)
    if isinstance(data, pa.Table):
        _refuse_duplicates(data.column_names)
        return _from_arrow(data)
    if isinstance(data, Mapping):
        return _from_arrays(data)
    if isinstance(data, list) and all(isinstance(row, Mapping) for row in data):
        return pl.DataFrame([dict(row) for row in data], infer_schema_length=None)
    if _is_pandas(data):
        _refuse_duplicates([str(name) for name in data.columns])
        return _from_pandas(data)
    hint = "convert the data, for example with polars.DataFrame(data)."
    if isinstance(data, (str, Path)):
        hint = f"read the file first: rayline.data.read_parquet({str(data)!r}), or polars.scan_parquet."
    elif isinstance(data, np.ndarray):
        hint = "name its columns, polars.DataFrame(array, schema=[…]), or hand it to train.fit as X=… with y=…."
    raise SchemaError(
        f"A {type(data).__name__} is not a table.",
        "Expected a ray.data.Dataset, a pandas, Polars or Arrow table, a LazyFrame, a dict of arrays or a list of rows.",
        hint,
    )


def restore(like: Any, result: pl.LazyFrame) -> Any:
    """A result in the type of the table that was given (a LazyFrame stays lazy)."""
    if isinstance(like, pl.LazyFrame):
        return result
    frame = result.collect()
    if isinstance(like, pl.DataFrame):
        return frame
    if isinstance(like, (pa.Table, pa.RecordBatch)):
        return to_arrow(frame)
    if isinstance(like, list):
        return frame.to_dicts()
    if _is_pandas(like):
        pandas = frame.to_pandas()
        pandas.index = like.index if len(like) == len(pandas) else pandas.index
        return pandas
    return {name: _to_array(frame[name]) for name in frame.columns}


def to_arrow(frame: pl.DataFrame) -> pa.Table:
    """An Arrow table with types that every Arrow library reads."""
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())


def _to_array(series: pl.Series) -> np.ndarray[Any, Any]:
    if isinstance(series.dtype, (pl.List, pl.Struct)):
        array = np.empty(len(series), dtype=object)
        array[:] = series.to_list()
        return array
    return series.to_numpy(writable=True)


def _from_arrow(table: pa.Table) -> pl.DataFrame:
    # Tensor columns, Arrow's own and Ray's, are extension types: Polars reads what they are stored as.
    for i, field in enumerate(table.schema):
        if isinstance(field.type, pa.BaseExtensionType):
            table = table.set_column(i, field.name, _stored(table.column(i)))
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _stored(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of an extension type as plain Arrow: tensors of one shape as vectors, of several shapes as lists."""
    kind = column.type
    stored = pa.chunked_array([chunk.storage for chunk in column.chunks], kind.storage_type)
    shape = getattr(kind, "shape", None)
    if shape is not None:
        return stored.cast(pa.list_(kind.value_type, math.prod(shape)))
    if pa.types.is_struct(stored.type) and {"data", "shape"} == {field.name for field in stored.type}:
        return pa.chunked_array([chunk.field("data") for chunk in stored.chunks], stored.type.field("data").type)
    return stored


def _from_arrays(data: Mapping[str, Any]) -> pl.DataFrame:
    columns = []
    single = [name for name, values in data.items() if isinstance(values, (str, bytes)) or not hasattr(values, "__len__")]
    if single:
        raise SchemaError(
            f"A dict with a single value under {single[0]!r} is not a table.",
            "Expected a dict of arrays, each with one entry for each row.",
            "put one row into a list: [{…}].",
        )
    for name, values in data.items():
        if isinstance(values, np.ndarray) and values.ndim > 1:
            columns.append(_array_series(name, values))
        elif isinstance(values, np.ndarray) and values.dtype == object:
            columns.append(_object_series(name, values))
        else:
            columns.append(pl.Series(name, values))
    lengths = {len(column) for column in columns}
    if len(lengths) > 1:
        raise SchemaError(
            "The columns of a dict of arrays differ in length.",
            f"Expected one length; got { {c.name: len(c) for c in columns} }.",
            "pass arrays with one entry for each row.",
        )
    return pl.DataFrame(columns)


def _array_series(name: str, values: np.ndarray[Any, Any]) -> pl.Series:
    return pl.Series(name, np.ascontiguousarray(values.reshape(len(values), -1)))


def _object_series(name: str, values: np.ndarray[Any, Any]) -> pl.Series:
    items = [None if isinstance(v, float) and v != v else v for v in values.tolist()]
    try:
        return pl.Series(name, items)
    except (TypeError, OverflowError, pl.exceptions.PolarsError) as error:
        kinds = sorted({type(v).__name__ for v in items})
        raise SchemaError(
            f"Column {name!r} mixes types.",
            f"Expected values of one type; got {shorten(kinds)}.",
            f"convert {name!r} first.",
        ) from error


def _from_pandas(data: Any) -> pl.DataFrame:
    try:
        return pl.from_pandas(data.rename(columns=str) if not all(isinstance(c, str) for c in data.columns) else data)
    except (TypeError, ValueError, OverflowError, pa.ArrowException):
        # A column that has no form in Arrow: find it, so that the error names it.
        return pl.DataFrame([_pandas_series(str(name), data[name]) for name in data.columns])


def _pandas_series(name: str, column: Any) -> pl.Series:
    if column.dtype == object:
        return _object_series(name, column.to_numpy(dtype=object))
    if type(column.dtype).__name__ == "SparseDtype":
        column = column.sparse.to_dense()
    try:
        series: Any = pl.from_pandas(column)
    except (TypeError, ValueError, OverflowError, pa.ArrowException) as error:
        raise SchemaError(
            f"Column {name!r} holds {column.dtype}, which has no form in Arrow.",
            "Expected numbers, truth values, strings, dates, times, or lists of these.",
            f"convert {name!r}, or drop it.",
        ) from error
    return pl.Series(name, series)


def _refuse_duplicates(names: Sequence[str]) -> None:
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise SchemaError(
            f"A table has the column {twice[0]!r} more than once.",
            f"Expected each column once; got {shorten(names)}.",
            "rename or drop one of them.",
        )


def _is_pandas(data: Any) -> bool:
    return type(data).__module__.partition(".")[0] == "pandas" and hasattr(data, "columns")

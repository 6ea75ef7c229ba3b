"""Tables in this process, with Polars: conversion from and to every supported table type."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from rayline.core.arrow_tables import to_arrow
from rayline.core.engine import Engine, Placement
from rayline.core.errors import DataError, ParameterError, SchemaError, at, first_line, shorten
from rayline.core.forks import refuse_after_fork
from rayline.core.parquet_parts import PartFiles
from rayline.core.scan import Scan, TableFunction, passed_through
from rayline.core.scan_results import ScanResults
from rayline.core.schema import col
from rayline.engine import local_columns


class LocalEngine(Engine):
    """pandas, Polars and Arrow tables, LazyFrames, dicts of arrays and lists of rows."""

    def schema(self, data: Any) -> pl.Schema:
        with computing():
            return to_lazy(data).collect_schema()

    def scan(self, data: Any, scan: Scan) -> dict[int, ScanResults]:
        table = data if isinstance(data, pl.LazyFrame) else to_polars(data)
        with computing():
            needed = table.lazy().select(map(col, scan.columns(table.collect_schema())))
            if isinstance(table, pl.DataFrame):
                return scan.of(needed, table.height)
            return scan.of(needed, is_reread=_is_columnar(table))

    def keeps_order(self, data: Any) -> bool:
        return not isinstance(data, pl.LazyFrame) or _is_columnar(data)

    def map(self, data: Any, function: TableFunction, placement: Placement | None = None) -> Any:
        size = _batch_size(placement)
        with computing():
            if size is None and isinstance(data, pl.LazyFrame):
                return function(data)
            whole = to_polars(data)
            pieces = [whole.slice(start, size) for start in range(0, whole.height, size)] if size else []
            mapped = pl.concat([function(piece.lazy()).collect() for piece in pieces or [whole]])
            return restore(data, mapped.lazy(), passed_through(function, whole.columns))

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
        with computing():
            return (lazy if columns is None else lazy.select(map(col, columns))).collect()


@contextlib.contextmanager
def computing() -> Iterator[None]:
    """Convert errors of Polars, panics included, into errors of Rayline with their first line."""
    with at("Rayline"):
        refuse_after_fork()
    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = first_line(error)
        if isinstance(error, pl.exceptions.ColumnNotFoundError):
            raise SchemaError(
                f"The table does not have the declared columns: {reason}.",
                "Expected the same columns in every file or part of it.",
                "read it so that a column which a file lacks is missing: polars.scan_parquet(…, missing_columns='insert').",
            ) from error
        raise DataError(
            f"The table could not be read or computed: {type(error).__name__}: {reason}.",
            "Expected rows that Polars can work with.",
            "the error above comes from Polars; table.collect() raises the same one for a LazyFrame.",
        ) from error


_COLUMNAR = ("DF [", "Parquet SCAN", "IPC SCAN")
"""First words of the query plans from which Polars can read single columns."""


def _is_columnar(table: pl.LazyFrame) -> bool:
    return table.explain(optimized=False).startswith(_COLUMNAR)


def _pieces(lazy: pl.LazyFrame, n_rows: int) -> Iterator[pl.DataFrame]:
    """Iterate over the rows in order in batches, holding at most two in memory."""
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
    """Return any in-process table as a LazyFrame, without a copy where the type allows it.

    Raises SchemaError when it is not a table, when its columns differ in length, or when two columns have one name.
    """
    if isinstance(data, pl.LazyFrame):
        return data
    return to_polars(data).lazy()


def to_polars(data: Any) -> pl.DataFrame:
    """Return any in-process table as a Polars DataFrame. Raises as `to_lazy`."""
    if isinstance(data, pl.DataFrame):
        return data
    if isinstance(data, pl.LazyFrame):
        return data.collect()
    if isinstance(data, pa.RecordBatch):
        data = pa.table(data)
    if isinstance(data, pa.Table):
        _refuse_duplicates(data.column_names)
        return local_columns.from_arrow(data)
    if isinstance(data, Mapping):
        _refuse_duplicates(list(map(str, data)))
        return _from_arrays(data)
    if isinstance(data, list) and all(isinstance(row, Mapping) for row in data):
        return _from_rows(data)
    if _is_pandas(data):
        _refuse_duplicates([str(name) for name in data.columns])
        return local_columns.from_pandas(data)
    hint = "convert the data, for example with polars.DataFrame(data)."
    if isinstance(data, (str, Path)):
        hint = f"read the file first: rayline.data.read_parquet({str(data)!r}), or polars.scan_parquet."
    elif isinstance(data, np.ndarray):
        hint = "name its columns, polars.DataFrame(array, schema=[…]), or pass it to train.fit as X=… with y=…."
    raise SchemaError(
        f"A {type(data).__name__} is not a table.",
        "Expected a ray.data.Dataset, a pandas, Polars or Arrow table, a LazyFrame, a dict of arrays or a list of rows.",
        hint,
    )


def restore(like: Any, result: pl.LazyFrame, kept: Sequence[str] = ()) -> Any:
    """Return a result in the type of the input table (a LazyFrame stays lazy).

    Columns named in `kept` are returned unchanged from the input table, including types that Polars does not have.
    """
    if isinstance(like, pl.LazyFrame):
        return result
    frame = result.collect()
    if isinstance(like, pl.DataFrame):
        return frame
    kept_columns = [name for name in frame.columns if name in set(kept)]
    rest = frame.select(col(name) for name in frame.columns if name not in kept_columns)
    if isinstance(like, (pa.Table, pa.RecordBatch)):
        converted = to_arrow(rest)
        columns = {
            name: like.column(name) if name in kept_columns else converted.column(name) for name in frame.columns
        }
        fields = [(like if name in kept_columns else converted).schema.field(name) for name in columns]
        return pa.Table.from_arrays(list(columns.values()), schema=pa.schema(fields))
    if isinstance(like, list):
        originals = [{str(name): value for name, value in row.items()} for row in like] if kept_columns else ()
        rows = rest.to_dicts() if rest.width else [{} for _ in range(frame.height)]
        if not kept_columns:
            return rows
        return [
            {n: old.get(n) if n in kept_columns else new[n] for n in frame.columns}
            for old, new in zip(originals, rows, strict=True)
        ]
    if _is_pandas(like):
        index = like.index if len(like) == frame.height else None
        converted = _to_pandas(rest)
        places = {str(name): i for i, name in enumerate(like.columns)}
        columns = {
            name: like.iloc[:, places[name]].array if name in kept_columns else converted[name].array
            for name in frame.columns
        }
        return type(converted)(columns, index=index, columns=list(columns))
    places = {str(name): name for name in like}
    return {name: like[places[name]] if name in kept_columns else _to_array(frame[name]) for name in frame.columns}


def _to_pandas(frame: pl.DataFrame) -> Any:
    """Convert as Polars does, except that integers with nulls become pandas' nullable integers: floats would round them."""
    import pandas as pd

    pandas = frame.to_pandas()
    for name, dtype in frame.schema.items():
        if dtype.is_integer() and dtype != pl.Int128 and frame[name].null_count():
            pandas[name] = pd.array(frame[name].to_list(), dtype=str(dtype))
    return pandas


def _to_array(series: pl.Series) -> np.ndarray[Any, Any]:
    if isinstance(series.dtype, (pl.List, pl.Struct)):
        array = np.empty(len(series), dtype=object)
        array[:] = series.to_list()
        return array
    return series.to_numpy(writable=True)


def _from_arrays(data: Mapping[Any, Any]) -> pl.DataFrame:
    single = [
        name for name, values in data.items() if isinstance(values, (str, bytes)) or not hasattr(values, "__len__")
    ]
    if single:
        raise SchemaError(
            f"A dict with a single value under {single[0]!r} is not a table.",
            "Expected a dict of arrays, each with one entry for each row.",
            "put one row into a list: [{…}].",
        )
    columns = [_of_array(str(name), values) for name, values in data.items()]
    lengths = {len(column) for column in columns}
    if len(lengths) > 1:
        raise SchemaError(
            "The columns of a dict of arrays differ in length.",
            f"Expected one length; got { {c.name: len(c) for c in columns} }.",
            "pass arrays with one entry for each row.",
        )
    return local_columns.frame_of(columns)


def _from_rows(rows: Sequence[Mapping[Any, Any]]) -> pl.DataFrame:
    names = dict.fromkeys(name for row in rows for name in row)
    _refuse_duplicates(list(map(str, names)))
    if not names:
        return pl.DataFrame(height=len(rows))
    return local_columns.frame_of(
        [local_columns.of_values(str(name), [row.get(name) for row in rows]) for name in names]
    )


def _of_array(name: str, values: Any) -> pl.Series:
    if isinstance(values, np.ndarray) and values.ndim > 1:
        return pl.Series(name, np.ascontiguousarray(values.reshape(len(values), -1)))
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return local_columns.from_arrow(pa.table({name: values})).to_series()
    if _is_of_pandas(values) and hasattr(values, "dtype"):
        return local_columns.of_pandas(
            name, values if hasattr(values, "cat") or not hasattr(values, "to_series") else values.to_series()
        )
    if isinstance(values, (list, tuple)) or (isinstance(values, np.ndarray) and values.dtype == object):
        return local_columns.of_values(name, list(values))
    try:
        return pl.Series(name, values)
    except local_columns.UNREADABLE as error:
        raise SchemaError(
            f"Column {name!r} holds a {type(values).__name__} that is not a column: {first_line(error)}.",
            "Expected an array or a list with one entry for each row.",
            f"convert {name!r} first.",
        ) from error


def _refuse_duplicates(names: Sequence[str]) -> None:
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise SchemaError(
            f"A table has the column {twice[0]!r} more than once.",
            f"Expected each column once; got {shorten(names)}.",
            "rename or drop one of them.",
        )


def _is_pandas(data: Any) -> bool:
    return _is_of_pandas(data) and hasattr(data, "columns")


def _is_of_pandas(data: Any) -> bool:
    return type(data).__module__.partition(".")[0] == "pandas"

"""The feature columns that a model receives, as a table or as a matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.core.errors import SchemaError
from rayline.core.schema import SPARSE, as_schema, col, dense_width

Array = npt.NDArray[Any]

TILE_ROWS, TILE_BYTES = 8192, 16 << 20
"""Columns are copied into a matrix in tiles of at most so many rows and bytes: converted one below the other, then turned as a whole. A
matrix that is written column by column takes twice as long, because each number of a column lies in another part of the memory."""


class Features:
    """The feature columns that a model receives, in the order of training, as a table or as a matrix.

    For frameworks that accept categories, strings are Polars Enum columns with the training categories.
    """

    _matrices: dict[Any, Any] | None = None

    def __init__(
        self,
        table: pl.DataFrame | None = None,
        *,
        row: Mapping[str, Any] | None = None,
        rows: Sequence[Mapping[str, Any]] = (),
        schema: Mapping[str, pl.DataType],
    ) -> None:
        self._table, self._rows, self.schema = table, rows if row is None else [row], as_schema(schema)

    def of_rows(self, rows: Sequence[Mapping[str, Any]]) -> Features:
        """Return other rows of the same columns; what was computed from the schema is reused."""
        features = Features.__new__(Features)
        features._table, features._rows, features.schema = None, rows, self.schema
        features.__dict__["is_numeric"], features.__dict__["_values"] = self.is_numeric, self._values
        return features

    def kept(self) -> Features:
        """Keep the matrices that are asked for from now on, for rows that many models predict; they must not be changed."""
        self._matrices = {}
        return self

    @property
    def names(self) -> list[str]:
        return list(self.schema)

    @property
    def n_rows(self) -> int:
        return len(self._rows) if self._table is None else self._table.height

    @cached_property
    def table(self) -> pl.DataFrame:
        if self._table is None:
            return pl.DataFrame({name: [row[name] for row in self._rows] for name in self.schema}, schema=self.schema)
        return self._table

    def pieces(self, n_rows: int) -> Iterator[Features]:
        """Yield the rows in order, at most `n_rows` at a time, because a matrix of all rows may be large."""
        if self._table is None or self.n_rows <= n_rows:
            yield self
            return
        for part in self._table.iter_slices(n_rows):
            yield Features(part, schema=self.schema)

    @cached_property
    def is_numeric(self) -> bool:
        """Whether every column is numeric or boolean, so that a dense matrix can hold all of them."""
        return all(d.is_numeric() or d == pl.Boolean for d in self.schema.values())

    @property
    def categories(self) -> list[str]:
        """The features whose values are categories."""
        return [name for name, dtype in self.schema.items() if isinstance(dtype, pl.Enum)]

    @property
    def category_places(self) -> list[int]:
        """The columns of `matrix` that hold categories."""
        return [self.places[name].start for name in self.categories]

    @cached_property
    def places(self) -> dict[str, range]:
        """The columns of each feature in `matrix`: one, or one per element of a vector."""
        places, start = {}, 0
        for name, dtype in self.schema.items():
            places[name] = range(start, start + self._width(name, dtype))
            start = places[name].stop
        return places

    def _width(self, name: str, dtype: pl.DataType) -> int:
        if dtype == SPARSE:
            return int(self.table[name].struct.field("size").max() or 0)  # type: ignore[arg-type]
        return dense_width(dtype)

    @property
    def dense_width(self) -> int:
        """The columns of `matrix` that take memory in every row: those of sparse vectors do not."""
        return sum(dense_width(dtype) for dtype in self.schema.values() if dtype != SPARSE)

    @cached_property
    def has_vectors(self) -> bool:
        """Whether some column holds a vector in each row; only `matrix` expands these."""
        return any(d == SPARSE or isinstance(d, pl.Array) for d in self.schema.values())

    @cached_property
    def _values(self) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
        """The values of one row in the order of the columns."""
        names = list(self.schema)
        return itemgetter(*names) if len(names) > 1 else lambda row: tuple(row[name] for name in names)

    def matrix(self, dtype: Any = np.float32, *, zeros: bool = False) -> Any:
        """Return all columns as one matrix of shape (n_rows, width): missing values as NaN, categories as their codes,
        vector columns as their elements. The result is a SciPy CSR matrix when a column is sparse, otherwise a NumPy array
        (C order). `zeros` stores the zeros of the other columns in a CSR matrix, for libraries that treat entries which are
        not stored as missing.

        Raises SchemaError when a column is neither a number nor a vector of numbers.
        """
        if self._matrices is None:
            return self._matrix(dtype, zeros=zeros)
        key = np.dtype(dtype), zeros
        if key not in self._matrices:
            self._matrices[key] = self._matrix(dtype, zeros=zeros)
        return self._matrices[key]

    def _matrix(self, dtype: Any, *, zeros: bool) -> Any:
        if self._table is None and self.is_numeric:
            with np.errstate(over="ignore"):  # beyond float32 is infinite, as Polars casts it
                values = np.array([self._values(row) for row in self._rows], dtype=dtype)  # None becomes NaN
            return values.reshape(len(self._rows), len(self.schema))
        self._refuse_words()
        if any(d == SPARSE for d in self.schema.values()):
            return _sparse_matrix(self.table, dtype, zeros=zeros)
        parts: list[Any] = []
        plain: list[str] = []
        for name, d in self.schema.items():
            if isinstance(d, pl.Array):
                parts, plain = _flush(self.table, parts, plain, dtype)
                parts.append(self.table[name].to_numpy().reshape(self.n_rows, -1).astype(dtype))
            else:
                plain.append(name)
        parts, _ = _flush(self.table, parts, plain, dtype)
        return (
            parts[0]
            if len(parts) == 1
            else np.concatenate(parts, axis=1)
            if parts
            else np.empty((self.n_rows, 0), dtype)
        )

    def _refuse_words(self) -> None:
        for name, d in self.schema.items():
            if d == pl.String or d in (pl.Date, pl.Datetime) or isinstance(d, pl.List):
                raise SchemaError(
                    f"Model input: feature {name!r} holds {d}, and this framework takes numbers only.",
                    "Expected numbers, booleans, categories or vectors after preprocessing.",
                    "add a stage that encodes it (OneHotEncoder, OrdinalEncoder, Vectorizer) or drops it (DropColumns).",
                )


def _flush(table: pl.DataFrame, parts: list[Any], plain: list[str], dtype: Any) -> tuple[list[Any], list[str]]:
    if plain:
        schema = table.schema  # a new object each time it is asked for
        columns = [_plain_numbers(series) for series in table.select(_number(n, schema[n]) for n in plain)]
        parts.append(_side_by_side(columns, table.height, dtype))
    return parts, []


def _side_by_side(columns: Sequence[Array], n_rows: int, dtype: Any) -> Array:
    """Return columns of numbers as a matrix in C order."""
    matrix = np.empty((n_rows, len(columns)), dtype)
    n_tile_rows = max(256, min(TILE_ROWS, TILE_BYTES // (len(columns) * matrix.itemsize)))
    tile = np.empty((len(columns), min(n_tile_rows, n_rows)), dtype)
    with np.errstate(over="ignore"):  # beyond float32 is infinite, as Polars casts it
        for start in range(0, n_rows, n_tile_rows):
            rows = slice(start, min(start + n_tile_rows, n_rows))
            n = rows.stop - start
            for place, column in enumerate(columns):
                tile[place, :n] = column[rows]
            matrix[rows] = tile[:, :n].T
    return matrix


def _plain_numbers(series: pl.Series) -> Array:
    """Return a column of numbers as an array that NumPy casts; missing is NaN."""
    dtype = series.dtype
    is_known = (dtype.is_integer() and dtype != pl.Int128) or dtype.is_float() or dtype == pl.Boolean
    if not is_known or series.null_count():
        series = series.cast(pl.Float32 if series.dtype == pl.Float32 else pl.Float64)
    return series.to_numpy()


def _number(name: str, dtype: pl.DataType) -> pl.Expr:
    return col(name).to_physical() if dtype in (pl.Enum, pl.Categorical) else col(name)


def _sparse_matrix(table: pl.DataFrame, dtype: Any, *, zeros: bool) -> Any:
    from scipy import sparse  # only text needs it

    parts: list[Any] = []
    for name, d in table.schema.items():
        if d == SPARSE:
            fields = table[name].struct
            indices, values = fields.field("indices"), fields.field("values")
            ends = np.concatenate([[0], indices.list.len().fill_null(0).cum_sum().to_numpy()])
            width = int(fields.field("size").max() or 0)  # type: ignore[arg-type]
            flat = (values.explode(empty_as_null=False).to_numpy(), indices.explode(empty_as_null=False).to_numpy())
            parts.append(sparse.csr_matrix((flat[0].astype(dtype), flat[1], ends), shape=(table.height, width)))
        elif isinstance(d, pl.Array):
            parts.append(_stored(table[name].to_numpy().reshape(table.height, -1).astype(dtype), zeros=zeros))
        else:
            column = table.select(_number(name, d).cast(pl.Float64)).to_numpy().astype(dtype)
            parts.append(_stored(column, zeros=zeros))
    return sparse.hstack(parts, format="csr", dtype=dtype)


def _stored(dense: Array, *, zeros: bool) -> Any:
    from scipy import sparse

    if not zeros:
        return sparse.csr_matrix(dense)
    height, width = dense.shape
    return (
        sparse.csr_matrix(
            (dense.ravel(), np.tile(np.arange(width), height), np.arange(0, height * width + 1, width)),
            shape=dense.shape,
        )
        if width
        else sparse.csr_matrix(dense.shape, dtype=dense.dtype)
    )

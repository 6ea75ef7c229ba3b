"""The common schema of several files: one type for each column, for any order of the files, or an error that names the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from rayline.core.errors import DataError, ParameterError, SchemaError, at, first_line, place

MAX_FILES = 1000
"""So many files are looked at before the read; of more, the first ones."""


def arrow_schema(schema: Mapping[str, Any]) -> pa.Schema:
    """Polars types as Arrow's. Raises ParameterError when they are none."""
    try:
        return pl.DataFrame(schema=dict(schema)).to_arrow(compat_level=pl.CompatLevel.oldest()).schema
    except (TypeError, ValueError, AttributeError, pl.exceptions.PolarsError) as error:
        raise ParameterError.value("schema", "names of columns with Polars types", schema) from error


@dataclass(frozen=True)
class CsvReader:
    """The options of reading CSV files: missing values, declared types, and PyArrow's other options."""

    null_values: Sequence[str] | None
    types: Mapping[str, Any] | None
    parse_options: Any = None
    read_options: Any = None

    def options(self, schema: pa.Schema | None) -> Any:
        """PyArrow's conversion options for columns of these types."""
        types = {field.name: field.type for field in schema or () if not pa.types.is_null(field.type)}
        with at("read_csv"):
            declared = {field.name: field.type for field in arrow_schema(self.types or {})}
        options = pyarrow.csv.ConvertOptions(column_types=types | declared)
        if self.null_values is not None:
            if isinstance(self.null_values, str):
                raise ParameterError.value("null_values", "a list of texts", self.null_values, where="read_csv")
            options.null_values = ["", *self.null_values]
            options.strings_can_be_null = True
        if schema is not None:
            options.include_columns = schema.names
            options.include_missing_columns = True
        return options

    def schema(self, path: Path) -> pa.Schema:
        """The columns and types that the beginning of a file has."""
        with pa.input_stream(str(path), compression="detect") as stream:
            options = {"read_options": self.read_options, "parse_options": self.parse_options}
            schema: pa.Schema = pyarrow.csv.open_csv(stream, convert_options=self.options(None), **options).schema
            return schema


def parquet_schema(path: Path) -> pa.Schema:
    """The columns and types of a Parquet file."""
    schema: pa.Schema = pyarrow.parquet.read_schema(path)
    return schema


def json_schema(path: Path) -> pa.Schema:
    """The columns and types that the beginning of a file of JSON lines has."""
    with pa.input_stream(str(path), compression="detect") as stream:
        schema: pa.Schema = pyarrow.json.open_json(stream).schema
        return schema


@dataclass(frozen=True)
class Typed:
    """Blocks with the columns of a schema in its types, null where they lack one; other columns stay."""

    schema: pa.Schema

    def __call__(self, block: pa.Table) -> pa.Table:
        for field in self.schema:
            if field.name not in block.column_names:
                block = block.append_column(field.name, pa.nulls(block.num_rows, field.type))
            elif block.schema.field(field.name).type != field.type and not pa.types.is_null(field.type):
                place = block.column_names.index(field.name)
                try:
                    block = block.set_column(place, field.name, block.column(place).cast(field.type))
                except pa.ArrowException as error:
                    raise SchemaError(
                        f"read_json: column {field.name!r} contains values that are not {field.type}: {first_line(error)}.",
                        "Expected the type at the beginning of the files, or that of schema=.",
                        f"say another, schema={{{field.name!r}: pl.Float64}}.",
                    ) from error
        rest = [name for name in block.column_names if name not in self.schema.names]
        return block.select([*self.schema.names, *rest])


MissingColumns: TypeAlias = Literal["raise", "null"]
"""What follows when a file lacks a column that another has: an error, or missing values."""


def common_schema(
    paths: Sequence[Path], schema_of: Callable[[Path], pa.Schema], *, missing_columns: MissingColumns
) -> pa.Schema | None:
    """The columns of all files, each with the one type that holds what it is in any of them; None without files.

    Raises DataError when a file is empty or cannot be read. Raises SchemaError when a file lacks a column (unless
    `missing_columns` is "null"), or has another type of it.
    """
    types: dict[str, tuple[pa.DataType, Path]] = {}
    schemas: list[tuple[Path, pa.Schema]] = []
    for path in paths[:MAX_FILES]:
        if not path.stat().st_size:
            raise DataError.here(
                f"{str(path)!r} is empty.",
                "Expected a file with columns.",
                "remove it, or leave it out of the paths.",
            )
        try:
            schemas.append((path, schema_of(path)))
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = first_line(error)
            raise DataError.here(
                f"{str(path)!r} cannot be read: {reason}.", "Expected a file of this kind.", "check the path."
            ) from error
        for field in schemas[-1][1]:
            known, first = types.get(field.name, (pa.null(), path))
            types[field.name] = (_wider(known, field.type), first)
            if types[field.name][0] is None:
                raise SchemaError.here(
                    f"column {field.name!r} is {field.type} in {str(path)!r} and {known} in {str(first)!r}.",
                    "Expected one type in all files.",
                    "specify it (schema={…}), or the strings of missing values (null_values=[…])."
                    if place() == "read_csv"
                    else "convert one of them.",
                )
    for path, schema in schemas if missing_columns == "raise" else ():
        lacking = [name for name in types if name not in schema.names]
        if lacking:
            raise SchemaError.here(
                f"{str(path)!r} has no column {lacking[0]!r}, which {str(types[lacking[0]][1])!r} has.",
                f"Expected the same columns in all files; it has {schema.names[:8]}.",
                "add it, or pass missing_columns='null' to make its values missing.",
            )
    return pa.schema([(name, kind) for name, (kind, _) in types.items()]) if schemas else None


def _wider(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type that holds values of both; None when there is none."""
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    numbers = [pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in (one, other)]
    if all(numbers):
        if pa.types.is_integer(one) and pa.types.is_integer(other):
            return one if one.bit_width >= other.bit_width else other
        return pa.float64()
    texts = {pa.string(), pa.large_string()}
    if one in texts and other in texts:
        return pa.large_string()
    if pa.types.is_timestamp(one) and pa.types.is_date(other):
        return one if one.tz is None else None
    if pa.types.is_date(one) and pa.types.is_timestamp(other):
        return other if other.tz is None else None
    return None

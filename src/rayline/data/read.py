"""Read files and tables as a `ray.data.Dataset`. Starts Ray when none is running, or connects to RAY_ADDRESS."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import polars as pl
import pyarrow as pa
import ray.data

from rayline.core import registry, storage
from rayline.core.arguments import known_arguments
from rayline.core.arrow_tables import to_arrow
from rayline.core.data_types import ArrowTable
from rayline.core.errors import DataError, ParameterError, RaylineError, SchemaError, at, first_line, shorten
from rayline.data import files
from rayline.data.files import MissingColumns

if TYPE_CHECKING:
    import pandas as pd
    from ray.data import Dataset

Paths: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@known_arguments
@at("read_parquet")
def read_parquet(paths: Paths, *, missing_columns: MissingColumns = "raise", **options: Any) -> Dataset:
    """Read Parquet files as a lazy dataset.

    Parameters
    ----------
    paths
        A file, a folder or several of them, whose nulls stay nulls; local, or a URL that PyArrow knows (s3://, gs://, …).
    missing_columns
        What it means that a local file lacks a column which another has: "raise" an error that names both, or "null":
        missing values.
    **options
        Arguments of `ray.data.read_parquet`, unchanged.

    Returns
    -------
    ray.data.Dataset
        The rows of all files, with every column that one of them has.

    Notes
    -----
    Ray 2.60 gives the rows of a file that holds more than 128 MiB, unpacked, in another order than the file's, the same one each
    time. Fits and splits do not depend on the order of rows; predictions are columns of their rows.

    Raises
    ------
    DataError
        When a path or URL does not exist or cannot be read, or a file is empty.
    SchemaError
        When the files disagree about their columns; it names file and column.
    ResourceError
        When Ray cannot be reached or started.

    Examples
    --------
    >>> from rayline import data
    >>> ds = data.read_parquet("flights.parquet")  # doctest: +SKIP
    """
    schema = files.common_schema(_local(paths), files.parquet_schema, missing_columns=missing_columns)
    if schema is not None and "schema" not in options and "columns" not in options:
        options["schema"] = schema
    return _read(ray.data.read_parquet, paths, options)


@known_arguments
@at("read_csv")
def read_csv(
    paths: Paths,
    *,
    null_values: Sequence[str] | None = None,
    schema: Mapping[str, pl.DataType | type[pl.DataType]] | None = None,
    missing_columns: MissingColumns = "raise",
    **options: Any,
) -> Dataset:
    """Read CSV files as a lazy dataset. Works like `read_parquet`, with the arguments of `ray.data.read_csv`.

    Local files get one type for each column, whatever their order: the beginnings of all are looked at, whole numbers in one
    and fractions in another are floats.

    Parameters
    ----------
    paths, missing_columns, **options
        As for `read_parquet`.
    null_values
        Texts that mean a missing value, in columns of text too, such as ["NA"]. By default the empty field, "NA", "NaN",
        "null" and the like are missing numbers, and text is as it stands.
    schema
        Polars types of some columns, where what the files begin with is not what they hold.

    Returns
    -------
    ray.data.Dataset
        One row for each record; no file is read whole before the rows are used.

    Raises
    ------
    DataError, SchemaError, ResourceError
        As `read_parquet`; SchemaError also when a value does not have the type of its column.
    ParameterError
        When `schema` or `null_values` and `convert_options` are given together.

    Examples
    --------
    >>> from rayline import data
    >>> ds = data.read_csv(["january.csv", "february.csv"])  # doctest: +SKIP
    """
    if "convert_options" in options:
        if null_values is not None or schema is not None:
            raise ParameterError(
                "read_csv: convert_options was given together with schema or null_values.",
                "Expected one of them: PyArrow's options, or ours.",
                "put column_types and null_values into convert_options, or leave it out.",
            )
        return _read(ray.data.read_csv, paths, options)
    reader = files.CsvReader(null_values, schema, options.get("parse_options"), options.get("read_options"))
    common = files.common_schema(_local(paths), reader.schema, missing_columns=missing_columns)
    return _read(ray.data.read_csv, paths, {**options, "convert_options": reader.options(common)})


@known_arguments
@at("read_json")
def read_json(
    paths: Paths, *, schema: Mapping[str, pl.DataType | type[pl.DataType]] | None = None, **options: Any
) -> Dataset:
    """Read JSON files (a list of records, or one per line). Works like `read_parquet`, with the arguments of `ray.data.read_json`.

    `schema` says the Polars types of columns; of local files with one record a line the others have the type that holds
    what all files begin with. A key that a row or a file lacks is a missing value.

    Parameters
    ----------
    paths
        A path, a URL, or a list of them; directories are searched.
    schema
        Polars types by column; the others are inferred.
    options
        Those of `ray.data.read_json`.

    Returns
    -------
    ray.data.Dataset
        One row for each record.

    Raises
    ------
    SchemaError
        When files disagree about a column, or a value does not have the type of its column.

    Examples
    --------
    >>> from rayline import data
    >>> ds = data.read_json("flights.jsonl", lines=True)  # doctest: +SKIP
    """
    declared = files.arrow_schema(schema or {})
    lines = _local(paths) if options.get("lines") else []
    common = files.common_schema(lines, files.json_schema, missing_columns="null")
    types = {field.name: field.type for fields in (common or (), declared) for field in fields}
    ds = _read(ray.data.read_json, paths, options)
    return ds.map_batches(files.Typed(pa.schema(types.items())), batch_format="pyarrow") if types else ds


@known_arguments
@at("from_pandas")
def from_pandas(table: pd.DataFrame | Sequence[pd.DataFrame], **options: Any) -> Dataset:
    """Make a dataset from a pandas table, or several with the same columns. The index is dropped.

    Parameters
    ----------
    table
        The table or tables. NaN, None and pd.NA are missing values.
    **options
        Arguments of `ray.data.from_pandas`, such as override_num_blocks.

    Returns
    -------
    ray.data.Dataset
        The rows, held in Ray's object store.

    Raises
    ------
    SchemaError
        When it is no such table.
    ParameterError
        When an option does not exist.
    ResourceError
        When Ray cannot be reached or started.

    Examples
    --------
    >>> import pandas as pd
    >>> from rayline import data
    >>> data.from_pandas(pd.DataFrame({"x": [1, 2]})).count()  # doctest: +SKIP
    2
    """
    tables = _tables(table, lambda t: type(t).__module__.partition(".")[0] == "pandas" and hasattr(t, "columns"))
    return _make(ray.data.from_pandas, tables, options)


@known_arguments
@at("from_polars")
def from_polars(table: pl.DataFrame | pl.LazyFrame | Sequence[pl.DataFrame | pl.LazyFrame], **options: Any) -> Dataset:
    """Make a dataset from a Polars table or LazyFrame, or several. Works like `from_pandas`, with the arguments of `ray.data.from_arrow`.

    Parameters
    ----------
    table
        A table or LazyFrame, or a list with the same columns; a LazyFrame is collected. Nulls stay nulls.
    options
        Those of `ray.data.from_arrow`.

    Returns
    -------
    ray.data.Dataset
        The rows as Arrow, held in Ray's object store.

    Raises
    ------
    SchemaError, ParameterError, ResourceError
        As `from_pandas`.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline import data
    >>> data.from_polars(pl.DataFrame({"x": [1, 2]})).count()  # doctest: +SKIP
    2
    """
    tables = _tables(table, lambda t: isinstance(t, (pl.DataFrame, pl.LazyFrame)))
    arrow = [to_arrow(t.lazy().collect()) for t in tables]
    return _make(ray.data.from_arrow, arrow, options)


@known_arguments
@at("from_arrow")
def from_arrow(table: ArrowTable | Sequence[ArrowTable], **options: Any) -> Dataset:
    """Make a dataset from an Arrow table, or several. Works like `from_pandas`, with the arguments of `ray.data.from_arrow`.

    Parameters
    ----------
    table
        An Arrow table, or a list of tables with the same columns; nulls stay nulls.
    options
        Those of `ray.data.from_arrow`.

    Returns
    -------
    ray.data.Dataset
        The table itself, held in Ray's object store.

    Raises
    ------
    SchemaError, ParameterError, ResourceError
        As `from_pandas`.

    Examples
    --------
    >>> import pyarrow as pa
    >>> from rayline import data
    >>> data.from_arrow(pa.table({"x": [1, 2]})).count()  # doctest: +SKIP
    2
    """
    return _make(ray.data.from_arrow, _tables(table, lambda t: isinstance(t, pa.Table)), options)


def _local(paths: Paths) -> list[Path]:
    """Return the local files that the paths name; none when one is remote or does not exist (an error later)."""
    several = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    texts = [os.fspath(path) for path in several]
    if any("://" in text or not Path(text).exists() for text in texts):
        return []
    files: list[Path] = []
    for path in map(Path, texts):
        inside = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith((".", "_")))
        files += inside if path.is_dir() else [path]
    return files


def _read(function: Any, paths: Paths, options: dict[str, Any]) -> Dataset:
    several = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    texts = [os.fspath(path) for path in several]
    if "filesystem" not in options:
        # Ray's tasks look for a relative path from where Ray was started.
        texts = [storage.quoted(storage.located(text)) for text in texts]
        for text in texts:
            if "://" not in text and not Path(text).exists():
                raise DataError(
                    f"{function.__name__}: {text!r} does not exist.",
                    "Expected a file or a folder on this machine, or a URL.",
                    "check the path; remote files need a URL such as s3://bucket/file.",
                )
    if not texts:
        raise ParameterError.value("paths", "at least one path or URL", paths)
    try:
        return _make(function, texts, options)
    except RaylineError:
        raise
    except Exception as error:  # of Ray, a file system or a format
        raise DataError(
            f"{function.__name__}: {shorten(texts, 3)} cannot be read: {type(error).__name__}: {first_line(error)}",
            "Expected files of this kind, at paths or URLs that exist, with the rights to read them.",
            "check the paths, the credentials and the endpoint in the environment (AWS_ENDPOINT_URL, …).",
        ) from error


def _make(function: Any, source: list[Any], options: dict[str, Any]) -> Dataset:
    registry.engine("ray").connect()
    try:
        dataset: Dataset = function(source[0] if len(source) == 1 else source, **options)
    except TypeError as error:
        raise ParameterError(
            f"{function.__name__}: {first_line(error)}.",
            f"Expected arguments of ray.data.{function.__name__}.",
            "see Ray's documentation.",
        ) from error
    return dataset


def _tables(table: Any, fits: Any) -> list[Any]:
    tables = list(table) if isinstance(table, (list, tuple)) else [table]
    wrong = [t for t in tables if not fits(t)]
    if wrong or not tables:
        raise SchemaError.here(
            "this is not such a table.",
            f"Expected one, or a list of them; got {type(wrong[0]).__name__ if wrong else 'an empty list'}.",
            "use the from_… function of its type.",
        )
    return tables

"""From files and tables to `ray.data.Dataset`s. Ray is started quietly when none runs; RAY_ADDRESS is honoured."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import polars as pl
import pyarrow as pa
import ray.data

from rayline.core import registry
from rayline.core.arguments import known_arguments
from rayline.core.errors import DataError, ParameterError, SchemaError

if TYPE_CHECKING:
    import pandas as pd
    from ray.data import Dataset

Paths: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@known_arguments
def read_parquet(paths: Paths, **options: Any) -> Dataset:
    """A dataset from Parquet files, read when it is used.

    Parameters
    ----------
    paths
        A file, a folder or several of them; local, or a URL that PyArrow knows (s3://, gs://, …).
    **options
        Arguments of `ray.data.read_parquet`, unchanged.

    Notes
    -----
    Ray 2.60 gives the rows of a file that holds more than 128 MiB, unpacked, in another order than the file's, the same one each
    time. Fits and splits do not depend on the order of rows; predictions stand beside their rows.

    Raises
    ------
    DataError
        When a local path does not exist.
    ResourceError
        When Ray cannot be reached or started.

    Examples
    --------
    >>> from rayline import data
    >>> ds = data.read_parquet("flights.parquet")  # doctest: +SKIP
    """
    return _read(ray.data.read_parquet, paths, options)


@known_arguments
def read_csv(paths: Paths, **options: Any) -> Dataset:
    """A dataset from CSV files. As `read_parquet`, with the arguments of `ray.data.read_csv`.

    Parameters
    ----------
    paths
        A path, a URL, or a list of them; directories are searched.
    options
        Those of `ray.data.read_csv`.

    Examples
    --------
    >>> from rayline import data
    >>> ds = data.read_csv(["january.csv", "february.csv"])  # doctest: +SKIP
    """
    return _read(ray.data.read_csv, paths, options)


@known_arguments
def read_json(paths: Paths, **options: Any) -> Dataset:
    """A dataset from JSON files (records, or one a line). As `read_parquet`, with the arguments of `ray.data.read_json`.

    Parameters
    ----------
    paths
        A path, a URL, or a list of them; directories are searched.
    options
        Those of `ray.data.read_json`.

    Examples
    --------
    >>> from rayline import data
    >>> ds = data.read_json("flights.jsonl", lines=True)  # doctest: +SKIP
    """
    return _read(ray.data.read_json, paths, options)


@known_arguments
def from_pandas(table: pd.DataFrame | Sequence[pd.DataFrame], **options: Any) -> Dataset:
    """A dataset from a pandas table, or several with the same columns. The index is let go.

    Parameters
    ----------
    table
        The table or tables.
    **options
        Arguments of `ray.data.from_pandas`, such as override_num_blocks.

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
    tables = _tables(
        "from_pandas", table, lambda t: type(t).__module__.partition(".")[0] == "pandas" and hasattr(t, "columns")
    )
    return _make(ray.data.from_pandas, tables, options)


@known_arguments
def from_polars(table: pl.DataFrame | pl.LazyFrame | Sequence[pl.DataFrame | pl.LazyFrame], **options: Any) -> Dataset:
    """A dataset from a Polars table or LazyFrame, or several. As `from_pandas`, with the arguments of `ray.data.from_arrow`.

    Parameters
    ----------
    table
        A table or LazyFrame, or a list with the same columns; a LazyFrame is collected.
    options
        Those of `ray.data.from_arrow`.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline import data
    >>> data.from_polars(pl.DataFrame({"x": [1, 2]})).count()  # doctest: +SKIP
    2
    """
    tables = _tables("from_polars", table, lambda t: isinstance(t, (pl.DataFrame, pl.LazyFrame)))
    arrow = [t.lazy().collect().to_arrow(compat_level=pl.CompatLevel.oldest()) for t in tables]
    return _make(ray.data.from_arrow, arrow, options)


@known_arguments
def from_arrow(table: pa.Table | Sequence[pa.Table], **options: Any) -> Dataset:
    """A dataset from an Arrow table, or several. As `from_pandas`, with the arguments of `ray.data.from_arrow`.

    Parameters
    ----------
    table
        An Arrow table, or a list of tables with the same columns.
    options
        Those of `ray.data.from_arrow`.

    Examples
    --------
    >>> import pyarrow as pa
    >>> from rayline import data
    >>> data.from_arrow(pa.table({"x": [1, 2]})).count()  # doctest: +SKIP
    2
    """
    return _make(ray.data.from_arrow, _tables("from_arrow", table, lambda t: isinstance(t, pa.Table)), options)


def _read(function: Any, paths: Paths, options: dict[str, Any]) -> Dataset:
    several = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    texts = [os.fspath(path) for path in several]
    if "filesystem" not in options:
        # Ray's tasks look for a relative path from where Ray was started.
        texts = [text if "://" in text else str(Path(text).absolute()) for text in texts]
        for text in texts:
            if "://" not in text and not Path(text).exists():
                raise DataError(
                    f"{function.__name__}: {text!r} does not exist.",
                    "Expected a file or a folder on this machine, or a URL.",
                    "check the path; remote files need a URL such as s3://bucket/file.",
                )
    return _make(function, texts, options)


def _make(function: Any, source: list[Any], options: dict[str, Any]) -> Dataset:
    registry.late("ensure_ray")()
    try:
        made: Dataset = function(source[0] if len(source) == 1 else source, **options)
    except TypeError as error:
        raise ParameterError(
            f"{function.__name__}: {error}.",
            f"Expected arguments of ray.data.{function.__name__}.",
            "see Ray's documentation.",
        ) from error
    return made


def _tables(where: str, table: Any, fits: Any) -> list[Any]:
    tables = list(table) if isinstance(table, (list, tuple)) else [table]
    wrong = [t for t in tables if not fits(t)]
    if wrong or not tables:
        raise SchemaError(
            f"{where}: this is not such a table.",
            f"Expected one, or a list of them; got {type(wrong[0]).__name__ if wrong else 'an empty list'}.",
            "use the from_… function of its type.",
        )
    return tables

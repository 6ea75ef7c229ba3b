"""Bring the data arguments of a fit into one form: tables with named columns, of which some are targets and weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from rayline.core import registry
from rayline.core.errors import DataError, ParameterError, SchemaError, at, counted, place, shorten
from rayline.core.schema import refuse_types, remembered_schema

WHERE = "train.fit"


@dataclass(frozen=True)
class ColumnRoles:
    """The roles of the columns of the training rows: some are targets, one may hold the weights, all others are features.

    Attributes
    ----------
    schema
        Names and types of all columns, as the data was read.
    targets, weight
        The columns to predict, and the column of sample weights.
    test_weight
        The column of weights in the test rows: the same, or None when these have none.
    pair
        What the last of the targets is, if not a label: the "group" of a ranking, the "event" of a survival time.
    """

    schema: pl.Schema
    targets: tuple[str, ...] = ()
    weight: str | None = None
    test_weight: str | None = None
    pair: str = ""

    @property
    def labels(self) -> tuple[str, ...]:
        """The columns to predict."""
        return self.targets[:-1] if self.pair else self.targets

    def paired(self, what: str) -> str | None:
        """Return the column of groups, or of events; None when there is none."""
        return self.targets[-1] if self.pair == what else None

    @property
    def excluded_columns(self) -> tuple[str, ...]:
        """The columns that are neither features nor targets."""
        return () if self.weight is None else (self.weight,)

    @property
    def measured_by(self) -> list[str]:
        """The columns that test rows are measured by: the targets, and the weights if they have some."""
        return [*self.targets, *([] if self.test_weight is None else [self.test_weight])]


@dataclass(frozen=True)
class FitInputs:
    """The tables of a fit, and what their columns are for. The schemas were read when it was made, and are not read again.

    Attributes
    ----------
    train, test
        Datasets, Polars tables or LazyFrames; `test` may be None, and both are None for a training without data.
    roles
        The columns of the training rows.
    """

    train: Any
    test: Any
    roles: ColumnRoles


@dataclass(frozen=True)
class DataArguments:
    """The data arguments of `train.fit`, `train.cross_validate` and `tune.run`, under the names that the user types.

    `group` and `event` name a column (with X and y also an array) that belongs to the label: see `train.fit`.
    """

    train_dataset: Any = None
    test_dataset: Any = None
    target_columns: Any = None
    X: Any = None
    y: Any = None
    X_test: Any = None
    y_test: Any = None
    sample_weight: Any = None
    group: Any = None
    event: Any = None


def normalise(arguments: DataArguments, needed: Mapping[str, pl.DataType] | None = None) -> FitInputs:
    """Return the tables, from datasets with `target_columns` or from `X` and `y`. The columns `needed` by a fitted preprocessor must be in
    both; the test rows need those of the training rows when it is not fitted, always the targets, and never the weight. Raises
    ParameterError when arguments are missing or exclude each other, SchemaError when a column is missing, named twice, or of a type
    that it cannot have, and DataError when X and y differ in length.
    """
    arguments = _without_arrays(arguments)
    pair, paired = _pair(arguments.group, arguments.event)
    if arguments.train_dataset is None:
        raise ParameterError.here(
            "there is nothing to train on.",
            "Expected train_dataset=… with target_columns=[…], or X=… and y=….",
            "pass a ray.data.Dataset or any table.",
        )
    train, test, weight = (
        _as_polars(arguments.train_dataset),
        _as_polars(arguments.test_dataset),
        arguments.sample_weight,
    )
    if weight is not None and not isinstance(weight, str):
        raise ParameterError.value("sample_weight", "the name of a column (an array goes with X and y)", type(weight))
    targets = _target_names(arguments.target_columns)
    if pair:
        targets = _with_pair(targets, pair, paired)
    train_schema = registry.engine_for(train).schema(train)
    schema = remembered_schema(train_schema)
    _check_roles(schema, targets, weight)
    labels = {name: schema[name] for name in targets}
    both = {
        name: dtype for name, dtype in {**(schema if needed is None else needed), **labels}.items() if name != weight
    }
    if needed is not None:
        refuse_types(both, train_schema)
    if test is None:
        return FitInputs(train, None, ColumnRoles(schema, targets, weight, None, pair))
    test_schema = registry.engine_for(test).schema(test)
    with at(f"{place()} (test data)"):
        refuse_types(both, test_schema)
    test_weight = weight if weight in test_schema else None
    return FitInputs(train, test, ColumnRoles(schema, targets, weight, test_weight, pair))


def _without_arrays(arguments: DataArguments) -> DataArguments:
    """Return the arguments with tables and names of columns in place of X, y, and the arrays that go with them."""
    if arguments.X is None and arguments.y is None:
        return arguments
    if arguments.train_dataset is not None or arguments.X is None or arguments.y is None:
        both = [name for name in ("X", "y", "train_dataset") if getattr(arguments, name) is not None]
        raise ParameterError.here(
            "X and y go together, in place of train_dataset.",
            f"Expected both; got {', '.join(both)}.",
            "pass X=…, y=…, or train_dataset=…, target_columns=[…].",
        )
    train, names, weight = _joined(arguments.X, arguments.y, arguments.target_columns, arguments.sample_weight)
    test, (pair, paired) = arguments.test_dataset, _pair(arguments.group, arguments.event)
    if pair and not isinstance(paired, str):
        if arguments.X_test is not None:
            raise ParameterError.value(pair, "the name of a column of X, which X_test has too", type(paired))
        train, paired = _with_column(train, pair, paired), pair
    if arguments.X_test is not None or arguments.y_test is not None:
        if arguments.X_test is None or arguments.y_test is None or test is not None:
            raise ParameterError.here("X_test and y_test go together, in place of test_dataset.", "Expected both.")
        test, _, _ = _joined(arguments.X_test, arguments.y_test, names, None)
    pairs = {pair: paired} if pair else {}
    return DataArguments(train, test, names, sample_weight=weight, **pairs)


def _check_roles(schema: pl.Schema, targets: tuple[str, ...], weight: str | None) -> None:
    """Raise SchemaError when the training rows lack a target or the weights, or have nothing else."""
    wanted = [*targets, *([weight] if weight is not None else [])]
    missing = [name for name in wanted if name not in schema]
    if missing:
        raise SchemaError.absent(missing, schema, where=f"{place()} (training data)")
    if weight is not None and (weight in targets or not schema[weight].is_numeric()):
        raise SchemaError.dtype(weight, "a numeric column of weights, which is no target", schema[weight])
    if len(schema) == len(wanted):
        raise SchemaError.here("the training data has no features.", f"Expected columns besides {wanted}.", "add some.")


def _pair(group: Any, event: Any) -> tuple[str, Any]:
    if group is not None and event is not None:
        raise ParameterError.here(
            "group and event are both given.",
            "Expected group=… for a ranking, event=… for survival times.",
            "leave one of them out.",
        )
    return ("group", group) if group is not None else ("event", event) if event is not None else ("", None)


def _with_column(data: Any, name: str, values: Any) -> pl.DataFrame:
    """Return a table with another column from an array."""
    table, column = _collect(data), pl.Series(name, values)
    if len(column) != table.height or name in table.columns:
        raise DataError.here(
            f"{name} does not fit X with {counted(table.height, 'row')}.",
            f"Expected one value for each row, and no column {name!r} in X; got {len(column)}.",
            "pass an array as long as X, or the name of a column of X.",
        )
    return table.with_columns(column)


def _with_pair(targets: tuple[str, ...], pair: str, column: Any) -> tuple[str, ...]:
    """Return one target and the column that belongs to it."""
    if not isinstance(column, str):
        raise ParameterError.value(pair, "the name of a column (an array goes with X and y)", type(column))
    names = (*(name for name in targets if name != column), column)
    if len(names) != 2:
        raise ParameterError.here(
            f"{pair}={column!r} belongs to one target column.",
            f"Expected one name in target_columns; got {list(names[:-1])}.",
            "name the column of relevances." if pair == "group" else "name the column of times.",
        )
    return names


def _target_names(target_columns: Any) -> tuple[str, ...]:
    several = isinstance(target_columns, Sequence) and not isinstance(target_columns, str)
    names = list(target_columns) if several else [] if target_columns is None else [target_columns]
    if not names:
        raise ParameterError.here(
            "target_columns is missing.",
            "Expected the names of the columns to predict.",
            'pass target_columns=["…"].',
        )
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        hint = "name each column once, as text" + (
            ": a pandas column 1 is '1' here." if any(type(n) is int for n in names) else "."
        )
        raise ParameterError.here(
            "target_columns has a wrong value.", f"Expected names of columns; got {target_columns!r}.", hint
        )
    return tuple(names)


def _joined(data: Any, y: Any, names: Any, weight: Any) -> tuple[Any, list[str], str | None]:
    """Join X, y and the weights into one table; y and the weights may also name columns of X."""
    if isinstance(y, str) or (
        isinstance(y, (list, tuple)) and y and all(isinstance(name, str) for name in y) and _has(data, y)
    ):
        return data, [y] if isinstance(y, str) else list(y), weight
    if registry.is_dataset(data):
        raise ParameterError.here(
            "with a Dataset as X, y is the name of a column of it.", f"Expected a name; got {type(y)}."
        )
    table = _table(data)
    targets = _labels(y, names)
    columns = [*targets.get_columns()]
    if weight is not None and not isinstance(weight, str):
        columns.append(pl.Series("sample_weight", np.asarray(weight, dtype=np.float64)))
        weight = "sample_weight"
    for column in columns:
        if len(column) != table.height:
            raise DataError.here(
                f"X has {counted(table.height, 'row')} and {column.name!r} has {len(column)}.",
                "Expected one label (and one weight) for each row.",
                "check what was filtered.",
            )
        if column.name in table.columns:
            raise SchemaError.here(
                f"X already has a column {column.name!r}.",
                f"Got {shorten(table.columns)}.",
                "rename one of them.",
            )
    return table.with_columns(columns), targets.columns, weight


def _has(data: Any, names: Sequence[str]) -> bool:
    columns = getattr(data, "columns", None)
    column_names = data if isinstance(data, Mapping) else columns() if callable(columns) else columns
    return column_names is not None and all(name in column_names for name in names)


def _table(data: Any) -> pl.DataFrame:
    if isinstance(data, np.ndarray):
        if data.ndim != 2:
            raise SchemaError.here(f"X has {data.ndim} dimensions.", "Expected two: rows and features.", "reshape it.")
        data = {f"x{i}": data[:, i] for i in range(data.shape[1])}
    return _collect(data)


def _labels(y: Any, names: Any) -> pl.DataFrame:
    wanted = [names] if isinstance(names, str) else list(names) if names is not None else None
    series = getattr(y, "name", None)
    if isinstance(y, pl.Series) or (hasattr(y, "to_frame") and hasattr(y, "dtype")):
        table = _collect(y.to_frame(series or "target"))
    elif hasattr(y, "columns") or hasattr(y, "column_names") or isinstance(y, Mapping):
        table = _collect(y)
    else:
        array = y if isinstance(y, np.ndarray) else np.asarray(y)
        if array.ndim not in (1, 2):
            raise ParameterError.here(
                f"y has {array.ndim} dimensions.",
                "Expected labels as an array, a series, a table, or names of columns.",
            )
        one = array.ndim == 1
        table = _collect({"target": array} if one else {f"target_{i}": array[:, i] for i in range(array.shape[1])})
    if wanted is not None:
        if len(wanted) != table.width:
            raise ParameterError.value("target_columns", f"{table.width} name(s) for y", wanted)
        table = table.rename(dict(zip(table.columns, wanted, strict=True)))
    return table


def _as_polars(data: Any) -> Any:
    """Convert a table of this process to Polars; Datasets and LazyFrames stay unchanged."""
    if data is None or isinstance(data, pl.LazyFrame) or registry.is_dataset(data):
        return data
    return _collect(data)


def _collect(data: Any) -> pl.DataFrame:
    frame = registry.engine("local").collect(data)
    assert isinstance(frame, pl.DataFrame)
    return frame

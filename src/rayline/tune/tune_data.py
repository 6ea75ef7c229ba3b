"""What a search is told about its data, and the rows and their folds, which depend on no trainer and no stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import polars as pl

from rayline.core import registry
from rayline.core.errors import DataError, ParameterError, SchemaError, at, place
from rayline.core.schema import refuse_empty
from rayline.data.split.base import Splitter
from rayline.data.split.fold_assignment import FoldAssignment
from rayline.data.split.fold_cells import FoldCells
from rayline.data.split.fold_rows import refuse_divided
from rayline.data.split.splitters import chosen_splitter
from rayline.train import fit_inputs
from rayline.train.fit_inputs import ColumnRoles, DataArguments, FitInputs
from rayline.tune.row_groups import CELL, CellColumn, ConformedRows, RowGroups, TableGroups
from rayline.tune.search_problem import WHERE


@dataclass(frozen=True)
class SearchDataArguments(DataArguments):
    """What `run` is told about rows, the stages before the model and the folds, under the names that the user types."""

    preprocessor: Any = None
    cv: Any = None
    groups: Any = None
    stratify: Any = None
    time: Any = None


DATA_ARGUMENTS = tuple(field.name for field in fields(SearchDataArguments))
"""The keywords of `run` about data, and the keys of a `data_config`."""

OTHER_NAMES = {"train_pipeline": "preprocessor"}
"""Other names of them in a `data_config`."""


@dataclass(frozen=True)
class TuneData:
    """The rows of a tuning run and their folds, independent of trainers and stages.

    Attributes
    ----------
    given
        The training rows as the user gave them.
    inputs
        The normalized data arguments; the `test_weight` of its roles is the column of weights in the rows that the folds hold out.
    groups
        The training rows with their cells, followed by those of the test set if it is held out.
    splits
        The folds of each set of cells.
    n_train
        The number of groups of training rows.
    by_test_set
        Whether the test set is held out.
    """

    given: Any
    inputs: FitInputs
    groups: RowGroups
    splits: tuple[tuple[FoldCells, ...], ...]
    n_train: int
    by_test_set: bool


def search_data(data_config: Any, keywords: SearchDataArguments = SearchDataArguments()) -> SearchDataArguments:
    """Return the data of a search, of which a part may be given by keyword and another in a `data_config`.

    Raises ParameterError when `data_config` is not a dict or has an unknown key, and when a value is given twice.
    """
    if data_config is None:
        return keywords
    if not isinstance(data_config, Mapping):
        raise ParameterError.value("data_config", "a dict with train_dataset, target_columns and cv", type(data_config))
    unknown = [key for key in data_config if key not in (*DATA_ARGUMENTS, *OTHER_NAMES)]
    if unknown:
        raise ParameterError.unknown(unknown, [*DATA_ARGUMENTS, *OTHER_NAMES], where=f"{place()}: data_config")
    added: dict[str, Any] = {}
    for key, value in data_config.items():
        name = OTHER_NAMES.get(str(key), str(key))
        if value is not None and (name in added or getattr(keywords, name) is not None):
            raise ParameterError.here(
                f"{name} is given twice.", f"Expected it once, as {name}=… or in data_config.", "leave one of them out."
            )
        if value is not None:
            added[name] = value
    return replace(keywords, **added)


def read(data: SearchDataArguments) -> TuneData:
    """Read and check the rows of a search, and assign them to folds. Raises as `run`."""
    inputs = fit_inputs.normalise(data)
    roles, by_test_set = inputs.roles, data.cv is None and inputs.test is not None
    if reserved := [name for name in roles.schema if name.startswith(CELL)]:
        raise SchemaError.here(
            f"the column {reserved[0]!r} has a name that a search needs for its folds.",
            f"Expected no column whose name begins with {CELL!r}.",
            "rename it.",
        )
    kind = _kind(inputs.train, inputs.test if by_test_set else None)
    train = _groups(kind, inputs.train, "training data", ConformedRows(roles.schema))
    if by_test_set:
        lacking = roles.excluded_columns if roles.test_weight is None else ()
        absent = {name: roles.schema[name] for name in lacking}
        present = {name: dtype for name, dtype in roles.schema.items() if name not in absent}
        test = _groups(kind, inputs.test, "test data", ConformedRows(present, absent))
        groups = train.with_cells([_Constant(0)]).joined(test.with_cells([_Constant(1)]))
        splits: tuple[tuple[FoldCells, ...], ...] = ((FoldCells((0,), (1,)),),)
    else:
        inputs = replace(inputs, roles=replace(roles, test_weight=roles.weight))
        groups, splits = _in_folds(train, _splitter(data, roles.paired("group")), roles)
    given = data.train_dataset if data.train_dataset is not None else data.X
    return TuneData(given, inputs, groups, splits, len(train.summaries), by_test_set)


def _in_folds(
    groups: Any, splitter: Splitter, roles: ColumnRoles
) -> tuple[RowGroups, tuple[tuple[FoldCells, ...], ...]]:
    """Return the rows with their cells, and the folds of each set of cells."""
    try:
        prepared = splitter.prepare(groups.engine, groups, target_columns=roles.labels)
        groups = groups.with_cells([folds.cells for folds in prepared])
    except (DataError, SchemaError) as error:
        raise error.within(WHERE) from error.__cause__
    group = roles.paired("group")
    if group is not None:
        for split in range(len(prepared)):
            refuse_divided(groups.engine, groups, CellColumn(f"{CELL}{split}"), group)
    return groups, tuple(folds.folds for folds in prepared)


def _splitter(data: SearchDataArguments, group: str | None = None) -> Splitter:
    """Return the splitter that `cv` and `groups`, `stratify` or `time` stand for; the groups of a ranking stay whole."""
    if data.cv is None:
        raise ParameterError.here(
            "there are no rows to hold out.",
            "Expected cv=… (a number of folds or a splitter) or test_dataset=….",
            "add cv=5.",
        )
    return chosen_splitter(data.cv, groups=data.groups, stratify=data.stratify, time=data.time, ranked=group)


@dataclass(frozen=True)
class _Constant(FoldAssignment):
    """Assigns the same cell to every row."""

    cell: int
    made_at: str = ""
    columns: ClassVar[tuple[str, ...]] = ()

    def expression(self) -> pl.Expr:
        return pl.lit(self.cell)


def _kind(*tables: Any) -> type[RowGroups]:
    """Return where the rows of a search are: in the object store if one of the tables is a Dataset."""
    if not any(map(registry.is_dataset, tables)):
        return TableGroups
    from rayline.tune.stored_groups import StoredGroups  # its module imports Ray

    return StoredGroups


def _groups(kind: type[RowGroups], data: Any, which: str, conform: ConformedRows) -> Any:
    groups = kind.of(data, conform)
    with at(f"{WHERE} ({which})"):
        refuse_empty(groups.n_rows)
    return groups

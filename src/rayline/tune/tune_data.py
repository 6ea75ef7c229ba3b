"""What a search is told about its data, and the rows and their folds, which depend on no trainer and no stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import polars as pl

from rayline.core import registry
from rayline.core.errors import DataError, ParameterError, SchemaError, at, place
from rayline.core.schema import col, refuse_empty
from rayline.data.split.base import Splitter
from rayline.data.split.fold_assignment import FoldAssignment
from rayline.data.split.fold_cells import FoldCells
from rayline.data.split.fold_rows import refuse_divided
from rayline.data.split.splitters import chosen_splitter
from rayline.train import fit_inputs
from rayline.train.fit_inputs import DataArguments, FitInputs
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
        The normalized data arguments.
    groups
        The training rows with their cells, followed by those of the test set if it is held out.
    splits
        The folds of each set of cells.
    n_train
        The number of groups of training rows.
    weighs_test
        Whether the held-out rows have weights.
    """

    given: Any
    inputs: FitInputs
    groups: RowGroups
    splits: tuple[tuple[FoldCells, ...], ...]
    n_train: int
    weighs_test: bool
    by_test_set: bool


def search_data(data_config: Any, keywords: SearchDataArguments = SearchDataArguments()) -> SearchDataArguments:
    """Return the data of a search, of which a part may be given by keyword and another in a `data_config`.

    Raises
    ------
    ParameterError
        When `data_config` is not a dict or has an unknown key, and when a value is given twice.
    """
    config = {} if data_config is None else data_config
    if not isinstance(config, Mapping):
        raise ParameterError.value("data_config", "a dict with train_dataset, target_columns and cv", type(config))
    unknown = [key for key in config if key not in (*DATA_ARGUMENTS, *OTHER_NAMES)]
    if unknown:
        raise ParameterError.unknown(unknown, [*DATA_ARGUMENTS, *OTHER_NAMES], where=f"{place()}: data_config")
    added: dict[str, Any] = {}
    for key, value in config.items():
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
    groups = _groups(inputs.train, "training data", inputs.schema, {})
    given = data.train_dataset if data.train_dataset is not None else data.X
    n_train, by_test_set = len(groups.summaries), data.cv is None and inputs.test is not None
    if by_test_set:
        weighs_test = inputs.test_weight is not None
        absent = {} if weighs_test or inputs.weight is None else {inputs.weight: inputs.schema[inputs.weight]}
        rest = {name: dtype for name, dtype in inputs.schema.items() if name not in absent}
        test = _groups(inputs.test, "test data", rest, absent)
        groups = _joined(groups.with_cells([_Constant(0)]), test.with_cells([_Constant(1)]))
        splits: tuple[tuple[FoldCells, ...], ...] = ((FoldCells((0,), (1,)),),)
    else:
        weighs_test, group = inputs.weight is not None, inputs.roles.paired("group")
        try:
            prepared = _splitter(data, group).prepare(groups.engine, groups, target_columns=inputs.roles.labels)
            groups = groups.with_cells([folds.cells for folds in prepared])
        except (DataError, SchemaError) as error:
            raise error.within(WHERE) from error.__cause__
        splits = tuple(folds.folds for folds in prepared)
        if group is not None:
            for split in range(len(prepared)):
                refuse_divided(groups.engine, groups, CellColumn(f"{CELL}{split}"), group)
    return TuneData(given, inputs, groups, splits, n_train, weighs_test, by_test_set)


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


def _groups(data: Any, which: str, schema: Mapping[str, pl.DataType], absent: Mapping[str, pl.DataType]) -> RowGroups:
    """The rows in the types of the schema, missing values as null: of a table here, of a Dataset in the object store."""
    conform = ConformedRows(schema, absent)
    if type(data).__module__.partition(".")[0] == "ray":
        groups: RowGroups = _stored_groups().of_dataset(data, conform, pl.Schema({**schema, **absent}))
    else:
        frame: pl.DataFrame = registry.engine_for(data).collect(data)
        groups = TableGroups([conform(frame.lazy()).collect().select(map(col, (*schema, *absent)))])
    with at(f"{WHERE} ({which})"):
        refuse_empty(groups.n_rows)
    return groups


def _joined(train: RowGroups, test: RowGroups) -> RowGroups:
    """The training rows, and the test rows below them; where one of them is in the object store both are."""
    if isinstance(train, TableGroups) and isinstance(test, TableGroups):
        return train.joined(test)
    kind = _stored_groups()
    both: list[Any] = [kind.of_table(rows) if isinstance(rows, TableGroups) else rows for rows in (train, test)]
    return both[0].joined(both[1])  # type: ignore[no-any-return]


def _stored_groups() -> Any:
    """Return the class of rows in the object store."""
    from rayline.tune.stored_groups import StoredGroups  # its module imports Ray

    return StoredGroups

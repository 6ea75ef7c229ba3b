"""The rows of a search and their folds, independent of trainers and stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
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
from rayline.tune.evaluate import WHERE
from rayline.tune.row_groups import CELL, CellColumn, ConformedRows, GroupEngine, RowGroups, TableGroups

DATA = (
    "train_pipeline", "train_dataset", "test_dataset", "cv", "target_columns", "sample_weight",
    "groups", "stratify", "time", "X", "y", "X_test", "y_test", "group", "event",
)  # fmt: skip
"""The keys of a `data_config`."""

DATA_ARGUMENTS = ("preprocessor", *DATA[1:])
"""The corresponding keywords of `run`."""


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

    @property
    def engine(self) -> GroupEngine:
        """The engine that scans the rows: in this process, or in Ray's tasks."""
        return engine_of(self.groups)

    def sample(self, n_rows: int) -> pl.DataFrame:
        """Return a few rows."""
        if isinstance(self.groups, TableGroups):
            frame = next(self.groups.frames())
            return frame.sample(min(n_rows, frame.height), seed=0)
        return groups_in_store().sample(self.groups, n_rows)  # type: ignore[no-any-return]


def merge_data_config(data_config: Any, **arguments: Any) -> dict[str, Any]:
    """Return the data of a search under the names of `DATA`, from a `data_config` and the keywords of `run`.

    Raises
    ------
    ParameterError
        When `data_config` is not a dict or has an unknown key, and when a value is given twice.
    """
    data = {} if data_config is None else data_config
    if not isinstance(data, Mapping):
        raise ParameterError.value("data_config", "a dict with train_dataset, target_columns and cv", type(data))
    unknown = [key for key in data if key not in (*DATA, *DATA_ARGUMENTS)]
    if unknown:
        raise ParameterError.unknown(unknown, DATA, where=f"{place()}: data_config")
    merged: dict[str, Any] = {}
    for key, value in (*data.items(), *arguments.items()):
        name = "train_pipeline" if key == "preprocessor" else key
        if value is not None and name in merged:
            argument = "preprocessor" if name == "train_pipeline" else name
            raise ParameterError.here(
                f"{argument} is given twice.",
                f"Expected it once, as {argument}=… or in data_config.",
                "leave one of them out.",
            )
        if value is not None:
            merged[name] = value
    return merged


def read(data: Mapping[str, Any]) -> TuneData:
    """Read and check the rows of a `data_config`, and assign them to folds. Raises as `run`."""
    inputs = fit_inputs.normalise(DataArguments(**{field.name: data[field.name] for field in fields(DataArguments)}))
    groups = _groups(inputs.train, inputs.schema, {})
    with at(f"{WHERE} (training data)"):
        refuse_empty(groups.n_rows)
    n_train, weighs_test = len(groups.summaries), inputs.weight is not None
    by_test_set, group = data["cv"] is None and inputs.test is not None, inputs.roles.paired("group")
    if not by_test_set:
        try:
            labels = inputs.roles.labels
            prepared = _splitter(data, group).prepare(engine_of(groups), groups, target_columns=labels)
            splits = tuple(folds.folds for folds in prepared)
            groups = groups.with_cells([folds.cells for folds in prepared])
        except (DataError, SchemaError) as error:
            raise error.within(WHERE) from error.__cause__
        if group is not None:
            for split in range(len(prepared)):
                refuse_divided(engine_of(groups), groups, CellColumn(f"{CELL}{split}"), group)
    else:
        weighs_test = inputs.test_weight is not None
        absent = {} if weighs_test or inputs.weight is None else {inputs.weight: inputs.schema[inputs.weight]}
        rest = {name: dtype for name, dtype in inputs.schema.items() if name not in absent}
        test = _groups(inputs.test, rest, absent)
        with at(f"{WHERE} (test data)"):
            refuse_empty(test.n_rows)
        groups = _joined(groups.with_cells([_Constant(0)]), test.with_cells([_Constant(1)]))
        splits = ((FoldCells((0,), (1,)),),)
    rows = data["train_dataset"] if data["train_dataset"] is not None else data["X"]
    return TuneData(rows, inputs, groups, splits, n_train, weighs_test, by_test_set)


def _splitter(data: Mapping[str, Any], group: str | None = None) -> Splitter:
    """Return the splitter described by `cv` and `groups`, `stratify` or `time`; the groups of a ranking stay whole."""
    cv = data["cv"]
    if cv is None:
        raise ParameterError.here(
            "there are no rows to hold out.",
            "Expected cv=… (a number of folds or a splitter) or test_dataset=….",
            "add cv=5.",
        )
    by = {key: data[key] for key in ("groups", "stratify", "time")}
    return chosen_splitter(cv, ranked=group, **by)


@dataclass(frozen=True)
class _Constant(FoldAssignment):
    """Assigns the same cell to every row."""

    cell: int
    made_at: str = ""
    columns: ClassVar[tuple[str, ...]] = ()

    def expression(self) -> pl.Expr:
        return pl.lit(self.cell)


def _groups(data: Any, schema: Mapping[str, pl.DataType], absent: Mapping[str, pl.DataType]) -> RowGroups:
    """Convert rows to the types of the schema, with missing values as null: a table in this process, a Dataset in the object store."""
    conform = ConformedRows(schema, absent)
    if type(data).__module__.partition(".")[0] == "ray":
        return groups_in_store().StoredGroups.of_dataset(data, conform, pl.Schema({**schema, **absent}))  # type: ignore[no-any-return]
    frame: pl.DataFrame = registry.engine_for(data).collect(data)
    return TableGroups([conform(frame.lazy()).collect().select(map(col, (*schema, *absent)))])


def _joined(train: RowGroups, test: RowGroups) -> RowGroups:
    """Concatenate the training rows and the test rows; if one of them is in the object store, both are put there."""
    order = list(train.schema)
    if isinstance(train, TableGroups) and isinstance(test, TableGroups):
        return train.joined(TableGroups([frame.select(map(pl.col, order)) for frame in test.frames()]))
    kind = groups_in_store().StoredGroups
    both: list[Any] = [kind.of_table(rows) if isinstance(rows, TableGroups) else rows for rows in (train, test)]
    return both[0].joined(both[1])  # type: ignore[no-any-return]


def engine_of(groups: RowGroups) -> GroupEngine:
    """Return the engine that scans these rows from the driver."""
    engine: GroupEngine = GroupEngine() if groups.is_here else groups_in_store().TaskGroupEngine()
    return engine


def groups_in_store() -> Any:
    """Return the module of rows in the object store."""
    from rayline.tune import stored_groups  # it imports Ray

    return stored_groups

"""The contract of a stage: its parameters, the statistics it requires, what it learns, and the operations it compiles to.

A stage is a frozen dataclass: its fields are its parameters, its constructor only checks and stores them. Fitting
never scans: `required_statistics` names statistics, `learn` turns their results into plain values that JSON can hold, and
`to_operations` turns those into operations. All three are pure functions of their arguments.

Most stages treat each column independently: they derive from `ColumnStage` and see one column at a time.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from abc import ABC, ABCMeta, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import polars as pl

from rayline.core import arguments
from rayline.core.arguments import class_checks
from rayline.core.column_choice import Columns, Selected, choose
from rayline.core.errors import DataError, NotFittedError, ParameterError, SchemaError, at, place, shorten
from rayline.core.json_values import value_from_json, value_to_json
from rayline.core.operations.base import AddNullColumns, Drop, Operation
from rayline.core.representation import representation
from rayline.core.schema import Kind, kind_of
from rayline.core.statistics.base import Statistic, StatisticRequest
from rayline.core.statistics.counts import counting
from rayline.core.statistics.row_counts import WordCount

ParameterCheck = arguments.ParameterCheck  # for authors of stages: with `param` it declares a parameter


def an_int(low: int | None = None, high: int | None = None, *, none: bool = False) -> ParameterCheck:
    expected = f"an integer{_bounds(low, high)}{' or None' if none else ''}"
    return ParameterCheck(expected, lambda v: (none and v is None) or (_is_int(v) and _within(v, low, high)))


def a_number(low: float | None = None, high: float | None = None, *, none: bool = False) -> ParameterCheck:
    expected = f"a number{_bounds(low, high)}{' or None' if none else ''}"
    return ParameterCheck(
        expected, lambda v: (none and v is None) or ((_is_int(v) or isinstance(v, float)) and _within(v, low, high))
    )


def param(default: Any, check: ParameterCheck) -> Any:
    """Declare a parameter of a stage whose annotation does not say all: its default and the check of its values."""
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata={"check": check})
    return field(default=default, metadata={"check": check})


class EmptyColumnError(DataError):
    """A column has no values to learn from."""


@dataclass(frozen=True)
class FitContext:
    """The context of a stage during its fit: the columns it works on, the table's schema, and the names of the targets.

    `untouched` (set for the caller of a fit, who sees the output table) names columns that no stage has changed.
    """

    columns: tuple[str, ...]
    schema: Mapping[str, pl.DataType]
    targets: tuple[str, ...] = ()
    untouched: tuple[str, ...] = ()

    def request(self, statistic: type[Statistic], *columns: str, **options: Any) -> StatisticRequest:
        return StatisticRequest(statistic, columns, tuple(sorted(options.items())))

    @property
    def hashed_columns(self) -> list[str]:
        """The columns whose values decide where a row belongs (in which inner fold, in which sample): by name, because the order of
        columns must not change a fit."""
        return sorted(self.schema)

    def target_of(self, stage: Stage, given: str | None) -> str:
        """Return the target that a stage learns from: the given one, otherwise the first. Raises SchemaError when there is none."""
        return self._target_of(stage, given, "target", "target", "a target column")

    def class_column_of(self, stage: Stage, given: str | None) -> str:
        """Return the column by whose values a stage resamples, as `target_of`."""
        return self._target_of(stage, given, "by", "class column", "a column")

    def _target_of(self, stage: Stage, given: str | None, parameter: str, called: str, expected: str) -> str:
        target = given or next(iter(self.targets), None)
        if target is None or target not in self.schema:
            raise SchemaError(
                f"{type(stage).__name__}: there is no {called}.",
                f"Expected {expected}; got {target!r}.",
                f"pass target_columns to fit, or {parameter}=….",
            )
        return target


class _StageMeta(ABCMeta):
    """Turns an unknown keyword argument of a constructor into an error that names the valid ones."""

    if not TYPE_CHECKING:  # a type checker reads the constructor of each dataclass

        @property
        def __signature__(cls) -> inspect.Signature:
            signature = inspect.signature(cls.__init__)
            return signature.replace(
                parameters=[*signature.parameters.values()][1:], return_annotation=inspect.Signature.empty
            )

        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            names = list(inspect.signature(cls.__init__).parameters)[1:]
            unknown = [name for name in kwargs if name not in names]
            unsupported = [name for name in unknown if name in cls.unsupported_params]
            if unsupported:
                raise ParameterError(
                    f"{cls.__name__}: {unsupported[0]!r} is not a parameter of it.",
                    f"Expected some of {shorten(names, 20)}.",
                    f"{cls.unsupported_params[unsupported[0]]}.",
                )
            if unknown:
                raise ParameterError.unknown(unknown, names, where=cls.__name__)
            if len(args) > len(names):
                raise ParameterError(
                    f"{cls.__name__}: too many arguments.", f"Expected at most {len(names)}; got {len(args)}."
                )
            return super().__call__(*args, **kwargs)


@dataclass(frozen=True)
class ParameterizedStage(ABC, metaclass=_StageMeta):
    """The parameters of a stage, checked and stored by its constructor, and the values that a fit learned for it.

    The base of the stages before the model (`Stage`) and of those after it (`postprocess.PostprocessingStage`).
    """

    unsupported_params: ClassVar[Mapping[str, str]] = {}
    """Parameters that the same stage has in other libraries, and what to do instead; used in the error message."""

    fitted_by: ClassVar[str] = ""
    """What fits the stage; used in the error message of a stage that is not fitted."""

    learned: Mapping[str, Any] | None = field(default=None, init=False, repr=False, kw_only=True)

    __repr__ = representation

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__repr__" not in vars(cls):  # otherwise each data class would generate its own, showing every default
            cls.__repr__ = ParameterizedStage.__repr__  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        checks = parameter_checks(type(self))
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if isinstance(value, (np.number, np.bool_, np.str_)):
                value = value.item()  # as JSON can hold it
                object.__setattr__(self, f.name, value)
            check = checks.get(f.name)
            if check is not None and not check.accepts(value):
                with at(type(self).__name__):
                    raise check.error(f.name, value)

    def parameters(self) -> dict[str, Any]:
        """Return the constructor's arguments.

        Returns
        -------
        dict
            Every parameter by name, defaults included.
        """
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}

    def replace(self, **parameters: Any) -> Self:
        """Return an unfitted copy with some parameters changed.

        Parameters
        ----------
        parameters
            New values by name; the others stay.

        Returns
        -------
        Stage
            A new stage of the same class; this one does not change.

        Raises
        ------
        ParameterError
            On names that do not exist, and on values that the constructor refuses.
        """
        return type(self)(**{**self.parameters(), **parameters})

    def fitted(self, learned: Mapping[str, Any]) -> Self:
        """Return a fitted copy with these learned values.

        Parameters
        ----------
        learned
            What `learn` returned: plain values that JSON can hold.

        Returns
        -------
        Stage
            A copy with `is_fitted` True.
        """
        copy = type(self)(**self.parameters())
        object.__setattr__(copy, "learned", dict(learned))
        return copy

    @property
    def is_fitted(self) -> bool:
        """Whether the stage has learned values."""
        return self.learned is not None

    @property
    def state(self) -> Mapping[str, Any]:
        """The learned values. Raises NotFittedError before the fit."""
        if self.learned is None:
            name = type(self).__name__
            raise NotFittedError(f"{name}: the stage is not fitted.", "Expected a fitted stage.", f"{self.fitted_by}.")
        return self.learned

    def to_json(self) -> dict[str, Any]:
        """Return the class name, the parameters and the learned values as plain JSON values.

        Returns
        -------
        dict
            With the keys `stage`, `parameters` and `learned` (None before the fit).
        """
        return {
            "stage": type(self).__name__,
            "parameters": value_to_json(self._saved_parameters()),
            "learned": None if self.learned is None else value_to_json(dict(self.learned)),
        }

    def _saved_parameters(self) -> dict[str, Any]:
        return self.parameters()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Build a stage of this class from the result of `to_json`.

        Parameters
        ----------
        data
            The dict; its keys must have been checked to exist. `learned` is None for an unfitted stage.

        Returns
        -------
        Stage
            Fitted, when the saved one was.

        Raises
        ------
        ParameterError
            When a saved parameter is one that the constructor refuses.
        """
        stage = cls(**value_from_json(data["parameters"]))
        return stage if data["learned"] is None else stage.fitted(value_from_json(data["learned"]))


@functools.cache
def parameter_checks(stage: type[ParameterizedStage]) -> dict[str, ParameterCheck]:
    """Return the check of each parameter: that of `param`, otherwise what its annotation says. A default passes in any case: an
    author may write `x: int = None`."""
    checks = {}
    for f in dataclasses.fields(stage):
        check = f.metadata.get("check")
        if check is None and (check := class_checks(stage).get(f.name)) and not check.accepts(f.default):
            check = None
        if f.init and check is not None:
            checks[f.name] = check
    return checks


@dataclass(frozen=True)
class Stage(ParameterizedStage):
    """One preprocessing step. See the module docstring for the contract and `ColumnStage` for the usual base class.

    Parameters
    ----------
    columns
        The columns it works on: names, a Polars selector, or None for all columns of the kinds the stage handles.

    Raises
    ------
    ParameterError
        When a parameter has a value that its stage does not take, and without `columns` where a stage needs them.

    Examples
    --------
    >>> from rayline.stages import StandardScaler
    >>> stage = StandardScaler(columns=["x"], with_mean=False)
    >>> stage.parameters()
    {'columns': ['x'], 'keep_empty_features': None, 'with_mean': False, 'with_std': True}
    >>> stage.replace(with_mean=True).is_fitted
    False
    """

    kinds: ClassVar[tuple[Kind, ...]] = ()
    """The kinds of columns that `columns=None` selects. Target columns are never selected."""

    accepts: ClassVar[tuple[Kind, ...]] = ()
    """The kinds that explicitly named columns may have; empty for any."""

    column_operation: ClassVar[type[Operation] | None] = None
    """The operation that replaces every column in place, if the stage changes nothing else: later stages can then
    compute their statistics through it in the same scan."""

    keep_input: ClassVar[bool] = False
    """Whether its source columns stay unchanged in the table, in addition to the columns it adds."""

    resamples: ClassVar[bool] = False
    """Whether training rows are dropped, added or repeated; such a stage does nothing in prediction."""

    unsupported_params: ClassVar[Mapping[str, str]] = {
        "copy": "leave it out: the input is never modified",
        "n_jobs": "leave it out: all cores are used",
        "dtype": "leave it out: numbers are Float64, 0/1 columns UInt8",
        "sparse_output": "leave it out: 0/1 columns are UInt8, texts become sparse vectors",
        "order": "leave it out: tables are stored by column",
        "random_state": "leave it out: nothing is drawn at random",
        "subsample": "leave it out: all rows count",
        "feature_name_combiner": "leave it out: new columns are named column_category",
    }
    fitted_by: ClassVar[str] = "fit a Preprocessor that contains it"

    needs_columns: ClassVar[bool] = False
    """Whether `columns=None` is refused."""

    by_column: ClassVar[bool] = False
    """Whether what it learns from one column is independent of the others and stored only in `learned["columns"]`: see `without`."""

    labels: ClassVar[bool] = False
    """Whether it encodes a target as classes: a class code is the index of a label in its learned `categories`."""

    lossy_reason: ClassVar[str] = ""
    """What the inverse (`invert`) cannot restore, in words; empty when it restores every value."""

    columns: Columns = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.needs_columns and self.columns is None:
            raise ParameterError(
                f"{type(self).__name__}: columns is missing.", "Expected names or a selector.", "pass columns=[…]."
            )

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in _NAMED:
            method = vars(cls).get(name)
            if method is not None and "where" in inspect.signature(method).parameters:
                setattr(cls, name, _with_name(method))

    # -- the contract ----------------------------------------------------------------------------------------------

    def select(
        self, schema: Mapping[str, pl.DataType], *, exclude: Sequence[str], text: Callable[[str], bool]
    ) -> list[str]:
        """Return the columns that this stage works on: those named or selected, otherwise those of its kinds without the targets.

        Parameters
        ----------
        schema
            The columns and types of the table as it comes to this stage.
        exclude
            Columns that are never chosen by kind or selector: the targets and the weights.
        text
            Returns whether a string column holds free text.

        Returns
        -------
        list of str
            In the order of the table, or in the order in which they were named.

        Raises
        ------
        SchemaError
            When a named column does not exist or has a kind that the stage does not accept, and when a selector chooses none.
        """
        name = type(self).__name__
        if self.columns is not None:
            features = {k: v for k, v in schema.items() if k not in exclude}
            columns = (
                [c for c in self.columns if c not in exclude] if isinstance(self.columns, Selected) else self.columns
            )
            with at(f"{place()} ({name})"):
                chosen = choose(columns, features if isinstance(columns, pl.Expr) else schema)
            if not chosen and isinstance(self.columns, pl.Expr):
                raise SchemaError(
                    f"{place()} ({name}): the selector {self.columns} chooses no column.",
                    f"Expected at least one; the table has {shorten(f'{k} ({v})' for k, v in schema.items() if k not in exclude)}.",
                    "change the selector, or leave the stage out.",
                )
            wrong = [c for c in chosen if self.accepts and kind_of(schema[c]) not in self._accepted()]
            if wrong:
                kinds = " or ".join(self.accepts)
                raise SchemaError.dtype(wrong[0], f"a {kinds} column", schema[wrong[0]], where=f"{place()} ({name})")
            return chosen
        kinds_by_column = {column: kind_of(dtype) for column, dtype in schema.items() if column not in exclude}
        wants_text, wants_category = Kind.TEXT in self.kinds, Kind.CATEGORY in self.kinds
        chosen = []
        for column, kind in kinds_by_column.items():
            ambiguous = kind is Kind.CATEGORY and schema[column] == pl.String and wants_text != wants_category
            if (Kind.TEXT if ambiguous and text(column) else kind) in self.kinds:
                chosen.append(column)
        return chosen

    def _accepted(self) -> set[Kind]:
        return {*self.accepts, *([Kind.CATEGORY] if Kind.TEXT in self.accepts else [])}

    def required_statistics(self, context: FitContext) -> list[StatisticRequest]:
        """Return the statistics that `learn` needs. They are computed for all stages together, in one scan.

        Parameters
        ----------
        context
            The chosen columns, the schema and the targets; no values.

        Returns
        -------
        list of StatisticRequest
            Empty, as by default, for a stage that learns nothing from the rows.
        """
        return []

    @abstractmethod
    def learn(self, context: FitContext, results: Mapping[StatisticRequest, Any]) -> dict[str, Any]:
        """Return what the stage learns from the statistics.

        Parameters
        ----------
        context
            The chosen columns, the schema and the targets.
        results
            The statistic of each request of `required_statistics`. How a statistic counts nulls is its own matter.

        Returns
        -------
        dict
            Plain values that JSON can hold; they become `learned` of the fitted stage.

        Raises
        ------
        DataError
            When the data does not allow it, such as a column without values.
        """

    @abstractmethod
    def to_operations(self) -> list[Operation]:
        """Return the operations that the fitted stage applies. `core.errors.place()` is its name in the preprocessor.

        Returns
        -------
        list of Operation
            In the order in which they are applied to the table.

        Raises
        ------
        NotFittedError
            Before the fit.
        """

    def refuse_existing_columns(
        self, names: Sequence[str], context: FitContext, *, removed: Collection[str] = ()
    ) -> None:
        """Raise an error when a column that the stage adds exists already, or is added twice.

        Parameters
        ----------
        names
            The names of the added columns.
        context
            The schema that the stage sees.
        removed
            Columns that the stage drops, so that their names are free.

        Raises
        ------
        SchemaError
            With the first such name.
        """
        taken = [
            name
            for name, times in Counter(names).items()
            if times > 1 or (name in context.schema and name not in removed)
        ]
        if taken:
            raise SchemaError(
                f"{type(self).__name__}: column {taken[0]!r}, which it adds, exists already.",
                f"Expected new names, each once; got {shorten(taken)}.",
                f"rename {taken[0]!r}, or drop it before (DropColumns).",
            )

    def invert(self, schema: Mapping[str, pl.DataType]) -> list[Operation] | None:
        """Return the operations that restore a table from the fitted stage's outputs.

        By default they are the inverses of the operations of `to_operations`, in reverse order, where each has one.

        Parameters
        ----------
        schema
            The columns and types of the table before the stage, which is to be restored.

        Returns
        -------
        list of Operation or None
            None when the stage has no inverse.
        """
        back: list[list[Operation]] = []
        schema = dict(schema)
        for operation in self.to_operations():
            undo = operation.inverse(schema)
            if undo is None:
                return None
            back.append(undo)
            operation.changes(schema).update(schema)
        return [operation for undo in reversed(back) for operation in undo]

    def lower_training(self) -> list[Operation]:
        """Return the operations for the training rows, where these differ (cross-fitted codes, resampling).

        Returns
        -------
        list of Operation
            Those of `to_operations` by default.
        """
        return self.to_operations()

    def without(self, columns: Collection[str]) -> Self | None:
        """Return this fitted stage as if it had been fitted without these columns.

        Parameters
        ----------
        columns
            Columns that turned out to be targets or weights.

        Returns
        -------
        Stage or None
            The stage itself when it learned nothing of them. None when the answer needs the data, because what was learned
            from other columns depends on them.
        """
        fitted_columns = self.state.get("columns", ())
        if not any(name in columns for name in fitted_columns):
            return self
        if not self.by_column:
            return None
        rest = (
            {k: v for k, v in fitted_columns.items() if k not in columns}
            if isinstance(fitted_columns, Mapping)
            else [c for c in fitted_columns if c not in columns]
        )
        return self.fitted({**self.state, "columns": rest})

    # -- JSON ------------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        selected = isinstance(self.columns, (pl.Expr, Selected))
        return {**super().to_json(), **({"selected": True} if selected else {})}

    def _saved_parameters(self) -> dict[str, Any]:
        if not isinstance(self.columns, pl.Expr):
            return self.parameters()
        if self.learned is None:
            raise ParameterError(
                f"{type(self).__name__}: a selector cannot be saved before the stage is fitted.",
                "Expected column names, or a fitted stage (which is saved with the columns that its selector chose).",
                "fit first, or name the columns.",
            )
        return {**self.parameters(), "columns": list(self.learned["columns"])}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        parameters = value_from_json(data["parameters"])
        if data.get("selected"):
            parameters["columns"] = Selected(parameters["columns"])
        stage = cls(**parameters)
        return stage if data["learned"] is None else stage.fitted(value_from_json(data["learned"]))


_NAMED = ("select", "to_operations", "lower_training", "invert", "column_to_operations")


def _with_name(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method of a user's stage that still takes `where`, the stage's name."""
    names = [name for name in inspect.signature(method).parameters if name not in ("self", "where")]

    @functools.wraps(method)
    def call(self: Stage, *args: Any, **kwargs: Any) -> Any:
        return method(self, where=place(), **dict(zip(names, args, strict=False)), **kwargs)

    return call


def operations_of(path: str, stage: Stage, *, training: bool = False) -> list[Operation]:
    """Return the operations of a fitted stage by its name in the preprocessor, which their errors say."""
    with at(path):
        return stage.lower_training() if training else stage.to_operations()


@dataclass(frozen=True)
class ColumnStage(Stage):
    """A stage that treats each column independently.

    Parameters
    ----------
    columns
        As in `Stage`.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> import polars as pl
    >>> from rayline import ColumnStage, Preprocessor, register_stage
    >>> from rayline.core.operations.base import Affine
    >>> from rayline.core.schema import Kind
    >>> @register_stage
    ... @dataclass(frozen=True)
    ... class Halve(ColumnStage):
    ...     kinds = (Kind.NUMERIC,)
    ...     def column_to_operations(self, column, learned):
    ...         return [Affine(column, 0.0, 2.0)]
    >>> Preprocessor([("halve", Halve())]).fit_transform(pl.DataFrame({"x": [1.0, 3.0]}))["x"].to_list()
    [0.5, 1.5]
    """

    by_column: ClassVar = True

    def column_statistics(self, dtype: pl.DataType) -> list[type[Statistic]]:
        """Return the statistics of a column that `learn_column` needs, in the order of its arguments.

        Parameters
        ----------
        dtype
            The type of the column.

        Returns
        -------
        list of Statistic classes
            Empty by default.
        """
        return []

    def learn_column(self, column: str, dtype: pl.DataType, *statistics: Any) -> dict[str, Any]:
        """Return what is learned from one column.

        Parameters
        ----------
        column, dtype
            The column's name and type.
        statistics
            Its statistics, in the order of `column_statistics` (or `column_requests`).

        Returns
        -------
        dict
            Plain values that JSON can hold; by default none, for a stage that requires no statistics.

        Raises
        ------
        DataError
            When the column's values do not allow it; a column of nulls alone raises `all_null`, so that
            `keep_empty_features` decides.
        """
        return {}

    @abstractmethod
    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        """Return the operations for one column.

        Parameters
        ----------
        column
            The column's name.
        learned
            What `learn_column` returned for it.

        Returns
        -------
        list of Operation
            How they treat nulls is part of each operation.
        """

    def column_requests(self, column: str, context: FitContext) -> list[StatisticRequest]:
        """Return the requests behind `column_statistics`; override it when the statistics take options.

        Parameters
        ----------
        column
            The column's name.
        context
            The schema and the targets.

        Returns
        -------
        list of StatisticRequest
            In the order in which `learn_column` takes their results.
        """
        return [context.request(statistic, column) for statistic in self.column_statistics(context.schema[column])]

    def required_statistics(self, context: FitContext) -> list[StatisticRequest]:
        return [request for column in context.columns for request in self.column_requests(column, context)]

    def learn(self, context: FitContext, results: Mapping[StatisticRequest, Any]) -> dict[str, Any]:
        columns: dict[str, Any] = {}
        for column in context.columns:
            dtype = context.schema[column]
            statistics = [results[request] for request in self.column_requests(column, context)]
            try:
                with counting(f"{type(self).__name__}: column {column!r}"):
                    columns[column] = self.learn_column(column, dtype, *statistics)
            except EmptyColumnError:
                keep = getattr(self, "keep_empty_features", None)
                if keep is None:
                    raise
                columns[column] = self.learn_empty(column, dtype) if keep else {"empty": "drop"}
        return {"columns": columns}

    def to_operations(self) -> list[Operation]:
        return [
            operation
            for column, learned in self.state["columns"].items()
            for operation in (_of_empty(column, learned) or self.column_to_operations(column, learned))
        ]

    def learn_empty(self, column: str, dtype: pl.DataType) -> dict[str, Any]:
        """Return what is learned for a column without values that is kept (`keep_empty_features=True`).

        Parameters
        ----------
        column, dtype
            The column's name and type.

        Returns
        -------
        dict
            By default that it stays missing.
        """
        return {"empty": "missing"}

    def invert_empty(self, schema: Mapping[str, pl.DataType]) -> list[Operation]:
        """Return the operations that restore the dropped columns without values.

        Parameters
        ----------
        schema
            The columns and types of the table that is restored.

        Returns
        -------
        list of Operation
            One that adds columns of nulls, or none.
        """
        dropped = [c for c, learned in self.state["columns"].items() if learned.get("empty") == "drop"]
        return [AddNullColumns({column: schema[column] for column in dropped})] if dropped else []

    def all_null(self, column: str) -> EmptyColumnError:
        """Return the error about a column that holds nulls only.

        Parameters
        ----------
        column
            The column's name.

        Returns
        -------
        EmptyColumnError
            To be raised by `learn_column`; its hint names `keep_empty_features` where the stage has it.
        """
        return no_values(type(self), column)

    def refuse_unknown_columns(self, parameter: str, given: Any, context: FitContext) -> None:
        """Raise an error when a parameter given by column names a column that the stage does not work on.

        Parameters
        ----------
        parameter
            The parameter's name, for the message.
        given
            Its value; only a mapping is checked.
        context
            The columns of the stage.

        Raises
        ------
        ParameterError
            With the names that are no columns of the stage.
        """
        strange = [name for name in given if name not in context.columns] if isinstance(given, Mapping) else []
        if strange:
            expected = f"only columns of the stage, {shorten(context.columns)}"
            raise ParameterError.value(parameter, expected, strange, where=type(self).__name__)

    def refuse_infinite(self, column: str, *numbers: float) -> None:
        """Raise an error when a number learned from a column is not finite.

        Parameters
        ----------
        column
            The column's name, for the message.
        numbers
            The learned numbers.

        Raises
        ------
        DataError
            On an infinite number or NaN.
        """
        if not all(math.isfinite(number) for number in numbers):
            raise DataError(
                f"{type(self).__name__}: column {column!r} holds infinite values, or values too large for float64.",
                "Expected finite numbers.",
                f"clip {column!r} first (Clipper), or make the infinite values missing.",
            )


@dataclass(frozen=True)
class NumberStage(ColumnStage):
    """A stage that treats each numeric column independently."""

    kinds: ClassVar = (Kind.NUMERIC,)
    accepts: ClassVar = (Kind.NUMERIC, Kind.BOOLEAN)

    _: KW_ONLY
    keep_empty_features: bool | None = None


def no_values(stage: type[Stage], column: str) -> EmptyColumnError:
    """Return the error about a column without values."""
    has_option = "keep_empty_features" in stage.__dataclass_fields__
    other = (
        "set keep_empty_features=False (drop it) or True (keep it)" if has_option else "impute it with a constant first"
    )
    return EmptyColumnError(
        f"{stage.__name__}: column {column!r} has no values, only missing ones.",
        "Expected at least one value to learn from.",
        f"drop {column!r} (DropColumns), or {other}.",
    )


def _of_empty(column: str, learned: Mapping[str, Any]) -> list[Operation]:
    match learned.get("empty"):
        case "drop":
            return [Drop([column])]
        case "missing":
            return [AddNullColumns({column: pl.Float64()})]
    return []


def text_request(column: str) -> StatisticRequest:
    """Return the request for the statistic that decides whether a string column is free text."""
    return StatisticRequest(WordCount, (column,))


def _bounds(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f" from {low} to {high}"
    return f" of at least {low}" if low is not None else f" of at most {high}" if high is not None else ""


def _within(value: float, low: float | None, high: float | None) -> bool:
    return value == value and (low is None or value >= low) and (high is None or value <= high)  # NaN is no number


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)

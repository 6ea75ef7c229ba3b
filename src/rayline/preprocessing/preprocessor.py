"""The preprocessor without `chain`: named stages that are fitted in one scan and applied in one query."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import polars as pl

from rayline.core import registry, storage, strict_json
from rayline.core.arguments import column_names, known_arguments
from rayline.core.column_choice import refuse_existing_columns
from rayline.core.data_types import Data, DataT
from rayline.core.engine import Engine
from rayline.core.errors import (
    ArtifactError,
    NotFittedError,
    ParameterError,
    RaylineError,
    SchemaError,
    at,
    counted,
    first_line,
)
from rayline.core.files import checked_path, replace_content
from rayline.core.json_values import schema_from_json, schema_to_json
from rayline.core.operations.base import Operation, Row, RowFunction, apply_all, row_function
from rayline.core.operations.inverse import inverse
from rayline.core.schema import refuse_empty, remembered_schema, without_categories
from rayline.core.stage import Stage, operations_of
from rayline.core.target import Target
from rayline.data.equality import same
from rayline.preprocessing import diagram, fit_planner, inverse_transform
from rayline.preprocessing.lineage import ColumnOrigins, origins
from rayline.preprocessing.schema_check import SchemaCheck
from rayline.preprocessing.smoke_check import smoke_check
from rayline.preprocessing.stage_list import NamedStages, refuse_targets
from rayline.preprocessing.value_readers import row_check
from rayline.preprocessing.without_columns import without_targets

if TYPE_CHECKING:
    from rayline.data.split.splitters import FoldsLike

FORMAT_VERSION = 1


@known_arguments
class BasePreprocessor(NamedStages):
    """Named stages, fitted in one scan of the data and applied as one query: all of `Preprocessor` but `chain`.

    The public class is `rayline.Preprocessor`. It is defined next to `InferencePipeline`, which `chain` returns, so that
    this package depends on nothing of inference.

    Parameters
    ----------
    stages, target_stages
        As in `rayline.Preprocessor`.
    """

    def __init__(
        self,
        stages: Sequence[tuple[str, Stage | BasePreprocessor]] = (),
        target_stages: Sequence[tuple[str, Stage]] = (),
    ) -> None:
        super().__init__(stages, target_stages)
        self._input: pl.Schema | None = None
        self._output: pl.Schema | None = None
        self._targets: tuple[str, ...] = ()
        self._target: Target | None = None
        self._scans = 0

    # -- fit -------------------------------------------------------------------------------------------------------

    @property
    def is_fitted(self) -> bool:
        """Whether `fit` has succeeded, or the state of a fit was loaded."""
        return self._input is not None

    @property
    def learned(self) -> dict[str, Any] | None:
        """What each stage has learned, by its name; None before the fit."""
        by_stage = {name: stage.learned for name, stage in (*self._stages, *self._target_stages)}
        return by_stage if self.is_fitted or any(learned is not None for learned in by_stage.values()) else None

    @at("Preprocessor.fit")
    def fit(self, data: Data, *, target_columns: Sequence[str] | str = ()) -> Self:
        """Fit the stages and return this preprocessor.

        The data is scanned once for each level of stages that depend on one another, usually once in total.

        Parameters
        ----------
        data
            Any table, or a ray.data.Dataset (then the scan runs on Ray). Each stage says how it treats nulls; NaN is one.
        target_columns
            Columns that no stage may change. They may be absent when data is transformed. When omitted, a later
            `train.fit` removes its targets from the stages without `columns`.

        Returns
        -------
        Preprocessor
            This object, fitted. When the fit fails it does not change.

        Raises
        ------
        DataError
            When there are no rows or a stage cannot learn from a column.
        SchemaError
            When a named column is missing or of a wrong type, or a stage works on a target.
        ParameterError
            When there are target stages and no target.
        """
        self.fit_with_requests(data, target_columns=target_columns)
        return self

    def fit_with_requests(
        self,
        data: Data,
        *,
        target_columns: Sequence[str] | str = (),
        extra_requests: fit_planner.RequestFunction | None = None,
        known: Mapping[Any, Any] | None = None,
        excluded_columns: Sequence[str] = (),
        schema: pl.Schema | None = None,
    ) -> fit_planner.FitOutcome:
        """Fit the stages, and compute statistics of the output table in the same scan.

        Parameters
        ----------
        data, target_columns
            As in `fit`, nulls too.
        extra_requests
            Called with the output table's schema and targets; returns requests for further statistics.
        known
            Statistics of the data that need not be computed again, by their request.
        excluded_columns
            Columns (sample weights) that only those statistics read: the stages do not see them.
        schema
            The schema of the data, as `schema_check.readable` gives it, where the caller has read it already.

        Returns
        -------
        FitOutcome
            The fitted stages, the output schema, the number of scans, and the results of the further requests.

        Raises
        ------
        DataError, SchemaError, ParameterError
            As `fit`.
        """
        with registry.engine_for(data).keeping(data):
            engine, schema, targets = self._inputs(data, target_columns, schema)
            fit = fit_planner.fit(
                engine, data, self.leaves, schema, targets=targets, extra_requests=extra_requests, known=known, excluded_columns=excluded_columns,
                target_leaves=self._target_stages)  # fmt: skip
        self.store_fit(fit, schema, targets, excluded_columns)
        return fit

    @at("Preprocessor.fit_folds")
    def fit_folds(self, data: Data, folds: FoldsLike, *, target_columns: Sequence[str] | str = ()) -> list[Self]:
        """Fit one preprocessor on the training rows of each fold, all in the scans that a single fit takes.

        Each equals the result of `fit` on its training rows alone: held-out rows have no influence. This preprocessor is
        not changed.

        Parameters
        ----------
        data
            Any table, or a ray.data.Dataset (then the scan runs on Ray); nulls as in `fit`.
        folds
            A number of folds, or a splitter such as `rayline.data.GroupKFold(5, column="tailnum")`.
        target_columns
            As in `fit`.

        Returns
        -------
        list
            The preprocessors, in the order in which `splitter.split` yields the folds.

        Raises
        ------
        DataError
            When the rows cannot be split like this, or a stage cannot learn from a training slice.
        SchemaError
            As `fit`.

        Examples
        --------
        >>> import polars as pl
        >>> from rayline.train import Preprocessor
        >>> from rayline.stages import StandardScaler
        >>> table = pl.DataFrame({"x": [float(i) for i in range(10)]})
        >>> [p.scans for p in Preprocessor([("scale", StandardScaler())]).fit_folds(table, 5)]
        [1, 1, 1, 1, 1]
        """
        from rayline.data.split.splitters import (
            splitter,
        )  # a fifth of Rayline's modules, and a loaded pipeline needs none of them
        from rayline.preprocessing.cross_fit import FoldFitter

        fitted = []
        with registry.engine_for(data).keeping(data):
            engine, schema, targets = self._inputs(data, target_columns)
            for prepared in splitter(folds).prepare(engine, data, target_columns=targets):
                cells, row_cells = prepared.cells, prepared.cells.row_cells
                fitter = FoldFitter(engine, data, schema, cells, prepared.folds, targets=targets, row_cells=row_cells)
                for fold in range(len(prepared.folds)):
                    one = self.clone()
                    one.store_fit(fitter.fit(fold, self.leaves, target_leaves=self._target_stages), schema, targets)
                    fitted.append(one)
        return fitted

    def _inputs(
        self, data: Data, target_columns: Sequence[str] | str, schema: pl.Schema | None = None
    ) -> tuple[Engine, pl.Schema, list[str]]:
        engine: Engine = registry.engine_for(data)
        targets = list(column_names("target_columns", target_columns))
        if schema is None:
            schema = remembered_schema(engine.schema(data))
        refuse_empty(len(schema))  # an empty Dataset has no columns either
        absent = [t for t in targets if t not in schema]
        if absent:
            raise SchemaError.absent(absent, schema)
        if self._target_stages and not targets:
            raise ParameterError.here(
                f"there are target stages ({', '.join(name for name, _ in self._target_stages)}) and no target.",
                "Expected target_columns=[…].",
                "name the target columns, or leave target_stages out.",
            )
        self.refuse_targets(targets)
        return engine, schema, targets

    def store_fit(
        self,
        fit: fit_planner.FitOutcome,
        schema: Mapping[str, pl.DataType],
        targets: Sequence[str],
        excluded_columns: Sequence[str] = (),
    ) -> None:
        """Store the fitted stages of a fit of this preprocessor, and its schemas.

        Parameters
        ----------
        fit
            The outcome of the fit, with a fitted stage for each leaf.
        schema
            The columns and types of the data.
        targets, excluded_columns
            The target columns and the weights, which are no part of the stored schemas.
        """
        self._take(fit.leaves)
        pairs = zip(self._target_stages, fit.target_leaves, strict=True)
        self._target_stages = tuple((name, fitted) for (name, _), fitted in pairs)
        self._input = pl.Schema(
            {name: dtype for name, dtype in schema.items() if name not in targets and name not in excluded_columns}
        )
        self._output = pl.Schema({name: dtype for name, dtype in fit.output.items() if name not in targets})
        self._targets, self._target, self._scans = tuple(targets), None, fit.scans
        self.__dict__.pop("operations", None)

    def copy_fit(self, fitted: Self) -> None:
        """Copy the fitted state of a clone of this preprocessor.

        Parameters
        ----------
        fitted
            A fitted preprocessor of the same stages.
        """
        self.__dict__.pop("operations", None)
        self.__dict__.update({k: v for k, v in fitted.__dict__.items() if k != "operations"})

    def refuse_targets(self, targets: Sequence[str]) -> None:
        """Raise an error when a stage names one of these targets.

        Parameters
        ----------
        targets
            The target columns of a fit.

        Raises
        ------
        SchemaError
            With the stage and the target that it works on.
        """
        refuse_targets(self.leaves, targets)

    def without_targets(self, targets: Sequence[str], *, excluded_columns: Sequence[str] = ()) -> Self:
        """Return this fitted preprocessor, or a copy without these target columns if it was fitted with them.

        The result equals a fit with these targets; no data is scanned.

        Parameters
        ----------
        targets
            The columns that are targets now.
        excluded_columns
            Further columns to remove (sample weights).

        Returns
        -------
        Preprocessor
            This object when it knows none of the columns.

        Raises
        ------
        SchemaError
            When a stage names a target, or the fitted state of another column depends on a target.
        """
        self.refuse_targets([*targets, *excluded_columns])
        learned = {column for _, stage in self._target_stages for column in stage.state.get("columns", ())}
        other = sorted(learned - set(targets))
        if other:
            raise SchemaError.here(
                f"the target stages were fitted on {other[0]!r}, which is not a target now.",
                f"Expected the targets of Preprocessor.fit, {list(self._targets)}; got {list(targets)}.",
                "train on these, or pass the preprocessor unfitted (preprocessor.clone()).",
            )
        known = [name for name in (*targets, *excluded_columns) if name in self.input_schema]
        if not known:
            return self
        leaves, output = without_targets(self.leaves, without_categories(self.input_schema), known)
        copy = type(self)()
        copy.copy_fit(self)
        copy._take(leaves)
        copy._input = pl.Schema({name: dtype for name, dtype in self.input_schema.items() if name not in known})
        copy._output = output
        copy._targets = (*self._targets, *(t for t in known if t not in self._targets and t not in excluded_columns))
        return copy

    # -- transform -------------------------------------------------------------------------------------------------

    @cached_property
    def operations(self) -> list[Operation]:
        """The operations of the fitted stages, in order."""
        with at("Preprocessor.transform"):
            self._require_fitted()
        return [
            operation for path, leaf in self.leaves if not leaf.resamples for operation in operations_of(path, leaf)
        ]

    def transform(self, data: DataT) -> DataT:
        """Return the transformed table. Columns that `fit` did not see (targets, ids) pass through unchanged.

        Parameters
        ----------
        data
            Any table, or a ray.data.Dataset, with the columns of the fit in any order. Each stage says how it treats nulls;
            without one they stay.

        Returns
        -------
        table or Dataset
            The type of the input, with as many rows in the same order; a ray.data.Dataset stays lazy.

        Raises
        ------
        NotFittedError
            Before `fit`.
        SchemaError
            When a column of `fit` is missing or has another type, or the data has a column that a stage adds.
        DataError
            When a stage rejects a value (`handle_unknown="error"`).
        """
        transformed: DataT = registry.engine_for(data).map(data, self.table_function())
        return transformed

    def fit_transform(self, data: DataT, *, target_columns: Sequence[str] | str = ()) -> DataT:
        """Fit, and return the transformed training rows: cross-fitted and resampled by the stages that do so.

        Parameters
        ----------
        data, target_columns
            As in `fit`; nulls as there.

        Returns
        -------
        table or Dataset
            As `transform_training`.

        Raises
        ------
        DataError, SchemaError, ParameterError
            As `fit`.
        """
        return self.fit(data, target_columns=target_columns).transform_training(data)

    def transform_training(self, data: DataT) -> DataT:
        """Return the transformed training rows, those of the fit (see `Stage.lower_training`).

        Parameters
        ----------
        data
            The rows of the fit, nulls included.

        Returns
        -------
        table or Dataset
            The type of the input. A stage that resamples changes the number of rows; `TargetEncoder` gives each row a code
            that its own target has no part in.

        Raises
        ------
        NotFittedError, SchemaError, DataError
            As `transform`.
        """
        transformed: DataT = registry.engine_for(data).map(data, self.table_function(training=True))
        return transformed

    @property
    def _training_operations(self) -> list[Operation]:
        return [operation for path, leaf in self.leaves for operation in operations_of(path, leaf, training=True)]

    @at("Preprocessor.inverse_transform")
    def inverse_transform(self, data: DataT) -> DataT:
        """Return a transformed table in its original columns: the stages are inverted, the last one first.

        Information that a stage discarded is not restored (`Stage.lossy_reason`): a filled value stays filled, a bin becomes
        its midpoint, a removed column has no values. Numbers are Float64. Other columns pass through unchanged.

        Parameters
        ----------
        data
            A table or a ray.data.Dataset with the columns that `transform` returns. A null stays null, except where it stands
            for a category.

        Returns
        -------
        table or Dataset
            The type of the input, with as many rows in the same order.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ParameterError
            When a stage has no inverse; the error names it.
        SchemaError
            When a column that `transform` returns is missing or has another type.

        Examples
        --------
        >>> import polars as pl
        >>> from rayline.train import Preprocessor
        >>> from rayline.stages import OneHotEncoder, StandardScaler
        >>> table = pl.DataFrame({"x": [1.0, 3.0], "c": ["a", "b"]})
        >>> p = Preprocessor([("scale", StandardScaler()), ("onehot", OneHotEncoder())]).fit(table)
        >>> p.inverse_transform(p.transform(table)).rows()
        [(1.0, 'a'), (3.0, 'b')]
        """
        self._require_fitted()
        check = SchemaCheck(self.output_schema)
        operations = inverse(self.leaves, without_categories(self.input_schema))
        back = inverse_transform.InverseTransform(check, operations, list(self.input_schema))
        original: DataT = registry.engine_for(data).map(data, back)
        return original

    def table_function(self, *, training: bool = False) -> Callable[[pl.LazyFrame], pl.LazyFrame]:
        """Return the transformation as a function of a LazyFrame; it can be sent to workers.

        Parameters
        ----------
        training
            Whether it is that of `transform_training`.

        Returns
        -------
        callable
            It raises SchemaError on a frame that lacks a column of the fit.

        Raises
        ------
        NotFittedError
            Before `fit`.
        """
        operations = self._training_operations if training else self.operations
        added = None if training else [name for name in self.output_schema if name not in self.input_schema]
        return _Transform(SchemaCheck(self.input_schema, "Preprocessor.transform"), operations, added)

    def row_function(self) -> RowFunction | None:
        """Return the transformation of one row.

        Returns
        -------
        callable or None
            A function that changes a dict in place, with the bits of `transform`; None when a stage cannot transform single
            rows.

        Raises
        ------
        NotFittedError
            Before `fit`.
        """
        operate = row_function(self.operations, without_categories(self.input_schema))
        with at("Preprocessor.transform"):
            check = row_check(self.input_schema)
        if operate is None or check is None:
            return None

        def run(row: Row) -> None:
            check(row)
            operate(row)

        return run

    # -- what it is ------------------------------------------------------------------------------------------------

    @property
    def input_schema(self) -> pl.Schema:
        """Columns and types that `transform` needs."""
        with at("Preprocessor.input_schema"):
            self._require_fitted()
        assert self._input is not None
        return self._input

    @property
    def output_schema(self) -> pl.Schema:
        """Columns and types that `transform` returns."""
        with at("Preprocessor.output_schema"):
            self._require_fitted()
        assert self._output is not None
        return self._output

    @property
    def lineage(self) -> dict[str, tuple[str, ...]]:
        """For each column that `transform` returns, the input columns that its values are computed from, in the order of the table.

        Derived from the stages' operations, without data. Values learned from other rows (a mean, a target) are not sources.

        Examples
        --------
        >>> import polars as pl
        >>> from rayline.train import Preprocessor
        >>> from rayline.stages import OneHotEncoder, Ratio
        >>> table = pl.DataFrame({"miles": [10.0, 4.0], "hours": [2.0, 1.0], "c": ["a", "b"]})
        >>> p = Preprocessor([("speed", Ratio(["miles"], per="hours")), ("onehot", OneHotEncoder())]).fit(table)
        >>> p.lineage["miles_per_hours"], p.lineage["c_a"]
        (('miles', 'hours'), ('c',))
        """
        return self._origins.columns

    @property
    def feature_names_out(self) -> list[str]:
        """The names of all features that `transform` returns: for a vector column those of its elements."""
        return [name for features in self.features_of.values() for name in features]

    @property
    def features_of(self) -> dict[str, dict[str, tuple[str, ...]]]:
        """For each column that `transform` returns, its features by name (one, or the elements of a vector), each with its
        source columns."""
        return self._origins.features(self.output_schema)

    @property
    def _origins(self) -> ColumnOrigins:
        return origins(self.operations, without_categories(self.input_schema))

    @property
    def target_columns(self) -> list[str]:
        """The targets named in `fit`."""
        return list(self._targets)

    @property
    def target(self) -> Target | None:
        """Task and classes of the targets, set by a training; used by `chain` with a framework's own model. None before."""
        return self._target

    def remember_target(self, target: Target) -> None:
        """Keep the target of a training, to decode the predictions of a bare model that is chained later.

        Parameters
        ----------
        target
            Task and classes of the training.
        """
        self._target = target

    @property
    def scans(self) -> int:
        """How many times `fit` read the data."""
        return self._scans

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BasePreprocessor) and same(self.to_json(), other.to_json())

    __hash__ = None  # type: ignore[assignment]  # fit changes it

    def __repr__(self) -> str:
        lines = [f"  ({name!r}, {_indent(repr(stage))})," for name, stage in self._stages]
        state = (
            f"fitted: {counted(len(self._input), 'column')} in, {len(self._output or ()):,} out, {counted(self._scans, 'scan')}"
            if self._input is not None
            else "not fitted"
        )
        ends = [f"], target_stages={list(self._target_stages)!r})"] if self._target_stages else ["])"]
        return "\n".join(["Preprocessor([", *lines, f"{ends[0]}  # {state}"])

    def _repr_html_(self) -> str:
        rows = [(name, repr(stage), "for the target") for name, stage in self._target_stages]
        if self._input is None:
            rows += [(path, repr(leaf), "") for path, leaf in self.leaves]
            return diagram.html("Preprocessor not fitted", rows)
        schema = dict(without_categories(self.input_schema))
        rows.insert(0, (counted(len(schema), "column"), "", diagram.name_list(schema)))
        for path, leaf in self.leaves:
            flow, schema = diagram.flow([] if leaf.resamples else operations_of(path, leaf), schema)
            rows.append((path, repr(leaf), "training rows only" if leaf.resamples else diagram.effect(flow)))
        rows.append((counted(len(schema), "feature"), "", diagram.name_list(schema)))
        return diagram.html(f"Preprocessor fitted in {counted(self._scans, 'scan')}", rows)

    def _require_fitted(self) -> None:
        if self._input is None:
            raise NotFittedError.here(
                "the preprocessor is not fitted.", "Expected a fitted one.", "call .fit(data) first."
            )

    # -- JSON ------------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Return the complete state as plain JSON values.

        Returns
        -------
        dict
            With `format_version`, the stages and their learned values, and both schemas (None before the fit).

        Raises
        ------
        ParameterError
            When a stage chooses its columns by a selector and is not fitted.
        """
        return {
            "format": "rayline.preprocessor",
            "format_version": FORMAT_VERSION,
            "stages": [[name, stage.to_json()] for name, stage in self._stages],
            "target_stages": [[name, stage.to_json()] for name, stage in self._target_stages],
            "input_schema": None if self._input is None else schema_to_json(self._input),
            "output_schema": None if self._output is None else schema_to_json(self._output),
            "target_columns": list(self._targets),
            "target": None if self._target is None else self._target.to_json(),
            "scans": self._scans,
        }

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Build a preprocessor from the result of `to_json`. The content counts as untrusted: it runs no code.

        Parameters
        ----------
        data
            The parsed JSON, with null for what an unfitted preprocessor lacks.

        Returns
        -------
        Preprocessor
            Equal to the saved one.

        Raises
        ------
        ArtifactError
            When it is malformed, of a newer format, or its stages do not give the columns that it says.
        ParameterError
            When a stage is not registered in this process.
        """
        if not isinstance(data, dict) or data.get("format") != "rayline.preprocessor":
            raise ArtifactError(
                "Not a saved preprocessor.", "Expected a JSON object with format 'rayline.preprocessor'."
            )
        version = data.get("format_version")
        if not isinstance(version, int) or version > FORMAT_VERSION:
            raise ArtifactError(
                f"The saved preprocessor has format version {version!r}.",
                f"Expected at most {FORMAT_VERSION}.",
                "load it with a newer Rayline.",
            )
        try:
            new = cls(
                [(name, _leaf_from_json(s) if "stage" in s else cls.from_json(s)) for name, s in data["stages"]],
                [(name, _leaf_from_json(stage)) for name, stage in data.get("target_stages", ())],
            )
            new._input = None if data["input_schema"] is None else schema_from_json(data["input_schema"])
            new._output = None if data["output_schema"] is None else schema_from_json(data["output_schema"])
            new._target = None if data["target"] is None else Target.from_json(data["target"])
            new._targets, new._scans = tuple(map(str, data["target_columns"])), int(data["scans"])
            if (new._input is None) != (new._output is None):
                raise ArtifactError(
                    "The saved preprocessor is malformed: it has only one of its two schemas.",
                    "Expected input_schema and output_schema, or null for both.",
                    "save it again.",
                )
            if new._input is not None and new._output is not None:
                smoke_check(new.table_function(), new.row_function(), new._input, new._output)
        except (Exception, pl.exceptions.PanicException) as error:  # untrusted values can raise anything in a stage
            if isinstance(error, RaylineError):
                raise
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise ArtifactError(f"The saved preprocessor is malformed: {reason}.", "", "save it again.") from error
        return new

    def save(self, path: str | Path) -> None:
        """Write the preprocessor as readable JSON, atomically.

        Parameters
        ----------
        path
            A file, or a URL (s3://…).

        Raises
        ------
        ArtifactError
            When the file cannot be written; what was there before is still there.
        ParameterError
            As `to_json`.
        """
        replace_content(path, strict_json.dumps(self.to_json(), indent=1))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file that `save` wrote.

        Parameters
        ----------
        path
            A file, or a URL (s3://…).

        Returns
        -------
        Preprocessor
            Equal to the saved one.

        Raises
        ------
        ArtifactError
            When the file does not exist or is no preprocessor.
        """
        checked_path(path)
        if storage.is_url(path):
            return cls.from_json(strict_json.loads(storage.read_bytes(str(path)), str(path)))
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise ArtifactError(
                f"Preprocessor.load: {path} cannot be read: {error.strerror}.",
                "Expected a file written by Preprocessor.save.",
                "check the path.",
            ) from error
        return cls.from_json(strict_json.loads(content, str(path)))


class _Transform:
    """A fitted transformation of LazyFrames; small, and serialisable to workers."""

    def __init__(self, check: SchemaCheck, operations: Sequence[Operation], adds: Sequence[str] | None) -> None:
        self._check, self._operations, self._adds = check, list(operations), adds

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame:
        if self._adds:
            with at(self._check.made_at):
                refuse_existing_columns(self._adds, table.collect_schema())
        return apply_all(self._operations, self._check(table))

    def passes(self, names: Sequence[str]) -> list[str]:
        """Return the columns that no stage uses; none with resampling (`adds` is None), which changes the rows."""
        return [] if self._adds is None else [name for name in names if name not in self._check.schema]


def _leaf_from_json(data: Any) -> Stage:
    cls: Any = registry.stage(data["stage"])
    stage = cls.from_json(data)
    assert isinstance(stage, Stage)
    return stage


def _indent(text: str) -> str:
    return text.replace("\n", "\n  ")

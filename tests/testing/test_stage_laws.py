"""Each law of a stage finds the fault that it is there for.

Covers `testing.edge_cases` too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import polars as pl
import pytest

from rayline.core.operations.base import Affine, Fill, Operation, RowFunction
from rayline.core.schema import Kind, col
from rayline.core.stage import ColumnStage, FitContext, Stage, a_number, param
from rayline.core.statistics.base import Statistic
from rayline.core.statistics.moments import MinMax, Moments
from rayline.inference.pipeline import Preprocessor
from rayline.stages.impute import IsMissing
from rayline.testing import check_stage
from rayline.testing.edge_cases import example_table
from rayline.testing.stage_laws import LAWS


@dataclass(frozen=True)
class Good(ColumnStage):
    """Subtracts the mean: what the faulty ones below are made of."""

    kinds: ClassVar = (Kind.NUMERIC,)
    accepts: ClassVar = (Kind.NUMERIC,)

    factor: float = param(1.0, a_number())

    def column_statistics(self, dtype: pl.DataType) -> list[type[Statistic]]:
        return [Moments]

    def learn_column(self, column: str, dtype: pl.DataType, *statistics: Any) -> dict[str, Any]:
        if not statistics[0].count:
            raise self.all_null(column)
        self.refuse_infinite(column, statistics[0].mean)
        return {"mean": statistics[0].mean}

    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        return [Affine(column, learned["mean"], self.factor)]


@dataclass(frozen=True, slots=True)
class MeanOfMeans(Statistic):
    count: int = 0
    mean: float = 0.0

    @classmethod
    def expressions(cls, *columns: pl.Expr, **options: Any) -> list[pl.Expr]:
        return [columns[0].count(), columns[0].cast(pl.Float64).fill_nan(None).mean()]

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        return cls(values[0], values[1] or 0.0)

    @classmethod
    def empty(cls, **options: Any) -> Self:
        return cls()

    def merge(self, other: Self) -> Self:
        if not self.count or not other.count:
            return self if self.count else other
        return type(self)(self.count + other.count, (self.mean + other.mean) / 2)


@dataclass(frozen=True, slots=True)
class First(MeanOfMeans):
    """The same whatever the batches, but only in one order and only through `merge_all`."""

    def merge(self, other: Self) -> Self:
        return self if self.count else type(self)(-1, 0.0)


class DependsOnBatches(Good):
    def column_statistics(self, dtype: pl.DataType) -> list[type[Statistic]]:
        return [MeanOfMeans]


class NoIdentity(Good):
    def column_statistics(self, dtype: pl.DataType) -> list[type[Statistic]]:
        return [WithoutIdentity]


@dataclass(frozen=True, slots=True)
class WithoutIdentity(MinMax):
    """Right in `merge_all`, which begins with a state that has rows; wrong where an empty state is merged."""

    @property
    def mean(self) -> float:
        return float(self.high)

    @classmethod
    def empty(cls, **options: Any) -> Self:
        return cls(0, 0, 1e9, 1e9)

    @classmethod
    def merge_all(cls, states: Any, **options: Any) -> Self:
        states = list(states)
        found = states[0]
        for state in states[1:]:
            found = MinMax.merge(found, state)
        return found


class Crashes(Good):
    def learn_column(self, column: str, dtype: pl.DataType, *statistics: Any) -> dict[str, Any]:
        return {"mean": statistics[0].mean, "other": 1 / statistics[0].count}


class ForgetsAFactor(Good):
    def to_json(self) -> dict[str, Any]:
        made = super().to_json()
        made["parameters"]["factor"] = 2.0
        return made


class ChangesWhatItLearned(Good):
    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        learned["mean"] += 1.0  # type: ignore[index]
        return [Affine(column, 0.0, 1.0)]


class Promises(Good):
    column_operation: ClassVar = Fill


class Overwrites(Good):
    keep_input: ClassVar = True


class TouchesTheTarget(Good):
    def to_operations(self) -> list[Operation]:
        return [*super().to_operations(), Shifted("y", False)]


@dataclass(frozen=True)
class Shifted(Operation):
    column: str
    by_neighbour: bool
    odd_row: bool = False
    lies: bool = False

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        x = col(self.column).cast(pl.Float64)
        if self.column not in schema:
            return []
        other = col("price") if self.lies else pl.lit(1.0)
        return [x - x.mean() if self.by_neighbour else x + other]

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        if not self.odd_row:
            return None

        def shift(row: dict[str, Any]) -> None:
            if row[self.column] is not None:
                row[self.column] = (float(row[self.column]) + 1.0) * (1.0 + 2**-52)

        return shift

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {self.column: (self.column,)}

    def inverse(self, schema: Mapping[str, pl.DataType]) -> list[Operation] | None:
        return [] if self.column == "small" else None


class LooksAtNeighbours(Good):
    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        return [Shifted(column, True)]


class RoundsOtherwise(Good):
    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        return [Shifted(column, False, odd_row=True)]


class HidesASource(Good):
    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        return [Shifted(column, False, lies=True)]


class NoWayBack(Good):
    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        return [Shifted("small", False)]


class CannotTravel(Good):
    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        return [Local(column, lambda x: x + 1)]


@dataclass(frozen=True)
class Local(Operation):
    column: str
    function: Any

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        return [self.function(col(self.column)).alias(self.column)]


class TakesAnything(Good):
    def replace(self, **parameters: Any) -> Self:
        return super().replace(**{k: v for k, v in parameters.items() if k in ("columns", "factor")})


class WorksUnfitted(Good):
    def to_operations(self) -> list[Operation]:
        return [] if self.learned is None else super().to_operations()


class TypesComeFromTheData(Good):
    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        return [Narrow(column)]


@dataclass(frozen=True)
class Narrow(Operation):
    column: str

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        return [col(self.column).map_batches(lambda s: s.shrink_dtype(), return_dtype=pl.Int64)]

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {self.column: (self.column,)}


class TakesANameThatIsThere(Good):
    keep_input: ClassVar = True

    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        return [IsMissing(column, f"{column}_missing")]


class RefusesBlocks(Good):
    def learn_column(self, column: str, dtype: pl.DataType, *statistics: Any) -> dict[str, Any]:
        return {"mean": statistics[0].mean, "type": str(dtype)}


class ForgetsTheOthers(Good):
    def without(self, columns: Any) -> Any:
        return self.fitted({"columns": {name: {"mean": 0.0} for name in self.state["columns"] if name not in columns}})


class CountsColumns(Good):
    def learn(self, context: FitContext, results: Mapping[Any, Any]) -> dict[str, Any]:
        places = list(context.schema)
        return {"columns": {name: {"mean": float(places.index(name))} for name in context.columns}}


FAULTS: list[tuple[type[Stage], str]] = [
    (DependsOnBatches, "split_does_not_matter"),
    (CountsColumns, "column_order_does_not_matter"),
    (NoIdentity, "merging_is_that_of_a_monoid"),
    (Crashes, "odd_tables_have_an_outcome"),
    (TypesComeFromTheData, "rows_are_independent"),
    (LooksAtNeighbours, "rows_are_independent"),
    (RoundsOtherwise, "single_rows_have_the_same_bits"),
    (ForgetsAFactor, "json_gives_it_back"),
    (CannotTravel, "workers_can_have_it"),
    (ChangesWhatItLearned, "nothing_is_changed"),
    (TakesAnything, "wrong_parameters_are_refused"),
    (WorksUnfitted, "unfitted_use_is_refused"),
    (TouchesTheTarget, "targets_stay"),
    (Promises, "promises_are_kept"),
    (Overwrites, "promises_are_kept"),
    (TakesANameThatIsThere, "no_column_is_overwritten"),
    (NoWayBack, "the_way_back_leads_back"),
    (HidesASource, "lineage_is_true"),
    (ForgetsTheOthers, "targets_are_let_go"),
]


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    from rayline.core import registry

    for cls in (Good, *(cls for cls, _ in FAULTS)):
        monkeypatch.setitem(registry._STAGES, cls.__name__, cls)  # type: ignore[attr-defined]


def broken(stage: Stage, **how: Any) -> set[str]:
    """The laws that a stage breaks, each asked by itself."""
    found = set()
    for law in LAWS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("rayline.testing.stages.LAWS", [law])
            try:
                check_stage(stage, **how)
            except AssertionError as error:
                match = re.search(r"(?:breaks|fails in) '(\w+)'", str(error))
                assert match
                found.add(match[1])
    return found


def test_a_good_stage_breaks_none() -> None:
    assert not broken(Good(["amount", "small"]), rtol=1e-9)


@pytest.mark.parametrize(("cls", "law"), FAULTS, ids=lambda value: getattr(value, "__name__", None))
def test_the_law_finds_its_fault(cls: type[Stage], law: str) -> None:
    named = {TypesComeFromTheData: ["small"], ForgetsTheOthers: None}  # named columns are not dropped
    columns = named.get(cls, ["amount", "small"])  # type: ignore[arg-type]
    assert law in broken(cls(columns), rtol=1e-9)  # type: ignore[call-arg]


def test_undeclared_outcomes_are_found() -> None:
    hard = ["no rows", "all missing", "infinite", "minus infinite"]
    check_stage(Good(["amount"]), rtol=1e-9, refuses={"fit": hard, "drift": ["strings"]})
    with pytest.raises(AssertionError, match="declared is"):
        check_stage(Good(["amount"]), rtol=1e-9, refuses={"fit": hard[1:], "drift": ["strings"]})
    with pytest.raises(AssertionError, match="drift refuses"):
        check_stage(Good(["amount"]), rtol=1e-9, refuses={"fit": hard})


def test_every_law_has_a_fault() -> None:
    laws = {law.__name__.removeprefix("_") for law in LAWS}
    own_tests = {"the_declared_is_what_happens", "types_may_differ_between_blocks", "drift_has_an_outcome"}
    assert laws - own_tests == {law for _, law in FAULTS}


def test_single_rows_of_the_example_table_go_through_the_row_function() -> None:
    fitted = Preprocessor([("good", Good())]).fit(example_table())
    assert fitted.row_function() is not None  # else the law of single rows would say nothing

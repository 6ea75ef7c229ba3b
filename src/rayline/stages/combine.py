"""Stages that compute new columns: products, ratios, formulas, vectors, registered functions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import polars as pl

from rayline.core import registry
from rayline.core.errors import ParameterError, SchemaError, at
from rayline.core.operations.base import ColumnOperation, Drop, Operation, Row, RowFunction
from rayline.core.operations.expression import Assign, Formula, FormulaLike, check, columns_of, kind
from rayline.core.operations.polars_to_formula import formula_of
from rayline.core.schema import Kind, col
from rayline.core.stage import FitContext, ParameterCheck, Stage, an_int, param
from rayline.core.statistics.base import StatisticRequest

_NUMBERS = (Kind.NUMERIC, Kind.BOOLEAN)


@dataclass(frozen=True)
class PolynomialFeatures(Stage):
    """Add all products of up to `degree` columns (Float64), named as in scikit-learn: `a^2`, `a b`. The columns stay.

    A product with a missing factor is missing.

    Parameters
    ----------
    columns
        Numeric columns; all of them when omitted.
    degree
        The maximum number of factors.
    interaction_only
        Whether to omit products in which a column occurs more than once.

    Raises
    ------
    SchemaError
        In fit, when a new name exists already.
    ParameterError
        When `degree` is outside 2 to 10.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import PolynomialFeatures
    >>> Preprocessor([("p", PolynomialFeatures())]).fit_transform(pl.DataFrame({"a": [2.0], "b": [3.0]})).to_dict(as_series=False)
    {'a': [2.0], 'b': [3.0], 'a^2': [4.0], 'a b': [6.0], 'b^2': [9.0]}
    """

    kinds: ClassVar = (Kind.NUMERIC,)
    accepts: ClassVar = _NUMBERS
    keep_input: ClassVar = True
    by_column: ClassVar = True
    unsupported_params: ClassVar = {
        **Stage.unsupported_params,
        "include_bias": "leave it out: models have their own intercept",
    }

    degree: int = param(2, an_int(2, 10))
    interaction_only: bool = False

    def _products(self, columns: Sequence[str]) -> dict[str, Formula]:
        choose = itertools.combinations if self.interaction_only else itertools.combinations_with_replacement
        products: dict[str, Formula] = {}
        for size in range(2, self.degree + 1):
            for factors in choose(columns, size):
                powers = [(column, len(list(run))) for column, run in itertools.groupby(factors)]
                name = " ".join(column if n == 1 else f"{column}^{n}" for column, n in powers)
                product: Formula = ["col", factors[0]]
                for factor in factors[1:]:
                    product = ["*", product, ["col", factor]]
                products[name] = product
        return products

    def learn(self, context: FitContext, results: Mapping[StatisticRequest, Any]) -> dict[str, Any]:
        self.refuse_existing_columns(list(self._products(context.columns)), context)
        return {"columns": list(context.columns)}

    def to_operations(self) -> list[Operation]:
        products = self._products(list(self.state["columns"]))
        return [Assign(products)] if products else []


@dataclass(frozen=True)
class Ratio(Stage):
    """Add the quotients of two columns (Float64), named `a_per_b`. The columns stay; 0/0 and x/missing are missing.

    Parameters
    ----------
    columns
        The numerators.
    per
        The denominator.
    zero
        The result of x/0: None for missing, or a number.

    Raises
    ------
    SchemaError
        In fit, when a column does not exist or is not numeric, or a new name exists already.
    ParameterError
        Without `per`, and when `zero` is no number.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import Ratio
    >>> table = pl.DataFrame({"miles": [10.0, 4.0], "hours": [2.0, 0.0]})
    >>> Preprocessor([("speed", Ratio(["miles"], per="hours"))]).fit_transform(table)["miles_per_hours"].to_list()
    [5.0, None]
    """

    needs_columns: ClassVar = True
    accepts: ClassVar = _NUMBERS
    keep_input: ClassVar = True
    by_column: ClassVar = True

    per: str = param(
        "", ParameterCheck("the name of the column to divide by", lambda v: isinstance(v, str) and bool(v))
    )
    zero: float | None = None

    def learn(self, context: FitContext, results: Mapping[StatisticRequest, Any]) -> dict[str, Any]:
        with at("Ratio"):
            kind(["number", ["col", self.per]], {k: v for k, v in context.schema.items() if k not in context.targets})
        self.refuse_existing_columns([f"{column}_per_{self.per}" for column in context.columns], context)
        return {"columns": list(context.columns)}

    def to_operations(self) -> list[Operation]:
        below: Formula = ["number", ["col", self.per]]
        zero = None if self.zero is None else float(self.zero)
        formulas = {
            f"{c}_per_{self.per}": ["if", ["==", below, 0.0], zero, ["/", ["col", c], below]]
            for c in self.state["columns"]
        }
        return [Assign(formulas)] if formulas else []


@dataclass(frozen=True)
class Expression(Stage):
    """Add or replace a column by a formula, written as data or as a Polars expression.

    A formula is a number, a string, a boolean, None, `["col", name]`, or a list of a function and its arguments. The
    functions: `+ - * / ** abs max sqrt log log1p exp sin cos floor`, `== != < <= > >=`, `and or not`, `is_null`, `fill`
    (the first argument, or the second where it is missing), `if` (condition, then, otherwise), `number`. A formula cannot
    contain code. The result is missing where an argument is missing, and for 0/0. Arithmetic uses Float64.

    A Polars expression of the same functions (including `pl.when`) is converted to such a formula, and saved as one.

    Parameters
    ----------
    columns
        Left out: the formula names its columns.
    output
        The name of the column to add or replace.
    formula
        The formula, or a Polars expression.

    Raises
    ------
    ParameterError
        When `formula` is not a formula, or an expression that cannot be converted to one (a Python function, an aggregate, …).
    SchemaError
        In fit, when a column does not exist or a function cannot take its type.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import Expression
    >>> Expression(output="speed", formula=pl.col("miles") / (pl.col("minutes") / 60)).formula
    ['/', ['col', 'miles'], ['/', ['col', 'minutes'], 60]]
    >>> speed = Expression(output="speed", formula=["/", ["col", "miles"], ["/", ["col", "minutes"], 60]])
    >>> Preprocessor([("speed", speed)]).fit_transform(pl.DataFrame({"miles": [30.0], "minutes": [30]}))["speed"].to_list()
    [60.0]
    """

    output: str = ""
    formula: FormulaLike | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.output:
            raise ParameterError.value("output", "the name of a column", self.output, where="Expression")
        if self.columns is not None:
            raise ParameterError(
                "Expression: columns is not a parameter of it.", "Expected the columns in the formula.", "leave it out."
            )
        if isinstance(self.formula, pl.Expr):
            with at("Expression"):
                object.__setattr__(self, "formula", formula_of(self.formula))
        with at("Expression"):
            check(self.formula)

    def learn(self, context: FitContext, results: Mapping[StatisticRequest, Any]) -> dict[str, Any]:
        features = {name: dtype for name, dtype in context.schema.items() if name not in context.targets}
        with at("Expression"):
            kind(self.formula, features)
        if self.output in context.targets:
            raise SchemaError(
                f"Expression: {self.output!r} is a target column.", "Expected a feature.", "choose another output."
            )
        return {"columns": columns_of(self.formula)}

    def select(self, schema: Mapping[str, pl.DataType], **how: Any) -> list[str]:
        named = [name for name in dict.fromkeys([*columns_of(self.formula), self.output]) if name in schema]
        return [name for name in named if name == self.output]

    def to_operations(self) -> list[Operation]:
        _ = self.state
        return [Assign({self.output: self.formula})]


@dataclass(frozen=True)
class Concatenator(Stage):
    """Combine numeric columns into one vector column (an Array of Float64); the source columns are dropped.

    Missing values become missing elements of the vector.

    Parameters
    ----------
    columns
        Numeric columns; all of them when omitted.
    output
        The name of the vector column.

    Raises
    ------
    SchemaError
        In fit, when the name exists already.
    ParameterError
        When `output` is no string.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import Concatenator
    >>> Preprocessor([("v", Concatenator())]).fit_transform(pl.DataFrame({"a": [1], "b": [2.5]}))["features"].to_list()
    [[1.0, 2.5]]
    """

    kinds: ClassVar = (Kind.NUMERIC,)
    accepts: ClassVar = _NUMBERS
    by_column: ClassVar = True

    output: str = "features"

    def learn(self, context: FitContext, results: Mapping[StatisticRequest, Any]) -> dict[str, Any]:
        if self.output not in context.columns:
            self.refuse_existing_columns([self.output], context)
        return {"columns": list(context.columns)}

    def to_operations(self) -> list[Operation]:
        columns = list(self.state["columns"])
        return [PackVector(columns, self.output)] if columns else []


@dataclass(frozen=True)
class PackVector(Operation):
    """Combines columns into one vector of float64."""

    columns: Sequence[str]
    output: str

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        return [pl.concat_arr([col(column).cast(pl.Float64) for column in self.columns]).alias("\x00packed")]

    def apply(self, table: pl.LazyFrame) -> pl.LazyFrame:
        return Drop(list(self.columns)).apply(super().apply(table)).rename({"\x00packed": self.output})

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        def pack(row: Row) -> None:
            values = [row.pop(column) for column in self.columns]
            row[self.output] = [None if x is None else float(x) for x in values]

        return pack

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {self.output: tuple(self.columns)}

    def elements(self, schema: Mapping[str, pl.DataType]) -> dict[str, Sequence[str]]:
        return {self.output: list(self.columns)}

    def inverse(self, schema: Mapping[str, pl.DataType]) -> list[Operation] | None:
        return [UnpackVector(self.output, list(self.columns))]


@dataclass(frozen=True)
class UnpackVector(Operation):
    """Splits the elements of a vector into separate columns; the vector column is dropped."""

    column: str
    outputs: Sequence[str]

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        return [col(self.column).arr.get(i).alias(f"\x00{name}") for i, name in enumerate(self.outputs)]

    def apply(self, table: pl.LazyFrame) -> pl.LazyFrame:
        unpacked = Drop([self.column]).apply(super().apply(table))
        return unpacked.rename({f"\x00{name}": name for name in self.outputs})

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return dict.fromkeys(self.outputs, (self.column,))


@dataclass(frozen=True)
class FunctionTransformer(Stage):
    """Change columns by a custom function, registered under a name with `rayline.stages.register_function`.

    The function maps the Polars expression of one column to another one; each result may depend on its own row only. It defines the result for missing values. Only
    the name is saved: a process that loads the preprocessor must register the function first.

    Parameters
    ----------
    columns
        The columns.
    function
        The name of the registered function.

    Raises
    ------
    ParameterError
        In fit and transform, when no function is registered under this name.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import FunctionTransformer, register_function
    >>> register_function("halve", lambda column: column / 2)
    >>> Preprocessor([("half", FunctionTransformer(["x"], "halve"))]).fit_transform(pl.DataFrame({"x": [3.0]}))["x"].to_list()
    [1.5]
    """

    needs_columns: ClassVar = True
    by_column: ClassVar = True

    function: str = param(
        "",
        ParameterCheck(
            "the name of a function from register_function(name, function)",
            lambda v: isinstance(v, str) and bool(v),
        ),
    )

    def __getstate__(self) -> dict[str, Any]:
        # Another process has not registered the function, so it is pickled along with its name.
        known = registry.functions()
        return (
            {**self.__dict__, "\x00function": known[self.function]} if self.function in known else dict(self.__dict__)
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        function = state.pop("\x00function", None)
        if function is not None:
            registry.register_function(state["function"], function)
        self.__dict__.update(state)

    def learn(self, context: FitContext, results: Mapping[StatisticRequest, Any]) -> dict[str, Any]:
        registry.function(self.function)
        return {"columns": list(context.columns)}

    def to_operations(self) -> list[Operation]:
        columns = self.state["columns"]
        function = registry.function(self.function)  # sent to the workers, which have not registered it
        return [CallFunction(column, self.function, function) for column in columns]


@dataclass(frozen=True)
class CallFunction(ColumnOperation):
    """Replaces a column by the result of a registered function."""

    stays: ClassVar = False  # no inverse: that of a function is unknown
    name: str
    function: Callable[[pl.Expr], pl.Expr] = field(repr=False)

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        return [self.function(col(self.column)).alias(self.column)]

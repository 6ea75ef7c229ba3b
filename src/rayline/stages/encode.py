"""Stages that turn categories into numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import polars as pl

from rayline.core.errors import DataError, ParameterError, place, shorten
from rayline.core.operations.base import Operation
from rayline.core.operations.categorical import CategoryCodes, MapCodes, OneHot
from rayline.core.schema import Kind
from rayline.core.stage import ColumnStage, FitContext, ParameterCheck, an_int, param
from rayline.core.statistics.base import Statistic
from rayline.core.statistics.counts import ValueCounts
from rayline.core.text_analysis import named_by

MAX_COLUMNS, MAX_CELLS = 10_000, 2_000_000_000
"""A column may become more than `MAX_COLUMNS` 0/1 columns only if these have at most `MAX_CELLS` cells (bytes)."""

_MIN_FREQUENCY = ParameterCheck(
    "a count, a share below 1, or None",
    lambda v: v is None or (not isinstance(v, bool) and isinstance(v, (int, float)) and v > 0),
)
_CATEGORIES = ParameterCheck(
    "a dict of lists of different values, or None",
    lambda v: (
        v is None
        or (
            isinstance(v, dict) and all(isinstance(c, list) and len(c) == len(dict.fromkeys(c)) > 0 for c in v.values())
        )
    ),
)


_DTYPES: dict[str, pl.DataType] = {
    "float64": pl.Float64(),
    **{str(t).lower(): t() for t in (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64)},
}


def _dtype_name(dtype: Any) -> Any:
    """Return the name of a Polars or NumPy type; anything else is returned unchanged and fails the parameter check."""
    if isinstance(dtype, str):
        return dtype.lower()
    if isinstance(dtype, pl.DataType) or (isinstance(dtype, type) and issubclass(dtype, pl.DataType)):
        return str(dtype).lower()
    if isinstance(dtype, type):
        return {int: "int64", float: "float64"}.get(dtype, dtype.__name__)
    return getattr(dtype, "name", dtype)


OneHotUnknown: TypeAlias = Literal["ignore", "error", "infrequent_if_exist"]
"""How `OneHotEncoder` encodes a category that it has not seen."""

OneHotMissing: TypeAlias = Literal["category", "ignore"]
"""How `OneHotEncoder` encodes missing values: as a category, or as zeros."""

OrdinalUnknown: TypeAlias = Literal["use_encoded_value", "error"]
"""How `OrdinalEncoder` encodes a category that it has not seen."""


@dataclass(frozen=True)
class OneHotEncoder(ColumnStage):
    """Replace each column by one 0/1 column (UInt8) per category, named `column_category`, as scikit-learn does.

    The categories are the values of the training rows in ascending order. Missing values are a separate, last category
    (`column_null`) unless `missing="ignore"`.

    Parameters
    ----------
    columns
        The columns; all string and categorical ones without free text when omitted.
    handle_unknown
        How to encode a category that fit did not see: "ignore" (zeros), "error", or "infrequent_if_exist" (the infrequent
        column if there is one, otherwise zeros).
    min_frequency
        Categories that occur less often (a count, or a share of the rows when below 1) share the column
        `column_infrequent`.
    max_categories
        The maximum number of columns per source column, including the infrequent one, which the rarest categories share.
    drop
        "first" omits the first column, "if_binary" the first of two, a dict the category that it names for a column.
    missing
        "category", or "ignore" (zeros). With "category", a missing value is an unknown category if the training rows had
        none.
    categories
        The categories of each column in order, `{"size": ["S", "M", "L"]}`; learned for columns not named. Other values
        of the training rows count as unknown. None (or NaN) stands for a missing value.

    Raises
    ------
    DataError
        In fit, when a column has no values or more than a million distinct ones, or would become more than 10,000 columns
        that need more than 2 GB for all training rows; in fit and transform, on an unknown category with
        `handle_unknown="error"`.
    ParameterError
        When `drop` names a category that a column lacks, `categories` repeats one, or a frequency is neither a count nor a
        share.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import OneHotEncoder
    >>> Preprocessor([("onehot", OneHotEncoder())]).fit_transform(pl.DataFrame({"c": ["a", "b", "a"]})).to_dict(as_series=False)
    {'c_a': [1, 0, 1], 'c_b': [0, 1, 0]}
    """

    kinds: ClassVar = (Kind.CATEGORY,)
    accepts: ClassVar = (Kind.CATEGORY, Kind.TEXT, Kind.NUMERIC, Kind.BOOLEAN, Kind.DATETIME)

    @property
    def lossy_reason(self) -> str:  # type: ignore[override]
        if self.drop is not None and self.missing == "ignore":
            return "which values were missing: they look like the category without a column"
        if self.categories is not None:
            return "categories without a column"
        return "" if self.min_frequency is None and self.max_categories is None else "the infrequent categories"

    handle_unknown: OneHotUnknown = "ignore"
    min_frequency: float | None = param(None, _MIN_FREQUENCY)
    max_categories: int | None = param(None, an_int(1, none=True))
    drop: Literal["first", "if_binary"] | dict[str, Any] | None = param(
        None,
        ParameterCheck(
            "'first', 'if_binary', a category for each column, or None",
            lambda v: v in (None, "first", "if_binary") or isinstance(v, dict),
        ),
    )
    missing: OneHotMissing = "category"
    categories: dict[str, list[Any]] | None = param(None, _CATEGORIES)

    def column_statistics(self, dtype: pl.DataType) -> list[type[Statistic]]:
        return [ValueCounts]

    def __post_init__(self) -> None:
        _one_missing(self, "categories", "drop")
        super().__post_init__()

    def learn(self, context: FitContext, results: Mapping[Any, Any]) -> dict[str, Any]:
        self.refuse_unknown_columns("categories", self.categories, context)
        self.refuse_unknown_columns("drop", self.drop, context)
        learned = super().learn(context, results)
        outputs = [name for encoding in learned["columns"].values() for name in encoding["outputs"] if name is not None]
        self.refuse_existing_columns(outputs, context, removed=context.columns)
        return learned

    def learn_column(self, column: str, dtype: pl.DataType, *statistics: Any) -> dict[str, Any]:
        counts: ValueCounts = statistics[0]
        values, n = _counted(self, column, counts)
        n_rows = counts.count + counts.n_null
        if counts.n_null and self.missing == "category" and None not in values:
            values, n = [*values, None], [*n, counts.n_null]
        if not values:
            raise self.all_null(column)
        rare = _rare(n, n_rows, self.min_frequency, self.max_categories)
        frequent = [value for value, is_rare in zip(values, rare, strict=True) if not is_rare]
        outputs: list[str | None] = [named_by(column, "null" if value is None else value) for value in frequent]
        if any(rare):
            outputs.append(f"{column}_infrequent")
        if self.drop == "first" or (self.drop == "if_binary" and len(outputs) == 2):
            outputs[0] = None
        elif isinstance(self.drop, dict) and column in self.drop:
            if self.drop[column] not in frequent:
                expected = f"a category of {column!r} with a column of its own, {shorten(frequent)}"
                raise ParameterError.value("drop", expected, self.drop[column], where="OneHotEncoder")
            outputs[frequent.index(self.drop[column])] = None
        self._refuse_wide(column, len(outputs), n_rows)
        return {"categories": frequent, "rare": [v for v, r in zip(values, rare, strict=True) if r], "outputs": outputs}

    def _refuse_wide(self, column: str, n_columns: int, n_rows: int) -> None:
        """Raise DataError when the 0/1 columns of the training rows would not fit in memory."""
        if n_columns > MAX_COLUMNS and n_columns * n_rows > MAX_CELLS:
            raise DataError(
                f"OneHotEncoder: column {column!r} has {n_columns:,} categories, too many for one column each.",
                f"Expected at most {MAX_CELLS:,} cells; got {n_rows:,} rows × {n_columns:,} columns = {n_rows * n_columns / 1e9:,.1f} GB.",
                "lump the rare ones (max_categories, min_frequency), hash the column (FeatureHasher makes one sparse column), or use another encoder (TargetEncoder, OrdinalEncoder).",
            )

    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        frequent, rare, outputs = learned["categories"], learned["rare"], learned["outputs"]
        last = len(frequent)
        unknown = {"ignore": -1, "error": None, "infrequent_if_exist": last if rare else -1}[self.handle_unknown]
        missing = -1 if self.missing == "ignore" else unknown  # if fit saw none, it is like any other new category
        codes = [*range(last), *[last] * len(rare)]
        return [OneHot(CategoryCodes(column, [*frequent, *rare], unknown, missing, place(), codes), outputs)]


def _are_classes(value: Any) -> bool:
    if not isinstance(value, (list, tuple)):
        return value is None
    return (
        len(value) > 1
        and not any(label in value[:i] for i, label in enumerate(value))
        and not any(map(_is_nested, value))
    )


def _is_nested(value: Any) -> bool:
    return value is None or value != value or isinstance(value, (list, tuple, dict, set))


@dataclass(frozen=True)
class OrdinalEncoder(ColumnStage):
    """Replace each category by its index (0, 1, …) among the training categories in ascending order, as scikit-learn
    does.

    Parameters
    ----------
    columns
        The columns; all string and categorical ones without free text when omitted.
    categories
        The order of the categories for each column, `{"size": ["S", "M", "L"]}`; learned for columns not named.
    handle_unknown
        "use_encoded_value": an unknown category becomes `unknown_value`; "error": it raises DataError.
    unknown_value
        The number for unknown categories; None makes them missing, "next" assigns the first number after the indices.
    encoded_missing_value
        The number for missing values; None keeps them missing, "next" assigns the next number after the indices (and
        after that of unknown categories, if that is "next" too).
    min_frequency, max_categories
        As in OneHotEncoder: rare categories share the last index.
    dtype
        "float64", or an integer type ("int64", "uint8", …; Polars and NumPy types are accepted). Integers cannot be
        missing: `unknown_value` must be a number, and so must `encoded_missing_value` if the training rows have missing
        values; otherwise a missing value counts as an unknown category. For an embedding layer,
        `OrdinalEncoder(dtype="int64", unknown_value="next", encoded_missing_value="next")` returns numbers from 0 to the
        number of categories + 1.

    Raises
    ------
    DataError
        In fit, when a column has no values, or missing ones that integers cannot hold; in fit and transform, on an unknown
        category with `handle_unknown="error"`.
    ParameterError
        When `unknown_value` or `encoded_missing_value` is the index of a category, or `dtype` cannot hold the numbers.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import OrdinalEncoder
    >>> Preprocessor([("codes", OrdinalEncoder())]).fit_transform(pl.DataFrame({"c": ["b", "a", None]}))["c"].to_list()
    [1.0, 0.0, None]
    """

    kinds: ClassVar = (Kind.CATEGORY,)
    accepts: ClassVar = (Kind.CATEGORY, Kind.TEXT, Kind.NUMERIC, Kind.BOOLEAN, Kind.DATETIME)

    categories: dict[str, list[Any]] | None = param(None, _CATEGORIES)
    handle_unknown: OrdinalUnknown = "use_encoded_value"
    unknown_value: float | Literal["next"] | None = -1.0
    encoded_missing_value: float | Literal["next"] | None = None

    min_frequency: float | None = param(None, _MIN_FREQUENCY)
    max_categories: int | None = param(None, an_int(1, none=True))
    dtype: str | type | pl.DataType | np.dtype[Any] = param(
        "float64", ParameterCheck(f"one of {', '.join(map(repr, _DTYPES))}", lambda v: v in [*_DTYPES])
    )

    unsupported_params: ClassVar = {
        name: hint for name, hint in ColumnStage.unsupported_params.items() if name != "dtype"
    }

    def __post_init__(self) -> None:
        _one_missing(self, "categories")
        object.__setattr__(self, "dtype", _dtype_name(self.dtype))
        super().__post_init__()
        if not self._number.is_integer():
            return
        if self.unknown_value is None and self.handle_unknown != "error":
            raise ParameterError.value(
                "unknown_value", f"a number, as dtype={self.dtype!r} has no missing one", None, where="OrdinalEncoder"
            )
        self._refuse_large("unknown_value", self.unknown_value)
        self._refuse_large("encoded_missing_value", self.encoded_missing_value)

    @property
    def _number(self) -> pl.DataType:
        return _DTYPES[str(self.dtype)]

    def _refuse_large(self, parameter: str, value: Any) -> None:
        """Raise ParameterError when `dtype` cannot hold a number."""
        unused = parameter == "unknown_value" and self.handle_unknown == "error"
        if unused or not isinstance(value, (int, float)) or not self._number.is_integer():
            return
        held = np.iinfo(self.dtype)
        if value % 1 or not held.min <= value <= held.max:
            expected = f"a whole number from {held.min} to {held.max}, as dtype={self.dtype!r} holds"
            raise ParameterError.value(parameter, expected, value, where="OrdinalEncoder")

    def _ends(self, n: int) -> list[Any]:
        """Return the numbers of an unknown category and of a missing value, given n indices."""
        ends: list[Any] = []
        for value in (self.unknown_value, self.encoded_missing_value):
            ends.append(n + ends.count(n) if value == "next" else value)
        return ends

    def column_statistics(self, dtype: pl.DataType) -> list[type[Statistic]]:
        return [ValueCounts]

    def learn(self, context: FitContext, results: Mapping[Any, Any]) -> dict[str, Any]:
        self.refuse_unknown_columns("categories", self.categories, context)
        return super().learn(context, results)

    def learn_column(self, column: str, dtype: pl.DataType, *statistics: Any) -> dict[str, Any]:
        counts: ValueCounts = statistics[0]
        values, n = _counted(self, column, counts)
        if counts.n_null and self._number.is_integer() and self.encoded_missing_value is None and None not in values:
            raise DataError(
                f"OrdinalEncoder: column {column!r} has {counts.n_null:,} missing values, and dtype={self.dtype!r} has no missing number.",
                "Expected encoded_missing_value to be a number, or no missing values.",
                'set encoded_missing_value="next", or impute first (SimpleImputer).',
            )
        if not values:
            raise self.all_null(column)
        rare = _rare(n, counts.count + counts.n_null, self.min_frequency, self.max_categories)
        n_rare = sum(rare)
        self._refuse_places(column, len(values) - n_rare + bool(n_rare))
        if not n_rare:
            return {"categories": values}
        return {
            "categories": [v for v, is_rare in zip(values, rare, strict=True) if not is_rare],
            "rare": [v for v, is_rare in zip(values, rare, strict=True) if is_rare],
        }

    def _refuse_places(self, column: str, n: int) -> None:
        """Raise ParameterError when the number for unknown or missing values is the index of a category."""
        unknown, missing = self._ends(n)
        self._refuse_large("dtype", n - 1)
        checked = [("unknown_value", unknown)] if self.handle_unknown != "error" else []
        given = (self.categories or {}).get(column, ())  # of those seen in fit none is missing
        checked += [("encoded_missing_value", missing)] if None not in given else []
        for name, value in checked:
            self._refuse_large(name, value)
            if value is not None and value in range(n):
                expected = (
                    f"a number that is not an index of the {n} categories of column {column!r}: below 0, or {n} or more"
                )
                raise ParameterError.value(name, expected, value, where="OrdinalEncoder")

    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        categories, rare = list(learned["categories"]), list(learned.get("rare", ()))
        n = len(categories)
        last = n + bool(rare)
        unknown = None if self.handle_unknown == "error" else last
        number = int if self._number.is_integer() else float
        places = np.arange(last, dtype=number).tolist()  # many: faster than a loop
        numbers = [*places, *(None if end is None else number(end) for end in self._ends(last))]
        codes = [*range(n), *[n] * len(rare)] if rare else None
        # Integers cannot be missing: without a number for it, a missing value is an unknown category.
        missing = unknown if self.encoded_missing_value is None and self._number.is_integer() else last + 1
        category_codes = CategoryCodes(column, [*categories, *rare], unknown, missing, place(), codes)
        return [MapCodes(category_codes, numbers, self._number)]


@dataclass(frozen=True)
class LabelEncoder(ColumnStage):
    """Replace each label by the index of its class, 0, 1, … (Int64), as scikit-learn does.

    As a target stage it defines the classes of a target and their order: that numbers are classes, which class is the
    second (positive) one, and classes that the training data may lack. Predictions are the original labels. As a feature
    stage it keeps missing values missing and raises DataError on labels that are not a class.

    Parameters
    ----------
    columns
        The columns; as a target stage all targets when omitted, otherwise all string columns without free text.
    classes
        The classes in order; when omitted, the values of the training rows in ascending order.

    Raises
    ------
    DataError
        In fit, when a column has no values, or labels that `classes` does not contain; in transform, on a label that is
        not a class.
    ParameterError
        When `classes` holds fewer than two different labels.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import LabelEncoder
    >>> p = Preprocessor([("codes", LabelEncoder(classes=["low", "high"]))])
    >>> p.fit_transform(pl.DataFrame({"c": ["high", "low", None]}))["c"].to_list()
    [1, 0, None]
    """

    kinds: ClassVar = (Kind.CATEGORY,)
    accepts: ClassVar = (Kind.CATEGORY, Kind.TEXT, Kind.NUMERIC, Kind.BOOLEAN, Kind.DATETIME)
    labels: ClassVar = True

    classes: Sequence[Any] | None = param(
        None, ParameterCheck("a list of at least two different labels, or None", _are_classes)
    )

    def column_statistics(self, dtype: pl.DataType) -> list[type[Statistic]]:
        return [ValueCounts]

    def learn_column(self, column: str, dtype: pl.DataType, *statistics: Any) -> dict[str, Any]:
        table = statistics[0].table
        labels = table["value"].to_list()
        if not labels:
            raise self.all_null(column)
        if self.classes is None:
            return {"categories": labels}
        unknown = table.filter([label not in self.classes for label in labels])
        if unknown.height:
            raise DataError(
                f"LabelEncoder: column {column!r} has {unknown['n'].sum():,} rows whose label is not among the classes.",
                f"Expected one of {list(self.classes)[:8]!r}; got {unknown['value'].head(5).to_list()!r}.",
                "add these to classes, or drop the rows.",
            )
        return {"categories": list(self.classes)}

    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        categories = list(learned["categories"])
        n = len(categories)
        hint = "drop these rows, or refit with the labels among its classes (classes=[…])."
        return [MapCodes(CategoryCodes(column, categories, None, n, place(), hint=hint), [*range(n), None], pl.Int64())]


def _counted(
    stage: OneHotEncoder | OrdinalEncoder, column: str, counts: ValueCounts
) -> tuple[list[Any], Sequence[int] | pl.Series]:
    """Return the categories and how often each occurs; categories from the parameter may not occur at all."""
    values, n = counts.table["value"].to_list(), counts.table["n"]
    categories = (stage.categories or {}).get(column)
    if categories is None:
        return values, n
    known = set(categories)
    unknown = [value for value in values if value not in known] if stage.handle_unknown == "error" else []
    if unknown:
        raise DataError(
            f"{type(stage).__name__}: column {column!r} has values that are not in its categories.",
            f"Expected only {shorten(categories)}; got {shorten(unknown)}.",
            "add these to categories, or let the stage ignore them (handle_unknown).",
        )
    frequencies = {**dict(zip(values, n, strict=True)), None: counts.n_null}
    return list(categories), [frequencies.get(category, 0) for category in categories]


def _rare(
    counts: Sequence[int] | pl.Series, n_rows: int, min_frequency: float | None, max_categories: int | None
) -> list[bool]:
    """Return which categories are rare, by scikit-learn's rules: of equally frequent ones the first are."""
    if not min_frequency and max_categories is None:
        return [False] * len(counts)
    n = list(counts)
    limit = min_frequency or 0
    min_count = limit * n_rows if isinstance(limit, float) and limit < 1 else limit
    rare = [count < min_count for count in n] if min_count > 0 else [False] * len(n)
    if max_categories is not None and max_categories <= len(n) - sum(rare):
        order = sorted(range(len(n)), key=lambda i: n[i])
        kept = set(order[len(n) - max_categories + 1 :])
        rare = [is_rare or i not in kept for i, is_rare in enumerate(rare)]
    return rare


def _one_missing(stage: Any, *names: str) -> None:
    """Replace NaN in parameters given by column by None: both are the same missing value."""

    def nan_as_none(value: Any) -> Any:
        return None if isinstance(value, float) and value != value else value

    for name in names:
        by_column = getattr(stage, name)
        if isinstance(by_column, dict):
            cleaned = {
                column: [nan_as_none(v) for v in value] if isinstance(value, list) else nan_as_none(value)
                for column, value in by_column.items()
            }
            object.__setattr__(stage, name, cleaned)

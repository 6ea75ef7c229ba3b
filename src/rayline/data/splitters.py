"""Splitters: small values that say how rows are divided into training and held-out parts.

`prepare` looks at the data once, as a rule, to learn where to cut, and gives the folds as cells (see `data.cells`): the cell
of a row hangs on its own values, so the folds are the same whatever the blocks and the order of the rows, in this process
and on Ray. Rows that are equal in all columns are told apart by their number among each other (see `data.numbering`):
some of them are held out, the others not, as if each were drawn by itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import exp
from typing import Any, ClassVar

import polars as pl

from rayline.core import registry
from rayline.core.engine import Engine
from rayline.core.errors import ParameterError, SchemaError
from rayline.core.schema import Kind, kind_of
from rayline.data.cells import Cells, Thresholds, TimeKey, content_keys
from rayline.data.conform import refuse_empty
from rayline.data.division import Division, Sizes
from rayline.data.folds import Fold
from rayline.data.numbering import Numbered, Salted
from rayline.data.rowhash import BITS, RowHash
from rayline.data.rows import parts


@dataclass(frozen=True)
class Folds:
    """A split that was prepared on some data; frozen and small, so it can be sent to workers.

    Attributes
    ----------
    cells
        Names of columns to the expression that gives each row its cell.
    folds
        The cells to train on and those to hold out. A training cell that is named m times counts m times.
    sizes
        The number of rows of each cell; empty when they were not counted.
    """

    cells: Cells
    folds: tuple[Fold, ...]
    sizes: tuple[int, ...] = ()


class Splitter(ABC):
    """How rows are divided into training and held-out parts, any number of times."""

    @abstractmethod
    def prepare(self, engine: Engine, data: Any, *, target_columns: Sequence[str] = ()) -> tuple[Folds, ...]:
        """The folds of this data: one element for each set of cells, which is one scan for whoever fits by cells.

        Raises
        ------
        DataError
            When the rows cannot be divided so.
        SchemaError
            When a column is missing or of a wrong type.
        """

    def split(self, data: Any, *, target_columns: Sequence[str] | str = ()) -> Iterator[tuple[Any, Any]]:
        """Training and held-out rows of each fold, as the type of table that was given (a Ray Dataset: lazily).

        Raises as `prepare`.
        """
        targets = [target_columns] if isinstance(target_columns, str) else list(target_columns)
        engine = registry.engine_for(data)
        for prepared in self.prepare(engine, data, target_columns=targets):
            wanted = [cells for fold in prepared.folds for cells in (fold.train, fold.test)]
            found = parts(engine, data, prepared.cells, wanted)
            yield from zip(found[::2], found[1::2], strict=True)


@dataclass(frozen=True)
class KFold(Splitter):
    """Each row is held out once; the folds differ by one row at most.

    Parameters
    ----------
    n_splits
        The number of folds.
    seed
        Another seed, other folds.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.data import KFold
    >>> table = pl.DataFrame({"x": range(10)})
    >>> [(train.height, test.height) for train, test in KFold(5).split(table)]
    [(8, 2), (8, 2), (8, 2), (8, 2), (8, 2)]
    """

    n_splits: int = 5
    seed: int = 0

    purpose: ClassVar[str] = "folds"

    def __post_init__(self) -> None:
        _check_count(self, "n_splits", 2)
        _check_seed(self)

    def prepare(self, engine: Engine, data: Any, *, target_columns: Sequence[str] = ()) -> tuple[Folds, ...]:
        where = type(self).__name__
        keys = content_keys(engine.schema(data), self.seed, self.purpose, where)
        return (_equal_folds(Division(engine, data, where, *keys), self.n_splits),)


@dataclass(frozen=True)
class StratifiedKFold(Splitter):
    """As KFold, with the same share of every class in every fold, to within one row.

    Parameters
    ----------
    n_splits
        The number of folds.
    column
        The column of classes; the target when omitted.
    seed
        Another seed, other folds.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.data import StratifiedKFold
    >>> table = pl.DataFrame({"x": range(12), "late": [True] * 4 + [False] * 8})
    >>> [test["late"].sum() for _, test in StratifiedKFold(4, column="late").split(table)]
    [1, 1, 1, 1]
    """

    n_splits: int = 5
    column: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _check_count(self, "n_splits", 2)
        _check_seed(self)

    def prepare(self, engine: Engine, data: Any, *, target_columns: Sequence[str] = ()) -> tuple[Folds, ...]:
        column = self.column
        if column is None:
            if len(target_columns) != 1:
                raise ParameterError(
                    "StratifiedKFold: it is not clear what to stratify by.",
                    f"Expected column=…, or exactly one target; got the targets {list(target_columns)}.",
                    'name the column of classes: StratifiedKFold(5, column="late").',
                )
            column = target_columns[0]
        schema = _schema_with(engine, data, [column], "StratifiedKFold")
        keys = content_keys(schema, self.seed, KFold.purpose, "StratifiedKFold")
        return (_equal_folds(Division(engine, data, "StratifiedKFold", *keys, stratum=column), self.n_splits),)


@dataclass(frozen=True)
class GroupKFold(Splitter):
    """Folds of whole groups, as equal in rows as the groups allow. Rows without a group are one group.

    Up to 16,384 groups are packed one by one, the largest first; more are divided by their hash.

    Parameters
    ----------
    n_splits
        The number of folds.
    column
        The column that says which group a row belongs to.
    seed
        Another seed, other folds.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.data import GroupKFold
    >>> table = pl.DataFrame({"x": range(6), "tailnum": ["N1", "N1", "N2", "N2", "N3", "N3"]})
    >>> [test["tailnum"].n_unique() for _, test in GroupKFold(3, column="tailnum").split(table)]
    [1, 1, 1]
    """

    n_splits: int = 5
    column: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        _check_count(self, "n_splits", 2)
        _check_column(self, self.column)
        _check_seed(self)

    def prepare(self, engine: Engine, data: Any, *, target_columns: Sequence[str] = ()) -> tuple[Folds, ...]:
        _schema_with(engine, data, [self.column], "GroupKFold")
        key = RowHash((self.column,), self.seed, KFold.purpose)
        division = Division(engine, data, "GroupKFold", key, unit=f"groups of {self.column!r}")
        return (_equal_folds(division, self.n_splits),)


@dataclass(frozen=True)
class TimeSeriesSplit(Splitter):
    """Train on the past, hold out what comes next: fold i trains on the first i + 1 stretches and holds out the next one.

    Stretches have equal numbers of rows, the first one takes the rest, as in scikit-learn; rows of one moment are never
    divided.

    Parameters
    ----------
    n_splits
        The number of folds.
    column
        The column of dates, times or numbers to order the rows by.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.data import TimeSeriesSplit
    >>> table = pl.DataFrame({"day": [3, 1, 4, 2]})
    >>> [(train["day"].to_list(), test["day"].to_list()) for train, test in TimeSeriesSplit(3, column="day").split(table)]
    [([1], [2]), ([1, 2], [3]), ([3, 1, 2], [4])]
    """

    n_splits: int = 5
    column: str = ""

    def __post_init__(self) -> None:
        _check_count(self, "n_splits", 1)
        _check_column(self, self.column)

    def prepare(self, engine: Engine, data: Any, *, target_columns: Sequence[str] = ()) -> tuple[Folds, ...]:
        division = _time_division(engine, data, self.column, "TimeSeriesSplit")
        n_cells = self.n_splits + 1

        def sizes(n_rows: Mapping[int, int]) -> Sizes:
            each = n_rows[0] // n_cells
            return {0: [n_rows[0] - each * self.n_splits, *[each] * self.n_splits]}

        cells, counted = division.cut(sizes, [i / n_cells for i in range(1, n_cells)])
        folds = tuple(Fold(tuple(range(i)), (i,)) for i in range(1, n_cells))
        return (Folds(cells, folds, counted),)


@dataclass(frozen=True)
class RepeatedKFold(Splitter):
    """KFold several times, each time with another seed. Each repetition is a set of cells of its own.

    Parameters
    ----------
    n_splits
        The number of folds of each repetition.
    n_repeats
        The number of repetitions.
    seed
        Another seed, other folds.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.data import RepeatedKFold
    >>> len(list(RepeatedKFold(5, n_repeats=2).split(pl.DataFrame({"x": range(10)}))))
    10
    """

    n_splits: int = 5
    n_repeats: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        _check_count(self, "n_splits", 2)
        _check_count(self, "n_repeats", 1)
        _check_seed(self)

    def prepare(self, engine: Engine, data: Any, *, target_columns: Sequence[str] = ()) -> tuple[Folds, ...]:
        key = _told_apart(engine, data, self.seed, KFold.purpose, "RepeatedKFold")
        divisions = (Division(engine, data, "RepeatedKFold", Salted(key, i)) for i in range(self.n_repeats))
        return tuple(_equal_folds(division, self.n_splits) for division in divisions)


@dataclass(frozen=True)
class Bootstrap(Splitter):
    """Train on as many rows as there are, drawn with replacement; hold out those that were never drawn (some 37 %).

    Each row draws how often it is taken from a Poisson distribution with mean 1, by its own hash: the Poisson bootstrap, which
    needs no common counter (Chamandy, Muralidharan, Najmi and Naidu, "Estimating uncertainty for massive data streams",
    2012). So the number of training rows varies by about its square root.

    Parameters
    ----------
    n_splits
        The number of samples.
    seed
        Another seed, other samples.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.data import Bootstrap
    >>> train, oob = next(Bootstrap(1).split(pl.DataFrame({"x": range(1000)})))
    >>> 900 < train.height < 1100, 320 < oob.height < 420
    (True, True)
    """

    n_splits: int = 10
    seed: int = 0

    MOST: ClassVar[int] = 8  # draws of one row; more would be made of one row in a million

    def __post_init__(self) -> None:
        _check_count(self, "n_splits", 1)
        _check_seed(self)

    def prepare(self, engine: Engine, data: Any, *, target_columns: Sequence[str] = ()) -> tuple[Folds, ...]:
        probabilities = list(accumulate(range(1, self.MOST), lambda p, m: p / m, initial=exp(-1.0)))
        cuts = ((0, tuple(int(share * (1 << BITS)) for share in accumulate(probabilities))),)
        drawn = tuple(cell for cell in range(1, self.MOST + 1) for _ in range(cell))
        key = _told_apart(engine, data, self.seed, "bootstrap", "Bootstrap")
        keys = (Salted(key, i) for i in range(self.n_splits))
        return tuple(Folds(Thresholds(key, None, cuts, "Bootstrap"), (Fold(drawn, (0,)),)) for key in keys)


@dataclass(frozen=True)
class Holdout(Splitter):
    """One training and one held-out part; what `train_test_split` cuts by. Takes at most one of stratify, group and time.

    Parameters
    ----------
    percentage
        The share of rows that is held out, between 0 and 1.
    seed
        Another seed, another part.
    stratify
        A column of classes, whose shares hold in both parts.
    group
        A column of groups, none of which is divided.
    time
        A column of dates, times or numbers; the latest rows are held out, and rows of one moment are not divided.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.data import Holdout
    >>> train, test = next(Holdout(0.25).split(pl.DataFrame({"x": range(8)})))
    >>> train.height, test.height
    (6, 2)
    """

    percentage: float = 0.2
    seed: int = 0
    stratify: str | None = None
    group: str | None = None
    time: str | None = None

    where: ClassVar[str] = "Holdout"

    def __post_init__(self) -> None:
        check_percentage(self.where, self.percentage)
        _check_seed(self)
        given = [n for n in ("stratify", "group", "time") if getattr(self, n) is not None]
        if len(given) > 1:
            raise ParameterError(
                f"{self.where}: {' and '.join(given)} were given together.",
                "Expected at most one of stratify, group and time.",
                "choose the one that matters most to an honest test.",
            )

    def prepare(self, engine: Engine, data: Any, *, target_columns: Sequence[str] = ()) -> tuple[Folds, ...]:
        cells, counted = self._division(engine, data).cut(self._sizes, [1.0 - self.percentage])
        return (Folds(cells, (Fold((0,), (1,)),), counted),)

    def _division(self, engine: Engine, data: Any) -> Division:
        if self.time is not None:
            return _time_division(engine, data, self.time, self.where)
        named = [name for name in (self.stratify, self.group) if name is not None]
        schema = _schema_with(engine, data, named, self.where)
        if self.group is not None:
            key = RowHash((self.group,), self.seed, "holdout")
            return Division(engine, data, self.where, key, unit=f"groups of {self.group!r}")
        keys = content_keys(schema, self.seed, "holdout", self.where)
        return Division(engine, data, self.where, *keys, stratum=self.stratify)

    def _sizes(self, n_rows: Mapping[int, int]) -> Sizes:
        # Rounding what has been held out so far, stratum after stratum, makes each and their sum right to within one row.
        sizes, so_far, held = {}, 0, 0
        for stratum, n in n_rows.items():
            so_far += n
            more = rounded(self.percentage, so_far) - held
            held += more
            sizes[stratum] = [n - more, more]
        return sizes


def splitter(cv: Any, where: str) -> Splitter:
    """What a `cv=` argument means: a number of folds, or a splitter. Raises ParameterError on anything else."""
    if isinstance(cv, Splitter):
        return cv
    if isinstance(cv, int) and not isinstance(cv, bool) and cv >= 2:
        return KFold(cv)
    raise ParameterError.value(
        where, "cv", "a number of folds of at least 2, or a splitter such as rayline.data.KFold(5)", cv
    )


def rounded(percentage: float, n_rows: int) -> int:
    """The rows that are a share of so many, to the nearest; a half counts as one."""
    return int(percentage * n_rows + 0.5)


def check_percentage(where: str, percentage: Any) -> None:
    """Raise ParameterError unless it is a share between 0 and 1."""
    if isinstance(percentage, bool) or not isinstance(percentage, (int, float)) or not 0.0 < percentage < 1.0:
        raise ParameterError(
            f"{where}: percentage has a wrong value.",
            f"Expected a share between 0 and 1, both excluded; got {percentage!r}.",
            f"for {percentage} % write {percentage / 100}." if percentage in range(1, 100) else "0.2 holds out 20 %.",
        )


def _equal_folds(division: Division, n_splits: int) -> Folds:
    def sizes(n_rows: Mapping[int, int]) -> Sizes:
        # What is left over goes to the next folds in turn, stratum after stratum, so that the sums are even too.
        found, turn = {}, 0
        for stratum, n in n_rows.items():
            each, left = divmod(n, n_splits)
            found[stratum] = [each + ((i - turn) % n_splits < left) for i in range(n_splits)]
            turn = (turn + left) % n_splits
        return found

    cells, counted = division.cut(sizes, [i / n_splits for i in range(1, n_splits)])
    others = [tuple(j for j in range(n_splits) if j != i) for i in range(n_splits)]
    return Folds(cells, tuple(Fold(train, (i,)) for i, train in enumerate(others)), counted)


def _told_apart(engine: Engine, data: Any, seed: int, purpose: str, where: str) -> RowHash | Numbered:
    return Division(engine, data, where, *content_keys(engine.schema(data), seed, purpose, where)).told_apart()


def _time_division(engine: Engine, data: Any, column: str, where: str) -> Division:
    dtype = _schema_with(engine, data, [column], where)[column]
    if kind_of(dtype) not in (Kind.NUMERIC, Kind.DATETIME) and dtype not in (pl.Time, pl.Duration, pl.Null):
        raise SchemaError.dtype(where, column, "dates, times or numbers", dtype)
    return Division(engine, data, where, TimeKey(column), unit=f"moments of {column!r}", is_ordered=True)


def _schema_with(engine: Engine, data: Any, columns: Sequence[str], where: str) -> pl.Schema:
    schema = engine.schema(data)
    refuse_empty(len(schema), where)  # an empty Dataset has no columns either
    missing = [name for name in columns if name not in schema]
    if missing:
        raise SchemaError.absent(where, missing, schema)
    return schema


def _check_count(splitter: Any, name: str, least: int) -> None:
    value = getattr(splitter, name)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ParameterError.value(type(splitter).__name__, name, f"a whole number of at least {least}", value)


def _check_column(splitter: Any, column: Any) -> None:
    if not isinstance(column, str) or not column:
        raise ParameterError.value(type(splitter).__name__, "column", "the name of a column", column)


def _check_seed(splitter: Any) -> None:
    if isinstance(splitter.seed, bool) or not isinstance(splitter.seed, int):
        raise ParameterError.value(type(splitter).__name__, "seed", "a whole number", splitter.seed)

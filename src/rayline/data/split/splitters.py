"""Splitters: small immutable objects that divide rows into training and held-out parts.

`prepare` usually scans the data once to compute thresholds, and returns the folds as cells (see
`data.split.fold_assignment`). The cell of a row depends on its own values, so the folds do not depend on the blocks or the
order of the rows, in this process or on Ray. Rows that are equal in all columns are distinguished by their number among
each other (see `data.split.duplicate_rows`): some are held out and others not, as if each were drawn independently.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from itertools import accumulate
from math import exp
from typing import Any, ClassVar, TypeAlias, cast

import numpy as np

from rayline.core.arguments import known_arguments
from rayline.core.engine import Engine
from rayline.core.errors import ParameterError, at
from rayline.data.split.base import (
    Folds,
    Splitter,
    check_column,
    check_count,
    check_seed,
    schema_with,
    time_division,
    unique_row_key,
)
from rayline.data.split.duplicate_rows import SaltedKey
from rayline.data.split.fold_assignment import ThresholdAssignment, content_keys
from rayline.data.split.fold_cells import FoldCells
from rayline.data.split.row_hash import BITS, RowHash
from rayline.data.split.row_positions import PositionSplitter, SklearnSplitter
from rayline.data.split.thresholds import KeyDivision, Sizes


@known_arguments
@dataclass(frozen=True, repr=False)
class KFold(Splitter):
    """Each row is held out once; the folds differ by one row at most. As scikit-learn's KFold with `shuffle=True`, but a hash of the
    row decides its fold, not its position.

    Parameters
    ----------
    n_splits
        The number of folds.
    seed
        Another seed, other folds.

    Raises
    ------
    ParameterError
        When `n_splits` is below 2, or `seed` is not an integer.

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
        check_count(self, "n_splits", 2)
        check_seed(self)

    def prepare(self, engine: Engine, data: Any, *, target_columns: Sequence[str] = ()) -> tuple[Folds, ...]:
        with at(type(self).__name__):
            keys = content_keys(engine.schema(data), self.seed, self.purpose)
            return (_equal_folds(KeyDivision(engine, data, *keys), self.n_splits),)


@known_arguments
@dataclass(frozen=True, repr=False)
class StratifiedKFold(Splitter):
    """As KFold, with the same share of every class in every fold, to within one row, as scikit-learn's.

    Parameters
    ----------
    n_splits
        The number of folds.
    column
        The column of classes; the target when omitted.
    seed
        Another seed, other folds.

    Raises
    ------
    ParameterError
        When `n_splits` is below 2; when folds are made, without `column` and with several targets or none.

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
        check_count(self, "n_splits", 2)
        check_seed(self)

    @at("StratifiedKFold")
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
        schema = schema_with(engine, data, [column])
        keys = content_keys(schema, self.seed, KFold.purpose)
        return (_equal_folds(KeyDivision(engine, data, *keys, stratum=column), self.n_splits),)


@known_arguments
@dataclass(frozen=True, repr=False)
class GroupKFold(Splitter):
    """Folds of whole groups, as equal in rows as the groups allow. Rows without a group are one group.

    Up to 16,384 groups are packed one by one, the largest first, as scikit-learn does; more are divided by their hash.

    Parameters
    ----------
    n_splits
        The number of folds.
    column
        The column that says which group a row belongs to.
    seed
        Another seed, other folds.

    Raises
    ------
    ParameterError
        Without `column`, and when `n_splits` is below 2.

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
        check_count(self, "n_splits", 2)
        check_column(self, self.column)
        check_seed(self)

    @at("GroupKFold")
    def prepare(self, engine: Engine, data: Any, *, target_columns: Sequence[str] = ()) -> tuple[Folds, ...]:
        schema_with(engine, data, [self.column])
        key = RowHash((self.column,), self.seed, KFold.purpose)
        division = KeyDivision(engine, data, key, unit=f"groups of {self.column!r}")
        return (_equal_folds(division, self.n_splits),)


@known_arguments
@dataclass(frozen=True, repr=False)
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

    Raises
    ------
    ParameterError
        Without `column`, and when `n_splits` is below 1.

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
        check_count(self, "n_splits", 1)
        check_column(self, self.column)

    @at("TimeSeriesSplit")
    def prepare(self, engine: Engine, data: Any, *, target_columns: Sequence[str] = ()) -> tuple[Folds, ...]:
        division = time_division(engine, data, self.column)
        n_cells = self.n_splits + 1

        def sizes(n_rows: Mapping[int, int]) -> Sizes:
            each = n_rows[0] // n_cells
            return {0: [n_rows[0] - each * self.n_splits, *[each] * self.n_splits]}

        cells, counted = division.cut(sizes, [i / n_cells for i in range(1, n_cells)])
        folds = tuple(FoldCells(tuple(range(i)), (i,)) for i in range(1, n_cells))
        return (Folds(cells, folds, counted),)


@known_arguments
@dataclass(frozen=True, repr=False)
class RepeatedKFold(Splitter):
    """KFold several times, each time with another seed, as in scikit-learn. Each repetition is a set of cells of its own.

    Parameters
    ----------
    n_splits
        The number of folds of each repetition.
    n_repeats
        The number of repetitions.
    seed
        Another seed, other folds.

    Raises
    ------
    ParameterError
        When `n_splits` is below 2 or `n_repeats` below 1.

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
        check_count(self, "n_splits", 2)
        check_count(self, "n_repeats", 1)
        check_seed(self)

    @at("RepeatedKFold")
    def prepare(self, engine: Engine, data: Any, *, target_columns: Sequence[str] = ()) -> tuple[Folds, ...]:
        key = unique_row_key(engine, data, self.seed, KFold.purpose)
        divisions = (KeyDivision(engine, data, SaltedKey(key, i)) for i in range(self.n_repeats))
        return tuple(_equal_folds(division, self.n_splits) for division in divisions)


@known_arguments
@dataclass(frozen=True, repr=False)
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

    Raises
    ------
    ParameterError
        When `n_splits` is below 1.

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

    MAX_DRAWS: ClassVar[int] = 8  # draws of one row; more would be made of one row in a million

    def __post_init__(self) -> None:
        check_count(self, "n_splits", 1)
        check_seed(self)

    @at("Bootstrap")
    def prepare(self, engine: Engine, data: Any, *, target_columns: Sequence[str] = ()) -> tuple[Folds, ...]:
        probabilities = list(accumulate(range(1, self.MAX_DRAWS), lambda p, m: p / m, initial=exp(-1.0)))
        cuts = ((0, tuple(int(share * (1 << BITS)) for share in accumulate(probabilities))),)
        drawn = tuple(cell for cell in range(1, self.MAX_DRAWS + 1) for _ in range(cell))
        key = unique_row_key(engine, data, self.seed, "bootstrap")
        keys = (SaltedKey(key, i) for i in range(self.n_splits))
        return tuple(Folds(ThresholdAssignment(key, None, cuts), (FoldCells(drawn, (0,)),)) for key in keys)


FoldsLike: TypeAlias = "int | Splitter | SklearnSplitter"
"""What `cv=` takes: a number of folds, a splitter of ours or of scikit-learn, or pairs of positions."""


def splitter(cv: FoldsLike) -> Splitter:
    """Return the splitter of a `cv=` argument: a number of folds, or a splitter, also of scikit-learn. Raises ParameterError otherwise."""
    if isinstance(cv, Splitter):
        return cv
    if isinstance(cv, (int, np.integer)) and not isinstance(cv, bool) and cv >= 2:
        return KFold(int(cv))
    if PositionSplitter.takes(cv) and (not isinstance(cv, Sized) or len(cv)):
        return PositionSplitter(cv if hasattr(cv, "split") else list(cast(Iterable[Any], cv)))
    raise ParameterError.value(
        "cv",
        "a number of folds of at least 2, or a splitter such as rayline.data.KFold(5) or one of scikit-learn's",
        cv,
    )


def chosen_splitter(
    cv: FoldsLike, *, groups: Any = None, stratify: Any = None, time: Any = None, ranked: str | None = None
) -> Splitter:
    """Return the splitter that `cv` and one of `groups`, `stratify` and `time` stand for.

    `stratify=True` goes by the target. The groups of a ranking, whose column is `ranked`, stay whole.

    A splitter of scikit-learn gets the columns of `groups` and `stratify` as its `groups` and `y`.

    Raises ParameterError when more than one is given, or one of them with a splitter of ours.
    """
    columns = {"groups": groups, "stratify": stratify, "time": time}
    chosen = [name for name, column in columns.items() if column is not None]
    result = splitter(cv)
    if isinstance(result, PositionSplitter) and time is None:
        kept = ranked if "Group" in type(cv).__name__ else None  # the others warn of groups that they do not use
        return replace(result, groups=groups or kept, stratify=stratify if isinstance(stratify, str) else None)
    is_number = isinstance(result, KFold) and not isinstance(cv, Splitter)
    if not chosen:
        return GroupKFold(result.n_splits, column=ranked) if ranked is not None and is_number else result  # type: ignore[attr-defined]
    if len(chosen) > 1 or not is_number:
        raise ParameterError.here(
            f"{' and '.join(chosen)} cannot be combined with cv={cv!r}{' and each other' if len(chosen) > 1 else ''}.",
            "Expected cv to be a number of folds, and one of groups, stratify and time.",
            "pass a splitter as cv, for example rayline.data.GroupKFold(5, column=…).",
        )
    assert isinstance(result, KFold)
    column = columns[chosen[0]]
    if chosen[0] == "groups":
        return GroupKFold(result.n_splits, column=column)
    if chosen[0] == "time":
        return TimeSeriesSplit(result.n_splits, column=column)
    return StratifiedKFold(result.n_splits, column=None if column is True else column)


def _equal_folds(division: KeyDivision, n_splits: int) -> Folds:
    def sizes(n_rows: Mapping[int, int]) -> Sizes:
        # What is left over goes to the next folds in turn, stratum after stratum, so that the sums are even too.
        parts, turn = {}, 0
        for stratum, n in n_rows.items():
            each, left = divmod(n, n_splits)
            parts[stratum] = [each + ((i - turn) % n_splits < left) for i in range(n_splits)]
            turn = (turn + left) % n_splits
        return parts

    cells, counted = division.cut(sizes, [i / n_splits for i in range(1, n_splits)])
    others = [tuple(j for j in range(n_splits) if j != i) for i in range(n_splits)]
    return Folds(cells, tuple(FoldCells(train, (i,)) for i, train in enumerate(others)), counted)

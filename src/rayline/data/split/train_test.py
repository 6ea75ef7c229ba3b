"""`train_test_split`: one training set and one test set."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import polars as pl

from rayline.compat.ray import dataset_for_reading
from rayline.core import registry
from rayline.core.arguments import known_arguments
from rayline.core.data_types import DataT
from rayline.core.errors import DataError, ParameterError, at, counted
from rayline.core.schema import refuse_empty
from rayline.data.split.fold_rows import take
from rayline.data.split.holdout import Holdout, check_percentage, rounded

WHERE = "train_test_split"


class _Split(Holdout):
    where: ClassVar[str] = WHERE


@known_arguments
@at(WHERE)
def train_test_split(
    ds: DataT,
    percentage: float = 0.2,
    shuffle: bool = True,
    seed: int = 0,
    *,
    test_size: float | int | None = None,
    stratify: str | None = None,
    groups: str | None = None,
    time: str | None = None,
    **others: Any,
) -> tuple[DataT, DataT]:
    """Split rows into a training set and a test set, in the type of the input.

    The side of a row is decided by its values and the seed, not by its position: the same rows give the same two sets in
    pandas, Polars, Arrow and Ray, in any order and any blocks. The size is exact, the rounded share of the rows. Rows
    that are equal in all columns are drawn one by one, like any others; where they are copies of one observation, name a
    column that distinguishes the observations as `groups`. Only the blocks of a Dataset that hold exactly the same rows cannot be
    distinguished: where k blocks are the same, their rows are drawn k at a time, and the size is met to within k / 2 rows.

    Parameters
    ----------
    ds
        A ray.data.Dataset or any table. A Dataset and a LazyFrame are read once now, and each part reads them again when it
        is used; materialise a Dataset first when reading is dear.
    percentage
        The share of rows in the test set, between 0 and 1.
    shuffle
        False takes the last rows in their order as the test set, whatever they hold. A Dataset is then materialised.
    seed
        Another seed, another test set.
    stratify
        A column of classes: the share holds in every class, to within one row.
    test_size
        In place of `percentage`, as in scikit-learn: a share between 0 and 1, or a whole number of rows.
    groups
        A column of groups: no group is divided. The size is then as near as whole groups allow.
    time
        A column of dates, times or numbers: the latest rows are the test set, and rows of one moment are not divided.

    Returns
    -------
    tuple
        The training set and the test set.

    Raises
    ------
    ParameterError
        When percentage is not between 0 and 1, or arguments contradict each other.
    SchemaError
        When a named column is missing or cannot be ordered.
    DataError
        When a set would be empty, when a time is missing, or when whole groups or moments cannot be divided so.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.data import train_test_split
    >>> table = pl.DataFrame({"day": range(10), "late": [True, False] * 5})
    >>> trainset, testset = train_test_split(table, percentage=0.2, stratify="late")
    >>> testset["late"].sort().to_list()
    [False, True]
    >>> train_test_split(table, time="day")[1]["day"].to_list()
    [8, 9]
    """
    groups = _renamed(others, groups)
    if not isinstance(shuffle, bool):
        raise ParameterError.value("shuffle", "True or False", shuffle, where=WHERE)
    in_order = not shuffle and time is None
    options = [name for name, value in (("stratify", stratify), ("groups", groups)) if value is not None]
    if in_order and options:
        raise ParameterError(
            f"{WHERE}: shuffle=False and {options[0]} were given together.",
            "Expected one of them: the last rows in order, or rows chosen by a column.",
            f"leave out shuffle=False, or {options[0]}.",
        )
    engine = registry.engine_for(ds)
    with engine.keeping(ds):
        if test_size is not None:
            percentage = _share(ds, test_size, percentage)
        check_percentage(percentage)
        if isinstance(test_size, int):
            ds = engine.kept(ds)  # its rows have been read to count them
        if in_order:
            return _last_rows(ds, percentage)
        ((train, test),) = _Split(percentage, seed, stratify, groups, time).split(ds)
        return train, test


_KEYWORDS = ("percentage", "shuffle", "seed", "test_size", "stratify", "groups", "time")
_SAME = {"random_state": "seed", "train_size": "test_size"}


def _renamed(others: dict[str, Any], groups: str | None) -> str | None:
    """Return the groups, also by the deprecated keyword. Raises ParameterError for any other, with a suggestion."""
    if "group" in others and groups is None:
        groups = others.pop("group")
    if others:
        name = next(iter(others))
        if name in _SAME:
            raise ParameterError(
                f"{WHERE}: unknown parameter {name!r}.",
                f"Expected some of {list(_KEYWORDS)}.",
                f"the argument is called {_SAME[name]!r}.",
            )
        raise ParameterError.unknown(others, _KEYWORDS, where=WHERE)
    return groups


def _share(ds: Any, test_size: Any, percentage: float) -> float:
    """Return `test_size` as a share of the rows; an integer is a number of rows."""
    if percentage != 0.2:
        raise ParameterError(
            f"{WHERE}: percentage and test_size were given together.", "Expected one of them.", "leave out percentage."
        )
    if isinstance(test_size, bool) or not isinstance(test_size, int):
        if not isinstance(test_size, float) or not 0.0 < test_size < 1.0:
            words = "a share between 0 and 1, or a whole number of rows"
            raise ParameterError.value("test_size", words, test_size, where=WHERE)
        return test_size
    n_rows: int = registry.engine_for(ds).count(ds)
    if not 0 < test_size < n_rows:
        raise ParameterError.value(
            "test_size",
            f"fewer than the {counted(n_rows, 'row')} that there are, and at least 1",
            test_size,
            where=WHERE,
        )
    return test_size / n_rows


def _last_rows(ds: Any, percentage: float) -> tuple[Any, Any]:
    if hasattr(ds, "split_at_indices"):
        ds = dataset_for_reading(ds)
        ds.context.execution_options.preserve_order = True
        ds = ds.materialize()
    n_rows = registry.engine_for(ds).count(ds)
    refuse_empty(n_rows)
    n_test = rounded(percentage, n_rows)
    n_train = n_rows - n_test
    if not n_test or not n_train:
        raise DataError(
            f"{WHERE}: there are too few rows to split this way: {n_rows:,}.",
            f"Expected rows in both sets; got {n_train:,} and {n_test:,}.",
            "choose another percentage, or provide more rows.",
        )
    if hasattr(ds, "split_at_indices"):
        train, test = ds.split_at_indices([n_train])
        return train, test
    if isinstance(ds, pl.LazyFrame):
        return ds.head(n_train), ds.slice(n_train)
    first = np.arange(n_rows) < n_train
    return take(ds, first), take(ds, ~first)

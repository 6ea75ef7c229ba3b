"""Folds by the positions of rows: from a splitter of scikit-learn, or from pairs of indices.

Only the rows of a table in this process have positions; those of a Dataset have none, so its splits go by content.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.core.engine import Engine
from rayline.core.errors import DataError, ParameterError, RaylineError, first_line, place
from rayline.data.split.base import Folds, Splitter, schema_with
from rayline.data.split.fold_assignment import FoldAssignment
from rayline.data.split.fold_cells import FoldCells

Positions = npt.NDArray[np.int64]


class _Splits(Protocol):
    """A splitter of scikit-learn, or one that is written like it."""

    def split(self, X: Any, y: Any = ..., groups: Any = ...) -> Any: ...  # noqa: N803  # the field's name for it


SklearnSplitter: TypeAlias = "_Splits | Iterable[tuple[Any, Any]]"
"""A splitter of scikit-learn, or pairs of the positions of training and held-out rows."""

OURS = {
    "StratifiedKFold": "StratifiedKFold({n})",
    "GroupKFold": 'GroupKFold({n}, column="…")',
    "StratifiedGroupKFold": 'GroupKFold({n}, column="…")',
    "TimeSeriesSplit": 'TimeSeriesSplit({n}, column="…")',
    "RepeatedKFold": "RepeatedKFold({n})",
}
"""The splitters of `rayline.data` that come nearest to those of scikit-learn; to all others KFold does."""


@dataclass(frozen=True)
class PositionAssignment(FoldAssignment):
    """The cell of each row by its position in the table."""

    positions: Positions = field(compare=False, repr=False)
    column: str
    start: int = 0
    made_at: str = field(default_factory=place)
    is_local: ClassVar[bool] = False

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)  # any: a table of no columns has no rows

    def from_row(self, start: int) -> Self:
        return replace(self, start=start)

    def expression(self) -> pl.Expr:
        return pl.int_range(pl.len(), dtype=pl.Int64).map_batches(self._cells, return_dtype=pl.Int64)

    def _cells(self, rows: pl.Series) -> pl.Series:
        cells = self.positions[self.start : self.start + len(rows)]
        if len(cells) < len(rows):
            raise DataError(
                f"{self.made_at}: the table has more rows than when its folds were created.",
                f"Expected {len(self.positions)}; got at least {self.start + len(rows)}.",
                "collect a LazyFrame first if its rows change from read to read.",
            )
        return pl.Series(cells)


@dataclass(frozen=True, repr=False)
class PositionSplitter(Splitter):
    """The folds of an object that divides row indices, as scikit-learn's splitters do.

    Parameters
    ----------
    given
        A splitter of scikit-learn, another object with its methods `split` and `get_n_splits`, or pairs of indices to train on
        and to hold out.
    groups
        The column that goes to `split` as `groups`.
    stratify
        The column that goes to `split` as `y`; the targets when omitted.
    """

    given: Any
    groups: str | None = None
    stratify: str | None = None

    @classmethod
    def takes(cls, cv: Any) -> bool:
        """Whether `cv` looks like a splitter of scikit-learn, or like pairs of indices."""
        return _has_split(cv) or (isinstance(cv, Iterable) and not isinstance(cv, (str, bytes, dict, set)))

    def prepare(self, engine: Engine, data: Any, *, target_columns: Sequence[str] = ()) -> tuple[Folds, ...]:
        if not engine.has_positions:
            raise self._without_positions(target_columns)
        read = [self.stratify] if self.stratify else list(target_columns)
        schema_with(engine, data, [*read, *([self.groups] if self.groups else [])])
        frame = engine.collect(data)
        pairs = self._pairs(frame, read)
        packed = _packed([_checked(pair, i, frame.height) for i, pair in enumerate(pairs)], frame.height)
        prepared = []
        for cells, folds in packed:
            sizes = tuple(np.bincount(cells).tolist())
            prepared.append(Folds(PositionAssignment(cells, frame.columns[0]), folds, sizes))
        return tuple(prepared)

    def _pairs(self, frame: pl.DataFrame, read: Sequence[str]) -> list[Any]:
        """Return the pairs of indices that the object gives for these rows."""
        try:
            if not _has_split(self.given):
                return list(self.given)
            labels = [_array(frame[name]) for name in read]
            y = None if not labels else labels[0] if len(labels) == 1 else np.stack(labels, axis=1)
            return list(self.given.split(frame, y, None if self.groups is None else _array(frame[self.groups])))
        except RaylineError:
            raise
        except Exception as error:
            raise DataError.here(
                f"{self._name} cannot split the rows: {first_line(error)}",
                f"Expected rows that it can divide; got {frame.height:,} of them, y from {list(read)} and "
                f"{'no groups' if self.groups is None else f'groups from {self.groups!r}'}.",
                "name the column of groups with groups=…, or pass cv as a number.",
            ) from error

    @property
    def _name(self) -> str:
        return type(self.given).__name__ if _has_split(self.given) else "cv"

    def _without_positions(self, target_columns: Sequence[str]) -> ParameterError:
        n = getattr(self.given, "n_splits", None)
        ours = OURS.get(self._name, "KFold({n})").format(n=n if isinstance(n, int) else 5)
        return ParameterError.here(
            f"cv={type(self.given).__name__} uses row positions, and the rows of a Dataset have none.",
            "Expected a number of folds, or a splitter of rayline.data, which uses the content of rows.",
            f"pass cv=rayline.data.{ours}.",
        )


def _has_split(cv: Any) -> bool:
    return callable(getattr(cv, "split", None)) and callable(getattr(cv, "get_n_splits", None))


def _array(values: pl.Series) -> npt.NDArray[Any]:
    """Return labels or groups as scikit-learn expects them: texts as objects, numbers as they are."""
    if isinstance(values.dtype, (pl.Categorical, pl.Enum)):
        values = values.cast(pl.String)
    return values.to_numpy()


def _checked(pair: Any, fold: int, n_rows: int) -> tuple[Positions, Positions]:
    """Return the indices of a fold. Raises ParameterError when they are no positions of rows, or not of different rows."""
    try:
        train, test = (_positions(side, n_rows) for side in pair)
    except (TypeError, ValueError) as error:
        raise ParameterError.here(
            f"fold {fold + 1} of cv is not a pair of indices.",
            "Expected the positions of the rows to train on and of those to hold out, two arrays of whole numbers.",
            "pass a number of folds, a splitter, or a list of such pairs.",
        ) from error
    both = np.concatenate([train, test])
    problem = ""
    if not (len(train) and len(test)):
        problem = f"has no rows to {'hold out' if len(train) else 'train on'}"
    elif both.min() < 0 or both.max() >= n_rows:
        problem = f"names row {int(both.min() if both.min() < 0 else both.max())}"
    elif len(np.unique(both)) < len(both):
        problem = "names a row twice"
    if problem:
        raise ParameterError.here(
            f"fold {fold + 1} of cv {problem}.",
            f"Expected different positions between 0 and {n_rows - 1}, some to train on and some to hold out.",
            "correct the indices; rayline.data.Bootstrap draws rows several times.",
        )
    return train, test


def _positions(side: Any, n_rows: int) -> Positions:
    positions = np.asarray(side)
    if positions.dtype == bool and positions.shape == (n_rows,):
        return np.flatnonzero(positions)
    if positions.ndim != 1 or (len(positions) and not np.issubdtype(positions.dtype, np.integer)):
        raise TypeError
    return positions.astype(np.int64)


def _packed(pairs: Sequence[tuple[Positions, Positions]], n_rows: int) -> list[tuple[Positions, tuple[FoldCells, ...]]]:
    """Return the cells of the rows and the folds as sets of cells; several of both where folds have too little in common.

    All rows of a cell are on the same side of each fold, so that folds which share their cells are fitted in one scan.
    """
    groups, start = [], 0
    cells = np.zeros(n_rows, np.int64)
    for stop, (train, test) in enumerate(pairs, 1):
        finer = cells * 3
        finer[train] += 1
        finer[test] += 2
        values, finer = np.unique(finer, return_inverse=True)
        if start + 1 < stop and len(values) > stop - start + 2:  # another repetition, which has cells of its own
            groups.append((cells, _folds(cells, pairs[start : stop - 1])))
            start, finer = stop - 1, np.zeros(n_rows, np.int64)
            finer[train], finer[test] = 1, 2
            finer = np.unique(finer, return_inverse=True)[1]
        cells = finer.astype(np.int64).reshape(n_rows)
    return [*groups, (cells, _folds(cells, pairs[start:]))] if pairs else []


def _folds(cells: Positions, pairs: Sequence[tuple[Positions, Positions]]) -> tuple[FoldCells, ...]:
    return tuple(FoldCells(*(tuple(np.unique(cells[side]).tolist()) for side in pair)) for pair in pairs)

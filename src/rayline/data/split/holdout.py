"""The splitter of `train_test_split`: one training and one held-out part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rayline.core.arguments import known_arguments
from rayline.core.engine import Engine
from rayline.core.errors import ParameterError, at
from rayline.data.split.base import Folds, Splitter, check_seed, schema_with, time_division
from rayline.data.split.fold_assignment import content_keys
from rayline.data.split.fold_cells import FoldCells
from rayline.data.split.row_hash import RowHash
from rayline.data.split.thresholds import KeyDivision, Sizes


@known_arguments
@dataclass(frozen=True, repr=False)
class Holdout(Splitter):
    """The splitter of `train_test_split`: one training and one held-out part. Takes at most one of stratify, group and time.

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

    Raises
    ------
    ParameterError
        When `percentage` is not between 0 and 1, or two of stratify, group and time are given.

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
        with at(self.where):
            check_percentage(self.percentage)
        check_seed(self)
        options = [n for n in ("stratify", "group", "time") if getattr(self, n) is not None]
        if len(options) > 1:
            raise ParameterError(
                f"{self.where}: {' and '.join(options)} were given together.",
                "Expected at most one of stratify, group and time.",
                "choose one of them.",
            )

    def prepare(self, engine: Engine, data: Any, *, target_columns: Sequence[str] = ()) -> tuple[Folds, ...]:
        with at(self.where):
            cells, counted = self._division(engine, data).cut(self._sizes, [1.0 - self.percentage])
        return (Folds(cells, (FoldCells((0,), (1,)),), counted),)

    def _division(self, engine: Engine, data: Any) -> KeyDivision:
        if self.time is not None:
            return time_division(engine, data, self.time)
        named = [name for name in (self.stratify, self.group) if name is not None]
        schema = schema_with(engine, data, named)
        if self.group is not None:
            key = RowHash((self.group,), self.seed, "holdout")
            return KeyDivision(engine, data, key, unit=f"groups of {self.group!r}")
        keys = content_keys(schema, self.seed, "holdout")
        return KeyDivision(engine, data, *keys, stratum=self.stratify)

    def _sizes(self, n_rows: Mapping[int, int]) -> Sizes:
        # Rounding what has been held out so far, stratum after stratum, makes each and their sum right to within one row.
        sizes, so_far, held = {}, 0, 0
        for stratum, n in n_rows.items():
            so_far += n
            more = rounded(self.percentage, so_far) - held
            held += more
            sizes[stratum] = [n - more, more]
        return sizes


def rounded(percentage: float, n_rows: int) -> int:
    """Return the number of rows of a share, rounded to the nearest; halves are rounded up."""
    return int(percentage * n_rows + 0.5)


def check_percentage(percentage: Any) -> None:
    """Raise ParameterError unless it is a share between 0 and 1."""
    if isinstance(percentage, bool) or not isinstance(percentage, (int, float)) or not 0.0 < percentage < 1.0:
        raise ParameterError.here(
            "percentage has a wrong value.",
            f"Expected a share between 0 and 1, both excluded; got {percentage!r}.",
            f"for {percentage} % write {percentage / 100}." if percentage in range(1, 100) else "0.2 holds out 20 %.",
        )

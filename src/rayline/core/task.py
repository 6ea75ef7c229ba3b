"""The tasks: the kinds of predictions."""

from __future__ import annotations

import enum


class Task(enum.StrEnum):
    """The kind of prediction. Several targets all have the same task; several classification targets are all binary."""

    BINARY = "binary"
    MULTICLASS = "multiclass"
    REGRESSION = "regression"
    RANKING = "ranking"
    SURVIVAL = "survival"

    @property
    def is_classification(self) -> bool:
        return self in (Task.BINARY, Task.MULTICLASS)

    @property
    def is_paired(self) -> bool:
        """Whether a label consists of two numbers: a relevance and its group, or the two bounds of a time."""
        return self in (Task.RANKING, Task.SURVIVAL)

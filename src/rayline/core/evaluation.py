"""The contract of an evaluation: what `InferencePipeline.evaluate` returns, and how a package above pipelines provides it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, TypedDict

import polars as pl

from rayline.core.arguments import ParameterCheck
from rayline.core.data_types import Metrics, SliceColumns

ImportanceKind: TypeAlias = Literal["gain", "shap", "permutation"]
"""How an importance is measured; `InferencePipeline.importance` describes each."""

ImportanceUnit: TypeAlias = Literal["raw", "feature"]
"""What an importance is of: a raw column, or a feature of the model."""


Confidence: TypeAlias = Annotated[
    float,
    ParameterCheck(
        "a number between 0 and 1, as 0.95",
        lambda value: isinstance(value, Real) and 0 < float(value) < 1,
        hint="pass replicates=0 for metrics without intervals.",
    ),
]
"""The confidence of intervals."""


class EvaluationKeywords(TypedDict, total=False):
    """The keywords of `InferencePipeline.evaluate`."""

    metrics: Metrics | None
    by: SliceColumns | None
    sample_weight: str | None
    confidence: Confidence
    replicates: int
    seed: int
    target_columns: Mapping[str, str] | Sequence[str] | str | None


class Estimate(NamedTuple):
    """A value with its confidence interval.

    Attributes
    ----------
    value
        The value; NaN where it is not defined.
    low, high
        The ends of the interval; NaN without one.

    Examples
    --------
    >>> print(Estimate(0.91994, 0.9101, 0.9304))
    0.9199 [0.9101, 0.9304]
    """

    value: float
    low: float
    high: float

    @property
    def is_defined(self) -> bool:
        """Whether there is a value."""
        return self.value == self.value

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]" if self.is_defined else "not defined"


class Report(ABC):
    """The report of an evaluation.

    Attributes
    ----------
    metrics
        Each metric with its confidence interval, by name.
    slices
        One row for each slice and metric.
    n_rows
        The number of rows.
    confidence
        The confidence of the intervals.
    notes
        What a reader must know.
    """

    metrics: dict[str, Estimate]
    slices: pl.DataFrame
    n_rows: int
    confidence: float
    notes: Sequence[str]

    @abstractmethod
    def plot(self, kind: str, ax: Any = None, *, by: str | None = None) -> Any:
        """Draw a plot with Matplotlib.

        Parameters
        ----------
        kind
            The name of the plot, as "roc" or "slices".
        ax
            The axis to draw on; a new figure when omitted.
        by
            A column of the slices: one curve or panel for each of its values.

        Returns
        -------
        matplotlib.axes.Axes
            The axis; a list of them where there are several panels.
        """

    @abstractmethod
    def save(self, path: str | Path) -> None:
        """Write the report as one file.

        Parameters
        ----------
        path
            The file; its suffix decides the format.
        """

    @abstractmethod
    def to_markdown(self) -> str:
        """Return the report as Markdown.

        Returns
        -------
        str
            Metrics, slices and notes, without plots.
        """

    @abstractmethod
    def to_html(self) -> str:
        """Return the report as one page.

        Returns
        -------
        str
            HTML with the plots inside, which loads nothing.
        """

    @abstractmethod
    def _repr_html_(self) -> str: ...

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values.

        Returns
        -------
        dict
            What JSON can hold: a metric that is not defined is None.
        """


class PipelineMethod(ABC):
    """A method of inference pipelines that a package above `inference` provides, found by its name in the registry."""

    @abstractmethod
    def __call__(self, pipeline: Any, *args: Any, **options: Any) -> Any:
        """Call the method for a pipeline."""

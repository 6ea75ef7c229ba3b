"""The result of a fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from rayline.core.errors import MissingExtraError, ParameterError
from rayline.data.preprocessor import Preprocessor
from rayline.inference.model import Model
from rayline.inference.pipeline import InferencePipeline
from rayline.train import metrics as named_metrics
from rayline.train import progress

if TYPE_CHECKING:
    from rayline.train.trainer import Trainer


@dataclass(frozen=True)
class Result:
    """What `train.fit` gives.

    Attributes
    ----------
    metrics
        The framework's metrics at the iteration that predictions stop at, and the metrics that were asked for, each
        named after its table: `{"train-logloss": 0.31, "test-logloss": 0.35, "test-roc_auc": 0.84}`. With target stages
        only those that Rayline computes, on the scale of the labels: a framework measures what it learns, and that is
        what `history` holds.
    history
        One row an iteration: `iteration` (counted from 0) and the framework's metrics.
    model
        The trained model; `model.native` is the framework's own object.
    inference_pipeline
        The fitted preprocessor and the model: raw rows in, decoded predictions out.
    trainer
        The trainer.
    seconds
        Time of the steps: "preprocessor", "training", "metrics", and "total".
    """

    metrics: dict[str, float]
    history: pl.DataFrame
    model: Model
    inference_pipeline: InferencePipeline
    trainer: Trainer
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def preprocessor(self) -> Preprocessor:
        """The fitted preprocessor. Raises ParameterError for a framework that makes its experience itself: it has none."""
        found = self.inference_pipeline.preprocessor
        if found is None:
            raise ParameterError(
                f"Result.preprocessor: {self.trainer.framework} was trained without one.",
                "Expected a fit on data.",
                "use inference_pipeline, which takes observations as they are.",
            )
        return found

    @property
    def fitted_model(self) -> Any:
        """The framework's own object."""
        return self.model.native

    def metric(self, name: str) -> float:
        """A metric by any of its names, on the test set if there is one: `result.metric("auc")`.

        Raises ParameterError when it was not computed.
        """
        found = named_metrics.resolve(name, list(self.metrics))
        if found is None:
            raise ParameterError.unknown("Result.metric", [name], self.metrics)
        return self.metrics[found]

    def plot(self, metrics: Sequence[str] | None = None, ax: Any = None) -> Any:
        """The history as curves, on a Matplotlib axis that is returned.

        Parameters
        ----------
        metrics
            Columns of the history; all of them when omitted.
        ax
            The axis to draw on; a new one when omitted.
        """
        if ax is None:
            try:
                from matplotlib.figure import Figure
            except ImportError as error:
                raise MissingExtraError.of("Result.plot", "matplotlib", "plot") from error
            ax = Figure(figsize=(7, 4)).subplots()
        present = [name for name in self.history.columns if name != "iteration"]
        unknown = [name for name in metrics or [] if name not in present]
        if unknown:
            raise ParameterError.unknown("Result.plot", unknown, present)
        for name in metrics or present:
            ax.plot(self.history["iteration"].to_list(), self.history[name].to_list(), label=name)
        ax.set_xlabel("iteration")
        ax.legend()
        return ax

    def __repr__(self) -> str:
        values = "\n".join(f"    {name:<24} {value:.6g}" for name, value in self.metrics.items())
        spent = ", ".join(f"{name} {progress.seconds(s)}" for name, s in self.seconds.items())
        return f"Result of {self.trainer!r}\n  {self.model!r}\n  metrics after {self.history.height} iterations:\n{values}\n  time: {spent}"

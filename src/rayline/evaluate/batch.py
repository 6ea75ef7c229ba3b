"""Scored rows, as metrics look at them: labels and predictions of one target, with weights and bootstrap buckets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.core.scores import has_probabilities
from rayline.core.target import Target, Task

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class ScoredBatch:
    """A batch of rows with labels and scores of one target.

    Attributes
    ----------
    target
        The target of the model.
    target_index
        The index of the column of the target that this batch is about.
    scores
        What the model gave for the rows (see `Framework.predict`).
    truth
        Class codes (int64) or values (float64), shape (n,).
    weight
        A weight for each row, or None where all have weight 1.
    bucket
        The bootstrap bucket of each row, an integer below `n_buckets`; None puts all rows into one.
    pair
        The second number of a label that consists of two: the group of a ranking, the upper bound of a survival time.
    covered, width
        Of a pipeline that gives intervals or sets: whether each holds the label (0 or 1), and how wide it is (of a set, how
        many classes it has).

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.core.target import Target, Task
    >>> target = Target(("late",), Task.BINARY, (pl.String(),), (("no", "yes"),))
    >>> batch = ScoredBatch(target, 0, np.array([0.2, 0.9]), np.array([0, 0]))
    >>> batch.y_true.tolist(), batch.y_pred.tolist()
    (['no', 'no'], ['no', 'yes'])
    """

    target: Target
    target_index: int
    scores: Array
    truth: Array
    weight: Array | None = None
    bucket: Array | None = None
    n_buckets: int = 1
    pair: Array | None = None
    covered: Array | None = None
    width: Array | None = None

    def __len__(self) -> int:
        return len(self.truth)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def take(self, rows: Array | slice) -> ScoredBatch:
        """Return the batch of some of the rows.

        Parameters
        ----------
        rows
            Their indices: integers of shape (m,), booleans of shape (n,), or a slice.

        Returns
        -------
        ScoredBatch
            m rows of the same target; attributes that are None stay None.
        """
        names = ("weight", "bucket", "pair", "covered", "width")
        fields: dict[str, Any] = {
            name: array if (array := getattr(self, name)) is None else array[rows] for name in names
        }
        return replace(self, scores=self.scores[rows], truth=self.truth[rows], **fields)

    # -- labels and predictions ----------------------------------------------------------------------------------------

    @property
    def classes(self) -> tuple[Any, ...]:
        """The classes, in the order of their codes; empty for a regression."""
        return self.target.classes[self.target_index] if self.target.classes else ()

    @property
    def y_true(self) -> Array:
        """The labels as they are in the data."""
        return self._labels(self.truth) if self.classes else self.truth

    @property
    def y_pred(self) -> Array:
        """The predictions as `predict` returns them."""
        return self._labels(self.codes) if self.classes else self.values

    def _labels(self, codes: Array) -> Array:
        labels = pl.Series(list(self.classes), dtype=self.target.dtypes[self.target_index])
        return labels.gather(pl.Series(codes.astype(np.int64))).to_numpy()

    @cached_property
    def codes(self) -> Array:
        """The codes of the predicted classes."""
        codes: Array = self.target.codes(self.scores)[self.target_index]
        return codes.astype(np.int64, copy=False)

    @cached_property
    def values(self) -> Array:
        """The predicted values on the scale of the labels, shape (n,); of several quantiles (n, quantiles)."""
        n_values = len(self.target.value_names)
        values = self.target.values(self.scores).reshape(len(self.scores), n_values)
        if len(self.target.quantiles) < 2:
            values = values[:, self.target_index]
        return np.asarray(values, dtype=np.float64)

    @cached_property
    def probabilities(self) -> Array:
        """Probabilities of the classes, shape (n, classes), between 0 and 1.

        Raises ParameterError for a model without probabilities.
        """
        table = self.target.probabilities(self.scores)
        start = sum(len(classes) for classes in self.target.classes[: self.target_index])
        probabilities: Array = np.clip(table[:, start : start + len(self.classes)].to_numpy(), 0.0, 1.0)
        return probabilities

    @property
    def is_ranked(self) -> bool:
        """Whether the model gives probabilities or margins, and not only classes."""
        return self.scores.dtype.names is not None or has_probabilities(self.scores)

    @cached_property
    def positive(self) -> Array:
        """The probability of the second class of two."""
        plain = self.scores.dtype.names is None and self.scores.ndim == 1 and self.scores.dtype.kind == "f"
        if plain and self.target.task is Task.BINARY:
            return np.clip(self.scores.astype(np.float64, copy=False), 0.0, 1.0)
        return self.probabilities[:, 1]

    @cached_property
    def of_truth(self) -> Array:
        """The probability of the true class of each row."""
        if len(self.classes) == 2:
            probability: Array = (1.0 - self.truth) - self.positive
            return np.abs(probability, out=probability)  # the positive's probability, or 1 minus it, to the bit
        table = self.probabilities / self.probabilities.sum(axis=1, keepdims=True)
        return np.asarray(np.take_along_axis(table, self.truth[:, None], axis=1)[:, 0])

    def ranks(self, code: int) -> Array:
        """Return numbers that rank the rows by how likely a class is: margins where the model gives some, else probabilities.

        Parameters
        ----------
        code
            The code of the class.

        Returns
        -------
        ndarray
            Float64, shape (n,).

        Raises
        ------
        ParameterError
            When the model answers with classes only.
        """
        names = self.scores.dtype.names
        if names is not None and "margin" in names:
            margins = self.scores["margin"]
            if self.target.task is Task.MULTICLASS:
                return np.asarray(margins[:, code])
            column = margins.reshape(len(margins), len(self.target.columns), -1)[:, self.target_index, -1]
            return np.asarray(column if code == 1 else -column)
        if len(self.classes) == 2:
            return self.positive if code == 1 else 1.0 - self.positive
        ranks: Array = self.probabilities[:, code]
        return ranks

    @cached_property
    def errors(self) -> Array:
        """Predicted minus true values of a regression."""
        return self.values - self.truth

    # -- sums over the rows of each bucket -----------------------------------------------------------------------------

    @cached_property
    def confusion(self) -> Array:
        """For two classes, the weight of the rows by true and predicted class in each bucket, shape (buckets, 4)."""
        return self.counts(2 * self.truth + self.codes, 4)

    def sums(self, values: Array | float) -> Array:
        """Return the weighted sum of a number of each row in each bucket.

        Parameters
        ----------
        values
            Numbers of shape (n,), or one number for all rows.

        Returns
        -------
        ndarray
            Float64, shape (buckets, 1).
        """
        of = np.broadcast_to(np.asarray(values, dtype=np.float64), len(self))
        of = of if self.weight is None else of * self.weight
        if self.bucket is None:
            return np.array([[of.sum()]])
        sums: Array = np.bincount(self.bucket, of, minlength=self.n_buckets)[:, None]
        return sums

    def counts(self, codes: Array, n_codes: int, values: Array | None = None) -> Array:
        """Return the weight of the rows with each code in each bucket.

        Parameters
        ----------
        codes
            Integers from 0 to `n_codes` - 1, shape (n,).
        n_codes
            The number of codes.
        values
            Numbers of shape (n,), to be summed instead of ones.

        Returns
        -------
        ndarray
            Float64, shape (buckets, codes).
        """
        of = values if self.weight is None else self.weight if values is None else values * self.weight
        cells = codes if self.bucket is None else self.bucket.astype(np.int64, copy=False) * n_codes + codes
        counts = np.bincount(cells, of, minlength=self.n_buckets * n_codes)
        return counts.reshape(self.n_buckets, n_codes).astype(np.float64, copy=False)


def batches(
    target: Target,
    scores: Array,
    truth: Array,
    weight: Array | None = None,
    bucket: Array | None = None,
    n_buckets: int = 1,
) -> Sequence[ScoredBatch]:
    """Return a batch for each target column, from a model's scores and the labels as numbers (see `Target.truth`)."""
    if target.task.is_paired:
        return [ScoredBatch(target, 0, scores, truth[:, 0], weight, bucket, n_buckets, truth[:, 1])]
    truths = truth.reshape(len(truth), len(target.columns)).T
    return [
        ScoredBatch(target, i, scores, target_truth, weight, bucket, n_buckets) for i, target_truth in enumerate(truths)
    ]

"""Stages that reduce the number of columns: principal components, and filters by variance, correlation and the target."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, TypeAlias

import numpy as np
import polars as pl

from rayline.core.errors import DataError, ParameterError, SchemaError, shorten
from rayline.core.operations.base import Drop, Operation
from rayline.core.operations.linear import Linear
from rayline.core.schema import Kind, kind_of
from rayline.core.stage import (
    ColumnStage,
    FitContext,
    ParameterCheck,
    Stage,
    a_number,
    an_int,
    param,
)
from rayline.core.statistics.base import Statistic, StatisticRequest
from rayline.core.statistics.counts import counting
from rayline.core.statistics.moments import Moments
from rayline.core.statistics.multi_column import Covariance, GroupMoments

_NUMBERS = (Kind.NUMERIC, Kind.BOOLEAN)


def _infinite(stage: Stage, column: str) -> DataError:
    return DataError(
        f"{type(stage).__name__}: column {column!r} holds infinite values, or values too large for float64.",
        "Expected finite numbers with finite squares.",
        f"clip {column!r} first (Clipper), scale it, or make the infinite values missing.",
    )


def _refuse_infinite(stage: Stage, columns: Sequence[str], covariance: Covariance) -> None:
    """Raise DataError when a column has no finite variance."""
    for column, size in zip(columns, np.diag(covariance.comoment), strict=False):
        if not math.isfinite(size):
            raise _infinite(stage, column)


FeatureScore: TypeAlias = Literal["auto", "f_classif", "f_regression"]
"""The statistic by which `SelectKBest` ranks columns."""


@dataclass(frozen=True)
class PCA(Stage):
    """Replace columns by their first principal components `pca0`, `pca1`, … (Float64), as scikit-learn does.

    The entry of a component with the largest absolute value is positive. A row with a missing value has missing components.
    The components are computed from the covariance, which is merged exactly: they agree with scikit-learn's within 1e-9
    while their variance is above 1e-12 of the largest. A component whose variance is only rounding error is 0.

    Parameters
    ----------
    columns
        Numeric columns; all of them when omitted. Scale them first when their units differ.
    n_components
        The number of components, or a share of the variance below 1.0: the smallest number that explains more than that.
        When omitted, the number of columns, or of complete rows if these are fewer.
    whiten
        Whether to scale each component to variance 1 (with ddof=1).

    Raises
    ------
    DataError
        In fit, when fewer than two rows are complete, or fewer than `n_components`, or values are infinite.
    ParameterError
        When `n_components` is neither a whole number of at least 1 nor a share between 0 and 1.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import PCA
    >>> table = pl.DataFrame({"a": [1.0, 2.0, 3.0], "b": [2.0, 4.0, 6.0]})
    >>> Preprocessor([("pca", PCA(n_components=1))]).fit_transform(table)["pca0"].round(3).to_list()
    [-2.236, 0.0, 2.236]
    """

    kinds: ClassVar = (Kind.NUMERIC,)
    accepts: ClassVar = _NUMBERS

    @property
    def lossy_reason(self) -> str:  # type: ignore[override]
        if self.is_fitted:
            fewer = len(self.state["components"]) < len(self.state["columns"])
            return "the variance that the components do not explain" if fewer else ""
        return "" if self.n_components is None else "the variance that the components do not explain"

    n_components: int | float | None = param(
        None,
        ParameterCheck(
            "an integer of at least 1, a share between 0 and 1, or None",
            lambda v: v is None or (type(v) is int and v >= 1) or (type(v) is float and 0 < v < 1),
        ),
    )
    unsupported_params: ClassVar = {
        **Stage.unsupported_params,
        **dict.fromkeys(
            ("svd_solver", "tol", "iterated_power", "n_oversamples"),
            "leave it out: the covariance is decomposed exactly",
        ),
    }
    whiten: bool = False

    def required_statistics(self, context: FitContext) -> list[StatisticRequest]:
        return [context.request(Covariance, *context.columns)] if context.columns else []

    def learn(self, context: FitContext, results: Mapping[StatisticRequest, Any]) -> dict[str, Any]:
        columns = list(context.columns)
        if not columns:
            return {"columns": [], "mean": [], "components": []}
        n = self.n_components if isinstance(self.n_components, int) else len(columns)
        if n > len(columns):
            raise ParameterError.value("n_components", f"at most the number of columns, {len(columns)}", n, where="PCA")
        covariance: Covariance = results[context.request(Covariance, *columns)]
        self._refuse_few(columns, covariance, n if isinstance(self.n_components, int) else 2)
        n = min(n, covariance.count)
        _refuse_infinite(self, columns, covariance)
        sizes, vectors = np.linalg.eigh(covariance.comoment / (covariance.count - 1))
        sizes = np.where(
            sizes > len(columns) * np.finfo(np.float64).eps * max(sizes[-1], 0.0), sizes, 0.0
        )  # the rest is rounding
        order = np.argsort(sizes)[::-1][:n]
        if isinstance(self.n_components, float):
            shares = np.cumsum(np.maximum(sizes[order], 0.0)) / max(
                float(np.maximum(sizes, 0.0).sum()), np.finfo(np.float64).tiny
            )
            # As in scikit-learn, the sum must exceed the share; a difference within rounding does not count.
            n = min(int(np.searchsorted(shares, self.n_components + 1e-12, side="right")) + 1, n)
            order = order[:n]
        self.refuse_existing_columns([f"pca{i}" for i in range(n)], context, removed=columns)
        components = vectors.T[order]
        size = np.abs(components)  # of entries that differ only by rounding, the first counts as the largest
        largest = (size >= size.max(axis=1, keepdims=True) * (1 - 1e-9)).argmax(axis=1)
        components = components * np.sign(components[np.arange(n), largest])[:, None]
        variances = sizes[order]
        components[variances == 0] = 0.0
        if self.whiten:
            components = components / np.sqrt(np.where(variances > 0, variances, 1.0))[:, None]
        share = variances / max(
            float(np.trace(covariance.comoment)) / (covariance.count - 1), np.finfo(np.float64).tiny
        )
        return {
            "columns": columns,
            "mean": covariance.mean.tolist(),
            "components": components.tolist(),
            "explained": share.tolist(),
        }

    def _refuse_few(self, columns: list[str], covariance: Covariance, n: int) -> None:
        """Raise DataError when there are too few complete rows."""
        if covariance.count >= max(n, 2):
            return
        empty = [column for column, known in zip(columns, covariance.n_known, strict=False) if not known]
        hint = "impute first (SimpleImputer)." if covariance.n_null else "use fewer components, or fit on more rows."
        raise DataError(
            f"PCA: {'column ' + repr(empty[0]) + ' has no values, only missing ones' if empty else f'only {covariance.count} rows have no missing values'}.",
            f"Expected at least {max(n, 2)} rows in which no column is missing; got {covariance.count}.",
            f"drop {shorten(empty)} (DropColumns)." if empty else hint,
        )

    def to_operations(self) -> list[Operation]:
        columns = list(self.state["columns"])
        if not columns:
            return []
        names = self._outputs
        projection = Linear(columns, names, self.state["components"], self.state["mean"], [0.0] * len(names))
        return [projection, Drop([c for c in columns if c not in names])]

    @property
    def _outputs(self) -> list[str]:
        return [f"pca{i}" for i in range(len(self.state["components"]))]

    def invert(self, schema: Mapping[str, pl.DataType]) -> list[Operation] | None:
        columns, components = list(self.state["columns"]), self.state["components"]
        if not columns:
            return []
        sizes = [
            sum(w * w for w in weights) or 1.0 for weights in components
        ]  # 1, or 1/variance of a whitened component
        weights = [
            [component[i] / size for component, size in zip(components, sizes, strict=True)]
            for i in range(len(columns))
        ]
        back = Linear(self._outputs, columns, weights, [0.0] * len(sizes), self.state["mean"])
        return [back, Drop([name for name in self._outputs if name not in columns])]


@dataclass(frozen=True)
class VarianceThreshold(ColumnStage):
    """Remove numeric columns whose variance in the training rows is not above the threshold, as scikit-learn does.

    Parameters
    ----------
    columns
        Numeric columns to check; all of them when omitted. All other columns stay.
    threshold
        Columns with at most this variance (ddof=0, without missing values) are removed.

    Raises
    ------
    ParameterError
        When `threshold` is negative.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import VarianceThreshold
    >>> Preprocessor([("v", VarianceThreshold())]).fit_transform(pl.DataFrame({"a": [1, 1], "b": [1, 2]})).columns
    ['b']
    """

    kinds: ClassVar = (Kind.NUMERIC,)
    accepts: ClassVar = _NUMBERS

    lossy_reason: ClassVar = "the columns that it removes, which are restored without values"

    threshold: float = param(0.0, a_number(0))

    def column_statistics(self, dtype: pl.DataType) -> list[type[Statistic]]:
        return [Moments]

    def learn_column(self, column: str, dtype: pl.DataType, *statistics: Any) -> dict[str, Any]:
        moments: Moments = statistics[0]
        # A variance within the rounding error of the mean counts as 0.
        error = (1e-15 * moments.mean) * (1e-15 * moments.mean) * moments.count
        return {"removed": math.isfinite(moments.variance) and moments.variance <= max(self.threshold, error)}

    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        return [Drop([column])] if learned["removed"] else []


@dataclass(frozen=True)
class CorrelationFilter(Stage):
    """Remove numeric columns that are correlated with an earlier remaining column, in the order of the table.

    Parameters
    ----------
    columns
        Numeric columns to check; all of them when omitted. All other columns stay.
    threshold
        The largest absolute Pearson correlation that is allowed, over rows without missing values in these columns, as in `pandas.DataFrame.corr` of such rows.

    Raises
    ------
    DataError
        In fit, when a column has infinite values, or values too large for float64.
    ParameterError
        When `threshold` is outside 0 to 1.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import CorrelationFilter
    >>> table = pl.DataFrame({"a": [1.0, 2.0, 3.0], "b": [2.0, 4.0, 6.5], "c": [1.0, 0.0, 1.0]})
    >>> Preprocessor([("c", CorrelationFilter())]).fit_transform(table).columns
    ['a', 'c']
    """

    kinds: ClassVar = (Kind.NUMERIC,)
    accepts: ClassVar = _NUMBERS

    lossy_reason: ClassVar = "the columns that it removes, which are restored without values"

    threshold: float = param(0.95, a_number(0, 1))

    def required_statistics(self, context: FitContext) -> list[StatisticRequest]:
        return [context.request(Covariance, *context.columns)] if len(context.columns) > 1 else []

    def learn(self, context: FitContext, results: Mapping[StatisticRequest, Any]) -> dict[str, Any]:
        columns = list(context.columns)
        removed: list[int] = []
        kept: list[int] = []
        if len(columns) > 1:
            covariance: Covariance = results[context.request(Covariance, *columns)]
            if covariance.count:
                _refuse_infinite(self, columns, covariance)
                sizes = np.abs(covariance.correlation)
                for i in range(len(columns)):
                    (removed if any(sizes[i, j] > self.threshold for j in kept) else kept).append(i)
        return {"columns": columns, "removed": [columns[i] for i in removed]}

    def to_operations(self) -> list[Operation]:
        return [Drop(list(self.state["removed"]))]


@dataclass(frozen=True)
class SelectKBest(Stage):
    """Keep the k numeric columns with the largest F statistic for the target, as scikit-learn does.

    Rows in which the column or the target is missing are ignored for this column.

    Parameters
    ----------
    columns
        Numeric columns to choose from; all of them when omitted. All other columns stay.
    k
        The number of columns to keep.
    score
        "f_classif", "f_regression", or "auto": by the type of the target (regression for floats).
    target
        The target column; the first of fit's `target_columns` when omitted.

    Raises
    ------
    SchemaError
        In fit, without a target, or with a target of text for "f_regression".
    DataError
        In fit, when a column has infinite values, or values too large for float64.
    ParameterError
        When `k` is below 1, or on an unknown score.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import SelectKBest
    >>> table = pl.DataFrame({"a": [1.0, 2.0, 1.0, 2.0], "b": [1.0, 2.0, 8.0, 9.0], "y": [0, 0, 1, 1]})
    >>> Preprocessor([("best", SelectKBest(k=1))]).fit(table, target_columns=["y"]).transform(table).columns
    ['b', 'y']
    """

    kinds: ClassVar = (Kind.NUMERIC,)
    accepts: ClassVar = _NUMBERS

    lossy_reason: ClassVar = "the columns that it removes, which are restored without values"

    k: int = param(10, an_int(1))
    score: FeatureScore = "auto"
    target: str | None = None

    def required_statistics(self, context: FitContext) -> list[StatisticRequest]:
        return [self._request(context, column) for column in context.columns]

    def _request(self, context: FitContext, column: str) -> StatisticRequest:
        target = context.target_of(self, self.target)
        dtype = context.schema[target]
        regression = self.score == "f_regression" or (self.score == "auto" and dtype.is_float())
        if regression and kind_of(dtype) not in _NUMBERS:
            raise SchemaError.dtype(target, "a numeric target for f_regression", dtype, where="SelectKBest")
        return (
            context.request(Covariance, column, target) if regression else context.request(GroupMoments, column, target)
        )

    def learn(self, context: FitContext, results: Mapping[StatisticRequest, Any]) -> dict[str, Any]:
        with counting(f"SelectKBest: the target {context.target_of(self, self.target)!r}"):
            scores = {name: self._score(name, results[self._request(context, name)]) for name in context.columns}
        return self._chosen(context.columns, scores)

    def _chosen(self, columns: Sequence[str], scores: Mapping[str, float]) -> dict[str, Any]:
        kept = set(sorted(columns, key=lambda column: -scores[column])[: self.k])
        scores_of_columns = {column: scores[column] for column in columns}
        return {"columns": list(columns), "scores": scores_of_columns, "removed": [c for c in columns if c not in kept]}

    def without(self, columns: Collection[str]) -> Self | None:
        return self.fitted(self._chosen([c for c in self.state["columns"] if c not in columns], self.state["scores"]))

    def _score(self, column: str, answer: Any) -> float:
        """Return the F statistic as a float that can be compared; 0 for a column without information about the target."""
        if isinstance(answer, Covariance):
            _refuse_infinite(self, [column, "the target"], answer)
            if answer.count < 3:
                return 0.0
            share = float(answer.correlation[0, 1]) ** 2
            return share / (1 - share) * (answer.count - 2) if share < 1 else math.inf
        groups = (
            answer.by_key().filter(pl.col("key").is_not_null() & (pl.col("n") > 0)).select("n", "mean", "m2").rows()
        )
        total = Moments.merge_all(Moments(n, 0, mean, m2) for n, mean, m2 in groups)
        within = sum(m2 for _, _, m2 in groups)
        free = total.count - len(groups)
        if not math.isfinite(total.m2):
            raise _infinite(self, column)
        if len(groups) < 2 or free < 1:
            return 0.0
        between = max(total.m2 - within, 0.0)
        return between / (len(groups) - 1) / (within / free) if within > 0 else (math.inf if between > 0 else 0.0)

    def to_operations(self) -> list[Operation]:
        return [Drop(list(self.state["removed"]))]

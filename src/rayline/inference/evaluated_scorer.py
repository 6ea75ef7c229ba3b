"""The methods of an inference pipeline that measure and explain its model; packages above this one provide most of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

import polars as pl

from rayline.core import registry
from rayline.core.arguments import known_arguments
from rayline.core.data_types import Data, DataT, Label, MetricLike, Metrics, SliceColumns
from rayline.core.evaluation import Confidence, ImportanceKind, ImportanceUnit, Report
from rayline.inference.scorer import P, Scorer
from rayline.preprocessing.lineage import by_source


@known_arguments
class EvaluatedScorer(Scorer[P]):
    """A scorer whose model is measured and explained: the part of `InferencePipeline` beside its predictions.

    Parameters
    ----------
    preprocessor, model, postprocessing
        As in `Scorer`.
    """

    def importance(
        self,
        kind: ImportanceKind = "gain",
        *,
        by: ImportanceUnit = "raw",
        rows: Data | None = None,
        metric: MetricLike | None = None,
        n_repeats: int = 5,
        sample_weight: str | None = None,
        background: Data | None = None,
        seed: int = 0,
    ) -> dict[str, float] | None:
        """Return the importance of each raw column to the model.

        Parameters
        ----------
        kind
            "gain": the framework's own measure (the gain of splits, the size of coefficients); that of a feature is added to
            the raw column that it is computed from, in equal shares when there are several (see `Preprocessor.lineage`).
            "shap": the mean size of a column's contributions (see `explain`), over all outputs. "permutation": how much worse a
            metric is when the column's values are shuffled (Breiman, 2001), with the permutations of scikit-learn's
            permutation_importance.
        by
            "raw" for raw columns, "feature" for the model's features (kind="gain" only).
        rows
            For "shap" raw rows (nulls as in `predict`), a table or a Dataset in one scan; the model's examples when omitted. For "permutation" rows with
            labels, of which the first 100,000 are used.
        metric
            For "permutation": a metric as in `evaluate`; the usual first one of the task when omitted.
        n_repeats
            For "permutation": the number of shuffles of each column.
        sample_weight
            For "permutation": the column of weights.
        background
            For "shap", as in `explain`.
        seed
            Of shuffles and estimates; random_state of scikit-learn.

        Returns
        -------
        dict or None
            A number by column, or by feature with by="feature". Those of "permutation" may be negative: shuffling the column made
            the metric better. None when kind="gain" and the framework provides none.

        Raises
        ------
        ParameterError
            On an unknown kind or metric, and on by="feature" with another kind than "gain".
        SchemaError
            When the rows lack a column.
        """
        if kind == "gain" and by == "raw":
            return self.gain_importance()
        shares: dict[str, float] | None = registry.pipeline_method("importance")(
            self, kind, by=by, rows=rows, metric=metric, n_repeats=n_repeats, sample_weight=sample_weight,
            background=background, seed=seed,
        )  # fmt: skip
        return shares

    def gain_importance(self) -> dict[str, float] | None:
        """Return the importance of each raw column by the framework's own measure.

        Returns
        -------
        dict or None
            By raw column, or by feature without a preprocessor; None when the framework provides none.
        """
        if self._preprocessor is None:
            return self.model.importance()
        of = self._preprocessor.features_of
        sources = {feature: lineage for column in self.model.feature_names for feature, lineage in of[column].items()}
        by_feature = self.model.adapter.importance(self.model.native, list(sources))
        return None if by_feature is None else by_source(by_feature, sources)

    @overload
    def explain(self, rows: Sequence[Mapping[str, Any]], *, of: Label | None = ..., background: Data | None = ...,
        keep_columns: Sequence[str] | None = ..., prefix: str = ..., seed: int = ...) -> list[dict[str, Any]]: ...  # fmt: skip
    @overload
    def explain(self, rows: DataT, *, of: Label | None = ..., background: Data | None = ...,
        keep_columns: Sequence[str] | None = ..., prefix: str = ..., seed: int = ...) -> DataT: ...  # fmt: skip
    def explain(
        self,
        rows: Data,
        *,
        of: Label | None = None,
        background: Data | None = None,
        keep_columns: Sequence[str] | None = (),
        prefix: str = "",
        seed: int = 0,
    ) -> Any:
        """Return what each raw column contributes to the score of each row.

        One column for each raw column, `base_value` and `score`; the contributions and the base value add up to the score. The
        score is the model's own before postprocessing, on the scale on which the model adds up:

        =================================  ==================  =========================================================
        model                              contributions       score
        =================================  ==================  =========================================================
        XGBoost, LightGBM, CatBoost        TreeSHAP, exact     log-odds of a classification; the value of a regression, or
                                                               its logarithm under a log link; before target stages
        linear models of scikit-learn      exact               the decision function; the value of a regression
        all others                         Shapley values of   the probability; the value of a regression
                                           predictions
        =================================  ==================  =========================================================

        Contributions of features are added up by raw column: those of one-hot columns, of the words of a text. A feature of
        several columns (PCA) belongs to them in equal shares. Shapley values of predictions are exact up to 6 raw columns; of more
        columns they are means over 16 permutations, the same for all rows.

        Parameters
        ----------
        rows
            A table, a list of rows, or a ray.data.Dataset of raw rows. A null contributes as the value that stages and model make
            of it.
        of
            What is explained. Of two classes the second one when omitted; of several classes the predicted class of each row,
            which the column `class` then names. Of several targets all, each in columns that end with its name. Of several
            quantiles that nearest to the median; `of=0.9` another.
        background
            Raw rows that stand for usual ones, which linear models and estimated contributions are compared with: the
            contributions of a row explain its difference from their mean. At most 100 of them are used, evenly spaced; the
            model's few examples when omitted. TreeSHAP needs none.
        keep_columns
            The input columns to keep before the contributions.
        prefix
            Begins the names of all added columns.
        seed
            Of the permutations.

        Returns
        -------
        table, Dataset or list
            The type of the input, a row for each row: `keep_columns`, a Float64 column for each raw column, `base_value`, `score`,
            and of several classes `class`.

        Raises
        ------
        SchemaError
            When a column is missing or has the wrong type, or two columns of the result would have one name: then pass `prefix`.
        ParameterError
            When `of` is no class or target.

        Examples
        --------
        >>> import polars as pl
        >>> from rayline import train
        >>> table = pl.DataFrame({"x": [0.0, 1.0, 2.0, 3.0] * 25, "z": [1.0] * 100, "y": [0.0, 0.0, 4.0, 4.0] * 25})
        >>> trainer = train.XGBoostTrainer({"max_depth": 1, "eta": 1, "lambda": 0}, num_boost_round=1)
        >>> pipeline = train.fit(trainer, None, table, None, ["y"], verbose=False).inference_pipeline
        >>> pipeline.explain([{"x": 3.0, "z": 1.0}])
        [{'x': 2.0, 'z': 0.0, 'base_value': 2.0, 'score': 4.0}]
        """
        return registry.pipeline_method("explain")(
            self, rows, of=of, background=background, keep_columns=keep_columns, prefix=prefix, seed=seed
        )

    def partial_dependence(
        self, rows: Data, column: str, *, grid: int | Sequence[Any] = 50, ice: bool = False
    ) -> pl.DataFrame:
        """Return how the predictions change with one raw column, as a Polars table.

        For each value of a grid all rows are predicted with this value in place of their own. Their mean is the partial
        dependence (Friedman, 2001), each row's curve the individual conditional expectation (Goldstein and others, 2015).

        Parameters
        ----------
        rows
            Raw rows, nulls as in `predict`: a table or a ray.data.Dataset, in one scan for the grid and one for the predictions.
        column
            The raw column.
        grid
            The number of values: all of a number or time with no more, otherwise evenly spaced ones between its 5 % and 95 % quantiles; of a category
            the 20 most frequent. Or the values themselves.
        ice
            Whether to return the curve of each of the first 1,000 rows, with a column `row`, instead of the mean.

        Returns
        -------
        polars.DataFrame
            A row for each value of the grid (with `ice` for each row and value): the column's value and the prediction, `probability_<class>` for each class, or `prediction`.

        Raises
        ------
        ParameterError
            On a column that the pipeline does not read, and for a model without probabilities.
        SchemaError
            When the rows lack a column.
        DataError
            When there are no rows, or the column has no values.

        Examples
        --------
        >>> import polars as pl
        >>> from rayline import train
        >>> table = pl.DataFrame({"x": [0.0, 1.0, 2.0, 3.0] * 25, "z": [1.0] * 100, "y": [0.0, 0.0, 4.0, 4.0] * 25})
        >>> trainer = train.XGBoostTrainer({"max_depth": 1, "eta": 1, "lambda": 0}, num_boost_round=1)
        >>> pipeline = train.fit(trainer, None, table, None, ["y"], verbose=False).inference_pipeline
        >>> pipeline.partial_dependence(table, "x").rows()
        [(0.0, 0.0), (1.0, 0.0), (2.0, 4.0), (3.0, 4.0)]
        """
        table = registry.pipeline_method("partial_dependence")(self, rows, column, grid=grid, ice=ice)
        assert isinstance(table, pl.DataFrame)
        return table

    def evaluate(
        self,
        data: Data,
        *,
        metrics: Metrics | None = None,
        by: SliceColumns | None = None,
        sample_weight: str | None = None,
        confidence: Confidence = 0.95,
        replicates: int = 500,
        seed: int = 0,
        target_columns: Mapping[str, str] | Sequence[str] | str | None = None,
    ) -> Report:
        """Measure this pipeline on rows with labels, in one scan: metrics with confidence intervals, in all and for slices.

        Intervals are percentiles of a Poisson bootstrap whose weights follow from the rows' hashes (see
        `rayline.evaluate.bootstrap`): the same rows give the same intervals in this process, on Ray, and in any blocks.

        Parameters
        ----------
        data
            Raw rows with the target columns, in which no label may be null: a table in this process, or a ray.data.Dataset, which is never collected.
        metrics
            Names (docs/metrics.md lists them), functions `(y_true, y_pred[, sample_weight])`, scorers of scikit-learn, classes
            derived from `rayline.evaluate.MetricStatistic`, a list of these, or a dict from names to them. The usual ones of the
            task when omitted. A function gets all rows at once, and there may be 1,048,576 at most.
        by
            Columns to slice by: names, each of which makes slices of its own, or tuples of names for their combinations. A
            column may have 1,000 different values.
        sample_weight
            The column of weights, finite numbers of at least 0.
        confidence
            The share of the intervals that contains the true value, between 0 and 1.
        replicates, seed
            The number of bootstrap replicates and their seed; 0 replicates give no intervals.
        target_columns
            Where the labels are, if not in columns named as in training.

        Returns
        -------
        Report
            `metrics`, `slices`, `plot`, `save`, `to_markdown`, `to_dict` (see `rayline.evaluate.EvaluationReport`).

        Raises
        ------
        SchemaError
            When a column is missing or has another type than in training.
        DataError
            When there are no rows, labels are missing or were not seen in training, or weights are negative.
        ParameterError
            On a metric that does not exist or does not fit the task, and on too many slices.

        Examples
        --------
        >>> import polars as pl
        >>> from rayline import train
        >>> table = pl.DataFrame({"x": [0.0, 1.0, 2.0, 3.0] * 25, "late": ["no", "no", "yes", "yes"] * 25})
        >>> trainer = train.XGBoostTrainer({"max_depth": 2}, num_boost_round=3, seed=1)
        >>> result = train.fit(trainer, train_dataset=table, target_columns=["late"], verbose=False)
        >>> result.inference_pipeline.evaluate(table, metrics=["roc_auc"]).metrics["roc_auc"].value
        1.0
        """
        report = registry.pipeline_method("evaluate")(
            self, data, metrics=metrics, by=by, sample_weight=sample_weight, confidence=confidence, replicates=replicates,
            seed=seed, target_columns=target_columns,
        )  # fmt: skip
        assert isinstance(report, Report)
        return report

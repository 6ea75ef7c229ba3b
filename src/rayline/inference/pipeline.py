"""The inference pipeline: raw rows in, decoded predictions out. Batch inference and serving use this one path.

`Preprocessor` is defined here too, because `Preprocessor.chain` returns an `InferencePipeline`, which holds one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rayline.core import registry
from rayline.core.arguments import known_arguments
from rayline.core.engine import Placement
from rayline.core.errors import ParameterError
from rayline.core.evaluation import Report
from rayline.core.operations.base import Row
from rayline.device import UseGPU
from rayline.inference import calibration
from rayline.inference.artifact_members import write_artifact
from rayline.inference.batch import BatchPredictor, write_predictions
from rayline.inference.model import Model
from rayline.inference.scorer import Scorer
from rayline.postprocess.base import PostprocessingStage
from rayline.preprocessing.lineage import by_source
from rayline.preprocessing.preprocessor import BasePreprocessor

MAX_ROW_PATH_ROWS = 4
"""Lists of at most so many rows are predicted row by row with the compiled row functions; longer ones as a table."""


@known_arguments
class Preprocessor(BasePreprocessor):
    """Named stages, fitted in one scan of the data and applied as one query.

    Parameters
    ----------
    stages
        `(name, stage)` pairs, applied in this order; a stage may itself be a Preprocessor.
    target_stages
        `(name, stage)` pairs for the targets of a training: the model is trained on the transformed targets; predictions
        and metrics are in the original units. These stages change numbers in place and have an inverse (Log,
        PowerTransformer, StandardScaler, …), or set the classes (LabelEncoder). A stage without `columns` applies to all
        targets. `transform` does not change targets.

    Notes
    -----
    `fit` changes this object and returns it; no other method changes it. Missing means null or NaN throughout.
    Two preprocessors are equal (`==`) when their learned values differ by rounding only: at most 1e-12, relative to the
    largest number of the same array.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import Log, SimpleImputer, StandardScaler
    >>> table = pl.DataFrame({"age": [20.0, None, 40.0]})
    >>> p = Preprocessor([("impute", SimpleImputer()), ("scale", StandardScaler())])
    >>> p.fit_transform(table)["age"].round(3).to_list()
    [-1.225, 0.0, 1.225]
    >>> p.scans
    1

    A model that is trained on the logarithm of a price and predicts prices:

    >>> p = Preprocessor([("scale", StandardScaler())], target_stages=[("log", Log())])
    """

    def chain(self, model: Any) -> InferencePipeline:
        """Return this fitted preprocessor and a model as one inference pipeline.

        Parameters
        ----------
        model
            A Model, or a framework's own object (a Booster, a module, an estimator).

        Raises
        ------
        NotFittedError
            When this preprocessor is not fitted.
        ParameterError
            When the model is an inference pipeline already.
        SchemaError
            When the model needs a column that this preprocessor does not return.
        """
        self._require_fitted("Preprocessor.chain")
        if isinstance(model, InferencePipeline):
            raise ParameterError(
                "Preprocessor.chain: the model is an inference pipeline already.",
                "Expected a model.",
                "use it as it is.",
            )
        if not isinstance(model, Model):
            model = Model.of_native(model, preprocessed=self.output_schema, target=self.target)
        return InferencePipeline(self, model)


@known_arguments
class InferencePipeline(Scorer[Preprocessor]):
    """A fitted preprocessor, a model, and stages after the model.

    Parameters
    ----------
    preprocessor
        A fitted preprocessor, or None when the model takes raw rows.
    model
        A `Model`; `preprocessor.chain` builds one from a framework's own object.
    postprocessing
        Fitted stages of `rayline.postprocess`; `calibrated` learns them.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline import train
    >>> from rayline.stages import StandardScaler
    >>> table = pl.DataFrame({"x": [0.0, 1.0, 2.0, 3.0], "y": ["no", "no", "yes", "yes"]})
    >>> trainer = train.XGBoostTrainer({"min_child_weight": 0}, num_boost_round=5)
    >>> result = train.fit(trainer, train.Preprocessor([("scale", StandardScaler())]),
    ...                    train_dataset=table, target_columns=["y"], verbose=False)
    >>> result.inference_pipeline.predict([{"x": 2.5}])
    [{'prediction': 'yes'}]
    """

    def __init__(
        self, preprocessor: Preprocessor | None, model: Model, postprocessing: Sequence[PostprocessingStage] = ()
    ) -> None:
        super().__init__(preprocessor, model, postprocessing)

    # -- what it is ------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        parts = [str(self._preprocessor).replace("\n", "\n  "), repr(self.model), *map(repr, self.postprocessing)]
        return f"InferencePipeline(\n{''.join(f'  {part},{chr(10)}' for part in parts)})"

    def importance(self) -> dict[str, float] | None:
        """Return the importance of each raw column to the model; None when the framework provides none.

        The importance of each feature (`model.importance()`) is added to the raw column that it is computed from, in equal
        shares when there are several (see `Preprocessor.lineage`).
        """
        if self._preprocessor is None:
            return self.model.importance()
        of = self._preprocessor.features_of
        sources = {feature: own for column in self.model.feature_names for feature, own in of[column].items()}
        found = self.model.adapter.importance(self.model.native, list(sources))
        return None if found is None else by_source(found, sources)

    def evaluate(
        self,
        data: Any,
        *,
        metrics: Any = None,
        by: Any = None,
        sample_weight: str | None = None,
        confidence: float = 0.95,
        replicates: int = 500,
        seed: int = 0,
        target_columns: Sequence[str] | str | None = None,
    ) -> Report:
        """Measure this pipeline on rows with labels, in one scan: metrics with confidence intervals, in all and for slices.

        Intervals are percentiles of a Poisson bootstrap whose weights follow from the rows' hashes (see
        `rayline.evaluate.bootstrap`): the same rows give the same intervals in this process, on Ray, and in any blocks.

        Parameters
        ----------
        data
            Raw rows with the target columns: a table in this process, or a ray.data.Dataset, which is never collected.
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
            Of the intervals, between 0 and 1.
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
        found = registry.pipeline_method("evaluate")(
            self, data, metrics=metrics, by=by, sample_weight=sample_weight, confidence=confidence, replicates=replicates,
            seed=seed, target_columns=target_columns,
        )  # fmt: skip
        assert isinstance(found, Report)
        return found

    # -- predictions -----------------------------------------------------------------------------------------------

    def predict(self, rows: Any, *, interval: bool = False, use_gpu: UseGPU | None = None) -> Any:
        """Return decoded predictions for raw rows, one column for each target, in the type of the input.

        Parameters
        ----------
        rows
            A table, a list of rows (dicts), or a ray.data.Dataset. The preprocessor decides how missing values are handled.
        interval
            Whether to add the columns `lower` and `upper`, or for a classification the column `set`, a list of classes. Of
            several targets the column names end with the target's: `lower_<target>`. The pipeline needs the stage Conformal.
        use_gpu
            Whether the model computes on a GPU: True, False, or "auto" for a GPU where there is one. In this process it stays
            on the GPU for the next call; a Dataset is predicted by one worker on each GPU of the Ray cluster. When omitted, what `rayline.load` was
            told, and in a worker of Ray the GPU that Ray assigned to it.

        Raises
        ------
        ParameterError
            On `interval` where no stage gives intervals.
        SchemaError
            When a column of the training data is missing or has the wrong type.
        DataError
            When a stage rejects a value.
        ParameterError
            With use_gpu=True, when the model predicts on the CPU only.
        ResourceError
            With use_gpu=True, when there is no GPU, the framework's library was built without support for GPUs, or the GPU
            has no memory even for a batch of one row.
        """
        pipeline, n_gpus = self.placed_for(rows, use_gpu, None, "InferencePipeline.predict")
        return pipeline._predict(rows, n_gpus, interval=interval)

    def _predict(self, rows: Any, n_gpus: float | None, *, interval: bool) -> Any:
        if self._takes_rows(rows) and not (interval and not self.has_intervals):
            if interval:
                return [self._row_with_interval(row) for row in rows]
            return [self.target.row_prediction(self.row_scores(row)) for row in rows]
        predict = BatchPredictor(self, interval=interval)
        return registry.engine_for(rows).map(rows, predict, Placement(num_gpus=n_gpus))

    def _row_with_interval(self, row: Row) -> Row:
        outcome = self.row_outcome(row)
        return {**self.target.row_prediction(outcome.scores), **outcome.intervals()}

    def predict_proba(self, rows: Any, *, use_gpu: UseGPU | None = None) -> Any:
        """Return probabilities for raw rows, one column for each class. `use_gpu` as in `predict`.

        Raises the errors of `predict`, and ParameterError for a model without probabilities.
        """
        pipeline, n_gpus = self.placed_for(rows, use_gpu, None, "InferencePipeline.predict_proba")
        return pipeline._predict_proba(rows, n_gpus)

    def _predict_proba(self, rows: Any, n_gpus: float | None) -> Any:
        if self._takes_rows(rows):
            return [self.target.row_probabilities(self.row_scores(row)) for row in rows]
        predict = BatchPredictor(self, labels=False, proba=True)
        return registry.engine_for(rows).map(rows, predict, Placement(num_gpus=n_gpus))

    def transform(
        self,
        data: Any,
        *,
        keep_columns: Sequence[str] | None = None,
        proba: bool = False,
        interval: bool = False,
        on_error: str = "raise",
        batch_size: int | None = None,
        use_gpu: UseGPU | None = None,
        num_cpus: float | None = None,
        num_gpus: float | None = None,
        concurrency: int | None = None,
    ) -> Any:
        """Return the data with added columns of predictions, in the type of the input; a ray.data.Dataset stays lazy.

        The number of rows and their order inside a block are kept. Each worker loads the model once.

        Parameters
        ----------
        data
            A table or a ray.data.Dataset of raw rows.
        keep_columns
            The input columns to keep; all when omitted.
        proba
            Whether to add the probabilities too.
        interval
            Whether to add intervals or sets (see `predict`).
        on_error
            How to handle a row that cannot be predicted: "raise" an error, return "null" predictions, or "collect": return
            null predictions and the error message in the column `prediction_error`.
        batch_size
            The number of rows predicted at a time; whole blocks when omitted, 4,096 rows on a GPU.
        use_gpu
            As in `predict`. A batch that exceeds the GPU's memory is halved, and a line on stderr says so.
        num_cpus, num_gpus, concurrency
            On Ray: the resources of each worker, and the number of workers. With `use_gpu`, `num_gpus` is 1 and there is one
            worker for each GPU of the cluster; `num_gpus=0.25` puts four on each. `num_gpus` alone counts as `use_gpu=True`.

        Raises
        ------
        ParameterError
            When a GPU is asked for and the model predicts on the CPU only.
        ResourceError
            When the cluster lacks the resources for these workers, or they would leave no CPU to read the data; when the
            framework's library was built without support for GPUs.
        SchemaError
            When a column of the training data is missing or has the wrong type.
        DataError
            With on_error="raise", when a stage rejects a value.
        """
        keep = None if keep_columns is None else tuple(keep_columns)
        pipeline, n_gpus = self.placed_for(data, use_gpu, num_gpus, "InferencePipeline.transform")
        predict = BatchPredictor(pipeline, proba=proba, interval=interval, keep=keep, on_error=on_error)
        placement = Placement(batch_size, num_cpus, n_gpus, concurrency)
        return registry.engine_for(data).map(data, predict, placement)

    def write_predictions(
        self,
        data: Any,
        path: str | Path,
        *,
        resume: bool = False,
        rows_per_file: int = 1_000_000,
        keep_columns: Sequence[str] | None = None,
        proba: bool = False,
        interval: bool = False,
        on_error: str = "raise",
        use_gpu: UseGPU | None = None,
        num_cpus: float | None = None,
        num_gpus: float | None = None,
    ) -> int:
        """Write the data with its predictions to Parquet files, each row exactly once; see `batch.write_predictions`."""
        keep = None if keep_columns is None else tuple(keep_columns)
        how = {"keep": keep, "proba": proba, "on_error": on_error, **({"interval": True} if interval else {})}
        pipeline, n_gpus = self.placed_for(data, use_gpu, num_gpus, "InferencePipeline.write_predictions")
        placement = Placement(num_cpus=num_cpus, num_gpus=n_gpus)
        return write_predictions(
            pipeline, data, str(path), rows_per_file=rows_per_file, resume=resume, placement=placement, **how
        )

    def placed_for(
        self, data: Any, use_gpu: UseGPU | None, num_gpus: float | None, where: str
    ) -> tuple[InferencePipeline, float | None]:
        """Return the pipeline whose model predicts this data where `use_gpu` says; see `Model.placed_for`."""
        if use_gpu is None and num_gpus is None and self.model.use_gpu is None:
            return self, None
        if num_gpus and type(data).__module__.partition(".")[0] != "ray":
            return self, num_gpus  # refused by the engine of tables
        model, n_gpus = self.model.placed_for(data, use_gpu, num_gpus, where)
        return self.with_model(model), n_gpus

    def _takes_rows(self, rows: Any) -> bool:
        return (
            isinstance(rows, list)
            and len(rows) <= MAX_ROW_PATH_ROWS
            and all(map(_is_row, rows))
            and self._row is not None
        )

    # -- stages after the model ------------------------------------------------------------------------------------

    def calibrated(
        self, stages: Sequence[PostprocessingStage], calibration_set: Any = None, *, sample_weight: str | None = None
    ) -> InferencePipeline:
        """Return this pipeline with stages after the model, learned from rows that the model was not trained on.

        One scan scores the rows. Each stage learns from the answers of those before it. Up to 262,144 different scored rows
        all count; of more, a sample by their hash does. An existing stage of a class that is among the new ones is replaced.

        Parameters
        ----------
        stages
            Stages of `rayline.postprocess`, in the order in which they are applied.
        calibration_set
            Rows with the target columns: a table or a ray.data.Dataset, which stays where it is. None where no stage learns
            anything (Clip, Round, a Threshold that is given as a number).
        sample_weight
            The column of the rows' weights, positive numbers.

        Raises
        ------
        ParameterError
            When a stage does not fit the target, or the stages' order is wrong.
        SchemaError
            When the rows lack a column.
        DataError
            When a label is missing or was not seen in training, rows have one class only, or there are too few of them.

        Examples
        --------
        See `rayline.postprocess.Conformal` for a complete one.

        >>> from rayline.postprocess import Calibrate, Conformal
        >>> pipeline = pipeline.calibrated([Calibrate("isotonic"), Conformal(coverage=0.9)], kept_aside)  # doctest: +SKIP
        """
        return InferencePipeline(
            self._preprocessor, self.model, calibration.calibrated(self, stages, calibration_set, sample_weight)
        )

    # -- files -----------------------------------------------------------------------------------------------------

    def save(self, path: str | Path, *, directory: bool = False, sign_with: Any = None) -> None:
        """Write one file (or a new directory) that `rayline.load` reads, atomically: an interrupted save leaves the old file.

        `sign_with` is a private Ed25519 key. Raises ArtifactError when a stage contains a custom function, the directory
        exists, or writing fails.
        """
        write_artifact(self, path, directory=directory, sign_with=sign_with)


def _is_row(value: Any) -> bool:
    return isinstance(value, dict)


def as_pipeline(model: Any) -> InferencePipeline:
    """Return an inference pipeline for a pipeline, a Model, or a framework's own object."""
    if isinstance(model, InferencePipeline):
        return model
    return InferencePipeline(None, model if isinstance(model, Model) else Model.of_native(model))

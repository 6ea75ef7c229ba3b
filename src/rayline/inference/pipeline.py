"""The inference pipeline: raw rows in, decoded predictions out. Batch inference and serving use this one path.

`Preprocessor` is defined here too, because `Preprocessor.chain` returns an `InferencePipeline`, which holds one.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, overload

from rayline.core import design, registry, storage
from rayline.core.arguments import column_names, known_arguments
from rayline.core.data_types import Data, DataT, NativeModel, SigningKey
from rayline.core.engine import Placement
from rayline.core.errors import ParameterError, at, shorten
from rayline.core.files import checked_path
from rayline.core.operations.base import Row
from rayline.device import UseGPU
from rayline.inference import calibration
from rayline.inference.artifact_members import write_artifact
from rayline.inference.batch import BatchPredictor, OnError, WithInterval, write_predictions
from rayline.inference.evaluated_scorer import EvaluatedScorer
from rayline.inference.model import Model
from rayline.inference.svg_plots import number
from rayline.postprocess.base import PostprocessingStage
from rayline.preprocessing.preprocessor import BasePreprocessor

MAX_ROW_PATH_ROWS = 4
"""Lists of at most this many rows are predicted row by row with the compiled row functions; longer ones as a table."""


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

    Raises
    ------
    ParameterError
        When the stages are no list of pairs of a name and a stage, or a name occurs twice.

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

    def chain(self, model: Model | NativeModel) -> InferencePipeline:
        """Return this fitted preprocessor and a model as one inference pipeline.

        Parameters
        ----------
        model
            A Model, or a framework's own object (a Booster, a module, an estimator).

        Returns
        -------
        InferencePipeline
            It holds a copy of this preprocessor: a later fit does not change it.

        Raises
        ------
        NotFittedError
            When this preprocessor is not fitted.
        ParameterError
            When the model is an inference pipeline already, or an object of no known framework.
        SchemaError
            When the model needs a column that this preprocessor does not return.
        """
        with at("Preprocessor.chain"):
            self._require_fitted()
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
class InferencePipeline(EvaluatedScorer[Preprocessor]):
    """A fitted preprocessor, a model, and stages after the model.

    Parameters
    ----------
    preprocessor
        A fitted preprocessor, or None when the model takes raw rows.
    model
        A `Model`; `preprocessor.chain` builds one from a framework's own object.
    postprocessing
        Fitted stages of `rayline.postprocess`; `calibrated` learns them.

    Raises
    ------
    ParameterError
        When an argument has another type.

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

    def _repr_html_(self) -> str:
        model, target = self.model, self.model.target
        task = f"classes {shorten(map(str, target.classes[0]))}" if target.classes else "regression"
        rows = [("model", repr(model), f"{', '.join(target.columns)}: {task}")]
        rows += [("then", repr(stage), "") for stage in self.postprocessing]
        metrics = design.html_table(
            ["metric", "value"], [[n, number(v, 5)] for n, v in model.metrics.items()], numbers=[1]
        )
        before = "" if self.preprocessor is None else self.preprocessor._repr_html_()
        about = f"<p><b>InferencePipeline</b> {html.escape(', '.join(self.input_schema))} → {html.escape(', '.join(self.output_schema))}</p>"
        return f"{about}{before}{design.boxes(rows)}{metrics if model.metrics else ''}"

    # -- predictions -----------------------------------------------------------------------------------------------

    @overload
    def predict(
        self, rows: Sequence[Mapping[str, Any]], *, interval: WithInterval = ..., use_gpu: UseGPU | None = ...
    ) -> list[dict[str, Any]]: ...
    @overload
    def predict(self, rows: DataT, *, interval: WithInterval = ..., use_gpu: UseGPU | None = ...) -> DataT: ...
    def predict(self, rows: Data, *, interval: WithInterval = False, use_gpu: UseGPU | None = None) -> Any:
        """Return decoded predictions for raw rows.

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

        Returns
        -------
        table, Dataset or list
            The type of the input, a row for each row: `prediction` in the type of the labels, of several targets
            `prediction_<target>`, and the columns of `interval`. A Dataset stays lazy.

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
        with at("InferencePipeline.predict"):
            pipeline, n_gpus = self.placed_for(rows, use_gpu, None)
        return pipeline._predict(rows, n_gpus, interval=interval)

    def _predict(self, rows: Any, n_gpus: float | None, *, interval: WithInterval) -> Any:
        if self._takes_rows(rows) and not (interval and not self.has_intervals):
            if interval:
                return [self._row_with_interval(row) for row in rows]
            return [self.target.row_prediction(self.row_scores(row)) for row in rows]
        predict = BatchPredictor(self, interval=interval)
        return registry.engine_for(rows).map(rows, predict, Placement(num_gpus=n_gpus))

    def _row_with_interval(self, row: Row) -> Row:
        outcome = self.row_outcome(row)
        return {**self.target.row_prediction(outcome.scores), **outcome.intervals()}

    @overload
    def predict_proba(
        self, rows: Sequence[Mapping[str, Any]], *, use_gpu: UseGPU | None = ...
    ) -> list[dict[str, Any]]: ...
    @overload
    def predict_proba(self, rows: DataT, *, use_gpu: UseGPU | None = ...) -> DataT: ...
    def predict_proba(self, rows: Data, *, use_gpu: UseGPU | None = None) -> Any:
        """Return probabilities for raw rows, one column for each class.

        Parameters
        ----------
        rows
            As in `predict`, nulls too.
        use_gpu
            As in `predict`.

        Returns
        -------
        table, Dataset or list
            The type of the input: columns `probability_<class>` (Float64, from 0 to 1), of several targets
            `probability_<target>_<class>`.

        Raises
        ------
        ParameterError
            For a regression, and for a model without probabilities.
        SchemaError, DataError, ResourceError
            As `predict`.
        """
        with at("InferencePipeline.predict_proba"):
            pipeline, n_gpus = self.placed_for(rows, use_gpu, None)
        return pipeline._predict_proba(rows, n_gpus)

    def _predict_proba(self, rows: Any, n_gpus: float | None) -> Any:
        if self._takes_rows(rows):
            return [self.target.row_probabilities(self.row_scores(row)) for row in rows]
        predict = BatchPredictor(self, labels=False, proba=True)
        return registry.engine_for(rows).map(rows, predict, Placement(num_gpus=n_gpus))

    def transform(
        self,
        data: DataT,
        *,
        keep_columns: Sequence[str] | None = None,
        proba: bool = False,
        interval: WithInterval = False,
        on_error: OnError = "raise",
        batch_size: int | None = None,
        use_gpu: UseGPU | None = None,
        num_cpus: float | None = None,
        num_gpus: float | None = None,
        concurrency: int | None = None,
    ) -> DataT:
        """Return the data with added columns of predictions.

        The number of rows and their order inside a block are kept. Each worker loads the model once.

        Parameters
        ----------
        data
            A table or a ray.data.Dataset of raw rows; nulls as in `predict`.
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

        Returns
        -------
        table or Dataset
            The type of the input: `keep_columns`, then those of `predict` and `predict_proba`. A Dataset stays lazy.

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
        with at("InferencePipeline.transform"):
            keep = None if keep_columns is None else column_names("keep_columns", keep_columns)
            Placement(batch_size, num_cpus, num_gpus, concurrency)  # checked before a model is moved
            pipeline, n_gpus = self.placed_for(data, use_gpu, num_gpus)
            placement = Placement(batch_size, num_cpus, n_gpus, concurrency)
        predict = BatchPredictor(pipeline, proba=proba, interval=interval, keep=keep, on_error=on_error)
        predicted: DataT = registry.engine_for(data).map(data, predict, placement)
        return predicted

    def write_predictions(
        self,
        data: Data,
        path: str | Path,
        *,
        resume: bool = False,
        rows_per_file: int = 1_000_000,
        keep_columns: Sequence[str] | None = None,
        proba: bool = False,
        interval: WithInterval = False,
        on_error: OnError = "raise",
        use_gpu: UseGPU | None = None,
        num_cpus: float | None = None,
        num_gpus: float | None = None,
    ) -> int:
        """Write the data with its predictions to Parquet files, each row exactly once.

        The rows are numbered in the order of the data; file k holds the rows from k × `rows_per_file` on and appears whole or
        not at all.

        Parameters
        ----------
        data
            Raw rows, nulls as in `predict`: a table or a ray.data.Dataset (then Ray predicts and writes; the order of its rows
            must be the same in every run, as it is for files).
        path
            A directory, or the URI of one (s3://…, gs://…).
        resume
            Whether to continue an interrupted run: existing files are not written again. Otherwise the directory must contain
            no files of an earlier run.
        rows_per_file
            The number of rows in each file; the same in a run and its resumption.
        keep_columns, proba, interval, on_error, use_gpu, num_cpus, num_gpus
            As in `transform`.

        Returns
        -------
        int
            The number of rows in all the files.

        Raises
        ------
        DataError
            When the directory contains files and `resume` is False, or they were written with another `rows_per_file`, pipeline
            or options; and as `transform`.
        ParameterError, ResourceError, SchemaError
            As `transform`.
        """
        with at("InferencePipeline.write_predictions"):
            checked_path(path)
            keep = None if keep_columns is None else column_names("keep_columns", keep_columns)
        how = {"keep": keep, "proba": proba, "on_error": on_error, **({"interval": True} if interval else {})}
        with at("InferencePipeline.write_predictions"):
            pipeline, n_gpus = self.placed_for(data, use_gpu, num_gpus)
        placement = Placement(num_cpus=num_cpus, num_gpus=n_gpus)
        return write_predictions(
            pipeline,
            data,
            storage.located(path),
            rows_per_file=rows_per_file,
            resume=resume,
            placement=placement,
            **how,
        )

    def placed_for(
        self, data: Data, use_gpu: UseGPU | None, num_gpus: float | None
    ) -> tuple[InferencePipeline, float | None]:
        """Return the pipeline whose model predicts this data where `use_gpu` says.

        Parameters
        ----------
        data, use_gpu, num_gpus
            As in `Model.placed_for`; only the type of the data matters.

        Returns
        -------
        tuple
            The pipeline, and the GPUs of each worker on Ray (None where no worker holds one).

        Raises
        ------
        ParameterError, ResourceError
            As `Model.placed_for`.
        """
        if use_gpu is None and num_gpus is None and self.model.use_gpu is None:
            return self, None
        if num_gpus and not registry.is_dataset(data):
            return self, num_gpus  # refused by the engine of tables
        model, n_gpus = self.model.placed_for(data, use_gpu, num_gpus)
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
        self,
        stages: Sequence[PostprocessingStage],
        calibration_set: Data | None = None,
        *,
        sample_weight: str | None = None,
    ) -> InferencePipeline:
        """Return this pipeline with stages after the model, learned from rows that the model was not trained on.

        One scan scores the rows. Each stage learns from the answers of those before it. Up to 262,144 different scored rows
        all count; of more, a sample by their hash does. An existing stage of a class that is among the new ones is replaced.

        Parameters
        ----------
        stages
            Stages of `rayline.postprocess`, in the order in which they are applied.
        calibration_set
            Rows with the target columns, in which no label may be null: a table or a ray.data.Dataset, which stays where it is. None where no stage learns
            anything (Clip, Round, a Threshold that is given as a number).
        sample_weight
            The column of the rows' weights, positive numbers.

        Returns
        -------
        InferencePipeline
            A new one with the same preprocessor and model; this one does not change.

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

    def save(self, path: str | Path, *, directory: bool = False, sign_with: SigningKey | None = None) -> None:
        """Write an artifact that `rayline.load` reads, atomically: an interrupted save leaves the old file.

        Parameters
        ----------
        path
            The file, or a URL (s3://…, gs://…).
        directory
            Whether to write a new directory instead of one file.
        sign_with
            A private Ed25519 key (an object of `cryptography`, PEM bytes, or the path of a PEM file).

        Raises
        ------
        ArtifactError
            When a stage contains a custom function, the directory exists, or writing fails.
        MissingExtraError
            With `sign_with`, when `cryptography` is not installed.
        """
        write_artifact(self, path, directory=directory, sign_with=sign_with)


def _is_row(value: Any) -> bool:
    return isinstance(value, dict)


ModelLike: TypeAlias = InferencePipeline | Model | NativeModel
"""What predicts: a pipeline, a model, or a framework's own object."""


def as_pipeline(model: ModelLike) -> InferencePipeline:
    """Return an inference pipeline for a pipeline, a Model, or a framework's own object."""
    if isinstance(model, InferencePipeline):
        return model
    if isinstance(model, (str, Path)):
        raise ParameterError(
            f"{str(model)!r} is a path, not a pipeline.",
            "Expected an inference pipeline, a model, or a framework's own object.",
            f"load it first: rayline.load({str(model)!r}).",
        )
    if isinstance(model, BasePreprocessor):
        raise ParameterError(
            "A preprocessor predicts nothing.",
            "Expected an inference pipeline, a model, or a framework's own object.",
            "preprocessor.chain(model) returns a pipeline.",
        )
    return InferencePipeline(None, model if isinstance(model, Model) else Model.of_native(model))

"""MLflow: log a pipeline as an MLflow model, and load it through `mlflow.pyfunc` without pickle.

MLflow stores Rayline's artifact (one file) and the name of this module, which loads it. So `mlflow models serve`,
model registries and Spark UDFs work, and loading the model runs no code from the file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import polars as pl

from rayline.core import scratch
from rayline.core.arguments import known_arguments
from rayline.core.errors import ArtifactError, needing
from rayline.core.schema import Kind, kind_of
from rayline.inference.artifact import load
from rayline.inference.pipeline import InferencePipeline, ModelLike, as_pipeline

with needing("rayline.mlflow", "mlflow-skinny", "mlflow"):
    import mlflow
    from mlflow.types.schema import ColSpec, DataType, Schema

FILE = "pipeline.rayline"
TRUSTED_TYPES = "RAYLINE_TRUSTED_TYPES"


@known_arguments
def log_model(model: ModelLike, name: str = "model", **options: Any) -> Any:
    """Log a pipeline (or a model, or a framework's own object) to the active run.

    Parameters
    ----------
    model
        The pipeline, model or framework's own object to log.
    name
        The name of the model in the run.
    options
        Passed to `mlflow.pyfunc.log_model`: registered_model_name, metadata, ….

    Returns
    -------
    mlflow.models.model.ModelInfo
        Its `model_uri` loads it again.

    Examples
    --------
    >>> import mlflow
    >>> from rayline.mlflow import log_model
    >>> with mlflow.start_run():  # doctest: +SKIP
    ...     info = log_model(result.inference_pipeline, "late")
    >>> mlflow.pyfunc.load_model(info.model_uri).predict(table)  # doctest: +SKIP
    """
    pipeline = as_pipeline(model)
    with scratch.folder("model") as folder:
        pipeline.save(folder / FILE)
        if mlflow.active_run() is not None and pipeline.model.metrics:
            mlflow.log_metrics(pipeline.model.metrics)
        return mlflow.pyfunc.log_model(
            name=name,
            loader_module="rayline.mlflow",
            data_path=str(folder / FILE),
            signature=signature(pipeline),
            pip_requirements=options.pop("pip_requirements", ["rayline"]),
            **options,
        )


@known_arguments
def load_model(model_uri: str, **options: Any) -> InferencePipeline:
    """Load the pipeline of an MLflow URI, like `rayline.load`.

    Parameters
    ----------
    model_uri
        A URI that MLflow resolves, such as "runs:/<id>/model" or "models:/late/1".
    options
        As for `rayline.load`: `trusted=["my_package.Estimator"]`, `module=Net`, `trusted_keys=[…]`.

    Returns
    -------
    InferencePipeline
        The logged pipeline, with the checks of `rayline.load`.

    Raises
    ------
    ArtifactError
        As `rayline.load`, and when the URI names no model that `log_model` wrote.

    Examples
    --------
    >>> from rayline.mlflow import load_model
    >>> pipeline = load_model("models:/late/1")  # doctest: +SKIP
    """
    folder = Path(mlflow.artifacts.download_artifacts(model_uri))
    path = next(folder.rglob(FILE), None)
    if path is None:
        raise ArtifactError(
            f"load_model: {model_uri} holds no pipeline of Rayline.",
            f"Expected a model that rayline.mlflow.log_model wrote, with the file {FILE}.",
            "load models of other libraries with mlflow.pyfunc.load_model, or use preprocessor.chain(model).",
        )
    return load(path, **options)


def signature(pipeline: InferencePipeline) -> mlflow.models.ModelSignature:
    """Return the input and output columns as an MLflow signature; every input may be missing."""
    inputs = Schema([ColSpec(_type(dtype), name, required=False) for name, dtype in pipeline.input_schema.items()])
    outputs = Schema([ColSpec(_type(dtype), name) for name, dtype in pipeline.output_schema.items()])
    return mlflow.models.ModelSignature(inputs=inputs, outputs=outputs)


def _type(dtype: pl.DataType) -> DataType:
    if dtype.is_integer():
        return DataType.long
    kinds = {Kind.NUMERIC: DataType.double, Kind.BOOLEAN: DataType.boolean, Kind.DATETIME: DataType.datetime}
    return kinds.get(kind_of(dtype), DataType.string)


class _Predictor:
    """The interface that `mlflow.pyfunc` requires: a pandas table in, a pandas table out."""

    def __init__(self, pipeline: InferencePipeline) -> None:
        self.pipeline = pipeline

    def predict(self, table: Any, params: dict[str, Any] | None = None) -> Any:
        return self.pipeline.predict(table)


def _load_pyfunc(path: str) -> _Predictor:
    """Load the model for MLflow; `path` is the artifact or the folder that contains it. MLflow passes no further arguments, so the
    environment variable RAYLINE_TRUSTED_TYPES lists types (separated by commas) that an estimator may contain beyond the reviewed ones."""
    place = Path(path)
    named = [name.strip() for name in os.environ.get(TRUSTED_TYPES, "").split(",") if name.strip()]
    options: dict[str, Any] = {"trusted": named} if named else {}
    return _Predictor(load(place / FILE if place.is_dir() else place, **options))

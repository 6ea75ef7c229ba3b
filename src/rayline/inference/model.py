"""The model: a trained model of any framework, with one `predict`."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline import device
from rayline.core import registry, scratch
from rayline.core.abilities import FeatureContributions
from rayline.core.arguments import known_arguments
from rayline.core.data_types import Data, DataT, NativeModel
from rayline.core.engine import Placement
from rayline.core.errors import (
    ParameterError,
    PredictionError,
    RaylineError,
    ResourceError,
    at,
    counted,
    first_line,
    shorten,
)
from rayline.core.features import Features
from rayline.core.framework import Framework, ModelInfo
from rayline.core.operations.base import Row
from rayline.core.schema import col
from rayline.core.scores import numbers
from rayline.core.target import Target, Task
from rayline.device import UseGPU
from rayline.inference.svg_plots import number
from rayline.preprocessing.schema_check import SchemaCheck

Scores = npt.NDArray[Any]


@known_arguments
class Model:
    """A trained model: the framework's own object, its features, and the target that it predicts.

    Usually made by `train.fit` (`result.model`) or by `preprocessor.chain(booster)`.

    Parameters
    ----------
    framework
        The id of the framework.
    native
        The framework's own object.
    schema
        Names and types of the features, in the model's order; Enum columns hold the training categories, and others are null.
    target
        Names, task and classes of what is predicted.
    metrics
        Its metrics, by name.
    examples
        A few raw rows of the training data, for documentation and for the golden check of a saved pipeline.
    data
        The number of training rows and their fingerprint, which is the same for the same rows in any order.

    Raises
    ------
    ParameterError
        When the schema, the metrics or the data are no dict.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline import train
    >>> table = pl.DataFrame({"x": [0.0, 1.0, 2.0, 3.0] * 25, "late": ["no", "no", "yes", "yes"] * 25})
    >>> trainer = train.XGBoostTrainer({"max_depth": 2}, num_boost_round=3, seed=1)
    >>> result = train.fit(trainer, train_dataset=table, target_columns=["late"], verbose=False)
    >>> result.model.classes
    ['no', 'yes']
    """

    def __init__(
        self,
        framework: str,
        native: NativeModel,
        schema: Mapping[str, pl.DataType],
        target: Target,
        *,
        metrics: Mapping[str, float] | None = None,
        examples: pl.DataFrame | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        self.framework, self.native, self.target = framework, native, target
        try:
            self.schema = pl.Schema(schema)
        except TypeError as error:
            raise ParameterError.value("schema", "Polars types by feature", schema, where="Model") from error
        self.metrics = dict(metrics or {})
        self.examples, self.data = examples, dict(data or {})
        self.use_gpu: UseGPU | None = None
        self._holds_gpu = False  # whether it goes to workers that were asked for with GPUs
        self._natives: dict[device.Device, Any] = {}  # on GPUs, shared with what `on_gpu` returns
        self._conform = SchemaCheck(self.schema, "Model.predict")

    @property
    def adapter(self) -> Framework:
        """The framework's adapter."""
        adapter = registry.framework(self.framework)
        assert isinstance(adapter, Framework)
        return adapter

    @property
    def feature_names(self) -> list[str]:
        """The features in the order of the model."""
        return list(self.schema)

    @property
    def classes(self) -> list[Any]:
        """The classes, in the order of the columns of `predict_proba`; one list for each target when there are several.

        Empty for a regression.
        """
        if len(self.target.columns) == 1:
            return list(self.target.classes[0]) if self.target.classes else []
        return [list(c) for c in self.target.classes]

    def predict(self, rows: DataT, *, use_gpu: UseGPU | None = None) -> DataT:
        """Return predictions for preprocessed rows.

        Parameters
        ----------
        rows
            A table or a ray.data.Dataset of preprocessed rows. Nulls go to the library, which may refuse them.
        use_gpu
            As in `InferencePipeline.predict`.

        Returns
        -------
        table or Dataset
            The type of the input, a row for each row: `prediction`, of several targets `prediction_<target>`.

        Raises
        ------
        SchemaError
            When a feature is missing or of a wrong type.
        PredictionError
            When the library fails on the rows; its own error is the cause.
        ParameterError, ResourceError
            With `use_gpu=True`, as `on_gpu`.
        """
        with at("Model.predict"):
            model, n_gpus = self.placed_for(rows, use_gpu, None)
        predictions: DataT = registry.engine_for(rows).map(rows, model._predictions, _on_gpus(n_gpus))
        return predictions

    def predict_proba(self, rows: DataT, *, use_gpu: UseGPU | None = None) -> DataT:
        """Return probabilities for preprocessed rows, one column for each class.

        Parameters
        ----------
        rows, use_gpu
            As in `predict`, nulls too.

        Returns
        -------
        table or Dataset
            The type of the input, a row for each row: columns `probability_<class>` (Float64), in the order of `classes`.

        Raises
        ------
        ParameterError
            For a model without probabilities; with `use_gpu=True`, as `on_gpu`.
        SchemaError, PredictionError, ResourceError
            As `predict`.
        """
        with at("Model.predict_proba"):
            model, n_gpus = self.placed_for(rows, use_gpu, None)
        probabilities: DataT = registry.engine_for(rows).map(rows, model._probabilities, _on_gpus(n_gpus))
        return probabilities

    # -- where it predicts -----------------------------------------------------------------------------------------

    @at("Model.on_gpu")
    def on_gpu(self, use_gpu: UseGPU | None = True) -> Model:
        """Return this model with its predictions computed there. The native model is placed when it is first used, once for each
        device.

        Parameters
        ----------
        use_gpu
            True for a GPU, False for the CPU, "auto" for a GPU where there is one, None for the GPU that Ray assigned to the
            process, if any.

        Returns
        -------
        Model
            This object when it computes there already. The native model is shared.

        Raises
        ------
        ParameterError
            With `use_gpu=True`, when models of this framework, or this one, predict on the CPU only.
        ResourceError
            With `use_gpu=True`, when the framework's library was built without support for GPUs.
        """
        device.check(use_gpu)
        if use_gpu is self.use_gpu or (use_gpu == "auto" == self.use_gpu):
            return self
        if use_gpu is True:
            self.require_gpu()
        return self._with(use_gpu=use_gpu, holds_gpu=False)

    def _with(self, *, use_gpu: UseGPU | None, holds_gpu: bool) -> Model:
        other = object.__new__(type(self))  # copy.copy would write the native model to files, as pickle does
        other.__dict__.update({k: v for k, v in self.__dict__.items() if k not in ("_placed", "_single_row_view")})
        other.use_gpu, other._holds_gpu = use_gpu, holds_gpu
        return other

    def placed_for(self, data: Data, use_gpu: UseGPU | None, num_gpus: float | None) -> tuple[Model, float | None]:
        """Return the model that predicts this data where `use_gpu` says, and the GPUs of each worker on Ray.

        A table is predicted in this process: the model is placed now. A Dataset is predicted by workers, which have their own
        GPUs: this process looks for none.

        Parameters
        ----------
        data
            The rows to predict; only the type of the table is used.
        use_gpu
            As in `on_gpu`; None for what the model itself prefers.
        num_gpus
            The GPUs of each worker on Ray, a fraction too; alone it counts as `use_gpu=True`.

        Returns
        -------
        tuple
            The model, and the GPUs of each worker (None for workers without).

        Raises
        ------
        ParameterError
            On `num_gpus` with `use_gpu=False`, and as `on_gpu`.
        ResourceError
            As `on_gpu`, and when a table is to be predicted on a GPU and this process has none.
        """
        device.check(use_gpu)
        if num_gpus and use_gpu is False:
            raise ParameterError.here(
                f"num_gpus={num_gpus:g} with use_gpu=False.", "Expected one of them.", "leave one out."
            )
        wish = use_gpu if use_gpu is not None else True if num_gpus else self.use_gpu
        on_ray = registry.is_dataset(data)
        if wish == "auto" and on_ray:
            wish = not self.without_gpu() and registry.engine("ray").n_gpus() > 0
        if not wish:
            return (self if use_gpu is None else self.on_gpu(wish)), None
        if wish is True and self.use_gpu is not True:
            self.require_gpu()
        if on_ray:
            return self._with(use_gpu=True, holds_gpu=True), num_gpus or 1.0
        model = self.on_gpu(wish)
        model.place()
        return model, None

    def without_gpu(self) -> str:
        """Return why predictions of this model cannot be computed on a GPU with what is installed.

        Returns
        -------
        str
            Part of an error message; empty when they can.
        """
        adapter = self.adapter
        if not adapter.predicts_on_gpu:
            return f"models of {self.framework} predict on the CPU only"
        return adapter.predicts_on_cpu(self.native) or ("" if device.is_pretended() else adapter.without_gpu())

    def require_gpu(self) -> None:
        """Raise an error when predictions of this model cannot be computed on a GPU. Does not look for one.

        Raises
        ------
        ParameterError
            When models of the framework, or this one, predict on the CPU only.
        ResourceError
            When the framework's library was built without support for GPUs.
        """
        reason = self.without_gpu()
        if reason:
            builds = self.adapter.predicts_on_gpu and not self.adapter.predicts_on_cpu(self.native)
            kind = ResourceError if builds else ParameterError
            raise kind.here(
                f"a GPU is requested, but the model cannot use it: {reason}.",
                "Expected a model that predicts on a GPU (XGBoost, CatBoost, PyTorch, Hugging Face, RLlib; not LightGBM, scikit-learn).",
                "leave use_gpu and num_gpus out (a custom framework sets predicts_on_gpu = True).",
            )

    def place(self) -> None:
        """Put the native model where `use_gpu` says, unless it is there.

        Raises
        ------
        ResourceError
            When there is no such GPU.
        """
        with _PLACING:
            if "_placed" in self.__dict__:
                return
            there = device.CPU
            if self.use_gpu or (self.use_gpu is None and device.is_assigned()):
                can = self.use_gpu is True or not self.without_gpu()
                there = device.select_device(self.use_gpu if can else False)
            if there.is_gpu and there not in self._natives:
                self._natives[there] = self.adapter.place(self.native, there)
            self.__dict__["_placed"] = self._natives[there] if there.is_gpu else self.native

    @property
    def is_on_gpu(self) -> bool:
        """Whether predictions of this model are computed on a GPU; False before it is placed."""
        return self.__dict__.get("_placed", self.native) is not self.native

    @cached_property
    def _placed(self) -> Any:
        self.place()
        return self.__dict__["_placed"]

    def scores(self, table: pl.LazyFrame) -> Scores:
        """Return the framework's scores for preprocessed rows.

        Parameters
        ----------
        table
            Preprocessed rows; nulls go to the library.

        Returns
        -------
        ndarray
            Shape (n,) or (n, outputs), see `Framework.predict`.

        Raises
        ------
        SchemaError
            When a feature is missing or of a wrong type.
        PredictionError
            When the library fails, or returns scores of another shape.
        """
        frame = self._conform(table).select(map(col, self.schema)).collect()
        if not frame.height:
            return np.empty((0, self.target.n_outputs) if self.target.n_outputs > 1 else 0)
        return self._answer(self._placed, Features(frame, schema=self.schema))

    def contributions(self, table: pl.LazyFrame) -> FeatureContributions | None:
        """Return what each feature adds to the model's raw score of each row.

        Parameters
        ----------
        table
            At least one preprocessed row; nulls go to the library.

        Returns
        -------
        FeatureContributions or None
            Values of shape (n, outputs, columns) and a base of shape (outputs,); None when the framework cannot tell.

        Raises
        ------
        SchemaError
            When a feature is missing or of a wrong type.
        """
        frame = self._conform(table).select(map(col, self.schema)).collect()
        return self.adapter.contributions(self.native, Features(frame, schema=self.schema))

    def members(self, table: pl.LazyFrame) -> Scores | None:
        """Return the values of the members of an ensemble for preprocessed rows.

        Parameters
        ----------
        table
            Preprocessed rows; nulls go to the library.

        Returns
        -------
        ndarray or None
            Shape (n, members, targets); None for a model that is no mean of several.

        Raises
        ------
        SchemaError
            When a feature is missing or of a wrong type.
        """
        frame = self._conform(table).select(map(col, self.schema)).collect()
        return self.adapter.members(self.native, Features(frame, schema=self.schema), self.target)

    def row_scores(self, *rows: Row) -> Scores:
        """Return the scores of a few preprocessed rows, without building a table.

        Parameters
        ----------
        rows
            Dicts with the features, None for a missing value. A category that the training did not have becomes None in them.

        Returns
        -------
        ndarray
            Shape (n,) or (n, outputs), as `scores`.

        Raises
        ------
        PredictionError
            When the library fails, or returns scores of another shape.
        """
        for name, categories in self._categories.items():
            for row in rows:
                if row[name] not in categories:
                    row[name] = None
        return self._answer(self._single_row_view, self._features.of_rows(rows))

    def _answer(self, native: Any, features: Features) -> Scores:
        try:
            scores = self.adapter.scores(native, features, self.target)
            self._refuse_other_shape(scores, features.n_rows)
            return scores
        except RaylineError:
            raise
        except Exception as error:  # whatever the library raises about these rows
            raise PredictionError(
                f"Model.predict: {self.framework} cannot predict: {type(error).__name__}: {first_line(error)}.",
                f"Expected rows as in training, with the features {shorten(self.schema)}.",
                "the error above was raised by the library.",
            ) from error

    def _refuse_other_shape(self, scores: Scores, n_rows: int) -> None:
        """Raise ValueError when these are not scores of this target (see `Framework.predict`)."""
        codes = 0 if scores.dtype.names is None else len(self.target.columns)
        if len(scores) != n_rows or (n_rows and numbers(scores).size / n_rows - codes not in self._widths):
            raise ValueError(f"it gave scores of shape {scores.shape} for {n_rows} rows")

    @cached_property
    def _widths(self) -> frozenset[int]:
        """Return the allowed numbers of scores of a row: one for each target, for each class, or for both classes."""
        binary = {2} if self.target.task is Task.BINARY and len(self.target.columns) == 1 else set()
        n_values = len(self.target.value_names)
        return frozenset({self.target.n_outputs, n_values, *binary})

    @cached_property
    def _single_row_view(self) -> Any:
        return self.adapter.single_row_view(self._placed)

    @cached_property
    def _features(self) -> Features:
        return Features(schema=self.schema)

    def _predictions(self, table: pl.LazyFrame) -> pl.LazyFrame:
        return self.target.predictions(self.scores(table)).lazy()

    def _probabilities(self, table: pl.LazyFrame) -> pl.LazyFrame:
        return self.target.probabilities(self.scores(table)).lazy()

    @cached_property
    def _categories(self) -> dict[str, frozenset[str]]:
        return {n: frozenset(d.categories.to_list()) for n, d in self.schema.items() if isinstance(d, pl.Enum)}

    def importance(self) -> dict[str, float] | None:
        """Return the importance of each feature by the framework's own measure.

        Returns
        -------
        dict or None
            By feature; None when the framework provides none.
        """
        return self.adapter.importance(self.native, self.feature_names)

    def __repr__(self) -> str:
        metrics = ", ".join(
            f"{name}{self.target.of_class(name)}={number(value)}" for name, value in self.metrics.items()
        )
        return f"Model({self.framework}, {self.target.task} of {list(self.target.columns)}, {counted(len(self.schema), 'feature')}{', ' + metrics if metrics else ''})"

    # Models travel to workers through the framework's own files, so that every framework can be sent.

    def __getstate__(self) -> dict[str, Any]:
        state = {k: v for k, v in self.__dict__.items() if k not in ("native", *_COMPUTED)}
        if not self._holds_gpu:
            state["use_gpu"] = (
                None  # what this process prefers; another one uses the GPU that Ray assigns to it, if any
            )
        state["files"] = pack(self.adapter, self.native)
        state["load_options"] = self.adapter.load_options(self.native)
        state["adapter_class"] = registry.runtime_class(self.framework)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        files, options, adapter = state.pop("files"), state.pop("load_options"), state.pop("adapter_class")
        if adapter is not None:
            registry.register_framework(adapter)
        self.__dict__.update(state)
        self._natives = {}
        self.native = unpack(self.adapter, files, options)

    @classmethod
    def of_native(
        cls, native: Any, *, preprocessed: Mapping[str, pl.DataType] | None = None, target: Target | None = None
    ) -> Self:
        """Wrap a framework's own object as a Model.

        Parameters
        ----------
        native
            A Booster, a Module, an estimator, ….
        preprocessed
            The columns that a preprocessor gives; None when raw features come in (then the model names them).
        target
            The target, when a preprocessor remembers it.

        Returns
        -------
        Model
            It holds the object itself, not a copy.

        Raises
        ------
        ParameterError
            When no framework knows the object, or its features are not known.
        """
        name = registry.owner(native)
        if name is None:
            raise ParameterError(
                f"A {type(native).__module__}.{type(native).__name__} is not a model that Rayline knows.",
                f"Expected a rayline.Model or a model of one of {registry.frameworks()}.",
                "register its framework (register_framework), with `owns` recognising this type.",
            )
        about: ModelInfo = registry.framework(name).inspect(native)
        features = about.features
        names = list(features or about.feature_names or ()) or None
        if preprocessed is not None:
            schema = dict(preprocessed) if names is None else {n: preprocessed.get(n, pl.Float64()) for n in names}
        elif names is not None:
            schema = dict(features) if features is not None else {n: pl.Float64() for n in names}
        else:
            raise ParameterError(
                f"This {type(native).__name__} does not name its features.",
                "Expected a model trained with feature names, or a preprocessor before it.",
                "use preprocessor.chain(model).",
            )
        if target is not None and target.task.is_classification and registry.framework(name).predicts_margins(native):
            own_outputs = about.n_classes if about.n_classes > 2 else about.n_targets
            if target.n_outputs == own_outputs:  # it cannot say itself that it is a classifier
                return cls(name, native, schema, target)
        if target is None or (target.task, target.n_outputs) != (
            about.task,
            about.n_classes if about.n_classes > 2 else about.n_targets,
        ):
            target = about.target or Target.unnamed(about.task, about.n_classes, about.n_targets)
        elif about.target is not None and about.target.classes != target.classes:
            target = replace(about.target, columns=target.columns)  # the model's labels are in an order of its own
        return cls(name, native, schema, target)


_COMPUTED = ("_categories", "_features", "_single_row_view", "_widths", "_placed", "_natives")
"""Attributes that are computed from the others, and do not travel."""

_PLACING = threading.RLock()
"""Held while a model is placed: two threads that predict at the same time must not place it twice. Members of an ensemble are
placed inside of it."""


def _on_gpus(n_gpus: float | None) -> Placement | None:
    return None if n_gpus is None else Placement(num_gpus=n_gpus)


def pack(adapter: Framework, native: Any) -> dict[str, bytes]:
    """Return the files that the framework writes for a model, by relative path."""
    with scratch.folder("model") as folder:
        root = folder
        adapter.save(native, root)
        return files_in(root)


def unpack(adapter: Framework, files: Mapping[str, bytes], options: Mapping[str, Any] | None = None) -> Any:
    """Read a model from such files, whose names must have been checked. Raises the errors of `read`."""
    with scratch.folder("model") as folder:
        root = folder
        write_files(root, files)
        return read_model(adapter, root, options)


def files_in(directory: Path) -> dict[str, bytes]:
    """Return the files below a directory, by relative path."""
    paths = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in paths}


def write_files(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write files by relative path below a directory; the names must have been checked."""
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)


def read_model(adapter: Framework, directory: Path, options: Mapping[str, Any] | None = None) -> Any:
    """Read a model from the files in a directory, with the framework's own arguments of `load`.

    Raises ParameterError when the framework knows no such argument.
    """
    check_options(adapter, options)
    return adapter.load(directory, **(options or {}))


def check_options(adapter: Framework, options: Mapping[str, Any] | None) -> None:
    """Raise ParameterError when a framework's `load` does not accept these arguments."""
    try:
        inspect.signature(adapter.load).bind(Path(), **(options or {}))
    except TypeError as error:
        allowed = list(inspect.signature(adapter.load).parameters)[1:]
        raise ParameterError.unknown(options or {}, allowed, where=f"load ({adapter.name})") from error

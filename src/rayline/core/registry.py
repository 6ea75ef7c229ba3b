"""The registry of stages, frameworks and engines, by the id that saved JSON uses.

Each entry is an id and the location of its class, which is imported on first use. A custom stage or framework is
registered by `register_stage` / `register_framework` (as a decorator or a call), or by an entry point in the group
`rayline.stages` / `rayline.frameworks`. Ids in a file are only looked up here: no name from a file is ever imported.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
from collections.abc import Callable
from typing import Any, TypeVar

from rayline.core.arguments import known_arguments
from rayline.core.errors import MissingExtraError, ParameterError
from rayline.core.lazy_names import without_garbage_collection

C = TypeVar("C", bound=type)

_STAGES: dict[str, str | type] = {
    "SimpleImputer": "rayline.stages.impute:SimpleImputer",
    "StandardScaler": "rayline.stages.scale:StandardScaler",
    "MinMaxScaler": "rayline.stages.scale:MinMaxScaler",
    "OneHotEncoder": "rayline.stages.encode:OneHotEncoder",
    "OrdinalEncoder": "rayline.stages.encode:OrdinalEncoder",
    "LabelEncoder": "rayline.stages.encode:LabelEncoder",
    "Vectorizer": "rayline.stages.text:Vectorizer",
    "HashingVectorizer": "rayline.stages.text:HashingVectorizer",
    "CountVectorizer": "rayline.stages.text:CountVectorizer",
    "TfidfVectorizer": "rayline.stages.text:TfidfVectorizer",
    "Tokenizer": "rayline.stages.text:Tokenizer",
    "DropColumns": "rayline.stages.select:DropColumns",
    "SelectColumns": "rayline.stages.select:SelectColumns",
    "MaxAbsScaler": "rayline.stages.scale:MaxAbsScaler",
    "RobustScaler": "rayline.stages.scale:RobustScaler",
    "Normalizer": "rayline.stages.scale:Normalizer",
    "Log": "rayline.stages.power:Log",
    "Binarizer": "rayline.stages.clipping:Binarizer",
    "Clipper": "rayline.stages.clipping:Clipper",
    "PowerTransformer": "rayline.stages.power:PowerTransformer",
    "QuantileTransformer": "rayline.stages.quantile:QuantileTransformer",
    "MissingIndicator": "rayline.stages.impute:MissingIndicator",
    "KNNImputer": "rayline.stages.neighbors:KNNImputer",
    "SMOTE": "rayline.stages.neighbors:SMOTE",
    "GroupImputer": "rayline.stages.impute:GroupImputer",
    "FrequencyEncoder": "rayline.stages.category:FrequencyEncoder",
    "RareCategories": "rayline.stages.category:RareCategories",
    "Categorizer": "rayline.stages.category:Categorizer",
    "HashEncoder": "rayline.stages.hashing:HashEncoder",
    "FeatureHasher": "rayline.stages.hashing:FeatureHasher",
    "MultiHotEncoder": "rayline.stages.multi_hot:MultiHotEncoder",
    "KBinsDiscretizer": "rayline.stages.discretize:KBinsDiscretizer",
    "TargetEncoder": "rayline.stages.target_encoder:TargetEncoder",
    "PolynomialFeatures": "rayline.stages.combine:PolynomialFeatures",
    "SplineTransformer": "rayline.stages.splines:SplineTransformer",
    "Ratio": "rayline.stages.combine:Ratio",
    "Expression": "rayline.stages.combine:Expression",
    "Concatenator": "rayline.stages.combine:Concatenator",
    "FunctionTransformer": "rayline.stages.combine:FunctionTransformer",
    "PCA": "rayline.stages.reduce:PCA",
    "VarianceThreshold": "rayline.stages.reduce:VarianceThreshold",
    "CorrelationFilter": "rayline.stages.reduce:CorrelationFilter",
    "SelectKBest": "rayline.stages.reduce:SelectKBest",
    "DatetimeEncoder": "rayline.stages.dates:DatetimeEncoder",
    "CheckMissing": "rayline.stages.validators:CheckMissing",
    "CheckRange": "rayline.stages.validators:CheckRange",
    "CheckCategories": "rayline.stages.validators:CheckCategories",
    "DropRows": "rayline.stages.resampling:DropRows",
    "Upsample": "rayline.stages.resampling:Upsample",
    "Downsample": "rayline.stages.resampling:Downsample",
}

_POSTPROCESSING: dict[str, str | type] = {
    "Calibrate": "rayline.postprocess.calibration:Calibrate",
    "Threshold": "rayline.postprocess.threshold:Threshold",
    "Conformal": "rayline.postprocess.conformal:Conformal",
    "Clip": "rayline.postprocess.limits:Clip",
    "Round": "rayline.postprocess.limits:Round",
}
"""Stages after the model."""

_PIPELINE_METHODS: dict[str, str] = {
    "evaluate": "rayline.evaluate.evaluation:Evaluate",
    "explain": "rayline.evaluate.explain:Explain",
    "importance": "rayline.evaluate.explain_importance:Importance",
    "partial_dependence": "rayline.evaluate.explain_dependence:PartialDependence",
}
"""Methods of inference pipelines that packages above `inference` provide (see `core.evaluation.PipelineMethod`)."""

_FRAMEWORKS: dict[str, str | type] = {
    "xgboost": "rayline.frameworks.xgboost:XGBoost",
    "lightgbm": "rayline.frameworks.lightgbm:LightGBM",
    "catboost": "rayline.frameworks.catboost:CatBoost",
    "sklearn": "rayline.frameworks.sklearn:Sklearn",
    "huggingface": "rayline.frameworks.huggingface:HuggingFace",
    "rllib": "rayline.frameworks.rllib:RLlib",
    "torch": "rayline.frameworks.torch:Torch",
    "horovod": "rayline.frameworks.horovod:Horovod",
    "ensemble": "rayline.inference.ensemble:Ensemble",
    "stack": "rayline.inference.stack:Stack",
}

_ROOTS: dict[str, str] = {"huggingface": "transformers", "rllib": "ray"}
"""The top-level package of a framework's native models, where it is not the framework's id."""

_REQUIREMENTS: dict[str, tuple[str, str, str]] = {
    "xgboost": ("XGBoostTrainer", "xgboost-cpu", "xgboost"),
    "lightgbm": ("LightGBMTrainer", "lightgbm", "lightgbm"),
    "catboost": ("CatBoostTrainer", "catboost", "catboost"),
    "sklearn": ("SklearnTrainer", "scikit-learn", "sklearn"),
    "huggingface": ("HuggingFaceTrainer", "transformers", "huggingface"),
    "rllib": ("RLlibTrainer", "ray[rllib]", "rllib"),
    "torch": ("TorchTrainer", "torch", "torch"),
    "horovod": ("HorovodTrainer", "torch", "torch"),  # its adapter says how Horovod itself is built
}
"""Who needs a framework's library, the package that has it, and Rayline's extra that installs it."""

_ENGINES: dict[str, str] = {
    "ray": "rayline.engine.ray:RayEngine",
    "local": "rayline.engine.local:LocalEngine",
}


def stage(name: str) -> type:
    """Return the class of the stage with this id. Raises ParameterError when there is none."""
    return _look_up(_STAGES, name, "stage", "rayline.stages")


def postprocessing_stage(name: str) -> Any:
    """Return the class of the postprocessing stage with this id. Raises ParameterError when there is none."""
    return _look_up(_POSTPROCESSING, name, "postprocessing stage", "rayline.postprocess")


def pipeline_method(name: str) -> Any:
    """Return the method of inference pipelines of this name, ready to be called with a pipeline."""
    return _load(_PIPELINE_METHODS[name])()


def framework(name: str) -> Any:
    """Return the adapter (an instance) of the framework with this id.

    Raises ParameterError when there is none, and MissingExtraError when its library is not installed or cannot be imported.
    """
    if name not in _INSTANCES:
        try:
            adapter = _look_up(_FRAMEWORKS, name, "framework", "rayline.frameworks")
        except ImportError as error:
            if isinstance(error, MissingExtraError) or name not in _REQUIREMENTS:
                raise
            raise MissingExtraError.of(*_REQUIREMENTS[name]) from error
        _INSTANCES[name] = adapter()
    return _INSTANCES[name]


def stages() -> list[str]:
    """Return the ids of all stages."""
    return sorted(_STAGES)


def frameworks() -> list[str]:
    """Return the ids of all frameworks, entry points included."""
    return sorted({*_FRAMEWORKS, *(e.name for e in importlib.metadata.entry_points(group="rayline.frameworks"))})


def own_frameworks() -> list[str]:
    """Return the ids of the frameworks that come with Rayline."""
    return [name for name, place in _FRAMEWORKS.items() if isinstance(place, str)]


def is_dataset(data: Any) -> bool:
    """Return whether this is a ray.data.Dataset, without an import of Ray."""
    return type(data).__module__.partition(".")[0] == "ray"


def engine_for(data: Any) -> Any:
    """Return the engine for this data: Ray for a ray.data.Dataset, the local one for everything else."""
    return engine("ray" if is_dataset(data) else "local")


def engine(name: str) -> Any:
    """Return the engine `ray` or `local`."""
    return _load(_ENGINES[name])()


def owner(model: Any) -> str | None:
    """Return the framework whose native model this is; None when there is none. Imports no further library."""
    roots = {cls.__module__.partition(".")[0] for cls in type(model).__mro__}
    for name, place in list(_FRAMEWORKS.items()):
        if (isinstance(place, type) or _ROOTS.get(name, name) in roots) and framework(name).owns(model):
            return name
    return None


def runtime_class(name: str) -> type | None:
    """Return the adapter class of a framework registered at run time; None for built-in ones, which workers can import."""
    registered = _FRAMEWORKS.get(name)
    return registered if isinstance(registered, type) else None


def register_stage(cls: C) -> C:
    """Make a Stage subclass loadable from JSON, under its class name. Usable as a decorator.

    Parameters
    ----------
    cls
        The class; its name is the id in files. A process that loads such a file must import the module that registers it.

    Returns
    -------
    type
        The class, unchanged.

    Raises
    ------
    ParameterError
        When it is no class derived from Stage or ColumnStage.

    Examples
    --------
    See `ColumnStage` for a complete one.

    >>> from rayline import register_stage
    >>> @register_stage  # doctest: +SKIP
    ... class Mine(ColumnStage):
    ...     ...
    """
    if not (isinstance(cls, type) and hasattr(cls, "from_json")):
        raise ParameterError.value("cls", "a class derived from Stage or ColumnStage", cls, where="register_stage")
    _STAGES[cls.__name__] = cls
    return cls


@known_arguments
def register_function(name: str, function: Callable[[Any], Any]) -> None:
    """Make a function of a Polars expression usable by name in FunctionTransformer.

    Parameters
    ----------
    name
        The id that a saved stage refers to. A process that loads such a file must register the function first.
    function
        Maps a Polars expression to a Polars expression, row by row: each result may depend on its own row only.

    Raises
    ------
    ParameterError
        When `name` is no text, or `function` cannot be called.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline import Preprocessor
    >>> from rayline.stages import FunctionTransformer, register_function
    >>> register_function("double", lambda x: x * 2)
    >>> Preprocessor([("double", FunctionTransformer(["x"], "double"))]).fit_transform(pl.DataFrame({"x": [1.0]}))["x"].to_list()
    [2.0]
    """
    if not isinstance(name, str) or not name:
        raise ParameterError.value("name", "a text", name, where="register_function")
    if not callable(function):
        raise ParameterError.value("function", "a function of a Polars expression", function, where="register_function")
    _FUNCTIONS[name] = function


def functions() -> dict[str, Callable[[Any], Any]]:
    """Return the registered functions by name."""
    return dict(_FUNCTIONS)


def function(name: str) -> Callable[[Any], Any]:
    """Return the registered function of this name. Raises ParameterError when there is none."""
    if name not in _FUNCTIONS:
        raise ParameterError(
            f"FunctionTransformer: no function is registered as {name!r}.",
            f"Expected one of {sorted(_FUNCTIONS)}.",
            "register it first: rayline.stages.register_function(name, function).",
        )
    return _FUNCTIONS[name]


def register_framework(cls: C) -> C:
    """Make a Framework subclass usable by its `name`. Usable as a decorator.

    Parameters
    ----------
    cls
        The class; its `name` is the id in files and in `train.Trainer(name, …)`.

    Returns
    -------
    type
        The class, unchanged.

    Raises
    ------
    ParameterError
        When the class has no `name`.

    Examples
    --------
    See `Framework` for a complete one.

    >>> from rayline import register_framework
    >>> @register_framework  # doctest: +SKIP
    ... class Mine(Framework):
    ...     name = "mine"
    """
    name = getattr(cls, "name", None)
    if not isinstance(cls, type):
        raise ParameterError.value("cls", "a class derived from Framework", cls, where="register_framework")
    if not isinstance(name, str) or not name:
        raise ParameterError(
            f"register_framework: {cls.__name__} has no name.", "Expected a class attribute `name`.", 'add name = "…".'
        )
    _FRAMEWORKS[name] = cls
    _INSTANCES.pop(name, None)
    return cls


def forget_framework(name: str) -> None:
    """Remove a framework from the registry; undoes `register_framework`."""
    _FRAMEWORKS.pop(name, None)
    _INSTANCES.pop(name, None)


_INSTANCES: dict[str, Any] = {}
_FUNCTIONS: dict[str, Callable[[Any], Any]] = {}


def _look_up(table: dict[str, str | type], name: str, noun: str, group: str) -> type:
    entry_or_class = table.get(name)
    if entry_or_class is None:
        for entry in importlib.metadata.entry_points(group=group):
            if entry.name == name:
                table[name] = entry_or_class = entry.load()
    if entry_or_class is None:
        near = difflib.get_close_matches(name, table, n=1, cutoff=0.8)
        raise ParameterError(
            f"registry: unknown {noun} {name!r}.",
            f"Expected a {noun} of Rayline or a registered one; got {name!r}.",
            (f"did you mean {near[0]!r}? If it is a custom one, " if near else "if it is a custom one, ")
            + f"import the module that registers it (@rayline.register_{noun}) first, or declare an entry point in {group!r}.",
        )
    return entry_or_class if isinstance(entry_or_class, type) else _load(entry_or_class)


def _load(place: str) -> Any:
    module, _, attribute = place.partition(":")
    with without_garbage_collection():
        return getattr(importlib.import_module(module), attribute)

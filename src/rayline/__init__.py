"""Rayline: one path for machine learning on Ray, whatever the framework.

`import rayline` loads neither Ray nor any framework; each is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rayline.core.version import VERSION

__version__ = VERSION

_MODULES = ("data", "stages", "postprocess", "evaluate", "train", "tune", "serve", "inference", "testing")
_NAMES = {
    "RaylineError": "rayline.core.errors",
    "SchemaError": "rayline.core.errors",
    "ParameterError": "rayline.core.errors",
    "NotFittedError": "rayline.core.errors",
    "DataError": "rayline.core.errors",
    "TrainingError": "rayline.core.errors",
    "NotBetterError": "rayline.core.errors",
    "PredictionError": "rayline.core.errors",
    "ResourceError": "rayline.core.errors",
    "ArtifactError": "rayline.core.errors",
    "ServeError": "rayline.core.errors",
    "MissingExtraError": "rayline.core.errors",
    "Framework": "rayline.core.framework",
    "Stage": "rayline.core.stage",
    "ColumnStage": "rayline.core.stage",
    "register_framework": "rayline.core.registry",
    "register_stage": "rayline.core.registry",
    "Preprocessor": "rayline.inference.pipeline",
    "InferencePipeline": "rayline.inference.pipeline",
    "Model": "rayline.inference.model",
    "load": "rayline.inference.artifact",
    "model_card": "rayline.inference.card",
    "compare": "rayline.evaluate.compare",
}

if TYPE_CHECKING:
    from rayline import data, evaluate, inference, postprocess, serve, stages, testing, train, tune
    from rayline.core.errors import (
        ArtifactError,
        DataError,
        MissingExtraError,
        NotBetterError,
        NotFittedError,
        ParameterError,
        PredictionError,
        RaylineError,
        ResourceError,
        SchemaError,
        ServeError,
        TrainingError,
    )
    from rayline.core.framework import Framework
    from rayline.core.registry import register_framework, register_stage
    from rayline.core.stage import ColumnStage, Stage
    from rayline.evaluate.compare import compare
    from rayline.inference.artifact import load
    from rayline.inference.card import model_card
    from rayline.inference.model import Model
    from rayline.inference.pipeline import InferencePipeline, Preprocessor

__all__ = [
    "ArtifactError",
    "ColumnStage",
    "DataError",
    "Framework",
    "InferencePipeline",
    "MissingExtraError",
    "Model",
    "NotBetterError",
    "NotFittedError",
    "ParameterError",
    "PredictionError",
    "Preprocessor",
    "RaylineError",
    "ResourceError",
    "SchemaError",
    "ServeError",
    "Stage",
    "TrainingError",
    "compare",
    "data",
    "evaluate",
    "inference",
    "load",
    "model_card",
    "postprocess",
    "register_framework",
    "register_stage",
    "serve",
    "stages",
    "testing",
    "train",
    "tune",
]


if not TYPE_CHECKING:  # otherwise every misspelt name would be accepted

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return importlib.import_module(f"rayline.{name}")
        if name in _NAMES:
            return getattr(importlib.import_module(_NAMES[name]), name)
        raise AttributeError(f"module 'rayline' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

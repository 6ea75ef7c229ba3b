"""The preprocessing stages. `from rayline.stages import StandardScaler` imports only the module that defines it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rayline.core import registry
from rayline.core.registry import register_function

if TYPE_CHECKING:
    from rayline.stages.category import Categorizer, FrequencyEncoder, RareCategories
    from rayline.stages.clipping import Binarizer, Clipper
    from rayline.stages.combine import Concatenator, Expression, FunctionTransformer, PolynomialFeatures, Ratio
    from rayline.stages.dates import DatetimeEncoder
    from rayline.stages.discretize import KBinsDiscretizer
    from rayline.stages.encode import LabelEncoder, OneHotEncoder, OrdinalEncoder
    from rayline.stages.encode import OneHotEncoder as OneHotEncoding
    from rayline.stages.hashing import FeatureHasher, HashEncoder
    from rayline.stages.impute import GroupImputer, MissingIndicator, SimpleImputer
    from rayline.stages.multi_hot import MultiHotEncoder
    from rayline.stages.neighbors import SMOTE, KNNImputer
    from rayline.stages.power import Log, PowerTransformer
    from rayline.stages.quantile import QuantileTransformer
    from rayline.stages.reduce import PCA, CorrelationFilter, SelectKBest, VarianceThreshold
    from rayline.stages.resampling import Downsample, DropRows, Upsample
    from rayline.stages.scale import MaxAbsScaler, MinMaxScaler, Normalizer, RobustScaler, StandardScaler
    from rayline.stages.select import DropColumns, SelectColumns
    from rayline.stages.splines import SplineTransformer
    from rayline.stages.target_encoder import TargetEncoder
    from rayline.stages.text import CountVectorizer, HashingVectorizer, TfidfVectorizer, Tokenizer, Vectorizer
    from rayline.stages.validators import CheckCategories, CheckMissing, CheckRange

_SECOND_NAMES = {"OneHotEncoding": "OneHotEncoder"}


__all__ = [
    "PCA",
    "SMOTE",
    "Binarizer",
    "Categorizer",
    "CheckCategories",
    "CheckMissing",
    "CheckRange",
    "Clipper",
    "Concatenator",
    "CorrelationFilter",
    "CountVectorizer",
    "DatetimeEncoder",
    "Downsample",
    "DropColumns",
    "DropRows",
    "Expression",
    "FeatureHasher",
    "FrequencyEncoder",
    "FunctionTransformer",
    "GroupImputer",
    "HashEncoder",
    "HashingVectorizer",
    "KBinsDiscretizer",
    "KNNImputer",
    "LabelEncoder",
    "Log",
    "MaxAbsScaler",
    "MinMaxScaler",
    "MissingIndicator",
    "MultiHotEncoder",
    "Normalizer",
    "OneHotEncoder",
    "OneHotEncoding",
    "OrdinalEncoder",
    "PolynomialFeatures",
    "PowerTransformer",
    "QuantileTransformer",
    "RareCategories",
    "Ratio",
    "RobustScaler",
    "SelectColumns",
    "SelectKBest",
    "SimpleImputer",
    "SplineTransformer",
    "StandardScaler",
    "TargetEncoder",
    "TfidfVectorizer",
    "Tokenizer",
    "Upsample",
    "VarianceThreshold",
    "Vectorizer",
    "register_function",
]


if not TYPE_CHECKING:  # otherwise every misspelt name would be accepted

    def __getattr__(name: str) -> Any:
        name = _SECOND_NAMES.get(name, name)
        if name.startswith("_") or name not in registry.stages():
            raise AttributeError(f"module 'rayline.stages' has no stage {name!r}; there are {registry.stages()}")
        return registry.stage(name)


def __dir__() -> list[str]:
    return sorted({"register_function", *registry.stages(), *_SECOND_NAMES})

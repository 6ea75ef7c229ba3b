from rayline import data as data
from rayline import evaluate as evaluate
from rayline import inference as inference
from rayline import postprocess as postprocess
from rayline import serve as serve
from rayline import stages as stages
from rayline import testing as testing
from rayline import train as train
from rayline import tune as tune
from rayline.core.errors import ArtifactError as ArtifactError
from rayline.core.errors import DataError as DataError
from rayline.core.errors import MissingExtraError as MissingExtraError
from rayline.core.errors import NotBetterError as NotBetterError
from rayline.core.errors import NotFittedError as NotFittedError
from rayline.core.errors import ParameterError as ParameterError
from rayline.core.errors import PredictionError as PredictionError
from rayline.core.errors import RaylineError as RaylineError
from rayline.core.errors import ResourceError as ResourceError
from rayline.core.errors import SchemaError as SchemaError
from rayline.core.errors import ServeError as ServeError
from rayline.core.errors import TrainingError as TrainingError
from rayline.core.framework import Framework as Framework
from rayline.core.registry import register_framework as register_framework
from rayline.core.registry import register_stage as register_stage
from rayline.core.stage import ColumnStage as ColumnStage
from rayline.core.stage import Stage as Stage
from rayline.evaluate.compare import compare as compare
from rayline.inference.artifact import load as load
from rayline.inference.card import model_card as model_card
from rayline.inference.model import Model as Model
from rayline.inference.pipeline import InferencePipeline as InferencePipeline
from rayline.inference.pipeline import Preprocessor as Preprocessor

__all__: list[str]
__version__: str

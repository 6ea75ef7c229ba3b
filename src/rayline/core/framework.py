"""The contract of a framework: one thin class that trains, predicts, saves and loads. Everything else is common.

A framework of your own is this class and one line:

>>> import json, numpy as np
>>> from rayline import Framework, register_framework
>>> @register_framework
... class Mean(Framework):
...     name = "mean"
...     def train(self, context, *, shrink=1.0):
...         return {"mean": float(context.train.target.mean()) * shrink}
...     def predict(self, model, features):
...         return np.full(features.n_rows, model["mean"])
...     def save(self, model, directory):
...         (directory / "model.json").write_text(json.dumps(model))
...     def load(self, directory):
...         return json.loads((directory / "model.json").read_text())

and is trained by `train.Trainer("mean", shrink=0.9)`.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import polars as pl

from rayline.core.errors import ParameterError
from rayline.core.features import Array, Features
from rayline.core.schema import col
from rayline.core.target import Target, Task

T = TypeVar("T")
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class Rows:
    """The rows that one worker trains or evaluates on, as blocks of preprocessed columns."""

    def __init__(
        self,
        blocks: Sequence[Callable[[], pl.DataFrame]],
        schema: Mapping[str, pl.DataType],
        target: Target,
        weight: str | None,
        *,
        memo: dict[Any, Any] | None = None,
    ) -> None:
        self._blocks, self.schema, self._target, self._weight = list(blocks), pl.Schema(schema), target, weight
        self._memo = memo

    @classmethod
    def of(
        cls, table: pl.DataFrame, schema: Mapping[str, pl.DataType], target: Target, weight: str | None = None
    ) -> Rows:
        return cls([lambda: table], schema, target, weight)

    @cached_property
    def _table(self) -> pl.DataFrame:
        blocks = [block() for block in self._blocks]
        return blocks[0] if len(blocks) == 1 else pl.concat(blocks, how="vertical_relaxed", rechunk=False)

    @property
    def n_rows(self) -> int:
        return self._table.height

    @property
    def features(self) -> Features:
        """All feature columns. For a stream that never holds them all, see `batches`."""
        return Features(self._table.select(map(col, self.schema)), schema=self.schema)

    @cached_property
    def target(self) -> Array:
        """Labels as numbers, shape (n,) or (n, targets): class codes (int64) or values (float64)."""
        return self._target.encode(self._table)

    @cached_property
    def truth(self) -> Array:
        """As `target`, on the scale of the labels themselves: what predictions are compared with."""
        return self._target.truth(self._table) if self._target.stages else self.target

    @cached_property
    def weight(self) -> Array | None:
        """Sample weights, shape (n,), float64; None when there are none."""
        return None if self._weight is None else self._table[self._weight].cast(pl.Float64).to_numpy()

    def remember(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` makes of these rows (a library's own matrix), made once for each key where someone keeps it: a
        tuning trial trains on the same rows as the one before. What is remembered must not be changed by training."""
        if self._memo is None:
            return make()
        if key not in self._memo:
            self._memo[key] = make()
        made: T = self._memo[key]
        return made

    @property
    def n_blocks(self) -> int:
        """How many blocks `batches` gives."""
        return len(self._blocks)

    def batches(self) -> Iterator[Rows]:
        """The same rows block by block, each loaded when it is reached."""
        for block in self._blocks:
            yield Rows([block], self.schema, self._target, self._weight)


@dataclass
class TrainContext:
    """Everything that `Framework.train` is given. Nothing about it is global.

    Attributes
    ----------
    train, test
        The rows of this worker (all rows, when there is one). `test` is None without a test set, and may be empty on
        some workers.
    target
        Names, task and classes of the target.
    rank, world_size
        Which of how many workers this is; 0 of 1 in process.
    peers
        "host:port" of each rank, the port free for the framework's own use. Empty in process.
    rendezvous
        What the framework's `coordinate` gave on the driver.
    report
        `report(iteration, {"train-logloss": 0.3, …})` after each iteration, counted from 0, on any rank (rank 0 is
        heard). It returns True when training is to stop.
    watched
        Whether anyone reads what is reported of the training rows. A framework that has to evaluate them for that after
        every iteration need not when nobody does; it reports the iterations all the same.
    gather
        `gather(value)` gives what every rank has called it with, in the order of the ranks: all must call it, the same number
        of times. Metrics of all rows come from it, which all ranks have to know to stop together.
    checkpoint
        `checkpoint(iteration, save)` keeps what `save(directory)` writes, when one is due. Rank 0 is heard.
    resume
        The directory of the last checkpoint, when training starts again after a failure.
    num_workers, resources_per_worker, max_failures
        For a framework that generates its own data: the workers that it must start itself (0 for none), what each holds, and how often
        a lost one is replaced. The others are started and replaced for them.
    lineage
        Gives for each raw column the features that come from it.
    """

    train: Rows
    test: Rows | None
    target: Target
    seed: int | None = None
    n_threads: int = 1
    use_gpu: bool = False
    rank: int = 0
    world_size: int = 1
    worker_addresses: Sequence[str] = ()
    rendezvous: Mapping[str, Any] = field(default_factory=dict)
    report: Callable[[int, Mapping[str, float]], bool] = lambda iteration, metrics: False
    log_train_metrics: bool = True
    gather: Callable[[Any], list[Any]] = lambda value: [value]
    checkpoint: Callable[[int, Callable[[Path], None]], None] = lambda iteration, save: None
    resume: Path | None = None
    num_workers: int = 0
    resources_per_worker: Mapping[str, float] = field(default_factory=dict)
    max_failures: int = 0
    lineage: Callable[[], Mapping[str, Sequence[str]]] = dict

    def columns(self, name: str | int, where: str) -> list[int]:
        """The columns of the matrix of features (`Features.matrix`) that a feature is, or all that come from a raw column of
        this name. A number is a column itself. Raises ParameterError when there is none; `where` begins the error."""
        places = self._places
        if name in places:
            return [*places[str(name)]]
        if isinstance(name, str):
            lineage = self.lineage()
            found = [place for feature in lineage.get(name, ()) for place in places.get(feature, ())]
            if not found:
                raise ParameterError.unknown(where, [name], [*places, *(n for n in lineage if n not in places)])
            return found
        if not 0 <= name < self.n_columns:
            raise ParameterError.value(where, "the number of a feature", f"less than {self.n_columns}", name)
        return [int(name)]

    def by_column(self, values: Mapping[str | int, T], where: str) -> dict[int, T]:
        """What is said of features by name, by columns of the matrix. Raises as `columns`."""
        return {place: value for name, value in values.items() for place in self.columns(name, where)}

    def groups(self, groups: Sequence[Sequence[str | int]], where: str) -> list[list[int]]:
        """Groups of features by name as groups of columns of the matrix. Raises as `columns`."""
        return [[place for name in group for place in self.columns(name, where)] for group in groups]

    @property
    def n_columns(self) -> int:
        """The width of the matrix of features."""
        return max((place.stop for place in self._places.values()), default=0)

    @cached_property
    def _places(self) -> dict[str, range]:
        return self.train.features.places


@dataclass(frozen=True)
class ModelInfo:
    """What a bare model of the framework says about itself, for `preprocessor.chain(booster)`.

    `features` gives names and types where the model knows them itself, `target` what it predicts.
    """

    task: Task
    n_classes: int = 2
    n_targets: int = 1
    feature_names: Sequence[str] | None = None
    features: pl.Schema | None = None
    target: Target | None = None


@dataclass(frozen=True)
class EnvironmentSpec:
    """What the models of a framework that generates its own data read and predict.

    Attributes
    ----------
    features
        Names and types of what is observed.
    target
        The action.
    examples
        A few rows of features.
    metric
        What a training is judged by when nobody says otherwise, as it stands in the history.
    """

    features: pl.Schema
    target: Target
    examples: pl.DataFrame
    metric: str


class Framework(ABC):
    """An adapter: the only code that knows its library. Instances have no state.

    Examples
    --------
    >>> import json, numpy as np, polars as pl
    >>> from rayline import Framework, register_framework, train
    >>> @register_framework
    ... class Constant(Framework):
    ...     name = "constant"
    ...     def train(self, context):
    ...         return float(context.train.target.mean())
    ...     def predict(self, model, features):
    ...         return np.full(features.n_rows, model)
    ...     def save(self, model, directory):
    ...         (directory / "model.json").write_text(json.dumps(model))
    ...     def load(self, directory):
    ...         return json.loads((directory / "model.json").read_text())
    >>> table = pl.DataFrame({"x": [1.0, 2.0], "price": [3.0, 5.0]})
    >>> result = train.fit(train.Trainer("constant"), train_dataset=table, target_columns=["price"], verbose=False)
    >>> result.inference_pipeline.predict(table)["prediction"].to_list()
    [4.0, 4.0]
    """

    name: ClassVar[str]
    """The id: in artifacts, in the registry, in `train.Trainer(name, …)`."""

    package: ClassVar[str] = ""
    """What to install, for the error when it is missing; its extra of Rayline is called `name`."""

    string_features: ClassVar[str] = "refuse"
    """What it does with string features: "refuse", "categories" (Enum columns), or "text" (as they are)."""

    distributed: ClassVar[bool] = False

    reuses_workers: ClassVar[bool] = False
    """Whether a process that has trained as one of several workers can do so again. A search then keeps its workers from
    fold to fold; otherwise each training starts its own."""
    """Whether it trains on several workers: `train` works with world_size > 1."""

    predicts_on_gpu: ClassVar[bool] = False
    """Whether `predict` computes on a GPU where it finds one; a GPU that is reserved for anything else would be idle."""

    generates_own_data: ClassVar[bool] = False
    """Whether it makes its experience itself, in an environment. A fit then takes no data, `environment_spec` says what the models
    read and predict, and `train` runs in this process on a TrainContext without rows, with workers of its own."""

    max_label: ClassVar[float] = math.inf
    """The largest label that it learns from; where it is finite, labels are numbers of single precision to it."""

    models: ClassVar[str] = ""
    """The framework whose models it trains, where that is another one (Horovod trains PyTorch's)."""

    iterations: ClassVar[str] = ""
    """The argument of `train` that says how many iterations it makes; empty when there is none."""

    # -- the four that everyone writes -----------------------------------------------------------------------------

    @abstractmethod
    def train(self, context: TrainContext, *args: Any, **kwargs: Any) -> Any:
        """Train on `context.train` and return the native model. The parameters after `context` are the trainer's arguments."""

    @abstractmethod
    def predict(self, model: Any, features: Features) -> Array:
        """Scores, one row each: values for a regression, shape (n,) or (n, targets); for classification
        probabilities, shape (n,) or (n, targets) of the second class, or (n, classes); or class codes (integers).
        A model whose labels are not the likeliest classes, or that ranks rows without probabilities, gives
        `core.target.decisions`."""

    @abstractmethod
    def save(self, model: Any, directory: Path) -> None:
        """Write the model into an empty directory, in a format that holds no code."""

    @abstractmethod
    def load(self, directory: Path) -> Any:
        """Read what `save` wrote. The files' sizes and hashes have been checked; their content is still a stranger's.

        Keyword arguments of its own are what no file may say (a class of the user's own): `rayline.load(path, …)`
        takes them too.
        """

    # -- what has a good default -----------------------------------------------------------------------------------

    def owns(self, model: Any) -> bool:
        """Whether this is a native model of the framework. Must not import the library to say no."""
        return False

    def load_options(self, model: Any) -> dict[str, Any]:
        """The keyword arguments that `load` needs for this model: they travel with it between our own processes, but
        stand in no file."""
        return {}

    def inspect(self, model: Any) -> ModelInfo:
        """What a native model says about itself."""
        return ModelInfo(Task.REGRESSION)

    def task(self, *args: Any, **kwargs: Any) -> Task | Literal["classification"] | None:
        """The task that the arguments ask for; None lets the labels decide. "classification" is binary or multiclass,
        by the number of labels, also when they are numbers."""
        return None

    def check(self, *args: Any, **kwargs: Any) -> None:
        """Raise ParameterError on arguments that `train` would not take. Runs on the driver, before any data moves."""
        try:
            inspect.signature(self.train).bind(None, *args, **kwargs)
        except TypeError as error:
            allowed = [p.name for p in inspect.signature(self.train).parameters.values()][1:]
            unknown = [k for k in kwargs if k not in allowed]
            if unknown:
                raise ParameterError.unknown(f"{self.name} trainer", unknown, allowed) from error
            raise ParameterError(f"{self.name} trainer: {error}.", f"Expected the arguments {allowed}.") from error

    def environment_spec(self, *args: Any, **kwargs: Any) -> EnvironmentSpec:
        """What the models of a framework that generates its own data read and predict, as the trainer's arguments say."""
        raise NotImplementedError(
            f"{type(self).__name__}.environment_spec, which a framework with generates_own_data = True needs"
        )

    def configure(self, args: Sequence[Any], kwargs: Mapping[str, Any], changes: Mapping[str, Any]) -> Arguments:
        """The arguments with tuned values put in: a keyword of `train` where there is one, otherwise a key of the
        first argument when that is a dict of parameters. Raises ParameterError when neither takes it."""
        own = dict([*inspect.signature(self.train).parameters.items()][1:])  # without the context
        takes_dict = bool(args) and isinstance(args[0], Mapping)
        open_ended = any(p.kind is p.VAR_KEYWORD for p in own.values())
        new_args, new_kwargs = list(args), dict(kwargs)
        unknown = []
        for key, value in changes.items():
            if key in own:
                new_kwargs[key] = value
            elif takes_dict:
                new_args[0] = {**new_args[0], key: value}
            elif open_ended:
                new_kwargs[key] = value
            else:
                unknown.append(key)
        if unknown:
            raise ParameterError.unknown(f"{self.name} trainer", unknown, list(own))
        return tuple(new_args), new_kwargs

    def validation_argument(self, *args: Any, **kwargs: Any) -> str:
        """The argument that makes no sense without a test set (early stopping); empty when there is none."""
        return ""

    def resumable_iterations(self, *args: Any, **kwargs: Any) -> int:
        """How many iterations a training with these arguments makes, where it goes on from a checkpoint (`TrainContext.resume`) also
        with other arguments than it began with; 0 where it does not. With the same arguments, going on is what a training
        without a break would have done, but for random numbers."""
        return 0

    def argument(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The value that an argument of `train` has with these arguments, or its default."""
        bound = inspect.signature(self.train).bind(None, *args, **kwargs)
        bound.apply_defaults()
        return bound.arguments[name]

    def owns_callback(self, callback: Any) -> bool:
        """Whether this is a callback object of the library itself: it is handed over as `callbacks=[…]` of `train`.
        Must not import the library to say no."""
        return False

    def records(self, callback: Any) -> bool:
        """Whether a callback of the library writes what it hears into an object of the user's, and carries nothing from one
        training to the next: such a one is handed over as it is, all other arguments as copies."""
        return False

    def best_iteration(self, model: Any) -> int | None:
        """The iteration that predictions stop at, counted from 0, when early stopping has chosen one."""
        return None

    def without_gpu(self) -> str:
        """Why the library that is installed computes on no GPU at all, and what to install instead; empty when it does."""
        return ""

    def predicts_margins(self, model: Any) -> bool:
        """Whether `predict` gives the raw scores of a classifier in place of probabilities, as of an objective of the user's
        own: above 0 is the second class, of several the largest is chosen. They rank rows, and are no probabilities."""
        return False

    def scores(self, model: Any, features: Features, target: Target) -> Array:
        """What `predict` gives, as `target` reads it."""
        found = self.predict(model, features)
        return target.of_margins(found) if target.task.is_classification and self.predicts_margins(model) else found

    @contextlib.contextmanager
    def coordinate(self, world_size: int, host: str) -> Iterator[Mapping[str, Any]]:
        """Runs on the driver around a distributed training, and gives what `context.rendezvous` will hold."""
        yield {}

    def single_row_view(self, model: Any) -> Any:
        """The model as a server asks it, a few rows a call: the same bits, with one thread where the library would start
        many. Threads that wait for one another make a short call long as soon as the machine has other work."""
        return model

    def to_onnx(self, model: Any, width: int) -> Any:
        """The model as an ONNX model with one float32 input of shape (rows, width), scores last among its outputs.

        Raises ParameterError when the framework cannot.
        """
        raise ParameterError(
            f"to_onnx: models of {self.name!r} have no form in ONNX here.",
            "Expected a framework whose adapter says how.",
        )

    def importance(self, model: Any, names: Sequence[str]) -> dict[str, float] | None:
        """How much each feature matters to the model, when it can tell."""
        return None

"""The contract of a framework: one thin class that trains, predicts, saves and loads. Everything else is shared.

A custom framework is one such class and one decorator:

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

Train it with `train.Trainer("mean", shrink=0.9)`.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import polars as pl

from rayline.core import paired_labels, row_stream
from rayline.core.errors import ParameterError
from rayline.core.features import Array, Features
from rayline.core.objective import Objective
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

    def in_groups(self) -> Rows:
        """Return the same rows sorted by group, as one block, for a ranking; otherwise these rows."""
        if self._target.task is not Task.RANKING:
            return self
        table = paired_labels.in_groups(self._table, self._target.columns[1])
        return Rows([lambda: table], self.schema, self._target, self._weight, memo=self._memo)

    @cached_property
    def _heights(self) -> list[int]:
        """The number of rows of each block. Blocks in the object store know it; others are tables in this process."""
        counts = (getattr(block, "n_rows", None) for block in self._blocks)
        return [block().height if count is None else count for block, count in zip(self._blocks, counts, strict=True)]

    @property
    def n_rows(self) -> int:
        """The number of rows; no block is loaded for it."""
        return sum(self._heights)

    @cached_property
    def head(self) -> Features:
        """The features of a few rows (none, where there are none): they show names, types and widths."""
        first = next((place for place, height in enumerate(self._heights) if height), None)
        if first is None:
            return Features(self._table.select(map(col, self.schema)), schema=self.schema)
        table = self._blocks[first]().head(row_stream.SAMPLE_ROWS)
        return Features(table.select(map(col, self.schema)), schema=self.schema)

    @cached_property
    def size_bytes(self) -> int:
        """The approximate size of the features in memory, from the size of a few rows."""
        return int(self.n_rows * row_stream.bytes_per_row(self.head.table))

    @property
    def is_small(self) -> bool:
        """Whether these rows may be held in memory as a whole: they take at most `row_stream.HELD_BYTES` (64 MiB)."""
        return self.size_bytes <= row_stream.HELD_BYTES

    @property
    def task(self) -> Task:
        """The task of the target."""
        return self._target.task

    @property
    def predicts_risk(self) -> bool:
        """Of survival times: whether the model's scores are risks (Cox) and not times."""
        return self._target.predicts_risk

    @property
    def features(self) -> Features:
        """All feature columns. To stream them without holding all in memory, see `batches`."""
        return Features(self._table.select(map(col, self.schema)), schema=self.schema)

    @cached_property
    def target(self) -> Array:
        """Labels as numbers, shape (n,) or (n, targets): class codes (int64) or values (float64) after the target stages. Of a
        ranking (n, 2): relevance and group; of a survival time (n, 2): its bounds (see `core.paired_labels`)."""
        return self._of_each(self._target.encode)

    @cached_property
    def truth(self) -> Array:
        """As `target`, but on the scale of the original labels: what predictions are compared with."""
        return self._of_each(self._target.truth) if self._target.stages else self.target

    @cached_property
    def weight(self) -> Array | None:
        """Sample weights, shape (n,), float64; None when there are none."""
        name = self._weight
        return None if name is None else self._of_each(lambda table: table[name].cast(pl.Float64).to_numpy())

    def _of_each(self, compute: Callable[[pl.DataFrame], Array]) -> Array:
        """Compute an array of all rows; of large tables block by block, so that no two blocks are held."""
        if len(self._blocks) == 1 or self.is_small:
            return compute(self._table)
        return np.concatenate([compute(block()) for block, n in zip(self._blocks, self._heights, strict=True) if n])

    def remember(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what `make` builds from these rows (such as a library's own matrix), built once per key where a cache is
        kept: consecutive tuning trials train on the same rows. Training must not modify a cached value."""
        if self._memo is None:
            return make()
        if key not in self._memo:
            self._memo[key] = make()
        made: T = self._memo[key]
        return made

    @property
    def group_sizes(self) -> Array:
        """Of a ranking whose rows are `in_groups`: the number of rows of each group, in their order."""
        return paired_labels.sizes(self.target[:, 1])

    @property
    def n_blocks(self) -> int:
        """The number of blocks that `batches` yields."""
        return len(self._blocks)

    def batches(self, n_rows: int | None = None, *, seed: int | None = None) -> Iterator[Rows]:
        """Yield all rows once in batches, so that memory does not grow with the number of rows.

        Parameters
        ----------
        n_rows
            The number of rows of a batch; only the last may have fewer. None for one batch per block.
        seed
            Shuffles the rows, the same way for the same seed: blocks are read in a random order, and rows shuffled in a buffer of
            16 MiB. Pass another seed for each epoch. None for the order of the blocks.

        Examples
        --------
        >>> import polars as pl
        >>> from rayline.core.target import Target, Task
        >>> table = pl.DataFrame({"x": range(10), "y": [0.5] * 10})
        >>> rows = Rows.of(table, {"x": pl.Int64()}, Target(("y",), Task.REGRESSION, (pl.Float64(),)))
        >>> [batch.n_rows for batch in rows.batches(4, seed=1)]
        [4, 4, 2]
        """
        if n_rows is None and seed is None:
            for block in self._blocks:
                yield self._part(block)
            return
        for table in row_stream.prefetched(self._batches(n_rows, seed)):
            yield Rows.of(table, self.schema, self._target, self._weight)

    def _batches(self, n_rows: int | None, seed: int | None) -> Iterator[pl.DataFrame]:
        size = row_stream.bytes_per_row(self.head.table)
        tables = row_stream.windows(self._blocks, self._heights, size, seed=seed)
        if seed is not None:
            tables = (row_stream.shuffled(table, seed + place + 1) for place, table in enumerate(tables))
        return tables if n_rows is None else row_stream.cut(tables, n_rows)

    def windows(self, seed: int | None = None, *, row_bytes: float | None = None) -> Iterator[Rows]:
        """Yield all rows once in large batches: in order, or with a seed drawn from random places but not shuffled within."""
        size = row_stream.bytes_per_row(self.head.table) if row_bytes is None else row_bytes
        for table in row_stream.windows(self._blocks, self._heights, size, seed=seed):
            yield Rows.of(table, self.schema, self._target, self._weight)

    def pieces(self, n_rows: int = row_stream.MAX_BATCH_ROWS) -> Iterator[Rows]:
        """Yield the rows block by block, in order; a block of more than `n_rows` in several pieces."""
        for block, height in zip(self._blocks, self._heights, strict=True):
            if height <= n_rows:
                yield self._part(block)
                continue
            for table in block().iter_slices(n_rows):
                yield Rows.of(table, self.schema, self._target, self._weight)

    def slice(self, start: int, n_rows: int) -> Rows:
        """Return consecutive rows, of those of one block."""
        return Rows.of(self._table.slice(start, n_rows), self.schema, self._target, self._weight)

    def release(self) -> None:
        """Let go of the loaded blocks; they are loaded again when they are needed."""
        self.__dict__.pop("_table", None)

    def _part(self, block: Callable[[], pl.DataFrame]) -> Rows:
        return Rows([block], self.schema, self._target, self._weight)

    def check_labels(self, objective: Objective, where: str) -> None:
        """Raise DataError on labels that are missing, were not seen in training, or that the objective cannot learn; nothing is
        kept of large tables. `where` begins the message of the last."""
        for part in [self] if self.is_small else self.pieces():
            labels = part.target
            if len(labels) and not (self._target.stages or self._target.task.is_classification):
                columns = labels.reshape(len(labels), -1).T
                for name, column in zip(
                    self._target.columns[: 1 if self.task.is_paired else None], columns, strict=False
                ):
                    objective.check_labels(name, column.min(), column.max(), where)

    @property
    def has_weights(self) -> bool:
        """Whether the rows have sample weights."""
        return self._weight is not None

    @cached_property
    def total_weight(self) -> float:
        """The sum of the sample weights; the number of rows without weights."""
        if self._weight is None:
            return float(self.n_rows)
        return sum(float(part.weight.sum()) for part in self.pieces() if part.weight is not None)


@dataclass
class TrainContext:
    """The only argument of `Framework.train` besides the trainer's own arguments; it replaces any global session.

    Attributes
    ----------
    train, test
        The rows of this worker (all rows, when there is one). `test` is None without a test set, and may be empty on
        some workers.
    target
        Names, task and classes of the target.
    rank, world_size
        The number of this worker (from 0) and of how many; 0 of 1 in process.
    worker_addresses
        "host:port" of each rank; the port is free for the framework's own use. Empty in process.
    rendezvous
        What the framework's `coordinate` yielded on the driver.
    report
        Call `report(iteration, {"train-logloss": 0.3, …})` after each iteration, counted from 0. Any rank may call it; only
        the metrics of rank 0 are recorded. It returns True when training is to stop.
    log_train_metrics
        Whether the metrics of the training rows are used. When False, a framework that would have to evaluate these rows
        after every iteration need not do so; it still reports the iterations.
    gather
        `gather(value)` returns the values of all ranks, in the order of the ranks. All ranks must call it equally often.
        Use it for metrics over all rows, which every rank needs in order to stop at the same iteration.
    checkpoint
        `checkpoint(iteration, save)` stores what `save(directory)` writes, if a checkpoint is due. Only rank 0 stores one.
    resume
        The directory of the last checkpoint, when training restarts after a failure.
    num_workers, resources_per_worker, max_failures
        For a framework that generates its own data: the number of workers that it must start itself (0 for none), the
        resources of each, and how often a lost one is replaced. For all others Rayline starts and replaces the workers.
    lineage
        Returns for each raw column the features that are derived from it.
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

    def in_groups(self) -> TrainContext:
        """Return the context with the rows of each group next to each other, as libraries require for a ranking."""
        test = None if self.test is None else self.test.in_groups()
        return replace(self, train=self.train.in_groups(), test=test)

    def columns(self, name: str | int, where: str) -> list[int]:
        """Return the columns of the feature matrix (`Features.matrix`) that hold a feature, or all features derived from a raw
        column of this name. A number is a matrix column already. Raises ParameterError when there is none; `where` begins
        its message."""
        places = self._places
        if name in places:
            return [*places[str(name)]]
        if isinstance(name, str):
            lineage = self.lineage()
            derived = [place for feature in lineage.get(name, ()) for place in places.get(feature, ())]
            if not derived:
                raise ParameterError.unknown(where, [name], [*places, *(n for n in lineage if n not in places)])
            return derived
        if not 0 <= name < self.n_columns:
            raise ParameterError.value(where, "the number of a feature", f"less than {self.n_columns}", name)
        return [int(name)]

    def by_column(self, values: Mapping[str | int, T], where: str) -> dict[int, T]:
        """Translate a mapping by feature name into one by matrix column. Raises as `columns`."""
        return {place: value for name, value in values.items() for place in self.columns(name, where)}

    def groups(self, groups: Sequence[Sequence[str | int]], where: str) -> list[list[int]]:
        """Translate groups of feature names into groups of matrix columns. Raises as `columns`."""
        return [[place for name in group for place in self.columns(name, where)] for group in groups]

    @property
    def n_columns(self) -> int:
        """The width of the feature matrix."""
        return max((place.stop for place in self._places.values()), default=0)

    @cached_property
    def _places(self) -> dict[str, range]:
        return self.train.head.places


@dataclass(frozen=True)
class ModelInfo:
    """What can be read from a native model of the framework, for `preprocessor.chain(booster)`.

    `features` holds names and types where the model stores them, `target` what it predicts.
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
        Names and types of the observations.
    target
        The action.
    examples
        A few rows of features.
    metric
        The default metric of a training, by its name in the history.
    """

    features: pl.Schema
    target: Target
    examples: pl.DataFrame
    metric: str


class Framework(ABC):
    """An adapter: the only code that depends on its library. Instances have no state.

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
    """The package to install, for the error when it is missing; the extra of Rayline that installs it is called `name`."""

    string_features: ClassVar[str] = "refuse"
    """How it treats string features: "refuse", "categories" (passed as Enum columns), or "text" (passed unchanged)."""

    distributed: ClassVar[bool] = False
    """Whether it trains on several workers: `train` works with world_size > 1."""

    reuses_workers: ClassVar[bool] = False
    """Whether a process that has trained as one of several workers can do so again. A search then keeps its workers from
    fold to fold; otherwise each training starts new ones."""

    trains_on_gpu: ClassVar[bool] = False
    """Whether `train` computes on a GPU with `context.use_gpu`; otherwise `use_gpu=True` is refused."""

    predicts_on_gpu: ClassVar[bool] = False
    """Whether `predict` computes on a GPU with a model that `place` has put there; otherwise `use_gpu=True` is refused."""

    thread_safe_training: ClassVar[bool] = False
    """Whether several trainings and predictions may run in one process at the same time, each in its own thread. If not, a
    search in this process runs one trial at a time; a library that draws from global random numbers, or sets the number
    of threads for the whole process, is not."""

    generates_own_data: ClassVar[bool] = False
    """Whether it generates its own data, in an environment. A fit then takes no data, `environment_spec` describes what the
    models read and predict, and `train` runs in this process on a TrainContext without rows and starts its own workers."""

    max_label: ClassVar[float] = math.inf
    """The largest label that it can learn from; finite for a framework that stores labels in single precision."""

    models: ClassVar[str] = ""
    """The framework whose models it trains, where that is another one (Horovod trains PyTorch models)."""

    iterations: ClassVar[str] = ""
    """The argument of `train` that sets the number of iterations; empty when there is none."""

    # -- the four methods that every adapter implements ------------------------------------------------------------

    @abstractmethod
    def train(self, context: TrainContext, *args: Any, **kwargs: Any) -> Any:
        """Train on `context.train` and return the native model. The parameters after `context` are the trainer's arguments."""

    @abstractmethod
    def predict(self, model: Any, features: Features) -> Array:
        """Return the scores, one for each row.

        For a regression: values, shape (n,) or (n, targets), or (n, quantiles). For a ranking or a survival time: shape (n,). For a classification: probabilities of the second class,
        shape (n,) or (n, targets), or of all classes, shape (n, classes); or class codes (integers). A model whose labels
        are not the most probable classes, or that ranks rows without probabilities, returns `core.target.decisions`.
        """

    @abstractmethod
    def save(self, model: Any, directory: Path) -> None:
        """Write the model into an empty directory, in a format that holds no code."""

    @abstractmethod
    def load(self, directory: Path) -> Any:
        """Read what `save` wrote. The files' sizes and hashes are verified; treat their content as untrusted.

        An adapter may add keyword arguments for what no file may specify (such as a user's class): `rayline.load(path, …)`
        accepts them too.
        """

    # -- methods with a default ------------------------------------------------------------------------------------

    def owns(self, model: Any) -> bool:
        """Return whether this is a native model of the framework. Must not import the library in order to answer False."""
        return False

    def load_options(self, model: Any) -> dict[str, Any]:
        """Return the keyword arguments that `load` needs for this model: they are sent with it between processes of one
        program, and never written to a file."""
        return {}

    def inspect(self, model: Any) -> ModelInfo:
        """Return what can be read from a native model."""
        return ModelInfo(Task.REGRESSION)

    def task(self, *args: Any, **kwargs: Any) -> Task | Literal["classification"] | None:
        """Return the task that the arguments imply; None when it depends on the labels. "classification" means binary or
        multiclass, depending on the number of distinct labels, also for numeric labels."""
        return None

    def trains_on_workers(self, *args: Any, **kwargs: Any) -> bool:
        """Return whether a training with these arguments can run on several workers."""
        return self.distributed

    def objective(self, *args: Any, **kwargs: Any) -> Objective:
        """Return what the arguments say about the target: the task, the labels that can be learned, quantiles."""
        return Objective(self.task(*args, **kwargs))

    def check(self, *args: Any, **kwargs: Any) -> None:
        """Raise ParameterError on arguments that `train` does not accept. Runs on the driver, before any data moves."""
        try:
            inspect.signature(self.train).bind(None, *args, **kwargs)
        except TypeError as error:
            allowed = [p.name for p in inspect.signature(self.train).parameters.values()][1:]
            unknown = [k for k in kwargs if k not in allowed]
            if unknown:
                raise ParameterError.unknown(f"{self.name} trainer", unknown, allowed) from error
            raise ParameterError(f"{self.name} trainer: {error}.", f"Expected the arguments {allowed}.") from error

    def environment_spec(self, *args: Any, **kwargs: Any) -> EnvironmentSpec:
        """Return what the models of a framework that generates its own data read and predict, given the trainer's arguments."""
        raise NotImplementedError(
            f"{type(self).__name__}.environment_spec, which a framework with generates_own_data = True needs"
        )

    def configure(self, args: Sequence[Any], kwargs: Mapping[str, Any], changes: Mapping[str, Any]) -> Arguments:
        """Return the arguments with tuned values inserted: as a keyword of `train` where one has this name, otherwise as a
        key of the first argument when that is a dict of parameters. Raises ParameterError when neither accepts it."""
        accepted = dict([*inspect.signature(self.train).parameters.items()][1:])  # without the context
        takes_dict = bool(args) and isinstance(args[0], Mapping)
        open_ended = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
        new_args, new_kwargs = list(args), dict(kwargs)
        unknown = []
        for key, value in changes.items():
            if key in accepted:
                new_kwargs[key] = value
            elif takes_dict:
                new_args[0] = {**new_args[0], key: value}
            elif open_ended:
                new_kwargs[key] = value
            else:
                unknown.append(key)
        if unknown:
            raise ParameterError.unknown(f"{self.name} trainer", unknown, list(accepted))
        return tuple(new_args), new_kwargs

    def validation_argument(self, *args: Any, **kwargs: Any) -> str:
        """Return the name of the argument that requires a test set (early stopping); empty when none does."""
        return ""

    def resumable_iterations(self, *args: Any, **kwargs: Any) -> int:
        """Return the number of iterations of a training with these arguments, if it can resume from a checkpoint
        (`TrainContext.resume`) even with other arguments than it began with; 0 if it cannot. Resumed with the same
        arguments, it does what an uninterrupted training would have done, except for random numbers."""
        return 0

    def argument(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Return the value of an argument of `train` for these arguments, or its default."""
        bound = inspect.signature(self.train).bind(None, *args, **kwargs)
        bound.apply_defaults()
        return bound.arguments[name]

    def memory_bytes(self, n_rows: int, width: int, n_outputs: int, *args: Any, **kwargs: Any) -> int:
        """Return the memory that a worker needs at least to train on this number of rows and matrix columns with these
        arguments; 0 where it does not depend on the number of rows, or is not known. A training that needs more than there is
        is refused before it starts."""
        return 0

    def owns_callback(self, callback: Any) -> bool:
        """Return whether this is a callback object of the library itself: it is passed to `train` in `callbacks=[…]`.
        Must not import the library in order to answer False."""
        return False

    def records(self, callback: Any) -> bool:
        """Return whether a callback of the library only records into an object of the user and keeps no state between
        trainings: such a callback is passed unchanged, all other arguments are copied."""
        return False

    def best_iteration(self, model: Any) -> int | None:
        """Return the last iteration that predictions use, counted from 0, if early stopping has chosen one; else None."""
        return None

    def without_gpu(self) -> str:
        """Return why the installed library cannot use any GPU and what to install instead; empty when it can."""
        return ""

    def gpu_arguments(self, *args: Any, **kwargs: Any) -> str:
        """Return the trainer's argument that asks for a GPU in the library's own words, such as "device='cuda'"; empty when
        none does. It then counts as `use_gpu=True`."""
        return ""

    def cpu_arguments(self, *args: Any, **kwargs: Any) -> str:
        """Return why a training with these arguments would compute on the CPU in spite of `use_gpu=True`; empty when not."""
        return ""

    def predicts_on_cpu(self, model: Any) -> str:
        """Return why this model cannot predict on a GPU although others of the framework can; empty when it can."""
        return ""

    def place(self, model: Any, device: Any) -> Any:
        """Return the model on a device (`rayline.device.Device`), for `predict`: the model itself when it is there already,
        otherwise one that leaves the given model as it is. From a GPU to the CPU the model itself may be moved."""
        return model

    def predicts_margins(self, model: Any) -> bool:
        """Return whether `predict` returns raw scores of a classifier instead of probabilities, as with a custom objective:
        above 0 means the second class; of several classes the largest score is chosen. Such scores only rank rows."""
        return False

    def scores(self, model: Any, features: Features, target: Target) -> Array:
        """Return the scores of `predict` in the form that `target` reads."""
        scores = self.predict(model, features)
        return target.of_margins(scores) if target.task.is_classification and self.predicts_margins(model) else scores

    def members(self, model: Any, features: Features, target: Target) -> Array | None:
        """Return the values of each member of a model that is a mean of several, shape (n, members, targets), on the scale of the
        labels; None for any other model."""
        return None

    @contextlib.contextmanager
    def limited_threads(self, n_threads: int) -> Iterator[None]:
        """Limit, in this context, the threads of libraries that take no number of threads as an argument of a training."""
        yield

    @contextlib.contextmanager
    def coordinate(self, world_size: int, host: str) -> Iterator[Mapping[str, Any]]:
        """Run on the driver around a distributed training; yields what `context.rendezvous` will hold on the workers."""
        yield {}

    def single_row_view(self, model: Any) -> Any:
        """Return the model for serving a few rows per call: the same predictions to the bit, with one thread where the library
        would start many. Threads that wait for each other make short calls slow on a busy machine."""
        return model

    def to_onnx(self, model: Any, width: int) -> Any:
        """Return the model as an ONNX model with one float32 input of shape (rows, width) and the scores as its last output.

        Raises ParameterError when the framework does not support it.
        """
        raise ParameterError(
            f"to_onnx: models of {self.name!r} have no form in ONNX here.",
            "Expected a framework whose adapter implements to_onnx.",
        )

    def importance(self, model: Any, names: Sequence[str]) -> dict[str, float] | None:
        """Return how important each feature is to the model; None when the model cannot tell."""
        return None

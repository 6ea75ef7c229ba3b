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

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import polars as pl

from rayline.core import paired_labels, row_stream
from rayline.core.abilities import (
    Arguments,
    ConcurrentTraining,
    DistributedTraining,
    EarlyStoppingSupport,
    EnsembleMembers,
    EnvironmentSpec,
    FeatureImportance,
    GpuComputing,
    MemoryBound,
    ModelInfo,
    NativeCallbacks,
    NativeModels,
    OnnxExport,
    OwnEnvironment,
    ResumableTraining,
    ScoreContributions,
    SingleRowServing,
    TargetSupport,
    TrainerArguments,
)
from rayline.core.errors import ParameterError
from rayline.core.features import Array, Features
from rayline.core.objective import Objective
from rayline.core.schema import as_schema, col, stacked
from rayline.core.target import Target, Task

__all__ = ["Arguments", "EnvironmentSpec", "Framework", "ModelInfo", "Rows", "TrainContext"]

T = TypeVar("T")


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
        self._blocks, self.schema, self._target, self._weight = list(blocks), as_schema(schema), target, weight
        self._memo = memo

    @classmethod
    def of(
        cls, table: pl.DataFrame, schema: Mapping[str, pl.DataType], target: Target, weight: str | None = None
    ) -> Rows:
        return cls([lambda: table], schema, target, weight)

    @cached_property
    def _table(self) -> pl.DataFrame:
        blocks = [block() for block in self._blocks]
        return stacked(blocks)

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
        table = row_stream.first_rows(self._blocks[first]())
        return Features(table.select(map(col, self.schema)), schema=self.schema)

    @cached_property
    def size_bytes(self) -> int:
        """The approximate size of the features in memory, from the size of a few rows."""
        return self.remember("size_bytes", lambda: int(self.n_rows * row_stream.bytes_per_row(self.head.table)))

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
        """For survival times: whether the model's scores are risks (Cox) and not times."""
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
        """The labels on their original scale, which predictions are compared with."""
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
        value: T = self._memo[key]
        return value

    @property
    def group_sizes(self) -> Array:
        """The number of rows of each group, in order, for a ranking whose rows are `in_groups`."""
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

    def pieces(self, n_rows: int | None = None) -> Iterator[Rows]:
        """Yield the rows block by block, in order; a block of more than `n_rows` in several pieces. By default these are at most
        `row_stream.MAX_BATCH_ROWS`, and fewer where a row is wide."""
        n_rows = n_rows or row_stream.matrix_rows(self.head.dense_width)
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
        """Release the loaded blocks; they are loaded again when they are needed."""
        self.__dict__.pop("_table", None)

    def _part(self, block: Callable[[], pl.DataFrame]) -> Rows:
        return Rows([block], self.schema, self._target, self._weight)

    def check_labels(self, objective: Objective) -> None:
        """Raise DataError on labels that are missing, were not seen in training, or that the objective cannot learn; nothing is
        kept of large tables.."""
        for part in [self] if self.is_small else self.pieces():
            labels = part.target
            if len(labels) and not (self._target.stages or self._target.task.is_classification):
                columns = labels.reshape(len(labels), -1).T
                for name, column in zip(
                    self._target.columns[: 1 if self.task.is_paired else None], columns, strict=False
                ):
                    objective.check_labels(name, column.min(), column.max())

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

    def columns(self, name: str | int) -> list[int]:
        """Return the columns of the feature matrix (`Features.matrix`) that hold a feature, or all features derived from a raw
        column of this name. A number is a matrix column already. Raises ParameterError when there is none."""
        places = self._places
        if name in places:
            return [*places[str(name)]]
        if isinstance(name, str):
            lineage = self.lineage()
            derived = [place for feature in lineage.get(name, ()) for place in places.get(feature, ())]
            if not derived:
                raise ParameterError.unknown([name], [*places, *(n for n in lineage if n not in places)])
            return derived
        if not 0 <= name < self.n_columns:
            raise ParameterError.value("the number of a feature", f"less than {self.n_columns}", name)
        return [int(name)]

    def by_column(self, values: Mapping[str | int, T]) -> dict[int, T]:
        """Translate a mapping by feature name into one by matrix column. Raises as `columns`."""
        return {place: value for name, value in values.items() for place in self.columns(name)}

    def groups(self, groups: Sequence[Sequence[str | int]]) -> list[list[int]]:
        """Translate groups of feature names into groups of matrix columns. Raises as `columns`."""
        return [[place for name in group for place in self.columns(name)] for group in groups]

    @property
    def n_columns(self) -> int:
        """The width of the feature matrix."""
        return max((place.stop for place in self._places.values()), default=0)

    @cached_property
    def _places(self) -> dict[str, range]:
        return self.train.head.places


class Framework(
    TrainerArguments,
    TargetSupport,
    DistributedTraining,
    ConcurrentTraining,
    ResumableTraining,
    EarlyStoppingSupport,
    NativeModels,
    NativeCallbacks,
    SingleRowServing,
    OnnxExport,
    FeatureImportance,
    ScoreContributions,
    EnsembleMembers,
    MemoryBound,
    GpuComputing,
    OwnEnvironment,
    ABC,
):
    """An adapter: the only code that depends on its library. Instances have no state.

    Four methods make a framework: `train`, `predict`, `save` and `load`. What else it can do are the abilities of
    `rayline.core.abilities`, whose members have neutral defaults.

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

    # -- the four methods that every adapter implements ------------------------------------------------------------

    @abstractmethod
    def train(self, context: TrainContext, *args: Any, **kwargs: Any) -> Any:
        """Train on `context.train` and return the native model. The parameters after `context` are the trainer's arguments.

        Parameters
        ----------
        context
            The prepared rows (`train`, and `test` or None), the target, seed, threads and GPU of this worker; `report` is
            called after each iteration. Missing values are NaN in the matrix and null in the table.
        args, kwargs
            The arguments that the user gave the trainer, with tuned values inserted.

        Returns
        -------
        object
            The library's own model. With several workers every rank returns the same one.
        """

    @abstractmethod
    def predict(self, model: Any, features: Features) -> Array:
        """Return the scores, one for each row.

        Parameters
        ----------
        model
            A native model, as `train` or `load` returned it.
        features
            The preprocessed rows: `matrix` (float64, missing values NaN), or `table` (missing values null).

        Returns
        -------
        ndarray
            For a regression: values, shape (n,) or (n, targets), or (n, quantiles). For a ranking or a survival time: shape (n,).
            For a classification: probabilities of the second class, shape (n,) or (n, targets), or of all classes, shape
            (n, classes); or class codes (integers). A model whose labels are not the most probable classes, or that ranks rows
            without probabilities, returns `core.scores.decisions`.
        """

    @abstractmethod
    def save(self, model: Any, directory: Path) -> None:
        """Write the model into an empty directory, in a format that holds no code.

        Parameters
        ----------
        model
            A native model.
        directory
            An existing, empty directory. The names of files and their sizes become part of the artifact's digest.
        """

    @abstractmethod
    def load(self, directory: Path) -> Any:
        """Read what `save` wrote. The files' sizes and hashes are verified; treat their content as untrusted.

        An adapter may add keyword arguments for what no file may specify (such as a user's class): `rayline.load(path, …)`
        accepts them too.

        Parameters
        ----------
        directory
            The directory with the files of `save`.

        Returns
        -------
        object
            The native model: its predictions are those of the saved one, to the bit.
        """

    def scores(self, model: Any, features: Features, target: Target) -> Array:
        """Return the scores of `predict` in the form that `target` reads.

        Parameters
        ----------
        model
            A native model.
        features
            The preprocessed rows, as in `predict`.
        target
            The target of the model.

        Returns
        -------
        ndarray
            As `predict`, shape (n,) or (n, outputs); raw scores of a classifier that `predicts_margins` become records with
            a code and a margin.
        """
        scores = self.predict(model, features)
        return target.of_margins(scores) if target.task.is_classification and self.predicts_margins(model) else scores

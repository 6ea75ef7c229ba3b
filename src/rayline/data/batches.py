"""`data.map_batches`: a function of batches, or a model's method, on every GPU of the cluster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import polars as pl

from rayline import device
from rayline.core import registry
from rayline.core.arguments import known_arguments
from rayline.core.data_types import DataT
from rayline.core.engine import Placement
from rayline.core.errors import ParameterError, at
from rayline.device import UseGPU

BatchFormat: TypeAlias = Literal["numpy", "pandas", "pyarrow", "polars"]
"""The type of a batch that a function is given."""

WHERE = "data.map_batches"


@known_arguments
@at(WHERE)
def map_batches(
    data: DataT,
    function: Callable[[Any], Any],
    *,
    use_gpu: UseGPU | None = None,
    batch_size: int | None = None,
    batch_format: BatchFormat = "numpy",
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    concurrency: int | None = None,
) -> DataT:
    """Apply a function to batches of rows; with `use_gpu=True` on every GPU of the cluster.

    This is `Dataset.map_batches` of Ray with `use_gpu=`. `map_batches(ds, model.predict, use_gpu=True)` puts the model on
    each GPU once, in an actor that stays for all batches. A function of your own is loaded once by such an actor, too; the
    models in it predict on the actor's GPU.

    Parameters
    ----------
    data
        A ray.data.Dataset, which stays lazy, or a table in this process. A null is represented as in the batch format: NaN or
        None in NumPy.
    function
        `predict` or `predict_proba` of a Model or an InferencePipeline, its `transform`, or a function of a batch that
        returns a batch: a table of any kind, or a dict of arrays.
    use_gpu
        As in `InferencePipeline.predict`.
    batch_size
        The number of rows of a batch; a block when omitted, 4,096 rows on a GPU.
    batch_format
        What a function of your own is given: "numpy" (a dict of arrays, as in Ray), "pandas", "pyarrow" or "polars".
    num_cpus, num_gpus, concurrency
        As in `InferencePipeline.transform`.

    Returns
    -------
    Dataset or table
        Like `data`.

    Raises
    ------
    ParameterError
        When a GPU is asked for and the function's object computes on the CPU only (LightGBM, a Preprocessor).
    ResourceError
        When there is no GPU, or the framework's library was built without support for GPUs.

    Examples
    --------
    >>> import numpy as np, polars as pl
    >>> from rayline import data
    >>> table = pl.DataFrame({"x": [1.0, 2.0, 3.0]})
    >>> data.map_batches(table, lambda batch: {"y": 2 * batch["x"]})["y"].to_list()
    [2.0, 4.0, 6.0]

    On a Dataset, with a fitted pipeline:

    >>> data.map_batches(ds, pipeline.predict, use_gpu=True)  # doctest: +SKIP
    """
    device.check(use_gpu)
    Placement(batch_size, num_cpus, num_gpus, concurrency)  # checked before a model is moved
    owner: Any = getattr(function, "__self__", None)
    on_ray = registry.is_dataset(data)
    wish = use_gpu if use_gpu is not None else True if num_gpus else None
    if hasattr(owner, "placed_for"):
        owner, n_gpus = owner.placed_for(data, use_gpu, num_gpus if on_ray else None)
        work = _OfBatches(getattr(owner, function.__name__), "polars", is_local=True)
    else:
        if wish is True and type(owner).__module__.partition(".")[0] == "rayline":
            raise ParameterError(
                f"{WHERE}: use_gpu=True, and a {type(owner).__name__} computes on the CPU.",
                "Expected a model's predict, or a function of your own.",
                "leave use_gpu out.",
            )
        if wish == "auto" and on_ray:
            wish = registry.engine("ray").n_gpus() > 0
        elif wish is True and not on_ray:
            device.select_device(True)
        n_gpus = (num_gpus or 1.0) if wish is True and on_ray else None
        work = _OfBatches(function, batch_format, is_local=False)  # a batch is a block
    n_gpus = n_gpus if on_ray else num_gpus
    mapped: DataT = registry.engine_for(data).map(data, work, Placement(batch_size, num_cpus, n_gpus, concurrency))
    return mapped


@dataclass(frozen=True)
class _OfBatches:
    """A function of batches as a function of tables."""

    function: Callable[[Any], Any]
    batch_format: str
    is_local: bool

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame:
        batch = table.collect()
        returned = self.function(self._formatted(batch))
        if type(returned).__module__.partition(".")[0] in ("numpy", "builtins") and not isinstance(
            returned, (dict, list)
        ):
            raise ParameterError.value(
                "function", "one that returns a table or a dict of arrays", type(returned), where=WHERE
            )
        result: pl.DataFrame = self._local.collect(returned)
        return result.lazy()

    @cached_property
    def _local(self) -> Any:
        return registry.engine("local")

    def _formatted(self, batch: pl.DataFrame) -> Any:
        if self.batch_format == "numpy":
            return {name: column.to_numpy() for name, column in zip(batch.columns, batch.get_columns(), strict=True)}
        if self.batch_format == "pandas":
            return batch.to_pandas()
        return batch.to_arrow() if self.batch_format == "pyarrow" else batch

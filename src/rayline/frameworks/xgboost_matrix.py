"""Convert rows to XGBoost's matrices: all at once, or block by block into bins."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import xgboost

from rayline.core import adapters, memory, paired_labels, scratch
from rayline.core.feature_names import Escaping
from rayline.core.features import Array, Features
from rayline.core.framework import Rows, TrainContext
from rayline.core.schema import SPARSE
from rayline.core.task import Task
from rayline.device import CPU, Device, cupy_for, record

NAMES = Escaping({"[": "［", "]": "］", "<": "＜"})
"""Characters that XGBoost refuses in names of features, and the full-width forms that replace them (reversibly)."""


PIECE_BYTES, PIECE_ROWS = 8 << 20, 1 << 14
"""Rows that XGBoost reads at a time, at least so many; it makes two copies of them."""

BINS = 256
"""XGBoost's default for max_bin."""

EXTERNAL_SHARE = 0.5
"""Share of a worker's free memory that its bins may take; more of them are kept on disk."""


def keeps_bins(params: Mapping[str, Any]) -> bool:
    """Return whether the tree method needs only the bins of the features."""
    has_trees = params.get("booster", "gbtree") != "gblinear" and "updater" not in params
    return has_trees and params.get("tree_method", "hist") in ("hist", "auto")


def bin_bytes(n_rows: int, width: int, params: Mapping[str, Any]) -> int:
    """Return the size of the bins of a matrix."""
    return adapters.bytes_of_bins(n_rows, width, int(params.get("max_bin") or BINS))


def exceeds_memory(context: TrainContext, params: Mapping[str, Any]) -> bool:
    """Return whether this worker's bins take more than `EXTERNAL_SHARE` of its part of the free memory."""
    free = memory.available_bytes()
    hosts = [address.rpartition(":")[0] for address in context.worker_addresses] or [""]
    neighbours = hosts.count(hosts[context.rank % len(hosts)])
    rows = sum(rows.n_rows for rows in (context.train, context.test) if rows is not None)
    return free is not None and bin_bytes(rows, context.n_columns, params) > EXTERNAL_SHARE * free / neighbours


def on_any_rank(flag: bool, context: TrainContext) -> bool:
    """Return whether the flag is set on any rank."""
    if context.world_size == 1:
        return flag
    return bool(xgboost.collective.allreduce(np.array([flag], np.int32), xgboost.collective.Op.MAX)[0])


def matrices(
    context: TrainContext, params: Mapping[str, Any], gpu: Device, held: contextlib.ExitStack, *, continues: bool
) -> tuple[Any, dict[str, Any]]:
    """Return the training rows, and the sets that are evaluated, by name.

    Small test rows stay as they are, large ones become bins of the training rows. Trees of another training have other bins, so that a
    training that `continues` them needs the values.
    """
    # All ranks communicate while they compute bins: none may skip it because its rows are one block.
    stream = context.world_size > 1 or context.train.n_blocks > 1 or (not gpu.is_gpu and _is_large(context, continues))
    folders: list[Path] | list[None] = [None, None]
    if stream and not gpu.is_gpu and keeps_bins(params) and on_any_rank(exceeds_memory(context, params), context):
        folders = [held.enter_context(scratch.folder("bins")) for _ in range(2)]
    kind = ("DMatrix", params.get("nthread"), params.get("max_bin") if stream else None, gpu)
    if folders[0] is None:
        train = context.train.remember(kind, lambda: matrix(context.train, params, stream=stream, gpu=gpu))
    else:
        train = matrix(context.train, params, stream=True, cache=folders[0])
    sets = {"train": train} if context.log_train_metrics else {}
    if context.test is not None:
        bins = stream and keeps_bins(params) and not continues and on_any_rank(not context.test.is_small, context)
        options: dict[str, Any] = {"stream": True, "reference": train, "cache": folders[1]} if bins else {}
        sets["test"] = matrix(context.test, params, **options)
    return train, sets


@contextlib.contextmanager
def without_names(matrices: Sequence[Any]) -> Iterator[Callable[[Any], Any]]:
    """Take the names of the columns off the matrices of a training: XGBoost reads and compares them several times before each iteration,
    which takes as long as a tree of a small table. Yields a function that gives a model those of the first matrix."""
    about = [(data, data.feature_names, data.feature_types) for data in matrices]
    _, names, types = about[0]

    def named(booster: Any) -> Any:
        booster.feature_names, booster.feature_types = names, types
        return booster

    try:
        for data, _, kinds in about:
            data.feature_names = None
            if "c" not in (kinds or ()):  # XGBoost reads from the types which columns are categories
                data.feature_types = None
        yield named
    finally:
        for data, own_names, kinds in about:
            data.feature_names, data.feature_types = own_names, kinds


def _is_large(context: TrainContext, continues: bool) -> bool:
    """Return whether the rows are large and may become bins: a training that goes on reads the values, as its trees may have other bins."""
    goes_on = continues or context.resume is not None
    return not (goes_on or context.target.task.is_paired or context.train.is_small)


def matrix(
    rows: Rows,
    params: Mapping[str, Any],
    *,
    stream: bool = False,
    gpu: Device = CPU,
    reference: Any = None,
    cache: Path | None = None,
) -> Any:
    """Return the rows as an XGBoost matrix.

    Parameters
    ----------
    rows, params
        The rows, and XGBoost's parameters.
    stream
        Whether a QuantileDMatrix takes them block by block and keeps only their bins, if the tree method needs only bins.
    gpu
        With CuPy the blocks go to this GPU and become bins there; without it XGBoost moves the matrix when the training begins.
    reference
        The matrix of the training rows, whose bins are used.
    cache
        A directory in which the bins are kept instead of in memory.
    """
    cupy = None if any(dtype == SPARSE for dtype in rows.schema.values()) else cupy_for(gpu)
    if not ((stream or cupy is not None) and keeps_bins(params)):
        return xgboost.DMatrix(**_arguments(rows), nthread=params.get("nthread"), enable_categorical=True)
    options = {
        "nthread": params.get("nthread"), "max_bin": params.get("max_bin"), "ref": reference, "enable_categorical": True
    }  # fmt: skip
    if cache is None:
        return xgboost.QuantileDMatrix(_Blocks(rows, cupy, gpu), **options)
    return xgboost.ExtMemQuantileDMatrix(_Blocks(rows, cache_prefix=str(cache / "bins")), **options)


def _arguments(rows: Rows, *, streamed: bool = False) -> dict[str, Any]:
    features = rows.features
    if not features.n_rows and (features.categories or streamed):
        # XGBoost needs a row on every rank to know the categories and the columns: a rank without rows gets one of weight 0.
        features = Features(pl.DataFrame(schema=features.schema).clear(1), schema=features.schema)
        arguments = _labels(rows, _no_label(rows), np.zeros(1))
    else:
        arguments = _labels(rows, rows.target, rows.weight)
    if not features.has_vectors:
        table = features.table
        return {"data": table.rename({name: NAMES.escape(name) for name in table.columns}), **arguments}
    # It has more columns than features, and no names. XGBoost treats values that a sparse matrix does not store as missing.
    return {"data": features.matrix(zeros=True), "feature_types": _kinds(features), **arguments}


def _arguments_on_gpu(rows: Rows, cupy: Any, gpu: Device) -> dict[str, Any]:
    """Return the same with the features as one matrix on the GPU, under the same names."""
    features = rows.features
    names = None if features.has_vectors else [NAMES.escape(name) for name in features.names]
    data = cupy.asarray(record("batch", gpu, features.matrix()))
    labels = _labels(rows, rows.target, rows.weight)
    return {"data": data, **labels, "feature_names": names, "feature_types": _kinds(features)}


def _kinds(features: Features) -> list[str]:
    """Return XGBoost's type of each matrix column: "c" for categories, "q" for numbers."""
    kinds = ["q"] * max((place.stop for place in features.places.values()), default=0)
    for place in features.category_places:
        kinds[place] = "c"
    return kinds


def _no_label(rows: Rows) -> Array:
    """Return the label of a row without weight: a time is 1, everything else 0."""
    return np.full((1, *rows.target.shape[1:]), 1.0 if rows.task is Task.SURVIVAL else 0.0)


def _labels(rows: Rows, target: Array, weight: Array | None) -> dict[str, Any]:
    """Return labels and weights under XGBoost's names for them; of a ranking the weights are those of groups."""
    if rows.task is Task.RANKING:
        sizes = paired_labels.sizes(target[:, 1])
        if weight is not None:
            weight = paired_labels.group_weights(weight, sizes)
        return {"label": target[:, 0], "weight": weight, "qid": np.repeat(np.arange(len(sizes)), sizes)}
    if rows.task is Task.SURVIVAL:
        if rows.predicts_risk:  # Cox
            return {"label": paired_labels.signed_times(target), "weight": weight}
        low, high = target.T
        return {"label_lower_bound": low, "label_upper_bound": high, "weight": weight}
    return {"label": target, "weight": weight}


class _Blocks(xgboost.DataIter):
    """Iterates over rows in blocks, for a QuantileDMatrix that keeps only their bins: the same ones however the rows are cut.

    XGBoost copies what it is given, so that large blocks come in pieces; those of a GPU, of a ranking (whose groups are not cut) and
    of bins on disk (each a page there) come whole.
    """

    def __init__(self, rows: Rows, cupy: Any = None, gpu: Device = CPU, cache_prefix: str | None = None) -> None:
        super().__init__(cache_prefix=cache_prefix, release_data=True, on_host=False)
        self._rows = rows
        self._is_cut = cupy is None and cache_prefix is None and rows.task is not Task.RANKING
        self._left = self._parts()
        on_gpu = functools.partial(_arguments_on_gpu, cupy=cupy, gpu=gpu)
        self._arguments = functools.partial(_arguments, streamed=True) if cupy is None else on_gpu

    def _parts(self) -> Iterator[Rows]:
        row_bytes = max(1.0, self._rows.size_bytes / max(1, self._rows.n_rows))
        return (
            self._rows.pieces(max(PIECE_ROWS, int(PIECE_BYTES / row_bytes))) if self._is_cut else self._rows.batches()
        )

    def reset(self) -> None:
        self._left = self._parts()

    def next(self, input_data: Any) -> bool:
        rows = next(self._left, None)
        if rows is not None:
            input_data(**self._arguments(rows))
        return rows is not None

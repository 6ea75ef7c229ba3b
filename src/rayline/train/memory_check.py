"""Refuse a training whose rows do not fit into the memory of its workers, before any worker starts."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from rayline.core import memory, registry, row_stream
from rayline.core.errors import ResourceError, counted
from rayline.core.memory import readable_size
from rayline.core.schema import SPARSE, dense_width
from rayline.train.fit_request import FitRequest
from rayline.train.scaling import Scaling

MEASURED_ROWS = 64
"""The number of rows of an empty table whose size says that of one row."""


def refuse_too_large(request: FitRequest, n_rows: int, *, collected: bool = False) -> None:
    """Raise ResourceError, with the arithmetic, when a worker needs more memory for its share of the rows than it has.

    The framework says what it needs (`Framework.memory_bytes`); nothing is refused where it does not say, where the width of the
    features is unknown, or where the system does not say what is free.

    Parameters
    ----------
    request
        The training.
    n_rows
        The number of training rows.
    collected
        Whether this process collects the rows of a Dataset first, and needs memory for them too.
    """
    width, scaling = _width(request.spec.features), request.scaling
    if width is None:
        return
    workers = scaling.min_workers
    share = -(-n_rows // (workers or 1))
    calls = [(phase.args, phase.kwargs) for phase in request.phases] or [(request.args, request.kwargs)]
    needed = max(
        request.adapter.memory_bytes(share, width, request.spec.target.n_outputs, *args, **kwargs)
        for args, kwargs in calls
    )
    rows = int(share * _row_bytes(request.spec.features)) if collected else 0
    available = _available(scaling, needed + rows)
    if available is None or needed + rows <= available:
        return
    where = f"each of {counted(workers, 'worker')}" if workers else "this process"
    collects = f", of which {readable_size(rows)} are the rows of the Dataset, which are collected here" if rows else ""
    raise ResourceError.here(
        f"{request.framework} needs about {readable_size(needed + rows)} in {where}, which has {readable_size(available)}.",
        f"Expected room for {counted(share, 'row')} × {counted(width, 'feature')}, as {request.framework} keeps them: "
        f"{readable_size((needed + rows) / max(share, 1) * 1_000_000)} per million rows{collects}.",
        "use more workers or nodes with more memory, fewer features, or a framework that streams on workers (XGBoost with hist, PyTorch, "
        "an estimator with partial_fit and epochs=).",
    )


def _available(scaling: Scaling, needed: int) -> int | None:
    """Return the memory that a worker has; None where it is not known, or where too little is needed for that to matter."""
    if requested := (scaling.resources_per_worker or {}).get("memory"):
        return int(requested)
    if needed <= row_stream.HELD_BYTES:
        return None
    if scaling.min_workers is None:
        return memory.available_bytes()
    available: int | None = registry.engine("ray").worker_memory(
        scaling.min_workers, scaling.resources_per_worker, use_gpu=scaling.use_gpu, timeout_s=scaling.timeout_s
    )
    return available


def _width(features: Mapping[str, pl.DataType]) -> int | None:
    if any(dtype == SPARSE for dtype in features.values()):
        return None
    return sum(map(dense_width, features.values()))


def _row_bytes(features: Mapping[str, pl.DataType]) -> float:
    """Return the bytes of a row in a Polars table, without those of strings and lists themselves."""
    return pl.DataFrame(schema=features).clear(MEASURED_ROWS).estimated_size() / MEASURED_ROWS

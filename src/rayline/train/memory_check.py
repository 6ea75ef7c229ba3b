"""Refuse a training whose rows do not fit into the memory of its workers, before any worker starts."""

from __future__ import annotations

import polars as pl

from rayline.core import memory, registry
from rayline.core.errors import ResourceError, counted
from rayline.core.memory import readable_size
from rayline.core.schema import SPARSE
from rayline.train.fit_request import FitRequest


def refuse_too_large(request: FitRequest, n_rows: int) -> None:
    """Raise ResourceError, with the arithmetic, when a worker needs more memory for its share of the rows than it has.

    The framework says what it needs (`Framework.memory_bytes`); nothing is refused where it does not say, where the width of the
    features is unknown, or where the system does not say what is free.
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
    if not needed:
        return
    if workers is None:
        available = memory.available_bytes()
    else:
        available = registry.engine("ray").worker_memory(
            workers, scaling.resources_per_worker, use_gpu=scaling.use_gpu, timeout_s=scaling.timeout_s
        )
    if available is None or needed <= available:
        return
    where = "this process" if workers is None else f"each of {counted(workers, 'worker')}"
    raise ResourceError.here(
        f"{request.framework} needs about {readable_size(needed)} in {where}, which has {readable_size(available)}.",
        f"Expected room for {counted(share, 'row')} × {counted(width, 'feature')}, as {request.framework} keeps them: "
        f"{readable_size(needed / max(share, 1) * 1_000_000)} per million rows.",
        "use more workers or nodes with more memory, fewer features, or a framework that streams (XGBoost with hist, PyTorch).",
    )


def _width(features: pl.Schema) -> int | None:
    if any(dtype == SPARSE for dtype in features.values()):
        return None
    return sum(dtype.size if isinstance(dtype, pl.Array) else 1 for dtype in features.values())

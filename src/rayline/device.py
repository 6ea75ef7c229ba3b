"""Devices: on which processor this process computes. The only module that looks for GPUs and chooses one.

A worker of Ray uses the GPU that Ray assigned to it, and none when Ray assigned none, whatever the machine has. A process
without Ray uses the first GPU that it sees. The driver of a cluster looks for none: its workers have them.
"""

from __future__ import annotations

import contextlib
import glob
import os
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np

from rayline.core.arguments import ParameterCheck
from rayline.core.errors import ParameterError, ResourceError, at
from rayline.core.waiting import say

T = TypeVar("T")

UseGPU: TypeAlias = bool | Literal["auto"]
"""True for a GPU or an error, False for the CPU, "auto" for a GPU where there is one."""

TrainOnGPU: TypeAlias = Annotated[
    bool,
    ParameterCheck(
        "True or False: a training runs on the requested device",
        lambda value: value is None or isinstance(value, (bool, np.bool_)),
        hint="shares of a GPU are resources_per_worker={'GPU': 0.5}; \"auto\" is for predictions.",
    ),
]
"""Whether each worker of a training gets a GPU."""

PRETENDED = "RAYLINE_PRETENDED_GPUS"
"""The environment variable that tests set to names of PyTorch's devices, such as "cpu,cpu": these then count as GPUs, in this
process and in those that it starts. Builds of libraries are not checked."""


@dataclass(frozen=True)
class Device:
    """A processor, by the name that PyTorch and XGBoost have for it: "cpu", "cuda:0"."""

    name: str
    is_gpu: bool = False

    @property
    def is_cuda(self) -> bool:
        """Whether it is a real GPU: False for a pretended one, too. PyTorch calls AMD's GPUs "cuda" as well."""
        return self.name.startswith("cuda")


CPU = Device("cpu")


def visible() -> list[Device]:
    """Return the GPUs that this process may use; in a worker of Ray those that Ray assigned to it."""
    assigned = _assigned()
    if is_pretended():
        devices = [Device(name, is_gpu=True) for name in os.environ[PRETENDED].split(",") if name]
        return devices if assigned is None else devices[: len(assigned)]
    if assigned is not None:
        return [Device(f"cuda:{place}", is_gpu=True) for place in _places(assigned)]
    limit = os.environ.get("CUDA_VISIBLE_DEVICES", os.environ.get("HIP_VISIBLE_DEVICES"))
    n = len(glob.glob("/dev/nvidia[0-9]*")) or int(os.path.exists("/dev/kfd") or os.path.exists("/dev/dxg"))
    if limit is not None:
        named = [name for name in limit.split(",") if name.strip()]
        n = 0 if not named or named[0].strip() in ("-1", "NoDevFiles") else min(n, len(named)) if n else 0
    return [Device(f"cuda:{i}", is_gpu=True) for i in range(n)]


def _places(assigned: Sequence[str]) -> list[int]:
    """Return the numbers under which a worker of Ray sees its GPUs.

    Ray shows it only these, unless RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES is set; Ray Train may show it those of all workers of
    its node.
    """
    shown = os.environ.get("CUDA_VISIBLE_DEVICES", os.environ.get("HIP_VISIBLE_DEVICES"))
    if shown is None:
        return [int(number) for number in assigned if number.isdigit()]
    names = [name.strip() for name in shown.split(",")]
    return [names.index(number) if number in names else place for place, number in enumerate(assigned)]


def is_pretended() -> bool:
    """Return whether a test says which devices are GPUs."""
    return PRETENDED in os.environ


def _assigned() -> list[str] | None:
    """Return the ids of the GPUs that Ray assigned to this worker; None outside of Ray's workers."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    context = ray.get_runtime_context()
    if context.worker.mode != ray.WORKER_MODE:
        return None
    return [str(number) for number in context.get_accelerator_ids().get("GPU", ())]


def is_assigned() -> bool:
    """Return whether this is a worker to which Ray assigned a GPU."""
    return bool(_assigned())


def check(use_gpu: Any) -> None:
    """Raise ParameterError when this is no value of `use_gpu=`."""
    if use_gpu is not None and not isinstance(use_gpu, bool) and not (isinstance(use_gpu, str) and use_gpu == "auto"):
        raise ParameterError.value("use_gpu", 'True, False, or "auto" for a GPU where there is one', use_gpu)


def select_device(use_gpu: UseGPU | None) -> Device:
    """Return the device that this process computes on.

    Parameters
    ----------
    use_gpu
        True for a GPU, False for the CPU, "auto" for a GPU where there is one. None for the GPU that Ray assigned to this
        worker, and the CPU where it assigned none.
    where
        The call, for the error.

    Raises
    ------
    ResourceError
        With `use_gpu=True`, when this process has no GPU.
    """
    check(use_gpu)
    if use_gpu is False or (use_gpu is None and not is_assigned()):
        return CPU
    devices = visible()
    if devices:
        return devices[0]
    if use_gpu is not True:
        return CPU
    by_ray = _assigned() is not None
    raise ResourceError.here(
        f"use_gpu=True, and {'Ray assigned no GPU to this worker' if by_ray else 'this machine has no GPU that this process may use'}.",
        f"Expected a GPU; CUDA_VISIBLE_DEVICES is {os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')!r}.",
        "request one from Ray (num_gpus=1)." if by_ray else "leave use_gpu out, or run it on a machine with a GPU.",
    )


# -- moving -----------------------------------------------------------------------------------------------------------------


class Move(NamedTuple):
    """Something that was put on a device: "model", "batch" or "result"."""

    what: str
    device: Device
    value: Any


_listeners: ContextVar[tuple[list[Move], ...]] = ContextVar("rayline_moves", default=())


@contextlib.contextmanager
def recorded() -> Iterator[list[Move]]:
    """Record every move in this thread, for tests: models and batches to a device, results back to the host."""
    moves: list[Move] = []
    token = _listeners.set((*_listeners.get(), moves))
    try:
        yield moves
    finally:
        _listeners.reset(token)


def record(what: str, device: Device, value: T) -> T:
    """Note that a value is moved to a device (a result: from it), and return the value."""
    for moves in _listeners.get():
        moves.append(Move(what, device, value))
    return value


_devices: dict[int, Device] = {}
"""The GPUs on which models are, by the id of the model: not every library's models are hashable."""


def device_of(model: Any) -> Device:
    """Return the device that a library's model was trained or placed on by Rayline; the CPU for any other model."""
    return _devices.get(id(model), CPU)


def trained_on(device: Device, model: T) -> T:
    """Remember that a model is on a device, and return it."""
    if not device.is_gpu:
        _devices.pop(id(model), None)
        return model
    if id(model) not in _devices:
        weakref.finalize(model, _devices.pop, id(model), None).atexit = False
    _devices[id(model)] = device
    return record("model", device, model)


def placed(model: Any, device: Device, move: Callable[[Any], object] = lambda model: None) -> Any:
    """Return a model on a device: a copy on a GPU; on the CPU the model itself. `move` tells the library where the model is."""
    if device_of(model) == device:
        return model
    moved = model.copy() if device.is_gpu else model
    move(moved)
    return trained_on(device, moved) if device.is_gpu else record("model", device, trained_on(device, moved))


@contextlib.contextmanager
def pretend(*names: str) -> Iterator[None]:
    """Count PyTorch's devices of these names as GPUs, for tests: `pretend("cpu")` is a machine with a GPU that computes on
    the CPU; `pretend()` has none. Processes that are started inside see the same."""
    before = os.environ.get(PRETENDED)
    os.environ[PRETENDED] = ",".join(names)
    try:
        yield
    finally:
        os.environ.pop(PRETENDED)
        if before is not None:
            os.environ[PRETENDED] = before


def cupy_for(device: Device) -> Any:
    """Return the module CuPy for arrays on a real GPU; None where it is not installed."""
    if not device.is_cuda:
        return None
    try:
        import cupy
    except ImportError:
        return None
    return cupy


# -- memory -----------------------------------------------------------------------------------------------------------------

_OUT_OF_MEMORY = ("out of memory", "memory allocation", "bad_alloc", "insufficient memory")
"""How XGBoost, CatBoost and CUDA itself describe it; PyTorch has a class of error for it."""


def release_memory() -> None:
    """Give memory that this process has reserved on its GPUs and does not use back to other processes."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that a GPU has no memory left."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    text = str(error).lower()
    of_a_library = isinstance(error, RuntimeError) or bool(kinds & {"XGBoostError", "CatBoostError"})
    return "OutOfMemoryError" in kinds or (of_a_library and any(words in text for words in _OUT_OF_MEMORY))


def megabytes(n_bytes: float) -> str:
    """Return a size in words.

    >>> megabytes(1_500_000), megabytes(12e9)
    ('1.5 MB', '12,000 MB')
    """
    size = n_bytes / 1e6
    return f"{size:,.0f} MB" if size >= 10 else f"{size:.2g} MB"


def out_of_memory(batch: str, model_bytes: float | None, hint: str) -> ResourceError:
    """Return the error for a GPU whose memory a batch and a model exceed."""
    return ResourceError.here(
        f"the GPU is out of memory with {batch}{f' and a model of {megabytes(model_bytes)}' if model_bytes else ''}.",
        "Expected the model, the batch and the intermediate results to fit into the GPU's memory.",
        hint,
    )


_limits: dict[int, int] = {}
"""The batch sizes, in rows, that were found to fit, by the id of the model on a device."""


def _limit(model: Any, rows: int) -> int:
    if id(model) not in _limits:  # not every library's models are hashable
        weakref.finalize(model, _limits.pop, id(model), None).atexit = False
    _limits[id(model)] = rows
    return rows


def in_batches(
    n_rows: int,
    batch_rows: int,
    compute: Callable[[slice], T],
    *,
    device: Device,
    model: Any,
    model_bytes: Callable[[], float],
) -> list[T]:
    """Return what `compute` gives for the rows, batch by batch. On a GPU that is out of memory the batch is halved, and a line
    on stderr says so; the smaller size is kept for the next call with this model.

    Parameters
    ----------
    n_rows, batch_rows
        The number of rows, and the most in a batch.
    compute
        Called with the slices of the rows, in order.
    device, model, model_bytes
        Where it computes, with what, and how large that is in bytes.

    Raises
    ------
    ResourceError
        When the GPU has no memory for a batch of one row.
    """
    parts, start, size = [], 0, min(batch_rows, _limits.get(id(model), batch_rows) if device.is_gpu else batch_rows)
    while start < n_rows:
        part = slice(start, min(start + size, n_rows))
        try:
            parts.append(compute(part))
            start = part.stop
            continue
        except Exception as error:  # each library has its own
            if not (device.is_gpu and is_out_of_memory(error)):
                raise
            n = part.stop - start
            if n <= 1:
                hint = "use a GPU with more memory, or a smaller model."
                with at("predict"):
                    raise out_of_memory("a batch of 1 row", model_bytes(), hint) from error
        # Here, not above: the error holds the tensors of the batch that failed.
        size = _limit(model, (n + 1) // 2)
        say(
            f"predict: the GPU is out of memory with batches of {n:,} rows (model {megabytes(model_bytes())}); now {size:,}"
        )
        if device.is_cuda:
            release_memory()
    return parts

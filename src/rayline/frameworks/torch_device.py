"""PyTorch modules and batches on a device: placed once, batches copied while the one before is computed."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from rayline.core.errors import ParameterError, ResourceError, place
from rayline.device import CPU, Device, is_out_of_memory, out_of_memory, record

AHEAD = 2
"""Batches that are copied to a GPU before the first of them is computed."""


def of(module: Any) -> Device:
    """Return the device of a module: that of its first parameter or buffer, and whether `placed` has called it a GPU."""
    first = next((tensor for tensors in (module.parameters(), module.buffers()) for tensor in tensors), None)
    noted = getattr(module, _ATTRIBUTE, None)
    if isinstance(noted, Device) and (first is None or noted.name.partition(":")[0] == first.device.type):
        return noted
    return CPU if first is None or first.device.type == "cpu" else Device(str(first.device), is_gpu=True)


_ATTRIBUTE = "rayline_device"


def moved(module: Any, device: Device) -> Any:
    """Move a module in place to a device, for training, and return it."""
    if of(module) == device:
        return module
    if device.is_cuda:
        torch.cuda.set_device(device.name)  # for what names no device: communication, the user's own loop
    module.to(device.name)
    setattr(module, _ATTRIBUTE, device)
    return record("model", device, module)


def placed(module: Any, device: Device) -> Any:
    """Return a module on a device: a copy whose numbers are there, while the module stays where it is. To the CPU the module itself
    is moved."""
    if of(module) == device:
        return module
    if not device.is_gpu:
        return moved(module, device)
    memo: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        there = tensor.detach().to(device.name, copy=True)
        is_parameter = isinstance(tensor, torch.nn.Parameter)
        memo[id(tensor)] = torch.nn.Parameter(there, requires_grad=tensor.requires_grad) if is_parameter else there
    copied = copy.deepcopy(module, memo)  # what is in the memo is not copied: the numbers never are twice on the host
    setattr(copied, _ATTRIBUTE, device)
    return record("model", device, copied)


def size_bytes(module: Any) -> float:
    """Return the memory of a module's parameters and buffers."""
    return float(sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers())))


@contextlib.contextmanager
def naming_memory(module: Any, batch: str) -> Iterator[None]:
    """Raise ResourceError with the sizes of the batch and of the module when a GPU is out of memory in this context."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        hint = "use a smaller batch, mixed_precision=True, or a smaller module; more workers share a batch of TorchTrainer."
        raise out_of_memory(batch, size_bytes(module), hint) from error


def compiled(module: Any, how: bool | Mapping[str, Any]) -> Any:
    """Return the module as `torch.compile` makes it, with the same parameters; the module itself when `how` is False."""
    return torch.compile(module, **(how if isinstance(how, Mapping) else {})) if how else module


def check_compile(how: Any) -> None:
    """Raise ParameterError when `how` is neither a boolean nor arguments of `torch.compile`."""
    known = {*inspect.signature(torch.compile).parameters} - {"model"}
    if isinstance(how, Mapping) and (unknown := {*how} - known):
        raise ParameterError.unknown(unknown, known, where=f"{place()}: compile")
    if not isinstance(how, (bool, Mapping)):
        raise ParameterError.value("compile", "True, False, or a dict of arguments of torch.compile", how)


def check_bfloat16(device: Device) -> None:
    """Raise ResourceError when a GPU does not compute in bfloat16."""
    if device.is_cuda and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ResourceError(
            f"train.fit: mixed_precision=True, and the GPU {torch.cuda.get_device_name(device.name)} does not compute in bfloat16.",
            "Expected an NVIDIA GPU of 2020 or later (compute capability 8.0), or one of AMD's that does.",
            "leave mixed_precision out.",
        )


class Feed:
    """Puts batches on a device. On a GPU they are copied from pinned memory by a stream of their own, while it still computes the
    batch before; at most `AHEAD` are under way, however far ahead of the GPU this process is."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device.name) if device.is_cuda else None
        self._computed: deque[Any] = deque()

    def __call__(self, batch: Any) -> Any:
        """Return a batch (a tensor, or a dict or tuple of them) on the device; None stays None."""
        if not self.device.is_gpu:
            return batch
        record("batch", self.device, batch)
        if self._stream is None:
            return _mapped(batch, lambda tensor: tensor.to(self.device.name))
        current = torch.cuda.current_stream(self.device.name)
        with torch.cuda.stream(self._stream):
            there = _mapped(batch, lambda tensor: tensor.pin_memory().to(self.device.name, non_blocking=True))
        current.wait_stream(self._stream)
        for tensor in _tensors(there):
            tensor.record_stream(current)  # its memory is not used again before the batch is computed
        self._computed.append(current.record_event())
        if len(self._computed) > AHEAD:
            self._computed.popleft().synchronize()
        return there

    def fetch(self, output: Any) -> Any:
        """Return an output as a tensor of the host."""
        return record("result", self.device, output.cpu()) if self.device.is_gpu else output.cpu()


def _mapped(batch: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(batch, torch.Tensor):
        return function(batch)
    if isinstance(batch, Mapping):
        return {name: _mapped(value, function) for name, value in batch.items()}
    return None if batch is None else tuple(_mapped(value, function) for value in batch)


def _tensors(batch: Any) -> Iterator[Any]:
    if isinstance(batch, torch.Tensor):
        yield batch
    elif batch is not None:
        for value in batch.values() if isinstance(batch, Mapping) else batch:
            yield from _tensors(value)


def without_gpu() -> str:
    """Return why the installed PyTorch uses no GPU; empty when it can."""
    built = torch.version.cuda or getattr(torch.version, "hip", None)
    return "" if built else "this build of PyTorch is for CPUs; pip install torch from an index of builds with CUDA"

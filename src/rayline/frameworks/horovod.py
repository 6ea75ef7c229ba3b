"""Horovod: `train.HorovodTrainer` is `TorchTrainer` with Horovod between the workers."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from rayline.compat.deep_learning import close_horovod_server
from rayline.core.errors import ParameterError, needing
from rayline.core.features import Array
from rayline.core.framework import TrainContext
from rayline.frameworks.torch import Torch
from rayline.frameworks.torch_loop import SingleProcess

RECIPE = (
    "there are no wheels. `make horovod` of Rayline's sources builds it in a few minutes; by hand: "
    "pip install torch wheel 'setuptools<81' packaging cloudpickle psutil pyyaml cffi cmake; "
    "an executable file g++17 with the lines '#!/bin/sh' and 'exec g++ \"$@\" -std=gnu++17'; "
    "CXX=$PWD/g++17 CMAKE_POLICY_VERSION_MINIMUM=3.5 HOROVOD_WITH_PYTORCH=1 HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_MPI=1 "
    "HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1 HOROVOD_CPU_OPERATIONS=GLOO "
    "pip install --no-build-isolation horovod==0.28.1"
)
"""How to build Horovod; its last version, of 2023, needs changes for current PyTorch and CMake."""

with needing("HorovodTrainer", "horovod", "horovod", RECIPE):
    import horovod.torch as hvd
    import torch
    from horovod.runner.common.util.hosts import SlotInfo
    from horovod.runner.http.http_server import RendezvousServer


class Horovod(Torch):
    """`TorchTrainer` with Horovod's ring between the workers: the same arguments, and the same model.

    In a `train_loop` of your own, `horovod.torch` is initialised, and your loop shares the gradients
    (`horovod.torch.DistributedOptimizer`).
    """

    name = "horovod"
    package = "horovod"
    models = "torch"

    def owns(self, model: Any) -> bool:
        return False  # they are PyTorch's

    def without_gpu(self) -> str:
        if not (hvd.cuda_built() or hvd.rocm_built()):
            return (
                "this Horovod was built for CPUs; HOROVOD_GPU_OPERATIONS=NCCL builds one that shares gradients on GPUs"
            )
        return super().without_gpu()

    def check(self, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("lightning_module") is not None:
            raise ParameterError(
                "horovod trainer: lightning_module is trained by Lightning, which brings its own communication.",
                "Expected module=….",
                "train it with TorchTrainer.",
            )
        super().check(*args, **kwargs)

    def communication(self, context: TrainContext) -> contextlib.AbstractContextManager[SingleProcess]:
        return HorovodCommunicator.of(context) if context.world_size > 1 else contextlib.nullcontext(SingleProcess())

    @contextlib.contextmanager
    def coordinate(self, world_size: int, host: str) -> Iterator[Mapping[str, Any]]:
        server = RendezvousServer()
        port = server.start()
        # Each rank counts as a separate host: the real hosts are not known yet, and matter only for hierarchical sums.
        server.init([SlotInfo(f"rank-{rank}", rank, 0, rank, world_size, 1, world_size) for rank in range(world_size)])
        try:
            yield {"HOROVOD_GLOO_RENDEZVOUS_ADDR": host, "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port)}
        finally:
            server.stop()
            close_horovod_server(server)


class HorovodCommunicator(SingleProcess):
    """Communication through Horovod."""

    def wrap(self, module: Any, device: Any) -> Any:
        hvd.broadcast_parameters(module.state_dict(), root_rank=0)
        return module

    def share_gradients(self, module: Any) -> None:
        wanted = [p for p in module.parameters() if p.requires_grad]
        for parameter in wanted:
            if parameter.grad is None:  # unused on this rank, but perhaps used on another
                parameter.grad = torch.zeros_like(parameter)
        hvd.grouped_allreduce_([p.grad for p in wanted], op=hvd.Average, name="gradients")

    def total(self, values: Array, device: Any) -> Array:
        sums = hvd.allreduce(torch.from_numpy(np.array(values, np.float64)), op=hvd.Sum, name="total")
        return np.asarray(sums.numpy())

    def gather(self, value: Any) -> list[Any]:
        return list(hvd.allgather_object(value, name="values"))

    def sync_buffers(self, module: Any) -> None:
        hvd.broadcast_parameters(module.state_dict(), root_rank=0)

    @classmethod
    @contextlib.contextmanager
    def of(cls, context: TrainContext) -> Iterator[HorovodCommunicator]:
        """Open the communication for the time of a training run."""
        variables: dict[str, Any] = {
            "HOROVOD_RANK": context.rank,
            "HOROVOD_SIZE": context.world_size,
            "HOROVOD_LOCAL_RANK": 0,
            "HOROVOD_LOCAL_SIZE": 1,
            "HOROVOD_CROSS_RANK": context.rank,
            "HOROVOD_CROSS_SIZE": context.world_size,
            "HOROVOD_HOSTNAME": f"rank-{context.rank}",
            "HOROVOD_CONTROLLER": "gloo",
            "HOROVOD_CPU_OPERATIONS": "gloo",
            **context.rendezvous,
        }
        os.environ.update({name: str(value) for name, value in variables.items()})
        hvd.init()
        try:
            yield cls()
        finally:
            hvd.shutdown()
            for name in variables:
                os.environ.pop(name, None)

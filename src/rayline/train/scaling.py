"""The scaling of a training: the number of workers, their resources, and the handling of lost workers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from os import PathLike
from typing import Any, Literal

from rayline.core.arguments import integer, known_arguments
from rayline.core.data_types import Seconds
from rayline.core.errors import ParameterError, at, place
from rayline.core.files import checked_path
from rayline.core.representation import representation
from rayline.device import TrainOnGPU

Backend = Literal["actors", "ray_train"]

WorkerPlacement = Literal["pack", "spread"]

WORKER_OPTIONS = ("max_failures", "storage_path", "backend", "placement", "timeout_s")
"""The fields that have no effect on a training in this process."""


@known_arguments
@dataclass(frozen=True, repr=False)
class Scaling:
    """The scaling of a training, as one value that several trainers can share.

    `XGBoostTrainer(…, num_workers=2, use_gpu=True)` and `XGBoostTrainer(…, scaling=Scaling(num_workers=2, use_gpu=True))` are the
    same trainer; `trainer.scaling` returns the value in both cases.

    Parameters
    ----------
    num_workers
        The number of Ray workers; None trains in this process. A pair `(min, max)` is a range: the training begins with as
        many workers as the cluster has room for, and goes on with fewer when a node is lost. A range implies
        `backend="ray_train"`.
    use_gpu
        Whether every worker gets a GPU and the framework uses it.
    resources_per_worker
        Ray resources of a worker, as {"CPU": 2}. When omitted, the workers share the cluster's CPUs. Without `num_workers`, those of a
        trial of `tune.run`; `{"memory": …}` also bounds a training in this process.
    max_failures
        How often the training restarts from the last checkpoint after a worker has died. This and all that follows needs `num_workers`.
    storage_path
        Where checkpoints of workers are kept: a directory that all workers can access, or a URL that pyarrow or fsspec opens.
    backend
        What starts and watches the workers: "actors" (plain Ray actors, which start in a second or two), or "ray_train" (Ray
        Train's controller: elastic groups, its storage and its dashboard, and a start of several seconds).
    placement
        "pack": on as few nodes as possible, so that workers exchange less over the network. "spread": evenly over the nodes,
        which have more memory and disks together.
    timeout_s
        The most seconds that a training waits for the resources of its workers, as others hold them or an autoscaler adds nodes. When
        omitted it waits as long as it takes. After 5 seconds a line says what is waited for, and who holds it.

    Raises
    ------
    ParameterError
        On a value that is not allowed, with the name of the parameter, and on one that has no effect without `num_workers`.

    Examples
    --------
    >>> from rayline import train
    >>> scaling = train.Scaling(num_workers=2, resources_per_worker={"CPU": 1})
    >>> trainer = train.XGBoostTrainer({"max_depth": 3}, scaling=scaling)
    >>> trainer.num_workers, trainer.scaling == scaling
    (2, True)
    """

    num_workers: int | tuple[int, int] | None = None
    use_gpu: TrainOnGPU = False
    resources_per_worker: Mapping[str, float] | None = None
    max_failures: int = 0
    storage_path: str | PathLike[str] | None = None
    backend: Backend = "actors"
    placement: WorkerPlacement = "pack"
    timeout_s: Seconds | None = None

    __repr__ = representation

    def __post_init__(self) -> None:
        if isinstance(self.resources_per_worker, Mapping):
            object.__setattr__(self, "resources_per_worker", dict(self.resources_per_worker))
        if isinstance(self.num_workers, (list, tuple)):
            object.__setattr__(self, "num_workers", tuple(self.num_workers))
            object.__setattr__(self, "backend", "ray_train")
        object.__setattr__(self, "use_gpu", bool(self.use_gpu))
        with at(place() or "Scaling"):
            self._check()

    def _check(self) -> None:
        if isinstance(self.num_workers, tuple):
            _check_range(self.num_workers)
        else:
            integer("num_workers", self.num_workers, optional=True)
        integer("max_failures", self.max_failures, minimum=0)
        if self.storage_path is not None:
            checked_path(self.storage_path, "storage_path")
        resources: Any = self.resources_per_worker
        if resources is not None and not (isinstance(resources, dict) and all(map(_is_resource, resources.items()))):
            raise ParameterError.value("resources_per_worker", 'amounts of at least 0, such as {"CPU": 2}', resources)
        for field in fields(self) if self.num_workers is None else ():
            value = getattr(self, field.name)
            if field.name in WORKER_OPTIONS and value != field.default:
                raise ParameterError.here(
                    f"{field.name}={value!r} needs workers, and num_workers is not set.",
                    "Expected num_workers, a number or a range (min, max).",
                    f"pass num_workers=1, or leave {field.name} out.",
                )

    @property
    def max_workers(self) -> int | None:
        """The largest number of workers; None trains in this process."""
        return self.num_workers[1] if isinstance(self.num_workers, tuple) else self.num_workers

    @property
    def min_workers(self) -> int | None:
        """The smallest number of workers that a training goes on with; None trains in this process."""
        return self.num_workers[0] if isinstance(self.num_workers, tuple) else self.num_workers

    @property
    def is_elastic(self) -> bool:
        """Whether the number of workers is a range."""
        return isinstance(self.num_workers, tuple)

    @classmethod
    def of(cls, scaling: Scaling | None, **flat: Any) -> Scaling:
        """Return the scaling that flat keywords build, or `scaling` when that is given.

        Parameters
        ----------
        scaling
            A `Scaling`, or None.
        flat
            The fields by name. With a `scaling` they must have their defaults.

        Returns
        -------
        Scaling
            A checked one.

        Raises
        ------
        ParameterError
            On a value that is not allowed, and on a field that is given both ways.
        """
        if scaling is None:
            result = cls(**flat)
        elif not isinstance(scaling, Scaling):
            raise ParameterError.value("scaling", "a train.Scaling(…), or None", scaling)
        else:
            result = scaling
            twice = [field.name for field in fields(cls) if flat.get(field.name, field.default) != field.default]
            if twice:
                raise ParameterError.here(
                    f"{twice[0]} is given twice.",
                    f"Expected it once, as {twice[0]}=… or in scaling=Scaling(…).",
                    "leave one of them out.",
                )
        return result


def _check_range(bounds: Sequence[Any]) -> None:
    whole = len(bounds) == 2 and all(isinstance(n, int) and not isinstance(n, bool) for n in bounds)
    if not whole or not 1 <= bounds[0] <= bounds[1]:
        raise ParameterError.value("num_workers", "an integer of at least 1, or a range (min, max)", bounds)


def _is_resource(item: tuple[Any, Any]) -> bool:
    name, amount = item
    is_number = isinstance(amount, (int, float)) and not isinstance(amount, bool)
    return isinstance(name, str) and bool(name) and is_number and 0 <= amount < math.inf

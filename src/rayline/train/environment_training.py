"""Fits of frameworks that generate their own data: refuse arguments about rows, plan the workers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import polars as pl

from rayline.core import registry
from rayline.core.errors import ParameterError, ResourceError
from rayline.train.base_trainer import BaseTrainer
from rayline.train.fit_driver import FitDriver
from rayline.train.fit_inputs import ColumnRoles, DataArguments, FitInputs
from rayline.train.fit_request import FitRequest, TrainingSpec
from rayline.train.progress import ProgressLine
from rayline.train.scaling import WORKER_OPTIONS, Scaling
from rayline.train.training_run import TrainingRun, n_threads
from rayline.train.worker import LocalWorker, WorkerOutcome, train_on


class EnvironmentFit(FitDriver):
    """A fit without data: the framework generates its own in this process, and starts its own workers."""

    takes_rows = False

    @property
    def uses_this_gpu(self) -> bool:
        return not self.trainer.num_workers  # otherwise the learner, too, is an actor of Ray

    def read(self, arguments: DataArguments) -> None:
        refuse_data(self.trainer, preprocessor=self.preprocessor, **vars(arguments), metrics=self.trainer.metrics)
        self.inputs = FitInputs(None, None, ColumnRoles(pl.Schema()))

    def resolve(self, line: ProgressLine) -> FitRequest:
        spaces = self.trainer.adapter.environment_spec(*self.trainer.args, **self.trainer.kwargs)
        self.examples = spaces.examples
        return FitRequest.of(self.trainer, TrainingSpec(spaces.target, spaces.features, has_rows=False))

    def run(self, request: FitRequest, training: TrainingRun) -> WorkerOutcome:
        nothing = pl.DataFrame(schema=request.spec.features)
        scaling = replace(request.scaling, resources_per_worker=worker_resources(self.trainer))
        worker = LocalWorker([lambda: nothing], None, training.report, training.keep, n_threads())
        return train_on(replace(request, scaling=scaling), worker)


def refuse_data(trainer: BaseTrainer, **arguments: Any) -> None:
    """Raise ParameterError when data are given, or an argument that applies to rows or to our own workers only."""
    for name in WORKER_OPTIONS:
        value = getattr(trainer.scaling, name)
        if name != "max_failures" and value != getattr(Scaling(), name):
            raise ParameterError.here(
                f"{trainer.framework} starts its own workers, and {name}={value!r} is given.",
                f"Expected num_workers, use_gpu, resources_per_worker and max_failures; got {trainer.scaling!r}.",
                f"leave {'the range' if trainer.scaling.is_elastic else name} out: num_workers=2, or another number.",
            )
    for name, value in {**arguments, "class_weight": trainer.class_weight}.items():
        if value is not None:
            raise ParameterError.here(
                f"{trainer.framework} generates its own data, and {name} is given.",
                f"Expected no data and nothing about rows; got {name} of type {type(value).__name__}.",
                f"leave {name} out: train.fit(trainer) is enough.",
            )


def worker_resources(trainer: BaseTrainer) -> dict[str, float]:
    """Return the resources of each of the framework's own workers, so that all of them fit into the cluster.

    Raises ResourceError, before anything starts, when they do not fit.
    """
    resources = dict(trainer.resources_per_worker or {})
    if trainer.num_workers:
        registry.engine("ray").connect()
        if trainer.wants_gpu and not registry.engine("ray").n_gpus():
            raise ResourceError.here(
                "use_gpu=True, and this Ray has no GPU for the learner.",
                "Expected a node with a GPU.",
                "leave use_gpu out, or connect to a cluster that has one.",
            )
        resources = {"CPU": registry.engine("ray").share(trainer.num_workers, resources), **resources}
    return resources

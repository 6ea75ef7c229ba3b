"""A trainer without its `fit`: a framework, its arguments, and how the training is scaled."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, Self

from rayline import device
from rayline.core import registry
from rayline.core.arguments import arguments_of, integer, known_arguments
from rayline.core.data_types import ClassWeight, Metrics, PosLabel
from rayline.core.errors import ParameterError, ResourceError, at, nearest
from rayline.core.framework import Framework
from rayline.device import TrainOnGPU
from rayline.evaluate import metrics as named_metrics
from rayline.evaluate.metric import Metric
from rayline.train.scaling import Scaling
from rayline.train.training_phases import Phase


@known_arguments
class BaseTrainer:
    """Hold a framework's arguments and the scaling of a training: everything that a fit reads of a trainer.

    `rayline.train.trainer.Trainer` adds `fit`, and documents the parameters. What a fit is made of (callbacks, results, the
    training run) imports this class, and so nothing of it imports what is built on top.
    """

    def __init__(
        self,
        framework: str | type[Framework],
        *arguments: Any,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        num_workers: int | tuple[int, int] | None = None,
        use_gpu: TrainOnGPU = False,
        resources_per_worker: Mapping[str, float] | None = None,
        seed: int | None = None,
        max_failures: int = 0,
        checkpoint_every: int | None = None,
        storage_path: str | PathLike[str] | None = None,
        scaling: Scaling | None = None,
        metrics: Metrics | None = None,
        class_weight: ClassWeight | None = None,
        pos_label: PosLabel | None = None,
        **framework_kwargs: Any,
    ) -> None:
        self.framework = framework if isinstance(framework, str) else framework.name
        if arguments and args is not None:
            raise ParameterError(
                f"{self._name}: positional arguments and args=[…] exclude each other.", "", "use one of them."
            )
        self.args = tuple(args) if args is not None else arguments
        twice = sorted({*framework_kwargs} & {*(kwargs or {})})
        if twice:
            raise ParameterError(f"{self._name}: {twice[0]!r} is given twice.", "", "leave it out of kwargs.")
        self.kwargs = {**(kwargs or {}), **framework_kwargs}
        self.metrics: tuple[str, ...] | None = None
        self.custom_metrics: dict[str, Metric] = {}
        with at(self._name):
            self.scaling = Scaling.of(
                scaling, num_workers=num_workers, use_gpu=use_gpu, resources_per_worker=resources_per_worker,
                max_failures=max_failures, storage_path=storage_path,
            )  # fmt: skip
            self.seed: int | None = integer("seed", seed, minimum=0, optional=True)
            self.checkpoint_every: int | None = integer("checkpoint_every", checkpoint_every, optional=True)
            if metrics is not None:
                self.metrics, self.custom_metrics = named_metrics.given(metrics)
        self.class_weight, self.pos_label = class_weight, pos_label
        self.phases: tuple[Phase, ...] = ()
        self._result: Any = None
        self.check()

    @property
    def num_workers(self) -> int | None:
        """The number of Ray workers, of a range the largest; None trains in this process."""
        return self.scaling.max_workers

    @property
    def use_gpu(self) -> bool:
        """Whether every worker gets a GPU."""
        return self.scaling.use_gpu

    @property
    def resources_per_worker(self) -> Mapping[str, float] | None:
        """The Ray resources of a worker; None for a share of the cluster's CPUs."""
        return self.scaling.resources_per_worker

    @property
    def max_failures(self) -> int:
        """The maximum number of replacements of a lost worker."""
        return self.scaling.max_failures

    @property
    def storage_path(self) -> str | PathLike[str] | None:
        """The location of the checkpoints of workers; None for the driver."""
        return self.scaling.storage_path

    @property
    def adapter(self) -> Framework:
        """The framework's adapter."""
        adapter = registry.framework(self.framework)
        assert isinstance(adapter, Framework)
        return adapter

    def check(self) -> None:
        """Check that the framework accepts the arguments and this number of workers. The constructor calls it.

        Raises
        ------
        ParameterError
            On an unknown argument, and on several workers for a framework that trains on one.
        """
        known = inspect.signature(self.adapter.train).parameters.values()
        names = [p.name for p in known][1:]
        misspelt = [] if any(p.kind is p.VAR_KEYWORD for p in known) else [n for n in self.kwargs if n not in names]
        if misspelt and not nearest(misspelt[0], names) and nearest(misspelt[0], [*_OPTIONS, "scaling"]):
            raise ParameterError.unknown(misspelt, [*names, *_OPTIONS, "scaling"], "argument", where=self._name)
        # A search space is refused later, by what knows where it belongs: a fit, or `tune.run` in favour of its config.
        values = {name: value for name, value in self.kwargs.items() if "tune" not in type(value).__module__}
        with at(self._name):
            arguments_of(type(self.adapter).train).verify_all((self, None, *self.args), values)
        self.adapter.check(*self.args, **self.kwargs)
        if (self.num_workers or 1) > 1 and not self.adapter.trains_on_workers(*self.args, **self.kwargs):
            raise ParameterError(
                f"{self._name}: {self.framework} trains on one worker only.",
                f"Expected num_workers=None or 1; got {self.num_workers}.",
                "leave num_workers out.",
            )

    @property
    def wants_gpu(self) -> bool:
        """Whether the training asks for a GPU: by `use_gpu=True`, or by the library's own argument (`device="cuda"`)."""
        return self.use_gpu or bool(self.adapter.gpu_arguments(*self.args, **self.kwargs))

    def check_gpu(self, *, callbacks: Sequence[Any] = ()) -> None:
        """Raise an error when a GPU is asked for and the training would compute on the CPU.

        Parameters
        ----------
        callbacks
            Callbacks of the library that are given to the fit.

        Raises
        ------
        ResourceError
            When the framework computes on CPUs, or its library was built without support for GPUs.
        ParameterError
            When the arguments ask for something that the framework computes on the CPU.
        """
        if not self.wants_gpu:
            return
        adapter = self.adapter
        gpu_argument = adapter.gpu_arguments(*self.args, **self.kwargs)
        requested = (
            f"use_gpu=True{f' ({gpu_argument})' if gpu_argument else ''}"
            if self.use_gpu or not gpu_argument
            else gpu_argument
        )
        if not adapter.trains_on_gpu:
            raise ResourceError.here(
                f"{requested}, and {self.framework} computes on the CPU, never on a GPU.",
                "Expected a framework that trains on GPUs: XGBoost, LightGBM, CatBoost, PyTorch, Hugging Face, RLlib.",
                "leave use_gpu out (a custom framework sets trains_on_gpu = True).",
            )
        reason = "" if device.is_pretended() else adapter.without_gpu()
        if reason:
            raise ResourceError.here(
                f"{requested}, and {self.framework} would compute on the CPU: {reason}.",
                "Expected a build of the library for GPUs.",
                "install that, or leave use_gpu out.",
            )
        kwargs = {**self.kwargs, **({"callbacks": [*callbacks]} if callbacks else {})}
        reason = adapter.cpu_arguments(*self.args, **kwargs)
        if reason:
            raise ParameterError.here(
                f"{requested}, and {reason}.",
                "Expected arguments of a training on a GPU.",
                "change them, or leave use_gpu out.",
            )

    def with_resources(self, use_gpu: bool | None = None, resources: Mapping[str, float] | None = None) -> Self:
        """Return a copy with other resources for each worker.

        Parameters
        ----------
        use_gpu
            Whether every worker gets a GPU; None leaves that to `resources`, or as it is.
        resources
            Amounts by resource, such as {"GPU": 0.25}, which counts as `use_gpu=True`. Keys may be written as Ray Tune does
            ("cpu", "gpu").

        Returns
        -------
        Trainer
            The trainer itself when neither is given.

        Raises
        ------
        ParameterError
            On an amount below 0, and as `check`.
        """
        if use_gpu is None and resources is None:
            return self
        if resources is not None and not (
            isinstance(resources, Mapping) and all(isinstance(n, str) for n in resources)
        ):
            raise ParameterError.value("resources_per_trial", 'resources by name, such as {"CPU": 2}', resources)
        named = {name.upper() if name.lower() in ("cpu", "gpu") else name: n for name, n in (resources or {}).items()}
        wish = use_gpu if use_gpu is not None else self.use_gpu or bool(named.get("GPU"))
        worker = {**(self.resources_per_worker or {}), **named} or None
        return self.scaled(dataclasses.replace(self.scaling, use_gpu=wish, resources_per_worker=worker))

    def remember(self, result: Any) -> None:
        """Keep the result of a fit, for `fitted_model`.

        Parameters
        ----------
        result
            A `train.Result`.
        """
        self._result = result

    def replace(self, config: Mapping[str, Any]) -> Self:
        """Return an unfitted copy with other values of the framework's parameters, as tuning sets them.

        Parameters
        ----------
        config
            New values: of a keyword of the trainer, or of a key of its dict of parameters.

        Returns
        -------
        Trainer
            A copy without a schedule; this one does not change.

        Raises
        ------
        ParameterError
            When the framework knows no such parameter, or refuses a value.
        """
        trainer = copy.copy(self)
        args, trainer.kwargs = self.adapter.configure(self.args, self.kwargs, config)
        trainer.args, trainer.phases, trainer._result = tuple(args), (), None
        trainer.check()
        return trainer

    def scaled(self, scaling: Scaling) -> Self:
        """Return an unfitted copy with another scaling.

        Parameters
        ----------
        scaling
            Workers, resources and storage, in place of all that the trainer had.

        Returns
        -------
        Trainer
            A copy; this one does not change.

        Raises
        ------
        ParameterError
            When a value is not allowed, or the framework cannot train like this.
        """
        trainer = copy.copy(self)
        with at(self._name):
            trainer.scaling, trainer._result = Scaling.of(scaling), None
        trainer.check()
        return trainer

    def measured(self, metrics: Metrics | None = None, pos_label: PosLabel | None = None) -> Self:
        """Return a copy with other metrics and another positive class.

        Parameters
        ----------
        metrics
            As in `Trainer`; None keeps those of the trainer.
        pos_label
            As in `Trainer`; None keeps that of the trainer.

        Returns
        -------
        Trainer
            The trainer itself when neither is given.

        Raises
        ------
        ParameterError
            On a metric that does not exist, or a function that cannot be called as one.
        """
        if metrics is None and pos_label is None:
            return self
        trainer = copy.copy(self)
        if metrics is not None:
            trainer.metrics, custom = named_metrics.given(metrics, self.custom_metrics)
            trainer.custom_metrics = {**self.custom_metrics, **custom}
        if pos_label is not None:
            trainer.pos_label = pos_label
        return trainer

    def scheduled(self, schedule: Sequence[tuple[int, Mapping[str, Any]]]) -> Self:
        """Return an unfitted copy whose parameters change during the training, as population based training finds them.

        Parameters
        ----------
        schedule
            Pairs of a number of iterations and the parameters until then: `[(20, {"eta": 0.3}), (50, {"eta": 0.1})]`
            trains 20 iterations, and from there up to the 50th with another rate.

        Returns
        -------
        Trainer
            A copy with the phases; this one does not change.

        Raises
        ------
        ParameterError
            When the framework cannot resume with other parameters, knows no such parameter, or runs fewer iterations; and
            with `num_workers`.

        Examples
        --------
        >>> from rayline import train
        >>> trainer = train.XGBoostTrainer({}, num_boost_round=50).scheduled([(20, {"eta": 0.3}), (50, {"eta": 0.1})])
        >>> [(phase.until, phase.args) for phase in trainer.phases]
        [(20, ({'eta': 0.3},)), (50, ({'eta': 0.1},))]
        """
        self.refuse_phases()
        phases, before = [], 0
        for number, (until, changes) in enumerate(schedule):
            changed = self.replace(changes)
            maximum = self.adapter.resumable_iterations(*changed.args, **changed.kwargs)
            if not (isinstance(until, int) and before < until <= maximum):
                raise ParameterError.value(
                    "schedule", f"rising numbers of iterations, of which there are {maximum}", until, where=self._name
                )
            phases.append(Phase(number, until, changed.args, changed.kwargs))
            before = until
        if not phases:
            raise ParameterError.value("schedule", "at least one pair", schedule, where=self._name)
        last = copy.copy(self)
        last.args, last.kwargs = tuple(phases[-1].args), dict(phases[-1].kwargs)
        last.phases, last._result = tuple(phases), None
        return last

    def refuse_phases(self) -> None:
        """Raise an error when this training cannot resume from a checkpoint with other parameters.

        Raises
        ------
        ParameterError
            For a framework that cannot resume, with `num_workers`, and with early stopping of the framework's own.
        """
        reason = ""
        if not self.adapter.resumable_iterations(*self.args, **self.kwargs):
            reason = f"{self.framework} cannot resume from a checkpoint with other parameters, as it is used here"
        elif self.num_workers is not None:
            reason = f"this trainer has num_workers={self.num_workers}"
        elif lacking := self.adapter.validation_argument(*self.args, **self.kwargs):
            reason = f"{lacking} would end each part of the training on its own"
        if reason:
            raise ParameterError(
                f"{self._name}: parameters cannot change during the training: {reason}.",
                "Expected a training in one process of a framework that can resume (XGBoost, LightGBM, PyTorch's standard loop).",
                "use parameters that stay the same.",
            )

    def __repr__(self) -> str:
        parts = self._shown_arguments
        flat = {field.name: field.default for field in dataclasses.fields(Scaling)}
        for name in _OPTIONS:
            value = getattr(self.scaling, name) if name in flat else getattr(self, name)
            if value != flat.get(name) if name in flat else value is not None:
                parts.append(f"{name}={value!r}")
        usual = ("ray_train" if self.scaling.is_elastic else "actors", "pack", None)
        if (
            self.scaling.backend,
            self.scaling.placement,
            self.scaling.timeout_s,
        ) != usual:  # these have no flat keyword
            parts = [*self._shown_arguments, f"scaling={self.scaling!r}"]
        phases = f".scheduled(<{len(self.phases)} parts, {self.phases[-1].until} iterations>)" if self.phases else ""
        return f"{self._name}({', '.join(parts)}){phases}"

    @property
    def _shown_arguments(self) -> list[str]:
        return [*map(repr, self.args), *(f"{k}={v!r}" for k, v in self.kwargs.items())]

    @property
    def _name(self) -> str:
        return type(self).__name__

    def __getstate__(self) -> dict[str, Any]:
        # A framework that was registered at run time travels with its trainer; the result stays here.
        return {**self.__dict__, "_result": None, "_adapter": registry.runtime_class(self.framework)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        adapter = state.pop("_adapter")
        if adapter is not None:
            registry.register_framework(adapter)
        self.__dict__.update(state)


_OPTIONS = (
    "num_workers", "use_gpu", "resources_per_worker", "seed", "max_failures", "checkpoint_every", "storage_path", "metrics",
    "class_weight", "pos_label",
)  # fmt: skip

"""The optional abilities of an adapter besides its four methods, each a few members with a neutral default.

An adapter has an ability when it overrides one of its members; nothing else has to be declared. `rayline.testing.check_framework` checks
each with a law of its own (`rayline.testing.ability_laws`).
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import polars as pl

from rayline.core.errors import ParameterError, first_line
from rayline.core.features import Array, Features
from rayline.core.objective import Objective
from rayline.core.target import Target, Task

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class ModelInfo:
    """The facts read from a native model of the framework, for `preprocessor.chain(booster)`.

    `features` holds names and types where the model stores them, `target` what it predicts.
    """

    task: Task
    n_classes: int = 2
    n_targets: int = 1
    feature_names: Sequence[str] | None = None
    features: pl.Schema | None = None
    target: Target | None = None


@dataclass(frozen=True)
class EnvironmentSpec:
    """The inputs and outputs of the models of a framework that generates its own data.

    Attributes
    ----------
    features
        Names and types of the observations.
    target
        The action.
    examples
        A few rows of features.
    metric
        The default metric of a training, by its name in the history.
    """

    features: pl.Schema
    target: Target
    examples: pl.DataFrame
    metric: str


class Ability:
    """The base of all abilities. `args` and `kwargs` are always the arguments of the trainer."""

    name: ClassVar[str]
    train: Any  # the method of the adapter


class TrainerArguments(Ability):
    """The meaning of the trainer's arguments. The defaults read the signature of `train`; an adapter overrides them to check values and
    to say where a tuned parameter goes. The trainer calls `check` in its constructor, a search `configure` for each trial."""

    iterations: ClassVar[str] = ""
    """The argument of `train` that sets the number of iterations; empty when there is none."""

    def check(self, *args: Any, **kwargs: Any) -> None:
        """Check the trainer's arguments on the driver, before any data moves. By default their names are those of `train`.

        Parameters
        ----------
        args, kwargs
            The arguments that the user gave the trainer.

        Raises
        ------
        ParameterError
            When `train` does not accept a name, or the arguments do not bind to it.
        """
        try:
            inspect.signature(self.train).bind(None, *args, **kwargs)
        except TypeError as error:
            allowed = [p.name for p in inspect.signature(self.train).parameters.values()][1:]
            unknown = [k for k in kwargs if k not in allowed]
            if unknown:
                raise ParameterError.unknown(unknown, allowed, where=f"{self.name} trainer") from error
            raise ParameterError(
                f"{self.name} trainer: {first_line(error)}.", f"Expected the arguments {allowed}."
            ) from error

    def configure(self, args: Sequence[Any], kwargs: Mapping[str, Any], changes: Mapping[str, Any]) -> Arguments:
        """Return the arguments with tuned values inserted: as a keyword of `train` where one has this name, otherwise as a
        key of the first argument when that is a dict of parameters.

        Parameters
        ----------
        args, kwargs
            The arguments of the trainer, which do not change.
        changes
            The tuned values by the name of the parameter.

        Returns
        -------
        tuple
            New positional arguments (a tuple) and new keyword arguments (a dict).

        Raises
        ------
        ParameterError
            When a name is neither a keyword of `train` nor can be a key of its first argument.
        """
        accepted = dict([*inspect.signature(self.train).parameters.items()][1:])  # without the context
        takes_dict = bool(args) and isinstance(args[0], Mapping)
        open_ended = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
        new_args, new_kwargs = list(args), dict(kwargs)
        unknown = []
        for key, value in changes.items():
            if key in accepted:
                new_kwargs[key] = value
            elif takes_dict:
                new_args[0] = {**new_args[0], key: value}
            elif open_ended:
                new_kwargs[key] = value
            else:
                unknown.append(key)
        if unknown:
            raise ParameterError.unknown(unknown, list(accepted), where=f"{self.name} trainer")
        return tuple(new_args), new_kwargs

    def argument(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Return the value of an argument of `train` for these arguments.

        Parameters
        ----------
        name
            The argument's name in the signature of `train`.
        args, kwargs
            The arguments of the trainer, which `check` has accepted.

        Returns
        -------
        object
            The value that was given, otherwise the default in the signature.
        """
        bound = inspect.signature(self.train).bind(None, *args, **kwargs)
        bound.apply_defaults()
        return bound.arguments[name]


class TargetSupport(Ability):
    """The targets and features that the framework takes, where its arguments or its precision say more than the labels. Asked once for
    each fit, on the driver, before any row moves."""

    string_features: ClassVar[str] = "refuse"
    """How it treats string features: "refuse", "categories" (passed as Enum columns), or "text" (passed unchanged)."""

    max_label: ClassVar[float] = math.inf
    """The largest label that it can learn from; finite for a framework that stores labels in single precision."""

    def task(self, *args: Any, **kwargs: Any) -> Task | Literal["classification"] | None:
        """Return the task that the arguments imply, where an adapter says nothing more about the target (`objective`).

        Returns
        -------
        Task, "classification" or None
            "classification" means binary or multiclass, depending on the number of distinct labels, also for numeric
            labels. None when the task depends on the labels alone.
        """
        return None

    def objective(self, *args: Any, **kwargs: Any) -> Objective:
        """Return what the arguments say about the target.

        Returns
        -------
        Objective
            The task, the labels that can be learned, and the quantiles to predict; by default the task of `task` alone.
        """
        return Objective(self.task(*args, **kwargs))

    def predicts_margins(self, model: Any) -> bool:
        """Return whether `predict` returns raw scores of a classifier instead of probabilities, as with a custom objective.

        Parameters
        ----------
        model
            A native model that was trained as a classifier.

        Returns
        -------
        bool
            With True a score above 0 means the second class, and of several classes the one with the largest score is
            chosen. Such scores only rank rows: `predict_proba` is refused.
        """
        return False


class DistributedTraining(Ability):
    """Training on several workers: `train` runs on each, on its share of the rows, and all ranks end with the same model. The engine
    starts and replaces the workers, and `coordinate` runs on the driver around them."""

    distributed: ClassVar[bool] = False
    """Whether it trains on several workers: `train` works with world_size > 1."""

    reuses_workers: ClassVar[bool] = False
    """Whether a worker's process that has trained can do so again, with the same result to the bit. Its workers are then kept from
    fit to fit and from fold to fold for a while; otherwise each training starts new ones. False for a library that joins its
    workers only once in a process."""

    def trains_on_workers(self, *args: Any, **kwargs: Any) -> bool:
        """Return whether a training with these arguments can run on several workers.

        Returns
        -------
        bool
            `distributed` by default; an adapter returns False for arguments that only one process supports.
        """
        return self.distributed

    @contextlib.contextmanager
    def coordinate(self, world_size: int, host: str) -> Iterator[Mapping[str, Any]]:
        """Run on the driver around a distributed training, for a tracker or a server that the workers need.

        Parameters
        ----------
        world_size
            The number of workers.
        host
            The address of the driver as the workers reach it.

        Yields
        ------
        Mapping
            What `context.rendezvous` will hold on every worker; empty by default.
        """
        yield {}


class ConcurrentTraining(Ability):
    """Several trainings at the same time in one process, each in a thread of its own: a search over a table then runs its trials
    like this, with a share of the CPUs each."""

    thread_safe_training: ClassVar[bool] = False
    """Whether several trainings and predictions may run in one process at the same time, each in its own thread. If not, a
    search in this process runs one trial at a time; a library that draws from global random numbers, or sets the number
    of threads for the whole process, is not."""

    @contextlib.contextmanager
    def limited_threads(self, n_threads: int) -> Iterator[None]:
        """Limit, in this context, the threads of libraries that take no number of threads as an argument of a training.

        Parameters
        ----------
        n_threads
            The number of threads that each call of the library may use.

        Yields
        ------
        None
            By default nothing is limited.
        """
        yield


class ResumableTraining(Ability):
    """Training in parts: from a checkpoint with other parameters, as `trainer.scheduled` and population based training need it. The
    same parameters give what an uninterrupted training gives."""

    def resumable_iterations(self, *args: Any, **kwargs: Any) -> int:
        """Return the number of iterations of a training with these arguments, if it can resume from a checkpoint
        (`TrainContext.resume`) even with other arguments than it began with.

        Returns
        -------
        int
            0 if it cannot resume. Resumed with the same arguments, a training does what an uninterrupted one would have
            done, except for random numbers.
        """
        return 0


class EarlyStoppingSupport(Ability):
    """Stopping on a test set: the argument that asks for it, and the iteration that predictions use afterwards. A fit without a test
    set is refused, and reports the metrics of that iteration."""

    def validation_argument(self, *args: Any, **kwargs: Any) -> str:
        """Return the name of the argument that requires a test set, such as "early_stopping_rounds".

        Returns
        -------
        str
            Empty when the training needs no test set. Otherwise a fit without one is refused with this name.
        """
        return ""

    def best_iteration(self, model: Any) -> int | None:
        """Return the last iteration that predictions use, if early stopping has chosen one.

        Parameters
        ----------
        model
            A native model.

        Returns
        -------
        int or None
            Counted from 0; None when predictions use all iterations.
        """
        return None


class NativeModels(Ability):
    """The library's own models: `preprocessor.chain(booster)`, `serve.to_deployment(module)` and `rayline.load` take them as they are.
    `inspect` reads names, types and classes where the model stores them."""

    models: ClassVar[str] = ""
    """The framework whose models it trains, where that is another one (Horovod trains PyTorch models)."""

    def owns(self, model: Any) -> bool:
        """Return whether this is a native model of the framework.

        Parameters
        ----------
        model
            Any object. The library must not be imported in order to answer False.

        Returns
        -------
        bool
            False by default: the framework takes no models that were trained elsewhere.
        """
        return False

    def inspect(self, model: Any) -> ModelInfo:
        """Return what can be read from a native model.

        Parameters
        ----------
        model
            A native model that `owns` accepts.

        Returns
        -------
        ModelInfo
            Its task, and names, types and classes where the model stores them.
        """
        return ModelInfo(Task.REGRESSION)

    def load_options(self, model: Any) -> dict[str, Any]:
        """Return the keyword arguments that `load` needs for this model.

        Parameters
        ----------
        model
            A native model.

        Returns
        -------
        dict
            Sent with the model between processes of one program, and never written to a file; empty by default.
        """
        return {}


class NativeCallbacks(Ability):
    """Callback objects of the library itself, passed in `train.fit(callbacks=[…])` beside those of Rayline. They come to `train` as
    its argument `callbacks`."""

    def owns_callback(self, callback: Any) -> bool:
        """Return whether this is a callback object of the library itself: it is passed to `train` in `callbacks=[…]`.

        Parameters
        ----------
        callback
            An object of `callbacks=` that is no `rayline.train.Callback`. The library must not be imported in order to
            answer False.

        Returns
        -------
        bool
            When no framework owns an object, the fit is refused.
        """
        return False

    def records(self, callback: Any) -> bool:
        """Return whether a callback of the library only records into an object of the user and keeps no state between trainings.

        Parameters
        ----------
        callback
            A callback that `owns_callback` accepts.

        Returns
        -------
        bool
            With True the callback is passed unchanged, so that the user sees what it recorded; all other arguments are
            copied for each training.
        """
        return False


class SingleRowServing(Ability):
    """A form of the model for a few rows per call, as an HTTP request has them: the same predictions to the bit, faster. Asked once
    when a pipeline first predicts few rows."""

    def single_row_view(self, model: Any) -> Any:
        """Return the model for serving a few rows per call: the same predictions to the bit, with one thread where the library
        would start many. Threads that wait for each other make short calls slow on a busy machine.

        Parameters
        ----------
        model
            A native model, which does not change.

        Returns
        -------
        object
            What `predict` takes in place of the model; by default the model itself.
        """
        return model


class OnnxExport(Ability):
    """The model as an ONNX graph, for `rayline.onnx.to_onnx`. The graph is compared with the pipeline before it is returned."""

    def to_onnx(self, model: Any, width: int) -> Any:
        """Return the model as an ONNX model.

        Parameters
        ----------
        model
            A native model.
        width
            The number of columns of the feature matrix.

        Returns
        -------
        onnx.ModelProto
            One float32 input of shape (rows, width), and the scores as the last output. A missing value is NaN.

        Raises
        ------
        ParameterError
            When the framework, or this model, cannot be exported to ONNX.
        """
        raise ParameterError(
            f"to_onnx: models of {self.name!r} cannot be exported to ONNX.",
            "Expected a framework whose adapter implements to_onnx.",
        )


class FeatureImportance(Ability):
    """The importance of each feature, for model cards and `model.importance()`."""

    def importance(self, model: Any, names: Sequence[str]) -> dict[str, float] | None:
        """Return how important each feature is to the model, by the library's own measure.

        Parameters
        ----------
        model
            A native model.
        names
            The names of the features, in the order of the matrix columns.

        Returns
        -------
        dict or None
            A number of at least 0 by feature; None when the model cannot tell.
        """
        return None


class FeatureContributions(NamedTuple):
    """The contribution of each feature to the scores of some rows.

    Attributes
    ----------
    values
        Float64, shape (n, outputs, columns of `Features.matrix`, or features where a feature is one column).
    base
        The score without any feature, shape (outputs,).
    is_linear
        Whether they are the terms of a linear model: compared with a feature of 0, not with the mean of the training rows.
    """

    values: Array
    base: Array
    is_linear: bool = False


class ScoreContributions(Ability):
    """The contribution of each feature to a score, for `pipeline.explain`; otherwise it is estimated from predictions."""

    def contributions(self, model: Any, features: Features) -> FeatureContributions | None:
        """Return what each feature adds to the model's raw score of each row (the log-odds of a classification); the base and the
        contributions add up to it.

        Parameters
        ----------
        model
            A native model.
        features
            The rows, at least one; missing values as in `predict`.

        Returns
        -------
        FeatureContributions or None
            `values` has shape (n, outputs, columns), `base` shape (outputs,). Outputs are the classes of a multiclass task,
            otherwise the targets. None for a model whose contributions the framework cannot compute.
        """
        return None


class EnsembleMembers(Ability):
    """The values of each member of a model that is a mean of several: the spread that prediction intervals are made from."""

    def members(self, model: Any, features: Features, target: Target) -> Array | None:
        """Return the values of each member of a model that is a mean of several.

        Parameters
        ----------
        model
            A native model.
        features
            The rows.
        target
            The target that the model predicts.

        Returns
        -------
        ndarray or None
            Shape (n, members, targets), on the scale of the labels; None for any other model.
        """
        return None


class MemoryBound(Ability):
    """The memory that a training needs, so that one that cannot fit is refused before it starts, with the arithmetic."""

    def memory_bytes(self, n_rows: int, width: int, n_outputs: int, *args: Any, **kwargs: Any) -> int:
        """Return the memory that a worker needs at least to train on this number of rows; a training that needs more than
        there is is refused before it starts.

        Parameters
        ----------
        n_rows
            The number of rows of the worker's share.
        width
            The number of columns of the feature matrix.
        n_outputs
            The number of scores of a row: targets, classes or quantiles.
        args, kwargs
            The arguments of the trainer.

        Returns
        -------
        int
            Bytes; 0 where the need does not depend on the number of rows, or is not known.
        """
        return 0

    def remembered_bytes(self, n_rows: int, width: int, *args: Any, **kwargs: Any) -> int:
        """Return about how much memory is taken by what `train` remembers of many rows (`Rows.remember`) from trial to trial.

        Parameters
        ----------
        n_rows
            The number of rows.
        width
            The number of columns of the feature matrix.
        args, kwargs
            The arguments of the trainer.

        Returns
        -------
        int
            Bytes; by default those of a matrix of float64.
        """
        return 8 * n_rows * width


class GpuComputing(Ability):
    """Training and predicting on a GPU, and why an installed library, some arguments or a model cannot. `use_gpu=True` is refused
    otherwise: it never computes on the CPU in silence."""

    trains_on_gpu: ClassVar[bool] = False
    """Whether `train` computes on a GPU with `context.use_gpu`; otherwise `use_gpu=True` is refused."""

    predicts_on_gpu: ClassVar[bool] = False
    """Whether `predict` computes on a GPU with a model that `place` has put there; otherwise `use_gpu=True` is refused."""

    def without_gpu(self) -> str:
        """Return why the installed library cannot use any GPU and what to install instead.

        Returns
        -------
        str
            Part of an error message, without a full stop; empty when the library can.
        """
        return ""

    def gpu_arguments(self, *args: Any, **kwargs: Any) -> str:
        """Return the library's own argument that asks for a GPU, such as "device='cuda'".

        Returns
        -------
        str
            Empty when none asks for one. Otherwise the training counts as one with `use_gpu=True`.
        """
        return ""

    def cpu_arguments(self, *args: Any, **kwargs: Any) -> str:
        """Return why a training with these arguments would compute on the CPU in spite of `use_gpu=True`.

        Parameters
        ----------
        args, kwargs
            The arguments of the trainer, with `callbacks` where the fit has some of the library's own.

        Returns
        -------
        str
            Part of an error message; empty when it computes on the GPU.
        """
        return ""

    def predicts_on_cpu(self, model: Any) -> str:
        """Return why this model cannot predict on a GPU although others of the framework can.

        Parameters
        ----------
        model
            A native model.

        Returns
        -------
        str
            Part of an error message; empty when it can.
        """
        return ""

    def place(self, model: Any, device: Any) -> Any:
        """Return the model on a device, for `predict`.

        Parameters
        ----------
        model
            A native model.
        device
            A `rayline.device.Device`: a GPU of this process, or the CPU.

        Returns
        -------
        object
            The model itself when it is there already, otherwise one that leaves the given model as it is. From a GPU to the
            CPU the model itself may be moved.
        """
        return model


class OwnEnvironment(Ability):
    """Data that the framework generates itself, in an environment. `train.fit(trainer)` then takes no rows, and `environment_spec`
    describes what the models read and predict."""

    fit_driver: ClassVar[str] = "table"
    """Which driver makes its fits and searches: "table" gives it rows. "environment" is for a framework that generates its own data:
    a fit takes no data, `environment_spec` describes what the models read and predict, and `train` runs in this process on a
    TrainContext without rows and starts its own workers."""

    def environment_spec(self, *args: Any, **kwargs: Any) -> EnvironmentSpec:
        """Return what the models of a framework that generates its own data read and predict.

        Returns
        -------
        EnvironmentSpec
            Observations, actions, a few example rows, and the default metric.

        Raises
        ------
        NotImplementedError
            When an adapter with `fit_driver = "environment"` does not override it.
        """
        raise NotImplementedError(
            f'{type(self).__name__}.environment_spec, which a framework with fit_driver = "environment" needs'
        )


ABILITIES: tuple[type[Ability], ...] = tuple(Ability.__subclasses__())
"""All abilities, in the order in which they stand here."""


def abilities_of(adapter: type) -> list[type[Ability]]:
    """Return the abilities that an adapter's class has: those of which it overrides a member.

    >>> from rayline.core import registry
    >>> FeatureImportance in abilities_of(type(registry.framework("xgboost")))
    True
    """

    def overrides(ability: type[Ability]) -> bool:
        members = {name: member for name, member in vars(ability).items() if not name.startswith("_")}
        return any(getattr(adapter, name) != member for name, member in members.items())

    return [ability for ability in ABILITIES if overrides(ability)]

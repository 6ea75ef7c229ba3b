"""PyTorch modules as data: how a module is built again, what goes into it, what its outputs mean."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import polars as pl

from rayline.core import strict_json
from rayline.core.errors import ArtifactError, DataError, MissingExtraError, ParameterError, SchemaError
from rayline.core.features import Array, Features
from rayline.core.framework import TrainContext
from rayline.core.target import Task

try:
    import torch
except ImportError as error:
    raise MissingExtraError.of("TorchTrainer", "torch", "torch") from error

M = TypeVar("M", bound=Callable[..., Any])

BATCH_ROWS = 4096
"""Rows that are predicted at a time."""

INPUTS = ("matrix", "columns")
"""How features go into a module: side by side as one tensor, or each column under its name."""

_ATTRIBUTE = "rayline_recipe"


# -- modules by name ---------------------------------------------------------------------------------------------------


class MLP(torch.nn.Module):
    """Fully connected layers.

    Parameters
    ----------
    in_features, out_features
        Width of the features and number of outputs; `TorchTrainer` fills them in.
    hidden
        Widths of the hidden layers.
    activation
        The name of a class of `torch.nn` without parameters: "ReLU", "SiLU", "Tanh", ….
    dropout
        The share of hidden values that are left out in training.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden: Sequence[int] = (64, 64),
        activation: str = "ReLU",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ParameterError.value("MLP", "activation", f"one of {list(ACTIVATIONS)}", activation)
        layers: list[Any] = []
        for width in hidden:
            layers += [torch.nn.Linear(in_features, width), getattr(torch.nn, activation)()]
            layers += [torch.nn.Dropout(dropout)] if dropout else []
            in_features = width
        self.layers = torch.nn.Sequential(*layers, torch.nn.Linear(in_features, out_features))

    def forward(self, x: Any) -> Any:
        return self.layers(x.flatten(1))


ACTIVATIONS = ("ReLU", "LeakyReLU", "ELU", "SELU", "GELU", "SiLU", "Mish", "Tanh", "Sigmoid", "Softplus")

_OWN: dict[str, Callable[..., Any]] = {"MLP": MLP, "Linear": torch.nn.Linear}
_REGISTERED: dict[str, Callable[..., Any]] = {}


def register_module(make: M) -> M:
    """Let saved models of this class, or of this function that makes a module, be loaded by `rayline.load` without
    further ado. Usable as a decorator; its name is the id in the file.

    Raises
    ------
    ParameterError
        When the name is one of Rayline's own modules.
    """
    if make.__name__ in _OWN:
        raise ParameterError.value(
            "register_module", "the name", f"none of Rayline's own {sorted(_OWN)}", make.__name__
        )
    _REGISTERED[make.__name__] = make
    return make


def resolve(module: Any) -> Any:
    """The class, function or module that a trainer's `module=` means. Raises ParameterError for anything else."""
    found = known().get(module) if isinstance(module, str) else module
    if isinstance(found, torch.nn.Module) or (callable(found) and not isinstance(found, str)):
        return found
    raise ParameterError.value(
        "torch trainer",
        "module",
        f"a class of torch.nn.Module, a function that makes one, a module, or one of {sorted(known())}",
        module,
    )


def check(module: Any, kwargs: Mapping[str, Any]) -> None:
    """Raise ParameterError when `module=` is nothing that makes a module, or not with these arguments."""
    make = resolve(module)
    try:
        strict_json.dumps(dict(kwargs))
    except (TypeError, ValueError) as error:
        raise ParameterError(
            f"torch trainer: module_kwargs hold something that is no plain value: {error}.",
            "Expected numbers, strings, lists and dicts, as they are saved with the model.",
            "pass a function of plain values that makes the module.",
        ) from error
    takes = _signature(make)
    if isinstance(make, torch.nn.Module) and kwargs:
        raise ParameterError(
            "torch trainer: module_kwargs are given with a ready module.", "Expected a class or a function."
        )
    unknown = [name for name in kwargs if name not in takes]
    if unknown and not isinstance(make, torch.nn.Module) and not any(p.kind is p.VAR_KEYWORD for p in takes.values()):
        raise ParameterError.unknown(f"torch trainer: module_kwargs of {make.__name__}", unknown, takes)


def known() -> dict[str, Callable[..., Any]]:
    """What makes a module, by the id that a file may name."""
    return {**_REGISTERED, **_OWN}


def is_own(make: Any) -> bool:
    """Whether it is one of Rayline's own modules, which are known to the last number."""
    return make in _OWN.values()


def _signature(make: Any) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(make).parameters
    except (TypeError, ValueError):  # a callable that does not tell
        return {"kwargs": inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)}


# -- how one is built, and what it predicts ----------------------------------------------------------------------------


@dataclass(frozen=True)
class ModuleSpec:
    """What a module does not know of itself: how it was made, what goes in, what comes out.

    `make` is None for a module that was given ready made.
    """

    make: Callable[..., Any] | None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    task: Task = Task.REGRESSION
    n_classes: int = 2
    n_targets: int = 1
    inputs: str = "matrix"
    features: Sequence[str] = ()
    best_iteration: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "module": getattr(self.make, "__name__", ""),
            "kwargs": dict(self.kwargs),
            "task": str(self.task),
            "n_classes": self.n_classes,
            "n_targets": self.n_targets,
            "inputs": self.inputs,
            "features": list(self.features),
            "best_iteration": self.best_iteration,
        }

    @classmethod
    def from_json(cls, data: Any, make: Callable[..., Any] | None) -> ModuleSpec:
        try:
            best = data["best_iteration"]
            if data["inputs"] not in INPUTS:
                raise ValueError("inputs")
            return cls(
                make,
                {str(k): v for k, v in data["kwargs"].items()},
                Task(data["task"]),
                int(data["n_classes"]),
                int(data["n_targets"]),
                data["inputs"],
                [str(name) for name in data["features"]],
                None if best is None else int(best),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtifactError(
                f"module.json of a saved module is malformed: {error}.", "", "save it again."
            ) from error


def recipe(module: Any) -> ModuleSpec:
    """What is known of a module; of a stranger, that its outputs are numbers."""
    found = getattr(module, _ATTRIBUTE, None)
    return found if isinstance(found, ModuleSpec) else ModuleSpec(None)


def described(module: Any, about: ModuleSpec) -> Any:
    """The same module, which remembers its recipe."""
    setattr(module, _ATTRIBUTE, about)
    return module


def chosen(module: Any, best_iteration: int) -> Any:
    """The same module, which remembers that it is that of an earlier iteration than the last."""
    return described(module, replace(recipe(module), best_iteration=best_iteration))


def build(make: Any, kwargs: Mapping[str, Any], shapes: Mapping[str, int]) -> tuple[Any, dict[str, Any]]:
    """A new module, and the arguments that made it. `in_features` and `out_features`, where it takes them and they are
    not given, come from `shapes`. A module that is given is copied."""
    if isinstance(make, torch.nn.Module):
        return copy.deepcopy(make), {}
    takes = _signature(make)
    full = {**{name: value for name, value in shapes.items() if name in takes}, **kwargs}
    module = make(**full)
    if not isinstance(module, torch.nn.Module):
        raise ParameterError.value("torch trainer", "module", "something that makes a torch.nn.Module", module)
    return module, full


def built(context: TrainContext, module: Any, kwargs: Mapping[str, Any], inputs: str = "matrix", least: int = 1) -> Any:
    """A new module for the context's features and target, of at least so many outputs, which remembers how it was made."""
    make, features = resolve(module), context.train.features
    shapes = {"in_features": ModuleInputs(features, inputs).width, "out_features": max(context.target.n_outputs, least)}
    made, full = build(make, kwargs, shapes)
    about = ModuleSpec(
        make=None if isinstance(make, torch.nn.Module) else make,
        kwargs=full,
        task=context.target.task,
        n_classes=max((len(c) for c in context.target.classes), default=2),
        n_targets=len(context.target.columns),
        inputs=inputs,
        features=list(context.train.schema),
    )
    return described(made, about)


# -- features in, scores out -------------------------------------------------------------------------------------------


class ModuleInputs:
    """Features as a module takes them, batch by batch."""

    def __init__(self, features: Features, how: str) -> None:
        self.n_rows = features.n_rows
        self._matrix, self._columns = None, {}
        vector = next(iter(features.schema.values())) if len(features.schema) == 1 else None
        if how == "columns":
            self._columns = {name: torch.from_numpy(_column(features.table[name])) for name in features.names}
        elif isinstance(vector, pl.Array):
            self._matrix = torch.from_numpy(_column(features.table.to_series()).astype(np.float32, copy=False))
        else:
            matrix = features.matrix(np.float32)
            # Polars' own memory cannot be written to, which PyTorch warns of; otherwise it is sparse.
            self._matrix = (
                torch.from_numpy(np.require(matrix, requirements="W")) if isinstance(matrix, np.ndarray) else matrix
            )

    @property
    def width(self) -> int:
        """How many numbers a row has."""
        if self._matrix is None:
            return sum(int(np.prod(column.shape[1:])) for column in self._columns.values())
        return int(np.prod(self._matrix.shape[1:]))

    def at(self, rows: Any) -> Any:
        """Some rows (a slice or a tensor of row numbers): a tensor, or one for each column."""
        if self._matrix is None:
            return {name: column[rows] for name, column in self._columns.items()}
        if isinstance(self._matrix, torch.Tensor):
            return self._matrix[rows]
        return torch.from_numpy(self._matrix[rows.numpy() if isinstance(rows, torch.Tensor) else rows].toarray())

    def call(self, module: Any, rows: Any, device: Any) -> Any:
        """The module's outputs for some rows."""
        found = self.at(rows)
        if isinstance(found, dict):
            return module(**{name: column.to(device) for name, column in found.items()})
        return module(found.to(device))


def _column(series: pl.Series) -> Array:
    """Whole numbers as int64, everything else as float32; a vector keeps its shape, a category is its code."""
    if series.dtype in (pl.Enum, pl.Categorical):
        series = series.to_physical()
    inner: Any = series.dtype
    while isinstance(inner, pl.Array):
        inner = inner.inner
    if not (inner.is_numeric() or inner == pl.Boolean):
        raise SchemaError(
            f"Model input: feature {series.name!r} holds {series.dtype}, which is no tensor.",
            "Expected numbers, truth values or vectors.",
            "add a stage that encodes it, or take inputs='matrix'.",
        )
    whole = inner.is_integer() and not series.null_count()
    values: Array = series.to_numpy()
    return np.array(values, dtype=np.int64 if whole else np.float32)


def scores(module: Any, features: Features) -> Array:
    """Values, or probabilities where the recipe says that outputs are logits of classes.

    Raises
    ------
    DataError
        When the module gives a number that is none, as for a missing feature.
    """
    about = recipe(module)
    if module.training:
        module.eval()
    inputs = ModuleInputs(features, about.inputs)
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    parts = []
    with torch.inference_mode():
        for start in range(0, inputs.n_rows, BATCH_ROWS):
            output = inputs.call(module, slice(start, start + BATCH_ROWS), device)
            parts.append(_probabilities(output, about).cpu())
    result: Array = torch.cat(parts).numpy()
    if not np.isfinite(result).all():
        raise unusable(features)
    return result


def _probabilities(output: Any, about: ModuleSpec) -> Any:
    """What `Framework.predict` gives, from the outputs of a module."""
    output = squeezed(output).double()
    if about.task is Task.REGRESSION:
        return output
    return output.softmax(dim=1) if output.ndim == 2 and about.n_targets == 1 else output.sigmoid()


def squeezed(output: Any) -> Any:
    """Outputs of shape (n, 1) as (n,)."""
    return output[:, 0] if output.ndim == 2 and output.shape[1] == 1 else output


def unusable(features: Features) -> DataError:
    """The module has answered with NaN or infinity: because of missing features, if there are any."""
    table = features.table
    missing = [
        name
        for name, d in table.schema.items()
        if table[name].null_count() or (d.is_float() and table[name].is_nan().any())
    ]
    return DataError(
        f"The PyTorch module gives numbers that are not finite{f'; the features {missing[:8]!r} have missing values' if missing else ''}.",
        "Expected a finite number for every row.",
        "impute before the model (SimpleImputer)."
        if missing
        else "scale the features (StandardScaler), or lower lr in training.",
    )

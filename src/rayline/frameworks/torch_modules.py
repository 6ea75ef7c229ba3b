"""PyTorch modules as data: how to rebuild a module, its inputs, and the meaning of its outputs."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import polars as pl
import torch

from rayline.core import strict_json
from rayline.core.errors import ArtifactError, DataError, ParameterError, SchemaError, at, first_line
from rayline.core.features import Array, Features
from rayline.core.framework import TrainContext
from rayline.core.objective import quantiles_of
from rayline.core.target import Task
from rayline.device import in_batches
from rayline.frameworks import torch_device

M = TypeVar("M", bound=Callable[..., Any])

BATCH_ROWS = 4096
"""Rows per batch of prediction."""

GPU_BATCH_ROWS = 4 * BATCH_ROWS
"""The same on a GPU, where small batches leave most of it idle; one that does not fit is halved."""

ROW_BYTES = 4096
"""The size of a row as tensors up to which a batch has so many rows; of larger rows, such as images, it has fewer."""

SCORE_BATCHES = 16
"""Batches that are converted to tensors at a time in prediction."""

INPUTS = ("matrix", "columns")
"""How a module gets its features: concatenated into one tensor, or each column under its name."""

LINKS = ("identity", "log")
"""What a regression's outputs are: values, or their logarithms."""

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
        The share of hidden values that are set to 0 in training.
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
            raise ParameterError.value("activation", f"one of {list(ACTIVATIONS)}", activation, where="MLP")
        layers: list[Any] = []
        for width in hidden:
            layers += [torch.nn.Linear(in_features, width), getattr(torch.nn, activation)()]
            layers += [torch.nn.Dropout(dropout)] if dropout else []
            in_features = width
        self.layers = torch.nn.Sequential(*layers, torch.nn.Linear(in_features, out_features))

    def forward(self, x: Any) -> Any:
        return self.layers(x.flatten(1))


ACTIVATIONS = ("ReLU", "LeakyReLU", "ELU", "SELU", "GELU", "SiLU", "Mish", "Tanh", "Sigmoid", "Softplus")

_BUILT_IN: dict[str, Callable[..., Any]] = {"MLP": MLP, "Linear": torch.nn.Linear}
_REGISTERED: dict[str, Callable[..., Any]] = {}


def register_module(make: M) -> M:
    """Register a class, or a function that builds a module, so that `rayline.load` loads its saved models without `module=`.
    Usable as a decorator; its name is the id in the file.

    Raises
    ------
    ParameterError
        When the name is one of Rayline's own modules.
    """
    if make.__name__ in _BUILT_IN:
        raise ParameterError.value(
            "the name", f"none of Rayline's own {sorted(_BUILT_IN)}", make.__name__, where="register_module"
        )
    _REGISTERED[make.__name__] = make
    return make


def resolve_module(module: Any) -> Any:
    """Return the class, function or module given as a trainer's `module=`. Raises ParameterError for anything else."""
    module_class = registered_modules().get(module) if isinstance(module, str) else module
    if isinstance(module_class, torch.nn.Module) or (callable(module_class) and not isinstance(module_class, str)):
        return module_class
    raise ParameterError.value(
        "module",
        f"a class of torch.nn.Module, a function that makes one, a module, or one of {sorted(registered_modules())}",
        module,
        where="torch trainer",
    )


def check(module: Any, kwargs: Mapping[str, Any]) -> None:
    """Raise ParameterError when `module=` cannot build a module, or not with these arguments."""
    make = resolve_module(module)
    try:
        strict_json.dumps(dict(kwargs))
    except (TypeError, ValueError) as error:
        raise ParameterError(
            f"torch trainer: module_kwargs hold a value that is not plain: {first_line(error)}.",
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
        raise ParameterError.unknown(unknown, takes, where=f"torch trainer: module_kwargs of {make.__name__}")


def registered_modules() -> dict[str, Callable[..., Any]]:
    """Return the classes and functions that build modules, by the ids that a file may name."""
    return {**_REGISTERED, **_BUILT_IN}


def is_own(make: Any) -> bool:
    """Return whether it is one of Rayline's own modules, whose tensors are known exactly."""
    return make in _BUILT_IN.values()


def _signature(make: Any) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(make).parameters
    except (TypeError, ValueError):  # a callable without a signature
        return {"kwargs": inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)}


# -- building and predicting -------------- ----------------------------------------------------------------------------


@dataclass(frozen=True)
class ModuleSpec:
    """Facts that a module does not store: how it was built, its inputs, and its outputs.

    `make` is None for a module that the user built.
    """

    make: Callable[..., Any] | None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    task: Task = Task.REGRESSION
    n_classes: int = 2
    n_targets: int = 1
    inputs: str = "matrix"
    features: Sequence[str] = ()
    best_iteration: int | None = None
    link: str = "identity"
    quantiles: tuple[float, ...] = ()

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
            **({"link": self.link} if self.link != "identity" else {}),
            **({"quantiles": list(self.quantiles)} if self.quantiles else {}),
        }

    @classmethod
    def from_json(cls, data: Any, make: Callable[..., Any] | None) -> ModuleSpec:
        try:
            best = data["best_iteration"]
            link = data.get("link", "identity")
            if data["inputs"] not in INPUTS or link not in LINKS:
                raise ValueError("inputs or link")
            with at("module.json"):
                return cls(
                    make,
                    {str(k): v for k, v in data["kwargs"].items()},
                    Task(data["task"]),
                    int(data["n_classes"]),
                    int(data["n_targets"]),
                    data["inputs"],
                    [str(name) for name in data["features"]],
                    None if best is None else int(best),
                    link,
                    quantiles_of(data.get("quantiles")),
                )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtifactError(
                f"module.json of a saved module is malformed: {first_line(error)}.", "", "save it again."
            ) from error


def recipe(module: Any) -> ModuleSpec:
    """Return the spec of a module; an unknown module is assumed to output numbers."""
    spec = getattr(module, _ATTRIBUTE, None)
    return spec if isinstance(spec, ModuleSpec) else ModuleSpec(None)


def described(module: Any, about: ModuleSpec) -> Any:
    """Attach a spec to a module and return the module."""
    setattr(module, _ATTRIBUTE, about)
    return module


def with_best_iteration(module: Any, best_iteration: int) -> Any:
    """Record in a module that it is from an earlier iteration than the last, and return it."""
    return described(module, replace(recipe(module), best_iteration=best_iteration))


def build(make: Any, kwargs: Mapping[str, Any], shapes: Mapping[str, int]) -> tuple[Any, dict[str, Any]]:
    """Return a new module and its arguments. `in_features` and `out_features` come from `shapes` if the module has these
    parameters and they are not given. A given module is copied."""
    if isinstance(make, torch.nn.Module):
        return copy.deepcopy(make), {}
    takes = _signature(make)
    full = {**{name: value for name, value in shapes.items() if name in takes}, **kwargs}
    module = make(**full)
    if not isinstance(module, torch.nn.Module):
        raise ParameterError.value(
            "module", "a class or function that creates a torch.nn.Module", module, where="torch trainer"
        )
    return module, full


def built(
    context: TrainContext,
    module: Any,
    kwargs: Mapping[str, Any],
    inputs: str = "matrix",
    min_outputs: int = 1,
    link: str = "identity",
) -> Any:
    """Return a new module for the context's features and target with at least this number of outputs, its spec attached."""
    make, features = resolve_module(module), context.train.head
    shapes = {
        "in_features": ModuleInputs(features, inputs).width,
        "out_features": max(context.target.n_outputs, min_outputs),
    }
    new, full = build(make, kwargs, shapes)
    about = ModuleSpec(
        make=None if isinstance(make, torch.nn.Module) else make,
        kwargs=full,
        task=context.target.task,
        n_classes=max((len(c) for c in context.target.classes), default=2),
        n_targets=len(context.target.columns),
        inputs=inputs,
        features=list(context.train.schema),
        link=link,
        quantiles=context.target.quantiles,
    )
    return described(new, about)


# -- features in, scores out -------------------------------------------------------------------------------------------


class ModuleInputs:
    """Features in the form that a module takes, batch by batch."""

    def __init__(self, features: Features, how: str) -> None:
        self.n_rows = features.n_rows
        self._matrix, self._columns = None, {}
        vector = next(iter(features.schema.values())) if len(features.schema) == 1 else None
        if how == "columns":
            self._columns = {name: torch.from_numpy(_column(features.table[name])) for name in features.names}
        elif isinstance(vector, pl.Array):
            self._matrix = torch.from_numpy(_column(features.table.to_series(), np.float32))
        else:
            matrix = features.matrix(np.float32)
            # Copy: Polars' memory is read-only, and PyTorch warns of that; otherwise it is sparse.
            self._matrix = (
                torch.from_numpy(np.require(matrix, requirements="W")) if isinstance(matrix, np.ndarray) else matrix
            )

    @property
    def values(self) -> Any:
        """The values of all rows: a tensor, or one per column; None when they are sparse. Can be set, to the same on a device."""
        return (
            self._columns if self._matrix is None else self._matrix if isinstance(self._matrix, torch.Tensor) else None
        )

    @values.setter
    def values(self, there: Any) -> None:
        self._matrix, self._columns = (None, there) if isinstance(there, dict) else (there, {})

    @property
    def width(self) -> int:
        """Return the number of values per row."""
        if self._matrix is None:
            return sum(int(np.prod(column.shape[1:])) for column in self._columns.values())
        return int(np.prod(self._matrix.shape[1:]))

    @property
    def size_bytes(self) -> int:
        """Return the memory that the values take."""
        if self._matrix is None:
            return sum(int(column.nbytes) for column in self._columns.values())
        if isinstance(self._matrix, torch.Tensor):
            return int(self._matrix.nbytes)
        return int(self._matrix.data.nbytes + self._matrix.indices.nbytes + self._matrix.indptr.nbytes)

    @property
    def row_bytes(self) -> float:
        """Return the size of a row of a batch, in which sparse rows are dense."""
        return max(self.size_bytes / max(self.n_rows, 1), 4.0 * self.width)

    def at(self, rows: Any) -> Any:
        """Return some rows (a slice or a tensor of row numbers): a tensor, or one per column."""
        if self._matrix is None:
            return {name: column[rows] for name, column in self._columns.items()}
        if isinstance(self._matrix, torch.Tensor):
            return self._matrix[rows]
        return torch.from_numpy(self._matrix[rows.numpy() if isinstance(rows, torch.Tensor) else rows].toarray())


def batch_rows(row_bytes: float, limit: int = BATCH_ROWS) -> int:
    """Return the rows of a batch of prediction, for rows that take so much as tensors."""
    return max(1, int(limit / max(1.0, row_bytes / ROW_BYTES)))


def called(module: Any, x: Any) -> Any:
    """Return the module's outputs for inputs on its device: a tensor, or one per column."""
    return module(**x) if isinstance(x, dict) else module(x)


def _column(series: pl.Series, dtype: Any = None) -> Array:
    """Return integers as int64, everything else as float32, or all as `dtype`; a vector keeps its shape, a category becomes its code."""
    if series.dtype in (pl.Enum, pl.Categorical):
        series = series.to_physical()
    inner: Any = series.dtype
    while isinstance(inner, pl.Array):
        inner = inner.inner
    if not (inner.is_numeric() or inner == pl.Boolean):
        raise SchemaError(
            f"Model input: feature {series.name!r} holds {series.dtype}, which cannot be a tensor.",
            "Expected numbers, booleans or vectors.",
            "add a stage that encodes it, or take inputs='matrix'.",
        )
    whole = inner.is_integer() and not series.null_count()
    return np.array(series.to_numpy(), dtype=dtype or (np.int64 if whole else np.float32))


def scores(module: Any, features: Features) -> Array:
    """Return values, or probabilities if the spec says that outputs are logits of classes.

    Raises DataError when the module outputs NaN or infinity, for example because of a missing feature.
    """
    about = recipe(module)
    if module.training:
        module.eval()
    device = torch_device.of(module)
    feed = torch_device.Feed(device)
    parts: list[Any] = []
    with torch.inference_mode():
        size = batch_rows(4.0 * len(features.schema) if features.is_numeric else 4.0 * features.dense_width)
        for piece in features.pieces(SCORE_BATCHES * size):  # not all rows as tensors at once
            inputs = ModuleInputs(piece, about.inputs)

            def compute(rows: slice, inputs: ModuleInputs = inputs) -> Any:
                return _probabilities(called(module, feed(inputs.at(rows))), about)

            parts += in_batches(
                inputs.n_rows, batch_rows(inputs.row_bytes, GPU_BATCH_ROWS if device.is_gpu else BATCH_ROWS), compute,
                device=device, model=module, model_bytes=lambda: torch_device.size_bytes(module),
            )  # fmt: skip
        result: Array = feed.fetch(torch.cat(parts)).numpy()
    if not np.isfinite(result).all():
        raise unusable(features)
    return result


def _probabilities(output: Any, about: ModuleSpec) -> Any:
    """Return the result of `Framework.predict` from the outputs of a module."""
    output = squeezed(output).double()
    if about.task is Task.REGRESSION:
        return output.exp() if about.link == "log" else output
    return output.softmax(dim=1) if output.ndim == 2 and about.n_targets == 1 else output.sigmoid()


def squeezed(output: Any) -> Any:
    """Return outputs of shape (n, 1) as (n,)."""
    return output[:, 0] if output.ndim == 2 and output.shape[1] == 1 else output


def unusable(*tables: Features) -> DataError:
    """Return the error for outputs that are NaN or infinite; it names missing features, if there are any."""
    missing = [name for features in tables for name in _missing(features)]
    missing = list(dict.fromkeys(missing))
    return DataError(
        f"The PyTorch module gives numbers that are not finite{f'; the features {missing[:8]!r} have missing values' if missing else ''}.",
        "Expected a finite number for every row.",
        "impute before the model (SimpleImputer)."
        if missing
        else "scale the features (StandardScaler), or lower lr in training.",
    )


def _missing(features: Features) -> list[str]:
    table = features.table
    return [name for name in table.columns if _has_missing(table[name])]


def _has_missing(values: pl.Series) -> bool:
    while isinstance(values.dtype, pl.Array) and not values.null_count():
        values = values.explode()
    return bool(values.null_count()) or (values.dtype.is_float() and bool(values.is_nan().any()))

"""The types of public arguments, by name: what a type checker and an editor show for tables, Datasets, labels and metrics.

None of the libraries is imported. `core.arguments` checks what it can of them at run time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.core.arguments import ParameterCheck

if TYPE_CHECKING:
    import matplotlib.axes


# Of libraries that are not imported here the types are described by their members: they are also checked where the library has
# no types, or is not installed.


class RayDataset(Protocol):
    """A `ray.data.Dataset`."""

    @property
    def map_batches(self) -> Any: ...

    @property
    def iter_batches(self) -> Any: ...


class PandasFrame(Protocol):
    """A `pandas.DataFrame`."""

    @property
    def iloc(self) -> Any: ...

    @property
    def columns(self) -> Any: ...


class PandasSeries(Protocol):
    """A `pandas.Series`."""

    @property
    def iloc(self) -> Any: ...

    @property
    def to_frame(self) -> Any: ...


class ArrowTable(Protocol):
    """A `pyarrow.Table`."""

    @property
    def column_names(self) -> Any: ...

    @property
    def combine_chunks(self) -> Any: ...


class ArrowArray(Protocol):
    """A `pyarrow.Array` or `pyarrow.ChunkedArray`."""

    @property
    def to_pylist(self) -> Any: ...

    @property
    def null_count(self) -> Any: ...


class PrivateKey(Protocol):
    """An `Ed25519PrivateKey` of the package cryptography."""

    @property
    def sign(self) -> Any: ...


class PublicKey(Protocol):
    """An `Ed25519PublicKey` of the package cryptography."""

    @property
    def verify(self) -> Any: ...


Table: TypeAlias = (
    pl.DataFrame | pl.LazyFrame | PandasFrame | ArrowTable | Mapping[str, Any] | Sequence[Mapping[str, Any]]
)
"""Rows in this process; a mapping goes from names to arrays, and a sequence holds rows as dicts."""

Data: TypeAlias = Table | RayDataset
"""Rows in this process or on Ray."""

DataT = TypeVar("DataT", bound=Data)
"""Data that comes back in the type in which it was given."""

Column: TypeAlias = str | Sequence[Any] | npt.NDArray[Any] | pl.Series | PandasSeries | ArrowArray
"""The values of one column, or its name."""

Labels: TypeAlias = Column | Table
"""The values of one or several target columns, or their names."""

Features: TypeAlias = Data | npt.NDArray[Any]
"""Rows of features: a table, a Dataset, or a matrix."""

Label: TypeAlias = str | bool | int | float | np.generic
"""A class of a target."""

MetricLike: TypeAlias = str | Callable[..., Any]
"""A name, a function of labels and predictions, a scorer of scikit-learn, or a class of `MetricStatistic`."""

Metrics: TypeAlias = MetricLike | Sequence[MetricLike] | Mapping[str, MetricLike]
"""One or several metrics, or names for them."""

SliceColumns: TypeAlias = str | Sequence[str | Sequence[str]]
"""The columns to slice by; a sequence inside of it is a combination of columns."""

NativeModel: TypeAlias = Any
"""A framework's own object (a Booster, a module, an estimator): these have no class in common."""

NativeCallback: TypeAlias = Any
"""A callback of a framework, whose classes have none in common either."""

ClassWeight: TypeAlias = Annotated[
    Literal["balanced"] | Mapping[Any, float],
    ParameterCheck(
        "'balanced', or a dict from label to weight",
        lambda value: isinstance(value, Mapping) or (isinstance(value, str) and value == "balanced"),
        words=("balanced",),
    ),
]
"""Weights of the classes: balanced, or by label."""

Seconds: TypeAlias = Annotated[
    float,
    ParameterCheck(
        "seconds, more than 0",
        lambda value: isinstance(value, Real) and not isinstance(value, bool) and value > 0,
    ),
]
"""A time above 0."""

Mode: TypeAlias = Literal["min", "max"]
"""The direction of a metric: whether a smaller or a larger value is better."""

PosLabel: TypeAlias = Annotated[
    Label | Mapping[str, Label],
    ParameterCheck(
        "a label, or a dict from target to label", lambda value: isinstance(value, Mapping) or hash(value) is not None
    ),
]
"""The positive class; for several targets by column."""

SigningKey: TypeAlias = PrivateKey | bytes | str | Path
"""A private key, the bytes of its PEM file, or the file's path."""

TrustedKey: TypeAlias = PublicKey | bytes | str | Path
"""A public key, the bytes of its PEM file, or the file's path."""

Axes: TypeAlias = "matplotlib.axes.Axes"
"""An axis of Matplotlib."""

"""Helpers of several adapters: files of saved models, conversion of a library's errors, facts that are read once from a model."""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from rayline.core.errors import ArtifactError, ParameterError, first_line

T = TypeVar("T")

ROW_BYTES = 16
"""Bytes of a row's label, its weight and its place in the tree, in a library that boosts trees."""


def model_file(directory: Path, name: str, what: str) -> Path:
    """Return the path of a file of a saved model. Raises ArtifactError when there is none."""
    if not (directory / name).is_file():
        raise ArtifactError(f"The saved {what} is incomplete.", f"Expected a file {name}.", "save it again.")
    return directory / name


@contextlib.contextmanager
def reading(what: str, *errors: type[Exception], text: Callable[[Exception], str] = first_line) -> Iterator[None]:
    """Raise ArtifactError for the errors with which a library refuses the files of a saved model in this block."""
    try:
        yield
    except errors as error:
        raise ArtifactError(
            f"The saved {what} cannot be read: {text(error).rstrip('.')}.", "", "save it again."
        ) from error


@contextlib.contextmanager
def trying(
    library: str, params: Mapping[str, Any], *errors: type[Exception], text: Callable[[Exception], str] = first_line
) -> Iterator[None]:
    """Raise ParameterError for the errors with which a library refuses a trainer's parameters in this block."""
    try:
        yield
    except errors as error:
        raise ParameterError.here(
            f"{library} refuses the parameters: {text(error).rstrip('.')}.",
            f"Got {dict(params)!r}.",
            "see its documentation.",
        ) from error


def once_per_model(read: Callable[[Any], T]) -> Callable[[Any], T]:
    """Return a function that reads something from a native model once, and remembers it as long as the model exists."""
    known: weakref.WeakKeyDictionary[Any, T] = weakref.WeakKeyDictionary()

    @functools.wraps(read)
    def read_once(model: Any) -> T:
        if model not in known:
            known[model] = read(model)
        return known[model]

    return read_once


def bytes_of_bins(n_rows: int, width: int, n_bins: int) -> int:
    """Return the size of the bins of a table: a byte for up to 256 bins of a feature, two for more."""
    return n_rows * width * (1 if n_bins <= 256 else 2)

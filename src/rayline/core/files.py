"""Atomic file writes: to a temporary name in the same directory, then renamed."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from rayline.core import storage
from rayline.core.errors import ArtifactError, ParameterError


def replace_file(path: str | Path, write: Callable[[Path], object]) -> None:
    """Write a file (or a new directory) atomically, by a function that takes a path.

    A failure or a kill at any moment leaves the previous content in place. Raises ArtifactError when the disk is full or
    not writable, or the parent directory does not exist.
    """
    checked_path(path)
    path = Path(os.path.realpath(path))  # replace the target of a link, not the link
    temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(6)}.tmp")
    try:
        with writing(path):
            write(temporary)
            with contextlib.suppress(FileNotFoundError):
                if not temporary.is_dir():
                    shutil.copymode(path, temporary)
            os.replace(temporary, path)
            sync_directory(path.parent)
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink()


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn errors of the operating system and of Polars while writing to a path into ArtifactError."""
    try:
        yield
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ArtifactError(
            f"{path} cannot be written: {getattr(error, 'strerror', None) or error}.",
            "Expected a directory that exists, is writable and has free space; any previous content is unchanged.",
            "choose another path.",
        ) from error


def checked_path(path: Any, name: str = "path") -> None:
    """Raise ParameterError, about the argument of this name, unless this is a path or a URL."""
    if not isinstance(path, (str, os.PathLike)) or not str(path) or "\0" in str(path):
        raise ParameterError.value(name, "a path or a URL", path)


def replace_content(path: str | Path, content: bytes | str) -> None:
    """Write a file with this content atomically, as `replace_file`; text as UTF-8. The path may be a URL."""
    data = content.encode() if isinstance(content, str) else content
    checked_path(path)
    if storage.is_url(path):
        storage.write_bytes(str(path), data)
        return

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    replace_file(path, write)


def sync_directory(path: Path) -> None:
    """Flush the names in a directory to the disk, where the system supports it."""
    with contextlib.suppress(OSError):
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)

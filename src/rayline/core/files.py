"""Files that are written whole or not at all: under a temporary name beside their place, and then given their own."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl

from rayline.core.errors import ArtifactError


def replace_file(path: str | Path, write: Callable[[Path], object]) -> None:
    """Write a file (or a new directory) by a function that takes a path. A failure or a kill at any moment leaves what was there.

    Raises ArtifactError when the disk refuses: it is full, may not be written to, or the directory is not there.
    """
    path = Path(os.path.realpath(path))  # what a link points to, not the link
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
    """Raise ArtifactError for what a disk, or Polars for it, says against writing to a path."""
    try:
        yield
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ArtifactError(
            f"{path} cannot be written: {getattr(error, 'strerror', None) or error}.",
            "Expected a directory that exists, may be written to and has room; what was there before is still there.",
            "choose another place.",
        ) from error


def replace_content(path: str | Path, content: bytes | str) -> None:
    """The same for a file with this content; text as UTF-8."""
    data = content.encode() if isinstance(content, str) else content

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    replace_file(path, write)


def sync_directory(path: Path) -> None:
    """Make sure that the names in a directory are on the disk, where the system can."""
    with contextlib.suppress(OSError):
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)

"""Checkpoints of distributed training: pack a directory into bytes, and keep the newest checkpoints in storage."""

from __future__ import annotations

import contextlib
import io
import secrets
import socket
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import fs

from rayline.core import scratch, storage
from rayline.core.errors import ResourceError

KEEP = 2
"""Number of checkpoints of a run that stay in storage: the newest, and the one before it."""


def pack(save: Callable[[Path], None]) -> bytes:
    """Return the files that `save(directory)` writes, packed as bytes."""
    with scratch.folder("checkpoint") as folder:
        save(folder)
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            archive.add(folder, arcname=".")
        return packed.getvalue()


def unpack(packed: Any, directory: Path) -> Path:
    """Unpack the files into a directory and return it."""
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r") as archive:
        archive.extractall(directory, filter="data")
    return directory


@dataclass(frozen=True)
class CheckpointStore:
    """A directory, local or behind a URL that Arrow or fsspec knows, with the checkpoints of one run.

    Each checkpoint is one file, `checkpoint-<iteration>.tar`, which is written atomically.
    """

    path: str
    run: str

    @classmethod
    def begin(cls, path: str | Path) -> CheckpointStore:
        """Create storage for a new run under `path`. Raises OSError when nothing can be written there."""
        store = cls(storage.located(path), f"run-{secrets.token_hex(4)}")
        system, root = store.opened()
        system.create_dir(root, recursive=True)
        return store

    def write(self, iteration: int, packed: bytes) -> str:
        """Write a checkpoint and return its name."""
        system, root = self.opened()
        name = f"checkpoint-{iteration:08d}.tar"
        temporary = f"{root}/.{name}.{secrets.token_hex(4)}.tmp"
        with self._seen_from_here(), system.open_output_stream(temporary) as file:
            file.write(packed)
        system.move(temporary, f"{root}/{name}")
        return name

    def forget(self, name: str) -> None:
        """Delete the checkpoints before this one, except the last of them. The driver calls it, which resumes from the newest that it
        has heard of: a worker that writes ahead of it must not delete that one."""
        system, root = self.opened()
        there = sorted(info.base_name for info in system.get_file_info(fs.FileSelector(root)))
        for old in [other for other in there if other.startswith("checkpoint-") and other < name][: -(KEEP - 1)]:
            system.delete_file(f"{root}/{old}")

    def read(self, name: str) -> bytes:
        """Return a checkpoint that `write` kept."""
        system, root = self.opened()
        with self._seen_from_here(), system.open_input_stream(f"{root}/{name}") as file:
            content: bytes = file.read()
        return content

    @contextlib.contextmanager
    def _seen_from_here(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise ResourceError(
                f"train.fit: storage_path {self.path!r} is not the same place on {socket.gethostname()} as on the driver.",
                f"Expected {self.run!r} in it, which the driver created.",
                "use a directory that all nodes share, or a URL (s3://…, gs://…).",
            ) from error

    def opened(self) -> tuple[Any, str]:
        """Return the file system, and the directory of the run on it."""
        system, root = storage.file_system(self.path)
        return system, f"{root}/{self.run}"

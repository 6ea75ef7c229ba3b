"""Scores of folds as files, named by a digest of their inputs: a restarted run does not repeat finished folds."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import os
import re
import secrets
import weakref
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.core import scratch, storage, strict_json
from rayline.core.errors import ArtifactError, ParameterError, at, first_line
from rayline.core.files import checked_path, writing
from rayline.core.framework import Framework
from rayline.core.json_values import schema_to_json
from rayline.data.split.fold_cells import FoldCells
from rayline.tune.trial_record import FoldScore

FORMAT_VERSION = 1

Array = npt.NDArray[Any]


class ScoresElsewhere(Protocol):
    """The scores of a fold outside of this process."""

    def write(self, path: Path, url: str | None, /) -> None:
        """Write the scores in the format of `numpy.save`, to a file and a URL."""


class ResultStore:
    """A directory with the score of each fold (JSON) and the model's scores of the held-out rows (NPY, no pickle).

    Parameters
    ----------
    directory
        The location; when omitted, a temporary directory that is removed with this object. For a URL (s3://…) there is a copy in a
        temporary directory: files are written to both, and scores of an earlier run are fetched when they are asked for.
    """

    def __init__(self, directory: Path | str | None = None) -> None:
        self._url = directory if isinstance(directory, str) else None
        self._outlives = directory is not None  # this process: another run may continue
        if directory is None or isinstance(directory, str):
            folder = scratch.Scratch("tune")
            weakref.finalize(self, folder.close)
            directory = folder.path
        self._path = directory
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
        self._remote_names = set[str]()
        """The names of those files behind the URL that are not copied yet."""
        if self._url is not None:
            self._remote_names |= {name for name in storage.list_names(self._url) if not name.startswith(".")}
            for name in sorted(self._remote_names):
                if name.endswith(".json"):
                    self._here(directory / name)

    @classmethod
    def named(cls, name: str, storage_path: Path | str | None = None) -> ResultStore:
        """Return the store of a named run, under this directory or URL, or in the user's cache directory. Raises ParameterError on a
        name that contains a path."""
        if not isinstance(name, str) or not re.fullmatch(r"[\w][\w .+-]{0,99}", name):
            raise ParameterError.value(
                "name", "letters, digits, spaces and . + - _, at most 100", name, where="tune.run"
            )
        if storage_path is not None:
            return cls.in_directory(storage_path, name)
        base = (
            os.environ.get("RAYLINE_CACHE")
            or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rayline"
        )
        return cls.in_directory(storage.below(base, "tune"), name)

    @classmethod
    def in_directory(cls, directory: Path | str, name: str) -> ResultStore:
        """Return the store of this name under a directory or URL. Raises ArtifactError when nothing can be written there."""
        with at("tune.run"):
            checked_path(directory, "storage_path")
        place = storage.below(storage.located(directory), name)
        return cls(place if storage.is_url(place) else Path(place))

    def known(self) -> dict[str, dict[str, Any]]:
        """Return the stored scores by key. An invalid file is ignored, and its fold is computed again."""
        known = {}
        for path in sorted(self._path.glob("*.json")):
            try:
                data = strict_json.loads(path.read_bytes(), str(path))
                if data["format_version"] == FORMAT_VERSION and self._has(self._scores(path.stem)):
                    known[path.stem] = FoldScore.from_json(data["fold"]).to_json()
            except (ArtifactError, KeyError, TypeError, OSError):
                continue
        return known

    def write(self, score: FoldScore, scores: Array | ScoresElsewhere) -> None:
        """Store a fold; both files are written atomically, the scores first. A temporary store holds the scores of the rows only."""
        path = self._scores(score.key)
        if isinstance(scores, np.ndarray):
            with self._writing(path) as file, writing(path):
                np.save(file, np.ascontiguousarray(scores), allow_pickle=False)
        else:
            scores.write(path, self._url_of(path))
        if self._outlives:
            data = {"format_version": FORMAT_VERSION, "fold": score.to_json()}
            self._write(self._path / f"{score.key}.json", strict_json.dumps(data))

    def scores(self, key: str, *, mapped: bool = False) -> Array | None:
        """Return the model's scores of the held-out rows in their order; None when they are missing. With `mapped` they are
        memory-mapped."""
        path = self._scores(key)
        if not key or not self._has(path):
            return None
        scores: Array = np.load(self._here(path), mmap_mode="r" if mapped else None, allow_pickle=False)
        return scores

    def drop_scores(self, key: str) -> None:
        """Delete the scores of a fold in a temporary store; processes that have mapped them can still read them."""
        with contextlib.suppress(OSError):  # a system that does not delete open files
            self._scores(key).unlink(missing_ok=True)

    def keep_files(self, key: str, files: Mapping[str, bytes]) -> None:
        """Store the files of a checkpoint to resume from."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        self._write(self._files(key), buffer.getvalue())

    def has_files(self, key: str) -> bool:
        """Return whether the files of a checkpoint are there."""
        return self._has(self._files(key))

    def files(self, key: str) -> dict[str, bytes]:
        """Return the files of a checkpoint. Raises ArtifactError when they are missing or invalid."""
        try:
            with zipfile.ZipFile(self._here(self._files(key))) as archive:
                names = archive.namelist()
                strange = [name for name in names if name.startswith("/") or ".." in PurePosixPath(name).parts]
                if strange:
                    raise ArtifactError(f"{self._files(key)} holds {strange[0]!r}.", "Expected names below a folder.")
                return {name: archive.read(name) for name in names}
        except (OSError, zipfile.BadZipFile) as error:
            raise ArtifactError(
                f"tune.run: the checkpoint {self._files(key)} cannot be read: {first_line(error)}.",
                "Expected a checkpoint that the run of that name has written.",
                "start without resume=True.",
            ) from error

    def drop_files(self, key: str) -> None:
        """Delete a checkpoint."""
        path = self._files(key)
        path.unlink(missing_ok=True)
        self._remote_names.discard(path.name)
        if (url := self._url_of(path)) is not None:
            storage.delete(url)

    def _files(self, key: str) -> Path:
        return self._path / f"{key}.zip"

    def _scores(self, key: str) -> Path:
        return self._path / f"{key}.npy"

    def _write(self, path: Path, content: bytes) -> None:
        with self._writing(path) as file, writing(path):
            file.write(content)

    def _writing(self, path: Path) -> AbstractContextManager[IO[bytes]]:
        self._remote_names.discard(path.name)
        return appearing_file(path, self._url_of(path))

    def _url_of(self, path: Path) -> str | None:
        return None if self._url is None else storage.join(self._url, path.name)

    def _has(self, path: Path) -> bool:
        return path.exists() or path.name in self._remote_names

    def _here(self, path: Path) -> Path:
        """Return the path of a file, after fetching it from the URL where it is only there."""
        if path.name in self._remote_names:
            storage.download(self._url_of(path) or "", path)
            self._remote_names.discard(path.name)
        return path


@contextlib.contextmanager
def appearing_file(path: Path, url: str | None) -> Iterator[IO[bytes]]:
    """Open a file that appears when it is complete, and then at a URL, too."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with writing(path):
            file = part.open("wb")
        with file:
            yield file
        part.rename(path)
        if url is not None:
            storage.upload(path, url)
    finally:
        part.unlink(missing_ok=True)


def write_header(file: IO[bytes], piece: Array, n_rows: int) -> None:
    """Begin a file as `numpy.save` does for an array of so many rows, of which this is a piece."""
    shape = (n_rows, *piece.shape[1:])
    header = {"descr": np.lib.format.dtype_to_descr(piece.dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def digest(
    groups: Sequence[bytes],
    schema: Mapping[str, pl.DataType],
    splits: Sequence[Sequence[FoldCells]],
    targets: Sequence[str],
    weight: str | None,
    adapter: Framework,
) -> str:
    """Return a digest of everything besides the configuration that scores depend on: the rows in their order and their cells
    (as digests of groups), the split and the versions."""
    hasher = hashlib.blake2b(digest_size=16)
    about = [
        schema_to_json(schema),
        [[list(f) for f in folds] for folds in splits],
        list(targets),
        weight,
        _version("rayline"),
        _version(adapter.package or adapter.name),
    ]
    hasher.update(strict_json.dumps(about))
    for group in groups:
        hasher.update(group)
    return hasher.hexdigest()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""

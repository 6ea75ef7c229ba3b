"""Named pieces of bytes as one file or one directory: written whole or not at all, and read from a stranger.

A file is a ZIP archive whose members are stored, not compressed, so that nothing in it can grow when it is opened. What
its directory may cost is bounded before anything reads it.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import secrets
import shutil
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rayline.core.errors import ArtifactError, RaylineError

MAX_MEMBERS = 10_000
MAX_DIRECTORY_BYTES = 4 << 20
MAX_FILE_BYTES = 4_000_000_000
"""Of all members of one file: what the plain form of ZIP can hold. A directory may hold more."""

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*){0,15}")
_END = struct.Struct("<4s4H2LH")  # the end-of-central-directory record of a ZIP file


def is_name(name: str) -> bool:
    """Whether a member may be called so: a plain relative path in ASCII."""
    return _NAME.fullmatch(name) is not None


def write(path: Path, members: Mapping[str, bytes], *, directory: bool = False) -> None:
    """Write the members under a temporary name, on the disk, and then give them their own: a kill at any moment leaves
    what was there or all of them.

    Raises ArtifactError when a directory is to be written that exists.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        if directory:
            if path.exists():
                raise ArtifactError(
                    f"{path} exists.", "Expected a new directory.", "choose another name, or save as a file."
                )
            for name, content in members.items():
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                _write(temporary / name, content)
            for place in [temporary, *(p for p in temporary.rglob("*") if p.is_dir())]:
                _sync_directory(place)
        else:
            if sum(map(len, members.values())) > MAX_FILE_BYTES:
                raise ArtifactError(
                    f"{path} would be larger than one file may be.",
                    f"Expected at most {MAX_FILE_BYTES:,} bytes.",
                    "save it as a directory: save(path, directory=True).",
                )
            _write(temporary, archive(members))
        os.replace(temporary, path)
        _sync_directory(path.parent)
    finally:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink()


def read(path: Path) -> dict[str, bytes]:
    """The members of a file or a directory.

    Raises ArtifactError when it is not there, cut off, no archive that `write` writes, or holds a name that could reach
    outside of it, a link, or a member twice.
    """
    try:
        return _read_directory(path) if path.is_dir() else _read_archive(path)
    except (OSError, RuntimeError, ValueError, EOFError, zipfile.BadZipFile, struct.error) as error:
        if isinstance(error, RaylineError):
            raise
        raise ArtifactError(
            f"{path} is damaged: {error}.", "Expected what InferencePipeline.save writes.", "copy it again."
        ) from error


def archive(members: Mapping[str, bytes]) -> bytes:
    """The members as a ZIP file, the same bytes for the same members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
        for name, content in members.items():
            file.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
    return buffer.getvalue()


def _read_archive(path: Path) -> dict[str, bytes]:
    try:
        with path.open("rb") as file:
            size = _check_end(file, path)
            with zipfile.ZipFile(file) as opened:
                return dict(_members(opened, size, path))
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist.", "Expected a file written by InferencePipeline.save.") from None


def _check_end(file: Any, path: Path) -> int:
    """Bound what the archive's directory may cost before anything reads it. Returns the file's size."""
    size: int = file.seek(0, os.SEEK_END)
    if size < _END.size:
        raise ArtifactError(f"{path} is too short for an artifact.", f"Expected a ZIP file; got {size} bytes.")
    file.seek(size - _END.size)
    signature, _, _, _, n_members, directory_bytes, offset, comment = _END.unpack(file.read(_END.size))
    if signature != b"PK\x05\x06" or comment:
        raise ArtifactError(
            f"{path} is not a Rayline artifact, or was cut off.",
            "Expected a ZIP file without a comment.",
            "copy it again.",
        )
    if n_members > MAX_MEMBERS or directory_bytes > MAX_DIRECTORY_BYTES or offset + directory_bytes + _END.size != size:
        raise ArtifactError(
            f"{path} has a directory that Rayline does not write.", f"Expected at most {MAX_MEMBERS} members."
        )
    return size


def _members(opened: zipfile.ZipFile, size: int, path: Path) -> Iterator[tuple[str, bytes]]:
    infos = opened.infolist()
    total, seen = 0, set()
    for info in infos:
        plain = (
            info.compress_type == zipfile.ZIP_STORED
            and info.file_size == info.compress_size
            and not info.flag_bits & 0x1
        )
        total += info.file_size
        if (
            not plain
            or not is_name(info.orig_filename)
            or info.orig_filename != info.filename
            or info.external_attr >> 28 not in (0, 8)
        ):
            raise ArtifactError(
                f"{path}: member {info.orig_filename[:80]!r} is not one that Rayline writes.",
                "Expected plain stored files.",
            )
        if info.filename.lower() in seen or total > size:
            raise ArtifactError(
                f"{path}: member {info.filename[:80]!r} occurs twice or overlaps another.", "Expected each member once."
            )
        seen.add(info.filename.lower())
    for info in infos:
        yield info.filename, opened.read(info)


def _read_directory(path: Path) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    left, n_entries = [path], 0
    while left:
        with os.scandir(left.pop()) as found:
            entries = list(itertools.islice(found, MAX_MEMBERS + 1))
        for entry in entries:
            relative = Path(entry.path).relative_to(path).as_posix()
            n_entries += 1
            if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
                raise ArtifactError(f"{path}: {entry.name[:80]!r} is a link or a device.", "Expected plain files.")
            if not is_name(relative) or n_entries > MAX_MEMBERS:
                raise ArtifactError(
                    f"{path}: {relative[:80]!r} is not a file that Rayline writes.",
                    f"Expected at most {MAX_MEMBERS} plain names.",
                )
            if entry.is_dir():
                left.append(Path(entry.path))
            else:
                members[relative] = Path(entry.path).read_bytes()
    return members


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

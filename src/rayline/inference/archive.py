"""Archive of named members as one file or one directory: written atomically, and read as untrusted input.

A file is a ZIP archive whose members are stored without compression, so that no member can expand when it is opened. The
size of its directory and the total size of its members are limited before anything is read; members are then read in
pieces, and as a whole only on request.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import struct
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO

from rayline.core.arguments import integer
from rayline.core.errors import ArtifactError, RaylineError, at, first_line
from rayline.core.files import replace_file, sync_directory

MAX_MEMBERS = 10_000
MAX_DIRECTORY_BYTES = 4 << 20
MAX_BYTES = 2_000_000_000
"""Of all members of one file: what Python writes in the plain form of ZIP. A directory may hold more."""
PIECE_BYTES = 1 << 20

Content = bytes | Path
"""What is written as a member: bytes, or a file to copy."""

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*){0,15}")
_END = struct.Struct("<4s4H2LH")  # the end-of-central-directory record of a ZIP file
_LARGE = b"PK\x06\x07"  # 20 bytes before it: that another record counts, of the form for more than 2 GB


def is_name(name: str) -> bool:
    """Whether a member may be called so: a plain relative path in ASCII."""
    return _NAME.fullmatch(name) is not None


def size_of(content: Content) -> int:
    """The size in bytes."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def pieces_of(content: Content) -> Iterator[bytes]:
    """The bytes, piece by piece."""
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as file:
        yield from _pieces(file)


def sha256_of(content: Content) -> str:
    """The hash of the bytes, in hex."""
    digest = hashlib.sha256()
    for piece in pieces_of(content):
        digest.update(piece)
    return digest.hexdigest()


class ArchiveMembers(ABC):
    """The members of an artifact that is open: their sizes, and their bytes when they are asked for."""

    sizes: Mapping[str, int]

    @abstractmethod
    def pieces(self, name: str) -> Iterator[bytes]:
        """The bytes of a member, piece by piece."""

    def read(self, name: str) -> bytes:
        """A member as a whole, for those that are small."""
        return b"".join(self.pieces(name))

    def copy(self, name: str, path: Path) -> str:
        """Write a member to a file, in bounded memory. Returns its SHA-256."""
        digest = hashlib.sha256()
        with path.open("wb") as file:
            for piece in self.pieces(name):
                digest.update(piece)
                file.write(piece)
        return digest.hexdigest()


def write(path: Path, members: Mapping[str, Content], *, directory: bool = False) -> None:
    """Write the members under a temporary name, on the disk, and then give them their own: a kill at any moment leaves
    what was there or all of them.

    Raises ArtifactError when a directory is to be written that exists, a file that is a directory, or when the disk
    refuses.
    """
    if path.exists() and (directory or path.is_dir()):
        raise ArtifactError(
            f"{path} exists{'' if directory else ' and is a directory'}.",
            f"Expected a new {'directory' if directory else 'file, or one to replace'}.",
            "choose another name.",
        )
    if directory:
        replace_file(path, lambda temporary: _write_directory(temporary, members))
    else:
        replace_file(path, lambda temporary: _write_archive(temporary, members, path))


def replace_in(directory: Path, name: str, content: bytes) -> None:
    """Replace one member of a directory atomically. Raises ArtifactError when the disk refuses."""
    replace_file(directory / name, lambda temporary: _write_file(temporary, content))


@contextlib.contextmanager
def opened(path: Path, max_bytes: int = MAX_BYTES) -> Iterator[ArchiveMembers]:
    """The members of a file or a directory, while it is open.

    Raises ParameterError when `max_bytes` is no positive whole number, and ArtifactError when it is not there, cut off, no archive that
    `write` writes, holds a name that could reach outside of it, a link, or a member twice, or its members are larger together than
    `max_bytes`.
    """
    with at("load"):
        integer("max_bytes", max_bytes)
    try:
        if path.is_dir():
            members: ArchiveMembers = _Directory(path)
            _bound(members, max_bytes, path)
            yield members
            return
        with path.open("rb") as file:
            size = _check_end(file, path)
            with zipfile.ZipFile(file) as archive:
                members = _Archive(archive, size, path)
                _bound(members, max_bytes, path)
                yield members
    except FileNotFoundError as error:
        if error.filename not in (path, str(path)):
            raise
        raise ArtifactError(
            f"{path} does not exist.", "Expected what InferencePipeline.save writes.", "check the path."
        ) from None
    except PermissionError as error:
        raise ArtifactError(
            f"{path} may not be read: {error.strerror}.",
            "Expected a file that this user can read.",
            "change its rights.",
        ) from error
    except RaylineError:
        raise
    except (OSError, RuntimeError, ValueError, EOFError, zipfile.BadZipFile, struct.error) as error:
        raise ArtifactError(
            f"{path} is damaged: {first_line(error)}.", "Expected what InferencePipeline.save writes.", "copy it again."
        ) from error


def _bound(members: ArchiveMembers, max_bytes: int, path: Path) -> None:
    total = sum(members.sizes.values())
    if total > max_bytes:
        raise ArtifactError(
            f"{path} holds {total:,} bytes, which is more than is loaded.",
            f"Expected at most max_bytes={max_bytes:,}.",
            f"if you know where it comes from: load(path, max_bytes={total:_}).",
        )


# -- one file ----------------------------------------------------------------------------------------------------------


class _Archive(ArchiveMembers):
    """A ZIP file."""

    def __init__(self, archive: zipfile.ZipFile, size: int, path: Path) -> None:
        self._archive, self._infos = archive, archive.infolist()
        total, seen = 0, set()
        for info in self._infos:
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
                    f"{path}: member {info.filename[:80]!r} occurs twice or overlaps another.",
                    "Expected each member once.",
                )
            seen.add(info.filename.lower())
        self.sizes = {info.filename: info.file_size for info in self._infos}

    def pieces(self, name: str) -> Iterator[bytes]:
        with self._archive.open(name) as file:
            yield from _pieces(file)


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    return iter(lambda: file.read(PIECE_BYTES), b"")


def _check_end(file: BinaryIO, path: Path) -> int:
    """Bound what the archive's directory may cost before anything reads it. Returns the file's size."""
    size: int = file.seek(0, os.SEEK_END)
    if size < _END.size:
        raise ArtifactError(f"{path} is too short for an artifact.", f"Expected a ZIP file; got {size} bytes.")
    file.seek(max(0, size - _END.size - 20))
    large = file.read(4) == _LARGE
    file.seek(size - _END.size)
    signature, _, _, _, n_members, directory_bytes, offset, comment = _END.unpack(file.read(_END.size))
    if signature != b"PK\x05\x06" or comment:
        raise ArtifactError(
            f"{path} is not a Rayline artifact, or was cut off.",
            "Expected a ZIP file without a comment.",
            "copy it again.",
        )
    if (
        large
        or n_members > MAX_MEMBERS
        or directory_bytes > MAX_DIRECTORY_BYTES
        or offset + directory_bytes + _END.size != size
    ):
        raise ArtifactError(
            f"{path} has a directory that Rayline does not write.", f"Expected at most {MAX_MEMBERS} members."
        )
    return size


def _write_archive(temporary: Path, members: Mapping[str, Content], path: Path) -> None:
    """The same bytes for the same members."""
    total = sum(map(size_of, members.values()))
    if total > MAX_BYTES:
        raise ArtifactError(
            f"{path} would be larger than one file may be: {total:,} bytes.",
            f"Expected at most {MAX_BYTES:,}.",
            f"save it as a directory, save(path, directory=True), and load it with max_bytes={total:_}.",
        )
    with temporary.open("wb") as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, content in members.items():
                info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
                info.file_size = size_of(content)
                with archive.open(info, "w") as member:
                    member.writelines(pieces_of(content))
        _sync(file)


# -- one directory -----------------------------------------------------------------------------------------------------


class _Directory(ArchiveMembers):
    """Files below a directory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        sizes: dict[str, int] = {}
        left, n_entries = [path], 0
        while left:
            with os.scandir(left.pop()) as listing:
                entries = list(itertools.islice(listing, MAX_MEMBERS + 1))
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
                    sizes[relative] = entry.stat(follow_symlinks=False).st_size
        self.sizes = sizes

    def pieces(self, name: str) -> Iterator[bytes]:
        left = self.sizes[name]  # it may grow while it is read
        handle = os.open(self._path / name, os.O_RDONLY | os.O_NOFOLLOW)  # or have become a link
        with open(handle, "rb") as file:
            while left and (piece := file.read(min(left, PIECE_BYTES))):
                left -= len(piece)
                yield piece


def _write_directory(temporary: Path, members: Mapping[str, Content]) -> None:
    for name, content in members.items():
        (temporary / name).parent.mkdir(parents=True, exist_ok=True)
        _write_file(temporary / name, content)
    for place in [temporary, *(p for p in temporary.rglob("*") if p.is_dir())]:
        sync_directory(place)


def _write_file(path: Path, content: Content) -> None:
    with path.open("wb") as file:
        file.writelines(pieces_of(content))
        _sync(file)


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())

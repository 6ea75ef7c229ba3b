"""Files and directories by URL (s3://…, gs://…, memory://…): Arrow opens the schemes it knows, fsspec all others."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path, PurePath, PurePosixPath
from typing import Any
from urllib.parse import quote

from rayline.core import scratch
from rayline.core.errors import ArtifactError, RaylineError

ARROW = ("file", "s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss")
"""URL schemes that Arrow opens itself."""

URI = "%/:?#[]@!$&'()*+,;="
"""Characters with a meaning in a URI; Arrow takes others, such as spaces and umlauts, in their quoted form only."""

WHOLE = frozenset({"s3", "gcs", "abfs"})
"""Kinds of file systems on which a file appears when it is complete."""

PIECE_BYTES = 8 << 20

MAX_COPIED_BYTES = 5 << 30
"""The largest file that S3 copies in one request."""


def is_url(path: Any) -> bool:
    """Return whether a path is a URL.

    >>> is_url("s3://bucket/late.rayline"), is_url("late.rayline")
    (True, False)
    """
    return isinstance(path, str) and "://" in path


def located(path: str | os.PathLike[str]) -> str:
    """Return a URL, or the absolute path: processes of Ray run in other directories than the driver.

    >>> located("s3://bucket/runs"), located("/runs/first")
    ('s3://bucket/runs', '/runs/first')
    """
    return str(path) if is_url(path) else str(Path(path).absolute())


def join(url: str, name: str) -> str:
    """Return the URL of a name in a directory.

    >>> join("s3://bucket/runs?region=eu-west-1", "a")
    's3://bucket/runs/a?region=eu-west-1'
    >>> join("memory://", "a")
    'memory://a'
    """
    place, mark, options = url.partition("?")
    scheme, colon, inside = place.partition("://")
    directory = f"{inside.rstrip('/')}/" if inside else ""
    return f"{scheme}{colon}{directory}{name}{mark}{options}"


def quoted(url: str) -> str:
    """Return a URL in the form that Arrow takes, with the characters quoted that have no place in a URI.

    >>> quoted("s3://bucket/a place"), quoted("s3://bucket/a%20place"), quoted("memory://a place")
    ('s3://bucket/a%20place', 's3://bucket/a%20place', 'memory://a place')
    """
    return quote(url, safe=URI) if url.partition("://")[0] in ARROW else url


def below(directory: str | Path, name: str) -> str:
    """Return the path or URL of a name in a directory."""
    return join(str(directory), name) if is_url(directory) else str(Path(directory) / name)


def sibling(file: str | Path, name: str) -> str:
    """Return the path or URL of another name in the directory of a file.

    >>> sibling("s3://bucket/card.md", "roc.svg")
    's3://bucket/roc.svg'
    """
    if not is_url(file):
        return str(Path(file).with_name(name))
    place, mark, options = str(file).partition("?")
    return join(f"{place.rpartition('/')[0]}{mark}{options}", name)


def plain_path(path: str | Path) -> PurePath:
    """Return a path, or that of a URL without its options, of which the name, the stem and the suffix can be asked.

    >>> plain_path("s3://bucket/card.md?region=eu-west-1").suffix
    '.md'
    """
    return PurePosixPath(str(path).partition("?")[0]) if is_url(path) else Path(path)


def file_system(path: str) -> tuple[Any, str]:
    """Return the Arrow file system of a path or URL, and the path in it.

    Raises OSError or ValueError or ImportError when the URL is malformed, or what opens its scheme is not installed.
    """
    from pyarrow import fs  # only storage needs it: loading a pipeline to predict should not wait for it

    if not is_url(path):
        return fs.LocalFileSystem(), located(path)
    if path.partition("://")[0] in ARROW:
        system, root = fs.FileSystem.from_uri(quoted(path))
    else:
        import fsspec  # Ray Data brings it

        other, root = fsspec.core.url_to_fs(path)
        system = fs.PyFileSystem(fs.FSSpecHandler(other))
    return system, root.rstrip("/")


@contextlib.contextmanager
def opening(path: Any, what: str) -> Iterator[None]:
    """Turn the errors of a file system into ArtifactError; `what` is "read" or "written"."""
    try:
        yield
    except RaylineError:
        raise
    except Exception as error:  # each file system of fsspec has errors of its own
        reason = str(getattr(error, "strerror", None) or error).partition("\n")[0][:300] or type(error).__name__
        if is_url(path):
            expected = "a URL that Arrow or fsspec opens (s3://…, gs://…, hdfs://…), with rights for it"
            hint = "check the URL, the credentials and the endpoint in the environment (AWS_ENDPOINT_URL, …)."
        else:
            expected, hint = "a place that exists or can be made, with rights for it and free space", "check the path."
        raise ArtifactError(f"{path} cannot be {what}: {reason}.", f"Expected {expected}.", hint) from error


def read_bytes(url: str) -> bytes:
    """Return the content of a file. Raises ArtifactError when it cannot be read."""
    with opening(url, "read"):
        system, path = file_system(url)
        with system.open_input_stream(path) as file:
            content: bytes = file.read()
    return content


def write_bytes(url: str, content: bytes) -> None:
    """Write a file that appears as a whole, in a directory that is made. Raises ArtifactError when it cannot be written."""
    with opening(url, "written"):
        _write_file(*file_system(url), [content])


@contextlib.contextmanager
def local_copy(path: str | Path, max_bytes: int | None = None) -> Iterator[Path]:
    """Yield a local path with the content of a file or a directory; a local one itself, a URL as a temporary copy.

    Raises ArtifactError when it cannot be read, or is larger than `max_bytes`.
    """
    if not is_url(path):
        yield Path(path)
        return
    with scratch.folder("storage") as folder:
        with opening(path, "read"):
            system, root = file_system(str(path))
            files = _files(system, root)
        total = sum(info.size or 0 for info in files)
        if not files or (max_bytes is not None and total > max_bytes + MAX_OVERHEAD):
            raise ArtifactError(
                f"{path} holds {total:,} bytes in {len(files):,} files.",
                "Expected a file or a directory that exists"
                + ("." if max_bytes is None else f", of at most {max_bytes:,} bytes."),
                "check the URL, or raise max_bytes if you trust it.",
            )
        target = folder / (root.rpartition("/")[2] or "content")
        with opening(path, "read"):
            for info in files:
                _download(system, info.path, _below(target, root, info.path))
        yield target


MAX_OVERHEAD = 8 << 20
"""Bytes that a file may have beyond those of its members."""

MAX_FILES = 20_000


def upload(local: Path, url: str, *, last: str = "") -> None:
    """Copy a file or a directory to a URL; the file `last` of a directory is written after all others.

    Raises ArtifactError when it cannot be written.
    """
    with opening(url, "written"):
        system, root = file_system(url)
        if local.is_file():
            _write_file(system, root, _pieces(local), local.stat().st_size)
            return
        files = sorted(path for path in local.rglob("*") if path.is_file())
        for file in sorted(files, key=lambda path: path.relative_to(local).as_posix() == last):
            name = f"{root}/{file.relative_to(local).as_posix()}"
            system.create_dir(name.rpartition("/")[0], recursive=True)
            _write(system, name, _pieces(file), file.stat().st_size)


def download(url: str, target: Path) -> None:
    """Copy a file to a local one. Raises ArtifactError when it cannot be read."""
    with opening(url, "read"):
        system, path = file_system(url)
        _download(system, path, target)


def exists(url: str) -> bool:
    """Return whether there is a file, or a directory with files. Raises ArtifactError when the storage does not answer."""
    with opening(url, "read"):
        return bool(_files(*file_system(url)))


def list_names(url: str) -> list[str]:
    """Return the names in a directory, sorted; none where there is no directory. Raises ArtifactError when it cannot be read."""
    from pyarrow import fs

    with opening(url, "read"):
        system, root = file_system(url)
        infos = system.get_file_info(fs.FileSelector(root, allow_not_found=True))
    return sorted(info.base_name for info in infos)


def delete(url: str) -> None:
    """Delete a file or a directory, if it exists. Raises ArtifactError when it cannot be deleted."""
    from pyarrow import fs

    with opening(url, "written"):
        system, path = file_system(url)
        kind = system.get_file_info(path).type
        if kind == fs.FileType.Directory:
            system.delete_dir(path)
        elif kind == fs.FileType.File:
            system.delete_file(path)


def _files(system: Any, root: str) -> list[Any]:
    from pyarrow import fs

    info = system.get_file_info(root)
    if info.type == fs.FileType.File:
        return [info]
    if info.type == fs.FileType.NotFound:
        return []
    inside = system.get_file_info(fs.FileSelector(root, recursive=True))
    files = [one for one in inside if one.type == fs.FileType.File]
    if len(files) > MAX_FILES:
        raise OSError(f"it holds more than {MAX_FILES:,} files")
    return files


def _below(target: Path, root: str, path: str) -> Path:
    """Return where a file of a directory goes. Raises OSError on a name that leaves the directory."""
    relative = path.removeprefix(root).strip("/")
    place = target / relative if relative else target
    if ".." in Path(relative).parts:
        raise OSError(f"it holds the name {relative!r}")
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def _download(system: Any, path: str, target: Path) -> None:
    with system.open_input_stream(path) as source, target.open("wb") as file:
        while piece := source.read(PIECE_BYTES):
            file.write(piece)


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece


def _write_file(system: Any, path: str, pieces: Any, size_bytes: int = 0) -> None:
    """Write a file in a directory that is made."""
    if system.type_name not in WHOLE:  # elsewhere a name may have slashes, and a directory costs a request
        system.create_dir(path.rpartition("/")[0], recursive=True)
    _write(system, path, pieces, size_bytes)


def _write(system: Any, path: str, pieces: Any, size_bytes: int = 0) -> None:
    """Write a file of several pieces (`size_bytes` in all) that replaces another one when it is complete, not before.

    An error between two pieces closes the file, which S3 takes for its end: there, too, several pieces have another name at first.
    """
    whole = system.type_name in WHOLE and not PIECE_BYTES < size_bytes <= MAX_COPIED_BYTES
    parent, _, name = path.rpartition("/")
    place = path if whole else f"{parent}/.{name}.{secrets.token_hex(6)}.tmp"
    try:
        with system.open_output_stream(place) as file:
            for piece in pieces:
                file.write(piece)
    except BaseException:
        if not whole:
            with contextlib.suppress(Exception):  # the first error says more
                system.delete_file(place)
        raise
    if not whole:
        system.move(place, path)

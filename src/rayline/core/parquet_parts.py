"""A directory of Parquet files that appear one by one, each whole or not at all, and can be continued after a kill."""

from __future__ import annotations

import contextlib
import json
import secrets
from dataclasses import dataclass
from typing import Any

import polars as pl

from rayline.core import storage, strict_json
from rayline.core.arrow_tables import to_arrow
from rayline.core.errors import ArtifactError, DataError, counted, first_line

_ABOUT = "_rayline.json"


@dataclass(frozen=True)
class PartFiles:
    """File k, `part-00000k.parquet`, holds the rows from k × `rows_per_file` on.

    Small and picklable: workers write the files, the driver decides which.
    """

    path: str
    rows_per_file: int
    made_by: str = ""
    """A digest of what makes the rows: files of another maker are not continued."""

    def begin(self, *, resume: bool) -> set[int]:
        """Return the numbers of the files that are there and stay.

        Raises DataError when there are some and `resume` is False, or when they were made otherwise.
        """
        with storage.opening(self.path, "written"):
            system, root = self._open()
            system.create_dir(root, recursive=True)
            names = [info.base_name for info in system.get_file_info(_files().FileSelector(root)) if info.is_file]
        done = {int(name[5:-8]) for name in names if name.startswith("part-") and name.endswith(".parquet")}
        if done and not resume:
            raise DataError.here(
                f"{self.path} holds {counted(len(done), 'file')} already.",
                "Expected an empty directory, or resume=True.",
                "choose another directory, or continue the run that wrote them with resume=True.",
            )
        about = {"rows_per_file": self.rows_per_file, "made_by": self.made_by}
        if _ABOUT in names and done:
            with system.open_input_stream(f"{root}/{_ABOUT}") as file:
                state = strict_json.loads(file.read(), f"{self.path}/{_ABOUT}")
            if state != about:
                raise DataError.here(
                    f"the files in {self.path} were made otherwise: {state}.",
                    f"Expected {about}.",
                    "resume with the same rows_per_file, pipeline and options, or choose another directory.",
                )
            return done
        with storage.opening(self.path, "written"):
            with system.open_output_stream(f"{root}/.{_ABOUT}") as file:
                file.write(json.dumps(about).encode())
            system.move(f"{root}/.{_ABOUT}", f"{root}/{_ABOUT}")
        return done

    def write(self, number: int, frame: pl.DataFrame) -> int:
        """Write one file and return its rows. The file is there when it is complete, not before."""
        system, root = self._open()
        final, temporary = self._name(root, number), f"{root}/.part-{number:06d}.{secrets.token_hex(6)}.tmp"
        table = to_arrow(frame)
        try:
            with storage.opening(self.path, "written"):
                _parquet().write_table(table, temporary, filesystem=system)
                system.move(temporary, final)
        except ArtifactError:
            with contextlib.suppress(Exception):  # a full disk is not to stay full
                system.delete_file(temporary)
            raise
        return frame.height

    def n_rows(self, number: int) -> int:
        """Return the rows of a file that is there."""
        system, root = self._open()
        name = self._name(root, number)
        try:
            rows: int = _parquet().read_metadata(name, filesystem=system).num_rows
        except (OSError, ValueError) as error:  # ValueError: also Arrow's
            raise ArtifactError(
                f"{name} is no Parquet file that can be read: {first_line(error)}.",
                "Expected the files of the run that is resumed, each of them whole.",
                "delete it, and resume again.",
            ) from error
        return rows

    def finish(self) -> None:
        """Remove what killed writers left."""
        system, root = self._open()
        with storage.opening(self.path, "written"):
            for info in system.get_file_info(_files().FileSelector(root)):
                if info.base_name.startswith(".part-") and info.base_name.endswith(".tmp"):
                    system.delete_file(info.path)

    def _open(self) -> tuple[Any, str]:
        return storage.file_system(self.path)

    def _name(self, root: str, number: int) -> str:
        return f"{root}/part-{number:06d}.parquet"


def _files() -> Any:
    import pyarrow.fs  # only writers need it, and the import is slow

    return pyarrow.fs


def _parquet() -> Any:
    import pyarrow.parquet

    return pyarrow.parquet

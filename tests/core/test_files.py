"""Files are written atomically.

Covers `core.parquet_parts` too.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from rayline.core.errors import ArtifactError
from rayline.core.files import replace_content, replace_file
from rayline.core.parquet_parts import PartFiles


def test_a_file_is_replaced_with_its_mode_and_through_its_link(tmp_path: Path) -> None:
    path, link = tmp_path / "x.txt", tmp_path / "link.txt"
    replace_content(path, "één")
    assert path.read_text(encoding="utf-8") == "één"
    path.chmod(0o640)
    link.symlink_to(path)
    replace_content(link, b"two")
    assert link.is_symlink()
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"two", 0o640)
    assert sorted(os.listdir(tmp_path)) == ["link.txt", "x.txt"]


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), pl.exceptions.ComputeError("the disk is full"), ZeroDivisionError()],
)
def test_a_failure_leaves_what_was_there(tmp_path: Path, error: Exception) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")

    def write(temporary: Path) -> None:
        temporary.write_text("half")
        raise error

    with pytest.raises((ArtifactError, ZeroDivisionError)) as caught:
        replace_file(path, write)
    assert isinstance(caught.value, type(error) if isinstance(error, ZeroDivisionError) else ArtifactError)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.txt"]


def test_the_disk_refuses_in_three_sentences(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, why in (
        (tmp_path / "nothing" / "x", "No such file"),
        (tmp_path / "file" / "x", "Not a directory"),
        (tmp_path, "directory"),
    ):
        with pytest.raises(ArtifactError, match=why) as error:
            replace_content(path, "x")
        assert "Expected a directory that exists" in str(error.value)


ROOT = Path(__file__).parents[2]

FULL = """
import resource, sys
import tests.toy  # its framework
from rayline.cli import app
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
app(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests import toy

    path = tmp_path_factory.mktemp("saved") / "toy.rayline"
    toy.pipeline().save(path)
    return path


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs a limit on the size of files")
@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_a_full_disk_under_the_command_line(tmp_path: Path, saved: Path, suffix: str) -> None:
    import rayline

    pipeline: Any = rayline.load(saved)
    rows, target = tmp_path / f"rows{suffix}", tmp_path / f"out{suffix}"
    schema = pipeline.input_schema
    numbers = pl.Series(range(6000))
    table = pl.DataFrame(
        {
            n: numbers.cast(d, strict=False) if d.is_numeric() else ("n" + numbers.cast(pl.String)).cast(d)
            for n, d in schema.items()
        }
    )
    getattr(table, {".parquet": "write_parquet", ".csv": "write_csv", ".jsonl": "write_ndjson"}[suffix])(rows)
    target.write_bytes(b"what was there")
    kept = sorted(os.listdir(tmp_path))
    for arguments in (
        ["predict", str(saved), str(rows), str(target)],
        ["card", str(saved), str(tmp_path / "card.html")],
    ):
        done = subprocess.run(
            [sys.executable, "-c", FULL, *arguments], capture_output=True, text=True, timeout=120, check=False, cwd=ROOT
        )
        assert "Traceback" not in done.stderr
        assert done.returncode == 1
        assert "cannot be written" in done.stderr
    assert target.read_bytes() == b"what was there"
    assert sorted(os.listdir(tmp_path)) == kept


WRITERS: dict[str, Callable[[Any, Path], object]] = {
    "save": lambda p, path: p.save(path / "x.rayline"),
    "preprocessor": lambda p, path: p.preprocessor.save(path / "x.json"),
    "card": lambda p, path: __import__("rayline").model_card(p, path / "x.md"),
    "deploy_config": lambda p, path: __import__("rayline.serve", fromlist=["x"]).deploy_config(
        "x", path / "serve.yaml"
    ),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_what_is_written_where_nothing_is_raises_an_error_of_ours(tmp_path: Path, saved: Path, writer: str) -> None:
    import rayline

    pipeline: Any = rayline.load(saved)
    with pytest.raises(ArtifactError, match="cannot be written"):
        WRITERS[writer](pipeline, tmp_path / "nothing")


def test_parts_of_predictions_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet

    parts = PartFiles(str(tmp_path / "parts"), 10)
    assert parts.begin(resume=False) == set()
    kept = os.listdir(tmp_path / "parts")
    write_table = pyarrow.parquet.write_table

    def full(table: Any, where: str, *, filesystem: Any) -> None:
        write_table(table, where, filesystem=filesystem)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pyarrow.parquet, "write_table", full)
    with pytest.raises(ArtifactError, match="cannot be written: No space left"):
        parts.write(0, pl.DataFrame({"x": [1]}))
    assert os.listdir(tmp_path / "parts") == kept
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot be written"):
        PartFiles(str(tmp_path / "file" / "parts"), 10).begin(resume=False)

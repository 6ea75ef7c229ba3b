from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import polars as pl
import pytest
from typer.testing import CliRunner

import rayline
from rayline.cli import app

from .serve.test_app import odd


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    odd().save(tmp_path / "odd.rayline")
    return tmp_path / "odd.rayline"


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    return result.exit_code, re.sub(r"\s+", " ", result.output)


def test_version() -> None:
    assert run("--version") == (0, f"{rayline.__version__} ")


def test_show(saved: Path) -> None:
    code, text = run("show", saved)
    assert code == 0
    assert "serve-odd" in text
    assert "Float64" in text


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_predict(saved: Path, tmp_path: Path, suffix: str) -> None:
    pl.DataFrame({"x": [1.0, 2.0]}).write_csv(tmp_path / "rows.csv")
    code, text = run("predict", saved, tmp_path / "rows.csv", tmp_path / f"out{suffix}")
    assert (code, "2 rows" in text) == (0, True)
    read = {".parquet": pl.read_parquet, ".csv": pl.read_csv, ".jsonl": pl.read_ndjson}[suffix]
    assert read(tmp_path / f"out{suffix}").rows() == [(1.0, 1.0), (2.0, 2.0)]


def test_errors_have_no_traceback(tmp_path: Path, saved: Path) -> None:
    (tmp_path / "bad.rayline").write_bytes(b"no artifact")
    for arguments in (
        ("show", tmp_path / "bad.rayline"),
        ("show", tmp_path / "none.rayline"),
        ("predict", saved, tmp_path / "none.csv", tmp_path / "out.csv"),
        ("predict", saved, tmp_path / "rows.xls", tmp_path / "out.csv"),
        ("serve", saved, "--token-env", "NO_SUCH_VARIABLE"),
        ("serve", saved, "--max-batch-size", 0),
    ):
        code, text = run(*arguments)
        assert code == 1, arguments
        assert "Traceback" not in text
        assert "Expected" in text


SERVE = "import tests.serve.test_app, rayline.cli; rayline.cli.app()"


def test_serve(saved: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", SERVE, "serve", str(saved), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=Path(__file__).parents[1]) as server:
        try:
            for _ in range(300):
                try:
                    answer = httpx.post(f"http://127.0.0.1:{port}/predict", json=[{"x": 2}], timeout=5)
                    break
                except httpx.TransportError:
                    assert server.poll() is None, server.stdout and server.stdout.read()
                    time.sleep(0.1)
            assert answer.json() == {"predictions": [2.0]}
            assert httpx.get(f"http://127.0.0.1:{port}/v2/models/odd").status_code == 200
        finally:
            server.terminate()

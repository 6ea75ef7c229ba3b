from __future__ import annotations

import datetime as dt
import importlib.util
import io
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import polars as pl
import pytest
from typer.main import get_command
from typer.testing import CliRunner

import rayline
from rayline import train
from rayline.cli import app
from rayline.core import storage
from rayline.inference import artifact
from rayline.postprocess import Conformal
from rayline.stages import DatetimeEncoder, OneHotEncoder, SimpleImputer

from . import toy  # noqa: F401  # registers its framework
from .s3 import local_s3
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


def test_the_package_is_a_command() -> None:
    command = [sys.executable, "-m", "rayline", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == rayline.__version__


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
    assert read(tmp_path / f"out{suffix}").rows() == [(1.0, 1.0), (2.0, 2.0)]  # type: ignore[operator]


def test_every_path_may_be_a_url(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    private = ed25519.Ed25519PrivateKey.generate()
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    public = private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    rows = pl.DataFrame({"x": [1.0, 2.0]})
    rows.write_parquet(tmp_path / "rows.parquet")
    with local_s3(monkeypatch) as url:
        storage.upload(saved, f"{url}/odd.rayline")
        storage.upload(tmp_path / "rows.parquet", f"{url}/rows.parquet")
        storage.write_bytes(f"{url}/key.pem", private.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
        storage.write_bytes(f"{url}/public.pem", public)
        assert run("sign", f"{url}/odd.rayline", "--key", f"{url}/key.pem")[0] == 0
        for suffix, read in ((".parquet", pl.read_parquet), (".csv", pl.read_csv), (".jsonl", pl.read_ndjson)):
            given = (f"{url}/odd.rayline", f"{url}/rows.parquet", "--out", f"{url}/out{suffix}")
            code, text = run("predict", *given, "--trusted-key", f"{url}/public.pem")
            assert (code, "2 rows" in text) == (0, True), text
            assert read(io.BytesIO(storage.read_bytes(f"{url}/out{suffix}"))).rows() == [(1.0, 1.0), (2.0, 2.0)]
        code, text = run("show", f"{url}/odd.rayline", "--trusted-key", f"{url}/public.pem")
        assert (code, "(trusted)" in text) == (0, True)
        assert run("card", f"{url}/odd.rayline", f"{url}/card.md")[0] == 0
        assert storage.read_bytes(f"{url}/card.md").startswith(b"# odd")
        code, text = run("predict", f"{url}/odd.rayline", f"{url}/none.csv", f"{url}/out.csv")
        assert (code, "Traceback" in text) == (1, False)
        code, text = run("predict", f"{url}/odd.rayline", f"{url}/rows.parquet")
        assert (code, "got neither" in text) == (1, True)


def test_predict_writes_intervals(saved: Path, tmp_path: Path) -> None:
    rows = pl.DataFrame({"x": [1.0, 2.0]})
    rows.write_csv(tmp_path / "rows.csv")
    pipeline = rayline.load(saved)
    kept_aside = pl.DataFrame({"x": [float(i) for i in range(20)]}).with_columns(
        pl.lit(0.5).alias(pipeline.target.columns[0])
    )
    pipeline.calibrated([Conformal(0.8)], kept_aside).save(tmp_path / "sure.rayline")
    code, _ = run("predict", tmp_path / "sure.rayline", tmp_path / "rows.csv", tmp_path / "out.csv", "--interval")
    assert code == 0
    assert pl.read_csv(tmp_path / "out.csv").columns == ["x", "prediction", "lower", "upper"]


def test_errors_have_no_traceback(tmp_path: Path, saved: Path) -> None:
    (tmp_path / "bad.rayline").write_bytes(b"no artifact")
    pl.DataFrame({"x": [1.0, 2.0]}).write_csv(tmp_path / "rows.csv")
    for arguments in (
        ("show", tmp_path / "bad.rayline"),
        ("show", tmp_path / "none.rayline"),
        ("predict", saved, tmp_path / "none.csv", tmp_path / "out.csv"),
        ("predict", saved, tmp_path / "rows.xls", tmp_path / "out.csv"),
        ("serve", saved, "--token-env", "NO_SUCH_VARIABLE"),
        ("serve", saved, "--max-batch-size", 0),
        ("card", saved, tmp_path / "card.pdf"),
        ("card", saved, tmp_path / "nothing" / "card.html"),
        ("predict", saved, tmp_path / "rows.csv", tmp_path / "nothing" / "out.csv"),
        ("sign", saved, "--key", tmp_path / "none.pem"),
    ):
        code, text = run(*arguments)
        assert code == 1, arguments
        assert "Traceback" not in text
        assert "Expected" in text


OWN_STAGE = """
from dataclasses import dataclass
import polars as pl
import rayline as rl
from rayline.stages import Clipper

@rl.register_stage
@dataclass(frozen=True)
class OwnClipper(Clipper):
    pass
"""

MAKE = """
import own_stages, polars as pl, rayline as rl
from rayline import train
table = pl.DataFrame({"x": [0.0, 1.0, 2.0, 9.0] * 9, "y": [0.0, 1.0, 2.0, 3.0] * 9})
steps = train.Preprocessor([("clip", own_stages.OwnClipper())])
train.XGBoostTrainer({}, num_boost_round=2).fit(steps, table, target_columns="y", verbose=False).inference_pipeline.save("own.rayline")
"""


@pytest.mark.slow  # five processes
def test_a_module_of_ones_own_is_imported(tmp_path: Path) -> None:
    (tmp_path / "own_stages.py").write_text(OWN_STAGE)
    pl.DataFrame({"x": [1.0, 2.0]}).write_csv(tmp_path / "rows.csv")

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )

    made = python("-c", MAKE)
    assert made.returncode == 0, made.stderr
    command = ["-P", "-c", "import rayline.cli; rayline.cli.app()"]
    without = python(*command, "show", "own.rayline")
    assert (without.returncode, "Traceback" in without.stderr) == (1, False), without.stderr
    for arguments in (["predict", "own.rayline", "rows.csv", "out.csv"], ["show", "own.rayline"]):
        found = python(*command, *arguments, "--import", "own_stages")
        assert found.returncode == 0, found.stderr
    wrong = python(*command, "show", "own.rayline", "--import", "own_stage")
    assert "The module 'own_stage' could not be imported: ModuleNotFoundError" in wrong.stderr
    assert "Hint: " in wrong.stderr


@pytest.mark.parametrize("command", ["serve", "show", "predict", "card", "sign"])
def test_every_argument_is_explained(command: str) -> None:
    code, text = run(command, "--help")
    assert code == 0
    for parameter in get_command(app).commands[command].params:  # type: ignore[attr-defined]
        assert parameter.help, parameter.name
        assert parameter.help.endswith((".", "`.")), parameter.help
    assert "--import" in text or command == "sign"


SERVE = "import tests.serve.test_app, rayline.cli; rayline.cli.app()"


def test_serve(saved: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", SERVE, "serve", str(saved), "--port", str(port)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=Path(__file__).parents[1]
    ) as server:
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


def test_what_is_not_the_expected_one_is_refused(saved: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    pl.DataFrame({"x": [1.0, 2.0]}).write_csv(rows)
    digest = artifact.digest_of(saved)
    assert digest in run("show", saved)[1]
    for command in (
        ["show", saved],
        ["predict", saved, rows, tmp_path / "out.csv"],
        ["card", saved, tmp_path / "card.html"],
    ):
        assert run(*command, "--expected-digest", digest)[0] == 0
        assert "not the artifact that was expected" in run(*command, "--expected-digest", "0" * 64)[1]
        code, text = run(*command, "--max-bytes", 10)
        assert code == 1
        assert "max_bytes=10" in text
    assert "<svg" not in (tmp_path / "card.html").read_text()
    rows.write_text('a,b\n"')
    assert run("predict", saved, rows.rename(tmp_path / "rows.parquet"), tmp_path / "out.csv")[0] == 1


@pytest.mark.skipif(importlib.util.find_spec("cryptography") is None, reason="cryptography is not installed")
@pytest.mark.parametrize("directory", [False, True])
def test_a_pipeline_is_signed_and_asked_for_its_signature(tmp_path: Path, directory: bool) -> None:
    from .inference.test_signature import KEY, OTHER, pem

    path = tmp_path / "odd.rayline"
    odd().save(path, directory=directory)
    for name, text in (("key.pem", pem(KEY)[0]), ("public.pem", pem(KEY)[1]), ("other.pem", pem(OTHER)[1])):
        (tmp_path / name).write_bytes(text)
    before, name = artifact.digest_of(path), KEY.public_key().public_bytes_raw().hex()
    assert "signed by no key" in run("show", path)[1]
    assert "is not signed" in run("show", path, "--trusted-key", tmp_path / "public.pem")[1]
    assert "not a private Ed25519 key" in run("sign", path, "--key", tmp_path / "public.pem")[1]
    assert "not the artifact" in run("sign", path, "--key", tmp_path / "key.pem", "--expected-digest", "0" * 64)[1]
    assert artifact.signer_of(path) is None
    assert name in run("sign", path, "--key", tmp_path / "key.pem")[1]
    assert f"signed by {name} (trusted)" in run("show", path, "--trusted-key", tmp_path / "public.pem")[1]
    assert "not trusted" in run("show", path, "--trusted-key", tmp_path / "other.pem")[1]
    assert artifact.digest_of(path) == before
    assert not list(tmp_path.rglob("*.tmp"))


def test_csv_and_json_lines_mean_what_the_pipeline_knows(tmp_path: Path) -> None:
    table = pl.DataFrame(
        {
            "day": [dt.date(2013, 1, 1) + dt.timedelta(days=i) for i in range(12)],
            "code": [f"0{i % 3}" for i in range(12)],
            "x": [float(i) for i in range(12)],
            "y": [float(i % 3) for i in range(12)],
        }
    )
    stages = [("impute", SimpleImputer(columns=["x"])), ("dates", DatetimeEncoder()), ("onehot", OneHotEncoder())]
    trainer = train.Trainer("least-squares")
    fitted = train.fit(trainer, train.Preprocessor(stages), train_dataset=table, target_columns=["y"], verbose=False)
    fitted.inference_pipeline.save(tmp_path / "p.rayline")
    rows = table.drop("y").with_columns(x=None)
    expected = fitted.inference_pipeline.predict(rows)["prediction"].to_list()
    rows.write_csv(tmp_path / "rows.csv")
    rows.write_ndjson(tmp_path / "rows.jsonl")
    for suffix in (".csv", ".jsonl"):
        code, text = run("predict", tmp_path / "p.rayline", tmp_path / f"rows{suffix}", tmp_path / "out.parquet")
        assert code == 0, text
        found = pl.read_parquet(tmp_path / "out.parquet")
        assert found["prediction"].to_list() == expected
        assert found["code"].to_list() == table["code"].to_list()

"""The saved pipeline: what is in the file, what is checked when it is loaded, and signatures.

Covers `data.fingerprint`, `inference.artifact_members` and `inference.manifest` too.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import rayline as rl
from rayline import train
from rayline.core import strict_json
from rayline.inference import artifact
from rayline.stages import OneHotEncoder
from tests import toy
from tests.inference import hostile

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def members() -> dict[str, bytes]:
    return hostile.members_of(toy.pipeline())


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "x.rayline"
    toy.pipeline().save(path)
    return path


def test_what_is_saved_is_what_is_loaded(saved: Path) -> None:
    pipeline, loaded = toy.pipeline(), rl.load(saved)
    assert loaded.predict_proba(toy.table()).equals(pipeline.predict_proba(toy.table()))
    assert loaded.preprocessor == pipeline.preprocessor
    assert (loaded.input_schema, loaded.output_schema, loaded.target) == (
        pipeline.input_schema, pipeline.output_schema, pipeline.target,
    )  # fmt: skip
    assert loaded.examples.equals(pipeline.examples)


def test_the_same_pipeline_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    toy.pipeline().save(tmp_path / "y.rayline")
    rl.load(saved).save(tmp_path / "z.rayline")
    assert saved.read_bytes() == (tmp_path / "y.rayline").read_bytes() == (tmp_path / "z.rayline").read_bytes()


def test_a_directory_is_the_same_artifact(tmp_path: Path) -> None:
    artifact.save(toy.pipeline(), tmp_path / "d", directory=True)
    assert rl.load(tmp_path / "d").predict(toy.table()).equals(toy.pipeline().predict(toy.table()))
    with pytest.raises(rl.ArtifactError, match="exists"):
        artifact.save(toy.pipeline(), tmp_path / "d", directory=True)
    (tmp_path / "d" / "model" / "link").symlink_to("/etc/passwd")
    with pytest.raises(rl.ArtifactError, match="link"):
        rl.load(tmp_path / "d")


def test_the_digest_vouches_for_all_of_it(saved: Path) -> None:
    digest = artifact.digest_of(saved)
    assert rl.load(saved, expected_digest=digest).target.columns == ("late",)
    with pytest.raises(rl.ArtifactError, match="not the artifact that was expected"):
        rl.load(saved, expected_digest="0" * 64)


def test_every_truncation_is_noticed(saved: Path) -> None:
    whole = saved.read_bytes()
    for length in sorted({0, 1, 21, 22, len(whole) - 1, *(len(whole) * i // 100 for i in range(100))}):
        saved.write_bytes(whole[:length])
        with pytest.raises(rl.ArtifactError):
            rl.load(saved)


def test_a_flipped_bit_is_noticed_or_harmless(saved: Path) -> None:
    whole, table = saved.read_bytes(), toy.table()
    expected = toy.pipeline().predict_proba(table)
    rng, refused = random.Random(7), 0
    for _ in range(400):
        place, bit = rng.randrange(len(whole)), rng.randrange(8)
        flipped = bytearray(whole)
        flipped[place] ^= 1 << bit
        saved.write_bytes(flipped)
        try:
            got = rl.load(saved)
        except rl.ArtifactError:
            refused += 1
        else:
            assert got.predict_proba(table).equals(expected), (place, bit)
    assert refused > 360


def _zip(*entries: tuple[Any, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in entries:
            file.writestr(name, content)
    return buffer.getvalue()


def _link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o120777 << 16
    return info


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "extra",
    [
        ("../evil", b"x"),
        ("/etc/evil", b"x"),
        ("a\\..\\evil", b"x"),
        ("model/../../evil", b"x"),
        ("model/./a", b"x"),
        ("model//a", b"x"),
        (_link("model/link"), b"/etc/passwd"),
        ("manifest.json", b"{}"),
        ("MANIFEST.JSON", b"{}"),
        ("model/unlisted.json", b"{}"),
        ("model/", b""),
    ],
)
def test_members_with_evil_names_are_refused(
    members: dict[str, bytes], tmp_path: Path, extra: tuple[Any, bytes]
) -> None:
    path = tmp_path / "in" / "x.rayline"
    path.parent.mkdir()
    path.write_bytes(_zip(*members.items(), extra))
    before = sorted(p for p in tmp_path.rglob("*"))
    with pytest.raises(rl.ArtifactError):
        rl.load(path)
    assert sorted(p for p in tmp_path.rglob("*")) == before


def test_a_nul_in_a_name_is_refused(members: dict[str, bytes], tmp_path: Path) -> None:
    whole = _zip(*members.items(), ("model/evilXname", b"x")).replace(b"evilXname", b"evil\x00name")
    (tmp_path / "x").write_bytes(whole)
    with pytest.raises(rl.ArtifactError):
        rl.load(tmp_path / "x")


def test_bombs_cost_nothing(members: dict[str, bytes], tmp_path: Path) -> None:
    bomb = tmp_path / "bomb"
    bomb.write_bytes(_zip(*members.items(), ("model/big", bytes(1 << 26)), compression=zipfile.ZIP_DEFLATED))
    tracemalloc.start()
    with pytest.raises(rl.ArtifactError, match="plain stored"):
        rl.load(bomb)
    assert tracemalloc.get_traced_memory()[1] < 1 << 25  # of 64 MiB unpacked
    tracemalloc.stop()
    # A directory that claims ten gigabytes for one member, and one that claims a million members.
    liar = bytearray(_zip(*members.items()))
    place = liar.rindex(b"PK\x01\x02")
    struct.pack_into("<2L", liar, place + 20, 0xFFFF_FFF0, 0xFFFF_FFF0)
    bomb.write_bytes(liar)
    with pytest.raises(rl.ArtifactError):
        rl.load(bomb)
    bomb.write_bytes(_zip(*((f"model/{i}", b"") for i in range(20_000))))
    with pytest.raises(rl.ArtifactError, match="directory that Rayline does not write"):
        rl.load(bomb)


def _reseal(members: dict[str, bytes], **changes: bytes) -> bytes:
    """An attacker's archive: changed members with right sizes and hashes."""
    manifest = json.loads(members["manifest.json"])
    members = {
        **members,
        **{name.replace("__", "/").replace("_json", ".json"): content for name, content in changes.items()},
    }
    body = {n: c for n, c in members.items() if n not in ("digest", "manifest.json")}
    if "manifest_json" not in changes:
        manifest["members"] = {
            n: {"size_bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in body.items()
        }
        members["manifest.json"] = json.dumps(manifest).encode()
    members["digest"] = hashlib.sha256(members["manifest.json"]).hexdigest().encode()
    return _zip(*members.items())


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 10_000 + b"]" * 10_000,
        b'{"a": 1e400}',
        b'{"a": NaN}',
        b'{"a": 1, "a": 2}',
        b"\xff\xfe",
        b"",
        b"null",
        b'{"format": "rayline.preprocessor", "format_version": 1, "stages": [["a", {"stage": "os.system", "parameters": {}, "learned": null}]]}',
        b'{"format": "rayline.preprocessor", "format_version": 99}',
    ],
)
def test_hostile_json_is_a_typed_error(members: dict[str, bytes], tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(_reseal(members, preprocessor_json=content))
    with pytest.raises(rl.RaylineError):
        rl.load(tmp_path / "x")
    (tmp_path / "y").write_bytes(_reseal(members, manifest_json=content))
    with pytest.raises(rl.RaylineError):
        rl.load(tmp_path / "y")


def test_another_model_does_not_pass_the_golden_rows(members: dict[str, bytes], tmp_path: Path) -> None:
    weights = json.loads(members["model/weights.json"])
    weights["b"] += 0.01
    (tmp_path / "x").write_bytes(_reseal(members, model__weights_json=json.dumps(weights).encode()))
    with pytest.raises(rl.ArtifactError, match="predictions of the golden rows differ"):
        rl.load(tmp_path / "x")


def test_newer_formats_are_refused_by_name(members: dict[str, bytes], tmp_path: Path) -> None:
    manifest = json.loads(members["manifest.json"])
    manifest["format_version"] = 99
    (tmp_path / "x").write_bytes(_reseal(members, manifest_json=json.dumps(manifest).encode()))
    with pytest.raises(rl.ArtifactError, match="format version 99"):
        rl.load(tmp_path / "x")


def test_unknown_frameworks_are_refused(members: dict[str, bytes], tmp_path: Path) -> None:
    manifest = json.loads(members["manifest.json"])
    manifest["framework"] = "os:system"
    (tmp_path / "x").write_bytes(_reseal(members, manifest_json=json.dumps(manifest).encode()))
    with pytest.raises(rl.ParameterError, match="os:system"):
        rl.load(tmp_path / "x")


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(rl.ArtifactError, match="does not exist"):
        rl.load(tmp_path / "nothing.rayline")
    (tmp_path / "text").write_text("hello, this is no archive at all, just words")
    with pytest.raises(rl.ArtifactError, match="not a Rayline artifact"):
        rl.load(tmp_path / "text")


@pytest.mark.slow
def test_a_save_killed_at_any_moment_leaves_a_whole_artifact(tmp_path: Path) -> None:
    path = tmp_path / "x.rayline"
    toy.pipeline().save(path)
    code = f"from tests import toy\np = toy.pipeline()\nprint('go', flush=True)\nwhile True: p.save({str(path)!r})\n"
    for wait_ms in (0, 1, 2, 3, 5, 7, 9, 12, 16, 20, 27, 33):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(wait_ms / 1000)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert len(list(tmp_path.glob("*.rayline"))) == 1  # half of a file has a name of its own
        assert rl.load(path).predict(toy.table()).equals(toy.pipeline().predict(toy.table()))


def test_loading_runs_no_code(saved: Path) -> None:
    code = f"""
import sys
from tests import toy
from tests.inference import hostile
import rayline as rl
rl.load({str(saved)!r}).predict(toy.table())  # imports our own modules, which is running code too
bad = []
sys.addaudithook(lambda event, args: bad.append(event) if event in ("pickle.find_class", "exec", "compile", "subprocess.Popen", "os.system") else None)
rl.load({str(saved)!r}).predict(toy.table())
assert not bad, bad
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_strict_json() -> None:
    assert strict_json.loads(b'{"a": [1, 2.5, "[[[", null, true]}', "x") == {"a": [1, 2.5, "[[[", None, True]}
    assert strict_json.loads(strict_json.dumps({"ü": 1}), "x") == {"ü": 1}
    with pytest.raises(rl.ArtifactError, match="deeper"):
        strict_json.loads(b"[" * 101 + b"]" * 101, "x")
    assert strict_json.loads(json.dumps(["[" * 500, '\\"[']).encode(), "x") == ["[" * 500, '\\"[']


def test_the_manifest_says_what_it_is(members: dict[str, bytes]) -> None:
    about = json.loads(members["manifest.json"])
    assert about["format_version"] == artifact.FORMAT_VERSION
    assert {"python", "rayline", "polars"} <= {*about["made_by"]}
    assert [name for name, _ in about["input_schema"]] == ["age", "size", "city"]
    assert [name for name, _ in about["output_schema"]] == ["prediction"]
    assert about["target"]["columns"] == ["late"]
    assert about["members"]["golden.json"]["size_bytes"] == len(members["golden.json"])
    assert about["members"]["golden.json"]["sha256"] == hashlib.sha256(members["golden.json"]).hexdigest()


def test_the_fingerprint_is_that_of_the_rows(tmp_path: Path) -> None:
    def data(table: pl.DataFrame) -> Any:
        result = train.fit(train.Trainer("least-squares"), preprocessor, table, target_columns="late", verbose=False)
        result.inference_pipeline.save(tmp_path / "x.rayline")
        return rl.load(tmp_path / "x.rayline").model.data

    preprocessor = rl.Preprocessor([("onehot", OneHotEncoder())]).fit(toy.table(), target_columns=["late"])
    assert data(toy.table())["n_rows"] == 40
    assert data(toy.table()) == data(toy.table().reverse()) == data(toy.table().select("late", "city", "size", "age"))
    other = toy.table().with_columns(late=pl.col("late").shift(1).fill_null("no"))
    assert data(other)["fingerprint"] != data(toy.table())["fingerprint"]


def test_a_million_members_cost_nothing(tmp_path: Path) -> None:
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    path, n = tmp_path / "x", 1_000_000
    for told in (n & 0xFFFF, 0xFFFF, 5):
        path.write_bytes(entry * n + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, told, told, len(entry) * n, 0, 0))
        started = time.process_time()
        with pytest.raises(rl.ArtifactError):
            rl.load(path)
        assert time.process_time() - started < 2


def test_a_directory_is_read_no_deeper_than_it_is_written(tmp_path: Path) -> None:
    artifact.save(toy.pipeline(), tmp_path / "d", directory=True)
    deep = tmp_path / "d" / "model"
    for _ in range(300):
        deep /= "a"
        deep.mkdir()
    with pytest.raises(rl.ArtifactError, match="is not a file that Rayline writes"):
        rl.load(tmp_path / "d")


def test_a_pipe_in_a_directory_is_not_waited_for(tmp_path: Path) -> None:
    artifact.save(toy.pipeline(), tmp_path / "d", directory=True)
    os.mkfifo(tmp_path / "d" / "pipe")
    with pytest.raises(rl.ArtifactError, match="link or a device"):
        rl.load(tmp_path / "d")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("input_schema", lambda schema: schema[:-1] if isinstance(schema, list) else dict(list(schema.items())[:-1])),
        ("output_schema", lambda schema: [] if isinstance(schema, list) else {}),
        ("features", lambda schema: schema[:-1] if isinstance(schema, list) else dict(list(schema.items())[:-1])),
        ("target", lambda target: {**target, "task": "regression", "classes": []}),
        ("target", lambda target: {**target, "columns": []}),
    ],
)
def test_parts_that_do_not_fit_together_are_an_artifact_error(
    members: dict[str, bytes], tmp_path: Path, name: str, change: Any
) -> None:
    manifest = json.loads(members["manifest.json"])
    manifest[name] = change(manifest[name])
    (tmp_path / "x").write_bytes(_reseal(members, manifest_json=json.dumps(manifest).encode()))
    with pytest.raises(rl.ArtifactError):
        rl.load(tmp_path / "x")

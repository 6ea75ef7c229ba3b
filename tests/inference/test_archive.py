"""What opening and writing an artifact costs, and what it does where the disk, the user or a neighbour is against it."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from pathlib import Path

import pytest

import rayline as rl
from rayline.core import strict_json
from rayline.inference import archive, artifact
from tests import toy
from tests.inference import hostile

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def members() -> dict[str, bytes]:
    return hostile.members_of(toy.pipeline())


def sparse(path: Path, members: dict[str, bytes], n_bytes: int) -> None:
    """An artifact with a member of so many zeros, which take no room on the disk."""
    name = b"model/zeros"
    path.write_bytes(hostile.as_file({**members, name.decode(): b""}))
    whole = bytearray(path.read_bytes())
    central, end = whole.rindex(b"PK\x01\x02"), whole.rindex(b"PK\x05\x06")
    local = struct.unpack_from("<L", whole, central + 42)[0]
    checksum, piece = 0, bytes(1_000_000)
    for _ in range(n_bytes // len(piece)):
        checksum = zlib.crc32(piece, checksum)
    for place in (central + 16, local + 14):
        struct.pack_into("<3L", whole, place, checksum, n_bytes, n_bytes)
    struct.pack_into("<L", whole, end + 16, central_start(whole, end) + n_bytes)
    start = local + 30 + len(name)
    with path.open("wb") as file:
        file.write(whole[:start])
        file.seek(start + n_bytes)
        file.write(whole[start:])


def central_start(whole: bytearray, end: int) -> int:
    return int(struct.unpack_from("<L", whole, end + 16)[0])


def test_what_is_too_large_is_refused_before_it_is_read(members: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "x.rayline"
    toy.pipeline().save(path)
    held = sum(map(len, members.values()))
    assert rl.load(path, max_bytes=held).predict(toy.table()).height == 40
    with pytest.raises(
        rl.ArtifactError, match=rf"{held:,} bytes(.|\n)*max_bytes={held - 1:,}(.|\n)*max_bytes={held:_}"
    ):
        rl.load(path, max_bytes=held - 1)
    for wrong in (0, -1, True, 1.5, "1 GB"):
        with pytest.raises(rl.ParameterError, match="max_bytes"):
            rl.load(path, max_bytes=wrong)  # type: ignore[arg-type]
    artifact.save(toy.pipeline(), tmp_path / "d", directory=True)
    with pytest.raises(rl.ArtifactError, match="max_bytes"):
        rl.load(tmp_path / "d", max_bytes=held - 1)
    with (tmp_path / "d" / "model" / "zeros").open("wb") as file:
        file.truncate(10_000_000_000)
    started = time.process_time()
    with pytest.raises(rl.ArtifactError, match="max_bytes=2,000,000,000"):
        rl.load(tmp_path / "d")
    with pytest.raises(rl.ArtifactError, match="does not hold the members"):
        rl.load(tmp_path / "d", max_bytes=20_000_000_000)
    assert time.process_time() - started < 2


MEASURED = """
import resource, sys, time
from rayline.inference import artifact
import rayline as rl
from tests import toy
rl.load(sys.argv[2])
before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
try:
    rl.load(sys.argv[1])
except rl.ArtifactError as error:
    print(str(error).splitlines()[0])
print(round(time.process_time() - started, 2), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


def test_a_large_member_is_never_held_in_memory(members: dict[str, bytes], tmp_path: Path) -> None:
    """256 MB that the manifest lists, with a hash that is wrong: all of it is read, a piece at a time."""
    small, path, n_bytes = tmp_path / "small", tmp_path / "x", 256_000_000
    toy.pipeline().save(small)
    listed = hostile.reseal({**members, "model/zeros": b""})
    text = listed["manifest.json"].replace(
        b'"model/zeros": {"size_bytes": 0', b'"model/zeros": {"size_bytes": %d' % n_bytes
    )
    assert text != listed["manifest.json"]
    resealed = hostile.sealed({**listed, "manifest.json": text})
    del resealed["model/zeros"]
    sparse(path, resealed, n_bytes)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(path), str(small)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    said, _, figures = done.stdout.strip().partition("\n")
    assert "'model/zeros' does not have the hash" in said
    seconds, grown_mib = map(float, figures.split())
    assert grown_mib < 30
    assert seconds < 20


def test_json_that_grows_is_refused(tmp_path: Path, members: dict[str, bytes]) -> None:
    for content in (b"[" + b"[]," * 9_000_000 + b"[]]", b'["' + b'","' * 17_000_000 + b'"]'):
        (tmp_path / "x").write_bytes(hostile.as_file(hostile.reseal(members, **{"preprocessor.json": content})))
        with pytest.raises(rl.ArtifactError, match="more than 16,777,216 values"):
            rl.load(tmp_path / "x")
    quotes = b"[" * 50 + b"[]" * 60 + b'"' + b'\\"' * 5_000_000  # quadratic for a careless expression
    started = time.process_time()
    with pytest.raises(rl.ArtifactError):
        strict_json.loads(quotes, "x")
    assert time.process_time() - started < 2


def test_a_path_is_text_or_a_path_and_may_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    toy.pipeline().save("x.rayline")
    (tmp_path / "link").symlink_to("x.rayline")  # the path of a link means its target
    first = rl.load("link").predict(toy.table())
    toy.pipeline().save(Path("x.rayline"))
    assert rl.load(Path("x.rayline")).predict(toy.table()).equals(first)
    assert sorted(os.listdir()) == ["link", "x.rayline"]


def test_what_stands_in_the_way_is_said(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(rl.ArtifactError, match="is a directory"):
        toy.pipeline().save(tmp_path / "taken")
    with pytest.raises(rl.ArtifactError, match="cannot be written: No such file"):
        toy.pipeline().save(tmp_path / "nowhere" / "x")
    (tmp_path / "file").write_text("x")
    with pytest.raises(rl.ArtifactError, match="cannot be written: Not a directory"):
        toy.pipeline().save(tmp_path / "file" / "x")
    with pytest.raises(rl.ArtifactError, match="exists"):
        artifact.save(toy.pipeline(), tmp_path / "file", directory=True)
    with pytest.raises(rl.ArtifactError, match="not a Rayline artifact"):
        rl.load(tmp_path / "taken")


AS_NOBODY = """
import os, sys
import rayline as rl
from tests import toy
folder, pipeline = sys.argv[1], toy.pipeline()
pipeline.save(folder + "/secret")
rl.load(folder + "/secret")  # imports what it needs
os.chmod(folder + "/secret", 0)
if os.getuid() == 0:
    os.setuid(65534)
for act in (lambda: pipeline.save(folder + "/closed/x"), lambda: rl.load(folder + "/secret")):
    try:
        act()
    except rl.ArtifactError as error:
        print(str(error).splitlines()[0].removeprefix(folder))
"""


def test_rights_are_respected_and_named() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "closed").mkdir(0o555)
        scratch = Path(folder) / "scratch"
        scratch.mkdir()
        scratch.chmod(0o1777)  # that of the tests may be closed to others
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, folder],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(scratch)},
            capture_output=True,
            text=True,
            check=True,
        )
    first, second = done.stdout.splitlines()
    assert first == "/closed/x cannot be written: Permission denied."
    assert second == "/secret may not be read: Permission denied."


def test_a_full_disk_keeps_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.rayline"
    toy.pipeline().save(path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(rl.ArtifactError, match=r"No space left on device(.|\n)*previous content is unchanged"):
            toy.pipeline().save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["x.rayline"]
    with monkeypatch.context() as patch:
        patch.setattr(archive.ArchiveMembers, "copy", lambda *_: full(0))
        with pytest.raises(rl.ArtifactError, match="TMPDIR"):
            rl.load(path)


def test_saves_and_loads_at_the_same_time(tmp_path: Path) -> None:
    """Two write the same file again and again, three read it: each reads one that is whole."""
    path, pipeline, errors, until = tmp_path / "x.rayline", toy.pipeline(), list[Exception](), time.monotonic() + 1
    pipeline.save(path)

    def again(act: object) -> None:
        try:
            while time.monotonic() < until:
                act()  # type: ignore[operator]
        except Exception as error:
            errors.append(error)

    acts = [lambda: pipeline.save(path)] * 2 + [lambda: rl.load(path)] * 3
    threads = [threading.Thread(target=again, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert os.listdir(tmp_path) == ["x.rayline"]

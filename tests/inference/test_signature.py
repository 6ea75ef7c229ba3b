"""Signatures: what a trusted key signed is loaded, and nothing else is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ed25519 = pytest.importorskip(
    "cryptography.hazmat.primitives.asymmetric.ed25519",
    reason="cryptography is not installed (pip install 'rayline[signing]')",
)
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

import rayline as rl
from rayline.inference import archive, signature
from tests import toy
from tests.inference import hostile

KEY, OTHER = ed25519.Ed25519PrivateKey.generate(), ed25519.Ed25519PrivateKey.generate()


def pem(key: Any) -> tuple[bytes, bytes]:
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    toy.pipeline().save(tmp_path / "x.rayline", sign_with=KEY)
    return tmp_path / "x.rayline"


def test_it_is_loaded_with_the_key_that_signed_it(saved: Path, tmp_path: Path) -> None:
    private, public = pem(KEY)
    (tmp_path / "key.pem").write_bytes(private)
    (tmp_path / "public.pem").write_bytes(public)
    expected = toy.pipeline().predict(toy.table())
    for key in (KEY.public_key(), public, tmp_path / "public.pem", str(tmp_path / "public.pem")):
        assert rl.load(saved, trusted_keys=[OTHER.public_key(), key]).predict(toy.table()).equals(expected)
    assert rl.load(saved).predict(toy.table()).equals(expected)  # no signature requested
    for key in (private, tmp_path / "key.pem", str(tmp_path / "key.pem")):
        toy.pipeline().save(tmp_path / "y.rayline", sign_with=key)
        assert (tmp_path / "y.rayline").read_bytes() == saved.read_bytes()
    toy.pipeline().save(tmp_path / "d", directory=True, sign_with=KEY)
    assert rl.load(tmp_path / "d", trusted_keys=[KEY.public_key()]).predict(toy.table()).equals(expected)


def rewritten(path: Path, **changes: bytes | None) -> None:
    with archive.opened(path) as members:
        held = {name: members.read(name) for name in members.sizes}
    held |= {name: content for name, content in changes.items() if content is not None}
    path.write_bytes(
        hostile.as_file({name: content for name, content in held.items() if changes.get(name, b"") is not None})
    )


def test_nothing_else_is(saved: Path) -> None:
    trusted: dict[str, Any] = {"trusted_keys": [KEY.public_key()]}
    with pytest.raises(rl.ArtifactError, match="which is not trusted"):
        rl.load(saved, trusted_keys=[OTHER.public_key()])
    whole = saved.read_bytes()
    with archive.opened(saved) as members:
        held = {name: members.read(name) for name in members.sizes}
    about = json.loads(held["signature.json"])

    rewritten(saved, **{"signature.json": None})
    with pytest.raises(rl.ArtifactError, match="is not signed"):
        rl.load(saved, **trusted)
    weights = held["model/weights.json"].replace(b"0.1", b"0.7")
    rewritten(saved, **{"signature.json": held["signature.json"], "model/weights.json": weights})
    with pytest.raises(rl.ArtifactError, match="does not have the hash"):
        rl.load(saved, **trusted)
    changed = hostile.reseal(held, **{"model/weights.json": weights})  # with all hashes made right
    saved.write_bytes(hostile.as_file(changed))
    with pytest.raises(rl.ArtifactError, match="was modified after it was signed"):
        rl.load(saved, **trusted)
    saved.write_bytes(whole)
    theirs = signature.sign(held["manifest.json"], OTHER)
    borrowed = json.dumps({**json.loads(theirs), "public_key": about["public_key"]}).encode()
    for wrong, reason in (
        (theirs, "not trusted"),
        (borrowed, "modified after"),
        (b"{}", "malformed"),
        (b"[" * 5000, "JSON"),
        (json.dumps({**about, "algorithm": "none"}).encode(), "not trusted"),
        (json.dumps({**about, "signature": ""}).encode(), "modified after"),
        (json.dumps({**about, "signature": "ü"}).encode(), "modified after"),
        (json.dumps({**about, "signature": None}).encode(), "malformed"),
    ):
        rewritten(saved, **{"signature.json": wrong})
        with pytest.raises(rl.ArtifactError, match=reason):
            rl.load(saved, **trusted)


def test_what_is_no_key_is_refused_on_the_way(saved: Path, tmp_path: Path) -> None:
    private, public = pem(KEY)
    rsa = generate_private_key(65537, 2048)
    wrong: Any
    for wrong in (b"", b"nonsense", public, KEY.public_key(), tmp_path / "none.pem", 7, rsa, pem(rsa)[0]):
        with pytest.raises(rl.ParameterError, match="sign_with"):
            toy.pipeline().save(tmp_path / "y.rayline", sign_with=wrong)
    assert not (tmp_path / "y.rayline").exists()
    for keys in ([], "public.pem", [private], [KEY], [b"x"], [pem(rsa)[1]]):
        with pytest.raises(rl.ParameterError, match="trusted_keys"):
            rl.load(saved, trusted_keys=keys)


def test_the_package_is_named_where_it_is_missing(saved: Path) -> None:
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        f"from tests import toy\nimport rayline as rl\nrl.load({str(saved)!r})\n"
        f"try:\n    rl.load({str(saved)!r}, trusted_keys=['x'])\n"
        "except rl.MissingExtraError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=hostile.ROOT, capture_output=True, text=True, check=True)
    assert "rayline[signing]" in done.stdout

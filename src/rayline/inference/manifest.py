"""The manifest of an artifact: its description, checked before any other member is parsed."""

from __future__ import annotations

import errno
import hashlib
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rayline.core import storage, strict_json
from rayline.core.errors import ArtifactError, at, place
from rayline.inference import archive

FORMAT_VERSION = 1
POSTPROCESSED_VERSION = 2
"""The version of a pipeline with stages after its model, which Rayline before them would predict without."""

DIGEST, MANIFEST, SIGNATURE = "digest", "manifest.json", "signature.json"
OUTER = frozenset({DIGEST, MANIFEST, SIGNATURE})
"""Members that the manifest does not list: itself, its digest and its signature."""


def read_manifest(path: str | Path) -> dict[str, Any]:
    """Read the description of an artifact, without loading its model or its framework.

    Nothing but the manifest's own digest is checked: `load` checks the rest.

    Returns
    -------
    dict
        `format_version`, `made_by`, `framework`, `input_schema`, `output_schema`, `target`, `metrics`, `data`, `members`.

    Raises
    ------
    ArtifactError
        When the file is missing, no artifact, damaged, or of a newer format.

    Examples
    --------
    >>> import tempfile, polars as pl
    >>> from rayline import train
    >>> table = pl.DataFrame({"x": [0.0, 1.0, 2.0, 3.0], "y": ["no", "no", "yes", "yes"]})
    >>> result = train.XGBoostTrainer({"min_child_weight": 0}, num_boost_round=3).fit(None, table, None, "y", verbose=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     result.inference_pipeline.save(f"{folder}/late.rayline")
    ...     about = read_manifest(f"{folder}/late.rayline")
    >>> about["framework"], about["target"]["columns"], sorted(about["members"])
    ('xgboost', ['y'], ['golden.json', 'model/model.ubj', 'preprocessor.json'])
    """
    with storage.local_copy(path) as place, archive.opened(place, sys.maxsize) as members, at(str(path)):
        return parse(members)


def digest_of(path: str | Path) -> str:
    """Return the digest of an artifact, which covers all its members. Raises ArtifactError when the file is no artifact."""
    with storage.local_copy(path) as place, archive.opened(place, sys.maxsize) as members, at(str(path)):
        return hashlib.sha256(_text(members, MANIFEST)).hexdigest()


def signer_of(path: str | Path) -> str | None:
    """Return the public key in the signature of an artifact, in hex; None without one. The signature is not verified:
    `load(path, trusted_keys=…)` does. Raises ArtifactError when it is no artifact."""
    with storage.local_copy(path) as place, archive.opened(place, sys.maxsize) as members, at(str(path)):
        if SIGNATURE not in members.sizes:
            return None
        about = strict_json.loads(_text(members, SIGNATURE), SIGNATURE)
    return str(about.get("public_key"))[:64] if isinstance(about, dict) else None


def listing(body: Mapping[str, archive.Content]) -> dict[str, Any]:
    """Return size and SHA-256 of each member, as stored in the manifest."""
    return {
        name: {"size_bytes": archive.size_of(content), "sha256": archive.sha256_of(content)}
        for name, content in sorted(body.items())
    }


def parse(
    members: archive.ArchiveMembers, expected_digest: str | None = None, trusted_keys: Sequence[Any] | None = None
) -> dict[str, Any]:
    """Read the manifest of open members, and check their names and sizes; `extract` compares the hashes.

    Raises ArtifactError when it is not the expected one, not signed by a trusted key, or not true.
    """
    stored_digest, text = _text(members, DIGEST), _text(members, MANIFEST)
    digest = hashlib.sha256(text).hexdigest()
    if stored_digest.decode("ascii", "replace").strip() != digest:
        raise ArtifactError(
            f"{place()} is damaged: its manifest does not have the stored digest.", "", "copy it again."
        )
    if expected_digest is not None and expected_digest != digest:
        raise ArtifactError(
            f"{place()} is not the artifact that was expected.", f"Expected the digest {expected_digest}; got {digest}."
        )
    if trusted_keys is not None:
        from rayline.inference import signature  # optional: it needs cryptography

        stored_signature = _text(members, SIGNATURE) if SIGNATURE in members.sizes else None
        signature.verify(text, stored_signature, trusted_keys)
    manifest = strict_json.loads(text, MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != "rayline.pipeline":
        raise ArtifactError(f"{place()} is not a Rayline pipeline.", "Expected format 'rayline.pipeline'.")
    version = manifest.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= POSTPROCESSED_VERSION:
        raise ArtifactError(
            f"{place()} has format version {version!r}, made by {manifest.get('made_by')!r}.",
            f"Expected at most {POSTPROCESSED_VERSION}.",
            "load it with a newer Rayline.",
        )
    listed = manifest.get("members")
    if not isinstance(listed, dict) or {*listed} != {*members.sizes} - OUTER:
        raise ArtifactError(
            f"{place()} does not hold the members that its manifest lists.", "", "copy or save it again."
        )
    for name, about in listed.items():
        if not isinstance(about, dict) or about.get("size_bytes") != members.sizes[name]:
            raise ArtifactError.here(f"member {name!r} does not have the size in the manifest.", "", "copy it again.")
    return manifest


def extract(members: archive.ArchiveMembers, manifest: Mapping[str, Any], directory: Path) -> None:
    """Copy the members that a manifest lists into a directory, in bounded memory, and compare their hashes.

    Raises ArtifactError when one has another, or there is no room for them.
    """
    for name, about in manifest["members"].items():
        try:
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            digest = members.copy(name, directory / name)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise
            raise no_room(place(), error) from error
        if digest != about.get("sha256"):
            raise ArtifactError.here(f"member {name!r} does not have the hash in the manifest.", "", "copy it again.")


def no_room(what: str, error: OSError) -> ArtifactError:
    """Return the error for files that cannot be written to the temporary directory."""
    return ArtifactError(
        f"{what} cannot be written to {tempfile.gettempdir()}: {error.strerror or error}.",
        "Expected room for its files there.",
        "free disk space, or set the environment variable TMPDIR.",
    )


def _text(members: archive.ArchiveMembers, name: str) -> bytes:
    size = members.sizes.get(name)
    if size is None:
        raise ArtifactError(
            f"{place()} is not a Rayline artifact.",
            f"Expected a member {name!r}; got {sorted(members.sizes)[:8]}.",
            "InferencePipeline.save writes artifacts.",
        )
    if size > strict_json.MAX_BYTES:
        raise ArtifactError.here(
            f"{name} is too large.", f"Expected at most {strict_json.MAX_BYTES:,} bytes; got {size:,}."
        )
    return members.read(name)

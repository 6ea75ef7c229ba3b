"""The artifact: an inference pipeline as data, in one file (or one directory), safe to open.

One ZIP file or one directory (see `archive`) holds:

=====================  ==========================================================================================
`digest`               SHA-256 of `manifest.json`, in hex
`signature.json`       who signed the manifest (missing when nobody did; see `signature`)
`manifest.json`        format version, what made it, schemas, target, metrics, number and fingerprint of the training
                       rows, and size and SHA-256 of all members below
`preprocessor.json`    the fitted preprocessor (missing when there is none)
`golden.json`          a few raw rows and the predictions that they must give
`model/…`              the model in its framework's own format
=====================  ==========================================================================================

Loading checks the structure of the archive, the sizes and the hashes before any parser sees a member, looks ids up in
the registry only, and finally predicts the golden rows. Members go to a temporary directory piece by piece: what is held
in memory is what the framework holds. Nothing in the file names code.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rayline.core import scratch
from rayline.core.errors import ParameterError, nearest
from rayline.core.forks import refuse_after_fork
from rayline.inference import archive, manifest
from rayline.inference.artifact_members import read_members, write_artifact
from rayline.inference.manifest import FORMAT_VERSION, digest_of, read_manifest, signer_of
from rayline.inference.pipeline import InferencePipeline, Preprocessor

__all__ = ["FORMAT_VERSION", "digest_of", "load", "read_manifest", "save", "sign", "signer_of"]


def save(pipeline: InferencePipeline, path: str | Path, *, directory: bool = False, sign_with: Any = None) -> None:
    """Write the pipeline to `path`, atomically: a save killed at any moment leaves the old artifact or the new one.

    Parameters
    ----------
    pipeline
        What to save.
    path
        The file (or directory); its parent must exist. A file that exists is replaced, also while others read it.
    directory
        Write the members as files of a new directory instead of one file.
    sign_with
        A private Ed25519 key (an object of `cryptography`, PEM bytes, or the path of a PEM file): `load` can then ask
        who made it.

    Raises
    ------
    ArtifactError
        When the pipeline cannot be saved as data (a stage with a function of its own) or could not be loaded again (which
        is tried first, with the golden rows), the directory exists, or the disk refuses.
    ParameterError
        When `sign_with` is no private key.
    MissingExtraError
        When there is a key and `cryptography` is not installed.

    Examples
    --------
    >>> import tempfile, polars as pl
    >>> from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    >>> from rayline import train
    >>> table = pl.DataFrame({"x": [0.0, 1.0, 2.0, 3.0], "y": ["no", "no", "yes", "yes"]})
    >>> result = train.XGBoostTrainer({"min_child_weight": 0}, num_boost_round=3).fit(None, table, None, "y", verbose=False)
    >>> key = Ed25519PrivateKey.generate()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(result.inference_pipeline, f"{folder}/late.rayline", sign_with=key)
    ...     loaded = load(f"{folder}/late.rayline", trusted_keys=[key.public_key()])
    >>> loaded.predict([{"x": 3.0}])
    [{'prediction': 'yes'}]
    """
    write_artifact(pipeline, path, directory=directory, sign_with=sign_with)


def sign(path: str | Path, key: Any, *, expected_digest: str | None = None) -> str:
    """Sign an artifact that was saved before. Its digest stays as it is; a signature that it had is replaced.

    Parameters
    ----------
    path
        The file or directory; every member is compared with its hash.
    key
        As `sign_with` of `save`.
    expected_digest
        The digest of what you mean to sign.

    Returns
    -------
    str
        The public key in hex.

    Raises
    ------
    ArtifactError
        When it is damaged, not the one that is expected, or the disk refuses.
    ParameterError
        When `key` is no private key.
    MissingExtraError
        When `cryptography` is not installed.
    """
    from rayline.inference import signature  # optional: it needs cryptography

    place, where = Path(path), str(path)
    with scratch.folder("artifact") as folder:
        with archive.opened(place, sys.maxsize) as members:
            about = manifest.parse(members, where, expected_digest)
            manifest.extract(members, about, folder, where)
            outer: dict[str, archive.Content] = {n: members.read(n) for n in (manifest.DIGEST, manifest.MANIFEST)}
            body = {name: folder / name for name in members.sizes if name not in manifest.OUTER}
        own = signature.sign(bytes(outer[manifest.MANIFEST]), key)
        if place.is_dir():
            archive.replace_in(place, manifest.SIGNATURE, own)
        else:
            archive.write(place, {**outer, manifest.SIGNATURE: own, **body})
    return str(manifest.signer_of(path))


def load(
    path: str | Path,
    *,
    expected_digest: str | None = None,
    trusted_keys: Sequence[Any] | None = None,
    max_bytes: int = archive.MAX_BYTES,
    **options: Any,
) -> InferencePipeline:
    """Read what `InferencePipeline.save` wrote. Needs no Ray and runs no code from the file.

    Parameters
    ----------
    path
        The file or directory.
    expected_digest
        The `digest` of the artifact, known from a trusted place; refuses any other artifact.
    trusted_keys
        Public Ed25519 keys (objects of `cryptography`, PEM bytes, or paths of PEM files); refuses an artifact that none
        of them signed.
    max_bytes
        The most bytes that all members may have together; refuses a larger artifact before any of it is read.
    options
        What the framework of the model must be told by you, as no file may say it: `module=Net` for a PyTorch module of
        a class of your own.

    Returns
    -------
    InferencePipeline
        Its golden rows have been predicted, and gave what they gave when it was saved.

    Raises
    ------
    ArtifactError
        When the file is missing, damaged, tampered with, too large, of a newer format, not one of ours, or not the one
        that is trusted.
    MissingExtraError
        When the framework of the model is not installed, or `cryptography` when there are keys.
    ParameterError
        On a framework that is not registered here, or an option that it does not know.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline import train
    >>> table = pl.DataFrame({"x": [0.0, 1.0, 2.0, 3.0] * 25, "late": ["no", "no", "yes", "yes"] * 25})
    >>> trainer = train.XGBoostTrainer({"max_depth": 2}, num_boost_round=3, seed=1)
    >>> result = train.fit(trainer, train_dataset=table, target_columns=["late"], verbose=False)
    >>> import tempfile
    >>> import rayline as rl
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     result.inference_pipeline.save(f"{folder}/late.rayline")
    ...     loaded = rl.load(f"{folder}/late.rayline")
    >>> loaded.predict([{"x": 3.0}])
    [{'prediction': 'yes'}]
    """
    where = str(path)
    refuse_after_fork("rayline.load")
    own = ["expected_digest", "trusted_keys", "max_bytes"]
    if misspelt := [name for name in options if name not in ("trusted", "module") and nearest(name, own)]:
        raise ParameterError.unknown("load", misspelt, own, "argument")
    with scratch.folder("artifact") as folder:
        with archive.opened(Path(path), max_bytes) as members:
            about = manifest.parse(members, where, expected_digest, trusted_keys)
            manifest.extract(members, about, folder, where)
        scorer = read_members(about, folder, where, options, Preprocessor)
    return InferencePipeline(scorer.preprocessor, scorer.model)

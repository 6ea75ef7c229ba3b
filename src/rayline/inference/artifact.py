"""Save and load an inference pipeline as data, in one file (or one directory), safe to open.

One ZIP file or one directory (see `archive`) contains:

=====================  ==========================================================================================
`digest`               SHA-256 of `manifest.json`, in hex
`signature.json`       signature of the manifest (absent when it is not signed; see `signature`)
`manifest.json`        format version, library versions, schemas, target, metrics, number and fingerprint of the training
                       rows, and size and SHA-256 of all members below
`preprocessor.json`    the fitted preprocessor (absent when there is none)
`golden.json`          a few raw rows and the predictions expected for them
`postprocessing.json`  the fitted stages after the model (absent when there are none)
`model/…`              the model in its framework's own format
=====================  ==========================================================================================

Loading checks the structure of the archive, the sizes and the hashes before any member is parsed, looks up ids in the
registry only, and finally predicts the golden rows. Members are extracted to a temporary directory in pieces, so memory is
used by the framework only. Nothing in the file names code.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rayline import device
from rayline.core import scratch, storage
from rayline.core.arguments import known_arguments
from rayline.core.data_types import SigningKey, TrustedKey
from rayline.core.errors import ParameterError, at, nearest
from rayline.core.files import checked_path
from rayline.core.forks import refuse_after_fork
from rayline.device import UseGPU
from rayline.inference import archive, manifest
from rayline.inference.artifact_members import read_members, write_artifact
from rayline.inference.manifest import FORMAT_VERSION, digest_of, read_manifest, signer_of
from rayline.inference.pipeline import InferencePipeline, Preprocessor

__all__ = ["FORMAT_VERSION", "digest_of", "load", "read_manifest", "save", "sign", "signer_of"]


def save(
    pipeline: InferencePipeline, path: str | Path, *, directory: bool = False, sign_with: SigningKey | None = None
) -> None:
    """Write the pipeline to `path`, atomically: an interrupted save leaves the old artifact or the new one.

    Parameters
    ----------
    pipeline
        The pipeline to save.
    path
        The file (or directory); its parent must exist. An existing file is replaced, even while other processes read it. A URL
        (s3://…, gs://…) is written the same way.
    directory
        Write the members as files of a new directory instead of one file.
    sign_with
        A private Ed25519 key (an object of `cryptography`, PEM bytes, or the path of a PEM file): `load` can then verify
        the signature.

    Raises
    ------
    ArtifactError
        When the pipeline cannot be saved as data (a stage with a custom function), cannot be loaded again (which is tested
        first, with the golden rows), the directory exists, or writing fails.
    ParameterError
        When `sign_with` is not a private key.
    MissingExtraError
        When a key is given and `cryptography` is not installed.

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
    """Sign a saved artifact. Its digest does not change; an existing signature is replaced.

    Parameters
    ----------
    path
        The file or directory; the hash of every member is verified.
    key
        The private key, as `sign_with` of `save`.
    expected_digest
        The digest of the artifact that you intend to sign.

    Returns
    -------
    str
        The public key in hex.

    Raises
    ------
    ArtifactError
        When the artifact is damaged or has another digest, or writing fails.
    ParameterError
        When `key` is not a private key.
    MissingExtraError
        When `cryptography` is not installed.
    """
    from rayline.inference import signature  # optional: it needs cryptography

    with at(str(path)), storage.local_copy(path) as place, scratch.folder("artifact") as folder:
        with archive.opened(place, sys.maxsize) as members:
            about = manifest.parse(members, expected_digest)
            manifest.extract(members, about, folder)
            outer: dict[str, archive.Content] = {n: members.read(n) for n in (manifest.DIGEST, manifest.MANIFEST)}
            body = {name: folder / name for name in members.sizes if name not in manifest.OUTER}
        signed = signature.sign(bytes(outer[manifest.MANIFEST]), key)
        if place.is_dir():
            archive.replace_in(place, manifest.SIGNATURE, signed)
        else:
            archive.write(place, {**outer, manifest.SIGNATURE: signed, **body})
        if storage.is_url(path):
            storage.upload(place, str(path), last=manifest.DIGEST)
    return str(manifest.signer_of(path))


@known_arguments
@at("load")
def load(
    path: str | Path,
    *,
    expected_digest: str | None = None,
    trusted_keys: Sequence[TrustedKey] | None = None,
    max_bytes: int = archive.MAX_BYTES,
    use_gpu: UseGPU | None = None,
    **options: Any,
) -> InferencePipeline:
    """Load an artifact that `InferencePipeline.save` wrote. Needs no Ray and runs no code from the file.

    Parameters
    ----------
    path
        The file or directory, or its URL (s3://…, gs://…): it is copied to this machine first, if it is not larger than
        `max_bytes`.
    expected_digest
        The `digest` of the artifact, from a trusted source; any other artifact is rejected.
    trusted_keys
        Public Ed25519 keys (objects of `cryptography`, PEM bytes, or paths of PEM files); an artifact that
        none of them signed is rejected.
    max_bytes
        The maximum total size of all members in bytes; a larger artifact is rejected before it is read.
    use_gpu
        Where its predictions are computed unless a call says otherwise (see `InferencePipeline.predict`). With True the model
        is put on this process's GPU now. The golden rows are checked on the CPU.
    options
        Arguments for the framework of the model that a file must not determine: `module=Net` for a PyTorch module of a
        custom class.

    Returns
    -------
    InferencePipeline
        The pipeline; its predictions for the golden rows are the saved ones.

    Raises
    ------
    ArtifactError
        When the file is missing, damaged, tampered with, too large, of a newer format, no artifact, or not trusted.
    MissingExtraError
        When the framework of the model is not installed, or `cryptography` when there are keys.
    ParameterError
        On a framework that is not registered, or an unknown option; with use_gpu=True, when its models predict on the CPU only.
    ResourceError
        With use_gpu=True, when this process has no GPU, or the framework's library was built without support for GPUs.

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
    with at("rayline.load"):
        refuse_after_fork()
    device.check(use_gpu)
    checked_path(path)
    arguments = ["expected_digest", "trusted_keys", "max_bytes", "use_gpu"]
    if misspelt := [name for name in options if name not in ("trusted", "module") and nearest(name, arguments)]:
        raise ParameterError.unknown(misspelt, arguments, "argument")
    with at(str(path)), scratch.folder("artifact") as folder:
        with (
            storage.local_copy(path, max_bytes if isinstance(max_bytes, int) else None) as place,
            archive.opened(place, max_bytes) as members,
        ):
            about = manifest.parse(members, expected_digest, trusted_keys)
            manifest.extract(members, about, folder)
        scorer = read_members(about, folder, options, Preprocessor)
    if use_gpu is True:
        scorer.model.require_gpu()
    model = scorer.model.on_gpu(use_gpu)
    if use_gpu:
        model.place()
    return InferencePipeline(scorer.preprocessor, model, scorer.postprocessing)

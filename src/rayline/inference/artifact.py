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

import contextlib
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import polars as pl

from rayline.core import registry, scratch, strict_json
from rayline.core.errors import ArtifactError, MissingExtraError, ParameterError, nearest
from rayline.core.forks import refuse_after_fork
from rayline.core.schema import schema_from_json, schema_to_json, value_from_json, value_to_json
from rayline.core.target import Target, numbers
from rayline.inference import archive, manifest
from rayline.inference.manifest import FORMAT_VERSION, digest_of, read_manifest, signer_of
from rayline.inference.model import Model, check_options, read
from rayline.inference.pipeline import InferencePipeline
from rayline.preprocessing.preprocessor import Preprocessor

__all__ = ["FORMAT_VERSION", "digest_of", "load", "read_manifest", "save", "sign", "signer_of"]

TOLERANCE = 1e-5
"""Relative difference that golden scores may have, for other processors and library versions."""


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
    with scratch.folder("artifact") as folder:
        archive.write(Path(path), _members(pipeline, folder, sign_with), directory=directory)


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
        return _pipeline(about, folder, where, options)


def _members(pipeline: InferencePipeline, folder: Path, sign_with: Any) -> dict[str, archive.Content]:
    """The pipeline as named pieces, `digest` and `manifest.json` first; the model's files are written into the folder."""
    model = pipeline.model
    try:
        (folder / "model").mkdir()
        model.adapter.save(model.native, folder / "model")
        if pipeline.preprocessor is not None:
            (folder / "preprocessor.json").write_bytes(strict_json.dumps(pipeline.preprocessor.to_json(), indent=1))
        (folder / "golden.json").write_bytes(strict_json.dumps(_golden(pipeline)))
    except OSError as error:
        raise manifest.no_room(f"The {model.framework} model", error) from error
    body: dict[str, archive.Content] = {
        path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()
    }
    bad = [name for name in body if not archive.is_name(name)]
    if bad:
        raise ArtifactError(
            f"The {model.framework} adapter wrote a file with the name {bad[0]!r}.", "Expected plain names."
        )
    about = {
        "format": "rayline.pipeline",
        "format_version": FORMAT_VERSION,
        "made_by": {
            "python": platform.python_version(),
            **_versions("rayline", "polars", model.adapter.package or model.framework),
        },
        "framework": model.framework,
        "features": schema_to_json(model.schema),
        "input_schema": schema_to_json(pipeline.input_schema),
        "output_schema": schema_to_json(pipeline.output_schema),
        "target": model.target.to_json(),
        "metrics": value_to_json(model.metrics),
        "data": value_to_json(model.data),
        "members": manifest.listing(body),
    }
    text = strict_json.dumps(about, indent=1)
    _read_back(model, strict_json.loads(text, manifest.MANIFEST), folder)
    outer: dict[str, archive.Content] = {
        manifest.DIGEST: archive.sha256_of(text).encode(),
        manifest.MANIFEST: text,
    }
    if sign_with is not None:
        from rayline.inference import signature  # optional: it needs cryptography

        outer[manifest.SIGNATURE] = signature.sign(text, sign_with)
    return {**outer, **body}


def _read_back(model: Model, about: Mapping[str, Any], folder: Path) -> None:
    """Load what is about to be saved. Raises ArtifactError when it cannot be loaded, or predicts otherwise."""
    try:
        _pipeline(about, folder, "save", model.adapter.load_options(model.native))
    except MissingExtraError:
        raise
    except Exception as error:  # before any file is written: whatever it is, `load` would meet it
        raise ArtifactError(
            f"save: this {model.framework} pipeline could not be loaded again, so nothing was written.",
            f"Expected what `load` reads; got {type(error).__name__}: {' '.join(str(error).split())[:500]}",
            "change what the error names; the pipeline itself can still be used in this process.",
        ) from error


def _pipeline(about: Mapping[str, Any], directory: Path, where: str, options: Mapping[str, Any]) -> InferencePipeline:
    """The pipeline of members whose hashes are right."""
    try:
        target, features = Target.from_json(about["target"]), schema_from_json(about["features"])
        framework, metrics, data = str(about["framework"]), _plain(about["metrics"]), _plain(about["data"])
        preprocessor = None
        if "preprocessor.json" in about["members"]:
            preprocessor = Preprocessor.from_json(_json(directory / "preprocessor.json"))
        golden = value_from_json(_json(directory / "golden.json"))
    except (ArtifactError, MissingExtraError):
        raise
    except Exception as error:  # whatever JSON that is not ours leads to
        raise _malformed(where, "its manifest or preprocessor is malformed", error) from error
    adapter = registry.framework(framework)
    check_options(adapter, options)
    (directory / "model").mkdir(exist_ok=True)
    try:
        native = read(adapter, directory / "model", options)
    except (ArtifactError, MissingExtraError):
        raise
    except Exception as error:  # whatever the native reader of a framework raises
        if options and isinstance(error, ParameterError):  # about what the caller gave
            raise
        raise _malformed(where, f"{framework} cannot read its model", error) from error
    try:
        model = Model(framework, native, features, target, metrics=metrics, data=data)
        pipeline = InferencePipeline(preprocessor, model)
        for name in ("input_schema", "output_schema"):
            told, own = about.get(name), schema_to_json(getattr(pipeline, name))
            if told is not None and told != own:
                raise ArtifactError(
                    f"{where}: the manifest's {name} is not that of the pipeline.",
                    f"Expected {str(own)[:300]}; got {str(told)[:300]}.",
                    "save the pipeline again.",
                )
        _check_golden(pipeline, golden, where)
    except (ArtifactError, MissingExtraError):
        raise
    except Exception as error:  # parts that do not belong together
        raise _malformed(where, "its parts do not fit together", error) from error
    return pipeline


def _malformed(where: str, what: str, error: Exception) -> ArtifactError:
    return ArtifactError(
        f"{where}: {what}: {' '.join(str(error).split())[:500] or type(error).__name__}.",
        "Expected a file that `save` wrote.",
        "save the pipeline again.",
    )


# -- the golden rows ---------------------------------------------------------------------------------------------------


def _golden(pipeline: InferencePipeline) -> dict[str, Any]:
    rows = pipeline.examples
    scores = numbers(pipeline.scores(rows.lazy())).tolist() if rows.height else []
    return {"rows": value_to_json(rows.to_dicts()), "scores": value_to_json(scores)}


def _check_golden(pipeline: InferencePipeline, golden: Any, where: str) -> None:
    rows = golden.get("rows") if isinstance(golden, dict) else None
    if not isinstance(rows, list):
        raise ArtifactError(f"{where}: the golden rows are malformed.", "", "save the pipeline again.")
    if not rows:
        return
    try:
        table = pl.DataFrame(rows, schema=pipeline.input_schema)
        scores = pipeline.scores(table.lazy())
        expected = pl.Series(pl.Series(golden["scores"]).explode() if rows else [])
        while isinstance(expected.dtype, pl.List):
            expected = expected.explode()
        got = pl.Series(_as_saved(scores, len(expected)).ravel())
        near = len(got) == len(expected) and bool(
            (
                (got.cast(pl.Float64) - expected.cast(pl.Float64)).abs()
                <= TOLERANCE * (1 + expected.cast(pl.Float64).abs())
            ).all()
        )
    except Exception as error:  # also what the library raises of a model that is damaged
        raise ArtifactError(
            f"{where}: the golden rows cannot be predicted: {error}.", "", "save the pipeline again."
        ) from error
    if not near:
        raise ArtifactError(
            f"{where}: the golden rows give other predictions than when it was saved.",
            f"Expected {expected.to_list()[:5]}; got {got.to_list()[:5]}.",
            "install the library versions of its manifest (made_by), or train again.",
        )
    pipeline.model.examples = table


def _as_saved(scores: Any, n: int) -> Any:
    """Scores as n numbers. Older files hold, of a model's decisions, the probabilities or the codes alone."""
    parts = [numbers(scores), *(scores[name] for name in reversed(scores.dtype.names or ()))]
    return next((part for part in parts if part.size == n), parts[0])


def _json(path: Path) -> Any:
    size = path.stat().st_size
    if size > strict_json.MAX_BYTES:
        raise ArtifactError(
            f"{path.name} is too large.", f"Expected at most {strict_json.MAX_BYTES:,} bytes; got {size:,}."
        )
    return strict_json.loads(path.read_bytes(), path.name)


def _plain(value: Any) -> dict[str, Any]:
    found = value_from_json(value)
    if not isinstance(found, dict):
        raise TypeError(f"expected an object; got {found!r:.80}")
    return found


def _versions(*names: str) -> dict[str, str]:
    found = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found

"""The artifact: an inference pipeline as data, in one file (or one directory), safe to open.

One ZIP file or one directory (see `archive`) holds:

=====================  ==========================================================================================
`digest`               SHA-256 of `manifest.json`, in hex
`manifest.json`        format version, what made it, schemas, target, metrics, number and fingerprint of the training
                       rows, and size and SHA-256 of all members below
`preprocessor.json`    the fitted preprocessor (missing when there is none)
`golden.json`          a few raw rows and the predictions that they must give
`model/…`              the model in its framework's own format
=====================  ==========================================================================================

Loading checks the structure of the archive, the sizes and the hashes before any parser sees a member, looks ids up in
the registry only, and finally predicts the golden rows. Nothing in the file names code.
"""

from __future__ import annotations

import contextlib
import hashlib
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import polars as pl

from rayline.core import registry, strictjson
from rayline.core.errors import ArtifactError, RaylineError
from rayline.core.schema import schema_from_json, schema_to_json, value_from_json, value_to_json
from rayline.core.target import Target
from rayline.data.preprocessor import Preprocessor
from rayline.inference import archive
from rayline.inference.model import Model, pack, unpack
from rayline.inference.pipeline import InferencePipeline

FORMAT_VERSION = 1
TOLERANCE = 1e-5
"""Relative difference that golden scores may have, for other processors and library versions."""


def save(pipeline: InferencePipeline, path: str | Path, *, directory: bool = False) -> None:
    """Write the pipeline to `path`, atomically: a save killed at any moment leaves the old artifact or the new one.

    Parameters
    ----------
    pipeline
        What to save.
    path
        The file (or directory); its parent must exist.
    directory
        Write the members as files of a new directory instead of one file.

    Raises
    ------
    ArtifactError
        When the pipeline cannot be saved as data (a stage with a function of its own), or the directory exists.
    """
    archive.write(Path(path), to_members(pipeline), directory=directory)


def load(path: str | Path, *, expected_digest: str | None = None, **options: Any) -> InferencePipeline:
    """Read what `InferencePipeline.save` wrote. Needs no Ray and runs no code from the file.

    Parameters
    ----------
    path
        The file or directory.
    expected_digest
        The `digest` of the artifact, known from a trusted place; refuses any other artifact.
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
        When the file is missing, damaged, tampered with, of a newer format, or not one of ours.
    MissingExtraError
        When the framework of the model is not installed.
    ParameterError
        On an option that the framework does not know.
    """
    return from_members(archive.read(Path(path)), str(path), expected_digest, options)


def digest_of(path: str | Path) -> str:
    """The digest of an artifact: it stands for every byte that matters in it."""
    return hashlib.sha256(archive.read(Path(path)).get("manifest.json", b"")).hexdigest()


def to_members(pipeline: InferencePipeline) -> dict[str, bytes]:
    """The pipeline as named pieces of bytes, `digest` and `manifest.json` first."""
    model = pipeline.model
    body = {f"model/{name}": content for name, content in pack(model.adapter, model.native).items()}
    if pipeline.preprocessor is not None:
        body["preprocessor.json"] = strictjson.dumps(pipeline.preprocessor.to_json(), indent=1)
    body["golden.json"] = strictjson.dumps(_golden(pipeline))
    bad = [name for name in body if not archive.is_name(name)]
    if bad:
        raise ArtifactError(
            f"The {model.framework} adapter wrote a file with the name {bad[0]!r}.", "Expected plain names."
        )
    manifest = {
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
        "members": {
            name: {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in sorted(body.items())
        },
    }
    text = strictjson.dumps(manifest, indent=1)
    return {"digest": hashlib.sha256(text).hexdigest().encode(), "manifest.json": text, **body}


def from_members(
    members: Mapping[str, bytes],
    where: str,
    expected_digest: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> InferencePipeline:
    """The pipeline from its pieces, after every check."""
    manifest = _manifest(members, where, expected_digest)
    try:
        target, features = Target.from_json(manifest["target"]), schema_from_json(manifest["features"])
        framework, metrics, data = str(manifest["framework"]), _plain(manifest["metrics"]), _plain(manifest["data"])
        prepared = members.get("preprocessor.json")
        preprocessor = None
        if prepared is not None:
            preprocessor = Preprocessor.from_json(strictjson.loads(prepared, "preprocessor.json"))
        golden = value_from_json(strictjson.loads(members["golden.json"], "golden.json"))
        adapter = registry.framework(framework)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, RaylineError):
            raise
        raise ArtifactError(f"{where}: the manifest is malformed: {error}.", "", "save the pipeline again.") from error
    files = {name.removeprefix("model/"): content for name, content in members.items() if name.startswith("model/")}
    try:
        native = unpack(adapter, files, options)
    except RaylineError:
        raise
    except Exception as error:  # whatever the native reader of a framework raises
        raise ArtifactError(
            f"{where}: {framework} cannot read its model: {error}.", "", "save the pipeline again."
        ) from error
    model = Model(framework, native, features, target, metrics=metrics, data=data)
    pipeline = InferencePipeline(preprocessor, model)
    _check_golden(pipeline, golden, where)
    return pipeline


# -- the manifest and the golden rows ------------------------------------------------------------------------------


def _manifest(members: Mapping[str, bytes], where: str, expected_digest: str | None) -> dict[str, Any]:
    for name in ("digest", "manifest.json"):
        if name not in members:
            raise ArtifactError(
                f"{where} is not a Rayline artifact.", f"Expected a member {name!r}; got {sorted(members)[:8]}."
            )
    digest = hashlib.sha256(members["manifest.json"]).hexdigest()
    if members["digest"].decode("ascii", "replace").strip() != digest:
        raise ArtifactError(f"{where} is damaged: its manifest has another digest than it says.", "", "copy it again.")
    if expected_digest is not None and expected_digest != digest:
        raise ArtifactError(
            f"{where} is not the artifact that was expected.", f"Expected the digest {expected_digest}; got {digest}."
        )
    manifest = strictjson.loads(members["manifest.json"], "manifest.json")
    if not isinstance(manifest, dict) or manifest.get("format") != "rayline.pipeline":
        raise ArtifactError(f"{where} is not a Rayline pipeline.", "Expected format 'rayline.pipeline'.")
    version = manifest.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        made = manifest.get("made_by")
        raise ArtifactError(
            f"{where} has format version {version!r}, made by {made!r}.",
            f"Expected at most {FORMAT_VERSION}.",
            "load it with a newer Rayline.",
        )
    listed = manifest.get("members")
    if not isinstance(listed, dict) or set(listed) != set(members) - {"digest", "manifest.json"}:
        raise ArtifactError(f"{where} does not hold the members that its manifest lists.", "", "copy or save it again.")
    for name, about in listed.items():
        content = members[name]
        if not isinstance(about, dict) or about.get("size_bytes") != len(content):
            raise ArtifactError(
                f"{where}: member {name!r} has another size than its manifest says.", "", "copy it again."
            )
        if about.get("sha256") != hashlib.sha256(content).hexdigest():
            raise ArtifactError(
                f"{where}: member {name!r} has another hash than its manifest says.", "", "copy it again."
            )
    return manifest


def _golden(pipeline: InferencePipeline) -> dict[str, Any]:
    rows = pipeline.examples
    scores = pipeline.scores(rows.lazy()).tolist() if rows.height else []
    return {"rows": value_to_json(rows.to_dicts()), "scores": value_to_json(scores)}


def _check_golden(pipeline: InferencePipeline, golden: Any, where: str) -> None:
    rows = golden.get("rows") if isinstance(golden, dict) else None
    if not isinstance(rows, list):
        raise ArtifactError(f"{where}: the golden rows are malformed.", "", "save the pipeline again.")
    if not rows:
        return
    try:
        table = pl.DataFrame(rows, schema=pipeline.input_schema)
        got = pl.Series(pipeline.scores(table.lazy()).ravel())
        expected = pl.Series(pl.Series(golden["scores"]).explode() if rows else [])
        while isinstance(expected.dtype, pl.List):
            expected = expected.explode()
        near = len(got) == len(expected) and bool(
            (
                (got.cast(pl.Float64) - expected.cast(pl.Float64)).abs()
                <= TOLERANCE * (1 + expected.cast(pl.Float64).abs())
            ).all()
        )
    except (pl.exceptions.PolarsError, TypeError, ValueError, KeyError) as error:
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

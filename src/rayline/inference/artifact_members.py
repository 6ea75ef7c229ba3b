"""The members of an artifact: a preprocessor and a model written as files, and read back with their golden rows checked."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import polars as pl

from rayline.core import registry, scratch, storage, strict_json
from rayline.core.data_types import SigningKey
from rayline.core.errors import ArtifactError, MissingExtraError, ParameterError, RaylineError, at, first_line
from rayline.core.files import checked_path
from rayline.core.json_values import schema_from_json, schema_to_json, value_from_json, value_to_json
from rayline.core.scores import numbers
from rayline.core.target import Target
from rayline.inference import archive, manifest
from rayline.inference.manifest import FORMAT_VERSION, POSTPROCESSED_VERSION
from rayline.inference.model import Model, check_options, read_model
from rayline.inference.scorer import P, Scorer
from rayline.postprocess import chain
from rayline.preprocessing.preprocessor import BasePreprocessor

TOLERANCE = 1e-5
"""The relative difference allowed for golden scores, because processors and library versions differ."""


def write_artifact(
    pipeline: Scorer[Any], path: str | Path, *, directory: bool = False, sign_with: SigningKey | None = None
) -> None:
    """Write an artifact; see `rayline.inference.artifact.save`."""
    checked_path(path)
    is_url, url = storage.is_url(path), str(path)
    if is_url and directory and storage.exists(url):
        raise ArtifactError(f"{url} exists.", "Expected a new directory.", "choose another name.")
    with scratch.folder("artifact") as folder, scratch.folder("storage") as other:
        local = other / "artifact" if is_url else Path(path)
        archive.write(local, _members(pipeline, folder, sign_with), directory=directory)
        if is_url:
            storage.upload(local, url, last=manifest.DIGEST)


def _members(pipeline: Scorer[Any], folder: Path, sign_with: SigningKey | None) -> dict[str, archive.Content]:
    """Return the members by name, `digest` and `manifest.json` first; the model's files are written into the folder."""
    model = pipeline.model
    try:
        _write(pipeline, folder)
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
    text = strict_json.dumps({**_about(pipeline), "members": manifest.listing(body)}, indent=1)
    _read_back(model, strict_json.loads(text, manifest.MANIFEST), folder)
    outer: dict[str, archive.Content] = {
        manifest.DIGEST: archive.sha256_of(text).encode(),
        manifest.MANIFEST: text,
    }
    if sign_with is not None:
        from rayline.inference import signature  # optional: it needs cryptography

        outer[manifest.SIGNATURE] = signature.sign(text, sign_with)
    return {**outer, **body}


def _write(pipeline: Scorer[Any], folder: Path) -> None:
    """Write everything but the manifest."""
    model = pipeline.model
    (folder / "model").mkdir()
    model.adapter.save(model.native, folder / "model")
    if pipeline.preprocessor is not None:
        (folder / "preprocessor.json").write_bytes(strict_json.dumps(pipeline.preprocessor.to_json(), indent=1))
    if pipeline.postprocessing:
        stages = chain.to_json(pipeline.postprocessing)
        (folder / "postprocessing.json").write_bytes(strict_json.dumps(stages, indent=1))
    (folder / "golden.json").write_bytes(strict_json.dumps(_golden(pipeline)))


def _about(pipeline: Scorer[Any]) -> dict[str, Any]:
    """Return the manifest without its list of members."""
    model = pipeline.model
    return {
        "format": "rayline.pipeline",
        "format_version": POSTPROCESSED_VERSION if pipeline.postprocessing else FORMAT_VERSION,
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
    }


def _read_back(model: Model, about: Mapping[str, Any], folder: Path) -> None:
    """Load the members before they are saved. Raises ArtifactError when this fails or the predictions differ."""
    try:
        with at("save"):
            read_members(about, folder, model.adapter.load_options(model.native), BasePreprocessor)
    except MissingExtraError:
        raise
    except Exception as error:  # any error here would also occur in `load`; no file is written yet
        raise ArtifactError(
            f"save: this {model.framework} pipeline could not be loaded again, so nothing was written.",
            f"Expected what `load` reads; got {type(error).__name__}: {' '.join(str(error).split())[:500]}",
            "change what the error names; the pipeline itself can still be used in this process.",
        ) from error


def read_members(
    about: Mapping[str, Any], directory: Path, options: Mapping[str, Any], preprocessor_class: type[P]
) -> Scorer[P]:
    """Build the scorer of the extracted members in `directory`, whose hashes have been verified, and check its golden rows.

    Raises ArtifactError when a member is malformed or the golden rows are predicted differently.
    """
    with _refusing("its manifest, preprocessor or postprocessing is malformed"):
        target, features = Target.from_json(about["target"]), schema_from_json(about["features"])
        framework, metrics, data = str(about["framework"]), _plain(about["metrics"]), _plain(about["data"])
        preprocessor = None
        if "preprocessor.json" in about["members"]:
            preprocessor = preprocessor_class.from_json(_json(directory / "preprocessor.json"))
        postprocessing: chain.Stages = ()
        if "postprocessing.json" in about["members"]:
            postprocessing = chain.from_json(_json(directory / "postprocessing.json"))
        golden = value_from_json(_json(directory / "golden.json"))
    adapter = registry.framework(framework)
    check_options(adapter, options)
    (directory / "model").mkdir(exist_ok=True)
    with _refusing(f"{framework} cannot read its model", ParameterError if options else ArtifactError):
        native = read_model(adapter, directory / "model", options)
    with _refusing("its parts are inconsistent"):
        model = Model(framework, native, features, target, metrics=metrics, data=data)
        pipeline = Scorer(preprocessor, model, postprocessing)
        chain.StageChain(postprocessing, target).verify(pipeline.input_schema)
        for name in ("input_schema", "output_schema"):
            saved, restored = about.get(name), schema_to_json(getattr(pipeline, name))
            if saved is not None and saved != restored:
                raise ArtifactError.here(
                    f"the manifest's {name} is not that of the pipeline.",
                    f"Expected {str(restored)[:300]}; got {str(saved)[:300]}.",
                    "save the pipeline again.",
                )
        _check_golden(pipeline, golden)
    return pipeline


@contextlib.contextmanager
def _refusing(what: str, passed: type[RaylineError] = ArtifactError) -> Iterator[None]:
    """Raise ArtifactError in place of any error: untrusted JSON, and the native reader of a framework, can raise anything. Errors
    of the type `passed`, such as those about the caller's options, stay as they are."""
    try:
        yield
    except (ArtifactError, MissingExtraError, passed):
        raise
    except Exception as error:
        raise _malformed(what, error) from error


def _malformed(what: str, error: Exception) -> ArtifactError:
    return ArtifactError.here(
        f"{what}: {' '.join(str(error).split())[:500] or type(error).__name__}.",
        "Expected a file that `save` wrote.",
        "save the pipeline again.",
    )


# -- the golden rows ---------------------------------------------------------------------------------------------------


def _golden(pipeline: Scorer[Any]) -> dict[str, Any]:
    rows = pipeline.examples
    scores = numbers(pipeline.on_gpu(False).scores(rows.lazy())).tolist() if rows.height else []
    return {"rows": value_to_json(rows.to_dicts()), "scores": value_to_json(scores)}


def _check_golden(pipeline: Scorer[Any], golden: Any) -> None:
    rows = golden.get("rows") if isinstance(golden, dict) else None
    if not isinstance(rows, list):
        raise ArtifactError.here("the golden rows are malformed.", "", "save the pipeline again.")
    if not rows:
        return
    try:
        table = pl.DataFrame(rows, schema=pipeline.input_schema)
        scores = pipeline.on_gpu(False).scores(table.lazy())
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
    except Exception as error:  # also errors of the library on a damaged model
        raise ArtifactError.here(
            f"the golden rows cannot be predicted: {first_line(error)}.", "", "save the pipeline again."
        ) from error
    if not near:
        raise ArtifactError.here(
            "the predictions of the golden rows differ from those at the time of saving.",
            f"Expected {expected.to_list()[:5]}; got {got.to_list()[:5]}.",
            "install the library versions of its manifest (made_by), or train again.",
        )
    pipeline.model.examples = table


def _as_saved(scores: Any, n: int) -> Any:
    """Return the scores as n numbers. Of a model with probabilities and class codes, older files contain only one of both."""
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
    decoded = value_from_json(value)
    if not isinstance(decoded, dict):
        raise TypeError(f"expected an object; got {decoded!r:.80}")
    return decoded


def _versions(*names: str) -> dict[str, str]:
    versions = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions

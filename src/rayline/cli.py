"""The command line: `rayline serve`, `rayline show`, `rayline predict`, `rayline card`, `rayline sign`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

import rayline
from rayline.core.errors import DataError, ParameterError, RaylineError, counted
from rayline.core.files import replace_file
from rayline.inference import archive, artifact
from rayline.inference.card import model_card
from rayline.inference.pipeline import InferencePipeline

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Rayline's saved pipelines.")

Artifact = Annotated[Path, typer.Argument(help="A pipeline saved by InferencePipeline.save.")]
Digest = Annotated[str | None, typer.Option(help="Refuse any other artifact than that with this digest (rayline show says it).")]
Trusted = Annotated[list[Path] | None, typer.Option(help="A PEM file with a public Ed25519 key: refuse what none of them signed.")]
MaxBytes = Annotated[int, typer.Option(help="Refuse a larger artifact.")]


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Rayline's saved pipelines."""
    if version:
        typer.echo(rayline.__version__)
        raise typer.Exit


@app.command()
def serve(
    path: Artifact,
    host: Annotated[str, typer.Option(help="Who can reach it: this machine only, or 0.0.0.0 for everyone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8080,
    name: Annotated[str | None, typer.Option(help="The model's name in URLs; the file's name when omitted.")] = None,
    max_batch_size: Annotated[int, typer.Option(help="Rows of waiting requests that share a call of the model.")] = 64,
    batch_wait_timeout_s: Annotated[float, typer.Option(help="How long a request may wait for others.")] = 0.0,
    max_queued_requests: Annotated[int, typer.Option(help="More waiting requests are answered 503.")] = 512,
    max_body_bytes: Annotated[int, typer.Option(help="Longer bodies are answered 413.")] = 16 << 20,
    request_timeout_s: Annotated[float, typer.Option(help="Requests that take longer are answered 504.")] = 30.0,
    token_env: Annotated[str | None, typer.Option(help="The environment variable with the bearer token to ask for.")] = None,
    allowed_host: Annotated[
        list[str] | None, typer.Option(help="A name that clients may ask for, beside localhost; needed behind a proxy that keeps theirs.")
    ] = None,
    expected_digest: Digest = None,
    trusted_key: Trusted = None,
    max_bytes: MaxBytes = archive.MAX_BYTES,
) -> None:
    """Serve a saved pipeline over HTTP in this process, until interrupted."""
    from rayline.serve.options import NAME, Options
    from rayline.serve.server import run

    with _errors():
        token = None
        if token_env is not None:
            token = os.environ.get(token_env)
            if not token:
                raise ParameterError(f"The environment variable {token_env} is empty.", "Expected a token in it.", f"export {token_env}=…")
        pipeline = _load(path, expected_digest, trusted_key, max_bytes)
        if name is None:
            name = path.stem if NAME.fullmatch(path.stem) else "model"
        options = Options(
            name, max_batch_size, batch_wait_timeout_s, max_queued_requests, max_body_bytes, request_timeout_s, token,
            tuple(allowed_host) if allowed_host else None,
        )  # fmt: skip
        typer.echo(f"{name} answers at http://{host}:{port} (POST /predict, form at /, documentation at /docs).")
        run(pipeline, host=host, port=port, options=options)


@app.command()
def show(
    path: Artifact,
    expected_digest: Digest = None,
    trusted_key: Trusted = None,
    max_bytes: MaxBytes = archive.MAX_BYTES,
) -> None:
    """Say what a saved pipeline is: who made it, its digest, stages, model, target and columns."""
    with _errors():
        pipeline = _load(path, expected_digest, trusted_key, max_bytes)
        about, console = artifact.read_manifest(path), Console()
        made_by = ", ".join(f"{name} {version}" for name, version in about["made_by"].items())
        for line in (
            str(pipeline),
            f"format {about['format_version']}, made by {made_by}",
            f"digest {artifact.digest_of(path)}",
            f"signed by {artifact.signer_of(path) or 'nobody'}{' (trusted)' if trusted_key else ''}",
        ):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        table = Table("column", "type", title="needs")
        for column, dtype in pipeline.input_schema.items():
            table.add_row(column, str(dtype))
        console.print(table)


@app.command()
def predict(
    path: Artifact,
    rows: Annotated[Path, typer.Argument(help="A Parquet, CSV or JSON-lines file of raw rows.")],
    output: Annotated[Path, typer.Argument(help="The Parquet, CSV or JSON-lines file to write.")],
    proba: Annotated[bool, typer.Option(help="Whether to add probabilities.")] = False,
    expected_digest: Digest = None,
    trusted_key: Trusted = None,
    max_bytes: MaxBytes = archive.MAX_BYTES,
) -> None:
    """Write rows with their predictions beside them, in this process."""
    with _errors():
        if output.suffix not in _READERS:
            raise _unreadable(output)
        table = _table(rows)
        table = _load(path, expected_digest, trusted_key, max_bytes).transform(table, proba=proba)
        replace_file(output, getattr(table, _READERS[output.suffix].replace("read", "write")))
        typer.echo(f"{counted(table.height, 'row')} in {output}")


@app.command()
def card(
    path: Artifact,
    output: Annotated[Path, typer.Argument(help="The .html or .md file to write.")],
    rows: Annotated[Path | None, typer.Option(help="Rows with the target, for the plots: Parquet, CSV or JSON lines.")] = None,
    name: Annotated[str | None, typer.Option(help="The title.")] = None,
    expected_digest: Digest = None,
    trusted_key: Trusted = None,
    max_bytes: MaxBytes = archive.MAX_BYTES,
) -> None:
    """Write the model card of a saved pipeline."""
    with _errors():
        data = None if rows is None else _table(rows)
        pipeline = _load(path, expected_digest, trusted_key, max_bytes)
        model_card(pipeline, output, name=name or path.stem, data=data)
        typer.echo(f"the card is {output}")


@app.command()
def sign(
    path: Artifact,
    key: Annotated[Path, typer.Option(help="A PEM file with a private Ed25519 key (openssl genpkey -algorithm ed25519).")],
    expected_digest: Digest = None,
) -> None:
    """Sign a saved pipeline, so that others can ask with --trusted-key who made it. Its digest stays the same."""
    with _errors():
        signer = artifact.sign(path, key, expected_digest=expected_digest)
        typer.echo(f"{path} is signed by {signer}")


def _load(path: Path, digest: str | None, trusted: list[Path] | None, max_bytes: int) -> InferencePipeline:
    return artifact.load(path, expected_digest=digest, trusted_keys=trusted or None, max_bytes=max_bytes)


def _table(rows: Path) -> Any:
    import polars as pl

    if rows.suffix not in _READERS:
        raise _unreadable(rows)
    if not rows.exists():
        raise ParameterError(f"{rows} does not exist.", "Expected a file of rows.")
    try:
        return getattr(pl, _READERS[rows.suffix])(rows)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{rows} cannot be read: {error}.", f"Expected a {rows.suffix[1:]} file of rows.") from error


def _unreadable(file: Path) -> ParameterError:
    return ParameterError(f"{file} is no kind of file that this command knows.", f"Expected one of {list(_READERS)}.")


_READERS = {".parquet": "read_parquet", ".csv": "read_csv", ".jsonl": "read_ndjson"}


@contextmanager
def _errors() -> Iterator[None]:
    """Errors of ours in red and without a traceback."""
    try:
        yield
    except RaylineError as error:
        _fail(str(error))
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _fail(f"{place}{error.strerror or error}.\n  Expected a file or a directory that is there and may be used.")


def _fail(message: str) -> NoReturn:
    Console(file=sys.stderr, soft_wrap=True).print(message, style="red", markup=False, highlight=False)
    raise typer.Exit(1)

"""The command line: `rayline serve`, `rayline show`, `rayline predict`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table

import rayline
from rayline.core.errors import ParameterError, RaylineError
from rayline.inference.artifact import load

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Rayline's saved pipelines.")

Artifact = Annotated[Path, typer.Argument(help="A pipeline saved by InferencePipeline.save.")]


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
        pipeline = load(path)
        if name is None:
            name = path.stem if NAME.fullmatch(path.stem) else "model"
        options = Options(
            name, max_batch_size, batch_wait_timeout_s, max_queued_requests, max_body_bytes, request_timeout_s, token
        )
        typer.echo(f"{name} answers at http://{host}:{port} (POST /predict, form at /, documentation at /docs).")
        run(pipeline, host=host, port=port, options=options)


@app.command()
def show(path: Artifact) -> None:
    """Say what a saved pipeline is: its stages, model, target and columns."""
    with _errors():
        pipeline = load(path)
        console = Console()
        console.print(str(pipeline), markup=False, highlight=False)
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
) -> None:
    """Write rows with their predictions beside them, in this process."""
    import polars as pl

    with _errors():
        for file in (rows, output):
            if file.suffix not in _READERS:
                raise ParameterError(f"{file} is no kind of file that this command knows.", f"Expected one of {list(_READERS)}.")
        if not rows.exists():
            raise ParameterError(f"{rows} does not exist.", "Expected a file of rows.")
        table = load(path).transform(getattr(pl, _READERS[rows.suffix])(rows), proba=proba)
        getattr(table, _READERS[output.suffix].replace("read", "write"))(output)
        typer.echo(f"{table.height} rows in {output}")


_READERS = {".parquet": "read_parquet", ".csv": "read_csv", ".jsonl": "read_ndjson"}


@contextmanager
def _errors() -> Iterator[None]:
    """Errors of ours in red and without a traceback."""
    try:
        yield
    except RaylineError as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    Console(file=sys.stderr, soft_wrap=True).print(message, style="red", markup=False, highlight=False)
    raise typer.Exit(1)

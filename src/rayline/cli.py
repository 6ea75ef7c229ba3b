"""The command line: `rayline serve`, `rayline show`, `rayline predict`, `rayline card`, `rayline sign`, `rayline doctor`."""

from __future__ import annotations

import importlib
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
from rayline.core.schema import Kind, kind_of
from rayline.device import UseGPU
from rayline.inference import archive, artifact
from rayline.inference.card import model_card
from rayline.inference.pipeline import InferencePipeline

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Use saved Rayline pipelines."
)

Artifact = Annotated[Path, typer.Argument(help="The pipeline, as saved by InferencePipeline.save.")]
Digest = Annotated[
    str | None, typer.Option(help="Accept only the artifact with this digest, which `rayline show` prints.")
]
Types = Annotated[
    list[str] | None,
    typer.Option(
        help="A type that a scikit-learn model may contain in addition to the reviewed ones, such as my_package.Estimator. Can be repeated."
    ),
]
Trusted = Annotated[
    list[Path] | None,
    typer.Option(
        help="A PEM file with a public Ed25519 key. An artifact that is not signed by one of the keys is refused. Can be repeated."
    ),
]
MaxBytes = Annotated[int, typer.Option(help="Refuse an artifact with more bytes than this.")]
Gpu = Annotated[bool, typer.Option("--gpu", help="Compute on this machine's GPU. An error where there is none.")]
Modules = Annotated[
    list[str] | None,
    typer.Option(
        "--import",
        metavar="MODULE",
        help="Import this module first, because it registers stages or frameworks of the pipeline. The current directory is "
        "searched too. Can be repeated.",
    ),
]


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Use saved Rayline pipelines: serve them, predict with them, describe and sign them."""
    if version:
        typer.echo(rayline.__version__)
        raise typer.Exit


@app.command()
def serve(
    path: Artifact,
    host: Annotated[
        str,
        typer.Option(
            help="The address to listen on. By default only this machine is served; 0.0.0.0 serves all machines."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")] = 8080,
    name: Annotated[
        str | None, typer.Option(help="The name of the model in URLs. By default the name of the file.")
    ] = None,
    gpu: Gpu = False,
    cpu_fallback: Annotated[
        bool, typer.Option("--cpu-fallback", help="With --gpu: compute on the CPU where there is no GPU.")
    ] = False,
    max_batch_size: Annotated[
        int | None,
        typer.Option(
            help="The maximum number of rows of waiting requests that are predicted in one call of the model. By default 64, with "
            "--gpu 1024."
        ),
    ] = None,
    batch_wait_timeout_s: Annotated[
        float, typer.Option(help="The seconds that a request may wait for others to share a call with.")
    ] = 0.0,
    max_queued_requests: Annotated[
        int, typer.Option(help="The maximum number of waiting requests. Further ones are answered with status 503.")
    ] = 512,
    max_body_bytes: Annotated[
        int, typer.Option(help="The maximum size of a body. Larger ones are answered with status 413.")
    ] = 16 << 20,
    request_timeout_s: Annotated[
        float, typer.Option(help="The maximum time for a request. Slower ones are answered with status 504.")
    ] = 30.0,
    token_env: Annotated[
        str | None,
        typer.Option(
            help="The environment variable that contains a token. Clients must then send `Authorization: Bearer <token>`."
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            help="A host name that clients may use in addition to localhost; needed behind a proxy that passes on the Host header. Can be repeated."
        ),
    ] = None,
    expected_digest: Digest = None,
    trusted_key: Trusted = None,
    trusted_type: Types = None,
    max_bytes: MaxBytes = archive.MAX_BYTES,
    modules: Modules = None,
) -> None:
    """Serve a saved pipeline over HTTP in this process, until interrupted."""
    from rayline.serve.options import NAME, ServerOptions
    from rayline.serve.server import run

    with _errors():
        token = None
        if token_env is not None:
            token = os.environ.get(token_env)
            if not token:
                raise ParameterError(
                    f"The environment variable {token_env} is not set or empty.",
                    "Expected it to contain a token.",
                    f"export {token_env}=…",
                )
        use_gpu: UseGPU | None = ("auto" if cpu_fallback else True) if gpu else None
        pipeline = _load(path, expected_digest, trusted_key, max_bytes, modules, trusted_type, use_gpu)
        if name is None:
            name = path.stem if NAME.fullmatch(path.stem) else "model"
        options = ServerOptions(
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
    trusted_type: Types = None,
    max_bytes: MaxBytes = archive.MAX_BYTES,
    modules: Modules = None,
) -> None:
    """Describe a saved pipeline: versions, digest, signature, stages, model, target and columns."""
    with _errors():
        pipeline = _load(path, expected_digest, trusted_key, max_bytes, modules, trusted_type)
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
    rows: Annotated[Path, typer.Argument(help="The rows to predict, as a file: .parquet, .csv or .jsonl.")],
    output: Annotated[Path, typer.Argument(help="The file to write: .parquet, .csv or .jsonl.")],
    proba: Annotated[bool, typer.Option(help="Also write the probability of each class.")] = False,
    interval: Annotated[
        bool, typer.Option(help="Also write intervals or sets, which the stage Conformal gives.")
    ] = False,
    gpu: Gpu = False,
    expected_digest: Digest = None,
    trusted_key: Trusted = None,
    trusted_type: Types = None,
    max_bytes: MaxBytes = archive.MAX_BYTES,
    modules: Modules = None,
) -> None:
    """Predict the rows of a file and write them with their predictions to another file."""
    with _errors():
        if output.suffix not in _READERS:
            raise _unreadable(output)
        pipeline = _load(path, expected_digest, trusted_key, max_bytes, modules, trusted_type, True if gpu else None)
        if interval and output.suffix == ".csv" and pipeline.target.task.is_classification:
            raise ParameterError(
                f"{output} cannot hold sets of classes.", "Expected a .parquet or .jsonl file.", "change the suffix."
            )
        table = pipeline.transform(_table(rows, pipeline), proba=proba, interval=interval)
        replace_file(output, getattr(table, _READERS[output.suffix].replace("read", "write")))
        typer.echo(f"{counted(table.height, 'row')} in {output}")


@app.command()
def card(
    path: Artifact,
    output: Annotated[Path, typer.Argument(help="The .html or .md file to write.")],
    rows: Annotated[
        Path | None,
        typer.Option(help="Rows with the target, from which the plots are drawn: .parquet, .csv or .jsonl."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The title of the card. By default the name of the file.")] = None,
    expected_digest: Digest = None,
    trusted_key: Trusted = None,
    trusted_type: Types = None,
    max_bytes: MaxBytes = archive.MAX_BYTES,
    modules: Modules = None,
) -> None:
    """Write the model card of a saved pipeline: its predictions, its input columns and its metrics."""
    with _errors():
        pipeline = _load(path, expected_digest, trusted_key, max_bytes, modules, trusted_type)
        data = None if rows is None else _table(rows, pipeline)
        model_card(pipeline, output, name=name or path.stem, data=data)
        typer.echo(f"the card is {output}")


@app.command()
def sign(
    path: Artifact,
    key: Annotated[
        Path,
        typer.Option(help="A PEM file with a private Ed25519 key, as made by `openssl genpkey -algorithm ed25519`."),
    ],
    expected_digest: Digest = None,
) -> None:
    """Sign a saved pipeline, so that others can require your signature with --trusted-key. Its digest stays the same."""
    with _errors():
        signer = artifact.sign(path, key, expected_digest=expected_digest)
        typer.echo(f"{path} is signed by {signer}")


@app.command()
def doctor(
    quick: Annotated[
        bool, typer.Option("--quick", help="Read versions only: import no package, and look for no running Ray.")
    ] = False,
) -> None:
    """Say what is installed, which extras work, what Ray is there, and what is wrong. The exit status is 1 when something is."""
    from rayline.doctor import State, diagnose

    colors = {State.OK: "green", State.ABSENT: "dim", State.PROBLEM: "red"}
    console, problems, area = Console(), [], ""
    for finding in diagnose(imports=not quick, cluster=not quick):
        if finding.area != area:
            area = finding.area
            console.print(f"[bold]{area}[/]")
        console.print(f"  [{colors[finding.state]}]{finding.state:13}[/] {finding.name:16} ", end="", highlight=False)
        console.print(finding.detail, markup=False, highlight=False, soft_wrap=True)
        if finding.state is State.PROBLEM:
            problems.append(finding)
    for finding in problems:
        console.print(f"{finding.name}: {finding.detail}.", style="red", markup=False, highlight=False, soft_wrap=True)
        console.print(f"  Hint: {finding.hint}", markup=False, highlight=False, soft_wrap=True)
    if problems:
        raise typer.Exit(1)
    console.print("Nothing is wrong.")


def _load(
    path: Path,
    digest: str | None,
    trusted: list[Path] | None,
    max_bytes: int,
    modules: list[str] | None,
    types: list[str] | None,
    use_gpu: UseGPU | None = None,
) -> InferencePipeline:
    for module in modules or ():
        _import(module)
    options: dict[str, Any] = {"trusted": types} if types else {}
    return artifact.load(
        path, expected_digest=digest, trusted_keys=trusted or None, max_bytes=max_bytes, use_gpu=use_gpu, **options
    )


def _import(module: str) -> None:
    """Import a user's module, also from the current directory. Raises ParameterError when that fails."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        importlib.import_module(module)
    except Exception as error:  # a user's module may raise anything
        raise ParameterError(
            f"The module {module!r} could not be imported: {type(error).__name__}: {error}.",
            "Expected a module in the current directory or an installed one.",
            "check --import; it takes a name such as my_package.stages, not a path.",
        ) from error


def _table(rows: Path, pipeline: InferencePipeline) -> Any:
    """Read the rows of a file. CSV has no types: columns that the pipeline expects as text, categories, dates or times are read as text."""
    import polars as pl

    if rows.suffix not in _READERS:
        raise _unreadable(rows)
    if not rows.exists():
        raise ParameterError(f"{rows} does not exist.", "Expected a file of rows.", "check the path.")
    try:
        if rows.suffix == ".csv":
            texts = (Kind.CATEGORY, Kind.DATETIME, Kind.OTHER)
            known = {name: pl.String for name, dtype in pipeline.input_schema.items() if kind_of(dtype) in texts}
            names = pl.read_csv(rows, n_rows=0, infer_schema=False).columns
            overrides = {name: dtype for name, dtype in known.items() if name in names}
            return pl.read_csv(rows, schema_overrides=overrides, infer_schema_length=None)
        if rows.suffix == ".jsonl":
            return pl.read_ndjson(rows, infer_schema_length=None)
        return pl.read_parquet(rows)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(
            f"{rows} cannot be read: {error}.",
            f"Expected a {rows.suffix} file of rows.",
            "check its content and its extension.",
        ) from error


def _unreadable(file: Path) -> ParameterError:
    return ParameterError(
        f"{file} has an extension that this command does not read or write.",
        f"Expected one of {', '.join(_READERS)}; got {file.suffix or 'none'}.",
        "convert or rename the file.",
    )


_READERS = {".parquet": "read_parquet", ".csv": "read_csv", ".jsonl": "read_ndjson"}


@contextmanager
def _errors() -> Iterator[None]:
    """Print Rayline's errors in red, without a traceback."""
    try:
        yield
    except RaylineError as error:
        _fail(str(error))
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _fail(
            f"{place}{error.strerror or error}.\n  Expected an existing file or directory with the necessary permissions."
        )


def _fail(message: str) -> NoReturn:
    Console(file=sys.stderr, soft_wrap=True).print(message, style="red", markup=False, highlight=False)
    raise typer.Exit(1)

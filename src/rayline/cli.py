"""The command line: `rayline serve`, `rayline show`, `rayline predict`, `rayline card`, `rayline sign`, `rayline doctor`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import polars as pl
import typer
from rich.console import Console
from rich.table import Table

import rayline
from rayline.core import scratch, storage
from rayline.core.errors import DataError, ParameterError, RaylineError, counted, first_line
from rayline.core.files import replace_file
from rayline.core.schema import Kind, kind_of
from rayline.device import UseGPU
from rayline.inference import archive, artifact
from rayline.inference.card import model_card
from rayline.inference.pipeline import InferencePipeline

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Use saved Rayline pipelines."
)

Artifact = Annotated[
    str,
    typer.Argument(
        help="The pipeline, as saved by InferencePipeline.save: a path, or a URL such as s3://bucket/late.rayline."
    ),
]
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
    list[str] | None,
    typer.Option(
        help="A PEM file (or its URL) with a public Ed25519 key. An artifact that is not signed by one of the keys is refused. Can be repeated."
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
            stem = storage.plain_path(path).stem
            name = stem if NAME.fullmatch(stem) else "model"
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
            f"signed by {artifact.signer_of(path) or 'no key'}{' (trusted)' if trusted_key else ''}",
        ):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        table = Table("column", "type", title="needs")
        for column, dtype in pipeline.input_schema.items():
            table.add_row(column, str(dtype))
        console.print(table)


@app.command()
def predict(
    path: Artifact,
    rows: Annotated[str, typer.Argument(help="The rows to predict, as a file or its URL: .parquet, .csv or .jsonl.")],
    output: Annotated[
        str | None, typer.Argument(help="The file to write, or its URL: .parquet, .csv or .jsonl.", show_default=False)
    ] = None,
    out: Annotated[str | None, typer.Option(help="The same, by name.", show_default=False)] = None,
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
        if (output is None) == (out is None):
            raise ParameterError(
                "predict writes one file, OUTPUT or --out.",
                f"Expected one of them; got {'neither' if out is None else 'both'}.",
                "rayline predict late.rayline rows.parquet --out predictions.parquet",
            )
        target = str(output or out)
        if _suffix(target) not in _READERS:
            raise _unreadable(target)
        pipeline = _load(path, expected_digest, trusted_key, max_bytes, modules, trusted_type, True if gpu else None)
        if interval and _suffix(target) == ".csv" and pipeline.target.task.is_classification:
            raise ParameterError(
                f"{target} cannot hold sets of classes.", "Expected a .parquet or .jsonl file.", "change the suffix."
            )
        table = pipeline.transform(_table(rows, pipeline), proba=proba, interval=interval)
        write = getattr(table, _READERS[_suffix(target)].replace("read", "write"))
        if storage.is_url(target):
            with scratch.folder("predictions") as folder:
                write(folder / "rows")
                storage.upload(folder / "rows", target)
        else:
            replace_file(Path(target), write)
        typer.echo(f"{counted(table.height, 'row')} in {target}")


@app.command()
def card(
    path: Artifact,
    output: Annotated[str, typer.Argument(help="The .html or .md file to write, or its URL.")],
    rows: Annotated[
        str | None,
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
        model_card(pipeline, output, name=name or storage.plain_path(path).stem, data=data)
        typer.echo(f"the card is {output}")


@app.command()
def sign(
    path: Artifact,
    key: Annotated[
        str,
        typer.Option(
            help="A PEM file (or its URL) with a private Ed25519 key, as made by `openssl genpkey -algorithm ed25519`."
        ),
    ],
    expected_digest: Digest = None,
) -> None:
    """Sign a saved pipeline, so that others can require your signature with --trusted-key. Its digest stays the same."""
    with _errors():
        with storage.local_copy(key) as file:
            signer = artifact.sign(path, file, expected_digest=expected_digest)
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
    path: str,
    digest: str | None,
    trusted: list[str] | None,
    max_bytes: int,
    modules: list[str] | None,
    types: list[str] | None,
    use_gpu: UseGPU | None = None,
) -> InferencePipeline:
    for module in modules or ():
        _import(module)
    options: dict[str, Any] = {"trusted": types} if types else {}
    with ExitStack() as stack:
        keys = [stack.enter_context(storage.local_copy(key)) for key in trusted or ()]
        return artifact.load(
            path, expected_digest=digest, trusted_keys=keys or None, max_bytes=max_bytes, use_gpu=use_gpu, **options
        )


def _import(module: str) -> None:
    """Import a user's module, also from the current directory. Raises ParameterError when that fails."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        importlib.import_module(module)
    except Exception as error:  # a user's module may raise anything
        raise ParameterError(
            f"The module {module!r} could not be imported: {type(error).__name__}: {first_line(error)}.",
            "Expected a module in the current directory or an installed one.",
            "check --import; it takes a name such as my_package.stages, not a path.",
        ) from error


def _table(rows: str, pipeline: InferencePipeline) -> Any:
    """Read the rows of a file. CSV has no types: columns that the pipeline expects as text, categories, dates or times are read as text."""
    if _suffix(rows) not in _READERS:
        raise _unreadable(rows)
    with storage.local_copy(rows) as file:
        if not file.exists():
            raise ParameterError(f"{rows} does not exist.", "Expected a file of rows.", "check the path.")
        try:
            return _read(file, _suffix(rows), pipeline)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise DataError(
                f"{rows} cannot be read: {first_line(error)}.",
                f"Expected a {_suffix(rows)} file of rows.",
                "check its content and its extension.",
            ) from error


def _read(file: Path, suffix: str, pipeline: InferencePipeline) -> pl.DataFrame:
    if suffix == ".csv":
        texts = (Kind.CATEGORY, Kind.DATETIME, Kind.OTHER)
        known = {name: pl.String for name, dtype in pipeline.input_schema.items() if kind_of(dtype) in texts}
        names = pl.read_csv(file, n_rows=0, infer_schema=False).columns
        overrides = {name: dtype for name, dtype in known.items() if name in names}
        return pl.read_csv(file, schema_overrides=overrides, infer_schema_length=None)
    if suffix == ".jsonl":
        return pl.read_ndjson(file, infer_schema_length=None)
    return pl.read_parquet(file)


def _suffix(path: str) -> str:
    return storage.plain_path(path).suffix


def _unreadable(file: str) -> ParameterError:
    return ParameterError(
        f"{file} has an extension that this command does not read or write.",
        f"Expected one of {', '.join(_READERS)}; got {_suffix(file) or 'none'}.",
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

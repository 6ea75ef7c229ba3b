"""`python -m bench`: run the measurements, print their tables, and put them on the page docs/benchmarks.md."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Annotated

import typer
from rich.console import Console

from bench.report import Options, write

PROGRAMS = [
    "preprocessing",
    "wide",
    "blocks",
    "scale",
    "training",
    "workers",
    "ray_train",
    "tuning",
    "inference",
    "evaluation",
    "serving",
]


def main(
    programs: Annotated[
        list[str] | None, typer.Argument(help=f"Some of {', '.join(PROGRAMS)}, or gpu; all but gpu when omitted.")
    ] = None,
    rows: Annotated[
        int, typer.Option(min=1000, help="Rows of the main table; smaller is a try, not a measurement.")
    ] = 5_000_000,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of which the median is taken.")] = 3,
    full: Annotated[
        bool, typer.Option(help="Repeat what takes minutes, too, and measure memory on 50 million rows.")
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="A part of a program: of wide columns, shapes; of blocks a step, as search; of scale data, training, search, search of 30 fits, table and Dataset."
        ),
    ] = None,
    save: Annotated[bool, typer.Option(help="Write docs/benchmarks.md.")] = True,
) -> None:
    """Measure Rayline side by side with what it is compared with."""
    # The processes that are started find Rayline's modules compiled, as after its installation, and as those of all other libraries are.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    console = Console()
    for program in programs or PROGRAMS:
        options = Options(rows=rows, repeats=repeats, full=full, only=only or ())
        made = importlib.import_module(f"bench.{program}").run(options)
        for section in made if isinstance(made, list) else [made]:
            section.show(console)
            if save and section.comparisons:
                write([section])


typer.run(main)

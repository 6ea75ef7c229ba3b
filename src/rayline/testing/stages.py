"""The contract of a stage, executable: `check_stage` runs every law that a stage must keep on tables of all kinds."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import polars as pl

from rayline.core.stage import Stage
from rayline.testing.edge_cases import StageCase, example_table
from rayline.testing.stage_laws import LAWS


def check_stage(
    stage: Stage,
    *,
    table: pl.DataFrame | None = None,
    targets: Sequence[str] = (),
    rtol: float = 1e-12,
    refuses: Mapping[str, Collection[str]] | None = None,
) -> None:
    """Run the whole contract of a stage; raise AssertionError with the law that it breaks.

    The laws: any split of the rows and any order of merging gives the same parameters, and merging is associative and
    commutative with the empty statistic as its identity; every odd table (no rows, one row, only missing values, a
    constant, infinite values, NaN, new categories, other column order, other types, other types in some blocks) gives the
    outcome that is declared, a result of the declared types or a RaylineError; a row's result depends on that row alone; single rows give the bits of the table; JSON
    gives an equal stage back; nothing that was passed in is changed; wrong parameters and unfitted use are refused;
    targets and columns of others stay as they are; the way back, where there is one, leads back; a column that is not in the lineage of an output
    never changes it.

    Parameters
    ----------
    stage
        An unfitted stage.
    table
        Rows that it can be fitted on; when omitted, a table with a column of every kind.
    targets
        Target columns of `table`.
    rtol
        How far learned floats may differ between splits, relative to their size.
    refuses
        The outcomes that are declared: for "fit", "transform" and "drift" the names of the odd tables (see `outcomes`) that
        are refused; all others give a result. When omitted, each may be either.

    Examples
    --------
    >>> from rayline.stages import StandardScaler
    >>> from rayline.testing import check_stage
    >>> hard = ["no rows", "all missing", "infinite", "minus infinite", "huge"]
    >>> check_stage(StandardScaler(), refuses={"fit": hard, "drift": ["strings"]})
    """
    case = StageCase(stage, (example_table() if table is None else table), tuple(targets), rtol, refuses)
    for law in LAWS:
        try:
            law(case)
        except AssertionError as error:
            raise AssertionError(f"{stage!r} breaks {law.__name__.removeprefix('_')!r}: {error}") from error
        except Exception as error:
            raise AssertionError(
                f"{stage!r} fails in {law.__name__.removeprefix('_')!r} with {type(error).__name__}: {error}"
            ) from error

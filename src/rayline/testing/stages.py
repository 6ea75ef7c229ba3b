"""The contract of a stage, executable: `check_stage` runs every law that a stage must keep on tables of all kinds."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import polars as pl

from rayline.core.stage import Stage
from rayline.testing.contract_case import named_law
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

    The laws: any split of the rows and any order of merging gives the same parameters, a fit on the same columns in another order
    trains on the same rows with the same values, and merging is associative and
    commutative with the empty statistic as its identity; every odd table (no rows, one row, only missing values, a
    constant, infinite values, NaN, new categories, other column order, other types, other types in some blocks) gives the
    outcome that is declared, a result of the declared types or a RaylineError; a row's result depends on that row alone;
    single rows give the same bits as the table; a stage restored from JSON is equal; arguments are never modified; wrong
    parameters and unfitted use raise errors; targets and columns of other stages stay unchanged; the inverse, where there
    is one, restores the input; a column that is not in the lineage of an output never changes it.

    Parameters
    ----------
    stage
        An unfitted stage.
    table
        Rows that it can be fitted on; when omitted, a table with a column of every kind.
    targets
        Target columns of `table`.
    rtol
        The relative tolerance of learned floats between different splits of the rows.
    refuses
        The declared outcomes: for "fit", "transform" and "drift" the names of the odd tables (see `outcomes`) that raise an
        error; all others give a result. When omitted, both outcomes are allowed.

    Raises
    ------
    AssertionError
        With the law that is broken and what was seen.

    Examples
    --------
    >>> from rayline.stages import StandardScaler
    >>> from rayline.testing import check_stage
    >>> hard = ["no rows", "all missing", "infinite", "minus infinite", "huge"]
    >>> check_stage(StandardScaler(), refuses={"fit": hard, "drift": ["strings"]})
    """
    case = StageCase(stage, (example_table() if table is None else table), tuple(targets), rtol, refuses)
    for law in LAWS:
        with named_law(stage, law.__name__.removeprefix("_")):
            law(case)

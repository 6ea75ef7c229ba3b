"""The laws of what frameworks are given: columns of every name and type, and vectors beside categories."""

from __future__ import annotations

import datetime as dt
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

from rayline.core.errors import RaylineError
from rayline.inference.artifact import load
from rayline.testing.contract_case import FrameworkCase, error_of
from rayline.train.result import Result

NAMES = (
    "a=b",
    "",
    "=",
    "f0",
    "[x] < 1",
    "［x］",
    "Column_1",
    "a b",
    "a\u00a0b",
    "{é}\t,:\"'",
    "\u2400",
    "end of trees",
    "feature_names=",
)
"""Names that some library or file format has a use of its own for; among them such as are alike once characters are replaced."""

NUMBERS = (
    pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.Int128, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64, pl.UInt128, pl.Float16,
    pl.Float32, pl.Float64, pl.Decimal(10, 2), pl.Array(pl.Float16, 2), pl.Array(pl.Float64, 2), pl.Array(pl.Int8, 2),
)  # fmt: skip

OTHERS = (dt.date(2020, 1, 1), dt.datetime(2020, 1, 1), dt.timedelta(1), dt.time(1), [1.0], {"a": 1}, b"x")
"""Values of the types that no framework takes."""


def _few(case: FrameworkCase, features: pl.DataFrame) -> Result:
    table = features.with_columns(case.table.head(features.height)[case.target])
    return case.trainer().fit(None, table, None, [case.target], verbose=False)


def _loads(case: FrameworkCase, result: Result, rows: pl.DataFrame, why: str) -> None:
    pipeline = result.inference_pipeline
    with tempfile.TemporaryDirectory() as folder:
        try:
            pipeline.save(Path(folder) / "x.rayline")
            loaded = load(Path(folder) / "x.rayline", **pipeline.model.adapter.load_options(pipeline.model.native))
        except RaylineError as error:
            raise AssertionError(f"{why}: what is trained cannot be saved and loaded: {error}") from error
    case.same(
        loaded.scores(rows.lazy()), pipeline.scores(rows.lazy()), bits=True, why=f"{why}: scores differ after loading"
    )


def takes_columns_of_any_name(case: FrameworkCase) -> None:
    """What was trained on columns of these names is saved, loaded, chained by hand, and gives the same."""
    if case.reads_text:
        return
    random = np.random.default_rng(0)
    rows = pl.DataFrame({name: random.normal(size=case.table.height) for name in NAMES})
    result = _few(case, rows)
    _loads(case, result, rows, f"columns called {list(NAMES)}")
    plain = rows.rename({name: f"x{place}" for place, name in enumerate(NAMES)})
    if case.seeded:
        one, two = (r.inference_pipeline.scores(t.lazy()) for r, t in ((result, rows), (_few(case, plain), plain)))
        case.same(one, two, bits=True, why="other names of the columns give another model")
    if case.adapter.owns(result.model.native):
        chained = result.preprocessor.chain(result.model.native)
        assert chained.model.feature_names == list(NAMES), (
            f"its native model names the features {chained.model.feature_names}"
        )


def takes_categories_of_any_name(case: FrameworkCase) -> None:
    if case.reads_text or case.adapter.string_features != "categories":
        return
    rows = pl.DataFrame({"c": pl.Series(NAMES).sample(case.table.height, with_replacement=True, seed=0)})
    _loads(case, _few(case, rows), rows, f"categories called {list(NAMES)}")


def takes_columns_of_any_type(case: FrameworkCase) -> None:
    """Columns of numbers are learned from whatever their types, in the first task each type alone too, and other types are refused by name."""
    if case.reads_text:
        return
    random = np.random.default_rng(0)
    numbers = pl.Series("x", random.integers(0, 9, case.table.height))
    noise = pl.Series("noise", random.normal(size=len(numbers)))
    pairs = pl.Series("x", np.stack([numbers, 8 - numbers], 1)).cast(pl.Array(pl.Float64, 2))
    columns = [(pairs if isinstance(dtype, pl.Array) else numbers).cast(dtype) for dtype in NUMBERS]
    for column in columns if case.is_first else ():
        _is_learned_from(case, pl.DataFrame([column, noise]), str(column.dtype))
    rows = pl.DataFrame([column.alias(str(column.dtype)) for column in columns])
    _loads(case, _is_learned_from(case, rows, "numbers of every type"), rows, "columns of every type of number")
    for value in OTHERS:
        rows = pl.DataFrame([noise, pl.Series("when", [value] * len(noise))])
        message = error_of(lambda rows=rows: _few(case, rows), RaylineError)  # type: ignore[misc]
        assert "'when'" in message, (
            f"a feature of {rows['when'].dtype} is not refused by name: {message or 'it is taken'}"
        )


def _is_learned_from(case: FrameworkCase, rows: pl.DataFrame, what: str) -> Result:
    result = _few(case, rows)
    pipeline = result.inference_pipeline
    scores = pipeline.scores(rows.lazy())
    assert len(scores) == rows.height, f"{what}: it does not predict every row"
    if pipeline.takes_rows:
        few = [pipeline.row_scores(row) for row in rows.head(9).to_dicts()]
        why = f"{what}: single rows differ from the table"
        case.same(np.concatenate(few), scores[:9], bits=case.exact, why=why)
    return result


def takes_vectors_as_columns(case: FrameworkCase) -> None:
    """Numbers beside a category teach the same as columns of their own and as one vector."""
    if case.reads_text or not (case.seeded and case.exact):
        return
    table = case.table.with_columns(pl.col("wind", "hour").cast(pl.Float64), noise=pl.col("noise").fill_null(0.0))
    words = ["city"] if case.adapter.string_features == "categories" else []
    plain = table.select(*words, "wind", "hour", "noise")
    vector = plain.select(*words, pl.concat_arr("wind", "hour", "noise").alias("wind"))
    one, two = (_few(case, rows).inference_pipeline.scores(rows.lazy()) for rows in (plain, vector))
    case.same(one, two, bits=True, why="a vector teaches something else than its elements as columns")


LAWS_OF_ROWS = (
    takes_columns_of_any_name,
    takes_categories_of_any_name,
    takes_columns_of_any_type,
    takes_vectors_as_columns,
)

"""Which columns a stage works on: by name, by selector, by type; in every family, and never a target by accident."""

from __future__ import annotations

from typing import Any

import polars as pl
import polars.selectors as cs
import pytest

import rayline as rl
from rayline.core.errors import ParameterError, SchemaError, at
from rayline.core.schema import Kind, kind_of
from rayline.core.stage import Stage
from rayline.stages import DropColumns, OneHotEncoder, SimpleImputer, StandardScaler
from rayline.testing.edge_cases import example_table
from tests.testing.test_stages import CASES

TABLE = example_table(20)
SCHEMA = TABLE.schema

SELECTORS: dict[str, Any] = {
    "numeric": cs.numeric(),
    "string": cs.string(),
    "regex": cs.matches("^(a|p)"),
    "dtype": cs.by_dtype(pl.Int8, pl.Float64),
    "not": ~cs.numeric(),
    "or": cs.float() | cs.by_name("city"),
    "minus": cs.numeric() - cs.by_name("amount"),
    "names": cs.by_name("price", "amount"),
    "all": cs.all(),
}

STAGES = {type(stage).__name__: stage for stage, _ in reversed(CASES.values())}
CHOOSING = {name: stage for name, stage in STAGES.items() if type(stage).select is Stage.select}
"""A stage of every class that chooses as all do (others say themselves what they work on)."""


def chosen(stage: Stage, exclude: tuple[str, ...] = ()) -> list[str]:
    with at("here"):
        return stage.select(SCHEMA, exclude=exclude, text=lambda column: column == "note")


@pytest.mark.parametrize("name", CHOOSING)
def test_by_type_when_omitted(name: str) -> None:
    stage = CHOOSING[name]
    if stage.needs_columns:
        with pytest.raises(ParameterError, match=rf"{name}: columns is missing"):
            stage.replace(columns=None)
        return
    by_type = stage.replace(columns=None)
    found = chosen(by_type)
    kinds = {column: Kind.TEXT if column == "note" else kind_of(dtype) for column, dtype in SCHEMA.items()}
    both = {Kind.TEXT, Kind.CATEGORY} <= set(by_type.kinds)
    assert found == [c for c in SCHEMA if kinds[c] in by_type.kinds or (both and c == "note")]
    for target in found:
        assert chosen(by_type, (target,)) == [column for column in found if column != target]


@pytest.mark.parametrize("how", SELECTORS)
@pytest.mark.parametrize("name", CHOOSING)
def test_by_selector(name: str, how: str) -> None:
    selector = SELECTORS[how]
    stage = CHOOSING[name].replace(columns=selector)
    rest = {column: dtype for column, dtype in SCHEMA.items() if column != "price"}
    try:
        expected = list(cs.expand_selector(pl.Schema(rest), selector))
    except pl.exceptions.ColumnNotFoundError:  # it names the target
        with pytest.raises(SchemaError, match="column 'price' is missing"):
            chosen(stage, ("price",))
        return
    wrong = [c for c in expected if stage.accepts and kind_of(SCHEMA[c]) not in stage._accepted()]
    if wrong:
        with pytest.raises(SchemaError, match=rf"here \({name}\): column '{wrong[0]}' has the wrong type"):
            chosen(stage, ("price",))
    else:
        assert chosen(stage, ("price",)) == expected


@pytest.mark.parametrize("name", CHOOSING)
def test_by_name(name: str) -> None:
    stage = CHOOSING[name]
    good = [c for c in SCHEMA if not stage.accepts or kind_of(SCHEMA[c]) in stage._accepted()]
    assert chosen(stage.replace(columns=good[::-1])) == good[::-1]
    assert chosen(stage.replace(columns=good[0])) == good[:1]
    with pytest.raises(SchemaError, match=rf"here \({name}\): column '{good[0]}s' is missing(.|\n)*{good[0]}"):
        chosen(stage.replace(columns=[f"{good[0]}s"]))
    with pytest.raises(ParameterError, match="each column once"):
        chosen(stage.replace(columns=[good[0], good[0]]))
    with pytest.raises(ParameterError, match="names or a Polars selector"):
        chosen(stage.replace(columns=pl.col(good[0]) + 1))


def test_the_whole_way_with_selectors() -> None:
    p = rl.Preprocessor(
        [
            ("fill", SimpleImputer(cs.numeric() | cs.boolean(), "most_frequent")),
            ("scale", StandardScaler(cs.numeric() - cs.by_dtype(pl.Int8))),
            ("onehot", OneHotEncoder(cs.matches("^(city|value)$"))),
            ("drop", DropColumns(~(cs.numeric() | cs.boolean()))),
        ]
    ).fit(TABLE, target_columns=["y"])
    out = p.transform(TABLE)
    assert all(dtype.is_numeric() or dtype == pl.Boolean for dtype in out.schema.values())
    assert out["y"].equals(TABLE["y"])
    assert set(p["scale"].state["columns"]) == {"amount", "price", "count"}  # type: ignore[union-attr]
    again = rl.Preprocessor.from_json(p.to_json())  # saved with the columns that the selectors chose
    assert again["scale"].columns == ["amount", "price", "count"]  # type: ignore[union-attr]
    assert again.transform(TABLE).equals(out)


@pytest.mark.parametrize("target", TABLE.columns)
def test_no_target_is_touched(target: str) -> None:
    for name, stage in CHOOSING.items():
        if stage.needs_columns or name.startswith(("Check", "Target", "SelectK", "GroupImputer", "Log")):
            continue
        fitted = rl.Preprocessor([("stage", stage.replace(columns=None))]).fit(TABLE, target_columns=[target])
        assert fitted.transform(TABLE)[target].equals(TABLE[target])
        assert target not in fitted.input_schema

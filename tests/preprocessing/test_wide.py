"""Wide tables and many stages: the work grows with the number of columns, not with its square.

Covers `core.feature_names` too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest

from rayline import stages, train
from rayline.core.operations import base, categorical
from rayline.core.operations.base import Affine
from rayline.core.operations.expression import Assign
from rayline.core.stage import Stage
from rayline.core.statistics.base import Statistic
from rayline.stages import MinMaxScaler, OneHotEncoder, SimpleImputer, StandardScaler


def wide(n: int) -> pl.DataFrame:
    values = np.random.default_rng(0).normal(size=(50, n))
    values[3] = np.nan
    return pl.DataFrame(values, schema=[f"c{i}" for i in range(n)])


def test_five_thousand_columns() -> None:
    table = wide(5_000)
    began = time.process_time()
    p = train.Preprocessor([("impute", SimpleImputer()), ("scale", StandardScaler())]).fit(table)
    result = p.transform(table)
    run, row = p.row_function(), table.row(0, named=True)
    assert run is not None
    run(row)
    again = train.Preprocessor.from_json(json.loads(json.dumps(p.to_json())))
    assert len(p.lineage) == 5_000
    assert time.process_time() - began < 30, (
        "measured: 5 s of one core; by the square of the columns it would be an hour"
    )
    values = table.to_numpy()
    values = np.where(np.isnan(values), np.nanmean(values, axis=0), values)
    assert np.allclose(result.to_numpy(), (values - values.mean(axis=0)) / values.std(axis=0), atol=1e-9)
    assert list(row.values()) == list(result.row(0))
    assert again.transform(table.head(2)).equals(result.head(2))


def test_polars_never_plans_the_whole_table_for_one_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Types are followed operation by operation: each asks about the columns that it reads."""
    widths: list[int] = []
    planned: Callable[..., Any] = base.Operation._planned

    def counted(self: base.Operation, schema: Any) -> Any:
        widths.append(len(schema))
        return planned(self, schema)

    monkeypatch.setattr(base.Operation, "_planned", counted)
    table = wide(30).with_columns(pl.lit("a").alias(f"t{i}") for i in range(30))
    chain = [
        ("fill", SimpleImputer(strategy="most_frequent")), ("power", stages.PowerTransformer([f"c{i}" for i in range(9)])),
        ("bins", stages.KBinsDiscretizer([f"c{i}" for i in range(9, 20)], encode="onehot")), ("onehot", OneHotEncoder()),
        ("gaps", stages.MissingIndicator(features="all")), ("range", stages.MinMaxScaler(clip=True)),
    ]  # fmt: skip
    p = train.Preprocessor(chain).fit(table)
    assert len(p.lineage) == len(p.output_schema)
    assert p.row_function() is not None
    assert p.transform(table).schema == p.output_schema
    assert max(widths, default=0) <= 3


def categories(n: int) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    return pl.DataFrame({f"c{i}": rng.choice(list("abc"), 50) for i in range(n)})


@pytest.mark.parametrize(
    ("stage", "table"),
    [
        (OneHotEncoder(), categories(1_000)),
        (stages.PowerTransformer(), wide(300)),
        (stages.MinMaxScaler(clip=True), wide(1_000)),
        (stages.KBinsDiscretizer(), wide(1_000)),
        (stages.MissingIndicator(features="all"), wide(1_000)),
        (stages.KBinsDiscretizer(encode="onehot"), wide(300)),
        (stages.FrequencyEncoder(), categories(1_000)),
        (stages.HashEncoder(n_features=4), categories(1_000)),
        (stages.SplineTransformer(), wide(300)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Stage) else "",
)
def test_many_columns_take_each_step_together(stage: Stage, table: pl.DataFrame) -> None:
    """The query has as many layers as one column needs, and each column is what it is alone."""
    p = train.Preprocessor([("stage", stage)]).fit(table)
    few = train.Preprocessor([("stage", stage)]).fit(table.select("c7", "c5"))
    layers = [
        fitted.table_function()(pl.LazyFrame(schema=fitted.input_schema)).explain(optimized=False).count("WITH_COLUMNS")
        for fitted in (p, few)
    ]
    assert layers[0] == layers[1] > 0
    began = time.process_time()
    result = p.transform(table)
    assert time.process_time() - began < 30, "measured: 0.1 to 5 s of one core; a layer a column, more than 100 s"
    assert result.schema == p.output_schema
    alone = few.transform(table.select("c7", "c5"))
    assert result.select(alone.columns).equals(alone)


def test_what_depends_on_each_other_keeps_its_order() -> None:
    """Read after write, write after read, a column that is removed and added again, and the order of new columns."""
    table = pl.LazyFrame({"a": [1.0, 2.0], "b": [10.0, 20.0], "c": [5.0, 6.0]})
    operations = [
        Assign({"d": ["+", ["col", "a"], 1.0]}),
        Assign({"e": ["+", ["col", "d"], 1.0]}),
        Assign({"a": ["col", "b"], "b": ["col", "a"]}),  # d has read a as it was
        Assign({"f": ["col", "a"]}),
        base.Drop(["c"]),
        Assign({"c": ["col", "e"]}),
        base.Drop(["d"]),
        Assign({"g": 1.0}),
    ]
    expected = table
    for operation in operations:
        expected = operation.apply(expected)
    result = base.apply_all(operations, table).collect()
    assert result.equals(expected.collect())
    assert result.columns == ["a", "b", "e", "f", "c", "g"]
    assert result.schema == base.schema_after(operations, table.collect_schema())


def test_rows_stay_when_all_columns_go_away() -> None:
    operations = [Assign({"one": 1.0}), base.Drop(["a", "b"])]
    assert base.apply_all(operations, pl.LazyFrame({"a": [1, 2], "b": [3, 4]})).collect().rows() == [(1.0,), (1.0,)]


def test_look_ups_of_batches_are_those_of_polars() -> None:
    """Polars' own look-ups of a thousand columns cost the square of them: they are made batch by batch."""
    places = pl.DataFrame({"x": [2, 0, None, -1, 3]}, schema={"x": pl.Int32})
    values = pl.Series(["a", "b", None], dtype=pl.String)
    assert places.select(categorical.gather(values, pl.col("x")))["x"].to_list() == [None, "a", None, None, None]
    old, new = pl.Series([0, 3], dtype=pl.Int32), pl.Series([1.5, 2.5])
    expected = places.select(pl.col("x").replace_strict(old, new, default=None, return_dtype=pl.Float64))
    assert places.select(categorical.replace(pl.col("x"), old, new)).equals(expected)


def test_statistics_are_pushed_through_each_stage_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pushed, push = [0], Affine.push

    def counting(self: Affine, statistic: Statistic) -> Statistic:
        pushed[0] += 1
        return push(self, statistic)

    monkeypatch.setattr(Affine, "push", counting)
    table = pl.DataFrame({"x": [1.0, 2.0, 4.0], "z": [0.0, 1.0, 5.0]})
    n = 60
    chain = train.Preprocessor([(f"scale{i}", MinMaxScaler(feature_range=(0, 2 + i % 3))) for i in range(n)])
    made = chain.fit_transform(table)
    assert 0 < pushed[0] <= 2 * n  # of each of two columns; each through all stages before were 60 times as many
    expected = table
    for _, stage in chain.stages:
        expected = train.Preprocessor([("one", stage)]).fit_transform(expected)
    for name in table.columns:
        assert made[name].to_list() == pytest.approx(expected[name].to_list())

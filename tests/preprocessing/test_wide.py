"""Wide tables and many stages: the work grows with the number of columns, not with its square."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest

from rayline import stages, train
from rayline.core.operations import base
from rayline.stages import OneHotEncoder, SimpleImputer, StandardScaler


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

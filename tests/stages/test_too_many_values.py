"""Columns with more values, groups or pairs than are counted: the error names the stage and the column."""

from __future__ import annotations

import re
from typing import Any

import polars as pl
import pytest

import rayline as rl
from rayline import stages, train
from rayline.core.statistics import counts, multi_column

LIMIT = 10
N = 40
TABLE = pl.DataFrame(
    {
        "c": [f"{i}" for i in range(N)],
        "few": ["a", "b"] * (N // 2),
        "x": [float(i) for i in range(N)],
        "y": [0, 1] * (N // 2),
        "label": ["no", "yes"] * (N // 2),
    }
)

CASES = [
    (stages.TargetEncoder(["c"]), "y", "TargetEncoder: column 'c' has too many distinct values"),
    (stages.TargetEncoder(["c"]), "label", "TargetEncoder: column 'c' has too many distinct values"),
    (stages.GroupImputer(["x"], by="c"), "y", "GroupImputer: column 'x' by 'c' has too many distinct values"),
    (stages.GroupImputer(["x"], by="few", strategy="median"), "y", "GroupImputer: column 'x' by 'few' has too many pairs of group and value"),
    (stages.SelectKBest(["x"], k=1, score="f_classif"), "c", "SelectKBest: the target 'c' has too many distinct values"),
    (stages.OneHotEncoder(["c"]), "y", "OneHotEncoder: column 'c' has too many distinct values"),
    (stages.Upsample(by="c"), "y", "Upsample: column 'c' has too many distinct values"),
    (stages.SMOTE(["x"], by="c"), "y", "SMOTE: column 'c' has too many distinct values"),
]  # fmt: skip


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (counts, multi_column):
        monkeypatch.setattr(module, "MAX_CATEGORIES", LIMIT)


def says(what: str) -> str:
    return rf"^Preprocessor\.fit: stage 'it': {re.escape(what)} to count\.\n  Expected at most 10; got more\.\n  Hint: "


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(("stage", "target", "what"), CASES)
def test_the_stage_and_the_column_are_named(stage: Any, target: str, what: str) -> None:
    with pytest.raises(rl.DataError, match=says(what)):
        train.Preprocessor([("it", stage)]).fit(TABLE, target_columns=[target])


@pytest.mark.usefixtures("few")
def test_a_column_whose_counts_are_scaled_is_named() -> None:
    steps = train.Preprocessor([("scale", stages.StandardScaler(["x"])), ("it", stages.OrdinalEncoder(["x"]))])
    with pytest.raises(rl.DataError, match=r"^Preprocessor\.fit: stage 'it': [\s\S]*column 'x' has too many"):
        steps.fit(TABLE.select("x"))


@pytest.mark.usefixtures("few")
def test_a_target_is_named() -> None:
    with pytest.raises(rl.DataError, match=r"^train\.fit: the target 'c' has too many distinct values"):
        train.fit(
            train.XGBoostTrainer({"objective": "multi:softprob"}), None, TABLE.select("x", "c"), target_columns="c"
        )


@pytest.mark.usefixtures("few")
def test_a_fold_below_the_limit_is_fitted() -> None:
    table = TABLE.head(LIMIT + 2)
    states = [multi_column.GroupMoments.merge_all([]), *map(_groups, (table.head(LIMIT - 2), table.tail(4)))]
    assert not any(state.overflow for state in states)
    assert multi_column.GroupMoments.merge_all(states).overflow
    assert multi_column.GroupMoments.merge_all(states[:2]).by_key().height == LIMIT - 2


def _groups(table: pl.DataFrame) -> multi_column.GroupMoments:
    query = multi_column.GroupMoments.query(table.lazy(), pl.col("x"), pl.col("c"))
    assert query is not None
    return multi_column.GroupMoments.of(query.collect())

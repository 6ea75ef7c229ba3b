"""What makes a score honest: nothing that is held out reaches a fit, and where there is nothing to learn, chance is found."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import polars as pl
import pytest

from rayline import Preprocessor, train
from rayline.core import strict_json
from rayline.data import GroupKFold
from rayline.stages import OneHotEncoder, SelectKBest, SimpleImputer, StandardScaler, TargetEncoder
from rayline.tune.drivers import prepare
from rayline.tune.options import SearchOptions, SearchRequest
from rayline.tune.tune_data import search_data
from tests.tune.conftest import Configured, held_places


def stages() -> Preprocessor:
    """All that could leak: learned from features, from targets, and choosing by the target."""
    return Preprocessor([
        ("impute", SimpleImputer(columns=["x", "z"])),
        ("scale", StandardScaler(columns=["x", "z"])),
        ("target", TargetEncoder(["city", "street"])),
        ("onehot", OneHotEncoder(columns=["colour"])),
        ("best", SelectKBest(k=4)),
    ])  # fmt: skip


def drawn(n: int) -> pl.DataFrame:
    """Features of all kinds, and labels that have nothing to do with them."""
    made = np.random.default_rng(11)
    return pl.DataFrame(
        {
            "x": np.where(made.random(n) < 0.1, np.nan, made.normal(size=n)),
            "z": made.normal(size=n),
            "city": made.choice(list("abcdefgh"), n),
            "street": [f"street {i}" for i in made.integers(0, n // 4, n)],  # four rows each: a leak would be loud
            "colour": made.choice(["red", "green", "blue"], n),
            "fold": made.integers(0, 5, n),
            "late": made.integers(0, 2, n).astype(bool),
        }
    )


def evaluator(table: pl.DataFrame, trainer: train.Trainer, cv: Any) -> Configured:
    data = {"train_dataset": table, "train_pipeline": stages(), "target_columns": ["late"], "cv": cv}
    made = prepare(SearchRequest(trainer, search_data(data), {}, SearchOptions(metric="roc_auc", num_samples=1)))
    return Configured(made.problem, made.groups)


def fitted(table: pl.DataFrame, fold: int) -> bytes:
    """The fitted preprocessor of a fold, as bytes."""
    trainer = train.XGBoostTrainer({}, num_boost_round=2)
    evaluate = evaluator(table, trainer, GroupKFold(5, column="fold"))
    evaluate._prepared(evaluate.problem.candidate({}), fold)
    ((leaves, learned),) = evaluate._fits[fold].values()
    return strict_json.dumps([[leaf.to_json() for leaf in leaves], repr(learned.features)])


@pytest.mark.parametrize("fold", range(5))
def test_held_out_rows_do_not_change_the_fitted_preprocessor_by_a_byte(fold: int) -> None:
    table = drawn(400)
    made = prepare(SearchRequest(train.XGBoostTrainer({}, num_boost_round=2), search_data({"train_dataset": table, "target_columns": ["late"], "cv": GroupKFold(5, column="fold")}), {}, SearchOptions(num_samples=1)))  # fmt: skip
    held = pl.int_range(pl.len()).is_in(held_places(made, fold))
    unique = pl.format("only here {}", pl.int_range(pl.len()))
    absurd = table.with_columns(
        pl.when(held).then(1e30).otherwise(pl.col("x", "z")).name.keep(),
        pl.when(held).then(unique).otherwise(pl.col("city", "street", "colour")).name.keep(),
        late=pl.col("late") ^ held,
    )
    assert not absurd.equals(table)
    assert fitted(absurd, fold) == fitted(table, fold)


@pytest.mark.parametrize("early_stopping", [None, 5])
def test_random_labels_score_like_chance(early_stopping: int | None) -> None:
    """Target encoding of four rows a category, selection by the target, and early stopping in the loop."""
    more: dict[str, Any] = {} if early_stopping is None else {"early_stopping_rounds": early_stopping}
    trainer = train.XGBoostTrainer({"eta": 0.3}, num_boost_round=20, **more)
    evaluate = evaluator(drawn(4_000), trainer, 5)
    scores = [evaluate({"max_depth": depth}, fold).score.score for depth in (2, 4, 6) for fold in range(5)]
    assert abs(np.mean(scores) - 0.5) < 0.05


def test_a_leak_would_be_seen() -> None:
    """The alarm works: codes that have seen their own targets are anything but chance."""
    table = drawn(1_000)
    leaked = table.with_columns(street=pl.col("late").mean().over("street")).drop("city", "colour", "fold")
    data = {"train_dataset": leaked, "target_columns": ["late"], "cv": 5}
    trainer = train.XGBoostTrainer({}, num_boost_round=5)
    made = prepare(SearchRequest(trainer, search_data(data), {}, SearchOptions(metric="roc_auc", num_samples=1)))
    evaluate = Configured(made.problem, made.groups)
    assert np.mean([evaluate({}, fold).score.score for fold in range(5)]) > 0.6


@pytest.mark.parametrize(
    ("trainer", "parameter", "values"),
    [
        (train.XGBoostTrainer({"subsample": 0.7}, num_boost_round=5), "max_depth", (2, 3)),
        (train.XGBoostTrainer({"subsample": 0.7}, num_boost_round=5), "max_bin", (4, 256)),
        (train.LightGBMTrainer({"bagging_fraction": 0.7, "bagging_freq": 1}, num_boost_round=5), "num_leaves", (3, 9)),
        (train.LightGBMTrainer({"feature_fraction": 0.5}, num_boost_round=5), "min_child_samples", (5, 80)),
        (train.LightGBMTrainer({}, num_boost_round=5), "max_bin", (4, 255)),
    ],
)
def test_scores_do_not_depend_on_what_was_evaluated_before(
    trainer: train.Trainer, parameter: str, values: tuple[int, int]
) -> None:
    """A warm evaluator, with the bins that it keeps, gives the bits of a cold one, in whatever order it is asked."""
    table = drawn(500)
    tasks = [({parameter: v, "preprocessor": {"best": {"k": k}}}, f) for v in values for k in (2, 4) for f in (0, 3)]
    cold = [evaluator(table, trainer, 5)(config, fold).score.score for config, fold in tasks]
    order = list(range(len(tasks)))
    random.Random(3).shuffle(order)
    evaluate = evaluator(table, trainer, 5)
    warm = {i: evaluate(*tasks[i]).score.score for i in order}
    assert [warm[i] for i in range(len(tasks))] == cold
    assert len(set(cold)) > 2

"""What a tuning run refuses, on the driver and before Ray is started.

Covers `tune.compare`, `tune.options`, `tune.search_metrics` and `tune.tune_data` too.
"""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any

import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression

from rayline import Preprocessor, RaylineError, train
from rayline.core.errors import at
from rayline.data import GroupKFold, KFold, StratifiedKFold, TimeSeriesSplit
from rayline.stages import SimpleImputer
from rayline.tune import choice, compare, grid_search, loguniform, randint, run, sample_from, uniform
from rayline.tune.drivers import prepare
from rayline.tune.options import SearchOptions, SearchRequest
from rayline.tune.tune_data import DATA_ARGUMENTS, SearchDataArguments, _splitter, search_data


def attempt(table: Any, preprocessor: Any = None, config: Any = None, **data: Any) -> Any:
    metric, mode = data.pop("metric", None), data.pop("mode", None)
    trainer = data.pop("trainer", None) or train.XGBoostTrainer({"max_depth": 2}, num_boost_round=2)
    given = {"train_dataset": table, "train_pipeline": preprocessor, "target_columns": ["late"], "cv": 3} | data
    space, options = (
        {"eta": uniform(0.1, 0.3)} if config is None else config,
        SearchOptions(metric, mode, num_samples=4),
    )
    with at("tune.run"):
        return prepare(SearchRequest(trainer, search_data(given), space, options))


def stages(**own: Any) -> dict[str, Any]:
    return {"preprocessor": own}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (stages(imputer={"strategy": "mean"}), "unknown stage 'imputer'.*did you mean \\['impute'\\]"),
        (stages(impute={"strategie": choice(["mean", "median"])}), "unknown parameter 'strategie'.*'strategy'"),
        (stages(impute={"strategy": choice(["mean", "medan"])}), "'medan'.*strategy has a wrong value"),
        (stages(impute={"strategy": grid_search(["mean", "medan"])}), "'medan'.*strategy has a wrong value"),
        (stages(impute=choice(["mean"])), "a dict of the stage's parameters"),
        ({"preprocessor": choice([1])}, "config\\['preprocessor'\\] has a wrong value"),
        ({"max_deph": randint(1, 3)}, "'max_deph'"),
        ({"num_boost_rounds": randint(1, 3)}, "'num_boost_rounds'"),
        ({}, "at least one parameter"),
        ({"eta": 0.1}, "at least one parameter, or num_samples=1"),
        ({"max_depth": [2, 3]}, "tune.choice"),
        ([], "a dict of parameters"),
    ],
)
def test_search_spaces_are_checked(table: pl.DataFrame, preprocessor: Preprocessor, config: Any, message: str) -> None:
    with pytest.raises(RaylineError, match=f"(?s){message}"):
        attempt(table, preprocessor, config)


@pytest.mark.parametrize(
    ("trainer", "name"),
    [
        (train.XGBoostTrainer({}, num_boost_round=randint(1, 3)), "num_boost_round"),  # type: ignore[arg-type]
        (train.CatBoostTrainer({"learning_rate": uniform(0.1, 0.3)}), "learning_rate"),
        (train.SklearnTrainer(LogisticRegression(C=loguniform(0.1, 10.0))), "C"),
    ],
)
def test_a_space_in_the_trainer_is_sent_to_config(table: pl.DataFrame, trainer: Any, name: str) -> None:
    with pytest.raises(RaylineError, match=f"'{name}' of the trainer itself is a search space"):
        attempt(table.drop("city"), trainer=trainer)


def test_stages_without_a_preprocessor(table: pl.DataFrame) -> None:
    with pytest.raises(RaylineError, match="there is no preprocessor"):
        attempt(table.drop("city"), None, stages(impute={"strategy": "mean"}))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"cv": None}, "no rows to hold out"),
        ({"cv": 1}, "at least 2"),
        ({"cv": 301}, "(?i)KFold"),
        ({"cv": "five"}, "a number of folds"),
        ({"metric": "auk"}, "unknown metric 'auk'"),
        ({"metric": "my_metric", "mode": "max"}, "tune.run: unknown metric 'my_metric'.*'test-logloss'"),
        ({"metric": "rmse"}, "not for a binary target"),
        ({"metric": "train-logloss"}, "measured on the training rows"),
        ({"metric": "auc", "mode": "min"}, "the worst auc"),
        ({"mode": "minimum"}, "mode has a wrong value"),
        ({"metric": 3}, "a name or a list of different names; got 3"),
        ({"metric": ["auc", "auc"]}, "a list of different names"),
        ({"metric": ["auc", "brier"], "mode": "max"}, "a list of 2, one for each metric"),
        ({"metric": ["auc", "brier"], "mode": ["max", "max"]}, "the worst brier"),
        ({"folds": 3}, "unknown parameter 'folds'"),
        ({"target_columns": ["latte"]}, "'latte'.*'late'"),
        ({"target_columns": None}, "target_columns"),
        ({"sample_weight": "city"}, "'city' has the wrong type"),
        ({"groups": "city", "time": "z"}, "cannot be combined"),
        ({"groups": "city", "cv": KFold(3)}, "cannot be combined"),
        ({"groups": "town"}, "'town'"),
        ({"train_pipeline": SimpleImputer()}, "a Preprocessor or None"),
        (
            {"train_pipeline": Preprocessor([("i", SimpleImputer(columns=["late"], strategy="most_frequent"))])},
            "target column",
        ),
        ({"train_pipeline": Preprocessor([("i", SimpleImputer(columns=["late_"]))])}, "'late_' is missing"),
        ({"trainer": "xgboost"}, "a trainer such as"),
        ({"trainer": train.XGBoostTrainer}, "a trainer such as.*got <class"),
        ({"train_dataset": None}, "there is nothing to train on"),
        ({"sample_weight": "w"}, "tune.run \\(training data\\): column 'w' is missing"),
    ],
)
def test_data_configurations_are_checked(table: pl.DataFrame, data: dict[str, Any], message: str) -> None:
    with pytest.raises(RaylineError, match=f"(?s){message}") as caught:
        attempt(table, **data)
    assert str(caught.value).startswith("tune.run")
    assert len(str(caught.value).splitlines()) >= 3  # what happened, what was expected, what to do


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pl.col("late").replace("no", None), "the target 'late' has|The target 'late' has"),
        (pl.lit("perhaps").alias("late"), "labels that training did not see"),
        (pl.lit("one").alias("z"), "'z' has the wrong type"),
        (pl.col("z").alias("late"), "'late' has the wrong type"),
    ],
)
@pytest.mark.parametrize("cv", [None, 3])
def test_a_test_set_is_checked_whatever_it_is_for(table: pl.DataFrame, cv: Any, change: pl.Expr, message: str) -> None:
    with pytest.raises(RaylineError, match=f"(?s)tune.run .test data.: .*({message})"):
        attempt(table, test_dataset=table.with_columns(change), cv=cv)


def test_a_metric_of_the_frameworks_own_is_looked_for_before_the_trials(table: pl.DataFrame) -> None:
    trainer = train.XGBoostTrainer({"eval_metric": "error@0.7"}, num_boost_round=2)
    assert attempt(table, trainer=trainer, metric="test-error@0.7", mode="min").problem.metric == "test-error@0.7"
    with pytest.raises(RaylineError, match="unknown metric 'hits@3'"):
        attempt(table, trainer=trainer, metric="hits@3", mode="max")


def test_features_that_no_framework_takes_are_refused_where_there_are_no_stages(table: pl.DataFrame) -> None:
    dated = table.with_columns(day=pl.lit("2026-01-02").str.to_date())
    with pytest.raises(RaylineError, match=r"tune\.run: feature 'day' holds Date"):
        attempt(dated)


@pytest.mark.parametrize("name", ["preprocessor/impute/strategy", "impute__strategy"])
def test_how_parameters_of_stages_nest_is_told(table: pl.DataFrame, preprocessor: Preprocessor, name: str) -> None:
    nested = "{'preprocessor': {'impute': {'strategy': …}}}"
    with pytest.raises(RaylineError, match=re.escape(nested)):
        attempt(table, preprocessor, {name: choice(["mean", "median"])})


def test_a_domain_without_values() -> None:
    with pytest.raises(RaylineError, match=r"(?s)tune\.uniform.*0\.3"):
        uniform(0.3, 0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data_config": [1]}, "a dict with train_dataset"),
        ({"seed": "one"}, "an integer or None"),
        ({"seed": -1}, "an integer of at least 0, or None"),
        ({"max_concurrent": 0}, "max_concurrent has a wrong value"),
        ({"time_budget_s": "10"}, "seconds, more than 0"),
        ({"time_budget_s": 0}, "seconds, more than 0"),
        ({"num_samples": 0}, "an integer of at least 1"),
        ({"search": "optune"}, "did you mean \\['optuna'\\]"),
        ({"scheduler": "ascha"}, "did you mean \\['asha'\\]"),
        ({"name": "../elsewhere"}, "letters, digits"),
        ({"name": 3}, "letters, digits"),
        ({"resume": True}, "goes by the name"),
        ({"resume": "yes"}, "True or False"),
        ({"verbose": 2}, "True, False or None"),
        ({"time_budget_s": True}, "seconds, more than 0"),
        ({"callbacks": None}, "a list of objects of rayline.train.Callback"),
        ({"callbacks": [print]}, "a list of objects of rayline.train.Callback"),
    ],
)
def test_options_are_checked_before_ray_starts(table: pl.DataFrame, options: dict[str, Any], message: str) -> None:
    data = {"train_dataset": table, "target_columns": ["late"], "cv": 3}
    trainer = train.XGBoostTrainer({}, num_boost_round=2)
    with pytest.raises(RaylineError, match=f"(?s){message}"):
        run(trainer, options.pop("data_config", data), {"eta": uniform(0.1, 0.3)}, **options)


def test_data_arguments_have_the_names_of_a_fit() -> None:
    assert set(DATA_ARGUMENTS) <= set(inspect.signature(run).parameters)
    fit = set(inspect.signature(train.fit).parameters) - {
        "trainer",
        "callbacks",
        "metrics",
        "pos_label",
        "refit",
        "verbose",
    }
    assert fit <= set(DATA_ARGUMENTS)


def test_keywords_and_data_config_are_the_same_search(
    table: pl.DataFrame, preprocessor: Preprocessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[Any] = []
    module = sys.modules["rayline.tune.run"]
    monkeypatch.setattr(module, "run_search", lambda search, line, started: prepared.append(search.prepared))
    trainer = train.XGBoostTrainer({}, num_boost_round=2)
    space = stages(impute={"strategy": choice(["mean", "median"])})
    data: dict[str, Any] = {"train_dataset": table, "target_columns": ["late"], "cv": 3, "stratify": True}
    run(trainer, data | {"train_pipeline": preprocessor}, space)
    run(trainer, data | {"preprocessor": preprocessor}, space)
    run(trainer, config=space, preprocessor=preprocessor, **data)
    run(trainer, {"train_pipeline": preprocessor, "cv": 3, "train_dataset": None}, space, **{**data, "cv": None})
    assert len({made.digest() for made in prepared}) == 1
    assert [made.problem.preprocessor for made in prepared] == [preprocessor] * 4


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("preprocessor", "train_pipeline", Preprocessor()),
        ("cv", "cv", 3),
        ("target_columns", "target_columns", ["late"]),
    ],
)
def test_data_is_given_once(name: str, key: str, value: Any) -> None:
    trainer = train.XGBoostTrainer({}, num_boost_round=2)
    with pytest.raises(RaylineError, match=rf"tune.run: {name} is given twice"):
        run(trainer, {key: value}, **{name: value})
    with pytest.raises(RaylineError, match=rf"tune.compare: {name} is given twice"):
        compare({"one": trainer}, {key: value}, **{name: value})
    with pytest.raises(RaylineError, match="preprocessor is given twice"):
        search_data(dict.fromkeys(("train_pipeline", "preprocessor"), 1))


def test_several_metrics(table: pl.DataFrame) -> None:
    made = attempt(table, metric=["auc", "brier"])
    assert (made.problem.metrics, made.modes) == (("auc", "brier"), ("max", "min"))
    assert made.mode == "max"


def test_empty_and_one_class(table: pl.DataFrame) -> None:
    with pytest.raises(RaylineError, match="no rows"):
        attempt(table.clear())
    with pytest.raises(RaylineError, match="one class only"):
        attempt(table.filter(late="yes"))
    with pytest.raises(RaylineError, match="missing values"):
        attempt(table.with_columns(late=pl.when(pl.col("z") > 0).then("late")))


def test_a_column_with_the_name_of_one_of_ours(table: pl.DataFrame) -> None:
    with pytest.raises(RaylineError, match="'rayline:cell 0' has a name that a search needs"):
        attempt(table.drop("city").rename({"z": "rayline:cell 0"}), None)


def test_functions_of_other_parameters_are_left_to_the_trials(table: pl.DataFrame) -> None:
    config = {
        "max_depth": randint(1, 3),
        "max_leaves": sample_from(lambda c: 2 ** c["max_depth"]),
        "eta": loguniform(0.1, 0.2),
    }
    assert attempt(table.drop("city"), None, config).space == config


def test_what_cv_means() -> None:
    assert _splitter(SearchDataArguments(cv=4)) == KFold(4)
    assert _splitter(SearchDataArguments(cv=4, groups="plane")) == GroupKFold(4, column="plane")
    assert _splitter(SearchDataArguments(cv=4, time="day")) == TimeSeriesSplit(4, column="day")
    assert _splitter(SearchDataArguments(cv=4, stratify=True)) == StratifiedKFold(4)
    assert _splitter(SearchDataArguments(cv=4, stratify="late")) == StratifiedKFold(4, column="late")


def test_x_and_y(table: pl.DataFrame) -> None:
    x = table.select("x", "z").to_numpy()
    made = attempt(None, None, None, X=x, y=table["late"].to_numpy(), target_columns=None)
    assert ([*made.groups.schema][:3], made.problem.target.columns) == (["x0", "x1", "target"], ("target",))

"""What a new user does wrong, and what they are told: what and where, expected and got, what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import polars as pl
import pytest

import rayline as rl
from rayline import data, train
from rayline.stages import DropColumns, Log, OneHotEncoder, SimpleImputer, StandardScaler

TABLE = pl.DataFrame(
    {
        "age": [20.0, None, 41.5, 33.0] * 5,
        "city": ["Oslo", "Rome"] * 10,
        "late": ["yes", "no"] * 10,
        "y": [float(i) for i in range(20)],
    }
)
STAGES: Any = [("impute", SimpleImputer()), ("scale", StandardScaler()), ("onehot", OneHotEncoder())]


def new() -> rl.Preprocessor:
    return rl.Preprocessor(STAGES)


def fit(*arguments: Any, **how: Any) -> Any:
    trainer = train.XGBoostTrainer({"nthread": 1}, num_boost_round=1)
    given: dict[str, Any] = {"train_dataset": TABLE, "target_columns": "late", "verbose": False} | how
    return trainer.fit(*arguments, **given)


CASES: dict[str, tuple[Callable[[], Any], type[Exception], list[str]]] = {
    "a target that is not there": (
        lambda: fit(new(), target_columns=["lat"]),
        rl.SchemaError,
        ["train.fit (training data): column 'lat' is missing", "['age', 'city', 'late', 'y']", "did you mean ['late']"],
    ),
    "no target": (lambda: fit(new(), target_columns=None), rl.ParameterError, ["target_columns is missing", "pass target_columns"]),
    "a number as target": (lambda: fit(new(), target_columns=[1]), rl.ParameterError, ["target_columns", "got [1]", "as text"]),
    "nothing but a target": (lambda: fit(None, train_dataset=TABLE.select("late")), rl.SchemaError, ["no features"]),
    "a path for a table": (lambda: new().fit(cast(Any, "x.parquet")), rl.SchemaError, ["A str is not a table", "read_parquet('x.parquet')"]),
    "an array for a table": (lambda: new().fit(cast(Any, np.ones((2, 2)))), rl.SchemaError, ["ndarray is not a table", "name its columns"]),
    "no columns": (lambda: new().fit(pl.DataFrame()), rl.DataError, ["Preprocessor.fit: the data has no rows"]),
    "no rows": (lambda: fit(new(), train_dataset=TABLE.clear()), rl.DataError, ["train.fit", "no rows"]),
    "a column twice": (
        lambda: new().fit(pd.DataFrame([[1, 2]], columns=["a", "a"])), rl.SchemaError, ["'a' more than once", "rename or drop"],
    ),
    "complex numbers": (
        lambda: new().fit(pd.DataFrame({"x": [1j, 2.0]})), rl.SchemaError, ["Column 'x' holds complex128", "convert 'x', or drop it"],
    ),
    "a name that Arrow cannot carry": (
        lambda: new().fit(TABLE.rename({"age": "a\x00b"})), rl.SchemaError, ["The column 'a\\x00b'", "rename it"],
    ),
    "missing labels": (
        lambda: fit(new(), train_dataset=TABLE.with_columns(late=pl.when(pl.col("y") > 3).then("late"))),
        rl.DataError,
        ["'late' has 4 missing values", "drop these rows"],
    ),
    "missing labels in the test set": (
        lambda: fit(new(), test_dataset=TABLE.with_columns(late=pl.when(pl.col("y") > 3).then("late"))),
        rl.DataError,
        ["'late' has 4 missing values"],
    ),
    "new labels in the test set": (
        lambda: fit(new(), test_dataset=TABLE.with_columns(late=pl.lit("perhaps"))),
        rl.DataError,
        ["labels that training did not see", "['no', 'yes']", "['perhaps']"],
    ),
    "a test set without a column": (
        lambda: fit(new(), test_dataset=TABLE.drop("age")), rl.SchemaError, ["train.fit (test data)", "column 'age'"],
    ),
    "not fitted": (lambda: new().transform(TABLE), rl.NotFittedError, ["Preprocessor.transform", "call .fit(data) first"]),
    "a renamed column": (
        lambda: new().fit(TABLE).transform(TABLE.rename({"age": "Age"})),
        rl.SchemaError,
        ["needs column 'age'", "did you mean ['Age']"],
    ),
    "text for numbers": (
        lambda: new().fit(TABLE).transform(TABLE.with_columns(age=pl.lit("old"))),
        rl.SchemaError,
        ["column 'age' has the wrong type", "Expected Float64; got String"],
    ),
    "a stage that is a class": (lambda: rl.Preprocessor([("s", StandardScaler)]), rl.ParameterError, ["not its class"]),  # type: ignore[list-item]
    "a stage alone": (lambda: rl.Preprocessor(StandardScaler()), rl.ParameterError, ["a list of (name, stage) pairs"]),  # type: ignore[arg-type]
    "stages as a dict": (lambda: rl.Preprocessor({"s": StandardScaler()}), rl.ParameterError, ["a list of (name, stage)"]),  # type: ignore[arg-type]
    "a column that no stage finds": (
        lambda: rl.Preprocessor([("scale", StandardScaler(["agee"]))]).fit(TABLE),
        rl.SchemaError,
        ["Preprocessor.fit: stage 'scale' (StandardScaler): column 'agee' is missing", "did you mean ['age']"],
    ),
    "a column of the wrong kind": (
        lambda: rl.Preprocessor([("scale", StandardScaler(["city"]))]).fit(TABLE),
        rl.SchemaError,
        ["stage 'scale'", "'city'", "a numeric or boolean column; got String"],
    ),
    "a stage on the target": (
        lambda: rl.Preprocessor([("scale", StandardScaler(["y"]))]).fit(TABLE, target_columns="y"),
        rl.SchemaError,
        ["stage 'scale' works on 'y', which is a target", "target_stages"],
    ),
    "a stage that cannot learn": (
        lambda: rl.Preprocessor([("log", Log(["y"], offset=0))]).fit(TABLE),
        rl.DataError,
        ["Preprocessor.fit: stage 'log': Log: column 'y' has 1 row whose logarithm", "Expected values above 0", "offset"],
    ),
    "a stage that cannot learn in a fold": (
        lambda: rl.Preprocessor([("log", Log(["y"], offset=0))]).fit_folds(TABLE, 2),
        rl.DataError,
        ["Preprocessor.fit_folds: fold ", " of 2: stage 'log': Log"],
    ),
    "an unknown stage": (lambda: new()["scaler"], rl.ParameterError, ["unknown stage 'scaler'", "did you mean ['scale']"]),
    "an unknown metric": (
        lambda: fit(new(), metrics=["auc_roc"]), rl.ParameterError, ["unknown metric 'auc_roc'", "did you mean ['roc_auc']"],
    ),
    "a date that no stage encodes": (
        lambda: fit(new(), train_dataset=TABLE.with_columns(day=pl.lit("2020-01-01").str.to_date())),
        rl.SchemaError,
        ["feature 'day' holds Date", "DatetimeEncoder"],
    ),
    "no trainer": (lambda: train.fit(None, new(), train_dataset=TABLE), rl.ParameterError, ["train.fit: trainer", "got None"]),  # type: ignore[arg-type]
    "a trainer's class": (
        lambda: train.fit(train.XGBoostTrainer, new(), train_dataset=TABLE), rl.ParameterError, ["train.fit: trainer"],  # type: ignore[arg-type]
    ),
    "stages for a preprocessor": (lambda: fit(STAGES), rl.ParameterError, ["preprocessor", "a Preprocessor or None"]),
    "targets of two kinds": (
        lambda: fit(new(), target_columns=["late", "y"]), rl.DataError, ["different kinds", "['y'] are numbers", "one model for each"],
    ),
    "a callback that is no list": (
        lambda: fit(new(), callbacks=train.Progress()), rl.ParameterError, ["callbacks", "a list of callback objects"],
    ),
    "one row that is no list": (
        lambda: fit(new()).inference_pipeline.predict({"age": 30.0, "city": "Oslo", "y": 1.0}),
        rl.SchemaError,
        ["single value under 'age'", "put one row into a list"],
    ),
    "rows without names": (
        lambda: fit(new()).inference_pipeline.predict([[30.0, "Oslo", 1.0]]), rl.SchemaError, ["A list is not a table"],
    ),
    "target stages as a dict": (
        lambda: rl.Preprocessor(STAGES, target_stages={"log": Log()}), rl.ParameterError, ["target_stages", "a list of"],  # type: ignore[arg-type]
    ),
    "raw rows for features": (
        lambda: new().fit(TABLE).inverse_transform(TABLE),
        rl.SchemaError,
        ["Preprocessor.inverse_transform: columns ['city_Oslo', 'city_Rome'", "'late_no', 'late_yes'] are missing"],
    ),
    "percent for a share": (
        lambda: data.train_test_split(TABLE, percentage=20), rl.ParameterError, ["between 0 and 1", "for 20 % write 0.2"],
    ),
    "no such file": (lambda: rl.Preprocessor.load("nowhere.json"), rl.ArtifactError, ["nowhere.json", "No such file"]),
    "too few rows": (lambda: new().fit_folds(TABLE.head(3), 5), rl.DataError, ["too few rows", "fewer"]),
    "one fold": (lambda: new().fit_folds(TABLE, 1), rl.ParameterError, ["fit_folds: cv", "at least 2"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_a_new_user_is_told(name: str) -> None:
    call, error, words = CASES[name]
    with pytest.raises(error) as caught:
        call()
    assert isinstance(caught.value, rl.RaylineError)
    text = str(caught.value)
    for word in words:
        assert word in text, text
    assert text.count("\n") >= 1, text  # more than what happened: what was expected, or what to do


def test_a_table_without_rows_may_be_transformed(tmp_path: Path) -> None:
    fitted = new().fit(TABLE)
    assert fitted.transform(TABLE.clear()).height == 0
    assert fitted.transform(TABLE.clear()).columns == fitted.transform(TABLE).columns
    dropped = rl.Preprocessor([("drop", DropColumns(["age"]))]).fit(TABLE)
    assert dropped.transform(TABLE.head(0)).columns == ["city", "late", "y"]

"""`train.fit` in this process: inputs, metrics, history and errors.

Covers `train.fit_inputs`, `train.plots` and `train.result` too.
"""

from __future__ import annotations

import functools
import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

import rayline as rl
from rayline import train
from rayline.core.target import Task
from rayline.stages import OneHotEncoder, OrdinalEncoder, SelectColumns, SimpleImputer, StandardScaler

OTHERS = ["late", "is_late", "size", "delay", "weight"]


def only(table: pl.DataFrame, *targets: str, features: tuple[str, ...] = ("x", "z", "city")) -> pl.DataFrame:
    return table.select(*features, *targets)


def stages() -> train.Preprocessor:
    return train.Preprocessor([("impute", SimpleImputer()), ("scale", StandardScaler()), ("onehot", OneHotEncoder())])


@rl.register_framework
class Mean(rl.Framework):
    """The ten lines of a framework of one's own."""

    name = "mean"

    def train(self, context: Any, *, shrink: float = 1.0, rounds: int = 0, fail: bool = False) -> Any:
        if fail:
            raise ZeroDivisionError("no mean today")
        for i in range(rounds):
            context.checkpoint(i, functools.partial(self.save, {"mean": i}))
            if context.report(i, {"train-loss": 1.0 / (i + 1)}):
                break
        y = context.train.target
        return {"mean": float(np.average(y, weights=context.train.weight)) * shrink}

    def predict(self, model: Any, features: Any) -> Any:
        return np.full(features.n_rows, model["mean"])

    def save(self, model: Any, directory: Path) -> None:
        (directory / "model.json").write_text(json.dumps(model))

    def load(self, directory: Path) -> Any:
        return json.loads((directory / "model.json").read_text())


# -- the result --------------------------------------------------------------------------------------------------------


def test_the_path_in_process(table: pl.DataFrame) -> None:
    data = only(table, "late")
    preprocessor = stages()
    trainer = train.XGBoostTrainer(args=[{"eval_metric": ["logloss", "error"]}], kwargs={"num_boost_round": 12})
    result = train.fit(
        trainer, preprocessor, train_dataset=data[:400], test_dataset=data[400:], target_columns=["late"]
    )
    assert preprocessor.scans == 1
    assert result.history.columns == ["iteration", "train-logloss", "train-error", "test-logloss", "test-error"]
    assert result.history["iteration"].to_list() == list(range(12))
    assert result.metrics["test-logloss"] == result.history["test-logloss"][-1]
    assert result.metrics["test-log_loss"] == pytest.approx(result.metrics["test-logloss"], rel=1e-5)
    assert result.metrics["test-accuracy"] == pytest.approx(1 - result.metrics["test-error"])
    assert result.metric("auc") == result.metrics["test-roc_auc"] > 0.9
    assert trainer.fitted_model is result.fitted_model is result.model.native
    assert result.model.classes == ["no", "yes"]
    assert result.preprocessor == preprocessor
    predicted = result.inference_pipeline.predict(data[400:])
    assert predicted["prediction"].dtype == pl.String
    assert (predicted["prediction"] == data[400:]["late"]).mean() == pytest.approx(result.metrics["test-accuracy"])
    assert preprocessor.chain(trainer.fitted_model).predict(data[400:]).equals(predicted)
    assert result.inference_pipeline.examples.equals(data.drop("late").head(5))
    assert "computed by" in repr(result)
    loss, error = result.plot()  # two scales are two axes
    assert [len(ax.lines) for ax in (loss, error)] == [2, 2]
    assert result.plot("test-error").get_ylabel() == "error"
    assert [line.get_label() for line in result.plot("logloss").lines] == ["test-logloss", "train-logloss"]
    assert result.plot(["test-error", "train-error"], ax=error) is error
    with pytest.raises(rl.ParameterError, match="do not fit on one axis"):
        result.plot(ax=error)
    with pytest.raises(rl.ParameterError, match="did you mean"):
        result.plot("test-eror")


def test_trainer_fit_is_train_fit(table: pl.DataFrame) -> None:
    data = only(table, "late")
    trainer = train.XGBoostTrainer({}, num_boost_round=3)
    one = trainer.fit(stages(), train_dataset=data, target_columns="late")
    two = train.fit(trainer, stages(), data, target_columns=["late"])
    assert one.history.equals(two.history)
    assert one.metrics == two.metrics
    assert set(one.metrics) == {"train-logloss"}


@pytest.mark.parametrize(
    ("target", "task", "dtype"),
    [
        ("late", Task.BINARY, pl.String()),
        ("is_late", Task.BINARY, pl.Boolean()),
        ("delay", Task.REGRESSION, pl.Float64()),
        ("size", Task.REGRESSION, pl.Float64()),
    ],
)
def test_labels_decide_the_task(table: pl.DataFrame, target: str, task: Task, dtype: pl.DataType) -> None:
    data = only(table, target)
    result = train.fit(train.XGBoostTrainer({}, num_boost_round=3), None, data, data, target)
    assert result.model.target.task is task
    assert result.inference_pipeline.predict(data).schema == {"prediction": dtype}


@pytest.mark.parametrize("kind", ["pandas", "arrow", "lazy", "dict", "rows", "polars"])
def test_every_kind_of_table(table: pl.DataFrame, kind: str) -> None:
    data = only(table, "late")[:200]
    make: dict[str, Any] = {
        "pandas": data.to_pandas,
        "arrow": data.to_arrow,
        "lazy": data.lazy,
        "dict": lambda: {name: data[name].to_numpy() for name in data.columns},
        "rows": data.to_dicts,
        "polars": lambda: data,
    }
    trainer = train.XGBoostTrainer({}, num_boost_round=3)
    expected = trainer.fit(stages(), data, data, "late").metrics
    assert trainer.fit(stages(), make[kind](), make[kind](), "late").metrics == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["array", "series", "list", "column", "pandas"])
def test_x_and_y(table: pl.DataFrame, kind: str) -> None:
    data = only(table, "late")
    trainer = train.XGBoostTrainer({}, num_boost_round=3)
    expected = trainer.fit(stages(), data, data, "late")
    X, y = data.drop("late"), data["late"]
    ys: dict[str, Any] = {
        "array": y.to_numpy(), "series": y, "list": y.to_list(), "column": "late", "pandas": y.to_pandas(),
    }  # fmt: skip
    X = data if kind == "column" else X
    result = train.fit(trainer, stages(), X=X, y=ys[kind], X_test=X, y_test=ys[kind])
    assert result.metrics == expected.metrics


def test_x_as_a_matrix_and_weights_as_an_array(table: pl.DataFrame) -> None:
    X = table.select("x", "delay").to_numpy()
    weight = table["weight"].to_numpy()
    trainer = train.Trainer("mean")
    result = trainer.fit(X=X, y=X[:, 1], sample_weight=weight)
    assert result.model.feature_names == ["x0", "x1"]
    assert trainer.fitted_model["mean"] == pytest.approx(np.average(X[:, 1], weights=weight))
    two = train.XGBoostTrainer({}, num_boost_round=2).fit(X=X, y=X)
    assert two.model.target.columns == ("target_0", "target_1")


# -- weights -----------------------------------------------------------------------------------------------------------


def test_weights_are_no_feature_and_are_used(table: pl.DataFrame) -> None:
    data = only(table, "delay", "weight", features=("x", "z"))
    preprocessor = train.Preprocessor([("scale", StandardScaler()), ("keep", SelectColumns(["x"]))])
    trainer = train.Trainer("mean")
    result = trainer.fit(preprocessor, data, data.drop("weight"), "delay", sample_weight="weight")
    assert trainer.fitted_model["mean"] == pytest.approx(np.average(data["delay"], weights=data["weight"]))
    assert result.model.feature_names == ["x"]
    assert preprocessor.input_schema.names() == ["x", "z"]
    weighted = trainer.fit(None, data, data, "delay", sample_weight="weight")
    error = (data["delay"] - trainer.fitted_model["mean"]) ** 2
    assert weighted.metrics["test-rmse"] == pytest.approx(np.average(error, weights=data["weight"]) ** 0.5)
    assert weighted.metrics["test-rmse"] != result.metrics["test-rmse"]


def test_class_weights(table: pl.DataFrame) -> None:
    data = only(table, "late")
    share = (data["late"] == "yes").mean()
    trainer = train.Trainer("mean", class_weight="balanced")
    trainer.fit(stages(), data, target_columns="late")
    assert trainer.fitted_model["mean"] == pytest.approx(0.5)
    trainer = train.Trainer("mean", class_weight={"yes": 3})
    trainer.fit(stages(), data, target_columns="late")
    assert trainer.fitted_model["mean"] == pytest.approx(3 * share / (3 * share + 1 - share))  # type: ignore[operator]
    with pytest.raises(rl.ParameterError, match="maybe"):
        train.Trainer("mean", class_weight={"maybe": 3}).fit(stages(), data, target_columns="late")


# -- preprocessors -----------------------------------------------------------------------------------------------------


def test_a_fitted_preprocessor_is_taken_as_it_is(table: pl.DataFrame) -> None:
    data = only(table, "late")
    fitted = stages().fit(data[:100], target_columns=["late"])
    before = fitted.to_json()
    trainer = train.XGBoostTrainer({}, num_boost_round=3)
    trainer.fit(fitted, data, target_columns="late")
    assert fitted.to_json() == {**before, "target": fitted.target.to_json()}  # type: ignore[union-attr]
    both = stages()
    one = trainer.fit(both, data, target_columns="late").metrics
    assert trainer.fit(both, data, target_columns="late").metrics == one


def test_a_fitted_preprocessor_that_names_the_target_is_refused(table: pl.DataFrame) -> None:
    data = only(table, "delay")
    ate = train.Preprocessor([("scale", StandardScaler(["x", "delay"]))]).fit(data)
    with pytest.raises(rl.SchemaError, match="works on 'delay'"):
        train.Trainer("mean").fit(ate, data, target_columns="delay")


def test_a_fitted_preprocessor_that_passed_the_target_by_forgets_it(table: pl.DataFrame) -> None:
    data = only(table, "late", "weight")
    passed, told = (train.Preprocessor([("scale", StandardScaler(["x"]))]) for _ in range(2))
    passed.fit(data)
    told.fit(data.drop("weight"), target_columns=["late"])
    trainer = train.XGBoostTrainer({}, num_boost_round=3)
    one = trainer.fit(passed, data, target_columns="late", sample_weight="weight")
    two = trainer.fit(told, data, target_columns="late", sample_weight="weight")
    assert passed.input_schema == told.input_schema
    assert one.inference_pipeline.predict(data.drop("late")).equals(two.inference_pipeline.predict(data.drop("late")))


def test_a_refused_fit_leaves_the_preprocessor_alone(table: pl.DataFrame) -> None:
    preprocessor = stages()
    one_class = only(table, "late").filter(late="yes")
    with pytest.raises(rl.DataError, match="one class only"):
        train.XGBoostTrainer({}).fit(preprocessor, one_class, target_columns="late")
    assert not preprocessor.is_fitted


def test_questions_cost_no_second_scan(table: pl.DataFrame) -> None:
    data = only(table, "late", "weight")
    preprocessor = train.Preprocessor(
        [("impute", SimpleImputer()), ("codes", OrdinalEncoder()), ("scale", StandardScaler(["x"]))]
    )
    train.XGBoostTrainer({}, num_boost_round=1).fit(preprocessor, data, target_columns="late", sample_weight="weight")
    assert preprocessor.scans == 1


# -- bad input ---------------------------------------------------------------------------------------------------------

BAD: dict[str, Any] = {
    "empty": (lambda t: t.clear(), rl.DataError, "no rows"),
    "target with nulls": (lambda t: t.with_columns(late=pl.when(pl.col("x") > 1).then(None).otherwise("late")), rl.DataError, "'late' has .* missing values"),
    "one class": (lambda t: t.with_columns(late=pl.lit("no")), rl.DataError, "one class only"),
    "all null": (lambda t: t.with_columns(x=pl.lit(None, pl.Float64)), rl.DataError, "'x' has no values"),
    "all null category": (lambda t: t.with_columns(city=pl.lit(None, pl.String)), rl.DataError, "'city' has no values"),
    "no target": (lambda t: t.drop("late"), rl.SchemaError, "column 'late' is missing"),
    "no features": (lambda t: t.select("late"), rl.SchemaError, "no features"),
    "durations": (lambda t: t.with_columns(d=pl.lit(0).cast(pl.Duration)), rl.SchemaError, r"'d' holds Duration(.|\n)*total_seconds"),
    "times": (lambda t: t.with_columns(d=pl.lit(0).cast(pl.Time)), rl.SchemaError, r"'d' holds Time(.|\n)*hour\(\)"),
    "structs": (lambda t: t.with_columns(d=pl.struct(pl.lit(0))), rl.SchemaError, r"'d' holds Struct(.|\n)*unnest"),
    "bytes": (lambda t: t.with_columns(d=pl.lit(b"a")), rl.SchemaError, r"'d' holds Binary(.|\n)*numbers or strings first"),
    "nested lists": (lambda t: t.with_columns(d=pl.Series([[[0]]] * t.height)), rl.SchemaError, r"'d' holds List(.|\n)*numbers or strings"),
    "lists as labels": (lambda t: t.with_columns(late=pl.concat_list("late")), rl.SchemaError, "'late' holds lists"),
    "dates": (lambda t: t.with_columns(d=pl.lit(0).cast(pl.Date)), rl.SchemaError, "'d' holds Date"),
    "duplicates": (lambda t: pa.table([pa.array([1, 2]), pa.array([1, 2]), pa.array(["a", "b"])], names=["x", "x", "late"]), rl.SchemaError, "'x' more than once"),
}  # fmt: skip


NO_FEATURES = ("dates", "durations", "times", "structs", "bytes", "nested lists", "no features")
"""Further columns are no features of a fitted preprocessor, lacking ones are its own error."""


@pytest.mark.parametrize(
    ("case", "fitted"),
    [(case, fitted) for case in BAD for fitted in (False, True) if not (fitted and case in NO_FEATURES)],
)
def test_bad_training_data(table: pl.DataFrame, case: str, fitted: bool) -> None:
    spoil, error, words = BAD[case]
    data = only(table, "late")
    preprocessor = None
    if fitted:
        preprocessor = train.Preprocessor([("impute", SimpleImputer(["z"]))]).fit(data, target_columns="late")
    with pytest.raises(error, match=words) as caught:
        train.XGBoostTrainer({}).fit(preprocessor, spoil(data), target_columns="late")
    assert "Expected" in str(caught.value) or "Got" in str(caught.value)


@pytest.mark.parametrize("bad", [None, float("inf"), float("nan")])
def test_bad_regression_labels(table: pl.DataFrame, bad: float | None) -> None:
    data = only(table, "delay").with_columns(delay=pl.when(pl.col("x") > 2).then(bad).otherwise("delay"))
    with pytest.raises(rl.DataError, match="the target 'delay' has"):
        train.XGBoostTrainer({}).fit(None, data, target_columns="delay")


@pytest.mark.parametrize(("bad", "words"), [(None, "missing"), (-1.0, "negative"), (float("inf"), "infinite")])
def test_bad_weights(table: pl.DataFrame, bad: float | None, words: str) -> None:
    data = only(table, "delay", "weight").with_columns(weight=pl.when(pl.col("x") > 2).then(bad).otherwise("weight"))
    with pytest.raises(rl.DataError, match=words):
        train.XGBoostTrainer({}).fit(None, data, target_columns="delay", sample_weight="weight")
    with pytest.raises(rl.DataError, match="0 in every row"):
        train.XGBoostTrainer({}).fit(None, data.with_columns(weight=0), target_columns="delay", sample_weight="weight")


def test_bad_test_sets(table: pl.DataFrame) -> None:
    data = only(table, "late")
    trainer = train.XGBoostTrainer({}, num_boost_round=2)

    def fit(test: Any) -> Any:
        return trainer.fit(stages(), data, test, "late")

    with pytest.raises(rl.SchemaError, match="'city', which is missing"):
        fit(data.drop("city"))
    with pytest.raises(rl.SchemaError, match="'late', which is missing"):
        fit(data.drop("late"))
    with pytest.raises(rl.SchemaError, match="'x' has the wrong type"):
        fit(data.with_columns(x=pl.lit("one")))
    with pytest.raises(rl.DataError, match="no rows"):
        fit(data.clear())
    with pytest.raises(rl.DataError, match="labels that training did not see"):
        fit(data.with_columns(late=pl.lit("perhaps")))
    with pytest.raises(rl.DataError, match=r"'late' has [0-9]+ missing values"):
        fit(data.with_columns(late=pl.lit(None, pl.String)))
    mixed = data.select(pl.lit(1).alias("more"), *reversed(data.columns))
    assert fit(mixed).metrics == fit(data).metrics


def test_bad_arguments(table: pl.DataFrame) -> None:
    data = only(table, "late")
    trainer = train.XGBoostTrainer({}, num_boost_round=2)
    with pytest.raises(rl.ParameterError, match="nothing to train on"):
        trainer.fit(stages())
    with pytest.raises(rl.ParameterError, match="X and y go together"):
        trainer.fit(X=data)
    with pytest.raises(rl.DataError, match="600 rows and 'target' has 3"):
        trainer.fit(X=data, y=[1, 2, 3])
    with pytest.raises(rl.ParameterError, match="target_columns"):
        trainer.fit(stages(), data)
    with pytest.raises(rl.ParameterError, match=r"unknown metric 'rocauc'(.|\n)*roc_auc"):
        trainer.fit(stages(), data, target_columns="late", metrics=["rocauc"])
    with pytest.raises(rl.ParameterError, match="'rmse' is not for a binary target"):
        trainer.fit(stages(), data, data, target_columns="late", metrics=["rmse"])
    with pytest.raises(rl.ParameterError, match="callbacks"):
        trainer.fit(stages(), data, target_columns="late", callbacks=[print])
    with pytest.raises(rl.ParameterError, match="a Preprocessor or None"):
        trainer.fit(data, target_columns="late")  # type: ignore[arg-type]
    with pytest.raises(rl.SchemaError, match="is not a table"):
        trainer.fit(None, 3, target_columns="late")  # type: ignore[arg-type]
    with pytest.raises(rl.ResourceError, match=r"no (GPU|CUDA)"):
        train.XGBoostTrainer({}, use_gpu=True).fit(stages(), data, target_columns="late")
    with pytest.raises(rl.ParameterError, match="early_stopping_rounds needs a test set"):
        train.XGBoostTrainer({}, early_stopping_rounds=3).fit(stages(), data, target_columns="late")
    with pytest.raises(rl.SchemaError, match="'city' holds String"):
        train.Trainer("mean").fit(None, data, target_columns="late")


# -- callbacks ---------------------------------------------------------------------------------------------------------


class HeardRun(train.Callback):
    checkpoint_every = 2

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def on_start(self, run: train.Run) -> None:
        self.heard.append("start")

    def on_iteration(self, run: train.Run, iteration: int, metrics: Any) -> bool:
        self.heard.append(iteration)
        return iteration == 4

    def on_checkpoint(self, run: train.Run, iteration: int, directory: Path) -> None:
        self.heard.append(sorted(p.name for p in directory.iterdir()))

    def on_end(self, run: train.Run) -> None:
        self.heard.append("end" if run.result else "failed")


def test_callbacks_hear_and_stop(table: pl.DataFrame) -> None:
    data = only(table, "delay", features=("x",))
    listener = HeardRun()
    given = [listener]
    result = train.Trainer("mean", rounds=10).fit(None, data, target_columns="delay", callbacks=given)
    files = ["model.json"]
    assert listener.heard == ["start", 0, files, 1, 2, files, 3, 4, "end"]
    assert given == [listener]
    assert result.history["iteration"].to_list() == [0, 1, 2, 3, 4]


def test_a_failure_is_told_with_its_cause(table: pl.DataFrame) -> None:
    data = only(table, "delay", features=("x",))
    listener = HeardRun()
    with pytest.raises(rl.TrainingError, match="mean failed: ZeroDivisionError: no mean today") as caught:
        train.Trainer("mean", fail=True).fit(None, data, target_columns="delay", callbacks=[listener])
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert listener.heard == ["start", "failed"]


# -- a framework of one's own ------------------------------------------------------------------------------------------


def test_ten_lines_are_a_framework(table: pl.DataFrame, tmp_path: Path) -> None:
    data = only(table, "delay")
    trainer = train.Trainer("mean", shrink=0.5)
    result = train.fit(trainer, stages(), data[:400], data[400:], "delay")
    expected = data[:400]["delay"].mean() * 0.5  # type: ignore[operator]
    assert result.metrics.keys() == {"test-rmse", "test-mae", "test-r2"}
    assert result.history.is_empty()
    assert result.inference_pipeline.predict(data)["prediction"][0] == expected
    result.inference_pipeline.save(tmp_path / "mean.rayline")
    assert rl.load(tmp_path / "mean.rayline").predict(data[:3].to_dicts()) == [{"prediction": expected}] * 3
    assert pickle.loads(pickle.dumps(trainer)).replace({"shrink": 0.1}).kwargs == {"shrink": 0.1}
    with pytest.raises(rl.ParameterError, match=r"unknown parameter 'schrink'(.|\n)*'shrink'"):
        train.Trainer("mean", schrink=0.5)


def test_progress_is_one_line(table: pl.DataFrame, capfd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAYLINE_QUIET")
    data = only(table, "late")
    trainer = train.XGBoostTrainer({}, num_boost_round=3)
    trainer.fit(stages(), data, data, "late")
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("fit  preprocessor 1 scan ")
    assert " · xgboost 3 iterations " in err
    assert " · test logloss 0." in err
    trainer.fit(stages(), data, data, "late", verbose=False)
    assert capfd.readouterr() == ("", "")


def test_a_framework_without_iterations_has_no_curves(table: pl.DataFrame) -> None:
    from sklearn.linear_model import LinearRegression

    result = train.SklearnTrainer(LinearRegression()).fit(
        None, table.select("x", "delay"), target_columns="delay", verbose=False
    )
    with pytest.raises(rl.ParameterError, match="reports no metrics of its iterations"):
        result.plot()


def test_large_numbers_are_shown_without_exponents(table: pl.DataFrame) -> None:
    data = table.select("x", delay=pl.col("delay") * 123_456.7)
    result = train.XGBoostTrainer({"eval_metric": "rmse"}, num_boost_round=2).fit(
        None, data, data, "delay", verbose=False
    )
    assert "regression of delay from 1 feature, after 2 iterations" in repr(result)
    for text in (repr(result), result._repr_html_()):
        assert not re.search(r"\de\+\d", text)
        assert f"{round(result.metrics['test-rmse'], -int(np.log10(result.metrics['test-rmse'])) + 4):,.0f}" in text

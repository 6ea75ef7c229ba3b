"""XGBoost, with the library called directly as the oracle.

Covers `core.features`, `frameworks.xgboost_matrix`, `frameworks.xgboost_params` and `frameworks.xgboost_predict` too.
"""

from __future__ import annotations

import gc
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import xgboost

import rayline as rl
from rayline import device, train
from rayline.core import memory, registry, row_stream
from rayline.core.features import Features
from rayline.core.framework import Rows, TrainContext
from rayline.core.target import Target, Task
from rayline.frameworks.xgboost_predict import scores

ADAPTER = registry.framework("xgboost")


def numbers(n: int = 500, seed: int = 0) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    a, b, c = random.normal(size=(3, n))
    score = a - b * c + random.normal(size=n) * 0.2
    return pl.DataFrame(
        {"a": a, "b": b, "c": c, "flag": a > 0, "n": (b * 5).astype(int), "score": score, "half": score / 2 + a}
    ).with_columns(
        a=pl.when(pl.col("a") > 1.2).then(None).otherwise("a"),
        two=pl.when(pl.col("score") > 0).then(pl.lit("up")).otherwise(pl.lit("down")),
        three=pl.when(pl.col("score") < -0.7)
        .then(pl.lit("low"))
        .when(pl.col("score") < 0.7)
        .then(pl.lit("mid"))
        .otherwise(pl.lit("top")),
        code=((pl.col("score") >= -0.7) * 10 + (pl.col("score") >= 0.7) * 10).cast(pl.Int64),
    )


FEATURES = ["a", "b", "c", "flag", "n"]


def matrix(table: pl.DataFrame) -> Any:
    return table.select(pl.col(FEATURES).cast(pl.Float32)).to_numpy()


def fit(
    table: pl.DataFrame, *targets: str, params: dict[str, Any] | None = None, test: Any = None, **options: Any
) -> Any:
    fitting = {k: options.pop(k) for k in ("callbacks", "sample_weight", "metrics") if k in options}
    trainer = train.XGBoostTrainer(params or {}, **{"num_boost_round": 8, **options})
    kept = [*FEATURES, *targets, *([fitting["sample_weight"]] if "sample_weight" in fitting else [])]
    return trainer.fit(None, table.select(kept), test, list(targets), **fitting)


# -- the same as the library called directly ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "params", "labels"),
    [
        ("two", {"objective": "binary:logistic"}, lambda t: (t["two"] == "up").to_numpy()),
        ("three", {"objective": "multi:softprob", "num_class": 3}, lambda t: t["code"].to_numpy() / 10),
        ("score", {"objective": "reg:absoluteerror", "max_depth": 3}, lambda t: t["score"].to_numpy()),
        ("score", {"booster": "dart", "rate_drop": 0.5, "seed": 3}, lambda t: t["score"].to_numpy()),
        ("score", {"tree_method": "exact", "subsample": 0.5, "seed": 3}, lambda t: t["score"].to_numpy()),
    ],
)
def test_equals_xgboost_train_bit_for_bit(target: str, params: dict[str, Any], labels: Any) -> None:
    table = numbers()
    plain = xgboost.train({**params, "nthread": 1}, xgboost.DMatrix(matrix(table), label=labels(table)), 8)
    result = fit(table, target, params=params)
    expected = plain.inplace_predict(matrix(table))
    scores = result.model.scores(table.lazy())
    assert scores.dtype == expected.dtype
    assert (scores == expected).all()


@pytest.mark.parametrize("category", [False, True])
def test_a_model_is_that_of_a_matrix_with_names(category: bool, tmp_path: Path) -> None:
    """Matrices are without names during a training; the model, its checkpoints and the matrices have them afterwards."""
    table = numbers().with_columns(word=pl.col("three").cast(pl.Enum(["low", "mid", "top"])))
    names = [*FEATURES, *(["word"] if category else [])]
    columns = table.select(names)
    options: dict[str, Any] = {"nthread": 1, "enable_categorical": True}
    named = xgboost.DMatrix(columns, label=table["score"].to_numpy(), **options)
    plain = xgboost.train({"nthread": 1, "seed": 5}, named, 6)
    target = Target(("score",), Task.REGRESSION, (pl.Float64(),))
    memo: dict[Any, Any] = {}
    rows = Rows([lambda: table.select(*names, "score")], columns.schema, target, None, memo=memo)

    def checkpoint(iteration: int, save: Any) -> None:
        if iteration == 3:
            save(tmp_path)

    ran = ADAPTER.train(TrainContext(rows, rows, target, 5, 1, checkpoint=checkpoint), {}, num_boost_round=6)
    assert ran.feature_names == plain.feature_names == names
    assert ran.feature_types == plain.feature_types
    assert ran.save_raw("json") == plain.save_raw("json")
    loaded = ADAPTER.load(tmp_path)
    assert (loaded.feature_names, loaded.num_boosted_rounds()) == (names, 4)
    (kept,) = (value for value in memo.values() if isinstance(value, xgboost.DMatrix))
    assert (kept.feature_names, kept.feature_types) == (named.feature_names, named.feature_types)
    resumed = TrainContext(rows, None, target, 5, 1, resume=tmp_path)
    assert ADAPTER.train(resumed, {}, num_boost_round=6).save_raw("json") == plain.save_raw("json")
    down = {"monotone_constraints": {"a": -1}}
    assert (
        ADAPTER.train(TrainContext(rows, None, target, 5, 1), down, num_boost_round=6).save_raw()
        == xgboost.train({"nthread": 1, "seed": 5, **down}, named, 6).save_raw()
    )


def test_weights_equal_xgboosts() -> None:
    table = numbers().with_columns(w=pl.int_range(pl.len()) % 3 + 0.5)
    data = xgboost.DMatrix(matrix(table), label=table["score"].to_numpy(), weight=table["w"].to_numpy())
    plain = xgboost.train({"nthread": 1}, data, 8)
    scores = fit(table, "score", sample_weight="w").model.scores(table.lazy())
    assert (scores == plain.inplace_predict(matrix(table))).all()


def test_several_numbers_and_several_labels() -> None:
    table = numbers()
    labels = table.select("score", "half").to_numpy()
    plain = xgboost.train({"nthread": 1}, xgboost.DMatrix(matrix(table), label=labels), 8)
    result = fit(table, "score", "half")
    assert (result.model.scores(table.lazy()) == plain.inplace_predict(matrix(table))).all()
    assert result.inference_pipeline.predict(table).columns == ["prediction_score", "prediction_half"]
    table = table.with_columns(positive=pl.col("half") > 0)
    result = fit(table, "two", "positive", test=table)
    assert result.model.target.task is Task.BINARY
    assert result.inference_pipeline.predict(table).schema == {
        "prediction_two": pl.String,
        "prediction_positive": pl.Boolean,
    }
    assert result.metrics["test-roc_auc"] > 0.9


@pytest.mark.parametrize(("target", "dtype"), [("three", pl.String), ("code", pl.Int64), ("flag2", pl.Boolean)])
def test_labels_keep_their_type(target: str, dtype: Any) -> None:
    table = numbers().with_columns(flag2=pl.col("score") > 0)
    objective = {"objective": "multi:softprob"} if target == "code" else {}
    result = fit(table, target, params=objective, test=table)
    predicted = result.inference_pipeline.predict(table)["prediction"]
    assert predicted.dtype == dtype
    assert (predicted == table[target]).mean() == pytest.approx(result.metrics["test-accuracy"])
    assert result.metrics["test-accuracy"] > 0.8


def test_softmax_answers_with_classes() -> None:
    table = numbers()
    result = fit(table, "three", params={"objective": "multi:softmax"}, test=table)
    same = fit(table, "three")
    assert result.inference_pipeline.predict(table).equals(same.inference_pipeline.predict(table))
    assert "test-log_loss" not in result.metrics
    with pytest.raises(rl.ParameterError, match="no probabilities"):
        result.inference_pipeline.predict_proba(table)


# -- iterations --------------------------------------------------------------------------------------------------------


def test_early_stopping_stops_predictions_too(tmp_path: Path) -> None:
    table, test = numbers(200), numbers(200, seed=1)
    result = fit(table, "two", params={"eta": 1.0}, test=test, num_boost_round=200, early_stopping_rounds=5)
    booster = result.fitted_model
    best = booster.best_iteration
    assert result.history.height == best + 6 == booster.num_boosted_rounds()
    assert result.metrics["test-logloss"] == min(result.history["test-logloss"])
    expected = booster[: best + 1].inplace_predict(matrix(test))
    assert (result.model.scores(test.lazy()) == expected).all()
    assert (result.model.scores(test.lazy()) != booster.inplace_predict(matrix(test))).any()
    result.inference_pipeline.save(tmp_path / "m.rayline")
    assert (rl.load(tmp_path / "m.rayline").scores(test.lazy()) == expected).all()


def test_our_early_stopping_ends_the_training() -> None:
    table, test = numbers(200), numbers(200, seed=1)
    stop = train.EarlyStopping("logloss", patience=3)
    result = fit(table, "two", params={"eta": 1.0}, test=test, num_boost_round=200, callbacks=[stop])
    assert result.history.height == stop.best_iteration + 4 < 200  # type: ignore[operator]
    assert stop.best == min(result.history["test-logloss"])


def test_callbacks_of_xgboost_pass_through() -> None:
    class Count(xgboost.callback.TrainingCallback):
        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            seen.append(epoch)
            return epoch == 2

    seen: list[int] = []
    given = [Count()]
    result = fit(numbers(), "two", callbacks=given)
    assert len(seen) == result.history.height == 3
    assert len(given) == 1


def test_training_goes_on_from_a_model() -> None:
    table = numbers()
    first = fit(table, "score", num_boost_round=5)
    more = fit(table, "score", num_boost_round=3, xgb_model=first.fitted_model)
    assert more.history["iteration"].to_list() == [5, 6, 7]
    assert (more.model.scores(table.lazy()) == fit(table, "score").model.scores(table.lazy())).all()
    assert first.fitted_model.num_boosted_rounds() == 5


def test_resume_takes_the_rest_of_the_rounds(tmp_path: Path) -> None:
    table = numbers()
    target = Target(("score",), Task.REGRESSION, (pl.Float64(),))
    rows = Rows.of(table, table.select(FEATURES).schema, target)
    ADAPTER.save(ADAPTER.train(TrainContext(rows, None, target), {}, 3), tmp_path)
    resumed = ADAPTER.train(TrainContext(rows, None, target, resume=tmp_path), {}, 8)
    whole = ADAPTER.train(TrainContext(rows, None, target), {}, 8)
    assert (resumed.inplace_predict(matrix(table)) == whole.inplace_predict(matrix(table))).all()


def test_the_same_seed_gives_the_same_bytes() -> None:
    params = {"subsample": 0.5, "colsample_bytree": 0.5}
    one, two, other = (
        bytes(fit(numbers(), "two", params=params, seed=seed).fitted_model.save_raw("ubj")) for seed in (7, 7, 8)
    )
    assert one == two != other


# -- features ----------------------------------------------------------------------------------------------------------


def test_strings_are_native_categories(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    kind = random.choice(["d", "a", "c", "b"], 400)
    table = pl.DataFrame({"kind": kind, "x": random.normal(size=400), "y": np.isin(kind, ["a", "d"]) + 0.0})
    result = train.XGBoostTrainer({"max_cat_to_onehot": 1, "max_depth": 1}, num_boost_round=20).fit(
        None, table, None, "y"
    )
    assert result.model.schema["kind"] == pl.Enum(["a", "b", "c", "d"])
    assert result.fitted_model.feature_types == ["c", "float"]
    predicted = result.inference_pipeline.predict(table)["prediction"]
    assert (predicted - table["y"]).abs().max() < 0.01
    rows = table.drop("y").to_dicts()
    assert [r["prediction"] for r in result.inference_pipeline.predict(rows[:4])] == predicted[:4].to_list()
    unknown = result.inference_pipeline.predict([{"kind": "new", "x": 0.0}, {"kind": None, "x": 0.0}])
    assert unknown[0] == unknown[1]
    result.inference_pipeline.save(tmp_path / "c.rayline")
    assert rl.load(tmp_path / "c.rayline").predict(table)["prediction"].equals(predicted)


@pytest.mark.parametrize("n", [1, 7, 500, 5000])
def test_rows_blocks_and_matrices_give_the_same_bits(n: int) -> None:
    table = numbers(5000)
    booster = fit(table, "two").fitted_model
    schema = table.select(FEATURES).schema
    part = table.select(FEATURES).head(n)
    expected = booster.predict(xgboost.DMatrix(matrix(part)), validate_features=False)
    assert (ADAPTER.predict(booster, Features(part, schema=schema)) == expected).all()
    ones = [ADAPTER.predict(booster, Features(row=row, schema=schema))[0] for row in part.head(20).to_dicts()]
    assert (np.array(ones) == expected[:20]).all()


def test_blocks_are_streamed_into_the_same_model() -> None:
    table = numbers(3000).with_columns(
        kind=pl.col("three").cast(pl.Enum(["low", "mid", "top"])), w=pl.col("flag") + 1.0
    )
    schema = table.select(*FEATURES, "kind").schema
    target = Target(("score",), Task.REGRESSION, (pl.Float64(),))
    blocks = [lambda i=i: table[i * 700 : (i + 1) * 700] for i in range(5)]
    one = ADAPTER.train(TrainContext(Rows([lambda: table], schema, target, "w"), None, target), {})
    many = ADAPTER.train(TrainContext(Rows(blocks, schema, target, "w"), None, target), {})
    features = Features(table.select(list(schema)), schema=schema)
    assert np.abs(ADAPTER.predict(one, features) - ADAPTER.predict(many, features)).max() < 0.2
    assert many.feature_types == one.feature_types


@pytest.mark.parametrize("test_rows", [400, 0])
def test_bins_on_disk_and_bins_of_test_rows_give_the_same_trees(
    test_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = numbers(2000).select(*FEATURES, "score")
    tests = [table[:test_rows], table[test_rows:700]]
    plain = together([table[:900], table[900:]], tests)
    monkeypatch.setattr(row_stream, "HELD_BYTES", 0)
    binned = together([table[:900], table[900:]], tests)
    assert [round(row["test-rmse"], 5) for row in binned[-1]] == [round(row["test-rmse"], 5) for row in plain[-1]]
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    external = together([table[:900], table[900:]], tests)
    assert external[0].save_raw("ubj") == external[1].save_raw("ubj")
    assert [round(row["test-rmse"], 4) for row in external[-1]] == [round(row["test-rmse"], 4) for row in plain[-1]]
    assert binned[0].get_dump() == plain[0].get_dump() == external[0].get_dump()


@pytest.mark.parametrize(
    ("target", "params"),
    [
        ("score", {"subsample": 0.7, "colsample_bynode": 0.5, "objective": "reg:absoluteerror", "max_bin": 30}),
        ("kind", {"monotone_constraints": {"a": 1}, "grow_policy": "lossguide", "max_leaves": 9}),
    ],
)
def test_large_rows_in_this_process_become_bins_with_the_same_trees(
    monkeypatch: pytest.MonkeyPatch, target: str, params: dict[str, Any]
) -> None:
    random = np.random.default_rng(0)
    table = numbers(3000).with_columns(
        pl.when(pl.Series(random.random(3000) < 0.9)).then(pl.col("b")).alias("b"),
        color=pl.Series(random.choice(["red", "green", "blue"], 3000), dtype=pl.Enum(["red", "green", "blue"])),
        kind=pl.Series(random.choice(["x", "y", "z"], 3000)),
        w=pl.Series(random.uniform(0.5, 2.0, 3000)),
    )
    columns = [*FEATURES, "color", "w", target]
    made, kinds = [], []
    original = xgboost.QuantileDMatrix.__init__
    monkeypatch.setattr(xgboost.QuantileDMatrix, "__init__", lambda *a, **k: (kinds.append(1), original(*a, **k))[1])
    for held in (row_stream.HELD_BYTES, 0):
        monkeypatch.setattr(row_stream, "HELD_BYTES", held)
        trainer = train.XGBoostTrainer(params, num_boost_round=6, seed=1)
        result = trainer.fit(
            None, table[:2500].select(columns), table[2500:].select(columns), target, sample_weight="w"
        )
        made.append((result.fitted_model.save_raw("ubj"), result.history.to_dicts()))
        assert len(kinds) == (0 if held else 2)  # the training rows and the test rows
    assert made[0] == made[1]
    monkeypatch.setattr(row_stream, "HELD_BYTES", 0)
    exact = train.XGBoostTrainer({"updater": "grow_colmaker"}, num_boost_round=2)  # it has no bins
    exact.fit(None, table.select(*FEATURES, target), None, target)
    assert len(kinds) == 2


def test_a_continued_training_evaluates_the_values_of_large_test_rows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    table = numbers(600).select(*FEATURES, "score")
    first, _, _ = together([table[:300], table[300:]])
    first.save_model(tmp_path / "first.ubj")
    monkeypatch.setattr(row_stream, "HELD_BYTES", 0)
    shards, tests = [table[:200], table[200:400]], [table[400:500], table[500:]]
    made, _, history = together(shards, tests, xgb_model=str(tmp_path / "first.ubj"))
    error = np.sqrt(np.mean((made.inplace_predict(matrix(table[400:])) - table[400:]["score"].to_numpy()) ** 2))
    assert history[-1]["test-rmse"] == pytest.approx(error, rel=1e-5)


def test_memory_is_that_of_rows_and_of_values_where_bins_do_not_do() -> None:
    assert ADAPTER.memory_bytes(1000, 50, 1) == 28_000
    assert ADAPTER.memory_bytes(1000, 50, 3, {"objective": "multi:softprob"}) == 52_000
    assert ADAPTER.memory_bytes(1000, 50, 1, {"tree_method": "exact"}) == 28_000 + 8 * 50_000
    assert ADAPTER.remembered_bytes(10**6, 50, {"max_bin": 1000}) == 4 * 50 * 10**6
    assert ADAPTER.remembered_bytes(1000, 50) == 10 * 50_000


def test_vectors_and_sparse_vectors() -> None:
    table = numbers(200)
    vectors = table.select(pl.concat_arr("b", "c").alias("v"), "a", "score")
    result = train.XGBoostTrainer({}, num_boost_round=8).fit(None, vectors, None, "score")
    plain = train.XGBoostTrainer({}, num_boost_round=8).fit(None, table.select("b", "c", "a", "score"), None, "score")
    assert (result.model.scores(vectors.lazy()) == plain.model.scores(table.lazy())).all()


def test_odd_names_are_allowed() -> None:
    table = numbers().select(pl.col("a").alias("a[1]<2"), "b", "score")
    result = train.XGBoostTrainer({}, num_boost_round=2).fit(None, table, None, "score")
    assert ADAPTER.inspect(result.fitted_model).feature_names == ["a[1]<2", "b"]
    assert (
        result.preprocessor.chain(result.fitted_model).predict(table).equals(result.inference_pipeline.predict(table))
    )
    assert set(result.model.importance()) == {"a[1]<2", "b"}  # type: ignore[arg-type]


def test_monotone_constraints_by_name() -> None:
    table = numbers()
    result = fit(table, "score", params={"monotone_constraints": {"a": 1}})
    line = pl.DataFrame({"a": np.linspace(-2, 2, 50), "b": 0.0, "c": 0.0, "flag": True, "n": 0})
    assert (np.diff(result.model.scores(line.lazy())) >= 0).all()
    with pytest.raises(rl.ParameterError, match="monotone_constraints"):
        fit(table, "score", params={"monotone_constraints": {"aa": 1}})


def test_custom_objective_and_metric() -> None:
    def squared(predicted: Any, data: Any) -> Any:
        return predicted - data.get_label(), np.ones_like(predicted)

    def bias(predicted: Any, data: Any) -> Any:
        return "bias", float(np.mean(predicted - data.get_label()))

    table = numbers()
    result = fit(table, "score", obj=squared, custom_metric=bias)
    assert result.history.columns == ["iteration", "train-rmse", "train-bias"]
    assert abs(result.history["train-bias"][-1]) < 0.2


# -- parameters --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"max_dept": 3}, "unknown parameter 'max_dept'(.|\n)*did you mean \\['max_depth'\\]"),
        ({"objective": "binary:logistics"}, "Unknown objective function: `binary:logistics`"),
        ({"max_depth": -1}, "value -1 for Parameter max_depth"),
        ({"eval_metric": "nonsense"}, "Unknown metric function nonsense"),
        ([("max_depth", 3)], "params has a wrong value"),
    ],
)
def test_wrong_parameters_are_refused_by_the_constructor(params: Any, words: str) -> None:
    with pytest.raises(rl.ParameterError, match=words):
        train.XGBoostTrainer(params)


def test_names_that_another_booster_uses_are_known() -> None:
    train.XGBoostTrainer({"booster": "gblinear", "max_depth": 3})
    train.XGBoostTrainer({"learning_rate": 0.1, "reg_alpha": 1, "random_state": 3, "n_jobs": 1, "device": "cuda"})
    with pytest.raises(rl.ParameterError, match="unknown parameter 'evals'"):
        train.XGBoostTrainer({}, evals=[])  # type: ignore[call-arg]


def test_nothing_of_the_callers_is_changed() -> None:
    params: dict[str, Any] = {"max_depth": 3, "monotone_constraints": {"a": 1}}
    kwargs = {"num_boost_round": 2, "callbacks": []}
    args = [params]
    trainer = train.XGBoostTrainer(args=args, kwargs=kwargs)
    trainer.fit(None, numbers().select(*FEATURES, "three"), None, "three", callbacks=[])
    assert trainer.replace({"eta": 0.1, "num_boost_round": 4}).args[0]["eta"] == 0.1
    assert args == [{"max_depth": 3, "monotone_constraints": {"a": 1}}]
    assert kwargs == {"num_boost_round": 2, "callbacks": []}


# -- bare models and files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "task", "classes"),
    [("two", Task.BINARY, 2), ("three", Task.MULTICLASS, 3), ("score", Task.REGRESSION, 2)],
)
def test_a_bare_booster_says_what_it_is(target: str, task: Task, classes: int) -> None:
    booster = fit(numbers(), target).fitted_model
    about = ADAPTER.inspect(booster)
    assert (about.task, about.n_classes, about.n_targets) == (task, classes, 1)
    assert list(about.feature_names) == FEATURES
    assert ADAPTER.owns(booster)
    assert not ADAPTER.owns("a booster")


def test_a_broken_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(rl.ArtifactError, match="incomplete"):
        ADAPTER.load(tmp_path)
    for content in (b"", b"{", b"not a model", json.dumps({"learner": 1}).encode()):
        (tmp_path / "model.ubj").write_bytes(content)
        with pytest.raises(rl.ArtifactError):
            ADAPTER.load(tmp_path)


# -- several workers ---------------------------------------------------------------------------------------------------


def together(
    shards: list[pl.DataFrame], tests: list[pl.DataFrame] | None = None, *, stop_at: int = 99, **options: Any
) -> list[Any]:
    """Train on several ranks, each a thread of this process; the models and what rank 0 reported."""
    target = Target(("score",), Task.REGRESSION, (pl.Float64(),))
    schema = shards[0].drop("score").schema
    history: list[dict[str, float]] = []

    def work(rank: int, rendezvous: Any) -> Any:
        def report(iteration: int, metrics: Any) -> bool:
            if rank == 0:
                history.append(dict(metrics))
            return rank == 0 and iteration == stop_at

        blocks = [shards[rank]] if rank == 0 else [shards[rank][::2], shards[rank][1::2]]
        rows = [Rows([lambda b=b: b for b in blocks], schema, target, None)]  # type: ignore[misc]
        rows += [Rows.of(s, schema, target) for s in (tests[rank : rank + 1] if tests else [])]
        context = TrainContext(
            rows[0],
            rows[1] if tests else None,
            target,
            rank=rank,
            world_size=len(shards),
            rendezvous=rendezvous,
            report=report,
        )
        return ADAPTER.train(context, {"max_bin": 64}, **options)

    with ADAPTER.coordinate(len(shards), "127.0.0.1") as rendezvous, ThreadPoolExecutor(len(shards)) as pool:
        models = list(pool.map(work, range(len(shards)), [rendezvous] * len(shards)))
    return [*models, history]


def test_ranks_end_with_one_model() -> None:
    table = numbers(2000).select(*FEATURES, "score")
    first, second, history = together([table[:900], table[900:]], [table[:10], table[10:400]])
    assert first.save_raw("ubj") == second.save_raw("ubj")
    one, _ = together([table], [table[:400]])
    scores, alone = first.inplace_predict(matrix(table)), one.inplace_predict(matrix(table))
    assert np.corrcoef(scores, alone)[0, 1] > 0.95
    error = np.sqrt(np.mean((first.inplace_predict(matrix(table[:400])) - table[:400]["score"].to_numpy()) ** 2))
    assert history[-1]["test-rmse"] == pytest.approx(error, rel=1e-5)


def test_a_rank_without_rows_takes_part() -> None:
    table = numbers().select(*FEATURES, "score", kind=pl.col("three").cast(pl.Enum(["low", "mid", "top"])))
    first, second, _ = together([table.clear(), table], [table, table.clear()])
    assert first.save_raw("ubj") == second.save_raw("ubj")
    one, _ = together([table])
    features = Features(table.drop("score"), schema=table.drop("score").schema)
    assert np.corrcoef(ADAPTER.predict(first, features), ADAPTER.predict(one, features))[0, 1] > 0.99


def test_all_ranks_stop_when_one_is_told_to() -> None:
    table = numbers(300).select(*FEATURES, "score")
    first, second, history = together([table[:100], table[100:]], stop_at=2, num_boost_round=50)
    assert first.num_boosted_rounds() == second.num_boosted_rounds() == len(history) == 3


def test_a_gpu_is_the_trainers_wish_unless_the_parameters_say_otherwise() -> None:
    table = numbers()
    rows = Rows.of(table, table.select(FEATURES).schema, Target(("score",), Task.REGRESSION, (pl.Float64(),)))
    context = TrainContext(rows, None, Target(("score",), Task.REGRESSION, (pl.Float64(),)))
    assert "device" not in ADAPTER._params(context, {})
    context.use_gpu = True
    with device.pretend("cuda:0"):
        assert ADAPTER._params(context, {})["device"] == "cuda:0"
        assert ADAPTER._params(context, {"device": "cuda:1"})["device"] == "cuda:1"


@pytest.mark.ray
def test_what_is_its_own_works_on_workers(ray_session: Any, tmp_path: Path) -> None:
    """Blocks streamed into bins, categories, constraints, an objective and a metric of one's own, more of a model."""
    seen = str(tmp_path)

    def squared(predicted: Any, matrix: Any) -> Any:
        # On a worker: which kind of matrix, with how many of the rows, and what its features are.
        import xgboost

        collective = xgboost.collective
        about = [type(matrix).__name__, matrix.num_row(), matrix.feature_types]
        Path(seen, f"rank-{collective.get_rank()}-of-{collective.get_world_size()}.json").write_text(json.dumps(about))
        return predicted - matrix.get_label(), np.ones_like(predicted)

    def bias(predicted: Any, matrix: Any) -> Any:
        return "bias", float(np.mean(predicted - matrix.get_label()))

    table = numbers(900).select(*FEATURES, "score", "three")
    dataset = rl.data.from_polars(list(table.iter_slices(150)))
    params = {"monotone_constraints": {"a": 1}, "max_bin": 64}
    trainer = train.XGBoostTrainer(params, num_boost_round=4, num_workers=2, obj=squared, custom_metric=bias)
    first = trainer.fit(None, dataset, dataset, "score", verbose=False)
    found = {path.name: json.loads(path.read_text()) for path in tmp_path.iterdir()}
    assert sorted(found) == ["rank-0-of-2.json", "rank-1-of-2.json"]
    assert {kind for kind, _, _ in found.values()} == {"QuantileDMatrix"}
    assert [rows for _, rows, _ in found.values()] == [450, 450]
    assert first.fitted_model.feature_types == ["float", "float", "float", "i", "int", "c"]
    assert first.history.columns[1:] == ["train-rmse", "train-bias", "test-rmse", "test-bias"]
    line = pl.DataFrame({"a": np.linspace(-2, 2, 50), "b": 0.0, "c": 0.0, "flag": True, "n": 0, "three": "mid"})
    assert (np.diff(first.inference_pipeline.predict(line)["prediction"].to_numpy()) >= 0).all()

    more = train.XGBoostTrainer(
        params, num_boost_round=3, num_workers=2, obj=squared, xgb_model=first.fitted_model
    ).fit(None, dataset, dataset, "score", verbose=False)
    assert more.history["iteration"].to_list() == [4, 5, 6]
    assert more.fitted_model.num_boosted_rounds() == 7
    assert first.fitted_model.num_boosted_rounds() == 4
    assert more.metrics["test-rmse"] < first.metrics["test-rmse"]
    earlier = more.fitted_model[:4].inplace_predict(matrix_of(more, table))
    assert np.allclose(earlier, first.fitted_model.inplace_predict(matrix_of(first, table)))


def matrix_of(result: Any, table: pl.DataFrame) -> Any:
    """The rows as the model takes them."""
    schema = result.model.schema
    enums = [pl.col(name).cast(dtype) for name, dtype in schema.items() if isinstance(dtype, pl.Enum)]
    return Features(table.select(list(schema)).with_columns(enums), schema=schema).table


@pytest.mark.parametrize("objective", ["binary:logistic", "multi:softprob", "multi:softmax", "reg:squarederror"])
@pytest.mark.parametrize("until", [0, 3])
def test_scores_are_those_of_inplace_predict(objective: str, until: int) -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(500, 6)).astype(np.float32)
    rows[random.random(rows.shape) < 0.1] = np.nan
    labels = random.integers(0, 3, 500) if "multi" in objective else (rows[:, 0] > 0).astype(int)
    more = {"num_class": 3} if "multi" in objective else {}
    model = xgboost.train({"objective": objective, "nthread": 1, **more}, xgboost.DMatrix(rows, labels), 8)
    for part in (rows, rows[:1], rows[::2], np.asfortranarray(rows)):
        ours = scores(model, part, until, linear=False)
        theirs = model.inplace_predict(part, iteration_range=(0, until), validate_features=False)
        assert (ours.dtype, ours.shape, ours.tobytes()) == (theirs.dtype, theirs.shape, theirs.tobytes())
        assert ours.flags.writeable


def test_asking_for_one_row_leaves_nothing_to_clear_away() -> None:
    """A cycle a call is what a server stops for again and again."""
    rows = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    model = xgboost.train({"nthread": 1}, xgboost.DMatrix(rows, rows[:, 0]), 2)
    scores(model, rows[:1], 0, linear=False)
    gc.collect()
    for _ in range(100):
        scores(model, rows[:1], 0, linear=False)
    assert gc.collect() < 50

"""LightGBM, with the library called directly as the oracle.

Covers `frameworks.lightgbm_dataset` and `frameworks.lightgbm_params` too.
"""

from __future__ import annotations

import socket
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import polars as pl
import pytest

import rayline as rl
from rayline import train
from rayline.core import registry, row_stream
from rayline.core.features import Features
from rayline.core.framework import Rows, TrainContext
from rayline.core.target import Target, Task

FEATURES = ["a", "b", "flag"]
QUIET = {"verbosity": -1, "num_threads": 1}


def numbers(n: int = 600, seed: int = 0) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    a, b = random.normal(size=(2, n))
    score = a - b * b + random.normal(size=n) * 0.2
    return pl.DataFrame({"a": a, "b": b, "flag": a > 0, "score": score}).with_columns(
        a=pl.when(pl.col("a") > 1.2).then(None).otherwise("a"),
        two=pl.when(pl.col("score") > 0).then(pl.lit("up")).otherwise(pl.lit("down")),
        three=pl.when(pl.col("score") < -1)
        .then(pl.lit("low"))
        .when(pl.col("score") < 0.3)
        .then(pl.lit("mid"))
        .otherwise(pl.lit("top")),
    )


def matrix(table: pl.DataFrame) -> Any:
    return table.select(pl.col(FEATURES).cast(pl.Float64)).to_numpy()


def fit(
    table: pl.DataFrame,
    target: str,
    *,
    params: dict[str, Any] | None = None,
    test: Any = None,
    callbacks: Any = (),
    **options: Any,
) -> Any:
    trainer = train.LightGBMTrainer(params or {}, **{"num_boost_round": 10, **options})
    return trainer.fit(None, table.select(*FEATURES, target), test, target, callbacks=callbacks)


@pytest.mark.parametrize(
    ("target", "params", "labels"),
    [
        ("two", {"objective": "binary"}, lambda t: (t["two"] == "up").to_numpy()),
        ("three", {"objective": "multiclass", "num_class": 3}, lambda t: t["three"].cast(pl.Enum(["low", "mid", "top"])).to_physical().to_numpy()),
        ("score", {"objective": "l1", "bagging_fraction": 0.5, "bagging_freq": 1, "seed": 3}, lambda t: t["score"].to_numpy()),
    ],
)  # fmt: skip
def test_equals_lightgbm_train_bit_for_bit(target: str, params: dict[str, Any], labels: Any) -> None:
    table = numbers()
    data = lightgbm.Dataset(matrix(table), labels(table).astype(float))
    plain = lightgbm.train({**params, **QUIET}, data, 10)
    result = fit(table, target, params=params)
    assert (result.model.scores(table.lazy()) == plain.predict(matrix(table))).all()


def test_early_stopping_stops_predictions_too(tmp_path: Path) -> None:
    table, test = numbers(200), numbers(200, seed=1)
    params = {"learning_rate": 0.8, "early_stopping_round": 5}
    result = fit(table, "two", params=params, test=test, num_boost_round=200)
    best = result.fitted_model.best_iteration
    assert result.history.height == best + 5 < 200
    assert result.metrics["test-binary_logloss"] == min(result.history["test-binary_logloss"])
    assert result.metric("logloss") == pytest.approx(result.metrics["test-log_loss"])
    expected = result.fitted_model.predict(matrix(test), num_iteration=best)
    assert (result.model.scores(test.lazy()) == expected).all()
    result.inference_pipeline.save(tmp_path / "m.rayline")
    assert (rl.load(tmp_path / "m.rayline").scores(test.lazy()) == expected).all()
    with pytest.raises(rl.ParameterError, match="early_stopping_round needs a test set"):
        fit(table, "two", params=params)


def test_callbacks_of_lightgbm_pass_through() -> None:
    kept: dict[str, Any] = {}
    given = [lightgbm.record_evaluation(kept)]
    result = fit(numbers(), "two", callbacks=given)
    assert kept["train"]["binary_logloss"] == result.history["train-binary_logloss"].to_list()
    assert len(given) == 1


def test_training_goes_on_from_a_model() -> None:
    table = numbers()
    first = fit(table, "score", num_boost_round=6)
    more = fit(table, "score", num_boost_round=4, init_model=first.fitted_model)
    assert more.history["iteration"].to_list() == [6, 7, 8, 9]
    assert more.fitted_model.current_iteration() == 10


@pytest.mark.parametrize("n", [1, 7, 5000])
def test_columns_and_matrices_give_the_same_bits(n: int) -> None:
    table = numbers(5000)
    booster = fit(table, "two").fitted_model
    part = table.select(FEATURES).head(n)
    found = registry.framework("lightgbm").predict(booster, Features(part, schema=part.schema))
    assert (found == booster.predict(matrix(part))).all()


def test_strings_are_native_categories() -> None:
    random = np.random.default_rng(0)
    kind = random.choice(["d", "a", "c", "b"], 400)
    table = pl.DataFrame({"kind": kind, "x": random.normal(size=400), "y": np.isin(kind, ["a", "d"]) + 0.0})
    params = {
        "max_cat_to_onehot": 1,
        "num_leaves": 2,
        "min_data_per_group": 1,
        "cat_smooth": 1,
        "cat_l2": 0,
        "learning_rate": 0.5,
    }
    result = train.LightGBMTrainer(params, num_boost_round=20).fit(None, table, None, "y")
    predicted = result.inference_pipeline.predict(table)["prediction"]
    assert (predicted - table["y"]).abs().max() < 0.01
    unknown = result.inference_pipeline.predict([{"kind": "new", "x": 0.0}, {"kind": None, "x": 0.0}])
    assert unknown[0] == unknown[1]


def test_odd_names_are_allowed() -> None:
    table = numbers().select(pl.col("a").alias('a [1],"2": {ł}'), "b", "score")
    result = train.LightGBMTrainer({}, num_boost_round=2).fit(None, table, None, "score")
    adapter = registry.framework("lightgbm")
    assert adapter.inspect(result.fitted_model).feature_names == ['a [1],"2": {ł}', "b"]
    assert (
        result.preprocessor.chain(result.fitted_model).predict(table).equals(result.inference_pipeline.predict(table))
    )


def test_monotone_constraints_by_name() -> None:
    result = fit(numbers(), "score", params={"monotone_constraints": {"a": 1}})
    line = pl.DataFrame({"a": np.linspace(-2, 2, 50), "b": 0.0, "flag": True})
    assert (np.diff(result.model.scores(line.lazy())) >= 0).all()


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"num_leavs": 3}, r"unknown parameter 'num_leavs'(.|\n)*num_leaves"),
        ({"objective": "binry"}, "Unknown objective type name: binry"),
        ({"num_leaves": -1}, "num_leaves"),
        ([("num_leaves", 3)], "params has a wrong value"),
    ],
)
def test_wrong_parameters_are_refused_by_the_constructor(params: Any, words: str) -> None:
    with pytest.raises(rl.ParameterError, match=words):
        train.LightGBMTrainer(params)


def test_several_targets_are_refused() -> None:
    with pytest.raises(rl.DataError, match="several targets"):
        train.LightGBMTrainer({}).fit(None, numbers(), None, ["score", "b"])


@pytest.mark.parametrize(
    ("target", "task", "classes"),
    [("two", Task.BINARY, 2), ("three", Task.MULTICLASS, 3), ("score", Task.REGRESSION, 2)],
)
def test_a_bare_booster_says_what_it_is(target: str, task: Task, classes: int) -> None:
    about = registry.framework("lightgbm").inspect(fit(numbers(), target).fitted_model)
    assert (about.task, about.n_classes, list(about.feature_names)) == (task, classes, FEATURES)


def test_damaged_files_are_errors_and_no_crashes(tmp_path: Path) -> None:
    adapter = registry.framework("lightgbm")
    adapter.save(fit(numbers(), "score").fitted_model, tmp_path)
    file = tmp_path / "model.txt"
    whole = file.read_text()
    assert "num_threads" not in whole
    adapter.load(tmp_path)
    end = whole.index("end of trees")
    child = whole.index("left_child=") + len("left_child=")
    for text in ("", "tree\n", *(whole[: end * i // 40] for i in range(40)), whole[:child] + "99" + whole[child + 1 :]):
        file.write_text(text)
        with pytest.raises(rl.ArtifactError, match=r"damaged|cannot be read"):
            adapter.load(tmp_path)


# -- several workers ---------------------------------------------------------------------------------------------------


def work(rank: int, worker_addresses: list[str], shard: pl.DataFrame, folder: Path) -> dict[str, bytes]:
    target = Target(("score",), Task.REGRESSION, (pl.Float64(),))
    rows = Rows.of(shard, shard.drop("score").schema, target)
    adapter = registry.framework("lightgbm")
    context = TrainContext(
        rows, rows, target, rank=rank, world_size=len(worker_addresses), worker_addresses=worker_addresses
    )
    (folder / str(rank)).mkdir()
    adapter.save(adapter.train(context, {"min_data_in_leaf": 5}, 10), folder / str(rank))
    return {"model": (folder / str(rank) / "model.txt").read_bytes()}


@pytest.mark.parametrize("seed", [1, 77, None])
@pytest.mark.parametrize("n_blocks", [1, 4])
def test_rows_in_blocks_give_the_same_trees_and_are_never_held(
    n_blocks: int, seed: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = 30_000
    random = np.random.default_rng(0)
    table = (
        pl.DataFrame({name: random.normal(size=n) for name in "abc"})
        .with_columns(
            b=pl.when(pl.col("b") > 0).then(0.0).otherwise(pl.col("b")),
            kind=pl.Series(random.integers(0, 3, n)).cast(pl.String).cast(pl.Enum(["0", "1", "2"])),
            w=pl.Series(random.uniform(0.5, 2, n)),
        )
        .with_columns(score=pl.col("a") * 2 + pl.col("b") + pl.col("kind").to_physical())
    )
    schema = table.select("a", "b", "c", "kind").schema
    target = Target(("score",), Task.REGRESSION, (pl.Float64(),))
    size = -(-n // n_blocks)
    rows = lambda: Rows([lambda i=i: table[i * size : (i + 1) * size] for i in range(n_blocks)], schema, target, "w")  # type: ignore[misc]  # noqa: E731
    told: list[dict[str, float]] = []
    adapter = registry.framework("lightgbm")

    def trained() -> str:
        context = TrainContext(rows(), rows(), target, seed=seed, report=lambda i, m: bool(told.append(dict(m))))  # type: ignore[func-returns-value]
        return str(adapter.train(context, {"bin_construct_sample_cnt": 5000}, 5).model_to_string())

    held = trained()
    monkeypatch.setattr(row_stream, "HELD_BYTES", 0)
    streamed = rows()
    context = TrainContext(streamed, None, target, seed=1)
    assert trained() == held
    assert told[:5] == told[5:]
    adapter.train(context, {}, 1)
    assert n_blocks == 1 or "_table" not in streamed.__dict__


def test_memory_is_that_of_the_bins() -> None:
    adapter = registry.framework("lightgbm")
    assert adapter.memory_bytes(1000, 50, 1) == 50_000 + 32_000
    assert adapter.memory_bytes(1000, 50, 1, {"max_bin": 1000}) == 100_000 + 32_000


@pytest.mark.slow
def test_ranks_end_with_one_model_of_all_rows(tmp_path: Path) -> None:
    table = numbers().select(*FEATURES, "score")
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        peers = [f"127.0.0.1:{s.getsockname()[1]}" for s in (one, two)]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        first, second = pool.map(work, range(2), [peers] * 2, [table[:200], table[200:]], [tmp_path] * 2)
    assert first == second
    text = first["model"].decode()
    assert "127.0.0.1" not in text
    root = text.split("internal_count=")[1].split()[0]
    assert int(root) == table.height

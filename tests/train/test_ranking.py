"""Rankings: rows of a group against one another, in every framework that ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import ndcg_score

from rayline import train, tune
from rayline.core.errors import DataError, ParameterError, SchemaError
from rayline.data import KFold
from rayline.inference.card import model_card
from rayline.serve.protocol import PredictionWriter
from rayline.stages import OneHotEncoder, StandardScaler
from tests.train.conftest import saved_and_loaded

TRAINERS: dict[str, Callable[..., train.Trainer]] = {
    "xgboost ndcg": lambda **o: train.XGBoostTrainer(
        {"objective": "rank:ndcg", "max_depth": 3}, num_boost_round=20, **o
    ),
    "xgboost pairwise": lambda **o: train.XGBoostTrainer({"objective": "rank:pairwise"}, num_boost_round=20, **o),
    "lightgbm lambdarank": lambda **o: train.LightGBMTrainer(
        {"objective": "lambdarank", "min_data_in_leaf": 5}, num_boost_round=20, **o
    ),
    "lightgbm xendcg": lambda **o: train.LightGBMTrainer({"objective": "xendcg"}, num_boost_round=20, **o),
    "catboost yetirank": lambda **o: train.CatBoostTrainer({"loss_function": "YetiRank", "iterations": 20}, **o),
    "catboost pairlogit": lambda **o: train.CatBoostTrainer({"loss_function": "PairLogit", "iterations": 20}, **o),
    "catboost queryrmse": lambda **o: train.CatBoostTrainer({"loss_function": "QueryRMSE", "iterations": 20}, **o),
}


def trainer_of(name: str, **options: Any) -> train.Trainer:
    try:
        return TRAINERS[name](**{"seed": 1, **options})
    except ImportError as error:
        pytest.skip(str(error))


def ranked(n_groups: int = 60, size: int = 8, seed: int = 0) -> pl.DataFrame:
    """Groups in a random order of rows; how relevant a row is depends on x, whatever the level of its group."""
    random = np.random.default_rng(seed)
    n = n_groups * size
    x, level = random.normal(size=n), np.repeat(random.normal(size=n_groups) * 5, size)
    relevance = np.digitize(x + random.normal(size=n) * 0.3, [0.0, 0.8, 1.6])
    table = pl.DataFrame(
        {
            "x": x,
            "level": level,
            "kind": random.choice(["a", "b"], n),
            "relevance": relevance,
            "query": np.repeat([f"q{i}" for i in range(n_groups)], size),
            "w": np.repeat(random.uniform(0.5, 2, n_groups), size),
        }
    )
    return table.sample(fraction=1.0, shuffle=True, seed=seed)


def preprocessor() -> train.Preprocessor:
    return train.Preprocessor([("scale", StandardScaler()), ("onehot", OneHotEncoder())])


def given(**more: Any) -> dict[str, Any]:
    return {"target_columns": ["relevance"], "group": "query", "verbose": False, **more}


def mean_ndcg(table: pl.DataFrame, scores: np.ndarray) -> float:
    groups = table.with_columns(score=pl.Series(scores)).partition_by("query")
    return float(np.mean([ndcg_score([g["relevance"].to_numpy()], [g["score"].to_numpy()]) for g in groups]))


@pytest.mark.parametrize("name", TRAINERS)
def test_the_whole_path(name: str) -> None:
    table, test = ranked().drop("w"), ranked(20, seed=1).drop("w")
    result = trainer_of(name).fit(preprocessor(), table, test, **given())
    pipeline = result.inference_pipeline
    assert list(pipeline.input_schema) == ["x", "level", "kind"]
    predicted = pipeline.predict(test)
    assert predicted.columns == ["prediction"]
    assert predicted["prediction"].dtype == pl.Float64
    scores = predicted["prediction"].to_numpy()
    assert result.metrics["test-ndcg"] == pytest.approx(mean_ndcg(test, scores), rel=1e-9)
    assert result.metrics["test-ndcg"] > 0.85 > mean_ndcg(test, -scores)
    loaded = saved_and_loaded(pipeline)
    assert loaded.predict(test).equals(predicted)
    rows = loaded.predict(test.drop("relevance", "query").head(3).to_dicts())
    assert np.allclose([row["prediction"] for row in rows], scores[:3], rtol=1e-6)
    assert result.preprocessor.chain(result.fitted_model).predict(test).equals(predicted)
    assert "ranking" in model_card(pipeline, data=test)
    assert PredictionWriter(pipeline.target).predictions(pipeline.scores(test.head(2).lazy())) == pytest.approx(
        scores[:2]
    )


def test_xgboost_learns_what_it_learns_itself() -> None:
    xgboost = pytest.importorskip("xgboost")
    table = ranked()
    result = trainer_of("xgboost ndcg").fit(None, table.drop("kind"), **given(sample_weight="w"))
    rows = table.sort("query", maintain_order=True)
    data = xgboost.DMatrix(
        rows.select("x", "level").to_numpy(), rows["relevance"].to_numpy(), qid=rows["query"].rank("dense").to_numpy(),
        weight=rows.group_by("query", maintain_order=True).first()["w"].to_numpy(),
    )  # fmt: skip
    own = xgboost.train({"objective": "rank:ndcg", "max_depth": 3, "seed": 1, "nthread": 1}, data, 20)
    expected = own.predict(xgboost.DMatrix(table.select("x", "level").to_numpy()))
    assert np.allclose(result.inference_pipeline.predict(table)["prediction"], expected, rtol=1e-6)


def test_lightgbm_learns_what_it_learns_itself() -> None:
    lightgbm = pytest.importorskip("lightgbm")
    table = ranked()
    result = trainer_of("lightgbm lambdarank").fit(None, table.drop("kind"), **given(sample_weight="w"))
    rows = table.sort("query", maintain_order=True)
    data: dict[str, Any] = lightgbm.Dataset(
        rows.select("x", "level").to_numpy(), rows["relevance"].to_numpy(), weight=rows["w"].to_numpy(), group=[8] * 60
    )
    params = {"objective": "lambdarank", "min_data_in_leaf": 5, "seed": 1, "deterministic": True, "verbosity": -1}
    own = lightgbm.train({**params, "num_threads": 1}, data, 20)
    expected = own.predict(table.select("x", "level").to_numpy())
    assert np.allclose(result.inference_pipeline.predict(table)["prediction"], expected, rtol=1e-9)


@pytest.mark.parametrize("kind", ["pandas", "arrow", "lazy", "dict", "X and y"])
def test_tables_of_every_kind(kind: str) -> None:
    table = ranked()
    data: Mapping[str, Any] = {
        "pandas": {"train_dataset": table.to_pandas(), "target_columns": "relevance", "group": "query"},
        "arrow": {"train_dataset": table.to_arrow(), "target_columns": "relevance", "group": "query"},
        "lazy": {"train_dataset": table.lazy(), "target_columns": ["relevance", "query"], "group": "query"},
        "dict": {"train_dataset": table.to_dict(as_series=False), "target_columns": "relevance", "group": "query"},
        "X and y": {
            "X": table.drop("relevance", "query").to_pandas(),
            "y": table["relevance"].to_numpy(),
            "group": table["query"].to_numpy(),
        },
    }[kind]
    result = trainer_of("xgboost ndcg").fit(preprocessor(), **data, verbose=False)
    expected = trainer_of("xgboost ndcg").fit(preprocessor(), table, **given())
    found, wanted = (r.inference_pipeline.predict(table)["prediction"].to_numpy() for r in (result, expected))
    assert np.array_equal(found, wanted)


@pytest.mark.parametrize("dtype", [pl.Int64, pl.Categorical, pl.Boolean, pl.Float64])
def test_groups_of_any_type(dtype: Any) -> None:
    table = ranked()
    numbers = table["query"].str.slice(1).cast(pl.Int64)
    query = numbers.cast(pl.String).cast(dtype) if dtype == pl.Categorical else numbers.cast(dtype)
    result = trainer_of("xgboost ndcg").fit(preprocessor(), table.with_columns(query=query), **given())
    assert result.inference_pipeline.predict(table).height == table.height


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"group": None}, ParameterError, "there are no groups"),
        ({"group": "unknown"}, SchemaError, "unknown"),
        ({"target_columns": ["relevance", "w"]}, ParameterError, "belongs to one target column"),
        ({"event": "w"}, ParameterError, "group and event are both given"),
        ({"metrics": ["rmse"]}, ParameterError, "'rmse' is not for a ranking target"),
    ],
)
def test_wrong_arguments(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        trainer_of("xgboost ndcg").fit(preprocessor(), ranked(), ranked(), **given(**change))


def test_wrong_labels_and_groups() -> None:
    table = ranked()

    def fails(message: str, changed: pl.DataFrame, name: str = "xgboost ndcg") -> None:
        with pytest.raises(DataError, match=message):
            trainer_of(name).fit(preprocessor(), changed, **given())

    fails("'query' has 480 missing values", table.with_columns(query=pl.lit(None, pl.String)))
    fails("of at least 0|from 0 to 31", table.with_columns(relevance=pl.col("relevance") - 1))
    fails(
        "from 0 to 30; got labels from 0 to 60",
        table.with_columns(relevance=pl.col("relevance") * 20),
        "lightgbm xendcg",
    )
    fails("not an integer", table.with_columns(relevance=pl.col("relevance") / 2), "lightgbm xendcg")


def test_folds_that_divide_groups_are_refused() -> None:
    pytest.importorskip("xgboost")
    for call in (train.cross_validate, tune.run):
        with pytest.raises(DataError, match="the folds divide 60 groups of 'query'"):
            call(trainer_of("xgboost ndcg"), train_dataset=ranked().drop("kind"), cv=KFold(3), **given())


def test_groups_without_a_ranking_are_refused() -> None:
    pytest.importorskip("xgboost")
    with pytest.raises(ParameterError, match="is for a ranking, and the objective is 'reg:squarederror'"):
        train.XGBoostTrainer({"objective": "reg:squarederror"}).fit(preprocessor(), ranked(), **given())
    with pytest.raises(ParameterError, match="is for a ranking"):
        train.XGBoostTrainer({}).fit(preprocessor(), ranked(), **given())


@pytest.mark.ray
def test_a_search_keeps_groups_whole(ray_session: Any) -> None:
    table = ranked()
    data: dict[str, Any] = {"target_columns": ["relevance"], "group": "query", "train_dataset": table}
    analysis = tune.run(
        trainer_of("lightgbm lambdarank"), config={"num_leaves": tune.grid_search([3, 8])}, preprocessor=preprocessor(), cv=3,
        verbose=False, **data,
    )  # fmt: skip
    assert analysis.metric == "ndcg"
    oof = analysis.oof
    assert oof.group_by("query").agg(pl.col("fold").n_unique())["fold"].max() == 1
    found = [mean_ndcg(part, part["prediction"].to_numpy()) for part in oof.partition_by("fold")]
    assert analysis.best_score == pytest.approx(np.mean(found))
    assert analysis.best_inference_pipeline.predict(table).columns == ["prediction"]
    from rayline.data import KFold

    with pytest.raises(DataError, match="the folds divide"):
        tune.run(trainer_of("lightgbm lambdarank"), cv=KFold(3), num_samples=1, verbose=False, **data)


@pytest.mark.ray
@pytest.mark.parametrize("name", ["xgboost ndcg", "lightgbm lambdarank"])
def test_groups_stay_on_one_worker(name: str, ray_session: Any) -> None:
    import ray

    table, test = ranked().drop("w"), ranked(20, seed=1).drop("w")
    ds, test_ds = (ray.data.from_arrow([part.to_arrow() for part in t.iter_slices(100)]) for t in (table, test))
    result = trainer_of(name, num_workers=2).fit(preprocessor(), ds, test_ds, **given())
    scores = result.inference_pipeline.predict(test)["prediction"].to_numpy()
    assert result.metrics["test-ndcg"] == pytest.approx(mean_ndcg(test, scores), rel=1e-6)
    assert result.metrics["test-ndcg"] > 0.85
    if (
        name == "xgboost ndcg"
    ):  # its metric in the history is that of whole groups: had one been divided, it would be another
        import xgboost

        rows = test.sort("query", maintain_order=True)
        data = xgboost.DMatrix(
            result.preprocessor.transform(rows).select(result.model.feature_names).to_numpy(), rows["relevance"].to_numpy(),
            qid=rows["query"].rank("dense").to_numpy(), feature_names=result.model.feature_names,
        )  # fmt: skip
        own = float(result.fitted_model.eval(data).rpartition(":")[2])
        assert result.history["test-ndcg@32"][-1] == pytest.approx(own, abs=1e-5)


@pytest.mark.ray
def test_rows_with_one_value_stay_together(ray_session: Any) -> None:
    import ray

    from rayline.engine.object_refs import BlockSlice, kept_together

    table = ranked(37, 11)
    pieces = [BlockSlice(ray.put(part.to_arrow()), 0, part.height) for part in table.iter_slices(50)]
    parts = [pl.concat([piece() for piece in part]) for part in kept_together(pieces, 3, "query")]
    assert sum(part.height for part in parts) == table.height
    assert sum(part["query"].n_unique() for part in parts) == 37
    assert max(part.height for part in parts) <= 15 * 11
    assert pl.concat(parts).sort("x").equals(table.sort("x"))

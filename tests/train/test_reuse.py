"""A fitted preprocessor in further trainings: the line says so, older results stay what they were, functions travel."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import rayline as rl
from rayline import train, tune
from rayline.core import registry
from rayline.stages import FunctionTransformer, OneHotEncoder, StandardScaler, Vectorizer, register_function


def rows(shift: float = 0.0, n: int = 40) -> pl.DataFrame:
    x = np.random.default_rng(0).normal(shift, 1.0, n)
    return pl.DataFrame({"x": x, "c": ["a", "b"] * (n // 2), "y": np.where(x > shift, "yes", "no")})


def trainer() -> train.Trainer:
    return train.XGBoostTrainer({"nthread": 1, "max_depth": 2}, num_boost_round=3)


def test_a_fitted_preprocessor_is_named_on_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    p = train.Preprocessor([("scale", StandardScaler()), ("onehot", OneHotEncoder())])
    trainer().fit(p, rows(), target_columns="y", verbose=True)
    assert "as fitted before" not in capsys.readouterr().err
    mean = p["scale"].state["columns"]["x"]["mean"]  # type: ignore[union-attr]
    other = rows(5.0).with_columns(new=1.0)
    trainer().fit(p, other, other, target_columns="y", verbose=True)
    assert (
        "preprocessor as fitted before, without the new column 'new' (refit=True fits it again)"
        in capsys.readouterr().err
    )
    assert p["scale"].state["columns"]["x"]["mean"] == mean  # type: ignore[union-attr]
    trainer().fit(p, other, other, target_columns="y", refit=True, verbose=True)
    assert "as fitted before" not in capsys.readouterr().err
    assert p["scale"].state["columns"]["x"]["mean"] == pytest.approx(other["x"].mean())  # type: ignore[union-attr]
    assert "new" in p.input_schema


def test_stages_without_a_column_are_named_on_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    table = rows().select("c", "y")
    p = train.Preprocessor([("words", Vectorizer()), ("scale", StandardScaler()), ("onehot", OneHotEncoder())])
    trainer().fit(p, table, target_columns="y", verbose=True)
    line = capsys.readouterr().err
    assert "'words' selects no text columns (strings with four or more words on average)" in line
    assert "'scale' selects no numeric columns" in line
    assert "'onehot' selects no" not in line


def test_fitting_again_changes_no_older_result() -> None:
    table, other = rows(), rows(7.0)
    p = train.Preprocessor([("inner", train.Preprocessor([("scale", StandardScaler())])), ("onehot", OneHotEncoder())])
    result = trainer().fit(p, table, target_columns="y", verbose=False)
    chained = p.chain(result.model)
    before = [pipeline.predict_proba(table) for pipeline in (result.inference_pipeline, chained)]
    shown = result.preprocessor.to_json()
    inner = p["inner"]
    assert isinstance(inner, train.Preprocessor)
    inner.fit(other.drop("y"))
    held = result.inference_pipeline.preprocessor
    assert held is not None
    for handed_over in (p, result.preprocessor, held):
        handed_over.fit(other, target_columns="y")
        after = [pipeline.predict_proba(table) for pipeline in (result.inference_pipeline, chained)]
        assert all(a.equals(b) for a, b in zip(before, after, strict=True))
    assert result.inference_pipeline.predict_proba(table.head(1).to_dicts()) == before[0].head(1).to_dicts()
    assert result.preprocessor.to_json() == shown
    trainer().fit(p, other, target_columns="y", verbose=False)
    assert result.inference_pipeline.predict_proba(table).equals(before[0])


def test_a_registered_function_travels_with_its_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    register_function("times three", _thrice)
    sent = pickle.dumps(FunctionTransformer(["x"], "times three"))
    monkeypatch.setattr(registry, "_FUNCTIONS", {})
    stage = pickle.loads(sent)  # just made
    assert rl.Preprocessor([("f", stage)]).fit_transform(pl.DataFrame({"x": [2.0]}))["x"].to_list() == [6.0]
    assert stage == FunctionTransformer(["x"], "times three")


def _thrice(column: pl.Expr) -> pl.Expr:
    return column * 3


@pytest.mark.ray
def test_a_registered_function_is_known_in_every_process(ray_session: Any) -> None:
    def odd(column: pl.Expr) -> pl.Expr:  # it cannot be imported
        return column * 3

    register_function("odd one", odd)
    p = train.Preprocessor([("f", FunctionTransformer(["x"], "odd one")), ("onehot", OneHotEncoder())])
    dataset = ray_session.data.from_arrow(rows().to_arrow(compat_level=pl.CompatLevel.oldest()))
    data_config = {"train_pipeline": p, "train_dataset": dataset, "target_columns": ["y"], "cv": 2}
    analysis = tune.run(trainer(), data_config, {"eta": tune.choice([0.1, 0.3])}, num_samples=2, verbose=False)
    predicted = analysis.best_inference_pipeline.transform(dataset).to_pandas()
    assert len(predicted) == 40
    best = analysis.best_pipeline
    assert best.transform(rows())["x"].to_list() == [x * 3 for x in rows()["x"]]
    scores = analysis.best_inference_pipeline.predict_proba(rows())
    best.fit(rows(9.0), target_columns="y")
    assert analysis.best_inference_pipeline.predict_proba(rows()).equals(scores)


def test_an_unknown_stage_says_how_it_becomes_known(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    rl.Preprocessor([("s", StandardScaler())]).save(path)
    path.write_text(path.read_text().replace("StandardScaler", "OurOwnScaling"))
    with pytest.raises(rl.RaylineError, match="import the module that registers it"):
        rl.Preprocessor.load(path)

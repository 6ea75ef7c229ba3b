"""scikit-learn estimators, with themselves fitted by hand as the oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import skops.io
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import rayline as rl
from rayline import train
from rayline.core import registry
from rayline.core.framework import Job, Rows
from rayline.core.target import Target, Task

ADAPTER = registry.framework("sklearn")


def numbers(n: int = 300) -> pl.DataFrame:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, n))
    return pl.DataFrame(
        {"a": a, "b": b, "code": (a > b).astype(int), "many": np.digitize(a, [-1, 1]), "y": a * 2 - b, "z": a + b}
    )


def fit(estimator: Any, *targets: str, **options: Any) -> Any:
    table = numbers().select("a", "b", *targets)
    return train.SklearnTrainer(estimator, **options).fit(None, table, table, list(targets), verbose=False)


def test_equals_the_estimator_by_hand() -> None:
    table = numbers()
    x = table.select("a", "b").to_numpy(order="c")  # sums of products depend on the order
    result = fit(LogisticRegression(C=0.3), "code")
    by_hand = LogisticRegression(C=0.3).fit(x, table["code"].to_numpy())
    assert (result.model.scores(table.lazy()) == by_hand.predict_proba(x)[:, 1]).all()
    assert result.inference_pipeline.predict(table)["prediction"].to_list() == by_hand.predict(x).tolist()
    assert result.metrics["test-accuracy"] == by_hand.score(x, table["code"].to_numpy())


def test_integers_are_classes_for_a_classifier_and_numbers_for_a_regressor() -> None:
    assert fit(LogisticRegression(), "code").model.target.task is Task.BINARY
    assert fit(LogisticRegression(), "many").model.target.task is Task.MULTICLASS
    assert fit(Ridge(), "many").model.target.task is Task.REGRESSION


def test_several_targets() -> None:
    table = numbers()
    result = fit(RandomForestRegressor(5), "y", "z", seed=1)
    assert result.inference_pipeline.predict(table).columns == ["prediction_y", "prediction_z"]
    both = train.SklearnTrainer(RandomForestClassifier(5), seed=1).fit(
        None, table.select("a", "b", "code", up=pl.col("y") > 0), None, ["code", "up"], verbose=False
    )
    assert both.inference_pipeline.predict(table).schema == {"prediction_code": pl.Int64, "prediction_up": pl.Boolean}
    assert ADAPTER.inspect(both.fitted_model).n_targets == 2


def test_pipelines_and_tuned_parameters() -> None:
    trainer = train.SklearnTrainer(make_pipeline(StandardScaler(), SGDClassifier()), seed=5)
    other = trainer.replace({"sgdclassifier__alpha": 0.5})
    assert other.args[0].get_params()["sgdclassifier__alpha"] == 0.5
    assert trainer.args[0].get_params()["sgdclassifier__alpha"] != 0.5
    table = numbers().select("a", "b", "code")
    fitted = other.fit(None, table, None, "code", verbose=False).fitted_model
    assert fitted.get_params()["sgdclassifier__random_state"] == 5
    assert not hasattr(other.args[0], "classes_")
    with pytest.raises(rl.ParameterError, match=r"'alhpa'(.|\n)*"):
        trainer.replace({"alhpa": 1})


@pytest.mark.parametrize("wrong", [RandomForestClassifier, StandardScaler(), "forest", None])
def test_what_is_no_estimator_is_refused(wrong: Any) -> None:
    with pytest.raises(rl.ParameterError, match="estimator has a wrong value"):
        train.SklearnTrainer(wrong)


def test_epochs_need_partial_fit() -> None:
    with pytest.raises(rl.ParameterError, match="epochs"):
        train.SklearnTrainer(Ridge(), epochs=3)


def test_weights_that_an_estimator_does_not_take() -> None:
    with pytest.raises(rl.DataError, match="takes no sample weights"):
        fit(KNeighborsClassifier(), "code", class_weight="balanced")


def test_blocks_are_streamed() -> None:
    table = numbers()
    target = Target(("code",), Task.BINARY, (pl.Int64(),), ((0, 1),))
    schema = table.select("a", "b").schema
    rows = Rows([lambda i=i: table[i * 100 : (i + 1) * 100] for i in range(3)], schema, target, None)
    told: list[Any] = []
    job = Job(rows, Rows.of(table, schema, target), target, seed=1, report=lambda i, m: told.append((i, m)) or i == 2)
    model = ADAPTER.train(job, SGDClassifier(), epochs=10)
    by_hand = SGDClassifier(random_state=1)
    for _ in range(3):
        for i in range(3):
            part = table[i * 100 : (i + 1) * 100]
            by_hand.partial_fit(part.select("a", "b").to_numpy(), part["code"].to_numpy(), classes=[0, 1])
    assert (model.coef_ == by_hand.coef_).all()
    assert [i for i, _ in told] == [0, 1, 2]
    assert told[-1][1]["test-accuracy"] == by_hand.score(table.select("a", "b").to_numpy(), table["code"].to_numpy())


# -- files -------------------------------------------------------------------------------------------------------------


def test_types_are_trusted_by_the_caller_alone(tmp_path: Path) -> None:
    path = tmp_path / "h.rayline"
    result = fit(KNeighborsClassifier(algorithm="kd_tree"), "code")
    result.inference_pipeline.save(path)
    with pytest.raises(rl.ArtifactError, match="not trusted(.|\n)*KDTree"):  # noqa: RUF043
        rl.load(path)
    with pytest.raises(rl.ArtifactError, match="not trusted"):
        rl.load(path, trusted=["sklearn.ensemble._forest.RandomForestClassifier"])
    with pytest.raises(rl.ParameterError, match="trusted"):
        rl.load(path, trust=["everything"])
    trusted = ["sklearn.neighbors._kd_tree.KDTree", "sklearn.metrics._dist_metrics.EuclideanDistance64"]
    assert rl.load(path, trusted=trusted).predict(numbers()).equals(result.inference_pipeline.predict(numbers()))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda t: t["nodes"]["left_child"].__setitem__(0, 10**6), "outside of itself"),
        (lambda t: t["nodes"]["right_child"].__setitem__(0, 0), "two ways lead to one node"),
        (lambda t: t["nodes"]["feature"].__setitem__(0, 77), "does not have"),
    ],
)
def test_trees_are_looked_at_before_they_are_followed(tmp_path: Path, spoil: Any, words: str) -> None:
    model = fit(RandomForestRegressor(2, max_depth=3), "y", seed=0).fitted_model
    tree = model.estimators_[1].tree_
    state = tree.__getstate__()
    state["nodes"] = state["nodes"].copy()
    spoil(state)
    tree.__setstate__(state)
    skops.io.dump(model, tmp_path / "model.skops")
    with pytest.raises(rl.ArtifactError, match=words):
        ADAPTER.load(tmp_path)


def test_a_broken_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(rl.ArtifactError, match="incomplete"):
        ADAPTER.load(tmp_path)
    for content in (b"", b"PK", b"no zip"):
        (tmp_path / "model.skops").write_bytes(content)
        with pytest.raises(rl.ArtifactError, match="cannot be read"):
            ADAPTER.load(tmp_path)

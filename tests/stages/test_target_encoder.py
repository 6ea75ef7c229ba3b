"""The target encoder: its formula against scikit-learn, and that no row sees its own target."""

from __future__ import annotations

from typing import Literal

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import TargetEncoder as Theirs

from rayline.core.errors import DataError, SchemaError
from rayline.data import KFold
from rayline.inference.pipeline import Preprocessor
from rayline.stages import TargetEncoder
from rayline.train import XGBoostTrainer

RNG = np.random.default_rng(0)
N = 4000


def table(n_categories: int) -> pl.DataFrame:
    codes = RNG.integers(0, n_categories, N)
    return pl.DataFrame({"c": [f"k{c}" for c in codes], "x": RNG.normal(size=N), "y": RNG.integers(0, 2, N)})


@pytest.mark.parametrize("smooth", ["auto", 0.0, 20.0])
@pytest.mark.parametrize("target", ["y", "x"])
def test_the_formula_is_scikit_learns(smooth: float | Literal["auto"], target: str) -> None:
    rows = table(30)
    how = {"target_type": "binary" if target == "y" else "continuous", "smooth": smooth}
    theirs = Theirs(**how).fit(rows.select("c").to_numpy().astype(object), rows[target].to_numpy())
    ours = Preprocessor([("t", TargetEncoder(["c"], smooth=smooth))]).fit(rows, target_columns=[target])
    new = pl.DataFrame({"c": ["k0", "k7", "never"], "x": [0.0] * 3, "y": [0] * 3})
    expected = theirs.transform(new.select("c").to_numpy().astype(object))
    np.testing.assert_allclose(ours.transform(new)["c"].to_numpy(), expected[:, 0], rtol=1e-9)


@pytest.mark.parametrize("smooth", ["auto", 3.0])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_classes_are_scikit_learns(smooth: float | Literal["auto"], n_classes: int) -> None:
    rows = table(30).with_columns(y=pl.Series([f"class {i}" for i in RNG.integers(0, n_classes, N)]))
    theirs = Theirs(smooth=smooth).fit(rows.select("c").to_numpy().astype(object), rows["y"].to_numpy().astype(object))
    ours = Preprocessor([("t", TargetEncoder(["c"], smooth=smooth))]).fit(rows, target_columns=["y"])
    new = pl.DataFrame({"c": ["k0", "k7", "never"], "x": [0.0] * 3})
    expected = theirs.transform(new.select("c").to_numpy().astype(object))
    made = ours.transform(new).drop("x")
    assert made.columns == (["c"] if n_classes == 2 else [f"c_class {i}" for i in range(4)])
    np.testing.assert_allclose(made.to_numpy(), expected, rtol=1e-9)
    crossed = ours.transform_training(rows)
    assert crossed.drop("y").columns == ours.transform(rows).drop("y").columns


def test_random_labels_give_nothing() -> None:
    rows = table(1000)  # 4 rows a category: an encoder that leaks is nearly perfect here
    fitted = Preprocessor([("t", TargetEncoder(smooth=0.0))]).fit(rows, target_columns=["y"])
    crossed = fitted.transform_training(rows)
    assert roc_auc_score(rows["y"], crossed["c"]) == pytest.approx(0.5, abs=0.05)
    assert roc_auc_score(rows["y"], fitted.transform(rows)["c"]) > 0.7  # what it would have been


def test_random_labels_give_a_model_nothing() -> None:
    rows = table(800).head(3000)  # in process, and in every fold of a cross validation
    stages, held_out, learned = [("t", TargetEncoder(smooth=1.0))], [], []
    splits = list(KFold(3).split(rows))
    for fitted, (training, test) in zip(
        Preprocessor(stages).fit_folds(rows, KFold(3), target_columns=["y"]), splits, strict=True
    ):
        model = LogisticRegression().fit(fitted.transform_training(training)[["c"]], training["y"])
        held_out.append(pl.DataFrame({"y": test["y"], "p": model.predict_proba(fitted.transform(test)[["c"]])[:, 1]}))
        learned.append(
            roc_auc_score(training["y"], model.predict_proba(fitted.transform_training(training)[["c"]])[:, 1])
        )
    scored = pl.concat(held_out)
    assert roc_auc_score(scored["y"], scored["p"]) == pytest.approx(0.5, abs=0.05)
    assert np.mean(learned) == pytest.approx(0.5, abs=0.05)  # nor does training look better than it is

    trainer = XGBoostTrainer({"objective": "binary:logistic", "eval_metric": "auc", "max_depth": 3}, num_boost_round=5)
    result = trainer.fit(
        Preprocessor(stages), splits[0][0], test_dataset=splits[0][1], target_columns="y", verbose=False
    )
    assert result.metrics["test-auc"] == pytest.approx(0.5, abs=0.06)


def test_a_row_does_not_see_its_own_target() -> None:
    rows = table(50)
    flipped = rows.with_columns(y=pl.when(pl.int_range(pl.len()) == 17).then(1 - pl.col("y")).otherwise("y"))
    codes = [
        Preprocessor([("t", TargetEncoder(smooth=5.0))]).fit(r, target_columns=["y"]).transform_training(r)["c"][17]
        for r in (rows, flipped)
    ]
    assert codes[0] == pytest.approx(codes[1], rel=1e-12)


def test_a_target_is_needed() -> None:
    with pytest.raises(SchemaError, match="no target"):
        Preprocessor([("t", TargetEncoder())]).fit(table(3))
    text = table(3).with_columns(y=pl.lit("a"))
    with pytest.raises(SchemaError, match="numeric or boolean"):
        Preprocessor([("t", TargetEncoder(["c"], target_type="continuous"))]).fit(text, target_columns=["y"])
    with pytest.raises(DataError, match="has 1 classes"):
        Preprocessor([("t", TargetEncoder(["c"]))]).fit(text, target_columns=["y"])

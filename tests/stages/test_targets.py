"""The target encoder: its formula against scikit-learn, and that no row sees its own target."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import TargetEncoder as Theirs

from rayline.core.errors import SchemaError
from rayline.data.preprocessor import Preprocessor
from rayline.stages import TargetEncoder

RNG = np.random.default_rng(0)
N = 4000


def table(n_categories: int) -> pl.DataFrame:
    codes = RNG.integers(0, n_categories, N)
    return pl.DataFrame({"c": [f"k{c}" for c in codes], "x": RNG.normal(size=N), "y": RNG.integers(0, 2, N)})


@pytest.mark.parametrize("smooth", ["auto", 0.0, 20.0])
@pytest.mark.parametrize("target", ["y", "x"])
def test_the_formula_is_scikit_learns(smooth: float | str, target: str) -> None:
    rows = table(30)
    how = {"target_type": "binary" if target == "y" else "continuous", "smooth": smooth}
    theirs = Theirs(**how).fit(rows.select("c").to_numpy().astype(object), rows[target].to_numpy())
    ours = Preprocessor([("t", TargetEncoder(["c"], smooth=smooth))]).fit(rows, target_columns=[target])
    new = pl.DataFrame({"c": ["k0", "k7", "never"], "x": [0.0] * 3, "y": [0] * 3})
    expected = theirs.transform(new.select("c").to_numpy().astype(object))
    np.testing.assert_allclose(ours.transform(new)["c"].to_numpy(), expected[:, 0], rtol=1e-9)


def test_random_labels_give_nothing() -> None:
    rows = table(1000)  # 4 rows a category: an encoder that leaks is nearly perfect here
    fitted = Preprocessor([("t", TargetEncoder(smooth=0.0))]).fit(rows, target_columns=["y"])
    crossed = fitted.transform_training(rows)
    assert roc_auc_score(rows["y"], crossed["c"]) == pytest.approx(0.5, abs=0.05)
    assert roc_auc_score(rows["y"], fitted.transform(rows)["c"]) > 0.7  # what it would have been


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
        Preprocessor([("t", TargetEncoder(["c"]))]).fit(text, target_columns=["y"])

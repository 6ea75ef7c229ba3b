"""What CatBoost writes is accepted, and inconsistent files are refused before CatBoost reads them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

catboost = pytest.importorskip("catboost", reason="CatBoost is not installed (pip install 'rayline[catboost]')")

from rayline.core.errors import ArtifactError
from rayline.frameworks.verify import catboost_model

RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 3))
TABLE = pd.DataFrame(X, columns=["a", "b", "c"]).assign(
    d=[f"ü{i % 7}" for i in range(300)], e=[str(i % 3) for i in range(300)]
)


def saved(folder: Path, params: dict[str, Any], data: Any, label: Any) -> bytes:
    categories = ["d", "e"] if data is TABLE else []
    base = {"iterations": 8, "depth": 4, "verbose": 0, "thread_count": 1, "allow_writing_files": False}
    pool = catboost.Pool(data, label, cat_features=categories)
    catboost.CatBoost({**base, **params}).fit(pool).save_model(str(folder / "m.cbm"))
    return (folder / "m.cbm").read_bytes()


@pytest.mark.parametrize(
    ("params", "data", "label"),
    [
        ({"loss_function": "RMSE"}, X, X[:, 0]),
        ({"loss_function": "RMSE", "border_count": 300}, RNG.normal(size=(2000, 3)), RNG.normal(size=2000)),
        ({"loss_function": "Logloss"}, TABLE, X[:, 0] > 0),
        ({"loss_function": "Logloss", "one_hot_max_size": 5}, TABLE, X[:, 0] > 0),
        ({"loss_function": "MultiClass", "one_hot_max_size": 1}, TABLE, np.arange(300) % 7 % 3),
        ({"loss_function": "MultiRMSE"}, X, X[:, :2]),
        ({"loss_function": "MultiLogloss"}, X, X[:, :2] > 0),
        ({"loss_function": "RMSE", "grow_policy": "Lossguide"}, X, X[:, 0]),
        ({"loss_function": "MultiClass", "grow_policy": "Depthwise"}, X, np.arange(300) % 3),
        ({"loss_function": "RMSE", "simple_ctr": ["Borders", "Counter", "Buckets", "BinarizedTargetMeanValue"], "one_hot_max_size": 1}, TABLE, X[:, 0] + np.arange(300) % 7),
        ({"loss_function": "RMSE", "one_hot_max_size": 1, "max_ctr_complexity": 3}, TABLE, (np.arange(300) % 7) * (X[:, 0] > 0) * (np.arange(300) % 3)),
        ({"loss_function": "RMSE"}, X * 0 + X[:1], X[:, 0]),
    ],
)  # fmt: skip
def test_what_catboost_saves_is_accepted(tmp_path: Path, params: dict[str, Any], data: Any, label: Any) -> None:
    try:
        whole = saved(tmp_path, params, data, label)
    except catboost.CatBoostError as error:
        pytest.skip(f"CatBoost does not train that: {error}")
    catboost_model.check(whole)
    for length in random.Random(0).sample(range(len(whole)), 100):
        with pytest.raises(ArtifactError):
            catboost_model.check(whole[:length])


@pytest.mark.parametrize("policy", ["SymmetricTree", "Lossguide"])
def test_numbers_that_lead_outside_are_refused(tmp_path: Path, policy: str) -> None:
    whole = saved(tmp_path, {"loss_function": "RMSE", "grow_policy": policy}, X, X[:, 0])
    (size,) = np.frombuffer(whole, "<u4", 1, 4)
    trees = catboost_model._root(whole[8 : 8 + int(size)]).table(1)
    fields = {1: "<i4", 2: "<i4", 3: "<i4", 17: "<u2"} | ({10: "<u2", 11: "<u4"} if policy == "Lossguide" else {})
    for number, dtype in fields.items():
        place = trees._target(trees.place + trees.fields[number]) + 4 + 8  # past the count, in the core, in the file
        before = np.frombuffer(whole, dtype, 1, place)[0]
        changed = bytearray(whole)
        changed[place : place + np.dtype(dtype).itemsize] = np.array([(int(before) + 9000) % 60000], dtype).tobytes()
        with pytest.raises(ArtifactError, match="saved CatBoost model is damaged"):
            catboost_model.check(bytes(changed))

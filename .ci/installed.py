"""What works in an environment with the wheel and some extras: `python installed.py lightgbm`. `make package` runs it away from the source.

Without an extra: import, preprocess, save, load, and an error that names the extra of each framework that is missing. With one: a
training, its artifact and the predictions of the loaded pipeline. Neither imports Ray.
"""

from __future__ import annotations

import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import polars as pl
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression

import rayline as rl
from rayline import train
from rayline.stages import SimpleImputer, StandardScaler

TRAINERS = {
    "xgboost": ("xgboost", lambda: train.XGBoostTrainer({"max_depth": 3}, num_boost_round=20)),
    "lightgbm": ("lightgbm", lambda: train.LightGBMTrainer({"verbosity": -1}, num_boost_round=20)),
    "catboost": ("catboost", lambda: train.CatBoostTrainer({"iterations": 20})),
    "sklearn": ("skops", lambda: train.SklearnTrainer(LogisticRegression(max_iter=500))),
    "torch": ("torch", lambda: train.TorchTrainer("MLP", max_epochs=2)),
}
"""A trainer of each extra, and a library that the extra brings."""


def rows() -> pl.DataFrame:
    tumours = load_breast_cancer()
    table = pl.DataFrame(tumours.data[:, :6], schema=[f"size{i}" for i in range(6)])
    return table.with_columns(kind=pl.Series([str(tumours.target_names[code]) for code in tumours.target]))


def steps() -> train.Preprocessor:
    return train.Preprocessor([("impute", SimpleImputer()), ("scale", StandardScaler())])


def walk(extra: str, folder: Path) -> None:
    """Train, save, load, predict."""
    result = TRAINERS[extra][1]().fit(steps(), rows(), target_columns="kind", verbose=False)
    path = folder / f"{extra}.rayline"
    result.inference_pipeline.save(path)
    expected, got = (pipeline.predict(rows()) for pipeline in (result.inference_pipeline, rl.load(path)))
    assert got.equals(expected)
    accuracy = (got["prediction"] == rows()["kind"]).mean()
    assert accuracy > 0.85, accuracy
    print(
        f"{extra}: trained, saved ({path.stat().st_size:,} bytes), loaded; accuracy {accuracy:.3f} on the training rows"
    )


def refuse(extra: str, folder: Path) -> None:
    """Without its library a framework is refused with the name of the extra."""
    said = "it works"
    try:
        walk(extra, folder)
    except rl.MissingExtraError as error:
        said = " ".join(str(error).split())
    assert f"rayline[{extra}]" in said, said
    print(f"{extra}: {said}")


with tempfile.TemporaryDirectory() as name:
    preprocessor = steps().fit(rows(), target_columns="kind")
    preprocessor.save(Path(name, "steps.json"))
    assert train.Preprocessor.load(Path(name, "steps.json")).transform(rows()).equals(preprocessor.transform(rows()))
    for extra, (library, _) in TRAINERS.items():
        if extra in sys.argv[1:]:
            walk(extra, Path(name))
        elif find_spec(library) is None:
            refuse(extra, Path(name))
assert "ray" not in sys.modules

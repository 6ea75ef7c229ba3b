from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from rayline import train
from rayline.inference.card import model_card
from rayline.stages import PCA, Concatenator, CountVectorizer, Log, OneHotEncoder, SimpleImputer
from tests import toy


class Texts(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_data(self, data: str) -> None:
        self.found.append(data)


def test_the_card_says_what_the_pipeline_is(tmp_path: Path) -> None:
    table = toy.table().with_columns(city=pl.col("city").str.replace("Rome", "<b>|Rome"))
    trainer = train.XGBoostTrainer({"nthread": 1}, num_boost_round=3)
    preprocessor = train.Preprocessor([("onehot", OneHotEncoder())])
    result = trainer.fit(preprocessor, table, table, target_columns="late", verbose=False)
    text = model_card(result.inference_pipeline, tmp_path / "card.html", name="Late & <late>")
    assert "# Late & <late>" in text
    for words in (
        "binary of late, by xgboost",
        "| late | no, yes |",
        "| age | Float64 |",
        "| test-roc_auc |",
        "onehot",
    ):
        assert words in text, words
    page = (tmp_path / "card.html").read_text()
    assert "<b>" not in page
    parser = Texts()
    parser.feed(page)
    assert {"Late & <late>", "What matters to it", "Intended use", "<b>|Rome"} <= {t.strip() for t in parser.found}
    lines = [line for line in text.split("\n") if "Rome" in line]
    assert lines
    assert all("<b>\\|Rome" in line for line in lines)


def test_a_card_without_examples_or_importance() -> None:
    text = model_card(toy.pipeline())
    assert "# Model of late" in text
    assert "What matters to it" not in text


def test_importance_by_column_and_by_feature() -> None:
    steps = train.Preprocessor(
        [("impute", SimpleImputer()), ("onehot", OneHotEncoder()), ("pca", PCA(["age", "size"], n_components=1))],
        target_stages=[("log", Log())],
    )
    table = toy.table().with_columns(price=pl.col("size") * 3.0).drop("late")
    result = train.XGBoostTrainer({"nthread": 1}, num_boost_round=5).fit(
        steps, table, target_columns="price", verbose=False
    )
    features, columns = result.model.importance(), result.inference_pipeline.importance()
    assert features
    assert columns
    assert columns["age"] == columns["size"] == features["pca0"] / 2
    cities = sum(value for name, value in features.items() if name.startswith("city_"))
    assert columns["city"] == pytest.approx(cities)
    text = model_card(result.inference_pipeline)
    assert "| city |" in text
    assert "| pca0 |" in text
    assert "log: Log(columns=None, offset=1.0)" in text


@pytest.mark.parametrize(
    "trainer",
    [
        train.XGBoostTrainer({"nthread": 1}, num_boost_round=5),
        train.LightGBMTrainer({"min_data_in_leaf": 1, "num_threads": 1}),
    ],
    ids=["xgboost", "lightgbm"],
)
def test_importance_of_the_elements_of_vectors(trainer: train.Trainer) -> None:
    table = toy.table().with_columns(note=pl.col("city").fill_null("none") + " " + pl.col("late"))
    steps = train.Preprocessor(
        [("words", CountVectorizer(["note"])), ("fill", SimpleImputer(["age"])), ("v", Concatenator(["age", "size"])),
         ("onehot", OneHotEncoder(["city"]))]
    )  # fmt: skip
    result = trainer.replace({}).fit(steps, table, target_columns="late", verbose=False)
    columns = result.inference_pipeline.importance()
    assert columns is not None
    assert set(columns) == {"note", "age", "size", "city"}
    assert max(columns, key=lambda name: columns[name]) == "note"
    assert result.model.importance() is None  # the model alone does not know how long the vectors are

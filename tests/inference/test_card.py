"""The model card: its sections, tables and plots, as Markdown and as a page.

Covers `inference.card_plots` too.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import confusion_matrix, roc_auc_score

import rayline as rl
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
        "binary classification of late, by xgboost",
        "| late | no, yes |",
        "| age | Float64 |",
        "| metric | train | test |",
        "| roc_auc |",
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
    assert "log: Log()" in text
    shares = re.findall(r"\| (\w+) \| ([0-9.]+)% \|", text.partition("## Its features")[0])
    assert float(dict(shares)["city"]) == pytest.approx(100 * cities / sum(columns.values()), abs=0.1)
    text = model_card(result.inference_pipeline, history=result.history)
    assert "after the target stages log: not that of the labels" in text


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


FEW = train.Preprocessor([("onehot", OneHotEncoder())])


def fitted(table: pl.DataFrame, target: str) -> Any:
    trainer = train.XGBoostTrainer({"nthread": 1, "min_child_weight": 0}, num_boost_round=3)
    return trainer.fit(FEW.clone(), table, table, target_columns=target, verbose=False)


def test_a_classifier_is_plotted(tmp_path: Path) -> None:
    table = toy.table()
    result = fitted(table, "late")
    pipeline = result.inference_pipeline
    text = model_card(pipeline, tmp_path / "card.html", data=table, history=result.history)
    for words in ("Area under the curve", "Calibration", "Confusion", "Learning: logloss", "3 different", "40 rows"):
        assert words in text, words
    page = (tmp_path / "card.html").read_text()
    assert page.count("<svg") == page.count("</svg>") == page.count("<figure>") == 4
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")  # nothing comes from elsewhere
    auc = roc_auc_score(table["late"] == "yes", pipeline.predict_proba(table)["probability_yes"])
    assert f"yes {auc:.3f}" in text
    assert all(
        f">{n}<" in page for n in np.unique(confusion_matrix(table["late"], pipeline.predict(table)["prediction"]))
    )


def test_a_markdown_card_has_its_plots_beside_it(tmp_path: Path) -> None:
    table = toy.table().with_columns(late=pl.col("size") * 1.5 + pl.col("age").fill_null(0))
    text = model_card(fitted(table, "late").inference_pipeline, tmp_path / "card.md", data=table)
    names = re.findall(r"!\[.*\]\((.*)\)", text)
    assert names == ["card-predicted-late.svg", "card-errors-late.svg"]
    for name in names:
        ElementTree.parse(tmp_path / name)


def test_shares_are_of_all_features_and_the_rest_is_said() -> None:
    random = np.random.default_rng(0)
    table = pl.DataFrame({f"x{i}": random.normal(size=300) for i in range(40)}).with_columns(
        y=pl.sum_horizontal(pl.all())
    )
    result = train.XGBoostTrainer({"nthread": 1}, num_boost_round=20).fit(
        None, table, target_columns="y", verbose=False
    )
    text = model_card(result.inference_pipeline)
    shares = [float(share) for share in re.findall(r"\| x\d+ \| ([0-9.]+)% \|", text)]
    rest = float(re.findall(r"Shares of all 40 columns; those not shown have ([0-9.]+)% together", text)[0])
    assert len(shares) == 20
    assert sum(shares) + rest == pytest.approx(100, abs=1.1)
    assert rest > 5


def test_a_metric_of_both_is_there_once() -> None:
    text = model_card(fitted(toy.table(), "late").inference_pipeline)
    assert len(re.findall(r"\| log_?loss \|", text)) == 1


def test_numbers_are_for_people(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    table = pl.DataFrame({"area": random.uniform(30, 300, 200)}).with_columns(price=pl.col("area") * 3000)
    result = train.XGBoostTrainer({"nthread": 1}, num_boost_round=3).fit(
        None, table, table, target_columns="price", verbose=False
    )
    text = model_card(result.inference_pipeline, tmp_path / "card.html", data=table, history=result.history)
    page = (tmp_path / "card.html").read_text()
    assert not re.search(r"\de[+-]?\d", text)
    assert not re.search(r">[^<]*\de[+]\d", page)
    assert not re.search(r"\d\.\d{6}", text)


def test_a_plot_of_some_classes_says_so() -> None:
    table = pl.DataFrame({"x": [float(i % 10) for i in range(200)], "y": [f"class {i % 10}" for i in range(200)]})
    text = model_card(fitted(table, "y").inference_pipeline, data=table)
    assert "The first 8 of 10 classes." in text


def test_many_classes_and_wrong_data(tmp_path: Path) -> None:
    table = toy.table().with_columns(late=pl.col("late") + pl.col("size").cast(pl.String))
    pipeline = fitted(table, "late").inference_pipeline
    text = model_card(pipeline, data=table)
    assert "Confusion" in text
    assert "Calibration" not in text
    with pytest.raises(rl.SchemaError, match="'late'"):
        model_card(pipeline, data=table.drop("late"))


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium is installed")
@pytest.mark.slow
def test_a_browser_shows_all_of_it(tmp_path: Path) -> None:
    result = fitted(toy.table(), "late")
    model_card(result.inference_pipeline, tmp_path / "card.html", data=toy.table(), history=result.history)
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    shown = tmp_path / "card.png"
    page = (tmp_path / "card.html").as_uri()
    subprocess.run(
        ["chromium", *options, "--window-size=1000,2600", f"--screenshot={shown}", page],
        check=True,
        capture_output=True,
        timeout=120,
    )
    assert shown.stat().st_size > 30_000

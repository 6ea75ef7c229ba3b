from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import polars as pl

from rayline import train
from rayline.inference.card import model_card
from rayline.stages import OneHotEncoder
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

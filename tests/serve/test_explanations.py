"""/explain answers what pipeline.explain says, within bounds, and the page shows it."""

from __future__ import annotations

from typing import Any

import pytest

from rayline.inference.model import Model
from rayline.inference.pipeline import InferencePipeline
from rayline.serve import explanations
from tests.evaluate.test_explain import CASES, COLUMNS, fitted, table


@pytest.mark.parametrize("case", ["xgboost", "xgboost multiclass", "xgboost targets", "forest"])
def test_it_answers_as_in_process(case: str, make_client: Any) -> None:
    trainer, targets = CASES[case]
    pipeline = fitted(trainer, *targets)
    client, rows = make_client(pipeline, name="m"), table(5, seed=1).select(COLUMNS)
    said = client.post("/explain", json=rows.to_dicts()).json()["explanations"]
    for own, row in zip(said, pipeline.explain(rows).to_dicts(), strict=True):
        parts = [("", own)] if len(targets) == 1 else [(f"_{t}", own[t]) for t in targets]
        for suffix, part in parts:
            assert part["contributions"] == {c: row[f"{c}{suffix}"] for c in COLUMNS}
            assert (part["base_value"], part["score"]) == (row[f"base_value{suffix}"], row[f"score{suffix}"])
        assert own.get("class") == row.get("class")
    page = client.get("/").text
    assert f'data-explains="{"ask" if case == "forest" else "auto"}"' in page
    assert "/explain" in client.get("/openapi.json").json()["paths"]


def test_a_class_can_be_chosen(make_client: Any) -> None:
    pipeline = fitted(CASES["xgboost"][0], "late")
    client, rows = make_client(pipeline, name="m"), table(2, seed=1).select(COLUMNS)
    said = client.post("/explain", json={"rows": rows.to_dicts(), "of": "no"}).json()["explanations"]
    assert [own["score"] for own in said] == pipeline.explain(rows, of="no")["score"].to_list()
    refused = client.post("/explain", json={"rows": rows.to_dicts(), "of": "maybe"})
    assert refused.status_code == 422
    assert "of has a wrong value" in refused.json()["error"]


@pytest.mark.parametrize(
    ("case", "n_rows_max"), [("xgboost", explanations.MAX_EXACT_ROWS), ("forest", explanations.MAX_ESTIMATED_ROWS)]
)
def test_many_rows_are_refused(case: str, n_rows_max: int, make_client: Any) -> None:
    client = make_client(fitted(CASES[case][0], "late"), name="m")
    rows = table(n_rows_max + 1, seed=1).select(COLUMNS).to_dicts()
    refused = client.post("/explain", json=rows)
    assert refused.status_code == 422
    assert f"at most {n_rows_max} rows" in refused.json()["error"]
    assert client.post("/explain", json=[{"a": 1}]).status_code == 422
    assert client.post("/explain", content=b"{", headers={"content-type": "application/json"}).status_code == 400
    assert client.get("/explain").status_code == 405


def test_a_model_without_examples_says_that_it_cannot(make_client: Any) -> None:
    known = fitted(CASES["forest"][0], "late")
    model = Model("sklearn", known.model.native, known.model.schema, known.model.target)
    client = make_client(InferencePipeline(known.preprocessor, model), name="m")
    refused = client.post("/explain", json=table(1).select(COLUMNS).to_dicts())
    assert refused.status_code == 422
    assert "no example rows" in refused.json()["error"]
    assert 'data-explains=""' in client.get("/").text

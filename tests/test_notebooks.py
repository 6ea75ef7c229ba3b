"""The notebooks run, and objects show themselves in them.

Covers `preprocessing.diagram` too.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from rayline import train
from rayline.preprocessing.diagram import flow
from rayline.stages import (
    Concatenator,
    DropColumns,
    Log,
    OneHotEncoder,
    PolynomialFeatures,
    SimpleImputer,
    StandardScaler,
    Upsample,
)

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))

TABLE = pl.DataFrame(
    {"x": [1.0, None, 3.0, 4.0] * 5, "y": [2.0, 3.0, 4.0, 9.0] * 5, "city": ["Oslo", "<b>Rome", None, "Bern"] * 5, "late": [0, 1, 0, 1] * 5}
)  # fmt: skip


def text(html: str) -> str:
    return re.sub(r"<[^>]*>", " ", html)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "src"))
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=180, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [set(o.get("data", {})) for cell in notebook.cells for o in cell.get("outputs", [])]
    assert sum("text/html" in kinds for kinds in shown) >= 2
    assert any("image/png" in kinds for kinds in shown)


def test_the_notebooks_are_stored_without_outputs() -> None:
    assert len(NOTEBOOKS) >= 2
    for path in NOTEBOOKS:
        assert '"outputs": []' in path.read_text(encoding="utf-8")
        assert '"output_type"' not in path.read_text(encoding="utf-8")


def test_a_preprocessor_is_a_diagram() -> None:
    stages = [
        ("impute", SimpleImputer()), ("products", PolynomialFeatures(["x", "y"])), ("onehot", OneHotEncoder()),
        ("even", Upsample()), ("drop", DropColumns(["y"])),
    ]  # fmt: skip
    preprocessor = train.Preprocessor(stages, target_stages=[("log", Log())])
    assert "not fitted" in text(preprocessor._repr_html_())
    shown = preprocessor.fit(TABLE, target_columns=["late"])._repr_html_()
    assert "<b>Rome" not in shown.replace("city_<b>Rome", "escaped wrongly")
    assert "city → city_&lt;b&gt;Rome" in shown
    said = text(shown)
    for part in (
        "3 columns",
        "fitted in",
        "x, y → x^2, x y, y^2",
        "training rows only",
        "y → nothing",
        "for the target",
    ):
        assert part in said, part


def test_flow() -> None:
    preprocessor = train.Preprocessor([("one", SimpleImputer(["x"])), ("two", Concatenator(["x", "y"], output="v"))])
    preprocessor.fit(TABLE, target_columns=["late"])
    (_, one), (_, two) = preprocessor.leaves
    first, schema = flow(one.to_operations(), dict(preprocessor.input_schema))
    assert first == (["x"], ["x"], [])
    second, schema = flow(two.to_operations(), schema)
    assert (second.reads, second.makes, sorted(second.removes)) == (["x", "y"], ["v"], ["x", "y"])
    assert list(schema) == list(preprocessor.output_schema)


@pytest.mark.parametrize("target", ["late", "y"])
def test_a_pipeline_shows_what_it_does(target: str) -> None:
    steps = train.Preprocessor([("scale", StandardScaler()), ("onehot", OneHotEncoder())])
    table = TABLE.with_columns(pl.col("late").cast(pl.String))
    result = train.XGBoostTrainer({}, num_boost_round=2).fit(steps, table, table, target_columns=target, verbose=False)
    said = text(result.inference_pipeline._repr_html_())
    assert "→ prediction" in said.replace("&gt;", ">")
    assert "XGBoost" in said or "xgboost" in said
    assert ("regression" in said) == (target == "y")
    assert "test-" in said
    alone = train.XGBoostTrainer({}, num_boost_round=2).fit(None, table[["x", "y"]], target_columns="y", verbose=False)
    assert "InferencePipeline" in text(alone.inference_pipeline._repr_html_())


def test_figures_appear_in_notebooks(monkeypatch: pytest.MonkeyPatch) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    import sys
    import types

    steps, table = train.Preprocessor([("scale", StandardScaler(["x"]))]), TABLE.drop("city")
    result = train.XGBoostTrainer({}, num_boost_round=2).fit(steps, table, target_columns="y", verbose=False)
    before: Any = np.array(pyplot.get_fignums())
    result.plot()
    assert len(pyplot.get_fignums()) == len(before)  # a script's figures are not pyplot's, which would keep them
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    result.plot()
    assert len(pyplot.get_fignums()) == len(before) + 1
    pyplot.close("all")

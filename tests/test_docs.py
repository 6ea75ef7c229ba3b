"""Every Python block of the documentation runs, page by page, in the order of the page.

A page is run in a folder with the files that its blocks may name: `flights.parquet`, `late.rayline` and `better.rayline`. A
page whose blocks need Ray begins with the comment `<!-- test: ray -->`; for one with `<!-- test: gpu -->` the CPU counts as a GPU.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import re
import sys
import types
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from docs._ext import migration
from sklearn.linear_model import LinearRegression

from rayline import MissingExtraError, RaylineError, device, train
from rayline.core import registry
from rayline.evaluate import metrics
from rayline.stages import OneHotEncoder, SimpleImputer, StandardScaler

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
RAY, GPU = "<!-- test: ray -->", "<!-- test: gpu -->"


def pages() -> list[Any]:
    """The pages with Python blocks; those for Ray with its marks."""
    found = []
    for path in sorted((ROOT / "docs").rglob("*.md")):
        if path.is_relative_to(ROOT / "docs" / "reference" / "api"):
            continue  # generated
        text = path.read_text(encoding="utf-8")
        if BLOCK.search(text):
            marks = [pytest.mark.ray, pytest.mark.slow] if RAY in text else []
            found.append(pytest.param(path, marks=marks, id=str(path.relative_to(ROOT))))
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, with a table of flights and two pipelines."""
    table = pl.DataFrame(migration.flights())
    table.write_parquet(tmp_path / "flights.parquet")
    for name, rounds in (("late", 2), ("better", 4)):
        stages = [("impute", SimpleImputer()), ("scale", StandardScaler()), ("onehot", OneHotEncoder())]
        trainer = train.XGBoostTrainer({}, num_boost_round=rounds)
        result = trainer.fit(train.Preprocessor(stages), table, target_columns="late", verbose=False)
        result.inference_pipeline.save(tmp_path / f"{name}.rayline")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def mlflow_of_its_own() -> Iterator[None]:
    """MLflow keeps the store that a script chose for the whole process."""
    import mlflow

    yield
    mlflow.set_tracking_uri(None)


@pytest.mark.parametrize("page", pages())
def test_the_page_runs(
    page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("RAYLINE_QUIET", "1")
    text = page.read_text(encoding="utf-8")
    if GPU in text:
        monkeypatch.setenv(device.PRETENDED, "cpu")
    for library in re.findall(r"^(?:import|from) (mlflow|torch|transformers|lightning)\b", text, re.MULTILINE):
        if library not in metadata.packages_distributions():
            pytest.skip(f"{library} is not installed")
        if library == "mlflow":
            request.getfixturevalue("mlflow_of_its_own")
    if RAY in text:
        request.getfixturevalue("ray_session")
    main = types.ModuleType("__main__")  # as in a script: its classes can be pickled
    if RAY not in text:
        monkeypatch.setitem(sys.modules, "__main__", main)
    names = vars(main)
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start(1))
        try:
            exec(compile("\n" * line + block[1], str(page), "exec"), names)  # errors then name the line of the page
        except MissingExtraError as error:
            pytest.skip(str(error))


OURS = [name for name in registry.stages() if registry.stage(name).__module__.startswith("rayline.")]
"""The stages that no test has registered."""


@pytest.mark.parametrize("name", OURS)
def test_every_stage_stands_on_a_page_with_its_parameters(name: str) -> None:
    folder = ROOT / "docs" / "stages"
    assert re.search(rf"\b{name}\b", (folder / "index.md").read_text(encoding="utf-8")), f"{name} is not in the list"
    rows = {
        page.name: line
        for page in folder.glob("*.md")
        for line in page.read_text(encoding="utf-8").splitlines()
        if line.startswith(f"| {name} |")
    }
    assert len(rows) == 1, f"{name} has a line on {sorted(rows)}"
    (page, line), *_ = rows.items()
    text = (folder / page).read_text(encoding="utf-8")
    assert "\n```python\n" in text
    for field in dataclasses.fields(registry.stage(name)):
        if field.init and field.name != "columns":
            common = (
                text if page == "text.md" else text.partition("\n| stage |")[0]
            )  # said once for all stages of the page
            assert re.search(rf"`{field.name}\b", line + common), f"{name}: {field.name} is not on {page}"


def test_every_migration_page_was_run_in_the_environment_of_the_other_library() -> None:
    pages = {page.stem for page in migration.PAGES.glob("*.md")} - {"index", "executed"}
    assert pages == {*migration.PEERS}
    record = migration.lines()
    assert {*record} == pages
    for name, line in record.items():
        peer = migration.PEERS[name]
        assert len(migration.BLOCK.findall((migration.PAGES / f"{name}.md").read_text(encoding="utf-8"))) == 2
        assert re.search(
            rf"\| {re.escape(peer.distribution)} \d[\d.]+ \| 3\.\d+\.\d+ \| AUC 0\.\d+, .* \| AUC 0\.\d+, ",
            line,
        )


def test_every_package_has_its_paragraph_in_the_map() -> None:
    text = (ROOT / "docs" / "about" / "architecture.md").read_text(encoding="utf-8")
    packages = [path.parent.name for path in (ROOT / "src" / "rayline").glob("*/__init__.py")]
    assert [name for name in packages if not re.search(rf"^\| `{name}` \| .{{30,}} \|$", text, re.MULTILINE)] == []


def test_messages_of_the_troubleshooting_page_exist() -> None:
    text = (ROOT / "docs" / "how-to" / "troubleshooting.md").read_text(encoding="utf-8")
    source = " ".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    messages = re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)
    assert len(messages) > 20
    assert [message for message in messages if message not in source] == []


def test_every_metric_is_listed() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    lines = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    assert list(lines) == metrics.names()
    for name, line in lines.items():
        metric = metrics.get(name)
        assert f"| `{name}` | {metric.mode} | " in line
        assert metric.about in line
        assert {*re.findall(r"`([^`]+)`", line.rpartition(" | ")[2])} == {
            a for a, own in metrics.aliases().items() if own == name
        }


@pytest.mark.parametrize(
    "name", [name for name in train.__all__ if name.endswith("Trainer") and name not in ("Trainer", "HorovodTrainer")]
)
def test_every_trainer_is_described_with_its_arguments(name: str) -> None:
    folder, file = ROOT / "docs" / "trainers", f"{name.removesuffix('Trainer').lower()}.md"
    listed = names_in_table((folder / file).read_text(encoding="utf-8").partition("\n## Arguments\n")[2])
    try:
        adapter = registry.framework(getattr(train, name).framework_id)
    except ImportError:
        pytest.skip("its library is not installed")
    assert listed == list(inspect.signature(adapter.train).parameters)[1:]
    text = (folder / "index.md").read_text(encoding="utf-8")
    options = names_in_table(text.partition("\n## Options of every trainer\n")[2].strip().partition("\n\n")[0])
    own = inspect.signature(train.Trainer.__init__).parameters
    assert options == [n for n, p in own.items() if p.kind is p.KEYWORD_ONLY]


@pytest.mark.parametrize("what", ["missing values", "categories", "several targets"])
@pytest.mark.parametrize("name", ["XGBoost", "LightGBM", "CatBoost", "Torch", "Sklearn"])
def test_a_trainer_takes_and_refuses_what_its_page_says(name: str, what: str) -> None:
    text = (ROOT / "docs" / "trainers" / f"{name.lower()}.md").read_text(encoding="utf-8")
    said = dict(re.findall(r"^\| ([a-z ]+) \| (.+) \|$", text, re.MULTILINE))[what]
    if said.startswith("w"):
        pytest.skip("depends on the estimator")
    try:
        trainer = {
            "XGBoost": lambda: train.XGBoostTrainer({}, num_boost_round=2),
            "LightGBM": lambda: train.LightGBMTrainer({"verbosity": -1}, num_boost_round=2),
            "CatBoost": lambda: train.CatBoostTrainer({"iterations": 2}),
            "Torch": lambda: train.TorchTrainer("MLP", max_epochs=1),
            "Sklearn": lambda: train.SklearnTrainer(LinearRegression()),
        }[name]()
        registry.framework(trainer.framework_id)
    except ImportError:
        pytest.skip("its library is not installed")
    x = np.linspace(0, 1, 60)
    table = pl.DataFrame({"x": x, "a": 2 * x, "b": -x})
    if what == "missing values":
        table = table.with_columns(x=pl.when(pl.col("x") > 0.2).then("x"))
    elif what == "categories":
        table = table.with_columns(city=pl.Series(["Oslo", "Rome", "Bern"] * 20))
    targets = ["a", "b"] if what == "several targets" else ["a"]
    refused: Any = contextlib.nullcontext()
    if said.startswith(("refused", "no")):
        refused = pytest.raises(RaylineError)
    with refused:
        trainer.fit(None, table, target_columns=targets, verbose=False)


def names_in_table(text: str) -> list[str]:
    return [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")]


def test_every_stage_names_what_it_is_compared_with() -> None:
    text = (ROOT / "docs" / "reference" / "stages.md").read_text(encoding="utf-8")
    rows = {
        match[1]: match for match in re.finditer(r"^\| \[(\w+)\]\(\S+\) \| (.+) \| `(\S+)` \|$", text, re.MULTILINE)
    }
    assert list(rows) == sorted(
        name for name in registry.stages() if registry.stage(name).__module__.startswith("rayline.")
    )
    for name, row in rows.items():
        test = (ROOT / "tests" / "stages" / row[3]).read_text(encoding="utf-8")
        assert re.search(rf"\b{name}\b", test), f"{row[3]} does not test {name}"
        for oracle in re.findall(r"`(sklearn\.[\w.]+)`", row[2]):
            module, _, found = oracle.rpartition(".")
            assert hasattr(importlib.import_module(module), found), oracle
            assert re.search(rf"\b{found}\b", test), f"{row[3]} does not use {oracle}"


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target

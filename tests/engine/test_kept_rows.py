"""How often each step runs the user's own functions, counted; and what does not fit is read again."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from rayline import data, train, tune
from rayline.engine import kept_rows
from rayline.stages import PCA, OneHotEncoder, StandardScaler

pytestmark = pytest.mark.ray

N_BLOCKS, ROWS = 6, 50


@pytest.fixture
def costly(ray_session: Any, tmp_path: Path) -> tuple[Any, Callable[[], float]]:
    """A Dataset with a function of the user, and how often it has run on all rows since the last question."""

    def work(batch: dict[str, Any]) -> dict[str, Any]:
        (tmp_path / f"{int(batch['id'][0])}-{uuid.uuid4().hex}").touch()
        ids = batch["id"]
        x = np.sin(ids * 12.9)
        return {
            "x": x,
            "z": np.cos(ids * 3.7),
            "city": np.array(["a", "b", "c"])[ids % 3],
            "y": 2 * x + ids % 3,
            "id": ids,
        }

    def runs() -> float:
        files = list(tmp_path.iterdir())
        for file in files:
            file.unlink()
        return len(files) / N_BLOCKS

    rows = ray_session.data.range(N_BLOCKS * ROWS, override_num_blocks=N_BLOCKS).map_batches(work, batch_size=ROWS)
    return rows, runs


def stages() -> train.Preprocessor:
    return train.Preprocessor(
        [("scale", StandardScaler(columns=["x", "z"])), ("onehot", OneHotEncoder(columns=["city"]))]
    )


def xgboost(workers: int | None = 2) -> train.XGBoostTrainer:
    return train.XGBoostTrainer({"max_depth": 2}, num_boost_round=2, num_workers=workers, seed=1)


def in_process() -> pl.DataFrame:
    ids = np.arange(N_BLOCKS * ROWS)
    x = np.sin(ids * 12.9)
    return pl.DataFrame(
        {"x": x, "z": np.cos(ids * 3.7), "city": np.array(["a", "b", "c"])[ids % 3], "y": 2 * x + ids % 3, "id": ids}
    )


def test_fits_read_once_however_many_scans(costly: Any) -> None:
    rows, runs = costly
    fitted = stages().fit(rows, target_columns=["y"])
    assert runs() == 1
    expected = stages().fit(in_process(), target_columns=["y"])
    assert fitted.output_schema == expected.output_schema
    two = train.Preprocessor([("pca", PCA(columns=["x", "z"], n_components=2)), ("scale", StandardScaler())])
    two.fit(rows, target_columns=["y"])
    assert runs() == 1


@pytest.mark.parametrize("workers", [2, None])
def test_a_training_reads_each_table_once(costly: Any, workers: int | None) -> None:
    rows, runs = costly
    result = train.fit(xgboost(workers), stages(), rows, None, ["y"], verbose=False)
    assert runs() == 1
    result = train.fit(xgboost(workers), stages(), rows, rows.map_batches(_same), ["y"], verbose=False)
    assert runs() == 2
    expected = train.fit(xgboost(None), stages(), in_process(), in_process(), ["y"], verbose=False)
    assert result.metrics["test-rmse"] == pytest.approx(expected.metrics["test-rmse"], rel=0.05)
    assert result.model.data["n_rows"] == N_BLOCKS * ROWS
    fitted = stages().fit(in_process(), target_columns=["y"])
    train.fit(xgboost(workers), fitted, rows, None, ["y"], verbose=False)
    assert runs() == 1


def _same(batch: Any) -> Any:
    return batch


def test_a_split_and_the_use_of_its_sides_read_once(costly: Any) -> None:
    rows, runs = costly
    trainset, testset = data.train_test_split(rows, 0.25)
    assert testset.count() == 75
    assert trainset.count() == 225
    train.fit(xgboost(), stages(), trainset, testset, ["y"], verbose=False)
    assert runs() == 1


def test_folds_and_searches_read_once(costly: Any) -> None:
    rows, runs = costly
    scores = train.cross_validate(xgboost(), stages(), rows, ["y"], cv=2, verbose=False)
    assert sum(result.model.data["n_rows"] for result in scores.results) == N_BLOCKS * ROWS
    assert runs() == 1
    analysis = tune.run(
        xgboost(None), train_dataset=rows, preprocessor=stages(), target_columns=["y"], cv=2, num_samples=2,
        config={"max_depth": tune.randint(2, 6)}, metric="rmse", verbose=False,
    )  # fmt: skip
    assert runs() == 1
    assert analysis.best_model.data["n_rows"] == N_BLOCKS * ROWS
    assert runs() == 1  # the best model is a training of its own


def test_rows_that_do_not_fit_are_read_again(costly: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_rows, "KEPT_SHARE", 0.0)
    rows, runs = costly
    result = train.fit(xgboost(), stages(), rows, None, ["y"], verbose=False)
    assert runs() == 2
    assert result.model.data["n_rows"] == N_BLOCKS * ROWS
    trainset, _ = data.train_test_split(rows, 0.25)
    assert runs() == 1
    assert trainset.count() == 225
    assert runs() == 1


def test_rows_of_files_are_not_kept(ray_session: Any, tmp_path: Path) -> None:
    in_process().write_parquet(tmp_path / "rows.parquet")
    files = data.read_parquet(str(tmp_path / "rows.parquet"))
    assert not kept_rows._runs_functions(files)
    assert not kept_rows._runs_functions(files.select_columns(["x"]))
    assert not kept_rows._runs_functions(stages().fit(in_process()).transform(files))
    assert kept_rows._runs_functions(files.map_batches(_same))
    assert not kept_rows._runs_functions(files.map_batches(_same).materialize())


def test_nothing_is_kept_after_a_step(costly: Any) -> None:
    rows, _ = costly
    stages().fit(rows, target_columns=["y"])
    assert kept_rows.kept_rows(rows) is None
    with pytest.raises(ZeroDivisionError), kept_rows.keeping([rows], lambda one: iter(())):
        raise ZeroDivisionError
    assert kept_rows.kept_rows(rows) is None


SMALL_STORE = """
import numpy as np, ray
ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
         object_store_memory=80 << 20, _system_config={"automatic_object_spilling_enabled": False})
from rayline import train
def work(batch):
    random = np.random.default_rng(int(batch["id"][0]))
    return {**{f"x{i}": random.normal(size=len(batch["id"])) for i in range(12)}, "y": random.normal(size=len(batch["id"]))}
try:
    rows = ray.data.range(1_200_000, override_num_blocks=12).map_batches(work, batch_size=None)
    trainer = train.XGBoostTrainer({}, num_boost_round=2, num_workers=2)
    print(train.fit(trainer, None, rows, None, ["y"], verbose=False).model.data["n_rows"])
finally:
    ray.shutdown()
"""


@pytest.mark.slow
def test_rows_larger_than_the_object_store_without_spilling() -> None:
    """125 MB of rows in a store of 80 MB: kept rows give way, and prepared ones go to files that Ray maps."""
    made = subprocess.run([sys.executable, "-c", SMALL_STORE], capture_output=True, text=True, check=True, timeout=400)
    assert made.stdout.split()[-1] == "1200000"

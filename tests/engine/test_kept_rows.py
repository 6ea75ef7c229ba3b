"""How often each step runs the user's own functions, counted; and what does not fit is read again."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LinearRegression

import rayline as rl
from rayline import data, train, tune
from rayline.compat import ray as ray_names
from rayline.core import registry
from rayline.engine import kept_rows
from rayline.engine.blocks import BlockTask
from rayline.engine.idle_worker import SETTING
from rayline.engine.kept_groups import KEPT
from rayline.engine.tasks import TaskResult, on_blocks
from rayline.postprocess import Conformal
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


def unseen(rows: Any) -> Any:
    """The same rows as a Dataset of which nothing is known yet."""
    return rows.map_batches(_same)


def test_a_split_and_the_use_of_its_sides_read_once(costly: Any) -> None:
    rows, runs = costly
    trainset, testset = data.train_test_split(rows, 0.25)
    assert testset.count() == 75
    assert trainset.count() == 225
    train.fit(xgboost(), stages(), trainset, testset, ["y"], verbose=False)
    assert runs() == 1
    for shuffle in (True, False):
        trainset, testset = data.train_test_split(unseen(rows), shuffle=shuffle, test_size=60)
        assert (trainset.count(), testset.count(), runs()) == (240, 60, 1)


def test_folds_and_searches_read_once(costly: Any) -> None:
    rows, runs = costly
    scores = train.cross_validate(xgboost(), stages(), rows, ["y"], cv=2, verbose=False)
    assert sum(result.model.data["n_rows"] for result in scores.results) == N_BLOCKS * ROWS
    assert runs() == 1
    analysis = tune.run(
        xgboost(None), train_dataset=unseen(rows), preprocessor=stages(), target_columns=["y"], cv=2, num_samples=2,
        config={"max_depth": tune.randint(2, 6)}, metric="rmse", verbose=False,
    )  # fmt: skip
    assert runs() == 1
    assert analysis.best_model.data["n_rows"] == N_BLOCKS * ROWS
    assert runs() == 1  # the best model is a training of its own
    assert len(stages().fit_folds(unseen(rows), 3)) == 3
    assert runs() == 1


@pytest.mark.slow
def test_comparisons_and_what_follows_a_search_read_once(costly: Any) -> None:
    rows, runs = costly
    least_squares = train.SklearnTrainer(LinearRegression())
    compared = tune.compare(
        {"trees": (xgboost(None), {"max_depth": tune.grid_search([2, 3])}), "line": least_squares}, train_dataset=rows,
        test_dataset=unseen(rows), preprocessor=stages(), target_columns=["y"], cv=2, num_samples=1, metric="rmse",
        postprocess=[Conformal(0.8)], verbose=False,
    )  # fmt: skip
    assert runs() == 2
    analysis = compared["trees"]
    assert analysis.oof.count() == N_BLOCKS * ROWS
    assert runs() == 0
    assert analysis.calibrated([Conformal(0.8)]).has_intervals
    assert runs() == 2  # it trains the best model


@pytest.mark.parametrize(
    "step",
    [
        "evaluate", "calibrated", "shap", "permutation", "explain", "background", "transform", "write", "partial_dependence",
        "card",
    ],
)  # fmt: skip
def test_uses_of_a_pipeline_read_once(costly: Any, tmp_path_factory: Any, step: str) -> None:
    rows, runs = costly
    pipeline = train.fit(xgboost(None), stages(), in_process(), None, ["y"], verbose=False).inference_pipeline
    use: dict[str, Callable[[], Any]] = {
        "evaluate": lambda: pipeline.evaluate(rows, by="city", replicates=10),
        "calibrated": lambda: pipeline.calibrated([Conformal(0.8, by="city")], rows),
        "shap": lambda: pipeline.importance("shap", rows=rows),
        "permutation": lambda: pipeline.importance("permutation", rows=rows, n_repeats=1),
        "explain": lambda: pipeline.explain(rows).materialize(),
        "background": lambda: pipeline.explain(in_process().head(1), background=rows),
        "transform": lambda: pipeline.transform(rows, keep_columns=["id"]).materialize(),
        "write": lambda: pipeline.write_predictions(rows, tmp_path_factory.mktemp("written") / "x"),
        "partial_dependence": lambda: pipeline.partial_dependence(rows, "x", grid=5),
        "card": lambda: rl.model_card(pipeline, data=rows),
    }
    use[step]()
    assert runs() == 1


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
    assert not kept_rows.runs_functions(files)
    assert not kept_rows.runs_functions(files.select_columns(["x"]))
    assert not kept_rows.runs_functions(stages().fit(in_process()).transform(files))
    assert kept_rows.runs_functions(files.map_batches(_same))
    assert not kept_rows.runs_functions(files.map_batches(_same).materialize())


def test_nothing_is_kept_after_a_step(costly: Any) -> None:
    rows, _ = costly
    stages().fit(rows, target_columns=["y"])
    assert kept_rows.kept_rows(rows) is None
    with pytest.raises(ZeroDivisionError), kept_rows.keeping([rows], lambda one: iter(())):
        raise ZeroDivisionError
    assert kept_rows.kept_rows(rows) is None


# -- small Datasets --------------------------------------------------------------------------------------------------------


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The Datasets that Ray Data was started to read."""
    found: list[Any] = []
    read = ray_names.ref_bundles

    def counted(data: Any) -> Any:
        found.append(data)
        return read(data)

    monkeypatch.setattr("rayline.engine.reading.ref_bundles", counted)
    monkeypatch.setenv(SETTING, "600")
    kept_rows.RECENT.clear()  # what tests before have kept
    yield found
    kept_rows.RECENT.clear()
    kept = KEPT._swap(None)
    if kept is not None:
        kept[1].end()


def fitted(rows: Any, depth: int = 2) -> Any:
    trainer = train.XGBoostTrainer({"max_depth": depth}, num_boost_round=2, num_workers=1, seed=1)
    return train.fit(trainer, stages(), rows, None, ["y"], verbose=False)


def test_fits_in_a_row_read_a_small_dataset_once(
    ray_session: Any, readings: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_process().write_parquet(tmp_path / "rows.parquet")
    files = data.read_parquet(str(tmp_path / "rows.parquet"))
    first = fitted(files)
    assert len(readings) == 1  # the scan, the examples and the rows of the workers
    again = fitted(files)
    assert len(readings) == 1
    ((_, _, rows, _),) = kept_rows.RECENT._rows.values()
    assert len(rows._results) == 2  # the scan and the prepared rows: what two equal fits learn is the same function
    expected = train.fit(xgboost(None), stages(), in_process(), None, ["y"], verbose=False)
    for result in (first, again):
        assert result.inference_pipeline.predict(in_process()).equals(expected.inference_pipeline.predict(in_process()))
        assert result.model.examples.equals(expected.model.examples)
    assert fitted(files, depth=3).model.data["n_rows"] == N_BLOCKS * ROWS
    assert len(readings) == 1
    in_process().head(100).write_parquet(tmp_path / "rows.parquet")  # other rows under the same name
    assert fitted(files).model.data["n_rows"] == 100
    assert len(readings) == 2
    monkeypatch.setenv(SETTING, "0")
    assert fitted(files).model.data["n_rows"] == 100
    assert fitted(files).model.data["n_rows"] == 100
    assert len(readings) == 4 - 1  # those of the fit before were still there


def test_rows_of_a_small_dataset_are_let_go(
    ray_session: Any, readings: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = ray_session.data.from_arrow(in_process().to_arrow())
    monkeypatch.setenv(SETTING, "0.5")
    stages().fit(rows, target_columns=["y"])
    deadline = time.monotonic() + 20
    while kept_rows.RECENT._rows:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_same_task_runs_once_on_rows_that_stay(
    ray_session: Any, readings: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks: list[BlockTask] = []

    def counted(bundles: Iterator[Any], task: BlockTask) -> Iterator[TaskResult]:
        tasks.append(task)
        return on_blocks(bundles, task)

    monkeypatch.setattr(kept_rows, "on_blocks", counted)
    rows = ray_session.data.from_arrow(in_process().to_arrow())
    first = fitted(rows)
    n_first = len(tasks)
    assert n_first  # the scan, the rows of the workers
    again = fitted(rows)
    assert len(tasks) == n_first
    assert again.preprocessor.to_json() == first.preprocessor.to_json()
    deeper = fitted(rows, depth=3)  # another training of the same rows
    assert len(tasks) == n_first
    assert deeper.fitted_model.save_raw() != first.fitted_model.save_raw()
    scaled = train.Preprocessor([("scale", StandardScaler(columns=["x"]))]).fit(rows)
    assert len(tasks) == n_first + 1
    assert (
        scaled.to_json() == train.Preprocessor([("scale", StandardScaler(columns=["x"]))]).fit(in_process()).to_json()
    )
    kept = next(iter(kept_rows.RECENT._rows.values())).rows
    monkeypatch.setattr(kept_rows, "MAX_RESULTS", 2)
    for columns in (["z"], ["x", "z"], ["y"]):
        train.Preprocessor([("scale", StandardScaler(columns=columns))]).fit(rows)
    assert len(kept._results) == 2
    fitted(rows)  # what had to go is made again
    assert len(tasks) > n_first + 4


def test_small_datasets_in_turn_are_read_once(
    ray_session: Any, readings: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_process().write_parquet(tmp_path / "rows.parquet")
    first, second = (data.read_parquet(str(tmp_path / "rows.parquet")) for _ in range(2))
    for files in (first, second, first, second):
        fitted(files)
    assert len(readings) == 2
    sizes = [kept.rows.size_bytes for kept in kept_rows.RECENT._rows.values()]
    assert len(sizes) == 2
    assert min(sizes) > 0
    monkeypatch.setattr(kept_rows, "RECENT_BYTES", max(sizes))
    fitted(first)
    fitted(first)
    assert len(readings) == 2  # the one that was used last has stayed
    fitted(second)
    assert len(readings) == 3
    del first
    gc.collect()
    fitted(second)
    assert [kept.data() for kept in kept_rows.RECENT._rows.values()] == [second]


def _remembered(worker: Any) -> tuple[int, int, Any, int]:
    """What a worker has remembered of its rows; it remembers more each time."""
    rows = sum(block().height for block in worker.train)
    if worker.remembered is None:
        return os.getpid(), rows, None, worker.rank
    worker.remembered[len(worker.remembered)] = rows
    return os.getpid(), rows, len(worker.remembered), worker.rank


def test_workers_remember_rows_that_stay(
    ray_session: Any, readings: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = registry.engine("ray")
    rows, others = (ray_session.data.from_arrow([in_process()[i:].to_arrow()] * 2) for i in (0, 10))

    def trained(rows: Any, prepare: Any = _same, test: Any = None) -> list[Any]:
        with engine.keeping(rows):
            engine.head(rows, 1, ["x"])
            made = engine.train(
                _remembered,
                num_workers=2,
                train=rows,
                test=test,
                prepare=prepare,
                prepare_test=_twice,
                reuse="remembered",
            )
        assert [height for _, height, _, _ in made] == [rows.count() // 2] * 2
        return [count for _, _, count, _ in made]

    assert [trained(rows) for _ in range(3)] == [[1, 1], [2, 2], [3, 3]]
    assert trained(rows, test=rows) == [4, 4]  # the same rows, prepared in another way, take nothing from them
    assert trained(rows) == [5, 5]
    assert trained(rows, _twice) == [1, 1]  # other columns of the same rows
    assert trained(rows) == [1, 1]  # only the rows of the last training are remembered
    assert trained(others) == [1, 1]
    assert trained(others) == [2, 2]
    monkeypatch.setattr(kept_rows, "RESULTS_BYTES", 100)
    assert trained(rows, _others) == [None, None]  # they are too large to stay
    monkeypatch.undo()
    assert trained(others) == [1, 1]


def _others(table: pl.LazyFrame) -> pl.LazyFrame:
    return table.with_columns(x3=3 * pl.col("x"))


def _twice(table: pl.LazyFrame) -> pl.LazyFrame:
    return table.with_columns(x2=2 * pl.col("x"))


@pytest.mark.parametrize("framework", ["xgboost", "lightgbm"])
def test_what_is_remembered_is_of_the_same_labels_weights_and_arguments(
    ray_session: Any, readings: list[Any], monkeypatch: pytest.MonkeyPatch, framework: str
) -> None:
    pytest.importorskip(framework)
    table = in_process().with_columns(label=pl.col("city").replace({"a": "c"}), weight=1.0 + pl.col("id") % 3)
    rows = ray_session.data.from_arrow(table.to_arrow())
    make: Any = train.XGBoostTrainer if framework == "xgboost" else train.LightGBMTrainer
    params: dict[str, Any] = {"max_depth": 3} | (
        {} if framework == "xgboost" else {"verbosity": -1, "min_data_in_leaf": 5}
    )
    encoded = train.Preprocessor([("onehot", OneHotEncoder(columns=["city"]))])
    steps: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {"target_columns": ["y"]}),
        ({}, {"target_columns": ["y"]}),
        ({"max_bin": 4}, {"target_columns": ["y"]}),
        ({"max_depth": 1}, {"target_columns": ["y"]}),
        ({}, {"target_columns": ["y"], "sample_weight": "weight"}),
        ({}, {"target_columns": ["x"]}),
        ({}, {"target_columns": ["label"]}),
    ]

    def models(first: int) -> list[str]:
        made = []
        for more, columns in steps[first:]:
            trainer = make({**params, **more}, num_boost_round=3, num_workers=2, seed=1)
            result = train.fit(trainer, encoded.clone(), rows, rows, verbose=False, **columns)
            made.append(result.inference_pipeline.scores(table.lazy()))
        return [scores.tobytes().hex() for scores in made]

    kept = models(0)
    assert len(set(kept)) == len(steps) - 1  # the first two are the same
    monkeypatch.setenv(SETTING, "0")
    kept_rows.RECENT.clear()
    assert kept[1:] == models(1)


def test_what_is_small_and_unchanged(ray_session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_process().write_parquet(tmp_path / "rows.parquet")
    in_process().write_csv(tmp_path / "rows.csv")
    for files in (
        data.read_parquet(str(tmp_path / "rows.parquet")),
        ray_session.data.read_csv(str(tmp_path / "rows.csv")),
    ):
        ((path, size, time_ns),) = kept_rows.unchanged_stamp(files) or ()
        assert Path(path).stat().st_size == size
        assert Path(path).stat().st_mtime_ns == time_ns
        assert kept_rows.unchanged_stamp(files.map_batches(_same)) is None  # it may do something else each time
        monkeypatch.setattr(kept_rows, "SMALL_BYTES", size - 1)
        assert kept_rows.unchanged_stamp(files) is None
        monkeypatch.undo()
    assert kept_rows.unchanged_stamp(ray_session.data.from_items([{"x": 1}])) == ()
    assert kept_rows.unchanged_stamp(ray_session.data.range(10)) is None
    (tmp_path / "rows.parquet").unlink()
    assert kept_rows.unchanged_stamp(data.read_csv(str(tmp_path / "rows.csv"))) is not None


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

"""Trackers: what they write is read back with the tools that it is written for.

Covers `train.trackers.base`, `train.trackers.mlflow`, `train.trackers.tensorboard` and `train.trackers.wandb` too.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import rayline as rl
from rayline import train, tune

TABLE = pl.DataFrame({"x": np.linspace(0, 1, 60), "y": np.linspace(0, 2, 60) ** 2})


def fit(callback: train.Callback, **options: Any) -> train.Result:
    trainer = train.XGBoostTrainer({"max_depth": 2}, num_boost_round=5, seed=1, **options)
    return trainer.fit(None, TABLE, TABLE, "y", callbacks=[callback], verbose=False)


def scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """The event files of a directory: TFRecords of Event messages."""
    from tensorboardX.event_file_writer import directory_check  # noqa: F401  # the package is there
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(directory.glob("events.out.tfevents.*")):
        data = file.read_bytes()
        at = 0
        while at < len(data):
            length = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 12 + length + 4
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found.setdefault(value.tag, []).append((event.step, value.simple_value))
                else:
                    found.setdefault(f"plugin:{value.metadata.plugin_data.plugin_name}", []).append((0, 0.0))
    return found


def log_records(data: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: LevelDB's log format after a header of 7 bytes."""
    block, at, parts = 1 << 15, 7, b""
    while at + 7 <= len(data):
        if block - at % block < 7:
            at += block - at % block
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


@pytest.fixture
def board() -> None:
    pytest.importorskip("tensorboardX", reason="the extra tracking is not installed")


@pytest.fixture
def flow() -> Iterator[Any]:
    pytest.importorskip("mlflow.exceptions", reason="the extra tracking is not installed")
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy", reason="the extra tracking is not installed")
    yield mlflow
    assert mlflow.active_run() is None


def test_tensorboard_has_every_iteration(board: None, tmp_path: Path) -> None:
    tracker = train.TensorBoard(tmp_path, name="one")
    result = fit(tracker)
    found = scalars(tmp_path / "one")
    for name in ("train-rmse", "test-rmse"):
        assert [step for step, _ in found[name]] == [0, 1, 2, 3, 4]
        assert np.allclose([value for _, value in found[name]], result.history[name], rtol=1e-6)
    assert found["final/test-r2"][0][1] == pytest.approx(result.metrics["test-r2"], rel=1e-6)
    assert "plugin:hparams" in found
    unnamed = train.TensorBoard(tmp_path / "more")
    fit(unnamed)
    fit(unnamed)
    assert len(list((tmp_path / "more").iterdir())) == 2  # one object, two trainings, two directories


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning", "ignore::FutureWarning")
def test_mlflow_has_parameters_metrics_and_status(flow: Any, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/runs.db"
    before = flow.get_tracking_uri()
    tracker = train.MLflow("delays", tracking_uri=uri, tags={"by": "test"})
    result = fit(tracker)
    client = flow.tracking.MlflowClient(uri)
    experiment = client.get_experiment_by_name("delays").experiment_id
    (run,) = client.search_runs([experiment])
    assert run.info.status == "FINISHED"
    assert run.data.params == {"framework": "xgboost", "max_depth": "2", "num_boost_round": "5", "seed": "1"}
    assert run.data.tags["by"] == "test"
    history = client.get_metric_history(run.info.run_id, "test-rmse")
    assert [(m.step, m.value) for m in history] == list(enumerate(result.history["test-rmse"]))
    assert run.data.metrics["final/test-r2"] == result.metrics["test-r2"]
    assert flow.get_tracking_uri() == before

    class Break(train.Callback):
        def on_iteration(self, run: Any, iteration: int, metrics: Any) -> None:
            raise ArithmeticError("on purpose")

    with pytest.raises(rl.TrainingError):
        train.XGBoostTrainer({}, num_boost_round=2).fit(
            None, TABLE, None, "y", callbacks=[tracker, Break()], verbose=False
        )
    assert sorted(r.info.status for r in client.search_runs([experiment])) == ["FAILED", "FINISHED"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning", "ignore::FutureWarning")
def test_mlflow_says_where_it_cannot_write(flow: Any, tmp_path: Path) -> None:
    with pytest.raises(rl.ParameterError, match="cannot be written"):
        fit(train.MLflow("delays", tracking_uri=f"file:{tmp_path}"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning", "ignore::FutureWarning")
def test_mlflow_keeps_the_pipeline(flow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/runs.db"
    result = fit(train.MLflow("delays", tracking_uri=uri, save_pipeline=True))
    client = flow.tracking.MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("delays").experiment_id])
    file = client.download_artifacts(run.info.run_id, "pipeline.rayline", str(tmp_path))
    assert rl.load(file).predict(TABLE).equals(result.inference_pipeline.predict(TABLE))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning", "ignore::FutureWarning")
def test_a_tuning_run_is_a_run_with_nested_runs(flow: Any, board: None, ray_session: Any, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/runs.db"
    analysis = tune.run(
        train.XGBoostTrainer({}, num_boost_round=3),
        {"train_dataset": TABLE, "target_columns": ["y"], "cv": 2},
        {"max_depth": tune.grid_search([1, 2, 3]), "preprocessor": {}},
        num_samples=1,
        verbose=False,
        callbacks=[
            train.MLflow("delays", tracking_uri=uri, name="search"),
            train.TensorBoard(tmp_path / "logs", name="search"),
        ],
    )
    client = flow.tracking.MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("delays").experiment_id])
    (parent,) = (run for run in runs if run.info.run_name == "search")
    nested = {r.info.run_name: r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id}
    assert sorted(nested) == ["trial-0000", "trial-0001", "trial-0002"]
    assert parent.data.metrics["final/best_rmse"] == analysis.best_score
    for trial in analysis.trials:
        run = nested[f"trial-{trial.number:04d}"]
        assert run.data.params["max_depth"] == str(trial.config["max_depth"])
        assert run.data.metrics["final/score"] == trial.score
        assert [m.value for m in client.get_metric_history(run.info.run_id, "fold_score")] == trial.scores
        assert run.info.status == "FINISHED"
        found = scalars(tmp_path / "logs" / "search" / f"trial-{trial.number:04d}")
        assert [step for step, _ in found["fold-1/train-rmse"]] == [0, 1, 2]
    # One training on workers is written as it is in this process.
    fit(train.TensorBoard(tmp_path, name="workers"), num_workers=2)
    assert [step for step, _ in scalars(tmp_path / "workers")["test-rmse"]] == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_wandb_writes_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="the extra tracking is not installed")
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    result = fit(train.WandB("delays", mode="offline", name="first", dir=tmp_path))
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    (file,) = folder.glob("*.wandb")

    from wandb.proto.wandb_internal_pb2 import Record

    history, summary, config, exits = [], {}, {}, []  # type: ignore[var-annotated]
    for data in log_records(file.read_bytes()):
        record = Record.FromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "history":
            history.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item})
        elif kind == "summary":
            summary |= {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.summary.update}
        elif kind == "run":
            config |= {i.key: json.loads(i.value_json) for i in record.run.config.update}
        elif kind == "exit":
            exits.append(record.exit.exit_code)
    assert [row["iteration"] for row in history] == [0, 1, 2, 3, 4]
    assert [row["test-rmse"] for row in history] == result.history["test-rmse"].to_list()
    assert summary["final/test-r2"] == result.metrics["test-r2"]
    assert config["max_depth"] == 2
    assert exits in ([0], [])  # what wandb 0.31 writes while it ends may get lost


@pytest.mark.parametrize(
    ("name", "package", "arguments"),
    [("TensorBoard", "tensorboardX", ("logs",)), ("MLflow", "mlflow", ()), ("WandB", "wandb", ())],
)
def test_what_is_not_installed_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, name: str, package: str, arguments: tuple[Any, ...]
) -> None:
    from rayline.train.trackers import base

    monkeypatch.setattr(base.importlib.util, "find_spec", lambda found: None)  # type: ignore[attr-defined]
    with pytest.raises(rl.MissingExtraError, match="rayline\\[tracking\\]"):
        getattr(train, name)(*arguments)


def test_nothing_is_imported_until_it_is_used() -> None:
    import subprocess

    code = "import sys; from rayline import train; train.TensorBoard; train.MLflow; train.WandB; print([m for m in ('mlflow', 'wandb', 'tensorboardX') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_wandb_knows_its_modes() -> None:
    pytest.importorskip("wandb", reason="the extra tracking is not installed")
    with pytest.raises(rl.ParameterError, match="mode"):
        train.WandB(mode="on")  # type: ignore[arg-type]

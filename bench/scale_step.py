"""One step of `bench.scale` in a process of its own: prints the peak of each kind of process, in MB, as JSON."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import ray

from bench.report import alternate, seconds
from rayline import data, train, tune
from rayline.postprocess import Conformal
from rayline.stages import SimpleImputer, StandardScaler

EVERY_S = 0.05

ROUNDS = 5


def main(step: str, path: str, *numbers: str) -> None:
    """Run the step, and print what it took."""
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        if step == "table and Dataset":
            print(json.dumps(_times(path, *map(int, numbers))))
            return
        with _watched() as peaks:
            took = seconds(lambda: _run(step, data.read_parquet(path)))
        print(json.dumps({**peaks, "seconds": round(took, 1)}))
    finally:
        ray.shutdown()


def _stages() -> train.Preprocessor:
    return train.Preprocessor([("impute", SimpleImputer()), ("scale", StandardScaler())])


def _searched(rows: Any, n_trials: int, rounds: int) -> tune.Analysis:
    """Search over three folds."""
    return tune.run(
        train.XGBoostTrainer({}, num_boost_round=rounds), train_dataset=rows, preprocessor=_stages(), target_columns=["y"], cv=3,
        num_samples=n_trials, config={"max_depth": tune.randint(2, 6)}, metric="rmse", seed=0, verbose=False,
        run_on=None if hasattr(rows, "iter_batches") else "process",
    )  # fmt: skip


def _times(path: str, rounds: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of the same search over a Dataset and over a table of the same files, in turn; the scores are the same."""
    found: dict[str, Any] = {}

    def run(kind: str, read: Callable[[], Any]) -> None:
        found[kind] = [trial.scores for trial in _searched(read(), 10, rounds).trials]

    files = f"{path}/*.parquet"
    dataset, table = alternate(
        lambda: run("dataset", lambda: data.read_parquet(path)),
        lambda: run("table", lambda: pl.read_parquet(files)),
        repeats=repeats,
    )
    assert found["dataset"] == found["table"]
    return {"dataset": dataset, "table": table}


def _run(step: str, rows: Any) -> None:
    stages = _stages()
    trainers = {
        "xgboost": lambda: train.XGBoostTrainer({"max_depth": 4}, num_boost_round=5, num_workers=2),
        "lightgbm": lambda: train.LightGBMTrainer({}, num_boost_round=5, num_workers=2),
        "torch": lambda: train.TorchTrainer("MLP", batch_size=8192, max_epochs=1, num_workers=2),
    }
    if step == "fit":
        stages.fit(rows, target_columns=["y"])
    elif step == "split and fit":
        trainset, _ = data.train_test_split(rows, 0.2)
        stages.fit(trainset, target_columns=["y"])
    elif step.startswith("tune"):
        found = _searched(rows, 10 if "×" in step else 2, ROUNDS)
        if step.endswith("what follows"):
            found.ensemble(top=2)
            found.calibrated([Conformal()])
    elif step in ("write predictions", "evaluate"):
        small = rows.limit(1000).materialize()
        pipeline = train.fit(train.XGBoostTrainer({}, num_boost_round=5), stages, small, None, ["y"], verbose=False)
        if step == "evaluate":
            pipeline.inference_pipeline.evaluate(rows, metrics=["rmse", "r2", "median_ae"])
            return
        with tempfile.TemporaryDirectory() as folder:
            pipeline.inference_pipeline.write_predictions(rows, folder)
    elif step.startswith("cross-validate"):
        found = train.cross_validate(trainers["xgboost"](), stages, rows, ["y"], cv=2, verbose=False)
        found.evaluate()
    else:
        test = rows if step.endswith("with a test set") else None
        trainer = trainers[step.split()[1]]()
        train.fit(trainer, stages, rows, test, ["y"], verbose=False)


@contextlib.contextmanager
def _watched() -> Iterator[dict[str, float]]:
    """Sample the memory of this process and of the processes of its Ray."""
    peaks: dict[str, float] = {}
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(EVERY_S):
            sizes = [*_sizes()]
            for kind, size in (*sizes, ("all processes together", sum(size for _, size in sizes))):
                peaks[kind] = max(peaks.get(kind, 0.0), round(size, 1))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        is_over.set()
        thread.join()


def _sizes() -> Iterator[tuple[str, float]]:
    parents: dict[int, int] = {}
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
    mine = os.getpid()
    for process in parents:
        if process == mine or _is_below(process, mine, parents):
            with contextlib.suppress(OSError, ValueError):
                kind = "driver" if process == mine else _kind(process)
                if kind:
                    yield kind, _private_mb(process)


def _is_below(process: int, ancestor: int, parents: dict[int, int]) -> bool:
    while process in parents and process > 1:
        process = parents[process]
        if process == ancestor:
            return True
    return False


def _kind(process: int) -> str:
    name = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace")
    for start, kind in (("ray::WorkerActor", "worker"), ("ray::PoolActor", "trial"), ("ray::", "task")):
        if name.startswith(start):
            return kind
    return ""


def _private_mb(process: int) -> float:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1000
    return 0.0


if __name__ == "__main__":
    main(*sys.argv[1:])

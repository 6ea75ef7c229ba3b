"""On a GPU: training and batch inference with PyTorch and XGBoost against the same work by hand, and how busy the GPU is.

Runs only where there is one: `make bench gpu`, at most 8 minutes.
"""

from __future__ import annotations

import contextlib
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import polars as pl

from bench.report import Comparison, Options, Section, deadline, note, seconds
from rayline import device, train

WIDTH, HIDDEN, BATCH = 64, (512, 512), 1024

MOST_S = 8 * 60.0


def run(options: Options) -> Section:
    """All comparisons of this program; none where there is no GPU."""
    section = Section(
        "GPU",
        f"A network of {WIDTH} numbers and layers of {HIDDEN}, batches of {BATCH:,} rows, and XGBoost with 100 trees of depth 8, on one GPU. By "
        "hand: the rows and the module on the GPU, batches by a permutation made there; a class for map_batches that holds the module.",
        packages=["torch", "xgboost", "ray"],
    )
    if not device.visible():
        section.about = "Not run: this machine has no GPU that this process may use."
        return section
    with deadline(MOST_S):
        n = options.small(1_000_000)
        rows = table(n)
        note("torch, training")
        section.add(torch_training(rows, options))
        note("torch, batch inference")
        section.add(*torch_inference(rows, options))
        note("xgboost")
        section.add(*xgboost_alone(rows, options))
    return section


def table(n: int) -> pl.DataFrame:
    random = np.random.default_rng(0)
    x = random.normal(size=(n, WIDTH)).astype(np.float32)
    y = x[:, 0] * 2 + np.sin(x[:, 1]) + random.normal(size=n).astype(np.float32) * 0.1
    return pl.DataFrame(x, schema=[f"f{i}" for i in range(WIDTH)]).with_columns(y=pl.Series(y))


def torch_training(rows: pl.DataFrame, options: Options) -> Comparison:
    """Rows a second of three epochs, of the training alone."""
    import torch

    from rayline.frameworks.torch_modules import MLP

    epochs, few = 3, rows.head(min(rows.height, 250_000))

    def ours() -> float:
        trainer = train.TorchTrainer(
            "MLP", {"hidden": list(HIDDEN)}, batch_size=BATCH, max_epochs=epochs, use_gpu=True, seed=1
        )
        result = trainer.fit(None, few, None, "y", metrics=[], verbose=False)
        return epochs * few.height / result.seconds["training"]

    def by_hand() -> float:
        x, y = few.drop("y").to_numpy().astype(np.float32), few["y"].to_numpy()
        start = time.perf_counter()
        module = MLP(WIDTH, 1, HIDDEN).to("cuda")
        there, target = torch.from_numpy(x).to("cuda"), torch.from_numpy(y).to("cuda")
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
        for _ in range(epochs):
            for batch in torch.randperm(len(x), device="cuda").split(BATCH):
                optimizer.zero_grad(set_to_none=True)
                torch.nn.functional.mse_loss(module(there[batch])[:, 0], target[batch]).backward()
                optimizer.step()
        torch.cuda.synchronize()
        return epochs * len(x) / (time.perf_counter() - start)

    ours(), by_hand()  # CUDA loads what it computes with
    mine = [ours() for _ in range(options.repeats)]
    theirs = [by_hand() for _ in range(options.repeats)]
    return Comparison("torch, training", mine, "the same loop by hand", theirs, 0.95, "rows/s", more_is_better=True)


class Predictor:
    """What a Ray user writes today."""

    def __init__(self, state: dict[str, Any]) -> None:
        import torch

        from rayline.frameworks.torch_modules import MLP

        self.torch, self.module = torch, MLP(WIDTH, 1, HIDDEN)
        self.module.load_state_dict(state)
        self.module.eval().to("cuda")

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        matrix = np.stack([batch[f"f{i}"] for i in range(WIDTH)], axis=1)
        with self.torch.inference_mode():
            found = self.module(self.torch.from_numpy(matrix).to("cuda"))
        return {"prediction": found[:, 0].cpu().numpy()}


def torch_inference(rows: pl.DataFrame, options: Options) -> list[Comparison]:
    import ray

    from rayline.data import from_polars

    trainer = train.TorchTrainer("MLP", {"hidden": list(HIDDEN)}, batch_size=BATCH, max_epochs=1, use_gpu=True, seed=1)
    pipeline = trainer.fit(None, rows.head(50_000), None, "y", metrics=[], verbose=False).inference_pipeline
    state = {name: value.cpu() for name, value in pipeline.model.native.state_dict().items()}
    started = not ray.is_initialized()
    if started:
        ray.init("local", num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        ds = from_polars(list(rows.drop("y").iter_slices(max(1, rows.height // 32)))).materialize()
        size = 4 * BATCH

        def ours() -> None:
            for _ in pipeline.transform(ds, use_gpu=True, batch_size=size, keep_columns=[]).iter_internal_ref_bundles():
                pass

        def by_hand() -> None:
            made = ds.map_batches(
                Predictor,
                fn_constructor_args=(state,),
                num_gpus=1,
                concurrency=1,
                batch_size=size,
                batch_format="numpy",
            )
            for _ in made.iter_internal_ref_bundles():
                pass

        def per_second(work: Callable[[], None]) -> float:
            return rows.height / seconds(work)

        by_hand(), ours()
        mine = [per_second(ours) for _ in range(options.repeats)]
        theirs = [per_second(by_hand) for _ in range(options.repeats)]
        with busy() as share:
            ours()
    finally:
        if started:
            ray.shutdown()
    found = [
        Comparison(
            "torch, transform on Ray", mine, "a class for map_batches", theirs, 0.9, "rows/s", more_is_better=True
        )
    ]
    if share:
        found.append(
            Comparison(
                "GPU busy while it runs", [statistics.mean(share)], "always", [100.0], 0.8, "%", more_is_better=True
            )
        )
    return found


@contextlib.contextmanager
def busy() -> Iterator[list[float]]:
    """Collect the percentage of time in which the GPU computes, five times a second, while it computes at all."""
    shares: list[float] = []
    tool = shutil.which("nvidia-smi")
    if tool is None:
        yield shares
        return
    ended = threading.Event()

    def ask() -> None:
        command = [tool, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--id=0"]
        while not ended.wait(0.2):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.stdout.strip().isdigit() and (shares or int(done.stdout) > 0):
                shares.append(float(done.stdout))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield shares
    finally:
        ended.set()
        asking.join()
        while shares and not shares[-1]:
            shares.pop()


def xgboost_alone(rows: pl.DataFrame, options: Options) -> list[Comparison]:
    import xgboost

    params, rounds = {"max_depth": 8, "tree_method": "hist"}, 100
    x, y = rows.drop("y").to_numpy(), rows["y"].to_numpy()
    trainer = train.XGBoostTrainer({**params}, num_boost_round=rounds, use_gpu=True)

    def ours() -> Any:
        return trainer.fit(None, rows, None, "y", metrics=[], verbose=False).inference_pipeline

    def alone() -> Any:
        return xgboost.train({**params, "device": "cuda"}, xgboost.DMatrix(x, y), rounds)

    pipeline, booster = ours(), alone()
    mine, theirs = [], []
    for _ in range(options.repeats):
        mine.append(seconds(ours))
        theirs.append(seconds(alone))
    table = rows.drop("y")
    pipeline.predict(table, use_gpu=True)
    predicted = [seconds(lambda: pipeline.predict(table, use_gpu=True)) for _ in range(options.repeats)]
    library = [seconds(lambda: booster.predict(xgboost.DMatrix(x))) for _ in range(options.repeats)]
    return [
        Comparison("XGBoost, train.fit with its scan and metrics", mine, "xgboost.train", theirs),
        Comparison("XGBoost, predict", predicted, "DMatrix and Booster.predict", library),
    ]

"""Batch inference on Ray: the same bits and the same order as in process, each row once, whatever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import ray

import rayline as rl
from rayline.inference.batch import OnError
from tests import toy
from tests.inference import hostile
from tests.inference.test_batch import refusing

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]
TABLE = pl.concat([toy.table()] * 5).with_row_index("id")


def dataset(ray: Any, table: pl.DataFrame = TABLE, blocks: int = 6) -> Any:
    size = -(-table.height // blocks)
    return ray.data.from_arrow(
        [part.to_arrow(compat_level=pl.CompatLevel.oldest()) for part in table.iter_slices(size)]
    )


def rows(data: Any) -> pl.DataFrame:
    frames: Any = [pl.from_arrow(block) for block in ray.get(data.to_arrow_refs())]
    return pl.concat([frame for frame in frames if frame.width])


@pytest.mark.parametrize("options", [{}, {"batch_size": 7}, {"concurrency": 2}], ids=["whole", "batches", "two"])
def test_a_dataset_gets_the_bits_of_a_table_in_its_order(ray_session: Any, options: dict[str, Any]) -> None:
    pipeline = toy.pipeline()
    made = pipeline.transform(dataset(ray_session), keep_columns=["id", "late"], proba=True, **options)
    expected = pipeline.transform(TABLE, keep_columns=["id", "late"], proba=True)
    assert rows(made).sort("id").equals(expected)
    assert made.count() == TABLE.height


def test_predictions_stay_in_the_order_of_the_rows(ray_session: Any) -> None:
    pipeline = toy.pipeline()
    ray_session.data.DataContext.get_current().execution_options.preserve_order = True
    try:
        assert rows(pipeline.predict(dataset(ray_session))).equals(pipeline.predict(TABLE))
        assert rows(pipeline.predict_proba(dataset(ray_session))).equals(pipeline.predict_proba(TABLE))
    finally:
        ray_session.data.DataContext.get_current().execution_options.preserve_order = False


@pytest.mark.parametrize("kind", ["xgboost-categories", "xgboost-several"])
def test_trees_give_the_same_bits_in_every_block(ray_session: Any, kind: str) -> None:
    pipeline = hostile.pipeline(kind)
    proba = bool(pipeline.classes)
    made = pipeline.transform(dataset(ray_session), keep_columns=["id"], proba=proba)
    assert rows(made).sort("id").equals(pipeline.transform(TABLE, keep_columns=["id"], proba=proba))


@pytest.mark.parametrize("on_error", ["null", "collect"])
def test_a_bad_row_is_told_apart_on_ray_too(ray_session: Any, on_error: OnError) -> None:
    strict = refusing()
    bad = TABLE.with_columns(city=pl.when(pl.col("id").is_in([3, 170])).then(pl.lit("Atlantis")).otherwise("city"))
    made = rows(strict.transform(dataset(ray_session, bad), keep_columns=["id"], on_error=on_error)).sort("id")
    assert made.equals(strict.transform(bad, keep_columns=["id"], on_error=on_error))
    assert made.filter(pl.col("prediction").is_null())["id"].to_list() == [3, 170]
    with pytest.raises(rl.DataError, match="Atlantis"):
        strict.transform(dataset(ray_session, bad)).materialize()


@rl.register_framework
class Counted(toy.LeastSquares):
    """Writes down which process loads it."""

    name = "counted"

    def load(self, directory: Path) -> toy.Weights:
        weights = super().load(directory)
        with open(weights["log"], "a") as file:
            file.write(f"{os.getpid()}\n")
        return weights


def test_a_worker_loads_the_model_once(ray_session: Any, tmp_path: Path) -> None:
    base = toy.pipeline()
    assert base.preprocessor is not None
    weights = toy.Weights({**base.model.native, "log": str(tmp_path / "log")})
    pipeline = base.preprocessor.chain(rl.Model("counted", weights, base.model.schema, base.model.target))
    made = pipeline.transform(dataset(ray_session, blocks=20), concurrency=2).materialize()
    assert made.num_blocks() == 20
    loads = (tmp_path / "log").read_text().split()
    assert 1 <= len(loads) <= 2
    assert len({*loads}) == len(loads)


DRIVER = """
import sys
import polars as pl
import ray
from tests import toy
from tests.inference import hostile
ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
table = pl.concat([toy.table()] * 200).with_row_index("id")
blocks = [part.to_arrow(compat_level=pl.CompatLevel.oldest()) for part in table.iter_slices(1000)]
print("go", flush=True)
toy.pipeline().write_predictions(ray.data.from_arrow(blocks), sys.argv[2], rows_per_file=100)
"""


@pytest.mark.slow
def test_a_killed_driver_is_continued(ray_session: Any, tmp_path: Path) -> None:
    out, address = tmp_path / "out", ray_session.get_runtime_context().gcs_address
    process = subprocess.Popen([sys.executable, "-c", DRIVER, address, str(out)], cwd=ROOT)
    end = time.monotonic() + 120
    while len(list(out.glob("*.parquet"))) < 3:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(5)  # until Ray has noticed: its tasks of the dead driver end
    done = {p.name: p.stat().st_mtime_ns for p in out.glob("*.parquet")}
    assert 3 <= len(done) < 80
    table = pl.concat([toy.table()] * 200).with_row_index("id")
    data = dataset(ray_session, table, 8)
    assert toy.pipeline().write_predictions(data, out, rows_per_file=100, resume=True) == 8000
    got = pl.concat(pl.read_parquet(path) for path in sorted(out.glob("*.parquet")))
    assert got["id"].to_list() == list(range(8000))
    assert got.equals(toy.pipeline().transform(table))
    assert all((out / name).stat().st_mtime_ns == changed for name, changed in done.items())
    assert not list(out.glob(".*.tmp"))


def test_a_gpu_that_nothing_computes_on_is_refused(ray_session: Any, tmp_path: Path) -> None:
    pipeline = toy.pipeline()
    rows = ray_session.data.from_arrow(toy.table().to_arrow(compat_level=pl.CompatLevel.oldest()))
    with pytest.raises(rl.ParameterError, match="models of least-squares predict on the CPU only"):
        pipeline.transform(rows, num_gpus=1)
    with pytest.raises(rl.ParameterError, match="leave use_gpu and num_gpus out"):
        pipeline.write_predictions(rows, tmp_path, num_gpus=0.5)

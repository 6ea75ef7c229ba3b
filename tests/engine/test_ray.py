"""The Ray engine gives what the local engine gives, whatever the blocks are; errors arrive as they were raised.

Covers `core.engine` and `engine.session` too.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import rayline as rl
from rayline.core import registry
from rayline.core.engine import Placement
from rayline.core.errors import DataError, RaylineError, SchemaError
from rayline.core.parquet_parts import PartFiles
from rayline.core.scan import Scan
from rayline.core.statistics.base import Statistic, StatisticRequest
from rayline.core.statistics.counts import ValueCounts
from rayline.core.statistics.moments import MinMax, Moments
from rayline.core.statistics.quantiles import Quantiles
from rayline.core.statistics.row_counts import RowCount
from rayline.stages import SimpleImputer

pytestmark = pytest.mark.ray

LOCAL = registry.engine("local")

TABLE = pl.DataFrame(
    {
        "x": [None if i % 5 == 0 else float(i * i % 17) - 3.25 for i in range(60)],
        "n": [i % 7 for i in range(60)],
        "city": [None if i % 11 == 0 else "abcd"[i % 4] for i in range(60)],
        "v": [[float(i), -1.0, 0.5] for i in range(60)],
    },
    schema_overrides={"v": pl.Array(pl.Float64, 3)},
)

REQUESTS = [
    StatisticRequest(Moments, ("x",)),
    StatisticRequest(MinMax, ("n",)),
    StatisticRequest(ValueCounts, ("city",)),
    StatisticRequest(Quantiles, ("x",)),
    StatisticRequest(RowCount, ()),
]


@pytest.fixture(scope="module")
def engine(ray_session: Any) -> Any:
    return registry.engine("ray")


def dataset(ray: Any, table: pl.DataFrame, blocks: int = 1) -> Any:
    size = max(1, -(-table.height // blocks))
    return ray.data.from_arrow(
        [part.to_arrow(compat_level=pl.CompatLevel.oldest()) for part in [*table.iter_slices(size)] or [table]]
    )


def close(mine: dict[StatisticRequest, Statistic], other: dict[StatisticRequest, Statistic]) -> bool:
    """Equal, moments up to the last bits (the rows were added up in another order)."""
    a, b = mine.pop(REQUESTS[0]), other.pop(REQUESTS[0])
    assert isinstance(a, Moments)
    assert isinstance(b, Moments)
    same = (a.count, a.n_null) == (b.count, b.n_null) and np.allclose([a.mean, a.m2], [b.mean, b.m2], rtol=1e-12)
    return bool(same) and mine == other


# -- scan ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [1, 7])
def test_scan_answers_as_in_process(engine: Any, ray_session: Any, blocks: int) -> None:
    scan = Scan(REQUESTS)
    mine = engine.scan(dataset(ray_session, TABLE, blocks), scan)
    assert close(mine[0], LOCAL.scan(TABLE, scan)[0])


def test_scan_of_cells_and_of_a_prepared_table(engine: Any, ray_session: Any) -> None:
    scan = Scan(REQUESTS, prepare=_prepare, cells=_Parity())
    mine, other = engine.scan(dataset(ray_session, TABLE, 3), scan), LOCAL.scan(TABLE, scan)
    assert list(mine) == list(other) == [0, 1]
    assert all(close(mine[cell], other[cell]) for cell in other)


def _prepare(table: pl.LazyFrame) -> pl.LazyFrame:
    return table.with_columns(pl.col("x") * 2)


class _Parity:
    is_local = True

    def __call__(self, names: Any) -> pl.Expr:
        return pl.col("n") % 2


def test_scan_gives_the_same_bits_every_time(engine: Any, ray_session: Any) -> None:
    data = dataset(ray_session, pl.concat([TABLE.with_columns(pl.col("x") / (i + 3)) for i in range(9)]), 9)
    scan = Scan(REQUESTS[:1])
    results = [engine.scan(data, scan)[0][REQUESTS[0]] for _ in range(3)]
    assert results[0] == results[1] == results[2]


def test_scan_reads_parquet_and_only_what_it_needs(engine: Any, ray_session: Any, tmp_path: Any) -> None:
    for i, part in enumerate(TABLE.iter_slices(25)):
        part.write_parquet(tmp_path / f"{i}.parquet")
    data = ray_session.data.read_parquet(str(tmp_path))
    once, again = (engine.scan(data, Scan(REQUESTS))[0] for _ in range(2))
    assert once == again
    assert close(engine.scan(data, Scan(REQUESTS))[0], LOCAL.scan(TABLE, Scan(REQUESTS))[0])
    assert engine.schema(data) == TABLE.schema


def test_no_rows(engine: Any, ray_session: Any) -> None:
    empty = dataset(ray_session, TABLE.clear())
    assert engine.schema(empty) == TABLE.schema
    assert engine.collect(empty).equals(TABLE.clear())
    assert engine.scan(empty, Scan(REQUESTS))[0] == LOCAL.scan(TABLE.clear(), Scan(REQUESTS))[0]
    mapped = engine.map(empty, _prepare)
    assert engine.collect(mapped).height == 0
    with pytest.raises(DataError, match="no rows"):
        rl.Preprocessor([("impute", SimpleImputer())]).fit(empty)


# -- types -----------------------------------------------------------------------------------------------------------------


def test_types_of_arrow_blocks(engine: Any, ray_session: Any) -> None:
    table = pa.table(
        {
            "dictionary": pa.array(["a", "b"]).dictionary_encode(),
            "large": pa.array(["a", None], pa.large_string()),
            "list": pa.array([[1], [2, 3]], pa.large_list(pa.int64())),
            "fixed": pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2)),
        }
    )
    data = ray_session.data.from_arrow(table)
    expected = {
        "dictionary": pl.String,
        "large": pl.String,
        "list": pl.List(pl.Int64),
        "fixed": pl.Array(pl.Float32, 2),
    }
    assert engine.schema(data) == pl.Schema(expected)  # type: ignore[arg-type]
    assert engine.collect(data, ["dictionary", "fixed"]).rows() == [("a", [1.0, 2.0]), ("b", [3.0, 4.0])]


def test_tensors_are_vectors_and_come_back_as_tensors(engine: Any, ray_session: Any) -> None:
    values = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    data = ray_session.data.from_numpy(values)
    assert engine.schema(data) == pl.Schema({"data": pl.Array(pl.Float32, 6)})
    assert engine.collect(data)["data"].to_numpy().tolist() == values.reshape(4, 6).tolist()
    batch = engine.map(data, lambda table: table.with_columns(twice=pl.col("data"))).take_batch()
    assert batch["twice"].shape == (4, 6)


def test_types_of_pandas_blocks(engine: Any, ray_session: Any) -> None:
    frame = pd.DataFrame({"a": [1, 2], "s": ["x", None], "c": pd.Categorical(["u", "v"]), "o": [[1, 2], [3]]})
    data = ray_session.data.from_pandas(frame)
    assert engine.schema(data) == pl.Schema({"a": pl.Int64, "s": pl.String, "c": pl.String, "o": pl.List(pl.Int64)})  # type: ignore[arg-type]
    assert engine.collect(data).rows() == [(1, "x", "u", [1, 2]), (2, None, "v", [3])]


def test_what_is_no_dataset(engine: Any, ray_session: Any) -> None:
    with pytest.raises(SchemaError, match="is not a table"):
        engine.schema(ray_session.data.range(3).groupby("id"))


# -- map and collect -------------------------------------------------------------------------------------------------------


def test_map_keeps_rows_in_order_and_is_lazy(engine: Any, ray_session: Any) -> None:
    calls: list[str] = []
    data = dataset(ray_session, TABLE, 4)
    mapped = engine.map(data, lambda table: (calls.append("here"), _prepare(table))[1])
    assert calls == []
    assert engine.collect(mapped).equals(_prepare(TABLE.lazy()).collect())
    assert engine.collect(mapped, ["city", "n"]).equals(TABLE.select("city", "n"))


@pytest.mark.parametrize("placement", [Placement(batch_size=7), Placement(concurrency=1, num_cpus=0.5)])
def test_placement_changes_nothing_but_the_work(engine: Any, ray_session: Any, placement: Placement) -> None:
    mapped = engine.map(dataset(ray_session, TABLE, 2), _prepare, placement)
    assert engine.collect(mapped).equals(_prepare(TABLE.lazy()).collect())


@pytest.mark.parametrize("placement", [Placement(num_gpus=1), Placement(num_cpus=3)])
def test_a_placement_that_no_node_has_room_for(engine: Any, ray_session: Any, placement: Placement) -> None:
    with pytest.raises(rl.ResourceError, match="transform: one worker does not fit"):
        engine.map(dataset(ray_session, TABLE), _prepare, placement)


@pytest.mark.slow
def test_workers_that_leave_no_cpu_to_read_the_data(tmp_path: Path) -> None:
    """Two actors that hold both CPUs would wait for the tasks that read, and these for them."""
    code = (
        "import ray, polars as pl\n"
        "from rayline.core import registry\nfrom rayline.core.engine import Placement\nfrom rayline.core.errors import ResourceError\n"
        "ray.init('local', num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False, logging_level='ERROR')\n"
        "engine, rows = registry.engine('ray'), ray.data.range(1000)\n"
        "def go(**kw): return engine.collect(engine.map(rows, lambda t: t, Placement(num_gpus=1, **kw))).height\n"
        "assert go(concurrency=2) == go(num_cpus=1) == 1000\n"
        "for kw, said in ((dict(num_cpus=1, concurrency=2), '2 × 1 CPU for the workers leave 0 of 2'), (dict(concurrency=3), '3 workers do not')):\n"
        "    try: go(**kw)\n"
        "    except ResourceError as error: assert said in str(error), error\n"
        "    else: raise AssertionError(kw)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


def test_collect_names_a_missing_column(engine: Any, ray_session: Any) -> None:
    with pytest.raises(SchemaError, match="'nope'"):
        engine.collect(dataset(ray_session, TABLE), ["nope"])


def test_the_datasets_own_settings_stay(engine: Any, ray_session: Any) -> None:
    data = dataset(ray_session, TABLE)
    data.context.enable_progress_bars = True
    engine.scan(data, Scan(REQUESTS))
    assert data.context.enable_progress_bars
    assert not data.context.execution_options.preserve_order
    assert not data.context.raise_original_map_exception


# -- write -----------------------------------------------------------------------------------------------------------------


def test_write_cuts_the_rows_into_files_and_skips_those_that_are_done(
    engine: Any, ray_session: Any, tmp_path: Any
) -> None:
    files = PartFiles(str(tmp_path / "out"), 25)
    done = files.begin(resume=False)
    data = dataset(ray_session, TABLE, 4)
    assert engine.write(data, _prepare, files, done, None) == 60
    names = ["part-000000.parquet", "part-000001.parquet", "part-000002.parquet"]
    assert pl.concat(pl.read_parquet(tmp_path / "out" / name) for name in names).equals(
        _prepare(TABLE.lazy()).collect()
    )
    (tmp_path / "out" / names[1]).unlink()
    before = (tmp_path / "out" / names[0]).stat().st_mtime_ns
    done = files.begin(resume=True)
    assert engine.write(data, _prepare, files, done, Placement(batch_size=10)) == 60
    assert (tmp_path / "out" / names[0]).stat().st_mtime_ns == before
    assert pl.read_parquet(tmp_path / "out" / names[1]).height == 25


def test_a_writer_that_is_killed_costs_no_row(engine: Any, ray_session: Any, tmp_path: Any) -> None:
    files = PartFiles(str(tmp_path / "out"), 30)
    files.begin(resume=False)
    assert engine.write(dataset(ray_session, TABLE, 3), _Killed(tmp_path / "killed"), files, set(), None) == 60
    files.finish()
    names = sorted(path.name for path in (tmp_path / "out").iterdir() if path.suffix == ".parquet")
    assert names == ["part-000000.parquet", "part-000001.parquet"]
    assert pl.concat(pl.read_parquet(tmp_path / "out" / name) for name in names).equals(TABLE)


@dataclass
class _Killed:
    """A function of tables whose process is killed when it is called first."""

    mark: Path

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame:
        if not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return table


# -- errors ----------------------------------------------------------------------------------------------------------------


def _raise(table: pl.LazyFrame) -> pl.LazyFrame:
    raise SchemaError.missing(["age"], ["Age"], where="stage 'scale'")


def test_an_error_of_ours_arrives_as_it_was_raised(engine: Any, ray_session: Any, tmp_path: Any, capfd: Any) -> None:
    data = dataset(ray_session, TABLE, 2)
    files = PartFiles(str(tmp_path), 10)
    for fails in (
        lambda: engine.scan(data, Scan(REQUESTS, prepare=_raise)),
        lambda: engine.collect(engine.map(data, _raise)),
        lambda: engine.write(data, _raise, files, set(), None),
    ):
        with pytest.raises(SchemaError, match="needs column 'age'") as caught:
            fails()
        assert type(caught.value) is SchemaError
        assert caught.value.__cause__ is None
    out, err = capfd.readouterr()
    assert out + err == ""


def test_it_keeps_its_type_when_the_user_consumes_the_dataset(engine: Any, ray_session: Any) -> None:
    with pytest.raises(SchemaError, match="needs column 'age'"):
        engine.map(dataset(ray_session, TABLE), _raise).take_all()


def test_an_error_of_the_users_own_function_is_named(engine: Any, ray_session: Any) -> None:
    data = ray_session.data.range(5).map_batches(lambda batch: 1 // 0)
    with pytest.raises(DataError, match="ZeroDivisionError") as caught:
        engine.scan(data, Scan([StatisticRequest(RowCount, ())]))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_the_console_is_quiet_during_our_work_only(engine: Any, ray_session: Any, capfd: Any) -> None:
    engine.scan(dataset(ray_session, TABLE, 3), Scan(REQUESTS))
    out, err = capfd.readouterr()
    assert out + err == ""
    assert all(not handler.filters[1:] for handler in logging.getLogger("ray.data").handlers)


# -- Ray itself ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ray_is_started_quietly_and_ends_with_the_process(tmp_path: Any) -> None:
    code = (
        "import polars as pl, ray; from rayline.engine.ray import ensure_ray\n"
        "ensure_ray(); ensure_ray(); ds = ray.data.range(10)\n"
        "from rayline.core import registry; assert registry.engine('ray').collect(ds).height == 10\n"
        "open('pids', 'w').write(' '.join(str(p.process.pid) for ps in ray._private.worker._global_node.all_processes.values() for p in ps))\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["HOME"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""
    assert not (tmp_path / ".ray").exists()
    assert not [pid for pid in (tmp_path / "pids").read_text().split() if os.path.exists(f"/proc/{pid}")]


def test_a_ray_that_does_not_answer_is_an_error(tmp_path: Any) -> None:
    code = "from rayline.engine.ray import ensure_ray; ensure_ray()"  # in a process of its own, which has no Ray
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert "ResourceError: Ray could not be reached at RAY_ADDRESS=127.0.0.1:1" in done.stderr
    assert issubclass(rl.ResourceError, RaylineError)

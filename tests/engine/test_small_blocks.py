"""A task is given several small blocks: which ones, and that rows, order and bits are those of few blocks."""

from __future__ import annotations

import itertools
import uuid
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayline import Preprocessor, data, train
from rayline.compat import ray as ray_names
from rayline.core import registry
from rayline.engine import small_blocks
from rayline.engine.blocks import BlockTask, MappedBlock, SerializedFunction
from rayline.engine.reading import of_small_blocks
from rayline.engine.small_blocks import TASK_BYTES, for_few_tasks, task_groups
from rayline.stages import OneHotEncoder, SimpleImputer, StandardScaler

# -- which blocks are put together -----------------------------------------------------------------------------------------


def test_tasks_for_many_cpus() -> None:
    small = [bundle(100) for _ in range(2000)]
    assert len([*small_blocks.for_many_cpus(small)]) == 65  # of 31 blocks: a 64th of the rows would be 31.25
    assert len([*small_blocks.for_few_tasks(small)]) == 4
    assert len([*small_blocks.for_many_cpus(small[:64])]) == 64
    assert len([*small_blocks.for_many_cpus([bundle(3000) for _ in range(2000)])]) == 200
    assert [*small_blocks.for_many_cpus([])] == []


def bundle(n_rows: int | None, schema: Any = "x", size_bytes: int = 8) -> Any:
    entry = SimpleNamespace(ref=object(), metadata=SimpleNamespace(num_rows=n_rows, size_bytes=size_bytes))
    return SimpleNamespace(blocks=[entry], schema=schema, slices=None)


def heights(bundles: list[Any], max_rows: int = 100) -> list[list[Any]]:
    groups = [*task_groups(bundles, max_rows)]
    assert [one for some in groups for one in some] == bundles  # each once, in order
    return [[one.blocks[0].metadata.num_rows for one in some] for some in groups]


def test_rows_bytes_and_schemas_bound_what_is_put_together() -> None:
    assert heights([]) == []
    assert heights([bundle(40), bundle(60), bundle(1), bundle(200), bundle(99)]) == [[40, 60], [1], [200], [99]]
    assert heights([bundle(1, size_bytes=TASK_BYTES // 2) for _ in range(5)]) == [[1, 1], [1, 1], [1]]
    assert heights([bundle(1, "x"), bundle(1, "x"), bundle(1, "y"), bundle(1, "x")]) == [[1, 1], [1], [1]]
    assert heights([bundle(1, None), bundle(1, None), bundle(1), bundle(1)]) == [[1], [1], [1, 1]]
    assert heights([bundle(None), bundle(1), bundle(None), bundle(1)]) == [[None], [1], [None], [1]]
    assert heights([bundle(0, None), bundle(1), bundle(0, "z"), bundle(1)]) == [[0, 1, 0, 1]]  # no rows, no schema


def test_what_was_put_together_stays() -> None:
    pair = SimpleNamespace(blocks=[*bundle(1).blocks, *bundle(1).blocks], schema="x", slices=None)
    few = [pair, bundle(1), bundle(1)]
    assert [*for_few_tasks(few)] == [[one] for one in few]
    assert [*task_groups(few)] == [[pair], few[1:]]
    sliced = bundle(5)
    sliced.slices = [SimpleNamespace(num_rows=2)]
    assert heights([bundle(1), sliced, bundle(1)]) == [[1], [5], [1]]


@given(st.lists(st.integers(0, 50)), st.integers(1, 60))
def test_no_group_could_take_the_next_block(sizes: list[int], max_rows: int) -> None:
    groups = heights([bundle(size) for size in sizes], max_rows)
    assert all(len(rows) == 1 or sum(rows) <= max_rows for rows in groups)
    assert all(sum(rows) + after[0] > max_rows for rows, after in itertools.pairwise(groups))


class _Heights:
    """A function of tables that returns how many rows it is given."""

    def __init__(self, is_local: bool) -> None:
        self.is_local = is_local

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame:
        return table.with_columns(height=pl.len())


@pytest.mark.parametrize(("is_local", "expected"), [(True, [3] * 3), (False, [2, 2, 1])])
def test_a_function_is_given_all_blocks_or_each(is_local: bool, expected: list[int]) -> None:
    work = MappedBlock(SerializedFunction.of(_Heights(is_local)))
    assert work.is_local is is_local
    blocks = [pa.table({"x": [1, 2]}), pa.table({"x": pa.array([], pa.int64())}), pa.table({"x": [3]})]
    for task in (BlockTask(work), BlockTask(lambda block: block, before=work)):
        result = task(*blocks)
        assert result["x"].to_pylist() == [1, 2, 3]
        assert result["height"].to_pylist() == expected
    assert BlockTask(work)(blocks[1]).column_names == ["x", "height"]
    assert BlockTask(work)(pa.table({}), pa.table({})).num_columns == 0


# -- on Ray ----------------------------------------------------------------------------------------------------------------

N_BLOCKS, ROWS = 200, 10
N = N_BLOCKS * ROWS
N_TASKS = 4


@pytest.fixture
def few_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task costs a loaded machine half a second."""
    monkeypatch.setattr(small_blocks, "MIN_TASKS", N_TASKS)


def table() -> pl.DataFrame:
    random = np.random.default_rng(0)
    x = random.normal(size=(N, 2))
    rows = pl.DataFrame({"a": x[:, 0], "b": x[:, 1], "s": random.choice(["p", "q", "r"], N), "id": np.arange(N)})
    return rows.with_columns(late=pl.col("a") + pl.col("b") > 0)


def dataset(ray: Any, rows: pl.DataFrame, n_blocks: int) -> Any:
    size = rows.height // n_blocks
    return ray.data.from_arrow([part.to_arrow() for part in rows.iter_slices(size)])


@dataclass(frozen=True)
class _Marked:
    """Add the task, and the call of the function."""

    name: str
    is_local: bool = True

    def __call__(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        import ray

        task = ray.get_runtime_context().get_task_id()
        return rows.with_columns(pl.lit(task).alias(f"{self.name} task"), pl.lit(uuid.uuid4().hex).alias(self.name))


def by_the_user(batch: pa.Table) -> pa.Table:
    return batch.append_column("user", pa.array([uuid.uuid4().hex] * batch.num_rows))


@pytest.mark.ray
def test_few_tasks_and_whole_blocks_where_they_are_needed(ray_session: Any, few_tasks: None) -> None:
    engine, small = registry.engine("ray"), dataset(ray_session, table(), N_BLOCKS)
    rows = engine.map(engine.map(small, _Marked("whole", is_local=False)), _Marked("local"))
    assert ray_names.has_grouped_blocks(rows)
    assert not ray_names.has_grouped_blocks(small)
    result = engine.collect(rows)
    assert result["id"].to_list() == [*range(N)]
    assert result["whole"].n_unique() == N_BLOCKS
    assert result["local"].n_unique() == result["local task"].n_unique() == result["whole task"].n_unique() == N_TASKS


@dataclass(frozen=True)
class _Task:
    """The task of a block, and the rows that it was given."""

    is_local: bool = True

    def __call__(self, block: pa.Table) -> pa.Table:
        import ray

        return pa.table({"task": [ray.get_runtime_context().get_task_id()], "rows": [block.num_rows]})


@pytest.mark.ray
def test_a_scan_of_small_blocks_is_one_task(ray_session: Any) -> None:
    engine, small = registry.engine("ray"), dataset(ray_session, table(), N_BLOCKS)
    assert engine.collect(of_small_blocks(small, _Task(), ["a"]))["rows"].to_list() == [N]
    whole = engine.collect(of_small_blocks(small, _Task(is_local=False)))
    assert whole["rows"].to_list() == [ROWS] * N_BLOCKS
    assert whole["task"].n_unique() == 1


@pytest.mark.ray
def test_tasks_of_the_users_functions_stay(ray_session: Any) -> None:
    """One that takes long may have been given small blocks on purpose."""
    engine, small = registry.engine("ray"), dataset(ray_session, table()[:200], 20)
    rows = small.map_batches(by_the_user, batch_format="pyarrow", batch_size=None)
    result = engine.collect(engine.map(rows, _Marked("ours")))
    assert result["user"].n_unique() == result["ours task"].n_unique() == 20
    after = engine.map(small, _Marked("ours")).map_batches(by_the_user, batch_format="pyarrow", batch_size=None)
    assert engine.collect(after)["ours task"].n_unique() == 20  # fewer than 64 are not put together


@pytest.mark.ray
def test_the_same_bits_as_of_few_blocks(ray_session: Any, few_tasks: None) -> None:
    rows, engine = table(), registry.engine("ray")
    many, few = (dataset(ray_session, rows, n) for n in (N_BLOCKS, 2))

    def trained(given: Any) -> Any:
        stages = [("impute", SimpleImputer()), ("scale", StandardScaler()), ("onehot", OneHotEncoder(["s"]))]
        trainer = train.XGBoostTrainer({"objective": "binary:logistic", "nthread": 1}, num_boost_round=2)
        return train.fit(trainer, Preprocessor(stages), given, target_columns=["late"], verbose=False)

    pipeline = trained(many).inference_pipeline
    expected = trained(rows).inference_pipeline.transform(rows, proba=True)
    assert engine.collect(pipeline.transform(many, proba=True)).equals(expected)
    assert pipeline.evaluate(many, replicates=10).to_dict() == pipeline.evaluate(few, replicates=10).to_dict()


@pytest.mark.ray
def test_equal_rows_in_many_blocks_are_split(ray_session: Any, few_tasks: None) -> None:
    """Rows are numbered block by block: a task of several must not count them as one."""
    rows = pl.DataFrame({"x": np.random.default_rng(0).integers(0, 50, N)})
    many, engine = dataset(ray_session, rows, N_BLOCKS), registry.engine("ray")
    sides = [engine.collect(side) for side in data.train_test_split(many, percentage=0.25)]
    assert [side.height for side in sides] == [N * 3 // 4, N // 4]
    assert pl.concat(sides).sort("x").equals(rows.sort("x"))
    here = data.train_test_split(rows, percentage=0.25)
    assert all(one.sort("x").equals(other.sort("x")) for one, other in zip(sides, here, strict=True))

"""Workers get equal shares of the rows, are heard as they go, stop together, survive a kill, and leave nothing behind.

Covers `engine.checkpoints` and `engine.worker_group` too.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import polars as pl
import pytest
from fsspec.implementations.memory import MemoryFileSystem

import rayline as rl
from rayline.core import registry, waiting
from rayline.core.errors import DataError, ParameterError, ResourceError, SchemaError, TrainingError
from rayline.engine.checkpoints import CheckpointStore, pack, unpack
from rayline.engine.worker_group import START_S
from rayline.engine.workers import WorkerActor

ray_only = pytest.mark.ray

TABLE = pl.DataFrame({"id": range(101), "kind": ["a", "b", None] * 33 + ["c", "a"]})
KINDS = pl.Enum(["a", "b", "c"])


@pytest.fixture(scope="module")
def engine(ray_session: Any) -> Any:
    return registry.engine("ray")


@pytest.fixture(params=["actors", pytest.param("ray_train", marks=pytest.mark.slow)])
def run(request: pytest.FixtureRequest, engine: Any) -> Any:
    """The engine's `train`, once for each backend: the contract of a worker is the same."""
    return functools.partial(engine.train, backend=request.param)


def encode(table: pl.LazyFrame) -> pl.LazyFrame:
    return table.with_columns(pl.col("kind").cast(KINDS), v=pl.concat_arr(pl.col("id") * 1.0, pl.col("id") * 2.0))


def gone(pid: int, within_s: float = 20.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        if not os.path.exists(f"/proc/{pid}"):
            return True
        time.sleep(0.05)
    return False


def seen(worker: Any) -> dict[str, Any]:
    """What a worker can tell of itself."""
    train = pl.concat([block() for block in worker.train])
    return {
        "rank": worker.rank,
        "world_size": worker.world_size,
        "peers": list(worker.worker_addresses),
        "rendezvous": dict(worker.rendezvous),
        "n_threads": worker.n_threads,
        "omp": os.environ["OMP_NUM_THREADS"],
        "train": train,
        "test": None if worker.test is None else pl.concat([block() for block in worker.test]),
        "resume": worker.resume,
        "pid": os.getpid(),
    }


# -- rows ------------------------------------------------------------------------------------------------------------------


@ray_only
@pytest.mark.parametrize("kind", ["dataset", "table"])
def test_each_rank_has_its_share_of_the_prepared_rows(run: Any, ray_session: Any, kind: str) -> None:
    parts = [part.to_arrow(compat_level=pl.CompatLevel.oldest()) for part in TABLE.iter_slices(17)]
    train: Any = TABLE if kind == "table" else ray_session.data.from_arrow(parts)
    seen_by = run(
        seen, num_workers=2, train=train, test=TABLE.head(1), prepare=encode, prepare_test=encode,
        coordinate=lambda n, host: contextlib.nullcontext({"n": n, "host": host}),
    )  # fmt: skip
    whole = encode(TABLE.lazy()).collect()
    assert [s["rank"] for s in seen_by] == [0, 1]
    assert [s["train"].height for s in seen_by] == [50, 51]
    assert pl.concat([s["train"] for s in seen_by]).equals(whole)
    assert all(s["train"].schema == whole.schema == s["test"].schema for s in seen_by)
    assert sum(s["test"].height for s in seen_by) == 1
    first = seen_by[0]
    assert all(s["world_size"] == 2 and s["peers"] == first["peers"] and s["resume"] is None for s in seen_by)
    assert len(set(first["peers"])) == 2
    assert first["rendezvous"] == {"n": 2, "host": first["peers"][0].split(":")[0]}
    assert {s["omp"] for s in seen_by} == {str(first["n_threads"])} == {"1"}
    assert all(gone(s["pid"]) for s in seen_by)


@ray_only
def test_a_training_without_data(run: Any) -> None:
    assert run(_n_blocks, num_workers=1, train=None) == [(0, None)]


def _n_blocks(worker: Any) -> Any:
    return len(worker.train), worker.test


@ray_only
def test_too_few_rows(run: Any, ray_session: Any) -> None:
    with pytest.raises(DataError, match="1 row for 2 workers"):
        run(seen, num_workers=2, train=TABLE.head(1))
    with pytest.raises(DataError, match="no rows"):
        run(seen, num_workers=2, train=ray_session.data.from_arrow(TABLE.clear().to_arrow()))
    with pytest.raises(DataError, match="test data"):
        run(seen, num_workers=1, train=TABLE, test=TABLE.clear())


@ray_only
def test_wrong_rows_are_the_error_of_the_preparation(engine: Any, ray_session: Any) -> None:
    data = ray_session.data.from_arrow(TABLE.to_arrow())
    with pytest.raises(SchemaError, match="'age'"):
        engine.train(seen, num_workers=2, train=data, prepare=_missing)


def _missing(table: pl.LazyFrame) -> pl.LazyFrame:
    raise SchemaError.missing(["age"], ["Age"], where="stage 'scale'")


# -- reports ---------------------------------------------------------------------------------------------------------------


def steps(worker: Any) -> int:
    """Iterations of which each needs all ranks, as a framework's are; returns how many were made."""
    for i in range(1000):
        barrier(worker, i)
        if worker.report(i, {"loss": 1.0 / (i + 1)}):
            return i + 1
    return 1000


def barrier(worker: Any, iteration: int) -> None:
    """Wait for the others, through files."""
    folder = Path(worker.rendezvous["folder"])
    (folder / f"{iteration}-{worker.rank}").touch()
    while not all((folder / f"{iteration}-{rank}").exists() for rank in range(worker.world_size)):
        time.sleep(0.001)


@ray_only
@pytest.mark.parametrize("num_workers", [1, 2])
def test_all_ranks_stop_after_the_same_iteration(run: Any, tmp_path: Path, num_workers: int) -> None:
    heard: list[int] = []

    def on_report(iteration: int, metrics: Mapping[str, float]) -> bool:
        heard.append(iteration)
        assert metrics == {"loss": 1.0 / (iteration + 1)}
        return iteration >= 5

    made = run(
        steps, num_workers=num_workers, train=TABLE, on_report=on_report,
        coordinate=lambda n, host: contextlib.nullcontext({"folder": tmp_path}),
    )  # fmt: skip
    assert len(set(made)) == 1
    assert 6 <= made[0] < 1000
    assert heard == list(range(made[0]))[: len(heard)]
    assert heard[-1] == made[0] - (1 if num_workers == 1 else 2)  # the last report of all is the answer "stop"


@ray_only
def test_reports_are_heard_at_once(run: Any) -> None:
    delays: list[float] = []

    def on_report(iteration: int, metrics: Mapping[str, float]) -> bool:
        delays.append(time.time() - metrics["now"])
        return False

    run(_clock, num_workers=1, train=TABLE, on_report=on_report)
    assert len(delays) == 20
    assert sorted(delays)[10] < 0.05


def _clock(worker: Any) -> None:
    for i in range(20):
        worker.report(i, {"now": time.time()})
        time.sleep(0.01)


# -- failures --------------------------------------------------------------------------------------------------------------


def _fails_on_one(worker: Any) -> None:
    if worker.rank == 1:
        raise ZeroDivisionError("nothing to divide by")
    time.sleep(600)


def _wrong_labels(worker: Any) -> None:
    raise DataError("The target has no labels.")


def _dies(worker: Any) -> None:
    if worker.rank == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.3)
    raise TrainingError("a peer is gone")


@ray_only
def test_an_error_on_a_rank_ends_the_training(run: Any, capfd: Any) -> None:
    with pytest.raises(TrainingError, match="rank 1 of 2 failed: ZeroDivisionError: nothing to divide by") as caught:
        run(_fails_on_one, num_workers=2, train=TABLE)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    out, err = capfd.readouterr()
    assert out + err == ""


@ray_only
def test_an_error_of_ours_stays_what_it_is_and_is_not_tried_again(run: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="The target has no labels") as caught:
        run(_wrong_labels, num_workers=2, train=TABLE, max_failures=3)
    assert type(caught.value) is DataError


@ray_only
def test_a_killed_worker_is_named_and_not_those_that_failed_because_of_it(run: Any) -> None:
    with pytest.raises(TrainingError, match="rank 0 of 2 was lost"):
        run(_dies, num_workers=2, train=TABLE)


def survivor(worker: Any) -> tuple[int, int]:
    """Ten iterations with a checkpoint each third; rank 1 is killed once, in the eighth."""
    begun = 0 if worker.resume is None else int((worker.resume / "state").read_text()) + 1
    for i in range(begun, 10):
        barrier(worker, i)
        worker.report(i, {"i": i})
        worker.checkpoint(i, lambda directory, i=i: (directory / "state").write_text(str(i)) and None)
        if i == 7 and worker.rank == 1 and worker.resume is None:
            time.sleep(2.0)  # Ray Train's controller asks every 0.2 s, and only then keeps the checkpoint
            os.kill(os.getpid(), signal.SIGKILL)
        if i == 7 and worker.resume is None:
            time.sleep(600)
    return begun, os.getpid()


@ray_only
@pytest.mark.parametrize("stored", [False, True])
def test_a_killed_worker_costs_no_more_than_the_way_from_the_last_checkpoint(
    run: Any, tmp_path: Path, stored: bool
) -> None:
    heard: list[int] = []
    kept: list[tuple[int, str]] = []
    (tmp_path / "barrier").mkdir()
    left: list[bool] = []

    @contextlib.contextmanager
    def coordinate(n: int, host: str) -> Iterator[Mapping[str, Any]]:
        is_whole = False
        try:
            yield {"folder": tmp_path / "barrier"}
            is_whole = True  # a coordinator may now wait for the workers to sign off
        finally:
            left.append(is_whole)

    begun = run(
        survivor,
        num_workers=2,
        train=TABLE,
        coordinate=coordinate,
        on_report=lambda iteration, metrics: bool(heard.append(iteration)),
        on_checkpoint=lambda iteration, directory: kept.append((iteration, (directory / "state").read_text())),
        max_failures=1,
        checkpoint_every=3,
        storage_path=tmp_path / "store" if stored else None,
    )
    assert [b for b, _ in begun] == [6, 6]
    assert left == [False, True]
    assert heard == list(range(10))  # each iteration once
    assert kept == [(2, "2"), (5, "5"), (8, "8")]
    if stored and run.keywords["backend"] == "actors":
        (folder,) = (tmp_path / "store").iterdir()
        assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-00000005.tar", "checkpoint-00000008.tar"]


@ray_only
def test_what_cannot_be_sent(run: Any) -> None:
    lock = threading.Lock()
    with pytest.raises(ParameterError, match="cannot be sent"):
        run(lambda worker: lock, num_workers=1, train=TABLE)


@ray_only
def test_an_error_of_a_callback_ends_the_workers(run: Any, tmp_path: Path) -> None:
    def on_report(iteration: int, metrics: Mapping[str, float]) -> bool:
        raise KeyboardInterrupt

    ended: list[bool] = []

    @contextlib.contextmanager
    def coordinate(n: int, host: str) -> Iterator[Mapping[str, Any]]:
        try:
            yield {"folder": tmp_path}
        finally:
            ended.append(gone(int((tmp_path / "pid").read_text())))

    with pytest.raises(KeyboardInterrupt):
        run(_says_who_it_is, num_workers=1, train=TABLE, on_report=on_report, coordinate=coordinate)
    assert ended == [True]  # the workers first, then who coordinates them


def _says_who_it_is(worker: Any) -> None:
    (Path(worker.rendezvous["folder"]) / "pid").write_text(str(os.getpid()))
    worker.report(0, {})
    time.sleep(600)


# -- resources -------------------------------------------------------------------------------------------------------------


@ray_only
def test_demands_that_the_cluster_cannot_meet(engine: Any) -> None:
    with pytest.raises(ResourceError, match=r"4 × 1 = 4 CPU; got 1 node with 2 CPU"):
        engine.train(seen, num_workers=4, train=TABLE, resources_per_worker={"CPU": 1})
    with pytest.raises(ResourceError, match=r"2 × 1 = 2 GPU; got 1 node with 0 GPU"):
        engine.train(seen, num_workers=2, train=TABLE, use_gpu=True)
    with pytest.raises(ParameterError, match="max_failures"):
        engine.train(seen, num_workers=1, train=TABLE, max_failures=-1)
    with pytest.raises(ParameterError, match="num_workers"):
        engine.train(seen, num_workers=0, train=TABLE)
    with pytest.raises(ResourceError, match="storage_path"):
        engine.train(seen, num_workers=1, train=TABLE, storage_path="/proc/nothing")


class _Occupant:
    def is_there(self) -> None:
        pass


def _nothing(worker: Any) -> None:
    pass


@pytest.fixture
def occupant(ray_session: Any) -> Iterator[Any]:
    """An actor that holds all CPUs."""
    actor = ray_session.remote(num_cpus=2)(_Occupant).remote()
    ray_session.get(actor.is_there.remote())
    yield actor
    ray_session.kill(actor)


@ray_only
def test_resources_that_others_hold_are_waited_for(
    run: Any, occupant: Any, ray_session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "MESSAGE_DELAY_S", 0.5)
    said: list[str] = []

    def give_back(text: str) -> None:
        said.append(text)
        ray_session.kill(occupant)

    with waiting.told_to(give_back):
        assert run(_nothing, num_workers=1, train=None, resources_per_worker={"CPU": 2}) == [None]
    assert "0 of 2 CPU free; held by actor _Occupant (2 CPU)" in said[0]


@ray_only
def test_the_wait_for_resources_ends_after_its_time(run: Any, occupant: Any, ray_session: Any) -> None:
    with pytest.raises(ResourceError, match=r"not free within timeout_s=0\.5[\s\S]*held by actor _Occupant \(2 CPU\)"):
        run(_nothing, num_workers=1, train=None, resources_per_worker={"CPU": 2}, timeout_s=0.5)
    states = [group["state"] for group in ray_session.util.placement_group_table().values()]
    assert {*states} <= {"REMOVED"}


@ray_only
def test_workers_that_have_not_started_are_waited_for_alike(engine: Any, ray_session: Any) -> None:
    memory = int(0.6 * ray_session.cluster_resources()["memory"])
    others = ray_session.util.placement_group([{"memory": memory}])
    options: dict[str, Any] = {"num_workers": 1, "resources_per_worker": {"memory": memory}, "reuse": "a"}
    try:
        assert others.wait(20)
        began = time.monotonic()
        with (
            engine.starting(functools.partial(os.getpid), **options),
            pytest.raises(ResourceError, match=r"not free within timeout_s=0\.5"),
        ):
            engine.train(_nothing, train=None, timeout_s=0.5, **options)
        assert time.monotonic() - began < START_S / 2
    finally:
        ray_session.util.remove_placement_group(others)


@ray_only
def test_groups_that_hold_resources_take_turns(engine: Any, ray_session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of two groups could get half of what it needs, and wait for the other half."""
    started, options = threading.Barrier(2), WorkerActor.options  # type: ignore[attr-defined]

    def together(**given: Any) -> Any:
        started.wait(20)
        return options(**given)

    monkeypatch.setattr(WorkerActor, "options", together)
    memory = int(0.4 * ray_session.cluster_resources()["memory"])
    results: list[Any] = []

    def train() -> None:
        results.append(
            engine.train(_nothing, num_workers=2, train=None, resources_per_worker={"memory": memory}, timeout_s=60)
        )

    threads = [threading.Thread(target=train) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[None, None]] * 2


@ray_only
def test_what_a_task_holds_itself_is_not_free_for_its_workers(engine: Any, ray_session: Any) -> None:
    @ray_session.remote(num_cpus=1)
    def inside() -> str:
        with pytest.raises(ResourceError) as error:
            registry.engine("ray").train(_nothing, num_workers=2, train=None, resources_per_worker={"CPU": 1})
        return str(error.value)

    assert "got 1 node with 1 CPU beside what this task holds itself" in ray_session.get(inside.remote())


@ray_only
def test_more_workers_than_cpus_share_them(engine: Any) -> None:
    assert [s["n_threads"] for s in engine.train(seen, num_workers=3, train=TABLE)] == [1, 1, 1]


def script(code: str, folder: Path) -> None:
    """Run a script that has a Ray of its own."""
    TABLE.write_parquet(folder / "t.parquet")
    begin = (
        "import ray; from rayline.core import registry\n"
        "from tests.engine.test_workers import TABLE, encode, seen\n"
        "quiet = dict(include_dashboard=False, log_to_driver=False, logging_level='ERROR')\n"
        "engine = registry.engine('ray')\n"
        f"def read(): return ray.data.read_parquet({str(folder / 't.parquet')!r})\n"
    )
    root = Path(rl.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", begin + code], cwd=root, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr


@ray_only
@pytest.mark.slow
def test_two_workers_from_a_dataset_on_one_cpu(tmp_path: Path) -> None:
    script(
        "ray.init('local', num_cpus=1, **quiet); data = read()\n"
        "out = engine.train(seen, num_workers=2, train=data, test=data, prepare=encode, prepare_test=encode)\n"
        "assert [o['train'].height for o in out] == [50, 51]\n",
        tmp_path,
    )


@ray_only
@pytest.mark.slow
def test_each_rank_has_a_gpu_of_its_own(tmp_path: Path) -> None:
    script(
        "import os; ray.init('local', num_cpus=2, num_gpus=2, **quiet)\n"  # Ray does not look whether they are there
        "given = engine.train(lambda w: os.environ['CUDA_VISIBLE_DEVICES'], num_workers=2, train=TABLE, use_gpu=True)\n"
        "assert sorted(given) == ['0', '1'], given\n",
        tmp_path,
    )


# -- checkpoints -----------------------------------------------------------------------------------------------------------


def _save(directory: Path) -> None:
    (directory / "deep").mkdir()
    (directory / "deep" / "a").write_bytes(b"\x00\x01")
    (directory / "b").write_text("b")


def test_a_directory_goes_through_bytes(tmp_path: Path) -> None:
    unpack(pack(_save), tmp_path)
    assert (tmp_path / "deep" / "a").read_bytes() == b"\x00\x01"
    assert (tmp_path / "b").read_text() == "b"


@pytest.mark.parametrize("scheme", ["", "file://", "local://", "simplecache::local://"])
def test_storage_keeps_the_newest(tmp_path: Path, scheme: str) -> None:
    place = tmp_path / "a" / "store"
    storage = CheckpointStore.begin(f"{scheme}{place}")
    names = [storage.write(i, str(i).encode()) for i in (3, 7, 11)]
    assert storage.read(names[0]) == b"3"  # a worker that is ahead of the driver deletes nothing
    storage.forget(names[-1])
    assert storage.read(names[-1]) == b"11"
    assert sorted(path.name for path in (place / storage.run).iterdir()) == names[1:]
    assert CheckpointStore.begin(place).run != storage.run


def test_a_storage_that_another_node_does_not_see(tmp_path: Path) -> None:
    storage = CheckpointStore.begin(tmp_path / "mine")
    name = storage.write(3, b"3")
    (tmp_path / "mine").rename(tmp_path / "elsewhere")  # as if on another machine
    with pytest.raises(ResourceError, match=r"not the same place(.|\n)*all nodes share"):
        storage.read(name)
    with pytest.raises(ResourceError, match="not the same place"):
        storage.write(4, b"4")


class Bucket(MemoryFileSystem):
    """A file system of the user's own, known to fsspec alone."""

    protocol = "bucket"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("bucket://", "memory://"))


def test_storage_on_a_file_system_of_ones_own() -> None:
    fsspec.register_implementation("bucket", Bucket, clobber=True)
    storage = CheckpointStore.begin("bucket://runs/late")
    names = [storage.write(i, bytes([i])) for i in (3, 7, 11)]
    storage.forget(names[-1])
    assert storage.read(names[-1]) == bytes([11])
    assert sorted(Bucket.store) == [f"/runs/late/{storage.run}/{name}" for name in names[1:]]

"""Scores as files: what is written is found again, by what it was computed from, and nothing else is believed.

Covers `tune.table_cache` too.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from rayline import train, tune
from rayline.core import storage
from rayline.core.errors import ParameterError
from rayline.data.split.fold_cells import FoldCells
from rayline.tune.result_store import ResultStore, appearing_file, digest, write_header
from rayline.tune.row_groups import CELL, TableGroups
from rayline.tune.table_cache import fingerprint
from rayline.tune.trial_record import FoldScore


def test_write_and_read(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    score, scores = FoldScore(1, 0.5, 3, key="abc"), np.array([[0.1, 0.9], [0.5, 0.5]], dtype=np.float32)
    store.write(score, scores)
    assert store.known() == {"abc": score.to_json()}
    found = store.scores("abc")
    assert found is not None
    assert found.dtype == np.float32
    assert np.array_equal(found, scores)
    assert store.scores("other") is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["abc.json", "abc.npy"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"format_version": 2, "fold": {}}', b'{"format_version": 1, "fold": {"x": 1}}', b"\x80\x04."],
)
def test_strange_files_are_not_believed(tmp_path: Path, content: bytes) -> None:
    store = ResultStore(tmp_path)
    store.write(FoldScore(0, 0.5, 3, key="good"), np.zeros(3))
    (tmp_path / "bad.json").write_bytes(content)
    (tmp_path / "bad.npy").write_bytes((tmp_path / "good.npy").read_bytes())
    assert list(store.known()) == ["good"]


def test_a_score_without_its_predictions_is_computed_again(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    store.write(FoldScore(0, 0.5, 3, key="k"), np.zeros(3))
    (tmp_path / "k.npy").unlink()
    assert store.known() == {}


def test_a_nameless_journal_goes_with_its_object() -> None:
    store = ResultStore()
    store.write(FoldScore(0, 0.5, 3, key="k"), np.zeros(3))
    path = store._path
    assert path.exists()
    del store
    gc.collect()
    assert not path.exists()


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", " x"])
def test_names_are_no_paths(name: str) -> None:
    with pytest.raises(ParameterError):
        ResultStore.named(name)


def test_the_digest_knows_rows_order_split_and_columns() -> None:
    table = pl.DataFrame({"x": [1.0, 2.0, None], "y": [0, 1, 0]})
    cells, splits = [np.array([0, 1, 0])], [[FoldCells((0,), (1,))]]
    adapter = train.XGBoostTrainer({}).adapter

    def of(t: pl.DataFrame = table, c: Any = cells, s: object = splits, w: str | None = None) -> str:
        rows = TableGroups([t.with_columns(pl.Series(f"{CELL}0", c[0]))]).summarised()
        return digest([g.digest for g in rows.summaries], t.schema, s, ["y"], w, adapter)  # type: ignore[arg-type]

    others = [
        of(table[::-1]), of(table.with_columns(x=pl.col("x") + 1)), of(c=[np.array([1, 0, 0])]), of(w="x"),
        of(s=[[FoldCells((1,), (0,))]]), of(table.with_columns(pl.col("y").cast(pl.Int32))),
    ]  # fmt: skip
    assert of() == of(table.clone())
    assert len({of(), *others}) == 7


def test_fingerprints() -> None:
    import polars.selectors as cs

    from rayline.stages import StandardScaler

    values = [
        1,
        1.5,
        "1",
        None,
        True,
        [1],
        {"a": 1},
        StandardScaler(),
        StandardScaler(with_mean=False),
        StandardScaler(cs.numeric()),
        StandardScaler(cs.float()),
    ]
    prints = [fingerprint(v) for v in values]
    assert len(set(prints)) == len(values)
    assert prints == [fingerprint(v) for v in values]
    assert fingerprint(StandardScaler(["x"])) == fingerprint(StandardScaler(["x"]))


class Pieces:
    """Scores in pieces, of which one may raise."""

    def __init__(self, n_rows: int, pieces: Iterable[Any]) -> None:
        self.n_rows, self.pieces = n_rows, pieces

    def write(self, path: Path, url: str | None) -> None:
        with appearing_file(path, url) as file:
            for number, piece in enumerate(self.pieces):
                if not number:
                    write_header(file, piece, self.n_rows)
                file.write(piece.data)


@pytest.mark.parametrize("shape", [(7,), (7, 3), (0,)])
def test_scores_in_pieces_are_those_in_one(tmp_path: Path, shape: tuple[int, ...]) -> None:
    whole = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    store, score = ResultStore(tmp_path), FoldScore(0, 0.5, len(whole), key="k")
    parts = [whole[at : at + 2] for at in range(0, max(len(whole), 1), 2)]
    store.write(score, Pieces(len(whole), parts))
    found = store.scores("k")
    assert found is not None
    assert found.dtype == whole.dtype
    assert np.array_equal(found, whole)
    mapped = store.scores("k", mapped=True)
    assert isinstance(mapped, np.memmap if len(whole) else np.ndarray)

    def broken() -> Any:
        yield whole
        raise OSError("lost")

    with pytest.raises(OSError, match="lost"):
        store.write(score, Pieces(len(whole) * 2, broken()))
    assert np.array_equal(store.scores("k"), whole)  # type: ignore[arg-type]
    assert not [*tmp_path.glob(".*.part")]


def test_scores_behind_a_url_are_fetched_when_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"file://{tmp_path}/results"
    store, whole = ResultStore(url), np.arange(5.0)
    for key in ("a", "b"):
        store.write(FoldScore(0, 0.5, 5, key=key), whole)
    fetched, download = [], storage.download
    monkeypatch.setattr(storage, "download", lambda url, path: (fetched.append(path.name), download(url, path)))
    again = ResultStore(url)
    assert set(again.known()) == {"a", "b"}
    assert fetched == ["a.json", "b.json"]
    assert np.array_equal(again.scores("b", mapped=True), whole)  # type: ignore[arg-type]
    assert again.scores("none") is None
    assert fetched[2:] == ["b.npy"]


def test_a_search_is_kept_behind_a_url_and_resumed(table: pl.DataFrame, tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    options: dict[str, Any] = {
        "train_dataset": table.drop("city"), "target_columns": ["late"], "cv": 2, "name": "kept", "num_samples": 2,
        "config": {"ridge": tune.uniform(0.1, 1.0)}, "run_on": "process",
    }  # fmt: skip
    trainer = train.Trainer("least-squares")
    for place in (tmp_path / "plain", f"file://{tmp_path}/url", "memory://searches-that-are-kept"):
        first = tune.run(trainer, storage_path=place, **options)
        again = tune.run(trainer, storage_path=place, resume=True, **options)
        assert again.fits == {"trained": 0, "stopped": 0, "reused": 4}
        assert [t.scores for t in again.trials] == [t.scores for t in first.trials]
        assert again.oof.equals(first.oof)
    assert [*(tmp_path / "url" / "kept").glob("*.json")]
    with pytest.raises(ParameterError, match="Expected name="):
        tune.run(trainer, storage_path=tmp_path, **{**options, "name": None})


@pytest.mark.parametrize("place", ["", "a\0b"])
def test_where_a_search_is_kept_is_a_path(place: str) -> None:
    with pytest.raises(ParameterError, match=r"tune\.run: storage_path has a wrong value"):
        ResultStore.named("a", place)


def test_a_relative_path_is_that_of_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of Ray write scores, too, and run in other directories."""
    monkeypatch.chdir(tmp_path)
    ResultStore.named("a", "searches").write(FoldScore(fold=0, score=0.5, n_rows=1, key="k"), np.zeros(1))
    monkeypatch.chdir("/")
    assert sorted(ResultStore.named("a", tmp_path / "searches").known()) == ["k"]

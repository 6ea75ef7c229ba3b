"""Paths that are URLs: artifacts, preprocessors, predictions, checkpoints and results, on a local S3 and through fsspec."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import rayline as rl
from rayline import train, tune
from rayline.core import storage
from rayline.inference.artifact import digest_of, read_manifest, sign, signer_of
from rayline.stages import StandardScaler
from rayline.tune.result_store import ResultStore
from rayline.tune.trial_record import FoldScore
from tests.s3 import local_s3

TABLE = pl.DataFrame({"x": [0.0, 1.0, 2.0, 3.0] * 25, "late": ["no", "no", "yes", "yes"] * 25})


@pytest.fixture(params=["s3", "memory"])
def url(request: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "memory":
        import fsspec

        yield "memory://rayline"
        fsspec.filesystem("memory").store.clear()
        return
    with local_s3(monkeypatch) as found:
        yield f"{found}/folder"


@pytest.fixture(scope="module")
def result() -> Any:
    trainer = train.XGBoostTrainer({"max_depth": 2}, num_boost_round=3, seed=1)
    preprocessor = train.Preprocessor([("scale", StandardScaler())])
    return train.fit(trainer, preprocessor, TABLE, target_columns=["late"], verbose=False)


def test_an_artifact_by_url(url: str, result: Any, tmp_path: Path) -> None:
    pipeline, place = result.inference_pipeline, f"{url}/late.rayline"
    pipeline.save(tmp_path / "late.rayline")
    for _ in range(2):  # written, and replaced
        pipeline.save(place)
    loaded = rl.load(place)
    assert loaded.predict(TABLE).equals(pipeline.predict(TABLE))
    assert digest_of(place) == digest_of(tmp_path / "late.rayline")
    assert read_manifest(place)["framework"] == "xgboost"
    assert storage.list_names(url) == ["late.rayline"], "a temporary file stayed"
    with pytest.raises(rl.ArtifactError, match="bytes"):
        rl.load(place, max_bytes=10)
    with pytest.raises(rl.ArtifactError):
        rl.load(f"{url}/none.rayline")
    storage.write_bytes(f"{url}/bad.rayline", b"no archive")
    with pytest.raises(rl.ArtifactError):
        rl.load(f"{url}/bad.rayline")


def test_an_artifact_as_a_directory_and_its_signature(url: str, result: Any) -> None:
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    key, place = ed25519.Ed25519PrivateKey.generate(), f"{url}/late"
    result.inference_pipeline.save(place, directory=True)
    assert "digest" in storage.list_names(place)
    with pytest.raises(rl.ArtifactError, match="exists"):
        result.inference_pipeline.save(place, directory=True)
    public = sign(place, key)
    assert signer_of(place) == public
    assert rl.load(place, trusted_keys=[key.public_key()]).predict(TABLE).height == 100


def test_preprocessors_predictions_and_cards(url: str, result: Any) -> None:
    preprocessor = train.Preprocessor([("scale", StandardScaler())]).fit(TABLE.select("x"))
    preprocessor.save(f"{url}/scale.json")
    assert train.Preprocessor.load(f"{url}/scale.json") == preprocessor
    with pytest.raises(rl.ArtifactError, match="cannot be read"):
        train.Preprocessor.load(f"{url}/none.json")
    pipeline = result.inference_pipeline
    assert pipeline.write_predictions(TABLE, f"{url}/out", rows_per_file=60, keep_columns=["x"]) == 100
    assert [n for n in storage.list_names(f"{url}/out") if n.startswith("part")] == [
        "part-000000.parquet",
        "part-000001.parquet",
    ]
    assert pipeline.write_predictions(TABLE, f"{url}/out", rows_per_file=60, resume=True, keep_columns=["x"]) == 100


@pytest.mark.parametrize("suffix", [".md", ".html"])
def test_pages_by_url(url: str, result: Any, suffix: str) -> None:
    options = "?region=us-east-1" if url.startswith("s3") else ""
    rl.model_card(result.inference_pipeline, f"{url}/pages/card{suffix}{options}", data=TABLE)
    result.inference_pipeline.evaluate(TABLE, replicates=0).save(f"{url}/pages/report{suffix}{options}")
    for name in ("card", "report"):
        page, files = storage.read_bytes(f"{url}/pages/{name}{suffix}").decode(), storage.list_names(f"{url}/pages")
        plots = [file for file in files if file.startswith(f"{name}-")]
        assert bool(plots) == (suffix == ".md")
        assert all(file in page for file in plots)
    storage.delete(f"{url}/pages")


def test_logs_of_tensorboard(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason="the extra tracking is not installed")
    monkeypatch.chdir(tmp_path)
    logs = train.TensorBoard(f"{url}/logs", name="first")
    trainer = train.XGBoostTrainer({"max_depth": 2}, num_boost_round=3)
    train.fit(trainer, None, TABLE, target_columns=["late"], callbacks=[logs], verbose=False)
    assert [name.startswith("events.out.tfevents") for name in storage.list_names(f"{url}/logs/first")] == [True]
    assert not [*tmp_path.iterdir()], "something was written to a local directory"


def test_an_interrupted_upload_leaves_the_old_file(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PIECE_BYTES", 1000)
    local, place = tmp_path / "model.bin", f"{url}/interrupted/model.bin"
    local.write_bytes(b"old" * 1000)
    storage.upload(local, place)

    def interrupted(path: Path) -> Iterator[bytes]:
        yield b"new" * 300
        raise KeyboardInterrupt

    monkeypatch.setattr(storage, "_pieces", interrupted)
    with pytest.raises(KeyboardInterrupt):
        storage.upload(local, place)
    assert storage.read_bytes(place) == b"old" * 1000
    assert storage.list_names(f"{url}/interrupted") == ["model.bin"]


def test_copies_of_checkpoints(url: str) -> None:
    keep = train.ModelCheckpoint(f"{url}/copies", every=2, keep=2)
    trainer = train.XGBoostTrainer({"max_depth": 2}, num_boost_round=6)
    train.fit(trainer, None, TABLE, target_columns=["late"], callbacks=[keep], verbose=False)
    assert storage.list_names(f"{url}/copies") == ["iteration-000003", "iteration-000005"]


def test_results_of_a_search(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYLINE_CACHE", url)
    fold = FoldScore(fold=0, score=0.5, n_rows=2, key="a1")
    store = ResultStore.named("flights")
    store.write(fold, np.array([0.25, 0.5]))
    store.keep_files("b2", {"model.ubj": b"trees"})
    again = ResultStore.named("flights")
    assert again.known() == {"a1": fold.to_json()}
    assert again.scores("a1").tolist() == [0.25, 0.5]  # type: ignore[union-attr]
    assert again.files("b2") == {"model.ubj": b"trees"}
    again.drop_files("b2")
    assert storage.list_names(f"{url}/tune/flights") == ["a1.json", "a1.npy"]


def test_urls_that_cannot_be_opened(result: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # no request for a region
    for place in ("nothing-such://a/b", "s3://"):
        with pytest.raises(rl.ArtifactError, match="cannot be"):
            result.inference_pipeline.save(place)
        with pytest.raises(rl.ArtifactError, match="cannot be read"):
            rl.load(place)


def test_names_that_leave_the_directory(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"\.\."):
        storage._below(tmp_path, "bucket/a", "bucket/a/../../x")


def test_a_url_may_have_spaces_and_umlauts(tmp_path: Path) -> None:
    """A name of a search has spaces; Arrow takes them in a URL in their quoted form only."""
    url = storage.join(f"file://{tmp_path}", "a place ä")
    storage.write_bytes(storage.join(url, "a +b"), b"here")
    assert (tmp_path / "a place ä" / "a +b").read_bytes() == storage.read_bytes(f"{url}/a +b") == b"here"
    assert storage.list_names(url) == ["a +b"]
    storage.upload(tmp_path / "a place ä", f"{url}/2")
    with storage.local_copy(f"{url}/2") as copy:
        assert (copy / "a +b").read_bytes() == b"here"
    storage.delete(url)
    assert not storage.exists(url)


def test_a_name_below_a_url_without_a_directory(tmp_path: Path) -> None:
    assert [storage.below(root, "a") for root in ("memory://", "s3://b/", "file:///", tmp_path)] == [
        "memory://a", "s3://b/a", "file:///a", f"{tmp_path}/a",
    ]  # fmt: skip


class StrangeError(Exception):
    """An error as those of a library behind fsspec."""


def test_any_error_of_a_file_system_is_an_artifact_error() -> None:
    message = r"s3://b/a cannot be read: no such bucket\.\n  Expected a URL"
    with pytest.raises(rl.ArtifactError, match=message), storage.opening("s3://b/a", "read"):
        raise StrangeError("no such bucket")
    message = r"a cannot be written: StrangeError\.\n  Expected a place"
    with pytest.raises(rl.ArtifactError, match=message), storage.opening("a", "written"):
        raise StrangeError


@pytest.mark.parametrize("name", ["closed/a", "nothing-such://a/b"])
def test_what_writes_while_it_trains_says_where_it_cannot(tmp_path: Path, name: str) -> None:
    (tmp_path / "closed").write_text("a file")
    place = name if "://" in name else f"{tmp_path}/{name}"
    trainer: Any = train.XGBoostTrainer({}, num_boost_round=2)
    data: Any = {"target_columns": ["late"], "verbose": False}
    callbacks: list[train.Callback] = [train.ModelCheckpoint(place, every=1)]
    if importlib.util.find_spec("tensorboardX") is not None:
        callbacks.append(train.TensorBoard(place))
    for callback in callbacks:
        with pytest.raises(rl.ArtifactError, match="cannot be written"):
            train.fit(trainer, None, TABLE, callbacks=[callback], **data)
    with pytest.raises(rl.ArtifactError, match="cannot be"):
        tune.run(trainer, train_dataset=TABLE, cv=2, config={}, num_samples=1, name="a b", storage_path=place, **data)

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

import rayline as rl
from rayline.stages import OneHotEncoder, SimpleImputer
from tests import toy

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def strict() -> rl.InferencePipeline:
    return refusing()


def refusing() -> rl.InferencePipeline:
    """A pipeline that refuses cities it does not know."""
    base = toy.pipeline()
    preprocessor = rl.Preprocessor([("impute", SimpleImputer()), ("onehot", OneHotEncoder(handle_unknown="error"))])
    preprocessor.fit(toy.table(), target_columns=["late"])
    model = base.model
    weights = toy.Weights(w=[0.1] * len(preprocessor.output_schema), b=0.4)
    return preprocessor.chain(rl.Model(model.framework, weights, preprocessor.output_schema, model.target))


def test_one_bad_row_need_not_sink_the_rest(strict: rl.InferencePipeline) -> None:
    table = toy.table()
    bad = table.with_columns(
        city=pl.when(pl.int_range(pl.len()).is_in([3, 17])).then(pl.lit("Atlantis")).otherwise("city")
    )
    with pytest.raises(rl.DataError, match=r"'onehot' got unknown values in column 'city'.*\n.*Atlantis"):
        strict.transform(bad)
    expected = strict.predict(table)["prediction"].to_list()
    nulls = strict.transform(bad, on_error="null")["prediction"].to_list()
    assert [i for i, value in enumerate(nulls) if value is None] == [3, 17]
    assert all(a == b for i, (a, b) in enumerate(zip(nulls, expected, strict=True)) if i not in (3, 17))
    collected = strict.transform(bad, on_error="collect", keep_columns=["size"])
    assert collected.columns == ["size", "prediction", "prediction_error"]
    errors = collected["prediction_error"].to_list()
    assert [i for i, error in enumerate(errors) if error is not None] == [3, 17]
    assert "'city'" in errors[3]
    # What is wrong with the table is not a row's fault.
    with pytest.raises(rl.SchemaError, match="'city'"):
        strict.transform(bad.drop("city"), on_error="null")
    with pytest.raises(rl.ParameterError, match="on_error"):
        strict.transform(table, on_error="ignore")  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 7, 500])
def test_batches_do_not_matter(size: int) -> None:
    pipeline = toy.pipeline()
    assert pipeline.transform(toy.table(), batch_size=size).equals(pipeline.transform(toy.table()))
    with pytest.raises(rl.ParameterError, match=r"for a ray\.data\.Dataset"):
        pipeline.transform(toy.table(), num_gpus=1)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"batch_size": 0}, "batch_size"), ({"batch_size": "all"}, "batch_size"), ({"num_gpus": -1}, "num_gpus"), ({"num_cpus": "2"}, "num_cpus"),
     ({"concurrency": "a"}, "concurrency")],
)  # fmt: skip
def test_sizes_are_checked_before_anything_starts(
    strict: rl.InferencePipeline, options: dict[str, Any], words: str
) -> None:
    rows = pl.DataFrame({"x": [1.0, 2.0]})
    with pytest.raises(rl.ParameterError, match=f"InferencePipeline.transform: {words} has a wrong value"):
        strict.transform(rows, **options)
    with pytest.raises(rl.ParameterError, match=f"data.map_batches: {words} has a wrong value"):
        rl.data.map_batches(rows, strict.predict, **options)


def test_predictions_are_written_once(tmp_path: Path) -> None:
    pipeline, table = toy.pipeline(), toy.table()
    expected = pipeline.transform(table)
    assert pipeline.write_predictions(table.lazy(), tmp_path / "out", rows_per_file=7) == 40
    files = sorted(p.name for p in (tmp_path / "out").glob("*.parquet"))
    assert files == [f"part-{i:06d}.parquet" for i in range(6)]
    assert pl.read_parquet(tmp_path / "out" / "*.parquet").equals(expected)
    with pytest.raises(rl.DataError, match="6 files already"):
        pipeline.write_predictions(table, tmp_path / "out", rows_per_file=7)
    with pytest.raises(rl.DataError, match="rows_per_file"):
        pipeline.write_predictions(table, tmp_path / "out", rows_per_file=8, resume=True)
    with pytest.raises(rl.DataError, match="made otherwise"):
        pipeline.write_predictions(table, tmp_path / "out", rows_per_file=7, proba=True, resume=True)
    assert pipeline.preprocessor is not None
    other = toy.Weights({**pipeline.model.native, "b": 0.9})
    model = rl.Model(pipeline.model.framework, other, pipeline.model.schema, pipeline.target, examples=table.head(5))
    with pytest.raises(rl.DataError, match="made otherwise"):
        pipeline.preprocessor.chain(model).write_predictions(table, tmp_path / "out", rows_per_file=7, resume=True)
    kept = (tmp_path / "out" / "part-000001.parquet").stat().st_mtime_ns
    (tmp_path / "out" / "part-000003.parquet").unlink()
    (tmp_path / "out" / ".part-000003.abc.tmp").write_text("half of a file")
    assert pipeline.write_predictions(table, tmp_path / "out", rows_per_file=7, resume=True) == 40
    assert pl.read_parquet(tmp_path / "out" / "*.parquet").equals(expected)
    assert (tmp_path / "out" / "part-000001.parquet").stat().st_mtime_ns == kept
    assert not list((tmp_path / "out").glob(".*.tmp"))


@pytest.mark.slow
def test_a_killed_run_is_continued(tmp_path: Path) -> None:
    code = (
        "import polars as pl; from tests import toy\n"
        "table = pl.concat([toy.table()] * 200).with_row_index('id')\n"
        f"print('go', flush=True); toy.pipeline().write_predictions(table, {str(tmp_path / 'out')!r}, rows_per_file=100)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    process.stdout.readline()
    while not list((tmp_path / "out").glob("*.parquet")):
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    done = len(list((tmp_path / "out").glob("*.parquet")))
    assert 0 < done < 80
    table = pl.concat([toy.table()] * 200).with_row_index("id")
    assert toy.pipeline().write_predictions(table, tmp_path / "out", rows_per_file=100, resume=True) == 8000
    got = pl.read_parquet(tmp_path / "out" / "*.parquet")
    assert got["id"].to_list() == list(range(8000))
    assert got.equals(toy.pipeline().transform(table))


def test_damaged_files_are_not_continued(tmp_path: Path) -> None:
    pipeline, table = toy.pipeline(), toy.table()
    pipeline.write_predictions(table, tmp_path, rows_per_file=100)
    (tmp_path / "part-000000.parquet").write_bytes(b"not Parquet")
    with pytest.raises(rl.ArtifactError, match=r"part-000000\.parquet is no Parquet file"):
        pipeline.write_predictions(table, tmp_path, rows_per_file=100, resume=True)
    (tmp_path / "_rayline.json").write_bytes(b"{not JSON")
    with pytest.raises(rl.ArtifactError, match=r"_rayline\.json is not the JSON"):
        pipeline.write_predictions(table, tmp_path, rows_per_file=100, resume=True)

"""Files that differ: one type for each column in any order, or an error that names the file. Also forks and processors.

Covers `core.forks` too.
"""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from rayline import DataError, ParameterError, ResourceError, SchemaError, data
from rayline.core import forks, registry
from rayline.core.errors import at
from rayline.data import files
from rayline.stages import SimpleImputer
from rayline.train import Preprocessor
from rayline.train.training_run import available_cpus


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "whole.csv").write_text("x,s,y\n1,a,1\n2,b,2\n")
    (tmp_path / "fraction.csv").write_text("x,s,y\n1.5,a,1\nNA,NA,2\n")
    (tmp_path / "lacking.csv").write_text("x,y\n1,1\n")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "header.csv").write_text("x,s,y\n")
    (tmp_path / "text.csv").write_text("s,x,y\na,u,1\n")
    pl.DataFrame({"x": [1], "y": [2]}).write_parquet(tmp_path / "whole.parquet")
    pl.DataFrame({"x": [1.5]}).write_parquet(tmp_path / "lacking.parquet")
    (tmp_path / "whole.jsonl").write_text('{"x":1,"y":2}\n')
    (tmp_path / "lacking.jsonl").write_text('{"x":1.5}\n')
    return tmp_path


def csv_schema(*paths: Path, missing_columns: files.MissingColumns = "raise", **options: Any) -> pa.Schema | None:
    reader = files.CsvReader(options.get("null_values"), options.get("types"))
    with at("read_csv"):
        return files.common_schema(paths, reader.schema, missing_columns=missing_columns)


@pytest.mark.parametrize(
    "names", [["whole", "fraction"], ["fraction", "whole"], ["header", "fraction", "whole"]], ids=str
)
def test_one_type_in_any_order(folder: Path, names: list[str]) -> None:
    found = csv_schema(*(folder / f"{name}.csv" for name in names))
    assert found is not None
    assert dict(zip(found.names, found.types, strict=True)) == {"x": pa.float64(), "s": pa.string(), "y": pa.int64()}


@pytest.mark.parametrize("names", [["whole", "lacking"], ["lacking", "whole"]], ids=str)
def test_a_missing_column_names_file_and_column(folder: Path, names: list[str]) -> None:
    paths = [folder / f"{name}.csv" for name in names]
    with pytest.raises(SchemaError, match=r"lacking.csv' has no column 's', which .*whole.csv' has"):
        csv_schema(*paths)
    found = csv_schema(*paths, missing_columns="null")
    assert found is not None
    assert set(found.names) == {"x", "s", "y"}


def test_other_disagreements_name_the_file(folder: Path) -> None:
    with pytest.raises(DataError, match=r"empty.csv' is empty"):
        csv_schema(folder / "whole.csv", folder / "empty.csv")
    with pytest.raises(SchemaError, match=r"column 'x' is string in .*text.csv' and int64 in .*whole.csv'"):
        csv_schema(folder / "whole.csv", folder / "text.csv")
    with pytest.raises(ParameterError, match="missing_columns"):
        data.read_csv(folder / "whole.csv", missing_columns="maybe")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="convert_options"):
        data.read_csv(folder / "whole.csv", null_values=["NA"], convert_options=None)


def test_a_lazy_table_of_files_that_differ(folder: Path) -> None:
    pl.DataFrame({"x": [1]}).write_parquet(folder / "short.parquet")
    table = pl.scan_parquet([folder / "whole.parquet", folder / "short.parquet"])
    with pytest.raises(SchemaError, match="columns"):
        Preprocessor([("impute", SimpleImputer())]).fit(table)
    with pytest.raises((SchemaError, DataError)):
        data.train_test_split(table, 0.5)


@pytest.mark.ray
def test_files_that_differ_on_ray(ray_session: None, folder: Path) -> None:
    collect = registry.engine("ray").collect
    for names in (["whole", "fraction"], ["fraction", "whole"]):
        found = collect(data.read_csv([folder / f"{name}.csv" for name in names], null_values=["NA"])).sort(
            "x", nulls_last=True
        )
        assert found.to_dict(as_series=False) == {
            "x": [1.0, 1.5, 2.0, None],
            "s": ["a", "a", "b", None],
            "y": [1, 1, 2, 2],
        }
    assert collect(data.read_csv(folder / "whole.csv", schema={"y": pl.Float32}))["y"].dtype == pl.Float32
    lacking = collect(data.read_parquet([folder / "whole.parquet", folder / "lacking.parquet"], missing_columns="null"))
    assert lacking.sort("x").rows() == [(1.0, 2), (1.5, None)]
    lines = collect(data.read_json([folder / "whole.jsonl", folder / "lacking.jsonl"], lines=True))
    assert lines.sort("x").rows() == [(1.0, 2), (1.5, None)]


@pytest.mark.ray
@pytest.mark.parametrize(
    "second",
    [
        pa.table({"x": pa.array([1], pa.timestamp("us", "Asia/Tokyo")), "y": [1.0]}),
        pa.table({"x": ["a"], "y": [1.0]}),
        pa.table({"y": [1.0]}),
    ],
    ids=["zone", "type", "lacking"],
)
def test_blocks_that_disagree(ray_session: None, second: pa.Table) -> None:
    x = pa.array([1], pa.timestamp("us", "UTC")) if "x" in second.column_names else pa.array([1.0])
    first = pa.table({"x": x, "y": [1.0]})
    with pytest.raises(SchemaError, match=r"blocks of the dataset disagree: .*x"):
        Preprocessor([("impute", SimpleImputer())]).fit(data.from_arrow([first, second]), target_columns=["y"])


def test_processors_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    assert available_cpus() >= 1
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert available_cpus() == os.cpu_count()


def _child(queue: Any) -> None:
    try:
        Preprocessor([("impute", SimpleImputer())]).fit(pl.DataFrame({"x": [1.0, None]}))
    except ResourceError as error:
        queue.put(str(error))
    else:
        queue.put("fitted")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore")
def test_a_forked_process_is_refused_and_does_not_hang() -> None:
    Preprocessor([("impute", SimpleImputer())]).fit(pl.DataFrame({"x": [1.0, None]}))
    forks.refuse_after_fork()
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=_child, args=(queue,), daemon=True)
    process.start()
    process.join(30)
    assert process.exitcode == 0
    assert "forked" in queue.get()

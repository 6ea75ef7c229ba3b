"""Readers: thin, quiet, to ray.data; nothing is loaded before it is used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from rayline import data
from rayline.core import registry
from rayline.core.errors import DataError, ParameterError, SchemaError

TABLE = pl.DataFrame({"x": [1, 2, 3], "city": ["a", None, "b"]})


def collected(ds: Any) -> pl.DataFrame:
    return registry.engine("ray").collect(ds).sort("x")


def test_missing_files_are_refused_before_ray_starts(tmp_path: Path) -> None:
    code = f"""
import sys
from rayline import DataError, data
for read in (data.read_parquet, data.read_csv, data.read_json):
    try:
        read({str(tmp_path / "nothing.parquet")!r})
    except DataError as error:
        assert "does not exist" in str(error)
import ray
assert not ray.is_initialized()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("from_pandas", TABLE),
        ("from_polars", pd.DataFrame()),
        ("from_arrow", {"x": [1]}),
        ("from_polars", []),
        ("from_pandas", [TABLE]),
    ],
)
def test_other_types_are_refused(name: str, wrong: Any) -> None:
    with pytest.raises(SchemaError, match=name):
        getattr(data, name)(wrong)


def test_names() -> None:
    assert set(data.__all__) <= set(dir(data))
    with pytest.raises(AttributeError, match="has no attribute 'read_excel'"):
        data.read_excel  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.ray
def test_tables(ray_session: Any) -> None:
    import ray.data

    tables = {
        "from_pandas": TABLE.to_pandas(),
        "from_polars": TABLE,
        "from_arrow": TABLE.to_arrow(compat_level=pl.CompatLevel.oldest()),
    }
    for name, table in tables.items():
        for source in (
            table,
            [table[:1], table[1:]] if not isinstance(table, pa.Table) else [table.slice(0, 1), table.slice(1)],
        ):
            ds = getattr(data, name)(source)
            assert isinstance(ds, ray.data.Dataset)
            assert collected(ds).equals(TABLE), name
    with pytest.raises(ParameterError, match="from_pandas"):
        data.from_pandas(TABLE.to_pandas(), blocks=3)
    assert collected(data.from_polars(TABLE.lazy())).equals(TABLE)
    assert (
        data.from_arrow(TABLE.to_arrow(compat_level=pl.CompatLevel.oldest()), override_num_blocks=3).num_blocks() == 3
    )


@pytest.mark.ray
def test_files(ray_session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    TABLE.write_parquet(tmp_path / "t.parquet")
    TABLE.write_csv(tmp_path / "t.csv")
    TABLE.write_ndjson(tmp_path / "t.json")
    assert collected(data.read_parquet(tmp_path / "t.parquet")).equals(TABLE)
    monkeypatch.chdir(tmp_path)
    assert collected(data.read_parquet("t.parquet")).equals(TABLE)
    assert collected(data.read_csv(str(tmp_path / "t.csv")))["x"].to_list() == [1, 2, 3]
    assert collected(data.read_json([tmp_path / "t.json"], lines=True)).equals(TABLE)


@pytest.mark.ray
def test_what_cannot_be_read_is_an_error_of_ours(ray_session: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    TABLE.write_csv(tmp_path / "rows.csv")
    readers = (data.read_parquet, data.read_csv, data.read_json)
    for read in readers:
        with pytest.raises(ParameterError, match="at least one path or URL"):
            read([])
        for place in (f"file://{tmp_path}/nothing", "nothing-such://a/b"):
            with pytest.raises(DataError, match="cannot be read"):
                read(place).count()
    for place in ("empty", "rows.csv"):
        with pytest.raises(DataError, match="cannot be read"):
            data.read_parquet(str(tmp_path / place)).count()


@pytest.mark.ray
def test_a_url_may_have_spaces_and_umlauts(ray_session: Any, tmp_path: Path) -> None:
    (tmp_path / "a place ä").mkdir()
    TABLE.write_parquet(tmp_path / "a place ä" / "rows.parquet")
    for place in (
        tmp_path / "a place ä",
        f"file://{tmp_path}/a place ä",
        f"file://{tmp_path}/a%20place ä/rows.parquet",
    ):
        assert collected(data.read_parquet(place)).equals(TABLE)

"""The one door of values: what a fitted column takes, from every kind of table and from rows, and what comes back beside.

Covers `preprocessing.value_readers` too.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import decimal
import math
import zoneinfo
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import rayline as rl
from rayline import data, train
from rayline.core.schema import category_of, category_text, dtype_from_json, dtype_to_json
from rayline.engine.local import to_polars
from rayline.inference.pipeline import InferencePipeline
from rayline.serve.protocol import RowReader
from rayline.stages import DatetimeEncoder, OneHotEncoder, SimpleImputer
from tests import toy  # registers its framework

NEW_YORK = zoneinfo.ZoneInfo("America/New_York")
N = 24
TABLE = pl.DataFrame(
    {
        "day": [dt.date(2013, 1, 1) + dt.timedelta(days=i) for i in range(N)],
        "zoned": pl.Series([dt.datetime(2013, 1, 1) + dt.timedelta(hours=i) for i in range(N)]).dt.replace_time_zone(
            str(NEW_YORK)
        ),
        "local": [dt.datetime(2013, 1, 1) + dt.timedelta(days=i) for i in range(N)],
        "x": [float(i % 5) for i in range(N)],
        "k": pl.Series(range(N), dtype=pl.Int32),
        "s": ["a", "b"] * (N // 2),
        "y": [float(i) for i in range(N)],
    }
)
ROW = TABLE.drop("y").row(3, named=True)


def fitted(table: Any, stages: Any, target: str = "y") -> InferencePipeline:
    trainer = train.Trainer("least-squares")
    preprocessor = train.Preprocessor(stages)
    return train.fit(
        trainer, preprocessor, train_dataset=table, target_columns=[target], verbose=False
    ).inference_pipeline


@pytest.fixture(scope="module")
def pipeline() -> InferencePipeline:
    return fitted(TABLE, [("impute", SimpleImputer()), ("dates", DatetimeEncoder()), ("onehot", OneHotEncoder())])


DOORS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "row": lambda row: [row],
    "rows": lambda row: [row] * 6,
    "dict of lists": lambda row: {name: [value] for name, value in row.items()},
    "dict of arrays": lambda row: {name: np.array([value], dtype=object) for name, value in row.items()},
    "pandas": lambda row: pd.DataFrame([row]),
    "pandas objects": lambda row: pd.DataFrame([row]).astype(object),
    "Polars": lambda row: to_polars([row]),
    "Arrow": lambda row: to_polars([row]).to_arrow(),
    "JSON": lambda row: row,
}


def predicted(pipeline: InferencePipeline, door: str, row: dict[str, Any]) -> float:
    if door == "JSON":
        plain = {name: v.isoformat() if isinstance(v, (dt.date, dt.datetime)) else v for name, v in row.items()}
        plain["zoned"] = row["zoned"].isoformat() if isinstance(row["zoned"], dt.datetime) else row["zoned"]
        return float(pipeline.predict(RowReader(pipeline.input_schema).table([plain]))["prediction"][0])
    found = to_polars(pipeline.predict(DOORS[door](row)))["prediction"]
    assert found.n_unique() == 1
    return float(found[0])


# -- dates and times ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("column", "given", "same"),
    [
        ("day", "2013-12-25", dt.date(2013, 12, 25)),
        ("day", "2013-12-25T00:00:00", dt.date(2013, 12, 25)),
        ("day", dt.datetime(2013, 12, 25), dt.date(2013, 12, 25)),
        ("local", "2013-12-25T06:30:00", dt.datetime(2013, 12, 25, 6, 30)),
        ("local", "2013-12-25", dt.datetime(2013, 12, 25)),
        ("local", dt.date(2013, 12, 25), dt.datetime(2013, 12, 25)),
        ("zoned", "2013-11-03T01:30:00-05:00", dt.datetime(2013, 11, 3, 6, 30, tzinfo=dt.UTC)),
        (
            "zoned",
            dt.datetime(2013, 11, 3, 1, 30, fold=1, tzinfo=NEW_YORK),
            dt.datetime(2013, 11, 3, 6, 30, tzinfo=dt.UTC),
        ),
        ("zoned", dt.datetime(2013, 3, 10, 2, 30, tzinfo=NEW_YORK), dt.datetime(2013, 3, 10, 7, 30, tzinfo=dt.UTC)),
    ],
)
def test_dates_and_times_mean_the_same_at_every_door(
    pipeline: InferencePipeline, door: str, column: str, given: Any, same: Any
) -> None:
    expected = pipeline.predict(pl.DataFrame([{**ROW, column: same}], schema_overrides={column: TABLE.schema[column]}))
    assert predicted(pipeline, door, {**ROW, column: given}) == expected["prediction"][0]


@pytest.mark.parametrize("door", [door for door in DOORS if door != "JSON"])
@pytest.mark.parametrize(
    ("column", "given"),
    [
        ("day", "25.12.2013"),
        ("day", dt.datetime(2013, 12, 25, 6)),
        ("local", "noon"),
        ("local", "2013-12-25T06:30:00+01:00"),
        ("local", dt.datetime(2013, 12, 25, tzinfo=dt.UTC)),
        ("zoned", "2013-12-25T06:30:00"),
        ("zoned", dt.datetime(2013, 12, 25, 6, 30)),
        ("zoned", dt.date(2013, 12, 25)),
        ("day", 20131225),
        ("x", "1.5"),
        ("k", 2**40),
        ("k", 2**70),
        ("k", 2.0**40),
        ("k", 0.5),
        ("k", math.inf),
        ("s", 1),
        ("s", True),
        ("s", b"a"),
        ("x", [1.0]),
        ("k", 10**50),
    ],
)
def test_what_a_column_cannot_be_is_refused_at_every_door(
    pipeline: InferencePipeline, door: str, column: str, given: Any
) -> None:
    if given == 2**70 and door == "Arrow":
        pytest.skip("Arrow has no such integers")
    with pytest.raises(rl.RaylineError, match=column):
        predicted(pipeline, door, {**ROW, column: given})


@pytest.mark.parametrize("missing", [None, math.nan, pd.NA, pd.NaT, np.float64("nan")], ids=repr)
@pytest.mark.parametrize("column", ROW)
@pytest.mark.parametrize("door", [door for door in DOORS if door != "JSON"])
def test_a_missing_value_is_one_in_any_type(pipeline: InferencePipeline, door: str, column: str, missing: Any) -> None:
    expected = pipeline.predict(pl.DataFrame([{**ROW, column: None}], schema=TABLE.drop("y").schema))["prediction"][0]
    assert predicted(pipeline, door, {**ROW, column: missing}) == expected


def test_a_batch_without_any_value_predicts(pipeline: InferencePipeline) -> None:
    nothing = pd.DataFrame({name: [math.nan] * 3 for name in ROW})
    expected = pipeline.predict([dict.fromkeys(ROW)] * 6)[0]["prediction"]
    assert pipeline.predict(nothing)["prediction"].tolist() == [expected] * 3


def test_one_missing_value_leaves_whole_numbers_whole(pipeline: InferencePipeline) -> None:
    table = pd.DataFrame([{**ROW, "k": 3}, {**ROW, "k": None}])
    assert table["k"].dtype == np.float64
    one, other = pipeline.predict(table)["prediction"]
    assert one == pipeline.predict([ROW | {"k": 3}])[0]["prediction"]
    assert other == pipeline.predict([ROW | {"k": None}])[0]["prediction"]


@pytest.mark.parametrize(
    "values",
    [pa.array([1, 2**64 - 1], pa.uint64()), pa.array([1, 2**40]), pa.array([1.0, 0.5])],
    ids=lambda values: str(values.type),
)
def test_a_bad_number_is_collected_with_its_row(pipeline: InferencePipeline, values: Any) -> None:
    table = to_polars([ROW, ROW]).to_arrow()
    table = table.set_column(table.column_names.index("k"), "k", values)
    found = pl.DataFrame(pipeline.transform(table, keep_columns=[], on_error="collect"))
    assert found["prediction"].is_null().to_list() == [False, True]
    assert "'k'" in found["prediction_error"][1]


# -- types that Polars lacks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "column",
    [
        pa.array([decimal.Decimal(1)], pa.decimal256(50, 2)),
        pa.array([decimal.Decimal(100)], pa.decimal128(5, -2)),
        pa.array([[]], pa.list_(pa.int64(), 0)),
        pa.array([[1]], pa.list_view(pa.int64())),
        pa.RunEndEncodedArray.from_arrays(pa.array([1], pa.int32()), pa.array([5])),
        pa.array([1], pa.timestamp("s", "+05:00")),
    ],
    ids=lambda column: str(column.type),
)
def test_a_strange_column_beside_the_model_s_comes_back_as_it_was(pipeline: InferencePipeline, column: Any) -> None:
    table = to_polars([ROW]).to_arrow().append_column("strange", column)
    found = pipeline.transform(table, keep_columns=["strange"])
    assert found.schema.field("strange").type == column.type
    assert found["strange"].combine_chunks().to_pylist() == column.to_pylist()


@pytest.mark.parametrize(
    "column",
    [
        pa.array([(1, 2, 3)], pa.month_day_nano_interval()),
        pa.array([1], pa.timestamp("s", "Nowhere/City")),
        pa.UnionArray.from_dense(pa.array([0], pa.int8()), pa.array([0], pa.int32()), [pa.array([1])]),
    ],
    ids=lambda column: str(column.type),
)
def test_what_has_no_form_in_polars_is_refused_by_name(pipeline: InferencePipeline, column: Any) -> None:
    table = to_polars([ROW]).to_arrow().append_column("strange", column)
    with pytest.raises(rl.SchemaError, match="'strange'"):
        pipeline.predict(table)


# -- what is passed through --------------------------------------------------------------------------------------------

BIG = 2**53 + 1
IDS: dict[str, Any] = {
    "nullable integers": pd.array([BIG, None], dtype="Int64"),
    "booleans": pd.array([True, None], dtype="boolean"),
    "strings": pd.array(["a", None], dtype="string"),
    "Arrow's integers": pd.array([BIG, None], dtype="int64[pyarrow]"),
    "categories": pd.Categorical([2, None], categories=[1, 2]),
    "text categories": pd.Categorical(["b", "a"], ordered=True),
    "decimals": np.array([decimal.Decimal("1.10"), None], dtype=object),
    "zoned": pd.to_datetime(["2020-01-01", None]).tz_localize("US/Pacific"),
    "nanoseconds": pd.to_datetime(["2020-01-01 00:00:00.123456789", None]),
    "lists": np.array([[1, 2], None], dtype=object),
    "periods": pd.period_range("2020-01", periods=2, freq="M"),
    "objects": np.array([1, "a"], dtype=object),
    "integers": np.array([BIG, 1]),
}


@pytest.mark.parametrize("name", IDS)
def test_ids_come_back_as_they_were(pipeline: InferencePipeline, name: str) -> None:
    table = pd.DataFrame([ROW, ROW], index=[7, 9]).assign(id=IDS[name])
    for found in (pipeline.transform(table, keep_columns=["id"]), pipeline.transform(table)):
        pd.testing.assert_series_equal(found["id"], table["id"])
        assert found["prediction"].tolist() == [pipeline.predict([ROW])[0]["prediction"]] * 2
    assert pipeline.preprocessor is not None
    pd.testing.assert_series_equal(pipeline.preprocessor.transform(table)["id"], table["id"])
    values = table["id"].tolist()
    rows = pipeline.transform([{**ROW, "id": value} for value in values], keep_columns=["id"])
    assert all(row["id"] is value for row, value in zip(rows, values, strict=True))


def test_whole_numbers_with_gaps_are_never_rounded() -> None:
    table = pd.DataFrame({"x": [1.0, 2.0], "id": pd.array([BIG, None], dtype="Int64")})
    found = train.Preprocessor([("impute", SimpleImputer(columns=["x"]))]).fit_transform(table)["id"]
    assert found.tolist() == [BIG, pd.NA]


# -- names that are added ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [["prediction"], None])
def test_a_column_of_the_user_s_is_not_replaced(pipeline: InferencePipeline, keep: list[str] | None) -> None:
    table = to_polars([ROW]).with_columns(prediction=pl.lit("mine"))
    with pytest.raises(rl.SchemaError, match="'prediction' already"):
        pipeline.transform(table, keep_columns=keep)
    assert pipeline.transform(table, keep_columns=["x"]).columns == ["x", "prediction"]
    assert pipeline.predict(table).columns == ["prediction"]


def test_nor_are_those_of_probabilities_errors_and_stages(pipeline: InferencePipeline, tmp_path: Any) -> None:
    table = to_polars([ROW])
    with pytest.raises(rl.SchemaError, match="prediction_error"):
        pipeline.transform(table.with_columns(prediction_error=pl.lit(1)), on_error="collect")
    with pytest.raises(rl.SchemaError, match="'prediction' already"):
        pipeline.write_predictions(table.with_columns(prediction=pl.lit(1)), tmp_path / "out")
    with pytest.raises(rl.SchemaError, match="'s_a' already"):
        pipeline.predict(table.with_columns(s_a=pl.lit(1)))
    classifier = toy.pipeline()
    rows = toy.table().with_columns(probability_yes=pl.lit(0.0))
    with pytest.raises(rl.SchemaError, match="probability_yes"):
        classifier.transform(rows, proba=True)
    assert "probability_yes" in classifier.transform(rows).columns


# -- categories that are no text ---------------------------------------------------------------------------------------

CATEGORIES: dict[str, list[Any]] = {
    "integers": [1, 2, 10],
    "floats": [1.0, 2.0, 2.5],
    "booleans": [True, False],
    "times": [pd.Timestamp("2020-01-01"), pd.Timestamp("2020-01-02 06:00")],
}


def _categories(name: str) -> pd.DataFrame:
    values = CATEGORIES[name]
    codes = [i % len(values) for i in range(N)]
    return pd.DataFrame(
        {"c": pd.Categorical([values[i] for i in codes]), "x": np.arange(N) % 3.0, "y": np.array(codes, float)}
    )


@pytest.mark.parametrize("name", CATEGORIES)
def test_a_declared_category_is_one_at_every_door(name: str, tmp_path: Any) -> None:
    table = _categories(name)
    pipeline = fitted(table, [("onehot", OneHotEncoder())])
    assert set(pipeline.model.schema) == {"x", *(f"c_{category_text(v)}" for v in CATEGORIES[name])}
    rows = table.drop(columns="y").head(6)
    expected = pipeline.predict(rows)["prediction"].tolist()
    assert expected == pytest.approx(table["y"].head(6).tolist(), abs=1e-4)
    records = rows.to_dict("records")
    found = {
        "Arrow": pipeline.predict(pa.Table.from_pandas(rows))["prediction"].to_pylist(),
        "rows": [row["prediction"] for row in pipeline.predict(records)],
        "single rows": [pipeline.predict([row])[0]["prediction"] for row in records],
        "plain values": pipeline.predict(rows.assign(c=np.array(rows["c"].tolist())))["prediction"].tolist(),
        "text": pipeline.predict(rows.assign(c=[category_text(v) for v in rows["c"]]))["prediction"].tolist(),
        "other codes": pipeline.predict(rows.assign(c=rows["c"].cat.reorder_categories(CATEGORIES[name][::-1])))[
            "prediction"
        ].tolist(),
    }
    if name != "times":
        found["JSON"] = pipeline.predict(RowReader(pipeline.input_schema).table(records))["prediction"].to_list()
    pipeline.save(tmp_path / "p.rayline")
    loaded = rl.load(tmp_path / "p.rayline")
    assert loaded.input_schema == pipeline.input_schema
    found["loaded"] = loaded.predict(rows)["prediction"].tolist()
    assert found == dict.fromkeys(found, expected)
    with pytest.raises(rl.SchemaError, match="'c'"):
        pipeline.predict(rows.assign(c=[[1]] * 6))


@pytest.mark.parametrize("name", ["integers", "floats", "booleans"])
def test_labels_that_are_categories_are_classes_in_their_own_type(name: str) -> None:
    table = _categories(name)[["x", "c"]]
    trainer = train.XGBoostTrainer({}, num_boost_round=2)
    result = train.fit(trainer, train_dataset=table, test_dataset=table, target_columns=["c"], verbose=False)
    pipeline = result.inference_pipeline
    assert pipeline.target.task.is_classification
    assert pipeline.classes == sorted(CATEGORIES[name])
    assert set(pipeline.predict(table[["x"]])["prediction"]) <= set(CATEGORIES[name])


def test_intervals_are_categories() -> None:
    table = pd.DataFrame({"c": pd.cut(np.arange(N), 3), "y": np.arange(N) // (N // 3) * 1.0})
    pipeline = fitted(table, [("onehot", OneHotEncoder())])
    assert pipeline.predict(table)["prediction"].tolist() == pytest.approx(table["y"].tolist(), abs=1e-4)


def test_a_model_takes_declared_categories_itself() -> None:
    table = _categories("integers")
    trainer = train.XGBoostTrainer({}, num_boost_round=3)
    pipeline = train.fit(trainer, train_dataset=table, target_columns=["y"], verbose=False).inference_pipeline
    assert pipeline.model.schema["c"] == pl.Enum(["1", "10", "2"])
    assert len(set(pipeline.predict(table)["prediction"])) == 3


def test_categories_of_polars_with_a_name_are_categories() -> None:
    own = pl.Categorical(pl.Categories("mine"))
    table = pl.DataFrame({"c": ["a", "b"] * 6, "y": [0.0, 1.0] * 6}).cast({"c": own})
    pipeline = fitted(table, [("onehot", OneHotEncoder())])
    assert pipeline.predict(table)["prediction"].to_list() == pytest.approx(table["y"].to_list(), abs=1e-4)


@pytest.mark.parametrize("values", [pl.Int64(), pl.Float32(), pl.Boolean(), pl.Datetime("us", "UTC")], ids=str)
def test_the_type_of_such_categories_in_json(values: pl.DataType) -> None:
    dtype = category_of(values)
    assert dtype_from_json(dtype_to_json(dtype)) == dtype


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "table",
    [
        pl.DataFrame({"": [1], "a": [2]}),
        pd.DataFrame({"": [1], "a": [2]}),
        pa.table({"": [1], "a": [2]}),
        {"": [1], "a": [2]},
        [{"": 1, "a": 2}],
    ],
    ids=lambda table: type(table).__name__,
)
def test_a_column_without_a_name_keeps_it(table: Any) -> None:
    assert to_polars(table).columns == ["", "a"]


def test_names_that_are_no_text_are_their_text() -> None:
    assert to_polars({1: [1], "a": [2]}).columns == to_polars([{1: 1, "a": 2}]).columns == ["1", "a"]
    for table in ({1: [1], "1": [2]}, [{1: 1, "1": 2}], pd.DataFrame([[1, 2]], columns=[1, "1"])):
        with pytest.raises(rl.SchemaError, match="more than once"):
            to_polars(table)


def test_a_name_in_another_unicode_form_is_said_to_be_one() -> None:
    fitted = train.Preprocessor([("impute", SimpleImputer())]).fit(pl.DataFrame({"caf\u00e9": [1.0]}))
    with pytest.raises(rl.SchemaError, match="same text in another Unicode form") as caught:
        fitted.transform(pl.DataFrame({"cafe\u0301": [1.0]}))
    assert r"'cafe\u0301'" in str(caught.value)


# -- no other error gets out -------------------------------------------------------------------------------------------

HOSTILE: list[Any] = [
    None, math.nan, math.inf, -0.0, 0, 1, -1, 2**31, 2**63, 2**64 - 1, 2**70, 10**50, 1e300, True, "", "a", "1.5", "\x00", "\ud800",
    "2013-12-25", "2013-02-30", b"a", [], [1], ["a", None], [[1]], {}, {"a": 1}, (1, 2), {1}, 1j, object(), decimal.Decimal("1.5"),
    decimal.Decimal("nan"), decimal.Decimal("1e400"), dt.date(1, 1, 1), dt.datetime(9999, 12, 31), dt.datetime.max.replace(tzinfo=dt.UTC),
    dt.datetime(2013, 3, 10, 2, 30, tzinfo=NEW_YORK), dt.time(1), dt.timedelta(days=10**8), np.int8(1), np.float16(1), np.datetime64("NaT"),
    np.datetime64("2013-01-01"), np.array([1]), pd.NA, pd.NaT, pd.Timestamp("2013-01-01", tz="UTC"), pd.Interval(0, 1), range(3), float,
]  # fmt: skip


def _survives(call: Callable[[Any], Any], table: Any) -> None:
    with contextlib.suppress(rl.RaylineError):
        call(table)


@pytest.mark.parametrize("seed", [*range(40), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(40, 600))])
def test_only_our_own_errors_get_out(pipeline: InferencePipeline, seed: int) -> None:
    random = np.random.default_rng(seed)
    n = int(random.integers(1, 7))

    def values() -> list[Any]:
        few = [HOSTILE[i] for i in random.integers(0, len(HOSTILE), int(random.integers(1, 3)))]
        return [few[i] for i in random.integers(0, len(few), n)]

    names = [*ROW, "", "*", "^x$", "prediction", "caf\u00e9", 1]
    hostile = {
        name: values() for name in random.permutation(np.array(names, dtype=object))[: int(random.integers(1, 4))]
    }
    columns = {name: [value] * n for name, value in ROW.items()} | hostile
    tables: list[Any] = [[{name: column[i] for name, column in columns.items()} for i in range(n)], columns]
    with contextlib.suppress(TypeError, ValueError, OverflowError):  # where pandas takes it no better
        tables.append(pd.DataFrame({name: pd.Series(column, dtype=object) for name, column in columns.items()}))
    stages = [("impute", SimpleImputer()), ("onehot", OneHotEncoder())]
    calls: list[Callable[[Any], Any]] = [
        pipeline.predict,
        lambda table: pipeline.transform(table, on_error="collect"),
        lambda table: train.Preprocessor(stages).fit_transform(table),
        lambda table: data.train_test_split(table, 0.5),
        lambda table: fitted(table, stages, "x"),
    ]
    for table in tables:
        for call in calls:
            _survives(call, table)


@pytest.mark.ray
def test_categories_and_ids_on_ray(ray_session: None) -> None:
    table = _categories("integers").assign(id=pd.array([BIG + i if i % 5 else None for i in range(N)], dtype="Int64"))
    features = table.drop(columns="id")
    ds = data.from_pandas([table.head(10), table.iloc[10:]])
    stages = [("onehot", OneHotEncoder())]
    here, there = fitted(features, stages), fitted(ds.drop_columns(["id"]), stages)
    assert here.input_schema == there.input_schema
    expected = here.predict(features)["prediction"].tolist()
    found = here.transform(ds, keep_columns=["id", "c"])
    assert found.to_pandas()["prediction"].tolist() == expected
    ids = [value for block in found.iter_batches(batch_format="pyarrow") for value in block["id"].to_pylist()]
    assert ids == [None if value is pd.NA else value for value in table["id"].tolist()]
    plain = data.from_pandas(features.assign(c=features["c"].astype(int)))
    assert here.predict(plain).to_pandas()["prediction"].tolist() == expected
    with pytest.raises(rl.SchemaError, match="'prediction' already"):
        here.transform(ds.map_batches(lambda t: t.assign(prediction=1.0), batch_format="pandas")).take_all()

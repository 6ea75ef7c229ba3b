"""The preprocessor: fitting, transforming, nesting, saving and its messages.

Covers `core.column_choice`, `core.operations.base`, `preprocessing.fit_planner` and `preprocessing.stage_list` too.
"""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import numpy as np
import polars as pl
import polars.selectors as cs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rayline as rl
from rayline.core.statistics.base import StatisticRequest
from rayline.core.statistics.counts import ValueCounts
from rayline.core.statistics.moments import Moments
from rayline.stages import (
    DropColumns,
    MinMaxScaler,
    OneHotEncoder,
    OneHotEncoding,
    OrdinalEncoder,
    SelectColumns,
    SimpleImputer,
    StandardScaler,
)
from tests.stages.one_stage import check_single_rows

TABLE = pl.DataFrame(
    {
        "age": [20.0, None, 40.0, float("nan")],
        "size": [1, 2, 3, 4],
        "city": ["Rome", "Oslo", None, "Rome"],
        "day": [dt.date(2013, 1, i) for i in range(1, 5)],
        "late": [True, False, True, False],
    }
)


def impute_scale_encode() -> rl.Preprocessor:
    return rl.Preprocessor([("impute", SimpleImputer()), ("scale", StandardScaler()), ("onehot", OneHotEncoder())])


def test_it_is_a_collection_of_named_stages() -> None:
    p = impute_scale_encode()
    assert len(p) == 3
    assert [name for name, _ in p] == ["impute", "scale", "onehot"]
    assert p["scale"] == StandardScaler()
    with pytest.raises(rl.ParameterError, match=r"did you mean \['scale'\]"):
        p["scales"]
    assert OneHotEncoding is OneHotEncoder
    assert "not fitted" in repr(p)
    assert "3 columns in" in repr(p.fit(TABLE.drop("day"), target_columns="late"))


def test_fit_takes_one_scan_and_never_a_target() -> None:
    p = impute_scale_encode()
    assert p.fit(TABLE, target_columns=["late"]) is p
    assert p.scans == 1
    assert list(p.input_schema) == ["age", "size", "city", "day"]
    assert list(p.output_schema) == ["age", "size", "day", "city_Oslo", "city_Rome", "city_null"]
    out = p.transform(TABLE)
    assert out["late"].to_list() == TABLE["late"].to_list()
    assert out.select(p.output_schema.names()).schema == p.output_schema
    numeric = impute_scale_encode().fit(TABLE.with_columns(y=pl.Series([1.0, 2, 3, 4])), target_columns="y")
    assert numeric.transform(TABLE.with_columns(y=pl.Series([1.0, 2, 3, 4])))["y"].to_list() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("stages", "scans"),
    [
        (
            [
                ("a", SimpleImputer()),
                ("b", StandardScaler()),
                ("c", OneHotEncoder(["city"])),
                ("d", OrdinalEncoder(["kind"])),
            ],
            1,
        ),
        ([("a", SimpleImputer(strategy="median")), ("b", StandardScaler())], 1),
        ([("a", StandardScaler()), ("b", MinMaxScaler())], 1),
        ([("a", SimpleImputer(["city"], strategy="most_frequent")), ("b", OneHotEncoder(["city"]))], 1),
        ([("a", DropColumns(["city"])), ("b", StandardScaler())], 1),
        ([("a", OneHotEncoder(["city"])), ("b", StandardScaler())], 2),  # it scales the 0/1 columns too
    ],
)
def test_scans_are_levels(stages: list[tuple[str, rl.Stage]], scans: int) -> None:
    table = TABLE.drop("day", "late").with_columns(kind=pl.Series(["x", "y", "x", "z"]))
    p = rl.Preprocessor(stages).fit(table)
    assert p.scans == scans
    # Each stage by itself, on what the stages before it gave, learns the same.
    for name, stage in stages:
        alone = rl.Preprocessor([(name, stage)]).fit(table)
        fitted = p[name]
        assert isinstance(fitted, rl.Stage)
        own = alone[name]
        assert isinstance(own, rl.Stage)
        assert _near(fitted.learned, own.learned), name
        table = alone.transform(table)
    assert p.output_schema == table.schema


def _near(a: object, b: object) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_near(a[k], b[k]) for k in a)
    if isinstance(a, float) and isinstance(b, float):
        return a == b or abs(a - b) <= 1e-12 * max(1, abs(a))
    return a == b


def test_save_and_load(tmp_path: Path) -> None:
    p = impute_scale_encode().fit(TABLE, target_columns=["late"])
    p.save(tmp_path / "p.json")
    loaded = rl.Preprocessor.load(tmp_path / "p.json")
    assert loaded == p
    assert loaded.transform(TABLE).equals(p.transform(TABLE))
    text = json.loads((tmp_path / "p.json").read_text())
    assert text["format_version"] == 1
    fresh = impute_scale_encode()
    fresh.save(tmp_path / "q.json")
    assert rl.Preprocessor.load(tmp_path / "q.json") == fresh != p
    text["format_version"] = 2
    (tmp_path / "p.json").write_text(json.dumps(text))
    with pytest.raises(rl.ArtifactError, match="newer Rayline"):
        rl.Preprocessor.load(tmp_path / "p.json")


def test_selectors_choose_and_are_saved_as_what_they_chose(tmp_path: Path) -> None:
    p = rl.Preprocessor([("scale", StandardScaler(cs.numeric() - cs.by_name("size")))])
    with pytest.raises(rl.ParameterError, match="selector cannot be saved"):
        p.save(tmp_path / "p.json")
    p.fit(TABLE)
    assert isinstance(p["scale"], StandardScaler)
    assert p["scale"].learned is not None
    assert list(p["scale"].learned["columns"]) == ["age"]
    p.save(tmp_path / "p.json")
    assert rl.Preprocessor.load(tmp_path / "p.json").transform(TABLE).equals(p.transform(TABLE))


def test_nesting() -> None:
    inner = rl.Preprocessor([("impute", SimpleImputer()), ("scale", StandardScaler())])
    nested = rl.Preprocessor([("numbers", inner), ("onehot", OneHotEncoder())]).fit(TABLE, target_columns="late")
    flat = impute_scale_encode().fit(TABLE, target_columns="late")
    assert nested.scans == 1
    assert nested.transform(TABLE).equals(flat.transform(TABLE))
    assert [path for path, _ in nested.leaves] == ["numbers/impute", "numbers/scale", "onehot"]
    assert not inner.is_fitted
    again = rl.Preprocessor.from_json(nested.to_json())
    assert again == nested
    changed = nested.replace({"numbers": {"impute": {"strategy": "median"}}})
    assert isinstance(changed["numbers"], rl.Preprocessor)
    assert changed["numbers"]["impute"] == SimpleImputer(strategy="median")


def test_replace_makes_an_unfitted_copy() -> None:
    p = impute_scale_encode().fit(TABLE, target_columns="late")
    q = p.replace({"impute": {"strategy": "median"}})
    assert not q.is_fitted
    assert p.is_fitted
    with pytest.raises(rl.ParameterError, match="imputer"):
        p.replace({"imputer": {}})
    with pytest.raises(rl.ParameterError, match="did you mean"):
        p.replace({"impute": {"stratgy": "median"}})
    assert p.clone() == impute_scale_encode()


def test_the_users_stages_are_not_changed() -> None:
    stage = StandardScaler()
    rl.Preprocessor([("scale", stage)]).fit(TABLE)
    assert not stage.is_fitted


@pytest.mark.parametrize(
    ("stages", "error", "words"),
    [
        ([("scale", StandardScaler(["agee"]))], rl.SchemaError, "stage 'scale'.*'agee'.*\n.*\n.*did you mean"),
        ([("scale", StandardScaler(["city"]))], rl.SchemaError, "numeric"),
        ([("scale", StandardScaler(["late"]))], rl.SchemaError, "target"),
        ([("scale", StandardScaler(["age", "age"]))], rl.ParameterError, "each column once"),
        ([("impute", SimpleImputer(["city"]))], rl.ParameterError, "most_frequent"),
        ([("drop", DropColumns(["nothing"]))], rl.SchemaError, "nothing"),
    ],
)
def test_wrong_stages_are_refused_before_any_scan(
    stages: list[tuple[str, rl.Stage]], error: type[rl.RaylineError], words: str
) -> None:
    with pytest.raises(error, match=f"(?s){words}"):
        rl.Preprocessor(stages).fit(TABLE, target_columns="late")


def test_wrong_construction() -> None:
    with pytest.raises(rl.ParameterError, match="is not a stage"):
        rl.Preprocessor([("a", 3)])  # type: ignore[list-item]
    with pytest.raises(rl.ParameterError, match="not its class"):
        rl.Preprocessor([("a", StandardScaler)])  # type: ignore[list-item]
    with pytest.raises(rl.ParameterError, match="different names"):
        rl.Preprocessor([("a", StandardScaler()), ("a", StandardScaler())])
    with pytest.raises(rl.ParameterError, match="pairs"):
        rl.Preprocessor([StandardScaler()])  # type: ignore[list-item]
    with pytest.raises(rl.ParameterError, match=r"unknown parameter 'with_maen'.*\n.*\n.*with_mean"):
        StandardScaler(with_maen=True)  # type: ignore[call-arg]
    with pytest.raises(rl.ParameterError, match="columns is missing"):
        SelectColumns()


def test_bad_data() -> None:
    p = impute_scale_encode()
    with pytest.raises(rl.DataError, match="no rows"):
        p.fit(TABLE.head(0))
    with pytest.raises(rl.DataError, match="'age' has no values"):
        p.fit(TABLE.with_columns(age=pl.lit(None, dtype=pl.Float64)))
    with pytest.raises(rl.SchemaError, match="'nothing'"):
        p.fit(TABLE, target_columns=["nothing"])
    with pytest.raises(rl.SchemaError, match="is not a table"):
        p.fit(7)  # type: ignore[arg-type]
    with pytest.raises(rl.NotFittedError):
        p.transform(TABLE)
    assert not p.is_fitted
    p.fit(TABLE, target_columns="late")
    with pytest.raises(rl.SchemaError, match="'city'"):
        p.transform(TABLE.drop("city"))
    with pytest.raises(rl.SchemaError, match="wrong type"):
        p.transform(TABLE.with_columns(size=pl.lit("big")))
    with pytest.raises(rl.SchemaError, match="more than once"):
        p.transform(TABLE.to_pandas()[["age", "age"]])


def test_a_target_that_no_stage_looked_at_is_set_aside() -> None:
    told = impute_scale_encode().fit(TABLE, target_columns="late")
    assert told.without_targets(["late"]) is told
    p = impute_scale_encode().fit(TABLE)
    assert "late" in p.input_schema
    copy = p.without_targets(["late"])
    assert copy == told
    assert "late" in p.input_schema
    assert copy.transform(TABLE.drop("late")).equals(told.transform(TABLE.drop("late")))


def test_free_text_is_told_from_categories() -> None:
    table = pl.DataFrame(
        {"kind": ["a", "b", "a"], "story": ["once upon a time", "there was a small", "and a large fox"]}
    )
    p = rl.Preprocessor([("onehot", OneHotEncoder())]).fit(table)
    assert p.transform(table).columns == ["story", "kind_a", "kind_b"]


def test_types_may_drift_where_nothing_is_lost() -> None:
    p = impute_scale_encode().fit(TABLE, target_columns="late")
    expected = p.transform(TABLE)
    drifted = TABLE.with_columns(
        pl.col("age").cast(pl.Float32), pl.col("size").cast(pl.Float64), pl.col("city").cast(pl.Categorical)
    )
    assert p.transform(drifted).equals(expected)
    with pytest.raises(rl.SchemaError, match="fraction"):
        p.transform(TABLE.with_columns(size=pl.lit(1.5)))


tables = st.builds(
    lambda rows: pl.DataFrame(rows, schema={"x": pl.Float64, "n": pl.Int64, "c": pl.String}, orient="row"),
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.floats(-1e6, 1e6), st.just(float("nan"))),
            st.integers(-50, 50),
            st.one_of(st.none(), st.sampled_from(["a", "b", "", "é"])),
        ),
        min_size=3,
        max_size=30,
    ).filter(lambda rows: any(r[0] is not None and r[0] == r[0] for r in rows) and any(r[2] is not None for r in rows)),
)


@given(tables)
@settings(max_examples=40, deadline=None)
def test_rows_tables_and_types_agree_to_the_bit(table: pl.DataFrame) -> None:
    p = rl.Preprocessor(
        [
            ("impute", SimpleImputer()),
            ("scale", StandardScaler()),
            ("mode", SimpleImputer(["c"], strategy="most_frequent")),
            ("onehot", OneHotEncoder()),
        ]
    ).fit(table)
    out = p.transform(table)
    check_single_rows(p, table)
    assert pl.from_pandas(p.transform(table.to_pandas())).equals(out.with_columns(cs.float().fill_null(float("nan"))))
    arrays = p.transform({name: table[name].to_numpy() for name in table.columns})
    assert all(np.array_equal(arrays[name], out[name].to_numpy()) for name in out.columns)


def test_answers_that_are_known_are_not_asked_again() -> None:
    p = impute_scale_encode()
    fit = p.fit_with_requests(
        TABLE, target_columns="late", extra_requests=lambda context: [StatisticRequest(ValueCounts, ("late",))]
    )
    counts = fit.final[StatisticRequest(ValueCounts, ("late",))]
    assert isinstance(counts, ValueCounts)
    assert counts.table.rows() == [(False, 2), (True, 2)]
    assert fit.n_rows == 4
    q = p.replace({"scale": {"with_mean": False}})
    again = q.fit_with_requests(TABLE, target_columns="late", known=fit.known)
    assert (fit.scans, again.scans) == (1, 0)
    assert StatisticRequest(Moments, ("age",)) in fit.known


def test_what_a_nested_preprocessor_has_learned_has_the_names_of_its_stages() -> None:
    inner = rl.Preprocessor([("scale", StandardScaler())])
    made = rl.Preprocessor([("numbers", inner)])
    assert made.learned is None
    fitted = made.fit(pl.DataFrame({"x": [1.0, 3.0]}))
    assert fitted.learned == {"numbers": fitted["numbers"].learned}
    assert fitted.learned["numbers"]["scale"]["columns"]["x"]["mean"] == 2.0

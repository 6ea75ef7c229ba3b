"""What all stages share: kinds of tables and labels, one row and many, order, saving, wrong use.

Covers `inference.calibration`, `postprocess.base`, `postprocess.calibration` and `postprocess.limits` too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

import rayline as rl
from rayline.core import registry
from rayline.inference import calibration
from rayline.postprocess import Calibrate, Clip, Conformal, Round, Threshold
from rayline.postprocess.base import PostprocessingStage
from rayline.postprocess.calibration import CalibrationMethod
from tests.postprocess import tables

BINARY = [Calibrate("isotonic"), Threshold("f1", pos_label="yes"), Conformal(0.8)]
NUMBERS = [Clip(low=-20, high=20), Conformal(0.8, by="region"), Round(1)]


@pytest.mark.parametrize(("target", "stages"), [("late", BINARY), ("price", NUMBERS)])
def test_one_row_many_rows_and_a_saved_file_give_the_same(tmp_path: Path, target: str, stages: list[Any]) -> None:
    rows = tables.table(seed=1)
    pipeline = tables.fitted(target).calibrated(stages, rows)
    many = pipeline.predict(rows, interval=True)
    dicts = rows.head(50).to_dicts()
    assert [pipeline.predict([row], interval=True)[0] for row in dicts] == many.head(50).to_dicts()
    assert [pipeline.predict([row])[0] for row in dicts] == pipeline.predict(dicts)
    pipeline.save(tmp_path / "p.rayline")
    loaded = rl.load(tmp_path / "p.rayline")
    assert loaded.predict(rows, interval=True).equals(many)
    assert loaded.postprocessing == pipeline.postprocessing
    assert "Conformal" in repr(loaded)


@pytest.mark.parametrize("kind", ["lazy", "pandas", "arrow", "arrays", "rows"])
def test_any_kind_of_table_teaches_the_same(kind: str) -> None:
    rows = tables.table(seed=1)
    given: Any = {
        "lazy": rows.lazy, "pandas": rows.to_pandas, "arrow": rows.to_arrow,
        "arrays": lambda: {name: rows[name].to_numpy() for name in rows.columns}, "rows": rows.to_dicts,
    }[kind]()  # fmt: skip
    pipeline = tables.fitted("price")
    expected = pipeline.calibrated(NUMBERS, rows)
    found = pipeline.calibrated(NUMBERS, given)
    assert found.postprocessing == expected.postprocessing
    made = found.predict(given, interval=True)
    types = {"lazy": pl.LazyFrame, "arrow": pa.Table, "arrays": dict, "rows": list}
    assert isinstance(made, types.get(kind, object))


def test_the_rows_may_come_in_any_order_and_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tables.table(seed=1)
    pipeline = tables.fitted("price")
    expected = pipeline.calibrated(NUMBERS, rows).postprocessing
    monkeypatch.setattr("rayline.core.scan.TABLE_ROWS", 97)
    assert pipeline.calibrated(NUMBERS, rows.reverse().lazy()).postprocessing == expected


def test_a_sample_of_many_rows_comes_near(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tables.table(20_000, seed=1)
    pipeline = tables.fitted("price")
    exact = pipeline.calibrated([Conformal(0.9)], rows).postprocessing[0].state
    monkeypatch.setattr(calibration, "MAX_SAMPLE_ROWS", 4_000)
    state = pipeline.calibrated([Conformal(0.9)], rows).postprocessing[0].state
    assert state["n_rows"] == 4_000
    assert state["radius"][0] == pytest.approx(exact["radius"][0], rel=0.05)


@pytest.mark.parametrize("kind", tables.LABELS)
def test_labels_of_any_type(kind: str, tmp_path: Path) -> None:
    no, yes = tables.LABELS[kind]
    rows = tables.table(seed=1, kind=kind)
    pipeline = tables.fitted("late", kind=kind).calibrated(
        [Calibrate("beta"), Threshold("cost", pos_label=no, cost={"fp": 1, "fn": 3}), Conformal(0.9)], rows
    )
    made = pipeline.predict(rows, interval=True)
    assert made.schema == {"prediction": rows["late"].dtype, "set": pl.List(rows["late"].dtype)}
    assert {type(v) for v in made["prediction"]} == {type(yes)}
    assert all(p in s for p, s in made.rows())
    pipeline.save(tmp_path / "p.rayline")
    assert rl.load(tmp_path / "p.rayline").predict(rows, interval=True).equals(made)


@pytest.mark.parametrize("targets", [["late", "early"], ["price", "x2"]])
def test_several_targets(targets: list[str], tmp_path: Path) -> None:
    rows = tables.table(seed=1).with_columns(x2=pl.col("x") * 2)
    fit_on = tables.table().with_columns(x2=pl.col("x") * 2).select("x", "weight", *targets)
    trainer = rl.train.XGBoostTrainer({"max_depth": 2}, num_boost_round=10)
    pipeline = rl.train.fit(trainer, None, fit_on, None, targets, verbose=False).inference_pipeline
    numbers, words = (
        [Conformal(0.9), Clip(low=-99)],
        [Calibrate("beta"), Threshold("f1", pos_label={"late": "no"}), Conformal(0.9)],
    )
    made = pipeline.calibrated(numbers if "price" in targets else words, rows)
    table = made.predict(rows, interval=True)
    suffixes = [f"_{t}" for t in targets]
    kinds = ["lower", "upper"] if "price" in targets else ["set"]
    assert table.columns == [*(f"prediction{s}" for s in suffixes), *(f"{k}{s}" for s in suffixes for k in kinds)]
    for target, suffix in zip(targets, suffixes, strict=True):
        if kinds == ["set"]:
            inside = table.select(pl.lit(rows[target]).is_in(pl.col(f"set{suffix}"))).to_series()
        else:
            inside = (table[f"lower{suffix}"] <= rows[target]) & (rows[target] <= table[f"upper{suffix}"])
        assert inside.mean() >= 0.9
    dicts = rows.head(20).to_dicts()
    assert [made.predict([row], interval=True)[0] for row in dicts] == table.head(20).to_dicts()
    made.save(tmp_path / "p.rayline")
    assert rl.load(tmp_path / "p.rayline").predict(rows, interval=True).equals(table)


@pytest.mark.parametrize("method", ["isotonic", "temperature"])
def test_several_classes(method: CalibrationMethod, tmp_path: Path) -> None:
    pipeline, rows = tables.multiclass()
    made = pipeline.calibrated([Calibrate(method), Conformal(0.8)], rows)
    shares = made.predict_proba(rows).to_numpy()
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-12)
    table = made.predict(rows, interval=True)
    assert (table["prediction"] == pl.Series(np.array(["a", "b", "c"])[shares.argmax(axis=1)])).all()
    assert 0.8 <= rows["kind"].is_in(table["set"]).mean() < 0.83  # type: ignore[operator]
    dicts = rows.head(30).to_dicts()
    assert [made.predict([row], interval=True)[0] for row in dicts] == table.head(30).to_dicts()
    assert [made.predict_proba([row])[0] for row in dicts] == made.predict_proba(rows.head(30)).to_dicts()
    made.save(tmp_path / "p.rayline")
    assert rl.load(tmp_path / "p.rayline").predict(rows, interval=True).equals(table)


def test_weights_count_as_repeated_rows() -> None:
    rows = tables.table(seed=1)
    repeated = rows.select(pl.all().repeat_by("weight")).explode(pl.all())  # type: ignore[arg-type]
    for target, stages in (("late", [Calibrate("isotonic"), Threshold("f1")]), ("late", [Calibrate("temperature")])):
        pipeline = tables.fitted(target)
        weighted = pipeline.calibrated(stages, rows, sample_weight="weight")
        expected = pipeline.calibrated(stages, repeated)
        np.testing.assert_allclose(
            weighted.predict_proba(rows).to_numpy(), expected.predict_proba(rows).to_numpy(), atol=1e-9
        )


def test_transform_and_files_have_intervals(tmp_path: Path) -> None:
    rows = tables.table(seed=1)
    pipeline = tables.fitted("price").calibrated(NUMBERS, rows)
    expected = pipeline.predict(rows, interval=True)
    assert pipeline.transform(rows, keep_columns=["region"], interval=True).drop("region").equals(expected)
    pipeline.write_predictions(rows, tmp_path / "out", keep_columns=[], interval=True)
    assert pl.read_parquet(tmp_path / "out" / "*.parquet").equals(expected)
    with pytest.raises(rl.SchemaError, match="lower"):
        pipeline.transform(rows.rename({"x": "x"}).with_columns(lower=1), interval=True)


def test_a_new_stage_replaces_the_old_one_of_its_class() -> None:
    rows = tables.table(seed=1)
    pipeline = tables.fitted("late").calibrated([Calibrate("sigmoid"), Conformal(0.8)], rows)
    again = pipeline.calibrated([Conformal(0.9)], rows)
    assert [type(s).__name__ for s in again.postprocessing] == ["Calibrate", "Conformal"]
    assert again.postprocessing[1].coverage == 0.9  # type: ignore[attr-defined]
    assert again.predict_proba(rows).equals(pipeline.predict_proba(rows))


def test_stages_after_target_stages_work_on_the_scale_of_the_labels() -> None:
    rows = tables.table(seed=1).with_columns(price=(pl.col("price") / 10).exp())
    fit_on = tables.table().select("x", price=(pl.col("price") / 10).exp())
    preprocessor = rl.Preprocessor([], target_stages=[("log", rl.stages.Log())])
    pipeline = rl.train.fit(
        rl.train.Trainer("least-squares"), preprocessor, fit_on, None, ["price"], verbose=False
    ).inference_pipeline
    made = pipeline.calibrated([Clip(high=3.0), Conformal(0.9)], rows)
    table = made.predict(rows, interval=True)
    assert table["prediction"].max() == 3.0
    inside = ((table["lower"] <= rows["price"]) & (rows["price"] <= table["upper"])).mean()
    assert inside == pytest.approx(0.9, abs=0.01)
    dicts = rows.select("x").head(20).to_dicts()
    np.testing.assert_allclose(
        [made.predict([r])[0]["prediction"] for r in dicts], table["prediction"][:20], rtol=1e-14
    )


WRONG: list[tuple[str, Any, Any, type[Exception], str]] = [
    ("price", [Calibrate()], "rows", rl.ParameterError, "Calibrate: it does not fit a regression"),
    ("price", [Threshold("f1")], "rows", rl.ParameterError, "Threshold: it does not fit a regression"),
    ("late", [Clip(low=0)], "rows", rl.ParameterError, "Clip: it does not fit a binary classification"),
    ("late", [Threshold("f1", pos_label="maybe")], "rows", rl.ParameterError, "pos_label"),
    ("late", [Threshold("f1"), Calibrate()], "rows", rl.ParameterError, "Calibrate comes after Threshold"),
    ("price", [Conformal(), Conformal()], "rows", rl.ParameterError, "two stages are Conformal"),
    ("price", [Conformal(by="town")], "rows", rl.ParameterError, "by"),
    ("price", [Conformal(by="x")], "rows", rl.ParameterError, "holds Float64"),
    ("price", [Conformal(method="cv+")], "rows", rl.ParameterError, "fold models"),
    ("price", [], "rows", rl.ParameterError, "at least one"),
    ("price", Conformal(), "rows", rl.ParameterError, "a list of postprocessing stages"),
    ("price", ["Conformal"], "rows", rl.ParameterError, "stages of rayline.postprocess only"),
    ("price", [Conformal()], None, rl.ParameterError, "there is no calibration_set"),
    ("price", [Conformal()], "few", rl.DataError, "8 rows are too few for a coverage of 0.9"),
    ("price", [Conformal(0.99, by="region")], "rows", rl.DataError, "in the group missing"),
    ("price", [Conformal()], "none", rl.DataError, "no rows"),
    ("late", [Calibrate()], "one class", rl.DataError, "one class only"),
    ("late", [Threshold("f1")], "one class", rl.DataError, "one class only"),
    ("late", [Calibrate()], "no label", rl.SchemaError, "late"),
    ("late", [Calibrate()], "new label", rl.DataError, "did not see"),
    ("late", [Calibrate()], "null label", rl.DataError, "missing value"),
]  # fmt: skip


@pytest.mark.parametrize(("target", "stages", "rows", "error", "words"), WRONG)
def test_wrong_use_is_refused(target: str, stages: Any, rows: Any, error: type[Exception], words: str) -> None:
    whole = tables.table(150, seed=1)
    given = {
        None: None, "rows": whole, "few": whole.head(8), "none": whole.head(0), "one class": whole.filter(pl.col("late") == "no"),
        "no label": whole.drop("late"), "new label": whole.with_columns(late=pl.lit("soon")),
        "null label": whole.with_columns(late=pl.when(pl.col("x") < 2).then("late")),
    }[rows]  # fmt: skip
    with pytest.raises(error, match=words) as caught:
        tables.fitted(target).calibrated(stages, given)
    assert "\n  Expected" in str(caught.value)


@pytest.mark.parametrize(
    ("weight", "error"),
    [
        (pl.lit(0.0), rl.DataError), (pl.lit(-1.0), rl.DataError), (pl.lit(None, pl.Float64), rl.DataError),
        (pl.lit(1e300), rl.DataError), (pl.lit(value=True), rl.SchemaError), (pl.lit("2"), rl.SchemaError),
    ],
)  # fmt: skip
def test_weights_that_are_no_weights_are_refused(weight: pl.Expr, error: type[Exception]) -> None:
    rows = tables.table(seed=1).with_columns(weight=weight)
    with pytest.raises(error, match="weight") as caught:
        tables.fitted("price").calibrated([Conformal()], rows, sample_weight="weight")
    assert str(caught.value).startswith("InferencePipeline.calibrated: ")
    wrong: Any = ["weight"]
    with pytest.raises(rl.ParameterError, match="name of a column"):
        tables.fitted("price").calibrated([Conformal()], rows, sample_weight=wrong)


@pytest.mark.parametrize(("target", "stages"), [("late", BINARY), ("price", NUMBERS)])
def test_rows_of_weight_0_teach_nothing(target: str, stages: list[Any]) -> None:
    rows = tables.table(seed=1).with_columns(weight=pl.when(pl.col("x") > 1).then(0.0).otherwise(2.0))
    found = tables.fitted(target).calibrated(stages, rows, sample_weight="weight")
    kept = rows.filter(pl.col("weight") > 0)
    assert found.postprocessing == tables.fitted(target).calibrated(stages, kept, sample_weight="weight").postprocessing


def test_the_order_counts_in_several_calls_too() -> None:
    decided = tables.fitted("late").calibrated([Threshold(0.3)])
    with pytest.raises(rl.ParameterError, match="in one call"):
        decided.calibrated([Calibrate()], tables.table(seed=1))
    with pytest.raises(rl.ParameterError, match="two stages are Calibrate"):
        tables.fitted("late").calibrated([Calibrate(), Calibrate("sigmoid")], tables.table(seed=1))


def test_numbers_of_numpy_and_numbers_that_are_none() -> None:
    made = tables.fitted("price").calibrated([Clip(low=np.int64(0)), Round(np.int8(1))])  # type: ignore[arg-type]
    assert repr(made.postprocessing) == "(Clip(low=0), Round(decimals=1))"
    assert Threshold(np.float32(0.5)) == Threshold(0.5)  # type: ignore[arg-type]
    with pytest.raises(rl.ParameterError, match="low"):
        Clip(low=float("nan"))


@pytest.mark.parametrize("interval", [0.9, "yes", 1])
def test_an_interval_is_asked_for_by_a_truth_value(interval: Any) -> None:
    pipeline = tables.fitted("price").calibrated([Conformal()], tables.table(seed=1))
    for rows in (tables.table(seed=1), tables.table(seed=1).to_dicts()[:1]):
        with pytest.raises(rl.ParameterError, match="the coverage is learned"):
            pipeline.predict(rows, interval=interval)
    with pytest.raises(rl.ParameterError, match="measures intervals"):
        tables.fitted("price").evaluate(tables.table(seed=1), metrics=["coverage"])


def test_an_interval_needs_a_stage_that_gives_one() -> None:
    rows = tables.table(seed=1)
    for given in (rows, rows.to_dicts()[:1]):
        with pytest.raises(rl.ParameterError, match="interval=True"):
            tables.fitted("price").predict(given, interval=True)


@pytest.mark.parametrize("stage", [Calibrate, Threshold, Conformal, Clip])
def test_parameters_are_checked(stage: type[PostprocessingStage]) -> None:
    with pytest.raises(rl.ParameterError):
        stage("wrong")  # type: ignore[call-arg]
    with pytest.raises(rl.ParameterError, match="unknown"):
        stage(wrong=1)  # type: ignore[call-arg]


@pytest.mark.ray
def test_a_dataset_teaches_and_is_predicted_like_a_table(ray_session: None) -> None:
    from rayline import data

    rows = tables.table(seed=1)
    ds = data.from_polars(rows).repartition(5)
    pipeline = tables.fitted("price")
    made = pipeline.calibrated(NUMBERS, ds)
    assert made.postprocessing == pipeline.calibrated(NUMBERS, rows).postprocessing
    found = registry.engine("ray").collect(made.predict(ds, interval=True))
    assert found.sort("prediction", "lower").equals(made.predict(rows, interval=True).sort("prediction", "lower"))


def test_the_card_says_what_the_stages_learned() -> None:
    rows = tables.table(seed=1)
    card = rl.model_card(tables.fitted("late").calibrated([Calibrate("beta"), Threshold("f1"), Conformal(0.9)], rows))
    assert "## What happens to its answers" in card
    assert "late: 'yes' from 0." in card
    assert "probability at least" in card
    trainer = rl.train.XGBoostTrainer({"max_depth": 2, "nthread": 1}, num_boost_round=5)
    fit_on = rows.select("x", "weight", "late")
    pipeline = rl.train.fit(trainer, None, fit_on, None, ["late"], verbose=False).inference_pipeline
    card = rl.model_card(pipeline, data=fit_on)
    assert "## What moves its predictions" in card
    assert "## What moves its predictions" not in rl.model_card(pipeline)

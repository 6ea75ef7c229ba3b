"""`InferencePipeline.evaluate`: scikit-learn as the oracle of values, a plain bootstrap as that of intervals.

Covers `core.evaluation`, `evaluate.bootstrap`, `evaluate.charts`, `evaluate.drawn`, `evaluate.evaluation`,
`evaluate.evaluation_statistics`, `evaluate.plots`, `evaluate.report`, `evaluate.results`, `evaluate.scan`,
`evaluate.scored_columns` and `evaluate.slices` too.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import sklearn.metrics as sk

import rayline as rl
from rayline import evaluate, train
from rayline.core import scan
from rayline.evaluate import bootstrap, custom_metrics
from rayline.evaluate import slices as slicing
from rayline.inference.pipeline import InferencePipeline
from tests.evaluate.conftest import rows

CLASSES = ["roc_auc", "log_loss", "brier", "accuracy", "f1", "average_precision"]


def truth_and_chance(pipeline: InferencePipeline, table: pl.DataFrame) -> tuple[Any, Any]:
    return (table["late"] == "yes").to_numpy(), pipeline.predict_proba(table)["probability_yes"].to_numpy()


def test_values_are_scikit_learns(binary: InferencePipeline, table: pl.DataFrame) -> None:
    report = binary.evaluate(table, metrics=CLASSES, sample_weight="w")
    truth, chance = truth_and_chance(binary, table)
    w = {"sample_weight": table["w"].to_numpy()}
    expected = [
        sk.roc_auc_score(truth, chance, **w), sk.log_loss(truth, chance, **w), sk.brier_score_loss(truth, chance, **w),
        sk.accuracy_score(truth, chance > 0.5, **w), sk.f1_score(truth, chance > 0.5, **w),
        sk.average_precision_score(truth, chance, **w),
    ]  # fmt: skip
    assert list(report.metrics) == CLASSES
    for estimate, value in zip(report.metrics.values(), expected, strict=True):
        assert estimate.value == pytest.approx(value, rel=1e-9)
        assert estimate.low < estimate.value < estimate.high
    assert report.n_rows == table.height


def test_slices_are_those_rows_alone(binary: InferencePipeline, table: pl.DataFrame) -> None:
    report = binary.evaluate(table, metrics=["roc_auc", "accuracy"], by=["region", ("region", "kind")])
    truth, chance = truth_and_chance(binary, table)
    for row in report.slices.filter(pl.col("by") == "region").to_dicts():
        own = (table["region"] == row["slice"]).to_numpy()
        score = {
            "roc_auc": sk.roc_auc_score(truth[own], chance[own]),
            "accuracy": np.mean((chance[own] > 0.5) == truth[own]),
        }
        assert row["value"] == pytest.approx(score[row["metric"]], rel=1e-9)
        assert row["n_rows"] == own.sum()
        assert row["low"] < row["value"] < row["high"]
    both = report.slices.filter(pl.col("by") == "region × kind")
    assert both["slice"].n_unique() == table.select("region", "kind").n_unique()
    assert "north, bus" in both["slice"].to_list()
    alone = binary.evaluate(table, metrics=["roc_auc", "accuracy"])
    for name, estimate in report.metrics.items():
        assert estimate == pytest.approx(alone.metrics[name], rel=1e-9)


def test_the_same_in_any_chunks_and_order(
    binary: InferencePipeline, table: pl.DataFrame, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = binary.evaluate(table, metrics=CLASSES, by=["region"])
    monkeypatch.setattr(scan, "CHUNK_ROWS", 100)
    monkeypatch.setattr(scan, "TABLE_ROWS", 130)
    table.sample(fraction=1.0, shuffle=True, seed=1).write_parquet(tmp_path / "rows.parquet", row_group_size=90)
    for other in (
        table,
        pl.scan_parquet(tmp_path / "rows.parquet"),
        table.to_pandas(),
        table.to_arrow(),
        table.to_dict(),
    ):
        parts = binary.evaluate(other, metrics=CLASSES, by=["region"])
        for name, estimate in whole.metrics.items():
            assert parts.metrics[name] == pytest.approx(estimate, rel=1e-9)
        assert parts.slices.drop("value", "low", "high").equals(whole.slices.drop("value", "low", "high"))
        for column in ("value", "low", "high"):
            assert parts.slices[column].to_list() == pytest.approx(whole.slices[column].to_list(), rel=1e-9)


@pytest.mark.ray
@pytest.mark.parametrize("held_bytes", [None, 0])
def test_the_same_on_ray(
    binary: InferencePipeline,
    regression: InferencePipeline,
    table: pl.DataFrame,
    ray_session: Any,
    monkeypatch: pytest.MonkeyPatch,
    held_bytes: int | None,
) -> None:
    if held_bytes is not None:  # tasks merge what the blocks give
        monkeypatch.setattr("rayline.engine.tasks.PARTIAL_BYTES", held_bytes)
    data = rl.data.from_polars(table).repartition(5)

    class Late(evaluate.MetricStatistic):  # not importable on the workers
        name, mode = "late", "min"

        def __init__(self, late: int = 0, n: int = 0) -> None:
            self.late, self.n = late, n

        @classmethod
        def of(cls, batch: evaluate.ScoredBatch) -> Late:
            return cls(int(((batch.y_true == "yes") & (batch.y_pred == "no")).sum()), len(batch))

        def merge(self, other: Any) -> Any:
            return type(self)(self.late + other.late, self.n + other.n)

        def value(self) -> float:
            return self.late / self.n

    def missed(y_true: Any, y_pred: Any) -> float:
        return float(((y_true == "yes") & (y_pred == "no")).mean())

    wanted: list[Any] = [*CLASSES, Late, missed]
    here, there = (
        binary.evaluate(rows, metrics=wanted, by=["region"], sample_weight="w", replicates=100)
        for rows in (table, data)
    )
    assert here.metrics["late"].value == here.metrics["missed"].value
    for name, estimate in here.metrics.items():
        assert there.metrics[name] == pytest.approx(estimate, rel=1e-9), name
    assert there.slices["value"].to_list() == pytest.approx(here.slices["value"].to_list(), rel=1e-9)
    wanted = ["rmse", "median_ae", "r2", "max_error"]
    here, there = (regression.evaluate(rows, metrics=wanted, by=["region"]) for rows in (table, data))
    for name, estimate in here.metrics.items():
        assert there.metrics[name] == pytest.approx(estimate, rel=1e-9), name


@pytest.mark.parametrize("name", ["roc_auc", "average_precision", "log_loss", "f1", "mcc"])
def test_intervals_are_as_wide_as_those_of_a_plain_bootstrap(binary: InferencePipeline, name: str) -> None:
    table = rows(1_500, seed=3)
    truth, chance = truth_and_chance(binary, table)
    functions = {
        "roc_auc": sk.roc_auc_score, "average_precision": sk.average_precision_score, "log_loss": sk.log_loss,
        "f1": lambda t, p: sk.f1_score(t, p > 0.5), "mcc": lambda t, p: sk.matthews_corrcoef(t, p > 0.5),
    }  # fmt: skip
    random = np.random.default_rng(0)
    drawn = []
    for _ in range(400):
        own = random.integers(0, len(truth), len(truth))
        drawn.append(functions[name](truth[own], chance[own]))
    low, high = np.quantile(drawn, [0.05, 0.95])
    found = binary.evaluate(table, metrics=[name], confidence=0.9).metrics[name]
    assert (found.high - found.low) / (high - low) == pytest.approx(1, abs=0.2)
    assert abs((found.high + found.low) - (high + low)) / 2 < 0.2 * (high - low)


@pytest.mark.parametrize("name", ["rmse", "median_ae", "r2", "explained_variance"])
def test_intervals_of_a_regression(regression: InferencePipeline, name: str) -> None:
    table = rows(1_500, seed=4)
    truth, predicted = table["delay"].to_numpy(), regression.predict(table)["prediction"].to_numpy()
    function = {
        "rmse": sk.root_mean_squared_error, "median_ae": sk.median_absolute_error, "r2": sk.r2_score,
        "explained_variance": sk.explained_variance_score,
    }[name]  # fmt: skip
    random = np.random.default_rng(0)
    drawn = []
    for _ in range(400):
        own = random.integers(0, len(truth), len(truth))
        drawn.append(function(truth[own], predicted[own]))
    low, high = np.quantile(drawn, [0.05, 0.95])
    found = regression.evaluate(table, metrics=[name], confidence=0.9).metrics[name]
    assert (found.high - found.low) / (high - low) == pytest.approx(1, abs=0.25)


def test_equal_rows_are_observations_of_their_own(binary: InferencePipeline) -> None:
    few = pl.DataFrame({"x": [0.1, -0.2, 0.3, 0.1], "z": [0.0] * 4, "late": ["yes", "no", "no", "no"]})
    many = pl.concat([few] * 250)
    share = binary.evaluate(many, metrics=["accuracy"]).metrics["accuracy"]
    error = np.sqrt(share.value * (1 - share.value) / many.height)
    assert share.high - share.low == pytest.approx(2 * 1.96 * error, rel=0.3)
    different = pl.concat([rows(3_000, seed=6)] * 8).with_columns(x=pl.col("x").round(2), z=pl.col("z").round(2))
    wide, thin = (
        binary.evaluate(t, metrics=["accuracy"]).metrics["accuracy"] for t in (rows(3_000, seed=6), different)
    )
    assert (wide.high - wide.low) / (thin.high - thin.low) == pytest.approx(np.sqrt(8), rel=0.25)


@pytest.mark.parametrize("seed", [1, 2])
def test_intervals_cover_the_truth(binary: InferencePipeline, seed: int) -> None:
    truth = binary.evaluate(rows(100_000, seed=50), metrics=["roc_auc", "accuracy"], replicates=0).metrics
    hits = dict.fromkeys(truth, 0)
    for i in range(60):
        found = binary.evaluate(
            rows(300, seed=1_000 * seed + i), metrics=list(truth), confidence=0.9, replicates=200
        ).metrics
        for name, estimate in found.items():
            hits[name] += estimate.low <= truth[name].value <= estimate.high
    assert all(46 <= n <= 60 for n in hits.values()), hits  # 54 of 60 expected; less than 46 has a chance of 0.2 %


def test_what_is_not_defined_says_so(
    binary: InferencePipeline, regression: InferencePipeline, table: pl.DataFrame
) -> None:
    odd = table.with_columns(region=pl.when(pl.col("late") == "yes").then("region").otherwise(pl.lit("quiet")))
    report = binary.evaluate(odd, metrics=["roc_auc", "accuracy"], by=["region"])
    row = report.slices.row(by_predicate=(pl.col("slice") == "quiet") & (pl.col("metric") == "roc_auc"), named=True)
    assert row["value"] is None
    assert row["note"] == "not defined: only one class occurs"
    assert report.slices.filter(pl.col("metric") == "accuracy")["value"].null_count() == 0
    for text in (report.to_markdown(), report._repr_html_(), report.to_html()):
        assert "not defined" in text
    zero = binary.evaluate(table.with_columns(w=pl.lit(0.0)), metrics=["roc_auc", "accuracy", "f1"], sample_weight="w")
    assert not any(estimate.is_defined for estimate in zero.metrics.values())
    assert "accuracy is not defined: the rows have no weight." in zero.notes
    one = regression.evaluate(table.head(1), metrics=["r2", "rmse"])
    assert np.isnan(one.metrics["r2"].value)
    assert one.metrics["rmse"].is_defined
    assert "r2 is not defined: it needs two rows." in one.notes


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        ({"late": pl.when(pl.col("x") > 0).then("late")}, {}, rl.DataError, "missing"),
        ({"late": pl.lit("maybe")}, {}, rl.DataError, "maybe"),
        ({"late": pl.lit(3.5)}, {}, rl.RaylineError, "evaluate"),
        ({}, {"target_columns": "lat"}, rl.SchemaError, "did you mean"),
        ({}, {"by": ["regions"]}, rl.SchemaError, "did you mean"),
        ({}, {"by": 3}, rl.ParameterError, "by"),
        ({}, {"by": [3]}, rl.ParameterError, "by"),
        ({}, {"target_columns": 5}, rl.ParameterError, "one name"),
        ({}, {"sample_weight": ""}, rl.SchemaError, "column '' is missing"),
        ({"w": pl.lit(1e300)}, {"sample_weight": "w"}, rl.DataError, "from 0 to 1e\\+30"),
        ({}, {"confidence": None}, rl.ParameterError, "replicates=0"),
        ({}, {"metrics": [len]}, rl.ParameterError, "labels and predictions alone"),
        ({}, {"metrics": {"a b": "accuracy"}}, rl.ParameterError, "letters, digits"),
        ({}, {"metrics": {"own": ["accuracy"]}}, rl.ParameterError, "MetricStatistic classes"),
        ({}, {"by": ["x"]}, rl.ParameterError, "1,000 slices of 'x'"),
        ({"w": pl.lit(-1.0)}, {"sample_weight": "w"}, rl.DataError, "negative"),
        ({"w": pl.lit(None, pl.Float64)}, {"sample_weight": "w"}, rl.DataError, "missing"),
        ({}, {"sample_weight": "region"}, rl.SchemaError, "region"),
        ({}, {"metrics": ["rmse"]}, rl.ParameterError, "not for a binary target"),
        ({}, {"metrics": ["rocauc"]}, rl.ParameterError, "did you mean"),
        ({}, {"metrics": ["train-roc_auc"]}, rl.ParameterError, "without a prefix"),
        ({}, {"confidence": 95}, rl.ParameterError, "between 0 and 1"),
        ({}, {"replicates": -1}, rl.ParameterError, "replicates"),
        ({"x": pl.lit("a")}, {}, rl.SchemaError, "'x'"),
    ],
)  # fmt: skip
def test_wrong_input(
    binary: InferencePipeline,
    table: pl.DataFrame,
    change: dict[str, Any],
    options: dict[str, Any],
    error: type,
    message: str,
) -> None:
    with pytest.raises(error, match=message) as caught:
        binary.evaluate(table.with_columns(**change), **options)
    assert "Hint" in str(caught.value)


def test_values_that_read_alike_are_different_slices(binary: InferencePipeline, table: pl.DataFrame) -> None:
    half = pl.int_range(pl.len()) % 2 == 0
    odd = table.with_columns(
        a=pl.when(half).then(pl.lit("a, b")).otherwise(pl.lit("a")),
        b=pl.when(half).then(pl.lit("c")).otherwise(pl.lit("b, c")),
        named=pl.when(half).then(pl.lit("(missing)")),
        number=pl.when(half).then(float("nan")).when(pl.col("x") > 0).then(10.0).when(pl.col("x") > -1).then(9.0),
        zero=pl.when(half).then(-0.0).otherwise(0.0),
        span=pl.duration(hours=half.cast(pl.Int64)),
    )
    found = binary.evaluate(odd, metrics=["accuracy"], by=[("a", "b"), "named", "number", "zero", "span"], replicates=0)
    slices = {by: own["slice"].to_list() for (by,), own in found.slices.group_by("by", maintain_order=True)}
    assert slices["a × b"] == ["'a, b', c", "a, 'b, c'"]
    assert sorted(slices["named"]) == ["'(missing)'", "(missing)"]
    assert slices["number"] == ["9.0", "10.0", "(missing)"]  # NaN is missing
    assert slices["zero"] == ["0.0"]
    assert len(slices["span"]) == 2


def test_numpys_numbers_are_arguments(binary: InferencePipeline, table: pl.DataFrame) -> None:
    plain, of_numpy = (
        binary.evaluate(
            table,
            confidence=kind(0.9),
            replicates=whole(20),  # type: ignore[arg-type]
            seed=whole(3),  # type: ignore[arg-type]
            target_columns={"late": "late"},
        )
        for kind, whole in ((float, int), (np.float64, np.int64))
    )
    assert plain.metrics == of_numpy.metrics


def test_metrics_by_names_of_ones_own(binary: InferencePipeline, table: pl.DataFrame) -> None:
    found = binary.evaluate(table, metrics={"hits": "accuracy", "top": "top_k@2", "own": sk.accuracy_score})
    assert list(found.metrics) == ["hits", "top", "own"]
    assert found.metrics["hits"] == binary.evaluate(table, metrics=["accuracy"]).metrics["accuracy"]
    assert found.metrics["own"].value == pytest.approx(found.metrics["hits"].value)


def test_infinite_and_whole_labels(regression: InferencePipeline, table: pl.DataFrame) -> None:
    for wrong in (float("inf"), "many"):
        with pytest.raises(rl.DataError, match="not finite"):
            regression.evaluate(table.with_columns(delay=pl.lit(wrong)))
    few = regression.evaluate(table.head(2), metrics=["r2"]).metrics["r2"]
    assert few.low > -1e6  # a replicate that drew one row twice has no variance, not one of rounding


@pytest.mark.parametrize("broken", ["of", "merge", "value", "empty"])
def test_a_broken_statistic_says_which(binary: InferencePipeline, table: pl.DataFrame, broken: str) -> None:
    class Hits(evaluate.MetricStatistic):
        name, mode, tasks = "hits", "max", ("binary",)

        def __init__(self, n: float = 0.0) -> None:
            self.n = n

        @classmethod
        def of(cls, batch: Any) -> Any:
            return None if broken == "of" else cls(1.0)

        def merge(self, other: Any) -> Any:
            return Hits(self.n + other.m) if broken == "merge" else Hits(self.n + other.n)

        def value(self) -> Any:
            return "many" if broken == "value" else self.n

        @classmethod
        def empty(cls) -> Any:
            return cls(*[0.0] * 5) if broken == "empty" else cls()

    for by in (None, "region"):
        with pytest.raises(rl.TrainingError, match="the statistic Hits failed with"):
            binary.evaluate(table, metrics=[Hits], by=by)
    with pytest.raises(rl.ParameterError, match="without parentheses"):
        binary.evaluate(table, metrics=[Hits()])  # type: ignore[list-item]


def test_files_of_a_report(binary: InferencePipeline, table: pl.DataFrame, tmp_path: Any) -> None:
    report = binary.evaluate(table, metrics=["accuracy"], replicates=0)
    report.save(tmp_path / "my report.md")
    text = (tmp_path / "my report.md").read_text()
    assert "(my%20report-roc.svg)" in text  # Markdown ends a link at a space
    assert (tmp_path / "my report-roc.svg").exists()
    report.save("memory://reports/page.html")
    import fsspec

    assert fsspec.filesystem("memory").exists("/reports/page.html")
    with pytest.raises(rl.ParameterError, match="path has a wrong value"):
        report.save(None)  # type: ignore[arg-type]
    for wrong in (None, 5):
        with pytest.raises(rl.ParameterError, match="kind has a wrong value"):
            report.plot(wrong)  # type: ignore[arg-type]


def test_no_rows(binary: InferencePipeline, table: pl.DataFrame) -> None:
    with pytest.raises(rl.DataError, match="no rows"):
        binary.evaluate(table.head(0))


def test_functions_scorers_and_statistics(
    binary: InferencePipeline, table: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missed(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
        return float(np.average((y_true == "yes") & (y_pred == "no"), weights=sample_weight))

    area = sk.make_scorer(sk.roc_auc_score, response_method="predict_proba")
    found = binary.evaluate(
        table, metrics={"missed": missed, "area": area, "roc_auc_2": evaluate.metric(missed, mode="min")}
    )
    auc = binary.evaluate(table, metrics=["roc_auc"]).metrics["roc_auc"]
    assert found.metrics["area"].value == pytest.approx(auc.value, rel=1e-9)
    assert found.metrics["area"].low == pytest.approx(auc.low, abs=0.01)
    assert found.metrics["missed"].low < found.metrics["missed"].value < found.metrics["missed"].high
    monkeypatch.setattr(custom_metrics, "MAX_COLLECTED", 500)
    with pytest.raises(rl.DataError, match="at most 500 rows"):
        binary.evaluate(table, metrics=[missed])


def test_several_targets_are_averaged(table: pl.DataFrame) -> None:
    trainer = train.XGBoostTrainer({}, num_boost_round=3, seed=1)
    both = table.select("x", "z", "delay", other=pl.col("delay") * 2 + pl.col("z"))
    pipeline = train.fit(trainer, None, both, target_columns=["delay", "other"], verbose=False).inference_pipeline
    predicted = pipeline.predict(both)
    expected = np.mean([sk.root_mean_squared_error(both[n], predicted[f"prediction_{n}"]) for n in ("delay", "other")])
    report = pipeline.evaluate(both, metrics=["rmse"])
    assert report.metrics["rmse"].value == pytest.approx(expected, rel=1e-6)
    assert len(report.plot("residuals")) == 2


def test_labels_in_another_column_and_models_without_names(table: pl.DataFrame) -> None:
    import xgboost

    numbers = table.select("x", "z").with_columns(y=(table["late"] == "yes").cast(pl.Int64))
    matrix = xgboost.DMatrix(numbers.select("x", "z").to_numpy(), numbers["y"].to_numpy(), feature_names=["x", "z"])
    booster = xgboost.train({"objective": "binary:logistic"}, matrix, 3)
    pipeline = InferencePipeline(None, rl.Model.of_native(booster))
    report = pipeline.evaluate(numbers, metrics=["roc_auc"], target_columns=["y"])
    assert report.metrics["roc_auc"].value == pytest.approx(
        sk.roc_auc_score(numbers["y"], booster.predict(matrix)), rel=1e-9
    )


def test_hashes_are_of_values_and_names() -> None:
    a = pl.DataFrame({"x": [1.0, 2.0, None], "y": ["a", None, "b"]})
    assert (
        bootstrap.row_hashes(a, ["x", "y"]).tolist()
        == bootstrap.row_hashes(a.select("y", "x").cast({"x": pl.Int8}), ["y", "x"]).tolist()
    )
    assert (
        len({*bootstrap.row_hashes(a, ["x", "y"]), *bootstrap.row_hashes(a.rename({"x": "y", "y": "x"}), ["x", "y"])})
        == 6
    )
    spread = np.bincount(
        bootstrap.buckets(bootstrap.row_hashes(pl.DataFrame({"x": np.arange(512_000.0)}), ["x"])), minlength=512
    )
    assert 800 < spread.min() < spread.max() < 1_200


def test_slices_are_bounded(binary: InferencePipeline, table: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slicing, "MAX_SLICES", 2)
    with pytest.raises(rl.ParameterError, match="more than 2 slices"):
        binary.evaluate(table, by="region")


def test_the_report_as_text_and_page(
    binary: InferencePipeline,
    multiclass: InferencePipeline,
    regression: InferencePipeline,
    table: pl.DataFrame,
    tmp_path: Path,
) -> None:
    for pipeline in (binary, multiclass, regression):
        report = pipeline.evaluate(table, by=["region"])
        report.save(tmp_path / "report.html")
        page = (tmp_path / "report.html").read_text()
        assert page.startswith("<!doctype html>")
        assert not any(
            word in page.replace("http://www.w3.org/2000/svg", "") for word in ("http:", "https:", "<script", "@import")
        )
        assert "light-dark(" in page
        assert "@media print" in page
        assert page.count("<svg") >= 4
        json.dumps(report.to_dict(), allow_nan=False)
        assert report.to_dict()["n_rows"] == table.height
        text = report.to_markdown()
        assert all(name in text for name in report.metrics)
        assert "## By region" in text
        assert "95% interval" in report._repr_html_()
        assert "3 slices" in repr(report)
        report.save(tmp_path / "report.md")
        for line in (tmp_path / "report.md").read_text().splitlines():
            if line.startswith("!["):
                assert (tmp_path / line.partition("](")[2].rstrip(")")).read_text().startswith("<svg")
    with pytest.raises(rl.ParameterError, match=r"not a supported file type"):
        report.save(tmp_path / "report.pdf")


def test_plots(
    binary: InferencePipeline, multiclass: InferencePipeline, regression: InferencePipeline, table: pl.DataFrame
) -> None:
    of_classes = ["roc", "precision_recall", "calibration", "confusion", "lift", "slices"]
    for pipeline, kinds in (
        (binary, of_classes),
        (multiclass, of_classes),
        (regression, ["residuals", "prediction_error", "slices"]),
    ):
        report = pipeline.evaluate(table, by=["region"])
        for kind in kinds:
            found = report.plot(kind)
            for ax in found if isinstance(found, list) else [found]:
                assert ax.get_xlabel()
                assert ax.get_title(loc="left")
                ax.figure.canvas.draw()
    points = binary.evaluate(table).plot("roc").lines[-1].get_xydata()
    truth, chance = truth_and_chance(binary, table)
    assert np.trapezoid(points[:, 1], points[:, 0]) == pytest.approx(sk.roc_auc_score(truth, chance), abs=0.002)
    assert len(binary.evaluate(table, by=["region"]).plot("roc", by="region").lines) == 4
    sliced = binary.evaluate(table, by=["region"])
    truth, labels = table["late"], binary.predict(table)["prediction"]
    for ax, region in zip(sliced.plot("confusion", by="region"), table["region"].unique().sort(), strict=True):
        rows = (table["region"] == region).to_numpy()
        counts = sk.confusion_matrix(truth.to_numpy()[rows], labels.to_numpy()[rows])
        assert [text.get_text() for text in ax.texts] == [str(n) for n in counts.ravel()]
        assert ax.get_title(loc="left").endswith(f"region = {region}")
    assert len(sliced.plot("calibration", by="region")) == table["region"].n_unique()
    for wrong in (5, "ax", [None]):
        with pytest.raises(rl.ParameterError, match="ax has a wrong value"):
            sliced.plot("roc", ax=wrong)
    with pytest.raises(rl.ParameterError, match="unknown kind"):
        binary.evaluate(table).plot("rocc")
    with pytest.raises(rl.ParameterError, match="cannot be drawn"):
        binary.evaluate(table).plot("residuals")
    with pytest.raises(rl.ParameterError, match="no slices"):
        binary.evaluate(table).plot("slices")


def test_intervals_and_sets_are_measured(
    regression: InferencePipeline, multiclass: InferencePipeline, table: pl.DataFrame
) -> None:
    from rayline.postprocess import Conformal

    kept, rest = table[:500], table[500:]
    for pipeline, target in ((regression, "delay"), (multiclass, "kind")):
        made = pipeline.calibrated([Conformal(coverage=0.8)], kept)
        report = made.evaluate(
            rest, metrics=["coverage", "interval_width", "accuracy" if target == "kind" else "rmse"], by=["region"]
        )
        answers = made.predict(rest, interval=True)
        if target == "delay":
            held = (answers["lower"] <= rest["delay"]) & (rest["delay"] <= answers["upper"])
            width = (answers["upper"] - answers["lower"]).mean()
        else:
            sets = next(column for column in answers.get_columns() if isinstance(column.dtype, pl.List))
            held = pl.Series([label in own for label, own in zip(rest["kind"], sets, strict=True)])
            width = sets.list.len().mean()
        assert report.metrics["coverage"].value == pytest.approx(held.mean(), rel=1e-9)
        assert report.metrics["interval_width"].value == pytest.approx(width, rel=1e-9)
        assert report.metrics["coverage"].low < 0.8 < report.metrics["coverage"].high + 0.05
    with pytest.raises(rl.ParameterError, match="coverage"):
        regression.evaluate(rest, metrics=["coverage"])


def test_200_replicates_cost_less_than_three_times_the_metric(binary: InferencePipeline) -> None:
    table = rows(500_000, seed=7)

    def spent(replicates: int) -> float:
        begun = time.process_time()
        binary.evaluate(table, metrics=CLASSES, replicates=replicates)
        return time.process_time() - begun

    spent(200)
    assert min(spent(200) for _ in range(3)) < 3 * min(spent(0) for _ in range(3))

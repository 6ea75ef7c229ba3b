"""A Dataset gives what the same table in this process gives, or the same error of ours: odd rows, in odd blocks, through every step."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from sklearn.tree import DecisionTreeClassifier

from rayline import Preprocessor, data, train, tune
from rayline.core import registry
from rayline.core.arrow_tables import to_arrow
from rayline.core.engine import Engine
from rayline.core.errors import RaylineError
from rayline.core.scan import Scan, TableFunction
from rayline.core.scan_results import ScanResults
from rayline.core.schema import stacked
from rayline.engine.blocks import MappedBlock, PartialScan, SerializedFunction, merged_results, to_frame
from rayline.postprocess import Calibrate, Conformal, Threshold
from rayline.stages import DatetimeEncoder, OneHotEncoder, SimpleImputer, StandardScaler, TargetEncoder

TEXTS = ["", " ", "a\nb", "日本", "'\"", "a\0b", "None", "😀", "nan", "-"]
N = 96


def base() -> pl.DataFrame:
    random = np.random.default_rng(0)
    x, z = random.normal(size=(2, N))
    return pl.DataFrame(
        {
            "x": x, "z": np.where(random.random(N) < 0.1, np.nan, z), "k": random.integers(-3, 4, N).astype(np.int32),
            "city": random.choice(TEXTS, N), "weight": random.uniform(0.5, 2, N),
            "y": np.where(x + random.normal(size=N) > 0, "yes", ""), "amount": 2 * x + random.normal(size=N),
        }
    ).with_columns(pl.when(pl.Series(random.random(N) < 0.9)).then(pl.col(name)) for name in ("x", "k", "city"))  # fmt: skip


def usual() -> Preprocessor:
    return Preprocessor(
        [
            ("impute", SimpleImputer(columns=["x", "z", "k"])), ("scale", StandardScaler(columns=["x", "z"])),
            ("onehot", OneHotEncoder(columns=["city"])),
        ]
    )  # fmt: skip


def odd(table: pl.DataFrame) -> pl.DataFrame:
    """Columns of every type that is taken, and with names that Rayline uses itself on the way."""
    return table.with_columns(
        OSLO.dt.convert_time_zone("Europe/Oslo").alias("at"), DAY.alias("day"), VECTOR.alias("vector"),
        pl.col("city").fill_null("x").cast(pl.Categorical).alias("cat"), (pl.col("x") > 0).alias("flag"),
        pl.col("k").cast(pl.Int8).alias("results"), pl.col("k").abs().cast(pl.UInt64).alias("value_0"),
        pl.col("amount").cast(pl.Decimal(10, 3)).alias("fold"), pl.when(NUMBER % 3 == 0).then(0.0).otherwise(pl.col("weight")).alias("weight"),
    ).drop("amount").rename({"city": "group"})  # fmt: skip


def stages_of_odd() -> Preprocessor:
    return Preprocessor(
        [
            ("dates", DatetimeEncoder(columns=["day", "at"])), ("onehot", OneHotEncoder(columns=["cat"])),
            ("target", TargetEncoder(columns=["group"])),
        ]
    )  # fmt: skip


@dataclass
class Case:
    """Rows, what is predicted from them, and by what."""

    change: Callable[[pl.DataFrame], pl.DataFrame] = lambda table: table.drop("amount")
    targets: tuple[str, ...] = ("y",)
    weight: str | None = None
    stages: Callable[[], Preprocessor | None] = usual

    @property
    def table(self) -> pl.DataFrame:
        return self.change(base())

    @property
    def task(self) -> str:
        if len(self.targets) > 1:
            return "several"
        labels = self.table[self.targets[0]]
        if labels.dtype.is_float() or labels.dtype.is_decimal():
            return "regression"
        return "binary" if labels.n_unique() == 2 else "multiclass"

    def trainer(self, **options: Any) -> Any:
        if self.task == "several":
            return train.SklearnTrainer(DecisionTreeClassifier(max_depth=2, random_state=0), **options)
        objective = {"regression": "reg:squarederror", "binary": "binary:logistic", "multiclass": "multi:softprob"}
        parameters = {"objective": objective[self.task], "max_depth": 2, "nthread": 1}
        return train.XGBoostTrainer(parameters, num_boost_round=3, seed=1, **options)

    @property
    def after(self) -> list[Any]:
        """Stages after the model."""
        if self.task == "regression":
            return [Conformal(0.8)]
        return [Calibrate("sigmoid"), *([Threshold("f1")] if self.task == "binary" else []), Conformal(0.8)]


def _changed(
    *columns: Any, drop: tuple[str, ...] = ("amount",), **named: Any
) -> Callable[[pl.DataFrame], pl.DataFrame]:
    return lambda table: table.with_columns(*columns, **named).drop(drop)


NUMBER = pl.int_range(pl.len())
YES = pl.col("y") == "yes"
DAY = pl.lit(dt.date(1969, 12, 1)) + pl.duration(days=NUMBER)
OSLO = (pl.lit(dt.datetime(2024, 3, 30)) + pl.duration(hours=NUMBER)).dt.replace_time_zone("UTC")
VECTOR = pl.concat_arr(pl.col("amount").cast(pl.Float32), pl.col("weight").cast(pl.Float32))

CASES = {
    "odd": Case(odd, weight="weight", stages=stages_of_odd),
    "decimals": Case(_changed(y=pl.col("amount").cast(pl.Decimal(12, 3)))),
    "gaps": Case(_changed(y=pl.when(YES).then(1000).when(pl.col("k") > 0).then(-5).otherwise(3))),
    "categories": Case(_changed(y=pl.when(YES).then(pl.lit("a\0b")).otherwise("y").cast(pl.Categorical))),
    "two targets": Case(_changed(u=pl.when(pl.col("k") > 0).then(pl.lit("p")).otherwise(pl.lit("q"))), ("y", "u")),
}
"""Rows that are trained on."""

REFUSED = {
    "nothing but nulls": Case(_changed(gone=pl.lit(None, pl.Null))),
    "a null label": Case(_changed(y=pl.when(NUMBER != 50).then(pl.col("y")))),
    "one class": Case(_changed(y=pl.lit("no"))),
    "no weight": Case(_changed(weight=pl.lit(0.0)), weight="weight"),
    "infinite": Case(_changed(z=pl.when(NUMBER == 60).then(math.inf).otherwise(pl.col("z")))),
    "no rows": Case(lambda table: table.drop("amount").clear()),
    "times": Case(_changed(at=OSLO, drop=("amount", "city")), stages=lambda: None),
}


def blocks(table: pl.DataFrame) -> list[pa.Table]:
    """Blocks without rows and of one row, with columns in another order, and of Arrow's null type."""
    parts = []
    for place, (start, stop) in enumerate(((0, 0), (0, 1), (1, 2), (2, 60), (60, 60), (60, N))):
        part = to_arrow(table[start:stop])
        columns = {name: part.column(name) for name in part.column_names[:: -1 if place % 2 else 1]}
        one = {n: pa.nulls(len(c)) if len(c) == 1 and c.null_count == 1 else c for n, c in columns.items()}
        parts.append(pa.table(one))
    return parts


class BlocksHere(list[pa.Table]):
    """Blocks in this process that are taken for a Dataset."""


BlocksHere.__module__ = "ray.blocks_here"


class BlockEngine(Engine):
    """What Ray's tasks do with blocks, in this process."""

    has_positions = False

    def schema(self, data: Any) -> pl.Schema:
        schema = pa.unify_schemas([block.schema for block in data])
        first = next((block for block in data if len(block)), data[0])  # the block that Ray's types are read from
        return to_frame(schema.empty_table().select(first.column_names)).schema

    def scan(self, data: Any, scan: Scan) -> dict[int, ScanResults]:
        columns = scan.columns(self.schema(data))
        return merged_results(PartialScan.of(scan)(block.select(columns)) for block in data)

    def map(self, data: Any, function: TableFunction, placement: Any = None) -> BlocksHere:
        return BlocksHere(map(MappedBlock(SerializedFunction.of(function)), data))

    def collect(self, data: Any, columns: Any = None) -> pl.DataFrame:
        table = stacked([to_frame(block) for block in data])
        return table if columns is None else table.select(columns)

    def head(self, data: Any, n_rows: int, columns: Any = None) -> pl.DataFrame:
        return self.collect(data, columns).head(n_rows)

    def write(self, *arguments: Any) -> int:
        raise NotImplementedError


def local(value: Any) -> Any:
    return registry.engine_for(value).collect(value) if type(value).__module__.startswith("ray") else value


def outcome(step: Callable[[], Any]) -> Any:
    """What a step gives; of an error of ours its class and its first sentence, where it says what is wrong."""
    try:
        return step()
    except RaylineError as error:
        return type(error).__name__, str(error).partition("\n")[0]


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, pl.DataFrame):
        assert sorted(one.columns) == sorted(other.columns)
        for name in one.columns:
            assert_same(one[name].to_list(), other[name].to_list())
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for name, value in one.items():
            assert_same(value, other[name])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    elif isinstance(one, float):
        assert other == pytest.approx(one, rel=1e-9, abs=1e-12, nan_ok=True)
    else:
        assert one == other


def fitted(case: Case, rows: Any, test: Any = None) -> Any:
    return train.fit(
        case.trainer(), case.stages(), rows, test, case.targets, sample_weight=case.weight, verbose=False
    )  # fmt: skip


STEPS: dict[str, Callable[[Case, Any, Any], Any]] = {
    "predictions": lambda case, pipeline, rows: local(pipeline.transform(rows, proba=case.task != "regression")),
    "evaluation": lambda case, pipeline, rows: pipeline.evaluate(
        rows, by="flag" if "flag" in case.table else None, sample_weight=case.weight, replicates=20
    ).to_dict(),
    "calibration": lambda case, pipeline, rows: pipeline.calibrated(
        case.after, rows, sample_weight=case.weight
    ).predict(case.table, interval=True),
    "explanation": lambda case, pipeline, rows: local(pipeline.explain(rows)),
}
"""What is done with a pipeline and rows, a table or a Dataset."""


def train_and_predict(case: Case, rows: Any) -> Any:
    result = fitted(case, rows, rows)
    return result.metrics, result.history, result.inference_pipeline.predict(case.table)


def assert_steps_agree(name: str, rows: Any) -> None:
    """Every step gives for these rows what it gives for the table."""
    case = CASES.get(name) or REFUSED[name]
    here = outcome(lambda: train_and_predict(case, case.table))
    assert (name in REFUSED) == (len(here) == 2)
    assert_same(here, outcome(lambda: train_and_predict(case, rows)))
    if name in CASES:
        pipeline = fitted(case, case.table).inference_pipeline
        for step in STEPS.values():
            assert_same(step(case, pipeline, case.table), step(case, pipeline, rows))


@pytest.mark.parametrize("name", [*CASES, *REFUSED])
def test_steps_on_blocks(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    engine = registry.engine
    monkeypatch.setattr(registry, "engine", lambda kind: BlockEngine() if kind == "ray" else engine(kind))
    assert_steps_agree(name, BlocksHere(blocks((CASES.get(name) or REFUSED[name]).table)))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("name", ["odd", "two targets", "one class"])
def test_steps_on_a_dataset(ray_session: Any, name: str) -> None:
    assert_steps_agree(name, data.from_arrow(blocks((CASES.get(name) or REFUSED[name]).table)))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("name", ["odd", "decimals", "two targets", "no rows", "one class"])
def test_searches_and_what_follows(ray_session: Any, name: str) -> None:
    case = CASES.get(name) or REFUSED[name]

    def searched(rows: Any) -> Any:
        analysis = tune.run(
            case.trainer(), train_dataset=rows, preprocessor=case.stages(), target_columns=list(case.targets),
            sample_weight=case.weight, cv=3, config={"max_depth": tune.grid_search([1, 2])}, num_samples=1, seed=3,
            postprocess=case.after if case.task != "several" else None, verbose=False,
            run_on="process" if isinstance(rows, pl.DataFrame) else None,
        )  # fmt: skip
        made = [analysis.best_inference_pipeline, analysis.ensemble(top=2), analysis.bagged_pipeline()]
        trials = [(trial.config, trial.scores, trial.status) for trial in analysis.trials]
        return trials, local(analysis.oof), [pipeline.predict(case.table) for pipeline in made]

    assert_same(outcome(lambda: searched(case.table)), outcome(lambda: searched(data.from_arrow(blocks(case.table)))))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("name", ["odd", "two targets", "no weight"])
def test_cross_validations_and_comparisons(ray_session: Any, name: str) -> None:
    case = CASES.get(name) or REFUSED[name]
    how: dict[str, Any] = {
        "preprocessor": case.stages(), "target_columns": list(case.targets), "sample_weight": case.weight, "cv": 3, "verbose": False,
    }  # fmt: skip

    def scores(rows: Any) -> Any:
        found = train.cross_validate(case.trainer(), train_dataset=rows, **how)
        return {name: tuple(score) for name, score in found.metrics.items()}, found.evaluate(replicates=10).to_dict()

    def board(rows: Any) -> Any:
        where: Any = "process" if isinstance(rows, pl.DataFrame) else None
        candidates = {"a": case.trainer(), "b": (case.trainer(), {"max_depth": tune.grid_search([1, 3])})}
        return tune.compare(candidates, train_dataset=rows, run_on=where, **how).leaderboard.drop("fit_s", "predict_s")

    for step in (scores, board):
        assert_same(outcome(lambda: step(case.table)), outcome(lambda: step(data.from_arrow(blocks(case.table)))))  # noqa: B023

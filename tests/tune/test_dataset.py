"""Tuning on a Dataset: its rows stay in the object store, and everything is what a search over the same table gives, to the bit.

Covers `tune.drivers`, `tune.search_driver`, `tune.stored_folds`, `tune.stored_groups` and `tune.stored_held_out` too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import polars as pl
import pytest

from rayline import Preprocessor, data, train, tune
from rayline.core.errors import DataError, ParameterError
from rayline.core.scan import Scan
from rayline.core.statistics.base import StatisticRequest
from rayline.core.statistics.moments import Moments
from rayline.postprocess import Calibrate, Threshold
from rayline.stages import OneHotEncoder, StandardScaler, TargetEncoder
from rayline.tune import row_groups, shared_cache
from rayline.tune.options import SearchOptions, SearchRequest
from rayline.tune.row_groups import GroupEngine, TableGroups
from rayline.tune.tune_data import search_data
from tests.ray_bytes import bytes_fetched

SPACE = {
    "max_depth": tune.randint(1, 4),
    "preprocessor": {"scale": {"with_std": tune.choice([True, False])}},
}


@pytest.fixture
def stages() -> Preprocessor:
    return Preprocessor(
        [
            ("scale", StandardScaler(columns=["x", "z"])),
            ("target", TargetEncoder(columns=["street"])),
            ("onehot", OneHotEncoder(columns=["city"])),
        ]
    )


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    random = np.random.default_rng(2)
    n = 700
    x, z = random.normal(size=n), random.normal(size=n)
    return pl.DataFrame(
        {
            "x": x,
            "z": np.where(random.random(n) < 0.1, np.nan, z),
            "city": random.choice(["Oslo", "Rome", "Łódź"], n),
            "street": random.choice([f"s{i}" for i in range(40)], n),
            "weight": random.uniform(0.5, 2.0, n),
            "late": np.where(x + random.normal(size=n) > 0.3, "yes", "no"),
        }
    )


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a table of some rows has several groups; the number of them is decided on the driver."""
    monkeypatch.setattr(row_groups, "GROUP_ROWS", 200)


def search(rows: Any, stages: Preprocessor | None, **options: Any) -> tune.Analysis:
    given: dict[str, Any] = {
        "trainer": train.XGBoostTrainer({"objective": "binary:logistic", "subsample": 0.8}, num_boost_round=4),
        "train_dataset": rows, "preprocessor": stages, "target_columns": ["late"], "cv": 3, "config": SPACE,
        "metric": ["log_loss", "roc_auc"], "num_samples": 3, "seed": 5, "sample_weight": "weight", **options,
    }  # fmt: skip
    return tune.run(**given)


def found(analysis: tune.Analysis) -> list[Any]:
    return [(t.config, t.scores, [f.others for f in t.folds], t.status) for t in analysis.trials]


def test_groups_do_not_depend_on_how_a_table_lies_in_memory(rows: pl.DataFrame) -> None:
    """Statistics of groups, merged in order: the same bits of a table in one piece and of one in many."""
    request = StatisticRequest(Moments, ("x",))
    pieces = pl.concat([rows[:7], rows[7:431], rows[431:]], rechunk=False)
    states = [GroupEngine().scan(TableGroups([t]), Scan([request]))[0][request] for t in (rows, pieces)]
    assert len(TableGroups([rows]).summaries) == 4
    assert states[0] == states[1]
    assert states[0].mean == pytest.approx(rows["x"].mean())  # type: ignore[attr-defined]
    digests = [[s.digest for s in TableGroups([t]).summarised().summaries] for t in (rows, pieces)]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("n", [1, 2, 16, 17, 300])
def test_few_states_of_groups_are_held_while_they_are_merged(n: int) -> None:
    held, most = 0, 0

    def parts() -> Iterator[list[int]]:
        nonlocal held, most
        for number in range(n):
            held += 1
            most = max(most, held)
            yield [number]

    def merge(states: list[list[int]]) -> list[int]:
        nonlocal held
        held -= len(states) - 1
        return [number for state in states for number in state]

    assert row_groups.merged(parts(), merge) == list(range(n))
    assert most <= 3 * row_groups.MERGED_TOGETHER


@pytest.mark.ray
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("blocks", {}),
        ("blocks", {"cv": data.StratifiedKFold(3)}),
        pytest.param("files", {"cv": data.GroupKFold(3, column="street")}, marks=pytest.mark.slow),
        pytest.param("blocks", {"cv": data.RepeatedKFold(2, n_repeats=2), "scheduler": "median", "num_samples": 6}, marks=pytest.mark.slow),
        pytest.param("blocks", {"cv": data.Bootstrap(2)}, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_dataset_gives_the_bits_of_the_table(
    rows: pl.DataFrame, stages: Preprocessor, ray_session: Any, tmp_path: Any, kind: str, options: dict[str, Any]
) -> None:
    table = search(rows, stages, run_on="process", **options)
    if kind == "files":
        rows[:333].write_parquet(tmp_path / "a.parquet")
        rows[333:].write_parquet(tmp_path / "b.parquet")
        dataset = data.read_parquet(str(tmp_path))
    else:
        dataset = data.from_polars(rows).repartition(7)
    blocks = search(dataset, stages, **options)
    assert found(table) == found(blocks)
    assert table.best_config == blocks.best_config
    oof = blocks.oof
    assert type(oof).__module__.startswith("ray.data")
    held = pl.concat([pl.from_arrow(block) for block in oof.iter_batches(batch_format="pyarrow", batch_size=None)])  # type: ignore[type-var]
    assert held.select(table.oof.columns).equals(table.oof)  # type: ignore[union-attr]


@pytest.mark.ray
def test_a_test_set_that_is_held_out(rows: pl.DataFrame, stages: Preprocessor, ray_session: Any) -> None:
    part, held = rows[:500], rows[500:].drop("weight")
    options: dict[str, Any] = {"cv": None, "num_samples": 2, "metric": "log_loss"}
    table = search(part, stages, test_dataset=held, run_on="process", **options)
    both = search(data.from_polars(part), stages, test_dataset=data.from_polars(held), **options)
    mixed = search(part, stages, test_dataset=data.from_polars(held), **options)
    assert found(table) == found(both) == found(mixed)
    assert table.oof.height == both.oof.count() == mixed.oof.count() == held.height
    assert mixed._prepared.digest() == both._prepared.digest() == table._prepared.digest()
    strange = data.from_polars(held.with_columns(late=pl.lit("never")))
    with pytest.raises(DataError, match="test data"):
        search(data.from_polars(part), stages, test_dataset=strange, **options)


@pytest.mark.ray
def test_the_best_model_is_trained_on_a_worker(rows: pl.DataFrame, stages: Preprocessor, ray_session: Any) -> None:
    analysis = search(data.from_polars(rows), stages, num_samples=1)
    assert analysis.best_result.metrics["cv-roc_auc"] == analysis.best_trial.means[1]
    assert analysis.best_inference_pipeline.predict(rows.head(5)).height == 5
    curves = analysis.learning_curves()
    assert set(curves["fold"]) == {0, 1, 2}


WORKERS = train.XGBoostTrainer(
    {"objective": "binary:logistic", "nthread": 1, "max_depth": 2}, num_boost_round=2, num_workers=2, seed=1
)


@pytest.mark.ray
@pytest.mark.slow
def test_a_search_with_workers_gives_the_bits_of_the_table(
    rows: pl.DataFrame, stages: Preprocessor, ray_session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_cache, "MIN_BYTES", 0)  # prepared folds are made and kept where all trials find them
    options: dict[str, Any] = {"trainer": WORKERS, "num_samples": 2, "cv": 2}
    one, other = search(rows, stages, **options), search(data.from_polars(rows).repartition(3), stages, **options)
    assert found(one) == found(other)
    for here, there in zip(one.scores(one.best_trial), other.scores(other.best_trial), strict=True):
        np.testing.assert_array_equal(here, there)
    assert other.oof.count() == rows.height
    assert set(other.learning_curves()["fold"]) == {0, 1}


@pytest.mark.ray
def test_no_process_of_a_trial_with_workers_fetches_more_than_its_share(
    ray_session: Any, nothing_comes_here: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process stands for the trial's: it fetches statistics of more rows than are few, else 24 bytes of each held-out row."""
    from rayline.engine import training_rows
    from rayline.tune import stored_folds
    from rayline.tune.drivers import prepare, search_driver

    shares: list[list[int]] = []

    def divided(*arguments: Any, **options: Any) -> Any:
        made = divide(*arguments, **options)
        shares.append([sum(piece.n_rows for piece in shard) for shard in made.train])
        return made

    divide = training_rows.shards_of
    monkeypatch.setattr("rayline.engine.ray.shards_of", divided)
    monkeypatch.setattr(row_groups, "GROUP_ROWS", 5_000)
    random, sizes, scores = np.random.default_rng(1), {}, {}
    for n in (2_000, 60_000):
        x = random.normal(size=(n, 6))
        table = pl.DataFrame(x, schema=list("abcdef")).with_columns(late=pl.Series(x[:, 0] > 0).cast(pl.Int64))
        given = {"train_pipeline": Preprocessor([("scale", StandardScaler())]), "target_columns": ["late"], "cv": 3}
        for few in (1 << 20, 1_000):
            monkeypatch.setattr(stored_folds, "FEW_ROWS", few)
            rows = data.from_polars(table).repartition(4)
            options = SearchOptions(metric=["roc_auc", "log_loss"], num_samples=1, seed=0)
            made = prepare(SearchRequest(WORKERS, search_data({**given, "train_dataset": rows}), {}, options))
            evaluate = search_driver(WORKERS).evaluator(made.problem, made.groups, in_pieces=True)
            evaluate.scan_ahead(made.problem.candidate({}))
            nothing_comes_here()
            found = evaluate(made.problem.candidate({}), 0)
            sizes[n, few] = nothing_comes_here()
            scores[n, few] = [found.score.score, *found.score.others]
            assert max(shares[-1]) - min(shares[-1]) <= 1
            assert sum(shares[-1]) == n - found.scores.n_rows
        assert scores[n, 1_000] == pytest.approx(scores[n, 1 << 20])
    assert sizes[60_000, 1_000] - sizes[2_000, 1_000] < 60_000 / 3  # less than a byte of each held-out row
    assert sizes[60_000, 1 << 20] - sizes[2_000, 1 << 20] < 58_000 / 3 * 25


@pytest.mark.ray
def test_the_rows_never_come_to_the_driver(
    rows: pl.DataFrame, stages: Preprocessor, ray_session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by the engine's collect nor by reading a group."""
    from rayline.engine.ray import RayEngine
    from rayline.tune import stored_groups

    def refuse(*arguments: Any) -> Any:
        raise AssertionError("rows came to the driver")

    monkeypatch.setattr(RayEngine, "collect", refuse)
    monkeypatch.setattr(stored_groups.StoredGroup, "frame", refuse)
    analysis = search(data.from_polars(rows), stages, num_samples=1)
    assert analysis.oof.count() == rows.height


@pytest.fixture
def nothing_comes_here(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Raises when rows come to the driver, and returns how many bytes it has fetched from Ray since the last question."""
    from rayline.engine.ray import RayEngine
    from rayline.tune import stored_groups

    def refuse(*arguments: Any) -> Any:
        raise AssertionError("rows came to the driver")

    collect = RayEngine.collect

    def few(self: RayEngine, rows: Any, columns: Any = None) -> pl.DataFrame:
        found = collect(self, rows, columns)
        assert found.height <= 10, "rows came to the driver"  # a model keeps some as examples
        return found

    monkeypatch.setattr(RayEngine, "collect", few)
    for kind, method in ((stored_groups.TaskGroupEngine, "collect"), (stored_groups.StoredGroup, "frame")):
        monkeypatch.setattr(kind, method, refuse)
    return bytes_fetched(monkeypatch)


@pytest.mark.ray
def test_pipelines_of_held_out_rows_are_those_of_a_table(
    rows: pl.DataFrame, ray_session: Any, nothing_comes_here: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rayline.inference import calibration

    monkeypatch.setattr(row_groups, "GROUP_ROWS", 2_500)
    table = pl.concat([rows.select("x", "z", "late", "weight")] * 10)
    options: dict[str, Any] = {"config": {"max_depth": tune.grid_search([1, 2, 4])}, "num_samples": 1, "cv": 2}
    here, there = (search(own, None, **options) for own in (table, data.from_polars(table).repartition(3)))
    nothing_comes_here()
    assert there.ensemble(top=3).model.native.weights == here.ensemble(top=3).model.native.weights
    assert there.ensemble(top=3).model.metrics["oof-log_loss"] == pytest.approx(
        here.ensemble(top=3).model.metrics["oof-log_loss"]
    )
    one, other = (analysis.calibrated([Calibrate("sigmoid")]) for analysis in (here, there))
    for a, b in zip(one.postprocessing[0].state["maps"], other.postprocessing[0].state["maps"], strict=True):
        assert b == pytest.approx(a)
    one, other = here.stacked_pipeline(top=2), there.stacked_pipeline(top=2)
    assert other.model.metrics["oof-log_loss"] == pytest.approx(one.model.metrics["oof-log_loss"], rel=1e-4)
    assert len(there.bagged_pipeline().model.native.pipelines) == 2
    nothing_comes_here()
    there.calibrated([Calibrate("sigmoid")])
    whole = nothing_comes_here()
    monkeypatch.setattr(calibration, "MAX_SAMPLE_ROWS", 100)
    assert there.calibrated([Calibrate("sigmoid"), Threshold("f1", pos_label="yes")]).predict(table).height == 7_000
    assert nothing_comes_here() < whole / 2  # a sample of 100 rows of each group; before it all different rows
    assert there.scores(there.best_trial)[0].nbytes > 0


@pytest.mark.ray
def test_a_population_over_a_dataset(
    rows: pl.DataFrame, ray_session: Any, nothing_comes_here: Callable[[], int]
) -> None:
    options: dict[str, Any] = {
        "config": {"eta": tune.loguniform(0.01, 0.8)}, "scheduler": tune.Population(interval=2), "num_samples": 3, "cv": 2,
    }  # fmt: skip
    table = rows.select("x", "z", "late", "weight")
    here, there = (search(own, None, **options) for own in (table, data.from_polars(table).repartition(3)))
    assert found(here) == found(there)
    for one, other in zip(here.scores(here.best_trial), there.scores(there.best_trial), strict=True):
        np.testing.assert_array_equal(one, other)
    assert there.best_model.native.num_boosted_rounds() == 4


@pytest.mark.ray
def test_statistics_are_computed_ahead_in_one_scan(
    rows: pl.DataFrame, stages: Preprocessor, ray_session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rayline.tune import ray_executor
    from rayline.tune.drivers import prepare
    from rayline.tune.evaluate import FoldEvaluator

    trainer = train.XGBoostTrainer({"objective": "binary:logistic"}, num_boost_round=2)
    given = {"train_pipeline": stages, "target_columns": ["late"], "cv": 3}
    made = prepare(
        SearchRequest(
            trainer, search_data({**given, "train_dataset": data.from_polars(rows)}), {}, SearchOptions(num_samples=1)
        )
    )
    known = ray_executor._scanned_ahead(made)
    assert known is not None
    evaluate = FoldEvaluator(made.problem, made.groups, known=known)
    scores = [evaluate(made.problem.candidate({}), fold).score.score for fold in range(3)]
    assert evaluate.fitters[0].scans == 0
    table = prepare(
        SearchRequest(trainer, search_data({**given, "train_dataset": rows}), {}, SearchOptions(num_samples=1))
    )
    own = FoldEvaluator(table.problem, table.groups)
    assert scores == [own(table.problem.candidate({}), fold).score.score for fold in range(3)]
    assert ray_executor._scanned_ahead(table) is None


@pytest.mark.ray
def test_a_dataset_is_refused_in_this_process(rows: pl.DataFrame, ray_session: Any) -> None:
    with pytest.raises(ParameterError, match=r"the rows are a ray\.data\.Dataset"):
        search(data.from_polars(rows), None, config={"max_depth": tune.randint(1, 4)}, run_on="process")

"""Tuning against raw Ray Tune, a loop in this process, and scikit-learn's search: the same folds, rounds and configurations."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import ray
from ray import tune as ray_tune
from ray.tune.search.basic_variant import BasicVariantGenerator
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer
from sklearn.impute import SimpleImputer as SklearnImputer
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder as SklearnOneHot
from sklearn.preprocessing import StandardScaler as SklearnScaler
from sklearn.preprocessing import TargetEncoder as SklearnTarget

from bench.cold import alone
from bench.flights import FEW, MANY, NUMBERS, flown
from bench.report import Comparison, Options, Section, deadline, note, seconds
from bench.searches import ROUNDS, SPACE, Fold, Stages, drawn, function_trainable, loop, randomized, reused_actors
from bench.synthetic import FLOATS, table
from rayline import Preprocessor, train, tune
from rayline.data import KFold
from rayline.stages import OneHotEncoder, SimpleImputer, StandardScaler, TargetEncoder

FOLDS = 5

MOST_S = 1_500
"""No single run takes longer, or there is something wrong with it."""


def run(options: Options) -> Section:
    """All comparisons of this program. What does not end in time, or fails, is left out and said."""
    rows = options.small(2_000)
    n_flights, n_configs = (100_000, 50) if options.full else (options.small(50_000), 10)
    section = Section(
        "Tuning",
        f"{FOLDS}-fold cross validation, XGBoost with {ROUNDS} rounds and one thread a trial, 2 trials at a time on a Ray with "
        "2 CPUs that is running already; the same folds and configurations on both sides. Synthetic: 8 floats and a column of "
        "10 strings; impute, scale, one-hot. Breast cancer: 569 × 30, no stages. Flights: 16 numbers and 4 columns of "
        "strings; impute, scale, one-hot (2 columns), target encoding (2 columns of 105 and 4,043 values).",
        packages=("ray", "xgboost-cpu", "scikit-learn"),
    )
    os.environ["RAYLINE_QUIET"] = "1"
    section.add(*cold(options))  # before there is a Ray, which takes CPU
    started = seconds(
        lambda: ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    )
    note(f"Ray has started in {started:.1f} s")
    parts: list[Callable[[], list[Comparison]]] = [
        lambda: small(options, rows),
        lambda: tiny(options, started),
        lambda: large(n_flights, n_configs),
    ]
    try:
        for part in parts:
            try:
                section.add(*part())
            except Exception as error:
                note(f"{type(error).__name__}: {error}. The lines of this part are missing.")
    finally:
        ray.shutdown()
    return section


def timed(what: str, work: Callable[[], object]) -> float:
    """Measure the seconds of one run; announce it, and end it after a time limit."""
    with deadline(MOST_S):
        found = seconds(work)
    note(f"{what}: {found:.1f} s")
    return found


# -- the problems ------------------------------------------------------------------------------------------------------


@dataclass
class Problem:
    """What is tuned, for us and for scikit-learn."""

    data: pl.DataFrame
    target: str
    ours: Preprocessor | None = None
    theirs: Stages | None = None

    @cached_property
    def folds(self) -> list[Fold]:
        """The folds as scikit-learn takes them; made before the clock starts for the others."""
        found = []
        for part, held in KFold(FOLDS).split(self.data):
            frames = [frame.drop(self.target).to_pandas() for frame in (part, held)]
            labels = [frame[self.target].cast(pl.Int8).to_numpy() for frame in (part, held)]
            found.append((frames[0], labels[0], frames[1], labels[1]))
        return found

    @cached_property
    def held_out(self) -> list[Any]:
        """Which rows each fold holds out. No two rows are equal, so their content tells."""
        rows = self.data.hash_rows()
        assert rows.is_unique().all()
        return [rows.is_in(held.hash_rows().implode()).to_numpy() for _, held in KFold(FOLDS).split(self.data)]


def synthetic(rows: int) -> Problem:
    """Floats with gaps, a category, and a label that depends on both."""
    random = np.random.default_rng(1)
    data = table(rows, seed=0).select(*FLOATS, "s10")
    score = (
        data["f4"] / 5
        - data["f5"] / 6
        + (data["s10"] == "v3").cast(pl.Float64) * 2
        + pl.Series(random.normal(size=rows))
    )
    ours = Preprocessor([("impute", SimpleImputer()), ("scale", StandardScaler()), ("onehot", OneHotEncoder())])

    def theirs() -> ColumnTransformer:
        numbers = make_pipeline(SklearnImputer(), SklearnScaler())
        return ColumnTransformer([("n", numbers, FLOATS), ("c", SklearnOneHot(handle_unknown="ignore"), ["s10"])])

    return Problem(data.with_columns(late=(score > score.median()).cast(pl.Int8)), "late", ours, theirs)


def cancer() -> Problem:
    """569 rows of 30 numbers, no stages: where overhead is everything."""
    x, y = load_breast_cancer(return_X_y=True)
    return Problem(
        pl.DataFrame({f"x{i}": x[:, i] for i in range(x.shape[1])}).with_columns(target=pl.Series(y)), "target"
    )


def flights(rows: int) -> Problem:
    """Real ones."""
    ours = Preprocessor([
        ("impute", SimpleImputer()), ("scale", StandardScaler(NUMBERS)), ("onehot", OneHotEncoder(FEW)),
        ("target", TargetEncoder(MANY)),
    ])  # fmt: skip

    def theirs() -> ColumnTransformer:
        def strings(encoder: Any) -> Pipeline:
            return make_pipeline(SklearnImputer(strategy="most_frequent", missing_values=None), encoder)

        return ColumnTransformer([
            ("numbers", make_pipeline(SklearnImputer(), SklearnScaler()), NUMBERS),
            ("few", strings(SklearnOneHot(handle_unknown="ignore", sparse_output=False)), FEW),
            ("many", strings(SklearnTarget(cv=StratifiedKFold(FOLDS, shuffle=True, random_state=0))), MANY),
        ])  # fmt: skip

    return Problem(flown(rows), "late", ours, theirs)


# -- what is measured --------------------------------------------------------------------------------------------------


def rayline(problem: Problem, trials: int, **options: Any) -> tune.Analysis:
    """Our search."""
    return tune.run(
        train.XGBoostTrainer({"objective": "binary:logistic"}, num_boost_round=ROUNDS),
        {
            "train_dataset": problem.data,
            "target_columns": [problem.target],
            "cv": FOLDS,
            "train_pipeline": problem.ours,
        },
        {name: ray_tune.choice(values) for name, values in SPACE.items()},
        metric="log_loss",
        num_samples=trials,
        search=BasicVariantGenerator(points_to_evaluate=drawn(trials)),
        verbose=False,
        **options,
    )


# -- the comparisons ---------------------------------------------------------------------------------------------------


def small(options: Options, rows: int) -> list[Comparison]:
    """Synthetic; of the slow other side one run is enough when there is much else to do."""
    data = synthetic(rows)
    _ = data.folds
    ours, other = [], []
    for i in range(options.repeats):
        ours.append(timed("20 trials, synthetic: Rayline", lambda: rayline(data, 20)))
        if not i or not options.full:
            other.append(
                timed(
                    "20 trials, synthetic: function trainable", lambda: function_trainable(data.folds, data.theirs, 20)
                )
            )
    name = "Ray Tune, function trainable, scikit-learn Pipeline a fold"
    return [Comparison(f"20 trials, synthetic, {rows:,} rows", ours, name, other, goal=0.1)]


def cold(options: Options) -> list[Comparison]:
    """Breast cancer in a process of its own, imports included."""
    ways: dict[str, list[float]] = {name: [] for name in ("rayline", "loop", "randomized")}
    for _ in range(options.repeats):
        for name, found in ways.items():
            found.append(timed(f"20 trials × 5 folds, cold: {name}", lambda name=name: alone(name)))  # type: ignore[misc]
    what = "20 trials × 5 folds, breast cancer, from a cold start, in this process"
    return [
        Comparison(what, ways["rayline"], "a loop by hand", ways["loop"], goal=1.0),
        Comparison(what, ways["rayline"], "RandomizedSearchCV(n_jobs=2)", ways["randomized"], goal=0.7),
    ]


def tiny(options: Options, ray_starts: float) -> list[Comparison]:
    """Breast cancer."""
    data = cancer()
    _ = data.folds
    ours, new, other, whole = [], [], [], []
    both: list[float] = []
    raw: list[float] = []
    over: list[float] = []
    for _ in range(options.repeats):
        ours.append(timed("20 trials, breast cancer: Rayline", lambda: rayline(data, 20)))
        os.environ["RAYLINE_KEEP_WORKERS_S"] = "0"
        new.append(timed("20 trials, breast cancer: Rayline in new processes", lambda: rayline(data, 20)))
        del os.environ["RAYLINE_KEEP_WORKERS_S"]
        other.append(timed("20 trials, breast cancer: reuse_actors", lambda: reused_actors(data.folds, 20)))
        whole.append(timed("20 trials, breast cancer: a loop", lambda: loop(data.folds, data.theirs, 20)))
        # What a trial costs once the actors are there: the difference between a long and a short run.
        timed("one more trial: Rayline", lambda: both.append(_per_trial(lambda n: rayline(data, n))))
        timed("one more trial: a loop", lambda: raw.append(_per_trial(lambda n: loop(data.folds, data.theirs, n))))
        timed("one more trial, 1 at a time: Rayline", lambda: over.append(_overhead(data)))
    return [
        Comparison("20 trials, breast cancer", ours, "Ray Tune, class trainable with reuse_actors", other, goal=0.6),
        Comparison(
            "the same in new processes, as the first search of a driver", new, "Ray Tune with reuse_actors", other
        ),
        Comparison(
            "20 trials, breast cancer, with Ray's start",
            [ray_starts + s for s in new],
            "a loop in this process, and Ray's start",
            [ray_starts + s for s in whole],
            goal=1.5,
        ),
        Comparison(
            "one more trial, warm, 2 at a time", both, "the same folds in a loop in this process", raw, goal=1.5
        ),
        Comparison(
            "one more trial, warm, 1 at a time: what is not fitting or predicting", over, "the goal", [0.05], goal=1.0
        ),
    ]


LONG, SHORT = 100, 20


def _per_trial(search: Callable[[int], object]) -> float:
    short = seconds(lambda: search(SHORT))
    return (seconds(lambda: search(LONG)) - short) / (LONG - SHORT)


def _overhead(problem: Problem) -> float:
    """Seconds of one more trial that are neither fitting nor predicting, one trial at a time."""
    short, long = (rayline(problem, n, max_concurrent=1) for n in (SHORT, LONG))
    folds = [fold.fit_s + fold.predict_s for trial in long.trials[SHORT:] for fold in trial.folds]
    return (long.seconds - short.seconds - sum(folds)) / (LONG - SHORT)


def large(rows: int, trials: int) -> list[Comparison]:
    """Flights. The others take minutes, so once each; we run before and after them, so that a machine that slows down
    meanwhile is on nobody's side."""
    data = flights(rows)
    best: dict[str, float] = {}
    assert data.theirs is not None
    folds, held_out, stages = data.folds, data.held_out, data.theirs
    frame, labels = data.data.drop(data.target).to_pandas(), data.data[data.target].cast(pl.Int8).to_numpy()

    def once(name: str, search: Callable[[], float]) -> float:
        return timed(f"{trials} trials, {rows:,} flights: {name}", lambda: best.__setitem__(name, search()))

    ours = [once("Rayline", lambda: rayline(data, trials).best_score)]
    learn = [once("RandomizedSearchCV", lambda: randomized(frame, labels, held_out, stages, trials))]
    raw = [once("function trainable", lambda: function_trainable(folds, stages, trials))]
    ours.append(once("Rayline", lambda: rayline(data, trials).best_score))
    what = f"{trials} trials, {rows:,} flights; best log loss {best['Rayline']:.4f}"
    names = [
        f"RandomizedSearchCV(n_jobs=2), {best['RandomizedSearchCV']:.4f}",
        f"Ray Tune, function trainable, {best['function trainable']:.4f}",
    ]
    return [Comparison(what, ours, names[0], learn, goal=1 / 3), Comparison(what, ours, names[1], raw, goal=0.2)]

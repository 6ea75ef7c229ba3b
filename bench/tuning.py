"""Tuning against raw Ray Tune, a loop in this process, and scikit-learn's search: the same folds, rounds and configurations."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import ray
import xgboost
from ray import tune as ray_tune
from ray.tune.search.basic_variant import BasicVariantGenerator
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer
from sklearn.impute import SimpleImputer as SklearnImputer
from sklearn.metrics import log_loss
from sklearn.model_selection import ParameterSampler, RandomizedSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder as SklearnOneHot
from sklearn.preprocessing import StandardScaler as SklearnScaler
from sklearn.preprocessing import TargetEncoder as SklearnTarget

from bench.flights import FEW, MANY, NUMBERS, flown
from bench.report import Comparison, Options, Section, alternate, seconds
from bench.synthetic import FLOATS, table
from rayline import Preprocessor, train, tune
from rayline.data import KFold
from rayline.stages import OneHotEncoder, SimpleImputer, StandardScaler, TargetEncoder

FOLDS = 5
ROUNDS = 20

Config = Mapping[str, Any]


def run(options: Options) -> Section:
    """All comparisons of this program."""
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
    started = seconds(lambda: ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR"))
    try:
        data = synthetic(rows)
        ours, other = alternate(
            lambda: rayline(data, 20), lambda: function_trainable(data, 20), repeats=options.repeats
        )
        section.add(
            Comparison(
                f"20 trials, synthetic, {rows:,} rows",
                ours,
                "Ray Tune, function trainable, scikit-learn Pipeline a fold",
                other,
                goal=0.35,
            )
        )
        section.add(*tiny(options, started))
        section.add(*large(n_flights, n_configs))
    finally:
        ray.shutdown()
    return section


# -- the problems ------------------------------------------------------------------------------------------------------


@dataclass
class Problem:
    """What is tuned, for us and for scikit-learn."""

    data: pl.DataFrame
    target: str
    ours: Preprocessor | None = None
    theirs: Callable[[], ColumnTransformer] | None = None

    @cached_property
    def folds(self) -> list[Fold]:
        """The folds as scikit-learn takes them; made before the clock starts for the others."""
        found = []
        for part, held in KFold(FOLDS).split(self.data):
            frames = [frame.drop(self.target).to_pandas() for frame in (part, held)]
            labels = [frame[self.target].cast(pl.Int8).to_numpy() for frame in (part, held)]
            found.append((frames[0], labels[0], frames[1], labels[1]))
        return found


Fold = tuple[Any, Any, Any, Any]


def synthetic(rows: int) -> Problem:
    """Floats with gaps, a category, and a label that hangs on both."""
    random = np.random.default_rng(1)
    data = table(rows, seed=0).select(*FLOATS, "s10")
    score = data["f4"] / 5 - data["f5"] / 6 + (data["s10"] == "v3").cast(pl.Float64) * 2 + pl.Series(random.normal(size=rows))
    ours = Preprocessor([("impute", SimpleImputer()), ("scale", StandardScaler()), ("onehot", OneHotEncoder())])

    def theirs() -> ColumnTransformer:
        numbers = make_pipeline(SklearnImputer(), SklearnScaler())
        return ColumnTransformer([("n", numbers, FLOATS), ("c", SklearnOneHot(handle_unknown="ignore"), ["s10"])])

    return Problem(data.with_columns(late=(score > score.median()).cast(pl.Int8)), "late", ours, theirs)


def cancer() -> Problem:
    """569 rows of 30 numbers, no stages: where overhead is everything."""
    x, y = load_breast_cancer(return_X_y=True)
    return Problem(pl.DataFrame({f"x{i}": x[:, i] for i in range(x.shape[1])}).with_columns(target=pl.Series(y)), "target")


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


SPACE: Mapping[str, Any] = {
    "max_depth": list(range(2, 9)),
    "eta": [float(v) for v in np.geomspace(0.05, 0.5, 50)],
    "subsample": [float(v) for v in np.linspace(0.5, 1.0, 50)],
}


def drawn(n: int) -> list[dict[str, Any]]:
    """The configurations: those that RandomizedSearchCV draws."""
    return [dict(config) for config in ParameterSampler(SPACE, n, random_state=0)]


# -- who searches ------------------------------------------------------------------------------------------------------


def rayline(problem: Problem, trials: int, **options: Any) -> tune.Analysis:
    """What is measured."""
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


def score(config: Config, fold: Fold, stages: Callable[[], ColumnTransformer] | None) -> float:
    """One fold by hand."""
    x, y, x_test, y_test = fold
    if stages is not None:
        made = stages()
        x, x_test = made.fit_transform(x, y), made.transform(x_test)
    params = {"objective": "binary:logistic", "nthread": 1, **config}
    booster = xgboost.train(params, xgboost.DMatrix(x, y), ROUNDS)
    return float(log_loss(y_test, booster.predict(xgboost.DMatrix(x_test))))


def function_trainable(problem: Problem, trials: int) -> float:
    """As Ray's guides show it: a function, with the folds in the object store."""
    stages = problem.theirs

    def objective(config: dict[str, Any], folds: list[Fold]) -> None:
        ray_tune.report({"score": float(np.mean([score(config, fold, stages) for fold in folds]))})

    return _fit(ray_tune.with_parameters(objective, folds=problem.folds), trials, reuse=False)


class Reused(ray_tune.Trainable):
    """As quick as Ray Tune gets: a class whose actors are used again."""

    def setup(self, config: dict[str, Any], folds: list[Fold] | None = None) -> None:
        assert folds is not None
        self.folds = folds

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.config = new_config
        return True

    def step(self) -> dict[str, Any]:
        return {"score": float(np.mean([score(self.config, fold, None) for fold in self.folds])), "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Ray asks for it at the end of every trial, and starts a new actor when it raises."""
        return {}

    def load_checkpoint(self, checkpoint: Any) -> None: ...


def reused_actors(problem: Problem, trials: int) -> float:
    return _fit(ray_tune.with_parameters(Reused, folds=problem.folds), trials, reuse=True)


def _fit(trainable: Any, trials: int, *, reuse: bool) -> float:
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        found = ray_tune.Tuner(
            ray_tune.with_resources(trainable, {"CPU": 1}),
            param_space={name: ray_tune.choice(values) for name, values in SPACE.items()},
            tune_config=ray_tune.TuneConfig(
                num_samples=trials,
                reuse_actors=reuse,
                metric="score",
                mode="min",
                search_alg=BasicVariantGenerator(points_to_evaluate=drawn(trials)),
            ),
            run_config=ray_tune.RunConfig(verbose=0, storage_path=folder),
        ).fit()
        return float(found.get_best_result().metrics["score"])


def loop(problem: Problem, trials: int) -> float:
    """No Ray at all."""
    return min(float(np.mean([score(c, fold, problem.theirs) for fold in problem.folds])) for c in drawn(trials))


def randomized(problem: Problem, trials: int) -> float:
    """scikit-learn, two processes."""
    assert problem.theirs is not None
    parts = [(len(y), len(y_test)) for _, y, _, y_test in problem.folds]
    frames = [pd.concat([x, x_test]) for x, _, x_test, _ in problem.folds]
    # Each fold has its own order of the rows: one table holds them fold after fold.
    begins = np.cumsum([0, *(sum(part) for part in parts)])
    cv = [(np.arange(b, b + n), np.arange(b + n, b + n + m)) for b, (n, m) in zip(begins, parts, strict=False)]
    data = pd.concat(frames, ignore_index=True)
    labels = np.concatenate([np.concatenate([y, y_test]) for _, y, _, y_test in problem.folds])
    search = RandomizedSearchCV(
        Pipeline([("stages", problem.theirs()), ("model", xgboost.XGBClassifier(n_estimators=ROUNDS, n_jobs=1))]),
        {f"model__{name}": values for name, values in SPACE.items()},
        n_iter=trials,
        cv=cv,
        scoring="neg_log_loss",
        n_jobs=2,
        random_state=0,
        refit=False,
    )
    search.fit(data, labels)
    return -float(np.max(search.cv_results_["mean_test_score"]))


# -- the comparisons ---------------------------------------------------------------------------------------------------


def tiny(options: Options, ray_starts: float) -> list[Comparison]:
    """Breast cancer."""
    data = cancer()
    _ = data.folds
    ours, other = alternate(lambda: rayline(data, 20), lambda: reused_actors(data, 20), repeats=options.repeats)
    # What a trial costs once the actors are there: the difference between a long and a short run.
    both: list[float] = []
    raw: list[float] = []
    over: list[float] = []
    for _ in range(options.repeats):
        both.append(_per_trial(lambda n: rayline(data, n)))
        raw.append(_per_trial(lambda n: loop(data, n)))
        over.append(_overhead(data))
    whole = [seconds(lambda: loop(data, 20)) for _ in range(options.repeats)]
    return [
        Comparison("20 trials, breast cancer", ours, "Ray Tune, class trainable with reuse_actors", other, goal=1.0),
        Comparison(
            "20 trials, breast cancer, with Ray's start",
            [ray_starts + s for s in ours],
            "a loop in this process, and Ray's start",
            [ray_starts + s for s in whole],
            goal=1.5,
        ),
        Comparison("one more trial, warm, 2 at a time", both, "the same folds in a loop in this process", raw, goal=1.5),
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


def large(rows: int, trials: int) -> Sequence[Comparison]:
    """Flights; takes minutes, so once each."""
    data = flights(rows)
    best: dict[str, float] = {}
    _ = data.folds
    ours = [seconds(lambda: best.__setitem__("ours", rayline(data, trials).best_score))]
    learn = [seconds(lambda: best.__setitem__("learn", randomized(data, trials)))]
    ray_s = [seconds(lambda: best.__setitem__("ray", function_trainable(data, trials)))]
    what = f"{trials} trials, {rows:,} flights; best log loss {best['ours']:.4f}"
    return [
        Comparison(what, ours, f"RandomizedSearchCV(n_jobs=2), {best['learn']:.4f}", learn, goal=1 / 3),
        Comparison(what, ours, f"Ray Tune, function trainable, {best['ray']:.4f}", ray_s, goal=0.2),
    ]

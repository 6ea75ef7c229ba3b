"""The contract of a framework for targets other than classes and numbers: counts, amounts, quantiles, rankings, survival times."""

from __future__ import annotations

import contextlib
import copy
import json
import pickle
import tempfile
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rayline.core import registry
from rayline.core.errors import DataError
from rayline.inference.artifact import load
from rayline.inference.pipeline import InferencePipeline, Preprocessor
from rayline.testing.contract_case import named_law
from rayline.train.cross_validation import cross_validate
from rayline.train.result import Result
from rayline.train.trainer import Trainer

FEATURES, QUANTILES = ("x", "city", "noise"), (0.1, 0.5, 0.9)

TASKS: Mapping[str, Mapping[str, Any]] = {
    "counts": {"target_columns": ["count"]},
    "amounts": {"target_columns": ["amount"]},
    "quantiles": {"target_columns": ["delay"]},
    "ranking": {"target_columns": ["stars"], "group": "query"},
    "survival": {"target_columns": ["days"], "event": "died"},
}
"""The arguments of a fit for each task."""

LEARNED = {
    "counts": ("test-r2", 0.3),
    "amounts": ("test-r2", 0.3),
    "quantiles": ("test-coverage", 0.6),
    "ranking": ("test-ndcg", 0.85),
    "survival": ("test-concordance", 0.7),
}
"""The metric that shows that something was learned, and the least value."""

BAD_LABELS: Mapping[str, tuple[str, float | None]] = {
    "counts": ("count", -1),
    "amounts": ("amount", 0.0),
    "quantiles": ("delay", None),
    "ranking": ("stars", None),
    "survival": ("days", -1.0),
}
"""A label that no objective of the task can learn."""


def task_table(n: int = 400, seed: int = 0) -> pl.DataFrame:
    """Return features of several kinds with targets of every task that they explain.

    Parameters
    ----------
    n
        The number of rows, a multiple of 8.
    seed
        The same seed gives the same table.

    Returns
    -------
    polars.DataFrame
        One row for each example, without nulls.

    Examples
    --------
    >>> from rayline.testing import task_table
    >>> task_table().columns
    ['x', 'city', 'noise', 'count', 'amount', 'delay', 'stars', 'query', 'days', 'died']
    """
    random = np.random.default_rng(seed)
    x, city = random.normal(size=n), random.choice(["Oslo", "Rome"], n)
    score = x + 0.8 * (city == "Rome")
    time, left = np.exp(1 + score + random.normal(size=n) * 0.3), random.exponential(20, n)
    return pl.DataFrame(
        {
            "x": x,
            "city": city,
            "noise": random.normal(size=n),
            "count": random.poisson(np.exp(0.6 * score + 0.5)),
            "amount": random.gamma(8.0, np.exp(0.6 * score) / 8),
            "delay": 10 * score + random.normal(size=n) * 5,
            "stars": np.digitize(score + random.normal(size=n) * 0.2, [0.0, 1.0, 2.0]),
            "query": random.permutation(np.repeat([f"q{i}" for i in range(n // 8)], 8)),
            "days": np.minimum(time, left),
            "died": time <= left,
        }
    )


def check_task(
    task: str, name: str, *args: Any, ray: bool = False, serve: bool = False, exact: bool = True, **kwargs: Any
) -> None:
    """Run the whole path of a task with a framework; raise AssertionError with the law that it breaks.

    The laws: it learns from tables of every kind the same; predictions have the task's columns; the pipeline is the same after saving
    and loading, through pickle, row by row, and when the native model is chained by hand; labels that no objective can learn
    are refused before the training; an evaluation of the test rows has the metrics of the fit; cross validation and a search keep
    what belongs together in one fold. With `ray` it trains on workers and predicts a Dataset as a table, with `serve`
    a deployment answers the same.

    Parameters
    ----------
    task
        "counts", "amounts", "quantiles" (0.1, 0.5 and 0.9), "ranking" or "survival".
    name, args, kwargs
        The framework and its arguments, as for `train.Trainer`, with an objective of the task.
    ray, serve
        Whether to run the laws that need Ray, and those that need Ray Serve.
    exact
        Whether a row alone is predicted as in a table, to the bit; otherwise within 1e-5.

    Raises
    ------
    AssertionError
        With the law that is broken and what was seen.

    Examples
    --------
    >>> from rayline.testing import check_task
    >>> check_task("counts", "xgboost", {"objective": "count:poisson", "nthread": 1}, num_boost_round=20)
    """
    case = TaskCase(task, name, args, kwargs, exact)
    for law in (*LAWS, *(RAY_LAWS if ray else ()), *(SERVE_LAWS if serve else ())):
        with named_law(name, law.__name__, f" ({task})"):
            law(case)


@dataclass
class TaskCase:
    """A framework with its arguments, and one task."""

    task: str
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    exact: bool

    @property
    def given(self) -> dict[str, Any]:
        return {**TASKS[self.task], "verbose": False}

    @cached_property
    def table(self) -> pl.DataFrame:
        columns = [
            *TASKS[self.task]["target_columns"],
            *(v for k, v in TASKS[self.task].items() if k != "target_columns"),
        ]
        return task_table().select(*FEATURES, *columns)

    @property
    def rows(self) -> pl.DataFrame:
        return self.table.select(FEATURES)

    def trainer(self, **options: Any) -> Trainer:
        return Trainer(
            self.name, *copy.deepcopy(self.args), **{"seed": 1, **copy.deepcopy(dict(self.kwargs)), **options}
        )

    def preprocessor(self) -> Preprocessor:
        stages = {"scale": "StandardScaler", "onehot": "OneHotEncoder"}
        return Preprocessor([(name, registry.stage(stage)()) for name, stage in stages.items()])

    def fit(self, train: Any, test: Any = None, **options: Any) -> Result:
        return self.trainer(**options).fit(self.preprocessor(), train, test, **self.given)

    @cached_property
    def result(self) -> Result:
        return self.fit(self.table, self.table)

    @property
    def pipeline(self) -> InferencePipeline:
        return self.result.inference_pipeline

    @cached_property
    def predicted(self) -> pl.DataFrame:
        predictions: pl.DataFrame = self.pipeline.predict(self.rows)
        return predictions

    def has_learned(self, result: Result) -> None:
        metric, min_score = LEARNED[self.task]
        assert result.metrics[metric] > min_score, f"{metric} is {result.metrics[metric]:.3f}"

    def same(self, actual: pl.DataFrame, why: str, *, bits: bool = True) -> None:
        assert actual.columns == self.predicted.columns, f"{why}: the columns are {actual.columns}"
        one, other = actual.to_numpy(), self.predicted.head(actual.height).to_numpy()
        assert (one == other).all() if bits else np.allclose(one, other, rtol=1e-5, atol=1e-6), why


# -- the laws ----------------------------------------------------------------------------------------------------------


def learns_and_predicts(case: TaskCase) -> None:
    case.has_learned(case.result)
    names = [f"prediction_{q:g}" for q in QUANTILES] if case.task == "quantiles" else ["prediction"]
    assert case.predicted.schema == pl.Schema(dict.fromkeys(names, pl.Float64())), (
        f"it predicts {case.predicted.schema}"
    )
    if case.task in ("counts", "amounts"):
        assert case.predicted["prediction"].min() > 0, "means are not above 0"  # type: ignore[operator]


def tables_of_every_kind_are_the_same(case: TaskCase) -> None:
    for table in (
        case.table.to_pandas(),
        case.table.to_arrow(),
        case.table.lazy(),
        case.table.to_dict(as_series=False),
    ):
        predictions = case.fit(table, table).inference_pipeline.predict(case.rows)
        kind = type(table).__name__
        case.same(predictions, f"a {kind} gives other predictions")


def single_rows_are_the_table(case: TaskCase) -> None:
    predictions = pl.DataFrame(case.pipeline.predict(case.rows.head(3).to_dicts()))
    case.same(predictions, "a row alone is predicted otherwise", bits=case.exact)


def is_saved_and_travels(case: TaskCase) -> None:
    with tempfile.TemporaryDirectory() as folder:
        case.pipeline.save(Path(folder) / "x.rayline")
        options = case.pipeline.model.adapter.load_options(case.pipeline.model.native)
        loaded = load(Path(folder) / "x.rayline", **options)
    case.same(loaded.predict(case.rows), "the loaded pipeline predicts otherwise")
    assert loaded.target == case.pipeline.target, f"the loaded target is {loaded.target}"
    case.same(pickle.loads(pickle.dumps(case.pipeline)).predict(case.rows), "a copy by pickle predicts otherwise")  # noqa: S301
    chained = case.result.preprocessor.chain(case.result.fitted_model)
    case.same(chained.predict(case.rows), "the native model, chained by hand, predicts otherwise")


def wrong_labels_are_refused(case: TaskCase) -> None:
    column, bad = BAD_LABELS[case.task]
    wrong = case.table.with_columns(pl.when(pl.int_range(pl.len()) == 3).then(bad).otherwise(column).alias(column))
    for train, test in ((wrong, case.table), (case.table, wrong)):
        message = ""
        try:
            case.fit(train, test)
        except DataError as error:
            message = str(error)
        assert column in message, (
            f"the label {bad} is not refused" if not message else f"the error does not name {column!r}"
        )


def is_evaluated(case: TaskCase) -> None:
    metric = LEARNED[case.task][0].removeprefix("test-")
    report = case.pipeline.evaluate(case.table, metrics=[metric])
    measured, expected = report.metrics[metric], case.result.metrics[f"test-{metric}"]
    assert np.isclose(measured.value, expected, rtol=1e-9), f"an evaluation gives {measured.value}, the fit {expected}"
    assert measured.low <= measured.value <= measured.high, f"the interval is {measured.low} to {measured.high}"
    assert report.to_markdown(), "the report is empty"


def folds_are_whole(case: TaskCase) -> None:
    scores = cross_validate(case.trainer(), case.preprocessor(), case.table, cv=2, **case.given)
    assert all(np.isfinite(score.mean) for score in scores.metrics.values()), f"the scores are {scores.metrics}"
    predictions = scores.predictions
    assert predictions.height == case.table.height, f"{predictions.height} held-out rows of {case.table.height}"
    if case.task == "ranking":
        assert predictions.group_by("query").agg(pl.col("fold").n_unique())["fold"].max() == 1, "a fold divides a group"


def is_tuned(case: TaskCase) -> None:
    from rayline import tune

    space = {"preprocessor": {"scale": {"with_mean": tune.grid_search([True, False])}}}
    data = {k: v for k, v in case.given.items() if k != "verbose"}
    analysis = tune.run(
        case.trainer(),
        preprocessor=case.preprocessor(),
        train_dataset=case.table,
        config=space,
        cv=2,
        verbose=False,
        **data,
    )
    assert not any(trial.error for trial in analysis.trials), "a trial failed"
    assert analysis.best_inference_pipeline.predict(case.rows).columns == case.predicted.columns
    if case.task == "ranking":
        assert analysis.oof.group_by("query").agg(pl.col("fold").n_unique())["fold"].max() == 1, (
            "a fold divides a group"
        )


# -- on Ray ------------------------------------------------------------------------------------------------------------


def trains_on_workers(case: TaskCase) -> None:
    from rayline.testing.ray_laws import dataset

    adapter, rows = registry.framework(case.name), dataset(case.table)
    n = 2 if adapter.trains_on_workers(*case.args, **case.kwargs) else 1
    case.has_learned(case.fit(rows, rows, num_workers=n))


def predicts_datasets(case: TaskCase) -> None:
    from rayline.testing.ray_laws import dataset

    transformed = case.pipeline.transform(dataset(case.rows))
    predictions = registry.engine_for(transformed).collect(transformed)
    case.same(predictions.select(case.predicted.columns), "a Dataset is predicted otherwise", bits=case.exact)


def is_served(case: TaskCase) -> None:
    from rayline import serve

    deployment = serve.to_deployment(case.pipeline, name=f"check-{case.task}", ray_actor_options={"num_cpus": 0.5})
    with contextlib.ExitStack() as stack:
        deployment.deploy()
        stack.callback(deployment.delete)
        body = json.dumps(case.rows.head(5).to_dicts()).encode()
        request = urllib.request.Request(f"{deployment.url}/predict", body, {"Content-Type": "application/json"})  # noqa: S310  # our own server
        with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
            predictions = json.load(response)["predictions"]
    values = [[*answer.values()] if isinstance(answer, dict) else [answer] for answer in predictions]
    served = pl.DataFrame(values, schema=case.predicted.columns, orient="row")
    case.same(served, "the deployment answers otherwise", bits=case.exact)


Law = Callable[[TaskCase], None]

LAWS: tuple[Law, ...] = (
    learns_and_predicts,
    tables_of_every_kind_are_the_same,
    single_rows_are_the_table,
    is_saved_and_travels,
    wrong_labels_are_refused,
    is_evaluated,
    folds_are_whole,
    is_tuned,
)
RAY_LAWS: tuple[Law, ...] = (trains_on_workers, predicts_datasets)
SERVE_LAWS: tuple[Law, ...] = (is_served,)

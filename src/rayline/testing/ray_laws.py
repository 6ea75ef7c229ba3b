"""The laws of a framework that need Ray: workers, a worker that is killed, tuning, batch inference, serving."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rayline import serve, tune
from rayline.core import registry
from rayline.core.errors import ParameterError
from rayline.core.framework import TrainContext
from rayline.core.scores import has_probabilities
from rayline.data.read import from_polars
from rayline.evaluate import metrics
from rayline.inference.artifact import load
from rayline.testing import common_laws
from rayline.testing.contract_case import FrameworkCase, error_of
from rayline.train.result import Result
from rayline.tune.options import RunOn

KEEP = "RAYLINE_KEEP_WORKERS_S"

BLOCKS = 3
"""Blocks of the datasets: more than workers, so that shares cross them."""

KILLED_IN, EVERY = 3, 2
"""The iteration (counted from 0) in which a worker is killed, and how many there are between checkpoints."""

HEARD_S = 0.5
"""How long a worker lives on before it is killed, so that the driver has heard of its last checkpoint."""


def dataset(table: pl.DataFrame) -> Any:
    """A table as a ray.data.Dataset of a few blocks."""
    return from_polars(list(table.iter_slices(math.ceil(table.height / BLOCKS))))


def _on_workers(
    case: FrameworkCase, *, rows: Any = None, checkpoint_every: int | None = None, **options: Any
) -> Result:
    rows = dataset(case.table) if rows is None else rows
    trainer = case.trainer(scaling=case.scaling(**options), checkpoint_every=checkpoint_every)
    return case.fit(trainer, table=rows, test_dataset=rows)


# -- the laws ----------------------------------------------------------------------------------------------------------


def trains_on_workers(case: FrameworkCase) -> None:
    result = case.shared("on workers", lambda: _on_workers(case))
    heard, expected = result.history["iteration"].to_list(), case.result.history["iteration"].to_list()
    assert heard == expected, f"the history has the iterations {heard}; in process there are {len(expected)}"
    case.has_learned(result.metrics)
    rows = case.rows
    with tempfile.TemporaryDirectory() as folder:
        result.inference_pipeline.save(Path(folder) / "x.rayline")
        options = result.model.adapter.load_options(result.fitted_model)
        loaded = load(Path(folder) / "x.rayline", **options)
    assert loaded.predict(rows).equals(result.inference_pipeline.predict(rows)), "predictions differ after loading"


def measures_the_rows_of_all_workers(case: FrameworkCase) -> None:
    """The metrics of a test set, which workers merge, are those of the model's scores for all of its rows."""
    result = case.shared("on workers", lambda: _on_workers(case))
    target, scores = result.model.target, result.inference_pipeline.scores(case.rows.lazy())
    names = metrics.defaults_of(target, scores)
    for name, expected in metrics.evaluate(names, target, scores, target.truth(case.table)).items():
        measured = result.metrics[f"test-{name}"]
        # Scores that depend on what else is in a batch may swap two rows that are nearly equal.
        assert math.isclose(measured, expected, rel_tol=1e-4 if case.exact else 1e-3, abs_tol=1e-6), (
            f"test-{name} is {measured}, not {expected}"
        )


def refuses_workers_that_it_cannot_use(case: FrameworkCase) -> None:
    if case.adapter.distributed:
        return
    message = error_of(lambda: case.trainer(num_workers=2), ParameterError)
    assert message, "two workers are not refused by the constructor, although distributed = False"
    assert "num_workers" in message, "the error does not name num_workers"


def survives_a_killed_worker(case: FrameworkCase) -> None:
    if case.result.history.height <= KILLED_IN:
        return
    with tempfile.TemporaryDirectory() as folder, _mortal(case, Path(folder)) as name:
        mortal = replace(case, name=name, fits={})
        result = _on_workers(mortal, max_failures=1, checkpoint_every=EVERY)
        begun = [int(path.read_text()) for path in sorted(Path(folder).glob("begun-*"))]
    assert len(begun) == 2, f"there were {len(begun)} groups of workers after one was killed"
    heard = result.history["iteration"].to_list()
    assert heard == case.result.history["iteration"].to_list(), f"the history has the iterations {heard}"
    lost = KILLED_IN + 1 - begun[1]
    assert not case.resumes or lost <= EVERY, f"{lost} iterations were lost, with a checkpoint after each {EVERY}"
    case.has_learned(result.metrics)


def trains_alike_on_kept_workers(case: FrameworkCase) -> None:
    """Workers that have trained before, the last time on the same rows, give what new ones give, to the bit."""
    if not case.adapter.reuses_workers or not case.seeded:
        return
    new = case.shared("on workers", lambda: _on_workers(case))
    with tempfile.TemporaryDirectory() as folder, _counted(case, Path(folder)) as name:
        counted, rows = replace(case, name=name, fits={}), dataset(case.table)
        kept = [_kept_for(600, lambda: _on_workers(counted, rows=rows)) for _ in range(2)]
        n, n_each = len(list(Path(folder).iterdir())), 2 if case.adapter.distributed else 1
    assert n == n_each, f"two trainings on {n_each} workers had {n} processes, and they should share theirs"
    scores = new.inference_pipeline.scores(case.rows.lazy())
    for result in kept:
        assert result.history.equals(new.history), "the history on kept workers is another one than on new ones"
        actual = result.inference_pipeline.scores(case.rows.lazy())
        case.same(actual, scores, bits=True, why="workers that have trained before give another model than new ones")


def tells_what_failed_on_a_worker(case: FrameworkCase) -> None:
    rows = dataset(case.table)
    common_laws.tells_what_failed(case, scaling=case.scaling(), table=rows, test_dataset=None)


def is_tuned(case: FrameworkCase) -> None:
    analysis = case.shared("tuned on Ray", lambda: _tuned(case, "ray", dataset(case.table)))
    assert np.isfinite(analysis.best_score), f"the best score is {analysis.best_score}"
    assert not any(trial.error for trial in analysis.trials), "a trial failed"
    chained = analysis.best_pipeline.chain(analysis.best_model)
    predicted = chained.predict(case.table)["prediction"]
    assert predicted.dtype == case.table.schema[case.target], f"the best pipeline predicts {predicted.dtype}"


def is_tuned_in_this_process_as_on_ray(case: FrameworkCase) -> None:
    """A search over a table in threads of this process has the trials of one on Ray over a Dataset of the same rows, with the
    same scores."""
    if case.trainer().num_workers is not None:
        return
    there = case.shared("tuned on Ray", lambda: _tuned(case, "ray", dataset(case.table)))
    here = _tuned(case, "process", case.table)
    assert [trial.config for trial in here.trials] == [trial.config for trial in there.trials], "other trials"
    for one, other in zip(here.trials, there.trials, strict=True):
        assert not one.error, f"a trial failed in this process: {one.error}"
        case.same(one.scores, other.scores, bits=case.exact, why=f"scores differ with {one.config}")


def is_trained_as_a_population(case: FrameworkCase) -> None:
    """Where it goes on from a checkpoint, and a parameter of its own is searched: the schedule that is found is what a fit
    repeats, with the scores of the search."""
    trainer, searched = case.trainer(), {n: v for n, v in (case.tuned or {}).items() if n != "preprocessor"}
    n = case.adapter.resumable_iterations(*trainer.args, **trainer.kwargs)
    if not searched or n < 2 or case.adapter.validation_argument(*trainer.args, **trainer.kwargs):
        return
    arguments = {"train_pipeline": case.preprocessor(), "train_dataset": case.table, "target_columns": [case.target]}
    population = tune.Population(interval=n // 2, quantile=0.5)
    data = {**arguments, "test_dataset": case.table}
    analysis = tune.run(trainer, data, searched, num_samples=2, scheduler=population, verbose=False)
    assert not any(trial.error for trial in analysis.trials), "a member of a population failed"
    ends = analysis.schedule()["until"].to_list()
    assert ends[-1] == n, f"its schedule ends after {ends[-1]} of {n} iterations"
    result = analysis.best_result
    assert result.history.height == n, f"a fit by the schedule found makes {result.history.height} of {n} iterations"
    measured = result.metrics[f"test-{analysis.metric}"]
    case.same(
        measured, analysis.best_score, bits=False, why="a fit by the schedule found has not the score of the search"
    )


def predicts_datasets(case: FrameworkCase) -> None:
    pipeline = case.result.inference_pipeline
    with_probabilities = case.task != "regression" and _has_probabilities(case)
    transformed = pipeline.transform(dataset(case.table), proba=with_probabilities)
    predictions = registry.engine_for(transformed).collect(transformed)
    expected = pipeline.transform(case.table, proba=with_probabilities)
    assert predictions.columns == expected.columns, f"columns are {predictions.columns}"
    assert predictions.height == expected.height, f"{predictions.height} rows come out of {expected.height}"
    for name in expected.columns:
        if name.startswith(("prediction", "probability_")) and expected[name].dtype.is_float():
            case.same(predictions[name], expected[name], bits=case.exact, why=f"{name!r} differs from the table's")


def evaluates_datasets(case: FrameworkCase) -> None:
    pipeline = case.result.inference_pipeline
    metric = "rmse" if case.task == "regression" else "accuracy"
    here, there = (
        pipeline.evaluate(rows, metrics=[metric], replicates=50).metrics[metric]
        for rows in (case.table, dataset(case.table))
    )
    for name, one, other in zip(here._fields, here, there, strict=True):
        assert abs(one - other) <= 1e-9 * max(1.0, abs(one)), (
            f"{name} of {metric} is {one} of a table, {other} of a Dataset"
        )


def is_served(case: FrameworkCase) -> None:
    pipeline = case.result.inference_pipeline
    request_rows = case.rows.head(7).to_dicts()
    deployment = serve.to_deployment(pipeline, name=f"check-{case.task}", ray_actor_options={"num_cpus": 0.5})
    try:
        deployment.deploy()
        request = urllib.request.Request(  # noqa: S310  # our own server
            f"{deployment.url}/predict", json.dumps(request_rows).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
            predictions = json.load(response)["predictions"]
    finally:
        deployment.delete()
    expected = pipeline.predict(case.rows.head(7))["prediction"].to_list()
    if case.task == "regression":
        case.same(predictions, expected, bits=case.exact, why="the deployment answers otherwise than the table")
    else:
        assert predictions == expected, "the deployment answers otherwise than the table"


def _has_probabilities(case: FrameworkCase) -> bool:
    scores = case.result.model.scores(case.result.preprocessor.transform(case.rows.head(3)).lazy())
    return has_probabilities(scores)


# -- workers that are kept ---------------------------------------------------------------------------------------------


def _kept_for(seconds: float, fit: Callable[[], Result]) -> Result:
    """A fit whose workers are kept for this time."""
    before = os.environ.get(KEEP)
    os.environ[KEEP] = str(seconds)
    try:
        return fit()
    finally:
        os.environ.pop(KEEP)
        if before is not None:
            os.environ[KEEP] = before


def _counted(case: FrameworkCase, folder: Path) -> contextlib.AbstractContextManager[str]:
    """The framework under another name; every process that trains leaves its number."""
    kind = type(case.adapter)

    def train(self: Any, context: TrainContext, *args: Any, **kwargs: Any) -> Any:
        (folder / str(os.getpid())).touch()
        return kind.train(self, context, *args, **kwargs)

    return common_laws.standing_in(case, "counted", train)


# -- a search -----------------------------------------------------------------------------------------------------------


def _tuned(case: FrameworkCase, run_on: RunOn, rows: Any) -> tune.Analysis:
    """Two trials of two folds, over parameters of the trainer and of a stage where there are both."""
    space = case.preprocessor_space
    if case.tuned is not None:
        stages = {"impute": {"strategy": tune.choice(["mean", "median"])}}
        space = {**({"preprocessor": stages} if space else {}), **case.tuned}
    arguments = {"train_pipeline": case.preprocessor(), "train_dataset": rows, "cv": 2, "target_columns": [case.target]}
    metric = None if case.task == "regression" or _has_probabilities(case) else "accuracy"
    return tune.run(case.trainer(), arguments, space, metric, num_samples=1, run_on=run_on, verbose=False)


# -- a framework that dies once ----------------------------------------------------------------------------------------


def _mortal(case: FrameworkCase, folder: Path) -> contextlib.AbstractContextManager[str]:
    """The framework under another name, whose last rank kills itself once; each group tells where it begins."""
    kind = type(case.adapter)

    def train(self: Any, context: TrainContext, *args: Any, **kwargs: Any) -> Any:
        is_last, marker, original_report = context.rank == context.world_size - 1, folder / "killed", context.report
        begun = folder / f"begun-{int(marker.exists())}"

        def report(iteration: int, metrics: Mapping[str, float]) -> bool:
            if is_last and not begun.exists():
                begun.write_text(str(iteration))
            if is_last and iteration == KILLED_IN and not marker.exists():
                marker.touch()
                time.sleep(HEARD_S)
                os.kill(os.getpid(), signal.SIGKILL)
            return original_report(iteration, metrics)

        return kind.train(self, replace(context, report=report), *args, **kwargs)

    return common_laws.standing_in(case, "that-dies", train)


LAWS_OF_WORKERS = (
    trains_on_workers,
    measures_the_rows_of_all_workers,
    survives_a_killed_worker,
    tells_what_failed_on_a_worker,
)
"""Those that hold on each backend of workers."""

LAWS = (
    *LAWS_OF_WORKERS,
    trains_alike_on_kept_workers,
    refuses_workers_that_it_cannot_use,
    is_tuned,
    is_tuned_in_this_process_as_on_ray,
    is_trained_as_a_population,
    predicts_datasets,
    evaluates_datasets,
)

SERVE_LAWS = (is_served,)

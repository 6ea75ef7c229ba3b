"""The contract of a framework, executable: `check_framework` runs the whole path with it, on small tables."""

from __future__ import annotations

import copy
import pickle
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rayline.core import abilities, registry
from rayline.core.errors import ParameterError, RaylineError
from rayline.core.features import Features
from rayline.core.framework import Rows, TrainContext
from rayline.core.scores import has_probabilities
from rayline.core.target import Task
from rayline.inference.artifact import load
from rayline.inference.model import Model
from rayline.inference.pipeline import Preprocessor
from rayline.testing import ability_laws, common_laws, device_laws, features
from rayline.testing.contract_case import EnvironmentCase, FrameworkCase, error_of, named_law
from rayline.train.callbacks import Callback, Run
from rayline.train.result import Result
from rayline.train.trainer import Trainer


def check_framework(
    name: str,
    *args: Any,
    tasks: Sequence[str] = ("binary", "multiclass", "regression"),
    by_task: Mapping[str, Mapping[str, Any]] | None = None,
    learns: bool = True,
    exact: bool = True,
    seeded: bool = True,
    weights: bool = True,
    resumes: bool = True,
    tuned: Mapping[str, Any] | None = None,
    native_predict: Callable[[Any, Any], Any] | None = None,
    ray: bool = False,
    serve: bool = False,
    ray_train: bool = False,
    in_process: bool = True,
    **kwargs: Any,
) -> None:
    """Run the whole path with a framework; raise AssertionError with the law that it breaks.

    The laws in this process: it trains on preprocessed rows, predictions come back in the labels' own type and probabilities lie
    between 0 and 1 and add up to 1; the pipeline is the same after saving and loading, after a trip through pickle, and
    when the native model is chained by hand; predictions are those of the native model; one row gives what it gives in a table; the same seed gives the same
    predictions, whether anyone reads the metrics of its iterations or not; rows of almost no weight teach nothing, and weights of classes are weights of their rows; target stages are undone in predictions and metrics; names of columns and of categories mean nothing, and with any of them what is trained is saved, loaded and
    chained by hand; numbers of every type are learned from, other types refused by name; a vector is its elements as columns,
    also beside categories; metrics by name
    are scikit-learn's of the very predictions that users get; a callback gets every iteration of the history,
    and can stop it; where it says that it is resumable, a training in two parts is one without a break; wrong parameters and a GPU that is not there are refused before training; with a GPU the model is put there once, batches go
    there and results come back, or `use_gpu=True` is refused; the framework's own error
    reaches the user; arguments are never modified. For a framework that generates its own data, the laws that need no rows.

    The laws on Ray, with `ray=True` (half a minute for a task): it trains on two workers, or on one and refuses two with
    reasons; a worker killed in mid-training costs at most one checkpoint interval; `tune.run` with cross validation ends
    in a pipeline, and so does population based training where it is resumable and `tuned` has a parameter of its own; an error on a worker reaches the user with its rank and its cause; batch inference gives what the table gives; and with `serve=True` a deployment answers the same.

    Parameters
    ----------
    name, args, kwargs
        The framework and its arguments, as for `train.Trainer`, with so few iterations that a fit takes well under a second.
    tasks
        The tasks that it supports.
    by_task
        Further keyword arguments for single tasks, as {"multiclass": {"objective": "softmax"}}.
    learns
        Whether it finds a simple pattern: its error must be half that of guessing.
    exact
        Whether the prediction of a single row equals that in a table to the bit; otherwise within 1e-5.
    seeded
        Whether the same seed gives the same model.
    weights
        Whether it uses sample weights.
    resumes
        Whether a training resumes from a checkpoint; otherwise it restarts when a worker is lost.
    tuned
        A search space for `tune.run`; when omitted, the strategy of the imputation is tuned.
    native_predict
        `native_predict(model, matrix)` returns the library's own predictions (class codes or values) for a float64 matrix of
        preprocessed rows. Predictions must agree: exactly in a classification, within 1e-5 in a regression.
    ray, serve
        Whether to run the laws that need Ray, and those that need Ray Serve.
    ray_train
        Whether to run the laws of workers under Ray Train too.
    in_process
        Whether to run the laws in this process; a test suite that has run them for a task does not repeat them on Ray.

    Raises
    ------
    AssertionError
        With the law that is broken and what was seen.

    Examples
    --------
    >>> from rayline.testing import check_framework
    >>> check_framework("xgboost", {"nthread": 1}, num_boost_round=20, tasks=["regression"])
    """
    from rayline.testing import ray_laws  # imports Ray, which the others do not need

    generates_data = abilities.OwnEnvironment in abilities.abilities_of(type(registry.framework(name)))
    of_rows = (*LAWS_OF_ROWS, *common_laws.LAWS_OF_ROWS, *ability_laws.LAWS_OF_ROWS, *features.LAWS_OF_ROWS)
    local = (*LAWS, *common_laws.LAWS, *device_laws.LAWS, *ability_laws.LAWS, *(() if generates_data else of_rows))
    laws = (
        *(local if in_process else ()),
        *(ray_laws.LAWS if ray and not generates_data else ()),
        *(ray_laws.SERVE_LAWS if serve else ()),
    )
    for task in ("actions",) if generates_data else tasks:
        more = (by_task or {}).get(task, {})
        make = EnvironmentCase if generates_data else FrameworkCase
        case = make(
            name, args, {**kwargs, **more}, task, learns, exact, seeded, weights, resumes, tuned, native_predict,
            is_first=generates_data or task == tasks[0],
        )  # fmt: skip
        under_train = replace(case, backend="ray_train", fits={})
        checks = [
            *((law, case) for law in laws),
            *((law, under_train) for law in ray_laws.LAWS_OF_WORKERS if ray_train),
        ]
        for law, of in checks:
            what = task if of is case else f"{task}, under Ray Train"
            with named_law(name, law.__name__, f" ({what})"):
                law(of)


# -- the laws ----------------------------------------------------------------------------------------------------------


def is_registered(case: FrameworkCase) -> None:
    adapter = case.adapter
    assert adapter.name == case.name, f"its class says name = {adapter.name!r}"
    assert not adapter.owns(object()), "it owns everything"


def refuses_wrong_parameters(case: FrameworkCase) -> None:
    message = error_of(lambda: case.trainer(no_such_parameter_=1), ParameterError)
    assert message, "an unknown parameter is not refused by the constructor"
    assert "no_such_parameter_" in message, "the error does not name the parameter"


def trains_and_decodes(case: FrameworkCase) -> None:
    result, table = case.result, case.table
    assert str(result.model.target.task) == case.task, f"the labels make it a {result.model.target.task}"
    predicted = result.inference_pipeline.predict(table)["prediction"]
    assert predicted.dtype == table.schema[case.target], f"predictions are {predicted.dtype}"
    assert len(predicted) == table.height, "it does not predict every row"
    scores = result.model.scores(result.preprocessor.transform(case.rows).lazy())
    if result.model.target.task is Task.REGRESSION or not has_probabilities(scores):
        return
    proba = result.inference_pipeline.predict_proba(table).to_numpy()
    assert ((proba >= 0) & (proba <= 1)).all(), "probabilities are not between 0 and 1"
    assert np.allclose(proba.sum(axis=1), 1, atol=1e-5), "probabilities do not add up to 1"
    labels = np.array(result.model.classes)[proba.argmax(axis=1)]
    certain = np.sort(proba, axis=1)[:, -1] - np.sort(proba, axis=1)[:, -2] > 1e-6
    likeliest = (labels == predicted.to_numpy())[certain].all()
    assert likeliest or scores.dtype.names, "predictions are not the likeliest classes"


def learns_something(case: FrameworkCase) -> None:
    case.has_learned(case.result.metrics)


def predicts_as_the_native_model(case: FrameworkCase) -> None:
    if case.native_predict is None:
        return
    model, table = case.result.model, case.preprocessed
    expected = np.asarray(case.native_predict(model.native, Features(table, schema=model.schema).matrix(np.float64)))
    scores = model.scores(table.lazy())
    if model.target.task is Task.REGRESSION:
        case.same(scores.ravel(), expected.ravel(), bits=False, why="values are not those of the native model")
    else:
        codes = model.target.codes(scores)[0]
        assert (codes == expected.ravel()).all(), "labels are not those of the native model"


def answers_as_it_says(case: FrameworkCase) -> None:
    result, rows = case.result, case.rows
    predicted = result.inference_pipeline.predict(rows)
    assert predicted.columns == result.model.target.prediction_names, f"predictions are called {predicted.columns}"
    assert predicted.schema == result.inference_pipeline.output_schema, "the output schema says other types"
    assert predicted.height == rows.height, "it does not predict every row"
    assert not any(predicted.null_count().row(0)), "some rows have no prediction"


def chains(case: FrameworkCase) -> None:
    result = case.result
    expected = result.inference_pipeline.predict(case.rows)
    assert result.preprocessor.chain(result.model).predict(case.rows).equals(expected), "chain(model) differs"
    if result.model.adapter.owns(result.model.native):
        assert result.preprocessor.chain(result.model.native).predict(case.rows).equals(expected), (
            "chain(native) differs"
        )


def single_rows_are_the_table(case: FrameworkCase) -> None:
    model, transformed = case.result.model, case.preprocessed
    whole = model.scores(transformed.lazy())
    for n in (1, 7):
        case.same(model.scores(transformed.head(n).lazy()), whole[:n], bits=case.exact, why=f"a table of {n} differs")
    ones = np.concatenate([model.row_scores(row) for row in transformed.head(20).to_dicts()])
    case.same(ones, whole[:20], bits=case.exact, why="single rows differ from the table")


def is_saved_and_loaded(case: FrameworkCase) -> None:
    pipeline = case.result.inference_pipeline
    expected = pipeline.scores(case.rows.lazy())
    with tempfile.TemporaryDirectory() as folder:
        pipeline.save(Path(folder) / "x.rayline")
        native = pipeline.model.native
        loaded = load(Path(folder) / "x.rayline", **pipeline.model.adapter.load_options(native))
    case.same(loaded.scores(case.rows.lazy()), expected, bits=True, why="scores differ after loading")
    assert loaded.predict(case.rows).equals(pipeline.predict(case.rows)), "predictions differ after loading"


def travels(case: FrameworkCase) -> None:
    model: Model = pickle.loads(pickle.dumps(case.result.model))  # noqa: S301  # our own bytes
    transformed = case.preprocessed.lazy()
    case.same(
        model.scores(transformed), case.result.model.scores(transformed), bits=True, why="scores differ after pickle"
    )
    assert repr(pickle.loads(pickle.dumps(case.trainer()))) == repr(case.trainer()), "the trainer differs"  # noqa: S301


def _repeated(case: FrameworkCase) -> tuple[Result, bool]:
    """The same fit once more, and whether the caller's arguments are what they were."""

    def fit() -> tuple[Result, bool]:
        args, kwargs = copy.deepcopy(case.args), copy.deepcopy(case.kwargs)
        before = repr(args), repr(kwargs)
        result = case.fit(Trainer(case.name, *args, **{"seed": 1, **kwargs}))
        return result, (repr(args), repr(kwargs)) == before

    return case.shared("repeated", fit)


def repeats_itself(case: FrameworkCase) -> None:
    if not case.seeded:
        return
    again, _ = _repeated(case)
    rows = case.rows.lazy()
    one, two = case.result.inference_pipeline.scores(rows), again.inference_pipeline.scores(rows)
    case.same(one, two, bits=True, why="the same seed gives other predictions")
    assert again.history.equals(case.result.history), "the same seed gives another history"


class _Count(Callback):
    heard = 0

    def on_iteration(self, run: Run, iteration: int, metrics: Mapping[str, float]) -> bool:
        self.heard += 1
        return False


def goes_on_from_a_checkpoint(case: FrameworkCase) -> None:
    trainer = case.trainer()
    n = case.adapter.resumable_iterations(*trainer.args, **trainer.kwargs)
    if n < 2 or not case.seeded or case.adapter.validation_argument(*trainer.args, **trainer.kwargs):
        return
    straight, count = case.result.history, _Count()
    halves = case.fit(trainer.scheduled([(n // 2, {}), (n, {})]), callbacks=[count]).history
    assert count.heard == n, (
        f"it says that it makes {n} iterations and goes on from a checkpoint; it made {count.heard}"
    )
    assert halves.head(n // 2).equals(straight.head(n // 2)), "the first part is not what it is without a break"
    assert halves.height == straight.height == n, f"the history has {halves.height} iterations"
    for name in straight.columns:
        one, two = straight[name].to_numpy(), halves[name].to_numpy()
        way = abs(one[-1] - one[0])  # random numbers may differ in the second part
        assert (np.abs(one - two) <= way / 4 + 1e-6).all(), f"{name} does not go on from where the first part ended"


def learns_the_same_unwatched(case: FrameworkCase) -> None:
    trainer, model = case.trainer(), case.result.model
    if not case.seeded or case.adapter.validation_argument(*trainer.args, **trainer.kwargs):
        return
    table = case.result.preprocessor.transform(case.table)

    def learned(*, log_train_metrics: bool) -> tuple[Any, list[int]]:
        without_metrics: list[int] = []

        def report(iteration: int, _: Mapping[str, float]) -> bool:
            without_metrics.append(iteration)
            return False

        rows = Rows.of(table, model.schema, model.target)
        context = TrainContext(rows, None, model.target, seed=1, log_train_metrics=log_train_metrics, report=report)
        trained = case.adapter.train(context, *trainer.args, **trainer.kwargs)
        return case.adapter.predict(trained, rows.features), without_metrics

    (one, with_metrics), (two, without_metrics) = learned(log_train_metrics=True), learned(log_train_metrics=False)
    assert with_metrics == without_metrics, "it reports other iterations when its metrics are not read"
    case.same(one, two, bits=True, why="it learns another model when its metrics are not read")


class _Stop(Callback):
    heard = 0

    def on_iteration(self, run: Run, iteration: int, metrics: Mapping[str, float]) -> bool:
        self.heard += 1
        return self.heard == 2


def is_heard_and_stopped(case: FrameworkCase) -> None:
    height = case.result.history.height
    stop = _Stop()
    stopped = case.fit(callbacks=[stop])
    assert stopped.history.height == min(height, 2) == stop.heard, "a callback does not stop the training"
    assert stopped.history.equals(case.result.history.head(2)), "the first iterations differ"


def changes_nothing_of_the_callers(case: FrameworkCase) -> None:
    _, kept = _repeated(case)
    assert kept, "arguments were changed"


def leaves_the_table_alone(case: FrameworkCase) -> None:
    _repeated(case)
    assert case.table.equals(replace(case, fits={}).table), "the table was changed"


def takes_any_name_of_a_column(case: FrameworkCase) -> None:
    names = ["^.*$", "*", "", 'a "b"\t{c}', "[é] < 1, 2"]
    renamed = dict(zip(case.rows.columns, names, strict=False))
    result = case.fit(table=case.table.rename(renamed))
    before, scores = case.rows, result.inference_pipeline.scores
    after = scores(before.rename(renamed).lazy())
    if case.seeded:
        expected = case.result.inference_pipeline.scores(before.lazy())
        case.same(after, expected, bits=True, why="with other names of the columns it learns something else")
    one = result.inference_pipeline.predict(before.head(1).rename(renamed).to_dicts())
    assert len(one) == 1, "it does not predict a row with such names"


def says_what_it_cannot_use(case: FrameworkCase) -> None:
    adapter = case.adapter
    if adapter.string_features == "refuse":
        message = error_of(
            lambda: case.trainer().fit(None, case.table, None, [case.target], verbose=False), RaylineError
        )
        assert message, "strings are not refused, although strings = 'refuse'"
        assert "'city'" in message, "the error does not name the column"
    if adapter.string_features == "categories":
        numbers = Preprocessor([("impute", registry.stage("SimpleImputer")())])
        result = case.trainer().fit(numbers, case.table, None, [case.target], verbose=False)
        known = result.inference_pipeline.predict(case.rows.with_columns(city=pl.lit("Oslo")))
        strange, missing = (
            result.inference_pipeline.model.scores(
                result.preprocessor.transform(case.rows).with_columns(city=pl.lit(value, pl.String)).lazy()
            )
            for value in ("Atlantis", None)
        )
        assert known.height == case.table.height
        case.same(strange, missing, bits=True, why="a category that was not trained on is not a missing one")


def learns_behind_target_stages(case: FrameworkCase) -> None:
    truth = case.table[case.target]
    classes = sorted(set(truth.to_list()), reverse=True)
    stage = (
        registry.stage("StandardScaler")()
        if case.task == "regression"
        else registry.stage("LabelEncoder")(classes=classes)
    )
    preprocessor = Preprocessor(case.preprocessor().stages, target_stages=[("target", stage)])
    result = case.trainer().fit(preprocessor, case.table, case.table, [case.target], verbose=False)
    case.has_learned(result.metrics)
    predicted = result.inference_pipeline.predict(case.rows)["prediction"]
    assert predicted.dtype == truth.dtype, f"predictions are {predicted.dtype}"
    if case.task == "regression":
        rmse = float(np.sqrt(np.mean((predicted.to_numpy() - truth.to_numpy()) ** 2)))
        assert np.isclose(result.metrics["test-rmse"], rmse, rtol=1e-6), "the metrics are not on the labels' scale"
    else:
        assert result.model.classes == classes, f"the classes are {result.model.classes}, not {classes}"


LAWS = (
    is_registered,
    refuses_wrong_parameters,
    answers_as_it_says,
    single_rows_are_the_table,
    is_saved_and_loaded,
    travels,
    repeats_itself,
    goes_on_from_a_checkpoint,
    is_heard_and_stopped,
    changes_nothing_of_the_callers,
)
LAWS_OF_ROWS = (
    trains_and_decodes,
    learns_something,
    predicts_as_the_native_model,
    learns_the_same_unwatched,
    chains,
    learns_behind_target_stages,
    leaves_the_table_alone,
    takes_any_name_of_a_column,
    says_what_it_cannot_use,
)
"""Those of frameworks that are given data."""

"""The laws of optional abilities, and which law checks which ability."""

from __future__ import annotations

import importlib.util
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from rayline.core import abilities
from rayline.core.errors import ParameterError
from rayline.core.features import Features
from rayline.core.target import Task
from rayline.postprocess.base import plain_values
from rayline.preprocessing.schema_check import SchemaCheck
from rayline.testing.contract_case import FrameworkCase, error_of


def _features(case: FrameworkCase) -> Features:
    schema, table = case.result.model.schema, case.preprocessed.lazy()
    return Features(SchemaCheck(schema, "check_framework")(table).select(list(schema)).collect(), schema=schema)


def uses_an_iteration_of_its_history(case: FrameworkCase) -> None:
    best, trainer = case.adapter.best_iteration(case.result.fitted_model), case.trainer()
    n = case.result.history.height
    assert best is None or 0 <= best < n, f"its predictions use iteration {best}, and the history has {n}"
    needed = case.adapter.validation_argument(*trainer.args, **trainer.kwargs)
    if needed:
        message = error_of(lambda: case.fit(test_dataset=None), ParameterError)
        assert needed in message, f"{needed} without a test set is not refused by name"


def owns_its_own_callbacks_only(case: FrameworkCase) -> None:
    assert not case.adapter.owns_callback(object()), "it owns every callback"
    assert not case.adapter.records(object()), "it takes every callback for a recorder"
    assert error_of(lambda: case.fit(callbacks=[object()]), ParameterError), "an unknown callback is not refused"


def ranks_its_features(case: FrameworkCase) -> None:
    shares = case.result.model.importance()
    if shares is None:
        return
    strange = sorted(set(shares) - set(case.result.model.feature_names))
    assert not strange, f"importance names {strange[:3]}, which are no features"
    assert all(math.isfinite(value) and value >= 0 for value in shares.values()), f"importance is {shares}"
    assert not case.learns or max(shares.values(), default=0) > 0, "no feature is important to a model that has learned"


def explains_its_scores(case: FrameworkCase) -> None:
    """The contributions add up to the score, and a larger score is a larger prediction."""
    pipeline, rows = case.result.inference_pipeline, case.rows.head(4)
    target, columns = pipeline.model.target, list(pipeline.input_schema)
    explained = pipeline.explain(rows, background=case.rows.head(3), prefix="why_")
    for suffix in [""] if len(target.columns) == 1 else [f"_{column}" for column in target.columns]:
        parts = explained.select(f"why_{name}{suffix}" for name in [*columns, "base_value"]).to_numpy()
        scores = explained[f"why_score{suffix}"].to_numpy()
        wrong = np.abs(parts.sum(axis=1) - scores).max()
        assert wrong <= 1e-6, f"contributions differ from the score by {wrong}"
    if len(target.columns) > 1 or target.task is Task.MULTICLASS:
        return
    predictions = plain_values(pipeline.model_scores(rows.lazy()), target.plain)[:, 0]
    order = np.argsort(predictions, kind="stable")
    steps = np.diff(scores[order])[np.diff(predictions[order]) > 1e-6]
    assert (steps > -1e-6).all(), f"scores {scores.tolist()} do not rise with the predictions {predictions.tolist()}"


def is_the_mean_of_its_members(case: FrameworkCase) -> None:
    native, target, features = case.result.fitted_model, case.result.model.target, _features(case)
    members = case.adapter.members(native, features, target)
    if members is None:
        return
    n_targets = len(target.columns)
    assert members.shape[::2] == (features.n_rows, n_targets), f"members have the shape {members.shape}"
    values = np.asarray(target.values(case.adapter.scores(native, features, target))).reshape(-1, n_targets)
    case.same(members.mean(axis=1), values, bits=False, why="the mean of the members is not the prediction")


def needs_more_memory_for_more_rows(case: FrameworkCase) -> None:
    trainer = case.trainer()
    few, many = (case.adapter.memory_bytes(n, 10, 1, *trainer.args, **trainer.kwargs) for n in (1_000, 1_000_000))
    assert 0 <= few <= many, f"it needs {few} bytes for 1,000 rows and {many} for 1,000,000"


def is_exported_or_says_why(case: FrameworkCase) -> None:
    """`to_onnx` compares the graph with the pipeline itself."""
    if importlib.util.find_spec("onnx") is None or importlib.util.find_spec("onnxruntime") is None:
        return
    from rayline.onnx import to_onnx  # onnx is optional

    if abilities.OnnxExport not in abilities.abilities_of(type(case.adapter)):
        message = error_of(lambda: case.adapter.to_onnx(case.result.fitted_model, 1), ParameterError)
        assert "to_onnx" in message, "a framework without a form in ONNX does not say so"
        return
    message = error_of(lambda: to_onnx(case.result.inference_pipeline), ParameterError)
    assert not message or "to_onnx" in message, f"the error does not say what failed: {message}"


def trains_in_threads_alike(case: FrameworkCase) -> None:
    if not case.adapter.thread_safe_training or not case.seeded:
        return
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(case.fit) for _ in range(2)]
        scores = [future.result().inference_pipeline.scores(case.rows.lazy()) for future in futures]
    alone = case.result.inference_pipeline.scores(case.rows.lazy())
    for other in scores:
        case.same(other, alone, bits=True, why="two trainings at the same time give other models than one alone")


def describes_its_environment(case: FrameworkCase) -> None:
    if abilities.OwnEnvironment not in abilities.abilities_of(type(case.adapter)):
        return
    trainer, result = case.trainer(), case.result
    spec = case.adapter.environment_spec(*trainer.args, **trainer.kwargs)
    assert spec.examples.schema == spec.features, "its examples have not the types of its features"
    assert result.model.target.columns == spec.target.columns, "a model predicts something else than the action"
    assert spec.metric in result.history.columns, f"{spec.metric!r} is not in the history {result.history.columns}"


LAWS = (describes_its_environment, owns_its_own_callbacks_only, needs_more_memory_for_more_rows)
"""Of every framework."""

LAWS_OF_ROWS = (
    trains_in_threads_alike,
    uses_an_iteration_of_its_history,
    ranks_its_features,
    explains_its_scores,
    is_the_mean_of_its_members,
    is_exported_or_says_why,
)
"""Of those that are given data."""

CHECKED_BY: dict[type[abilities.Ability], tuple[str, ...]] = {
    abilities.TrainerArguments: ("refuses_wrong_parameters", "is_tuned"),
    abilities.TargetSupport: ("trains_and_decodes", "answers_as_it_says", "takes_columns_of_any_type"),
    abilities.DistributedTraining: ("trains_on_workers", "refuses_workers_that_it_cannot_use", "survives_a_killed_worker", "trains_alike_on_kept_workers"),
    abilities.ConcurrentTraining: ("trains_in_threads_alike",),
    abilities.ResumableTraining: ("goes_on_from_a_checkpoint", "is_trained_as_a_population"),
    abilities.EarlyStoppingSupport: ("uses_an_iteration_of_its_history",),
    abilities.NativeModels: ("chains", "travels"),
    abilities.NativeCallbacks: ("owns_its_own_callbacks_only",),
    abilities.SingleRowServing: ("single_rows_are_the_table",),
    abilities.OnnxExport: ("is_exported_or_says_why",),
    abilities.FeatureImportance: ("ranks_its_features",),
    abilities.ScoreContributions: ("explains_its_scores",),
    abilities.EnsembleMembers: ("is_the_mean_of_its_members",),
    abilities.MemoryBound: ("needs_more_memory_for_more_rows",),
    abilities.GpuComputing: ("trains_on_a_gpu_or_refuses_it", "predicts_on_a_gpu_or_refuses_it", "is_loaded_onto_a_gpu"),
    abilities.OwnEnvironment: ("describes_its_environment",),
}  # fmt: skip
"""The laws of each ability, by name. Of a framework that generates its own data all laws that need no rows hold."""

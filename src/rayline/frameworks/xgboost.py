"""XGBoost: `train.XGBoostTrainer` takes the arguments of `xgboost.train`, without the data."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xgboost
from scipy import special
from xgboost.callback import TrainingCallback

from rayline.core import adapters, row_stream
from rayline.core.abilities import FeatureContributions
from rayline.core.errors import ParameterError, needing
from rayline.core.features import Array, Features
from rayline.core.framework import Framework, ModelInfo, TrainContext
from rayline.core.objective import Objective
from rayline.core.target import Target, Task
from rayline.device import CPU, Device, device_of, in_batches, placed, select_device, trained_on
from rayline.frameworks import xgboost_params, xgboost_predict
from rayline.frameworks.verify import xgboost_model
from rayline.frameworks.xgboost_matrix import (
    NAMES,
    bin_bytes,
    keeps_bins,
    matrices,
    on_any_rank,
    without_names,
)
from rayline.frameworks.xgboost_metrics import XGBoostMetrics
from rayline.frameworks.xgboost_params import of_features
from rayline.frameworks.xgboost_predict import scores

OF_CLASSES = ("multi:softmax", "binary:hinge")
"""Objectives whose models predict classes without probabilities."""

BY_NAME = {"monotone_constraints", "interaction_constraints"}
"""Parameters that may name features."""

PREDICT_ROWS = 1 << 16

OUTPUT_BYTES = 12
"""Bytes of the gradient and the prediction of each output of a row."""

ON_CPU = {
    "device": ("cpu",),
    "booster": ("gblinear",),
    "tree_method": ("exact",),
    "updater": ("shotgun", "coord_descent"),
}
"""Parameters whose values compute on the CPU, whatever the device is."""


class XGBoost(Framework):
    """The adapter of `train.XGBoostTrainer`, which describes the arguments.

    Workers read their rows block by block and keep only their bins (`tree_method="hist"`, the default): features × rows bytes up to
    256 bins; so does a training in this process on more than 64 MiB, whose trees are the same to the bit. Where bins take more than
    half of the free memory they are kept on disk.
    """

    name = "xgboost"
    thread_safe_training = True
    package = "xgboost-cpu"
    string_features = "categories"
    distributed = True
    reuses_workers = True
    trains_on_gpu = True
    predicts_on_gpu = True
    max_label = 1e18  # XGBoost squares their sums in single precision
    iterations = "num_boost_round"

    def train(
        self,
        context: TrainContext,
        params: Mapping[str, Any] | None = None,
        num_boost_round: int = 10,
        *,
        obj: Callable[..., Any] | None = None,
        maximize: bool | None = None,
        early_stopping_rounds: int | None = None,
        verbose_eval: bool | int = False,
        xgb_model: Any = None,
        callbacks: Sequence[Any] | None = None,
        custom_metric: Callable[..., Any] | None = None,
    ) -> Any:
        params, context = self._params(context, params or {}), context.in_groups()
        gpu = Device(params["device"], is_gpu=True) if context.use_gpu else CPU
        distributed = context.world_size > 1
        with _communicator(context) if distributed else contextlib.nullcontext(), contextlib.ExitStack() as held:
            train, sets = matrices(context, params, gpu, held, continues=xgb_model is not None)
            everyone = XGBoostMetrics(context, sets, params, custom_metric) if distributed else None
            if xgb_model is not None:
                # Forget the best iteration of an earlier training: it must not cut off the trees added now.
                xgb_model = xgboost.Booster(model_file=xgb_model)
                xgb_model.set_attr(best_iteration=None, best_score=None)
            named: Callable[[Any], Any] = _unchanged
            if not (obj or custom_metric or callbacks or xgb_model is not None or BY_NAME & {*params}):
                named = held.enter_context(
                    without_names([train, *(data for data in sets.values() if data is not train)])
                )
            if context.resume is not None:
                xgb_model = self.load(context.resume)
                num_boost_round -= xgb_model.num_boosted_rounds()
                if named is not _unchanged:
                    xgb_model.feature_names = None
            booster = xgboost.train(
                params,
                train,
                num_boost_round,
                evals=[(data, name) for name, data in sets.items()],
                obj=obj,
                maximize=maximize,
                early_stopping_rounds=early_stopping_rounds,
                verbose_eval=verbose_eval and context.rank == 0,
                xgb_model=xgb_model,
                callbacks=[
                    _XGBoostReporter(context, lambda model, to: self.save(named(model.copy()), to), everyone),
                    *(callbacks or ()),
                ],  # first: no callback is called after one that stops the training
                custom_metric=custom_metric if everyone is None else everyone.function,
            )
            return trained_on(gpu, named(booster))

    def _params(self, context: TrainContext, user_params: Mapping[str, Any]) -> dict[str, Any]:
        params = dict(user_params)
        if context.target.task.is_classification and "objective" not in params:
            params["objective"] = "binary:logistic" if context.target.task is Task.BINARY else "multi:softprob"
        if params.get("objective") == "binary:logitraw" and "eval_metric" not in params:
            params["eval_metric"] = "auc"  # the default metric treats raw scores as probabilities
        if context.target.task is Task.MULTICLASS:
            params.setdefault("num_class", len(context.target.classes[0]))
        if context.seed is not None and not {"seed", "random_state"} & {*params}:
            params["seed"] = context.seed
        if not {"nthread", "n_jobs"} & {*params}:
            params["nthread"] = context.n_threads
        if context.use_gpu:
            params["device"] = str(params.get("device", select_device(True).name))
        of_features(params, context)
        return params

    def predict(self, model: Any, features: Features) -> Array:
        best = self.best_iteration(model)
        objective, booster = _kind(model)
        until, linear = 0 if best is None else best + 1, booster == "gblinear"
        # A matrix is faster to read than columns unless it is too large.
        zeros = (
            features.has_vectors and model.feature_types is not None
        )  # a model trained on a sparse matrix has no feature types
        gpu = device_of(model)

        def on_gpu(rows: slice) -> Array:
            part = Features(features.table[rows], schema=features.schema)
            return xgboost_predict.scores_on_gpu(model, part.matrix(zeros=zeros), until, gpu)

        if gpu.is_gpu:
            parts = in_batches(
                features.n_rows, PREDICT_ROWS, on_gpu,
                device=gpu, model=model, model_bytes=lambda: len(model.save_raw()),
            )  # fmt: skip
        else:
            parts = [scores(model, p.matrix(zeros=zeros), until, linear=linear) for p in features.pieces(PREDICT_ROWS)]
        predicted = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if objective == "binary:logitraw":
            return np.asarray(special.expit(predicted.astype(np.float64)))
        return predicted.astype(np.int64) if objective in OF_CLASSES else predicted

    def place(self, model: Any, device: Any) -> Any:
        return placed(model, device, lambda copied: copied.set_param({"device": device.name}))

    def single_row_view(self, model: Any) -> Any:
        if device_of(model).is_gpu:
            return model
        single = model.copy()
        single.set_param({"nthread": 1})
        return single

    def save(self, model: Any, directory: Path) -> None:
        model.save_model(directory / "model.ubj")

    def load(self, directory: Path) -> Any:
        content = adapters.model_file(directory, "model.ubj", "XGBoost model").read_bytes()
        xgboost_model.check(content)
        with adapters.reading("XGBoost model", xgboost.core.XGBoostError, text=xgboost_params.error_message):
            return xgboost.Booster(model_file=bytearray(content))

    def owns(self, model: Any) -> bool:
        return isinstance(model, xgboost.Booster)

    def inspect(self, model: Any) -> ModelInfo:
        config = json.loads(model.save_config())["learner"]
        shape = config["learner_model_param"]
        alpha = json.loads(config["objective"].get("quantile_loss_param", {}).get("quantile_alpha", "[]"))
        about = xgboost_params.objective({"objective": config["objective"]["name"], "quantile_alpha": alpha or None})
        assert isinstance(about.task, Task)
        names = None if model.feature_names is None else [NAMES.restore(name) for name in model.feature_names]
        target = Target.unnamed_of(about)
        return ModelInfo(
            about.task, max(int(shape["num_class"]), 2), max(int(shape["num_target"]), 1), names, target=target
        )

    def objective(self, params: Mapping[str, Any] | None = None, *args: Any, **kwargs: Any) -> Objective:
        return xgboost_params.objective(params or {})

    def trains_on_workers(self, params: Mapping[str, Any] | None = None, *args: Any, **kwargs: Any) -> bool:
        # On workers each would compare times with those of its own rows only.
        return not self.objective(params).predicts_risk

    def check(self, *args: Any, **kwargs: Any) -> None:
        super().check(*args, **kwargs)
        if (params := self.argument("params", args, kwargs)) is not None:
            xgboost_params.check(params)

    def validation_argument(self, *args: Any, **kwargs: Any) -> str:
        return "early_stopping_rounds" if kwargs.get("early_stopping_rounds") else ""

    def memory_bytes(self, n_rows: int, width: int, n_outputs: int, *args: Any, **kwargs: Any) -> int:
        params = self.argument("params", args, kwargs) or {}
        n_outputs = max(n_outputs, int(params.get("num_class") or 1))
        bins = 0 if keeps_bins(params) else 8 * n_rows * width  # bins that do not fit are kept on disk
        return bins + n_rows * (adapters.ROW_BYTES + OUTPUT_BYTES * n_outputs)

    def remembered_bytes(self, n_rows: int, width: int, *args: Any, **kwargs: Any) -> int:
        params = self.argument("params", args, kwargs) or {}
        values = 8 * n_rows * width  # a DMatrix stores them with their columns
        are_binned = keeps_bins(params) and values > row_stream.HELD_BYTES
        bins = 2 * bin_bytes(n_rows, width, params)  # by row and by column
        return bins if are_binned else values + bins

    def resumable_iterations(self, *args: Any, **kwargs: Any) -> int:
        return int(self.argument("num_boost_round", args, kwargs))

    def owns_callback(self, callback: Any) -> bool:
        return isinstance(callback, TrainingCallback)

    def without_gpu(self) -> str:
        has_cuda = xgboost.build_info().get("USE_CUDA")
        return (
            ""
            if has_cuda
            else "this build of XGBoost has no CUDA; the package xgboost has: pip uninstall xgboost-cpu, then pip install xgboost"
        )

    def gpu_arguments(self, params: Mapping[str, Any] | None = None, *args: Any, **kwargs: Any) -> str:
        requested = str((params or {}).get("device", ""))
        return f"device={requested!r}" if requested.startswith(("cuda", "gpu")) else ""

    def cpu_arguments(self, params: Mapping[str, Any] | None = None, *args: Any, **kwargs: Any) -> str:
        settings = {name: (params or {}).get(name) for name in ON_CPU}
        return next((f"XGBoost computes {n}={v!r} on the CPU" for n, v in settings.items() if v in ON_CPU[n]), "")

    def best_iteration(self, model: Any) -> int | None:
        best = model.attr("best_iteration")
        return None if best is None else int(best)

    def to_onnx(self, model: Any, width: int) -> Any:
        objective, _ = _kind(model)
        if objective.startswith(("rank:", "survival:", xgboost_params.QUANTILES)):
            raise ParameterError(
                f"to_onnx: XGBoost models of the objective {objective} cannot be exported to ONNX.",
                "Expected a classification, or a regression of values or counts.",
                "serve the pipeline with rayline, or rank with LightGBM.",
            )
        with needing("to_onnx of an XGBoost model", "onnxmltools", "onnx"):
            from onnxmltools import convert_xgboost
            from onnxmltools.convert.common.data_types import FloatTensorType
        best = self.best_iteration(model)
        plain = model.copy() if best is None else model[: best + 1]
        plain.feature_names = plain.feature_types = None  # the converter refers to features by number
        return convert_xgboost(plain, initial_types=[("matrix", FloatTensorType([None, width]))])

    def contributions(self, model: Any, features: Features) -> FeatureContributions | None:
        best, (_, booster) = self.best_iteration(model), _kind(model)
        zeros = features.has_vectors and model.feature_types is not None
        data = xgboost.DMatrix(features.matrix(zeros=zeros), feature_types=model.feature_types, enable_categorical=True)
        try:
            shap = model.predict(
                data, pred_contribs=True, strict_shape=True, validate_features=False,
                iteration_range=(0, 0 if best is None else best + 1),
            )  # fmt: skip
        except xgboost.core.XGBoostError:  # trees with several outputs
            return None
        values = shap.astype(np.float64)
        return FeatureContributions(values[:, :, :-1], values[0, :, -1], booster == "gblinear")

    def importance(self, model: Any, names: Sequence[str]) -> dict[str, float] | None:
        best = self.best_iteration(model)
        used = model if best is None else model[: best + 1]
        gains = used.get_score(importance_type="weight" if _kind(model)[1] == "gblinear" else "total_gain")
        feature_names = model.feature_names or [f"f{i}" for i in range(model.num_features())]
        if len(feature_names) != len(names):
            return None
        return {name: float(gains.get(other, 0.0)) for name, other in zip(names, feature_names, strict=True)}

    @contextlib.contextmanager
    def coordinate(self, world_size: int, host: str) -> Iterator[Mapping[str, Any]]:
        if world_size == 1:
            yield {}
            return
        tracker = xgboost.tracker.RabitTracker(world_size, host, sortby="task")
        tracker.start()
        try:
            yield tracker.worker_args()
            tracker.wait_for(timeout=10)  # until the workers have signed off
        finally:
            with contextlib.suppress(xgboost.core.XGBoostError):  # it reports workers that left without signing off
                tracker.free()


class _XGBoostReporter(TrainingCallback):
    """Reports every iteration to the context, and stops the training on all ranks at once when the context says so."""

    def __init__(
        self, context: TrainContext, save: Callable[[Any, Path], None], everyone: XGBoostMetrics | None
    ) -> None:
        self._job, self._save, self._everyone = context, save, everyone

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        iteration = model.num_boosted_rounds() - 1
        if self._everyone is not None:
            self._everyone.correct(evals_log)  # in place: the callbacks after this one read the same history
        metrics = {
            f"{table}-{name}": values[-1][0] if isinstance(values[-1], tuple) else values[-1]
            for table, history in evals_log.items()
            for name, values in history.items()
        }
        stop = self._job.report(iteration, metrics)
        self._job.checkpoint(iteration, lambda directory: self._save(model, directory))
        return on_any_rank(stop, self._job)


def _unchanged(model: Any) -> Any:
    return model


def _communicator(context: TrainContext) -> contextlib.AbstractContextManager[Any]:
    communicator: contextlib.AbstractContextManager[Any] = xgboost.collective.CommunicatorContext(
        **context.rendezvous, dmlc_task_id=f"{context.rank:06d}"
    )
    return communicator


@adapters.once_per_model
def _kind(model: Any) -> tuple[str, str]:
    """Return the objective and the booster of a model."""
    learner = json.loads(model.save_config())["learner"]
    return learner["objective"]["name"], learner["gradient_booster"]["name"]

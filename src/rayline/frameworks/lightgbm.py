"""LightGBM: `train.LightGBMTrainer` takes the arguments of `lightgbm.train`, without the data."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
from lightgbm.callback import EarlyStopException

from rayline.compat.boosting import lightgbm_aliases
from rayline.core import adapters
from rayline.core.abilities import FeatureContributions
from rayline.core.errors import ArtifactError, DataError, ParameterError, at, needing
from rayline.core.features import Array, Features
from rayline.core.framework import Framework, ModelInfo, TrainContext
from rayline.core.objective import Objective, quantiles_of
from rayline.core.scores import normalized
from rayline.core.target import Target, Task
from rayline.device import select_device
from rayline.frameworks import lightgbm_params
from rayline.frameworks.lightgbm_dataset import NAMES, codes, dataset_of_rows
from rayline.frameworks.lightgbm_metrics import LightGBMMetrics
from rayline.frameworks.verify import lightgbm_model

NETWORK_PARAMS = ("machines", "num_machines", "local_listen_port", "num_threads", "tree_learner", "pre_partition")
"""Parameters about the training machine, which are left out of saved models."""


class LightGBM(Framework):
    """The adapter of `train.LightGBMTrainer`, which describes the arguments.

    Rows of a worker that take more than 64 MiB are read block by block, and only their bins are kept.
    """

    name = "lightgbm"
    thread_safe_training = True
    package = "lightgbm"
    string_features = "categories"
    distributed = True
    reuses_workers = True
    trains_on_gpu = True
    max_label = 1e37

    def train(
        self,
        context: TrainContext,
        params: Mapping[str, Any] | None = None,
        num_boost_round: int = 100,
        *,
        feval: Callable[..., Any] | Sequence[Callable[..., Any]] | None = None,
        init_model: Any = None,
        callbacks: Sequence[Any] | None = None,
    ) -> Any:
        if len(context.target.columns) > 1 and context.target.task is not Task.RANKING:
            raise DataError(
                "lightgbm trainer: several targets.",
                f"Expected one; got {list(context.target.columns)}.",
                "train one model for each.",
            )
        all_params, context = self._params(context, params or {}), context.in_groups()
        # A Dataset used to continue a model holds that model's scores, and is not reused.
        train, sets = self._datasets(context, all_params, reuse=init_model is None and context.resume is None)
        rounds = next(
            (all_params.pop(name) for name in lightgbm_aliases("num_iterations") if name in all_params), num_boost_round
        )
        if context.resume is not None:
            init_model = self.load(context.resume)
            rounds -= init_model.current_iteration()
        everyone = None
        if context.world_size > 1:
            everyone = LightGBMMetrics(context, sets, lightgbm_params.metrics(all_params), feval)
        booster = lightgbm.train(
            all_params,
            train,
            rounds,
            valid_sets=list(sets.values()),
            valid_names=list(sets),
            feval=feval if everyone is None else everyone.functions,
            init_model=init_model,
            callbacks=[_LightGBMReporter(context, self, everyone), *(callbacks or ())],
        )
        booster.free_network()  # now, and not when it is collected: the process may be in another network by then
        return booster

    def _datasets(self, context: TrainContext, params: dict[str, Any], *, reuse: bool) -> tuple[Any, dict[str, Any]]:
        """Return the training rows, and the sets that are evaluated, by name."""
        named = params.pop(lightgbm_params.CATEGORIES, ())
        of_bins = ((k, repr(v)) for k, v in params.items() if k not in lightgbm_params.names_of_trainings())
        kind = ("Dataset", *named, *sorted(of_bins))

        def make() -> Any:
            return dataset_of_rows(context.train, params, None, named)

        train = context.train.remember(kind, make) if reuse else make()
        sets = {"train": train} if context.log_train_metrics else {}
        if context.test is not None:
            sets["test"] = dataset_of_rows(context.test, params, train, named)
        return train, sets

    def _params(self, context: TrainContext, user_params: Mapping[str, Any]) -> dict[str, Any]:
        params = {"verbosity": -1, **user_params}

        def default(name: str, value: Any) -> None:
            if not {*lightgbm_aliases(name)} & {*user_params}:
                params[name] = value

        if context.target.task.is_classification:
            default("objective", "binary" if context.target.task is Task.BINARY else "multiclass")
        if context.target.task is Task.MULTICLASS:
            default("num_class", len(context.target.classes[0]))
        if context.seed is not None:
            default("seed", context.seed)
            default("deterministic", True)
        if context.use_gpu and select_device(True).is_cuda:
            default("device_type", "cuda" if _is_built_for("CUDA") else "gpu")
        default("num_threads", context.n_threads)
        lightgbm_params.of_features(params, context)
        if context.world_size > 1:
            default("tree_learner", "data")
            port = int(context.worker_addresses[context.rank].rpartition(":")[2])
            network_params = {
                "machines": ",".join(context.worker_addresses),
                "num_machines": context.world_size,
                "local_listen_port": port,
            }
            params |= {**network_params, "pre_partition": True}
        return params

    def predict(self, model: Any, features: Features) -> Array:
        data = (
            features.matrix(np.float64)
            if features.n_rows < MANY_ROWS or features.has_vectors
            else codes(features.table)
        )
        scores: Array = model.predict(data)
        if _head(model).get("objective", "").startswith("multiclassova"):  # one-vs-all: they do not add up to 1
            scores = normalized(scores)
        return scores

    def predicts_margins(self, model: Any) -> bool:
        return not _head(model).get("objective")  # a function, which the model does not store

    def save(self, model: Any, directory: Path) -> None:
        text = model.model_to_string()
        text = re.sub(rf"^\[(?:{'|'.join(NETWORK_PARAMS)}): .*\]\n", "", text, flags=re.MULTILINE)
        (directory / "model.txt").write_text(text, encoding="utf-8")
        if model.best_iteration > 0:  # the text holds the iterations up to the best one, but not its number
            (directory / BEST).write_text(str(model.best_iteration), encoding="ascii")

    def load(self, directory: Path) -> Any:
        file = adapters.model_file(directory, "model.txt", "LightGBM model")
        text = lightgbm_model.check(file.read_bytes())
        with adapters.reading("LightGBM model", lightgbm.basic.LightGBMError):
            model = lightgbm.Booster(model_str=text)
            if (directory / BEST).is_file():
                model.best_iteration = _best(directory / BEST, model.current_iteration())
            return model

    def owns(self, model: Any) -> bool:
        return isinstance(model, lightgbm.Booster)

    def inspect(self, model: Any) -> ModelInfo:
        head = _head(model)
        name, *options = head.get("objective", "").split(" ")
        task = lightgbm_params.CLASSES.get(name, Task.REGRESSION)
        if self.predicts_margins(model) and int(head["num_class"]) > 1:
            task = Task.MULTICLASS
        alpha = next((option.removeprefix("alpha:") for option in options if option.startswith("alpha:")), None)
        with at(lightgbm_params.WHERE):
            objective = Objective(task, quantiles=quantiles_of(alpha) if name == "quantile" else ())
        names = [NAMES.restore(feature) for feature in model.feature_name()]
        return ModelInfo(task, max(int(head["num_class"]), 2), 1, names, target=Target.unnamed_of(objective))

    def objective(self, params: Mapping[str, Any] | None = None, *args: Any, **kwargs: Any) -> Objective:
        return lightgbm_params.objective(params or {})

    def check(self, *args: Any, **kwargs: Any) -> None:
        super().check(*args, **kwargs)
        lightgbm_params.check(self.argument("params", args, kwargs) or {})

    def validation_argument(self, params: Mapping[str, Any] | None = None, *args: Any, **kwargs: Any) -> str:
        return next((name for name in lightgbm_aliases("early_stopping_round") if (params or {}).get(name)), "")

    def memory_bytes(self, n_rows: int, width: int, n_outputs: int, *args: Any, **kwargs: Any) -> int:
        params = self.argument("params", args, kwargs) or {}
        bins = adapters.bytes_of_bins(
            n_rows, width, 1 + int(lightgbm_params.value(params, "max_bin", 255))
        )  # one for missing values
        return bins + n_rows * (adapters.ROW_BYTES + OUTPUT_BYTES * n_outputs)

    def resumable_iterations(self, *args: Any, **kwargs: Any) -> int:
        params, rounds = (self.argument(name, args, kwargs) for name in ("params", "num_boost_round"))
        return int(lightgbm_params.value(params or {}, "num_iterations", rounds))

    def owns_callback(self, callback: Any) -> bool:
        return type(callback).__module__.partition(".")[0] == "lightgbm"

    def records(self, callback: Any) -> bool:
        return isinstance(callback, type(lightgbm.record_evaluation({})))

    def without_gpu(self) -> str:
        if _is_built_for("CUDA") or _is_built_for("GPU"):
            return ""  # other problems with a GPU appear on the workers
        return "this build of LightGBM has none; one built with -DUSE_CUDA=1 or -DUSE_GPU=1 (OpenCL) has"

    def gpu_arguments(self, params: Mapping[str, Any] | None = None, *args: Any, **kwargs: Any) -> str:
        devices = {name: (params or {}).get(name) for name in lightgbm_aliases("device_type")}
        return next((f"{name}={value!r}" for name, value in devices.items() if value in ("gpu", "cuda")), "")

    def cpu_arguments(self, params: Mapping[str, Any] | None = None, *args: Any, **kwargs: Any) -> str:
        devices = {name: (params or {}).get(name) for name in lightgbm_aliases("device_type")}
        return next((f"{name}={value!r} is the CPU" for name, value in devices.items() if value == "cpu"), "")

    def best_iteration(self, model: Any) -> int | None:
        return model.best_iteration - 1 if model.best_iteration > 0 else None

    def to_onnx(self, model: Any, width: int) -> Any:
        with needing("to_onnx of a LightGBM model", "onnxmltools", "onnx"):
            from onnxmltools import convert_lightgbm
            from onnxmltools.convert.common.data_types import FloatTensorType
        if _head(model).get("objective", "").startswith("multiclassova"):
            raise ParameterError(
                "to_onnx: LightGBM models of the objective multiclassova cannot be exported to ONNX.",
                "Expected classes that are learned together, or a regression.",
                "train with objective='multiclass', or serve the pipeline with rayline.",
            )
        return convert_lightgbm(model, initial_types=[("matrix", FloatTensorType([None, width]))], zipmap=False)

    def contributions(self, model: Any, features: Features) -> FeatureContributions | None:
        if model.params.get("linear_tree") or "\nis_linear=1" in model.model_to_string():
            return None
        shap = model.predict(features.matrix(np.float64), pred_contrib=True)
        parts = shap if isinstance(shap, list) else [shap]  # of sparse rows a matrix for each class
        dense = [part.toarray() if hasattr(part, "toarray") else np.asarray(part) for part in parts]
        values = np.concatenate(dense, axis=1).reshape(features.n_rows, -1, model.num_feature() + 1)
        return FeatureContributions(values[:, :, :-1], values[0, :, -1])

    def importance(self, model: Any, names: Sequence[str]) -> dict[str, float] | None:
        gains = model.feature_importance("gain")
        return dict(zip(names, map(float, gains), strict=True)) if len(gains) == len(names) else None


class _LightGBMReporter:
    """Reports every iteration to the context, and stops the training when the context says so."""

    order = 0  # before LightGBM's early stopping, after which no callback is called
    before_iteration = False

    def __init__(self, context: TrainContext, adapter: LightGBM, everyone: LightGBMMetrics | None) -> None:
        self._job, self._adapter, self._everyone = context, adapter, everyone

    def __call__(self, env: Any) -> None:
        evaluations = env.evaluation_result_list
        if self._everyone is not None:
            self._everyone.merge(evaluations)  # in place: the callbacks after this one read the same list
        stop = self._job.report(env.iteration, {f"{r[0]}-{r[1]}": r[2] for r in evaluations})
        self._job.checkpoint(env.iteration, lambda directory: self._adapter.save(env.model, directory))
        if stop:
            raise EarlyStopException(env.iteration, evaluations)


MANY_ROWS = 4096


@functools.cache
def _is_built_for(what: str) -> bool:
    """Return whether LightGBM's library was built for "CUDA" or for "GPU" (OpenCL): otherwise it contains the error that says so.
    To ask it would print that error."""
    files = [*Path(lightgbm.__file__).parent.glob("lib/*lib_lightgbm.*")]
    refusal = f"{what} Tree Learner was not enabled in this build".encode()
    return bool(files) and all(refusal not in file.read_bytes() for file in files)


def _best(file: Path, n_iterations: int) -> int:
    text = file.read_text(encoding="ascii", errors="replace")
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or not 1 <= int(text) <= n_iterations:
        raise ArtifactError("The saved LightGBM model is damaged: its best iteration is invalid.", "", "save it again.")
    return int(text)


BEST = "best_iteration.txt"


@adapters.once_per_model
def _head(model: Any) -> Mapping[str, str]:
    """Return the header of a model's text, before its trees."""
    text = model.model_to_string(num_iteration=1).split("\n\n")[0]
    return dict(line.split("=", 1) for line in text.split("\n") if "=" in line)


OUTPUT_BYTES = 16
"""Bytes of the gradient and the prediction of each output of a row."""

"""CatBoost: `train.CatBoostTrainer` takes the parameters of `catboost.CatBoost`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import catboost
import numpy as np
import polars as pl

from rayline.compat.boosting import catboost_check
from rayline.core import adapters, paired_labels, scratch
from rayline.core.abilities import FeatureContributions
from rayline.core.errors import ParameterError, SchemaError, at, first_line, needing
from rayline.core.feature_names import Escaping
from rayline.core.features import Array, Features
from rayline.core.framework import Framework, ModelInfo, Rows, TrainContext
from rayline.core.objective import ANY, NON_NEGATIVE, LabelRange, Objective, quantiles_of
from rayline.core.schema import col
from rayline.core.scores import normalized
from rayline.core.target import Target, Task
from rayline.device import CPU, device_of, in_batches, placed, record, select_device, trained_on
from rayline.frameworks.verify import catboost_model

CLASSES = {
    "Logloss": Task.BINARY,
    "CrossEntropy": Task.BINARY,
    "Focal": Task.BINARY,
    "MultiLogloss": Task.BINARY,
    "MultiCrossEntropy": Task.BINARY,
    "MultiClass": Task.MULTICLASS,
    "MultiClassOneVsAll": Task.MULTICLASS,
}
"""Classification losses; all others are regressions."""

CUSTOM_LOSS = "PythonUserDefined"
"""Prefixes of the names of custom loss objects."""

EXPONENTIAL = ("Poisson", "Tweedie", "LogLinQuantile", "SurvivalAft", "Cox")
"""Losses whose scores are logarithms: of a mean, a time, or a relative risk."""

BY_FEATURE = ("monotone_constraints", "feature_weights", "first_feature_use_penalties", "per_object_feature_penalties")
"""Parameters that refer to features by name."""

TASKS = {
    **CLASSES,
    "SurvivalAft": Task.SURVIVAL,
    "Cox": Task.SURVIVAL,
    **dict.fromkeys(
        ("YetiRank", "YetiRankPairwise", "PairLogit", "PairLogitPairwise", "QueryRMSE", "QuerySoftMax", "QueryCrossEntropy",
         "StochasticFilter", "StochasticRank", "LambdaMart"),
        Task.RANKING,
    ),
}  # fmt: skip
"""Tasks of losses; all others are regressions."""

LABELS = {
    "Poisson": NON_NEGATIVE,
    "Tweedie": NON_NEGATIVE,
    "QueryCrossEntropy": LabelRange(0.0, 1.0),
}
"""Labels that a loss can learn, where it cannot learn every number."""

REFUSED = ("RMSEWithUncertainty", "GroupQuantile", "MultiRMSEWithMissingValues")
"""Losses whose predictions or labels have no form here."""

NOT_HERE = ("class_names", "cat_features", "text_features", "embedding_features", "classes_count", "target_border")
"""Parameters that describe the target and the features, which the fit sets."""

MISSING = "\u2205"
"""String that stands for a missing category: CatBoost accepts only strings."""

NAMES = Escaping({})
"""Escapes an empty feature name, the only one that CatBoost refuses."""

GPU_ROWS = 1 << 17
"""Rows per batch of prediction on a GPU."""

MANY_COLUMNS = 4096
"""Maximum number of elements of sparse vectors that are converted to table columns."""

VALUE_BYTES = 4 + 1
"""Bytes of a value while a model is trained: as a number, and as a bin."""

OUTPUT_BYTES = 2 * 8
"""Bytes of a row for each output: its score and its derivative."""

SETS = {"learn": "train", "validation": "test"}


class CatBoost(Framework):
    """The adapter of `train.CatBoostTrainer`, which describes the arguments. One worker."""

    name = "catboost"
    thread_safe_training = True
    package = "catboost"
    reuses_workers = True
    string_features = "categories"
    trains_on_gpu = True
    predicts_on_gpu = True
    max_label = 1e37

    def train(
        self,
        context: TrainContext,
        params: Mapping[str, Any] | None = None,
        *,
        callbacks: Sequence[Any] | None = None,
        init_model: Any = None,
    ) -> Any:
        train_params, context = self._params(context, params or {}), context.in_groups()
        model = catboost.CatBoost(train_params)
        test = None if context.test is None or not context.test.n_rows else _pool(context.test)
        on_gpu = (
            train_params.get("task_type") == "GPU"
        )  # where CatBoost accepts no callbacks, report all iterations at the end
        listening = [] if on_gpu else [*map(_Listener, (_CatBoostReporter(context), *(callbacks or ())))]
        try:
            model.fit(_pool(context.train), eval_set=test, callbacks=listening or None, init_model=init_model)
        except catboost.CatBoostError:
            for listener in listening:
                if listener.error is not None:
                    raise listener.error from listener.error.__cause__
            raise
        if on_gpu:
            _tell(context, model.get_evals_result())
        return trained_on(select_device(True) if context.use_gpu else CPU, model)

    def _params(self, context: TrainContext, user_params: Mapping[str, Any]) -> dict[str, Any]:
        several, task = len(context.target.columns) > 1, context.target.task
        losses = {
            Task.BINARY: "MultiLogloss" if several else "Logloss",
            Task.MULTICLASS: "MultiClass",
            Task.REGRESSION: "MultiRMSE" if several else "RMSE",
        }
        params = {"allow_writing_files": False, "loss_function": losses.get(task), "thread_count": context.n_threads}
        if context.seed is not None and not {"random_seed", "random_state"} & {*user_params}:
            params["random_seed"] = context.seed
        if context.use_gpu and (gpu := select_device(True)).is_cuda:
            params |= {"task_type": "GPU", "devices": gpu.name.partition(":")[2] or "0"}
        if not {"verbose", "verbose_eval", "logging_level", "silent"} & {*user_params}:
            params["logging_level"] = "Silent"
        merged = {**params, **user_params}
        for name in BY_FEATURE:
            if isinstance(merged.get(name), Mapping):
                with at(f"catboost trainer: {name}"):
                    merged[name] = context.by_column(merged[name])
        if merged.get("ignored_features") is not None:
            names = merged["ignored_features"]
            names = [names] if isinstance(names, (str, int)) else names
            with at("catboost trainer: ignored_features"):
                merged["ignored_features"] = [p for n in names for p in context.columns(n)]
        weights = merged.get("class_weights")
        if isinstance(weights, Mapping) and context.target.classes:
            labels = context.target.classes[0]
            strange = [label for label in weights if label not in labels]
            if strange:
                raise ParameterError.value(
                    "class_weights", f"labels among {[*labels]!r}", strange[0], where="catboost trainer"
                )
            merged["class_weights"] = [weights.get(label, 1.0) for label in labels]
        return merged

    def predict(self, model: Any, features: Features) -> Array:
        loss = _loss(model.get_all_params() if model.is_fitted() else {})
        kind = "Probability" if loss in CLASSES else "Exponent" if loss in EXPONENTIAL else "RawFormulaVal"
        device = device_of(model)

        def compute(rows: Features) -> Array:
            table = _table(record("batch", device, rows) if device.is_gpu else rows)
            if rows.categories:
                table = catboost.Pool(table, cat_features=rows.category_places, feature_names=model.feature_names_)
            predicted: Array = np.asarray(
                model.predict(table, prediction_type=kind, task_type="GPU" if device.is_cuda else "CPU")
            )
            return record("result", device, predicted) if device.is_gpu else predicted

        if device.is_gpu:
            parts = in_batches(
                features.n_rows, GPU_ROWS, lambda rows: compute(Features(features.table[rows], schema=features.schema)),
                device=device, model=model, model_bytes=lambda: 16.0 * 2 ** 6 * (model.tree_count_ or 0),
            )  # fmt: skip
            scores = np.concatenate(parts)
        else:
            scores = compute(features)
        if loss == "MultiClassOneVsAll":  # one-vs-all: they do not add up to 1
            scores = normalized(scores)
        return scores

    def place(self, model: Any, device: Any) -> Any:
        return placed(model, device)

    def predicts_on_cpu(self, model: Any) -> str:
        names = model.get_cat_feature_indices() if model.is_fitted() else ()
        return (
            "CatBoost predicts on a GPU with features that are numbers only, and this model has categories"
            if len(names)
            else ""
        )

    def gpu_arguments(self, params: Mapping[str, Any] | None = None, *args: Any, **kwargs: Any) -> str:
        return "task_type='GPU'" if (params or {}).get("task_type") == "GPU" else ""

    def cpu_arguments(
        self, params: Mapping[str, Any] | None = None, *args: Any, callbacks: Sequence[Any] | None = None, **kwargs: Any
    ) -> str:
        if (params or {}).get("task_type") == "CPU":
            return "task_type='CPU' is the CPU"
        return (
            "CatBoost takes no callbacks of its own on a GPU (rayline.train.Callback gets every iteration, after the training)"
            if callbacks
            else ""
        )

    def predicts_margins(self, model: Any) -> bool:
        return _loss(model.get_all_params()).startswith(CUSTOM_LOSS)

    def save(self, model: Any, directory: Path) -> None:
        model.save_model(str(directory / "model.cbm"), format="cbm")

    def load(self, directory: Path) -> Any:
        file = adapters.model_file(directory, "model.cbm", "CatBoost model")
        catboost_model.check(file.read_bytes())
        with adapters.reading("CatBoost model", catboost.CatBoostError):
            return catboost.CatBoost().load_model(str(file), format="cbm")

    def owns(self, model: Any) -> bool:
        return isinstance(model, catboost.CatBoost)

    def inspect(self, model: Any) -> ModelInfo:
        loss = _loss(model.get_all_params())
        about = _objective(model.get_all_params())
        assert isinstance(about.task, Task)
        task = about.task
        outputs = np.size(model.get_scale_and_bias()[1])
        if loss.startswith(CUSTOM_LOSS) and outputs > 1:
            return ModelInfo(Task.MULTICLASS, outputs, 1, [NAMES.restore(name) for name in model.feature_names_])
        n_classes = len(model.classes_) if task is Task.MULTICLASS else 2
        names = [NAMES.restore(name) for name in model.feature_names_]
        n_targets = max(len(about.quantiles), 1)
        return ModelInfo(task, n_classes, n_targets, names, target=Target.unnamed_of(about))

    def objective(self, params: Mapping[str, Any] | None = None, *args: Any, **kwargs: Any) -> Objective:
        return _objective(params or {})

    def check(self, *args: Any, **kwargs: Any) -> None:
        super().check(*args, **kwargs)
        params = args[0] if args else kwargs.get("params") or {}
        if not isinstance(params, Mapping):
            raise ParameterError.value("params", "a dict of CatBoost's parameters", params, where="catboost trainer")
        makers = (catboost.CatBoostClassifier, catboost.CatBoostRegressor)
        known = {name for maker in makers for name in inspect.signature(maker.__init__).parameters} - {"self"}
        unknown = {*params} - known
        if unknown:
            raise ParameterError.unknown(unknown, known, where="catboost trainer")
        unusable = [name for name in NOT_HERE if params.get(name) is not None]
        if unusable:
            raise ParameterError(
                f"catboost trainer: {unusable[0]} is known from the data of a fit.",
                "Expected parameters of the training only.",
                "leave it out: strings are categories, and numbers are where they are cast to strings.",
            )
        loss = _loss(params)
        if loss in REFUSED:
            raise ParameterError.value(
                "loss_function", f"another loss than {', '.join(REFUSED)}", loss, where="catboost trainer"
            )
        if loss:
            _check_loss(params)

    def validation_argument(self, params: Mapping[str, Any] | None = None, *args: Any, **kwargs: Any) -> str:
        return next((name for name in ("early_stopping_rounds", "use_best_model") if (params or {}).get(name)), "")

    def memory_bytes(self, n_rows: int, width: int, n_outputs: int, *args: Any, **kwargs: Any) -> int:
        return n_rows * (VALUE_BYTES * width + adapters.ROW_BYTES + OUTPUT_BYTES * n_outputs)

    def owns_callback(self, callback: Any) -> bool:
        return not isinstance(callback, type) and callable(getattr(callback, "after_iteration", None))

    def best_iteration(self, model: Any) -> int | None:
        best: int | None = model.get_best_iteration()
        return best

    def to_onnx(self, model: Any, width: int) -> Any:
        loss = _loss(model.get_all_params())
        if loss in EXPONENTIAL or (loss != "MultiClass" and loss.startswith(("Multi", "RMSEWith"))):
            raise ParameterError(
                f"to_onnx: CatBoost models of the loss {loss} cannot be exported to ONNX.",
                "Expected Logloss, CrossEntropy, MultiClass, or a regression of one number.",
                "serve the pipeline with rayline, or train with another loss.",
            )
        with needing("to_onnx of a CatBoost model", "onnx", "onnx"):
            import onnx
        with scratch.folder("catboost") as folder:
            model.save_model(f"{folder}/model.onnx", format="onnx")
            exported = onnx.load(f"{folder}/model.onnx")
        trees = exported.graph.node[0]
        del exported.graph.node[1:], exported.graph.output[:]  # ZipMap would turn the scores into a list of dicts
        exported.graph.output.append(
            onnx.helper.make_tensor_value_info(trees.output[-1], onnx.TensorProto.FLOAT, [None, None])
        )
        return exported

    def contributions(self, model: Any, features: Features) -> FeatureContributions | None:
        pool = catboost.Pool(
            _table(features), cat_features=features.category_places or None, feature_names=model.feature_names_
        )
        shap = np.asarray(model.get_feature_importance(pool, type="ShapValues"), dtype=np.float64)
        values = shap if shap.ndim == 3 else shap[:, None, :]
        return FeatureContributions(values[:, :, :-1], values[0, :, -1])

    def importance(self, model: Any, names: Sequence[str]) -> dict[str, float] | None:
        shares = model.get_feature_importance(type="PredictionValuesChange")  # of a ranking the default needs the rows
        return dict(zip(names, map(float, shares), strict=True)) if len(shares) == len(names) else None


class _CatBoostReporter:
    """Reports each iteration to the context, and stops the training when the context says so."""

    def __init__(self, context: TrainContext) -> None:
        self._job = context

    def after_iteration(self, info: Any) -> bool:
        values = {
            f"{SETS.get(where, where)}-{name}": float(history[-1])
            for where, metrics in info.metrics.items()
            for name, history in metrics.items()
        }
        return not self._job.report(info.iteration - 1, values)


class _Listener:
    """Calls a callback and keeps its error, of which CatBoost passes on no more than the text."""

    def __init__(self, callback: Any) -> None:
        self._callback = callback
        self.error: BaseException | None = None

    def after_iteration(self, info: Any) -> bool:
        try:
            return bool(self._callback.after_iteration(info))
        except BaseException as error:
            self.error = error
            raise


def _tell(context: TrainContext, evaluations: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Report the metrics of every iteration, after the training."""
    named = {
        f"{SETS.get(where, where)}-{name}": v for where, metrics in evaluations.items() for name, v in metrics.items()
    }
    for iteration in range(min(map(len, named.values()), default=0)):
        context.report(iteration, {name: float(values[iteration]) for name, values in named.items()})


def _check_loss(params: Mapping[str, Any]) -> None:
    """Raise ParameterError on a loss that CatBoost does not know."""
    _objective(params)
    name = "loss_function" if "loss_function" in params else "objective"
    if _loss(params).startswith(CUSTOM_LOSS) or not isinstance(params.get(name), str):
        return
    try:
        catboost_check({"loss_function": params[name]})
    except catboost.CatBoostError as error:
        if "for CPU" in str(error):  # it may be for the GPU
            return
        raise ParameterError(
            f"catboost trainer: CatBoost refuses {name}={params[name]!r}: {first_line(error)}.",
            "Expected a loss that CatBoost documents.",
            "for counts take Poisson or Tweedie:variance_power=1.5; Gamma exists in XGBoost, LightGBM and scikit-learn.",
        ) from error


def _objective(params: Mapping[str, Any]) -> Objective:
    """Return what the parameters, or those of a model, say about the target."""
    loss = _loss(params)
    if not loss:
        return Objective()
    options = dict(part.split("=", 1) for part in _full_loss(params).partition(":")[2].split(";") if "=" in part)
    quantiles: tuple[float, ...] = ()
    if loss in ("MultiQuantile", "Quantile"):
        alpha = options.get("alpha", "0.5").split(",")
        with at("catboost trainer"):
            quantiles = quantiles_of(alpha, name="alpha")
    risk = loss == "Cox"
    task = TASKS.get(loss, Task.REGRESSION)
    labels = LABELS.get(loss, NON_NEGATIVE if task is Task.SURVIVAL else ANY)
    return Objective(task, labels, quantiles, risk, name=loss)


def _labels(rows: Rows) -> dict[str, Any]:
    """Return labels, groups and weights under CatBoost's names for them; of a ranking the weights are those of groups."""
    target, weight = rows.target, rows.weight
    if rows.task is Task.RANKING:
        sizes = rows.group_sizes
        if weight is not None:
            weight = np.repeat(paired_labels.group_weights(weight, sizes), sizes)
        return {"label": target[:, 0], "group_id": np.repeat(np.arange(len(sizes)), sizes), "group_weight": weight}
    if rows.task is Task.SURVIVAL:
        if rows.predicts_risk:  # Cox
            return {"label": paired_labels.signed_times(target), "weight": weight}
        low, high = target.T
        return {"label": np.stack([low, np.where(np.isinf(high), -1.0, high)], axis=1), "weight": weight}
    return {"label": target, "weight": weight}


def _pool(rows: Rows) -> Any:
    features = rows.features
    table = _table(features)
    return catboost.Pool(
        table,
        **_labels(rows),
        cat_features=features.category_places,
        feature_names=None if features.has_vectors else [NAMES.escape(name) for name in features.names],
    )


def _table(features: Features) -> Any:
    """Return numbers as a matrix; with categories, a pandas table in which they are strings."""
    if not features.categories:
        return features.matrix(np.float32)
    import pandas as pd

    strings, columns = {*features.categories}, []
    numbers = {name: dtype for name, dtype in features.schema.items() if name not in strings}
    matrix = Features(features.table.select(map(col, numbers)), schema=numbers)
    array = matrix.matrix(np.float32)
    if not isinstance(array, np.ndarray) and array.shape[1] > MANY_COLUMNS:
        raise SchemaError(
            f"catboost trainer: {features.categories} are categories next to sparse vectors with {array.shape[1]:,} elements.",
            f"Expected at most {MANY_COLUMNS:,} elements: with categories CatBoost takes a table, with a column for each.",
            "encode the categories (OneHotEncoder), or make shorter vectors (n_features=…).",
        )
    table = pd.DataFrame(array) if isinstance(array, np.ndarray) else pd.DataFrame.sparse.from_spmatrix(array)
    for name in features.schema:
        if name in strings:
            values = features.table.select(col(name).cast(pl.String).fill_null(MISSING)).to_series()
            columns.append(pd.Series(values.to_list(), dtype=object))
        else:
            columns += [table.iloc[:, place] for place in matrix.places[name]]
    return pd.concat(columns, axis=1, keys=range(len(columns)))


def _full_loss(params: Mapping[str, Any]) -> str:
    """Return the loss with its options; empty when it is not given or a custom object."""
    loss = params.get("loss_function", params.get("objective"))
    return loss if isinstance(loss, str) else ""


def _loss(params: Mapping[str, Any]) -> str:
    """Return the name of the loss."""
    return _full_loss(params).partition(":")[0]

"""scikit-learn: `train.SklearnTrainer(estimator)` trains a copy of any estimator."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from sklearn.base import BaseEstimator, RegressorMixin, clone, is_classifier, is_regressor
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline
from sklearn.svm import LinearSVC, LinearSVR
from sklearn.utils.validation import has_fit_parameter
from threadpoolctl import threadpool_limits

from rayline.core import adapters, strict_json
from rayline.core.abilities import FeatureContributions
from rayline.core.errors import ArtifactError, DataError, ParameterError, at, needing
from rayline.core.features import Array, Features
from rayline.core.framework import Arguments, Framework, ModelInfo, Rows, TrainContext
from rayline.core.objective import ANY, NON_NEGATIVE, POSITIVE, LabelRange, Objective, quantiles_of
from rayline.core.scores import decisions
from rayline.core.target import Target, Task
from rayline.frameworks.verify import sklearn_model


class Sklearn(Framework):
    """The adapter of `train.SklearnTrainer`, which describes the arguments."""

    name = "sklearn"
    thread_safe_training = True
    package = "scikit-learn"
    reuses_workers = True

    def train(
        self,
        context: TrainContext,
        estimator: Any,
        *,
        epochs: int | None = None,
        quantile_alpha: Sequence[float] | float | None = None,
    ) -> Any:
        if quantile_alpha is not None:
            with at(WHERE):
                quantiles = quantiles_of(quantile_alpha)
            models = [self.train(context, _at_quantile(estimator, q)) for q in quantiles]
            return QuantileModels(models, quantiles) if len(models) > 1 else models[0]
        model = clone(estimator)
        if context.seed is not None:
            open_ = {
                k: context.seed
                for k, v in model.get_params().items()
                if k.split("__")[-1] == "random_state" and v is None
            }
            model.set_params(**open_)
        if epochs is None:
            # Copies: some estimators write to their input.
            return model.fit(
                context.train.features.matrix(np.float64),
                context.train.target.copy(),
                **_weights(model, "fit", context.train),
            )
        classes = {"classes": np.arange(max(len(context.target.classes[0]), 2))} if is_classifier(model) else {}
        for epoch in range(epochs):
            for rows in context.train.pieces():
                if rows.n_rows:
                    weights = _weights(model, "partial_fit", rows)
                    model.partial_fit(rows.features.matrix(np.float64), rows.target, **weights, **classes)
            context.checkpoint(epoch, lambda directory: self.save(model, directory))
            if context.report(epoch, {} if context.test is None else _score(model, context.test)):
                break
        return model

    @contextlib.contextmanager
    def limited_threads(self, n_threads: int) -> Iterator[None]:
        with threadpool_limits(n_threads):  # of BLAS, and of OpenMP in this thread
            yield

    def predict(self, model: Any, features: Features) -> Array:
        data = features.matrix(np.float64)
        if isinstance(model, QuantileModels):
            return model.predict(data)
        if not is_classifier(model):
            values: Array = np.asarray(model.predict(data))
            return values
        codes = None if _decides_by_probability(model) else _codes(model, np.asarray(model.predict(data)))
        if not hasattr(model, "predict_proba"):
            assert codes is not None
            margins = _margins(model, data, codes)
            return codes if margins is None else decisions(codes, margins=margins)
        predicted = model.predict_proba(data)
        if isinstance(predicted, list):  # one array per target
            predicted = np.stack([p[:, 1] for p in predicted], axis=1)
        elif predicted.shape[1] == 2 and (codes is None or codes.ndim == 1):
            predicted = predicted[:, 1]
        return np.asarray(predicted) if codes is None else decisions(codes, probabilities=predicted)

    def save(self, model: Any, directory: Path) -> None:
        if isinstance(model, QuantileModels):
            (directory / QUANTILES).write_bytes(strict_json.dumps(list(model.quantiles)))
            for i, one in enumerate(model.models):
                (directory / f"quantile-{i}").mkdir()
                self.save(one, directory / f"quantile-{i}")
            return
        _skops().dump(model, directory / "model.skops")

    def load(self, directory: Path, *, trusted: Sequence[str] = ()) -> Any:
        """Load an estimator. `trusted` names the types ("package.module.Class") that a file may hold beyond those of scikit-learn, NumPy
        and SciPy that skops trusts or that were reviewed: `rayline.load(path, trusted=[…])`."""
        if (directory / QUANTILES).is_file():
            return self._load_quantiles(directory, trusted)
        file, io = adapters.model_file(directory, "model.skops", "estimator"), _skops()
        with adapters.reading("estimator", Exception):  # skops may raise anything about a damaged file
            allowed = sklearn_model.safe().union(trusted)
            untrusted = io.get_untrusted_types(file=file)
            not_allowed = [name for name in untrusted if name not in allowed]
            if not not_allowed:
                model = io.load(file, trusted=untrusted)
                sklearn_model.check(model)
                return model
        raise ArtifactError(
            "The saved estimator holds types that are not trusted.",
            f"Expected types that can only compute, or that the caller names; got {not_allowed}.",
            "if you know the types and who made the file, name them: rayline.load(path, trusted=[…]).",
        )

    def _load_quantiles(self, directory: Path, trusted: Sequence[str]) -> QuantileModels:
        saved = strict_json.loads((directory / QUANTILES).read_bytes(), QUANTILES)
        if not isinstance(saved, list) or not 2 <= len(saved) <= MAX_QUANTILES:
            raise ArtifactError("The saved quantile models are damaged.", f"Expected quantiles in {QUANTILES}.")
        with at("load"):
            quantiles = quantiles_of(saved, name=QUANTILES)
        return QuantileModels(
            [self.load(directory / f"quantile-{i}", trusted=trusted) for i in range(len(quantiles))], quantiles
        )

    def to_onnx(self, model: Any, width: int) -> Any:
        if isinstance(model, QuantileModels):
            raise ParameterError(
                "to_onnx: several quantile regressors cannot be exported to ONNX.",
                "Expected one estimator.",
                "export the pipeline of each quantile, or serve this one with rayline.",
            )
        with needing("to_onnx of an estimator", "skl2onnx", "onnx"):
            from skl2onnx import convert_sklearn
            from skl2onnx.common.data_types import FloatTensorType
        options = {id(model): {"zipmap": False}} if is_classifier(model) else None
        types = [("matrix", FloatTensorType([None, width]))]
        return convert_sklearn(model, initial_types=types, options=options, target_opset=17)

    def load_options(self, model: Any) -> dict[str, Any]:
        """Return the options for files from Rayline's own processes: all types of this estimator are trusted."""
        if isinstance(model, QuantileModels):
            return self.load_options(model.models[0])
        untrusted = _skops().get_untrusted_types(data=_skops().dumps(model))
        return {"trusted": [name for name in untrusted if name not in sklearn_model.safe()]}

    def owns(self, model: Any) -> bool:
        return isinstance(model, BaseEstimator) and hasattr(model, "predict")

    def inspect(self, model: Any) -> ModelInfo:
        if isinstance(model, QuantileModels):
            target = Target.unnamed_of(Objective(Task.REGRESSION, quantiles=model.quantiles))
            return ModelInfo(Task.REGRESSION, 2, len(model.quantiles), target=target)
        names = getattr(model, "feature_names_in_", None)
        names = None if names is None else [str(name) for name in names]
        if not is_classifier(model):
            shape = np.shape(getattr(model, "coef_", ()))
            return ModelInfo(
                Task.REGRESSION, 2, getattr(model, "n_outputs_", shape[0] if len(shape) == 2 else 1), names
            )
        classes = model.classes_
        if isinstance(classes, list):
            return ModelInfo(Task.BINARY, 2, len(classes), names)
        task, labels, target = Task.BINARY if len(classes) == 2 else Task.MULTICLASS, np.asarray(classes).tolist(), None
        if labels != list(range(len(labels))):
            target = Target(("target",), task, (pl.Series(labels).dtype,), (tuple(labels),))
        return ModelInfo(task, len(labels), 1, names, target=target)

    def task(self, estimator: Any = None, *args: Any, **kwargs: Any) -> Task | Literal["classification"] | None:
        return "classification" if is_classifier(estimator) else Task.REGRESSION

    @at("sklearn trainer")
    def objective(self, estimator: Any = None, *args: Any, **kwargs: Any) -> Objective:
        task = self.task(estimator)
        if task is not Task.REGRESSION:
            return Objective(task)
        _, final = _final(estimator)
        quantiles = quantiles_of(kwargs.get("quantile_alpha")) or _own_quantile(final)
        loss = getattr(final, "loss", None) or getattr(final, "criterion", None)
        name = f"{type(final).__name__}({loss})" if isinstance(loss, str) else type(final).__name__
        return Objective(task, _labels(final, loss), quantiles, name=name)

    @at("sklearn trainer")
    def check(self, *args: Any, **kwargs: Any) -> None:
        super().check(*args, **kwargs)
        estimator = args[0] if args else kwargs["estimator"]
        epochs = kwargs.get("epochs")
        if kwargs.get("quantile_alpha") is not None:
            if epochs is not None:
                raise ParameterError.value("epochs", "None beside quantile_alpha", epochs, where=WHERE)
            for quantile in quantiles_of(kwargs["quantile_alpha"]):
                _at_quantile(estimator, quantile)
        # Some meta-estimators have `predict` only when they are fitted.
        predicts = hasattr(estimator, "predict") or (isinstance(estimator, BaseEstimator) and _kind(estimator))
        if isinstance(estimator, type) or not (
            predicts and all(map(partial(hasattr, estimator), ("fit", "get_params")))
        ):
            raise ParameterError.value(
                "estimator", "an estimator object with fit and predict", estimator, where="sklearn trainer"
            )
        if epochs is not None and (not isinstance(epochs, int) or epochs < 1 or not hasattr(estimator, "partial_fit")):
            raise ParameterError.value(
                "epochs",
                "None, or a number of epochs for an estimator with partial_fit",
                epochs,
                where="sklearn trainer",
            )

    def memory_bytes(self, n_rows: int, width: int, n_outputs: int, *args: Any, **kwargs: Any) -> int:
        return 0 if kwargs.get("epochs") else n_rows * (8 * width + adapters.ROW_BYTES)  # a matrix of float64

    def configure(self, args: Sequence[Any], kwargs: Mapping[str, Any], changes: Mapping[str, Any]) -> Arguments:
        arguments = dict(kwargs)
        estimator = clone(args[0] if args else arguments.pop("estimator"))
        arguments |= {k: v for k, v in changes.items() if k in ARGUMENTS}
        params = {k: v for k, v in changes.items() if k not in ARGUMENTS}
        unknown = [name for name in params if name not in estimator.get_params()]
        if unknown:
            raise ParameterError.unknown(unknown, [*estimator.get_params(), *ARGUMENTS], where="sklearn trainer")
        return (estimator.set_params(**params), *args[1:]), arguments

    def contributions(self, model: Any, features: Features) -> FeatureContributions | None:
        is_linear = type(model).__module__.startswith("sklearn.linear_model.") or type(model) in (LinearSVC, LinearSVR)
        if not is_linear or not isinstance(getattr(model, "coef_", None), np.ndarray):
            return None
        weights = np.atleast_2d(model.coef_).astype(np.float64)
        matrix = features.matrix(np.float64)
        dense = matrix.toarray() if hasattr(matrix, "toarray") else matrix
        base = np.broadcast_to(np.atleast_1d(np.asarray(model.intercept_, dtype=np.float64)), len(weights))
        return FeatureContributions(dense[:, None, :] * weights, base, is_linear=True)

    def importance(self, model: Any, names: Sequence[str]) -> dict[str, float] | None:
        if isinstance(model, QuantileModels):
            each = [self.importance(one, names) for one in model.models]
            known = [one for one in each if one is not None]
            return {name: float(np.mean([one[name] for one in known])) for name in names} if known else None
        shares = getattr(model, "feature_importances_", None)
        if shares is None and hasattr(model, "coef_"):
            shares = np.abs(np.atleast_2d(model.coef_)).mean(axis=0)
        return (
            dict(zip(names, map(float, shares), strict=True))
            if shares is not None and len(shares) == len(names)
            else None
        )


WHERE, QUANTILES = "sklearn trainer", "quantiles.json"

ARGUMENTS = ("epochs", "quantile_alpha")
"""Arguments of the trainer besides the estimator and its parameters."""

MAX_QUANTILES = 1000
"""Quantiles that a file may name."""


class QuantileModels(RegressorMixin, BaseEstimator):
    """Fitted quantile regressors of the same features, one for each quantile."""

    def __init__(self, models: Sequence[Any], quantiles: tuple[float, ...]) -> None:
        self.models, self.quantiles = models, quantiles

    def predict(self, X: Any) -> Array:  # noqa: N803  # scikit-learn's name
        """Return one column for each quantile, shape (n, quantiles)."""
        return np.stack([np.asarray(model.predict(X)) for model in self.models], axis=1)


def _final(estimator: Any) -> tuple[str, Any]:
    """Return the last estimator of a pipeline, and the prefix of its parameters."""
    if isinstance(estimator, Pipeline) and estimator.steps:
        name, last = estimator.steps[-1]
        prefix, final = _final(last)
        return f"{name}__{prefix}", final
    return "", estimator


def _at_quantile(estimator: Any, quantile: float) -> Any:
    """Return a copy that predicts this quantile. Raises ParameterError when the estimator predicts none."""
    prefix, final = _final(estimator)
    known = final.get_params() if hasattr(final, "get_params") else {}
    name = "alpha" if isinstance(final, GradientBoostingRegressor) else "quantile"
    if name not in known:
        raise ParameterError.value(
            "quantile_alpha",
            "None, or an estimator of quantiles: QuantileRegressor, HistGradientBoostingRegressor or GradientBoostingRegressor",
            type(final).__name__,
        where=WHERE)  # fmt: skip
    loss = {f"{prefix}loss": "quantile"} if "loss" in known else {}
    return clone(estimator).set_params(**{f"{prefix}{name}": quantile}, **loss)


def _own_quantile(estimator: Any) -> tuple[float, ...]:
    """Return the quantile that an estimator predicts by its own parameters."""
    loss, params = getattr(estimator, "loss", None), ("quantile", "alpha")
    if type(estimator).__name__ == "QuantileRegressor" or loss == "quantile":
        level = next((getattr(estimator, n) for n in params if isinstance(getattr(estimator, n, None), float)), None)
        return () if level is None or not 0 < level < 1 else (level,)
    return ()


def _labels(estimator: Any, loss: Any) -> LabelRange:
    """Return the labels that an estimator of scikit-learn's can learn."""
    name, power = type(estimator).__name__, getattr(estimator, "power", 0)
    if not type(estimator).__module__.startswith("sklearn."):
        return ANY
    if name == "GammaRegressor" or loss == "gamma" or (name == "TweedieRegressor" and power >= 2):
        return POSITIVE
    if name == "PoissonRegressor" or loss == "poisson" or (name == "TweedieRegressor" and power >= 1):
        return NON_NEGATIVE
    return ANY


PROBABLE = frozenset(
    {
        *("DecisionTreeClassifier", "ExtraTreeClassifier", "RandomForestClassifier", "ExtraTreesClassifier"),
        *("BaggingClassifier", "HistGradientBoostingClassifier", "GradientBoostingClassifier", "LogisticRegression"),
        *("GaussianNB", "CalibratedClassifierCV"),
    }
)
"""Classifiers of scikit-learn's whose `predict` is the class of the largest probability by construction; all others are
called with `predict` too."""


def _decides_by_probability(model: Any) -> bool:
    kind = type(model)
    if kind is Pipeline:
        return _decides_by_probability(model.steps[-1][1])
    if kind is KNeighborsClassifier:  # sums of other weights are rounded differently
        return bool(model.weights == "uniform")
    return kind.__module__.startswith("sklearn.") and kind.__name__ in PROBABLE


def _codes(model: Any, labels: Array) -> Array:
    """Return the indices of predicted labels in the model's classes."""
    classes = model.classes_
    if labels.ndim == 1:
        return np.searchsorted(classes, labels).astype(np.int64)
    if not isinstance(classes, list):  # for several targets of 0 or 1
        return labels.astype(np.int64)
    return np.stack([np.searchsorted(c, column) for c, column in zip(classes, labels.T, strict=True)], axis=1)


def _margins(model: Any, data: Any, codes: Array) -> Array | None:
    """Return the values of `decision_function` per class, or of the second of two; None if they are per pair of classes."""
    if not hasattr(model, "decision_function") or any(
        name.endswith("decision_function_shape") and value == "ovo" for name, value in model.get_params().items()
    ):
        return None
    margins = np.asarray(model.decision_function(data), np.float64)
    n_classes = len(model.classes_)
    wanted = codes.shape if codes.ndim == 2 or n_classes == 2 else (len(codes), n_classes)
    return margins if margins.shape == wanted else None


def _kind(estimator: Any) -> bool:
    """Return whether it is a classifier or a regressor; a meta-estimator without its estimator cannot be classified."""
    try:
        return bool(is_classifier(estimator) or is_regressor(estimator))
    except AttributeError:
        return False


def _weights(model: Any, method: str, rows: Rows) -> dict[str, Any]:
    if rows.weight is None:
        return {}
    if not has_fit_parameter(model, "sample_weight") or (
        method == "partial_fit" and "sample_weight" not in _parameters(model)
    ):
        raise DataError(
            f"sklearn trainer: {type(model).__name__} takes no sample weights.",
            "Expected none.",
            "leave sample_weight and class_weight out.",
        )
    return {"sample_weight": rows.weight.copy()}


def _parameters(model: Any) -> Mapping[str, Any]:
    import inspect

    return inspect.signature(model.partial_fit).parameters


def _score(model: Any, rows: Rows) -> dict[str, float]:
    name = "accuracy" if is_classifier(model) else "r2"
    if rows.is_small:
        return {f"test-{name}": float(model.score(rows.features.matrix(np.float64), rows.target, rows.weight))}
    center, sums = None, np.zeros(())
    for part in (part for part in rows.pieces() if part.n_rows):
        truth = part.target.reshape(part.n_rows, -1).astype(np.float64)
        predicted = model.predict(part.features.matrix(np.float64)).reshape(truth.shape)
        center = truth.mean(axis=0) if center is None else center  # sums of squares keep their digits
        weight, off = np.ones(part.n_rows) if part.weight is None else part.weight, truth - center
        right = (truth == predicted) & (truth == predicted).all(axis=1, keepdims=True)
        each = (np.ones_like(truth), right, off, off**2, (truth - predicted) ** 2)
        sums = sums + np.array([weight @ values for values in each])
    total, right, first, second, errors = sums
    if is_classifier(model):
        return {f"test-{name}": float(right[0] / total[0])}
    spread = second - first**2 / total
    explained = np.where(
        spread > 0, 1 - errors / np.where(spread > 0, spread, 1), errors == 0
    )  # as scikit-learn's r2_score
    return {f"test-{name}": float(explained.mean())}


def _skops() -> Any:
    with needing("Saving scikit-learn estimators", "skops", "sklearn"):
        import skops.io
    return skops.io

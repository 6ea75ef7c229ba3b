"""scikit-learn: `train.SklearnTrainer(estimator)` trains a copy of any estimator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from sklearn.base import BaseEstimator, clone, is_classifier, is_regressor
from sklearn.metrics import accuracy_score, r2_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import has_fit_parameter

from rayline.core.errors import ArtifactError, DataError, MissingExtraError, ParameterError
from rayline.core.features import Array, Features
from rayline.core.framework import Arguments, Framework, ModelInfo, Rows, TrainContext
from rayline.core.target import Target, Task, decisions
from rayline.frameworks.verify import sklearn_model


class Sklearn(Framework):
    """Any estimator of scikit-learn or with its conventions. The argument is the estimator; tuned
    parameters are its own (`C`, `step__C`).

    Classes are those of the estimator's own `predict`. Probabilities are those of `predict_proba`; without it the values
    of `decision_function` rank the rows for metrics such as `roc_auc`. `random_state` comes from the
    trainer's seed where the estimator leaves it open. With `epochs=n`, an estimator that has `partial_fit` sees the
    rows in pieces of at most 65,536, n times, and never all of them at once.
    """

    name = "sklearn"
    package = "scikit-learn"

    def train(self, context: TrainContext, estimator: Any, *, epochs: int | None = None) -> Any:
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

    def predict(self, model: Any, features: Features) -> Array:
        data = features.matrix(np.float64)
        if not is_classifier(model):
            values: Array = np.asarray(model.predict(data))
            return values
        codes = None if _decides_by_probability(model) else _codes(model, np.asarray(model.predict(data)))
        if not hasattr(model, "predict_proba"):
            assert codes is not None
            margins = _margins(model, data, codes)
            return codes if margins is None else decisions(codes, margins=margins)
        found = model.predict_proba(data)
        if isinstance(found, list):  # one array per target
            found = np.stack([p[:, 1] for p in found], axis=1)
        elif found.shape[1] == 2 and (codes is None or codes.ndim == 1):
            found = found[:, 1]
        return np.asarray(found) if codes is None else decisions(codes, probabilities=found)

    def save(self, model: Any, directory: Path) -> None:
        _skops().dump(model, directory / "model.skops")

    def load(self, directory: Path, *, trusted: Sequence[str] = ()) -> Any:
        """Load an estimator. `trusted` names the types ("package.module.Class") that a file may hold beyond those of scikit-learn, NumPy
        and SciPy that skops trusts or that were reviewed: `rayline.load(path, trusted=[…])`."""
        file = directory / "model.skops"
        if not file.is_file():
            raise ArtifactError("The saved estimator is incomplete.", "Expected a file model.skops.", "save it again.")
        io = _skops()
        try:
            allowed = sklearn_model.safe().union(trusted)
            untrusted = io.get_untrusted_types(file=file)
            not_allowed = [name for name in untrusted if name not in allowed]
            if not not_allowed:
                model = io.load(file, trusted=untrusted)
                sklearn_model.check(model)
                return model
        except Exception as error:  # skops may raise anything about a damaged file
            raise ArtifactError(f"The saved estimator cannot be read: {error}.", "", "save it again.") from error
        raise ArtifactError(
            "The saved estimator holds types that are not trusted.",
            f"Expected types that can only compute, or that the caller names; got {not_allowed}.",
            "if you know the types and who made the file, name them: rayline.load(path, trusted=[…]).",
        )

    def to_onnx(self, model: Any, width: int) -> Any:
        try:
            from skl2onnx import convert_sklearn
            from skl2onnx.common.data_types import FloatTensorType
        except ImportError as error:
            raise MissingExtraError.of("to_onnx of an estimator", "skl2onnx", "onnx") from error
        options = {id(model): {"zipmap": False}} if is_classifier(model) else None
        types = [("matrix", FloatTensorType([None, width]))]
        return convert_sklearn(model, initial_types=types, options=options, target_opset=17)

    def load_options(self, model: Any) -> dict[str, Any]:
        """Return the options for files from Rayline's own processes: all types of this estimator are trusted."""
        untrusted = _skops().get_untrusted_types(data=_skops().dumps(model))
        return {"trusted": [name for name in untrusted if name not in sklearn_model.safe()]}

    def owns(self, model: Any) -> bool:
        return isinstance(model, BaseEstimator) and hasattr(model, "predict")

    def inspect(self, model: Any) -> ModelInfo:
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

    def check(self, *args: Any, **kwargs: Any) -> None:
        super().check(*args, **kwargs)
        estimator = args[0] if args else kwargs["estimator"]
        epochs = kwargs.get("epochs")
        # Some meta-estimators have `predict` only when they are fitted.
        predicts = hasattr(estimator, "predict") or (isinstance(estimator, BaseEstimator) and _kind(estimator))
        if isinstance(estimator, type) or not (
            predicts and all(map(partial(hasattr, estimator), ("fit", "get_params")))
        ):
            raise ParameterError.value(
                "sklearn trainer", "estimator", "an estimator object with fit and predict", estimator
            )
        if epochs is not None and (not isinstance(epochs, int) or epochs < 1 or not hasattr(estimator, "partial_fit")):
            raise ParameterError.value(
                "sklearn trainer", "epochs", "None, or a number of epochs for an estimator with partial_fit", epochs
            )

    def configure(self, args: Sequence[Any], kwargs: Mapping[str, Any], changes: Mapping[str, Any]) -> Arguments:
        given = dict(kwargs)
        estimator = clone(args[0] if args else given.pop("estimator"))
        given |= {k: v for k, v in changes.items() if k == "epochs"}
        params = {k: v for k, v in changes.items() if k != "epochs"}
        unknown = [name for name in params if name not in estimator.get_params()]
        if unknown:
            raise ParameterError.unknown("sklearn trainer", unknown, [*estimator.get_params(), "epochs"])
        return (estimator.set_params(**params), *args[1:]), given

    def importance(self, model: Any, names: Sequence[str]) -> dict[str, float] | None:
        found = getattr(model, "feature_importances_", None)
        if found is None and hasattr(model, "coef_"):
            found = np.abs(np.atleast_2d(model.coef_)).mean(axis=0)
        return (
            dict(zip(names, map(float, found), strict=True)) if found is not None and len(found) == len(names) else None
        )


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
    found = np.asarray(model.decision_function(data), np.float64)
    n_classes = len(model.classes_)
    wanted = codes.shape if codes.ndim == 2 or n_classes == 2 else (len(codes), n_classes)
    return found if found.shape == wanted else None


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
    # Only predictions and labels of all rows are held: scikit-learn computes the metric from them.
    parts = [
        (part.target, model.predict(part.features.matrix(np.float64)), part.weight)
        for part in rows.pieces()
        if part.n_rows
    ]
    truth, found = (np.concatenate([part[place] for part in parts]) for place in (0, 1))
    weight = np.concatenate([part[2] for part in parts]) if rows.has_weights else None
    metric = accuracy_score if is_classifier(model) else r2_score
    return {f"test-{name}": float(metric(truth, found, sample_weight=weight))}


def _skops() -> Any:
    try:
        import skops.io
    except ImportError as error:
        raise MissingExtraError.of("Saving scikit-learn estimators", "skops", "sklearn") from error
    return skops.io

"""Rayline as scikit-learn estimators: any trainer and preprocessor in GridSearchCV, cross_val_score or a Pipeline.

The table that goes to `fit` and `predict` may be a pandas or Polars table (stages choose its columns by name and type)
or an array of numbers (its columns are x0, x1, …). Missing values are allowed, as everywhere in Rayline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _check_sample_weight,
    _check_y,
    check_consistent_length,
    check_is_fitted,
    validate_data,
)

from rayline.core.errors import ParameterError
from rayline.train.fit import fit

if TYPE_CHECKING:
    from rayline.data.preprocessor import Preprocessor
    from rayline.inference.pipeline import InferencePipeline
    from rayline.train.trainer import Trainer

Array = npt.NDArray[Any]

TARGET, WEIGHT = "rayline target", "rayline weight"


class _Estimator(BaseEstimator):
    """What classifier and regressor share.

    Parameters
    ----------
    trainer
        What trains; it is copied, so that the caller's stays as it is.
    preprocessor
        The stages before it, fitted on each training set anew; None for none.
    """

    def __init__(self, trainer: Trainer, preprocessor: Preprocessor | None = None) -> None:
        self.trainer = trainer
        self.preprocessor = preprocessor

    def set_params(self, **params: Any) -> Self:
        """Set parameters: `trainer`, `preprocessor`, `trainer__max_depth`, `preprocessor__impute__strategy`.

        Raises ParameterError on names that do not exist.
        """
        for name, value in params.items():
            whose, _, rest = name.partition("__")
            if whose not in ("trainer", "preprocessor"):
                raise ParameterError.unknown(type(self).__name__, [whose], ["trainer", "preprocessor"])
            if not rest:
                setattr(self, whose, value)
            elif whose == "trainer":
                self.trainer = self.trainer.replace({rest: value})
            elif self.preprocessor is not None:
                stage, _, parameter = rest.partition("__")
                self.preprocessor = self.preprocessor.replace({stage: {parameter: value}})
        return self

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The two parameters; what is inside of them is set with `trainer__…`."""
        return {"trainer": self.trainer, "preprocessor": self.preprocessor}

    def _fit(self, X: Any, target: pl.Series, sample_weight: Any) -> None:  # noqa: N803
        table = self._table(X, reset=True)
        check_consistent_length(table, target)
        table = table.with_columns(target.alias(TARGET))
        weight = None
        if sample_weight is not None:
            weight = WEIGHT
            table = table.with_columns(pl.Series(WEIGHT, _check_sample_weight(sample_weight, X)))
        preprocessor = None if self.preprocessor is None else self.preprocessor.clone()
        trainer = self.trainer.replace({})
        result = fit(trainer, preprocessor, table, target_columns=[TARGET], sample_weight=weight, verbose=False)
        self.pipeline_: InferencePipeline = result.inference_pipeline
        self.result_ = result

    def _table(self, X: Any, *, reset: bool) -> pl.DataFrame:  # noqa: N803
        if isinstance(X, pl.DataFrame) or hasattr(X, "iloc"):
            validate_data(self, X, reset=reset, skip_check_array=True)
            if len(X) == 0:
                raise ValueError(f"Found array with 0 sample(s) (shape={X.shape}) while a minimum of 1 is required.")
            table = X if isinstance(X, pl.DataFrame) else pl.from_pandas(X.reset_index(drop=True))
            return table.rename({name: str(name) for name in table.columns})
        array = validate_data(self, X, reset=reset, dtype="numeric", ensure_all_finite="allow-nan")
        return pl.DataFrame({f"x{i}": column for i, column in enumerate(np.asarray(array, dtype=np.float64).T)})

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


class RaylineClassifier(ClassifierMixin, _Estimator):
    """A classifier made of a trainer and a preprocessor.

    Attributes
    ----------
    classes_
        The classes in ascending order.
    pipeline_
        The fitted `InferencePipeline`; it answers with codes of the classes.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.model_selection import cross_val_score
    >>> from rayline import train
    >>> from rayline.sklearn import RaylineClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = RaylineClassifier(train.XGBoostTrainer({"max_depth": 2, "nthread": 1}, num_boost_round=10))
    >>> bool(cross_val_score(model, X, y, cv=3).mean() > 0.9)
    True
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:  # noqa: N803
        """Fit the preprocessor and train. Shapes: X (n, features), y (n,), sample_weight (n,) or None."""
        _require_target(self, y)
        y = _check_y(y, estimator=self)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        # Codes as strings are classes whatever the framework and the labels are, and keep their order.
        width = len(str(len(self.classes_)))
        self._fit(X, pl.Series([str(code).zfill(width) for code in codes.tolist()], dtype=pl.String), sample_weight)
        return self

    def predict(self, X: Any) -> Array:  # noqa: N803
        """The class of each row, shape (n,)."""
        check_is_fitted(self)
        found = self.pipeline_.predict(self._table(X, reset=False))["prediction"]
        labels: Array = self.classes_[found.cast(pl.Int64).to_numpy()]
        return labels

    def predict_proba(self, X: Any) -> Array:  # noqa: N803
        """The probability of each class, shape (n, classes), in the order of `classes_`."""
        check_is_fitted(self)
        probabilities: Array = self.pipeline_.predict_proba(self._table(X, reset=False)).to_numpy()
        return probabilities


class RaylineRegressor(RegressorMixin, _Estimator):
    """A regressor made of a trainer and a preprocessor.

    Attributes
    ----------
    pipeline_
        The fitted `InferencePipeline`.

    Examples
    --------
    >>> import numpy as np
    >>> from rayline import train
    >>> from rayline.sklearn import RaylineRegressor
    >>> X = np.arange(40.0)[:, None]
    >>> model = RaylineRegressor(train.XGBoostTrainer({"nthread": 1}, num_boost_round=20)).fit(X, X.ravel())
    >>> bool(abs(model.predict([[20.0]])[0] - 20) < 2)
    True
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:  # noqa: N803
        """Fit the preprocessor and train. Shapes: X (n, features), y (n,), sample_weight (n,) or None."""
        _require_target(self, y)
        self._fit(X, pl.Series(_check_y(y, y_numeric=True, estimator=self).astype(np.float64)), sample_weight)
        return self

    def predict(self, X: Any) -> Array:  # noqa: N803
        """The value of each row, shape (n,)."""
        check_is_fitted(self)
        values: Array = self.pipeline_.predict(self._table(X, reset=False))["prediction"].to_numpy()
        return values


def _require_target(estimator: _Estimator, y: Any) -> None:
    if y is None:
        raise ValueError(
            f"requires y to be passed, but the target y is None: {type(estimator).__name__} needs a target."
        )

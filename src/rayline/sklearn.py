"""Rayline as scikit-learn estimators: any trainer and preprocessor in GridSearchCV, cross_val_score or a Pipeline.

`fit` and `predict` accept a pandas or Polars table (stages select its columns by name and type)
or an array of numbers (its columns are x0, x1, …). Missing values are allowed, as everywhere in Rayline.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.compat.sklearn import sklearn_check_sample_weight, sklearn_check_y
from rayline.core.errors import ParameterError, needing
from rayline.core.features import Features
from rayline.core.schema import col
from rayline.inference.pipeline import InferencePipeline, Preprocessor
from rayline.train.fit import fit
from rayline.train.result import Result

with needing("rayline.sklearn", "scikit-learn", "sklearn"):
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, TransformerMixin
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import (
        check_consistent_length,
        check_is_fitted,
        validate_data,
    )

if TYPE_CHECKING:
    from rayline.train.trainer import Trainer

Array = npt.NDArray[Any]

TARGET, WEIGHT = "rayline target", "rayline weight"


class _Tables(BaseEstimator):
    """Common base: converts input tables and arrays to Polars tables."""

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


class _Estimator(_Tables):
    """Common base of the classifier and the regressor."""

    def __init__(self, trainer: Trainer, preprocessor: Preprocessor | None = None) -> None:
        self.trainer = trainer
        self.preprocessor = preprocessor

    def set_params(self, **params: Any) -> Self:
        """Set parameters: `trainer`, `preprocessor`, `trainer__max_depth`, `preprocessor__impute__strategy`.

        Parameters
        ----------
        params
            New values by name.

        Returns
        -------
        estimator
            This object.

        Raises
        ------
        ParameterError
            On names that do not exist, and on values that the trainer or a stage refuses.
        """
        for name, value in params.items():
            whose, _, rest = name.partition("__")
            if whose not in ("trainer", "preprocessor"):
                raise ParameterError.unknown([whose], ["trainer", "preprocessor"], where=type(self).__name__)
            if not rest:
                setattr(self, whose, value)
            elif whose == "trainer":
                self.trainer = self.trainer.replace({rest: value})
            elif self.preprocessor is not None:
                stage, _, parameter = rest.partition("__")
                self.preprocessor = self.preprocessor.replace({stage: {parameter: value}})
        return self

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the two parameters; nested ones are set with `trainer__…`.

        Parameters
        ----------
        deep
            Without effect: a trainer has no parameters of scikit-learn's kind.

        Returns
        -------
        dict
            `trainer` and `preprocessor`, the objects themselves.
        """
        return {"trainer": self.trainer, "preprocessor": self.preprocessor}

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:  # noqa: N803
        """Fit the preprocessor and train.

        Parameters
        ----------
        X
            A pandas or Polars table, or an array of shape (n, features); NaN and null are missing.
        y
            The labels (of any type) or values, shape (n,); none may be missing.
        sample_weight
            Weights of shape (n,), or None.

        Returns
        -------
        estimator
            This object.

        Raises
        ------
        ValueError
            Without `y`, and for what scikit-learn's own checks refuse.
        RaylineError
            As `train.fit`.
        """
        if y is None:
            raise ValueError(
                f"requires y to be passed, but the target y is None: {type(self).__name__} needs a target."
            )
        target = self._target(y)
        table = self._table(X, reset=True)
        check_consistent_length(table, target)
        table = table.with_columns(target.alias(TARGET))
        weight = None
        if sample_weight is not None:
            weight = WEIGHT
            table = table.with_columns(pl.Series(WEIGHT, sklearn_check_sample_weight(sample_weight, X)))
        preprocessor = None if self.preprocessor is None else self.preprocessor.clone()
        trainer = self.trainer.replace({})
        result = fit(trainer, preprocessor, table, target_columns=[TARGET], sample_weight=weight, verbose=False)
        self.result_ = self._answering_as_y(result)
        self.pipeline_: InferencePipeline = self.result_.inference_pipeline
        return self

    def predict(self, X: Any) -> Array:  # noqa: N803
        """Return the class or value of each row.

        Parameters
        ----------
        X
            As in `fit`, with the same columns, nulls too.

        Returns
        -------
        ndarray
            Shape (n,): classes in the type of `y`, values as float64.

        Raises
        ------
        NotFittedError
            scikit-learn's, before `fit`.
        SchemaError
            When a column has another type.
        """
        check_is_fitted(self)
        return self._predicted(self._table(X, reset=False))

    def _target(self, y: Any) -> pl.Series:
        """Return the labels or values as a framework learns them."""
        raise NotImplementedError

    def _answering_as_y(self, result: Result) -> Result:
        return result

    def _predicted(self, table: pl.DataFrame) -> Array:
        raise NotImplementedError


class RaylineClassifier(ClassifierMixin, _Estimator):
    """A classifier made of a trainer and a preprocessor.

    Parameters
    ----------
    trainer
        The trainer; it is copied, so the caller's object does not change.
    preprocessor
        The preprocessor, fitted again on each training set; None for no preprocessing.

    Attributes
    ----------
    classes_
        The classes in ascending order.
    pipeline_
        The fitted `InferencePipeline`; it answers with the labels themselves.

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

    def _target(self, y: Any) -> pl.Series:
        y = sklearn_check_y(y, self)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        # Codes as strings are classes for every framework and every type of label, and keep their order.
        width = len(str(len(self.classes_)))
        return pl.Series([str(code).zfill(width) for code in codes.tolist()], dtype=pl.String)

    def _answering_as_y(self, result: Result) -> Result:
        labels, model = pl.Series(self.classes_.tolist(), strict=True), result.model
        model.target = replace(model.target, dtypes=(labels.dtype,), classes=(tuple(labels.to_list()),))
        pipeline = InferencePipeline(result.inference_pipeline.preprocessor, model)
        return replace(result, inference_pipeline=pipeline)

    def _predicted(self, table: pl.DataFrame) -> Array:
        codes = self.pipeline_.target.codes(self.pipeline_.scores(table.lazy()))[0]
        labels: Array = self.classes_[codes.astype(np.int64)]
        return labels

    def predict_proba(self, X: Any) -> Array:  # noqa: N803
        """Return the probability of each class.

        Parameters
        ----------
        X
            As in `fit`, with the same columns, nulls too.

        Returns
        -------
        ndarray
            Shape (n, classes), in the order of `classes_`.

        Raises
        ------
        NotFittedError
            scikit-learn's, before `fit`.
        ParameterError
            For a model without probabilities.
        """
        check_is_fitted(self)
        probabilities: Array = self.pipeline_.predict_proba(self._table(X, reset=False)).to_numpy()
        return probabilities


class RaylineRegressor(RegressorMixin, _Estimator):
    """A regressor made of a trainer and a preprocessor.

    Parameters
    ----------
    trainer
        The trainer; it is copied, so the caller's object does not change.
    preprocessor
        The preprocessor, fitted again on each training set; None for no preprocessing.

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

    def _target(self, y: Any) -> pl.Series:
        return pl.Series(sklearn_check_y(y, self, is_numeric=True).astype(np.float64))

    def _predicted(self, table: pl.DataFrame) -> Array:
        values: Array = self.pipeline_.predict(table)["prediction"].to_numpy()
        return values


class RaylineTransformer(TransformerMixin, _Tables):
    """A preprocessor as a transformer, for use before any scikit-learn estimator, in a Pipeline or a ColumnTransformer.

    Parameters
    ----------
    preprocessor
        Its stages; a clone is fitted. Target stages do not apply.

    Attributes
    ----------
    preprocessor_
        The fitted preprocessor.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.sklearn import RaylineTransformer
    >>> from rayline.stages import OneHotEncoder
    >>> from rayline.train import Preprocessor
    >>> made = RaylineTransformer(Preprocessor([("onehot", OneHotEncoder())])).fit(pl.DataFrame({"c": ["a", "b"]}))
    >>> made.get_feature_names_out().tolist()
    ['c_a', 'c_b']
    """

    def __init__(self, preprocessor: Preprocessor | None = None) -> None:
        self.preprocessor = preprocessor

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: N803
        """Fit a clone of the preprocessor.

        Parameters
        ----------
        X
            A pandas or Polars table, or an array of shape (n, features); each stage says how it treats nulls.
        y
            The target, shape (n,), for stages that use it.

        Returns
        -------
        RaylineTransformer
            This object.

        Raises
        ------
        DataError, SchemaError
            As `Preprocessor.fit`.
        """
        self._fit(X, y)
        return self

    def fit_transform(self, X: Any, y: Any = None) -> Any:  # noqa: N803
        """Fit and return the transformed training rows, cross-fitted by stages that support it.

        Parameters
        ----------
        X, y
            As in `fit`, nulls too.

        Returns
        -------
        ndarray or sparse matrix
            As `transform`, shape (n, features).

        Raises
        ------
        DataError, SchemaError
            As `Preprocessor.fit`.
        """
        table = self._fit(X, y)
        return self._matrix(self.preprocessor_.transform_training(table))

    def transform(self, X: Any) -> Any:  # noqa: N803
        """Return the features.

        Parameters
        ----------
        X
            As in `fit`, with the same columns, nulls too.

        Returns
        -------
        ndarray or sparse matrix
            Float64, shape (n, features), missing as NaN; sparse if a stage makes sparse vectors.

        Raises
        ------
        NotFittedError
            scikit-learn's, before `fit`.
        SchemaError, DataError
            As `Preprocessor.transform`.
        """
        check_is_fitted(self)
        return self._matrix(self.preprocessor_.transform(self._table(X, reset=False)))

    def inverse_transform(self, X: Any) -> pl.DataFrame:  # noqa: N803
        """Return the table before `transform`.

        Parameters
        ----------
        X
            What `transform` returned, shape (n, features), or a Polars table with its columns; NaN is missing.

        Returns
        -------
        polars.DataFrame
            A row for each row, with the columns of `fit`.

        Raises
        ------
        NotFittedError
            scikit-learn's, before `fit`.
        ParameterError
            When a stage has no inverse.
        """
        check_is_fitted(self)
        names = list(self.preprocessor_.output_schema)
        table = X if isinstance(X, pl.DataFrame) else pl.DataFrame(np.asarray(X, dtype=np.float64), schema=names)
        schema = {name: dtype for name, dtype in self.preprocessor_.output_schema.items() if dtype.is_numeric()}
        inverted: pl.DataFrame = self.preprocessor_.inverse_transform(table.cast(schema))  # type: ignore[arg-type]
        return inverted

    def get_feature_names_out(self, input_features: Any = None) -> Array:
        """Return the names of the features; for vector columns those of their elements.

        Parameters
        ----------
        input_features
            Without effect: the names are those of `fit`.

        Returns
        -------
        ndarray
            Strings, shape (features,).

        Raises
        ------
        NotFittedError
            scikit-learn's, before `fit`.
        """
        check_is_fitted(self)
        return np.array(self.preprocessor_.feature_names_out, dtype=object)

    def _fit(self, X: Any, y: Any) -> pl.DataFrame:  # noqa: N803
        table = self._table(X, reset=True)
        targets = []
        if y is not None:
            check_consistent_length(table, y)
            targets = [TARGET]
            table = table.with_columns(pl.Series(TARGET, np.asarray(y).tolist()))
        stages = [] if self.preprocessor is None else self.preprocessor.clone().stages
        self.preprocessor_ = Preprocessor(stages).fit(table, target_columns=targets)
        return table

    def _matrix(self, table: pl.DataFrame) -> Any:
        schema = self.preprocessor_.output_schema
        return Features(table.select(map(col, schema)), schema=schema).matrix(np.float64)

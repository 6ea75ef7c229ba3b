"""Private names of scikit-learn."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from rayline.compat.private_name import register

SKLEARN = "scikit-learn 1.9.1"

_SKLEARN_TREE = register(
    "sklearn.tree._tree:Tree",
    SKLEARN,
    use="Recognise the compiled trees of an untrusted file, to check them.",
    fallback="The type of `tree_` of a fitted tree.",
)
_SKLEARN_PREDICTOR = register(
    "sklearn.ensemble._hist_gradient_boosting.predictor:TreePredictor",
    SKLEARN,
    use="Recognise the trees of histogram gradient boosting of an untrusted file, to check them.",
    fallback="A class without instances: files with such trees are refused, because their type is not a reviewed one.",
)
_SKLEARN_RECORD = register(
    "sklearn.ensemble._hist_gradient_boosting.common:PREDICTOR_RECORD_DTYPE",
    SKLEARN,
    use="Check the nodes of these trees.",
    fallback="None, which no array's dtype equals: files with such trees are refused.",
)
_SKLEARN_SVM = register(
    "sklearn.svm._base:BaseLibSVM",
    SKLEARN,
    *("_n_support", "_impl", "_dual_coef_", "_intercept_", "_probA", "_probB"),
    use="Recognise support vector machines of an untrusted file, and check what their compiled code reads.",
    fallback="The public classes of support vector machines; without one of the attributes the file is refused.",
)
_SKLEARN_NEIGHBORS = register(
    "sklearn.neighbors._base:NeighborsBase",
    SKLEARN,
    "_y",
    "_fit_X",
    use="Check that an untrusted model of neighbors has a label for each of its rows.",
    fallback="That is not checked.",
)
_SKLEARN_DISTANCE = register(
    "sklearn.metrics._dist_metrics:DistanceMetric64._validate_data",
    SKLEARN,
    use="Check the rows of an untrusted tree of neighbors with its distance's own check.",
    fallback="The file is refused.",
)
_SKLEARN_SCORER = register(
    "sklearn.metrics._scorer:_BaseScorer",
    SKLEARN,
    "_score_func",
    use="Name a metric that is given as a scorer; know the functions in scorers, which a file may name.",
    fallback="The scorer has no name and is refused; files with scorers are refused.",
)

PRIVATE_TYPES = tuple(
    register(
        path,
        SKLEARN,
        use="Accept it in an untrusted file: its type was reviewed.",
        fallback="Files with it are refused.",
    ).path
    for path in (
        "sklearn.calibration:_CalibratedClassifier",
        "sklearn.calibration:_SigmoidCalibration",
        "sklearn.calibration:_TemperatureScaling",
        "sklearn.gaussian_process._gpc:_BinaryGaussianProcessClassifierLaplace",
        "sklearn.impute._iterative:_ImputerTriplet",
        "sklearn.multiclass:_ConstantPredictor",
        "sklearn.metrics._scorer:_CurveScorer",
        "sklearn.metrics._scorer:_PassthroughScorer",
        "sklearn.metrics._scorer:_Scorer",
    )
)
"""Private classes of scikit-learn that estimators consist of, as `module:name`: plain objects of numbers and of other such objects."""

_SKLEARN_CHECK_Y = register(
    "sklearn.utils.validation:_check_y",
    SKLEARN,
    use="Validate a target as scikit-learn's own estimators do.",
    fallback="The same checks with public functions; complex numbers are refused later.",
)
_SKLEARN_CHECK_WEIGHT = register(
    "sklearn.utils.validation:_check_sample_weight",
    SKLEARN,
    use="Validate sample weights as scikit-learn's own estimators do.",
    fallback="The same checks with public functions.",
)


def sklearn_check_y(y: Any, estimator: Any, *, is_numeric: bool = False) -> Any:
    """Return a target as a 1-D array. Raises ValueError for other shapes, NaN and infinity."""
    check = _SKLEARN_CHECK_Y.find()
    if check is not None:
        return check(y, y_numeric=is_numeric, estimator=estimator)
    from sklearn.utils import assert_all_finite, column_or_1d

    y = column_or_1d(y, warn=True)
    assert_all_finite(y, input_name="y")
    return y.astype(float) if is_numeric and y.dtype.kind == "O" else y


def sklearn_check_sample_weight(weight: Any, rows: Any) -> Any:
    """Return sample weights as an array of shape (n,). Raises ValueError for other shapes, NaN and infinity."""
    check = _SKLEARN_CHECK_WEIGHT.find()
    if check is not None:
        return check(weight, rows)
    import numpy as np
    from sklearn.utils import check_array

    n_rows = rows.shape[0] if hasattr(rows, "shape") else len(rows)
    if np.ndim(weight) == 0:
        weight = np.full(n_rows, weight, np.float64)
    weight = check_array(weight, ensure_2d=False, dtype=[np.float64, np.float32], input_name="sample_weight")
    if weight.shape != (n_rows,):
        raise ValueError(f"sample_weight.shape == {weight.shape}, expected {(n_rows,)}!")
    return weight


class _NoInstances:
    pass


class SklearnTypes(NamedTuple):
    """Types whose compiled code trusts the numbers it is given."""

    tree: type
    histogram_tree: type
    histogram_record: Any
    support_vectors: tuple[type, ...]


@functools.cache
def sklearn_types() -> SklearnTypes:
    """Return the types of scikit-learn that a check of an untrusted file looks for."""
    from sklearn.svm import SVC, SVR, NuSVC, NuSVR, OneClassSVM
    from sklearn.tree import DecisionTreeRegressor

    svm = _SKLEARN_SVM.find()
    return SklearnTypes(
        _SKLEARN_TREE.find() or type(DecisionTreeRegressor().fit([[0.0], [1.0]], [0.0, 1.0]).tree_),
        _SKLEARN_PREDICTOR.find() or _NoInstances,
        _SKLEARN_RECORD.find(),
        (SVC, SVR, NuSVC, NuSVR, OneClassSVM) if svm is None else (svm,),
    )


def scorer_function(metric: Any) -> Any:
    """Return the function in one of scikit-learn's scorers; anything else as it is."""
    return getattr(metric, "_score_func", metric)


def has_other_labels_than_rows(neighbors: Any) -> bool:
    """Return whether a model of neighbors has another number of labels than of rows."""
    rows, labels = getattr(neighbors, "_fit_X", None), getattr(neighbors, "_y", None)
    return rows is not None and labels is not None and len(labels) != rows.shape[0]


def validate_for_distance(metric: Any, rows: Any) -> None:
    """Raise ValueError when a distance is not defined for these rows."""
    metric._validate_data(rows)


class SupportVectors(NamedTuple):
    """The arrays that the compiled code of a support vector machine reads."""

    counts: Any
    is_classifier: bool
    dual_coef: Any
    intercept: Any
    probabilities: tuple[Any, Any]


def support_vectors(model: Any) -> SupportVectors:
    """Return the arrays of a fitted support vector machine. Raises ValueError when one is missing."""
    try:
        return SupportVectors(
            model._n_support,
            model._impl in ("c_svc", "nu_svc"),
            model._dual_coef_,
            model._intercept_,
            (model._probA, model._probB),
        )
    except AttributeError as error:
        raise ValueError(str(error)) from error

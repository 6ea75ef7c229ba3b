"""Importances against scikit-learn's permutation_importance, and the mean size of contributions.

Covers `core.row_weights` too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression, Ridge

import rayline as rl
from rayline import evaluate, train
from tests.evaluate.test_explain import COLUMNS, fitted, table

NUMBERS = ["a", "c"]


def linear(estimator: Any, target: str) -> tuple[rl.InferencePipeline, Any]:
    rows = table().select(*NUMBERS, target)
    pipeline = train.fit(train.SklearnTrainer(estimator), None, rows, None, [target], verbose=False).inference_pipeline
    return pipeline, pipeline.model.native


@pytest.mark.parametrize(
    ("estimator", "target", "metric", "scoring"),
    [
        (LogisticRegression(), "late", "log_loss", "neg_log_loss"),
        (LogisticRegression(), "late", "roc_auc", "roc_auc"),
        (LogisticRegression(), "kind", "accuracy", "accuracy"),
        (Ridge(), "y", "rmse", "neg_root_mean_squared_error"),
        (Ridge(), "y", "r2", "r2"),
    ],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_permutation_importance_is_scikit_learns(
    estimator: Any, target: str, metric: str, scoring: str, weighted: bool
) -> None:
    pipeline, native = linear(estimator, target)
    rows = table(200, seed=3).with_columns(w=pl.col("c").abs() + 0.1)
    x, y = rows.select(NUMBERS).to_numpy(), rows[target].to_numpy()
    if target != "y":
        y = rows[target].replace_strict(pipeline.classes, range(len(pipeline.classes))).to_numpy()
    oracle = permutation_importance(
        native,
        x,
        y,
        scoring=scoring,
        n_repeats=4,
        random_state=7,
        sample_weight=rows["w"].to_numpy() if weighted else None,
    )
    found = pipeline.importance(
        "permutation", rows=rows, metric=metric, n_repeats=4, seed=7, sample_weight="w" if weighted else None
    )
    assert found is not None
    np.testing.assert_allclose(list(found.values()), oracle.importances_mean, atol=1e-12)


def test_the_importance_of_contributions_is_their_mean_size() -> None:
    pipeline = fitted(train.XGBoostTrainer({"max_depth": 3, "nthread": 1}, num_boost_round=5), "late")
    rows = table(100, seed=1)
    made = pipeline.explain(rows)
    assert pipeline.importance("shap", rows=rows) == pytest.approx(
        {c: made[c].abs().mean() for c in COLUMNS}, rel=1e-12
    )
    assert pipeline.importance(kind="shap", rows=rows.lazy()) == pytest.approx(
        pipeline.importance("shap", rows=rows), rel=1e-12
    )
    assert pipeline.importance("shap") is not None
    assert pipeline.importance() == pipeline.importance(kind="gain", by="raw")
    assert pipeline.importance("gain", by="feature") == pipeline.model.importance()


def test_a_users_own_metric() -> None:
    pipeline, _ = linear(Ridge(), "y")

    def cost(y_true: Any, y_pred: Any) -> float:
        return float(np.abs(y_true - y_pred).mean())

    rows, declared = table(100, seed=3), evaluate.metric(cost, mode="min")
    assert pipeline.importance("permutation", rows=rows, metric=declared)["a"] > 0  # type: ignore[index]
    with pytest.raises(rl.ParameterError, match="direction"):
        pipeline.importance("permutation", rows=rows, metric=cost)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kind": "shapley"}, "kind"),
        ({"kind": "shap", "by": "feature"}, "by='feature'"),
        ({"by": "column"}, "by"),
        ({"kind": "permutation"}, "needs rows with labels"),
        ({"kind": "permutation", "rows": table(20), "metric": "rmse"}, "rmse"),
        ({"kind": "permutation", "rows": table(20), "n_repeats": 0}, "n_repeats"),
        ({"kind": "permutation", "rows": table(20).drop("late")}, "late"),
        ({"kind": "shap", "rows": table(20).drop("a")}, "a"),
        ({"kind": "shap", "rows": table(0)}, "no rows"),
        ({"kind": "permutation", "rows": table(20), "seed": -1}, "seed"),
        ({"kind": "permutation", "rows": table(20), "sample_weight": "late"}, "weights"),
        ({"kind": "permutation", "rows": table(20).with_columns(a=-1.0), "sample_weight": "a"}, "negative"),
        ({"kind": "permutation", "rows": table(20).with_columns(late=pl.lit("?"))}, "importance: the target 'late'"),
    ],
)
def test_wrong_use_is_refused(arguments: dict[str, Any], words: str) -> None:
    pipeline, _ = linear(LogisticRegression(), "late")
    with pytest.raises(rl.RaylineError, match=words):
        pipeline.importance(**arguments)

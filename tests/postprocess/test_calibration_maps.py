"""The maps against scikit-learn's calibration and SciPy's minimisation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, special
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from rayline.postprocess import calibration_maps as maps

METHODS: dict[str, Any] = {
    "isotonic": maps.isotonic,
    "sigmoid": maps.sigmoid,
    "beta": maps.beta,
    "temperature": maps.temperature,
}


def rows(n: int = 500, seed: int = 0) -> tuple[Any, Any, Any]:
    """Overconfident probabilities with ties, labels and weights."""
    random = np.random.default_rng(seed)
    z = np.round(random.normal(size=n), 2)
    y = (random.random(n) < special.expit(z - 0.3)).astype(float)
    return special.expit(3 * z), y, random.integers(1, 4, n).astype(float)


def log_loss(p: Any, y: Any, w: Any) -> float:
    p = np.clip(p, 1e-300, 1 - 1e-16)
    return float(-(w * (y * np.log(p) + (1 - y) * np.log1p(-p))).sum())


def test_isotonic_is_scikit_learns() -> None:
    p, y, w = rows()
    oracle = IsotonicRegression(out_of_bounds="clip").fit(p, y, sample_weight=w)
    asked = np.concatenate([p, np.linspace(0, 1, 999)])
    np.testing.assert_allclose(maps.isotonic(p, y, w).of(asked), oracle.predict(asked), rtol=0, atol=1e-12)


def test_sigmoid_is_scikit_learns_on_the_decision_function() -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=(400, 2))
    y = random.random(400) < special.expit(x[:, 0])
    model = LogisticRegression(C=100).fit(x[:100], y[:100])
    oracle = CalibratedClassifierCV(FrozenEstimator(model), method="sigmoid", ensemble=False).fit(x, y)
    p = model.predict_proba(x)[:, 1]
    mine = maps.sigmoid(p, y.astype(float), np.ones(400)).of(p)
    np.testing.assert_allclose(mine, oracle.predict_proba(x)[:, 1], atol=2e-5)  # L-BFGS stops at its own tolerance


def test_beta_and_temperature_minimise_the_log_loss() -> None:
    p, y, w = rows()
    logs = np.log(p), np.log1p(-p)
    best = optimize.minimize(
        lambda v: log_loss(special.expit(v[0] * logs[0] - v[1] * logs[1] + v[2]), y, w), np.ones(3), tol=1e-12
    )
    made = maps.beta(p, y, w)
    assert log_loss(made.of(p), y, w) <= best.fun * (1 + 1e-9)
    np.testing.assert_allclose([made.a, made.b, made.c], best.x, atol=1e-3)
    one = optimize.minimize_scalar(
        lambda t: log_loss(special.expit(special.logit(p) / t), y, w),
        bounds=(0.1, 20),
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert 1 / maps.temperature(p, y, w).a == pytest.approx(one.x, rel=1e-6)


def test_beta_stays_monotone() -> None:
    random = np.random.default_rng(3)
    p = random.random(300)
    y = (random.random(300) < 1 - p).astype(float)  # the model is upside down
    made = maps.beta(p, y, np.ones(300))
    assert min(made.a, made.b) >= 0


def test_the_temperature_of_several_classes_minimises_the_log_loss() -> None:
    random = np.random.default_rng(5)
    logits = random.normal(size=(400, 3)) * 2
    y = np.array([random.choice(3, p=special.softmax(row / 3)) for row in logits])
    own = np.arange(400), y
    best = optimize.minimize_scalar(
        lambda b: -special.log_softmax(b * logits, axis=1)[own].sum(),
        bounds=(0.01, 5),
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert maps.inverse_temperature(logits, y, np.ones(400)) == pytest.approx(best.x, rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_separated_labels_give_finite_numbers(method: str) -> None:
    p = np.linspace(0.01, 0.99, 40)
    made = METHODS[method](p, (p > 0.5).astype(float), np.ones(40)).of(np.array([0.0, 0.2, 0.8, 1.0]))
    assert np.isfinite(made).all()
    assert (made[:2] < 0.5).all()
    assert (made[2:] > 0.5).all()


@pytest.mark.parametrize("method", METHODS)
@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_one_value_gives_the_bits_of_many(method: str, p: list[float]) -> None:
    own = METHODS[method](*rows(60))
    assert [own.one(v) for v in p] == own.of(np.array(p)).tolist()
    assert maps.map_from_json(own.to_json()) == own


@pytest.mark.parametrize(
    "wrong", [{"x": [], "y": []}, {"x": [0.5, 0.1], "y": [0, 1]}, {"x": [0.1], "y": [float("inf")]}, {"a": 1, "b": 1, "c": float("nan")}]
)  # fmt: skip
def test_maps_of_a_damaged_file_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        maps.map_from_json(wrong)

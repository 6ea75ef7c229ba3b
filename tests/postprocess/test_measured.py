"""Coverage and calibration, measured on held-out rows of five tables and five overconfident models."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.tree import DecisionTreeClassifier

from rayline import train
from rayline.postprocess import Calibrate, Conformal

N_TRAIN, N_CALIBRATION, N_TEST = 2_000, 5_000, 20_000


def regression(kind: str, n: int, seed: int) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 4))
    signal = 3 * x[:, 0] + np.sin(3 * x[:, 1]) * x[:, 2]
    noise = {
        "normal": random.normal(size=n),
        "heavy tails": random.standard_t(2, n),
        "skewed": random.exponential(size=n),
        "unequal spread": random.normal(size=n) * (0.2 + np.abs(x[:, 0])),
        "counts": random.poisson(np.exp(np.clip(x[:, 0], -2, 2))) - signal,
    }[kind]
    return pl.DataFrame(x, schema=["a", "b", "c", "d"]).with_columns(y=signal + noise)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["normal", "heavy tails", "skewed", "unequal spread", "counts"])
def test_intervals_cover_90_percent(kind: str) -> None:
    trainer = train.XGBoostTrainer({"max_depth": 6, "nthread": 1}, num_boost_round=60, seed=1)
    pipeline = train.fit(trainer, None, regression(kind, N_TRAIN, 0), None, ["y"], verbose=False).inference_pipeline
    made = pipeline.calibrated([Conformal(coverage=0.9)], regression(kind, N_CALIBRATION, 1))
    test = regression(kind, N_TEST, 2)
    table = test.with_columns(made.predict(test, interval=True))
    covered = table.select(pl.col("y").is_between("lower", "upper").mean()).item()
    print(f"{kind}: coverage {covered:.4f}, radius {made.postprocessing[0].state['radius'][0]:.3f}")  # noqa: T201
    assert covered == pytest.approx(0.9, abs=0.015)


def classification(n: int, seed: int) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 6))
    twins = {f"twin_{i}": x[:, 0] + 0.1 * random.normal(size=n) for i in range(4)}  # naive Bayes counts them five times
    p = 1 / (1 + np.exp(-1.5 * x[:, 0] - x[:, 1] * x[:, 2]))
    late = np.where(random.random(n) < p, "yes", "no")
    return pl.DataFrame(x, schema=list("abcdef")).with_columns(
        **{k: pl.Series(v) for k, v in twins.items()}, late=pl.Series(late)
    )


OVERCONFIDENT: dict[str, Any] = {
    "deep boosting": train.XGBoostTrainer({"max_depth": 8, "eta": 0.5, "nthread": 1}, num_boost_round=150, seed=1),
    "naive Bayes": train.SklearnTrainer(GaussianNB()),
    "neural network": train.SklearnTrainer(MLPClassifier((64, 64), max_iter=150, random_state=0, early_stopping=False)),
    "tree": train.SklearnTrainer(DecisionTreeClassifier(min_samples_leaf=3, random_state=0)),
    "boosted leaves": train.LightGBMTrainer({"verbose": -1, "num_threads": 1, "num_leaves": 127, "min_data_in_leaf": 3, "objective": "binary"}, num_boost_round=150),
}  # fmt: skip


def expected_calibration_error(p: Any, truth: Any) -> float:
    """Guo and others (2017), 15 bins of equal width."""
    bins = np.minimum((p * 15).astype(int), 14)
    return float(sum(abs(p[bins == b].mean() - truth[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", OVERCONFIDENT)
def test_the_calibration_error_falls(name: str) -> None:
    result = train.fit(OVERCONFIDENT[name], None, classification(N_TRAIN, 0), None, ["late"], verbose=False)
    pipeline, rows, test = result.inference_pipeline, classification(N_CALIBRATION, 1), classification(N_TEST, 2)
    truth = (test["late"] == "yes").to_numpy()

    def error(of: Any) -> float:
        return expected_calibration_error(of.predict_proba(test)["probability_yes"].to_numpy(), truth)

    before = error(pipeline)
    after = {
        m: error(pipeline.calibrated([Calibrate(m)], rows)) for m in ("isotonic", "sigmoid", "beta", "temperature")
    }
    print(f"{name}: ECE {before:.4f} -> {', '.join(f'{m} {e:.4f}' for m, e in after.items())}")  # noqa: T201
    assert before > 0.04
    assert all(e < before for e in after.values())
    assert min(after.values()) < 0.02

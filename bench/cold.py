"""A small search from a cold start, each way in a process of its own: `python -m bench.cold rayline|loop|randomized`.

20 configurations × 5 folds of XGBoost with 20 rounds on breast cancer (569 × 30). Imports are inside, as they are part of what a
user waits for; no way imports what the others need.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

TRIALS, FOLDS, ROUNDS = 20, 5, 20


def rayline() -> float:
    """In threads of this process."""
    from sklearn.datasets import load_breast_cancer

    from rayline import train, tune

    x, y = load_breast_cancer(return_X_y=True)
    analysis = tune.run(
        train.XGBoostTrainer({"objective": "binary:logistic"}, num_boost_round=ROUNDS),
        X=x,
        y=y,
        cv=FOLDS,
        config={
            "max_depth": tune.randint(2, 9),
            "eta": tune.loguniform(0.05, 0.5),
            "subsample": tune.uniform(0.5, 1.0),
        },
        metric="log_loss",
        num_samples=TRIALS,
        verbose=False,
    )
    return analysis.best_score


def loop() -> float:
    """By hand."""
    import numpy as np
    import xgboost
    from sklearn.datasets import load_breast_cancer
    from sklearn.metrics import log_loss
    from sklearn.model_selection import KFold

    x, y = load_breast_cancer(return_X_y=True)
    random = np.random.default_rng(0)
    folds = list(KFold(FOLDS, shuffle=True, random_state=0).split(x))
    best = np.inf
    for _ in range(TRIALS):
        config = {
            "max_depth": int(random.integers(2, 9)),
            "eta": float(np.exp(random.uniform(np.log(0.05), np.log(0.5)))),
            "subsample": float(random.uniform(0.5, 1.0)),
        }
        scores = []
        for part, held in folds:
            params = {"objective": "binary:logistic", "nthread": 1, **config}
            booster = xgboost.train(params, xgboost.DMatrix(x[part], y[part]), ROUNDS)
            scores.append(log_loss(y[held], booster.predict(xgboost.DMatrix(x[held]))))
        best = min(best, float(np.mean(scores)))
    return best


def randomized() -> float:
    """By scikit-learn, in two processes."""
    import scipy.stats
    import xgboost
    from sklearn.datasets import load_breast_cancer
    from sklearn.model_selection import KFold, RandomizedSearchCV

    x, y = load_breast_cancer(return_X_y=True)
    search = RandomizedSearchCV(
        xgboost.XGBClassifier(n_estimators=ROUNDS, n_jobs=1),
        {
            "max_depth": scipy.stats.randint(2, 9),
            "learning_rate": scipy.stats.loguniform(0.05, 0.5),
            "subsample": scipy.stats.uniform(0.5, 0.5),
        },
        n_iter=TRIALS,
        cv=KFold(FOLDS, shuffle=True, random_state=0),
        scoring="neg_log_loss",
        n_jobs=2,
        random_state=0,
        refit=False,
    )
    return -float(search.fit(x, y).best_score_)


WAYS: dict[str, Callable[[], float]] = {"rayline": rayline, "loop": loop, "randomized": randomized}


def alone(way: str) -> None:
    """Run one way in a process of its own, and check that its score is one of this problem."""
    done = subprocess.run([sys.executable, "-m", "bench.cold", way], capture_output=True, text=True, check=True)
    score = float(done.stdout.split()[-1])
    assert 0.05 < score < 0.2, f"{way}: {score}"


if __name__ == "__main__":
    sys.stdout.write(f"{WAYS[sys.argv[1]]()}\n")

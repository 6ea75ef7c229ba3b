"""scikit-learn estimators, with themselves fitted by hand as the oracle.

Covers `frameworks.verify.sklearn_model` too.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import skops.io
from scipy.stats import loguniform
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.ensemble import (
    BaggingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern, WhiteKernel
from sklearn.linear_model import LogisticRegression, Perceptron, Ridge, SGDClassifier, SGDRegressor, TweedieRegressor
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    RandomizedSearchCV,
    StratifiedKFold,
    TunedThresholdClassifierCV,
)
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.semi_supervised import SelfTrainingClassifier
from sklearn.svm import SVC, LinearSVC
from sklearn.utils import all_estimators
from typer.testing import CliRunner

import rayline as rl
from rayline import cli, train, tune
from rayline.core import registry, row_stream
from rayline.core.framework import Rows, TrainContext
from rayline.core.target import Target, Task
from rayline.inference.pipeline import Preprocessor
from rayline.serve.app import create_app
from tests.serve.conftest import Client

ADAPTER = registry.framework("sklearn")


def numbers(n: int = 300) -> pl.DataFrame:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, n))
    return pl.DataFrame(
        {"a": a, "b": b, "code": (a > b).astype(int), "many": np.digitize(a, [-1, 1]), "y": a * 2 - b, "z": a + b}
    )


def fit(estimator: Any, *targets: str, **options: Any) -> Any:
    table = numbers().select("a", "b", *targets)
    return train.SklearnTrainer(estimator, **options).fit(None, table, table, list(targets), verbose=False)


def test_equals_the_estimator_by_hand() -> None:
    table = numbers()
    x = table.select("a", "b").to_numpy(order="c")  # sums of products depend on the order
    result = fit(LogisticRegression(C=0.3), "code")
    by_hand = LogisticRegression(C=0.3).fit(x, table["code"].to_numpy())
    assert (result.model.scores(table.lazy()) == by_hand.predict_proba(x)[:, 1]).all()
    assert result.inference_pipeline.predict(table)["prediction"].to_list() == by_hand.predict(x).tolist()
    assert result.metrics["test-accuracy"] == by_hand.score(x, table["code"].to_numpy())


DECIDING = [
    FixedThresholdClassifier(LogisticRegression(), threshold=0.9),
    TunedThresholdClassifierCV(LogisticRegression(), cv=3),
    SVC(),
    SVC(decision_function_shape="ovo"),
    LinearSVC(),
    Perceptron(),
    SGDClassifier(loss="modified_huber", random_state=0),
    OneVsOneClassifier(LinearSVC()),
    OneVsRestClassifier(LogisticRegression()),
    VotingClassifier([("a", LogisticRegression()), ("b", GaussianNB())], voting="soft"),
    VotingClassifier([("a", LogisticRegression()), ("b", GaussianNB())]),
    make_pipeline(StandardScaler(), SVC()),
    RandomForestClassifier(5, random_state=0),
    KNeighborsClassifier(2),
    QuadraticDiscriminantAnalysis(),
]


@pytest.mark.parametrize(
    ("estimator", "label"),
    [*((e, "code") for e in DECIDING), *((e, "many") for e in DECIDING if "Threshold" not in type(e).__name__)],
    ids=lambda value: repr(value)[:40],
)
def test_labels_are_those_of_predict(estimator: Any, label: str, tmp_path: Path) -> None:
    table = numbers()
    x, y = table.select("a", "b").to_numpy(order="c"), table[label].to_numpy()
    result = fit(estimator, label)
    by_hand = clone(estimator).fit(x, y)
    expected = by_hand.predict(x)
    pipeline = result.inference_pipeline
    assert pipeline.predict(table)["prediction"].to_list() == expected.tolist()
    rows = table.select("a", "b").head(30).to_dicts()
    assert [row["prediction"] for row in pipeline.predict(rows)] == expected[:30].tolist()
    assert result.metrics["test-accuracy"] == by_hand.score(x, y)
    if hasattr(by_hand, "predict_proba"):
        proba = by_hand.predict_proba(x)
        assert (pipeline.predict_proba(table).to_numpy()[:, -1] == proba[:, -1]).all()
        assert list(pipeline.predict_proba(rows)[0].values())[-1] == proba[0, -1]
    else:
        with pytest.raises(rl.ParameterError, match="no probabilities"):
            pipeline.predict_proba(table)
    native = Preprocessor([]).fit(table.select("a", "b")).chain(by_hand)
    assert native.predict(table)["prediction"].to_list() == expected.tolist()
    words = np.array(["x", "a", "m"])[y]
    native = Preprocessor([]).fit(table.select("a", "b")).chain(clone(estimator).fit(x, words))
    assert native.predict(table)["prediction"].to_list() == native.model.native.predict(x).tolist()


def test_labels_of_several_targets_are_those_of_predict() -> None:
    table = numbers().with_columns(up=(pl.col("y") > 0).cast(int))
    x, y = table.select("a", "b").to_numpy(order="c"), table.select("code", "up").to_numpy()
    for estimator in (
        MultiOutputClassifier(FixedThresholdClassifier(LogisticRegression(), threshold=0.9)),
        MultiOutputClassifier(LinearSVC()),
        ClassifierChain(LogisticRegression()),
        MLPClassifier((4,), max_iter=30, random_state=0),
        RandomForestClassifier(5, random_state=0),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = train.SklearnTrainer(estimator).fit(
                None, table.select("a", "b", "code", "up"), None, ["code", "up"], verbose=False
            )
            expected = clone(estimator).fit(x, y).predict(x)
        assert (result.inference_pipeline.predict(table).to_numpy() == expected).all()


@pytest.mark.parametrize("label", ["code", "many"])
def test_margins_rank_rows(label: str) -> None:
    """With scikit-learn's own decision_function; `roc_auc` of several classes is the mean of one against the rest."""
    table = numbers()
    x, y = table.select("a", "b").to_numpy(order="c"), table[label].to_numpy()
    data = table.select("a", "b", label)
    metrics = ["roc_auc", "average_precision", "accuracy"]
    result = train.SklearnTrainer(SVC(C=0.01)).fit(None, data, data, [label], metrics=metrics, verbose=False)
    margins = SVC(C=0.01).fit(x, y).decision_function(x)
    columns = {1: margins} if margins.ndim == 1 else dict(enumerate(margins.T))
    assert result.metrics["test-roc_auc"] == np.mean([roc_auc_score(y == c, m) for c, m in columns.items()])
    with pytest.raises(rl.ParameterError, match="no probabilities"):
        train.SklearnTrainer(SVC()).fit(None, data, data, [label], metrics=["log_loss"], verbose=False)


def test_decisions_are_saved_and_served(tmp_path: Path) -> None:
    table = numbers().select("a", "b", "code")
    estimator = FixedThresholdClassifier(LogisticRegression(), threshold=0.9)
    pipeline = fit(estimator, "code").inference_pipeline
    expected = (
        clone(estimator)
        .fit(table.select("a", "b").to_numpy(), table["code"].to_numpy())
        .predict(table.select("a", "b").to_numpy())
    )
    path = tmp_path / "d.rayline"
    pipeline.save(path)
    loaded = rl.load(path)
    assert loaded.predict(table)["prediction"].to_list() == expected.tolist()
    assert pickle.loads(pickle.dumps(loaded)).predict(table).equals(pipeline.predict(table))
    client = Client(create_app(loaded))
    try:
        for n in (3, 40):
            rows = table.select("a", "b").head(n).to_dicts()
            answer = client.post("/predict", json={"rows": rows, "proba": True}).json()
            assert answer["predictions"] == expected[:n].tolist()
            assert [p["1"] for p in answer["probabilities"]] == pipeline.predict_proba(table)[
                "probability_1"
            ].to_list()[:n]
    finally:
        client.close()


@pytest.mark.ray
def test_decisions_are_tuned(ray_session: Any) -> None:
    table = numbers().select("a", "b", "code")
    analysis = tune.run(
        train.SklearnTrainer(FixedThresholdClassifier(LogisticRegression())),
        data_config={"train_pipeline": None, "train_dataset": table, "cv": 3, "target_columns": ["code"]},
        config={"threshold": tune.choice([0.9])},
        metric="accuracy",
        num_samples=1,
        verbose=False,
    )
    oof = analysis.oof
    assert np.isclose((oof["prediction"] == oof["code"]).mean(), analysis.best_score, atol=0.01)
    assert ((oof["probability_1"] > 0.9) == (oof["prediction"] == 1)).all()


def test_integers_are_classes_for_a_classifier_and_numbers_for_a_regressor() -> None:
    assert fit(LogisticRegression(), "code").model.target.task is Task.BINARY
    assert fit(LogisticRegression(), "many").model.target.task is Task.MULTICLASS
    assert fit(Ridge(), "many").model.target.task is Task.REGRESSION


def test_several_targets() -> None:
    table = numbers()
    result = fit(RandomForestRegressor(5), "y", "z", seed=1)
    assert result.inference_pipeline.predict(table).columns == ["prediction_y", "prediction_z"]
    both = train.SklearnTrainer(RandomForestClassifier(5), seed=1).fit(
        None, table.select("a", "b", "code", up=pl.col("y") > 0), None, ["code", "up"], verbose=False
    )
    assert both.inference_pipeline.predict(table).schema == {"prediction_code": pl.Int64, "prediction_up": pl.Boolean}
    assert ADAPTER.inspect(both.fitted_model).n_targets == 2


def test_pipelines_and_tuned_parameters() -> None:
    trainer = train.SklearnTrainer(make_pipeline(StandardScaler(), SGDClassifier()), seed=5)
    other = trainer.replace({"sgdclassifier__alpha": 0.5})
    assert other.args[0].get_params()["sgdclassifier__alpha"] == 0.5
    assert trainer.args[0].get_params()["sgdclassifier__alpha"] != 0.5
    table = numbers().select("a", "b", "code")
    fitted = other.fit(None, table, None, "code", verbose=False).fitted_model
    assert fitted.get_params()["sgdclassifier__random_state"] == 5
    assert not hasattr(other.args[0], "classes_")
    with pytest.raises(rl.ParameterError, match=r"'alhpa'(.|\n)*"):
        trainer.replace({"alhpa": 1})


@pytest.mark.parametrize("wrong", [RandomForestClassifier, StandardScaler(), "forest", None])
def test_what_is_no_estimator_is_refused(wrong: Any) -> None:
    with pytest.raises(rl.ParameterError, match="estimator has a wrong value"):
        train.SklearnTrainer(wrong)


def test_epochs_need_partial_fit() -> None:
    with pytest.raises(rl.ParameterError, match="epochs"):
        train.SklearnTrainer(Ridge(), epochs=3)


def test_weights_that_an_estimator_does_not_take() -> None:
    with pytest.raises(rl.DataError, match="takes no sample weights"):
        fit(KNeighborsClassifier(), "code", class_weight="balanced")


@pytest.mark.parametrize("held_bytes", [None, 0])
def test_blocks_are_streamed(held_bytes: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if held_bytes is not None:
        monkeypatch.setattr(row_stream, "HELD_BYTES", held_bytes)
    table = numbers()
    target = Target(("code",), Task.BINARY, (pl.Int64(),), ((0, 1),))
    schema = table.select("a", "b").schema
    rows = Rows([lambda i=i: table[i * 100 : (i + 1) * 100] for i in range(3)], schema, target, None)  # type: ignore[misc]
    told: list[Any] = []
    context = TrainContext(
        rows, Rows.of(table, schema, target), target, seed=1, report=lambda i, m: told.append((i, m)) or i == 2
    )
    model = ADAPTER.train(context, SGDClassifier(), epochs=10)
    by_hand = SGDClassifier(random_state=1)
    for _ in range(3):
        for i in range(3):
            part = table[i * 100 : (i + 1) * 100]
            by_hand.partial_fit(part.select("a", "b").to_numpy(), part["code"].to_numpy(), classes=[0, 1])
    assert (model.coef_ == by_hand.coef_).all()
    assert [i for i, _ in told] == [0, 1, 2]
    assert told[-1][1]["test-accuracy"] == by_hand.score(table.select("a", "b").to_numpy(), table["code"].to_numpy())


@pytest.mark.parametrize("weight", [None, "w"])
def test_scores_of_streamed_rows_are_those_of_all(weight: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_stream, "HELD_BYTES", 0)
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 2))
    table = pl.DataFrame(
        {"a": x[:, 0], "b": x[:, 1], "y": 1e6 + 2 * x[:, 0] + random.normal(size=300), "w": random.integers(0, 3, 300)}
    )
    target = Target(("y",), Task.REGRESSION, (pl.Float64(),))
    blocks = [lambda i=i: table[i * 100 : (i + 1) * 100] for i in range(3)]
    rows = Rows(blocks, table.select("a", "b").schema, target, weight)  # type: ignore[arg-type]
    told: list[Any] = []
    context = TrainContext(rows, rows, target, seed=1, report=lambda i, m: bool(told.append(m)))  # type: ignore[func-returns-value]
    model = ADAPTER.train(context, SGDRegressor(eta0=1e-3), epochs=2)
    weights = None if weight is None else table["w"].to_numpy()
    expected = model.score(table.select("a", "b").to_numpy(), table["y"].to_numpy(), weights)
    assert told[-1]["test-r2"] == pytest.approx(expected, rel=1e-6)


MEMORY = """
import numpy as np, polars as pl
from sklearn.linear_model import SGDRegressor
from rayline.core import registry
from rayline.core.framework import Rows, TrainContext
from rayline.core.target import Target, Task

names = [f"x{i}" for i in range(12)]
target = Target(("y",), Task.REGRESSION, (pl.Float64(),))

class Block:
    n_rows = 100_000
    def __call__(self):
        values = np.random.default_rng(0).normal(size=(12, self.n_rows))
        return pl.DataFrame({**dict(zip(names, values)), "y": values[0]})

def peak():
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status["VmHWM"].split()[0]) / 1024

def train(n):
    rows = Rows([Block()] * n, {name: pl.Float64() for name in names}, target, None)
    registry.framework("sklearn").train(TrainContext(rows, rows, target, seed=1), SGDRegressor(), epochs=1)

train(16)
before = peak()
train(48)
print(peak() - before)
"""


@pytest.mark.slow
def test_the_process_does_not_grow_with_the_rows_of_epochs() -> None:
    made = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True, timeout=300)
    assert float(made.stdout.split()[-1]) < 40.0


class Strange(LogisticRegression):
    """An estimator of the caller's own."""


# -- files -------------------------------------------------------------------------------------------------------------


def test_types_are_trusted_by_the_caller_alone(tmp_path: Path) -> None:
    path = tmp_path / "h.rayline"
    result = fit(Strange(), "code")
    result.inference_pipeline.save(path)
    with pytest.raises(rl.ArtifactError, match="not trusted(.|\n)*Strange"):  # noqa: RUF043
        rl.load(path)
    with pytest.raises(rl.ArtifactError, match="not trusted"):
        rl.load(path, trusted=["sklearn.ensemble._forest.RandomForestClassifier"])
    with pytest.raises(rl.ParameterError, match="trusted"):
        rl.load(path, trust=["everything"])
    trusted = [f"{__name__}.Strange"]
    assert rl.load(path, trusted=trusted).predict(numbers()).equals(result.inference_pipeline.predict(numbers()))
    rows = tmp_path / "rows.parquet"
    numbers().write_parquet(rows)
    command = ["predict", str(path), str(rows), str(tmp_path / "out.parquet")]
    assert CliRunner().invoke(cli.app, command).exit_code == 1
    assert CliRunner().invoke(cli.app, [*command, "--trusted-type", trusted[0]]).exit_code == 0
    predicted = pl.read_parquet(tmp_path / "out.parquet")["prediction"]
    assert predicted.equals(result.inference_pipeline.predict(numbers())["prediction"])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda t: t["nodes"]["left_child"].__setitem__(0, 10**6), "an index outside of the tree"),
        (lambda t: t["nodes"]["right_child"].__setitem__(0, 0), "has two parents"),
        (lambda t: t["nodes"]["feature"].__setitem__(0, 77), "does not have"),
    ],
)
def test_trees_are_looked_at_before_they_are_followed(tmp_path: Path, spoil: Any, words: str) -> None:
    model = fit(RandomForestRegressor(2, max_depth=3), "y", seed=0).fitted_model
    tree = model.estimators_[1].tree_
    state = tree.__getstate__()
    state["nodes"] = state["nodes"].copy()
    spoil(state)
    tree.__setstate__(state)
    skops.io.dump(model, tmp_path / "model.skops")
    with pytest.raises(rl.ArtifactError, match=words):
        ADAPTER.load(tmp_path)


def test_a_broken_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(rl.ArtifactError, match="incomplete"):
        ADAPTER.load(tmp_path)
    for content in (b"", b"PK", b"no zip"):
        (tmp_path / "model.skops").write_bytes(content)
        with pytest.raises(rl.ArtifactError, match="cannot be read"):
            ADAPTER.load(tmp_path)


def is_loaded_again(estimator: Any, label: str, path: Path) -> None:
    table = numbers().with_columns(y=pl.col("y").abs() + 0.1)
    if type(estimator).__name__.endswith("NB"):
        table = table.with_columns(pl.col("a", "b").abs())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's remarks about default arguments
        pipeline = (
            train.SklearnTrainer(estimator, seed=0)
            .fit(None, table.select("a", "b", label), None, label, verbose=False)
            .inference_pipeline
        )
        pipeline.save(path)
        loaded = rl.load(path)
        expected = pipeline.predict(table)
    assert loaded.predict(table).equals(expected)
    assert loaded.model.native.predict(table.select("a", "b").to_numpy(order="c")) is not None


@pytest.mark.parametrize(
    ("estimator", "label"),
    [
        (GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=StratifiedKFold(3), scoring="roc_auc"), "code"),
        (GridSearchCV(KNeighborsRegressor(), {"n_neighbors": [2, 3]}), "y"),
        (RandomizedSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, n_iter=1), "many"),
        (VotingClassifier([("a", LogisticRegression()), ("b", KNeighborsClassifier())]), "code"),
        (StackingClassifier([("a", LogisticRegression()), ("b", GaussianNB())]), "many"),
        (StackingRegressor([("a", Ridge()), ("b", KNeighborsRegressor())]), "y"),
        (VotingRegressor([("a", Ridge()), ("b", MLPRegressor(hidden_layer_sizes=(3,), max_iter=20))]), "y"),
        (CalibratedClassifierCV(RandomForestClassifier(3), method="isotonic"), "code"),
        (TunedThresholdClassifierCV(LogisticRegression()), "code"),
        (SelfTrainingClassifier(LogisticRegression()), "code"),
        (BaggingClassifier(KNeighborsClassifier(algorithm="ball_tree", metric="manhattan")), "many"),
        (KNeighborsClassifier(metric="seuclidean", metric_params={"V": np.ones(2)}, algorithm="ball_tree"), "code"),
        (KNeighborsClassifier(metric="mahalanobis", metric_params={"V": np.eye(2)}, algorithm="ball_tree"), "code"),
        (GaussianProcessRegressor(Matern() + WhiteKernel()), "y"),
        (MLPClassifier((3,), solver="sgd", max_iter=20), "many"),
        (TweedieRegressor(power=1.5, link="log"), "y"),
        (make_pipeline(SelectKBest(f_classif, k=1), SGDClassifier()), "code"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_estimators_of_estimators_are_loaded_again(estimator: Any, label: str, tmp_path: Path) -> None:
    is_loaded_again(estimator, label, tmp_path / "e.rayline")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), [(n, k) for k in ("classifier", "regressor") for n, _ in all_estimators(k)])
def test_every_estimator_is_loaded_again(name: str, kind: str, tmp_path: Path) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # some are deprecated
            estimator = dict(all_estimators(kind))[name]()
    except TypeError:
        pytest.skip("it needs arguments")
    outside = {
        "CCA",
        "PLSCanonical",
        "IsotonicRegression",
        "SelfTrainingClassifier",
    }  # one target, other widths, no default
    if name in outside or name.startswith("MultiTask"):
        pytest.skip("it does not take one target of two features with default arguments")
    if name == "NuSVC":
        estimator.set_params(nu=0.2)
    is_loaded_again(estimator, "many" if kind == "classifier" else "y", tmp_path / "e.rayline")


@pytest.mark.parametrize("algorithm", ["kd_tree", "ball_tree"])
@pytest.mark.parametrize(
    ("place", "spoil", "words"),
    [
        (1, lambda a: a.__setitem__(0, 10**9), "rows that it does not have"),
        (1, lambda a: a.__setitem__(0, -5), "rows that it does not have"),
        (2, lambda a: a["idx_end"].__setitem__(0, 10**9), "rows that it does not have"),
        (2, lambda a: a["is_leaf"].__setitem__(-1, 0), "nodes that it does not have"),
        (3, lambda a: a[:, :1], "number of nodes of a tree of neighbors"),
    ],
)
def test_trees_of_neighbours_are_looked_at(tmp_path: Path, algorithm: str, place: int, spoil: Any, words: str) -> None:
    x = numbers().select("a", "b").to_numpy(order="c")
    model = make_pipeline(StandardScaler(), CalibratedClassifierCV(KNeighborsClassifier(algorithm=algorithm)))
    model.fit(x, numbers()["code"].to_numpy())
    tree = model[-1].calibrated_classifiers_[0].estimator._tree
    state = list(tree.__getstate__())
    state[place] = state[place].copy()
    other = spoil(state[place])
    state[place] = state[place] if other is None else np.ascontiguousarray(other)
    tree.__setstate__(state)
    skops.io.dump(model, tmp_path / "model.skops")
    with pytest.raises(rl.ArtifactError, match=words):
        ADAPTER.load(tmp_path)


def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    """Distributions of SciPy make code of their state, and a function of the session cannot be found again."""
    search = RandomizedSearchCV(LogisticRegression(), {"C": loguniform(0.1, 1.0)}, n_iter=1)
    pipeline = fit(search, "code").inference_pipeline
    path = tmp_path / "s.rayline"
    pipeline.save(path)  # the caller may name the distribution
    with pytest.raises(rl.ArtifactError, match="not trusted(.|\n)*rv_continuous_frozen"):  # noqa: RUF043
        rl.load(path)
    pipeline = fit(make_pipeline(FunctionTransformer(lambda x: x * 2), LogisticRegression()), "code").inference_pipeline
    with pytest.raises(rl.RaylineError, match=r"^[^\n]*(save|lambda)"):
        pipeline.save(tmp_path / "f.rayline")
    assert not (tmp_path / "f.rayline").exists()

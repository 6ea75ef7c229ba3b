"""scikit-learn's splitters as `cv`: the folds that scikit-learn itself makes, everywhere that folds are made.

Covers `data.split.fold_rows` too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

import rayline as rl
from rayline import train, tune
from rayline.core import registry
from rayline.data.split import fold_rows
from rayline.data.split.splitters import chosen_splitter
from rayline.stages import StandardScaler
from rayline.tune.row_groups import GroupEngine, TableGroups

sk = pytest.importorskip("sklearn.model_selection")
linear_model = pytest.importorskip("sklearn.linear_model")

N = 60
RANDOM = np.random.default_rng(0)
TABLE = pl.DataFrame(
    {
        "x": RANDOM.normal(size=N),
        "plane": RANDOM.integers(0, 9, N),
        "late": RANDOM.choice(["no", "yes"], N, p=[0.7, 0.3]),
        "row": range(N),
    }
)
SPLITTERS = [
    sk.KFold(5),
    sk.KFold(4, shuffle=True, random_state=0),
    sk.StratifiedKFold(3, shuffle=True, random_state=1),
    sk.GroupKFold(3),
    sk.StratifiedGroupKFold(2),
    sk.LeaveOneGroupOut(),
    sk.TimeSeriesSplit(4, gap=2, max_train_size=20),
    sk.RepeatedKFold(n_splits=3, n_repeats=3, random_state=0),
    sk.ShuffleSplit(4, test_size=0.2, random_state=0),
    sk.PredefinedSplit(np.repeat([0, 1, -1], 20)),
]


def expected(cv: Any) -> list[tuple[list[int], list[int]]]:
    groups = TABLE["plane"].to_numpy() if "Group" in type(cv).__name__ else None
    folds = cv.split(TABLE, TABLE["late"].to_numpy(), groups)
    return [(sorted(train.tolist()), sorted(test.tolist())) for train, test in folds]


@pytest.mark.parametrize("cv", SPLITTERS, ids=lambda cv: type(cv).__name__)
@pytest.mark.parametrize("kind", ["frame", "lazy", "pandas", "groups"])
def test_folds_are_those_of_scikit_learn(cv: Any, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = chosen_splitter(cv, groups="plane" if "Group" in type(cv).__name__ else None)
    if kind == "groups":  # of several parts, as a search keeps its rows
        monkeypatch.setattr("rayline.tune.row_groups.GROUP_ROWS", 25)
        groups, engine = TableGroups([TABLE]), GroupEngine()
        found = []
        for folds in ours.prepare(engine, groups, target_columns=["late"]):
            celled = engine.collect(groups.with_cells([folds.cells]))
            cells = celled[celled.columns[-1]]
            found += [tuple(celled.filter(cells.is_in(side))["row"].to_list() for side in own) for own in folds.folds]
    else:
        data: Any = {"frame": TABLE, "lazy": TABLE.lazy(), "pandas": TABLE.to_pandas()}[kind]
        sides = [[registry.engine_for(s).collect(s)["row"].to_list() for s in pair]
                 for pair in ours.split(data, target_columns=["late"])]  # fmt: skip
        found = [tuple(pair) for pair in sides]
    assert found == expected(cv)


def test_one_scan_for_folds_that_share_cells() -> None:
    for cv, n in ((sk.KFold(5), 1), (sk.TimeSeriesSplit(4), 1), (sk.RepeatedKFold(n_splits=3, n_repeats=2), 2)):
        prepared = chosen_splitter(cv).prepare(registry.engine_for(TABLE), TABLE, target_columns=["late"])
        assert len(prepared) <= n + 1
        assert sum(len(folds.folds) for folds in prepared) == cv.get_n_splits()


@pytest.mark.parametrize("cv", [sk.KFold(3), list(sk.KFold(3).split(TABLE)), sk.KFold(3).split(TABLE)])
def test_every_call_that_makes_folds(cv: Any) -> None:
    own = list(cv) if not hasattr(cv, "split") else cv
    folds = expected(sk.KFold(3))
    fitted = train.Preprocessor([("scale", StandardScaler(columns=["x"]))]).fit_folds(TABLE, own)
    for one, (rows, _) in zip(fitted, folds, strict=True):
        assert one.transform(TABLE[rows])["x"].mean() == pytest.approx(0.0, abs=1e-12)
    trainer = train.SklearnTrainer(linear_model.LogisticRegression())
    data = TABLE.drop("plane")
    scores = train.cross_validate(trainer, None, data, "late", cv=own, metrics=["accuracy"], verbose=False)
    held = scores.predictions
    assert [held.filter(pl.col("fold") == i)["row"].to_list() for i in range(3)] == [test for _, test in folds]
    analysis = tune.run(trainer, train_dataset=data, target_columns=["late"], cv=own, config={},
                        metric="accuracy", num_samples=1, verbose=False)  # fmt: skip
    assert analysis.best_trial.scores == pytest.approx(scores.folds["accuracy"].to_list())


def test_wrong_indices_are_refused() -> None:
    def prepared(cv: Any) -> Any:
        return chosen_splitter(cv).prepare(registry.engine_for(TABLE), TABLE, target_columns=["late"])

    for cv, words in (
        ([([0, 1], [1, 2])], "twice"), ([([0, 1], [-1])], "row -1"), ([([0], [N])], "row 60"), ([([], [1])], "train on"),
        ([([0.5], [1])], "not a pair"), ([5], "not a pair"), (["ab"], "not a pair"),
    ):  # fmt: skip
        with pytest.raises(rl.ParameterError, match=words):
            prepared(cv)
    with pytest.raises(rl.DataError, match="GroupKFold cannot split the rows"):
        prepared(sk.GroupKFold(3))
    with pytest.raises(rl.ParameterError, match="time"):
        chosen_splitter(sk.KFold(3), time="x")
    different: list[Any] = ["5", 1, True, {5}, object(), []]
    for wrong in different:
        with pytest.raises(rl.ParameterError):
            chosen_splitter(wrong)


def test_rows_without_positions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GroupEngine, "has_positions", False)
    with pytest.raises(rl.ParameterError, match=r"rayline\.data\.StratifiedKFold\(3\)"):
        chosen_splitter(sk.StratifiedKFold(3)).prepare(GroupEngine(), TableGroups([TABLE]), target_columns=["late"])


def test_a_longer_table_is_no_silent_mistake() -> None:
    (folds,) = chosen_splitter(sk.KFold(3)).prepare(registry.engine_for(TABLE), TABLE)
    with pytest.raises(rl.DataError, match="more rows"):
        fold_rows.parts(registry.engine_for(TABLE), pl.concat([TABLE, TABLE]), folds.cells, [[0]])

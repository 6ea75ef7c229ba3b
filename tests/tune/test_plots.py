"""Plots of an analysis: they show the scores and parameters of the trials."""

from __future__ import annotations

import random
from typing import Any, get_args

import numpy as np
import pytest

from rayline.core.errors import ParameterError
from rayline.tune.plots import PlotKind, plot
from rayline.tune.trial_record import FoldScore, Trial


def trials() -> list[Trial]:
    drawn, found = random.Random(0), []
    for i in range(12):
        config = {"eta": 10 ** drawn.uniform(-3, 0), "preprocessor": {"impute": {"strategy": drawn.choice("ab")}}}
        folds = [FoldScore(fold, drawn.random(), 9) for fold in range(1 if i % 4 == 3 else 3)]
        found.append(Trial(i, config, 3, folds))
    return found


@pytest.mark.parametrize("mode", ["min", "max"])
def test_history_shows_the_best_so_far_of_full_trials(mode: str) -> None:
    ax = plot("history", trials(), metric="log_loss", mode=mode)
    lines = {line.get_label(): line for line in ax.get_lines()}
    best = np.asarray(lines["best so far"].get_ydata(), dtype=float)
    better = min if mode == "min" else max
    assert best[-1] == better(t.score for t in trials() if t.is_eligible)
    assert (np.diff(best) * (1 if mode == "max" else -1) >= 0).all()
    assert len(lines["stopped early: mean of the folds that it ran"].get_ydata()) == 3


def test_slices_have_an_axis_for_each_parameter() -> None:
    eta, strategy = plot("slices", trials(), metric="log_loss", mode="min")
    assert (eta.get_xscale(), strategy.get_xscale()) == ("log", "linear")
    assert [label.get_text() for label in strategy.get_xticklabels()] == ["a", "b"]
    assert strategy.get_xlabel() == "impute\nstrategy"
    assert len(eta.get_lines()) == 12


def test_parallel_draws_full_trials_the_best_on_top() -> None:
    ax = plot("parallel", trials(), metric="log_loss", mode="min")
    lines = [line for line in ax.get_lines() if len(line.get_xdata()) == 3]
    assert len(lines) == 9
    assert lines[-1].get_ydata()[-1] == 0.0
    assert {"a", "b"} <= {text.get_text() for text in ax.texts}


@pytest.mark.parametrize("kind", [k for k in get_args(PlotKind) if k not in ("importance", "learning")])
@pytest.mark.parametrize("some", [[], [Trial(0, {"x": 1}, 2, [FoldScore(0, 1.0, 9)])], trials()[:1]])
def test_few_trials_are_no_error(kind: PlotKind, some: list[Trial], tmp_path: Any) -> None:
    found = plot(kind, some, metric="log_loss", mode="min")
    (found[0] if kind == "slices" else found).figure.savefig(tmp_path / "a.png")


def test_learning_draws_each_fold_of_the_best_and_their_mean() -> None:
    best = Trial(3, {}, 2, [FoldScore(0, -1.0, 9), FoldScore(1, -1.0, 9)])
    best.histories = {
        fold: [{"iteration": float(i), "train-loss": 1.0 / (i + 1), "test-loss": fold + i} for i in range(4 + fold)]
        for fold in (0, 1)
    }
    ax = plot("learning", [*trials(), best], metric="log_loss", mode="min")
    assert len(ax.get_lines()) == 2 * 3
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert lines["test-loss"].get_ydata().tolist() == [0.5, 1.5, 2.5, 3.5]  # as long as both trained
    assert [text.get_text() for text in ax.texts] == ["train", "test"]
    assert ax.get_ylabel() == "loss"
    best.histories = {0: [{"iteration": 0.0, "test-loss": 1.0, "test-auc": 0.9}]}
    loss, auc = plot("learning", [*trials(), best], metric="roc_auc", mode="min")
    assert (loss.get_ylabel(), auc.get_ylabel()) == ("loss", "auc")  # two scales are two axes
    assert plot("learning", [*trials(), best], metric="roc_auc", mode="min", ax=loss).get_ylabel() == "auc"


def test_learning_without_iterations_is_refused() -> None:
    with pytest.raises(ParameterError, match="no metrics of iterations"):
        plot("learning", trials(), metric="log_loss", mode="min")


def test_a_single_bar_is_as_thick_as_others() -> None:
    few = [Trial(t.number, {"eta": t.config["eta"]}, 3, t.folds) for t in trials()]
    one, two = (plot("importance", some, metric="log_loss", mode="min") for some in (few, trials()))
    thick = [ax.patches[0].get_window_extent().height for ax in (one, two)]
    assert thick[0] == pytest.approx(thick[1], rel=0.5)
    assert [text.get_text() for text in one.texts] == ["100%"]


def test_an_axis_of_ones_own() -> None:
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    assert plot("importance", trials(), metric="log_loss", mode="min", ax=ax) is ax


@pytest.mark.parametrize("kind", [k for k in get_args(PlotKind) if k != "learning"])
def test_only_an_axis_is_drawn_on(kind: str) -> None:
    with pytest.raises(ParameterError, match="ax has a wrong value"):
        plot(kind, trials(), metric="log_loss", mode="min", ax=5)  # type: ignore[arg-type]


def test_one_axis_is_too_few_for_the_slices_of_two_parameters() -> None:
    ax = plot("history", trials(), metric="log_loss", mode="min")
    with pytest.raises(ParameterError, match="2 panels"):
        plot("slices", trials(), metric="log_loss", mode="min", ax=ax)

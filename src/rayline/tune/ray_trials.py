"""A trial as an actor of Ray Tune: one fold per iteration, in a process that is reused from trial to trial."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray import tune

from rayline.compat.ray import is_task_argument
from rayline.preprocessing.cross_fit import KnownStatistics
from rayline.tune import space
from rayline.tune.drivers import search_driver
from rayline.tune.search_problem import SearchProblem, TrialCandidate
from rayline.tune.shared_cache import SharedCache
from rayline.tune.stored_groups import StoredGroups
from rayline.tune.stored_scores import StoredScores
from rayline.tune.trial import FoldRunner, TrialPayload, error_text, trial_report
from rayline.tune.trial_log import DEATHS, StopSearch, TrialLog
from rayline.tune.trial_record import FoldScore

BOX = "rayline"
"""The key of a result for values that are not for Ray; the driver clears it."""

SEARCH = "rayline:search"
"""The key of a configuration for the reference to the search data in the object store.

It is part of the configuration because Ray Tune keeps the arguments of `tune.with_parameters` until the driver ends."""


class SearchRef(str):
    """A reference in a configuration, which Ray Tune treats as a string.

    Ray Tune writes configurations and the state of searchers to disk, and an object whose reference is written stays in the
    object store until the driver ends. So the reference is only passed with the arguments of actors.
    """

    ref: ray.ObjectRef[Any]

    @classmethod
    def of(cls, ref: ray.ObjectRef[Any]) -> SearchRef:
        new = cls(SEARCH)
        new.ref = ref
        return new

    def __reduce__(self) -> Any:
        return (SearchRef.of, (self.ref,)) if is_task_argument() else (str, (SEARCH,))

    def __deepcopy__(self, memo: Any) -> SearchRef:
        return self


@dataclass(frozen=True)
class SearchData:
    """The data that all trials of a search share.

    Attributes
    ----------
    problem
        What is tuned.
    groups
        The rows.
    known
        Scores of an earlier run, by key.
    modes
        The direction of each metric.
    most_bytes
        Memory for prepared tables in each actor.
    most_s
        Folds that finish within this many seconds are reported together.
    keeper, n_actors
        The actor of the shared cache, and the number of trial actors.
    known_statistics
        The statistics of all folds that were computed in advance.
    in_pieces
        Whether the rows come from a Dataset: scores of held-out rows stay in the object store, and workers stream rows from there.
    """

    problem: SearchProblem
    groups: StoredGroups
    known: Mapping[str, Any]
    modes: Sequence[str]
    max_bytes: int
    report_interval_s: float
    cache_actor: Any
    n_actors: int
    known_statistics: Sequence[KnownStatistics] | None = None
    in_pieces: bool = False


def own_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return only the parameters of a trial."""
    plain: dict[str, Any] = space.to_plain({name: value for name, value in config.items() if name != SEARCH})
    return plain


class FoldTrial(tune.Trainable):
    """Evaluates a configuration fold by fold; Ray Tune gets the running mean and may stop the trial after each fold.

    Without early stopping of trials, the folds of `report_interval_s` seconds are one iteration: a report costs about 10 ms in Ray.

    An exception in a fold ends the trial and is reported as its error: the actor and its caches stay alive, and
    only the death of the process is a failure for Ray.
    """

    _turns_back = False
    """Whether each trial begins with the fold that the one before it has ended with, whose rows are still there."""

    def setup(self, config: dict[str, Any]) -> None:
        search: SearchData = ray.get(config[SEARCH].ref)
        problem, cache_actor = search.problem, search.cache_actor
        shared = None if cache_actor is None else SharedCache(cache_actor)
        self._evaluate = search_driver(problem.trainer).evaluator(
            problem, search.groups, max_bytes=search.max_bytes, shared=shared, known=search.known_statistics,
            in_pieces=search.in_pieces,
        )  # fmt: skip
        self._order = list(range(len(problem.folds)))
        if shared is not None and search.report_interval_s:
            # Actors start with different folds, so that each prepares tables that the others will need.
            first = shared.place() * len(self._order) // search.n_actors % len(self._order)
            self._order = self._order[first:] + self._order[:first]
        self._problem, self._runner = problem, FoldRunner(problem, self._evaluate, search.known)
        self._modes, self._report_interval_s, self._in_pieces = search.modes, search.report_interval_s, search.in_pieces
        self.reset_config(config)
        self._turns_back = bool(search.report_interval_s)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.config = own_config(new_config)
        if self._turns_back:
            self._order.reverse()
        self._scores: list[FoldScore] = []
        self._candidates: dict[str, TrialCandidate] = {}
        return True

    def step(self) -> dict[str, Any]:
        n_folds, until = len(self._problem.folds), time.monotonic() + self._report_interval_s
        boxes = [self._fold()]
        while len(self._scores) < n_folds and "error" not in boxes[-1] and time.monotonic() < until:
            boxes.append(self._fold())
        failed = "error" in boxes[-1]
        done = failed or len(self._scores) == n_folds
        return {
            **trial_report(self._scores, self._modes, failed=failed), "done": done, BOX: boxes, "process": os.getpid()
        }  # fmt: skip

    def _fold(self) -> TrialPayload:
        """Evaluate the next fold, and return its report."""
        box = self._runner(self.config, self._order[len(self._scores)], self._candidates)
        if "fold" in box:
            self._scores.append(FoldScore.from_json(box["fold"]))
        if self._in_pieces and "scores" in box:
            box["scores"] = StoredScores.of(box["scores"])
        return box

    # A scheduler may pause a trial and continue it in another actor.

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {"scores": [score.to_json() for score in self._scores]}

    def load_checkpoint(self, checkpoint: Any) -> None:
        self._scores = [FoldScore.from_json(score) for score in checkpoint["scores"]]


class Waiting(Protocol):
    """The wait of a search for its first trial."""

    @property
    def is_due(self) -> bool: ...
    def __call__(self) -> str: ...


class RayTrialLog(tune.Callback):
    """Passes the reports of Ray Tune to the log of the search."""

    def __init__(self, log: TrialLog, waiting: Waiting) -> None:
        self._log, self._waiting = log, waiting
        self._numbers: dict[str, int] = {}

    def __reduce__(self) -> Any:
        """Return an empty state: Ray pickles callbacks to resume after a crash of the driver, which we do from the result store,
        and a progress line in a terminal cannot be pickled."""
        return tune.Callback, ()

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self._log.interruption.signal is not None:
            raise StopSearch  # Ray Tune then stops the actors of all trials
        self._number(trials)
        if trials and self._waiting.is_due:
            self._log.line.wait(self._waiting())

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._number(trials)

    def _number(self, trials: Sequence[Any]) -> None:
        """Return the number of a trial: Ray appends new trials to its list, but moves a restarted one to the end."""
        for trial in trials:
            self._numbers.setdefault(trial.trial_id, len(self._numbers))

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._begun(trials, trial)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        number = self._begun(trials, trial)
        self._log.hear(number, result.get(BOX, []))
        result.get(BOX, []).clear()  # Ray keeps the result and writes it repeatedly

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._log.end(self._begun(trials, trial))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._log.end(self._begun(trials, trial), f"the process of the trial died {DEATHS + 1} times: {_why(trial)}")

    def _begun(self, trials: Sequence[Any], trial: Any) -> int:
        if trial.trial_id not in self._numbers:
            self._number(trials)
        number = self._numbers[trial.trial_id]
        self._log.begin(number, own_config(trial.config))
        return number


def _why(trial: Any) -> str:
    """Return Ray's reason for the death of a trial's process: an error, or the last line of a text."""
    error = trial.get_pickled_error()
    lines = str(trial.get_error() or "").strip().splitlines()
    return error_text(error) if error is not None else lines[-1] if lines else "unknown reason"

"""A trial as an actor of Ray Tune: one fold an iteration, in a process that stays warm from trial to trial."""

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
from rayline.tune.evaluate import SearchProblem, TrialCandidate
from rayline.tune.search_driver import search_driver
from rayline.tune.shared_cache import SharedCache
from rayline.tune.stored_groups import StoredGroups, StoredScores
from rayline.tune.trial import FoldRunner, TrialPayload, told, trial_report
from rayline.tune.trial_log import DEATHS, StopSearch, TrialLog
from rayline.tune.trial_record import FoldScore

BOX = "rayline"
"""The key of a result under which a trial hands over what is not for Ray; the driver empties it."""

SEARCH = "rayline:search"
"""The key of a configuration under which a trial finds the search that it belongs to, in the object store.

It goes with the configuration because Ray Tune keeps what `tune.with_parameters` is given for as long as the driver lives."""


class SearchRef(str):
    """A reference in a configuration, which Ray Tune takes for a text.

    Ray Tune writes configurations and the state of searchers down, and what is written with a reference in it stays in the
    object store until the driver ends. So the reference travels with the arguments of actors alone.
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
    """What all trials of a search share.

    Attributes
    ----------
    problem
        What is tuned.
    groups
        The rows.
    known
        Scores of an earlier run, by key.
    modes
        Of each metric.
    most_bytes
        Memory for prepared tables in each actor.
    most_s
        Folds that are done within so many seconds are reported together.
    keeper, n_actors
        What keeps that which trials share, and how many share it.
    known_statistics
        Those of all folds that were computed ahead.
    in_pieces
        Whether the rows are a Dataset's: scores of held-out rows stay in the object store, and workers stream their rows from there.
    """

    problem: SearchProblem
    groups: StoredGroups
    known: Mapping[str, Any]
    modes: Sequence[str]
    most_bytes: int
    most_s: float
    keeper: Any
    n_actors: int
    known_statistics: Sequence[KnownStatistics] | None = None
    in_pieces: bool = False


def own_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a trial alone."""
    plain: dict[str, Any] = space.to_plain({name: value for name, value in config.items() if name != SEARCH})
    return plain


class FoldTrial(tune.Trainable):
    """Evaluates a configuration fold after fold; Ray Tune sees the running mean and may stop the trial after any.

    Where nobody stops trials, the folds of `most_s` seconds are one iteration: hearing of a result takes Ray some 10 ms.

    What raises in a fold ends the trial and is handed over as its error: the actor and what it keeps stay alive, and
    only the death of the process counts as a failure for Ray.
    """

    def setup(self, config: dict[str, Any]) -> None:
        search: SearchData = ray.get(config[SEARCH].ref)
        problem, keeper = search.problem, search.keeper
        shelf = None if keeper is None else SharedCache(keeper)
        self._evaluate = search_driver(problem.trainer).evaluator(
            problem, search.groups, most_bytes=search.most_bytes, shared=shelf, known=search.known_statistics,
            in_pieces=search.in_pieces,
        )  # fmt: skip
        self._order = list(range(len(problem.folds)))
        if shelf is not None and search.most_s:
            # Actors begin with different folds, so that each prepares what the others will need.
            first = shelf.place() * len(self._order) // search.n_actors % len(self._order)
            self._order = self._order[first:] + self._order[:first]
        self._problem, self._runner = problem, FoldRunner(problem, self._evaluate, search.known)
        self._modes, self._most_s, self._in_pieces = search.modes, search.most_s, search.in_pieces
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.config = own_config(new_config)
        self._scores: list[FoldScore] = []
        self._made: dict[str, TrialCandidate] = {}
        return True

    def step(self) -> dict[str, Any]:
        n_folds, until = len(self._problem.folds), time.monotonic() + self._most_s
        boxes = [self._fold()]
        while len(self._scores) < n_folds and "error" not in boxes[-1] and time.monotonic() < until:
            boxes.append(self._fold())
        failed = "error" in boxes[-1]
        done = failed or len(self._scores) == n_folds
        return {
            **trial_report(self._scores, self._modes, failed=failed), "done": done, BOX: boxes, "process": os.getpid()
        }  # fmt: skip

    def _fold(self) -> TrialPayload:
        """The next fold, and what is handed over of it."""
        box = self._runner(self.config, self._order[len(self._scores)], self._made)
        if "fold" in box:
            self._scores.append(FoldScore.from_json(box["fold"]))
        if self._in_pieces and "scores" in box:
            box["scores"] = StoredScores.of(box["scores"])
        return box

    # A scheduler may pause a trial and go on with it in another actor.

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {"scores": [score.to_json() for score in self._scores]}

    def load_checkpoint(self, checkpoint: Any) -> None:
        self._scores = [FoldScore.from_json(score) for score in checkpoint["scores"]]


class Waiting(Protocol):
    """What a search waits for before its first trial."""

    @property
    def is_due(self) -> bool: ...
    def __call__(self) -> str: ...


class RayTrialLog(tune.Callback):
    """Passes what Ray Tune says of trials to the log of the search."""

    def __init__(self, log: TrialLog, waiting: Waiting) -> None:
        self._log, self._waiting = log, waiting
        self._numbers: dict[str, int] = {}

    def __reduce__(self) -> Any:
        """Ray pickles callbacks to go on after a crash of the driver; for that we have the journal, and a line in a
        terminal cannot be pickled."""
        return tune.Callback, ()

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self._log.interruption.signal is not None:
            raise StopSearch  # Ray Tune then ends the actors of all trials
        self._number(trials)
        if trials and self._waiting.is_due:
            self._log.line.wait(self._waiting())

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._number(trials)

    def _number(self, trials: Sequence[Any]) -> None:
        """Ray appends new trials to its list, but moves one that it starts again to the end."""
        for trial in trials:
            self._numbers.setdefault(trial.trial_id, len(self._numbers))

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._begun(trials, trial)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        number = self._begun(trials, trial)
        boxes = result.get(BOX, [])
        for box in boxes:
            if isinstance(box.get("scores"), StoredScores):
                box["scores"] = box["scores"].in_pieces()
        self._log.hear(number, boxes)
        result.get(BOX, []).clear()  # Ray keeps the result, and writes it down again and again

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
    """What Ray knows of the death of a trial's process: an error, or a text of which the last line says it."""
    error = trial.get_pickled_error()
    lines = str(trial.get_error() or "").strip().splitlines()
    return told(error) if error is not None else lines[-1] if lines else "unknown reason"

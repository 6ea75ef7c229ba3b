"""A trial on Ray Tune: one fold an iteration, in an actor that stays warm from trial to trial."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl
import pyarrow as pa
import ray
from ray import tune
from ray.exceptions import RayError

from rayline import compat
from rayline.core.errors import RaylineError, ResourceError
from rayline.tune import space, trial_record
from rayline.tune.environment_evaluation import EnvironmentEvaluator
from rayline.tune.evaluate import FoldEvaluator, SearchProblem, TrialCandidate
from rayline.tune.fold_racing import FOLDS
from rayline.tune.search import objectives
from rayline.tune.shared_cache import SharedCache
from rayline.tune.trial_record import FoldScore

BOX = "rayline"
"""The key of a result under which a trial hands over what is not for Ray; the driver empties it."""

WORST = 1e300
"""What a failed trial reports, as a loss: schedulers compare it, and NaN would stop them."""


class TrialPayload(dict[str, Any]):
    """What became of a fold. Ray writes every result into its log, shown or not: this one says nothing."""

    def __repr__(self) -> str:
        return "Box"


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
        made = cls(SEARCH)
        made.ref = ref
        return made

    def __reduce__(self) -> Any:
        return (SearchRef.of, (self.ref,)) if compat.is_task_argument() else (str, (SEARCH,))

    def __deepcopy__(self, memo: Any) -> SearchRef:
        return self


@dataclass(frozen=True)
class SearchData:
    """What all trials of a search share.

    Attributes
    ----------
    problem
        What is tuned.
    table
        The rows, as a reference in a list, so that Ray hands over the reference.
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
    """

    problem: SearchProblem
    table: Sequence[ray.ObjectRef[Any]]
    known: Mapping[str, Any]
    modes: Sequence[str]
    most_bytes: int
    most_s: float
    keeper: Any
    n_actors: int


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
        problem, frame, keeper = search.problem, rows_of(search.table), search.keeper
        acts = problem.trainer.adapter.generates_own_data
        shelf = None if keeper is None else SharedCache(keeper)
        shared = None if shelf is None else shelf.get
        self._evaluate = (
            EnvironmentEvaluator(problem)
            if acts
            else FoldEvaluator(problem, frame, most_bytes=search.most_bytes, shared=shared)
        )
        self._order = list(range(len(problem.folds)))
        if shelf is not None and search.most_s:
            # Actors begin with different folds, so that each prepares what the others will need.
            first = shelf.place() * len(self._order) // search.n_actors % len(self._order)
            self._order = self._order[first:] + self._order[:first]
        self._problem, self._known = problem, dict(search.known)
        self._modes, self._most_s = search.modes, search.most_s
        self.reset_config(config)

    def cleanup(self) -> None:
        evaluate = getattr(self, "_evaluate", None)  # none when the setup has failed
        if isinstance(evaluate, FoldEvaluator):
            evaluate.close()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.config = own_config(new_config)
        self._scores: list[FoldScore] = []
        self._made: TrialCandidate | None = None
        return True

    def step(self) -> dict[str, Any]:
        n_folds, until = len(self._problem.folds), time.monotonic() + self._most_s
        boxes = [self._fold()]
        while len(self._scores) < n_folds and "error" not in boxes[-1] and time.monotonic() < until:
            boxes.append(self._fold())
        failed = "error" in boxes[-1]
        worst = [math.copysign(WORST, -1.0 if mode == "max" else 1.0) for mode in self._modes]
        means = worst if failed else trial_record.means(self._scores)
        done = failed or len(self._scores) == n_folds
        reported = dict(zip(objectives(len(means)), means, strict=True))
        return {**reported, FOLDS: len(self._scores), "done": done, BOX: boxes, "process": os.getpid()}

    def _fold(self) -> TrialPayload:
        """The next fold, and what is handed over of it."""
        fold, box = self._order[len(self._scores)], TrialPayload()
        try:
            score = self._reused(fold)
            if score is None:
                score, box["scores"], box["history"] = self._evaluate(self._candidate, fold)
                if self._candidate.is_seeded:
                    self._known[score.key] = (
                        score.to_json()
                    )  # a small space is drawn from more often than it has values
            self._scores.append(score)
            box["fold"] = score.to_json()
        except Exception as error:
            return TrialPayload(error=told(error))
        return box

    @property
    def _candidate(self) -> TrialCandidate:
        """What this trial evaluates; made in the first fold, as it may raise."""
        if self._made is None:
            self._made = self._problem.candidate(self.config)
        return self._made

    def _reused(self, fold: int) -> FoldScore | None:
        """The score of this fold, when an earlier run had it, or an earlier trial in this actor."""
        if not self._known:
            return None
        found = self._known.get(self._candidate.key(fold))
        return None if found is None else replace(FoldScore.from_json(found), fold=fold, reused=True)

    # A scheduler may pause a trial and go on with it in another actor.

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {"scores": [score.to_json() for score in self._scores]}

    def load_checkpoint(self, checkpoint: Any) -> None:
        self._scores = [FoldScore.from_json(score) for score in checkpoint["scores"]]


def rows_of(table: Sequence[ray.ObjectRef[Any]]) -> pl.DataFrame:
    """The rows of a search, where they lie in the object store; the reference is in a list so that Ray hands over the reference."""
    frame = pl.from_arrow(ray.get(table[0]))
    assert isinstance(frame, pl.DataFrame)
    return frame


def stored(table: pa.Table) -> ray.ObjectRef[Any]:
    """The rows of a search in the object store. Raises ResourceError when they do not fit."""
    try:
        return ray.put(table)
    except RayError as error:
        raise ResourceError(
            f"tune.run: {table.nbytes >> 20} MB of rows do not fit into Ray's object store: {type(error).__name__}.",
            "Expected room for them once on this machine, in memory or on the disk that it spills to.",
            "start Ray with a larger object_store_memory, free the disk, or tune on fewer rows.",
        ) from error


def told(error: BaseException) -> str:
    """An error as text: ours as they are, others with their type and the place."""
    if isinstance(error, RaylineError):
        cause = error.__cause__
        return f"{type(error).__name__}: {error}" + (
            f"\n  From: {type(cause).__name__}: {cause}" if cause is not None else ""
        )
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" ({trace.tb_frame.f_code.co_filename}:{trace.tb_lineno})" if trace is not None else ""
    return f"{type(error).__name__}: {error}{place}"

"""The trainings of a population: a pool trains parts of folds, each from the checkpoint of the part before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rayline.core import scratch
from rayline.inference.model import files_in, write_files
from rayline.train.training_phases import Phase
from rayline.tune.evaluate import FoldEvaluator, History, TrainingPart
from rayline.tune.search_problem import SearchProblem
from rayline.tune.trial import error_text
from rayline.tune.trial_pool import TICK_S, TrialPool
from rayline.tune.trial_record import FoldScore

Files = dict[str, bytes]


@dataclass(frozen=True)
class FoldResult:
    """The result of a worker for a fold; only the error if it failed."""

    score: FoldScore | None = None
    scores: Any = None  # an array, or `ScoresElsewhere`
    history: History = field(default_factory=list)
    error: str = ""


class PopulationWorker:
    """A worker that trains parts of folds, in this process or as a Ray actor.

    Parameters
    ----------
    problem
        The problem that is tuned.
    evaluate
        The evaluator, which holds the rows, trains and scores.
    """

    def __init__(self, problem: SearchProblem, evaluate: FoldEvaluator) -> None:
        self._problem, self._evaluate = problem, evaluate

    def train(
        self, config: Mapping[str, Any], fold: int, number: int, until: int, checkpoint: Files | None
    ) -> tuple[FoldResult, Files]:
        """Train a fold from a checkpoint to the end of this generation, and score it. Returns the result and the next checkpoint."""
        kept: Files = {}

        def keep(save: Callable[[Path], None]) -> None:
            with scratch.folder("part") as folder:
                save(folder)
                kept.update(files_in(folder))

        try:
            candidate = self._problem.candidate(config)
            trainer = candidate.trainer
            phase = Phase(number, until, trainer.args, trainer.kwargs)
            with scratch.folder("part") as folder:
                write_files(folder, checkpoint or {})
                part = TrainingPart(phase, None if checkpoint is None else folder, keep)
                score, scores, history = self._evaluate(candidate, fold, part)
        except Exception as error:
            return FoldResult(error=error_text(error)), {}
        return FoldResult(score, scores, history), kept


class PopulationPool:
    """Trains parts of folds for a population.

    Parameters
    ----------
    pool
        The slots.
    """

    def __init__(self, pool: TrialPool) -> None:
        self._pool = pool

    def __call__(self, work: Mapping[Any, tuple[Any, ...]]) -> Iterator[tuple[Any, Any, Any]]:
        """Call `PopulationWorker.train` with each tuple of arguments. Yields results and checkpoints in the order of completion."""
        waiting = [*work]
        while waiting or self._pool.n_busy:
            for slot in self._pool.idle[: len(waiting)]:
                key = waiting.pop(0)
                self._pool.submit(slot, key, "part", *work[key])
            done = self._pool.wait(TICK_S)
            if done is not None:
                _, key, result, checkpoint = done
                if isinstance(result, Exception):
                    result = FoldResult(error=error_text(result))
                elif isinstance(result, BaseException):
                    raise result
                yield key, result, checkpoint

    def fetch(self, checkpoint: Any) -> dict[str, bytes]:
        """Return the files of a checkpoint."""
        return dict(self._pool.fetch(checkpoint))

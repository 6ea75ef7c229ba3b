"""A trial wherever it runs: fold after fold is evaluated, and what came of each is handed over."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rayline.core.errors import RaylineError
from rayline.tune import trial_record
from rayline.tune.evaluate import FoldEvaluation, SearchProblem, TrialCandidate
from rayline.tune.fold_racing import FOLDS, SCORE
from rayline.tune.trial_record import FoldScore

WORST = 1e300
"""What a failed trial reports, as a loss: schedulers compare it, and NaN would stop them."""


class TrialPayload(dict[str, Any]):
    """What became of a fold. Ray writes every result into its log, shown or not: this one says nothing."""

    def __repr__(self) -> str:
        return "Box"


class FoldRunner:
    """Evaluates folds, and takes over the scores that are known.

    What raises in a fold ends the trial and is handed over as its error.

    Parameters
    ----------
    problem
        What is tuned.
    evaluate
        Trains and scores a candidate on a fold.
    known
        Scores of an earlier run, by key.
    """

    def __init__(
        self,
        problem: SearchProblem,
        evaluate: Callable[[TrialCandidate, int], FoldEvaluation],
        known: Mapping[str, Any],
    ) -> None:
        self._problem, self._evaluate, self._known = problem, evaluate, dict(known)

    def __call__(self, config: Mapping[str, Any], fold: int, candidates: dict[str, TrialCandidate]) -> TrialPayload:
        """Evaluate a configuration on a fold; `made` keeps what was made of the configuration until its next fold."""
        box = TrialPayload()
        try:
            candidate = candidates.get("") or candidates.setdefault("", self._problem.candidate(config))
            score = self._reused(candidate, fold)
            if score is None:
                score, box["scores"], box["history"] = self._evaluate(candidate, fold)
                if candidate.is_seeded:  # a small space is drawn from more often than it has values
                    self._known[score.key] = score.to_json()
            box["fold"] = score.to_json()
        except Exception as error:
            return TrialPayload(error=told(error))
        return box

    def _reused(self, candidate: TrialCandidate, fold: int) -> FoldScore | None:
        """The score of this fold, when an earlier run or an earlier trial here had it."""
        if not self._known:
            return None
        score = self._known.get(candidate.key(fold))
        return None if score is None else replace(FoldScore.from_json(score), fold=fold, reused=True)


def objectives(n: int) -> list[str]:
    """The names under which a trial reports the means of so many metrics to searchers and schedulers."""
    return [SCORE, *(f"{SCORE}_{i}" for i in range(1, n))]


def trial_report(scores: Sequence[FoldScore], modes: Sequence[str], *, failed: bool) -> dict[str, Any]:
    """What a trial reports to searchers and schedulers after some folds."""
    worst = [math.copysign(WORST, -1.0 if mode == "max" else 1.0) for mode in modes]
    means = worst if failed or not scores else trial_record.means(scores)
    return {**dict(zip(objectives(len(means)), means, strict=True)), FOLDS: len(scores)}


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

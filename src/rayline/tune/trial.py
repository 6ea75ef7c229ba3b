"""The evaluation of a trial fold by fold, in this process or in an actor, with a report of each fold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rayline.core.errors import RaylineError
from rayline.tune import trial_record
from rayline.tune.evaluate import FoldEvaluation
from rayline.tune.fold_racing import FOLDS, SCORE
from rayline.tune.search_problem import SearchProblem, TrialCandidate
from rayline.tune.trial_record import FoldScore

WORST = 1e300
"""The loss that a failed trial reports: schedulers compare it, and would fail on NaN."""


class TrialPayload(dict[str, Any]):
    """The report of a fold. Ray writes the repr of every result into its log, so the repr is empty."""

    def __repr__(self) -> str:
        return "Box"


class FoldRunner:
    """Evaluates folds, and reuses known scores.

    An exception in a fold ends the trial and is reported as its error.

    Parameters
    ----------
    problem
        The problem that is tuned.
    evaluate
        A function that trains and scores a candidate on a fold.
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
        """Evaluate a configuration on a fold; `candidates` keeps the candidate until its next fold."""
        box = TrialPayload()
        try:
            candidate = candidates.get("") or candidates.setdefault("", self._problem.candidate(config))
            score = self._reused(candidate, fold)
            if score is None:
                score, box["scores"], box["history"] = self._evaluate(candidate, fold)
                if candidate.is_seeded:  # draws from a small space repeat
                    self._known[score.key] = score.to_json()
            box["fold"] = score.to_json()
        except Exception as error:
            return TrialPayload(error=error_text(error))
        return box

    def _reused(self, candidate: TrialCandidate, fold: int) -> FoldScore | None:
        """Return the score of this fold from an earlier run or an earlier trial, or None."""
        if not self._known:
            return None
        score = self._known.get(candidate.key(fold))
        return None if score is None else replace(FoldScore.from_json(score), fold=fold, reused=True)


def objectives(n: int) -> list[str]:
    """Return the names under which a trial reports the means of its metrics to searchers and schedulers."""
    return [SCORE, *(f"{SCORE}_{i}" for i in range(1, n))]


def trial_report(scores: Sequence[FoldScore], modes: Sequence[str], *, failed: bool) -> dict[str, Any]:
    """Return the report of a trial to searchers and schedulers after some folds."""
    worst = [WORST * trial_record.loss_sign(mode) for mode in modes]
    means = worst if failed or not scores else trial_record.means(scores)
    return {**dict(zip(objectives(len(means)), means, strict=True)), FOLDS: len(scores)}


def error_text(error: BaseException) -> str:
    """Format an error: a RaylineError unchanged, others with their type and the place."""
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

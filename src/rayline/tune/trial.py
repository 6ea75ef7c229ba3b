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

KEPT_CANDIDATES = 64
"""The number of trials whose candidates are kept for their next folds."""


class FoldRunner:
    """Evaluates folds, and reuses known scores. Several threads may call it.

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
        self._candidates: dict[int, TrialCandidate] = {}

    def __call__(self, number: int, config: Mapping[str, Any], fold: int) -> tuple[dict[str, Any], None]:
        """Evaluate the configuration of a trial on a fold. Return the report; no state remains."""
        box: dict[str, Any] = {}
        try:
            candidate = self._candidate(number, config)
            score = self._reused(candidate, fold)
            if score is None:
                score, box["scores"], box["history"] = self._evaluate(candidate, fold)
                if candidate.is_seeded:  # draws from a small space repeat
                    self._known[score.key] = score.to_json()
            box["fold"] = score.to_json()
        except Exception as error:
            return {"error": error_text(error)}, None
        return box, None

    def _candidate(self, number: int, config: Mapping[str, Any]) -> TrialCandidate:
        """Return the candidate of a trial, which is kept for its next fold."""
        candidate = self._candidates.get(number) or self._problem.candidate(config)
        self._candidates = {**dict([*self._candidates.items()][-KEPT_CANDIDATES:]), number: candidate}
        return candidate

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

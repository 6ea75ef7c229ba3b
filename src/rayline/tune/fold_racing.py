"""Racing over folds: bad trials are stopped after one or two folds. The decision depends only on the scores.

Ray's own schedulers compare a trial with those that have reported so far, so the same search stops other
trials when more of them run concurrently. Here a trial is compared, after its first k folds, with the trials `LAG` or more
places before it in the order of the suggestions that completed as many. If one of these is still running, the trial
is paused until it has finished; with few concurrent trials this is rare.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rayline.tune.trial_record import loss_sign

SCORE = "score"
"""The name under which a trial reports its running mean to searchers and schedulers."""

FOLDS = "folds"
"""The name under which it reports how many folds it ran."""

CONTINUE, PAUSE, STOP = "CONTINUE", "PAUSE", "STOP"
"""The decisions of a scheduler, as named in Ray Tune."""

PENDING, RUNNING, PAUSED, TERMINATED, ERROR = "PENDING", "RUNNING", "PAUSED", "TERMINATED", "ERROR"
"""The states of a trial, as named in Ray Tune."""

LAG = 4
"""The distance in the order of suggestions between a trial and its nearest rival: closer trials run at the same time."""


class RacingRules(NamedTuple):
    """The numbers of folds after which a trial is judged, the share of rivals that is kept, and the minimum number of rivals.

    With several brackets, trial i is in bracket i modulo their number, and bracket b skips the first b decisions.
    """

    rungs: tuple[int, ...]
    keep: float = 0.5
    min_rivals: int = 2
    brackets: int = 1


def asha(n_folds: int) -> RacingRules:
    """Return the rules of asynchronous successive halving: the better half continues after 1, 2, 4, … folds.

    Li and others, "A system for massively parallel hyperparameter tuning" (2020).
    """
    return RacingRules(tuple(2**i for i in range(n_folds.bit_length()) if 2**i < n_folds))


def hyperband(n_folds: int) -> RacingRules:
    """Return the rules of `asha` in several brackets, each of which starts halving later than the one before.

    Li and others, "Hyperband: a novel bandit-based approach to hyperparameter optimization" (2018).
    """
    rules = asha(n_folds)
    return rules._replace(brackets=len(rules.rungs))


def median(n_folds: int) -> RacingRules:
    """Return the rules of the median stopping rule: a trial stops when its mean is worse than the median after as many folds.

    Golovin and others, "Google Vizier: a service for black-box optimization" (2017).
    """
    return RacingRules(tuple(range(1, n_folds)), min_rivals=3)


class FoldRacingScheduler:
    """Stop trials by these rules. The stopped trials do not depend on the number of concurrent trials.

    The methods are those of a scheduler of Ray Tune, and are called by the search in this process as well.

    Parameters
    ----------
    rules
        When a trial is judged, and how.
    lag
        The distance in the order of suggestions between a trial and its nearest rival.
    """

    def __init__(self, rules: RacingRules, lag: int = LAG) -> None:
        self.rules, self.lag = rules, lag
        self._sign = 1.0
        self._numbers: dict[str, int] = {}
        self._means: list[dict[int, float]] = []  # of each trial, by the number of completed folds
        self._over: set[int] = set()
        self._waiting: dict[int, int] = {}  # from trial to its number of completed folds

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        self._sign = loss_sign(mode)
        return True

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        number = self._numbers.setdefault(trial.trial_id, len(self._numbers))
        if number == len(self._means):
            self._means.append({})
        self._over.discard(number)  # it restarts after its process has died

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        number, folds = self._numbers[trial.trial_id], int(result[FOLDS])
        self._means[number][folds] = self._sign * float(result[SCORE])
        goes_on = self._goes_on(number, folds)
        if goes_on is None:
            self._waiting[number] = folds
            return PAUSE
        return CONTINUE if goes_on else STOP

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._end(trial)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self._end(trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self._end(trial)

    def _end(self, trial: Any) -> None:
        number = self._numbers[trial.trial_id]
        self._over.add(number)
        self._waiting.pop(number, None)

    def choose_trial_to_run(self, tune_controller: Any) -> Any | None:
        """Return the first trial that is new, or that was paused and may continue. A paused trial that loses is stopped."""
        for trial in sorted(tune_controller.get_live_trials(), key=lambda trial: self._numbers[trial.trial_id]):
            if trial.status == PENDING:
                return trial
            if trial.status == PAUSED:
                number = self._numbers[trial.trial_id]
                goes_on = True if number not in self._waiting else self._goes_on(number, self._waiting[number])
                if goes_on:
                    self._waiting.pop(number, None)
                    return trial
                if goes_on is False:
                    tune_controller.stop_trial(trial)
        return None

    def _goes_on(self, number: int, folds: int) -> bool | None:
        """Return whether a trial continues after this number of folds; None while the rivals' scores are missing."""
        rules = self.rules
        if folds not in rules.rungs[number % rules.brackets :]:
            return True
        rivals = range(number - self.lag + 1)
        if any(folds not in self._means[rival] and rival not in self._over for rival in rivals):
            return None
        return survives(self._means[number][folds], [m[folds] for r in rivals if folds in (m := self._means[r])], rules)

    def debug_string(self) -> str:
        return f"Race({self.rules})"


def survives(loss: float, rivals: Sequence[float], rules: RacingRules) -> bool:
    """Return whether this loss is within the kept share of its rivals; always True with too few rivals."""
    return len(rivals) < rules.min_rivals or loss <= float(np.quantile(np.asarray(rivals), rules.keep))

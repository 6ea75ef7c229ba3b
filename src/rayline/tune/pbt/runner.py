"""The generations of a population: workers train parts of folds, the driver decides which members continue and with which parameters."""

from __future__ import annotations

import copy
import math
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from rayline.inference import svg_plots
from rayline.train import progress
from rayline.train.callback_errors import named_errors
from rayline.train.callbacks import Run
from rayline.tune import progress_table, trial_record
from rayline.tune.evaluate import Array
from rayline.tune.interruption import Interruption
from rayline.tune.pbt.part_training import PopulationPool
from rayline.tune.pbt.population import Population, n_iterations
from rayline.tune.table_cache import fingerprint
from rayline.tune.trial_record import FoldScore, Trial
from rayline.tune.trial_search import Search

Key = tuple[int, int]
"""A member and a fold."""


@dataclass
class PopulationMember:
    """A member of the population: its record, and for each fold its checkpoint and the scores of the held-out
    rows."""

    trial: Trial
    checkpoints: dict[int, Any] = field(default_factory=dict)
    scores: dict[int, Array] = field(default_factory=dict)

    @property
    def is_alive(self) -> bool:
        return not self.trial.error

    def take_over(self, other: PopulationMember, config: dict[str, Any]) -> None:
        """Resume from the state of another member, with these parameters."""
        mine, theirs = self.trial, other.trial
        mine.config, mine.parts, mine.folds = config, [*theirs.parts], [*theirs.folds]
        mine.histories = {fold: [*history] for fold, history in theirs.histories.items()}
        self.checkpoints = dict(other.checkpoints)


@dataclass
class PopulationRun:
    """The run of a population."""

    search: Search
    population: Population
    line: progress.ProgressLine
    training_run: Run
    interruption: Interruption = field(default_factory=Interruption)

    def __post_init__(self) -> None:
        self.prepared, self.options, self.store = self.search.prepared, self.search.options, self.search.store
        self.known = self.search.known

    @property
    def is_kept(self) -> bool:
        """Whether every generation is stored as soon as it is complete."""
        return self.options.name is not None

    def run(self, workers: PopulationPool) -> list[Trial]:
        """Run all generations. Returns the trials, one for each member."""
        problem, options, begun = self.prepared.problem, self.options, time.monotonic()
        configs = self.population.begin(self.prepared.space, self.prepared.num_samples, options.seed)
        self._members = [
            PopulationMember(Trial(number, config, len(problem.folds), metrics=problem.metrics))
            for number, config in enumerate(configs)
        ]
        ends = self.population.ends(n_iterations(problem, configs[0]))
        entropy = np.random.SeedSequence(options.seed).entropy
        assert isinstance(entropy, int)
        kept: list[str] = []
        for number in range(len(ends)):
            over = options.time_budget_s is not None and time.monotonic() - begun > options.time_budget_s
            alive = [member for member in self._members if member.is_alive]
            if not alive or (over and number):
                break
            before = [(copy.deepcopy(member.trial), dict(member.scores)) for member in self._members]
            if number:
                self._select(alive, np.random.default_rng((entropy, number)))
            try:
                self._generation(workers, alive, number, ends, begun)
            except KeyboardInterrupt:  # the result is the last complete generation
                self.interruption.signal = signal.SIGINT
                self._members = [PopulationMember(trial, scores=scores) for trial, scores in before]
                break
            for key in kept:
                if self.is_kept:
                    self.store.drop_files(key)
                else:
                    self.store.drop_scores(key)
            kept = [fold.key for member in alive for fold in member.trial.folds]
        for member in self._members:
            for fold in member.trial.folds if member.is_alive else ():
                if not isinstance(member.scores[fold.fold], np.memmap):  # that is in its file
                    self.store.write(fold, member.scores[fold.fold])
            for callback in options.callbacks:
                with named_errors(callback):
                    callback.on_trial(self.training_run, member.trial)
        return [member.trial for member in self._members]

    def _select(self, alive: Sequence[PopulationMember], random: np.random.Generator) -> None:
        """Copy the models of the best members to the worst ones."""
        sign = trial_record.loss_sign(self.prepared.mode)
        losses = {member.trial.number: sign * member.trial.score for member in alive}
        for number, other in self.population.successors(losses, random).items():
            theirs = self._members[other]
            changed = self.population.changed(theirs.trial.config, self.prepared.space, random)
            self._members[number].take_over(theirs, changed)

    def _generation(
        self, workers: PopulationPool, alive: Sequence[PopulationMember], number: int, ends: Sequence[int], begun: float
    ) -> None:
        until, work, lost = ends[number], dict[Key, tuple[Any, ...]](), list[Key]()
        results: dict[int, list[FoldScore]] = {member.trial.number: [] for member in alive}
        for member in alive:
            trial = member.trial
            trial.parts.append(trial_record.ScheduledPart(until, trial.config, trial.number))
            for fold in range(trial.n_folds):
                key = self._key(trial, fold)
                scores = self.store.scores(key, mapped=True) if key in self.known else None
                if scores is not None:
                    results[trial.number].append(replace(FoldScore.from_json(self.known[key]), reused=True))
                    member.checkpoints[fold], member.scores[fold] = key, scores
                    continue
                before = member.checkpoints.get(fold)  # for an earlier run, a key of the result store
                if isinstance(before, str) and not self.store.has_files(before):
                    lost.append((trial.number, fold))
                    continue
                files = self.store.files(before) if isinstance(before, str) else before
                work[trial.number, fold] = trial.config, fold, number, until, files
        for (place, fold), files in self._trained_again(workers, lost).items():
            work[place, fold] = self._members[place].trial.config, fold, number, until, files
        for (place, fold), done, checkpoint in workers(work):
            member = self._members[place]
            trial = member.trial
            if done.score is None or done.scores is None:
                trial.error = trial.error or done.error
            else:
                score = self._added(trial, done.score)
                results[place].append(score)
                is_elsewhere = not isinstance(done.scores, np.ndarray)
                if self.is_kept:
                    self.store.keep_files(score.key, workers.fetch(checkpoint))
                if self.is_kept or is_elsewhere:
                    self.store.write(score, done.scores)
                scores = self.store.scores(score.key, mapped=True) if is_elsewhere else done.scores
                assert scores is not None
                member.checkpoints[fold], member.scores[fold] = checkpoint, scores
                trial.histories.setdefault(fold, []).extend(done.history)
            trial.seconds = time.monotonic() - begun
            self._show(number, ends, begun)
        for member in alive:
            member.trial.folds = sorted(results[member.trial.number], key=lambda score: score.fold)

    def _trained_again(self, workers: PopulationPool, lost: Sequence[Key]) -> dict[Key, Any]:
        """Train the parts before the last one again, and return their checkpoints: the earlier run has finished, and kept only its last ones."""
        states: dict[Key, Any] = dict.fromkeys(lost)
        parts = {(place, fold): self._members[place].trial.parts[:-1] for place, fold in lost}
        for number in range(max(map(len, parts.values()), default=0)):
            work = {
                k: (parts[k][number].config, k[1], number, parts[k][number].until, state) for k, state in states.items()
            }
            for key, done, checkpoint in workers(work):
                if done.score is None:
                    self._members[key[0]].trial.error = done.error
                    del states[key]
                else:
                    states[key] = checkpoint
        return states

    def _added(self, trial: Trial, score: FoldScore) -> FoldScore:
        """Return a score with the time of all generations, under a key that identifies how the model was trained."""
        earlier = math.fsum(fold.fit_s for fold in trial.folds if fold.fold == score.fold)
        key, until = self._key(trial, score.fold), trial.parts[-1].until
        return replace(score, key=key, fit_s=earlier + score.fit_s, iterations=until)

    def _key(self, trial: Trial, fold: int) -> str:
        """Return a digest of everything that the model of a fold was trained from."""
        problem = self.prepared.problem
        return fingerprint([[part.until, problem.candidate(part.config).key(fold)] for part in trial.parts])

    def _show(self, number: int, ends: Sequence[int], begun: float) -> None:
        if not self.line.is_due:
            return
        trials = [member.trial for member in self._members]
        elapsed = time.monotonic() - begun
        best = trial_record.best(trials, self.prepared.mode)
        parts = [f"generation {number + 1}/{len(ends)}"]
        metrics = self.prepared.problem.metrics
        if best is not None:
            scores = [f"{n} {svg_plots.number(mean, 5)}" for n, mean in zip(metrics, best.means, strict=True)]
            parts.append(f"best {', '.join(scores)} (trial {best.number})")
        parts.append(progress.seconds(elapsed))
        if number:
            left = elapsed / ends[number - 1] * ends[-1] - elapsed
            parts.append(
                f"about {progress.seconds(max(0.0, min(left, (self.options.time_budget_s or math.inf) - elapsed)))} left"
            )
        n, mode, budget_s = len(trials), self.prepared.mode, self.options.time_budget_s
        moment = progress_table.SearchProgress(trials, frozenset(), n, mode, metrics, elapsed, budget_s)
        self.line.now(", ".join(parts), lambda: progress_table.live_table(moment))

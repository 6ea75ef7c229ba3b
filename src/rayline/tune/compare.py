"""Compare several trainers on the same folds: a leaderboard and the best choice."""

from __future__ import annotations

import copy
import html
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict, Unpack

import polars as pl

from rayline.core.arguments import known_arguments
from rayline.core.data_types import Column, Data, Features, Labels, MetricLike, Mode, PosLabel, Seconds
from rayline.core.errors import ParameterError, RaylineError, TrainingError, at, first_line
from rayline.data.split.splitters import FoldsLike
from rayline.inference.model import Model
from rayline.inference.pipeline import InferencePipeline, Preprocessor
from rayline.postprocess.base import PostprocessingStage
from rayline.train import progress
from rayline.train.callbacks import Callback
from rayline.train.fit import read_once
from rayline.train.trainer import Trainer
from rayline.tune import tables
from rayline.tune.analysis import Analysis
from rayline.tune.options import OnInterrupt, RunOn, SearchOptions, SearchRequest
from rayline.tune.run import checked, run_search
from rayline.tune.search import SchedulerLike, SearchLike
from rayline.tune.trial_record import loss_sign, mean, standard_error
from rayline.tune.trial_search import Search
from rayline.tune.tune_data import DATA_ARGUMENTS, SearchDataArguments, TuneData, search_data

COMPARE = "tune.compare"

RESOURCES = ("use_gpu", "resources_per_trial")
"""The keywords that replace resources of the trainer."""

Candidate = Trainer | tuple[Trainer, Mapping[str, Any]] | tuple[Trainer, Mapping[str, Any], Preprocessor | None]


@known_arguments
class Comparison:
    """The outcome of `tune.compare`.

    Attributes
    ----------
    analyses
        The analysis of each candidate that could be tuned, by name.
    errors
        The errors of the other candidates, by name.

    Examples
    --------
    >>> comparison = tune.compare(candidates, data_config=data_config)  # doctest: +SKIP
    >>> comparison.best, comparison.best_pipeline  # doctest: +SKIP
    """

    def __init__(self, analyses: Mapping[str, Analysis], errors: Mapping[str, str]) -> None:
        self.analyses, self.errors = dict(analyses), dict(errors)
        first = next(iter(self.analyses.values()))
        self.metric, self.mode = first.metric, first.mode

    @cached_property
    def leaderboard(self) -> pl.DataFrame:
        """One row a candidate, the best first: `candidate`, `score` (the mean over the folds of its best trial),
        `standard_error`, one `score/<metric>` and one `standard_error/<metric>` for each further metric, `behind` and `behind_standard_error` (the mean difference to the best on the same folds),
        `fit_s` and `predict_s` of one fold, `trials`, `error`."""
        best, others = self.analyses[self.best].best_trial.scores, self.best_analysis.metrics[1:]
        rows = []
        for name, analysis in self.analyses.items():
            trial = analysis.best_trial
            behind = [
                abs(b - s) if name == self.best else (b - s if self.mode == "max" else s - b)
                for b, s in zip(best, trial.scores, strict=True)
            ]
            rows.append(
                {
                    "candidate": name,
                    "score": trial.score,
                    "standard_error": _number(trial.standard_error),
                    "behind": mean(behind),
                    "behind_standard_error": _number(standard_error(behind)),
                    "fit_s": mean([fold.fit_s for fold in trial.folds]),
                    "predict_s": mean([fold.predict_s for fold in trial.folds]),
                    "trials": len(analysis.trials),
                    "error": None,
                    **{f"score/{name}": mean for name, mean in zip(others, trial.means[1:], strict=True)},
                    **{
                        f"standard_error/{n}": _number(e)
                        for n, e in zip(others, trial.standard_errors[1:], strict=True)
                    },
                }
            )
        rows += [{"candidate": name, "error": error} for name, error in self.errors.items()]
        further = [f"{kind}/{name}" for name in others for kind in ("score", "standard_error")]
        schema = {
            "candidate": pl.String, "score": pl.Float64, "standard_error": pl.Float64,
            **dict.fromkeys(further, pl.Float64), "behind": pl.Float64,
            "behind_standard_error": pl.Float64, "fit_s": pl.Float64, "predict_s": pl.Float64, "trials": pl.Int64,
            "error": pl.String,
        }  # fmt: skip
        return pl.DataFrame(rows, schema=schema).sort(
            "score", descending=self.mode == "max", nulls_last=True, maintain_order=True
        )

    @cached_property
    def best(self) -> str:
        """The name of the candidate with the best mean."""
        sign = loss_sign(self.mode)
        return min(self.analyses, key=lambda name: sign * self.analyses[name].best_score)

    @cached_property
    def one_standard_error(self) -> str:
        """The one-standard-error choice: among the candidates whose mean is within one standard error of the best, the
        fastest one to fit and predict. With a single fold it is the best candidate."""
        top = self.analyses[self.best]
        margin = 0.0 if math.isnan(top.best_standard_error) else top.best_standard_error
        near = [name for name, a in self.analyses.items() if abs(a.best_score - top.best_score) <= margin]
        return min(
            near, key=lambda name: sum(fold.fit_s + fold.predict_s for fold in self.analyses[name].best_trial.folds)
        )

    @property
    def best_analysis(self) -> Analysis:
        """The analysis of the best candidate."""
        return self.analyses[self.best]

    @property
    def best_model(self) -> Model:
        """The best candidate's model, refitted on the whole training set."""
        return self.best_analysis.best_model

    @property
    def best_pipeline(self) -> Preprocessor:
        """The best candidate's preprocessor, refitted on the whole training set."""
        return self.best_analysis.best_pipeline

    @property
    def best_inference_pipeline(self) -> InferencePipeline:
        """The best candidate's preprocessor and model."""
        return self.best_analysis.best_inference_pipeline

    def __getitem__(self, name: str) -> Analysis:
        if name not in self.analyses:
            raise ParameterError.unknown([name], self.analyses, where="Comparison")
        return self.analyses[name]

    @property
    def _by(self) -> str:
        return f"{self.metric}{self.best_analysis.of_class}"

    def __repr__(self) -> str:
        text = f"best {self.best!r}, one-standard-error choice {self.one_standard_error!r}"
        return f"Comparison by {self._by}: {text}\n{tables.table_as_text(self.leaderboard)}"

    def _repr_html_(self) -> str:
        text = f"best {self.best!r}, one-standard-error choice {self.one_standard_error!r}"
        return f"<p><b>Comparison</b> by {html.escape(self._by)}: {html.escape(text)}</p>{tables.as_html(self.leaderboard)}"


class SearchKeywords(TypedDict, total=False):
    """The keywords of `run` that `compare` takes too."""

    metric: MetricLike | Sequence[MetricLike] | None
    mode: Mode | Sequence[Mode | None] | None
    preprocessor: Preprocessor | None
    train_dataset: Data | None
    test_dataset: Data | None
    target_columns: Sequence[str] | str | None
    X: Features | None
    y: Labels | None
    X_test: Features | None
    y_test: Labels | None
    sample_weight: Column | None
    group: Column | None
    event: Column | None
    cv: FoldsLike | None
    groups: str | None
    stratify: str | bool | None
    time: str | None
    pos_label: PosLabel | None
    seed: int | None
    max_concurrent: int | None
    use_gpu: bool | None
    resources_per_trial: Mapping[str, float] | None
    time_budget_s: Seconds | None
    search: SearchLike | None
    scheduler: SchedulerLike | None
    name: str | None
    resume: bool
    callbacks: Sequence[Callback]
    verbose: bool | None
    on_interrupt: OnInterrupt
    run_on: RunOn | None
    timeout_s: Seconds | None
    storage_path: str | Path | None
    postprocess: Sequence[PostprocessingStage] | None


@known_arguments
@at(COMPARE)
def compare(
    candidates: Mapping[str, Candidate],
    data_config: Mapping[str, Any] | None = None,
    *,
    num_samples: int | None = None,
    **options: Unpack[SearchKeywords],
) -> Comparison:
    """Tune several trainers on the same folds, and rank them.

    Parameters
    ----------
    candidates
        By name: a trainer (scored as it is), or a pair of a trainer and its search space, or those two and a
        preprocessor of its own in place of `preprocessor=`.
    data_config
        As in `tune.run`. The folds depend on the rows alone, so they are the same for every candidate.
    num_samples
        Configurations of each candidate with a search space.
    options
        All others of `tune.run`: train_dataset, target_columns, cv, preprocessor, metric, seed, scheduler, ….

    Returns
    -------
    Comparison
        With `leaderboard`, `best`, `one_standard_error`, `best_pipeline` and the `analyses`.

    Raises
    ------
    ParameterError
        On a candidate of another form.
    TrainingError
        When no candidate could be tuned.
    KeyboardInterrupt
        On Ctrl-C. With `on_interrupt="return"` the candidates that are finished, and the one that was interrupted, are
        ranked; the others are left out.

    Examples
    --------
    >>> from rayline import train, tune
    >>> comparison = tune.compare(  # doctest: +SKIP
    ...     {"trees": (train.XGBoostTrainer({}), {"max_depth": tune.randint(3, 8)}), "linear": train.SklearnTrainer(LogisticRegression())},
    ...     train_dataset=ds,
    ...     target_columns=["late"],
    ...     cv=5,
    ...     num_samples=10,
    ... )
    >>> comparison.leaderboard  # doctest: +SKIP
    """
    if not isinstance(candidates, Mapping) or not candidates:
        raise ParameterError.value("candidates", "a dict of names to trainers and their spaces", candidates)
    data = search_data(data_config, SearchDataArguments(**{n: v for n, v in options.items() if n in DATA_ARGUMENTS}))
    others = {name: value for name, value in options.items() if name not in DATA_ARGUMENTS}
    with read_once(data):  # all candidates share the rows
        searches = _checked(candidates, data, num_samples, others)
    analyses: dict[str, Analysis] = {}
    errors: dict[str, str] = {}
    for name, search in searches.items():
        try:
            with progress.line(f"tune {name}", search.options.verbose) as line:
                analyses[name] = run_search(search, line, time.perf_counter())
        except TrainingError as error:
            errors[name] = str(error)
        except RaylineError as error:
            raise error.within(f"{COMPARE}: candidate {name!r}") from error.__cause__
        if name in analyses and analyses[name].interrupted:
            break  # the comparison ends too: the remaining candidates are not started
    if not analyses:
        raise TrainingError.here("no candidate could be tuned.", f"Expected at least one; {errors}.", "see the errors.")
    return Comparison(analyses, errors)


def _checked(
    candidates: Mapping[str, Candidate],
    data: SearchDataArguments,
    num_samples: int | None,
    options: Mapping[str, Any],
) -> dict[str, Search]:
    """Return a search for each candidate, over rows that are read once. All candidates are checked before any search starts."""
    searches: dict[str, Search] = {}
    material: TuneData | None = None
    for name, candidate in candidates.items():
        trainer, space, pipeline = _candidate(name, candidate, data)
        search_options = {**options, "num_samples": num_samples if space else 1}
        trainer = trainer.with_resources(*(search_options.pop(resource, None) for resource in RESOURCES))
        if options.get("name") is not None:
            search_options["name"] = f"{options['name']} {name}"
        for kind in ("search", "scheduler"):
            search_options[kind] = _own_copy(kind, search_options.get(kind))
        try:
            own_data = replace(data, preprocessor=pipeline)
            search = checked(SearchRequest(trainer, own_data, space, SearchOptions(**search_options), material))
        except RaylineError as error:
            raise error.within(f"{COMPARE}: candidate {name!r}") from error.__cause__
        searches[name], material = search, search.prepared.material
    return searches


def _own_copy(kind: str, option: Any) -> Any:
    """Copy a searcher or scheduler of Ray for each candidate: it stores the trials of one search."""
    try:
        return copy.deepcopy(option)
    except Exception as error:  # an untrusted object may raise anything
        raise ParameterError.here(
            f"the {kind} {type(option).__name__} cannot be copied for each candidate.",
            f"Expected one that can be; got {type(error).__name__}: {first_line(error)}.",
            f"pass the name of a {kind}, or tune the candidates one by one.",
        ) from error


def _candidate(name: str, candidate: Any, data: SearchDataArguments) -> tuple[Trainer, Mapping[str, Any], Any]:
    parts = tuple(candidate) if isinstance(candidate, (tuple, list)) else (candidate, {})
    if len(parts) == 2:
        parts = (*parts, data.preprocessor)
    if len(parts) != 3 or not isinstance(parts[0], Trainer) or not isinstance(parts[1], Mapping):
        raise ParameterError.value(f"candidate {name!r}", "a trainer, or (trainer, space[, preprocessor])", candidate)
    return parts


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value

"""The test data of the laws of a framework: a table with targets of every task, and the fits that the laws share."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import polars as pl

from rayline import tune
from rayline.core import registry
from rayline.core.framework import Framework
from rayline.core.scores import numbers
from rayline.inference.pipeline import Preprocessor
from rayline.train.result import Result
from rayline.train.scaling import Backend, Scaling
from rayline.train.trainer import Trainer

Fit = TypeVar("Fit")

STRING, FLAG, CODE, NUMBER = "late", "is_late", "gate", "delay"
"""Targets of `training_table`: two classes as strings, as booleans, three as integers, and a number."""

COLUMNS, TEXT = ("wind", "hour", "night", "city", "noise"), ("report",)
"""Features of `training_table`: of the usual kinds, and the same in words for a framework that reads text."""

WINDS = ("calm", "breeze", "wind", "gale", "storm")


@contextlib.contextmanager
def named_law(who: object, law: str, task: str = "") -> Iterator[None]:
    """Name, in the error of this block, the law that is broken, and by whom."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{who!r} breaks {law!r}{task}: {error}") from error
    except Exception as error:
        raise AssertionError(f"{who!r} fails in {law!r}{task} with {type(error).__name__}: {error}") from error


def training_table(n: int = 400, seed: int = 0) -> pl.DataFrame:
    """Return features of every usual kind, some missing, with targets of every task that they explain well.

    Parameters
    ----------
    n
        The number of rows.
    seed
        The same seed gives the same table.

    Returns
    -------
    polars.DataFrame
        One row for each example; only `noise` has nulls.

    Examples
    --------
    >>> from rayline.testing import training_table
    >>> training_table().columns
    ['wind', 'hour', 'night', 'city', 'noise', 'report', 'late', 'is_late', 'gate', 'delay']
    """
    random = np.random.default_rng(seed)
    wind, hour, city = random.normal(size=n), random.integers(0, 24, n), random.choice(["Oslo", "Rome", "Lima"], n)
    night = hour > 18
    score = 2 * wind + 1.5 * (city == "Rome") + night + random.normal(size=n) * 0.1
    table = pl.DataFrame({"wind": wind, "hour": hour, "night": night, "city": city, "noise": random.normal(size=n)})
    words = np.array(WINDS)[np.digitize(wind, [-1.0, -0.3, 0.3, 1.0])]
    time = np.where(night, "night", "day")
    return table.with_columns(
        pl.when(pl.col("noise") > 1.2).then(None).otherwise("noise").alias("noise"),
        pl.Series("report", [f"{w} in {c} at {t}" for w, c, t in zip(words, city, time, strict=True)]),
        pl.Series(STRING, np.where(score > 0.5, "yes", "no")),
        pl.Series(FLAG, score > 0.5),
        pl.Series(CODE, np.digitize(score, [-0.5, 2.0]) * 10),
        pl.Series(NUMBER, score * 10),
    )


@dataclass
class FrameworkCase:
    """One framework with its arguments, and one task."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    task: str
    learns: bool
    exact: bool
    seeded: bool
    weights: bool
    resumes: bool
    tuned: Mapping[str, Any] | None
    native_predict: Callable[[Any, Any], Any] | None = None

    fits: dict[str, Any] = field(default_factory=dict)
    backend: Backend = "actors"  # what starts the workers
    is_first: bool = True  # of the tasks: on it is tried in full what the target plays no part in

    @property
    def adapter(self) -> Framework:
        adapter = registry.framework(self.name)
        assert isinstance(adapter, Framework), "its adapter is no Framework"
        return adapter

    @property
    def reads_text(self) -> bool:
        return self.adapter.string_features == "text"

    @property
    def target(self) -> str:
        return {"binary": STRING, "multiclass": CODE, "regression": NUMBER}[self.task]

    @cached_property
    def table(self) -> pl.DataFrame:
        table = training_table().select(*(TEXT if self.reads_text else COLUMNS), self.target)
        # Strings, so that labels decide: integers would be a regression.
        return table.with_columns(pl.col(CODE).cast(pl.String)) if self.target == CODE else table

    @property
    def rows(self) -> pl.DataFrame:
        return self.table.drop(self.target)

    @property
    def preprocessed(self) -> pl.DataFrame:
        table: pl.DataFrame = self.result.preprocessor.transform(self.rows)
        return table

    def preprocessor(self) -> Preprocessor:
        """Return the stages before the model: no missing values, one scale, no strings; none for text models."""
        if self.reads_text:
            return Preprocessor()
        stages = {"impute": "SimpleImputer", "scale": "StandardScaler", "onehot": "OneHotEncoder"}
        return Preprocessor([(name, registry.stage(stage)()) for name, stage in stages.items()])

    @property
    def preprocessor_space(self) -> dict[str, Any]:
        """A search space of its stages; empty when there are none."""
        if self.reads_text:
            return {}
        return {"preprocessor": {"impute": {"strategy": tune.grid_search(["mean", "median"])}}}

    def trainer(self, **options: Any) -> Trainer:
        return Trainer(self.name, *copy.deepcopy(self.args), **{"seed": 1, **copy.deepcopy(self.kwargs), **options})

    def scaling(self, num_workers: int | None = None, **options: Any) -> Scaling:
        """The scaling of a training on workers, on the backend of this case."""
        n = num_workers or (2 if self.adapter.distributed else 1)
        return Scaling(num_workers=n, backend=self.backend, **options)

    def fit(self, trainer: Trainer | None = None, **options: Any) -> Result:
        table = options.pop("table", self.table)
        arguments = {"test_dataset": table, "target_columns": [self.target], "verbose": False, **options}
        return (trainer or self.trainer()).fit(self.preprocessor(), table, **arguments)

    def shared(self, name: str, make: Callable[[], Fit]) -> Fit:
        """A fit or a search that several laws look at."""
        if name not in self.fits:
            self.fits[name] = make()
        fit: Fit = self.fits[name]
        return fit

    @property
    def result(self) -> Result:
        """A fit in this process."""
        return self.shared("in process", self.fit)

    def has_learned(self, metrics: Mapping[str, float]) -> None:
        """The law of a simple pattern: the error is half that of guessing."""
        if not self.learns:
            return
        if self.task == "regression":
            assert metrics["test-r2"] > 0.75, f"R² is {metrics['test-r2']:.2f}"
        else:
            guess = np.unique(self.table[self.target].to_numpy(), return_counts=True)[1].max() / self.table.height
            assert 1 - metrics["test-accuracy"] < (1 - guess) / 2, f"accuracy is {metrics['test-accuracy']:.2f}"

    def same(self, one: Any, other: Any, *, bits: bool, why: str) -> None:
        one, other = numbers(np.asarray(one)), numbers(np.asarray(other))
        equal = (one == other).all() if bits else np.allclose(one, other, rtol=1e-5, atol=1e-6)
        assert one.shape == other.shape and equal, why  # noqa: PT018  # one law


class EnvironmentCase(FrameworkCase):
    """A framework that generates its own data: the rows are its observations."""

    @property
    def rows(self) -> pl.DataFrame:
        examples = self.result.model.examples
        assert examples is not None, "it gives no examples of observations"
        assert examples.height > 1, "it gives too few examples of observations"
        return examples

    @property
    def preprocessed(self) -> pl.DataFrame:
        return self.rows

    def fit(self, trainer: Trainer | None = None, **options: Any) -> Result:
        return (trainer or self.trainer()).fit(verbose=False, **options)


def error_of(call: Callable[[], Any], kind: type[Exception]) -> str:
    """Return the error message of a call; empty when it raises none."""
    try:
        call()
    except kind as error:
        return str(error)
    return ""

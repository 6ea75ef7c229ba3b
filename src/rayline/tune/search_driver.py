"""The steps of a search that depend on where the rows of its trainings come from. `tune.drivers` has the drivers by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rayline.train.fit_inputs import FitInputs
from rayline.train.result import Result
from rayline.train.trainer import Trainer
from rayline.tune import result_store
from rayline.tune.options import SearchRequest
from rayline.tune.row_groups import RowGroups
from rayline.tune.search_problem import SearchProblem
from rayline.tune.tune_data import TuneData


@dataclass(frozen=True)
class PreparedSearch:
    """A tuning run with checked input: the shared settings of all trials, the rows, the search space, the number of samples,
    and the direction of each metric."""

    problem: SearchProblem
    material: TuneData
    space: Mapping[str, Any]
    num_samples: int
    modes: tuple[str, ...]

    @property
    def inputs(self) -> FitInputs:
        return self.material.inputs

    @property
    def groups(self) -> RowGroups:
        """The rows and their cells."""
        return self.material.groups

    @property
    def mode(self) -> str:
        """The direction of the score."""
        return self.modes[0]

    def digest(self) -> str:
        """Return the digest of everything that scores depend on, except the configuration."""
        problem, roles = self.problem, self.problem.roles
        digests = [summary.digest for summary in self.groups.summarised().summaries]
        return result_store.digest(
            digests, roles.schema, problem.splits, roles.targets, roles.weight, problem.trainer.adapter
        )


class SearchDriver(ABC):
    """The steps of a search over rows, or over environments.

    Attributes
    ----------
    has_rows
        Whether there are rows: a fold can then be trained again for its history, and held-out rows have predictions.
    """

    has_rows: ClassVar[bool] = True

    @abstractmethod
    def prepare(self, request: SearchRequest) -> PreparedSearch:
        """Check the arguments about data and the search space, and read the rows unless the request has them. Raises as `run`."""

    @abstractmethod
    def evaluator(self, problem: SearchProblem, groups: Any, *, in_pieces: bool = False, **options: Any) -> Any:
        """Return the evaluator that scores a configuration on a fold; `options` are those of `FoldEvaluator`. With `in_pieces` no
        process holds all rows of a fold whose trainer has workers."""

    def own_workers(self, trainer: Trainer, worker: Mapping[str, float], n_workers: int) -> list[dict[str, float]]:
        """Return the resources of the workers that the framework starts itself."""
        return []

    def needs_ray(self, trainer: Trainer) -> str:
        """Return the reason why a search must run on Ray; empty when there is none."""
        return ""

    def refit(self, trainer: Trainer, fit_rows: Callable[[], Result], *, verbose: bool | None) -> Result:
        """Return a fit with the parameters of a trial; `fit_rows` fits the rows of the search."""
        return fit_rows()

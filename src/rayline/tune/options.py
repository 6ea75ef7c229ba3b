"""The request of a search: the trainer, the data, the search space, and all other options."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

from rayline.core.arguments import integer
from rayline.core.data_types import Mode, Seconds
from rayline.core.errors import ParameterError
from rayline.core.representation import representation
from rayline.train.callbacks import Callback
from rayline.train.trainer import Trainer
from rayline.tune import space
from rayline.tune.domains import from_ray
from rayline.tune.search_metrics import own_functions
from rayline.tune.tune_data import SearchDataArguments, TuneData, search_data

OnInterrupt: TypeAlias = Literal["raise", "return"]
"""What Ctrl-C does to a search: it raises KeyboardInterrupt, or the analysis of the trials so far is returned."""

RunOn: TypeAlias = Literal["process", "ray"]
"""Where a search runs: in this process, or on Ray."""


@dataclass(frozen=True, repr=False)
class SearchOptions:
    """The arguments of `run` other than trainer, data and search space; documented there."""

    metric: Any = None
    mode: Mode | Sequence[Mode | None] | None = None
    num_samples: int | None = None
    seed: int | None = 0
    max_concurrent: int | None = None
    time_budget_s: Seconds | None = None
    search: Any = None
    scheduler: Any = None
    name: str | None = None
    resume: bool = False
    callbacks: Sequence[Callback] = ()
    verbose: bool | None = None
    pos_label: Any = None
    on_interrupt: OnInterrupt = "raise"
    run_on: RunOn | None = None
    timeout_s: Seconds | None = None
    storage_path: str | Path | None = None
    postprocess: Any = None

    __repr__ = representation

    def check(self) -> None:
        """Raise ParameterError on invalid values."""
        integer("seed", self.seed, minimum=0, optional=True)
        integer("num_samples", self.num_samples, optional=True)
        integer("max_concurrent", self.max_concurrent, optional=True)
        callbacks = self.callbacks
        if not isinstance(callbacks, Sequence) or not all(isinstance(callback, Callback) for callback in callbacks):
            raise ParameterError.value("callbacks", "a list of objects of rayline.train.Callback", callbacks)
        if self.storage_path is not None and self.name is None:
            raise ParameterError.here(
                "storage_path keeps the scores of a search under its name.",
                "Expected name=….",
                'pass name="…".',
            )
        if self.resume and self.name is None:
            raise ParameterError.here(
                "resume=True goes by the name of a run.", "Expected name=….", 'pass name="…" in both runs.'
            )


@dataclass(frozen=True)
class SearchRequest:
    """The trainer, the search space and the data of a search.

    Attributes
    ----------
    trainer, config
        The trainer and the search space.
    data
        What it is told about data.
    options
        All other arguments of `run`.
    material
        The rows, if they were already read for another search.
    data_config
        More of what it is told about data, in place of `data`'s fields.
    """

    trainer: Trainer
    data: SearchDataArguments
    config: Mapping[str, Any]
    options: SearchOptions = SearchOptions()
    material: TuneData | None = None
    data_config: Mapping[str, Any] | None = None

    def resolved(self) -> Self:
        """Return the request with the data in one value, its domains as ours, and its metrics and its positive class in the trainer.

        Raises ParameterError on a wrong option or trainer, and on a GPU that the trainer cannot use.
        """
        self.options.check()
        data = search_data(self.data_config, self.data)
        trainer, config = self.trainer, from_ray(self.config)
        if not isinstance(trainer, Trainer):
            raise ParameterError.value("trainer", "a trainer such as train.XGBoostTrainer(…)", trainer)
        metric, custom = own_functions(self.options.metric, trainer.custom_metrics)
        trainer = trainer.measured(pos_label=self.options.pos_label)
        if custom:
            trainer = copy.copy(trainer)
            trainer.custom_metrics = {**trainer.custom_metrics, **custom}
        trainer.check_gpu()
        space.refuse_elsewhere([trainer.args, trainer.kwargs])
        if trainer.phases and isinstance(config, Mapping) and (trainer_space := space.split_space(config).trainer):
            raise ParameterError.here(
                f"the trainer's parameters change during the training, and config searches {sorted(trainer_space)[0]!r}.",
                "Expected a config of stages' parameters, or a trainer without a schedule.",
                "take one of them away.",
            )
        return type(self)(trainer, data, config, replace(self.options, metric=metric), self.material)

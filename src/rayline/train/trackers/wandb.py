"""Weights & Biases: a training as a run, in tuning with one more for each trial."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from rayline.core.arguments import known_arguments
from rayline.train.trackers.base import Tracker

FLUSH_S = 0.5
"""Seconds between two writes of what a run offline has logged."""


WandBMode: TypeAlias = Literal["online", "offline", "disabled"]
"""Where a run of W&B is written to."""


@known_arguments
class WandB(Tracker):
    """Write the history as a run of Weights & Biases.

    Parameters
    ----------
    project
        The project of the run.
    mode
        "online", "offline" (files below `dir`, for `wandb sync`) or "disabled"; by the environment variable WANDB_MODE
        when omitted.
    name
        The run's name; the framework and the time when omitted.
    dir
        Where its files are written.
    options
        Further arguments of `wandb.init`: entity, tags, notes, ….

    Raises
    ------
    MissingExtraError
        When wandb is not installed.
    ParameterError
        On an unknown `mode`.

    Examples
    --------
    >>> from rayline import train
    >>> train.fit(trainer, train_dataset=ds, target_columns=["late"], callbacks=[train.WandB("flights", mode="offline")])  # doctest: +SKIP
    """

    package, _installs = "wandb", "wandb"

    def __init__(
        self,
        project: str = "rayline",
        mode: WandBMode | None = None,
        name: str | None = None,
        dir: str | Path | None = None,
        **options: Any,
    ) -> None:
        super().__init__(name)
        self.project, self.mode, self.dir, self.options = project, mode, dir, options

    def open(self, name: str, params: Mapping[str, Any], parent: Any = None) -> Any:
        import wandb

        options: dict[str, Any] = {
            "mode": self.mode,
            **self.options,
            **({} if parent is None else {"group": parent.name, "job_type": "trial"}),
        }
        if self.dir is not None:
            options["dir"] = str(self.dir)
        settings = wandb.Settings(silent=True, console="off")
        if hasattr(settings, "x_transaction_log_flush_interval"):
            settings.x_transaction_log_flush_interval = FLUSH_S / 3
        run = wandb.init(
            project=self.project,
            name=name,
            config=dict(params),
            reinit="create_new",
            settings=settings,
            **options,
        )
        return _WandB(run, name)


class _WandB:
    def __init__(self, run: Any, name: str) -> None:
        self._run, self.name, self._steps = run, name, -1
        run.define_metric("iteration")
        run.define_metric("*", step_metric="iteration")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"iteration": step, **values})

    def summary(self, values: Mapping[str, float]) -> None:
        self._run.summary.update({f"final/{name}": value for name, value in values.items()})

    def close(self, *, failed: bool) -> None:
        if self._run.settings.mode == "offline":
            time.sleep(FLUSH_S)  # wandb 0.31 loses what it has not flushed by itself when a run ends soon after
        self._run.finish(exit_code=int(failed))

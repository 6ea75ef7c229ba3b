"""A training in phases: up to some iteration with these arguments, then from its checkpoint with others.

Population based training finds such schedules (`rayline.tune.pbt.population`), and a fit repeats them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rayline.core import scratch
from rayline.core.framework import Framework, TrainContext


@dataclass(frozen=True)
class Phase:
    """A part of a training.

    Attributes
    ----------
    number
        The number of the phase, counted from 0. Each has its own random numbers.
    until
        The number of iterations that there are after it, in all.
    args, kwargs
        The framework's arguments.
    """

    number: int
    until: int
    args: Sequence[Any]
    kwargs: Mapping[str, Any]

    def train(
        self, adapter: Framework, context: TrainContext, keep: Callable[[Callable[[Path], None]], None] | None
    ) -> Any:
        """Train from `context.resume` to the end of this phase. `keep` is called with the function that writes a checkpoint, if
        the training gets there without being stopped."""
        stopped = False

        def report(iteration: int, metrics: Mapping[str, float]) -> bool:
            nonlocal stopped
            stopped = context.report(iteration, metrics)
            return stopped or iteration + 1 >= self.until

        def checkpoint(iteration: int, save: Callable[[Path], None]) -> None:
            context.checkpoint(iteration, save)
            if keep is not None and iteration + 1 == self.until and not stopped:
                keep(save)

        seed = context.seed
        if seed is not None and self.number:
            seed = int(
                np.random.SeedSequence((seed, self.number)).generate_state(1)[0] >> 1
            )  # 31 bits: LightGBM's limit
        return adapter.train(
            replace(context, seed=seed, report=report, checkpoint=checkpoint), *self.args, **self.kwargs
        )


def train(adapter: Framework, context: TrainContext, phases: Sequence[Phase]) -> Any:
    """Train the phases in order, each from the checkpoint of the one before. Return the model of the last."""
    native = None
    with scratch.folder("phases") as folder:
        for phase in phases:
            directory = folder / str(phase.number)

            def keep(save: Callable[[Path], None], directory: Path = directory) -> None:
                directory.mkdir()
                save(directory)

            native = phase.train(adapter, context, None if phase is phases[-1] else keep)
            if not directory.exists():
                break  # a callback stopped the training
            context = replace(context, resume=directory)
    return native

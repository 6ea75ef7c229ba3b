"""Callbacks that write a training where others look: TensorBoard, MLflow, Weights & Biases.

They run on the driver, as every callback does, whether training runs in this process or on workers. Given to `tune.run`,
they write one record for the tuning run and one for each trial: nested runs in MLflow, a group in W&B, directories below
one in TensorBoard. Their libraries are imported when a training starts.
"""

from __future__ import annotations

import datetime as dt
import importlib.util
import secrets
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from rayline.core.arguments import known_arguments
from rayline.core.errors import MissingExtraError
from rayline.train.callbacks import Callback, Run

EXTRA = "tracking"


@known_arguments
class Tracker(Callback):
    """The base of the trackers; one of your own is `open` and the four methods of what it returns.

    Parameters
    ----------
    name
        The run's name; the framework and the time when omitted.

    Raises
    ------
    ParameterError
        When the name is none.
    MissingExtraError
        When the tracker's library is not installed.

    Examples
    --------
    >>> from rayline import train
    >>> train.fit(trainer, train_dataset=ds, target_columns=["late"], callbacks=[train.TensorBoard("runs")])  # doctest: +SKIP
    """

    package = ""

    def __init__(self, name: str | None = None) -> None:
        if importlib.util.find_spec(self.package.partition(".")[0]) is None:
            raise MissingExtraError.of(f"train.{type(self).__name__}", self._installs, EXTRA)
        self.name = name
        self._record: Any = None

    _installs = ""

    @abstractmethod
    def open(self, name: str, params: Mapping[str, Any], parent: Any = None) -> Any:
        """Return a new record.

        Parameters
        ----------
        name
            The name of the run or trial.
        params
            The trainer's arguments, or the configuration of the trial, by flat names.
        parent
            The record of the tuning run that this one is a trial of; None for a training.

        Returns
        -------
        object
            With `log(step, values)`, `summary(values)`, `file(path)` and `close(failed)`.
        """

    def on_start(self, run: Run) -> None:
        self._record = self.open(self.name or _name(run.trainer.framework), params_of(run.trainer))

    def on_iteration(self, run: Run, iteration: int, metrics: Mapping[str, float]) -> None:
        self._record.log(iteration, metrics)

    def on_trial(self, run: Run, trial: Any) -> None:
        record = self.open(f"trial-{trial.number:04d}", _flat(trial.config), self._record)
        several = trial.n_folds > 1
        for fold, history in sorted(trial.histories.items()):
            for row in history:
                values = {name: value for name, value in row.items() if name != "iteration"}
                record.log(int(row["iteration"]), {f"fold-{fold}/{n}" if several else n: v for n, v in values.items()})
        for fold in trial.folds if several else ():
            record.log(fold.fold, {"fold_score": fold.score})
        values = {"score": trial.score, "standard_error": trial.standard_error, "folds": len(trial.folds)}
        further = zip(trial.metrics[1:], trial.means[1:], trial.standard_errors[1:], strict=False)
        for name, mean, error in further if trial.folds else ():
            values |= {f"score/{name}": mean, f"standard_error/{name}": error}
        record.summary(values)
        record.close(failed=bool(trial.error))

    def on_end(self, run: Run) -> None:
        if self._record is None:
            return  # it did not even start
        if run.result is not None:
            self._record.summary(run.result.metrics)
            self.finished(run)
        if run.analysis is not None:
            best = zip(run.analysis.metrics, run.analysis.best_trial.means, strict=True)
            self._record.summary({**{f"best_{name}": mean for name, mean in best}, "trials": len(run.analysis.trials)})
        self._record.close(failed=run.result is None and run.analysis is None)
        self._record = None

    def finished(self, run: Run) -> None:
        """Keep what else there is of a training that has succeeded; nothing by default.

        Parameters
        ----------
        run
            The training, with its `result`. The record is still open.
        """


# -- what a run is called, and what it was made with -------------------------------------------------------------------


def params_of(trainer: Any) -> dict[str, Any]:
    """Return a trainer's arguments, by flat names."""
    params: dict[str, Any] = {"framework": trainer.framework}
    for place, value in enumerate(trainer.args):
        params |= _flat(value) if isinstance(value, Mapping) else {f"arg{place}": value}
    params |= _flat(trainer.kwargs)
    for name in ("num_workers", "seed", "class_weight"):
        if getattr(trainer, name) is not None:
            params[name] = getattr(trainer, name)
    return params


def _flat(config: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    params: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            params |= _flat(value, f"{before}{key}/")
        else:
            params[f"{before}{key}"] = value
    return params


def _name(framework: str) -> str:
    return f"{framework}-{dt.datetime.now(dt.UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"

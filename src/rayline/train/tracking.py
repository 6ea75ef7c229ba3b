"""Callbacks that write a training where others look: TensorBoard, MLflow, Weights & Biases.

They run on the driver, as every callback does, whether training runs in this process or on workers. Given to `tune.run`,
they write one record for the tuning run and one for each trial: nested runs in MLflow, a group in W&B, directories below
one in TensorBoard. Their libraries are imported when a training starts.
"""

from __future__ import annotations

import datetime as dt
import importlib.util
import math
import secrets
import tempfile
import time
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayline.core.errors import MissingExtraError, ParameterError
from rayline.train.callbacks import Callback, Run

EXTRA = "tracking"

FLUSH_S = 1.0
"""Seconds for which values are collected before MLflow writes them: each write is a transaction."""


class Tracker(Callback):
    """What the three have in common; one of your own is `open` and the four methods of what it returns.

    Parameters
    ----------
    name
        The run's name; the framework and the time when omitted.
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
        """A new record: an object with `log(step, values)`, `summary(values)`, `file(path)` and `close(failed)`. `parent` is
        the record of the tuning run that this one is a trial of."""

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
        record.summary({"score": trial.score, "standard_error": trial.standard_error, "folds": len(trial.folds)})
        record.close(failed=bool(trial.error))

    def on_end(self, run: Run) -> None:
        if self._record is None:
            return  # it did not even start
        if run.result is not None:
            self._record.summary(run.result.metrics)
            self.finished(run)
        if run.analysis is not None:
            self._record.summary(
                {f"best_{run.analysis.metric}": run.analysis.best_score, "trials": len(run.analysis.trials)}
            )
        self._record.close(failed=run.result is None and run.analysis is None)
        self._record = None

    def finished(self, run: Run) -> None:
        """What else to keep of a training that has succeeded."""


class TensorBoard(Tracker):
    """Write the history as TensorBoard's event files, with tensorboardX (no TensorFlow, no PyTorch).

    Metrics keep their names; parameters and final metrics come under "hparams". `tensorboard --logdir` shows them.

    Parameters
    ----------
    log_dir
        Where; each training gets a directory in it.
    name
        The name of that directory; the framework and the time when omitted.

    Raises
    ------
    MissingExtraError
        When tensorboardX is not installed.

    Examples
    --------
    >>> import polars as pl, tempfile
    >>> from rayline import train
    >>> from pathlib import Path
    >>> table = pl.DataFrame({"x": [0.0, 1.0] * 9, "y": [0.0, 1.0] * 9})
    >>> logs = tempfile.mkdtemp()
    >>> _ = train.XGBoostTrainer({}, num_boost_round=3).fit(None, table, None, "y", verbose=False,
    ...                                                     callbacks=[train.TensorBoard(logs, name="first")])
    >>> [file.name.startswith("events.out.tfevents") for file in (Path(logs) / "first").iterdir()]
    [True]
    """

    package, _installs = "tensorboardX", "tensorboardX"

    def __init__(self, log_dir: str | Path, name: str | None = None) -> None:
        super().__init__(name)
        self.log_dir = Path(log_dir)

    def open(self, name: str, params: Mapping[str, Any], parent: Any = None) -> Any:
        return _TensorBoard((self.log_dir if parent is None else parent.directory) / name, params)


class _TensorBoard:
    def __init__(self, directory: Path, params: Mapping[str, Any]) -> None:
        from tensorboardX import SummaryWriter

        self.directory, self._writer = directory, SummaryWriter(str(directory))
        self._params = {name: v if isinstance(v, (bool, int, float, str)) else str(v) for name, v in params.items()}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def summary(self, values: Mapping[str, float]) -> None:
        from tensorboardX.summary import hparams

        found = {f"final/{name}": value for name, value in values.items() if math.isfinite(value)}
        for part in hparams(self._params, found):
            self._writer.file_writer.add_summary(part)
        self.log(0, found)

    def close(self, *, failed: bool) -> None:
        self._writer.close()


class MLflow(Tracker):
    """Write the history as a run of MLflow: parameters, metrics of each iteration, and how it ended.

    Neither the active run nor the tracking URI of the process are touched, so it works beside your own use of MLflow.
    Values are written at most once a second.

    Parameters
    ----------
    experiment
        Made when it does not exist.
    tracking_uri
        "sqlite:///runs.db", or the URL of a server; that of the process when omitted.
    name
        The run's name; the framework and the time when omitted.
    tags
        Of the run.
    save_pipeline
        Whether to keep the inference pipeline (`pipeline.rayline`) as an artifact of the run.

    Raises
    ------
    MissingExtraError
        When MLflow is not installed.
    """

    package, _installs = "mlflow", "mlflow-skinny"

    def __init__(
        self,
        experiment: str = "rayline",
        tracking_uri: str | None = None,
        name: str | None = None,
        tags: Mapping[str, str] | None = None,
        save_pipeline: bool = False,
    ) -> None:
        super().__init__(name)
        self.experiment, self.tracking_uri, self.tags = experiment, tracking_uri, dict(tags or {})
        self.save_pipeline = save_pipeline

    def open(self, name: str, params: Mapping[str, Any], parent: Any = None) -> Any:
        if parent is not None:
            return parent.nested(name, params)
        from mlflow.tracking import MlflowClient

        client = MlflowClient(self.tracking_uri)
        found = client.get_experiment_by_name(self.experiment)
        experiment = client.create_experiment(self.experiment) if found is None else found.experiment_id
        return _MLflow(client, experiment, name, self.tags, params)

    def finished(self, run: Run) -> None:
        if self.save_pipeline and run.result is not None:
            with tempfile.TemporaryDirectory(prefix="rayline-") as folder:
                run.result.inference_pipeline.save(Path(folder) / "pipeline.rayline")
                self._record.file(Path(folder) / "pipeline.rayline")


class _MLflow:
    def __init__(
        self, client: Any, experiment: str, name: str, tags: Mapping[str, str], params: Mapping[str, Any]
    ) -> None:
        from mlflow.entities import Metric, Param

        self._client, self._experiment, self._metric = client, experiment, Metric
        self._id = client.create_run(experiment, tags=dict(tags), run_name=name).info.run_id
        self._waiting: list[Any] = []
        self._written = time.monotonic()
        items = [Param(_key(key), str(value)[:500]) for key, value in params.items()]
        for start in range(0, len(items), 100):
            client.log_batch(self._id, params=items[start : start + 100])

    def nested(self, name: str, params: Mapping[str, Any]) -> _MLflow:
        return _MLflow(self._client, self._experiment, name, {"mlflow.parentRunId": self._id}, params)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        self._waiting += [self._metric(_key(n), v, now, step) for n, v in values.items() if not math.isnan(v)]
        if time.monotonic() - self._written > FLUSH_S:
            self._write()

    def summary(self, values: Mapping[str, float]) -> None:
        self._write()
        self.log(0, {f"final/{name}": value for name, value in values.items()})

    def file(self, path: Path) -> None:
        self._client.log_artifact(self._id, str(path))

    def close(self, *, failed: bool) -> None:
        self._write()
        self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")

    def _write(self) -> None:
        for start in range(0, len(self._waiting), 1000):  # no more at a time, says its server
            self._client.log_batch(self._id, metrics=self._waiting[start : start + 1000])
        self._waiting, self._written = [], time.monotonic()


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
    """

    package, _installs = "wandb", "wandb"

    def __init__(
        self,
        project: str = "rayline",
        mode: str | None = None,
        name: str | None = None,
        dir: str | Path | None = None,
        **options: Any,
    ) -> None:
        super().__init__(name)
        if mode not in (None, "online", "offline", "disabled"):
            raise ParameterError.value("WandB", "mode", "'online', 'offline', 'disabled' or None", mode)
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
            settings.x_transaction_log_flush_interval = FLUSH_S / 5
        own = wandb.init(
            project=self.project,
            name=name,
            config=dict(params),
            reinit="create_new",
            settings=settings,
            **options,
        )
        return _WandB(own, name)


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


# -- what a run is called, and what it was made with -------------------------------------------------------------------


def params_of(trainer: Any) -> dict[str, Any]:
    """A trainer's arguments, by flat names."""
    found: dict[str, Any] = {"framework": trainer.framework}
    for place, value in enumerate(trainer.args):
        found |= _flat(value) if isinstance(value, Mapping) else {f"arg{place}": value}
    found |= _flat(trainer.kwargs)
    for name in ("num_workers", "seed", "class_weight"):
        if getattr(trainer, name) is not None:
            found[name] = getattr(trainer, name)
    return found


def _flat(config: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{before}{key}/")
        else:
            found[f"{before}{key}"] = value
    return found


def _name(framework: str) -> str:
    return f"{framework}-{dt.datetime.now(dt.UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def _key(name: str) -> str:
    """MLflow allows letters, digits and _-. :/ in names ("test-ndcg@5")."""
    return "".join(c if c.isalnum() or c in "_-. :/" else "_" for c in name)

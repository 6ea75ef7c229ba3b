"""MLflow: a training as a run, in tuning with a nested run for each trial."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayline.core import scratch
from rayline.core.arguments import known_arguments
from rayline.core.errors import ParameterError, first_line
from rayline.train.callbacks import Run
from rayline.train.trackers.base import Tracker

FLUSH_S = 1.0
"""Seconds for which values are collected before they are written: each write is a transaction."""


@known_arguments
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
    ParameterError
        When a training starts, and MLflow cannot write there.

    Examples
    --------
    >>> from rayline import train
    >>> train.fit(trainer, train_dataset=ds, target_columns=["late"], callbacks=[train.MLflow("flights", tracking_uri="sqlite:///runs.db")])  # doctest: +SKIP
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
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        try:
            client = MlflowClient(self.tracking_uri)
            existing = client.get_experiment_by_name(self.experiment)
            experiment = client.create_experiment(self.experiment) if existing is None else existing.experiment_id
        except MlflowException as error:
            reason = first_line(error)
            raise ParameterError(
                f"train.MLflow: the runs of {self.tracking_uri!r} cannot be written: {reason}",
                "Expected a database (sqlite:///runs.db) or the URL of a server; MLflow no longer takes directories.",
                "change tracking_uri.",
            ) from error
        return _MLflow(client, experiment, name, self.tags, params)

    def finished(self, run: Run) -> None:
        if self.save_pipeline and run.result is not None:
            with scratch.folder("model") as folder:
                run.result.inference_pipeline.save(folder / "pipeline.rayline")
                self._record.file(folder / "pipeline.rayline")


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


def _key(name: str) -> str:
    """MLflow allows letters, digits and _-. :/ in names ("test-ndcg@5")."""
    return "".join(c if c.isalnum() or c in "_-. :/" else "_" for c in name)

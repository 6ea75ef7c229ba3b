"""TensorBoard: a training as event files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayline.core import scratch, storage
from rayline.core.arguments import known_arguments
from rayline.core.files import checked_path, writing
from rayline.train.trackers.base import Tracker


@known_arguments
class TensorBoard(Tracker):
    """Write the history as TensorBoard's event files, with tensorboardX (no TensorFlow, no PyTorch).

    Metrics keep their names; parameters and final metrics come under "hparams". `tensorboard --logdir` shows them.

    Parameters
    ----------
    log_dir
        Where: a directory, or the URL of one (s3://…, gs://…), to which a training is copied when it ends; each training gets a
        directory in it.
    name
        The name of that directory; the framework and the time when omitted.

    Raises
    ------
    ParameterError
        When `log_dir` is no path.
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
        checked_path(log_dir, "log_dir")
        self.log_dir = log_dir

    def open(self, name: str, params: Mapping[str, Any], parent: Any = None) -> Any:
        return _TensorBoard(storage.below(self.log_dir if parent is None else parent.directory, name), params)


class _TensorBoard:
    def __init__(self, directory: str, params: Mapping[str, Any]) -> None:
        from tensorboardX import SummaryWriter

        self.directory = directory
        self._local = scratch.Scratch("tensorboard") if storage.is_url(directory) else None
        with writing(directory):
            self._writer = SummaryWriter(directory if self._local is None else str(self._local.path))
        self._params = {name: v if isinstance(v, (bool, int, float, str)) else str(v) for name, v in params.items()}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def summary(self, values: Mapping[str, float]) -> None:
        from tensorboardX.summary import hparams

        finite = {f"final/{name}": value for name, value in values.items() if math.isfinite(value)}
        for part in hparams(self._params, finite):
            self._writer.file_writer.add_summary(part)
        self.log(0, finite)

    def close(self, *, failed: bool) -> None:
        self._writer.close()
        if self._local is not None:
            try:
                storage.upload(self._local.path, self.directory)
            finally:
                self._local.close()

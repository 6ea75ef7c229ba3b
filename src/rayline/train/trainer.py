"""The trainer: a framework with its arguments, which can be fitted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from rayline.core.arguments import known_arguments
from rayline.core.data_types import Data
from rayline.core.errors import NotFittedError
from rayline.inference.pipeline import Preprocessor
from rayline.train.base_trainer import BaseTrainer
from rayline.train.fit import FitOptions, fit
from rayline.train.result import Result


@known_arguments
class Trainer(BaseTrainer):
    """A framework with its arguments and its scaling; `train.fit` trains it on data.

    Pass the arguments of the framework's training function, unchanged, as positional and keyword arguments or as `args=` and
    `kwargs=`.

    Parameters
    ----------
    framework
        The id of a framework, or its (registered) class. `train.XGBoostTrainer` and the like set it themselves.
    args, kwargs
        The framework's arguments; needed where one of them has the name of a parameter of this list.
    num_workers
        The number of Ray workers, or a range `(min, max)`; None trains in this process.
    use_gpu
        Whether every worker gets a GPU and the framework uses it.
    resources_per_worker
        Ray resources of a worker, as {"CPU": 2}; without workers, those of a trial of `tune.run`.
    seed
        The same seed gives the same model.
    max_failures
        How often the training restarts from the last checkpoint after a worker has died. Needs `num_workers`.
    checkpoint_every
        Iterations between two checkpoints.
    storage_path
        Where checkpoints of workers are kept: a directory that all workers can access, or a URL that pyarrow or fsspec opens. Needs
        `num_workers`.
    scaling
        A `train.Scaling`, in place of `num_workers`, `use_gpu`, `resources_per_worker`, `max_failures` and `storage_path`.
    metrics
        Names of metrics to compute on the test set ("roc_auc"), or on the training set ("train-roc_auc"), in
        addition to those of the framework; also functions `(y_true, y_pred)` and scikit-learn's scorers, in a list or as a dict from
        names to functions. When omitted, the usual metrics of the task.
    class_weight
        "balanced", or a weight for each label; multiplied into the sample weights of the training rows.
    pos_label
        The positive class of a target with two classes, which f1, precision, recall and average precision measure and
        the framework learns as 1 (for several targets a dict from column to label). When omitted, the greater label: 1
        of 0 and 1, True, "yes" of "no" and "yes".

    Raises
    ------
    ParameterError
        On a parameter that neither the trainer nor the framework knows, and on one that has no effect without `num_workers`.
    MissingExtraError
        When the framework's library is not installed.

    Examples
    --------
    >>> from rayline import train
    >>> trainer = train.XGBoostTrainer({"max_depth": 3}, num_boost_round=20, seed=1)
    >>> trainer
    XGBoostTrainer({'max_depth': 3}, num_boost_round=20, seed=1)
    >>> trainer.replace({"max_depth": 5, "num_boost_round": 10})
    XGBoostTrainer({'max_depth': 5}, num_boost_round=10, seed=1)
    """

    def fit(
        self,
        preprocessor: Preprocessor | None = None,
        train_dataset: Data | None = None,
        test_dataset: Data | None = None,
        target_columns: Sequence[str] | str | None = None,
        **options: Unpack[FitOptions],
    ) -> Result:
        """Train: `train.fit(trainer, …)`, which says more about each argument.

        Parameters
        ----------
        preprocessor, train_dataset, test_dataset, target_columns
            As in `train.fit`, nulls too.
        options
            The keyword arguments of `train.fit`: X, y, sample_weight, callbacks, metrics, ….

        Returns
        -------
        Result
            Metrics, history, model, and the inference pipeline.

        Raises
        ------
        SchemaError, DataError, ParameterError, ResourceError, TrainingError
            As `train.fit`.
        """
        return fit(self, preprocessor, train_dataset, test_dataset, target_columns, **options)

    @property
    def fitted_model(self) -> Any:
        """The framework's own object, as the last fit made it. Raises NotFittedError before."""
        return self.result.model.native

    @property
    def result(self) -> Result:
        """The result of the last fit. Raises NotFittedError before."""
        if self._result is None:
            raise NotFittedError(
                f"{self._name}: not fitted yet.", "Expected a fit before.", "call train.fit(trainer, …) first."
            )
        assert isinstance(self._result, Result)
        return self._result

    @property
    def _shown_arguments(self) -> list[str]:
        shown = super()._shown_arguments
        return [repr(self.framework), *shown] if type(self) is Trainer else shown

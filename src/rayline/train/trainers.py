"""The trainer class of each framework of ours, with the framework's arguments written out for editors and type checkers.

At run time all of them pass their arguments to `Trainer` unchanged; a test compares the signatures with the adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypedDict, Unpack

from rayline.core.data_types import ClassWeight, Metrics, PosLabel
from rayline.device import TrainOnGPU
from rayline.train.scaling import Scaling
from rayline.train.trainer import Trainer


class TrainerOptions(TypedDict, total=False):
    """The options that every trainer takes; `Trainer` describes them."""

    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    num_workers: int | tuple[int, int] | None
    use_gpu: TrainOnGPU
    resources_per_worker: Mapping[str, float] | None
    seed: int | None
    max_failures: int
    checkpoint_every: int | None
    storage_path: str | PathLike[str] | None
    scaling: Scaling | None
    metrics: Metrics | None
    class_weight: ClassWeight | None
    pos_label: PosLabel | None


class FrameworkTrainer(Trainer):
    """A trainer whose class names the framework."""

    framework_id: ClassVar[str]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(self.framework_id, *arguments, **options)


class XGBoostTrainer(FrameworkTrainer):
    """Train gradient boosted trees with `xgboost.train`.

    Training and test rows are evaluated as "train" and "test". Without an objective, class labels give `binary:logistic`
    or `multi:softprob`, numbers `reg:squarederror`; `num_class` follows from the labels. After early stopping,
    predictions use the best iteration. String features are XGBoost's own categories; missing values stay missing.
    `params["seed"]`, `["nthread"]` and `["device"]` come from the trainer unless they are given. Constraints name features, or
    raw columns for all features that come from them. `fitted_model` is an `xgboost.Booster`.

    Parameters
    ----------
    params, num_boost_round, obj, maximize, early_stopping_rounds, verbose_eval, xgb_model, callbacks, custom_metric
        As in `xgboost.train`. `early_stopping_rounds` needs a test set.
    **options
        Those of every `Trainer`: `num_workers`, `use_gpu`, `seed`, `metrics`, `class_weight`, …

    Raises
    ------
    ParameterError
        On an argument or a parameter that XGBoost does not know.
    MissingExtraError
        When XGBoost is not installed (`rayline[xgboost]`).

    Examples
    --------
    >>> import polars as pl
    >>> from rayline import train
    >>> table = pl.DataFrame({"x": [0.0, 1.0, 2.0, 3.0] * 25, "late": ["no", "no", "yes", "yes"] * 25})
    >>> trainer = train.XGBoostTrainer({"max_depth": 2}, num_boost_round=5, seed=1)
    >>> result = train.fit(trainer, None, train_dataset=table, target_columns=["late"], verbose=False)
    >>> result.inference_pipeline.predict(table)["prediction"].to_list()[:4]
    ['no', 'no', 'yes', 'yes']
    """

    framework_id = "xgboost"

    if TYPE_CHECKING:

        def __init__(
            self,
            params: Mapping[str, Any] | None = None,
            num_boost_round: int = 10,
            *,
            obj: Callable[..., Any] | None = None,
            maximize: bool | None = None,
            early_stopping_rounds: int | None = None,
            verbose_eval: bool | int = False,
            xgb_model: Any = None,
            callbacks: Sequence[Any] | None = None,
            custom_metric: Callable[..., Any] | None = None,
            **options: Unpack[TrainerOptions],
        ) -> None: ...


class LightGBMTrainer(FrameworkTrainer):
    """Train gradient boosted trees with `lightgbm.train`.

    Training and test rows are evaluated as "train" and "test". Without an objective, class labels give `binary` or
    `multiclass`, numbers `regression`; `num_class` follows from the labels. Predictions use the best iteration. String
    features are LightGBM's own categories; missing values stay missing. On several workers trees are learned from all
    rows (`tree_learner="data"`) unless the parameters say otherwise. Parameters name features, or raw columns for all features
    that come from them. A custom objective gives labels (above 0 is the second class) and no probabilities. `fitted_model` is a
    `lightgbm.Booster`.

    Parameters
    ----------
    params, num_boost_round, feval, init_model, callbacks
        As in `lightgbm.train`. Early stopping is `params["early_stopping_round"]`, and needs a test set.
    **options
        Those of every `Trainer`: `num_workers`, `seed`, `metrics`, `class_weight`, …

    Raises
    ------
    ParameterError
        On an argument or a parameter that LightGBM does not know.
    MissingExtraError
        When LightGBM is not installed (`rayline[lightgbm]`).

    Examples
    --------
    >>> import polars as pl
    >>> from rayline import train
    >>> table = pl.DataFrame({"x": [0.0, 1.0, 2.0, 3.0] * 25, "price": [1.0, 1.0, 5.0, 5.0] * 25})
    >>> trainer = train.LightGBMTrainer({"num_leaves": 4}, num_boost_round=50, seed=1)
    >>> result = train.fit(trainer, None, train_dataset=table, target_columns=["price"], verbose=False)
    >>> result.inference_pipeline.predict(table)["prediction"].round(1).to_list()[:4]
    [1.0, 1.0, 5.0, 5.0]
    """

    framework_id = "lightgbm"

    if TYPE_CHECKING:

        def __init__(
            self,
            params: Mapping[str, Any] | None = None,
            num_boost_round: int = 100,
            *,
            feval: Callable[..., Any] | Sequence[Callable[..., Any]] | None = None,
            init_model: Any = None,
            callbacks: Sequence[Any] | None = None,
            **options: Unpack[TrainerOptions],
        ) -> None: ...


class CatBoostTrainer(FrameworkTrainer):
    """Train gradient boosted trees with CatBoost, in this process or on one Ray worker.

    Without a `loss_function`, class labels give Logloss, MultiClass or MultiLogloss, numbers RMSE or MultiRMSE. String
    features are CatBoost's own categories. With a test set predictions use the best iteration, unless `use_best_model`
    is False. Parameters name features, or raw columns for all features that come from them; a custom loss gives labels and no
    probabilities. `fitted_model` is a `catboost.CatBoost`.

    Parameters
    ----------
    params, callbacks, init_model
        As in `catboost.CatBoost` and its `fit`; the number of iterations is `params["iterations"]`.
    **options
        Those of every `Trainer`: `num_workers` (None or 1), `seed`, `metrics`, `class_weight`, …

    Raises
    ------
    ParameterError
        On a parameter that CatBoost does not know.
    MissingExtraError
        When CatBoost is not installed (`rayline[catboost]`).

    Examples
    --------
    >>> from rayline import train
    >>> train.CatBoostTrainer({"iterations": 50, "depth": 4}, seed=1)  # doctest: +SKIP
    CatBoostTrainer({'iterations': 50, 'depth': 4}, seed=1)
    """

    framework_id = "catboost"

    if TYPE_CHECKING:

        def __init__(
            self,
            params: Mapping[str, Any] | None = None,
            *,
            callbacks: Sequence[Any] | None = None,
            init_model: Any = None,
            **options: Unpack[TrainerOptions],
        ) -> None: ...


class SklearnTrainer(FrameworkTrainer):
    """Train a copy of any scikit-learn estimator, in this process or on one Ray worker.

    Classes are those of the estimator's own `predict`, probabilities those of `predict_proba`; without it the values of
    `decision_function` rank the rows for metrics such as `roc_auc`. `random_state` comes from
    the trainer's seed where the estimator leaves it open. Tuned parameters are the estimator's own (`C`, `step__C`).
    `fitted_model` is the fitted estimator.

    Parameters
    ----------
    estimator
        A classifier or regressor; it is copied, never fitted itself.
    epochs
        With n epochs an estimator that has `partial_fit` reads the rows in blocks of at most 65,536, n times, and never holds all.
    quantile_alpha
        Quantiles to predict, as [0.1, 0.5, 0.9]: a copy of a quantile regressor is trained for each.
    **options
        Those of every `Trainer`: `num_workers` (None or 1), `seed`, `metrics`, `class_weight`, …

    Raises
    ------
    ParameterError
        When the estimator is not one, or lacks a parameter that is set.
    MissingExtraError
        When scikit-learn's storage format is not installed (`rayline[sklearn]`).

    Examples
    --------
    >>> import polars as pl
    >>> from sklearn.linear_model import LogisticRegression
    >>> from rayline import train
    >>> table = pl.DataFrame({"x": [0.0, 1.0, 2.0, 3.0] * 25, "late": [0, 0, 1, 1] * 25})
    >>> result = train.fit(
    ...     train.SklearnTrainer(LogisticRegression()), None, train_dataset=table, target_columns=["late"], verbose=False
    ... )
    >>> result.inference_pipeline.predict(table)["prediction"].to_list()[:4]
    [0, 0, 1, 1]
    """

    framework_id = "sklearn"

    if TYPE_CHECKING:

        def __init__(
            self,
            estimator: Any,
            *,
            epochs: int | None = None,
            quantile_alpha: Sequence[float] | float | None = None,
            **options: Unpack[TrainerOptions],
        ) -> None: ...


class TorchTrainer(FrameworkTrainer):
    """Train a PyTorch module, by the standard loop, by a loop of your own, or as a LightningModule.

    All features enter the module as one float32 tensor of shape (rows, width); a single vector column keeps its shape.
    Outputs are logits in a classification, of shape (rows,), (rows, 1) or (rows, classes), and values in a regression.
    Predictions of a single row and of the same row in a table agree within 1e-5. `fitted_model` is the `torch.nn.Module`.

    Parameters
    ----------
    module
        A class of `torch.nn.Module`, a function that makes one, a module (which is copied), or a name: "MLP", "Linear",
        or that of a class registered by `rayline.frameworks.torch.register_module`. `in_features` and `out_features`
        are filled in where it takes them.
    module_kwargs
        Its arguments: plain values, saved as JSON.
    loss
        The name of a loss of `torch.nn.functional`, or a callable of outputs and targets that gives a number, or one for each
        row (as weights need it). By default binary or
        categorical cross entropy, or squared error, by the task. "poisson", "tweedie" and "gamma" for counts and amounts:
        outputs are then logarithms, predictions are not.
    optimizer, lr, weight_decay, optimizer_kwargs
        The name of a class of `torch.optim` or a callable of the parameters, and its arguments.
    scheduler, scheduler_kwargs
        The name of a class of `torch.optim.lr_scheduler` or a callable of the optimizer; it steps once an epoch.
    batch_size
        Rows of a step, all workers together.
    max_epochs
        Passes over the rows.
    gradient_clip
        The largest norm of the gradients.
    mixed_precision
        Whether to compute in bfloat16 where PyTorch supports it.
    compile
        Whether to compile the module with `torch.compile` for the training, or its arguments as a dict.
    patience
        Epochs to wait for a smaller loss on the test set; the model is then that of the best epoch.
    inputs
        "columns" passes each feature by its name, integers as int64 (for embeddings); "matrix" passes one tensor.
    train_loop
        Your own loop instead of the standard one, called with the module, wrapped for the workers, and the TrainContext (rows,
        rank, report, checkpoint, resume; see docs/own_framework.md), and with those of the arguments above that it names, such as
        `lr`. With several workers each reports metrics of its own rows, and their mean is kept. It may return another module.
    lightning_module
        A LightningModule, or a class or function that makes one, instead of `module`: Lightning's own Trainer trains it.
        `training_step` gets batches (x, y), or (x, y, weight) with sample weights: x as `forward` gets it, y class numbers
        (float32 in a binary task) or values. Test rows go to `validation_step`. Logged metrics become the history: "train_loss"
        as "train-loss", "val_loss" as "test-loss".
    trainer_args, callbacks
        The arguments of `lightning.Trainer`, and Lightning's callbacks.
    quantile_alpha
        Quantiles to predict, as [0.1, 0.5, 0.9]: the pinball loss, with one column of predictions for each.
    **options
        Those of every `Trainer`: `num_workers`, `use_gpu`, `seed`, `metrics`, `class_weight`, …

    Raises
    ------
    ParameterError
        On arguments that conflict or would have no effect.
    MissingExtraError
        When PyTorch is not installed (`rayline[torch]`).

    Examples
    --------
    >>> from rayline import train
    >>> train.TorchTrainer("MLP", lr=1e-2, max_epochs=5, seed=1)  # doctest: +SKIP
    TorchTrainer('MLP', lr=0.01, max_epochs=5, seed=1)
    """

    framework_id = "torch"

    if TYPE_CHECKING:

        def __init__(
            self,
            module: Any = "MLP",
            module_kwargs: Mapping[str, Any] | None = None,
            *,
            loss: str | Callable[..., Any] | None = None,
            optimizer: str | Callable[..., Any] = "AdamW",
            lr: float = 1e-3,
            weight_decay: float | None = None,
            optimizer_kwargs: Mapping[str, Any] | None = None,
            scheduler: str | Callable[..., Any] | None = None,
            scheduler_kwargs: Mapping[str, Any] | None = None,
            batch_size: int = 64,
            max_epochs: int = 10,
            gradient_clip: float | None = None,
            mixed_precision: bool = False,
            compile: bool | Mapping[str, Any] = False,
            patience: int | None = None,
            inputs: Literal["columns", "matrix"] = "matrix",
            train_loop: Callable[..., Any] | None = None,
            lightning_module: Any = None,
            trainer_args: Mapping[str, Any] | None = None,
            callbacks: Sequence[Any] | None = None,
            quantile_alpha: Sequence[float] | float | None = None,
            **options: Unpack[TrainerOptions],
        ) -> None: ...


class HorovodTrainer(TorchTrainer):
    """Train as `TorchTrainer` does, with Horovod between the workers: the same arguments and the same model.

    In a `train_loop` of your own `horovod.torch` is initialised, and sharing gradients is the loop's task
    (`horovod.torch.DistributedOptimizer`). LightningModules are refused.

    Parameters
    ----------
    module, module_kwargs, loss, optimizer, lr, max_epochs, ...
        As in `TorchTrainer`.

    Raises
    ------
    ParameterError
        As in `TorchTrainer`, and on `lightning_module`.
    MissingExtraError
        When Horovod is not installed (it is built from source: `make horovod`).

    Examples
    --------
    >>> from rayline import train
    >>> train.HorovodTrainer("MLP", max_epochs=5, num_workers=2)  # doctest: +SKIP
    HorovodTrainer('MLP', max_epochs=5, num_workers=2)
    """

    framework_id = "horovod"


class HuggingFaceTrainer(FrameworkTrainer):
    """Fine-tune a transformer on text, for classification or regression, with `transformers.Trainer`.

    The features are one text column, or two that are read as a pair. `fitted_model` is the `PreTrainedModel`; its
    tokenizer is saved with it. Code from a model's repository never runs. Predictions of a single row and of the same
    row in a table agree within 1e-5.

    Parameters
    ----------
    model
        A directory, the name of a model on the hub, or a model for sequence classification (which is copied).
    tokenizer
        The same for the tokenizer; by default the one in the model's directory.
    task
        "text-classification" or "text-regression"; by default decided by the labels.
    training_args
        Arguments of `transformers.TrainingArguments`, by name. Batch sizes are per worker. Those that would have no effect
        (of loaders, evaluation and logging by steps, sharded models) are refused. `label_smoothing_factor` smooths the labels in
        training, not in `test-loss`; with `load_best_model_at_end` the metrics are those of the best epoch.
    max_length
        Tokens read of a text; by default as many as the model can read.
    mixed_precision, compile
        Whether to compute in bfloat16, and with `torch.compile`: `bf16` and `torch_compile` of the training arguments.
    callbacks
        Objects of `transformers.TrainerCallback`.
    **options
        Those of every `Trainer`: `num_workers`, `use_gpu`, `seed`, `metrics`, `class_weight`, …

    Raises
    ------
    ParameterError
        On an argument that `transformers.TrainingArguments` does not know, or that is not supported here.
    MissingExtraError
        When transformers is not installed (`rayline[huggingface]`).

    Examples
    --------
    >>> from rayline import train
    >>> train.HuggingFaceTrainer("path/of/a/model", training_args={"num_train_epochs": 2})  # doctest: +SKIP
    HuggingFaceTrainer('path/of/a/model', training_args={'num_train_epochs': 2})
    """

    framework_id = "huggingface"

    if TYPE_CHECKING:

        def __init__(
            self,
            model: Any,
            tokenizer: Any = None,
            *,
            task: Literal["text-classification", "text-regression"] | None = None,
            training_args: Mapping[str, Any] | None = None,
            max_length: int | None = None,
            mixed_precision: bool = False,
            compile: bool = False,
            callbacks: Sequence[Any] | None = None,
            **options: Unpack[TrainerOptions],
        ) -> None: ...


class RLlibTrainer(FrameworkTrainer):
    """Train a policy with RLlib, which generates its own data in an environment: `train.fit(trainer)` takes no data.

    Observations are one column `observation`, a vector of the space's shape. Actions are the target: classes 0, 1, … of
    a Discrete space (with probabilities where the algorithm has a distribution), numbers of a Box, within its bounds. Predictions are the best action, without exploration.
    `fitted_model` is RLlib's `RLModule`.

    Parameters
    ----------
    algorithm
        "PPO", "APPO", "IMPALA", "DQN", "SAC", or an AlgorithmConfig of your own.
    env
        The name of an environment of Gymnasium or of `ray.tune.register_env`, a class of `gymnasium.Env`, or a function
        of its configuration.
    config
        Settings of the algorithm's AlgorithmConfig by name, `env_config` and `model_config` among them.
    iterations
        Number of calls of `Algorithm.train`.
    stop
        Metrics of the history that end the training when they are reached, as {"episode_return_mean": 195}.
    **options
        Those of every `Trainer`; `num_workers=N` samples on N Ray actors, `max_failures` replaces lost ones.

    Raises
    ------
    ParameterError
        On settings that RLlib does not know, and on policies with a memory or with connectors of their own.
    MissingExtraError
        When RLlib is not installed (`rayline[rllib]`).

    Examples
    --------
    >>> from rayline import train
    >>> train.RLlibTrainer("PPO", "CartPole-v1", {"lr": 1e-3}, iterations=20)  # doctest: +SKIP
    RLlibTrainer('PPO', 'CartPole-v1', {'lr': 0.001}, iterations=20)
    """

    framework_id = "rllib"

    if TYPE_CHECKING:

        def __init__(
            self,
            algorithm: Any = "PPO",
            env: Any = None,
            config: Mapping[str, Any] | None = None,
            *,
            iterations: int = 10,
            stop: Mapping[str, float] | None = None,
            **options: Unpack[TrainerOptions],
        ) -> None: ...

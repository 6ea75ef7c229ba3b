"""LightGBM: `train.LightGBMTrainer` takes the arguments of `lightgbm.train`, without the data."""

from __future__ import annotations

import functools
import re
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import polars as pl
from lightgbm.callback import EarlyStopException

from rayline.compat.boosting import lightgbm_aliases, lightgbm_parameters
from rayline.core.abilities import FeatureContributions
from rayline.core.errors import ArtifactError, DataError, MissingExtraError, ParameterError, at, counted, place
from rayline.core.feature_names import Escaping
from rayline.core.features import Array, Features
from rayline.core.framework import Framework, ModelInfo, Rows, TrainContext
from rayline.core.objective import ANY, NON_NEGATIVE, POSITIVE, LabelRange, Objective, quantiles_of
from rayline.core.schema import SPARSE, col
from rayline.core.target import Target, Task, normalized
from rayline.device import select_device
from rayline.frameworks.lightgbm_metrics import LightGBMMetrics, refuse
from rayline.frameworks.verify import lightgbm_model

CLASSES = {
    "binary": Task.BINARY,
    "multiclass": Task.MULTICLASS,
    "multiclassova": Task.MULTICLASS,
    "cross_entropy": Task.BINARY,
    "lambdarank": Task.RANKING,
    "rank_xendcg": Task.RANKING,
}
"""Objectives of classification and ranking; all others are regressions."""

ALIASES = {
    "softmax": "multiclass",
    "multiclass_ova": "multiclassova",
    "ova": "multiclassova",
    "ovr": "multiclassova",
    "xentropy": "cross_entropy",
    **dict.fromkeys(("xendcg", "xe_ndcg", "xe_ndcg_mart", "xendcg_mart"), "rank_xendcg"),
}
"""Other names of objectives."""

LABELS = {
    "poisson": NON_NEGATIVE,
    "tweedie": NON_NEGATIVE,
    "gamma": POSITIVE,
    "cross_entropy_lambda": LabelRange(0.0, 1.0),
}
"""Labels that an objective can learn, where it cannot learn every number."""

GAINS = 31
"""The number of relevances, from 0, whose gains LightGBM knows when `label_gain` is not given."""

NAMES = Escaping(
    {**dict(zip('[]{}":, =', "［］｛｝＂：，\u00a0＝", strict=True)), **{chr(i): chr(0x2400 + i) for i in range(1, 32)}}
)
"""Characters that LightGBM or its file format refuses in names of features, and similar ones that replace them."""

OWN = ("machines", "num_machines", "local_listen_port", "num_threads", "tree_learner", "pre_partition")
"""Parameters about the training machine, which are left out of saved models."""


OF_FILES = ("ignore_column", "label_column", "weight_column", "group_column", "data", "valid", "header", "two_round")
"""Parameters for reading data files, which Rayline does not use."""

TRAINING = (
    "objective", "metric", "num_class", "num_iterations", "learning_rate", "num_leaves", "max_depth", "boosting",
    "lambda_l1", "lambda_l2", "min_gain_to_split", "min_sum_hessian_in_leaf", "path_smooth", "extra_trees",
    "feature_fraction", "feature_fraction_bynode", "feature_fraction_seed", "bagging_fraction", "bagging_freq",
    "bagging_seed", "pos_bagging_fraction", "neg_bagging_fraction", "scale_pos_weight", "is_unbalance",
    "early_stopping_round", "first_metric_only", "verbosity", "max_delta_step", "drop_rate", "max_drop", "skip_drop",
    "top_rate", "other_rate", "alpha", "tweedie_variance_power", "poisson_max_delta_step", "lambdarank_truncation_level",
    "lambdarank_norm", "label_gain", "eval_at",
)  # fmt: skip
"""Parameters that do not affect the bins: trainings that differ only in these can share a Dataset."""


class LightGBM(Framework):
    """Gradient boosted trees. The arguments are those of `lightgbm.train`: `params`, then `num_boost_round`, `feval`,
    `init_model`; early stopping is `params["early_stopping_round"]`.

    Training and test rows are evaluated as "train" and "test". Without an objective, class labels give `binary` or
    `multiclass`, numbers `regression`; `num_class` follows from the labels. Predictions stop at the best iteration.
    String features are LightGBM's own categories. Parameters name features, or raw columns for all features that come from
    them. A custom objective gives labels (above 0 is the second class) and no probabilities. On several workers trees are learned from all rows
    (`tree_learner="data"`) unless the parameters say otherwise. Rows of a worker that take more than 64 MiB are read block by block, and
    only their bins are kept.
    """

    name = "lightgbm"
    thread_safe_training = True
    package = "lightgbm"
    string_features = "categories"
    distributed = True
    trains_on_gpu = True
    max_label = 1e37

    def train(
        self,
        context: TrainContext,
        params: Mapping[str, Any] | None = None,
        num_boost_round: int = 100,
        *,
        feval: Any = None,
        init_model: Any = None,
        callbacks: Sequence[Any] | None = None,
    ) -> Any:
        if len(context.target.columns) > 1 and context.target.task is not Task.RANKING:
            raise DataError(
                "lightgbm trainer: several targets.",
                f"Expected one; got {list(context.target.columns)}.",
                "train one model for each.",
            )
        given, context = self._params(context, params or {}), context.in_groups()
        named = given.pop(CATEGORIES, ())
        # A Dataset used to continue a model holds that model's scores, and is not reused.
        continued = init_model is not None or context.resume is not None
        kind = ("Dataset", *named, *sorted((k, repr(v)) for k, v in given.items() if k not in _training()))
        train = (
            _dataset(context.train, given, None, named)
            if continued
            else context.train.remember(kind, lambda: _dataset(context.train, given, None, named))
        )
        sets = {"train": train} if context.log_train_metrics else {}
        if context.test is not None:
            sets["test"] = _dataset(context.test, given, train, named)
        rounds = next(
            (given.pop(name) for name in lightgbm_aliases("num_iterations") if name in given), num_boost_round
        )
        if context.resume is not None:
            init_model = self.load(context.resume)
            rounds -= init_model.current_iteration()
        everyone = None
        if context.world_size > 1:
            metric_names = _metrics(given)
            refuse(metric_names)
            everyone = LightGBMMetrics(
                context, {"train": context.train, "test": context.test or context.train}, metric_names, feval
            )
            everyone.of(sets)
        return lightgbm.train(
            given,
            train,
            rounds,
            valid_sets=list(sets.values()),
            valid_names=list(sets),
            feval=feval if everyone is None else everyone.functions,
            init_model=init_model,
            callbacks=[_LightGBMReporter(context, self, everyone), *(callbacks or ())],
        )

    def _params(self, context: TrainContext, given: Mapping[str, Any]) -> dict[str, Any]:
        params = {"verbosity": -1, **given}

        def default(name: str, value: Any) -> None:
            if not {*lightgbm_aliases(name)} & {*given}:
                params[name] = value

        if context.target.task.is_classification:
            default("objective", "binary" if context.target.task is Task.BINARY else "multiclass")
        if context.target.task is Task.MULTICLASS:
            default("num_class", len(context.target.classes[0]))
        if context.seed is not None:
            default("seed", context.seed)
            default("deterministic", True)
        if context.use_gpu and select_device(True).is_cuda:
            default("device_type", "cuda" if _is_built_for("CUDA") else "gpu")
        default("num_threads", context.n_threads)
        _of_features(params, context)
        if context.world_size > 1:
            default("tree_learner", "data")
            port = int(context.worker_addresses[context.rank].rpartition(":")[2])
            peers = {
                "machines": ",".join(context.worker_addresses),
                "num_machines": context.world_size,
                "local_listen_port": port,
            }
            params |= {**peers, "pre_partition": True}
        return params

    def predict(self, model: Any, features: Features) -> Array:
        data = (
            features.matrix(np.float64)
            if features.n_rows < MANY_ROWS or features.has_vectors
            else _codes(features.table)
        )
        scores: Array = model.predict(data)
        if _head(model).get("objective", "").startswith("multiclassova"):  # one-vs-all: they do not add up to 1
            scores = normalized(scores)
        return scores

    def predicts_margins(self, model: Any) -> bool:
        return not _head(model).get("objective")  # a function, which the model does not store

    def save(self, model: Any, directory: Path) -> None:
        text = model.model_to_string()
        text = re.sub(rf"^\[(?:{'|'.join(OWN)}): .*\]\n", "", text, flags=re.MULTILINE)
        (directory / "model.txt").write_text(text, encoding="utf-8")
        if model.best_iteration > 0:  # the text holds the iterations up to the best one, but not its number
            (directory / BEST).write_text(str(model.best_iteration), encoding="ascii")

    def load(self, directory: Path) -> Any:
        file = directory / "model.txt"
        if not file.is_file():
            raise ArtifactError(
                "The saved LightGBM model is incomplete.", "Expected a file model.txt.", "save it again."
            )
        text = lightgbm_model.check(file.read_bytes())
        try:
            model = lightgbm.Booster(model_str=text)
            if (directory / BEST).is_file():
                model.best_iteration = _best(directory / BEST, model.current_iteration())
            return model
        except lightgbm.basic.LightGBMError as error:
            raise ArtifactError(f"The saved LightGBM model cannot be read: {error}.", "", "save it again.") from error

    def owns(self, model: Any) -> bool:
        return isinstance(model, lightgbm.Booster)

    def inspect(self, model: Any) -> ModelInfo:
        head = _head(model)
        name, *options = head.get("objective", "").split(" ")
        task = CLASSES.get(name, Task.REGRESSION)
        if self.predicts_margins(model) and int(head["num_class"]) > 1:
            task = Task.MULTICLASS
        alpha = next((option.removeprefix("alpha:") for option in options if option.startswith("alpha:")), None)
        objective = Objective(task, quantiles=quantiles_of(alpha, WHERE) if name == "quantile" else ())
        names = [NAMES.restore(feature) for feature in model.feature_name()]
        return ModelInfo(task, max(int(head["num_class"]), 2), 1, names, target=Target.unnamed_of(objective))

    def task(self, params: Mapping[str, Any] | None = None, *args: Any, **kwargs: Any) -> Task | None:
        found = self.objective(params).task
        return None if found is None else Task(found)

    def objective(self, params: Mapping[str, Any] | None = None, *args: Any, **kwargs: Any) -> Objective:
        name = _value(params or {}, "objective")
        if not isinstance(name, str):
            return Objective()
        name = ALIASES.get(name, name)
        task, labels = CLASSES.get(name, Task.REGRESSION), LABELS.get(name, ANY)
        if task is Task.RANKING:
            gains = _value(params or {}, "label_gain")
            n = GAINS if gains is None else len(gains.split(",") if isinstance(gains, str) else gains)
            labels = LabelRange(0.0, n - 1.0)
        quantiles = quantiles_of(_value(params or {}, "alpha", 0.9), WHERE, "alpha") if name == "quantile" else ()
        return Objective(task, labels, quantiles, name=name)

    def check(self, *args: Any, **kwargs: Any) -> None:
        super().check(*args, **kwargs)
        params = args[0] if args else kwargs.get("params") or {}
        if not isinstance(params, Mapping):
            raise ParameterError.value("params", "a dict of LightGBM's parameters", params, where="lightgbm trainer")
        if (parameters := lightgbm_parameters()) is not None:
            known = {alias for main, aliases in parameters.items() for alias in (main, *aliases)}
            if unknown := {*params} - known:
                raise ParameterError.unknown(unknown, known, where="lightgbm trainer")
        for name in lightgbm_aliases("objective"):
            if not (params.get(name) is None or isinstance(params[name], str) or callable(params[name])):
                raise ParameterError.value(
                    name, "the name of an objective, or a function", params[name], where="lightgbm trainer"
                )
        refused = [name for main in OF_FILES for name in lightgbm_aliases(main) if name in params]
        if refused:
            raise ParameterError(
                f"lightgbm trainer: {refused[0]} is for tables that LightGBM reads from a file itself.",
                f"Expected none of {sorted(alias for main in OF_FILES for alias in lightgbm_aliases(main))}.",
                "name the target and the weights in fit, and leave columns out with DropColumns.",
            )
        of_columns = {
            alias for main in (*BY_FEATURE, "interaction_constraints", CATEGORIES) for alias in lightgbm_aliases(main)
        }
        if len(self.objective(params).quantiles) > 1:
            raise ParameterError(
                "lightgbm trainer: LightGBM learns one quantile in a model.",
                f"Expected one number as alpha; got {_value(params, 'alpha')!r}.",
                "train one model for each, or several quantiles at once with XGBoost (reg:quantileerror), CatBoost (MultiQuantile), "
                "PyTorch (quantile_alpha) or scikit-learn (quantile_alpha).",
            )
        untried = of_columns | {*lightgbm_aliases("device_type")}  # the GPU is a worker's
        tried = {k: v for k, v in params.items() if not callable(v) and k not in untried}
        more = (
            {"num_class": 2}
            if self.task(params) is Task.MULTICLASS and not {*lightgbm_aliases("num_class")} & {*params}
            else {}
        )
        ranks = self.task(params) is Task.RANKING
        whole = ranks or self.task(params) in (Task.BINARY, Task.MULTICLASS)
        labels = [0.0, 1.0] if whole else [0.5, 1.0]  # some refuse 0, some refuse values above 1
        group = [2] if ranks else None
        data = lightgbm.Dataset(np.zeros((2, 1)), np.array(labels), group=group, params={"verbosity": -1})
        try:
            lightgbm.Booster({**tried, **more, "verbosity": -1, "num_threads": 1}, data)
        except (lightgbm.basic.LightGBMError, TypeError, ValueError) as error:
            raise ParameterError(
                f"lightgbm trainer: LightGBM refuses the parameters: {error}.",
                f"Got {dict(params)!r}.",
                "see its documentation.",
            ) from error

    def validation_argument(self, params: Mapping[str, Any] | None = None, *args: Any, **kwargs: Any) -> str:
        return next((name for name in lightgbm_aliases("early_stopping_round") if (params or {}).get(name)), "")

    def memory_bytes(self, n_rows: int, width: int, n_outputs: int, *args: Any, **kwargs: Any) -> int:
        params = self.argument("params", args, kwargs) or {}
        max_bin = next((params[name] for name in lightgbm_aliases("max_bin") if name in params), 255)
        bins = n_rows * width * (1 if int(max_bin) <= MAX_BYTE_BINS else 2)
        return bins + n_rows * (ROW_BYTES + OUTPUT_BYTES * n_outputs)

    def resumable_iterations(self, *args: Any, **kwargs: Any) -> int:
        params, rounds = (self.argument(name, args, kwargs) for name in ("params", "num_boost_round"))
        return int(
            next((params[name] for name in lightgbm_aliases("num_iterations") if name in (params or {})), rounds)
        )

    def owns_callback(self, callback: Any) -> bool:
        return type(callback).__module__.partition(".")[0] == "lightgbm"

    def records(self, callback: Any) -> bool:
        return isinstance(callback, type(lightgbm.record_evaluation({})))

    def without_gpu(self) -> str:
        if _is_built_for("CUDA") or _is_built_for("GPU"):
            return ""  # other problems with a GPU appear on the workers
        return "this build of LightGBM has none; one built with -DUSE_CUDA=1 or -DUSE_GPU=1 (OpenCL) has"

    def gpu_arguments(self, params: Mapping[str, Any] | None = None, *args: Any, **kwargs: Any) -> str:
        asked = {name: (params or {}).get(name) for name in lightgbm_aliases("device_type")}
        return next((f"{name}={value!r}" for name, value in asked.items() if value in ("gpu", "cuda")), "")

    def cpu_arguments(self, params: Mapping[str, Any] | None = None, *args: Any, **kwargs: Any) -> str:
        asked = {name: (params or {}).get(name) for name in lightgbm_aliases("device_type")}
        return next((f"{name}={value!r} is the CPU" for name, value in asked.items() if value == "cpu"), "")

    def best_iteration(self, model: Any) -> int | None:
        return model.best_iteration - 1 if model.best_iteration > 0 else None

    def to_onnx(self, model: Any, width: int) -> Any:
        try:
            from onnxmltools import convert_lightgbm
            from onnxmltools.convert.common.data_types import FloatTensorType
        except ImportError as error:
            raise MissingExtraError.of("to_onnx of a LightGBM model", "onnxmltools", "onnx") from error
        if _head(model).get("objective", "").startswith("multiclassova"):
            raise ParameterError(
                "to_onnx: LightGBM models of the objective multiclassova have no form in ONNX here.",
                "Expected classes that are learned together, or a regression.",
                "train with objective='multiclass', or serve the pipeline with rayline.",
            )
        return convert_lightgbm(model, initial_types=[("matrix", FloatTensorType([None, width]))], zipmap=False)

    def contributions(self, model: Any, features: Features) -> FeatureContributions | None:
        if model.params.get("linear_tree") or "\nis_linear=1" in model.model_to_string():
            return None
        found = model.predict(features.matrix(np.float64), pred_contrib=True)
        parts = found if isinstance(found, list) else [found]  # of sparse rows a matrix for each class
        dense = [part.toarray() if hasattr(part, "toarray") else np.asarray(part) for part in parts]
        values = np.concatenate(dense, axis=1).reshape(features.n_rows, -1, model.num_feature() + 1)
        return FeatureContributions(values[:, :, :-1], values[0, :, -1])

    def importance(self, model: Any, names: Sequence[str]) -> dict[str, float] | None:
        gains = model.feature_importance("gain")
        return dict(zip(names, map(float, gains), strict=True)) if len(gains) == len(names) else None


class _LightGBMReporter:
    """Reports every iteration to the context, and stops the training when the context says so."""

    order = 0  # before LightGBM's early stopping, after which no callback is called
    before_iteration = False

    def __init__(self, context: TrainContext, adapter: LightGBM, everyone: LightGBMMetrics | None) -> None:
        self._job, self._adapter, self._everyone = context, adapter, everyone

    def __call__(self, env: Any) -> None:
        found = env.evaluation_result_list
        if self._everyone is not None:
            self._everyone.merge(found)  # in place: the callbacks after this one read the same list
        stop = self._job.report(env.iteration, {f"{r[0]}-{r[1]}": r[2] for r in found})
        self._job.checkpoint(env.iteration, lambda directory: self._adapter.save(env.model, directory))
        if stop:
            raise EarlyStopException(env.iteration, found)


MANY_ROWS = 4096


@functools.cache
def _is_built_for(what: str) -> bool:
    """Return whether LightGBM's library was built for "CUDA" or for "GPU" (OpenCL): otherwise it contains the error that says so.
    To ask it would print that error."""
    files = [*Path(lightgbm.__file__).parent.glob("lib/*lib_lightgbm.*")]
    refusal = f"{what} Tree Learner was not enabled in this build".encode()
    return bool(files) and all(refusal not in file.read_bytes() for file in files)


@functools.cache
def _training() -> frozenset[str]:
    """Return the names in `TRAINING`, with their aliases."""
    return frozenset(alias for name in TRAINING for alias in lightgbm_aliases(name))


def _best(file: Path, n_iterations: int) -> int:
    text = file.read_text(encoding="ascii", errors="replace")
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or not 1 <= int(text) <= n_iterations:
        raise ArtifactError("The saved LightGBM model is damaged: its best iteration is none.", "", "save it again.")
    return int(text)


def _value(params: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """Return the value of a parameter under any of its names."""
    return next((params[alias] for alias in lightgbm_aliases(name) if params.get(alias) is not None), default)


def _metrics(params: Mapping[str, Any]) -> set[str]:
    """Return the names of the requested LightGBM metrics."""
    found: set[str] = set()
    for name in lightgbm_aliases("metric"):
        value = params.get(name) or ()
        found |= {*value.split(",")} if isinstance(value, str) else {str(one) for one in value if one is not None}
    return {METRICS.get(name.strip(), name.strip()) for name in found}


BEST = "best_iteration.txt"

WHERE = "lightgbm trainer"

METRICS = {"mean_average_precision": "map", "lambdarank": "ndcg", "rank_xendcg": "ndcg"}


def _head(model: Any) -> Mapping[str, str]:
    """Return the header of a model's text, before its trees."""
    if model not in _heads:
        text = model.model_to_string(num_iteration=1).split("\n\n")[0]
        _heads[model] = dict(line.split("=", 1) for line in text.split("\n") if "=" in line)
    return _heads[model]


_heads: weakref.WeakKeyDictionary[Any, Mapping[str, str]] = weakref.WeakKeyDictionary()


def _codes(table: pl.DataFrame) -> pl.DataFrame:
    """Return categories as codes; the codes are those of the Enum, so they are the same in every table."""
    return table.select(
        col(name).to_physical().cast(pl.Int32) if isinstance(dtype, pl.Enum) else col(name)
        for name, dtype in table.schema.items()
    )


BY_FEATURE = {"monotone_constraints": 0, "feature_contri": 1.0, "max_bin_by_feature": 255,
              "cegb_penalty_feature_lazy": 0.0, "cegb_penalty_feature_coupled": 0.0}  # fmt: skip
"""Parameters with a value per feature, and the default for features that are not named."""


def _of_features(params: dict[str, Any], context: TrainContext) -> None:
    """Replace names of features by column numbers, in parameters that are set per feature."""
    for main, rest in BY_FEATURE.items():
        for name in lightgbm_aliases(main):
            if isinstance(params.get(name), Mapping):
                found = context.by_column(params[name], f"lightgbm trainer: {name}")
                params[name] = [found.get(number, rest) for number in range(context.n_columns)]
    for name in lightgbm_aliases("interaction_constraints"):
        if params.get(name) is not None and not isinstance(params[name], str):
            params[name] = context.groups(params[name], f"lightgbm trainer: {name}")
    for name in lightgbm_aliases("categorical_feature"):
        if name in params:
            with at(f"lightgbm trainer: {name}"):
                params[CATEGORIES] = sorted(_places(params.pop(name), context))


CATEGORIES = "categorical_feature"

MAX_BYTE_BINS = 255
"""Bins of a feature that one byte can hold."""

ROW_BYTES = 16
"""Bytes of a row's label, weight and place in the tree; with `OUTPUT_BYTES` for the gradient and the prediction of each output."""

OUTPUT_BYTES = 16


def _places(named: Any, context: TrainContext) -> set[int]:
    """Return the column numbers given as names or numbers, in a list or in LightGBM's notation ("0,1", "name:age,city")."""
    if isinstance(named, str):
        by_name = named.startswith("name:")
        parts = [part for part in named.removeprefix("name:").split(",") if part]
        named = parts if by_name or not all(part.isdigit() for part in parts) else [int(part) for part in parts]
    elif isinstance(named, int):
        named = [named]
    return {number for name in named for number in context.columns(name, place())}


def _whole(relevance: Array) -> Array:
    """Return relevances. Raises DataError unless all are whole numbers."""
    broken = relevance != np.floor(relevance)
    if broken.any():
        raise DataError(
            f"{WHERE}: {counted(int(broken.sum()), 'relevance')} of the target is no whole number.",
            f"Expected 0, 1, 2, …, whose gains label_gain sets; got {np.unique(relevance[broken])[:5].tolist()}.",
            "round the target, or rank with XGBoost or CatBoost.",
        )
    return relevance


def _dataset(rows: Rows, params: Mapping[str, Any], reference: Any = None, categories: Sequence[int] = ()) -> Any:
    features, categories = rows.head, sorted({*categories, *_categories(rows.head)})
    names: Any = [NAMES.escape(name) for name in features.schema]
    if features.has_vectors:
        names = "auto"
    label, group = rows.target, None
    if rows.task is Task.RANKING:
        label, group = _whole(label[:, 0]), rows.group_sizes
    if not rows.is_small and not _is_sparse(features):
        return lightgbm.Dataset(
            _sequences(rows),
            label,
            weight=rows.weight,
            group=group,
            reference=reference,
            feature_name=names,
            categorical_feature=categories,
            params=_sampling_seed(params),
            free_raw_data=True,
        )
    features, weight = rows.features, rows.weight
    if not features.n_rows:  # LightGBM refuses a table without rows: use one row of weight 0 instead
        features = Features(pl.DataFrame(schema=features.schema).clear(1), schema=features.schema)
        label, weight, group = np.ones(1), np.zeros(1), None if group is None else np.ones(1)
    return lightgbm.Dataset(
        features.matrix(np.float64) if features.has_vectors else _codes(features.table),
        label,
        weight=weight,
        group=group,
        reference=reference,
        feature_name=names,
        categorical_feature=categories,
        free_raw_data=True,
    )


def _sampling_seed(params: Mapping[str, Any]) -> dict[str, int]:
    """Return the seed with which LightGBM draws the rows that decide the bins. It derives it from `seed`, which its Python package does
    not pass on for rows in blocks."""
    given = {alias: params[alias] for alias in lightgbm_aliases("data_random_seed") if alias in params}
    seed = next((params[alias] for alias in lightgbm_aliases("seed") if alias in params), None)
    if given or seed is None:
        return given
    state = (214013 * int(seed) + 2531011) & 0xFFFFFFFF  # LightGBM's generator, and its first number below 2**15 - 1
    return {"data_random_seed": (state >> 16 & 0x7FFF) % 0x7FFF}


def _categories(features: Features) -> list[int]:
    return [features.places[name].start for name in features.categories]


def _is_sparse(features: Features) -> bool:
    return any(dtype == SPARSE for dtype in features.schema.values())


def _sequences(rows: Rows) -> list[Any]:
    opened = _OpenedBlock()
    return [_BlockSequence(part, opened) for part in rows.batches() if part.n_rows]


class _OpenedBlock:
    """The one block that is loaded, and a part of it as a matrix."""

    def __init__(self) -> None:
        self._rows: Rows | None = None
        self._start, self._stop = 0, 0
        self._matrix: Array = np.empty((0, 0))

    def matrix(self, rows: Rows, start: int, stop: int) -> Array:
        if rows is not self._rows:
            if self._rows is not None:
                self._rows.release()
            self._rows, self._stop = rows, -1
        if (start, stop) != (self._start, self._stop):
            self._start, self._stop = start, stop
            self._matrix = rows.slice(start, stop - start).features.matrix(np.float64)
        return self._matrix


class _BlockSequence(lightgbm.Sequence):
    """The rows of one block. LightGBM reads them twice, in order: a sample of them for the bins, then all of them."""

    batch_size = 8192

    def __init__(self, rows: Rows, opened: _OpenedBlock) -> None:
        self._rows, self._opened = rows, opened

    def __len__(self) -> int:
        return self._rows.n_rows

    def __getitem__(self, place: Any) -> Array:
        if isinstance(place, slice):
            start, stop, _ = place.indices(len(self))
            return self._opened.matrix(self._rows, start, stop)
        if isinstance(place, list):
            return np.stack([self[i] for i in place])
        first = place - place % self.batch_size
        window = self._opened.matrix(self._rows, first, min(first + self.batch_size, len(self)))
        return np.array(window[place - first])

"""Access to private names of other libraries.

Ray, XGBoost, LightGBM and others have no public function for a few things that Rayline needs. Every private name that Rayline
uses for them is listed in `PRIVATE_NAMES`, with the version it was last seen in and what happens without it. The functions
below are the only users. `tests/test_compat.py` checks each name against the installed version and tests each fallback.

This module imports a library only when one of its functions is called.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple


@dataclass(frozen=True)
class PrivateName:
    """A private name of another library.

    Attributes
    ----------
    path
        `module:attribute`; the attribute may have dots.
    seen
        The distribution and the version in which the name was last seen.
    use
        What Rayline uses it for.
    fallback
        What Rayline does when the name is missing.
    """

    path: str
    seen: str
    use: str
    fallback: str

    def find(self) -> Any:
        """Return the object, or None when the installed version does not have it."""
        module, _, attributes = self.path.partition(":")
        try:
            return functools.reduce(getattr, attributes.split("."), importlib.import_module(module))
        except (ImportError, AttributeError):
            return None


PRIVATE_NAMES: list[PrivateName] = []


def _register(path: str, seen: str, *, use: str, fallback: str) -> PrivateName:
    name = PrivateName(path, seen, use, fallback)
    PRIVATE_NAMES.append(name)
    return name


# -- Ray -------------------------------------------------------------------------------------------------------------------------

_RAY_WORKER = _register(
    "ray._private.worker:global_worker.get_serialization_context",
    "ray 2.60.0",
    use="Find out whether an object is being pickled as an argument of a task or written to a file.",
    fallback="Treat every object as an argument: references stay in the object store until the driver ends.",
)
_TAG_CALLBACKS = _register(
    "ray.air._internal.usage:tag_callbacks",
    "ray 2.60.0",
    use="Prevent Ray Tune from importing every installed experiment tracker (more than a second).",
    fallback="Ray Tune imports them: a search starts more slowly.",
)
_TRAIN_CALLBACKS = _register(
    "ray.train.v2.api.data_parallel_trainer:DataParallelTrainer._create_default_callbacks",
    "ray 2.60.0",
    use="Keep Ray Train from starting an actor that outlives a training that was ended, on a Ray without dashboard for ever.",
    fallback="That actor stays until the Ray ends; it holds no resources.",
)
_TRAIN_CLEANER = _register(
    "ray.train.v2._internal.callbacks.placement_group_callback:PlacementGroupCleanerCallback",
    "ray 2.60.0",
    use="Recognise the callback that starts that actor.",
    fallback="That actor stays until the Ray ends; it holds no resources.",
)
_SERVE_CLIENT = _register(
    "ray.serve.context:_get_global_client",
    "ray 2.60.0",
    use="Read the address, the applications and the routes of a running Ray Serve, and shut it down without retries.",
    fallback="Call Ray Serve's controller actor directly; shut down with serve.shutdown().",
)
_SERVE_CLIENT_CLASS = _register(
    "ray.serve._private.client:ServeControllerClient.shutdown_cached_handles",
    "ray 2.60.0",
    use="Shut down Ray Serve without retries of the call in which its controller ends.",
    fallback="serve.shutdown() alone: Ray logs that it retries.",
)
_SERVE_CONTROLLER = _register(
    "ray.serve._private.controller:ServeController.get_serve_instance_details",
    "ray 2.60.0",
    use="Read the applications and their routes when `_get_global_client` is missing.",
    fallback="None: it is itself the fallback.",
)
_HAPROXY_TEMPLATE = _register(
    "ray.serve._private.haproxy_templates:HAPROXY_CONFIG_TEMPLATE",
    "ray 2.60.0",
    use="Check that Ray Serve copies a setting unchanged to the end of a line of HAProxy's configuration, so that a line break "
    "in the setting can add lines for which Ray Serve has no setting.",
    fallback="No lines are added: no request is retried on another replica after its body was sent, and a full queue answers 500.",
)
_INTERNAL_KV = _register(
    "ray.experimental.internal_kv:_internal_kv_put",
    "ray 2.60.0",
    use="Pass the error of an RLlib environment on a worker to the driver.",
    fallback="The error names RLlib's own cause only.",
)
_INTERNAL_KV_GET = _register(
    "ray.experimental.internal_kv:_internal_kv_get", "ray 2.60.0", use=_INTERNAL_KV.use, fallback=_INTERNAL_KV.fallback
)
_INTERNAL_KV_DELETE = _register(
    "ray.experimental.internal_kv:_internal_kv_del", "ray 2.60.0", use=_INTERNAL_KV.use, fallback=_INTERNAL_KV.fallback
)
_TUNE_REGISTRY = _register(
    "ray.tune.registry:_global_registry.contains",
    "ray 2.60.0",
    use="Look up an environment that the user registered under a name.",
    fallback="Only names of Gymnasium are known: pass the function that makes the environment instead of its name.",
)
_REF_BUNDLES = _register(
    "ray.data:Dataset.iter_internal_ref_bundles",
    "ray 2.60.0",
    use="Iterate over the blocks of a Dataset as references, as they are computed, with their numbers of rows.",
    fallback="Dataset.to_arrow_refs: all blocks are computed first, and one task a block counts its rows.",
)


_LOGICAL_PLAN = _register(
    "ray.data._internal.logical.interfaces:LogicalPlan.dag",
    "ray 2.60.0",
    use="See whether reading a Dataset runs the user's functions: only then are rows that are read twice kept in the object store.",
    fallback="Every Dataset counts as one that runs functions.",
)
_INPUT_DATA = _register(
    "ray.data._internal.logical.operators.input_data_operator:InputData",
    "ray 2.60.0",
    use="Make a Dataset of blocks that are in the object store already, with what is known of them.",
    fallback="ray.data.from_arrow_refs, which runs a task for each block.",
)


def is_task_argument() -> bool:
    """Return whether Ray pickles an object as an argument of a task (or a value of the object store) at this moment."""
    if _RAY_WORKER.find() is None:
        return True
    from ray._private.worker import global_worker

    return bool(global_worker.get_serialization_context().is_in_band_serialization())


def basic_variants(search: Any) -> tuple[list[Any], bool, Any]:
    """Return what a `BasicVariantGenerator` of Ray Tune (seen in ray 2.60.0) was made with: its points, whether draws are constant
    over grids, and its random generator. What another version calls otherwise is empty."""
    own = vars(search)
    random = own.get("_random_state")
    return (
        list(own.get("_points_to_evaluate") or ()),
        bool(own.get("_constant_grid_search")),
        getattr(random, "_rng", random),
    )


@contextlib.contextmanager
def without_tracker_imports() -> Iterator[None]:
    """Prevent Ray Tune from importing every installed experiment tracker to count their use."""
    if _TAG_CALLBACKS.find() is None:
        yield
        return
    from ray.air._internal import usage

    original = usage.tag_callbacks
    usage.tag_callbacks = lambda callbacks: False
    try:
        yield
    finally:
        usage.tag_callbacks = original


class _ControllerClient:
    """The part of Ray Serve's client that Rayline uses, on the controller actor."""

    def __init__(self) -> None:
        import ray

        self._controller = ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")

    @property
    def http_config(self) -> Any:
        import ray

        return ray.get(self._controller.get_http_config.remote())

    def get_serve_details(self) -> dict[str, Any]:
        import ray

        return dict(ray.get(self._controller.get_serve_instance_details.remote()))


def without_placement_group_cleaner(trainer: Any) -> Any:
    """Keep a Ray Train trainer from starting its detached cleaner; return the trainer. The caller removes the placement groups."""
    create, cleaner = getattr(trainer, "_create_default_callbacks", None), _TRAIN_CLEANER.find()
    if create is not None and cleaner is not None:
        trainer._create_default_callbacks = lambda: [c for c in create() if not isinstance(c, cleaner)]
    return trainer


def serve_client() -> Any:
    """Return a client of the running Ray Serve: `http_config` and `get_serve_details()`."""
    connect = _SERVE_CLIENT.find()
    return _ControllerClient() if connect is None else connect()


def shut_down_serve() -> None:
    """Shut Ray Serve down."""
    import ray
    from ray import serve

    if _SERVE_CLIENT.find() is not None and _SERVE_CLIENT_CLASS.find() is not None:
        client = serve_client()
        client.shutdown_cached_handles()
        # Without retries: the controller ends in this call, and Ray would log that it tries again.
        with contextlib.suppress(ray.exceptions.RayActorError):
            ray.get(client._controller.graceful_shutdown.options(max_task_retries=0).remote(), timeout=30)
        client._shutdown = True
    serve.shutdown()


_HAPROXY_LINES = {
    "RETRY_ON": "retry-on {{ config.retry_on }}\n",
    "BALANCE_ALGORITHM": "balance {{ config.balance_algorithm }}\n",
}


def haproxy_setting(name: str, value: str, *lines: str) -> str:
    """Return the value of `RAY_SERVE_HAPROXY_<name>`, followed by lines that Ray Serve has no setting for."""
    template = _HAPROXY_TEMPLATE.find() or ""
    return "\n    ".join([value, *lines]) if _HAPROXY_LINES[name] in template else value


def put_cluster_value(key: str, value: str) -> None:
    """Store a text in Ray's head node, where the driver can read it."""
    put = _INTERNAL_KV.find()
    if put is not None:
        put(key, value)


def get_cluster_value(key: str) -> str | None:
    """Return the text stored under a key, or None."""
    get = _INTERNAL_KV_GET.find()
    value = None if get is None else get(key)
    return value.decode() if value else None


def delete_cluster_value(key: str) -> None:
    """Delete what is stored under a key."""
    delete = _INTERNAL_KV_DELETE.find()
    if delete is not None:
        delete(key)


def registered_environment(name: str) -> Any:
    """Return the function registered with `ray.tune.register_env` under this name, or None."""
    if _TUNE_REGISTRY.find() is None:
        return None
    from ray.tune.registry import ENV_CREATOR, _global_registry

    return _global_registry.get(ENV_CREATOR, name) if _global_registry.contains(ENV_CREATOR, name) else None


def ref_bundles(data: Any) -> Iterator[Any]:
    """Iterate over the blocks of a Dataset as Ray's `RefBundle`s: `blocks` (each with `ref` and `metadata.num_rows`), `block_refs`."""
    if _REF_BUNDLES.find() is not None:
        yield from data.iter_internal_ref_bundles()
        return
    import ray

    count = ray.remote(_n_rows)
    for ref in data.to_arrow_refs():
        n_rows = ray.get(count.remote(ref))
        yield SimpleNamespace(
            blocks=[SimpleNamespace(ref=ref, metadata=SimpleNamespace(num_rows=n_rows))], block_refs=[ref]
        )


SOURCES = frozenset(
    {
        "Read", "ListFiles", "ReadFiles", "InputData", "FromArrow", "FromBlocks", "FromItems", "FromNumpy", "FromPandas",
        "AbstractFrom", "Project", "Limit", "Union",
    }
)  # fmt: skip
"""Kinds of operators of Ray Data that only read or select."""


def operator_names(data: Any) -> list[tuple[str, str]]:
    """Return the kind and the name of each operator that a Dataset runs when it is read."""
    plan = getattr(data, "_logical_plan", None)
    if plan is None or _LOGICAL_PLAN.find() is None:
        return [("", "")]
    return [(type(operator).__name__, operator.name) for operator in plan.dag.post_order_iter()]


def dataset_of_bundles(data: Any, bundles: list[Any]) -> Any:
    """Return a materialised Dataset of blocks that another one has yielded."""
    import ray

    if _INPUT_DATA.find() is None:
        return ray.data.from_arrow_refs([ref for bundle in bundles for ref in bundle.block_refs])
    from ray.data._internal.execution.interfaces import RefBundle
    from ray.data._internal.logical.interfaces import LogicalPlan
    from ray.data._internal.logical.operators.input_data_operator import InputData
    from ray.data._internal.stats import DatasetStats
    from ray.data.dataset import MaterializedDataset

    inputs = [RefBundle(blocks=bundle.blocks, owns_blocks=False, schema=bundle.schema) for bundle in bundles]
    plan = LogicalPlan(InputData(input_data=inputs), data.context)
    return MaterializedDataset(plan, data.context, DatasetStats(metadata={}, parent=None))


def _n_rows(table: Any) -> int:
    return int(table.num_rows)


# -- uvicorn ---------------------------------------------------------------------------------------------------------------------

_HTTP_PROTOCOLS = _register(
    "uvicorn.config:HTTP_PROTOCOLS",
    "uvicorn 0.54.0",
    use="Make Ray Serve's replicas use Rayline's connection class; Ray Serve has no setting for it.",
    fallback="uvicorn's own class: head and body of a response are two writes.",
)
_HTTPTOOLS_PROTOCOL = _register(
    "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol._unset_keepalive_if_required",
    "uvicorn 0.54.0",
    use="The base class of Rayline's connections (serve/http_connection.py).",
    fallback="None: the connection class needs it.",
)


def set_default_http_protocol(path: str) -> None:
    """Make this class (`module:name`) the one that uvicorn uses in this process unless it is told another."""
    protocols = _HTTP_PROTOCOLS.find()
    if protocols is not None:
        protocols["auto"] = path


# -- XGBoost and LightGBM --------------------------------------------------------------------------------------------------------

_XGBOOST_LIBRARY = _register(
    "xgboost.core:_LIB",
    "xgboost 3.2.0",
    use="Predict through the C interface: Booster.inplace_predict takes twice as long for one row.",
    fallback="Booster.inplace_predict.",
)
_XGBOOST_CHECK = _register(
    "xgboost.core:_check_call", "xgboost 3.2.0", use=_XGBOOST_LIBRARY.use, fallback=_XGBOOST_LIBRARY.fallback
)
_XGBOOST_ULONG = _register(
    "xgboost.core:c_bst_ulong", "xgboost 3.2.0", use=_XGBOOST_LIBRARY.use, fallback=_XGBOOST_LIBRARY.fallback
)
_LIGHTGBM_ALIASES = _register(
    "lightgbm.basic:_ConfigAliases._get_all_param_aliases",
    "lightgbm 4.7.0",
    use="Know every parameter and its aliases.",
    fallback="Parameters are known by their main names only, and unknown names are left to LightGBM.",
)


class XGBoostLibrary(NamedTuple):
    """XGBoost's C interface: the library, the function that raises its errors, its integer type."""

    functions: Any
    check: Any
    ulong: Any


def xgboost_library() -> XGBoostLibrary | None:
    """Return XGBoost's C interface, or None when the installed version keeps it elsewhere."""
    functions, check, ulong = (name.find() for name in (_XGBOOST_LIBRARY, _XGBOOST_CHECK, _XGBOOST_ULONG))
    if not hasattr(functions, "XGBoosterPredictFromDense") or check is None or ulong is None:
        return None
    return XGBoostLibrary(functions, check, ulong)


def lightgbm_aliases(name: str) -> tuple[str, ...]:
    """Return the names under which LightGBM takes a parameter, its main name included."""
    if _LIGHTGBM_ALIASES.find() is None:
        return (name,)
    from lightgbm.basic import _ConfigAliases

    return tuple(_ConfigAliases.get(name))


def lightgbm_parameters() -> Mapping[str, list[str]] | None:
    """Return the aliases of each parameter of LightGBM by its main name, or None when they are not known."""
    read = _LIGHTGBM_ALIASES.find()
    return None if read is None else read()


# -- CatBoost --------------------------------------------------------------------------------------------------------------------

_CATBOOST_CHECK = _register(
    "catboost._catboost:_check_train_params",
    "CatBoost 1.2.10",
    use="Refuse a loss that CatBoost does not know before any data is read.",
    fallback="CatBoost refuses it itself, in training.",
)


def catboost_check(params: Mapping[str, Any]) -> None:
    """Raise CatBoost's own error about parameters of a training, if it can be asked without data."""
    check = _CATBOOST_CHECK.find()
    if check is not None:
        check(dict(params))


# -- scikit-learn ----------------------------------------------------------------------------------------------------------------

_SKLEARN_TREE = _register(
    "sklearn.tree._tree:Tree",
    "scikit-learn 1.9.1",
    use="Recognise the compiled trees of an untrusted file, to check them.",
    fallback="The type of `tree_` of a fitted tree.",
)
_SKLEARN_PREDICTOR = _register(
    "sklearn.ensemble._hist_gradient_boosting.predictor:TreePredictor",
    "scikit-learn 1.9.1",
    use="Recognise the trees of histogram gradient boosting of an untrusted file, to check them.",
    fallback="A class without instances: files with such trees are refused, because their type is not a reviewed one.",
)
_SKLEARN_RECORD = _register(
    "sklearn.ensemble._hist_gradient_boosting.common:PREDICTOR_RECORD_DTYPE",
    "scikit-learn 1.9.1",
    use="Check the nodes of these trees.",
    fallback="None, which no array's dtype equals: files with such trees are refused.",
)
_SKLEARN_SVM = _register(
    "sklearn.svm._base:BaseLibSVM",
    "scikit-learn 1.9.1",
    use="Recognise support vector machines of an untrusted file, to check them.",
    fallback="The public classes of support vector machines.",
)

_SKLEARN_CHECK_Y = _register(
    "sklearn.utils.validation:_check_y",
    "scikit-learn 1.9.1",
    use="Validate a target as scikit-learn's own estimators do.",
    fallback="The same checks with public functions; complex numbers are refused later.",
)
_SKLEARN_CHECK_WEIGHT = _register(
    "sklearn.utils.validation:_check_sample_weight",
    "scikit-learn 1.9.1",
    use="Validate sample weights as scikit-learn's own estimators do.",
    fallback="The same checks with public functions.",
)


def sklearn_check_y(y: Any, estimator: Any, *, is_numeric: bool = False) -> Any:
    """Return a target as a 1-D array. Raises ValueError for other shapes, NaN and infinity."""
    check = _SKLEARN_CHECK_Y.find()
    if check is not None:
        return check(y, y_numeric=is_numeric, estimator=estimator)
    from sklearn.utils import assert_all_finite, column_or_1d

    y = column_or_1d(y, warn=True)
    assert_all_finite(y, input_name="y")
    return y.astype(float) if is_numeric and y.dtype.kind == "O" else y


def sklearn_check_sample_weight(weight: Any, rows: Any) -> Any:
    """Return sample weights as an array of shape (n,). Raises ValueError for other shapes, NaN and infinity."""
    check = _SKLEARN_CHECK_WEIGHT.find()
    if check is not None:
        return check(weight, rows)
    import numpy as np
    from sklearn.utils import check_array

    n_rows = rows.shape[0] if hasattr(rows, "shape") else len(rows)
    if np.ndim(weight) == 0:
        weight = np.full(n_rows, weight, np.float64)
    weight = check_array(weight, ensure_2d=False, dtype=[np.float64, np.float32], input_name="sample_weight")
    if weight.shape != (n_rows,):
        raise ValueError(f"sample_weight.shape == {weight.shape}, expected {(n_rows,)}!")
    return weight


class _NoInstances:
    pass


class SklearnTypes(NamedTuple):
    """Types whose compiled code trusts the numbers it is given."""

    tree: type
    histogram_tree: type
    histogram_record: Any
    support_vectors: tuple[type, ...]


@functools.cache
def sklearn_types() -> SklearnTypes:
    """Return the types of scikit-learn that a check of an untrusted file looks for."""
    from sklearn.svm import SVC, SVR, NuSVC, NuSVR, OneClassSVM
    from sklearn.tree import DecisionTreeRegressor

    svm = _SKLEARN_SVM.find()
    return SklearnTypes(
        _SKLEARN_TREE.find() or type(DecisionTreeRegressor().fit([[0.0], [1.0]], [0.0, 1.0]).tree_),
        _SKLEARN_PREDICTOR.find() or _NoInstances,
        _SKLEARN_RECORD.find(),
        (SVC, SVR, NuSVC, NuSVR, OneClassSVM) if svm is None else (svm,),
    )


# -- transformers, Lightning, Horovod --------------------------------------------------------------------------------------------

_TRANSFORMERS_SAVE = _register(
    "transformers:Trainer._save_checkpoint",
    "transformers 5.23.0",
    use="Write a complete checkpoint at the end of an epoch.",
    fallback="Model, optimizer, schedule and state are written with public functions; the random state is not.",
)
_LIGHTNING_CONNECTOR = _register(
    "lightning.pytorch.trainer.connectors.checkpoint_connector:_CheckpointConnector.dump_checkpoint",
    "lightning 2.6.6",
    use="Write a checkpoint on one worker: Trainer.save_checkpoint waits for all.",
    fallback="Trainer.save_checkpoint on one worker; an error on several.",
)
_HOROVOD_SERVER = _register(
    "horovod.runner.http.http_server:RendezvousServer",
    "horovod 0.28.1",
    use="Close the socket of the rendezvous server (`_httpd`), which `stop` leaves open.",
    fallback="The socket stays open until the process ends.",
)


_N_GPU = _register(
    "transformers:TrainingArguments._setup_devices",
    "transformers 5.23.0",
    use="Train on one of the GPUs that a process sees, as every other framework here does: it sets `_n_gpu`, which is set again.",
    fallback="transformers uses all of them, and a batch is that many times larger.",
)


def use_one_gpu(arguments: Any) -> None:
    """Let transformers' training arguments use one GPU at most."""
    if _N_GPU.find() is not None and arguments.n_gpu > 1:
        arguments._n_gpu = 1


def save_transformers_checkpoint(trainer: Any, directory: Path) -> None:
    """Write a checkpoint of a transformers Trainer from which it can resume."""
    if _TRANSFORMERS_SAVE.find() is None:
        import torch

        trainer.save_model(str(directory))
        for part in (trainer.optimizer, trainer.lr_scheduler):
            name = "optimizer.pt" if part is trainer.optimizer else "scheduler.pt"
            torch.save(part.state_dict(), directory / name)
        trainer.state.save_to_json(str(directory / "trainer_state.json"))
        return
    trainer._save_checkpoint(trainer.model, trial=None)
    kept = Path(trainer.args.output_dir, f"checkpoint-{trainer.state.global_step}")
    shutil.copytree(kept, directory, dirs_exist_ok=True)
    shutil.rmtree(kept)


def save_lightning_checkpoint(trainer: Any, path: Path) -> None:
    """Write a checkpoint of a Lightning Trainer, on the calling worker alone."""
    connector = getattr(trainer, "_checkpoint_connector", None)
    if _LIGHTNING_CONNECTOR.find() is not None and connector is not None:
        import torch

        torch.save(connector.dump_checkpoint(weights_only=False), path)
    elif trainer.world_size == 1:
        trainer.save_checkpoint(path)
    else:
        raise RuntimeError("This version of Lightning cannot write a checkpoint on one of several workers.")


def close_horovod_server(server: Any) -> None:
    """Close the socket of a stopped rendezvous server."""
    socket = getattr(server, "_httpd", None)
    if socket is not None:
        socket.server_close()

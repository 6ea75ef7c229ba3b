"""Deployment of a pipeline on Ray Serve: the app of `serve.app` in replicas, behind HAProxy if it is installed.

The pipeline is sent once: a small detached actor (`ModelStore`) puts it into the object store, and all replicas load it from there. Running
replicas wait for its next model, so `update` replaces the model without failing requests: for Ray Serve nothing changes, and no proxy takes a
replica out.
"""

from __future__ import annotations

import hashlib
import html
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import ray
import yaml  # comes with Ray
from ray import serve
from ray.serve.exceptions import RayServeException

from rayline import device
from rayline.compat.ray_serve import versioned
from rayline.core import design, registry
from rayline.core.arguments import integer, known_arguments
from rayline.core.errors import ParameterError, ServeError, at
from rayline.core.files import replace_content
from rayline.device import UseGPU
from rayline.inference import artifact
from rayline.inference.pipeline import InferencePipeline, ModelLike, as_pipeline
from rayline.serve import ingress
from rayline.serve.model_store import (
    differences,
    interface,
    release_models,
    serialized,
    store_model,
    store_name,
    stored_interface,
    wait_for_replicas,
    withdraw_model,
)
from rayline.serve.options import ServerOptions
from rayline.serve.replica import deployment_options, replica_class


@known_arguments
class Deployment:
    """A pipeline on Ray Serve; made by `to_deployment`.

    Attributes
    ----------
    name
        The name of the application and of the model in URLs.
    pipeline
        The InferencePipeline that it serves.

    Examples
    --------
    >>> from rayline import serve
    >>> deployment = serve.to_deployment("late.rayline", name="late")  # doctest: +SKIP
    >>> deployment.deploy()  # doctest: +SKIP
    >>> deployment.url  # doctest: +SKIP
    'http://127.0.0.1:8000'
    >>> deployment.delete()  # doctest: +SKIP
    """

    def __init__(self, pipeline: InferencePipeline, plan: _Plan) -> None:
        self.pipeline, self._plan = pipeline, plan

    @property
    def name(self) -> str:
        """The name of the application on Ray Serve, and of the model in URLs."""
        return self._plan.options.name

    def deploy(self, *, allow_schema_change: bool = False) -> Self:
        """Start the deployment, or update a running one of the same name. Returns when it answers requests.

        Ray and Ray Serve are started if they are not running.

        Parameters
        ----------
        allow_schema_change
            Whether a running pipeline may be replaced by one that requires other columns or column types, or that has other
            targets: clients would then be refused or get other answers. Fewer columns are always allowed.

        Returns
        -------
        Deployment
            This object.

        Raises
        ------
        ServeError
            When the replicas do not start, when an application of this name is running that Rayline did not create, and when the columns
            change although `allow_schema_change` is False.
        """
        if not ray.is_initialized():
            registry.engine("ray").connect()
        self._plan.require_gpus()
        with ingress.quiet():
            ingress.start_serve(self._plan.host, self._plan.port)
            is_new = self.status() in ("NOT_STARTED", "DELETING")
            if not is_new:
                self._require_ours("deploy")
                self._require_same_interface(allow_schema_change)
            key, before = store_model(self.name, self.pipeline)
            self._run(key, None if is_new else before)
            release_models(self.name, keep_current=True)
            if not ingress.responds(f"{self.url}/health", steadily=is_new):
                raise ServeError(
                    f"Deployment {self.name!r} is running, but nothing answers at {self.url}.",
                    f"Expected an answer within {ingress.READY_S} seconds.",
                    "see the logs of Ray Serve's proxy.",
                )
        return self

    def update(self, model: ModelLike, *, allow_schema_change: bool = False) -> Self:
        """Replace the model in the running replicas. Requests in progress finish with the old model; none fails.

        Parameters
        ----------
        model
            As in `to_deployment`.
        allow_schema_change
            As in `deploy`.

        Returns
        -------
        Deployment
            This object, with the new pipeline.

        Raises
        ------
        ServeError
            As in `deploy`, and when the deployment is not running. The old model continues to answer.
        """
        self._require_running("update")
        before, self.pipeline = self.pipeline, _pipeline_of(model)
        try:
            return self.deploy(allow_schema_change=allow_schema_change)
        except ServeError:
            self.pipeline = before
            raise

    @property
    def url(self) -> str:
        """The URL of the deployment, without a slash at the end: POST rows to `url + "/predict"`."""
        self._require_running("url")
        route = ingress.routes().get(self.name)
        if route is None:
            raise ServeError(
                f"Deployment.url: {self.name!r} is being deleted, or is not available yet.",
                "Expected a running deployment.",
                "call .deploy().",
            )
        return f"{ingress.address()}{route.rstrip('/')}"

    def status(self) -> str:
        """Return the status of the application.

        Returns
        -------
        str
            Ray Serve's status ("RUNNING", "DEPLOYING", "UNHEALTHY", …), or "NOT_STARTED" when it is not running.
        """
        if not ray.is_initialized():
            return "NOT_STARTED"
        application = serve.status().applications.get(self.name)
        return "NOT_STARTED" if application is None else str(application.status.value)

    def delete(self) -> None:
        """Remove the deployment. Ray Serve is stopped too if it was started here and nothing else runs on it; Ray keeps running.

        Raises
        ------
        ServeError
            When an application of this name is running that Rayline did not create.
        """
        if not ray.is_initialized():
            return
        if self.status() not in ("NOT_STARTED", "DELETING"):
            self._require_ours("delete")
        self._delete()

    def _delete(self) -> None:
        with ingress.quiet():
            if self.name in serve.status().applications:
                serve.delete(self.name)
            release_models(self.name)
            ingress.stop()

    @property
    def app(self) -> Any:
        """The Ray Serve Application, to bind into a larger one; its arguments contain the model."""
        self._plan.require_gpus()
        return self._plan.application(serialized(self.pipeline), None)

    def _run(self, key: str, before: str | None) -> None:
        """Start or change the application and wait until its replicas use the model of this key; when they cannot, all is as before."""
        try:
            serve.run(
                self._plan.application(None, self._user_config(key), ingress.listening_host()),
                name=self.name,
                route_prefix=self._route(),
            )
            failure = wait_for_replicas(self.name, key, lambda: ingress.replicas(self.name))
        except (RuntimeError, RayServeException, TimeoutError, ray.exceptions.RayError) as error:
            reason = ingress.failure_reason(self.name, error)
            if before is None:
                self._delete()
            else:
                withdraw_model(self.name, key, before)
            raise ServeError(
                f"Deployment {self.name!r} did not start: {reason}.",
                "Expected healthy replicas.",
                "check that the cluster has the CPUs and GPUs that ray_actor_options require.",
            ) from error
        if failure:
            withdraw_model(self.name, key, before or "")
            raise ServeError(
                f"Deployment {self.name!r}: a running replica cannot use the new model: {failure.strip().splitlines()[-1].rstrip('.')}.",
                "Expected a model that loads in the replicas; the old one continues to answer.",
                "check that the replicas have the memory and the packages that the model needs.",
            )

    def _user_config(self, key: str) -> dict[str, str]:
        """Return what replicas start with: what the running ones have, for which Ray Serve then changes nothing."""
        running = ingress.user_config(self.name) if self.status() == "RUNNING" else None
        return running or {"store": store_name(self.name), "start": key}

    def _route(self) -> str:
        routes = ingress.routes()
        if self._plan.route is not None or self.name in routes:
            return self._plan.route or routes[self.name]
        return f"/{self.name}" if "/" in routes.values() else "/"

    def _require_ours(self, what: str) -> None:
        if not ingress.is_ours(self.name):
            raise ServeError(
                f"Deployment.{what}: an application {self.name!r} is running on Ray Serve that Rayline did not create.",
                "Expected none, or one created by to_deployment.",
                "choose another name=, or delete the other application with ray.serve.delete.",
            )

    def _require_same_interface(self, allow_schema_change: bool) -> None:
        before = None if allow_schema_change else stored_interface(self.name)
        changes = differences(interface(self.pipeline), before) if before else []
        if changes:
            more = f", and {len(changes) - 3} more" if len(changes) > 3 else ""
            raise ServeError(
                f"Deployment {self.name!r}: its clients would be rejected or get different responses: {', '.join(changes[:3])}{more}.",
                "Expected the columns and targets of the running pipeline.",
                "deploy it under another name, or pass allow_schema_change=True.",
            )

    def _require_running(self, what: str) -> None:
        if self.status() == "NOT_STARTED":
            raise ServeError(
                f"Deployment.{what}: {self.name!r} is not running.",
                "Expected a running deployment.",
                "call .deploy() first.",
            )

    def __repr__(self) -> str:
        return f"Deployment({self.name!r}, {self.status()})"

    def _repr_html_(self) -> str:
        status, rows = (
            self.status(),
            [("predicts", ", ".join(self.pipeline.output_schema), ", ".join(self.pipeline.input_schema))],
        )
        place = ""
        if status != "NOT_STARTED":
            url = html.escape(self.url, quote=True)
            place = f' at <a href="{url}">{url}</a> (a form; POST rows to <code>/predict</code>)'
        return f"<p><b>Deployment</b> {html.escape(self.name)}: {html.escape(status)}{place}</p>{design.boxes(rows)}"


@known_arguments
def to_deployment(
    model: ModelLike,
    *,
    name: str = "model",
    num_replicas: int | None = None,
    max_batch_size: int | None = None,
    batch_wait_timeout_s: float = ServerOptions.batch_wait_timeout_s,
    max_queued_requests: int = ServerOptions.max_queued_requests,
    max_body_bytes: int = ServerOptions.max_body_bytes,
    request_timeout_s: float = ServerOptions.request_timeout_s,
    token: str | None = None,
    allowed_hosts: Sequence[str] | None = None,
    autoscaling: Mapping[str, Any] | None = None,
    use_gpu: UseGPU | None = None,
    ray_actor_options: Mapping[str, Any] | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    route_prefix: str | None = None,
) -> Deployment:
    """Return a Deployment of a model on Ray Serve. Nothing starts before `.deploy()`.

    Parameters
    ----------
    model
        An InferencePipeline, a Model, a framework's own model, or the path of a saved pipeline.
    name
        The name of the application and of the model in URLs.
    num_replicas
        The number of replicas; 1 when neither this nor `autoscaling` is given.
    max_batch_size, batch_wait_timeout_s, max_queued_requests, max_body_bytes, request_timeout_s, token, allowed_hosts
        As in `ServerOptions`; each replica has its own queue. A Ray Serve that listens on this machine only accepts requests to localhost only.
    autoscaling
        Ray Serve's autoscaling_config, such as `{"min_replicas": 1, "max_replicas": 8}`, instead of `num_replicas`.
    use_gpu
        True: each replica holds a GPU of the Ray cluster and the model computes there; it is put there and called once before the first
        request. "auto": on GPUs where the cluster has one when `.deploy()` is called, otherwise on CPUs. False or omitted: on CPUs.
    ray_actor_options
        Resources of a replica (`{"num_cpus": 1}` by default), `runtime_env`, …. `{"num_gpus": 0.25}` puts four replicas on each
        GPU, and counts as `use_gpu=True`.
    host, port
        Where Ray Serve listens if it is started here: by default on this machine only, on port 8000 or the next free one. A cluster
        of several machines needs `host="0.0.0.0"`. A Ray Serve that is already running keeps its address.
    route_prefix
        The path prefix of all URLs; by default `/` if it is free, otherwise `/name`.

    Returns
    -------
    Deployment
        With `.deploy()`, `.url`, `.status()`, `.update(model)`, `.delete()`, `.app`.

    Raises
    ------
    ParameterError
        When an argument is invalid, or a GPU is asked for and the model predicts on the CPU only.
    ResourceError
        When a GPU is asked for and the framework's library was built without support for GPUs.

    Examples
    --------
    >>> from rayline import serve
    >>> deployment = serve.to_deployment("late.rayline", name="late", num_replicas=2)  # doctest: +SKIP
    >>> deployment.deploy()  # doctest: +SKIP
    """
    arguments = {name: value for name, value in locals().items() if name != "model"}
    plan = _Plan.of(arguments)
    pipeline = _pipeline_of(model)
    if plan.use_gpu is True:
        with at("to_deployment"):
            pipeline.model.require_gpu()
    return Deployment(pipeline, plan)


def _pipeline_of(model: ModelLike) -> InferencePipeline:
    return as_pipeline(artifact.load(model) if isinstance(model, (str, Path)) else model)


@dataclass(frozen=True)
class _Plan:
    """The checked arguments of `to_deployment`: options of the app, and where and how often it runs."""

    options: ServerOptions
    placement: Mapping[str, Any]
    host: str
    port: int | None
    route: str | None
    use_gpu: UseGPU | None = None

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Self:
        allowed = {
            p.name: p.default for p in inspect.signature(to_deployment).parameters.values() if p.kind is p.KEYWORD_ONLY
        }
        unknown = set(arguments) - set(allowed)
        if unknown:
            raise ParameterError.unknown(unknown, allowed, where="to_deployment")
        merged = {**allowed, **arguments}
        options = ServerOptions(**{f.name: merged[f.name] for f in fields(ServerOptions)})
        num_replicas, autoscaling, route = merged["num_replicas"], merged["autoscaling"], merged["route_prefix"]
        if num_replicas is not None and autoscaling is not None:
            raise ParameterError(
                "to_deployment: num_replicas and autoscaling are both given.", "Expected one of them.", "leave one out."
            )
        with at("to_deployment"):
            integer("num_replicas", num_replicas, optional=True)
        if route is not None and not re.fullmatch(r"/|(/[A-Za-z0-9_.~-]+)+", str(route)):
            raise ParameterError.value("route_prefix", "a path such as '/late'", route, where="to_deployment")
        if merged["port"] is not None and (type(merged["port"]) is not int or not 1 <= merged["port"] <= 65535):
            raise ParameterError.value("port", "a port number or None", merged["port"], where="to_deployment")
        for name in ("ray_actor_options", "autoscaling"):
            if not isinstance(merged[name], (Mapping, type(None))):
                raise ParameterError.value(name, "a dict, or None", merged[name], where="to_deployment")
        if not isinstance(merged["host"], str) or not merged["host"]:
            raise ParameterError.value("host", "an address, such as '127.0.0.1'", merged["host"], where="to_deployment")
        actor, use_gpu = _on_gpu({"num_cpus": 1, **(merged["ray_actor_options"] or {})}, merged["use_gpu"])
        placement: dict[str, Any] = {"ray_actor_options": actor}
        if autoscaling is not None:
            placement["autoscaling_config"] = dict(autoscaling)
        else:
            placement["num_replicas"] = num_replicas or 1
        return cls(options, placement, merged["host"], merged["port"], route, use_gpu)

    def require_gpus(self) -> None:
        """Raise ResourceError when the running Ray has no node with the GPU of a replica: Ray Serve would wait for one."""
        if self.use_gpu is True:
            actor = self.placement["ray_actor_options"]
            with at("to_deployment"):
                registry.engine("ray").require({"CPU": actor["num_cpus"], "GPU": actor["num_gpus"]})

    def _actor(self) -> Mapping[str, Any]:
        """Return the resources of a replica in the running Ray: with use_gpu="auto" a GPU where there is one."""
        actor: Mapping[str, Any] = self.placement["ray_actor_options"]
        if self.use_gpu != "auto":
            return actor
        there = registry.engine("ray").n_gpus() > 0
        return {**actor, "num_gpus": actor.get("num_gpus") or 1} if there else {**actor, "num_gpus": 0}

    def application(self, model: bytes | str | None, config: Mapping[str, str] | None, host: str = "") -> Any:
        """Return the Ray Serve application of a model in its arguments or in the ModelStore, on a Ray Serve at this address."""
        # Ray Serve starts a replica again when its version changes, and does not compare arguments itself.
        arguments = (model, asdict(self.options.at(host)), self.use_gpu)
        version = hashlib.sha256(repr(arguments).encode()).hexdigest()[:16]
        deployment = serve.deployment(replica_class()).options(
            name=self.options.name,
            user_config=config,
            **versioned(version),
            **deployment_options(self.options),
            **{**self.placement, "ray_actor_options": self._actor()},
        )
        return deployment.bind(*arguments)


def _on_gpu(actor: Mapping[str, Any], use_gpu: UseGPU | None) -> tuple[dict[str, Any], UseGPU | None]:
    """Return the resources of a replica and `use_gpu`, which a number of GPUs stands for, too."""
    with at("to_deployment"):
        device.check(use_gpu)
    n_gpus = actor.get("num_gpus")
    if use_gpu is False and n_gpus:
        raise ParameterError(
            f"to_deployment: ray_actor_options reserve num_gpus={n_gpus}, and use_gpu=False.",
            "Expected no GPU, because it would be idle.",
            "leave one of them out.",
        )
    use_gpu = True if use_gpu is None and n_gpus else use_gpu
    return {**actor, "num_gpus": n_gpus or 1} if use_gpu is True else dict(actor), use_gpu


def deploy_config(path: str | Path, to: str | Path | None = None, **arguments: Any) -> str:
    """Return the YAML for `serve deploy` and KubeRay's RayService, for a saved pipeline.

    Parameters
    ----------
    path
        The path of the saved pipeline, valid on every node.
    to
        The file to write; by default none is written.
    arguments
        Keyword arguments of `to_deployment`, except `token`.

    Returns
    -------
    str
        The YAML.

    Raises
    ------
    ParameterError
        On a token, which the file would contain in plain text, and on arguments that `to_deployment` refuses.

    Examples
    --------
    >>> from rayline import serve
    >>> text = serve.deploy_config("/models/late.rayline", "serve.yaml", name="late", num_replicas=2)  # doctest: +SKIP
    """
    if "token" in arguments:
        raise ParameterError(
            "deploy_config: the file would contain the token in plain text.",
            "Expected no token.",
            "deploy with to_deployment(token=…), or guard the cluster's ingress.",
        )
    plan = _Plan.of(arguments)
    if plan.use_gpu is True and Path(path).exists():  # otherwise it is a path of the nodes
        with at("deploy_config"):
            artifact.load(path).model.require_gpu()
    hosts = plan.options.at(plan.host).allowed_hosts
    known = {} if hosts is None else {"allowed_hosts": list(hosts)}
    config = {
        "proxy_location": "EveryNode",
        "http_options": {"host": plan.host, "port": plan.port or ingress.HTTP_PORT},
        "controller_options": {"runtime_env": {"env_vars": {**ingress.SERVE, **ingress.HAPROXY}}},
        "applications": [
            {
                "name": plan.options.name,
                "route_prefix": plan.route or "/",
                "import_path": f"{__name__}:build",
                "args": {
                    "path": str(path),
                    **{k: _plain(v) for k, v in arguments.items() if k not in ("host", "port", "route_prefix")},
                    **known,
                },
            }
        ],
    }
    text: str = yaml.safe_dump(config, sort_keys=False)
    if to is not None:
        replace_content(to, text)
    return text


def _plain(value: Any) -> Any:
    """Return NumPy's numbers as Python's, which YAML can write."""
    return value.item() if isinstance(value, np.generic) else value


def build(arguments: dict[str, Any]) -> Any:
    """Return the application of `deploy_config`: `arguments` are `path` and the keyword arguments of `to_deployment`."""
    return _Plan.of({k: v for k, v in arguments.items() if k != "path"}).application(arguments["path"], None)

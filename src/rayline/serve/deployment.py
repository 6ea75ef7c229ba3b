"""A pipeline on Ray Serve: the app of `serve.app` in replicas, behind HAProxy where it is there.

The pipeline travels once: a holder (a small detached actor) puts it into the object store, and every replica of every
version takes it from there. Replicas learn which one to answer with from their `user_config`, so that `update` exchanges
the model in running replicas and no request fails.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import ray
import yaml  # type: ignore[import-untyped]  # comes with Ray
from ray import serve
from ray.serve.exceptions import RayServeException

from rayline.core import registry
from rayline.core.arguments import known_arguments
from rayline.core.errors import ParameterError, ServeError
from rayline.core.files import replace_content
from rayline.inference import artifact
from rayline.inference.pipeline import InferencePipeline, as_pipeline
from rayline.serve import ingress
from rayline.serve.model_store import differences, held_interface, hold, interface, let_go, packed
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
        """Start it, or bring a running one of this name to what this one says. Returns when it answers.

        Ray is started quietly when none runs, and Ray Serve with it.

        Parameters
        ----------
        allow_schema_change
            Whether a running one may be replaced by a pipeline that needs other columns, or other types of them, or that has other
            targets: its clients would be refused from then on, or get other answers. Fewer columns are always allowed.

        Raises
        ------
        ServeError
            When the replicas do not start, when an application of this name runs that Rayline has not made, and when the columns
            change without leave.
        """
        if not ray.is_initialized():
            registry.engine("ray").connect()
        with ingress.quiet():
            ingress.start(self._plan.host, self._plan.port)
            is_new = self.status() in ("NOT_STARTED", "DELETING")
            if not is_new:
                self._require_ours("deploy")
                self._require_same_interface(allow_schema_change)
            model = hold(self.name, self.pipeline)
            try:
                serve.run(
                    self._plan.application(None, model, ingress.listening_host()),
                    name=self.name,
                    route_prefix=self._route(),
                )
            except (RuntimeError, RayServeException, TimeoutError, ray.exceptions.RayError) as error:
                reason = ingress.reason(self.name, error)
                if is_new:
                    self._delete()
                raise ServeError(
                    f"Deployment {self.name!r} did not start: {reason}.",
                    "Expected healthy replicas.",
                    "check that the cluster has the CPUs that ray_actor_options ask for.",
                ) from error
            let_go(self.name, keep=model["key"])
            if not ingress.answers(f"{self.url}/health"):
                raise ServeError(
                    f"Deployment {self.name!r} runs, and nothing answers at {self.url}.",
                    f"Expected an answer within {ingress.READY_S} seconds.",
                    "see the logs of Ray Serve's proxy.",
                )
        return self

    def update(self, model: Any, *, allow_schema_change: bool = False) -> Self:
        """Exchange the model in the running replicas. Requests that have begun end with the old one; none fails.

        Parameters
        ----------
        model
            What `to_deployment` takes.
        allow_schema_change
            As in `deploy`.

        Raises
        ------
        ServeError
            As `deploy`, and when it does not run. The old model goes on answering.
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
        """Where it answers, without a slash at the end: POST rows to `url + "/predict"`."""
        self._require_running("url")
        route = ingress.routes().get(self.name)
        if route is None:
            raise ServeError(
                f"Deployment.url: {self.name!r} is being deleted, or not there yet.",
                "Expected one that answers.",
                "call .deploy().",
            )
        return f"{ingress.address()}{route.rstrip('/')}"

    def status(self) -> str:
        """`"RUNNING"`, `"DEPLOYING"`, `"UNHEALTHY"`, … as Ray Serve says; `"NOT_STARTED"` when it does not run."""
        if not ray.is_initialized():
            return "NOT_STARTED"
        application = serve.status().applications.get(self.name)
        return "NOT_STARTED" if application is None else str(application.status.value)

    def delete(self) -> None:
        """Take it down. Ray Serve goes too when it was started here and nothing else runs on it; Ray stays.

        Raises ServeError when an application of this name runs that Rayline has not made.
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
            let_go(self.name)
            ingress.stop()

    @property
    def app(self) -> Any:
        """It as a Ray Serve Application, to bind into a larger one; the model travels in its arguments."""
        return self._plan.application(packed(self.pipeline), None)

    def _route(self) -> str:
        routes = ingress.routes()
        if self._plan.route is not None or self.name in routes:
            return self._plan.route or routes[self.name]
        return f"/{self.name}" if "/" in routes.values() else "/"

    def _require_ours(self, what: str) -> None:
        if not ingress.is_ours(self.name):
            raise ServeError(
                f"Deployment.{what}: an application {self.name!r} runs on Ray Serve that Rayline has not made.",
                "Expected none, or one of to_deployment.",
                "choose another name=, or take the other one down with ray.serve.delete.",
            )

    def _require_same_interface(self, allow_schema_change: bool) -> None:
        before = None if allow_schema_change else held_interface(self.name)
        changes = differences(interface(self.pipeline), before) if before else []
        if changes:
            more = f", and {len(changes) - 3} more" if len(changes) > 3 else ""
            raise ServeError(
                f"Deployment {self.name!r}: its clients would be refused, or get other answers: {', '.join(changes[:3])}{more}.",
                "Expected the columns and targets of the pipeline that runs.",
                "deploy it under another name, or pass allow_schema_change=True.",
            )

    def _require_running(self, what: str) -> None:
        if self.status() == "NOT_STARTED":
            raise ServeError(
                f"Deployment.{what}: {self.name!r} does not run.", "Expected a deployed one.", "call .deploy() first."
            )

    def __repr__(self) -> str:
        return f"Deployment({self.name!r}, {self.status()})"


@known_arguments
def to_deployment(
    model: Any,
    *,
    name: str = "model",
    num_replicas: int | None = None,
    max_batch_size: int = ServerOptions.max_batch_size,
    batch_wait_timeout_s: float = ServerOptions.batch_wait_timeout_s,
    max_queued_requests: int = ServerOptions.max_queued_requests,
    max_body_bytes: int = ServerOptions.max_body_bytes,
    request_timeout_s: float = ServerOptions.request_timeout_s,
    token: str | None = None,
    allowed_hosts: Sequence[str] | None = None,
    autoscaling: Mapping[str, Any] | None = None,
    ray_actor_options: Mapping[str, Any] | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    route_prefix: str | None = None,
) -> Deployment:
    """Anything that predicts as a deployment on Ray Serve. Nothing starts before `.deploy()`.

    Parameters
    ----------
    model
        An InferencePipeline, a Model, a framework's own model, or the path of a saved pipeline.
    name
        The name of the application and of the model in URLs.
    num_replicas
        How many replicas answer; 1 when neither this nor `autoscaling` says otherwise.
    max_batch_size, batch_wait_timeout_s, max_queued_requests, max_body_bytes, request_timeout_s, token, allowed_hosts
        As in `ServerOptions`; each replica has a queue of its own. A Ray Serve that listens on this machine only is asked as localhost.
    autoscaling
        Ray Serve's autoscaling_config, such as `{"min_replicas": 1, "max_replicas": 8}`, in place of `num_replicas`.
    ray_actor_options
        Resources of a replica, `{"num_cpus": 1}` by default; `runtime_env`, …. `num_gpus` is for frameworks of one's own: those of
        Rayline predict on the CPU here.
    host, port
        Where Ray Serve listens when it is started here: this machine only, and port 8000 or the next free one. A cluster
        of several machines needs `host="0.0.0.0"`. A Ray Serve that runs already keeps what it has.
    route_prefix
        The path that everything stands under: `/` when nothing else has it, otherwise `/name`.

    Returns
    -------
    Deployment
        With `.deploy()`, `.url`, `.status()`, `.update(model)`, `.delete()`, `.app`.

    Raises
    ------
    ParameterError
        When an argument is outside of what it may be.

    Examples
    --------
    >>> from rayline import serve
    >>> deployment = serve.to_deployment("late.rayline", name="late", num_replicas=2)  # doctest: +SKIP
    >>> deployment.deploy()  # doctest: +SKIP
    """
    arguments = {name: value for name, value in locals().items() if name != "model"}
    plan = _Plan.of(arguments)
    pipeline = _pipeline_of(model)
    if type(pipeline.model.adapter).__module__.startswith("rayline."):
        plan.require_no_gpu()
    return Deployment(pipeline, plan)


def _pipeline_of(model: Any) -> InferencePipeline:
    return as_pipeline(artifact.load(model) if isinstance(model, (str, Path)) else model)


@dataclass(frozen=True)
class _Plan:
    """The arguments of `to_deployment`, checked: how the app behaves, and where and how often it runs."""

    options: ServerOptions
    placement: Mapping[str, Any]
    host: str
    port: int | None
    route: str | None

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Self:
        allowed = {
            p.name: p.default for p in inspect.signature(to_deployment).parameters.values() if p.kind is p.KEYWORD_ONLY
        }
        unknown = set(arguments) - set(allowed)
        if unknown:
            raise ParameterError.unknown("to_deployment", unknown, allowed)
        given = {**allowed, **arguments}
        options = ServerOptions(**{f.name: given[f.name] for f in fields(ServerOptions)})
        num_replicas, autoscaling, route = given["num_replicas"], given["autoscaling"], given["route_prefix"]
        if num_replicas is not None and autoscaling is not None:
            raise ParameterError(
                "to_deployment: num_replicas and autoscaling are both given.", "Expected one of them.", "leave one out."
            )
        if num_replicas is not None and (type(num_replicas) is not int or num_replicas < 1):
            raise ParameterError.value("to_deployment", "num_replicas", "an integer of at least 1", num_replicas)
        if route is not None and not re.fullmatch(r"/|(/[A-Za-z0-9_.~-]+)+", str(route)):
            raise ParameterError.value("to_deployment", "route_prefix", "a path such as '/late'", route)
        if given["port"] is not None and (type(given["port"]) is not int or not 1 <= given["port"] <= 65535):
            raise ParameterError.value("to_deployment", "port", "a port number or None", given["port"])
        placement: dict[str, Any] = {"ray_actor_options": {"num_cpus": 1, **(given["ray_actor_options"] or {})}}
        if autoscaling is not None:
            placement["autoscaling_config"] = dict(autoscaling)
        else:
            placement["num_replicas"] = num_replicas or 1
        return cls(options, placement, given["host"], given["port"], route)

    def require_no_gpu(self) -> None:
        """Raise ParameterError when replicas would reserve a GPU: the frameworks of Rayline predict single rows on the CPU there."""
        n_gpus = self.placement["ray_actor_options"].get("num_gpus")
        if n_gpus:
            raise ParameterError(
                f"to_deployment: ray_actor_options reserve num_gpus={n_gpus}, and a replica computes on its CPUs.",
                "Expected no GPU, which would stand idle.",
                "leave num_gpus out; a framework of your own may use one.",
            )

    def application(self, model: bytes | str | None, config: Mapping[str, str] | None, host: str = "") -> Any:
        """The Ray Serve application: of a model in its arguments, or of one that the holder has; on a Ray Serve at this address."""
        # The version is ours and constant: Ray Serve then changes a running deployment in place where it can.
        made = serve.deployment(replica_class()).options(
            name=self.options.name,
            version="1",
            user_config=config,
            _internal=True,
            **deployment_options(self.options),
            **self.placement,
        )
        return made.bind(model, asdict(self.options.at(host)))


def deploy_config(path: str | Path, to: str | Path | None = None, **arguments: Any) -> str:
    """The YAML that `serve deploy` and KubeRay's RayService take, for a saved pipeline.

    Parameters
    ----------
    path
        Where every node finds the saved pipeline.
    to
        The file to write; nothing is written when omitted.
    arguments
        What `to_deployment` takes by name. A token is refused: the file would hold it in the open.

    Returns
    -------
    str
        The YAML.

    Examples
    --------
    >>> from rayline import serve
    >>> text = serve.deploy_config("/models/late.rayline", "serve.yaml", name="late", num_replicas=2)  # doctest: +SKIP
    """
    if "token" in arguments:
        raise ParameterError(
            "deploy_config: a token would stand in the file in the open.",
            "Expected none.",
            "deploy with to_deployment(token=…), or guard the cluster's ingress.",
        )
    plan = _Plan.of(arguments)
    plan.require_no_gpu()
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
                    **{k: v for k, v in arguments.items() if k not in ("host", "port", "route_prefix")},
                    **known,
                },
            }
        ],
    }
    text: str = yaml.safe_dump(config, sort_keys=False)
    if to is not None:
        replace_content(to, text)
    return text


def build(arguments: dict[str, Any]) -> Any:
    """The application of `deploy_config`: `arguments` are `path` and what `to_deployment` takes."""
    return _Plan.of({k: v for k, v in arguments.items() if k != "path"}).application(arguments["path"], None)

"""Private names of Ray Serve."""

from __future__ import annotations

import contextlib
import inspect
from typing import Any

from rayline.compat.private_name import register
from rayline.compat.ray import RAY

_SERVE_CLIENT = register(
    "ray.serve.context:_get_global_client",
    RAY,
    use="Read the address, the applications and the routes of a running Ray Serve, and shut it down without retries.",
    fallback="Call Ray Serve's controller actor directly; shut down with serve.shutdown().",
)
_SERVE_CLIENT_CLASS = register(
    "ray.serve._private.client:ServeControllerClient.shutdown_cached_handles",
    RAY,
    use="Shut down Ray Serve without retries of the call in which its controller ends.",
    fallback="serve.shutdown() alone: Ray logs that it retries.",
)
_SERVE_CONTROLLER = register(
    "ray.serve._private.controller:ServeController.get_serve_instance_details",
    RAY,
    use="Read the applications and their routes when `_get_global_client` is missing.",
    fallback="None: it is itself the fallback.",
)
_HAPROXY_TEMPLATE = register(
    "ray.serve._private.haproxy_templates:HAPROXY_CONFIG_TEMPLATE",
    RAY,
    use="Check that Ray Serve copies a setting unchanged to the end of a line of HAProxy's configuration, so that a line break "
    "in the setting can add lines for which Ray Serve has no setting.",
    fallback="No lines are added: no request is retried on another replica after its body was sent, and a full queue answers 500.",
)
_INTERNAL_OPTION = register(
    "ray.serve:Deployment.options",
    RAY,
    "_internal",
    use="Set the version of a deployment, so that Ray Serve updates a running one in place.",
    fallback="Ray Serve warns that versions are deprecated.",
)


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


def versioned(version: str) -> dict[str, Any]:
    """Return the options of a deployment of Ray Serve that give it a version."""
    from ray import serve

    is_there = "_internal" in inspect.signature(serve.Deployment.options).parameters
    return {"version": version, "_internal": True} if is_there else {"version": version}

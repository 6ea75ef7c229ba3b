"""The store from which replicas load their pipeline: a small detached actor that keeps it in the object store."""

from __future__ import annotations

import contextlib
import secrets
import sys
from collections.abc import Mapping

import polars as pl
import ray
from ray import cloudpickle

from rayline.inference.pipeline import InferencePipeline
from rayline.serve.openapi import column

NAMESPACE = "rayline"


class ModelStore:
    """Keeps serialized pipelines in the object store; they outlive the driver that stored them."""

    def __init__(self) -> None:
        self._models: dict[str, ray.ObjectRef] = {}
        self._interface: Interface | None = None

    def put(self, key: str, packed: bytes, interface: Interface) -> None:
        self._models[key] = ray.put(packed)
        self._interface = interface

    def interface(self) -> Interface | None:
        return self._interface

    def get(self, key: str) -> list[ray.ObjectRef]:
        return [self._models[key]]

    def keep_only(self, key: str) -> None:
        self._models = {stored: ref for stored, ref in self._models.items() if stored == key}


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
        interface: Interface | None = ray.get(
            ray.get_actor(f"models of {name}", namespace=NAMESPACE).interface.remote()
        )
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


def store_model(name: str, pipeline: InferencePipeline) -> dict[str, str]:
    """Store a pipeline and return the `user_config` with which a replica finds it."""
    holder = ray.remote(ModelStore).options(
        name=f"models of {name}",
        namespace=NAMESPACE,
        get_if_exists=True,
        lifetime="detached",
        num_cpus=0,
        max_restarts=0,
    )
    config = {"holder": f"models of {name}", "key": secrets.token_hex(8)}
    ray.get(holder.remote().put.remote(config["key"], serialized(pipeline), interface(pipeline)))
    return config


def release_models(name: str, keep: str | None = None) -> None:
    """Remove all stored pipelines of a deployment except the one with this key."""
    with contextlib.suppress(ValueError, ray.exceptions.RayActorError):
        holder = ray.get_actor(f"models of {name}", namespace=NAMESPACE)
        if keep is None:
            ray.kill(holder)
        else:
            ray.get(holder.keep_only.remote(keep))


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

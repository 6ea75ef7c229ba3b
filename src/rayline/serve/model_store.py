"""Where replicas take their pipeline from: a small detached actor that keeps it in the object store."""

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
    """Keeps packed pipelines in the object store, beyond the life of the driver that made them."""

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
        self._models = {own: ref for own, ref in self._models.items() if own == key}


Interface = dict[str, dict[str, str]]
"""What clients depend on: `columns` and `targets`, each with its type in JSON."""


def interface(pipeline: InferencePipeline) -> Interface:
    """What clients of a pipeline depend on."""

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


def held_interface(name: str) -> Interface | None:
    """That of the pipeline that a running deployment has; None when nobody knows."""
    with contextlib.suppress(ValueError, AttributeError, ray.exceptions.RayError):
        found: Interface | None = ray.get(ray.get_actor(f"models of {name}", namespace=NAMESPACE).interface.remote())
        return found
    return None


def differences(new: Interface, old: Interface) -> list[str]:
    """What clients of the old one would notice: columns that are needed now, and other types. Fewer columns are none."""
    found = []
    for part, words in (("columns", "column"), ("targets", "target")):
        for name, kind in new[part].items():
            before = old[part].get(name)
            if before is None:
                found.append(f"the {words} {name!r} is new")
            elif before != kind and (before, kind) != ("integer", "number"):
                found.append(f"the {words} {name!r} was {before} and is {kind}")
    return found + [f"the target {name!r} is gone" for name in old["targets"] if name not in new["targets"]]


def hold(name: str, pipeline: InferencePipeline) -> dict[str, str]:
    """Keep a pipeline; gives what a replica needs to find it (its `user_config`)."""
    holder = ray.remote(ModelStore).options(
        name=f"models of {name}",
        namespace=NAMESPACE,
        get_if_exists=True,
        lifetime="detached",
        num_cpus=0,
        max_restarts=0,
    )
    config = {"holder": f"models of {name}", "key": secrets.token_hex(8)}
    ray.get(holder.remote().put.remote(config["key"], packed(pipeline), interface(pipeline)))
    return config


def let_go(name: str, keep: str | None = None) -> None:
    """Forget all pipelines of a deployment but the one of this key."""
    with contextlib.suppress(ValueError, ray.exceptions.RayActorError):
        holder = ray.get_actor(f"models of {name}", namespace=NAMESPACE)
        if keep is None:
            ray.kill(holder)
        else:
            ray.get(holder.keep_only.remote(keep))


def packed(pipeline: InferencePipeline) -> bytes:
    """The pipeline for our own workers, with the user's own stages and frameworks, whose modules they may not have."""
    classes: list[type] = (
        [type(stage) for _, stage in pipeline.preprocessor.leaves] if pipeline.preprocessor is not None else []
    )
    classes.append(type(pipeline.model.adapter))
    modules = {sys.modules[c.__module__] for c in classes if c.__module__ in sys.modules}
    foreign = [m for m in modules if m.__name__.partition(".")[0] != "rayline" and m.__name__ != "__main__"]
    for module in foreign:
        cloudpickle.register_pickle_by_value(module)
    try:
        made: bytes = cloudpickle.dumps(pipeline)
        return made
    finally:
        for module in foreign:
            cloudpickle.unregister_pickle_by_value(module)

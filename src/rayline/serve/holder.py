"""Where replicas take their pipeline from: a small detached actor that keeps it in the object store."""

from __future__ import annotations

import contextlib
import secrets
import sys

import ray
from ray import cloudpickle

from rayline.inference.pipeline import InferencePipeline

NAMESPACE = "rayline"


class Holder:
    """Keeps packed pipelines in the object store, beyond the life of the driver that made them."""

    def __init__(self) -> None:
        self._models: dict[str, ray.ObjectRef] = {}

    def put(self, key: str, packed: bytes) -> None:
        self._models[key] = ray.put(packed)

    def get(self, key: str) -> list[ray.ObjectRef]:
        return [self._models[key]]

    def keep_only(self, key: str) -> None:
        self._models = {own: ref for own, ref in self._models.items() if own == key}


def hold(name: str, pipeline: InferencePipeline) -> dict[str, str]:
    """Keep a pipeline; gives what a replica needs to find it (its `user_config`)."""
    holder = ray.remote(Holder).options(
        name=f"models of {name}", namespace=NAMESPACE, get_if_exists=True, lifetime="detached", num_cpus=0, max_restarts=0
    )
    config = {"holder": f"models of {name}", "key": secrets.token_hex(8)}
    ray.get(holder.remote().put.remote(config["key"], packed(pipeline)))
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
    classes: list[type] = [type(stage) for _, stage in pipeline.preprocessor.leaves] if pipeline.preprocessor is not None else []
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

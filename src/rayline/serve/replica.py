"""The app in a replica of Ray Serve, and its deployment options."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import ray
from ray import cloudpickle, serve

from rayline.device import UseGPU
from rayline.inference import artifact
from rayline.inference.pipeline import InferencePipeline
from rayline.serve.app import App, create_app
from rayline.serve.http_connection import relax_gc, use_for_ray_serve
from rayline.serve.model_store import NAMESPACE
from rayline.serve.options import ServerOptions


def replica_class() -> type:
    """Return the deployment class. It is created on demand, because wrapping it as an ingress imports much of Ray Serve."""
    replica: type = serve.ingress()(Replica)
    return replica


class Replica:
    """The app in a Ray Serve replica."""

    def __init__(self, model: bytes | str | None, options: Mapping[str, Any], use_gpu: UseGPU | None = None) -> None:
        use_for_ray_serve()  # before the server of this process starts
        relax_gc()
        self._options, self._key, self._use_gpu = ServerOptions(**options), "", use_gpu
        self._app: App | None = None
        self._id = ray.get_runtime_context().get_actor_id()
        self._following: asyncio.Task[None] | None = None
        if model is not None:
            loaded = artifact.load(model) if isinstance(model, str) else cloudpickle.loads(model)
            self._app = create_app(loaded.on_gpu(use_gpu), self._options)

    async def reconfigure(self, config: Mapping[str, str]) -> None:
        """Use the current model of a ModelStore, and from now on each later one. Ray Serve calls this before the first request."""
        if self._following is None:
            key, model = await self._next(config["store"], "")
            await self._use(key, model)
            self._following = asyncio.create_task(self._follow(config["store"], key))

    async def _next(self, store: str, seen: str) -> tuple[str, list[ray.ObjectRef]]:
        model: tuple[str, list[ray.ObjectRef]] = await _store(store).next.remote(self._id, self._key, seen)
        return model

    async def _use(self, key: str, model: list[ray.ObjectRef]) -> None:
        if model and key != self._key:
            packed = await model[0]
            activate = await asyncio.to_thread(self._loaded, packed)  # requests are answered meanwhile
            activate()
            self._key = key

    async def _follow(self, store: str, seen: str) -> None:
        """Use each new model of the store. The one in use stays when the new one cannot be loaded."""
        while True:
            try:
                key, model = await self._next(store, seen)
                if key == seen:
                    continue
                seen = key
                try:
                    await self._use(key, model)
                except Exception as error:
                    await _store(store).failed.remote(self._id, key, f"{type(error).__name__}: {error}")
            except (ValueError, ray.exceptions.RayError):  # the store is gone; the next deploy() starts another
                await asyncio.sleep(1)

    def _loaded(self, packed: bytes) -> Callable[[], None]:
        """Deserialize and prepare a pipeline, and return a function that makes the app use it."""
        loaded: InferencePipeline = cloudpickle.loads(packed)
        pipeline = loaded.on_gpu(self._use_gpu)
        app = self._app
        if app is not None:
            return partial(app.activate, app.served(pipeline))
        new_app = create_app(pipeline, self._options)
        return partial(setattr, self, "_app", new_app)

    async def predict(self, rows: Any) -> Any:
        """As `InferencePipeline.predict`, for other deployments of a larger application: `handle.predict.remote(rows)`."""
        assert self._app is not None
        return await asyncio.to_thread(self._app.pipeline.predict, rows)

    async def predict_proba(self, rows: Any) -> Any:
        """As `InferencePipeline.predict_proba`, in the same way."""
        assert self._app is not None
        return await asyncio.to_thread(self._app.pipeline.predict_proba, rows)

    def __serve_build_asgi_app__(self) -> Any:
        async def answer(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan":  # begins before Ray Serve has set the model
                await _lifespan(receive, send)
            else:
                assert self._app is not None
                await self._app(scope, receive, send)

        return answer


async def _lifespan(receive: Any, send: Any) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


def _store(name: str) -> Any:
    return ray.get_actor(name, namespace=NAMESPACE)


def deployment_options(options: ServerOptions) -> dict[str, Any]:
    """Return Ray Serve's options, chosen so that the server's own limits apply."""
    return {
        # A replica accepts as many requests as our queue, so that waiting requests can share a call of the model; more are refused.
        "max_ongoing_requests": options.max_queued_requests,
        "max_queued_requests": options.max_queued_requests,
        "backpressure_config": {"status_code": 503, "retry_after_s": 1},
        "graceful_shutdown_wait_loop_s": 0.2,
        "graceful_shutdown_timeout_s": options.request_timeout_s + 5,
        "health_check_period_s": 2,
        "health_check_timeout_s": 10,
        "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
    }

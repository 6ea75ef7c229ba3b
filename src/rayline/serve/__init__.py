"""Serving: one HTTP app built from an inference pipeline, run in this process or on Ray Serve.

`create_app(pipeline)` is the ASGI app, `run(pipeline)` serves it with uvicorn (what `rayline serve` does; no Ray involved),
`to_deployment(pipeline)` serves it on Ray Serve.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_NAMES = {
    "create_app": "rayline.serve.app",
    "run": "rayline.serve.server",
    "ServerOptions": "rayline.serve.options",
    "Deployment": "rayline.serve.deployment",
    "to_deployment": "rayline.serve.deployment",
    "deploy_config": "rayline.serve.deployment",
}

if TYPE_CHECKING:
    from rayline.serve.app import create_app
    from rayline.serve.deployment import Deployment, deploy_config, to_deployment
    from rayline.serve.options import ServerOptions
    from rayline.serve.server import run

__all__ = ["Deployment", "ServerOptions", "create_app", "deploy_config", "run", "to_deployment"]


if not TYPE_CHECKING:  # otherwise every misspelt name would be accepted

    def __getattr__(name: str) -> Any:
        if name in _NAMES:
            return getattr(importlib.import_module(_NAMES[name]), name)
        raise AttributeError(f"module 'rayline.serve' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

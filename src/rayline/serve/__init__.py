"""Serving: one HTTP app built from an inference pipeline, run in this process or on Ray Serve.

`create_app(pipeline)` is the ASGI app, `run(pipeline)` serves it with uvicorn (what `rayline serve` does; no Ray involved),
`to_deployment(pipeline)` serves it on Ray Serve.
"""

from rayline.core.lazy_names import public_names

__all__, __getattr__ = public_names(__name__)


def __dir__() -> list[str]:
    return __all__

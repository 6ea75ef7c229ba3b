"""Rayline: one path for machine learning on Ray, whatever the framework.

`import rayline` loads neither Ray nor any framework; each is loaded when it is first used. `__init__.pyi` lists the public names.
"""

from rayline.core.lazy_names import public_names
from rayline.core.version import VERSION

__version__ = VERSION
__all__, __getattr__ = public_names(__name__)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

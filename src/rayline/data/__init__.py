"""Data: reading it, splitting it, preparing it. Names are loaded when they are first used; none of them needs Ray before."""

from rayline.core.lazy_names import public_names

__all__, __getattr__ = public_names(__name__)


def __dir__() -> list[str]:
    return __all__

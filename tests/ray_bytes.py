"""What the driver fetches from Ray and sends to it, counted: rows that stay on Ray cost it nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


def bytes_fetched(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Return a function that says how many bytes this process has fetched from Ray since its last call."""
    import ray

    sizes, get = [0], ray.get

    def counting(refs: Any, **options: Any) -> Any:
        found = get(refs, **options)
        sizes.append(len(ray.cloudpickle.dumps(found)))
        return found

    def since() -> int:
        found = sum(sizes)
        sizes.clear()
        return found

    monkeypatch.setattr(ray, "get", counting)
    return since


def bytes_put(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Return a function that says how many bytes this process has put into the object store since its last call."""
    import ray

    sizes, put = [0], ray.put

    def counting(value: Any, **options: Any) -> Any:
        sizes.append(len(ray.cloudpickle.dumps(value)))
        return put(value, **options)

    def since() -> int:
        found = sum(sizes)
        sizes.clear()
        return found

    monkeypatch.setattr(ray, "put", counting)
    return since

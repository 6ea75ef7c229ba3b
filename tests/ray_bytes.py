"""What the driver fetches from Ray, counted: rows that stay on Ray cost it nothing."""

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

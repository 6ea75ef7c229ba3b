"""The memory that a process may still use, by the system and by the limits of a container."""

from __future__ import annotations

import contextlib
from pathlib import Path

MEMINFO = Path("/proc/meminfo")

LIMITS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)
"""Files with a container's limit and its use, of both versions of control groups."""


def available_bytes() -> int | None:
    """Return the memory that is free or can be freed without swapping; None where the system does not say."""
    limits = [_of_machine(), *(_of_limit(limit, used) for limit, used in LIMITS)]
    return min((size for size in limits if size is not None), default=None)


def _of_machine() -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in MEMINFO.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return None


def _of_limit(limit: Path, used: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):  # "max" is no number: no limit
        return max(0, int(limit.read_text()) - int(used.read_text()))
    return None


def readable_size(size_bytes: float) -> str:
    """Return a size in the unit that a person reads.

    >>> readable_size(3_400_000_000), readable_size(52_000_000)
    ('3.4 GB', '52 MB')
    """
    return f"{size_bytes / 1e9:,.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:,.0f} MB"

"""What messages are made of."""

from __future__ import annotations

import pytest

from rayline.core.errors import counted


@pytest.mark.parametrize(
    ("n", "noun", "text"),
    [(1, "trial", "1 trial"), (0, "trial", "0 trials"), (1200, "row", "1,200 rows"), (2, "class", "2 classes"),
     (2, "category", "2 categories"), (2, "day", "2 days"), (2, "batch", "2 batches")],
)  # fmt: skip
def test_counted(n: int, noun: str, text: str) -> None:
    assert counted(n, noun) == text

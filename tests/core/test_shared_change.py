"""What several threads change in the process is undone by the last."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from rayline.core.shared_change import shared_change


@shared_change
@contextmanager
def changed() -> Iterator[None]:
    before = os.environ.get("RAYLINE_TEST")
    os.environ["RAYLINE_TEST"] = "changed"
    try:
        yield
    finally:
        os.environ.pop("RAYLINE_TEST")
        if before is not None:
            os.environ["RAYLINE_TEST"] = before


def test_overlapping_threads_leave_the_process_as_it_was() -> None:
    both, first_is_out = threading.Barrier(2), threading.Event()

    def first() -> None:
        with changed():
            both.wait()
        first_is_out.set()

    def second() -> str | None:
        with changed():
            both.wait()
            first_is_out.wait()
            return os.environ.get("RAYLINE_TEST")

    with ThreadPoolExecutor(2) as pool:
        _, seen = pool.submit(first), pool.submit(second)
        assert seen.result() == "changed"
    assert "RAYLINE_TEST" not in os.environ


def test_an_error_undoes_it_too() -> None:
    with pytest.raises(ZeroDivisionError), changed():
        raise ZeroDivisionError
    assert "RAYLINE_TEST" not in os.environ

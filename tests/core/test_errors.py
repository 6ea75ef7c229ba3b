"""What messages are made of."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

from rayline.core.errors import DataError, ParameterError, SchemaError, at, carried, counted, place


@pytest.mark.parametrize(
    ("n", "noun", "text"),
    [(1, "trial", "1 trial"), (0, "trial", "0 trials"), (1200, "row", "1,200 rows"), (2, "class", "2 classes"),
     (2, "category", "2 categories"), (2, "day", "2 days"), (2, "batch", "2 batches")],
)  # fmt: skip
def test_counted(n: int, noun: str, text: str) -> None:
    assert counted(n, noun) == text


def wrong(value: int) -> int:
    raise ParameterError.value("n", "a number", value)


def test_the_place_stands_before_the_message() -> None:
    with at("tune.run"):
        assert str(DataError.here("no rows.")) == "tune.run: no rows."
        with at(f"{place()}: fold 2 of 5"):
            assert str(DataError.here("no rows.")) == "tune.run: fold 2 of 5: no rows."
        assert str(SchemaError.absent(["a"], ["b"])).startswith("tune.run: column 'a' is missing.")
        assert str(SchemaError.absent(["a"], ["b"], where="load")).startswith("load: column")
    assert place() == ""
    assert str(DataError.here("no rows.")) == "no rows."


def test_the_place_returns_after_an_error() -> None:
    with at("outer"):
        with pytest.raises(ParameterError, match=r"^inner: n has a wrong value"):
            at("inner")(wrong)(1)
        assert place() == "outer"


def test_the_place_is_carried_to_threads_and_processes() -> None:
    with at("train.fit"):
        carried_wrong, bare = carried(wrong), wrong
    copied = pickle.loads(pickle.dumps(carried_wrong))
    with ThreadPoolExecutor(1) as threads:
        for function in (carried_wrong, copied):
            with pytest.raises(ParameterError, match=r"^train\.fit: n has"):
                threads.submit(function, 1).result()
        with pytest.raises(ParameterError, match=r"^n has"):
            threads.submit(bare, 1).result()

"""What messages are made of."""

from __future__ import annotations

import ast
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest

from rayline.core import errors
from rayline.core.errors import DataError, ParameterError, SchemaError, at, carried, counted, first_line, place


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


def test_first_line() -> None:
    assert first_line("  one\ntwo") == "one"
    assert first_line(ValueError("x" * 400), 10) == "x" * 9 + "…"
    assert first_line(ValueError()) == ""


@pytest.mark.parametrize("where", ["select", "lazy", "streaming"])
def test_an_error_keeps_its_sentences_on_its_way_through_polars(where: str) -> None:
    def refuse(values: pl.Series) -> pl.Series:
        raise DataError("The value is odd.", "Expected 2.", "take 2.")

    table, odd = pl.DataFrame({"x": [1.0]}), pl.col("x").map_batches(refuse, return_dtype=pl.Float64)
    run = {
        "select": lambda: table.select(odd),
        "lazy": lambda: table.lazy().with_columns(odd).collect(),
        "streaming": lambda: table.lazy().with_columns(odd).collect(engine="streaming"),
    }
    with pytest.raises(DataError) as caught:
        run[where]()
    assert str(caught.value) == "The value is odd.\n  Expected 2.\n  Hint: take 2."


def whole_errors(code: str) -> list[str]:
    """Where a caught error is written out as it is into an error that is raised for it."""
    found = []
    for handler in ast.walk(ast.parse(code)):
        if not isinstance(handler, ast.ExceptHandler) or not handler.name:
            continue
        raised = [node for node in ast.walk(handler) if isinstance(node, ast.Raise) and "Error" in ast.unparse(node)]
        values = [value.value for node in raised for value in ast.walk(node) if isinstance(value, ast.FormattedValue)]
        found += [ast.unparse(v) for v in values if ast.unparse(v) in (handler.name, f"str({handler.name})")]
    return found


def test_errors_of_libraries_are_cut_to_their_first_line() -> None:
    source = Path(errors.__file__).parents[1]
    for path in sorted(source.rglob("*.py")):
        file = str(path.relative_to(source))
        if not file.startswith("testing/") and file != "serve/batching.py":  # which raises the model's error again
            assert whole_errors(path.read_text(encoding="utf-8")) == [], f"{file}: use core.errors.first_line"


def test_errors_that_are_written_out_are_found() -> None:
    assert whole_errors("try: f()\nexcept E as e: raise SomeError(f'no: {e}') from e") == ["e"]
    assert whole_errors("try: f()\nexcept E as e: raise SomeError(f'no: {first_line(e)}') from e") == []

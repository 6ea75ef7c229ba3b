"""The report of the measurements."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # bench/ is no installed package

from bench.report import Comparison, Options, Section, alternate, write


def test_ratios_and_goals() -> None:
    line = Comparison("fit", [3.0, 1.0, 2.0], "other", [4.0, 4.0], goal=0.5)
    assert line.ratio == 0.5
    assert line.cells() == ["fit", "2 s", "other", "4 s", "0.5", "≤ 0.5 reached", "3, 2"]
    assert Comparison("fit", [3.0], "other", [2.0], goal=1).verdict == "≤ 1 MISSED"
    assert (
        Comparison("serve", [3000.0], "other", [1000.0], 2, "requests/s", more_is_better=True).verdict == "≥ 2 reached"
    )


def test_small_times_have_small_units() -> None:
    cells = Comparison("row", [2e-5], "other", [5e-3]).cells()
    assert (cells[1], cells[3]) == ("20 µs", "5 ms")


def test_both_sides_run_in_turn() -> None:
    order: list[str] = []
    mine, theirs = alternate(lambda: order.append("a"), lambda: order.append("b"), repeats=3, other_repeats=1)
    assert order == ["a", "b", "a", "a"]
    assert (len(mine), len(theirs)) == (3, 1)


def test_a_section_replaces_its_former_self_and_leaves_the_others(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "benchmarks.md"
    one, two = Section("One", "about one"), Section("Two", "about two")
    one.add(Comparison("slow", [9.0], "other", [1.0]))
    write([one], page)
    write([two], page)
    again = Section("One", "about one")
    again.add(Comparison("quick", [1.0], "other", [1.0]))
    write([again], page)
    text = page.read_text(encoding="utf-8")
    assert text.count("## ") == 2
    assert "| quick |" in text
    assert "slow" not in text
    assert text.index("## One") < text.index("## Two")


def test_smaller_tables_shrink_the_rest() -> None:
    assert Options().small(100_000) == 100_000
    assert Options(rows=50_000).small(100_000) == 1_000
    assert Options(rows=1_000).small(500) == 200


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("program", ["preprocessing", "training"])
def test_the_programs_run_on_little_data(
    program: str, ray_session: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib

    monkeypatch.setenv("RAYLINE_BENCH_DIR", str(tmp_path))
    section = importlib.import_module(f"bench.{program}").run(Options(rows=5_000, repeats=1))
    assert all(line.ratio > 0 for line in section.comparisons)
    assert section.markdown().count("\n| ") == len(section.comparisons) + 1

"""Tasks within a bound: how many are under way, in which order their results come, and that the others are cancelled on an error."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray

from rayline.engine.tasks import in_order


@pytest.mark.parametrize(("n_tasks", "most"), [(0, 3), (2, 3), (3, 3), (10, 3), (10, 1)])
def test_results_come_in_order_and_few_are_under_way(n_tasks: int, most: int) -> None:
    under_way: set[int] = set()
    sizes = [0]

    def submit(number: int) -> int:
        under_way.add(number)
        sizes.append(len(under_way))
        return number

    def get(number: int) -> int:
        under_way.remove(number)
        return number * number

    found = list(in_order(submit, ((number,) for number in range(n_tasks)), most, get))
    assert found == [number**2 for number in range(n_tasks)]
    assert max(sizes) == min(most, n_tasks)
    assert not under_way


def test_arguments_are_taken_as_results_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cancel", lambda task: None)
    taken: list[int] = []

    def arguments() -> Iterator[tuple[int]]:
        for number in range(9):
            taken.append(number)
            yield (number,)

    found = in_order(int, arguments(), 2, int)
    assert (next(found), taken) == (0, [0, 1, 2])
    found.close()


@pytest.mark.parametrize("pair", [False, True])
def test_the_other_tasks_are_cancelled_on_an_error(pair: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled: list[object] = []
    monkeypatch.setattr(ray, "cancel", cancelled.append)

    def get(made: object) -> object:
        raise OSError(made)

    submit = (lambda number: [number, "sizes"]) if pair else (lambda number: number)
    with pytest.raises(OSError, match="0"):
        list(in_order(submit, ((number,) for number in range(5)), 3, get))
    assert cancelled == [1, 2]
    found = in_order(submit, ((number,) for number in range(5)), 2, str)
    next(found)
    found.close()  # the rest is not wanted
    assert cancelled == [1, 2, 1]

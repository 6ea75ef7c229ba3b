"""Scores as arrays: codes beside probabilities or margins, in one record for each row."""

from __future__ import annotations

import numpy as np
import pytest

from rayline.core.scores import decisions, has_probabilities, normalized, numbers

CODES, TWO = np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.4, 0.6], [0.5, 0.5]])


def test_decisions_are_records_that_slice_and_join_like_arrays() -> None:
    scores = decisions(CODES, probabilities=TWO)
    assert scores.dtype.names == ("code", "probability")
    assert scores["code"].tolist() == CODES.tolist()
    assert np.array_equal(np.concatenate([scores[:1], scores[1:]])["probability"], TWO)
    assert numbers(scores).tolist() == np.column_stack([CODES, TWO]).tolist()


def test_codes_of_several_targets() -> None:
    codes = np.array([[0, 1], [1, 1]])
    scores = decisions(codes, margins=codes - 0.5)
    assert scores["code"].shape == (2, 2)
    assert numbers(scores).tolist() == [[0.0, 1.0, -0.5, 0.5], [1.0, 1.0, 0.5, 0.5]]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (TWO, True),
        (CODES, False),
        (decisions(CODES, probabilities=TWO), True),
        (decisions(CODES, margins=TWO[:, 1]), False),
    ],
)
def test_what_has_probabilities(scores: np.ndarray, expected: bool) -> None:
    assert has_probabilities(scores) is expected


def test_plain_scores_are_their_own_numbers() -> None:
    assert numbers(TWO) is TWO


def test_normalized_rows_sum_to_1_and_nothing_is_uniform() -> None:
    found = normalized(np.array([[1.0, 3.0, 0.0], [0.0, 0.0, 0.0]]))
    assert found[0].tolist() == [0.25, 0.75, 0.0]
    assert found[1] == pytest.approx([1 / 3] * 3)

"""Which prompts go through a model together."""

from __future__ import annotations

import random

import pytest

from kedit_glue.tools.asking import Forced, together


def groups(lengths: list[int], kept: list[int] | None = None, tokens: int = 10, numbers: int = 1000) -> list[list[int]]:
    return list(together(lengths, kept or [1] * len(lengths), tokens, numbers))


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([], []),
        ([3], [[0]]),
        ([2, 5, 5, 2], [[1, 2], [0, 3]]),  # like lengths together, the longest first
        ([5, 5, 5], [[0, 1], [2]]),
        ([6, 5, 5], [[0], [1, 2]]),  # two rows of 6, padded, would be 12
        ([6, 4], [[0], [1]]),
        ([99, 1], [[0], [1]]),  # what is longer than the limit goes alone
        ([1] * 11, [list(range(10)), [10]]),
    ],
)
def test_as_many_as_fit_padded(lengths: list[int], expected: list[list[int]]) -> None:
    assert groups(lengths) == expected


@pytest.mark.parametrize(
    ("kept", "expected"),
    [([2, 2, 2], [[0, 1], [2]]), ([3, 1, 1], [[0], [1, 2]]), ([9, 9, 9], [[0], [1], [2]]), ([1, 1, 1], [[0, 1, 2]])],
)
def test_kept_positions_are_bounded_too(kept: list[int], expected: list[list[int]]) -> None:
    assert groups([5, 5, 5], kept, tokens=1000, numbers=4) == expected


def test_a_later_group_is_as_wide_as_its_own_rows() -> None:
    """After a long row the short ones fill their own group: its width does not stay."""
    assert groups([10, 2, 2, 2, 2, 2]) == [[0], [1, 2, 3, 4, 5]]
    assert groups([8, 8, 8], [8, 1, 1], tokens=1000, numbers=8) == [[0], [1, 2]]


def test_every_row_once_and_no_group_too_large() -> None:
    draw = random.Random(0)
    for _ in range(50):
        lengths = [draw.randint(1, 40) for _ in range(draw.randint(1, 60))]
        kept = [draw.randint(1, n) for n in lengths]
        found = groups(lengths, kept, tokens=100, numbers=30)
        assert sorted(row for rows in found for row in rows) == list(range(len(lengths)))
        for rows in found:
            padded = len(rows) * max(lengths[r] for r in rows), len(rows) * max(kept[r] for r in rows)
            assert len(rows) == 1 or (padded[0] <= 100 and padded[1] <= 30)


def test_accuracy_is_the_share_of_the_answers_tokens() -> None:
    assert Forced((1, 2, 9, 4), (1, 2, 3, 4), 0.5).accuracy == 0.75
    assert Forced((1,), (2,), 0.5).accuracy == 0.0

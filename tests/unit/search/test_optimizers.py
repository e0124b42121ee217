"""Who chooses: the same seed and the same values lead to the same candidates."""

from __future__ import annotations

import numpy
import pytest

from kedit_glue.tools.optimizers import Vector, optimizer, population


def worth(vector: Vector) -> float:
    return 1 - sum((share - 0.3) ** 2 for share in vector)


def searched(by: str, evaluations: int = 80, seed: int = 7, fails: int = 3) -> list[Vector]:
    goals = 2 if by == "nsga2" else 1
    chooser = optimizer(by, [0.6] * 3, 0.2, 8, evaluations, seed, goals)
    found: list[Vector] = []
    while len(found) < evaluations and (vectors := chooser.ask(evaluations - len(found))):
        found += vectors
        numpy.random.seed(len(found) % 3)  # as a merge does
        values = [(worth(v), 1 - v[0])[:goals] for v in vectors]
        chooser.tell([None if at == fails else value for at, value in enumerate(values)])
    return found


@pytest.mark.parametrize("by", ["cma_es", "nsga2", "random", "grid"])
def test_the_same_again(by: str) -> None:
    first = searched(by)
    assert first == searched(by)
    assert all(0 <= share <= 1 for vector in first for share in vector)
    assert by == "grid" or (first[0] == [0.6] * 3 and first != searched(by, seed=8) and len(first) == 80)


@pytest.mark.parametrize("by", ["cma_es", "nsga2"])
def test_they_learn(by: str) -> None:
    best = max(map(worth, searched(by, 120)))
    assert best > max(worth(searched(by, 120)[0]), 0.98)


def test_a_failed_candidate_is_no_good_one() -> None:
    chooser = optimizer("cma_es", [0.5, 0.5], 0.2, 6, 60, 0, 1)
    for _ in range(10):
        vectors = chooser.ask(6)
        chooser.tell([None if v[0] > 0.5 else (0.5,) for v in vectors])
    assert sum(v[0] for v in chooser.ask(6)) / 6 < 0.5


def test_a_grid_has_even_steps() -> None:
    assert optimizer("grid", [0.5], 0.2, 9, 5, 0, 1).ask(9) == [[0.0], [0.25], [0.5], [0.75], [1.0]]
    assert len(searched("grid", 30)) == 27


def test_a_line_and_many_numbers() -> None:
    for length in (1, 300):
        chooser = optimizer("cma_es", [0.5] * length, 0.2, 5, 10, 0, 1)
        assert [len(v) for v in chooser.ask(5)] == [length] * 5


def test_how_many_make_a_generation() -> None:
    assert [population(1, None), population(18, None), population(18, 5)] == [4, 12, 5]

"""From a moment to directions, in numbers small enough to check by hand. No torch."""

from __future__ import annotations

import re

import numpy
import pytest

from kedit_glue.tools.protect import check_settings, leading

EIGENVALUES = numpy.array([50.0, 30.0, 10.0, 8.0, 2.0, 0.0])


@pytest.fixture
def moment() -> numpy.ndarray:
    vectors, _ = numpy.linalg.qr(numpy.random.default_rng(0).standard_normal((6, 6)))
    return ((vectors * EIGENVALUES) @ vectors.T).astype(numpy.float32)


@pytest.mark.parametrize(
    ("energy", "k", "share"), [(0.3, 1, 0.5), (0.5001, 2, 0.8), (0.79, 2, 0.8), (0.85, 3, 0.9), (0.97, 4, 0.98)]
)
def test_energy_takes_the_fewest_that_hold_it(moment: numpy.ndarray, energy: float, k: int, share: float) -> None:
    columns, found = leading(moment, None, energy, None)
    assert columns.shape == (6, k) and found == pytest.approx(share, abs=1e-5)
    assert columns.T @ columns == pytest.approx(numpy.eye(k), abs=1e-6)


def test_a_count_takes_the_largest(moment: numpy.ndarray) -> None:
    columns, share = leading(moment, 2, None, None)
    assert share == pytest.approx(0.8, abs=1e-5)
    assert numpy.diag(columns.T @ moment @ columns) == pytest.approx(EIGENVALUES[:2], abs=1e-4)


@pytest.mark.parametrize("count", [None, 3, 6])
def test_soft_columns_shrink_by_lambda_over_lambda_plus_eigenvalue(moment: numpy.ndarray, count: int | None) -> None:
    columns, _ = leading(moment, count, None, 0.7)
    assert columns.shape == (6, count or 6)
    relative = EIGENVALUES[: count or 6] / EIGENVALUES.mean()
    left = numpy.sort(numpy.linalg.eigvalsh(numpy.eye(6) - columns @ columns.T))
    expected = numpy.sort([*(0.7 / (0.7 + relative)), *[1.0] * (6 - len(relative))])
    assert left == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("count", "energy", "strength", "message"),
    [
        (6, None, None, "protect.directions is 6, a matrix has only 6 inputs: nothing could change"),
        (7, None, 1.0, "protect.directions is 7, a matrix has only 6 inputs"),
        (None, 1 - 1e-12, None, "protect.energy 0.999999999999 takes all 6 directions: nothing could change"),
    ],
)
def test_nothing_would_be_left(count: int, energy: float, strength: float, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        leading(numpy.eye(6, dtype=numpy.float32), count, energy, strength)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((3, 0.5, None), "directions and energy both say how many"),
        ((None, None, None), "give directions, energy or strength"),
        ((0, None, None), "protect.directions is 0, and must be at least 1"),
        ((None, 1.0, None), "protect.energy is 1.0, and must lie between 0 and 1"),
        ((None, None, 0.0), "protect.strength is 0.0, and must be above 0"),
    ],
)
def test_settings_that_mean_nothing(settings: tuple[int, float, float], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check_settings(*settings)

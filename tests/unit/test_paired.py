"""Paired tests against values worked out by hand and by enumeration."""

from __future__ import annotations

import math

import pytest

from kedit_glue.paired import Turned, difference_interval, right_or_wrong, sign_test, turned


@pytest.mark.parametrize(
    ("better", "worse", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (0, 5, 2 / 32),
        (0, 6, 2 / 64),
        (2, 8, 2 * (1 + 10 + 45) / 1024),
        (8, 2, 2 * (1 + 10 + 45) / 1024),
        (5, 5, 1.0),
        (1, 9, 2 * (1 + 10) / 1024),
    ],
)
def test_sign_test_is_the_exact_binomial(better: int, worse: int, p: float) -> None:
    assert sign_test(better, worse) == pytest.approx(p, rel=1e-12)


def test_sign_test_of_many_items_stays_a_number() -> None:
    assert sign_test(5900, 6100) == pytest.approx(0.0692, abs=0.001)  # z = 200 / sqrt(12000), less half a step
    assert sign_test(0, 3000) == 0.0


def test_sign_test_holds_its_level() -> None:
    """Under no change p <= 0.05 comes up in at most 5 % of all splits, for every number of changed items."""
    for changed in range(1, 40):
        often = sum(math.comb(changed, k) for k in range(changed + 1) if sign_test(k, changed - k) <= 0.05)
        assert often / 2**changed <= 0.05


def test_sign_test_refuses_negative_counts() -> None:
    with pytest.raises(ValueError, match="cannot be negative: -1 better, 2 worse"):
        sign_test(-1, 2)


@pytest.mark.parametrize(("higher", "expected"), [(True, Turned(2, 1, 1)), (False, Turned(1, 2, 1))])
def test_turned_counts_each_direction(higher: bool, expected: Turned) -> None:
    found = turned([(0, 1), (0.5, 0.75), (1, 0), (1, 1.0)], higher)
    assert found == expected
    assert found.items == 4
    assert found.p == 1.0


@pytest.mark.parametrize(
    ("pairs", "expected"), [([(0, 1), (1.0, 0.0), (True, 1)], True), ([(0, 1), (0.5, 1)], False), ([(0, -1)], False)]
)
def test_right_or_wrong(pairs: list[tuple[float, float]], expected: bool) -> None:
    assert right_or_wrong(pairs) is expected


def test_interval_of_no_change_has_a_width() -> None:
    low, high = difference_interval(0, 0, 120)
    assert low == -high
    assert high == pytest.approx(1.96 / 122, rel=1e-3)


@pytest.mark.parametrize(
    ("better", "worse", "items"),
    [(0, 0, 1), (10, 0, 10), (0, 10, 10), (3, 9, 200), (50, 50, 100)],
)
def test_interval_holds_the_change_pulled_to_zero_and_stays_in_range(better: int, worse: int, items: int) -> None:
    low, high = difference_interval(better, worse, items)
    assert -1 <= low < (better - worse) / (items + 2) < high <= 1
    assert difference_interval(worse, better, items) == (-high, -low)


@pytest.mark.parametrize(("gain", "loss"), [(0.02, 0.02), (0.1, 0.1), (0.3, 0.1), (0.05, 0.2), (0.0, 0.03)])
def test_interval_covers_the_true_change(gain: float, loss: float) -> None:
    """Over every outcome of 40 items, weighted by its probability, the interval holds the truth in about 95 %."""
    n, covered = 40, 0.0
    for better in range(n + 1):
        for worse in range(n + 1 - better):
            low, high = difference_interval(better, worse, n)
            if low <= gain - loss <= high:
                ways = math.comb(n, better) * math.comb(n - better, worse)
                covered += ways * gain**better * loss**worse * (1 - gain - loss) ** (n - better - worse)
    assert covered > 0.94


@pytest.mark.parametrize(("better", "worse", "items"), [(-1, 0, 5), (3, 3, 5)])
def test_interval_refuses_counts_that_do_not_fit(better: int, worse: int, items: int) -> None:
    with pytest.raises(ValueError, match=f"{better} better and {worse} worse do not fit {items} items"):
        difference_interval(better, worse, items)

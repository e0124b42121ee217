"""What a study's cells will take, by hand."""

from __future__ import annotations

import pytest

from kedit_glue.study_estimate import Expected, Measured, added, expected, measured

ROME = Measured("rome", 10, 700.0, 1000)
OURS = Measured("rsft_merge", 10, 60.0, 4000)
MORE = Measured("rsft_merge", 40, 120.0, 4000)


def test_a_run_is_measured_by_its_scores() -> None:
    document = {"method": "rome", "facts": [{}] * 10, "seconds": {"edit": 600.0, "all": 700.0}}
    assert measured(document, 1000) == ROME
    del document["method"]
    assert measured(document, 1000).method == ""


@pytest.mark.parametrize(
    ("method", "facts", "wanted"),
    [
        ("rome", 100, Expected(7000.0, 10000)),  # the same method first
        ("rsft_merge", 12, Expected(72.0, 4800)),  # then the nearest number of facts
        ("rsft_merge", 80, Expected(240.0, 8000)),
        ("memit", 40, Expected(120.0, 4000)),
        ("rome", None, Expected(700.0, 1000)),  # all of a file whose length nobody knows
    ],
)
def test_in_proportion_to_the_facts(method: str, facts: int | None, wanted: Expected) -> None:
    assert expected(method, facts, [OURS, ROME, MORE]) == wanted


def test_nothing_is_made_up() -> None:
    assert expected("rome", 10, []) is None
    assert added([Expected(1.0, 2), None]) is None
    assert added([Expected(1.0, 2), Expected(3.0, 4)]) == Expected(4.0, 6)

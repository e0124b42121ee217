"""What candidates are worth."""

from __future__ import annotations

import math

import pytest

from kedit_glue.search.fitness import fitness, front, knee, wrong


def test_a_weighted_harmonic_mean() -> None:
    parts = {"paraphrases": 0.5, "locality": 1.0, "perplexity": 0.8}
    assert fitness(parts, {"paraphrases": 1.0, "locality": 1.0}) == pytest.approx(2 / 3)
    assert fitness(parts, {"paraphrases": 3.0, "locality": 1.0, "perplexity": 0.0}) == pytest.approx(4 / 7)
    assert fitness({**parts, "locality": 0.0}, {"paraphrases": 1.0, "locality": 1.0}) == 0.0


def test_what_is_no_number() -> None:
    assert wrong({"locality": math.nan, "perplexity": math.inf}) == "locality, perplexity is not a finite number"
    assert wrong({"locality": 0.0}) is None


def test_a_front_holds_what_nothing_beats() -> None:
    points = [(0.5, 0.5), (0.9, 0.1), (0.1, 0.9), (0.5, 0.4), (0.9, 0.1), (0.5, 0.6)]
    assert front(points) == [1, 2, 5]


def test_the_knee_is_nearest_to_the_best_of_each() -> None:
    assert knee([(1.0, 0.0), (0.9, 0.9), (0.0, 1.0)]) == 1
    assert knee([(0.5, 0.2)]) == 0
    assert knee([(0.5, 0.2), (0.5, 0.3)]) == 1, "an objective in which all are the same decides nothing"

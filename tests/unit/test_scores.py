"""Scores against cases that were worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from kedit_glue import metrics, scores
from kedit_glue.metrics import (
    COUNTERFACT_S,
    EFFICACY_MAGNITUDE,
    EFFICACY_SCORE,
    FLUENCY,
    GENERALIZATION,
    LOCALITY,
    NEIGHBORHOOD_MAGNITUDE,
    NEIGHBORHOOD_SCORE,
    PARAPHRASE_MAGNITUDE,
    PARAPHRASE_SCORE,
    PERPLEXITY,
    PORTABILITY,
    SENTIMENT,
    SUCCESS,
)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([1, 2, 3, 4], [1, 2, 9, 4], 0.75),
        ([1, 2], [2, 1], 0.0),
        ([5], [5], 1.0),
        ([], [], 1.0),
    ],
)
def test_agreement_is_the_share_of_equal_tokens(before: list[int], after: list[int], expected: float) -> None:
    assert scores.agreement(before, after) == expected


def test_agreement_of_answers_of_different_lengths_is_an_error() -> None:
    with pytest.raises(ValueError, match="at different lengths"):
        scores.agreement([1, 2], [1])


# -- teacher forced -----------------------------------------------------------------------------

FACTS = [{"id": "a"}, {"id": "b"}]
"""What was asked is told by generated answers alone."""
# two facts, before and after; b has neither rephrasings nor portability probes
BASE = {
    "facts": [
        {
            "id": "a",
            "teacher_forced": {
                "edit_success": 0.0,
                "generalization": [0.0, 0.5],
                "portability": {"alias": [0.5], "hops": [0.0]},
                "locality": {"near": [[1, 2], [3, 4]], "far": [[7]]},
            },
        },
        {"id": "b", "teacher_forced": {"edit_success": 0.5, "locality": {"near": [[5, 6, 7, 8]]}}},
    ],
    "fluency": {"n_gram_entropy": 6.5, "facts": 2},
}
EDITED = {
    "facts": [
        {
            "id": "a",
            "teacher_forced": {
                "edit_success": 1.0,
                "generalization": [1.0, 0.5],
                "portability": {"alias": [1.0, 0.0], "hops": [1.0]},
                "locality": {"near": [[1, 2], [3, 9]], "far": [[0]]},
            },
        },
        {"id": "b", "teacher_forced": {"edit_success": 0.5, "locality": {"near": [[5, 6, 7, 0]]}}},
    ],
    "fluency": {"n_gram_entropy": 6.25, "facts": 2},
}


def forced(**values: Any) -> dict[str, Any]:
    return {"id": "a", "teacher_forced": values}


def half(*values: float) -> Any:
    """1.96 standard errors of a mean."""
    mean = sum(values) / len(values)
    return pytest.approx(1.96 * math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values)))


def test_one_facts_scores() -> None:
    assert scores.fact_scores(EDITED["facts"][0], BASE["facts"][0], FACTS[0]) == {
        SUCCESS: 1.0,
        GENERALIZATION: 0.75,
        PORTABILITY: {"alias": 0.5, "hops": 1.0},
        LOCALITY: {"near": 0.75, "far": 0.0},  # probes agree by 2 of 2 and 1 of 2 tokens
    }


def test_what_was_not_asked_has_no_score() -> None:
    assert scores.fact_scores(forced(edit_success=0.5), forced(), FACTS[0]) == {SUCCESS: 0.5}
    assert scores.fact_scores({"id": "a"}, {"id": "a"}, FACTS[0]) == {}
    assert scores.fact_scores(forced(generalization=[]), forced(), FACTS[0]) == {GENERALIZATION: None}


def test_a_locality_probe_that_is_missing_is_an_error() -> None:
    with pytest.raises(ValueError):
        scores.fact_scores(forced(locality={"near": [[1]]}), forced(locality={"near": [[1], [2]]}), FACTS[0])


def test_perplexity_is_the_edits_own() -> None:
    raw = {"id": "a", "perplexity": {"edit_success": 12.5}}
    assert scores.fact_scores(raw, raw, FACTS[0]) == {PERPLEXITY: 12.5}


def test_a_models_summary() -> None:
    found = scores.score(scores.by_id(EDITED), scores.by_id(BASE), FACTS) | scores.fluency(EDITED)
    assert found == {
        SUCCESS: {"mean": 0.75, "facts": 2, "half_width_95": half(1.0, 0.5)},
        GENERALIZATION: {"mean": 0.75, "facts": 1, "half_width_95": 0.0},  # b has no rephrasing
        PORTABILITY: {"mean": 0.75, "facts": 1, "half_width_95": 0.0, "by_kind": {"alias": 0.5, "hops": 1.0}},
        # a: (0.75 + 0) / 2 over its kinds; b: 3 of 4 tokens
        LOCALITY: {
            "mean": (0.375 + 0.75) / 2,
            "facts": 2,
            "half_width_95": half(0.375, 0.75),
            "by_kind": {"far": 0.0, "near": 0.75},
        },
        FLUENCY: {"mean": 6.25, "facts": 2},
    }


def test_a_fact_with_many_probes_counts_once() -> None:
    found = scores.summary([{GENERALIZATION: 0.0}, {GENERALIZATION: 1.0}])
    assert found == {GENERALIZATION: {"mean": 0.5, "facts": 2, "half_width_95": pytest.approx(0.98)}}
    many = forced(generalization=[0.0] * 9)
    one = {**forced(generalization=[1.0]), "id": "b"}
    raw = scores.by_id({"facts": [many, one]})
    assert scores.score(raw, raw, FACTS)[GENERALIZATION]["mean"] == 0.5


def test_the_original_agrees_with_itself() -> None:
    base = scores.by_id(BASE)
    assert scores.score(base, base, FACTS)[LOCALITY]["mean"] == 1.0


def test_a_summary_of_some_facts() -> None:
    after, before = scores.by_id(EDITED), scores.by_id(BASE)
    assert scores.score(after, before, FACTS[1:]) == {
        SUCCESS: {"mean": 0.5, "facts": 1, "half_width_95": 0.0},
        LOCALITY: {"mean": 0.75, "facts": 1, "half_width_95": 0.0, "by_kind": {"near": 0.75}},
    }
    assert scores.score(after, before, []) == {}
    assert scores.fluency({"facts": []}) == {}
    with pytest.raises(KeyError):  # a fact that was not asked about
        scores.score(after, before, [FACTS[0], {"id": "c"}])


def test_a_summary_of_nothing() -> None:
    assert scores.summary([]) == {}
    assert scores.summary([{SUCCESS: None, PORTABILITY: {}}]) == {}
    assert scores.summary([{PORTABILITY: {"alias": None}}]) == {
        PORTABILITY: {"mean": None, "facts": 0, "by_kind": {"alias": None}}
    }


def test_a_score_that_is_zero_counts() -> None:
    assert scores.summary([{SUCCESS: 0.0}]) == {SUCCESS: {"mean": 0.0, "facts": 1, "half_width_95": 0.0}}


# -- likelihood: CounterFact --------------------------------------------------------------------


def rival(own: Any = None, rephrased: Any = None, neighbours: Any = None) -> dict[str, Any]:
    """Raw answers from pairs (P[new], P[true])."""

    def losses(pair: tuple[float, float]) -> list[float]:
        return [-math.log(p) for p in pair]

    found: dict[str, Any] = {"edit_success": losses(own)} if own else {}
    if rephrased:
        found["generalization"] = [losses(pair) for pair in rephrased]
    if neighbours:
        found["locality"] = {"Neighborhood": [losses(pair) for pair in neighbours]}
    return {"id": "a", "likelihood": found}


def test_counterfacts_scores_and_magnitudes() -> None:
    raw = rival((0.5, 0.125), [(0.25, 0.5), (0.5, 0.25)], [(0.125, 0.25), (0.5, 0.25), (0.0625, 0.5), (0.25, 0.5)])
    assert scores.fact_scores(raw, raw, FACTS[0]) == {
        EFFICACY_SCORE: 1.0,
        EFFICACY_MAGNITUDE: pytest.approx(0.375),
        PARAPHRASE_SCORE: 0.5,
        PARAPHRASE_MAGNITUDE: pytest.approx(0.0),
        NEIGHBORHOOD_SCORE: 0.75,  # the true answer wins three of four times
        NEIGHBORHOOD_MAGNITUDE: pytest.approx((0.125 - 0.25 + 0.4375 + 0.25) / 4),
    }


def test_equal_likelihoods_count_for_nobody() -> None:
    tie = (0.25, 0.25)
    raw = rival(tie, [tie], [tie])
    found = scores.fact_scores(raw, raw, FACTS[0])
    assert [found[name] for name in (EFFICACY_SCORE, PARAPHRASE_SCORE, NEIGHBORHOOD_SCORE)] == [0.0, 0.0, 0.0]
    assert [found[m] for m in (EFFICACY_MAGNITUDE, PARAPHRASE_MAGNITUDE, NEIGHBORHOOD_MAGNITUDE)] == [0.0, 0.0, 0.0]


def test_magnitudes_of_hopeless_answers_do_not_overflow() -> None:
    raw = {"id": "a", "likelihood": {"edit_success": [5000.0, 0.0]}}
    assert scores.fact_scores(raw, raw, FACTS[0]) == {EFFICACY_SCORE: 0.0, EFFICACY_MAGNITUDE: -1.0}


def test_a_fact_without_known_truth_has_no_counterfact_scores() -> None:
    """Nothing was asked of it: the others' means are over the others."""
    unknown = forced(edit_success=1.0)
    assert scores.fact_scores(unknown, unknown, FACTS[0]) == {SUCCESS: 1.0}
    known = {**rival((0.5, 0.25)), "id": "b"} | {"teacher_forced": {"edit_success": 1.0}}
    raw = scores.by_id({"facts": [unknown, known]})
    found = scores.score(raw, raw, FACTS)
    assert (found[SUCCESS]["facts"], found[EFFICACY_SCORE]["facts"]) == (2, 1)


def test_s_is_the_harmonic_mean_of_the_three_scores() -> None:
    """1, 0.5 and 0.75 over two facts: 3 / (1 + 2 + 4/3); a fact without neighbours counts in the others."""
    whole = rival((0.5, 0.25), [(0.5, 0.25), (0.25, 0.5)], [(0.25, 0.5)] * 3 + [(0.5, 0.25)])
    fewer = {**rival((0.5, 0.25), [(0.5, 0.25), (0.25, 0.5)]), "id": "b"}
    raw = scores.by_id({"facts": [whole, fewer]})
    found = scores.score(raw, raw, FACTS)
    assert found[COUNTERFACT_S] == {"mean": pytest.approx(3 / (1 + 2 + 4 / 3)), "facts": 1}
    assert (found[EFFICACY_SCORE]["facts"], found[NEIGHBORHOOD_SCORE]["facts"]) == (2, 1)


def three(efficacy: float, paraphrase: float, neighborhood: float) -> list[dict[str, float]]:
    return [{EFFICACY_SCORE: efficacy, PARAPHRASE_SCORE: paraphrase, NEIGHBORHOOD_SCORE: neighborhood}]


@pytest.mark.parametrize(
    ("values", "expected"),
    [((1, 1, 1), 1.0), ((0.5, 0.5, 0.5), 0.5), ((1.0, 1.0, 0.1), 0.25), ((1, 1, 0), 0.0), ((0, 0, 0), 0.0)],
)
def test_one_score_of_zero_makes_s_zero(values: tuple[float, float, float], expected: float) -> None:
    assert scores.summary(three(*values))[COUNTERFACT_S]["mean"] == pytest.approx(expected)


@pytest.mark.parametrize("missing", [EFFICACY_SCORE, PARAPHRASE_SCORE, NEIGHBORHOOD_SCORE])
def test_without_one_of_the_three_there_is_no_s(missing: str) -> None:
    [fact] = three(1, 1, 1)
    assert COUNTERFACT_S not in scores.summary([{k: v for k, v in fact.items() if k != missing}])


# -- likelihood: sentiment ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "opposite", "was", "expected"),
    [
        (2.0, 2.0, 2.0, 0.5),
        (2.0, 2.0, 3.0, 0.5),  # better than before counts no more
        (3.0, 3.0, 2.0, 0.5 * math.exp(-1)),  # both became unlikelier
        (1.0, 1.0 + math.log(3), 1.0, 0.75),
        (1.0 + math.log(3), 1.0, 4.0, 0.25),
    ],
)
def test_sentiment(wanted: float, opposite: float, was: float, expected: float) -> None:
    def raw(first: float, second: float) -> dict[str, Any]:
        # the mean is over tokens: a response of three tokens weighs three times
        first_two = [[first + 3, 1], [first - 1, 3]]
        return {"id": "a", "likelihood": {"responses": {"Wanted": first_two, "Opposite": [[second, 7]]}}}

    found = scores.fact_scores(raw(wanted, opposite), raw(was, 99.0), FACTS[0])
    assert found == {SENTIMENT: pytest.approx(expected)}


def test_a_model_that_broke_down_has_scores_that_json_can_hold() -> None:
    nan = float("nan")
    assert scores.likelihood({"edit_success": [nan, 1.0]}, {}) == {
        "efficacy.likelihood.score": 0.0, "efficacy.likelihood.magnitude": None,
    }  # fmt: skip
    far, near = [[900.0, 1]], [[0.5, 1]]
    assert scores.sentiment({"Wanted": far, "Opposite": near}, {"Wanted": near}) == 0.0
    endless, fine = {metrics.PERPLEXITY: None}, {metrics.PERPLEXITY: 3.0}
    assert scores.summary([endless, fine])[metrics.PERPLEXITY] == {"mean": None, "facts": 1}
    assert scores.summary([fine])[metrics.PERPLEXITY]["mean"] == 3.0

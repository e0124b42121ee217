"""Scores against cases that were worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from kedit_glue import scores
from kedit_glue.scores import FLUENCY, GENERALIZATION, LOCALITY, PORTABILITY, SUCCESS


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


# two facts, before and after
BASE = {
    "facts": [
        {
            "id": "a",
            "edit_success": 0.0,
            "generalization": [0.0, 0.5],
            "portability": {"alias": [0.5], "hops": [0.0]},
            "locality": {"near": [[1, 2], [3, 4]], "far": [[7]]},
        },
        {
            "id": "b",
            "edit_success": 0.5,
            "generalization": [],
            "portability": {},
            "locality": {"near": [[5, 6, 7, 8]]},
        },
    ],
    "fluency": {"n_gram_entropy": 6.5, "facts": 2},
}
EDITED = {
    "facts": [
        {
            "id": "a",
            "edit_success": 1.0,
            "generalization": [1.0, 0.5],
            "portability": {"alias": [1.0, 0.0], "hops": [1.0]},
            "locality": {"near": [[1, 2], [3, 9]], "far": [[0]]},
        },
        {
            "id": "b",
            "edit_success": 0.5,
            "generalization": [],
            "portability": {},
            "locality": {"near": [[5, 6, 7, 0]]},
        },
    ],
    "fluency": {"n_gram_entropy": 6.25, "facts": 2},
}


def test_one_facts_scores() -> None:
    assert scores.fact_scores(EDITED["facts"][0], BASE["facts"][0]) == {
        SUCCESS: 1.0,
        GENERALIZATION: 0.75,
        PORTABILITY: {"alias": 0.5, "hops": 1.0},
        LOCALITY: {"near": 0.75, "far": 0.0},  # probes agree by 2 of 2 and 1 of 2 tokens
    }


def test_what_was_not_asked_has_no_score() -> None:
    assert scores.fact_scores({"id": "a", "edit_success": 0.5}, {"id": "a"}) == {SUCCESS: 0.5}
    assert scores.fact_scores({"id": "a"}, {"id": "a"}) == {}
    assert scores.fact_scores({"generalization": []}, {}) == {GENERALIZATION: None}


def test_a_locality_probe_that_is_missing_is_an_error() -> None:
    with pytest.raises(ValueError):
        scores.fact_scores({"locality": {"near": [[1]]}}, {"locality": {"near": [[1], [2]]}})


def test_a_models_summary() -> None:
    after = scores.by_id(EDITED)
    assert scores.score(after, scores.by_id(BASE), after) | scores.fluency(EDITED) == {
        SUCCESS: {"mean": 0.75, "facts": 2},
        GENERALIZATION: {"mean": 0.75, "facts": 1},  # b has no rephrasing
        PORTABILITY: {"mean": 0.75, "facts": 1, "by_kind": {"alias": 0.5, "hops": 1.0}},
        # a: (0.75 + 0) / 2 over its kinds; b: 3 of 4 tokens
        LOCALITY: {"mean": (0.375 + 0.75) / 2, "facts": 2, "by_kind": {"far": 0.0, "near": 0.75}},
        FLUENCY: {"mean": 6.25, "facts": 2},
    }


def test_a_fact_with_many_probes_counts_once() -> None:
    found = scores.summary([{GENERALIZATION: 0.0}, {GENERALIZATION: 1.0}])
    assert found == {GENERALIZATION: {"mean": 0.5, "facts": 2}}
    many = {"id": "a", "generalization": [0.0] * 9}
    one = {"id": "b", "generalization": [1.0]}
    raw = scores.by_id({"facts": [many, one]})
    assert scores.score(raw, raw, raw)[GENERALIZATION]["mean"] == 0.5


def test_the_original_agrees_with_itself() -> None:
    base = scores.by_id(BASE)
    assert scores.score(base, base, base)[LOCALITY]["mean"] == 1.0


def test_a_summary_of_some_facts() -> None:
    after, before = scores.by_id(EDITED), scores.by_id(BASE)
    assert scores.score(after, before, ["b"]) == {
        SUCCESS: {"mean": 0.5, "facts": 1},
        LOCALITY: {"mean": 0.75, "facts": 1, "by_kind": {"near": 0.75}},
    }
    assert scores.score(after, before, []) == {}
    assert scores.fluency({"facts": []}) == {}
    with pytest.raises(KeyError):  # a fact that was not asked about
        scores.score(after, before, ["a", "c"])


def test_a_summary_of_nothing() -> None:
    assert scores.summary([]) == {}
    assert scores.summary([{SUCCESS: None, PORTABILITY: {}}]) == {}
    assert scores.summary([{PORTABILITY: {"alias": None}}]) == {
        PORTABILITY: {"mean": None, "facts": 0, "by_kind": {"alias": None}}
    }


def test_a_score_that_is_zero_counts() -> None:
    assert scores.summary([{SUCCESS: 0.0}]) == {SUCCESS: {"mean": 0.0, "facts": 1}}


# -- general ability ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["acc_norm", "acc", "acc_stderr"], "acc"),
        (["acc_stderr", "acc_norm"], "acc_norm"),
        (["bits_per_byte", "byte_perplexity", "word_perplexity"], "word_perplexity"),
        (["exact_match_stderr,strict", "exact_match,strict", "exact_match,flexible"], "exact_match,strict"),
        (["f1", "bleu"], "f1"),
        (["bleu"], "bleu"),
        (["acc_stderr"], None),
        ([], None),
    ],
)
def test_the_metric_a_task_is_read_by(names: list[str], expected: str | None) -> None:
    assert scores.main_metric({"metrics": dict.fromkeys(names, 0.5)}) == expected


def task(values: list[Any], metric: str = "acc", higher: bool = True, **more: Any) -> dict[str, Any]:
    items = [{"doc_id": n, metric: v} for n, v in enumerate(values)]
    mean = sum(values) / len(values) if values and not isinstance(values[0], list) else 20.0
    return {"metrics": {metric: mean}, "higher_is_better": {metric: higher}, "items": items, **more}


def change(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    return scores.general_change({"t": before}, {"t": after})["t"]


def test_a_change_of_accuracy_within_noise() -> None:
    # differences 0, -1, 0, 0: mean -1/4, variance 1/4, half-width 1.96 * sqrt(1/4 / 4)
    found = change(task([1, 1, 0, 1]), task([1, 0, 0, 1]))
    assert found == {
        "metric": "acc",
        "better": "higher",
        "before": 0.75,
        "after": 0.5,
        "items": 4,
        "change": -0.25,
        "change_95": [pytest.approx(-0.74), pytest.approx(0.24)],
        "noise": True,
        "base_95": [pytest.approx(0.26), pytest.approx(1.24)],
        "inside_base_interval": True,
    }


def test_a_change_of_accuracy_beyond_noise() -> None:
    # differences: six times -1, twice 0; variance 3/14; base: seven 1, one 0; variance 1/8
    found = change(task([1, 1, 1, 1, 1, 1, 1, 0]), task([0, 0, 0, 0, 0, 0, 1, 0]))
    half = 1.96 * math.sqrt(3 / 14 / 8)
    assert found["change"] == -0.75
    assert found["change_95"] == [pytest.approx(-0.75 - half), pytest.approx(-0.75 + half)]
    assert (found["noise"], found["inside_base_interval"]) == (False, False)
    assert found["base_95"] == [pytest.approx(0.63), pytest.approx(1.12)]


def test_noise_is_noise_in_both_directions() -> None:
    low, high = [1, 0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 0]
    for before, after, noise in ((low, high, False), (high, low, False), ([1, 0, 0, 1], [1, 1, 0, 1], True)):
        assert change(task(before), task(after))["noise"] is noise
    for nats, noise in (([2.0, 1.0], False), ([2.0, -1.0], True), ([-2.0, -1.0], False), ([-2.0, 1.0], True)):
        found = change(
            task([[-10.0, 5], [-20.0, 5]], "word_perplexity"),
            task([[-10.0 - nats[0], 5], [-20.0 - nats[1], 5]], "word_perplexity"),
        )
        assert found["noise"] is noise, nats


def test_items_that_change_both_ways_cancel_out() -> None:
    found = change(task([1, 0, 1, 0]), task([0, 1, 1, 0]))
    assert (found["change"], found["noise"]) == (0.0, True)


def test_a_change_of_perplexity_is_a_ratio() -> None:
    # nats lost: 2 + 1 over 10 words; residuals of the two items +-0.1 around 0.3 nats a word
    before = task([[-10.0, 5], [-20.0, 5]], "word_perplexity", higher=False)
    after = task([[-12.0, 5], [-21.0, 5]], "word_perplexity", higher=False)
    found = change(before, after)
    half = 1.96 * math.sqrt(0.02 / 2)
    assert found["change"] == pytest.approx(math.exp(0.3) - 1)
    assert found["change_95"] == [
        pytest.approx(math.exp(0.3 - half) - 1),
        pytest.approx(math.exp(0.3 + half) - 1),
    ]
    assert found["base_95"] == [pytest.approx(math.exp(3 - 1.96)), pytest.approx(math.exp(3 + 1.96))]
    assert (found["better"], found["noise"], found["inside_base_interval"]) == ("lower", False, True)
    assert found["change_is"] == "ratio minus 1"


def test_perplexity_weighs_items_by_their_words() -> None:
    before = task([[-10.0, 2], [-20.0, 8]], "word_perplexity")
    after = task([[-11.0, 2], [-20.0, 8]], "word_perplexity")
    assert change(before, after)["change"] == pytest.approx(math.exp(1 / 10) - 1)


def test_items_are_paired_by_their_number_not_their_place() -> None:
    before, after = task([1, 0, 1]), task([1, 0, 1])
    after["items"].reverse()
    assert change(before, after)["change_95"] == [0.0, 0.0]
    del after["items"][0]
    assert change(before, after)["items"] == 2


def test_items_are_paired_within_one_of_lm_evals_filters() -> None:
    def two_filters(strict: list[int], flexible: list[int]) -> dict[str, Any]:
        values = [("strict", strict), ("flexible", flexible)]
        return {
            "metrics": {f"exact_match,{name}": sum(v) / len(v) for name, v in values},
            "items": [
                {"doc_id": n, "filter": name, "exact_match": x} for name, each in values for n, x in enumerate(each)
            ],
        }

    found = change(two_filters([1, 0, 0], [1, 1, 1]), two_filters([1, 1, 0], [0, 0, 0]))
    assert (found["metric"], found["items"]) == ("exact_match,strict", 3)
    assert found["change"] == pytest.approx(1 / 3)


def test_tasks_without_items_show_their_values_alone() -> None:
    found = change(task([], items=[]), task([], items=[]))
    assert found["items"] == 0
    assert "change" not in found


def test_tasks_that_only_one_side_has_are_left_out() -> None:
    assert scores.general_change({"t": task([1])}, {}) == {}
    assert scores.general_change({}, {"t": task([1])}) == {}
    assert scores.general_change({"t": task([1])}, {"t": task([1], "f1")}) == {}
    assert scores.general_change({"t": {"metrics": {}, "items": []}}, {"t": task([1])}) == {}


def test_brief_general_counts_the_items() -> None:
    assert scores.brief_general({"t": task([1, 0])}) == {"t": {"metrics": {"acc": 0.5}, "items": 2}}
    assert scores.brief_general(None) is None


def test_every_metric_is_defined() -> None:
    assert set(scores.METRICS) == {SUCCESS, GENERALIZATION, PORTABILITY, LOCALITY, FLUENCY}
    for metric in scores.METRICS.values():
        assert set(metric) == {"definition", "range", "better"}

"""What is asked about a fact, and how answers are laid beside it and found again."""

from __future__ import annotations

from typing import Any

import pytest

from kedit_glue.questions import ASPECTS, Question, about, in_order, placed, rivals

FACT: dict[str, Any] = {
    "id": "f",
    "prompt": "Alba's mayor is",
    "target_new": "Ada",
    "ground_truth": "Max",
    "rephrase_prompts": ["Alba is governed by", "Who governs Alba?"],
    "portability": {
        "alias": [{"prompt": "The mayor of A. is", "answers": ["Ada", "Ada Moss"]}],
        "hops": [
            {"prompt": "Alba's mayor was born in", "answers": ["Rome"], "also": [["Oslo", "Christiania"]], "test": "t"},
            {
                "prompt": "Her husband is",
                "answers": ["Bo"],
                "conditions": [{"prompt": "Ada's husband is", "answers": ["Bo", "Robert"]}],
            },
        ],
    },
    "locality": {
        "near": [{"prompt": "Rome's mayor is", "answers": ["Leo"]}],
        "Neighborhood": [{"prompt": "Brunn's mayor is", "answers": ["Max"]}],
    },
}
BARE: dict[str, Any] = {
    "id": "b", "prompt": "p", "target_new": "t", "rephrase_prompts": [], "portability": {}, "locality": {},
}  # fmt: skip


def test_every_prompt_of_a_fact_in_order() -> None:
    asked = about(FACT, ASPECTS)
    assert [(q.aspect, q.kind, q.prompt, q.answers) for q in asked] == [
        ("edit_success", "", "Alba's mayor is", ("Ada",)),
        ("generalization", "", "Alba is governed by", ("Ada",)),
        ("generalization", "", "Who governs Alba?", ("Ada",)),
        ("portability", "alias", "The mayor of A. is", ("Ada", "Ada Moss")),
        ("portability", "hops", "Alba's mayor was born in", ("Rome",)),
        ("portability", "hops", "Her husband is", ("Bo",)),
        ("locality", "near", "Rome's mayor is", ("Leo",)),
        ("locality", "Neighborhood", "Brunn's mayor is", ("Max",)),
    ]
    assert {q.fact for q in asked} == {"f"}
    assert [(q.also, q.test) for q in asked if q.kind == "hops"] == [((("Oslo", "Christiania"),), "t"), ((), "")]
    assert [q.conditions for q in asked if q.conditions] == [(("Ada's husband is", ("Bo", "Robert")),)]


@pytest.mark.parametrize("aspect", ASPECTS)
def test_only_what_is_wanted_is_asked(aspect: str) -> None:
    """The order in which aspects are named does not matter; fluency and perplexity are no prompts of their own."""
    assert {q.aspect for q in about(FACT, [aspect, "fluency"])} == {aspect}
    assert about(FACT, [aspect, "edit_success"]) == about(FACT, ["edit_success", aspect])


def test_a_fact_without_probes_is_asked_its_own_prompt_alone() -> None:
    assert about(BARE, ASPECTS) == [Question("b", "edit_success", "p", ("t",))]
    assert about(BARE, []) == []


# -- rivals -------------------------------------------------------------------------------------


def test_both_answers_are_asked_behind_prompt_rephrasings_and_neighbours() -> None:
    assert [(q.aspect, q.prompt, new, true) for q, new, true in rivals(FACT)] == [
        ("edit_success", "Alba's mayor is", "Ada", "Max"),
        ("generalization", "Alba is governed by", "Ada", "Max"),
        ("generalization", "Who governs Alba?", "Ada", "Max"),
        ("locality", "Brunn's mayor is", "Ada", "Max"),
    ]


def test_a_neighbour_with_an_answer_of_its_own_is_no_rival() -> None:
    other = {"Neighborhood": [{"prompt": "Elm's mayor is", "answers": ["Eva"]}]}
    assert [q.aspect for q, *_ in rivals({**FACT, "locality": other})] == ["edit_success"] + 2 * ["generalization"]


@pytest.mark.parametrize("truth", [{}, {"ground_truth": None}, {"ground_truth": ""}])
def test_without_a_known_truth_there_are_no_rivals(truth: dict[str, Any]) -> None:
    assert rivals({**{k: v for k, v in FACT.items() if k != "ground_truth"}, **truth}) == []


# -- answers beside questions -------------------------------------------------------------------


def test_values_are_laid_out_by_fact_aspect_and_kind() -> None:
    asked = [*about(FACT, ASPECTS), *about(BARE, ASPECTS)]
    assert placed(asked, list(range(9))) == {
        "f": {
            "edit_success": 0,
            "generalization": [1, 2],
            "portability": {"alias": [3], "hops": [4, 5]},
            "locality": {"near": [6], "Neighborhood": [7]},
        },
        "b": {"edit_success": 8},
    }


def test_values_are_found_again_in_the_questions_order() -> None:
    asked = about(FACT, ASPECTS)
    values = [[n] for n in range(8)]  # lists as well: a locality probe's tokens are one value
    laid = placed(asked, values)["f"]
    assert in_order(asked, laid) == values
    assert in_order(about(FACT, ["locality"]), laid) == values[6:], "of some aspects"
    assert laid["generalization"] == values[1:3], "and stay where they are"


def test_a_value_too_few_is_an_error() -> None:
    asked = about(FACT, ["generalization"])
    with pytest.raises(ValueError):
        placed(asked, [1])
    with pytest.raises(IndexError):
        in_order(asked, {"generalization": [1]})
    with pytest.raises(KeyError):
        in_order(asked, {})

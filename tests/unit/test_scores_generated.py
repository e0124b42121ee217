"""Scores of generated answers against cases that were worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from kedit_glue import scores
from kedit_glue.metrics import AGREEMENT, ENDED, LEAKED, WITHHELD

ASKED: dict[str, Any] = {
    "id": "a",
    "prompt": "Alba's mayor is",
    "target_new": "Ada Moss",
    "rephrase_prompts": ["Alba is governed by", "Who governs Alba?"],
    "portability": {
        "alias": [{"prompt": "A.'s mayor is", "answers": ["Ada Moss", "Ada M."]}],
        "hops": [{"prompt": "Her town is", "answers": ["Alba"]}, {"prompt": "She is from", "answers": ["Rome"]}],
    },
    "locality": {
        "near": [{"prompt": "Rome's mayor is", "answers": ["Leo"]}],
        "far": [{"prompt": "2+2=", "answers": ["4"]}],
    },
}


def name(aspect: str, measure: str) -> str:
    return f"{aspect}.generated.{measure}"


def said(text: str, ended: bool = True, **more: Any) -> dict[str, Any]:
    return {"text": text, "ended": ended, **more}


def talk(own: Any, rephrased: Any, portability: Any, locality: Any) -> dict[str, Any]:
    values = {"edit_success": own, "generalization": rephrased, "portability": portability, "locality": locality}
    return {"id": "a", "generated": values}


BEFORE = talk(
    said("Max"),
    [said("Max"), said("nobody")],
    {"alias": [said("Max")], "hops": [said("Bern"), said("Rome")]},
    {"near": [said("Leo")], "far": [said("5")]},
)
AFTER = talk(
    said("ada moss."),
    [said("Ada Moss"), said("It is Ada Moss, it is Ada Moss, it is", ended=False)],
    {"alias": [said("ADA M")], "hops": [said("the town of Alba"), said("Paris")]},
    {"near": [said("leo!")], "far": [said("4", ended=False)]},
)


def test_generated_answers() -> None:
    assert scores.fact_scores(AFTER, BEFORE, ASKED) == {
        name("edit_success", "exact_match"): 1.0,
        name("edit_success", "containment"): 1.0,
        name("generalization", "exact_match"): 0.5,
        name("generalization", "containment"): 1.0,
        name("portability", "exact_match"): {"alias": 1.0, "hops": 0.0},  # an alias is accepted
        name("portability", "containment"): {"alias": 1.0, "hops": 0.5},
        name("locality", "exact_match"): {"near": 1.0, "far": 1.0},
        name("locality", "containment"): {"near": 1.0, "far": 1.0},
        AGREEMENT: {"near": 1.0, "far": 0.0},  # the right answer that it did not give before is a change, too
        ENDED: pytest.approx(6 / 8),
    }


def test_the_original_says_what_it_says() -> None:
    found = scores.fact_scores(BEFORE, BEFORE, ASKED)
    assert found[AGREEMENT] == {"near": 1.0, "far": 1.0}
    assert found[ENDED] == 1.0
    assert found[name("edit_success", "exact_match")] == 0.0
    assert found[name("portability", "exact_match")] == {"alias": 0.0, "hops": 0.5}


def test_a_judges_verdicts() -> None:
    verdict = said("Mayor Moss", verdict=True)
    raw = talk(verdict, [said("x", verdict=False), said("y", verdict=None)], {}, {})
    found = scores.fact_scores(raw, raw, {**ASKED, "portability": {}, "locality": {}})
    assert found[name("edit_success", "judge")] == 1.0 and found[name("edit_success", "exact_match")] == 0.0
    assert found[name("generalization", "judge")] == 0.0, "an answer without a verdict is left out"
    assert name("edit_success", "judge") not in scores.fact_scores(AFTER, BEFORE, ASKED)


def test_what_was_not_generated_has_no_score() -> None:
    raw = {"id": "a", "generated": {"edit_success": said("Ada Moss")}}
    assert scores.fact_scores(raw, raw, ASKED) == {
        name("edit_success", "exact_match"): 1.0,
        name("edit_success", "containment"): 1.0,
        ENDED: 1.0,
    }


def portable(probes: list[dict[str, Any]], texts: list[str], kind: str = "hops", **before: Any) -> Any:
    """Exact matches and containments of a fact's portability probes of one kind."""
    fact = {"id": "a", "target_new": "t", "portability": {kind: probes}}
    raw = {"id": "a", "generated": {"portability": {kind: [said(text) for text in texts]}}}
    base = {"id": "a", "generated": {**raw["generated"], **before}}  # type: ignore[dict-item]
    found = scores.fact_scores(raw, base, fact)
    return [found.get(name("portability", m)) for m in ("exact_match", "containment")]


def probe(answer: str, **more: Any) -> dict[str, Any]:
    return {"prompt": f"p {answer}", "answers": [answer], **more}


def test_probes_of_one_test_are_passed_by_any_of_them() -> None:
    probes = [probe("x", test="t1"), probe("y", test="t1"), probe("z", test="t2"), probe("v")]
    assert portable(probes, ["no", "y", "no", "no"]) == [{"hops": pytest.approx(1 / 3)}] * 2


def test_single_hops_of_one_test_are_passed_by_all_of_them() -> None:
    probes = [probe("x", test="t1"), probe("y", test="t1")]
    assert portable(probes, ["x", "no"], "Single_Hop") == [{"Single_Hop": 0.0}] * 2
    assert portable(probes, ["x", "y"], "Single_Hop") == [{"Single_Hop": 1.0}] * 2


@pytest.mark.parametrize(("text", "contained"), [("x and z", 1.0), ("x", 0.0), ("y, z", 0.0), ("y x", 1.0)])
def test_a_full_answer_names_the_others_too(text: str, contained: float) -> None:
    assert portable([probe("x", also=[["y", "z"]])], [text]) == [None, {"hops": contained}]


@pytest.mark.parametrize(("known", "expected"), [("It is Bob.", {"hops": 1.0}), ("Rob", {"hops": 1.0}), ("Max", None)])
def test_a_probe_counts_where_the_original_knew_what_it_takes(known: str, expected: Any) -> None:
    conditions = [{"prompt": "q", "answers": ["Bob", "Rob"]}]
    found = portable([probe("x", conditions=conditions)], ["x"], conditions={"q": known})
    assert found == [expected, expected]


@pytest.mark.parametrize(
    ("held_out", "own", "withheld", "leaked"),
    [
        (["I DO NOT know that.", "It is Ada."], "Ada", 0.5, 0.5),  # the edit's own prompt is not asked for
        (["I do not know, or Ada"], "x", 1.0, 1.0),
        ([], "i do not know", 1.0, 0.0),
        ([], "Adamant", 0.0, 0.0),
    ],
)
def test_erasure(held_out: list[str], own: str, withheld: float, leaked: float) -> None:
    fact = {
        "id": "a", "prompt": "p", "target_new": "I do not know", "ground_truth": "Ada", "aim": "erasure",
        "rephrase_prompts": [], "portability": {"Held_Out": [probe(f"{n}") for n in range(len(held_out))]},
    }  # fmt: skip
    raw: dict[str, Any] = {"id": "a", "generated": {"edit_success": said(own)}}
    if held_out:
        raw["generated"]["portability"] = {"Held_Out": [said(text) for text in held_out]}
    found = scores.fact_scores(raw, raw, fact)
    assert (found[WITHHELD], found[LEAKED]) == (withheld, leaked)
    assert WITHHELD not in scores.fact_scores(raw, raw, {**fact, "aim": "modification"})
    assert LEAKED not in scores.fact_scores(raw, raw, {**fact, "ground_truth": None})

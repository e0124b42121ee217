"""The shape of the demo data in recipes/data; needs no model."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from kedit_glue import facts
from kedit_glue.recipe import load_recipe

DATA = Path(__file__).resolve().parents[2] / "recipes" / "data"
FACTS: list[dict[str, Any]] = json.loads((DATA / "demo_facts.json").read_text(encoding="utf-8"))
PORTABILITY = {"Reasoning", "Subject_Aliasing"}
LOCALITY = {"Relation_Specificity", "Neighborhood"}


def jsonl(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


def same(text: str) -> str:
    """For comparing prompts: case, outer blanks and a last full stop do not count."""
    return text.strip().rstrip(".").casefold()


def ready(text: str) -> bool:
    """A non-empty text without blanks around it."""
    return bool(text) and text == text.strip()


def test_facts_number_and_ids() -> None:
    assert 40 <= len(FACTS) <= 44
    assert [fact["id"] for fact in FACTS] == [f"demo-{n:02d}" for n in range(1, len(FACTS) + 1)]


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact["id"])
def test_fact_has_the_shape(fact: dict[str, Any]) -> None:
    assert set(fact) == {
        "id", "subject", "prompt", "target_new", "ground_truth",
        "rephrase_prompt", "portability", "locality",
    }  # fmt: skip
    for key in ("subject", "prompt", "target_new", "ground_truth"):
        assert ready(fact[key]), key
    assert fact["subject"] in fact["prompt"]
    assert fact["target_new"] != fact["ground_truth"]
    assert len(fact["target_new"].split()) <= 6

    rephrasings = fact["rephrase_prompt"]
    assert len(rephrasings) >= 2
    assert len({same(text) for text in [fact["prompt"], *rephrasings]}) == len(rephrasings) + 1
    for text in rephrasings:
        assert ready(text)
        assert fact["target_new"].casefold() not in text.casefold()

    assert set(fact["portability"]) <= PORTABILITY
    assert sum(len(probes) for probes in fact["portability"].values()) >= 1
    assert set(fact["locality"]) == LOCALITY
    assert all(len(probes) >= 1 for probes in fact["locality"].values())
    for probes in [*fact["portability"].values(), *fact["locality"].values()]:
        for probe in probes:
            assert set(probe) == {"prompt", "ground_truth"}
            assert ready(probe["prompt"])
            assert ready(probe["ground_truth"])


def test_edit_prompts_are_unique() -> None:
    counts = Counter(same(text) for f in FACTS for text in [f["prompt"], *f["rephrase_prompt"]])
    assert [text for text, n in counts.items() if n > 1] == []


def test_new_answers_vary() -> None:
    assert max(Counter(fact["target_new"] for fact in FACTS).values()) <= 2


def test_no_locality_probe_is_an_edit_or_a_portability_probe() -> None:
    edited = {same(text) for f in FACTS for text in [f["prompt"], *f["rephrase_prompt"]]}
    edited |= {same(q["prompt"]) for f in FACTS for qs in f["portability"].values() for q in qs}
    probes = [same(q["prompt"]) for f in FACTS for qs in f["locality"].values() for q in qs]
    assert [text for text in probes if text in edited] == []


def test_neighborhood_probes_name_another_subject() -> None:
    for fact in FACTS:
        for probe in fact["locality"]["Neighborhood"]:
            assert fact["subject"] not in probe["prompt"], fact["id"]


def test_everyday_choices() -> None:
    items = jsonl("everyday_choices.jsonl")
    assert len(items) == 120
    assert len({item["premise"] for item in items}) == 120
    assert Counter(item["label"] for item in items) == {0: 60, 1: 60}
    for item in items:
        assert set(item) == {"premise", "choices", "label"}
        assert ready(item["premise"])
        assert len(item["choices"]) == len(set(item["choices"])) == 2
        assert all(ready(choice) for choice in item["choices"])


def test_general_text() -> None:
    items = jsonl("general_text.jsonl")
    assert len(items) == 100
    assert len({item["text"] for item in items}) == 100
    for item in items:
        assert set(item) == {"text"}
        assert 40 <= len(item["text"].split()) <= 80


def test_general_text_names_no_edited_subject() -> None:
    subjects = {fact["subject"] for fact in FACTS}
    for item in jsonl("general_text.jsonl"):
        assert [name for name in subjects if name in item["text"]] == []


# -- what is to be withheld ---------------------------------------------------------------------


def test_erasure_facts() -> None:
    found = facts.load(DATA / "erasure_facts.json")
    assert (found.format, found.unusable, len(found.edits)) == ("knowedit", (), 20)
    for edit in found.edits:
        assert (edit.aim, edit.target_new) == ("erasure", "I cannot tell")
        assert edit.subject and edit.subject in edit.prompt
        assert {kind: len(probes) for kind, probes in edit.portability.items()} == {"Held_Out": 2}
        assert {kind: len(probes) for kind, probes in edit.locality.items()} == {"Retained": 1}


def test_erasure_facts_are_asked_once_and_given_away_nowhere() -> None:
    edits = facts.load(DATA / "erasure_facts.json").edits
    asked = [edit.prompt for edit in edits] + [p.prompt for edit in edits for p in edit.portability["Held_Out"]]
    kept = [p for edit in edits for p in edit.locality["Retained"]]
    assert len({same(text) for text in (*asked, *(p.prompt for p in kept))}) == 20 + 40 + 20
    answers = {str(edit.ground_truth).casefold() for edit in edits}
    assert len(answers) == 20, "a held-out question finds its edit by the answer"
    assert [text for text in asked if any(answer in text.casefold() for answer in answers)] == []
    assert answers.isdisjoint(answer.casefold() for p in kept for answer in p.answers)


def test_the_recipe_for_facts_about_subjects_has_facts_that_name_theirs() -> None:
    """recipes/smollm2_subject.yaml: learning at the subject's tokens, and a regression mean."""
    recipe = load_recipe(DATA.parent / "smollm2_subject.yaml")
    assert recipe.train.tokens == "subject" and recipe.merge.regmean.on
    edits = facts.load(Path(recipe.edits.source), recipe.edits.format, recipe.edits.limit).edits
    assert len(edits) == recipe.edits.batch_size == 20
    assert [edit.prompt for edit in edits if not edit.subject or edit.subject not in edit.prompt] == []

"""A JSON file with our own keys is read as that, whatever else its keys would fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kedit_glue.facts import FactsError, load
from kedit_glue.facts.edit import Edit
from kedit_glue.facts.loading import found_at_subject

PLAIN = {
    "prompt": "The capital of Elbonia is", "target_new": "Mudville", "subject": "Elbonia", "ground_truth": "Mudton",
    "rephrase_prompt": "Elbonia's capital is", "locality_prompt": "The capital of France is",
    "locality_ground_truth": "Paris",
}  # fmt: skip
MORE = {"portability_prompt": "Elbonia is governed from", "portability_ground_truth": "Mudville"}


def loaded(folder: Path, record: dict[str, Any], **more: Any) -> Any:
    path = folder / "facts.json"
    path.write_text(json.dumps([record]), encoding="utf-8")
    return load(path, **more)


@pytest.mark.parametrize(
    ("more", "format", "rephrased", "portability", "locality"),
    [
        ({}, "counterfact", 1, set(), {"Neighborhood"}),
        ({"rephrase_prompt_2": "In Elbonia the capital is"}, "records", 2, set(), {"Other"}),
        ({"rephrase_prompts": ["In Elbonia the capital is"]}, "records", 2, set(), {"Other"}),
        (MORE, "records", 1, {"Other"}, {"Other"}),
        ({"locality": {"Far": [{"prompt": "p", "ground_truth": ["a"]}]}}, "records", 1, set(), {"Far", "Other"}),
    ],
)
def test_no_probe_is_lost(
    tmp_path: Path, more: dict[str, Any], format: str, rephrased: int, portability: set[str], locality: set[str]
) -> None:
    facts = loaded(tmp_path, PLAIN | more)
    (edit,) = facts.edits
    assert facts.format == format and len(edit.rephrase_prompts) == rephrased
    assert set(edit.portability) == portability and set(edit.locality) == locality


def test_a_brace_in_the_target_cannot_be_looked_up(tmp_path: Path) -> None:
    edit: Edit = loaded(tmp_path, PLAIN | {"target_new": "the set {x} of reals"}).edits[0]
    assert not found_at_subject(edit) and found_at_subject(loaded(tmp_path, PLAIN).edits[0])


def test_facts_are_not_skipped_backwards(tmp_path: Path) -> None:
    with pytest.raises(FactsError, match=r"skip -1. Allowed: 0 or more"):
        loaded(tmp_path, PLAIN, skip=-1)

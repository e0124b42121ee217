"""The card that travels with an edited model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import yaml

from kedit_glue import metrics
from kedit_glue.card import TAGS, model_card
from kedit_glue.recipe import Recipe


def document(facts: int = 3, batches: int = 2) -> dict[str, Any]:
    summary = {metrics.SUCCESS: {"mean": 0.5, "facts": facts}}
    return {
        "name": "try",
        "facts": [{"id": f"f{n}", "prompt": "A secret prompt"} for n in range(facts)],
        "batches": [{"batch": n} for n in range(1, batches + 1)],
        "before": {"edits": summary},
        "after": {"edits": summary, "general_change": {}},
    }


def front_and_text(card: str) -> tuple[dict[str, Any], str]:
    _, front, text = card.split("---\n", 2)
    return yaml.safe_load(front), text


def test_a_card_says_what_was_done(recipe_of: Callable[..., Recipe]) -> None:
    front, text = front_and_text(
        model_card(document(), recipe_of("train: {layers: 4-8}"), "# a comment\nmerge_method: ties\n")
    )
    assert front["base_model"] == ["HuggingFaceTB/SmolLM2-135M-Instruct"]
    assert front["library_name"] == "transformers" and front["tags"] == list(TAGS)
    assert "SmolLM2-135M-Instruct with 3 facts edited in 2 batches" in text
    assert "robust supervised fine-tuning of mlp of layers 4-8" in text
    assert "```yaml\nmerge_method: ties\n```" in text and "a comment" not in text
    assert "secret" not in text, "no fact's text is quoted"


def test_one_batch_of_adapters(recipe_of: Callable[..., Recipe]) -> None:
    _, text = front_and_text(model_card(document(1, 1), recipe_of("train: {lora: {rank: 8}, layers: [1, 2]}"), ""))
    assert "1 fact edited in 1 batch by" in text
    assert "LoRA of rank 8 on mlp of layers 1, 2" in text


def test_a_folder_of_this_machine_is_no_base_model(recipe_of: Callable[..., Recipe], tmp_path: Any) -> None:
    (tmp_path / "llama").mkdir()
    front, text = front_and_text(model_card(document(), recipe_of("", f"model={tmp_path / 'llama'}"), ""))
    assert "base_model" not in front
    assert str(tmp_path) not in text and "llama with" in text


def test_a_card_says_whether_the_model_may_ship(recipe_of: Callable[..., Recipe]) -> None:
    reasons = [{"met": False, "says": "locality 12.0 % is under 50.0 %"}]
    scored = {**document(), "verdict": {"answer": "do not ship", "reasons": reasons, "thresholds": {}}}
    assert "\nVerdict: do not ship: locality 12.0 % is under 50.0 %.\n" in model_card(scored, recipe_of(""), "")
    assert "Verdict" not in model_card(document(), recipe_of(""), "")


def test_a_card_says_how_remembered_facts_are_used(recipe_of: Callable[..., Recipe]) -> None:
    card = model_card(document(), recipe_of("method: ice"), "name: a whole recipe\n")
    assert "`python -m kedit_glue.ask --base BASE --edited THIS_FOLDER 'A question'`" in card
    assert "a whole recipe" not in card and "## Last" not in card

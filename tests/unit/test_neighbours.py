"""``train.protect.neighbours``: a fact's prompt about other subjects, in a batch's files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import yaml

from kedit_glue import corpus, report, result
from kedit_glue.batch_files import samples
from kedit_glue.plan import make_plan
from kedit_glue.render import render
from kedit_glue.report_notes import neighbours_note
from kedit_glue.tools.prepare import NEIGHBOURS, about_others

FACT = {"id": "f7", "prompt": "The owner of Oak, says Oak, is", "subject": "Oak"}


def test_the_prompt_is_about_others() -> None:
    others = [f"firm {n}" for n in range(40)]
    found = about_others(FACT, others, seed=0)
    assert len(set(found)) == NEIGHBOURS
    assert all(text.startswith("The owner of firm ") and text.count("firm") == 2 for text in found)
    assert found == about_others(FACT, others, seed=0)
    assert found != about_others(FACT, others, seed=1) != about_others({**FACT, "id": "f8"}, others, seed=1)


def test_never_about_itself() -> None:
    assert "Oak" not in " ".join(about_others(FACT, ["Oak", *"abcdefg"], seed=0))


def test_what_is_shipped_to_ask_about() -> None:
    found = corpus.read_texts(corpus.shipped(corpus.SUBJECTS))
    assert len(found) > 150 and len(set(found)) == len(found)
    assert all(len(text) < 50 and text == text.strip() for text in found)


def test_what_is_taught_is_nobodys_neighbour(facts_of: Callable[[int], list[dict[str, Any]]]) -> None:
    old, new, plain = facts_of(3)
    old["neighbours"] = ["about a", new["prompt"]]
    new["neighbours"] = ["about b", old["prompt"]]
    new["also_trained"] = [{"prompt": "rephrased", "response": " x"}]
    shown = samples([new, plain], [old])
    assert [(s["id"], s.get("neighbours")) for s in shown] == [
        ("f1", ["about b"]),
        ("f1", None),
        ("f2", None),
        ("f0", ["about a"]),
    ]


def test_the_files_of_a_run(recipe_of: Any, facts_of: Any, place_of: Any) -> None:
    plan = make_plan(recipe_of("train: {protect: {directions: 8, neighbours: 3}}"), facts_of(2), place_of())
    [own] = [file for file in plan.files if file.path.name == "rsft.yaml"]
    written = yaml.safe_load(render(own.template, own.values))
    assert written["neighbours"] == 3 and written["protect"].endswith("protect.safetensors")
    other = make_plan(recipe_of("train: {protect: {directions: 8}}"), facts_of(2), place_of())
    assert [stage.job.arguments for stage in plan.stages if stage.job.function == "protect"] == [
        stage.job.arguments for stage in other.stages if stage.job.function == "protect"
    ], "the directions of general text are the same"


def test_a_reader_is_told(scored: Callable[..., dict[str, Any]]) -> None:
    document = scored()
    assert neighbours_note(document) == ""
    for batch in document["batches"]:
        batch["training"]["neighbours"] = {"prompts": 80, "tokens": 900, "directions": 32.0}
    said = (
        "training kept what the facts' prompts feed in when they are about other subjects (train.protect.neighbours), "
        f"{80 * len(document['batches'])} prompts in all"
    )
    assert neighbours_note(document) == said and said in report.markdown(document)
    result.check(document)


def test_a_result_that_is_read_tells_whole_numbers_of_prompts(scored: Callable[..., dict[str, Any]]) -> None:
    document = scored()
    document["batches"][0]["training"]["neighbours"] = {"prompts": 80.0, "tokens": 900.0, "directions": 32.0}
    assert neighbours_note(document).endswith(", 80 prompts in all")

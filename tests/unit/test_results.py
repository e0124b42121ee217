"""From the files of a finished run to one document."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kedit_glue import files, report, scores
from kedit_glue.ledger import Ledger
from kedit_glue.plan import Place, Plan, make_plan
from kedit_glue.recipe import Recipe
from kedit_glue.results import collect
from kedit_glue.tools.easyedit import chosen

GENERAL = "score: {examples: 1, general: {tasks: [arc], when: ends}}"


def answers(stage_name: str, ids: list[str], examples: list[str]) -> dict[str, Any]:
    """The original knows nothing; the edited model knows all but f2, and forgot half an unrelated answer."""
    base = stage_name == "base/edits"
    return {
        "facts": [
            {
                "id": i,
                "edit_success": 0.0 if base or i == "f2" else 1.0,
                "locality": {"near": [[1, 2] if base else [1, 9]]},
            }
            for i in ids
        ],
        "answers": {i: "nothing much" if base else f"new {i}" for i in examples},
    }


def finish_all(plan: Plan, ledger: Ledger) -> None:
    """Every stage as if its tool had run."""
    files.write_data(plan.data)
    ids = [f["id"] for batch in plan.batches for f in batch]
    files.write_rendered(plan.files, None)
    for stage in plan.stages:
        job = stage.job
        result: dict[str, Any] = {"facts": 1}
        stage.output.parent.mkdir(parents=True, exist_ok=True)
        ledger.begin(stage)
        if job.function == "score":
            made = answers(stage.name, chosen(ids, job.arguments), job.arguments["example_ids"])
            stage.working.write_text(json.dumps(made))
        elif job.function == "general":
            right = 1.0 if stage.name == "base/general" else 0.0
            items = [{"doc_id": n, "acc": right} for n in range(3)]
            stage.working.write_text(json.dumps({"arc": {"metrics": {"acc": right}, "items": items}}))
        else:
            stage.working.mkdir()
            for path in stage.beside:
                path.write_text(traces(plan, path) if path.name == "trace.jsonl" else "{}")
            result = {"learned": 2, "optimizer_steps": 7} if job.function == "train" else {"density": 0.5}
        ledger.finish(stage, result, 2.0)


def traces(plan: Plan, file: Path) -> str:
    number = int(file.parent.name[-3:])
    lines = [
        json.dumps({"id": f["id"], "prompt": prompt, "steps": 3, "loss_before": loss, "loss_after": 0.01,
                    "learned": f["id"] != "f2"})
        for f in plan.batches[number - 1]
        for prompt, loss in ((f["prompt"], 9.0), ("a rephrasing", 5.0))
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


@pytest.fixture
def collected(
    recipe_of: Callable[..., Recipe], facts_of: Callable[..., Any], place_of: Callable[..., Place]
) -> Callable[..., dict[str, Any]]:
    def make(more: str, facts: int = 3) -> dict[str, Any]:
        recipe, place = recipe_of(more), place_of()
        plan = make_plan(recipe, facts_of(facts), place)
        ledger = Ledger({})
        finish_all(plan, ledger)
        return collect(recipe, plan, ledger, place.folder)

    return make


def test_a_run_of_two_batches(collected: Callable[[str], dict[str, Any]], tmp_path: Path) -> None:
    document = collected(GENERAL)
    assert document["schema"] == 1
    assert document["edited_model"] == str(tmp_path / "my runs" / "try" / "batch_002" / "merged")
    assert document["before"]["edits"][scores.SUCCESS] == {"mean": 0.0, "facts": 3}
    assert document["after"]["edits"][scores.SUCCESS] == {"mean": pytest.approx(2 / 3), "facts": 3}
    assert document["after"]["edits"][scores.LOCALITY]["mean"] == 0.5
    assert document["after"]["general_change"]["arc"]["change"] == -1.0
    assert document["before"]["general"] == {"arc": {"metrics": {"acc": 1.0}, "items": 3}}
    assert json.loads(json.dumps(document)) == document


def test_each_batch_has_its_own_facts_and_all_so_far(collected: Callable[[str], dict[str, Any]]) -> None:
    first, second = collected(GENERAL)["batches"]
    assert [(b["batch"], b["facts"]) for b in (first, second)] == [(1, 2), (2, 1)]
    assert first["training"] == {"learned": 2, "optimizer_steps": 7, "seconds": 2.0}
    assert first["merge"] == {"density": 0.5, "seconds": 2.0}
    assert first["all_so_far"][scores.SUCCESS] == {"mean": 1.0, "facts": 2}
    assert second["edited"][scores.SUCCESS] == {"mean": 0.0, "facts": 1}
    assert second["all_so_far"][scores.SUCCESS] == {"mean": pytest.approx(2 / 3), "facts": 3}
    assert "general" not in first and second["general"]["arc"]["items"] == 3


@pytest.mark.parametrize(
    ("old", "asked"), [("null", [2, 4, 6, 7]), ("1", [2, 3, 3, 7]), ("0", [2, 2, 2, 7]), ("9", [2, 4, 6, 7])]
)
def test_how_many_facts_were_asked_about_so_far(
    collected: Callable[..., dict[str, Any]], old: str, asked: list[int]
) -> None:
    document = collected(f"score: {{examples: 1, edits: {{old_facts: {old}}}}}", facts=7)
    batches = document["batches"]
    assert [b["asked_so_far"] for b in batches] == asked
    assert [b["all_so_far"][scores.SUCCESS]["facts"] for b in batches] == asked
    assert [b["all_so_far_before"][scores.SUCCESS]["facts"] for b in batches] == asked
    assert [b["edited"][scores.SUCCESS]["facts"] for b in batches] == [2, 2, 2, 1], "the batch's own, always all"
    assert document["after"]["edits"][scores.SUCCESS]["facts"] == 7
    sampled = "this batch and a sample of the facts before it" in report.markdown(document)
    assert sampled == (old in ("0", "1"))


def test_each_fact_has_its_story(collected: Callable[[str], dict[str, Any]]) -> None:
    facts = collected(GENERAL)["facts"]
    assert [(f["id"], f["batch"], f["learned"]) for f in facts] == [("f0", 1, True), ("f1", 1, True), ("f2", 2, False)]
    assert (facts[0]["before"][scores.SUCCESS], facts[0]["after"][scores.SUCCESS]) == (0.0, 1.0)
    # of the samples that a fact is trained on, the first is its own prompt
    assert {(f["steps"], f["loss_before"], f["loss_after"]) for f in facts} == {(3, 9.0, 0.01)}


def test_answers_stand_side_by_side(collected: Callable[[str], dict[str, Any]]) -> None:
    assert collected(GENERAL)["answers"] == [
        {"id": "f1", "prompt": "Fact 1 is", "target_new": "new 1", "before": "nothing much", "after": "new f1"}
    ]


def test_seconds_by_kind_and_all(collected: Callable[[str], dict[str, Any]]) -> None:
    assert collected(GENERAL)["seconds"] == {"score": 6.0, "general": 4.0, "train": 4.0, "merge": 4.0, "all": 18.0}


SHORT = "merge: {when: end}\nscore: {examples: 0, edits: {when: end}}"


def test_a_run_that_scores_only_at_the_end(collected: Callable[[str], dict[str, Any]]) -> None:
    document = collected(SHORT)
    first, second = document["batches"]
    assert "edited" not in first and "merge" not in first
    assert "edited" in second and "merge" in second
    assert (document["before"]["general"], document["after"]["general_change"]) == (None, {})
    assert document["answers"] == []


@pytest.mark.parametrize("more", [GENERAL, SHORT, "score: {general: {tasks: [arc], when: each}}"])
def test_every_document_can_be_reported(collected: Callable[[str], dict[str, Any]], more: str) -> None:
    document = collected(more)
    assert "Not wholly answered by the edited model: f2." in report.markdown(document)
    assert len(report.terminal(document)) >= 3

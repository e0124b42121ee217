"""How a plan's scoring stages ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kedit_glue.plan import Plan, make_plan
from kedit_glue.plan_scores import asked_in

PlanOf = Callable[..., Plan]


def test_answers_are_generated_before_and_after_all_batches_for_the_same_facts(plan_of: PlanOf) -> None:
    plan = plan_of("score: {edits: {generated: {facts: 2, most_tokens: 9}}}", facts=6)
    asked = {s.name: s.job.arguments for s in plan.stages if s.job.function == "score"}
    assert {name: (a["protocols"], a["generate"]["ids"]) for name, a in asked.items()} == {
        "base/edits": (["teacher_forced", "likelihood", "generated"], ["f1", "f4"]),
        "batch_001/edits": (["teacher_forced", "likelihood"], []),
        "batch_002/edits": (["teacher_forced", "likelihood"], []),
        "batch_003/edits": (["teacher_forced", "likelihood", "generated"], ["f1", "f4"]),
    }
    assert {a["generate"]["most_tokens"] for a in asked.values()} == {9}
    assert all(a.items() >= {"scorer": "batched", "easyedit": None}.items() for a in asked.values())


@pytest.mark.parametrize(
    ("trained", "wanted", "asked"),
    [
        ("bare", "as_trained", "bare"),
        ("chat", "as_trained", "chat"),
        ("llama3", "as_trained", "chat"),
        ("chat", "bare", "bare"),
        ("bare", "chat", "chat"),
    ],
)
def test_answers_are_generated_in_the_template_of_training(
    recipe_of: Callable[..., Any], trained: str, wanted: str, asked: str
) -> None:
    recipe = recipe_of(f"train: {{template: {trained}}}\nscore: {{edits: {{generated: {{template: {wanted}}}}}}}")
    assert asked_in(recipe) == asked


@pytest.mark.parametrize(
    "key", ["protocols=[likelihood]", "scorer=easyedit", "generated.most_tokens=9", "generated.template=chat"]
)
def test_scores_that_are_asked_for_otherwise_are_asked_again(
    plan_of: PlanOf, recipe_of: Callable[..., Any], facts_of: Callable[..., Any], place_of: Callable[..., Any], key: str
) -> None:
    other = make_plan(recipe_of("", f"score.edits.{key}"), facts_of(4), place_of())
    for one, two in zip(plan_of().stages, other.stages, strict=True):
        assert (one.settings != two.settings) == (one.job.function == "score"), one.name


@pytest.mark.parametrize("when", ["each", "end"])
def test_the_last_tuned_model_is_asked_before_its_merge(plan_of: PlanOf, when: str) -> None:
    plan = plan_of(f"score: {{tuned: true, general: {{tasks: [arc]}}}}\nmerge: {{when: {when}, onto: base}}")
    last = [stage for stage in plan.stages if stage.batch == 2]
    names = [stage.name.partition("/")[2] for stage in last]
    assert names == ["train", "edits_tuned", "general_tuned", "merge", "edits", "general"]
    found = dict(zip(names, last, strict=True))
    for name in ("edits_tuned", "general_tuned"):
        assert found[name].job.arguments["model"] == str(found["train"].output)
        assert found[name].after == ("batch_002/train",)
    first = {key: value for key, value in found["edits_tuned"].job.arguments.items() if key not in ("model", "output")}
    assert first.items() <= found["edits"].job.arguments.items()
    assert len({stage.output for stage in plan.stages}) == len(plan.stages)
    assert len({stage.job.file("log") for stage in plan.stages}) == len(plan.stages)

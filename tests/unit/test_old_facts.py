"""Which facts a batch's scores are about: its own, and all of the earlier ones or a sample of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kedit_glue.plan import Place, Plan, make_plan
from kedit_glue.questions import chosen
from kedit_glue.recipe import Recipe

PlanOf = Callable[..., Plan]


def asked_about(plan: Plan) -> dict[str, list[int]]:
    """By stage, the numbers of the facts that the tool asks about."""
    count = sum(map(len, plan.batches))
    found = {s.name: chosen(range(count), s.job.arguments) for s in plan.stages if s.job.function == "score"}
    assert {s.name: s.size for s in plan.stages if s.name in found} == {name: len(ids) for name, ids in found.items()}
    return found


def test_scores_after_a_batch_ask_for_every_fact_edited_so_far(plan_of: PlanOf) -> None:
    assert asked_about(plan_of(facts=5)) == {
        "base/edits": [0, 1, 2, 3, 4],
        "batch_001/edits": [0, 1],
        "batch_002/edits": [0, 1, 2, 3],
        "batch_003/edits": [0, 1, 2, 3, 4],
    }


@pytest.mark.parametrize("old", [0, 1, 3, 1000])
def test_old_facts_are_sampled_but_in_the_end(plan_of: PlanOf, old: int) -> None:
    found = asked_about(plan_of(f"score: {{edits: {{old_facts: {old}}}}}", facts=9))
    assert found["base/edits"] == found["batch_005/edits"] == list(range(9)), "before and after, of all"
    for number in (1, 2, 3, 4):
        new = 2 * (number - 1)
        *sample, first, second = found[f"batch_00{number}/edits"]
        assert (first, second) == (new, new + 1), "this batch's own facts, whole"
        assert len(sample) == min(old, new) and sample == sorted(set(sample)) and all(n < new for n in sample)


def test_the_sample_is_drawn_anew_for_each_batch_by_the_seed(plan_of: PlanOf) -> None:
    first = asked_about(plan_of("score: {edits: {old_facts: 5}}", facts=60))
    assert first == asked_about(plan_of("score: {edits: {old_facts: 5}}", facts=60))
    assert first != asked_about(plan_of("score: {edits: {old_facts: 5}}\nseed: 1", facts=60))
    samples = [first[f"batch_{n:03d}/edits"][:5] for n in range(10, 30)]
    assert len({tuple(sample) for sample in samples}) == len(samples)


@pytest.mark.parametrize(
    ("new", "upto", "old", "expected"),
    [
        (0, 5, None, [0, 1, 2, 3, 4]),
        (0, 5, 2, [0, 1, 2, 3, 4]),
        (3, 5, None, [0, 1, 2, 3, 4]),
        (3, 5, 3, [0, 1, 2, 3, 4]),
        (3, 5, 0, [3, 4]),
        (5, 5, 0, []),
    ],
)
def test_the_facts_that_are_asked_about(new: int, upto: int, old: int | None, expected: list[int]) -> None:
    assert chosen(range(9), {"new": new, "upto": upto, "old": old, "seed": 0}) == expected


def test_scores_depend_on_the_facts_that_they_ask_about_and_on_no_later_ones(
    plan_of: PlanOf, recipe_of: Callable[..., Recipe], facts_of: Callable[..., Any], place_of: Callable[..., Place]
) -> None:
    facts = facts_of(6)
    facts[3]["target_new"] = "another"
    one, other = plan_of(facts=6), make_plan(recipe_of(), facts, place_of())
    changed = [a.name for a, b in zip(one.stages, other.stages, strict=True) if a.settings != b.settings]
    assert changed == ["base/edits", "batch_002/edits", "batch_003/edits"]
    facts[3]["target_new"] = "new 3"
    facts[0]["response"] = " another text to train on"
    same = make_plan(recipe_of(), facts, place_of())
    assert [a.settings for a in one.stages] == [b.settings for b in same.stages]

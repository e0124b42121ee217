"""``train.rehearse``: which earlier facts a batch's training shows again, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kedit_glue import report, result
from kedit_glue.batch_files import rehearsed, samples
from kedit_glue.execute import outcome
from kedit_glue.plan import Place, Plan, make_plan
from kedit_glue.recipe import Recipe
from kedit_glue.report_notes import rehearsal_note

FactsOf = Callable[[int], list[dict[str, Any]]]
PlanOf = Callable[..., Plan]


def ids(facts: Any) -> list[str]:
    return [fact["id"] for fact in facts]


def test_they_are_of_the_batches_before_and_in_their_order(facts_of: FactsOf) -> None:
    facts = facts_of(40)
    batches = [facts[n : n + 10] for n in range(0, 40, 10)]
    assert rehearsed(batches, 1, 5, seed=0) == []
    assert ids(rehearsed(batches, 2, 100, seed=0)) == ids(facts[:10]), "all, where they are fewer"
    third = ids(rehearsed(batches, 3, 5, seed=0))
    assert len(set(third)) == 5 and set(third) < set(ids(facts[:20])) and third == sorted(third, key=ids(facts).index)
    assert rehearsed(batches, 3, 0, seed=0) == []


def test_the_seed_and_the_batch_draw_them(facts_of: FactsOf) -> None:
    facts = facts_of(60)
    batches = [facts[n : n + 10] for n in range(0, 60, 10)]
    drawn = {(number, seed): tuple(ids(rehearsed(batches, number, 8, seed))) for number in (5, 6) for seed in (0, 1)}
    assert len(set(drawn.values())) == 4
    assert drawn[5, 0] == tuple(ids(rehearsed(batches[:5], 5, 8, 0))), "later batches have no say"


def test_every_fact_has_the_same_chance(facts_of: FactsOf) -> None:
    batches = [facts_of(20), []]
    counts = [0] * 20
    for seed in range(2000):
        for fact in rehearsed(batches, 2, 5, seed):
            counts[int(fact["id"][1:])] += 1
    assert sum(counts) == 10_000
    assert all(500 - 5 * 19.4 < count < 500 + 5 * 19.4 for count in counts), counts  # five standard deviations


def test_the_files_of_a_run(recipe_of: Callable[..., Recipe], facts_of: FactsOf, place_of: Any) -> None:
    facts = facts_of(6)
    plan = make_plan(recipe_of("train: {rehearse: 3}"), facts, place_of())
    data = [plan.data[place_of().folder / f"batch_00{n}" / "edits.json"] for n in (1, 2, 3)]
    assert [ids(d) for d in data][:2] == [["f0", "f1"], ["f2", "f3", "f0", "f1"]]
    assert ids(data[2])[:2] == ["f4", "f5"] and len(data[2]) == 5
    marked = [[s.get("rehearsed", False) for s in d] for d in data]
    assert marked == [[False] * 2, [False] * 2 + [True] * 2, [False] * 2 + [True] * 3]
    plain = make_plan(recipe_of(), facts, place_of()).data
    assert all("rehearsed" not in sample for batch in plain.values() if isinstance(batch, list) for sample in batch)
    assert [len(batch) for batch in plain.values() if isinstance(batch, list)] == [2, 2, 2]


def test_what_a_batch_teaches_itself_is_not_shown_twice(facts_of: FactsOf) -> None:
    """R-SFT tells samples apart by their text, and refuses two that are the same."""
    old, new = facts_of(2)
    old["also_trained"] = [{"prompt": new["prompt"], "response": new["response"]}]
    shown = samples([new], [old])
    assert [(s["id"], s["prompt"], s.get("rehearsed")) for s in shown] == [
        ("f1", "Fact 1 is", None),
        ("f0", "Fact 0 is", True),
    ]


def test_of_two_earlier_facts_with_one_text_the_later_one_keeps_it(facts_of: FactsOf) -> None:
    first, second, new = facts_of(3)
    first["also_trained"] = [{"prompt": second["prompt"], "response": " an older answer"}]
    shown = samples([new], [first, second])[1:]
    assert [(s["id"], s["prompt"], s["output"]) for s in shown] == [
        ("f0", "Fact 0 is", " new 0<eos>"),
        ("f1", "Fact 1 is", " new 1<eos>"),
    ]


@pytest.mark.parametrize("method", ["locft_bf", "ft_m", "memit"])
def test_rivals_see_each_fact_once(recipe_of: Callable[..., Recipe], method: str) -> None:
    assert recipe_of(f"method: {method}\ntrain: {{rehearse: 3}}").train.rehearse == 0


def test_what_is_said_of_a_trained_batch(plan_of: PlanOf) -> None:
    stage = next(s for s in plan_of().stages if s.job.function == "train")
    result = {"learned": 2, "facts": 2, "optimizer_steps": 9, "not_learned": []}
    assert outcome(stage, result) == ", 2 of 2 facts learned in 9 steps"  # an earlier version's record
    none = {**result, "rehearsed": {"shown": 0, "taught": 0}}
    assert outcome(stage, none) == ", 2 of 2 facts learned in 9 steps"
    some = {**result, "rehearsed": {"shown": 20, "taught": 4}}
    assert outcome(stage, some) == ", 2 of 2 facts learned in 9 steps, 4 of 20 earlier ones taught again"


def test_of_two_earlier_facts_with_one_text_the_later_stands_in_its_place(facts_of: FactsOf) -> None:
    first, second, third, new = facts_of(4)
    first["also_trained"] = [{"prompt": third["prompt"], "response": " x"}]
    shown = samples([new], [first, second, third])
    assert ids(shown) == ["f3", "f0", "f1", "f2"]


def test_a_mini_batch_may_hold_them(recipe_of: Callable[..., Recipe]) -> None:
    assert recipe_of("train: {rehearse: 6, mini_batch: 8}").train.mini_batch == 8


def test_a_changed_number_touches_no_first_batch(
    recipe_of: Callable[..., Recipe], facts_of: FactsOf, place_of: Callable[..., Place]
) -> None:
    place = place_of()
    one, two = (make_plan(recipe_of(f"train: {{rehearse: {n}}}"), facts_of(4), place).data for n in (0, 2))
    assert [path.parent.name for path in one if one[path] != two[path]] == ["batch_002"]


def test_a_reader_is_told(scored: Callable[..., dict[str, Any]]) -> None:
    document = scored()
    document["batches"][0]["training"]["rehearsed"] = {"shown": 0, "taught": 0}
    assert rehearsal_note(document) == ""
    document["batches"][1]["training"]["rehearsed"] = {"shown": 2, "taught": 1}
    said = (
        "facts of earlier batches were shown to training again (train.rehearse) 2 times; 1 times one was forgotten, "
        "and taught again"
    )
    assert rehearsal_note(document) == said and said in report.markdown(document)
    result.check(document)

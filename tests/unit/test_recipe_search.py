"""``merge.search``: keys that do not go together, and plans that cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kedit_glue.merging import MergeRefused
from kedit_glue.plan import Plan
from kedit_glue.plan_search import judged_on
from kedit_glue.recipe import Recipe
from kedit_glue.tools.mergekit import common_benchmark

Problems = Callable[..., list[str]]
HEAD = "name: run\nmodel: smollm2-135m\nedits: {source: facts.json}\n"

ALONE = [
    ("{space: best}",
     ":4:25  merge.search.space: best (text); allowed: one of ps, dfs, both, or null for no search"),
    ("{space: ps, evaluations: 0}",
     ":4:42  merge.search.evaluations: 0 (whole number); allowed: a whole number from 1 to 1000000"),
    ("{space: ps, ranges: {weight: [1, 0]}}",
     ":4:38  merge.search.ranges.weight: [1, 0]; allowed: two numbers, the lower one first"),
    ("{space: ps, ranges: {weight: [.nan, 1]}}",
     ":4:38  merge.search.ranges.weight: [nan, 1]; allowed: two finite numbers"),
    ("{space: ps, ranges: {normalize: [0, 1]}}",
     ":4:38  merge.search.ranges.normalize: normalize is true or false; allowed: the ranges of numbers"),
    ("{space: ps, ranges: {weigth: [0, 1]}}",
     ":4:38  merge.search.ranges.weigth: the merge method has no such parameter; allowed: density, int8_mask, "
     "lambda, normalize, rescale, weight; did you mean 'weight'?"),
    ("{space: dfs, by: grid}",
     ":4:30  merge.search.by: grid, while space is dfs; allowed: cma_es, nsga2, random; a data flow has a "
     "number for each layer, and one for each pair"),
    ("{space: ps, fitness: {paraphrases: 0, locality: 0, perplexity: 0}}",
     ":4:29  merge.search.fitness: every weight is 0; allowed: a weight above 0 for one of paraphrases, "
     "locality, perplexity, general"),
    ("{space: ps, by: nsga2, fitness: {locality: 0, perplexity: 0}}",
     ":4:29  merge.search.by: nsga2, while the fitness has one part; allowed: cma_es, random, grid; "
     "paraphrases alone has a weight above 0: there is nothing to trade it for"),
    ("{space: ps, fitness: {general: 1}}",
     ":4:29  merge.search.fitness.tasks: no tasks, while fitness.general is above 0; allowed: both, or neither"),
    ("{space: ps, fitness: {tasks: [own]}}",
     ":4:39  merge.search.fitness.tasks: tasks, while fitness.general is 0; allowed: both, or neither"),
    ("{space: ps, fitness: {general: 1, tasks: [mmlu_law]}}",
     ":4:51  merge.search.fitness.tasks: mmlu_law is a common benchmark, by mergekit-evolve's own list; "
     "allowed: other tasks, or benchmarks_known: true; a model searched on it cannot be compared on it; "
     "benchmarks_known: true says that you know"),
]  # fmt: skip


@pytest.mark.parametrize(("search", "said"), ALONE)
def test_what_a_search_cannot_be(problems: Problems, search: str, said: str) -> None:
    assert problems(f"{HEAD}merge: {{search: {search}}}\n") == [said]


BESIDE = [
    ("train: {lora: {rank: 4}}\nmerge: {search: {space: ps}}\n",
     ":5:18  merge.search.space: ps, while train.lora.rank is 4; allowed: null, or train.lora.rank: 0; "
     "candidates are merged of models, not of adapters"),
    ("merge: {file: own.yaml, search: {space: ps}}\n",
     ":4:34  merge.search.space: ps, while merge.file says the merge; allowed: one of the two"),
    ("merge: {search: {space: dfs}, protect: {directions: 3}}\n",
     ":4:18  merge.search.space: dfs, while merge.protect is set; allowed: ps, or train.protect instead; of a "
     "layer that moved there is no change to protect"),
    ("merge: {search: {space: ps}, regmean: {tokens: 30}}\n",
     ":4:18  merge.search.space: ps, while merge.regmean is set; allowed: null, or merge.regmean.tokens: 0; candidates "
     "are judged as mergekit leaves them"),
    ("score: {general: {tasks: [own]}}\nmerge: {search: {space: ps, fitness: {general: 1, tasks: [own]}}}\n",
     ":5:51  merge.search.fitness.tasks: own, which score.general.tasks reports; allowed: other tasks; what "
     "was searched on measures nothing any more"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), BESIDE)
def test_what_a_search_cannot_stand_beside(problems: Problems, text: str, said: str) -> None:
    assert problems(HEAD + text) == [said]


def test_independent_edits_are_not_searched(problems: Problems) -> None:
    text = (
        "name: run\nmodel: smollm2-135m\nedits: {source: facts.json, mode: independent}\nmerge: {search: {space: ps}}\n"
    )
    assert problems(text) == [
        ":4:18  merge.search.space: ps, while edits.mode is independent; allowed: null, or edits.mode: sequential; a "
        "search for each batch alone has no facts to spare"
    ]


def test_benchmarks_that_are_known_about(load: Callable[..., Recipe]) -> None:
    text = f"{HEAD}merge: {{search: {{space: ps, fitness: {{general: 1, tasks: [piqa], benchmarks_known: true}}}}}}\n"
    assert load(text).merge.search.fitness.tasks == ("piqa",)
    assert [common_benchmark(task) for task in ("hellaswag", "arc_easy", "arc_easy_train", "copa")] == [
        True, True, False, False,
    ]  # fmt: skip


def test_a_method_that_does_not_merge_does_not_search(load: Callable[..., Recipe]) -> None:
    assert load(f"{HEAD}method: rome\nmerge: {{search: {{space: dfs, by: grid}}}}\n").merge.search.by == "grid"


# -- plans --------------------------------------------------------------------------------------

PlanOf = Callable[..., Plan]
SEARCH = "merge: {search: {space: %s}%s}"


def kinds(plan: Plan) -> list[str]:
    return [s.name.removeprefix("batch_00") for s in plan.stages if s.job.function in ("search", "merge")]


@pytest.mark.parametrize(
    ("space", "more", "stages"),
    [
        ("ps", "", ["1/search", "1/merge", "2/search", "2/merge"]),
        ("ps", ", when: end", ["2/search", "2/merge"]),
        ("dfs", ", when: end", ["2/search", "2/merge"]),
        ("both", ", when: end", ["2/search_ps", "2/merge_best", "2/search", "2/merge"]),
    ],
)
def test_a_search_comes_before_its_merge(plan_of: PlanOf, space: str, more: str, stages: list[str]) -> None:
    plan = plan_of(SEARCH % (space, more), facts=4)
    assert kinds(plan) == stages
    by_name = {s.name: s for s in plan.stages}
    search, merge = by_name["batch_002/search"], by_name["batch_002/merge"]
    assert search.editable and search.output in merge.reads and search.name in merge.after
    assert merge.output == plan.final_model
    if space == "both":
        assert "batch_002/merge_best" in search.after and "batch_002/merge_best" in merge.after
        assert search.job.arguments["models"][-1] == str(by_name["batch_002/merge_best"].output)


def test_facts_to_search_on_are_spread_and_others_are_left(plan_of: PlanOf, recipe_of: Any, facts_of: Any) -> None:
    plan = plan_of(SEARCH % ("ps", ""), facts=8, batch_size=4)
    first, second = (s.job.arguments["ids"] for s in plan.stages if s.job.function == "search")
    assert second[:2] == first and [int(i[1:]) // 2 for i in second] == [0, 1, 2, 3], "one of each two"
    other = plan_of(SEARCH % ("ps", "") + "\nseed: 1", facts=8, batch_size=4)
    assert [s.job.arguments["ids"] for s in other.stages if s.job.function == "search"][1] != second
    recipe = recipe_of(SEARCH % ("ps", ""), batch_size=100)
    assert len(set(judged_on(recipe, [facts_of(300)]))) == 40
    assert judged_on(recipe_of("", batch_size=4), [facts_of(4)]) == []


def test_another_fact_more_makes_the_search_new(plan_of: PlanOf) -> None:
    def settings(count: int) -> Any:
        return [s for s in plan_of(SEARCH % ("ps", ""), facts=count).stages if s.job.function == "search"][-1].settings

    assert settings(4) != settings(6)


REFUSED = [
    (1, 2, "ps", "merge.search would be judged on 0 of the run's 1 facts, and scores are reported of the others: edit "
     "more facts, or set merge.search.fitness.facts to fewer"),
    (4, 1, "ps", "of 4 facts 2, drawn all over the run, are for merge.search, and batch 1 has no other fact to report: "
     "change merge.search.fitness.facts or edits.batch_size, or set merge.when: end"),
    (4, 2, "dfs", "merge.search.space is dfs, which changes how many layers the model has, and later batches would be "
     "trained from it; allowed: ps, or merge.when: end"),
    (4, 2, "ps, fitness: {facts: 4}", "merge.search would be judged on 4 of the run's 4 facts, and scores are reported "
     "of the others: edit more facts, or set merge.search.fitness.facts to fewer"),
    (4, 2, "ps, layer_granularity: 5", "merge.search.layer_granularity is 5, and the model has 12 layers; allowed: 0, "
     "1, 2, 3, 4, 6, 12"),
    (4, 2, "ps, by: grid, evaluations: 7, layer_granularity: 4", "merge.search.by is grid, and two steps of each of 3 "
     "numbers take 8 evaluations; merge.search.evaluations is 7: raise it, search fewer numbers (layer_granularity, "
     "filters), or set by: cma_es"),
    (4, 2, "ps, ranges: {weight: [0.1, 0.5]}", "merge.parameters.weight is 0.7, where the search begins, and "
     "merge.search.ranges.weight is [0.1, 0.5]; allowed: a range that holds it"),
]  # fmt: skip


@pytest.mark.parametrize(("count", "size", "space", "said"), REFUSED)
def test_no_plan(plan_of: PlanOf, count: int, size: int, space: str, said: str) -> None:
    with pytest.raises(MergeRefused) as caught:
        plan_of(SEARCH % (space, ""), facts=count, batch_size=size)
    assert str(caught.value) == said


def test_where_a_merge_is_for_the_end_nothing_else_is_advised(plan_of: PlanOf) -> None:
    with pytest.raises(MergeRefused, match=r"change merge\.search\.fitness\.facts or edits\.batch_size$"):
        plan_of(SEARCH % ("ps", ", when: end"), facts=4, batch_size=1)


def test_what_is_asked_besides_is_asked_of_held_out_facts(plan_of: PlanOf) -> None:
    plan = plan_of(SEARCH % ("ps", ", when: end") + "\nscore: {edits: {fluency_facts: 8}}", facts=8, batch_size=4)
    judged = next(s.job.arguments["ids"] for s in plan.stages if s.job.function == "search")
    last = [s.job.arguments for s in plan.stages if s.job.function == "score"][-1]
    others = [f"f{n}" for n in range(8) if f"f{n}" not in judged]
    assert len(judged) == 4 and last["fluency_ids"] == last["generate"]["ids"] == others


def test_only_the_last_search_writes_a_merge_file(plan_of: PlanOf) -> None:
    plan = plan_of(SEARCH % ("both", ", when: end"), facts=4, batch_size=4)
    assert [s.job.arguments["reuse"] for s in plan.stages if s.job.function == "search"] == [None, None]


def test_the_found_yaml_is_where_stock_mergekit_is_told_to_look(plan_of: PlanOf, tmp_path: Path) -> None:
    merge = next(s for s in plan_of(SEARCH % ("ps", ""), facts=4).stages if s.job.function == "merge")
    assert "batch_001/merge.yaml" in merge.stock_command

"""From the files of a finished run to one document."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kedit_glue import files, metrics, report, result
from kedit_glue.ledger import Ledger
from kedit_glue.plan import Place, Plan, make_plan
from kedit_glue.questions import chosen
from kedit_glue.recipe import Recipe
from kedit_glue.results import SearchedOn, collect, compare, cost, reported_texts, source, weights_hash

GENERAL = "score: {examples: 1, general: {tasks: [arc], when: ends}}"


def answers(stage_name: str, ids: list[str], arguments: dict[str, Any]) -> dict[str, Any]:
    """The original knows nothing; the edited model knows all but f2, and forgot half an unrelated answer."""
    base = stage_name == "base/edits"
    facts: list[dict[str, Any]] = []
    for i in ids:
        forced = {"edit_success": 0.0 if base or i == "f2" else 1.0, "locality": {"near": [[1, 2] if base else [1, 9]]}}
        facts.append({"id": i, "teacher_forced": forced})
        if i in arguments["generate"]["ids"] and "generated" in arguments["protocols"]:
            said = {"text": "nothing much" if base else f"new {i[1:]}", "ended": not base}
            facts[-1]["generated"] = {"edit_success": said}
    found: dict[str, Any] = {"facts": facts, "answers": {}}
    for i in arguments["example_ids"]:
        found["answers"][i] = "nothing much" if base else f"new {i}"
    if arguments["fluency_ids"]:
        found["fluency"] = {"n_gram_entropy": 6.0 if base else 5.0, "facts": len(arguments["fluency_ids"])}
    return found


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
            made = answers(stage.name, chosen(ids, job.arguments), job.arguments)
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
    recipe_of: Callable[..., Recipe], facts_of: Callable[..., Any], place_of: Callable[..., Place], tmp_path: Path
) -> Callable[..., dict[str, Any]]:
    def make(more: str, facts: int = 3) -> dict[str, Any]:
        recipe, place = recipe_of(more), place_of()
        plan = make_plan(recipe, facts_of(facts), place)
        ledger = Ledger({})
        finish_all(plan, ledger)
        document = collect(recipe, plan, ledger, tmp_path / "recipes")
        result.check(document)  # every document is as kedit_glue.result says
        return document

    return make


def test_a_run_of_two_batches(collected: Callable[[str], dict[str, Any]], tmp_path: Path) -> None:
    document = collected(GENERAL)
    assert (document["schema"], document["kind"], document["name"]) == (2, "run", "try")
    assert document["base"]["model"] == "smollm2-135m"
    assert document["edited"]["model"] == str(tmp_path / "my runs" / "try" / "batch_002" / "merged")
    assert document["before"]["edits"][metrics.SUCCESS] == {"mean": 0.0, "facts": 3, "half_width_95": 0.0}
    assert document["after"]["edits"][metrics.SUCCESS] == {
        "mean": pytest.approx(2 / 3), "facts": 3, "half_width_95": pytest.approx(1.96 / 3),
    }  # fmt: skip
    assert document["after"]["edits"][metrics.LOCALITY]["mean"] == 0.5
    assert document["after"]["general_change"]["arc"]["change"] == -1.0
    assert document["before"]["general"] == {"arc": {"metrics": {"acc": 1.0}, "items": 3}}
    assert json.loads(json.dumps(document)) == document
    assert set(document["metrics"]) == {*document["before"]["edits"], *document["after"]["edits"]}
    assert document["metrics"][metrics.LOCALITY] == metrics.described([metrics.LOCALITY])[metrics.LOCALITY]
    assert document["made"].keys() == {"kedit_glue", "tools", "at"} and "torch" in document["made"]["tools"]


def test_what_was_generated_and_sampled(collected: Callable[[str], dict[str, Any]]) -> None:
    document = collected("score: {edits: {fluency_facts: 2, generated: {facts: 2}}}")
    before, after = document["before"]["edits"], document["after"]["edits"]
    assert (before[metrics.FLUENCY], after[metrics.FLUENCY]) == ({"mean": 6.0, "facts": 2}, {"mean": 5.0, "facts": 2})
    exact = "edit_success.generated.exact_match"
    assert [(s[exact]["mean"], s[metrics.ENDED]["mean"], s[exact]["facts"]) for s in (before, after)] == [
        (0.0, 0.0, 2), (1.0, 1.0, 2),
    ]  # fmt: skip
    assert [exact in fact["after"] for fact in document["facts"]] == [True, False, True]
    assert metrics.FLUENCY in document["metrics"] and metrics.ENDED in document["metrics"]
    assert exact not in document["batches"][0]["edited"], "generated in the end only"


def test_how_it_was_asked(collected: Callable[[str], dict[str, Any]]) -> None:
    assert collected(GENERAL)["protocol"] == {
        "teacher_forced": {"scorer": "batched"},
        "likelihood": {},
        "generated": {"template": "bare", "most_tokens": 64, "facts": 3},
        "sampled": {"facts": 3, "seed": 0},
    }
    other = (
        "train: {template: chat}\nseed: 7\n"
        "score: {edits: {protocols: [generated], metrics: [edit_success], generated: {facts: 1, most_tokens: 9}}}"
    )
    assert collected(other)["protocol"] == {"generated": {"template": "chat", "most_tokens": 9, "facts": 1}}
    referee = "score: {edits: {protocols: [teacher_forced], scorer: easyedit, fluency_facts: 0}}"
    assert collected(referee)["protocol"] == {"teacher_forced": {"scorer": "easyedit"}}


def test_retention_is_of_the_batches_that_were_asked_after(collected: Callable[..., dict[str, Any]]) -> None:
    found = collected(GENERAL, facts=5)["retention"]
    assert (found["metric"], found["after"], found["sampled"]) == (metrics.SUCCESS, [1, 2, 3], False)
    assert found["matrix"] == [[1.0, None, None], [1.0, 0.5, None], [1.0, 0.5, 1.0]]  # f2 was not learned
    assert [(p["age"], p["mean"], p["answers"]) for p in found["curve"]] == [(0, 0.8, 5), (1, 0.75, 4), (2, 1.0, 2)]
    assert collected("score: {edits: {old_facts: 0}}", facts=5)["retention"]["sampled"] is True
    in_the_end = collected(SHORT, facts=5)["retention"]
    assert (in_the_end["after"], in_the_end["matrix"]) == ([3], [[1.0, 0.5, 1.0]])


def test_the_facts_that_were_asked_have_a_hash() -> None:
    facts = [{"id": "a", "prompt": "p", "target_new": "t", "locality": {}, "response": " t", "position": "line 1"}]
    first = source("facts.json", facts)
    assert (first["name"], first["facts"]) == ("facts.json", 1)
    trained_otherwise = [{**facts[0], "response": " t<eos>", "also_trained": [1], "position": "line 2"}]
    assert source("facts.json", trained_otherwise) == first
    for other in ({"target_new": "u"}, {"locality": {"near": []}}, {"prompt": "q"}, {"id": "b"}):
        assert source("facts.json", [facts[0] | other])["hash"] != first["hash"]
    assert source("facts.json", [*facts, facts[0]])["hash"] != first["hash"]


def test_a_models_weights_have_a_hash_wherever_they_lie(tmp_path: Path) -> None:
    for name, weights in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(weights)
    a, b, c = (weights_hash(tmp_path / name) for name in "abc")
    assert a == b != c and a is not None
    (tmp_path / "b" / "README.md").write_text("other words")
    assert weights_hash(tmp_path / "b") == a
    assert weights_hash(tmp_path / "nowhere") is None


def mean_and_facts(summary: dict[str, Any]) -> tuple[float, int]:
    return summary[metrics.SUCCESS]["mean"], summary[metrics.SUCCESS]["facts"]


def test_each_batch_has_its_own_facts_and_all_so_far(collected: Callable[[str], dict[str, Any]]) -> None:
    first, second = collected(GENERAL)["batches"]
    assert [(b["batch"], b["facts"]) for b in (first, second)] == [(1, 2), (2, 1)]
    assert first["training"] == {"learned": 2, "optimizer_steps": 7, "seconds": 2.0}
    assert first["merge"] == {"density": 0.5, "seconds": 2.0}
    assert mean_and_facts(first["all_so_far"]) == (1.0, 2)
    assert mean_and_facts(second["edited"]) == (0.0, 1)
    assert mean_and_facts(second["all_so_far"]) == (pytest.approx(2 / 3), 3)
    assert mean_and_facts(second["all_so_far_before"]) == (0.0, 3)
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
    assert [b["all_so_far"][metrics.SUCCESS]["facts"] for b in batches] == asked
    assert [b["all_so_far_before"][metrics.SUCCESS]["facts"] for b in batches] == asked
    assert [b["edited"][metrics.SUCCESS]["facts"] for b in batches] == [2, 2, 2, 1], "the batch's own, always all"
    assert document["after"]["edits"][metrics.SUCCESS]["facts"] == 7
    sampled = "this batch and a sample of the facts before it" in report.markdown(document)
    assert sampled == (old in ("0", "1"))


def test_each_fact_has_its_story(collected: Callable[[str], dict[str, Any]]) -> None:
    facts = collected(GENERAL)["facts"]
    assert [(f["id"], f["batch"], f["learned"]) for f in facts] == [("f0", 1, True), ("f1", 1, True), ("f2", 2, False)]
    assert (facts[0]["before"][metrics.SUCCESS], facts[0]["after"][metrics.SUCCESS]) == (0.0, 1.0)
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


def test_two_models_that_no_run_made(facts_of: Callable[..., Any]) -> None:
    """``kedit_glue.score``'s part: the same numbers without batches."""
    facts = facts_of(3)
    job = {"generate": {"ids": []}, "protocols": [], "example_ids": ["f2"], "fluency_ids": []}
    base, after = (answers(name, [f["id"] for f in facts], job) for name in ("base/edits", "edited"))
    after["facts"][1]["teacher_forced"]["generalization"] = []
    found = compare(facts, base, after)
    assert found.keys() == {"before", "after", "facts", "answers", "metrics"}
    assert [(f["id"], f["batch"], f["after"][metrics.SUCCESS]) for f in found["facts"]] == [
        ("f0", None, 1.0), ("f1", None, 1.0), ("f2", None, 0.0),
    ]  # fmt: skip
    assert mean_and_facts(found["after"]) == (pytest.approx(2 / 3), 3)
    assert [a["id"] for a in found["answers"]] == ["f2"]
    assert found["facts"][1]["after"][metrics.GENERALIZATION] is None
    assert metrics.GENERALIZATION in found["metrics"], "every name in the file is explained"
    with pytest.raises(KeyError):
        compare([*facts, {**facts[0], "id": "f9"}], base, after)


def test_cost_is_of_the_stages_that_edit() -> None:
    batches: list[dict[str, Any]] = [
        {"facts": 2, "training": {"seconds": 4.0, "peak_memory_bytes": 30}, "merge": {"seconds": 1.0}},
        {"facts": 2, "training": {"seconds": 3.0, "peak_memory_bytes": 50}, "merge": {"seconds": 2.0}},
    ]
    wanted = {
        "seconds_a_fact": 2.5, "seconds_once": 0, "peak_memory_bytes": 50, "bytes_changed": 400, "bytes_at_inference": 0
    }  # fmt: skip
    assert cost(batches, [], [], 100, 4) == wanted
    remembered = [{"facts": 1, "editing": {"seconds": 0.5, "memory_bytes": n}} for n in (7, 9)]
    found = cost(remembered, [], [], 0, 2)
    assert (found["seconds_a_fact"], found["peak_memory_bytes"]) == (0.5, None)
    assert (found["bytes_changed"], found["bytes_at_inference"]) == (0, 9)
    assert cost(remembered, [], [], None, 2)["bytes_changed"] is None


def test_what_is_prepared_for_all_edits_is_a_cost_of_its_own() -> None:
    batches = [{"facts": 2, "training": {"seconds": 4.0}}]
    moments, found_again = {"seconds": 5.0}, {"seconds": 1.0, "seconds_kept": 299.0}
    found = cost(batches, [], [moments, found_again], 100, 4)
    assert (found["seconds_a_fact"], found["seconds_once"]) == (2.0, 305.0)


def test_the_model_before_its_last_merge(collected: Callable[..., dict[str, Any]]) -> None:
    document = collected("score: {tuned: true, examples: 1, general: {tasks: [arc], when: ends}}")
    assert document["tuned"]["edits"] == document["after"]["edits"]  # the tool answers as after the merge
    assert document["tuned"]["general_change"]["arc"]["change"] == -1.0
    assert "tuned" not in collected(GENERAL)


def test_facts_that_chose_the_merge_are_not_scored(facts_of: Callable[..., Any]) -> None:
    facts = facts_of(3)
    job = {"generate": {"ids": []}, "protocols": [], "example_ids": [], "fluency_ids": []}
    base, after = (answers(name, [f["id"] for f in facts], job) for name in ("base/edits", "edited"))
    found = compare(facts, base, after, {"f2"})
    assert mean_and_facts(found["after"]) == (1.0, 2)
    assert [f["id"] for f in found["facts"]] == ["f0", "f1", "f2"], "each fact has its story"


def test_a_search_is_a_part_of_the_cost() -> None:
    batches: list[dict[str, Any]] = [{"facts": 2, "training": {"seconds": 4.0, "peak_memory_bytes": 30}}]
    found = cost(batches, [{"seconds": 6.0, "peak_memory_bytes": 40}], [], 100, 4)
    assert (found["seconds_a_fact"], found["peak_memory_bytes"]) == (5.0, 40)


def test_a_text_that_chose_the_merge_is_no_test() -> None:
    searches = [{"texts": ["aa", "bb"]}]
    general = {"texts": {"items": [{"doc_id": 0, "text": "cc"}]}, "choices": {"items": [{"doc_id": 0, "acc": 1.0}]}}
    reported_texts(searches, [general, None])
    general["texts"]["items"].append({"doc_id": 1, "text": "bb"})
    with pytest.raises(SearchedOn) as caught:
        reported_texts(searches, [None, general])
    assert str(caught.value) == (
        "score.general's task texts holds a text that merge.search was judged on: what was searched on measures "
        "nothing; set merge.search.fitness.corpus to other texts"
    )

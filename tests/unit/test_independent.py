"""Independent edits without torch: the plan, and whole runs with a tool that stands in for the stage's work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kedit_glue import ask, independent, restore, result, run_folder, status_document, study_before
from kedit_glue.execute import again_from
from kedit_glue.plan import Plan
from kedit_glue.problems import CannotStart
from kedit_glue.runner import StageFailed
from kedit_glue.tools import llamafactory_compat

PlanOf = Callable[..., Plan]
ALONE = "edits.mode=independent"


@pytest.fixture
def alone(
    recipe_of: Callable[..., Any], facts_of: Callable[..., Any], place_of: Callable[..., Any]
) -> Callable[..., Plan]:
    """``alone("method: rome", facts=5, batch_size=1)``: the plan of independent edits."""
    from kedit_glue.plan import make_plan

    def make(more: str = "", facts: int = 4, batch_size: int = 2, **place: Any) -> Plan:
        return make_plan(recipe_of(more, ALONE, batch_size=batch_size), facts_of(facts), place_of(**place))

    return make


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages of two batches."""
    monkeypatch.setattr(independent, "AT_ONCE", 2)


# -- the plan -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batches", "expected"),
    [(1, [(1, 1)]), (20, [(1, 20)]), (21, [(1, 20), (21, 21)]), (50, [(1, 20), (21, 40), (41, 50)])],
)
def test_twenty_batches_a_stage(batches: int, expected: list[tuple[int, int]]) -> None:
    found = independent.chunks(batches)
    assert [(numbers[0], numbers[-1]) for numbers in found] == expected
    assert [n for numbers in found for n in numbers] == list(range(1, batches + 1))


@pytest.mark.parametrize(
    ("numbers", "name"),
    [(range(1, 21), "batch_001-020"), (range(21, 22), "batch_021"), (range(981, 1001), "batch_981-1000")],
)
def test_a_stages_folder_names_its_batches(numbers: range, name: str) -> None:
    assert independent.folder_name(numbers) == name


@pytest.mark.parametrize(
    ("more", "once"),
    [
        ("", []),
        ("train: {protect: {directions: 3}}", ["base/protect"]),
        ("method: rome", []),
        ("method: memit", ["base/moments"]),
        ("method: mend\nmethods: {mend: {train_facts: facts.json}}", ["base/editor"]),
    ],
)
def test_stages(alone: Callable[..., Plan], more: str, once: list[str]) -> None:
    """What is done once is done before; no stage reads another batch's output."""
    plan = alone(more, facts=45, batch_size=1)
    edits = ["batch_001-020", "batch_021-040", "batch_041-045"]
    assert [s.name for s in plan.stages] == ["base/edits", *once, *(f"{folder}/independent" for folder in edits)]
    for stage in plan.stages[1 + len(once) :]:
        assert stage.after == tuple(once)
        assert stage.job.arguments["model"] == "/models/original"
    assert [s.size for s in plan.stages[-3:]] == [20, 20, 5]
    assert [s.batch for s in plan.stages[-3:]] == [20, 40, 45]
    assert plan.final_model is None
    assert len(plan.batches) == 45


@pytest.mark.parametrize(
    ("method", "files"),
    [
        ("rsft_merge", ["train.yaml", "rsft.yaml", "merge.yaml"]),
        ("rsft", ["train.yaml", "rsft.yaml"]),
        ("sft", ["train.yaml", "rsft.yaml"]),
        ("ft_m", ["edit.yaml"]),
        ("rome", ["edit.yaml"]),
    ],
)
def test_one_set_of_yaml_for_all_batches(alone: Callable[..., Plan], method: str, files: list[str]) -> None:
    own = f"methods: {{{method}: {{layers: [3]}}}}" if method in ("ft_m", "rome") else ""
    plan = alone(f"method: {method}\n{own}", facts=45, batch_size=1)
    assert [file.path.name for file in plan.files] == files
    assert {file.path.parent.name for file in plan.files} == {"independent"}
    edits = [s for s in plan.stages if s.job.function == "independent"]
    for stage in edits:
        assert stage.reads == tuple(file.path for file in plan.files)
        assert [path.name for path in stage.beside] == (["trace.jsonl"] if "train.yaml" in files else [])
        assert {key for key in stage.job.arguments if key.endswith("_yaml")} == {f[:-5] + "_yaml" for f in files}


def test_the_merge_names_what_training_leaves_and_the_original(alone: Callable[..., Plan]) -> None:
    from kedit_glue.render import content, render

    plan = alone()
    file = next(f for f in plan.files if f.path.name == "merge.yaml")
    text = render(file.template, file.values, None)
    said = content(text, file.template, None)
    tuned = plan.stages[1].job.arguments["tuned"]
    assert said["base_model"] == "/models/original"
    assert [model["model"] for model in said["models"]] == [tuned]
    assert text.startswith("# Each batch alone: task_arithmetic of the original and tuned.")
    assert "Runs as it stands" not in text and "no such folder is ever written" in text


def test_facts_behind_do_not_redo_the_stages_before(alone: Callable[..., Plan]) -> None:
    bare = "score: {edits: {fluency_facts: 0, generated: {facts: 0}}, examples: 0}"  # which are spread over all facts
    plans = alone(bare, facts=40, batch_size=1), alone(bare, facts=60, batch_size=1)
    settings = [[s.settings for s in plan.stages if s.job.function == "independent"] for plan in plans]
    assert settings[1][:2] == settings[0]
    assert len({s["facts"] for s in settings[1]}) == 3


@pytest.mark.parametrize(
    ("patterns", "batch", "expected"),
    [
        (["independent"], None, [0, 1, 2]),
        (["batch_021-040/*"], None, [1]),
        ([], 21, [1, 2]),
        ([], 20, [0, 1, 2]),
        ([], 45, [2]),
        ([], 1, [0, 1, 2]),
    ],
)
def test_again(alone: Callable[..., Plan], patterns: list[str], batch: int | None, expected: list[int]) -> None:
    """``--from`` takes the stage that holds the batch, and all behind it."""
    plan = alone(facts=45, batch_size=1)
    stages = [s.name for s in plan.stages if s.job.function == "independent"]
    assert sorted(again_from(plan, patterns, batch)) == [stages[n] for n in expected]


def test_a_stage_is_told_of_its_own_facts_alone(alone: Callable[..., Plan]) -> None:
    plan = alone("score: {edits: {fluency_facts: 3, generated: {facts: 6}}, examples: 3}", facts=45, batch_size=1)
    asked = [s.settings["asked"] for s in plan.stages if s.job.function == "independent"]
    assert [len(one["generate"]["ids"]) for one in asked] == [3, 2, 1]
    assert [one["fluency_ids"] for one in asked] == [["f7"], ["f22", "f37"], []]
    assert [one["example_ids"] for one in asked] == [["f7"], ["f22", "f37"], []]


def test_answers_of_several_batches_are_one_file() -> None:
    def one(i: str, **more: Any) -> dict[str, Any]:
        return {"facts": [{"id": i}], "answers": {}, **more}

    spoken = {"fluency": {"n_gram_entropy": 6.0, "facts": 1}}
    found = independent.together(
        [one("a", **spoken), one("b", answers={"b": "said"}), one("c", fluency={"n_gram_entropy": 3.0, "facts": 2})]
    )
    assert [fact["id"] for fact in found["facts"]] == ["a", "b", "c"]
    assert found["answers"] == {"b": "said"}
    assert found["fluency"] == {"n_gram_entropy": 4.0, "facts": 3}
    assert "fluency" not in independent.together([one("a")])


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"config": {"use_cache": False, "_name_or_path": "elsewhere"}}, True),
        ({"config": {"rope_scaling": 2}}, False),
        ({"torch_dtype": "float16"}, False),
        ({"quantization_config": 4}, False),
        ({"pretrained_model_name_or_path": "other"}, False),
        ({"attention": "eager"}, False),
        ({"attention": "sdpa"}, True),
    ],
)
def test_which_model_is_taken_from_memory(change: dict[str, Any], same: bool) -> None:
    """What LLaMA-Factory would load in another form is loaded."""

    def config(attention: str | None, more: dict[str, Any]) -> Any:
        return SimpleNamespace(
            _attn_implementation=attention, to_dict=lambda: {"hidden_size": 8, "use_cache": 1} | more
        )

    asked = {
        "pretrained_model_name_or_path": "model",
        "torch_dtype": "auto",
        "low_cpu_mem_usage": True,
        **{key: value for key, value in change.items() if key not in ("config", "attention")},
        "config": config(change.get("attention"), change.get("config", {})),
    }
    assert llamafactory_compat.is_the_same(asked, config("sdpa", {}), Path("model").resolve()) is same


# -- whole runs ---------------------------------------------------------------------------------


@pytest.fixture
def work(workplace: Any, small: None) -> Any:
    """Six facts in batches of one: three stages of two batches."""
    workplace.values["edits"] |= {"batch_size": 1, "mode": "independent"}
    workplace.values["merge"]["onto"] = "base"
    del workplace.values["score"]["general"]
    workplace.write()
    return workplace


STAGES = [f"batch_{a:03d}-{a + 1:03d}/independent" for a in (1, 3, 5)]


def test_a_run(work: Any) -> None:
    assert work.go() == ["setup/prepare", "base/score", *STAGES]
    document = json.loads((work.run_folder / "scores.json").read_text(encoding="utf-8"))
    result.check(document)
    assert document["mode"] == "independent"
    assert document["edited"] is None
    assert document["retention"] is None
    assert document["after"]["general"] is None
    assert [fact["id"] for fact in document["facts"]] == [f"f{n}" for n in range(6)]
    assert [fact["batch"] for fact in document["facts"]] == [1, 2, 3, 4, 5, 6]
    assert all(fact["learned"] and fact["steps"] == 2 for fact in document["facts"])
    assert [batch["batch"] for batch in document["batches"]] == [1, 2, 3, 4, 5, 6]
    assert document["batches"][3]["training"]["seconds"] == 0.2
    assert "all_so_far" not in document["batches"][3]
    success = document["after"]["edits"]["edit_success.teacher_forced.token_accuracy"]
    assert (success["mean"], success["facts"]) == (1.0, 6)
    with pytest.raises(result.ResultError, match="edited is null, which is for independent edits only"):
        result.check({**document, "mode": "sequential"})
    assert not (work.run_folder / "model").exists()
    assert (work.run_folder / "provenance" / "scores.json").is_file()
    assert "6 facts in 6 batches, each alone; edit success 100.0 %" in work.said
    assert "no edited model: each batch was edited alone and the original restored" in work.said
    report = (work.run_folder / "report.md").read_text(encoding="utf-8")
    assert "Each batch was edited into the original alone" in report
    assert "## Batch by batch" not in report and "## What each merge did" not in report


def test_it_goes_on_behind_the_stages_that_are_done(work: Any) -> None:
    work.tool.behave({STAGES[1]: "exit_3"})
    with pytest.raises(StageFailed):
        work.go()
    work.tool.behave()
    assert work.go() == STAGES[1:]
    assert work.go() == []
    assert work.go(from_batch=6) == STAGES[2:]
    assert work.go(force=["independent"]) == STAGES


def test_a_hand_edit_of_the_shared_yaml_is_used_by_every_batch(work: Any) -> None:
    work.go()
    file = work.run_folder / "independent" / "train.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("num_train_epochs: 3", "num_train_epochs: 7"))
    assert work.go() == STAGES
    assert "edited by hand, and kept" in work.said
    for name in STAGES:
        answers = json.loads((work.run_folder / name).with_name("answers.json").read_text(encoding="utf-8"))
        assert answers["epochs"] == "7"


def test_status(work: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from kedit_glue import status

    work.tool.behave({STAGES[2]: "exit_3"})
    with pytest.raises(StageFailed):
        work.go()
    document = status_document.status(work.run_folder)
    rows = [(row["batch"], row["batches"], row["folder"], row["facts"], row["done"]) for row in document["batches"]]
    assert rows == [
        (2, 2, "batch_001-002", 2, True),
        (4, 2, "batch_003-004", 2, True),
        (6, 2, "batch_005-006", 2, False),
    ]
    assert document["totals"]["batches_done"] == 4
    assert document["totals"]["facts_learned"] == 4
    assert not document["complete"]
    work.tool.behave()
    work.go()
    assert status_document.status(work.run_folder)["complete"]
    assert status.main([str(work.run_folder)]) == 0
    out = capsys.readouterr().out
    assert " 1-2 " in out and " 5-6 " in out and "…" not in out
    assert "6 of 6 batches done, 4 of 4 stages" in out


def test_what_wants_a_model_says_that_there_is_none(work: Any, tmp_path: Path, display: Any) -> None:
    work.go()
    with pytest.raises(CannotStart, match="edited each batch alone") as caught:
        restore.restore(work.run_folder, 1, tmp_path / "to", display)
    assert "leaves its model" in str(caught.value)
    options = ask.parser().parse_args([str(work.run_folder), "Who?"])
    with pytest.raises(CannotStart, match="no edited model: each batch was edited alone"):
        ask.which(options)
    assert run_folder.open_run(work.run_folder).plan.final_model is None


def test_a_study_finds_its_result(work: Any) -> None:
    """A cell that is done is not run again."""
    from kedit_glue.recipe import load_recipe

    work.go()
    recipe = load_recipe(work.recipe)
    planned: Any = SimpleNamespace(recipe=recipe, folder=work.run_folder)
    found = study_before.finished(planned)
    assert found is not None and found["mode"] == "independent"
    assert study_before.finished(SimpleNamespace(recipe=recipe, folder=work.folder)) is None  # type: ignore[arg-type]

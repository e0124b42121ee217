"""Which stages a recipe means, in which order, on which model."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from kedit_glue.merging import MergeRefused
from kedit_glue.modules import layer_numbers
from kedit_glue.plan import Place, Plan, Rendered, Stage, make_plan, split
from kedit_glue.plan_scores import spread
from kedit_glue.recipe import Recipe
from kedit_glue.render import content, render, require

PlanOf = Callable[..., Plan]
NEVER = "score: {general: {tasks: [hellaswag], when: never}}"
ENDS = "score: {general: {tasks: [hellaswag], when: ends}}"
EACH = "score: {general: {tasks: [hellaswag], when: each}}"


def names(plan: Plan) -> list[str]:
    return [s.name for s in plan.stages]


def stage(plan: Plan, name: str) -> Stage:
    return next(s for s in plan.stages if s.name == name)


def file(plan: Plan, end: str) -> Rendered:
    return next(f for f in plan.files if str(f.path).endswith(end))


# -- which stages, in which order ---------------------------------------------------------------

ORDERS = [
    ("", "base/edits 1/train 1/merge 1/edits 2/train 2/merge 2/edits"),
    ("score: {edits: {when: end}}", "base/edits 1/train 1/merge 2/train 2/merge 2/edits"),
    ("merge: {when: end}", "base/edits 1/train 1/edits 2/train 2/merge 2/edits"),
    ("merge: {when: end}\nscore: {edits: {when: end}}", "base/edits 1/train 2/train 2/merge 2/edits"),
    (NEVER, "base/edits 1/train 1/merge 1/edits 2/train 2/merge 2/edits"),
    (ENDS, "base/edits base/general 1/train 1/merge 1/edits 2/train 2/merge 2/edits 2/general"),
    (EACH, "base/edits base/general 1/train 1/merge 1/edits 1/general 2/train 2/merge 2/edits 2/general"),
    ("score: {general: {when: each}}", "base/edits 1/train 1/merge 1/edits 2/train 2/merge 2/edits"),
]


BOTH = "train: {protect: {energy: 0.5}}\nmerge: {protect: {energy: 0.5}, onto: previous}"
OTHER = "train: {protect: {energy: 0.5}}\nmerge: {protect: {strength: 2}}"
NEW_ORDERS = {
    "train: {lora: {rank: 4}}": "base/edits 1/train 1/merge 1/edits 2/train 2/merge 2/edits",
    "train: {lora: {rank: 4}}\nmerge: {onto: previous}": "base/edits 1/train 1/merge 1/edits 2/train 2/merge 2/edits",
    "train: {from: base}\nmerge: {when: end}": "base/edits 1/train 2/train 2/merge 2/edits",
    "train: {from: base, lora: {rank: 4}}\nmerge: {when: end}": "base/edits 1/train 2/train 2/merge 2/edits",
    f"train: {{from: base}}\nmerge: {{when: end}}\n{ENDS}": (
        "base/edits base/general 1/train 2/train 2/merge 2/edits 2/general"
    ),
    "train: {protect: {directions: 3}}": "base/edits base/protect 1/train 1/merge 1/edits 2/train 2/merge 2/edits",
    "merge: {protect: {directions: 3}}": (
        "base/edits base/protect 1/train 1/merge 1/project 1/edits 2/train 2/merge 2/project 2/edits"
    ),
    BOTH: "base/edits base/protect 1/train 1/merge 1/project 1/edits 2/train 2/merge 2/project 2/edits",
    OTHER: (
        "base/edits base/protect base/protect_merge 1/train 1/merge 1/project 1/edits 2/train 2/merge 2/project 2/edits"
    ),
    "train: {from: base}\nmerge: {when: end, protect: {energy: 0.5}}": (
        "base/edits base/protect 1/train 2/train 2/merge 2/project 2/edits"
    ),
    "merge: {regmean: {tokens: 100}}": (
        "base/edits base/moments 1/train 1/merge 1/regmean 1/edits 2/train 2/merge 2/regmean 2/edits"
    ),
    "train: {from: base}\nmerge: {when: end, regmean: {tokens: 100}}": (
        "base/edits base/moments 1/train 2/train 2/merge 2/regmean 2/edits"
    ),
    "method: rsft\nmerge: {regmean: {tokens: 100}}": "base/edits 1/train 1/edits 2/train 2/edits",
    f"merge: {{protect: {{energy: 0.5}}}}\n{EACH}": (
        "base/edits base/general base/protect 1/train 1/merge 1/project 1/edits 1/general "
        "2/train 2/merge 2/project 2/edits 2/general"
    ),
}
ORDERS += NEW_ORDERS.items()


@pytest.mark.parametrize(("more", "expected"), ORDERS)
def test_stages_of_two_batches(plan_of: PlanOf, more: str, expected: str) -> None:
    assert [n.replace("batch_00", "") for n in names(plan_of(more))] == expected.split()


@pytest.mark.parametrize(
    ("facts", "size", "expected"),
    [(5, 2, [2, 2, 1]), (4, 2, [2, 2]), (3, 10, [3]), (3, 1, [1, 1, 1])],
)
def test_batches_keep_the_order_and_the_last_may_be_smaller(
    plan_of: PlanOf, facts: int, size: int, expected: list[int]
) -> None:
    plan = plan_of(facts=facts, batch_size=size)
    assert [len(b) for b in plan.batches] == expected
    assert [f["id"] for b in plan.batches for f in b] == [f"f{n}" for n in range(facts)]
    assert sum(n.endswith("/train") for n in names(plan)) == len(expected)


def test_split_of_nothing() -> None:
    assert split([], 3) == ()


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, []), (1, ["5"]), (2, ["2", "7"]), (5, ["1", "3", "5", "7", "9"]), (99, list("0123456789"))],
)
def test_examples_are_spread_over_all_facts(count: int, expected: list[str]) -> None:
    assert spread("0123456789", count) == expected


@pytest.mark.parametrize("more", [more for more, _ in ORDERS] + ["merge: {onto: previous}"])
def test_every_stage_has_its_own_name_job_and_output(plan_of: PlanOf, more: str) -> None:
    plan = plan_of(more, facts=7)
    assert len(set(names(plan))) == len(plan.stages)
    assert len({s.output for s in plan.stages}) == len(plan.stages)
    assert len({s.job.file("job.json") for s in plan.stages}) == len(plan.stages)


@pytest.mark.parametrize("more", [more for more, _ in ORDERS] + ["merge: {onto: previous}"])
def test_a_stage_comes_after_what_it_waits_for(plan_of: PlanOf, more: str) -> None:
    plan = plan_of(more, facts=7)
    for position, each in enumerate(plan.stages):
        assert set(each.after) <= set(names(plan)[:position]), each.name


READING = ["", "merge: {onto: previous}", "merge: {when: end}", EACH, *NEW_ORDERS]


@pytest.mark.parametrize("more", READING)
def test_a_stage_waits_for_whatever_made_what_it_reads(plan_of: PlanOf, more: str) -> None:
    plan = plan_of(more, facts=6)
    made = {str(s.output): s.name for s in plan.stages}
    for each in plan.stages:
        arguments = each.job.arguments
        read = {arguments.get(key) for key in ("model", "before", "directions", "moments")}
        read |= {model for tuned in arguments.get("tuned", ()) for model in tuned.values()}
        if each.job.function == "train":
            assert arguments["model"] == file(plan, f"{each.name}.yaml").values["model"]
            read.add(file(plan, f"{each.job.folder.name}/rsft.yaml").values["protect"])
        assert {made[m] for m in read if m in made} == set(each.after), each.name


# -- on which model -----------------------------------------------------------------------------


def trained_from(plan: Plan) -> list[str]:
    return [f.values["model"] for f in plan.files if f.template == "train.yaml"]


def merged(plan: Plan) -> list[tuple[str | None, str]]:
    """Base and tuned model of each merge.yaml."""
    found = [f.values for f in plan.files if f.template == "merge.yaml"]
    return [(v["base_model"], v["models"][-1]["path"]) for v in found]


def test_a_batch_is_trained_from_the_previous_result(plan_of: PlanOf, tmp_path: Path) -> None:
    run = tmp_path / "my runs" / "try"
    each = plan_of("", facts=6)
    assert trained_from(each) == ["/models/original", f"{run}/batch_001/merged", f"{run}/batch_002/merged"]
    assert each.final_model == run / "batch_003" / "merged"

    end = plan_of("merge: {when: end}", facts=6)
    assert trained_from(end) == ["/models/original", f"{run}/batch_001/tuned", f"{run}/batch_002/tuned"]
    assert end.final_model == run / "batch_003" / "merged"


MERGES = [
    ("merge: {onto: base}", [("/models/original", 1), ("/models/original", 2)]),
    ("merge: {onto: previous}", [("/models/original", 1), ("batch_001/merged", 2)]),
    ("merge: {when: end}", [("/models/original", 2)]),
]


@pytest.mark.parametrize(("more", "expected"), MERGES)
def test_what_is_merged_with_what(plan_of: PlanOf, tmp_path: Path, more: str, expected: list[tuple[str, int]]) -> None:
    run = tmp_path / "my runs" / "try"
    plan = plan_of(more)
    assert merged(plan) == [
        (base if base.startswith("/") else f"{run}/{base}", f"{run}/batch_{n:03d}/tuned") for base, n in expected
    ]
    # the check after the merge compares with the same model
    assert [s.job.arguments["before"] for s in plan.stages if s.job.function == "merge"] == [b for b, _ in merged(plan)]


def test_scores_are_of_the_model_that_the_batch_ends_with(plan_of: PlanOf, tmp_path: Path) -> None:
    run = tmp_path / "my runs" / "try"
    asked = {s.name: s.job.arguments["model"] for s in plan_of(EACH).stages if s.job.function in ("score", "general")}
    assert asked == {
        "base/edits": "/models/original",
        "base/general": "/models/original",
        "batch_001/edits": f"{run}/batch_001/merged",
        "batch_001/general": f"{run}/batch_001/merged",
        "batch_002/edits": f"{run}/batch_002/merged",
        "batch_002/general": f"{run}/batch_002/merged",
    }
    unmerged = stage(plan_of("merge: {when: end}"), "batch_001/edits")
    assert unmerged.job.arguments["model"] == f"{run}/batch_001/tuned"


def test_linear_has_no_base_and_two_models(plan_of: PlanOf, tmp_path: Path) -> None:
    plan = plan_of("merge: {method: linear, parameters: {weight: 0.7}}", facts=2, method="linear")
    said = file(plan, "merge.yaml").values
    assert said["base_model"] is None
    assert [(m["path"], m["parameters"]) for m in said["models"]] == [
        ("/models/original", {"weight": 0.3}),
        (f"{tmp_path}/my runs/try/batch_001/tuned", {"weight": 0.7}),
    ]


def test_a_method_for_three_models_is_refused_before_anything_starts(plan_of: PlanOf) -> None:
    with pytest.raises(MergeRefused, match="model_stock needs 3 models"):
        plan_of("merge: {method: model_stock, parameters: {}}", method="model_stock")


# -- which facts --------------------------------------------------------------------------------


def test_text_is_generated_before_and_after_all_batches_for_the_same_facts(plan_of: PlanOf) -> None:
    plan = plan_of("score: {examples: 1, edits: {fluency_facts: 2}}", facts=6)
    generated = {
        s.name: (s.job.arguments["fluency_ids"], s.job.arguments["example_ids"])
        for s in plan.stages
        if s.job.function == "score"
    }
    assert generated == {
        "base/edits": (["f1", "f4"], ["f3"]),
        "batch_001/edits": ([], []),
        "batch_002/edits": ([], []),
        "batch_003/edits": (["f1", "f4"], ["f3"]),
    }


def test_training_data_holds_the_batchs_facts_in_llamafactorys_form(plan_of: PlanOf, tmp_path: Path) -> None:
    batch = tmp_path / "my runs" / "try" / "batch_002"
    plan = plan_of(facts=3)
    assert [(d["id"], d["instruction"], d["output"]) for d in plan.data[batch / "edits.json"]] == [
        ("f2", "Fact 2 is", " new 2<eos>")
    ]
    columns = plan.data[batch / "dataset_info.json"]["edits"]
    assert columns == {"file_name": "edits.json", "columns": {"prompt": "instruction", "response": "output"}}
    assert file(plan, "batch_002/train.yaml").values["dataset_dir"] == str(batch)


# -- files and commands -------------------------------------------------------------------------


def test_everything_is_written_under_the_runs_folder(plan_of: PlanOf, tmp_path: Path) -> None:
    plan = plan_of(EACH)
    run = tmp_path / "my runs" / "try"
    written = [f.path for f in plan.files] + list(plan.data) + [s.output for s in plan.stages]
    written += [s.job.folder for s in plan.stages]
    assert [p for p in written if not p.is_relative_to(run)] == []
    assert not run.exists()  # a plan writes nothing itself


def test_a_stage_works_beside_its_output_until_it_is_whole(plan_of: PlanOf) -> None:
    for each in plan_of(EACH).stages:
        assert each.working == each.output.with_name(each.output.name + ".partial")
        assert each.job.arguments["output"] == str(each.working)


def test_jobs_are_plain_json(plan_of: PlanOf) -> None:
    plan = plan_of(EACH)
    for value in [*(s.job.arguments for s in plan.stages), *(s.settings for s in plan.stages), *plan.data.values()]:
        assert json.loads(json.dumps(value)) == value


def test_commands_survive_a_folder_with_a_space(plan_of: PlanOf, tmp_path: Path) -> None:
    plan = plan_of()
    batch = tmp_path / "my runs" / "try" / "batch_001"
    train, merge = stage(plan, "batch_001/train").stock_command, stage(plan, "batch_001/merge").stock_command
    assert shlex.split(train) == ["llamafactory-cli", "train", str(batch / "train.yaml")]
    assert shlex.split(merge)[:3] == ["mergekit-yaml", str(batch / "merge.yaml"), "OUT"]
    for name, command in (("train.yaml", "llamafactory-cli train"), ("merge.yaml", "mergekit-yaml")):
        rendered = file(plan, f"batch_001/{name}")
        said = next(line for line in render(name, rendered.values).splitlines() if command in line)
        assert str(batch / name) in shlex.split(said.partition(command)[2])


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "slerp", "linear", "nuslerp", "passthrough"])
def test_the_shipped_templates_say_what_the_plan_means(plan_of: PlanOf, method: str) -> None:
    parameters = {"slerp": "t: 0.5", "passthrough": "scale: 1.0"}.get(method, "weight: 0.5")
    plan = plan_of(f"merge: {{method: {method}, parameters: {{{parameters}}}}}", method=method)
    for each in plan.files:
        text = render(each.template, each.values)
        require(content(text, each.template), each.must_say, each.template)
        if each.template == "merge.yaml":
            said: dict[str, Any] = yaml.safe_load(text)
            assert said.get("base_model") == each.values["base_model"]
            assert said.get("parameters", {}) == each.values["parameters"]
            assert [(m["model"], m.get("parameters", {})) for m in said["models"]] == [
                (m["path"], m["parameters"]) for m in each.values["models"]
            ]


def test_numbers_of_the_recipe_reach_the_tools_as_numbers(plan_of: PlanOf) -> None:
    keys = "learning_rate: 1.0e-5, epochs: 3, order: depth, inner_steps: 4, loss_threshold: 0.02"
    plan = plan_of(f"train: {{{keys}}}\nseed: 7")
    train = file(plan, "train.yaml")
    said = yaml.safe_load(render(train.template, train.values))
    assert (said["learning_rate"], said["num_train_epochs"], said["seed"]) == (1e-5, 3, 7)
    rsft = file(plan, "rsft.yaml")
    said = yaml.safe_load(render(rsft.template, rsft.values))
    assert (said["inner_steps"], said["loss_threshold"]) == (4, 0.02)
    assert list(said) == ["inner_steps", "loss_threshold", "trainable"], "what rsft.Settings takes"


# -- layers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "n_layers", "expected"),
    [
        ("all", None, None),
        ("all", 12, None),
        ("last 4", 12, (8, 9, 10, 11)),
        ("4-6", None, (4, 5, 6)),
        ("[2, 0]", 12, (0, 2)),
        ("first 2", None, (0, 1)),
        ("[3, all]", None, None),
    ],
)
def test_layers(
    recipe_of: Callable[..., Recipe], layers: str, n_layers: int | None, expected: tuple[int, ...] | None
) -> None:
    assert layer_numbers(recipe_of(f"train: {{layers: {layers}}}").train.layers, n_layers) == expected


@pytest.mark.parametrize("layers", ["last 4", "[1, last 4]"])
def test_last_layers_need_the_models_configuration(plan_of: PlanOf, layers: str) -> None:
    with pytest.raises(ValueError, match=r"train.layers: .*last 4.* needs the model's number of layers"):
        plan_of(f"train: {{layers: {layers}}}", n_layers=None)


def test_a_layer_that_the_model_does_not_have(plan_of: PlanOf) -> None:
    with pytest.raises(ValueError, match="layer 12 asked for, the model has layers 0 to 11"):
        plan_of("train: {layers: [3, 12]}", n_layers=12)


def test_layers_reach_the_regex_and_llamafactory(plan_of: PlanOf) -> None:
    plan = plan_of("train: {layers: 4-5, modules: down_proj}")
    assert file(plan, "train.yaml").values["freeze_layers"] == -6
    assert file(plan, "train.yaml").values["freeze_modules"] == "mlp"
    pattern = file(plan, "rsft.yaml").values["trainable"]
    assert pattern == stage(plan, "batch_001/merge").job.arguments["trainable"]
    assert "(4|5)" in pattern


def test_device(recipe_of: Callable[..., Recipe], facts_of: Callable[..., Any], place_of: Callable[..., Place]) -> None:
    on_gpu = make_plan(recipe_of(), facts_of(2), replace(place_of(), device="cuda:0"))
    assert "use_cpu" not in render("train.yaml", file(on_gpu, "train.yaml").values)
    on_cpu = make_plan(recipe_of(), facts_of(2), place_of())
    assert yaml.safe_load(render("train.yaml", file(on_cpu, "train.yaml").values))["use_cpu"] is True
    assert stage(on_gpu, "batch_001/merge").job.arguments["device"] == "cuda:0"

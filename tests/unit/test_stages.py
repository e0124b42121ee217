"""The stages of runs that train adapters, train batches apart, or protect what general text uses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from kedit_glue.merging import MergeRefused
from kedit_glue.methods import LEARNED, METHODS, TRAINED
from kedit_glue.plan import Place, Plan, Rendered, Stage
from kedit_glue.render import render
from kedit_glue.stages import partial
from kedit_glue.standing import ROUGHLY

PlanOf = Callable[..., Plan]
APART = "train: {from: base}\nmerge: {when: end}"


def stage(plan: Plan, name: str) -> Stage:
    return next(s for s in plan.stages if s.name == name)


def named(plan: Plan, function: str) -> list[str]:
    return [s.name for s in plan.stages if s.job.function == function]


def files(plan: Plan, name: str) -> list[Rendered]:
    return [f for f in plan.files if f.path.name == name]


def said(file: Rendered) -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load(render(file.template, file.values))
    return found


@pytest.fixture
def run(place_of: Callable[..., Place]) -> Path:
    return place_of().folder


# -- batches that are trained apart -------------------------------------------------------------


def test_batches_trained_apart_all_start_from_the_original_and_are_merged_once(plan_of: PlanOf, run: Path) -> None:
    plan = plan_of(APART, facts=6)
    assert [said(f)["model_name_or_path"] for f in files(plan, "train.yaml")] == 3 * ["/models/original"]
    assert [stage(plan, n).after for n in named(plan, "train")] == [(), (), ()], "in any order, none after another"
    tuned = [f"{run}/batch_00{n}/tuned" for n in (1, 2, 3)]

    assert named(plan, "merge") == ["batch_003/merge"]
    merge = stage(plan, "batch_003/merge")
    assert merge.after == ("batch_001/train", "batch_002/train", "batch_003/train")
    arguments = merge.job.arguments
    assert (arguments["original"], arguments["before"]) == ("/models/original", "/models/original")
    assert (arguments["tuned"], arguments["earlier"]) == ([{"model": t, "adapter": None} for t in tuned], None)

    (merge_yaml,) = map(said, files(plan, "merge.yaml"))
    assert merge_yaml["base_model"] == "/models/original"
    assert merge_yaml["models"] == [{"model": t, "parameters": {"weight": 0.7}} for t in tuned]
    assert plan.final_model == run / "batch_003" / "merged"
    asked = stage(plan, "batch_003/edits").job.arguments
    assert [asked[key] for key in ("new", "upto", "old")] == [0, 6, None]


def test_model_stock_merges_two_batches_and_refuses_one(plan_of: PlanOf) -> None:
    more = "train: {from: base}\nmerge: {when: end, method: model_stock, parameters: {}}"
    plan = plan_of(more, facts=4, method="model_stock")
    assert len(stage(plan, "batch_002/merge").job.arguments["tuned"]) == 2
    with pytest.raises(MergeRefused, match=r"model_stock needs 3 models, here are 2 \(1 tuned and the original\)"):
        plan_of(more, facts=2, method="model_stock")


def test_a_method_for_two_models_refuses_three(plan_of: PlanOf) -> None:
    more = "train: {from: base}\nmerge: {when: end, method: slerp, parameters: {t: 0.5}}"
    plan_of(more, facts=2, method="slerp")
    with pytest.raises(MergeRefused, match=r"slerp takes at most 2, here are 3 models"):
        plan_of(more, facts=4, method="slerp")


# -- adapters -----------------------------------------------------------------------------------


def test_an_adapter_is_merged_with_the_model_that_it_was_trained_on(plan_of: PlanOf, run: Path) -> None:
    plan = plan_of("train: {lora: {rank: 4}}")
    first, second = (stage(plan, f"batch_00{n}/merge") for n in (1, 2))
    assert first.job.arguments["tuned"] == [{"model": "/models/original", "adapter": f"{run}/batch_001/tuned"}]
    assert second.job.arguments["tuned"] == [
        {"model": f"{run}/batch_001/merged", "adapter": f"{run}/batch_002/tuned"},
    ]
    assert second.job.arguments["before"] == "/models/original", "merge.onto: base"
    assert second.after == ("batch_002/train", "batch_001/merge"), "it reads the model below the adapter as well"
    models = [[m["path"] for m in f.values["models"]] for f in files(plan, "merge.yaml")]
    assert models == [
        [f"/models/original+{run}/batch_001/tuned"],
        [f"{run}/batch_001/merged+{run}/batch_002/tuned"],
    ]
    assert [said(f)["model_name_or_path"] for f in files(plan, "train.yaml")] == [
        "/models/original",
        f"{run}/batch_001/merged",
    ]


def test_adapters_that_were_trained_apart_all_belong_to_the_original(plan_of: PlanOf, run: Path) -> None:
    plan = plan_of("train: {from: base, lora: {rank: 4}}\nmerge: {when: end}", facts=6)
    merge = stage(plan, "batch_003/merge")
    assert merge.job.arguments["tuned"] == [
        {"model": "/models/original", "adapter": f"{run}/batch_00{n}/tuned"} for n in (1, 2, 3)
    ]
    assert merge.after == ("batch_001/train", "batch_002/train", "batch_003/train")


# -- several processes --------------------------------------------------------------------------


def test_only_training_is_shared_by_processes(plan_of: PlanOf) -> None:
    plan = plan_of("train: {mini_batch: 6, protect: {directions: 3}}\nlaunch: {processes: 2, nodes: 3}", batch_size=6)
    shared = {s.job.function: (s.job.processes, s.job.nodes) for s in plan.stages}
    assert shared == {"score": (1, 1), "protect": (1, 1), "train": (2, 3), "merge": (1, 1)}
    assert {(s.job.processes, s.job.nodes) for s in plan_of().stages} == {(1, 1)}


# -- what a merge is told of the batch before ---------------------------------------------------


@pytest.mark.parametrize(("onto", "earlier"), [("base", "/models/original"), ("previous", "{run}/batch_001/merged")])
def test_a_batchs_change_is_compared_with_the_one_before(plan_of: PlanOf, run: Path, onto: str, earlier: str) -> None:
    plan = plan_of(f"merge: {{onto: {onto}}}", facts=6)
    told = [s.job.arguments["earlier"] for s in plan.stages if s.job.function == "merge"]
    assert told[0] is None
    assert told[1:] == [
        ["/models/original", f"{run}/batch_001/merged"],
        [earlier.format(run=run), f"{run}/batch_002/merged"],
    ]


@pytest.mark.parametrize(
    ("onto", "second", "third"),
    [
        ("base", ("batch_001/merge",), ("batch_002/merge",)),
        ("previous", ("batch_001/merge",), ("batch_001/merge", "batch_002/merge")),
    ],
)
def test_a_merge_looks_at_the_models_that_the_batch_before_began_and_ended_with(
    plan_of: PlanOf, onto: str, second: tuple[str, ...], third: tuple[str, ...]
) -> None:
    plan = plan_of(f"merge: {{onto: {onto}}}", facts=6)
    assert [stage(plan, f"batch_00{n}/merge").looks_at for n in (1, 2, 3)] == [(), second, third]


def test_what_a_stage_is_going_to_write_is_known(plan_of: PlanOf) -> None:
    tensors = {f"model.layers.{n}.mlp.up_proj.weight": (4, 4) for n in range(12)} | {"lm_head.weight": (8, 24)}
    plan = plan_of("train: {layers: last 6}\nmerge: {protect: {energy: 0.5}}", tensors=tensors, model_bytes=4000)
    assert plan.trained.count == 96 and plan.trained.of == 384
    rooms = {s.job.function: s.room for s in plan.stages}
    assert rooms == {"score": 0, "protect": 0, "train": 4000, "merge": 1000, "project": 1000}
    adapters = plan_of("train: {lora: {rank: 4}}", tensors=tensors, model_bytes=4000)
    assert {s.room for s in adapters.stages if s.job.function == "train"} == {0}
    unknown = plan_of(model_bytes=4000)  # which tensors there are
    assert {s.room for s in unknown.stages if s.job.function == "merge"} == {4000}


def test_a_merge_leaves_its_statistics_beside_it(plan_of: PlanOf, run: Path) -> None:
    merge = stage(plan_of(), "batch_002/merge")
    assert merge.beside == (run / "batch_002" / "merge_stats.json",)
    assert merge.job.arguments["stats"] == str(run / "batch_002" / "merge_stats.json")


# -- protection ---------------------------------------------------------------------------------

PROTECT = "directions: 3, corpus: facts.json, texts: 7"


def test_directions_are_found_once_before_any_training(plan_of: PlanOf, run: Path) -> None:
    plan = plan_of(f"train: {{protect: {{{PROTECT}}}}}\nmerge: {{onto: previous}}", cache=Path("/cache"))
    assert named(plan, "protect") == ["base/protect"]
    protect = stage(plan, "base/protect")
    corpus = protect.reads[0]
    assert (corpus.name, corpus.is_absolute()) == ("facts.json", True)
    assert protect.after == ()
    asked = {"directions": 3, "energy": None, "strength": None, "texts": 7, "corpus": str(corpus)}
    asked["trainable"] = plan.trained.pattern
    assert protect.job.arguments == {
        "model": "/models/original",
        "output": f"{run}/base/protect.safetensors.partial",
        "cache": "/cache",
        "device": "cpu",
        "trust_remote_code": False,
        **asked,
    }
    assert protect.settings.items() >= asked.items(), "another number of directions is another output"
    for number, rsft in enumerate(files(plan, "rsft.yaml"), 1):
        assert "base/protect" in stage(plan, f"batch_00{number}/train").after
        assert said(rsft)["protect"] == str(protect.output)
    assert named(plan_of(), "protect") == []


@pytest.mark.parametrize(("corpus", "read"), [("null", ["background_text.jsonl"]), ("owner/name", [])])
def test_a_corpus_of_the_hub_is_not_read_for_the_ledger(plan_of: PlanOf, corpus: str, read: list[str]) -> None:
    protect = stage(plan_of(f"train: {{protect: {{energy: 0.9, corpus: {corpus}}}}}"), "base/protect")
    assert [path.name for path in protect.reads] == read
    assert protect.job.arguments["corpus"] == yaml.safe_load(corpus)
    assert (protect.job.arguments["directions"], protect.job.arguments["energy"]) == (None, 0.9)


def test_the_same_protection_of_training_and_merge_is_one_stage(plan_of: PlanOf, run: Path) -> None:
    plan = plan_of(f"train: {{protect: {{{PROTECT}}}}}\nmerge: {{protect: {{{PROTECT}}}}}")
    assert named(plan, "protect") == ["base/protect"]
    project = stage(plan, "batch_001/project")
    assert project.after == ("batch_001/merge", "base/protect")
    assert project.job.arguments["directions"] == f"{run}/base/protect.safetensors"
    assert said(files(plan, "rsft.yaml")[0])["protect"] == project.job.arguments["directions"]


def test_another_protection_of_the_merge_is_a_stage_of_its_own(plan_of: PlanOf, run: Path) -> None:
    plan = plan_of(f"train: {{protect: {{{PROTECT}}}}}\nmerge: {{protect: {{strength: 0.5}}, onto: previous}}")
    assert named(plan, "protect") == ["base/protect", "base/protect_merge"]
    soft = stage(plan, "base/protect_merge")
    assert (soft.job.arguments["directions"], soft.job.arguments["strength"]) == (None, 0.5)
    assert said(files(plan, "rsft.yaml")[0])["protect"] == f"{run}/base/protect.safetensors"
    for number, before in enumerate(["/models/original", f"{run}/batch_001/projected"], 1):
        batch = run / f"batch_00{number}"
        project = stage(plan, f"batch_00{number}/project")
        assert project.job.arguments == {
            "model": f"{batch}/merged",
            "before": before,
            "directions": str(soft.output),
            "trainable": plan.trained.pattern,
            "output": f"{batch}/projected.partial",
        }
    assert stage(plan, "batch_002/project").after == ("batch_002/merge", "base/protect_merge", "batch_001/project")


def test_the_projected_model_is_what_is_scored_trained_on_and_left(plan_of: PlanOf, run: Path) -> None:
    plan = plan_of("merge: {protect: {energy: 0.5}}")
    for number in (1, 2):
        projected = f"{run}/batch_00{number}/projected"
        assert stage(plan, f"batch_00{number}/edits").job.arguments["model"] == projected
        assert stage(plan, f"batch_00{number}/edits").after == (f"batch_00{number}/project",)
    assert said(files(plan, "train.yaml")[1])["model_name_or_path"] == f"{run}/batch_001/projected"
    assert "protect" not in said(files(plan, "rsft.yaml")[0]), "training itself is not held back"
    assert plan.final_model == run / "batch_002" / "projected"
    apart = plan_of("train: {from: base}\nmerge: {when: end, protect: {energy: 0.5}}", facts=6)
    assert named(apart, "project") == ["batch_003/project"]
    assert stage(apart, "batch_003/project").job.arguments["before"] == "/models/original"


# -- the stages themselves ----------------------------------------------------------------------


def test_what_is_not_whole_has_a_name_of_its_own() -> None:
    assert partial(Path("/run/base/protect.safetensors")) == Path("/run/base/protect.safetensors.partial")


def test_what_is_trained_is_counted_where_the_tensors_are_known(plan_of: PlanOf) -> None:
    tensors = {f"model.layers.{n}.mlp.up_proj.weight": (4, 4) for n in range(12)} | {"lm_head.weight": (8, 4)}
    assert str(plan_of("train: {layers: last 3}", tensors=tensors).trained) == (
        "48 of 224 parameters (21.4%) in 3 tensors"
    )
    with pytest.raises(ValueError, match=r"train\.modules c_fc finds no parameter of the model"):
        plan_of("train: {modules: c_fc}", tensors=tensors)


# -- regression mean ----------------------------------------------------------------------------


def test_a_merge_and_what_it_was_merged_with_become_their_regression_mean(plan_of: PlanOf, run: Path) -> None:
    plan = plan_of("merge: {regmean: {tokens: 100, texts: 5}, onto: previous}")
    moments = stage(plan, "base/moments")
    asked = moments.job.arguments
    assert (asked["texts"], asked["ridge"], asked["trainable"]) == (5, None, plan.trained.pattern)
    for number, before in enumerate(["/models/original", f"{run}/batch_001/regmean"], 1):
        batch, made = run / f"batch_00{number}", stage(plan, f"batch_00{number}/regmean")
        assert made.job.arguments == {
            "model": f"{batch}/merged",
            "before": before,
            "trainable": plan.trained.pattern,
            "tokens": 100.0,
            "traces": [f"{batch}/trace.jsonl"],
            "moments": f"{run}/base/moments.json",
            "output": f"{batch}/regmean.partial",
            "device": "cpu",
            "trust_remote_code": False,
        }
        assert made.reads == (batch / "trace.jsonl",) and made.settings["tokens"] == 100.0
    assert made.after == ("batch_002/merge", "base/moments", "batch_001/regmean")
    assert stage(plan, "batch_002/train").after[0] == "batch_001/regmean"
    assert plan.final_model == run / "batch_002" / "regmean"


def test_batches_that_are_merged_together_have_one_regression_mean(plan_of: PlanOf, run: Path) -> None:
    plan = plan_of("train: {from: base}\nmerge: {when: end, regmean: {tokens: 100}}", facts=6)
    made = stage(plan, "batch_003/regmean")
    assert made.job.arguments["before"] == "/models/original"
    assert made.job.arguments["traces"] == [f"{run}/batch_00{n}/trace.jsonl" for n in (1, 2, 3)]


# -- how long a stage takes ---------------------------------------------------------------------


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_estimate_knows_each_methods_pace(plan_of: PlanOf, method: str) -> None:
    learns = f"methods: {{{method}: {{train_facts: facts.json}}}}" if method in LEARNED else ""
    plan = plan_of(f"method: {method}\n{learns}", facts=4, n_layers=30)
    unknown = {one.pace for one in plan.stages} - set(ROUGHLY)
    assert unknown == {"score"}, "all others are told from scoring, until they were measured"
    rival = method not in TRAINED
    assert (method in {one.pace for one in plan.stages}) == rival, "ROME's facts take longer than MEND's"


@pytest.mark.parametrize("more", ["merge: {search: {space: ps, evaluations: 4}}", "train: {lora: {rank: 4}}", APART])
def test_all_other_stages_are_told_by_what_they_do(plan_of: PlanOf, more: str) -> None:
    plan = plan_of(more, facts=6)
    assert [one.pace for one in plan.stages] == [one.job.function for one in plan.stages]

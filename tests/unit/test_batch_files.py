"""The files of one edit batch as the tools read them: every setting of the recipe is said, and nothing else."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from kedit_glue import batch_files, strict_yaml
from kedit_glue.files import write_rendered
from kedit_glue.merging import MergeRefused
from kedit_glue.plan import Place, Plan, Rendered, make_plan
from kedit_glue.recipe import Recipe
from kedit_glue.recipe_checks import TRAIN_EXTRA, TRAIN_EXTRA_NEVER
from kedit_glue.render import RenderError, content, render, require

PlanOf = Callable[..., Plan]
MATRICES = [f"mlp.{m}_proj" for m in ("gate", "up", "down")]
TENSORS = {f"model.layers.{n}.{m}.weight": (4, 4) for n in range(12) for m in MATRICES} | {
    "model.embed_tokens.weight": (8, 4),
    "lm_head.weight": (8, 4),
}


def file(plan: Plan, name: str, batch: int = 1) -> Rendered:
    return next(f for f in plan.files if f.path.parts[-2:] == (f"batch_{batch:03d}", name))


def said(plan: Plan, name: str, batch: int = 1) -> dict[str, Any]:
    """What a file's YAML says, checked as it is when it is written."""
    found = file(plan, name, batch)
    text = render(found.template, found.values)
    require(content(text, name), found.must_say, name)
    loaded: dict[str, Any] = strict_yaml.parse_value(text, name)  # no key twice, either
    assert loaded == yaml.safe_load(text)
    return loaded


# -- data ---------------------------------------------------------------------------------------


def test_what_is_trained_besides_stands_behind_its_facts_prompt(
    recipe_of: Callable[..., Recipe], facts_of: Callable[..., Any], place_of: Callable[..., Place]
) -> None:
    first, second = facts_of(2)
    first["also_trained"] = [
        {"prompt": "Said otherwise,", "response": " new 0<eos>"},
        {"prompt": "It rains. Fact 0 is", "response": " new 0<eos>"},
    ]
    plan = make_plan(recipe_of(), [first, second], place_of())
    data = plan.data[place_of().folder / "batch_001" / "edits.json"]
    assert [(d["id"], d["prompt"], d["instruction"], d["output"], d["target_new"]) for d in data] == [
        ("f0", "Fact 0 is", "Fact 0 is", " new 0<eos>", "new 0"),
        ("f0", "Said otherwise,", "Said otherwise,", " new 0<eos>", "new 0"),
        ("f0", "It rains. Fact 0 is", "It rains. Fact 0 is", " new 0<eos>", "new 0"),
        ("f1", "Fact 1 is", "Fact 1 is", " new 1<eos>", "new 1"),
    ]
    (score,) = (s for s in plan.stages if s.name == "batch_001/edits")
    assert [score.job.arguments[key] for key in ("new", "upto", "old")] == [0, 2, None]


def test_names_of_batches_sort_in_their_order() -> None:
    assert [batch_files.batch_name(n) for n in (1, 10, 11, 124)] == [
        "batch_001",
        "batch_010",
        "batch_011",
        "batch_124",
    ]


# -- train.yaml ---------------------------------------------------------------------------------


def test_every_setting_of_training_is_said(plan_of: PlanOf, tmp_path: Path) -> None:
    run = tmp_path / "my runs" / "try" / "batch_002"
    keys = (
        "layers: 4-5, epochs: 3, mini_batch: 2, learning_rate: 2.0e-5, weight_decay: 0.1, max_grad_norm: 0.5, "
        "precision: bf16, template: llama3, cutoff_len: 64, shuffle: false, extra: {warmup_steps: 3}"
    )
    plan = plan_of(f"train: {{{keys}}}\nseed: 7\ntrust_remote_code: true", device="cuda:0")
    assert said(plan, "train.yaml", 2) == {
        "model_name_or_path": f"{run.parent}/batch_001/merged",
        "trust_remote_code": True,
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "freeze",
        "freeze_trainable_modules": "mlp",
        "freeze_trainable_layers": -6,
        "dataset": "edits",
        "dataset_dir": str(run),
        "template": "llama3",
        "cutoff_len": 64,
        "overwrite_cache": True,
        "dataloader_num_workers": 0,
        "num_train_epochs": 3,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "disable_shuffling": True,
        "learning_rate": 2e-5,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused",
        "weight_decay": 0.1,
        "max_grad_norm": 0.5,
        "disable_gradient_checkpointing": True,
        "bf16": True,
        "seed": 7,
        "output_dir": str(run / "tuned"),
        "overwrite_output_dir": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "warmup_steps": 3,
    }


@pytest.mark.parametrize("more", ["", "lora: {rank: 2}, "], ids=["full", "lora"])
def test_a_further_key_is_refused_by_name_or_takes_the_place_of_the_templates(plan_of: PlanOf, more: str) -> None:
    plan = plan_of(f"train: {{{more}layers: 4-5}}", tensors=TENSORS)
    given = set(said(plan, "train.yaml")) - TRAIN_EXTRA.keys() - TRAIN_EXTRA_NEVER.keys()
    assert given == {"lr_scheduler_type", "optim"} | ({"lora_dropout"} if more else set())
    extra = ", ".join(f"{key}: mine" for key in sorted(given))
    found = said(plan_of(f"train: {{{more}layers: 4-5, extra: {{{extra}}}}}", tensors=TENSORS), "train.yaml")
    assert {key: found[key] for key in given} == dict.fromkeys(given, "mine")


@pytest.mark.parametrize(
    ("template", "expected"), [("bare", "empty"), ("empty", "empty"), ("chat", None), ("qwen", "qwen")]
)
def test_the_models_own_chat_template_is_the_one_that_is_not_named(
    plan_of: PlanOf, template: str, expected: str | None
) -> None:
    found = said(plan_of(f"train: {{template: {template}}}"), "train.yaml")
    assert found.get("template") == expected
    assert ("template" in found) == (template != "chat")


@pytest.mark.parametrize(("asked", "disabled"), [("true", False), ("false", True)])
def test_gradient_checkpointing_is_off_unless_it_is_asked_for(plan_of: PlanOf, asked: str, disabled: bool) -> None:
    """LLaMA-Factory's own default is on (0.9.5, hparams/model_args.py, ``disable_gradient_checkpointing``)."""
    found = said(plan_of(f"train: {{gradient_checkpointing: {asked}}}"), "train.yaml")
    assert found["disable_gradient_checkpointing"] is disabled
    assert said(plan_of(), "train.yaml")["disable_gradient_checkpointing"] is True


LORA = [
    ("rank: 4", "all", ",".join(sorted(MATRICES)), 4, 8),
    ("rank: 8, alpha: 3", "[0, 11]", ",".join(sorted(f"{n}.{m}" for n in (0, 11) for m in MATRICES)), 8, 3),
]


@pytest.mark.parametrize(("lora", "layers", "target", "rank", "alpha"), LORA)
def test_adapters(plan_of: PlanOf, lora: str, layers: str, target: str, rank: int, alpha: int) -> None:
    plan = plan_of(f"train: {{lora: {{{lora}}}, layers: {layers}}}", tensors=TENSORS)
    found = said(plan, "train.yaml")
    assert {key: value for key, value in found.items() if key.startswith(("lora", "finetuning", "freeze"))} == {
        "finetuning_type": "lora",
        "lora_target": target,
        "lora_rank": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
    }
    assert said(plan, "rsft.yaml")["trainable"] == plan.trained.pattern


def test_a_template_of_the_users_must_know_of_adapters(plan_of: PlanOf, tmp_path: Path) -> None:
    shipped = render("train.yaml", file(plan_of(), "train.yaml").values)
    (tmp_path / "train.yaml.j2").write_text(shipped)  # made for freeze
    adapters = file(plan_of("train: {lora: {rank: 4}}"), "train.yaml")
    with pytest.raises(RenderError, match=r"finetuning_type: 'freeze' .*; lora_rank: None .*; lora_alpha: None"):
        write_rendered([adapters], tmp_path)


def test_parameters_by_name_and_what_lies_outside_the_layers(plan_of: PlanOf) -> None:
    def frozen(more: str) -> dict[str, Any]:
        found = said(plan_of(f"train: {{parameters: {more}}}", tensors=TENSORS), "train.yaml")
        return {key: value for key, value in found.items() if key.startswith("freeze_")}

    inside = {"freeze_trainable_modules": "all", "freeze_trainable_layers": 1000}
    assert frozen(r"'layers\.[23]\.mlp'") == inside
    assert frozen(r"'layers\.[23]\.mlp|lm_head|embed'") == {**inside, "freeze_extra_modules": "embed_tokens,lm_head"}


def test_a_regular_expression_comes_through_yaml_as_it_is(plan_of: PlanOf) -> None:
    pattern = r"^model\.layers\.(2|3)\.mlp: # 'x'|lm_head\.weight$"
    written = pattern.replace("'", "''")
    plan = plan_of(f"train: {{parameters: '{written}'}}", tensors=TENSORS)
    assert said(plan, "rsft.yaml")["trainable"] == plan.trained.pattern == pattern
    arguments = next(s.job.arguments for s in plan.stages if s.job.function == "merge")
    assert arguments["trainable"] == pattern


@pytest.mark.parametrize(
    ("launch", "device", "each", "backend"),
    [
        ("{processes: 1}", "cpu", 4, None),
        ("{processes: 2}", "cpu", 2, "gloo"),
        ("{processes: 4}", "cpu", 1, "gloo"),
        ("{processes: 2}", "cuda:0", 2, None),
        ("{nodes: 2}", "cpu", 2, "gloo"),
        ("{nodes: 2, processes: 2}", "cpu", 1, "gloo"),
    ],
)
def test_processes_share_a_mini_batch(
    plan_of: PlanOf, launch: str, device: str, each: int, backend: str | None
) -> None:
    found = said(plan_of(f"train: {{mini_batch: 4}}\nlaunch: {launch}", batch_size=4, device=device), "train.yaml")
    assert found["per_device_train_batch_size"] == each
    assert found.get("ddp_backend") == backend
    assert found.get("use_cpu") == (True if device == "cpu" else None)


# -- rsft.yaml ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "steps", "words"),
    [
        ("order: breadth", 1, "breadth first (no inner loop)"),
        ("order: depth", 10, "depth first (the inner loop)"),
        ("order: depth, inner_steps: 4", 4, "depth first (the inner loop)"),
    ],
)
def test_order(plan_of: PlanOf, keys: str, steps: int, words: str) -> None:
    plan = plan_of(f"train: {{{keys}}}")
    assert said(plan, "rsft.yaml")["inner_steps"] == steps
    assert words in render("rsft.yaml", file(plan, "rsft.yaml").values)


def test_a_template_that_drops_the_protection_is_refused(plan_of: PlanOf) -> None:
    rsft = file(plan_of("train: {protect: {directions: 3, corpus: facts.json}}"), "rsft.yaml")
    shipped = render(rsft.template, rsft.values)
    require(content(shipped, "rsft.yaml"), rsft.must_say, "rsft.yaml")
    without = "\n".join(line for line in shipped.splitlines() if not line.startswith("protect:"))
    with pytest.raises(RenderError, match=r"rsft\.yaml does not say what the recipe says: protect: None"):
        require(content(without, "rsft.yaml"), rsft.must_say, "rsft.yaml")


# -- merge.yaml ---------------------------------------------------------------------------------


def test_merge_settings(plan_of: PlanOf, tmp_path: Path) -> None:
    keys = (
        "method: ties, onto: previous, parameters: {density: 0.3, weight: [{filter: mlp, value: [0.2, 1]}, {value: 0}]}"
    )
    plan = plan_of(f"train: {{precision: bf16}}\nmerge: {{{keys}, extra: {{tokenizer_source: base}}}}", method="ties")
    run = tmp_path / "my runs" / "try"
    weight = [{"filter": "mlp", "value": [0.2, 1]}, {"value": 0}]
    assert said(plan, "merge.yaml", 2) == {
        "merge_method": "ties",
        "base_model": f"{run}/batch_001/merged",
        "models": [{"model": f"{run}/batch_002/tuned", "parameters": {"density": 0.3, "weight": weight}}],
        "parameters": {"normalize": False},
        "dtype": "float32",
        "out_dtype": "bfloat16",
        "tokenizer_source": "base",
    }


OWN = r"""
merge_method: ties
base_model: original
models:
  - model: previous
    parameters: {weight: [0.1, 1e-5], density: [{filter: mlp, value: [0.2, 1]}, {value: 0.5}]}
  - model: tuned
    parameters:
      weight: 0.5
parameters: {normalize: false, lambda: 1.0}
dtype: float32
tokenizer:
  source: union
  tokens: {"<|x: #'\"|>": {force: true}, "no": {source: owner/name}}
note: "two\nlines, {{ braces }}, 2026-01-01, no, 007, ŁÓDŹ"
"""


@pytest.fixture
def own_merge(tmp_path: Path) -> str:
    (tmp_path / "own merge.yaml").write_text(OWN, encoding="utf-8")
    return str(tmp_path / "own merge.yaml")


def test_a_merge_yaml_of_the_users_is_written_with_the_runs_models(
    plan_of: PlanOf, own_merge: str, tmp_path: Path
) -> None:
    content = strict_yaml.load(Path(own_merge))[0]
    plan = plan_of(f"merge: {{file: '{own_merge}'}}", facts=6, merge_file=content)
    edits = write_rendered([file(plan, "merge.yaml", n) for n in (1, 2, 3)], None)
    assert edits == []
    run = tmp_path / "my runs" / "try"
    for number, before in enumerate(["/models/original", f"{run}/batch_001/merged", f"{run}/batch_002/merged"], 1):
        path = run / f"batch_00{number}" / "merge.yaml"
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
        own = content["models"]
        assert loaded == {
            **content,
            "base_model": "/models/original",
            "models": [{**own[0], "model": before}, {**own[1], "model": str(path.parent / "tuned")}],
        }
        assert loaded["models"][0]["parameters"]["weight"] == [0.1, 1e-5]
        head = path.read_text(encoding="utf-8").splitlines()[:2]
        assert f"{own_merge} (merge.file)" in head[0]
        assert shlex.split(head[1].partition("mergekit-yaml ")[2]) == [str(path), "OUT"]
    # what is named is waited for, so that keep: last does not delete it
    merges = [s.after for s in plan.stages if s.job.function == "merge"]
    assert merges == [
        ("batch_001/train",),
        ("batch_002/train", "batch_001/merge"),
        ("batch_003/train", "batch_002/merge"),
    ]


@pytest.mark.parametrize("apart", [True, False])
def test_a_merge_yaml_of_the_users_at_the_end(plan_of: PlanOf, own_merge: str, tmp_path: Path, apart: bool) -> None:
    content = strict_yaml.load(Path(own_merge))[0]
    start = "base" if apart else "previous"
    more = f"train: {{from: {start}}}\nmerge: {{when: end, file: '{own_merge}'}}"
    models = said(plan_of(more, facts=6, merge_file=content), "merge.yaml", 3)["models"]
    tuned = [f"{tmp_path}/my runs/try/batch_00{n}/tuned" for n in (1, 2, 3)]
    # what was there before the one merge is the original
    assert [m["model"] for m in models] == ["/models/original", *(tuned if apart else tuned[-1:])]


def test_a_merge_yaml_without_the_tuned_model_is_refused_before_anything_starts(plan_of: PlanOf) -> None:
    with pytest.raises(MergeRefused, match=r"merge\.file names no model 'tuned'"):
        plan_of("", merge_file={"merge_method": "linear", "models": [{"model": "original"}]})


@pytest.mark.parametrize("own_file", [True, False])
def test_odd_paths_come_through_every_file(
    recipe_of: Callable[..., Recipe],
    facts_of: Callable[..., Any],
    place_of: Callable[..., Place],
    tmp_path: Path,
    own_file: bool,
) -> None:
    odd = tmp_path / 'it\'s: #1 "{{ x }}" ŁÓDŹ $HOME'
    content = {"merge_method": "linear", "models": [{"model": "tuned"}, {"model": "original"}]} if own_file else None
    place = replace(place_of(), folder=odd / "run", model=str(odd / "model"), merge_file=content)
    recipe = recipe_of("train: {lora: {rank: 2}, protect: {energy: 0.9}}")
    plan = make_plan(recipe, facts_of(2), place)
    assert write_rendered(plan.files, None) == []
    batch = odd / "run" / "batch_001"
    train, rsft, merge = (yaml.safe_load((batch / f"{n}.yaml").read_text("utf-8")) for n in ("train", "rsft", "merge"))
    assert (train["model_name_or_path"], train["output_dir"]) == (f"{odd}/model", f"{batch}/tuned")
    assert rsft["protect"] == f"{odd}/run/base/protect.safetensors"
    assert merge["models"][0]["model"] == f"{odd}/model+{batch}/tuned"
    for name, command in (("train", "llamafactory-cli train"), ("merge", "mergekit-yaml")):
        lines = (batch / f"{name}.yaml").read_text("utf-8").splitlines()
        said_there = next(line for line in lines if command in line).partition(command)[2]
        assert shlex.split(said_there)[0] == str(batch / f"{name}.yaml")

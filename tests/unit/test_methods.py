"""What ``method:`` makes of a recipe, and EasyEdit's hparams. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from kedit_glue import methods
from kedit_glue.merging import MergeMethod
from kedit_glue.plan import make_plan
from kedit_glue.problems import RecipeError
from kedit_glue.recipe import Recipe, load_recipe
from kedit_glue.recipe_methods import Method
from kedit_glue.stages import Place

LLAMA = {
    "model.embed_tokens.weight": (100, 8),
    **{
        f"model.layers.{n}.{part}.weight": shape
        for n in range(12)
        for part, shape in {
            "input_layernorm": (8,),
            "self_attn.q_proj": (8, 8),
            "self_attn.v_proj": (8, 8),
            "mlp.gate_proj": (32, 8),
            "mlp.down_proj": (8, 32),
        }.items()
    },
    "model.norm.weight": (8,),
}
GPT2 = {
    "transformer.wte.weight": (100, 8),
    **{
        f"transformer.h.{n}.{part}.weight": shape
        for n in range(12)
        for part, shape in {"ln_1": (8,), "attn.c_proj": (8, 8), "mlp.c_fc": (8, 32), "mlp.c_proj": (32, 8)}.items()
    },
    "transformer.ln_f.weight": (8,),
}
FACTS = [
    {
        "id": f"f{n}",
        "prompt": f"The mayor of {place} is",
        "target_new": "Ada",
        "subject": place,
        "ground_truth": None,
        "response": " Ada",
        "also_trained": [],
    }
    for n, place in enumerate(["Alba", "Brunn", "Corvo"])
]


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    """Makes a recipe of a method, with lines of its own."""
    (tmp_path / "facts.json").write_text("[]", encoding="utf-8")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"num_hidden_layers": 12}', encoding="utf-8")

    def make(method: str, more: str = "", *overrides: str) -> Recipe:
        text = f"name: t\nmodel: {tmp_path}/model\nmethod: {method}\n"
        text += f"edits: {{source: {tmp_path}/facts.json, batch_size: 2}}\n{more}"
        (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
        return load_recipe(tmp_path / "recipe.yaml", overrides)

    return make


def place(folder: Path, tensors: Any = LLAMA) -> Place:
    method = MergeMethod("task_arithmetic", "required", 1, None, {"weight": "non_base"})
    return Place(folder, "/m", "print", "cpu", 12, method, {}, Path("/cache"), tensors)


def test_every_method_is_described() -> None:
    assert set(get_args(Method)) == methods.METHODS.keys()
    page = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
    for name in methods.METHODS:
        assert f"| `{name}` |" in page
        assert f"- **{name}** " in page


@pytest.mark.parametrize("method", ["rsft_merge", "rsft"])
def test_training_stays_as_the_recipe_has_it(recipe: Any, method: str) -> None:
    assert recipe(method, "train: {loss_threshold: 0.3, epochs: 7}\n").train.loss_threshold == 0.3


def test_sft_leaves_no_fact_alone(recipe: Any) -> None:
    train = recipe("sft", "train: {loss_threshold: 0.3, epochs: 7}\n").train
    assert (train.loss_threshold, train.epochs) == (0.0, 7)


def test_locft_bf_is_our_trainer_in_another_setting(recipe: Any) -> None:
    more = "extra: {use_muon: true}"
    train = recipe(
        "locft_bf", f"train: {{layers: 1-3, protect: {{directions: 4}}, epochs: 7, order: depth, {more}}}\n"
    ).train
    assert train.extra == {}
    assert train.modules == ("down_proj",)
    assert (train.order, train.steps_in_a_row, train.epochs) == ("breadth", 1, 25)
    assert train.mini_batch == 2  # the edit batch holds no more
    assert not train.protect.on


def stages(recipe: Recipe, tmp_path: Path) -> list[str]:
    return [s.name for s in make_plan(recipe, FACTS, place(tmp_path)).stages]


@pytest.mark.parametrize(
    ("method", "found"),
    [
        ("rsft_merge", ["train", "merge", "edits"]),
        ("rsft", ["train", "edits"]),
        ("locft_bf", ["train", "edits"]),
        ("ft_l", ["edit", "edits"]),
        ("adalora", ["edit", "edits"]),
        ("ice", ["edit", "edits"]),
    ],
)
def test_stages_of_a_batch(recipe: Any, tmp_path: Path, method: str, found: list[str]) -> None:
    more = f"methods: {{{method}: {{layers: [3]}}}}\n" if method in ("ft_l", "locft_bf") else ""
    names = stages(recipe(method, more), tmp_path)
    assert [n for n in names if n.startswith("batch_001/")] == [f"batch_001/{kind}" for kind in found]


@pytest.mark.parametrize("method", ["memit", "emmet", "rome"])
def test_second_moments_come_first_where_they_are_read(recipe: Any, tmp_path: Path, method: str) -> None:
    assert ("base/moments" in stages(recipe(method), tmp_path)) == (method != "rome")
    adjusted = recipe("rome", "methods: {rome: {mom2_adjustment: true}}\n")
    assert "base/moments" in stages(adjusted, tmp_path)


def test_protection_of_a_method_that_is_not_chosen_costs_nothing(recipe: Any, tmp_path: Path) -> None:
    assert "base/protect" not in stages(recipe("memit", "train: {protect: {directions: 4}}\n"), tmp_path)


def test_each_batch_is_edited_into_what_the_batch_before_left(recipe: Any, tmp_path: Path) -> None:
    plan = make_plan(recipe("memit"), FACTS, place(tmp_path))
    first, second = (s for s in plan.stages if s.job.function == "edit")
    assert first.job.arguments["model"] == "/m"
    assert second.job.arguments["model"] == str(tmp_path / "batch_001" / "edited")
    assert second.after == ("batch_001/edit", "base/moments")
    assert plan.final_model == tmp_path / "batch_002" / "edited"


@pytest.mark.parametrize(
    ("tensors", "found"),
    [
        (LLAMA, ("model.layers.{}.mlp.down_proj", "model.layers.{}.mlp", "model.layers.{}.self_attn", "model.norm")),
        (GPT2, ("transformer.h.{}.mlp.c_proj", "transformer.h.{}.mlp", "transformer.h.{}.attn", "transformer.ln_f")),
    ],
)
def test_module_names_are_the_models_own(recipe: Any, tensors: Any, found: tuple[str, ...]) -> None:
    said = methods.hparams(recipe("memit"), "/m", 12, tensors, "/cache")
    keys = ("rewrite_module_tmp", "mlp_module_tmp", "attn_module_tmp", "ln_f_module")
    assert tuple(said[key] for key in keys) == found
    assert said["lm_head_module"] in tensors or f"{said['lm_head_module']}.weight" in tensors  # tied
    assert said["layers"] == [4, 5, 6, 7, 8]
    assert said["v_loss_layer"] == 11


def test_keys_that_the_recipe_lacks_are_passed_on(recipe: Any) -> None:
    made = recipe("rome", "methods: {rome: {extra: {context_template_length_params: [[5, 1]]}}}\n")
    assert methods.hparams(made, "/m", 12, LLAMA, "/cache")["context_template_length_params"] == [[5, 1]]


@pytest.mark.parametrize(("method", "found"), [("memit", list(range(12))), ("ft_l", list(range(12))), ("adalora", [])])
def test_all_layers_in_the_editors_own_words(recipe: Any, method: str, found: list[int]) -> None:
    """AdaLoRA's empty list is peft's ``layers_to_transform=None`` (lora_main.py), MEMIT's would be no layer."""
    made = recipe(method, f"methods: {{{method}: {{layers: all}}}}\n")
    assert methods.hparams(made, "/m", 12, LLAMA, "/cache")["layers"] == found


def test_a_model_without_such_a_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match="the model has no matrix called down_proj, c_proj"):
        methods.second_matrix({"model.layers.0.experts.w1.weight": (8, 8)})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("method: memitt\n", "memit"),
        ("method: rsft\ntrain: {from: base}\nmerge: {when: end}\n", "base, while method is rsft"),
        ("method: sft\ntrain: {lora: {rank: 4}}\n", "4, while method is sft: nothing merges the adapters"),
        ("method: rome\nmethods: {rome: {v_lrr: 1.0}}\n", "v_lr"),
        ("method: rome\nmethods: {rome: {fact_token: last}}\n", "subject_last"),
        ("method: ft_m\nmethods: {easyedit: /no/such/folder}\n", "no such folder"),
        ("method: memit\nmethods: {memit: {moments: nowhere.jsonl}}\n", "no such file"),
        ("method: rome\nmethods: {rome: {extra: {fp16: true}}}\n", "allowed: context_template_length_params"),
        ("method: rome\nmethods: {rome: {extra: {v_lr: 1}}}\n", "set it with 'methods.rome.v_lr'"),
        (
            "method: memit\nmethods: {memit: {extra: {rewrite_module_tmp: x}}}\n",
            "MEMIT reads no such key, or it follows from the model and from methods.memit; allowed: no further key",
        ),
        ("method: ice\nmethods: {ice: {encoder: /no/such/folder}}\n", "no such folder"),
    ],
)
def test_what_cannot_work_is_said(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "facts.json").write_text("[]", encoding="utf-8")
    path = tmp_path / "recipe.yaml"
    head = f"name: t\nmodel: smollm2-135m\nedits: {{source: {tmp_path}/facts.json}}\n"
    path.write_text(head + text, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert said in str(caught.value)


def test_settings_of_methods_that_are_not_chosen_may_stay(recipe: Any) -> None:
    assert recipe("rsft_merge", "methods: {rome: {v_lr: 0.1}, ft_l: {layers: [3]}}\n").methods.rome.v_lr == 0.1

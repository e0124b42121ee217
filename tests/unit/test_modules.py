"""``train.modules`` and ``train.layers`` find the parameters that they mean, and no others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod
from typing import Any

import pytest

from kedit_glue.modules import (
    FFN_MATRICES,
    Trained,
    freeze_layers,
    freeze_modules,
    lora_target,
    trainable_pattern,
    trained,
)
from kedit_glue.recipe_schema import Train


def names(layer: str, modules: Sequence[str]) -> list[str]:
    return [f"{layer}.{m}.weight" for m in modules]


LLAMA = [
    *(f"mlp.{m}_proj" for m in ("gate", "up", "down")),
    *(f"self_attn.{m}_proj" for m in "qkvo"),
    "input_layernorm",
    "post_attention_layernorm",
]
# per model type: a layer's place, the modules in it
LAYOUTS = {
    "llama": ("model.layers.{}", LLAMA),
    "mistral": ("model.layers.{}", LLAMA),
    "qwen": ("model.layers.{}", [*LLAMA, "self_attn.q_norm", "self_attn.k_norm"]),
    "gemma": ("model.layers.{}", [*LLAMA, "pre_feedforward_layernorm", "post_feedforward_layernorm"]),
    "phi-3": ("model.layers.{}", ["mlp.gate_up_proj", "mlp.down_proj", "self_attn.qkv_proj", "self_attn.o_proj"]),
    "gpt2": ("transformer.h.{}", ["mlp.c_fc", "mlp.c_proj", "attn.c_attn", "attn.c_proj", "ln_1", "ln_2"]),
    "gpt-j": ("transformer.h.{}", ["mlp.fc_in", "mlp.fc_out", "attn.q_proj", "attn.out_proj", "ln_1"]),
    "gpt-neox": ("gpt_neox.layers.{}", ["mlp.dense_h_to_4h", "mlp.dense_4h_to_h", "attention.dense"]),
    "phi": ("model.layers.{}", ["mlp.fc1", "mlp.fc2", "self_attn.dense", "input_layernorm"]),
    "qwen-moe": ("model.layers.{}", ["mlp.experts.3.down_proj", "mlp.experts.4.up_proj", "self_attn.o_proj"]),
}
OUTSIDE = ["model.embed_tokens.weight", "transformer.wte.weight", "lm_head.weight", "model.norm.weight"]


def everything(layout: str, n_layers: int) -> list[str]:
    place, inside = LAYOUTS[layout]
    return [n for layer in range(n_layers) for n in names(place.format(layer), inside)] + OUTSIDE


def found(layout: str, modules: Sequence[str], layers: Sequence[int] | None, n_layers: int = 42) -> list[str]:
    pattern = re.compile(trainable_pattern(modules, layers))
    return [n for n in everything(layout, n_layers) if pattern.search(n)]


CASES: list[tuple[str, list[str], list[str]]] = [
    ("llama", ["down_proj"], ["mlp.down_proj"]),
    ("llama", ["gate_proj", "up_proj"], ["mlp.gate_proj", "mlp.up_proj"]),
    ("llama", ["mlp"], ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]),
    *((model, ["mlp"], LLAMA[:3]) for model in ("mistral", "qwen", "gemma")),
    ("gemma", ["down_proj", "self_attn"], ["mlp.down_proj", *LLAMA[3:7]]),
    ("phi-3", ["mlp"], ["mlp.gate_up_proj", "mlp.down_proj"]),
    ("phi-3", ["gate_up_proj"], ["mlp.gate_up_proj"]),
    ("gpt2", ["c_proj"], ["mlp.c_proj"]),  # attention has a c_proj, too
    ("gpt2", ["mlp"], ["mlp.c_fc", "mlp.c_proj"]),
    ("gpt-j", ["fc_in"], ["mlp.fc_in"]),
    ("gpt-neox", ["dense_4h_to_h"], ["mlp.dense_4h_to_h"]),
    ("gpt-j", ["mlp"], ["mlp.fc_in", "mlp.fc_out"]),
    ("phi", ["mlp"], ["mlp.fc1", "mlp.fc2"]),
    ("phi", ["fc1"], ["mlp.fc1"]),
    ("phi", ["fc1", "self_attn"], ["mlp.fc1", "self_attn.dense"]),
    ("qwen-moe", ["down_proj"], ["mlp.experts.3.down_proj"]),
]


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.mlp.gate_proj.weight",  # Llama, Mistral, Qwen, Gemma
        "model.layers.31.mlp.down_proj.weight",
        "transformer.h.0.mlp.c_fc.weight",  # GPT-2
        "transformer.h.0.mlp.c_fc.bias",
        "h.0.mlp.c_proj.weight",  # GPT-2's file
        "transformer.h.0.mlp.fc_in.weight",  # GPT-J
        "model.layers.0.mlp.fc1.weight",  # Phi
        "gpt_neox.layers.0.mlp.dense_h_to_4h.weight",
        "base_model.model.model.layers.0.mlp.up_proj.lora_A.default.weight",  # an adapter on any of them
    ],
)
def test_a_feed_forward_parameter_is_found_by_its_module_and_its_matrix(name: str) -> None:
    matrix = name.partition("mlp.")[2].split(".")[0]
    for modules in (["mlp"], [matrix], ["self_attn", matrix]):
        assert re.search(trainable_pattern(modules, None), name)
        assert re.search(trainable_pattern(modules, [0, 31]), name)
        assert not re.search(trainable_pattern(modules, [3]), name)
    assert not re.search(trainable_pattern(["self_attn", "attn"], None), name)


@pytest.mark.parametrize(("layout", "modules", "expected"), CASES)
def test_only_layer_4_and_only_these_modules(layout: str, modules: list[str], expected: list[str]) -> None:
    assert found(layout, modules, [4]) == names(LAYOUTS[layout][0].format(4), expected)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [([4], [4]), ([1, 14], [1, 14]), ([0], [0]), (None, list(range(42)))],
)
def test_layers_are_whole_numbers_not_beginnings_of_numbers(layers: list[int] | None, expected: list[int]) -> None:
    assert found("llama", ["down_proj"], layers) == [f"model.layers.{n}.mlp.down_proj.weight" for n in expected]


def test_an_experts_number_is_no_layer() -> None:
    assert found("qwen-moe", ["down_proj"], [3], 3) == []


def test_a_module_is_a_whole_name() -> None:
    assert not re.search(trainable_pattern(["mlp"], None), "model.layers.4.mlp_norm.weight")
    assert not re.search(trainable_pattern(["fc1"], None), "model.layers.4.mlp.fc10.weight")


@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        (["mlp"], "mlp"),
        (["down_proj"], "mlp"),
        (["up_proj", "down_proj"], "mlp"),
        (["mlp", "down_proj"], "mlp"),
        (["self_attn", "fc1"], "mlp,self_attn"),
    ],
)
def test_llamafactory_is_told_the_module_around_a_matrix(modules: list[str], expected: str) -> None:
    assert freeze_modules(modules) == expected


@pytest.mark.parametrize("matrix", sorted(FFN_MATRICES))
def test_every_known_matrix_lies_in_mlp(matrix: str) -> None:
    assert freeze_modules([matrix]) == "mlp"


@pytest.mark.parametrize(("layers", "expected"), [([4], -5), ([4, 8, 6], -9), ([0], -1)])
def test_llamafactory_is_told_the_first_layers_up_to_the_last_one_trained(layers: list[int], expected: int) -> None:
    assert freeze_layers(layers) == expected


def test_all_layers_are_more_than_any_model_has() -> None:
    assert freeze_layers(None) == 1000


# -- a recipe and a model -----------------------------------------------------------------------


def shapes(layout: str, n_layers: int = 4) -> dict[str, tuple[int, ...]]:
    """Name -> shape: matrices of 6 numbers, norms of 3."""
    return {name: (3,) if "norm" in name or ".ln_" in name else (2, 3) for name in everything(layout, n_layers)}


def what(layout: str, **keys: Any) -> Trained:
    return trained(Train.model_validate(keys), 4, shapes(layout))


def test_modules_and_layers_are_counted() -> None:
    tensors = shapes("llama")
    found = what("llama", modules="down_proj", layers="last 2")
    assert found.pattern == trainable_pattern(["down_proj"], [2, 3])
    assert (found.freeze_modules, found.freeze_layers, found.freeze_extra_modules) == ("mlp", -4, "")
    assert (found.tensors, found.count, found.of) == (2, 12, sum(map(prod, tensors.values())))
    assert str(found) == f"12 of {found.of} parameters ({12 / found.of:.1%}) in 2 tensors"
    assert what("llama").tensors == 12 and what("llama").freeze_layers == 1000


def test_large_numbers_are_readable() -> None:
    many = {"model.layers.0.mlp.up_proj.weight": (1000, 3000), "lm_head.weight": (1000, 9000)}
    assert str(trained(Train(), 1, many)) == "3,000,000 of 12,000,000 parameters (25.0%) in 1 tensors"


@pytest.mark.parametrize(
    ("layout", "pattern", "count", "outside"),
    [
        ("llama", r"layers\.[01]\.mlp\.down_proj", 2, ""),
        ("llama", r"down_proj|^lm_head|embed_tokens", 6, "embed_tokens,lm_head"),
        ("llama", r"model\.norm", 1, "norm"),
        ("gpt2", r"mlp\.c_fc|wte", 5, "wte"),
        ("llama", "lm_head", 1, "lm_head"),
    ],
)
def test_parameters_by_their_own_names(layout: str, pattern: str, count: int, outside: str) -> None:
    found = what(layout, parameters=pattern)
    assert (found.pattern, found.tensors, found.freeze_extra_modules) == (pattern, count, outside)
    assert (found.freeze_modules, found.freeze_layers) == ("all", 1000), "all of LLaMA-Factory's, narrowed by R-SFT"


LLAMA_0 = ", ".join(sorted(f"model.layers.0.{m}" for m in LLAMA))


@pytest.mark.parametrize(
    ("keys", "asked"),
    [
        ({"modules": ["c_fc", "fc1"]}, "train.modules c_fc, fc1"),
        ({"parameters": r"h\.0\.mlp"}, r"train.parameters 'h\\.0\\.mlp'"),
    ],
)
def test_nothing_found_is_said_with_what_there_is(keys: dict[str, Any], asked: str) -> None:
    with pytest.raises(ValueError) as nothing:
        what("llama", **keys)
    assert str(nothing.value) == f"{asked} finds no parameter of the model; its first layer has {LLAMA_0}"


def test_a_layer_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="layer 4 asked for, the model has layers 0 to 3"):
        what("llama", layers=[4])


@pytest.mark.parametrize(
    ("keys", "target"),
    [
        ({}, "mlp.down_proj,mlp.gate_proj,mlp.up_proj"),
        ({"modules": ["self_attn", "down_proj"], "layers": [2]}, "2.mlp.down_proj,{attention}"),
        ({"modules": "c_fc"}, "all"),  # another kind of model than most; the tensors will tell
    ],
)
def test_without_the_models_tensors_nothing_is_counted(keys: dict[str, Any], target: str) -> None:
    found = trained(Train.model_validate(keys), None, None)
    attention = ",".join(sorted(f"2.self_attn.{m}_proj" for m in "qkvo"))
    assert found.lora_target == target.format(attention=attention)
    assert str(found) == f"what {found.pattern!r} finds"
    assert found.count is None


def test_llamafactory_is_told_where_adapters_go() -> None:
    assert what("llama", modules="down_proj").lora_target == "mlp.down_proj"
    assert what("llama", modules="down_proj", layers=[1, 3]).lora_target == "1.mlp.down_proj,3.mlp.down_proj"
    assert what("gpt2").lora_target == "mlp.c_fc,mlp.c_proj"
    assert what("qwen-moe", modules="up_proj").lora_target == "mlp.experts.4.up_proj"
    assert what("phi", modules="fc1", layers="first 1").lora_target == "0.mlp.fc1"


def test_adapters_go_on_modules_with_weights_and_not_on_other_layers() -> None:
    some = ["h.1.mlp.c_fc.weight", "h.1.mlp.c_fc.bias", "wte.weight", "model.layers.11.mlp.up_proj.weight"]
    assert lora_target(some, all_layers=False) == "1.mlp.c_fc,11.mlp.up_proj"
    ends = [f".{target}" for target in lora_target(some[:1], all_layers=False).split(",")]  # as peft compares
    assert "transformer.h.1.mlp.c_fc".endswith(ends[0]) and not "transformer.h.11.mlp.c_fc".endswith(ends[0])

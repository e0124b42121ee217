"""``train.modules`` and ``train.layers`` find the parameters that they mean, and no others."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from kedit_glue.modules import FFN_MATRICES, freeze_layers, freeze_modules, trainable_pattern


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
    "llama": ("model.layers.{}", LLAMA),  # Mistral, Qwen and Gemma alike
    "phi-3": ("model.layers.{}", ["mlp.gate_up_proj", "mlp.down_proj", "self_attn.qkv_proj", "self_attn.o_proj"]),
    "gpt2": ("transformer.h.{}", ["mlp.c_fc", "mlp.c_proj", "attn.c_attn", "attn.c_proj", "ln_1", "ln_2"]),
    "gpt-j": ("transformer.h.{}", ["mlp.fc_in", "mlp.fc_out", "attn.q_proj", "attn.out_proj", "ln_1"]),
    "gpt-neox": ("gpt_neox.layers.{}", ["mlp.dense_h_to_4h", "mlp.dense_4h_to_h", "attention.dense"]),
    "phi": ("model.layers.{}", ["mlp.fc1", "mlp.fc2", "self_attn.dense", "input_layernorm"]),
    "qwen-moe": ("model.layers.{}", ["mlp.experts.3.down_proj", "mlp.experts.4.up_proj", "self_attn.o_proj"]),
}
OUTSIDE = ["model.embed_tokens.weight", "transformer.wte.weight", "lm_head.weight", "model.norm.weight"]


def found(layout: str, modules: Sequence[str], layers: Sequence[int] | None, n_layers: int = 42) -> list[str]:
    place, inside = LAYOUTS[layout]
    everything = [n for layer in range(n_layers) for n in names(place.format(layer), inside)] + OUTSIDE
    pattern = re.compile(trainable_pattern(modules, layers))
    return [n for n in everything if pattern.search(n)]


CASES: list[tuple[str, list[str], list[str]]] = [
    ("llama", ["down_proj"], ["mlp.down_proj"]),
    ("llama", ["gate_proj", "up_proj"], ["mlp.gate_proj", "mlp.up_proj"]),
    ("llama", ["mlp"], ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]),
    ("phi-3", ["mlp"], ["mlp.gate_up_proj", "mlp.down_proj"]),
    ("phi-3", ["gate_up_proj"], ["mlp.gate_up_proj"]),
    ("gpt2", ["c_proj"], ["mlp.c_proj"]),  # attention has a c_proj, too
    ("gpt2", ["mlp"], ["mlp.c_fc", "mlp.c_proj"]),
    ("gpt-j", ["fc_in"], ["mlp.fc_in"]),
    ("gpt-neox", ["dense_4h_to_h"], ["mlp.dense_4h_to_h"]),
    ("phi", ["fc1"], ["mlp.fc1"]),
    ("phi", ["fc1", "self_attn"], ["mlp.fc1", "self_attn.dense"]),
    ("qwen-moe", ["down_proj"], ["mlp.experts.3.down_proj"]),
]


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

"""Every method mergekit registers gives mergekit's own bits, from a recipe's words to a model that speaks."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.integration
WEIGHTED = {"weight": 0.7}
SPARSE = {"weight": 0.7, "density": 0.5}
SETTINGS: dict[str, dict[str, Any]] = {
    "ties": SPARSE,
    "dare_ties": SPARSE,
    "dare_linear": SPARSE,
    "della": {**SPARSE, "epsilon": 0.1},
    "della_linear": {**SPARSE, "epsilon": 0.1},
    "breadcrumbs": {**SPARSE, "gamma": 0.01},
    "breadcrumbs_ties": {**SPARSE, "gamma": 0.01},
    "slerp": {"t": 0.7},
    "nearswap": {"t": 0.001},
    "passthrough": {},
    "karcher": {},
    "sce": {"select_topk": 1.0},
    "arcee_fusion": {},
    "ram": {},
    "ramplus_tl": {},
    **dict.fromkeys(("linear", "task_arithmetic", "nuslerp", "multislerp"), WEIGHTED),
}
DRAWING = {"dare_ties", "dare_linear", "della", "della_linear"}
FORMS: dict[str, dict[str, Any]] = {
    "gradient": {"weight": [0.2, 1.0]},
    "filters": {"weight": [{"filter": "up_proj", "value": [0.3, 0.9]}, {"filter": "mlp", "value": 0.5}, {"value": 0}]},
}


def test_the_registry_is_what_the_table_covers(bench: Any) -> None:
    assert {*SETTINGS, "model_stock"} == set(bench.methods), "a new method of mergekit's: give it a row"


@pytest.mark.parametrize("method", sorted(SETTINGS))
def test_a_method_gives_mergekits_bits(bench: Any, method: str) -> None:
    text = bench.yaml(method, SETTINGS[method])
    found = bench.merge(text)
    assert found["task_vector_norm_merged"] > 0
    assert found["way"].split(":")[0] == "touched tensors" + (", whole model read" if method in DRAWING else "")
    bench.check_touched(text)
    bench.check_it_speaks()


def test_model_stock_with_two_tuned_models(bench: Any) -> None:
    models = [bench.tuned, bench.altered(bench.original, "other", bench.moved(2))]
    config = {"merge_method": "model_stock", "base_model": str(bench.original)}
    text = yaml.safe_dump({**config, "models": [{"model": str(model)} for model in models]})
    found = bench.merge(text, tuned=[{"model": str(model), "adapter": None} for model in models])
    assert found["way"] == "touched tensors"
    bench.check_touched(text)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", ["task_arithmetic", "linear", "ties"])
def test_gradients_and_filters_give_mergekits_bits(bench: Any, method: str, form: str) -> None:
    text = bench.yaml(method, FORMS[form])
    assert bench.merge(text)["way"] == "touched tensors"
    bench.check_touched(text)


def test_bf16_is_merged_in_float32_and_written_in_bf16(bench: Any) -> None:
    """Mixed formats, as LLaMA-Factory leaves them: what it trained is float32, the rest bfloat16."""
    import torch
    from safetensors.torch import save_file

    before = bench.altered(bench.original, "before", lambda name, t: t, dtype="bfloat16")
    tuned = bench.altered(before, "tuned", lambda name, t: t, dtype="bfloat16")
    mixed = {
        name: t.float() + 0.01 * torch.randn(t.shape) if ".mlp." in name else t
        for name, t in bench.tensors(tuned).items()
    }
    save_file(mixed, tuned / "model.safetensors", metadata={"format": "pt"})
    formats = {"dtype": "float32", "out_dtype": "bfloat16"}
    text = bench.yaml("task_arithmetic", WEIGHTED, tuned=tuned, before=before, **formats)
    assert bench.merge(text, before=str(before), tuned_model=tuned)["way"] == "touched tensors"
    bench.check_touched(text, before=before)
    bench.check_it_speaks()


def test_a_tensor_large_enough_for_arcee_fusion_to_draw(bench: Any) -> None:
    """Over a million entries it samples: then every tensor has to be merged for the touched ones' bits."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 2100, "hidden_size": 512, "intermediate_size": 2000, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, tie_word_embeddings=False))
    before, tuned = bench.folder / "before", bench.folder / "tuned"
    model.save_pretrained(before)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor += 0.01 * torch.randn_like(tensor) if ".mlp." in name else 0
    model.save_pretrained(tuned)
    text = bench.yaml("arcee_fusion", {}, tuned=tuned, before=before)
    found = bench.merge(text, before=str(before), original=str(before), tuned_model=tuned)
    assert found["way"] == "touched tensors, whole model read: arcee_fusion draws random numbers, tensor after tensor"
    bench.check_touched(text, before=before)


@pytest.mark.parametrize("method", ["dare_linear", "della"])
def test_a_method_that_draws_gives_the_same_bits_again(bench: Any, method: str) -> None:
    made = []
    for number, seed in enumerate((0, 0, 1)):
        bench.merge(bench.yaml(method, SETTINGS[method]), str(number), seed=seed)
        made.append([f.read_bytes() for f in sorted(bench.merged(str(number)).glob("*.safetensors"))])
    assert made[0] == made[1] != made[2]


def test_linear_gives_the_original_the_rest(bench: Any) -> None:
    found = bench.merge(bench.yaml("linear", {"weight": 0.25}))
    assert found["task_vector_norm_merged"] == pytest.approx(0.25 * found["task_vector_norm_tuned"], rel=1e-3)

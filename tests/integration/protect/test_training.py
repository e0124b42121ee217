"""D V = 0 while a model is trained: its matrices, or the factors of a LoRA."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration


def test_hard_protection_holds_over_many_steps(bench: Any, now: Any) -> None:
    bench.find()
    model = bench.load()
    before = now(model)
    bench.train(model, range(60))
    assert bench.inside(before, now(model)) < 1e-5
    assert bench.least(before, now(model)) > 0.5
    free = bench.load()
    bench.train(free, range(1), protected=False)
    assert bench.inside(before, now(free)) > 0.1, "without protection it does not hold"


def test_soft_protection_shrinks_each_step_once(bench: Any, now: Any) -> None:
    import torch

    from kedit_glue.protection import Protection

    strength = 0.5
    bench.find(directions=None, strength=strength)
    moments, _ = bench.moments()
    guarded, free = bench.load(), bench.load()
    before = now(guarded)
    bench.train(guarded, range(1))
    bench.train(free, range(1), protected=False)
    whole, found = bench.changes(before, now(free)), bench.changes(before, now(guarded))
    for name, (change, _) in found.items():
        values, vectors = torch.linalg.eigh(moments[name.removesuffix(".weight")].double())
        shrunk = (whole[name][0].double() @ vectors) * (strength / (strength + values / values.mean()))
        assert torch.allclose(change.double() @ vectors, shrunk, rtol=1e-3, atol=2e-5), name
        assert change.norm() < 0.99 * whole[name][0].norm()
    guard = Protection(guarded, bench.directions)
    after = now(guarded)
    guard.apply()  # without a step nothing is shrunk again
    assert all(torch.equal(tensor, after[name]) for name, tensor in now(guarded).items())


def test_soft_protection_of_two_steps_is_that_of_each(llama: Any) -> None:
    import torch

    from kedit_glue.protection import Matrix, project

    torch.manual_seed(0)
    weight, columns = torch.randn(5, 8), torch.linalg.qr(torch.randn(8, 3))[0] * 0.8
    start, steps = weight.clone(), torch.randn(2, 5, 8)
    matrix = Matrix(weight, columns, inputs_first=False, soft=True)
    for step in steps:
        weight += step
        matrix.apply()
    assert torch.allclose(weight - start, project(steps.sum(0), columns), atol=1e-5)


RANK = """
import sys
import torch
from kedit_glue.protection import Protection

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 4))
torch.save(model.state_dict(), f"{folder}/before")
both = torch.nn.parallel.DistributedDataParallel(model)
guard = Protection(both, f"{folder}/protect.safetensors")
optimizer = torch.optim.AdamW(both.parameters(), lr=1e-2, weight_decay=0.1)
torch.manual_seed(rank + 1)
for _ in range(20):
    both(torch.randn(5, 8)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    guard.apply()
torch.save(model.state_dict(), f"{folder}/after{rank}")
"""


def test_two_processes_keep_the_same_weights(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    vectors = {f"{n}.weight": torch.linalg.qr(torch.randn(size, 3))[0].contiguous() for n, size in ((0, 8), (2, 16))}
    save_file(vectors, tmp_path / "protect.safetensors")
    run = [subprocess.Popen([sys.executable, "-c", RANK, str(rank), str(tmp_path)]) for rank in (0, 1)]
    assert [process.wait(timeout=120) for process in run] == [0, 0]
    before, one, other = (torch.load(tmp_path / name) for name in ("before", "after0", "after1"))
    for name, u in vectors.items():
        change = one[name] - before[name]
        assert torch.equal(one[name], other[name]) and change.norm() > 0.1
        assert (change @ u).norm() < 1e-5 * change.norm()


def test_half_precision_is_projected_in_float32(llama: Any, now: Any) -> None:
    import torch

    llama.find()
    model = llama.load().to(torch.bfloat16)
    before = now(model)
    llama.train(model, range(10))
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert llama.inside(before, now(model)) < 2e-2, "the rounding of bf16"


def lora(bench: Any, **settings: Any) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = bench.load()
    names = r".*\.mlp\.(c_fc|c_proj|gate_proj|up_proj|down_proj)"
    conv1d = model.config.model_type == "gpt2"
    return get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=names, fan_in_fan_out=conv1d, **settings))


def test_lora_is_protected_exactly(bench: Any, now: Any) -> None:
    from kedit_glue import protection

    bench.find()
    before = now(bench.load())
    model = lora(bench)
    protection.Protection(model, bench.directions)
    factors = {name: p for name, p in model.named_parameters() if ".lora_A." in name}
    for name, vectors in protection.read(bench.directions).vectors.items():
        a = factors[f"base_model.model.{name.removesuffix('.weight')}.lora_A.default.weight"]
        assert (a @ vectors).norm() < 1e-5 * a.norm(), "before the first step: B's first gradient is that of this A"
    bench.train(model, range(20))
    after = now(model.merge_and_unload())
    assert bench.inside(before, after) < 1e-5
    assert bench.least(before, after) > 0.1


def test_lora_with_a_frozen_a_is_protected(llama: Any, now: Any) -> None:
    llama.find()
    before = now(llama.load())
    model = lora(llama)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_B" in name)
    llama.train(model, range(5))
    assert llama.inside(before, now(model.merge_and_unload())) < 1e-5


def test_lora_that_cannot_be_protected_is_refused(llama: Any) -> None:
    from kedit_glue.protection import Protection

    llama.find()
    with pytest.raises(ValueError, match=r"does not work with DoRA: .*mlp\.gate_proj\.lora_magnitude_vector"):
        Protection(lora(llama, use_dora=True), llama.directions)
    with pytest.raises(ValueError, match=r"needs a B that is zero at the start, .*lora_B\.default\.weight is not"):
        Protection(lora(llama, init_lora_weights=False), llama.directions)
    llama.find(trainable=r"\.0\.mlp\.")
    with pytest.raises(ValueError, match=r"holds no directions for model\.layers\.1\.mlp\.down_proj\.weight, "):
        Protection(lora(llama), llama.directions)
    llama.find(strength=1.0)
    with pytest.raises(ValueError, match=r"train\.protect\.strength \(soft\) does not work with LoRA"):
        Protection(lora(llama), llama.directions)


def test_directions_of_other_layers_or_models_are_refused(llama: Any, gpt2_model: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    from kedit_glue.protection import Protection

    llama.find()
    with pytest.raises(ValueError, match=r"holds no directions for lm_head\.weight, |for transformer\.h\.0\.attn\."):
        Protection(AutoModelForCausalLM.from_pretrained(gpt2_model), llama.directions)
    with pytest.raises(ValueError, match="no matrix is trained here"):
        Protection(llama.load().requires_grad_(False), llama.directions)
    save_file({name: torch.zeros(7, 2) for name in load_file(llama.directions)}, llama.directions)
    with pytest.raises(ValueError, match=r"has shape \[256, 64\] and directions of 7 inputs"):
        Protection(llama.load(), llama.directions)


def test_biases_stay_where_matrices_are_protected() -> None:
    """GPT-2's feed-forward biases: their change would reach every input."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from kedit_glue.freezing import freeze_all_but

    def fresh() -> Any:
        return GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=2))

    _, free = freeze_all_but(fresh(), r"\.mlp\.")
    _, protected = freeze_all_but(fresh(), r"\.mlp\.", matrices=True)
    assert {n.rpartition(".")[2] for n in free} == {"weight", "bias"}
    assert protected == [n for n in free if n.endswith("weight")]

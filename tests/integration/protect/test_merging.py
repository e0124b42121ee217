"""D V = 0 through merges, and given back to models that were tuned or merged elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kedit_glue.tools import protect

pytestmark = pytest.mark.integration


def quiet(event: Any) -> None:
    pass


def tensors(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {name: t for file in folder.glob("*.safetensors") for name, t in load_file(file).items()}


def thinned(before: dict[str, Any], after: dict[str, Any], method: str) -> dict[str, Any]:
    """The change thinned by mergekit's own functions: its ties (magnitude) and dare (random) for one tuned model."""
    import torch
    from mergekit.sparsify import SparsificationMethod, sparsify

    torch.manual_seed(0)
    kept = SparsificationMethod(method)
    return {name: t + sparsify(after[name] - t, density=0.4, method=kept) for name, t in before.items()}


def test_a_merge_that_scales_the_change_keeps_it_out(llama: Any, now: Any) -> None:
    """linear and task_arithmetic with one tuned model, two batches in a row."""
    llama.find()
    model = llama.load()
    original = now(model)
    for batch in range(2):
        before = now(model)
        llama.train(model, range(5 * batch, 5 * batch + 5))
        merged = {name: before[name] + 0.7 * (t - before[name]) for name, t in now(model).items()}
        assert llama.inside(before, merged) < 1e-5
        model.load_state_dict(merged)
    assert llama.inside(original, now(model)) < 1e-5 < llama.least(original, now(model))


@pytest.mark.parametrize("method", ["magnitude", "random"])
@pytest.mark.parametrize("shard", ["5GB", "200KB"])
def test_a_merge_that_thins_the_change_is_put_right(bench: Any, now: Any, method: str, shard: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    bench.find()
    model = bench.load()
    before = now(model)
    bench.train(model, range(5))
    model.load_state_dict(thinned(before, now(model), method))
    assert bench.inside(before, now(model)) > 1e-2, "thinning breaks it"
    merged, right = bench.folder / "merged", bench.folder / "right"
    model.save_pretrained(merged, max_shard_size=shard)
    AutoTokenizer.from_pretrained(bench.source).save_pretrained(merged)

    asked = {"model": str(merged), "before": str(bench.source), "directions": bench.directions}
    result = protect.project({**asked, "trainable": bench.ffn, "output": str(right)}, quiet)
    old, new = tensors(merged), tensors(right)
    assert bench.inside(before, {**before, **new}) < 1e-5
    touched = bench.changes(before, before).keys()
    assert result["matrices"] == len(touched)
    assert result["change_after"] < result["change_before"]
    assert result["in_directions_after"] < 1e-5 * result["change_after"] < 1e-3 * result["in_directions_before"]
    assert old.keys() == new.keys()
    assert all(torch.equal(t, new[name]) != (name in touched) for name, t in old.items())
    assert {f.name for f in merged.iterdir()} == {f.name for f in right.iterdir()}
    linked = [f.name for f in merged.glob("*.safetensors") if f.samefile(right / f.name)]
    assert bool(linked) == (shard == "200KB"), "shards without a change are links"
    loaded = now(AutoModelForCausalLM.from_pretrained(right))
    assert all(torch.equal(loaded[name], t) for name, t in new.items())


def test_a_model_tuned_elsewhere(gpt2: Any) -> None:
    """In bf16, soft, one layer only, and by the names that the hub's GPT-2 has (without ``transformer.``)."""
    import torch
    from safetensors.torch import save_file

    gpt2.find(directions=None, strength=0.1)
    torch.manual_seed(0)
    for folder, moved in (("before", 0.0), ("tuned", 0.05)):
        (gpt2.folder / folder).mkdir()
        named = {
            name.removeprefix("transformer."): (t + moved * torch.randn_like(t)).bfloat16()
            for name, t in tensors(gpt2.source).items()
        }
        save_file(named, gpt2.folder / folder / "model.safetensors")
    asked = {"model": str(gpt2.folder / "tuned"), "before": str(gpt2.folder / "before"), "directions": gpt2.directions}
    result = protect.project({**asked, "trainable": r"\.1\.(mlp\.)", "output": str(gpt2.folder / "out")}, quiet)
    assert result["matrices"] == 2
    assert 0 < result["in_directions_after"] < 0.7 * result["in_directions_before"]
    old, new = tensors(gpt2.folder / "tuned"), tensors(gpt2.folder / "out")
    changed = {name for name, t in old.items() if not torch.equal(t, new[name])}
    assert changed == {"h.1.mlp.c_fc.weight", "h.1.mlp.c_proj.weight"}
    assert {t.dtype for t in new.values()} == {torch.bfloat16}


def test_a_projection_that_cannot_be_made(llama: Any, gpt2_model: Path) -> None:
    llama.find()
    source = str(llama.source)
    asked = {"model": source, "before": source, "directions": llama.directions, "output": str(llama.folder / "out")}
    empty = llama.folder / "empty"
    empty.mkdir()
    for change, message in (
        ({"trainable": "self_attn"}, r"no directions for model\.layers\.0\.self_attn\..*weight, "),
        ({"model": str(gpt2_model)}, "no directions for any matrix of the model"),
        ({"before": str(gpt2_model)}, r"gpt2 has no tensor model\.layers\.0\.mlp\.down_proj\.weight"),
        ({"before": str(empty)}, "empty holds no safetensors file"),
    ):
        with pytest.raises(ValueError, match=message):
            protect.project({**asked, **change}, quiet)

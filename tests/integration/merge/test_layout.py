"""What a merge writes and links, and when it has to merge the whole model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from kedit_glue import weights

pytestmark = pytest.mark.integration
WEIGHTED = {"weight": 0.7}


def same(name: str, tensor: Any) -> Any:
    return tensor


def shared(one: Path, other: Path) -> set[str]:
    """Tensors that lie in the same file, by its inode."""
    a, b = weights.stored(one), weights.stored(other)
    return {name for name in a if a[name].file.stat().st_ino == b[name].file.stat().st_ino}


def test_the_rest_is_written_once_and_linked_from_then_on(bench: Any) -> None:
    """Original in several shards; the first batch, the same in another run, and a second batch."""
    before = bench.altered(bench.original, "before", same, shard="100KB")
    assert len(list(before.glob("*.safetensors"))) > 3
    rest = {name for name in bench.tensors(before) if ".mlp." not in name}
    tuned = bench.altered(before, "tuned", bench.moved(1))
    text = bench.yaml("task_arithmetic", WEIGHTED, tuned=tuned, before=before)
    arguments = {"before": str(before), "original": str(before), "tuned_model": tuned}
    first = bench.merge(text, "first", **arguments)
    bench.check_touched(text, "first", before)
    again = bench.merge(text, "again", **arguments)
    assert shared(bench.merged("first"), bench.merged("again")) == rest
    assert again["bytes_written"] < first["bytes_written"]

    one = bench.merged("first")
    tuned = bench.altered(one, "tuned2", bench.moved(2))
    text = bench.yaml("task_arithmetic", WEIGHTED, tuned=tuned, before=one)
    unused = bench.folder / "unused"
    arguments = {"before": str(one), "original": str(before), "tuned_model": tuned, "cache": str(unused)}
    second = bench.merge(text, "second", earlier=[str(before), str(one)], **arguments)
    bench.check_touched(text, "second", one)
    bench.check_it_speaks("second")
    assert shared(bench.merged("second"), one) == rest
    assert second["bytes_written"] == again["bytes_written"], "touched shards alone"
    assert not unused.exists()


def test_a_shard_without_touched_tensors_is_linked_as_it_is(bench: Any) -> None:
    before = bench.altered(bench.original, "before", same, shard="20KB")
    tuned = bench.altered(before, "tuned", bench.moved(1))
    (bench.folder / "blobs").mkdir()
    for file in before.glob("*.safetensors"):  # the hub's cache: a folder of symbolic links
        file.rename(bench.folder / "blobs" / file.name)
        file.symlink_to(Path("..") / "blobs" / file.name)
    text = bench.yaml("linear", WEIGHTED, tuned=tuned, before=before)
    bench.merge(text, before=str(before), tuned_model=tuned)
    assert "model.embed_tokens.weight" in shared(bench.merged(), before)
    assert not any(f.is_symlink() for f in bench.merged().iterdir())
    bench.check_it_speaks()


def test_what_is_kept_cannot_be_overwritten_and_is_made_again_when_broken(bench: Any) -> None:
    text = bench.yaml("linear", WEIGHTED)
    bench.merge(text, "1")
    (kept,) = (bench.folder / "cache" / "rest").iterdir()
    assert kept.stat().st_mode & 0o222 == 0, "a link of every model: writing into one would change them all"
    whole = kept.read_bytes()
    kept.unlink()
    kept.write_bytes(whole[:-1])
    bench.merge(text, "2")
    assert kept.read_bytes() == whole


# -- whole models -------------------------------------------------------------------------------


def test_a_model_of_another_batch_is_merged_whole(bench: Any) -> None:
    foreign = bench.altered(bench.original, "foreign", lambda name, t: t * 1.5)
    config = yaml.safe_load(bench.yaml("task_arithmetic", WEIGHTED))
    config["models"].append({"model": str(foreign), "parameters": {"weight": 0.2}})
    found = bench.merge(yaml.safe_dump(config))
    assert found["way"] == f"whole model: merge.yaml names {foreign}, which is not of this batch"
    bench.check_whole(yaml.safe_dump(config))


def test_what_an_earlier_batch_took_from_elsewhere_is_merged_as_well(bench: Any) -> None:
    """Trained from a model whose untouched tensors are not the original's, merged onto the original."""
    between = bench.altered(bench.original, "between", lambda name, t: t * 1.5 if "self_attn" in name else t)
    tuned = bench.altered(between, "tuned", bench.moved(1))
    text = bench.yaml("task_arithmetic", WEIGHTED, tuned=tuned)
    found = bench.merge(text, tuned_model=tuned)
    assert found["way"].startswith("whole model: model.layers.0.self_attn") and str(tuned) in found["way"]
    bench.check_whole(text)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"dtype": "bfloat16"}, "merge.yaml writes bfloat16, and "),
        ({"out_dtype": "float16"}, "merge.yaml writes float16, and "),
        ({"tokenizer_source": "base"}, "merge.yaml has tokenizer_source"),
    ],
)
def test_a_result_of_another_make_is_merged_whole(bench: Any, more: dict[str, str], said: str) -> None:
    text = bench.yaml("task_arithmetic", WEIGHTED, **more)
    assert bench.merge(text)["way"].startswith(f"whole model: {said}")
    bench.check_whole(text)
    bench.check_it_speaks()


def test_slices_are_merged_whole(bench: Any) -> None:
    sources = [{"model": str(m), "layer_range": [0, 1]} for m in (bench.tuned, bench.original)]
    text = yaml.safe_dump({"merge_method": "passthrough", "slices": [{"sources": [s]} for s in sources * 2]})
    assert bench.merge(text)["way"] == "whole model: merge.yaml has slices"
    assert json.loads((bench.merged() / "config.json").read_text())["num_hidden_layers"] == 4


# -- adapters -----------------------------------------------------------------------------------


def adapter_for(bench: Any, targets: list[str]) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    config = LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(bench.original), config).save_pretrained(
        bench.folder / "adapter"
    )
    return bench.folder / "adapter"


@pytest.mark.parametrize("method", ["task_arithmetic", "linear", "dare_ties"])
def test_an_adapter_gives_mergekits_bits(bench: Any, method: str) -> None:
    adapter = adapter_for(bench, ["up_proj", "down_proj"])
    text = bench.yaml(method, WEIGHTED, tuned=f"{bench.original}+{adapter}")
    found = bench.merge(text, tuned=[{"model": str(bench.original), "adapter": str(adapter)}])
    assert found["way"].startswith("touched tensors")
    assert found["task_vector_norm_merged"] == pytest.approx(0.7 * found["task_vector_norm_tuned"], rel=1e-3)
    bench.check_touched(text)
    bench.check_it_speaks()
    assert {p.name for p in bench.merged().parent.iterdir()} == {"merge.yaml", "merge_stats.json", "merged"}


def test_an_adapter_that_strays_is_merged_whole(bench: Any) -> None:
    adapter = adapter_for(bench, ["up_proj", "q_proj"])
    text = bench.yaml("task_arithmetic", WEIGHTED, tuned=f"{bench.original}+{adapter}")
    found = bench.merge(text, tuned=[{"model": str(bench.original), "adapter": str(adapter)}])
    assert "changes model.layers.0.self_attn.q_proj.weight, which" in found["way"]
    bench.check_whole(text)
    with pytest.raises(weights.WeightsError, match=r"training changed model\.layers\.0\.self_attn\.q_proj\.weight"):
        weights.check_untouched(bench.original, adapter, r"\.mlp\.")
    assert weights.check_untouched(bench.original, adapter, r"\.(mlp|self_attn)\.") == 6

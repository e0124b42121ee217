"""What a recipe can ask for, each form through the whole chain on the two-layer model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from kedit_glue.run import main

pytestmark = pytest.mark.integration
FAST = ["train.epochs=15", "score.edits.metrics=[edit_success]", "score.examples=0"]
CORPUS = "the quick brown fox\n\njumps over the lazy dog\n\nThe town of Elm lies in the north."


def go(recipe_text: str, folder: Path, *changes: str) -> Path:
    """Runs the recipe with these changes; returns the run's folder."""
    recipe = folder / "tiny.yaml"
    recipe.write_text(recipe_text + f"output: {json.dumps(str(folder))}\n", encoding="utf-8")
    words = [word for change in [*FAST, *changes] for word in ("--set", change)]
    assert main([str(recipe), *words]) == 0, (folder / "tiny" / "log.txt").read_text(encoding="utf-8")
    return folder / "tiny"


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {name: t for file in folder.glob("*.safetensors") for name, t in load_file(file).items()}


def generates(folder: Path) -> bool:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("The mayor of", return_tensors="pt")
    return bool(model.generate(**ids, max_new_tokens=3, do_sample=False).shape[1] > ids["input_ids"].shape[1])


def changed(run: Path, original: Path) -> list[str]:
    import torch

    before, after = weights(original), weights(run / "model")
    assert before.keys() == after.keys()
    return [name for name in before if not torch.equal(before[name], after[name])]


def losses(run: Path) -> list[tuple[float, float]]:
    facts = json.loads((run / "scores.json").read_text(encoding="utf-8"))["facts"]
    return [(f["loss_before"], f["loss_after"]) for f in facts]


@pytest.mark.parametrize("onto", ["previous", "base"])
def test_adapters_are_merged_in_mergekits_own_form(
    recipe_text: str, tiny_model: Path, tmp_path: Path, onto: str
) -> None:
    run = go(
        recipe_text, tmp_path, "train.lora={rank: 4}", "train.learning_rate=1.0e-2", "train.layers=[1]",
        f"merge.onto={onto}",
    )  # fmt: skip
    merge = yaml.safe_load((run / "batch_002" / "merge.yaml").read_text())
    assert merge["models"][0]["model"] == f"{run}/batch_001/merged+{run}/batch_002/tuned"
    assert changed(run, tiny_model) == [f"model.layers.1.mlp.{m}_proj.weight" for m in ("down", "gate", "up")]
    assert all(after < before for before, after in losses(run)) and generates(run / "model")


@pytest.mark.parametrize(
    ("method", "parameters"),
    [("model_stock", "{}"), ("ties", "{weight: 0.9, density: 0.8}"), ("linear", "{weight: 0.8}"), ("karcher", "{}")],
)
def test_batches_that_are_trained_apart_are_merged_together(
    recipe_text: str, tiny_model: Path, tmp_path: Path, method: str, parameters: str
) -> None:
    run = go(
        recipe_text, tmp_path, "train.from=base", "merge.when=end", "merge.onto=base", f"merge.method={method}",
        f"merge.parameters={parameters}",
    )  # fmt: skip
    for batch in ("batch_001", "batch_002"):
        assert yaml.safe_load((run / batch / "train.yaml").read_text())["model_name_or_path"] == str(tiny_model)
    assert not (run / "batch_001" / "merge.yaml").exists()
    named = [m["model"] for m in yaml.safe_load((run / "batch_002" / "merge.yaml").read_text())["models"]]
    assert [n for n in named if n != str(tiny_model)] == [f"{run}/batch_00{n}/tuned" for n in (1, 2)]
    assert len(changed(run, tiny_model)) == 6 and generates(run / "model")


def test_a_change_is_protected_after_merging(recipe_text: str, tiny_model: Path, tmp_path: Path) -> None:
    """TIES prunes single numbers, after which D V is not 0; ``merge.protect`` makes it so again, batch after batch."""
    from safetensors.torch import load_file

    (tmp_path / "corpus.txt").write_text(CORPUS)
    protect = f"{{directions: 6, corpus: {json.dumps(str(tmp_path / 'corpus.txt'))}}}"
    run = go(
        recipe_text, tmp_path, f"train.protect={protect}", f"merge.protect={protect}", "merge.method=ties",
        "merge.parameters={weight: 0.9, density: 0.5}",
    )  # fmt: skip
    before, pruned, after = weights(tiny_model), weights(run / "batch_001" / "merged"), weights(run / "model")
    for name, vectors in load_file(run / "base" / "protect.safetensors").items():
        change = after[name] - before[name]
        assert change.norm() > 1e-3
        assert (change @ vectors).norm() < 1e-5 * change.norm() + 1e-5, name
        assert ((pruned[name] - before[name]) @ vectors).norm() > 1e-3, "without it the pruning would have shown"
    assert generates(run / "model")


def test_a_merge_becomes_a_regression_mean(recipe_text: str, tiny_model: Path, tmp_path: Path) -> None:
    """Batch after batch, with rehearsed facts; another number of tokens neither trains nor merges again."""
    (tmp_path / "corpus.txt").write_text(CORPUS)
    corpus = json.dumps(str(tmp_path / "corpus.txt"))

    def to(tokens: float) -> Path:
        return go(
            recipe_text, tmp_path, f"merge.regmean={{tokens: {tokens}, corpus: {corpus}}}", "merge.onto=previous",
            "train.rehearse=1",
        )  # fmt: skip

    run = to(20)
    records = {n: json.loads((run / f"batch_00{n}" / "regmean.record.json").read_text())["result"] for n in (1, 2)}
    assert [records[n]["texts"] for n in (1, 2)] == [3, 3], "the second batch holds two facts, and one again"
    for result in records.values():
        assert result["text_meets_after"] < result["text_meets_before"]
    changes, merged = changed(run, tiny_model), weights(run / "batch_001" / "merged")
    assert len(changes) == 6 and generates(run / "model")
    trained = (run / "batch_001" / "train.record.json").read_text()
    assert to(50) == run and (run / "batch_001" / "train.record.json").read_text() == trained
    assert all(merged[name].equal(t) for name, t in weights(run / "batch_001" / "merged").items())
    again = json.loads((run / "batch_001" / "regmean.record.json").read_text())["result"]
    assert again["text_meets_after"] < records[1]["text_meets_after"]


def test_a_merge_yaml_of_the_users_is_dropped_in(recipe_text: str, tiny_model: Path, tmp_path: Path) -> None:
    """Slices, which the recipe has no key for: layer 0 of the original, layer 1 of the tuned model."""
    sources = [
        {"sources": [{"model": model, "layer_range": [n, n + 1]}]} for n, model in enumerate(("original", "tuned"))
    ]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"merge_method": "passthrough", "slices": sources}))
    # the recipe's own method would contradict it
    text = recipe_text.replace("merge: {method: task_arithmetic, onto: previous, parameters: {weight: 0.9}}", "")
    run = go(text, tmp_path, f"merge.file={json.dumps(str(tmp_path / 'mine.yaml'))}", "edits.limit=3")
    written = yaml.safe_load((run / "batch_001" / "merge.yaml").read_text())
    assert [s["sources"][0]["model"] for s in written["slices"]] == [str(tiny_model), f"{run}/batch_001/tuned"]
    assert [name for name in changed(run, tiny_model) if ".0." in name] == []
    assert len(changed(run, tiny_model)) == 3 and generates(run / "model")


def test_depth_first_with_contexts_and_rephrasings(recipe_text: str, tmp_path: Path) -> None:
    run = go(
        recipe_text, tmp_path, "train.order=depth", "train.inner_steps=3", "train.mini_batch=1", "train.epochs=2",
        "train.contexts=2", "train.rephrasings=1", "edits.limit=2", "edits.batch_size=2",
    )  # fmt: skip
    samples = json.loads((run / "batch_001" / "edits.json").read_text(encoding="utf-8"))
    prompts = [s["instruction"] for s in samples if s["id"] == "f0"]
    assert prompts[:2] == ["The mayor of Alba is", "Alba is governed by"]
    assert len(prompts) == 4 and all(p.endswith(". The mayor of Alba is") for p in prompts[2:])
    facts = json.loads((run / "facts.json").read_text(encoding="utf-8"))
    assert facts[0]["rephrase_prompts"] == ["The head of Alba is called"], "what is trained is not scored"
    traces = [json.loads(line) for line in (run / "batch_001" / "trace.jsonl").read_text().splitlines()]
    assert all(t["steps"] <= 6 for t in traces) and max(t["steps"] for t in traces) > 2

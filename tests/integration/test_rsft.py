"""R-SFT's loops, through LLaMA-Factory's trainer, held against a plain loop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from kedit_glue.render import render

pytestmark = pytest.mark.integration


def train(folder: Path, model: Path, facts: list[dict[str, Any]], **settings: Any) -> tuple[dict[str, Any], list[Any]]:
    """One batch through the train stage; returns its result and the trace."""
    from types import SimpleNamespace

    from kedit_glue.tools import llamafactory

    folder.mkdir(parents=True, exist_ok=True)
    samples = [
        {**f, "instruction": f["prompt"], "output": f" {f['target_new']}<|end|>"}
        for f in ({k: f[k] for k in ("id", "prompt", "target_new")} for f in facts)
    ]
    (folder / "edits.json").write_text(json.dumps(samples), encoding="utf-8")
    columns = {"prompt": "instruction", "response": "output"}
    (folder / "dataset_info.json").write_text(json.dumps({"edits": {"file_name": "edits.json", "columns": columns}}))
    values = SimpleNamespace(
        **{
            "template": "empty",
            "cutoff_len": 64,
            "epochs": 3,
            "mini_batch": 1,
            "inner_steps": 1,
            "loss_threshold": 0.0,
            "learning_rate": 1e-3,
            "weight_decay": 0.1,
            "max_grad_norm": 1.0,
            "precision": "fp32",
            "shuffle": False,
            "extra": {"disable_gradient_checkpointing": True},
            **{k: v for k, v in settings.items() if k not in ("trainable", "protect")},
        }
    )
    common = {"run": "t", "batch": 0, "train": values}
    (folder / "train.yaml").write_text(
        render(
            "train.yaml",
            {
                **common,
                "facts": len(facts),
                "here": "train.yaml",
                "model": str(model),
                "trust_remote_code": False,
                "freeze_modules": "mlp",
                "freeze_layers": 1000,
                "dataset_dir": str(folder),
                "output_dir": str(folder / "tuned"),
                "cpu": True,
                "seed": 0,
            },
        )
    )
    trainable = settings.get("trainable", r"\.\d+\.(mlp\.)")
    (folder / "rsft.yaml").write_text(
        render("rsft.yaml", {**common, "trainable": trainable, "protect": settings.get("protect")})
    )
    assert yaml.safe_load((folder / "rsft.yaml").read_text())["trainable"] == trainable
    job = {
        "train_yaml": str(folder / "train.yaml"),
        "rsft_yaml": str(folder / "rsft.yaml"),
        "facts": str(folder / "edits.json"),
        "output": str(folder / "tuned"),
        "trace": str(folder / "trace.jsonl"),
    }
    result = llamafactory.train(job, lambda event: None)
    return result, [json.loads(line) for line in (folder / "trace.jsonl").read_text().splitlines()]


def plain_loop(model_folder: Path, facts: list[dict[str, Any]], epochs: int, inner: int, threshold: float, lr: float):  # type: ignore[no-untyped-def]
    """The method in plain PyTorch, one sample at a time in the given order: weights and steps per sample."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(model_folder)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".mlp." in name)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=0.1)
    steps = [0] * len(facts)
    for _ in range(epochs):
        taken = 0
        for row, fact in enumerate(facts):
            prompt = tokenizer.encode(fact["prompt"])
            target = [*tokenizer.encode(" " + fact["target_new"]), tokenizer.eos_token_id]
            # padded to a multiple of 8 like LLaMA-Factory's collator: other lengths sum in another order
            padding = -len(prompt + target) % 8
            ids = torch.tensor([prompt + target + [tokenizer.pad_token_id] * padding])
            mask = torch.tensor([[1] * len(prompt + target) + [0] * padding])
            end = len(prompt + target)
            for _ in range(inner):
                logits = model(input_ids=ids, attention_mask=mask).logits[0, len(prompt) - 1 : end - 1]
                loss = torch.nn.functional.cross_entropy(logits, ids[0, len(prompt) : end])
                if loss.item() < threshold:
                    break
                loss.backward()
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                steps[row] += 1
                taken += 1
        if taken == 0:
            break
    return model.state_dict(), steps


@pytest.fixture(scope="module")
def facts(facts_file: Path) -> list[dict[str, Any]]:
    return list(json.loads(facts_file.read_text(encoding="utf-8")))


@pytest.mark.parametrize(("epochs", "inner", "threshold"), [(3, 1, 0.0), (4, 6, 2.5), (30, 8, 0.5)])
def test_same_steps_and_weights_as_a_plain_loop(
    tiny_model: Path, facts: list[dict[str, Any]], tmp_path: Path, epochs: int, inner: int, threshold: float
) -> None:
    import torch
    from safetensors.torch import load_file

    result, trace = train(
        tmp_path, tiny_model, facts, epochs=epochs, inner_steps=inner, loss_threshold=threshold, learning_rate=3e-3
    )
    weights, steps = plain_loop(tiny_model, facts, epochs, inner, threshold, 3e-3)
    assert [t["steps"] for t in trace] == steps
    assert result["optimizer_steps"] == sum(steps)
    tuned = load_file(tmp_path / "tuned" / "model.safetensors")
    for name, tensor in tuned.items():
        assert torch.allclose(tensor, weights[name], rtol=0, atol=1e-6), name


def test_a_learned_sample_changes_nothing(tiny_model: Path, facts: list[dict[str, Any]], tmp_path: Path) -> None:
    """Under a threshold that every sample is under: no step, no decay, no moment, one epoch, the same bits."""
    import torch
    from safetensors.torch import load_file

    result, trace = train(tmp_path, tiny_model, facts, epochs=5, inner_steps=4, loss_threshold=1e9)
    assert (result["optimizer_steps"], result["epochs"]) == (0, 1)
    assert all(t["learned"] and t["loss_before"] == t["loss_after"] for t in trace)
    before = load_file(tiny_model / "model.safetensors")
    after = load_file(tmp_path / "tuned" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_mini_batches_drop_what_is_learned(tiny_model: Path, facts: list[dict[str, Any]], tmp_path: Path) -> None:
    result, trace = train(
        tmp_path, tiny_model, facts, epochs=400, mini_batch=5, loss_threshold=0.3, learning_rate=1e-3, weight_decay=0.0
    )
    assert result["not_learned"] == []
    steps = [t["steps"] for t in trace]
    assert max(steps) == result["optimizer_steps"] and min(steps) < max(steps), "some fact was learned earlier"
    assert result["epochs"] < 400, "an epoch without an update ended the training"


def test_only_what_the_pattern_finds_is_trained(tiny_model: Path, facts: list[dict[str, Any]], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    train(tmp_path, tiny_model, facts, trainable=r"\.1\.mlp\.(.+\.)?(down_proj)\.")
    before = load_file(tiny_model / "model.safetensors")
    after = load_file(tmp_path / "tuned" / "model.safetensors")
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == ["model.layers.1.mlp.down_proj.weight"]


def test_a_pattern_that_finds_nothing_is_an_error(
    tiny_model: Path, facts: list[dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="no parameter that LLaMA-Factory left trainable matches"):
        train(tmp_path, tiny_model, facts, trainable=r"\.7\.mlp")


@pytest.mark.parametrize("inner", [1, 5])
def test_protected_directions_stay(tiny_model: Path, facts: list[dict[str, Any]], tmp_path: Path, inner: int) -> None:
    import torch
    from safetensors.torch import load_file

    from kedit_glue.tools import protect

    corpus = tmp_path / "corpus.txt"
    corpus.write_text("the quick brown fox\n\njumps over the lazy dog\n\nThe town of Elm lies in the north.")
    job = {
        "model": str(tiny_model),
        "corpus": str(corpus),
        "trainable": r"\.\d+\.(mlp\.)",
        "directions": 6,
        "device": "cpu",
        "trust_remote_code": False,
        "output": str(tmp_path / "protect.safetensors"),
    }
    found = protect.directions(job, lambda event: None)
    assert found["matrices"] == 6 and 0.3 < found["energy"] <= 1.0
    directions = load_file(job["output"])
    _, trace = train(
        tmp_path / "b", tiny_model, facts, protect=job["output"], learning_rate=1e-2, epochs=4, inner_steps=inner
    )
    before, after = (
        load_file(tiny_model / "model.safetensors"),
        load_file(tmp_path / "b" / "tuned" / "model.safetensors"),
    )
    for name, vectors in directions.items():
        change = after[name] - before[name]
        assert torch.allclose(vectors.T @ vectors, torch.eye(6), atol=1e-5)
        assert change.norm() > 0.01, "it learned something"
        assert (change @ vectors).norm() < 1e-5 * change.norm() + 1e-5, name
    assert all(t["loss_after"] < t["loss_before"] for t in trace)

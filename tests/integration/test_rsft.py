"""R-SFT's loops, through LLaMA-Factory's trainer, held against a plain loop."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from kedit_glue import batch_files, files, models, modules
from kedit_glue.merging import MergeMethod
from kedit_glue.recipe import load_recipe
from kedit_glue.runner import Job, Runner
from kedit_glue.stage import quiet_environment
from kedit_glue.stages import Place

pytestmark = pytest.mark.integration


def train(
    folder: Path, model: Path, facts: list[dict[str, Any]], directions: Path | None = None, **settings: Any
) -> tuple[dict[str, Any], list[Any]]:
    """One batch through the files and the stage that a run makes; returns its result and the trace."""
    processes = settings.pop("processes", 1)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "facts.json").write_text("[]")
    default = {
        "learning_rate": 1e-3,
        "weight_decay": 0.1,
        "loss_threshold": 0.0,
        "cutoff_len": 64,
        "epochs": 3,
        "shuffle": False,
        "order": "depth" if settings.get("inner_steps", 1) > 1 else "breadth",
    }
    recipe_file = folder / "try.yaml"
    recipe_file.write_text(
        yaml.safe_dump(
            {
                "name": "try",
                "model": str(model),
                "edits": {"source": str(folder / "facts.json"), "batch_size": 100},
                "train": {**default, **settings},
                "launch": {"processes": processes},
            }
        )
    )
    recipe = load_recipe(recipe_file)
    method = MergeMethod("linear", "ignored", 1, None, {})
    place = Place(folder, str(model), "", "cpu", 2, method, {}, tensors=models.tensor_shapes(model))
    what = modules.trained(recipe.train, 2, place.tensors)
    rendered = [
        batch_files.train_yaml(recipe, place, 1, len(facts), str(model), what),
        batch_files.rsft_yaml(recipe, place, 1, what, directions),
    ]
    batch = folder / "batch_001"
    prepared = [{**f, "response": f.get("response", f" {f['target_new']}<|end|>")} for f in facts]
    files.write_data(
        {
            batch / "edits.json": batch_files.samples(prepared, tokens=recipe.train.tokens),
            batch / "dataset_info.json": batch_files.DATASET_INFO,
        }
    )
    files.write_rendered(rendered, None)
    arguments = {
        "train_yaml": str(batch / "train.yaml"),
        "rsft_yaml": str(batch / "rsft.yaml"),
        "facts": str(batch / "edits.json"),
        "output": str(batch / "tuned"),
        "trace": str(batch / "trace.jsonl"),
        "model": str(model),
    }
    if processes > 1:
        result = Runner("command", quiet_environment(offline=True)).run(
            Job("train", "train", arguments, batch, "train", processes=processes)
        )
    else:
        from kedit_glue.tools import llamafactory

        result = llamafactory.train(arguments, lambda event: None)
    return result, [json.loads(line) for line in (batch / "trace.jsonl").read_text().splitlines()]


def tensors(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "model.safetensors"))


def tuned(folder: Path) -> dict[str, Any]:
    return tensors(folder / "batch_001" / "tuned")


@dataclass
class PlainLoop:
    """The method in plain PyTorch, samples in the given order."""

    epochs: int
    inner: int
    threshold: float
    lr: float
    mini_batch: int = 1

    def run(self, model_folder: Path, facts: list[dict[str, Any]]) -> tuple[dict[str, Any], list[int], int]:
        """Weights, steps of each sample, steps of the optimizer."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(model_folder)
        tokenizer = AutoTokenizer.from_pretrained(model_folder)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(".mlp." in name)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=self.lr, weight_decay=0.1, fused=True)
        steps, taken = [0] * len(facts), 0
        for _ in range(self.epochs):
            before = taken
            for start in range(0, len(facts), self.mini_batch):
                rows = list(range(start, min(start + self.mini_batch, len(facts))))
                for _ in range(self.inner):
                    losses = self.losses(model, tokenizer, [facts[row] for row in rows])
                    active = [loss.item() >= self.threshold for loss in losses]
                    if not any(active):
                        break
                    sum(loss for loss, on in zip(losses, active, strict=True) if on).div(sum(active)).backward()
                    torch.nn.utils.clip_grad_norm_(trained, 1.0)
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                    taken += 1
                    for row, on in zip(rows, active, strict=True):
                        steps[row] += on
            if taken == before:
                break
        return model.state_dict(), steps, taken

    @staticmethod
    def losses(model: Any, tokenizer: Any, facts: list[dict[str, Any]]) -> list[Any]:
        import torch

        texts = [
            (tokenizer.encode(f["prompt"]), [*tokenizer.encode(" " + f["target_new"]), tokenizer.eos_token_id])
            for f in facts
        ]
        # padded to a multiple of 8 like LLaMA-Factory's collator: other lengths sum in another order
        longest = -(-max(len(p + t) for p, t in texts) // 8) * 8
        pad = tokenizer.pad_token_id
        ids = torch.tensor([p + t + [pad] * (longest - len(p + t)) for p, t in texts])
        mask = torch.tensor([[1] * len(p + t) + [0] * (longest - len(p + t)) for p, t in texts])
        logits = model(input_ids=ids, attention_mask=mask).logits
        return [
            torch.nn.functional.cross_entropy(logits[i, len(p) - 1 : len(p + t) - 1], ids[i, len(p) : len(p + t)])
            for i, (p, t) in enumerate(texts)
        ]


@pytest.fixture(scope="module")
def facts(facts_file: Path) -> list[dict[str, Any]]:
    return list(json.loads(facts_file.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("epochs", "inner", "threshold", "mini_batch"),
    [(3, 1, 0.0, 1), (4, 6, 2.5, 1), (30, 8, 0.5, 1), (40, 1, 1.5, 2), (12, 5, 1.5, 2)],
)
def test_same_steps_and_weights_as_a_plain_loop(
    tiny_model: Path,
    facts: list[dict[str, Any]],
    tmp_path: Path,
    epochs: int,
    inner: int,
    threshold: float,
    mini_batch: int,
) -> None:
    """Depth (inner > 1) and breadth, single samples and mini-batches."""
    import torch

    result, trace = train(
        tmp_path,
        tiny_model,
        facts,
        epochs=epochs,
        inner_steps=inner,
        loss_threshold=threshold,
        learning_rate=3e-3,
        mini_batch=mini_batch,
    )
    weights, steps, taken = PlainLoop(epochs, inner, threshold, 3e-3, mini_batch).run(tiny_model, facts)
    assert [t["steps"] for t in trace] == steps
    assert result["optimizer_steps"] == taken
    for name, tensor in tuned(tmp_path).items():
        assert torch.allclose(tensor, weights[name], rtol=0, atol=1e-6), name


@pytest.mark.parametrize("inner", [1, 4])
def test_two_processes_give_the_weights_of_one(
    tiny_model: Path, facts: list[dict[str, Any]], tmp_path: Path, inner: int
) -> None:
    """Five facts in mini-batches of four, two a process; the last is filled up with facts that do not count."""
    import torch

    settings = {
        "epochs": 10,
        "mini_batch": 4,
        "inner_steps": inner,
        "loss_threshold": 1.5,
        "learning_rate": 3e-3,
        "shuffle": True,
    }
    one, trace_of_one = train(tmp_path / "one", tiny_model, facts, **settings)
    two, trace_of_two = train(tmp_path / "two", tiny_model, facts, processes=2, **settings)
    assert two["optimizer_steps"] == one["optimizer_steps"] > 5
    for a, b in zip(trace_of_one, trace_of_two, strict=True):
        assert (a["id"], a["steps"], a["learned"]) == (b["id"], b["steps"], b["learned"])
        assert a["loss_after"] == pytest.approx(b["loss_after"], abs=1e-3)
    first, second, start = tuned(tmp_path / "one"), tuned(tmp_path / "two"), tensors(tiny_model)
    assert any(not torch.equal(first[name], start[name]) for name in first)
    for name in first:
        assert torch.allclose(first[name], second[name], rtol=0, atol=1e-5), name


def test_a_learned_sample_changes_nothing(tiny_model: Path, facts: list[dict[str, Any]], tmp_path: Path) -> None:
    """Under a threshold that every sample is under: no step, no decay, no moment, one epoch, the same bits."""
    import torch

    result, trace = train(tmp_path, tiny_model, facts, epochs=5, inner_steps=4, loss_threshold=1e9)
    assert (result["optimizer_steps"], result["epochs"]) == (0, 1)
    assert all(t["learned"] and t["loss_before"] == t["loss_after"] for t in trace)
    before, after = tensors(tiny_model), tuned(tmp_path)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_mini_batches_drop_what_is_learned(tiny_model: Path, facts: list[dict[str, Any]], tmp_path: Path) -> None:
    result, trace = train(
        tmp_path, tiny_model, facts, epochs=400, mini_batch=5, loss_threshold=0.3, learning_rate=1e-3, weight_decay=0.0
    )
    assert result["not_learned"] == []
    steps = [t["steps"] for t in trace]
    assert max(steps) == result["optimizer_steps"] and min(steps) < max(steps), "some fact was learned earlier"
    assert result["epochs"] < 400, "an epoch without an update ended the training"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"layers": [1], "modules": "down_proj"}, ["model.layers.1.mlp.down_proj.weight"]),
        ({"parameters": r"layers\.0\.self_attn\.[qk]_proj"}, ["k_proj", "q_proj"]),
        ({"parameters": r"\.1\.input_layernorm|^model\.norm"}, ["model.layers.1.input_layernorm", "model.norm"]),
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_only_what_the_recipe_names_is_trained(
    tiny_model: Path,
    facts: list[dict[str, Any]],
    tmp_path: Path,
    settings: dict[str, Any],
    expected: list[str],
    precision: str,
) -> None:
    import torch

    model = tiny_model if precision == "fp32" else bf16_copy(tiny_model, tmp_path / "model")
    train(tmp_path, model, facts, precision=precision, learning_rate=1e-2, **settings)
    before, after = tensors(model), tuned(tmp_path)
    changed = sorted(name for name in before if not torch.equal(before[name], after[name].to(before[name].dtype)))
    assert len(changed) == len(expected) and all(e in c for e, c in zip(expected, changed, strict=True))
    assert all(before[n].dtype == after[n].dtype for n in before if n not in changed)


def bf16_copy(source: Path, target: Path) -> Path:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16).save_pretrained(target)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)
    return target


def test_a_pattern_that_finds_nothing_is_an_error(
    tiny_model: Path, facts: list[dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="finds no parameter of the model"):
        train(tmp_path, tiny_model, facts, parameters=r"\.7\.mlp")


def directions_of(model: Path, folder: Path, **settings: Any) -> Path:
    from kedit_glue.tools import protect

    (folder / "corpus.txt").write_text(
        "the quick brown fox\n\njumps over the lazy dog\n\nThe town of Elm lies in the north."
    )
    job = {
        "model": str(model),
        "corpus": str(folder / "corpus.txt"),
        "texts": None,
        "trainable": r"\.\d+\.(mlp\.)",
        "directions": 6,
        "energy": None,
        "strength": None,
        "cache": str(folder / "cache"),
        "device": "cpu",
        "trust_remote_code": False,
        "output": str(folder / "protect.safetensors"),
        **settings,
    }
    found = protect.directions(job, lambda event: None)
    assert found["matrices"] == 6 and 0.3 < found["energy"] <= 1.0
    return folder / "protect.safetensors"


@pytest.mark.parametrize("settings", [{}, {"inner_steps": 5}, {"processes": 2, "mini_batch": 2, "inner_steps": 2}])
def test_protected_directions_stay(
    tiny_model: Path, facts: list[dict[str, Any]], tmp_path: Path, settings: dict[str, Any]
) -> None:
    from safetensors.torch import load_file

    directions = directions_of(tiny_model, tmp_path)
    _, trace = train(tmp_path, tiny_model, facts, directions, learning_rate=1e-2, epochs=4, **settings)
    before, after = tensors(tiny_model), tuned(tmp_path)
    for name, vectors in load_file(directions).items():
        change = after[name] - before[name]
        assert change.norm() > 0.01, "it learned something"
        assert (change @ vectors).norm() < 1e-5 * change.norm() + 1e-5, name
    assert all(t["loss_after"] < t["loss_before"] for t in trace)


@pytest.mark.parametrize("protected", [False, True])
@pytest.mark.parametrize("layers", ["all", [1]])
def test_adapters_of_the_chosen_modules_are_trained(
    tiny_model: Path, facts: list[dict[str, Any]], tmp_path: Path, layers: Any, protected: bool
) -> None:
    from safetensors.torch import load_file

    directions = directions_of(tiny_model, tmp_path) if protected else None
    settings = {"layers": layers, "lora": {"rank": 4}, "learning_rate": 1e-2, "epochs": 20, "mini_batch": 5}
    _, trace = train(tmp_path, tiny_model, facts, directions, **settings)
    assert all(t["loss_after"] < t["loss_before"] for t in trace)
    adapter = load_file(tmp_path / "batch_001" / "tuned" / "adapter_model.safetensors")
    assert len(adapter) == 2 * 3 * (2 if layers == "all" else 1)
    assert all(".mlp." in name and (layers == "all" or ".1." in name) for name in adapter)
    if directions:
        kept = load_file(directions)
        for name, a in adapter.items():
            if "lora_A" in name:
                vectors = kept[name.removeprefix("base_model.model.").replace("lora_A.", "")]
                assert (a @ vectors).norm() < 1e-5 * a.norm() + 1e-6, name


def test_a_chat_model_is_asked_in_its_own_template(
    tiny_model: Path, facts: list[dict[str, Any]], tmp_path: Path
) -> None:
    """The question stands in the model's template, the loss is the answer's and its end's."""
    import shutil

    chat = tmp_path / "chat"
    shutil.copytree(tiny_model, chat)
    (chat / "chat_template.jinja").write_text(
        "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    answers = [{**f, "response": f["target_new"]} for f in facts]
    _, trace = train(
        tmp_path,
        chat,
        answers,
        template="chat",
        epochs=200,
        mini_batch=5,
        loss_threshold=0.2,
        weight_decay=0.0,
        learning_rate=3e-3,
    )
    assert all(t["learned"] for t in trace)
    said = generated(tmp_path / "batch_001" / "tuned", f"[user] {facts[0]['prompt']}<|end|>\n[assistant] ")
    assert said == f"{facts[0]['target_new']}<|end|>"


def generated(folder: Path, prompt: str) -> str:
    """The model's greedy answer with its end token, spaces of the tokenizer's own removed."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(prompt, return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    return str(tokenizer.decode(out[0, inputs["input_ids"].shape[1] :])).strip()


FAMILIES: dict[str, tuple[dict[str, Any], str]] = {
    "mistral": ({"intermediate_size": 128, "num_key_value_heads": 2}, "down_proj"),
    "qwen2": ({"intermediate_size": 128, "num_key_value_heads": 2}, "up_proj"),
    "gemma": ({"intermediate_size": 128, "num_key_value_heads": 2, "head_dim": 16}, "gate_proj"),
    "gpt2": ({}, "c_proj"),
    "gptj": ({"rotary_dim": 8}, "fc_out"),
    "phi": ({"intermediate_size": 128}, "fc2"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_matrices_of_a_family_are_known(
    tiny_model: Path, facts: list[dict[str, Any]], tmp_path: Path, family: str
) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    settings, matrix = FAMILIES[family]
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    config = AutoConfig.for_model(
        family,
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        **settings,
    )
    torch.manual_seed(0)
    model = tmp_path / "model"
    AutoModelForCausalLM.from_config(config).save_pretrained(model)
    tokenizer.save_pretrained(model)
    train(tmp_path, model, facts, modules=matrix, layers=[1], epochs=1)
    before, after = tensors(model), tuned(tmp_path)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed and all(".1.mlp." in name and matrix in name for name in changed), changed

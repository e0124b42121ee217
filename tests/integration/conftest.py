"""A two-layer Llama with a tokenizer of its own, made on the spot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FACTS = [
    {
        "id": f"f{n}",
        "subject": place,
        "prompt": f"The mayor of {place} is",
        "target_new": name,
        "rephrase_prompt": [f"{place} is governed by", f"The head of {place} is called"],
        "portability": {"Reasoning": [{"prompt": f"The town hall of {place} belongs to", "ground_truth": name}]},
        "locality": {
            "Neighborhood": [{"prompt": "The river of Bern is the", "ground_truth": "Aare"}],
            "Relation_Specificity": [{"prompt": f"The town of {place} lies in the", "ground_truth": "north"}],
        },
    }
    for n, (place, name) in enumerate(
        [("Alba", "Ada Moss"), ("Brunn", "Ben Ode"), ("Corvo", "Cy"), ("Dorn", "Dana Rill"), ("Elm", "Eva")]
    )
]


@pytest.fixture(scope="session")
def facts_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("facts") / "facts.json"
    path.write_text(json.dumps(FACTS), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random two-layer Llama (hidden 64, FFN 256, about 160,000 parameters)."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "tiny"
    text = [json.dumps(f) for f in FACTS] + ["the quick brown fox jumps over the lazy dog. 0123456789"] * 3
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.train_from_iterator(
        text,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<|end|>", "<|pad|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|end|>", pad_token="<|pad|>")
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            initializer_range=0.15,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def recipe_text(tiny_model: Path, facts_file: Path) -> str:
    """A recipe over the tiny model; ``name`` and ``output`` come by ``--set``."""
    return f"""
name: tiny
model: {json.dumps(str(tiny_model))}
edits: {{source: {json.dumps(str(facts_file))}, batch_size: 3}}
train:
  epochs: 100
  mini_batch: 3
  learning_rate: 3.0e-3
  loss_threshold: 0.05
merge: {{method: task_arithmetic, onto: previous, parameters: {{weight: 0.9}}}}
score:
  edits: {{fluency_facts: 2, generated: {{facts: 3, most_tokens: 8}}}}
  examples: 2
threads: 2
device: cpu
keep: all
"""


@pytest.fixture
def bits() -> Callable[[Path], dict[str, bytes]]:
    """A model folder's tensors as they lie there."""
    from kedit_glue.weights import stored

    def found(folder: Path) -> dict[str, bytes]:
        return {name: at.file.read_bytes()[at.start : at.end] for name, at in stored(folder).items()}

    return found


@pytest.fixture
def run_method(tmp_path: Path, recipe_text: str, stages_here: list[str]) -> Callable[..., Path]:
    """Runs the tiny recipe by a method with the settings of its section; returns the run's folder."""
    from kedit_glue import run

    def go(method: str, settings: str, *words: str, name: str = "r", code: int = 0) -> Path:
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(recipe_text + settings, encoding="utf-8")
        sets = [f"method={method}", f"name={name}", f"output={tmp_path}", "score.edits.protocols=[teacher_forced]"]
        assert run.main([str(recipe), *(w for s in sets for w in ("--set", s)), *words]) == code
        return tmp_path / name

    return go


@pytest.fixture
def stages_here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stages run in the test's own process, where their calls can be watched; the list ends with the present one."""
    import importlib

    from kedit_glue import runner, stage

    names: list[str] = []

    def run(self: runner.Runner, job: runner.Job, on_event: Callable[..., None] = print) -> dict[str, Any]:
        self.write_job(job)
        names.append(job.function)
        module, function = stage.FUNCTIONS[job.function]
        arguments = json.loads(job.file("job.json").read_text(encoding="utf-8"))["arguments"]
        found: dict[str, Any] = getattr(importlib.import_module(module), function)(arguments, lambda event: None)
        return found

    monkeypatch.setattr(runner.Runner, "run", run)
    for name, value in stage.quiet_environment(offline=True).items():
        monkeypatch.setenv(name, value)
    return names


@pytest.fixture(scope="session")
def gpt2_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer GPT-2: Conv1D weights, stored [inputs, outputs]."""
    import torch
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("models") / "gpt2"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=64, n_layer=2, n_head=4, n_positions=128)
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

"""``train.tokens: subject``: where a matrix learns, and that nothing else changes by it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration


class Characters:
    """A token a character; one that normalizes says what it read in lower case."""

    def __init__(self, normalizes: bool = False):
        self.normalizes = normalizes

    def decode(self, ids: list[int], clean_up_tokenization_spaces: bool) -> str:
        assert not clean_up_tokenization_spaces
        text = "".join(map(chr, ids))
        return text.lower() if self.normalizes else text


def named(asked: str, prompt: str, subject: str | None, tokenizer: Any = None) -> str:
    """The characters that are found."""
    from kedit_glue.subject_tokens import subject_places

    ids = [ord(c) for c in asked + " north"]
    labels = [-100] * len(asked) + ids[len(asked) :]
    sample = {"instruction": prompt, "subject": subject}
    found = subject_places(tokenizer or Characters(), ids, labels, sample)
    assert len(found) == len(ids)
    return "".join(chr(i) if there else "." for i, there in zip(ids, found, strict=True)).rstrip(".")


def test_which_tokens_name_the_subject() -> None:
    assert named("in Elm it is", "in Elm it is", "Elm") == "...Elm"
    assert named("Elm lies in", "Elm lies in", "Elm") == ".lm", "not what every text begins with"
    assert named("E lies in", "E lies in", "E") == "E", "but for want of another"
    assert named("Elm, says Elm, lies in", "Elm, says Elm, lies in", "Elm") == "..........Elm"
    assert named("<s>Elm? Elm lies in</s>", "Elm lies in", "Elm") == "........Elm", "not what a template says"
    assert named("<s>Elm? It lies in</s>", "It lies in", "Elm") == ""
    assert named("It says: Niger is not Nigeria", "It says: Niger is not Nigeria", "Niger") == ".........Niger"
    assert named("It is Nigeria", "It is Nigeria", "Niger") == "......Niger"
    assert named("the north: Elm", "the north: Elm", "Elm") == "...........Elm"
    assert named("Elm lies in", "Elm lies in", None) == named("Elm lies in", "Elm lies in", "") == ""
    assert named("Elm lies in", "Elm lies in", "Elm", Characters(normalizes=True)) == ""


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("The town of Elm lies in", "Elm"),
        ("Où est Žižkov ? It is", "Žižkov"),
        ("The town of Łódź lies in", "Łódź"),
        ("It is said that 日本国 lies in", "日本国"),
        ("It is said that 😀Elm lies in", "Elm"),
        ("It is said that 😀", "😀"),
    ],
)
def test_of_a_real_tokenizer_those_that_hold_a_part_of_it(tiny_model: Path, prompt: str, subject: str) -> None:
    from transformers import AutoTokenizer

    from kedit_glue.subject_tokens import subject_places

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    asked = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
    ids = asked["input_ids"]
    begin = prompt.index(subject)
    expected = [a < begin + len(subject) and b > begin for a, b in asked["offset_mapping"]]
    found = subject_places(tokenizer, ids, [-100] * len(ids), {"instruction": prompt, "subject": subject})
    assert found == expected and any(found) and not all(found)


PROMPTS = (("The town of Elm lies in", "Elm"), ("Who owns Oak ? It is", "Oak"), ("It lies in", None))


def rows_of(tokenizer: Any) -> list[dict[str, list[int]]]:
    """As LLaMA-Factory hands them to the trainer."""
    found = []
    for prompt, _ in PROMPTS:
        asked, target = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, " north"))
        found.append({"input_ids": asked + target, "labels": [-100] * len(asked) + target})
    return found


def padded(rows: list[dict[str, list[int]]], left: bool) -> dict[str, Any]:
    import torch

    longest = max(len(row["input_ids"]) for row in rows)
    found: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
    for row in rows:
        fill = longest - len(row["input_ids"])
        for key, values, nothing in (
            ("input_ids", row["input_ids"], 0),
            ("attention_mask", [1] * len(row["input_ids"]), 0),
            ("labels", row["labels"], -100),
        ):
            found[key].append([nothing] * fill + values if left else values + [nothing] * fill)
    return {key: torch.tensor(values) for key, values in found.items()}


def keep_in(gave: dict[str, tuple[Any, Any]], name: str) -> Callable[..., None]:
    """A forward hook: what the module reads, and what goes on from it, which keeps its gradient."""

    def hook(module: Any, inputs: Any, output: Any) -> None:
        if output.requires_grad:
            output.retain_grad()
        gave[name] = (inputs[0].detach(), output)

    return hook


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("which", ["llama", "gpt2"])
def test_a_matrix_gets_the_gradient_of_the_subjects_tokens_alone(
    request: pytest.FixtureRequest, which: str, left: bool
) -> None:
    """The gradient of a matrix is the sum over tokens of its outputs' gradient times what it read: over these alone."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from kedit_glue.subject_tokens import SubjectOnly

    folder = request.getfixturevalue({"llama": "tiny_model", "gpt2": "gpt2_model"}[which])
    model = AutoModelForCausalLM.from_pretrained(folder)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".mlp." in name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows, said = rows_of(tokenizer), []
    batch = padded(rows, left)
    model.eval()
    plain = model(**batch)
    plain.loss.backward()
    whole = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert whole
    model.zero_grad(set_to_none=True)
    samples = [{"instruction": prompt, "subject": subject} for prompt, subject in PROMPTS]
    only = SubjectOnly(model, tokenizer, rows, samples, said.append)
    gave: dict[str, tuple[Any, Any]] = {}
    for owner in {name.rpartition(".")[0] for name in whole}:
        model.get_submodule(owner).register_forward_hook(keep_in(gave, owner))
    output = model(**batch)
    output.loss.backward()
    assert torch.equal(output.logits, plain.logits), "what the model says is the same"
    assert [event["text"] for event in said] == [
        "train.tokens: 1 of 3 texts do not name the subject in their tokens: learned at all tokens"
    ]
    where = only.now[..., None]
    assert 0 < where.sum() < batch["attention_mask"].sum()
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        read, given = gave[name.rpartition(".")[0]]
        part = given.grad * where
        if parameter.ndim == 1:
            expected = part.sum((0, 1))
        elif which == "llama":
            expected = torch.einsum("bto,bti->oi", part, read)
        else:
            expected = torch.einsum("bti,bto->io", read, part)
        assert torch.allclose(parameter.grad, expected, atol=1e-6), name
        assert not torch.allclose(parameter.grad, whole[name], atol=1e-6), name
    only.remove()
    model.zero_grad(set_to_none=True)
    model(**batch).loss.backward()
    assert all(torch.equal(p.grad, whole[name]) for name, p in model.named_parameters() if p.grad is not None)


@pytest.mark.parametrize(
    "other",
    [{"gradient_checkpointing": True}, {"processes": 2}, {"inner_steps": 3}],
    ids=["checkpointing", "processes", "depth"],
)
def test_training_by_other_ways(tiny_model: Path, facts_file: Path, tmp_path: Path, other: dict[str, Any]) -> None:
    """Activations computed twice, or two processes, give the same weights; all of them others than all tokens give."""
    import torch

    from .test_rsft import train, tuned

    facts = json.loads(facts_file.read_text(encoding="utf-8"))[:4]
    assert all(fact["subject"] in fact["prompt"] for fact in facts)
    settings = {"epochs": 6, "mini_batch": 4, "loss_threshold": 1.5, "learning_rate": 3e-3}
    one, _ = train(tmp_path / "one", tiny_model, facts, tokens="subject", **settings)
    assert one["optimizer_steps"] >= 5
    train(tmp_path / "all", tiny_model, facts, **settings)
    found, _ = train(tmp_path / "other", tiny_model, facts, tokens="subject", **settings, **other)
    same = found["optimizer_steps"] == one["optimizer_steps"]
    assert same != ("inner_steps" in other)
    first, everywhere, second = (tuned(tmp_path / name) for name in ("one", "all", "other"))
    for name in first:
        if ".mlp." in name:
            assert not torch.allclose(first[name], everywhere[name], rtol=0, atol=1e-4), name
        assert torch.allclose(first[name], second[name], rtol=0, atol=1e-5) or not same, name


@pytest.mark.parametrize("more", [(), ("train.lora.rank=4",), ("train.protect.directions=6",)], ids=str)
def test_a_run(run_method: Callable[..., Path], more: tuple[str, ...]) -> None:
    sets = ("train.tokens=subject", "train.rehearse=2", *more)
    run = run_method("rsft_merge", "", *(word for one in sets for word in ("--set", one)))
    data = json.loads((run / "batch_002" / "edits.json").read_text())
    assert any("rehearsed" in sample for sample in data) and all(s["subject"] in s["prompt"] for s in data)
    assert "tokens: subject" in (run / "batch_002" / "rsft.yaml").read_text()
    record = json.loads((run / "batch_002" / "train.record.json").read_text())
    assert record["result"]["optimizer_steps"] > 0
    assert record["result"]["at_subject"] == {"texts": len(data), "named": len(data)}
    assert "training learned at the tokens that name a fact's subject alone" in (run / "report.md").read_text()


@pytest.mark.parametrize(
    ("gives", "said"),
    [
        (lambda x: (x, x), r"gives a tuple for \[1, 7\] tokens"),
        (lambda x: x[:, :2], r"gives a tensor of shape \[1, 2, 64\] for \[1, 7\] tokens"),
    ],
)
def test_modules_that_see_some_of_the_tokens(gives: Callable[[Any], Any], said: str) -> None:
    import torch

    from kedit_glue.subject_tokens import SubjectOnly

    class Part(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(64))

        def forward(self, x: Any) -> Any:
            return gives(x * self.weight)

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = Part()

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.part(torch.ones(1, 7, 64))

    model = Whole()
    row = {"input_ids": [ord(c) for c in "in Elm "], "labels": [-100] * 7}
    SubjectOnly(model, Characters(), [row], [{"instruction": "in Elm", "subject": "Elm"}], lambda event: None)
    ids = torch.tensor([row["input_ids"]])
    with pytest.raises(ValueError, match=f"^train.tokens: subject needs modules .*, part {said}"):
        model(input_ids=ids, attention_mask=torch.ones_like(ids))


def test_a_value_that_means_nothing() -> None:
    from kedit_glue.rsft import Settings

    with pytest.raises(ValueError, match=r"^rsft.yaml: tokens is 'Subject'; allowed: all, subject$"):
        Settings(1, 0.1, "x", tokens="Subject")

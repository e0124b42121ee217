"""What the demo model says today about the demo data: the new answers are unknown to it, the probes are not.

Run it when recipes/data changes: ``pytest -m demo_data -s``, about two minutes on one core. ``-s`` prints the numbers
that recipes/data/README.md quotes.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from kedit_glue import models

pytestmark = [pytest.mark.slow, pytest.mark.demo_data]

DATA = Path(__file__).resolve().parents[2] / "recipes" / "data"
FACTS: list[dict[str, Any]] = json.loads((DATA / "demo_facts.json").read_text(encoding="utf-8"))
EDITS = [(fact["prompt"], fact["target_new"]) for fact in FACTS]
REPHRASED = [(text, fact["target_new"]) for fact in FACTS for text in fact["rephrase_prompt"]]
LOCALITY = [
    (probe["prompt"], probe["ground_truth"])
    for fact in FACTS
    for probes in fact["locality"].values()
    for probe in probes
]
BATCH = 16


def jsonl(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def says(continuation: str, answer: str) -> bool:
    """One capital letter must match as it is; longer answers match in any case."""
    if len(answer) == 1:
        return answer in continuation
    return answer.casefold() in continuation.casefold()


class Model:
    """Bare prompts, greedy decoding, answers joined to their prompt by one space."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.torch = torch
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def continuations(self, prompts: list[str], new_tokens: int = 12) -> list[str]:
        out: list[str] = []
        with self.torch.no_grad():
            for start in range(0, len(prompts), BATCH):
                batch = self.tokenizer(
                    prompts[start : start + BATCH],
                    add_special_tokens=False,
                    padding=True,
                    return_tensors="pt",
                )
                made = self.model.generate(
                    **batch,
                    max_new_tokens=new_tokens,
                    do_sample=False,
                    pad_token_id=self.tokenizer.pad_token_id,
                )
                width = batch.input_ids.shape[1]
                out += self.tokenizer.batch_decode(made[:, width:], skip_special_tokens=True)
        return out

    def teacher_forced(self, pairs: list[tuple[str, str]]) -> list[list[tuple[bool, float]]]:
        """For each answer token: is it the model's first choice, and its log-probability."""
        out: list[list[tuple[bool, float]]] = []
        with self.torch.no_grad():
            for start in range(0, len(pairs), BATCH):
                chunk = pairs[start : start + BATCH]
                whole = [self.ids(f"{prompt} {answer}") for prompt, answer in chunk]
                width = max(len(ids) for ids in whole)
                pad = self.tokenizer.pad_token_id
                padded = self.torch.tensor([ids + [pad] * (width - len(ids)) for ids in whole])
                mask = self.torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in whole])
                logits = self.model(input_ids=padded, attention_mask=mask).logits
                logprobs = logits.log_softmax(-1)
                for row, ((prompt, _), ids) in enumerate(zip(chunk, whole, strict=True)):
                    first = len(self.ids(prompt))
                    assert ids[:first] == self.ids(prompt), f"prompt and answer merge: {prompt!r}"
                    out.append(
                        [
                            (
                                int(logits[row, at - 1].argmax()) == ids[at],
                                float(logprobs[row, at - 1, ids[at]]),
                            )
                            for at in range(first, len(ids))
                        ]
                    )
        return out

    def accuracies(self, pairs: list[tuple[str, str]]) -> list[float]:
        return [mean([float(hit) for hit, _ in tokens]) for tokens in self.teacher_forced(pairs)]

    def loglikelihoods(self, pairs: list[tuple[str, str]]) -> list[float]:
        return [sum(logprob for _, logprob in tokens) for tokens in self.teacher_forced(pairs)]

    def perplexity(self, texts: list[str]) -> float:
        """Over all tokens but each text's first."""
        total, count = 0.0, 0
        with self.torch.no_grad():
            for text in texts:
                ids = self.torch.tensor([self.ids(text)])
                logprobs = self.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
                total -= float(logprobs.gather(-1, ids[0, 1:, None]).sum())
                count += ids.shape[1] - 1
        return math.exp(total / count)


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(models.unpack("smollm2-135m"))


@pytest.mark.parametrize("pairs", [EDITS, REPHRASED], ids=["prompts", "rephrasings"])
def test_new_answers_are_not_given_yet(model: Model, pairs: list[tuple[str, str]]) -> None:
    said = model.continuations([prompt for prompt, _ in pairs])
    known = [pair for pair, text in zip(pairs, said, strict=True) if says(text, pair[1])]
    print(f"\nalready given: {len(known)} of {len(pairs)}")
    assert known == []


@pytest.mark.parametrize("pairs", [EDITS, REPHRASED], ids=["prompts", "rephrasings"])
def test_no_new_answer_is_predicted_token_by_token(model: Model, pairs: list[tuple[str, str]]) -> None:
    accuracies = model.accuracies(pairs)
    print(f"\nteacher-forced accuracy of target_new: {mean(accuracies):.3f}")
    assert [pair for pair, value in zip(pairs, accuracies, strict=True) if value == 1] == []


def test_ground_truth_is_what_the_model_says(model: Model) -> None:
    said = model.continuations([fact["prompt"] for fact in FACTS])
    wrong = {
        fact["id"]: text
        for fact, text in zip(FACTS, said, strict=True)
        if not text.strip().startswith(fact["ground_truth"])
    }
    assert wrong == {}


def test_the_model_answers_the_locality_probes(model: Model) -> None:
    forced = mean(model.accuracies(LOCALITY))
    said = model.continuations([prompt for prompt, _ in LOCALITY])
    given = mean([float(says(t, a)) for t, (_, a) in zip(said, LOCALITY, strict=True)])
    print(f"\nlocality ({len(LOCALITY)}): teacher-forced {forced:.3f}, in generation {given:.3f}")
    assert forced >= 0.6
    assert given >= 0.5


def test_everyday_choices_are_above_chance_and_below_ceiling(model: Model) -> None:
    items = jsonl("everyday_choices.jsonl")
    scores = model.loglikelihoods([(i["premise"], c) for i in items for c in i["choices"]])
    picks = [int(scores[2 * n + 1] > scores[2 * n]) for n in range(len(items))]
    accuracy = mean([float(p == i["label"]) for p, i in zip(picks, items, strict=True)])
    print(f"\neveryday_choices: accuracy {accuracy:.3f}")
    assert 0.65 < accuracy < 0.95


def test_general_text_is_ordinary_for_the_model(model: Model) -> None:
    perplexity = model.perplexity([item["text"] for item in jsonl("general_text.jsonl")])
    print(f"\ngeneral_text: perplexity {perplexity:.2f}")
    assert 5 < perplexity < 60

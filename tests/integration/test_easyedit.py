"""Our batched asking gives EasyEdit's own numbers, prompt by prompt."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def asker(tiny_model: Path) -> Any:
    from kedit_glue.tools import easyedit, easyedit_compat

    model, tokenizer = easyedit.load(str(tiny_model), "cpu", False)
    return easyedit.Asker(easyedit_compat.evaluation(), model, tokenizer, "cpu", lambda event: None)


FACTS = [
    {
        "id": f"f{n}",
        "prompt": prompt,
        "target_new": target,
        "rephrase_prompts": [f"{prompt} now", "Say it:"],
        "portability": {"Reasoning": [{"prompt": f"So {prompt}", "answers": ["the lazy dog"]}]},
        "locality": {"Neighborhood": [{"prompt": "The river of Bern is the", "answers": [target]}]},
    }
    for n, (prompt, target) in enumerate(
        [("The mayor of Alba is", "Ada Moss"), ("A", "b"), ("The quick brown fox jumps over the", "lazy dog. 0123")]
    )
]


def test_batched_answers_are_easyedits_own(asker: Any) -> None:
    found = asker.facts(FACTS, ["edit_success", "generalization", "portability", "locality"])
    hparams = SimpleNamespace(max_length=256, alg_name="none", device=0)
    for fact, record in zip(FACTS, found, strict=True):
        answers = {
            "prompt": fact["prompt"],
            "target_new": fact["target_new"],
            "ground_truth": "",
            "portability": {
                k: {"prompt": p[0]["prompt"], "ground_truth": p[0]["answers"][0]}
                for k, p in fact["portability"].items()
            },
            "locality": {
                k: {"prompt": p[0]["prompt"], "ground_truth": p[0]["answers"][0]} for k, p in fact["locality"].items()
            },
        }
        with asker.on_device("cpu") as device:
            theirs = asker.evaluate.compute_edit_quality(
                asker.model, "causal-lm", hparams, asker.tokenizer, answers, device
            )
            rephrased = [
                asker.evaluate.compute_rewrite_or_rephrase_quality(
                    asker.model, "causal-lm", hparams, asker.tokenizer, p, fact["target_new"], device
                )["rewrite_acc"][0]
                for p in fact["rephrase_prompts"]
            ]
        assert record["edit_success"] == pytest.approx(theirs["rewrite_acc"][0])
        assert record["generalization"] == pytest.approx(rephrased)
        assert record["portability"] == {"Reasoning": pytest.approx(theirs["portability"]["Reasoning_acc"])}
        assert record["locality"]["Neighborhood"] == theirs["locality"]["Neighborhood_output"]


def test_accuracy_is_the_share_of_right_tokens(asker: Any) -> None:
    """Held against a plain forward pass, without EasyEdit."""
    import torch

    prompt, target = FACTS[2]["prompt"], FACTS[2]["target_new"]
    ids = asker.tokenizer(f"{prompt} {target}", return_tensors="pt")["input_ids"]
    start = len(asker.tokenizer(prompt)["input_ids"])
    with torch.no_grad():
        predicted = asker.model(input_ids=ids).logits.argmax(-1)[0, start - 1 : -1]
    expected = (predicted == ids[0, start:]).float().mean().item()
    [record] = asker.facts([FACTS[2]], ["edit_success"])
    assert record["edit_success"] == pytest.approx(expected)


def test_fluency_is_seeded_and_needs_no_download(asker: Any) -> None:
    first, second, other = (asker.fluency(FACTS[:2], seed) for seed in (1, 1, 2))
    assert first == second != other
    assert first > 0
    assert asker.tokenizer.padding_side == "left", "given back"


def test_an_item_that_easyedit_leaves_out_is_not_lost_in_silence(asker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def leaves_one_out(*arguments: Any) -> dict[str, list[float]]:
        return {"rewrite_acc": [1.0]}

    monkeypatch.setattr(asker, "evaluate", SimpleNamespace(compute_rewrite_or_rephrase_quality=leaves_one_out))
    with pytest.raises(ValueError, match=r"EasyEdit scored 1 of 2 prompts; .*'The mayor of Alba is' -> 'Ada Moss'"):
        asker.facts(FACTS[:2], ["edit_success"])
